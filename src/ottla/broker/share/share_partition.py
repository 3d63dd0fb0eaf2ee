"""SharePartition: one partition of a topic as one share group sees it, a pure state machine.

Decides which records a member gets and what its acknowledgements do. Gets offsets, members and the time as arguments. Knows
no log (the caller says which batches were read), no persister (the caller persists what this returns, and reports the
outcome), no loop.

Record states: available -> acquired -> acknowledged, or archived, or available again. A change that a client asks for takes
effect when it is persisted (`Transition`); acquiring is not persisted, and a lock that runs out takes effect at once.
KIP-932, KIP-1206 (acquire modes), KIP-1222 (renew); Kafka's SharePartition. Where we differ:
* What is below the log start is forgotten at once; Kafka keeps what is acquired until its lock ends. Clients see no
  difference.
* Offsets that were in flight and are in no batch any more (compaction) are archived wherever a read finds that out; Kafka
  hands out those between two batches once more, and clients answer that they are gaps.

Invariants: an offset is acquired by at most one member; what is acknowledged is never handed out again; the delivery count of
an offset grows by one with every delivery and does not pass the limit; the start offset only moves forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.broker.coordinators.share.batches import DeliveryState, StateBatch
from ottla.broker.coordinators.share.coordinator import Write
from ottla.broker.share.window import NO_MEMBER, Batch, Run, Transition, Window
from ottla.errors import InvalidRecordStateError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ottla.broker.share.config import ShareConfig

#: Acknowledge types (KIP-932, KIP-1222).
GAP, ACCEPT, RELEASE, REJECT, RENEW = range(5)
_STATE_AFTER: Final = {
    GAP: DeliveryState.ARCHIVED,
    ACCEPT: DeliveryState.ACKNOWLEDGED,
    RELEASE: DeliveryState.AVAILABLE,
    REJECT: DeliveryState.ARCHIVED,
}
#: Records that have failed this often, or half as often as they may, are handed out in ever smaller pieces.
_THROTTLED_COUNT_MIN: Final = 2


class Acquired(NamedTuple):
    """Records that were handed out: offsets `first` to `last`, for the `deliveries`-th time."""

    first: int
    last: int
    deliveries: int


class Acknowledgement(NamedTuple):
    """What became of records `first` to `last`: one type for all of them, or one for each."""

    first: int
    last: int
    types: Sequence[int]


class AcquireRequest(NamedTuple):
    """How many records a member wants.

    Attributes:
        exact: at most `records_max` records, even if that ends inside a batch (acquire mode record_limit).
        batch_size: about how many records belong together.
    """

    member_id: str
    records_max: int
    batch_size: int
    exact: bool


class SharePartition:
    """The state of one share partition; made from what the persister knows."""

    def __init__(
        self, *, state_epoch: int, leader_epoch: int, start_offset: int, batches: Iterable[StateBatch] = ()
    ) -> None:
        self.state_epoch = state_epoch
        self.leader_epoch = leader_epoch
        self.window = Window(start_offset)
        #: False while it is known that nothing below the frontier is available.
        self._may_have_available = False
        for batch in batches:
            if batch.first > self.window.frontier:
                # Handed out before, but never acknowledged.
                self._add(self.window.frontier, batch.first - 1, DeliveryState.AVAILABLE, 0)
            self._add(batch.first, batch.last, DeliveryState(batch.state), batch.deliveries)
        for run in self.window.runs:
            if run.state is DeliveryState.ACQUIRED:
                run.state = run.next_state = DeliveryState.AVAILABLE
            elif run.state is DeliveryState.ARCHIVING:
                run.state = run.next_state = DeliveryState.ARCHIVED
        self._may_have_available = bool(self.window.runs)
        self.window.advance()

    def _add(self, first: int, last: int, state: DeliveryState, count: int) -> Run:
        run = Run(first, last, state, count, Batch(first, last))
        self.window.append(run)
        return run

    @property
    def start_offset(self) -> int:
        """The first offset that is in flight or still to come."""
        return self.window.start_offset

    @property
    def has_pending(self) -> bool:
        """Whether a change is being persisted."""
        return any(run.pending is not None for run in self.window.runs)

    # ---------------------------------------------------------------- acquire

    def next_fetch_offset(self) -> int:
        """Return where to read next: what is available again first, then what was never handed out."""
        if self._may_have_available:
            for run in self.window.runs:
                if run.is_available:
                    return run.first
            self._may_have_available = False
        return self.window.frontier

    def can_acquire(self, config: ShareConfig) -> bool:
        """Return whether a read could find anything that may be handed out."""
        return self.next_fetch_offset() != self.window.frontier or self.window.in_flight < config.record_locks_max

    def acquire(
        self,
        request: AcquireRequest,
        fetch_offset: int,
        fetched: Sequence[tuple[int, int]],
        aborted: Sequence[tuple[int, int]],
        config: ShareConfig,
        now_ms: int,
    ) -> list[Acquired]:
        """Hand out records.

        Args:
            fetched: first and last offset of every batch that was read, from `fetch_offset` on.
            aborted: those of them that belong to an aborted transaction: no member gets them.
        """
        window = self.window
        if not fetched or request.records_max <= 0 or fetched[-1][1] < window.start_offset:
            return []
        last = fetched[-1][1]
        room = min(request.records_max, config.record_locks_max - window.in_flight)
        if room <= 0:
            # Full, but what is available again inside the window takes no more room.
            if fetch_offset >= window.frontier:
                return []
            room = min(request.records_max, window.frontier - fetch_offset)
            last = min(last, window.frontier - 1)
        self._archive_holes(fetch_offset, fetched)
        first = max(fetched[0][0], window.start_offset)
        acquired: list[Acquired] = []
        taken, stopped = self._acquire_again(request, first, last, room, acquired, config, now_ms)
        if not stopped and taken < room and window.frontier <= last:
            self._acquire_new(request, fetched, last, room - taken, acquired, config, now_ms)
        if aborted:
            acquired = self._archive_aborted(acquired, aborted)
        window.advance()
        return acquired

    def _archive_holes(self, fetch_offset: int, fetched: Sequence[tuple[int, int]]) -> None:
        """Give up what the log does not have any more, between where the read began and where it ended."""
        expected = fetch_offset
        for first, last in fetched:
            if first > expected:
                for run in list(self.window.cut(expected, first - 1)):
                    if run.is_available:
                        run.state = run.next_state = DeliveryState.ARCHIVED
            expected = last + 1

    def _acquire_again(
        self,
        request: AcquireRequest,
        first: int,
        last: int,
        room: int,
        acquired: list[Acquired],
        config: ShareConfig,
        now_ms: int,
    ) -> tuple[int, bool]:
        """Hand out what is available in the window; return how much, and whether to stop there."""
        limit = config.delivery_count_limit
        throttled_from = max(_THROTTLED_COUNT_MIN, -(-limit // 2))
        taken = 0
        groups: dict[Batch, list[Run]] = {}
        for run in self.window.between(first, last):
            if run.is_available:
                groups.setdefault(run.batch, []).append(run)
        for batch, runs in groups.items():
            if taken >= room:
                break
            is_throttled = max(run.deliveries for run in runs) >= throttled_from
            if is_throttled and taken:
                return taken, True
            in_group = 0
            piece_max = -1
            found: list[Acquired] = []
            for run in list(self.window.cut(max(first, runs[0].first), min(last, runs[-1].last))):
                if not run.is_available or run.batch != batch:
                    continue
                size = run.size
                is_last_time = limit > 2 and run.deliveries >= limit - 1
                if is_last_time:
                    # Alone: if it is this record that makes its receiver fail, its neighbours do not go with it.
                    if in_group:
                        break
                    size = 1
                if run.deliveries >= throttled_from and piece_max < 0:
                    piece_max = max(1, (batch.last - batch.first + 1) >> (run.deliveries - throttled_from + 1))
                if piece_max >= 0:
                    size = min(size, piece_max - in_group)
                if request.exact:
                    size = min(size, room - taken - in_group)
                if size <= 0:
                    break
                if size < run.size:
                    self.window.split(run, run.first + size)
                self._hand_out(run, request.member_id, config, now_ms)
                _add_acquired(found, Acquired(run.first, run.last, run.deliveries))
                in_group += size
                if is_last_time:
                    break
            acquired += found
            taken += in_group
            if is_throttled and in_group:
                return taken, True
        return taken, False

    def _acquire_new(
        self,
        request: AcquireRequest,
        fetched: Sequence[tuple[int, int]],
        last: int,
        room: int,
        acquired: list[Acquired],
        config: ShareConfig,
        now_ms: int,
    ) -> None:
        window = self.window
        first = next(max(base, window.frontier) for base, end in fetched if end >= window.frontier)
        if room < last - first + 1:
            # To the end of the batch that has the last of them: a batch is unpacked as a whole anyway.
            wanted = first + room - 1
            last = next((end for base, end in fetched if base <= wanted <= end), wanted)
        begins = [first]
        if not request.exact:
            for base, _ in fetched:
                if first < base <= last and base - begins[-1] >= request.batch_size:
                    begins.append(base)
        for begin, end in zip(begins, [*(begin - 1 for begin in begins[1:]), last], strict=True):
            run = self._add(begin, end, DeliveryState.AVAILABLE, 0)
            if request.exact and run.size > room:
                window.split(run, begin + room)
                self._may_have_available = True
            self._hand_out(run, request.member_id, config, now_ms)
            acquired.append(Acquired(run.first, run.last, run.deliveries))

    def _hand_out(self, run: Run, member_id: str, config: ShareConfig, now_ms: int) -> None:
        run.state = run.next_state = DeliveryState.ACQUIRED
        run.deliveries += 1
        run.member_id = member_id
        run.deadline_ms = now_ms + config.record_lock_duration_ms

    def _archive_aborted(self, acquired: list[Acquired], aborted: Sequence[tuple[int, int]]) -> list[Acquired]:
        left: list[Acquired] = []
        for piece in acquired:
            first = piece.first
            for gone_first, gone_last in aborted:
                if gone_last < first or gone_first > piece.last:
                    continue
                for run in self.window.cut(max(first, gone_first), min(piece.last, gone_last)):
                    _settle(run, DeliveryState.ARCHIVED)
                if gone_first > first:
                    left.append(Acquired(first, gone_first - 1, piece.deliveries))
                first = gone_last + 1
            if first <= piece.last:
                left.append(piece._replace(first=first))
        return left

    # ------------------------------------------------------------ acknowledge

    def acknowledge(
        self, member_id: str, acknowledgements: Sequence[Acknowledgement], config: ShareConfig, now_ms: int
    ) -> Transition:
        """Begin what a member's acknowledgements ask for: all of it or nothing. Renewed locks last from now on.

        Raises:
            KafkaError: INVALID_REQUEST or INVALID_RECORD_STATE; nothing has changed but renewed locks.
        """
        transition = Transition()
        try:
            for acknowledgement in acknowledgements:
                self._acknowledge(transition, member_id, acknowledgement, config, now_ms)
        except (InvalidRequestError, InvalidRecordStateError):
            self.complete(transition, now_ms, config, commit=False)
            raise
        return transition

    def _acknowledge(
        self, transition: Transition, member_id: str, wanted: Acknowledgement, config: ShareConfig, now_ms: int
    ) -> None:
        window = self.window
        if wanted.last < window.start_offset:
            return
        is_below = not window.runs or window.runs[0].first > wanted.first
        if is_below and (not window.runs or wanted.first >= window.start_offset):
            raise InvalidRecordStateError(
                "Batch record not found. The request batch offsets are not found in the cache."
            )
        newest = window.between(window.start_offset, wanted.last)[-1:]
        if not newest or newest[0].last < wanted.first:
            raise InvalidRequestError("Batch record not found. The first offset in request is past acquired records.")
        if newest[0].last < wanted.last:
            raise InvalidRequestError("Batch record not found. The last offset in request is past acquired records.")
        for first, last, kind in _pieces(wanted):
            if kind not in (*_STATE_AFTER, RENEW):
                raise InvalidRequestError(f"Invalid acknowledge type: {kind}")
            for run in window.between(max(first, window.start_offset), last):
                _check_owner(run, member_id)
            if kind == RENEW and not config.renew_enabled:
                raise InvalidRecordStateError("Renewing acquisition locks is not enabled for the group.")
            for run in window.cut(max(first, window.start_offset), last):
                if kind == RENEW:
                    run.deadline_ms = now_ms + config.record_lock_duration_ms
                else:
                    _begin(transition, run, _STATE_AFTER[kind], config)

    def release(self, member_id: str, config: ShareConfig) -> Transition:
        """Begin to give back everything a member has acquired: its session has ended."""
        transition = Transition()
        for run in self.window.runs:
            if run.state is DeliveryState.ACQUIRED and run.pending is None and run.member_id == member_id:
                _begin(transition, run, DeliveryState.AVAILABLE, config)
        return transition

    def complete(self, transition: Transition, now_ms: int, config: ShareConfig, *, commit: bool) -> None:
        """End a transition: it is persisted, or it is not and everything is as it was."""
        for run in self.window.runs:
            if run.pending is not transition:
                continue
            run.pending = None
            if commit:
                _settle(run, run.next_state)
            else:
                run.next_state = run.state
                if run.deadline_ms <= now_ms:
                    _settle(run, _given_back(run, config))
            if run.state is DeliveryState.AVAILABLE:
                self._may_have_available = True
        self.window.advance()

    # ------------------------------------------------------------- time, log

    def next_deadline_ms(self) -> int | None:
        """Return when the next lock runs out."""
        return min(
            (
                run.deadline_ms
                for run in self.window.runs
                if run.state is DeliveryState.ACQUIRED and run.pending is None
            ),
            default=None,
        )

    def expire(self, now_ms: int, config: ShareConfig) -> list[StateBatch]:
        """Give back what was not acknowledged in time; return what to persist. `advance` when that is done."""
        updates: list[StateBatch] = []
        for run in self.window.runs:
            if run.state is DeliveryState.ACQUIRED and run.pending is None and run.deadline_ms <= now_ms:
                _settle(run, _given_back(run, config))
                updates.append(StateBatch(run.first, run.last, run.state, run.deliveries))
        if updates:
            self._may_have_available = True
        return updates

    def advance(self) -> bool:
        """Let the window move over what is done; return whether it has moved."""
        return self.window.advance()

    def on_log_start(self, log_start_offset: int) -> None:
        """The log begins later now: what it has lost is not in flight any more."""
        self.window.move_start(log_start_offset)

    def write_of(self, updates: Sequence[StateBatch]) -> Write:
        """Return what the persister is to remember."""
        return Write(
            self.state_epoch, self.leader_epoch, self.window.start_offset, self.window.count_complete(), updates
        )


def _pieces(wanted: Acknowledgement) -> Iterable[tuple[int, int, int]]:
    """Yield (first, last, type), neighbours of one type together."""
    types = wanted.types
    if len(types) == 1:
        yield wanted.first, wanted.last, types[0]
        return
    begin = 0
    for index in range(1, len(types) + 1):
        if index == len(types) or types[index] != types[begin]:
            yield wanted.first + begin, wanted.first + index - 1, types[begin]
            begin = index


def _check_owner(run: Run, member_id: str) -> None:
    if run.state is not DeliveryState.ACQUIRED:
        raise InvalidRecordStateError("The batch cannot be acknowledged. The batch is not in the acquired state.")
    if run.pending is not None:
        raise InvalidRecordStateError(
            "The record state is invalid. The acknowledgement of delivery could not be completed."
        )
    if run.member_id != member_id:
        raise InvalidRecordStateError("Member is not the owner of batch record")


def _begin(transition: Transition, run: Run, state: DeliveryState, config: ShareConfig) -> None:
    run.pending = transition
    run.next_state = _given_back(run, config) if state is DeliveryState.AVAILABLE else state
    transition.updates.append(StateBatch(run.first, run.last, run.next_state, run.deliveries))


def _given_back(run: Run, config: ShareConfig) -> DeliveryState:
    return DeliveryState.ARCHIVED if run.deliveries >= config.delivery_count_limit else DeliveryState.AVAILABLE


def _settle(run: Run, state: DeliveryState) -> None:
    run.state = run.next_state = state
    run.member_id = NO_MEMBER


def _add_acquired(found: list[Acquired], piece: Acquired) -> None:
    if found and found[-1].last + 1 == piece.first and found[-1].deliveries == piece.deliveries:
        found[-1] = found[-1]._replace(last=piece.last)
    else:
        found.append(piece)
