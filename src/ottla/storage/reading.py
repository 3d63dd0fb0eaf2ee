"""How a log finds the place to read from, as cheaply as the reader allows.

At the tail, from memory (`Tail`); where a sequential reader goes on, from a hint the last read left; else through the
offset index and a scan of a few headers. Takes no lock: what a reader on another thread needs is replaced by single
assignments, `end` last.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from ottla.storage.damage import UnreadableError
from ottla.storage.locating import check_batch, end_of_slice, locate
from ottla.storage.segment import NO_OFFSET_LIMIT
from ottla.storage.slices import LogSlice, Tail

if TYPE_CHECKING:
    from ottla.storage.locating import check_batch, end_of_slice, locate
from ottla.storage.segment import Segment

#: Places where sequential readers will go on that are not at the tail.
_HINTS_MAX = 32


class LogReader:
    """The readers' side of a log.

    Attributes:
        end: (log end offset, active segment, its size).
        is_cutting: a truncation is under way: what a reader misses at the end may just have been cut off.
    """

    __slots__ = ("_hints", "_tail", "end", "is_cutting")

    def __init__(self, end_offset: int, active: Segment) -> None:
        self.end = (end_offset, active, active.size)
        self.is_cutting = False
        self._tail = Tail()
        self._hints: dict[int, tuple[Segment, int]] = {}

    def note(self, base_offset: int, position: int) -> None:
        """A batch was written to the active segment; `publish` follows."""
        self._tail.add(base_offset, position)

    def publish(self, end_offset: int, active: Segment) -> None:
        """From now on readers see everything below `end_offset`."""
        self.end = (end_offset, active, active.size)

    def leave_active(self) -> None:
        """Another segment is, or is about to become, the active one."""
        self._tail.clear()

    def forget_places(self) -> None:
        """Segments went away or were replaced."""
        self._hints = {}

    def find(
        self, segments: list[Segment], offset: int, max_bytes: int, upper_offset: int, *, min_one: bool, nowait: bool
    ) -> LogSlice:
        """Return whole batches from the one that holds `offset` on, all below `upper_offset`; nothing is read yet.

        Raises:
            OSError: the disk failed, or a segment was deleted meanwhile.
            UnreadableError, UnreliableIndexError: what should hold `offset` is no batch, or an index is wrong.
            WouldBlockError: with `nowait`, an index is not in memory.
        """
        end, active, active_size = self.end
        upper_offset = min(upper_offset, end)
        if offset >= upper_offset:
            return LogSlice(None, 0, 0, offset)
        found = self._tail.find(offset, upper_offset, max_bytes, end, active_size, min_one)
        if found is not None and active is self.end[1]:
            return LogSlice(active.file, *found)
        is_whole = segments[-1] is active  # else it was looked up before a roll or a truncation
        return self._find_through_index(segments, offset, max_bytes, upper_offset, min_one, nowait, is_whole)

    def _find_through_index(
        self,
        segments: list[Segment],
        offset: int,
        max_bytes: int,
        upper_offset: int,
        min_one: bool,
        nowait: bool,
        is_whole: bool,
    ) -> LogSlice:
        hint = self._hints.get(offset)
        number = first_at_or_before(segments, offset)
        segment = segments[number]
        while True:
            size = segment.size
            if hint is not None and hint[0] is segment and hint[1] < size and not segment.is_known_damage(hint[1]):
                start, base = hint[1], offset
            else:
                place = locate(segment, offset, size, nowait=nowait)
                if place is None:  # nothing here at or after it: compaction left a hole
                    number += 1
                    if number == len(segments):
                        break
                    segment = segments[number]
                    continue
                start, base = place
            # The last batch of all has no neighbour that would show that its offset is too large.
            upper = self.end[0] if is_whole and number + 1 == len(segments) else NO_OFFSET_LIMIT
            check_batch(segment, start, min(base, offset), upper=upper, nowait=nowait)
            if base >= upper_offset:
                return LogSlice(None, 0, 0, offset)
            end = segment.readable_end(start)
            next_base = segments[number + 1].base_offset if number + 1 < len(segments) else NO_OFFSET_LIMIT
            if end == size and size - start <= max_bytes and next_base <= upper_offset:
                stop, next_offset = size, next_base
            else:
                limit = min(start + max_bytes, end)
                stop, next_offset = end_of_slice(
                    segment, start, base, limit, upper_offset, min_one=min_one, end=end, nowait=nowait
                )
            if stop <= start:
                return LogSlice(None, 0, 0, offset)
            if stop < end:
                self._remember(next_offset, segment, stop)
            return LogSlice(segment.file, start, stop - start, next_offset)
        if is_whole and not self.is_cutting and segment.base_offset < self.end[0]:
            expected = segment.end_offset()
            if expected < self.end[0]:
                reason = f"the batches end at offset {expected}, the log at {self.end[0]}"
                raise UnreadableError(segment, size, expected, reason)
        return LogSlice(None, 0, 0, offset)

    def _remember(self, offset: int, segment: Segment, position: int) -> None:
        hints = self._hints
        if len(hints) >= _HINTS_MAX:
            hints = self._hints = dict(list(hints.items())[_HINTS_MAX // 2 :])
        hints[offset] = (segment, position)


def base_offset_of(segment: Segment) -> int:
    """The key by which segments are sorted."""
    return segment.base_offset


def first_at_or_before(segments: list[Segment], offset: int) -> int:
    """Return the number of the segment that holds `offset`, or would."""
    return max(bisect_right(segments, offset, key=base_offset_of) - 1, 0)
