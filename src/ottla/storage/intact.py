"""Reading every batch of a segment with its checksum, around what is damaged.

`Segment.headers_around_damage` reads headers only; here nothing counts before its checksum was compared. The checksum of
a batch does not cover its base offset (nor the leader epoch). Where a batch with a right checksum has an offset that
cannot be, and exactly its number of offsets is free between its neighbours, it is given the only one that fits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ottla.protocol.records.batch import BatchHeader
from ottla.protocol.records.formats import SIZE_MIN, check_any_crc
from ottla.storage.damage import Damage, UnreadableError, find_readable, first_offset_at, intact_header, is_contradicted
from ottla.storage.segment import NO_OFFSET_LIMIT

if TYPE_CHECKING:
    from ottla.storage.segment import Segment

_OFFSET = struct.Struct(">q")


class Batch(NamedTuple):
    """A batch whose checksum is right.

    Attributes:
        position: where it begins.
        header: with the right base offset.
        data: its bytes as they are in the file: a view, valid until the next batch is read.
        written_offset: the base offset that the file has, where that is a wrong one.
    """

    position: int
    header: BatchHeader
    data: memoryview
    written_offset: int | None = None

    @property
    def end(self) -> int:
        return self.position + self.header.size

    def corrected(self) -> bytes | memoryview:
        """Return its bytes with the right base offset."""
        if self.written_offset is None:
            return self.data
        return _OFFSET.pack(self.header.base_offset) + bytes(self.data[_OFFSET.size :])


def read_intact(segment: Segment, end_offset: int) -> Iterator[Batch | Damage]:
    """Yield every batch of the segment whose checksum is right, and a `Damage` in the place of everything else.

    Args:
        segment: it must know where the next one begins (`link_segments`).
        end_offset: where the log ended, as far as that is known, else 0: how far damage reaches behind which nothing
            readable comes.

    Raises:
        OSError: the disk failed.
    """
    start, lower = 0, segment.base_offset
    while start < segment.size:
        header: BatchHeader | None = None
        try:
            for position, header, data in segment.batches(start, lower=lower):
                if not check_any_crc(data, 0, header):
                    raise UnreadableError(segment, position, lower, "a wrong checksum")
                if _is_too_far_at_the_end(segment, position, header, lower, end_offset):
                    yield Batch(position, header._replace(base_offset=lower), data, header.base_offset)
                    return
                yield Batch(position, header, data)
                start, lower, header = position + header.size, header.next_offset, None
            return
        except UnreadableError as error:
            found = (
                _at_its_only_place(segment, error, end_offset)
                or _one_wrong_checksum(segment, error, header)
                or segment.extent_of(error, end_offset=end_offset)
            )
        yield found
        start = found.end
        lower = found.next_offset if isinstance(found, Damage) else found.header.next_offset


def _is_too_far_at_the_end(segment: Segment, position: int, header: BatchHeader, lower: int, end_offset: int) -> bool:
    """Whether it is the log's last batch, and ends where the log ended if it begins with `lower`, and not as it says."""
    return (
        position + header.size >= segment.size
        and segment.next_base_offset == NO_OFFSET_LIMIT
        and header.base_offset > lower
        and header.record_count >= 0
        and header.next_offset > end_offset == lower + header.last_offset_delta + 1
    )


def _at_its_only_place(segment: Segment, error: UnreadableError, end_offset: int) -> Batch | None:
    """Return the batch at the place of `error`, if nothing but its base offset is wrong and only one can be right."""
    header = intact_header(segment.file, error.position, segment.size)
    # How many offsets a compressed message of format 0 or 1 takes is not written in its header.
    if header is None or header.record_count < 0 or header.base_offset == error.first_offset:
        return None
    behind = error.position + header.size
    if behind >= segment.size:
        following = segment.next_base_offset if segment.next_base_offset < NO_OFFSET_LIMIT else end_offset
    else:
        next_header = intact_header(segment.file, behind, segment.size)
        following = -1 if next_header is None or next_header.record_count < 0 else next_header.base_offset
    if following != error.first_offset + header.last_offset_delta + 1:
        return None
    data = memoryview(segment.file.pread(header.size, error.position))
    return Batch(error.position, header._replace(base_offset=error.first_offset), data, header.base_offset)


def _one_wrong_checksum(segment: Segment, error: UnreadableError, header: BatchHeader | None) -> Damage | None:
    """Return how far a batch with a wrong checksum reaches, if an intact one follows where it says that it ends.

    Its own bytes are searched for others too (its length may be what is wrong), but only for offsets below the next one's:
    a record may hold what looks like a batch.
    """
    if header is None or error.position + header.size >= segment.size:
        return None
    behind = error.position + header.size
    following = intact_header(segment.file, behind, segment.size)
    if following is None or not error.first_offset <= following.base_offset < segment.next_base_offset:
        return None
    if is_contradicted(segment.file, behind, segment.size, following, error.first_offset):
        return None
    upper = first_offset_at(segment.file, behind, following)
    inside = find_readable(
        segment.file, error.position + 1, behind + SIZE_MIN - 1, segment.size, error.first_offset, upper
    )
    end, next_offset = inside if inside is not None and inside[0] < behind else (behind, upper)
    return Damage(error.position, end, error.first_offset, next_offset, error.reason)
