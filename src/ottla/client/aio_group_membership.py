"""The asynchronous member of a group of any protocol type: `ottla.aio.GroupMembership`."""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ottla.client._core.classic_member import JoinedMember, MemberSettings
from ottla.client._core.plain_group import MembershipEvent, PlainGroup, PlainSettings
from ottla.client.config import SecurityOptions, read_keys, shared_settings
from ottla.client.connecting import channel_settings, not_connected
from ottla.client.errors import ClosedError, ConfigurationError, ForkedError
from ottla.client.grouping import CLOSE_TIMEOUT_INTERRUPTED_S
from ottla.client.keys import CONSUMER_ELSEWHERE, MEMBERSHIP_KEYS, Duration, Milliseconds, duration_s
from ottla.client.producing import clients
from ottla.client.runtime import Runtime
from ottla.errors import KafkaError

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.sasl import Sasl

#: (name, metadata) of each protocol that a member knows, the best first.
Protocols = Sequence[tuple[str, bytes]]
#: Called on the leader with the protocol and all members: what each gets, by member id.
Assign = Callable[[str, Sequence[JoinedMember]], Mapping[str, bytes]]


class MembershipOptions(SecurityOptions, total=False):
    """The keys of a group's member as keywords; docs/client.md says what each does."""

    client_id: str
    connections_max_idle_ms: Milliseconds
    enable_metrics_push: bool
    group_id: str
    group_instance_id: str
    heartbeat_interval_ms: Milliseconds
    max_poll_interval_ms: Milliseconds
    metadata_max_age_ms: Milliseconds
    metadata_recovery_strategy: str
    reconnect_backoff_max_ms: Milliseconds
    reconnect_backoff_ms: Milliseconds
    request_timeout_ms: Milliseconds
    retry_backoff_max_ms: Milliseconds
    retry_backoff_ms: Milliseconds
    security_protocol: str
    session_timeout_ms: Milliseconds
    socket_connection_setup_timeout_ms: Milliseconds


class GroupMembership:
    """A member of a classic group of any protocol type. Heartbeats go on by themselves.

        async with ottla.aio.GroupMembership(group_id="workers", protocol_type="work",
                                             protocols=[("v1", b"me")], assign=share_out) as member:
            match await member.wait():
                case ottla.Joined(assignment=mine): ...
                case ottla.Rebalancing(): ...   # give up what others may get; the next wait() joins
                case ottla.Lost(): ...          # others may have it already; the member joins again by itself

    The arguments are those of `ottla.GroupMembership`. Making one binds no event loop; `start()` or `async with` does.

    Raises:
        ConfigurationError: a key is unknown, or a value cannot be.
    """

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None = None,
        *,
        protocol_type: str,
        protocols: Protocols | Callable[[], Protocols],
        assign: Assign,
        ssl_context: ssl.SSLContext | None = None,
        sasl: Sasl | None = None,
        connect_timeout: Duration = 10.0,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[MembershipOptions],
    ) -> None:
        self._closed: KafkaError | None = None
        self._runtime: Runtime | None = None
        self._starting: asyncio.Task[None] | None = None
        self._connect_timeout_s = duration_s("connect_timeout", connect_timeout)
        self._client, _, values = read_keys(
            bootstrap_servers,
            config,
            options,
            MEMBERSHIP_KEYS,
            CONSUMER_ELSEWHERE,
            ssl_context=ssl_context,
            sasl=sasl,
            environment=os.environ,
        )
        if not values["group.id"] or not protocol_type:
            raise ConfigurationError("A membership needs group_id= and protocol_type=.")
        member = MemberSettings(
            values["group.id"],
            protocol_type,
            values["group.instance.id"],
            values["session.timeout.ms"],
            values["max.poll.interval.ms"],
            values["heartbeat.interval.ms"],
        )
        fixed = protocols if callable(protocols) else list(protocols)
        self._machine = PlainGroup(
            PlainSettings(member=member, **shared_settings(values)),
            self._client.bootstrap,
            random.Random(),
            fixed if callable(fixed) else lambda: fixed,
            assign,
        )
        clients.add(self)

    async def start(self) -> None:
        """Connect, and begin to join. `async with`, or the first call, does it.

        Raises:
            KafkaError: the connection did not come about within `connect_timeout`; the text says why.
        """
        if self._closed is not None:
            raise self._closed
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        runtime = self._runtime = Runtime(self._machine, channel_settings(self._client), nullcontext())
        self._machine.join()
        runtime.wake()
        connected = asyncio.Event()
        runtime.connected.callbacks.append(connected.set)
        try:
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    await connected.wait()
            except TimeoutError:
                raise not_connected(self._machine.connections, self._client, self._connect_timeout_s) from None
            if runtime.connected.error is not None:
                raise runtime.connected.error
        except BaseException:
            self._closed = ClosedError()
            await runtime.stop()
            raise

    async def wait(self, timeout: Duration | None = None) -> MembershipEvent | None:
        """Return what happens next; None after `timeout` seconds. A cancelled wait loses nothing.

        Raises:
            KafkaError: the member cannot join, or is shut out; the next call tries again where that may help.
        """
        await self.start()
        limit_s = None if timeout is None else duration_s("timeout", timeout)
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    if self._closed is not None:
                        raise self._closed
                    event = self._machine.take()
                    if event is not None:
                        return event
                    news = asyncio.Event()
                    self._machine.waiters.append(news.set)
                    self._wake()
                    await news.wait()
        except TimeoutError:
            return None

    @property
    def confirmed_at(self) -> float | None:
        """When the last request was sent that the coordinator has answered as it answers a member, by `time.monotonic()`.

        Until `session.timeout.ms` after that nobody else has what the member was given. None before the first answer.
        """
        confirmed_ms = self._machine.member.confirmed_ms
        return None if confirmed_ms is None else confirmed_ms / 1000

    @property
    def generation_id(self) -> int:
        """The generation that the member is part of, in `assign` the one that begins; -1 without."""
        return self._machine.member.generation_id

    async def rejoin(self, reason: str = "the program asked for it") -> None:
        """Have the group rebalance: what this member tells the others has changed, for example."""
        await self.start()
        self._machine.rejoin(reason)
        self._wake()

    async def close(self, timeout: Duration | None = None) -> None:
        """Leave the group, and end. A static member only goes away: it may come back (KIP-345).

        Args:
            timeout: seconds for the farewell; 5 at most by default.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        if self._closed is not None:
            return
        limit_s = CLOSE_TIMEOUT_INTERRUPTED_S if timeout is None else duration_s("timeout", timeout)
        runtime = self._runtime
        try:
            if runtime is not None and runtime.connected.done:
                self._machine.leave("the program ends")
                async with asyncio.timeout(limit_s):
                    while not self._machine.member.left:
                        news = asyncio.Event()
                        self._machine.waiters.append(news.set)
                        self._wake()
                        await news.wait()
        except TimeoutError:
            pass
        finally:
            self._closed = ClosedError()
            self._machine.wake()
            if runtime is not None:
                await runtime.stop()

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()

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
