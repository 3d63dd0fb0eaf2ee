"""GroupStates: has the share coordinator do what share groups have written down: begin share partitions, delete them.

Decides nothing: the group coordinator says what is to be done and is told how it went (`groups/share/partition_states`), the
persister does it, and the share partitions that are in use here are forgotten, so that they are loaded anew.

Invariant: for one group one thing is done at a time. Otherwise a share partition that is begun for the second time, because
the first took too long, could lose what was acknowledged in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.share.states import TopicPartitions, Topics
from ottla.broker.share.persister import InitialState, SharePlace, StateResult
from ottla.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.groups.share.partition_states import Beginning
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.shard import Result
    from ottla.broker.share.persister import ShareStatePersister

logger = logging.getLogger(__name__)

R = TypeVar("R")

_NO_OFFSET = -1


class _Turn:
    """Who works for a group: the lock, and how many want it."""

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
        """Leave off; what is not done will be asked for again."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------- beginning

    def initialize_soon(self, beginning: Beginning) -> None:
        """Let share partitions begin; nobody waits for it, the next heartbeat sees them."""
        self._spawn(self._initialize_unasked(beginning))

    async def _initialize_unasked(self, beginning: Beginning) -> None:
        group_id = beginning.group_id
        try:
            async with self._turn(group_id):
                wanted = self._read(
                    group_id, lambda shard: shard.shares.states.still_wanted(group_id, beginning.topics)
                )
                if not wanted:
                    return
                failed = [result for result in await self._begin(beginning, wanted) if result.error_code]
                if failed:
                    logger.error(
                        "group %s: %d share partitions could not begin: %s",
                        group_id,
                        len(failed),
                        failed[0].error_message or failed[0].error_code.name,
                    )
        except KafkaError as error:
            logger.warning("group %s: share partitions could not begin: %s", group_id, error.message)

    async def alter(self, beginning: Beginning) -> list[StateResult]:
        """Let share partitions of an empty group begin anew; returns how that went for each.

        Raises:
            KafkaError: it was done, but could not be written down.
        """
        async with self._turn(beginning.group_id):
            self._forget(beginning.group_id)
            results = await self._begin(beginning, beginning.topics)
            self._forget(beginning.group_id)
            return results

    async def _begin(self, beginning: Beginning, topics: Topics) -> list[StateResult]:
        group_id = beginning.group_id
        states = [
            InitialState(
                place, beginning.state_epoch, beginning.offsets.get((place.topic_id, place.partition), _NO_OFFSET)
            )
            for place in _places(topics)
        ]
        results = await self._persister.initialize(group_id, states)
        begun, failed = _sorted_out(topics, results)
        if begun:
            await self._write(group_id, lambda shard, _now_ms: shard.shares.states.initialized(group_id, begun))
        if failed:
            await self._write(group_id, lambda shard, _now_ms: shard.shares.states.not_initialized(group_id, failed))
        return results

    # -------------------------------------------------------------------- deleting

    async def delete_offsets(self, group_id: str, topics: Topics) -> dict[bytes, ErrorCode]:
        """Delete the state of topics of an empty group; returns how that went for each.

        Raises:
            KafkaError: it was done, but could not be written down.
        """
        async with self._turn(group_id):
            codes = await self._delete(group_id, topics)
            gone = [topic_id for topic_id, code in codes.items() if code == ErrorCode.NONE]
            if gone:
                await self._write(group_id, lambda shard, _now_ms: shard.shares.states.offsets_deleted(group_id, gone))
            return codes

    async def delete_of_groups(self, partition: int, group_ids: list[str]) -> dict[str, ErrorCode]:
        """Delete all state of those of these groups that are share groups; returns what could not be deleted and why."""
        refused: dict[str, ErrorCode] = {}
        for group_id in group_ids:
            try:
                code = await self._delete_of_group(partition, group_id)
            except KafkaError as error:
                code = client_error_code(error)
            if code != ErrorCode.NONE:
                refused[group_id] = code
        return refused

    async def _delete_of_group(self, partition: int, group_id: str) -> ErrorCode:
        async with self._turn(group_id):
            topics = await self._groups.write(
                partition, lambda shard, _now_ms: shard.shares.states.begin_deleting(group_id)
            )
            codes = (await self._delete(group_id, topics)).values()
            return next((code for code in codes if code != ErrorCode.NONE), ErrorCode.NONE)

    async def _delete(self, group_id: str, topics: Topics) -> dict[bytes, ErrorCode]:
        self._forget(group_id)
        codes: dict[bytes, ErrorCode] = dict.fromkeys(topics, ErrorCode.NONE)
        for result in await self._persister.delete(group_id, _places(topics)):
            if result.error_code:
                codes[result.place.topic_id] = result.error_code
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

    def _read(self, group_id: str, query: Callable[[GroupCoordinator], R]) -> R:
        return self._groups.read(self._groups.partition_for(group_id), query)

    async def _write(self, group_id: str, operation: Callable[[GroupCoordinator, int], Result[R]]) -> R:
        return await self._groups.write(self._groups.partition_for(group_id), operation)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _places(topics: Topics) -> list[SharePlace]:
    return [
        SharePlace(topic_id, partition) for topic_id, topic in topics.items() for partition in sorted(topic.partitions)
    ]


def _sorted_out(topics: Topics, results: list[StateResult]) -> tuple[Topics, Topics]:
    """Return what has begun and what has not."""
    failed = {result.place for result in results if result.error_code}

    def those(is_failed: bool) -> Mapping[bytes, TopicPartitions]:
        found = {}
        for topic_id, topic in topics.items():
            partitions = frozenset(p for p in topic.partitions if (SharePlace(topic_id, p) in failed) is is_failed)
            if partitions:
                found[topic_id] = TopicPartitions(topic.name, partitions)
        return found

    return those(False), those(True)
