"""JdbcSourceConnector on SQLite and on a real PostgreSQL, without a broker; the order of pages by itself."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.connect.library.conftest import source_task
from tests.connect.library.test_jdbc_sink import Database
from tests.support.postgres import Postgres

from ottla.connect import ConfigError, ConnectError, RetriableError
from ottla.connect.library.jdbc import JdbcSourceConnector
from ottla.connect.library.jdbc.pages import Mark, Reader, mark_of


def at(micros: int) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=micros)


def config(url: str, **more: str) -> dict[str, str]:
    base = {"name": "from-shop", "connection.url": url, "table.whitelist": "items", "topic.prefix": "shop."}
    return base | {name.replace("_", "."): value for name, value in more.items()}


def drain(task: Any, kept: dict[str, dict[str, Any]], rounds: int = 1) -> list[Any]:
    """Return what polls bring until there is nothing, so many times; offsets are written down."""
    found, empty = [], 0
    while empty < rounds:
        records = task.poll()
        if not records:
            empty += 1
            continue
        for record in records:
            found.append(record)
            if record.source_offset is not None:
                kept[record.source_partition["table"]] = dict(record.source_offset)
    return found


def clean(postgres: Postgres) -> Database:
    database = Database(postgres.url)
    database.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    database.engine.dispose()
    return database


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_between_any_two_rows_loses_none(seed: int) -> None:
    """Rows with few moments, pages of few rows, a new reader at the offset of a row by chance: each row comes."""
    dice = random.Random(seed)
    mode: Any = dice.choice(["timestamp", "timestamp+incrementing", "incrementing"])
    rows = [
        Mark(at(dice.randrange(6)) if "timestamp" in mode else None, n if "inc" in mode else None) for n in range(40)
    ]
    rows.sort(key=lambda mark: (mark.moment or at(0), mark.number or 0))
    named = list(enumerate(rows))
    seen: set[int] = set()
    offset: dict[str, Any] | None = None
    limit = dice.randrange(2, 6)
    reader = Reader(mode, mark_of(offset), limit)
    for _ in range(1000):
        page = reader.ask(None)
        after = page.after
        if page.at is not None:
            found = [(n, mark) for n, mark in named if mark.moment == page.at]
        else:
            found = [
                (n, mark)
                for n, mark in named
                if after == Mark()
                or (mark.moment or at(0), mark.number or 0) > (after.moment or at(0), after.number or 0)
            ][: page.limit]
        offsets = reader.take([mark for _, mark in found])
        if not found:
            break
        for (n, _), its in zip(found, offsets, strict=False):
            seen.add(n)
            offset = its.as_offset() if its is not None else offset
            if dice.random() < 0.05:
                reader = Reader(mode, mark_of(offset), limit)
                break
    assert seen == set(range(40))


def test_offsets_keep_microseconds_and_are_confluents() -> None:
    mark = Mark(at(1_234_567), 7)
    assert mark.as_offset() == {"incrementing": 7, "timestamp": 1767225601234, "timestamp_nanos": 234567000}
    assert mark_of(mark.as_offset()) == mark
    assert mark_of({"timestamp": 1767225601234}).moment == at(1_234_000)
    with pytest.raises(ConnectError, match="none of a table"):
        mark_of({"timestamp": "yesterday"})


def test_new_and_changed_rows_come_once(postgres: Postgres) -> None:
    """1. Three rows.  2. A restart: none.  3. One is changed, one is new: both come."""
    database = clean(postgres)
    database.run(
        "CREATE TABLE items (id SERIAL PRIMARY KEY, name TEXT, at TIMESTAMPTZ NOT NULL)",
        "INSERT INTO items (name, at) SELECT 'n' || i, '2026-01-01' FROM generate_series(1, 3) i",
    )
    kept: dict[str, dict[str, Any]] = {}
    given = config(
        database.url,
        mode="timestamp+incrementing",
        timestamp_column_name="at",
        incrementing_column_name="id",
        batch_max_rows="2",
    )
    task = source_task(JdbcSourceConnector, given, kept)
    assert [record.value["name"] for record in drain(task, kept)] == ["n1", "n2", "n3"]
    task.stop()
    database.run("UPDATE items SET name = 'changed', at = '2026-01-02' WHERE id = 1")
    database.run("INSERT INTO items (name, at) VALUES ('new', '2026-01-02')")
    task = source_task(JdbcSourceConnector, given, kept)
    records = drain(task, kept)
    assert [record.value["name"] for record in records] == ["changed", "new"]
    assert records[0].topic == "shop.items"
    task.stop()
    database.engine.dispose()


@pytest.mark.parametrize("prepared", [False, True])
def test_row_committed_after_the_poll(postgres: Postgres, prepared: bool) -> None:
    """1. A transaction writes a row and stays open.  2. A later one commits: it waits.  3. The first commits: both come."""
    database = clean(postgres)
    database.run("CREATE TABLE items (id SERIAL PRIMARY KEY, at TIMESTAMPTZ NOT NULL DEFAULT now())")
    kept: dict[str, dict[str, Any]] = {}
    given = config(
        database.url, mode="timestamp+incrementing", timestamp_column_name="at", incrementing_column_name="id"
    )
    task = source_task(JdbcSourceConnector, given, kept)
    with psycopg.connect(postgres.conninfo, autocommit=True) as slow, psycopg.connect(postgres.conninfo) as quick:
        slow.execute("BEGIN")
        slow.execute("INSERT INTO items DEFAULT VALUES")
        if prepared:
            slow.execute("PREPARE TRANSACTION 'held'")
        quick.execute("INSERT INTO items DEFAULT VALUES")
        quick.commit()
        assert drain(task, kept, 3) == []
        slow.execute("COMMIT PREPARED 'held'" if prepared else "COMMIT")
    found: list[int] = []
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=30)
    while len(found) < 2:
        assert datetime.datetime.now() < deadline
        found += [record.value["id"] for record in drain(task, kept)]
    assert found == [1, 2]
    task.stop()
    database.engine.dispose()


def test_types_of_postgresql(postgres: Postgres) -> None:
    database = clean(postgres)
    database.run(
        "CREATE TABLE items (a SMALLINT, b INT, c BIGINT, d REAL, e DOUBLE PRECISION, f BOOLEAN, g NUMERIC(10,2), h NUMERIC, "
        "i DATE, j TIME, k TIMESTAMP, l TIMESTAMPTZ, m BYTEA, n UUID, o JSONB, p TEXT[], q INTERVAL, r VARCHAR(9) NOT NULL)",
        "INSERT INTO items VALUES (1, 2, 3, 0.5, 0.1, true, 12345678.90, 0.12345, '2026-02-03', '01:02:03.004', "
        "'2026-02-03 04:05:06.789', '2026-02-03 04:05:06.789+02', '\\x00ff', "
        "'00000000-0000-0000-0000-000000000001', '{\"x\": 1}', '{a,b}', '1 day', 'r')",
        "INSERT INTO items (r) VALUES ('empty')",
    )
    task = source_task(JdbcSourceConnector, config(database.url, mode="bulk"), {})
    full, empty = drain(task, {})
    assert {name: str(value) for name, value in full.value.items()} == {
        "a": "1", "b": "2", "c": "3", "d": "0.5", "e": "0.1", "f": "True", "g": "12345678.90", "h": "0.12345",
        "i": "2026-02-03", "j": "01:02:03.004000", "k": "2026-02-03 04:05:06.789000+00:00",
        "l": "2026-02-03 02:05:06.789000+00:00", "m": "b'\\x00\\xff'", "n": "00000000-0000-0000-0000-000000000001",
        "o": '{"x": 1}', "p": "{a,b}", "q": "1 day", "r": "r",
    }  # fmt: skip
    assert [name for name, value in empty.value.items() if value is not None] == ["r"]
    assert not full.value_schema.field("r").schema.optional
    task.stop()
    database.engine.dispose()


def test_moments_of_sqlite_are_compared_as_moments(tmp_path: Path) -> None:
    """Texts of several lengths and with a T; rows of one second with and without a fraction."""
    database = Database(f"jdbc:sqlite:{tmp_path}/shop.db")
    database.run(
        "CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, at TIMESTAMP NOT NULL)",
        "INSERT INTO items VALUES (1, '2026-01-01 00:00:00'), (2, '2026-01-01T00:00:00'), (3, '2026-01-01 00:00:00.5'), "
        "(4, '2026-01-01 00:00:00.000001'), (5, '2126-01-01 00:00:00')",
    )
    kept: dict[str, dict[str, Any]] = {}
    given = config(database.url, mode="timestamp+incrementing", batch_max_rows="1")
    given |= {"timestamp.column.name": "at", "incrementing.column.name": "id"}
    task = source_task(JdbcSourceConnector, given, kept)
    assert [record.value["id"] for record in drain(task, kept)] == [1, 2, 4, 3]
    task.stop()
    database.engine.dispose()


def test_tables_are_shared_by_tasks_and_views_are_tables(tmp_path: Path) -> None:
    database = Database(f"jdbc:sqlite:{tmp_path}/shop.db")
    database.run("CREATE TABLE one (a INT)", "CREATE TABLE two (a INT)", "CREATE VIEW odd AS SELECT 7 AS a")
    given = config(database.url, mode="bulk") | {"table.whitelist": "o*, two"}
    made = JdbcSourceConnector(given, JdbcSourceConnector.CONFIG.parse(given))
    assert [part["ottla.tables"] for part in made.task_configs(2)] == ["one\ntwo", "odd"]
    database.engine.dispose()


def test_a_table_that_is_not_there_yet_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once; when the table is there its rows come. If it goes away then, the task fails."""
    url = f"jdbc:sqlite:{tmp_path}/shop.db"
    task = source_task(JdbcSourceConnector, config(url, mode="incrementing", incrementing_column_name="id"), {})
    waits: list[str | None] = []
    task.context.on_waiting = waits.append
    assert [task.poll(), task.poll()] == [None, None]
    assert waits == ["There is no table items yet; it is looked for every 5000 ms"]
    said = [record.getMessage() for record in caplog.records if "no table" in record.getMessage()]
    assert said == ["connector from-shop: There is no table items yet; it is looked for every 5000 ms"]
    database = Database(url)
    database.run("CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    assert [record.value["id"] for record in task.poll()] == [1]
    assert waits[1:] == [None]
    database.run("DROP TABLE items")
    with pytest.raises(ConnectError, match="no such table"):
        task.poll()
    task.stop()
    database.engine.dispose()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"table.whitelist": "none*"}, "There is no table none"),
        ({"mode": "timestamp"}, "needs timestamp.column.name"),
        ({"mode": "incrementing", "incrementing.column.name": "b"}, "no column b"),
        ({"mode": "incrementing", "incrementing.column.name": "a"}, "may be null"),
        ({"query": "SELECT 1"}, "make a view"),
        ({"db.timezone": "Mars/One"}, "Invalid time zone"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, more: dict[str, str], told: str) -> None:
    database = Database(f"jdbc:sqlite:{tmp_path}/shop.db")
    database.run("CREATE TABLE items (a INT)")
    database.engine.dispose()
    with pytest.raises((ConfigError, ConnectError), match=told):
        source_task(JdbcSourceConnector, config(database.url, mode="bulk") | more, {}).poll()


def test_a_server_that_is_away_is_asked_again(postgres: Postgres) -> None:
    database = clean(postgres)
    database.run("CREATE TABLE items (id INT NOT NULL)", "INSERT INTO items VALUES (1)")
    database.engine.dispose()
    given = config(database.url, mode="incrementing", incrementing_column_name="id")
    task = source_task(JdbcSourceConnector, given, {})
    assert [record.value["id"] for record in task.poll()] == [1]
    postgres.kill()
    try:
        with pytest.raises(RetriableError):
            drain(task, {}, 2)
    finally:
        postgres.start()
    database.run("INSERT INTO items VALUES (2)")
    found: list[int] = []
    for _ in range(4):
        try:
            found += [record.value["id"] for record in task.poll() or ()]
        except RetriableError:
            pass
    assert found == [2]
    task.stop()
    database.engine.dispose()


@pytest.mark.parametrize("mode", ["timestamp", "timestamp+incrementing"])
def test_a_row_of_the_first_moment_comes(tmp_path: Path, mode: str) -> None:
    url = f"jdbc:sqlite:{tmp_path}/shop.db"
    database = Database(url)
    database.run(
        "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, at TIMESTAMP NOT NULL)",
        "INSERT INTO t VALUES (1, '2019-12-31 23:59:59.999'), (2, '2020-01-01 00:00:00'), (3, '2020-01-02 00:00:00')",
    )
    database.engine.dispose()
    given = {
        "name": "from-shop",
        "connection.url": url,
        "table.whitelist": "t",
        "mode": mode,
        "timestamp.column.name": "at",
        "incrementing.column.name": "id",
        "timestamp.initial": "1577836800000",
    }
    task = source_task(JdbcSourceConnector, given, {})
    assert [record.value["id"] for record in task.poll()] == [2, 3]
    task.stop()
