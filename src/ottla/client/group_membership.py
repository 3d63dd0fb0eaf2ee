"""The blocking member of a group of any protocol type: `ottla.GroupMembership`. A thread of its own keeps it a member."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ottla.client._core.plain_group import MembershipEvent
from ottla.client.aio_group_membership import Assign, MembershipOptions, Protocols
from ottla.client.aio_group_membership import GroupMembership as AsyncGroupMembership
from ottla.client.background import LoopThread, check_may_wait, forget, register
from ottla.client.errors import ClosedError, ForkedError
from ottla.client.keys import Duration
from ottla.client.producing import clients
from ottla.errors import KafkaError

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.sasl import Sasl

R = TypeVar("R")


class GroupMembership:
    """A member of a classic group of any protocol type. Heartbeats go on by themselves.

        with ottla.GroupMembership(group_id="workers", protocol_type="work",
                                   protocols=[("v1", b"me")], assign=share_out) as member:
            match member.wait():
                case ottla.Joined(assignment=mine): ...
                case ottla.Rebalancing(): ...   # give up what others may get; the next wait() joins
                case ottla.Lost(): ...          # others may have it already; the member joins again by itself

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        protocol_type: what kind of group it is; all members have the same ("consumer" is that of consumers).
        protocols: (name, metadata) of each protocol that this member knows, the best first; or a function that returns
            them, called at each join. The metadata reaches the leader's `assign`.
        assign: called on the leader with the protocol that was chosen and the members; returns what each gets, by member id.
            It and `protocols` run on the client's own thread, and may not wait.
        ssl_context, sasl, connect_timeout, config: as for `ottla.Consumer`. `max_poll_interval_ms` is how long a rebalance
            waits for this member.

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
        self._thread: LoopThread | None = None
        self._calls = AsyncGroupMembership(
            bootstrap_servers,
            protocol_type=protocol_type,
            protocols=protocols,
            assign=assign,
            ssl_context=ssl_context,
            sasl=sasl,
            connect_timeout=connect_timeout,
            config=config,
            **options,
        )
        clients.add(self)

    def start(self) -> None:
        """Connect, and begin to join. `with`, or the first call, does it.

        Raises:
            KafkaError: the connection did not come about within `connect_timeout`; the text says why.
        """
        if self._closed is not None:
            raise self._closed
        check_may_wait()
        if self._thread is not None:
            return
        thread = LoopThread("ottla-membership")
        try:
            thread.run(self._calls.start())
        except BaseException:
            self._closed = ClosedError()
            thread.stop(self._calls.close())
            raise
        self._thread = thread
        register(self)

    def wait(self, timeout: Duration | None = None) -> MembershipEvent | None:
        """Return what happens next; None after `timeout` seconds. An interrupted wait loses nothing.

        Raises:
            KafkaError: the member cannot join, or is shut out; the next call tries again where that may help.
        """
        return self._run(self._calls.wait(timeout))

    @property
    def confirmed_at(self) -> float | None:
        """When the last request was sent that the coordinator has answered as it answers a member, by `time.monotonic()`.

        Until `session.timeout.ms` after that nobody else has what the member was given. None before the first answer.
        """
        return self._calls.confirmed_at

    @property
    def generation_id(self) -> int:
        """The generation that the member is part of, in `assign` the one that begins; -1 without."""
        return self._calls.generation_id

    def rejoin(self, reason: str = "the program asked for it") -> None:
        """Have the group rebalance: what this member tells the others has changed, for example."""
        self._run(self._calls.rejoin(reason))

    def close(self, timeout: Duration | None = None) -> None:
        """Leave the group, and end. A static member only goes away: it may come back (KIP-345).

        Args:
            timeout: seconds for the farewell; 5 at most by default.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        check_may_wait()
        self._closed = self._closed or ClosedError()
        forget(self)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(self._calls.close(timeout))

    def _close_at_exit(self) -> None:
        self.close()

    def _run(self, call: Coroutine[Any, Any, R]) -> R:
        try:
            self.start()
        except BaseException:
            call.close()
            raise
        assert self._thread is not None
        return self._thread.run(call)

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
