"""Runs an app in this process, without a broker, in virtual time: for tests, and for trying things out.

    with app.test() as driver:
        driver.topic("orders").pipe("anna", order, at="10:00")
        driver.advance("30s")
        assert driver.topic("counts").read() == [("NL", 1)]

Every record is taken through all tasks before `pipe` returns; what goes to a repartition topic, or to any topic that
the app reads, is read from there. Stores are in memory and, unless the test says otherwise, there are no caches and a
commit after each record, so that every update comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple

from ottla.client.keys import Duration
from ottla.client.records import HeadersLike, make_headers
from ottla.streams.app import App
from ottla.streams.caching import CacheBudget
from ottla.streams.calls import WaitedCalls
from ottla.streams.context import Headers, InputRecord, Output
from ottla.streams.errors import StreamsError
from ottla.streams.operators.tables import store_getter
from ottla.streams.restoring import Restorer
from ottla.streams.serdes import RAW, AnySerde, Guess, make_serde, partition_of
from ottla.streams.states import KeyValueState, SessionState, WindowState
from ottla.streams.store import MemoryStore
from ottla.streams.task import Task
from ottla.streams.timers import Timers
from ottla.streams.topology import TIMES_STORE, SinkNode, SourceNode, SubTopology, TaskId, Topology
from ottla.streams.windows import milliseconds

#: When the virtual clock starts: 2000-01-01T00:00Z.
START_MS = 946_684_800_000
_DAY_MS = 24 * 60 * 60 * 1000


class DriverRecord(NamedTuple):
    """A record that came out, with its objects. `timestamp` is in ms."""

    key: Any
    value: Any
    timestamp: int
    headers: Headers
    partition: int


class Driver:
    """What `app.test()` returns. Use it with `with`, so that users' processors are closed.

    Attributes:
        now: the virtual wall clock, in ms.
        run_length: how many records operators over columns take at once, at most, of those that `pipe_many` brings; one
            where each record is committed.
    """

    def __init__(
        self,
        app: App,
        *,
        partitions: int = 1,
        at: Any = None,
        cache_max_bytes: int = 0,
        commit_interval: Duration = 0,
    ) -> None:
        """Build the app's tasks.

        Args:
            partitions: of every topic that exists before the app.
            at: when the clock starts: ms, an aware datetime, or text ("2026-05-01T10:00"); without it
                2000-01-01T00:00Z.
            cache_max_bytes: statestore.cache.max.bytes; 0: no caches.
            commit_interval: commit when the driver's clock has moved on so far, and in `commit()`; 0: after each record.
        """
        self.now: int = START_MS if at is None else _time(at, START_MS)
        self._cache = CacheBudget(cache_max_bytes)
        self._commit_interval_ms = milliseconds("commit_interval", commit_interval)
        self._commit_ms = self.now + self._commit_interval_ms
        self.run_length = 200
        topology = app.topology()
        self.topology: Topology = topology
        self._day = self.now - self.now % _DAY_MS
        self._partitions = partitions
        self._counts = topology.partition_counts(dict.fromkeys(topology.source_topics, partitions))
        self._offsets: dict[tuple[str, int], int] = {}
        self._written: dict[str, list[tuple[Output, int]]] = {}
        #: Records that wait, by topic and partition, each with the number of its arrival.
        self._queues: dict[tuple[str, int], deque[tuple[int, InputRecord]]] = {}
        self._arrivals = 0
        self._waited = 0.0
        self._readers: dict[str, list[SubTopology]] = {}
        self.tasks: dict[TaskId, Task] = {}
        self._app = app
        self._global: dict[str, MemoryStore] = {}
        self._stores: dict[TaskId, dict[str, MemoryStore]] = {}
        self._changelogs: dict[str, list[tuple[Output, int]]] = {
            topic: [] for sub in topology.sub_topologies for topic in sub.changelogs
        }
        nodes = [node for sub in topology.sub_topologies for node in sub.nodes.values()]
        sinks = [node for node in nodes if isinstance(node, SinkNode)]
        own = [getattr(node, "on_error", None) for node in nodes]
        handlers = app.handlers
        self._known = {topic for sub in topology.sub_topologies for topic in (*sub.sink_topics, *sub.changelogs)}
        self._known |= {*topology.repartition_topics, *handlers.dead_letter_topics(own)}
        #: Whether a function chooses topics, for records or for dead letters.
        self._chosen = any(callable(node.topic) for node in sinks) or any(
            callable(each) for each in (handlers.deserialization, handlers.processing, handlers.production, *own)
        )
        self._known |= {timer.to for timer in app.timers if timer.to is not None}
        self._calls = WaitedCalls()
        self._timers = Timers(app.timers, self.now, self._calls, lambda: True, self._send_alone)
        for sub in sorted(topology.sub_topologies, key=lambda sub: not sub.is_global):
            for topic in sub.source_topics:
                self._readers.setdefault(topic, []).append(sub)
            count = 1 if sub.is_global else max(self._counts[topic] for topic in sub.source_topics)
            for partition in range(count):
                stores = {spec.name: MemoryStore() for spec in sub.stores}
                if sub.is_global:
                    self._global.update(stores)
                self._open(sub, partition, stores)

    def _open(self, sub: SubTopology, partition: int, stores: dict[str, MemoryStore]) -> None:
        self._stores[TaskId(sub.id, partition)] = stores
        self.tasks[TaskId(sub.id, partition)] = Task(
            sub,
            partition,
            stores if sub.is_global else {**self._global, **stores},
            application_id=self._app.application_id,
            clock=lambda: self.now,
            partition_count=lambda topic: self._counts.get(topic, self._partitions),
            handlers=self._app.handlers,
            wait=self._wait,
            specs=self.topology.global_stores,
            watch_mutations=True,
            cache=self._cache,
            idle_advance_ms=self._app.idle_advance_ms,
        )

    def restart(self, *, lost_disk: bool = False) -> None:
        """Close the tasks and open them again, with what was committed: as after a deployment, or a crash.

        Args:
            lost_disk: stores are made anew from their changelogs (those of global tables stay).
        """
        self.commit()
        for task_id, task in list(self.tasks.items()):
            task.close()
            sub, stores = task.sub_topology, self._stores[task_id]
            if lost_disk and not sub.is_global:
                stores = {spec.name: MemoryStore() for spec in sub.stores}
                for spec in sub.stores:
                    if spec.changelog is not None:
                        restorer = Restorer(spec, stores)
                        for output, partition in self._changelogs[spec.changelog]:
                            if partition == task_id.partition:
                                restorer.apply(output.key, output.value, output.timestamp, output.headers)
                        restorer.finish()
            self._open(sub, task_id.partition, stores)

    def topic(self, name: str, *, key: Any = None, value: Any = None) -> DriverTopic:
        """Return a topic to pipe records into, or to read what was written.

        Args:
            key, value: how its records are written; without them as the app reads or writes them.
        """
        key_serde, value_serde = self._serdes(name)
        return DriverTopic(
            self,
            name,
            make_serde("key", key, key=True) or key_serde,
            make_serde("value", value) or value_serde,
        )

    def advance(self, duration: Duration) -> None:
        """Move the wall clock on, in steps that let everything fire that is due by it. Stream time moves only with
        records."""
        until = self.now + milliseconds("duration", duration)
        while True:
            due = [self._timers.next_ms, *(task.next_punctuation_ms for task in self.tasks.values())]
            if self._commit_interval_ms:
                due.append(self._commit_ms)
            first = min((when for when in due if when is not None), default=None)
            if first is None or first > until:
                break
            self.jump_to(max(self.now, first))
        self.now = until

    def jump_to(self, now_ms: int) -> None:
        """Set the wall clock; a schedule that is behind fires once, as after a pause."""
        self.now = now_ms
        self._timers.turn(now_ms)
        for task in self.tasks.values():
            self._take(task.punctuate(now_ms))
            self._finish_calls(task)
            self._processed(task)
        self._drain()
        if self._commit_interval_ms and now_ms >= self._commit_ms:
            self.commit()

    def commit(self) -> None:
        """Commit all tasks: what caches hold back comes out, and what follows of it is processed."""
        self._commit_ms = self.now + self._commit_interval_ms
        for task in self.tasks.values():
            self._commit(task)
        self._drain()

    def store(self, name: str) -> DriverStore:
        """Return a store, to look into.

        Raises:
            KeyError: there is none of that name; the message names those that are there.
        """
        try:
            self.topology.store(name)
        except KeyError:
            there = sorted(
                spec.name for sub in self.topology.sub_topologies for spec in sub.stores if spec.name != TIMES_STORE
            )
            raise KeyError(f"there is no store {name!r}; there are: {', '.join(there) or 'none'}") from None
        states = [
            task.state(name) for task in self.tasks.values() if any(s.name == name for s in task.sub_topology.stores)
        ]
        return DriverStore(states)

    def pipe_raw(self, record: Output) -> None:
        """Have the app read one record of bytes, and do all that follows."""
        self._pipe(record)

    def written(self) -> dict[str, list[Output]]:
        """Return, as bytes, what was written to every topic since it was last read, internal topics included."""
        return {topic: [output for output, _ in found] for topic, found in self._written.items()}

    def close(self) -> None:
        """Close the tasks."""
        for task in self.tasks.values():
            task.close()
        self._calls.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pipe(self, record: Output) -> None:
        self._pipe_all([record])

    def _pipe_all(self, records: Iterable[Output]) -> None:
        for record in records:
            if record.topic not in self._readers:
                raise StreamsError(f"the app does not read {record.topic}; it reads {', '.join(sorted(self._readers))}")
            partition = self._enqueue(record)
            if record.topic in self._changelogs:  # a source topic that serves as one
                self._changelogs[record.topic].append((record, partition))
        self._drain()

    def _enqueue(self, output: Output) -> int:
        """Append to a topic; return the partition."""
        topic = output.topic
        count = self._counts.get(topic, self._partitions)
        partition = output.partition
        if partition is None:
            partition = 0 if output.key is None else partition_of(output.key, count)
        offset = self._offsets.get((topic, partition), 0)
        self._offsets[topic, partition] = offset + 1
        if topic in self._readers:
            record = InputRecord(topic, partition, offset, output.timestamp, output.key, output.value, output.headers)
            self._queues.setdefault((topic, partition), deque()).append((self._arrivals, record))
            self._arrivals += 1
        return partition

    def _drain(self) -> None:
        """Take what waits: of the first records of all partitions the one with the smallest timestamp, until nothing is
        left."""
        while self._queues:
            place, queue = min(self._queues.items(), key=lambda item: (item[1][0][1].timestamp, item[1][0][0]))
            _, record = queue.popleft()
            if not queue:
                del self._queues[place]
            readers = self._readers[record.topic]
            if len(readers) == 1 and self._commit_interval_ms:
                task = self.tasks[TaskId(readers[0].id, record.partition)]
                if task.takes_runs(record.topic):
                    self._take(task.process_run([record, *self._rest_of_run(place)]))
                    self._processed(task)
                    continue
            for sub in readers:
                task = self.tasks[TaskId(sub.id, 0 if sub.is_global else record.partition)]
                self._take(task.process(record))
                self._processed(task)

    def _rest_of_run(self, place: tuple[str, int]) -> list[InputRecord]:
        """Take the records of a partition that are due before all others."""
        others = min(
            ((queue[0][1].timestamp, queue[0][0]) for each, queue in self._queues.items() if each != place),
            default=None,
        )
        queue = self._queues.get(place, deque())
        found: list[InputRecord] = []
        while queue and len(found) + 1 < self.run_length:
            arrival, record = queue[0]
            if others is not None and (record.timestamp, arrival) > others:
                break
            found.append(record)
            queue.popleft()
        if not queue:
            self._queues.pop(place, None)
        return found

    def _processed(self, task: Task) -> None:
        self._finish_calls(task)
        if not self._commit_interval_ms or task.commit_requested:
            self._commit(task)

    def _commit(self, task: Task) -> None:
        self._take(task.flush())
        while task.in_flight:
            self._finish_calls(task)
            self._take(task.flush())
        task.commit_requested = False
        task.on_committed()

    def _finish_calls(self, task: Task) -> None:
        """Let records go on behind `map_async`: in a test each call is waited for."""
        while task.in_flight:
            for _, _, outputs in task.collect():
                self._take(outputs)

    def _take(self, outputs: list[Output]) -> None:
        for output in outputs:
            partition = self._enqueue(output)
            if output.topic in self._changelogs:
                self._changelogs[output.topic].append((output, partition))
            self._written.setdefault(output.topic, []).append((output, partition))

    def _send_alone(self, output: Output) -> None:
        self._take([output])

    def _serdes(self, topic: str) -> tuple[AnySerde, AnySerde]:
        for sub in self.topology.sub_topologies:
            for node in sub.nodes.values():
                if (isinstance(node, SourceNode) and topic in node.topics) or (
                    isinstance(node, SinkNode) and node.topic == topic
                ):
                    return node.key_serde or RAW, node.value_serde or RAW
            for spec in sub.stores:
                if spec.changelog == topic:
                    return RAW, RAW
        return Guess(), Guess()

    def _writes(self, topic: str) -> bool:
        """Tell whether the app may write to a topic; a function that chooses one may choose any."""
        return topic in self._known or self._chosen

    def _wait(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


class DriverTopic:
    """One topic of a driver."""

    def __init__(self, driver: Driver, name: str, key_serde: AnySerde, value_serde: AnySerde) -> None:
        self._driver = driver
        self._name = name
        self._key_serde = key_serde
        self._value_serde = value_serde
        self._read = 0

    def pipe(
        self,
        key: Any,
        value: Any,
        *,
        at: Any = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
    ) -> None:
        """Have the app read one record, and do all that follows.

        Args:
            at: the record's time: ms, an aware datetime, "2026-05-01T10:00", or a time of the driver's day ("10:00",
                "10:00:00.250"). Without it the driver's clock.
        """
        self._driver._pipe(self._record(key, value, at, headers, partition))

    def pipe_many(self, rows: Iterable[tuple[Any, ...]], *, partition: int | None = None) -> None:
        """Have the app read several records, which are all there when it begins.

        Args:
            rows: (key, value), or (key, value, time), with times as `pipe` takes them.
        """
        self._driver._pipe_all(
            [self._record(key, value, rest[0] if rest else None, None, partition) for key, value, *rest in rows]
        )

    def _record(self, key: Any, value: Any, at: Any, headers: HeadersLike | None, partition: int | None) -> Output:
        driver = self._driver
        when = driver.now if at is None else _time(at, driver._day)
        written_key = None if key is None else self._key_serde.serialize(self._name, key)
        written = None if value is None else self._value_serde.serialize(self._name, value)
        return Output(self._name, partition, written_key, written, when, make_headers(headers))

    def read(self) -> list[tuple[Any, Any]]:
        """Return (key, value) of what was written since the last read of this topic, in order."""
        return [(record.key, record.value) for record in self.records()]

    def records(self) -> list[DriverRecord]:
        """Return what was written since the last read of this topic, in order, with timestamps and headers."""
        written = self._taken()
        return [
            DriverRecord(
                self._load(self._key_serde, output.key),
                self._load(self._value_serde, output.value),
                output.timestamp,
                output.headers,
                partition,
            )
            for output, partition in written
        ]

    def raw(self) -> list[Output]:
        """Return what was written since the last read of this topic, as bytes."""
        return [output for output, _ in self._taken()]

    def _taken(self) -> list[tuple[Output, int]]:
        """Return what was written since the last read, each with its partition.

        Raises:
            StreamsError: the app does not write to the topic.
        """
        written = self._driver._written.pop(self._name, None)
        if written is None and not self._driver._writes(self._name):
            there = ", ".join(sorted(self._driver._known)) or "none"
            raise StreamsError(f"the app does not write to {self._name}; it writes to: {there}")
        return written or []

    def _load(self, serde: AnySerde, data: bytes | None) -> Any:
        if data is None:
            return None
        if isinstance(serde, Guess):
            try:
                return data.decode()
            except UnicodeDecodeError:
                return data
        return serde.deserialize(self._name, data)


class DriverStore:
    """What a store of the app holds, in all of its tasks."""

    def __init__(self, states: list[KeyValueState | WindowState | SessionState]) -> None:
        self._states = states

    def get(self, key: Any) -> Any:
        """Return the value of a key (a `Windowed` one for windows), or None."""
        for state in self._states:
            found = store_getter(state)(key)
            if found is not None:
                return found[0]
        return None

    def __getitem__(self, key: Any) -> Any:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: Any) -> bool:
        return self.get(key) is not None

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value)."""
        for state in self._states:
            yield from state.all() if isinstance(state, KeyValueState) else state.fetch_all()


def _time(at: Any, day_ms: int) -> int:
    """Return ms of what a test wrote.

    Raises:
        ValueError: it is no time.
    """
    if isinstance(at, bool):
        raise ValueError(f"a time is ms, a datetime or text, not {at!r}")
    if isinstance(at, int):
        return at
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError("a datetime needs a time zone: datetime.now(timezone.utc)")
        return round(at.timestamp() * 1000)
    if not isinstance(at, str):
        raise ValueError(f"a time is ms, a datetime or text, not {at!r}")
    try:
        if "-" in at:
            found = datetime.fromisoformat(at)
            return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
        found = datetime.fromisoformat(f"1970-01-01T{at}").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f'at={at!r} is no time; write "2026-05-01T10:00", "10:00" or "10:00:00.250"') from None
    return day_ms + round(found.timestamp() * 1000)
