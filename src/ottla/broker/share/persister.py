"""What keeps the state of share partitions: a protocol, and its implementation by the share coordinators.

Share partitions read and write it, share groups initialise and delete it. Nothing here raises: every error is a code beside
the partition it belongs to. What passes by itself (the coordinator is loading, its topic is being made) is asked again for
a while, as Kafka's PersisterStateManager does.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.share.coordinator import Write
from ottla.broker.coordinators.share.records import ShareKey, ShareState
from ottla.broker.share.remote import KnownState, RemoteShareStates
from ottla.cluster.image import NO_LEADER
from ottla.errors import ErrorCode, KafkaError
from ottla.types import SHARE_GROUP_STATE_TOPIC, TopicIdPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.share.batches import StateBatch
    from ottla.broker.coordinators.share.coordinator import ShareCoordinator

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: What passes: asked again, with growing pauses (Kafka: 1 s doubling to 30 s, five times; here nothing crosses a network).
_PASSING: Final = (
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.BROKER_NOT_AVAILABLE,
)
_PAUSE_SECONDS: Final = 0.02
_PAUSE_SECONDS_MAX: Final = 1.0
_TRIES_MAX: Final = 10


class InitialState(NamedTuple):
    """What a share partition begins with; `start_offset` -1: where `share.auto.offset.reset` says, at the first fetch."""

    topic_id_partition: TopicIdPartition
    state_epoch: int
    start_offset: int


class StateResult(NamedTuple):
    """How it went for one partition."""

    topic_id_partition: TopicIdPartition
    error_code: ErrorCode = ErrorCode.NONE
    error_message: str | None = None


class StateSummary(NamedTuple):
    """What is known of one share partition: -1 as start offset if no member has fetched, as count if it is not known."""

    topic_id_partition: TopicIdPartition
    error_code: ErrorCode = ErrorCode.NONE
    error_message: str | None = None
    state_epoch: int = 0
    leader_epoch: int = 0
    start_offset: int = -1
    delivery_complete_count: int = -1


class LoadedState(NamedTuple):
    """Everything that is known of one share partition."""

    error_code: ErrorCode = ErrorCode.NONE
    error_message: str | None = None
    state_epoch: int = 0
    start_offset: int = -1
    batches: tuple[StateBatch, ...] = ()


class ShareStatePersister(Protocol):
    """Keeps the state of share partitions."""

    async def initialize(self, group_id: str, partitions: Sequence[InitialState]) -> list[StateResult]:
        """Let share partitions begin, or begin anew; results in the order of what was asked."""
        ...

    async def delete(self, group_id: str, topic_id_partitions: Sequence[TopicIdPartition]) -> list[StateResult]:
        """Forget share partitions."""
        ...

    async def read_summary(self, group_id: str, topic_id_partitions: Sequence[TopicIdPartition]) -> list[StateSummary]:
        """Return the start offsets of share partitions."""
        ...

    async def read(self, group_id: str, topic_id_partition: TopicIdPartition, leader_epoch: int) -> LoadedState:
        """Load a share partition for its leader."""
        ...

    async def write(self, group_id: str, topic_id_partition: TopicIdPartition, write: Write) -> StateResult:
        """Remember what the leader of a share partition did."""
        ...


class CoordinatorPersister:
    """Asks the share coordinators, here or on the brokers where they are.

    Args:
        ensure_topic: makes the topic of the share coordinator unless it exists.
        coordinator_of: returns which broker leads a partition of `__share_group_state`, as far as is known.
        remote: asks other brokers; without it all coordinators are on this one.
    """

    def __init__(
        self,
        runtime: CoordinatorRuntime[ShareCoordinator],
        ensure_topic: Callable[[str], Awaitable[Any]],
        *,
        coordinator_of: Callable[[int], int | None] = lambda partition: None,
        remote: RemoteShareStates | None = None,
    ) -> None:
        self._runtime = runtime
        self._ensure_topic = ensure_topic
        self._coordinator_of = coordinator_of
        self._remote = remote

    async def initialize(self, group_id: str, partitions: Sequence[InitialState]) -> list[StateResult]:
        async def one(state: InitialState) -> StateResult:
            key = ShareKey(group_id, *state.topic_id_partition)
            _, code, message = await self._ask(
                key,
                lambda partition: self._runtime.write(
                    partition,
                    lambda shard, now_ms: shard.initialize(key, state.state_epoch, state.start_offset, now_ms),
                ),
                lambda remote, node_id: remote.initialize(node_id, key, state.state_epoch, state.start_offset),
            )
            return StateResult(state.topic_id_partition, code, message)

        return list(await asyncio.gather(*(one(state) for state in partitions)))

    async def delete(self, group_id: str, topic_id_partitions: Sequence[TopicIdPartition]) -> list[StateResult]:
        async def one(topic_id_partition: TopicIdPartition) -> StateResult:
            key = ShareKey(group_id, *topic_id_partition)
            _, code, message = await self._ask(
                key,
                lambda partition: self._runtime.write(partition, lambda shard, _now_ms: shard.delete(key)),
                lambda remote, node_id: remote.delete(node_id, key),
            )
            return StateResult(topic_id_partition, code, message)

        return list(await asyncio.gather(*(one(topic_id_partition) for topic_id_partition in topic_id_partitions)))

    async def read_summary(self, group_id: str, topic_id_partitions: Sequence[TopicIdPartition]) -> list[StateSummary]:
        async def one(topic_id_partition: TopicIdPartition) -> StateSummary:
            key = ShareKey(group_id, *topic_id_partition)
            found, code, message = await self._ask(
                key,
                lambda partition: self._runtime.proven(
                    partition, lambda: self._runtime.read(partition, lambda shard: shard.summarize(key))
                ),
                lambda remote, node_id: remote.summarize(node_id, key),
            )
            return (
                StateSummary(topic_id_partition, code, message)
                if found is None
                else StateSummary(topic_id_partition, code, message, *found)
            )

        return list(await asyncio.gather(*(one(topic_id_partition) for topic_id_partition in topic_id_partitions)))

    async def read(self, group_id: str, topic_id_partition: TopicIdPartition, leader_epoch: int) -> LoadedState:
        key = ShareKey(group_id, *topic_id_partition)

        async def here(_partition: int) -> KnownState:
            found = await read_state(self._runtime, key, leader_epoch)
            return KnownState(found.state_epoch, found.start_offset, tuple(found.batches))

        known, code, message = await self._ask(
            key, here, lambda remote, node_id: remote.read(node_id, key, leader_epoch)
        )
        return LoadedState(code, message) if known is None else LoadedState(code, message, *known)

    async def write(self, group_id: str, topic_id_partition: TopicIdPartition, write: Write) -> StateResult:
        key = ShareKey(group_id, *topic_id_partition)
        _, code, message = await self._ask(
            key,
            lambda partition: self._runtime.write(partition, lambda shard, now_ms: shard.write(key, write, now_ms)),
            lambda remote, node_id: remote.write(node_id, key, write),
        )
        return StateResult(topic_id_partition, code, message)

    async def _ask(
        self,
        key: ShareKey,
        here: Callable[[int], Awaitable[R]],
        there: Callable[[RemoteShareStates, int], Awaitable[R]],
    ) -> tuple[R | None, ErrorCode, str | None]:
        pause = _PAUSE_SECONDS
        for tries_left in reversed(range(_TRIES_MAX)):
            partition = self._runtime.partition_for(key.coordinator_key)
            coordinator = self._coordinator_of(partition)
            try:
                if self._remote is None or coordinator in (None, NO_LEADER, self._remote.node_id):
                    return await here(partition), ErrorCode.NONE, None
                assert coordinator is not None
                return await there(self._remote, coordinator), ErrorCode.NONE, None
            except KafkaError as error:
                code = client_error_code(error)
                if code not in _PASSING or not tries_left:
                    return None, code, error.message
            if code == ErrorCode.NOT_COORDINATOR:
                try:
                    await self._ensure_topic(SHARE_GROUP_STATE_TOPIC)
                except KafkaError as error:
                    logger.warning("%s could not be made: %s", SHARE_GROUP_STATE_TOPIC, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)
        raise AssertionError("the last try has returned")


async def read_state(runtime: CoordinatorRuntime[ShareCoordinator], key: ShareKey, leader_epoch: int) -> ShareState:
    """Return the state of a share partition for who leads its partition in this epoch.

    Raises:
        KafkaError: as `ShareCoordinator.read`; NOT_COORDINATOR, also if another one may be by now.
    """
    partition = runtime.partition_for(key.coordinator_key)
    proof = runtime.prove(partition)
    if proof is not None:
        await proof
    return await runtime.write(partition, lambda shard, now_ms: shard.read(key, leader_epoch, now_ms))
