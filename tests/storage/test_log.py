"""Rolling, reading, replication, transactions, retention, deletion: what a partition's log does, one thing at a time."""

from __future__ import annotations

import dataclasses
import random

import pytest
from tests.protocol.records.legacy_support import mixed_runs
from tests.storage.log_support import (
    DIRECTORY,
    NOW,
    TOPIC_ID,
    append,
    append_many,
    batch,
    idempotent,
    marker,
    open_log,
    read_all,
    value_of,
)

from ottla.errors import (
    CorruptMessageError,
    InvalidProducerEpochError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    StorageError,
)
from ottla.protocol.records.batch import read_header, set_offset_and_epoch
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType
from ottla.protocol.records.reader import iter_records
from ottla.protocol.records.walk import iter_batches
from ottla.storage.config import LogConfig
from ottla.storage.index import WouldBlockError
from ottla.storage.log import PartitionLog
from ottla.storage.segment import Segment
from ottla.testing.memory_files import MemoryFiles
from ottla.types import CompressionType

SMALL = LogConfig(segment_bytes=900, index_interval_bytes=0)
HOUR = 3_600_000


def bases(log: PartitionLog) -> list[int]:
    return [segment.base_offset for segment in log.segments]


# ------------------------------------------------------------------------------------------------ append


def test_offsets_and_leader_epoch_are_written_into_the_batch() -> None:
    log = open_log()
    append(log, batch([b"a", b"b"]))
    info = append(log, batch([b"c", b"d", b"e"]), leader_epoch=5)
    assert info == (2, 4, -1, 0, False)
    header = read_header(log.read(2, 1000, upper_offset=5).read())
    assert (header.base_offset, header.partition_leader_epoch) == (2, 5)
    assert log.leader_epochs.entries == [(0, 0), (5, 2)]


def test_log_append_time_goes_into_the_answer() -> None:
    log = open_log(config=LogConfig(message_timestamp_type="LogAppendTime"))
    assert append(log, batch([b"a"], timestamp=NOW - 5), now_ms=NOW).log_append_time_ms == NOW
    assert read_all(log)[0].timestamp == NOW


def test_a_refused_batch_leaves_no_trace() -> None:
    log = open_log()
    damaged = batch([b"a"])
    damaged[-1] ^= 1
    with pytest.raises(CorruptMessageError):
        append(log, damaged)
    assert (log.log_end_offset, log.size) == (0, 0)


def test_a_duplicate_is_answered_with_the_first_append() -> None:
    log = open_log()
    first = append(log, idempotent(7, 0, 0, 3))
    append(log, batch([b"x"]))
    again = append(log, idempotent(7, 0, 0, 3))
    assert again.duplicate
    assert (again.first_offset, again.last_offset) == (first.first_offset, first.last_offset)
    assert log.log_end_offset == 4


# ------------------------------------------------------------------------------------------------ roll


def test_a_full_segment_is_sealed() -> None:
    log = open_log(config=SMALL)
    append_many(log, 12)
    assert bases(log) == [0, 5, 10]
    assert all(segment.size <= 900 for segment in log.segments)


def test_a_segment_is_sealed_when_it_spans_segment_ms_of_record_time() -> None:
    log = open_log(config=LogConfig(segment_ms=HOUR))
    for stamp in (NOW, NOW + HOUR, NOW + HOUR + 1):
        append(log, batch([b"x"], timestamp=stamp), now_ms=stamp)
    assert bases(log) == [0, 2]


def test_without_timestamps_the_age_of_the_segment_counts() -> None:
    log = open_log(config=LogConfig(segment_ms=HOUR))
    append(log, batch([b"x"], timestamp=-1), now_ms=NOW)
    append(log, batch([b"x"], timestamp=-1), now_ms=NOW + HOUR)
    append(log, batch([b"x"], timestamp=-1), now_ms=NOW + HOUR + 1)
    assert bases(log) == [0, 2]


def test_an_empty_segment_is_not_sealed() -> None:
    log = open_log(config=LogConfig(segment_ms=HOUR))
    append(log, batch([b"x"]), now_ms=NOW + 2 * HOUR)
    log.roll(NOW)
    log.roll(NOW)
    assert bases(log) == [0, 1]


def test_jitter_spreads_the_rolls_of_partitions() -> None:
    log = open_log(config=LogConfig(segment_ms=HOUR, segment_jitter_ms=HOUR))
    append(log, batch([b"x"], timestamp=NOW))
    append(log, batch([b"x"], timestamp=NOW + HOUR), now_ms=NOW)
    assert bases(log) == [0, 1], "an hour later than the first record, minus the jitter"


def test_a_full_index_seals_the_segment() -> None:
    log = open_log(config=LogConfig(index_interval_bytes=0, segment_index_bytes=60))
    for number in range(20):
        append(log, batch([b"x"], timestamp=NOW + number))
    assert all(segment.time_index.count <= 5 for segment in log.segments)
    assert all(segment.offset_index.count <= 7 for segment in log.segments)
    assert len(log.segments) > 3


def test_a_sealed_segment_has_its_largest_timestamp_in_the_index_and_a_snapshot_follows_it() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, LogConfig())
    for stamp in (NOW, NOW + 7, NOW + 3):
        append(log, batch([b"x"], timestamp=stamp))
    log.roll(NOW)
    assert log.segments[0].time_index.entries() == [(NOW + 7, 1)]
    assert files.exists(f"{DIRECTORY}/{3:020d}.snapshot")


def test_index_entries_come_with_the_first_batch_after_more_than_the_interval() -> None:
    size = batch_size()
    for interval, indexed in ((0, [1, 2, 3]), (size - 1, [1, 2, 3]), (size, [2]), (2 * size - 1, [2]), (2 * size, [3])):
        log = open_log(config=LogConfig(index_interval_bytes=interval))
        append_many(log, 4)
        assert log.active_segment.offset_index.entries() == [(offset, offset * size) for offset in indexed]


# ------------------------------------------------------------------------------------------------ read


def test_reading_outside_of_the_log_is_refused() -> None:
    log = open_log(config=SMALL)
    append_many(log, 12)
    log.advance_high_watermark(12)
    log.advance_log_start(3)
    for offset in (-1, 2, 13):
        with pytest.raises(OffsetOutOfRangeError):
            log.read(offset, 100, upper_offset=12)
    assert log.read(12, 100, upper_offset=12).size == 0


def test_a_batch_is_cut_off_unless_it_is_the_first() -> None:
    log = open_log()
    append_many(log, 3)
    size = log.size // 3
    assert log.read(0, 2 * size, upper_offset=3).size == 2 * size
    assert log.read(0, 2 * size - 1, upper_offset=3).size == size
    assert log.read(0, 1, upper_offset=3).size == size
    assert log.read(0, 1, upper_offset=3, min_one=False).size == 0


def test_a_batch_that_reaches_the_upper_offset_is_left_out() -> None:
    log = open_log(config=SMALL)
    append(log, batch([b"a", b"b"]))
    append(log, batch([b"c", b"d"]))
    log.roll(NOW)  # the same through the index as from memory
    for upper, expected in ((4, [0, 1, 2, 3]), (3, [0, 1]), (2, [0, 1]), (1, [])):
        part = log.read(0, 1000, upper_offset=upper)
        assert [record.offset for record in iter_records(part.read())] == expected


def test_the_newest_batches_are_found_without_the_index() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files)
    append_many(log, 3000)
    files.fail = lambda operation, path: pytest.fail(f"{operation} {path}") if operation == "pread" else None
    for offset in (2999, 2500):
        part = log.read(offset, 10_000, upper_offset=3000)
        assert part.size > 0
    files.fail = None
    assert [record.value for record in read_all(log, 2990)] == [value_of(offset) for offset in range(2990, 3000)]


def test_a_sequential_reader_needs_the_index_once() -> None:
    log = open_log()
    append_many(log, 5000)
    log.roll(NOW)
    append_many(log, 1)
    assert [record.offset for record in read_all(log, max_bytes=20_000)] == list(range(5001))


def test_a_lookup_that_would_wait_says_so() -> None:
    log = open_log(config=SMALL)
    append_many(log, 30)
    segment_file = type(log.segments[0].file)
    original = segment_file.pread_nowait
    try:
        segment_file.pread_nowait = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(WouldBlockError):
            log.read(3, 100, upper_offset=30, nowait=True)
    finally:
        segment_file.pread_nowait = original  # type: ignore[method-assign]
    assert log.read(3, 100, upper_offset=30, nowait=True).size > 0


def test_a_slice_survives_the_deletion_of_its_segment() -> None:
    log = open_log(config=SMALL)
    append_many(log, 12)
    part = log.read(0, 200, upper_offset=12)
    log.advance_high_watermark(12)
    log.advance_log_start(10)
    assert log.delete_old_segments(NOW) == 2
    assert next(iter_records(part.read())).value == value_of(0)


# ------------------------------------------------------------------------------------------------ by time


def test_the_first_record_at_or_after_a_time() -> None:
    log = open_log(config=SMALL)
    for number in range(20):
        append(log, batch([b"." * 100], timestamp=NOW + 10 * number))
    found = log.offset_for_timestamp(NOW + 71)
    assert found == (8, NOW + 80, 0)
    assert log.offset_for_timestamp(NOW - 1) == (0, NOW, 0)
    assert log.offset_for_timestamp(NOW + 191) is None


def test_a_time_inside_a_compressed_batch() -> None:
    log = open_log()
    records = [Record(index, NOW + index, b"k", b"v") for index in range(5)]
    append(log, build_batch(records, compression=CompressionType.GZIP))
    assert log.offset_for_timestamp(NOW + 3) == (3, NOW + 3, 0)
    assert log.offset_of_max_timestamp() == (4, NOW + 4, 0)


def test_times_before_the_log_start_are_not_found() -> None:
    log = open_log(config=SMALL)
    append_many(log, 10)
    log.advance_high_watermark(10)
    log.advance_log_start(7)
    assert log.offset_for_timestamp(NOW) == (7, NOW, 0)


# ------------------------------------------------------------------------------------------------ replication


def test_a_follower_keeps_offsets_and_epochs_and_may_skip_offsets() -> None:
    leader, follower = open_log(config=SMALL), open_log(config=SMALL)
    append_many(leader, 12, leader_epoch=3)
    data = b"".join(leader.read(offset, 1, upper_offset=12).read() for offset in (0, 1, 2, *range(6, 12)))
    follower.append_as_follower(bytearray(data), now_ms=NOW)
    assert [record.offset for record in read_all(follower)] == [0, 1, 2, *range(6, 12)]
    assert follower.leader_epochs.entries == [(3, 0)]
    assert follower.log_end_offset == 12
    assert len(follower.segments) == 2


def test_a_follower_takes_messages_of_formats_0_and_1_and_leaves_out_what_was_cut() -> None:
    runs = mixed_runs(random.Random(1), 40, base_ms=NOW)
    data = b"".join(run.encoded() for run in runs)
    log = open_log(config=SMALL)
    log.append_as_follower(bytearray(data[:-1]), now_ms=NOW)
    at, _ = list(iter_batches(data))[-1]
    assert log.log_end_offset <= runs[-1].records[-1].offset
    log.append_as_follower(bytearray(data[at:]), now_ms=NOW)
    log.advance_high_watermark(log.log_end_offset)
    assert read_all(log) == [record for run in runs for record in run.consumed()]
    assert len(log.segments) > 2


@pytest.mark.parametrize("damage", ["offset", "crc", "length", "magic"])
def test_a_follower_refuses_what_does_not_fit(damage: str) -> None:
    leader, follower = open_log(), open_log()
    append_many(leader, 3)
    data = bytearray(leader.read(0, 1000, upper_offset=3).read())
    if damage == "offset":
        set_offset_and_epoch(data, len(data) // 3, 0, 0)
    elif damage == "length":
        data[len(data) // 3 + 11] = 7
    elif damage == "magic":
        data[len(data) // 3 + 16] = 3
    else:
        data[-1] ^= 1
    with pytest.raises((OffsetOutOfRangeError, CorruptMessageError)):
        follower.append_as_follower(data, now_ms=NOW)
    assert follower.log_end_offset == 0


def test_a_follower_takes_no_batches_of_a_later_leader_than_its_own() -> None:
    """The leader of epoch 3 was slow to send, and had batches of the next leader in its file by then."""
    late, follower = open_log(), open_log()
    append_many(late, 2, leader_epoch=3)
    append_many(late, 1, leader_epoch=4)
    data = late.read(0, 1000, upper_offset=3).read()
    follower.follow(3)
    with pytest.raises(NotLeaderOrFollowerError):
        follower.append_as_follower(bytearray(data), now_ms=NOW, leader_epoch=3)
    assert follower.log_end_offset == 0
    follower.follow(4)
    follower.append_as_follower(bytearray(data), now_ms=NOW, leader_epoch=4)
    assert follower.leader_epochs.entries == [(3, 0), (4, 2)]


def test_truncation_takes_producers_and_epochs_back() -> None:
    log = open_log(config=SMALL)
    for sequence in range(20):
        append(log, idempotent(7, 0, sequence), leader_epoch=sequence // 8)
    log.truncate_to(10, now_ms=NOW)
    assert log.leader_epochs.entries == [(0, 0), (1, 8)]
    assert append(log, idempotent(7, 0, 9)).duplicate
    assert append(log, idempotent(7, 0, 10)).first_offset == 10


def test_starting_over_at_another_offset() -> None:
    log = open_log(config=SMALL)
    append_many(log, 12)
    log.truncate_fully_and_start_at(100)
    assert (log.log_start_offset, log.log_end_offset, log.high_watermark) == (100, 100, 100)
    assert log.leader_epochs.latest == -1
    append_many(log, 2)
    assert [record.offset for record in read_all(log)] == [100, 101]


# ------------------------------------------------------------------------------------------------ transactions


def transactional(log: PartitionLog, producer: int, sequence: int, count: int = 1) -> None:
    append(log, idempotent(producer, 0, sequence, count, transactional=True))


def test_the_last_stable_offset_waits_for_the_marker_to_be_replicated() -> None:
    log = open_log()
    append_many(log, 2)
    transactional(log, 7, 0)
    append_many(log, 1)
    log.advance_high_watermark(4)
    assert log.last_stable_offset == 2
    marker(log, ControlType.COMMIT, 7, 0)
    assert log.last_stable_offset == 2
    log.advance_high_watermark(5)
    assert log.last_stable_offset == 5


def test_aborted_transactions_are_listed_for_the_range_read() -> None:
    log = open_log(config=SMALL)
    transactional(log, 7, 0)  # offset 0
    transactional(log, 8, 0)  # offset 1
    marker(log, ControlType.ABORT, 7, 0)  # offset 2
    append_many(log, 10)
    marker(log, ControlType.ABORT, 8, 0)  # offset 13
    transactional(log, 7, 1)  # offset 14
    marker(log, ControlType.COMMIT, 7, 0)
    log.advance_high_watermark(16)
    assert len(log.segments) > 2
    assert log.aborted_transactions(0, 16) == [(7, 0), (8, 1)]
    assert log.aborted_transactions(3, 16) == [(8, 1)]
    assert log.aborted_transactions(14, 16) == []
    # The first entry's stable offset is 1, so more may follow; the second began before 2.
    assert log.aborted_transactions(0, 2) == [(7, 0), (8, 1)]
    assert log.aborted_transactions(0, 1) == [(7, 0)]


def test_an_empty_transaction_leaves_no_entry() -> None:
    log = open_log()
    marker(log, ControlType.ABORT, 7, 0)
    assert log.aborted_transactions(0, 1) == []
    assert log.log_end_offset == 1


def test_transactions_survive_a_crash_and_a_stop() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    transactional(log, 7, 0)
    append_many(log, 10)
    marker(log, ControlType.ABORT, 7, 0)
    transactional(log, 8, 0)
    for clean in (False, True):
        if clean:
            log.close()
        files.kill()
        log = open_log(files, SMALL, clean=clean, recovery_point=log.log_end_offset if clean else 0)
        log.advance_high_watermark(log.log_end_offset)
        assert log.last_stable_offset == 12
        assert log.aborted_transactions(0, 12) == [(7, 0)]


def test_a_late_marker_is_refused_and_not_written() -> None:
    log = open_log()
    append(log, idempotent(7, 3, 0, transactional=True))
    with pytest.raises(InvalidProducerEpochError):
        marker(log, ControlType.ABORT, 7, 3, version=2)
    assert log.log_end_offset == 1


# ------------------------------------------------------------------------------------------------ retention


def retained(config: LogConfig, stamps: list[int], now_ms: int = NOW, high_watermark: int | None = None) -> list[int]:
    """Five records of 100 bytes in each segment; return the bases that are left."""
    log = open_log(config=dataclasses.replace(config, segment_bytes=900, segment_ms=1 << 62))
    for stamp in stamps:
        append(log, batch([b"." * 100], timestamp=stamp), now_ms=NOW)
    log.advance_high_watermark(len(stamps) if high_watermark is None else high_watermark)
    log.delete_old_segments(now_ms)
    assert log.log_start_offset == bases(log)[0]
    return bases(log)


def test_segments_go_when_their_newest_record_is_too_old() -> None:
    stamps = [NOW + number for number in range(15)]
    config = LogConfig(retention_ms=1000)
    assert retained(config, stamps, NOW + 1000 + 4) == [0, 5, 10]
    assert retained(config, stamps, NOW + 1000 + 5) == [5, 10]
    assert retained(config, stamps, NOW + 1000 + 10) == [10]


def test_the_active_segment_goes_only_after_a_roll() -> None:
    assert retained(LogConfig(retention_ms=1000), [NOW] * 12, NOW + 1001) == [12]


def test_a_record_of_the_future_keeps_its_segment_and_all_behind_it() -> None:
    stamps = [NOW] * 5 + [NOW + HOUR] + [NOW] * 9
    assert retained(LogConfig(retention_ms=1000), stamps, NOW + 2000) == [5, 10]


def test_segments_go_while_what_is_left_is_large_enough() -> None:
    size = 15 * batch_size()
    config = LogConfig(retention_ms=-1, retention_bytes=size // 3)
    assert retained(config, [NOW] * 15) == [10]
    assert retained(dataclasses.replace(config, retention_bytes=size // 3 + 1), [NOW] * 15) == [5, 10]
    assert retained(dataclasses.replace(config, retention_bytes=-1), [NOW] * 15) == [0, 5, 10]


def batch_size() -> int:
    log = open_log()
    append(log, batch([b"." * 100]))
    return log.size


def test_nothing_above_the_high_watermark_goes() -> None:
    assert retained(LogConfig(retention_ms=1000), [NOW] * 15, NOW + 5000, high_watermark=9) == [5, 10]


def test_a_compacted_log_is_not_deleted_by_age() -> None:
    config = LogConfig(retention_ms=1000, cleanup_delete=False, cleanup_compact=True)
    assert retained(config, [NOW] * 15, NOW + 5000) == [0, 5, 10]


def test_what_lies_before_the_log_start_goes_under_any_policy() -> None:
    log = open_log(config=dataclasses.replace(SMALL, cleanup_delete=False, cleanup_compact=True))
    append_many(log, 15)
    log.advance_high_watermark(15)
    log.advance_log_start(9)
    assert log.delete_old_segments(NOW) == 1
    assert bases(log) == [5, 10]
    assert log.log_start_offset == 9


def test_without_timestamps_the_age_of_the_file_counts() -> None:
    stamps = [-1] * 10
    assert retained(LogConfig(retention_ms=1000), stamps, NOW + 1000) == [0, 5]
    assert retained(LogConfig(retention_ms=1000), stamps, NOW + 1001) == [10]


def test_records_above_the_high_watermark_cannot_be_deleted() -> None:
    log = open_log()
    append_many(log, 3)
    log.advance_high_watermark(2)
    with pytest.raises(OffsetOutOfRangeError):
        log.advance_log_start(3)
    assert log.advance_log_start(2)
    assert not log.advance_log_start(1)


# ------------------------------------------------------------------------------------------------ the rest


def test_the_topic_id_is_written_once_and_checked() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, topic_id=TOPIC_ID)
    assert files.read_bytes(f"{DIRECTORY}/partition.metadata").startswith(b"version: 0\ntopic_id: ")
    log.close()
    log = open_log(files, clean=True)
    assert log.topic_id == TOPIC_ID
    with pytest.raises(StorageError, match="belongs"):
        log.set_topic_id(bytes(15) + b"x")


def test_compacted_segments_take_the_place_of_their_originals() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    append_many(log, 20)
    old = log.segments[1:3]
    new = Segment(old[0].open_files, DIRECTORY, 5, suffix=".cleaned")
    new.create(NOW)
    for segment in old:
        for _, header, data in segment.batches():
            if header.base_offset % 2:
                new.note_batch(new.append(data), header.size, header.last_offset, header.max_timestamp, 0)
    new.finish()
    new.sync()
    new.release()
    log.replace_segments([new], old)
    assert bases(log) == [0, 5, 15]
    assert [record.offset for record in read_all(log)] == [*range(5), 5, 7, 9, 11, 13, *range(15, 20)]
    with pytest.raises(ValueError, match="sealed"):
        log.replace_segments([new], old)
    files.kill()
    assert [record.offset for record in read_all(open_log(files, SMALL))][5:10] == [5, 7, 9, 11, 13]


def test_a_closed_log_refuses_everything() -> None:
    log = open_log()
    append_many(log, 1)
    log.close()
    with pytest.raises(StorageError, match="closed"):
        append_many(log, 1)
    with pytest.raises(StorageError, match="closed"):
        log.read(0, 1, upper_offset=1)
