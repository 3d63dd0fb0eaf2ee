"""The cleaner against a naive model, and the rules of KIP-534, transactions, producers and crashes one by one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.storage.log_support import lead_and_append

from ottla.errors import StorageError
from ottla.protocol.records.batch import BatchHeader, check_crc
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.storage.compaction import (
    CleaningAbortedError,
    CleaningPlan,
    CleaningResult,
    UncleanableError,
    clean,
    group_segments,
    plan_cleaning,
)
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.storage.offset_map import OffsetMap
from ottla.testing.memory_files import MemoryFiles
from ottla.types import AppendOrigin, CompressionType, TimestampType, TopicPartition

NOW = 1_700_000_000_000
CONFIG = LogConfig(
    cleanup_compact=True,
    cleanup_delete=False,
    delete_retention_ms=1000,
    index_interval_bytes=64,
    message_timestamp_after_max_ms=2**40,
)
PARTITION = TopicPartition("table", 0)
DIRECTORY = "/data/table-0"

Pair = tuple[bytes | None, bytes | None]


@dataclass
class Table:
    """A compacted partition on a disk in memory, with its cleaner checkpoint."""

    config: LogConfig = CONFIG
    disk: MemoryFiles = field(default_factory=MemoryFiles)
    checkpoint: int | None = None

    def __post_init__(self) -> None:
        self.disk.mkdir("/data")
        self.disk.sync_dir("/")
        self.log = self.open()

    def open(self, *, clean: bool = False) -> PartitionLog:
        self.log = PartitionLog.open(self.disk, DIRECTORY, PARTITION, self.config, now_ms=NOW, clean=clean)
        self.log.advance_high_watermark(self.log.log_end_offset)
        return self.log

    def put(self, *pairs: Pair, now_ms: int = NOW, codec: CompressionType = CompressionType.NONE) -> int:
        """Append the pairs as one batch, keyless ones too, and return the first offset."""
        records = [Record(index, now_ms + index, key, value) for index, (key, value) in enumerate(pairs)]
        return self.append(build_batch(records, compression=codec))

    def append(self, batch: bytearray, origin: AppendOrigin = AppendOrigin.CLIENT) -> int:
        config = self.log.config
        self.log.config = replace(config, cleanup_compact=False)  # lets records without a key in, as old logs have them
        try:
            info = lead_and_append(self.log, batch, leader_epoch=0, origin=origin, now_ms=NOW)
        finally:
            self.log.config = config
        self.log.advance_high_watermark(self.log.log_end_offset)
        return info.first_offset

    def transactional(self, producer_id: int, sequence: int, *pairs: Pair, epoch: int = 0) -> int:
        records = [Record(index, NOW, key, value) for index, (key, value) in enumerate(pairs)]
        return self.append(
            build_batch(
                records, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, transactional=True
            )
        )

    def end(self, producer_id: int, kind: ControlType, epoch: int = 0) -> int:
        marker = end_transaction_marker(kind, 0, timestamp_ms=NOW, producer_id=producer_id, producer_epoch=epoch)
        return self.append(marker, AppendOrigin.COORDINATOR)

    def roll(self) -> None:
        self.log.roll(NOW)

    def plan(self, now_ms: int = NOW) -> CleaningPlan:
        return plan_cleaning(self.log, self.checkpoint, now_ms)

    def clean(self, now_ms: int = NOW, *, memory_bytes: int = 1 << 20) -> CleaningResult:
        result = finish(clean(self.log, self.plan(now_ms), now_ms, memory_bytes=memory_bytes))
        self.checkpoint = result.next_dirty_offset
        return result

    def batches(self) -> list[tuple[BatchHeader, list[Record]]]:
        """Everything on the disk, read segment by segment; checked on the way."""
        found = []
        end = -1
        for segment in self.log.segments:
            data = self.disk.read_bytes(segment.path(".log"))
            size = 0
            for position, header in iter_batches(data):
                assert check_crc(data, position, header)
                assert segment.base_offset <= header.base_offset
                assert header.base_offset > end
                end = header.last_offset
                records = read_records(data, position)
                offsets = [record.offset for record in records]
                assert offsets == sorted(set(offsets))
                assert all(header.base_offset <= offset <= header.last_offset for offset in offsets)
                found.append((header, records))
                size += header.size
            assert size == len(data)
        return found

    def records(self) -> list[Record]:
        return [record for header, records in self.batches() if not header.is_control for record in records]

    def pairs(self) -> list[tuple[int, bytes | None, bytes | None]]:
        return [(record.offset, record.key, record.value) for record in self.records()]

    def markers(self) -> list[int]:
        return [header.base_offset for header, records in self.batches() if header.is_control and records]


def finish(generator: Iterator[int]) -> CleaningResult:
    """Run all slices."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            result: CleaningResult = stop.value
            return result


# ------------------------------------------------------------------------------------------------ against a model

keys = st.sampled_from([None, b"a", b"b", b"c", b"d", b"long key that is not short"])
values = st.none() | st.sampled_from([b"", b"x", b"value" * 10])
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.lists(st.tuples(keys, values), min_size=1, max_size=6), st.sampled_from(CompressionType)
        ),
        st.tuples(st.just("roll")),
        st.tuples(st.just("clean"), st.integers(0, 700)),
        st.tuples(st.just("reopen")),
    ),
    min_size=5,
    max_size=30,
)


class Model:
    """What must be left, record by record. Batches matter only for the delete horizon."""

    def __init__(self) -> None:
        self.records: list[tuple[Record, int]] = []
        self.horizons: dict[int, int] = {}

    def put(self, first_offset: int, pairs: list[Pair]) -> None:
        for index, (key, value) in enumerate(pairs):
            self.records.append((Record(first_offset + index, NOW + index, key, value), first_offset))

    def clean(self, end: int, segments_end: int, now_ms: int) -> None:
        """Keep the last of each key below `end`; segments reach to `segments_end`."""
        last = {record.key: record.offset for record, _ in self.records if record.offset < end}
        kept = []
        for record, batch in self.records:
            if record.offset < end:
                if record.key is None or last[record.key] != record.offset:
                    continue
                if record.value is None and self.horizons.get(batch, now_ms + 1) <= now_ms:
                    continue
            kept.append((record, batch))
        self.records = kept
        for record, batch in kept:
            if record.value is None and record.offset < segments_end:
                self.horizons.setdefault(batch, now_ms + CONFIG.delete_retention_ms)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, small=st.booleans(), tight=st.booleans())
def test_cleaned_log_is_the_model(steps: list[tuple[object, ...]], small: bool, tight: bool) -> None:
    """Any mix of appends, rolls, passes and restarts: what is left is exactly what the model says."""
    table = Table(replace(CONFIG, segment_bytes=700 if small else 1 << 20))
    model = Model()
    now_ms = NOW
    for step in steps:
        if step[0] == "put":
            _, pairs, codec = step
            model.put(table.put(*pairs, codec=codec), pairs)  # type: ignore[arg-type,misc]
        elif step[0] == "roll":
            table.roll()
        elif step[0] == "reopen":
            table.log.close()
            table.open(clean=True)
        else:
            now_ms += step[1]  # type: ignore[operator]
            plan = table.plan(now_ms)
            # 600 bytes hold 16 slots: 14 keys
            result = table.clean(now_ms, memory_bytes=600 if tight else 1 << 20)
            assert (
                plan.first_dirty_offset
                <= result.next_dirty_offset
                <= max(plan.first_uncleanable_offset, plan.first_dirty_offset)
            )
            if plan.dirty_bytes:
                model.clean(result.next_dirty_offset, plan.first_uncleanable_offset, now_ms)
        assert table.records() == [record for record, _ in model.records]
    end = table.log.log_end_offset
    table.open()  # an unclean start reads everything again
    assert table.records() == [record for record, _ in model.records]
    assert table.log.log_end_offset == end
    for record, _ in model.records:
        first = next(iter_batches(table.log.read(record.offset, 1, upper_offset=end).read()))[1]
        assert first.base_offset <= record.offset <= first.last_offset


def test_table_read_from_the_log_is_the_last_value_of_each_key() -> None:
    """A long random history with all codecs: the table a consumer builds is the dict."""
    random = Random(5)
    table = Table(replace(CONFIG, segment_bytes=2000))
    expected: dict[bytes, bytes] = {}
    for round_number in range(6):
        for _ in range(60):
            pairs: list[Pair] = []
            for _ in range(random.randint(1, 8)):
                key = b"key-%d" % random.randrange(50)
                value: bytes | None = random.choice([None, b"v%d" % random.randrange(10**6)])
                pairs.append((key, value))
                if value is None:
                    expected.pop(key, None)
                else:
                    expected[key] = value
            table.put(*pairs, codec=random.choice(list(CompressionType)))
        table.clean(NOW + round_number * 600)
        found: dict[bytes | None, bytes] = {}
        for _, read_key, read_value in table.pairs():
            if read_value is None:
                found.pop(read_key, None)
            else:
                found[read_key] = read_value
        assert found == expected
    assert len(table.records()) < 250


# ------------------------------------------------------------------------------------------------ what is due


def test_active_segment_is_never_cleaned() -> None:
    table = Table()
    table.put((b"a", b"1"))
    table.put((b"a", b"2"))
    plan = table.plan()
    assert (plan.dirty_bytes, plan.is_due(CONFIG)) == (0, False)
    assert table.clean().records_read == 0
    assert len(table.records()) == 2


def test_dirty_ratio_decides() -> None:
    table = Table()
    for _ in range(4):
        table.put((b"a", b"1"))
    table.roll()
    assert table.plan().dirty_ratio == 1.0
    table.clean()
    assert table.plan().dirty_ratio == 0.0
    assert not table.plan().is_due(CONFIG)
    table.put((b"b", b"1"))
    table.roll()
    plan = table.plan()
    assert plan.clean_bytes == plan.dirty_bytes
    assert not plan.is_due(CONFIG)  # 0.5 is not above 0.5
    assert plan.is_due(replace(CONFIG, min_cleanable_dirty_ratio=0.49))


def test_nothing_at_or_above_the_last_stable_offset_is_cleaned() -> None:
    table = Table()
    table.put((b"a", b"1"))
    table.roll()
    table.transactional(7, 0, (b"a", b"2"))
    table.roll()
    table.put((b"a", b"3"))
    table.roll()
    assert table.plan().first_uncleanable_offset == 1
    table.end(7, ControlType.COMMIT)
    table.roll()
    assert table.plan().first_uncleanable_offset == 4


def test_nothing_above_the_high_watermark_is_cleaned() -> None:
    table = Table()
    for value in (b"1", b"2", b"3"):
        table.put((b"a", value))
        table.roll()
    table.log.high_watermark = 2
    assert table.plan().first_uncleanable_offset == 2
    table.clean()
    assert [offset for offset, _, _ in table.pairs()] == [1, 2]


def test_young_records_wait_for_the_minimum_lag() -> None:
    table = Table(replace(CONFIG, min_compaction_lag_ms=500))
    table.put((b"a", b"1"), now_ms=NOW)
    table.roll()
    table.put((b"a", b"2"), now_ms=NOW + 400)
    table.roll()
    assert table.plan(NOW + 499).dirty_bytes == 0
    assert table.plan(NOW + 500).first_uncleanable_offset == 1
    assert table.plan(NOW + 900).first_uncleanable_offset == 2


def test_old_dirt_is_cleaned_whatever_the_ratio() -> None:
    config = replace(CONFIG, max_compaction_lag_ms=500, min_cleanable_dirty_ratio=1.0)
    table = Table(config)
    table.put((b"a", b"1"))
    table.roll()
    assert not table.plan(NOW + 500).is_due(config)
    assert table.plan(NOW + 501).is_due(config)
    table.clean(NOW + 501)
    assert not table.plan(NOW + 9999).is_due(config)


@pytest.mark.parametrize("checkpoint", [-1, 1, 99])
def test_checkpoint_outside_of_the_log_counts_as_its_start(checkpoint: int) -> None:
    table = Table()
    for value in (b"1", b"2", b"3"):
        table.put((b"a", value))
        table.roll()
    table.log.advance_log_start(2)
    table.checkpoint = checkpoint
    assert table.plan().first_dirty_offset == 2


# ------------------------------------------------------------------------------------------------ what stays


def test_records_without_a_key_are_dropped() -> None:
    table = Table()
    table.put((None, b"1"), (b"a", b"2"), (None, None))
    table.roll()
    table.clean()
    assert table.pairs() == [(1, b"a", b"2")]


def test_batch_keeps_its_offsets_sequences_and_epoch() -> None:
    table = Table()
    records = [Record(index, NOW + index, b"k%d" % (index % 2), b"v", (("h", b"1"),)) for index in range(6)]
    table.append(build_batch(records, producer_id=9, producer_epoch=3, base_sequence=20))
    table.put((b"k1", b"new"))
    table.roll()
    table.clean()
    header, left = table.batches()[0]
    assert (header.base_offset, header.last_offset, header.partition_leader_epoch) == (0, 5, 0)
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence) == (9, 3, 20, 25)
    assert header.max_timestamp == NOW + 4
    assert left == [records[4]]


@pytest.mark.parametrize("codec", list(CompressionType))
def test_rewritten_batch_keeps_its_codec(codec: CompressionType) -> None:
    table = Table()
    table.put((b"a", b"1"), (b"b", b"1"), codec=codec)
    table.put((b"a", b"2"), codec=codec)
    table.roll()
    table.clean()
    assert [header.compression for header, _ in table.batches()] == [codec, codec]
    assert table.pairs() == [(1, b"b", b"1"), (2, b"a", b"2")]


def test_log_append_time_stays() -> None:
    table = Table(replace(CONFIG, message_timestamp_type="LogAppendTime"))
    table.put((b"a", b"1"), (b"b", None))
    table.put((b"a", b"2"))
    table.roll()
    table.clean()
    header, records = table.batches()[0]
    assert header.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert header.has_delete_horizon
    assert [record.timestamp for record in records] == [NOW]


def test_tombstone_goes_one_pass_after_its_horizon() -> None:
    table = Table()
    table.put((b"a", b"1"), (b"b", b"1"))
    table.put((b"a", None))
    table.roll()

    table.clean(NOW)
    header, records = table.batches()[1]
    assert header.delete_horizon_ms == NOW + 1000
    assert records == [Record(2, NOW, b"a", None)]
    assert table.pairs() == [(1, b"b", b"1"), (2, b"a", None)]

    for now_ms, left in ((NOW + 999, 3), (NOW + 1000, 3)):
        table.put((b"x%d" % now_ms, b""))
        table.roll()
        table.clean(now_ms)
        assert len(table.pairs()) == left


def test_last_batch_of_the_round_stays_as_a_header() -> None:
    table = Table()
    table.put((b"a", b"1"))
    table.put((None, b"no key"))
    table.roll()
    table.clean()
    assert [(header.base_offset, len(records)) for header, records in table.batches()] == [(0, 1), (1, 0)]


def test_last_sequence_of_a_producer_survives_without_its_records() -> None:
    table = Table()
    for sequence in range(3):
        records = [Record(0, NOW, b"a", b"%d" % sequence)]
        table.append(build_batch(records, producer_id=5, producer_epoch=0, base_sequence=sequence))
    table.put((b"a", b"other"))
    table.roll()
    table.clean()
    assert [(header.base_offset, len(records)) for header, records in table.batches()] == [(2, 0), (3, 1)]
    table.open()
    assert table.log.producers.entries[5].last_sequence == 2
    again = lead_and_append(
        table.log,
        build_batch([Record(0, NOW, b"a", b"2")], producer_id=5, producer_epoch=0, base_sequence=2),
        leader_epoch=0,
        now_ms=NOW,
    )
    assert again.duplicate


def test_forgotten_producer_keeps_nothing() -> None:
    table = Table()
    table.append(build_batch([Record(0, NOW, b"a", b"1")], producer_id=5, producer_epoch=0, base_sequence=0))
    table.put((b"a", b"2"))
    table.roll()
    del table.log.producers.entries[5]
    table.clean()
    assert [header.base_offset for header, _ in table.batches()] == [1]


# ------------------------------------------------------------------------------------------------ transactions


def test_aborted_records_go_and_leave_the_committed_value() -> None:
    table = Table()
    table.put((b"a", b"committed"))
    first = table.transactional(7, 0, (b"a", b"aborted"), (b"b", b"aborted"))
    table.end(7, ControlType.ABORT)
    table.put((b"c", b"1"))
    table.roll()
    assert table.log.aborted_transactions(0, 99) == [(7, first)]
    table.clean()
    assert table.pairs() == [(0, b"a", b"committed"), (4, b"c", b"1")]


def test_aborted_records_go_although_the_marker_is_in_the_active_segment() -> None:
    table = Table()
    table.put((b"a", b"committed"))
    table.transactional(7, 0, (b"a", b"aborted"))
    table.roll()
    table.end(7, ControlType.ABORT)
    assert table.plan().first_uncleanable_offset == 2
    table.clean()
    assert table.pairs() == [(0, b"a", b"committed")]


def test_marker_goes_late_after_its_records() -> None:
    """1. The pass that drops the records keeps the marker and its index entry. 2. The next one finds no records
    and writes the horizon. 3. A pass after the horizon drops the marker.
    """
    table = Table()
    table.transactional(7, 0, (b"a", b"aborted"))
    table.transactional(7, 1, (b"a", b"aborted too"))
    marker = table.end(7, ControlType.ABORT)
    table.put((b"c", b"1"))
    table.roll()
    del table.log.producers.entries[7]

    def another_pass(now_ms: int) -> None:
        table.put((b"c", b"next"))
        table.roll()
        table.clean(now_ms)

    table.clean(NOW)
    assert table.markers() == [marker]
    assert [entry.first_offset for entry in table.log.segments[0].transaction_index.entries()] == [0]
    another_pass(NOW)
    assert table.markers() == [marker]
    assert next(header for header, _ in table.batches()).delete_horizon_ms == NOW + 1000
    assert table.log.segments[0].transaction_index.entries() == []
    another_pass(NOW + 999)
    assert table.markers() == [marker]
    another_pass(NOW + 1000)
    assert table.markers() == []


def test_commit_marker_stays_while_its_records_do() -> None:
    table = Table()
    table.transactional(7, 0, (b"a", b"1"))
    marker = table.end(7, ControlType.COMMIT)
    table.put((b"b", b"1"))
    table.roll()
    del table.log.producers.entries[7]
    for turn in range(3):
        table.clean(NOW + turn * 5000)
        assert table.markers() == [marker]
        table.put((b"c", b"1"))
        table.roll()
    table.put((b"a", b"2"))
    table.roll()
    for turn in range(3, 6):
        table.clean(NOW + turn * 5000)
        table.put((b"c", b"1"))
        table.roll()
    assert table.markers() == []
    assert (0, b"a", b"1") not in table.pairs()


def test_transaction_over_several_segments() -> None:
    table = Table()
    table.transactional(7, 0, (b"a", b"aborted"))
    table.roll()
    table.transactional(8, 0, (b"b", b"committed"))
    table.transactional(7, 1, (b"b", b"aborted"))
    table.roll()
    table.end(8, ControlType.COMMIT)
    table.end(7, ControlType.ABORT)
    table.transactional(7, 2, (b"a", b"committed"))
    table.end(7, ControlType.COMMIT)
    table.roll()
    table.clean()
    assert table.pairs() == [(1, b"b", b"committed"), (5, b"a", b"committed")]
    table.open()
    assert table.pairs() == [(1, b"b", b"committed"), (5, b"a", b"committed")]


def test_marker_of_a_producer_without_data_stays_for_its_epoch() -> None:
    table = Table()
    table.transactional(7, 0, (b"a", b"1"))
    table.end(7, ControlType.COMMIT, epoch=4)
    table.put((b"a", b"2"))
    table.roll()
    for turn in range(4):
        table.clean(NOW + turn * 5000)
        table.put((b"z", b"%d" % turn))
        table.roll()
    markers = [header for header, _ in table.batches() if header.is_control]
    assert [header.producer_epoch for header in markers] == [4]
    assert markers[0].record_count == 0


# ------------------------------------------------------------------------------------------------ memory, segments


def test_full_map_ends_the_pass_early_and_the_next_goes_on() -> None:
    table = Table()
    for number in range(40):
        table.put((b"k%d" % (number % 20), b"%d" % number))
    table.roll()
    result = table.clean(memory_bytes=600)
    assert (result.map_full, result.keys, result.next_dirty_offset) == (True, 14, 14)
    passes = 1
    while table.plan().dirty_bytes and table.checkpoint != 40:
        table.clean(memory_bytes=600)
        passes += 1
    assert passes == 3
    assert [offset for offset, _, _ in table.pairs()] == list(range(20, 40))


def test_batch_of_more_keys_than_the_memory_holds_is_uncleanable() -> None:
    table = Table()
    table.put(*((b"k%d" % number, b"") for number in range(20)))
    table.roll()
    with pytest.raises(UncleanableError, match="600 bytes"):
        table.clean(memory_bytes=600)
    assert len(table.records()) == 20


def test_map_grows_within_its_memory() -> None:
    offsets = OffsetMap(1 << 20)
    assert offsets.capacity == int(16384 * 0.9)
    for start in range(0, offsets.capacity, 97):
        count = min(97, offsets.capacity - start)
        records = [Record(start + index, 0, b"%d" % (start + index), b"") for index in range(count)]
        batch = build_batch(records)
        assert offsets.add_batch(memoryview(batch)[61:], count, start, 0)
    assert offsets.keys == offsets.capacity
    assert len(offsets.table) * 8 <= 1 << 20
    extra = build_batch([Record(0, 0, b"one more", b"")])
    assert not offsets.add_batch(memoryview(extra)[61:], 1, 0, 0)
    known = build_batch([Record(0, 0, b"7", b"")])
    assert offsets.add_batch(memoryview(known)[61:], 1, 10**9, 0)


def test_small_segments_become_one() -> None:
    table = Table()
    for number in range(10):
        table.put((b"k%d" % number, b"v"))
        table.roll()
    result = table.clean()
    assert (result.segments_before, result.segments_after) == (10, 1)
    assert [segment.base_offset for segment in table.log.segments] == [0, 10]
    assert len(table.records()) == 10


def test_groups_fit_into_a_segment() -> None:
    table = Table(replace(CONFIG, segment_bytes=200))
    for number in range(10):
        table.put((b"k%d" % number, b"v"))
        table.roll()
    size = table.log.segments[0].size
    groups = group_segments(table.log, 10)
    assert [segment.base_offset for group in groups for segment in group] == list(range(10))
    assert all(len(group) * size <= 200 for group in groups)
    assert len(groups[0]) == 200 // size


def test_groups_span_no_more_offsets_than_an_index_can_say() -> None:
    table = Table()
    for base in (0, 2**31 - 2, 2**31 + 5):
        records = [Record(base, NOW, b"k%d" % base, b"v")]
        if base > table.log.log_end_offset:
            table.log.fence()
            table.log.append_as_follower(build_batch(records, leader_epoch=0))
        else:
            table.put((b"k0", b"v"))
        table.log.advance_high_watermark(base + 1)
        table.roll()
    groups = group_segments(table.log, 2**31 + 6)
    assert all(
        table.log.segments[table.log.segments.index(group[-1]) + 1].base_offset - group[0].base_offset <= 2**31
        for group in groups
    )
    assert len(groups) == 2


def test_time_of_the_last_file_is_kept() -> None:
    time = [NOW]
    table = Table(disk=MemoryFiles(lambda: time[0]))
    table.put((b"a", b"1"))
    table.roll()
    time[0] += 5000
    table.clean()
    assert table.disk.mtime_ms(table.log.segments[0].path(".log")) == NOW


def test_work_comes_in_slices() -> None:
    table = Table()
    for number in range(40):
        table.put((b"k%d" % number, bytes(200_000)))
    table.roll()
    slices = list(clean(table.log, table.plan(), NOW))
    assert len(slices) > 15
    assert max(slices) < 3 << 20
    assert sum(slices) == pytest.approx(3 * 40 * 200_000, rel=0.01)


# ------------------------------------------------------------------------------------------------ what may go wrong


def two_segments() -> Table:
    table = Table()
    for value in (b"1", b"2", b"3"):
        table.put((b"a", value), (b"k" + value, value))
        table.roll()
    return table


def test_given_up_pass_changes_nothing() -> None:
    table = two_segments()
    before = table.pairs()
    names = table.disk.listdir(DIRECTORY)
    for slices in (1, 2):
        generator = clean(table.log, table.plan(), NOW)
        for _ in range(slices):
            next(generator)
        generator.close()
        assert table.pairs() == before
        assert table.disk.listdir(DIRECTORY) == names


def test_segment_deleted_meanwhile_aborts_the_pass() -> None:
    table = two_segments()
    generator = clean(table.log, table.plan(), NOW)
    next(generator)
    next(generator)
    table.log.config = replace(CONFIG, cleanup_delete=True, retention_ms=1)
    table.log.advance_log_start(2)
    assert table.log.delete_old_segments(NOW + 1) >= 1
    with pytest.raises(CleaningAbortedError):
        finish(generator)
    assert not [name for name in table.disk.listdir(DIRECTORY) if "cleaned" in name or "swap" in name]


def test_appends_and_reads_go_on_meanwhile() -> None:
    table = two_segments()
    generator = clean(table.log, table.plan(), NOW)
    next(generator)
    late = table.put((b"a", b"late"))
    table.roll()
    finish(generator)
    assert (late, b"a", b"late") in table.pairs()
    assert [pair[0] for pair in table.pairs()] == [1, 3, 4, 5, late]


def test_damaged_batch_makes_the_log_uncleanable() -> None:
    table = two_segments()
    segment = table.log.segments[1]
    data = bytearray(table.disk.read_bytes(segment.path(".log")))
    data[-1] ^= 1
    table.disk.write_atomic(segment.path(".log"), data)
    table.log.close()
    table.open(clean=True)
    with pytest.raises(UncleanableError, match="CRC"):
        table.clean()
    assert not [name for name in table.disk.listdir(DIRECTORY) if "cleaned" in name]


def test_full_disk_leaves_the_log_as_it_was() -> None:
    table = two_segments()
    before = table.pairs()
    table.disk.capacity = table.disk.used
    with pytest.raises(OSError, match="space") as caught:
        table.clean()
    assert caught.value.errno == errno.ENOSPC
    assert table.pairs() == before
    assert not [name for name in table.disk.listdir(DIRECTORY) if "cleaned" in name]
    table.disk.capacity = 1 << 62
    table.clean()
    assert len(table.pairs()) == 4


def counting(limit: int) -> Callable[[str, str], None]:
    """A fault: the process dies before operation number `limit` on the disk."""
    left = [limit]

    def fail(operation: str, path: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, "dead", path)

    return fail


@pytest.mark.parametrize("power", [False, True])
def test_crash_at_any_operation_leaves_old_or_new_segments(power: bool) -> None:
    """The process is killed, or the power cut, before the n-th disk operation of a pass, for every n."""
    crashes = 0
    for operations in range(200):
        table = Table(replace(CONFIG, segment_bytes=300))
        for number in range(6):
            table.put((b"a", b"%d" % number), (b"k%d" % (number % 3), b"v%d" % number))
            if number % 2:
                table.roll()
        table.log.flush()
        last = {key: value for _, key, value in table.pairs()}
        everything = set(table.pairs())
        table.disk.fail = counting(operations)
        try:
            table.clean()
            done = True
        except (OSError, StorageError):
            done = False
            crashes += 1
        table.disk.fail = None
        if power:
            table.disk.power_cut(Random(operations))
        else:
            table.disk.kill()
        table.open()
        left = table.pairs()
        assert {key: value for _, key, value in left} == last
        assert set(left) <= everything
        assert table.log.log_end_offset == 12
        names = table.disk.listdir(DIRECTORY)
        assert not [name for name in names if name.endswith((".cleaned", ".swap"))]
        table.checkpoint = None
        table.clean()
        assert len(table.pairs()) == len(last)
        if done:
            break
    assert done
    assert crashes > 30
