"""What the pages and DescribeLogDirs show of a running broker: plain values, gathered when they are asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.group import GroupType
from ottla.broker.coordinators.share.coordinator import lag_of
from ottla.broker.coordinators.share.records import ShareKey
from ottla.broker.handlers.cluster import LogDirInfo, ReplicaInfo
from ottla.broker.http.coordinator_metrics import CoordinatorFacts, coordinator_facts
from ottla.broker.http.gauges import process_gauges
from ottla.broker.http.lag_ages import LagAges
from ottla.broker.http.pages import CommittedOffset, GroupFacts, PartitionFacts, is_internal
from ottla.broker.http.quota_metrics import quota_metrics
from ottla.cluster.decisions.reassignment import is_reassigned
from ottla.cluster.tree import SessionState
from ottla.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ottla.broker.broker import Broker
    from ottla.broker.coordinators.groups.modern.assignor import Assignment
    from ottla.broker.http.broker_facts import BrokerFacts
    from ottla.broker.replicas.relocations import Future
    from ottla.cluster.image import PartitionImage
    from ottla.observability.metrics import BrokerMetrics
    from ottla.storage.log_manager import LogManager


#: How many partitions that cannot be read the page names.
UNREADABLE_NAMED = 5


class LiveFacts:
    """Answers `ottla.broker.http.pages.Facts` from a broker's parts."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ages = LagAges(broker.logs.clock)

    @property
    def broker(self) -> BrokerFacts:
        return self._broker.facts()

    @property
    def metrics(self) -> BrokerMetrics:
        return self._broker.metrics

    @property
    def ready(self) -> bool:
        return self._broker.is_ready

    @property
    def problem(self) -> str | None:
        offline = self._broker.logs.offline_dirs
        return "; ".join(f"log directory {path} is offline: {reason}" for path, reason in offline.items()) or None

    @property
    def shortage(self) -> str | None:
        short = self._broker.logs.shortages.by_directory
        return "; ".join(f"log directory {path}: {shortage}" for path, shortage in short.items()) or None

    @property
    def unreadable(self) -> str | None:
        logs = self._broker.logs
        damaged, unusable = sorted(logs.damages().keys() - logs.unusable.keys()), sorted(logs.unusable.items())
        sentences = [f"{topic_partition}: {reason}" for topic_partition, reason in unusable[:UNREADABLE_NAMED]]
        if len(unusable) > UNREADABLE_NAMED:
            sentences.append(f"{len(unusable) - UNREADABLE_NAMED} more partitions are not served: the log says why")
        if damaged:
            names = ", ".join(str(topic_partition) for topic_partition in damaged[:UNREADABLE_NAMED])
            more = f" and {len(damaged) - UNREADABLE_NAMED} more" if len(damaged) > UNREADABLE_NAMED else ""
            sentences.append(f"a part of {names}{more} cannot be read: `ottla log check` says what is wrong")
        return "; ".join(sentences) or None

    def unreadable_partitions(self) -> Sequence[tuple[str, int, int]]:
        logs = self._broker.logs
        found = {
            topic_partition: sum(damage.end - damage.position for _, damage in damages)
            for topic_partition, damages in logs.damages().items()
        }
        found |= dict.fromkeys(logs.unusable, -1)
        return [(topic, index, size) for (topic, index), size in sorted(found.items())]

    @property
    def takes_appends(self) -> bool:
        logs = self._broker.logs
        return any(path not in logs.shortages.by_directory for path in logs.online_dirs)

    def directories(self) -> Sequence[tuple[str, bool, bool]]:
        logs = self._broker.logs
        return [
            (path, path in logs.offline_dirs, path in logs.shortages.by_directory)
            for path in dict.fromkeys([*logs.directories, *logs.offline_dirs])
        ]

    @property
    def uptime_seconds(self) -> float:
        return self._broker.uptime_seconds

    def replication(self) -> Iterable[tuple[str, str, str, float]]:
        broker = self._broker
        isrs, replicas = broker.replication.isrs, broker.replicas
        manager = "kafka_server_replicamanager_"
        lag = max((p.follower.lag for p in replicas.replicas() if p.follower is not None), default=0)
        is_controller = int(broker.image.controller_id == broker.config.node_id)
        elections, unclean = broker.controller.elections
        statistics = "kafka_controller_controllerstats_"
        moving = sum(_is_moving(broker.image.partition(p.topic_partition)) for p in replicas.replicas() if p.is_led)
        return (
            (
                manager + "isrshrinkspersec",
                "counter",
                "Times that ISRs of partitions led here lost a member.",
                isrs.shrinks,
            ),
            (manager + "isrexpandspersec", "counter", "Times that they gained one.", isrs.expansions),
            (
                "kafka_server_replicafetchermanager_maxlag",
                "gauge",
                "Committed records that a replica here is behind its leader, the largest number.",
                lag,
            ),
            (
                "ottla_replicas_refusing_to_follow",
                "gauge",
                "Replicas that would have to give up committed records, and are offline until an operator decides.",
                len(replicas.refused()),
            ),
            (
                "kafka_controller_kafkacontroller_activecontrollercount",
                "gauge",
                "1 if this broker is the controller.",
                is_controller,
            ),
            (
                "kafka_controller_kafkacontroller_activebrokercount",
                "gauge",
                "Brokers that are registered.",
                len(broker.image.brokers),
            ),
            (
                statistics + "leaderelectionrateandtimems_count",
                "counter",
                "Leaders that this broker has elected as the controller.",
                elections,
            ),
            (
                statistics + "uncleanleaderelectionspersec",
                "counter",
                "Those of them that may lack acknowledged records.",
                unclean,
            ),
            (
                "kafka_server_sessionexpirelistener_zookeeperdisconnectspersec",
                "counter",
                "Times that the coordination tree could not be reached.",
                broker.sessions.disconnects,
            ),
            (
                "kafka_server_sessionexpirelistener_zookeeperexpirespersec",
                "counter",
                "Sessions with the coordination tree that have ended.",
                broker.sessions.ended,
            ),
            (
                manager + "reassigningpartitions",
                "gauge",
                "Partitions led here whose replicas are being changed.",
                moving,
            ),
        )

    def replica_lags(self) -> Sequence[tuple[str, int, int, int]]:
        found = []
        for replica in self._broker.replicas.replicas():
            if replica.follower is not None:
                state = self._broker.image.partition(replica.topic_partition)
                leader = -1 if state is None else state.leader
                found.append((*replica.topic_partition, leader, replica.follower.lag))
        return found

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        yield from process_gauges(self._broker.monitor, self._broker.descriptor_limit)
        sessions = self._broker.sessions
        yield (
            "ottla_tree_session_connected",
            "1 if the session with the coordination tree is connected: leaders, topics and settings can change.",
            int(sessions.tree.state is SessionState.CONNECTED),
        )
        yield "ottla_tree_sessions", "Sessions with the coordination tree since the start.", sessions.begun

    def warnings(self) -> Sequence[str]:
        return self._broker.old_records.sentences()

    def coordinators(self) -> CoordinatorFacts:
        parts, clock = self._broker.coordinators, self._broker.logs.clock
        return coordinator_facts(parts.groups, parts.transactions, parts.markers, clock.wall_ms())

    def telemetry(self) -> Iterable[tuple[str, str, str, float]]:
        return self._broker.telemetry.counters()

    def client_metrics(self) -> Iterable[bytes]:
        return self._broker.telemetry.client_metrics()

    def quotas(self) -> Iterable[bytes]:
        quotas = self._broker.quotas
        return quota_metrics(quotas.facts(asyncio.get_running_loop().time() * 1000), quotas.exempt_ms)

    def brokers(self) -> Sequence[tuple[int, str]]:
        own = self.broker
        return [
            (
                broker.node_id,
                own.addresses[0]
                if broker.node_id == own.node_id
                else ", ".join(f"{e.host or 'localhost'}:{e.port}" for e in broker.endpoints),
            )
            for broker in self._broker.image.brokers.values()
        ]

    @property
    def controller_id(self) -> int:
        return self._broker.image.controller_id

    def topics(self) -> Sequence[str]:
        return sorted(self._broker.image.topics, key=lambda name: (is_internal(name), name))

    def partitions(self, topic: str) -> Sequence[PartitionFacts]:
        known = self._broker.image.topics.get(topic)
        found = []
        for index, state in enumerate(known.partitions if known is not None else ()):
            partition = self._broker.replicas.partition(topic, index)
            log = None if partition is None else partition.log
            found.append(
                PartitionFacts(
                    index,
                    state.leader,
                    state.replicas,
                    state.isr,
                    -1 if log is None else log.log_start_offset,
                    -1 if log is None else log.high_watermark,
                    -1 if log is None else log.log_end_offset,
                    -1 if log is None else log.size,
                    1 if log is None else log.config.min_insync_replicas,
                )
            )
        return found

    def groups(self) -> Sequence[str]:
        try:
            return sorted(
                group.group_id
                for listed in self._broker.coordinators.groups.read_all(lambda shard: shard.list_groups((), ()))
                for group in listed
            )
        except KafkaError:
            return []  # loading: known in a moment

    def group(self, group_id: str) -> GroupFacts | None:
        groups = self._broker.coordinators.groups
        try:
            summary, offsets, shared = groups.read(
                groups.partition_for(group_id),
                lambda shard: (
                    shard.summarize_group(group_id),
                    shard.fetch_all_offsets(group_id, stable=False),
                    shard.shares.states.initialized_partitions(group_id),
                ),
            )
        except KafkaError:
            return None
        if summary is None:
            return None
        if summary.group_type is GroupType.SHARE:
            shown: Iterable[CommittedOffset] = self._share_offsets(group_id, shared)
        else:
            shown = (
                self._committed(topic, index, fetched.offset)
                for topic, partitions in sorted(offsets.items())
                for index, fetched in sorted(partitions.items())
            )
        return GroupFacts(group_id, summary.group_type.value, summary.state, summary.member_count, shown)

    def _committed(self, topic: str, index: int, offset: int) -> CommittedOffset:
        partition = self._broker.replicas.partition(topic, index)
        if partition is None:
            return CommittedOffset(topic, index, offset, 0)
        lag = max(partition.log.high_watermark - offset, 0)
        return CommittedOffset(topic, index, offset, lag, self._ages.age_seconds(partition, offset))

    def _share_offsets(self, group_id: str, shared: Assignment) -> Iterator[CommittedOffset]:
        """Where a share group is; partitions that no member has read yet have no offset, as in kafka-share-groups."""
        names = self._broker.image.topic_names
        topics = sorted((names[topic_id], topic_id) for topic_id in shared if topic_id in names)
        for name, topic_id in topics:
            for index in sorted(shared[topic_id]):
                one = self._share_offset(ShareKey(group_id, topic_id, index), name)
                if one is not None:
                    yield one

    def _share_offset(self, key: ShareKey, topic: str) -> CommittedOffset | None:
        states, partition = (
            self._broker.coordinators.share_states,
            self._broker.replicas.partition(topic, key.partition),
        )
        try:
            summary = states.read(states.partition_for(key.coordinator_key), lambda shard: shard.summarize(key))
        except KafkaError:
            return None  # loading: known in a moment
        if partition is None:
            return None
        lag = lag_of(summary.start_offset, summary.delivery_complete_count, partition.log.high_watermark)
        if lag < 0:
            return None
        age = self._ages.age_seconds(partition, summary.start_offset) if lag else 0.0
        return CommittedOffset(topic, key.partition, summary.start_offset, lag, age)


def _is_moving(state: PartitionImage | None) -> bool:
    return state is not None and is_reassigned(state)


class LogDirFacts:
    """Answers DescribeLogDirs: sizes of logs, room on the disks, which directories are offline."""

    def __init__(self, logs: LogManager, futures: Callable[[], Iterable[Future]] = tuple) -> None:
        self._logs = logs
        self._futures = futures

    async def describe(self) -> list[LogDirInfo]:
        found = []
        for path in dict.fromkeys([*self._logs.directories, *self._logs.offline_dirs]):
            if path in self._logs.offline_dirs:
                found.append(LogDirInfo(path, False, -1, -1, ()))
                continue
            try:
                total, usable = await self._logs.offload_of(path).run(self._logs.files.disk_usage, path)
            except OSError:
                total = usable = -1
            replicas = [
                ReplicaInfo(*topic_partition, log.size)
                for topic_partition, log in list(self._logs.logs.items())  # topics come and go on other threads
                if log.log_directory == path
            ]
            replicas += [
                ReplicaInfo(*future.topic_partition, future.size, future.offset_lag, is_future=True)
                for future in self._futures()
                if future.directory == path
            ]
            found.append(LogDirInfo(path, True, total, usable, tuple(replicas)))
        return found
