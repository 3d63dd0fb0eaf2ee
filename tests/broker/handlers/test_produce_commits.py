"""With flush.messages=1: answers that wait for an fsync, read by position or decoded. Nobody can tell them apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.broker.story import replace_short_cut, started

from ottla.broker.context import Session, ShortCut
from ottla.broker.handlers.produce_commits import CommittedAnswer
from ottla.broker.replicas.partition import Partition
from ottla.errors import ErrorCode
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.storage.group_commit import Then
from ottla.storage.log import PartitionLog
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

TIMEOUT_S = 5
NONE, TIMED_OUT, STORAGE = ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.KAFKA_STORAGE_ERROR

both_ways = pytest.mark.parametrize("by_position", [True, False], ids=["by position", "decoded"])


class Commits:
    """Commits of one partition that end when the test says so."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.waiting: list[Then] = []
        partition._commits = self

    def commit(self, log: PartitionLog, then: Then) -> None:
        self.waiting.append(then)

    def end(self, error: Exception | None = None) -> None:
        if error is None:
            self.partition.log.flush()
        self.waiting.pop(0)(error)


async def begun(loop: VirtualLoop, *, by_position: bool) -> tuple[SimulatedBroker, WireClient, list[Commits]]:
    """A broker whose topic has three partitions, with their commits in hand."""
    node, client = await started(loop, **{"log.flush.interval.messages": 1, "num.partitions": 3})
    assert node.broker is not None
    await client.ask(request(node, 0, 1, 2), 9, ProduceResponse)  # the first batch of a log is nothing ordinary

    def checked(short_cut: ShortCut, frame: memoryview, version: int, session: Session) -> Any:
        answer = short_cut.handle_frame(frame, version, session) if by_position else None
        assert isinstance(answer, CommittedAnswer) == by_position
        return answer

    replace_short_cut(node.broker.dispatcher, checked)
    found = [node.broker.replicas.partition("orders", index) for index in range(3)]
    return node, client, [Commits(partition) for partition in found if partition is not None]


def request(node: SimulatedBroker, *indexes: int, acks: int = -1, value: bytes = b"x") -> ProduceRequest:
    batch = bytes(build_batch([Record(0, node.clock.wall_ms(), None, value)]))
    data = [PartitionProduceData(index=index, records=batch) for index in indexes]
    topics = [TopicProduceData(name="orders", partition_data=data)]
    return ProduceRequest(acks=acks, timeout_ms=TIMEOUT_S * 1000, topic_data=topics)


def parts(answer: ProduceResponse) -> list[PartitionProduceResponse]:
    return answer.responses[0].partition_responses


@both_ways
@pytest.mark.parametrize("version", [3, 7, 9, 12])
@pytest.mark.parametrize("acks", [1, -1])
def test_each_partition_is_answered_with_what_became_of_it(acks: int, version: int, by_position: bool) -> None:
    """1. Three partitions wait. 2. One is committed, one fails, one is late. 3. Each has its own answer."""

    async def story(loop: VirtualLoop) -> None:
        node, client, commits = await begun(loop, by_position=by_position)
        before = loop.time()
        answered = client.send(request(node, 0, 1, 2, acks=acks), version)
        await asyncio.sleep(1)
        commits[0].end()
        commits[1].end(OSError(5, "the disk is gone"))
        await asyncio.sleep(1)
        assert not answered.done()
        answer = await answered
        assert loop.time() - before == pytest.approx(TIMEOUT_S, abs=0.1)
        assert isinstance(answer, ProduceResponse)
        lowest = 0 if version >= 5 else -1
        assert [
            (part.index, part.error_code, part.base_offset, part.log_append_time_ms, part.log_start_offset)
            for part in parts(answer)
        ] == [(0, NONE, 1, -1, lowest), (1, STORAGE, -1, -1, -1), (2, TIMED_OUT, -1, -1, -1)]
        assert all(part.error_message is None and not part.record_errors for part in parts(answer))
        # What was late is committed all the same, and nobody is told twice.
        commits[2].end()
        assert commits[2].partition.log.high_watermark == 2
        await node.stop()

    run_virtual(1, story)


@both_ways
def test_resigning_answers_what_waits(by_position: bool) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client, commits = await begun(loop, by_position=by_position)
        answered = client.send(request(node, 0), 9)
        await asyncio.sleep(1)
        commits[0].partition.resign()
        answer = await answered
        assert isinstance(answer, ProduceResponse)
        assert parts(answer)[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        await node.stop()

    run_virtual(1, story)


@both_ways
def test_requests_of_one_connection_are_appended_at_once_and_answered_in_order(by_position: bool) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client, commits = await begun(loop, by_position=by_position)
        order: list[int] = []

        def noted(number: int) -> Callable[[object], None]:
            return lambda _answer: order.append(number)

        answers = [client.send(request(node, index), 9) for index in (0, 1, 2)]
        for number, answer in enumerate(answers):
            answer.add_done_callback(noted(number))
        await asyncio.sleep(1)
        assert [held.partition.log.log_end_offset for held in commits] == [2, 2, 2]
        for index in (2, 1, 0):
            assert not order
            commits[index].end()
            await asyncio.sleep(0.1)
        assert order == [0, 1, 2]
        await node.stop()

    run_virtual(1, story)


@both_ways
def test_a_client_that_goes_away_takes_nothing_back(by_position: bool) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client, commits = await begun(loop, by_position=by_position)
        assert node.broker is not None
        budget = node.broker.server.budget
        before = budget.used
        answered = client.send(request(node, 0, value=b"x" * 5_000), 9)
        await asyncio.sleep(1)
        assert budget.used - before >= 5_000
        client.close()
        with pytest.raises(ConnectionResetError):
            await answered
        commits[0].end()
        await asyncio.sleep(1)
        assert commits[0].partition.log.high_watermark == 2
        assert budget.used == before
        await node.stop()

    run_virtual(1, story)


def test_time_is_over_for_each_request_when_its_own_is() -> None:
    """1. A patient request, then a hasty one. 2. The hasty one is late first. 3. The patient one is committed in time."""

    async def story(loop: VirtualLoop) -> None:
        node, client, commits = await begun(loop, by_position=True)
        patient, hasty = request(node, 0), request(node, 1)
        hasty.timeout_ms = 1_000
        first = client.send(patient, 9)
        other = await node.connect()
        second = other.send(hasty, 9)
        await asyncio.sleep(2)
        assert second.done()
        assert not first.done()
        commits[0].end()
        answers = [await first, await second]
        assert [parts(answer)[0].error_code for answer in answers if isinstance(answer, ProduceResponse)] == [
            NONE,
            TIMED_OUT,
        ]
        await node.stop()

    run_virtual(1, story)


def test_what_was_appended_by_position_waits_when_a_later_batch_needs_a_second_look() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1, "num.partitions": 2})
        assert node.broker is not None
        await client.ask(request(node, 0, 1), 9, ProduceResponse)
        partition = node.broker.replicas.partition("orders", 0)
        assert partition is not None
        commits = Commits(partition)
        both = request(node, 0, 1)
        both.topic_data[0].partition_data[1].records = bytes(100)
        answered = client.send(both, 9)
        await asyncio.sleep(1)
        assert not answered.done()
        commits.end()
        answer = await answered
        assert isinstance(answer, ProduceResponse)
        assert [part.error_code for part in parts(answer)] == [NONE, ErrorCode.CORRUPT_MESSAGE]
        await node.stop()

    run_virtual(1, story)


def test_a_disk_that_fails_during_the_shared_sync_acknowledges_nothing() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1, "num.partitions": 4})
        assert node.broker is not None
        everywhere = request(node, 0, 1, 2, 3)
        first = await client.ask(everywhere, 9, ProduceResponse)  # new logs have more to sync than data
        assert [part.error_code for part in parts(first)] == [NONE] * 4
        syncs = 0

        def fail(operation: str, path: str) -> None:
            nonlocal syncs
            if operation == "sync_file_system":
                syncs += 1
                raise OSError(5, "the disk is gone", path)

        node.files.fail = fail
        answer = await client.ask(everywhere, 9, ProduceResponse)
        assert [part.error_code for part in parts(answer)] == [STORAGE] * 4
        await asyncio.sleep(1)
        assert node.broker.logs.offline_dirs
        assert syncs == 1
        node.files.fail = None
        await node.stop()

    run_virtual(1, story)
