# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""The record kernels for the compiler: `_records_plain`'s functions in Cython's pure Python mode.

Only ever run compiled: `kernels` loads the extension made of this file, and never this file itself, so the `cython`
package is no run-time dependency. `setup.py` writes the hash of this source into SOURCE_HASH, and `kernels` compares it
at import: after a change here the plain module runs until `make` has built a new extension.

Semantics, arguments and errors are those of `_records_plain`; the tests hold both to the same answers.
"""

import cython
from cython.cimports._varints import (
    add_wrapping,
    big_endian,
    skip_headers,
    varint,
    varint_size,
    varlong,
    write_varint,
)
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cython.cimports.cpython.object import PyObject_Hash
from cython.cimports.cpython.tuple import PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cython.cimports.cpython.unicode import PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from cython.cimports.libc.string import memcpy

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True

# Traps of pure mode: a hex literal above 2^31 becomes a Python object, so masks are casts; and a function without
# exceptval is checked for an error after each call.


@cython.cfunc
@cython.inline
def _bytes(data: cython.p_uchar, position: cython.Py_ssize_t, size: cython.Py_ssize_t) -> bytes:
    return PyBytes_FromStringAndSize(cython.cast(cython.p_char, data) + position, size)


@cython.cfunc
def _malformed(index: cython.Py_ssize_t) -> object:
    return ValueError(f"record {index} is malformed")


@cython.cfunc
def _impossible(count: cython.Py_ssize_t, limit: cython.Py_ssize_t) -> object:
    return ValueError(f"{count} records cannot lie in {limit} bytes")


# ------------------------------------------------------------------------------------------------ decode


@cython.cfunc
def _decode(
    data: cython.p_uchar,
    limit: cython.Py_ssize_t,
    count: cython.Py_ssize_t,
    base_offset: cython.longlong,
    base_timestamp: cython.longlong,
    stamped: cython.bint,
    append_time: cython.longlong,
) -> list:
    records: list = []
    position: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t
    index: cython.Py_ssize_t
    length: cython.longlong
    delta: cython.longlong
    offset_delta: cython.longlong
    header_count: cython.longlong
    headers: object
    if count < 0 or count > limit:
        raise _impossible(count, limit)
    for index in range(count):
        length, position = varint(data, position, limit)
        if position < 0 or length < 6 or length > limit - position:
            raise _malformed(index)
        end = position + length
        delta, position = varlong(data, position + 1, end)
        if position < 0:
            raise _malformed(index)
        offset_delta, position = varint(data, position, end)
        if position < 0:
            raise _malformed(index)
        length, position = varint(data, position, end)
        if position < 0 or length > end - position:
            raise _malformed(index)
        key = None
        if length >= 0:
            key = _bytes(data, position, length)
            position += length
        length, position = varint(data, position, end)
        if position < 0 or length > end - position:
            raise _malformed(index)
        value = None
        if length >= 0:
            value = _bytes(data, position, length)
            position += length
        header_count, position = varint(data, position, end)
        if position < 0 or header_count < 0 or header_count > end - position:
            raise _malformed(index)
        headers = ()
        if header_count:
            found: list = []
            while header_count > 0:
                header_count -= 1
                length, position = varint(data, position, end)
                if position < 0 or length < 0 or length > end - position:
                    raise _malformed(index)
                name = PyUnicode_DecodeUTF8(cython.cast(cython.p_char, data) + position, length, b"replace")
                length, position = varint(data, position + length, end)
                if position < 0 or length > end - position:
                    raise _malformed(index)
                if length < 0:
                    found.append((name, None))
                else:
                    found.append((name, _bytes(data, position, length)))
                    position += length
            headers = tuple(found)
        if position != end:
            raise _malformed(index)
        records.append(
            (
                add_wrapping(base_offset, offset_delta),
                append_time if stamped else add_wrapping(base_timestamp, delta),
                key,
                value,
                headers,
            )
        )
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    return records


def decode_records(
    body: object, count: cython.Py_ssize_t, base_offset: cython.longlong, base_timestamp: cython.longlong, append_time
) -> list:
    """See `_records_plain.decode_records`."""
    view: Py_buffer
    stamped: cython.bint = append_time is not None
    stamp: cython.longlong = append_time if stamped else 0
    PyObject_GetBuffer(body, cython.address(view), PyBUF_SIMPLE)
    try:
        return _decode(
            cython.cast(cython.p_uchar, view.buf), view.len, count, base_offset, base_timestamp, stamped, stamp
        )
    finally:
        PyBuffer_Release(cython.address(view))


# ------------------------------------------------------------------------------------------------ encode


@cython.cfunc
def _headers_size(headers: tuple) -> cython.Py_ssize_t:
    total: cython.Py_ssize_t = varint_size(len(headers))
    size: cython.Py_ssize_t = 0
    for name, value in headers:
        PyUnicode_AsUTF8AndSize(name, cython.address(size))
        total += varint_size(size) + size
        if value is None:
            total += 1
        else:
            total += varint_size(len(value)) + len(value)
    return total


@cython.cfunc
def _write_headers(out: cython.p_uchar, headers: tuple) -> cython.p_uchar:
    size: cython.Py_ssize_t = 0
    out = write_varint(out, len(headers))
    for name, value in headers:
        text = PyUnicode_AsUTF8AndSize(name, cython.address(size))
        out = write_varint(out, size)
        memcpy(out, text, size)
        out += size
        if value is None:
            out = write_varint(out, -1)
        else:
            data: bytes = value
            size = PyBytes_GET_SIZE(data)
            out = write_varint(out, size)
            memcpy(out, PyBytes_AS_STRING(data), size)
            out += size
    return out


@cython.cfunc
@cython.inline
def _row(records: list, index: cython.Py_ssize_t) -> object:
    """A record as a tuple of five. Unpacking would take the slow way for a NamedTuple."""
    row: object = records[index]
    if not isinstance(row, tuple) or PyTuple_GET_SIZE(row) != 5:
        raise ValueError("a record is a tuple of five")
    return row


def encode_records(records: list, base_offset: cython.longlong, base_timestamp: cython.longlong) -> bytearray:
    """See `_records_plain.encode_records`. Keys, values and header values are bytes or None."""
    count: cython.Py_ssize_t = len(records)
    index: cython.Py_ssize_t
    total: cython.Py_ssize_t = 0
    size: cython.Py_ssize_t
    key_size: cython.Py_ssize_t
    value_size: cython.Py_ssize_t
    offset: cython.longlong
    timestamp: cython.longlong
    offset_delta: cython.longlong
    delta: cython.longlong
    key: bytes
    value: bytes
    headers: tuple
    for index in range(count):
        row = _row(records, index)
        offset = cython.cast(object, PyTuple_GET_ITEM(row, 0))
        timestamp = cython.cast(object, PyTuple_GET_ITEM(row, 1))
        key = cython.cast(object, PyTuple_GET_ITEM(row, 2))
        value = cython.cast(object, PyTuple_GET_ITEM(row, 3))
        headers = cython.cast(object, PyTuple_GET_ITEM(row, 4))
        offset_delta = add_wrapping(offset, -base_offset)
        if offset_delta < -2147483648 or offset_delta > 2147483647:
            raise ValueError(f"offset delta {offset_delta} does not fit in 32 bits")
        key_size = -1 if key is None else PyBytes_GET_SIZE(key)
        value_size = -1 if value is None else PyBytes_GET_SIZE(value)
        size = (
            1
            + varint_size(add_wrapping(timestamp, -base_timestamp))
            + varint_size(offset_delta)
            + varint_size(key_size)
            + varint_size(value_size)
        )
        size += (key_size if key_size > 0 else 0) + (value_size if value_size > 0 else 0)
        size += 1 if len(headers) == 0 else _headers_size(headers)
        total += varint_size(size) + size
    out: bytearray = PyByteArray_FromStringAndSize(cython.NULL, total)
    target: cython.p_uchar = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(out))
    for index in range(count):
        row = _row(records, index)
        offset = cython.cast(object, PyTuple_GET_ITEM(row, 0))
        timestamp = cython.cast(object, PyTuple_GET_ITEM(row, 1))
        key = cython.cast(object, PyTuple_GET_ITEM(row, 2))
        value = cython.cast(object, PyTuple_GET_ITEM(row, 3))
        headers = cython.cast(object, PyTuple_GET_ITEM(row, 4))
        offset_delta = add_wrapping(offset, -base_offset)
        delta = add_wrapping(timestamp, -base_timestamp)
        key_size = -1 if key is None else PyBytes_GET_SIZE(key)
        value_size = -1 if value is None else PyBytes_GET_SIZE(value)
        size = 1 + varint_size(delta) + varint_size(offset_delta) + varint_size(key_size) + varint_size(value_size)
        size += (key_size if key_size > 0 else 0) + (value_size if value_size > 0 else 0)
        size += 1 if len(headers) == 0 else _headers_size(headers)
        target = write_varint(target, size)
        target[0] = 0
        target = write_varint(target + 1, delta)
        target = write_varint(target, offset_delta)
        target = write_varint(target, key_size)
        if key_size > 0:
            memcpy(target, PyBytes_AS_STRING(key), key_size)
            target += key_size
        target = write_varint(target, value_size)
        if value_size > 0:
            memcpy(target, PyBytes_AS_STRING(value), value_size)
            target += value_size
        if len(headers) == 0:
            target[0] = 0
            target += 1
        else:
            target = _write_headers(target, headers)
    return out


# ------------------------------------------------------------------------------------------------ check


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check(
    data: cython.p_uchar, limit: cython.Py_ssize_t, count: cython.Py_ssize_t, base_timestamp: cython.longlong
) -> tuple[
    cython.int,
    cython.Py_ssize_t,
    cython.Py_ssize_t,
    cython.Py_ssize_t,
    cython.bint,
    cython.longlong,
    cython.longlong,
    cython.longlong,
]:
    """(0, or 1 malformed, or 2 a length of more than five bytes; index; position; what `check_records` returns)."""
    position: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t
    index: cython.Py_ssize_t = 0
    length: cython.longlong
    delta: cython.longlong
    offset_delta: cython.longlong
    header_count: cython.longlong
    timestamp: cython.longlong
    null_keys: cython.Py_ssize_t = 0
    contiguous: cython.bint = True
    smallest: cython.longlong = 9223372036854775807
    largest: cython.longlong = -1
    longest: cython.longlong = 0
    state: cython.int = 0
    if count < 0 or count > limit:
        return 1, 0, 0, 0, False, 0, 0, 0
    while index < count:
        end = position
        length, position = varint(data, position, limit)
        if position < 0 or length < 6 or length > limit - position:
            state = 2 if position < 0 and limit - end >= 5 else 1
            break
        end = position + length
        if length > longest:
            longest = length
        delta, position = varlong(data, position + 1, end)
        if position < 0:
            state = 1
            break
        offset_delta, position = varint(data, position, end)
        if position < 0:
            state = 1
            break
        length, position = varint(data, position, end)
        if position < 0 or length > end - position:
            state = 1
            break
        if length < 0:
            null_keys += 1
        else:
            position += length
        length, position = varint(data, position, end)
        if position < 0 or length > end - position:
            state = 1
            break
        if length > 0:
            position += length
        header_count, position = varint(data, position, end)
        if position >= 0 and header_count != 0:
            position = skip_headers(data, position, end, header_count)
        if position != end:
            state = 1
            break
        if offset_delta != index:
            contiguous = False
        timestamp = add_wrapping(base_timestamp, delta)
        if timestamp > largest:
            largest = timestamp
        if timestamp < smallest and timestamp != -1:
            smallest = timestamp
        index += 1
    return state, index, position, null_keys, contiguous, smallest, largest, longest


def check_records(body: object, count: cython.Py_ssize_t, base_timestamp: cython.longlong) -> tuple:
    """See `_records_plain.check_records`. Runs without the GIL."""
    view: Py_buffer
    limit: cython.Py_ssize_t
    state: cython.int
    index: cython.Py_ssize_t
    position: cython.Py_ssize_t
    null_keys: cython.Py_ssize_t
    contiguous: cython.bint
    smallest: cython.longlong
    largest: cython.longlong
    longest: cython.longlong
    PyObject_GetBuffer(body, cython.address(view), PyBUF_SIMPLE)
    limit = view.len
    with cython.nogil:
        state, index, position, null_keys, contiguous, smallest, largest, longest = _check(
            cython.cast(cython.p_uchar, view.buf), limit, count, base_timestamp
        )
    PyBuffer_Release(cython.address(view))
    if state == 2:
        raise OverflowError(f"record {index}: the length is no varint of 32 bits")
    if state:
        raise _malformed(index)
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    return null_keys, contiguous, smallest, largest, longest


def check_batch(batch: object, crc32c: object) -> object:
    """See `_records_plain.check_batch`."""
    view: Py_buffer
    data: cython.p_uchar
    size: cython.Py_ssize_t
    attributes: cython.longlong
    last_offset_delta: cython.longlong
    base_timestamp: cython.longlong
    max_timestamp: cython.longlong
    producer_id: cython.longlong
    base_sequence: cython.longlong
    count: cython.longlong
    crc: cython.uint
    state: cython.int
    _index: cython.Py_ssize_t
    position: cython.Py_ssize_t
    null_keys: cython.Py_ssize_t
    contiguous: cython.bint
    smallest: cython.longlong
    largest: cython.longlong
    _longest: cython.longlong
    PyObject_GetBuffer(batch, cython.address(view), PyBUF_SIMPLE)
    try:
        data = cython.cast(cython.p_uchar, view.buf)
        size = view.len
        if size <= 61 or data[16] != 2 or big_endian(data, 8) != 0 or big_endian(data + 8, 4) != size - 12:
            return None
        attributes = big_endian(data + 21, 2)
        last_offset_delta = big_endian(data + 23, 4)
        base_timestamp = big_endian(data + 27, 8)
        max_timestamp = big_endian(data + 35, 8)
        producer_id = big_endian(data + 43, 8)
        base_sequence = big_endian(data + 53, 4)
        count = big_endian(data + 57, 4)
        if attributes != 0 and attributes != 0x10:
            return None
        if last_offset_delta < 0 or count != last_offset_delta + 1 or (producer_id > -1 and base_sequence < 0):
            return None
        crc = cython.cast(cython.uint, big_endian(data + 17, 4))
        if cython.cast(cython.uint, crc32c(memoryview(batch)[21:])) != crc:
            return None
        state, _index, position, null_keys, contiguous, smallest, largest, _longest = _check(
            data + 61, size - 61, count, base_timestamp
        )
        if state or position != size - 61 or not contiguous or largest != max_timestamp:
            return None
        return (
            (
                0,
                size - 12,
                big_endian(data + 12, 4),
                2,
                crc,
                attributes,
                last_offset_delta,
                base_timestamp,
                max_timestamp,
                producer_id,
                big_endian(data + 51, 2),
                base_sequence,
                count,
            ),
            null_keys,
            smallest,
        )
    finally:
        PyBuffer_Release(cython.address(view))


# ------------------------------------------------------------------------------------------------ compaction


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _find(
    table: cython.p_longlong, mask: cython.Py_ssize_t, first: cython.longlong, second: cython.longlong
) -> cython.Py_ssize_t:
    """The place of the key's slot, or of the free one where it belongs."""
    slot: cython.Py_ssize_t = cython.cast(cython.Py_ssize_t, first) & mask
    place: cython.Py_ssize_t
    while True:
        place = 3 * slot
        if table[place + 2] == 0 or (table[place] == first and table[place + 1] == second):
            return place
        slot = (slot + 1) & mask


@cython.cfunc
def _second_hash(data: cython.p_uchar, position: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.longlong:
    """hash(b"\\0" + key), as in `_records_plain.hash_key`."""
    salted: bytes = PyBytes_FromStringAndSize(cython.NULL, size + 1)
    target: cython.p_char = PyBytes_AS_STRING(salted)
    target[0] = 0
    memcpy(target + 1, data + position, size)
    return PyObject_Hash(salted)


@cython.cfunc
def _index(
    data: cython.p_uchar,
    limit: cython.Py_ssize_t,
    count: cython.Py_ssize_t,
    base_offset: cython.longlong,
    start_offset: cython.longlong,
    table: cython.p_longlong,
    mask: cython.Py_ssize_t,
    used: cython.Py_ssize_t,
    most: cython.Py_ssize_t,
) -> object:
    position: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t
    place: cython.Py_ssize_t
    index: cython.Py_ssize_t
    length: cython.longlong
    delta: cython.longlong
    offset: cython.longlong
    first: cython.longlong
    second: cython.longlong
    value_size: cython.longlong
    after: cython.Py_ssize_t
    if count < 0 or count > limit:
        raise _impossible(count, limit)
    for index in range(count):
        length, position = varint(data, position, limit)
        if position < 0 or length < 6 or length > limit - position:
            raise _malformed(index)
        end = position + length
        delta, position = varlong(data, position + 1, end)
        if position < 0:
            raise _malformed(index)
        delta, position = varint(data, position, end)
        if position < 0:
            raise _malformed(index)
        offset = add_wrapping(base_offset, delta)
        length, position = varint(data, position, end)
        if position < 0 or length > end - position:
            raise _malformed(index)
        value_size, after = varint(data, position + (length if length > 0 else 0), end)
        if after < 0 or value_size > end - after:
            raise _malformed(index)
        if length >= 0 and offset >= start_offset:
            first = PyObject_Hash(_bytes(data, position, length))
            second = _second_hash(data, position, length)
            place = _find(table, mask, first, second)
            if table[place + 2] == 0:
                if used >= most:
                    return -1 - used
                table[place] = first
                table[place + 1] = second
                used += 1
            table[place + 2] = offset + 1
        position = end
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    return used


def index_keys(
    body: object,
    count: cython.Py_ssize_t,
    base_offset: cython.longlong,
    start_offset: cython.longlong,
    table: object,
    used: cython.Py_ssize_t,
    limit: cython.Py_ssize_t,
) -> object:
    """See `_records_plain.index_keys`."""
    view: Py_buffer
    slots: Py_buffer
    PyObject_GetBuffer(table, cython.address(slots), PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(body, cython.address(view), PyBUF_SIMPLE)
        try:
            return _index(
                cython.cast(cython.p_uchar, view.buf),
                view.len,
                count,
                base_offset,
                start_offset,
                cython.cast(cython.p_longlong, slots.buf),
                slots.len // 24 - 1,
                used,
                limit,
            )
        finally:
            PyBuffer_Release(cython.address(view))
    finally:
        PyBuffer_Release(cython.address(slots))


def rehash(old: object, new: object) -> None:
    """See `_records_plain.rehash`. Runs without the GIL."""
    source: Py_buffer
    target: Py_buffer
    left: cython.p_longlong
    right: cython.p_longlong
    slot: cython.Py_ssize_t
    slots: cython.Py_ssize_t
    place: cython.Py_ssize_t
    mask: cython.Py_ssize_t
    PyObject_GetBuffer(new, cython.address(target), PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(old, cython.address(source), PyBUF_SIMPLE)
        left = cython.cast(cython.p_longlong, source.buf)
        right = cython.cast(cython.p_longlong, target.buf)
        slots = source.len // 24
        mask = target.len // 24 - 1
        with cython.nogil:
            for slot in range(slots):
                if left[3 * slot + 2] != 0:
                    place = _find(right, mask, left[3 * slot], left[3 * slot + 1])
                    memcpy(right + place, left + 3 * slot, 24)
        PyBuffer_Release(cython.address(source))
    finally:
        PyBuffer_Release(cython.address(target))


@cython.cfunc
def _filter(
    data: cython.p_uchar,
    limit: cython.Py_ssize_t,
    count: cython.Py_ssize_t,
    base_offset: cython.longlong,
    base_timestamp: cython.longlong,
    table: cython.p_longlong,
    mask: cython.Py_ssize_t,
    latest_offset: cython.longlong,
    keep_tombstones: cython.bint,
) -> tuple:
    position: cython.Py_ssize_t = 0
    start: cython.Py_ssize_t
    end: cython.Py_ssize_t
    after: cython.Py_ssize_t
    place: cython.Py_ssize_t
    index: cython.Py_ssize_t
    length: cython.longlong
    value_size: cython.longlong
    delta: cython.longlong
    offset: cython.longlong
    timestamp: cython.longlong
    first: cython.longlong
    second: cython.longlong
    kept: cython.Py_ssize_t = 0
    tombstones: cython.Py_ssize_t = 0
    largest: cython.longlong = -1
    # Kept neighbours are copied together: [run, start) is kept and not yet copied.
    run: cython.Py_ssize_t = 0
    parts: list = []
    if count < 0 or count > limit:
        raise _impossible(count, limit)
    for index in range(count):
        start = position
        length, position = varint(data, position, limit)
        if position < 0 or length < 6 or length > limit - position:
            raise _malformed(index)
        end = position + length
        delta, position = varlong(data, position + 1, end)
        if position < 0:
            raise _malformed(index)
        timestamp = add_wrapping(base_timestamp, delta)
        delta, position = varint(data, position, end)
        if position < 0:
            raise _malformed(index)
        offset = add_wrapping(base_offset, delta)
        length, position = varint(data, position, end)
        if position < 0 or length > end - position:
            raise _malformed(index)
        value_size, after = varint(data, position + (length if length > 0 else 0), end)
        if after < 0 or value_size > end - after:
            raise _malformed(index)
        keep: cython.bint = True
        if offset <= latest_offset:
            if length < 0 or (value_size < 0 and not keep_tombstones):
                keep = False
            else:
                first = PyObject_Hash(_bytes(data, position, length))
                second = _second_hash(data, position, length)
                place = _find(table, mask, first, second)
                keep = offset + 1 >= table[place + 2]
        if keep:
            kept += 1
            if value_size < 0:
                tombstones += 1
            if timestamp > largest:
                largest = timestamp
        else:
            if start > run:
                parts.append(_bytes(data, run, start - run))
            run = end
        position = end
    if position != limit:
        raise ValueError(f"{limit - position} bytes after the last record")
    if kept == count:
        return kept, tombstones, largest, None
    if limit > run:
        parts.append(_bytes(data, run, limit - run))
    return kept, tombstones, largest, b"".join(parts)


def filter_records(
    body: object,
    count: cython.Py_ssize_t,
    base_offset: cython.longlong,
    base_timestamp: cython.longlong,
    table: object,
    latest_offset: cython.longlong,
    keep_tombstones: cython.bint,
) -> tuple:
    """See `_records_plain.filter_records`."""
    view: Py_buffer
    slots: Py_buffer
    PyObject_GetBuffer(table, cython.address(slots), PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(body, cython.address(view), PyBUF_SIMPLE)
        try:
            return _filter(
                cython.cast(cython.p_uchar, view.buf),
                view.len,
                count,
                base_offset,
                base_timestamp,
                cython.cast(cython.p_longlong, slots.buf),
                slots.len // 24 - 1,
                latest_offset,
                keep_tombstones,
            )
        finally:
            PyBuffer_Release(cython.address(view))
    finally:
        PyBuffer_Release(cython.address(slots))
