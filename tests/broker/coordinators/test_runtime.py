"""The runtime with the group coordinator's shard and a log in memory: gathering, waiting, failing, loading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.broker.coordinators.group_world import GroupWorld, in_group_world
from tests.protocol.records.legacy_support import CODECS, entries

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.coordinator import Commit, GroupCoordinator
from ottla.broker.coordinators.groups.offsets import PartitionCommit
from ottla.broker.coordinators.groups.records import CommittedOffset
from ottla.broker.coordinators.pipeline import UNCOMMITTED_BATCHES_MAX
from ottla.broker.coordinators.runtime import RuntimeConfig
from ottla.broker.coordinators.shard import Result
from ottla.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    ErrorCode,
    KafkaError,
    KafkaStorageError,
    NotCoordinatorError,
    RecordListTooLargeError,
    RequestTimedOutError,
    UnknownServerError,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.types import CompressionType


def commit(
    world: GroupWorld, offset: int, group: str = "s", partition: int = 0, metadata: str = ""
) -> asyncio.Future[Any]:
    """Commit one offset of a simple group."""
    request = Commit(group, -1, "", None, -1, [PartitionCommit("orders", bytes(16), partition, offset, -1, metadata)])
    return world.runtime.write(0, lambda shard, now_ms: shard.commit_offsets(request, now_ms))


def committed(world: GroupWorld, group: str = "s", partition: int = 0) -> int:
    """Return the offset a client would be given."""
    return world.runtime.read(
        0, lambda shard: shard.fetch_offsets(group, [("orders", bytes(16), [partition])], stable=False)
    )[0][0].offset


def decided(world: GroupWorld, group: str = "s") -> int:
    """Return the offset the next decision would see."""
    return world.runtime.read(0, lambda shard: shard.fetch_offsets(group, [("orders", bytes(16), [0])], stable=True))[
        0
    ][0].offset


def test_commits_of_one_turn_share_an_append() -> None:
    async def main(world: GroupWorld) -> None:
        await asyncio.gather(*(commit(world, offset) for offset in range(50)))
        assert world.log.sizes(0) == [50]
        assert committed(world) == 49

    in_group_world(main)


def test_what_comes_while_a_commit_is_awaited_does_not_wait_for_it() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        first = commit(world, 1)
        await world.settle()
        rest = [commit(world, offset) for offset in (2, 3)]
        await world.settle()
        rest.append(commit(world, 4))
        await world.settle()
        assert world.log.sizes(0) == [1, 2, 1]
        assert world.runtime.uncommitted_batches(0) == 3
        world.log.hold = False
        world.log.release()
        await asyncio.gather(first, *rest)
        assert world.runtime.uncommitted_batches(0) == 0

    in_group_world(main)


def test_what_comes_while_an_append_is_under_way_shares_the_next() -> None:
    """A slow disk: where the batch lies in the log is not known yet, so the next one may not follow."""

    async def main(world: GroupWorld) -> None:
        disk: asyncio.Future[None] = world.loop.create_future()
        append = world.log.append

        async def append_slowly(*arguments: Any) -> int:
            await disk
            offset = append(*arguments)
            assert isinstance(offset, int)
            return offset

        world.log.append = append_slowly  # type: ignore[method-assign,assignment]
        first = commit(world, 1)
        await world.settle()
        rest = [commit(world, 2)]
        await world.settle()
        rest.append(commit(world, 3))
        await world.settle()
        assert world.log.sizes(0) == []
        disk.set_result(None)
        await asyncio.gather(first, *rest)
        assert world.log.sizes(0) == [1, 2]

    in_group_world(main)


def test_the_high_watermark_answers_in_order_and_no_further_than_it_has_come() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        waiting = []
        for offset in (5, 6, 7, 8):
            waiting.append(commit(world, offset))
            await world.settle()
        world.log.commit_up_to(0, 3)
        await world.settle()
        assert [future.done() for future in waiting] == [True, True, True, False]
        assert (committed(world), decided(world)) == (7, 8)
        world.log.commit_up_to(0, 4)
        await world.settle()
        assert waiting[3].done()
        assert committed(world) == 8

    in_group_world(main)


def test_so_many_batches_are_in_flight_as_commits_take_turns() -> None:
    """Commits take 10.5 ms and a batch comes every millisecond: ten are in flight, none waits for another's commit."""

    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        in_flight = []
        latencies = []

        async def one(offset: int) -> None:
            started = world.loop.time()
            future = commit(world, offset)
            await asyncio.sleep(0)
            world.loop.call_later(0.0105, world.log.commit_up_to, 0, world.log.end_offset("", 0))
            await future
            latencies.append(world.loop.time() - started)

        tasks = []
        for offset in range(50):
            tasks.append(asyncio.ensure_future(one(offset)))
            await asyncio.sleep(0.001)
            in_flight.append(world.runtime.uncommitted_batches(0))
        await asyncio.gather(*tasks)
        assert max(in_flight) == 10
        assert max(latencies) == pytest.approx(0.0105)
        assert world.log.sizes(0) == [1] * 50

    in_group_world(main)


def test_batches_in_flight_are_bounded_and_what_comes_then_gathers() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        waiting = []
        for offset in range(UNCOMMITTED_BATCHES_MAX + 20):
            waiting.append(commit(world, offset))
            await world.settle()
        assert world.runtime.uncommitted_batches(0) == UNCOMMITTED_BATCHES_MAX
        world.log.hold = False
        world.log.release()
        await asyncio.gather(*waiting)
        assert world.log.sizes(0) == [1] * UNCOMMITTED_BATCHES_MAX + [20]

    in_group_world(main)


def test_linger_gathers_for_longer() -> None:
    async def main(world: GroupWorld) -> None:
        first = commit(world, 1)
        await asyncio.sleep(0.008)
        second = commit(world, 2)
        await asyncio.gather(first, second)
        assert world.loop.time() == pytest.approx(0.010)
        assert world.log.sizes(0) == [2]

    in_group_world(main, runtime_config=RuntimeConfig(append_linger_ms=10))


def test_decisions_see_what_clients_do_not_see_yet() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        waiting = commit(world, 5)
        await world.settle()
        assert not waiting.done()
        assert (committed(world), decided(world)) == (-1, 5)
        world.log.release()
        await waiting
        assert (committed(world), decided(world)) == (5, 5)

    in_group_world(main)


def test_a_failed_append_undoes_everything_decided_on_top_of_it() -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        world.log.failures.append((KafkaStorageError("full"), False))
        failing = commit(world, 2)
        await asyncio.sleep(0)  # flushed, the failure is on its way
        with pytest.raises(KafkaStorageError):
            await failing
        assert (committed(world), decided(world)) == (1, 1)
        assert world.log.end_offset("", 0) == 1
        await commit(world, 3)
        assert committed(world) == 3

    in_group_world(main)


def test_a_failed_append_leaves_alone_what_is_in_the_log_already() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        first = commit(world, 1)
        await world.settle()
        world.log.failures.append((KafkaStorageError("full"), False))
        second = commit(world, 2)
        with pytest.raises(KafkaStorageError):
            await second
        assert (committed(world), decided(world)) == (-1, 1)
        third = commit(world, 3)
        await world.settle()
        assert not first.done()
        world.log.release()
        await asyncio.gather(first, third)
        assert committed(world) == 3
        assert world.runtime.load_count == 1

    in_group_world(main)


def test_batches_queued_behind_a_failed_append_fail_with_it() -> None:
    async def main(world: GroupWorld) -> None:
        disk: asyncio.Future[int] = world.loop.create_future()
        world.log.append = lambda *_: disk  # type: ignore[method-assign]
        first = commit(world, 1)
        await world.settle()
        second = commit(world, 2)
        disk.set_exception(KafkaStorageError("full"))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [KafkaStorageError, KafkaStorageError]
        assert decided(world) == -1
        assert world.runtime.load_count == 1

    in_group_world(main)


def test_a_commit_that_fails_makes_the_partition_load_again() -> None:
    """What is in the log may or may not stay there: the log tells, once its end is committed."""

    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        first = commit(world, 1)
        await world.settle()
        second = commit(world, 2)
        await world.settle()
        world.log.fail_commits(KafkaStorageError("no fsync"))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [KafkaStorageError, KafkaStorageError]
        with pytest.raises(CoordinatorLoadInProgressError):
            committed(world)
        world.log.release()
        await world.settle()
        assert committed(world) == 2

    in_group_world(main)


def test_a_log_that_another_has_written_to_is_loaded_again() -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        append = world.log.append

        def append_behind_a_stranger(*arguments: Any) -> Any:
            world.log.append = append  # type: ignore[method-assign]
            written = records.encode(records.offset_commit("s", "orders", 0, CommittedOffset(77)))
            world.log.inject(0, build_batch([Record(0, 0, *written)]))
            return append(*arguments)

        world.log.append = append_behind_a_stranger  # type: ignore[method-assign,assignment]
        with pytest.raises(UnknownServerError):
            await commit(world, 2)
        await world.settle()
        assert world.runtime.load_count == 2
        assert committed(world) == 2

    in_group_world(main)


def test_a_failed_append_that_reached_the_log_makes_it_load_again() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.failures.append((RequestTimedOutError(), True))
        with pytest.raises(RequestTimedOutError):
            await commit(world, 7)
        with pytest.raises(CoordinatorLoadInProgressError):
            committed(world)
        await world.settle()
        assert committed(world) == 7
        assert world.runtime.load_count == 2

    in_group_world(main)


def test_nobody_waits_longer_than_the_timeout() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        early = commit(world, 1)
        await asyncio.sleep(0.060)
        late = commit(world, 2)
        with pytest.raises(RequestTimedOutError):
            await early
        assert world.loop.time() == pytest.approx(0.1)
        with pytest.raises(RequestTimedOutError):
            await late
        assert world.loop.time() == pytest.approx(0.160)
        world.log.hold = False
        world.log.release()
        await world.settle()
        assert committed(world) == 2

    in_group_world(main, runtime_config=RuntimeConfig(append_timeout_ms=100))


def test_a_timed_out_batch_gives_those_who_come_later_their_own_time() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        in_flight = commit(world, 1)
        await world.settle()
        gathering = commit(world, 2)
        await asyncio.gather(in_flight, gathering, return_exceptions=True)
        again = commit(world, 3)
        with pytest.raises(RequestTimedOutError):
            await again
        assert world.loop.time() == pytest.approx(0.2)

    in_group_world(main, runtime_config=RuntimeConfig(append_timeout_ms=100))


def test_large_gatherings_are_cut_between_operations() -> None:
    async def main(world: GroupWorld) -> None:
        waiting = [commit(world, 1, partition=index, metadata="x" * 400) for index in range(4)]
        await asyncio.gather(*waiting)
        assert world.log.sizes(0) == [2, 2]

    in_group_world(main, runtime_config=RuntimeConfig(batch_bytes_max=1200))


def test_an_operation_that_does_not_fit_into_a_batch_is_refused() -> None:
    async def main(world: GroupWorld) -> None:
        with pytest.raises(RecordListTooLargeError):
            await commit(world, 1, metadata="x" * 2000)
        assert decided(world) == -1
        assert world.log.batch_count == 0

    in_group_world(main, runtime_config=RuntimeConfig(batch_bytes_max=1200))


def test_an_operation_that_may_be_split_is_split() -> None:
    async def main(world: GroupWorld) -> None:
        written = [
            records.offset_commit("s", "orders", index, CommittedOffset(index, metadata="x" * 400))
            for index in range(5)
        ]
        future = world.runtime.write(0, lambda shard, now_ms: Result("done", written, atomic=False))
        assert await future == "done"
        assert world.log.sizes(0) == [2, 2, 1]
        assert committed(world, partition=4) == 4

    in_group_world(main, runtime_config=RuntimeConfig(batch_bytes_max=1200))


def test_writes_are_refused_behind_a_log_that_does_not_keep_up() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        waiting = []
        for _ in range(2 * UNCOMMITTED_BATCHES_MAX):
            try:
                waiting.append(commit(world, 1, metadata="x" * 900))
            except CoordinatorNotAvailableError:
                break
            await world.settle()
        assert UNCOMMITTED_BATCHES_MAX + 5 < len(waiting) < UNCOMMITTED_BATCHES_MAX + 20
        world.log.hold = False
        world.log.release()
        await asyncio.gather(*waiting)

    in_group_world(main, runtime_config=RuntimeConfig(batch_bytes_max=1200))


def test_a_log_that_keeps_up_takes_any_number_of_writes_in_one_turn() -> None:
    """Thousands of members may join at once: what fills a batch is appended without waiting for the end of the turn."""

    async def main(world: GroupWorld) -> None:
        waiting = [commit(world, offset, metadata="x" * 900) for offset in range(100)]
        assert len(world.log.sizes(0)) == 99
        assert [future.done() for future in waiting] == [True] * 99 + [False]
        await asyncio.gather(*waiting)
        assert world.log.sizes(0) == [1] * 100
        assert committed(world) == 99

    in_group_world(main, runtime_config=RuntimeConfig(batch_bytes_max=1200))


def test_a_full_batch_that_fails_takes_with_it_what_was_decided_on_top_of_it() -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        world.log.failures.append((KafkaStorageError("full"), False))
        failing = [commit(world, offset, metadata="x" * 900) for offset in (2, 3)]
        results = await asyncio.gather(*failing, return_exceptions=True)
        assert [type(result) for result in results] == [KafkaStorageError, KafkaStorageError]
        assert (committed(world), decided(world)) == (1, 1)
        await commit(world, 4)
        assert committed(world) == 4

    in_group_world(main, runtime_config=RuntimeConfig(batch_bytes_max=1200))


def test_a_refusal_is_answered_in_place_of_the_error() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.failures.append((KafkaStorageError("full"), False))
        written = [records.offset_commit("s", "orders", 0, CommittedOffset(1))]
        answer = await world.runtime.write(
            0, lambda shard, now_ms: Result("done", written), refusal=lambda error: f"no: {error.code.name}"
        )
        assert answer == "no: KAFKA_STORAGE_ERROR"

    in_group_world(main)


def test_batches_are_compressed_as_configured() -> None:
    async def main(world: GroupWorld) -> None:
        await asyncio.gather(*(commit(world, 1, partition=index) for index in range(20)))
        assert world.log._batches[0][0][22] & 7 == CompressionType.ZSTD
        await world.reload()
        assert committed(world, partition=19) == 1

    in_group_world(main, runtime_config=RuntimeConfig(compression=CompressionType.ZSTD))


def test_partitions_of_others_are_refused() -> None:
    async def main(world: GroupWorld) -> None:
        for attempt in (
            lambda: world.runtime.write(5, lambda shard, now_ms: Result(None)),
            lambda: world.runtime.run(5, lambda shard, now_ms: Result(None)),
            lambda: world.runtime.read(5, lambda shard: None),
        ):
            with pytest.raises(NotCoordinatorError):
                attempt()

    in_group_world(main)


def test_resigning_answers_everybody() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        in_flight = commit(world, 1)
        await world.settle()
        gathering = commit(world, 2)
        world.runtime.on_resign(0)
        results = await asyncio.gather(in_flight, gathering, return_exceptions=True)
        assert [type(result) for result in results] == [NotCoordinatorError, NotCoordinatorError]
        world.log.release()  # the late commit of a partition given away is nobody's business
        await world.settle()

    in_group_world(main)


def test_roles_of_older_epochs_change_nothing() -> None:
    async def main(world: GroupWorld) -> None:
        world.runtime.on_leader(0, 5)
        await world.settle()
        world.runtime.on_resign(0, 3)
        world.runtime.on_leader(0, 4)
        assert world.runtime.leader_epoch(0) == 5
        world.runtime.on_resign(0, 6)
        assert world.runtime.loaded_partitions == []
        world.runtime.on_leader(0, 5)
        await world.settle()
        assert world.runtime.loaded_partitions == []
        world.runtime.on_resign(0)  # the topic is deleted; the next of its name begins with epoch 0
        world.runtime.on_leader(0, 0)
        await world.settle()
        assert world.runtime.leader_epoch(0) == 0

    in_group_world(main)


def test_the_same_role_again_changes_nothing() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        waiting = commit(world, 1)
        await world.settle()
        world.runtime.on_leader(0, 1)
        world.log.release()
        await waiting
        assert world.runtime.load_count == 1

    in_group_world(main)


def test_a_newer_epoch_loads_the_partition_again() -> None:
    """Other brokers may have led, and written, between two epochs of this one."""

    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        world.log.hold = True
        waiting = commit(world, 2)
        await world.settle()
        world.runtime.on_leader(0, 2)
        with pytest.raises(NotCoordinatorError):
            await waiting
        with pytest.raises(CoordinatorLoadInProgressError):
            committed(world)
        world.runtime.on_leader(0, 3)  # while it is being loaded
        world.log.hold = False
        world.log.release()
        await world.settle()
        assert (world.runtime.leader_epoch(0), committed(world)) == (3, 2)
        assert world.runtime.load_count == 2

    in_group_world(main)


def test_a_partition_given_away_while_loading_stays_away() -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        world.runtime.on_resign(0)
        world.runtime.on_leader(0, 2)
        with pytest.raises(CoordinatorLoadInProgressError):
            commit(world, 2)
        with pytest.raises(CoordinatorLoadInProgressError):
            list(world.runtime.read_all(lambda shard: shard))
        world.runtime.on_resign(0)
        await world.settle()
        assert world.runtime.loaded_partitions == []
        with pytest.raises(NotCoordinatorError):
            commit(world, 2)

    in_group_world(main)


def test_loading_waits_for_what_is_written_but_not_committed() -> None:
    async def main(world: GroupWorld) -> None:
        world.log.hold = True
        waiting = commit(world, 9)
        await world.settle()
        world.runtime.on_resign(0)
        with pytest.raises(NotCoordinatorError):
            await waiting
        world.runtime.on_leader(0, 2)
        await asyncio.sleep(0.5)
        with pytest.raises(CoordinatorLoadInProgressError):
            committed(world)
        world.log.release()
        await asyncio.sleep(0.05)
        assert committed(world) == 9

    in_group_world(main)


def test_loading_ends_where_compaction_left_nothing() -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        await commit(world, 2)
        world.log._batches[0].pop()
        world.runtime.on_resign(0)
        world.runtime.on_leader(0, 2)
        await world.settle()
        assert committed(world) == 1
        await commit(world, 3)
        assert committed(world) == 3

    in_group_world(main)


def test_a_load_that_fails_leaves_the_partition_without_coordinator_until_the_next_election() -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        good = world.log._batches[0]
        world.log._batches[0] = [good[0][:-1] + b"\xff"]
        world.log.inject(0, build_batch([Record(0, 0, b"\x00\x01\x00", b"")]))
        world.runtime.on_resign(0)
        world.runtime.on_leader(0, 2)
        await world.settle()
        with pytest.raises(NotCoordinatorError):
            committed(world)
        world.log._batches[0] = good
        world.runtime.on_leader(0, 3)
        await world.settle()
        assert committed(world) == 1

    in_group_world(main)


def test_a_long_log_gives_the_loop_its_turns() -> None:
    async def main(world: GroupWorld) -> None:
        await asyncio.gather(*(commit(world, offset, partition=offset) for offset in range(3000)))
        world.runtime.on_resign(0)
        world.runtime.on_leader(0, 2)
        turns = 0
        while not world.runtime.loaded_partitions:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 10
        assert committed(world, partition=2999) == 2999

    in_group_world(main)


def test_unknown_record_types_are_skipped() -> None:
    async def main(world: GroupWorld) -> None:
        of_another_type = Record(0, 0, b"\x00\x63\x00\x01g", b"\x00\x00\x00\x00\x00\x05\x00")
        from_the_future = Record(1, 0, b"\x00\x02\x00\x01g", b"\x00\x63whatever")
        short = Record(2, 0, b"\x00", None)
        world.log.inject(0, build_batch([of_another_type, from_the_future, short]))
        await world.reload()
        assert world.runtime.loaded_partitions == [0]
        assert len(world.shard().groups) == 0

    in_group_world(main)


def test_a_barrier_answers_when_what_was_before_is_committed() -> None:
    async def main(world: GroupWorld) -> None:
        nothing_before = world.runtime.write(0, lambda shard, now_ms: Result("at once", barrier=True))
        assert nothing_before.done()
        world.log.hold = True
        written = commit(world, 1)
        barrier = world.runtime.write(0, lambda shard, now_ms: Result("later", barrier=True))
        await world.settle()
        assert not barrier.done()
        world.log.release()
        assert await barrier == "later"
        assert written.done()

    in_group_world(main)


def test_an_operation_that_is_refused_leaves_no_trace() -> None:
    async def main(world: GroupWorld) -> None:
        def refuse(shard: GroupCoordinator, now_ms: int) -> Result[None]:
            raise KafkaStorageError("no")

        with pytest.raises(KafkaError):
            world.runtime.write(0, refuse)
        await world.settle()
        assert world.log.batch_count == 0

    in_group_world(main)


def test_partitions_deleted_while_loading_are_forgotten_after_it() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 7, 1)
        await commit(world, 1)
        world.runtime.on_resign(0)
        world.runtime.on_leader(0, 2)
        world.delete_topic("orders")
        await world.settle()
        assert committed(world) == -1

    in_group_world(main)


@pytest.mark.parametrize(("marker", "expected"), [("commit", 5), ("abort", 1), (None, 1)])
def test_transactions_in_the_log_are_replayed_with_their_markers(marker: str | None, expected: int) -> None:
    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        key, value = records.encode(records.offset_commit("s", "orders", 0, CommittedOffset(5)))
        world.log.inject(
            0, build_batch([Record(0, 0, key, value)], producer_id=9, producer_epoch=0, transactional=True)
        )
        if marker is not None:
            kind = ControlType.COMMIT if marker == "commit" else ControlType.ABORT
            world.log.inject(0, end_transaction_marker(kind, 0, producer_id=9, producer_epoch=0, timestamp_ms=0))
        await world.reload()
        assert committed(world) == expected
        (row,) = world.shard().fetch_offsets("s", [("orders", bytes(16), [0])], stable=True)
        assert (row[0].error_code == ErrorCode.UNSTABLE_OFFSET_COMMIT) == (marker is None)

    in_group_world(main)


def read_as(world: GroupWorld, data: bytes) -> None:
    """Have the log of partition 0 read as these bytes, in one piece."""
    read = world.log.read

    async def read_instead(topic: str, partition: int, from_offset: int, max_bytes: int) -> bytes:
        return data if partition == 0 else await read(topic, partition, from_offset, max_bytes)

    world.log.read = read_instead  # type: ignore[method-assign]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_offsets_that_an_old_kafka_wrote_in_formats_0_and_1_are_loaded(magic: int, codec: CompressionType) -> None:
    async def main(world: GroupWorld) -> None:
        await asyncio.gather(*(commit(world, 100 + index, partition=index) for index in range(5)))
        read_as(world, entries(world.log.records(0), codec, magic=magic))
        await world.reload()
        assert [committed(world, partition=index) for index in range(5)] == [100, 101, 102, 103, 104]
        await commit(world, 200)
        assert committed(world) == 200

    in_group_world(main)


def put(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda second: put(second, 8, (len(second) - 11).to_bytes(4)), " left"),
        (lambda second: put(second, 8, (1 << 30).to_bytes(4)), " left"),
        (lambda second: put(second, 8, (40).to_bytes(4)), "length of 40"),
        (lambda second: second[:-1], " left"),
        (lambda second: bytes(len(second)), "0 bytes"),
        (lambda second: put(second, 16, b"\x07"), "magic byte is 7"),
        (lambda second: put(second, len(second) - 3, b"\xff"), "CRC"),
        (lambda second: put(second, 0, (0).to_bytes(8)), "offset 0 where 1 comes next"),
    ],
)
def test_a_damaged_batch_is_not_taken_for_the_end_of_the_log(
    damage: Callable[[bytes], bytes], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The offsets behind it would be lost without a word, and consumers would start elsewhere."""

    async def main(world: GroupWorld) -> None:
        await commit(world, 1)
        await commit(world, 2)
        other = Commit("t", -1, "", None, -1, [PartitionCommit("orders", bytes(16), 0, 7, -1, "")])
        await world.runtime.write(1, lambda shard, now_ms: shard.commit_offsets(other, now_ms))
        first, second = world.log._batches[0]
        read_as(world, first + damage(second))
        await world.reload()
        with pytest.raises(NotCoordinatorError):
            committed(world)
        assert world.runtime.loaded_partitions == [1]
        answer = world.runtime.read(
            1, lambda shard: shard.fetch_offsets("t", [("orders", bytes(16), [0])], stable=False)
        )
        assert answer[0][0].offset == 7

    in_group_world(main, partition_count=2)
    assert "__consumer_offsets-0: loading failed" in caplog.text
    assert reason in caplog.text
