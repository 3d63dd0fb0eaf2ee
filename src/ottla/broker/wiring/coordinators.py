"""The coordinators of one broker: what each is made of, and which internal topic is whose.

A coordinator works on the partitions of its topic that this broker leads. Transactions and share groups need more than a
state machine: markers and producer ids, what persists share partitions and what begins and deletes them. State machines are
imported with the first partition that is led, the rest of share groups with the first request for it.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ottla.broker.coordinators.background_runner import BackgroundRunner
from ottla.broker.coordinators.replicated_log import ReplicatedCoordinatorLog
from ottla.broker.coordinators.runtime import CoordinatorRuntime, RuntimeConfig
from ottla.broker.coordinators.shard import DeletedTopic
from ottla.broker.share.state_pruning import ShareStatePruning
from ottla.broker.transactions.markers import MarkerLog, TransactionMarkers
from ottla.broker.transactions.producer_id_block import ProducerIdBlock
from ottla.broker.transactions.remote import RemoteTransactions
from ottla.cluster.decisions.features import TRANSACTION_VERSION
from ottla.cluster.image import GROUPS
from ottla.types import (
    GROUP_METADATA_TOPIC,
    SHARE_GROUP_STATE_TOPIC,
    TRANSACTION_STATE_TOPIC,
    CompressionType,
    TopicPartition,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.share.coordinator import ShareCoordinator
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
    from ottla.broker.peers import Peers
    from ottla.broker.share.group_states import GroupStates
    from ottla.broker.share.manager import SharePartitionManager
    from ottla.broker.share.persister import CoordinatorPersister
    from ottla.broker.wiring.parts import Parts
    from ottla.cluster.image import ClusterImage, TopicImage


class Coordinators:
    """The coordinators and what works for them.

    Attributes:
        groups, transactions, share_states: the runtimes of the coordinators of the three internal topics.
        markers: writes the markers that end transactions, into `marker_log` and through `remote_transactions`.
        shares: share partitions that this broker leads; `share_persister` keeps their state in `share_states`.
        group_states: begins and deletes the share partitions of groups.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._share_sessions_max = parts.config().group_share_max_share_sessions
        self.groups = _groups(parts)
        self.producer_ids = ProducerIdBlock(parts.controller.allocate_producer_ids)
        self.marker_log = MarkerLog(parts.replicas, self.groups, parts.surroundings.clock)
        remote = _remote(parts)
        self.remote_transactions = None if remote is None else RemoteTransactions(*remote)
        self.markers = TransactionMarkers(
            self.marker_log,
            leader_of=lambda topic_partition: leader_of(parts.image(), topic_partition),
            remote=self.remote_transactions,
            refresh=None if remote is None else parts.refresh,
        )
        self.transactions = self.markers.transactions = _transactions(parts, self.markers, self.producer_ids)
        self._pruning = ShareStatePruning(parts.replicas)
        self.share_states = _share_states(parts, self._pruning)
        runtimes: Sequence[CoordinatorRuntime[Any]] = (self.groups, self.transactions, self.share_states)
        self._by_topic = {runtime.topic: runtime for runtime in runtimes}

    def start(self) -> list[Callable[[], Awaitable[None]]]:
        """Start them; return what stops the parts, in the order of the start."""
        for runtime in self._by_topic.values():
            runtime.start()
        return [
            self.groups.stop,
            self.producer_ids.stop,
            self.transactions.stop,
            self.markers.stop,
            self._pruning.stop,
            self.share_states.stop,
            partial(self._stop_made, "shares"),
            partial(self._stop_made, "group_states"),
        ]

    @cached_property
    def share_persister(self) -> CoordinatorPersister:
        from ottla.broker.share.persister import CoordinatorPersister
        from ottla.broker.share.remote import RemoteShareStates

        parts, remote = self._parts, _remote(self._parts)
        return CoordinatorPersister(
            self.share_states,
            parts.controller.ensure_topic,
            coordinator_of=lambda index: leader_of(parts.image(), TopicPartition(SHARE_GROUP_STATE_TOPIC, index)),
            remote=None if remote is None else RemoteShareStates(*remote),
        )

    @cached_property
    def shares(self) -> SharePartitionManager:
        from ottla.broker.share.config import ShareConfig
        from ottla.broker.share.manager import SharePartitionManager

        parts = self._parts
        return SharePartitionManager(
            parts.replicas,
            self.share_persister,
            config_of=lambda group_id: ShareConfig.for_group(parts.config(), parts.image().config(GROUPS, group_id)),
            sessions_max=self._share_sessions_max,
            clock=parts.surroundings.clock,
        )

    @cached_property
    def group_states(self) -> GroupStates:
        from ottla.broker.share.group_states import GroupStates

        return GroupStates(self.groups, self.share_persister, forget=self.shares.on_group_deleted)

    def _made(self, name: str) -> Any:
        """Return one of the three above if it has been made."""
        return self.__dict__.get(name)

    async def _stop_made(self, name: str) -> None:
        made = self._made(name)
        if made is not None:
            await made.stop()

    def on_leader(self, topic_partition: TopicPartition, leader_epoch: int) -> None:
        """This broker leads a partition from now on."""
        runtime = self._by_topic.get(topic_partition.topic)
        if runtime is not None:
            runtime.on_leader(topic_partition.partition, leader_epoch)

    def on_resigned(self, topic_partition: TopicPartition) -> None:
        """This broker leads a partition no more."""
        runtime = self._by_topic.get(topic_partition.topic)
        if runtime is not None:
            runtime.on_resign(topic_partition.partition)
        else:
            shares = self._made("shares")
            if shares is not None:
                shares.on_resigned(topic_partition)

    def on_topics_deleted(self, topics: Sequence[TopicImage]) -> None:
        """Topics are gone, and with them what coordinators keep about them."""
        deleted = [DeletedTopic(topic.name, topic.topic_id) for topic in topics]
        for runtime in self._by_topic.values():
            runtime.on_topics_deleted(deleted)


def leader_of(image: ClusterImage, topic_partition: TopicPartition) -> int | None:
    """Return which broker leads a partition, NO_LEADER if none does, None if there is no such partition."""
    partition = image.partition(topic_partition)
    return None if partition is None else partition.leader


def _remote(parts: Parts) -> tuple[Peers, Callable[[], int]] | None:
    """Return what other brokers are asked with; None where there are none."""
    if not parts.surroundings.shared_tree:
        return None
    return parts.peers, lambda: parts.controller.broker_epoch


def _groups(parts: Parts) -> CoordinatorRuntime[GroupCoordinator]:
    config, around = parts.config(), parts.surroundings
    background = BackgroundRunner(around.offload)

    def make(partition: int, timeline: Timeline, timers: Timers) -> GroupCoordinator:
        from ottla.broker.coordinators.groups.config import GroupConfig
        from ottla.broker.coordinators.groups.coordinator import GroupCoordinator

        return GroupCoordinator(
            partition,
            timeline,
            timers,
            config=GroupConfig.from_broker(config),
            random=around.random,
            image=parts.image,
            run_background=background.run,
            may_expire=lambda: _may_expire(parts, GROUP_METADATA_TOPIC, partition),
        )

    return CoordinatorRuntime(
        topic=GROUP_METADATA_TOPIC,
        log=ReplicatedCoordinatorLog(parts.replicas),
        shard_factory=make,
        partition_count=_partition_count(parts, GROUP_METADATA_TOPIC, config.offsets_topic_num_partitions),
        clock=around.clock,
        config=RuntimeConfig(
            append_timeout_ms=config.offsets_commit_timeout_ms,
            batch_bytes_max=config.topic_defaults.max_message_bytes,
            compression=CompressionType(config.offsets_topic_compression_codec),
            load_bytes_max=config.offsets_load_buffer_size,
        ),
    )


def _transactions(
    parts: Parts, markers: TransactionMarkers, producer_ids: ProducerIdBlock
) -> CoordinatorRuntime[TransactionCoordinator]:
    config = parts.config()

    def make(partition: int, timeline: Timeline, timers: Timers) -> TransactionCoordinator:
        from ottla.broker.coordinators.transactions.config import TransactionConfig
        from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator

        return TransactionCoordinator(
            partition,
            timeline,
            timers,
            config=TransactionConfig.from_broker(config),
            send_markers=markers.send,
            take_producer_id=producer_ids.take,
            level=lambda: parts.image().features[TRANSACTION_VERSION],
            may_expire=lambda: _may_expire(parts, TRANSACTION_STATE_TOPIC, partition),
            is_clock_right=lambda: parts.logs.is_clock_right(),
        )

    return CoordinatorRuntime(
        topic=TRANSACTION_STATE_TOPIC,
        log=ReplicatedCoordinatorLog(parts.replicas),
        shard_factory=make,
        partition_count=_partition_count(parts, TRANSACTION_STATE_TOPIC, config.transaction_state_log_num_partitions),
        clock=parts.surroundings.clock,
        config=RuntimeConfig(
            batch_bytes_max=config.topic_defaults.max_message_bytes,
            load_bytes_max=config.transaction_state_log_load_buffer_size,
        ),
    )


def _share_states(parts: Parts, pruning: ShareStatePruning) -> CoordinatorRuntime[ShareCoordinator]:
    config = parts.config()

    def partition_count_of(topic_id: bytes) -> int:
        topic = parts.image().topic_by_id(topic_id)
        return 0 if topic is None else len(topic.partitions)

    def make(partition: int, timeline: Timeline, timers: Timers) -> ShareCoordinator:
        from ottla.broker.coordinators.share.config import ShareCoordinatorConfig
        from ottla.broker.coordinators.share.coordinator import ShareCoordinator

        return ShareCoordinator(
            partition,
            timeline,
            timers,
            config=ShareCoordinatorConfig.from_broker(config),
            partition_count_of=partition_count_of,
            prune=pruning.prune,
        )

    return CoordinatorRuntime(
        topic=SHARE_GROUP_STATE_TOPIC,
        log=ReplicatedCoordinatorLog(parts.replicas),
        shard_factory=make,
        partition_count=_partition_count(
            parts, SHARE_GROUP_STATE_TOPIC, config.share_coordinator_state_topic_num_partitions
        ),
        clock=parts.surroundings.clock,
        config=RuntimeConfig(
            append_timeout_ms=config.share_coordinator_write_timeout_ms,
            append_linger_ms=config.share_coordinator_append_linger_ms,
            batch_bytes_max=config.topic_defaults.max_message_bytes,
            compression=CompressionType(config.share_coordinator_state_topic_compression_codec),
            load_bytes_max=config.share_coordinator_load_buffer_size,
        ),
    )


def _partition_count(parts: Parts, name: str, before: int) -> Callable[[], int]:
    """Return what counts a topic's partitions; `before` it is created: what it will be created with."""

    def count() -> int:
        topic = parts.image().topics.get(name)
        return before if topic is None else len(topic.partitions)

    return count


def _may_expire(parts: Parts, topic: str, partition: int) -> bool:
    """Whether old state may be dropped: not while its log is foreign (copied from another broker, and not confirmed), nor

    while it is not known what is old.
    """
    return parts.logs.is_clock_right() and not parts.logs.is_foreign(TopicPartition(topic, partition))
