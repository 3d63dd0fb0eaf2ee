# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""The table kernels for the compiler: `_tables_plain`'s functions in Cython's pure Python mode.

Only ever run compiled; see `_records_cy`. Semantics, arguments and errors are those of `_tables_plain`; the tests hold
both to the same answers.
"""

from array import array

import cython
from cython.cimports._varints import murmur2_of, varint_size, write_varint
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True

Cells = cython.struct(
    kind=cython.int,
    shift=cython.Py_ssize_t,
    valid=cython.p_uchar,
    places=cython.p_uchar,
    data=cython.p_uchar,
    size=cython.Py_ssize_t,
    parts=cython.pointer(Py_buffer),
    part_count=cython.Py_ssize_t,
    null=cython.bint,
)


@cython.cclass
class _Hold:
    """A column's buffers, held while a kernel runs."""

    cells: Cells
    views: cython.pointer(Py_buffer)
    count: cython.int

    def __cinit__(self, column: tuple, rows: cython.Py_ssize_t):
        kind, shift, valid, places, data = column
        self.count = 0
        parts: tuple = data if isinstance(data, tuple) else (data,)
        self.views = cython.cast(cython.pointer(Py_buffer), calloc(len(parts) + 2, cython.sizeof(Py_buffer)))
        if self.views == cython.NULL:
            raise MemoryError
        cells: cython.pointer(Cells) = cython.address(self.cells)
        cells.kind = kind
        cells.shift = shift
        cells.valid = cells.places = cells.data = cython.NULL
        cells.size = 0
        cells.null = kind == 0 and data is None
        cells.part_count = 0
        if cells.null:
            return
        if valid is not None:
            self._take(valid)
            if self.views[self.count - 1].len * 8 < rows + shift:
                raise ValueError("a column has fewer bits of validity than rows")
            cells.valid = cython.cast(cython.p_uchar, self.views[self.count - 1].buf)
        if kind != 0:
            self._take(places)
            if self.views[self.count - 1].len < kind * (rows + shift + (0 if kind == 16 else 1)):
                raise ValueError("a column is shorter than it says")
            cells.places = cython.cast(cython.p_uchar, self.views[self.count - 1].buf)
        cells.parts = self.views + self.count
        for part in parts:
            self._take(part)
            cells.part_count += 1
        if kind != 16:
            cells.data = cython.cast(cython.p_uchar, cells.parts[0].buf)
            cells.size = cells.parts[0].len

    @cython.cfunc
    def _take(self, buffer: object) -> object:
        PyObject_GetBuffer(buffer, self.views + self.count, PyBUF_SIMPLE)
        self.count += 1
        return None

    def __dealloc__(self):
        at: cython.int
        if self.views != cython.NULL:
            for at in range(self.count):
                PyBuffer_Release(self.views + at)
            free(self.views)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _item(
    cells: cython.pointer(Cells), row: cython.Py_ssize_t, start: cython.pointer(cython.p_uchar)
) -> cython.Py_ssize_t:
    """The size of a row's item, whose first byte `start` is set to; -1 for null, -2 if it lies outside."""
    place: cython.p_uchar
    begin: cython.longlong
    end: cython.longlong
    part: cython.int
    if cells.kind == 0:
        if cells.null:
            return -1
        start[0] = cells.data
        return cells.size
    row += cells.shift
    if cells.valid != cython.NULL and not (cells.valid[row >> 3] >> (row & 7)) & 1:
        return -1
    place = cells.places + cells.kind * row
    if cells.kind == 16:
        end = cython.cast(cython.p_int, place)[0]
        if end < 0:
            return -2
        if end <= 12:
            start[0] = place + 4
            return end
        part = cython.cast(cython.p_int, place)[2]
        begin = cython.cast(cython.p_int, place)[3]
        if part < 0 or part >= cells.part_count or begin < 0 or begin + end > cells.parts[part].len:
            return -2
        start[0] = cython.cast(cython.p_uchar, cells.parts[part].buf) + begin
        return end
    if cells.kind == 4:
        begin = cython.cast(cython.p_int, place)[0]
        end = cython.cast(cython.p_int, place)[1]
    else:
        begin = cython.cast(cython.p_longlong, place)[0]
        end = cython.cast(cython.p_longlong, place)[1]
    if begin < 0 or begin > end or end > cells.size:
        return -2
    start[0] = cells.data + begin
    return end - begin


def partition_rows(
    keys: tuple, count: cython.Py_ssize_t, partitions: cython.uint, out: object, murmur2: object
) -> None:
    """See `_tables_plain.partition_rows`. Runs without the GIL."""
    hold: _Hold = _Hold(keys, count)
    view: Py_buffer
    target: cython.p_int
    row: cython.Py_ssize_t
    size: cython.Py_ssize_t
    data: cython.p_uchar = cython.NULL
    bad: cython.Py_ssize_t = -1
    PyObject_GetBuffer(out, cython.address(view), PyBUF_WRITABLE)
    try:
        if view.len < 4 * count:
            raise ValueError("too short")
        target = cython.cast(cython.p_int, view.buf)
        with cython.nogil:
            for row in range(count):
                size = _item(cython.address(hold.cells), row, cython.address(data))
                if size == -2:
                    bad = row
                    break
                if size < 0:
                    target[row] = -1
                else:
                    target[row] = cython.cast(cython.int, (murmur2_of(data, size) & 0x7FFFFFFF) % partitions)
    finally:
        PyBuffer_Release(cython.address(view))
    if bad >= 0:
        raise ValueError(f"row {bad} lies outside of its column's buffers")


def order_rows(chosen: object, partitions: cython.Py_ssize_t) -> tuple:
    """See `_tables_plain.order_rows`. Runs without the GIL."""
    source: Py_buffer
    target: Py_buffer
    count: cython.Py_ssize_t = len(chosen)
    rows = array("q", bytes(8 * count))
    begins = array("q", bytes(8 * (partitions + 2)))
    places = array("q", bytes(8 * (partitions + 2)))
    first: Py_buffer
    partition: cython.p_int
    place: cython.p_longlong
    out: cython.p_longlong
    row: cython.Py_ssize_t
    number: cython.Py_ssize_t
    PyObject_GetBuffer(chosen, cython.address(source), PyBUF_SIMPLE)
    PyObject_GetBuffer(rows, cython.address(target), PyBUF_WRITABLE)
    PyObject_GetBuffer(places, cython.address(first), PyBUF_WRITABLE)
    partition = cython.cast(cython.p_int, source.buf)
    out = cython.cast(cython.p_longlong, target.buf)
    place = cython.cast(cython.p_longlong, first.buf)
    with cython.nogil:
        for row in range(count):
            if partition[row] < -1 or partition[row] >= partitions:
                count = -1
                break
            place[partition[row] + 2] += 1
        for number in range(1, partitions + 2):
            place[number] += place[number - 1]
    begins = array("q", places)
    if count >= 0:
        with cython.nogil:
            for row in range(count):
                number = partition[row] + 1
                out[place[number]] = row
                place[number] += 1
    PyBuffer_Release(cython.address(first))
    PyBuffer_Release(cython.address(target))
    PyBuffer_Release(cython.address(source))
    if count < 0:
        raise IndexError("no such partition")
    return rows, begins.tolist()


def encode_rows(
    keys: tuple,
    values: tuple,
    headers: tuple,
    timestamps: object,
    now_ms: cython.longlong,
    rows: object,
    start: cython.Py_ssize_t,
    stop: cython.Py_ssize_t,
    size_max: cython.Py_ssize_t,
) -> tuple:
    """See `_tables_plain.encode_rows`. Runs without the GIL."""
    # How many rows a column must have: `rows` are places in all of them.
    count: cython.Py_ssize_t = stop if rows is None else len(rows)
    key_hold: _Hold = _Hold(keys, count)
    value_hold: _Hold = _Hold(values, count)
    header_hold: _Hold = _Hold(headers, count)
    times_view: Py_buffer
    rows_view: Py_buffer
    times: cython.p_longlong = cython.NULL
    which: cython.p_longlong = cython.NULL
    key: cython.p_uchar = cython.NULL
    value: cython.p_uchar = cython.NULL
    header: cython.p_uchar = cython.NULL
    key_size: cython.Py_ssize_t
    value_size: cython.Py_ssize_t
    header_size: cython.Py_ssize_t
    place: cython.Py_ssize_t = start
    row: cython.Py_ssize_t
    bad: cython.Py_ssize_t = -1
    total: cython.Py_ssize_t = 0
    size: cython.Py_ssize_t
    end: cython.Py_ssize_t
    time: cython.longlong
    base: cython.longlong = -1
    largest: cython.longlong = -1
    target: cython.p_uchar
    out: bytearray
    if timestamps is not None:
        PyObject_GetBuffer(timestamps, cython.address(times_view), PyBUF_SIMPLE)
        times = cython.cast(cython.p_longlong, times_view.buf)
        if times_view.len < 8 * count:
            PyBuffer_Release(cython.address(times_view))
            raise ValueError("fewer timestamps than rows")
    if rows is not None:
        PyObject_GetBuffer(rows, cython.address(rows_view), PyBUF_SIMPLE)
        which = cython.cast(cython.p_longlong, rows_view.buf)
    try:
        with cython.nogil:
            while place < stop:
                row = place if which == cython.NULL else which[place]
                time = now_ms if times == cython.NULL or times[row] == -1 else times[row]
                if place == start:
                    base = time
                key_size = _item(cython.address(key_hold.cells), row, cython.address(key))
                value_size = _item(cython.address(value_hold.cells), row, cython.address(value))
                header_size = _item(cython.address(header_hold.cells), row, cython.address(header))
                if key_size == -2 or value_size == -2 or header_size == -2:
                    bad = row
                    break
                size = 1 + varint_size(time - base) + varint_size(place - start)
                size += varint_size(key_size) + (key_size if key_size > 0 else 0)
                size += varint_size(value_size) + (value_size if value_size > 0 else 0)
                size += header_size if header_size > 0 else 1
                size += varint_size(size)
                if place > start and total + size > size_max:
                    break
                total += size
                if time > largest:
                    largest = time
                place += 1
        if bad >= 0:
            raise ValueError(f"row {bad} lies outside of its column's buffers")
        end = place
        out = PyByteArray_FromStringAndSize(cython.NULL, total)
        target = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(out))
        with cython.nogil:
            for place in range(start, end):
                row = place if which == cython.NULL else which[place]
                time = now_ms if times == cython.NULL or times[row] == -1 else times[row]
                key_size = _item(cython.address(key_hold.cells), row, cython.address(key))
                value_size = _item(cython.address(value_hold.cells), row, cython.address(value))
                header_size = _item(cython.address(header_hold.cells), row, cython.address(header))
                size = 1 + varint_size(time - base) + varint_size(place - start)
                size += varint_size(key_size) + (key_size if key_size > 0 else 0)
                size += varint_size(value_size) + (value_size if value_size > 0 else 0)
                size += header_size if header_size > 0 else 1
                target = write_varint(target, size)
                target[0] = 0
                target = write_varint(target + 1, time - base)
                target = write_varint(target, place - start)
                target = write_varint(target, key_size)
                if key_size > 0:
                    memcpy(target, key, key_size)
                    target += key_size
                target = write_varint(target, value_size)
                if value_size > 0:
                    memcpy(target, value, value_size)
                    target += value_size
                if header_size > 0:
                    memcpy(target, header, header_size)
                    target += header_size
                else:
                    target[0] = 0
                    target += 1
    finally:
        if rows is not None:
            PyBuffer_Release(cython.address(rows_view))
        if timestamps is not None:
            PyBuffer_Release(cython.address(times_view))
    return out, end, base, largest
