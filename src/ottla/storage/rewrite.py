"""Putting a segment of the readable batches in the place of one that has others, as the cleaner puts in its own.

Written as `.cleaned`, synced, renamed to `.swap` (the .log first): from the moment that all of it has that name, the next
start finishes what is left (`recovery.finish_compaction`), and Apache Kafka does the same; before that it removes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.protocol.records.batch import LOG_OVERHEAD, MAGIC, NO_TIMESTAMP, BatchHeader, read_header
from ottla.storage.damage import Damage
from ottla.storage.intact import read_intact
from ottla.storage.segment import CLEANED_SUFFIX, LOG_SUFFIX, SWAP_SUFFIX, Segment

if TYPE_CHECKING:
    from ottla.storage.files import Buffer
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
    target.close()
    target.rename(SWAP_SUFFIX)
    files.sync_dir(segment.directory)
    segment.remove()
    target.rename("")
    files.sync_dir(segment.directory)
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
