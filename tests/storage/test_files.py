"""The operating system behind the border, and the bounded set of open files."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
from pathlib import Path

import pytest
from tests.storage.log_support import NOW, TP, append_many, read_all, value_of

from ottla.storage.config import LogConfig
from ottla.storage.files import OsFiles
from ottla.storage.log import PartitionLog
from ottla.storage.open_files import OpenFiles

FILES = OsFiles()


def test_appends_land_at_the_end_after_a_truncation(tmp_path: Path) -> None:
    file = FILES.open(f"{tmp_path}/f", create=True)
    file.append(b"abcdef")
    file.truncate(2)
    file.append(memoryview(b"XY"))
    file.datasync()
    assert file.pread(10, 0) == b"abXY"
    assert file.pread(2, 1) == b"bX"
    assert file.size() == 4
    assert file.pread_nowait(4, 0) in (b"abXY", None)
    assert file.pread_nowait(10, 0) is None, "fewer bytes than asked for: not known to be all there"
    file.close()
    file.close()


def test_a_file_closes_itself_when_nobody_refers_to_it(tmp_path: Path) -> None:
    file = FILES.open(f"{tmp_path}/f", create=True)
    number = file.fileno()
    del file
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_an_atomic_write_replaces_the_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/f"
    FILES.write_atomic(path, b"old")
    FILES.write_atomic(path, b"new" * 50_000, sync=False)
    assert FILES.read_bytes(path) == b"new" * 50_000
    assert FILES.listdir(str(tmp_path)) == ["f"]


def test_directories_and_times(tmp_path: Path) -> None:
    FILES.mkdir(f"{tmp_path}/a/b")
    FILES.write_atomic(f"{tmp_path}/a/b/f", b"x")
    FILES.set_mtime_ms(f"{tmp_path}/a/b/f", NOW)
    assert FILES.mtime_ms(f"{tmp_path}/a/b/f") == NOW
    assert FILES.size(f"{tmp_path}/a/b/f") == 1
    FILES.sync_dir(f"{tmp_path}/a")
    FILES.sync_file(f"{tmp_path}/a/b/f")
    FILES.rename(f"{tmp_path}/a", f"{tmp_path}/c")
    assert FILES.is_dir(f"{tmp_path}/c/b")
    FILES.remove_tree(f"{tmp_path}/c")
    FILES.remove_tree(f"{tmp_path}/c")
    assert not FILES.exists(f"{tmp_path}/c")
    total, usable = FILES.disk_usage(str(tmp_path))
    assert 0 < usable <= total


def test_a_lock_excludes_a_second_one_even_in_this_process(tmp_path: Path) -> None:
    lock = FILES.lock(f"{tmp_path}/.lock")
    with pytest.raises(BlockingIOError):
        FILES.lock(f"{tmp_path}/.lock")
    lock.close()
    FILES.lock(f"{tmp_path}/.lock").close()


def test_open_files_are_bounded_and_used_ones_stay_readable(tmp_path: Path) -> None:
    for number in range(10):
        FILES.write_atomic(f"{tmp_path}/{number}", b"%d" % number, sync=False)
    cache = OpenFiles(FILES, capacity=3)
    held = cache.get(f"{tmp_path}/0")
    for number in range(10):
        assert cache.get(f"{tmp_path}/{number}").pread(1, 0) == b"%d" % number
    assert len(cache) == 3
    assert held.pread(1, 0) == b"0"
    recent = cache.get(f"{tmp_path}/9")
    assert cache.get(f"{tmp_path}/9") is recent
    cache.forget(f"{tmp_path}/9")
    assert cache.get(f"{tmp_path}/9") is not recent


def test_a_log_of_many_segments_needs_few_descriptors(tmp_path: Path) -> None:
    cache = OpenFiles(FILES, capacity=4)
    config = LogConfig(segment_bytes=900)
    log = PartitionLog.open(FILES, f"{tmp_path}/t-0", TP, config, now_ms=NOW, open_files=cache)
    append_many(log, 200)
    log.flush()
    assert len(log.segments) == 40
    assert [record.value for record in read_all(log)] == [value_of(offset) for offset in range(200)]
    assert len(cache) == 4
    log.close()
    log = PartitionLog.open(
        FILES, f"{tmp_path}/t-0", TP, config, now_ms=NOW, open_files=cache, clean=True, recovery_point=200
    )
    assert log.log_end_offset == 200
    assert len(read_all(log, 150)) == 50


def test_what_is_in_the_page_cache_can_be_sent_unread(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    file = FILES.open(f"{tmp_path}/file", create=True)
    file.append(data)
    assert not file.is_cached(len(data) + 1, 0), "the file ends before"
    if not file.is_cached(len(data), 0):
        pytest.skip("this system does not tell what is in memory")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert file.send_to(ours.fileno(), 1000, 300) == 1000
        assert theirs.recv(2000) == data[300:1300]
        assert file.send_to(ours.fileno(), 1000, len(data)) == 0, "the end"


def test_space_set_aside_changes_nothing_but_the_disk_and_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = FILES.open(str(path), create=True)
    file.append(b"what is there")
    if not file.reserve(4 << 20, 13):
        pytest.skip("not on this file system")
    assert path.stat().st_blocks * 512 >= 4 << 20
    assert path.read_bytes() == b"what is there"
    file.append(b", and more")
    assert path.read_bytes() == b"what is there, and more"
    FILES.open(str(path)).release_reserve()  # as who opens it after a crash does
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.read_bytes() == b"what is there, and more"


def test_where_space_cannot_be_set_aside_nothing_happens() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        path = Path(directory) / "file"
        file = FILES.open(str(path), create=True)
        file.append(b"x")
        if file.reserve(1 << 20, 1):
            pytest.skip("ext4 is here")
        file.append(b"y")
        file.release_reserve()
        assert path.read_bytes() == b"xy"
