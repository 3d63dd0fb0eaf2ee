"""The log cleaner: what compaction keeps of a log, and the change of its segments. Plain, synchronous, in slices.

`plan_cleaning` says what of a log could be cleaned and whether it should be; `clean` is a generator that does it and
yields after about every MiB, so that its owner runs slice after slice on an executor, throttles it, and may close it at
any point: nothing is changed then. It reads sealed segments and writes new ones with the suffix `.cleaned`; the log
swaps them in (`PartitionLog.replace_segments`), crash-safe. A pass has two parts (Kafka's LogCleaner):

1. Read the dirty part, from where the last pass ended up to the first offset that may not be cleaned, and map each key
to
   its last offset, as far as memory goes. Records of aborted transactions are left out.
2. Rewrite all segments up to the end of the map, in groups that fit into one segment. A record stays if it is the last
   of its key, or lies behind the map. Offsets, sequences and leader epochs stay as they were.

What is never cleaned: the active segment, anything from the last stable offset on, segments with records younger than
min.compaction.lag.ms. Records without a key are dropped: they are no part of a compacted topic.

Tombstones and transaction markers go late (KIP-534): the first pass that keeps one writes now + delete.retention.ms
into the batch as its delete horizon, and a pass after that time drops it. A marker may go once no batch of its
transaction is left. A batch without records stays, as a bare header, if it holds the last sequence of a producer that
is still known, or is the last one of the cleaned range (so that the log end does not move back).

Difference to Kafka: a rewritten batch without a horizon keeps its base timestamp, so its records are copied as they
are.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ottla import failpoints
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import (
    DELETE_HORIZON_BIT,
    MAGIC,
    NO_TIMESTAMP,
    TIMESTAMP_TYPE_BIT,
    BatchHeader,
    read_header,
)
from ottla.protocol.records.builder import build_empty_batch, wrap_body
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.formats import check_any_crc
from ottla.protocol.records.legacy import upgrade
from ottla.protocol.records.reader import read_body
from ottla.protocol.records.walk import iter_batches
from ottla.storage.aborted import check_spans
from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX
from ottla.storage.damage import UnreadableError, UnreliableIndexError, UnreliableTransactionsError
from ottla.storage.index import TransactionIndex
from ottla.storage.offset_map import OffsetMap
from ottla.storage.segment import CLEANED_SUFFIX, LOG_SUFFIX, Segment

if TYPE_CHECKING:
    from ottla.protocol.records.checksum import Buffer
    from ottla.storage.config import LogConfig
    from ottla.storage.index import AbortedTransaction
    from ottla.storage.log import PartitionLog
    from ottla.storage.producer_state import ProducerState

DEFAULT_MEMORY_BYTES = 134_217_728
DEFAULT_LOAD_FACTOR = 0.9
_SLICE_BYTES = 1 << 20


class CleaningAbortedError(Exception):
    """The log changed under the cleaner (retention, truncation): nothing was swapped, try again later."""


class UncleanableError(Exception):
    """The log cannot be cleaned: it is damaged, or the memory does not hold the keys of one batch. Leave it alone."""


# ------------------------------------------------------------------------------------------------ what to clean


class CleaningPlan(NamedTuple):
    """What a pass over a log would do."""

    #: Where the last pass ended, or the log start.
    first_dirty_offset: int
    #: A segment's base offset: from here on nothing may be cleaned.
    first_uncleanable_offset: int
    clean_bytes: int
    dirty_bytes: int
    #: A dirty record is older than max.compaction.lag.ms: clean at any ratio.
    is_overdue: bool

    @property
    def dirty_ratio(self) -> float:
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0

    def is_due(self, config: LogConfig) -> bool:
        """Whether to clean now: overdue, or dirtier than min.cleanable.dirty.ratio."""
        return self.dirty_bytes > 0 and (self.is_overdue or self.dirty_ratio > config.min_cleanable_dirty_ratio)


def plan_cleaning(log: PartitionLog, checkpoint: int | None, now_ms: int) -> CleaningPlan:
    """Return what may be cleaned. `checkpoint`: the log's entry in cleaner-offset-checkpoint, None if it has none.

    A checkpoint below the log start or above the log end (the log was truncated) counts as the log start.
    """
    segments = log.segments
    config = log.config
    first_dirty = log.log_start_offset
    if checkpoint is not None and log.log_start_offset <= checkpoint <= log.log_end_offset:
        first_dirty = checkpoint
    limit = min(log.last_stable_offset, segments[-1].base_offset)
    if config.min_compaction_lag_ms > 0:
        for segment, following in pairwise(segments):
            if following.base_offset > first_dirty and (
                segment.largest_timestamp_ms > now_ms - config.min_compaction_lag_ms
            ):
                limit = min(limit, segment.base_offset)
                break
    limit = max(limit, first_dirty)
    # Whole segments only: the one that holds the limit is left alone.
    first_uncleanable = max(segment.base_offset for segment in segments if segment.base_offset <= limit)
    clean_bytes = dirty_bytes = 0
    oldest = now_ms
    for segment, following in pairwise(segments):
        if segment.base_offset >= first_uncleanable:
            break
        if following.base_offset <= first_dirty:
            clean_bytes += segment.size
            continue
        dirty_bytes += segment.size
        if segment.size and segment.first_timestamp_ms > 0:
            oldest = min(oldest, segment.first_timestamp_ms)
    is_overdue = oldest < now_ms - config.max_compaction_lag_ms
    return CleaningPlan(first_dirty, first_uncleanable, clean_bytes, dirty_bytes, is_overdue)


# ------------------------------------------------------------------------------------------------ cleaning


@dataclass(slots=True)
class CleaningResult:
    """What a pass did."""

    #: For the checkpoint: the next pass begins here.
    next_dirty_offset: int
    bytes_read: int = 0
    bytes_written: int = 0
    records_read: int = 0
    records_kept: int = 0
    segments_before: int = 0
    segments_after: int = 0
    #: Keys in the offset map, and whether it became full (then another pass is due at once).
    keys: int = 0
    map_full: bool = False


def clean(
    log: PartitionLog,
    plan: CleaningPlan,
    now_ms: int,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    load_factor: float = DEFAULT_LOAD_FACTOR,
) -> Generator[int, None, CleaningResult]:
    """Clean a log; yield the bytes read or written since the last yield, return what was done.

    Each slice is some milliseconds of work and may wait for the disk; run them one after the other on any
    thread. Appends, reads and retention go on meanwhile. Close the generator to give up.

    Raises:
        CleaningAbortedError: a segment went away meanwhile. Segments swapped before stay swapped.
        UncleanableError: the log is damaged or the memory too small. It should not be tried again.
        OSError: the disk failed or is full; the files that were not swapped in yet are removed.
        StorageError: the log failed before, or the swap failed.
    """
    result = CleaningResult(plan.first_dirty_offset)
    offsets = OffsetMap(memory_bytes, load_factor)
    try:
        log.check_aborted(log.log_start_offset, nowait=False)
        # A first offset that is too small would drop committed records.
        check_spans(log.segments, _aborted_transactions(log, 0, plan.first_uncleanable_offset))
        yield from _fill(offsets, log, plan, result)
        result.keys = offsets.keys
        if offsets.latest_offset < plan.first_dirty_offset:
            if result.map_full:
                raise UncleanableError(f"{log.topic_partition}: {memory_bytes} bytes do not hold the keys of one batch")
            return result
        end = offsets.latest_offset + 1
        cleaner = _Cleaner(log.config, plan.first_uncleanable_offset, offsets, now_ms, result)
        cleaner.transactions.expect(_aborted_transactions(log, 0, end))
        for group in group_segments(log, end):
            yield from cleaner.clean_group(log, group)
    except FileNotFoundError as error:
        raise CleaningAbortedError(f"{log.topic_partition}: {error}") from error
    except (UnreadableError, UnreliableIndexError, UnreliableTransactionsError) as error:
        # Every record that cannot be read may be the last one of its key: nothing of this log is dropped.
        if isinstance(error, UnreadableError):
            log.note_unreadable(error)
        raise UncleanableError(f"{log.topic_partition}: {error}") from error
    except ValueError as error:
        raise UncleanableError(f"{log.topic_partition}: {error}") from error
    result.next_dirty_offset = end
    return result


def _fill(
    offsets: OffsetMap, log: PartitionLog, plan: CleaningPlan, result: CleaningResult
) -> Generator[int, None, None]:
    """Map the keys of the dirty part, as far as they fit."""
    start, end = plan.first_dirty_offset, plan.first_uncleanable_offset
    transactions = CleanedTransactions()
    transactions.expect(_aborted_transactions(log, start, end))
    segments = log.segments
    since = 0
    for segment, following in pairwise(segments):
        if segment.base_offset >= end:
            break
        if following.base_offset <= start:
            continue
        lower = segment.base_offset
        for position, header, batch in segment.batches(segment.position_before(start)):
            _check(segment, position, lower, header, batch)
            lower = header.next_offset
            if header.last_offset >= start:
                if header.is_control:
                    transactions.on_marker(header, batch)
                elif not transactions.on_batch(header) and header.record_count:
                    today, known = _todays_format(batch, header)
                    body = read_body(today, 0, known)
                    if not offsets.add_batch(body, known.record_count, known.base_offset, start):
                        result.map_full = True
                        return
                offsets.latest_offset = max(offsets.latest_offset, header.last_offset)
            since += header.size
            if since >= _SLICE_BYTES:
                yield since
                since = 0
        # Its last batches may have been compacted away.
        offsets.latest_offset = max(offsets.latest_offset, following.base_offset - 1)
    yield since


def group_segments(log: PartitionLog, end: int) -> list[list[Segment]]:
    """Return the sealed segments that begin below `end`, in runs of neighbours that fit into one segment each."""
    config = log.config
    segments = log.segments
    groups: list[list[Segment]] = []
    size = entries = time_entries = 0
    for segment, following in pairwise(segments):
        if segment.base_offset >= end:
            break
        if (
            groups
            and size + segment.size <= config.segment_bytes
            and 8 * (entries + segment.offset_index.count) <= config.segment_index_bytes
            and 12 * (time_entries + segment.time_index.count) <= config.segment_index_bytes
            # An empty one may join anyway: else there would be one every 2^31 offsets for ever.
            and (not segment.size or following.base_offset - 1 - groups[-1][0].base_offset <= RELATIVE_OFFSET_MAX)
        ):
            groups[-1].append(segment)
        else:
            groups.append([segment])
            size = entries = time_entries = 0
        size += segment.size
        entries += segment.offset_index.count
        time_entries += segment.time_index.count
    return groups


class _Cleaner:
    """The second part of a pass: writes groups of segments anew."""

    def __init__(
        self, config: LogConfig, first_uncleanable: int, offsets: OffsetMap, now_ms: int, result: CleaningResult
    ) -> None:
        self.config = config
        self.first_uncleanable = first_uncleanable
        self.offsets = offsets
        self.now_ms = now_ms
        self.result = result
        self.transactions = CleanedTransactions()
        self.last_batches: dict[int, tuple[int | None, int]] = {}

    def clean_group(self, log: PartitionLog, group: list[Segment]) -> Generator[int, None, None]:
        """Write what stays of the group into one new segment and swap it in."""
        first = group[0]
        files = first.open_files.files
        target = Segment(first.open_files, first.directory, first.base_offset, suffix=CLEANED_SUFFIX)
        modified_ms = files.mtime_ms(group[-1].path(LOG_SUFFIX))
        self.last_batches = _last_batches(log.producers)
        self.transactions.retained = []
        is_swapped = False
        try:
            target.create(self.now_ms)
            writer = _Writer(target, self.config.index_interval_bytes)
            read = 0
            for segment in group:
                lower = segment.base_offset
                for position, header, batch in segment.batches():
                    _check(segment, position, lower, header, batch)
                    lower = header.next_offset
                    kept = self.filter_batch(header, batch)
                    if kept is not None:
                        writer.add(kept)
                    read += header.size
                    if read + writer.written >= _SLICE_BYTES:
                        yield self._account(read, writer)
                        read = 0
            writer.flush()
            for entry in self.transactions.retained:
                target.transaction_index.add(entry)
            target.finish()
            failpoints.hit("clean.sync")
            target.sync()
            target.close()
            files.set_mtime_ms(target.path(LOG_SUFFIX), modified_ms)
            yield self._account(read, writer)
            try:
                log.replace_segments([target], group)
            except ValueError as error:
                raise CleaningAbortedError(str(error)) from None
            is_swapped = True
            self.result.segments_before += len(group)
            self.result.segments_after += 1
        finally:
            # Given up, failed, or closed by the owner. A swap that failed half-way is finished by recovery.
            if not is_swapped and target.suffix == CLEANED_SUFFIX:
                _remove(target)

    def _account(self, read: int, writer: _Writer) -> int:
        written, writer.written = writer.written, 0
        self.result.bytes_read += read
        self.result.bytes_written += written
        return read + written

    def filter_batch(self, header: BatchHeader, batch: Buffer) -> Buffer | None:
        """Return what stays of a batch: itself, fewer records, a bare header, or None.

        What stays of a message set of format 0 or 1 that loses records is a batch of today's format.
        """
        original = batch
        batch, header = _todays_format(batch, header)
        is_control = header.is_control
        horizon = header.delete_horizon_ms
        if is_control:
            is_obsolete = self.transactions.on_marker(header, batch)
            is_dropped = is_obsolete and horizon is not None and horizon <= self.now_ms
        else:
            is_obsolete = is_dropped = self.transactions.on_batch(header)
        self.result.records_read += header.record_count
        body: Buffer = b""
        kept = tombstones = 0
        largest = header.max_timestamp
        if header.record_count and not is_dropped:
            body = read_body(batch, 0, header)
            if is_control:
                kept = header.record_count
            else:
                kept, tombstones, largest, rest = kernels.filter_records(
                    body,
                    header.record_count,
                    header.base_offset,
                    header.base_timestamp,
                    self.offsets.table,
                    self.offsets.latest_offset,
                    horizon is None or self.now_ms < horizon,
                )
                body = body if rest is None else rest
        self.result.records_kept += kept
        if not kept:
            return _bare_header(header) if self._is_needed_empty(header) else None
        needs_horizon = horizon is None and (tombstones > 0 or (is_control and is_obsolete))
        if kept == header.record_count and not needs_horizon:
            return original
        if header.attributes & TIMESTAMP_TYPE_BIT:
            largest = header.max_timestamp
        base_timestamp = header.base_timestamp
        attributes = header.attributes
        if needs_horizon:
            base_timestamp = self.now_ms + self.config.delete_retention_ms
            attributes |= DELETE_HORIZON_BIT
            body = kernels.rewrite_records(body, kept, header.base_timestamp - base_timestamp, False)
        return wrap_body(
            body,
            base_offset=header.base_offset,
            last_offset_delta=header.last_offset_delta,
            record_count=kept,
            base_timestamp=base_timestamp,
            max_timestamp=largest,
            attributes=attributes,
            leader_epoch=header.partition_leader_epoch,
            producer_id=header.producer_id,
            producer_epoch=header.producer_epoch,
            base_sequence=header.base_sequence,
        )

    def _is_needed_empty(self, header: BatchHeader) -> bool:
        """Whether offsets or sequences of the batch are needed even without its records."""
        if header.next_offset == self.first_uncleanable:
            return True
        if not header.has_producer_id or header.producer_id not in self.last_batches:
            return False
        last_offset, epoch = self.last_batches[header.producer_id]
        if last_offset is not None:
            return header.last_offset == last_offset
        # Its last entry is a marker, which alone knows the epoch that fences older ones.
        return header.is_control and header.producer_epoch == epoch


def _bare_header(header: BatchHeader) -> bytearray:
    return build_empty_batch(
        base_offset=header.base_offset,
        last_offset=header.last_offset,
        max_timestamp=header.max_timestamp,
        leader_epoch=header.partition_leader_epoch,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
        timestamp_type=header.timestamp_type,
        transactional=header.is_transactional,
        control=header.is_control,
    )


def _check(segment: Segment, position: int, lower: int, header: BatchHeader, batch: memoryview) -> None:
    """Nothing a batch says counts before its checksum was compared."""
    if not check_any_crc(batch, 0, header):
        raise UnreadableError(segment, position, lower, "a wrong CRC")


def _todays_format(batch: Buffer, header: BatchHeader) -> tuple[Buffer, BatchHeader]:
    if header.magic == MAGIC:
        return batch, header
    upgraded = upgrade(batch, 0)
    return upgraded, read_header(upgraded)


class _Writer:
    """Collects batches and appends them to a segment in large writes, with their index entries."""

    def __init__(self, segment: Segment, index_interval_bytes: int) -> None:
        self._segment = segment
        self._index_interval_bytes = index_interval_bytes
        self._data = bytearray()
        self.written = 0

    def add(self, batch: Buffer) -> None:
        self._data += batch
        self.written += len(batch)
        if len(self._data) >= _SLICE_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._data:
            return
        data, self._data = self._data, bytearray()
        failpoints.hit("clean.write")
        start = self._segment.append(data)
        for position, header in iter_batches(data):
            # A batch without records has a time, but none that a lookup may find: dump-log calls it a mismatch.
            time = header.max_timestamp if header.record_count else NO_TIMESTAMP
            self._segment.note_batch(
                start + position, header.size, header.last_offset, time, self._index_interval_bytes
            )


def _remove(segment: Segment) -> None:
    files = segment.open_files.files
    try:
        segment.close()
        for path in segment.paths():
            if files.exists(path):
                files.remove(path)
    except OSError:
        pass  # the next start removes what is left


# ------------------------------------------------------------------------------------------------ producers


def _last_batches(producers: ProducerState) -> dict[int, tuple[int | None, int]]:
    """Return for each known producer (the last offset of its last data batch or None, its epoch)."""
    last: dict[int, tuple[int | None, int]] = {}
    # Copies: an append on another thread may change them meanwhile, and then its batch lies behind what we clean.
    for entry in list(producers.entries.values()):
        batches = list(entry.batches)
        offset = batches[-1].last_offset if batches else -1
        last[entry.producer_id] = (offset if offset >= 0 else None, entry.producer_epoch)
    return last


def _aborted_transactions(log: PartitionLog, start: int, end: int) -> list[AbortedTransaction]:
    """Return the aborted transactions with records in [start, end); their markers may lie in the active segment."""
    *sealed, active = log.segments
    found = [entry for segment in sealed for entry in segment.transaction_index.entries()]
    try:
        # Read anew: the log itself may be loading or adding to the active segment's index, on another thread.
        found += TransactionIndex(active.open_files, active.transaction_index.path).entries()
    except ValueError as error:
        raise CleaningAbortedError(f"{log.topic_partition}: an entry is just being written: {error}") from None
    return [entry for entry in found if entry.last_offset >= start and entry.first_offset < end]


class CleanedTransactions:
    """Follows the transactions of a log as the cleaner walks over it: aborted batches, markers that may go."""

    def __init__(self) -> None:
        #: Aborted transactions not begun yet, by first offset.
        self._expected: list[tuple[int, int, AbortedTransaction]] = []
        #: Producer id -> its aborted transaction here, and whether a batch of it was seen.
        self._aborted: dict[int, tuple[AbortedTransaction, bool]] = {}
        self._committed: set[int] = set()
        #: Aborted transactions of which batches are left: they belong in the new segment's index.
        self.retained: list[AbortedTransaction] = []

    def expect(self, transactions: Iterable[AbortedTransaction]) -> None:
        """Name the aborted transactions of the range before walking over it."""
        self._expected += [(entry.first_offset, entry.producer_id, entry) for entry in transactions]
        heapq.heapify(self._expected)

    def _begin_up_to(self, offset: int) -> None:
        while self._expected and self._expected[0][0] <= offset:
            _, producer_id, entry = heapq.heappop(self._expected)
            self._aborted.setdefault(producer_id, (entry, False))

    def on_batch(self, header: BatchHeader) -> bool:
        """Take a data batch; return whether it belongs to an aborted transaction."""
        self._begin_up_to(header.last_offset)
        if not header.is_transactional:
            return False
        aborted = self._aborted.get(header.producer_id)
        if aborted is None:
            self._committed.add(header.producer_id)
            return False
        self._aborted[header.producer_id] = (aborted[0], True)
        return True

    def on_marker(self, header: BatchHeader, batch: Buffer) -> bool:
        """Take a control batch; return whether no batch of its transaction was left, so that it may go."""
        self._begin_up_to(header.last_offset)
        if not header.record_count:
            return True
        marker = read_marker(batch)
        if marker is None:
            return False
        if marker.kind is ControlType.ABORT:
            aborted = self._aborted.pop(header.producer_id, None)
            if aborted is None or not aborted[1]:
                return True
            self.retained.append(aborted[0])
            return False
        if header.producer_id in self._committed:
            self._committed.discard(header.producer_id)
            return False
        return True
