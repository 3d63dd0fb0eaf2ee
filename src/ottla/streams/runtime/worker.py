"""One instance of an application: its clients, its directory, the loop around the engine. Belongs to one thread.

The engine decides; this polls, hands over what came, and tells the group's changes. Everything the engine waits for ends by
itself: a poll after `poll.ms`, other calls after `default.api.timeout.ms`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import ottla
from ottla.client.admin_errors import AdminErrors
from ottla.client.admin_results import NewTopic
from ottla.clock import Clock, SystemClock
from ottla.errors import GroupIdNotFoundError, InconsistentGroupProtocolError, KafkaError
from ottla.streams.builder import leader_topic
from ottla.streams.caching import CacheBudget
from ottla.streams.calls import LoopCalls
from ottla.streams.errors import StreamsError, TopologyError
from ottla.streams.handlers import Handlers
from ottla.streams.queries.board import Board, Standing
from ottla.streams.queries.desk import Desk
from ottla.streams.queries.routing import Routes
from ottla.streams.queries.server import StateServer
from ottla.streams.queries.wire import forwarder
from ottla.streams.runtime.assignor import MemberInfo, Owners, SubTopologyInfo, TaskAssignor
from ottla.streams.runtime.client_cluster import ClientCluster
from ottla.streams.runtime.engine import Engine
from ottla.streams.runtime.global_tables import GlobalTables
from ottla.streams.runtime.internal_topics import internal_topics
from ottla.streams.runtime.ports import OutOfRange
from ottla.streams.runtime.settings import StreamsSettings
from ottla.streams.runtime.state_host import DirectoryHost, positions_on_disk, store_kind
from ottla.streams.runtime.streams_group import StreamsGroup
from ottla.streams.runtime.tasks import Phase, copied_stores, position_of, progress
from ottla.streams.state.directory import StateDirectory
from ottla.streams.state.homes import Home
from ottla.streams.state.memory import MemoryHome
from ottla.streams.store import Store
from ottla.streams.task import Task
from ottla.streams.timers import Timer, Timers
from ottla.streams.topology import SinkNode, SourceNode, SubTopology, TaskId, Topology
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)

#: Records that are taken between two looks at the group.
_RECORDS: Final = 1000
#: How often the log says how far restoring is.
_PROGRESS_MS: Final = 2000
#: How long an instance is without tasks before the log says so, and until it says so again.
_IDLE_MS: Final = 5000
_STILL_IDLE_MS: Final = 60_000
#: How long calls of map_async may take after `stop`.
_CALLS_MS: Final = 5000
#: How often queries are told how far the committed state is.
_TELL_MS: Final = 100


class Application(Protocol):
    """What is run; `ottla.streams.App` is one."""

    @property
    def application_id(self) -> str:
        """Names the group."""
        ...

    @property
    def handlers(self) -> Handlers:
        """What becomes of records that fail."""
        ...

    @property
    def idle_advance_ms(self) -> int | None:
        """After how long without records stream time follows the wall clock; None: never."""
        ...

    @property
    def timers(self) -> Sequence[Timer]:
        """What is called by the wall clock."""
        ...

    def topology(self) -> Topology:
        """Return what it does, as data."""
        ...


class Worker:
    """One instance.

    Args:
        on_progress: called while state is restored with (records restored, records to restore), and once with two equal
            numbers at the end.
        on_tasks: called with the number of its tasks when all of them run, and again when they are others.
        on_desk: called with what answers questions about its state, and with None at the end.
        on_server: called with "host:port" when this instance answers over HTTP.
        clock: the machine's, unless it is a test's.
    """

    def __init__(
        self,
        application: Application,
        settings: StreamsSettings,
        *,
        on_progress: Callable[[int, int], object] | None = None,
        on_tasks: Callable[[int], object] | None = None,
        on_desk: Callable[[Desk | None], object] | None = None,
        on_server: Callable[[str], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.application = application
        self.settings = settings
        self.topology: Topology = application.topology()
        self._on_progress = on_progress
        self._on_tasks = on_tasks
        self._on_desk = on_desk
        self._on_server = on_server
        self._board: Board | None = None
        self._server: StateServer | None = None
        self._told_ms = 0
        #: The tasks that the log spoke of last.
        self._told_tasks: frozenset[TaskId] = frozenset()
        #: When the log says that there are no tasks, if there are none until then.
        self._idle_ms: int | None = None
        self._cache = CacheBudget(settings.cache_max_bytes)
        self._calls = LoopCalls()
        self._timers: Timers | None = None
        self._clock = clock or SystemClock()
        self._stop = threading.Event()
        self._cluster: ClientCluster | None = None
        self._engine: Engine | None = None
        self._directory: StateDirectory | None = None
        self._globals: GlobalTables | None = None
        self._counts: Mapping[str, int] = {}
        self._positions: dict[str, int] = {}
        #: Tasks with stores that do not outlive their closing.
        self._volatile: set[TaskId] = set()
        #: What the group has said last of copies, and when this member is to ask again. Written on the client's thread.
        self._copies: frozenset[TaskId] = frozenset()
        self._probe_ms: int | None = None
        #: The last of these times at which it has asked.
        self._probed_ms: int | None = None
        self._probes = 0
        self._hashes = tuple(
            SubTopologyInfo(sub.id, topology_hash(sub), tuple(sub.source_topics), bool(copied_stores(sub)))
            for sub in self.topology.tasks
        )
        self._progress_ms = 0
        self._was_restoring = False
        #: Whether the last turn took records: then there may be more at hand.
        self._busy = False

    # -- life -----------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have `run` commit, hand its tasks over and return. For any thread, and for signal handlers."""
        self._stop.set()
        cluster = self._cluster
        if cluster is not None:
            cluster.consumer.stop()

    def run(self) -> None:
        """Work until `stop`.

        Raises:
            StreamsError, KafkaError: the instance cannot go on; what was not committed comes again at the next start.
        """
        try:
            self._start()
            assert self._engine is not None
            try:
                while not self._stop.is_set():
                    self._turn()
                self._finish_calls()
                if self._timers is not None:
                    self._write_out()
            except BaseException:
                self._engine.abandon()
                raise
            self._engine.close()
            logger.info("%s: everything is committed and handed over", self.settings.application_id)
        finally:
            if self._on_desk is not None:
                self._on_desk(None)
            if self._server is not None:
                self._server.close()
            self._calls.close()
            if self._globals is not None:
                self._globals.close()
            if self._cluster is not None:
                self._cluster.close()
            if self._directory is not None:
                self._directory.close()

    def _finish_calls(self) -> None:
        """Give calls of map_async a moment to come back: what does not is called again at the next start."""
        deadline_ms = self._clock.monotonic_ms() + _CALLS_MS
        while self._running.in_flight and self._clock.monotonic_ms() < deadline_ms:
            self._running.collect()
            time.sleep(0.005)

    def _write_out(self) -> None:
        """Have written what timers have yielded, before another instance is the leader."""
        assert self._cluster is not None
        with suppress(KafkaError, TimeoutError):
            self._cluster.producer.flush()

    def _start(self) -> None:
        settings = self.settings
        self._counts = make_topics(self.topology, settings)
        directory = self._directory = StateDirectory(settings.state_dir, settings.application_id)
        self._positions = positions_on_disk(directory, self.topology)
        transactional_id = None
        if settings.engine.exactly_once:
            transactional_id = f"{settings.application_id}-{directory.process_id}-{directory.slot}"
        topics = [topic for sub in self.topology.tasks for topic in sub.source_topics]
        endpoint = self._listen()
        routes = Routes(self.topology, self._counts, endpoint)

        def on_owners(owners: Owners, generation_id: int = 0) -> None:
            routes.owners = owners

        def on_copies(tasks: frozenset[TaskId], probes: bool = False) -> None:
            self._copies = tasks
            interval_ms = settings.copies.probing_interval_ms
            self._probe_ms = self._clock.monotonic_ms() + interval_ms if probes else None

        group: TaskAssignor | StreamsGroup = TaskAssignor(self._info, on_owners, on_copies, settings.copies)
        if settings.group_protocol == "streams":
            group = StreamsGroup(
                *(settings, self.topology, self._counts, directory.process_id, endpoint), on_copies, on_owners
            )
        cluster = self._cluster = ClientCluster(
            settings,
            list(dict.fromkeys(topics)),
            group,
            transactional_id=transactional_id,
            partition_count=sum(self._counts[topic] for topic in topics),
            on_assigned=lambda partitions: self._running.on_assigned(partitions),
            on_revoked=lambda partitions: self._running.on_revoked(partitions),
            on_lost=lambda partitions: self._running.on_lost(partitions),
        )
        self._board = Board(self._clock.monotonic_ms, lambda: cluster.confirmed_ms, cluster.session_timeout_ms)
        desk = Desk(self._board, routes, forwarder(settings.application_id))
        if self._server is not None:
            self._server.start(desk)
            logger.info("%s: state is at http://%s/", settings.application_id, endpoint)
            if self._on_server is not None:
                self._on_server(endpoint)
        if self._on_desk is not None:
            self._on_desk(desk)
        host = DirectoryHost(directory, settings.default_store, self._on_homes)
        self._engine = Engine(self.topology, settings.engine, cluster, host, self._make_task, self._clock)
        cluster.admin.start()
        if any(sub.is_global for sub in self.topology.sub_topologies):
            self._globals = GlobalTables(self.topology, settings, self._make_task)
            self._globals.fill(self._stop.is_set)
        cluster.renew()
        cluster.consumer.start()
        if self.application.timers:
            wall_ms = self._clock.wall_ms()
            self._timers = Timers(self.application.timers, wall_ms, self._calls, self._is_leader, cluster.send_alone)
        logger.info(
            "%s: process %s, slot %d, state in %s",
            settings.application_id,
            directory.process_id,
            directory.slot,
            directory.path,
        )

    def _listen(self) -> str:
        """Take the port of `application.server`, and return where others reach it; "" without one."""
        if self.settings.application_server is None:
            return ""
        assert self._directory is not None
        host, port = self.settings.application_server
        slot = self._directory.slot
        process = f"{self._directory.process_id}-{slot}"
        self._server = StateServer(
            host, port + slot if port else 0, self.settings.application_id, lambda: {"process": process}
        )
        return self._server.endpoint

    @property
    def _running(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _turn(self) -> None:
        engine, cluster = self._running, self._cluster
        assert cluster is not None
        engine.standbys.want(self._copies)
        self._maybe_probe()
        engine.advance(self.settings.poll_ms)
        if self._globals is not None:
            self._globals.follow()
        self._tell_progress()
        self._tell_tasks()
        wait_ms = 0 if self._busy else engine.wait_ms(self.settings.poll_ms)
        if self._timers is not None:
            wait_ms = self._turn_timers(self._timers, wait_ms)
        try:
            for where, records in cluster.poll(_RECORDS, wait_ms):
                engine.add(where, records)
        except OutOfRange as error:
            engine.on_out_of_range(error)
        except (InconsistentGroupProtocolError, GroupIdNotFoundError) as error:
            raise StreamsError(
                f"The group {self.settings.application_id!r} has members of another kind, with another group.protocol "
                "perhaps, or of an application of Kafka Streams in Java: they never share a group. Choose "
                "another application id, or stop the others."
            ) from error
        self._busy = engine.process(_RECORDS) > 0
        engine.punctuate()
        engine.maybe_commit()
        self._tell_board()

    def _turn_timers(self, timers: Timers, wait_ms: int) -> int:
        """Call what is due; return how long records may be waited for."""
        now_ms = self._clock.wall_ms()
        timers.turn(now_ms)
        return max(min(wait_ms, (timers.next_ms or now_ms) - now_ms), 0)

    def _is_leader(self) -> bool:
        """Whether this instance has the task of the topic that makes the leader, and the group has not given it up."""
        assert self._board is not None
        topic = leader_topic(self.settings.application_id)
        return self._board.is_owner() and any(
            task.phase is Phase.RUNNING and topic in task.sub_topology.source_topics
            for task in self._running.tasks.values()
        )

    def _maybe_probe(self) -> None:
        """Have the group look again whether tasks can move to where a copy is made."""
        probe_ms = self._probe_ms
        if probe_ms is not None and probe_ms != self._probed_ms and self._clock.monotonic_ms() >= probe_ms:
            self._probed_ms = probe_ms
            self._probes += 1
            assert self._cluster is not None
            self._cluster.consumer.enforce_rebalance("copies of state may be good enough now (KIP-441)")

    def _tell_board(self) -> None:
        """Say what queries may be told, after the stores have it."""
        assert self._board is not None
        assert self._cluster is not None
        now_ms = self._clock.monotonic_ms()
        due = now_ms - self._told_ms >= _TELL_MS
        if due:
            self._told_ms = now_ms
            self._note_positions()
        wall_ms = self._clock.wall_ms()
        for task in self._running.tasks.values():
            if task.phase is not Phase.RUNNING:
                self._board.tell(task.id, None)
            elif due and task.state is not None:
                committed = dict(task.committed)
                stream_time = -1 if task.core is None else task.core.stream_time
                self._board.tell(task.id, standing(committed, self._cluster, wall_ms, now_ms, stream_time))

    def _note_positions(self) -> None:
        """Remember how far the stores here are, for the next rebalance."""
        positions = {
            task.id: position_of(task.notes[spec.name] for spec in copied_stores(task.sub_topology))
            for task in self._running.tasks.values()
            if task.phase is Phase.RUNNING and copied_stores(task.sub_topology)
        }
        for task_id, position in (positions | self._running.standbys.progress()).items():
            self._positions[str(task_id)] = position

    def _tell_progress(self) -> None:
        engine = self._running
        restoring = any(task.phase is Phase.RESTORING for task in engine.tasks.values())
        if not restoring and not self._was_restoring:
            return
        done, total = progress(engine.tasks)
        if not restoring:
            logger.info("%s: state is restored", self.settings.application_id)
            if self._on_progress is not None:
                self._on_progress(1, 1)
        else:
            now_ms = self._clock.monotonic_ms()
            if total and now_ms - self._progress_ms >= _PROGRESS_MS:
                self._progress_ms = now_ms
                logger.info(
                    "%s: %s of %s records of changelogs restored",
                    self.settings.application_id,
                    f"{done:,}",
                    f"{total:,}",
                )
            if self._on_progress is not None and total:
                self._on_progress(done, total)
        self._was_restoring = restoring

    def _tell_tasks(self) -> None:
        """Say when all tasks run that the group gave, and warn while it gives none."""
        tasks = self._running.tasks
        if not tasks:
            now_ms = self._clock.monotonic_ms()
            if self._idle_ms is None:
                self._idle_ms = now_ms + _IDLE_MS
            elif now_ms >= self._idle_ms and self._hashes:
                self._idle_ms = now_ms + _STILL_IDLE_MS
                self._told_tasks = frozenset()
                logger.warning(
                    "%s: no tasks yet. The other members of the group have them: a member that was killed counts until its "
                    "session.timeout.ms is over; members with another version of the topology keep their topics until they "
                    "stop; with more instances than tasks, some wait.",
                    self.settings.application_id,
                )
            return
        self._idle_ms = None
        if tasks.keys() != self._told_tasks and all(task.phase is Phase.RUNNING for task in tasks.values()):
            self._told_tasks = frozenset(tasks)
            logger.info("%s: runs %s", self.settings.application_id, ", ".join(map(str, sorted(tasks))))
            if self._on_tasks is not None:
                self._on_tasks(len(tasks))

    # -- what the engine and the group ask -------------------------------------------------------------------------------

    def _make_task(self, sub: SubTopology, partition: int, stores: Mapping[str, Store]) -> Task:
        shared = self._globals.stores if self._globals is not None else {}
        return Task(
            sub,
            partition,
            {**shared, **stores},
            application_id=self.settings.application_id,
            clock=self._clock.wall_ms,
            partition_count=self._partition_count,
            handlers=self.application.handlers,
            wait=self._wait,
            specs=self.topology.global_stores,
            cache=self._cache,
            calls=self._calls,
            idle_advance_ms=self.application.idle_advance_ms,
        )

    def _wait(self, seconds: float) -> None:
        """Wait before a retry; not when the instance is to stop."""
        self._stop.wait(seconds)

    def _partition_count(self, topic: str) -> int:
        assert self._cluster is not None
        found = self._counts.get(topic)
        return self._cluster.producer.partitions_for(topic) if found is None else found

    def _info(self) -> MemberInfo:
        assert self._directory is not None
        return MemberInfo(
            process=f"{self._directory.process_id}-{self._directory.slot}",
            sub_topologies=self._hashes,
            endpoint="" if self._server is None else self._server.endpoint,
            positions=dict(self._positions),
            probes=self._probes,
        )

    def _on_homes(self, task: TaskId, homes: Mapping[str, Home] | None) -> None:
        assert self._board is not None
        if homes is None:
            self._board.close(task)
            if task in self._volatile:
                self._volatile.discard(task)
                self._positions.pop(str(task), None)
        else:
            self._board.open(task, next(sub for sub in self.topology.tasks if sub.id == task.sub_topology), homes)
            if any(isinstance(home, MemoryHome) for home in homes.values()):
                self._volatile.add(task)


class Ends(Protocol):
    """What is known of the ends of partitions; `ClientCluster` is one."""

    def position(self, partition: TopicPartition, /) -> int | None: ...
    def lag(self, partition: TopicPartition, /) -> int | None: ...
    def end_asked_ms(self, partition: TopicPartition, /) -> float | None: ...


def standing(
    committed: Mapping[TopicPartition, int], ends: Ends, wall_ms: int, now_ms: float, stream_time: int
) -> Standing:
    """Return how far a task's committed state is. Its time is when the ends were asked for that its lag counts from, of
    the partition for which that is longest ago: what was written by then is in position and lag.

    Args:
        now_ms: the monotonic time at `wall_ms`.
    """
    lag: dict[str, int | None] = {}
    oldest_ms = now_ms
    for where, offset in committed.items():
        # First the time: an answer that comes in between makes the lag newer, not older.
        asked_ms, position, behind = ends.end_asked_ms(where), ends.position(where), ends.lag(where)
        if asked_ms is None or position is None or behind is None:
            lag[str(where)] = None
            continue
        lag[str(where)] = max(position + behind - offset, 0)
        oldest_ms = min(oldest_ms, asked_ms)
    positions = {str(where): offset for where, offset in committed.items()}
    time_ms = wall_ms - math.ceil(now_ms - oldest_ms)
    return Standing(positions=positions, lag=lag, time_ms=time_ms, stream_time=stream_time)


def topology_hash(sub: SubTopology) -> str:
    """Return what two members have to agree about before they share a sub-topology's tasks: operators, topics, stores."""
    nodes = []
    for node in sub.nodes.values():
        topics: tuple[str, ...] = ()
        if isinstance(node, SourceNode):
            topics = node.topics
        elif isinstance(node, SinkNode) and isinstance(node.topic, str):
            topics = (node.topic,)
        nodes.append([node.name, type(node).__name__, topics, node.parents])
    stores = [[spec.name, store_kind(spec), spec.changelog] for spec in sub.stores]
    return hashlib.sha256(json.dumps([sub.id, nodes, stores]).encode()).hexdigest()[:16]


def make_topics(topology: Topology, settings: StreamsSettings) -> Mapping[str, int]:
    """Make the internal topics that are not there; return the number of partitions of each topic that is read.

    Raises:
        TopologyError: topics that are read are not there, or have other numbers of partitions than they need.
        AdminErrors, KafkaError: a topic could not be made.
    """
    with ottla.Admin(config=settings.admin) as admin:
        known = {topic.name: topic.partitions for topic in admin.list_topics()}
        wanted, counts = internal_topics(topology, known, settings.topic)
        missing = [topic for topic in wanted if topic.name not in known]
        if missing:
            factor = settings.replication_factor
            try:
                admin.create_topics(
                    [
                        NewTopic(
                            name=topic.name,
                            partitions=topic.partitions,
                            replication_factor=None if factor < 0 else factor,
                            configs=topic.configs,
                        )
                        for topic in missing
                    ],
                    exists_ok=True,
                )
            except AdminErrors as error:
                raise TopologyError(f"internal topics could not be made: {error}") from error
            # Another instance may have made them first, with its idea of their partitions.
            known = {topic.name: topic.partitions for topic in admin.list_topics()}
            internal_topics(topology, known, settings.topic)
            logger.info("made %s", ", ".join(topic.name for topic in missing))
    return counts
