"""A consumer's Fetch requests: positions in, raw batches until they are taken.

Knows partitions that were assigned; who assigns them, and what is committed, is not its business. Records stay bytes
here: whoever takes a chunk decodes it.

  * One Fetch is in flight to a broker, for those of its partitions that have room: at most two chunks of a partition
    wait, and no more than `fetch.max.bytes` of all.
  * An offset that the log does not have is reset as `auto.offset.reset` says; with "none" it is an error of that
    partition, which the next take raises. Other errors of a partition are raised or tried again, never passed over.
  * A follower that the leader names is read from until it refuses, or `metadata.max.age.ms` have passed (KIP-392).

Sources: Kafka's Java client (Fetcher); KIP-74, KIP-98 (aborted transactions), KIP-392, KIP-951.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from ottla.client._core.client import ClientMachine, CoreSettings
from ottla.client._core.counts import FetchCounts
from ottla.client._core.denials import error_of
from ottla.client._core.metadata import Node
from ottla.client._core.offset_queries import STALE_METADATA, Concerned
from ottla.client._core.partitions import Chunk, PartitionState
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import CorruptMessageError, ErrorCode, OffsetOutOfRangeError, UnsupportedVersionError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from ottla.protocol.records.walk import iter_batches
from ottla.protocol.schema import Message
from ottla.types import LATEST, ZERO_UUID, IsolationLevel, TopicPartition

#: Chunks of one partition that wait to be taken.
CHUNKS_MAX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings(CoreSettings):
    """Kafka's names with `_` for `.`, Kafka's defaults; times in milliseconds, sizes in bytes.

    Attributes:
        reset_period_ms: begin so long before now, instead of at `reset`.
        reset: where a partition without a position begins: EARLIEST, LATEST, milliseconds since 1970, or None for an
            error.
    """

    reset: int | None = LATEST
    reset_period_ms: float | None = None
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    fetch_min_bytes: int = 1
    fetch_max_bytes: int = 52_428_800
    fetch_max_wait_ms: int = 500
    max_partition_fetch_bytes: int = 1_048_576
    client_rack: str = ""


class Fetcher:
    """All assigned partitions of one consumer.

    Attributes:
        partitions: the assigned ones, by name.
        buffered: bytes of all chunks.
        counts: what was fetched.
        held_back: whether something was not asked for because enough of it waits: to take a chunk lets `poll` ask for more.
    """

    buffered: int
    held_back: bool

    def __init__(self, machine: ClientMachine, settings: FetchSettings, wall_ms: Callable[[], int]) -> None:
        self.partitions: dict[TopicPartition, PartitionState] = {}
        self.buffered = 0
        self.held_back = False
        self.counts: FetchCounts = FetchCounts()
        self._machine = machine
        self._settings = settings
        self._wall_ms = wall_ms
        self._ready: deque[PartitionState] = deque()
        self._busy: set[int] = set()
        self._count = 0

    # -- the caller's side ------------------------------------------------------------------------------------------

    def add(self, topic_partition: TopicPartition, place: int | None) -> PartitionState:
        """Begin with a partition that is not read yet."""
        state = self.partitions[topic_partition] = PartitionState(topic_partition, place)
        return state

    def remove(self, topic_partition: TopicPartition) -> PartitionState | None:
        """End with a partition; what was fetched of it is dropped."""
        state = self.partitions.pop(topic_partition, None)
        if state is not None:
            state.generation += 1
            self._forget_chunks(state)
        return state

    def reset_place(self) -> int | None:
        """Where `auto.offset.reset` points now."""
        period = self._settings.reset_period_ms
        return self._settings.reset if period is None else max(int(self._wall_ms() - period), 0)

    def _forget_chunks(self, state: PartitionState) -> None:
        self.buffered -= sum(len(chunk.records) for chunk in state.chunks)
        state.chunks.clear()

    def seek(self, state: PartitionState, offset: int, leader_epoch: int = -1) -> None:
        """Go to an offset."""
        self._forget_chunks(state)
        state.seek(offset, leader_epoch)

    def seek_to(self, state: PartitionState, place: int | None) -> None:
        """Go to EARLIEST, LATEST, a time in milliseconds, or COMMITTED."""
        self._forget_chunks(state)
        state.seek_to(place)

    def take(self) -> Chunk | None:
        """Return a chunk of a partition that is not paused, and forget it here; None if nothing waits.

        Raises:
            Exception: a partition's, once.
        """
        for state in self.partitions.values():
            if state.error is not None and not state.chunks and not state.paused:
                error, state.error = state.error, None
                state.retry_ms = 0.0
                raise error
        for _ in range(len(self._ready)):
            state = self._ready.popleft()
            if not state.chunks or self.partitions.get(state.topic_partition) is not state:
                continue
            if state.paused:
                self._ready.append(state)
                continue
            chunk = state.chunks.popleft()
            self.buffered -= len(chunk.records)
            if state.chunks:
                self._ready.append(state)
            return chunk
        return None

    def fail(self, state: PartitionState, error: Exception) -> None:
        """What was fetched of a partition cannot be read: raise it at the next take, and fetch again after that."""
        self.refetch(state)
        state.error = error
        self._machine.wake()

    def refetch(self, state: PartitionState) -> None:
        """Drop what was fetched of a partition and not handed out; fetch it again."""
        self._forget_chunks(state)
        state.generation += 1
        if state.position is not None:
            state.fetch_offset = state.position
            state.fetch_epoch = state.position_epoch

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        machine = self._machine
        wake_ms = FOREVER
        by_node: dict[int, list[PartitionState]] = {}
        room = self.buffered < self._settings.fetch_max_bytes
        self.held_back = False
        for state in self.partitions.values():
            if state.in_flight or state.paused or state.error is not None or state.position is None:
                continue
            if len(state.chunks) >= CHUNKS_MAX or not room:
                self.held_back = True
                continue
            if state.validating:
                continue
            if state.retry_ms > now_ms:
                wake_ms = min(wake_ms, state.retry_ms)
                continue
            info = machine.metadata.image.leader(*state.topic_partition)
            if info is None:
                machine.metadata.use(state.topic_partition.topic, now_ms)
                machine.metadata.request_update()
                continue
            node_id = info.leader
            if state.read_replica >= 0:
                if state.read_replica_until_ms > now_ms and machine.connections.knows(state.read_replica):
                    node_id = state.read_replica
                else:
                    state.read_replica = -1
            by_node.setdefault(node_id, []).append(state)
        for node_id, states in by_node.items():
            if node_id in self._busy:
                continue
            retry_ms = machine.reach(node_id, now_ms, actions)
            if retry_ms is not None:
                wake_ms = min(wake_ms, retry_ms)
                if machine.connections.failure(node_id) is not None:
                    for state in states:
                        state.read_replica = -1
                continue
            self._busy.add(node_id)
            self._fetch(node_id, states, now_ms, actions)
        return wake_ms

    def _fetch(self, node_id: int, states: list[PartitionState], now_ms: float, actions: list[Action]) -> None:
        settings = self._settings
        image = self._machine.metadata.image
        # What is asked for first is filled first: begin with another one each time (as Kafka does).
        self._count += 1
        start = self._count % len(states)
        states = states[start:] + states[:start]
        asked: dict[TopicPartition, tuple[PartitionState, int, int]] = {}
        topics: dict[str, FetchTopic] = {}
        names: dict[bytes, str] = {}
        for state in states:
            topic, partition = state.topic_partition
            info = image.topics[topic]
            names[info.id] = topic
            part = FetchPartition(
                partition=partition,
                current_leader_epoch=info.partitions[partition].leader_epoch,
                fetch_offset=state.fetch_offset,
                partition_max_bytes=settings.max_partition_fetch_bytes,
            )
            found = topics.setdefault(topic, FetchTopic(topic=topic, topic_id=info.id))
            found.partitions.append(part)
            state.in_flight = True
            asked[state.topic_partition] = (state, state.generation, state.fetch_offset)

        def build(version: int) -> FetchRequest:
            request = FetchRequest(
                max_wait_ms=settings.fetch_max_wait_ms,
                min_bytes=settings.fetch_min_bytes,
                max_bytes=settings.fetch_max_bytes,
                isolation_level=settings.isolation,
                session_id=0,
                session_epoch=-1,
                topics=list(topics.values()),
            )
            if version >= 11:
                request.rack_id = settings.client_rack
            return request

        self._machine.ask(
            now_ms,
            actions,
            node_id,
            ApiKey.FETCH,
            build,
            self._on_answer,
            self._on_failure,
            at_most=12 if ZERO_UUID in names else 17,
            context=asked,
            names=names,
            wait_ms=settings.fetch_max_wait_ms,
        )

    # -- what happened ----------------------------------------------------------------------------------------------

    def retry(self, state: PartitionState, now_ms: float) -> None:
        """Ask for the partition again, later."""
        state.failures += 1
        state.retry_ms = now_ms + self._machine.delay_ms(state.failures)

    def on_request_failed(self, concerned: Concerned, error: Exception, now_ms: float) -> None:
        """A request for partitions got no answer."""
        for state, *_ in concerned:
            state.in_flight = False
            state.read_replica = -1
            if isinstance(error, UnsupportedVersionError):
                state.error = error
                self._machine.wake()
            self.retry(state, now_ms)

    def _on_failure(self, send: Send, error: Exception, now_ms: float) -> None:
        self._busy.discard(send.node_id)
        self.on_request_failed(_asked(send).values(), error, now_ms)

    def _on_answer(self, send: Send, message: Message, now_ms: float) -> None:
        response = cast(FetchResponse, message)
        self._busy.discard(send.node_id)
        waiting = dict(_asked(send))
        nodes = [Node(end.node_id, end.host, end.port, end.rack) for end in response.node_endpoints]
        if response.error_code:
            self._machine.metadata.request_update()
        for topic in response.responses:
            name = send.names.get(topic.topic_id, "") if send.version >= 13 else topic.topic
            for part in topic.partitions:
                entry = waiting.pop(TopicPartition(name, part.partition_index), None)
                if entry is not None:
                    self._on_partition(*entry, part, nodes, now_ms, send.sent_ms)
        for state, *_ in waiting.values():
            # Left out of the answer, or the whole request was refused.
            state.in_flight = False
            self.retry(state, now_ms)
        self.counts.on_answer(now_ms, now_ms - send.sent_ms, response.throttle_time_ms)

    def _on_partition(
        self,
        state: PartitionState,
        generation: int,
        offset: int,
        part: PartitionData,
        nodes: Sequence[Node],
        now_ms: float,
        asked_ms: float,
    ) -> None:
        state.in_flight = False
        if state.generation != generation:
            return
        code = part.error_code
        if code == ErrorCode.NONE:
            state.failures = 0
            state.end_asked_ms = asked_ms
            self._take_answer(state, generation, offset, part, now_ms)
        elif state.read_replica >= 0:
            # A follower may lag behind, or lead no more: ask the leader.
            state.read_replica = -1
            self._machine.metadata.request_update()
        elif code == ErrorCode.OFFSET_OUT_OF_RANGE:
            self._on_out_of_range(state, now_ms)
        else:
            self._on_error(state, part, nodes, now_ms)

    def _take_answer(
        self, state: PartitionState, generation: int, offset: int, part: PartitionData, now_ms: float
    ) -> None:
        machine = self._machine
        state.high_watermark = part.high_watermark
        state.last_stable_offset = part.last_stable_offset
        state.log_start_offset = part.log_start_offset
        if part.preferred_read_replica >= 0:
            state.read_replica = part.preferred_read_replica
            state.read_replica_until_ms = now_ms + self._settings.metadata_max_age_ms
        records = part.records
        if records is None or not len(records):
            return
        view = memoryview(records)
        aborted = [(entry.producer_id, entry.first_offset) for entry in part.aborted_transactions or ()]
        aborted.sort(key=lambda entry: entry[1])
        view, next_offset, epoch, problem = whole_batches(view, offset, part.high_watermark)
        if problem is None and next_offset <= offset:
            problem = "no whole batch in the answer"
        if problem is not None:
            # Batches ahead of it are handed out first. Fetching goes on there, and finds it again, until a seek.
            state.error = CorruptMessageError(
                f"{state.topic_partition} cannot be read at offset {next_offset}: {problem}"
            )
        if next_offset > offset:
            if not state.chunks:
                self._ready.append(state)
            state.chunks.append(Chunk(state, generation, offset, view, aborted))
            state.fetch_offset = next_offset
            state.fetch_epoch = epoch
            self.buffered += len(view)
            self.counts.on_bytes(state.topic_partition.topic, len(view))
        machine.wake()

    def _on_error(self, state: PartitionState, part: PartitionData, nodes: Sequence[Node], now_ms: float) -> None:
        machine = self._machine
        moved = False
        if part.error_code in STALE_METADATA:
            current = part.current_leader
            moved = machine.metadata.learn_leader(
                *state.topic_partition, current.leader_id, current.leader_epoch, nodes
            )
            if moved:
                machine.take_image()
            else:
                machine.metadata.request_update()
        error = error_of(part.error_code, topic=("READ", state.topic_partition.topic))
        if not error.retriable or part.error_code == ErrorCode.CORRUPT_MESSAGE:
            state.error = error
            machine.wake()
        elif not moved:
            self.retry(state, now_ms)

    def _on_out_of_range(self, state: PartitionState, now_ms: float) -> None:
        """The log begins behind the position, or ends before it."""
        if state.chunks or state.position != state.fetch_offset:
            # What waits, or is being handed out, comes first; the position may be right by then.
            self.retry(state, now_ms)
            return
        reset = self.reset_place()
        if reset is None:
            state.error = OffsetOutOfRangeError(
                f"{state.topic_partition} has no offset {state.fetch_offset}, and auto.offset.reset is 'none'."
            )
            self._machine.wake()
            return
        state.seek_to(reset)


def _asked(send: Send) -> dict[TopicPartition, tuple[PartitionState, int, int]]:
    return cast("dict[TopicPartition, tuple[PartitionState, int, int]]", send.context)


def whole_batches(records: memoryview, offset: int, high_watermark: int) -> tuple[memoryview, int, int, str | None]:
    """Return (the whole batches, the offset behind them or `offset`, the last one's leader epoch, what is wrong with
    what follows or None).

    No CRC covers a batch's base offset: one that no batch here can have is noticed by its neighbours and the high
    watermark.
    """
    following = offset
    epoch = behind = -1
    end = 0
    try:
        for position, header in iter_batches(records, may_be_cut=True):
            if header.base_offset < behind or header.next_offset > high_watermark >= 0:
                problem = f"a batch claims the offsets {header.base_offset} to {header.last_offset}"
                return records[:end], following, epoch, problem
            behind = header.next_offset
            following = max(following, behind)
            epoch = header.partition_leader_epoch
            end = position + header.size
    except ValueError as error:
        return records[:end], following, epoch, str(error)
    return records[:end], following, epoch, None


def assigned(partitions: Iterable[tuple[str, int]]) -> list[TopicPartition]:
    """Return partitions, each once, in order."""
    return list(dict.fromkeys(TopicPartition(*where) for where in partitions))
