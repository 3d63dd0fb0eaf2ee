"""State in one RocksDB per task: for states that are much larger than memory. An extra: `ottla[rocksdb]`.

A commit is one WriteBatch: rows, and the notes that say how far they go. The write-ahead log is not synced, as SQLite's is
not: a killed process loses nothing that was committed; a power cut may lose the last commits as a whole, and the changelog
gives them back. After an unclean end on another boot of the machine everything is read once, and so its checksums are looked
at.

Keys begin with a number of four bytes: 0 is what the home knows of itself, others are tables.

    0 | "format"      the number of this layout
    0 | "owner"       JSON: the boot on which it was open last, and whether it was closed
    0 | "table:" name JSON: number, kind, note
    n | key           a row of table n
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from ottla.client.errors import ConfigurationError
from ottla.streams.state.homes import (
    Changes,
    StateCorruptError,
    StateError,
    StateLockedError,
    StoreKindError,
    StoreNote,
)

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT: Final = b"1"
FOLDER_NAME: Final = "rocksdb"
_NUMBER_BYTES: Final = 4
_SELF: Final = (0).to_bytes(_NUMBER_BYTES, "big")
_FORMAT: Final = _SELF + b"format"
_OWNER: Final = _SELF + b"owner"
_TABLE: Final = _SELF + b"table:"
#: As Kafka Streams sets them: three memtables of 16 MB; blocks of 4 KB in a cache, filters of 10 bits a key.
_WRITE_BUFFER_BYTES: Final = 16 << 20
_WRITE_BUFFERS: Final = 3
_BLOCK_BYTES: Final = 4096
_FILTER_BITS: Final = 10.0
#: Of blocks, for all tasks of a process.
_CACHE_BYTES: Final = 50 << 20

#: What RocksDB says of a database that another process, or this one, has open.
_LOCKED: Final = ("IO error: While lock file", "IO error: lock hold by current process")

#: The block cache, made with the first home.
_cache: list[Any] = []


def _rocksdict() -> Any:
    """Import what stands behind; 47 ms, for those alone who use it.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return import_module("rocksdict")
    except ImportError as error:
        raise ConfigurationError(
            "Stores in RocksDB need the package rocksdict, which is not installed.", "pip install 'ottla[rocksdb]'"
        ) from error


def _options(rocks: Any) -> Any:
    if not _cache:
        _cache.append(rocks.Cache(_CACHE_BYTES))
    blocks = rocks.BlockBasedOptions()
    blocks.set_block_cache(_cache[0])
    blocks.set_block_size(_BLOCK_BYTES)
    blocks.set_bloom_filter(_FILTER_BITS, False)
    found = rocks.Options(raw_mode=True)
    found.create_if_missing(True)
    found.set_block_based_table_factory(blocks)
    found.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    found.set_max_write_buffer_number(_WRITE_BUFFERS)
    found.set_compression_type(rocks.DBCompressionType.none())
    found.set_keep_log_file_num(1)
    return found


class _Tables:
    """What homes and readers do with an open database."""

    def __init__(self, path: Path, rocks: Any, database: Any) -> None:
        self._path = path
        self._rocks = rocks
        self._database = database
        self._numbers: dict[str, bytes] = {}

    def _guard(self, call: Callable[[], T]) -> T:
        """Call, and say whose fault it is if it fails."""
        try:
            return call()
        except StateError:
            raise
        except Exception as error:  # rocksdict raises no class of its own
            raise _told(self._path, error) from error

    def _number(self, table: str) -> bytes:
        """Return what the keys of a table begin with.

        Raises:
            StateError: there is no such table.
        """
        found = self._numbers.get(table)
        if found is None:
            entry = _entry(self._database, table)
            if entry is None:
                raise StateError(f"{self._path.parent} has no store {table!r}.")
            found = self._numbers[table] = int(entry["number"]).to_bytes(_NUMBER_BYTES, "big")
        return found

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `homes.Home.get`."""
        found: bytes | None = self._guard(lambda: self._database.get(self._number(table) + key))
        return found

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `homes.Home.page`."""
        return self._guard(lambda: self._page(self._number(table), since, until, reverse, limit))

    def _page(
        self, number: bytes, since: bytes | None, until: bytes | None, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        first = number + (since or b"")
        last = number + until if until is not None else _after(number)
        if first >= last:
            return []
        rows = _rows(self._rocks, self._database, first, last, reverse=reverse)
        return [(key[_NUMBER_BYTES:], value) for key, value in islice(rows, limit)]


class RocksHome(_Tables):
    """The committed state of one task in `<directory>/rocksdb`. The directory's lock is the caller's business.

    Args:
        directory: of the task; made if it is not there.
        boot_id: names this boot of this machine; everything is read if it was left unclean on another one.

    Raises:
        StateCorruptError: the files are damaged or of another format.
        StateLockedError: another one has it open.
        StateError: the disk refuses.
        ConfigurationError: rocksdict is not installed.
    """

    def __init__(self, directory: Path, *, boot_id: str = "") -> None:
        rocks = _rocksdict()
        path = directory / FOLDER_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"The state directory {directory} cannot be made: {error}.") from error
        try:
            database = rocks.Rdict(str(path), _options(rocks))
        except Exception as error:
            raise _told(path, error, opens=True) from error
        super().__init__(path, rocks, database)
        self._notes: dict[str, StoreNote] = {}
        self._kinds: dict[str, str] = {}
        self._boot_id = boot_id
        try:
            self._guard(self._begin)
        except BaseException:
            database.close()
            raise

    def _begin(self) -> None:
        database = self._database
        found = database.get(_FORMAT)
        owner = json.loads(database.get(_OWNER) or "{}")
        if found is None:
            if database.latest_sequence_number():
                raise StateCorruptError(f"{self._path} was not made by this library.")
            database[_FORMAT] = FORMAT
        elif found != FORMAT:
            raise StateCorruptError(
                f"{self._path} has format {found.decode(errors='replace')}; this release writes format {FORMAT.decode()}."
            )
        if owner and not owner["clean"] and owner["boot_id"] != self._boot_id:
            self.check()
        self._own(clean=False)
        for key, value in _rows(self._rocks, database, _TABLE, _after(_TABLE)):
            name, entry = key[len(_TABLE) :].decode(), json.loads(value)
            self._numbers[name] = int(entry["number"]).to_bytes(_NUMBER_BYTES, "big")
            self._kinds[name] = str(entry["kind"])
            if entry["note"] is not None:
                self._notes[name] = StoreNote(**entry["note"])

    def _own(self, *, clean: bool) -> None:
        self._database[_OWNER] = json.dumps({"boot_id": self._boot_id, "clean": clean}).encode()

    def check(self) -> None:
        """Read everything, so that checksums are looked at.

        Raises:
            StateCorruptError: it is damaged.
        """

        def read() -> None:
            for _ in _rows(self._rocks, self._database, b"", b"\xff" * (_NUMBER_BYTES + 1)):
                pass

        self._guard(read)

    def open_table(self, table: str, kind: str) -> None:
        """See `homes.Home.open_table`."""
        found = self._kinds.get(table)
        if found is not None:
            if found != kind:
                raise StoreKindError(
                    f"Store {table!r} in {self._path.parent} holds {found!r}, and the topology wants {kind!r}. "
                    "Give the store another name, or remove what the application has with `ottla streams reset`."
                )
            return

        def make() -> None:
            number = 1 + max((int.from_bytes(each, "big") for each in self._numbers.values()), default=0)
            self._numbers[table] = number.to_bytes(_NUMBER_BYTES, "big")
            self._kinds[table] = kind
            self._database[_TABLE + table.encode()] = self._described(table, None)

        try:
            self._guard(make)
        except BaseException:
            self._kinds.pop(table, None)
            self._numbers.pop(table, None)
            raise

    def _described(self, table: str, note: StoreNote | None) -> bytes:
        number = int.from_bytes(self._numbers[table], "big")
        noted = None if note is None else asdict(note)
        return json.dumps({"number": number, "kind": self._kinds[table], "note": noted}).encode()

    def commit(self, changes: Mapping[str, Changes], notes: Mapping[str, StoreNote]) -> None:
        """See `homes.Home.commit`."""

        def write() -> None:
            batch = self._rocks.WriteBatch(raw_mode=True)
            put, delete = batch.put, batch.delete
            for table, rows in changes.items():
                number = self._number(table)
                for key, value in rows.items():
                    if value is None:
                        delete(number + key)
                    else:
                        put(number + key, value)
            for table, note in notes.items():
                put(_TABLE + table.encode(), self._described(table, note))
            self._database.write(batch)
            self._notes.update(notes)

        self._guard(write)

    def note(self, table: str) -> StoreNote | None:
        """See `homes.Home.note`."""
        return self._notes.get(table)

    def wipe(self, table: str) -> None:
        """See `homes.Home.wipe`."""

        def empty() -> None:
            number = self._number(table)
            batch = self._rocks.WriteBatch(raw_mode=True)
            batch.delete_range(number, _after(number))
            batch.put(_TABLE + table.encode(), self._described(table, None))
            self._database.write(batch)
            self._notes.pop(table, None)

        self._guard(empty)

    def row_count(self, table: str) -> int:
        """See `homes.Home.row_count`."""

        def count() -> int:
            number = self._number(table)
            return sum(1 for _ in _rows(self._rocks, self._database, number, _after(number)))

        return self._guard(count)

    def reader(self) -> RocksReader:
        """See `homes.Home.reader`."""
        return RocksReader(self._path, self._rocks, self._database)

    def close(self, *, clean: bool = True) -> None:
        """See `homes.Home.close`."""
        try:
            try:
                if clean:
                    self._own(clean=True)
            finally:
                self._database.close()
        except Exception as error:
            logger.warning("%s was not closed cleanly: %s", self._path, error)


class RocksReader(_Tables):
    """Committed rows for another thread, of a database that is open. Once that is closed, it answers StateError."""

    def note(self, table: str) -> StoreNote | None:
        """See `homes.Home.note`."""
        return self._guard(lambda: _note(self._database, table))

    def close(self) -> None:
        """The home closes the database."""


def notes_on_disk(directory: Path, tables: list[str]) -> list[StoreNote | None]:
    """Return what the last commits have noted, of a database that others may have open.

    Raises:
        StateError: it cannot be read.
        ConfigurationError: rocksdict is not installed.
    """
    rocks, path = _rocksdict(), directory / FOLDER_NAME
    try:
        options = rocks.Options(raw_mode=True)
        database = rocks.Rdict(str(path), options, access_type=rocks.AccessType.read_only())
    except Exception as error:
        raise _told(path, error) from error
    try:
        return [_note(database, table) for table in tables]
    except Exception as error:
        raise _told(path, error) from error
    finally:
        database.close()


def _rows(
    rocks: Any, database: Any, first: bytes, last: bytes, *, reverse: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over rows with `first` <= key < `last`, in the order of their bytes or against it.

    Not by `items()` of rocksdict 0.3.29: that ends without a word where a block is damaged.
    """
    options = rocks.ReadOptions()
    options.set_verify_checksums(True)
    if not reverse:
        options.set_iterate_upper_bound(last)  # a lower bound would not be looked at
    found = database.iter(options)
    if reverse:
        found.seek_for_prev(last)
        if found.valid() and found.key() == last:
            found.prev()
    else:
        found.seek(first)
    step = found.prev if reverse else found.next
    while found.valid():
        key = found.key()
        if reverse and key < first:
            return
        yield key, found.value()
        step()
    found.status()


def _entry(database: Any, table: str) -> dict[str, Any] | None:
    found = database.get(_TABLE + table.encode())
    return None if found is None else json.loads(found)


def _note(database: Any, table: str) -> StoreNote | None:
    entry = _entry(database, table)
    return None if entry is None or entry["note"] is None else StoreNote(**entry["note"])


def _after(prefix: bytes) -> bytes:
    """Return the first key behind all that begin so."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


def _told(path: Path, error: Exception, *, opens: bool = False) -> StateError:
    """Say what an error of RocksDB's means."""
    if isinstance(error, StateError):
        return error
    text = str(error)
    if opens and text.startswith(_LOCKED):
        return StateLockedError(f"{path} is open elsewhere: {text}.")
    damaged = text.startswith("Corruption") or isinstance(error, ValueError | KeyError | TypeError)
    if damaged or (opens and "No such file" in text):
        return StateCorruptError(f"{path} is damaged: {text}.")
    return StateError(f"{path}: {text}.")
