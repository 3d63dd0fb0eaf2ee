"""The file system that is synced as a whole: where, when, and what a failure says."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ottla.storage import file_system
from ottla.storage.file_system import DIRTY_BYTES_MAX, OsFileSystem, dirty_bytes, open_file_system

MEMINFO = b"""MemTotal:       24683656 kB
MemFree:        22104212 kB
Cached:           512340 kB
Dirty:              3500 kB
Writeback:            24 kB
WritebackTmp:         77 kB
"""


def test_what_waits_for_the_disk_is_dirty_or_on_its_way() -> None:
    assert dirty_bytes(MEMINFO) == (3500 + 24) * 1024
    assert dirty_bytes(b"MemTotal: 1 kB\n") == 0


@pytest.fixture
def opened(tmp_path: Path) -> OsFileSystem:
    found = open_file_system(str(tmp_path))
    if found is None:
        pytest.skip("temporary files lie on no ext4 here")
    return found


def test_a_sync_reaches_the_system(opened: OsFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    monkeypatch.setattr(file_system, "DIRTY_BYTES_MAX", 1 << 60)
    assert opened.has_little_to_write()
    opened.sync()
    opened.close()
    opened.close()


def test_an_error_carries_its_number(opened: OsFileSystem, tmp_path: Path) -> None:
    find = file_system._find_syncfs()
    assert find is not None
    opened._syncfs = lambda _fd: find(-1)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        opened.sync()
    assert caught.value.errno == errno.EBADF


def test_without_a_journal_the_disk_is_flushed_once_more(opened: OsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    opened._syncfs = lambda _fd: done.append("syncfs") or 0  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "fsync", lambda _fd: done.append("fsync"))
    opened._has_journal = False
    opened.sync()
    opened._has_journal = True
    opened.sync()
    assert done == ["syncfs", "fsync", "syncfs"]


def test_where_much_waits_it_is_not_wise(opened: OsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda *_args: b"\nDirty: %d kB\n" % (DIRTY_BYTES_MAX // 1024))
    assert opened.has_little_to_write()
    monkeypatch.setattr(os, "pread", lambda *_args: b"\nDirty: %d kB\n" % (DIRTY_BYTES_MAX // 1024 + 1))
    assert not opened.has_little_to_write()


def test_without_the_call_it_is_never_used(opened: OsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_system, "_find_syncfs", lambda: None)
    assert not opened.has_little_to_write()
    monkeypatch.undo()
    assert not opened.has_little_to_write()


@pytest.mark.parametrize(
    ("system", "release"), [("Darwin", "23.1.0"), ("Linux", "5.7.19"), ("Linux", "4.19.0-26-amd64"), ("Linux", "odd")]
)
def test_other_systems_and_old_ones_sync_single_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, release: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname=system, release=release))
    assert open_file_system(str(tmp_path)) is None


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory here")
def test_other_file_systems_sync_single_files() -> None:
    assert open_file_system("/dev/shm") is None


def test_a_log_directory_that_reaches_into_another_file_system_is_synced_file_by_file(
    opened: OsFileSystem, tmp_path: Path
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    (tmp_path / "orders-0").mkdir()
    assert open_file_system(str(tmp_path)) is not None
    (tmp_path / "orders-1").symlink_to(elsewhere)
    assert open_file_system(str(tmp_path)) is None
