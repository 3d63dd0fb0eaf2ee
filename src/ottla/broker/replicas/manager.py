"""ReplicaManager: every partition this broker holds.

Follows the cluster image: makes and deletes logs, hands out roles. Everybody who wants to read or write a partition asks
here, and gets the partition or the error code a client is to see.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ottla.broker.replicas.disk_pace import DiskPace
from ottla.broker.replicas.partition import Partition
from ottla.broker.replicas.shared_hops import SharedHops
from ottla.cluster.image import TOPICS
from ottla.errors import ErrorCode, KafkaStorageError, NotLeaderOrFollowerError, StorageError
from ottla.types import ZERO_UUID, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage, ImageDelta, PartitionImage
    from ottla.errors import KafkaError
    from ottla.offload import Offload
    from ottla.storage.config import LogConfig
    from ottla.storage.log_manager import LogManager

logger = logging.getLogger(__name__)

#: How many logs are made in one hop off the loop.
BATCH = 200


class ReplicaManager:
    """The partitions of this broker.

    Attributes:
        image: the cluster as this broker last saw it.
        on_leader, on_resigned: told when a partition of an internal topic gets or loses its leader here.
        on_old_records: told of appends that retention would delete at once, see `Partition`.
    """

    def __init__(
        self,
        node_id: int,
        logs: LogManager,
        *,
        image: ClusterImage,
        topic_config: Callable[[ClusterImage, str], LogConfig],
        offload: Offload,
        clock: Clock,
    ) -> None:
        self.node_id = node_id
        self.image = image
        self.on_leader: Callable[[TopicPartition, int], None] = lambda _tp, _epoch: None
        self.on_resigned: Callable[[TopicPartition], None] = lambda _tp: None
        self.on_old_records: Callable[[TopicPartition, int, int], None] = lambda _tp, _newest_ms, _retention_ms: None
        self._logs = logs
        self._topic_config = topic_config
        self._offload = offload
        self._clock = clock
        self._disks: dict[str, tuple[DiskPace, SharedHops]] = {}
        self._unpacking = asyncio.Lock()
        #: Every replica held here, and those of them that this broker leads.
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._led: dict[tuple[str, int], Partition] = {}
        self._failed: dict[tuple[str, int], str] = {}

    # -- lookup

    def partition(self, topic: str, index: int) -> Partition | None:
        """Return the partition if this broker leads it; else `error` says why not."""
        return self._led.get((topic, index))

    def replica(self, topic: str, index: int) -> Partition | None:
        """Return the partition if this broker holds a replica of it, leading or not."""
        return self._partitions.get((topic, index))

    def partitions(self) -> Iterable[Partition]:
        """Every partition this broker leads."""
        return self._led.values()

    def error(self, topic: str, index: int) -> ErrorCode:
        """Say why `partition` returned None."""
        if (topic, index) in self._failed:
            return ErrorCode.KAFKA_STORAGE_ERROR
        known = self.image.topics.get(topic)
        if known is None or not 0 <= index < len(known.partitions):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return ErrorCode.NOT_LEADER_OR_FOLLOWER

    def topic_name(self, topic: str, topic_id: bytes) -> tuple[str, ErrorCode]:
        """Resolve a topic that is named by id (Produce v13+, Fetch v13+) or by name (before)."""
        if topic_id == ZERO_UUID:
            return topic, ErrorCode.NONE
        name = self.image.topic_names.get(topic_id)
        return (name, ErrorCode.NONE) if name is not None else ("", ErrorCode.UNKNOWN_TOPIC_ID)

    # -- following the cluster

    async def apply(self, image: ClusterImage, delta: ImageDelta) -> None:
        """Bring the partitions of this broker in line with `image`.

        When it returns, every new partition can be written and every deleted one is out of reach.
        """
        # The old image is still what clients see while the logs of new topics are made.
        for topic in delta.deleted:
            for index in range(len(topic.partitions)):
                await self._remove(TopicPartition(topic.name, index))
        for resource in delta.changed_configs:
            if resource.kind == TOPICS:
                self._logs.update_config(resource.name, self._topic_config(image, resource.name))
            else:
                for name in image.topics:
                    self._logs.update_config(name, self._topic_config(image, name))
        new: list[tuple[TopicPartition, bytes, PartitionImage, LogConfig]] = []
        for name in (*delta.created, *delta.changed):
            known = image.topics[name]
            config = self._topic_config(image, name)
            for index, state in enumerate(known.partitions):
                partition = self._partitions.get((name, index))
                if partition is not None and partition.topic_id != known.topic_id:
                    await self._remove(partition.topic_partition)  # a topic of the same name that is gone
                    partition = None
                if partition is not None:
                    self._follow_role(partition, state)
                elif state.leader == self.node_id:
                    new.append((TopicPartition(name, index), known.topic_id, state, config))
        for start in range(0, len(new), BATCH):
            await self._add(new[start : start + BATCH])
        self.image = image

    async def _add(self, new: list[tuple[TopicPartition, bytes, PartitionImage, LogConfig]]) -> None:
        def make_logs() -> None:
            for topic_partition, topic_id, _, config in new:
                if topic_partition not in self._logs.logs:
                    try:
                        self._logs.create(topic_partition, topic_id, config)
                    except (OSError, StorageError, KafkaStorageError) as error:
                        self._failed[topic_partition] = str(error)
                        logger.error("no log for %s: %s", topic_partition, error)

        if any(topic_partition not in self._logs.logs for topic_partition, *_ in new):
            await self._offload.run(make_logs)
        for topic_partition, topic_id, state, _ in new:
            log = self._logs.logs.get(topic_partition)
            if log is None:
                self._failed.setdefault(topic_partition, "its log directory is offline")
                continue
            if log.topic_id not in (topic_id, ZERO_UUID):
                self._failed[topic_partition] = f"{log.directory} belongs to another topic of this name"
                logger.error("no log for %s: %s", topic_partition, self._failed[topic_partition])
                continue
            self._failed.pop(topic_partition, None)
            directory = self._logs.directory_of(topic_partition)
            offload = self._logs.offload_of(directory)
            if directory not in self._disks:
                self._disks[directory] = DiskPace(), SharedHops(offload)
            pace, hops = self._disks[directory]
            partition = Partition(
                log,
                topic_id,
                commits=self._logs.commits_of(log),
                unpacking=self._unpacking,
                pace=pace,
                hops=hops,
                offload=offload,
                clock=self._clock,
                on_old_records=self.on_old_records,
            )
            self._partitions[topic_partition] = partition
            self._follow_role(partition, state)

    def _follow_role(self, partition: Partition, state: PartitionImage) -> None:
        topic_partition = partition.topic_partition
        if state.leader != self.node_id:
            self._resign(partition)
        elif state.leader_epoch > partition.leader_epoch:
            try:
                partition.become_leader(state.leader_epoch)
            except NotLeaderOrFollowerError as error:
                self._resign(partition)
                self._failed[topic_partition] = str(error)
                logger.error("%s", error)
                return
            self._led[topic_partition] = partition
            self.on_leader(topic_partition, state.leader_epoch)

    def _resign(self, partition: Partition, error: KafkaError | None = None) -> None:
        """Stop leading, if this broker leads: first no request finds the partition, then waiters get the error."""
        if self._led.pop(partition.topic_partition, None) is not None:
            partition.resign(error)
            self.on_resigned(partition.topic_partition)

    async def _remove(self, topic_partition: TopicPartition) -> None:
        self._failed.pop(topic_partition, None)
        partition = self._partitions.pop(topic_partition, None)
        if partition is not None:
            self._resign(partition)
        if self._logs.holds(topic_partition):
            try:
                await self._offload.run(self._logs.delete, topic_partition)
            except (OSError, StorageError, KafkaStorageError) as error:
                # It is out of reach already, and the rest of the change must not wait for this disk.
                logger.error("the log of %s is not deleted: %s", topic_partition, error)

    def on_directory_offline(self, directory: str, topic_partitions: Iterable[TopicPartition]) -> None:
        """A log directory has failed: its partitions answer KAFKA_STORAGE_ERROR from now on."""
        for topic_partition in topic_partitions:
            reason = f"log directory {directory} is offline"
            self._failed[topic_partition] = reason
            partition = self._partitions.pop(topic_partition, None)
            if partition is not None:
                self._resign(partition, KafkaStorageError(reason))
