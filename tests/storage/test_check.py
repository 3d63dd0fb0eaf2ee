"""What `ottla log check` finds: each kind of finding made once; nothing is changed; a log that is in order shows nothing."""

from __future__ import annotations

import struct

import pytest
from tests.storage.damaged_log import (
    HOME,
    Edit,
    batches,
    check,
    copy_disk,
    make_log,
    names,
    path,
    repair,
    start,
    write_checkpoints,
    wrong,
)
from tests.storage.log_support import DIRECTORY, NOW, TOPIC_ID, TP, append, batch

from ottla.errors import StorageError
from ottla.protocol.records.batch import write_crc
from ottla.storage.check import LogCheck, NoLogError
from ottla.storage.checkpoints import (
    CLEANER_FILE,
    HIGH_WATERMARK_FILE,
    LEADER_EPOCH_FILE,
    LOG_START_FILE,
    META_PROPERTIES_FILE,
    PARTITION_METADATA_FILE,
    RECOVERY_POINT_FILE,
    encode_offsets,
    encode_partition_metadata,
    encode_rows,
)
from ottla.storage.findings import Finding
from ottla.testing.memory_files import MemoryFiles


@pytest.fixture(scope="module")
def made() -> tuple[MemoryFiles, int]:
    files = MemoryFiles(lambda: NOW)
    return files, make_log(files)


@pytest.fixture
def end(made: tuple[MemoryFiles, int]) -> int:
    return made[1]


@pytest.fixture
def files(made: tuple[MemoryFiles, int]) -> MemoryFiles:
    return copy_disk(made[0])


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind.value for finding in findings]


def only(findings: list[Finding], kind: str) -> Finding:
    found = [finding for finding in findings if finding.kind.value == kind]
    assert len(found) == 1, kinds(findings)
    return found[0]


def log_name(files: MemoryFiles, number: int) -> str:
    return names(files, ".log")[number]


def data_of(files: MemoryFiles, name: str) -> bytes:
    return files.read_bytes(f"{DIRECTORY}/{name}")


# ------------------------------------------------------------------------------------------------ segments


def test_a_wrong_checksum_says_where_what_and_what_then(files: MemoryFiles) -> None:
    name = log_name(files, 2)
    [first, second, *_] = batches(data_of(files, name))
    size = len(first[1])
    Edit(name, size + 62, size + 63, b"\xfe").apply(files)
    found = only(wrong(files), "damage")
    assert (found.partition, found.file) == ("t-0", name)
    assert (found.position, found.end) == (size, size + len(second[1]))
    assert (found.first_offset, found.next_offset) == (first[0] + 1, second[0] + 1)
    line = found.line()
    assert line.startswith(f"t-0 {name}, bytes {found.position} to {found.end}, offset")
    assert "a wrong checksum" in line
    assert "If left: fetches of these offsets get CORRUPT_MESSAGE" in line
    assert "Repair: writes the segment anew" in line


@pytest.mark.parametrize("number", [0, 1])
def test_formats_0_and_1_have_checksums_too(files: MemoryFiles, number: int) -> None:
    name = log_name(files, 0)
    old = batches(data_of(files, name))
    position = sum(len(one) for _, one in old[:number])
    behind = position + len(old[number][1])
    Edit(name, behind - 1, behind, b"?").apply(files)
    found = only(wrong(files), "damage")
    assert (found.first_offset, found.next_offset) == (number, number + 1)


def test_a_wrong_offset_and_a_wrong_leader_epoch_are_told_apart_from_damage(files: MemoryFiles) -> None:
    name = log_name(files, 3)
    Edit(name, 0, 8, struct.pack(">q", 1 << 40)).apply(files)
    Edit(name, 12, 16, struct.pack(">i", 77)).apply(files)
    findings = wrong(files)
    assert sorted(kinds(findings)) == ["wrong-epoch", "wrong-offset"]
    assert f"says offset {1 << 40} where only {int(name[:20])} can be" in only(findings, "wrong-offset").line()
    assert "say leader epoch 77" in only(findings, "wrong-epoch").line()


def test_records_that_cannot_be_decoded_are_found_when_they_are_read(files: MemoryFiles) -> None:
    name = log_name(files, 2)
    for number, (_, one) in enumerate(batches(data_of(files, name))):
        changed = bytearray(one)
        if not number:
            changed[61] = 0xFE
            write_crc(changed)
            Edit(name, 0, len(one), bytes(changed)).apply(files)
    assert wrong(files) == []
    found = only(wrong(files, deep=True), "undecodable")
    assert "the checksum is right, but" in found.line()
    assert (found.position, found.first_offset) == (0, int(name[:20]))


def test_a_missing_log_file_is_told_by_its_indexes(files: MemoryFiles) -> None:
    name = log_name(files, 3)
    files.remove(f"{DIRECTORY}/{name}")
    findings = check(files)
    assert {finding.kind.value for finding in findings if finding.is_wrong} == {"missing-segment"}
    hole = only(findings, "hole")
    assert hole.first_offset == int(name[:20])
    assert "compaction and repairs leave holes" in hole.line()


def test_a_segment_that_is_gone_altogether_is_a_hole_unless_the_log_was_compacted(files: MemoryFiles, end: int) -> None:
    stem = log_name(files, 3)[:20]
    for name in files.listdir(DIRECTORY):
        if name.startswith(stem):
            files.remove(f"{DIRECTORY}/{name}")
    findings = check(files)
    assert kinds(findings) == ["hole"]
    assert not findings[0].is_wrong
    files.write_atomic(f"{HOME}/{CLEANER_FILE}", encode_offsets({TP: end}))
    assert check(files) == []


def test_a_log_that_ends_too_early(files: MemoryFiles, end: int) -> None:
    name = log_name(files, -1)
    *kept, (_, last) = batches(data_of(files, name))
    Edit(name, sum(len(one) for _, one in kept), 1 << 30, b"").apply(files)
    found = only(wrong(files), "missing-end")
    assert (found.first_offset, found.next_offset) == (end - 1, end)
    assert "the log had reached" in found.line()
    assert last


def test_bytes_behind_the_last_batch_lose_no_offset(files: MemoryFiles, end: int) -> None:
    name = log_name(files, -1)
    size = files.size(f"{DIRECTORY}/{name}")
    Edit(name, size, size, b"\xee" * 40).apply(files)
    found = only(wrong(files), "damage")
    assert (found.first_offset, found.next_offset) == (end, end)
    assert "If left: no offset is lost, and neither compaction nor retention touches the segment." in found.line()
    assert found.line().endswith("without these bytes; no offset is lost.")


# ------------------------------------------------------------------------------------------------ indexes


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("offset-index", Edit(".index", 4, 8, struct.pack(">i", 5))),
        ("offset-index", Edit(".index", 4, 8, struct.pack(">i", 1 << 24))),
        ("offset-index", Edit(".index", 0, 4, struct.pack(">i", 1 << 24))),
        ("offset-index", Edit(".index", 3, 4, b"")),
        ("time-index", Edit(".timeindex", 7, 8, b"\x01")),
        ("time-index", Edit(".timeindex", 12, 1 << 30, b"")),
        ("time-index", Edit(".timeindex", 8, 12, struct.pack(">i", 1 << 24))),
        ("transaction-index", Edit(".txnindex", 0, 2, b"\0\1")),
        ("transaction-index", Edit(".txnindex", 2, 10, struct.pack(">q", 9))),
        ("transaction-index", Edit(".txnindex", 17, 18, b"\0")),
        ("transaction-index", Edit(".txnindex", 25, 26, b"\0")),
        ("transaction-index", Edit(".txnindex", 0, 34, b"")),
        ("transaction-index", Edit(".txnindex", 0, 1, b"")),
    ],
)
def test_an_index_that_contradicts_the_batches(files: MemoryFiles, kind: str, edit: Edit) -> None:
    name = names(files, edit.name)[2]
    Edit(name, edit.position, edit.end, edit.data).apply(files)
    found = only(wrong(files), kind)
    assert found.file == name
    assert "builds it anew from the batches" in found.line()


@pytest.mark.parametrize("kind", [".index", ".timeindex", ".txnindex"])
def test_an_index_that_is_missing(files: MemoryFiles, kind: str) -> None:
    files.remove(f"{DIRECTORY}/{names(files, kind)[1]}")
    assert len(wrong(files)) == 1
    assert wrong(files)[0].file.endswith(kind)


# ------------------------------------------------------------------------------------------------ small files


def test_a_damaged_producer_snapshot(files: MemoryFiles) -> None:
    name = names(files, ".snapshot")[1]
    Edit(name, 10, 11, b"\xff").apply(files)
    found = only(wrong(files), "snapshot")
    assert found.file == name
    assert "the CRC is wrong" in found.line()


def test_a_producer_snapshot_behind_the_end(files: MemoryFiles, end: int) -> None:
    name = names(files, ".snapshot")[-1]
    files.rename(f"{DIRECTORY}/{name}", path(end + 4, ".snapshot"))
    findings = wrong(files)
    assert kinds(findings) == ["snapshot"]
    assert "behind the end of the log" in findings[0].line()


@pytest.mark.parametrize(
    "text",
    [
        b"1\n0\n",
        b"0\n2\n0 0\n",
        encode_rows(["0 0", "1 12"]),
        encode_rows(["0 0", "1 62", "7 70"]),
        encode_rows([]),
        None,
    ],
)
def test_leader_epochs_that_contradict_the_batches(files: MemoryFiles, text: bytes | None) -> None:
    if text is None:
        files.remove(f"{DIRECTORY}/{LEADER_EPOCH_FILE}")
    else:
        files.write_atomic(f"{DIRECTORY}/{LEADER_EPOCH_FILE}", text)
    assert kinds(wrong(files)) == ["leader-epochs"]


@pytest.mark.parametrize("text", [b"", b"version: 0\n", b"version: 3\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA"])
def test_partition_metadata_that_cannot_be_read(files: MemoryFiles, text: bytes) -> None:
    files.write_atomic(f"{DIRECTORY}/{PARTITION_METADATA_FILE}", text)
    assert kinds(wrong(files)) == ["partition-metadata"]


@pytest.mark.parametrize("name", [RECOVERY_POINT_FILE, LOG_START_FILE, HIGH_WATERMARK_FILE, CLEANER_FILE])
def test_a_row_of_a_checkpoint_beyond_the_end(files: MemoryFiles, end: int, name: str) -> None:
    files.write_atomic(f"{HOME}/{name}", encode_offsets({TP: end + 1}))
    found = only(wrong(files), "checkpoint")
    assert (found.file, found.partition) == (name, "t-0")
    assert str(end + 1) in found.line()


@pytest.mark.parametrize("name", [RECOVERY_POINT_FILE, LOG_START_FILE, HIGH_WATERMARK_FILE, CLEANER_FILE])
def test_a_checkpoint_that_cannot_be_read(files: MemoryFiles, name: str) -> None:
    files.write_atomic(f"{HOME}/{name}", b"nonsense")
    found = only(wrong(files), "checkpoint")
    assert (found.file, found.partition) == (name, "")


def test_a_row_of_a_partition_that_is_not_here_is_a_note(files: MemoryFiles, end: int) -> None:
    files.write_atomic(f"{HOME}/{HIGH_WATERMARK_FILE}", b"0\n2\nt 0 %d\ngone 3 5\n" % end)
    findings = check(files)
    assert kinds(findings) == ["stale-row"]
    assert "gone-3" in findings[0].line()


def test_meta_properties_that_cannot_be_read(files: MemoryFiles) -> None:
    files.write_atomic(f"{HOME}/{META_PROPERTIES_FILE}", b"version=9\n")
    assert kinds(wrong(files)) == ["identity"]


def test_meta_properties_that_the_disk_does_not_give(files: MemoryFiles) -> None:
    def fail(operation: str, at: str) -> None:
        if operation == "read_bytes" and at.endswith(META_PROPERTIES_FILE):
            raise PermissionError(13, "Permission denied", at)

    files.fail = fail
    assert "Permission denied" in only(wrong(files), "identity").line()


@pytest.mark.parametrize("text", [b"", b"[]", b'{"format":9}'])
def test_a_marker_that_a_broker_refuses(files: MemoryFiles, text: bytes) -> None:
    files.write_atomic(f"{HOME}/.ottla", text)
    assert kinds(wrong(files)) == ["identity"]


# ------------------------------------------------------------------------------------------------ names


def test_leftovers_and_unknown_files_are_told_as_what_they_are(files: MemoryFiles) -> None:
    for name in ("00000000000000000023.log.deleted", "00000000000000000080.log.cleaned", "notes.txt", "x.tmp"):
        files.write_atomic(f"{DIRECTORY}/{name}", b"")
    for name in (f"t-1.{'a' * 32}-delete", f"t-2.{'b' * 32}-stray", f"t-3.{'c' * 32}-future", "lost+found"):
        files.mkdir(f"{HOME}/{name}")
    findings = check(files)
    assert [finding for finding in findings if finding.is_wrong] == []
    told = {finding.file: finding for finding in findings}
    assert {name for name, finding in told.items() if finding.kind.value == "unknown-file"} == {
        "lost+found",
        "notes.txt",
    }
    assert "deleted segment" in told["00000000000000000023.log.deleted"].problem
    assert "when the broker died" in told["00000000000000000080.log.cleaned"].problem
    assert "was deleted" in told[f"t-1.{'a' * 32}-delete"].problem
    assert "Apache Kafka does not start with it" in told["lost+found"].consequence


@pytest.mark.parametrize(
    ("name", "is_directory"),
    [
        ("abc.swap", False),
        ("99999999999999999999.log", False),
        ("99999999999999999999.log.swap", False),
        ("\u0660" * 20 + ".log", False),
        ("\u00b2" * 20 + ".index", False),
        ("\u00b2" * 20 + ".log.cleaned", False),
        (f"{3:020}.old.log", False),
        ("bar.tmp", True),
        (f"{7000:020}.log", True),
        (f"{7000:020}.snapshot", True),
        (f"{7000:020}.log.deleted", True),
    ],
)
def test_what_a_broker_may_stop_at_is_wrong_and_keeps_a_repair_off(
    files: MemoryFiles, name: str, is_directory: bool
) -> None:
    if is_directory:
        files.mkdir(f"{DIRECTORY}/{name}")
    else:
        files.write_atomic(f"{DIRECTORY}/{name}", b"")
    found = only(wrong(files), "odd-name")
    assert (found.partition, found.file) == ("t-0", name)
    assert kinds(wrong(files, DIRECTORY)) == ["odd-name"]
    with pytest.raises(StorageError, match="cannot before you have moved it away"):
        repair(files)


@pytest.mark.parametrize("name", [LEADER_EPOCH_FILE, PARTITION_METADATA_FILE])
def test_a_directory_in_the_place_of_a_small_file(files: MemoryFiles, name: str) -> None:
    files.remove(f"{DIRECTORY}/{name}")
    files.mkdir(f"{DIRECTORY}/{name}")
    assert only(wrong(files), "odd-name").file == name


@pytest.mark.parametrize("name", [RECOVERY_POINT_FILE, META_PROPERTIES_FILE, f"{HIGH_WATERMARK_FILE}.tmp"])
def test_a_directory_in_the_place_of_a_file_of_the_log_directory(files: MemoryFiles, name: str) -> None:
    if files.exists(f"{HOME}/{name}"):
        files.remove(f"{HOME}/{name}")
    files.mkdir(f"{HOME}/{name}")
    assert only(wrong(files), "odd-name").file == name


def test_a_coordination_tree_that_is_no_database(files: MemoryFiles) -> None:
    files.write_atomic(f"{HOME}/ottla.sqlite", b"SQLite format 3\0and more")
    assert check(files) == []
    files.write_atomic(f"{HOME}/ottla.sqlite", b"SQLite format 4\0and more")
    assert only(wrong(files), "tree").file == "ottla.sqlite"


def test_partitions_of_a_topic_that_have_other_ids(files: MemoryFiles) -> None:
    for number in (1, 2):
        files.mkdir(f"{HOME}/t-{number}")
        files.write_atomic(f"{HOME}/t-{number}/{PARTITION_METADATA_FILE}", encode_partition_metadata(TOPIC_ID))
    assert wrong(files) == []
    files.write_atomic(f"{HOME}/t-2/{PARTITION_METADATA_FILE}", encode_partition_metadata(b"x" * 16))
    assert only(wrong(files), "partition-metadata").partition == "t-2"
    files.write_atomic(f"{HOME}/t-1/{PARTITION_METADATA_FILE}", encode_partition_metadata(b"y" * 16))
    assert [finding.partition for finding in wrong(files)] == ["t-0", "t-1", "t-2"]
    assert kinds(wrong(files, f"{HOME}/t-1")) == ["partition-metadata"]


def test_a_swap_that_was_interrupted_counts_as_it_will_be_finished(files: MemoryFiles) -> None:
    stem = log_name(files, 2)[:20]
    for kind in (".log", ".index", ".timeindex", ".txnindex"):
        name = f"{DIRECTORY}/{stem}{kind}"
        if files.exists(name):
            files.write_atomic(f"{name}.swap", files.read_bytes(name))
    files.remove(f"{DIRECTORY}/{stem}.log")
    findings = check(files)
    assert {finding.kind.value for finding in findings} == {"leftover"}
    assert all("finishes that" in finding.remedy for finding in findings)


# ------------------------------------------------------------------------------------------------ after a crash


def test_after_a_crash_only_what_the_next_start_does_not_mend_is_wrong(files: MemoryFiles, end: int) -> None:
    write_checkpoints(files, end, clean=False, recovery_point=60)
    name = log_name(files, -1)
    Edit(name, files.size(f"{DIRECTORY}/{name}") - 10, 1 << 30, b"").apply(files)
    Edit(names(files, ".timeindex")[-1], 0, 4, b"\xff\xff\xff\xff").apply(files)
    findings = check(files)
    assert kinds(findings) == ["unclean", "torn-end"]
    assert not any(finding.is_wrong for finding in findings)


def test_after_a_crash_one_note_tells_of_all_partitions_that_were_not_closed(files: MemoryFiles, end: int) -> None:
    write_checkpoints(files, end, clean=False, recovery_point=60)
    for number in range(1, 6):
        files.mkdir(f"{HOME}/t-{number}")
        files.write_atomic(f"{HOME}/t-{number}/{0:020}.log", b"")
        files.write_atomic(f"{HOME}/t-{number}/{0:020}.index", b"")
        files.write_atomic(f"{HOME}/t-{number}/{0:020}.timeindex", b"")
    assert "reads the end of t-0 again" in only(check(files), "unclean").line()
    for name in files.listdir(DIRECTORY):
        files.write_atomic(f"{HOME}/t-1/{name}", files.read_bytes(f"{DIRECTORY}/{name}"))
    assert "reads the end of each of 2 partitions with batches again" in only(check(files), "unclean").line()
    assert kinds(check(files)) == ["unclean"]


def test_after_a_crash_it_warns_of_what_the_next_start_would_delete(files: MemoryFiles, end: int) -> None:
    write_checkpoints(files, end, clean=False, recovery_point=0)
    Edit(log_name(files, 2), 70, 71, b"?").apply(files)
    found = only(wrong(files), "damage")
    assert "it cuts the log here and deletes everything behind" in found.consequence
    before = end
    assert start(copy_disk(files), end, clean=False, recovery_point=0).log_end_offset < before


# ------------------------------------------------------------------------------------------------ what it looks at


def test_checking_changes_nothing(files: MemoryFiles) -> None:
    Edit(log_name(files, 2), 70, 71, b"?").apply(files)
    Edit(names(files, ".snapshot")[1], 10, 11, b"\xff").apply(files)
    files.remove(f"{DIRECTORY}/{names(files, '.index')[1]}")
    changes: list[tuple[str, str]] = []

    def note(operation: str, at: str) -> None:
        if operation not in ("pread", "read_bytes", "listdir", "open"):
            changes.append((operation, at))

    before = {place: files.listdir(place) for place in (HOME, DIRECTORY)}
    files.fail = note
    assert check(files, deep=True)
    assert changes == []
    assert {place: files.listdir(place) for place in (HOME, DIRECTORY)} == before


def test_one_partition_is_looked_at_with_what_its_log_directory_knows(files: MemoryFiles, end: int) -> None:
    files.write_atomic(f"{HOME}/{HIGH_WATERMARK_FILE}", encode_offsets({TP: end + 9}))
    assert kinds(wrong(files, DIRECTORY)) == ["checkpoint"]
    assert kinds(wrong(files, DIRECTORY + "/")) == ["checkpoint"]
    # A copy somewhere else knows nothing of that, and is looked at all the same.
    files.mkdir("elsewhere/copy")
    for name in files.listdir(DIRECTORY):
        files.write_atomic(f"elsewhere/copy/{name}", files.read_bytes(f"{DIRECTORY}/{name}"))
    assert check(files, "elsewhere/copy") == []
    Edit(log_name(files, 2), 70, 71, b"?").apply(files)
    files.write_atomic(f"elsewhere/copy/{log_name(files, 2)}", data_of(files, log_name(files, 2)))
    assert kinds(check(files, "elsewhere/copy")) == ["damage"]


def test_what_is_no_directory_of_logs_is_refused(files: MemoryFiles) -> None:
    files.mkdir("other")
    files.write_atomic("other/file", b"")
    with pytest.raises(NoLogError, match="other is neither a log directory nor"):
        check(files, "other")
    with pytest.raises(FileNotFoundError):
        check(files, "nowhere")


def test_all_bytes_of_all_segments_are_reported_as_read(files: MemoryFiles) -> None:
    read: list[int] = []
    with LogCheck(files, HOME, on_read=read.append) as looked:
        assert list(looked.run()) == []
        assert (
            sum(read) == looked.total_bytes == sum(files.size(f"{DIRECTORY}/{name}") for name in names(files, ".log"))
        )
        assert looked.partitions == 1


def test_an_empty_log_and_one_whose_first_segments_are_deleted_are_in_order() -> None:
    files = MemoryFiles(lambda: NOW)
    end = make_log(files)
    log = start(files, end)
    log.advance_log_start(end - 30)
    log.delete_old_segments(NOW)
    assert log.segments[0].base_offset > 0
    append(log, batch([b"more"]), leader_epoch=5)
    log.close()
    write_checkpoints(files, log.log_end_offset)
    for name in names(files, ".deleted"):
        files.remove(f"{DIRECTORY}/{name}")
    assert check(files) == []
    log = start(files, end + 1)
    log.advance_log_start(end + 1)
    log.truncate_fully_and_start_at(end + 100)
    log.close()
    write_checkpoints(files, end + 100)
    for name in names(files, ".deleted"):
        files.remove(f"{DIRECTORY}/{name}")
    assert check(files) == []
