"""Permission for a producer to begin a transaction in a partition (KIP-890): a guard, and what the coordinator said under it.

The leader of a partition takes a guard, asks the transaction coordinator, which may be on another broker, whether the
partition takes part in the producer's open transaction, and appends with both. While it asked, the transaction may have
ended: then its marker is in the log, the guard is void, and the append is refused. So no record of a transaction lies behind
its marker, however long the question took. The guard is what Kafka calls VerificationGuard (VerificationStateEntry).

A guard belongs to one leader epoch. The coordinator epoch under which it was verified is remembered: a deposed coordinator
may take a transaction for open that its successor has ended, and the successor's marker has the higher epoch.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class VerificationGuard:
    """Compared by identity: each guard is good for the beginning of one transaction."""

    __slots__ = ("leader_epoch", "producer_epoch", "producer_id", "taken_ms")

    def __init__(self, producer_id: int, producer_epoch: int, leader_epoch: int, taken_ms: int) -> None:
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.leader_epoch = leader_epoch
        self.taken_ms = taken_ms


class Verification(NamedTuple):
    """A guard, and the epoch of the coordinator that confirmed the transaction under it."""

    guard: VerificationGuard
    coordinator_epoch: int


#: For appends that are not verified: verification is switched off, or the batch belongs to no transaction.
UNCHECKED: Final = Verification(VerificationGuard(-1, -1, -1, -1), -1)
