"""Whether the files of a segment agree: batches that fill the file, indexes that name what is there.

Nothing but the batches carries a checksum, so that an index is compared with them before something is deleted, appended
or answered because of it. What was found right is remembered in the segment, and not checked again. These functions may
wait for the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.storage.damage import UnreadableError, UnreliableIndexError, UnreliableTransactionsError
from ottla.storage.index import TimeEntry
from ottla.storage.locating import locate

if TYPE_CHECKING:
    from ottla.protocol.records.batch import BatchHeader
    from ottla.storage.segment import Segment


def verify(segment: Segment) -> None:
    """Walk over all headers once: the batches fill the file, in order, and the time index knows the largest time.

    Raises:
        UnreadableError: they do not.
        UnreliableIndexError: the time index says less than the batches.
    """
    if segment.is_verified:
        return
    largest = -1
    for _, header in segment.headers():
        if header.max_timestamp > largest and header.record_count:
            largest = header.max_timestamp
    if largest > segment.max_timestamp_ms:
        raise UnreliableIndexError(
            segment, f"the time index ends at {segment.max_timestamp_ms}, the batches at {largest}"
        )
    segment.is_verified = True


def check_end(segment: Segment) -> None:
    """Check that the batches behind the last index entry fill the file, in order.

    Raises:
        UnreadableError, UnreliableIndexError: they do not.
    """
    if not segment.is_verified:
        start = segment.trusted_position(segment.offset_index.last_entry(), nowait=False)
        for damage in segment.damages:
            if start <= damage.position:
                start = damage.end
        if start < segment.size:
            for _ in segment.headers(start):
                pass
        elif segment.damages and segment.damages[-1].end >= segment.size:
            last = segment.damages[-1]
            raise UnreadableError(segment, last.position, last.first_offset, last.reason)


def check_times(segment: Segment) -> None:
    """Check the last entry of the time index, which names the largest timestamp of a sealed segment.

    Raises:
        UnreliableIndexError: another batch has a larger one, or no batch has this one.
        UnreadableError: on the way.
    """
    if segment.are_times_checked:
        return
    entry = TimeEntry(segment.max_timestamp_ms, segment.max_timestamp_offset)
    place = locate(segment, entry.offset, segment.size) if entry.timestamp >= 0 else (0, segment.base_offset)
    if place is None:
        raise _wrong_times(segment, f"there is no batch at offset {entry.offset}")
    for position, header in segment.headers(place[0]):
        if position == place[0] and entry.timestamp >= 0:
            compare_times(segment, entry, header)
        if header.max_timestamp > entry.timestamp and header.record_count:
            raise _wrong_times(segment, f"it ends with {entry.timestamp}, and a batch has {header.max_timestamp}")
    segment.are_times_checked = True


def compare_times(segment: Segment, entry: TimeEntry, header: BatchHeader | None) -> None:
    """Check that the batch with the offset of a time index's entry has its timestamp; None: there is no such batch.

    Raises:
        UnreliableIndexError: it has another.
    """
    if not segment.is_mended and (header is None or header.max_timestamp != entry.timestamp):
        found = "there is no batch" if header is None else f"the batch has {header.max_timestamp}"
        raise _wrong_times(segment, f"it has {entry.timestamp} for offset {entry.offset}, {found}")


def check_aborted(segment: Segment) -> None:
    """Check that each entry of the transaction index names the abort marker that the batches have there.

    Raises:
        UnreliableTransactionsError: it does not.
        UnreadableError, UnreliableIndexError: on the way.
    """
    index = segment.transaction_index
    if index.is_checked:
        return
    previous = segment.base_offset - 1
    try:
        for entry in index.entries():
            if segment.is_damaged_at(entry.last_offset):
                continue  # its marker cannot be read: the entry is all there is
            place = locate(segment, entry.last_offset, segment.size)
            header = None if place is None else segment.header_at(place[0], False)
            if (
                header is None
                or header.base_offset != entry.last_offset
                or header.producer_id != entry.producer_id
                or not header.is_control
                or not entry.first_offset <= entry.last_offset
                or entry.last_offset <= previous
                or entry.last_stable_offset > entry.last_offset + 1
            ):
                raise ValueError(f"no transaction of producer {entry.producer_id} ends at offset {entry.last_offset}")
            previous = entry.last_offset
    except ValueError as error:
        raise UnreliableTransactionsError(f"{segment.name}: the transaction index is wrong: {error}") from None
    index.is_checked = True


def _wrong_times(segment: Segment, reason: str) -> UnreliableIndexError:
    return UnreliableIndexError(segment, f"the time index is wrong: {reason}")
