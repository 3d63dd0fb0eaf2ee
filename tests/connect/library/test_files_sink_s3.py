"""FilesSinkConnector on a real S3 server, versitygw, without a broker: kills, refused keys, buckets that are not there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.connect.library.conftest import record, sink_task
from tests.support.s3 import S3, program

from ottla import TopicPartition
from ottla.connect import INT64, STRING, ConnectError, RetriableError, Schema, SinkRecord, Struct
from ottla.connect.library.files import FilesSinkConnector
from ottla.connect.library.files.stores import Objects, open_store

pytestmark = pytest.mark.servers
P0 = TopicPartition("orders", 0)
ORDER = Schema.struct({"id": INT64, "shop": STRING}, name="order")
#: More than a part of an upload in parts.
LONG = 12 * 1024 * 1024


@pytest.fixture
def s3() -> Iterator[S3]:
    found, reason = program()
    if found is None:
        pytest.skip(reason)
    with S3() as server:
        yield server


def order(offset: int, shop: str = "a") -> SinkRecord:
    return record(offset, Struct(ORDER, id=offset, shop=shop), value_schema=ORDER)


def config(s3: S3, **more: str) -> dict[str, str]:
    base = {"name": "lake", "flush.size": "3", "rotate.interval.ms": "600000"} | s3.settings
    return base | {name.replace("_", "."): value for name, value in more.items()}


def objects(s3: S3, ending: str = "parquet") -> dict[str, bytes]:
    """Return the files of the topic, by name, as a client reads them."""
    given = config(s3)
    opened = open_store(given, FilesSinkConnector.CONFIG.parse(given))
    assert isinstance(opened, Objects)
    store = opened.objects
    paths = sorted(entry["path"] for part in obstore.list(store, "topics/orders/") for entry in part)
    return {path: bytes(obstore.get(store, path).bytes()) for path in paths if path.endswith(ending)}


def ids(s3: S3) -> Counter[int]:
    found: Counter[int] = Counter()
    for data in objects(s3).values():
        found.update(pq.read_table(pa.BufferReader(data))["id"].to_pylist())
    return found


class _Killed(BaseException):
    """The process has ended here."""


def test_files_of_a_bucket_are_named_by_their_offsets(s3: S3) -> None:
    task, given = sink_task(FilesSinkConnector, config(s3), P0)
    assert given.sought == {}
    task.put([order(offset) for offset in range(7)])
    assert list(objects(s3)) == [
        "topics/orders/orders+0+0000000000-0000000003.id-of-or.parquet",
        "topics/orders/orders+0+0000000003-0000000006.id-of-or.parquet",
    ]
    assert task.pre_commit({P0: 7}) == {P0: 6}
    _, given = sink_task(FilesSinkConnector, config(s3), P0)
    assert given.sought == {P0: 6}


@pytest.mark.parametrize("seed", range(10))
def test_kills_of_task_and_server_leave_each_record_in_one_file(
    seed: int, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or after a request that writes, by chance, the task ends as by a kill, or the server is killed: the request
    fails or its answer is lost. The server comes back when the worker tries again; the next task goes on where it says."""
    dice = random.Random(seed)
    write = obstore.put
    left, victim = 0, ""

    def put(store: Any, path: str, data: Any, **more: Any) -> Any:
        nonlocal left
        if "probe" in path:
            return write(store, path, data, **more)
        left -= 1
        early = dice.random() < 0.5
        if left == 0 and victim == "server":
            if not early:
                write(store, path, data, **more)
            s3.kill()
            raise obstore.exceptions.GenericError("the connection is closed")
        if left == 0 and early:
            raise _Killed
        done = write(store, path, data, **more)
        if left == 0:
            raise _Killed
        return done

    def put_again(task: Any, batch: list[SinkRecord]) -> None:
        """Try as the worker does."""
        for _ in range(5):
            try:
                task.put(batch)
                return
            except RetriableError:
                s3.start()
        raise AssertionError("five failures in a row")

    monkeypatch.setattr(obstore, "put", put)
    by_shop = config(s3) | {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"}
    log = [order(offset, dice.choice("ab")) for offset in range(40) if dice.random() < 0.9]
    committed, kills = 0, 0
    while True:
        left, victim = dice.randrange(1, 7), dice.choice(["task", "server"])
        if kills == 6:
            left = 0  # nothing more is killed
        task, told = sink_task(FilesSinkConnector, by_shop | {"flush.size": str(dice.randrange(2, 9))}, P0)
        position = told.sought.get(P0, committed)
        try:
            while position < 40:
                size = dice.randrange(1, 9)
                batch = [item for item in log if position <= item.offset < position + size]
                put_again(task, batch)
                position += size
                committed = task.pre_commit({P0: position}).get(P0, committed)
        except _Killed:
            kills += 1
            continue
        left = 0
        for plan in task._plans.values():
            plan.rotate_ms = 0
        task.pre_commit({P0: 40})
        break
    assert ids(s3) == Counter(item.offset for item in log)


def test_zombie_publishes_after_rebalance_on_s3(s3: S3) -> None:
    """Two tasks believe that they have the partition: the server lets one make each intent and file, the other follows."""
    zombie, _ = sink_task(FilesSinkConnector, config(s3, flush_size="4"), P0)
    zombie.put([order(0), order(1)])
    owner, _ = sink_task(FilesSinkConnector, config(s3), P0)
    owner.put([order(0), order(1)])
    zombie.put([order(2), order(3)])
    owner.put([order(offset) for offset in range(2, 9)])
    zombie.put([order(offset) for offset in range(4, 9)])
    assert ids(s3) == Counter(range(7))


@pytest.mark.parametrize("early", [True, False])
def test_multipart_left_behind(early: bool, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is longer than a part goes up in one request, so that a kill leaves no parts that somebody pays for.

    1. An upload in parts that is not completed is seen by the test.  2. The server and the task are killed in front of or
    right behind the request of a long file.  3. The next task has the file once, and no further upload has been left."""
    given = config(s3, format="jsonl", flush_size="1")
    opened = open_store(given, FilesSinkConnector.CONFIG.parse(given))
    assert isinstance(opened, Objects)
    store = opened.objects
    writer = obstore.open_writer(store, "left", buffer_size=5 * 1024 * 1024)
    writer.write(b"x" * LONG)
    writer.flush()
    assert s3.unfinished_uploads() == 1

    task, _ = sink_task(FilesSinkConnector, given, P0)
    write = obstore.put

    def put(store: Any, path: str, data: Any, **more: Any) -> Any:
        if not path.endswith("jsonl"):
            return write(store, path, data, **more)
        if not early:
            write(store, path, data, **more)
        s3.kill()
        raise _Killed

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(_Killed):
        task.put([record(0, "x" * LONG)])
    monkeypatch.setattr(obstore, "put", write)
    s3.start()
    task, told = sink_task(FilesSinkConnector, given, P0)
    assert told.sought == {P0: 0}
    task.put([record(0, "x" * LONG)])
    assert [len(data) for data in objects(s3, "jsonl").values()] == [LONG + 3]
    assert s3.unfinished_uploads() == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"store.option.secret_access_key": "wrong"}, "refuses the keys"),
        ({"store.option.access_key_id": "nobody"}, "refuses the keys"),
        ({"store.url": "s3://no-such-bucket"}, "has no such bucket"),
    ],
)
def test_what_the_server_refuses_is_one_sentence(s3: S3, more: dict[str, str], told: str) -> None:
    with pytest.raises(ConnectError) as caught:
        sink_task(FilesSinkConnector, config(s3) | more, P0)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "<" not in str(caught.value)
    assert "password-of-tester" not in str(caught.value)


def test_a_bucket_that_vanishes_fails_the_task_and_loses_nothing(s3: S3) -> None:
    """1. A file is written.  2. The bucket is gone, which no retry mends.  3. It is back: a new task has the rest."""
    task, _ = sink_task(FilesSinkConnector, config(s3), P0)
    task.put([order(offset) for offset in range(3)])
    away = s3.bucket_folder.with_name("away")
    s3.bucket_folder.rename(away)
    with pytest.raises(ConnectError, match="has no such bucket"):
        task.put([order(offset) for offset in range(3, 6)])
    away.rename(s3.bucket_folder)
    task, told = sink_task(FilesSinkConnector, config(s3), P0)
    assert told.sought == {P0: 3}
    task.put([order(offset) for offset in range(3, 6)])
    assert ids(s3) == Counter(range(6))
