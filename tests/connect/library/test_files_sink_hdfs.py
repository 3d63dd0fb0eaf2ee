"""FilesSinkConnector on a real HDFS, through WebHDFS: renames that are refused, kills, safe mode, permissions."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.connect.library.conftest import record, sink_task
from tests.support.hdfs import Hdfs, program

from ottla import TopicPartition
from ottla.connect import INT64, STRING, ConnectError, RetriableError, Schema, SinkRecord, Struct
from ottla.connect.library.files import FilesSinkConnector
from ottla.connect.library.files.webhdfs import WebHdfs

pytestmark = pytest.mark.servers
P0 = TopicPartition("orders", 0)
ORDER = Schema.struct({"id": INT64, "shop": STRING}, name="order")


@pytest.fixture(scope="module")
def server() -> Iterator[Hdfs]:
    found, reason = program()
    if not found:
        pytest.skip(reason)
    with Hdfs() as server:
        yield server


@pytest.fixture
def hdfs(server: Hdfs) -> Hdfs:
    """The server, empty."""
    server.ask("DELETE", "/lake", op="DELETE", recursive="true")
    return server


def order(offset: int, shop: str = "a") -> SinkRecord:
    return record(offset, Struct(ORDER, id=offset, shop=shop), value_schema=ORDER)


def config(hdfs: Hdfs, **more: str) -> dict[str, str]:
    base = {"name": "lake", "flush.size": "3", "rotate.interval.ms": "600000"} | hdfs.settings
    return base | {name.replace("_", "."): value for name, value in more.items()}


def ids(hdfs: Hdfs) -> Counter[int]:
    found: Counter[int] = Counter()
    for data in hdfs.files("topics/orders").values():
        found.update(pq.read_table(pa.BufferReader(data))["id"].to_pylist())
    return found


def store(hdfs: Hdfs) -> WebHdfs:
    return WebHdfs(hdfs.settings["store.url"], {"user": "tester"}, scratch="topics/_temporary/x")


class _Killed(BaseException):
    """The process has ended here."""


def test_files_of_hdfs_are_named_by_their_offsets(hdfs: Hdfs) -> None:
    """Folders with blanks, signs and letters beyond ASCII, too. Nothing is left below `_temporary` when the task stops."""
    by_shop = config(hdfs) | {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"}
    task, given = sink_task(FilesSinkConnector, by_shop, P0)
    assert given.sought == {}
    task.put([order(offset, "Zü rich+50%?#&") for offset in range(7)])
    name = "topics/orders/shop=Zü rich+50%25%3F%23&/orders+0+{}.id-of-or.parquet"
    assert list(hdfs.files("topics/orders")) == [
        name.format("0000000000-0000000003"),
        name.format("0000000003-0000000006"),
    ]
    assert task.pre_commit({P0: 7}) == {P0: 6}
    task.stop()
    assert hdfs.files("topics/_temporary") == {}
    assert hdfs.ask("GET", "/lake/topics/_temporary/lake", op="LISTSTATUS")["FileStatuses"]["FileStatus"] == []
    _, given = sink_task(FilesSinkConnector, by_shop, P0)
    assert given.sought == {P0: 6}


def test_hdfs_rename_refused(hdfs: Hdfs) -> None:
    """1. A NameNode says `false`, with status 200, to a rename to a name that is there.  2. What was there stays, and the
    temporary file is gone.  3. Of eight that make one file at once, one has made it."""
    files = store(hdfs)
    files.create("a/b/file", b"first")
    with pytest.raises(FileExistsError):
        files.create("a/b/file", b"second")
    assert hdfs.files("a") == {"a/b/file": b"first"}
    assert hdfs.files("topics/_temporary") == {}
    files.put("a/b/file", b"third")
    assert files.get("a/b/file") == b"third"
    made: list[bytes] = []

    def make(data: bytes) -> None:
        mine = store(hdfs)
        try:
            mine.create("a/once", data)
            made.append(data)
        except FileExistsError:
            pass
        finally:
            mine.close()

    makers = [threading.Thread(target=make, args=(b"%d" % number,)) for number in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert made == [files.get("a/once")]
    files.close()


@pytest.mark.parametrize("seed", range(6))
def test_kills_of_a_task_leave_each_record_in_one_file(seed: int, hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before or after a request that writes, by chance, the task ends as by a kill: half a file is left, or its answer lost.
    The next task goes on where the store says."""
    dice = random.Random(seed)
    request = WebHdfs._request
    left = 0

    def killed(self: WebHdfs, node: Any, method: str, target: str, body: bytes | None) -> Any:
        nonlocal left
        if method == "GET" or "probe" in target:
            return request(self, node, method, target, body)
        left -= 1
        if left == 0 and dice.random() < 0.5:
            raise _Killed
        done = request(self, node, method, target, body)
        if left == 0:
            raise _Killed
        return done

    monkeypatch.setattr(WebHdfs, "_request", killed)
    log = [order(offset, dice.choice("ab")) for offset in range(30) if dice.random() < 0.9]
    by_shop = config(hdfs) | {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"}
    committed, kills = 0, 0
    while True:
        left = 0
        task, told = sink_task(FilesSinkConnector, by_shop | {"flush.size": str(dice.randrange(2, 9))}, P0)
        left = dice.randrange(1, 16) if kills < 6 else 0
        position = told.sought.get(P0, committed)
        try:
            while position < 30:
                size = dice.randrange(1, 9)
                task.put([item for item in log if position <= item.offset < position + size])
                position += size
                committed = task.pre_commit({P0: position}).get(P0, committed)
        except _Killed:
            kills += 1
            continue
        left = 0
        for plan in task._plans.values():
            plan.rotate_ms = 0
        task.pre_commit({P0: 30})
        task.stop()
        break
    assert ids(hdfs) == Counter(item.offset for item in log)


def test_a_server_that_is_killed_is_asked_again(hdfs: Hdfs) -> None:
    """1. It is killed.  2. Records come again until it is back.  3. Each is there once."""
    task, _ = sink_task(FilesSinkConnector, config(hdfs), P0)
    task.put([order(offset) for offset in range(4)])
    hdfs.kill()
    batch = [order(offset) for offset in range(4, 9)]
    with pytest.raises(RetriableError, match="does not do it now"):
        task.put(batch)
    hdfs.start()
    task.put(batch)
    for plan in task._plans.values():
        plan.rotate_ms = 0
    assert task.pre_commit({P0: 9}) == {P0: 9}
    task.stop()
    assert ids(hdfs) == Counter(range(9))


def test_two_tasks_believe_that_they_have_the_partition(hdfs: Hdfs) -> None:
    zombie, _ = sink_task(FilesSinkConnector, config(hdfs, flush_size="4"), P0)
    zombie.put([order(0), order(1)])
    owner, _ = sink_task(FilesSinkConnector, config(hdfs), P0)
    owner.put([order(0), order(1)])
    zombie.put([order(2), order(3)])
    owner.put([order(offset) for offset in range(2, 9)])
    zombie.put([order(offset) for offset in range(4, 9)])
    assert ids(hdfs) == Counter(range(7))


def test_a_folder_that_the_user_may_not_write_fails_the_task(hdfs: Hdfs) -> None:
    hdfs.ask("PUT", "/lake", op="MKDIRS", permission="755")
    with pytest.raises(ConnectError, match=r"^The store webhdfs://\S+/lake: Permission denied: user=tester") as refused:
        sink_task(FilesSinkConnector, config(hdfs), P0)
    assert not isinstance(refused.value, RetriableError)


def test_the_next_namenode_is_asked_if_one_does_not_answer(hdfs: Hdfs) -> None:
    given = config(hdfs) | {"store.url": f"webhdfs://127.0.0.1:1,{hdfs.address}/lake"}
    task, _ = sink_task(FilesSinkConnector, given, P0)
    task.put([order(offset) for offset in range(3)])
    task.stop()
    assert ids(hdfs) == Counter(range(3))
