"""Runs one source task: polls it, sends what it brings, and says which offsets may be written down."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ottla import Producer
from ottla.connect.connectors import SourceContext, SourceTask
from ottla.connect.errors import RetriableError
from ottla.connect.records import Position, SourceBatch, SourceRecord
from ottla.connect.runtime.metrics import Counts
from ottla.connect.runtime.offsets import KeptOffsets, Receipt, Receipts, Submitted
from ottla.connect.runtime.pipeline import Failure, Passed, Pipeline, Tolerance
from ottla.connect.settings import client_config

if TYPE_CHECKING:
    from ottla import RecordMetadata

_RETRY_S = 0.5
#: Java's Connect waits for an acknowledgement for as long as it takes: a record that is given up would be lost.
_PRODUCER = {"delivery.timeout.ms": "2147483647", "max.block.ms": "2147483647"}


class SourceRunner:
    """One task. `run` is the body of its thread; `take_offsets` may be called from another one.

    Args:
        producer: settings that the producer has in any case.

    Attributes:
        has_committed: whether offsets were written that it has brought.
        counts: what it counts, by Kafka's names of metrics.
    """

    def __init__(
        self,
        connector: str,
        task: SourceTask,
        worker: Mapping[str, str],
        config: Mapping[str, str],
        values: Mapping[str, Any],
        kept: KeptOffsets,
        on_topic: Callable[[str], None] = lambda topic: None,
        *,
        producer: Mapping[str, str] | None = None,
    ) -> None:
        self._task = task
        self._has_begun = False
        self.has_committed = False
        self.counts = Counts()
        self.counts.set("source-record-active-count", 0)
        self._stopping = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._on_topic = on_topic
        self._lock = threading.Lock()
        self._submitted = Submitted()
        self._committing = threading.Lock()
        self._has_ended = False
        #: Records that the task is to be told of, in order; None: it does not ask for that.
        self._sent: deque[tuple[Receipt | None, SourceRecord]] | None = (
            deque() if _asks_for_acknowledgements(type(task)) else None
        )
        self._pipeline = Pipeline(worker, config, Tolerance(values, self._stopping.wait, self.counts))
        settings = client_config(worker, "producer", config)
        self._producer: Producer = Producer(
            worker.get("bootstrap.servers", "localhost:9092"),
            config=_PRODUCER | {"client.id": f"connector-producer-{connector}"} | settings | dict(producer or {}),
        )
        task.context = SourceContext(lambda partition: kept.find(connector, partition), self._stopping)

    def stop(self) -> None:
        """Have `run` end soon."""
        self._stopping.set()
        self._going.set()

    def pause(self, is_paused: bool) -> None:
        """Poll no more, or go on."""
        if is_paused and not self._stopping.is_set():
            self._going.clear()
        else:
            self._going.set()

    def run(self) -> None:
        """Poll and send until `stop`; then wait for what was sent.

        Raises:
            Exception: why the task failed.
        """
        try:
            self._run()
        finally:
            with self._committing:
                self._has_ended = True
            if self._has_begun:
                self._task.stop()
            self._pipeline.close()

    def _run(self) -> None:
        with self._producer:
            self._begin_task()
            self._loop()
            self._producer.flush()
            self._tell_acknowledged()

    def _begin_task(self) -> None:
        self._has_begun = True
        self._task.start()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            if self._going.is_set():
                self._poll()
            else:
                self._going.wait(_RETRY_S if self._sent else None)
            self._tell_acknowledged()

    def _poll(self) -> None:
        try:
            records = self._task.poll()
        except RetriableError:
            self._stopping.wait(_RETRY_S)
            return
        if records:
            self.counts.add("source-record-poll-total", sum(map(_count, records)))
            self._deliver(records if self._takes_batches() else _one_by_one(records))

    def _takes_batches(self) -> bool:
        """Whether no one has to look at single records of a batch."""
        return self._sent is None and not self._pipeline.has_steps

    def _deliver(self, records: Sequence[SourceRecord | SourceBatch | Position]) -> None:
        for record in records:
            self._send(record)

    def _tell_acknowledged(self) -> None:
        while self._sent and (self._sent[0][0] is None or self._sent[0][0].done()):
            receipt, record = self._sent.popleft()
            self._task.commit_record_at(record, None if receipt is None else cast("RecordMetadata", receipt.result(0)))

    def _send(self, record: SourceRecord | SourceBatch | Position) -> None:
        if isinstance(record, Position):
            self._note(record, None)
            return
        if isinstance(record, SourceBatch):
            self._send_batch(record)
            return
        receipt = None
        try:
            changed = self._pipeline.transform(record, _forget, f"a record to topic {record.topic}")
            if changed is not None:
                key, value, headers = self._pipeline.write(changed, _forget)
                self._on_topic(changed.topic)
                receipt = self._producer.send(
                    changed.topic,
                    value,
                    key=key,
                    headers=headers,
                    partition=changed.partition,
                    timestamp=changed.timestamp,
                )
                self.counts.add("source-record-write-total")
        except Passed:
            pass
        self._note(record, receipt)

    def _send_batch(self, batch: SourceBatch) -> None:
        written = self._pipeline.write_values(batch.topic, batch.value_schema, batch.values)
        if written is None:
            for record in batch.records():
                self._send(record)
            return
        key, values = written
        self._on_topic(batch.topic)
        send, topic, timestamp = self._producer.send, batch.topic, batch.timestamp
        receipts = [send(topic, value, key=key, timestamp=timestamp) for value in values]
        self.counts.add("source-record-write-total", len(receipts))
        self._note(batch, Receipts(receipts))

    def _note(self, record: SourceRecord | SourceBatch | Position, receipt: Receipt | None) -> None:
        """Keep that a record was sent, or that there was none to send."""
        with self._lock:
            self._submitted.add(record.source_partition, record.source_offset, receipt)
        if self._sent is not None and isinstance(record, SourceRecord):
            self._sent.append((receipt, record))

    def committed(self, offsets: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Tell the task that offsets were written down.

        Raises:
            Exception: the task's own.
        """
        with self._committing:
            if not self._has_ended:
                self._task.commit(offsets)

    def take_offsets(self) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Return the offsets that may be written down now: everything up to them is acknowledged.

        Raises:
            Exception: a record was not delivered.
        """
        with self._lock:
            found = self._submitted.take()
            self.counts.set("source-record-active-count", len(self._submitted))
            return found


def _count(given: SourceRecord | SourceBatch | Position) -> int:
    return len(given.values) if isinstance(given, SourceBatch) else isinstance(given, SourceRecord)


def _one_by_one(
    records: Sequence[SourceRecord | SourceBatch | Position],
) -> list[SourceRecord | SourceBatch | Position]:
    found: list[SourceRecord | SourceBatch | Position] = []
    for record in records:
        found += record.records() if isinstance(record, SourceBatch) else [record]
    return found


def _asks_for_acknowledgements(task: type[SourceTask]) -> bool:
    return (
        task.commit_record is not SourceTask.commit_record or task.commit_record_at is not SourceTask.commit_record_at
    )


def _forget(failure: Failure) -> None:
    """Sources have no dead letters in Kafka's Connect: a record that is passed over is logged."""
