"""From a table to the batches of a producer: which rows go to which partition, and how many make a batch.

Knows no waiting: `batches` yields encoded batches one by one, and whoever takes them has them accepted before the next one is
made. Keys go where the Java client sends them; rows without one go batch by batch where records without one go.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from ottla.client._core.appending import murmur2
from ottla.client.arrow_import import Part, bytes_column, milliseconds, objects, pieces
from ottla.client.errors import SerializationError
from ottla.client.records import HeadersLike, TimestampLike, make_headers, make_timestamp
from ottla.protocol.records import table_kernels
from ottla.protocol.records._records_plain import encode_records
from ottla.protocol.records._tables_plain import Column, item

_NOTHING: Final[Column] = (0, 0, None, None, None)
#: Sticky: `Encoded.partition` of rows that go wherever the producer sends those without a key now.
STICKY: Final = -1

Serialize = Callable[[Any], "bytes | None"]


class Encoded(NamedTuple):
    """Rows of a table as the records of one batch."""

    partition: int
    body: bytearray
    rows: int
    base_timestamp: int
    max_timestamp: int


class TablePlan(NamedTuple):
    """What a caller has said about a table; see `Producer.send_table`.

    Attributes:
        value, key: names of columns; several values need a serializer.
        partition: a number, or the name of a column of them.
        serialize_value, serialize_key: the producer's serializers, or None.
        choose: the producer's partitioner for a key, where it is not Kafka's own; it may answer -1.
    """

    value: str | Sequence[str]
    key: str | None
    headers: str | HeadersLike | None
    timestamp: str | TimestampLike | None
    partition: int | str | None
    serialize_value: Serialize | None
    serialize_key: Serialize | None
    choose: Callable[[bytes | None], int] | None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        named = [self.value] if isinstance(self.value, str) else list(self.value)
        named += [name for name in (self.key, self.headers, self.timestamp, self.partition) if isinstance(name, str)]
        return named


def batches(
    table: Any, plan: TablePlan, partitions: int, now_ms: int, size_max: Callable[[], int]
) -> Generator[Encoded, None, None]:
    """Yield the rows of a table as batches of at most `size_max()` bytes, or of one row.

    Raises:
        TypeError, KeyError: the table is none, or a column is missing or of a type that cannot be sent.
        SerializationError: a serializer failed.
        ValueError: a partition does not exist.
    """
    fixed = _fixed_headers(plan.headers)
    stamp = (
        make_timestamp(plan.timestamp) if plan.timestamp is not None and not isinstance(plan.timestamp, str) else now_ms
    )
    for rows, columns in pieces(table, plan.columns):
        values = _values(plan, columns)
        keys = _NOTHING if plan.key is None else _bytes(columns[plan.key], plan.serialize_key, "key")
        headers = _headers(columns[plan.headers]) if isinstance(plan.headers, str) else fixed
        times = _times(columns[plan.timestamp]) if isinstance(plan.timestamp, str) else None
        order, starts = _order(plan, columns, keys, rows, partitions)
        for partition, (start, stop) in enumerate(pairwise(starts), STICKY):
            while start < stop:
                body, following, base, largest = table_kernels.encode_rows(
                    keys, values, headers, times, stamp, order, start, stop, size_max()
                )
                yield Encoded(partition, body, following - start, base, largest)
                start = following


def _order(
    plan: TablePlan, columns: dict[str, Part], keys: Column, rows: int, partitions: int
) -> tuple[array[int] | None, list[int]]:
    """Return (rows by partition, where those of each begin), those without one first."""
    if isinstance(plan.partition, int):
        _check_partition(plan.partition, partitions)
        return None, [0] * (plan.partition + 2) + [rows] * (partitions - plan.partition)
    chosen = array("i", bytes(4 * rows))
    if isinstance(plan.partition, str):
        for row, partition in enumerate(objects(columns[plan.partition])):
            if partition is None:
                chosen[row] = STICKY
            else:
                _check_partition(partition, partitions)
                chosen[row] = partition
    elif plan.choose is not None:
        for row in range(rows):
            chosen[row] = plan.choose(item(keys, row))
    elif plan.key is None:
        return None, [0, rows]
    else:
        table_kernels.partition_rows(keys, rows, partitions, chosen, murmur2)
    return table_kernels.order_rows(chosen, partitions)


def _check_partition(partition: Any, partitions: int) -> None:
    if not isinstance(partition, int) or not 0 <= partition < partitions:
        raise ValueError(f"there is no partition {partition!r}; the topic has {partitions}")


def _values(plan: TablePlan, columns: dict[str, Part]) -> Column:
    if isinstance(plan.value, str):
        return _bytes(columns[plan.value], plan.serialize_value, "value")
    if plan.serialize_value is None:
        raise TypeError("several columns as one value need a value_serializer, which is given a dict of them")
    names = list(plan.value)
    rows = zip(*(objects(columns[name]) for name in names), strict=True)
    return _made([_serialized(plan.serialize_value, dict(zip(names, row, strict=True)), "value") for row in rows])


def _bytes(part: Part, serialize: Serialize | None, what: str) -> Column:
    if serialize is None:
        column = bytes_column(part)
        if column is not None:
            return column
        if part.format.startswith("w:"):
            return _made(objects(part))
        raise TypeError(
            f"the {what} column is of Arrow's type {part.format!r}: it takes bytes or text, or a {what}_serializer for others"
        )
    return _made([None if one is None else _serialized(serialize, one, what) for one in objects(part)])


def _serialized(serialize: Serialize, item: Any, what: str) -> bytes | None:
    try:
        made = serialize(item)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"The {what} of a row cannot be serialized: {error}") from error
    return made


def _made(items: Sequence[bytes | None]) -> Column:
    """Return a column of these."""
    ends = array("q", [0])
    valid = bytearray(-(-len(items) // 8))
    data = bytearray()
    for row, one in enumerate(items):
        if one is not None:
            data += one
            valid[row >> 3] |= 1 << (row & 7)
        ends.append(len(data))
    return 8, 0, valid, memoryview(ends).cast("B"), data


def _fixed_headers(headers: str | HeadersLike | None) -> Column:
    """Return the headers that every record gets, as a column."""
    if headers is None or isinstance(headers, str):
        return _NOTHING
    return (0, 0, None, None, _encoded_headers(make_headers(headers)))


def _encoded_headers(headers: Any) -> bytes | None:
    """Return headers as a record has them; None for none."""
    if not headers:
        return None
    # The headers are the end of a record, here of one with one byte for each of the other seven fields.
    return bytes(encode_records([(0, 0, None, None, headers)], 0, 0)).split(b"\0\0\0\1\1", 1)[1]


def _headers(part: Part) -> Column:
    """Return a column of lists of (name, value), as a batch of a consumer has it."""
    width = {"+l": 4, "+L": 8}.get(part.format)
    if width is None or not part.children or len(part.children[0].children) != 2:
        raise TypeError("headers are a list of structs of a name and a value, as in the column `headers` of a batch")
    pair = part.children[0]
    names, values = (objects(child._replace(shift=child.shift + pair.shift)) for child in pair.children)
    ends_buffer = part.buffers[1]
    assert ends_buffer is not None
    ends = ends_buffer.cast("i" if width == 4 else "q")
    pairs = list(zip(names, values, strict=True))
    found: list[bytes | None] = []
    for row in range(part.rows):
        at = part.shift + row
        found.append(None if part.is_null(row) else _encoded_headers(make_headers(pairs[ends[at] : ends[at + 1]])))
    return _made(found)


def _times(part: Part) -> array[int]:
    """Return times in milliseconds; -1 where there is none, which is now."""
    found = milliseconds(part)
    for time in found:
        if time is not None and time < 0:
            raise ValueError(f"a timestamp is milliseconds since 1970, not {time}")
    return array("q", [-1 if time is None else time for time in found])
