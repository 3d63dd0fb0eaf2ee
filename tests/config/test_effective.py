"""Which value wins, and what DescribeConfigs lists: compared with answers of Apache Kafka 4.3.1."""

from __future__ import annotations

import pytest

from ottla.config.effective import (
    Levels,
    Source,
    Synonym,
    broker_setting,
    broker_synonyms,
    group_synonyms,
    topic_setting,
    topic_synonyms,
)
from ottla.config.keys import Value, to_text

EMPTY = Levels()


def test_retention_is_given_in_the_finest_unit_that_is_set() -> None:
    def retention(**static: str) -> object:
        return topic_setting("retention.ms", {}, Levels(static={f"log.retention.{k}": v for k, v in static.items()}))

    assert retention() == 604_800_000
    assert retention(hours="1") == 3_600_000
    assert retention(hours="1", minutes="2") == 120_000
    assert retention(hours="1", minutes="2", ms="3") == 3
    assert retention(hours="-1") == -1
    assert retention(ms="-5") == -1


def test_other_settings_with_several_names() -> None:
    assert topic_setting("segment.ms", {}, Levels(static={"log.roll.hours": "2"})) == 7_200_000
    assert topic_setting("segment.jitter.ms", {}, Levels(static={"log.roll.jitter.hours": "1"})) == 3_600_000
    assert topic_setting("flush.ms", {}, EMPTY) == 2**63 - 1
    assert topic_setting("flush.ms", {}, Levels(static={"log.flush.scheduler.interval.ms": "7"})) == 7
    both = {"log.flush.scheduler.interval.ms": "7", "log.flush.interval.ms": "9"}
    assert topic_setting("flush.ms", {}, Levels(static=both)) == 9
    assert broker_setting("log.flush.scheduler.interval.ms", Levels(static=both)) == 7


@pytest.mark.parametrize(
    ("broker_key", "value", "topic_key"),
    [
        ("compression.gzip.level", 3, "compression.gzip.level"),
        ("compression.lz4.level", 3, "compression.lz4.level"),
        ("compression.type", "zstd", "compression.type"),
        ("compression.zstd.level", 5, "compression.zstd.level"),
        ("log.cleaner.delete.retention.ms", 7, "delete.retention.ms"),
        ("log.cleaner.max.compaction.lag.ms", 7, "max.compaction.lag.ms"),
        ("log.cleaner.min.cleanable.ratio", 0.25, "min.cleanable.dirty.ratio"),
        ("log.cleaner.min.compaction.lag.ms", 7, "min.compaction.lag.ms"),
        ("log.cleanup.policy", ["compact"], "cleanup.policy"),
        ("log.flush.interval.messages", 7, "flush.messages"),
        ("log.flush.interval.ms", 7, "flush.ms"),
        ("log.index.interval.bytes", 7, "index.interval.bytes"),
        ("log.index.size.max.bytes", 7, "segment.index.bytes"),
        ("log.message.timestamp.after.max.ms", 7, "message.timestamp.after.max.ms"),
        ("log.message.timestamp.before.max.ms", 7, "message.timestamp.before.max.ms"),
        ("log.message.timestamp.type", "LogAppendTime", "message.timestamp.type"),
        ("log.retention.bytes", 7, "retention.bytes"),
        ("log.retention.ms", 7, "retention.ms"),
        ("log.roll.jitter.ms", 7, "segment.jitter.ms"),
        ("log.roll.ms", 7, "segment.ms"),
        ("log.segment.bytes", 2_000_000, "segment.bytes"),
        ("log.segment.delete.delay.ms", 7, "file.delete.delay.ms"),
        ("max.decompressed.message.bytes", 7, "max.decompressed.message.bytes"),
        ("message.max.bytes", 7, "max.message.bytes"),
        ("min.insync.replicas", 2, "min.insync.replicas"),
    ],
)
def test_a_broker_key_is_the_default_of_its_topic_key(broker_key: str, value: Value, topic_key: str) -> None:
    levels = Levels(static={broker_key: to_text(value) or ""})
    assert topic_setting(topic_key, {}, EMPTY) != value
    assert topic_setting(topic_key, {}, levels) == value


def test_levels_override_each_other() -> None:
    levels = Levels(
        static={"message.max.bytes": "1"}, default={"message.max.bytes": "2"}, broker={"message.max.bytes": "3"}
    )
    assert topic_setting("max.message.bytes", {"max.message.bytes": "4"}, levels) == 4
    assert topic_setting("max.message.bytes", {}, levels) == 3
    assert topic_setting("max.message.bytes", {}, Levels(static=levels.static, default=levels.default)) == 2
    assert topic_setting("max.message.bytes", {}, Levels(static=levels.static)) == 1
    assert topic_setting("max.message.bytes", {}, EMPTY) == 1_048_588


DYNAMIC = Levels(broker={"log.retention.ms": "-5"}, default={"log.retention.ms": "2000"})


def test_synonyms_of_a_broker_key_are_those_kafka_lists() -> None:
    assert broker_synonyms("log.retention.ms", DYNAMIC) == [
        Synonym("log.retention.ms", "-5", Source.DYNAMIC_BROKER),
        Synonym("log.retention.ms", "2000", Source.DYNAMIC_DEFAULT_BROKER),
        Synonym("log.retention.hours", "168", Source.DEFAULT),
    ]
    # What stands before the first mention of the key itself is left out.
    assert broker_synonyms("log.retention.hours", DYNAMIC) == [Synonym("log.retention.hours", "168", Source.DEFAULT)]
    assert broker_synonyms("log.retention.minutes", DYNAMIC) == []
    assert broker_synonyms("node.id", Levels(static={"node.id": "1"})) == [
        Synonym("node.id", "1", Source.STATIC_BROKER)
    ]
    static = Levels(static={"offsets.topic.replication.factor": "1"})
    assert broker_synonyms("offsets.topic.replication.factor", static) == [
        Synonym("offsets.topic.replication.factor", "1", Source.STATIC_BROKER),
        Synonym("offsets.topic.replication.factor", "3", Source.DEFAULT),
    ]


def test_synonyms_of_a_topic_key_are_those_kafka_lists() -> None:
    assert topic_synonyms("retention.ms", {}, EMPTY) == []
    assert topic_synonyms("retention.ms", {"retention.ms": " 77 "}, EMPTY) == [
        Synonym("retention.ms", "77", Source.TOPIC)
    ]
    assert topic_synonyms("cleanup.policy", {"cleanup.policy": " compact , delete "}, EMPTY) == [
        Synonym("cleanup.policy", "compact,delete", Source.TOPIC),
        Synonym("log.cleanup.policy", "delete", Source.DEFAULT),
    ]
    assert topic_synonyms("remote.storage.enable", {}, EMPTY) == []
    assert topic_synonyms("local.retention.ms", {}, EMPTY) == [Synonym("log.local.retention.ms", "-2", Source.DEFAULT)]
    assert topic_synonyms("retention.ms", {}, DYNAMIC) == broker_synonyms("log.retention.ms", DYNAMIC)


def test_synonyms_of_a_group_key_are_those_kafka_lists() -> None:
    assert group_synonyms("consumer.session.timeout.ms", {"consumer.session.timeout.ms": "50000"}, EMPTY) == [
        Synonym("consumer.session.timeout.ms", "50000", Source.GROUP),
        Synonym("group.consumer.session.timeout.ms", "45000", Source.DEFAULT),
    ]
    assert group_synonyms("consumer.session.timeout.ms", {}, EMPTY) == [
        Synonym("group.consumer.session.timeout.ms", "45000", Source.DEFAULT)
    ]
    assert group_synonyms("share.auto.offset.reset", {}, EMPTY) == [
        Synonym("share.auto.offset.reset", "latest", Source.DEFAULT)
    ]


def test_passwords_are_not_shown() -> None:
    levels = Levels(static={"ssl.key.password": "secret"})
    assert broker_synonyms("ssl.key.password", levels) == [Synonym("ssl.key.password", None, Source.STATIC_BROKER)]
