# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# mypy: ignore-errors
"""What each record of a loop costs a consumer, for the compiler: `_handing_plain` in Cython's pure Python mode, and records.

Only ever run compiled; see `protocol.records._records_cy`. Semantics, arguments and errors are those of `_handing_plain`
and of `consumed.Record`; the tests hold both to the same answers.
"""

from types import GenericAlias

import cython
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize

from ottla.protocol.records import column_kernels
from ottla.types import TopicPartition

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True


@cython.cclass
class Position:
    """See `_handing_plain.Position`."""

    position = cython.declare(object, visibility="public")
    generation = cython.declare(cython.Py_ssize_t, visibility="public")
    paused = cython.declare(cython.bint, visibility="public")

    def __init__(self):
        pass


@cython.cclass
class Handed:
    """See `_handing_plain.Handed`."""

    current = cython.declare(object, visibility="public")
    marks = cython.declare(object, visibility="public")

    def __init__(self):
        pass


@cython.cclass
class Reading:
    """See `_handing_plain.Reading`."""

    state = cython.declare(Position, visibility="public")
    generation = cython.declare(cython.Py_ssize_t, visibility="public")
    records = cython.declare(list, visibility="public")
    index = cython.declare(cython.Py_ssize_t, visibility="public")

    def __init__(self, state: Position, generation: cython.Py_ssize_t):
        self.state = state
        self.generation = generation
        self.records = []


@cython.cclass
class Common:
    """See `_handing_plain.Common`."""

    topic = cython.declare(object, visibility="public")
    partition = cython.declare(cython.Py_ssize_t, visibility="public")
    leader_epoch = cython.declare(cython.Py_ssize_t, visibility="public")
    deserialize_key = cython.declare(object, visibility="public")
    deserialize_value = cython.declare(object, visibility="public")
    owner = cython.declare(object, visibility="public")

    def __init__(self):
        pass


# Not the other way around: Cython would take the class for one of Python's, and refuse `no_gc`.
@cython.no_gc
@cython.cclass
class Record:
    """One record: its key, value, headers and time are made when they are looked at. See `consumed.Record`.

    The garbage collector does not look for it: nothing that it holds leads back to it.
    """

    __class_getitem__ = classmethod(GenericAlias)

    _source = cython.declare(Common, visibility="readonly")
    offset = cython.declare(cython.longlong, visibility="readonly")
    timestamp_ms = cython.declare(cython.longlong, visibility="readonly")
    key_bytes = cython.declare(object, visibility="readonly")
    value_bytes = cython.declare(object, visibility="readonly")
    _pairs: tuple

    def __init__(self, source: Common, row: tuple):
        offset, timestamp_ms, key, value, pairs = row
        self._source = source
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.key_bytes = key
        self.value_bytes = value
        self._pairs = pairs

    @property
    def _row(self):
        return self.offset, self.timestamp_ms, self.key_bytes, self.value_bytes, self._pairs

    @property
    def topic(self):
        """The topic."""
        return self._source.topic

    @property
    def partition(self):
        """The partition."""
        return self._source.partition

    @property
    def leader_epoch(self):
        """The epoch of the leader that wrote its batch; -1 if that is not known."""
        return self._source.leader_epoch

    @property
    def key(self):
        """The key, deserialized; None stays None."""
        if self._source.deserialize_key is None:
            return self.key_bytes
        return HELPERS.made(self, self.key_bytes, self._source.deserialize_key, "key")

    @property
    def value(self):
        """The value, deserialized; None, a tombstone, stays None."""
        if self._source.deserialize_value is None:
            return self.value_bytes
        return HELPERS.made(self, self.value_bytes, self._source.deserialize_value, "value")

    @property
    def headers(self):
        """The headers."""
        return HELPERS.headers(self._pairs)

    @property
    def timestamp(self):
        """The time as an aware datetime in UTC; None if the record has none."""
        return HELPERS.timestamp(self)

    @property
    def topic_partition(self):
        """Topic and partition."""
        return TopicPartition(self._source.topic, self._source.partition)

    def __repr__(self):
        return HELPERS.show(self)


#: What of a record is made by Python: an object with `made`, `headers`, `timestamp` and `show`. Set by `consumed`.
HELPERS: object = None


def set_helpers(helpers: object) -> None:
    """Say who makes what of a record is made by Python."""
    global HELPERS
    HELPERS = helpers


def make_records(
    source: Common, buffers: tuple, used: tuple, start: cython.Py_ssize_t, stop: cython.Py_ssize_t
) -> list:
    """Return the records of rows, as `column_kernels.make_rows` would have them."""
    found: list = []
    row: cython.Py_ssize_t
    at: cython.longlong
    record: Record
    arrays: list = [buffer for buffer in buffers if type(buffer) is bytearray]
    if len(arrays) != 10 or start < 0 or stop > used[0] or stop * 8 + 8 > len(arrays[2]):
        raise IndexError("no such row")
    offsets: cython.p_longlong = cython.cast(cython.p_longlong, PyByteArray_AS_STRING(arrays[0]))
    timestamps: cython.p_longlong = cython.cast(cython.p_longlong, PyByteArray_AS_STRING(arrays[1]))
    key_ends: cython.p_longlong = cython.cast(cython.p_longlong, PyByteArray_AS_STRING(arrays[2]))
    key_bits: cython.p_uchar = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(arrays[3]))
    keys: cython.p_char = PyByteArray_AS_STRING(arrays[4])
    value_ends: cython.p_longlong = cython.cast(cython.p_longlong, PyByteArray_AS_STRING(arrays[5]))
    value_bits: cython.p_uchar = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(arrays[6]))
    values: cython.p_char = PyByteArray_AS_STRING(arrays[7])
    header_ends: cython.p_longlong = cython.cast(cython.p_longlong, PyByteArray_AS_STRING(arrays[8]))
    for row in range(start, stop):
        record = Record.__new__(Record)
        record._source = source
        record.offset = offsets[row]
        record.timestamp_ms = timestamps[row]
        if key_bits[row >> 3] & (1 << (row & 7)):
            at = key_ends[row]
            record.key_bytes = PyBytes_FromStringAndSize(keys + at, key_ends[row + 1] - at)
        if value_bits[row >> 3] & (1 << (row & 7)):
            at = value_ends[row]
            record.value_bytes = PyBytes_FromStringAndSize(values + at, value_ends[row + 1] - at)
        if header_ends[row + 1] == header_ends[row]:
            record._pairs = ()
        else:
            record._pairs = column_kernels.make_rows(buffers, used, row, row + 1)[0][4]
        found.append(record)
    return found


@cython.cclass
class Front:
    """See `_handing_plain.Front`."""

    attention = cython.declare(cython.bint, visibility="public")
    waiting = cython.declare(object, visibility="public")
    handed = cython.declare(Handed, visibility="public")

    def __init__(self, waiting: object):
        self.waiting = waiting

    @cython.ccall
    def take(self) -> object:
        """See `_handing_plain.Front`."""
        reading: Reading
        state: Position
        record: object
        if self.attention or self.handed is None or self.handed.marks is not None or not self.waiting:
            return None
        reading = self.waiting[0]
        state = reading.state
        if reading.index >= len(reading.records) or reading.generation != state.generation or state.paused:
            return None
        record = reading.records[reading.index]
        self.handed.current = record
        reading.index += 1
        if type(record) is Record:
            state.position = cython.cast(Record, record).offset + 1
        else:
            state.position = record.offset + 1
        return record


def next_record(self):
    """A consumer's method: see `Consumer.__next__`."""
    front: Front = self._front
    record = front.take()
    return self._next_record() if record is None else record
