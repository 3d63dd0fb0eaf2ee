"""What PostgresConnector decides without a server: messages of the log, places in it, values, records."""

from __future__ import annotations

import datetime
import decimal
import struct
from typing import Any

import pytest

from ottla.connect import ConfigError, ConnectError, SinkRecord, Struct
from ottla.connect.library import debezium
from ottla.connect.library.change_data import PostgresConnector
from ottla.connect.library.change_data.columns import schema_of
from ottla.connect.library.change_data.envelope import Origin, Rules, Shape, topic_of
from ottla.connect.library.change_data.pgoutput import (
    UNCHANGED,
    Begin,
    Change,
    Column,
    Commit,
    Keepalive,
    Payload,
    Relation,
    Truncate,
    decode,
    feedback,
    frame,
    lsn_of,
    lsn_text,
)
from ottla.connect.library.change_data.places import Kept, Place, Reading, Server, Slot, check_place, kept_of
from ottla.connect.library.jdbc.plan import Rules as RowRules
from ottla.connect.library.jdbc.plan import row_of

ORDERS = Relation(
    id=7,
    schema="public",
    table="orders",
    identity="d",
    columns=(
        Column("id", 23, -1, True),
        Column("note", 25, -1, False),
        Column("size", 1700, (10 << 16) + 2 + 4, False),
    ),
)
RULES = Rules(
    prefix="shop",
    database="shop",
    version="1",
    decimals="precise",
    times="adaptive",
    placeholder=debezium.UNAVAILABLE,
    tombstones=True,
)
ORIGIN = Origin(lsn=5, xid=1, at_ms=2, now_ms=3)


def cells(*values: str | None) -> bytes:
    out = struct.pack(">H", len(values))
    for value in values:
        if value is None:
            out += b"n"
        elif value is UNCHANGED:
            out += b"u"
        else:
            out += b"t" + struct.pack(">I", len(value)) + value.encode()
    return out


MESSAGES: dict[bytes, Any] = {
    b"B" + struct.pack(">QqI", 100, -946_684_800_000_000, 9): Begin(100, 0, 9),
    b"C" + struct.pack(">BQQq", 0, 100, 140, 0): Commit(100, 140),
    b"R"
    + struct.pack(">I", 7)
    + b"public\0orders\0d"
    + struct.pack(">H", 1)
    + b"\1id\0"
    + struct.pack(">Ii", 23, -1): (
        Relation(id=7, schema="public", table="orders", identity="d", columns=(Column("id", 23, -1, True),))
    ),
    b"I" + struct.pack(">I", 7) + b"N" + cells("1", None): Change("c", 7, None, (b"1", None)),
    b"U" + struct.pack(">I", 7) + b"N" + cells("1", UNCHANGED): Change("u", 7, None, (b"1", UNCHANGED)),
    b"U" + struct.pack(">I", 7) + b"K" + cells("1", None) + b"N" + cells("2", "a"): (
        Change("u", 7, (b"1", None), (b"2", b"a"), True)
    ),
    b"D" + struct.pack(">I", 7) + b"O" + cells("1", "a"): Change("d", 7, (b"1", b"a"), None),
    b"T" + struct.pack(">IBII", 2, 0, 7, 8): Truncate((7, 8)),
}


@pytest.mark.parametrize("data", MESSAGES, ids=lambda data: data[:1].decode())
def test_a_message_is_read_and_one_that_is_cut_off_anywhere_is_an_error(data: bytes) -> None:
    assert decode(data) == MESSAGES[data]
    for end in range(len(data)):
        with pytest.raises(ConnectError):
            decode(data[:end])


def test_frames() -> None:
    assert frame(b"w" + struct.pack(">QQq", 5, 6, 0) + b"B...") == Payload(5, b"B...")
    assert frame(b"k" + struct.pack(">QqB", 6, 0, 1)) == Keepalive(6, asks=True)
    with pytest.raises(ConnectError, match="unknown kind"):
        frame(b"x")
    assert struct.unpack(">cQQQqB", feedback(50, 40, 946_684_800_000_000)) == (b"r", 50, 40, 40, 0, 0)
    assert lsn_of(lsn_text(0x16B374D848)) == 0x16B374D848


def change() -> Change:
    return Change("c", 7, None, (b"1", None, None))


def test_reading_goes_on_behind_what_is_done() -> None:
    """Two changes of the transaction at 100 are done: the third one is new, and so is the next transaction."""
    reading = Reading(Place(100, 2))
    assert not reading.on_message(Begin(100, 0, 1))
    assert [reading.on_message(change()) for _ in range(3)] == [False, False, True]
    assert reading.place == Place(100, 3)
    reading.on_keepalive(Keepalive(500))  # within a transaction it says nothing of what is done
    assert reading.place == Place(100, 3)
    reading.on_message(Commit(100, 140))
    assert reading.place == Place(140, 0)
    reading.on_keepalive(Keepalive(500))
    assert reading.place == Place(500, 0)
    with pytest.raises(ConnectError, match="outside of a transaction"):
        reading.on_message(change())


def test_a_transaction_that_is_done_comes_again_and_is_left_out() -> None:
    reading = Reading(Place(140, 0))
    for message in (Begin(100, 0, 1), change(), Commit(100, 140)):
        assert not reading.on_message(message)
    reading.on_message(Begin(150, 0, 2))
    assert reading.on_message(change())


KEPT = Kept(system="1", timeline=1, slot="s", place=Place(100, 2))


@pytest.mark.parametrize(
    ("slot", "server", "reason"),
    [
        ({}, {}, None),
        ({"confirmed": 101}, {}, "made anew, or something else reads from it"),
        ({"name": "t"}, {}, "slot.name is t"),
        (None, {}, "is not there any more"),
        (None, {"timeline": 2}, "took over from another one"),
        ({}, {"system": "2"}, "another server"),
        ({}, {"end": 99}, "it was restored"),
        ({}, {"timeline": 2, "ends": [(1, 100)]}, None),
        ({}, {"timeline": 2, "ends": [(1, 99)]}, "never happened there"),
        ({}, {"timeline": 2}, "never happened there"),
    ],
)
def test_where_reading_may_go_on(slot: dict[str, Any] | None, server: dict[str, Any], reason: str | None) -> None:
    given: dict[str, Any] = {"name": "s", "plugin": "pgoutput", "database": "shop", "confirmed": 100}
    there = None if slot is None else Slot(**(given | slot))
    said: dict[str, Any] = {"system": "1", "timeline": 1, "end": 200, "database": "shop"}
    about = Server(**(said | server))
    if reason is None:
        check_place("shop", KEPT, there, about)
    else:
        with pytest.raises(ConnectError, match=f"{reason}.*ottla connect offsets shop --reset"):
            check_place("shop", KEPT, there, about)


def test_offsets_come_back_and_others_are_refused() -> None:
    for kept in (KEPT, Kept(system="1", timeline=1, slot="s", place=Place(100, 0), in_snapshot=True)):
        assert kept_of(kept.as_offset()) == kept
    assert kept_of(None) is None
    with pytest.raises(ConnectError, match="none of PostgreSQL's changes"):
        kept_of({"lsn": 5})


@pytest.mark.parametrize(
    ("kind", "modifier", "text", "value"),
    [
        (16, -1, "t", True),
        (17, -1, "\\x00ff", b"\x00\xff"),
        (701, -1, "-Infinity", float("-inf")),
        (1700, (10 << 16) + 2 + 4, "1.5", decimal.Decimal("1.50")),
        (1700, -1, "1.5", "1.5"),
        (1082, -1, "1969-12-31", -1),
        (1082, -1, "0001-01-01 BC", -719_528),
        (1083, -1, "24:00:00", 86_400_000_000),
        (1083, 3, "00:00:01.5", 1500),
        (1114, -1, "1970-01-01 00:00:01.000001", 1_000_001),
        (1114, 3, "1969-12-31 23:59:59.999", -1),
        (1114, -1, "10000-01-01 00:00:00", 253_402_300_800_000_000),
        (1184, -1, "2024-01-01 00:00:00.5+00", "2024-01-01T00:00:00.5Z"),
        (3802, -1, '{"a": 1}', '{"a": 1}'),
    ],
)
def test_values_by_their_texts(kind: int, modifier: int, text: str, value: Any) -> None:
    _, read = schema_of(kind, modifier, decimals="precise", times="adaptive")
    assert read(text) == value


def test_a_value_that_its_schema_has_no_place_for_is_an_error_that_names_the_column() -> None:
    shape = Shape(ORDERS, ["id"], RULES)
    with pytest.raises(ConnectError, match=r"Column size of public.orders: NaN is no decimal: decimal.handling.mode"):
        shape.records(Change("c", 7, None, (b"1", None, b"NaN")), ORIGIN)
    with pytest.raises(ConnectError, match=r"Column size of public.orders was not sent"):
        shape.records(Change("u", 7, None, (b"1", None, UNCHANGED)), ORIGIN)
    with pytest.raises(ConnectError, match="2 values for 3 columns"):
        shape.records(Change("c", 7, None, (b"1", None)), ORIGIN)


def test_a_row_whose_key_changes_says_what_it_lacks() -> None:
    """An old row that came as a whole has it; of an old key alone only the key says something."""
    shape = Shape(ORDERS, ["id"], RULES)
    lacks = Change("u", 7, (b"1", None, None), (b"2", UNCHANGED, b"1.00"), True)
    missing = shape.missing(lacks)
    assert missing is not None
    assert (missing.columns, missing.key) == (("note",), {"id": "2"})
    deleted, gone, made = shape.records(shape.filled(lacks, {"note": "long"}), ORIGIN)
    assert (deleted.value["op"], gone.value, made.value["op"]) == ("d", None, "c")
    assert made.value["after"]["note"] == "long"
    whole = Change("u", 7, (b"1", b"old", None), (b"2", UNCHANGED, b"1.00"))
    assert shape.missing(whole) is None
    assert shape.records(whole, ORIGIN)[2].value["after"]["note"] == "old"
    same = Change("u", 7, (b"1", None, None), (UNCHANGED, UNCHANGED, b"1.00"), True)  # a long key, sent as the old one
    assert shape.missing(same) is None
    (record,) = shape.records(same, ORIGIN)
    assert (record.value["op"], record.key["id"]) == ("u", 1)


def test_names_of_topics() -> None:
    assert topic_of("shop", "public.Größe (cm)") == "shop.public.Gr__e__cm_"


@pytest.mark.parametrize("name", ["Slot", "a-b", "x" * 64])
def test_a_slot_has_a_name_that_the_server_takes(name: str) -> None:
    given = {"database.hostname": "h", "database.user": "u", "database.dbname": "d", "topic.prefix": "p"}
    with pytest.raises(ConfigError, match="replication slot"):
        PostgresConnector.CONFIG.parse(given | {"table.include.list": "public.orders", "slot.name": name})


@pytest.mark.parametrize(("mode", "is_once"), [("initial", False), ("no_data", True), ("never", True)])
def test_changes_are_exactly_once_and_rows_that_may_be_read_again_are_not(mode: str, is_once: bool) -> None:
    given = {"database.hostname": "h", "database.user": "u", "database.dbname": "d", "topic.prefix": "p"}
    given |= {"table.include.list": "public.orders", "snapshot.mode": mode}
    assert PostgresConnector(given, PostgresConnector.CONFIG.parse(given)).exactly_once_support() is is_once


def test_rows_of_the_sink_have_values_of_debeziums_types() -> None:
    """Dates, times and moments; what was not sent is left out, as text and as bytes; infinity is refused."""
    columns = [("id", 23), ("day", 1082), ("clock", 1083), ("at", 1114), ("zoned", 1184), ("text", 25), ("data", 17)]
    relation = Relation(
        id=7, schema="public", table="t", identity="d", columns=tuple(Column(n, k, -1, n == "id") for n, k in columns)
    )
    shape = Shape(relation, ["id"], RULES)
    new = (
        b"1",
        b"2024-02-29",
        b"12:00:00.5",
        b"2024-02-29 12:00:00.000001",
        b"2024-02-29 12:00:00+00",
        UNCHANGED,
        UNCHANGED,
    )
    (record,) = shape.records(Change("u", 7, None, new), ORIGIN)
    rules = RowRules(mode="upsert", key_mode="record_key", delete=True)
    row = row_of(as_sink(record), rules)
    assert row.values == {
        "day": datetime.date(2024, 2, 29),
        "clock": datetime.time(12, 0, 0, 500_000),
        "at": datetime.datetime(2024, 2, 29, 12, 0, 0, 1),
        "zoned": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    }
    (record,) = shape.records(Change("u", 7, None, (b"1", b"infinity", None, None, None, None, None)), ORIGIN)
    with pytest.raises(ConnectError, match="is no Date that can be written"):
        row_of(as_sink(record), rules)


def as_sink(record: Any) -> SinkRecord:
    assert isinstance(record.value, Struct)
    return SinkRecord(
        topic="t",
        partition=0,
        offset=0,
        key_schema=record.key_schema,
        key=record.key,
        value_schema=record.value_schema,
        value=record.value,
    )
