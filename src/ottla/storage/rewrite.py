"""Putting a segment of the readable batches in the place of one that has others, as the cleaner puts in its own.

Written as `.cleaned`, synced, renamed to `.swap` (the .log first): from the moment that all of it has that name, the next
start finishes what is left (`recovery.finish_compaction`), and Apache Kafka does the same; before that it removes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.protocol.records.batch import (
    LOG_OVERHEAD,
    MAGIC,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    BatchHeader,
    read_header,
)
from ottla.protocol.records.builder import build_empty_batch
from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX
from ottla.storage.damage import Damage
from ottla.storage.intact import read_intact
from ottla.storage.segment import CLEANED_SUFFIX, LOG_SUFFIX, SWAP_SUFFIX, Segment

if TYPE_CHECKING:
    from ottla.storage.files import Buffer
    from ottla.storage.open_files import OpenFiles
    from ottla.storage.segment_check import SegmentCheck

#: Kafka's default of index.interval.bytes: the topic's own is not known here.
INDEX_INTERVAL_BYTES = 4096
_WRITE_BYTES = 1 << 20
#: Where the leader epoch of a batch of format 2 is.
_EPOCH_POSITION = LOG_OVERHEAD


def rewrite(
    old: SegmentCheck, end_offset: int, right_epoch: Callable[[int, int], int], on_written: Callable[[int], None]
) -> None:
    """Write the segment anew, with its indexes, without what cannot be read; durable when it returns.

    Args:
        old: what a whole read of it showed.
        end_offset: where the log ended, as `SegmentCheck.run` had it.
        right_epoch: gives the right leader epoch for (offset, the one that the batch says).
        on_written: called with the bytes written since the last call.

    Raises:
        OSError: the disk failed or is full. Either segment, the old or the new one, is there at the next start.
    """
    segment = old.segment
    files = segment.open_files.files
    modified_ms = files.mtime_ms(segment.path(LOG_SUFFIX))
    target = Segment(segment.open_files, segment.directory, segment.base_offset, suffix=CLEANED_SUFFIX)
    target.create(0)
    writer = _Writer(target)
    for item in read_intact(segment, end_offset):
        if isinstance(item, Damage):
            for entry, marker in old.lost_aborts:
                if item.first_offset <= entry.last_offset < item.next_offset:
                    writer.add(read_header(marker), _with_epoch(marker, right_epoch(entry.last_offset, -1)))
            continue
        header, data = item.header, item.corrected()
        if header.magic == MAGIC:
            epoch = right_epoch(header.base_offset, header.partition_leader_epoch)
            if epoch != header.partition_leader_epoch:
                data = _with_epoch(data, epoch)
        writer.add(header, data)
        on_written(header.size)
    writer.flush()
    for aborted in old.aborted:
        target.transaction_index.add(aborted)
    target.finish()
    target.sync()
    files.set_mtime_ms(target.path(LOG_SUFFIX), modified_ms)
    _put_in_place(target, [segment])


def fill_end(open_files: OpenFiles, directory: str, first_offset: int, end_offset: int, leader_epoch: int) -> None:
    """Write a segment with nothing but an empty batch, as compaction leaves them, for the lost end of a log.

    Consumers pass an empty batch; where no batch follows they would wait at the first lost offset for ever. Durable when
    it returns.

    Args:
        open_files, directory: where; segments from `first_offset` on, which have no batches, are removed.
        first_offset, end_offset: the offsets from `first_offset` up to `end_offset`, at least one; of more than 2^31 the
            last ones, which is enough.
        leader_epoch: of the last batch.

    Raises:
        OSError: the disk failed or is full. The log is as it was, or done, at the next start.
    """
    first = max(first_offset, end_offset - 1 - RELATIVE_OFFSET_MAX)
    target = Segment(open_files, directory, first, suffix=CLEANED_SUFFIX)
    target.create(0)
    writer = _Writer(target)
    data = build_empty_batch(
        base_offset=first,
        last_offset=end_offset - 1,
        max_timestamp=NO_TIMESTAMP,
        leader_epoch=leader_epoch,
        producer_id=NO_PRODUCER_ID,
        producer_epoch=NO_PRODUCER_EPOCH,
        base_sequence=NO_SEQUENCE,
    )
    writer.add(read_header(data), data)
    writer.flush()
    target.finish()
    target.sync()
    names = [name for name in open_files.files.listdir(directory) if name.endswith(LOG_SUFFIX)]
    bases = [int(name[:20]) for name in names if name[:20].isdigit()]
    replaced = [Segment(open_files, directory, base) for base in bases if first <= base < end_offset]
    _put_in_place(target, replaced)


def _put_in_place(target: Segment, replaced: list[Segment]) -> None:
    """Give the files of a `.cleaned` segment, which are synced, their names in the place of others'."""
    files, directory = target.open_files.files, target.directory
    target.close()
    target.rename(SWAP_SUFFIX)
    files.sync_dir(directory)
    for segment in replaced:
        segment.remove()
    target.rename("")
    files.sync_dir(directory)
    target.close()


def _with_epoch(data: Buffer, epoch: int) -> bytes:
    """Return a batch of format 2 with another leader epoch, which its checksum does not cover."""
    written = epoch.to_bytes(4, "big", signed=True)
    return bytes(data[:_EPOCH_POSITION]) + written + bytes(data[_EPOCH_POSITION + 4 :])


class _Writer:
    """Appends batches to a segment in large writes, with their index entries."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._data = bytearray()
        self._position = 0

    def add(self, header: BatchHeader, data: Buffer) -> None:
        # A batch that compaction emptied has a time, but none that a look-up may find.
        time = header.max_timestamp if header.record_count else NO_TIMESTAMP
        self._segment.note_batch(self._position, header.size, header.last_offset, time, INDEX_INTERVAL_BYTES)
        self._position += header.size
        self._data += data
        if len(self._data) >= _WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._data:
            self._segment.append(self._data)
            self._data = bytearray()
