"""Records older than their topic's retention: a warning per topic and hour, and the same sentence on the page."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from tests.broker.http.test_group_facts import page
from tests.broker.story import produce, started

from ottla.broker.replicas.old_records import INTERVAL_MS, RETENTION_MS_MIN, OldRecords
from ottla.errors import ErrorCode
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.storage.config import LogConfig
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import CompressionType, TopicPartition

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS


async def send(client: WireClient, timestamp_ms: int, *, compression: CompressionType = CompressionType.NONE) -> None:
    """Produce one record of that time to `orders`."""
    batch = build_batch([Record(0, timestamp_ms, b"key", b"x")], compression=compression)
    data = PartitionProduceData(index=0, records=bytes(batch))
    topic = TopicProduceData(name="orders", partition_data=[data])
    answer = await client.ask(ProduceRequest(acks=-1, timeout_ms=1_000, topic_data=[topic]), 9, ProduceResponse)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.NONE


async def set_topic(client: WireClient, **values: str) -> None:
    configs = [AlterableConfig(name=name.replace("_", "."), value=value) for name, value in values.items()]
    resource = AlterConfigsResource(resource_type=2, resource_name="orders", configs=configs)
    answer = await client.ask(IncrementalAlterConfigsRequest(resources=[resource]), 1, IncrementalAlterConfigsResponse)
    assert answer.responses[0].error_code == ErrorCode.NONE


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "ottla.broker.replicas.old_records"]


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.GZIP])
def test_old_records_are_warned_about_once_an_hour_and_shown_on_the_page(
    compression: CompressionType, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"connections.max.idle.ms": 10 * HOUR_MS})
        await send(client, node.clock.wall_ms() - WEEK_MS - HOUR_MS, compression=compression)
        [sentence] = warnings(caplog)
        assert sentence.startswith(
            "topic orders gets records that are older than its retention.ms=604800000, the newest of "
        )
        assert "kafka-configs --alter --topic orders --add-config retention.ms=-1" in sentence
        assert "message.timestamp.type=LogAppendTime" in sentence
        assert sentence in page(node)
        for _ in range(3):
            await send(client, node.clock.wall_ms() - WEEK_MS - HOUR_MS, compression=compression)
        assert len(warnings(caplog)) == 1
        await asyncio.sleep(3_601)
        await send(client, node.clock.wall_ms() - WEEK_MS - HOUR_MS, compression=compression)
        assert len(warnings(caplog)) == 2

        # What the sentence asks for ends it.
        await set_topic(client, retention_ms="-1")
        assert "gets records that are older" not in page(node)
        await send(client, node.clock.wall_ms() - WEEK_MS - HOUR_MS, compression=compression)
        assert len(warnings(caplog)) == 2
        await node.stop()

    with caplog.at_level(logging.WARNING, "ottla.broker.replicas.old_records"):
        run_virtual(1, story)


def test_what_is_warned_about_is_deleted(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise the warning would cry wolf: retention goes by the newest record of a segment."""

    retention_ms = 2 * RETENTION_MS_MIN

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(
            loop, **{"log.retention.ms": retention_ms, "log.retention.check.interval.ms": 10_000}
        )
        assert node.broker is not None
        log = node.broker.logs.logs[TopicPartition("orders", 0)]
        await produce(node, client)  # a new record in the same segment keeps old ones
        await send(client, node.clock.wall_ms() - WEEK_MS)
        assert warnings(caplog) == []
        await asyncio.sleep(60)
        assert log.log_start_offset == 0

        await asyncio.sleep(retention_ms / 1000)
        assert log.log_start_offset == 2
        await send(client, node.clock.wall_ms() - WEEK_MS)
        assert len(warnings(caplog)) == 1
        await asyncio.sleep(20)
        assert log.log_start_offset == log.log_end_offset == 3
        await node.stop()

    with caplog.at_level(logging.WARNING, "ottla.broker.replicas.old_records"):
        run_virtual(1, story)


@pytest.mark.parametrize(
    "settings",
    [
        {"log.retention.ms": -1},
        {"log.cleanup.policy": "compact"},
        {"log.message.timestamp.type": "LogAppendTime"},
        {"log.retention.ms": 1_000},  # the usual way to empty a topic
    ],
)
def test_where_nothing_is_lost_nothing_is_said(settings: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **settings)
        await send(client, node.clock.wall_ms() - WEEK_MS - HOUR_MS)
        assert warnings(caplog) == []
        assert "gets records that are older" not in page(node)
        await node.stop()

    with caplog.at_level(logging.WARNING, "ottla.broker.replicas.old_records"):
        run_virtual(1, story)


class Told:
    """Old records over a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000_000_000
        self.kept: set[TopicPartition] = set()
        self.configs: dict[str, LogConfig] = {name: LogConfig(retention_ms=WEEK_MS) for name in "ab"}
        self.old = OldRecords(
            lambda: self.now_ms,
            is_kept=self.kept.__contains__,
            config_of=self.configs.get,
        )

    def note(self, topic: str) -> None:
        self.old.note(TopicPartition(topic, 0), 5, WEEK_MS)

    @property
    def topics(self) -> list[str]:
        return [sentence.split()[1] for sentence in self.old.sentences()]


def test_a_sentence_stays_for_an_hour_after_the_last_batch(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    told.note("b")
    told.note("a")
    assert told.topics == ["a", "b"]
    told.now_ms += INTERVAL_MS - 1
    told.note("a")
    told.now_ms += 2
    assert told.topics == ["a"]
    assert len(warnings(caplog)) == 2
    told.note("a")
    assert len(warnings(caplog)) == 3


def test_a_sentence_goes_with_its_cause() -> None:
    told = Told()
    told.note("a")
    told.note("b")
    told.configs["a"] = replace(told.configs["a"], retention_ms=2 * WEEK_MS)
    assert told.topics == ["b"]
    del told.configs["b"]
    assert told.topics == []


def test_nothing_is_said_where_nothing_is_deleted() -> None:
    told = Told()
    told.kept.add(TopicPartition("a", 0))
    told.note("a")
    assert told.topics == []


def test_a_timestamp_beyond_the_calendar_is_a_number() -> None:
    told = Told()
    told.old.note(TopicPartition("a", 0), 1 << 62, WEEK_MS)
    assert "timestamp 4611686018427387904" in told.old.sentences()[0]
