"""An application's committed state as its thread would have published it, without a cluster."""

from __future__ import annotations

from ottla.streams import App, tumbling
from ottla.streams.keys import pack_long, timestamped, window_key
from ottla.streams.queries.board import Board, Standing
from ottla.streams.queries.desk import Desk, Forward
from ottla.streams.queries.routing import Routes
from ottla.streams.serdes import partition_of
from ottla.streams.state.homes import StoreNote
from ottla.streams.state.memory import MemoryHome
from ottla.streams.times import pack_times
from ottla.streams.topology import TIMES_STORE, SubTopology, TaskId, Topology

PARTITIONS = 2
SESSION_MS = 6_000


def make_topology() -> Topology:
    app = App("app")
    app.table("users", key=str, value="json", store="users")
    clicks = app.stream("clicks", key=str, value="json")
    clicks.group_by_key().windowed_by(tumbling("1m")).count(store="by-minute", retention="5m")
    return app.topology()


class Instance:
    """One instance: what it has, and the time of the last request that the coordinator confirmed."""

    def __init__(self, endpoint: str = "", forward: Forward | None = None) -> None:
        self.now_ms = 100_000.0
        self.confirmed_ms: float | None = 100_000.0
        self.topology = make_topology()
        self.board = Board(lambda: self.now_ms, lambda: self.confirmed_ms, SESSION_MS)
        self.routes = Routes(self.topology, {"users": PARTITIONS, "clicks": PARTITIONS}, endpoint)
        self.desk = Desk(self.board, self.routes, forward)
        self.homes: dict[TaskId, MemoryHome] = {}

    def sub(self, store: str) -> SubTopology:
        return next(sub for sub in self.topology.tasks if any(spec.name == store for spec in sub.stores))

    def open(self, store: str, partition: int) -> TaskId:
        """Have a task that runs, with empty stores."""
        sub = self.sub(store)
        task = TaskId(sub.id, partition)
        home = self.homes[task] = MemoryHome()
        for spec in sub.stores:
            home.open_table(spec.name, "")
        self.board.open(task, sub, {spec.name: home for spec in sub.stores})
        self.tell(task)
        return task

    def tell(self, task: TaskId, offset: int = 7) -> None:
        topic = "users" if task.sub_topology == self.sub("users").id else "clicks"
        where = f"{topic}-{task.partition}"
        self.board.tell(
            task, Standing(positions={where: offset}, lag={where: 2}, time_ms=1_700_000_000_000, stream_time=999_000)
        )

    def put_user(self, key: str, value: bytes) -> None:
        """Commit a row of `users` where its key belongs."""
        task = TaskId(self.sub("users").id, partition_of(key.encode(), PARTITIONS))
        self.homes[task].commit({"users": {key.encode(): timestamped(value, 1234)}}, NOTES)

    def put_window(self, key: str, start: int, count: int, stream_time: int) -> None:
        sub = self.sub("by-minute")
        task = TaskId(sub.id, partition_of(key.encode(), PARTITIONS))
        spec = next(spec for spec in sub.stores if spec.name == "by-minute")
        assert spec.segment_interval_ms is not None
        name = pack_long(start // spec.segment_interval_ms) + window_key(key.encode(), start)
        times = {b"store by-minute": pack_times(stream_time, -1)}
        rows = {name: timestamped(pack_long(count), start + 1)}
        self.homes[task].commit({"by-minute": rows, TIMES_STORE: times}, NOTES)


NOTES: dict[str, StoreNote] = {}
