"""The record kernels in plain Python: one-byte varints inline, slices, joins.

The same functions as `_records_cy`, which is 10 to 30 times as fast when it was compiled; tests hold both to the same
answers. "Plain" is tuned for CPython and does not share code with the compiled one: the Cython file run uncompiled
would be two to five times slower than this, and would need the `cython` package.

Numbers and buffers in and out, none of our classes. A record (magic 2) is: varint length · attributes i8 · varlong
timestamp delta · varint offset delta · varint key length (-1 null) · key · varint value length · value · varint count
of headers · each: varint key length, key, varint value length (-1 null), value. Varints are zig-zag.

ValueError: the bytes are no run of `count` records. Java's int limits hold: lengths, counts and offset deltas must fit
in 32 bits, varlongs in 64.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from struct import Struct

Buffer = bytes | bytearray | memoryview
Headers = tuple[tuple[str, bytes | None], ...]
RecordTuple = tuple[int, int, bytes | None, bytes | None, Headers]

SOURCE_HASH = ""
COMPILED = False

_INT64_MAX = (1 << 63) - 1
_UINT64 = (1 << 64) - 1
_INT64_SIGN = 1 << 63


def _varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return (value, next position) of a 32-bit zig-zag varint of at most five bytes."""
    value = 0
    shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= 0xFFFFFFFF
            return (value >> 1) ^ -(value & 1), position
        shift += 7
        if shift > 28:
            raise ValueError(f"varint longer than 5 bytes at {position}")
    raise ValueError(f"varint runs over the end at {position}")


def _varlong(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return (value, next position) of a 64-bit zig-zag varint of at most ten bytes."""
    value = 0
    shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= _UINT64
            return (value >> 1) ^ -(value & 1), position
        shift += 7
        if shift > 63:
            raise ValueError(f"varlong longer than 10 bytes at {position}")
    raise ValueError(f"varlong runs over the end at {position}")


def _int64(value: int) -> int:
    """Wrap like a Java long."""
    value &= _UINT64
    return value - (1 << 64) if value & _INT64_SIGN else value


def _zigzag(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


#: Encoded varints of -1 ... 4094, which are nearly all that occur.
_SMALL = [_zigzag(value) for value in range(-1, 4095)]


def _encode(value: int) -> bytes:
    return _SMALL[value + 1] if -1 <= value < 4095 else _zigzag(value)


def decode_records(
    body: Buffer, count: int, base_offset: int, base_timestamp: int, append_time: int | None
) -> list[RecordTuple]:
    """Return `count` records as (offset, timestamp, key, value, headers), all bytes copied.

    `append_time` replaces every timestamp when it is not None. Header keys that are no UTF-8 are decoded with
    replacement characters, as Java does.
    """
    data = body if isinstance(body, bytes) else bytes(body)
    limit = len(data)
    if count < 0 or count > limit:
        raise ValueError(f"{count} records cannot lie in {limit} bytes")
    records: list[RecordTuple] = []
    position = 0
    for index in range(count):
        length, position = _varint(data, position, limit)
        end = position + length
        if length < 0 or end > limit:
            raise ValueError(f"record {index}: {length} bytes, {limit - position} left")
        if end - position < 6:
            raise ValueError(f"record {index}: {length} bytes are too few")
        delta, position = _varlong(data, position + 1, end)
        offset_delta, position = _varint(data, position, end)
        length, position = _varint(data, position, end)
        key: bytes | None = None
        if length >= 0:
            if length > end - position:
                raise ValueError(f"record {index}: key of {length} bytes")
            key = data[position : position + length]
            position += length
        length, position = _varint(data, position, end)
        value: bytes | None = None
        if length >= 0:
            if length > end - position:
                raise ValueError(f"record {index}: value of {length} bytes")
            value = data[position : position + length]
            position += length
        header_count, position = _varint(data, position, end)
        headers: Headers = ()
        if header_count:
            headers, position = _headers(data, position, end, header_count, index)
        if position != end:
            raise ValueError(f"record {index}: {end - position} bytes too many")
        timestamp = append_time if append_time is not None else _int64(base_timestamp + delta)
        records.append((_int64(base_offset + offset_delta), timestamp, key, value, headers))
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    return records


def _headers(data: bytes, position: int, end: int, count: int, index: int) -> tuple[Headers, int]:
    if count < 0 or count > end - position:
        raise ValueError(f"record {index}: {count} headers")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        length, position = _varint(data, position, end)
        if length < 0 or length > end - position:
            raise ValueError(f"record {index}: header key of {length} bytes")
        name = data[position : position + length].decode("utf-8", "replace")
        length, position = _varint(data, position + length, end)
        if length < 0:
            headers.append((name, None))
            continue
        if length > end - position:
            raise ValueError(f"record {index}: header value of {length} bytes")
        headers.append((name, data[position : position + length]))
        position += length
    return tuple(headers), position


def encode_records(records: Iterable[RecordTuple], base_offset: int, base_timestamp: int) -> bytearray:
    """Return the records as the body of a batch, deltas against `base_offset` and `base_timestamp`."""
    small = _SMALL
    parts: list[bytes] = []
    for offset, timestamp, key, value, headers in records:
        offset_delta = offset - base_offset
        if not -0x80000000 <= offset_delta <= 0x7FFFFFFF:
            raise ValueError(f"offset delta {offset_delta} does not fit in 32 bits")
        delta = _int64(timestamp - base_timestamp)
        key_length = -1 if key is None else len(key)
        value_length = -1 if value is None else len(value)
        tail = b"\0" if not headers else _encode_headers(headers)
        body = b"\0%b%b%b%b%b%b%b" % (
            small[delta + 1] if -1 <= delta < 4095 else _zigzag(delta),
            small[offset_delta + 1] if -1 <= offset_delta < 4095 else _zigzag(offset_delta),
            small[key_length + 1] if key_length < 4095 else _zigzag(key_length),
            key or b"",
            small[value_length + 1] if value_length < 4095 else _zigzag(value_length),
            value or b"",
            tail,
        )
        length = len(body)
        parts.append(small[length + 1] if length < 4095 else _zigzag(length))
        parts.append(body)
    return bytearray().join(parts)


def _encode_headers(headers: Headers) -> bytes:
    parts = [_encode(len(headers))]
    for name, value in headers:
        key = name.encode()
        parts += (_encode(len(key)), key)
        if value is None:
            parts.append(b"\x01")
        else:
            parts += (_encode(len(value)), value)
    return b"".join(parts)


def _skip_headers(data: Buffer, position: int, end: int, count: int, index: int) -> int:
    if count < 0 or count > end - position:
        raise ValueError(f"record {index}: {count} headers")
    for _ in range(count):
        length, position = _varint(data, position, end)
        if length < 0 or length > end - position:
            raise ValueError(f"record {index}: header key of {length} bytes")
        length, position = _varint(data, position + length, end)
        if length > end - position:
            raise ValueError(f"record {index}: header value of {length} bytes")
        if length > 0:
            position += length
    return position


def check_records(body: Buffer, count: int, base_timestamp: int) -> tuple[int, bool, int, int, int]:
    """Walk the records of an uncompressed body without making objects of them.

    Returns:
        (records with a null key, whether the offset deltas are 0 to count-1, smallest timestamp, largest timestamp,
         bytes
        of the longest record). A timestamp of -1 (none) is left out of the smallest; without any they are 2^63-1 and
        -1.

    Raises:
        OverflowError: a record's length has more than five bytes; Kafka has another answer for that than for the rest.
    """
    data = body
    limit = len(data)
    if count < 0 or count > limit:
        raise ValueError(f"{count} records cannot lie in {limit} bytes")
    null_keys = 0
    contiguous = True
    smallest = _INT64_MAX
    largest = -1
    longest = 0
    position = 0
    for index in range(count):
        start = position
        try:
            length, position = _varint(data, position, limit)
        except ValueError:
            if limit - start >= 5:
                raise OverflowError(f"record {index}: the length is no varint of 32 bits") from None
            raise
        end = position + length
        if length < 6 or end > limit:
            raise ValueError(f"record {index}: {length} bytes, {limit - position} left")
        if length > longest:
            longest = length
        byte = data[position + 1]
        if byte < 0x80:
            delta = (byte >> 1) ^ -(byte & 1)
            position += 2
        else:
            delta, position = _varlong(data, position + 1, end)
        offset_delta, position = _varint(data, position, end)
        length, position = _varint(data, position, end)
        if length < 0:
            null_keys += 1
        else:
            if length > end - position:
                raise ValueError(f"record {index}: key of {length} bytes")
            position += length
        length, position = _varint(data, position, end)
        if length > 0:
            if length > end - position:
                raise ValueError(f"record {index}: value of {length} bytes")
            position += length
        header_count, position = _varint(data, position, end)
        if header_count:
            position = _skip_headers(data, position, end, header_count, index)
        if position != end:
            raise ValueError(f"record {index}: {end - position} bytes too many")
        if offset_delta != index:
            contiguous = False
        timestamp = _int64(base_timestamp + delta)
        if timestamp > largest:
            largest = timestamp
        if timestamp < smallest and timestamp != -1:
            smallest = timestamp
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    return null_keys, contiguous, smallest, largest, longest


#: As `batch.HEADER`: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, base and max timestamp,
#: producer id and epoch, base sequence, count.
_HEADER = Struct(">qiibIhiqqqhii")
_HEADER_SIZE = 61
_TRANSACTIONAL = 0x10


def check_batch(batch: Buffer, crc32c: Callable[[Buffer], int]) -> tuple[tuple[int, ...], int, int] | None:
    """Look at a batch as producers send them and see that nothing about it needs a second look.

    That is: exactly one whole batch of magic 2 with base offset 0, not compressed, of client's time, no control batch; the
    CRC is right; as many records as offsets, whose deltas are 0 to n-1, and the max timestamp is theirs; with a producer
    id there is a sequence. It may belong to a transaction.

    Returns:
        (the 13 fields of the header, records with a null key, smallest timestamp as in `check_records`), or None for any
        other bytes, right or wrong: then somebody has to look at each point.
    """
    size = len(batch)
    if size <= _HEADER_SIZE:
        return None
    fields = _HEADER.unpack_from(batch)
    base_offset, length, _, magic, crc, attributes, last_delta, base_timestamp, max_timestamp, producer_id = fields[:10]
    sequence, count = fields[11:]
    if base_offset or length != size - 12 or magic != 2 or attributes & ~_TRANSACTIONAL:
        return None
    if last_delta < 0 or count != last_delta + 1 or (producer_id > -1 and sequence < 0):
        return None
    view = memoryview(batch)
    if crc32c(view[21:]) != crc:
        return None
    try:
        null_keys, contiguous, smallest, largest, _ = check_records(view[_HEADER_SIZE:], count, base_timestamp)
    except (ValueError, OverflowError):
        return None
    if not contiguous or largest != max_timestamp:
        return None
    return fields, null_keys, smallest


def hash_key(key: bytes) -> tuple[int, int]:
    """Return the two 64-bit hashes under which the offset map files a key.

    SipHash, keyed anew in every process: no client can craft keys that collide, and 128 bits make chance collisions as
    rare as in Kafka's map, which keeps MD5 digests.
    """
    return hash(key), hash(b"\x00" + key)


def walk_records(body: Buffer, count: int) -> Iterator[tuple[int, int, int, int, bytes | None, bool]]:
    """Yield (start, end, timestamp delta, offset delta, key, whether the value is null) of each record."""
    data = body if isinstance(body, bytes) else bytes(body)
    limit = len(data)
    if count < 0 or count > limit:
        raise ValueError(f"{count} records cannot lie in {limit} bytes")
    position = 0
    for index in range(count):
        start = position
        length, position = _varint(data, position, limit)
        end = position + length
        if length < 6 or end > limit:
            raise ValueError(f"record {index}: {length} bytes, {limit - position} left")
        delta, position = _varlong(data, position + 1, end)
        offset_delta, position = _varint(data, position, end)
        length, position = _varint(data, position, end)
        key: bytes | None = None
        if length >= 0:
            if length > end - position:
                raise ValueError(f"record {index}: key of {length} bytes")
            key = data[position : position + length]
            position += length
        length, position = _varint(data, position, end)
        if length > end - position:
            raise ValueError(f"record {index}: value of {length} bytes")
        yield start, end, delta, offset_delta, key, length < 0
        position = end
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")


def index_keys(
    body: Buffer, count: int, base_offset: int, start_offset: int, table: array[int], used: int, limit: int
) -> int:
    """Enter key -> offset of the records from `start_offset` on into an open-addressing table; return the keys in it.

    `table` has three numbers a slot: both hashes and offset + 1 (0: the slot is free), and 2^n slots. Stops when
    another key would exceed `limit` and returns -1 - keys then; what was entered before stays.
    """
    mask = len(table) // 3 - 1
    for _start, _end, _delta, offset_delta, key, _null in walk_records(body, count):
        offset = base_offset + offset_delta
        if key is None or offset < start_offset:
            continue
        first, second = hash(key), hash(b"\x00" + key)
        slot = first & mask
        while True:
            place = 3 * slot
            if not table[place + 2]:
                if used >= limit:
                    return -1 - used
                table[place] = first
                table[place + 1] = second
                table[place + 2] = offset + 1
                used += 1
                break
            if table[place] == first and table[place + 1] == second:
                table[place + 2] = offset + 1
                break
            slot = (slot + 1) & mask
    return used


def rehash(old: array[int], new: array[int]) -> None:
    """Enter all keys of a table into a larger, empty one."""
    mask = len(new) // 3 - 1
    for place in range(0, len(old), 3):
        if old[place + 2]:
            slot = old[place] & mask
            while new[3 * slot + 2]:
                slot = (slot + 1) & mask
            new[3 * slot : 3 * slot + 3] = old[place : place + 3]


def filter_records(
    body: Buffer,
    count: int,
    base_offset: int,
    base_timestamp: int,
    table: array[int],
    latest_offset: int,
    keep_tombstones: bool,
) -> tuple[int, int, int, bytes | None]:
    """Keep what compaction keeps: the last record of each key up to `latest_offset`, and everything after it.

    Returns:
        (records kept, tombstones among them, largest timestamp of those kept or -1, the kept records' bytes as they
        were). The bytes are None if all records are kept.
    """
    mask = len(table) // 3 - 1
    kept: list[tuple[int, int]] = []
    tombstones = 0
    largest = -1
    for start, end, delta, offset_delta, key, null_value in walk_records(body, count):
        offset = base_offset + offset_delta
        if offset <= latest_offset:
            if key is None or (null_value and not keep_tombstones):
                continue
            first, second = hash(key), hash(b"\x00" + key)
            slot = first & mask
            found = 0
            while table[3 * slot + 2]:
                if table[3 * slot] == first and table[3 * slot + 1] == second:
                    found = table[3 * slot + 2]
                    break
                slot = (slot + 1) & mask
            if offset + 1 < found:
                continue
        tombstones += null_value
        timestamp = _int64(base_timestamp + delta)
        if timestamp > largest:
            largest = timestamp
        kept.append((start, end))
    if len(kept) == count:
        return count, tombstones, largest, None
    return len(kept), tombstones, largest, b"".join([body[start:end] for start, end in kept])


def rewrite_records(body: Buffer, count: int, shift: int, renumber: bool) -> bytes:
    """Return the records with `shift` added to each timestamp delta (the base timestamp moved by -shift).

    With `renumber` their offset deltas become 0 to count-1; else they stay.
    """
    data = body if isinstance(body, bytes) else bytes(body)
    parts: list[bytes] = []
    for index, (start, end, delta, offset_delta, _key, _null) in enumerate(walk_records(data, count)):
        _length, position = _varint(data, start, end)
        _delta, rest = _varlong(data, position + 1, end)
        _delta, rest = _varint(data, rest, end)
        new_offset = index if renumber else offset_delta
        record = b"".join(
            (data[position : position + 1], _encode(_int64(delta + shift)), _encode(new_offset), data[rest:end])
        )
        parts += (_encode(len(record)), record)
    return b"".join(parts)
