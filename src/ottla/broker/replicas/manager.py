"""ReplicaManager: every partition this broker holds.

Follows the cluster image: makes and deletes logs, hands out roles. Everybody who wants to read or write a partition asks
here, and gets the partition or the error code a client is to see.

A log is deleted when its topic is, or when the partition has other replicas and its state names this broker neither as
leader nor as in sync.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from ottla.broker.replicas.disk_pace import DiskPace
from ottla.broker.replicas.follower import Follower
from ottla.broker.replicas.hand_offs import HandOffs
from ottla.broker.replicas.log_work import LogWork
from ottla.broker.replicas.partition import Partition, leader_of
from ottla.broker.replicas.relocations import Relocations
from ottla.cluster.image import NO_LEADER, TOPICS
from ottla.errors import ErrorCode, KafkaStorageError, NotLeaderOrFollowerError, StorageError
from ottla.types import ZERO_UUID, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ottla.broker.replicas.leader import Leader
    from ottla.broker.replicas.partition import Commits
    from ottla.broker.replicas.replication import Replication
    from ottla.broker.replicas.throttles import Throttle
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage, ImageDelta, PartitionImage
    from ottla.errors import KafkaError
    from ottla.offload import Offload
    from ottla.storage.config import LogConfig
    from ottla.storage.log import PartitionLog
    from ottla.storage.log_manager import LogManager

logger = logging.getLogger(__name__)

#: How long the followers are asked whether this broker leads, before the tree is.
FOLLOWERS_SECONDS = 0.5
#: See `ReplicaManager.follower_look_ms`.
FOLLOWER_LOOK_MS_MAX = 1_000


class _Disk(TypedDict):
    """What all partitions of one log directory share; see `Partition`."""

    commits: Commits
    pace: DiskPace
    hand_offs: HandOffs
    offload: Offload
    watched: Offload


class ReplicaManager:
    """The partitions of this broker.

    Attributes:
        image: the cluster as this broker last saw it.
        on_leader, on_resigned: told when a partition of an internal topic gets or loses its leader here.
        on_old_records: told of appends that retention would delete at once, see `Partition`.
        turn: grows with each question whether this broker leads (`prove`). What a follower sends after an answer of
            a turn was sent after all questions up to it.
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
        replication: Replication,
    ) -> None:
        self.node_id = node_id
        self.image = image
        self.on_leader: Callable[[TopicPartition, int], None] = lambda _tp, _epoch: None
        self.on_resigned: Callable[[TopicPartition], None] = lambda _tp: None
        self.on_old_records: Callable[[TopicPartition, int, int], None] = lambda _tp, _newest_ms, _retention_ms: None
        self.turn = 0
        self._question_count = 0
        self._logs = logs
        self._topic_config = topic_config
        self._offload = offload
        self._clock = clock
        self._disks: dict[str, tuple[DiskPace, HandOffs]] = {}
        self._unpacking = asyncio.Lock()
        #: Every replica held here, and those of them that this broker leads.
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._led: dict[tuple[str, int], Partition] = {}
        self._failed: dict[tuple[str, int], str] = {}
        self._refused: dict[TopicPartition, str] = {}
        #: Logs that are being made, with the id of their topic, and deleted, with the directory in which they lie.
        self._making: dict[TopicPartition, bytes] = {}
        self._deleting: dict[TopicPartition, str] = {}
        self._work: dict[str, LogWork] = {}
        self._unsettled: list[asyncio.Future[None]] = []
        self._replication = replication
        replication.serve(
            self._led.values, self._on_refused, is_damaged=logs.damaged.__contains__, on_healed=self._report_unfit
        )
        self.relocations = Relocations(logs, self, clock, lambda: replication.throttles.between_directories)
        logs.on_damage = logs.on_hung = self._report_unfit

    # -- lookup

    def partition(self, topic: str, index: int) -> Partition | None:
        """Return the partition if this broker leads it; else `error` says why not."""
        return self._led.get((topic, index))

    def replica(self, topic: str, index: int) -> Partition | None:
        """Return the partition if this broker holds a replica of it, leading or not."""
        return self._partitions.get((topic, index))

    @property
    def leader_throttle(self) -> Throttle:
        """Of what this broker sends to replicas that catch up."""
        return self._replication.throttles.leader

    @property
    def follower_look_ms(self) -> int:
        """How old the news may be that a follower still follows partitions of which it has nothing to say."""
        return min(FOLLOWER_LOOK_MS_MAX, self._replication.settings.lag_ms_max // 10)

    @property
    def has_questions(self) -> bool:
        """Whether a proof that this broker leads some partition is waited for."""
        return self._question_count > 0

    def prove(self, partition: Partition) -> Awaitable[None] | None:
        """Return None if it is certain that no other broker leads this partition now; else what resolves when it is.

        It is proven by a fetch of each other member of the ISR that was sent after this call, or by what the tree says
        after it. So the whole ISR does without a majority of the tree's servers, and the tree without the whole ISR.

        Raises:
            NotLeaderOrFollowerError: it is not certain; also through what is returned.
        """
        leader = partition.leader
        if leader is None:
            raise NotLeaderOrFollowerError(f"{partition.topic_partition} is not led here")
        if leader.is_sole or (leader.is_alone and self._replication.lease.holds()):
            return None
        return self._prove(partition)

    async def _prove(self, partition: Partition) -> None:
        self.turn += 1
        self._question_count += 1
        proof = partition.ask_followers(self.turn)
        try:
            await asyncio.wait([proof], timeout=FOLLOWERS_SECONDS)
            if proof.done():
                proof.result()
            elif not await self.still_leads(partition):
                raise NotLeaderOrFollowerError(
                    f"{partition.topic_partition}: it is not known that no other broker leads it"
                )
        finally:
            self._question_count -= 1
            partition.ask_no_more(proof)
            proof.cancel()

    async def still_leads(self, partition: Partition) -> bool:
        """Ask the tree whether this broker still leads, in the same epoch; False also if the tree does not answer."""
        epoch = partition.leader_epoch
        if not await self._replication.look_at_tree():
            return False
        return partition.leader is not None and partition.leader_epoch == epoch

    def readable(self, topic: str, index: int) -> Partition | None:
        """Return the partition if this broker follows its leader: consumers may read what it knows to be committed."""
        partition = self._partitions.get((topic, index))
        return partition if partition is not None and partition.follower is not None else None

    def partitions(self) -> Iterable[Partition]:
        """Every partition this broker leads."""
        return self._led.values()

    def replicas(self) -> Iterable[Partition]:
        """Every partition of which this broker holds a replica."""
        return self._partitions.values()

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

    def apply(self, image: ClusterImage, delta: ImageDelta) -> None:
        """Bring the partitions of this broker in line with `image`: roles at once, logs beside it.

        When it returns, no request finds a deleted partition or one that another broker leads. A new partition is led as
        soon as its log has been made; `settled` waits for that.
        """
        for topic in delta.deleted:
            for index in range(len(topic.partitions)):
                self._remove(TopicPartition(topic.name, index))
        for resource in delta.changed_configs:
            if resource.kind == TOPICS:
                self._logs.update_config(resource.name, self._topic_config(image, resource.name))
            else:
                for name in image.topics:
                    self._logs.update_config(name, self._topic_config(image, name))
        self.image = image
        if delta.changed_configs:
            self._on_settings()
        new: list[tuple[TopicPartition, bytes]] = []
        for name in (*delta.created, *delta.changed):
            known = image.topics[name]
            indexes = delta.changed_partitions.get(name) if name in delta.changed else None
            for index in range(len(known.partitions)) if indexes is None else indexes:
                self._on_state(TopicPartition(name, index), known.topic_id, known.partitions[index], new)
        if delta.brokers_changed:
            self._on_brokers()
        self._add(new)

    def _on_state(
        self,
        topic_partition: TopicPartition,
        topic_id: bytes,
        state: PartitionImage,
        new: list[tuple[TopicPartition, bytes]],
    ) -> None:
        partition = self._partitions.get(topic_partition)
        if partition is not None and partition.topic_id != topic_id:
            self._remove(topic_partition)  # of a topic of the same name that is gone
            partition = None
        if not self._is_held(state):
            if partition is not None and state.isr:
                self._remove(topic_partition)  # it has other replicas now
        elif partition is not None:
            self._follow_role(partition, state)
        elif self._making.get(topic_partition) != topic_id:
            new.append((topic_partition, topic_id))

    def _is_held(self, state: PartitionImage) -> bool:
        """Whether this broker is to hold a replica. One that leads or is in sync keeps its log, whatever is assigned."""
        me = self.node_id
        return me in state.replicas or me == state.leader or me in state.isr

    def _on_settings(self) -> None:
        for topic_partition, partition in self._led.items():
            leader = partition.leader
            if leader is not None:
                leader.on_min_isr(self._replication.min_isr(topic_partition[0]))
                self._on_facts(partition, leader)

    def _on_brokers(self) -> None:
        """Brokers came, went, or say something else of themselves: who is in sync, and where leaders are reached."""
        self._replication.fetchers.on_brokers()
        for topic_partition, partition in list(self._partitions.items()):
            leader = partition.leader
            if leader is not None:
                leader.on_brokers(self.image.brokers, self._unfit_of(partition))
                self._on_facts(partition, leader)
            else:
                state = self.image.partition(partition.topic_partition)
                if state is not None and topic_partition not in self._led:
                    self._follow_role(partition, state)  # it may have become known that this broker may lead
        self._report_unfit()

    def _on_facts(self, partition: Partition, leader: Leader) -> None:
        """What a leader knows has changed. The only replica keeps it for when it gets others; nothing follows from it yet."""
        if not leader.is_sole:
            self._replication.isrs.look_at(partition)
            partition.on_role_facts()

    def _unfit_of(self, partition: Partition) -> frozenset[int]:
        key = (partition.topic_id, partition.topic_partition.partition)
        return frozenset(node_id for node_id, unfit in self.image.unfit.items() if key in unfit)

    async def settled(self, topics: Iterable[str] | None = None) -> None:
        """Wait until the logs of these topics, of all unless given, have been made, or could not be."""
        names = None if topics is None else set(topics)
        while any(names is None or topic in names for topic, _ in self._making):
            changed = asyncio.get_running_loop().create_future()
            self._unsettled.append(changed)
            await changed

    def _add(self, new: list[tuple[TopicPartition, bytes]]) -> None:
        to_make: list[tuple[TopicPartition, bytes]] = []
        for topic_partition, topic_id in new:
            if topic_partition in self._logs.logs and topic_partition not in self._deleting:
                self._hold(topic_partition, topic_id)
            else:
                to_make.append((topic_partition, topic_id))
        if not to_make:
            return
        try:
            directories = self._logs.places([topic_partition for topic_partition, _ in to_make])
        except StorageError as error:
            for topic_partition, _ in to_make:
                self._fail(topic_partition, str(error))
            return
        for (topic_partition, topic_id), directory in zip(to_make, directories, strict=True):
            # What has that name still is deleted first: in the directory where it lies.
            place = self._deleting.get(topic_partition, directory)
            self._making[topic_partition] = topic_id
            config = self._topic_config(self.image, topic_partition.topic)
            self._work_of(place).add(
                partial(self._logs.create, topic_partition, topic_id, config, directory),
                partial(self._on_made, topic_partition, topic_id),
            )

    def _work_of(self, directory: str) -> LogWork:
        work = self._work.get(directory)
        if work is None:
            work = self._work[directory] = LogWork(self._logs.offload_of(directory))
        return work

    def _on_made(self, topic_partition: TopicPartition, topic_id: bytes, error: Exception | None) -> None:
        if self._making.get(topic_partition) == topic_id:
            del self._making[topic_partition]
            known = self.image.topics.get(topic_partition.topic)
            if error is not None:
                self._fail(topic_partition, str(error))
            elif known is None or known.topic_id != topic_id:
                self._remove(topic_partition)  # deleted while it was made
            else:
                self._hold(topic_partition, topic_id)
        unsettled, self._unsettled = self._unsettled, []
        for waiting in unsettled:
            if not waiting.done():
                waiting.set_result(None)

    def _fail(self, topic_partition: TopicPartition, reason: str) -> None:
        self._failed[topic_partition] = reason
        logger.error("no log for %s: %s", topic_partition, reason)
        self._report_unfit()

    def _hold(self, topic_partition: TopicPartition, topic_id: bytes) -> None:
        """Hold a replica whose log is there, and take the role that the image gives to it."""
        log = self._logs.logs.get(topic_partition)
        if log is None:
            self._failed.setdefault(topic_partition, "its log directory is offline")
            self._report_unfit()
            return
        if log.topic_id not in (topic_id, ZERO_UUID):
            self._fail(topic_partition, f"{log.directory} belongs to another topic of this name")
            return
        self._failed.pop(topic_partition, None)
        partition = Partition(
            log,
            topic_id,
            **self._disk_of(log),
            unpacking=self._unpacking,
            clock=self._clock,
            on_old_records=self.on_old_records,
        )
        self._partitions[topic_partition] = partition
        state = self.image.partition(topic_partition)
        if state is not None:
            self._follow_role(partition, state)

    def _disk_of(self, log: PartitionLog) -> _Disk:
        directory = log.log_directory
        if directory not in self._disks:
            self._disks[directory] = DiskPace(), HandOffs(self._logs.watched(directory))
        pace, hand_offs = self._disks[directory]
        return _Disk(
            commits=self._logs.commits_of(log),
            pace=pace,
            hand_offs=hand_offs,
            offload=self._logs.offload_of(directory),
            watched=self._logs.watched(directory),
        )

    def on_relocated(self, topic_partition: TopicPartition, log: PartitionLog) -> None:
        """The log of a replica has moved to another log directory."""
        partition = self._partitions.get(topic_partition)
        if partition is not None and partition.topic_id == log.topic_id:
            partition.use_log(log, **self._disk_of(log))
            self._report_unfit()

    def _follow_role(self, partition: Partition, state: PartitionImage) -> None:
        """Give a replica the role that the state says. What is of an older leader epoch than the last role is passed over."""
        topic_partition = partition.topic_partition
        if state.leader_epoch < partition.highest_epoch:
            return
        if topic_partition in self._refused:
            if state.leader_epoch == partition.highest_epoch:
                return
            del (
                self._refused[topic_partition],
                self._failed[topic_partition],
            )  # another leader may have what this one lacks
            self._report_unfit()
        partition.highest_epoch = state.leader_epoch
        if state.leader == self.node_id:
            if topic_partition in self._led and state.leader_epoch == partition.leader_epoch:
                self._on_led_state(partition, state)
            elif self._may_lead(state):
                self._replication.fetchers.leave(topic_partition)
                self._led[topic_partition] = partition
                partition.on_progress = partial(self._replication.isrs.look_at, partition)
                partition.become_leader(state.leader_epoch, partial(self._begin_to_lead, partition, state))
                self.on_leader(topic_partition, state.leader_epoch)
            else:
                self._resign(partition)
        elif state.leader == NO_LEADER:
            self._resign(partition)
        elif partition.follower is not None and partition.follower.leader_epoch == state.leader_epoch:
            partition.follower.on_state(self.node_id, state)
        else:
            self._resign(partition)
            partition.become_follower(Follower(self.node_id, state))
            self._replication.fetchers.follow(partition)

    def _may_lead(self, state: PartitionImage) -> bool:
        """Whether what this broker has is what it had when it was admitted; the controller elects another leader if not."""
        me = self.image.brokers.get(self.node_id)
        admitted = state.admitted().get(self.node_id)
        return me is not None and admitted is not None and me.continues_from(admitted)

    def _begin_to_lead(self, partition: Partition, decided: PartitionImage) -> Leader:
        topic_partition = partition.topic_partition
        now = self.image.partition(topic_partition)
        state = decided if now is None or now.leader_epoch != decided.leader_epoch else now
        leader = leader_of(
            partition.log,
            self.node_id,
            state,
            lease=self._replication.lease,
            min_isr=self._replication.min_isr(topic_partition.topic),
            lag_ms_max=self._replication.settings.lag_ms_max,
            now_ms=self._clock.monotonic_ms(),
        )
        leader.on_brokers(self.image.brokers, self._unfit_of(partition))
        return leader

    def _on_led_state(self, partition: Partition, state: PartitionImage) -> None:
        leader = partition.leader
        if leader is not None:
            leader.high_watermark = max(
                leader.high_watermark, partition.log.high_watermark
            )  # as the only replica it kept none
            leader.on_state(state, self._clock.monotonic_ms())
            partition.on_role_facts()
            self._replication.isrs.look_at(partition)

    def _resign(self, partition: Partition, error: KafkaError | None = None) -> None:
        """Give up the role: first no request finds the partition and no answer is taken in, then waiters get the error."""
        self._replication.fetchers.leave(partition.topic_partition)
        if self._led.pop(partition.topic_partition, None) is not None:
            partition.resign(error)
            self.on_resigned(partition.topic_partition)
        elif partition.follower is not None:
            partition.resign(error)

    # -- replicas that cannot lead

    def _on_refused(self, topic_partition: TopicPartition, reason: str) -> None:
        """A replica follows no more: it would have to give up what was committed."""
        partition = self._partitions.get(topic_partition)
        if partition is not None:
            self._refused[topic_partition] = reason
            self._failed[topic_partition] = reason
            logger.error("%s is offline here: %s", topic_partition, reason)
            self._resign(partition, KafkaStorageError(reason))
            self._report_unfit()

    def refused(self) -> Mapping[TopicPartition, str]:
        """Replicas that do not follow their leaders, with the reasons: an operator has to decide."""
        return self._refused

    def _report_unfit(self) -> None:
        """Say in the tree which replicas elections have to skip: what another replica may lead in their place."""
        unfit: set[tuple[bytes, int]] = set()
        hung = self._logs.disk_watch.hung
        on_hung = (
            [tp for tp in self._partitions if self._logs.directory_of(TopicPartition(*tp)) in hung] if hung else ()
        )
        for topic_partition in (*self._failed, *self._logs.damages(), *on_hung):
            topic = self.image.topics.get(topic_partition[0])
            if topic is not None and topic_partition[1] < len(topic.partitions):
                state = topic.partitions[topic_partition[1]]
                if self._is_held(state) and len(state.replicas) > 1:
                    unfit.add((topic.topic_id, topic_partition[1]))
        self._replication.on_unfit(frozenset(unfit))

    def _remove(self, topic_partition: TopicPartition) -> None:
        """Let go of a replica that is deleted; its log is deleted beside it."""
        self.relocations.cancel(topic_partition)
        self._failed.pop(topic_partition, None)
        self._refused.pop(topic_partition, None)
        self._making.pop(topic_partition, None)
        partition = self._partitions.pop(topic_partition, None)
        if partition is not None:
            self._resign(partition)
        if self._logs.holds(topic_partition) and topic_partition not in self._deleting:
            directory = self._logs.directory_of(topic_partition)
            self._deleting[topic_partition] = directory
            self._work_of(directory).add(
                partial(self._logs.delete, topic_partition), partial(self._on_deleted, topic_partition)
            )

    def _on_deleted(self, topic_partition: TopicPartition, error: Exception | None) -> None:
        self._deleting.pop(topic_partition, None)
        if error is not None:
            # It is out of reach already, and the rest of the change does not wait for this disk.
            logger.error("the log of %s is not deleted: %s", topic_partition, error)

    async def stop(self) -> None:
        """Make, move and delete no more logs."""
        await self.relocations.stop()
        for work in self._work.values():
            await work.stop()

    def on_directory_offline(self, directory: str, topic_partitions: Iterable[TopicPartition]) -> None:
        """A log directory has failed: its partitions answer KAFKA_STORAGE_ERROR from now on."""
        for topic_partition in topic_partitions:
            self.relocations.cancel(topic_partition)
            reason = f"log directory {directory} is offline"
            self._failed[topic_partition] = reason
            partition = self._partitions.pop(topic_partition, None)
            if partition is not None:
                self._resign(partition, KafkaStorageError(reason))
        self._report_unfit()
