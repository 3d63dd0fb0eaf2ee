"""`consumer.run(handle, workers=8, order="key", retry=...)`: records handled by several workers at once.

The caller's thread takes records, does what the group wants, and gives work out (`Runner`); workers handle records and mark
them, and the longest finished prefix of each partition is committed. Partitions that are given up are waited for, as long
as the group does.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic

from ottla.client.consumed import K, Record, V
from ottla.client.dead_letters import AsyncDeadLetters, DeadLetters
from ottla.client.errors import ConfigurationError
from ottla.client.lanes import OUTSTANDING_MAX, Job, Lanes, Order, Retry
from ottla.client.work import Until, Work
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.client.aio_consumer import Consumer as AsyncConsumer
    from ottla.client.consumer import Consumer
    from ottla.client.grouping import GroupedConsumer

logger: logging.Logger = logging.getLogger("ottla.client.consumer")

#: Records that are taken in one step.
_TAKEN_AT_ONCE = 500


class _Run(Generic[K, V]):
    """What both faces of a run share."""

    def __init__(
        self,
        consumer: GroupedConsumer[K, V],
        workers: int,
        order: Order,
        retry: Retry | None,
        now_s: Callable[[], float],
    ) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers={workers} is not valid: it takes 1 or more.")
        if consumer._bounds.commit in ("manual", "transaction"):
            raise ConfigurationError(
                f"run() says by itself what is finished; that does not go with commit={consumer._bounds.commit!r}."
            )
        self._base = consumer
        self._workers = workers
        self._retry = retry or Retry()
        self._now_s = now_s
        self._lanes: Lanes[K, V] = Lanes(order)
        self._outcomes: deque[tuple[Job[K, V], Exception | None]] = deque()
        self._busy = 0
        self._error: Exception | None = None

    def _begin(self) -> None:
        finished = self._base._finished
        self._base._finish_call_at_hand()
        if finished.marks is None:
            finished.marks = {}
        self._base._before_giving_up = self._giving_up

    def _end(self) -> None:
        """What was taken and not finished comes again in the next loop."""
        base = self._base
        base._before_giving_up = None
        if base._closed is None:
            base.rewind()
        if base._bounds.commit != "marked":
            base._finished.marks = None

    def _giving_up(self, partitions: list[TopicPartition]) -> Work[None]:
        given_up = frozenset(partitions)
        self._lanes.drop(lambda where: where in given_up)
        limit_s = self._base._group().settings.max_poll_interval_ms / 2000

        def idle() -> bool:
            self._collect()
            return not any(where in given_up for where in self._lanes.working)

        if not (yield Until(idle, limit_s)):
            logger.warning("partitions were given up while their records were still being handled; those come again")

    def _collect(self) -> None:
        """Take in what has become of records."""
        while self._outcomes:
            job, error = self._outcomes.popleft()
            self._busy -= 1
            if error is None:
                self._lanes.on_done(job)
                continue
            delay_s = self._retry.delay_s(job.failures, error)
            if delay_s is None:
                self._lanes.on_failed(job, self._now_s())
                error.add_note(f"while {job.record!r} was handled, try {job.failures}")
                self._error = self._error or error
            else:
                logger.warning("%r failed, try %d: %r; again in %g s", job.record, job.failures, error, delay_s)
                self._lanes.on_failed(job, self._now_s() + delay_s)

    def _is_dead(self, job: Job[K, V], error: Exception) -> bool:
        """Whether the record goes to the dead letters now."""
        return self._retry.dead_letter is not None and self._retry.delay_s(job.failures, error) is None

    def _log_dead(self, record: Record[K, V], error: Exception) -> None:
        logger.error("%r goes to %s: %r", record, self._retry.dead_letter, error)


class Runner(_Run[K, V]):
    """The blocking face: threads."""

    def __init__(
        self,
        consumer: Consumer[K, V],
        handle: Callable[[Record[K, V]], object],
        workers: int,
        order: Order,
        retry: Retry | None,
    ) -> None:
        super().__init__(consumer, workers, order, retry, time.monotonic)
        self._consumer = consumer
        self._handle = handle
        self._jobs: SimpleQueue[Job[K, V] | None] = SimpleQueue()
        self._dead_letters = DeadLetters(consumer._client)

    def run(self) -> None:
        self._consumer._ensure_started()
        threads = [
            threading.Thread(target=self._work, name=f"ottla-worker-{number}", daemon=True)
            for number in range(self._workers)
        ]
        self._begin()
        try:
            for thread in threads:
                thread.start()
            self._dispatch()
        finally:
            for _ in threads:
                self._jobs.put(None)
            # After Ctrl-C a second one ends this wait, too.
            for thread in threads:
                thread.join()
            self._collect()
            self._end()
            self._dead_letters.close()

    def _dispatch(self) -> None:
        consumer, lanes = self._consumer, self._lanes
        while True:
            self._collect()
            stopping = consumer._stopping or self._error is not None
            while not stopping and self._busy < self._workers and (job := lanes.take(time.monotonic())) is not None:
                self._busy += 1
                self._jobs.put(job)
            if stopping and not self._busy:
                consumer._stopping = False
                if self._error is not None:
                    raise self._error
                return
            records: list[Record[K, V]] = []
            if not stopping and lanes.outstanding < OUTSTANDING_MAX:
                records = consumer._take_for_run(_TAKEN_AT_ONCE)
                lanes.add(records)
            elif not stopping and consumer._attention:
                consumer._take_for_run(0)
            if records or self._outcomes or (consumer._attention and not stopping):
                continue
            due_s = lanes.due_s
            timeout = None if due_s is None or stopping else max(due_s - time.monotonic(), 0)
            try:
                consumer._calls.get(timeout=timeout)
            except Empty:
                pass

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            error: Exception | None = None
            try:
                self._handle(job.record)
            except Exception as problem:
                job.failures += 1
                error = problem
                if self._is_dead(job, problem):
                    error = self._bury(job, problem)
            if error is None:
                self._consumer.mark(job.record)
            self._outcomes.append((job, error))
            self._consumer._nudge()

    def _bury(self, job: Job[K, V], error: Exception) -> Exception | None:
        """Send a record to the dead letters; return why that failed."""
        record = job.record
        self._log_dead(record, error)
        try:
            self._dead_letters.send(record, self._retry.dead_letter or "", error, job.failures)
        except Exception as problem:
            problem.__cause__ = error
            return problem
        return None


class AsyncRunner(_Run[K, V]):
    """The asynchronous face: tasks."""

    def __init__(
        self,
        consumer: AsyncConsumer[K, V],
        handle: Callable[[Record[K, V]], object],
        workers: int,
        order: Order,
        retry: Retry | None,
    ) -> None:
        super().__init__(consumer, workers, order, retry, asyncio.get_running_loop().time)
        self._consumer = consumer
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead_letters = AsyncDeadLetters(consumer._client)

    async def run(self) -> None:
        await self._consumer._ensure_started()
        self._begin()
        try:
            await self._dispatch()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.gather(*self._tasks, return_exceptions=True)
            self._collect()
            self._end()
            await self._dead_letters.close()

    async def _dispatch(self) -> None:
        consumer, lanes = self._consumer, self._lanes
        while True:
            consumer._called.clear()
            self._collect()
            stopping = consumer._stopping or self._error is not None
            while not stopping and self._busy < self._workers and (job := lanes.take(self._now_s())) is not None:
                self._busy += 1
                task = asyncio.create_task(self._work(job), name=f"ottla handles {job.record!r}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if stopping and not self._busy:
                consumer._stopping = False
                if self._error is not None:
                    raise self._error
                return
            records: list[Record[K, V]] = []
            if not stopping and lanes.outstanding < OUTSTANDING_MAX:
                records = await consumer._take_for_run(_TAKEN_AT_ONCE)
                lanes.add(records)
            elif not stopping and consumer._attention:
                await consumer._take_for_run(0)
            if records or self._outcomes or (consumer._attention and not stopping):
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout_at(None if stopping else lanes.due_s):
                    await consumer._called.wait()
            except TimeoutError:
                pass

    async def _work(self, job: Job[K, V]) -> None:
        error: Exception | None = None
        try:
            made = self._handle(job.record)
            if inspect.isawaitable(made):
                await made
        except Exception as problem:
            job.failures += 1
            error = problem
            if self._is_dead(job, problem):
                error = await self._bury(job, problem)
        if error is None:
            self._consumer.mark(job.record)
        self._outcomes.append((job, error))
        self._consumer._nudge()

    async def _bury(self, job: Job[K, V], error: Exception) -> Exception | None:
        """Send a record to the dead letters; return why that failed."""
        record = job.record
        self._log_dead(record, error)
        try:
            await self._dead_letters.send(record, self._retry.dead_letter or "", error, job.failures)
        except Exception as problem:
            problem.__cause__ = error
            return problem
        return None
