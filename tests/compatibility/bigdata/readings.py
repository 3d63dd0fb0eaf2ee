"""The data of these tests, and what a batch computation makes of it.

Readings of a few sensors, in event time: a portion covers `PORTION_MS` of it, and readings arrive out of order by at most
`DISORDER_MS`. `WATERMARK_MS` is longer than both together, so no engine may call a reading late, wherever its kills fall:
each result is exact or wrong.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from tests.support.broker_process import RunningBroker

SOURCE = "readings"
TARGET = "windows"
PARTITIONS = 3
SENSORS = [f"sensor-{number}" for number in range(7)]
WINDOWS_S = (30, 60, 120)
START_MS = 1_700_000_000_000 - 1_700_000_000_000 % 120_000
STEP_MS = 50
PORTION_MS = 200_000
DISORDER_MS = 20_000
WATERMARK_MS = 300_000
#: Without a new result for so long, an engine has failed: its start takes half a minute on a busy machine.
PATIENCE_S = 240.0

#: Window length in seconds, start of the window in ms since the epoch, sensor.
Key = tuple[int, int, str]
#: Count, sum, least and greatest value.
Value = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    sensor: str
    event_ms: int
    value: int

    def encoded(self) -> bytes:
        return json.dumps({"sensor": self.sensor, "event_ms": self.event_ms, "value": self.value}).encode()


def portions(seed: int, count: int) -> Iterator[list[Reading]]:
    """Yield `count` portions of readings, one after the other in event time, each out of order within itself."""
    dice = random.Random(seed)
    for number in range(count):
        start = START_MS + number * PORTION_MS
        readings = [
            Reading(dice.choice(SENSORS), start + at, dice.randint(-1_000, 1_000))
            for at in range(0, PORTION_MS, STEP_MS)
        ]
        readings.sort(key=lambda reading: reading.event_ms + dice.randrange(DISORDER_MS))
        yield readings


def computed(readings: Iterable[Reading]) -> dict[Key, Value]:
    """The windows of all lengths, computed in one go."""
    values: dict[Key, list[int]] = defaultdict(list)
    for reading in readings:
        for seconds in WINDOWS_S:
            start_ms = reading.event_ms - reading.event_ms % (seconds * 1_000)
            values[seconds, start_ms, reading.sensor].append(reading.value)
    return {key: (len(found), sum(found), min(found), max(found)) for key, found in values.items()}


def parsed(text: str | bytes) -> tuple[Key, Value]:
    """A result as both engines write it, in JSON."""
    row = json.loads(text)
    return (row["length_s"], row["start_ms"], row["sensor"]), (row["n"], row["total"], row["least"], row["greatest"])


class Sender:
    """Sends readings, round robin over the partitions; what a killed broker did not acknowledge is sent again."""

    def __init__(self, broker: RunningBroker) -> None:
        self.sent: list[Reading] = []
        self._failed: list[str] = []
        self._producer = Producer(
            {"bootstrap.servers": broker.address, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )

    def send(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            self._produce(reading, len(self.sent) % PARTITIONS)
            self.sent.append(reading)

    def close_the_windows(self) -> None:
        """Send one reading far ahead to each partition: all windows that are compared end before it."""
        for partition in range(PARTITIONS):
            self._produce(Reading("end", self.sent[-1].event_ms + 3_600_000, 0), partition)
        self.flush()

    def flush(self) -> None:
        assert self._producer.flush(PATIENCE_S) == 0
        assert not self._failed, self._failed[:3]

    def _produce(self, reading: Reading, partition: int) -> None:
        self._producer.produce(
            SOURCE,
            reading.encoded(),
            reading.sensor,
            partition=partition,
            timestamp=reading.event_ms,
            on_delivery=self._on_delivery,
        )
        self._producer.poll(0)

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(str(error))


class Results:
    """The committed records of the target topic: how often each result came."""

    def __init__(self, broker: RunningBroker) -> None:
        self.rows: Counter[tuple[Key, Value]] = Counter()
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker.address,
                "group.id": "verdict",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(TARGET, index, 0) for index in range(PARTITIONS)])

    def read_on(self, wait_s: float) -> int:
        """Take what has come; how many records."""
        taken = 0
        for message in self._consumer.consume(500, wait_s):
            if message.error() is None:  # else a broker that is being restarted
                self.rows[parsed(message.value() or b"")] += 1
                taken += 1
        return taken

    def close(self) -> None:
        self._consumer.close()


def complaints(found: Iterable[tuple[Key, Value]], expected: dict[Key, Value]) -> list[str]:
    """What is missing, surplus or wrong; nothing if `found` is `expected`, each row once."""
    rows, wanted = Counter(found), Counter(expected.items())
    missing, surplus = wanted - rows, rows - wanted
    if not missing and not surplus:
        return []
    return [
        f"{missing.total()} of {wanted.total()} results are missing, such as {sorted(missing)[:3]}; "
        f"{surplus.total()} are surplus, such as {sorted(surplus)[:3]}"
    ]
