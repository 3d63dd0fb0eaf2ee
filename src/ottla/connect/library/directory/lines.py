"""Files of lines: JSON and CSV, read by bytes from a place on.

A row counts when its newline is there, in CSV when its last quote is closed, too. What is no row is an error that says
where it stands; reading goes on behind it.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Protocol

from ottla.connect.config_def import ConfigError
from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.errors import DataError
from ottla.connect.library.directory.places import COMPARED, Place, UnreadableFileError, digest
from ottla.connect.logical import DATE, TIMESTAMP
from ottla.connect.schema import BOOLEAN, FLOAT64, INT32, INT64, STRING, Schema, Struct

_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_JSON = JsonConverter({"schemas.enable": "false"})


class Rows(Protocol):
    """Rows of an open file."""

    @property
    def position(self) -> int:
        """Where we stand: bytes, or rows."""

    def place(self) -> Place:
        """Return the same as it is written down."""

    def next(self) -> tuple[Schema | None, Any] | None:
        """Return the schema and the value of the next row, and stand behind it; None: there is none yet.

        Raises:
            DataError: it cannot be read; we stand behind it.
            UnreadableFileError: the file cannot be read.
        """


class Lines:
    """Lines of an open file, from a place on, up to where the file ended when it was opened.

    Args:
        end: bytes that are looked at; what comes behind them is for the next look.
        longest: the bytes that a line may have.
        is_complete: nothing comes any more: a last line without a newline is one.
    """

    def __init__(self, file: IO[bytes], place: Place, end: int, longest: int, *, is_complete: bool) -> None:
        self._file = file
        self._end = end
        self.longest = longest
        self.is_complete = is_complete
        file.seek(0)
        self._head = file.read(COMPARED)
        self.go_to(place.position)

    def go_to(self, position: int) -> None:
        """Go on at a place that is the beginning of a line."""
        before = max(0, position - COMPARED)
        self._file.seek(before)
        self._tail = self._file.read(position - before)
        self.position = self._read_to = position
        self._rest = b""

    def next(self) -> bytes | None:
        """Return a line without its newline, and stand behind it; None: there is none yet.

        Raises:
            DataError: it is too long; we stand behind it.
        """
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > self.longest:
                self._pass_too_long()
                return None
            more = self._more()
            if more:
                self._rest += more
                continue
            if not self._rest or not self.is_complete:
                return None
            line, size = self._rest, len(self._rest)
            break
        else:
            line, size = self._rest[:end], end + 1
        self._tail = (self._tail + self._rest[:size])[-COMPARED:]
        self._rest = self._rest[size:]
        self.position += size
        if len(line) > self.longest:
            raise self._too_long()
        return line

    def place(self) -> Place:
        """Return the place behind the last line."""
        size = min(self.position, len(self._head))
        return Place(position=self.position, head=digest(self._head[:size]), head_size=size, tail=digest(self._tail))

    def _too_long(self) -> DataError:
        return DataError(f"the line is longer than {self.longest} bytes (line.max.bytes)")

    def _more(self) -> bytes:
        found = self._file.read(min(_CHUNK, self._end - self._read_to))
        self._read_to += len(found)
        return found

    def _pass_too_long(self) -> None:
        """Go behind a line that nobody wants to hold, if it has an end.

        Raises:
            DataError: it had.
        """
        size = len(self._rest)
        self._rest = b""
        while more := self._more():
            end = more.find(b"\n")
            if end >= 0:
                self.go_to(self.position + size + end + 1)
                raise self._too_long()
            size += len(more)
        if self.is_complete:
            self.go_to(self.position + size)
            raise self._too_long()


class JsonRows:
    """Each line is a value in JSON, without a schema; empty lines are none."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    @property
    def position(self) -> int:
        return self._lines.position

    def place(self) -> Place:
        return self._lines.place()

    def next(self) -> tuple[Schema | None, Any] | None:
        """Return the next value; None: there is none yet.

        Raises:
            DataError: the line is no JSON; we stand behind it.
        """
        while (line := self._lines.next()) is not None:
            line = line.removeprefix(_BOM)
            if line.strip():
                return _JSON.to_connect("", line)
        return None


class CsvRows:
    """Rows of CSV as structs: quotes as in RFC 4180, a row may have newlines within them.

    Args:
        delimiter: between fields.
        columns: the names; none: the first row has them.
        types: of columns; others are texts.
        null: the text that stands for no value.
    """

    def __init__(
        self, lines: Lines, delimiter: str, columns: Sequence[str], types: Mapping[str, Schema], null: str
    ) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._types = types
        self._null = null
        self._given = list(columns)
        self._schema: Schema | None = None

    @property
    def position(self) -> int:
        return self._lines.position

    def place(self) -> Place:
        return self._lines.place()

    def next(self) -> tuple[Schema | None, Any] | None:
        """Return the next row; None: there is none yet.

        Raises:
            DataError: it does not fit; we stand behind it.
            UnreadableFileError: there are no columns of these names.
        """
        if self._schema is None and not self._begin():
            return None
        assert self._schema is not None
        row = self._row()
        return None if row is None else (self._schema, self._struct(row))

    def _begin(self) -> bool:
        """Learn the columns; whether they are there."""
        names = self._given
        if not names:
            position = self._lines.position
            self._lines.go_to(0)
            try:
                found = self._row()
            except DataError as error:
                raise UnreadableFileError(f"the first row, which is to have the columns: {error}") from error
            if found is None:
                self._lines.go_to(position)
                return False
            names = [name.strip() for name in found]
            if position > self._lines.position:
                self._lines.go_to(position)
        if len(set(names)) < len(names) or "" in names:
            raise UnreadableFileError(f"the first row has no name of its own for each column: {', '.join(names)}")
        missing = [name for name in self._types if name not in names]
        if missing:
            raise UnreadableFileError(
                f"csv.types has a type for {', '.join(missing)}, and the columns are {', '.join(names)}"
            )
        self._schema = Schema.struct({name: self._types.get(name, STRING).as_optional() for name in names})
        return True

    def _row(self) -> list[str] | None:
        while True:
            begin = self._lines.position
            first = self._lines.next()
            if first is None:
                return None
            if not first.strip():
                continue
            data = self._whole(begin, first)
            if data is None:
                return None
            return self._split((data.removeprefix(_BOM) if begin == 0 else data).removesuffix(b"\r"))

    def _whole(self, begin: int, data: bytes) -> bytes | None:
        """Return a row up to where its quotes are closed; None: its end is not there yet."""
        behind = self._lines.position
        while data.count(b'"') % 2:
            more = self._lines.next()
            if more is None and self._lines.is_complete:
                self._lines.go_to(behind)
                raise DataError("a quote is not closed")
            if more is None:
                self._lines.go_to(begin)
                return None
            data += b"\n" + more
            if len(data) > self._lines.longest:
                self._lines.go_to(behind)
                raise DataError(f"a quote is not closed within {self._lines.longest} bytes (line.max.bytes)")
        return data

    def _split(self, data: bytes) -> list[str]:
        try:
            text = data.decode()
            (row,) = csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter, strict=True)
        except UnicodeDecodeError as error:
            raise DataError(f"this is no UTF-8: {error}") from error
        except (csv.Error, ValueError) as error:
            raise DataError(f"this is no row of CSV: {error}") from error
        return row

    def _struct(self, row: Sequence[str]) -> Struct:
        assert self._schema is not None
        fields = self._schema.fields
        if len(row) != len(fields):
            raise DataError(f"the row has {len(row)} fields, and there are {len(fields)} columns")
        made = Struct(self._schema)
        for field, text in zip(fields, row, strict=True):
            if text == self._null:
                continue
            try:
                made[field.name] = _VALUES[self._types.get(field.name, STRING)](text)
            except (ValueError, OverflowError) as error:
                raise DataError(f"the column {field.name} has {text!r}, which is no value of its type") from error
        return made


def _boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("true", "1", "t", "yes"):
        return True
    if lowered in ("false", "0", "f", "no"):
        return False
    raise ValueError(text)


def _timestamp(text: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=datetime.UTC) if found.tzinfo is None else found.astimezone(datetime.UTC)


_VALUES: dict[Schema, Callable[[str], Any]] = {
    BOOLEAN: _boolean,
    DATE: lambda text: datetime.date.fromisoformat(text.strip()),
    FLOAT64: float,
    INT32: int,
    INT64: int,
    STRING: str,
    TIMESTAMP: _timestamp,
}
_TYPES = {
    "boolean": BOOLEAN, "date": DATE, "float64": FLOAT64, "int32": INT32, "int64": INT64, "string": STRING,
    "timestamp": TIMESTAMP,
}  # fmt: skip


def types_of(texts: Sequence[str]) -> dict[str, Schema]:
    """Return types of columns, of `name:type`.

    Raises:
        ConfigError: there is no such type.
    """
    found = {}
    for text in texts:
        name, colon, kind = text.rpartition(":")
        if not colon or not name.strip() or kind.strip() not in _TYPES:
            raise ConfigError.of("csv.types", text, f"name:type is needed, with one of {', '.join(_TYPES)}")
        found[name.strip()] = _TYPES[kind.strip()]
    return found
