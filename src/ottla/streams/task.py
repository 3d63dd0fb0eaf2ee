"""A task: the operators of one sub-topology at work on one partition of each of its topics. It has no I/O.

The runtime hands it records and the time, and gets back what is to be written. It knows no broker, no file and no
thread; stores are given to it. What it returned must be written in that order, and committed together with the offset
behind the record.

How the runtime uses it:

1. `task = Task(...)` with restored stores. Every operator is made anew and reads what it must remember from the stores.
2. `task.process(record)` for one record at a time. Which partition comes next is decided outside: the smallest
   `task.timestamp_of(head)`; among equal ones the topic that sorts first.
3. `task.punctuate(now_ms)` when `task.next_punctuation_ms` has come.
4. Where there are calls (`map_async`): no record while `task.is_full`; `task.collect()` now and then, until nothing
   is `in_flight`, and only then a commit.
5. Before a commit: `task.flush()`. Its outputs belong to the commit. After it nothing of the task is in memory alone,
   apart from what the next record brings, and calls that it began.
6. After an abort: drop what the stores have of the transaction, then `task.rebuild()`. Nothing in memory survives.

If a call raises, its outputs are lost and the stores may hold half of its effects: abort, or stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ottla.streams.caching import AnyCachedState, CacheBudget, cached_state
from ottla.streams.calls import Calls, Line, WaitedCalls, Waiting
from ottla.streams.context import SKIPPED, Headers, InputRecord, NodeContext, Output, Process
from ottla.streams.edges import readable, sink, source
from ottla.streams.errors import RecordError, StreamsError, TopologyError, told
from ottla.streams.handlers import DeadLetter, Fail, FailedRecord, Handlers, Retry, Skip, dead_letter, decide
from ottla.streams.punctuation import Idleness, Schedule, Schedules
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

logger: logging.Logger = logging.getLogger(__name__)

#: Outputs that one call may have; places above belong to the next call for the same input record.
_CALL_PLACES = 1 << 20

#: How often the log speaks of records that one operator passes over.
_DROPPED_MS = 60_000
#: Waits so many seconds before a retry.
Wait = Callable[[float], None]


class Progress(NamedTuple):
    """How far time has come in a task.

    Attributes:
        stream_time: in ms; -1 before the first record.
        stream_time_age_ms: how far stream time is behind the wall clock; None before the first record.
        operators: each operator's own stream time.
        open_windows: by store, how many windows wait for stream time to move on.
    """

    stream_time: int
    stream_time_age_ms: int | None
    operators: dict[str, int]
    open_windows: dict[str, int]


class Task:
    """One task. Not for several threads at once.

    Attributes:
        id: written "0_3".
        stream_time: the largest timestamp of the records it took, in ms; -1 before the first.
        record: the record at hand; None in a punctuation.
        dropped: how many records were passed over, by the operator that did it (late, without key, skipped by a
            handler).
        has_runs: some of its sources take runs (`process_run`).
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
        cache: CacheBudget | None = None,
        calls: Calls | None = None,
        idle_advance_ms: int | None = None,
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
            cache: what the caches of stores may hold, shared with other tasks; None: no store has a cache.
            calls: runs what `map_async` calls; without it each call is waited for.
            idle_advance_ms: without records for so long, by the wall clock, stream time follows that clock; None: it stands
                still.
            watch_mutations: raise when an operator changes an object that another branch is given, too (slow: for
                tests).
        """
        self.sub_topology = sub_topology
        self.id: TaskId = TaskId(sub_topology.id, partition)
        self.partition = partition
        self.application_id = application_id
        self.clock = clock
        self.partition_count = partition_count
        self.handlers: Handlers = handlers or Handlers()
        self.dropped: dict[str, int] = {}
        #: By operator, when the log last spoke of dropped records, and how many there were.
        self._told_dropped: dict[str, tuple[int | None, int]] = {}
        self.record: InputRecord | None = None
        self.commit_requested = False
        self.watch_mutations = watch_mutations
        self._stores = stores
        self._specs = {spec.name: spec for spec in (*specs, *sub_topology.stores)}
        self._runs = True
        self._caches: dict[str, AnyCachedState] = {}
        self.cache: CacheBudget | None = cache if cache is not None and cache.max_bytes > 0 else None
        # Parents come before children, so that this is the topological order.
        using = [node for node in sub_topology.nodes.values() if isinstance(node, ProcessorNode)]
        self._cached_names = [
            name for name in dict.fromkeys(name for node in using for name in node.stores) if self._is_cached(name)
        ]
        self._wait = wait or (lambda seconds: None)
        self._idle = None if idle_advance_ms is None else Idleness(idle_advance_ms)
        self.calls: Calls = calls or WaitedCalls()
        self._own_calls = calls is None
        self._lines: list[Line] = []
        #: By input record, how many calls were begun for it since nothing was in flight.
        self._call_counts: dict[tuple[str, int, int], int] = {}
        self._outputs: list[Output] = []
        #: Appends to the outputs of the call at hand. Operators keep it.
        self.emit: Callable[[Output], None] = self._outputs.append
        self._refused: dict[tuple[str, int], dict[int, Exception]] = {}
        self.rebuild()

    def rebuild(self) -> None:
        """Make every operator anew from what the stores hold now; for after an abort."""
        self._outputs.clear()
        self._drop_caches()
        self._drop_calls()
        self.record = None
        #: The time of the record at hand, as its source has it (ms); in a punctuation, the time given to it.
        self.record_time: int = -1
        self.stream_time: int = -1
        self._states: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}
        self._closers: list[Callable[[], None]] = []
        self._flushers: list[Callable[[], None]] = []
        self._by_stream_time = Schedules()
        self._by_wall_clock = Schedules()
        self._idlers: list[Callable[[int], None]] = []
        if self._idle is not None:
            self._idle.begin_anew(self.clock())
        self.times: TimesBook = TimesBook(self._stores.get(TIMES_STORE))
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
                    made[name] = sink(self, node)
                case SourceNode():
                    for topic in node.topics:
                        self._sources[topic] = source(self, node, topic, context.forward)
                        self._timestamps[topic] = self._extractor(node)
        self._next_stream_time = self._by_stream_time.next_ms
        self.has_runs: bool = any(hasattr(take, "take_run") for take in self._sources.values())

    def process(self, record: InputRecord) -> list[Output]:
        """Take one record and return what comes of it, in order; changelog records are among it.

        Raises:
            RecordError: it could not be handled, and the handler said fail (the default).
            KeyError: the task does not read that topic.
        """
        outputs = self._outputs
        take = self._sources[record.topic]
        self.record = record
        if self._idle is not None:
            self._idle.begin_anew(self.clock())
        try:
            take(record)
            due = self._next_stream_time
            if due is not None and self.stream_time >= due:
                self._fire(self._by_stream_time, self.stream_time)
            if self.cache is not None and self.cache.used > self.cache.max_bytes:
                self._flush_caches()
            if self._refused:
                self._without_places(record, 0)
            return outputs.copy()
        except StreamsError:
            raise
        except Exception as error:  # outside of the users' functions: a key that cannot be written, say
            raise self._unhandled(error, f"an operator behind {record.topic}") from error
        finally:
            outputs.clear()

    def takes_runs(self, topic: str) -> bool:
        """Whether it is worth giving several records of a topic to `process_run`."""
        return (
            self._runs
            and not self._lines
            and hasattr(self._sources[topic], "take_run")
            and self._by_stream_time.next_ms is None
            and not self._refused
        )

    def without_runs(self) -> None:
        """Take records one by one until `with_runs`, so that an output that the broker refuses has an input to be blamed."""
        self._runs = False

    def with_runs(self) -> None:
        """Take runs again: what the broker refused is behind."""
        self._runs = True

    def process_run(self, records: Sequence[InputRecord]) -> list[Output]:
        """Take consecutive records of one partition of a topic that `takes_runs`; return what comes of them, in order."""
        outputs = self._outputs
        take: Callable[[Sequence[InputRecord]], None] = self._sources[records[0].topic].take_run  # type: ignore[attr-defined]
        self.record = records[0]
        if self._idle is not None:
            self._idle.begin_anew(self.clock())
        try:
            take(records)
            if self.cache is not None and self.cache.used > self.cache.max_bytes:
                self._flush_caches()
            return outputs.copy()
        except StreamsError:
            raise
        except Exception as error:
            raise self._unhandled(error, f"an operator behind {records[0].topic}") from error
        finally:
            outputs.clear()

    def punctuate(self, now_ms: int) -> list[Output]:
        """Fire what is due by the wall clock, and return what comes of it."""
        try:
            self._fire(self._by_wall_clock, now_ms)
            if self._idle is not None and self.stream_time >= 0 and (passed_ms := self._idle.passed(now_ms)):
                self._pass_time(passed_ms)
            return self._outputs.copy()
        finally:
            self._outputs.clear()

    @property
    def next_punctuation_ms(self) -> int | None:
        """When the wall clock next has something to do here; None: never."""
        due = self._by_wall_clock.next_ms
        if self._idle is None or self.stream_time < 0:
            return due
        return self._idle.due_ms if due is None else min(due, self._idle.due_ms)

    @property
    def follows_idleness(self) -> bool:
        """Whether stream time moves on while no records come."""
        return self._idle is not None

    def on_records_due(self, now_ms: int) -> None:
        """Records are on their way, or wait: the task is not idle."""
        if self._idle is not None:
            self._idle.begin_anew(now_ms)

    def _pass_time(self, passed_ms: int) -> None:
        """Move stream time on, of the task and of every operator that has some, and let them emit what that closes."""
        record, self.record = self.record, None
        self.stream_time += passed_ms
        self.record_time = self.stream_time
        try:
            for name, times in self.times.all():
                if name in self.sub_topology.nodes and times.stream_time >= 0:
                    times.advance(times.stream_time + passed_ms)
            for idle in reversed(self._idlers):  # operators were made from the last to the first
                idle(passed_ms)
        finally:
            self.record = record
        due = self._next_stream_time
        if due is not None and self.stream_time >= due:
            self._fire(self._by_stream_time, self.stream_time)

    def flush(self) -> list[Output]:
        """Write what operators hold in memory to the stores; return what must be written with the commit."""
        try:
            try:
                self._flush_caches()
            except StreamsError:
                raise
            except Exception as error:
                raise self._unhandled(error, "the cache of a store") from error
            for flush in self._flushers:
                flush()
            if self._clock_of_task.stream_time != self.stream_time:
                self._clock_of_task.advance(self.stream_time)
            self.times.flush(self.emit, self.partition)
            return self._outputs.copy()
        finally:
            self._outputs.clear()

    # Calls of `map_async`.

    @property
    def in_flight(self) -> int:
        """How many records wait for a call."""
        return sum(map(len, self._lines)) if self._lines else 0

    @property
    def has_calls(self) -> bool:
        """Whether an operator makes calls at all."""
        return bool(self._lines)

    @property
    def is_full(self) -> bool:
        """Whether an operator has as many calls as it may have: the task takes no record now."""
        return any(line.is_full for line in self._lines)

    def collect(self) -> list[tuple[InputRecord | None, int, list[Output]]]:
        """Let records go on whose calls came back.

        Returns:
            For each the input record that it came of, the place of its first output among those of that record (for
            `refuse`), and what comes of it.

        Raises:
            RecordError: as `process`.
        """
        found: list[tuple[InputRecord | None, int, list[Output]]] = []
        before = self.record, self.record_time
        for line in self._lines:
            for finished in line.take():
                waiting = finished.waiting
                self.record, self.record_time = waiting.source, waiting.source_time
                first = waiting.number * _CALL_PLACES
                try:
                    finished.forward(waiting)
                    source = waiting.source
                    if self._refused and source is not None:
                        self._without_places(source, first)
                    if self._outputs:
                        found.append((source, first, self._outputs.copy()))
                except StreamsError:
                    raise
                except Exception as error:
                    raise self._unhandled(error, "an operator behind map_async()") from error
                finally:
                    self._outputs.clear()
                    self.record, self.record_time = before
        if not self.in_flight:
            self._call_counts.clear()
        return found

    def _without_places(self, source: InputRecord, first: int) -> None:
        places = self._refused.get((source.topic, source.offset))
        if places is None:
            return
        here = {place - first: places.pop(place) for place in list(places) if first <= place < first + _CALL_PLACES}
        if not places:
            del self._refused[source.topic, source.offset]
        if here:
            self._without(here)

    def waiting(self, key: Any, value: Any, timestamp: int, headers: Headers) -> Waiting:
        """Return the record at hand as one that waits for a call."""
        source, number = self.record, 0
        if source is not None:
            name = (source.topic, source.partition, source.offset)
            number = self._call_counts[name] = self._call_counts.get(name, 0) + 1
        return Waiting(key, value, timestamp, headers, source, self.record_time, number)

    def add_line(self, line: Line) -> None:
        """An operator has calls."""
        self._lines.append(line)

    def on_committed(self) -> None:
        """What was flushed is committed: what comes now belongs to the next transaction."""
        self.calls.retries.begin_anew()

    def _drop_calls(self) -> None:
        self.calls.retries.begin_anew()
        for line in self._lines:
            line.cancel()
        self._lines.clear()
        self._call_counts.clear()

    def close(self) -> None:
        """Close operators (users' processors among them). Stores are the caller's."""
        self._drop_caches()
        self._drop_calls()
        if self._own_calls:
            self.calls.close()
        for close in reversed(self._closers):
            close()
        self._closers.clear()

    def timestamp_of(self, record: InputRecord) -> int:
        """Return the time of a record that was not taken yet: its own, or what the source's extractor says (ms).

        A record whose time cannot be told has -1, so that it is taken at once and `process` reports it.
        """
        return self._timestamps[record.topic](record)

    def progress(self) -> Progress:
        """Return how far time has come here, for metrics: a task that gets no records does not close its windows."""
        times = {name: times.stream_time for name, times in self.times.all() if name in self.sub_topology.nodes}
        windows = {}
        for spec in self.sub_topology.stores:
            if spec.open_ms is not None:
                state = self.state(spec.name)
                windows[spec.name] = state.open_windows(
                    max((times[user] for user in self._users(spec.name)), default=-1)
                )
        behind = None if self.stream_time < 0 else self.clock() - self.stream_time
        return Progress(self.stream_time, behind, times, windows)

    def _users(self, store: str) -> list[str]:
        times = dict(self.times.all())
        nodes = self.sub_topology.nodes.values()
        return [
            node.name
            for node in nodes
            if isinstance(node, ProcessorNode) and store in node.stores and node.name in times
        ]

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
            if name in self._cached_names:
                found = self._caches[name] = cached_state(spec, self._stores[name], self)
            else:
                found = open_state(spec, self._stores[name], self)
            self._states[name] = found
        return found

    def is_global_store(self, name: str) -> bool:
        """Tell whether a store is that of a global table, which every operator may read."""
        return name in self._specs and self._specs[name].is_global

    def times_of(self, name: str, store: str | None = None) -> Times:
        """Return what an operator remembers of time; it is stored with every commit, and in the changelog of
        `store`."""
        return self.times.of(name, None if store is None else self._specs[store])

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """Return an object that operators of the task share; `make` makes it for the first that asks."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def on_close(self, close: Callable[[], None]) -> None:
        """Have something called when the task closes."""
        self._closers.append(close)

    def on_flush(self, flush: Callable[[], None]) -> None:
        """Have something called before each commit."""
        self._flushers.append(flush)

    def on_idle(self, idle: Callable[[int], None]) -> None:
        """Have something called with the ms by which stream time has moved on without a record (`idle_advance`).

        The operator's own `Times` have moved on already.
        """
        self._idlers.append(idle)

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

    def drop(self, name: str, *, is_normal: bool = False) -> None:
        """Count a record that an operator passed over, and log it, once a minute at most for each operator.

        Args:
            is_normal: nothing is lost: nobody needs to read of it.
        """
        count = self.dropped[name] = self.dropped.get(name, 0) + 1
        now_ms = self.clock()
        before_ms, before = self._told_dropped.get(name, (None, 0))
        if is_normal:
            self._told_dropped[name] = before_ms, before + 1
            return
        if before_ms is None or now_ms - before_ms >= _DROPPED_MS:
            self._told_dropped[name] = now_ms, count
            source = self.record
            logger.warning(
                "task %s: %s passed over %s, as late, without a key, or failed (%d since the last such line)",
                self.id,
                name,
                "a punctuation" if source is None else f"{source.topic}-{source.partition}, offset {source.offset}",
                count - before,
            )

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
                reason = told(error)
                if source is None:
                    raise RecordError(stage, node.name, None, None, None, reason) from error
                raise RecordError(stage, node.name, source.topic, source.partition, source.offset, reason) from error
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

    def _is_cached(self, store: str) -> bool:
        return self.cache is not None and store in self._specs and self._specs[store].cached

    def _flush_caches(self) -> None:
        """Flush every cache, in topological order, until what flows from one into another has gone through."""
        caches = [self._caches[name] for name in self._cached_names if name in self._caches]
        record, record_time = self.record, self.record_time
        while any(cache.is_pending for cache in caches):
            for cache in caches:
                cache.flush()
        self.record, self.record_time = record, record_time

    def _drop_caches(self) -> None:
        for cache in self._caches.values():
            cache.forget()
        self._caches.clear()

    def _unhandled(self, error: Exception, operator: str) -> RecordError:
        record = self.record
        if record is None:
            return RecordError("processing", operator, None, None, None, told(error))
        return RecordError("processing", operator, record.topic, record.partition, record.offset, told(error))

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
                return extract(readable(node, record), self.stream_time)
            except Exception:
                return -1

        return extracted
