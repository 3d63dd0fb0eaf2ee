"""A disk that fails or is full, seen from a client of the whole broker."""

from __future__ import annotations

import asyncio
import errno
import gc
from collections.abc import Callable

import pytest
from tests.broker.story import fetch, log_of, produce, readable, started

from ottla.broker.coordinators.replicated_log import ReplicatedCoordinatorLog
from ottla.broker.http.facts import LiveFacts
from ottla.broker.http.pages import Pages
from ottla.errors import ErrorCode, KafkaStorageError
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def failing(*operations: str) -> Callable[[str, str], None]:
    """A disk on which these operations on logs fail."""

    def fail(operation: str, path: str) -> None:
        if operation in operations and path.endswith(".log"):
            raise OSError(errno.EIO, "the disk is gone", path)

    return fail


def page(node: SimulatedBroker, path: str) -> str:
    """Status and text of a page."""
    assert node.broker is not None
    answer = Pages(LiveFacts(node.broker)).handle(path)
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    return f"{answer.status} {body.decode()}"


def test_full_disk_refuses_appends_serves_reads_and_recovers_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        before = await readable(client)
        node.files.capacity = node.files.used + 50
        assert await produce(node, client, 1_000) == ErrorCode.KAFKA_STORAGE_ERROR
        assert await readable(client) == before
        assert await produce(node, client, 1_000) == ErrorCode.KAFKA_STORAGE_ERROR
        assert page(node, "/readyz").startswith("503 log directory data: no space is left")
        assert page(node, "/healthz").startswith("200")
        assert 'ottla_log_directory_full{logdirectory="data"} 1' in page(node, "/metrics")
        await asyncio.sleep(20)
        assert page(node, "/readyz").startswith("503")
        node.files.capacity = 1 << 62
        await asyncio.sleep(10)
        assert page(node, "/readyz") == "200 ready\n"
        lines = [r.getMessage() for r in caplog.records if "log directory data" in r.getMessage()]
        assert ["no space is left" in line for line in lines] == [True, False], lines
        assert "takes appends again" in lines[1]
        assert await produce(node, client) == ErrorCode.NONE
        assert await readable(client) > before
        assert node.broker is not None
        assert not node.broker.failure.done()
        node.kill()
        await node.start()
        assert await readable(await node.connect()) > before
        await node.stop()

    run_virtual(1, story)


def test_failed_fsync_is_never_acknowledged_and_ends_a_broker_without_another_disk() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1})

        def fail(operation: str, path: str) -> None:
            if operation == "sync":
                raise OSError(errno.EIO, "the disk is gone", path)

        node.files.fail = fail
        assert await produce(node, client) == ErrorCode.KAFKA_STORAGE_ERROR
        node.files.fail = None
        assert await produce(node, client) == ErrorCode.KAFKA_STORAGE_ERROR
        assert node.broker is not None
        assert "no log directory is left" in await node.broker.failure
        await node.stop()

    run_virtual(1, story)


@pytest.mark.parametrize("cold", [False, True])
def test_a_read_that_fails_is_told_for_its_partition_and_takes_the_directory_offline(cold: bool) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        node.files.is_cold = lambda _path: cold
        node.files.fail = failing("pread")
        part = await fetch(client)
        assert (part.error_code, part.high_watermark) == (ErrorCode.KAFKA_STORAGE_ERROR, -1)
        assert (await fetch(client)).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert node.broker is not None
        assert "no log directory is left" in await node.broker.failure
        assert not client.closed.done()
        node.files.fail = None
        await node.stop()

    run_virtual(1, story)


def test_a_search_by_time_that_fails_is_told_for_its_partition_and_takes_the_directory_offline() -> None:
    request = ListOffsetsRequest(
        replica_id=-1,
        topics=[ListOffsetsTopic(name="orders", partitions=[ListOffsetsPartition(partition_index=0, timestamp=1)])],
    )

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        node.files.fail = failing("pread")
        for _ in range(2):
            answer = await client.ask(request, 7, ListOffsetsResponse)
            assert answer.topics[0].partitions[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert node.broker is not None
        assert "no log directory is left" in await node.broker.failure
        node.files.fail = None
        await node.stop()

    run_virtual(1, story)


def test_a_segment_that_retention_takes_during_a_search_by_time_is_no_failure() -> None:
    request = ListOffsetsRequest(
        replica_id=-1,
        topics=[ListOffsetsTopic(name="orders", partitions=[ListOffsetsPartition(partition_index=0, timestamp=1)])],
    )

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        gone = 1

        def fail(operation: str, path: str) -> None:
            nonlocal gone
            if operation == "pread" and path.endswith(".log") and gone:
                gone -= 1
                raise FileNotFoundError(errno.ENOENT, "no such file", path)

        node.files.fail = fail
        answer = await client.ask(request, 7, ListOffsetsResponse)
        assert (gone, answer.topics[0].partitions[0].error_code) == (0, ErrorCode.NONE)
        assert log_of(node).failure is None
        await node.stop()

    run_virtual(1, story)


def test_a_coordinator_whose_commit_fails_is_told_once() -> None:
    """A second future for the same commit was nobody's: "exception was never retrieved"."""
    complaints: list[object] = []

    async def story(loop: VirtualLoop) -> None:
        node, _ = await started(loop, **{"log.flush.interval.messages": 1})
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        assert node.broker is not None
        log = ReplicatedCoordinatorLog(node.broker.replicas)
        node.files.fail = failing("sync")
        offset = log.append("orders", 0, build_batch([Record(0, 1, b"k", b"v")]))
        assert isinstance(offset, int)
        with pytest.raises(KafkaStorageError):
            await log.committed("orders", 0, offset)
        gc.collect()
        node.files.fail = None
        await node.stop()

    run_virtual(1, story)
    assert complaints == []
