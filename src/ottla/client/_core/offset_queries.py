"""Offsets by place: where a partition without a position begins, and what callers ask beside that (ListOffsets).

A partition whose `wanted` is a time or an end of the log is asked for until it has a position; a query is answered
whole, or fails. Source: Kafka's Java client (OffsetFetcher).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, cast

from ottla.client._core.client import ClientMachine, OnAnswer, OnFailure
from ottla.client._core.denials import error_of
from ottla.client._core.operation import Operation
from ottla.client._core.partitions import COMMITTED, PartitionState
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import ErrorCode, OffsetOutOfRangeError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.schema import Message
from ottla.types import LATEST, IsolationLevel, TopicPartition

if TYPE_CHECKING:
    from ottla.client._core.fetching import Fetcher

#: The image is wrong, or the partition moves.
STALE_METADATA: Final = frozenset(
    {
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INCONSISTENT_TOPIC_ID,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.LISTENER_NOT_FOUND,
    }
)


class Query(Operation):
    """Offsets that were asked for beside the positions: by partition, a time or an end of the log.

    Attributes:
        offsets: the answers so far; -1 where no record is as young as the time.
    """

    __slots__ = ("asked", "failures", "offsets", "retry_ms", "waiting")

    def __init__(self, places: Mapping[TopicPartition, int]) -> None:
        super().__init__("offsets")
        self.waiting: dict[TopicPartition, int] = dict(places)
        self.asked: dict[TopicPartition, None] = {}
        self.offsets: dict[TopicPartition, int] = {}
        self.retry_ms: float = 0.0
        self.failures: int = 0


class OffsetQueries:
    """The ListOffsets requests of one consumer."""

    def __init__(self, machine: ClientMachine, isolation: IsolationLevel) -> None:
        self._machine = machine
        self._isolation = isolation
        self._queries: dict[Query, None] = {}

    def begin(self, places: Mapping[TopicPartition, int], now_ms: float) -> Query:
        """Ask for offsets: EARLIEST, LATEST or a time in milliseconds, by partition."""
        query = Query(places)
        for topic_partition in places:
            self._machine.metadata.use(topic_partition.topic, now_ms)
        if places:
            self._queries[query] = None
        else:
            query.finish()
        return query

    def cancel(self, query: Query) -> None:
        """The caller does not wait for the answer any longer."""
        self._queries.pop(query, None)

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        machine = self._machine
        wake_ms = FOREVER
        for query in self._queries:
            if query.retry_ms > now_ms:
                wake_ms = min(wake_ms, query.retry_ms)
                continue
            by_node: dict[int, list[TopicPartition]] = {}
            for topic_partition in query.waiting:
                if topic_partition in query.asked:
                    continue
                info = machine.metadata.image.leader(*topic_partition)
                if info is None:
                    machine.metadata.use(topic_partition.topic, now_ms)
                    machine.metadata.request_update()
                else:
                    by_node.setdefault(info.leader, []).append(topic_partition)
            for node_id, wanted in by_node.items():
                retry_ms = machine.reach(node_id, now_ms, actions)
                if retry_ms is not None:
                    wake_ms = min(wake_ms, retry_ms)
                    continue
                query.asked.update(dict.fromkeys(wanted))
                places = {topic_partition: query.waiting[topic_partition] for topic_partition in wanted}
                self._ask(node_id, places, (query, wanted), self._on_answer, self._on_failure, now_ms, actions)
        return wake_ms

    def _ask(
        self,
        node_id: int,
        places: Mapping[TopicPartition, int],
        context: object,
        on_answer: OnAnswer,
        on_failure: OnFailure,
        now_ms: float,
        actions: list[Action],
    ) -> None:
        topics: dict[str, ListOffsetsTopic] = {}
        image = self._machine.metadata.image
        for (topic, partition), place in places.items():
            part = ListOffsetsPartition(
                partition_index=partition,
                current_leader_epoch=image.topics[topic].partitions[partition].leader_epoch,
                timestamp=place,
            )
            topics.setdefault(topic, ListOffsetsTopic(name=topic)).partitions.append(part)

        def build(version: int) -> ListOffsetsRequest:
            request = ListOffsetsRequest(replica_id=-1, topics=list(topics.values()))
            if version >= 2:
                request.isolation_level = self._isolation
            return request

        key = ApiKey.LIST_OFFSETS
        self._machine.ask(now_ms, actions, node_id, key, build, on_answer, on_failure, context=context)

    def _on_failure(self, send: Send, error: Exception, now_ms: float) -> None:
        self._take(send, None, now_ms)

    def _on_answer(self, send: Send, response: Message, now_ms: float) -> None:
        self._take(send, cast(ListOffsetsResponse, response), now_ms)

    def _take(self, send: Send, response: ListOffsetsResponse | None, now_ms: float) -> None:
        query, wanted = cast("tuple[Query, list[TopicPartition]]", send.context)
        for topic_partition in wanted:
            query.asked.pop(topic_partition, None)
        if query not in self._queries:
            return
        failed = response is None
        for topic in response.topics if response is not None else ():
            for part in topic.partitions:
                topic_partition = TopicPartition(topic.name, part.partition_index)
                if part.error_code == ErrorCode.NONE:
                    query.waiting.pop(topic_partition, None)
                    query.offsets[topic_partition] = part.offset
                    continue
                error = error_of(part.error_code, topic=("DESCRIBE", topic.name))
                if not error.retriable:
                    del self._queries[query]
                    self._machine.finish(query, error)
                    return
                failed = True
        if failed:
            query.failures += 1
            query.retry_ms = now_ms + self._machine.delay_ms(query.failures)
            self._machine.metadata.request_update()
        if not query.waiting:
            del self._queries[query]
            self._machine.finish(query)


class Placing:
    """Gives partitions without a position one, where `auto.offset.reset` or a seek points."""

    def __init__(self, machine: ClientMachine, fetcher: Fetcher, queries: OffsetQueries) -> None:
        self._machine = machine
        self._fetcher = fetcher
        self._queries = queries
        self._busy: set[int] = set()

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        machine = self._machine
        wake_ms = FOREVER
        by_node: dict[int, list[PartitionState]] = {}
        for state in self._fetcher.partitions.values():
            if state.position is not None or state.in_flight or state.paused or state.error is not None:
                continue
            if state.wanted == COMMITTED:
                continue
            if state.retry_ms > now_ms:
                wake_ms = min(wake_ms, state.retry_ms)
            elif state.wanted is None:
                state.error = OffsetOutOfRangeError(
                    f"There is no position for {state.topic_partition}, and auto.offset.reset is 'none'."
                )
                machine.wake()
            elif (info := machine.metadata.image.leader(*state.topic_partition)) is None:
                machine.metadata.use(state.topic_partition.topic, now_ms)
                machine.metadata.request_update()
            else:
                by_node.setdefault(info.leader, []).append(state)
        for node_id, states in by_node.items():
            if node_id in self._busy:
                continue
            retry_ms = machine.reach(node_id, now_ms, actions)
            if retry_ms is not None:
                wake_ms = min(wake_ms, retry_ms)
                continue
            self._busy.add(node_id)
            asked = {state.topic_partition: (state, state.generation) for state in states}
            places: dict[TopicPartition, int] = {}
            for state in states:
                assert state.wanted is not None
                places[state.topic_partition] = state.wanted
                state.in_flight = True
            self._queries._ask(node_id, places, asked, self._on_answer, self._on_failure, now_ms, actions)
        return wake_ms

    def _on_failure(self, send: Send, error: Exception, now_ms: float) -> None:
        self._busy.discard(send.node_id)
        self._fetcher.on_request_failed(_asked(send).values(), error, now_ms)

    def _on_answer(self, send: Send, response: Message, now_ms: float) -> None:
        machine = self._machine
        self._busy.discard(send.node_id)
        waiting = dict(_asked(send))
        for topic in cast(ListOffsetsResponse, response).topics:
            for part in topic.partitions:
                entry = waiting.pop(TopicPartition(topic.name, part.partition_index), None)
                if entry is None:
                    continue
                state, generation = entry
                state.in_flight = False
                if state.generation != generation:
                    continue
                if part.error_code:
                    error = error_of(part.error_code, topic=("DESCRIBE", topic.name))
                    if part.error_code in STALE_METADATA:
                        machine.metadata.request_update()
                    if error.retriable:
                        self._fetcher.retry(state, now_ms)
                    else:
                        state.error = error
                        machine.wake()
                elif part.offset < 0:
                    # No record is as young as the time that was asked for: go to the end.
                    state.wanted = LATEST
                else:
                    state.seek(part.offset, part.leader_epoch)
                    machine.wake()
        for state, _ in waiting.values():
            state.in_flight = False
            self._fetcher.retry(state, now_ms)


def _asked(send: Send) -> Mapping[TopicPartition, tuple[PartitionState, int]]:
    return cast("dict[TopicPartition, tuple[PartitionState, int]]", send.context)


#: Whom a failed request concerned: the partition first.
Concerned = Iterable[tuple[PartitionState, int] | tuple[PartitionState, int, int]]
Wake = Callable[[], object]
