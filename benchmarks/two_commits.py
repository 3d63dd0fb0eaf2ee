"""Whether a single broker became slower: this commit's and another one's, on the same machine, in turns.

    git worktree add ../before COMMIT && make -C ../before .venv/.built
    python -m benchmarks.two_commits --before ../before --pairs 10

Both brokers stand side by side with default settings. In each pair both get the same work from the same client, which costs
next to nothing; which of them is first alternates:

* `one`: one record of 100 bytes in flight, acks=all: CPU time of the broker a request, median and 99th percentile of trips;
* `default`, `tuned`: batches of 16 records and of 250 records of 1 KB, five in flight: CPU seconds of the broker per GB;
* `fetch`: what `tuned` wrote is read in pieces of 1 MB: the same.

A ratio is this commit's figure divided by the other one's; the median of the pairs counts. `benchmarks.request_path
--instructions`, run in each of the two, says the same without the machine's noise.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.compare import raw
from benchmarks.compare.arena import create, delete, metered
from benchmarks.support.brokers import Ottla
from benchmarks.support.report import figures, median, percentile, table
from benchmarks.support.wire import first_ack

GB = 1_000_000_000
SETTINGS = {"log.segment.delete.delay.ms": "100"}
PARTITIONS = 4
#: Records of 1 KB in a batch, by case.
BATCHES = {"default": 16, "tuned": 250}
FETCH_BYTES = 1_000_000

_numbers = itertools.count()


@contextmanager
def a_topic(broker: Ottla, partitions: int) -> Iterator[str]:
    name = f"two-commits-{next(_numbers)}"
    create(broker, name, partitions)
    yield name
    delete(broker, [name])


def one(broker: Ottla, requests: int) -> dict[str, float]:
    with a_topic(broker, 1) as topic:
        raw.one_by_one(broker.port, topic, 500, 100)
        with metered(broker.pid) as meter:
            took = raw.one_by_one(broker.port, topic, requests, 100)
    cpu_us = meter.cpu_s / (requests + 1) * 1e6
    return {"one: CPU us": cpu_us, "one: p50 ms": percentile(took, 0.5), "one: p99 ms": percentile(took, 0.99)}


def batches(broker: Ottla, volume: int) -> dict[str, float]:
    found = {}
    for case, records in BATCHES.items():
        batch = raw.make_batch(records, 1000)
        with a_topic(broker, PARTITIONS) as topic:
            frames = [raw.produce_frame(topic, index, batch) for index in range(PARTITIONS)]
            raw.replay_produce(broker.port, frames, volume // 10)
            with metered(broker.pid) as meter:
                done = raw.replay_produce(broker.port, frames, volume)
            found[f"{case}: CPU s/GB"] = meter.cpu_s / done.bytes * GB
            if case == "tuned":
                size = FETCH_BYTES // len(batch) * len(batch)
                with metered(broker.pid) as meter:
                    done = raw.replay_fetch(broker.port, topic, PARTITIONS, len(batch), records, size, volume)
                found["fetch: CPU s/GB"] = meter.cpu_s / done.bytes * GB
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the other commit, with its .venv")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=10_000, help="of one record, in each half of a pair")
    parser.add_argument("--megabytes", type=int, default=500, help="of batches, in each half of a pair")
    asked = parser.parse_args()
    interpreter = asked.before.absolute() / ".venv/bin/python"
    if not interpreter.exists():
        parser.error(f"{interpreter} does not exist: run `make -C {asked.before} .venv/.built`")
    measured: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        brokers = [Ottla(SETTINGS), Ottla(SETTINGS, python=str(interpreter))]
        for broker in brokers:
            stack.callback(broker.close)
            broker.spawn()
            first_ack(broker.port, "hello", create=True)
        for pair in range(asked.pairs):
            halves: dict[int, dict[str, float]] = {}
            for which in (0, 1) if pair % 2 else (1, 0):
                halves[which] = {
                    **one(brokers[which], asked.requests),
                    **batches(brokers[which], asked.megabytes * 1_000_000),
                }
            for name, value in halves[0].items():
                measured.setdefault(name, []).append((value, halves[1][name]))
    rows = []
    for name, values in measured.items():
        ratios = [now / before for now, before in values]
        now, before = (median([pair[half] for pair in values]) for half in (0, 1))
        rows.append((name, now, before, f"{median(ratios):.2f}x", f"{min(ratios):.2f}-{max(ratios):.2f}"))
    table(f"{asked.pairs} pairs", ("figure", "this commit", "before", "ratio", "range"), rows)
    figures("two_commits", {"before": str(asked.before.name), "pairs": measured})


if __name__ == "__main__":
    main()
