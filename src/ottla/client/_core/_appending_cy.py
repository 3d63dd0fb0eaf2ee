# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""What `send` does to a batch for each record, for the compiler: `_appending_plain` in Cython's pure Python mode.

Only ever run compiled; see `protocol.records._records_cy`. Semantics, arguments and errors are those of
`_appending_plain`; the tests hold both to the same answers.

Nothing here can be interrupted: the interpreter changes threads, and raises KeyboardInterrupt, between steps of Python
only.
"""

from array import array
from zlib import crc32

import cython
from cython.cimports._varints import add_wrapping, murmur2_of, varint, varint_size, varlong, write_varint
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.cpython.pythread import (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from cython.cimports.cpython.ref import Py_REFCNT
from cython.cimports.cpython.unicode import PyUnicode_AsUTF8AndSize, PyUnicode_AsUTF8String
from cython.cimports.libc.stdlib import free, realloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.time import CLOCK_REALTIME, clock_gettime, timespec

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True

BY_FUNCTION, BY_MURMUR2, BY_CRC32, NEVER = range(4)

#: See `batch`: what a record takes beside key, value and headers, and up to which size it counts as small.
_OVERHEAD = cython.declare(cython.Py_ssize_t, 14)
_OVERHEAD_MAX = cython.declare(cython.Py_ssize_t, 40)
_SMALL = cython.declare(cython.Py_ssize_t, 8000)
#: Bytes that a batch has room for at first; it doubles.
_FIRST = cython.declare(cython.Py_ssize_t, 1024)


@cython.cclass
class Lock:
    """A lock that can be taken without a step of Python. To wait for it cannot be interrupted; it is never held for long."""

    _lock: PyThread_type_lock

    def __cinit__(self):
        self._lock = PyThread_allocate_lock()
        if self._lock == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        if self._lock != cython.NULL:
            PyThread_free_lock(self._lock)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _acquire(self) -> cython.void:
        if PyThread_acquire_lock(self._lock, NOWAIT_LOCK) == 0:
            with cython.nogil:
                PyThread_acquire_lock(self._lock, WAIT_LOCK)

    def __enter__(self) -> None:
        self._acquire()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        PyThread_release_lock(self._lock)


@cython.cclass
class Records:
    """See `_appending_plain.Records`. The records are written as they come."""

    count = cython.declare(cython.Py_ssize_t, visibility="public")
    size = cython.declare(cython.Py_ssize_t, visibility="public")
    base_timestamp = cython.declare(cython.longlong, visibility="public")
    max_timestamp = cython.declare(cython.longlong, visibility="public")
    closed = cython.declare(cython.bint, visibility="public")
    _data: bytearray
    _used: cython.Py_ssize_t
    _room: cython.Py_ssize_t
    _held: cython.p_uchar
    _held_room: cython.Py_ssize_t
    _held_count: cython.Py_ssize_t

    def __cinit__(self, *_, **__):
        self.base_timestamp = self.max_timestamp = -1
        self._held = cython.NULL

    def __init__(self):
        pass

    def __dealloc__(self):
        free(self._held)

    @cython.cfunc
    @cython.exceptval(-1)
    def _add(
        self,
        timestamp: cython.longlong,
        key: bytes | None,
        value: bytes | None,
        headers: tuple,
        size: cython.Py_ssize_t,
    ) -> cython.Py_ssize_t:
        index: cython.Py_ssize_t = self.count
        base: cython.longlong = self.base_timestamp if index else timestamp
        delta: cython.longlong = add_wrapping(timestamp, -base)
        key_size: cython.Py_ssize_t = -1 if key is None else PyBytes_GET_SIZE(key)
        value_size: cython.Py_ssize_t = -1 if value is None else PyBytes_GET_SIZE(value)
        length: cython.Py_ssize_t = (
            1 + varint_size(delta) + varint_size(index) + varint_size(key_size) + varint_size(value_size)
        )
        need: cython.Py_ssize_t
        target: cython.p_uchar
        name_size: cython.Py_ssize_t = 0
        length += (key_size if key_size > 0 else 0) + (value_size if value_size > 0 else 0)
        length += varint_size(len(headers))
        for name, content in headers:
            PyUnicode_AsUTF8AndSize(name, cython.address(name_size))
            length += varint_size(name_size) + name_size
            if content is None:
                length += 1
            else:
                length += varint_size(len(content)) + len(content)
        need = self._used + varint_size(length) + length
        if need > self._room:
            self._grow(need)
        target = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(self._data)) + self._used
        target = write_varint(target, length)
        target[0] = 0
        target = write_varint(target + 1, delta)
        target = write_varint(target, index)
        target = write_varint(target, key_size)
        if key_size > 0:
            memcpy(target, PyBytes_AS_STRING(key), key_size)
            target += key_size
        target = write_varint(target, value_size)
        if value_size > 0:
            memcpy(target, PyBytes_AS_STRING(value), value_size)
            target += value_size
        target = write_varint(target, len(headers))
        for name, content in headers:
            text = PyUnicode_AsUTF8AndSize(name, cython.address(name_size))
            target = write_varint(target, name_size)
            memcpy(target, text, name_size)
            target += name_size
            if content is None:
                target = write_varint(target, -1)
            else:
                data: bytes = content
                target = write_varint(target, PyBytes_GET_SIZE(data))
                memcpy(target, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
                target += PyBytes_GET_SIZE(data)
        self._used = need
        self.base_timestamp = base
        self.count = index + 1
        self.size += size
        if timestamp > self.max_timestamp:
            self.max_timestamp = timestamp
        return index

    @cython.cfunc
    @cython.exceptval(-1)
    def _grow(self, need: cython.Py_ssize_t) -> cython.int:
        room: cython.Py_ssize_t = self._room if self._room else _FIRST
        while room < need:
            room *= 2
        if self._data is None:
            self._data = PyByteArray_FromStringAndSize(cython.NULL, room)
        else:
            PyByteArray_Resize(self._data, room)
        self._room = room
        return 0

    def add(
        self,
        timestamp_ms: cython.longlong,
        key: bytes | None,
        value: bytes | None,
        headers: tuple,
        size: cython.Py_ssize_t,
    ) -> cython.Py_ssize_t:
        """See `_appending_plain`."""
        return self._add(timestamp_ms, key, value, headers, size)

    def close(self) -> None:
        """See `_appending_plain`."""
        self.closed = True

    def take_body(self):
        """See `_appending_plain`."""
        data: bytearray = self._data
        self.closed = True
        if data is None:
            return None
        self._data = None
        PyByteArray_Resize(data, self._used)
        self._used = self._room = 0
        return data

    @property
    def any_held(self) -> bool:
        """See `_appending_plain`."""
        return self._held_count > 0

    def is_held(self, index: cython.Py_ssize_t) -> bool:
        """See `_appending_plain`."""
        return 0 <= index < self._held_room and self._held[index] != 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _hold(self, index: cython.Py_ssize_t) -> cython.int:
        if index >= self._held_room:
            room: cython.Py_ssize_t = 2 * index + 64
            held: cython.p_uchar = cython.cast(cython.p_uchar, realloc(self._held, room))
            if held == cython.NULL:
                raise MemoryError
            memset(held + self._held_room, 0, room - self._held_room)
            self._held = held
            self._held_room = room
        self._held[index] = 1
        self._held_count += 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _let_go(self, index: cython.Py_ssize_t) -> cython.void:
        self._held[index] = 0
        self._held_count -= 1


# Not the other way around: Cython would take the class for one of Python's, and refuse `no_gc`.
@cython.no_gc
@cython.cclass
class Ticket:
    """See `_appending_plain.Ticket`. The garbage collector does not look for it: a batch forgets its callbacks, the only
    way back to a ticket, when it has its outcome."""

    _batch = cython.declare(Records, visibility="readonly")
    _index = cython.declare(cython.Py_ssize_t, visibility="readonly")
    _lock = cython.declare(object, visibility="readonly")

    def __init__(self, batch: Records, index: cython.Py_ssize_t, lock: object):
        if self._batch is not None or index < 0:
            raise ValueError("a ticket is for one record")
        batch._hold(index)
        self._batch = batch
        self._index = index
        self._lock = lock

    def __dealloc__(self):
        if self._batch is not None:
            self._batch._let_go(self._index)


@cython.cclass
class Choice:
    """See `_appending_plain.Choice`."""

    way = cython.declare(cython.int, visibility="public")
    sticky = cython.declare(cython.Py_ssize_t, visibility="public")
    stuck = cython.declare(cython.Py_ssize_t, visibility="public")

    def __cinit__(self, *_, **__):
        self.sticky = -1

    def __init__(self):
        pass


@cython.cclass
class Lane:
    """See `_appending_plain.Lane`."""

    choice = cython.declare(Choice, visibility="public")
    open = cython.declare(list, visibility="public")
    limit = cython.declare(cython.Py_ssize_t, visibility="public")

    def __init__(self, choice: Choice, count: cython.Py_ssize_t, limit: cython.Py_ssize_t):
        self.choice = choice
        self.open = [None] * count
        self.limit = limit


@cython.cclass
class Room:
    """See `_appending_plain.Room`."""

    used = cython.declare(cython.Py_ssize_t, visibility="public")
    memory = cython.declare(cython.Py_ssize_t, visibility="public")

    def __init__(self, memory: cython.Py_ssize_t):
        self.memory = memory


@cython.cclass
class Sender:
    """See `_appending_plain.Sender`."""

    open = cython.declare(cython.bint, visibility="public")
    _direct: cython.bint
    _room: Room
    _lanes: dict
    _ticket: type
    _lock: Lock
    _last: Ticket
    _size_max: cython.Py_ssize_t
    _wall_ms: object
    _check: object

    def __init__(
        self,
        room: Room,
        lanes: dict,
        ticket: type,
        lock: Lock | None,
        size_max: cython.Py_ssize_t,
        wall_ms: object,
        check: object,
        direct: cython.bint,
    ):
        if not issubclass(ticket, Ticket):
            raise TypeError("a ticket is of a class of tickets")
        self.open = True
        self._direct = direct
        self._room = room
        self._lanes = lanes
        self._ticket = ticket
        self._lock = lock
        self._size_max = size_max
        self._wall_ms = wall_ms
        self._check = check

    @cython.cfunc
    def _accept(
        self,
        topic: object,
        value: object,
        key: object,
        headers: object,
        partition: object,
        timestamp: object,
    ) -> Records | None:
        """The batch that has taken the record as its last one, or None."""
        lane: Lane
        choice: Choice
        batch: Records
        key_bytes: bytes
        value_bytes: bytes
        pairs: tuple
        size: cython.Py_ssize_t
        chosen: cython.Py_ssize_t
        count: cython.Py_ssize_t
        stamp: cython.longlong
        now: timespec
        sticks: cython.bint = False
        if value is None or type(value) is bytes:
            value_bytes = value
        elif type(value) is str:
            try:
                value_bytes = PyUnicode_AsUTF8String(value)
            except UnicodeEncodeError:
                return None
        else:
            return None
        if key is None or type(key) is bytes:
            key_bytes = key
        elif type(key) is str:
            try:
                key_bytes = PyUnicode_AsUTF8String(key)
            except UnicodeEncodeError:
                return None
        else:
            return None
        lane = self._lanes.get(topic)
        if lane is None:
            return None
        size = (0 if key_bytes is None else PyBytes_GET_SIZE(key_bytes)) + (
            0 if value_bytes is None else PyBytes_GET_SIZE(value_bytes)
        )
        if headers is None:
            pairs = ()
        elif type(headers) is tuple:
            pairs = headers
            for name, content in pairs:
                size += 4 * len(name) + 10 + (0 if content is None else len(content))
        else:
            return None
        size += _OVERHEAD if size < _SMALL else _OVERHEAD_MAX
        if size > self._size_max or self._room.used + size > self._room.memory:
            return None
        choice = lane.choice
        count = len(lane.open)
        if partition is not None:
            if type(partition) is not int:
                return None
            try:
                chosen = partition
            except OverflowError:
                return None
        elif choice.way == 0:
            return None
        elif key_bytes is None or choice.way == 3 or (choice.way == 2 and PyBytes_GET_SIZE(key_bytes) == 0):
            sticks = True
            chosen = choice.sticky
        elif choice.way == 1:
            chosen = murmur2_of(cython.cast(cython.p_uchar, PyBytes_AS_STRING(key_bytes)), PyBytes_GET_SIZE(key_bytes))
            chosen = (chosen & 0x7FFFFFFF) % count
        else:
            chosen = cython.cast(cython.uint, crc32(key_bytes)) % count
        if chosen < 0 or chosen >= count:
            return None
        batch = lane.open[chosen]
        if batch is None or batch.closed or batch.size + size >= lane.limit:
            return None
        if timestamp is not None:
            if type(timestamp) is not int:
                return None
            try:
                stamp = timestamp
            except OverflowError:
                return None
            if stamp < 0:
                return None
        elif self._wall_ms is None:
            clock_gettime(CLOCK_REALTIME, cython.address(now))
            stamp = cython.cast(cython.longlong, now.tv_sec) * 1000 + now.tv_nsec // 1000000
        else:
            stamp = self._wall_ms()
        if self._check is not None:
            self._check()
        batch._add(stamp, key_bytes, value_bytes, pairs, size)
        if sticks:
            choice.stuck += size
        self._room.used += size
        return batch

    @cython.cfunc
    def _give_ticket(self, batch: Records) -> Ticket:
        """A ticket for the last record of a batch. The one before is made into it if only this holds it."""
        index: cython.Py_ssize_t = batch.count - 1
        ticket: Ticket
        if self._last is not None and Py_REFCNT(self._last) == 1:
            ticket = self._last
            ticket._batch._let_go(ticket._index)
        else:
            # Its class adds nothing that would have to be made: no `__init__` is called.
            ticket = self._ticket.__new__(self._ticket)
            ticket._lock = self._lock
            self._last = ticket
        batch._hold(index)
        ticket._batch = batch
        ticket._index = index
        return ticket

    def forget_last(self) -> None:
        """See `_appending_plain.Sender`."""
        self._last = None

    def send(self, topic: object, value: object, key: object, headers: object, partition: object, timestamp: object):
        """See `_appending_plain.Sender`."""
        ticket: Ticket = None
        batch: Records
        if not self.open:
            return None
        if self._lock is not None:
            self._lock._acquire()
        try:
            batch = self._accept(topic, value, key, headers, partition, timestamp)
            if batch is not None:
                ticket = self._give_ticket(batch)
        finally:
            if self._lock is not None:
                PyThread_release_lock(self._lock._lock)
        return ticket

    def accept(self, topic: object, value: object, key: object, headers: object, partition: object, timestamp: object):
        """See `_appending_plain.Sender`."""
        if not self.open:
            return False
        if self._lock is not None:
            self._lock._acquire()
        try:
            return self._accept(topic, value, key, headers, partition, timestamp) is not None
        finally:
            if self._lock is not None:
                PyThread_release_lock(self._lock._lock)


def send(
    self,
    topic: object,
    value: object,
    *,
    key: object = None,
    headers: object = None,
    partition: object = None,
    timestamp: object = None,
):
    """A producer's method: see `Producer.send`."""
    sender: Sender = self._sender
    if headers is None and sender._direct:
        ticket = sender.send(topic, value, key, None, partition, timestamp)
        if ticket is not None:
            return ticket
    return self._send(topic, value, key, headers, partition, timestamp)


def murmur2(data: bytes) -> cython.uint:
    """See `_appending_plain`."""
    return murmur2_of(cython.cast(cython.p_uchar, PyBytes_AS_STRING(data)), PyBytes_GET_SIZE(data))


def read_timestamps(body: bytearray, count: cython.Py_ssize_t, base_timestamp: cython.longlong):
    """See `_appending_plain`."""
    found = array("q", bytes(8 * count))
    source: Py_buffer
    view: Py_buffer
    data: cython.p_uchar
    target: cython.p_longlong
    position: cython.Py_ssize_t = 0
    after: cython.Py_ssize_t
    index: cython.Py_ssize_t
    length: cython.longlong
    delta: cython.longlong
    bad: cython.bint = False
    PyObject_GetBuffer(found, cython.address(view), PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(body, cython.address(source), PyBUF_SIMPLE)
        data = cython.cast(cython.p_uchar, source.buf)
        target = cython.cast(cython.p_longlong, view.buf)
        for index in range(count):
            length, position = varint(data, position, source.len)
            if position < 0 or length < 6 or length > source.len - position:
                bad = True
                break
            delta, after = varlong(data, position + 1, position + length)
            if after < 0:
                bad = True
                break
            target[index] = add_wrapping(base_timestamp, delta)
            position += length
        PyBuffer_Release(cython.address(source))
    finally:
        PyBuffer_Release(cython.address(view))
    if bad:
        raise ValueError(f"record {index} is malformed")
    return found
