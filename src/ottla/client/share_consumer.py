"""The blocking share consumer: `ottla.ShareConsumer`. It belongs to one thread; `stop()` and what is said of records are for
any.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ottla.client._core.operation import Operation
from ottla.client.acquired import AcquiredRecord
from ottla.client.background import LoopThread, check_may_wait, forget, register
from ottla.client.consumed import Deserializer, K, V
from ottla.client.errors import ClosedError, ConfigurationError, ForkedError
from ottla.client.grouping import CLOSE_TIMEOUT_INTERRUPTED_S, CLOSE_TIMEOUT_S
from ottla.client.keys import Duration, duration_s
from ottla.client.share_settings import ShareConsumerOptions
from ottla.client.sharing import OnAcknowledged, ShareConsumerBase

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.sasl import Sasl

logger: logging.Logger = logging.getLogger("ottla.client.share")

#: How long a wait may be before the thread looks around: see `consumer`.
_LOOK_S: Final = 1.0


class ShareConsumer(ShareConsumerBase[K, V]):
    """Works on a queue of jobs as a member of a share group (KIP-932).

    Each record goes to one member, and comes again until it is accepted. There may be more members than partitions; the order
    does not count.

        with ottla.ShareConsumer("localhost:9092", group_id="workers", topics=["jobs"]) as worker:
            for job in worker:
                with job:
                    work(job.value)

    `with job` accepts the record at the end of its block; if the block raises, it releases it and the exception goes on. Its
    lock is renewed at half its time meanwhile, for `max_processing` at most. Without `with`, asking for the next record
    accepts the last one, and leaving the consumer's block releases it.

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        topics: names.
        on_acknowledged: called with a partition, offsets, and None or the reason why the broker did not take what was said of
            them; in the caller's thread, inside the caller's calls. Failures are in the log, too.
        max_processing: seconds or words: for how long the lock of a record in a `with` block, or of `run`, is renewed.
        key_deserializer, value_deserializer: functions (topic, bytes) -> object, or an `ottla.serde`.
        ssl_context: for brokers that speak TLS.
        sasl: how to log in: `ottla.sasl.Plain(...)` or `ottla.sasl.Scram(...)`.
        connect_timeout: seconds.
        config: keys with dots; the same may be passed as keywords. docs/client.md lists them.

    Raises:
        ConfigurationError: a key is unknown, or a value cannot be.
    """

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None = None,
        *,
        topics: Iterable[str] | None = None,
        on_acknowledged: OnAcknowledged | None = None,
        max_processing: Duration = "10m",
        key_deserializer: Deserializer[K] | None = None,
        value_deserializer: Deserializer[V] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        sasl: Sasl | None = None,
        connect_timeout: Duration = 10.0,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[ShareConsumerOptions],
    ) -> None:
        super().__init__(
            bootstrap_servers,
            topics=topics,
            on_acknowledged=on_acknowledged,
            max_processing=max_processing,
            key_deserializer=key_deserializer,
            value_deserializer=value_deserializer,
            ssl_context=ssl_context,
            sasl=sasl,
            connect_timeout=connect_timeout,
            config=config,
            options=options,
            lock=threading.Lock(),
        )
        self._thread: LoopThread | None = None
        # Its put() may be called in a signal handler.
        self._calls: SimpleQueue[None] = SimpleQueue()

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect. `with`, or the first call, does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        self._check_usable()
        if self._thread is not None:
            return
        thread = LoopThread("ottla-share-consumer")
        try:
            runtime = thread.call(self._make_runtime)
        except BaseException:
            thread.stop(_nothing())
            raise
        self._thread = thread
        self._begin(runtime)
        register(self)
        runtime.wake_threadsafe()
        try:
            if not self._wait(runtime.connected, self._connect_timeout_s):
                raise self._not_connected()
            if runtime.connected.error is not None:
                raise runtime.connected.error
        except BaseException:
            self._close(0)
            raise

    def close(self, timeout: Duration | None = None) -> None:
        """Send what was said of records, release those of which nothing was said, leave the group.

        Args:
            timeout: seconds; 30 at most by default. What fails is logged.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        check_may_wait()
        self._close(CLOSE_TIMEOUT_S if timeout is None else duration_s("timeout", timeout))

    def _close(self, limit_s: float) -> None:
        if self._closed is not None:
            return
        try:
            if self._thread is not None and self._runtime is not None and self._runtime.connected.done and limit_s > 0:
                self._farewell()
                if not self._until(self._left, limit_s):
                    logger.warning("the group was not left within %g s: locks end by time", limit_s)
                self._tell_outcomes()
        finally:
            self._end()
            forget(self)
            thread, self._thread = self._thread, None
            if thread is not None and self._runtime is not None:
                thread.stop(self._runtime.stop())

    def _close_at_exit(self) -> None:
        self._close(CLOSE_TIMEOUT_INTERRUPTED_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._closed, ForkedError):
            return
        interrupted = error is not None and not isinstance(error, Exception)
        self._close(CLOSE_TIMEOUT_INTERRUPTED_S if interrupted else CLOSE_TIMEOUT_S)

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is None or self._closed is not None or self._runtime is None:
            return
        self._closed = ClosedError()
        warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)
        thread.stop_soon(self._runtime.stop())

    # -- records ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AcquiredRecord[K, V]:
        """Wait for the next record and return it. After `stop()` the loop ends; another loop goes on behind it."""
        record = self._next(None)
        if record is None:
            self._stopping = False
            raise StopIteration
        self._at_hand.append(record)
        return record

    def poll(self, max_records: int | None = None, timeout: Duration = 1.0) -> list[AcquiredRecord[K, V]]:
        """Return the records that are there, `max_records` (`max.poll.records`) at most; those of the last call are accepted.

        Args:
            timeout: seconds to wait for a first one; the list is empty if none comes.
        """
        limit = self._bounds.max_poll_records if max_records is None else max_records
        found = self._next(time.monotonic() + duration_s("timeout", timeout), count=limit)
        self._stopping = False
        while found is not None:
            self._at_hand.append(found)
            found = self._take() if len(self._at_hand) < limit else None
        return list(self._at_hand)

    def run(self, work: Callable[[AcquiredRecord[K, V]], object], *, workers: int = 1) -> None:
        """Work on records by several threads at once, until `stop()`. A record is accepted when `work` returns.

        One whose `work` raises is released, with an entry in the log, and comes again; the others go on. `work` may say by
        itself what has become of it: `job.reject()`.

        Args:
            work: called with each record, in a worker's thread.
        """
        if workers < 1:
            raise ConfigurationError(f"workers={workers} is not valid: it takes 1 or more.")
        self._ensure_started()
        jobs: SimpleQueue[AcquiredRecord[K, V] | None] = SimpleQueue()
        idle = threading.Semaphore(workers)

        def serve() -> None:
            while (job := jobs.get()) is not None:
                try:
                    with job:
                        work(job)
                except Exception:
                    logger.exception("%r is released: it failed at delivery %d", job, job.delivery_count)
                finally:
                    del job
                    idle.release()
                    self._calls.put(None)

        threads = [
            threading.Thread(target=serve, name=f"ottla-worker-{number}", daemon=True) for number in range(workers)
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._stopping:
                if not idle.acquire(timeout=0):
                    self._tell_outcomes()
                    self._look_around()
                    continue
                record = None
                try:
                    record = self._next(None, hold=True)
                finally:
                    if record is None:
                        idle.release()
                if record is not None:
                    jobs.put(record)
            self._stopping = False
        finally:
            for _ in threads:
                jobs.put(None)
            # After Ctrl-C a second one ends this wait, too.
            for thread in threads:
                thread.join()

    def _next(self, deadline: float | None, *, count: int = 1, hold: bool = False) -> AcquiredRecord[K, V] | None:
        """Return the next record; None after `stop()` or when the deadline has passed."""
        self._ensure_started()
        self._begin_call()
        self._tell_outcomes()
        record = None if self._stopping else self._take(hold=hold)
        if record is not None or self._stopping:
            return record
        check_may_wait()
        try:
            while True:
                self._want(count, self._wake_waiter)
                self._tell_outcomes()
                record = self._take(hold=hold)
                if record is not None or self._stopping:
                    return record
                if not self._look_around(deadline):
                    return None
        finally:
            self._want(0)

    def _look_around(self, deadline: float | None = None) -> bool:
        """Wait for news, a second at most; return whether there is time left."""
        left_s = _LOOK_S if deadline is None else deadline - time.monotonic()
        with suppress(Empty):
            self._calls.get(timeout=max(min(left_s, _LOOK_S), 0))
        self._check_usable()
        return deadline is None or left_s > 0

    def commit(self, timeout: Duration | None = None) -> None:
        """Send what was said of records at once, and wait until that has an outcome; `on_acknowledged` gets it.

        Raises:
            TimeoutError: not within `timeout` seconds (`default.api.timeout.ms`).
        """
        self._ensure_started()
        limit_s = self._bounds.api_timeout_s if timeout is None else duration_s("timeout", timeout)
        self._flush(True)
        try:
            if not self._until(self._settled, limit_s):
                raise TimeoutError(f"acknowledgements: no outcome within {limit_s:g} s")
        finally:
            self._flush(False)
        self._tell_outcomes()

    def _tell_outcomes(self) -> None:
        for outcome in self._outcomes():
            if self._on_acknowledged is not None:
                self._on_acknowledged(*outcome)

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _ensure_started(self) -> None:
        self._check_usable()
        if self._thread is None:
            self.start()

    def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Wait until a condition holds, which is looked at with the lock held."""
        check_may_wait()
        deadline = time.monotonic() + limit_s
        while True:
            event = threading.Event()
            with self._lock:
                if condition():
                    return True
                self._machine.waiters.append(event.set)
            self._wake()
            if not event.wait(max(deadline - time.monotonic(), 0)):
                return False

    def _wait(self, operation: Operation, limit_s: float) -> bool:
        check_may_wait()
        event = threading.Event()
        with self._lock:
            if operation.done:
                return True
            operation.callbacks.append(event.set)
        return event.wait(limit_s) or operation.done

    def _wake_waiter(self) -> None:
        self._calls.put(None)

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake_threadsafe()


async def _nothing() -> None:
    return
