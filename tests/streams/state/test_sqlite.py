"""One SQLite file per task: formats, damage, kinds, readers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ottla.streams.state.homes import StateCorruptError, StateError, StoreKindError, StoreNote
from ottla.streams.state.sqlite import FILE_NAME, SqliteHome

NOTE = StoreNote(topic="changelog", topic_id="0a", position=17, leader_epoch=3, committed_ms=1000)


def _home(path: Path, **options: str) -> SqliteHome:
    home = SqliteHome(path, **options)
    home.open_table("counts", "kv str int64")
    return home


def test_rows_and_note_survive(tmp_path: Path) -> None:
    home = _home(tmp_path)
    home.commit({"counts": {b"a": b"1", b"": b""}}, {"counts": NOTE})
    home.close()
    again = _home(tmp_path)
    assert again.page("counts", None, None, reverse=False, limit=9) == [(b"", b""), (b"a", b"1")]
    assert again.note("counts") == NOTE
    again.wipe("counts")
    assert again.note("counts") is None
    assert again.row_count("counts") == 0
    again.close()


def test_a_store_of_another_kind_is_refused(tmp_path: Path) -> None:
    home = _home(tmp_path)
    with pytest.raises(StoreKindError, match="holds 'kv str int64', and the topology wants 'window 60000'"):
        home.open_table("counts", "window 60000")
    home.close()


def test_another_format_is_refused(tmp_path: Path) -> None:
    _home(tmp_path).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StateCorruptError, match="format 99"):
        SqliteHome(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(StateCorruptError, match=r"state\.sqlite"):
        SqliteHome(tmp_path)


def test_a_torn_file_is_found_after_a_power_cut(tmp_path: Path) -> None:
    """A file that was left unclean on another boot is gone through before it is used."""
    home = _home(tmp_path, boot_id="one")
    home.commit({"counts": {b"%05d" % n: b"x" * 100 for n in range(2000)}}, {"counts": NOTE})
    home._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    home.close(clean=False)
    path = tmp_path / FILE_NAME
    body = bytearray(path.read_bytes())
    body[8 * 4096 : 20 * 4096] = bytes(12 * 4096)
    path.write_bytes(body)
    with pytest.raises(StateCorruptError, match="damaged"):
        SqliteHome(tmp_path, boot_id="two")


def test_readers_see_what_is_committed(tmp_path: Path) -> None:
    home = _home(tmp_path)
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
