"""The blocking admin client: `ottla.Admin`. Any thread may use it; a thread of its own runs the event loop."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ottla.client.admin_settings import AdminOptions
from ottla.client.aio_admin import Admin as AsyncAdmin
from ottla.client.background import LoopThread, check_may_wait, forget, register
from ottla.client.blocking_admin_calls import BlockingAdminCalls
from ottla.client.errors import ClosedError, ForkedError
from ottla.client.keys import Duration
from ottla.client.metrics import AdminMetrics
from ottla.client.producing import clients
from ottla.errors import KafkaError

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.sasl import Sasl

R = TypeVar("R")


class Admin(BlockingAdminCalls):
    """Creates, describes, changes and deletes what a cluster has: topics, groups, configurations, transactions, access.

        with ottla.Admin("localhost:9092") as admin:
            admin.create_topic("orders", partitions=6, configs={"retention.ms": "1d"}, exists_ok=True)
            admin.consumer_lag("billing")

    Calls about one thing raise its error. Calls about several return results by name, and raise AdminErrors if some failed:
    `errors` says why, by name, `results` has the others. Each call ends within `timeout` seconds, which all of them take, or
    within `default.api.timeout.ms`.

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        ssl_context: for brokers that speak TLS.
        sasl: how to log in: `ottla.sasl.Plain(...)` or `ottla.sasl.Scram(...)`.
        connect_timeout: seconds. None: 10, or about one where nothing listens at any address.
        config: keys with dots; the same may be passed as keywords (`request_timeout_ms="5s"`).

    Raises:
        ConfigurationError: a key is unknown, or a value cannot be.
    """

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        sasl: Sasl | None = None,
        connect_timeout: Duration | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[AdminOptions],
    ) -> None:
        self._closed: KafkaError | None = None
        self._thread: LoopThread | None = None
        self._starting = threading.Lock()
        self._calls = AsyncAdmin(
            bootstrap_servers,
            ssl_context=ssl_context,
            sasl=sasl,
            connect_timeout=connect_timeout,
            config=config,
            **options,
        )
        clients.add(self)

    def start(self) -> None:
        """Connect. `with`, or the first call, does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        if self._closed is not None:
            raise self._closed
        check_may_wait()
        with self._starting:
            if self._thread is not None:
                return
            thread = LoopThread("ottla-admin")
            try:
                thread.run(self._calls.start())
            except BaseException:
                self._closed = ClosedError()
                thread.stop(self._calls.close())
                raise
            self._thread = thread
        register(self)

    def close(self) -> None:
        """End: calls under way in other threads fail with ClosedError."""
        if isinstance(self._closed, ForkedError):
            raise self._closed
        check_may_wait()
        self._closed = self._closed or ClosedError()
        forget(self)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(self._calls.close())

    def metrics(self) -> AdminMetrics:
        """Return a snapshot under Kafka's metric names; `.prometheus()` is the same as text. For any thread."""
        if self._closed is not None:
            raise self._closed
        return self._calls.metrics()

    def _close_at_exit(self) -> None:
        self.close()

    def _run(self, call: Coroutine[Any, Any, R]) -> R:
        try:
            if self._closed is not None:
                raise self._closed
            check_may_wait()
            with self._starting:
                if self._thread is None:
                    # The call connects, within its own limit.
                    self._thread = LoopThread("ottla-admin")
                    register(self)
                thread = self._thread
        except BaseException:
            call.close()
            raise
        try:
            return thread.run(call)
        finally:
            if self._calls._closed is not None and self._closed is None:
                self.close()  # no connection came about

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is not None and self._closed is None:
            self._closed = ClosedError()
            warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)
            thread.stop_soon(self._calls.close())
