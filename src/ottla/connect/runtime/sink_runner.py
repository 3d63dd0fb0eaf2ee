"""Runs one sink task: a member of the group `connect-<name>`.

`put` runs in a thread of its own while this one goes on polling with everything paused, so that the member stays in its
group however long it takes. Offsets are committed as far as `pre_commit` allows it, and after every dead letter is
acknowledged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from ottla import Admin, CommitFailedError, Consumer, TopicPartition
from ottla.connect.connectors import SinkContext, SinkTask
from ottla.connect.errors import RetriableError
from ottla.connect.records import SinkRecord
from ottla.connect.runtime.dead_letters import DeadLetterTopic
from ottla.connect.runtime.metrics import Counts
from ottla.connect.runtime.pipeline import Failure, Passed, Pipeline, Stage, Tolerance, place_of
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
_LOOK_S = 0.1
_RETRY_S = 1.0
#: Seconds for which a cluster may be away while a task begins with partitions.
_AWAY_S = 120.0
#: Seconds that a revocation waits for `put`; after that nothing of it is committed, and others get the records again.
_REVOCATION_S = 45.0


class SinkRunner:
    """One task. `run` is the body of its thread."""

    def __init__(
        self,
        connector: str,
        number: int,
        task: SinkTask,
        worker: Mapping[str, str],
        config: Mapping[str, str],
        values: Mapping[str, Any],
        on_topic: Callable[[str], None] = lambda topic: None,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._task = task
        self._stopping = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._on_topic = on_topic
        #: Whether anything was committed since the start.
        self.has_committed = False
        #: What it counts, by Kafka's names of metrics.
        self.counts = Counts()
        self.counts.set("sink-record-read-total", 0)
        self._tolerance = Tolerance(values, self._stopping.wait, self.counts)
        self._pipeline = Pipeline(worker, config, self._tolerance)
        self._dead_letters = DeadLetterTopic(connector, number, worker, config, values, redact)
        self._interval_s = int(worker.get("offset.flush.interval.ms", 60000)) / 1000
        settings = {"auto.offset.reset": "earliest", "client.id": f"connector-consumer-{connector}-{number}"}
        settings |= client_config(worker, "consumer", config)
        settings.setdefault("group.id", f"connect-{connector}")
        self._servers = worker.get("bootstrap.servers", "localhost:9092")
        self._admin_config = client_config(worker, "admin", config)
        self._consumer: Consumer = Consumer(
            self._servers,
            topics=values["topics"] or None,
            pattern=values["topics.regex"] or None,
            commit="manual",
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            on_lost=self._lost,
            config=settings,
        )
        self._put = ThreadPoolExecutor(1, thread_name_prefix=f"{connector}-{number}-put")
        self._working: Future[None] | None = None
        self._done: dict[TopicPartition, int] = {}
        #: Partitions that went or came since the batch at hand was read: it is not theirs any more, even if they are back.
        self._changed: set[TopicPartition] = set()
        self._originals: dict[tuple[str, int, int], Any] = {}
        self._rejected: list[tuple[Any, Failure]] = []
        task.context = SinkContext(self._reject, self._consumer.seek, self._topic_id, self._deliver_rejected)

    def stop(self) -> None:
        """Have `run` end soon; what was put is flushed and committed, what was not is not."""
        self._stopping.set()

    def pause(self, is_paused: bool) -> None:
        """Put no more, or go on; the member stays in its group."""
        if is_paused:
            self._going.clear()
        else:
            self._going.set()

    def run(self) -> None:
        """Read and put until `stop`.

        Raises:
            Exception: why the task failed.
        """
        try:
            self._dead_letters.start()
            self._task.start()
            with self._consumer:
                self._loop()
                self._commit()
        finally:
            self._put.shutdown()
            self._task.stop()
            self._dead_letters.close()
            self._pipeline.close()

    def _loop(self) -> None:
        due = time.monotonic() + self._interval_s
        while not self._stopping.is_set():
            if not self._going.is_set():
                self._rest()
                continue
            records = self._consumer.poll(timeout=_LOOK_S)
            self.counts.set("partition-count", len(self._consumer.assignment))
            if records:
                self.counts.add("sink-record-read-total", len(records))
                self._deliver(records)
            if time.monotonic() >= due:
                self._commit()
                due = time.monotonic() + self._interval_s

    def _rest(self) -> None:
        """Stay in the group until the connector is resumed or stopped."""
        self._commit()
        self._consumer.pause()
        try:
            while not self._going.is_set() and not self._stopping.is_set():
                self._consumer.poll(timeout=_LOOK_S)
        finally:
            self._consumer.resume()

    def _deliver(self, records: Sequence[Any]) -> None:
        self._changed.clear()
        converted = []
        ends: dict[TopicPartition, int] = {}
        for record in records:
            where = record.topic_partition
            if where not in ends:
                self._on_topic(where.topic)
            ends[where] = record.offset + 1
            made = self._convert(record)
            if made is not None:
                self._originals[where.topic, where.partition, record.offset] = record
                converted.append((where, made))
        if self._put_all(converted):
            self._done |= {where: end for where, end in ends.items() if self._is_current(where)}
        self._originals.clear()

    def _convert(self, record: Any) -> SinkRecord | None:
        def bury(failure: Failure) -> None:
            self._bury(record, failure)

        try:
            made = self._pipeline.read(record, bury)
            return self._pipeline.transform(made, bury, place_of(record)) if self._pipeline.has_steps else made
        except Passed:
            return None

    def _bury(self, record: Any, failure: Failure) -> None:
        if self._dead_letters.bury(record, failure):
            self.counts.add("deadletterqueue-produce-requests")

    def _put_all(self, converted: list[tuple[TopicPartition, SinkRecord]]) -> bool:
        """Put records until it works; whether it did, before `stop`. Records of partitions that are gone are left out."""
        while True:
            current = {where for where in {where for where, _ in converted} if self._is_current(where)}
            batch = [made for where, made in converted if where in current]
            if not batch:
                return True
            self._rejected.clear()
            self._working = self._put.submit(self._task.put, batch)
            try:
                self._await(self._working)
                self._bury_rejected()  # not before: `put` may be tried again, or fail
                self.counts.add("sink-record-send-total", len(batch))
                return True
            except RetriableError:
                if self._wait(_RETRY_S):
                    return False
            finally:
                self._working = None

    def _is_current(self, where: TopicPartition) -> bool:
        """Whether the batch at hand is still to be put: a partition that came again begins where its task said in `open`."""
        return where in self._consumer.assignment and where not in self._changed

    def _await(self, working: Future[None]) -> None:
        """Stay in the group while `put` runs."""
        try:
            working.result(_LOOK_S)
            return
        except FutureTimeout:
            if working.done():  # `put` itself has raised one
                raise
        self._consumer.pause()
        try:
            while not working.done():
                self._consumer.poll(timeout=_LOOK_S)
        finally:
            self._consumer.resume()
        working.result()

    def _wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        self._consumer.pause()
        try:
            while time.monotonic() < end and not self._stopping.is_set():
                self._consumer.poll(timeout=_LOOK_S)
        finally:
            self._consumer.resume()
        return self._stopping.is_set()

    def _commit(self) -> None:
        """Flush the task and the dead letters, then commit what was put."""
        if not self._done:
            return
        offsets = dict(self._task.pre_commit(dict(self._done)))
        self._dead_letters.flush()
        # What the task holds back stays here, so that it is asked again.
        self._done = {where: end for where, end in self._done.items() if offsets.get(where) != end}
        if offsets:
            self._consumer.commit(offsets)
            self.has_committed = True
            self.counts.add("offset-commit-completion-total")

    def _reject(self, record: SinkRecord, error: BaseException) -> None:
        original = self._originals.get((record.topic, record.partition or 0, record.offset))
        failure = Failure(stage=Stage.TASK_PUT, class_name=type(self._task).__name__, error=error)
        self._tolerance.fail(failure, lambda found: self._rejected.append((original, found)), place_of(record))

    def _bury_rejected(self) -> None:
        rejected, self._rejected = self._rejected, []
        for original, failure in rejected:
            self._bury(original, failure)

    def _deliver_rejected(self) -> None:
        """Called by the task, in the thread of `put` while this one only polls, or in this one."""
        self._bury_rejected()
        self._dead_letters.flush()

    def _topic_id(self, topic: str) -> str:
        """Called in `SinkTask.open`: a cluster that has gone since the partitions came is waited for."""
        deadline = time.monotonic() + _AWAY_S
        while True:
            try:
                with Admin(self._servers, config=self._admin_config) as admin:
                    return admin.describe_topics([topic])[topic].topic_id
            except KafkaError as error:
                if not error.retriable or time.monotonic() > deadline or self._stopping.wait(_RETRY_S):
                    raise
                log.warning("the id of topic %s is not known yet: %s", topic, error)

    # The group

    def _assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self._changed.update(partitions)
        self._task.open(list(partitions))
        if self._working is not None or not self._going.is_set():
            self._consumer.pause()

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if self._put_ends():
            try:
                self._commit()
            except CommitFailedError:
                pass  # others have the partitions, and get the records again
        self._lost(partitions)

    def _put_ends(self) -> bool:
        """Wait until no `put` runs; whether that is so."""
        working = self._working
        if working is None:
            return True
        try:
            working.exception(_REVOCATION_S)
        except FutureTimeout:
            return False
        return True

    def _lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._changed.update(partitions)
        for where in partitions:
            self._done.pop(where, None)
        self._task.close(list(partitions))
