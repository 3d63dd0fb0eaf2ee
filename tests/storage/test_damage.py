"""Bytes on the disk that cannot be read: every read reports them, nothing readable is lost, the rest is served."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from tests.storage.log_support import (
    DIRECTORY,
    NOW,
    append,
    append_many,
    batch,
    idempotent,
    marker,
    old_message,
    open_log,
    read_all,
    value_of,
)

from ottla.errors import CorruptMessageError, NotLeaderOrFollowerError
from ottla.protocol.records.batch import read_header
from ottla.protocol.records.control import ControlType
from ottla.protocol.records.reader import iter_records
from ottla.storage.compaction import UncleanableError, clean, plan_cleaning
from ottla.storage.config import LogConfig
from ottla.storage.damage import UnreadableError
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles

#: Five records of 100 bytes in each segment.
SMALL = LogConfig(segment_bytes=900, index_interval_bytes=0)
COUNT = 20


def stopped(count: int = COUNT, config: LogConfig = SMALL) -> MemoryFiles:
    """Return a disk with a log that was stopped cleanly: one record in a batch, five in a segment."""
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, config)
    append_many(log, count)
    log.close()
    return files


def start(files: MemoryFiles, config: LogConfig = SMALL, *, end: int = COUNT) -> PartitionLog:
    return open_log(files, config, clean=True, recovery_point=end, high_watermark=end)


def path(base: int, kind: str = ".log") -> str:
    return f"{DIRECTORY}/{base:020d}{kind}"


def overwrite(files: MemoryFiles, name: str, position: int, data: bytes) -> None:
    old = files.read_bytes(name)
    files.write_atomic(name, old[:position] + data + old[position + len(data) :])


def batch_size(files: MemoryFiles, base: int = 5) -> int:
    return read_header(files.read_bytes(path(base))).size


def damage_length(files: MemoryFiles, length: int, *, base: int = 5, number: int = 2) -> None:
    """Give one batch of a segment another length."""
    overwrite(files, path(base), number * batch_size(files, base) + 8, struct.pack(">i", length))


def served(log: PartitionLog) -> tuple[list[int], list[int]]:
    """Return the offsets that can be read and those that get CORRUPT_MESSAGE; each is asked for by itself."""
    readable, corrupt = [], []
    for offset in range(log.log_start_offset, log.log_end_offset):
        try:
            part = log.read(offset, 1, upper_offset=log.log_end_offset)
        except CorruptMessageError:
            corrupt.append(offset)
            continue
        assert part.size, f"nothing for offset {offset}, and no error"
        first = next(record for record in iter_records(part.read()) if record.offset >= offset)
        assert (first.offset, first.value) == (offset, value_of(offset))
        readable.append(offset)
    return readable, corrupt


LENGTHS = [0, -5, 20, 48, 60, 100, 200, 500, 1_000_000, 0x7FFFFFFF]


# ------------------------------------------------------------------------------------------------ fetch


@pytest.mark.parametrize("length", LENGTHS)
def test_a_fetch_of_a_damaged_place_is_told_so_and_everything_else_is_served(length: int) -> None:
    files = stopped()
    damage_length(files, length)
    log = start(files)
    readable, corrupt = served(log)
    assert corrupt == [7]
    assert readable == [offset for offset in range(COUNT) if offset != 7]
    assert [(segment.base_offset, damage.first_offset, damage.next_offset) for segment, damage in log.damages] == [
        (5, 7, 8)
    ]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_reader_from_the_start_gets_all_before_the_damage_then_the_error_and_goes_on_behind_it(length: int) -> None:
    files = stopped()
    damage_length(files, length)
    log = start(files)
    served(log)  # the damage is known
    seen: list[int] = []
    offset = 0
    while offset != 7:
        part = log.read(offset, 1 << 20, upper_offset=COUNT)
        seen += [record.offset for record in iter_records(part.read()) if record.offset >= offset]
        assert offset < part.next_offset <= 7
        offset = part.next_offset
    with pytest.raises(UnreadableError):
        log.read(offset, 1 << 20, upper_offset=COUNT)
    assert seen == list(range(7))
    assert [record.offset for record in read_all(log, start=8)] == list(range(8, COUNT))


def test_a_base_offset_that_goes_back_is_damage() -> None:
    files = stopped()
    overwrite(files, path(5), 2 * batch_size(files), struct.pack(">q", 3))
    assert served(start(files)) == ([offset for offset in range(COUNT) if offset != 7], [7])


def test_a_base_offset_that_is_too_large_damages_its_own_batch_only() -> None:
    files = stopped()
    overwrite(files, path(5), 2 * batch_size(files), struct.pack(">q", 9))
    log = start(files)
    assert served(log) == ([offset for offset in range(COUNT) if offset != 7], [7])


@pytest.mark.parametrize("clean", [True, False])
def test_the_last_batch_of_a_segment_has_an_offset_of_another_segment(clean: bool) -> None:
    """Behind it nothing comes at which reading could go on; a reader that goes on there is not left without an answer."""
    files = stopped()
    overwrite(files, path(5), 4 * batch_size(files), struct.pack(">q", 1_000_000))
    log = open_log(files, SMALL, clean=clean, recovery_point=COUNT, high_watermark=COUNT)
    assert served(log) == ([offset for offset in range(COUNT) if offset != 9], [9])


def test_the_last_batch_of_the_log_has_an_offset_behind_the_log() -> None:
    files = stopped()
    overwrite(files, path(15), 4 * batch_size(files, 15), struct.pack(">q", 1_000_000))
    assert served(start(files)) == ([offset for offset in range(COUNT) if offset != 19], [19])


def test_a_byte_more_takes_its_own_batch_only() -> None:
    """In the last segment, where no offset is too large: what moved by a byte has a right checksum and a wrong offset."""
    files = stopped()
    name, size = path(15), batch_size(files, 15)
    old = files.read_bytes(name)
    files.write_atomic(name, old[: size + 6] + b"\xda" + old[size + 6 :])
    log = start(files)
    assert served(log) == ([offset for offset in range(COUNT) if offset != 16], [16])


def test_the_end_of_a_segment_is_cut_off() -> None:
    files = stopped()
    size = batch_size(files)
    files.open(path(5)).truncate(5 * size - 10)
    log = start(files)
    assert served(log) == ([offset for offset in range(COUNT) if offset != 9], [9])


def test_bytes_behind_the_last_batch_of_a_segment() -> None:
    files = stopped()
    files.open(path(5)).append(b"rubbish " * 20)
    log = start(files)
    readable, corrupt = served(log)
    assert (readable, corrupt) == (list(range(COUNT)), [])


@pytest.mark.parametrize("cut", [1, 200, 10_000])
def test_the_last_segment_lost_its_end_in_a_clean_stop(cut: int) -> None:
    """Two witnesses say where the log ended; new records come behind that, in a new segment."""
    files = stopped()
    size = files.size(path(15))
    files.open(path(15)).truncate(max(size - cut, 0))
    log = start(files)
    assert log.log_end_offset == COUNT
    lost = {1: [19], 200: [18, 19], 10_000: [15, 16, 17, 18, 19]}[cut]
    append_many(log, 3)
    readable, corrupt = served(log)
    assert corrupt == lost
    assert readable == [offset for offset in range(COUNT + 3) if offset not in lost]
    log.close()
    again = start(files, end=COUNT + 3)
    if cut < size:  # where nothing of the segment is left, nothing shows it any more: as after compaction
        assert served(again) == (readable, corrupt)


def test_nothing_waits_for_the_disk_on_the_loop_to_find_damage() -> None:
    from ottla.storage.index import WouldBlockError

    files = stopped()
    damage_length(files, 0)
    log = start(files)
    with pytest.raises(WouldBlockError):
        log.read(7, 100, upper_offset=COUNT, nowait=True)
    assert not log.damages
    with pytest.raises(UnreadableError):
        log.read(7, 100, upper_offset=COUNT)
    with pytest.raises(UnreadableError):
        log.read(7, 100, upper_offset=COUNT, nowait=True)


# ------------------------------------------------------------------------------------------------ indexes


@pytest.mark.parametrize("kind", [".index", ".timeindex"])
def test_any_byte_of_an_index_may_change(kind: str) -> None:
    files = stopped()
    old = files.read_bytes(path(5, kind))
    assert old
    for position in range(len(old)):
        for value in (0, old[position] ^ 1, old[position] ^ 0x80, 255):
            changed = old[:position] + bytes([value]) + old[position + 1 :]
            files.write_atomic(path(5, kind), changed)
            log = start(files)
            assert served(log) == (list(range(COUNT)), []), (position, value)
            found = log.offset_for_timestamp(NOW)
            assert found is not None, (position, value)
            assert found.offset == 0, (position, value)
            assert log.offset_for_timestamp(NOW + 1) is None, (position, value)
            assert not log.damages, (position, value)


@pytest.mark.parametrize("kind", [".index", ".timeindex"])
@pytest.mark.parametrize("size", [0, 1, 8, 12, 13, 100])
def test_an_index_may_be_shorter_or_longer(kind: str, size: int) -> None:
    files = stopped()
    old = files.read_bytes(path(5, kind))
    files.write_atomic(path(5, kind), (old + bytes(100))[:size])
    log = start(files)
    assert served(log) == (list(range(COUNT)), [])
    assert not log.damages


# ------------------------------------------------------------------------------------------------ times


def timed(count: int = COUNT) -> MemoryFiles:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    for offset in range(count):
        append(log, batch([value_of(offset)], timestamp=NOW + 1000 * offset))
    log.close()
    return files


@pytest.mark.parametrize("wrong", [0, NOW - 5, NOW + 5500, NOW + 50_000])
def test_a_wrong_time_in_the_time_index_hides_no_record(wrong: int) -> None:
    entries = timed().size(path(5, ".timeindex")) // 12
    assert entries > 1
    for number in range(entries):
        files = timed()
        overwrite(files, path(5, ".timeindex"), 12 * number, struct.pack(">q", wrong))
        log = start(files)
        for offset in range(COUNT):
            found = log.offset_for_timestamp(NOW + 1000 * offset - 1)
            assert found is not None, (number, offset)
            assert found.offset == offset, (number, offset)


def test_a_look_up_by_time_that_meets_damage_is_told_so_and_later_times_are_found() -> None:
    files = timed()
    damage_length(files, 0)
    log = start(files)
    with pytest.raises(UnreadableError):
        log.offset_for_timestamp(NOW + 7000)
    assert log.offset_for_timestamp(NOW + 6000) is not None
    for offset in (8, 9, 10, 15):
        found = log.offset_for_timestamp(NOW + 1000 * offset)
        assert found is not None
        assert found.offset == offset


# ------------------------------------------------------------------------------------------------ cleaning


def run_cleaner(log: PartitionLog) -> None:
    passes = clean(log, plan_cleaning(log, None, NOW), NOW)
    for _ in passes:
        pass


def keyed(files: MemoryFiles) -> None:
    """Twelve batches, each with a key of its own, in segments of two, stopped cleanly."""
    log = open_log(files, dataclasses.replace(SMALL, segment_bytes=400))
    for offset in range(12):
        append(log, batch([value_of(offset)], key=b"key-%d" % offset))
    log.close()


@pytest.mark.parametrize("length", LENGTHS)
def test_the_cleaner_keeps_every_byte_of_a_log_that_does_not_add_up(length: int) -> None:
    """The reproduction of the report: the length of a batch in a closed segment was overwritten."""
    files = MemoryFiles(lambda: NOW)
    keyed(files)
    damage_length(files, length, base=4, number=0)
    before = {
        name: files.read_bytes(f"{DIRECTORY}/{name}") for name in files.listdir(DIRECTORY) if name.endswith(".log")
    }
    log = start(files, end=12)
    with pytest.raises(UncleanableError):
        run_cleaner(log)
    after = {
        name: files.read_bytes(f"{DIRECTORY}/{name}") for name in files.listdir(DIRECTORY) if name.endswith(".log")
    }
    assert after == before
    assert log.damages
    assert served(log)[1] == [4]


@pytest.mark.parametrize("position", [21, 22, 25, 34, 42, 50, 52, 56, 58, 60, 70, 100])
def test_nothing_of_a_batch_counts_for_the_cleaner_before_its_checksum(position: int) -> None:
    files = MemoryFiles(lambda: NOW)
    keyed(files)
    old = files.read_bytes(path(4))[position]
    overwrite(files, path(4), position, bytes([old ^ 0x21]))
    log = start(files, end=12)
    with pytest.raises(UncleanableError):
        run_cleaner(log)
    assert [segment.base_offset for segment in log.segments] == [0, 2, 4, 6, 8, 10]


def transactional(files: MemoryFiles) -> LogConfig:
    """A committed and an aborted transaction of each of two producers, in small segments, stopped cleanly."""
    config = dataclasses.replace(SMALL, segment_bytes=400)
    log = open_log(files, config)
    for kind in (ControlType.COMMIT, ControlType.ABORT):
        for producer in (7, 8):
            sequence = 0 if kind is ControlType.COMMIT else 2
            for _ in range(2):
                append(log, idempotent(producer, 0, sequence, transactional=True, key=b"%d%d" % (producer, sequence)))
                sequence += 1
            marker(log, kind, producer, 0)
    for offset in range(12, 17):
        append(log, batch([value_of(offset)], key=b"%d" % offset))
        if offset == 15:
            log.roll(NOW)
    log.close()
    return config


def committed_records(log: PartitionLog) -> list[tuple[int, bytes | None]]:
    log.check_aborted(0, nowait=False)
    aborted = dict(log.aborted_transactions(0, log.log_end_offset))
    found = []
    for segment in log.segments:
        for _, header, data in segment.batches():
            if header.is_control:
                if aborted.get(header.producer_id, 1 << 62) <= header.base_offset:
                    aborted.pop(header.producer_id)
            elif not (header.is_transactional and aborted.get(header.producer_id, 1 << 62) <= header.base_offset):
                found += [(record.offset, record.value) for record in iter_records(data)]
    return found


#: The first offset in an entry of a transaction index. The marker does not repeat it: where it moves within the
#: transaction, nothing shows it.
FIRST_OFFSET = range(10, 18)


def copied(files: MemoryFiles) -> MemoryFiles:
    copy = MemoryFiles(lambda: NOW)
    copy.mkdir(DIRECTORY)
    for name in files.listdir(DIRECTORY):
        copy.write_atomic(f"{DIRECTORY}/{name}", files.read_bytes(f"{DIRECTORY}/{name}"))
    return copy


def test_a_wrong_transaction_index_drops_no_committed_record() -> None:
    """Any byte of it may change: the cleaner keeps all that was committed; readers see that, and build the index anew."""
    files = MemoryFiles(lambda: NOW)
    config = transactional(files)
    log = start(files, config, end=17)
    expected = committed_records(log)
    assert len(expected) == 9
    log.close()
    names = [name for name in files.listdir(DIRECTORY) if name.endswith(".txnindex")]
    assert len(names) == 2
    wrong = healed = 0
    for name in names:
        path = f"{DIRECTORY}/{name}"
        whole = files.read_bytes(path)
        for position in range(len(whole)):
            for flip in (1, 0x80):
                changed = copied(files)
                overwrite(changed, path, position, bytes([whole[position] ^ flip]))
                log = start(copied(changed), config, end=17)
                try:
                    run_cleaner(log)
                except UncleanableError:
                    pass
                values = {
                    record.value
                    for segment in log.segments
                    for _, _, data in segment.batches()
                    for record in iter_records(data)
                }
                assert {value for _, value in expected} <= values, (name, position, flip)
                seen = committed_records(start(changed, config, end=17))
                if position in FIRST_OFFSET:
                    assert set(expected) <= set(seen), (name, position, flip)
                else:
                    assert seen == expected, (name, position, flip)
                wrong += 1
                healed += changed.read_bytes(path) == whole
    # Unseen: first offsets within their transactions, and last stable offsets that are too small: these cost one more look.
    assert (wrong, wrong - healed) == (136, 5)


def test_a_lost_transaction_index_is_not_taken_for_an_empty_one() -> None:
    files = MemoryFiles(lambda: NOW)
    config = transactional(files)
    name = next(name for name in files.listdir(DIRECTORY) if name.endswith(".txnindex"))
    files.write_atomic(f"{DIRECTORY}/{name}", files.read_bytes(f"{DIRECTORY}/{name}")[:-1])
    log = start(files, config, end=17)
    assert len(committed_records(log)) == 9


# ------------------------------------------------------------------------------------------------ retention


def expired_config(**changes: object) -> LogConfig:
    return dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [expired_config(retention_ms=1000), expired_config(retention_bytes=1)])
@pytest.mark.parametrize("length", LENGTHS)
def test_retention_keeps_a_segment_that_does_not_add_up_until_records_are_deleted(
    config: LogConfig, length: int
) -> None:
    files = stopped()
    damage_length(files, length)
    log = start(files, config)
    log.delete_old_segments(NOW + 10**9)
    assert log.segments[0].base_offset == 5
    assert log.log_start_offset == 5
    assert log.damages
    # DeleteRecords removes it, and then retention goes on.
    log.advance_log_start(12)
    log.delete_old_segments(NOW)
    assert log.segments[0].base_offset >= 10
    log.delete_old_segments(NOW + 10**9)
    assert log.segments[0].base_offset == COUNT


def test_a_segment_that_grew_pushes_no_other_out() -> None:
    files = stopped()
    files.open(path(10)).append(bytes(100_000))
    log = start(files, expired_config(retention_bytes=4 * 900))
    assert log.delete_old_segments(NOW) == 0
    assert served(log)[0] == list(range(COUNT))


@pytest.mark.parametrize("wrong", [0, 1, NOW - 10**8])
def test_a_time_index_that_says_too_little_deletes_nothing(wrong: int) -> None:
    files = timed()
    size = files.size(path(0, ".timeindex"))
    overwrite(files, path(0, ".timeindex"), size - 12, struct.pack(">q", wrong))
    log = start(files, expired_config(retention_ms=10**7))
    assert log.delete_old_segments(NOW + 20_000) == 0
    files.open(path(0, ".timeindex")).truncate(0)
    log = start(files, expired_config(retention_ms=10**7))
    assert log.delete_old_segments(NOW + 20_000) == 0


# ------------------------------------------------------------------------------------------------ recovery


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("base", [0, 5, 10])
def test_nothing_is_cut_below_the_recovery_point(length: int, base: int) -> None:
    files = stopped()
    damage_length(files, length, base=base)
    log = open_log(files, SMALL, recovery_point=18, high_watermark=18)
    assert log.log_end_offset == COUNT
    readable, corrupt = served(log)
    assert corrupt == [base + 2]
    assert len(readable) == COUNT - 1


@pytest.mark.parametrize("length", LENGTHS)
def test_behind_the_recovery_point_the_log_is_cut_as_in_kafka(length: int) -> None:
    files = stopped()
    damage_length(files, length)
    log = open_log(files, SMALL, recovery_point=7)
    assert log.log_end_offset == 7
    assert served(log) == (list(range(7)), [])


def test_an_unknown_recovery_point_cuts_a_torn_end_only() -> None:
    files = stopped()
    damage_length(files, 20)
    size = files.size(path(15))
    files.open(path(15)).truncate(size - 30)
    log = open_log(files, SMALL, recovery_point=None)
    assert log.log_end_offset == 19
    assert served(log) == ([offset for offset in range(19) if offset != 7], [7])


@pytest.mark.parametrize("clean", [True, False])
def test_a_log_start_behind_the_log_end_empties_nothing(clean: bool) -> None:
    files = stopped()
    log = open_log(files, SMALL, clean=clean, recovery_point=COUNT, log_start_offset=9_000_000, high_watermark=COUNT)
    assert served(log) == (list(range(COUNT)), [])


def test_a_damaged_snapshot_is_replaced_by_the_batches() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    for sequence in range(10):
        append(log, idempotent(7, 0, sequence))
    log.close()
    for name in files.listdir(DIRECTORY):
        if name.endswith(".snapshot"):
            overwrite(files, f"{DIRECTORY}/{name}", 20, b"XX")
    log = start(files, end=10)
    assert append(log, idempotent(7, 0, 9)).duplicate
    assert append(log, idempotent(7, 0, 10)).first_offset == 10


# ------------------------------------------------------------------------------------------------ old formats


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("magic", [0, 1])
def test_a_mixed_segment_is_served_whole(magic: int, clean: bool) -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files)
    append_many(log, 5)
    today = log.read(0, 1 << 20, upper_offset=5).read()
    files = MemoryFiles(lambda: NOW)
    files.mkdir(DIRECTORY)
    old = b"".join(old_message(magic, offset, NOW + offset, b"old-%d" % offset) for offset in range(8))
    shifted = bytearray(today)
    position = 0
    for number in range(5):
        struct.pack_into(">q", shifted, position, 8 + number)
        position += read_header(shifted, position).size
    files.write_atomic(path(0), old + bytes(shifted))
    log = open_log(files, clean=clean, recovery_point=13, high_watermark=13)
    assert log.log_end_offset == 13
    assert not log.damages
    for offset in range(13):
        part = log.read(offset, 1, upper_offset=13)
        records = list(iter_records(part.read()))
        assert records[0].offset == offset
    if magic:
        found = log.offset_for_timestamp(NOW + 5)
        assert found is not None
        assert found.offset == 5
    append_many(log, 1)
    assert [record.offset for record in read_all(log)] == list(range(14))


def test_a_segment_of_old_messages_is_cleaned_and_not_taken_for_empty() -> None:
    files = MemoryFiles(lambda: NOW)
    files.mkdir(DIRECTORY)
    data = b"".join(old_message(1, offset, NOW, b"v%d" % offset, b"k%d" % (offset % 3)) for offset in range(9))
    files.write_atomic(path(0), data)
    log = open_log(files, recovery_point=9, high_watermark=9)
    log.roll(NOW)
    run_cleaner(log)
    assert [(record.offset, record.value) for record in read_all(log)] == [(6, b"v6"), (7, b"v7"), (8, b"v8")]
    assert log.segments[0].size == len(data) // 3


def test_retention_reads_old_messages() -> None:
    files = MemoryFiles(lambda: NOW)
    files.mkdir(DIRECTORY)
    files.write_atomic(path(0), b"".join(old_message(1, offset, NOW + offset) for offset in range(9)))
    log = open_log(files, expired_config(retention_ms=1000), recovery_point=9, high_watermark=9)
    log.roll(NOW)
    assert log.delete_old_segments(NOW + 900) == 0
    assert log.delete_old_segments(NOW + 2000) == 1


# ------------------------------------------------------------------------------------------------ found by a reviewer


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("has_originals", [True, False])
def test_a_damaged_swap_removes_no_segment_behind_it(clean: bool, has_originals: bool) -> None:
    """Its end was taken for base + 2^31: every later segment was unlinked without a word."""
    files = stopped()
    for kind in (".log", ".index", ".timeindex"):
        data = files.read_bytes(path(5, kind))
        files.write_atomic(f"{path(5, kind)}.swap", data[:-100] if kind == ".log" else data)
        if not has_originals:
            files.remove(path(5, kind))
    log = open_log(files, SMALL, clean=clean, recovery_point=COUNT, high_watermark=COUNT)
    readable, corrupt = served(log)
    lost = [] if has_originals else [9]
    assert corrupt == lost
    assert readable == [offset for offset in range(COUNT) if offset not in lost]


@pytest.mark.parametrize("tail", ["garbage", "cut", "length"])
@pytest.mark.parametrize("witness", ["snapshot", "checkpoint"])
def test_a_damaged_end_with_one_witness_does_not_move_the_log_end_far_away(tail: str, witness: str) -> None:
    files = stopped()
    end = COUNT
    if tail == "garbage":
        files.open(path(15)).append(b"rubbish" * 30)
    elif tail == "cut":
        files.open(path(15)).truncate(files.size(path(15)) - 20)
    else:
        damage_length(files, 20, base=15, number=4)
    if witness == "checkpoint":
        files.remove(path(20, ".snapshot"))
    else:
        end = COUNT + 1
    log = start(files, end=end)
    assert COUNT <= log.log_end_offset <= end
    readable, _ = served(log)
    assert readable == list(range(COUNT if tail == "garbage" else COUNT - 1))
    append(log, batch([value_of(log.log_end_offset)]))
    assert served(log)[0][:-1] == readable


@pytest.mark.parametrize("clean", [True, False])
def test_an_epoch_file_that_says_more_than_the_batches_is_built_anew(clean: bool) -> None:
    files = stopped()
    files.write_atomic(f"{DIRECTORY}/leader-epoch-checkpoint", b"0\n1\n7 9\n")
    log = open_log(files, SMALL, clean=clean, recovery_point=COUNT)
    with pytest.raises(NotLeaderOrFollowerError):
        log.lead(1)
    assert log.mend_epochs()
    log.lead(1)
    assert log.leader_epochs.entries == [(0, 0), (1, COUNT)]


def test_an_epoch_in_one_batch_that_its_neighbours_contradict_counts_for_nothing() -> None:
    files = stopped()
    overwrite(files, path(5), 2 * batch_size(files) + 12, struct.pack(">i", 7))
    log = open_log(files, SMALL, recovery_point=0)
    assert log.leader_epochs.entries == [(0, 0)]
    log.lead(1)


def test_a_log_start_behind_the_end_without_a_high_watermark_empties_nothing() -> None:
    files = stopped()
    log = open_log(files, SMALL, recovery_point=COUNT, log_start_offset=90)
    assert served(log) == (list(range(COUNT)), [])
