"""Guards of transactions that are about to begin (KIP-890): what voids them, and that a refused batch leaves no trace."""

from __future__ import annotations

import pytest
from tests.storage.log_support import NOW, idempotent, lead_and_append, marker, open_log

from ottla.errors import InvalidTxnStateError, NotLeaderOrFollowerError
from ottla.protocol.records.control import ControlType
from ottla.storage.appended import AppendInfo
from ottla.storage.log import PartitionLog
from ottla.storage.verification import UNCHECKED, Verification
from ottla.types import AppendOrigin

COMMIT = ControlType.COMMIT
DAY = 86_400_000


def verified(log: PartitionLog, *, epoch: int = 0, leader_epoch: int = 1, coordinator_epoch: int = 5) -> Verification:
    """Take a guard for producer 7, as if a coordinator of this epoch had confirmed its transaction."""
    return Verification(log.producers.begin_verification(7, epoch, leader_epoch, NOW), coordinator_epoch)


def send(
    log: PartitionLog,
    verification: Verification | None,
    *,
    sequence: int = 0,
    epoch: int = 0,
    leader_epoch: int = 1,
    origin: AppendOrigin = AppendOrigin.CLIENT,
) -> AppendInfo:
    return lead_and_append(
        log,
        idempotent(7, epoch, sequence, transactional=True),
        leader_epoch=leader_epoch,
        now_ms=NOW,
        origin=origin,
        verification=verification,
    )


def test_a_verified_batch_begins_a_transaction_and_those_behind_it_need_no_guard() -> None:
    log = open_log()
    send(log, verified(log))
    send(log, None, sequence=1)
    assert log.producers.entries[7].current_txn_first_offset == 0


def test_a_batch_that_was_not_verified_begins_no_transaction() -> None:
    log = open_log()
    with pytest.raises(InvalidTxnStateError):
        send(log, None)
    assert log.log_end_offset == 0
    assert not log.producers.has_transactions


def test_without_verification_any_batch_may_begin_one() -> None:
    log = open_log()
    send(log, UNCHECKED)
    assert log.producers.has_transactions


@pytest.mark.parametrize("origin", [AppendOrigin.CLIENT, AppendOrigin.COORDINATOR])
def test_a_marker_voids_the_guards_that_were_taken_before_it(origin: AppendOrigin) -> None:
    """The transaction ended while the coordinator's answer was under way."""
    log = open_log()
    late = verified(log)
    send(log, verified(log))
    marker(log, COMMIT, 7, 0, coordinator_epoch=5)
    end = log.log_end_offset
    with pytest.raises(InvalidTxnStateError):
        send(log, late, sequence=1, origin=origin)
    assert (log.log_end_offset, log.producers.entries[7].current_txn_first_offset) == (end, -1)
    send(log, verified(log), sequence=1, origin=origin)


def test_a_marker_without_a_transaction_voids_guards_as_well() -> None:
    """The partition was added, no record of it arrived, the transaction was aborted."""
    log = open_log()
    late = verified(log)
    marker(log, ControlType.ABORT, 7, 0, coordinator_epoch=5)
    with pytest.raises(InvalidTxnStateError):
        send(log, late)


def test_the_guard_of_the_next_transaction_is_not_that_of_the_last() -> None:
    """Before transaction version 2 both have the same epoch: a late batch must not come in with the next guard."""
    log = open_log()
    late = verified(log)
    marker(log, ControlType.ABORT, 7, 0, coordinator_epoch=5)
    current = verified(log)
    with pytest.raises(InvalidTxnStateError):
        send(log, late)
    send(log, current)


def test_a_deposed_coordinator_verifies_nothing_once_its_successor_has_written_a_marker() -> None:
    """zombie_verifies: it takes the transaction for open that a coordinator of epoch 6 has ended."""
    log = open_log()
    marker(log, ControlType.ABORT, 7, 0, coordinator_epoch=6)
    with pytest.raises(InvalidTxnStateError, match="epoch 5"):
        send(log, verified(log, coordinator_epoch=5))
    send(log, verified(log, coordinator_epoch=6))


def test_a_guard_belongs_to_one_leader_epoch() -> None:
    log = open_log()
    verification = verified(log, leader_epoch=1)
    with pytest.raises(NotLeaderOrFollowerError):
        send(log, verification, leader_epoch=2)
    send(log, verified(log, leader_epoch=2), leader_epoch=2)


def test_requests_of_one_transaction_that_verify_at_once_share_a_guard() -> None:
    log = open_log()
    first, second = verified(log), verified(log)
    send(log, first)
    send(log, second, sequence=1)
    assert log.log_end_offset == 2


def test_a_zombie_does_not_take_the_guard_of_its_successor_away() -> None:
    log = open_log()
    successor = verified(log, epoch=1)
    zombie = verified(log, epoch=0)
    with pytest.raises(InvalidTxnStateError):
        send(log, zombie, epoch=0)
    send(log, successor, epoch=1)


def test_a_repeated_batch_is_answered_with_its_old_offset_and_needs_no_guard() -> None:
    log = open_log()
    send(log, verified(log))
    marker(log, COMMIT, 7, 0, coordinator_epoch=5)
    send(log, verified(log), sequence=1)
    assert send(log, None, sequence=1).duplicate


def test_guards_are_no_part_of_snapshots_and_do_not_stay_for_ever() -> None:
    log = open_log()
    verification = verified(log)
    log.expire_producers(NOW + DAY)
    with pytest.raises(InvalidTxnStateError):
        send(log, verification)
    log.producers.load(log.producers.snapshot(), 0, NOW)
    with pytest.raises(InvalidTxnStateError):
        send(log, verified(log)._replace(guard=verification.guard))
