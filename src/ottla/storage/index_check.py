"""Comparing a segment's three indexes with its batches, while these go by once.

Each check takes the batches in their order (`on_batch`) and keeps the first thing that is wrong; `finish` returns it, or
"". Knows no directory and changes nothing. What makes an entry right is what look-ups rely on: see `index`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ottla.storage.index import AbortedTransaction

if TYPE_CHECKING:
    from ottla.protocol.records.batch import BatchHeader
    from ottla.storage.segment import Segment


class OffsetIndexCheck:
    """Every entry names a position where a batch begins that fits to its offset."""

    def __init__(self, segment: Segment) -> None:
        self._problem = ""
        self._number = 0
        self._entries: list[tuple[int, int]] = []
        self._upper = segment.next_base_offset
        index = segment.offset_index
        if odd := segment.open_files.files.size(index.path) % index.entry.size:
            self._problem = f"{odd} bytes behind its last whole entry"
            return
        self._entries = index.entries()
        for before, after in pairwise(self._entries):
            if after[0] <= before[0] or after[1] <= before[1]:
                self._problem = (
                    f"the entry for offset {after[0]}, byte {after[1]} follows that for {before[0]}, {before[1]}"
                )
                return

    def on_batch(self, position: int, header: BatchHeader) -> None:
        if self._problem or self._number >= len(self._entries):
            return
        last_offset, named = self._entries[self._number]
        if named < position:
            self._problem = f"it names byte {named} for offset {last_offset}, where no batch begins"
        elif named == position:
            # Older releases of Kafka made one entry for several batches: the first one's position, the last one's offset.
            if not header.base_offset <= last_offset < self._upper:
                self._problem = (
                    f"it names byte {named} for offset {last_offset}, where offset {header.base_offset} begins"
                )
            self._number += 1

    def finish(self) -> str:
        if not self._problem and self._number < len(self._entries):
            last_offset, named = self._entries[self._number]
            self._problem = f"it names byte {named} for offset {last_offset}, where no batch begins"
        return self._problem


class TimeIndexCheck:
    """Every entry has the largest timestamp up to its batch, and the last one that of the segment."""

    def __init__(self, segment: Segment) -> None:
        self._problem = ""
        self._number = 0
        self._entries: list[tuple[int, int]] = []
        self._largest = -1
        index = segment.time_index
        if odd := segment.open_files.files.size(index.path) % index.entry.size:
            self._problem = f"{odd} bytes behind its last whole entry"
            return
        self._entries = [(entry.timestamp, entry.offset) for entry in index.entries()]
        for before, after in pairwise(self._entries):
            if after[0] <= before[0] or after[1] < before[1]:
                self._problem = (
                    f"the entry for time {after[0]}, offset {after[1]} follows that for {before[0]}, {before[1]}"
                )
                return

    def on_batch(self, header: BatchHeader) -> None:
        # A batch that compaction emptied has a time, but none that a look-up may find.
        if header.record_count and header.max_timestamp > self._largest:
            self._largest = header.max_timestamp
        while not self._problem and self._number < len(self._entries):
            timestamp, offset = self._entries[self._number]
            if offset > header.last_offset:
                return
            if timestamp != header.max_timestamp:
                self._problem = f"it has {timestamp} for offset {offset}, the batch {header.max_timestamp}"
            elif timestamp < self._largest:
                self._problem = f"it has {timestamp} for offset {offset}, a batch before it {self._largest}"
            self._number += 1

    def finish(self) -> str:
        if self._problem:
            return self._problem
        if self._number < len(self._entries):
            return f"it names offset {self._entries[self._number][1]}, which no batch has"
        last = self._entries[-1][0] if self._entries else -1
        if self._largest > last:
            return f"it ends with {last}, and a batch has {self._largest}"
        return ""


class TransactionIndexCheck:
    """Every abort marker of the segment has its entry, and every entry its marker.

    Attributes:
        entries: after `finish`: what the index should say.
    """

    def __init__(self, segment: Segment) -> None:
        self.entries: list[AbortedTransaction] = []
        self._problem = ""
        self._markers: list[tuple[int, int, AbortedTransaction | None, int, bool]] = []
        self._named: list[AbortedTransaction] = []
        try:
            self._named = list(segment.transaction_index.entries())
        except ValueError as error:
            self._problem = str(error).partition(": ")[2] or str(error)

    def on_abort(self, header: BatchHeader, expected: AbortedTransaction | None, *, after: int, is_exact: bool) -> None:
        """Take an abort marker.

        Args:
            header: of the marker's batch.
            expected: the entry for it, None if no batch of its transaction was seen.
            after: where the producer's last marker before this one is, -1 if there is none: the transaction began later.
            is_exact: whether all batches before it were seen: nothing was damaged, compacted or deleted.
        """
        self._markers.append((header.base_offset, header.producer_id, expected, after, is_exact))

    def named_in(self, first_offset: int, next_offset: int) -> list[AbortedTransaction]:
        """Return the entries whose markers lie in a range of offsets, in order."""
        found = [entry for entry in self._named if first_offset <= entry.last_offset < next_offset]
        return sorted(found, key=lambda entry: entry.last_offset)

    def finish(self) -> str:
        """Return what is wrong."""
        named = {entry.last_offset: entry for entry in self._named}
        if any(after.last_offset <= before.last_offset for before, after in pairwise(self._named)):
            self._note("its entries are not in the order of their markers")
        for offset, producer_id, expected, after, is_exact in self._markers:
            entry = named.pop(offset, None)
            if entry is not None and entry.producer_id == producer_id and after < entry.first_offset <= offset:
                if is_exact and expected is not None and entry != expected:
                    self._note(
                        f"it says of producer {producer_id} offsets {entry.first_offset} to {offset}, last stable "
                        f"{entry.last_stable_offset}; the batches {expected.first_offset} to {offset}, "
                        f"{expected.last_stable_offset}"
                    )
                    self.entries.append(expected)
                elif not 0 <= entry.last_stable_offset <= offset + 1:
                    self._note(f"it has a last stable offset of {entry.last_stable_offset} for offset {offset}")
                    # A smaller one is harmless: look-ups only go on further.
                    self.entries.append(expected or entry._replace(last_stable_offset=entry.first_offset))
                else:
                    self.entries.append(entry)
            elif expected is not None:
                self._note(
                    f"it lacks the aborted transaction of producer {producer_id}, offsets {expected.first_offset} to "
                    f"{offset}"
                )
                self.entries.append(expected)
            elif entry is not None:
                self._note(
                    f"it says of the abort marker at offset {offset}, of producer {producer_id}: producer "
                    f"{entry.producer_id}, from offset {entry.first_offset} on"
                )
        for entry in named.values():
            self._note(
                f"it names offset {entry.last_offset} as an abort of producer {entry.producer_id}, which it is not"
            )
        return self._problem

    def _note(self, problem: str) -> None:
        self._problem = self._problem or problem
