"""PartitionLog: one partition's records on one disk. Appends, reads, rolls, flushes, truncates; owns its segments.

Batches stay bytes: one header is read, 12 bytes are patched, one write. What may be appended is decided by `validation`
and `producer_state`, what is deleted by `retention`, what a directory holds after a crash by `recovery`. Nothing here
waits for a loop or starts a thread; the caller decides where a call runs.

The log holds the state that its parts share: segments, offsets, leader epochs, producers. Each part does one thing and
owns what only it changes: `appending` (the led epoch), `following`, `writing`, `flushing` (the recovery point), `reading`,
`mending`, `aborted`, `snapshots`, `deletion`, `swap`, `truncation`, `health` (the failure). The parts change the shared
state with the lock held; everything else goes through the methods of `PartitionLog`.

Threads: changes hold `lock`; `flush` and `replace_segments` let go of it for their fsyncs. Reads take no lock: what they
need is published by single assignments, the end last.

Invariants: log_start_offset <= high_watermark <= log_end_offset; recovery_point <= log_end_offset, and everything below
the recovery point is on the disk, names of files included. After a failed write or fsync the log is failed for good:
`StorageError`. A full disk, or no descriptor left, is no failure where the step can be taken back: a partial write is cut
off, a flush or a close is left for the next one, and KAFKA_STORAGE_ERROR answered. Where it cannot (in the middle of a
truncation, of a swap, behind an abort marker) this log is failed, but not its directory. An fsync that finds the disk
full is a failed fsync.

Sources: Kafka's UnifiedLog, LocalLog; kafka-features.md §6.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from ottla.errors import KafkaStorageError, OffsetOutOfRangeError, StorageError
from ottla.storage.aborted import AbortedTransactions
from ottla.storage.appending import LogAppender
from ottla.storage.checkpoints import PARTITION_METADATA_FILE, encode_partition_metadata
from ottla.storage.damage import Damage, UnreadableError, UnreliableIndexError
from ottla.storage.deletion import SegmentDeleter
from ottla.storage.files import PASSING
from ottla.storage.flushing import FlushPoint, LogFlusher
from ottla.storage.following import FollowerAppender, check_followed
from ottla.storage.health import LogHealth
from ottla.storage.hooks import NoHooks
from ottla.storage.index import WouldBlockError
from ottla.storage.mending import LogMender, is_known
from ottla.storage.open_files import OpenFiles
from ottla.storage.reading import LogReader
from ottla.storage.recovery import LogLoader, read_epochs
from ottla.storage.snapshots import ProducerSnapshots
from ottla.storage.swap import SegmentSwap
from ottla.storage.time_lookup import TimestampOffset, offset_for_timestamp, offset_of_max_timestamp
from ottla.storage.truncation import start_over, truncate_to
from ottla.storage.writing import LogWriter
from ottla.types import ZERO_UUID, TopicPartition

if TYPE_CHECKING:
    from ottla.storage.config import LogConfig
    from ottla.storage.files import Files
    from ottla.storage.hooks import LogHooks
    from ottla.storage.segment import Segment
    from ottla.storage.slices import LogSlice

logger = logging.getLogger(__name__)

DEFAULT_PRODUCER_ID_EXPIRATION_MS = 86_400_000
#: Of what is cut off although it was committed, so much goes into one file.
COPY_BYTES = 64 << 20


class PartitionLog:
    """One partition's log. Make it with `open`.

    Attributes:
        directory: `<log_directory>/<topic>-<partition>`.
        log_directory: the entry of `log.dirs` that it lies in.
        topic_id: 16 bytes, zero if unknown.
        log_start_offset, log_end_offset, high_watermark: as in Kafka.
        segments: oldest first; replaced, never changed in place.
        active_segment: the last segment, which appends go to.
        leader_epochs, producers: changed by appends and truncation only.
        append_as_leader, append_as_leader_nowait, append_ordinary: see `LogAppender`.
        append_as_follower: see `FollowerAppender`.
    """

    __slots__ = (
        "aborted",
        "active_segment",
        "append_as_follower",
        "append_as_leader",
        "append_as_leader_nowait",
        "append_ordinary",
        "appender",
        "config",
        "deleter",
        "directory",
        "files",
        "flusher",
        "health",
        "high_watermark",
        "hooks",
        "leader_epochs",
        "lock",
        "log_directory",
        "log_end_offset",
        "log_start_offset",
        "mender",
        "open_files",
        "producers",
        "reader",
        "recovered_bytes",
        "segments",
        "snapshots",
        "swap",
        "topic_id",
        "topic_partition",
        "writer",
    )

    def __init__(
        self,
        loaded: LogLoader,
        open_files: OpenFiles,
        directory: str,
        topic_partition: TopicPartition,
        config: LogConfig,
        *,
        now_ms: int,
        hooks: LogHooks,
        lock: threading.RLock,
    ) -> None:
        self.topic_partition = topic_partition
        self.directory = directory
        self.log_directory = directory.rpartition("/")[0]
        self.config = config
        self.files: Files = open_files.files
        self.open_files = open_files
        self.hooks = hooks
        self.lock = lock
        self.topic_id = loaded.topic_id or ZERO_UUID
        self.log_start_offset = loaded.log_start_offset
        self.log_end_offset = loaded.log_end_offset
        self.high_watermark = loaded.log_start_offset
        self.leader_epochs = loaded.leader_epochs
        self.producers = loaded.producers
        self.recovered_bytes = loaded.recovered_bytes
        self.segments: list[Segment] = loaded.segments
        self.active_segment = loaded.segments[-1]
        # The parts. Later ones use earlier ones.
        self.health = LogHealth(self)
        self.reader = LogReader(self.log_end_offset, self.active_segment)
        self.snapshots = ProducerSnapshots(self, loaded.snapshots)
        self.aborted = AbortedTransactions(self, loaded.aborted_bases)
        self.flusher = LogFlusher(self, now_ms)
        self.mender = LogMender(self)
        self.writer = LogWriter(self)
        self.deleter = SegmentDeleter(self)
        self.swap = SegmentSwap(self)
        self.appender = LogAppender(self)
        # Bound once: an append pays for no call in between.
        self.append_as_leader = self.appender.append_as_leader
        self.append_as_leader_nowait = self.appender.append_as_leader_nowait
        self.append_ordinary = self.appender.append_ordinary
        self.append_as_follower = FollowerAppender(self).append_as_follower

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        topic_partition: TopicPartition,
        config: LogConfig,
        *,
        now_ms: int,
        recovery_point: int | None = 0,
        log_start_offset: int = 0,
        high_watermark: int | None = None,
        clean: bool = False,
        topic_id: bytes | None = None,
        producer_id_expiration_ms: int = DEFAULT_PRODUCER_ID_EXPIRATION_MS,
        open_files: OpenFiles | None = None,
        hooks: LogHooks | None = None,
        lock: threading.RLock | None = None,
    ) -> PartitionLog:
        """Open a partition's directory, or make it.

        Args:
            files: the file system.
            directory: `<log dir>/<topic>-<partition>`.
            topic_partition: whose log it is.
            config: of the topic.
            now_ms: wall time.
            recovery_point: from the checkpoint; what lies behind is read again unless `clean`. None: the checkpoint
                cannot be read; then everything is read again, and only a torn end is cut off.
            log_start_offset: from the checkpoint.
            high_watermark: from the checkpoint, None if it has none; clamped to what is there.
            clean: whether the log was closed before the last stop.
            topic_id: written to partition.metadata if there is none yet.
            producer_id_expiration_ms: when silent producers are forgotten.
            open_files: descriptors shared with other logs.
            hooks: the owner.
            lock: held by every change; its own unless given.

        Raises:
            OSError: the disk failed.
            StorageError: the directory is not a log that this release reads.
        """
        if open_files is None:
            open_files = OpenFiles(files)
        is_new = not files.is_dir(directory)
        if is_new:
            files.mkdir(directory)
        loaded = LogLoader(
            open_files,
            directory,
            topic_partition,
            config,
            now_ms=now_ms,
            producer_id_expiration_ms=producer_id_expiration_ms,
        )
        loaded.load(
            clean=clean,
            recovery_point=recovery_point,
            log_start_offset=log_start_offset,
            high_watermark=high_watermark,
        )
        log = cls(
            loaded,
            open_files,
            directory,
            topic_partition,
            config,
            now_ms=now_ms,
            hooks=hooks or NoHooks(),
            lock=lock or threading.RLock(),
        )
        end, flusher = log.log_end_offset, log.flusher
        flusher.recovery_point = end if clean else max(min(recovery_point or 0, end), log.log_start_offset)
        log.high_watermark = min(max(high_watermark or 0, log.log_start_offset), end)
        log.producers.on_high_watermark(log.high_watermark)
        for segment in log.segments:
            for damage in segment.damages:
                log.mender.report(segment, damage)
        if topic_id is not None:
            log.set_topic_id(topic_id)
        if is_new or not clean or end == log.log_start_offset:
            # An empty log may have been closed without an fsync: its directory need not be on the disk yet.
            flusher.note_new()
        if not clean and not is_new:
            # What survived may still be in the page cache only, and the checkpoint may be older than a truncation.
            flusher.note_sealed(loaded.recovered_segments[:-1])
            flusher.note_cut()
            if log.flush_needed_before_ack:
                log.flush()  # readers see nothing before it is safe
        return log

    def set_topic_id(self, topic_id: bytes) -> None:
        """Write partition.metadata if the directory has none. It becomes durable with the next flush.

        Raises:
            StorageError: the directory belongs to another topic of the same name.
        """
        if self.topic_id == topic_id:
            return
        if self.topic_id != ZERO_UUID:
            raise StorageError(
                f"{self.directory} belongs to the topic id {self.topic_id.hex()}, not to {topic_id.hex()}: "
                "a topic of this name was deleted while the directory was away"
            )
        path = f"{self.directory}/{PARTITION_METADATA_FILE}"
        self.files.write_atomic(path, encode_partition_metadata(topic_id), sync=False)
        self.topic_id = topic_id
        self.flusher.note_new()

    # -- facts

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    @property
    def last_stable_offset(self) -> int:
        """The high watermark, or the first offset of a transaction that is not decided below it."""
        if self.producers.has_transactions:
            first = self.producers.first_unstable_offset
            if first is not None and first < self.high_watermark:
                return first
        return self.high_watermark

    @property
    def recovery_point(self) -> int:
        """Everything below it is on the disk."""
        return self.flusher.recovery_point

    @property
    def last_flush_ms(self) -> int:
        """When the log was last flushed, for `flush.ms`."""
        return self.flusher.last_flush_ms

    @property
    def led_epoch(self) -> int:
        """The leader epoch whose appends are taken, or `appending.NOT_LED`."""
        return self.appender.led_epoch

    @property
    def flush_needed_before_ack(self) -> bool:
        """Whether an append may be shown and acknowledged only when it is on the disk (flush.messages=1)."""
        return self.config.flush_messages == 1

    @property
    def damages(self) -> list[tuple[Segment, Damage]]:
        """What of this log is known to be unreadable."""
        return [(segment, damage) for segment in self.segments for damage in segment.damages]

    @property
    def failure(self) -> str | None:
        """Why the log is of no use any more, or None."""
        return self.health.failure

    # -- the role

    def mend_epochs(self) -> bool:
        """Compare the leader epochs with the batches, and take those of the batches where the file says more.

        Reads all headers: off the loop. Returns whether the newest epoch is a smaller one now.
        """
        read = read_epochs(self.segments, lambda segment, damage: None)
        with self.lock:
            if read.latest >= self.leader_epochs.latest:
                return False
            logger.error(
                "%s: the leader epochs end with %d, the batches with %d: the file is built anew from them",
                self.topic_partition,
                self.leader_epochs.latest,
                read.latest,
            )
            self.leader_epochs.replace(read)
        return True

    def lead(self, leader_epoch: int) -> None:
        """Take appends of this leader epoch, and of no other; note where the epoch starts (KIP-101). Waits for the lock.

        Epochs only grow: one that is not larger than the last batch's begins nothing anew, and a smaller one is refused.

        Raises:
            NotLeaderOrFollowerError: a larger epoch is in the log.
        """
        self.appender.lead(leader_epoch)

    def lead_nowait(self, leader_epoch: int) -> bool:
        """Do as `lead`; or nothing, and return False, if another thread changes the log right now."""
        return self.appender.lead_nowait(leader_epoch)

    def follow(self, leader_epoch: int) -> None:
        """Take what the leader of this epoch sends, and nothing else: neither appends here nor another leader's answers."""
        self.appender.follow(leader_epoch)

    def fence(self) -> None:
        """Take no appends any more, as leader or follower. One that holds the lock right now is finished."""
        self.appender.fence()

    # -- roll and flush

    def roll(self, now_ms: int) -> Segment:
        """Seal the active segment and begin a new one at the log end.

        Raises:
            KafkaStorageError: the disk is full. StorageError: it failed.
        """
        with self.lock:
            self.health.check()
            if self.active_segment.size or self.active_segment.base_offset != self.log_end_offset:
                self.writer.roll(self.log_end_offset, now_ms)
            return self.active_segment

    def flush(self, *, now_ms: int | None = None) -> int:
        """Make everything appended so far durable and return the new recovery point. May take long: off the loop.

        Appends go on meanwhile. Recovery rebuilds the indexes of the active segment.

        Raises:
            KafkaStorageError: no space or no descriptor is left; the recovery point stays and the next flush does it all.
            StorageError: an fsync failed, now or before. What is on the disk is unknown; it is never tried again.
        """
        self.health.check()
        return self.flusher.flush(now_ms=now_ms)

    def begin_flush(self, now_ms: int) -> FlushPoint | None:
        """Return up to where an fsync of one file, or of all, that begins later makes this log durable; never waits.

        Follow with `end_flush` or `fail_flush`. None: there is more to it than the data of the active segment (or
        another thread changes the log right now, or it has failed): use `flush`.
        """
        return self.flusher.begin_flush(now_ms)

    def end_flush(self, point: FlushPoint) -> bool:
        """Take in that `point` is on the disk. False: another thread changes the log right now, use `flush`."""
        return self.flusher.end_flush(point)

    def fail_flush(self, error: OSError) -> StorageError:
        """Take in that the fsync failed: what is on the disk is unknown, and the log has failed. Return what to raise."""
        return self.flusher.fail_flush(error)

    # -- read

    def read(
        self, offset: int, max_bytes: int, *, upper_offset: int, min_one: bool = True, nowait: bool = False
    ) -> LogSlice:
        """Return whole batches from the one that holds `offset` on, all below `upper_offset`; nothing is read yet.

        Args:
            offset: the first wanted offset; the slice may begin before it, in the middle of a batch.
            max_bytes: the most it may hold.
            upper_offset: batches that reach it are left out: high watermark, last stable offset or log end.
            min_one: give the first batch even if it is larger than `max_bytes` (KIP-74).
            nowait: raise instead of waiting for the disk where an index is needed.

        Raises:
            OffsetOutOfRangeError: `offset` is below the log start or above the log end.
            UnreadableError: the bytes that should hold `offset` are no batch; a read of what lies behind them succeeds.
            WouldBlockError: with `nowait`: call again off the loop.
            KafkaStorageError: no descriptor is left.
            StorageError: the disk failed.
        """
        end = self.reader.end[0]
        if offset > end or offset < self.log_start_offset:
            raise OffsetOutOfRangeError(
                f"{self.topic_partition}: offset {offset} is not in [{self.log_start_offset}, {end}]"
            )
        if self.health.failure is not None:
            raise StorageError(self.health.failure)
        try:
            return self.reader.find(self.segments, offset, max_bytes, upper_offset, min_one=min_one, nowait=nowait)
        except (UnreadableError, UnreliableIndexError) as error:
            if nowait and not is_known(error):
                raise WouldBlockError(str(error)) from error
            self.mender.note_trouble(error)
            return self.read(offset, max_bytes, upper_offset=upper_offset, min_one=min_one)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and offset < self.log_start_offset:
                raise OffsetOutOfRangeError(f"{self.topic_partition}: offset {offset} was deleted") from error
            raise self.health.refuse(error) from error

    def offset_for_timestamp(self, timestamp_ms: int) -> TimestampOffset | None:
        """Return (offset, timestamp, leader epoch) of the first record at or after a time; may wait for the disk.

        Raises:
            UnreadableError: it may lie where the log cannot be read.
        """
        return self.mender.around_damage(
            lambda: offset_for_timestamp(self.segments, timestamp_ms, self.log_start_offset)
        )

    def offset_of_max_timestamp(self) -> TimestampOffset | None:
        """Return the first record with the largest timestamp, None in an empty log; may wait for the disk.

        Raises:
            UnreadableError: as `offset_for_timestamp`.
        """
        return self.mender.around_damage(lambda: offset_of_max_timestamp(self.segments, self.log_start_offset))

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """Return (the largest known epoch up to `epoch`, where it ends), (-1, -1) if unknown (KIP-279)."""
        return self.leader_epochs.end_offset_for(epoch, self.log_end_offset)

    def aborted_transactions(self, start: int, upper: int) -> list[tuple[int, int]]:
        """Return (producer id, first offset) of the aborted transactions that overlap [start, upper)."""
        return self.aborted.between(start, upper)

    def check_aborted(self, start: int, *, nowait: bool) -> None:
        """Compare the transaction indexes from `start` on with the batches, once, before `aborted_transactions`.

        Raises:
            WouldBlockError: with `nowait`, where that has not been done: call again off the loop.
            UnreadableError: a part of the log is unreadable that says which transactions were aborted.
        """
        self.aborted.check(start, nowait=nowait)

    def note_unreadable(self, error: UnreadableError) -> None:
        """Find out how far the damage reaches, remember it, call the owner. May read much: off the loop.

        Raises:
            OSError: the disk failed, or the segment was deleted meanwhile.
        """
        self.mender.note_unreadable(error)

    # -- offsets that move

    def advance_high_watermark(self, offset: int) -> int:
        """Move the high watermark forward, at most to the log end; return it."""
        offset = min(offset, self.log_end_offset)
        if offset > self.high_watermark:
            self.high_watermark = offset
            if self.producers.has_transactions:
                self.producers.on_high_watermark(offset)
        return self.high_watermark

    def advance_log_start(self, offset: int) -> bool:
        """Make everything before `offset` unreadable (DeleteRecords); return whether it moved. Files go with retention.

        Raises:
            OffsetOutOfRangeError: `offset` is above the high watermark.
        """
        with self.lock:
            if offset > self.high_watermark:
                raise OffsetOutOfRangeError(
                    f"{self.topic_partition}: cannot delete up to {offset}, the high watermark is {self.high_watermark}"
                )
            return self.move_log_start(offset)

    def move_log_start(self, offset: int) -> bool:
        """Make everything before `offset` unreadable, with the lock held; return whether the log start moved."""
        if offset <= self.log_start_offset:
            return False
        self.log_start_offset = offset
        self.leader_epochs.truncate_start(offset)
        self.producers.on_log_start(offset)
        return True

    def expire_producers(self, now_ms: int) -> int:
        """Forget producers that were silent for producer.id.expiration.ms; return how many."""
        with self.lock:
            return self.producers.remove_expired(now_ms)

    # -- segments that go, batches that go

    def delete_old_segments(self, now_ms: int, *, by_time: bool = True) -> int:
        """Delete what retention lets go; return how many segments. While compacted ones are swapped in, that is none.

        Raises:
            OSError: a segment's time cannot be read: `on_io_error`.
            KafkaStorageError: no space for a new active segment.
            StorageError: the disk failed.
        """
        return self.deleter.delete_old_segments(now_ms, by_time=by_time)

    def replace_segments(self, new: list[Segment], old: list[Segment]) -> None:
        """Put compacted segments in the place of the ones they were made from. May take long: off the loop.

        The new ones have the suffix `.cleaned`, are synced, and cover the offsets of the old ones, which are sealed.
        A crash at any point leaves either all old or all new segments (see `recovery`).

        Raises:
            ValueError: an old segment is not sealed, or went away meanwhile; the new ones are `.cleaned` again.
            KafkaStorageError: no descriptor is left; as above.
            StorageError: the disk failed.
        """
        self.swap.replace(new, old)

    def truncate_to(self, offset: int, *, now_ms: int = 0, leader_epoch: int | None = None) -> None:
        """Drop everything from `offset` on, and the batch that holds it; the log then ends at `offset`.

        Args:
            leader_epoch: as in `append_as_follower`.

        Raises:
            NotLeaderOrFollowerError: this log follows no leader of that epoch.
            StorageError: the disk failed.
        """
        with self.lock:
            self.health.check()
            if leader_epoch is not None:
                check_followed(self, leader_epoch)
            truncate_to(self, offset, now_ms)

    def keep_copy(self, offset: int) -> list[str]:
        """Copy what begins at `offset` into files of their own beside the log, and return their paths.

        For what is cut off although it was committed. Nothing reads the files again; they hold batches as they are.

        Raises:
            StorageError: the disk failed.
        """
        paths: list[str] = []
        at = offset
        while at < self.log_end_offset:
            part = self.read(at, COPY_BYTES, upper_offset=self.log_end_offset)
            if not part.size:
                break
            path = f"{self.directory}.cut-{at}"
            try:
                self.files.write_atomic(path, part.read())
            except OSError as error:
                raise self.health.refuse(error) from error
            paths.append(path)
            at = max(at + 1, part.next_offset)
        return paths

    def truncate_fully_and_start_at(self, offset: int, *, now_ms: int = 0, leader_epoch: int | None = None) -> None:
        """Drop everything; the log is empty and goes on at `offset`.

        Args:
            leader_epoch: as in `append_as_follower`.

        Raises:
            NotLeaderOrFollowerError: this log follows no leader of that epoch.
            StorageError: the disk failed.
        """
        with self.lock:
            self.health.check()
            if leader_epoch is not None:
                check_followed(self, leader_epoch)
            start_over(self, offset, now_ms)

    # -- end

    def on_io_error(self, error: OSError) -> None:
        """Take in an error that the caller met with this log's files: log and directory fail, unless it passes."""
        if error.errno not in PASSING:
            self.health.fail(error)

    def close(self) -> None:
        """Flush, write the final index entries and a producer snapshot, close the files.

        Raises:
            KafkaStorageError: no space or no descriptor is left; it may be tried again.
            StorageError: the disk failed: the stop is not clean.
        """
        with self.lock:
            self.health.check()
            try:
                self.active_segment.finish()
                if self.log_end_offset > self.snapshots.newest:
                    self.snapshots.write(self.log_end_offset)
                if self.log_end_offset == self.log_start_offset:
                    # Not worth an fsync in each of thousands of empty logs: the next leader notes its epoch again.
                    self.leader_epochs.is_dirty = False
            except OSError as error:
                raise self.health.refuse(error) from error
            # From here on: a batch behind the snapshot would be overwritten after a "clean" start.
            self.health.stop(f"{self.topic_partition}: the log is closed")
        try:
            self.flusher.flush(with_indexes=True)
        except KafkaStorageError:
            self.health.failure = None  # as it was: not closed
            raise
        with self.lock:
            for segment in self.segments:
                segment.close()

    def abandon(self, reason: str) -> None:
        """Let go of all files without writing: after a failure, or before the directory is deleted.

        Files that a reader or a flush on another thread still uses are closed when it is done.
        """
        self.health.stop(reason)
        for segment in self.segments:
            segment.forget()

    def retire(self, reason: str) -> None:
        """`abandon`, but after the change that is under way: waits for the lock, so off the loop."""
        with self.lock:
            self.abandon(reason)
