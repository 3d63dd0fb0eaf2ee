"""Metrics that a client pushes where brokers ask for them (KIP-714): when it asks what is wanted, when it pushes, what.

Stands beside a client's core and shares its connections: it dials nobody, so a client whose brokers want no metrics pays
nothing. Rules of Kafka's ClientTelemetryReporter: the first push comes after half to one and a half intervals, so that
clients spread themselves out; an answer that says "not like this" ends it for good, one that says "no longer this" leads
to the next question at once; the last push, when the client ends, may come at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from ottla.client._core.operation import Operation
from ottla.client._core.otlp import Metric, encode
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from ottla.protocol.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse
from ottla.protocol.records.compression import compress
from ottla.protocol.schema import Message
from ottla.types import ZERO_UUID, CompressionType

if TYPE_CHECKING:
    from random import Random

    from ottla.client._core.connections import Connections

PURPOSE: Final = "telemetry"
#: When to ask again after a failure, and where nothing is wanted and the broker says nothing better.
INTERVAL_MS: Final = 300_000.0

_ASK_AT_ONCE: Final = (ErrorCode.UNKNOWN_SUBSCRIPTION_ID, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
_NEVER_AGAIN: Final = (ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_RECORD, ErrorCode.UNSUPPORTED_VERSION)
#: Requested metrics that mean all of them.
_ALL: Final = ("", "*")


class Snapshot(NamedTuple):
    """What a client has to push: its metrics, and what describes it beside what brokers know (its group)."""

    metrics: Sequence[Metric]
    resource: Sequence[tuple[str, str]] = ()


class Telemetry:
    """What one client pushes.

    Attributes:
        instance_id: what brokers call this client; zeros until one has answered.
        pushed: how many pushes were accepted.
    """

    pushed: int

    def __init__(
        self,
        connections: Connections,
        collect: Callable[[], Snapshot],
        random: Random,
        wall_ms: Callable[[], int],
        *,
        request_timeout_ms: float,
    ) -> None:
        self.instance_id: bytes = ZERO_UUID
        self.pushed = 0
        self._connections = connections
        self._collect = collect
        self._random = random
        self._wall_ms = wall_ms
        self._request_timeout_ms = request_timeout_ms
        self._subscription: GetTelemetrySubscriptionsResponse | None = None
        self._due_ms = 0.0
        self._in_flight = False
        self._ended = False
        self._farewell: Operation | None = None
        self._since_ms = wall_ms()
        #: What sums were at the last push that was accepted, and what they are in the one under way.
        self._sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._sums_sent: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._sent_ms = 0

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        """Add what is to be sent now; return when to look again at the latest."""
        if self._ended or self._in_flight:
            return FOREVER
        if self._due_ms > now_ms:
            return self._due_ms
        pushes = self._wants_metrics
        key = ApiKey.PUSH_TELEMETRY if pushes else ApiKey.GET_TELEMETRY_SUBSCRIPTIONS
        node_id = self._connections.serving(key)
        if node_id is None:
            return FOREVER  # the next connection may be to one that does
        self._in_flight = True
        send = Send(
            PURPOSE,
            node_id,
            key,
            self._connections.version(node_id, key) or 0,
            self._make_push if pushes else self._make_question,
            timeout_ms=self._request_timeout_ms,
        )
        send.on_answer = self._on_pushed if pushes else self._on_subscription
        send.on_failure = self._on_failure
        send.generation = self._connections.on_sent(node_id, now_ms)
        actions.append(send)
        return FOREVER

    def end(self) -> Operation | None:
        """The client ends: have a last push sent; return what is done then, None if nothing is to be sent."""
        if self._ended or self._farewell is not None or self._in_flight or not self._wants_metrics:
            return None
        if self._connections.serving(ApiKey.PUSH_TELEMETRY) is None:
            return None
        self._farewell = Operation("last push")
        self._due_ms = 0.0
        return self._farewell

    @property
    def _wants_metrics(self) -> bool:
        return self._subscription is not None and bool(self._subscription.requested_metrics)

    def _make_question(self, version: int) -> Message:
        return GetTelemetrySubscriptionsRequest(client_instance_id=self.instance_id)

    def _make_push(self, version: int) -> Message:
        asked = self._subscription
        assert asked is not None
        snapshot = self._collect()
        wanted = [metric for metric in snapshot.metrics if _is_wanted(metric.name, asked.requested_metrics)]
        self._sums_sent = {(each.name, each.attributes): each.value for each in wanted if each.is_sum}
        self._sent_ms = self._wall_ms()
        if asked.delta_temporality:
            wanted = [
                each._replace(value=each.value - self._sums.get((each.name, each.attributes), 0.0))
                if each.is_sum
                else each
                for each in wanted
            ]
        data = encode(
            wanted,
            snapshot.resource,
            start_ms=self._since_ms,
            now_ms=self._sent_ms,
            delta=asked.delta_temporality,
        )
        codec = next((CompressionType(each) for each in asked.accepted_compression_types if each in _CODECS), None)
        if codec is not None:
            data = compress(codec, data)
        return PushTelemetryRequest(
            client_instance_id=self.instance_id,
            subscription_id=asked.subscription_id,
            terminating=self._farewell is not None,
            compression_type=codec or CompressionType.NONE,
            metrics=data if len(data) <= asked.telemetry_max_bytes else b"",
        )

    # -- what happened ----------------------------------------------------------------------------------------------

    def on_response(self, send: Send, response: Message, now_ms: float) -> list[Callable[[], object]]:
        """An answer came; return whom to call."""
        self._connections.on_answered(send.node_id, send.generation)
        assert send.on_answer is not None
        send.on_answer(send, response, now_ms)
        return self._told()

    def on_failed(self, send: Send, error: Exception, now_ms: float) -> list[Callable[[], object]]:
        """A request got no answer; return whom to call."""
        self._connections.on_answered(send.node_id, send.generation)
        assert send.on_failure is not None
        send.on_failure(send, error, now_ms)
        return self._told()

    def _told(self) -> list[Callable[[], object]]:
        if self._farewell is None or self._in_flight:
            return []
        self._ended = True
        return self._farewell.finish()

    def _on_subscription(self, send: Send, message: Message, now_ms: float) -> None:
        response = cast(GetTelemetrySubscriptionsResponse, message)
        self._in_flight = False
        if response.error_code:
            self._on_refused(response.error_code, now_ms)
            return
        if response.client_instance_id != ZERO_UUID:
            self.instance_id = response.client_instance_id
        self._subscription = response
        interval_ms = response.push_interval_ms if response.push_interval_ms > 0 else INTERVAL_MS
        self._due_ms = now_ms + interval_ms * (0.5 + self._random.random() if response.requested_metrics else 1.0)

    def _on_pushed(self, send: Send, message: Message, now_ms: float) -> None:
        response = cast(PushTelemetryResponse, message)
        self._in_flight = False
        if response.error_code:
            self._on_refused(response.error_code, now_ms)
            return
        self.pushed += 1
        self._sums.update(self._sums_sent)
        asked = self._subscription
        if asked is not None:
            if asked.delta_temporality:
                self._since_ms = self._sent_ms
            self._due_ms = now_ms + asked.push_interval_ms

    def _on_refused(self, code: int, now_ms: float) -> None:
        """Ask again what is wanted, at once or in a while."""
        asked, self._subscription = self._subscription, None
        interval_ms = asked.push_interval_ms if asked is not None and asked.push_interval_ms > 0 else INTERVAL_MS
        self._due_ms = now_ms if code in _ASK_AT_ONCE else now_ms + interval_ms
        self._ended = code in _NEVER_AGAIN

    def _on_failure(self, send: Send, error: Exception, now_ms: float) -> None:
        self._in_flight = False
        self._on_refused(ErrorCode.NETWORK_EXCEPTION, now_ms)


_CODECS: Final = frozenset(CompressionType) - {CompressionType.NONE}


def _is_wanted(name: str, requested: Sequence[str]) -> bool:
    """Whether a metric's name begins with one of those that are asked for."""
    return any(each in _ALL or name.startswith(each) for each in requested)
