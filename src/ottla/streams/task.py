"""A task: the operators of one sub-topology at work on one partition of each of its topics. It has no I/O.

The runtime hands it records and the time, and gets back what is to be written. It knows no broker, no file and no
thread; stores are given to it. What it returned must be written in that order, and committed together with the offset
behind the record.

How the runtime uses it:

1. `task = Task(...)` with restored stores. Every operator is made anew and reads what it must remember from the stores.
2. `task.process(record)` for one record at a time. Which partition comes next is decided outside: the smallest
   `task.timestamp_of(head)`; among equal ones the topic that sorts first.
3. `task.punctuate(now_ms)` when `task.next_punctuation_ms` has come.
4. Before a commit: `task.flush()`. Its outputs belong to the commit. After it nothing of the task is in memory alone,
   apart from what the next record brings.
5. After an abort: drop what the stores have of the transaction, then `task.rebuild()`. Nothing in memory survives.

If a call raises, its outputs are lost and the stores may hold half of its effects: abort, or stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ottla.streams.context import SKIPPED, Headers, InputRecord, NodeContext, Output, Process
from ottla.streams.errors import RecordError, TopologyError
from ottla.streams.handlers import DeadLetter, Fail, FailedRecord, Handlers, Retry, Skip, dead_letter, decide
from ottla.streams.punctuation import Schedule, Schedules
from ottla.streams.states import open_state
from ottla.streams.store import Store
from ottla.streams.times import Times, TimesBook
from ottla.streams.topology import (
    TIMES_STORE,
    Node,
    ProcessorNode,
    SinkNode,
    SourceNode,
    StoreSpec,
    SubTopology,
    TaskId,
)

#: Waits so many seconds before a retry.
Wait = Callable[[float], None]


class Task:
    """One task. Not for several threads at once.

    Attributes:
        id: written "0_3".
        stream_time: the largest timestamp of the records it took, in ms; -1 before the first.
        record: the record at hand; None in a punctuation.
        dropped: how many records were passed over, by the operator that did it (late, without key, skipped by a
            handler).
        commit_requested: an operator asked for a commit soon; the runtime resets it.
    """

    def __init__(
        self,
        sub_topology: SubTopology,
        partition: int,
        stores: Mapping[str, Store],
        *,
        application_id: str,
        clock: Callable[[], int],
        partition_count: Callable[[str], int],
        handlers: Handlers | None = None,
        wait: Wait | None = None,
        specs: Iterable[StoreSpec] = (),
        watch_mutations: bool = False,
    ) -> None:
        """Make the operators.

        Args:
            stores: by name, every one of `sub_topology.stores` and every global store of the topology.
            clock: the wall clock in ms.
            partition_count: of a topic that the task writes to; asked only where a record's place does not follow from
                its key's bytes (windowed keys, a partitioner of the user's, foreign-key joins).
            handlers: what becomes of records that fail; without them the task raises.
            wait: waits before a retry; without it a retry comes at once.
            specs: those of the global stores among `stores`.
            watch_mutations: raise when an operator changes an object that another branch is given, too (slow: for
                tests).
        """
        self.sub_topology = sub_topology
        self.id = TaskId(sub_topology.id, partition)
        self.partition = partition
        self.application_id = application_id
        self.clock = clock
        self.partition_count = partition_count
        self.handlers = handlers or Handlers()
        self.dropped: dict[str, int] = {}
        self.record: InputRecord | None = None
        self.commit_requested = False
        self.watch_mutations = watch_mutations
        self._stores = stores
        self._specs = {spec.name: spec for spec in (*specs, *sub_topology.stores)}
        self._wait = wait or (lambda seconds: None)
        self._outputs: list[Output] = []
        #: Appends to the outputs of the call at hand. Operators keep it.
        self.emit = self._outputs.append
        self._refused: dict[tuple[str, int], dict[int, Exception]] = {}
        self.rebuild()

    def rebuild(self) -> None:
        """Make every operator anew from what the stores hold now; for after an abort."""
        self._outputs.clear()
        self.record = None
        #: The time of the record at hand, as its source has it (ms); in a punctuation, the time given to it.
        self.record_time = -1
        self.stream_time = -1
        self._states: dict[str, Any] = {}
        self._closers: list[Callable[[], None]] = []
        self._flushers: list[Callable[[], None]] = []
        self._by_stream_time = Schedules()
        self._by_wall_clock = Schedules()
        self.times = TimesBook(self._stores.get(TIMES_STORE))
        self._clock_of_task = self.times.of("task", None)
        self.stream_time = self._clock_of_task.stream_time
        made: dict[str, Process] = {}
        self._sources: dict[str, Callable[[InputRecord], None]] = {}
        self._timestamps: dict[str, Callable[[InputRecord], int]] = {}
        for name in reversed(list(self.sub_topology.nodes)):
            node = self.sub_topology.nodes[name]
            context = NodeContext(self, node, {child: made[child] for child in node.children})
            match node:
                case ProcessorNode():
                    made[name] = node.make(context)
                case SinkNode():
                    made[name] = _sink(self, node)
                case SourceNode():
                    for topic in node.topics:
                        self._sources[topic] = _source(self, node, topic, context.forward)
                        self._timestamps[topic] = self._extractor(node)
        self._next_stream_time = self._by_stream_time.next_ms

    def process(self, record: InputRecord) -> list[Output]:
        """Take one record and return what comes of it, in order; changelog records are among it.

        Raises:
            RecordError: it could not be handled, and the handler said fail (the default).
            KeyError: the task does not read that topic.
        """
        outputs = self._outputs
        self.record = record
        try:
            self._sources[record.topic](record)
            due = self._next_stream_time
            if due is not None and self.stream_time >= due:
                self._fire(self._by_stream_time, self.stream_time)
            if self._refused and (refused := self._refused.pop((record.topic, record.offset), None)):
                self._without(refused)
            return outputs.copy()
        finally:
            outputs.clear()

    def punctuate(self, now_ms: int) -> list[Output]:
        """Fire what is due by the wall clock, and return what comes of it."""
        try:
            self._fire(self._by_wall_clock, now_ms)
            return self._outputs.copy()
        finally:
            self._outputs.clear()

    @property
    def next_punctuation_ms(self) -> int | None:
        """When the wall clock next has something to do here; None: never."""
        return self._by_wall_clock.next_ms

    def flush(self) -> list[Output]:
        """Write what operators hold in memory to the stores; return what must be written with the commit."""
        try:
            for flush in self._flushers:
                flush()
            if self._clock_of_task.stream_time != self.stream_time:
                self._clock_of_task.advance(self.stream_time)
            self.times.flush(self.emit, self.partition)
            return self._outputs.copy()
        finally:
            self._outputs.clear()

    def close(self) -> None:
        """Close operators (users' processors among them). Stores are the caller's."""
        for close in reversed(self._closers):
            close()
        self._closers.clear()

    def timestamp_of(self, record: InputRecord) -> int:
        """Return the time of a record that was not taken yet: its own, or what the source's extractor says (ms).

        A record whose time cannot be told has -1, so that it is taken at once and `process` reports it.
        """
        return self._timestamps[record.topic](record)

    def refuse(self, record: InputRecord, index: int, error: Exception) -> None:
        """Say that the broker refused an output, before its input is replayed.

        `process(record)` then asks the production handler about output `index` of that record instead of returning it.
        """
        self._refused.setdefault((record.topic, record.offset), {})[index] = error

    # What operators use.

    def state(self, name: str) -> Any:
        """Return a store with the interface of its kind; the same object for every operator of the task."""
        found = self._states.get(name)
        if found is None:
            spec = self._specs.get(name)
            if spec is None:
                raise TopologyError(f"there is no store {name!r} in sub-topology {self.sub_topology.id}")
            found = self._states[name] = open_state(spec, self._stores[name], self)
        return found

    def times_of(self, name: str, store: str | None = None) -> Times:
        """Return what an operator remembers of time; it is stored with every commit, and in the changelog of
        `store`."""
        return self.times.of(name, None if store is None else self._specs[store])

    def on_close(self, close: Callable[[], None]) -> None:
        """Have something called when the task closes."""
        self._closers.append(close)

    def on_flush(self, flush: Callable[[], None]) -> None:
        """Have something called before each commit."""
        self._flushers.append(flush)

    def schedule(self, name: str, interval_ms: int, by: str, callback: Callable[[int], None]) -> Schedule:
        """Have `callback(now_ms)` called again and again.

        Args:
            by: "stream_time" or "wall_clock".
        """
        if interval_ms < 1:
            raise ValueError(f"{name}: a schedule needs an interval of 1 ms or more")
        schedule = Schedule(name, interval_ms, callback)
        if by == "stream_time":
            self._by_stream_time.add(0, schedule)
            self._next_stream_time = self._by_stream_time.next_ms
        elif by == "wall_clock":
            self._by_wall_clock.add(self.clock() + interval_ms, schedule)
        else:
            raise ValueError(f'{name}: a schedule follows "stream_time" or "wall_clock", not {by!r}')
        return schedule

    def drop(self, name: str) -> None:
        """Count a record that an operator passed over."""
        self.dropped[name] = self.dropped.get(name, 0) + 1

    def failed(
        self,
        stage: str,
        node: Node,
        error: Exception,
        key: Any,
        value: Any,
        timestamp: int,
        headers: Headers,
        again: Callable[[], Any] | None,
        topic: str | None = None,
    ) -> Any:
        """See `NodeContext.fail`."""
        if isinstance(error, RecordError):
            raise error
        handler = getattr(node, "on_error", None) or self.handlers.of(stage)
        source = self.record
        attempts = 0
        while True:
            action = decide(
                handler,
                FailedRecord(
                    stage=stage,
                    operator=node.name,
                    error=error,
                    source=source,
                    key=key,
                    value=value,
                    timestamp=timestamp,
                    headers=headers,
                    topic=topic,
                ),
            )
            if isinstance(action, Retry):
                delays = action.seconds()
                if again is not None and attempts < len(delays):
                    self._wait(delays[attempts])
                    attempts += 1
                    try:
                        return again()
                    except Exception as raised:
                        error = raised
                        continue
                action = action.then
            break
        match action:
            case Fail():
                told = f"{type(error).__name__}: {error}"
                if source is None:
                    raise RecordError(stage, node.name, None, None, None, told) from error
                raise RecordError(stage, node.name, source.topic, source.partition, source.offset, told) from error
            case DeadLetter():
                self.emit(
                    dead_letter(
                        action.topic,
                        FailedRecord(
                            stage=stage,
                            operator=node.name,
                            error=error,
                            source=source,
                            key=key,
                            value=value,
                            timestamp=timestamp,
                            headers=headers,
                            topic=topic,
                        ),
                    )
                )
            case Skip():
                pass
        self.drop(node.name)
        return SKIPPED

    def _fire(self, schedules: Schedules, now_ms: int) -> None:
        record, self.record = self.record, None
        self.record_time = now_ms
        try:
            schedules.fire(now_ms, self._call)
        finally:
            self.record = record
            self._next_stream_time = self._by_stream_time.next_ms

    def _call(self, schedule: Schedule, now_ms: int) -> None:
        try:
            schedule.callback(now_ms)
        except Exception as error:
            self.failed("processing", self.sub_topology.nodes[schedule.name], error, None, None, now_ms, (), None)

    def _without(self, refused: Mapping[int, Exception]) -> None:
        outputs = self._outputs.copy()
        self._outputs.clear()
        for index, output in enumerate(outputs):
            error = refused.get(index)
            if error is None:
                self.emit(output)
                continue
            node = self._writer_of(output.topic)
            self.failed(
                "production",
                node,
                error,
                output.key,
                output.value,
                output.timestamp,
                output.headers,
                None,
                output.topic,
            )

    def _writer_of(self, topic: str) -> Node:
        for node in self.sub_topology.nodes.values():
            if isinstance(node, SinkNode) and node.topic == topic:
                return node
        return Node(name=f"the writer of {topic}")

    def _extractor(self, node: SourceNode) -> Callable[[InputRecord], int]:
        extract = node.timestamp
        if extract is None:
            return lambda record: record.timestamp

        def extracted(record: InputRecord) -> int:
            try:
                return extract(_readable(node, record), self.stream_time)
            except Exception:
                return -1

        return extracted


class ReadRecord:
    """What a timestamp extractor is given: the record with its key and value as objects."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(self, record: InputRecord, key: Any, value: Any) -> None:
        self.topic = record.topic
        self.partition = record.partition
        self.offset = record.offset
        self.timestamp = record.timestamp
        self.headers = record.headers
        self.key = key
        self.value = value


def _readable(node: SourceNode, record: InputRecord) -> ReadRecord:
    read_key, read_value = _readers(node)
    topic = record.topic
    key = None if record.key is None else read_key(topic, record.key)
    return ReadRecord(record, key, read_value(topic, record.value))


def _plain(topic: str, data: bytes) -> bytes:
    return data


def _readers(node: SourceNode) -> tuple[Callable[[str, bytes], Any], Callable[[str, bytes | None], Any]]:
    read_key = _plain if node.key_serde is None else node.key_serde.deserialize
    value_serde = node.value_serde
    if value_serde is None:
        return read_key, lambda topic, data: data
    if getattr(value_serde, "takes_none", False):
        return read_key, value_serde.deserialize
    deserialize = value_serde.deserialize
    return read_key, lambda topic, data: None if data is None else deserialize(topic, data)


def _source(task: Task, node: SourceNode, topic: str, forward: Process) -> Callable[[InputRecord], None]:
    read_key, read_value = _readers(node)
    extract = node.timestamp

    def read(record: InputRecord) -> tuple[Any, Any, int]:
        key = None if record.key is None else read_key(topic, record.key)
        value = read_value(topic, record.value)
        timestamp = record.timestamp if extract is None else extract(ReadRecord(record, key, value), task.stream_time)
        return key, value, timestamp

    def take(record: InputRecord) -> None:
        try:
            key, value, timestamp = read(record)
            if timestamp < 0:
                raise ValueError(f"its timestamp is {timestamp}; `timestamp=` of the source can choose another one")
        except Exception as error:
            headers = record.headers
            found = task.failed(
                "deserialization",
                node,
                error,
                record.key,
                record.value,
                record.timestamp,
                headers,
                lambda: read(record),
            )
            if found is SKIPPED:
                return
            key, value, timestamp = found
        task.record_time = timestamp
        if timestamp > task.stream_time:
            task.stream_time = timestamp
        forward(key, value, timestamp, record.headers)

    return take


def _sink(task: Task, node: SinkNode) -> Process:
    emit = task.emit
    write_key = None if node.key_serde is None else node.key_serde.serialize
    write_value = None if node.value_serde is None else node.value_serde.serialize
    takes_none = getattr(node.value_serde, "takes_none", False)
    place = getattr(node.key_serde, "partition_bytes", None)
    chosen, partitioner, partition_count = node.topic, node.partitioner, task.partition_count

    def make(key: Any, value: Any, timestamp: int, headers: Headers) -> Output:
        topic = chosen if isinstance(chosen, str) else chosen(key, value, task.record)
        written_key = key if write_key is None or key is None else write_key(topic, key)
        written = value if write_value is None or (value is None and not takes_none) else write_value(topic, value)
        partition = None
        if partitioner is not None:
            partition = partitioner(topic, key, value, partition_count(topic))
        elif place is not None and key is not None:
            partition = place(topic, key, partition_count(topic))
        return Output(topic, partition, written_key, written, timestamp, headers)

    def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        try:
            made = make(key, value, timestamp, headers)
            if timestamp < 0:
                raise ValueError(f"the timestamp of a record is not negative: {timestamp}")
        except Exception as error:
            topic = chosen if isinstance(chosen, str) else None
            made = task.failed(
                "production",
                node,
                error,
                key,
                value,
                timestamp,
                headers,
                lambda: make(key, value, timestamp, headers),
                topic,
            )
            if made is SKIPPED:
                return
        emit(made)

    return process
