"""Runs one source task exactly once (KIP-618): what it sends and its offsets are in the same transactions.

The transactional id is `<group.id>-<connector>-<task>`. Before it is used the leader has shut out the tasks before
(`distributed/fencing.py`); after it is taken the worker looks whether the task is still its own, and only then gives it the
offsets. So a run that comes late, of a worker that does not know yet that it has lost the task, sends nothing: it is not let
go on, and if it had been, its successor would have shut it out.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ottla.connect.connectors import SourceTask, TransactionContext
from ottla.connect.records import Position, SourceBatch, SourceRecord
from ottla.connect.runtime.offsets import KeptOffsets, Receipt
from ottla.connect.runtime.source_runner import SourceRunner
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
#: What a task asks its worker: whether it may take its transactional id, and, then, whether it may begin.
Step = Literal["init", "go"]
_TIMEOUT_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactlyOnce:
    """What a task has to know of its group.

    Attributes:
        group: the group's id.
        topic: the topic of offsets.
    """

    group: str
    topic: str


class ExactlyOnceRunner(SourceRunner):
    """One task. `run` is the body of its thread.

    Args:
        ask: asks the worker; the answer comes by `allow`.
        begun: called when the task starts.
        fail: called, in another thread, with why it fails.
    """

    def __init__(
        self,
        connector: str,
        number: int,
        task: SourceTask,
        worker: Mapping[str, str],
        config: Mapping[str, str],
        values: Mapping[str, Any],
        on_topic: Callable[[str], None],
        where: ExactlyOnce,
        *,
        ask: Callable[[Step], None],
        begun: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._boundary = values["transaction.boundary"].lower()
        interval_ms = values["transaction.boundary.interval.ms"]
        if interval_ms is None:
            interval_ms = int(worker.get("offset.flush.interval.ms", 60000))
        self._interval_s = interval_ms / 1000
        own = client_config(worker, "producer", config)
        # A transaction of one interval must not be too long for the cluster.
        longest = max(_TIMEOUT_MS, _TIMEOUT_MS + interval_ms if self._boundary == "interval" else 0)
        self._timeout_s = int(own.get("transaction.timeout.ms", longest)) / 1000
        self._connector = connector
        self._number = number
        self._offsets_topic = where.topic
        self._kept = KeptOffsets({})
        super().__init__(
            connector, task, worker, config, values, self._kept, on_topic,
            producer={
                "transaction.timeout.ms": str(int(self._timeout_s * 1000)),
                "transactional.id": f"{where.group}-{connector}-{number}",
                "enable.idempotence": "true",
            },
        )  # fmt: skip
        self._ask = ask
        self._begun = begun
        self._fail = fail
        self._answered = threading.Condition()
        self._allowed: set[Step] = set()
        #: Guards what follows, and the producer's transactions.
        self._transaction = threading.RLock()
        self._since_s: float | None = None
        self._is_warned = False
        self._has_failed = False
        self._open: list[tuple[Receipt | None, SourceRecord]] = []
        self._places: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        self._context = TransactionContext() if self._boundary == "connector" else None
        task.context.transaction = self._context

    def allow(self, step: Step, entries: Mapping[bytes, bytes | None]) -> None:
        """The worker says that the next step may be done.

        Args:
            entries: the connector's offsets, to begin with.
        """
        with self._answered:
            if step == "go":
                self._kept.load(entries)
            self._allowed.add(step)
            self._answered.notify_all()

    def stop(self) -> None:
        super().stop()
        with self._answered:
            self._answered.notify_all()

    def _may(self, step: Step) -> bool:
        self._ask(step)
        with self._answered:
            self._answered.wait_for(lambda: step in self._allowed or self._stopping.is_set())
        return not self._stopping.is_set()

    def _run(self) -> None:
        if not self._may("init"):
            return
        with self._producer:  # shuts others of this id out, and ends what they have begun
            if not self._may("go"):
                return
            self._begun()
            try:
                self._begin_task()
                if self._boundary == "interval":
                    threading.Thread(target=self._commit_in_time, name="transactions", daemon=True).start()
                self._loop()
                self._finish()
            finally:
                with self._transaction:
                    self._has_failed = True  # or ended: the other thread commits no more

    def _commit_in_time(self) -> None:
        """Commit every interval, while `poll` waits, too."""
        while not self._stopping.wait(self._interval_s):
            try:
                with self._transaction:
                    if self._has_failed:
                        return
                    self._commit()
            except Exception as error:
                with self._transaction:
                    self._has_failed = True
                self._fail(error)
                return

    def _finish(self) -> None:
        with self._transaction:
            if self._has_failed:
                return
            if self._boundary == "connector":
                self._forget()
            else:
                self._commit()
        self._tell_acknowledged()

    def _takes_batches(self) -> bool:
        return self._context is None and super()._takes_batches()

    def _deliver(self, records: Sequence[SourceRecord | SourceBatch | Position]) -> None:
        with self._transaction:
            for record in records:
                if self._has_failed:
                    return
                self._begin()
                self._send(record)
                if self._context is not None and isinstance(record, SourceRecord):
                    self._do(self._context.take(record))
            if self._context is not None:
                self._do(self._context.take(None))
            if self._boundary == "poll":
                self._commit()
            self._warn()

    def _do(self, what: str | None) -> None:
        """Do what a task has asked for. What it aborts is not sent, and does not come again: its offsets are committed."""
        if what == "abort" and self._since_s is not None:
            self._producer.abort_transaction()
            self._since_s = None
            self._open = [(None, record) for _, record in self._open]  # they are nowhere
        if what is not None:
            self._commit()

    def _note(self, record: SourceRecord | SourceBatch | Position, receipt: Receipt | None) -> None:
        if record.source_offset is not None:
            place = json.dumps(dict(record.source_partition), sort_keys=True, default=str)
            self._places[place] = record.source_partition, record.source_offset
        if isinstance(record, SourceBatch):
            self.counts.add("source-record-active-count", len(record.values))
        if isinstance(record, SourceRecord):
            self.counts.add("source-record-active-count")
        if self._sent is not None and isinstance(record, SourceRecord):
            self._open.append((receipt, record))

    def _begin(self) -> None:
        if self._since_s is None:
            self._producer.begin_transaction()
            self._since_s = time.monotonic()
            self._is_warned = False

    def _commit(self) -> None:
        if self._since_s is None and not self._places:
            return
        self._begin()
        offsets = list(self._places.values())
        for partition, offset in offsets:
            key, value = self._kept.set(self._connector, partition, offset)
            self._producer.send(self._offsets_topic, value, key=key)
        self._producer.commit_transaction()
        self._since_s = None
        self._places.clear()
        self.counts.set("source-record-active-count", 0)
        if self._sent is not None:
            self._sent.extend(self._open)
            self._open.clear()
        self.has_committed = self.has_committed or bool(offsets)
        if offsets:
            self.committed(offsets)

    def _forget(self) -> None:
        """End what the task has not committed: it comes again."""
        if self._since_s is not None:
            try:
                self._producer.abort_transaction()
            except KafkaError as error:
                log.warning("the last transaction of %s-%d ends by itself: %s", self._connector, self._number, error)
            self._since_s = None

    def _warn(self) -> None:
        if self._since_s is None or self._is_warned or time.monotonic() - self._since_s < self._timeout_s / 2:
            return
        self._is_warned = True
        log.warning(
            "a transaction of task %s-%d has been open for half of transaction.timeout.ms (%g s), after which it is aborted",
            self._connector,
            self._number,
            self._timeout_s,
        )

    def take_offsets(self) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """There are none for the worker: they were written with the records."""
        return []
