"""PartitionLog: one partition's records on one disk. Appends, reads, rolls, flushes, truncates; owns its segments.

Batches stay bytes: one header is read, 12 bytes are patched, one write. What may be appended is decided by `validation`
and `producer_state`, what is deleted by `retention`, what a directory holds after a crash by `recovery`. Nothing here
waits for a loop or starts a thread; the caller decides where a call runs.

Threads: changes hold `lock` (given by the caller; without one everything must run on one thread); `flush` and
`replace_segments` let go of it for their fsyncs. Reads take no lock: what they need is published by single assignments,
the end last.

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
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ottla import failpoints
from ottla.errors import (
    CorruptMessageError,
    KafkaStorageError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    StorageError,
)
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import (
    ATTRIBUTES_END,
    COMPRESSION_MASK,
    CONTROL_BIT,
    MAGIC,
    NO_TIMESTAMP,
    OFFSET_LENGTH_EPOCH,
    BatchHeader,
    set_offset_and_epoch,
)
from ottla.protocol.records.checksum import crc32c
from ottla.protocol.records.control import read_marker
from ottla.protocol.records.formats import check_any_crc
from ottla.protocol.records.walk import DamagedBatchError, iter_batches
from ottla.storage.aborted import check_spans
from ottla.storage.checkpoints import LEADER_EPOCH_FILE, PARTITION_METADATA_FILE, encode_partition_metadata
from ottla.storage.damage import Damage, UnreadableError, UnreliableIndexError, UnreliableTransactionsError
from ottla.storage.files import NO_DESCRIPTOR, PASSING
from ottla.storage.hooks import NoHooks
from ottla.storage.index import WouldBlockError
from ottla.storage.index_builder import IndexBuilder
from ottla.storage.open_files import OpenFiles
from ottla.storage.reading import LogReader, base_offset_of, first_at_or_before
from ottla.storage.recovery import LogLoader, aborted_entries, replay_producers
from ottla.storage.retention import expired_segments
from ottla.storage.rolling import should_roll
from ottla.storage.segment import (
    CLEANED_SUFFIX,
    DELETED_SUFFIX,
    SNAPSHOT_SUFFIX,
    SWAP_SUFFIX,
    Segment,
    file_name,
    link_segments,
)
from ottla.storage.time_lookup import TimestampOffset, offset_for_timestamp, offset_of_max_timestamp
from ottla.storage.validation import is_taken_as_it_is, look_into, ordinary_packed_header, validate_batch
from ottla.storage.verification import UNCHECKED, Verification
from ottla.types import ZERO_UUID, AppendOrigin, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.protocol.records.control import EndTransactionMarker
    from ottla.storage.config import LogConfig
    from ottla.storage.files import Buffer, File, Files
    from ottla.storage.hooks import LogHooks
    from ottla.storage.index import AbortedTransaction
    from ottla.storage.producer_state import CompletedTransaction
    from ottla.storage.retention import Expired
    from ottla.storage.slices import LogSlice
    from ottla.storage.validation import ValidatedBatch

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_PRODUCER_ID_EXPIRATION_MS = 86_400_000
#: The led epoch of a log that is led by another broker, or by none: no append has it, not even one without an epoch (-1).
NOT_LED = -2


class Append(NamedTuple):
    """One batch on its way into a log, and how it is to be appended.

    Attributes:
        records: the batch; patched in place.
        leader_epoch: written into the batch; the log takes no other than the one it is led in.
        origin: a client is checked fully, a coordinator for epochs.
        api_version: of the Produce request.
        transaction_version: of the WriteTxnMarkers request.
        verification: of the transaction that the batch belongs to (`ProducerState.check_verification`).
    """

    records: bytearray | memoryview
    leader_epoch: int
    origin: AppendOrigin = AppendOrigin.CLIENT
    api_version: int | None = None
    transaction_version: int = 0
    verification: Verification | None = UNCHECKED


class AppendInfo(NamedTuple):
    """What an append did. For a duplicate: what the first append of the batch did."""

    first_offset: int
    last_offset: int
    log_append_time_ms: int
    log_start_offset: int
    duplicate: bool = False


class FlushPoint(NamedTuple):
    """How far a log is on the disk when `file` is (None: it is already), and in which life between two truncations."""

    end_offset: int
    generation: int
    file: File | None


class PartitionLog:
    """One partition's log. Make it with `open`.

    Attributes:
        topic_id: 16 bytes, zero if unknown.
        log_start_offset, log_end_offset, high_watermark: as in Kafka.
        recovery_point: everything below it is on the disk.
        leader_epochs, producers: changed by appends and truncation only.
        last_flush_ms: when it was last flushed, for `flush.ms`.
    """

    __slots__ = (
        "_aborted_bases",
        "_acquire",
        "_active",
        "_active_was_cut",
        "_directory_dirty",
        "_failure",
        "_generation",
        "_hooks",
        "_is_new",
        "_lock",
        "_open_files",
        "_reader",
        "_snapshots",
        "_swapping",
        "_unflushed",
        "_unsynced_snapshots",
        "config",
        "directory",
        "files",
        "high_watermark",
        "last_flush_ms",
        "leader_epochs",
        "led_epoch",
        "log_end_offset",
        "log_start_offset",
        "producers",
        "recovered_bytes",
        "recovery_point",
        "segments",
        "topic_id",
        "topic_partition",
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
        lock: AbstractContextManager[object],
    ) -> None:
        self.topic_partition = topic_partition
        self.directory = directory
        self.config = config
        self.files: Files = open_files.files
        self.topic_id = loaded.topic_id or ZERO_UUID
        self.log_start_offset = loaded.log_start_offset
        self.log_end_offset = loaded.log_end_offset
        self.high_watermark = loaded.log_start_offset
        self.recovery_point = loaded.log_start_offset
        self.leader_epochs = loaded.leader_epochs
        self.producers = loaded.producers
        self.recovered_bytes = loaded.recovered_bytes
        #: The leader epoch whose appends are taken. Set with the lock held, taken back without.
        self.led_epoch = NOT_LED
        #: Oldest first; replaced, never changed in place. The last one is active.
        self.segments: list[Segment] = loaded.segments
        self.last_flush_ms = now_ms
        self._open_files = open_files
        self._hooks = hooks
        self._lock = lock
        self._acquire: Callable[[bool], bool] | None = getattr(lock, "acquire", None)
        self._active = loaded.segments[-1]
        #: Its file became shorter since the last fsync.
        self._active_was_cut = False
        self._aborted_bases = loaded.aborted_bases
        self._snapshots = loaded.snapshots
        self._unsynced_snapshots: list[str] = []
        self._unflushed: list[Segment] = []
        self._directory_dirty = False
        self._is_new = False
        self._failure: str | None = None
        self._generation = 0
        #: Compacted segments that are about to take the place of others.
        self._swapping: list[Segment] = []
        self._reader = LogReader(self.log_end_offset, self._active)

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
        lock: AbstractContextManager[object] | None = None,
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
            lock: held by every change; needed if changes and reads run on several threads.

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
            lock=lock or nullcontext(),
        )
        end = log.log_end_offset
        log.recovery_point = end if clean else max(min(recovery_point or 0, end), log.log_start_offset)
        log.high_watermark = min(max(high_watermark or 0, log.log_start_offset), end)
        log.producers.on_high_watermark(log.high_watermark)
        for segment in log.segments:
            for damage in segment.damages:
                log._tell_damage(segment, damage)
        if topic_id is not None:
            log.set_topic_id(topic_id)
        if is_new or not clean or end == log.log_start_offset:
            # An empty log may have been closed without an fsync: its directory need not be on the disk yet.
            log._is_new = True
        if not clean and not is_new:
            # What survived may still be in the page cache only, and the checkpoint may be older than a truncation.
            log._unflushed = loaded.recovered_segments[:-1]
            log._active_was_cut = True
            if log.flush_needed_before_ack:
                log.flush()  # nobody may see it before it is safe
        return log

    # -- the fence

    def lead(self, leader_epoch: int) -> None:
        """Take appends of this leader epoch, and of no other; note where the epoch starts (KIP-101). Waits for the lock.

        Epochs only grow: one that is not larger than the last batch's begins nothing anew, and a smaller one is refused.

        Raises:
            NotLeaderOrFollowerError: a larger epoch is in the log.
        """
        with self._lock:
            self._lead(leader_epoch)

    def lead_nowait(self, leader_epoch: int) -> bool:
        """Do as `lead`; or nothing, and return False, if another thread changes the log right now."""
        acquire = self._acquire
        if acquire is None:
            self._lead(leader_epoch)
            return True
        if not acquire(False):
            return False
        try:
            self._lead(leader_epoch)
        finally:
            self._lock.release()  # type: ignore[attr-defined]
        return True

    def _lead(self, leader_epoch: int) -> None:
        latest = self.leader_epochs.latest
        if leader_epoch < latest:
            raise NotLeaderOrFollowerError(
                f"{self.topic_partition} cannot be led in epoch {leader_epoch}: it holds batches of epoch {latest}"
            )
        self.leader_epochs.assign(leader_epoch, self.log_end_offset)
        self.led_epoch = leader_epoch

    def fence(self) -> None:
        """Take no appends of a leader any more. One that holds the lock right now is finished."""
        self.led_epoch = NOT_LED

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
        self._is_new = True

    # -- facts

    @property
    def active_segment(self) -> Segment:
        return self._active

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
        return self._failure

    # -- append

    def append_as_leader(self, append: Append, now_ms: int) -> AppendInfo:
        """Append one batch: check it, give it the next offsets, write it.

        Raises:
            NotLeaderOrFollowerError: this log is not led in that epoch, now that its turn has come.
            KafkaError: the batch is refused and nothing was appended. KafkaStorageError: no space or no descriptor is left.
            StorageError: the disk failed, now or before.
        """
        batch = self._validated(append, now_ms)
        with self._lock:
            return self._append_validated(batch, append, now_ms)

    def append_as_leader_nowait(self, append: Append, now_ms: int) -> AppendInfo | None:
        """Do as `append_as_leader`; or nothing, and return None, if another thread changes the log right now."""
        acquire = self._acquire
        if acquire is None:
            return self._append_validated(self._validated(append, now_ms), append, now_ms)
        if not acquire(False):
            return None
        try:
            return self._append_validated(self._validated(append, now_ms), append, now_ms)
        finally:
            self._lock.release()  # type: ignore[attr-defined]

    def _validated(self, append: Append, now_ms: int) -> ValidatedBatch:
        return validate_batch(
            append.records, config=self.config, origin=append.origin, now_ms=now_ms, api_version=append.api_version
        )

    def append_ordinary(self, records: memoryview, leader_epoch: int, now_ms: int) -> AppendInfo | None:
        """Append a client's batch if nothing about it, the producer or this log needs a second look.

        That is so for nearly every batch, and takes half of the time. None: nothing was done; `append_as_leader` says
        what there is to say. `records`, at least a batch's header, is patched in place.

        Raises:
            KafkaStorageError, StorageError: as for `append_as_leader`.
        """
        acquire = self._acquire
        if acquire is not None and not acquire(False):
            return None
        try:
            config = self.config
            active = self._active
            if (
                self._failure is not None
                or failpoints.ENABLED
                or not active.is_warm
                or leader_epoch != self.leader_epochs.latest
                or leader_epoch != self.led_epoch
            ):
                return None
            packed = records[ATTRIBUTES_END] & COMPRESSION_MASK
            fields: tuple[int, ...] | None
            if packed:
                fields = ordinary_packed_header(records, config)
            else:
                fields, null_keys, smallest = kernels.check_batch(records, crc32c) or (None, 0, 0)
            if fields is None:
                return None
            _, length, _, _, _, attributes, delta, _, max_timestamp, producer_id, producer_epoch, sequence, _ = fields
            size = len(records)
            first = self.log_end_offset
            end = first + delta + 1
            if attributes != packed or not active.surely_fits(size, end - 1, max_timestamp, config):
                return None
            producers = self.producers
            producer = None
            if producer_id >= 0:
                producer = producers.plainly_next(producer_id, producer_epoch, sequence)
                if producer is None:
                    return None
            if packed:  # last: unpacking costs more than everything else together
                seen = look_into(records, fields, config)
                if seen is None:
                    return None
                null_keys, smallest = seen
            if not is_taken_as_it_is(records, size, null_keys, smallest, max_timestamp, config, now_ms):
                return None
            OFFSET_LENGTH_EPOCH.pack_into(records, 0, first, length, leader_epoch)
            position = self._write(records)
            active.note_batch(position, size, end - 1, max_timestamp, config.index_interval_bytes)
            if producer is not None:
                producer.take_in(sequence, delta, first, max_timestamp, now_ms)
            self._reader.note(first, position)
            self._publish(end)
        finally:
            if acquire is not None:
                self._lock.release()  # type: ignore[attr-defined]
        return AppendInfo(first, end - 1, NO_TIMESTAMP, self.log_start_offset)

    def _append_validated(self, batch: ValidatedBatch, append: Append, now_ms: int) -> AppendInfo:
        if self._failure is not None:
            raise StorageError(self._failure)
        leader_epoch, origin = append.leader_epoch, append.origin
        if leader_epoch != self.led_epoch:
            raise NotLeaderOrFollowerError(
                f"{self.topic_partition}: a batch of leader epoch {leader_epoch}, the log is led in "
                + (f"epoch {self.led_epoch}" if self.led_epoch >= 0 else "none")
            )
        data, header, _, _, log_append_time_ms = batch
        marker: EndTransactionMarker | None = None
        if header.producer_id >= 0:
            if header.attributes & CONTROL_BIT:
                marker = read_marker(data)
                if marker is not None:
                    self.producers.check_marker(header, marker, origin, append.transaction_version)
            else:
                known = self.producers.check_batch(header, origin)
                if known is not None:
                    return AppendInfo(
                        known.first_offset, known.last_offset, known.timestamp, self.log_start_offset, True
                    )
                if append.verification is not UNCHECKED:
                    self.producers.check_verification(header, append.verification, leader_epoch)
        first = self.log_end_offset
        last = first + header.last_offset_delta
        set_offset_and_epoch(data, 0, first, leader_epoch)
        size = len(data)
        if not self._active.surely_fits(size, last, header.max_timestamp, self.config) and self._should_roll(
            size, last, header.max_timestamp, now_ms
        ):
            self._roll(first, now_ms)
        if leader_epoch > self.leader_epochs.latest:
            self.leader_epochs.assign(leader_epoch, first)
        position = self._write(data)
        self._note(header, first, position, marker, now_ms)
        self._publish(last + 1)
        return AppendInfo(first, last, log_append_time_ms, self.log_start_offset)

    def append_as_follower(self, records: bytearray | memoryview, *, now_ms: int = -1) -> AppendInfo:
        """Append whole batches from a leader as they are; they were checked there and have their offsets.

        Messages of formats 0 and 1, which the leader has from an older Kafka, are taken as they are, too. The last batch
        may have been cut by the size of the answer; it is left out.

        Raises:
            CorruptMessageError: the bytes are no batches, or a CRC is wrong; nothing was appended.
            OffsetOutOfRangeError: they do not continue this log; nothing was appended.
            KafkaStorageError, StorageError: as for a leader. Batches before the failing one may have been appended.
        """
        try:
            batches = list(iter_batches(records, may_be_cut=True))
        except DamagedBatchError as error:
            raise CorruptMessageError(f"{self.topic_partition}: from the leader came {error}") from error
        if not batches:
            if records:
                raise CorruptMessageError(
                    f"{self.topic_partition}: {len(records)} bytes of a leader hold no whole batch"
                )
            return AppendInfo(-1, -1, -1, self.log_start_offset)
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            expected, epoch = self.log_end_offset, self.leader_epochs.latest
            if self.led_epoch != NOT_LED:
                raise NotLeaderOrFollowerError(f"{self.topic_partition} is led here, in epoch {self.led_epoch}")
            for position, header in batches:
                if 0 <= header.partition_leader_epoch < epoch:
                    raise NotLeaderOrFollowerError(
                        f"{self.topic_partition}: a replicated batch at {header.base_offset} has leader epoch "
                        f"{header.partition_leader_epoch}, the log holds {epoch}"
                    )
                epoch = max(epoch, header.partition_leader_epoch)
                if header.base_offset < expected:
                    raise OffsetOutOfRangeError(
                        f"{self.topic_partition}: a replicated batch begins at {header.base_offset}, "
                        f"the log goes on at {expected}"
                    )
                if not check_any_crc(records, position, header):
                    raise CorruptMessageError(f"{self.topic_partition}: the batch at {header.base_offset} is damaged")
                expected = header.next_offset
            view = memoryview(records)
            run: list[tuple[int, BatchHeader]] = []
            for at, header in batches:
                size = at + header.size - (run[0][0] if run else at)
                first, last, stamp = header.base_offset, header.last_offset, header.max_timestamp
                is_full = run and self._active.size + size > self.config.segment_bytes
                if is_full or self._should_roll(size, last, stamp, now_ms):
                    self._append_run(view, run, now_ms)
                    run = []
                    if self._should_roll(header.size, last, stamp, now_ms):
                        # Of a wrapper of format 0 or 1 the header tells the last offset only.
                        begins_at = first if header.magic == MAGIC else self.log_end_offset
                        self._roll(max(begins_at, self.log_end_offset), now_ms)
                run.append((at, header))
            self._append_run(view, run, now_ms)
        return AppendInfo(batches[0][1].base_offset, expected - 1, -1, self.log_start_offset)

    def _append_run(self, view: memoryview, run: list[tuple[int, BatchHeader]], now_ms: int) -> None:
        if not run:
            return
        start = run[0][0]
        end = run[-1][0] + run[-1][1].size
        position = self._write(view[start:end])
        for at, header in run:
            if header.partition_leader_epoch > self.leader_epochs.latest:
                self.leader_epochs.assign(header.partition_leader_epoch, header.base_offset)
            marker = read_marker(view, at) if header.is_control and header.producer_id >= 0 else None
            self._note(header, header.base_offset, position + at - start, marker, now_ms)
        self._publish(run[-1][1].next_offset)

    def _write(self, data: Buffer) -> int:
        active = self._active
        if not active.is_warm:
            active = self._warm_up(active)
        before = active.size
        try:
            if failpoints.ENABLED:
                self._write_with_failpoints(data)
            return active.append(data)
        except OSError as error:
            raise self._undo(active, before, error) from error

    def _warm_up(self, active: Segment) -> Segment:
        """Make the active segment ready for an append; return it, or a new one if nothing may be appended to it."""
        try:
            self._around_damage(active.warm_up)
        except UnreadableError as error:
            self._roll(self.log_end_offset, self.last_flush_ms)
            logger.error("%s: %s; the log goes on in a new segment", self.topic_partition, error)
            self._around_damage(self._active.warm_up)
        except OSError as error:
            raise self._refuse(error) from error
        return self._active

    def _write_with_failpoints(self, data: Buffer) -> None:
        failpoints.hit("log.append.before")
        # Half of the batch reaches the file, then perhaps death; if not, the half is taken back.
        active = self._active
        before = active.size
        active.append(memoryview(data)[: len(data) // 2])
        failpoints.hit("log.append.partial")
        active.undo_append(before)

    def _undo(self, active: Segment, before: int, error: OSError) -> Exception:
        """Take back what a failed write left; return what to raise."""
        try:
            active.undo_append(before)
        except OSError as second:
            return self._fail(second)
        return self._refuse(error)

    def _refuse(self, error: OSError) -> Exception:
        """Return what to raise when nothing has changed: the log fails unless the error passes."""
        if error.errno in PASSING:
            self._hooks.on_refused(self, error)
            return KafkaStorageError(f"{self.topic_partition}: {self.directory}: {error}")
        return self._fail(error)

    def _fail(self, error: OSError, *, is_lost: bool = False) -> StorageError:
        """The log is of no use any more; and its directory neither, unless the error passes and no data `is_lost`."""
        if self._failure is None:
            self._failure = f"{self.topic_partition}: the disk of {self.directory} failed: {error}"
            if error.errno in PASSING and not is_lost:
                logger.error("%s; the partition is out of use until the next start", self._failure)
            else:
                self._hooks.on_failed(self, error)
        return StorageError(self._failure)

    def on_io_error(self, error: OSError) -> None:
        """Whoever worked on this log's files met an error: the log and its directory fail, unless it passes."""
        if error.errno not in PASSING:
            self._fail(error)

    def fail(self, reason: str) -> None:
        """Refuse everything from now on: the directory is offline."""
        if self._failure is None:
            self._failure = reason

    def _note(
        self, header: BatchHeader, first: int, position: int, marker: EndTransactionMarker | None, now_ms: int
    ) -> None:
        """Take a written batch into indexes and producer state."""
        last = first + header.last_offset_delta
        self._active.note_batch(position, header.size, last, header.max_timestamp, self.config.index_interval_bytes)
        if header.producer_id >= 0:
            if marker is not None:
                completed = self.producers.add_marker(header, marker, first, now_ms)
                if completed is not None and completed.is_aborted:
                    self._index_aborted(completed)
            elif not header.attributes & CONTROL_BIT:
                self.producers.add_batch(header, first, now_ms)
        self._reader.note(first, position)

    def _index_aborted(self, completed: CompletedTransaction) -> None:
        try:
            self._active.transaction_index.add(self.producers.aborted_entry(completed))
        except OSError as error:
            # The marker is in the log; without its entry readers would get aborted records.
            raise self._fail(error) from error
        self._aborted_bases.add(self._active.base_offset)

    def _publish(self, end_offset: int) -> None:
        self.producers.end_offset = end_offset
        self._reader.publish(end_offset, self._active)
        self.log_end_offset = end_offset
        flush_messages = self.config.flush_messages
        if 1 < flush_messages <= end_offset - self.recovery_point:
            self._hooks.on_flush_due(self)

    # -- roll

    def _should_roll(self, size: int, last: int, max_timestamp: int, now_ms: int) -> bool:
        try:
            return should_roll(
                self._active,
                self.config,
                self.topic_partition,
                size=size,
                last_offset=last,
                max_timestamp=max_timestamp,
                now_ms=now_ms,
            )
        except OSError as error:  # the time of its first batch is not known yet
            raise self._refuse(error) from error

    def roll(self, now_ms: int) -> Segment:
        """Seal the active segment and begin a new one at the log end.

        Raises:
            KafkaStorageError: the disk is full. StorageError: it failed.
        """
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            if self._active.size or self._active.base_offset != self.log_end_offset:
                self._roll(self.log_end_offset, now_ms)
            return self._active

    def _roll(self, base_offset: int, now_ms: int) -> None:
        sealed = self._active
        segment = Segment(self._open_files, self.directory, base_offset)
        try:
            failpoints.hit("log.roll")
            sealed.finish()
            failpoints.hit("log.snapshot")
            self._write_snapshot(base_offset)
            segment.create(now_ms)
        except OSError as error:
            if error.errno in PASSING:
                try:
                    segment.remove()  # the sealed one goes on: no file may claim its offsets
                except OSError as second:
                    raise self._fail(second) from second
            raise self._refuse(error) from error
        self._directory_dirty = True
        self._unflushed.append(sealed)
        sealed.next_base_offset = base_offset
        self.segments = [*self.segments, segment]
        self._reader.leave_active()
        self._active = segment
        self._reader.publish(self.log_end_offset, segment)
        self._hooks.on_flush_due(self)

    def _write_snapshot(self, offset: int) -> None:
        """Write the producer state as of `offset`. It is synced with the next flush."""
        path = f"{self.directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"
        self.files.write_atomic(path, self.producers.snapshot(), sync=False)
        if offset not in self._snapshots:
            self._snapshots.append(offset)
        self._unsynced_snapshots.append(path)
        self._directory_dirty = True

    # -- flush

    def flush(self, *, now_ms: int | None = None) -> int:
        """Make everything appended so far durable and return the new recovery point. May take long: off the loop.

        Appends go on meanwhile. Recovery rebuilds the indexes of the active segment.

        Raises:
            KafkaStorageError: no space or no descriptor is left; the recovery point stays and the next flush does it all.
            StorageError: an fsync failed, now or before. What is on the disk is unknown; it is never tried again.
        """
        if self._failure is not None:
            raise StorageError(self._failure)
        return self._flush(now_ms=now_ms)

    def _flush(self, *, with_indexes: bool = False, now_ms: int | None = None) -> int:
        with self._lock:
            if now_ms is not None:
                self.last_flush_ms = now_ms
            target, generation = self.log_end_offset, self._generation
            active = self._active
            sealed = self._unflushed[:]
            snapshots, self._unsynced_snapshots = self._unsynced_snapshots, []
            epochs = self.leader_epochs.encode() if self.leader_epochs.is_dirty else None
            self.leader_epochs.is_dirty = False
            directory_dirty, self._directory_dirty = self._directory_dirty, False
            is_new, self._is_new = self._is_new, False
            index_dirty = with_indexes and active.has_unsynced_indexes
            was_cut, self._active_was_cut = self._active_was_cut, False
            if target == self.recovery_point and not (
                sealed or snapshots or epochs or directory_dirty or index_dirty or was_cut
            ):
                self._is_new = is_new  # nothing that would be missed
                return target

            def put_back() -> None:
                self._unsynced_snapshots = [*snapshots, *self._unsynced_snapshots]
                self.leader_epochs.is_dirty |= epochs is not None
                self._directory_dirty |= directory_dirty
                self._is_new |= is_new
                self._active_was_cut |= was_cut

            try:
                is_dirty = was_cut or (target > self.recovery_point and active.size > 0)
                file = active.open_for_append() if is_dirty else None
            except OSError as error:
                put_back()
                raise self._refuse(error) from error
        passing = NO_DESCRIPTOR
        try:
            failpoints.hit("log.flush")
            for segment in sealed:
                self._sync_sealed(segment)
            if file is not None:
                file.datasync()
            if index_dirty:
                active.sync_indexes()
            for path in snapshots:
                self._sync_path(path)
            if epochs is not None:
                # A new file each time: it can be tried again even if it was its fsync that found no space.
                passing = PASSING
                self.files.write_atomic(f"{self.directory}/{LEADER_EPOCH_FILE}", epochs)
                passing = NO_DESCRIPTOR
            if is_new and self.topic_id != ZERO_UUID:
                self._sync_path(f"{self.directory}/{PARTITION_METADATA_FILE}")
            if is_new or (directory_dirty and epochs is None):
                self.files.sync_dir(self.directory)
            if is_new:
                self.files.sync_dir(self.directory.rpartition("/")[0] or ".")
        except OSError as error:
            if error.errno not in passing:
                raise self._fail(error, is_lost=True) from error
            with self._lock:
                put_back()
            raise self._refuse(error) from error
        with self._lock:
            if generation == self._generation:
                self.recovery_point = max(self.recovery_point, target)
                done = set(map(id, sealed))
                for segment in sealed:
                    segment.release()
                self._unflushed = [segment for segment in self._unflushed if id(segment) not in done]
            return self.recovery_point

    def begin_flush(self, now_ms: int) -> FlushPoint | None:
        """Return up to where an fsync of one file, or of all, that begins later makes this log durable; never waits.

        Follow with `end_flush` or `fail_flush`. None: there is more to it than the data of the active segment (or
        another thread changes the log right now, or it has failed): use `flush`.
        """
        acquire = self._acquire
        if acquire is not None and not acquire(False):
            return None
        try:
            if (
                self._failure is not None
                or self._unflushed
                or self._unsynced_snapshots
                or self._directory_dirty
                or self._is_new
                or self._active_was_cut
                or self.leader_epochs.is_dirty
            ):
                return None
            end = self.log_end_offset
            is_dirty = end > self.recovery_point and self._active.size > 0
            try:
                file = self._active.open_for_append() if is_dirty else None
            except OSError:
                return None
            self.last_flush_ms = now_ms
            return FlushPoint(end, self._generation, file)
        finally:
            if acquire is not None:
                self._lock.release()  # type: ignore[attr-defined]

    def end_flush(self, point: FlushPoint) -> bool:
        """What `point` is about has been synced. False: another thread changes the log right now, use `flush`."""
        acquire = self._acquire
        if acquire is not None and not acquire(False):
            return False
        try:
            if point.generation == self._generation:
                self.recovery_point = max(self.recovery_point, point.end_offset)
            return True
        finally:
            if acquire is not None:
                self._lock.release()  # type: ignore[attr-defined]

    def fail_flush(self, error: OSError) -> StorageError:
        """It could not be synced: what is on the disk is unknown, and it is never tried again. Return what to raise."""
        return self._fail(error, is_lost=True)

    def _sync_sealed(self, segment: Segment) -> None:
        try:
            segment.sync()
        except FileNotFoundError:
            if segment in self.segments:
                raise  # else it was deleted or cut off meanwhile

    def _sync_path(self, path: str) -> None:
        try:
            self.files.sync_file(path)
        except FileNotFoundError:
            pass  # removed meanwhile, with its segment

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
        end = self._reader.end[0]
        if offset > end or offset < self.log_start_offset:
            raise OffsetOutOfRangeError(
                f"{self.topic_partition}: offset {offset} is not in [{self.log_start_offset}, {end}]"
            )
        if self._failure is not None:
            raise StorageError(self._failure)
        try:
            return self._reader.find(self.segments, offset, max_bytes, upper_offset, min_one=min_one, nowait=nowait)
        except (UnreadableError, UnreliableIndexError) as error:
            if nowait and not _is_known(error):
                raise WouldBlockError(str(error)) from error
            self._note_trouble(error)
            return self.read(offset, max_bytes, upper_offset=upper_offset, min_one=min_one)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and offset < self.log_start_offset:
                raise OffsetOutOfRangeError(f"{self.topic_partition}: offset {offset} was deleted") from error
            raise self._refuse(error) from error

    def offset_for_timestamp(self, timestamp_ms: int) -> TimestampOffset | None:
        """Return (offset, timestamp, leader epoch) of the first record at or after a time; may wait for the disk.

        Raises:
            UnreadableError: it may lie where the log cannot be read.
        """
        return self._around_damage(lambda: offset_for_timestamp(self.segments, timestamp_ms, self.log_start_offset))

    def offset_of_max_timestamp(self) -> TimestampOffset | None:
        """Return the first record with the largest timestamp, None in an empty log; may wait for the disk.

        Raises:
            UnreadableError: as `offset_for_timestamp`.
        """
        return self._around_damage(lambda: offset_of_max_timestamp(self.segments, self.log_start_offset))

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """Return (the largest known epoch up to `epoch`, where it ends), (-1, -1) if unknown (KIP-279)."""
        return self.leader_epochs.end_offset_for(epoch, self.log_end_offset)

    def aborted_transactions(self, start: int, upper: int) -> list[tuple[int, int]]:
        """Return (producer id, first offset) of the aborted transactions that overlap [start, upper)."""
        aborted: list[tuple[int, int]] = []
        if not self._aborted_bases:
            return aborted
        segments = self.segments
        for segment in segments[first_at_or_before(segments, start) :]:
            if segment.base_offset not in self._aborted_bases:
                continue
            for entry in segment.transaction_index.entries():
                if entry.last_offset >= start and entry.first_offset < upper:
                    aborted.append((entry.producer_id, entry.first_offset))
                if entry.last_stable_offset >= upper:
                    return aborted
        return aborted

    def check_aborted(self, start: int, *, nowait: bool) -> None:
        """Compare the transaction indexes from `start` on with the batches, once, before `aborted_transactions`.

        Raises:
            WouldBlockError: with `nowait`, where that has not been done: call again off the loop.
            UnreadableError: a part of the log is unreadable that tells which transactions were aborted.
        """
        if not self._aborted_bases:
            return
        segments = self.segments
        for segment in segments[first_at_or_before(segments, start) :]:
            if segment.base_offset in self._aborted_bases and not segment.transaction_index.is_checked:
                if nowait:
                    raise WouldBlockError(segment.name)
                self._check_aborted_of(segment)

    def _check_aborted_of(self, segment: Segment) -> None:
        def check() -> None:
            segment.check_aborted()
            check_spans(self.segments, segment.transaction_index.entries())

        try:
            self._around_damage(check)
        except UnreadableError:
            pass  # what can be compared was right; the damage is noted
        except UnreliableTransactionsError as error:
            logger.error("%s: %s; it is built anew", self.topic_partition, error)
            entries = self._aborted_entries(segment)
            with self._lock:
                if segment is self._active:  # an append may have added to it meanwhile
                    entries = self._aborted_entries(segment)
                if segment in self.segments:
                    segment.transaction_index.replace(entries)

    def _aborted_entries(self, segment: Segment) -> list[AbortedTransaction]:
        built = aborted_entries(self.segments, segment, self._snapshots, self.topic_partition, self.directory)
        try:
            known = segment.transaction_index.entries()
        except ValueError:
            known = []
        # Of a transaction whose marker cannot be read the index is all there is.
        kept = [entry for entry in known if segment.is_damaged_at(entry.last_offset)]
        return sorted([*built, *kept], key=lambda entry: entry.last_offset)

    # -- what cannot be read

    def _around_damage(self, read: Callable[[], T]) -> T:
        """Run `read`. Damage that it meets first is noted, an index that is wrong is built anew, and it runs again.

        Raises:
            UnreadableError: it meets damage that is noted already.
        """
        while True:
            try:
                return read()
            except (UnreadableError, UnreliableIndexError) as error:
                self._note_trouble(error)

    def _note_trouble(self, error: UnreadableError | UnreliableIndexError) -> None:
        segment = error.segment
        if _is_known(error):
            raise error
        if isinstance(error, UnreadableError):
            self.note_unreadable(error)
        else:
            logger.warning("%s: %s; the indexes of this segment are built anew", self.topic_partition, error)
            self._mend_indexes(segment)

    def note_unreadable(self, error: UnreadableError) -> None:
        """Find out how far the damage reaches, remember it, tell the owner. May read much: off the loop.

        Raises:
            OSError: the disk failed, or the segment was deleted meanwhile.
        """
        segment = error.segment
        damage = segment.extent_of(error, end_offset=self.log_end_offset)
        with self._lock:
            if segment.is_known_damage(damage.position) or segment not in self.segments:
                return
            segment.note_damage(damage)
        self._tell_damage(segment, damage)

    def _tell_damage(self, segment: Segment, damage: Damage) -> None:
        logger.error(
            "%s: %s cannot be read from byte %d to %d, offsets %d to %d: %s. Everything else is served; "
            "`ottla log check` and `ottla log repair` help",
            self.topic_partition,
            segment.name,
            damage.position,
            damage.end,
            damage.first_offset,
            damage.next_offset - 1,
            damage.reason,
        )
        self._hooks.on_damaged(self)

    def _mend_indexes(self, segment: Segment) -> None:
        """Build the offset and time index of a segment anew, without the lock as far as possible."""
        builder = IndexBuilder(segment, self.config.index_interval_bytes)
        builder.read()
        with self._lock:
            if segment not in self.segments or segment.suffix:
                raise FileNotFoundError(f"{segment.name} was removed or replaced")
            if segment is self._active:
                builder.read()  # what was appended meanwhile
            else:
                builder.seal()
            known = segment.damages
            segment.adopt_indexes(builder)
        for damage in segment.damages:
            if damage not in known:
                self._tell_damage(segment, damage)

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
        with self._lock:
            if offset > self.high_watermark:
                raise OffsetOutOfRangeError(
                    f"{self.topic_partition}: cannot delete up to {offset}, the high watermark is {self.high_watermark}"
                )
            return self._advance_log_start(offset)

    def _advance_log_start(self, offset: int) -> bool:
        if offset <= self.log_start_offset:
            return False
        self.log_start_offset = offset
        self.leader_epochs.truncate_start(offset)
        self.producers.on_log_start(offset)
        return True

    def expire_producers(self, now_ms: int) -> int:
        """Forget producers that were silent for producer.id.expiration.ms; return how many."""
        with self._lock:
            return self.producers.remove_expired(now_ms)

    # -- delete

    def delete_old_segments(self, now_ms: int) -> int:
        """Delete what retention lets go; return how many segments. While compacted ones are swapped in, that is none.

        Raises:
            OSError: a segment's time cannot be read: `on_io_error`.
            KafkaStorageError: no space for a new active segment.
            StorageError: the disk failed.
        """
        total = 0
        while True:
            self._verify_expired(now_ms)
            with self._lock:
                if self._failure is not None:
                    raise StorageError(self._failure)
                if self._swapping:
                    return total
                expired = self._expired(now_ms, verified_only=True)
                if not expired.segment_count:
                    return total
                if expired.segment_count == len(self.segments):
                    self._roll(self.log_end_offset, now_ms)
                    continue
                doomed = self.segments[: expired.segment_count]
                self._advance_log_start(self.segments[len(doomed)].base_offset)
                logger.info(
                    "%s: %d segments from offset %d on are deleted because of %s",
                    self.topic_partition,
                    len(doomed),
                    doomed[0].base_offset,
                    expired.reason,
                )
                self._remove_segments(doomed)
                total += len(doomed)

    def _expired(self, now_ms: int, *, verified_only: bool = False) -> Expired:
        return expired_segments(
            self.segments,
            self.config,
            log_start_offset=self.log_start_offset,
            log_end_offset=self.log_end_offset,
            high_watermark=self.high_watermark,
            now_ms=now_ms,
            verified_only=verified_only,
        )

    def _verify_expired(self, now_ms: int) -> None:
        """Walk over the segments that retention would delete next, while nobody waits for the lock.

        What is found unreadable is noted and stays: neither time nor size delete it, or what comes behind it.
        """
        try:
            expired = self._expired(now_ms)
            for segment in self.segments[: 0 if expired.is_by_log_start else expired.segment_count]:
                if segment.damages:
                    return
                self._around_damage(segment.verify)
            if expired.is_by_size:
                for segment in self.segments[:-1]:
                    self._around_damage(segment.check_end)
        except UnreadableError:
            return  # it is noted
        except FileNotFoundError:
            return  # removed or replaced meanwhile

    def _remove_segments(self, doomed: list[Segment]) -> None:
        """Take segments out of the log; their files are renamed now and unlinked later."""
        gone = set(map(id, doomed))
        self.segments = [segment for segment in self.segments if id(segment) not in gone]
        self._unflushed = [segment for segment in self._unflushed if id(segment) not in gone]
        self._reader.forget_places()
        removed: list[str] = []
        try:
            for segment in doomed:
                self._aborted_bases.discard(segment.base_offset)
                segment.rename(DELETED_SUFFIX)
                removed += [path for path in segment.paths() if self.files.exists(path)]
                if segment.base_offset in self._snapshots and segment.base_offset != max(self._snapshots):
                    removed.append(self._retire_snapshot(segment.base_offset))
        except OSError as error:
            raise self._fail(error) from error
        self._directory_dirty = True
        self._hooks.on_files_removed(self, removed)

    def _retire_snapshot(self, offset: int) -> str:
        path = f"{self.directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"
        self.files.rename(path, path + DELETED_SUFFIX)
        self._snapshots.remove(offset)
        return path + DELETED_SUFFIX

    def replace_segments(self, new: list[Segment], old: list[Segment]) -> None:
        """Put compacted segments in the place of the ones they were made from. May take long: off the loop.

        The new ones have the suffix `.cleaned`, are synced, and cover the offsets of the old ones, which are sealed.
        A crash at any point leaves either all old or all new segments (see `recovery`).

        The lock is let go for both fsyncs of the directory. That is safe: until the first one is through, the old
        segments are untouched and readers use them, appends and rolls only add names, retention waits for its next
        round, and a truncation takes the new segments back (`_withdraw`). Once it is through, the disk holds old and
        new ones whatever happens, and recovery finishes the swap from any of the renames that follow; the second one
        merely has to come before the old files are unlinked.

        Raises:
            ValueError: an old segment is not sealed, or went away meanwhile; the new ones are `.cleaned` again.
            KafkaStorageError: no descriptor is left; as above.
            StorageError: the disk failed.
        """
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            self._check_replaceable(old)
            try:
                for segment in sorted(new, key=base_offset_of, reverse=True):
                    segment.rename(SWAP_SUFFIX)
                    failpoints.hit("log.swap")
            except OSError as error:
                raise self._fail(error) from error
            self._swapping = new
        try:
            self.files.sync_dir(self.directory)
        except OSError as error:
            with self._lock:
                if error.errno in NO_DESCRIPTOR:
                    self._withdraw()
                    raise self._refuse(error) from error
                raise self._fail(error, is_lost=True) from error
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            if self._swapping is not new:
                raise ValueError(f"{self.topic_partition}: a segment to replace was cut off meanwhile")
            try:
                for segment in old:
                    segment.pin()
            except OSError as error:
                if error.errno in PASSING:
                    self._withdraw()
                raise self._refuse(error) from error
            removed: list[str] = []
            try:
                for segment in old:
                    segment.rename(DELETED_SUFFIX)
                    removed += [path for path in segment.paths() if self.files.exists(path)]
                failpoints.hit("log.swap.rename")
                for segment in new:
                    segment.rename("")
            except OSError as error:
                raise self._fail(error) from error
            gone = set(map(id, old))
            kept = [segment for segment in self.segments if id(segment) not in gone]
            self._unflushed = [segment for segment in self._unflushed if id(segment) not in gone]
            self._reader.forget_places()
            self.segments = link_segments(sorted([*kept, *new], key=base_offset_of))
            self._swapping = []
            for segment in old:
                self._aborted_bases.discard(segment.base_offset)
            for segment in new:
                if segment.transaction_index.entries():
                    self._aborted_bases.add(segment.base_offset)
        try:
            self.files.sync_dir(self.directory)
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR:
                raise self._fail(error, is_lost=True) from error
            self._directory_dirty = True  # the next flush does it; the old files stay until the next start
            return
        self._hooks.on_files_removed(self, removed)

    def _check_replaceable(self, old: list[Segment]) -> None:
        if any(segment not in self.segments[:-1] for segment in old):
            raise ValueError(f"{self.topic_partition}: a segment to replace is not sealed or no longer there")

    def _withdraw(self) -> None:
        """Take back segments that were about to replace others: `.cleaned` again, which recovery removes."""
        swapping, self._swapping = self._swapping, []
        try:
            for segment in sorted(swapping, key=base_offset_of):
                segment.rename(CLEANED_SUFFIX)
        except OSError as error:
            raise self._fail(error) from error

    # -- truncate

    def truncate_to(self, offset: int, *, now_ms: int = 0) -> None:
        """Drop everything from `offset` on, and the batch that holds it; the log then ends at `offset`.

        Raises:
            StorageError: the disk failed.
        """
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            if offset >= self.log_end_offset:
                self.leader_epochs.truncate_end(offset)
                return
            if offset <= self.segments[0].base_offset:
                self._start_over(offset, now_ms)
                return
            self._withdraw()
            try:
                self._truncate(offset, now_ms)
            except OSError as error:
                raise self._fail(error) from error

    def _truncate(self, offset: int, now_ms: int) -> None:
        self._generation += 1
        number = first_at_or_before(self.segments, offset)
        active, doomed = self.segments[number], self.segments[number + 1 :]
        # Readers first: nobody may look for what is about to go.
        self._reader.leave_active()
        self._reader.publish(offset, active)
        self.log_end_offset = offset
        if doomed:
            self._remove_segments(doomed)
        self._reader.is_cutting = True
        end_offset = active.truncate_to(offset)
        self.segments = link_segments(self.segments)
        self._active = active
        self._active_was_cut = True
        self._unflushed = [segment for segment in self._unflushed if segment is not active]
        self._reader.publish(offset, active)
        self.recovery_point = min(self.recovery_point, offset)
        self.log_start_offset = min(self.log_start_offset, offset)
        self.high_watermark = min(self.high_watermark, offset)
        self._reader.forget_places()
        self.leader_epochs.truncate_end(offset)
        for snapshot in [known for known in self._snapshots if known > offset]:
            self.files.remove(self._retire_snapshot(snapshot))
        replay_producers(
            self.producers, self.segments, self._snapshots, self.log_start_offset, offset, now_ms, self.directory
        )
        self.producers.on_high_watermark(self.high_watermark)
        self._directory_dirty = True
        if end_offset < offset:
            # The cut went through a batch: between two segments no reader takes the hole for damage.
            self._roll(offset, now_ms)
        self._reader.is_cutting = False

    def truncate_fully_and_start_at(self, offset: int, *, now_ms: int = 0) -> None:
        """Drop everything; the log is empty and goes on at `offset`.

        Raises:
            StorageError: the disk failed.
        """
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            self._start_over(offset, now_ms)

    def _start_over(self, offset: int, now_ms: int) -> None:
        self._withdraw()
        self._generation += 1
        old = self.segments
        segment = Segment(self._open_files, self.directory, offset)
        try:
            self._reader.leave_active()
            self.segments = old
            self._remove_segments(old)
            segment.create(now_ms)
            for snapshot in self._snapshots[:]:
                self.files.remove(self._retire_snapshot(snapshot))
        except OSError as error:
            raise self._fail(error) from error
        self._active = segment
        self.segments = [segment]
        self._reader.publish(offset, segment)
        self.log_start_offset = self.log_end_offset = self.high_watermark = self.recovery_point = offset
        self.leader_epochs.clear()
        self.producers.clear(offset)
        self._aborted_bases.clear()
        self._directory_dirty = True

    # -- end

    def close(self) -> None:
        """Flush, write the final index entries and a producer snapshot, close the files.

        Raises:
            KafkaStorageError: no space or no descriptor is left; it may be tried again.
            StorageError: the disk failed: the stop is not clean.
        """
        with self._lock:
            if self._failure is not None:
                raise StorageError(self._failure)
            try:
                self._active.finish()
                if self.log_end_offset > max(self._snapshots, default=0):
                    self._write_snapshot(self.log_end_offset)
                if self.log_end_offset == self.log_start_offset:
                    # Not worth an fsync in each of thousands of empty logs: the next leader notes its epoch again.
                    self.leader_epochs.is_dirty = False
            except OSError as error:
                raise self._refuse(error) from error
            # From here on: a batch behind the snapshot would be overwritten after a "clean" start.
            self._failure = f"{self.topic_partition}: the log is closed"
        try:
            self._flush(with_indexes=True)
        except KafkaStorageError:
            self._failure = None  # as it was: not closed
            raise
        with self._lock:
            for segment in self.segments:
                segment.close()

    def abandon(self, reason: str) -> None:
        """Let go of all files without writing: after a failure, or before the directory is deleted.

        Files that a reader or a flush on another thread still uses are closed when it is done.
        """
        self.fail(reason)
        for segment in self.segments:
            segment.forget()

    def retire(self, reason: str) -> None:
        """`abandon`, but after the change that is under way: waits for the lock, so off the loop."""
        with self._lock:
            self.abandon(reason)


def _is_known(error: UnreadableError | UnreliableIndexError) -> bool:
    return isinstance(error, UnreadableError) and error.segment.is_known_damage(error.position)
