"""The producer's side of transactions: a state machine that says which request is next, and what an answer means.

Two versions, chosen at each begin by the finalized level of `transaction.version` (KIP-890): with version 1 partitions
and groups are added to the transaction by requests of their own; with version 2 the broker adds them at the first
append, and each end of a transaction gives the producer a new epoch.

    UNINITIALIZED -> INITIALIZING -> READY -> IN_TRANSACTION -> COMMITTING or ABORTING -> READY
    IN_TRANSACTION, COMMITTING -> ABORTABLE: something failed, only `abort` goes on from there
    any -> FATAL: fenced, not authorized, or an outcome that cannot be known; the producer can only be closed

One request is in flight at a time, as in Kafka. Errors are sorted as KIP-1050 says: retriable, abortable, fatal.
Sources: KIP-98, KIP-360 (a new epoch after a failed abort), KIP-447 (group metadata), KIP-890, KIP-1050.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.client._core.accumulator import PartitionQueue
from ottla.client._core.backoff import Backoff
from ottla.client._core.denials import error_of
from ottla.client._core.metadata import Node
from ottla.client._core.operation import Operation
from ottla.client._core.sequences import Sequences
from ottla.client.errors import TransactionAbortedError, TransactionStateError
from ottla.errors import ErrorCode, KafkaError, ProducerFencedError, UnsupportedVersionError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
)
from ottla.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)
from ottla.protocol.schema import Message
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from random import Random

GROUP, TRANSACTION = 0, 1
_NO_COORDINATOR: Final = (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE)
_FENCED: Final = (ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH)
_ABORTABLE: Final = frozenset(
    {
        ErrorCode.TRANSACTION_ABORTABLE,
        ErrorCode.TOPIC_AUTHORIZATION_FAILED,
        ErrorCode.GROUP_AUTHORIZATION_FAILED,
        ErrorCode.FENCED_INSTANCE_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.STALE_MEMBER_EPOCH,
        ErrorCode.FENCED_MEMBER_EPOCH,
        ErrorCode.REBALANCE_IN_PROGRESS,
        ErrorCode.UNKNOWN_PRODUCER_ID,
        ErrorCode.INVALID_PRODUCER_ID_MAPPING,
    }
)
#: The coordinator has forgotten the producer: there is nothing to abort, and a new producer id is needed.
_IDENTITY_LOST: Final = (ErrorCode.UNKNOWN_PRODUCER_ID, ErrorCode.INVALID_PRODUCER_ID_MAPPING)
#: Errors of a batch after which the transaction cannot even be aborted.
_FATAL_FOR_BATCH: Final = frozenset(
    {
        ErrorCode.PRODUCER_FENCED,
        ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
        ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ErrorCode.UNSUPPORTED_VERSION,
    }
)
#: Milliseconds until a partition is added again while the last transaction is still being ended (as in Kafka).
_CONCURRENT_RETRY_MS = 20.0


class State(Enum):
    UNINITIALIZED = "uninitialized"
    INITIALIZING = "initializing"
    READY = "ready"
    IN_TRANSACTION = "in a transaction"
    COMMITTING = "committing"
    ABORTING = "aborting"
    ABORTABLE = "failed, to be aborted"
    FATAL = "failed for good"


class GroupMetadata(NamedTuple):
    """Which member of which group has read what is committed with a transaction (KIP-447)."""

    group_id: str
    generation_id: int = -1
    member_id: str = ""
    group_instance_id: str | None = None


class OffsetAndMetadata(NamedTuple):
    """The offset of the next record to read, with what is kept beside it."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class Wanted(NamedTuple):
    """A request to send: to a node, or to any if that is None. `build` makes the message in the version chosen.

    `coordinator` says which one a FindCoordinator request looks for.
    """

    key: ApiKey
    node_id: int | None
    build: Callable[[int], Message]
    at_most: int | None = None
    coordinator: int = TRANSACTION


class Transactions:
    """One transactional id.

    Attributes:
        error: why the state is ABORTABLE or FATAL.
        obstacle: why the request that is tried again and again failed last.
        v2: whether the present transaction is of version 2.
        coordinator: the transaction coordinator, if known.
    """

    def __init__(
        self,
        transactional_id: str,
        *,
        timeout_ms: int,
        sequences: Sequences,
        backoff: Backoff,
        random: Random,
    ) -> None:
        self.state: State = State.UNINITIALIZED
        self.error: Exception | None = None
        self.obstacle: Exception | None = None
        self.v2: bool = False
        self.coordinators: dict[int, int | None] = {TRANSACTION: None, GROUP: None}
        self.new_nodes: list[Node] = []
        self.fired: list[Callable[[], object]] = []
        self._id = transactional_id
        self._timeout_ms = timeout_ms
        self._sequences = sequences
        self._backoff = backoff
        self._random = random
        self._failures = 0
        self._retry_ms = 0.0
        self._in_flight: Wanted | None = None
        self._operation: Operation | None = None
        self._offsets_operation: Operation | None = None
        self._started = False
        self._bump = False
        self._lost = False
        self._can_bump = True
        self._adding: dict[PartitionQueue, None] = {}
        self._added: dict[PartitionQueue, None] = {}
        self._group: GroupMetadata | None = None
        self._group_added = False
        self._offsets: dict[TopicPartition, OffsetAndMetadata] = {}

    # -- the caller's side ------------------------------------------------------------------------------------------

    def initialize(self) -> Operation:
        """Get a producer id and an epoch that fences all earlier producers of this transactional id."""
        self._must_be("initialize", State.UNINITIALIZED, State.READY)
        self.state = State.INITIALIZING
        return self._begin_operation("initialize")

    def begin(self, features: Mapping[str, int]) -> None:
        """Begin a transaction."""
        self._must_be("begin a transaction", State.READY)
        self.v2 = features.get("transaction.version", 0) >= 2
        self.state = State.IN_TRANSACTION
        self._started = False
        self._adding.clear()
        self._added.clear()
        self._group = None
        self._group_added = False

    def check_send(self) -> None:
        """Raise if a record may not be sent now."""
        self._must_be("send", State.IN_TRANSACTION)

    def send_offsets(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: GroupMetadata) -> Operation:
        """Commit offsets of a group with the transaction."""
        self._must_be("send offsets", State.IN_TRANSACTION)
        if self._offsets_operation is not None:
            raise TransactionStateError("Offsets are being sent already.")
        operation = Operation("send offsets")
        if not offsets:
            operation.finish()
            return operation
        if self._group is None or self._group.group_id != group.group_id:
            self._group_added = False
            self.coordinators[GROUP] = None
        self._group = group
        self._offsets = dict(offsets)
        self._offsets_operation = operation
        return operation

    def commit(self) -> Operation:
        """End the transaction so that what was sent becomes visible. Everything sent must be acknowledged first."""
        self._must_be("commit", State.IN_TRANSACTION)
        self.state = State.COMMITTING
        return self._begin_operation("commit")

    def abort(self) -> Operation:
        """End the transaction so that what was sent is never visible."""
        self._must_be("abort", State.IN_TRANSACTION, State.ABORTABLE)
        self.state = State.ABORTING
        self.error = None
        self._adding.clear()
        self._drop_offsets(TransactionAbortedError())
        return self._begin_operation("abort")

    def give_up(self, error: Exception) -> None:
        """The caller does not wait for the outcome any longer; the producer can only be closed."""
        self._become_fatal(error)

    def _must_be(self, what: str, *states: State) -> None:
        if self.state in states:
            return
        if self.error is not None:
            raise self.error
        raise TransactionStateError(f"The producer cannot {what} now: it is {self.state.value}.")

    def _begin_operation(self, name: str) -> Operation:
        self._operation = operation = Operation(name)
        self._failures = 0
        self._retry_ms = 0.0
        return operation

    # -- records ----------------------------------------------------------------------------------------------------

    def use(self, queue: PartitionQueue) -> None:
        """A record for this partition was accepted."""
        if not self.v2 and queue not in self._added:
            self._adding[queue] = None

    def may_send(self, queue: PartitionQueue) -> bool:
        """Return whether batches of the partition may go out: it belongs to the transaction."""
        if self.state not in (State.IN_TRANSACTION, State.COMMITTING, State.ABORTING):
            return False
        return self.v2 or queue in self._added

    def on_sent(self) -> None:
        """A batch goes out."""
        self._started = True

    def on_batch_dropped(self) -> None:
        """A batch that was sent once is not sent again: its sequences are missing in this epoch."""
        self._bump = True

    def on_batch_failed(self, error: Exception) -> None:
        """A batch failed: the transaction cannot be committed any more."""
        self._bump = True
        code = error.code if isinstance(error, KafkaError) else None
        if code in _FATAL_FOR_BATCH:
            self._become_fatal(error)
        elif self.state is not State.ABORTING:
            self._become_abortable(error)

    # -- requests ---------------------------------------------------------------------------------------------------

    def due_ms(self) -> float:
        """When the next request may go out."""
        return float("inf") if self._in_flight is not None else self._retry_ms

    def next_request(self, *, drained: bool) -> Wanted | None:
        """Return the request to send next, if any; `on_sending` when it goes out.

        Args:
            drained: no record is waiting or on its way.
        """
        if self._in_flight is not None:
            return None
        if self.state is State.INITIALIZING:
            return self._to_coordinator(TRANSACTION, self._init_producer_id())
        if self.state is State.ABORTING and drained:
            return self._end(committed=False)
        if self.state not in (State.IN_TRANSACTION, State.COMMITTING):
            return None
        if self._adding:
            return self._to_coordinator(TRANSACTION, self._add_partitions())
        if self._offsets_operation is not None:
            if not self.v2 and not self._group_added:
                return self._to_coordinator(TRANSACTION, self._add_offsets())
            return self._to_coordinator(GROUP, self._commit_offsets())
        if self.state is State.COMMITTING and drained:
            return self._end(committed=True)
        return None

    def _end(self, *, committed: bool) -> Wanted | None:
        if self._started and not self._lost:
            return self._to_coordinator(TRANSACTION, self._end_transaction(committed))
        self._after_end()
        return self.next_request(drained=True)

    def on_sending(self, wanted: Wanted) -> None:
        """The request goes out."""
        self._in_flight = wanted
        if wanted.key in (ApiKey.TXN_OFFSET_COMMIT, ApiKey.ADD_OFFSETS_TO_TXN, ApiKey.ADD_PARTITIONS_TO_TXN):
            self._started = True

    def _to_coordinator(self, kind: int, wanted: Wanted) -> Wanted:
        node_id = self.coordinators[kind]
        if node_id is not None:
            return wanted._replace(node_id=node_id)
        key = self._id if kind == TRANSACTION else self._group.group_id if self._group is not None else ""

        def build(version: int) -> FindCoordinatorRequest:
            if version >= 4:
                return FindCoordinatorRequest(key_type=kind, coordinator_keys=[key])
            return FindCoordinatorRequest(key=key, key_type=kind)

        return Wanted(ApiKey.FIND_COORDINATOR, None, build, coordinator=kind)

    def _init_producer_id(self) -> Wanted:
        sequences = self._sequences

        def build(version: int) -> InitProducerIdRequest:
            request = InitProducerIdRequest(transactional_id=self._id, transaction_timeout_ms=self._timeout_ms)
            self._can_bump = version >= 3
            if self._bump and version >= 3 and not self._lost:
                request.producer_id, request.producer_epoch = sequences.producer_id, sequences.epoch
            return request

        return Wanted(ApiKey.INIT_PRODUCER_ID, None, build)

    def _add_partitions(self) -> Wanted:
        topics: dict[str, list[int]] = {}
        for queue in self._adding:
            topics.setdefault(queue.topic, []).append(queue.partition)

        def build(version: int) -> AddPartitionsToTxnRequest:
            return AddPartitionsToTxnRequest(
                v3_and_below_transactional_id=self._id,
                v3_and_below_producer_id=self._sequences.producer_id,
                v3_and_below_producer_epoch=self._sequences.epoch,
                v3_and_below_topics=[
                    AddPartitionsToTxnTopic(name=name, partitions=partitions) for name, partitions in topics.items()
                ],
            )

        return Wanted(ApiKey.ADD_PARTITIONS_TO_TXN, None, build, at_most=3)

    def _add_offsets(self) -> Wanted:
        assert self._group is not None
        group_id = self._group.group_id

        def build(version: int) -> AddOffsetsToTxnRequest:
            return AddOffsetsToTxnRequest(
                transactional_id=self._id,
                producer_id=self._sequences.producer_id,
                producer_epoch=self._sequences.epoch,
                group_id=group_id,
            )

        return Wanted(ApiKey.ADD_OFFSETS_TO_TXN, None, build)

    def _commit_offsets(self) -> Wanted:
        group = self._group
        assert group is not None
        topics: dict[str, list[TxnOffsetCommitRequestPartition]] = {}
        for (topic, partition), (offset, leader_epoch, metadata) in self._offsets.items():
            topics.setdefault(topic, []).append(
                TxnOffsetCommitRequestPartition(
                    partition_index=partition,
                    committed_offset=offset,
                    committed_leader_epoch=leader_epoch,
                    committed_metadata=metadata,
                )
            )

        def build(version: int) -> TxnOffsetCommitRequest:
            request = TxnOffsetCommitRequest(
                transactional_id=self._id,
                group_id=group.group_id,
                producer_id=self._sequences.producer_id,
                producer_epoch=self._sequences.epoch,
                topics=[
                    TxnOffsetCommitRequestTopic(name=name, partitions=partitions) for name, partitions in topics.items()
                ],
            )
            if version >= 3:
                request.generation_id_or_member_epoch = group.generation_id
                request.member_id = group.member_id
                request.group_instance_id = group.group_instance_id
            elif group.generation_id >= 0 or group.member_id:
                raise UnsupportedVersionError(
                    "The broker is too old to check that the group member is still the current one (KIP-447, Kafka 2.5)."
                )
            return request

        return Wanted(ApiKey.TXN_OFFSET_COMMIT, None, build, at_most=5 if self.v2 else 4)

    def _end_transaction(self, committed: bool) -> Wanted:
        def build(version: int) -> EndTxnRequest:
            return EndTxnRequest(
                transactional_id=self._id,
                producer_id=self._sequences.producer_id,
                producer_epoch=self._sequences.epoch,
                committed=committed,
            )

        return Wanted(ApiKey.END_TXN, None, build, at_most=5 if self.v2 else 4)

    # -- answers ----------------------------------------------------------------------------------------------------

    def on_node_down(self, node_id: int) -> None:
        """The connection to a node broke or did not come about: it may coordinate no more."""
        for kind, coordinator in self.coordinators.items():
            if coordinator == node_id:
                self.coordinators[kind] = None

    def on_failed(self, error: Exception, now_ms: float) -> None:
        """The request in flight got no answer, or could not be written."""
        wanted, self._in_flight = self._in_flight, None
        assert wanted is not None
        if isinstance(error, KafkaError) and error.retriable:
            if wanted.node_id is not None:
                self.on_node_down(wanted.node_id)
            self._retry(now_ms)
        else:
            self._fail(error)

    def on_response(self, response: Message, now_ms: float) -> None:
        """Take the answer to the request in flight in."""
        wanted, self._in_flight = self._in_flight, None
        assert wanted is not None
        match response:
            case FindCoordinatorResponse():
                self._on_coordinator(response, wanted.coordinator, now_ms)
            case InitProducerIdResponse():
                if not self._failed(response.error_code, now_ms):
                    self._on_identity(response)
            case AddPartitionsToTxnResponse():
                self._on_partitions(response, now_ms)
            case AddOffsetsToTxnResponse():
                if not self._failed(response.error_code, now_ms):
                    self._group_added = True
            case TxnOffsetCommitResponse():
                self._on_offsets(response, now_ms)
            case EndTxnResponse():
                if not self._failed(response.error_code, now_ms):
                    if self.v2 and response.producer_id >= 0:
                        self._sequences.set_identity(response.producer_id, response.producer_epoch)
                        self._sequences.start_over()
                        self._bump = False
                    self._after_end()
            case _:
                raise AssertionError(response)

    def _on_coordinator(self, response: FindCoordinatorResponse, kind: int, now_ms: float) -> None:
        found = response.coordinators[0] if response.coordinators else response
        if self._failed(found.error_code, now_ms, found.error_message):
            return
        self._failures = 0
        self.coordinators[kind] = found.node_id
        self.new_nodes.append(Node(found.node_id, found.host, found.port))

    def _on_identity(self, response: InitProducerIdResponse) -> None:
        self._sequences.set_identity(response.producer_id, response.producer_epoch)
        self._sequences.start_over()
        self._bump = self._lost = False
        self.state = State.READY
        self._finish()

    def _on_partitions(self, response: AddPartitionsToTxnResponse, now_ms: float) -> None:
        codes = {
            (topic.name, part.partition_index): part.partition_error_code
            for topic in response.results_by_topic_v3_and_below
            for part in topic.results_by_partition
        }
        worst = 0
        for queue in list(self._adding):
            code = codes.get((queue.topic, queue.partition))
            if code is None:  # named after the request went out
                continue
            if code == ErrorCode.NONE:
                del self._adding[queue]
                self._added[queue] = None
            elif code != ErrorCode.OPERATION_NOT_ATTEMPTED or not worst:
                worst = code
        if worst == ErrorCode.OPERATION_NOT_ATTEMPTED:
            worst = ErrorCode.UNKNOWN_SERVER_ERROR
        if not worst:
            self._failures = 0
        elif worst == ErrorCode.CONCURRENT_TRANSACTIONS and not self._added:
            self._retry_ms = now_ms + _CONCURRENT_RETRY_MS
        else:
            self._failed(worst, now_ms)

    def _on_offsets(self, response: TxnOffsetCommitResponse, now_ms: float) -> None:
        worst = 0
        for topic in response.topics:
            for part in topic.partitions:
                if part.error_code:
                    worst = part.error_code
                else:
                    self._offsets.pop(TopicPartition(topic.name, part.partition_index), None)
        if worst:
            self._failed(worst, now_ms)
        elif self._offsets:
            self._failed(ErrorCode.UNKNOWN_SERVER_ERROR, now_ms, "The broker left partitions out of its answer.")
        elif self._offsets_operation is not None:
            operation, self._offsets_operation = self._offsets_operation, None
            self._failures = 0
            self.fired += operation.finish()

    def _failed(self, code: int, now_ms: float, message: str | None = None) -> bool:
        """Act on an error code; return whether there was one."""
        if code == ErrorCode.NONE:
            self._failures = 0
            self.obstacle = None
            return False
        error = error_of(code, message, group=self._group and ("READ", self._group.group_id), transactional_id=self._id)
        if code in _NO_COORDINATOR:
            self.coordinators[TRANSACTION] = self.coordinators[GROUP] = None
            self._retry(now_ms)
            self.obstacle = error
        elif code in _FENCED:
            self._fail(_fenced(self._id))
        elif error.retriable:
            self._retry(now_ms)
            self.obstacle = error
        else:
            self._fail(error)
        return True

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, KafkaError) or error.code not in _ABORTABLE:
            self._become_fatal(error)
            return
        self._bump = True
        self._lost |= error.code in _IDENTITY_LOST
        if self.state in (State.IN_TRANSACTION, State.COMMITTING):
            self._become_abortable(error)
        elif self.state is not State.ABORTING:
            self._become_fatal(error)
        elif error.code == ErrorCode.TRANSACTION_ABORTABLE:
            self._become_fatal(error)  # to an abort that is no answer

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._retry_ms = now_ms + self._backoff.delay_ms(self._failures, self._random)

    # -- states -----------------------------------------------------------------------------------------------------

    def _after_end(self) -> None:
        if self._bump and (self._can_bump or self._lost):
            # KIP-360: sequences were given out that the broker never saw, or the coordinator forgot the producer.
            self.state = State.INITIALIZING
            return
        self.state = State.READY
        self._finish()

    def _become_abortable(self, error: Exception) -> None:
        if self.state not in (State.IN_TRANSACTION, State.COMMITTING):
            return
        self.state = State.ABORTABLE
        self.error = error
        self._drop_offsets(error)
        self._finish(error)

    def _become_fatal(self, error: Exception) -> None:
        if self.state is State.FATAL:
            return
        self.state = State.FATAL
        self.error = error
        self._drop_offsets(error)
        self._finish(error)

    def _drop_offsets(self, error: Exception) -> None:
        self._offsets = {}
        if self._offsets_operation is not None:
            operation, self._offsets_operation = self._offsets_operation, None
            self.fired += operation.finish(error)

    def _finish(self, error: Exception | None = None) -> None:
        if self._operation is not None:
            operation, self._operation = self._operation, None
            self.fired += operation.finish(error)


def _fenced(transactional_id: str) -> ProducerFencedError:
    error = ProducerFencedError(
        f"Another producer with transactional.id {transactional_id!r} has started; this one is shut out."
    )
    error.hint = "Give each running instance a transactional id of its own."
    return error
