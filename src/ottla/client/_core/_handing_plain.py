"""What each record of a loop costs a consumer, in plain Python; the same as `_handing_cy`, which compiles to it.

  * `Position`, `Handed`, `Reading` and `Common`: what has to be known of a partition, of what was handed out, of a chunk,
    and of what the records of a batch have in common. The client's own classes are made of them.
  * `Front`: hands out the next record where that needs no thought.

Records themselves are `consumed.Record`; compiled ones stand for it, and are made in runs.
"""

from __future__ import annotations

from collections import deque
from typing import Any

SOURCE_HASH = ""
COMPILED = False


class Position:
    """Where a consumer is in a partition.

    Attributes:
        position: the offset of the next record to hand out; None while it is asked for.
        generation: grows with each seek.
        paused: nothing is handed out.
    """

    __slots__ = ("generation", "paused", "position")

    def __init__(self) -> None:
        self.position: int | None = None
        self.generation: int = 0
        self.paused: bool = False


class Handed:
    """What was handed out.

    Attributes:
        current: the last record of a loop; written without a lock, before its partition's position.
        marks: by partition, where records are marked one by one; None where they are not.
    """

    __slots__ = ("current", "marks")

    def __init__(self) -> None:
        self.current: Any = None
        self.marks: Any = None


class Reading:
    """A chunk that is being handed out.

    Attributes:
        state: its partition.
        generation: that of the partition when the chunk was asked for; another one makes it stale.
        records: those of its present batch that were made.
        index: how many of them were handed out.
    """

    __slots__ = ("generation", "index", "records", "state")

    def __init__(self, state: Any, generation: int) -> None:
        self.state = state
        self.generation = generation
        self.records: list[Any] = []
        self.index = 0


class Common:
    """What the records of one batch have in common; see `consumed.Source`."""

    __slots__ = ("deserialize_key", "deserialize_value", "leader_epoch", "owner", "partition", "topic")


class Front:
    """The next record of a loop.

    Args:
        waiting: the chunks, the one at hand first.

    Attributes:
        attention: there is more to do than to hand out the next record.
        handed: what was handed out.
    """

    __slots__ = ("attention", "handed", "waiting")

    def __init__(self, waiting: deque[Any]) -> None:
        self.waiting = waiting
        self.attention = False
        self.handed: Handed | None = None

    def take(self) -> Any:
        """Hand out the next record if it is at hand and nothing else has to be done; else return None."""
        handed = self.handed
        if self.attention or handed is None or handed.marks is not None or not self.waiting:
            return None
        reading = self.waiting[0]
        state, index = reading.state, reading.index
        if index >= len(reading.records) or reading.generation != state.generation or state.paused:
            return None
        record = reading.records[index]
        handed.current = record
        reading.index = index + 1
        state.position = record.offset + 1
        return record
