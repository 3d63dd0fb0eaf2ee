"""Directories with message formats 0, 1 and 2: written by Apache Kafka 3.9, and byte by byte.

Each topic has one partition. `OLD_TOPICS` says what a producer sends into each, format after format; `made_by_hand` gives
segments that the broker at hand would not write. `read_all` is what a consumer finds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)
from tests.protocol.records.legacy_support import BASE_MS, CODECS, Run, mixed_runs, record_runs, segments
from tests.support.old_kafka import OldKafka

from ottla.protocol.records.builder import Record
from ottla.types import CompressionType, TimestampType

#: `message.format.version` of each message format.
VERSIONS = {0: "0.9.0", 1: "0.10.2", 2: "2.8"}
#: How many groups commit offsets, in format 1.
GROUP_COUNT = 5
#: So many that the last record of a key may lie in any of the formats.
KEY_COUNT = 400
PATIENCE_S = 60.0


class Phase(NamedTuple):
    """Records that a producer sends after each other, stored in one message format."""

    magic: int
    codec: str
    record_count: int


class OldTopic(NamedTuple):
    """What Apache Kafka 3.9 is sent."""

    phases: Sequence[Phase]
    config: Mapping[str, str] = {}


ALL_PHASES = [Phase(magic, codec.name.lower(), 60) for magic in VERSIONS for codec in CODECS]
BACK_AND_FORTH = [*ALL_PHASES, *reversed(ALL_PHASES)]
SMALL_SEGMENTS = {"segment.bytes": "4096"}

OLD_TOPICS = {
    **{
        f"v{magic}-{codec.name.lower()}": OldTopic([Phase(magic, codec.name.lower(), 50)])
        for magic in (0, 1)
        for codec in CODECS
    },
    "v1-append-time": OldTopic(
        [Phase(1, codec.name.lower(), 30) for codec in CODECS],
        {"message.timestamp.type": "LogAppendTime", **SMALL_SEGMENTS},
    ),
    "mixed": OldTopic(ALL_PHASES),
    "mixed-back-and-forth": OldTopic(BACK_AND_FORTH),
    "mixed-rolled": OldTopic(ALL_PHASES, SMALL_SEGMENTS),
    "mixed-compacted": OldTopic(BACK_AND_FORTH, SMALL_SEGMENTS),
    "cleaned-before": OldTopic(
        BACK_AND_FORTH, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", **SMALL_SEGMENTS}
    ),
}
#: Topics that both brokers compact.
COMPACTED = ("mixed-compacted", "cleaned-before", "hand-compacted")


def write_with(old: OldKafka) -> None:
    """Have Apache Kafka 3.9 write `OLD_TOPICS`, and offsets of groups."""
    admin = AdminClient({"bootstrap.servers": old.address, "log_level": 0})
    for name, topic in OLD_TOPICS.items():
        create_topic(admin, name, {**topic.config, "message.format.version": VERSIONS[topic.phases[0].magic]})
        sent = 0
        for before, phase in pairwise([topic.phases[0], *topic.phases]):
            if phase.magic != before.magic:
                overrides = old.output.count(f"entityPath: topics/{name} with config")
                set_config(admin, name, {"message.format.version": VERSIONS[phase.magic]})
                wait_until(lambda: old.output.count(f"entityPath: topics/{name} with config") > overrides)  # noqa: B023
            _produce(old.address, name, phase, sent)
            sent += phase.record_count
    for number in range(GROUP_COUNT):
        consumer = Consumer({"bootstrap.servers": old.address, "group.id": f"g{number}", "enable.auto.commit": False})
        for offset in range(3):
            consumer.commit(
                offsets=[TopicPartition("mixed", 0, number * 10 + offset, f"by g{number}")], asynchronous=False
            )
        consumer.close()
    wait_until(lambda: "cleaned-before 0" in checkpoint(old.data_dir))


def _produce(address: str, topic: str, phase: Phase, first: int) -> None:
    producer = Producer(
        {
            "bootstrap.servers": address,
            "log_level": 0,
            "enable.idempotence": False,
            "compression.codec": phase.codec,
            "linger.ms": 20,
            "batch.num.messages": 13,
        }
    )
    dice = random.Random(first)
    for number in range(first, first + phase.record_count):
        producer.produce(
            topic,
            key=b"key %d" % dice.randrange(KEY_COUNT),
            value=None if number % 11 == 10 else b"value %d of this topic, " % number * dice.randint(1, 5),
            timestamp=BASE_MS + number * 1000 + dice.randint(-5000, 5000),
        )
    assert producer.flush(PATIENCE_S) == 0


# ------------------------------------------------------------------------------------------------------------ by hand


def made_by_hand() -> dict[str, dict[int, bytes]]:
    """Return topic -> base offset of a segment -> its bytes."""
    topics: dict[str, dict[int, bytes]] = {}
    for magic in (0, 1):
        for codec in CODECS:
            for kind in (TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME)[: 1 + magic]:
                name = f"hand-v{magic}-{codec.name.lower()}-{kind.name.lower().replace('_', '-')}"
                runs = [Run(magic, codec, records, kind) for records in record_runs(random.Random(name), 12)]
                topics[name] = segments(runs, 3)
    dice = random.Random(3)
    mixed = mixed_runs(dice, 60)
    topics["hand-mixed"] = segments(mixed, 1)
    topics["hand-compacted"] = segments(mixed, 6)
    large = [
        Run(
            number % 3,
            (CompressionType.NONE, CompressionType.GZIP, CompressionType.LZ4)[number // 3],
            [
                Record(offset, BASE_MS + offset, b"large", dice.randbytes(20_000))
                for offset in range(number * 40, number * 40 + 40)
            ],
        )
        for number in range(9)
    ]
    topics["hand-large"] = segments(large, 1)
    return topics


# ----------------------------------------------------------------------------------------------------- what is served


#: What a broker answers that is about to lead the partition.
NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)
#: Offset, timestamp, key, value.
Row = tuple[int, int, bytes | None, bytes | None]


class Served(NamedTuple):
    """What clients of a broker find in one topic.

    Attributes:
        records: all, from the start on.
        watermarks: log start offset and high watermark.
        by_time: timestamp asked for -> offset.
        max_timestamp: (offset, timestamp) of the record with the largest.
        from_within: offset asked for -> the first record that comes.
    """

    records: list[Row]
    watermarks: tuple[int, int]
    by_time: dict[int, int]
    max_timestamp: tuple[int, int]
    from_within: dict[int, int]


def read_all(address: str, topics: Iterable[str]) -> dict[str, Served]:
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "log_level": 0,
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        return {topic: _read(consumer, admin, topic) for topic in topics}
    finally:
        consumer.close()


def _read(consumer: Consumer, admin: AdminClient, topic: str) -> Served:
    low, high = _watermarks(consumer, topic)
    records = list(_from(consumer, topic, low))
    times = sorted({record[1] for record in records})
    asked = {0, *times[:: max(1, len(times) // 25)], *(time + 1 for time in times[:: max(1, len(times) // 9)])}
    by_time = {}
    for timestamp in sorted({*asked, times[-1], times[-1] + 1}):
        if timestamp >= 0:
            (found,) = consumer.offsets_for_times([TopicPartition(topic, 0, timestamp)], timeout=PATIENCE_S)
            assert found.error is None, (topic, timestamp, found.error)
            by_time[timestamp] = found.offset
    partition = TopicPartition(topic, 0)
    (largest,) = admin.list_offsets(
        {partition: OffsetSpec.max_timestamp()}  # type: ignore[no-untyped-call]
    ).values()
    within = {}
    for offset in range(low, high, max(1, (high - low) // 9)):
        within[offset] = next(iter(_from(consumer, topic, offset)), (OFFSET_INVALID,))[0]
    found = largest.result(PATIENCE_S)
    return Served(records, (low, high), by_time, (found.offset, found.timestamp), within)


def _watermarks(consumer: Consumer, topic: str) -> tuple[int, int]:
    """Kafka's broker says that it is ready before it leads its partitions."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S)
        except KafkaException as error:
            if error.args[0].code() not in NOT_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return low, high


def _from(consumer: Consumer, topic: str, offset: int) -> Iterable[Row]:
    consumer.assign([TopicPartition(topic, 0, offset)])
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = consumer.poll(1.0)
        assert time.monotonic() < deadline, f"{topic} is not read to its end"
        if found is None:
            continue
        if (error := found.error()) is not None:
            assert error.code() == KafkaError._PARTITION_EOF, (topic, error)
            return
        kind, timestamp = found.timestamp()
        at = found.offset()
        assert at is not None
        yield at, timestamp if kind else -1, found.key(), found.value()


def committed(address: str) -> dict[str, tuple[int, str | None]]:
    """Return the offsets that the groups have committed."""
    found = {}
    for number in range(GROUP_COUNT):
        consumer = Consumer({"bootstrap.servers": address, "log_level": 0, "group.id": f"g{number}"})
        (partition,) = consumer.committed([TopicPartition("mixed", 0)], timeout=PATIENCE_S)
        found[f"g{number}"] = (partition.offset, partition.metadata)
        consumer.close()
    return found


# ----------------------------------------------------------------------------------------------------------- brokers


def create_topic(admin: AdminClient, name: str, config: Mapping[str, str] | None = None) -> None:
    for future in admin.create_topics([NewTopic(name, 1, 1, config=dict(config or {}))]).values():
        future.result(PATIENCE_S)


def set_config(admin: AdminClient, topic: str, config: Mapping[str, str]) -> None:
    changes = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE_S)


def checkpoint(data_dir: Path) -> str:
    """Return up to where partitions are cleaned."""
    path = data_dir / "cleaner-offset-checkpoint"
    return path.read_text() if path.exists() else ""


def wait_until(condition: object, what: str = "the condition") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
