"""PostgresConnector on real servers, without a broker: rows, then changes; what is killed, dropped, made anew in between."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.connect.library.conftest import sink_task
from tests.connect.parity.rest_cases import Case
from tests.connect.parity.rest_parity import ask
from tests.connect.test_rest import served, settings
from tests.connect.test_standalone import until
from tests.support.broker_process import RunningBroker
from tests.support.postgres import Postgres, programs

from ottla import TopicPartition
from ottla.connect import ConnectError, JsonConverter, RetriableError, SinkRecord, SourceContext, SourceRecord
from ottla.connect.library.change_data import PostgresConnector
from ottla.connect.library.change_data.pgoutput import lsn_of
from ottla.connect.library.change_data.places import kept_of
from ottla.connect.library.change_data.stream import HELD_BYTES
from ottla.connect.library.jdbc import JdbcSinkConnector
from ottla.connect.records import Position
from ottla.connect.runtime.offsets import Submitted, value_bytes

pytestmark = pytest.mark.servers
_numbers = itertools.count(1)


class Shop:
    """A database of one test."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.name = f"shop{next(_numbers)}"
        self.run_in("postgres", f"CREATE DATABASE {self.name}")

    def conninfo(self, database: str) -> str:
        return self.server.conninfo.replace("dbname=postgres", f"dbname={database}")

    def run_in(self, database: str, *statements: str) -> None:
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def run(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        self.run_in(self.name, *statements)

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo(self.name), autocommit=True) as connection:
            return connection.execute(question.encode()).fetchall()

    def confirmed(self) -> int:
        """Return where the log may be forgotten before."""
        ((text,),) = self.rows(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'ottla_shop'"
        )
        return lsn_of(text)

    def close(self) -> None:
        def drop() -> bool:
            try:
                self.run(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                    "WHERE active_pid IS NOT NULL AND database = current_database()",
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                    "WHERE database = current_database()",
                )
            except psycopg.errors.ObjectInUse:
                return False
            return True

        until(drop, "the slots are free")
        self.run_in("postgres", f"DROP DATABASE {self.name} WITH (FORCE)")


@pytest.fixture
def shop(postgres: Postgres) -> Iterator[Shop]:
    made = Shop(postgres)
    yield made
    made.close()


class Follower:
    """A connector's task at work, and the offsets that its worker would write down."""

    def __init__(self, shop: Shop, tables: str = "public.orders", **more: str) -> None:
        self.config = {
            "name": "shop",
            "database.hostname": "127.0.0.1",
            "database.port": str(shop.server.port),
            "database.user": "postgres",
            "database.dbname": shop.name,
            "topic.prefix": "shop",
            "table.include.list": tables,
            "status.update.interval.ms": "300",
        } | {name.replace("_", "."): value for name, value in more.items()}
        self.kept: dict[str, Any] | None = None
        self.task: Any = None
        self.newest: Mapping[str, Any] | None = None

    def start(self) -> None:
        made = PostgresConnector(self.config, PostgresConnector.CONFIG.parse(self.config))
        (own,) = made.task_configs(1)
        task = PostgresConnector.Task(own, PostgresConnector.CONFIG.parse(own))
        stopping = threading.Event()
        stopping.set()  # waits end at once
        task.context = SourceContext(lambda partition: self.kept, stopping)
        task.start()
        self.task, self.newest = task, None

    def poll(self) -> list[SourceRecord]:
        """Return the records that are there after a short wait."""
        found = []
        try:
            records = self.task.poll() or ()
        except RetriableError:
            return []
        for record in records:
            if record.source_offset is not None:
                self.newest = record.source_offset
            if not isinstance(record, Position):
                found.append(record)
        return found

    def rows(self, count: int) -> list[SourceRecord]:
        """Return all rows, so many; what comes from then on are changes, and the table is not locked any more."""
        found = self.settle(lambda: self.newest is not None and "snapshot" not in self.newest, "the end of the rows")
        assert len(found) == count, summary(found)
        return found

    def read(self, count: int) -> list[SourceRecord]:
        """Return so many records."""
        found: list[SourceRecord] = []
        until(lambda: len(self._more(found)) >= count, f"{count} records")
        assert len(found) == count, summary(found)
        return found

    def _more(self, found: list[SourceRecord]) -> list[SourceRecord]:
        found += self.poll()
        return found

    def settle(self, condition: Callable[[], bool], what: str) -> list[SourceRecord]:
        """Read until something is so; return what came."""
        found: list[SourceRecord] = []

        def is_so() -> bool:
            self._more(found)
            return condition()

        until(is_so, what)
        return found

    def write_down(self, offset: Mapping[str, Any] | None = None) -> None:
        """Write the newest offset, or a given one, down, as the worker does when all up to it is acknowledged."""
        offset = offset or self.newest
        assert offset is not None
        self.kept = json.loads(value_bytes(offset) or b"")
        self.task.commit([({"server": "shop"}, self.kept)])

    def stop(self) -> None:
        if self.task is not None:
            self.task.stop()
            self.task = None

    def __enter__(self) -> Follower:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def summary(records: Sequence[SourceRecord]) -> list[Any]:
    """Return what was done to which key, and with what note: ("c", 1, "a"); a record without a value is None, 1."""
    found: list[Any] = []
    for record in records:
        key = None if record.key is None else record.key["id"]
        if record.value is None:
            found.append((None, key))
            continue
        after = record.value["after"]
        found.append((record.value["op"], key) if after is None else (record.value["op"], key, after["note"]))
    return found


def test_rows_first_and_then_what_is_done_to_them(shop: Shop) -> None:
    """An insert, an update, a new column, a key that changes, a deletion, a truncation; nothing twice after a restart."""
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'a'), (2, NULL)")
    follower = Follower(shop)
    with follower:
        assert summary(follower.rows(2)) == [("r", 1, "a"), ("r", 2, None)]
        shop.run(
            "INSERT INTO orders VALUES (3, 'c')",
            "UPDATE orders SET note = 'b' WHERE id = 2",
            "ALTER TABLE orders ADD COLUMN price NUMERIC(10, 2)",
            "UPDATE orders SET price = 1.5 WHERE id = 1",
            "UPDATE orders SET id = 4 WHERE id = 3",
            "DELETE FROM orders WHERE id = 1",
            "TRUNCATE orders",
        )
        records = follower.read(9)
        assert summary(records) == [
            ("c", 3, "c"), ("u", 2, "b"), ("u", 1, "a"), ("d", 3), (None, 3), ("c", 4, "c"), ("d", 1), (None, 1), ("t", None)
        ]  # fmt: skip
        assert str(records[2].value["after"]["price"]) == "1.50"
        assert records[0].value["source"]["table"] == "orders"
        assert {record.topic for record in records} == {"shop.public.orders"}
        follower.write_down()
    with follower:
        shop.run("INSERT INTO orders VALUES (5, 'e')")
        assert summary(follower.read(1)) == [("c", 5, "e")]


def test_a_restart_in_the_middle_of_a_transaction_goes_on_behind_its_last_change(shop: Shop) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (0)")
    follower = Follower(shop)
    with follower:
        follower.rows(1)
        shop.run(
            "INSERT INTO orders SELECT n, 'x' FROM generate_series(1, 10) n", "INSERT INTO orders VALUES (11, 'y')"
        )
        records = follower.read(11)
        assert [record.key["id"] for record in records] == list(range(1, 12))
        follower.write_down(records[3].source_offset)
    with follower:
        assert [record.key["id"] for record in follower.read(7)] == list(range(5, 12))


def test_keepalive_with_records_in_flight(shop: Shop) -> None:
    """1. A row's record is sent, and not acknowledged.  2. The server says that it is further, by what happens elsewhere.
    3. The log stays where the record is, until it is acknowledged."""
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "CREATE TABLE elsewhere (text TEXT)")
    with Follower(shop) as follower:
        follower.rows(0)
        follower.write_down()
        shop.run("INSERT INTO orders VALUES (1, 'a')")
        (record,) = follower.read(1)
        assert record.source_offset is not None
        submitted, receipt = Submitted(), Receipt()
        submitted.add({"server": "shop"}, record.source_offset, receipt)
        shop.run("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        ((end,),) = shop.rows("SELECT pg_current_wal_flush_lsn()::text")
        follower.settle(lambda: place_of(follower.newest) >= lsn_of(end), "a keepalive from behind the row")
        submitted.add({"server": "shop"}, follower.newest or {}, None)
        assert submitted.take() == []  # nothing is written down, so nothing is confirmed
        assert shop.confirmed() <= place_of(record.source_offset)
        receipt.is_done = True
        ((_, offset),) = submitted.take()
        follower.write_down(offset)
        follower.settle(lambda: shop.confirmed() >= lsn_of(end), "the log moves on")


class Receipt:
    is_done = False

    def done(self) -> bool:
        return self.is_done

    def result(self, timeout: float | None = None) -> object:
        return None


def place_of(offset: Mapping[str, Any] | None) -> int:
    kept = kept_of(offset)
    return 0 if kept is None else kept.place.lsn


def test_slot_recreated_is_noticed(shop: Shop) -> None:
    """Changes between the two slots would be lost: the task fails and says so; a reset reads all rows again."""
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'a')")
    follower = Follower(shop)
    with follower:
        follower.rows(1)
        shop.run("INSERT INTO orders VALUES (2, 'b')")
        follower.read(1)
        follower.write_down()
    shop.run(
        "INSERT INTO orders VALUES (3, 'c')",
        "SELECT pg_drop_replication_slot('ottla_shop')",
        "SELECT pg_create_logical_replication_slot('ottla_shop', 'pgoutput')",
    )
    with follower, pytest.raises(ConnectError, match=r"made anew.*reset its offsets"):
        follower.read(1)
    shop.run("SELECT pg_drop_replication_slot('ottla_shop')")
    with follower, pytest.raises(ConnectError, match="not there any more"):
        follower.read(1)
    connector = PostgresConnector(follower.config, PostgresConnector.CONFIG.parse(follower.config))
    assert connector.alter_offsets([({"server": "shop"}, None)])
    follower.kept = None
    with follower:
        assert summary(follower.read(3)) == [("r", 1, "a"), ("r", 2, "b"), ("r", 3, "c")]


def test_failover_without_slot() -> None:
    """A standby takes over, which has no slot: what was done before would be missing, and the task says why it fails."""
    if programs() is None:
        pytest.skip("PostgreSQL's programs are not installed (Debian: postgresql)")
    with Postgres(wal_level="logical", fsync="off") as first:
        shop = Shop(first)
        shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'a')")
        follower = Follower(shop)
        with follower:
            follower.rows(1)
            shop.run("INSERT INTO orders VALUES (2, 'b')")
            follower.read(1)
            follower.write_down()
        with Postgres(follows=first, wal_level="logical", fsync="off") as second:
            shop.run("INSERT INTO orders VALUES (3, 'c')")
            ((end,),) = shop.rows("SELECT pg_current_wal_flush_lsn()::text")
            shop.server = second
            until(lambda: lsn_of(shop.rows("SELECT pg_last_wal_replay_lsn()::text")[0][0]) >= lsn_of(end), "the copy")
            first.kill()
            second.promote()
            follower.config["database.port"] = str(second.port)
            with follower, pytest.raises(ConnectError, match=r"not there any more: the server took over.*timeline 2"):
                follower.read(1)
            assert shop.rows("SELECT count(*) FROM pg_replication_slots") == [(0,)]  # none was made unasked


def test_delete_between_two_snapshots(shop: Shop) -> None:
    """1. The first reading of all rows is cut off.  2. A row that it has sent is deleted.  3. The second one does not see
    that row; its deletion comes from the slot, which is the first one's."""
    shop.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)",
        "INSERT INTO orders SELECT n, 'x' FROM generate_series(1, 50) n",
    )
    follower = Follower(shop, max_batch_size="10")
    with follower:
        assert [record.key["id"] for record in follower.poll()] == list(range(1, 11))
        follower.write_down()
    shop.run("DELETE FROM orders WHERE id = 3", "UPDATE orders SET note = 'y' WHERE id = 50")
    with follower:
        found = summary(follower.read(52))
    assert found[:49] == [("r", n, "y" if n == 50 else "x") for n in range(1, 51) if n != 3]
    assert found[49:] == [("d", 3), (None, 3), ("u", 50, "y")]


@pytest.mark.parametrize("kept", [True, False], ids=["offset", "no offset yet"])
def test_a_reading_that_was_cut_off_is_done_again_and_loses_no_change(shop: Shop, kept: bool) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    follower = Follower(shop, max_batch_size="1")
    with follower:
        follower.poll()
        if kept:
            follower.write_down()
    shop.run("UPDATE orders SET note = 'z' WHERE id = 1")
    with follower:
        assert summary(follower.read(3)) == [("r", 2, "b"), ("r", 1, "z"), ("u", 1, "z")]


def test_huge_transaction_slow_kafka(shop: Shop) -> None:
    """A transaction is far greater than what is held, and nothing is taken for more than twice wal_sender_timeout: the server
    hears of its reader all the same, and the connection stays."""
    shop.run(
        f"ALTER DATABASE {shop.name} SET wal_sender_timeout = '6s'",
        "CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)",
        "INSERT INTO orders VALUES (0)",
    )

    def reader() -> Any:
        ((pid,),) = shop.rows("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'ottla_shop'")
        return pid

    with Follower(shop) as follower:
        follower.rows(1)
        shop.run("INSERT INTO orders SELECT n, repeat('x', 1000) FROM generate_series(1, 50000) n")
        found = follower.settle(lambda: follower.task.held_bytes > 1 << 20, "the log")
        numbers = [record.key["id"] for record in found]
        pid, stalled, held = reader(), time.monotonic() + 14.0, 0

        def is_over() -> bool:
            nonlocal held
            held = max(held, follower.task.held_bytes)
            assert reader() == pid
            return time.monotonic() > stalled

        until(is_over, "fourteen seconds")
        assert held < HELD_BYTES + (1 << 20)
        while len(numbers) < 50_000:
            numbers += [record.key["id"] for record in follower.poll()]
        assert numbers == list(range(1, 50_001))
        assert reader() == pid


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["CREATE TABLE orders (id INT, note TEXT)"], r"has no primary key.*ALTER TABLE public.orders ADD PRIMARY KEY"),
        (
            ["CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "ALTER TABLE orders REPLICA IDENTITY NOTHING"],
            r"has no replica identity.*REPLICA IDENTITY FULL",
        ),
    ],
    ids=["no key", "nothing"],
)
def test_table_without_identity(shop: Shop, statements: list[str], reason: str) -> None:
    shop.run(*statements)
    with Follower(shop) as follower, pytest.raises(ConnectError, match=reason):
        follower.poll()
    assert shop.rows("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []


def test_a_table_without_a_key_whose_identity_is_all_of_it_has_records_without_keys(shop: Shop) -> None:
    shop.run("CREATE TABLE orders (id INT, note TEXT)", "ALTER TABLE orders REPLICA IDENTITY FULL")
    shop.run("INSERT INTO orders VALUES (1, 'a')")
    with Follower(shop) as follower:
        assert [(record.key, record.value["op"]) for record in follower.rows(1)] == [(None, "r")]
        shop.run("UPDATE orders SET note = 'b'", "DELETE FROM orders")
        changed, deleted = follower.read(2)
        assert (changed.key, changed.value["before"]["note"], changed.value["after"]["note"]) == (None, "a", "b")
        assert (deleted.key, deleted.value["before"]["note"], deleted.value["after"]) == (None, "b", None)


def test_a_key_with_another_name_is_the_key_where_all_of_a_row_is_its_identity(shop: Shop) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "ALTER TABLE orders REPLICA IDENTITY FULL")
    with Follower(shop) as follower:
        follower.rows(0)
        shop.run("ALTER TABLE orders RENAME COLUMN id TO number", "INSERT INTO orders VALUES (1, 'a')")
        (record,) = follower.read(1)
        assert record.key["number"] == 1


def test_idle_database_slot_advances(shop: Shop) -> None:
    """Nothing happens to the table, much elsewhere: the log does not stay for the table's sake."""
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)")
    other = Shop(shop.server)
    other.run("CREATE TABLE busy (text TEXT)")
    with Follower(shop) as follower:
        follower.rows(0)
        for _ in range(3):
            other.run("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
            ((end,),) = other.rows("SELECT pg_current_wal_flush_lsn()::text")

            def is_there(wanted: int = lsn_of(end)) -> bool:
                if follower.newest is not None:
                    follower.write_down()
                return shop.confirmed() >= wanted

            assert follower.settle(is_there, "the slot moves on") == []
    other.close()


def test_toast_unchanged_to_jdbc_sink(shop: Shop) -> None:
    """A long value that an update leaves alone is not sent: the copy keeps it, also in a row whose key changes."""
    shop.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, note TEXT, body TEXT, data BYTEA)",
        "ALTER TABLE orders ALTER body SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL",
        "INSERT INTO orders VALUES (1, 'a', repeat('long', 5000), decode(repeat('00ff', 5000), 'hex'))",
        "INSERT INTO orders SELECT 2, 'b', body, data FROM orders",
    )
    copy = Copy(shop)
    with Follower(shop) as follower:
        copy.take(follower.rows(2))
        shop.run(
            "UPDATE orders SET note = 'c' WHERE id = 1",
            "UPDATE orders SET id = 3 WHERE id = 2",
            "UPDATE orders SET note = 'd' WHERE id = 3",
        )
        records = follower.read(5)
        assert records[0].value["after"]["body"] == "__debezium_unavailable_value"
        assert records[0].value["after"]["data"] == b"__debezium_unavailable_value"
        copy.take(records)
    assert copy.is_equal("id, note, body, data::text")
    assert shop.rows("SELECT id, length(body), length(data) FROM copy ORDER BY id") == [
        (1, 20000, 10000),
        (3, 20000, 10000),
    ]
    copy.close()


class Copy:
    """A copy of the table `orders`, in the same database, by JdbcSinkConnector, with records that went through JSON."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._converters = [JsonConverter({"converter.type": side}) for side in ("key", "value")]
        config = {
            "name": "copy",
            "connection.url": shop.server.url.replace("/postgres?", f"/{shop.name}?"),
            "table.name.format": "copy",
            "insert.mode": "upsert",
            "pk.mode": "record_key",
            "delete.enabled": "true",
            "auto.create": "true",
            "auto.evolve": "true",
        }
        self._task, self.given = sink_task(JdbcSinkConnector, config, TopicPartition("orders", 0))
        self._offset = 0

    def take(self, records: Sequence[SourceRecord]) -> None:
        given = []
        for record in records:
            parts: list[Any] = []
            sides = ((record.key_schema, record.key), (record.value_schema, record.value))
            for converter, (schema, value) in zip(self._converters, sides, strict=True):
                parts.append(converter.to_connect("orders", converter.from_connect("orders", schema, value)))
            (key_schema, key), (value_schema, value) = parts
            given.append(
                SinkRecord(
                    topic="orders",
                    partition=0,
                    offset=self._offset,
                    key_schema=key_schema,
                    key=key,
                    value_schema=value_schema,
                    value=value,
                )
            )
            self._offset += 1
        self._task.put(given)
        assert self.given.rejected == []

    def is_equal(self, columns: str) -> bool:
        question = f"SELECT {columns} FROM {{}} ORDER BY id"
        mine, theirs = (self._shop.rows(question.format(table)) for table in ("copy", "orders"))
        assert mine == theirs
        return True

    def close(self) -> None:
        self._task.stop()


TYPES = {
    "a": ("SMALLINT", "-7"),
    "b": ("BIGINT", "9223372036854775807"),
    "c": ("REAL", "0.1"),
    "d": ("DOUBLE PRECISION", "0.1"),
    "e": ("NUMERIC(12, 3)", "123456789.125"),
    "f": ("NUMERIC", "1.10"),
    "g": ("BOOLEAN", "true"),
    "h": ("TEXT", "'é\t\\ \"x\" \n'"),
    "i": ("BYTEA", "'\\x00ff5c'"),
    "j": ("DATE", "'2024-02-29'"),
    "k": ("TIME", "'23:59:59.123456'"),
    "l": ("TIMESTAMP", "'2024-02-29 12:00:00.123456'"),
    "m": ("TIMESTAMP(3)", "'1969-12-31 23:59:59.999'"),
    "n": ("TIMESTAMPTZ", "'2024-02-29 12:00:00.123456+02'"),
    "o": ("UUID", "'5f0c7ddc-2a5d-4d2a-9d6c-8f4e8fdc4a11'"),
    "p": ("JSONB", "'{\"a\": [1, 2]}'"),
    "q": ("INT[]", "'{1,2,NULL}'"),
    "r": ("INTERVAL", "'1 day 02:03:04'"),
    "s": ("TIME(3)", "'00:00:00.001'"),
}


def test_values_of_all_types_arrive_in_the_copy(shop: Shop) -> None:
    """By the reading of all rows, and by changes: as they are, and as NULL."""
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in TYPES.items())
    values = ", ".join(value for _, value in TYPES.values())
    shop.run(
        f"CREATE TABLE orders (id INT PRIMARY KEY, note TEXT, {columns})",
        f"INSERT INTO orders VALUES (1, 'a', {values})",
    )
    copy = Copy(shop)
    with Follower(shop) as follower:
        copy.take(follower.rows(1))
        shop.run(f"INSERT INTO orders VALUES (2, 'b', {values})", "INSERT INTO orders VALUES (3)")
        copy.take(follower.read(2))
    assert copy.is_equal(", ".join(["id", "note", *(f"{name}::text" for name in TYPES if name not in "cd"), "c", "d"]))
    copy.close()


def test_a_new_column_is_added_to_the_copy_and_one_that_is_dropped_stays(shop: Shop) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'a')")
    copy = Copy(shop)
    with Follower(shop) as follower:
        copy.take(follower.rows(1))
        shop.run(
            "ALTER TABLE orders ADD COLUMN price NUMERIC(6, 2)",
            "INSERT INTO orders VALUES (2, 'b', 3.5)",
            "ALTER TABLE orders DROP COLUMN note",
            "INSERT INTO orders VALUES (3, 4.5)",
        )
        copy.take(follower.read(2))
    assert copy.is_equal("id, price")
    assert shop.rows("SELECT note FROM copy ORDER BY id") == [("a",), ("b",), (None,)]
    copy.close()


def test_infinity_is_rejected_by_the_copy_and_not_by_the_source(shop: Shop) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT, at TIMESTAMP, day DATE)")
    shop.run("INSERT INTO orders VALUES (1, 'a', 'infinity', '-infinity'), (2, 'b', '20000-01-01', '0044-03-15 BC')")
    with Follower(shop) as follower:
        first, second = (record.value["after"] for record in follower.read(2))
        assert (first["at"], first["day"]) == (2**63 - 1, -(2**31))
        assert shop.rows(
            f"SELECT to_char(TIMESTAMP '1970-01-01' + {second['at']} * INTERVAL '1 microsecond', 'YYYY'), "
            f"to_char(DATE '1970-01-01' + {second['day']}, 'YYYY-MM-DD BC')"
        ) == [("20000", "0044-03-15 BC")]


def test_the_server_is_killed_and_the_task_goes_on(shop: Shop) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)")
    with Follower(shop) as follower:
        follower.rows(0)
        shop.run("INSERT INTO orders VALUES (1, 'a')")
        assert summary(follower.read(1)) == [("c", 1, "a")]
        shop.server.kill()
        shop.server.start()
        shop.run("INSERT INTO orders VALUES (2, 'b')")
        assert summary(follower.read(1)) == [("c", 2, "b")]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"table_include_list": "public.nothing"}, "There is no table public.nothing"),
        ({"publication_name": "half"}, "leaves out inserts, updates or deletions: ALTER PUBLICATION"),
        (
            {"publication_name": "none", "publication_autocreate_mode": "disabled"},
            'CREATE PUBLICATION "none" FOR TABLE',
        ),
        ({"slot_name": "theirs"}, "for the plugin test_decoding"),
        ({"database_dbname": "nowhere"}, "does not exist"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(shop: Shop, more: dict[str, str], reason: str) -> None:
    shop.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)",
        "CREATE PUBLICATION half FOR TABLE orders WITH (publish = 'insert')",
        "SELECT pg_create_logical_replication_slot('theirs', 'test_decoding')",
    )
    follower = Follower(shop)
    follower.config |= {name.replace("_", "."): value for name, value in more.items()}
    with follower, pytest.raises(ConnectError, match=reason):
        follower.poll()


def test_rows_that_a_policy_hides_are_an_error(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)",
        "DO $$ BEGIN CREATE ROLE reader LOGIN REPLICATION; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT SELECT ON orders TO reader",
        "CREATE PUBLICATION ottla_shop FOR TABLE orders",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        "INSERT INTO orders VALUES (1, 'a')",
    )
    follower = Follower(shop, database_user="reader")
    with follower, pytest.raises(ConnectError, match="row-level security"):
        follower.poll()


def test_deleted_connector_names_its_slot(
    shop: Shop, broker: RunningBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop.run("CREATE TABLE orders (id INT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'a')")
    follower = Follower(shop)
    config = follower.config | {"connector.class": "PostgresConnector"}
    with served(settings(broker, tmp_path)) as url:
        ask(url, tmp_path, Case("POST", "/connectors", {"name": "shop", "config": config}))
        until(lambda: bool(shop.rows("SELECT 1 FROM pg_replication_slots WHERE active")), "the slot is read")
        assert ask(url, tmp_path, Case("DELETE", "/connectors/shop")).status == 204
    (told,) = [record.getMessage() for record in caplog.records if "was deleted" in record.getMessage()]
    assert "replication slot ottla_shop" in told
    assert "SELECT pg_drop_replication_slot('ottla_shop')" in told
    shop.run("SELECT pg_drop_replication_slot('ottla_shop')")
