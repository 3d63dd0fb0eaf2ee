"""What every durable home keeps: SQLite's file, RocksDB's folder. Formats, damage, kinds, readers, torn ends."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.streams.state.killed import copy_as_killed

from ottla.streams.state.homes import Home, StateCorruptError, StateError, StateLockedError, StoreKindError, StoreNote
from ottla.streams.state.rocksdb import FOLDER_NAME, RocksHome, notes_on_disk
from ottla.streams.state.sqlite import FILE_NAME, SqliteHome

NOTE = StoreNote(topic="changelog", topic_id="0a", position=17, leader_epoch=3, committed_ms=1000)
OpenHome = Callable[..., Home]


@pytest.fixture(params=[SqliteHome, RocksHome])
def open_home(request: pytest.FixtureRequest) -> OpenHome:
    kind: Callable[..., Home] = request.param

    def make(path: Path, **options: str) -> Home:
        home = kind(path, **options)
        home.open_table("counts", "kv str int64")
        return home

    return make


def test_rows_and_note_survive(tmp_path: Path, open_home: OpenHome) -> None:
    home = open_home(tmp_path)
    home.commit({"counts": {b"a": b"1", b"": b""}}, {"counts": NOTE})
    home.commit({"counts": {b"b": b"2"}}, {})
    home.commit({"counts": {b"b": None}}, {})
    home.close()
    again = open_home(tmp_path)
    assert again.page("counts", None, None, reverse=False, limit=9) == [(b"", b""), (b"a", b"1")]
    assert again.note("counts") == NOTE
    again.wipe("counts")
    assert again.note("counts") is None
    assert again.row_count("counts") == 0
    again.close()


def test_a_killed_process_loses_nothing(tmp_path: Path, open_home: OpenHome) -> None:
    """What another process finds of the files as they are while this one has them open."""
    home = open_home(tmp_path / "live")
    for number in range(50):
        home.commit({"counts": {b"%d" % number: b"x" * 1000}}, {"counts": NOTE})
    copy_as_killed(tmp_path / "live", tmp_path / "found")
    found = open_home(tmp_path / "found")
    assert found.row_count("counts") == 50
    assert found.note("counts") == NOTE
    found.close()
    home.close()


def test_tables_do_not_see_each_other(tmp_path: Path, open_home: OpenHome) -> None:
    home = open_home(tmp_path)
    home.open_table("others", "kv")
    home.commit({"counts": {b"\xff\xff": b"1", b"a": b"2"}, "others": {b"": b"3", b"\0": b"4"}}, {})
    for reverse in (False, True):
        assert len(home.page("counts", None, None, reverse=reverse, limit=9)) == 2
        assert len(home.page("others", None, None, reverse=reverse, limit=9)) == 2
    home.wipe("counts")
    assert home.row_count("counts") == 0
    assert home.row_count("others") == 2
    home.close()


def test_a_store_of_another_kind_is_refused(tmp_path: Path, open_home: OpenHome) -> None:
    home = open_home(tmp_path)
    with pytest.raises(StoreKindError, match="holds 'kv str int64', and the topology wants 'window 60000'"):
        home.open_table("counts", "window 60000")
    home.close()
    home = open_home(tmp_path)
    with pytest.raises(StoreKindError):
        home.open_table("counts", "window 60000")
    home.close()


def test_readers_see_what_is_committed(tmp_path: Path, open_home: OpenHome) -> None:
    home = open_home(tmp_path)
    reader = home.reader()
    assert reader.get("counts", b"a") is None
    assert reader.note("counts") is None
    home.commit({"counts": {b"a": b"1"}}, {"counts": NOTE})
    assert reader.get("counts", b"a") == b"1"
    assert reader.note("counts") == NOTE
    with pytest.raises(StateError, match="no store 'other'"):
        reader.get("other", b"a")
    reader.close()
    home.close()


def test_a_reader_asks_while_its_home_is_closed(tmp_path: Path, open_home: OpenHome) -> None:
    """Another thread reads all the time: each answer is whole, or an error that says what it is."""
    home = open_home(tmp_path)
    reader = home.reader()
    home.commit({"counts": {b"%04d" % n: b"x" for n in range(1000)}}, {"counts": NOTE})
    begun = threading.Event()
    found: list[int] = []
    wrong: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(300):
                found.append(len(reader.page("counts", None, None, reverse=False, limit=2000)))
                begun.set()
        except StateError:
            pass
        except BaseException as error:
            wrong.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(30)
    home.close()
    thread.join(30)
    assert not thread.is_alive()
    reader.close()
    assert not wrong
    assert set(found) == {1000}
    open_home(tmp_path).close()


def _damage_sqlite(path: Path) -> None:
    file = path / FILE_NAME
    body = bytearray(file.read_bytes())
    body[8 * 4096 : 20 * 4096] = bytes(12 * 4096)
    file.write_bytes(body)


def _damage_rocks(path: Path) -> None:
    for file in (path / FOLDER_NAME).glob("*.sst"):
        body = bytearray(file.read_bytes())
        body[20_000:24_000] = bytes(4000)
        file.write_bytes(body)


@pytest.mark.parametrize("kind", ["sqlite", "rocksdb"])
def test_torn_files_are_found_after_a_power_cut(tmp_path: Path, kind: str) -> None:
    """What was left unclean on another boot is gone through before it is used."""
    home: SqliteHome | RocksHome
    home = SqliteHome(tmp_path, boot_id="one") if kind == "sqlite" else RocksHome(tmp_path, boot_id="one")
    home.open_table("counts", "kv")
    home.commit({"counts": {b"%05d" % n: b"x" * 100 for n in range(2000)}}, {"counts": NOTE})
    if isinstance(home, SqliteHome):
        home._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        home._database.flush()
    home.close(clean=False)
    (_damage_sqlite if kind == "sqlite" else _damage_rocks)(tmp_path)
    with pytest.raises(StateCorruptError, match="damaged"):
        (SqliteHome if kind == "sqlite" else RocksHome)(tmp_path, boot_id="two")


def test_rocksdb_after_a_power_cut_has_rows_and_position_of_one_commit(tmp_path: Path) -> None:
    """However much of the log is lost, what is left is a commit as a whole."""
    home = RocksHome(tmp_path / "task")
    home.open_table("store", "kv")
    for position in range(1, 8):
        note = StoreNote(topic="changelog", topic_id="1", position=position)
        home.commit({"store": {b"count": b"%d" % position, b"%d" % position: b"x" * 500}}, {"store": note})
    (log,) = (tmp_path / "task" / FOLDER_NAME).glob("*.log")
    size = log.stat().st_size
    found = set()
    for lost in range(0, size, 700):
        copy = tmp_path / f"cut-{lost}"
        copy_as_killed(tmp_path / "task", copy)
        torn = copy / FOLDER_NAME / log.name
        torn.write_bytes(log.read_bytes()[: size - lost])
        left = RocksHome(copy, boot_id="after the power cut")
        try:
            left.open_table("store", "kv")
            noted = left.note("store")
            position = 0 if noted is None else noted.position
            assert left.get("store", b"count") == (b"%d" % position if position else None)
            assert left.row_count("store") == (position + 1 if position else 0)
            found.add(position)
        finally:
            left.close()
    home.close()
    assert len(found) > 3


def test_rocksdb_in_another_format_is_refused(tmp_path: Path) -> None:
    home = RocksHome(tmp_path)
    home._database[b"\0\0\0\0format"] = b"99"
    home.close()
    with pytest.raises(StateCorruptError, match="format 99"):
        RocksHome(tmp_path)


def test_a_folder_that_is_no_database_is_refused(tmp_path: Path) -> None:
    RocksHome(tmp_path).close()
    for manifest in (tmp_path / FOLDER_NAME).glob("MANIFEST*"):
        manifest.unlink()
    with pytest.raises(StateCorruptError, match="damaged"):
        RocksHome(tmp_path)


def test_rocksdb_is_open_once_and_its_notes_are_read_all_the_same(tmp_path: Path) -> None:
    home = RocksHome(tmp_path)
    home.open_table("counts", "kv")
    home.commit({}, {"counts": NOTE})
    with pytest.raises(StateLockedError, match="open elsewhere"):
        RocksHome(tmp_path)
    assert notes_on_disk(tmp_path, ["counts", "others"]) == [NOTE, None]
    home.close()


def test_a_full_disk_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    """A path may have "lock" in it."""
    home = RocksHome(tmp_path / "clocks")
    home.open_table("counts", "kv")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StateError, match="While appending") as caught:
            home.commit({"counts": {b"k": b"v" * 2000}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        home.close()
    assert not isinstance(caught.value, StateLockedError)
    RocksHome(tmp_path / "clocks").close()  # what cannot be written at the end keeps no lock


def test_a_lock_file_that_cannot_be_opened_is_not_held_by_another(tmp_path: Path) -> None:
    RocksHome(tmp_path).close()
    lock = tmp_path / FOLDER_NAME / "LOCK"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StateError, match="Is a directory") as caught:
        RocksHome(tmp_path)
    assert not isinstance(caught.value, StateLockedError)
