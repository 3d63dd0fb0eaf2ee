"""The consumer's reading without I/O: positions in, Fetch and ListOffsets requests out, raw batches until they are taken.

Knows partitions that were assigned; who assigns them, and what is committed, is not its business. Records stay
bytes here: whoever takes a chunk decodes it.

  * One Fetch is in flight to a broker, for those of its partitions that have room: at most two chunks of a partition
    wait, and no more than `fetch.max.bytes` of all.
  * A partition without a position asks for one (ListOffsets), where `auto.offset.reset` or a seek points.
  * An offset that the log does not have is reset as `auto.offset.reset` says; with "none" it is an error of that
    partition, which the next take raises. Other errors of a partition are raised or tried again, never passed over.

Sources: Kafka's Java client (Fetcher, OffsetFetcher); KIP-74, KIP-98 (aborted transactions), KIP-951.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from ottla.client._core.backoff import RECONNECT, RETRY, Backoff
from ottla.client._core.connections import Connections, Disconnect
from ottla.client._core.metadata import Metadata, Node
from ottla.client._core.operation import Operation
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import (
    CorruptMessageError,
    ErrorCode,
    OffsetOutOfRangeError,
    UnsupportedVersionError,
    error_for,
)
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.messages.metadata import MetadataResponse
from ottla.protocol.records.walk import iter_batches
from ottla.protocol.schema import Message
from ottla.types import EARLIEST, LATEST, ZERO_UUID, IsolationLevel, TopicPartition

if TYPE_CHECKING:
    from random import Random

#: Chunks of one partition that wait to be taken.
CHUNKS_MAX: Final = 2

_STALE_METADATA: Final = frozenset(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
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
    request_timeout_ms: float = 30_000
    retry_backoff: Backoff = RETRY
    reconnect_backoff: Backoff = RECONNECT
    metadata_max_age_ms: float = 300_000
    connections_max_idle_ms: float = 540_000
    allow_auto_create_topics: bool = True
    rebootstrap: bool = True


class Chunk(NamedTuple):
    """What one Fetch answer has of a partition: whole batches, and perhaps a part of one at the end.

    Attributes:
        state: the partition.
        generation: of its position when this was asked for; a seek makes it stale.
        offset: the first offset that is wanted: a batch may begin before it.
        records: a view of the answer's memory.
        aborted: (producer id, first offset) of aborted transactions in it, by offset.
    """

    state: PartitionState
    generation: int
    offset: int
    records: memoryview
    aborted: Sequence[tuple[int, int]]


class PartitionState:
    """One assigned partition.

    Attributes:
        position: the offset of the next record to hand out; None while it is asked for.
        fetch_offset: the offset to fetch next; ahead of `position` by what waits in chunks.
        wanted: the time or place that is asked for while `position` is None.
        generation: grows with each seek.
        high_watermark, last_stable_offset, log_start_offset: as the last answer told them; -1 before.
        error: what the next take raises.
    """

    __slots__ = (
        "chunks",
        "error",
        "failures",
        "fetch_offset",
        "generation",
        "high_watermark",
        "in_flight",
        "last_stable_offset",
        "log_start_offset",
        "paused",
        "position",
        "retry_ms",
        "topic_partition",
        "wanted",
    )

    def __init__(self, topic_partition: TopicPartition, wanted: int | None) -> None:
        self.topic_partition = topic_partition
        self.position: int | None = None
        self.fetch_offset = 0
        self.wanted = wanted
        self.generation = 0
        self.chunks: deque[Chunk] = deque()
        self.paused = False
        self.in_flight = False
        self.high_watermark = self.last_stable_offset = self.log_start_offset = -1
        self.retry_ms = 0.0
        self.failures = 0
        self.error: Exception | None = None

    def seek(self, offset: int) -> None:
        """Go to an offset; what was fetched is dropped."""
        self.generation += 1
        self.position = self.fetch_offset = offset
        self.wanted = None
        self.chunks.clear()
        self.error = None
        self.retry_ms = 0.0
        self.failures = 0

    def seek_to(self, place: int) -> None:
        """Go to a time or to an end of the log, which a broker has to be asked for."""
        self.seek(-1)
        self.position = None
        self.wanted = place


class Query(Operation):
    """Offsets that were asked for beside the positions: by partition, a time or an end of the log.

    Attributes:
        offsets: the answers so far; -1 where no record is as young as the time.
    """

    __slots__ = ("asked", "failures", "offsets", "retry_ms", "waiting")

    def __init__(self, places: Mapping[TopicPartition, int]) -> None:
        super().__init__("offsets")
        self.waiting = dict(places)
        self.asked: dict[TopicPartition, None] = {}
        self.offsets: dict[TopicPartition, int] = {}
        self.retry_ms = 0.0
        self.failures = 0


class FetchMachine:
    """All assigned partitions of one consumer.

    Attributes:
        partitions: the assigned ones, by name.
        buffered: bytes of all chunks.
        waiters: callables of those who wait for something to take; each is called once.
    """

    def __init__(
        self,
        settings: FetchSettings,
        bootstrap: Sequence[tuple[str, int]],
        random: Random,
        wall_ms: Callable[[], int],
    ) -> None:
        self.settings = settings
        self._wall_ms = wall_ms
        self.connections = Connections(
            bootstrap,
            backoff=settings.reconnect_backoff,
            idle_max_ms=settings.connections_max_idle_ms,
            rebootstrap=settings.rebootstrap,
            random=random,
        )
        self.metadata = Metadata(
            max_age_ms=settings.metadata_max_age_ms,
            max_idle_ms=FOREVER,
            backoff=settings.retry_backoff,
            random=random,
            allow_auto_topic_creation=settings.allow_auto_create_topics,
        )
        self.partitions: dict[TopicPartition, PartitionState] = {}
        self.buffered = 0
        self.waiters: list[Callable[[], object]] = []
        self.fired: list[Callable[[], object]] = []
        self.fetches = 0
        self._topics: dict[str, None] = {}
        self._seen: dict[str, int] = {}
        self._random = random
        self._ready: deque[PartitionState] = deque()
        self._queries: dict[Query, None] = {}
        self._fetching: set[int] = set()
        self._listing: set[int] = set()
        self._metadata_in_flight = False
        self._image = self.metadata.image
        self._closing_connections: list[Disconnect] = []

    # -- the caller's side ------------------------------------------------------------------------------------------

    def follow(self, topics: Iterable[str], now_ms: float) -> None:
        """Read all partitions of these topics, those that come later from their beginning."""
        for topic in topics:
            self._topics[topic] = None
            self.metadata.use(topic, now_ms)
        self._take_partitions()

    def assign(self, partitions: Iterable[TopicPartition], now_ms: float) -> None:
        """Read exactly these partitions; those that were read before keep their positions."""
        wanted = dict.fromkeys(partitions)
        self._topics.clear()
        for gone in [known for known in self.partitions if known not in wanted]:
            self._drop(self.partitions.pop(gone))
        for topic_partition in wanted:
            if topic_partition not in self.partitions:
                self.partitions[topic_partition] = PartitionState(topic_partition, self._reset_place())
            self.metadata.use(topic_partition.topic, now_ms)

    def _reset_place(self) -> int | None:
        period = self.settings.reset_period_ms
        return self.settings.reset if period is None else max(int(self._wall_ms() - period), 0)

    def _drop(self, state: PartitionState) -> None:
        state.generation += 1
        self._forget_chunks(state)

    def _forget_chunks(self, state: PartitionState) -> None:
        self.buffered -= sum(len(chunk.records) for chunk in state.chunks)
        state.chunks.clear()

    def seek(self, state: PartitionState, offset: int) -> None:
        """Go to an offset."""
        self._forget_chunks(state)
        state.seek(offset)

    def seek_to(self, state: PartitionState, place: int) -> None:
        """Go to EARLIEST, LATEST or a time in milliseconds."""
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

    def query(self, places: Mapping[TopicPartition, int], now_ms: float) -> Query:
        """Ask for offsets: EARLIEST, LATEST or a time in milliseconds, by partition."""
        query = Query(places)
        for topic_partition in places:
            self.metadata.use(topic_partition.topic, now_ms)
        if places:
            self._queries[query] = None
        else:
            query.finish()
        return query

    def cancel(self, query: Query) -> None:
        """The caller does not wait for the answer any longer."""
        self._queries.pop(query, None)

    def check_topics(self) -> None:
        """Raise if a topic that is followed cannot be read at all.

        Raises:
            KafkaError: its name is not valid, or it is not permitted.
        """
        for topic in self._topics:
            error = self.metadata.errors.get(topic)
            if error is not None and not error.retriable:
                raise error

    def fail(self, state: PartitionState, error: Exception) -> None:
        """What was fetched of a partition cannot be read: raise it at the next take, and fetch again after that."""
        self._forget_chunks(state)
        state.generation += 1
        if state.position is not None:
            state.fetch_offset = state.position
        state.error = error
        self._wake()

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float) -> tuple[list[Action], float]:
        """Return (what to do now, when to poll again at the latest if nothing else happens)."""
        actions: list[Action] = []
        wake_ms = min(
            self._poll_partitions(now_ms, actions),
            self._poll_queries(now_ms, actions),
            self._poll_metadata(now_ms, actions),
        )
        actions += self._closing_connections
        self._closing_connections = []
        actions += self.connections.idle(now_ms)
        return actions, wake_ms

    def _poll_metadata(self, now_ms: float, actions: list[Action]) -> float:
        due = self.metadata.due_ms()
        if due > now_ms or self._metadata_in_flight:
            return due
        node_id, connect, retry_ms = self.connections.least_loaded(now_ms)
        if connect is not None:
            actions.append(connect)
        if node_id is None:
            return retry_ms
        self._metadata_in_flight = True
        self._send(
            now_ms,
            actions,
            "metadata",
            node_id,
            ApiKey.METADATA,
            lambda version: self.metadata.make_request(now_ms, version),
        )
        return FOREVER

    def _poll_partitions(self, now_ms: float, actions: list[Action]) -> float:
        wake_ms = FOREVER
        to_fetch: dict[int, list[PartitionState]] = {}
        to_list: dict[int, list[PartitionState]] = {}
        room = self.buffered < self.settings.fetch_max_bytes
        for state in self.partitions.values():
            if state.in_flight or state.paused or state.error is not None:
                continue
            asks = state.position is None
            if not asks and (len(state.chunks) >= CHUNKS_MAX or not room):
                continue
            if state.retry_ms > now_ms:
                wake_ms = min(wake_ms, state.retry_ms)
                continue
            if asks and state.wanted is None:
                state.error = OffsetOutOfRangeError(
                    f"There is no position for {state.topic_partition}, and auto.offset.reset is 'none'."
                )
                self._wake()
                continue
            info = self.metadata.image.leader(*state.topic_partition)
            if info is None:
                self.metadata.use(state.topic_partition.topic, now_ms)
                self.metadata.request_update()
                continue
            (to_list if asks else to_fetch).setdefault(info.leader, []).append(state)
        for nodes, busy, make in ((to_list, self._listing, self._list), (to_fetch, self._fetching, self._fetch)):
            for node_id, states in nodes.items():
                if node_id in busy:
                    continue
                if not self.connections.is_up(node_id):
                    connect = self.connections.want(node_id, now_ms)
                    if connect is not None:
                        actions.append(connect)
                    wake_ms = min(wake_ms, self.connections.retry_ms(node_id))
                    if self.connections.failure(node_id) is not None:
                        self.metadata.request_update()
                elif self.connections.has_room(node_id):
                    busy.add(node_id)
                    make(node_id, states, now_ms, actions)
        return wake_ms

    def _poll_queries(self, now_ms: float, actions: list[Action]) -> float:
        wake_ms = FOREVER
        for query in self._queries:
            if query.retry_ms > now_ms:
                wake_ms = min(wake_ms, query.retry_ms)
                continue
            by_node: dict[int, list[TopicPartition]] = {}
            for topic_partition in query.waiting:
                if topic_partition in query.asked:
                    continue
                info = self.metadata.image.leader(*topic_partition)
                if info is None:
                    self.metadata.use(topic_partition.topic, now_ms)
                    self.metadata.request_update()
                else:
                    by_node.setdefault(info.leader, []).append(topic_partition)
            for node_id, wanted in by_node.items():
                if self.connections.has_room(node_id):
                    query.asked.update(dict.fromkeys(wanted))
                    places = {topic_partition: query.waiting[topic_partition] for topic_partition in wanted}
                    self._ask_offsets(node_id, places, "query", (query, wanted), now_ms, actions)
                    continue
                connect = self.connections.want(node_id, now_ms)
                if connect is not None:
                    actions.append(connect)
                wake_ms = min(wake_ms, self.connections.retry_ms(node_id))
                if self.connections.failure(node_id) is not None:
                    self.metadata.request_update()
        return wake_ms

    def _on_answered_query(self, send: Send, response: ListOffsetsResponse | None, now_ms: float) -> None:
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
                error = error_for(part.error_code)
                if not error.retriable:
                    del self._queries[query]
                    self.fired += query.finish(error)
                    return
                failed = True
        if failed:
            query.failures += 1
            query.retry_ms = now_ms + self.settings.retry_backoff.delay_ms(query.failures, self._random)
            self.metadata.request_update()
        if not query.waiting:
            del self._queries[query]
            self.fired += query.finish()

    def _send(
        self,
        now_ms: float,
        actions: list[Action],
        purpose: str,
        node_id: int,
        key: ApiKey,
        build: Callable[[int], Message],
        *,
        at_most: int | None = None,
        context: object = None,
        names: dict[bytes, str] | None = None,
        wait_ms: float = 0,
    ) -> None:
        version = self.connections.version(node_id, key, at_most=at_most)
        send = Send(
            purpose,
            node_id,
            key,
            version or 0,
            build,
            timeout_ms=self.settings.request_timeout_ms + wait_ms,
            names=names,
            context=context,
        )
        send.sent_ms = now_ms
        send.generation = self.connections.on_sent(node_id, now_ms)
        if version is None:
            self.on_failed(send, UnsupportedVersionError(f"The broker is too old for {key.name}."), now_ms)
        else:
            actions.append(send)

    def _fetch(self, node_id: int, states: list[PartitionState], now_ms: float, actions: list[Action]) -> None:
        settings = self.settings
        image = self.metadata.image
        # What is asked for first is filled first: begin with another one each time (as Kafka does).
        self.fetches += 1
        start = self.fetches % len(states)
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
            return FetchRequest(
                max_wait_ms=settings.fetch_max_wait_ms,
                min_bytes=settings.fetch_min_bytes,
                max_bytes=settings.fetch_max_bytes,
                isolation_level=settings.isolation,
                session_id=0,
                session_epoch=-1,
                topics=list(topics.values()),
            )

        self._send(
            now_ms,
            actions,
            "fetch",
            node_id,
            ApiKey.FETCH,
            build,
            at_most=12 if ZERO_UUID in names else 17,
            context=asked,
            names=names,
            wait_ms=settings.fetch_max_wait_ms,
        )

    def _list(self, node_id: int, states: list[PartitionState], now_ms: float, actions: list[Action]) -> None:
        asked = {state.topic_partition: (state, state.generation) for state in states}
        places: dict[TopicPartition, int] = {}
        for state in states:
            assert state.wanted is not None
            places[state.topic_partition] = state.wanted
            state.in_flight = True
        self._ask_offsets(node_id, places, "list", asked, now_ms, actions)

    def _ask_offsets(
        self,
        node_id: int,
        places: Mapping[TopicPartition, int],
        purpose: str,
        context: object,
        now_ms: float,
        actions: list[Action],
    ) -> None:
        topics: dict[str, ListOffsetsTopic] = {}
        image = self.metadata.image
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
                request.isolation_level = self.settings.isolation
            return request

        self._send(now_ms, actions, purpose, node_id, ApiKey.LIST_OFFSETS, build, context=context)

    # -- what happened ----------------------------------------------------------------------------------------------

    def on_connected(
        self, node_id: int, versions: dict[int, tuple[int, int]], features: dict[str, int], now_ms: float
    ) -> None:
        """A connection that `poll` asked for came about."""
        self.connections.on_connected(node_id, versions, features, now_ms)

    def on_down(self, node_id: int, error: Exception, now_ms: float) -> None:
        """A connection did not come about, or broke; `on_failed` comes for each request that was in flight on it."""
        self.connections.on_down(node_id, error, now_ms)
        self.metadata.request_update()

    def on_response(self, send: Send, response: Message, now_ms: float) -> None:
        """An answer came."""
        self.connections.on_answered(send.node_id, send.generation)
        match send.purpose:
            case "metadata":
                self._metadata_in_flight = False
                self.metadata.on_response(cast(MetadataResponse, response), now_ms)
                self._take_image()
            case "fetch":
                self._fetching.discard(send.node_id)
                self._on_fetched(send, cast(FetchResponse, response), now_ms)
            case "query":
                self._on_answered_query(send, cast(ListOffsetsResponse, response), now_ms)
            case _:
                self._listing.discard(send.node_id)
                self._on_listed(send, cast(ListOffsetsResponse, response), now_ms)

    def on_failed(self, send: Send, error: Exception, now_ms: float) -> None:
        """A request got no answer, or could not be written."""
        self.connections.on_answered(send.node_id, send.generation)
        match send.purpose:
            case "metadata":
                self._metadata_in_flight = False
                self.metadata.on_failure(now_ms)
                return
            case "query":
                self._on_answered_query(send, None, now_ms)
                return
            case "fetch":
                self._fetching.discard(send.node_id)
            case _:
                self._listing.discard(send.node_id)
        for state, *_ in cast("dict[TopicPartition, tuple[PartitionState, int]]", send.context).values():
            state.in_flight = False
            if isinstance(error, UnsupportedVersionError):
                state.error = error
                self._wake()
            self._retry(state, now_ms)

    def on_sent_unanswered(self, send: Send, now_ms: float) -> None:
        raise AssertionError("every request of a consumer is answered")

    def take_fired(self) -> list[Callable[[], object]]:
        """Return whom to call, each once."""
        fired, self.fired = self.fired, []
        return fired

    def take_finished(self) -> list[object]:
        """Return nothing: only producers have batches that finish."""
        return []

    def _wake(self) -> None:
        self.fired += self.waiters
        self.waiters = []

    def _retry(self, state: PartitionState, now_ms: float) -> None:
        state.failures += 1
        state.retry_ms = now_ms + self.settings.retry_backoff.delay_ms(state.failures, self._random)

    def _take_image(self) -> None:
        image = self.metadata.image
        if image is not self._image:
            self._image = image
            self._closing_connections += self.connections.learn(image.nodes)
        self._take_partitions()
        self._wake()

    def _take_partitions(self) -> None:
        """Begin with partitions of followed topics that are new."""
        for topic in self._topics:
            info = self.metadata.image.topics.get(topic)
            if info is None:
                continue
            first = topic not in self._seen
            for number in range(self._seen.get(topic, 0), len(info.partitions)):
                topic_partition = TopicPartition(topic, number)
                if topic_partition not in self.partitions:
                    # What was made while we were reading is read from its beginning, or records would be lost.
                    place = self._reset_place() if first else EARLIEST
                    self.partitions[topic_partition] = PartitionState(topic_partition, place)
            self._seen[topic] = max(len(info.partitions), self._seen.get(topic, 0))

    def _on_fetched(self, send: Send, response: FetchResponse, now_ms: float) -> None:
        asked = cast("dict[TopicPartition, tuple[PartitionState, int, int]]", send.context)
        waiting = dict(asked)
        nodes = [Node(end.node_id, end.host, end.port, end.rack) for end in response.node_endpoints]
        if response.error_code:
            self.metadata.request_update()
        for topic in response.responses:
            name = send.names.get(topic.topic_id, "") if send.version >= 13 else topic.topic
            for part in topic.partitions:
                entry = waiting.pop(TopicPartition(name, part.partition_index), None)
                if entry is not None:
                    self._on_partition(*entry, part, nodes, now_ms)
        for state, *_ in waiting.values():
            # Left out of the answer, or the whole request was refused.
            state.in_flight = False
            self._retry(state, now_ms)

    def _on_partition(
        self,
        state: PartitionState,
        generation: int,
        offset: int,
        part: PartitionData,
        nodes: Sequence[Node],
        now_ms: float,
    ) -> None:
        state.in_flight = False
        if state.generation != generation:
            return
        code = part.error_code
        if code == ErrorCode.NONE:
            state.failures = 0
            state.high_watermark = part.high_watermark
            state.last_stable_offset = part.last_stable_offset
            state.log_start_offset = part.log_start_offset
            records = part.records
            if records is None or not len(records):
                return
            view = memoryview(records)
            aborted = [(entry.producer_id, entry.first_offset) for entry in part.aborted_transactions or ()]
            aborted.sort(key=lambda entry: entry[1])
            view, next_offset, problem = whole_batches(view, offset, part.high_watermark)
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
                self.buffered += len(view)
            self._wake()
            return
        if code == ErrorCode.OFFSET_OUT_OF_RANGE:
            self._on_out_of_range(state, now_ms)
            return
        moved = False
        if code in _STALE_METADATA:
            current = part.current_leader
            moved = self.metadata.learn_leader(*state.topic_partition, current.leader_id, current.leader_epoch, nodes)
            if moved:
                self._take_image()
            else:
                self.metadata.request_update()
        error = error_for(code)
        if not error.retriable or code == ErrorCode.CORRUPT_MESSAGE:
            state.error = error
            self._wake()
        elif not moved:
            self._retry(state, now_ms)

    def _on_out_of_range(self, state: PartitionState, now_ms: float) -> None:
        """The log begins behind the position, or ends before it."""
        if state.chunks:
            # What waits comes first; the position may be right by then.
            self._retry(state, now_ms)
            return
        reset = self._reset_place()
        if reset is None:
            state.error = OffsetOutOfRangeError(
                f"{state.topic_partition} has no offset {state.fetch_offset}, and auto.offset.reset is 'none'."
            )
            self._wake()
            return
        state.seek_to(reset)

    def _on_listed(self, send: Send, response: ListOffsetsResponse, now_ms: float) -> None:
        waiting = dict(cast("dict[TopicPartition, tuple[PartitionState, int]]", send.context))
        for topic in response.topics:
            for part in topic.partitions:
                entry = waiting.pop(TopicPartition(topic.name, part.partition_index), None)
                if entry is None:
                    continue
                state, generation = entry
                state.in_flight = False
                if state.generation != generation:
                    continue
                if part.error_code:
                    error = error_for(part.error_code)
                    if part.error_code in _STALE_METADATA:
                        self.metadata.request_update()
                    if error.retriable:
                        self._retry(state, now_ms)
                    else:
                        state.error = error
                        self._wake()
                elif part.offset < 0:
                    # No record is as young as the time that was asked for: go to the end.
                    state.wanted = LATEST
                else:
                    state.seek(part.offset)
                    self._wake()
        for state, _ in waiting.values():
            state.in_flight = False
            self._retry(state, now_ms)


def whole_batches(records: memoryview, offset: int, high_watermark: int) -> tuple[memoryview, int, str | None]:
    """Return (the whole batches, the offset behind them or `offset`, what is wrong with what follows or None).

    No CRC covers a batch's base offset: one that no batch here can have is noticed by its neighbours and the high
    watermark.
    """
    following = offset
    behind = -1
    end = 0
    try:
        for position, header in iter_batches(records, may_be_cut=True):
            if header.base_offset < behind or header.next_offset > high_watermark >= 0:
                return (
                    records[:end],
                    following,
                    f"a batch claims the offsets {header.base_offset} to {header.last_offset}",
                )
            behind = header.next_offset
            following = max(following, behind)
            end = position + header.size
    except ValueError as error:
        return records[:end], following, str(error)
    return records[:end], following, None
