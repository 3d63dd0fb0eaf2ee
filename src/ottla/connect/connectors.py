"""What a connector is: the classes that one is made of, in the shape of Kafka Connect's.

    class Numbers(SourceConnector):
        CONFIG = ConfigDef(ConfigKey(name="topic"))

        def task_configs(self, tasks_max):
            return [self.config]

        class Task(SourceTask):
            def poll(self): ...

A connector says how its work is split; tasks do it, each in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ottla.connect.config_def import ConfigDef
from ottla.connect.errors import RetriableError
from ottla.connect.records import Position, SinkRecord, SourceBatch, SourceRecord

if TYPE_CHECKING:
    from ottla import RecordMetadata, TopicPartition

#: A part of a source, or a place in it: names and plain values.
Place = Mapping[str, Any]


class Task:
    """The work of a connector, or a part of it. `values` has the configuration, typed by the connector's CONFIG."""

    def __init__(self, config: Mapping[str, str], values: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.values = dict(values)

    def start(self) -> None:
        """Open what the work needs. What is raised here, or later, fails the task."""

    def stop(self) -> None:
        """Close it; called once, after the last call of anything else."""


class SourceTask(Task):
    """Brings records from a source. `context` is there from `start()` on."""

    context: SourceContext

    def poll(self) -> Sequence[SourceRecord | SourceBatch | Position] | None:
        """Return what is there, after a short wait at most; None or nothing if there is nothing.

        Raises:
            RetriableError: ask again.
        """
        raise NotImplementedError

    def preview(self, rows: int) -> Sequence[SourceRecord] | None:
        """Return some records for `ottla connect try`, and leave no trace where they come from. None: that cannot be done.

        Called in the place of everything else. Where to read leaves no trace, `return self.first_rows(rows)` is enough.
        """
        return None

    def first_rows(self, rows: int, seconds: float = 10.0) -> list[SourceRecord]:
        """Start, poll until so many records have come, or so many seconds are over, and stop."""
        found: list[SourceRecord] = []
        end = time.monotonic() + seconds
        try:
            self.start()
            while len(found) < rows and time.monotonic() < end:
                try:
                    polled = self.poll()
                except RetriableError:
                    self.context.wait(0.5)
                    continue
                if found and not polled:
                    break
                for given in polled or ():
                    if isinstance(given, SourceBatch):
                        found += given.records()
                    elif isinstance(given, SourceRecord):
                        found.append(given)
        finally:
            self.stop()
        return found[:rows]

    def commit_record(self, record: SourceRecord) -> None:
        """The cluster has acknowledged a record, or it was filtered, and so were all before it.

        Called in the order of the records, between polls; a task that has this method is to return from `poll` soon.
        """

    def commit_record_at(self, record: SourceRecord, where: RecordMetadata | None) -> None:
        """As `commit_record`, with where the record is now; None: it was filtered. A task has one of the two methods."""
        self.commit_record(record)

    def commit(self, offsets: Sequence[tuple[Place, Place]]) -> None:
        """Offsets were written down, of (part of the source, place in it): what comes before them is not asked for again.

        Called in a thread of its own, while the task runs.
        """


class SinkTask(Task):
    """Takes records to a sink. `context` is there from `start()` on."""

    context: SinkContext

    def open(self, partitions: Sequence[TopicPartition]) -> None:
        """Partitions have come: their records follow."""

    def put(self, records: Sequence[SinkRecord]) -> None:
        """Take records; they count as done after the next `flush`.

        Raises:
            RetriableError: the same records are given again.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Make sure that what was put is kept: it is not given again after this."""

    def pre_commit(self, offsets: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """Return the offsets that may be committed: what comes before them is kept.

        Called every `offset.flush.interval.ms`, and before partitions go. A task that holds records back returns less than
        it is asked for, and is asked again; without a method of its own it is flushed, and all is committed.

        Args:
            offsets: the offset behind the last record that was put, of each partition.
        """
        self.flush()
        return offsets

    def close(self, partitions: Sequence[TopicPartition]) -> None:
        """Partitions go to another task."""


class TransactionContext:
    """Where the transactions of a task end, if it says so itself: `transaction.boundary=connector` (KIP-618)."""

    def __init__(self) -> None:
        self._wishes: dict[int, tuple[SourceRecord | None, str]] = {}

    def commit_transaction(self, record: SourceRecord | None = None) -> None:
        """Commit after a record that `poll` is to return; None: after the batch that it is to return."""
        self._wish(record, "commit")

    def abort_transaction(self, record: SourceRecord | None = None) -> None:
        """Drop what was sent since the last end, up to a record that `poll` is to return, or to the end of the batch (None).

        The offsets of these records are committed: they do not come again. To have them come again, raise.
        """
        self._wish(record, "abort")

    def _wish(self, record: SourceRecord | None, what: str) -> None:
        key = 0 if record is None else id(record)
        if self._wishes.get(key, (None, ""))[1] != "abort":
            self._wishes[key] = record, what

    def take(self, record: SourceRecord | None) -> str | None:
        """Return what was asked for after a record, or after the batch, and forget it. For the worker."""
        found = self._wishes.pop(0 if record is None else id(record), None)
        return None if found is None else found[1]


class SourceContext:
    """What a source task may ask.

    Args:
        find: the place that was written down last for a part of the source, or None.

    Attributes:
        transaction: says where transactions end; None unless `transaction.boundary` is connector, and the task exactly once.
        on_waiting: is called with what the task waits for, and with None when it waits no more. For the worker.
    """

    transaction: TransactionContext | None = None

    def __init__(self, find: Callable[[Place], dict[str, Any] | None], stopping: threading.Event) -> None:
        self._find = find
        self._stopping = stopping
        self._reason: str | None = None
        self.on_waiting: Callable[[str | None], object] = lambda reason: None

    def offset(self, partition: Place) -> dict[str, Any] | None:
        """Return where reading of a part of the source goes on; None: from its beginning."""
        return self._find(partition)

    def wait(self, seconds: float) -> bool:
        """Wait, but not once the task is to stop; return whether it is."""
        return self._stopping.wait(seconds)

    def waits_for(self, reason: str | None) -> None:
        """Say why nothing comes though the task runs, or that this is over (None): the status shows it in `trace`."""
        if reason != self._reason:
            self._reason = reason
            self.on_waiting(reason)


class SinkContext:
    """What a sink task may ask.

    Args:
        reject: sends a record to the dead letters.
        seek: has reading of a partition go on at an offset.
        topic_id: finds the id of a topic.
        deliver_rejected: sends what was rejected, and waits for it.
    """

    def __init__(
        self,
        reject: Callable[[SinkRecord, BaseException], None],
        seek: Callable[[TopicPartition, int], None],
        topic_id: Callable[[str], str],
        deliver_rejected: Callable[[], None] = lambda: None,
    ) -> None:
        self._reject = reject
        self._seek = seek
        self._topic_id = topic_id
        self._deliver_rejected = deliver_rejected

    def reject(self, record: SinkRecord, error: BaseException) -> None:
        """Say that a record cannot be taken: it goes to the dead letters once `put` has returned.

        Raises:
            ConnectError: `errors.tolerance` is none: the task fails.
        """
        self._reject(record, error)

    def deliver_rejected(self) -> None:
        """Send the dead letters of all that was rejected so far, and of what did not convert; wait until they are there.

        For tasks that keep offsets themselves: to be called before these are written, as nothing before them comes again.

        Raises:
            DeliveryError: a dead letter was not delivered.
        """
        self._deliver_rejected()

    def seek(self, where: TopicPartition, offset: int) -> None:
        """Have reading of a partition go on at an offset, whatever was committed. To be called in `SinkTask.open`."""
        self._seek(where, offset)

    def topic_id(self, topic: str) -> str:
        """Return the id of a topic: a topic that was made anew has another one. Empty where the cluster gives none."""
        return self._topic_id(topic)


class Connector:
    """How work is split into tasks.

    Args:
        config: the configuration, as it was given.
        values: typed by CONFIG.
    """

    CONFIG: ClassVar[ConfigDef] = ConfigDef()
    Task: ClassVar[type[Task]]
    #: What the REST interface shows; None: the version of the package that the connector came with, if it was one.
    VERSION: ClassVar[str | None] = None

    def __init__(self, config: Mapping[str, str], values: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.values = dict(values)

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        """Return the configuration of each task; `tasks_max` at most."""
        return [self.config]

    def left_behind(self) -> str | None:
        """Return what stays elsewhere now that the connector was deleted, and how it is removed; None: nothing does."""
        return None


class SourceConnector(Connector):
    """A connector that brings records into topics; its tasks are `SourceTask`s."""

    def exactly_once_support(self) -> bool | None:
        """Return whether what `poll` brings depends on the offsets that it goes on from, and on nothing else that is kept:
        then records come once where workers write records and offsets in one transaction (KIP-618). None: it does not say.
        """
        return None

    def can_define_transaction_boundaries(self) -> bool:
        """Return whether its tasks say where transactions end (`SourceContext.transaction`)."""
        return False

    def alter_offsets(self, offsets: Sequence[tuple[Place, Place | None]]) -> bool:
        """Check offsets that somebody wants to write, or forget (None), while the connector is stopped.

        Return whether they count as they are, and nothing is kept elsewhere.

        Raises:
            ConnectError: they are none of this connector's.
        """
        return False


class SinkConnector(Connector):
    """A connector that takes records out of topics; its tasks are `SinkTask`s, and share the partitions."""

    def alter_offsets(self, offsets: Sequence[tuple[str, int, int | None]]) -> bool:
        """Check offsets of (topic, partition, offset) that somebody wants to commit, or forget (None), while the connector
        is stopped. Return whether nothing else keeps offsets.

        Raises:
            ConnectError: they cannot be.
        """
        return False

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        return [self.config] * tasks_max

    def plan(self, records: Sequence[SinkRecord]) -> Sequence[str] | None:
        """Return what tasks would do with records, a sentence each, for `ottla connect try`; do nothing. None: unknown."""
        return None
