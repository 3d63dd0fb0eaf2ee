"""What a read of a log gives: a place in a segment file, and the memory that makes finding it cheap.

`LogSlice` names bytes without reading them, so that a fetch can count before it touches the disk. `Tail` remembers where
the newest batches of the active segment start: consumers at the end of the log need no index.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from ottla.file_region import FileRegion

if TYPE_CHECKING:
    from ottla.offload import Offload
    from ottla.storage.files import Buffer, File

#: Slices from this size on are sent without being read. Below, one call for head and records is cheaper than two.
REGION_MIN = 32 * 1024
#: Batches remembered: at this many the older half is forgotten.
_TAIL_BATCHES_MAX = 1024


class LogSlice:
    """Whole batches in a segment file.

    Attributes:
        position: where they start in the file.
        size: their bytes; 0 if there is nothing to read.
        next_offset: the offset after them, or one that the next batch holds, where offsets or batches were passed over. A
            reader goes on behind the last batch it read.
    """

    __slots__ = ("file", "next_offset", "position", "size")

    def __init__(self, file: File | None, position: int, size: int, next_offset: int) -> None:
        self.file = file
        self.position = position
        self.size = size
        self.next_offset = next_offset

    def read(self) -> bytes:
        """Return the bytes; may wait for the disk.

        Raises:
            OSError: the disk failed.
        """
        if self.file is None or not self.size:
            return b""
        return self.file.pread(self.size, self.position)

    def read_nowait(self) -> Buffer | None:
        """Return the bytes if they are in memory, else None: then `read` off the loop."""
        if self.file is None or not self.size:
            return b""
        return self.file.pread_nowait(self.size, self.position)

    def unread(self, offload: Offload) -> FileRegion | None:
        """Return a large slice as it is, for a socket, if its bytes are in memory; None: it has to be read.

        Args:
            offload: where it is read if its bytes are in memory no more when their turn comes.

        Raises:
            OSError: the disk failed.
        """
        if self.file is None or self.size < REGION_MIN or not self.file.is_cached(self.size, self.position):
            return None
        return FileRegion(self.file, self.position, self.size, offload)


class Tail:
    """(base offset, position) of the newest batches of the active segment, without a hole between them and its end.

    One thread adds, others look: positions are added before offsets, and forgetting replaces both arrays at once.
    """

    __slots__ = ("_arrays",)

    def __init__(self) -> None:
        self._arrays: tuple[array[int], array[int]] = (array("q"), array("q"))

    def add(self, base_offset: int, position: int) -> None:
        offsets, positions = self._arrays
        if len(offsets) >= _TAIL_BATCHES_MAX:
            half = _TAIL_BATCHES_MAX // 2
            offsets, positions = offsets[half:], positions[half:]
            self._arrays = (offsets, positions)
        positions.append(position)
        offsets.append(base_offset)

    def clear(self) -> None:
        self._arrays = (array("q"), array("q"))

    def find(
        self, offset: int, upper_offset: int, max_bytes: int, end_offset: int, end_position: int, min_one: bool
    ) -> tuple[int, int, int] | None:
        """Return (position, size, next offset) of whole batches in [offset, upper_offset), None if `offset` is older.

        `end_offset` and `end_position` are where the log ended when the reader began.
        """
        offsets, positions = self._arrays
        if not offsets or offset < offsets[0]:
            return None
        index = bisect_right(offsets, offset) - 1
        start = positions[index]
        stop, next_offset = end_position, end_offset
        if upper_offset < end_offset:
            # A batch that reaches the upper offset is left out, even if it begins below.
            above = bisect_right(offsets, upper_offset) - 1
            stop, next_offset = positions[above], offsets[above]
        if stop - start > max_bytes:
            above = bisect_right(positions, start + max_bytes) - 1
            if above <= index:
                if not min_one:
                    return start, 0, offset
                above = index + 1
            if above < len(positions) and positions[above] < stop:
                stop, next_offset = positions[above], offsets[above]
        if stop <= start:
            return start, 0, offset
        return start, stop - start, next_offset
