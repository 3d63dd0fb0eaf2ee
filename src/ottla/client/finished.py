"""Which of the records that were handed out are finished, and so where a group's offsets may go.

  * processed: all but the last record, or the last batch, until the next one is asked for.
  * marked: the longest prefix of each partition in which `mark()` has named every record.
  * manual, transaction: what was handed out, when the caller says so; `rewind` goes back to the last commit.

The loop's thread looks (`offsets`) while the caller's takes records without a lock. So the caller notes what is unfinished
before it moves the position, and `offsets` reads positions first: it may see too little as finished, never too much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ottla.client._core.handing import Handed
from ottla.client._core.partitions import PartitionState
from ottla.client._core.transactions import OffsetAndMetadata
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.client.consumed import Record


class Marks:
    """The records of one partition that were handed out: which of them are marked."""

    __slots__ = ("_marked", "_out")

    def __init__(self) -> None:
        self._out: deque[int] = deque()
        self._marked: set[int] = set()

    def hand_out(self, offset: int) -> None:
        """A record is handed out; in the order of offsets."""
        self._out.append(offset)

    def mark(self, offset: int) -> None:
        """It is finished."""
        if self._out and offset >= self._out[0]:
            self._marked.add(offset)
        while self._out and self._out[0] in self._marked:
            self._marked.discard(self._out.popleft())

    def take_back(self, offset: int) -> None:
        """Records from this offset on were not handed out after all."""
        while self._out and self._out[-1] >= offset:
            self._marked.discard(self._out.pop())

    @property
    def first(self) -> int | None:
        """The first record that is not finished."""
        return self._out[0] if self._out else None


class Finished(Handed):
    """What one consumer has handed out.

    Attributes:
        unfinished: the first offset of the last batch, by partition.
    """

    current: Record[Any, Any] | None
    marks: dict[PartitionState, Marks] | None

    def __init__(self, mode: str | None, *, whole: bool = False) -> None:
        super().__init__()
        self.mode = mode
        #: Whether all since the last commit comes again after `rewind`.
        self.whole: bool = whole or mode in ("manual", "transaction")
        self.unfinished: dict[PartitionState, int] = {}
        self.marks = {} if mode == "marked" else None

    def ask(self) -> None:
        """The caller asks for more: what it had is finished."""
        self.current = None
        if self.unfinished:
            self.unfinished = {}

    def hand_out(self, state: PartitionState, offsets: Iterable[int], first: int) -> None:
        """Records of a partition become part of the batch that is handed out; before the position moves."""
        if self.marks is not None:
            marks = self.marks.setdefault(state, Marks())
            for offset in offsets:
                marks.hand_out(offset)
        else:
            self.unfinished.setdefault(state, first)

    def mark(self, record: Record[Any, Any]) -> bool:
        """Note that a record is finished; return False if its partition was given up or sought since."""
        owner = record._source.owner
        if self.marks is not None:
            marks = self.marks.get(owner) if owner is not None else None
            if marks is None:
                return False
            marks.mark(record.offset)
        elif record is self.current:
            self.current = None
        return True

    def take_back(self, state: PartitionState, offset: int) -> None:
        """Records from this offset on were taken, and not handed out after all."""
        if self.marks is not None:
            if (marks := self.marks.get(state)) is not None:
                marks.take_back(offset)
        else:
            self.forget(state)

    def forget(self, state: PartitionState) -> None:
        """The partition was given up, or sought."""
        self.unfinished.pop(state, None)
        if self.marks is not None:
            self.marks.pop(state, None)
        current = self.current
        if current is not None and current._source.owner is state:
            self.current = None

    def first_unfinished(self, partitions: Iterable[PartitionState]) -> dict[PartitionState, int]:
        """Return where each partition's position has to go back to, so that what is unfinished comes again."""
        found: dict[PartitionState, int] = {}
        for state in partitions:
            if state.position is None:
                continue
            offset = self._finished(state, state.position, self.current, self.unfinished)
            if self.whole:
                offset = min(state.base, state.position)
            if offset < state.position:
                found[state] = offset
        return found

    def offsets(self, partitions: Mapping[TopicPartition, PartitionState]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return how far each partition is finished, where that is news to the group."""
        positions = [
            (where, state, state.position, state.position_epoch)
            for where, state in partitions.items()
            if state.position is not None
        ]
        current, unfinished = self.current, self.unfinished
        found: dict[TopicPartition, OffsetAndMetadata] = {}
        for where, state, position, epoch in positions:
            offset = self._finished(state, position, current, unfinished)
            if offset != state.committed:
                found[where] = OffsetAndMetadata(offset, epoch)
        return found

    def _finished(
        self,
        state: PartitionState,
        position: int,
        current: Record[Any, Any] | None,
        unfinished: Mapping[PartitionState, int],
    ) -> int:
        if self.mode in ("manual", "transaction"):
            return position
        if self.marks is not None:
            marks = self.marks.get(state)
            first = marks.first if marks is not None else None
            return position if first is None else min(first, position)
        offset = min(unfinished.get(state, position), position)
        if current is not None and current._source.owner is state:
            offset = min(offset, current.offset)
        return offset
