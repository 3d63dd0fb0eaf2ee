"""One SQLite file per task: what is not its format. What it has in common with other homes: `test_durable`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ottla.streams.state.homes import StateCorruptError, StoreNote
from ottla.streams.state.sqlite import FILE_NAME, SqliteHome

NOTE = StoreNote(topic="changelog", topic_id="0a", position=17, leader_epoch=3, committed_ms=1000)


def _home(path: Path, **options: str) -> SqliteHome:
    home = SqliteHome(path, **options)
    home.open_table("counts", "kv str int64")
    return home


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
