"""After a leader changed: was what has been read cut off its log? (KIP-320)

A position belongs to the leader epoch of the batch before it. When a partition has a leader of a newer epoch, that
leader is asked where its log of the position's epoch ends; nothing is fetched meanwhile. If that is before the
position, records that were read are lost there: the position goes back to where the logs part, or with
`auto.offset.reset` "none" the next take raises LogTruncationError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.fetching import Fetcher
from ottla.client._core.offset_queries import STALE_METADATA
from ottla.client._core.partitions import NO_EPOCH, PartitionState
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.client.errors import LogTruncationError
from ottla.errors import ErrorCode, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from ottla.protocol.schema import Message
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Mapping


class Validation:
    """The OffsetForLeaderEpoch requests of one consumer. It comes before the fetcher in a turn."""

    def __init__(self, machine: ClientMachine, fetcher: Fetcher) -> None:
        self._machine = machine
        self._fetcher = fetcher
        self._busy: set[int] = set()

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        machine = self._machine
        wake_ms = FOREVER
        by_node: dict[int, list[tuple[PartitionState, int]]] = {}
        for state in self._fetcher.partitions.values():
            if state.position is None or state.in_flight:
                continue
            info = machine.metadata.image.leader(*state.topic_partition)
            if info is None:
                continue
            if not state.validating:
                if info.leader_epoch <= state.leader_epoch:
                    continue
                if state.fetch_epoch < 0 or state.fetch_epoch >= info.leader_epoch:
                    state.leader_epoch = info.leader_epoch
                    continue
                state.validating = True
            if state.retry_ms > now_ms:
                wake_ms = min(wake_ms, state.retry_ms)
                continue
            by_node.setdefault(info.leader, []).append((state, info.leader_epoch))
        for node_id, wanted in by_node.items():
            if node_id in self._busy:
                continue
            retry_ms = machine.reach(node_id, now_ms, actions)
            if retry_ms is not None:
                wake_ms = min(wake_ms, retry_ms)
            elif machine.connections.version(node_id, ApiKey.OFFSET_FOR_LEADER_EPOCH) is None:
                for state, epoch in wanted:  # it is older than KIP-320
                    state.validating = False
                    state.leader_epoch = epoch
            else:
                self._ask(node_id, wanted, now_ms, actions)
        return wake_ms

    def _ask(
        self, node_id: int, wanted: list[tuple[PartitionState, int]], now_ms: float, actions: list[Action]
    ) -> None:
        topics: dict[str, OffsetForLeaderTopic] = {}
        asked: dict[TopicPartition, tuple[PartitionState, int, int]] = {}
        for state, epoch in wanted:
            topic, partition = state.topic_partition
            part = OffsetForLeaderPartition(
                partition=partition, current_leader_epoch=epoch, leader_epoch=state.fetch_epoch
            )
            topics.setdefault(topic, OffsetForLeaderTopic(topic=topic)).partitions.append(part)
            state.in_flight = True
            asked[state.topic_partition] = (state, state.generation, epoch)
        self._busy.add(node_id)

        def build(version: int) -> Message:
            request = OffsetForLeaderEpochRequest(topics=list(topics.values()))
            if version >= 3:
                request.replica_id = -1
            return request

        key = ApiKey.OFFSET_FOR_LEADER_EPOCH
        self._machine.ask(now_ms, actions, node_id, key, build, self._on_answer, self._on_failure, context=asked)

    def _on_failure(self, send: Send, error: Exception, now_ms: float) -> None:
        self._busy.discard(send.node_id)
        for state, _, _ in _asked(send).values():
            state.in_flight = False
            self._fetcher.retry(state, now_ms)

    def _on_answer(self, send: Send, response: Message, now_ms: float) -> None:
        self._busy.discard(send.node_id)
        waiting = dict(_asked(send))
        for topic in cast(OffsetForLeaderEpochResponse, response).topics:
            for part in topic.partitions:
                entry = waiting.pop(TopicPartition(topic.topic, part.partition), None)
                if entry is not None:
                    self._on_partition(*entry, part, now_ms)
        for state, _, _ in waiting.values():
            state.in_flight = False
            self._fetcher.retry(state, now_ms)

    def _on_partition(
        self, state: PartitionState, generation: int, epoch: int, part: EpochEndOffset, now_ms: float
    ) -> None:
        state.in_flight = False
        if state.generation != generation:
            return
        if part.error_code != ErrorCode.NONE:
            if part.error_code in STALE_METADATA:
                self._machine.metadata.request_update()
            error = error_for(part.error_code)
            if error.retriable:
                self._fetcher.retry(state, now_ms)
                return
            # No permission, for instance: Fetch tells it, too.
        state.validating = False
        state.failures = 0
        state.leader_epoch = epoch
        if part.error_code == ErrorCode.NONE and part.end_offset < state.fetch_offset:
            self._on_truncated(state, part)

    def _on_truncated(self, state: PartitionState, part: EpochEndOffset) -> None:
        known = part.end_offset >= 0 and part.leader_epoch >= 0
        assert state.position is not None
        if known and part.end_offset >= state.position:
            self._fetcher.refetch(state)  # only what nothing has seen yet is gone
            return
        reset = self._fetcher.reset_place()
        if reset is None:
            state.leader_epoch = NO_EPOCH  # found again until a seek
            state.error = LogTruncationError(
                f"{state.topic_partition} was read up to offset {state.position}, but the log of the new leader parts "
                f"from that at offset {part.end_offset}: records that were read are lost.",
                topic_partition=state.topic_partition,
                offset=part.end_offset,
            )
            self._machine.wake()
        elif known:
            self._fetcher.seek(state, part.end_offset, part.leader_epoch)
        else:
            self._fetcher.seek_to(state, reset)


def _asked(send: Send) -> Mapping[TopicPartition, tuple[PartitionState, int, int]]:
    return cast("dict[TopicPartition, tuple[PartitionState, int, int]]", send.context)
