"""Opening a partition's directory: what is there, what a crash left behind, what must be read again.

After a clean stop no batch is read: the log ends where the recovery point and the newest producer snapshot say. After
an unclean one every batch from the recovery point's segment on is read and checked; at the first that is damaged the
segment is cut, all later ones are deleted, and indexes, transaction index, producer state and leader epochs are rebuilt
on the way, in one pass.

Below the recovery point nothing is ever cut: those bytes were on the disk. What cannot be read there is noted as the
segment's damage, and everything behind it is read. The same holds for files that contradict each other after a clean stop.

Left over from compaction (Kafka's LogLoader): `.cleaned` was not finished, delete it, and each `.swap` at or after it; a
`.swap` without them is complete: it replaces all segments in its range. `.deleted` was to be unlinked: do it.

Knows no `PartitionLog`: it returns the parts of one.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

from ottla import failpoints
from ottla.errors import StorageError
from ottla.protocol.records.batch import NO_TIMESTAMP, BatchHeader
from ottla.protocol.records.control import read_marker
from ottla.protocol.records.formats import check_any_crc
from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX
from ottla.storage.checkpoints import (
    LEADER_EPOCH_FILE,
    PARTITION_METADATA_FILE,
    CorruptCheckpointError,
    decode_partition_metadata,
)
from ottla.storage.config import LONG_MAX
from ottla.storage.consistency import check_end
from ottla.storage.damage import Damage, UnreadableError, UnreliableIndexError
from ottla.storage.leader_epochs import LeaderEpochs
from ottla.storage.producer_state import ProducerState, SnapshotError
from ottla.storage.segment import (
    CLEANED_SUFFIX,
    DELETED_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SEGMENT_SUFFIXES,
    SNAPSHOT_SUFFIX,
    SWAP_SUFFIX,
    TIME_INDEX_SUFFIX,
    TRANSACTION_INDEX_SUFFIX,
    Segment,
    file_name,
    link_segments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ottla.protocol.records.control import EndTransactionMarker
    from ottla.storage.config import LogConfig
    from ottla.storage.files import Files
    from ottla.storage.index import AbortedTransaction
    from ottla.storage.open_files import OpenFiles
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

#: What a compaction that was interrupted, or a removal that waits, leaves in a partition's directory.
LEFTOVER_SUFFIXES = (SWAP_SUFFIX, CLEANED_SUFFIX, DELETED_SUFFIX, ".tmp")


class LogLoader:
    """Loads one directory. After `load` the attributes are the parts of the log.

    Attributes:
        segments: oldest first, at least one.
        recovered_segments: those read again after an unclean stop.
        recovered_bytes: how much that was.
    """

    def __init__(
        self,
        open_files: OpenFiles,
        directory: str,
        topic_partition: TopicPartition,
        config: LogConfig,
        *,
        now_ms: int,
        producer_id_expiration_ms: int,
    ) -> None:
        self.segments: list[Segment] = []
        self.log_start_offset = 0
        self.log_end_offset = 0
        self.producers = ProducerState(topic_partition, producer_id_expiration_ms)
        self.leader_epochs = LeaderEpochs()
        self.topic_id: bytes | None = None
        self.snapshots: list[int] = []
        self.aborted_bases: set[int] = set()
        self.recovered_bytes = 0
        self.recovered_segments: list[Segment] = []
        self._open_files = open_files
        self._files: Files = open_files.files
        self._directory = directory
        self._topic_partition = topic_partition
        self._config = config
        self._now_ms = now_ms
        self._names: set[str] = set()
        self._epochs_are_lost = False
        self._epochs = EpochReader(self.leader_epochs)

    def load(
        self, *, clean: bool, recovery_point: int | None, log_start_offset: int, high_watermark: int | None = None
    ) -> None:
        """Read the directory.

        Args:
            clean: whether the log was closed; then `recovery_point` is where it ended.
            recovery_point, log_start_offset, high_watermark: from the checkpoints; see `PartitionLog.open`.

        Raises:
            OSError: the disk failed.
            StorageError: a directory has the name of one of the log's files.
        """
        entries = self._files.entries(self._directory)
        if any(name.endswith(LEFTOVER_SUFFIXES) for name in entries):
            finish_compaction(self._open_files, self._directory)
            entries = self._files.entries(self._directory)
        names = list(entries)
        self._check_names(entries)
        self._names = set(names)
        bases = [int(name[:20]) for name in names if name.endswith(LOG_SUFFIX) and _is_segment_file(name)]
        self.snapshots = [int(name[:20]) for name in names if name.endswith(SNAPSHOT_SUFFIX) and _is_segment_file(name)]
        self.aborted_bases = {
            int(name[:20]) for name in names if name.endswith(TRANSACTION_INDEX_SUFFIX) and _is_segment_file(name)
        }
        self._remove_orphans(bases)
        self._load_small_files()
        self.segments = [Segment(self._open_files, self._directory, base) for base in bases]
        for segment in self.segments:
            segment.created_ms = self._now_ms
            if segment.base_offset not in self.aborted_bases:
                segment.transaction_index.know_empty()
        if not self.segments:
            self._start_at(max(log_start_offset, 0))
            return
        link_segments(self.segments)
        first_offset = self.segments[0].base_offset
        self.log_start_offset = max(log_start_offset, first_offset)
        if clean:
            self._load_clean(recovery_point or 0)
        else:
            self._recover(recovery_point, high_watermark)
        link_segments(self.segments)
        if self._epochs_are_lost:
            self._read_epochs()
        # DeleteRecords moves the log start to the high watermark at most. Only where that row says so as well may a crash
        # have taken back records that were deleted already.
        if self.log_end_offset < self.log_start_offset and (
            clean or high_watermark is None or high_watermark < self.log_start_offset
        ):
            logger.error(
                "%s: the checkpoint says that the log begins at %d, but it ends at %d: all of it is kept",
                self._topic_partition,
                self.log_start_offset,
                self.log_end_offset,
            )
            self.log_start_offset = first_offset
        if self.log_end_offset < self.log_start_offset:
            logger.warning(
                "%s: the log ends at %d before its start %d and is emptied",
                self._topic_partition,
                self.log_end_offset,
                self.log_start_offset,
            )
            for segment in self.segments:
                self._remove_segment(segment)
            self._start_at(self.log_start_offset)
            self._files.sync_dir(self._directory)
            return
        self.leader_epochs.truncate_end(self.log_end_offset)
        self.leader_epochs.truncate_start(self.log_start_offset)
        self.producers.on_log_start(self.log_start_offset)

    def _start_at(self, offset: int) -> None:
        segment = Segment(self._open_files, self._directory, offset)
        segment.create(self._now_ms)
        self.segments = [segment]
        self.log_start_offset = self.log_end_offset = offset
        self.producers.clear(offset)
        self.leader_epochs.clear()
        self._drop_snapshots_above(-1)

    # What is in the directory

    def _check_names(self, entries: dict[str, bool]) -> None:
        """Say which files only look like a segment's; refuse a directory that has the name of a file."""
        odd = []
        for name, is_directory in entries.items():
            is_own = _is_segment_file(name)
            if is_directory and (is_own or name in (LEADER_EPOCH_FILE, PARTITION_METADATA_FILE)):
                raise StorageError(
                    f"{self._directory}/{name} is a directory and should be a file: put the file back, or move it away"
                )
            if not is_own and name.endswith((*SEGMENT_SUFFIXES, SNAPSHOT_SUFFIX)):
                odd.append(name)
        _leave_alone(self._directory, odd)

    def _load_small_files(self) -> None:
        if LEADER_EPOCH_FILE in self._names:
            path = f"{self._directory}/{LEADER_EPOCH_FILE}"
            try:
                self.leader_epochs = LeaderEpochs.decode(self._files.read_bytes(path), path)
            except CorruptCheckpointError as error:
                logger.error("%s; the epochs are read from the batches", error)
                self._epochs_are_lost = True
        if PARTITION_METADATA_FILE in self._names:
            path = f"{self._directory}/{PARTITION_METADATA_FILE}"
            try:
                self.topic_id = decode_partition_metadata(self._files.read_bytes(path), path)
            except CorruptCheckpointError as error:
                # It is written without an fsync when a topic is made, and synced with the first flush: a power cut
                # before that may leave it empty. The owner of the log, which knows the topic's id, writes it again.
                if self._files.size(path):
                    logger.error("%s; it is written anew", error)
                self._files.remove(path)

    def _read_epochs(self) -> None:
        """The file of the leader epochs is lost: read them from the batches."""
        self.leader_epochs = read_epochs(self.segments, self._note)
        self.leader_epochs.is_dirty = True

    def _note(self, segment: Segment, damage: Damage) -> None:
        if not segment.is_known_damage(damage.position):
            segment.note_damage(damage)

    def _remove_orphans(self, bases: list[int]) -> None:
        known = set(bases)
        for name in sorted(self._names):
            if name.endswith((INDEX_SUFFIX, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX)) and _is_segment_file(name):
                base = int(name[:20])
                if base not in known:
                    logger.warning("%s: %s belongs to no segment and is removed", self._topic_partition, name)
                    self._files.remove(f"{self._directory}/{name}")
                    self.aborted_bases.discard(base)
        # One snapshot for each segment, and the newest of all (written on close): the rest is history.
        newest = max(self.snapshots, default=-1)
        for offset in self.snapshots[:]:
            if offset != newest and offset not in known:
                self._remove_snapshot(offset)

    # Clean

    def _load_clean(self, recovery_point: int) -> None:
        active = self.segments[-1]
        for segment in self.segments:
            stem = file_name(segment.base_offset)
            if stem + INDEX_SUFFIX not in self._names or stem + TIME_INDEX_SUFFIX not in self._names:
                logger.warning("%s: segment %s has no index; it is rebuilt", self._topic_partition, stem)
                segment.rebuild_indexes(self._config.index_interval_bytes)
        newest = max(self.snapshots, default=-1)
        if (recovery_point == newest > active.base_offset and active.size) or (
            recovery_point == active.base_offset and not active.size
        ):
            self.log_end_offset = recovery_point
        else:
            self._find_end(active, recovery_point, newest)
        self._drop_snapshots_above(self.log_end_offset)
        self._load_producers(self.log_end_offset, skip_without_snapshot=not self.snapshots)

    def _find_end(self, active: Segment, recovery_point: int, newest_snapshot: int) -> None:
        """The checkpoint and the newest snapshot do not agree about where the log ended: ask the batches."""
        is_damaged = False
        try:
            self._around_wrong_index(active, partial(check_end, active))
        except UnreadableError as error:
            logger.error("%s: %s", self._topic_partition, error)
            is_damaged = True
        end = active.end_offset()
        witnesses = sorted(offset for offset in (recovery_point, newest_snapshot) if offset > end)
        if witnesses and (is_damaged or recovery_point == newest_snapshot):
            # Records are missing: the end cannot be read, or both witnesses say that there was more.
            reason = f"the batches end at offset {end}, the log ended at {witnesses[0]}"
            self._note(active, Damage(active.end_position(), active.size, end, witnesses[0], reason))
            end = witnesses[0]
        elif is_damaged:
            self._note(
                active, Damage(active.end_position(), active.size, end, end, "no batch behind the end of the log")
            )
        self.log_end_offset = end

    def _around_wrong_index(self, segment: Segment, check: Callable[[], None]) -> None:
        try:
            check()
        except UnreliableIndexError as error:
            logger.warning("%s: %s; it is built anew", self._topic_partition, error)
            segment.rebuild_indexes(self._config.index_interval_bytes)
            check()

    # Unclean

    def _recover(self, recovery_point: int | None, high_watermark: int | None) -> None:
        # The segment that ends at the recovery point counts, too: its batches are on the disk, but when it was sealed after
        # that, the last entries of its indexes and its aborted transactions need not be.
        bases = [segment.base_offset for segment in self.segments]
        first = max(bisect_left(bases, recovery_point or 0) - 1, 0)
        for segment in self.segments[:first]:
            # Synced before the recovery point passed them, but not necessarily created by us.
            if not segment.offset_index.is_whole() or not segment.time_index.is_whole():
                segment.rebuild_indexes(self._config.index_interval_bytes)
        self._drop_snapshots_above(self.segments[first].base_offset)
        self._load_producers(self.segments[first].base_offset, skip_without_snapshot=False)
        expected = self.segments[first].base_offset
        self._remove_empty_segments(first)
        self._epochs = EpochReader(self.leader_epochs)
        for number in range(first, len(self.segments)):
            segment = self.segments[number]
            self.producers.end_offset = max(self.producers.end_offset, segment.base_offset)
            if segment.base_offset not in self.snapshots and number > 0:
                self._write_snapshot(segment.base_offset)
            failpoints.hit("recovery.segment")
            end, expected, problem = self._recover_segment(
                segment, max(expected, segment.base_offset), recovery_point, high_watermark
            )
            if problem:
                logger.warning(
                    "%s: %s at byte %d of %d in segment %d: cut there, %d later segments deleted",
                    self._topic_partition,
                    problem,
                    end,
                    segment.size,
                    segment.base_offset,
                    len(self.segments) - number - 1,
                )
                segment.undo_append(end)
                for later in self.segments[number + 1 :]:
                    self._remove_segment(later)
                del self.segments[number + 1 :]
                # At once: else a second crash brings back what new batches are about to take the place of.
                segment.open_for_append().datasync()
                self._files.sync_dir(self._directory)
            if problem:
                break
            if number + 1 < len(self.segments):
                segment.finish()
                segment.forget()
        self._epochs.finish()
        # The last segment is active again: its entries, and a snapshot, are written on the next roll or stop.
        self.segments[-1].forget()
        self.recovered_segments = self.segments[first:]
        self.log_end_offset = expected
        self.producers.end_offset = expected

    def _remove_empty_segments(self, first: int) -> None:
        """A roll that did not come to its end may leave an empty file among the batches; only the last may be empty."""
        empty = [segment for segment in self.segments[first + 1 : -1] if not segment.size]
        for segment in empty:
            self.segments.remove(segment)
            self._remove_segment(segment)

    def _recover_segment(
        self, segment: Segment, expected: int, recovery_point: int | None, high_watermark: int | None
    ) -> tuple[int, int, str]:
        """Check all batches and rebuild what follows from them.

        Returns (end position, next offset, ""), or what is wrong behind `end`: there the segment is to be cut.
        """
        segment.start_indexes_empty()
        self.aborted_bases.discard(segment.base_offset)
        end = 0
        while True:
            try:
                for position, header, data in segment.batches(end, lower=expected):
                    if header.last_offset - segment.base_offset > RELATIVE_OFFSET_MAX:
                        reason = f"offset {header.last_offset} too far from the segment's"
                        raise UnreadableError(segment, position, expected, reason)
                    if not check_any_crc(data, 0, header):
                        raise UnreadableError(segment, position, expected, "a wrong CRC")
                    self._take_in(segment, position, header, data)
                    end, expected = position + header.size, header.next_offset
                break
            except UnreadableError as error:
                damage = self._kept_damage(segment, error, recovery_point, high_watermark)
                if damage is None:
                    self.recovered_bytes += end
                    return end, error.first_offset, error.reason
                self._note(segment, damage)
                end, expected = damage.end, damage.next_offset
                if end >= segment.size:
                    break
        self.recovered_bytes += end
        return end, expected, ""

    def _kept_damage(
        self, segment: Segment, error: UnreadableError, recovery_point: int | None, high_watermark: int | None
    ) -> Damage | None:
        """Return what to keep, although it cannot be read; None: the segment is to be cut there."""
        if recovery_point is not None:
            if error.first_offset >= recovery_point:
                return None
            # A checkpoint has no checksum: the high watermark's bounds how far the log end may move by it.
            known_end = recovery_point if high_watermark is None else min(recovery_point, high_watermark)
            return segment.extent_of(error, end_offset=known_end)
        # How much was on the disk is not known. Only the end of the last segment can be torn.
        damage = segment.extent_of(error)
        is_end = damage.end >= segment.size and segment is self.segments[-1]
        return None if is_end else damage

    def _take_in(self, segment: Segment, position: int, header: BatchHeader, data: memoryview) -> None:
        """Note an intact batch in the indexes, the leader epochs and the producer state."""
        time = header.max_timestamp if header.record_count else NO_TIMESTAMP  # as the cleaner leaves it
        segment.note_batch(position, header.size, header.last_offset, time, self._config.index_interval_bytes)
        self._epochs.take(header)
        if header.producer_id >= 0:
            self._replay(header, data, segment)

    # Producers

    def _replay(self, header: BatchHeader, data: memoryview, segment: Segment) -> None:
        """Take a batch of the log into the producer state, and an abort into the segment's transaction index."""
        if not header.is_control:
            self.producers.add_batch(header, header.base_offset, self._now_ms)
            return
        marker = read_marker(data)
        if marker is None:
            return
        completed = self.producers.add_marker(header, marker, header.base_offset, self._now_ms)
        if completed is not None and completed.is_aborted:
            segment.transaction_index.add(self.producers.aborted_entry(completed))
            self.aborted_bases.add(segment.base_offset)

    def _load_producers(self, up_to: int, *, skip_without_snapshot: bool) -> None:
        """Bring the producer state to offset `up_to`: the newest usable snapshot, then the batches behind it."""
        replay_producers(
            self.producers,
            self.segments,
            self.snapshots,
            self.log_start_offset,
            up_to,
            self._now_ms,
            self._directory,
            skip_without_snapshot=skip_without_snapshot,
        )

    # Snapshots

    def _snapshot_path(self, offset: int) -> str:
        return f"{self._directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"

    def _write_snapshot(self, offset: int) -> None:
        """Write the producer state as the snapshot of `offset`."""
        self._files.write_atomic(self._snapshot_path(offset), self.producers.snapshot(), sync=False)
        if offset not in self.snapshots:
            self.snapshots.append(offset)
            self.snapshots.sort()

    def _remove_snapshot(self, offset: int) -> None:
        self.snapshots.remove(offset)
        self._files.remove(self._snapshot_path(offset))

    def _drop_snapshots_above(self, offset: int) -> None:
        for known in [known for known in self.snapshots if known > offset]:
            self._remove_snapshot(known)

    def _remove_segment(self, segment: Segment) -> None:
        segment.remove()
        self.aborted_bases.discard(segment.base_offset)
        if segment.base_offset in self.snapshots:
            self._remove_snapshot(segment.base_offset)


def finish_compaction(open_files: OpenFiles, directory: str) -> None:
    """Finish what replaced segments and was interrupted, and remove what waits for its removal: see the module's header.

    Raises:
        OSError: the disk failed.
    """
    files = open_files.files
    names: list[str] = []
    odd: list[str] = []
    for name, is_directory in files.entries(directory).items():
        kind = next((suffix for suffix in LEFTOVER_SUFFIXES if name.endswith(suffix)), "")
        of_segment = _is_segment_file(name.removesuffix(kind)) or kind not in (SWAP_SUFFIX, CLEANED_SUFFIX)
        (odd if kind and (is_directory or not of_segment) else names).append(name)
    _leave_alone(directory, odd)
    cleaned = [int(name[:20]) for name in names if name.endswith(CLEANED_SUFFIX)]
    first_cleaned = min(cleaned, default=1 << 63)
    swaps: list[Segment] = []
    for name in names:
        path = f"{directory}/{name}"
        if name.endswith((CLEANED_SUFFIX, DELETED_SUFFIX, ".tmp")):
            files.remove(path)
        elif name.endswith(SWAP_SUFFIX):
            if int(name[:20]) >= first_cleaned:
                files.remove(path)
            elif name.endswith(LOG_SUFFIX + SWAP_SUFFIX):
                swaps.append(Segment(open_files, directory, int(name[:20]), suffix=SWAP_SUFFIX))
    useless: set[int] = set()
    for swap in swaps:
        replaced = replaced_by(swap, names)
        if replaced is None:
            logger.error("%s cannot be read whole; the segments that it was to replace are there and stay", swap)
            useless.add(swap.base_offset)
            continue
        for name in replaced:
            files.remove(f"{directory}/{name}")
    for name in names:
        if name.endswith(SWAP_SUFFIX) and int(name[:20]) < first_cleaned:
            path = f"{directory}/{name}"
            if int(name[:20]) in useless:
                files.remove(path)
            else:
                files.rename(path, path.removesuffix(SWAP_SUFFIX))
    for swap in swaps:
        swap.close()
    files.sync_dir(directory)


def replaced_by(swap: Segment, names: list[str]) -> list[str] | None:
    """Return the files among `names` that a compacted segment takes the place of: those of its offsets.

    None: it is damaged, and what it was to replace is still there, so it is of no use. Of a damaged one without its
    originals only the offsets that can be read count: a segment behind them is never taken for replaced.
    """
    is_damaged = any(isinstance(item, Damage) for item in swap.headers_around_damage())
    if is_damaged and f"{file_name(swap.base_offset)}{LOG_SUFFIX}" in names:
        return None
    end = max(swap.end_offset(), swap.base_offset + 1)
    return [
        name
        for name in names
        if name.endswith(SEGMENT_SUFFIXES) and _is_segment_file(name) and swap.base_offset <= int(name[:20]) < end
    ]


class EpochReader:
    """Takes leader epochs from batches, in order.

    No checksum covers them: an epoch that the next batch contradicts is left out.
    """

    def __init__(self, epochs: LeaderEpochs) -> None:
        self._epochs = epochs
        self._pending: tuple[int, int] | None = None

    def take(self, header: BatchHeader) -> None:
        """Take the epoch of a batch; it counts when the next batch does not go back behind it, or there is none."""
        epoch = header.partition_leader_epoch
        pending = self._pending
        if pending is not None and epoch >= pending[0]:
            self._epochs.assign(*pending)
        if pending is None or epoch != pending[0]:
            self._pending = (epoch, header.base_offset) if epoch > self._epochs.latest else None

    def finish(self) -> None:
        """There is no further batch."""
        if self._pending is not None:
            self._epochs.assign(*self._pending)
            self._pending = None


def read_epochs(segments: list[Segment], note: Callable[[Segment, Damage], None]) -> LeaderEpochs:
    """Return the leader epochs of a log as its batches have them; `note` gets what cannot be read on the way."""
    epochs = LeaderEpochs()
    reader = EpochReader(epochs)
    for segment in segments:
        for item in segment.headers_around_damage():
            if isinstance(item, Damage):
                note(segment, item)
            else:
                reader.take(item[1])
    reader.finish()
    return epochs


def replay_producers(
    producers: ProducerState,
    segments: list[Segment],
    snapshots: list[int],
    log_start_offset: int,
    up_to: int,
    now_ms: int,
    directory: str,
    *,
    skip_without_snapshot: bool = False,
    removes_damaged: bool = True,
) -> None:
    """Bring the producer state to offset `up_to`: the newest usable snapshot, then the batches behind it.

    Batches that cannot be read are passed over; the segments note that. `snapshots` are the offsets of the files; damaged
    ones are removed, from the list too, if `removes_damaged`.
    """
    files = segments[0].open_files.files
    # From the first batch that is there, even before the log start: the more is known, the fewer duplicates pass.
    producers.clear(segments[0].base_offset)
    loaded = False
    for offset in sorted((offset for offset in snapshots if offset <= up_to), reverse=True):
        path = f"{directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"
        try:
            producers.load(files.read_bytes(path), offset, now_ms)
            loaded = True
            break
        except SnapshotError as error:
            logger.warning("%s is damaged (%s); its content is read from the batches", path, error)
            if removes_damaged:
                snapshots.remove(offset)
                files.remove(path)
    if loaded or not skip_without_snapshot:
        start = producers.end_offset
        for number, segment in enumerate(segments):
            is_before = number + 1 < len(segments) and segments[number + 1].base_offset <= start
            if not is_before and segment.base_offset < up_to:
                _replay_segment(producers, segment, start, up_to, now_ms)
    producers.end_offset = up_to
    producers.on_log_start(log_start_offset)


def _replay_segment(producers: ProducerState, segment: Segment, start: int, up_to: int, now_ms: int) -> None:
    if not segment.size or start >= up_to:
        return
    for position, header in _headers_from(segment, start):
        if header.base_offset >= up_to:
            return
        if header.producer_id < 0 or header.base_offset < start:
            continue
        if header.is_control:
            marker = _marker_at(segment, position, header)
            if marker is not None:
                producers.add_marker(header, marker, header.base_offset, now_ms)
        else:
            producers.add_batch(header, header.base_offset, now_ms)


def _marker_at(segment: Segment, position: int, header: BatchHeader) -> EndTransactionMarker | None:
    """Return what a control batch says; None if it ends no transaction, or is damaged: then the segment notes that."""
    batch = segment.file.pread(header.size, position)
    if check_any_crc(batch, 0, header):
        return read_marker(batch)
    if not segment.is_known_damage(position):
        segment.note_damage(
            Damage(
                position, position + header.size, header.base_offset, header.next_offset, "a marker with a wrong CRC"
            )
        )
    return None


def _headers_from(segment: Segment, offset: int) -> Iterator[tuple[int, BatchHeader]]:
    try:
        position = segment.position_before(offset)
    except UnreliableIndexError:
        position = 0
    for item in segment.headers_around_damage(position):
        if not isinstance(item, Damage):
            yield item
        elif not segment.is_known_damage(item.position):
            segment.note_damage(item)


def aborted_entries(
    segments: list[Segment], segment: Segment, snapshots: list[int], topic_partition: TopicPartition, directory: str
) -> list[AbortedTransaction]:
    """Return what the transaction index of `segment` should say, from the batches before and in it."""
    producers = ProducerState(topic_partition, 1 << 62)
    replay_producers(producers, segments, snapshots, 0, segment.base_offset, 0, directory, removes_damaged=False)
    entries = []
    for position, header in _headers_from(segment, segment.base_offset):
        if header.producer_id < 0:
            continue
        if not header.is_control:
            producers.add_batch(header, header.base_offset, 0)
            continue
        marker = _marker_at(segment, position, header)
        if marker is not None:
            completed = producers.add_marker(header, marker, header.base_offset, 0)
            if completed is not None and completed.is_aborted:
                entries.append(producers.aborted_entry(completed))
    return entries


def _is_segment_file(name: str) -> bool:
    """Whether this is the name of a segment's file: its first offset, which has 64 bits, and a suffix."""
    stem = name[:20]
    if len(stem) < 20 or not stem.isascii() or not stem.isdigit() or int(stem) > LONG_MAX:
        return False
    return name[20:] in SEGMENT_SUFFIXES or name[20:] == SNAPSHOT_SUFFIX


def _leave_alone(directory: str, names: list[str]) -> None:
    if names:
        logger.warning("%s: no files of a log, left alone: %s", directory, ", ".join(names))
