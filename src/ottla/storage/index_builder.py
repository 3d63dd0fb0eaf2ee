"""Building the offset and time index of a segment anew, from its batches, around what cannot be read.

Reads without a lock: `read` may be called again for what was appended meanwhile, and `Segment.adopt_indexes` then puts
the result in force. The rule is that of `Segment.note_batch`: an entry for the first batch after each
`index.interval.bytes`, and for a sealed segment a last entry with the largest timestamp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.storage.damage import Damage

if TYPE_CHECKING:
    from ottla.storage.segment import Segment


class IndexBuilder:
    """What the indexes of `segment` should say.

    Attributes:
        offsets: (relative offset, position), as the offset index stores it.
        times: (timestamp, relative offset), as the time index stores it.
        damages: what could not be read on the way.
        largest_timestamp, largest_offset: of all batches read so far; -1 and the base offset at first.
        since_entry: bytes since the last entry.

    Args:
        end_offset: where the log ends, as in `Segment.extent_of`.
    """

    def __init__(self, segment: Segment, index_interval_bytes: int, end_offset: int = 0) -> None:
        self.offsets: list[tuple[int, int]] = []
        self.times: list[tuple[int, int]] = []
        self.damages: list[Damage] = []
        self.largest_timestamp = -1
        self.largest_offset = segment.base_offset
        self.since_entry = 0
        self._segment = segment
        self._interval = index_interval_bytes
        self._end_offset = end_offset
        self._position = 0

    def read(self) -> None:
        """Read from where the last call ended to the present end of the segment. May take long: off the loop.

        Raises:
            OSError: the disk failed, or the segment was deleted meanwhile.
        """
        base = self._segment.base_offset
        for item in self._segment.headers_around_damage(self._position, end_offset=self._end_offset):
            if isinstance(item, Damage):
                self.damages.append(item)
                self._position = item.end
                continue
            position, header = item
            if header.record_count and header.max_timestamp > self.largest_timestamp:
                self.largest_timestamp, self.largest_offset = header.max_timestamp, header.last_offset
            if self.since_entry > self._interval:
                self.offsets.append((header.last_offset - base, position))
                self._note_time()
                self.since_entry = 0
            self.since_entry += header.size
            self._position = position + header.size

    def seal(self) -> None:
        """Add the last time entry: the segment will not grow."""
        self._note_time()

    def _note_time(self) -> None:
        if self.largest_timestamp > (self.times[-1][0] if self.times else -1):
            self.times.append((self.largest_timestamp, self.largest_offset - self._segment.base_offset))
