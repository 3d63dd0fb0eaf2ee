"""Three instances of a stream application, one killed every 20 s and started again 5 s later; asked for state all the while.

    python -m tests.campaigns.streams_instances --protocol streams --minutes 10 --questions 10000 --results FILE

12 partitions, exactly once, sessions and transactions of 6 s (for the broker's groups, KIP-1071, the group's
streams.session.timeout.ms). At the end all counts are those of the batch computation, and each answer is compared with it: a
count over HTTP, from any instance, has at least what lies below the position that it names and at most what was written by
then, or there was none ("moving", 503; or the instance asked was dead). No answer is further behind than it says: position
and lag together reach what readers of committed records could see commit.interval.ms before the time that it names. How old
that time was is among the figures. The lag of the group is looked at every second. The figures are printed, and added to
FILE; a difference is an error.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.client.conftest import make_broker
from tests.streams.runtime.killing import Campaign
from tests.support.ports import free_port

import ottla
from ottla.errors import KafkaError
from ottla.types import TopicPartition

INSTANCES = 3
PARTITIONS = 12
KILL_EVERY_S = 20.0
AWAY_S = 5.0
WORDS = 2000
SETTLE_S = 600.0
#: Of the application (counting_app).
COMMIT_MS = 100
#: How often the ends of the partitions are looked at, in seconds.
ENDS_EVERY_S = 0.05
#: So that sessions of 6 s are allowed.
BROKER = {
    "group.min.session.timeout.ms": "6000",
    "group.streams.min.session.timeout.ms": "1000",
    "group.streams.min.heartbeat.interval.ms": "100",
}
GROUP = {"streams.session.timeout.ms": "6000", "streams.heartbeat.interval.ms": "500"}


@dataclass(frozen=True)
class Answer:
    """What an instance has said of a word."""

    word: str
    count: int
    partition: int
    position: int
    lag: int | None
    told_ms: float
    received_ms: float
    age_ms: float
    took_ms: float


class Asker:
    """Asks random instances for random words, until it has asked so often or is stopped."""

    def __init__(self, ports: Sequence[int], count: int, pause_s: float, seed: int) -> None:
        self.answers: list[Answer] = []
        self.others: Counter[str] = Counter()
        self.errors: list[str] = []
        self._ports = list(ports)
        self._count = count
        self._pause_s = pause_s
        self._dice = random.Random(seed)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for _ in range(self._count):
            if self.stop.wait(self._pause_s):
                return
            self._ask(self._dice.choice(self._ports), f"word{self._dice.randrange(WORDS)}")

    def _ask(self, port: int, word: str) -> None:
        begun = time.time()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stores/counts/{word}", timeout=30) as response:
                found: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            body = error.read().decode(errors="replace")
            if error.code == 404 and "positions" in body:
                found = json.loads(body)
            elif error.code in (404, 503):
                self.others["moving" if error.code == 503 else "not there"] += 1
                return
            else:
                self.errors.append(f"{word}: {error.code} {body}")
                return
        except (OSError, ValueError, http.client.HTTPException):
            self.others["instance away"] += 1
            return
        ((where, position),) = found["positions"].items()
        told_ms = datetime.fromisoformat(found["time"]).timestamp() * 1000
        now_ms = time.time() * 1000
        self.answers.append(
            Answer(
                word=word,
                count=int(found.get("value") or 0),
                partition=int(where.rpartition("-")[2]),
                position=position,
                lag=found["lag"][where],
                told_ms=told_ms,
                received_ms=now_ms,
                age_ms=now_ms - told_ms,
                took_ms=now_ms - begun * 1000,
            )
        )


class EndsWatch:
    """Looks again and again at how far readers of committed records could come in each partition of a topic.

    Attributes:
        seen: by partition, (when the end was known, in ms; the end), in order.
    """

    def __init__(self, address: str, topic: str, partitions: int) -> None:
        self.seen: dict[int, list[tuple[float, int]]] = {number: [] for number in range(partitions)}
        self.stop = threading.Event()
        self._address, self._topic = address, topic
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asked = [TopicPartition(self._topic, number) for number in self.seen]
        # The application makes the topic, with its number of partitions.
        with ottla.Consumer(
            self._address, isolation_level="read_committed", config={"allow.auto.create.topics": False}
        ) as reader:
            while not self.stop.wait(ENDS_EVERY_S):
                with suppress(KafkaError, TimeoutError):
                    ends = reader.end_offsets(asked)
                    now_ms = time.time() * 1000
                    for where, end in ends.items():
                        self.seen[where.partition].append((now_ms, end))

    def by(self, partition: int, when_ms: float) -> int:
        """Return an end that the partition had reached by a time; 0 if none was seen before it."""
        seen = self.seen[partition]
        place = bisect_right(seen, (when_ms, 1 << 62))
        return seen[place - 1][1] if place else 0


class LagWatch:
    """Looks at the group's lag every second."""

    def __init__(self, address: str, group: str) -> None:
        self.samples: list[int] = []
        self.stop = threading.Event()
        self._address, self._group = address, group
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with ottla.Admin(self._address) as admin:
            while not self.stop.wait(1.0):
                with suppress(KafkaError, TimeoutError):
                    self.samples.append(sum(each.lag or 0 for each in admin.consumer_lag(self._group).values()))


def check_answers(campaign: Campaign, answers: Sequence[Answer], ends: EndsWatch) -> list[str]:
    """Compare each answer with the words below its position, which it must count, and those written by then, which it may;
    and what it says of its lag with the ends that were seen.

    Returns:
        A sentence for each that is further behind than it says.

    Raises:
        AssertionError: one is wrong.
    """
    words: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for (partition, offset), word, _, when in campaign.read(f"{campaign.name}-words-repartition"):
        words.setdefault((word, partition), []).append((offset, when))
    behind: list[str] = []
    for answer in answers:
        its = words.get((answer.word, answer.partition), [])
        least = sum(offset < answer.position for offset, _ in its)
        most = sum(when <= answer.received_ms for _, when in its)
        assert least <= answer.count <= most, f"{answer}: not from {least} to {most}"
        if answer.lag is not None:
            end = ends.by(answer.partition, answer.told_ms - COMMIT_MS)
            reached = answer.position + answer.lag
            if end > reached:
                behind.append(f"{answer}: {end} was there {COMMIT_MS} ms before, and it says {reached}")
    return behind


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        "median": round(statistics.median(ordered), 1),
        "p99": round(ordered[int(len(ordered) * 0.99)], 1),
        "max": round(ordered[-1], 1),
    }


def run(protocol: str, kind: str, minutes: float, questions: int, pause_s: float) -> dict[str, Any]:
    """Run once; return the figures."""
    ports = [free_port() for _ in range(INSTANCES)]
    with tempfile.TemporaryDirectory(prefix="streams-instances-") as folder:
        campaign = Campaign(
            make_broker(kind, BROKER),
            Path(folder),
            seed=1,
            instances=INSTANCES,
            pause_s=pause_s,
            partitions=PARTITIONS,
            words=WORDS,
            environment={"COUNTING_PROTOCOL": protocol},
            servers=ports if questions else None,
            group_configs=GROUP if protocol == "streams" else None,
        )
        asker = Asker(ports, questions, minutes * 60 / max(questions, 1) * 0.9, seed=2)
        try:
            campaign.start()
            lag = LagWatch(campaign.broker.address, campaign.name)
            lag.thread.start()
            ends = EndsWatch(campaign.broker.address, f"{campaign.name}-words-repartition", PARTITIONS)
            ends.thread.start()
            if questions:
                asker.thread.start()
            end = time.monotonic() + minutes * 60
            while time.monotonic() + KILL_EVERY_S < end:
                time.sleep(KILL_EVERY_S - AWAY_S)
                index = campaign.dice.randrange(INSTANCES)
                campaign.kill(index)
                time.sleep(AWAY_S)
                campaign.spawn(index)
            asker.stop.set()
            lag.stop.set()
            ends.stop.set()
            if questions:
                asker.thread.join(60)
            lag.thread.join(60)
            ends.thread.join(60)
            records = campaign.settle(SETTLE_S)
            behind = check_answers(campaign, asker.answers, ends)
            assert not asker.errors, asker.errors[:5]
        finally:
            campaign.close()
    return {
        "protocol": protocol,
        "broker": kind,
        "minutes": minutes,
        "killed": campaign.kills["instance"],
        "records": records,
        "lag in records": spread(lag.samples),
        "answers": len(asker.answers),
        "answers without a lag": sum(answer.lag is None for answer in asker.answers),
        "answers further behind than they say": behind,
        "looks at the ends": min(map(len, ends.seen.values())),
        "lag in answers": spread([answer.lag for answer in asker.answers if answer.lag is not None]),
        "no answer": dict(asker.others),
        "ms that answers were old": spread([answer.age_ms for answer in asker.answers]),
        "ms that answers took": spread([answer.took_ms for answer in asker.answers]),
    }


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("classic", "streams"), default="classic")
    parser.add_argument("--kafka", action="store_true", help="against Apache Kafka")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two writes")
    parser.add_argument("--results", type=Path, help="file that the figures are added to")
    asked = parser.parse_args()
    found = run(asked.protocol, "kafka" if asked.kafka else "ottla", asked.minutes, asked.questions, asked.pause)
    print(json.dumps(found, indent=1))
    if asked.results is not None:
        before = json.loads(asked.results.read_text()) if asked.results.exists() else []
        asked.results.parent.mkdir(parents=True, exist_ok=True)
        asked.results.write_text(json.dumps([*before, found], indent=1) + "\n")
    return int(bool(found["answers further behind than they say"]))


if __name__ == "__main__":
    raise SystemExit(main())
