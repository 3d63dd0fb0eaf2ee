# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""The column kernels for the compiler: `_columns_plain`'s functions in Cython's pure Python mode.

Only ever run compiled; see `_records_cy`. Semantics, arguments and errors are those of `_columns_plain`; the tests hold
both to the same answers.
"""

import cython
from cython.cimports._varints import add_wrapping, big_endian, skip_headers, varint, varlong
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.cpython.unicode import PyUnicode_DecodeUTF8
from cython.cimports.libc.string import memcpy

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True

#: Buffers of columns; see `_columns_plain`.
_BUFFERS = cython.declare(cython.int, 10)
#: Less than so many bytes are decoded with the GIL kept: that takes microseconds. Given away, it comes back when the thread
#: that took it waits, or after 5 ms.
_SMALL = cython.declare(cython.Py_ssize_t, 16384)

Sink = cython.struct(
    offsets=cython.p_longlong,
    timestamps=cython.p_longlong,
    key_ends=cython.p_longlong,
    key_bits=cython.p_uchar,
    keys=cython.p_uchar,
    value_ends=cython.p_longlong,
    value_bits=cython.p_uchar,
    values=cython.p_uchar,
    header_ends=cython.p_longlong,
    headers=cython.p_uchar,
    rows_max=cython.Py_ssize_t,
    keys_max=cython.Py_ssize_t,
    values_max=cython.Py_ssize_t,
    headers_max=cython.Py_ssize_t,
    rows=cython.Py_ssize_t,
    keys_used=cython.Py_ssize_t,
    values_used=cython.Py_ssize_t,
    headers_used=cython.Py_ssize_t,
)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _set_bit(bits: cython.p_uchar, row: cython.Py_ssize_t, valid: cython.bint) -> cython.void:
    mask: cython.uchar = cython.cast(cython.uchar, 1 << (row & 7))
    if valid:
        bits[row >> 3] |= mask
    else:
        bits[row >> 3] &= cython.cast(cython.uchar, ~mask)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _append(
    data: cython.p_uchar,
    position: cython.Py_ssize_t,
    limit: cython.Py_ssize_t,
    left: cython.Py_ssize_t,
    base_offset: cython.longlong,
    base_timestamp: cython.longlong,
    stamped: cython.bint,
    append_time: cython.longlong,
    first_offset: cython.longlong,
    end_offset: cython.longlong,
    sink: cython.pointer(Sink),
) -> tuple[cython.int, cython.Py_ssize_t, cython.Py_ssize_t]:
    """(what ended it as in `_columns_plain`, or -1 malformed; position; left)."""
    start: cython.Py_ssize_t
    end: cython.Py_ssize_t
    row: cython.Py_ssize_t
    length: cython.longlong
    delta: cython.longlong
    offset: cython.longlong
    key_size: cython.longlong
    value_size: cython.longlong
    headers: cython.longlong
    key_at: cython.Py_ssize_t
    value_at: cython.Py_ssize_t
    headers_at: cython.Py_ssize_t
    while left > 0:
        start = position
        length, position = varint(data, position, limit)
        if position < 0 or length < 6 or length > limit - position:
            return -1, start, left
        end = position + length
        delta, position = varlong(data, position + 1, end)
        if position < 0:
            return -1, start, left
        offset, position = varint(data, position, end)
        if position < 0:
            return -1, start, left
        offset = add_wrapping(base_offset, offset)
        key_size, key_at = varint(data, position, end)
        if key_at < 0 or key_size > end - key_at:
            return -1, start, left
        value_size, value_at = varint(data, key_at + (key_size if key_size > 0 else 0), end)
        if value_at < 0 or value_size > end - value_at:
            return -1, start, left
        headers_at = value_at + (value_size if value_size > 0 else 0)
        headers, position = varint(data, headers_at, end)
        if position >= 0 and headers != 0:
            position = skip_headers(data, position, end, headers)
        if position != end:
            return -1, start, left
        if offset >= first_offset:
            if offset >= end_offset:
                return 5, start, left
            row = sink.rows
            if row >= sink.rows_max:
                return 1, start, left
            if key_size > sink.keys_max - sink.keys_used:
                return 2, start, left
            if value_size > sink.values_max - sink.values_used:
                return 3, start, left
            if headers != 0:
                if end - headers_at > sink.headers_max - sink.headers_used:
                    return 4, start, left
                memcpy(sink.headers + sink.headers_used, data + headers_at, end - headers_at)
                sink.headers_used += end - headers_at
            sink.offsets[row] = offset
            sink.timestamps[row] = append_time if stamped else add_wrapping(base_timestamp, delta)
            if key_size > 0:
                memcpy(sink.keys + sink.keys_used, data + key_at, key_size)
                sink.keys_used += key_size
            if value_size > 0:
                memcpy(sink.values + sink.values_used, data + value_at, value_size)
                sink.values_used += value_size
            _set_bit(sink.key_bits, row, key_size >= 0)
            _set_bit(sink.value_bits, row, value_size >= 0)
            sink.key_ends[row + 1] = sink.keys_used
            sink.value_ends[row + 1] = sink.values_used
            sink.header_ends[row + 1] = sink.headers_used
            sink.rows = row + 1
        left -= 1
    return 0, position, left


@cython.cfunc
def _open(buffers: tuple, used: tuple, rows_max: cython.Py_ssize_t, views: cython.pointer(Py_buffer)) -> Sink:
    """Take hold of the buffers; the caller releases them."""
    sink: Sink
    at: cython.int
    sizes: cython.Py_ssize_t[10]
    for at in range(_BUFFERS):
        try:
            PyObject_GetBuffer(buffers[at], views + at, PyBUF_WRITABLE)
        except BaseException:
            _close(views, at)
            raise
        sizes[at] = views[at].len
    sink.offsets = cython.cast(cython.p_longlong, views[0].buf)
    sink.timestamps = cython.cast(cython.p_longlong, views[1].buf)
    sink.key_ends = cython.cast(cython.p_longlong, views[2].buf)
    sink.key_bits = cython.cast(cython.p_uchar, views[3].buf)
    sink.keys = cython.cast(cython.p_uchar, views[4].buf)
    sink.value_ends = cython.cast(cython.p_longlong, views[5].buf)
    sink.value_bits = cython.cast(cython.p_uchar, views[6].buf)
    sink.values = cython.cast(cython.p_uchar, views[7].buf)
    sink.header_ends = cython.cast(cython.p_longlong, views[8].buf)
    sink.headers = cython.cast(cython.p_uchar, views[9].buf)
    sink.rows_max = min(rows_max, sizes[0] // 8, sizes[1] // 8, sizes[3] * 8, sizes[6] * 8)
    sink.rows_max = min(sink.rows_max, sizes[2] // 8 - 1, sizes[5] // 8 - 1, sizes[8] // 8 - 1)
    sink.keys_max = sizes[4]
    sink.values_max = sizes[7]
    sink.headers_max = sizes[9]
    sink.rows, sink.keys_used, sink.values_used, sink.headers_used = used
    sink.key_ends[0] = sink.value_ends[0] = sink.header_ends[0] = 0
    return sink


@cython.cfunc
def _close(views: cython.pointer(Py_buffer), count: cython.int) -> cython.void:
    at: cython.int
    for at in range(count):
        PyBuffer_Release(views + at)


def append_records(
    buffers: tuple,
    used: tuple,
    body: object,
    position: cython.Py_ssize_t,
    left: cython.Py_ssize_t,
    base_offset: cython.longlong,
    base_timestamp: cython.longlong,
    append_time: object,
    first_offset: cython.longlong,
    end_offset: cython.longlong,
    rows_max: cython.Py_ssize_t,
) -> tuple:
    """See `_columns_plain.append_records`. Runs without the GIL where that takes longer than to get it back."""
    views: Py_buffer[10]
    view: Py_buffer
    status: cython.int = 0
    stamped: cython.bint = append_time is not None
    stamp: cython.longlong = append_time if stamped else 0
    sink: Sink
    size: cython.Py_ssize_t
    PyObject_GetBuffer(body, cython.address(view), PyBUF_SIMPLE)
    try:
        size = view.len
        if left < 0 or left > size - position:
            raise ValueError(f"{left} records cannot lie in {size - position} bytes")
        sink = _open(buffers, used, rows_max, views)
        if size - position < _SMALL:
            status, position, left = _append(
                cython.cast(cython.p_uchar, view.buf),
                position,
                size,
                left,
                base_offset,
                base_timestamp,
                stamped,
                stamp,
                first_offset,
                end_offset,
                cython.address(sink),
            )
        else:
            with cython.nogil:
                status, position, left = _append(
                    cython.cast(cython.p_uchar, view.buf),
                    position,
                    size,
                    left,
                    base_offset,
                    base_timestamp,
                    stamped,
                    stamp,
                    first_offset,
                    end_offset,
                    cython.address(sink),
                )
        _close(views, _BUFFERS)
    finally:
        PyBuffer_Release(cython.address(view))
    if status < 0:
        raise ValueError(f"the record at byte {position} is malformed")
    if status == 0 and position != size:
        raise ValueError(f"{size - position} bytes after the last record")
    return status, position, left, (sink.rows, sink.keys_used, sink.values_used, sink.headers_used)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _ordinary(
    data: cython.p_uchar,
    left: cython.Py_ssize_t,
    leader_epoch: cython.longlong,
    transactional: cython.bint,
    first_offset: cython.longlong,
    end_offset: cython.longlong,
) -> cython.Py_ssize_t:
    """The size of the batch at `data` if it is one that needs no thought, else 0."""
    size: cython.longlong
    attributes: cython.longlong
    last: cython.longlong
    if left <= 61 or data[16] != 2:
        return 0
    size = big_endian(data + 8, 4) + 12
    if size <= 61 or size > left or big_endian(data + 12, 4) != leader_epoch:
        return 0
    attributes = big_endian(data + 21, 2)
    if attributes & ~cython.cast(cython.longlong, 0x18) or (attributes & 0x10 and not transactional):
        return 0
    last = big_endian(data + 23, 4)
    if last < 0 or big_endian(data + 57, 4) <= 0:
        return 0
    last = add_wrapping(big_endian(data, 8), last)
    if last < first_offset or last >= end_offset:
        return 0
    return size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _append_run(
    data: cython.p_uchar,
    position: cython.Py_ssize_t,
    end: cython.Py_ssize_t,
    first_offset: cython.longlong,
    end_offset: cython.longlong,
    sink: cython.pointer(Sink),
) -> tuple[cython.Py_ssize_t, cython.longlong]:
    """Add batches that need no thought, up to one that turns out to be something else: (position, the offset behind)."""
    before: Sink
    size: cython.Py_ssize_t
    status: cython.int
    place: cython.Py_ssize_t
    left: cython.Py_ssize_t
    attributes: cython.longlong
    following: cython.longlong = first_offset
    while position < end:
        before = sink[0]
        size = big_endian(data + position + 8, 4) + 12
        attributes = big_endian(data + position + 21, 2)
        left = big_endian(data + position + 57, 4)
        status = -1
        if left <= size:
            status, place, left = _append(
                data,
                position + 61,
                position + size,
                left,
                big_endian(data + position, 8),
                big_endian(data + position + 27, 8),
                attributes & 0x08 != 0,
                big_endian(data + position + 35, 8),
                first_offset,
                end_offset,
                sink,
            )
        if status != 0 or place != position + size:
            sink[0] = before
            break
        following = add_wrapping(big_endian(data + position, 8), big_endian(data + position + 23, 4)) + 1
        position += size
    return position, following


def append_batches(
    buffers: tuple,
    used: tuple,
    run: object,
    position: cython.Py_ssize_t,
    leader_epoch: cython.longlong,
    transactional: cython.bint,
    first_offset: cython.longlong,
    end_offset: cython.longlong,
    rows_max: cython.Py_ssize_t,
    crc32c: object,
) -> tuple:
    """See `_columns_plain.append_batches`. Decodes without the GIL where that takes longer than to get it back."""
    views: Py_buffer[10]
    view: Py_buffer
    data: cython.p_uchar
    sink: Sink
    size: cython.Py_ssize_t
    start: cython.Py_ssize_t = position
    checked: cython.Py_ssize_t = position
    count: cython.Py_ssize_t = 0
    following: cython.longlong = first_offset
    PyObject_GetBuffer(run, cython.address(view), PyBUF_SIMPLE)
    try:
        data = cython.cast(cython.p_uchar, view.buf)
        sink = _open(buffers, used, rows_max, views)
        try:
            # The checksums first, which are a call each, then all records in one go without the GIL.
            memory = memoryview(run)
            while count < sink.rows_max - sink.rows:
                size = _ordinary(
                    data + checked, view.len - checked, leader_epoch, transactional, first_offset, end_offset
                )
                if size == 0:
                    break
                count += big_endian(data + checked + 57, 4)
                if cython.cast(cython.uint, crc32c(memory[checked + 21 : checked + size])) != cython.cast(
                    cython.uint, big_endian(data + checked + 17, 4)
                ):
                    break
                checked += size
            if checked - position < _SMALL:
                position, following = _append_run(
                    data, position, checked, first_offset, end_offset, cython.address(sink)
                )
            else:
                with cython.nogil:
                    position, following = _append_run(
                        data, position, checked, first_offset, end_offset, cython.address(sink)
                    )
        finally:
            _close(views, _BUFFERS)
    finally:
        PyBuffer_Release(cython.address(view))
    if position == start:
        following = first_offset
    return position, following, (sink.rows, sink.keys_used, sink.values_used, sink.headers_used)


# ------------------------------------------------------------------------------------------------ rows of columns


@cython.cfunc
def _headers(data: cython.p_uchar, position: cython.Py_ssize_t, end: cython.Py_ssize_t) -> tuple:
    """Headers as `append_records` has checked and kept them."""
    count: cython.longlong
    length: cython.longlong
    found: list = []
    count, position = varint(data, position, end)
    while count > 0:
        count -= 1
        length, position = varint(data, position, end)
        name = PyUnicode_DecodeUTF8(cython.cast(cython.p_char, data) + position, length, b"replace")
        length, position = varint(data, position + length, end)
        if length < 0:
            found.append((name, None))
        else:
            found.append((name, PyBytes_FromStringAndSize(cython.cast(cython.p_char, data) + position, length)))
            position += length
    return tuple(found)


def make_rows(buffers: tuple, used: tuple, start: cython.Py_ssize_t, stop: cython.Py_ssize_t) -> list:
    """See `_columns_plain.make_rows`."""
    views: Py_buffer[10]
    sink: Sink
    row: cython.Py_ssize_t
    at: cython.Py_ssize_t
    rows: list = []
    sink = _open(buffers, used, 0, views)
    try:
        if start < 0 or stop > sink.rows:
            raise IndexError("no such row")
        for row in range(start, stop):
            key = value = None
            headers: tuple = ()
            if sink.key_bits[row >> 3] & (1 << (row & 7)):
                at = sink.key_ends[row]
                key = PyBytes_FromStringAndSize(cython.cast(cython.p_char, sink.keys) + at, sink.key_ends[row + 1] - at)
            if sink.value_bits[row >> 3] & (1 << (row & 7)):
                at = sink.value_ends[row]
                value = PyBytes_FromStringAndSize(
                    cython.cast(cython.p_char, sink.values) + at, sink.value_ends[row + 1] - at
                )
            if sink.header_ends[row + 1] != sink.header_ends[row]:
                headers = _headers(sink.headers, sink.header_ends[row], sink.header_ends[row + 1])
            rows.append((sink.offsets[row], sink.timestamps[row], key, value, headers))
    finally:
        _close(views, _BUFFERS)
    return rows
