"""Repair: nothing readable is lost, nothing is wrong afterwards, and the log opens whenever it is interrupted."""

from __future__ import annotations

import struct
from random import Random

import pytest
from tests.storage import damaged_log
from tests.storage.damaged_log import (
    HOME,
    Edit,
    batches,
    copy_disk,
    make_log,
    names,
    path,
    random_edit,
    repair,
    served,
    start,
    write_checkpoints,
    wrong,
)
from tests.storage.log_support import DIRECTORY, NOW, TOPIC_ID, TP, append, batch

from ottla.errors import StorageError
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.formats import read_any_header
from ottla.protocol.records.reader import iter_records
from ottla.storage.checkpoints import (
    HIGH_WATERMARK_FILE,
    LEADER_EPOCH_FILE,
    LOG_START_FILE,
    PARTITION_METADATA_FILE,
    RECOVERY_POINT_FILE,
    decode_offsets,
    decode_partition_metadata,
    encode_offsets,
    encode_partition_metadata,
    encode_rows,
)
from ottla.storage.directory_state import InUseError
from ottla.storage.findings import offset_range
from ottla.storage.log import PartitionLog
from ottla.storage.log_directory import LogDirectory, parse_partition_name
from ottla.storage.repair import Repair
from ottla.testing.memory_files import MemoryFiles


@pytest.fixture(scope="module")
def original() -> tuple[MemoryFiles, int]:
    files = MemoryFiles(lambda: NOW)
    return files, make_log(files)


def damage(files: MemoryFiles, *edits: Edit) -> None:
    for edit in edits:
        edit.apply(files)


def all_batches(files: MemoryFiles) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for name in names(files, ".log"):
        found |= dict(batches(files.read_bytes(f"{DIRECTORY}/{name}")))
    return found


def with_records(batches: dict[int, bytes]) -> dict[int, bytes]:
    """Leave out the empty batch that stands for a lost end."""
    return {offset: data for offset, data in batches.items() if read_any_header(data, 0, len(data)).record_count}


def test_the_log_has_everything_in_it_and_nothing_is_wrong(original: tuple[MemoryFiles, int]) -> None:
    files, end = original
    assert len(names(files, ".log")) > 5
    assert names(files, ".txnindex")
    assert names(files, ".snapshot")
    assert damaged_log.check(files, deep=True) == []
    assert damaged_log.check(files, DIRECTORY) == []
    assert repair(copy_disk(files)) == []
    assert served(start(copy_disk(files), end)) == all_batches(files)


@pytest.mark.parametrize("seed", range(150))
def test_every_intact_batch_is_served_after_a_repair_and_nothing_is_wrong(
    original: tuple[MemoryFiles, int], seed: int
) -> None:
    """1. Damage one to three files of the partition; 2. repair; 3. check; 4. open; 5. compare with what was left whole."""
    random = Random(seed)
    files, end = copy_disk(original[0]), original[1]
    whole = all_batches(files)
    everything = [*names(files, ".log"), *names(files, ".log"), *files.listdir(DIRECTORY)]
    expected = dict(whole)
    for name in sorted(random.sample(sorted(set(everything)), random.randint(1, 3))):
        edit = random_edit(random, files, name)
        if name.endswith(".log"):
            data = files.read_bytes(f"{DIRECTORY}/{name}")
            untouched = dict(edit.untouched(data))
            for last_offset, _ in batches(data):
                if last_offset not in untouched:
                    del expected[last_offset]
        edit.apply(files)
    assert repair(files) == []
    assert wrong(files) == []
    log = start(files, end)
    assert log.log_end_offset == end
    found = served(log)
    assert {offset: found.get(offset) for offset in expected} == expected
    # What was damaged is gone, or its offset or epoch could be set right again: then it is what it was. An abort marker
    # that the transaction index tells of is written anew; only its time may be another. An empty batch stands for a lost end.
    assert max(found) == end - 1
    assert set(found) - set(with_records(found)) <= {end - 1}
    for offset, data in with_records(found).items():
        assert whole[offset] == data or len(data) == len(whole[offset]) == 78
    assert not log.damages
    log.check_aborted(0, nowait=False)
    first = append(log, batch([b"new"])).first_offset
    assert first == end


@pytest.mark.parametrize("seed", range(60))
def test_after_an_unclean_stop_a_repair_keeps_what_the_next_start_would_cut(
    original: tuple[MemoryFiles, int], seed: int
) -> None:
    random = Random(1000 + seed)
    files, end = copy_disk(original[0]), original[1]
    point = random.choice([0, 20, 50, end])
    write_checkpoints(files, end, clean=False, recovery_point=point)
    whole = all_batches(files)
    expected = dict(whole)
    name = random.choice(names(files, ".log"))
    data = files.read_bytes(f"{DIRECTORY}/{name}")
    edit = random_edit(random, files, name)
    untouched = dict(edit.untouched(data))
    for last_offset, _ in batches(data):
        if last_offset not in untouched:
            del expected[last_offset]
    edit.apply(files)
    repair(files)
    assert wrong(files) == []
    log = start(files, end, clean=False, recovery_point=point)
    found = served(log)
    assert {offset: found.get(offset) for offset in expected} == expected
    assert not log.damages


def three_kinds(files: MemoryFiles) -> None:
    """Damage a length in one segment, records in another, the end of the last one, an index, a snapshot."""
    logs = names(files, ".log")
    damage(
        files,
        Edit(logs[1], 8, 12, struct.pack(">i", 20)),
        Edit(logs[3], 70, 72, b"??"),
        Edit(logs[-1], files.size(f"{DIRECTORY}/{logs[-1]}") - 30, 1 << 30, b""),
        Edit(names(files, ".timeindex")[2], 0, 4, b"\x7f\x7f\x7f\x7f"),
        Edit(names(files, ".snapshot")[2], 8, 9, b"\xff"),
        Edit(names(files, ".txnindex")[0], 2, 5, b"\1\1\1"),
        Edit(LEADER_EPOCH_FILE, 0, 1, b"7"),
    )


class _Dead(BaseException):
    """The process was killed."""


COPY = f"{HOME}/t-0.{(b'c' * 16).hex()}-stray"
READS = ("pread", "read_bytes", "listdir")


def die_at(files: MemoryFiles, step: int, cut: int | None, *, in_copy: bool = False) -> bool:
    """Repair, and die before the operation number `step` that changes anything; return whether it came to that.

    Counted from the end of the copying on, or during it. `cut`: the power goes; it is the seed of what reached the disk.
    """
    left = step

    def die(operation: str, _path: str) -> None:
        nonlocal left
        if operation in READS or files.exists(COPY) == in_copy:
            return
        left -= 1
        if left < 0:
            files.fail = None
            if cut is None:
                files.kill()
            else:
                files.power_cut(Random(cut * 10_000 + step))
            raise _Dead

    files.fail = die
    try:
        repair(files)
    except _Dead:
        return True
    files.fail = None
    return False


@pytest.mark.parametrize(
    ("cut", "clean", "stride"), [(None, True, 1), (None, False, 4), (1, True, 3), (2, True, 4), (3, False, 4)]
)
def test_a_repair_that_dies_anywhere_leaves_a_log_that_opens(
    original: tuple[MemoryFiles, int], cut: int | None, clean: bool, stride: int
) -> None:
    """1. Die at a step; 2. the broker starts and serves every intact batch; 3. instead, a second repair finishes."""
    end = original[1]
    damaged = copy_disk(original[0])
    three_kinds(damaged)
    write_checkpoints(damaged, end, clean=clean)
    reference = copy_disk(damaged)
    assert repair(reference) == []
    expected = served(start(reference, end, clean=clean))
    died_at = 0
    for step in range((cut or 0) % stride, 10_000, stride):
        files = copy_disk(damaged)
        files.make_durable()
        if not die_at(files, step, cut):
            break
        died_at += 1
        log = start(copy_disk(files), end, clean=clean)
        for offset, data in with_records(expected).items():
            part = log.read(offset, 1, upper_offset=log.log_end_offset)
            assert dict(batches(bytes(part.read())))[offset] == data, step
        assert repair(files, b"d" * 16) == []
        assert served(start(files, end, clean=clean)) == expected, step
    assert died_at * stride > 60


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("text", [encode_rows(["0 10", "1 55", "7 90"]), b"nonsense"])
def test_a_repair_that_dies_anywhere_behind_its_first_write_leaves_right_leader_epochs(
    original: tuple[MemoryFiles, int], text: bytes, cut: int | None
) -> None:
    """A broker cannot lead a log whose file says more than its own epoch; leftovers of a compaction are there, too."""
    end = original[1]
    damaged = copy_disk(original[0])
    three_kinds(damaged)
    damaged.write_atomic(f"{DIRECTORY}/{LEADER_EPOCH_FILE}", text)
    damaged.write_atomic(path(23, ".log.cleaned"), b"x")
    reference = copy_disk(damaged)
    assert repair(reference) == []
    whole = reference.read_bytes(f"{DIRECTORY}/{LEADER_EPOCH_FILE}")
    expected = served(start(reference, end))
    died_at = 0
    for step in range(10_000):
        files = copy_disk(damaged)
        files.make_durable()
        if not die_at(files, step, cut):
            break
        died_at += 1
        now = files.read_bytes(f"{DIRECTORY}/{LEADER_EPOCH_FILE}")
        others = {at for at in files.listdir(DIRECTORY) if not at.startswith(LEADER_EPOCH_FILE)}
        before = {at for at in damaged.listdir(DIRECTORY) if not at.startswith(LEADER_EPOCH_FILE)}
        if others != before:
            assert now == whole, step
        assert now in (whole, text)
        log = start(copy_disk(files), end)
        if now == whole:
            log.lead(3)
        for offset, data in with_records(expected).items():
            assert dict(batches(bytes(log.read(offset, 1, upper_offset=end).read())))[offset] == data, step
        assert repair(files, b"d" * 16) == []
        assert served(start(files, end)) == expected
    assert died_at > 60


@pytest.mark.parametrize("cut", [None, 1])
def test_a_copy_that_is_interrupted_is_not_taken_for_one_and_changes_nothing(
    original: tuple[MemoryFiles, int], cut: int | None
) -> None:
    damaged = copy_disk(original[0])
    three_kinds(damaged)
    before = {name: damaged.read_bytes(f"{DIRECTORY}/{name}") for name in damaged.listdir(DIRECTORY)}
    died_at = 0
    for step in range(0, 10_000, 17):
        files = copy_disk(damaged)
        files.make_durable()
        if not die_at(files, step, cut, in_copy=True):
            break
        died_at += 1
        assert {name: files.read_bytes(f"{DIRECTORY}/{name}") for name in files.listdir(DIRECTORY)} == before
        if files.exists(COPY):
            assert {name: files.read_bytes(f"{COPY}/{name}") for name in files.listdir(COPY)} == before
        others = [name for name in files.listdir(HOME) if name.startswith("t-0.") and f"{HOME}/{name}" != COPY]
        assert all(name.endswith("-delete") for name in others)
    assert died_at > 5


def test_the_copy_is_what_was_there_and_brokers_leave_it_alone(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    three_kinds(files)
    before = {name: files.read_bytes(f"{DIRECTORY}/{name}") for name in files.listdir(DIRECTORY)}
    repaired = Repair(files, DIRECTORY, bytes(range(16)))
    repaired.open()
    repaired.look()
    copy = repaired.copy()
    assert copy == repaired.copy_path
    assert {name: files.read_bytes(f"{copy}/{name}") for name in files.listdir(copy)} == before
    assert {name: files.read_bytes(f"{DIRECTORY}/{name}") for name in files.listdir(DIRECTORY)} == before
    repaired.close()
    name = copy.rpartition("/")[2]
    assert parse_partition_name(name) is None
    directory = LogDirectory(files, HOME)
    directory.open(cluster_id="c", node_id=1, random=Random(0), foreign_confirmed=True)
    assert [partition for _, partition in directory.partition_names()] == [TP]
    directory.close()


def test_a_full_disk_is_found_out_before_anything_is_written(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    three_kinds(files)
    files.capacity = files.used + 1000
    before = files.listdir(HOME)
    with pytest.raises(StorageError, match="are needed for the copy"):
        repair(files)
    assert files.listdir(HOME) == sorted([*before, ".lock"])


def test_a_disk_that_fills_up_meanwhile_leaves_no_part_of_a_copy(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    three_kinds(files)
    repaired = Repair(files, DIRECTORY, bytes(16))
    repaired.open()
    repaired.look()
    files.capacity = files.used + 1000
    before = files.listdir(HOME)
    with pytest.raises(OSError, match="no space"):
        repaired.copy()
    assert files.listdir(HOME) == before


def test_a_running_broker_keeps_its_directory(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    held = files.lock(f"{HOME}/.lock")
    with pytest.raises(InUseError, match="in use by a running broker"):
        repair(files)
    with pytest.raises(InUseError, match="in use by a running broker"):
        damaged_log.check(files)
    held.close()
    assert damaged_log.check(files) == []


def test_a_copy_is_made_only_if_there_is_something_to_do(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    before = files.listdir(HOME)
    assert repair(files) == []
    assert set(files.listdir(HOME)) - set(before) <= {".lock"}


def test_what_is_lost_is_said_before(original: tuple[MemoryFiles, int]) -> None:
    files, end = copy_disk(original[0]), original[1]
    logs = names(files, ".log")
    first = batches(files.read_bytes(f"{DIRECTORY}/{logs[1]}"))[0]
    last = batches(files.read_bytes(f"{DIRECTORY}/{logs[-1]}"))[-1]
    damage(
        files,
        Edit(logs[1], 30, 31, b"?"),
        Edit(logs[-1], files.size(f"{DIRECTORY}/{logs[-1]}") - len(last[1]), 1 << 30, b""),
    )
    repaired = Repair(files, DIRECTORY, bytes(16))
    repaired.open()
    repaired.look()
    repaired.close()
    base = int(logs[1][:20])
    lines = "\n".join(repaired.losses())
    assert f"{offset_range(base, first[0] + 1)}: {len(first[1])} bytes of {logs[1]} (a wrong checksum)" in lines
    assert f"offset {end - 1}: their bytes are not there any more" in lines
    assert f"in all {len(first[1])} bytes and at most {first[0] - base + 2} offsets" in lines


@pytest.mark.parametrize(
    "lost", ["bytes of the last batch", "last batch", "last two segments", "end before an empty one"]
)
@pytest.mark.parametrize("clean", [True, False])
def test_an_empty_batch_takes_the_lost_end_and_readers_come_to_the_end(
    original: tuple[MemoryFiles, int], lost: str, clean: bool
) -> None:
    files, end = copy_disk(original[0]), original[1]
    logs = names(files, ".log")
    size = files.size(f"{DIRECTORY}/{logs[-1]}")
    last = batches(files.read_bytes(f"{DIRECTORY}/{logs[-1]}"))[-1][1]
    first_lost = end - 1
    if lost == "bytes of the last batch":
        damage(files, Edit(logs[-1], size - 10, 1 << 30, b""))
    elif lost == "last batch":
        damage(files, Edit(logs[-1], size - len(last), 1 << 30, b""))
    elif lost == "last two segments":
        for name in logs[-2:]:
            damage(files, Edit(name, 0, 1 << 30, b"\xee" * 200))
        first_lost = int(logs[-2][:20])
    else:
        damage(files, Edit(logs[-1], size - 10, 1 << 30, b"\xee" * 10))
        for kind in (".log", ".index", ".timeindex"):
            files.write_atomic(path(end, kind), b"")
    write_checkpoints(files, end, clean=clean)
    assert repair(files) == []
    assert wrong(files) == []
    log = start(files, end, clean=clean)
    assert log.log_end_offset == end
    for offset in range(first_lost, end):
        part = log.read(offset, 1, upper_offset=end)
        assert part.size, offset
        assert offset < part.next_offset <= end
    found = served(log)
    assert max(found) == end - 1
    # The end of an aborted transaction among what was lost is written anew; its leader epoch may be another.
    kept = {at: data for at, data in with_records(found).items() if at < first_lost or len(data) != 78}
    assert kept == {at: data for at, data in all_batches(original[0]).items() if at < first_lost}
    assert append(log, batch([b"new"]), leader_epoch=5).first_offset == end
    assert max(served(log)) == end


@pytest.mark.parametrize("is_original_there", [True, False])
def test_a_swap_with_a_damaged_end_hides_and_removes_no_segment_behind_it(
    original: tuple[MemoryFiles, int], is_original_there: bool
) -> None:
    files, end = copy_disk(original[0]), original[1]
    name = names(files, ".log")[2]
    data = files.read_bytes(f"{DIRECTORY}/{name}")
    for kind in (".log", ".index", ".timeindex", ".txnindex"):
        one = path(int(name[:20]), kind)
        if files.exists(one):
            files.write_atomic(f"{one}.swap", files.read_bytes(one))
            if not is_original_there:
                files.remove(one)
    files.write_atomic(path(int(name[:20]), ".log.swap"), data[:-10])
    later = names(original[0], ".log")[3]
    damage(files, Edit(later, 30, 31, b"?"))  # something to repair
    assert [found.file for found in wrong(files) if found.file == later] == [later]
    whole = all_batches(original[0])
    lost = {batches(original[0].read_bytes(f"{DIRECTORY}/{later}"))[0][0]}
    if is_original_there:
        useless = [found for found in damaged_log.check(files) if found.file == f"{name}.swap"]
        assert [found.remedy for found in useless] == ["removes it"]
    else:
        lost.add(batches(data)[-1][0])
    assert repair(files) == []
    assert with_records(served(start(files, end))) == {at: one for at, one in whole.items() if at not in lost}


def test_bytes_behind_the_last_batch_are_no_lost_offsets(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    name = names(files, ".log")[-1]
    size = files.size(f"{DIRECTORY}/{name}")
    damage(files, Edit(name, size, size, b"\xee" * 40))
    repaired = Repair(files, DIRECTORY, bytes(16))
    repaired.open()
    repaired.look()
    repaired.close()
    assert repaired.losses()[-1] == "in all 40 bytes and no offset"
    assert repair(files) == []
    assert all_batches(files) == all_batches(original[0])


def test_a_segment_of_which_nothing_can_be_read_becomes_an_empty_one(original: tuple[MemoryFiles, int]) -> None:
    for number in (0, 2, -1):
        files, end = copy_disk(original[0]), original[1]
        name = names(files, ".log")[number]
        size = files.size(f"{DIRECTORY}/{name}")
        lost = {offset for offset, _ in batches(files.read_bytes(f"{DIRECTORY}/{name}"))}
        damage(files, Edit(name, 0, size, b"\xee" * size))
        assert repair(files) == []
        for clean in (True, False):
            log = start(copy_disk(files), end, clean=clean)
            found = served(log)
            kept = {offset: data for offset, data in all_batches(original[0]).items() if offset not in lost}
            assert with_records(found) == kept
            assert log.log_start_offset == 0
            assert log.log_end_offset == end


def test_offset_and_leader_epoch_are_set_right_where_only_one_value_can_be(original: tuple[MemoryFiles, int]) -> None:
    files, end = copy_disk(original[0]), original[1]
    name = names(files, ".log")[2]
    data = files.read_bytes(f"{DIRECTORY}/{name}")
    second = len(batches(data)[0][1])
    damage(
        files, Edit(name, second, second + 8, struct.pack(">q", 3)), Edit(name, second + 12, second + 16, b"\0\0\1\0")
    )
    assert {finding.kind.value for finding in wrong(files)} == {"wrong-offset", "wrong-epoch"}
    assert repair(files) == []
    assert files.read_bytes(f"{DIRECTORY}/{name}") == data
    assert served(start(files, end)) == all_batches(original[0])


def committed(log: PartitionLog) -> list[int]:
    """Return the offsets of the records that a read_committed consumer gets."""
    log.check_aborted(0, nowait=False)
    aborted = log.aborted_transactions(0, log.log_end_offset)
    open_now: set[int] = set()
    found = []
    for segment in log.segments:
        for _, header, data in segment.batches():
            open_now |= {producer for producer, first in aborted if header.base_offset == first}
            if header.is_control:
                marker = read_marker(data)
                if marker is not None and marker.kind is ControlType.ABORT:
                    open_now.discard(header.producer_id)
            elif header.producer_id not in open_now:
                found += [record.offset for record in iter_records(data)]
    return found


def test_an_aborted_transaction_whose_end_was_lost_stays_aborted(original: tuple[MemoryFiles, int]) -> None:
    whole = committed(start(copy_disk(original[0]), original[1]))
    restored = 0
    for name in names(original[0], ".log")[1:]:
        data = original[0].read_bytes(f"{DIRECTORY}/{name}")
        position = 0
        for last_offset, one in batches(data):
            header = read_any_header(one, 0, len(one))
            marker = read_marker(one) if header.is_control else None
            if marker is not None and marker.kind is ControlType.ABORT:
                files = copy_disk(original[0])
                damage(files, Edit(name, position + 65, position + 68, b"???"))
                assert {finding.kind.value for finding in wrong(files)} == {"damage", "lost-abort"}
                assert repair(files) == []
                assert committed(start(files, original[1])) == whole, last_offset
                assert committed(start(copy_disk(files), original[1], clean=False, recovery_point=0)) == whole
                restored += 1
            position += len(one)
    assert restored > 5


def test_rows_of_checkpoints_that_contradict_the_log_are_set_right(original: tuple[MemoryFiles, int]) -> None:
    files, end = copy_disk(original[0]), original[1]
    other = original[0].read_bytes(f"{HOME}/{HIGH_WATERMARK_FILE}")
    for name, value in ((LOG_START_FILE, end + 5), (HIGH_WATERMARK_FILE, end + 7)):
        files.write_atomic(f"{HOME}/{name}", encode_offsets({**decode_offsets(other, ""), TP: value, ("u", 1): 3}))  # type: ignore[dict-item]
    assert len(wrong(files)) == 2
    assert repair(files) == []
    assert wrong(files) == []
    rows = {
        name: decode_offsets(files.read_bytes(f"{HOME}/{name}"), "") for name in (LOG_START_FILE, HIGH_WATERMARK_FILE)
    }
    assert rows == {LOG_START_FILE: {("u", 1): 3}, HIGH_WATERMARK_FILE: {TP: end, ("u", 1): 3}}


def test_the_topic_id_comes_from_another_partition(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    files.write_atomic(f"{DIRECTORY}/{PARTITION_METADATA_FILE}", b"nonsense")
    files.mkdir(f"{HOME}/t-3")
    files.write_atomic(f"{HOME}/t-3/{PARTITION_METADATA_FILE}", encode_partition_metadata(TOPIC_ID))
    assert repair(files) == []
    assert decode_partition_metadata(files.read_bytes(f"{DIRECTORY}/{PARTITION_METADATA_FILE}"), "") == TOPIC_ID
    alone = copy_disk(original[0])
    alone.write_atomic(f"{DIRECTORY}/{PARTITION_METADATA_FILE}", b"nonsense")
    assert repair(alone) == []
    assert not alone.exists(f"{DIRECTORY}/{PARTITION_METADATA_FILE}")


def test_a_damaged_snapshot_is_written_anew_with_what_it_said(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    name = names(files, ".snapshot")[-1]
    whole = files.read_bytes(f"{DIRECTORY}/{name}")
    damage(files, Edit(name, 12, 13, b"\xff"))
    assert repair(files) == []
    assert files.read_bytes(f"{DIRECTORY}/{name}") == whole


def test_a_repair_keeps_the_time_that_retention_goes_by(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    name = names(files, ".log")[1]
    damage(files, Edit(name, 30, 31, b"?"))
    files.set_mtime_ms(f"{DIRECTORY}/{name}", 4242)
    assert repair(files) == []
    assert files.mtime_ms(f"{DIRECTORY}/{name}") == 4242


def test_a_disk_that_refuses_to_be_read_is_not_written_to(original: tuple[MemoryFiles, int]) -> None:
    files, _ = copy_disk(original[0]), original[1]
    bad = f"{DIRECTORY}/{names(files, '.log')[2]}"

    def fail(operation: str, at: str) -> None:
        if operation == "pread" and at == bad:
            raise OSError(5, "Input/output error", at)

    files.fail = fail
    findings = wrong(files)
    assert [finding.kind.value for finding in findings] == ["disk"]
    assert "Input/output error" in findings[0].line()
    with pytest.raises(StorageError, match="copy what can still be read"):
        repair(files)


def test_recovery_point_of_a_log_whose_only_witness_it_is(original: tuple[MemoryFiles, int]) -> None:
    files, end = copy_disk(original[0]), original[1]
    rows = {TP: end + 1000}
    files.write_atomic(f"{HOME}/{RECOVERY_POINT_FILE}", encode_offsets(rows))
    assert [finding.kind.value for finding in wrong(files)] == ["checkpoint"]
    assert repair(files) == []
    assert decode_offsets(files.read_bytes(f"{HOME}/{RECOVERY_POINT_FILE}"), "") == {TP: end}
    assert path(end) not in [f"{DIRECTORY}/{name}" for name in files.listdir(DIRECTORY)]
