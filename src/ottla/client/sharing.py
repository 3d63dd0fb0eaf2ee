"""What the blocking and the asynchronous share consumer have in common: configuration, core, records on their way to the
caller, acknowledgements. Not waiting.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic

from ottla.client._core.share_consumer import ShareMachine
from ottla.client._core.share_leases import Lease, LeaseState, Outcome
from ottla.client._core.share_requests import Kind
from ottla.client._snapshots import share_snapshot, telemetry
from ottla.client.acquired import AcquiredRecord, decode
from ottla.client.connecting import channel_settings, not_connected
from ottla.client.consumed import Deserializer, K, V
from ottla.client.consuming import StoppingOn, _function, topic_names
from ottla.client.errors import ClosedError, ConfigurationError
from ottla.client.keys import Duration, duration_s
from ottla.client.metrics import ShareConsumerMetrics
from ottla.client.producing import clients
from ottla.client.runtime import Runtime
from ottla.client.share_settings import share_settings
from ottla.clock import SystemClock
from ottla.errors import KafkaError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    import ssl

    from ottla.sasl import Sasl

logger: logging.Logger = logging.getLogger("ottla.client.share")

#: Called with a partition, offsets, and None or why the broker did not take what was said of them.
OnAcknowledged = Callable[[TopicPartition, list[int], KafkaError | None], object]


class ShareConsumerBase(Generic[K, V]):
    """One share consumer's configuration and core. Not for use by itself."""

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None,
        *,
        topics: Iterable[str] | None,
        on_acknowledged: OnAcknowledged | None,
        max_processing: Duration,
        key_deserializer: Deserializer[K] | None,
        value_deserializer: Deserializer[V] | None,
        ssl_context: ssl.SSLContext | None,
        sasl: Sasl | None,
        connect_timeout: Duration,
        config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        lock: AbstractContextManager[object],
    ) -> None:
        self._closed: KafkaError | None = None
        self._topics = topic_names(topics)
        self._on_acknowledged = on_acknowledged
        self._connect_timeout_s = duration_s("connect_timeout", connect_timeout)
        self._client, settings, self._bounds = share_settings(
            bootstrap_servers,
            config,
            options,
            max_processing_ms=duration_s("max_processing", max_processing) * 1000,
            ssl_context=ssl_context,
            sasl=sasl,
            environment=os.environ,
        )
        self._deserialize_key = _function(key_deserializer)
        self._deserialize_value = _function(value_deserializer)
        self._lock = lock
        self._machine = ShareMachine(settings, self._client.bootstrap, random.Random())
        self._runtime: Runtime | None = None
        self._stopping = False
        #: Decoded, and not handed out yet.
        self._decoded: deque[AcquiredRecord[K, V]] = deque()
        #: What the caller got last: asking for more accepts it.
        self._at_hand: list[AcquiredRecord[K, V]] = []
        #: What went wrong beside records that are handed out first.
        self._deferred: Exception | None = None
        clients.add(self)

    # -- life -------------------------------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str]) -> None:
        """Read these topics from now on, instead of those before."""
        self._check_usable()
        self._topics = topic_names(topics)
        if not self._topics:
            raise ConfigurationError("A share consumer reads one topic at least.", "close() leaves the group.")
        if self._runtime is not None:
            with self._lock:
                self._machine.subscribe(self._topics, self._runtime.now_ms())
            self._wake()

    def stop(self) -> None:
        """End loops over this consumer after the record they have. For any thread, and for signal handlers."""
        self._stopping = True
        self._wake_waiter()

    def stopping_on(self, *signals: int) -> StoppingOn:
        """Return a context in which these signals call `stop()`; the main thread's only."""
        return StoppingOn(self.stop, signals)

    def _check_usable(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _make_runtime(self) -> Runtime:
        """Return the runtime, on the running loop."""
        if not self._topics:
            raise ConfigurationError("A share consumer reads one topic at least.", "Pass topics=, or call subscribe().")
        pushes = telemetry(
            self._client,
            self._machine.connections,
            self._snapshot,
            self._described,
            self._machine.random,
            SystemClock().wall_ms,
        )
        return Runtime(self._machine, channel_settings(self._client), self._lock, telemetry=pushes)

    def _begin(self, runtime: Runtime) -> None:
        self._runtime = runtime
        with self._lock:
            self._machine.subscribe(self._topics, runtime.now_ms())

    def _not_connected(self) -> KafkaError:
        return not_connected(self._machine.connections, self._client, self._connect_timeout_s)

    def _end(self) -> None:
        self._closed = ClosedError()
        self._decoded.clear()
        self._at_hand.clear()

    def _wake_waiter(self) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        raise NotImplementedError

    # -- acknowledgements -------------------------------------------------------------------------------------------

    def _acknowledge(self, lease: Lease, kind: Kind) -> None:
        self._check_usable()
        runtime = self._runtime
        assert runtime is not None
        with self._lock:
            urgent = self._machine.sessions.acknowledge(lease, kind, runtime.now_ms())
        if urgent:
            self._wake()

    def _hold(self, lease: Lease) -> None:
        with self._lock:
            urgent = self._machine.sessions.hold(lease)
        if urgent:
            self._wake()

    def _begin_call(self) -> None:
        """The caller asks for more: what it has is accepted.

        Raises:
            Exception: what was found beside records that were handed out before.
        """
        at_hand, self._at_hand = self._at_hand, []
        if self._bounds.implicit:
            for record in at_hand:
                if record._lease.state is LeaseState.HANDED_OUT:
                    self._acknowledge(record._lease, Kind.ACCEPT)
        error, self._deferred = self._deferred, None
        if error is not None:
            raise error

    def _outcomes(self) -> list[Outcome]:
        """Return what has become of acknowledgements since the last call; failures are in the log then."""
        waiting = self._machine.sessions.outcomes
        if not waiting:
            return []
        with self._lock:
            found = list(waiting)
            waiting.clear()
        for where, offsets, error in found:
            if error is not None:
                logger.warning("%s: offsets %s were not acknowledged: %s", where, _listed(offsets), error)
        return found

    def _flush(self, flushing: bool) -> None:
        """Have what is acknowledged sent at once, for as long as the caller waits for that."""
        with self._lock:
            self._machine.sessions.flushing = flushing
        if flushing:
            self._wake()

    def _settled(self) -> bool:
        return self._machine.sessions.settled

    def _farewell(self) -> None:
        """End the sessions and leave the group."""
        with self._lock:
            self._machine.close()
        self._wake()

    def _left(self) -> bool:
        return self._machine.closed

    # -- records ----------------------------------------------------------------------------------------------------

    def _take(self, *, hold: bool = False) -> AcquiredRecord[K, V] | None:
        """Return the next record whose lock is ours, or None if none is at hand.

        Raises:
            KafkaError: the group's or a partition's; the next call goes on.
        """
        while True:
            while self._decoded:
                record = self._decoded.popleft()
                with self._lock:
                    ours = self._machine.sessions.hand_out(record._lease, hold=hold)
                if ours:
                    return record
            with self._lock:
                self._machine.check()
                chunk = self._machine.sessions.take()
            if chunk is None:
                return None
            decoded = decode(chunk, self, self._deserialize_key, self._deserialize_value)
            self._decoded.extend(decoded.records)
            runtime = self._runtime
            assert runtime is not None
            with self._lock:
                for kind, leases in (
                    (Kind.GAP, decoded.gaps),
                    (Kind.REJECT, decoded.damaged),
                    (Kind.RELEASE, decoded.left),
                ):
                    for lease in leases:
                        if lease.state is LeaseState.WAITING:
                            self._machine.sessions.acknowledge(lease, kind, runtime.now_ms(), by_caller=False)
            if decoded.error is not None:
                if not decoded.records:
                    raise decoded.error
                self._deferred = decoded.error

    def _want(self, count: int, waiter: Callable[[], object] | None = None) -> None:
        """The caller waits for so many records, and `waiter` is to be called when there is news; 0: it does not wait."""
        with self._lock:
            self._machine.sessions.wanted = count
            if waiter is not None and waiter not in self._machine.waiters:
                self._machine.waiters.append(waiter)
        if count:
            self._wake()

    def metrics(self) -> ShareConsumerMetrics:
        """Return a snapshot under Kafka's metric names: records acquired, acknowledgements sent, those that were refused.

        `.prometheus()` is the same as text. For any thread.
        """
        self._check_usable()
        return self._snapshot()

    def _snapshot(self) -> ShareConsumerMetrics:
        with self._lock:
            return share_snapshot(self._machine, self._client.client_id)

    def _described(self) -> list[tuple[str, str]]:
        """Return what describes this client to the broker that its metrics are pushed to; names of KIP-714."""
        with self._lock:
            membership = self._machine.membership
            found = [
                ("group_id", membership.group_id),
                ("group_member_id", membership.member_id),
                ("client_rack", membership.rack),
            ]
        return [(name, value) for name, value in found if value]


def _listed(offsets: list[int]) -> str:
    return ", ".join(map(str, offsets[:10])) + (f" and {len(offsets) - 10} more" if len(offsets) > 10 else "")
