"""Broker: makes its parts, starts them in order, passes on what changes in the cluster, stops them.

Order of a start: take the data directories, open the coordination tree, load the image, bind the listeners, open the logs
(they need the topics' configurations), become controller, hand out roles, load coordinators, accept. A stop goes back.
What coordinators and handlers are made of says `wiring/`.
What can go wrong at a start raises one of `START_ERRORS`, whose text is one sentence for the user.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import ottla
from ottla import compiled
from ottla.broker.audit import Audit
from ottla.broker.authorization import Authorizer
from ottla.broker.http.broker_facts import BrokerFacts
from ottla.broker.http.late_pages import LatePages
from ottla.broker.peers import Peers
from ottla.broker.replicas.manager import ReplicaManager
from ottla.broker.replicas.old_records import OldRecords
from ottla.broker.settings.listeners import is_any_address, is_loopback
from ottla.broker.wiring.coordinators import Coordinators
from ottla.broker.wiring.descriptors import shortage
from ottla.broker.wiring.entrance import Entrance
from ottla.broker.wiring.handlers import make_dispatcher, make_telemetry
from ottla.broker.wiring.parts import Parts
from ottla.broker.wiring.peer_channels import peer_channel_settings
from ottla.broker.wiring.quotas import QuotaControl, make_quotas
from ottla.broker.wiring.replication import make_replication
from ottla.broker.wiring.settings import (
    controller_settings,
    log_settings,
    network_limits,
    server_listeners,
)
from ottla.cluster.controller import (
    Controller,
    ForeignTreeError,
    InconsistentClusterIdError,
    NewerTreeError,
    RegistrationRefusedError,
    check_ours,
    cluster_id_of,
    prepare_tree,
)
from ottla.cluster.decisions.recovery import FoundPartition
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import (
    BROKERS,
    CLIENT_METRICS,
    DEFAULT_ENTITY,
    ClusterImage,
    ConfigResource,
    Endpoint,
    ImageDelta,
    LogEnd,
    delta_between,
)
from ottla.cluster.sessions import Sessions
from ottla.cluster.tree import TreeUnavailableError
from ottla.cluster.wall_clock import WallClock
from ottla.config import ConfigError
from ottla.errors import RemoteProtocolError, StorageError
from ottla.network.binding import ListenError
from ottla.network.http import Handler, HttpSite
from ottla.network.limits import NetworkLimits
from ottla.network.server import Server
from ottla.observability.loop_monitor import LoopMonitor
from ottla.observability.metrics import BrokerMetrics
from ottla.security.acls import Operation
from ottla.storage.adoption import IMPORTED_SUFFIX
from ottla.storage.checkpoints import PARTITION_METADATA_FILE
from ottla.storage.log_directory import read_meta_properties
from ottla.storage.log_manager import LogManager
from ottla.types import TopicPartition, uuid_to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ottla.broker.config import BrokerConfig
    from ottla.broker.dispatch import Dispatcher
    from ottla.broker.handlers.telemetry import TelemetryHandlers
    from ottla.broker.http.page_login import PageLogin
    from ottla.broker.http.workers import Workers
    from ottla.broker.replicas.replication import Replication
    from ottla.broker.wiring.surroundings import Surroundings
    from ottla.cluster.decisions.refusal import Refusal
    from ottla.cluster.image import TopicImage
    from ottla.cluster.tree import Tree
    from ottla.network.connection import BrokerConnection
    from ottla.storage.config import LogConfig
    from ottla.storage.log import PartitionLog

logger = logging.getLogger(__name__)

#: The coordination tree of a single node, in the first data directory.
TREE_FILE = "ottla.sqlite"

#: How long a stop waits until other brokers lead what they can.
HAND_OVER_SECONDS = 15.0

#: After a silence of so many session timeouts others have taken over, and the process is ended.
SILENT_TIMEOUTS = 2

#: What `start` raises when the fault is not ours: shown to the user as one line.
START_ERRORS = (
    ConfigError,
    ForeignTreeError,
    InconsistentClusterIdError,
    ListenError,
    NewerTreeError,
    RegistrationRefusedError,
    StorageError,
    TreeUnavailableError,
)


class Broker:
    """One broker. `start` returns when clients can be served."""

    def __init__(self, config: BrokerConfig, surroundings: Surroundings) -> None:
        self.config = config
        self.metrics = BrokerMetrics()
        self._around = surroundings
        self._static_config = config
        self.monitor = LoopMonitor(self.metrics)
        self._background: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._started_at = 0.0
        self._parts_running: list[Callable[[], Any]] = []
        self._workers: Workers | None = None
        self.is_ready = False
        #: Resolves with one sentence when the broker can go on no longer; the caller of `start` should stop it then.
        self.failure: asyncio.Future[str]
        self.logs: LogManager
        self.sessions: Sessions
        self.follower: MetadataFollower
        self.controller: Controller
        self.replication: Replication
        self.replicas: ReplicaManager
        self.old_records: OldRecords
        self.coordinators: Coordinators
        self.telemetry: TelemetryHandlers
        self.entrance: Entrance
        self.authorizer: Authorizer | None = None
        self.quotas = make_quotas(config)
        self.quota_control: QuotaControl
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
        self.failure = asyncio.get_running_loop().create_future()
        for note in self.config.notes:
            logger.log(logging.WARNING if "environment variable" in note else logging.INFO, "%s", note)
        await self._open_tree_and_directories()
        await self._follow_cluster()
        self._with_dynamic(self.image)
        self._make_parts()
        await self._bind()
        is_new_tree = not self.image.topics and not self._around.shared_tree
        await self._load_logs()
        if self._workers is not None:
            await self._workers.start()
            self._parts_running.append(self._workers.stop)
        await self._join_cluster(is_new_tree=is_new_tree)
        await self._set_strays_aside()
        await self.entrance.start()
        self._parts_running.append(self.entrance.stop)
        self._parts_running += self.coordinators.start()
        self._on_image(self.image, delta_between(ClusterImage(), self.image))
        self._parts_running.append(self.replicas.stop)
        self.replication.start(self.sessions.tree)
        self._parts_running.append(self.replication.stop)
        await self.replicas.settled()
        self.follower.subscribe(self._on_image)
        self._background = asyncio.get_running_loop().create_task(self.logs.run(), name="ottla-logs")
        self._parts_running.append(self._stop_background)
        self.monitor.start()
        if self._around.shared_tree:
            self._unwatch = self._around.watch_loop(SILENT_TIMEOUTS * self.sessions.tree.session_timeout_ms / 1000)
        self.server.accept()
        self._started_at = asyncio.get_running_loop().time()
        self.is_ready = True

    async def _open_tree_and_directories(self) -> None:
        """A tree that other brokers use says which cluster this is; one in a log directory is found there."""
        self.sessions = Sessions(lambda: self._around.open_tree(f"{self._first_directory()}/{TREE_FILE}"))
        in_tree = await self._join_tree() if self._around.shared_tree else None
        self.logs = self._make_logs(in_tree)
        self._parts_running.append(self.logs.close)
        await self.logs.take_directories()
        if not self._around.shared_tree:
            await self._begin_session()

    async def _follow_cluster(self) -> None:
        """Load the first image from the tree."""
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
            controller_settings(self.config),
            random=self._around.random,
            secret_bytes=self._around.secret_bytes,
            clock=self._around.clock,
            check_broker_config=self.config.with_dynamic,
            try_out=self._try_out,
            settled=lambda topics: self.replicas.settled(topics),
            log_end=self._log_end,
            is_clock_right=lambda: self.logs.is_clock_right(),
        )

    def _make_parts(self) -> None:
        around, config = self._around, self.config
        self.replication = make_replication(config, around, self.controller, self.follower, self.sessions)
        self.replicas = ReplicaManager(
            config.node_id,
            self.logs,
            image=self.image,
            topic_config=self._topic_config,
            offload=around.offload,
            clock=around.clock,
            replication=self.replication,
        )
        self.old_records = OldRecords(
            around.clock.wall_ms,
            is_kept=self.logs.is_foreign,
            config_of=lambda topic: self._topic_config(self.image, topic) if topic in self.image.topics else None,
        )
        self.replicas.on_old_records = self.old_records.note
        self.logs.on_directory_offline = self._on_directory_offline
        parts = Parts(
            config=lambda: self.config,
            image=lambda: self.image,
            surroundings=around,
            metrics=self.metrics,
            logs=self.logs,
            replicas=self.replicas,
            controller=self.controller,
            peers=self._make_peers(),
            refresh=self.follower.refresh,
            quotas=self.quotas,
        )
        self.coordinators = Coordinators(parts)
        self.replicas.on_leader = self.coordinators.on_leader
        self.replicas.on_resigned = self.coordinators.on_resigned
        self.telemetry = make_telemetry(parts)
        self.audit = Audit(asyncio.get_running_loop().time)
        self.entrance = Entrance(parts, self.audit)
        if config.access is not None:
            self.authorizer = Authorizer(lambda: self.image, config.access, self.audit)
        self.dispatcher = make_dispatcher(
            parts,
            self.coordinators,
            self.telemetry,
            begin_session=self.entrance.begin_session,
            authorizer=self.authorizer,
            localhost_ports=lambda: self.server.localhost_ports,
            tokens=self.entrance.tokens,
            audit=self.audit,
        )

    def _make_peers(self) -> Peers:
        peers = Peers(
            self.config.node_id,
            lambda: self.image,
            listener=self.config.inter_broker_listener_name,
            settings=peer_channel_settings(self.config, self._around.secret_bytes, self._around.offload),
        )
        self._parts_running.append(peers.stop)
        return peers

    async def _bind(self) -> None:
        self.server = self._make_server()
        self.quota_control = QuotaControl(self.server, self.quotas, self.config, self.authorizer)
        await self.server.bind(server_listeners(self.config, self.entrance.context_of))
        self._parts_running.append(self.server.stop)

    async def _load_logs(self) -> None:
        logs, descriptor_limit = self.logs, self._around.descriptor_limit
        await logs.load(lambda topic: self._topic_config(self.image, topic))
        if logs.recovered_logs:
            logger.info(
                "recovered %d logs after an unclean stop: %d bytes read again",
                logs.recovered_logs,
                logs.recovered_bytes,
            )
        if descriptor_limit is not None:
            short = shortage(descriptor_limit, len(logs.logs))
            if short is not None:
                logger.warning("%s", short)

    async def _join_cluster(self, *, is_new_tree: bool) -> None:
        """Register, and from now on keep the session with the coordination tree."""
        notes = await self.controller.start(
            self._endpoints(),
            clean=self.logs.was_clean,
            found=self._found_partitions() if is_new_tree and self.logs.logs else None,
            keep_everything=not self.config.ottla_foreign_confirm,
            directories=self._directory_ids(),
            page_cache=self._around.page_cache(list(self.logs.directories)),
            machine=self._around.machine,
            listener=self.config.inter_broker_listener_name,
        )
        self._parts_running.append(self.controller.stop)
        if self._around.shared_tree and not self._around.is_one_machine:
            self._compare_clocks()
        self.sessions.keep(on_end=self._on_session_end, on_begin=self._on_session, on_failure=self._fail)
        for note in notes:
            logger.warning("%s", note)

    def _compare_clocks(self) -> None:
        """Delete and expire nothing by time unless this machine's clock agrees with that of the tree's servers."""
        wall_clock = WallClock(self._around.clock)
        self.logs.is_clock_right = wall_clock.is_right
        comparing = asyncio.get_running_loop().create_task(
            wall_clock.keep(lambda: self.sessions.tree, self.config.node_id), name="wall-clock"
        )

        async def stop() -> None:
            comparing.cancel()
            await asyncio.gather(comparing, return_exceptions=True)

        self._parts_running.append(stop)

    def _on_session_end(self) -> None:
        self.replication.on_session_end()
        self.controller.end_session()

    async def _on_session(self, tree: Tree) -> None:
        await self.controller.begin_session(tree)
        self.replication.on_session(tree)

    def _directory_ids(self) -> list[str]:
        """Ids of the log directories: they distinguish this broker from another one that registers under the same node id."""
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

    async def _join_tree(self) -> str:
        """Open a tree that others use, too; return the cluster's id in it.

        In a new one it is written before there are data directories that name it: of several brokers that start at the same
        time one decides it.

        Raises:
            ForeignTreeError: Apache Kafka uses it.
            InconsistentClusterIdError: it has none though there are logs here. In a cluster nothing is rebuilt from
                directories: it would be another cluster of the same name.
        """
        await self._begin_session()
        tree, wanted = self.sessions.tree, self.config.cluster_id
        await check_ours(tree)
        in_tree = await cluster_id_of(tree)
        if in_tree is not None:
            return in_tree
        for path in self.config.log_dirs:
            known = read_meta_properties(self._around.files, path)
            if known is not None and known.cluster_id is not None:
                raise InconsistentClusterIdError(
                    f"{path} belongs to cluster {known.cluster_id}, and the coordination tree has no cluster: is it the "
                    "right one (the chroot in zookeeper.connect)?"
                )
        try:
            return await prepare_tree(tree, wanted or uuid_to_text(self._around.random.randbytes(16)))
        except InconsistentClusterIdError:
            in_tree = await cluster_id_of(tree)
            if wanted is not None or in_tree is None:
                raise
            return in_tree

    def _make_logs(self, in_tree: str | None) -> LogManager:
        around, config = self._around, self.config
        cluster_id = config.cluster_id or in_tree
        for path in config.log_dirs:
            known = read_meta_properties(around.files, path)
            cluster_id = cluster_id or (known.cluster_id if known is not None else None)
        first = config.log_dirs[0]
        if not around.shared_tree and around.files.exists(f"{first}/{TREE_FILE}{IMPORTED_SUFFIX}"):
            raise StorageError(
                f"{first} was imported into the cluster {cluster_id}: start its broker there, with --zookeeper (to have the "
                f"single node of before, move {TREE_FILE}{IMPORTED_SUFFIX} back to {TREE_FILE}; see docs/operations.md)"
            )
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
            random=around.random,
            settings=log_settings(config, around.descriptor_limit),
            make_lock=around.make_lock,
        )

    def _make_server(self) -> Server:
        config = self.config
        advertised = config.advertised_listeners or ()
        pages = LatePages(self)
        handlers: dict[int, Handler] = {}
        if config.ottla_shared_port and config.ottla_tree_socket is not None:
            from ottla.broker.http.workers import Workers

            self._workers = Workers(
                os.path.dirname(config.ottla_tree_socket),
                config.node_id,
                page=pages.metrics,
                others=lambda: self.image.brokers,
            )
            handlers[config.ottla_shared_port] = self._workers.handler(pages.handle)
        server = self._around.make_server(
            self.dispatcher.handle,
            limits=self._network_limits(config),
            http=HttpSite(
                handler=pages.handle,
                handlers=handlers,
                may_see=self._may_see_pages if self.authorizer is not None or config.tls else None,
                strangers_handler=pages.handle_stranger,
                login=self._make_page_login(),
                hosts=frozenset(
                    name.lower()
                    for name in (*(li.host for li in (*config.listeners, *advertised)), *self._host_names())
                    if name
                ),
            ),
            metrics=self.metrics.network,
        )
        server.on_handshake_failed = self.audit.handshake_failed
        return server

    def _make_page_login(self) -> PageLogin | None:
        logins = self.entrance.page_logins()
        if not logins:
            return None
        from ottla.broker.handlers.logins import scram_credential
        from ottla.broker.http.page_login import PageLogin

        authorizer = self.authorizer
        made = PageLogin(
            logins,
            find=lambda mechanism, user: scram_credential(self.image, mechanism, user),
            may_see=lambda session: authorizer is None or authorizer.allows_cluster(session, Operation.DESCRIBE),
            off_loop=self._around.offload.run,
            secret=self._around.secret_bytes(32),
            failure_delay_ms=self.config.connection_failed_authentication_delay_ms,
            audit=self.audit,
        )
        self._parts_running.append(made.stop)
        return made

    def _may_see_pages(self, connection: BrokerConnection) -> bool:
        """Whether the client of a connection may see what the pages show: whoever may describe the cluster.

        A certificate that is no login for Kafka's clients is none here.
        """
        try:
            session = self.entrance.begin_session(connection)
        except RemoteProtocolError:
            return False
        return self.authorizer is None or self.authorizer.allows_cluster(session, Operation.DESCRIBE)

    def _host_names(self) -> tuple[str, ...]:
        """What this machine is called: in a cluster also by what the broker may be registered under."""
        names = self._around.host_names
        if self._around.shared_tree and not self._around.is_one_machine:
            names = (*names, self._around.canonical_host_name())
        return names

    def _network_limits(self, config: BrokerConfig) -> NetworkLimits:
        return network_limits(config, self._around.descriptor_limit, len(self.logs.logs))

    def _endpoints(self) -> list[Endpoint]:
        """Where clients reach this broker. In a cluster of one broker with `auto` each client gets the address it used.

        In a larger one it is the host of the listener, or, where that is every address, the machine's canonical name; among
        brokers of one machine the host stays empty: it is the one that the client used.
        """
        bound = {name: port for name, _, port in self.server.addresses}
        listeners = self.config.advertised_listeners or self.config.listeners
        found = [Endpoint(n, h, p or bound.get(n, 0), protocol) for n, h, p, protocol in listeners]
        if not self._around.shared_tree:
            return found
        if self._around.is_one_machine and self.config.advertised_listeners is None:
            return [endpoint._replace(host="") for endpoint in found]
        return [e._replace(host=self._around.canonical_host_name()) if is_any_address(e.host) else e for e in found]

    def _found_partitions(self) -> list[FoundPartition]:
        """The partitions on the disk, when the tree has none: it was lost, or the data was brought from elsewhere."""
        logger.warning("the coordination tree is new, but there is data: topics are rebuilt from their directories")
        return [
            FoundPartition(*topic_partition, log.topic_id, log.leader_epochs.latest)
            for topic_partition, log in list(self.logs.logs.items())
        ]

    async def _set_strays_aside(self) -> None:
        """Keep, but do not use, each log whose topic is not in the tree, or has another id there.

        A log that lies where one of the tree's topics belongs is not renamed away: a new, empty log would take its place,
        and a damaged topic id would look like lost records.
        """
        for topic_partition, log in list(self.logs.logs.items()):
            topic = self.image.topics.get(topic_partition.topic)
            known = topic is not None and topic_partition.partition < len(topic.partitions)
            if known and topic is not None and not any(log.topic_id):
                await self._around.offload.run(log.set_topic_id, topic.topic_id)
            elif log.topic_id in self.image.deleted:
                await self._around.offload.run(self.logs.delete, topic_partition)
                logger.info("%s was deleted while this broker was away; so is its log", topic_partition)
            elif (
                known
                and topic is not None
                and self.config.node_id in topic.partitions[topic_partition.partition].replicas
            ):
                if log.topic_id != topic.topic_id:
                    reason = _other_topic(log, topic)
                    await self._around.offload.run(self.logs.refuse, topic_partition, reason)
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
        levels = self.config.levels
        if levels.broker != own or levels.default != default:
            self.config = self._static_config.with_dynamic(own, default)
        return self.config

    async def _try_out(self, resource: ConfigResource, changed: Mapping[str, str]) -> Refusal | None:
        """Say whether the keys and certificates that `changed` names can be used here."""
        if resource != ConfigResource(BROKERS, str(self.config.node_id)):
            return None
        return await self.entrance.try_out(self._static_config.with_dynamic(changed, {}), changed)

    def _on_image(self, image: ClusterImage, delta: ImageDelta) -> None:
        if any(resource.kind == BROKERS for resource in delta.changed_configs):
            config = self._with_dynamic(image)
            self.entrance.on_config()
            self.server.change_limits(self._network_limits(config))
            self.logs.change_settings(log_settings(config, self._around.descriptor_limit))
        if any(resource.kind == CLIENT_METRICS for resource in delta.changed_configs):
            self.telemetry.on_configs(image)
        self.quota_control.on_image(image, delta)
        if delta.changed_configs:
            self.replication.throttles.on_configs(image, self._with_dynamic(image).levels)
        self.replicas.apply(image, delta)
        if delta.created or delta.deleted or delta.changed:
            self.server.change_limits(self._network_limits(self.config))
        if self.is_ready:
            for name in delta.created:
                logger.info("topic %s was created with %d partitions", name, len(image.topics[name].partitions))
        if delta.deleted:
            logger.info("deleted: %s", ", ".join(f"topic {topic.name}" for topic in delta.deleted))
            for topic in delta.deleted:
                self.metrics.topics.pop(topic.name, None)
            self.coordinators.on_topics_deleted(delta.deleted)
        if delta.created or delta.deleted or delta.changed or delta.changed_configs:
            self.coordinators.groups.on_image(image, delta)

    def _on_directory_offline(self, directory: str, topic_partitions: list[TopicPartition]) -> None:
        self.replicas.on_directory_offline(directory, topic_partitions)
        if not self.logs.online_dirs:
            # Kafka halts: a broker without a disk cannot keep what it acknowledges. `failure` stops the process.
            reasons = "; ".join(f"{path}: {reason}" for path, reason in self.logs.offline_dirs.items())
            self._fail(f"no log directory is left: {reasons}")

    # -- stop

    async def stop(self) -> None:
        """Stop everything, in the reverse order; safe to call after a failed start. Data is complete on the disk after."""
        if self.is_ready:
            logger.info("stopping")
            await self.controller.hand_over(HAND_OVER_SECONDS)
        self.is_ready = False
        self._unwatch()
        self.monitor.stop()
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
        """Whether the compiled kernels run, and why if not."""
        return compiled.status_of_all()

    def facts(self) -> BrokerFacts:
        """What this broker says about itself."""
        return BrokerFacts(
            version=ottla.__version__,
            node_id=self.config.node_id,
            cluster_id=self.image.cluster_id,
            addresses=self.addresses,
            data_dirs=list(self.config.log_dirs),
            kernels=self.kernels,
            is_loopback_only=all(is_loopback(listener.host) for listener in self.config.listeners),
        )

    @property
    def descriptor_limit(self) -> int | None:
        """Files and sockets this process may have open; None for no limit."""
        return self._around.descriptor_limit

    @property
    def uptime_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at if self.is_ready else 0.0


def _other_topic(log: PartitionLog, topic: TopicImage) -> str:
    """Return why a log that names another topic is not served, and what its owner can do."""
    tree_id = uuid_to_text(topic.topic_id)
    return (
        f"{log.directory}/{PARTITION_METADATA_FILE} names the topic id {uuid_to_text(log.topic_id)}, and topic {topic.name} "
        f"has the id {tree_id}: the partition is not served, its files are kept. Stop the broker; if the records are of this "
        f"topic, write 'topic_id: {tree_id}' into that file, if they are not, move the directory out of {log.log_directory}"
    )
