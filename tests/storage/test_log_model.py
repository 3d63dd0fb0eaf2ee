"""The log against a list as its model: appends, reads, rolls, flushes, retention, truncation, stops, kills, power cuts."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.storage.log_support import DIRECTORY, NOW, TP, batch, lead_and_append, read_all

from ottla.protocol.records.reader import iter_records
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles

# Small segments and a dense index: every few appends something happens.
CONFIG = LogConfig(segment_bytes=2500, index_interval_bytes=300, retention_ms=-1, flush_messages=1)
PRODUCERS = (7, 8)


class LogMachine(RuleBasedStateMachine):
    """`model[offset] = (value, timestamp)` of every record that must be there, by offset."""

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles(lambda: NOW)
        self.files.mkdir("data")
        self.files.sync_dir("")
        self.model: dict[int, tuple[bytes, int]] = {}
        self.ever: dict[int, set[tuple[bytes, int]]] = {}
        self.sequences = dict.fromkeys(PRODUCERS, 0)
        self.last_sent: dict[int, tuple[bytearray, int]] = {}
        self.serial = 0
        self.start = self.end = 0
        self.epoch = 0
        self.checkpoint = (0, 0)
        self.clean = False
        self.log: PartitionLog

    @initialize()
    def first_start(self) -> None:
        self.open()
        self.log.flush()

    def open(self, clean: bool = False) -> None:
        recovery_point, log_start = self.checkpoint
        self.log = PartitionLog.open(
            self.files,
            DIRECTORY,
            TP,
            CONFIG,
            now_ms=NOW,
            recovery_point=recovery_point,
            log_start_offset=log_start,
            high_watermark=self.end,
            clean=clean,
        )

    def new_values(self, count: int, size: int) -> list[bytes]:
        self.serial += 1
        return [b"%06d/%d" % (self.serial, index) + b"." * size for index in range(count)]

    def expect(self, first: int, values: list[bytes], timestamp: int) -> None:
        for index, value in enumerate(values):
            self.model[first + index] = (value, timestamp)
            self.ever.setdefault(first + index, set()).add((value, timestamp))
        self.end = first + len(values)

    def written(self) -> None:
        self.log.advance_high_watermark(self.log.log_end_offset)

    # -- what a broker does

    @rule(count=st.integers(1, 4), size=st.integers(0, 400), delay=st.integers(-3, 3))
    def append(self, count: int, size: int, delay: int) -> None:
        values = self.new_values(count, size)
        timestamp = NOW + self.end + delay
        info = lead_and_append(self.log, batch(values, timestamp=timestamp), leader_epoch=self.epoch, now_ms=NOW)
        assert (info.first_offset, info.last_offset) == (self.end, self.end + count - 1)
        self.expect(info.first_offset, values, timestamp)
        self.written()

    @rule(producer=st.sampled_from(PRODUCERS), count=st.integers(1, 3))
    def append_idempotent(self, producer: int, count: int) -> None:
        values = self.new_values(count, 50)
        sequence = self.sequences[producer]
        records = batch(values, timestamp=NOW, producer_id=producer, producer_epoch=0, base_sequence=sequence)
        copy = bytearray(records)
        info = lead_and_append(self.log, records, leader_epoch=self.epoch, now_ms=NOW)
        assert not info.duplicate
        self.expect(info.first_offset, values, NOW)
        self.sequences[producer] = sequence + count
        self.last_sent[producer] = (copy, info.first_offset)
        self.written()

    @precondition(lambda self: self.last_sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        producer = data.draw(st.sampled_from(sorted(self.last_sent)))
        records, first = self.last_sent[producer]
        info = lead_and_append(self.log, bytearray(records), leader_epoch=self.epoch, now_ms=NOW)
        assert info.duplicate
        assert info.first_offset == first

    @rule()
    def new_leader(self) -> None:
        self.epoch += 1
        self.log.lead(self.epoch)

    @rule()
    def roll(self) -> None:
        self.log.roll(NOW)

    @rule()
    def flush(self) -> None:
        assert self.log.flush() == self.end

    @rule()
    def write_checkpoint(self) -> None:
        self.checkpoint = (self.log.recovery_point, self.log.log_start_offset)

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        offset = self.start + int((self.end - self.start) * share)
        self.log.advance_log_start(offset)
        self.log.delete_old_segments(NOW)
        self.start = self.log.log_start_offset
        assert self.start == offset
        self.checkpoint = (self.checkpoint[0], self.start)
        self.model = {key: value for key, value in self.model.items() if key >= offset}

    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        self.cut_to(self.start + int((self.end - self.start) * share))
        self.log.flush()
        self.checkpoint = (min(self.checkpoint[0], self.end), self.checkpoint[1])

    def cut_to(self, offset: int) -> None:
        self.log.truncate_to(offset, now_ms=NOW)
        # The batch that holds the offset goes as a whole; the log then has a gap before `offset`.
        kept = {record.offset for record in read_all(self.log)}
        assert all(key in kept for key in self.model if key < offset - 4)
        self.model = {key: value for key, value in self.model.items() if key in kept}
        self.end = offset
        self.forget_lost_batches(kept)

    def forget_lost_batches(self, kept: set[int]) -> None:
        """A producer goes on after the last batch that is still there."""
        for producer in PRODUCERS:
            entry = self.log.producers.entries.get(producer)
            self.sequences[producer] = entry.last_sequence + 1 if entry is not None and entry.batches else 0
            if entry is None or not entry.batches:
                self.last_sent.pop(producer, None)
            elif producer in self.last_sent and entry.batches[-1].first_offset != self.last_sent[producer][1]:
                self.last_sent.pop(producer)

    # -- ends

    @rule()
    def stop_and_start(self) -> None:
        self.log.close()
        self.checkpoint = (self.log.recovery_point, self.log.log_start_offset)
        self.files.kill()
        self.open(clean=True)
        assert self.log.recovered_bytes == 0
        self.see_end()

    @rule()
    def kill(self) -> None:
        self.files.kill()
        self.open()
        self.see_end()

    def see_end(self) -> None:
        """Without a batch behind it, the offset that a truncation set is not known after a crash (nor in Kafka)."""
        last = max(self.model, default=self.start - 1)
        assert last < self.log.log_end_offset <= self.end
        self.end = self.log.log_end_offset
        if not self.model:
            self.forget_lost_batches(set())  # a log that ended before its start was begun anew

    @rule(count=st.integers(1, 3), share=st.floats(0, 1))
    def kill_in_the_middle_of_a_write(self, count: int, share: float) -> None:
        values = self.new_values(count, 100)
        self.files.torn_append = lambda size: int(size * share)
        with pytest.raises(Exception):  # noqa: B017, PT011 - a dead process; which error it sees is no matter
            lead_and_append(self.log, batch(values, timestamp=NOW), leader_epoch=self.epoch, now_ms=NOW)
        self.files.torn_append = lambda _size: None
        first = self.end
        self.open()
        if self.log.log_end_offset > first:
            # All of it reached the file before the process died.
            assert self.log.log_end_offset == first + count
            self.expect(first, values, NOW)
            self.written()
        else:
            self.see_end()

    @rule(seed=st.integers(0, 1 << 32))
    def power_cut(self, seed: int) -> None:
        safe = self.log.recovery_point
        self.files.power_cut(random.Random(seed))
        self.open()
        assert self.start >= self.log.log_start_offset
        last_safe = max((key for key in self.model if key < safe), default=-1)
        assert last_safe < self.log.log_end_offset <= self.end
        self.end = self.log.log_end_offset
        self.model = {key: value for key, value in self.model.items() if key < self.end}
        kept = {record.offset for record in read_all(self.log)}
        assert all(key in kept for key in self.model if key < safe)
        self.model = {key: value for key, value in self.model.items() if key in kept}
        self.forget_lost_batches(kept)
        self.start = self.log.log_start_offset
        # What the topic asked for, flush.messages=1: nothing is shown before it is safe.
        assert self.log.recovery_point == self.end

    # -- what must hold

    @invariant()
    def reads_give_the_model(self) -> None:
        if not hasattr(self, "log"):
            return
        log = self.log
        assert log.log_end_offset == self.end
        assert log.log_start_offset <= log.high_watermark <= log.log_end_offset
        assert log.recovery_point <= log.log_end_offset
        records = read_all(log, max_bytes=1000)
        assert {r.offset: (r.value, r.timestamp) for r in records} == self.model
        assert [r.offset for r in records] == sorted(self.model)

    @rule(data=st.data(), max_bytes=st.sampled_from([1, 200, 1000, 100_000]))
    def read_anywhere(self, data: st.DataObject, max_bytes: int) -> None:
        offset = data.draw(st.integers(self.start, self.end))
        upper = data.draw(st.integers(self.start, self.end))
        part = self.log.read(offset, max_bytes, upper_offset=upper)
        got = [record for record in iter_records(part.read()) if record.offset >= offset]
        wanted = [key for key in sorted(self.model) if offset <= key < upper]
        assert [record.offset for record in got] == wanted[: len(got)]
        first_size = len(part.read())
        assert first_size <= max_bytes or len({record.timestamp for record in got}) >= 1
        if wanted and upper == self.end:
            assert got, "at least one batch, however small the limit"

    @rule(delta=st.integers(-5, 60))
    def search_by_time(self, delta: int) -> None:
        timestamp = NOW + delta
        found = self.log.offset_for_timestamp(timestamp)
        wanted = next((key for key in sorted(self.model) if self.model[key][1] >= timestamp), None)
        assert (None if found is None else found.offset) == wanted

    @rule()
    def search_largest_time(self) -> None:
        found = self.log.offset_of_max_timestamp()
        if not self.model:
            return
        largest = max(timestamp for _, timestamp in self.model.values())
        if found is not None and found.timestamp == largest:
            assert found.offset == min(key for key, (_, stamp) in self.model.items() if stamp == largest)

    @rule()
    def indexes_agree_with_the_batches(self) -> None:
        """As kafka-dump-log checks them."""
        for segment in self.log.segments:
            batches = dict(segment.headers())
            for last_offset, position in segment.offset_index.entries():
                assert batches[position].last_offset == last_offset
            largest = -1
            for timestamp, offset in segment.time_index.entries():
                assert timestamp > largest
                largest = timestamp
                covering = next(header for header in batches.values() if header.last_offset >= offset)
                assert covering.max_timestamp == timestamp


LogMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLogModel = LogMachine.TestCase
