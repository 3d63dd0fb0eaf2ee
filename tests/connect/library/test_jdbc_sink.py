"""JdbcSinkConnector on SQLite and on real servers, PostgreSQL and MariaDB, without a broker."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from tests.connect.library.conftest import record, sink_task
from tests.support.postgres import Postgres, programs

from ottla import TopicPartition
from ottla.connect import (
    DATE,
    FLOAT64,
    INT32,
    INT64,
    OPTIONAL_INT32,
    OPTIONAL_STRING,
    STRING,
    TIME,
    TIMESTAMP,
    ConfigError,
    ConnectError,
    RetriableError,
    Schema,
    Struct,
    decimal_schema,
)
from ottla.connect.library.jdbc import JdbcSinkConnector
from ottla.connect.library.jdbc.database import open_engine

P0 = TopicPartition("orders", 0)
ORDER = Schema.struct({"id": INT64, "note": OPTIONAL_STRING, "price": decimal_schema(2)}, name="order")


def order(number: int, note: str | None = None, price: str = "1.50") -> Struct:
    return Struct(ORDER, id=number, note=note, price=decimal.Decimal(price))


class Database:
    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = open_engine(url, None, None)

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(question))]

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(f"jdbc:sqlite:{tmp_path}/shop.db")
    elif request.param == "mariadb":
        made = Database(request.getfixturevalue("mariadb").url)
        made.run("DROP DATABASE shop", "CREATE DATABASE shop")
        made.engine.dispose()
    else:
        server: Postgres = request.getfixturevalue("postgres")
        made = Database(server.url)
        made.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    yield made
    made.engine.dispose()


def config(database: Database, **more: str) -> dict[str, str]:
    base = {"name": "to-shop", "connection.url": database.url, "auto.create": "true", "retry.backoff.ms": "1"}
    return base | {name.replace("_", "."): value for name, value in more.items()}


UPSERT = {"insert_mode": "upsert", "pk_mode": "record_key", "pk_fields": "id", "delete_enabled": "true"}


def test_upsert_and_delete_leave_the_last_row_of_each_key(database: Database) -> None:
    task, given = sink_task(JdbcSinkConnector, config(database, **UPSERT), P0)
    task.put([record(0, order(1, "a"), key=1), record(1, order(2, "b"), key=2), record(2, order(1, "c"), key=1)])
    task.put([record(3, None, key=2), record(4, order(3), key=3), record(5, None, key=3), record(6, order(4), key=4)])
    assert database.rows("SELECT id, note FROM orders ORDER BY id") == [(1, "c"), (4, None)]
    assert given.rejected == []
    task.stop()


def test_records_that_come_again_after_a_restart_are_not_written_again(database: Database) -> None:
    """1. Three inserts.  2. Another task seeks behind them, and leaves them out when they are given nonetheless."""
    first, _ = sink_task(JdbcSinkConnector, config(database), P0)
    records = [record(number, order(number)) for number in range(3)]
    first.put(records)
    first.stop()
    second, given = sink_task(JdbcSinkConnector, config(database), P0)
    assert given.sought == {P0: 3}
    second.put([*records, record(3, order(3))])
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(0,), (1,), (2,), (3,)]
    second.stop()


def test_commit_answer_lost(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction was made, its answer did not come: the row of offsets says so, and the batch is not written twice."""
    task, _ = sink_task(JdbcSinkConnector, config(database), P0)
    task.put([record(0, order(0))])
    dialect = task._engine.dialect
    lost: list[int] = []
    commit = dialect.do_commit

    def once(connection: Any) -> None:
        commit(connection)
        if not lost:
            lost.append(1)
            raise OperationalError("COMMIT", None, Exception("database is locked"), connection_invalidated=True)

    monkeypatch.setattr(dialect, "do_commit", once)
    batch = [record(1, order(1)), record(2, order(2))]
    with pytest.raises(RetriableError):
        task.put(batch)
    task.put(batch)
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(0,), (1,), (2,)]
    task.stop()


def test_dead_letters_are_there_before_the_batch_is_committed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The database refuses a row, and another record makes none: when COMMIT goes out both dead letters are acknowledged.
    2. Its answer is lost, and the batch comes again: all of it is there, and nothing is rejected once more."""
    database.run("CREATE TABLE orders (id BIGINT PRIMARY KEY, note TEXT, price TEXT, CHECK (id <> 2))")
    task, given = sink_task(JdbcSinkConnector, config(database, auto_create="false"), P0)
    dialect = task._engine.dialect
    at_commit: list[list[int]] = []
    commit = dialect.do_commit

    def once(connection: Any) -> None:
        at_commit.append(sorted(given.delivered))
        commit(connection)
        if len(at_commit) == 1:
            raise OperationalError("COMMIT", None, Exception("database is locked"), connection_invalidated=True)

    monkeypatch.setattr(dialect, "do_commit", once)
    batch = [record(0, order(1)), record(1, order(2)), record(2, "no struct"), record(3, order(4))]
    with pytest.raises(RetriableError):
        task.put(batch)
    assert at_commit[0] == [1, 2]
    task.put(batch)
    assert sorted(offset for offset, _ in given.rejected) == [1, 2]
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(1,), (4,)]
    task.stop()


def test_an_offset_that_is_gone_fails_the_task(database: Database) -> None:
    """Its row was deleted while the task ran: trying again would never end."""
    task, _ = sink_task(JdbcSinkConnector, config(database), P0)
    task.put([record(0, order(0))])
    database.run("DELETE FROM ottla_connect_offsets")
    with pytest.raises(ConnectError, match="no row any more for partition 0"):
        task.put([record(1, order(1))])
    assert database.rows("SELECT id FROM orders") == [(0,)]
    task.stop()


def test_a_task_that_lost_its_partition_writes_nothing_twice(database: Database) -> None:
    """1. Two tasks believe that they have the partition.  2. The second writes.  3. The first writes none of that again."""
    zombie, _ = sink_task(JdbcSinkConnector, config(database), P0)
    zombie.put([record(0, order(0))])
    owner, _ = sink_task(JdbcSinkConnector, config(database), P0)
    batch = [record(1, order(1)), record(2, order(2))]
    owner.put(batch)
    with pytest.raises(RetriableError, match="Another task has moved"):
        zombie.put(batch)
    zombie.put(batch)
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(0,), (1,), (2,)]
    zombie.stop()
    owner.stop()


def test_two_tasks_begin_a_partition_at_once(database: Database) -> None:
    first, _ = sink_task(JdbcSinkConnector, config(database), P0)
    second, _ = sink_task(JdbcSinkConnector, config(database), P0)
    first.put([record(0, order(0))])
    with pytest.raises(RetriableError, match="Another task has moved"):
        second.put([record(0, order(0))])
    second.put([record(0, order(0))])
    assert database.rows("SELECT id FROM orders") == [(0,)]
    first.stop()
    second.stop()


def test_a_database_that_went_back_fails_the_task(database: Database) -> None:
    """Restored from a backup it lacks records that the task has put: to go on would lose them."""
    task, _ = sink_task(JdbcSinkConnector, config(database), P0)
    task.put([record(number, order(number)) for number in range(5)])
    database.run("UPDATE ottla_connect_offsets SET next_offset = 2", "DELETE FROM orders WHERE id >= 2")
    with pytest.raises(ConnectError, match="offset 2 comes next in partition 0"):
        task.put([record(5, order(5))])
    task.stop()


def test_topic_recreated_under_sink(database: Database) -> None:
    """A topic that was made anew has another id: its offset 0 is not the one that was written."""
    task, _ = sink_task(JdbcSinkConnector, config(database), P0)
    task.put([record(0, order(0))])
    task.close([P0])
    given = task.context
    task.context = type(given)(given._reject, given._seek, lambda topic: "another-id")
    task.open([P0])
    task.put([record(0, order(100))])
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(0,), (100,)]
    task.stop()


def test_a_row_that_the_database_refuses_is_a_dead_letter_and_the_others_are_kept(database: Database) -> None:
    database.run("CREATE TABLE orders (id BIGINT PRIMARY KEY, note TEXT, price TEXT, CHECK (id <> 2))")
    value = Schema.struct({"id": INT64, "note": OPTIONAL_STRING})
    task, given = sink_task(JdbcSinkConnector, config(database, auto_create="false"), P0)
    task.put([record(number, Struct(value, id=number)) for number in range(1, 5)])
    assert [offset for offset, _ in given.rejected] == [2]
    assert "table orders" in given.rejected[0][1]
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(1,), (3,), (4,)]
    assert database.rows("SELECT next_offset FROM ottla_connect_offsets") == [(5,)]
    task.stop()


def test_a_row_that_is_refused_takes_no_other_of_its_key_with_it(database: Database) -> None:
    """Rows of one key are written as one. If the database refuses that, each counts by itself: the first stays, the second
    is rejected, the third changes what it has."""
    database.run(
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, note VARCHAR(20), price VARCHAR(20), CHECK (note <> 'bad'))"
    )
    task, given = sink_task(JdbcSinkConnector, config(database, **UPSERT) | {"auto.create": "false"}, P0)
    task.put(
        [
            record(0, {"note": "good", "price": "1"}, key=1),
            record(1, {"note": "bad", "price": "2"}, key=1),
            record(2, {"price": "3"}, key=1),
            record(3, {"note": "good", "price": "4"}, key=2),
        ]
    )
    assert [offset for offset, _ in given.rejected] == [1]
    assert database.rows("SELECT id, note, price FROM orders ORDER BY id") == [(1, "good", "3"), (2, "good", "4")]
    task.stop()


def test_a_row_that_comes_after_its_deletion_has_nothing_of_the_old_one(database: Database) -> None:
    database.run("CREATE TABLE orders (id BIGINT PRIMARY KEY, note VARCHAR(20), price VARCHAR(20))")
    task, _ = sink_task(JdbcSinkConnector, config(database, **UPSERT), P0)
    task.put([record(0, {"note": "old", "price": "1"}, key=1)])
    task.put([record(1, None, key=1), record(2, {"note": "new"}, key=1)])
    assert database.rows("SELECT id, note, price FROM orders") == [(1, "new", None)]
    task.stop()


def test_a_new_field_becomes_a_column(database: Database) -> None:
    newer = Schema.struct({"id": INT64, "note": OPTIONAL_STRING, "count": OPTIONAL_INT32})
    task, _ = sink_task(JdbcSinkConnector, config(database, auto_evolve="true"), P0)
    older = Schema.struct({"id": INT64, "note": OPTIONAL_STRING})
    task.put([record(0, Struct(older, id=1))])
    task.put([record(1, Struct(newer, id=2, count=7)), record(2, Struct(older, id=3))])
    assert database.rows("SELECT id, count FROM orders ORDER BY id") == [(1, None), (2, 7), (3, None)]
    task.stop()


@pytest.mark.parametrize(("evolve", "told"), [("false", "auto.evolve=true adds columns"), ("true", "cannot be added")])
def test_a_column_that_may_not_be_added_fails_the_task(database: Database, evolve: str, told: str) -> None:
    task, _ = sink_task(JdbcSinkConnector, config(database, auto_evolve=evolve), P0)
    task.put([record(0, Struct(Schema.struct({"id": INT64}), id=1))])
    with pytest.raises(ConnectError, match=told):
        task.put([record(1, Struct(Schema.struct({"id": INT64, "must": STRING}), id=1, must="x"))])
    assert database.rows("SELECT next_offset FROM ottla_connect_offsets") == [(1,)]
    task.stop()


def test_a_missing_table_names_the_key_that_makes_it(database: Database) -> None:
    task, _ = sink_task(JdbcSinkConnector, config(database, auto_create="false"), P0)
    with pytest.raises(ConnectError, match=r"There is no table orders; auto\.create=true"):
        task.put([record(0, order(1))])
    task.stop()


def test_every_type_comes_back(database: Database) -> None:
    everything = Schema.struct(
        {"id": INT32, "price": decimal_schema(4), "day": DATE, "hour": TIME, "at": TIMESTAMP, "ratio": FLOAT64}
    )
    value = Struct(
        everything,
        id=1,
        price=decimal.Decimal("12345678901234567890.1234"),
        day=datetime.date(2026, 2, 28),
        hour=datetime.time(23, 59, 59, 123000),
        at=datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC),
        ratio=0.1,
    )
    task, _ = sink_task(JdbcSinkConnector, config(database), P0)
    task.put([record(0, value)])
    ((price, day, hour, at, ratio),) = database.rows("SELECT price, day, hour, at, ratio FROM orders")
    assert str(price) == "12345678901234567890.1234"
    assert (str(day), str(hour), ratio) == ("2026-02-28", "23:59:59.123000", 0.1)
    assert str(at).startswith("2026-01-02 03:04:05.678")
    task.stop()


def test_toast_unchanged_to_jdbc_sink(database: Database) -> None:
    """A column that Debezium did not send keeps its value, one record later and within one batch."""
    row = Schema.struct({"id": INT64, "small": STRING, "large": STRING}, optional=True)
    envelope = Schema.struct({"before": row, "after": row, "source": STRING, "op": STRING})

    def change(offset: int, op: str, large: str, small: str = "s") -> Any:
        after = Struct(row, id=1, small=small, large=large)
        return record(offset, Struct(envelope, after=after, source="x", op=op), key=1)

    task, _ = sink_task(JdbcSinkConnector, config(database, **UPSERT), P0)
    task.put([change(0, "c", "huge"), change(1, "u", "__debezium_unavailable_value", "t")])
    assert database.rows("SELECT small, large FROM orders") == [("t", "huge")]
    task.put([change(2, "u", "__debezium_unavailable_value", "u")])
    assert database.rows("SELECT small, large FROM orders") == [("u", "huge")]
    task.stop()


def test_json_without_a_schema_fills_a_table_and_null_is_null(database: Database) -> None:
    task, given = sink_task(JdbcSinkConnector, config(database, **UPSERT), P0)
    task.put([record(0, {"id": 1, "note": "a", "tags": None}, key=1), record(1, {"id": 2, "n": [1]}, key=2)])
    task.put([record(2, {"id": 1, "note": None}, key=1)])
    assert database.rows("SELECT id, note FROM orders") == [(1, None)]
    assert given.rejected == [(1, "the field n is a list, for which there is no column (Flatten)")]
    task.stop()


def test_update_leaves_out_rows_that_are_not_there(database: Database) -> None:
    database.run("CREATE TABLE orders (id BIGINT PRIMARY KEY, note TEXT)", "INSERT INTO orders VALUES (1, 'old')")
    task, _ = sink_task(
        JdbcSinkConnector, config(database, insert_mode="update", pk_mode="record_value", pk_fields="id"), P0
    )
    task.put([record(0, {"id": 1, "note": "new"}), record(1, {"id": 2, "note": "new"})])
    assert database.rows("SELECT id, note FROM orders") == [(1, "new")]
    task.stop()


def test_the_place_in_kafka_is_a_key(database: Database) -> None:
    task, _ = sink_task(JdbcSinkConnector, config(database, pk_mode="kafka", insert_mode="upsert"), P0)
    task.put([record(7, {"a": 1})])
    assert database.rows("SELECT __connect_topic, __connect_offset, a FROM orders") == [("orders", 7, 1)]
    task.stop()


def test_a_database_that_goes_away_is_asked_again(postgres: Postgres) -> None:
    """1. The server is killed: the batch is to come again.  2. The server is back: it is written once."""
    database = Database(postgres.url)
    database.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    database.engine.dispose()
    task, _ = sink_task(JdbcSinkConnector, config(database), P0)
    task.put([record(0, order(0))])
    postgres.kill()
    try:
        with pytest.raises(RetriableError):
            task.put([record(1, order(1))])
    finally:
        postgres.start()
    for _ in range(3):
        try:
            task.put([record(1, order(1))])
            break
        except RetriableError:  # the other connection of the pool was to the dead server
            pass
    assert database.rows("SELECT id FROM orders ORDER BY id") == [(0,), (1,)]
    database.engine.dispose()
    task.stop()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"connection.url": "jdbc:oracle:thin:@x"}, "no address|names the database"),
        ({"insert.mode": "upsert"}, "needs a key"),
        ({"delete.enabled": "true"}, "pk.mode=record_key"),
        ({"pk.mode": "kafka", "pk.fields": "a"}, "three columns"),
    ],
)
def test_contradictions_are_refused_at_once(given: dict[str, str], told: str, tmp_path: Path) -> None:
    base = {"name": "x", "connection.url": f"jdbc:sqlite:{tmp_path}/x.db"}
    with pytest.raises(ConfigError, match=told):
        sink_task(JdbcSinkConnector, base | given)


def test_a_password_is_in_no_message() -> None:
    url = "jdbc:postgresql://someone:secret@127.0.0.1:1/x?connect_timeout=1"
    with pytest.raises(ConnectError) as caught:
        sink_task(JdbcSinkConnector, {"name": "x", "connection.url": url, "max.retries": "0"})
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_programs_are_looked_for() -> None:
    assert programs() is None or (programs() or Path()).is_dir()
