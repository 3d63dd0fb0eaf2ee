"""Segments of message formats 0, 1 and 2 that an older Kafka left are served, looked up by time, compacted and recovered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
from tests.broker.share.share_client import Member, begin, make_topic
from tests.broker.story import fetch, log_of, produce, started
from tests.protocol.records.legacy_support import CODECS, Run, entries, mixed_runs, record_runs, segments

from ottla.errors import ErrorCode
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic, OffsetFetchResponse
from ottla.protocol.records.builder import Record
from ottla.protocol.records.reader import iter_records
from ottla.protocol.records.walk import iter_batches
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import MAX_TIMESTAMP, CompressionType, TimestampType, coordinator_partition

Story = Callable[[SimulatedBroker, WireClient], Awaitable[None]]

FOLDER = "data/orders-0"
#: One of every kind, and everything mixed.
KINDS = {
    **{
        f"v{magic}-{codec.name}-{kind.name}": [
            Run(magic, codec, records, kind) for records in record_runs(random.Random(7), 12)
        ]
        for magic in (0, 1)
        for codec in CODECS
        for kind in list(TimestampType)[: 1 + magic]
    },
    "mixed": mixed_runs(random.Random(8), 60),
}
either_stop = pytest.mark.parametrize("clean", [True, False], ids=["clean", "unclean"])
every_kind = pytest.mark.parametrize("kind", KINDS)


def with_segments(story: Story, parts: Mapping[int, bytes], *, clean: bool, **settings: object) -> None:
    """Tell a story of a broker that finds these segments in the folder of `orders`: no indexes, no snapshots."""

    async def scenario(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.retention.ms": -1, **settings})
        client.close()
        await node.stop()
        put_segments(node, FOLDER, parts, clean=clean)
        await node.start()
        client = await node.connect()
        await story(node, client)
        await node.stop()

    run_virtual(0, scenario)


def put_segments(node: SimulatedBroker, folder: str, parts: Mapping[int, bytes], *, clean: bool) -> None:
    for name in node.files.listdir(folder):
        if name != "partition.metadata":
            node.files.remove(f"{folder}/{name}")
    for base_offset, data in parts.items():
        node.files.write_atomic(f"{folder}/{base_offset:020}.log", data)
    if not clean:
        for name in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint"):
            node.files.remove(f"data/{name}")


def consumed(runs: Sequence[Run]) -> list[Record]:
    return [record for run in runs for record in run.consumed()]


async def read(client: WireClient, offset: int = 0) -> list[Record]:
    """Return what a consumer gets from an offset on."""
    records: list[Record] = []
    while True:
        part = await fetch(client, offset, max_bytes=2000)
        assert part.error_code == ErrorCode.NONE, (offset, ErrorCode(part.error_code).name)
        found = [record for record in iter_records(part.records or b"", may_be_cut=True) if record.offset >= offset]
        if not found:
            assert offset == part.high_watermark
            return records
        records += found
        offset = found[-1].offset + 1


async def look_up(client: WireClient, timestamp: int) -> tuple[int, int]:
    """Return (offset, timestamp) of the first record that is not older."""
    wanted = ListOffsetsPartition(partition_index=0, timestamp=timestamp)
    request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="orders", partitions=[wanted])])
    found = (await client.ask(request, 7, ListOffsetsResponse)).topics[0].partitions[0]
    assert found.error_code == ErrorCode.NONE
    return found.offset, found.timestamp


@either_stop
@every_kind
def test_every_record_is_served(kind: str, clean: bool) -> None:
    expected = consumed(KINDS[kind])

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        for _ in range(3):
            assert await read(client) == expected
            for index in range(0, len(expected), 5):
                assert await read(client, expected[index].offset) == expected[index:]
            assert log_of(node).log_end_offset == expected[-1].offset + 1
            if clean:
                await node.stop()
            else:
                node.kill()
            await node.start()
            client = await node.connect()

    with_segments(story, segments(KINDS[kind], 4), clean=clean, **{"log.index.interval.bytes": 200})


@either_stop
@every_kind
def test_offsets_are_found_by_time(kind: str, clean: bool) -> None:
    expected = consumed(KINDS[kind])

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        times = sorted({record.timestamp for record in expected})
        for timestamp in [0, *times, *(time + 1 for time in times)]:
            if timestamp < 0:
                continue
            first = next(((each.offset, each.timestamp) for each in expected if each.timestamp >= timestamp), (-1, -1))
            assert await look_up(client, timestamp) == first, timestamp
        largest = max(expected, key=lambda record: record.timestamp)  # the first of them
        if largest.timestamp >= 0:
            assert (await look_up(client, MAX_TIMESTAMP))[1] == largest.timestamp

    with_segments(story, segments(KINDS[kind], 4), clean=clean, **{"log.index.interval.bytes": 200})


@either_stop
@every_kind
def test_the_last_record_of_every_key_survives_compaction(kind: str, clean: bool) -> None:
    runs = KINDS[kind]
    parts = segments(runs, 4)
    active = max(parts)
    expected = consumed(runs)
    last = {record.key: record.offset for record in expected if record.offset < active}
    kept = [record for record in expected if record.offset >= active or last[record.key] == record.offset]
    kept = [record for record in kept if record.offset >= active or record.key is not None]

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        assert node.broker is not None
        await node.broker.logs.clean_dirtiest()  # if it was not cleaned at the start
        assert node.broker.logs.cleaner.cleaned == 1
        assert await read(client) == kept
        node.kill()
        await node.start()
        client = await node.connect()
        assert await read(client) == kept

    settings = {"log.cleanup.policy": "compact", "log.cleaner.min.cleanable.ratio": 0.001}
    with_segments(story, parts, clean=clean, **settings)


@either_stop
def test_what_is_produced_goes_behind_the_old_records(clean: bool) -> None:
    expected = consumed(KINDS["mixed"])

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        for _ in range(3):
            assert await produce(node, client) == ErrorCode.NONE
        found = await read(client)
        assert found[:-3] == expected
        end = expected[-1].offset + 1
        assert [record.offset for record in found[-3:]] == [end, end + 1, end + 2]

    with_segments(story, segments(KINDS["mixed"], 1), clean=clean)


def test_a_topic_of_old_formats_is_deleted_by_retention_as_others_are() -> None:
    runs = KINDS["v1-GZIP-CREATE_TIME"]
    parts = segments(runs, 4)

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        assert node.broker is not None
        assert await node.broker.logs.apply_retention() == len(parts)
        assert log_of(node).log_start_offset == log_of(node).log_end_offset == consumed(runs)[-1].offset + 1

    with_segments(story, parts, clean=True, **{"log.retention.ms": 1000})


def test_segments_without_times_are_deleted_by_the_time_of_their_file() -> None:
    runs = [Run(0, CODECS[0], records) for records in record_runs(random.Random(7), 12)]
    parts = segments(runs, 4)

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        assert node.broker is not None
        assert await node.broker.logs.apply_retention() == 0
        node.loop.advance(86_400)
        assert await node.broker.logs.apply_retention() == len(parts)

    with_segments(story, parts, clean=True, **{"log.retention.ms": 3_600_000})


@either_stop
def test_records_may_be_deleted_up_to_the_middle_of_a_wrapper(clean: bool) -> None:
    runs = KINDS["v1-GZIP-CREATE_TIME"]
    expected = consumed(runs)
    wrapper = max(runs, key=lambda run: len(run.records)).records
    start = wrapper[len(wrapper) // 2].offset

    async def story(node: SimulatedBroker, client: WireClient) -> None:
        assert node.broker is not None
        partition = node.broker.replicas.partition("orders", 0)
        assert partition is not None
        await partition.delete_records(start)
        await asyncio.sleep(70)  # log.flush.start.offset.checkpoint.interval.ms
        for _ in range(2):
            assert log_of(node).log_start_offset == start
            assert await read(client, start) == [record for record in expected if record.offset >= start]
            if clean:
                await node.stop()
            else:
                node.kill()
            await node.start()
            client = await node.connect()

    with_segments(story, segments(runs, 3), clean=clean)


@every_kind
def test_a_share_group_is_handed_every_record(kind: str) -> None:
    expected = consumed(KINDS[kind])

    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **{"log.retention.ms": -1})
        await node.start()
        client = await node.connect()
        topic_id = await make_topic(client)
        await begin(client, topic_id)
        await node.stop()
        put_segments(node, "data/jobs-0", segments(KINDS[kind], 3), clean=True)
        await node.start()
        member = Member(await node.connect(), topic_id)
        found: list[Record] = []
        acknowledged: list[tuple[int, int, Sequence[int]]] = []
        for _ in range(500):
            answer = await member.ask(acknowledged, records_max=10, wait_ms=1000)
            acknowledged = []
            for part in (part for topic in answer.responses for part in topic.partitions):
                assert part.error_code == part.acknowledge_error_code == ErrorCode.NONE
                records = list(iter_records(part.records or b""))
                for piece in part.acquired_records:
                    assert piece.delivery_count == 1
                    found += [each for each in records if piece.first_offset <= each.offset <= piece.last_offset]
                    acknowledged.append((piece.first_offset, piece.last_offset, (1,)))
            if found and not acknowledged:
                break
        assert found == expected
        await node.stop()

    run_virtual(0, scenario)


# --------------------------------------------------------------------------------------------- __consumer_offsets


async def commit(client: WireClient, group: str, offset: int) -> None:
    await client.ask(FindCoordinatorRequest(key=group), 2, FindCoordinatorResponse)  # makes the internal topic
    wanted = OffsetCommitRequestPartition(partition_index=0, committed_offset=offset)
    request = OffsetCommitRequest(group_id=group, topics=[OffsetCommitRequestTopic(name="orders", partitions=[wanted])])
    code = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    while code in (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR):
        answer = await client.ask(request, 7, OffsetCommitResponse)
        code = ErrorCode(answer.topics[0].partitions[0].error_code)
    assert code == ErrorCode.NONE


async def committed(client: WireClient, group: str) -> tuple[ErrorCode, int]:
    request = OffsetFetchRequest(group_id=group, topics=[OffsetFetchRequestTopic(name="orders", partition_indexes=[0])])
    while True:
        answer = await client.ask(request, 5, OffsetFetchResponse)
        if answer.error_code != ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            offsets = [part.committed_offset for topic in answer.topics for part in topic.partitions]
            return ErrorCode(answer.error_code), offsets[0] if offsets else -1


def with_offsets(story: Story, rewrite: Callable[[int, bytes], bytes], *, clean: bool) -> None:
    """Tell a story of a broker that finds the offsets of 8 groups, `g0` to `g7`, in 2 partitions that were rewritten."""

    async def scenario(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"offsets.topic.num.partitions": 2})
        for number in range(8):
            for offset in range(3):
                await commit(client, f"g{number}", 100 * number + offset)
        await node.stop()
        for partition in range(2):
            folder = f"data/__consumer_offsets-{partition}"
            data = node.files.read_bytes(f"{folder}/{0:020}.log")
            put_segments(node, folder, {0: rewrite(partition, data)}, clean=True)
        if not clean:
            for name in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint"):
                node.files.remove(f"data/{name}")
        await node.start()
        await story(node, await node.connect())
        await node.stop()

    run_virtual(0, scenario)


@either_stop
@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_offsets_that_an_old_kafka_committed_are_there(magic: int, codec: CompressionType, clean: bool) -> None:
    async def story(node: SimulatedBroker, client: WireClient) -> None:
        for number in range(8):
            assert await committed(client, f"g{number}") == (ErrorCode.NONE, 100 * number + 2)
        await commit(client, "g3", 7)
        assert await committed(client, "g3") == (ErrorCode.NONE, 7)

    def rewrite(partition: int, data: bytes) -> bytes:
        return entries(list(iter_records(data)), codec, magic=magic)

    with_offsets(story, rewrite, clean=clean)


@pytest.mark.parametrize("damage", ["length", "magic", "crc", "offset"])
def test_a_damaged_partition_of_offsets_has_no_coordinator_and_the_other_serves(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(node: SimulatedBroker, client: WireClient) -> None:
        for number in range(8):
            group = f"g{number}"
            is_damaged = coordinator_partition(group, 2) == 0
            found = await committed(client, group)
            assert found == ((ErrorCode.NOT_COORDINATOR, -1) if is_damaged else (ErrorCode.NONE, 100 * number + 2))
        assert "__consumer_offsets-0: loading failed" in caplog.text

    def rewrite(partition: int, data: bytes) -> bytes:
        if partition:
            return data
        damaged = bytearray(data)
        at = [at for at, _ in iter_batches(data)][3]
        match damage:
            case "length":
                damaged[at + 11] += 1
            case "magic":
                damaged[at + 16] = 9
            case "crc":
                damaged[at + 65] ^= 1
            case "offset":
                damaged[at + 7] = 0
        return bytes(damaged)

    with_offsets(story, rewrite, clean=True)
