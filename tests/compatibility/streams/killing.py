"""A Kafka Streams application with exactly_once_v2 whose instances and broker are killed; its output must be exact.

One round, decided by its seed: two instances share the work; input is sent in portions, and between portions an
instance or the broker gets `kill -9` and is started again. In the end the committed output is compared with what one
computes from the input in a few lines of Python: every word's counts are 1, 2, 3 ... n in this order (each update
exactly once), and the pairs of the join are the multiset of the batch join.

By itself, for long runs; rounds that the journal has are not repeated:

    python -m tests.compatibility.streams.killing --rounds 20 --kills 15 --protocol classic --journal rounds.txt
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from tests.compatibility.streams.application import Application, compile_application
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker

APPLICATION = "killable"
PARTITIONS = 2
WORDS = [f"w{number}" for number in range(23)]
KEYS = 7
WINDOW_MS = 1_000
#: Between two records of the same side of the join, on average.
STEP_MS = 90
#: Without an output record for so long, a round has failed: a JVM starts in 2 s, a session ends in 6 s.
PATIENCE_S = 90.0

BROKER_SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.streams.min.session.timeout.ms": "1000",
    "group.streams.session.timeout.ms": "4000",
    "group.streams.min.heartbeat.interval.ms": "200",
    "group.streams.heartbeat.interval.ms": "500",
    "group.streams.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
}


@dataclass(slots=True, kw_only=True)
class Figures:
    """What happened in one round, and what was wrong with its output (nothing, if all is well)."""

    seed: int
    protocol: str
    kills: Counter[str]
    lines: int
    counts: int
    pairs: int
    gave_up: int
    seconds: float
    complaints: list[str]

    def __str__(self) -> str:
        verdict = "exact" if not self.complaints else "WRONG: " + "; ".join(self.complaints)
        kills = ", ".join(f"{who} {number}" for who, number in sorted(self.kills.items()))
        return (
            f"seed {self.seed} {self.protocol}: {self.kills.total()} kills ({kills}), {self.lines} lines, "
            f"{self.counts} counts, {self.pairs} pairs, {self.gave_up} ended by themselves, {self.seconds:.0f} s: {verdict}"
        )


class Input:
    """What is sent, and what the application must make of it."""

    def __init__(self, dice: random.Random, broker: RunningBroker, start_ms: int) -> None:
        self.lines = 0
        self.words: Counter[str] = Counter()
        self.sides: dict[str, list[tuple[str, int, str]]] = {"left": [], "right": []}
        self._dice = dice
        self._now_ms = start_ms
        self._failed: list[str] = []
        self._producer = Producer(
            {"bootstrap.servers": broker.address, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )

    def send(self, lines: int) -> None:
        """Hand over a portion; the client's own thread sends it, and repeats what a killed broker did not answer."""
        for _ in range(lines):
            words = self._dice.choices(WORDS, k=self._dice.randint(1, 5))
            self.words.update(words)
            partition = self._dice.randrange(PARTITIONS)
            self._produce("lines", None, " ".join(words), partition, self._now_ms)
            self.lines += 1
            for side, values in self.sides.items():
                key = self._dice.randrange(KEYS)
                value = f"{side}{len(values)}"
                self._now_ms += self._dice.randint(0, STEP_MS)
                values.append((f"k{key}", self._now_ms, value))
                self._produce(side, f"k{key}", value, key % PARTITIONS, self._now_ms)

    def flush(self) -> None:
        assert self._producer.flush(PATIENCE_S) == 0
        assert not self._failed, self._failed[:3]

    def pairs(self) -> Counter[tuple[str, str]]:
        """The batch join: all pairs of one key at most a window apart."""
        found: Counter[tuple[str, str]] = Counter()
        for key, left_ms, left in self.sides["left"]:
            for other, right_ms, right in self.sides["right"]:
                if key == other and abs(left_ms - right_ms) <= WINDOW_MS:
                    found[key, f"{left}/{right}"] += 1
        return found

    def _produce(self, topic: str, key: str | None, value: str, partition: int, timestamp: int) -> None:
        self._producer.produce(
            topic, value, key, partition=partition, timestamp=timestamp, on_delivery=self._on_delivery
        )
        self._producer.poll(0)

    def _on_delivery(self, error: object, message: Message) -> None:
        if error is not None:
            self._failed.append(f"{message.topic()}: {error}")


class CommittedOutput:
    """The committed records of the output topics so far, in order per partition."""

    def __init__(self, broker: RunningBroker) -> None:
        self.counts: dict[str, list[int]] = defaultdict(list)
        self.pairs: Counter[tuple[str, str]] = Counter()
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker.address,
                "group.id": "verdict",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        places = [TopicPartition(topic, index, 0) for topic in ("counts", "pairs") for index in range(PARTITIONS)]
        self._consumer.assign(places)

    @property
    def size(self) -> int:
        return sum(map(len, self.counts.values())) + self.pairs.total()

    def read_on(self, wait_s: float) -> int:
        """Take what has come; how many records."""
        taken = 0
        for message in self._consumer.consume(500, wait_s):
            if message.error() is not None:  # a broker that is being restarted
                continue
            key, value = (message.key() or b"").decode(), (message.value() or b"").decode()
            if message.topic() == "counts":
                self.counts[key].append(int(value))
            else:
                self.pairs[key, value] += 1
            taken += 1
        return taken

    def close(self) -> None:
        self._consumer.close()

    def complaints(self, sent: Input) -> Iterator[str]:
        for word in sorted(sent.words.keys() | self.counts.keys()):
            expected = list(range(1, sent.words[word] + 1))
            if self.counts[word] != expected:
                at = next(
                    (i for i, pair in enumerate(zip(self.counts[word], expected, strict=False)) if pair[0] != pair[1]),
                    -1,
                )
                yield f"{word}: {len(self.counts[word])} counts instead of {len(expected)}, first difference at {at}"
        pairs = sent.pairs()
        if self.pairs != pairs:
            missing, surplus = pairs - self.pairs, self.pairs - pairs
            yield f"{missing.total()} pairs missing, {surplus.total()} surplus: {[*missing][:3]} {[*surplus][:3]}"


@contextmanager
def running(applications: list[Application]) -> Iterator[None]:
    try:
        for application in applications:
            application.start()
        yield
    finally:
        for application in applications:
            application.kill()


def run_round(
    *,
    seed: int,
    kills: int,
    protocol: str,
    classes: Path,
    directory: Path,
    make_broker: Callable[[dict[str, str]], RunningBroker] = BrokerProcess,
    lines_per_kill: int = 60,
    broker_share: float = 0.35,
) -> Figures:
    """Run one round to its end; `directory` gets the logs and state of the instances."""
    dice = random.Random(seed)
    began = time.monotonic()
    killed: Counter[str] = Counter()
    broker = make_broker(dict(BROKER_SETTINGS))
    broker.start()
    try:
        admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        topics = [NewTopic(name, PARTITIONS, 1) for name in ("lines", "left", "right", "counts", "pairs")]
        for created in admin.create_topics(topics).values():
            created.result(30)
        config = application_config(broker, protocol)
        if protocol == "classic":
            config["num.standby.replicas"] = str(seed % 2)
        else:
            set_standbys(broker, seed % 2)
        instances = [Application(classes, directory, f"instance-{number}", config) for number in range(2)]
        sent = Input(dice, broker, int(time.time() * 1000) - 60_000)
        output = CommittedOutput(broker)
        with running(instances):
            for _ in range(kills):
                sent.send(lines_per_kill)
                pause_until = time.monotonic() + dice.choice((0.3, 1.5, 4.0, 8.0)) * dice.random()
                while time.monotonic() < pause_until:
                    output.read_on(0.1)
                for instance in instances:
                    instance.restart_if_it_gave_up()
                if dice.random() < broker_share:
                    broker.kill()
                    broker.start()
                    killed["broker"] += 1
                else:
                    victim = dice.choice(instances)
                    victim.kill()
                    victim.start()
                    killed["instance"] += 1
            sent.flush()
            expected = sum(sent.words.values()) + sent.pairs().total()
            last = time.monotonic()
            while output.size < expected and time.monotonic() < last + PATIENCE_S:
                if output.read_on(0.2):
                    last = time.monotonic()
                for instance in instances:
                    instance.restart_if_it_gave_up()
            codes = [instance.stop() for instance in instances]
        output.read_on(0.5)
        complaints = [*output.complaints(sent)]
        complaints += [f"exit code {code}" for code in codes if code not in (0, 143)]
        if not complaints:
            complaints += committed_offset_complaints(admin, sent)
        if complaints:
            complaints += [f"\n--- {instance.name}\n{instance.tail()}" for instance in instances]
            complaints.append(f"\n--- broker\n{getattr(broker, 'output', '')[-4000:]}")
        output.close()
        return Figures(
            seed=seed,
            protocol=protocol,
            kills=killed,
            lines=sent.lines,
            counts=sum(map(len, output.counts.values())),
            pairs=output.pairs.total(),
            gave_up=sum(instance.gave_up for instance in instances),
            seconds=time.monotonic() - began,
            complaints=complaints,
        )
    finally:
        broker.close()


def application_config(broker: RunningBroker, protocol: str) -> dict[str, str]:
    """What the application is started with: small steps, quick to notice that somebody has died."""
    config = {
        "bootstrap.servers": broker.address,
        "application.id": APPLICATION,
        "group.protocol": protocol,
        "commit.interval.ms": "100",
        "max.poll.records": "40",
        "num.stream.threads": "1",
        "poll.ms": "50",
        "reconnect.backoff.max.ms": "300",
        "repartition.purge.interval.ms": "1000",
        "consumer.auto.offset.reset": "earliest",
    }
    if protocol == "classic":
        config |= {
            "session.timeout.ms": "4000",
            "heartbeat.interval.ms": "500",
            "acceptable.recovery.lag": "0",
            "probing.rebalance.interval.ms": "60000",
        }
    return config


def set_standbys(broker: RunningBroker, number: int) -> None:
    """Set how many copies of its state the group keeps: with the streams protocol that is the group's setting."""
    done = kafka_anchor.run_tool(
        "kafka-configs", "--bootstrap-server", broker.address, "--alter", "--entity-type", "groups",
        "--entity-name", APPLICATION, "--add-config", f"streams.num.standby.replicas={number}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def committed_offset_complaints(admin: AdminClient, sent: Input) -> Iterator[str]:
    """What is wrong with the group's offsets after all has been read: each topic's must add up to its records."""
    groups = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(APPLICATION)])
    places: Counter[str] = Counter()
    for place in groups[APPLICATION].result(30).topic_partitions:
        places[place.topic] += place.offset
    records = {"lines": sent.lines, "left": len(sent.sides["left"]), "right": len(sent.sides["right"])}
    for topic, number in records.items():
        if places[topic] != number:
            yield f"committed offsets of {topic} add up to {places[topic]} instead of {number}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=15, help="in each round")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--protocol", choices=("classic", "streams"), default="classic")
    parser.add_argument("--journal", type=Path, default=Path("streams-rounds.txt"))
    options = parser.parse_args()
    done = options.journal.read_text().splitlines() if options.journal.exists() else []
    with tempfile.TemporaryDirectory(prefix="ottla-streams-") as scratch:
        classes = compile_application(Path(scratch) / "classes")
        for seed in range(options.seed, options.seed + options.rounds):
            if any(line.startswith(f"seed {seed} {options.protocol}:") for line in done):
                continue
            directory = Path(scratch) / str(seed)
            directory.mkdir()
            figures = run_round(
                seed=seed, kills=options.kills, protocol=options.protocol, classes=classes, directory=directory
            )
            print(figures, flush=True)
            with options.journal.open("a") as journal:
                print(str(figures).split("\n---")[0], file=journal)
            if figures.complaints:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
