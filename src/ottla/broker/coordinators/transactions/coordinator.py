"""TransactionCoordinator: the state machine of one partition of `__transaction_state`.

Requests in, records and responses out, `replay` back. Knows no log, no loop, no socket, no clock; one instance exists per
partition that this broker leads, driven by `coordinators.runtime`. What it cannot do itself it asks for: markers through
`send_markers`, once the decision is committed and again after every load that finds one; the writer of the
markers calls `complete`. Producer ids come from `take_producer_id`, which has none at times.

The rules are KIP-98, KIP-360 (resuming an epoch), KIP-447, KIP-890 (version 2: the epoch rises with every transaction)
and the answers are those of Apache Kafka 4.3, with these differences:
* A transition that is not committed yet is not in the way of the next one: the next one is decided on top of it, and fails
  with it. Kafka answers CONCURRENT_TRANSACTIONS. While markers are being written the answer is the same as Kafka's.
* An exhausted epoch resumed with an epoch that is neither the current nor the last one is fenced; Kafka fails on it.
* Markers that a partition refuses because it knows a newer epoch count as written (an operator ended that transaction by
  hand); Kafka leaves the transactional id hanging until the coordinator moves.

Invariants: markers are asked for only after Prepare* is committed, and what they say never changes; a transaction whose
markers may not all be written stays in Prepare*, and while it is there no other may begin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.broker.coordinators.shard import CoordinatorRecord, DeletedTopic, Result
from ottla.broker.coordinators.timeline import TimelineDict
from ottla.broker.coordinators.transactions import records
from ottla.broker.coordinators.transactions.state import (
    EPOCH_BUMP_VERSION,
    EPOCH_MAX,
    NO_EPOCH,
    NO_PRODUCER_ID,
    Transaction,
    TransactionState,
)
from ottla.errors import (
    ConcurrentTransactionsError,
    CoordinatorNotAvailableError,
    ErrorCode,
    InvalidProducerIdMappingError,
    InvalidRequestError,
    InvalidTransactionTimeoutError,
    InvalidTxnStateError,
    KafkaError,
    ProducerFencedError,
    UnsupportedVersionError,
)
from ottla.protocol.messages.transaction_records import TransactionLogKey, TransactionLogValue

if TYPE_CHECKING:
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.broker.coordinators.transactions.config import TransactionConfig
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

_ABORT_TIMER = ("abort-timed-out-transactions",)
_EXPIRATION_TIMER = ("expire-transactional-ids",)


class Markers(NamedTuple):
    """A decided transaction: what is to be written into its partitions.

    `decided_at` is the offset of the decision. Without it the markers of one transaction could be taken for those of the
    next one, which before version 2 has the same producer id and epoch.
    """

    transactional_id: str
    decided_at: int
    producer_id: int
    producer_epoch: int
    commit: bool
    partitions: tuple[TopicPartition, ...]
    transaction_version: int


class Identity(NamedTuple):
    """An answer with a producer id and an epoch; -1 with an error, and to clients that keep theirs."""

    error_code: ErrorCode = ErrorCode.NONE
    producer_id: int = NO_PRODUCER_ID
    producer_epoch: int = NO_EPOCH


class TransactionCoordinator:
    """The transactional ids of one partition.

    Args:
        send_markers: called with the partition and what is to be written, more than once if in doubt; must not call back at
            once.
        take_producer_id: returns an unused producer id, or None if there is none at hand.
        level: of the feature transaction.version.
        is_clock_right: whether a transaction may be aborted because it is old.
        may_expire: whether unused ids may be forgotten; not those that Apache Kafka wrote, until confirmed.
    """

    def __init__(
        self,
        partition: int,
        timeline: Timeline,
        timers: Timers,
        *,
        config: TransactionConfig,
        send_markers: Callable[[int, Markers], None],
        take_producer_id: Callable[[], int | None],
        may_expire: Callable[[], bool] = lambda: True,
        is_clock_right: Callable[[], bool] = lambda: True,
        level: Callable[[], int] = lambda: EPOCH_BUMP_VERSION,
    ) -> None:
        self.partition = partition
        self._timers = timers
        self._config = config
        self._send_markers = send_markers
        self._take_producer_id = take_producer_id
        self._may_expire = may_expire
        self._is_clock_right = is_clock_right
        self._level = level
        self.transactions: TimelineDict[str, Transaction] = TimelineDict(timeline)

    # --------------------------------------------------------- InitProducerId

    def init_producer_id(
        self, transactional_id: str, timeout_ms: int, expected: tuple[int, int] | None, now_ms: int
    ) -> Result[Identity]:
        """Handle an InitProducerId: fence the producer that used the id before, and abort the transaction that it left.

        Args:
            expected: producer id and epoch of a producer that wants to go on (KIP-360), None for a new one.

        Raises:
            KafkaError: INVALID_REQUEST, INVALID_TRANSACTION_TIMEOUT, CONCURRENT_TRANSACTIONS, PRODUCER_FENCED, or
                COORDINATOR_NOT_AVAILABLE without a producer id at hand.
        """
        if not transactional_id:
            raise InvalidRequestError("A transactional id must not be empty.")
        if not 0 < timeout_ms <= self._config.timeout_ms_max:
            raise InvalidTransactionTimeoutError()
        known = self.transactions.get(transactional_id)
        if known is None:
            known = Transaction(
                transactional_id=transactional_id,
                producer_id=self._new_producer_id(),
                timeout_ms=timeout_ms,
                updated_ms=now_ms,
            )
        if known.state.is_preparing:
            raise ConcurrentTransactionsError()
        if expected is not None and not _may_resume(known, *expected):
            raise ProducerFencedError()
        if known.state is TransactionState.ONGOING:
            # The client asks again, and finds the transaction aborted.
            fenced = self._fenced(known, now_ms)
            return self._prepare(fenced, Identity(ErrorCode.CONCURRENT_TRANSACTIONS))
        renewed = self._renewed(known, timeout_ms, None if expected is None else expected[1], now_ms)
        if self._level() == 0:
            renewed = replace(renewed, client_version=0)
        return Result(Identity(ErrorCode.NONE, renewed.producer_id, renewed.producer_epoch), [self._record(renewed)])

    def _renewed(self, known: Transaction, timeout_ms: int, expected_epoch: int | None, now_ms: int) -> Transaction:
        epoch, last_epoch = known.producer_epoch, known.last_producer_epoch
        if expected_epoch is None:
            if known.is_exhausted:
                return known.with_producer_id(self._new_producer_id(), NO_EPOCH, timeout_ms, now_ms)
            return known.with_epoch(epoch + 1, NO_EPOCH, timeout_ms, now_ms)
        if epoch == NO_EPOCH or expected_epoch == epoch:
            if known.is_exhausted:
                return known.with_producer_id(self._new_producer_id(), epoch, timeout_ms, now_ms)
            return known.with_epoch(epoch + 1, epoch, timeout_ms, now_ms)
        if expected_epoch == last_epoch:
            if known.is_exhausted:
                return known.with_producer_id(self._new_producer_id(), last_epoch, timeout_ms, now_ms)
            # The repetition of a request whose answer was lost: had another producer asked since, the last epoch would be -1.
            return known.with_epoch(epoch, last_epoch, timeout_ms, now_ms)
        raise ProducerFencedError()

    def _new_producer_id(self) -> int:
        producer_id = self._take_producer_id()
        if producer_id is None:
            raise CoordinatorNotAvailableError("there is no producer id at hand")
        return producer_id

    # ------------------------------------------------------------- partitions

    def add_partitions(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        partitions: Collection[TopicPartition],
        client_version: int,
        now_ms: int,
    ) -> Result[None]:
        """Handle an AddPartitionsToTxn or AddOffsetsToTxn; answers when it is committed that they take part.

        Raises:
            KafkaError: INVALID_REQUEST, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED, CONCURRENT_TRANSACTIONS, or
                UNSUPPORTED_VERSION to a newer client while the level is 0.
        """
        known = self._known(transactional_id)
        # First of all: while markers are written, the client may have its next producer id already (KAFKA-18575).
        if known.state.is_preparing:
            raise ConcurrentTransactionsError()
        _check_identity(known, producer_id, producer_epoch)
        added = frozenset(partitions)
        if known.state is TransactionState.ONGOING and added <= known.partitions:
            return Result(None, barrier=True)
        self._check_room(client_version)
        return Result(None, [self._record(known.with_partitions(added, client_version, now_ms))])

    def verify_partitions(
        self, transactional_id: str, producer_id: int, producer_epoch: int, partitions: Sequence[TopicPartition]
    ) -> Result[list[ErrorCode]]:
        """Handle an AddPartitionsToTxn that only asks (KIP-890): whether each partition takes part, once that is committed.

        Raises:
            KafkaError: as `add_partitions`.
        """
        known = self._known(transactional_id)
        _check_identity(known, producer_id, producer_epoch)
        if known.state.is_preparing:
            raise ConcurrentTransactionsError()
        return Result(
            [
                ErrorCode.NONE if partition in known.partitions else ErrorCode.TRANSACTION_ABORTABLE
                for partition in partitions
            ],
            barrier=True,
        )

    # ----------------------------------------------------------------- EndTxn

    def end_transaction(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        commit: bool,
        client_version: int,
        now_ms: int,
    ) -> Result[Identity]:
        """Handle an EndTxn; answers when the decision is committed. Markers follow.

        Raises:
            KafkaError: INVALID_REQUEST, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED, CONCURRENT_TRANSACTIONS,
                INVALID_TXN_STATE, COORDINATOR_NOT_AVAILABLE without a producer id at hand, or UNSUPPORTED_VERSION to a
                newer client while the level is 0.
        """
        known = self._known(transactional_id)
        if client_version >= EPOCH_BUMP_VERSION:
            return self._end(known, producer_id, producer_epoch, commit, client_version, now_ms)
        _check_identity(known, producer_id, producer_epoch)
        if known.state.is_preparing:
            raise ConcurrentTransactionsError()
        if known.state is TransactionState.ONGOING:
            prepared = known.prepared(commit=commit, client_version=0, next_producer_id=NO_PRODUCER_ID, now_ms=now_ms)
            return self._prepare(prepared, Identity())
        if known.state is (TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT):
            return Result(Identity(), barrier=True)
        raise InvalidTxnStateError()

    def _end(
        self,
        known: Transaction,
        producer_id: int,
        producer_epoch: int,
        commit: bool,
        client_version: int,
        now_ms: int,
    ) -> Result[Identity]:
        """End a transaction whose end raises the epoch: by the epoch a repeated request differs from the next end."""
        if known.state.is_preparing:
            raise ConcurrentTransactionsError()
        is_repetition = (known.producer_id == producer_id and known.producer_epoch == producer_epoch + 1) or (
            known.previous_producer_id == producer_id and producer_epoch == EPOCH_MAX - 1 and known.producer_epoch == 0
        )
        if known.producer_id != producer_id and not is_repetition:
            raise InvalidProducerIdMappingError()
        is_complete = known.state in (TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT)
        if producer_epoch != known.producer_epoch or known.producer_id != producer_id:
            if not (is_repetition and is_complete):
                raise ProducerFencedError()
            if known.state is (TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT):
                return Result(Identity(ErrorCode.NONE, known.producer_id, known.producer_epoch), barrier=True)
            raise InvalidTxnStateError()
        if known.state is not TransactionState.ONGOING and commit:
            raise InvalidTxnStateError()
        self._check_room(client_version)
        # An abort is welcome even if nothing was begun: a client cannot know whether its first batch has arrived.
        prepared = known.prepared(
            commit=commit,
            client_version=client_version,
            next_producer_id=self._new_producer_id() if known.is_exhausted else NO_PRODUCER_ID,
            now_ms=now_ms,
        )
        return self._prepare(prepared, Identity(ErrorCode.NONE, *prepared.client_identity))

    def _fenced(self, known: Transaction, now_ms: int) -> Transaction:
        """Return the abort of a transaction that its producer did not end: the epoch rises, which fences the producer."""
        return known.prepared(
            commit=False,
            client_version=EPOCH_BUMP_VERSION,
            next_producer_id=self._new_producer_id() if known.is_exhausted else NO_PRODUCER_ID,
            now_ms=now_ms,
        )

    def _prepare(self, prepared: Transaction, answer: Identity) -> Result[Identity]:
        def on_appended(error: KafkaError | None) -> None:
            if error is None:
                self._send_decided(prepared.transactional_id)

        return Result(answer, [self._record(prepared)], on_appended=on_appended)

    def _record(self, state: Transaction) -> CoordinatorRecord:
        return records.transaction(state, self._level())

    def _check_room(self, client_version: int) -> None:
        if client_version > 0 and self._level() == 0:
            raise UnsupportedVersionError("At transaction.version 0 the transaction log has no room for newer clients.")

    def _send_decided(self, transactional_id: str) -> None:
        known = self.transactions.get(transactional_id)
        # Committed now; until its markers are written nothing can have followed.
        assert known is not None
        assert known.state.is_preparing
        self._send_markers(self.partition, _markers(known))

    def is_pending(self, markers: Markers) -> bool:
        """Return whether these markers still have to be written."""
        known = self.transactions.get(markers.transactional_id)
        return known is not None and known.state.is_preparing and known.record_offset == markers.decided_at

    def complete(self, markers: Markers, now_ms: int) -> Result[None]:
        """All these markers are written: the next transaction may begin."""
        known = self.transactions.get(markers.transactional_id)
        if known is None or not self.is_pending(markers):
            return Result(None)
        return Result(None, [self._record(known.completed(now_ms))])

    # ---------------------------------------------------------------- answers

    def describe(self, transactional_id: str) -> Transaction | None:
        """Return what is committed of a transactional id."""
        return self.transactions.get_committed(transactional_id)

    def list_committed(self) -> list[Transaction]:
        """Return everything that is committed."""
        return [transaction for _, transaction in self.transactions.items_committed()]

    def _known(self, transactional_id: str) -> Transaction:
        if not transactional_id:
            raise InvalidRequestError("A transactional id must not be empty.")
        known = self.transactions.get(transactional_id)
        if known is None:
            raise InvalidProducerIdMappingError()
        return known

    # ----------------------------------------------------------------- timers

    def abort_timed_out(self, now_ms: int) -> Result[None]:
        """Abort the transactions that have been open for longer than their timeout.

        Also ask again for the markers of what was decided some time ago: a decision whose append took longer than the
        operation waited for it, or whose completion could not be written, would stay open otherwise.
        """
        self._schedule_abort()
        is_clock_right = self._is_clock_right()
        aborted: list[Transaction] = []
        for known in self.transactions.values():
            if known.state.is_preparing and known.updated_ms + self._config.abort_check_interval_ms <= now_ms:
                if self.transactions.get_committed(known.transactional_id) is known:
                    self._send_markers(self.partition, _markers(known))
                continue
            if (
                is_clock_right
                and known.state is TransactionState.ONGOING
                and known.started_ms + known.timeout_ms < now_ms
            ):
                try:
                    aborted.append(self._fenced(known, now_ms))
                except CoordinatorNotAvailableError as error:
                    logger.warning("transaction of %s is overdue, but %s", known.transactional_id, error)
        if not aborted:
            return Result(None)
        logger.info("partition %d: %d transactions timed out and are aborted", self.partition, len(aborted))

        def on_appended(error: KafkaError | None) -> None:
            if error is None:
                for each in aborted:
                    self._send_decided(each.transactional_id)

        written = [self._record(each) for each in aborted]
        return Result(None, written, on_appended=on_appended, atomic=False)

    def expire(self, now_ms: int) -> Result[None]:
        """Forget the transactional ids that were not used for `transactional.id.expiration.ms`."""
        self._schedule_expiration()
        if not self._may_expire():
            return Result(None)
        before_ms = now_ms - self._config.id_expiration_ms
        written = [
            records.tombstone(known.transactional_id)
            for known in self.transactions.values()
            if known.state.is_idle and known.updated_ms <= before_ms
        ]
        return Result(None, written, atomic=False)

    def _schedule_abort(self) -> None:
        self._timers.schedule(_ABORT_TIMER, self._config.abort_check_interval_ms, self.abort_timed_out)

    def _schedule_expiration(self) -> None:
        self._timers.schedule(_EXPIRATION_TIMER, self._config.id_expiration_check_interval_ms, self.expire)

    # ----------------------------------------------------------- shard's part

    encode = staticmethod(records.encode)
    decode = staticmethod(records.decode)

    def replay(self, offset: int, producer_id: int, record: CoordinatorRecord) -> None:
        """Apply a record to the durable state."""
        key, value, _ = record
        assert isinstance(key, TransactionLogKey)
        if value is None:
            self.transactions.pop(key.transactional_id)
        else:
            assert isinstance(value, TransactionLogValue)
            self.transactions[key.transactional_id] = records.to_transaction(key.transactional_id, value, offset)

    def replay_end_transaction(self, producer_id: int, committed: bool) -> None:
        """Nothing: records of this topic are written outside of transactions, so that no marker decides about any."""

    def on_loaded(self, now_ms: int) -> None:
        """Resume the markers of what was decided, set the timers."""
        for known in self.transactions.values():
            if known.state.is_preparing:
                self._send_markers(self.partition, _markers(known))
        self._schedule_abort()
        self._schedule_expiration()

    def on_unloaded(self, now_ms: int) -> None:
        """Nothing: no request is parked here, each is answered by its commit or by its failure.

        Marker tasks ask before every append whether this partition still coordinates their transaction; the
        coordinator that loads it next begins with them again.
        """

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """Nothing: all state is on the timeline, and markers are sent only for decisions that were committed.

        A producer id that was taken for a decision that came to nothing is lost, as ids may be.
        """

    def on_topics_deleted(self, topics: Sequence[DeletedTopic], now_ms: int) -> Result[None]:
        """A partition that is gone needs no marker; the marker task finds that out itself."""
        return Result(None)

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Result[None]:
        """Transactions do not depend on what the cluster looks like."""
        return Result(None)


def _check_identity(known: Transaction, producer_id: int, producer_epoch: int) -> None:
    if known.producer_id != producer_id:
        raise InvalidProducerIdMappingError()
    if known.producer_epoch != producer_epoch:
        raise ProducerFencedError()


def _may_resume(known: Transaction, producer_id: int, producer_epoch: int) -> bool:
    """A new id, its present producer, or the producer whose epochs were used up and that does not know its next id yet."""
    return (
        known.producer_epoch == NO_EPOCH
        or producer_id == known.producer_id
        or (producer_id == known.previous_producer_id and producer_epoch >= EPOCH_MAX - 1)
    )


def _markers(prepared: Transaction) -> Markers:
    return Markers(
        transactional_id=prepared.transactional_id,
        decided_at=prepared.record_offset,
        producer_id=prepared.producer_id,
        producer_epoch=prepared.producer_epoch,
        commit=prepared.state is TransactionState.PREPARE_COMMIT,
        partitions=tuple(sorted(prepared.partitions)),
        transaction_version=prepared.client_version,
    )
