"""Broker: builds the parts in order, starts them, stops them. The only place where wiring happens.

Order of a start: take the data directories, open the coordination tree, load the image, bind the listeners, open the logs
(they need the topics' configurations), become controller, hand out roles, load coordinators, accept. A stop goes back.
What can go wrong at a start raises one of `START_ERRORS`, whose text is one sentence for the user.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ottla
from ottla.broker.addresses import Addresses
from ottla.broker.coordinator_log import ReplicatedCoordinatorLog
from ottla.broker.coordinators.background_runner import BackgroundRunner
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
from ottla.broker.coordinators.runtime import CoordinatorRuntime, RuntimeConfig
from ottla.broker.coordinators.shard import DeletedTopic
from ottla.broker.coordinators.share.config import ShareCoordinatorConfig
from ottla.broker.coordinators.share.coordinator import ShareCoordinator
from ottla.broker.coordinators.transactions.config import TransactionConfig
from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
from ottla.broker.descriptors import cached_files_max, connections_max, shortage
from ottla.broker.dispatch import Dispatcher
from ottla.broker.facts import LiveFacts, LogDirFacts
from ottla.broker.handlers.cluster import ClusterHandlers
from ottla.broker.handlers.configs import ConfigHandlers
from ottla.broker.handlers.consumer_groups import ConsumerGroupsHandler
from ottla.broker.handlers.features import FeaturesHandler
from ottla.broker.handlers.fetch import FetchHandler
from ottla.broker.handlers.groups import GroupsHandler
from ottla.broker.handlers.log_offsets import LogOffsetHandlers
from ottla.broker.handlers.loggers import PythonLoggers
from ottla.broker.handlers.metadata import MetadataHandler
from ottla.broker.handlers.offsets import OffsetsHandler
from ottla.broker.handlers.produce import ProduceHandler
from ottla.broker.handlers.producer_ids import ProducerHandlers
from ottla.broker.handlers.share_fetch import ShareFetchHandler
from ottla.broker.handlers.share_group_offsets import ShareGroupOffsetsHandler
from ottla.broker.handlers.share_groups import ShareGroupsHandler
from ottla.broker.handlers.share_state import ShareStateHandlers
from ottla.broker.handlers.streams_groups import StreamsGroupsHandler
from ottla.broker.handlers.telemetry import TelemetryHandlers
from ottla.broker.handlers.topics import TopicHandlers
from ottla.broker.handlers.transaction_gate import TransactionGate
from ottla.broker.handlers.transactions import TransactionsHandler
from ottla.broker.http_pages import BrokerFacts, Pages
from ottla.broker.old_records import OldRecords
from ottla.broker.producer_id_block import ProducerIdBlock
from ottla.broker.replicas.fetch_sessions import FetchSessionCache
from ottla.broker.replicas.manager import ReplicaManager
from ottla.broker.share.config import ShareConfig
from ottla.broker.share.group_states import GroupStates
from ottla.broker.share.manager import SharePartitionManager
from ottla.broker.share.persister import LocalPersister
from ottla.broker.share_state_pruning import ShareStatePruning
from ottla.broker.transaction_markers import MarkerLog, TransactionMarkers
from ottla.cluster.controller import (
    Controller,
    ControllerSettings,
    InconsistentClusterIdError,
    NewerTreeError,
    RegistrationRefusedError,
    cluster_id_of,
    prepare_tree,
)
from ottla.cluster.decisions.features import TRANSACTION_VERSION
from ottla.cluster.decisions.recovery import FoundPartition
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import (
    BROKERS,
    CLIENT_METRICS,
    DEFAULT_ENTITY,
    GROUPS,
    ClusterImage,
    Endpoint,
    ImageDelta,
    LogEnd,
    delta_between,
)
from ottla.cluster.sessions import Sessions
from ottla.cluster.tree import TreeUnavailableError
from ottla.config import ConfigError
from ottla.errors import ErrorCode, StorageError
from ottla.network.http import HttpSite
from ottla.network.limits import NetworkLimits
from ottla.network.server import Listener, ListenError, Server
from ottla.observability.loop_monitor import LoopMonitor
from ottla.observability.metrics import BrokerMetrics
from ottla.observability.process import cpu_seconds, open_descriptors, resident_bytes
from ottla.protocol.records import kernels
from ottla.storage.log_directory import read_meta_properties
from ottla.storage.log_manager import LogManager, LogManagerSettings
from ottla.storage.open_files import DEFAULT_CAPACITY
from ottla.types import (
    GROUP_METADATA_TOPIC,
    SHARE_GROUP_STATE_TOPIC,
    TRANSACTION_STATE_TOPIC,
    CompressionType,
    TopicPartition,
    uuid_to_text,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ottla.broker.config import BrokerConfig
    from ottla.clock import Clock
    from ottla.offload import Offload
    from ottla.storage.config import LogConfig
    from ottla.storage.files import Files

logger = logging.getLogger(__name__)

#: The coordination tree of a single node, in the first data directory.
TREE_FILE = "ottla.sqlite"

#: How long a stop waits until other brokers lead what they can.
HAND_OVER_SECONDS = 15.0

#: What `start` raises when the fault is not ours: shown to the user as one line.
START_ERRORS = (
    ConfigError,
    InconsistentClusterIdError,
    ListenError,
    NewerTreeError,
    RegistrationRefusedError,
    StorageError,
    TreeUnavailableError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything a broker takes from outside; the simulation passes its own.

    Attributes:
        lock_factory: makes a log's lock: `threading.RLock` where `offload` has threads, `nullcontext` where not.
        open_tree: opens the coordination tree, given the path of its file.
        host_names: what this machine calls itself; HTTP requests may name it.
        make_server: makes the listener.
        descriptor_limit: files and sockets this process may have open; None for no limit.
        page_cache: which page cache unsynced writes to these directories are in, by some text: the same text after the
            process was killed, another one after the machine was or the disk was mounted anew; "" if it is not known.
        shared_tree: other brokers use the tree, too: it is no file in a log directory.
    """

    clock: Clock
    offload: Offload
    files: Files
    random: random.Random
    lock_factory: Callable[[], AbstractContextManager[object]]
    open_tree: Callable[[str], Any]
    host_names: tuple[str, ...] = ()
    make_server: Callable[..., Server] = Server
    descriptor_limit: int | None = None
    page_cache: Callable[[Sequence[str]], str] = lambda directories: ""
    shared_tree: bool = False


class Broker:
    """One broker. `start` returns when clients can be served."""

    def __init__(self, config: BrokerConfig, surroundings: Surroundings) -> None:
        self.config = config
        self.metrics = BrokerMetrics()
        self._around = surroundings
        self._static_config = config
        self._monitor = LoopMonitor(self.metrics)
        self._background: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self._parts_running: list[Callable[[], Any]] = []
        self.is_ready = False
        #: Resolves with one sentence when the broker can go on no longer; whoever runs it should stop it then.
        self.failure: asyncio.Future[str]
        self.logs: LogManager
        self.sessions: Sessions
        self.follower: MetadataFollower
        self.controller: Controller
        self.replicas: ReplicaManager
        self.old_records: OldRecords
        self.groups: CoordinatorRuntime[GroupCoordinator]
        self.transactions: CoordinatorRuntime[TransactionCoordinator]
        self.share_states: CoordinatorRuntime[ShareCoordinator]
        self.share_persister: LocalPersister
        self.shares: SharePartitionManager
        self.group_states: GroupStates
        self.markers: TransactionMarkers
        self.producer_ids: ProducerIdBlock
        self.telemetry: TelemetryHandlers
        self.dispatcher: Dispatcher
        self.server: Server

    @property
    def image(self) -> ClusterImage:
        return self.follower.image

    @property
    def addresses(self) -> list[str]:
        """host:port of every listener; a listener on all addresses is shown as localhost."""
        return [f"{host or 'localhost'}:{port}" for _, host, port in self.server.addresses]

    # -- start

    async def start(self) -> None:
        """Start everything.

        Raises:
            One of START_ERRORS; what was started has been stopped then.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        around, config = self._around, self.config
        self.failure = asyncio.get_running_loop().create_future()
        for note in config.notes:
            logger.log(logging.WARNING if "environment variable" in note else logging.INFO, "%s", note)
        self.sessions = Sessions(lambda: around.open_tree(f"{self._first_directory()}/{TREE_FILE}"))
        in_tree = await self._join_tree() if around.shared_tree else None
        self.logs = self._make_logs(in_tree)
        self._parts_running.append(self.logs.close)
        await self.logs.take_directories()
        if not around.shared_tree:
            await self._begin_session()
        tree = self.sessions.tree
        assert self.logs.cluster_id is not None
        await prepare_tree(tree, self.logs.cluster_id)
        self.follower = MetadataFollower(tree)
        await self.follower.start()
        self._parts_running.append(self.follower.stop)
        assert self.follower.lost is not None
        self.follower.lost.add_done_callback(lambda lost: None if lost.cancelled() else self._fail(lost.result()))

        self.controller = Controller(
            tree,
            self.follower,
            ControllerSettings(
                node_id=config.node_id,
                rack=config.broker_rack,
                num_partitions=config.num_partitions,
                default_replication_factor=config.default_replication_factor,
                offsets_topic_num_partitions=config.offsets_topic_num_partitions,
                offsets_topic_replication_factor=config.offsets_topic_replication_factor,
                offsets_topic_segment_bytes=config.offsets_topic_segment_bytes,
                transaction_topic_num_partitions=config.transaction_state_log_num_partitions,
                transaction_topic_replication_factor=config.transaction_state_log_replication_factor,
                transaction_topic_min_isr=config.transaction_state_log_min_isr,
                transaction_topic_segment_bytes=config.transaction_state_log_segment_bytes,
                share_topic_num_partitions=config.share_coordinator_state_topic_num_partitions,
                share_topic_replication_factor=config.share_coordinator_state_topic_replication_factor,
                share_topic_min_isr=config.share_coordinator_state_topic_min_isr,
                share_topic_segment_bytes=config.share_coordinator_state_topic_segment_bytes,
                static=config.levels.static,
            ),
            random=around.random,
            clock=around.clock,
            check_broker_config=config.with_dynamic,
            log_end=self._log_end,
        )
        self.replicas = ReplicaManager(
            config.node_id,
            self.logs,
            image=self.image,
            topic_config=self._topic_config,
            offload=around.offload,
            clock=around.clock,
        )
        self.replicas.on_leader, self.replicas.on_resigned = self._on_leader, self._on_resigned
        self.old_records = OldRecords(
            around.clock.wall_ms,
            is_kept=self.logs.is_foreign,
            config_of=lambda topic: self._topic_config(self.image, topic) if topic in self.image.topics else None,
        )
        self.replicas.on_old_records = self.old_records.note
        self.logs.on_directory_offline = self._on_directory_offline
        self.groups = self._make_groups()
        self.producer_ids = ProducerIdBlock(self.controller.allocate_producer_ids)
        marker_log = MarkerLog(self.replicas, self.groups, around.clock)
        self.markers = TransactionMarkers(marker_log)
        self.transactions = self.markers.transactions = self._make_transactions()
        pruning = ShareStatePruning(self.replicas)
        self.share_states = self._make_share_states(pruning)
        self.share_persister = LocalPersister(self.share_states, self.controller.ensure_topic)
        self.shares = SharePartitionManager(
            self.replicas,
            self.share_persister,
            config_of=lambda group_id: ShareConfig.for_group(self.config, self.image.config(GROUPS, group_id)),
            sessions_max=config.group_share_max_share_sessions,
            clock=around.clock,
        )
        self.group_states = GroupStates(self.groups, self.share_persister, forget=self.shares.on_group_deleted)
        self.dispatcher = self._make_dispatcher(marker_log)
        self.server = self._make_server()
        await self.server.bind([Listener(name=n, host=h, port=p) for n, h, p, _ in config.listeners])
        self._parts_running.append(self.server.stop)

        is_new_tree = not self.image.topics and not around.shared_tree
        await self.logs.load(lambda topic: self._topic_config(self.image, topic))
        if self.logs.recovered_logs:
            logger.info(
                "recovered %d logs after an unclean stop: %d bytes read again",
                self.logs.recovered_logs,
                self.logs.recovered_bytes,
            )
        if around.descriptor_limit is not None:
            short = shortage(around.descriptor_limit, len(self.logs.logs))
            if short is not None:
                logger.warning("%s", short)
        found = self._found_partitions() if is_new_tree and self.logs.logs else None
        notes = await self.controller.start(
            self._endpoints(),
            clean=self.logs.was_clean,
            found=found,
            keep_everything=not config.ottla_foreign_confirm,
            directories=self._directory_ids(),
            page_cache=around.page_cache(list(self.logs.directories)),
        )
        self._parts_running.append(self.controller.stop)
        self.sessions.keep(
            on_end=self.controller.end_session, on_begin=self.controller.begin_session, on_failure=self._fail
        )
        for note in notes:
            logger.warning("%s", note)
        await self._set_strays_aside()
        self.groups.start()
        self._parts_running.append(self.groups.stop)
        self.transactions.start()
        self._parts_running += [self.producer_ids.stop, self.transactions.stop, self.markers.stop]
        self.share_states.start()
        self._parts_running += [pruning.stop, self.share_states.stop, self.shares.stop, self.group_states.stop]
        await self._on_image(self.image, delta_between(ClusterImage(), self.image))
        self.follower.subscribe(self._on_image)
        self._background = asyncio.get_running_loop().create_task(self.logs.run(), name="ottla-logs")
        self._parts_running.append(self._stop_background)
        self._monitor.start()
        self.server.accept()
        self._started_at = asyncio.get_running_loop().time()
        self.is_ready = True

    def _directory_ids(self) -> list[str]:
        """Ids of the log directories, by which a broker that registers is told from another one under its id."""
        known = [read_meta_properties(self._around.files, path) for path in self.logs.directories]
        return [properties.directory_id for properties in known if properties is not None and properties.directory_id]

    def _log_end(self, topic_partition: TopicPartition) -> LogEnd | None:
        log = self.logs.logs.get(topic_partition)
        return None if log is None else LogEnd(log.leader_epochs.latest, log.log_end_offset)

    def _fail(self, why: str) -> None:
        if not self.failure.done():
            self.failure.set_result(why)

    def _first_directory(self) -> str:
        return next(iter(self.logs.directories)) if not self._around.shared_tree else self.config.log_dirs[0]

    async def _begin_session(self) -> None:
        await self.sessions.start()
        self._parts_running.append(self.sessions.stop)

    async def _join_tree(self) -> str | None:
        """Open a tree that others use, too; return the cluster's id in it, None if it is new.

        Raises:
            InconsistentClusterIdError: it has none though there are logs here. In a cluster nothing is rebuilt from
            directories:
                it would be another cluster of the same name.
        """
        await self._begin_session()
        in_tree = await cluster_id_of(self.sessions.tree)
        if in_tree is None:
            for path in self.config.log_dirs:
                known = read_meta_properties(self._around.files, path)
                if known is not None and known.cluster_id is not None:
                    raise InconsistentClusterIdError(
                        f"{path} belongs to cluster {known.cluster_id}, and the coordination tree has no cluster: is it the "
                        "right one (the chroot in zookeeper.connect)?"
                    )
        return in_tree

    def _make_logs(self, in_tree: str | None) -> LogManager:
        around, config = self._around, self.config
        cluster_id = config.cluster_id or in_tree
        for path in config.log_dirs:
            known = read_meta_properties(around.files, path)
            cluster_id = cluster_id or (known.cluster_id if known is not None else None)
        first = config.log_dirs[0]
        if cluster_id is None and around.files.exists(f"{first}/{TREE_FILE}"):
            raise StorageError(
                f"{first}/meta.properties is missing or names no cluster, though {TREE_FILE} is there: put it back, or "
                "say which cluster this is with --cluster-id"
            )
        return LogManager(
            around.files,
            config.log_dirs,
            cluster_id=cluster_id or uuid_to_text(around.random.randbytes(16)),
            node_id=config.node_id,
            clock=around.clock,
            offload=around.offload,
            default_config=config.topic_defaults,
            rng=around.random,
            lock_factory=around.lock_factory,
            settings=_log_settings(config, around.descriptor_limit),
        )

    def _make_groups(self) -> CoordinatorRuntime[GroupCoordinator]:
        around, config = self._around, self.config
        group_config = GroupConfig.from_broker(config)
        background = BackgroundRunner(around.offload)
        return CoordinatorRuntime(
            topic=GROUP_METADATA_TOPIC,
            log=ReplicatedCoordinatorLog(self.replicas),
            shard_factory=lambda partition, timeline, timers: GroupCoordinator(
                partition,
                timeline,
                timers,
                config=group_config,
                random=around.random,
                image=lambda: self.image,
                run_background=background.run,
                may_expire=lambda: not self.logs.is_foreign(TopicPartition(GROUP_METADATA_TOPIC, partition)),
            ),
            partition_count=self._offsets_partition_count,
            clock=around.clock,
            config=RuntimeConfig(
                append_timeout_ms=config.offsets_commit_timeout_ms,
                batch_bytes_max=config.topic_defaults.max_message_bytes,
                compression=CompressionType(config.offsets_topic_compression_codec),
                load_bytes_max=config.offsets_load_buffer_size,
            ),
        )

    def _offsets_partition_count(self) -> int:
        topic = self.image.topics.get(GROUP_METADATA_TOPIC)
        return self.config.offsets_topic_num_partitions if topic is None else len(topic.partitions)

    def _make_transactions(self) -> CoordinatorRuntime[TransactionCoordinator]:
        around, config = self._around, self.config
        transaction_config = TransactionConfig.from_broker(config)
        return CoordinatorRuntime(
            topic=TRANSACTION_STATE_TOPIC,
            log=ReplicatedCoordinatorLog(self.replicas),
            shard_factory=lambda partition, timeline, timers: TransactionCoordinator(
                partition,
                timeline,
                timers,
                config=transaction_config,
                send_markers=self.markers.send,
                take_producer_id=self.producer_ids.take,
                level=lambda: self.image.features[TRANSACTION_VERSION],
                may_expire=lambda: not self.logs.is_foreign(TopicPartition(TRANSACTION_STATE_TOPIC, partition)),
            ),
            partition_count=self._transaction_partition_count,
            clock=around.clock,
            config=RuntimeConfig(
                batch_bytes_max=config.topic_defaults.max_message_bytes,
                load_bytes_max=config.transaction_state_log_load_buffer_size,
            ),
        )

    def _transaction_partition_count(self) -> int:
        topic = self.image.topics.get(TRANSACTION_STATE_TOPIC)
        return self.config.transaction_state_log_num_partitions if topic is None else len(topic.partitions)

    def _make_share_states(self, pruning: ShareStatePruning) -> CoordinatorRuntime[ShareCoordinator]:
        around, config = self._around, self.config
        share_config = ShareCoordinatorConfig.from_broker(config)

        def partition_count_of(topic_id: bytes) -> int:
            topic = self.image.topic_by_id(topic_id)
            return 0 if topic is None else len(topic.partitions)

        return CoordinatorRuntime(
            topic=SHARE_GROUP_STATE_TOPIC,
            log=ReplicatedCoordinatorLog(self.replicas),
            shard_factory=lambda partition, timeline, timers: ShareCoordinator(
                partition,
                timeline,
                timers,
                config=share_config,
                partition_count_of=partition_count_of,
                prune=pruning.prune,
            ),
            partition_count=self._share_state_partition_count,
            clock=around.clock,
            config=RuntimeConfig(
                append_timeout_ms=config.share_coordinator_write_timeout_ms,
                append_linger_ms=config.share_coordinator_append_linger_ms,
                batch_bytes_max=config.topic_defaults.max_message_bytes,
                compression=CompressionType(config.share_coordinator_state_topic_compression_codec),
                load_bytes_max=config.share_coordinator_load_buffer_size,
            ),
        )

    def _share_state_partition_count(self) -> int:
        topic = self.image.topics.get(SHARE_GROUP_STATE_TOPIC)
        return self.config.share_coordinator_state_topic_num_partitions if topic is None else len(topic.partitions)

    def _make_dispatcher(self, marker_log: MarkerLog) -> Dispatcher:
        around, config, controller, replicas = self._around, self.config, self.controller, self.replicas
        addresses = Addresses(
            lambda: self.image,
            config.node_id,
            auto=config.advertised_listeners is None,
            localhost_ports=lambda: self.server.localhost_ports,
        )

        async def create_topic(name: str) -> ErrorCode:
            return (await controller.ensure_topic(name)).error

        def image() -> ClusterImage:
            return self.image

        gate = TransactionGate(
            self.transactions,
            verifies=lambda: self.config.transaction_partition_verification_enable,
            retry_backoff_ms=config.add_partitions_to_txn_retry_backoff_ms,
            retry_ms_max=config.add_partitions_to_txn_retry_backoff_max_ms,
            clock=around.clock,
        )
        sessions = FetchSessionCache(config.max_incremental_fetch_session_cache_slots, around.random)
        self.telemetry = TelemetryHandlers(
            around.clock,
            around.random,
            around.offload,
            telemetry_max_bytes=config.telemetry_max_bytes,
            always=config.ottla_client_telemetry_enable,
        )
        routes: dict[Any, Any] = {}
        produce = ProduceHandler(replicas, self.metrics, gate, clock=around.clock)
        for handlers in (
            produce,
            FetchHandler(
                replicas,
                sessions,
                self.metrics,
                fetch_max_bytes=config.fetch_max_bytes,
                clock=around.clock,
            ),
            LogOffsetHandlers(replicas),
            ProducerHandlers(replicas, self.producer_ids, self.transactions),
            MetadataHandler(
                image,
                addresses,
                auto_create=config.auto_create_topics_enable,
                create_topic=create_topic,
                check_name=why_invalid,
            ),
            GroupsHandler(
                self.groups,
                GroupConfig.from_broker(config),
                image=image,
                addresses=addresses,
                ensure_topic=controller.ensure_topic,
                deleting_shares=self.group_states.deleting_groups,
            ),
            FeaturesHandler(controller),
            ConsumerGroupsHandler(self.groups, GroupConfig.from_broker(config), image=image),
            OffsetsHandler(self.groups, image=image, gate=gate),
            StreamsGroupsHandler(
                self.groups, GroupConfig.from_broker(config), image=image, create_topics=controller.create_topics
            ),
            TransactionsHandler(
                self.transactions, self.groups, marker_log, self.producer_ids, image=image, clock=around.clock
            ),
            ShareFetchHandler(
                self.shares,
                self.metrics,
                image=image,
                addresses=addresses,
                fetch_max_bytes=config.fetch_max_bytes,
                offload=around.offload,
                clock=around.clock,
            ),
            ShareStateHandlers(self.share_states),
            ShareGroupsHandler(self.groups, self.group_states, image=image),
            ShareGroupOffsetsHandler(self.groups, self.group_states, self.share_persister, replicas, image=image),
            TopicHandlers(image, controller, delete_topic_enable=config.delete_topic_enable),
            ConfigHandlers(image, controller, PythonLoggers(), node_id=config.node_id),
            ClusterHandlers(
                image,
                addresses,
                controller,
                LogDirFacts(self.logs),
                around.clock,
                max_request_partition_size_limit=config.max_request_partition_size_limit,
            ),
            self.telemetry,
        ):
            routes.update(handlers.routes())
        return Dispatcher(
            routes,
            image,
            config.node_id,
            self.metrics,
            takes_telemetry=self.telemetry.is_wanted,
            produce_frame=produce.handle_frame,
        )

    def _make_server(self) -> Server:
        config = self.config
        advertised = config.advertised_listeners or ()
        return self._around.make_server(
            self.dispatcher.handle,
            limits=self._network_limits(config),
            http=HttpSite(
                handler=Pages(LiveFacts(self)).handle,
                hosts=frozenset(
                    name.lower()
                    for name in (*(li.host for li in (*config.listeners, *advertised)), *self._around.host_names)
                    if name
                ),
            ),
            metrics=self.metrics.network,
        )

    def _network_limits(self, config: BrokerConfig) -> NetworkLimits:
        limits = _network_limits(config)
        descriptors = self._around.descriptor_limit
        if descriptors is None:
            return limits
        left = connections_max(descriptors, len(self.logs.logs))
        return replace(limits, connections_max=min(limits.connections_max, left))

    def _endpoints(self) -> list[Endpoint]:
        """Where this broker is reached; with `auto` the host stays empty and each client is told what it used."""
        bound = {name: port for name, _, port in self.server.addresses}
        listeners = self.config.advertised_listeners or self.config.listeners
        return [Endpoint(n, h, p or bound.get(n, 0), protocol) for n, h, p, protocol in listeners]

    def _found_partitions(self) -> list[FoundPartition]:
        """The partitions on the disk, when the tree has none: it was lost, or the data was brought from elsewhere."""
        logger.warning("the coordination tree is new, but there is data: topics are rebuilt from their directories")
        return [
            FoundPartition(tp.topic, tp.partition, log.topic_id, log.leader_epochs.latest)
            for tp, log in list(self.logs.logs.items())
        ]

    async def _set_strays_aside(self) -> None:
        """A log whose topic was deleted while we were away, or is another one of the same name, is kept but not used."""
        for topic_partition, log in list(self.logs.logs.items()):
            topic = self.image.topics.get(topic_partition.topic)
            known = topic is not None and topic_partition.partition < len(topic.partitions)
            if known and topic is not None and not any(log.topic_id):
                await self._around.offload.run(log.set_topic_id, topic.topic_id)
            elif log.topic_id in self.image.deleted:
                await self._around.offload.run(self.logs.delete, topic_partition)
                logger.info("%s was deleted while this broker was away; so is its log", topic_partition)
            elif not known or topic is None or log.topic_id != topic.topic_id:
                kept = await self._around.offload.run(self.logs.set_aside, topic_partition)
                logger.warning("%s belongs to no topic; its data is kept in %s", topic_partition, kept)

    # -- following the cluster

    def _topic_config(self, image: ClusterImage, topic: str) -> LogConfig:
        return self._with_dynamic(image).log_config(image.topic_config(topic))

    def _with_dynamic(self, image: ClusterImage) -> BrokerConfig:
        """This broker's configuration with what was set at run time."""
        own: Mapping[str, str] = image.config(BROKERS, str(self.config.node_id))
        default: Mapping[str, str] = image.config(BROKERS, DEFAULT_ENTITY)
        if not own and not default:
            return self._static_config
        levels = self.config.levels
        if levels.broker != own or levels.default != default:
            self.config = self._static_config.with_dynamic(own, default)
        return self.config

    async def _on_image(self, image: ClusterImage, delta: ImageDelta) -> None:
        if any(resource.kind == BROKERS for resource in delta.changed_configs):
            config = self._with_dynamic(image)
            self.server.change_limits(self._network_limits(config))
            self.logs.change_settings(_log_settings(config, self._around.descriptor_limit))
        if any(resource.kind == CLIENT_METRICS for resource in delta.changed_configs):
            self.telemetry.on_configs(image)
        await self.replicas.apply(image, delta)
        if delta.created or delta.deleted or delta.changed:
            self.server.change_limits(self._network_limits(self.config))
        if self.is_ready:
            for name in delta.created:
                logger.info("topic %s was created with %d partitions", name, len(image.topics[name].partitions))
        if delta.deleted:
            logger.info("deleted: %s", ", ".join(f"topic {topic.name}" for topic in delta.deleted))
            for topic in delta.deleted:
                self.metrics.topics.pop(topic.name, None)
            deleted = [DeletedTopic(t.name, t.topic_id) for t in delta.deleted]
            self.groups.on_topics_deleted(deleted)
            self.transactions.on_topics_deleted(deleted)
            self.share_states.on_topics_deleted(deleted)
        if delta.created or delta.deleted or delta.changed or delta.changed_configs:
            self.groups.on_image(image, delta)

    def _on_directory_offline(self, directory: str, topic_partitions: list[TopicPartition]) -> None:
        self.replicas.on_directory_offline(directory, topic_partitions)
        if not self.logs.online_dirs:
            # Kafka halts: a broker without a disk can only lie. Whoever runs this one is told.
            reasons = "; ".join(f"{path}: {reason}" for path, reason in self.logs.offline_dirs.items())
            self._fail(f"no log directory is left: {reasons}")

    def _on_leader(self, topic_partition: TopicPartition, leader_epoch: int) -> None:
        if topic_partition.topic == GROUP_METADATA_TOPIC:
            self.groups.on_leader(topic_partition.partition, leader_epoch)
        elif topic_partition.topic == TRANSACTION_STATE_TOPIC:
            self.transactions.on_leader(topic_partition.partition, leader_epoch)
        elif topic_partition.topic == SHARE_GROUP_STATE_TOPIC:
            self.share_states.on_leader(topic_partition.partition, leader_epoch)

    def _on_resigned(self, topic_partition: TopicPartition) -> None:
        if topic_partition.topic == GROUP_METADATA_TOPIC:
            self.groups.on_resign(topic_partition.partition)
        elif topic_partition.topic == TRANSACTION_STATE_TOPIC:
            self.transactions.on_resign(topic_partition.partition)
        elif topic_partition.topic == SHARE_GROUP_STATE_TOPIC:
            self.share_states.on_resign(topic_partition.partition)
        else:
            self.shares.on_resigned(topic_partition)

    # -- stop

    async def stop(self) -> None:
        """Stop everything, in the reverse order; safe to call after a failed start. Data is complete on the disk after."""
        if self.is_ready:
            logger.info("stopping")
            await self.controller.hand_over(HAND_OVER_SECONDS)
        self.is_ready = False
        self._monitor.stop()
        for stop in reversed(self._parts_running):
            try:
                await stop()
            except Exception:
                logger.exception("a part of the broker did not stop cleanly")
        self._parts_running.clear()
        self._around.offload.close()

    async def _stop_background(self) -> None:
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)

    # -- facts

    @property
    def kernels(self) -> str:
        """Which record kernels run, and why if not the compiled ones."""
        return kernels.STATUS

    def facts(self) -> BrokerFacts:
        """What this broker says about itself."""
        return BrokerFacts(
            version=ottla.__version__,
            node_id=self.config.node_id,
            cluster_id=self.image.cluster_id,
            addresses=self.addresses,
            data_dirs=list(self.config.log_dirs),
            kernels=self.kernels,
        )

    @property
    def uptime_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at if self.is_ready else 0.0

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """Name, help text and value of single numbers, for `/metrics`."""
        rates = self._monitor
        yield (
            "kafka_server_kafkarequesthandlerpool_requesthandleravgidlepercent_oneminuterate",
            "Share of one processor left unused over the last minute, 0 to 1.",
            rates.idle_share,
        )
        if self._around.descriptor_limit is not None:
            yield "process_max_fds", "Files and sockets this process may have open.", self._around.descriptor_limit
        descriptors = open_descriptors()
        if descriptors is not None:
            yield "process_open_fds", "Files and sockets that are open.", descriptors
        resident, cpu = resident_bytes(), cpu_seconds()
        if resident is not None:
            yield "process_resident_memory_bytes", "Resident memory.", resident
        if cpu is not None:
            yield "ottla_process_cpu_seconds", "Processor time used so far, user and system.", cpu
        yield (
            "kafka_server_socketservermetrics_connection_creation_rate",
            "New connections per second over the last minute.",
            rates.connection_creation_rate,
        )
        yield (
            "kafka_server_socketservermetrics_connection_close_rate",
            "Ended connections per second over the last minute.",
            rates.connection_close_rate,
        )


def _log_settings(config: BrokerConfig, descriptor_limit: int | None) -> LogManagerSettings:
    return LogManagerSettings(
        open_files_max=DEFAULT_CAPACITY if descriptor_limit is None else cached_files_max(descriptor_limit),
        retention_check_interval_ms=config.log_retention_check_interval_ms,
        initial_task_delay_ms=config.log_initial_task_delay_ms,
        flush_scheduler_interval_ms=config.log_flush_scheduler_interval_ms,
        flush_offset_checkpoint_interval_ms=config.log_flush_offset_checkpoint_interval_ms,
        flush_start_offset_checkpoint_interval_ms=config.log_flush_start_offset_checkpoint_interval_ms,
        high_watermark_checkpoint_interval_ms=config.replica_high_watermark_checkpoint_interval_ms,
        cleaner_enable=config.log_cleaner_enable,
        cleaner_backoff_ms=config.log_cleaner_backoff_ms,
        cleaner_memory_bytes=config.log_cleaner_dedupe_buffer_size,
        cleaner_load_factor=config.log_cleaner_io_buffer_load_factor,
        cleaner_bytes_per_second_max=config.log_cleaner_io_max_bytes_per_second,
        producer_id_expiration_ms=config.producer_id_expiration_ms,
        producer_id_expiration_check_interval_ms=config.producer_id_expiration_check_interval_ms,
        foreign_confirmed=config.ottla_foreign_confirm,
    )


def _network_limits(config: BrokerConfig) -> NetworkLimits:
    return NetworkLimits(
        request_bytes_max=config.socket_request_max_bytes,
        connections_max=config.max_connections,
        connections_per_ip_max=config.max_connections_per_ip,
        connections_per_ip_overrides=config.max_connections_per_ip_overrides,
        connection_creation_rate_max=config.max_connection_creation_rate,
        idle_ms_max=config.connections_max_idle_ms,
        queued_request_bytes_max=config.queued_max_request_bytes,
        backlog=config.socket_listen_backlog_size,
    )
