"""The table kernels in plain Python: from columns of keys and values to the records of batches.

The same functions as `_tables_cy`, which is 50 times as fast when it was compiled; tests hold both to the same answers.
What a record looks like is written in `_records_plain`.

A column of bytes is a tuple (kind, shift, valid, places, data): the item of row `r` is at `r + shift` of buffers that Arrow
describes (https://arrow.apache.org/docs/format/Columnar.html):

    kind 4 or 8   `places` are ends of so many bytes each, one more than items; `data` is one buffer
    kind 16       `places` are views of 16 bytes; `data` is a tuple of buffers
    kind 0        no column: each row's item is `data` (or null for None)

`valid` has a bit an item, 0 for null, or is None where nothing is null. Numbers are in the machine's order.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from ottla.protocol.records._records_plain import _encode

SOURCE_HASH = ""
COMPILED = False

Column = tuple[int, int, Any, Any, Any]

_ENDS = {4: Struct("=ii"), 8: Struct("=qq")}
_VIEW = Struct("=i4sii")


def item(column: Column, row: int) -> bytes | None:
    """Return the bytes of a row, or None.

    Raises:
        ValueError: they lie outside of the column's buffers.
    """
    kind, shift, valid, places, data = column
    if kind == 0:
        return None if data is None else bytes(data)
    row += shift
    if valid is not None and not valid[row >> 3] >> (row & 7) & 1:
        return None
    if kind == 16:
        length, _, buffer, start = _VIEW.unpack_from(places, 16 * row)
        if length < 0:
            raise ValueError(f"row {row} has {length} bytes")
        if length <= 12:
            return bytes(places[16 * row + 4 : 16 * row + 4 + length])
        if not 0 <= buffer < len(data):
            raise ValueError(f"row {row} lies in buffer {buffer} of {len(data)}")
        data, end = data[buffer], start + length
    else:
        start, end = _ENDS[kind].unpack_from(places, kind * row)
    if not 0 <= start <= end <= len(data):
        raise ValueError(f"row {row} lies at {start} to {end} of {len(data)} bytes")
    return bytes(data[start:end])


def partition_rows(keys: Column, count: int, partitions: int, out: array[int], murmur2: Callable[[bytes], int]) -> None:
    """Write the partition of each of `count` keys into `out` (int32), as the Java client chooses it; -1 for null."""
    for row in range(count):
        key = item(keys, row)
        out[row] = -1 if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions


def order_rows(chosen: array[int], partitions: int) -> tuple[array[int], list[int]]:
    """Return (rows ordered by what was chosen for them, int64, those of one partition in their order; where those of each
    partition begin, and where the last ones end). Rows with -1 come first."""
    groups: list[list[int]] = [[] for _ in range(partitions + 1)]
    for row, partition in enumerate(chosen):
        groups[partition + 1].append(row)
    rows = array("q")
    starts = []
    for group in groups:
        starts.append(len(rows))
        rows.extend(group)
    starts.append(len(rows))
    return rows, starts


def encode_rows(
    keys: Column,
    values: Column,
    headers: Column,
    timestamps: Sequence[int] | None,
    now_ms: int,
    rows: array[int] | None,
    start: int,
    stop: int,
    size_max: int,
) -> tuple[bytearray, int, int, int]:
    """Encode rows from `start` on as the records of one batch; return (records, the row behind them, base timestamp, largest
    timestamp).

    Args:
        headers: as a record has them (count first); null or empty for none.
        timestamps: by row; None, and -1, for `now_ms`.
        rows: which rows there are, in their order; None for all.
        size_max: bytes that the records may take. A first one is taken whatever it takes.

    Raises:
        ValueError: an item lies outside of its buffers.
    """
    out = bytearray()
    place, base, largest = start, -1, -1
    while place < stop:
        row = place if rows is None else rows[place]
        time = now_ms if timestamps is None or timestamps[row] == -1 else timestamps[row]
        if place == start:
            base = time
        key, value = item(keys, row), item(values, row)
        record = b"".join(
            (
                b"\0",
                _encode(time - base),
                _encode(place - start),
                b"\1" if key is None else _encode(len(key)) + key,
                b"\1" if value is None else _encode(len(value)) + value,
                item(headers, row) or b"\0",
            )
        )
        length = _encode(len(record))
        if place > start and len(out) + len(length) + len(record) > size_max:
            break
        out += length
        out += record
        largest = max(largest, time)
        place += 1
    return out, place, base, largest
