"""State in one SQLite file per task: the embedded default.

WAL with synchronous=NORMAL: a killed process loses nothing that was committed; a power cut may lose the last commits as
a whole, and the changelog gives them back, because the position goes into the same transaction as the rows. The
rollback of a torn WAL is SQLite's business. After an unclean end on another boot of the machine the file is checked.

`PRAGMA user_version` is the format. A file of another format, or one that SQLite calls damaged, raises
`StateCorruptError`: the caller removes the directory and restores.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from ottla.streams.state.homes import Changes, StateCorruptError, StateError, StoreKindError, StoreNote

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: "ottl" in ASCII, for `file` and for ourselves.
APPLICATION_ID: Final = 0x6F74746C
FORMAT: Final = 1
FILE_NAME: Final = "state.sqlite"
#: Pages of the WAL after which SQLite moves them into the file: 16 MB.
_CHECKPOINT_PAGES: Final = 4000
_BUSY_MS: Final = 10_000


class SqliteHome:
    """The committed state of one task in `<directory>/state.sqlite`. The directory's lock is the caller's business.

    Args:
        directory: of the task; made if it is not there.
        boot_id: names this boot of this machine; the file is checked if it was left unclean on another one.

    Raises:
        StateCorruptError: the file is damaged or of another format.
        StateError: the disk refuses.
    """

    def __init__(self, directory: Path, *, boot_id: str = "") -> None:
        self._path = directory / FILE_NAME
        self._tables: dict[str, str] = {}
        self._notes: dict[str, StoreNote] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"The state directory {directory} cannot be made: {error}.") from error
        self._connection = self._guard(lambda: sqlite3.connect(self._path, isolation_level=None))
        try:
            self._guard(lambda: self._begin(boot_id))
        except BaseException:
            self._connection.close()
            raise

    def _guard(self, call: Callable[[], T]) -> T:
        """Call, and say whose fault it is if it fails."""
        try:
            return call()
        except sqlite3.DatabaseError as error:
            raise self._told(error) from error

    def _told(self, error: sqlite3.DatabaseError) -> StateError:
        if isinstance(error, sqlite3.OperationalError):
            return StateError(f"{self._path}: {error}.")
        return StateCorruptError(f"{self._path} is damaged: {error}.")

    def _begin(self, boot_id: str) -> None:
        run = self._connection.execute
        run(f"PRAGMA busy_timeout={_BUSY_MS}")
        version = run("PRAGMA user_version").fetchone()[0]
        marked = run("PRAGMA application_id").fetchone()[0]
        empty = run("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not empty and (version, marked) != (FORMAT, APPLICATION_ID):
            raise StateCorruptError(
                f"{self._path} has format {version} of application {marked:#x}; this release writes format {FORMAT}."
            )
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        run(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if empty:
            run("BEGIN IMMEDIATE")
            run(f"PRAGMA application_id={APPLICATION_ID}")
            run(f"PRAGMA user_version={FORMAT}")
            run("CREATE TABLE owner (boot_id TEXT NOT NULL, clean INTEGER NOT NULL)")
            run("INSERT INTO owner VALUES (?, 1)", (boot_id,))
            run(
                "CREATE TABLE stores (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, topic TEXT,"
                " topic_id TEXT, position INTEGER, leader_epoch INTEGER, committed_ms INTEGER)"
            )
            run("COMMIT")
        last_boot, clean = run("SELECT boot_id, clean FROM owner").fetchone()
        if not clean and last_boot != boot_id:
            self.check()
        run("UPDATE owner SET boot_id = ?, clean = 0", (boot_id,))
        for number, name, *note in run(
            "SELECT id, name, topic, topic_id, position, leader_epoch, committed_ms FROM stores"
        ):
            self._tables[name] = f"store_{number}"
            if note[0] is not None:
                self._notes[name] = _note(note)

    def check(self) -> None:
        """Go through the whole file.

        Raises:
            StateCorruptError: it is damaged.
        """
        found = self._guard(lambda: self._connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise StateCorruptError(f"{self._path} is damaged: {found}.")

    def open_table(self, table: str, kind: str) -> None:
        def make() -> None:
            run = self._connection.execute
            found = run("SELECT kind FROM stores WHERE name = ?", (table,)).fetchone()
            if found is not None:
                if found[0] != kind:
                    raise StoreKindError(
                        f"Store {table!r} in {self._path.parent} holds {found[0]!r}, and the topology wants {kind!r}. "
                        "Give the store another name, or remove what the application has with `ottla streams reset`."
                    )
                return
            run("BEGIN IMMEDIATE")
            number = run("INSERT INTO stores (name, kind) VALUES (?, ?)", (table, kind)).lastrowid
            run(f"CREATE TABLE store_{number} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
            run("COMMIT")
            self._tables[table] = f"store_{number}"

        self._guard(make)

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            return _get(self._connection, self._tables[table], key)
        except sqlite3.DatabaseError as error:
            raise self._told(error) from error

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        return self._guard(lambda: _page(self._connection, self._tables[table], since, until, reverse, limit))

    def commit(self, changes: Mapping[str, Changes], notes: Mapping[str, StoreNote]) -> None:
        def write() -> None:
            run, run_many = self._connection.execute, self._connection.executemany
            run("BEGIN IMMEDIATE")
            try:
                for table, rows in changes.items():
                    name = self._tables[table]
                    gone = [(key,) for key, value in rows.items() if value is None]
                    # In order, neighbours share pages: of 20,000 random keys half the time (10 us a row, unsorted 19).
                    kept = sorted((key, value) for key, value in rows.items() if value is not None)
                    if gone:
                        run_many(f"DELETE FROM {name} WHERE key = ?", gone)
                    if kept:
                        run_many(f"INSERT OR REPLACE INTO {name} VALUES (?, ?)", kept)
                for table, note in notes.items():
                    run(
                        "UPDATE stores SET topic = ?, topic_id = ?, position = ?, leader_epoch = ?, committed_ms = ?"
                        " WHERE name = ?",
                        (note.topic, note.topic_id, note.position, note.leader_epoch, note.committed_ms, table),
                    )
                run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise
            self._notes.update(notes)

        self._guard(write)

    def note(self, table: str) -> StoreNote | None:
        return self._notes.get(table)

    def wipe(self, table: str) -> None:
        def empty() -> None:
            run = self._connection.execute
            run("BEGIN IMMEDIATE")
            run(f"DELETE FROM {self._tables[table]}")
            run("UPDATE stores SET topic = NULL, position = NULL WHERE name = ?", (table,))
            run("COMMIT")
            self._notes.pop(table, None)

        self._guard(empty)

    def row_count(self, table: str) -> int:
        found = self._guard(
            lambda: self._connection.execute(f"SELECT count(*) FROM {self._tables[table]}").fetchone()[0]
        )
        return int(found)

    def reader(self) -> SqliteReader:
        return SqliteReader(self._path)

    def close(self, *, clean: bool = True) -> None:
        try:
            if clean:
                self._connection.execute("UPDATE owner SET clean = 1")
        except sqlite3.Error as error:
            logger.warning("%s was not marked as closed cleanly: %s", self._path, error)
        finally:
            self._connection.close()


class SqliteReader:
    """Committed rows of a task's file, on a connection of its own; made on one thread, it may be used on another.

    Raises:
        StateError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            self._connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        except sqlite3.Error as error:
            raise StateError(f"{path}: {error}.") from error

    def _table(self, table: str) -> str:
        found = self._connection.execute("SELECT id FROM stores WHERE name = ?", (table,)).fetchone()
        if found is None:
            raise StateError(f"{self._path.parent} has no store {table!r}.")
        return f"store_{found[0]}"

    def _guard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except sqlite3.Error as error:
            raise StateError(f"{self._path}: {error}.") from error

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._guard(lambda: _get(self._connection, self._table(table), key))

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        return self._guard(lambda: _page(self._connection, self._table(table), since, until, reverse, limit))

    def note(self, table: str) -> StoreNote | None:
        found = self._guard(
            lambda: self._connection.execute(
                "SELECT topic, topic_id, position, leader_epoch, committed_ms FROM stores WHERE name = ?", (table,)
            ).fetchone()
        )
        return None if found is None or found[0] is None else _note(found)

    def close(self) -> None:
        self._connection.close()


def _note(row: list[object] | tuple[object, ...]) -> StoreNote:
    topic, topic_id, position, leader_epoch, committed_ms = row
    assert isinstance(position, int)
    assert isinstance(leader_epoch, int)
    assert isinstance(committed_ms, int)
    return StoreNote(
        topic=str(topic),
        topic_id=str(topic_id),
        position=position,
        leader_epoch=leader_epoch,
        committed_ms=committed_ms,
    )


def _get(connection: sqlite3.Connection, name: str, key: bytes) -> bytes | None:
    found = connection.execute(f"SELECT value FROM {name} WHERE key = ?", (key,)).fetchone()
    return None if found is None else found[0]


def _page(
    connection: sqlite3.Connection, name: str, since: bytes | None, until: bytes | None, reverse: bool, limit: int
) -> list[tuple[bytes, bytes]]:
    conditions: list[str] = []
    values: list[object] = []
    if since is not None:
        conditions.append("key >= ?")
        values.append(since)
    if until is not None:
        conditions.append("key < ?")
        values.append(until)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = " DESC" if reverse else ""
    return connection.execute(
        f"SELECT key, value FROM {name}{where} ORDER BY key{order} LIMIT ?", [*values, limit]
    ).fetchall()
