"""What `send` does to a batch for each record, in plain Python; the same as `_appending_cy`, which compiles to it.

Four parts, of which the core's own classes are made:

  * `Records`: the content of one batch while it grows, and which of its records have a ticket that is still held.
  * `Ticket`: what leads from a record to its batch; when nothing refers to it any more, the batch knows.
  * `Lane`, `Choice` and `Room`: what has to be known of a topic, of its partitioner, and of the memory.
  * `Sender`: accepts the records that need no thought. Compiled only: here it accepts none, and all of them take the way
    through `Accumulator.append`. Both ways put the same bytes into the same batches; the tests compare them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from struct import Struct
from typing import Any, Final

from ottla.protocol.records import kernels

Headers = tuple[tuple[str, bytes | None], ...]

SOURCE_HASH = ""
COMPILED = False

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_WORDS: Final = [Struct(f"<{count}I").unpack_from for count in range(65)]

#: How a partition follows from a key: by a function that only Python knows, by Kafka's hash, by librdkafka's, not at all.
BY_FUNCTION, BY_MURMUR2, BY_CRC32, NEVER = range(4)


__all__ = ("Choice", "Lane", "Records", "Room", "Sender", "Ticket", "murmur2", "read_timestamps")


class Records:
    """The records of one batch.

    Attributes:
        count: how many there are.
        size: bytes they take at most, as the caller counts them.
        base_timestamp: of the first one; -1 before it.
        max_timestamp: the largest one; -1 before the first.
        closed: nothing is added any more.
    """

    __slots__ = ("_held", "_held_count", "_rows", "base_timestamp", "closed", "count", "max_timestamp", "size")

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, bytes | None, bytes | None, Headers]] = []
        self._held = bytearray()
        self._held_count = 0
        self.count: int = 0
        self.size: int = 0
        self.base_timestamp: int = -1
        self.max_timestamp: int = -1
        self.closed: bool = False

    def add(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers, size: int) -> int:
        """Add a record; return its place."""
        # A KeyboardInterrupt may come after any step: the rows are what counts.
        index = len(self._rows)
        self._rows.append((index, timestamp_ms, key, value, headers))
        if not index:
            self.base_timestamp = timestamp_ms
        self.count = index + 1
        self.size += size
        if timestamp_ms > self.max_timestamp:
            self.max_timestamp = timestamp_ms
        return index

    def close(self) -> None:
        """Add nothing any more."""
        self.closed = True
        if self._rows:
            self.count = len(self._rows)

    def take_body(self) -> bytearray | None:
        """Return the records as they are written, once; None if there are none, or none any more."""
        self.close()
        if not self._rows:
            return None
        rows, self._rows = self._rows, []
        self.base_timestamp = rows[0][1]
        return kernels.encode_records(rows, 0, self.base_timestamp)

    @property
    def any_held(self) -> bool:
        """Whether there is a ticket for one of the records."""
        return self._held_count > 0

    def is_held(self, index: int) -> bool:
        """Return whether there is a ticket for a record."""
        return index < len(self._held) and self._held[index] > 0

    def _hold(self, index: int) -> None:
        if index >= len(self._held):
            self._held += bytes(index + 1 - len(self._held))
        self._held[index] = 1
        self._held_count += 1

    def _let_go(self, index: int) -> None:
        self._held[index] = 0
        self._held_count -= 1


class Ticket:
    """What was given out for one record of a batch: at most one of each."""

    __slots__ = ("_batch", "_index", "_lock")

    def __init__(self, batch: Any, index: int, lock: Any) -> None:
        self._batch = batch
        self._index = index
        self._lock = lock
        batch._hold(index)

    def __del__(self) -> None:
        self._batch._let_go(self._index)


class Choice:
    """What a partitioner remembers.

    Attributes:
        way: how a partition follows from a key, one of the constants above.
        sticky: the partition of records without a key; -1 before the first.
        stuck: how many bytes went there since that was chosen.
    """

    __slots__ = ("sticky", "stuck", "way")

    def __init__(self) -> None:
        self.way = BY_FUNCTION
        self.sticky = -1
        self.stuck = 0


class Lane:
    """What a record has to know of its topic.

    Attributes:
        choice: the topic's partitioner.
        open: by partition, the batch that may take more records, if it is not closed.
        limit: bytes that the records of a batch may have.
    """

    __slots__ = ("choice", "limit", "open")

    def __init__(self, choice: Choice, count: int, limit: int) -> None:
        self.choice = choice
        self.open: list[Records | None] = [None] * count
        self.limit = limit


class Room:
    """Memory.

    Attributes:
        used: bytes of records that are neither acknowledged nor failed.
        memory: how many there may be.
    """

    __slots__ = ("memory", "used")

    def __init__(self, memory: int) -> None:
        self.used = 0
        self.memory = memory


class Sender:
    """Accepts records that need no thought: their batch is open and takes them, and they are bytes or text.

    Args:
        room, lanes: the memory, and the topics by name.
        ticket: the class of tickets, which adds nothing to `Ticket` that has to be made.
        lock: taken for each record, and given to tickets, or None; here of any kind, and compiled only a `make_lock()`.
        size_max: bytes of a record.
        wall_ms: the time; None: the machine's.
        check: called before a record is accepted, unless it is None; raises if none may be.
        direct: whether what is passed to a producer's `send` is what is written: there are no serializers.

    Attributes:
        open: whether any record is accepted; False after the producer was closed.
    """

    __slots__ = ("open",)

    def __init__(
        self,
        room: Room,
        lanes: dict[str, Any],
        ticket: type[Ticket],
        lock: AbstractContextManager[object] | None,
        size_max: int,
        wall_ms: Callable[[], int] | None,
        check: Callable[[], object] | None,
        direct: bool,
    ) -> None:
        self.open = True

    def send(
        self, topic: str, value: object, key: object, headers: object, partition: int | None, timestamp: object
    ) -> Any:
        """Accept a record and return its ticket; or return None, and nothing has happened.

        Neither begins a batch nor fills one up: nobody has to be woken.
        """
        return None

    def accept(
        self, topic: str, value: object, key: object, headers: object, partition: int | None, timestamp: object
    ) -> bool:
        """Do as `send`, without a ticket; return whether the record was accepted."""
        return False

    def forget_last(self) -> None:
        """Hold the last ticket no longer, which is made into the next one if nothing else holds it. With the lock held."""


def read_timestamps(body: bytearray, count: int, base_timestamp: int) -> array[int]:
    """Return the timestamps of the records in a body that `take_body` returned."""
    return array("q", [row[1] for row in kernels.decode_records(body, count, 0, base_timestamp, None)])


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit MurmurHash2 of a key, unsigned (Java's `Utils.murmur2` has the same bits as an int)."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    count = length >> 2
    words = _WORDS[count](data) if count <= 64 else Struct(f"<{count}I").unpack_from(data)
    for k in words:
        k = k * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    rest = length & 3
    if rest:
        tail = length & ~3
        if rest == 3:
            h ^= data[tail + 2] << 16
        if rest >= 2:
            h ^= data[tail + 1] << 8
        h ^= data[tail]
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ h >> 15
