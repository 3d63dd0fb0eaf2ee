"""One group coordinator as clients see it: runtime, handlers, a log in memory, virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from tests.broker.coordinators.memory_log import MemoryCoordinatorLog
from tests.broker.coordinators.share_states import ModelPersister, ModelReplicas

from ottla.broker.context import RequestContext, Session
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
from ottla.broker.coordinators.runtime import CoordinatorRuntime, RuntimeConfig
from ottla.broker.coordinators.shard import DeletedTopic
from ottla.broker.handlers.addresses import Addresses
from ottla.broker.handlers.consumer_groups import ConsumerGroupsHandler
from ottla.broker.handlers.groups import GroupsHandler
from ottla.broker.handlers.offsets import OffsetsHandler
from ottla.broker.handlers.share_group_offsets import ShareGroupOffsetsHandler
from ottla.broker.handlers.share_groups import ShareGroupsHandler
from ottla.broker.handlers.streams_groups import StreamsGroupsHandler
from ottla.broker.replicas.manager import ReplicaManager
from ottla.broker.share.group_states import GroupStates
from ottla.broker.share.log_ends import LogEnds
from ottla.broker.transactions.gate import TransactionGate
from ottla.cluster.controller import TopicResult
from ottla.cluster.decisions.topics import NewTopic
from ottla.cluster.image import BrokerImage, ClusterImage, Endpoint, ImageDelta, PartitionImage, TopicImage
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import GROUP_METADATA_TOPIC

T = TypeVar("T")

ME = 1


def topic_image(name: str, number: int, partition_count: int) -> TopicImage:
    """Return a topic whose id is `number`."""
    partition = PartitionImage(replicas=(ME,), isr=(ME,), leader=ME, leader_epoch=0, partition_epoch=0)
    return TopicImage(name, number.to_bytes(16, "big"), (partition,) * partition_count)


class OpenGate:
    """Takes every transaction for a valid one."""

    def is_open(self, *, adds: bool) -> bool:
        return True


class GroupWorld:
    """Everything a group handler needs, with `handle` to send it requests."""

    def __init__(
        self,
        loop: VirtualLoop,
        *,
        config: GroupConfig | None = None,
        runtime_config: RuntimeConfig | None = None,
        partition_count: int = 1,
        seed: int = 1,
    ) -> None:
        self.loop = loop
        self.clock = VirtualClock(loop)
        self.config = config or GroupConfig()
        self.log = MemoryCoordinatorLog()
        self.random = random.Random(seed)
        self.partition_count = partition_count
        self.runtime: CoordinatorRuntime[GroupCoordinator] = CoordinatorRuntime(
            topic=GROUP_METADATA_TOPIC,
            log=self.log,
            shard_factory=lambda partition, timeline, timers: GroupCoordinator(
                partition, timeline, timers, config=self.config, random=self.random, image=lambda: self.image
            ),
            partition_count=lambda: partition_count,
            clock=self.clock,
            config=runtime_config,
        )
        self.image = ClusterImage(
            brokers={ME: BrokerImage(ME, 1, (Endpoint("PLAINTEXT", "broker", 9092, "PLAINTEXT"),))}
        )
        self.created: list[str] = []
        self.add_topic(GROUP_METADATA_TOPIC, 1000, partition_count)
        self.persister = ModelPersister()
        self.replicas = ModelReplicas()
        #: Groups whose share partitions had to be forgotten.
        self.forgotten: list[str] = []
        self.group_states = GroupStates(self.runtime, self.persister, forget=self.forgotten.append)
        self.groups = GroupsHandler(
            self.runtime,
            self.config,
            image=lambda: self.image,
            addresses=Addresses(lambda: self.image, ME, auto=False),
            ensure_topic=self.ensure_topic,
            deleting_shares=self.group_states.deleting_groups,
        )
        self.offsets = OffsetsHandler(self.runtime, image=lambda: self.image, gate=cast(TransactionGate, OpenGate()))
        self.consumers = ConsumerGroupsHandler(self.runtime, self.config, image=lambda: self.image)
        self.streams = StreamsGroupsHandler(
            self.runtime, self.config, image=lambda: self.image, create_topics=self.create_topics
        )
        self.shares = ShareGroupsHandler(self.runtime, self.group_states, image=lambda: self.image)
        self.share_offsets = ShareGroupOffsetsHandler(
            self.runtime,
            self.group_states,
            self.persister,
            LogEnds(cast(ReplicaManager, self.replicas), lambda _topic, _index: None, None),
            image=lambda: self.image,
        )
        handlers = (self.groups, self.consumers, self.offsets, self.streams, self.shares, self.share_offsets)
        self.routes = {key: handler for each in handlers for key, handler in each.routes().items()}

    async def ensure_topic(self, name: str) -> None:
        self.created.append(name)
        self.add_topic(name, 1000, self.partition_count)

    async def create_topics(self, topics: Sequence[NewTopic]) -> list[TopicResult]:
        """Make topics as the controller would; a replication factor of 9 is too much for it."""
        results = []
        for topic in topics:
            error = ErrorCode.NONE
            if topic.replication_factor == 9:
                error = ErrorCode.INVALID_REPLICATION_FACTOR
            elif topic.name in self.image.topics:
                error = ErrorCode.TOPIC_ALREADY_EXISTS
            else:
                self.created.append(f"{topic.name}:{topic.num_partitions}")
                self.add_topic(topic.name, 2000 + len(self.image.topics), topic.num_partitions)
            results.append(TopicResult(name=topic.name, error=error))
        return results

    def add_topic(self, name: str, number: int, partition_count: int) -> None:
        """Make a topic, or let one grow."""
        topic = topic_image(name, number, partition_count)
        is_new = name not in self.image.topics
        self.image = replace(
            self.image,
            topics={**self.image.topics, name: topic},
            topic_names={**self.image.topic_names, topic.topic_id: name},
        )
        self.runtime.on_image(self.image, ImageDelta(created=(name,)) if is_new else ImageDelta(changed=(name,)))

    def delete_topic(self, name: str) -> None:
        topic = self.image.topics[name]
        self.image = replace(
            self.image,
            topics={key: value for key, value in self.image.topics.items() if key != name},
            topic_names={key: value for key, value in self.image.topic_names.items() if value != name},
        )
        self.runtime.on_topics_deleted([DeletedTopic(name, topic.topic_id)])
        self.runtime.on_image(self.image, ImageDelta(deleted=(topic,)))

    async def start(self) -> None:
        self.runtime.start()
        for partition in range(self.partition_count):
            self.runtime.on_leader(partition, 1)
        await self.settle()

    async def reload(self, *, loses: bool = False) -> bool:
        """Lose leadership and get it back: everything that was only in memory is gone.

        With `loses` so is what the log had not committed; returns whether that was something.
        """
        for partition in range(self.partition_count):
            self.runtime.on_resign(partition)
        lost = loses and self.log.lose_uncommitted()
        for partition in range(self.partition_count):
            self.runtime.on_leader(partition, 1)
        await self.settle()
        return lost

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(20):
            await asyncio.sleep(0)

    def context(self, api_key: ApiKey, version: int, client_id: str | None = "client") -> RequestContext:
        return RequestContext(
            api_key=api_key,
            version=version,
            correlation_id=1,
            client_id=client_id,
            session=Session(listener="PLAINTEXT", client_host="10.0.0.7", local_host="127.0.0.1", local_port=9092),
        )

    async def handle(self, version: int, request: Any, client_id: str | None = "client") -> Any:
        """Send a request and wait for its answer."""
        api_key = ApiKey(request.API_KEY)
        answer = self.routes[api_key].handler(self.context(api_key, version, client_id), request)
        return await answer if asyncio.iscoroutine(answer) or isinstance(answer, asyncio.Future) else answer

    def classic_group(self, group_id: str) -> ClassicGroup | None:
        """Return the group as it is in memory, if it is one of the classic protocol."""
        group = self.shard().groups.get(group_id)
        return group if isinstance(group, ClassicGroup) else None

    def classic_groups(self) -> list[ClassicGroup]:
        return [group for group in self.shard().groups.values() if isinstance(group, ClassicGroup)]

    def shard(self, partition: int = 0) -> GroupCoordinator:
        return self.runtime.read(partition, lambda shard: shard)


def in_group_world(main: Callable[[GroupWorld], Coroutine[Any, Any, T]], **settings: Any) -> T:
    """Run a test in a world of its own."""

    async def run(loop: VirtualLoop) -> T:
        world = GroupWorld(loop, **settings)
        await world.start()
        try:
            return await main(world)
        finally:
            await world.group_states.stop()
            await world.runtime.stop()

    result, _ = run_virtual(settings.get("seed", 1), run)
    return result
