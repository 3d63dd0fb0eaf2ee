"""Partition: a log plus a role.

Appends as the leader, says how far consumers may read, and wakes those who wait: followers when the log has grown,
consumers and producers when the high watermark has moved. It decides where a write runs (on the loop or off it,
`disk_pace`) and keeps appends in order either way. How far the high watermark may move says `Leader`; what a follower does
with its log is in `replication`.

Invariant: log_start_offset <= high_watermark <= log_end_offset, and the high watermark never moves back within a leader
epoch. Where the topic asks for an fsync before the acknowledgement (`flush.messages=1`), the high watermark follows what
has been synced, so no consumer, no coordinator and no answer to a duplicate sees a record that a power cut can take back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from ottla.broker.replicas.append_queue import AppendQueue, QueuedAppend
from ottla.broker.replicas.disk_pace import SLOW_MS
from ottla.broker.replicas.leader import ACCEPTED, FetchVerdict, HasLease, Leader
from ottla.cluster.image import PartitionImage
from ottla.errors import (
    CorruptMessageError,
    ErrorCode,
    KafkaError,
    KafkaStorageError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    RequestTimedOutError,
    StorageError,
)
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import ATTRIBUTES_END, COMPRESSION_MASK, HEADER_SIZE
from ottla.protocol.records.compression import GROWTH_MAX, unpacked_size_max
from ottla.storage.appending import Append
from ottla.storage.locking import try_locked
from ottla.storage.verification import UNCHECKED
from ottla.types import AppendOrigin, CompressionType, IsolationLevel, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.replicas.disk_pace import DiskPace
    from ottla.broker.replicas.follower import Follower
    from ottla.broker.replicas.hand_offs import HandOffs
    from ottla.broker.replicas.purgatory import Waiter
    from ottla.clock import Clock
    from ottla.offload import Offload
    from ottla.storage.appended import AppendInfo
    from ottla.storage.log import PartitionLog
    from ottla.storage.slices import LogSlice
    from ottla.storage.verification import Verification, VerificationGuard

logger = logging.getLogger(__name__)

Records = bytearray | memoryview

T = TypeVar("T")

#: A batch that may unpack to more than this is checked off the loop, one such batch at a time: some 5 ms of work.
UNPACKED_ON_LOOP_MAX = 4 << 20 if kernels.COMPILED else 512 << 10
#: The same for gzip, by what is to be unpacked: only unpacking it tells how much it becomes.
GZIP_ON_LOOP_MAX = 16 << 10

#: Pause before a log is to be led again, after an error that says nothing about its epochs.
LEAD_AGAIN_SECONDS = 1.0


class Commits(Protocol):
    """What a partition needs of the log manager: one fsync for everybody who waits for it."""

    def commit(self, log: PartitionLog, then: Callable[[BaseException | None], None]) -> None:
        """Sync the log; call `then` when everything appended before this call is on the disk, with the error if it is not."""
        ...


class CommitWaiter(Protocol):
    """Who waits for the high watermark to pass a record: a future, or what is as good as one."""

    def done(self) -> bool:
        """Whether it waits no more."""
        ...

    def set_result(self, result: None, /) -> None:
        """The record is below the high watermark."""
        ...

    def set_exception(self, exception: KafkaError, /) -> None:
        """This broker stopped leading, or its disk failed, first."""
        ...


class Partition:
    """One partition of which this broker holds a replica; it takes appends while this broker leads it.

    Args:
        pace, hand_offs, offload: of its log directory, shared by all partitions there: whether the disk is slow, how appends
            leave the loop then, and where whatever else waits for it runs.
        watched: of its log directory: where appends of a follower run, which are short unless the disk hangs.
        unpacking: held while a batch that grows large is unpacked off the loop; shared by all partitions, so that
            no more than one of them is in memory.
        on_old_records: called with the newest timestamp of the active segment and `retention.ms` after an append that
            retention would delete at once.

    Attributes:
        leader, follower: the role; neither while another thread keeps the log from being led yet, or no broker leads.
        leader_epoch: of the role; -1 without one.
        highest_epoch: the largest leader epoch in which a role was given, or taken away.
        fetch_waiters: consumers that wait for something to read; a dict because its order is the order of arrival.
        replica_waiters: followers that wait for the log to grow, likewise.
        on_progress: called after a follower's fetch that may be a reason to change the ISR.
    """

    __slots__ = (
        "_beginning",
        "_clock",
        "_commits",
        "_committing",
        "_hand_offs",
        "_high_watermark_waiters",
        "_offload",
        "_on_old_records",
        "_pace",
        "_questions",
        "_queue",
        "_role",
        "_stable_told",
        "_uncommitted",
        "_unpacking",
        "_watched",
        "fetch_waiters",
        "follower",
        "highest_epoch",
        "leader",
        "leader_epoch",
        "log",
        "on_progress",
        "replica_waiters",
        "topic_id",
        "topic_partition",
    )

    def __init__(
        self,
        log: PartitionLog,
        topic_id: bytes,
        *,
        commits: Commits,
        pace: DiskPace,
        hand_offs: HandOffs,
        unpacking: asyncio.Lock,
        offload: Offload,
        clock: Clock,
        watched: Offload | None = None,
        on_old_records: Callable[[TopicPartition, int, int], None] = lambda _tp, _newest_ms, _retention_ms: None,
    ) -> None:
        self.log = log
        self.topic_partition: TopicPartition = log.topic_partition
        self.topic_id = topic_id
        self.leader_epoch = -1
        self.highest_epoch = -1
        self.leader: Leader | None = None
        self.follower: Follower | None = None
        self.fetch_waiters: dict[Waiter, None] = {}
        self.replica_waiters: dict[Waiter, None] = {}
        self.on_progress: Callable[[], None] = _nothing
        #: (end offset, waiter, whether it waits for as many replicas as acks=all demands).
        self._high_watermark_waiters: deque[tuple[int, CommitWaiter, bool]] = deque()
        #: (turn, future) of those who wait for a proof that this broker leads.
        self._questions: list[tuple[int, asyncio.Future[None]]] = []
        self._commits = commits
        self._committing = False
        #: (end offset, bytes) of appends that the high watermark has not passed yet.
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._stable_told = 0
        self._pace = pace
        self._hand_offs = hand_offs
        self._offload = offload
        self._watched = watched or offload
        self._clock = clock
        self._unpacking = unpacking
        self._on_old_records = on_old_records
        self._queue: AppendQueue | None = None
        #: Takes up the lead of a log that another thread held.
        self._beginning: asyncio.Task[None] | None = None
        #: Grows with each change of the role: what was begun for an earlier one is known by it.
        self._role = 0

    @property
    def offload(self) -> Offload:
        """Where whatever may wait for this partition's disk runs."""
        return self._offload

    # -- role

    @property
    def is_led(self) -> bool:
        """Whether this broker leads the partition, and takes appends."""
        return self.log.led_epoch >= 0

    @property
    def is_sole(self) -> bool:
        """Whether this broker leads, and there are no other replicas."""
        return self.leader is not None and self.leader.is_sole

    def become_leader(self, leader_epoch: int, begin: Callable[[], Leader] | None = None) -> None:
        """Lead from the present end of the log on. The epoch's start is noted before anything is served (KIP-101).

        The role changes at once. Where another thread holds the log right now, appends are taken as soon as it lets go;
        until then they get NOT_LEADER_OR_FOLLOWER, which a client tries again.

        A log that claims a larger epoch is compared with its batches first: no checksum covers what says so.

        Args:
            begin: returns the role, for a log that has the epoch's start noted; that of the only replica unless given.
        """
        if leader_epoch <= self.leader_epoch and self.follower is None:
            return
        self.log.fence()
        self._role += 1
        self.follower = self.leader = None
        self.leader_epoch = leader_epoch
        begin = begin or self._begin_alone
        try:
            if self.log.lead_nowait(leader_epoch):
                self._on_led(begin)
                return
        except NotLeaderOrFollowerError as error:
            logger.warning("%s; this is compared with the batches", error)
        self._beginning = asyncio.get_running_loop().create_task(self._lead(self._role, leader_epoch, begin))

    async def _lead(self, role: int, leader_epoch: int, begin: Callable[[], Leader]) -> None:
        """Take up the lead when the thread that holds the log lets go of it, if the role is still the same then."""

        def lead(log: PartitionLog) -> None:
            if self._role != role:
                return
            try:
                log.lead(leader_epoch)
            except NotLeaderOrFollowerError:
                # The larger epoch may be the one that this broker leads in by now, which has no batches yet.
                if self._role != role or not log.mend_epochs() or self._role != role:
                    raise
                log.lead(leader_epoch)

        log: PartitionLog | None = None
        while self._role == role and log is not self.log:
            log = self.log
            try:
                await self._offload.run(lead, log)
            except NotLeaderOrFollowerError as error:
                if self._role == role:
                    logger.error("%s: it can be read, and takes no records", error)
                    return
            except Exception as error:  # no thread was to be had, or the disk failed; then the role ends soon
                logger.error("%s cannot be led yet: %s", self.topic_partition, error)
                await asyncio.sleep(LEAD_AGAIN_SECONDS)
                log = None
        if self._role == role:
            self._on_led(begin)
        elif log is not None:
            self._undo_lead(log)

    def _undo_lead(self, log: PartitionLog) -> None:
        """A log was led for a role that is over by now: it is to take again what the present role says.

        One that is led in a later epoch is left alone. No log takes up an epoch below its last, so that one is in force, or
        will be: a fence would leave the partition with a leader who takes no records, and nobody would elect another.
        """
        if self.log is log and self.follower is not None:
            log.follow(self.follower.leader_epoch)
        elif self.log is not log or self.leader_epoch < 0:
            log.fence()

    def _on_led(self, begin: Callable[[], Leader]) -> None:
        self.leader = begin()
        self._uncommitted.clear()
        if self.log.config.flush_messages == 1 and self.log.recovery_point < self.log.log_end_offset:
            self._start_commit()
        self._advance()
        self.on_progress()

    def _begin_alone(self) -> Leader:
        state = PartitionImage((0,), (0,), 0, self.leader_epoch, 0)
        return leader_of(self.log, 0, state, lease=_NO_LEASE, min_isr=1, lag_ms_max=0, now_ms=0)

    def become_follower(self, follower: Follower) -> None:
        """Follow another broker: take no appends but those that come from it in its epoch."""
        self.resign()
        self.log.follow(follower.leader_epoch)  # `resign` has begun another role already
        self.follower = follower
        self.leader_epoch = follower.leader_epoch

    def resign(self, error: KafkaError | None = None) -> None:
        """Stop leading or following: whatever waits for a commit gets `error`, NOT_LEADER_OR_FOLLOWER unless given."""
        self.log.fence()
        self._role += 1
        self.leader_epoch = -1
        self.leader = self.follower = None
        self._fail_waiters(error or NotLeaderOrFollowerError(f"{self.topic_partition} is no longer led here"))

    def use_log(
        self,
        log: PartitionLog,
        *,
        commits: Commits,
        pace: DiskPace,
        hand_offs: HandOffs,
        offload: Offload,
        watched: Offload,
    ) -> None:
        """The log has moved to another directory: this one has all that it had. The role stays.

        What waits in the queue is appended to it.
        """
        self.log.fence()
        self.log = log
        self._commits = commits
        self._pace, self._hand_offs = pace, hand_offs
        self._offload, self._watched = offload, watched
        leader, follower = self.leader, self.follower
        if leader is not None:
            log.lead(self.leader_epoch)
            epochs = log.leader_epochs
            leader.use_log(log.end_offset_for_epoch, lambda: epochs.first_start)
        elif follower is not None:
            log.follow(follower.leader_epoch)
        self.wake_fetches()

    # -- proof of the role

    def ask_followers(self, turn: int) -> asyncio.Future[None]:
        """Return what resolves when all in sync have begun a fetch of this epoch since `turn`; it fails when the role ends.

        Fetches that wait are answered, so that their senders ask again.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._questions.append((turn, future))
        for waiter in tuple(self.replica_waiters):
            waiter.wake()
        return future

    def ask_no_more(self, future: asyncio.Future[None]) -> None:
        """Nobody waits for this proof any more."""
        self._questions = [question for question in self._questions if question[1] is not future]

    def awaits(self, broker: int) -> bool:
        """Whether the next fetch of this follower is waited for: it is to be answered at once, whatever there is."""
        leader = self.leader
        return bool(self._questions) and leader is not None and leader.turn_of(broker) < self._questions[-1][0]

    def _answer_questions(self) -> None:
        leader = self.leader
        assert leader is not None
        for turn, future in self._questions:
            if not future.done() and leader.follows_since(turn):
                future.set_result(None)

    def check_epoch(self, current_leader_epoch: int) -> ErrorCode:
        """Compare the epoch a client believes in with ours (KIP-320); -1 asks for no check."""
        if current_leader_epoch < 0 or current_leader_epoch == self.leader_epoch:
            return ErrorCode.NONE
        if current_leader_epoch < self.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH
        return ErrorCode.UNKNOWN_LEADER_EPOCH

    # -- append

    def _check_append(self, acks_all: bool) -> None:
        leader = self.leader
        if leader is None or leader.is_sole:
            return
        code = leader.why_no_append(acks_all=acks_all)
        if code is ErrorCode.NOT_ENOUGH_REPLICAS:
            raise NotEnoughReplicasError(
                f"{self.topic_partition}: in sync are {list(leader.committed.isr)}, min.insync.replicas is {leader.min_isr}"
            )
        if code:
            raise NotLeaderOrFollowerError(f"{self.topic_partition}: it is not known that no other broker leads it")

    def append(
        self,
        records: Records,
        origin: AppendOrigin = AppendOrigin.CLIENT,
        api_version: int | None = None,
        transaction_version: int = 0,
        verification: Verification | None = UNCHECKED,
        *,
        acks_all: bool = True,
    ) -> AppendInfo | Awaitable[AppendInfo]:
        """Append one batch as the leader.

        Returns at once while the disk is quick, and something to await while it is slow or another thread changes the
        log (compaction, retention); in both cases batches get
        their offsets in the order of the calls. `records` is patched in place when it is appended at once and
        copied otherwise. Cancelling what is awaited drops the batch if its turn has not come.

        Args:
            acks_all: the writer waits until the batch is committed, so enough replicas have to be in sync now.

        Raises:
            NotLeaderOrFollowerError: this broker does not lead the partition, or not any more when the batch has its turn.
            NotEnoughReplicasError: fewer replicas are in sync than min.insync.replicas demands.
            KafkaError: the batch is refused; nothing was appended. A retry helps if the error says so.
        """
        self._check_append(acks_all)
        now_ms = self._clock.monotonic_ms()
        pace = self._pace
        heavy = _is_heavy(records)
        append = Append(records, self.leader_epoch, origin, api_version, transaction_version, verification)
        if not heavy and self._queue is None and not pace.is_slow(now_ms):
            info = self._append_nowait(append, now_ms)
            if info is not None:
                self.on_appended(info.last_offset + 1, len(records))
                return info
        if not pace.has_room(len(records)):
            raise RequestTimedOutError(f"{self.topic_partition}: too much waits for its disk")
        future: asyncio.Future[AppendInfo] = asyncio.get_running_loop().create_future()
        if self._queue is None:
            self._queue = AppendQueue(self, pace, self._hand_offs, self._unpacking, self._offload)
        waiting = append._replace(records=bytearray(records))
        self._queue.add(QueuedAppend(waiting, heavy=heavy, future=future))
        return future

    def _append_nowait(self, append: Append, now_ms: int) -> AppendInfo | None:
        """Append on the loop; None: nothing was done, another thread changes the log."""
        waits = self._waits(now_ms)
        try:
            info = self.log.append_as_leader_nowait(append, self._clock.wall_ms())
        except StorageError as error:
            raise KafkaStorageError(str(error)) from error
        if info is not None:
            self._time_write(now_ms, waits)
        return info

    def begin_verification(self, producer_id: int, producer_epoch: int) -> VerificationGuard:
        """Return the guard with which a transaction is verified before its first append here (KIP-890)."""
        return self.log.producers.begin_verification(
            producer_id, producer_epoch, self.leader_epoch, self._clock.wall_ms()
        )

    def append_ordinary(self, records: memoryview, now_ms: int, *, acks_all: bool = True) -> AppendInfo | None:
        """Append a client's batch that needs no second look; None: nothing was done, use `append`.

        It is committed at once unless the topic asks for an fsync first, or there are other replicas.

        Raises:
            KafkaStorageError: it could not be written.
        """
        log = self.log
        leader = self.leader
        if leader is None or (not leader.is_sole and leader.why_no_append(acks_all=acks_all)):
            return None
        started_ms = self._clock.monotonic_ms()
        if self._queue is not None or self._pace.is_slow(started_ms):
            return None
        if len(records) > HEADER_SIZE and records[ATTRIBUTES_END] & COMPRESSION_MASK and _is_heavy(records):
            return None
        waits = self._waits(started_ms)
        try:
            info = log.append_ordinary(records, self.leader_epoch, now_ms)
        except StorageError as error:
            raise KafkaStorageError(str(error)) from error
        if info is not None:
            self._time_write(started_ms, waits)
            self.on_appended(info.last_offset + 1, len(records), now_ms)
        return info

    def _waits(self, now_ms: int) -> int:
        """Return how often the loop's thread has waited, as of this millisecond: asking costs as much as checking a batch."""
        pace = self._pace
        if pace.asked_ms != now_ms:
            pace.asked_ms = now_ms
            pace.waits = self._clock.thread_waits()
        return pace.waits

    def _time_write(self, started_ms: int, waits: int) -> None:
        """A write of this thread has ended: was it slow, and was that the disk?"""
        ended_ms = self._clock.monotonic_ms()
        if ended_ms - started_ms >= SLOW_MS and self._clock.thread_waits() != waits:
            self._pace.on_write(ended_ms - started_ms, ended_ms)

    # -- what waits (`Appender`)

    def may_append_on_loop(self) -> bool:
        """Whether the disk is quick."""
        return not self._pace.is_slow(self._clock.monotonic_ms())

    def append_queued_nowait(self, append: Append) -> AppendInfo | None:
        """Append on the loop; None: nothing was done, another thread changes the log."""
        return self._append_nowait(append, self._clock.monotonic_ms())

    def append_queued(self, append: Append, *, heavy: bool, wait: bool) -> tuple[AppendInfo | None, int]:
        """Append on a thread; return how long it took, too, in milliseconds.

        It is timed there: the loop would count how long the thread waited for its turn.
        """
        started_ms = self._clock.monotonic_ms()
        waits = self._clock.thread_waits()
        to_log = self.log.append_as_leader if wait else self.log.append_as_leader_nowait
        try:
            info = to_log(append, self._clock.wall_ms())
        except StorageError as error:
            raise KafkaStorageError(str(error)) from error
        finally:
            if not heavy:
                self._time_write(started_ms, waits)
        return info, self._clock.monotonic_ms() - started_ms

    def on_queue_empty(self) -> None:
        """Nothing waits any more: appends need no queue."""
        self._queue = None

    def on_appended(self, end_offset: int, byte_count: int, now_ms: int | None = None) -> None:
        """The log has grown up to `end_offset`, by a batch of `byte_count`; others behind it may be there already."""
        log = self.log
        config = log.config
        leader = self.leader
        if config.flush_messages == 1:
            self._uncommitted.append((end_offset, byte_count))
            self._start_commit()
        elif leader is None or leader.is_sole:
            self._advance(byte_count)
        else:
            self._uncommitted.append((end_offset, byte_count))
            self._advance()
        if self.replica_waiters:
            for waiter in tuple(self.replica_waiters):
                waiter.on_progress(byte_count, is_stable=True)
        retention_ms = config.retention_ms
        if retention_ms >= 0 and config.cleanup_delete:
            # What time retention goes by: of the whole segment, which newer records keep from being deleted.
            newest_ms = log.active_segment.max_timestamp_ms
            if 0 <= newest_ms < (self._clock.wall_ms() if now_ms is None else now_ms) - retention_ms:
                self._on_old_records(self.topic_partition, newest_ms, retention_ms)

    # -- high watermark

    def _start_commit(self) -> None:
        if not self._committing:
            self._committing = True
            self._commits.commit(self.log, self._on_commit)

    def _on_commit(self, error: BaseException | None) -> None:
        self._committing = False
        if isinstance(error, asyncio.CancelledError):
            return
        if error is not None:
            self._fail_waiters(KafkaStorageError(f"{self.topic_partition}: {error}"))
            return
        self._advance()
        if self.leader is not None and self.log.recovery_point < self.log.log_end_offset:
            self._start_commit()

    def _advance(self, byte_count: int = 0) -> None:
        """Move the high watermark as far as it may go and wake those who waited for that."""
        leader = self.leader
        if leader is None:
            return
        log = self.log
        safe = log.log_end_offset
        if log.config.flush_messages == 1:  # `flush_needed_before_ack`, without the call
            safe = min(log.recovery_point, safe)
        if not leader.is_sole:
            safe = leader.on_own_end(safe)
        uncommitted = self._uncommitted
        while uncommitted and uncommitted[0][0] <= safe:
            byte_count += uncommitted.popleft()[1]
        if safe > log.high_watermark:
            log.advance_high_watermark(safe)
            waiters = self._high_watermark_waiters
            while waiters and waiters[0][0] <= safe:
                waiter = waiters.popleft()[1]
                if not waiter.done():
                    waiter.set_result(None)
        elif not byte_count:
            return
        if self.fetch_waiters:
            self._tell_fetches(byte_count)

    def _tell_fetches(self, byte_count: int) -> None:
        """More can be read."""
        stable, told = self.log.last_stable_offset, self._stable_told
        self._stable_told = stable
        for waiter in tuple(self.fetch_waiters):
            waiter.on_progress(byte_count, is_stable=stable != told)

    def wake_fetches(self) -> None:
        """Whatever fetches wait for has changed."""
        for waiter in (*self.fetch_waiters, *self.replica_waiters):
            waiter.wake()

    def committed(self, last_offset: int, *, acks_all: bool = False) -> asyncio.Future[None] | None:
        """Return None if the record is below the high watermark, else a future that resolves when it is.

        The future fails with a KafkaError when this broker stops leading or its disk fails first, and with `acks_all` when
        fewer replicas are in sync than min.insync.replicas demands.
        """
        if self.log.high_watermark > last_offset:
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wait_for_commit(last_offset, future, acks_all=acks_all)
        return future

    def wait_for_commit(self, last_offset: int, waiter: CommitWaiter, *, acks_all: bool = False) -> None:
        """Tell `waiter` what becomes of a record that is not below the high watermark; see `committed`."""
        # Appends end in order, so waiters are ordered by offset, except one that asks about an old duplicate.
        waiters = self._high_watermark_waiters
        position = len(waiters)
        while position and waiters[position - 1][0] > last_offset + 1:
            position -= 1
        waiters.insert(position, (last_offset + 1, waiter, acks_all))

    def _fail_waiters(self, error: KafkaError) -> None:
        waiters = list(self._high_watermark_waiters)
        self._high_watermark_waiters.clear()
        self._uncommitted.clear()
        for _, waiter, _ in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for _, question in self._questions:
            if not question.done():
                question.set_exception(error)
        self.wake_fetches()

    # -- followers

    def on_follower_fetch(
        self,
        broker: int,
        broker_epoch: int,
        turn: int,
        leader_epoch: int,
        offset: int,
        last_epoch: int,
        log_start_offset: int,
    ) -> FetchVerdict:
        """A follower asks for what begins at `offset`: what it has is news for ISR and high watermark."""
        leader = self.leader
        if leader is None:
            return NOT_LED_YET
        verdict = leader.on_follower_fetch(
            broker,
            broker_epoch,
            leader_epoch,
            offset,
            last_epoch,
            self._clock.monotonic_ms(),
            log_start_offset=log_start_offset,
            leader_end=self.log.log_end_offset,
            turn=turn,
        )
        if verdict is ACCEPTED:
            self._advance()
            if self._questions:
                self._answer_questions()
            if not leader.is_in_sync(broker):
                self.on_progress()
        return verdict

    def on_role_facts(self) -> None:
        """State, brokers, settings or the lease have changed: the high watermark may move, or acks=all be impossible."""
        leader = self.leader
        if leader is None:
            return
        self._advance()
        if leader.is_under_min_isr and self._high_watermark_waiters:
            error = NotEnoughReplicasAfterAppendError(
                f"{self.topic_partition}: in sync are {list(leader.committed.isr)}, min.insync.replicas is {leader.min_isr}"
            )
            for _, waiter, acks_all in self._high_watermark_waiters:
                if acks_all and not waiter.done():
                    waiter.set_exception(error)

    @property
    def has_unsynced(self) -> bool:
        """Whether something was appended that is not on the disk yet."""
        return self.log.recovery_point < self.log.log_end_offset

    def sync(self, then: Callable[[BaseException | None], None]) -> None:
        """Bring the log to the disk; see `Commits.commit`."""
        self._commits.commit(self.log, then)

    def append_from_leader_nowait(self, records: Records | bytes, leader_epoch: int) -> bool:
        """Append what the leader sent; or nothing, and return False, if another thread changes the log right now.

        Raises:
            KafkaError, StorageError: as `FollowerAppender.append_as_follower`.
        """
        started_ms = self._clock.monotonic_ms()
        waits = self._waits(started_ms)
        if try_locked(self.log.lock, self._append_from_leader, records, leader_epoch) is None:
            return False
        self._time_write(started_ms, waits)
        return True

    async def append_from_leader(self, records: Records | bytes, leader_epoch: int) -> None:
        """Append what the leader sent, off the loop.

        Raises:
            KafkaError, StorageError: as `FollowerAppender.append_as_follower`.
        """
        await self._watched.run(self._append_from_leader, records, leader_epoch)

    def _append_from_leader(self, records: Records | bytes, leader_epoch: int) -> AppendInfo:
        data = bytearray(records) if isinstance(records, bytes) else records
        return self.log.append_as_follower(data, now_ms=self._clock.wall_ms(), leader_epoch=leader_epoch)

    async def cut_for_leader(self, offset: int, leader_epoch: int, *, keeps_copy: bool) -> None:
        """Drop what the leader does not have, from `offset` on.

        Raises:
            NotLeaderOrFollowerError: the leader of that epoch is followed no more.
            StorageError: the disk failed.
        """
        if keeps_copy:
            kept = await self._offload.run(self.log.keep_copy, offset)
            logger.warning(
                "%s: records that were committed are cut off; they are kept in %s",
                self.topic_partition,
                ", ".join(kept),
            )
        wall_ms = self._clock.wall_ms()
        await self._offload.run(partial(self.log.truncate_to, offset, now_ms=wall_ms, leader_epoch=leader_epoch))

    async def begin_anew(self, offset: int, leader_epoch: int) -> None:
        """Drop everything and go on at `offset`, where the leader's log begins; errors as in `cut_for_leader`."""
        wall_ms = self._clock.wall_ms()
        again = partial(self.log.truncate_fully_and_start_at, offset, now_ms=wall_ms, leader_epoch=leader_epoch)
        await self._offload.run(again)

    def on_followed(self, leader_high_watermark: int, leader_log_start: int) -> None:
        """An answer of the leader has been taken in: readers here may go as far as the high watermark it told."""
        log = self.log
        before = log.high_watermark
        log.advance_high_watermark(leader_high_watermark)
        if leader_log_start > log.log_start_offset:
            with log.lock:
                log.move_log_start(min(leader_log_start, log.high_watermark))
        if log.high_watermark > before and self.fetch_waiters:
            self._tell_fetches(1 << 30)

    # -- read

    def upper_offset(self, isolation: IsolationLevel) -> int:
        """Return the first offset a consumer may not read."""
        if isolation == IsolationLevel.READ_COMMITTED:
            return self.log.last_stable_offset
        return self.log.high_watermark

    def read(
        self,
        offset: int,
        max_bytes: int,
        isolation: IsolationLevel,
        *,
        min_one: bool,
        nowait: bool = False,
        of_follower: bool = False,
    ) -> LogSlice | None:
        """Return whole batches from `offset` on, or None at the end. May wait for the disk, unless `nowait`.

        `of_follower`: up to the end of the log, whatever is committed.

        Raises:
            OffsetOutOfRangeError: `offset` is below the log start or above the log end.
            OffsetNotAvailableError: it is above the log end, and the leader may have it.
            CorruptMessageError: what should hold `offset` cannot be read.
            KafkaStorageError: the disk failed.
            WouldBlockError: with `nowait`, an index is not in memory: call again off the loop.
        """
        upper = self.log.log_end_offset if of_follower else self.upper_offset(isolation)
        if offset > self.log.log_end_offset and self.follower is not None:
            raise OffsetNotAvailableError(
                f"{self.topic_partition}: {offset} has not been replicated to this broker yet"
            )
        if upper <= offset <= self.log.log_end_offset and offset >= self.log.log_start_offset:
            return None
        try:
            if isolation == IsolationLevel.READ_COMMITTED and not of_follower:
                self.log.check_aborted(offset, nowait=nowait)
            return self.log.read(offset, max_bytes, upper_offset=upper, min_one=min_one, nowait=nowait)
        except StorageError as error:
            raise KafkaStorageError(str(error)) from error

    async def search(self, find: Callable[..., T], *arguments: int) -> T:
        """Run one of the log's searches off the loop: they read indexes and records.

        Raises:
            KafkaError: the disk failed, or what it holds is no batch.
        """
        try:
            try:
                return await self._offload.run(find, *arguments)
            except FileNotFoundError:  # retention or compaction took a segment away meanwhile
                return await self._offload.run(find, *arguments)
        except StorageError as error:
            raise KafkaStorageError(str(error)) from error
        except OSError as error:
            raise self.on_io_error(error) from error
        except ValueError as error:
            raise CorruptMessageError(f"{self.topic_partition}: {error}") from error

    def on_io_error(self, error: OSError) -> KafkaStorageError:
        """A reader of this log met `error`: have the log's directory taken offline, return the client's error."""
        self.log.on_io_error(error)
        return KafkaStorageError(f"{self.topic_partition}: {error}")

    async def delete_records(self, before_offset: int) -> int:
        """Move the log start to `before_offset`, which is at most the high watermark; return the new log start."""
        await self._offload.run(self.log.advance_log_start, before_offset)
        self.wake_fetches()
        return self.log.log_start_offset


class _NoLease:
    """Stands in for the lease where there are no other replicas."""

    def holds(self) -> bool:
        return False


_NO_LEASE = _NoLease()
NOT_LED_YET = FetchVerdict(ErrorCode.NOT_LEADER_OR_FOLLOWER)


def _nothing() -> None:
    return None


def leader_of(
    log: PartitionLog,
    node_id: int,
    state: PartitionImage,
    *,
    lease: HasLease,
    min_isr: int,
    lag_ms_max: int,
    now_ms: int,
) -> Leader:
    """Return the role of the leader of this log, whose epoch begins at its present end."""
    epochs = log.leader_epochs
    return Leader(
        node_id,
        state,
        epoch_start=log.log_end_offset,
        high_watermark=log.high_watermark,
        epoch_end=log.end_offset_for_epoch,
        first_epoch_start=lambda: epochs.first_start,
        lease=lease,
        min_isr=min_isr,
        lag_ms_max=lag_ms_max,
        now_ms=now_ms,
    )


def _is_heavy(records: Records) -> bool:
    """Whether checking this batch, a compressed one, would hold up the loop."""
    codec = records[ATTRIBUTES_END] & COMPRESSION_MASK if len(records) > HEADER_SIZE else 0
    if not 0 < codec <= CompressionType.ZSTD:
        return False
    if codec == CompressionType.GZIP:
        return len(records) > GZIP_ON_LOOP_MAX
    if codec != CompressionType.ZSTD and len(records) * GROWTH_MAX <= UNPACKED_ON_LOOP_MAX:
        return False  # whatever is in it
    return unpacked_size_max(CompressionType(codec), memoryview(records)[HEADER_SIZE:]) > UNPACKED_ON_LOOP_MAX
