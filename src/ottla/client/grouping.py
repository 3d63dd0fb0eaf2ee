"""A consumer's side of its group, for both faces: what the group wants done in the caller's calls, commits, the end.

Each is a piece of work (`work`): it says what to wait for, and the faces wait.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ottla.client._core.group import Assign, Fail, Lose, Revoke
from ottla.client._core.group_client import GroupClient
from ottla.client._core.operation import Operation
from ottla.client._core.partitions import COMMITTED, PartitionState
from ottla.client._core.transactions import GroupMetadata, OffsetAndMetadata
from ottla.client.columns import Columns
from ottla.client.consumed import Batch, K, Record, V
from ottla.client.consuming import ConsumerBase, check_pattern, topic_names, weakly
from ottla.client.errors import CommitFailedError, ConfigurationError, PollIntervalExceededError
from ottla.client.keys import Duration, duration_s
from ottla.client.producing import as_offsets
from ottla.client.unreadable import Unreadable
from ottla.client.work import Call, Until, Wait, Work
from ottla.errors import KafkaError
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger("ottla.client.consumer")

#: Seconds that the last commit and the farewell to the group take at most, when nothing else is said.
CLOSE_TIMEOUT_S: Final = 30.0
#: Seconds that closing takes at most after Ctrl-C, and at the end of the process.
CLOSE_TIMEOUT_INTERRUPTED_S: Final = 5.0

#: After so many aborted transactions in a row the failure is raised.
ABORTED_MAX: Final = 5


class GroupedConsumer(ConsumerBase[K, V]):
    """A consumer that may have a group. Not for use by itself."""

    _settling = False
    #: That `max.poll.interval.ms` was exceeded, until a commit has told it.
    _exceeded: PollIntervalExceededError | None = None
    #: How many records of `commit_after` had failed before; the outcome of what it has taken so far.
    _failed_before = 0
    _watermark: Operation | None = None
    _noticed_ms = -1.0
    #: By partition that was lost for being slow: (what was committed, how far it was finished).
    _resume: Mapping[TopicPartition, tuple[int | None, int]] = {}

    # -- what the group wants ---------------------------------------------------------------------------------------

    def _settle(self) -> Work[None]:
        """Do what the group wants of the caller: give partitions up, begin with others.

        Raises:
            KafkaError: the group refuses the member; the next call tries again.
            Exception: what a callback of the caller's has raised; the partitions have changed all the same.
        """
        group = self._machine.group
        if group is None or self._settling or self._in_transaction:
            return
        self._settling = True
        try:
            while True:
                self._attention = self._stopping
                with self._lock:
                    step = group.step()
                    if isinstance(step, Assign):
                        # At once: when the lock is released, the group may be rebalancing again.
                        self._begin_with(group, step)
                match step:
                    case None:
                        return
                    case Fail(error):
                        with self._lock:
                            group.done(step)
                        raise error
                    case Revoke(partitions):
                        yield from self._give_up(group, step, partitions)
                    case Lose(partitions, since_ms):
                        yield from self._lose(group, step, partitions, since_ms)
                    case Assign(partitions):
                        self._wake()
                        if self._on_assigned is not None:
                            yield Call(self._on_assigned, (list(partitions),))
        finally:
            self._settling = False
            self._wake()

    def _give_up(self, group: GroupClient, step: Revoke, partitions: list[TopicPartition]) -> Work[None]:
        try:
            if self._before_giving_up is not None:
                yield from self._before_giving_up(partitions)
            yield from self._commit_finished(self._bounds.api_timeout_s)
            if self._on_revoked is not None and partitions:
                yield Call(self._on_revoked, (list(partitions),))
        finally:
            with self._lock:
                self._drop(partitions)
                group.done(step)

    def _lose(
        self, group: GroupClient, step: Lose, partitions: list[TopicPartition], since_ms: float | None
    ) -> Work[None]:
        if since_ms is not None:
            self._notice_exceeded(since_ms)
            with self._lock:
                self._resume = {
                    where: (state.committed, offset)
                    for where, state in self._machine.partitions.items()
                    if (offset := self._finished_offset(state)) is not None
                }
        callback = self._on_lost or self._on_revoked
        try:
            if callback is not None and partitions:
                yield Call(callback, (list(partitions),))
        finally:
            with self._lock:
                self._drop(partitions)
                group.done(step)

    def _begin_with(self, group: GroupClient, step: Assign) -> None:
        """Begin with partitions. Called with the lock held."""
        for where in step.partitions:
            state = self._machine.fetcher.add(where, COMMITTED)
            state.resume = self._resume.get(where)
        self._resume = {}
        group.done(step)

    def _drop(self, partitions: Iterable[TopicPartition]) -> None:
        for where in partitions:
            state = self._machine.fetcher.remove(where)
            if state is not None:
                self._finished.forget(state)

    def _finished_offset(self, state: PartitionState) -> int | None:
        if state.position is None:
            return None
        return self._finished.first_unfinished([state]).get(state, state.position)

    def _notice_exceeded(self, since_ms: float) -> None:
        """Note, once, that the caller was away for too long."""
        group, runtime = self._machine.group, self._runtime
        if self._noticed_ms == since_ms or group is None or runtime is None:
            return
        self._noticed_ms = since_ms
        limit_ms = group.settings.max_poll_interval_ms
        exceeded_ms = max(runtime.now_ms() - since_ms - limit_ms, 0.0)
        record = self._finished.current or self._last_handed
        where = None if record is None else (record.topic_partition, record.offset)
        last = "" if where is None else f", after {where[0]} offset {where[1]} was handed out"
        self._exceeded = PollIntervalExceededError(
            f"The program was away from the consumer for {exceeded_ms / 1000:.1f} s longer than max.poll.interval.ms "
            f"({limit_ms / 1000:g} s){last}; group {group.settings.group_id!r} has given its partitions to others.",
            exceeded_ms=exceeded_ms,
            where=where,
        )
        self._exceeded_count += 1
        logger.error("%s %s", self._exceeded, PollIntervalExceededError.hint)

    #: What is done before partitions are given up: `run` waits for those that handle their records.
    _before_giving_up: Callable[[list[TopicPartition]], Work[None]] | None = None
    #: Whether a transaction goes on that takes this consumer's offsets along: the partitions stay until it ends.
    _in_transaction = False
    #: Transactions in a row that were aborted because their commit failed.
    _aborted = 0
    #: The last record of a loop or batch.
    _last_handed: Record[K, V] | None = None

    def _begin_call(self) -> None:
        """The caller asks for more: what it has is finished.

        Raises:
            DeliveryErrors: a record was not delivered that `commit_after` waits for.
        """
        if self._commit_after is not None and self._sent_in_vain():
            raise self._commit_after._delivery_errors()
        finished = self._finished
        if finished.current is not None:
            self._last_handed = finished.current
        finished.ask()
        if self._machine.group is not None:
            self._machine.group.come_back()

    def _finish_call_at_hand(self) -> None:
        """What was handed out before is finished."""
        self._begin_call()
        self._raise_deferred()

    def _end_call(self) -> None:
        """The caller's call returns."""
        if self._machine.group is not None and self._runtime is not None:
            self._machine.group.go_away(self._runtime.now_ms())

    # -- transactions -----------------------------------------------------------------------------------------------

    def _begin_transaction(self) -> None:
        """A transaction takes the offsets of what is handed out along.

        Raises:
            ConfigurationError: the consumer commits by itself.
        """
        self._check_usable()
        self._in_transaction = True

    def _check_transactional(self) -> None:
        if self._bounds.commit != "transaction":
            raise ConfigurationError(
                "A transaction takes only the offsets of a consumer with commit='transaction' along.",
                "Pass commit='transaction' to the consumer.",
            )

    def _offsets_of_transaction(self) -> tuple[dict[TopicPartition, OffsetAndMetadata], GroupMetadata]:
        """Return (how far everything was handed out, who the member is)."""
        with self._lock:
            offsets = {
                where: OffsetAndMetadata(state.position, state.position_epoch)
                for where, state in self._machine.partitions.items()
                if state.position is not None and state.position != state.base
            }
            return offsets, self._group().identity

    def _aborted_again(self, failure: KafkaError) -> bool:
        """The commit of a transaction has failed; return whether that is to be raised: the fifth time in a row."""
        self._aborted += 1
        logger.warning(
            "the transaction was aborted, and its records come again (%d in a row): %s", self._aborted, failure
        )
        if self._aborted < ABORTED_MAX:
            return False
        self._aborted = 0
        return True

    def _end_transaction(self, committed: Mapping[TopicPartition, OffsetAndMetadata] | None) -> None:
        """It was committed with these offsets, or aborted: then what was handed out comes again."""
        self._in_transaction = False
        self._attention = True
        if self._closed is not None:
            return
        if committed is None:
            self.rewind()
            return
        self._aborted = 0
        with self._lock:
            for where, offset in committed.items():
                state = self._machine.partitions.get(where)
                if state is not None:
                    state.base = state.committed = offset.offset

    # -- commits ----------------------------------------------------------------------------------------------------

    def _group(self) -> GroupClient:
        group = self._machine.group
        if group is None:
            raise ConfigurationError("This consumer has no group.", "Pass group_id=.")
        return group

    @property
    def group_metadata(self) -> GroupMetadata:
        """Who this member of the group is, for `Transaction.send_offsets`."""
        with self._lock:
            return self._group().identity

    def mark(self, record: Record[K, V]) -> None:
        """Say that a record is finished. For any thread.

        With commit="marked" the longest finished prefix of each partition is committed; with "processed" it says that the
        record of the loop's body is finished before the next one is asked for. Records of partitions that were given up
        since are passed over.
        """
        with self._lock:
            self._finished.mark(record)

    @staticmethod
    def _is_lost(group: GroupClient) -> bool:
        """Whether the partitions belong to others already, and the caller has not been told yet."""
        return group.membership is not None and isinstance(group.membership.step(), Lose)

    def _commit_due(self) -> None:
        """`auto.commit.interval.ms` have passed; called with the lock held, on the loop's thread."""
        group = self._machine.group
        assert group is not None
        offsets = self._finished.offsets(self._machine.partitions)
        if not offsets or self._is_lost(group):
            return
        if self._commit_after is None:
            operation = group.offsets.commit(offsets)
            operation.callbacks.append(lambda: _tell(operation.error))
        elif self._watermark is None:
            self._watermark = self._commit_after._watermark()
            kept, states = weakref.ref(self), dict(self._machine.partitions)

            def acknowledged() -> None:
                consumer = kept()
                if consumer is not None:
                    consumer._commit_acknowledged(offsets, states)

            if self._watermark.done:
                self._machine.fired.append(acknowledged)
            else:
                self._watermark.callbacks.append(acknowledged)

    def _commit_acknowledged(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], states: Mapping[TopicPartition, PartitionState]
    ) -> None:
        """Everything that was sent before these records were finished has an outcome."""
        group = self._machine.group
        self._watermark = None
        if group is None or self._closed is not None or self._sent_in_vain():
            return
        with self._lock:
            partitions = self._machine.partitions
            still = {where: each for where, each in offsets.items() if partitions.get(where) is states[where]}
            if still and not self._is_lost(group):
                operation = group.offsets.commit(still)
                operation.callbacks.append(lambda: _tell(operation.error))
        self._wake()

    def _sent_in_vain(self) -> bool:
        """Whether a record was not delivered that the producer has taken since the beginning, or the last `rewind()`."""
        producer = self._commit_after
        return producer is not None and producer._machine.counts.records_failed > self._failed_before

    def _commit_finished(self, limit_s: float) -> Work[None]:
        """Commit what is finished, where that is the consumer's business; a failure is logged."""
        group = self._machine.group
        if group is None or self._bounds.commit_interval_ms is None or self._is_lost(group):
            return
        with self._lock:
            offsets = self._finished.offsets(self._machine.partitions)
            watermark = None if self._commit_after is None or not offsets else self._commit_after._watermark()
        if watermark is not None and (not (yield Wait(watermark, limit_s)) or self._sent_in_vain()):
            logger.warning("what was finished last is not committed: not all that was sent for it is acknowledged")
            return
        with self._lock:
            operation = group.offsets.commit(offsets)
        self._wake()
        if not (yield Wait(operation, limit_s)):
            with self._lock:
                group.offsets.cancel(operation)
            logger.warning("the offsets of what is finished were not committed within %g s", limit_s)
        else:
            _tell(operation.error)

    def _commit(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None, timeout: Duration | None
    ) -> Work[None]:
        self._check_usable()
        group = self._group()
        limit_s = self._bounds.api_timeout_s if timeout is None else duration_s("timeout", timeout)
        with self._lock:
            operation = group.offsets.commit(self._to_commit(offsets))
        self._wake()
        if not (yield Wait(operation, limit_s)):
            with self._lock:
                group.offsets.cancel(operation)
            raise self._slow("commit", limit_s)
        if operation.error is not None:
            self._raise_exceeded()
            raise operation.error

    def _to_commit(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what `commit()` and `commit_async()` commit. Called with the lock held."""
        if self._bounds.commit == "transaction":
            raise ConfigurationError(
                "With commit='transaction' offsets are committed by producer.transaction(consumer)."
            )
        self._raise_exceeded()
        if offsets is not None:
            return as_offsets(offsets)
        if self._bounds.commit == "processed":
            if self._finished.current is not None:
                self._last_handed = self._finished.current
            self._finished.ask()
        return self._finished.offsets(self._machine.partitions)

    def _raise_exceeded(self) -> None:
        membership = self._group().membership
        step = membership.step() if membership is not None else None
        if isinstance(step, Lose) and step.since_ms is not None:
            self._notice_exceeded(step.since_ms)
        exceeded, self._exceeded = self._exceeded, None
        if exceeded is not None:
            raise exceeded

    def _committed(
        self, partitions: Iterable[TopicPartition] | None, require_stable: bool, timeout: Duration | None
    ) -> Work[dict[TopicPartition, OffsetAndMetadata | None]]:
        self._check_usable()
        group = self._group()
        limit_s = self._bounds.api_timeout_s if timeout is None else duration_s("timeout", timeout)
        with self._lock:
            wanted = list(self._machine.partitions) if partitions is None else [TopicPartition(*p) for p in partitions]
            query = group.offsets.fetch(wanted, require_stable=require_stable)
        self._wake()
        done = yield Wait(query, limit_s)
        with self._lock:
            group.offsets.cancel(query)
        if not done:
            raise self._slow("committed offsets", limit_s)
        if query.error is not None:
            raise query.error
        return query.offsets

    # -- positions --------------------------------------------------------------------------------------------------

    def rewind(self) -> None:
        """Go back to what is not finished: the last record or batch comes again.

        With commit="marked" that is the first record of each partition that is not marked; with "manual", "transaction"
        and `commit_after` (which forgets deliveries that have failed) what was handed out since the last commit.
        """
        self._check_usable()
        with self._lock:
            states = list(self._machine.partitions.values())
            for state, offset in self._finished.first_unfinished(states).items():
                committed = state.committed
                self._finished.forget(state)
                self._machine.seek(state, offset)
                state.committed = committed
            self._finished.ask()
        if self._commit_after is not None:
            self._failed_before = self._commit_after._machine.counts.records_failed
        self._wake()

    def subscribe(self, topics: Iterable[str] | None = None, *, pattern: str | None = None) -> None:
        """Read other topics from now on: by name, or those whose whole name matches a pattern (RE2's syntax).

        In a group the partitions change in later calls, not in this one. Without one these are read beside those before.
        """
        self._check_usable()
        names = topic_names(topics)
        if pattern is not None:
            self._group()
            check_pattern(pattern, names)
        self._topics, self._pattern = names, pattern
        if self._runtime is not None:
            with self._lock:
                self._subscribe(self._runtime.now_ms())
                self._attention = True
            self._wake()

    def enforce_rebalance(self, reason: str = "") -> None:
        """Have the group rebalance: in a later call, the partitions may change."""
        self._check_usable()
        group = self._group()
        with self._lock:
            if group.membership is not None:
                group.membership.rejoin(reason or "the program asked for it")
            self._attention = True
        self._wake()

    # -- the end ----------------------------------------------------------------------------------------------------

    def _farewell(self, *, clean: bool, limit_s: float) -> Work[None]:
        """Commit what is finished, leave the group; what goes wrong is logged.

        Args:
            clean: the block ended without an exception: the last record is finished, too.
        """
        group = self._machine.group
        if group is None:
            return
        if clean:
            self._finished.ask()
        group.commit_due = None
        group.come_back()
        try:
            yield from self._commit_finished(limit_s)
            yield Until(lambda: not group.offsets.committing, limit_s)
            membership = group.membership
            if membership is None:
                return
            owned = list(membership.owned)
            if owned and self._on_revoked is not None and not self._is_lost(group):
                yield Call(self._on_revoked, (owned,))
            with self._lock:
                self._drop(owned)
                group.unsubscribe()
            self._wake()
            yield Until(lambda: membership.left, min(limit_s, CLOSE_TIMEOUT_INTERRUPTED_S))
        except KafkaError as error:
            logger.warning("while the consumer was closed: %s", error)

    def _begin_watching(self) -> None:
        """The consumer has started: what is finished is committed from now on, and the caller is watched."""
        group, runtime = self._machine.group, self._runtime
        if group is not None and runtime is not None:
            group.commit_due = weakly(self._commit_due)
            group.go_away(runtime.now_ms())
        if self._commit_after is not None:
            self._failed_before = self._commit_after._machine.counts.records_failed

    # -- records that cannot be read --------------------------------------------------------------------------------

    def _deal_with(self, problem: Unreadable) -> Work[None]:
        """Do what `on_error=` says about the record at the front; until that is done it stays there.

        Raises:
            DeserializationError: with "raise"; the record counts as handed out.
            Exception: what the caller's function raises, the same; or why the record is not among the dead letters.
        """
        policy, error = self._policy, problem.error
        assert policy is not None
        try:
            if policy.raises:
                raise error
            if policy.function is not None:
                yield Call(policy.function, (error,))
        except Exception:
            self._pass_unreadable(problem, finished=False)
            raise
        if policy.function is None:
            policy.tell(error)
        if policy.dead_letter is not None:
            yield Call(self._bury, (error.record, policy.dead_letter, error))
        self._pass_unreadable(problem, finished=True)

    def _bury(self, record: Record[K, V], topic: str, error: Exception) -> object:
        """Send a record to the dead letters; the asynchronous face awaits it."""
        raise NotImplementedError

    def _check_columns(self) -> None:
        if self._policy is not None:
            raise ConfigurationError(
                "on_error= has no say in batches(): they are columns of bytes, and nothing is deserialized in them.",
                "Leave on_error= out, or loop over the records.",
            )

    # -- batches ----------------------------------------------------------------------------------------------------

    def _take_many(self, found: list[Record[K, V]], count: int, waiter: Callable[[], object] | None = None) -> None:
        """Add records that are at hand to `found`, up to `count` in all. What goes wrong behind the first is kept."""
        while len(found) < count:
            try:
                more = self._take_run(count - len(found), waiter)
            except Unreadable:
                return  # the next call meets it again
            except KafkaError as error:
                if not found:
                    raise
                self._deferred = error
                return
            if not more:
                return
            found += more
        if found:
            self._last_handed = found[-1]

    def _gather(self, columns: Columns[K, V], count: int, waiter: Callable[[], object] | None = None) -> None:
        """Do as `_take_many`, into columns."""
        while len(columns) < count:
            try:
                if self._take_columns(columns, count, waiter) is None:
                    return
            except KafkaError as error:
                if not columns:
                    raise
                self._deferred = error
                return

    def _put_back(self, columns: Columns[K, V]) -> None:
        """Records were taken that the caller does not get: they come again."""
        first: dict[PartitionState, int] = {}
        for row, _, source in columns.spans():
            owner, offset = source.owner, columns.offset(row)
            if owner is not None and self._machine.partitions.get(owner.topic_partition) is owner:
                first[owner] = min(first.get(owner, offset), offset)
        with self._lock:
            for state, offset in first.items():
                base, committed = state.base, state.committed
                self._finished.take_back(state, offset)
                self._machine.seek(state, offset)
                state.base, state.committed = base, committed
        self._wake()

    def _raise_deferred(self) -> None:
        error, self._deferred = self._deferred, None
        if error is not None:
            raise error

    def _batch(self, columns: Columns[K, V]) -> Batch[K, V]:
        batch = Batch(columns)
        self._last_handed = batch[-1]
        return batch


def _tell(error: Exception | None) -> None:
    """A commit in the background has failed."""
    if error is None:
        return
    if isinstance(error, CommitFailedError):
        logger.warning("%s Records behind the last commit come again, here or elsewhere.", error)
    else:
        logger.warning("the offsets of what is finished were not committed: %s", error)
