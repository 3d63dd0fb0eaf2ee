"""The asynchronous admin client: `ottla.aio.Admin`. It belongs to the event loop that started it."""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ottla.client._core.asking import AskMachine
from ottla.client._snapshots import admin_snapshot, telemetry
from ottla.client.admin_cluster import ClusterCalls
from ottla.client.admin_configs import ConfigCalls
from ottla.client.admin_offsets import OffsetCalls
from ottla.client.admin_security import SecurityCalls
from ottla.client.admin_settings import AdminOptions, admin_settings
from ottla.client.admin_transactions import TransactionCalls
from ottla.client.connecting import channel_settings, not_connected
from ottla.client.errors import ClosedError, ForkedError
from ottla.client.keys import Duration, duration_s
from ottla.client.metrics import AdminMetrics
from ottla.client.producing import clients
from ottla.client.runtime import Runtime
from ottla.clock import SystemClock
from ottla.errors import KafkaError

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.sasl import Sasl


#: How long a first connection may take, when nothing else is said.
CONNECT_TIMEOUT_S: Final = 10.0
#: Then it is also given up when each address was dialled so often in vain, about a second if nothing listens there.
TRIES_MAX: Final = 5
_LOOK_S: Final = 0.05


class Admin(OffsetCalls, ConfigCalls, TransactionCalls, ClusterCalls, SecurityCalls):
    """Creates, describes, changes and deletes what a cluster has: topics, groups, configurations, transactions, access.

        async with ottla.aio.Admin("localhost:9092") as admin:
            await admin.create_topic("orders", partitions=6, configs={"retention.ms": "1d"}, exists_ok=True)

    The arguments are those of `ottla.Admin`. Making one binds no event loop; `start()` or `async with` does.

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
        self._made: dict[str, None] = {}
        self._runtime: Runtime | None = None
        self._starting: asyncio.Task[None] | None = None
        self._gives_up_early = connect_timeout is None
        self._connect_timeout_s = (
            CONNECT_TIMEOUT_S if connect_timeout is None else duration_s("connect_timeout", connect_timeout)
        )
        self._client, self._settings = admin_settings(
            bootstrap_servers, config, options, ssl_context=ssl_context, sasl=sasl, environment=os.environ
        )
        self._random = random.Random()
        self._machine = AskMachine(self._settings, self._client.bootstrap, self._random)
        clients.add(self)

    async def start(self) -> None:
        """Connect. `async with`, or the first call, does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        if self._closed is not None:
            raise self._closed
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
            # A call with a limit of its own may have gone before it fails.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        pushes = telemetry(
            self._client,
            self._machine.connections,
            self._snapshot,
            self._described,
            self._random,
            SystemClock().wall_ms,
        )
        runtime = Runtime(self._machine, channel_settings(self._client), nullcontext(), telemetry=pushes)
        self._runtime = runtime
        runtime.wake()
        try:
            if not await self._connected(runtime):
                raise not_connected(self._machine.connections, self._client, self._connect_timeout_s)
            if runtime.connected.error is not None:
                raise runtime.connected.error
        except BaseException:
            await self.close()
            raise

    async def _connected(self, runtime: Runtime) -> bool:
        """Wait for a first connection; return whether it came about, or failed for good."""
        connected = asyncio.Event()
        runtime.connected.callbacks.append(connected.set)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._connect_timeout_s
        while not runtime.connected.done and loop.time() < deadline_s:
            if self._gives_up_early and self._machine.connections.refused(TRIES_MAX):
                break
            try:
                async with asyncio.timeout_at(min(deadline_s, loop.time() + _LOOK_S)):
                    await connected.wait()
            except TimeoutError:
                pass
        return runtime.connected.done

    async def close(self) -> None:
        """End: calls under way fail with ClosedError."""
        if isinstance(self._closed, ForkedError):
            raise self._closed
        self._closed = ClosedError()
        if self._starting is not None and self._starting is not asyncio.current_task():
            self._starting.cancel()
        self._machine.fail_all(self._closed)
        if self._runtime is not None:
            await self._runtime.stop()

    def metrics(self) -> AdminMetrics:
        """Return a snapshot under Kafka's metric names; `.prometheus()` is the same as text."""
        if self._closed is not None:
            raise self._closed
        return self._snapshot()

    def _snapshot(self) -> AdminMetrics:
        return admin_snapshot(self._machine, self._client.client_id)

    def _described(self) -> list[tuple[str, str]]:
        """Return what describes this client to the broker that its metrics are pushed to: nothing but what it knows."""
        return []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if getattr(self, "_runtime", None) is not None and self._closed is None:
            self._closed = ClosedError()
            warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)
