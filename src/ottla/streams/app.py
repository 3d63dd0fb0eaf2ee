"""An application: what it reads, does and writes, and under which name."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ottla.client.keys import Duration
from ottla.streams.agents import AgentFunction
from ottla.streams.builder import Builder
from ottla.streams.columns import ColumnStream, column_stream, row_serde
from ottla.streams.description import Description
from ottla.streams.errors import StreamsError, TopologyError, need_topic
from ottla.streams.handlers import Handlers, make_handler
from ottla.streams.joins import GlobalTable
from ottla.streams.operators.agents import handing_over
from ottla.streams.operators.tables import SourceView, table_source
from ottla.streams.serdes import RAW, make_serde
from ottla.streams.stream import Stream
from ottla.streams.table import Table
from ottla.streams.timers import Following, OnTimerError, Timer, by_cron, every, make_timer
from ottla.streams.topology import SourceNode, StoreKind, Topology
from ottla.streams.windows import history_ms, positive_ms

if TYPE_CHECKING:
    from ottla.streams.driver import Driver
    from ottla.streams.queries.desk import Desk
    from ottla.streams.queries.store import StoreView

Guarantee = Literal["at_least_once", "exactly_once_v2"]


K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound=AgentFunction)
T = TypeVar("T", bound=Callable[[], "Awaitable[Any] | AsyncIterator[Any]"])


class App:
    """One streams application.

    app = App("shouting", "localhost:9092")
    app.stream("lines", value=str).map_values(str.upper).to("shouts")
    app.run()
    """

    def __init__(
        self,
        application_id: str,
        bootstrap_servers: str | None = None,
        *,
        processing_guarantee: Guarantee = "at_least_once",
        on_deserialization_error: Any = "fail",
        on_processing_error: Any = "fail",
        on_production_error: Any = "fail",
        default_key: Any = None,
        default_value: Any = None,
        reuse_source_topics: bool = False,
        idle_advance: Duration | None = None,
        **settings: Any,
    ) -> None:
        """Begin an app; nothing is connected before `run()`.

        Args:
            application_id: names the group, and begins the names of internal topics. Letters, digits, dots, - and _.
            bootstrap_servers: "host:port, ..."; without it KAFKA_BOOTSTRAP_SERVERS counts.
            on_deserialization_error, on_processing_error, on_production_error: what becomes of records that cannot be
                read, processed or written: "fail", "skip", DeadLetter(topic), Retry(delays), or a function of the
                FailedRecord that returns one of them.
            default_key, default_value: how keys and values are written between operators and in stores where nothing
                else is said: text and JSON.
            reuse_source_topics: the stores of `table()` are restored from their source topics, which must be compacted,
                and have no changelog of their own. Changing it later needs a reset.
            idle_advance: when a task has had no records for so long, by the wall clock, its stream time follows that clock:
                windows close, and joins give up waiting. What comes later than its grace then is late. Off without it:
                stream time moves only with records.
            settings: keys of the configuration, with _ for . (`commit_interval_ms="1s"`), or
                `config={"commit.interval.ms": ...}`.
        """
        if not application_id or not all(letter.isalnum() or letter in "._-" for letter in application_id):
            raise TopologyError(f"an application id has letters, digits, '.', '_' and '-', not {application_id!r}")
        if processing_guarantee not in ("at_least_once", "exactly_once_v2"):
            raise ValueError(
                f'processing_guarantee is "at_least_once" or "exactly_once_v2", not {processing_guarantee!r}'
            )
        self.application_id = application_id
        self.bootstrap_servers = bootstrap_servers
        self.processing_guarantee = processing_guarantee
        self.settings = settings
        self._desk: Desk | None = None
        #: What is called by the wall clock.
        self.timers: list[Timer] = []
        self._stops: list[Callable[[], None]] = []
        self.handlers: Handlers = Handlers(
            deserialization=make_handler("on_deserialization_error", on_deserialization_error),
            processing=make_handler("on_processing_error", on_processing_error),
            production=make_handler("on_production_error", on_production_error),
        )
        self._reuse_source_topics = reuse_source_topics
        #: None: off.
        self.idle_advance_ms: int | None = None if idle_advance is None else positive_ms("idle_advance", idle_advance)
        self._builder = Builder(
            application_id, make_serde("default_key", default_key, key=True), make_serde("default_value", default_value)
        )

    @overload
    def stream(
        self,
        *topics: str,
        key: type[K],
        value: type[V],
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
        columns: Literal[False] = ...,
    ) -> Stream[K, V]: ...
    @overload
    def stream(
        self,
        *topics: str,
        key: type[K],
        value: Any = ...,
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
        columns: Literal[False] = ...,
    ) -> Stream[K, Any]: ...
    @overload
    def stream(
        self,
        *topics: str,
        key: Any = ...,
        value: type[V],
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
        columns: Literal[False] = ...,
    ) -> Stream[Any, V]: ...
    @overload
    def stream(
        self,
        *topics: str,
        key: Any = ...,
        value: Any = ...,
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
        columns: Literal[False] = ...,
    ) -> Stream[Any, Any]: ...
    @overload
    def stream(
        self,
        *topics: str,
        key: Any = ...,
        value: Any = ...,
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
        columns: Literal[True],
    ) -> ColumnStream: ...
    def stream(
        self,
        *topics: str,
        key: Any = bytes,
        value: Any = bytes,
        timestamp: Callable[[Any, int], int] | None = None,
        offset_reset: Literal["earliest", "latest"] | None = None,
        name: str | None = None,
        on_error: Any = None,
        columns: bool = False,
    ) -> Any:
        """Read topics as a stream of records.

        Args:
            key, value: how they are read: bytes, str, int, float, "json", a dataclass, a msgspec struct, a pydantic
                model, or a serde (`ottla.serde`).
            timestamp: a function of (record, stream time in ms) that returns the record's time in ms; without it the
                record's own counts.
            offset_reset: where to begin without a commit; without it as the app says.
            on_error: for records that cannot be read; without it as the app says.
            columns: return rows with fields, for expressions (`ottla.streams.col`) instead of functions. Values are JSON
                objects, or what `value=` says: a dataclass, a msgspec struct, a pydantic model.
        """
        if not topics:
            raise TopologyError("stream() needs the name of a topic")
        if columns:
            value = row_serde(value)
        builder = self._builder
        node_name = builder.name(name, "KSTREAM-SOURCE-")
        key_serde, value_serde = make_serde("key", key, key=True) or RAW, make_serde("value", value) or RAW
        node = builder.source(
            SourceNode(
                name=node_name,
                topics=topics,
                key_serde=key_serde,
                value_serde=value_serde,
                timestamp=timestamp,
                offset_reset=offset_reset,
                on_error=None if on_error is None else make_handler("on_error", on_error),
            )
        )
        stream: Stream[Any, Any] = Stream(
            builder, node_name, node, key_serde, value_serde, frozenset([node]), repartition=False
        )
        return column_stream(stream, value_serde) if columns else stream

    @overload
    def table(
        self,
        topic: str,
        *,
        key: type[K],
        value: type[V],
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        store: str | None = ...,
        history_retention: Duration | None = ...,
        home: str = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Table[K, V]: ...
    @overload
    def table(
        self,
        topic: str,
        *,
        key: type[K],
        value: Any = ...,
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        store: str | None = ...,
        history_retention: Duration | None = ...,
        home: str = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Table[K, Any]: ...
    @overload
    def table(
        self,
        topic: str,
        *,
        key: Any = ...,
        value: type[V],
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        store: str | None = ...,
        history_retention: Duration | None = ...,
        home: str = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Table[Any, V]: ...
    @overload
    def table(
        self,
        topic: str,
        *,
        key: Any = ...,
        value: Any = ...,
        timestamp: Callable[[Any, int], int] | None = ...,
        offset_reset: Literal["earliest", "latest"] | None = ...,
        store: str | None = ...,
        history_retention: Duration | None = ...,
        home: str = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Table[Any, Any]: ...
    def table(
        self,
        topic: str,
        *,
        key: Any = bytes,
        value: Any = bytes,
        timestamp: Callable[[Any, int], int] | None = None,
        offset_reset: Literal["earliest", "latest"] | None = None,
        store: str | None = None,
        history_retention: Duration | None = None,
        home: str = "default",
        name: str | None = None,
        on_error: Any = None,
    ) -> Table[Any, Any]:
        """Read a topic as a table: the last value of each key; None deletes. Records without a key are dropped.

        Args:
            store: the name under which it can be asked for. Without one it is only stored where an operator needs it.
            history_retention: keep versions of each value for so long, in stream time (KIP-889): streams then join what the
                table held at a record's time, and what comes late takes its place among them.
        """
        builder = self._builder
        key_serde, value_serde = make_serde("key", key, key=True) or RAW, make_serde("value", value) or RAW
        store_name = builder.store_name(store, f"{topic}-")
        source = builder.name(f"{name}-source" if name else None, "KSTREAM-SOURCE-")
        node = builder.name(name, "KTABLE-SOURCE-")
        reused = topic if self._reuse_source_topics else None
        history = history_ms(history_retention)
        view = SourceView(
            builder,
            node,
            store_name,
            lambda: builder.table_store(
                *(store_name, key_serde, value_serde),
                history_ms=history,
                generated=store is None,
                home=home,
                changelog=reused,
            ),
            materialized=False,
            is_versioned=history is not None,
        )
        read = builder.source(
            SourceNode(
                name=source,
                topics=(topic,),
                key_serde=key_serde,
                value_serde=value_serde,
                timestamp=timestamp,
                offset_reset=offset_reset,
                on_error=None if on_error is None else make_handler("on_error", on_error),
            )
        )
        builder.processor(node, lambda context: table_source(view)(context), [read])
        if store is not None or history is not None:
            view.materialize()
        return Table(builder, node, view, key_serde, value_serde, frozenset([read]))

    def global_table(
        self,
        topic: str,
        *,
        key: Any = bytes,
        value: Any = bytes,
        store: str | None = None,
        home: str = "default",
        name: str | None = None,
        on_error: Any = None,
    ) -> GlobalTable:
        """Read a topic as a table that every instance holds whole, whatever its partitions. Streams join it by any
        key."""
        builder = self._builder
        key_serde, value_serde = make_serde("key", key, key=True) or RAW, make_serde("value", value) or RAW
        store_name = builder.store_name(store, f"{topic}-")
        source = builder.name(f"{name}-source" if name else None, "KSTREAM-SOURCE-")
        node = builder.name(name, "KTABLE-SOURCE-")
        builder.source(
            SourceNode(
                name=source,
                topics=(topic,),
                key_serde=key_serde,
                value_serde=value_serde,
                offset_reset="earliest",
                on_error=None if on_error is None else make_handler("on_error", on_error),
                is_global=True,
            )
        )
        builder.key_value_store(
            store_name, key_serde, value_serde, logged=False, home=home, generated=store is None, is_global=True
        )
        table = GlobalTable(builder, store_name)
        builder.processor(node, table_source(table._view), [source], [store_name])
        return table

    def add_store(
        self,
        name: str,
        *,
        key: Any = None,
        value: Any = None,
        history_retention: Duration | None = None,
        ttl: Duration | None = None,
        logged: bool = True,
        home: str = "default",
    ) -> str:
        """Add a store of keys and values for `process()`; return its name.

        Args:
            history_retention: keep versions of each value for so long, in stream time (KIP-889): `get(key, as_of=ms)` is the
                value that was valid then. What is put comes in any order; its timestamp says where it belongs.
            ttl: a value is gone when stream time has passed its timestamp by so much, and deleted in the changelog. What is
                written anew lives anew.
            logged: its changes go to a changelog, from which it is restored. Without one it is gone with the machine.
        """
        key_serde, value_serde = make_serde("key", key, key=True), make_serde("value", value)
        history = history_ms(history_retention)
        if ttl is not None:
            if history is not None:
                raise TopologyError(f"the store {name} has versions or a time to live, not both")
            return self._builder.expiring_store(
                name, key_serde, value_serde, ttl_ms=positive_ms("ttl", ttl), logged=logged, home=home
            )
        if history is None:
            return self._builder.key_value_store(
                name, key_serde, value_serde, kind=StoreKind.KEY_VALUE, logged=logged, home=home
            )
        if not logged:
            raise TopologyError(f"the store {name} has versions: its changes go to a changelog (logged=True)")
        return self._builder.versioned_store(name, key_serde, value_serde, retention_ms=history, home=home)

    def agent(
        self,
        source: str | Stream[Any, Any],
        *,
        key: Any = bytes,
        value: Any = bytes,
        to: str | None = None,
        offset_reset: Literal["earliest", "latest"] | None = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Callable[[F], F]:
        """Have a coroutine take the records of a topic, or of a stream, one after the other.

        @app.agent("payments", key=str, value=Payment, to="suspicious")
        async def check(records):
            async for record in records:
                if await looks_odd(record.value):
                    yield record.value

        Each task has a coroutine of its own. A record is done, and can be committed, when the agent asks for the next one: at
        least once, so agents are refused under exactly_once_v2. One that raises is begun anew with the next record.

        Args:
            source: a topic, which is read as `stream()` reads it, or a stream of this app.
            key, value: how records of a topic are read.
            to: the topic that what the agent yields is written to, under the key and the time of the record at hand. A
                `Record` that it yields is written as it is.
            name: of the operator; without it the function's name.
            on_error: what becomes of the record, or the batch, at which the agent raised; else as the app says.
        """
        self._at_least_once("@app.agent")
        if isinstance(source, str):
            stream = self.stream(source, key=key, value=value, offset_reset=offset_reset)
        elif key is not bytes or value is not bytes or offset_reset is not None:
            raise TopologyError("@app.agent of a stream takes no key=, value= or offset_reset=: the stream has them")
        else:
            stream = source

        def take(function: F) -> F:
            yields = inspect.isasyncgenfunction(function)
            if not (yields or inspect.iscoroutinefunction(function)):
                raise TopologyError(f"@app.agent needs an `async def`, not {function!r}")
            called = name or f"agent-{function.__name__}"
            if yields and to is None:
                raise TopologyError(f"{called} yields, and nothing says where to: @app.agent(..., to=topic)")
            made = stream._other(
                called, "KSTREAM-AGENT-", handing_over(called, function), value=None, on_error=on_error
            )
            if to is not None:
                made.to(to, name=f"{called}-sink")
            return function

        return take

    def timer(
        self,
        interval: Duration,
        *,
        on_leader: bool = False,
        to: str | None = None,
        on_error: OnTimerError = "fail",
        name: str | None = None,
    ) -> Callable[[T], T]:
        """Call an `async def` again and again while an instance runs.

        @app.timer("10s")
        async def beat():
            await tell_monitoring()

        Refused under exactly_once_v2: what it does and writes is in no transaction.

        Args:
            interval: from the start to the first call, and between calls. If the last call still runs, it is passed over.
            on_leader: on one instance only, whichever has the task of the app's internal topic "<app>-leader-repartition".
            to: the topic that what the function yields is written to: values, or a `Record` with a key.
            on_error: when it raises, the app stops ("fail"), or the log says so and it is called again ("skip").
        """
        return self._timer("@app.timer", every(interval), on_leader, to, on_error, name)

    def cron(
        self,
        expression: str,
        *,
        timezone: str = "UTC",
        on_leader: bool = False,
        to: str | None = None,
        on_error: OnTimerError = "fail",
        name: str | None = None,
    ) -> Callable[[T], T]:
        """Call an `async def` when a cron expression says. Needs `ottla[cron]`.

        @app.cron("30 9 * * mon-fri", timezone="Europe/Amsterdam", on_leader=True)
        async def report(): ...

        A time at which no instance runs is not made up for.

        Args:
            expression: minute, hour, day of the month, month, day of the week, as in Debian's cron; six fields begin with
                seconds.
            timezone: in which the expression counts. Of hours that a clock change skips or repeats, jobs at fixed times run
                once, as in Debian's cron.
            on_leader, to, on_error, name: as for `timer`.
        """
        return self._timer("@app.cron", by_cron(expression, timezone), on_leader, to, on_error, name)

    def _timer(
        self,
        decorator: str,
        following: Following,
        on_leader: bool,
        to: str | None,
        on_error: OnTimerError,
        name: str | None,
    ) -> Callable[[T], T]:
        self._at_least_once(decorator)
        if to is not None:
            need_topic(decorator, to)

        def take(function: T) -> T:
            timer = make_timer(decorator, function, following, on_leader=on_leader, on_error=on_error, to=to, name=name)
            if timer.name in [each.name for each in self.timers]:
                raise TopologyError(f"there are two timers named {timer.name!r}; give one of them another name=")
            self.timers.append(timer)
            self._builder.needs_leader |= on_leader
            return function

        return take

    def _at_least_once(self, decorator: str) -> None:
        if self.processing_guarantee != "at_least_once":
            raise TopologyError(
                f"{decorator} works at least once: what it does is in no transaction. Put it into an app with "
                'processing_guarantee="at_least_once", or use operators, map_async() or schedules of process()'
            )

    def topology(self) -> Topology:
        """Return what was written so far, as data.

        Raises:
            TopologyError: it cannot work as it is.
        """
        return self._builder.build()

    def check(self) -> list[str]:
        """Return, as sentences, what will hurt later: stores and repartition topics that were named by counting.

        Such a name changes when an operator is added before it, and then its state is not found any more.

        Raises:
            TopologyError: the topology cannot work as it is.
        """
        topology = self.topology()
        stores = [spec for sub in topology.sub_topologies for spec in sub.stores if spec.generated_name]
        topics = [topic for topic in topology.repartition_topics.values() if topic.generated_name]
        return [
            *(
                f"The store {spec.name} has a name that was made by counting: an operator more or less before it changes "
                "it, and its state is lost. Give it one (store=)."
                for spec in stores
                if not spec.is_global and spec.kind is not StoreKind.TIMES
            ),
            *(
                f"The repartition topic {topic.name} has a name that was made by counting: an operator before it changes "
                "it, and records in it are lost. Give it one (name=)."
                for topic in topics
            ),
        ]

    def describe(self) -> Description:
        """Return the topology as text (`print` it) and as a picture (`.svg()`, `.mermaid()`, and in notebooks)."""
        return Description(self.topology())

    def run(self) -> None:
        """Run one instance in this process until SIGTERM, Ctrl-C or `stop()`: then it commits, hands its tasks over, and
        returns.

        `ottla streams run module:app --processes 4` runs several. docs/streams.md lists the keys that keywords (with _
        for .) and `config=` take.

        Raises:
            StreamsError, KafkaError: it cannot go on; what was not committed comes again at the next start.
            ConfigurationError: a key is unknown, or has a value it cannot have.
        """
        from ottla.streams.runtime.run import run

        run(self)

    def stop(self) -> None:
        """Have what runs of the app in this process commit, hand its tasks over and return from `run()`.

        For any thread, an operator's among them. It does not wait; nothing happens if nothing runs.
        """
        for stop in list(self._stops):
            stop()

    def on_run(self, stop: Callable[[], None]) -> None:
        """Keep what stops an instance that begins; the runtime calls it."""
        self._stops.append(stop)

    def on_end(self, stop: Callable[[], None]) -> None:
        """Forget an instance that has ended; the runtime calls it."""
        self._stops.remove(stop)

    def store(self, name: str) -> StoreView:
        """Return a store of the running app, to ask from any thread of this process: `app.store("users")["anna"]`.

        Rows are those of the last commit. Those that other instances have are asked there, if the instances have an
        `application.server`.

        Raises:
            StreamsError: no instance runs in this process.
            UnknownStoreError: it has no such store.
        """
        from ottla.streams.queries.store import StoreView

        desk = self._desk
        if desk is None:
            raise StreamsError(
                f"{self.application_id} does not run in this process: there is nothing to ask. Elsewhere, ask an instance "
                "over HTTP (application.server)."
            )
        return StoreView(desk, desk.routes.spec(name))

    def on_desk(self, desk: Desk | None) -> None:
        """Keep what answers questions about the state of the running instance; the runtime calls it."""
        self._desk = desk

    def test(
        self, *, partitions: int = 1, at: Any = None, cache_max_bytes: int = 0, commit_interval: Duration = 0
    ) -> Driver:
        """Return a driver that runs the app in this process, without a broker, in virtual time.

        Without caches, and with a commit after each record, unless `cache_max_bytes` (statestore.cache.max.bytes) and
        `commit_interval` say otherwise.

        with app.test() as driver:
            driver.topic("lines").pipe("a", "hello")
            assert driver.topic("shouts").read() == [("a", "HELLO")]
        """
        from ottla.streams.driver import Driver

        return Driver(
            self, partitions=partitions, at=at, cache_max_bytes=cache_max_bytes, commit_interval=commit_interval
        )
