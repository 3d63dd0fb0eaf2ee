"""DirectorySourceConnector: rows of the files of a folder as records.

Each file is read to where it ended when it was looked at, the one that was changed first before others, and again when it
has grown. Offsets are kept by device and inode: names may change. What is to become of a file that is done happens after
its last offset was written down, and only then is it written down that it is gone.
"""

from __future__ import annotations

import csv
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ottla.connect.config_def import (
    NOT_EMPTY,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    check,
    one_of,
)
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.errors import ConnectError, DataError
from ottla.connect.library.directory.lines import CsvRows, JsonRows, Lines, Rows, types_of
from ottla.connect.library.directory.places import (
    COMPARED,
    START,
    Identity,
    Place,
    UnreadableFileError,
    digest,
    wrong_offset,
)
from ottla.connect.records import Header, Position, SourceRecord
from ottla.connect.schema import STRING, Schema, Struct

log = logging.getLogger(__name__)
_GLOBS = {"csv": "*.csv", "jsonl": "*.jsonl", "parquet": "*.parquet"}


@dataclass(slots=True)
class Known:
    """A file that is there.

    Attributes:
        place: where reading goes on.
        written: the place that was given to the worker last, to be written down.
        committed: the place that is written down.
        seen: size and time of change when it was read to its end.
        is_left: it is no file of its format, and is left alone until it changes.
    """

    path: Path
    status: os.stat_result
    place: Place
    written: Place | None = None
    committed: Place | None = None
    seen: tuple[int, int] | None = None
    is_left: bool = False

    @property
    def now(self) -> tuple[int, int]:
        return self.status.st_size, self.status.st_mtime_ns


class DirectorySourceTask(SourceTask):
    """Reads the folder. One task: files that were renamed are read before those that have their names now."""

    def start(self) -> None:
        given = self.values
        self._folder = Path(given["directory"])
        self._format: str = given["format"]
        self._glob: str = given["file.glob"] or _GLOBS[self._format]
        self._types = types_of(given["csv.types"])
        self._complete_s: float | None = None if given["complete.after.ms"] < 0 else given["complete.after.ms"] / 1000
        self._is_tolerant = self.config.get("errors.tolerance", "none").strip() == "all"
        #: Files that are there, or were: one may come back.
        self._known: dict[Identity, Known] = {}
        #: Files that are gone by us: what has their inodes now is others.
        self._gone: set[Identity] = set()
        self._queue: deque[Identity] = deque()
        self._open: tuple[Known, IO[bytes], Rows] | None = None
        self._failure: ConnectError | None = None
        self._has_looked = False
        csv.field_size_limit(max(csv.field_size_limit(), given["line.max.bytes"]))
        if given["after.done"] == "move":
            self._done_folder = Path(given["done.directory"])
            self._done_folder.mkdir(parents=True, exist_ok=True)

    def preview(self, rows: int) -> Sequence[SourceRecord]:
        return self.first_rows(rows)

    def stop(self) -> None:
        self._close()

    def commit(self, offsets: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        # In another thread: each value is set at once.
        for partition, offset in offsets:
            known = self._known.get((partition["device"], partition["inode"]))
            if known is not None:
                known.committed = Place.read(offset)

    def poll(self) -> Sequence[SourceRecord | Position] | None:
        if self._failure is not None:
            raise self._failure
        while True:
            if self._open is None and not self._next_file():
                if self._has_looked:
                    self.context.wait(self.values["scan.interval.ms"] / 1000)
                self._has_looked = True
                gone = self._look()
                if gone or not self._queue:
                    return gone or None
                continue
            found = self._read()
            if found:
                return found

    # Which files there are

    def _look(self) -> list[Position]:
        """Look at the folder: note what is to be read, and do away with what is done."""
        there = self._there()
        reasons: list[str] = []
        gone: list[Position] = []
        begun: list[Identity] = []
        for identity, (path, status) in sorted(there.items(), key=lambda item: (item[1][1].st_mtime_ns, item[1][0])):
            known = self._known.get(identity)
            if known is None:
                known = self._known[identity] = self._remembered(identity, path, status)
            known.path, known.status = path, status
            if known.seen == known.now:
                if self._is_done(known) and self._do_away(known):
                    gone.append(self._position(known, Place(position=known.place.position, is_gone=True)))
                    del self._known[identity]
                    self._gone.add(identity)
                    continue
                if not self._has_last_line(known):
                    continue
                if not self._is_complete(known):
                    reasons.append(f"{path}: the last line has no newline yet")
                    continue
            if self._format == "parquet" and (reason := self._unfinished(known)):
                reasons.append(reason)
                continue
            known.is_left = False
            begun.append(identity)
        # A file that was begun has been renamed, perhaps, and what has its name now comes after it.
        begun.sort(key=lambda identity: self._known[identity].place.position == 0)
        self._queue.extend(begun)
        self.context.waits_for("; ".join(reasons[:3]) if reasons and not self._queue else None)
        return gone

    def _there(self) -> dict[Identity, tuple[Path, os.stat_result]]:
        """Return files: those with names that are asked for, and those beside them that were begun under such a name."""
        if not self._folder.is_dir():
            raise ConnectError(f"The folder {self._folder} is not there (directory)")
        found: dict[Identity, tuple[Path, os.stat_result]] = {}
        matched = set(self._folder.glob(self._glob))
        folders = {path.parent for path in matched} | {self._folder}
        others = [path for folder in folders for path in _entries(folder) if path not in matched]
        for path in (*matched, *others):
            if path.name.startswith(".") or self._is_away(path):
                continue
            try:
                status = path.stat()
            except OSError:
                continue  # it has just gone
            identity = status.st_dev, status.st_ino
            if not stat.S_ISREG(status.st_mode) or identity in found:
                continue
            if path in matched or self._is_begun(identity, path):
                found[identity] = path, status
        return found

    def _is_begun(self, identity: Identity, path: Path) -> bool:
        """Whether a file was read, in part at least, under another name."""
        known = self._known.get(identity)
        place = self._kept(identity) if known is None else known.place
        return place is not None and place != START and self._is_same(path, place)

    def _is_away(self, path: Path) -> bool:
        return self.values["after.done"] == "move" and path.is_relative_to(self._done_folder)

    def _partition(self, identity: Identity) -> dict[str, Any]:
        return {"directory": str(self._folder), "device": identity[0], "inode": identity[1]}

    def _kept(self, identity: Identity) -> Place | None:
        if identity in self._gone:
            return None
        try:
            return Place.read(self.context.offset(self._partition(identity)))
        except KeyError as error:
            raise ConnectError(f"An offset of {self._folder} has no {error}") from error

    def _remembered(self, identity: Identity, path: Path, status: os.stat_result) -> Known:
        place = self._kept(identity)
        self._gone.discard(identity)
        return Known(path, status, place or START, written=place, committed=place)

    def _unfinished(self, known: Known) -> str | None:
        """Return why a Parquet file is not read yet."""
        from ottla.connect.library.directory.parquet import is_whole

        try:
            with known.path.open("rb") as file:
                whole = is_whole(file, known.status.st_size)
        except FileNotFoundError:
            return None
        return None if whole else f"{known.path} has no footer yet"

    # One file

    def _next_file(self) -> bool:
        """Open the next file that has something to read, or may have; whether there is one."""
        while self._queue:
            known = self._known.get(self._queue.popleft())
            if known is not None and self._begin(known):
                return True
        return False

    def _begin(self, known: Known) -> bool:
        try:
            file = known.path.open("rb")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ConnectError(f"The file {known.path} cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != (known.status.st_dev, known.status.st_ino):
                file.close()
                return False  # the next look finds which one it is
            known.status = status
            if known.place != START and not self._is_same(known.path, known.place, file):
                log.info("%s is read from its beginning: it was replaced, or cut off", known.path)
                known.place, known.written, known.committed = START, None, None
            self._open = known, file, self._rows(known, file)
        except UnreadableFileError as error:
            file.close()
            return self._leave(known, error)
        except BaseException:
            file.close()
            raise
        return True

    def _rows(self, known: Known, file: IO[bytes]) -> Rows:
        size = known.status.st_size
        if self._format == "parquet":
            from ottla.connect.library.directory.parquet import ParquetRows

            return ParquetRows(file, known.place, size, self.values["batch.size"])
        lines = Lines(file, known.place, size, self.values["line.max.bytes"], is_complete=self._is_complete(known))
        if self._format == "jsonl":
            return JsonRows(lines)
        given = self.values
        return CsvRows(
            lines, given["csv.delimiter"].replace("\\t", "\t"), given["csv.columns"], self._types, given["csv.null"]
        )

    def _is_same(self, path: Path, place: Place, file: IO[bytes] | None = None) -> bool:
        """Whether a file is the one that was read up to a place; one that somebody has written may have no digests."""
        if file is None:
            try:
                with path.open("rb") as opened:
                    return self._is_same(path, place, opened)
            except OSError:
                return False
        size = os.fstat(file.fileno()).st_size
        end = size if self._format == "parquet" else place.position
        if end > size:
            return False
        file.seek(0)
        if place.head is not None and digest(file.read(place.head_size)) != place.head:
            return False
        file.seek(max(0, end - COMPARED))
        return place.tail is None or digest(file.read(min(COMPARED, end))) == place.tail

    def _read(self) -> list[SourceRecord | Position]:
        """Return the next rows of the file that is open; close it at its end."""
        assert self._open is not None
        known, _, rows = self._open
        found: list[SourceRecord | Position] = []
        limit = self.values["batch.size"]
        for _ in range(limit):
            before = rows.position
            try:
                row = rows.next()
                if row is None:
                    break
                made = self._record(known, rows.place(), *row)
            except UnreadableFileError as error:
                known.place = rows.place()
                self._leave(known, error, found)
                return found
            except DataError as error:
                self._pass_over(known, before, error)
                self._fail_after(found)
                if self._failure is not None:
                    return found
                continue
            found.append(made)
        else:
            known.place = rows.place()
            if not found:  # all of them were passed over
                found.append(self._position(known, known.place))
            return found
        self._close()
        known.place = rows.place()
        known.seen = known.now
        if known.written != known.place and (found or known.place.position or self._is_complete(known)):
            found.append(self._position(known, known.place))
        return found

    def _record(self, known: Known, place: Place, schema: Schema | None, value: Any) -> SourceRecord:
        key_schema, key = None, None
        name = self.values["key.field"]
        if name:
            try:
                key = value[name]
            except (KeyError, TypeError, DataError):
                raise DataError(f"there is no field {name} (key.field)") from None
            if isinstance(value, Struct) and schema is not None:
                field = schema.field(name)
                key_schema = None if field is None else field.schema
        known.written = place
        return SourceRecord(
            topic=self.values["topic"],
            key_schema=key_schema,
            key=key,
            value_schema=schema,
            value=value,
            headers=(Header("file.name", STRING, self._name(known.path)),),
            source_partition=self._partition((known.status.st_dev, known.status.st_ino)),
            source_offset=place.offset(self._name(known.path)),
        )

    def _position(self, known: Known, place: Place) -> Position:
        known.written = place
        return Position(
            source_partition=self._partition((known.status.st_dev, known.status.st_ino)),
            source_offset=place.offset(self._name(known.path)),
        )

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _pass_over(self, known: Known, position: int, error: DataError) -> None:
        unit = "row" if self._format == "parquet" else "byte"
        told = f"{known.path}, {unit} {position}: {error}"
        if self._is_tolerant:
            log.warning("%s; it is passed over", told)
        else:
            self._failure = ConnectError(f"{told} (errors.tolerance=all passes over such rows)")

    def _leave(self, known: Known, error: UnreadableFileError, found: Sequence[object] = ()) -> bool:
        """Leave a file alone that is none of its format.

        Raises:
            ConnectError: errors.tolerance is none, and nothing is to be sent before that.
        """
        self._close()
        told = f"{known.path}: {error}"
        if not self._is_tolerant:
            self._failure = ConnectError(f"{told} (errors.tolerance=all leaves out such files)")
            self._fail_after(found)
            return False
        log.warning("%s; the file is left out", told)
        known.seen, known.is_left = known.now, True
        return False

    def _fail_after(self, found: Sequence[object]) -> None:
        """Raise what fails, if there is nothing to be sent before it; else the next poll does."""
        if self._failure is not None and not found:
            raise self._failure

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    # What becomes of files that are done

    def _is_complete(self, known: Known) -> bool:
        """Whether nothing comes any more."""
        if self._format == "parquet":
            return True
        return self._complete_s is not None and time.time() - known.status.st_mtime >= self._complete_s

    def _has_last_line(self, known: Known) -> bool:
        """Whether there is something behind the last newline of a file that was read to its end."""
        return self._format != "parquet" and not known.is_left and known.place.position < known.status.st_size

    def _is_done(self, known: Known) -> bool:
        """Whether a file is to be put away: nothing comes any more, and all that there was is written down."""
        if self.values["after.done"] == "nothing" or known.is_left or self._has_last_line(known):
            return False
        return self._is_complete(known) and known.committed == known.place

    def _do_away(self, known: Known) -> bool:
        """Delete or move a file that is done; whether it is gone."""
        try:
            status = known.path.stat()
            if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != (
                known.status.st_dev,
                known.status.st_ino,
                *known.now,
            ):
                return False
            if self.values["after.done"] == "delete":
                known.path.unlink()
            else:
                _move(known.path, self._done_folder / self._name(known.path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ConnectError(f"{known.path} is done and cannot be put away: {error.strerror}") from error
        return True


def _entries(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from [Path(entry.path) for entry in entries]
    except FileNotFoundError:
        return


def _move(path: Path, target: Path) -> None:
    """Move a file, and write over none: one with its name gets a number."""
    target.parent.mkdir(parents=True, exist_ok=True)
    number, free = 0, target
    while True:
        try:
            os.link(path, free)
            break
        except FileExistsError:
            if os.path.samefile(path, free):  # we were killed between the two steps
                break
            number += 1
            free = target.with_name(f"{target.name}.{number}")
    path.unlink()


def _check_one_letter(name: str, value: Any) -> None:
    if value is None or (value != "\\t" and (len(value) != 1 or value in '"\r\n')):
        raise ConfigError.of(name, value, "one letter is needed, which is no quote and no newline; \\t is a tab")


def _check_glob(name: str, value: Any) -> None:
    if value and (value.startswith("/") or ".." in value.split("/")):
        raise ConfigError.of(name, value, "a pattern below the folder is needed, such as *.csv or **/*.csv")


class DirectorySourceConnector(SourceConnector):
    """Rows of the files of a folder."""

    CONFIG = ConfigDef(
        ConfigKey(name="directory", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="The folder."),
        ConfigKey(name="topic", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="Where records go."),
        ConfigKey(
            name="format",
            validator=one_of("csv", "jsonl", "parquet"),
            importance=Importance.HIGH,
            documentation="What the files are: csv, jsonl (lines of JSON) or parquet.",
        ),
        ConfigKey(
            name="file.glob",
            default="",
            validator=check(_check_glob, "a pattern below the folder"),
            documentation="Which files: *.csv, or **/*.csv for those in folders within, too; by default *.csv, *.jsonl or "
            "*.parquet.",
        ),
        ConfigKey(name="key.field", default="", documentation="The field that is the key of records; none without it."),
        ConfigKey(
            name="csv.columns",
            type=ConfigType.LIST,
            default="",
            documentation="Names of columns, of files whose first row does not have them.",
        ),
        ConfigKey(
            name="csv.types",
            type=ConfigType.LIST,
            default="",
            documentation="Types of columns, as id:int64, at:timestamp; others are texts.",
        ),
        ConfigKey(
            name="csv.delimiter",
            default=",",
            validator=check(_check_one_letter, "one letter"),
            documentation="What stands between fields; \\t is a tab.",
        ),
        ConfigKey(name="csv.null", default="", documentation="The text of a field that stands for no value."),
        ConfigKey(
            name="after.done",
            default="nothing",
            validator=one_of("nothing", "delete", "move"),
            documentation="What becomes of a file that was read, once its last offset is written down.",
        ),
        ConfigKey(name="done.directory", default="", documentation="Where files are moved, on the same file system."),
        ConfigKey(
            name="complete.after.ms",
            type=ConfigType.LONG,
            default=-1,
            documentation="A file of lines that has not changed for so long is complete: its last line counts without a "
            "newline, and after.done happens. -1: never, files are followed for ever.",
        ),
        ConfigKey(
            name="scan.interval.ms",
            type=ConfigType.INT,
            default=1000,
            validator=at_least(1),
            documentation="The pause between two looks at the folder.",
        ),
        ConfigKey(
            name="batch.size",
            type=ConfigType.INT,
            default=1000,
            validator=at_least(1),
            importance=Importance.LOW,
            documentation="The most rows that are read at once.",
        ),
        ConfigKey(
            name="line.max.bytes",
            type=ConfigType.INT,
            default=1 << 20,
            validator=at_least(1),
            importance=Importance.LOW,
            documentation="The longest line; a longer one is a bad row.",
        ),
    )
    Task = DirectorySourceTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        given = self.values
        types_of(given["csv.types"])
        if given["format"] == "parquet" and find_spec("pyarrow") is None:
            raise ConfigError("format=parquet needs pyarrow: pip install 'ottla[files]'")
        if (given["after.done"] == "move") != bool(given["done.directory"]):
            raise ConfigError("after.done=move and done.directory belong together")
        if given["after.done"] != "nothing" and given["format"] != "parquet" and given["complete.after.ms"] < 0:
            raise ConfigError(
                f"after.done={given['after.done']} needs complete.after.ms: a file of lines may always get more of them"
            )
        return [self.config]

    def exactly_once_support(self) -> bool:
        return True

    def alter_offsets(self, offsets: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> bool:
        for partition, offset in offsets:
            wrong = wrong_offset(partition, offset)
            if wrong is not None:
                raise ConnectError(wrong)
        return True
