"""What the client promises, for an hour: the broker killed under it, and groups whose members are of three clients.

    python -m tests.campaigns.client --state FILE --kills 200 --kafka-kills 20 --rebalances 100

Rounds of three kinds, each of which is also a test of tests/client. "produce": an idempotent producer, and `kill -9` of the
broker again and again; no record may be lost, there twice or out of order. "copy": three programs copy from topic to topic
in transactions, some of which they abort, some of which a rebalance meets; each input must be there once. "mixed": members
of ottla's client, Java's and librdkafka's come and go; no partition may have two owners or none. The first two run against
ottla and Apache Kafka, the third against ottla. Goes on where its state file ends. A round that came to no end, or
whose group failed, is noted with its reason, and none of its kills are counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.client.conftest import make_broker, start_patiently
from tests.client.test_group_processes import copy_through_kills
from tests.client.test_mixed_groups import JAVA_NAMES, mix_with_java
from tests.client.test_producer_processes import produce_through_kills
from tests.soak.seeds import commit

STATE = Path("build/campaigns/client.json")
KILLS_PER_ROUND = {"ottla": 10, "kafka": 5}
REBALANCES_PER_ROUND = 10
KILLING = [("produce", "-"), ("copy", "classic"), ("copy", "consumer")]
MIXING = [*(("classic", strategy) for strategy in JAVA_NAMES), ("consumer", "range")]
#: Rounds in a row that failed after which the campaign ends.
UNKNOWN_MAX = 3
WRONG = ("lost", "twice", "keys out of order", "complaints")


def kill_round(number: int, kind: str) -> dict[str, Any]:
    what, protocol = KILLING[number % len(KILLING)]
    kills, seed = KILLS_PER_ROUND[kind], 100 + number
    told: dict[str, Any] = {"what": what, "broker": kind, "protocol": protocol, "seed": seed, "kills": kills}
    if what == "produce":
        return told | produce_through_kills(kind, kills, seed)
    return told | copy_through_kills(kind, kills, seed, protocol)


def mixed_round(number: int) -> dict[str, Any]:
    protocol, strategy = MIXING[number % len(MIXING)]
    told: dict[str, Any] = {"what": "mixed", "broker": "ottla", "protocol": protocol, "strategy": strategy}
    broker = make_broker("ottla")
    try:
        start_patiently(broker)
        with tempfile.TemporaryDirectory() as folder:
            taken = mix_with_java(
                broker.address, protocol, strategy, Path(folder), REBALANCES_PER_ROUND, seed=100 + number
            )
    finally:
        broker.close()
    return told | {"rebalances": REBALANCES_PER_ROUND, "partitions taken": taken, "complaints": 0}


def left(rounds: list[dict[str, Any]], asked: argparse.Namespace) -> Iterator[str]:
    """Yield what is still to be done, one word for each kind of round."""
    done = totals(rounds)
    if done["ottla"]["kills"] < asked.kills:
        yield "ottla"
    if done["ottla"]["rebalances"] < asked.rebalances:
        yield "mixed"
    if done["kafka"]["kills"] < asked.kafka_kills:
        yield "kafka"


def totals(rounds: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return for each kind of broker what the rounds that came to an end counted."""
    sums: dict[str, Counter[str]] = {"ottla": Counter(), "kafka": Counter()}
    for one in rounds:
        if "failed" not in one:
            sums[one["broker"]].update({name: count for name, count in one.items() if isinstance(count, int)})
    for counts in sums.values():
        del counts["seed"]
    return sums


def run(what: str, number: int) -> dict[str, Any]:
    try:
        return (mixed_round(number) if what == "mixed" else kill_round(number, what)) | {"commit": commit()}
    except Exception as error:
        kind = "ottla" if what == "mixed" else what
        told = {
            "what": what,
            "broker": kind,
            "number": number,
            "failed": f"{type(error).__name__}: {error}"[:2_000],
        }
        return told | {"commit": commit()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.client", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=200, help="of ottla, those of the state file included")
    parser.add_argument("--kafka-kills", type=int, default=20, help="of Apache Kafka")
    parser.add_argument("--rebalances", type=int, default=100, help="of mixed groups; needs Apache Kafka's Java client")
    parser.add_argument("--state", type=Path, default=STATE)
    asked = parser.parse_args(arguments)
    logging.getLogger("ottla").setLevel(logging.CRITICAL)  # what is killed all the time is complained of all the time
    rounds = json.loads(asked.state.read_text()) if asked.state.exists() else []
    unknown = 0
    while unknown < UNKNOWN_MAX and (what := next(left(rounds, asked), None)) is not None:
        kinds = ("mixed",) if what == "mixed" else ("produce", "copy", what)
        number = sum(one["what"] in kinds and (what == "mixed" or one["broker"] == what) for one in rounds)
        rounds.append(run(what, number))
        unknown = unknown + 1 if "failed" in rounds[-1] else 0
        asked.state.parent.mkdir(parents=True, exist_ok=True)
        asked.state.write_text(json.dumps(rounds, indent=1) + "\n")
        print(rounds[-1], flush=True)
    sums = totals(rounds)
    for kind, counts in sums.items():
        print(f"{kind}: {dict(counts)}")
    wrong = sum(counts[name] for counts in sums.values() for name in WRONG)
    return 1 if wrong or any("failed" in one for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
