"""FilesSinkConnector on a folder, without a broker: killed at every step, and read by pyarrow and polars."""

from __future__ import annotations

import datetime
import decimal
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import polars
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from tests.connect.library.conftest import record, sink_task

from ottla import TopicPartition
from ottla.connect import (
    DATE,
    INT32,
    INT64,
    OPTIONAL_INT64,
    OPTIONAL_STRING,
    STRING,
    TIME,
    TIMESTAMP,
    ConfigError,
    ConnectError,
    RetriableError,
    Schema,
    SinkRecord,
    Struct,
    decimal_schema,
)
from ottla.connect.library.files import FilesSinkConnector
from ottla.connect.library.files import sink as sink_module
from ottla.connect.library.files.plan import PartitionPlan, widened

P0 = TopicPartition("orders", 0)
ORDER = Schema.struct({"id": INT64, "shop": STRING}, name="order")


def order(offset: int, shop: str = "a", **more: Any) -> SinkRecord:
    return record(offset, Struct(ORDER, id=offset, shop=shop), value_schema=ORDER, timestamp=1_767_225_600_000, **more)


def config(folder: Path, **more: str) -> dict[str, str]:
    base = {"name": "lake", "store.url": folder.as_uri(), "flush.size": "3", "rotate.interval.ms": "600000"}
    return base | {name.replace("_", "."): value for name, value in more.items()}


def files(folder: Path, ending: str = "parquet") -> list[Path]:
    return sorted(folder.glob(f"topics/orders/**/*.{ending}"))


def ids(folder: Path) -> Counter[int]:
    return Counter(
        number for path in files(folder) for number in pq.read_table(path, partitioning=None)["id"].to_pylist()
    )


def test_files_are_named_by_their_offsets_and_only_they_are_committed(tmp_path: Path) -> None:
    task, given = sink_task(FilesSinkConnector, config(tmp_path), P0)
    assert given.sought == {}
    task.put([order(offset) for offset in range(7)])
    assert [path.name for path in files(tmp_path)] == [
        "orders+0+0000000000-0000000003.id-of-or.parquet",
        "orders+0+0000000003-0000000006.id-of-or.parquet",
    ]
    assert task.pre_commit({P0: 7}) == {P0: 6}
    assert ids(tmp_path) == Counter(range(6))


class _Killed(BaseException):
    """The process has ended here."""


@pytest.mark.parametrize("seed", range(30))
def test_a_kill_at_any_write_leaves_each_record_in_one_file(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is killed before or after a write to the store, by chance, and another goes on where it says; batches and
    the sizes at which files are closed differ each time, as they do with a clock."""
    dice = random.Random(seed)
    write = obstore.put
    left = dice.randrange(1, 8)

    def put(store: Any, path: str, data: Any, **more: Any) -> Any:
        nonlocal left
        if "probe" in path:
            return write(store, path, data, **more)
        left -= 1
        if left == 0 and dice.random() < 0.5:
            raise _Killed
        done = write(store, path, data, **more)
        if left <= 0:
            raise _Killed
        return done

    monkeypatch.setattr(obstore, "put", put)
    given = config(tmp_path) | {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"}
    log = [order(offset, dice.choice("abc")) for offset in range(60) if dice.random() < 0.9]
    committed = 0
    for _ in range(200):
        left = dice.randrange(1, 8)
        task, told = sink_task(FilesSinkConnector, given | {"flush.size": str(dice.randrange(2, 9))}, P0)
        position = told.sought.get(P0, committed)
        try:
            while position < 60:
                size = dice.randrange(1, 9)
                task.put([item for item in log if position <= item.offset < position + size])
                position += size
                committed = task.pre_commit({P0: position}).get(P0, committed)
        except _Killed:
            continue
        monkeypatch.setattr(obstore, "put", write)
        for plan in task._plans.values():
            plan.rotate_ms = 0
        task.pre_commit({P0: 60})
        break
    assert ids(tmp_path) == Counter(item.offset for item in log)


def test_kill_between_two_partition_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. A range has two folders; the task is killed between their files.  2. The next one begins at the start of the
    range, and ends it where the intent says, though it would close files later itself."""
    by_shop = {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"}
    write, written = obstore.put, []

    def put(store: Any, path: str, data: Any, **more: Any) -> Any:
        done = write(store, path, data, **more)
        written.append(path)
        if path.endswith(".parquet"):
            raise _Killed
        return done

    task, _ = sink_task(FilesSinkConnector, config(tmp_path) | by_shop, P0)
    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(_Killed):
        task.put([order(0, "a"), order(1, "b"), order(2, "a")])
    monkeypatch.setattr(obstore, "put", write)
    assert len(files(tmp_path)) == 1
    task, given = sink_task(FilesSinkConnector, config(tmp_path, flush_size="100") | by_shop, P0)
    assert given.sought == {P0: 0}
    task.put([order(0, "a"), order(1, "b"), order(2, "a"), order(3, "a")])
    assert {path.parent.name: path.name for path in files(tmp_path)} == {
        "shop=a": "orders+0+0000000000-0000000003.id-of-or.parquet",
        "shop=b": "orders+0+0000000000-0000000003.id-of-or.parquet",
    }
    assert ids(tmp_path) == Counter(range(3))
    assert task.pre_commit({P0: 4}) == {P0: 3}


def test_zombie_publishes_after_rebalance(tmp_path: Path) -> None:
    """1. A task holds two records when it loses the partition without noticing.  2. The new owner holds three, and so on:
    whoever is first, both write the ranges of the first one, and each record is in one file."""
    zombie, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="4"), P0)
    zombie.put([order(0), order(1)])
    owner, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="3"), P0)
    owner.put([order(0), order(1)])
    zombie.put([order(2), order(3)])  # closes 0 to 4
    owner.put([order(offset) for offset in range(2, 9)])  # meets the intent, and goes on from 4
    zombie.put([order(offset) for offset in range(4, 9)])  # meets those of the owner
    assert [path.name[9:32] for path in files(tmp_path)] == ["0000000000-0000000004.i", "0000000004-0000000007.i"]
    assert ids(tmp_path) == Counter(range(7))
    assert owner.pre_commit({P0: 9}) == zombie.pre_commit({P0: 9}) == {P0: 7}


def test_clock_rotation_then_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the clock closed has the same end after a kill, whatever the clock says then."""
    now = 1000
    monkeypatch.setattr(sink_module, "_now_ms", lambda: now)
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="100", rotate_interval_ms="500"), P0)
    task.put([order(0), order(1)])
    assert task.pre_commit({P0: 2}) == {}
    now = 1600
    write = obstore.put

    def put(store: Any, path: str, data: Any, **more: Any) -> Any:
        if path.endswith(".parquet"):
            raise _Killed
        return write(store, path, data, **more)

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(_Killed):
        task.pre_commit({P0: 2})
    monkeypatch.setattr(obstore, "put", write)
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="100", rotate_interval_ms="500"), P0)
    task.put([order(0), order(1), order(2)])
    assert [path.name[9:30] for path in files(tmp_path)] == ["0000000000-0000000002"]
    assert task.pre_commit({P0: 3}) == {P0: 2}


def test_a_store_that_fails_for_a_while_gets_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = sink_task(FilesSinkConnector, config(tmp_path), P0)
    write, failures = obstore.put, 3

    def put(*given: Any, **more: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise obstore.exceptions.GenericError("No space left on device")
        return write(*given, **more)

    monkeypatch.setattr(obstore, "put", put)
    batch = [order(offset) for offset in range(4)]
    for _ in range(3):
        with pytest.raises(RetriableError, match="No space left"):
            task.put(batch)
    task.put(batch)
    assert ids(tmp_path) == Counter(range(4))


def test_what_was_rejected_is_said_again_when_the_batch_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A record is rejected, the next ones close a file that the store does not take.  2. The batch comes again: the record
    is rejected once more, as what a failed call has rejected does not count."""
    task, given = sink_task(FilesSinkConnector, config(tmp_path), P0)
    write, failures = obstore.put, 1

    def put(*more: Any, **named: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise obstore.exceptions.GenericError("No space left on device")
        return write(*more, **named)

    monkeypatch.setattr(obstore, "put", put)
    batch = [order(0), record(1, None), order(2), order(3)]
    with pytest.raises(RetriableError, match="No space left"):
        task.put(batch)
    given.rejected = []
    task.put(batch)
    assert [offset for offset, _ in given.rejected] == [1]
    assert ids(tmp_path) == Counter([0, 2, 3])


def test_a_new_field_widens_the_open_file_and_another_type_closes_it(tmp_path: Path) -> None:
    """Old rows have null in a new column; a text where a number was begins another file."""
    newer = Schema.struct({"id": INT64, "shop": STRING, "note": OPTIONAL_STRING}, name="order")
    other = Schema.struct({"id": STRING, "shop": STRING}, name="order")
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="4"), P0)
    task.put([order(0), record(1, Struct(newer, id=1, shop="b", note="n"), value_schema=newer), order(2)])
    task.put([record(offset, Struct(other, id="x", shop="b"), value_schema=other) for offset in range(3, 7)])
    first, second = (pq.read_table(path) for path in files(tmp_path))
    assert first["note"].to_pylist() == [None, "n", None]
    assert str(second.schema.field("id").type) == "string"
    assert task._plans[P0].rotations_for_schemas == 1


def test_alternating_schemas(tmp_path: Path) -> None:
    """Two producers, one with the new field: still one file for flush.size records."""
    newer = Schema.struct({"id": INT64, "shop": STRING, "note": OPTIONAL_STRING}, name="order")
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="100"), P0)
    for offset in range(0, 100, 2):
        task.put([order(offset), record(offset + 1, Struct(newer, id=1, shop="b"), value_schema=newer)])
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (INT32, INT64, INT64),
        (INT64, STRING, None),
        (decimal_schema(2), decimal_schema(3), None),
        (TIMESTAMP, INT64, None),
        (Schema.array(INT32), Schema.array(OPTIONAL_INT64), Schema.array(OPTIONAL_INT64)),
    ],
)
def test_widened(one: Schema, other: Schema, both: Schema | None) -> None:
    assert widened(one, other) == widened(other, one) == both


def test_every_type_is_read_by_others(tmp_path: Path) -> None:
    inner = Schema.struct({"x": INT32})
    everything = Schema.struct(
        {
            "price": decimal_schema(2),
            "day": DATE,
            "hour": TIME,
            "at": TIMESTAMP,
            "tags": Schema.array(STRING),
            "counts": Schema.map(STRING, INT32),
            "inner": inner,
        }
    )
    value = Struct(
        everything,
        price=decimal.Decimal("-1.50"),
        day=datetime.date(2026, 1, 2),
        hour=datetime.time(1, 2, 3),
        at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        tags=["a", "b"],
        counts={"k": 1},
        inner=Struct(inner, x=7),
    )
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="1"), P0)
    task.put([record(0, value, value_schema=everything)])
    (path,) = files(tmp_path)
    (row,) = pq.read_table(path).to_pylist()
    assert row == {
        "price": decimal.Decimal("-1.50"),
        "day": datetime.date(2026, 1, 2),
        "hour": datetime.time(1, 2, 3),
        "at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "tags": ["a", "b"],
        "counts": [("k", 1)],
        "inner": {"x": 7},
    }
    assert polars.read_parquet(path)["tags"].to_list() == [["a", "b"]]


def test_folders_of_fields_are_read_as_columns(tmp_path: Path) -> None:
    by_shop = {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"}
    task, given = sink_task(FilesSinkConnector, config(tmp_path) | by_shop, P0)
    task.put([order(0, "a/b"), order(1, "ü=1"), order(2, "a/b"), record(3, {"id": 1})])
    assert {path.parent.name for path in files(tmp_path)} == {"shop=a%2Fb", "shop=ü%3D1"}
    read = pyarrow.dataset.dataset(tmp_path / "topics" / "orders", partitioning="hive").to_table()
    assert sorted(read["shop"].to_pylist()) == ["a/b", "a/b", "ü=1"]
    assert given.rejected == [(3, "the value has no field shop, which names its folder")]


def test_folders_of_times(tmp_path: Path) -> None:
    by_time = {"partitioner.class": "io.confluent.connect.storage.partitioner.TimeBasedPartitioner"}
    given = config(tmp_path) | by_time | {"path.format": "'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH"}
    task, _ = sink_task(FilesSinkConnector, given, P0)
    task.put([order(offset) for offset in range(3)])
    (path,) = files(tmp_path)
    assert str(path.relative_to(tmp_path).parent) == "topics/orders/year=2026/month=01/day=01/hour=00"


def test_json_lines_and_csv(tmp_path: Path) -> None:
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, format="jsonl"), P0)
    task.put([record(0, {"a": 1, "b": [2]}), record(1, "text"), record(2, {"a": None})])
    (path,) = files(tmp_path, "jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1, "b": [2]}, "text", {"a": None}]
    task, given = sink_task(FilesSinkConnector, config(tmp_path, format="csv") | {"name": "other"}, P0)
    task.put([record(0, {"a": 1, "b": 'x,"y'}), record(1, {"a": [1]}), record(2, {"a": 2, "c": True}), record(3, {})])
    (path,) = files(tmp_path, "csv")
    assert path.read_text() == 'a,b,c\n1,"x,""y",\n2,,true\n,,\n'
    assert [offset for offset, _ in given.rejected] == [1]


def test_what_is_no_row_is_a_dead_letter(tmp_path: Path) -> None:
    task, given = sink_task(FilesSinkConnector, config(tmp_path), P0)
    task.put([record(0, None), record(1, "text"), order(2), order(3), order(4)])
    assert [offset for offset, _ in given.rejected] == [0, 1]
    assert ids(tmp_path) == Counter([2, 3, 4])


def test_an_intent_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    task, _ = sink_task(FilesSinkConnector, config(tmp_path), P0)
    task.put([order(offset) for offset in range(3)])
    (intent,) = (path for path in (tmp_path / "topics" / "_intents" / "lake").rglob("*") if path.is_file())
    intent.write_text("not one")
    with pytest.raises(ConnectError, match="is no intent"):
        sink_task(FilesSinkConnector, config(tmp_path), P0)


def test_old_intents_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_KEPT_INTENTS", 2)
    task, _ = sink_task(FilesSinkConnector, config(tmp_path, flush_size="1"), P0)
    task.put([order(offset) for offset in range(20)])
    left = [path for path in (tmp_path / "topics" / "_intents" / "lake").glob("**/*") if path.is_file()]
    assert 2 <= len(left) <= 4


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"store.url": "lake"}, "an address such as file"),
        ({"store.url": "hdfs://namenode:8020/lake"}, "HDFS is reached by HTTP"),
        ({"store.url": "webhdfs://me@namenode:x/lake"}, "webhdfs://host:port/folder is needed"),
        ({"store.url": "webhdfs://namenode/lake", "store.option.usr": "me"}, "no store.option.usr for HDFS"),
        ({"partitioner.class": "FieldPartitioner"}, "needs partition.field.name"),
        ({"format": "orc"}, "must be one of: parquet, jsonl, csv"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, more: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sink_task(FilesSinkConnector, config(tmp_path) | more, P0)


def test_records_that_come_again_are_in_the_plan_once() -> None:
    plan = PartitionPlan(10, 1000)
    take: Callable[[int], Any] = lambda offset: plan.take(order(offset), 0)  # noqa: E731
    for offset in (0, 1, 0, 1, 2):
        take(offset)
    assert [item.offset for item in plan.records] == [0, 1, 2]
