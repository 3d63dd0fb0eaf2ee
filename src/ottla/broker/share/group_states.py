"""GroupStates: has the share coordinator do what share groups have written down: begin share partitions, delete them.

Decides nothing: the group coordinator says what is to be done and gets the outcome (`groups/share/partition_states`), the
persister does it, and the share partitions that are in use here are forgotten, so that they are loaded anew.

Invariant: for one group one thing is done at a time, from the first record to the last. Otherwise a share partition that is
begun for the second time, because the first took too long, could lose what was acknowledged in between; and state that is
made while a group is being deleted would be left over, and make the next group of that name fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.share.states import TopicPartitions, Topics
from ottla.broker.share.persister import InitialState, StateResult
from ottla.errors import ErrorCode, KafkaError
from ottla.types import TopicIdPartition

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.groups.share.partition_states import Beginning, NewOffset, OffsetDeletion
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.shard import Result
    from ottla.broker.share.persister import ShareStatePersister

logger = logging.getLogger(__name__)

R = TypeVar("R")

_NO_OFFSET = -1


class _Turn:
    """The turn to work for a group: its lock, and how many tasks hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class GroupStates:
    """Between the group coordinator and the share coordinator.

    Args:
        forget: what is remembered of a group's share partitions on this broker is not true any more.
    """

    def __init__(
        self,
        groups: CoordinatorRuntime[GroupCoordinator],
        persister: ShareStatePersister,
        *,
        forget: Callable[[str], None],
    ) -> None:
        self._groups = groups
        self._persister = persister
        self._forget = forget
        self._turns: dict[str, _Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Stop; the group coordinator asks again for what is not done."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------- beginning

    def initialize_soon(self, beginning: Beginning) -> None:
        """Let share partitions begin, in a task of their own; the next heartbeat sees them."""
        self._spawn(self._initialize_unasked(beginning))

    async def _initialize_unasked(self, beginning: Beginning) -> None:
        group_id = beginning.group_id
        try:
            async with self._turn(group_id):
                left = self._groups.read(
                    self._groups.partition_for(group_id), lambda shard: shard.shares.states.resumed(beginning)
                )
                failed = [result for result in await self._begin(left) if result.error_code]
                if failed:
                    logger.error(
                        "group %s: %d share partitions could not begin: %s",
                        group_id,
                        len(failed),
                        failed[0].error_message or failed[0].error_code.name,
                    )
        except KafkaError as error:
            logger.warning("group %s: share partitions could not begin: %s", group_id, error.message)

    async def alter_offsets(
        self, group_id: str, offsets: Sequence[NewOffset]
    ) -> tuple[list[ErrorCode], list[StateResult]]:
        """Let share partitions of an empty group begin anew; returns a code for each offset, and a result for each partition.

        Raises:
            KafkaError: it is not allowed; or it was done, but could not be written down.
        """
        async with self._turn(group_id):
            beginning, codes = await self._write(
                group_id, lambda shard, now_ms: shard.shares.states.alter_offsets(group_id, offsets, now_ms)
            )
            self._forget(group_id)
            results = await self._begin(beginning)
            self._forget(group_id)
            return codes, results

    async def _begin(self, beginning: Beginning) -> list[StateResult]:
        group_id, topics = beginning.group_id, beginning.topics
        if not topics:
            return []
        states = [
            InitialState(
                topic_id_partition,
                beginning.state_epoch,
                beginning.offsets.get((topic_id_partition.topic_id, topic_id_partition.partition), _NO_OFFSET),
            )
            for topic_id_partition in _topic_id_partitions(topics)
        ]
        results = await self._persister.initialize(group_id, states)
        begun, failed = _sorted_out(topics, results)
        if begun:
            await self._write(group_id, lambda shard, _now_ms: shard.shares.states.initialized(group_id, begun))
        if failed:
            await self._write(group_id, lambda shard, _now_ms: shard.shares.states.not_initialized(group_id, failed))
        return results

    # -------------------------------------------------------------------- deleting

    async def delete_offsets(
        self, group_id: str, names: Sequence[str]
    ) -> tuple[OffsetDeletion, Mapping[bytes, ErrorCode]]:
        """Delete the state of topics of an empty group; returns what that came to, and how it went for each topic.

        Raises:
            KafkaError: it is not allowed; or it was done, but could not be written down.
        """
        async with self._turn(group_id):
            deletion = await self._write(
                group_id, lambda shard, _now_ms: shard.shares.states.begin_deleting_offsets(group_id, names)
            )
            codes = await self._delete(group_id, deletion.topics)
            gone = [topic_id for topic_id, code in codes.items() if code == ErrorCode.NONE]
            if gone:
                await self._write(group_id, lambda shard, _now_ms: shard.shares.states.offsets_deleted(group_id, gone))
            return deletion, codes

    @asynccontextmanager
    async def deleting_groups(self, partition: int, group_ids: Iterable[str]) -> AsyncIterator[dict[str, ErrorCode]]:
        """Delete all state of those of these groups that are share groups; gives what could not be deleted and why.

        Within, the groups are to be deleted themselves: until then nothing of them begins anew.
        """
        async with AsyncExitStack() as turns:
            refused: dict[str, ErrorCode] = {}
            for group_id in sorted(group_ids):
                await turns.enter_async_context(self._turn(group_id))
                try:
                    code = await self._delete_of_group(partition, group_id)
                except KafkaError as error:
                    code = client_error_code(error)
                if code != ErrorCode.NONE:
                    refused[group_id] = code
            yield refused

    async def _delete_of_group(self, partition: int, group_id: str) -> ErrorCode:
        topics = await self._groups.write(
            partition, lambda shard, _now_ms: shard.shares.states.begin_deleting(group_id)
        )
        codes = (await self._delete(group_id, topics)).values()
        return next((code for code in codes if code != ErrorCode.NONE), ErrorCode.NONE)

    async def _delete(self, group_id: str, topics: Topics) -> dict[bytes, ErrorCode]:
        codes: dict[bytes, ErrorCode] = dict.fromkeys(topics, ErrorCode.NONE)
        if not topics:
            return codes
        self._forget(group_id)
        for result in await self._persister.delete(group_id, _topic_id_partitions(topics)):
            if result.error_code:
                codes[result.topic_id_partition.topic_id] = result.error_code
        self._forget(group_id)
        return codes

    # ---------------------------------------------------------------------- helpers

    @asynccontextmanager
    async def _turn(self, group_id: str) -> AsyncIterator[None]:
        turn = self._turns.get(group_id)
        if turn is None:
            turn = self._turns[group_id] = _Turn()
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[group_id]

    async def _write(self, group_id: str, operation: Callable[[GroupCoordinator, int], Result[R]]) -> R:
        return await self._groups.write(self._groups.partition_for(group_id), operation)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _topic_id_partitions(topics: Topics) -> list[TopicIdPartition]:
    return [
        TopicIdPartition(topic_id, partition)
        for topic_id, topic in topics.items()
        for partition in sorted(topic.partitions)
    ]


def _sorted_out(topics: Topics, results: list[StateResult]) -> tuple[Topics, Topics]:
    """Return what has begun and what has not."""
    failed = {result.topic_id_partition for result in results if result.error_code}

    def those(is_failed: bool) -> Mapping[bytes, TopicPartitions]:
        found = {}
        for topic_id, topic in topics.items():
            partitions = frozenset(
                p for p in topic.partitions if (TopicIdPartition(topic_id, p) in failed) is is_failed
            )
            if partitions:
                found[topic_id] = TopicPartitions(topic.name, partitions)
        return found

    return those(False), those(True)
