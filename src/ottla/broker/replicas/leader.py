"""Leader role of one partition: how far followers have come, who is in sync, how far records are committed.

Knows offsets, epochs and the time it is told; knows no files, no network, no tree. What its ISR is to be is decided in
`cluster.decisions.isr`, from what it knows.

The *maximal* ISR is that of the committed state and that of a change which is on its way: as long as the outcome of a
change is unknown, either may be what the cluster goes by. A change is on its way from its decision until the tree shows a
newer state, or has been read after a `sync` and shows the old one; no error, timeout or new session ends it before.

Invariants:
  * The high watermark is at most the smallest log end over the maximal ISR, and never moves back.
  * It stands still while an ELR is in the committed or the pending state (its members were promised that nothing is
    committed without them, whatever min.insync.replicas says by now), while the committed ISR is smaller than
    min.insync.replicas, and, where the leader is alone in the maximal ISR of several replicas, without a lease.
  * An offset counts only in this leader epoch, from the process that is registered, and if its log does not diverge.

KIP-101 and KIP-279 (epochs), KIP-497 (ISR changes), KIP-903 (broker epochs), KIP-966 (ELR).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ottla.broker.replicas.nearest import ReplicaView
from ottla.cluster.decisions.isr import IsrChange, IsrFacts, change_of
from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from ottla.cluster.image import BrokerImage, PartitionImage

UNKNOWN = -1


class HasLease(Protocol):
    """Knows whether no other broker can have been elected yet (`lease.Lease`)."""

    def holds(self) -> bool: ...


class Progress:
    """How far one follower has come, as etcd's Progress.

    Attributes:
        broker_epoch: of the process that has come so far; -1: none in this leader epoch.
        end_offset: where its log ends; UNKNOWN until it has said so.
        log_start_offset: where its log begins.
        caught_up_ms: when it last had everything that the leader had at some moment.
        turn: its newest fetch was sent after this broker's answer of this turn; see `Leader.follows_since`.
    """

    __slots__ = (
        "_asked_ms",
        "_leader_end_then",
        "broker_epoch",
        "caught_up_ms",
        "end_offset",
        "log_start_offset",
        "turn",
    )

    def __init__(self, now_ms: int) -> None:
        self.broker_epoch = -1
        self.end_offset = UNKNOWN
        self.log_start_offset = UNKNOWN
        self.caught_up_ms = now_ms
        self.turn = -1
        self._asked_ms = now_ms
        self._leader_end_then = UNKNOWN

    def on_fetch(self, broker_epoch: int, offset: int, log_start_offset: int, leader_end: int, now_ms: int) -> None:
        """The follower asks for `offset`, so it has everything below."""
        if offset >= leader_end:
            self.caught_up_ms = max(self.caught_up_ms, now_ms)
        elif self.broker_epoch == broker_epoch and 0 <= self._leader_end_then <= offset:
            # With a steady stream it never has everything, but what there was when it asked before.
            self.caught_up_ms = max(self.caught_up_ms, self._asked_ms)
        self.broker_epoch = broker_epoch
        self.end_offset = offset
        self.log_start_offset = log_start_offset
        self._asked_ms = now_ms
        self._leader_end_then = leader_end

    def forget(self) -> None:
        """Another process has taken the place of the one that came so far."""
        self.broker_epoch = -1
        self.turn = -1
        self.end_offset = UNKNOWN
        self._leader_end_then = UNKNOWN


class FetchVerdict(NamedTuple):
    """What a follower's fetch is to its leader.

    Attributes:
        error: why it is refused, or NONE.
        diverging: (epoch, end offset) up to which the leader's log may agree with the follower's, if it asks for more.
    """

    error: ErrorCode
    diverging: tuple[int, int] | None = None


ACCEPTED = FetchVerdict(ErrorCode.NONE)


class Leader:
    """The leader of one partition in one leader epoch.

    Args:
        state: what the tree says; this broker leads in it.
        epoch_start: where the log ended when the epoch began.
        high_watermark: as known from before.
        epoch_end: says of a leader epoch (the largest known one up to it, where that ends), (-1, -1) if unknown.
        first_epoch_start: where the first epoch that the log knows begins; what lies before has none.
        lease: of this broker.
        lag_ms_max: replica.lag.time.max.ms.

    Attributes:
        committed: the newest state that the tree is known to have.
        pending: the change that is on its way.
        is_sole: there are no other replicas, so that whatever the log holds is committed.
        min_isr: how many replicas have to be in sync: min.insync.replicas, but no more than there are replicas.
        is_under_min_isr: fewer replicas are in sync than acks=all demands. Only the committed ISR counts.
    """

    __slots__ = (
        "_brokers",
        "_end_offset",
        "_epoch_end",
        "_epoch_start",
        "_first_epoch_start",
        "_followers",
        "_lag_ms_max",
        "_lease",
        "_min_isr_configured",
        "_node_id",
        "_unfit",
        "committed",
        "high_watermark",
        "is_sole",
        "is_under_min_isr",
        "leader_epoch",
        "min_isr",
        "pending",
        "progress",
    )

    def __init__(
        self,
        node_id: int,
        state: PartitionImage,
        *,
        epoch_start: int,
        high_watermark: int,
        epoch_end: Callable[[int], tuple[int, int]],
        first_epoch_start: Callable[[], int],
        lease: HasLease,
        min_isr: int,
        lag_ms_max: int,
        now_ms: int,
    ) -> None:
        self.leader_epoch = state.leader_epoch
        self.committed = state
        self.pending: IsrChange | None = None
        self.high_watermark = high_watermark
        self.is_sole = False
        self.progress: dict[int, Progress] = {}
        self._node_id = node_id
        self._epoch_start = epoch_start
        self._end_offset = high_watermark
        self._epoch_end = epoch_end
        self._first_epoch_start = first_epoch_start
        self._lease = lease
        self._min_isr_configured = min_isr
        self._lag_ms_max = lag_ms_max
        self._brokers: Mapping[int, BrokerImage] = {}
        self._unfit: frozenset[int] = frozenset()
        #: The maximal ISR without the leader itself.
        self._followers: tuple[int, ...] = ()
        self._take(state, now_ms)

    def use_log(self, epoch_end: Callable[[int], tuple[int, int]], first_epoch_start: Callable[[], int]) -> None:
        """The log has moved to another directory; what it holds is the same."""
        self._epoch_end = epoch_end
        self._first_epoch_start = first_epoch_start

    # -- facts

    @property
    def is_alone(self) -> bool:
        """Whether it commits by itself though there are other replicas: it needs a lease for that."""
        return not self.is_sole and not self._followers

    def why_no_append(self, *, acks_all: bool) -> ErrorCode:
        """Return why a batch may not be appended now; NONE if it may."""
        if self.is_sole:
            return ErrorCode.NONE
        if not self._followers and not self._lease.holds():
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        return ErrorCode.NOT_ENOUGH_REPLICAS if acks_all and self.is_under_min_isr else ErrorCode.NONE

    def is_in_sync(self, node_id: int) -> bool:
        """Whether a replica is in the committed ISR."""
        return node_id in self.committed.isr

    def views(self, offset: int) -> Iterator[ReplicaView]:
        """Yield the followers in sync that have the offset, as far as that is known."""
        for node_id in self.committed.isr:
            known = self.progress.get(node_id)
            if known is not None and known.log_start_offset <= offset <= known.end_offset:
                yield ReplicaView(known.end_offset, known.caught_up_ms, node_id)

    def turn_of(self, node_id: int) -> int:
        """Return after which of this broker's answers a follower has sent its newest fetch; -1 if that is not known."""
        known = self.progress.get(node_id)
        return -1 if known is None else known.turn

    def follows_since(self, turn: int) -> bool:
        """Whether every other member of the maximal ISR has begun a fetch of this epoch since this broker's `turn`.

        Then no other broker led at that turn: a new leader is a member of the ISR, and one that leads fetches no more. An
        ELR may be elected without any of the ISR, so with one this proves nothing.
        """
        if self.committed.elr or (self.pending is not None and self.pending.after.elr):
            return False
        return bool(self._followers) and all(self.progress[n].turn >= turn for n in self._followers)

    def lag(self, node_id: int) -> int:
        """Return how many records a follower is behind, as far as that is known."""
        known = self.progress.get(node_id)
        return 0 if known is None or known.end_offset < 0 else max(0, self._end_offset - known.end_offset)

    # -- what is committed

    def on_own_end(self, end_offset: int) -> int:
        """Take in up to where this broker's own log counts; return the high watermark."""
        self._end_offset = end_offset
        return self.advance()

    def advance(self) -> int:
        """Move the high watermark as far as it may go; return it."""
        candidate = self._end_offset
        for node_id in self._followers:
            end_offset = self.progress[node_id].end_offset
            if end_offset < candidate:
                candidate = end_offset
        if candidate > self.high_watermark and self._may_commit():
            self.high_watermark = candidate
        return self.high_watermark

    def _may_commit(self) -> bool:
        if self.is_sole:
            return True
        if self.committed.elr or (self.pending is not None and self.pending.after.elr):
            return False
        if self.is_under_min_isr:
            return False
        return bool(self._followers) or self._lease.holds()

    # -- followers

    def on_follower_fetch(
        self,
        broker: int,
        broker_epoch: int,
        leader_epoch: int,
        offset: int,
        last_epoch: int,
        now_ms: int,
        *,
        log_start_offset: int = UNKNOWN,
        leader_end: int | None = None,
        turn: int = -1,
    ) -> FetchVerdict:
        """A follower asks for what begins at `offset`; its log ends there, with a batch of `last_epoch`.

        Args:
            turn: of the answer that this fetch follows.
            leader_end: where the leader's log ends, if not all of that counts.
        """
        if leader_epoch != self.leader_epoch:
            if leader_epoch < 0:
                return FetchVerdict(ErrorCode.NOT_LEADER_OR_FOLLOWER)  # not of a follower: those say whom they follow
            if leader_epoch < self.leader_epoch:
                return FetchVerdict(ErrorCode.FENCED_LEADER_EPOCH)
            return FetchVerdict(ErrorCode.UNKNOWN_LEADER_EPOCH)
        progress = self.progress.get(broker)
        if progress is None:
            return FetchVerdict(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        registered = self._brokers.get(broker)
        if registered is not None and broker_epoch < registered.broker_epoch:
            return FetchVerdict(ErrorCode.NOT_LEADER_OR_FOLLOWER)  # of a process that another one has replaced
        diverging = self._divergence(offset, last_epoch)
        if diverging is not None:
            return FetchVerdict(ErrorCode.NONE, diverging)
        if registered is None or broker_epoch > registered.broker_epoch:
            progress.forget()  # served, and counted as soon as the image shows who it is
            return ACCEPTED
        end = self._end_offset if leader_end is None else leader_end
        if offset <= end:
            progress.on_fetch(broker_epoch, offset, log_start_offset, end, now_ms)
        progress.turn = max(progress.turn, turn)
        return ACCEPTED

    def _divergence(self, offset: int, last_epoch: int) -> tuple[int, int] | None:
        """Return up to where the logs may agree if the follower's log is not a beginning of this one (KIP-595)."""
        if last_epoch < 0:
            # It holds nothing, or what is older than epochs are: that lies before the first epoch known here.
            first = self._first_epoch_start()
            return None if first < 0 or offset <= first else (-1, first)
        epoch, end_offset = self._epoch_end(last_epoch)
        if epoch == last_epoch and end_offset >= offset:
            return None
        return epoch, end_offset

    # -- the ISR

    def on_state(self, state: PartitionImage, now_ms: int) -> None:
        """The tree shows a state of this leader epoch. One that is newer than what a change was decided on ends the change:

        either it was made, or it never will be, because the version it checks is gone.
        """
        if state.partition_epoch > self.committed.partition_epoch:
            self.pending = None
        elif state.partition_epoch < self.committed.partition_epoch:
            state = self.committed._replace(replicas=state.replicas)
        self._take(state, now_ms)

    def on_unchanged(self, change: IsrChange, state: PartitionImage, now_ms: int) -> None:
        """After a `sync` the tree still had `state`: if a change was decided on it, that has not been made."""
        if self.pending is change and state.partition_epoch == change.before.partition_epoch:
            self.pending = None
            self._take(self.committed, now_ms)

    def on_brokers(self, brokers: Mapping[int, BrokerImage], unfit: frozenset[int]) -> None:
        """Brokers came, went or cannot lead this partition."""
        self._brokers = brokers
        self._unfit = unfit
        for node_id, progress in self.progress.items():
            known = brokers.get(node_id)
            if known is not None and progress.broker_epoch != known.broker_epoch and progress.broker_epoch >= 0:
                if known.continues_from(progress.broker_epoch) and node_id in self.committed.isr:
                    continue  # it has what it had; its next fetch says so under the new epoch
                progress.forget()

    def on_min_isr(self, min_isr: int) -> None:
        """min.insync.replicas has another value."""
        self._min_isr_configured = min_isr
        self._count_in_sync()

    def propose(self, now_ms: int) -> IsrChange | None:
        """Decide how the ISR is to change; None if it is right, or a change is on its way already.

        From now on the change is on its way.
        """
        if self.is_sole or self.pending is not None:
            return None
        facts = IsrFacts(
            leader=self._node_id,
            min_isr=self.min_isr,
            brokers=self._brokers,
            unfit=self._unfit,
            has_caught_up=self._has_caught_up,
            lags=lambda node_id: now_ms - self.progress[node_id].caught_up_ms > self._lag_ms_max,
        )
        change = change_of(self.committed, facts)
        if change is not None:
            self.pending = change
            self._take(self.committed, now_ms)
        return change

    def _has_caught_up(self, node_id: int) -> bool:
        """Whether a replica has everything committed, and the beginning of this leader epoch."""
        progress = self.progress.get(node_id)
        if progress is None or progress.broker_epoch != self._brokers[node_id].broker_epoch:
            return False
        return progress.end_offset >= max(self._epoch_start, self.high_watermark)

    def _take(self, state: PartitionImage, now_ms: int) -> None:
        self.committed = state
        me = self._node_id
        maximal = dict.fromkeys(state.isr)
        if self.pending is not None:
            maximal |= dict.fromkeys(self.pending.after.isr)
        self._followers = tuple(n for n in maximal if n != me)
        for node_id in (*state.replicas, *self._followers):
            if node_id != me and node_id not in self.progress:
                self.progress[node_id] = Progress(now_ms)
        for node_id in [n for n in self.progress if n not in state.replicas and n not in maximal]:
            del self.progress[node_id]
        self.is_sole = not self.progress
        self._count_in_sync()

    def _count_in_sync(self) -> None:
        """State or min.insync.replicas have changed. Every append asks whether enough are in sync: that is kept."""
        self.min_isr = min(self._min_isr_configured, max(1, len(self.committed.replicas)))
        self.is_under_min_isr = len(self.committed.isr) < self.min_isr
