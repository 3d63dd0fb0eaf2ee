"""The asynchronous share consumer: `ottla.aio.ShareConsumer`. It belongs to the event loop that started it.

The same names as `ottla.ShareConsumer`, awaitable; what is said of records waits for nothing and is the same.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ottla.client._core.operation import Operation
from ottla.client.acquired import AcquiredRecord
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


class ShareConsumer(ShareConsumerBase[K, V]):
    """Works on a queue of jobs as a member of a share group (KIP-932).

    Each record goes to one member, and comes again until it is accepted. There may be more members than partitions; the order
    does not count.

        async with ottla.aio.ShareConsumer("localhost:9092", group_id="workers", topics=["jobs"]) as worker:
            async for job in worker:
                with job:
                    work(job.value)

    `with job` accepts the record at the end of its block; if the block raises, it releases it and the exception goes on. Its
    lock is renewed at half its time meanwhile, for `max_processing` at most. Without `with`, asking for the next record
    accepts the last one, and leaving the consumer's block releases it.

    The arguments are those of `ottla.ShareConsumer`. Making one binds no event loop; `start()` or `async with` does.

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
            lock=nullcontext(),
        )
        self._starting: asyncio.Task[None] | None = None
        self._called = asyncio.Event()

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect. `async with`, or the first call, does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        self._check_usable()
        if self._starting is None:
            self._begin(self._make_runtime())
            self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        runtime = self._runtime
        assert runtime is not None
        runtime.wake()
        try:
            if not await self._wait(runtime.connected, self._connect_timeout_s):
                raise self._not_connected()
            if runtime.connected.error is not None:
                raise runtime.connected.error
        except BaseException:
            await self._close(0)
            raise

    async def close(self, timeout: Duration | None = None) -> None:
        """Send what was said of records, release those of which nothing was said, leave the group.

        Args:
            timeout: seconds; 30 at most by default. What fails is logged.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        await self._close(CLOSE_TIMEOUT_S if timeout is None else duration_s("timeout", timeout))

    async def _close(self, limit_s: float) -> None:
        if self._closed is not None:
            return
        try:
            if self._runtime is not None and self._runtime.connected.done and limit_s > 0:
                self._farewell()
                if not await self._until(self._left, limit_s):
                    logger.warning("the group was not left within %g s: locks end by time", limit_s)
                await self._tell_outcomes()
        finally:
            self._end()
            self._called.set()
            if self._runtime is not None:
                await self._runtime.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._closed, ForkedError):
            return
        interrupted = error is not None and not isinstance(error, Exception)
        await self._close(CLOSE_TIMEOUT_INTERRUPTED_S if interrupted else CLOSE_TIMEOUT_S)

    def __del__(self) -> None:
        if getattr(self, "_runtime", None) is not None and self._closed is None:
            self._closed = ClosedError()
            warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)

    # -- records ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AcquiredRecord[K, V]:
        """Wait for the next record and return it. After `stop()` the loop ends; another loop goes on behind it.

        A cancelled wait loses no record.
        """
        record = await self._next(None)
        if record is None:
            self._stopping = False
            raise StopAsyncIteration
        self._at_hand.append(record)
        return record

    async def poll(self, max_records: int | None = None, timeout: Duration = 1.0) -> list[AcquiredRecord[K, V]]:
        """Return the records that are there, `max_records` (`max.poll.records`) at most; those of the last call are accepted.

        Args:
            timeout: seconds to wait for a first one; the list is empty if none comes.
        """
        limit = self._bounds.max_poll_records if max_records is None else max_records
        deadline = asyncio.get_running_loop().time() + duration_s("timeout", timeout)
        found = await self._next(deadline, count=limit)
        self._stopping = False
        while found is not None:
            self._at_hand.append(found)
            found = self._take() if len(self._at_hand) < limit else None
        return list(self._at_hand)

    async def run(self, work: Callable[[AcquiredRecord[K, V]], object], *, workers: int = 1) -> None:
        """Work on records by several tasks at once, until `stop()`. A record is accepted when `work` returns.

        One whose `work` raises is released, with an entry in the log, and comes again; the others go on. `work` may say by
        itself what has become of it: `job.reject()`.

        Args:
            work: called with each record, usually a coroutine function.
        """
        if workers < 1:
            raise ConfigurationError(f"workers={workers} is not valid: it takes 1 or more.")
        await self._ensure_started()
        tasks: set[asyncio.Task[None]] = set()

        async def serve(job: AcquiredRecord[K, V]) -> None:
            try:
                with job:
                    made = work(job)
                    if inspect.isawaitable(made):
                        await made
            except Exception:
                logger.exception("%r is released: it failed at delivery %d", job, job.delivery_count)

        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._called.set()

        try:
            while not self._stopping:
                if len(tasks) >= workers:
                    self._called.clear()
                    await self._tell_outcomes()
                    await self._called.wait()
                    self._check_usable()
                    continue
                record = await self._next(None, hold=True)
                if record is not None:
                    task = asyncio.create_task(serve(record), name=f"ottla works on {record!r}")
                    tasks.add(task)
                    task.add_done_callback(done)
            self._stopping = False
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self, deadline: float | None, *, count: int = 1, hold: bool = False) -> AcquiredRecord[K, V] | None:
        """Return the next record; None after `stop()` or when the deadline has passed."""
        await self._ensure_started()
        self._begin_call()
        await self._tell_outcomes()
        record = None if self._stopping else self._take(hold=hold)
        if record is not None or self._stopping:
            return record
        try:
            while True:
                self._called.clear()
                self._want(count, self._wake_waiter)
                await self._tell_outcomes()
                record = self._take(hold=hold)
                if record is not None or self._stopping:
                    return record
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._called.wait()
                except TimeoutError:
                    return None
                self._check_usable()
        finally:
            self._want(0)

    async def commit(self, timeout: Duration | None = None) -> None:
        """Send what was said of records at once, and wait until that has an outcome; `on_acknowledged` gets it.

        Raises:
            TimeoutError: not within `timeout` seconds (`default.api.timeout.ms`).
        """
        await self._ensure_started()
        limit_s = self._bounds.api_timeout_s if timeout is None else duration_s("timeout", timeout)
        self._flush(True)
        try:
            if not await self._until(self._settled, limit_s):
                raise TimeoutError(f"acknowledgements: no outcome within {limit_s:g} s")
        finally:
            self._flush(False)
        await self._tell_outcomes()

    async def _tell_outcomes(self) -> None:
        for outcome in self._outcomes():
            if self._on_acknowledged is not None:
                made = self._on_acknowledged(*outcome)
                if inspect.isawaitable(made):
                    await made

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def _ensure_started(self) -> None:
        self._check_usable()
        if self._runtime is None or (self._starting is not None and not self._starting.done()):
            await self.start()

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        deadline = asyncio.get_running_loop().time() + limit_s
        while not condition():
            event = asyncio.Event()
            self._machine.waiters.append(event.set)
            self._wake()
            try:
                async with asyncio.timeout_at(deadline):
                    await event.wait()
            except TimeoutError:
                return False
        return True

    async def _wait(self, operation: Operation, limit_s: float) -> bool:
        if not operation.done:
            event = asyncio.Event()
            operation.callbacks.append(event.set)
            try:
                async with asyncio.timeout(limit_s):
                    await event.wait()
            except TimeoutError:
                pass
        return operation.done

    def stop(self) -> None:
        """End loops over this consumer after the record they have. For any thread, and for signal handlers."""
        self._stopping = True
        if self._runtime is not None:
            self._runtime.call_threadsafe(self._wake_waiter)

    def _wake_waiter(self) -> None:
        self._called.set()

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()
