"""The column kernels in plain Python: records of batches into columns, and rows out of them.

The same functions as `_columns_cy`, which is 50 times as fast when it was compiled; tests hold both to the same
answers. What a record looks like is written in `_records_plain`.

`buffers` are ten, all writable, numbers in the machine's order, for `n` rows:

    0 offsets int64[n] · 1 timestamps int64[n] · 2 key_ends int64[n + 1] · 3 key_bits, a bit a row, 0 for null
    4 keys, bytes · 5 value_ends int64[n + 1] · 6 value_bits · 7 values · 8 header_ends int64[n + 1] · 9 headers

Keys, values and headers of a row lie between two ends; the headers are as a record has them (count first), and nothing at
all where a record has none. `used` is (rows, bytes of keys, of values, of headers) that are in use.
"""

from __future__ import annotations

from collections.abc import Callable

from ottla.protocol.records._records_plain import Buffer, Headers, RecordTuple, _int64, _skip_headers, _varint, _varlong

SOURCE_HASH = ""
COMPILED = False

Buffers = tuple[bytearray, ...]
Used = tuple[int, int, int, int]

#: What ended `append_records`: nothing is left; no row, or no room for keys, values or headers; the end offset.
DONE, ROWS_FULL, KEYS_FULL, VALUES_FULL, HEADERS_FULL, AT_END = range(6)


def append_records(
    buffers: Buffers,
    used: Used,
    body: Buffer,
    position: int,
    left: int,
    base_offset: int,
    base_timestamp: int,
    append_time: int | None,
    first_offset: int,
    end_offset: int,
    rows_max: int,
) -> tuple[int, int, int, Used]:
    """Add records of a batch to the columns, until something ends it; return (what, position, left, used).

    Args:
        body: the batch's records, uncompressed, of which `left` lie from `position` on.
        append_time: replaces every timestamp when it is not None.
        first_offset, end_offset: records before the one are passed over; the other and later ones end it.
        rows_max: rows that there may be in all.

    Raises:
        ValueError: a record is malformed, or bytes follow the last one. The columns are as `used` says.
    """
    if left < 0 or left > len(body) - position:
        raise ValueError(f"{left} records cannot lie in {len(body) - position} bytes")
    limit = len(body)
    rows, keys, values, headers = used
    rows_max = min(rows_max, len(buffers[0]) // 8)
    offsets, timestamps = memoryview(buffers[0]).cast("q"), memoryview(buffers[1]).cast("q")
    key_ends, value_ends, header_ends = (memoryview(buffers[number]).cast("q") for number in (2, 5, 8))
    key_ends[0] = value_ends[0] = header_ends[0] = 0
    while left:
        start = position
        try:
            length, position = _varint(body, position, limit)
            end = position + length
            if length < 6 or end > limit:
                raise ValueError
            delta, position = _varlong(body, position + 1, end)
            offset_delta, position = _varint(body, position, end)
            key_size, key_at = _varint(body, position, end)
            value_size, value_at = _varint(body, key_at + max(key_size, 0), end)
            headers_at = value_at + max(value_size, 0)
            count, position = _varint(body, headers_at, end)
            if _skip_headers(body, position, end, count, 0) != end:
                raise ValueError
        except ValueError:
            raise ValueError(f"the record at byte {start} is malformed") from None
        offset = _int64(base_offset + offset_delta)
        if offset >= first_offset:
            header_size = end - headers_at if count else 0
            if offset >= end_offset:
                return AT_END, start, left, (rows, keys, values, headers)
            if rows >= rows_max:
                return ROWS_FULL, start, left, (rows, keys, values, headers)
            if key_size > len(buffers[4]) - keys:
                return KEYS_FULL, start, left, (rows, keys, values, headers)
            if value_size > len(buffers[7]) - values:
                return VALUES_FULL, start, left, (rows, keys, values, headers)
            if header_size > len(buffers[9]) - headers:
                return HEADERS_FULL, start, left, (rows, keys, values, headers)
            offsets[rows] = offset
            timestamps[rows] = _int64(base_timestamp + delta) if append_time is None else append_time
            if key_size > 0:
                buffers[4][keys : keys + key_size] = body[key_at : key_at + key_size]
                keys += key_size
            if value_size > 0:
                buffers[7][values : values + value_size] = body[value_at : value_at + value_size]
                values += value_size
            buffers[9][headers : headers + header_size] = body[headers_at : headers_at + header_size]
            headers += header_size
            _set_bit(buffers[3], rows, key_size >= 0)
            _set_bit(buffers[6], rows, value_size >= 0)
            rows += 1
            key_ends[rows], value_ends[rows], header_ends[rows] = keys, values, headers
        position = end
        left -= 1
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    return DONE, position, left, (rows, keys, values, headers)


def append_batches(
    buffers: Buffers,
    used: Used,
    run: Buffer,
    position: int,
    leader_epoch: int,
    transactional: bool,
    first_offset: int,
    end_offset: int,
    rows_max: int,
    crc32c: Callable[[Buffer], int],
) -> tuple[int, int, Used]:
    """Add whole batches of a run to the columns for as long as they need no thought; return (position, the offset behind
    them or `first_offset`, used).

    One needs thought that is compressed, of an old format, of another leader epoch, of a control record, damaged, behind
    an end, or does not fit; or transactional, unless `transactional`. How to deal with it is written in
    `client/reading.py`, which can deal with all: so that this one may stop at the first, and does.
    """
    return position, first_offset, used


def make_rows(buffers: Buffers, used: Used, start: int, stop: int) -> list[RecordTuple]:
    """Return rows of the columns as (offset, timestamp, key, value, headers), all bytes copied."""
    if start < 0 or stop > used[0]:
        raise IndexError("no such row")
    offsets, timestamps = memoryview(buffers[0]).cast("q"), memoryview(buffers[1]).cast("q")
    key_ends, value_ends, header_ends = (memoryview(buffers[number]).cast("q") for number in (2, 5, 8))
    rows: list[RecordTuple] = []
    for row in range(start, stop):
        key = value = None
        headers: Headers = ()
        if buffers[3][row >> 3] >> (row & 7) & 1:
            key = bytes(buffers[4][key_ends[row] : key_ends[row + 1]])
        if buffers[6][row >> 3] >> (row & 7) & 1:
            value = bytes(buffers[7][value_ends[row] : value_ends[row + 1]])
        if header_ends[row + 1] != header_ends[row]:
            headers = read_headers(buffers[9], header_ends[row], header_ends[row + 1])
        rows.append((offsets[row], timestamps[row], key, value, headers))
    return rows


def read_headers(data: Buffer, position: int, end: int) -> Headers:
    """Return headers that `append_records` has kept."""
    found: list[tuple[str, bytes | None]] = []
    count, position = _varint(data, position, end)
    for _ in range(count):
        length, position = _varint(data, position, end)
        name = bytes(data[position : position + length]).decode(errors="replace")
        length, position = _varint(data, position + length, end)
        if length < 0:
            found.append((name, None))
        else:
            found.append((name, bytes(data[position : position + length])))
            position += length
    return tuple(found)


def _set_bit(bits: bytearray, row: int, valid: bool) -> None:
    if valid:
        bits[row >> 3] |= 1 << (row & 7)
    else:
        bits[row >> 3] &= 0xFF ^ (1 << (row & 7))
