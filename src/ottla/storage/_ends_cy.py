# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""What an append changes, for the compiler: `_ends_plain` in Cython's pure Python mode.

Only ever run compiled (`ottla.compiled`). What the types are for, and what their attributes mean, is written in
`_ends_plain`; the tests hold both to the same files, answers and state. Offsets that come from elsewhere stay objects:
they may be larger than any number here.

What is written goes through `File.append`, a real one's or a simulated one's. A number that `LogConfig` has is copied once,
when the log gets another configuration.
"""

import cython
from cython.cimports._varints import int16_at, int32_at, int64_at, put
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from ottla import failpoints
from ottla.protocol.records import kernels
from ottla.protocol.records.checksum import crc32c
from ottla.storage.appended import BATCHES_KEPT, NOT_LED, AppendInfo, BatchMetadata
from ottla.storage.validation import look_into, ordinary_packed_header

SOURCE_HASH = "@SOURCE_HASH@"

_HEADER_SIZE = cython.declare(cython.Py_ssize_t, 61)
_COMPRESSION_MASK = cython.declare(cython.int, 7)
_SEQUENCE_MAX = cython.declare(cython.longlong, 0x7FFFFFFF)
_RELATIVE_OFFSET_MAX = cython.declare(cython.longlong, 0x7FFFFFFF)
_LONG_MAX = cython.declare(cython.longlong, (1 << 63) - 1)
_UNKNOWN = cython.declare(cython.longlong, 1 - (1 << 63))
_OFFSET_MAX = cython.declare(object, 1 << 62)
_KEPT = cython.declare(cython.Py_ssize_t, BATCHES_KEPT)
#: Makes a named tuple without the step of Python that its own `__new__` is.
_new = tuple.__new__


@cython.cclass
class SegmentEnd:
    """See `_ends_plain.SegmentEnd`."""

    base_offset = cython.declare(object, visibility="public")
    max_timestamp_offset = cython.declare(object, visibility="public")
    is_warm = cython.declare(cython.bint, visibility="public")
    _size = cython.declare(cython.longlong, visibility="public")
    _reserved = cython.declare(cython.longlong, visibility="public")
    _first_timestamp = cython.declare(cython.longlong, visibility="public")
    _max_timestamp = cython.declare(cython.longlong, visibility="public")
    _bytes_since_index = cython.declare(cython.longlong, visibility="public")
    _index_entries = cython.declare(cython.longlong, visibility="public")
    _file = cython.declare(object, visibility="public")
    _offset_index = cython.declare(object, visibility="public")
    _time_index = cython.declare(object, visibility="public")

    def surely_fits(self, size: cython.longlong, last_offset, max_timestamp: cython.longlong, config):
        """See `_ends_plain.SegmentEnd.surely_fits`."""
        return (
            self._has_room(size, max_timestamp, config.segment_bytes, config.segment_ms, _entries_max(config))
            and not config.segment_jitter_ms
            and last_offset - self.base_offset <= _RELATIVE_OFFSET_MAX
        )

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _has_room(
        self,
        size: cython.longlong,
        max_timestamp: cython.longlong,
        segment_bytes: cython.longlong,
        segment_ms: cython.longlong,
        entries_max: cython.longlong,
    ) -> cython.bint:
        return (
            0 < self._size <= segment_bytes - size
            and self._first_timestamp >= 0
            and (max_timestamp < 0 or max_timestamp - self._first_timestamp <= segment_ms)
            and self._index_entries < entries_max
        )

    def append(self, records):
        """See `_ends_plain.SegmentEnd.append`."""
        return self._append(records, len(records))

    @cython.cfunc
    @cython.exceptval(-1)
    def _append(self, records, size: cython.Py_ssize_t) -> cython.longlong:
        position: cython.longlong = self._size
        end: cython.longlong
        if position < 0:
            position = self.size
        file = self._file
        if file is None:
            file = self.open_for_append()
        end = position + size
        if end > self._reserved:
            self._reserve(file, end)
        file.append(records)
        self._size = end
        return position

    def note_batch(
        self,
        position: cython.longlong,
        size: cython.longlong,
        last_offset,
        max_timestamp: cython.longlong,
        index_interval_bytes: cython.longlong,
    ):
        """See `_ends_plain.SegmentEnd.note_batch`."""
        self._note(position, size, last_offset, max_timestamp, index_interval_bytes)

    @cython.cfunc
    def _note(
        self,
        position: cython.longlong,
        size: cython.longlong,
        last_offset: object,
        max_timestamp: cython.longlong,
        index_interval_bytes: cython.longlong,
    ):
        largest: cython.longlong = self._max_timestamp
        if largest == _UNKNOWN:
            largest = self.max_timestamp_ms
        if max_timestamp > largest:
            self._max_timestamp = max_timestamp
            self.max_timestamp_offset = last_offset
        if position == 0:
            self._first_timestamp = max_timestamp
        if self._bytes_since_index > index_interval_bytes:
            self.offset_index.add(last_offset, position)
            self.time_index.maybe_add(self._max_timestamp, self.max_timestamp_offset)
            self._bytes_since_index = 0
            if self._index_entries:
                self._index_entries += 1
            else:
                self._index_entries = self.offset_index.count
        self._bytes_since_index += size


@cython.cfunc
@cython.exceptval(-1, check=True)
def _entries_max(config: object) -> cython.longlong:
    size: cython.longlong = config.segment_index_bytes
    return size // 12 - 2


@cython.cclass
class ProducerEnd:
    """See `_ends_plain.ProducerEnd`."""

    producer_epoch = cython.declare(cython.longlong, visibility="public")
    current_txn_first_offset = cython.declare(cython.longlong, visibility="public")
    last_timestamp = cython.declare(cython.longlong, visibility="public")
    last_seen_ms = cython.declare(cython.longlong, visibility="public")
    batches = cython.declare(list, visibility="public")

    def is_plainly_next(self, epoch: cython.longlong, sequence: cython.longlong):
        """See `_ends_plain.ProducerEnd.is_plainly_next`."""
        return self._is_next(epoch, sequence)

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_next(self, epoch: cython.longlong, sequence: cython.longlong) -> cython.int:
        count: cython.Py_ssize_t = len(self.batches)
        last: cython.longlong
        if self.producer_epoch != epoch or self.current_txn_first_offset >= 0 or count == 0:
            return 0
        last = cython.cast(tuple, self.batches[count - 1])[0]
        return ((last + 1) & _SEQUENCE_MAX) == sequence

    def take_in(
        self,
        sequence: cython.longlong,
        delta: cython.longlong,
        base_offset,
        timestamp: cython.longlong,
        now_ms: cython.longlong,
    ):
        """See `_ends_plain.ProducerEnd.take_in`."""
        self._take_in(sequence, delta, base_offset + delta, timestamp, now_ms)

    @cython.cfunc
    def _take_in(
        self,
        sequence: cython.longlong,
        delta: cython.longlong,
        last_offset: object,
        timestamp: cython.longlong,
        now_ms: cython.longlong,
    ):
        last_sequence: cython.longlong = -1
        if sequence >= 0:
            last_sequence = (sequence + delta) & _SEQUENCE_MAX
        if len(self.batches) >= _KEPT:
            del self.batches[0]
        self.batches.append(_new(BatchMetadata, (last_sequence, last_offset, delta, timestamp)))
        self.last_timestamp = timestamp
        self.last_seen_ms = now_ms


@cython.cclass
class LogEnd:
    """See `_ends_plain.LogEnd`."""

    led_epoch = cython.declare(cython.longlong, visibility="public")
    followed_epoch = cython.declare(cython.longlong, visibility="public")
    _log = cython.declare(object, visibility="public")
    _lock = cython.declare(object, visibility="public")
    _health = cython.declare(object, visibility="public")
    _epochs = cython.declare(object, visibility="public")
    _producers = cython.declare(object, visibility="public")
    _reader = cython.declare(object, visibility="public")
    _writer = cython.declare(object, visibility="public")
    _flusher = cython.declare(object, visibility="public")
    _acquire: object
    _release: object
    #: What follows is copied from this configuration.
    _config: object
    _is_ordinary: cython.bint
    _compacts: cython.bint
    _bytes_max: cython.longlong
    _before_max: cython.longlong
    _after_max: cython.longlong
    _segment_bytes: cython.longlong
    _segment_ms: cython.longlong
    _entries_max: cython.longlong
    _index_interval: cython.longlong
    _flush_messages: cython.longlong

    def __init__(self, log):
        self.led_epoch = NOT_LED
        self.followed_epoch = NOT_LED
        self._log = log
        self._lock = log.lock
        self._acquire = log.lock.acquire
        self._release = log.lock.release
        self._health = log.health
        self._epochs = log.leader_epochs
        self._producers = log.producers
        self._reader = log.reader
        self._writer = log.writer
        self._flusher = log.flusher

    @cython.cfunc
    def _take_config(self, config: object):
        self._is_ordinary = (
            config.message_timestamp_type == "CreateTime"
            and config.compression_type in ("producer", "uncompressed")
            and not config.segment_jitter_ms
        )
        self._compacts = config.cleanup_compact
        self._segment_bytes = config.segment_bytes
        self._bytes_max = min(config.max_message_bytes, config.segment_bytes)
        self._before_max = config.message_timestamp_before_max_ms
        self._after_max = config.message_timestamp_after_max_ms
        self._segment_ms = config.segment_ms
        self._entries_max = _entries_max(config)
        self._index_interval = config.index_interval_bytes
        self._flush_messages = config.flush_messages
        self._config = config

    def publish(self, end_offset):
        """See `_ends_plain.LogEnd.publish`."""
        config = self._log.config
        if config is not self._config:
            self._take_config(config)
        self._publish(end_offset, self._log.active_segment)

    @cython.cfunc
    def _publish(self, end_offset: object, active: SegmentEnd):
        log = self._log
        self._producers.end_offset = end_offset
        self._reader.end = (end_offset, active, active._size)
        log.log_end_offset = end_offset
        if self._flush_messages != _LONG_MAX and 1 < self._flush_messages <= end_offset - self._flusher.recovery_point:
            log.hooks.on_flush_due(log)

    def append_ordinary(self, records, leader_epoch: cython.longlong, now_ms: cython.longlong):
        """See `_ends_plain.LogEnd.append_ordinary`."""
        view: Py_buffer
        if not self._acquire(False):
            return None
        try:
            PyObject_GetBuffer(records, cython.address(view), PyBUF_SIMPLE)
            try:
                if view.readonly or view.len <= _HEADER_SIZE:
                    return None
                return self._append(records, cython.cast(cython.p_uchar, view.buf), view.len, leader_epoch, now_ms)
            finally:
                PyBuffer_Release(cython.address(view))
        finally:
            self._release()

    @cython.cfunc
    def _append(
        self,
        records: object,
        data: cython.p_uchar,
        size: cython.Py_ssize_t,
        leader_epoch: cython.longlong,
        now_ms: cython.longlong,
    ):
        log = self._log
        active: SegmentEnd = log.active_segment
        first: cython.longlong
        position: cython.longlong
        smallest: cython.longlong
        if (
            self._health.failure is not None
            or failpoints.ENABLED
            or not active.is_warm
            or leader_epoch != self.led_epoch
            or leader_epoch != self._epochs.latest
            or now_ms < 0
        ):
            return None
        config = log.config
        if config is not self._config:
            self._take_config(config)
        base_offset = log.log_end_offset
        if base_offset > _OFFSET_MAX or not self._is_ordinary or size > self._bytes_max:
            return None
        first = base_offset
        packed: cython.int = data[22] & _COMPRESSION_MASK
        if int16_at(data + 21) != packed:
            return None
        fields: object = None
        checked: object = None
        if packed:
            fields = ordinary_packed_header(records, config)
            if fields is None:
                return None
        else:
            checked = kernels.check_batch(records, crc32c)
            if checked is None:
                return None
        delta: cython.longlong = int32_at(data + 23)
        max_timestamp: cython.longlong = int64_at(data + 35)
        sequence: cython.longlong = int32_at(data + 53)
        segment_base: cython.longlong = active.base_offset
        if (
            not active._has_room(size, max_timestamp, self._segment_bytes, self._segment_ms, self._entries_max)
            or first + delta - segment_base > _RELATIVE_OFFSET_MAX
        ):
            return None
        producer: ProducerEnd = None
        producer_id: cython.longlong = int64_at(data + 43)
        if producer_id >= 0:
            producer = self._producers.entries.get(producer_id)
            if producer is None or not producer._is_next(int16_at(data + 51), sequence):
                return None
        if packed:
            checked = look_into(records, fields, config)
            if checked is None:
                return None
            null_keys, smallest = checked
        else:
            _, null_keys, smallest = checked
        if (
            (self._compacts and null_keys)
            or smallest < now_ms - self._before_max
            or (max_timestamp > now_ms and max_timestamp - now_ms > self._after_max)
        ):
            return None
        last_offset = first + delta
        put(cython.cast(cython.p_char, data), first, 8)
        put(cython.cast(cython.p_char, data + 12), leader_epoch, 4)
        try:
            position = active._append(records, size)
        except OSError as error:
            raise self._writer.undo(active, active._size, error) from error
        active._note(position, size, last_offset, max_timestamp, self._index_interval)
        if producer is not None:
            producer._take_in(sequence, delta, last_offset, max_timestamp, now_ms)
        self._reader.note(base_offset, position)
        self._publish(first + delta + 1, active)
        return _new(AppendInfo, (base_offset, last_offset, -1, log.log_start_offset, False))
