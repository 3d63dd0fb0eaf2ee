"""What PostgreSQL sends and is sent when it replicates: the plugin pgoutput, version 1, and the frames around it.

No I/O. Source: PostgreSQL's manual, "Logical Replication Message Formats" and "Streaming Replication Protocol".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ottla.connect.errors import ConnectError

#: Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
EPOCH_US: Final = 946_684_800_000_000
#: In the place of a value: it was not sent, because it had not changed.
UNCHANGED: Final = "unchanged"
#: A value: its text; None: NULL; UNCHANGED.
Cell = bytes | str | None

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_XLOG = struct.Struct(">QQq")
_KEEPALIVE = struct.Struct(">QqB")
_FEEDBACK = struct.Struct(">cQQQqB")
_COLUMN = struct.Struct(">Ii")


def lsn_text(lsn: int) -> str:
    """Return a place in the log as PostgreSQL writes it: 16/B374D848."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_of(text: str) -> int:
    """Undo `lsn_text`."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True, slots=True)
class Keepalive:
    """How far the server is: no transaction that it has not sent ends before `end`."""

    end: int
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Payload:
    """A message of pgoutput, and where in the log it belongs."""

    start: int
    data: bytes


def frame(data: bytes | memoryview) -> Keepalive | Payload:
    """Return what one piece of the stream holds.

    Raises:
        ConnectError: it is nothing known.
    """
    kind = data[0]
    if kind == 0x77:  # w
        start, _, _ = _XLOG.unpack_from(data, 1)
        return Payload(start, bytes(data[25:]))
    if kind == 0x6B:  # k
        end, _, asks = _KEEPALIVE.unpack_from(data, 1)
        return Keepalive(end, bool(asks))
    raise ConnectError(f"PostgreSQL sent a frame of an unknown kind, {bytes(data[:1])!r}")


def feedback(received: int, confirmed: int, now_us: int) -> bytes:
    """Return what tells the server how far its reader is.

    Args:
        confirmed: the log before it may go.
        now_us: microseconds since 1970.
    """
    return _FEEDBACK.pack(b"r", max(received, confirmed), confirmed, confirmed, now_us - EPOCH_US, 0)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        kind: the object id of its type.
        modifier: what the type's brackets say; -1: nothing.
    """

    name: str
    kind: int
    modifier: int
    is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table as it is from now on. `identity`: d default, n nothing, f all columns, i an index."""

    id: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction: `lsn` is where it commits."""

    lsn: int
    at_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction: what comes after `end` is not of it."""

    lsn: int
    end: int


@dataclass(frozen=True, slots=True)
class Change:
    """A row that was inserted (c), updated (u), deleted (d).

    Attributes:
        old: the row before, or its key (`has_key_only`); None: not sent.
        new: the row after.
    """

    op: str
    relation: int
    old: tuple[Cell, ...] | None
    new: tuple[Cell, ...] | None
    has_key_only: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables that are empty now."""

    relations: tuple[int, ...]


Message = Begin | Commit | Relation | Change | Truncate


def decode(data: bytes) -> Message | None:
    """Return a message; None: one that says nothing of rows (the origin, a type).

    Raises:
        ConnectError: it is cut off, or nothing known.
    """
    try:
        return _decode(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ConnectError(f"PostgreSQL sent a message that cannot be read ({data[:1]!r}): {error}") from error


def _decode(data: bytes) -> Message | None:
    match data[:1]:
        case b"I":
            new, _ = _row(data, 6)
            return Change("c", int.from_bytes(data[1:5]), None, new)
        case b"U":
            return _update(data)
        case b"D":
            old, _ = _row(data, 6)
            return Change("d", int.from_bytes(data[1:5]), old, None, data[5:6] == b"K")
        case b"B":
            lsn, at, xid = _BEGIN.unpack_from(data, 1)
            return Begin(lsn, at + EPOCH_US, xid)
        case b"C":
            _, lsn, end, _ = _COMMIT.unpack_from(data, 1)
            return Commit(lsn, end)
        case b"R":
            return _relation(data)
        case b"T":
            count = int.from_bytes(data[1:5])
            return Truncate(struct.unpack_from(f">{count}I", data, 6))
        case b"O" | b"Y" | b"M":
            return None
    raise ConnectError(f"PostgreSQL sent a message of an unknown kind, {data[:1]!r}")


def _update(data: bytes) -> Change:
    relation, kind = int.from_bytes(data[1:5]), data[5:6]
    old: tuple[Cell, ...] | None = None
    at = 6
    if kind in (b"K", b"O"):
        old, at = _row(data, at)
        at += 1  # N
    new, _ = _row(data, at)
    return Change("u", relation, old, new, kind == b"K")


def _row(data: bytes, at: int) -> tuple[tuple[Cell, ...], int]:
    (count,) = struct.unpack_from(">H", data, at)
    at += 2
    cells: list[Cell] = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t
            end = at + 4 + int.from_bytes(data[at : at + 4])
            if end > len(data):
                raise IndexError("the row is cut off")
            cells.append(data[at + 4 : end])
            at = end
        elif kind == 0x6E:  # n
            cells.append(None)
        elif kind == 0x75:  # u
            cells.append(UNCHANGED)
        else:
            raise ConnectError(f"PostgreSQL sent a value of an unknown kind, {kind:#x}")
    return tuple(cells), at


def _relation(data: bytes) -> Relation:
    number = int.from_bytes(data[1:5])
    schema, at = _text(data, 5)
    table, at = _text(data, at)
    identity = chr(data[at])
    (count,) = struct.unpack_from(">H", data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(data[at] & 1)
        name, at = _text(data, at + 1)
        kind, modifier = _COLUMN.unpack_from(data, at)
        at += 8
        columns.append(Column(name, kind, modifier, is_key))
    return Relation(id=number, schema=schema or "pg_catalog", table=table, identity=identity, columns=tuple(columns))


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise IndexError("a name is cut off")
    return data[at:end].decode(), end + 1
