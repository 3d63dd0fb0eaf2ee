# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821, SIM110
"""Fetches of consumers about at most one partition for the compiler, in Cython's pure Python mode.

Only ever run compiled (`ottla.compiled`). What is ordinary is written in `consumer_fetch_frames`: `parse_one` gives what
`parse` gives there of a request that names at most one partition, and `encode_one` the bytes of `encode_answer`. The tests
hold both to the same answers.
"""

import cython
from cython.cimports._varints import int16_at, int32_at, int64_at, put
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.string import memcpy

from ottla.protocol.consumer_fetch_frames import ConsumerFetch
from ottla.protocol.replica_fetch_frames import AskedPartition

SOURCE_HASH = "@SOURCE_HASH@"

_FIRST_VERSION = cython.declare(cython.int, 13)
_REPLICA_IN_TAG_SINCE = cython.declare(cython.int, 15)
#: Of one partition that is asked for: its numbers and the count of its tags.
_ASKED_SIZE = cython.declare(cython.int, 33)

_make_fetch = ConsumerFetch._make
_make_row = AskedPartition._make


def parse_one(frame, version: cython.int):
    """Return the `ConsumerFetch` of an ordinary request that names at most one partition; None for all others."""
    view: Py_buffer
    PyObject_GetBuffer(frame, cython.address(view), PyBUF_SIMPLE)
    try:
        return _parse(cython.cast(cython.p_uchar, view.buf), view.len, version)
    finally:
        PyBuffer_Release(cython.address(view))


@cython.cfunc
def _parse(data: cython.p_uchar, end: cython.Py_ssize_t, version: cython.int):
    at: cython.Py_ssize_t
    head: cython.Py_ssize_t
    row: cython.Py_ssize_t = -1
    rack: cython.Py_ssize_t
    isolation: cython.int
    session_id: cython.int
    session_epoch: cython.int
    size: cython.int
    if version < _FIRST_VERSION or end < 10:
        return None
    size = int16_at(data + 8)
    if size < 0:
        size = 0
    # Of the header: the client id and its tags; of the body: six numbers, no topics, nothing forgotten, no rack, no tags.
    if end - 10 < size + 1 + 21 + 4 or not _is_ascii(data + 10, size):
        return None
    at = 10 + size
    if data[at]:
        return None
    at += 1
    if version < _REPLICA_IN_TAG_SINCE:
        if end - at < 4 + 21 + 4 or int32_at(data + at) != -1:
            return None
        at += 4
    head = at
    isolation = data[at + 12]
    session_id = int32_at(data + at + 13)
    session_epoch = int32_at(data + at + 17)
    at += 21
    if isolation > 1 or not (session_epoch > 0 or (session_epoch == -1 and session_id == 0)):
        return None
    if data[at] == 2:
        # The topic's id, one partition, the tags of both.
        if end - at < 1 + 16 + 1 + _ASKED_SIZE + 1 + 3:
            return None
        row = at + 1
        if data[row + 16] != 2 or data[row + 17 + _ASKED_SIZE - 1] or data[row + 17 + _ASKED_SIZE]:
            return None
        at = row + 17 + _ASKED_SIZE + 1
    elif data[at] == 1:
        at += 1
    else:
        return None
    rack = data[at + 1]
    if data[at] != 1 or rack == 0 or rack >= 0x80 or end - at != rack + 2 or data[end - 1]:
        return None
    if not _is_ascii(data + at + 2, rack - 1):
        return None
    return _make_fetch(
        (
            int32_at(data + head),
            int32_at(data + head + 4),
            int32_at(data + head + 8),
            isolation,
            session_id,
            session_epoch,
            rack > 1,
            () if row < 0 else (_row(data + row),),
        )
    )


@cython.cfunc
def _row(data: cython.p_uchar):
    topic_id = PyBytes_FromStringAndSize(cython.cast(cython.p_char, data), 16)
    return _make_row(
        (
            topic_id,
            int32_at(data + 17),
            int32_at(data + 21),
            int64_at(data + 25),
            int32_at(data + 33),
            int64_at(data + 37),
            int32_at(data + 45),
            -1,
        )
    )


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _is_ascii(data: cython.p_uchar, size: cython.Py_ssize_t) -> cython.bint:
    at: cython.Py_ssize_t
    for at in range(size):
        if data[at] >= 0x80:
            return False
    return True


def encode_one(
    session_id: cython.int,
    is_committed: cython.bint,
    topic_id: bytes,
    index: cython.int,
    high_watermark: cython.longlong,
    last_stable: cython.longlong,
    log_start: cython.longlong,
    records,
):
    """Return the body of an answer about one partition, whose records are bytes."""
    view: Py_buffer
    size: cython.ulonglong
    rest: cython.ulonglong
    count_size: cython.int = 1
    PyObject_GetBuffer(records, cython.address(view), PyBUF_SIMPLE)
    try:
        size = view.len + 1
        rest = size >> 7
        while rest:
            count_size += 1
            rest >>= 7
        # throttle, error, session; one topic: id, one partition; part; records; tags of partition, topic and answer
        body = PyBytes_FromStringAndSize(cython.NULL, 10 + 1 + 16 + 1 + 35 + count_size + view.len + 3)
        out: cython.p_char = PyBytes_AS_STRING(body)
        out = put(out, 0, 6)
        out = put(out, cython.cast(cython.ulonglong, session_id), 4)
        out = put(out, 2, 1)
        memcpy(out, PyBytes_AS_STRING(topic_id), 16)
        out = put(out + 16, 2, 1)
        out = put(out, cython.cast(cython.ulonglong, index), 4)
        out = put(out, 0, 2)
        out = put(out, cython.cast(cython.ulonglong, high_watermark), 8)
        out = put(out, cython.cast(cython.ulonglong, last_stable), 8)
        out = put(out, cython.cast(cython.ulonglong, log_start), 8)
        out = put(out, 1 if is_committed else 0, 1)
        out = put(out, 0xFFFFFFFF, 4)
        while size >= 0x80:
            out = put(out, size & 0x7F | 0x80, 1)
            size >>= 7
        out = put(out, size, 1)
        memcpy(out, view.buf, view.len)
        put(out + view.len, 0, 3)
    finally:
        PyBuffer_Release(cython.address(view))
    return body
