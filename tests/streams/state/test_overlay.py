"""A task's stores against a dictionary, with the process killed, and the power cut, between any two steps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.streams.state.killed import copy_as_killed

from ottla.streams.state.homes import Home, StateError, StoreNote
from ottla.streams.state.memory import MemoryHome
from ottla.streams.state.overlay import TaskState
from ottla.streams.state.rocksdb import RocksHome
from ottla.streams.state.sqlite import SqliteHome

keys = st.binary(max_size=2) | st.sampled_from([b"", b"\0", b"a", b"a\0", b"b", b"\xff"])
values = st.binary(max_size=3)
Rows = dict[bytes, bytes]


def _note(position: int) -> StoreNote:
    return StoreNote(topic="changelog", topic_id="1", position=position)


class Stores(RuleBasedStateMachine):
    """Two stores of one task: one in SQLite, one in memory."""

    durable: type[SqliteHome] | type[RocksHome] = SqliteHome

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.now: dict[str, Rows] = {"disk": {}, "memory": {}}
        self.committed: dict[str, Rows] = {"disk": {}, "memory": {}}
        self.position = 0
        self.state = self._open()

    def _open(self) -> TaskState:
        self.disk = self.durable(self.folder / str(self.lives), boot_id="boot")
        self.disk.open_table("disk", "kv")
        memory = MemoryHome()
        memory.open_table("memory", "kv")
        return TaskState({"disk": self.disk, "memory": memory})

    @rule(store=st.sampled_from(["disk", "memory"]), key=keys, value=values)
    def put(self, store: str, key: bytes, value: bytes) -> None:
        self.state.stores[store].put(key, value)
        self.now[store][key] = value

    @rule(store=st.sampled_from(["disk", "memory"]), key=keys)
    def remove(self, store: str, key: bytes) -> None:
        self.state.stores[store].delete(key)
        self.now[store].pop(key, None)

    @rule(store=st.sampled_from(["disk", "memory"]), key=keys)
    def read(self, store: str, key: bytes) -> None:
        assert self.state.stores[store].get(key) == self.now[store].get(key)

    @rule(store=st.sampled_from(["disk", "memory"]), since=keys, until=st.none() | keys, back=st.booleans())
    def read_range(self, store: str, since: bytes, until: bytes | None, back: bool) -> None:
        expected = sorted(
            (key, value) for key, value in self.now[store].items() if key >= since and (until is None or key < until)
        )
        view = self.state.stores[store]
        rows = view.reverse_range(since, until) if back else view.range(since, until)
        view.put(b"b\0", b"later")  # a scan shows the moment in which it began
        assert list(rows) == (expected[::-1] if back else expected)
        self.now[store][b"b\0"] = b"later"

    @rule(store=st.sampled_from(["disk", "memory"]), prefix=keys)
    def read_prefix(self, store: str, prefix: bytes) -> None:
        expected = sorted(item for item in self.now[store].items() if item[0].startswith(prefix))
        assert list(self.state.stores[store].prefix(prefix)) == expected

    @rule(store=st.sampled_from(["disk", "memory"]), since=keys, until=st.none() | keys)
    def remove_range(self, store: str, since: bytes, until: bytes | None) -> None:
        self.state.stores[store].delete_range(since, until)
        for key in [key for key in self.now[store] if key >= since and (until is None or key < until)]:
            del self.now[store][key]

    @rule()
    def commit(self) -> None:
        self.position += 1
        self.state.commit({"disk": _note(self.position), "memory": _note(self.position)})
        self.committed = {store: dict(rows) for store, rows in self.now.items()}

    @rule()
    def abort(self) -> None:
        self.state.abort()
        self.now = {store: dict(rows) for store, rows in self.committed.items()}

    @rule()
    def kill(self) -> None:
        """What another process would find: the files as they are now. Memory is gone."""
        before = self.folder / str(self.lives)
        self.lives += 1
        copy_as_killed(before, self.folder / str(self.lives))
        self.state.close(clean=False)
        self.state = self._open()
        self.committed["memory"] = {}
        self.now = {store: dict(rows) for store, rows in self.committed.items()}
        assert self.state.note("memory") is None

    @precondition(lambda self: self.position)
    @invariant()
    def position_fits(self) -> None:
        note = self.state.note("disk")
        assert note is not None
        assert note.position == self.position
        reader = self.disk.reader()
        assert dict(reader.page("disk", None, None, reverse=False, limit=10_000)) == self.committed["disk"]
        reader.close()

    def teardown(self) -> None:
        self.state.close()
        shutil.rmtree(self.folder)


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


class StoresInRocksDB(Stores):
    """The same with RocksDB for SQLite."""

    durable = RocksHome


TestStoresInRocksDB = StoresInRocksDB.TestCase
TestStoresInRocksDB.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


def test_power_cut_leaves_rows_and_position_of_one_commit(tmp_path: Path) -> None:
    """However much of the WAL is lost, what is left is a commit as a whole."""
    home = SqliteHome(tmp_path / "task")
    home.open_table("store", "kv")
    for position in range(1, 8):
        home.commit({"store": {b"count": b"%d" % position, b"%d" % position: b"x" * 500}}, {"store": _note(position)})
    wal = (tmp_path / "task" / "state.sqlite-wal").read_bytes()
    found = set()
    for lost in range(0, len(wal), 1700):
        copy = tmp_path / f"cut-{lost}"
        copy.mkdir()
        shutil.copy(tmp_path / "task" / "state.sqlite", copy)
        (copy / "state.sqlite-wal").write_bytes(wal[: len(wal) - lost])
        left = SqliteHome(copy, boot_id="after the power cut")
        try:
            left.open_table("store", "kv")
            note = left.note("store")
            position = 0 if note is None else note.position
            assert left.get("store", b"count") == (b"%d" % position if position else None)
            assert left.row_count("store") == (position + 1 if position else 0)
            found.add(position)
        finally:
            left.close()
    home.close()
    assert len(found) > 3


def test_writes_of_a_failed_commit_stay_uncommitted(tmp_path: Path) -> None:
    home = SqliteHome(tmp_path)
    home.open_table("store", "kv")
    state = TaskState({"store": home})
    state.stores["store"].put(b"a", b"1")
    state.commit({"store": _note(1)})
    state.stores["store"].put(b"a", b"2")
    home._connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON store_1 BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(StateError, match="full"):
        state.commit({"store": _note(2)})
    assert home.get("store", b"a") == b"1"
    note = home.note("store")
    assert note is not None
    assert note.position == 1
    home.close()


def test_uncommitted_bytes_follow_the_overlay() -> None:
    home: Home = MemoryHome()
    home.open_table("store", "kv")
    state = TaskState({"store": home})
    state.stores["store"].put(b"key", b"v" * 100)
    first = state.uncommitted_bytes
    assert first >= 103
    state.stores["store"].put(b"key", b"v" * 50)
    assert state.uncommitted_bytes == first - 50
    state.commit({"store": _note(1)})
    assert state.uncommitted_bytes == 0
