"""The engine's `Cluster` on ottla's client: one consumer in the group, one reader of changelogs, one producer, one admin.

Belongs to one thread. Decides nothing but what a client's error means for the transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import ottla
from ottla.client._core.classic_group import ClassicMembership
from ottla.client.admin_errors import AdminErrors
from ottla.client.errors import (
    CommitFailedError,
    DeliveryErrors,
    LogTruncationError,
    RecordTooLargeError,
    TransactionOutcomeUnknownError,
)
from ottla.client.keys import _size as size_bytes
from ottla.errors import (
    InvalidProducerEpochError,
    KafkaError,
    OffsetOutOfRangeError,
    ProducerFencedError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from ottla.streams.context import InputRecord, Output
from ottla.streams.runtime.ports import Committed, Fenced, OutcomeUnknown, OutOfRange, Refused
from ottla.streams.runtime.streams_group import StreamsGroup, StreamsMembership
from ottla.streams.state.currency import Changelog
from ottla.streams.state.homes import StoreNote
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.client.deliveries import Delivery
    from ottla.streams.runtime.assignor import TaskAssignor
    from ottla.streams.runtime.settings import StreamsSettings

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds that a producer which can do nothing any more is given to close.
_CLOSE_S: Final = 1.0

#: Seconds before a call that failed for now is made again.
_AGAIN_S: Final = 0.5

T = TypeVar("T")
Partitions = Callable[[list[TopicPartition]], object]


class ClientCluster:
    """See `ports.Cluster`.

    Args:
        topics: that the group reads.
        group: who shares out tasks: an assignor of the classic protocol, or the broker.
        transactional_id: None without transactions.
        partition_count: of all partitions that may be read, for the size of buffers.
    """

    def __init__(
        self,
        settings: StreamsSettings,
        topics: Sequence[str],
        group: TaskAssignor | StreamsGroup,
        *,
        transactional_id: str | None,
        partition_count: int,
        on_assigned: Partitions,
        on_revoked: Partitions,
        on_lost: Partitions,
    ) -> None:
        self._settings = settings
        self._transactional_id = transactional_id
        isolation = "read_committed" if transactional_id else "read_uncommitted"
        main: dict[str, Any] = {"client.id": settings.application_id, **settings.main_consumer}
        # Two chunks of each partition may wait, paused or not: those that are full must not starve one that is empty.
        chunk = size_bytes("max.partition.fetch.bytes", main.get("max.partition.fetch.bytes", 1 << 20))
        given = size_bytes("fetch.max.bytes", main.get("fetch.max.bytes", 50 << 20))
        main["fetch.max.bytes"] = min(max(given, 3 * partition_count * chunk), 2**31 - 1)
        if not isinstance(group, StreamsGroup):
            main["partition.assignment.strategy"] = [group]
        self.consumer: ottla.Consumer[bytes | None, bytes | None] = ottla.Consumer(
            topics=topics,
            commit="manual",
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
            config={
                **main,
                "group.id": settings.application_id,
                "auto.offset.reset": "none",
                "isolation.level": isolation,
                "allow.auto.create.topics": False,
            },
        )
        if isinstance(group, StreamsGroup):
            self.consumer._group().make_membership = group.make_membership
        self._group = group
        self._restorer: ottla.Consumer[bytes | None, bytes | None] = ottla.Consumer(
            config={
                "client.id": f"{settings.application_id}-restore",
                **settings.restore_consumer,
                "auto.offset.reset": "none",
                "isolation.level": isolation,
                "allow.auto.create.topics": False,
            }
        )
        self._restoring: set[TopicPartition] = set()
        self.admin: ottla.Admin = ottla.Admin(config=settings.admin)
        self._producer: ottla.Producer[bytes | None, bytes | None] | None = None
        self._deliveries: list[Delivery] = []
        self._retention: dict[str, int | None] = {}

    def _patiently(self, what: str, call: Callable[[], T]) -> T:
        """Call until it works, for task.timeout.ms at most: brokers that are away come back.

        Raises:
            KafkaError, TimeoutError: what it raised last; at once where another try does not help.
        """
        deadline = time.monotonic() + self._settings.engine.task_timeout_ms / 1000
        while True:
            try:
                return call()
            except (KafkaError, TimeoutError) as error:
                passing = isinstance(error, TimeoutError | ConnectionError) or getattr(error, "retriable", False)
                if isinstance(error, AdminErrors):
                    passing = all(each.retriable for each in error.errors.values())
                if isinstance(error, UnknownTopicOrPartitionError) or not passing or time.monotonic() > deadline:
                    raise
                logger.warning("%s: %s; trying again", what, error)
                time.sleep(_AGAIN_S)

    @property
    def confirmed_ms(self) -> float | None:
        """When the request was sent that the group's coordinator has confirmed last (monotonic ms). For any thread."""
        membership = self.consumer._group().membership
        return membership.confirmed_ms if isinstance(membership, ClassicMembership | StreamsMembership) else None

    @property
    def session_timeout_ms(self) -> float:
        """How long the coordinator waits for this member."""
        if isinstance(self._group, StreamsGroup):
            return self._group.session_timeout_ms()
        return self.consumer._group().settings.session_timeout_ms

    def close(self) -> None:
        """Leave the group and close all clients."""
        for client in (self.consumer, self._restorer, self._producer, self.admin):
            if client is None:
                continue
            try:
                client.close(timeout=5.0) if not isinstance(client, ottla.Admin) else client.close()
            except KafkaError as error:
                logger.warning("while a client was closed: %s", error)

    # -- the producer -------------------------------------------------------------------------------------------------

    @property
    def producer(self) -> ottla.Producer[bytes | None, bytes | None]:
        """The present one."""
        assert self._producer is not None
        return self._producer

    def renew(self) -> None:
        """See `ports.Cluster`."""
        self._deliveries.clear()
        if self._producer is not None:
            if self._transactional_id is None:
                return  # without transactions it goes on
            with suppress(KafkaError, TimeoutError):
                self._producer.close(timeout=_CLOSE_S)
        config = dict(self._settings.producer)
        config.setdefault("client.id", self._settings.application_id)
        if self._transactional_id is not None:
            config["transactional.id"] = self._transactional_id

        def make() -> ottla.Producer[bytes | None, bytes | None]:
            producer: ottla.Producer[bytes | None, bytes | None] = ottla.Producer(config=config)
            producer.start()
            return producer

        self._producer = self._patiently("a new producer", make)

    def begin(self) -> None:
        """See `ports.Cluster`."""
        self._deliveries.clear()
        try:
            self.producer.begin_transaction()
        except KafkaError as error:
            self._failed(error)

    def send(self, outputs: Sequence[Output]) -> None:
        """See `ports.Cluster`."""
        send, append = self.producer.send, self._deliveries.append
        try:
            for topic, partition, key, value, timestamp, headers in outputs:
                append(send(topic, value, key=key, partition=partition, timestamp=timestamp, headers=headers))
        except RecordTooLargeError as error:
            raise Refused(str(error), {len(self._deliveries): error}) from error
        except KafkaError as error:
            self._failed(error)

    def send_alone(self, output: Output) -> Delivery:
        """Have a record written that belongs to no task, and that no commit waits for.

        Raises:
            KafkaError: it cannot be written.
        """
        topic, partition, key, value, timestamp, headers = output
        return self.producer.send(topic, value, key=key, partition=partition, timestamp=timestamp, headers=headers)

    def await_deliveries(self) -> dict[TopicPartition, int]:
        """See `ports.Cluster`."""
        deliveries, self._deliveries = self._deliveries, []
        try:
            self.producer.flush()
        except DeliveryErrors:
            pass  # each is looked at below
        except KafkaError as error:
            self._failed(error)
        ends: dict[TopicPartition, int] = {}
        failed: dict[int, Exception] = {}
        seen: set[int] = set()
        # Backwards: the last of a batch says where the batch ends, and the others of it say nothing more.
        for index in range(len(deliveries) - 1, -1, -1):
            delivery = deliveries[index]
            batch = id(delivery._batch)
            if batch in seen and not failed:
                continue
            seen.add(batch)
            failure = delivery.exception()
            if failure is not None:
                failed[index] = failure
                continue
            written = delivery.result()
            where = TopicPartition(written.topic, written.partition)
            ends[where] = max(ends.get(where, 0), written.offset + 1)
        if failed:
            self._refused(deliveries, failed)
        return ends

    def _refused(self, deliveries: Sequence[Delivery], failed: Mapping[int, Exception]) -> NoReturn:
        """Say which records the broker did not take for what they are; others failed along with them."""
        first = failed[min(failed)]
        cause = first.__cause__ or first
        if isinstance(cause, KafkaError) and _is_fenced(cause):
            raise Fenced(str(cause)) from first
        refused: dict[int, Exception] = {}
        for index, delivery in enumerate(deliveries):
            error = delivery.exception()
            if error is None:
                continue
            reason = error.__cause__ or error
            if isinstance(reason, TopicAuthorizationFailedError):
                raise reason
            if isinstance(reason, KafkaError) and reason.code is not None and not reason.retriable:
                refused[index] = reason
        raise Refused(str(first), refused) from first

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """See `ports.Cluster`."""
        made = {where: ottla.OffsetAndMetadata(offset, -1, text) for where, (offset, text) in offsets.items()}
        if self._transactional_id is None:
            try:
                self.consumer.commit(made)
            except (CommitFailedError, TimeoutError) as error:
                raise Refused(str(error)) from error
            return
        try:
            self.producer.send_offsets_to_transaction(made, self.consumer.group_metadata)
            self.producer.commit_transaction()
        except KafkaError as error:
            self._failed(error)

    def abort(self) -> None:
        """See `ports.Cluster`."""
        self._deliveries.clear()
        try:
            self.producer.abort_transaction()
        except TransactionOutcomeUnknownError as error:
            raise OutcomeUnknown(str(error)) from error
        except KafkaError as error:
            raise Fenced(str(error)) from error  # whatever it is, a new producer settles it

    def _failed(self, error: KafkaError) -> NoReturn:
        """Say what a failure of the producer means for the transaction."""
        if isinstance(error, TransactionOutcomeUnknownError):
            raise OutcomeUnknown(str(error)) from error
        if _is_fenced(error):
            raise Fenced(str(error)) from error
        raise Refused(str(error)) from error

    # -- partitions that are read -------------------------------------------------------------------------------------

    def poll(self, limit: int, wait_ms: int) -> list[tuple[TopicPartition, list[InputRecord]]]:
        """Return records, by runs of one partition. The group's changes happen in here.

        Raises:
            OutOfRange: what is to be read next is gone.
        """
        try:
            found = self.consumer.poll(limit, timeout=wait_ms / 1000)
        except LogTruncationError as error:
            raise OutOfRange([error.topic_partition], {error.topic_partition: error.offset}) from error
        except OffsetOutOfRangeError as error:
            raise OutOfRange(self._out_of_range()) from error
        return runs(found)

    def _out_of_range(self) -> list[TopicPartition]:
        partitions = self.consumer.assignment
        starts, ends = self.consumer.beginning_offsets(partitions), self.consumer.end_offsets(partitions)
        found = []
        for where in partitions:
            position = self.position(where)
            if position is not None and not starts[where] <= position <= ends[where]:
                found.append(where)
        return found

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        """See `ports.Cluster`."""
        wanted = list(partitions)
        found = self._patiently("committed offsets", lambda: self.consumer.committed(wanted, require_stable=True))
        return {where: None if each is None else (each.offset, each.metadata) for where, each in found.items()}

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """See `ports.Cluster`."""
        what = f"the bounds of {partition}"
        starts = self._patiently(what, lambda: self.consumer.beginning_offsets([partition]))
        ends = self._patiently(what, lambda: self.consumer.end_offsets([partition]))
        return starts[partition], ends[partition]

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `ports.Cluster`."""
        for where, offset in offsets.items():
            with suppress(UnknownTopicOrPartitionError):  # given up meanwhile
                self.consumer.seek(where, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `ports.Cluster`."""
        for where in partitions:
            with suppress(UnknownTopicOrPartitionError):
                self.consumer.pause([where])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See `ports.Cluster`."""
        for where in partitions:
            with suppress(UnknownTopicOrPartitionError):
                self.consumer.resume([where])

    def position(self, partition: TopicPartition) -> int | None:
        """See `ports.Cluster`."""
        # Not `consumer.position`: that waits where none is known yet.
        state = self.consumer._machine.partitions.get(partition)
        return None if state is None else state.position

    def lag(self, partition: TopicPartition) -> int | None:
        """See `ports.Cluster`."""
        try:
            return self.consumer.consumer_lag(partition)
        except UnknownTopicOrPartitionError:
            return None

    def end_asked_ms(self, partition: TopicPartition) -> float | None:
        """Return when the request was sent (monotonic ms) whose answer the lag comes from; None while it is not known."""
        state = self.consumer._machine.partitions.get(partition)
        return None if state is None or not state.end_asked_ms else state.end_asked_ms

    def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """See `ports.Cluster`."""
        try:
            self.admin.delete_records(dict(before))
        except KafkaError as error:
            logger.warning("records of repartition topics that were read are not deleted yet: %s", error)

    # -- changelogs ---------------------------------------------------------------------------------------------------

    def changelogs(self, partitions: Mapping[TopicPartition, StoreNote | None]) -> dict[TopicPartition, Changelog]:
        """See `ports.Cluster`."""
        wanted = list(partitions)
        names = {where.topic for where in wanted}
        try:
            topics = self._patiently("changelogs", lambda: self.admin.describe_topics(names))
            starts = self._patiently("changelogs", lambda: self.admin.list_offsets(wanted, "earliest"))
            ends = self._patiently("changelogs", lambda: self.admin.list_offsets(wanted, "latest"))
        except UnknownTopicOrPartitionError as error:
            raise LookupError(str(wanted[0])) from error
        except AdminErrors as error:
            name, first = next(iter(error.errors.items()))
            if isinstance(first, UnknownTopicOrPartitionError):
                raise LookupError(str(name)) from error
            raise
        return {
            where: Changelog(
                topic=where.topic,
                topic_id=topics[where.topic].topic_id,
                start=starts[where].offset or 0,
                end=ends[where].offset or 0,
                delete_retention_ms=self._delete_retention_ms(where.topic),
            )
            for where in wanted
        }

    def _delete_retention_ms(self, topic: str) -> int | None:
        if topic not in self._retention:
            found = self._patiently(
                f"the configuration of {topic}",
                lambda: self.admin.describe_configs("topic", topic, keys=["cleanup.policy", "delete.retention.ms"]),
            )
            compacted = "compact" in (found["cleanup.policy"].value or "")
            self._retention[topic] = int(found["delete.retention.ms"].value or 0) if compacted else None
        return self._retention[topic]

    def restore_from(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `ports.Cluster`."""
        new = offsets.keys() - self._restoring
        self._restoring = set(offsets)
        self._restorer.assign(offsets)
        for where, offset in offsets.items():
            state = self._restorer._machine.partitions.get(where)
            # A known one begins elsewhere when its store was looked at again.
            if where in new or (state is not None and state.position != offset):
                self._restorer.seek(where, offset)

    def restored(self, wait_ms: int, limit: int) -> dict[TopicPartition, tuple[Sequence[InputRecord], int]]:
        """See `ports.Cluster`."""
        found: dict[TopicPartition, list[InputRecord]] = {}
        try:
            polled = self._restorer.poll(limit, timeout=wait_ms / 1000)
        except LogTruncationError as error:
            raise OutOfRange([error.topic_partition], {error.topic_partition: error.offset}) from error
        except OffsetOutOfRangeError as error:
            # Compaction or retention has moved the start meanwhile: the next look at the changelog sees it.
            raise OutOfRange(sorted(self._restoring)) from error
        for where, records in runs(polled):
            found.setdefault(where, []).extend(records)
        states = self._restorer._machine.partitions
        return {
            where: (found.get(where, []), position)
            for where in self._restoring
            if (state := states.get(where)) is not None and (position := state.position) is not None
        }


def _is_fenced(error: KafkaError) -> bool:
    return isinstance(error, ProducerFencedError | InvalidProducerEpochError)


def runs(
    records: Iterable[ottla.Record[bytes | None, bytes | None]],
) -> list[tuple[TopicPartition, list[InputRecord]]]:
    """Return records by runs of one partition."""
    found = []
    new, kind = tuple.__new__, InputRecord
    for source, run in groupby(records, key=attrgetter("_source")):
        topic, partition = source.topic, source.partition
        place = (topic, partition)
        # Once per record that is read: what the constructor of a named tuple does, without its own call.
        found.append((TopicPartition(topic, partition), [new(kind, place + record._row) for record in run]))
    return found
