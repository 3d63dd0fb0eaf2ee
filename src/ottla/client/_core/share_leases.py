"""What a member of a share group has acquired, and its sessions with brokers, as values: no rule about them is here.

A lease is one record that is locked for this member; a session is what one broker and the member have in common: leases, and
what is said of them. `share_sessions` decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from ottla.client._core.requests import FOREVER
from ottla.client._core.share_requests import Said
from ottla.errors import KafkaError
from ottla.types import TopicIdPartition, TopicPartition


class LeaseState(Enum):
    """Where a record is."""

    WAITING = "waiting"
    HANDED_OUT = "handed out"
    #: Its lock is renewed.
    HELD = "held"
    DONE = "done"


class Lease:
    """A record that this member has acquired.

    Attributes:
        delivery_count: which delivery of the record this is, from 1.
        gone: its lock has ended for certain: with its session, or because the record was delivered again.
        until_ms: when its lock ends, if it is not renewed.
        since_ms: when it was acquired.
    """

    __slots__ = ("delivery_count", "gone", "offset", "renewing", "session", "since_ms", "state", "until_ms", "where")

    def __init__(
        self,
        session: Session,
        where: TopicIdPartition,
        offset: int,
        delivery_count: int,
        since_ms: float,
        until_ms: float,
    ) -> None:
        self.session: Session = session
        self.where: TopicIdPartition = where
        self.offset: int = offset
        self.delivery_count: int = delivery_count
        self.since_ms: float = since_ms
        self.until_ms: float = until_ms
        self.state: LeaseState = LeaseState.WAITING
        self.renewing: bool = False
        self.gone: bool = False

    @property
    def topic_partition(self) -> TopicPartition:
        return self.session.named(self.where)


class AcquiredChunk(NamedTuple):
    """What one answer has of a partition.

    Attributes:
        leases: of every offset that was acquired; not each need have a record.
        records: a view of the answer's memory: whole batches, which may hold more than was acquired.
    """

    topic_partition: TopicPartition
    leases: dict[int, Lease]
    records: memoryview


class Outcome(NamedTuple):
    """What has become of acknowledgements of one partition; `error` None: the broker has them."""

    topic_partition: TopicPartition
    offsets: list[int]
    error: KafkaError | None


Pending = dict[TopicIdPartition, Said]


@dataclass(eq=False, slots=True)
class Session:
    """This member's session with one broker.

    Attributes:
        epoch: of the next request; 0 opens the session.
        ending: what is in flight is its last request.
        lost: the broker has dropped it, or the connection: nothing that was acquired in it is ours any more.
        names: of topics, by id.
        partitions: what the broker knows that is wanted.
        leases: what was acquired in it and is not finished.
        pending, sent: acknowledgements that wait; that are on their way.
        linger_ms: until when they wait.
        look_ms: when a lock is to be seen to next.
    """

    node_id: int
    epoch: int = 0
    in_flight: bool = False
    ending: bool = False
    lost: bool = False
    retry_ms: float = 0.0
    failures: int = 0
    lock_ms: float = 0.0
    names: dict[bytes, str] = field(default_factory=dict)
    partitions: dict[TopicIdPartition, None] = field(default_factory=dict)
    leases: dict[tuple[TopicIdPartition, int], Lease] = field(default_factory=dict)
    pending: Pending = field(default_factory=dict)
    sent: Pending = field(default_factory=dict)
    linger_ms: float = FOREVER
    look_ms: float = FOREVER

    def named(self, where: TopicIdPartition) -> TopicPartition:
        """Return a partition by its topic's name."""
        return TopicPartition(self.names.get(where.topic_id, "?"), where.partition)


def half_ms(lease: Lease) -> float:
    """When half of a lock is over."""
    return lease.until_ms - lease.session.lock_ms / 2


def look_after(lease: Lease) -> bool:
    """Have the lock seen to when half of it is over; return whether that is sooner than anything else."""
    sooner = half_ms(lease) < lease.session.look_ms
    if sooner:
        lease.session.look_ms = half_ms(lease)
    return sooner
