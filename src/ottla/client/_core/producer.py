"""The producer without I/O: records and answers in, requests out.

`poll` says what the shell is to send, to which node, and which connections to open; the shell reports what came of it.
Everything is decided here: which batches go into a request, what an error code means, when to ask for metadata, when to
give up.

Time is passed in as milliseconds of a clock that never goes back. What callers wait for is never called from here:
`fired` collects the callables, and the shell calls them when it holds no lock.

Sources: Kafka's Java client (Sender, RecordAccumulator, TransactionManager); KIP-98, KIP-126, KIP-360, KIP-480,
KIP-794, KIP-890, KIP-951.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from ottla.client._core.accumulator import Accumulator, PartitionQueue, request_size
from ottla.client._core.batch import Batch, Headers
from ottla.client._core.connections import Connections, Disconnect
from ottla.client._core.denials import error_of
from ottla.client._core.metadata import Metadata, Node
from ottla.client._core.operation import Operation
from ottla.client._core.produce_errors import DOUBTFUL, STALE_METADATA, TOO_LARGE, is_retriable
from ottla.client._core.producer_counts import ProducerCounts
from ottla.client._core.producer_identity import ProducerIdentity
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.client._core.sequences import Sequences
from ottla.client._core.settings import ProducerSettings
from ottla.client._core.transactions import State, Transactions, Wanted
from ottla.client.errors import TransactionAbortedError
from ottla.errors import (
    ErrorCode,
    KafkaError,
    NetworkError,
    RemoteProtocolError,
    RequestTimedOutError,
    UnsupportedVersionError,
)
from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.messages.init_producer_id import InitProducerIdResponse
from ottla.protocol.messages.metadata import MetadataResponse
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.schema import Message
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from random import Random


class ProducerMachine:
    """One producer.

    Attributes:
        fired: callables of those who waited for what has happened; the shell takes them by `take_fired`.
        finished: batches that have got an outcome since the shell last looked.
    """

    def __init__(self, settings: ProducerSettings, bootstrap: Sequence[tuple[str, int]], random: Random) -> None:
        self.settings = settings
        self.counts: ProducerCounts = ProducerCounts()
        self.accumulator: Accumulator = Accumulator(settings, random)
        self.connections: Connections = Connections(
            bootstrap,
            backoff=settings.reconnect_backoff,
            in_flight_max=settings.max_in_flight,
            idle_max_ms=settings.connections_max_idle_ms,
            rebootstrap=settings.rebootstrap,
            random=random,
        )
        self.metadata: Metadata = Metadata(
            max_age_ms=settings.metadata_max_age_ms,
            max_idle_ms=settings.metadata_max_idle_ms,
            backoff=settings.retry_backoff,
            random=random,
        )
        transactional = settings.transactional_id is not None
        self.sequences: Sequences | None = (
            Sequences(transactional=transactional) if settings.enable_idempotence else None
        )
        self.transactions: Transactions | None = None
        #: Of an idempotent producer without transactions.
        self.identity: ProducerIdentity | None = None
        if self.sequences is not None and settings.transactional_id is None:
            self.identity = ProducerIdentity(self.sequences, settings.retry_backoff, random)
        elif settings.transactional_id is not None:
            assert self.sequences is not None
            self.transactions = Transactions(
                settings.transactional_id,
                timeout_ms=settings.transaction_timeout_ms,
                sequences=self.sequences,
                backoff=settings.retry_backoff,
                random=random,
            )
        self.fired: list[Callable[[], object]] = []
        self.finished: list[Batch] = []
        self.metadata_waiters: list[Callable[[], object]] = []
        #: Why nothing can be produced any more (no permission for idempotence), or None.
        self.fatal: KafkaError | None = None
        self._random = random
        self._pending: dict[Batch, None] = {}
        self._flushes: dict[Operation, dict[Batch, None]] = {}
        self._metadata_in_flight = False
        self._image = self.metadata.image
        self._closing = False
        self._closing_connections: list[Disconnect] = []
        self._turn = 0

    # -- the caller's side ------------------------------------------------------------------------------------------

    def append(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int,
        size: int,
        now_ms: Callable[[], float],
    ) -> tuple[Batch, int] | None:
        """Accept a record; return its batch and place, or None: its topic is not known yet, or there is no room.

        `size` is that of `batch.record_size`, and within the limits.

        Raises:
            KafkaError: the producer has failed for good, or there is no transaction.
            ValueError: the caller's partitioner answered nonsense.
        """
        topics = self.accumulator.topics.get(topic)
        if topics is None or (partition is not None and not 0 <= partition < len(topics.queues)):
            return None
        self._check_send()
        found = self.accumulator.append(topics, partition, key, value, headers, timestamp_ms, size, now_ms)
        if found is not None and found[1] == 0:
            self._begin(found[0])
        return found

    def append_body(
        self,
        topic: str,
        partition: int,
        body: bytearray,
        count: int,
        base_timestamp: int,
        max_timestamp: int,
        now_ms: float,
    ) -> Batch | None:
        """Accept a batch that is encoded already; return it, or None if there is no room. The topic is known.

        Raises:
            KafkaError: as `append`.
        """
        self._check_send()
        topics = self.accumulator.topics[topic]
        batch = self.accumulator.append_body(topics, partition, body, count, base_timestamp, max_timestamp, now_ms)
        if batch is not None:
            self._begin(batch)
        return batch

    def batch_limit(self, topic: str) -> int:
        """Return how many bytes the records of a topic's next batch may have."""
        return self.accumulator.batch_limit(self.accumulator.topics[topic])

    def _check_send(self) -> None:
        if self.transactions is not None:
            self.transactions.check_send()
        elif self.fatal is not None:
            raise self.fatal

    def _begin(self, batch: Batch) -> None:
        """A batch has its first record."""
        self._pending[batch] = None
        self.metadata.use(batch.topic, batch.created_ms)
        if self.transactions is not None:
            self.transactions.use(batch.queue)

    def knows(self, topic: str, partition: int | None = None) -> bool:
        """Return whether a topic's partitions, and this one of them, are known."""
        topics = self.accumulator.topics.get(topic)
        return topics is not None and (partition is None or partition < len(topics.queues))

    def partition_count(self, topic: str) -> int | None:
        """Return how many partitions a topic has, or None while that is not known."""
        topics = self.accumulator.topics.get(topic)
        return len(topics.queues) if topics is not None else None

    def flush(self) -> Operation:
        """Return an operation that is done when all records accepted so far have an outcome. None waits for `linger.ms`."""
        operation = Operation("flush")
        if not self._pending:
            operation.finish()
        else:
            self._flushes[operation] = dict(self._pending)
        return operation

    def cancel_flush(self, operation: Operation) -> None:
        """The caller does not wait for a flush any longer."""
        self._flushes.pop(operation, None)

    def begin_closing(self) -> None:
        """Send what is there at once from now on."""
        self._closing = True

    def fail_all(self, error: Exception) -> None:
        """Fail every record that has no outcome: the producer is closed."""
        for batch in list(self._pending):
            self._fail(batch, error)

    @property
    def pending_records(self) -> int:
        """Records that were accepted and have no outcome."""
        return sum(batch.count for batch in self._pending)

    def take_fired(self) -> list[Callable[[], object]]:
        """Return whom to call, each once."""
        fired, self.fired = self.fired, []
        if self.transactions is not None and self.transactions.fired:
            fired += self.transactions.fired
            self.transactions.fired = []
        return fired

    def take_finished(self) -> list[Batch]:
        """Return the batches that got an outcome since the last call; those that were split come after their parts."""
        finished, self.finished = self.finished, []
        return finished

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float) -> tuple[list[Action], float]:
        """Return (what to do now, when to poll again at the latest if nothing else happens)."""
        actions: list[Action] = []
        self._expire(now_ms)
        self._settle()
        wake_ms = min(
            self._poll_identity(now_ms, actions),
            self._poll_transactions(now_ms, actions),
            self._poll_batches(now_ms, actions),
            self._poll_metadata(now_ms, actions),  # the last: the others may have found that the image is wrong
        )
        actions += self._closing_connections
        self._closing_connections = []
        actions += self.connections.idle(now_ms)
        if self._pending:
            # Batches are made in the order of their deadlines, but for parts of split ones.
            first = next(iter(self._pending))
            wake_ms = min(wake_ms, first.created_ms + self.settings.delivery_timeout_ms)
        return actions, wake_ms

    def due_ms(self) -> float:
        """Return when to poll, after an answer, at the latest; what the last poll said stands, too.

        A Produce request of one record mostly leaves nothing to do behind.
        """
        if self.accumulator.active or self.transactions is not None or self._closing_connections:
            return 0.0
        if self.sequences is not None and (self.sequences.is_unsettled or not self.sequences.has_identity):
            return 0.0
        return self.metadata.due_ms()

    def _expire(self, now_ms: float) -> None:
        timeout_ms = self.settings.delivery_timeout_ms
        expired = []
        for batch in self._pending:
            if batch.created_ms + timeout_ms > now_ms:
                break
            expired.append(batch)
        for batch in expired:
            for part in [part for _, part in batch.parts] or [batch]:
                if part.is_pending:
                    self._fail_expired(part)

    def _fail_expired(self, batch: Batch) -> None:
        if batch.parts:
            for _, part in batch.parts:
                if part.is_pending:
                    self._fail_expired(part)
            return
        seconds = self.settings.delivery_timeout_ms / 1000
        why = self._obstacle(batch.queue)
        words = "" if why is None else f"; {why}"
        if self.identity is not None and self.identity.error is not None:
            why = self.identity.error
            words = f"; the brokers give no producer id, which needs their coordination tree or controller: {why}"
        error = RequestTimedOutError(
            f"not acknowledged within delivery.timeout.ms ({seconds:g} s), sent {batch.attempts} times{words}"
        )
        error.__cause__ = why
        if batch.in_flight:
            batch.doubtful = True
        self._fail(batch, error)

    def _obstacle(self, queue: PartitionQueue) -> Exception | None:
        """Return why a partition's records do not get through, if that is known."""
        info = self.metadata.image.leader(queue.topic, queue.partition)
        if info is None:
            return self.metadata.errors.get(queue.topic) or self.connections.error
        return self.connections.failure(info.leader)

    def _settle(self) -> None:
        if self.sequences is None:
            return
        doubtful = self.sequences.settle()
        if doubtful and self.transactions is not None:
            self.transactions.on_batch_failed(
                KafkaError(
                    f"It is not known whether all records for {doubtful[0].topic}-{doubtful[0].partition} were written."
                )
            )
        transactions = self.transactions
        if transactions is None:
            return
        if transactions.state is State.FATAL:
            self.fatal = self.fatal or (transactions.error if isinstance(transactions.error, KafkaError) else None)
            for batch in list(self._pending):
                if not batch.in_flight and not batch.parts:
                    self._drop(batch, transactions.error or KafkaError())
        elif transactions.state in (State.ABORTABLE, State.ABORTING):
            error = TransactionAbortedError()
            error.__cause__ = transactions.error
            for batch in list(self.accumulator.waiting()):
                if batch.attempts:
                    transactions.on_batch_dropped()
                self._drop(batch, error)

    def _drop(self, batch: Batch, error: Exception) -> None:
        """Fail a batch of a transaction that comes to nothing; that is no failure of the transaction's."""
        if self.sequences is not None and batch.has_sequence:
            self.sequences.on_failed(batch)
        self._finish(batch, error=error)

    def _poll_metadata(self, now_ms: float, actions: list[Action]) -> float:
        due = self.metadata.due_ms()
        if due > now_ms or self._metadata_in_flight:
            return due
        return self._ask_any(
            now_ms,
            actions,
            "metadata",
            Wanted(ApiKey.METADATA, None, lambda version: self.metadata.make_request(now_ms, version)),
        )

    def _poll_identity(self, now_ms: float, actions: list[Action]) -> float:
        identity = self.identity
        if identity is None or self.fatal is not None or not self.connections.succeeded:
            return FOREVER
        due = identity.due_ms()
        if due > now_ms:
            return due
        return self._ask_any(now_ms, actions, "identity", identity.next_request())

    def _poll_transactions(self, now_ms: float, actions: list[Action]) -> float:
        transactions = self.transactions
        if transactions is None:
            return FOREVER
        due = transactions.due_ms()
        if due > now_ms:
            return due
        wanted = transactions.next_request(drained=not self._pending)
        if wanted is None:
            return FOREVER
        if wanted.node_id is None:
            return self._ask_any(now_ms, actions, "transaction", wanted)
        node_id = wanted.node_id
        if not self.connections.knows(node_id):
            transactions.on_node_down(node_id)
            return now_ms
        if not self.connections.is_up(node_id):
            connect = self.connections.want(node_id, now_ms)
            if connect is not None:
                actions.append(connect)
            return self.connections.retry_ms(node_id)
        if self.connections.has_room(node_id):
            self._send(now_ms, actions, "transaction", node_id, wanted)
        return FOREVER

    def _ask_any(self, now_ms: float, actions: list[Action], purpose: str, wanted: Wanted) -> float:
        node_id, connect, retry_ms = self.connections.least_loaded(now_ms)
        if connect is not None:
            actions.append(connect)
        if node_id is None:
            return retry_ms
        self._send(now_ms, actions, purpose, node_id, wanted)
        return FOREVER

    def _send(self, now_ms: float, actions: list[Action], purpose: str, node_id: int, wanted: Wanted) -> None:
        version = self.connections.version(node_id, wanted.key, at_most=wanted.at_most)
        send = Send(
            purpose, node_id, wanted.key, version or 0, wanted.build, timeout_ms=self.settings.request_timeout_ms
        )
        if purpose == "metadata":
            self._metadata_in_flight = True
        elif purpose == "identity":
            assert self.identity is not None
            self.identity.on_sending()
        elif purpose == "transaction":
            assert self.transactions is not None
            self.transactions.on_sending(wanted)
        self._note_sent(send, now_ms)
        if version is None:
            self.on_failed(send, UnsupportedVersionError(f"The broker is too old: {APIS[wanted.key].name}."), now_ms)
        else:
            actions.append(send)

    def _note_sent(self, send: Send, now_ms: float) -> None:
        send.sent_ms = now_ms
        if send.answered:
            send.generation = self.connections.on_sent(send.node_id, now_ms)

    # -- batches ----------------------------------------------------------------------------------------------------

    def _poll_batches(self, now_ms: float, actions: list[Action]) -> float:
        accumulator, connections = self.accumulator, self.connections
        if not accumulator.active:
            return FOREVER
        if self.sequences is not None and not self.sequences.has_identity:
            return FOREVER
        at_once = bool(self._flushes) or self._closing
        if self.transactions is not None:
            at_once |= self.transactions.state in (State.COMMITTING, State.ABORTING)
        wake_ms = FOREVER
        by_node: dict[int, list[PartitionQueue]] = {}
        image = self.metadata.image
        ordered = self.settings.max_in_flight == 1
        for queue in accumulator.active:
            if ordered and queue.on_the_way:
                continue
            batch = queue.batches[0]
            if self.transactions is not None and not self.transactions.may_send(queue):
                continue
            if self.sequences is not None and not self.sequences.may_send(queue, batch):
                continue
            ready_ms = accumulator.ready_ms(queue, at_once=at_once)
            if ready_ms > now_ms:
                wake_ms = min(wake_ms, ready_ms)
                continue
            info = image.leader(queue.topic, queue.partition)
            if info is None:
                self.metadata.use(queue.topic, now_ms)
                self.metadata.request_update()
                continue
            by_node.setdefault(info.leader, []).append(queue)
        for node_id, queues in by_node.items():
            if not connections.is_up(node_id):
                connect = connections.want(node_id, now_ms)
                if connect is not None:
                    actions.append(connect)
                wake_ms = min(wake_ms, connections.retry_ms(node_id))
                if connections.failure(node_id) is not None:
                    # Another broker may lead by now.
                    self.metadata.request_update()
            elif connections.has_room(node_id):
                self._send_batches(node_id, queues, now_ms, actions)
                if connections.has_room(node_id) and any(queue.batches for queue in queues):
                    wake_ms = min(wake_ms, now_ms)
        return wake_ms

    def _send_batches(self, node_id: int, queues: list[PartitionQueue], now_ms: float, actions: list[Action]) -> None:
        """Put one batch a partition into a request, as many as fit; begin with another partition each time."""
        version = self._produce_version(node_id, queues)
        if version is None:
            for queue in queues:
                error = UnsupportedVersionError("The broker speaks no version of Produce that this client does.")
                self._fail(self.accumulator.take(queue), error)
            return
        self._turn += 1
        start = self._turn % len(queues)
        budget = self.settings.max_request_size
        batches: list[Batch] = []
        for queue in queues[start:] + queues[:start]:
            size = request_size(queue.batches[0])
            if batches and size > budget:
                continue
            budget -= size
            batch = self.accumulator.take(queue)
            if self.sequences is not None:
                self.sequences.assign(batch)
            if not batch.attempts:
                batch.drained_ms = now_ms
            batch.attempts += 1
            batch.in_flight = True
            queue.on_the_way += 1
            batches.append(batch)
        if self.transactions is not None:
            self.transactions.on_sent()
        topics = self.metadata.image.topics
        ids = {queue.topic: topics[queue.topic].id for queue in queues}
        settings = self.settings
        send = Send(
            "produce",
            node_id,
            ApiKey.PRODUCE,
            version,
            lambda version: self._build_produce(batches, ids, settings),
            timeout_ms=settings.request_timeout_ms,
            answered=settings.acks != 0,
            batches=batches,
            names={topic_id: topic for topic, topic_id in ids.items()},
        )
        self._note_sent(send, now_ms)
        actions.append(send)

    def _produce_version(self, node_id: int, queues: Iterable[PartitionQueue]) -> int | None:
        at_most = None
        if self.transactions is not None and not self.transactions.v2:
            at_most = 11  # from 12 on a broker takes the first append for the beginning of a transaction of version 2
        elif any(self.metadata.image.topics[queue.topic].id == ZERO_UUID for queue in queues):
            at_most = 12
        return self.connections.version(node_id, ApiKey.PRODUCE, at_most=at_most)

    def _build_produce(
        self, batches: Sequence[Batch], ids: dict[str, bytes], settings: ProducerSettings
    ) -> ProduceRequest:
        topics: dict[str, TopicProduceData] = {}
        transactional = settings.transactional_id is not None
        for batch in batches:
            first = not batch.packed_size
            records = batch.encode(settings.compression, settings.compression_level, transactional=transactional)
            if first and settings.compression:
                self.accumulator.observe_compression(batch)
            data = topics.get(batch.topic)
            if data is None:
                data = topics[batch.topic] = TopicProduceData(name=batch.topic, topic_id=ids[batch.topic])
            data.partition_data.append(PartitionProduceData(index=batch.partition, records=records))
        self.counts.on_request(batches)
        return ProduceRequest(
            transactional_id=settings.transactional_id,
            acks=settings.acks,
            timeout_ms=int(settings.request_timeout_ms),
            topic_data=list(topics.values()),
        )

    # -- what happened ----------------------------------------------------------------------------------------------

    def on_connected(
        self,
        node_id: int,
        versions: dict[int, tuple[int, int]],
        features: dict[str, int],
        now_ms: float,
    ) -> None:
        """A connection that `poll` asked for came about."""
        self.connections.on_connected(node_id, versions, features, now_ms)
        self.counts.connections += 1

    def on_down(self, node_id: int, error: Exception, now_ms: float) -> None:
        """A connection did not come about, or broke; `on_failed` comes for each request that was in flight on it."""
        self.connections.on_down(node_id, error, now_ms)
        self.metadata.request_update()
        if self.transactions is not None:
            self.transactions.on_node_down(node_id)

    def on_sent_unanswered(self, send: Send, now_ms: float) -> None:
        """A request with acks=0 was handed to the connection."""
        for batch in send.batches:
            self._arrived(batch)
            if batch.is_pending:
                self._succeed(batch, -1, -1)

    def on_response(self, send: Send, response: Message, now_ms: float) -> None:
        """An answer came."""
        self.connections.on_answered(send.node_id, send.generation)
        match send.purpose:
            case "metadata":
                self._metadata_in_flight = False
                self.metadata.on_response(cast(MetadataResponse, response), now_ms)
                self._take_image()
            case "identity":
                assert self.identity is not None
                self._on_identity(self.identity.on_response(cast(InitProducerIdResponse, response), now_ms))
            case "transaction":
                assert self.transactions is not None
                self.transactions.on_response(response, now_ms)
                for node in self.transactions.new_nodes:
                    self.connections.add(node)
                self.transactions.new_nodes.clear()
            case _:
                self.counts.on_answer(now_ms - send.sent_ms)
                self._on_produced(send, cast(ProduceResponse, response), now_ms)

    def on_failed(self, send: Send, error: Exception, now_ms: float) -> None:
        """A request got no answer, or could not be written."""
        if send.answered:
            self.connections.on_answered(send.node_id, send.generation)
        match send.purpose:
            case "metadata":
                self._metadata_in_flight = False
                self.metadata.on_failure(now_ms)
            case "identity":
                assert self.identity is not None
                self._on_identity(self.identity.on_failed(error, now_ms))
            case "transaction":
                assert self.transactions is not None
                self.transactions.on_failed(error, now_ms)
            case _:
                for batch in send.batches:
                    self._arrived(batch)
                    if batch.is_pending:
                        batch.doubtful = True
                        self._on_error(batch, _as_kafka_error(error), (), now_ms)

    def _take_image(self) -> None:
        """Tell connections and queues of a new image."""
        image = self.metadata.image
        if image is not self._image:
            self._image = image
            self._closing_connections += self.connections.learn(image.nodes)
        for topic, info in image.topics.items():
            if info.partitions:
                available = [number for number, part in enumerate(info.partitions) if part.leader in image.nodes]
                self.accumulator.set_partitions(topic, len(info.partitions), available)
        self.fired += self.metadata_waiters
        self.metadata_waiters = []

    def _on_identity(self, error: KafkaError | None) -> None:
        """Fail everything if there will never be a producer id."""
        if error is not None:
            self.fatal = error
            self.fail_all(error)

    def _arrived(self, batch: Batch) -> None:
        batch.in_flight = False
        batch.queue.on_the_way -= 1

    def _on_produced(self, send: Send, response: ProduceResponse, now_ms: float) -> None:
        by_partition: dict[tuple[str, int], PartitionProduceResponse] = {}
        for topic in response.responses:
            name = topic.name
            if send.version >= 13:
                name = send.names.get(topic.topic_id, "")
            for part in topic.partition_responses:
                by_partition[name, part.index] = part
        if response.throttle_time_ms:
            self.counts.on_throttled(response.throttle_time_ms)
        nodes = [Node(end.node_id, end.host, end.port, end.rack) for end in response.node_endpoints]
        for batch in send.batches:
            self._arrived(batch)
            answer = by_partition.get((batch.topic, batch.partition))
            if not batch.is_pending:
                continue  # it was given up meanwhile
            if answer is None:
                batch.doubtful = True
                self._on_error(batch, NetworkError("The broker left the partition out of its answer."), (), now_ms)
            elif answer.error_code == ErrorCode.NONE:
                self._succeed(batch, answer.base_offset, answer.log_append_time_ms)
            elif answer.error_code == ErrorCode.DUPLICATE_SEQUENCE_NUMBER:
                self._succeed(batch, -1, -1)  # written so long ago that the broker does not know where
            else:
                moved = self.metadata.learn_leader(
                    batch.topic,
                    batch.partition,
                    answer.current_leader.leader_id,
                    answer.current_leader.leader_epoch,
                    nodes,
                )
                if moved:
                    self._take_image()
                errors = [(row.batch_index, row.batch_index_error_message or "") for row in answer.record_errors]
                error = error_of(
                    answer.error_code,
                    answer.error_message,
                    topic=("WRITE", batch.topic),
                    transactional_id=self.settings.transactional_id,
                )
                if answer.error_code in DOUBTFUL:
                    batch.doubtful = True
                self._on_error(batch, error, errors, now_ms, log_start_offset=answer.log_start_offset, moved=moved)

    def _on_error(
        self,
        batch: Batch,
        error: KafkaError,
        record_errors: Sequence[tuple[int, str]],
        now_ms: float,
        *,
        log_start_offset: int = -1,
        moved: bool = False,
    ) -> None:
        """Send a batch again, in parts if need be, or fail it."""
        if error.code in STALE_METADATA and not moved:
            self.metadata.request_update()
        if error.code in TOO_LARGE and batch.count > 1:
            self._split(batch, now_ms)
            return
        if self._may_retry(batch, error, log_start_offset):
            self.counts.records_retried += batch.count
            delay = 0.0 if moved else self.settings.retry_backoff.delay_ms(batch.attempts, self._random)
            batch.retry_ms = now_ms + delay
            self.accumulator.put_back(batch)
            return
        self._fail(batch, error, record_errors)

    def _may_retry(self, batch: Batch, error: KafkaError, log_start_offset: int) -> bool:
        if batch.attempts > self.settings.retries or self.fatal is not None:
            return False
        transactions = self.transactions
        if transactions is not None and transactions.state not in (State.IN_TRANSACTION, State.COMMITTING):
            return False
        return is_retriable(
            batch,
            error,
            self.sequences,
            log_start_offset=log_start_offset,
            transactional=transactions is not None,
        )

    def _split(self, batch: Batch, now_ms: float) -> None:
        """KIP-126: the broker takes no batch of this size; try smaller ones."""
        self.counts.batches_split += 1
        limit = min(self.settings.batch_size, batch.size // 2 + 1)
        parts = batch.split(limit)
        self.accumulator.topics[batch.topic].set_ratio(1.0)
        if self.sequences is not None:
            self.sequences.on_split(batch, parts)
        for part in reversed(parts):
            part.retry_ms = now_ms
            self.accumulator.put_back(part)

    def _succeed(self, batch: Batch, base_offset: int, append_time_ms: int) -> None:
        self.counts.on_written(batch)
        if self.sequences is not None and batch.has_sequence:
            self.sequences.on_acknowledged(batch, base_offset)
        self._finish(batch, base_offset=base_offset, append_time_ms=append_time_ms)

    def _fail(self, batch: Batch, error: Exception, record_errors: Sequence[tuple[int, str]] = ()) -> None:
        """Fail a batch, wherever it is, and what it was split into."""
        if batch.parts:
            for _, part in batch.parts:
                if part.is_pending:
                    self._fail(part, error)
            return
        if self.sequences is not None and batch.has_sequence:
            self.sequences.on_failed(batch)
        if self.transactions is not None:
            self.transactions.on_batch_failed(error)
        self._finish(batch, error=error, record_errors=record_errors)

    def _finish(
        self,
        batch: Batch,
        *,
        base_offset: int = -1,
        append_time_ms: int = -1,
        error: Exception | None = None,
        record_errors: Sequence[tuple[int, str]] = (),
    ) -> None:
        if batch.queued:
            self.accumulator.drop(batch)
        done = batch.succeed(base_offset, append_time_ms) if error is None else batch.fail(error, record_errors)
        if error is not None:
            self.counts.records_failed += batch.count
        self.fired += self.accumulator.release(batch.size)
        for finished in done:
            self._pending.pop(finished, None)
            self.finished.append(finished)
            self.fired += finished.callbacks
            finished.callbacks = []
            for operation, waiting in list(self._flushes.items()):
                waiting.pop(finished, None)
                if not waiting:
                    del self._flushes[operation]
                    self.fired += operation.finish()


def _as_kafka_error(error: Exception) -> KafkaError:
    """An error of the connection, or of the codec, as one with a code: only what the network did is worth another try."""
    if isinstance(error, KafkaError):
        return error
    made = (NetworkError if isinstance(error, RemoteProtocolError | OSError) else KafkaError)(str(error))
    made.__cause__ = error
    return made
