# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""Produce requests of one batch for the compiler, in Cython's pure Python mode: parsed and answered by position.

Only ever run compiled (`ottla.compiled`). What is ordinary is written in `produce_frames`: `parse_one` gives of a request
what `produce_frames.parse` gives, where that is one batch, and `encode_one` the bytes of `encode_accepted`. The tests hold
both to the same answers.
"""

import cython
from cython.cimports._varints import int16_at, int32_at, put
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cython.cimports.libc.string import memcpy

SOURCE_HASH = "@SOURCE_HASH@"

_BY_ID = cython.declare(cython.int, 13)
_FLEXIBLE_SINCE = cython.declare(cython.int, 9)
_ZSTD_SINCE = cython.declare(cython.int, 7)
_BATCH_MIN = cython.declare(cython.int, 61)
_ATTRIBUTES = cython.declare(cython.int, 21)


def parse_one(frame, version: cython.int):
    """Return (acks, timeout_ms, key, partition, records) of an ordinary request of one batch; None for all others."""
    view: Py_buffer
    found: cython.Py_ssize_t[5]
    is_one: cython.bint
    acks: cython.int
    timeout_ms: cython.int
    index: cython.int
    PyObject_GetBuffer(frame, cython.address(view), PyBUF_SIMPLE)
    data: cython.p_uchar = cython.cast(cython.p_uchar, view.buf)
    key = None
    if version >= _FLEXIBLE_SINCE:
        is_one = _find_flexible(data, view.len, version, found)
    else:
        is_one = _find_old(data, view.len, version, found)
    if is_one:
        acks = int16_at(data + found[0])
        timeout_ms = int32_at(data + found[0] + 2)
        key = PyBytes_FromStringAndSize(cython.cast(cython.p_char, data + found[1]), found[2] - found[1])
        index = int32_at(data + found[2] + (4 if version < _FLEXIBLE_SINCE else 1))
    PyBuffer_Release(cython.address(view))
    if key is None:
        return None
    return acks, timeout_ms, key, index, frame[found[3] : found[4]]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _after_client_id(data: cython.p_uchar, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Return where the client id ends; -1 if it is not in ASCII, or the frame too short."""
    size: cython.int
    at: cython.Py_ssize_t
    if end < 28:
        return -1
    size = int16_at(data + 8)
    if size <= 0:
        return 10
    if size > end - 10:
        return -1
    for at in range(10, 10 + size):
        if data[at] >= 0x80:
            return -1
    return 10 + size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find_old(
    data: cython.p_uchar, end: cython.Py_ssize_t, version: cython.int, found: cython.pointer(cython.Py_ssize_t)
) -> cython.bint:
    """Find (acks, key, end of the key, records, end of the records) before version 9."""
    size: cython.int
    p: cython.Py_ssize_t = _after_client_id(data, end)
    if p < 0 or end - p < 12 + 2 or data[p] != 0xFF or data[p + 1] != 0xFF or int32_at(data + p + 8) != 1:
        return False
    found[0] = p + 2
    p += 12
    size = int16_at(data + p)
    if size < 0 or end - p < 2 + size + 12:
        return False
    found[1] = p
    p += 2 + size
    found[2] = p
    if int32_at(data + p) != 1:
        return False
    size = int32_at(data + p + 8)
    p += 12
    if size < _BATCH_MIN or size > end - p or data[p + _ATTRIBUTES]:
        return False
    found[3] = p
    found[4] = p + size
    return data[p + _ATTRIBUTES + 1] <= (4 if version >= _ZSTD_SINCE else 3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find_flexible(
    data: cython.p_uchar, end: cython.Py_ssize_t, version: cython.int, found: cython.pointer(cython.Py_ssize_t)
) -> cython.bint:
    """Do as `_find_old`, from version 9 on."""
    size: cython.longlong = 0
    shift: cython.int = 0
    p: cython.Py_ssize_t = _after_client_id(data, end)
    if p < 0 or end - p < 10 or data[p] or data[p + 1] or data[p + 8] != 2:
        return False
    found[0] = p + 2
    p += 9
    found[1] = p
    if version >= _BY_ID:
        p += 16
    elif 0 < data[p] < 0x80:
        p += data[p]
    else:
        return False
    found[2] = p
    if end - p < 1 + 4 + 1 or data[p] != 2:
        return False
    p += 5
    while True:
        if p >= end:
            return False
        size |= cython.cast(cython.longlong, data[p] & 0x7F) << shift
        p += 1
        if data[p - 1] < 0x80:
            break
        shift += 7
        if shift > 28:
            return False
    size -= 1
    # Behind the records: tags of partition, topic and request.
    if size < _BATCH_MIN or size > end - p - 3 or data[p + _ATTRIBUTES] or data[p + _ATTRIBUTES + 1] > 4:
        return False
    found[3] = p
    p += size
    found[4] = p
    return not (data[p] or data[p + 1] or data[p + 2])


def encode_one(
    version: cython.int,
    key: bytes,
    index: cython.int,
    base_offset: cython.longlong,
    log_start_offset: cython.longlong,
):
    """Return the body of the answer to a request whose one batch was appended, with the producer's timestamps."""
    key_size: cython.Py_ssize_t = PyBytes_GET_SIZE(key)
    flexible: cython.bint = version >= _FLEXIBLE_SINCE
    # index, error, base offset, log append time, log start offset, record errors, error message, tags
    part_size: cython.Py_ssize_t = 33 if flexible else 36 if version >= 8 else 30 if version >= 5 else 22
    # count of topics, key, count of partitions, part, tags of the topic, throttle time, tags
    body = PyBytes_FromStringAndSize(cython.NULL, key_size + part_size + (8 if flexible else 12))
    out: cython.p_char = PyBytes_AS_STRING(body)
    count_size: cython.int = 1 if flexible else 4
    out = put(out, 2 if flexible else 1, count_size)
    memcpy(out, PyBytes_AS_STRING(key), key_size)
    out = put(out + key_size, 2 if flexible else 1, count_size)
    out = put(out, index, 4)
    out = put(out, 0, 2)
    out = put(out, base_offset, 8)
    out = put(out, -1, 8)
    if version >= 5:
        out = put(out, log_start_offset, 8)
    if flexible:
        out = put(out, 0x010000, 3)
        out = put(out, 0, 1)
    elif version >= 8:
        out = put(out, 0, 4)
        out = put(out, -1, 2)
    put(out, 0, 5 if flexible else 4)
    return body
