"""One share partition, step by step: who gets which offsets, and what is written."""

from __future__ import annotations

import pytest

from ottla.broker.coordinators.share.batches import StateBatch
from ottla.broker.share.config import ShareConfig
from ottla.broker.share.share_partition import (
    ACCEPT,
    REJECT,
    RELEASE,
    Acknowledgement,
    Acquired,
    AcquireRequest,
    SharePartition,
)
from ottla.errors import ErrorCode, KafkaError

CONFIG = ShareConfig(delivery_count_limit=5, record_lock_duration_ms=1_000)


def fresh(start: int = 0, batches: tuple[StateBatch, ...] = ()) -> SharePartition:
    return SharePartition(state_epoch=1, leader_epoch=0, start_offset=start, batches=batches)


def acquire(
    state: SharePartition,
    *fetched: tuple[int, int],
    member: str = "one",
    most: int = 500,
    size: int = 500,
    exact: bool = False,
    aborted: tuple[tuple[int, int], ...] = (),
    config: ShareConfig = CONFIG,
    now: int = 0,
) -> list[Acquired]:
    offset = state.next_fetch_offset()
    return state.acquire(AcquireRequest(member, most, size, exact), offset, fetched, aborted, config, now)


def acknowledge(state: SharePartition, first: int, last: int, kind: int, member: str = "one") -> list[StateBatch]:
    transition = state.acknowledge(member, [Acknowledgement(first, last, [kind])], CONFIG, 0)
    written = list(transition.updates)
    state.complete(transition, 0, CONFIG, commit=True)
    return written


def test_whole_batches_are_handed_out_unless_the_limit_is_exact() -> None:
    assert acquire(fresh(), (0, 9), (10, 19), most=12) == [Acquired(0, 19, 1)]
    assert acquire(fresh(), (0, 9), (10, 19), most=12, exact=True) == [Acquired(0, 11, 1)]
    assert acquire(fresh(), (0, 9), (10, 19), (20, 29), size=10) == [
        Acquired(0, 9, 1),
        Acquired(10, 19, 1),
        Acquired(20, 29, 1),
    ]
    assert acquire(fresh(5), (0, 9)) == [Acquired(5, 9, 1)]


def test_what_is_acquired_is_nobody_elses() -> None:
    state = fresh()
    acquire(state, (0, 9))
    assert state.next_fetch_offset() == 10
    assert acquire(state, (0, 9), member="two") == []
    with pytest.raises(KafkaError) as refused:
        acknowledge(state, 0, 9, ACCEPT, "two")
    assert refused.value.code == ErrorCode.INVALID_RECORD_STATE


def test_a_part_that_is_given_back_is_handed_out_alone() -> None:
    state = fresh()
    acquire(state, (0, 9))
    assert acknowledge(state, 3, 4, RELEASE) == [StateBatch(3, 4, 0, 1)]
    assert state.next_fetch_offset() == 3
    assert acquire(state, (0, 9), member="two") == [Acquired(3, 4, 2)]
    assert acknowledge(state, 0, 2, ACCEPT) == [StateBatch(0, 2, 2, 1)]
    assert state.start_offset == 3
    assert acknowledge(state, 3, 4, REJECT, "two") == [StateBatch(3, 4, 4, 2)]
    assert state.start_offset == 5


def test_a_change_that_is_not_persisted_is_taken_back() -> None:
    state = fresh()
    acquire(state, (0, 9))
    transition = state.acknowledge("one", [Acknowledgement(0, 9, [ACCEPT])], CONFIG, 0)
    assert state.write_of(transition.updates).delivery_complete_count == 10
    with pytest.raises(KafkaError):  # on its way already
        state.acknowledge("one", [Acknowledgement(0, 0, [ACCEPT])], CONFIG, 0)
    state.complete(transition, 0, CONFIG, commit=False)
    assert state.start_offset == 0
    assert acknowledge(state, 0, 9, ACCEPT) == [StateBatch(0, 9, 2, 1)]


def test_a_lock_that_ended_while_the_change_failed_gives_the_records_back() -> None:
    state = fresh()
    acquire(state, (0, 9))
    transition = state.acknowledge("one", [Acknowledgement(0, 9, [ACCEPT])], CONFIG, 500)
    assert state.expire(2_000, CONFIG) == []
    state.complete(transition, 2_000, CONFIG, commit=False)
    assert acquire(state, (0, 9), member="two", now=2_000) == [Acquired(0, 9, 2)]


def test_records_that_fail_again_and_again_are_isolated() -> None:
    """Half of the deliveries whole, then in ever smaller pieces, the last delivery one by one."""
    state = fresh()
    sizes = []
    for _ in range(8):
        pieces = acquire(state, (0, 15))
        sizes.append((pieces[0].first, sum(last - first + 1 for first, last, _ in pieces), pieces[0].deliveries))
        for first, last, _ in pieces:
            acknowledge(state, first, last, RELEASE)
    assert sizes[:3] == [(0, 16, 1), (0, 16, 2), (0, 16, 3)]
    assert sizes[3:6] == [(0, 8, 4), (0, 1, 5), (1, 1, 5)]


def test_after_a_load_only_what_was_written_is_known() -> None:
    state = fresh(10, (StateBatch(12, 14, 2, 1), StateBatch(18, 19, 0, 3)))
    assert state.start_offset == 10
    assert acquire(state, (0, 30)) == [Acquired(10, 11, 1), Acquired(15, 17, 1)]
    # These have failed three times: what comes with them is kept small.
    assert acquire(state, (0, 30)) == [Acquired(18, 18, 4)]
    assert acquire(state, (0, 30)) == [Acquired(19, 19, 4)]
    assert acquire(state, (0, 30)) == [Acquired(20, 30, 1)]


def test_what_is_done_at_the_start_is_let_go_after_a_load() -> None:
    assert fresh(0, (StateBatch(0, 4, 2, 1), StateBatch(5, 9, 4, 5))).start_offset == 10


def test_the_log_start_takes_records_away() -> None:
    state = fresh()
    acquire(state, (0, 9), (10, 19), size=10)
    state.on_log_start(5)
    assert state.start_offset == 5
    assert acknowledge(state, 0, 4, ACCEPT) == []
    assert acknowledge(state, 0, 9, ACCEPT) == [StateBatch(5, 9, 2, 1)]
    assert state.start_offset == 10
    state.on_log_start(40)
    assert (state.start_offset, state.next_fetch_offset()) == (40, 40)


def test_aborted_records_are_archived() -> None:
    state = fresh()
    assert acquire(state, (0, 4), (5, 9), (10, 14), aborted=((5, 9),)) == [Acquired(0, 4, 1), Acquired(10, 14, 1)]
    assert acknowledge(state, 0, 4, ACCEPT) == [StateBatch(0, 4, 2, 1)]
    assert state.start_offset == 10


def test_records_that_compaction_took_are_archived() -> None:
    state = fresh()
    acquire(state, (0, 9))
    acknowledge(state, 0, 9, RELEASE)
    assert acquire(state, (12, 15)) == [Acquired(12, 15, 1)]
    assert state.start_offset == 12


def test_locks_limit_the_window() -> None:
    config = ShareConfig(record_locks_max=10)
    state = fresh()
    assert acquire(state, (0, 9), (10, 19), most=500, config=config) == [Acquired(0, 9, 1)]
    assert not state.can_acquire(config)
    acknowledge(state, 4, 4, RELEASE)
    assert state.can_acquire(config)
    assert acquire(state, (0, 9), (10, 19), config=config) == [Acquired(4, 4, 2)]
