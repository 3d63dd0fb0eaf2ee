"""Client metrics: GetTelemetrySubscriptions (key 71, version 0), PushTelemetry (72, 0); KIP-714.

What is pushed is shown on /metrics. Both APIs are announced only while that is wanted: there is a client-metrics
configuration, or `ottla.client.telemetry.enable` says so. As in Kafka they are answered even when they are not announced.

Where we differ from Apache Kafka: it hands a payload to a plug-in and announces the APIs if it has one; we read it, so that
one that is no OTLP gets INVALID_RECORD. An instance is not forgotten when its connection ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.context import Route
from ottla.broker.telemetry.instances import EXPIRY_MS_MIN, ClientInstance, ClientInstances
from ottla.broker.telemetry.otlp import OtlpError, Payload, parse
from ottla.broker.telemetry.series import PushedMetrics
from ottla.broker.telemetry.subscriptions import ClientAttributes, attributes_of, parse_subscription
from ottla.cluster.image import CLIENT_METRICS
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from ottla.protocol.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse
from ottla.protocol.records.compression import DecompressionError, decompress, unpacked_size_max
from ottla.types import ZERO_UUID, CompressionType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from random import Random

    from ottla.broker.context import RequestContext, Routes
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage
    from ottla.offload import Offload

#: What clients may compress with, best first, in Kafka's order.
ACCEPTED = [CompressionType.ZSTD, CompressionType.LZ4, CompressionType.GZIP, CompressionType.SNAPPY]

#: Payloads that may be larger than this are unpacked and read off the loop: 64 KiB take some ten milliseconds.
READ_ON_LOOP_MAX = 16 << 10

SWEEP_INTERVAL_MS = 5_000


class TelemetryHandlers:
    """Answers clients, and keeps what they push for /metrics."""

    def __init__(
        self, clock: Clock, random: Random, offload: Offload, *, telemetry_max_bytes: int, always: bool
    ) -> None:
        self._clock = clock
        self._random = random
        self._offload = offload
        self._always = always
        self._has_subscriptions = False
        self._max_bytes = telemetry_max_bytes
        self._instances = ClientInstances(telemetry_max_bytes)
        self._pushed = PushedMetrics()
        self._next_sweep_ms = 0

    def routes(self) -> Routes:
        return {
            ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: Route(self.handle_get_telemetry_subscriptions),
            ApiKey.PUSH_TELEMETRY: Route(self.handle_push_telemetry),
        }

    def is_wanted(self) -> bool:
        """Whether ApiVersions lists these APIs."""
        return self._always or self._has_subscriptions

    def on_configs(self, image: ClusterImage) -> None:
        """Client-metrics configurations have changed."""
        found = [config for resource, config in sorted(image.configs.items()) if resource.kind == CLIENT_METRICS]
        self._has_subscriptions = bool(found)
        self._instances.change_subscriptions(parse_subscription(config) for config in found)

    def handle_get_telemetry_subscriptions(
        self, context: RequestContext, request: GetTelemetrySubscriptionsRequest
    ) -> GetTelemetrySubscriptionsResponse:
        now_ms = self._clock.monotonic_ms()
        self._maybe_expire(now_ms)
        instance_id = request.client_instance_id
        while instance_id == ZERO_UUID or (request.client_instance_id == ZERO_UUID and instance_id in self._instances):
            instance_id = self._random.randbytes(16)
        error, instance = self._instances.on_get(instance_id, _attributes(context, instance_id), now_ms)
        if error is not ErrorCode.NONE:
            return GetTelemetrySubscriptionsResponse(error_code=error)
        return GetTelemetrySubscriptionsResponse(
            client_instance_id=instance_id,
            subscription_id=instance.selection.subscription_id,
            accepted_compression_types=list(ACCEPTED),
            push_interval_ms=instance.selection.push_interval_ms,
            telemetry_max_bytes=self._max_bytes,
            delta_temporality=True,
            requested_metrics=list(instance.selection.metrics),
        )

    def handle_push_telemetry(
        self, context: RequestContext, request: PushTelemetryRequest
    ) -> PushTelemetryResponse | Awaitable[PushTelemetryResponse]:
        now_ms = self._clock.monotonic_ms()
        self._maybe_expire(now_ms)
        instance_id = request.client_instance_id
        error, instance = self._instances.on_push(
            instance_id,
            _attributes(context, instance_id),
            now_ms,
            subscription_id=request.subscription_id,
            terminating=request.terminating,
            compression=request.compression_type,
            size=len(request.metrics),
        )
        if error is not ErrorCode.NONE or instance is None or not request.metrics:
            return PushTelemetryResponse(error_code=error)
        codec = CompressionType(request.compression_type)
        data = bytes(request.metrics)  # the frame it lies in is used again
        if unpacked_size_max(codec, data) > READ_ON_LOOP_MAX:
            return self._take_later(instance_id, instance, codec, data)
        return self._take(instance_id, instance, _read(codec, data, self._max_bytes))

    async def _take_later(
        self, instance_id: bytes, instance: ClientInstance, codec: CompressionType, data: bytes
    ) -> PushTelemetryResponse:
        payload = await self._offload.run(_read, codec, data, self._max_bytes)
        return self._take(instance_id, instance, payload)

    def _take(self, instance_id: bytes, instance: ClientInstance, payload: Payload | None) -> PushTelemetryResponse:
        if payload is None:
            self._pushed.bad_pushes += 1
            self._instances.on_bad_payload(instance_id)
            return PushTelemetryResponse(error_code=ErrorCode.INVALID_RECORD)
        now_ms = self._clock.monotonic_ms()
        # The last words of a client stay long enough to be scraped.
        shown_ms = EXPIRY_MS_MIN if instance.terminating else 3 * instance.selection.push_interval_ms
        expires_ms = now_ms + max(EXPIRY_MS_MIN, shown_ms)
        self._pushed.update(instance_id, instance.attributes, payload, now_ms, expires_ms)
        return PushTelemetryResponse()

    def _maybe_expire(self, now_ms: int) -> None:
        # Not at every request: it looks at all clients.
        if now_ms >= self._next_sweep_ms:
            self._expire(now_ms)

    def _expire(self, now_ms: int) -> None:
        self._next_sweep_ms = now_ms + SWEEP_INTERVAL_MS
        self._instances.expire(now_ms)
        self._pushed.expire(now_ms)

    # -- /metrics

    def counters(self) -> Iterator[tuple[str, str, str, float]]:
        """Name, kind, help text and value of what is counted about telemetry itself; Kafka's JMX names where it has one."""
        prefix = "kafka_server_client_metrics_"
        pushed = self._pushed
        yield f"{prefix}instance_count", "gauge", "Client instances that asked for subscriptions.", len(self._instances)
        yield (
            f"{prefix}unknown_subscription_request_count",
            "counter",
            "Pushes for a subscription that has changed.",
            self._instances.unknown_subscriptions,
        )
        yield f"{prefix}throttle_count", "counter", "Requests that came too early.", self._instances.throttled
        yield f"{prefix}plugin_export_count", "counter", "Pushes taken.", pushed.pushes
        yield f"{prefix}plugin_error_count", "counter", "Pushes that could not be read.", pushed.bad_pushes
        yield "ottla_client_metrics_shown", "gauge", "Clients whose metrics are shown.", len(pushed)
        yield (
            "ottla_client_metrics_dropped_points_total",
            "counter",
            "Pushed numbers not shown because there are too many.",
            pushed.points_dropped,
        )
        yield (
            "ottla_client_metrics_unread_total",
            "counter",
            "Pushed metrics of kinds that are not shown, such as histograms.",
            pushed.passed_over,
        )

    def client_metrics(self) -> Iterator[bytes]:
        """What clients have pushed, as text for /metrics, in steps."""
        self._expire(self._clock.monotonic_ms())
        yield from self._pushed.render()


def _attributes(context: RequestContext, instance_id: bytes) -> ClientAttributes:
    return attributes_of(
        instance_id,
        context.client_id,
        context.session.software,
        context.session.client_host,
        context.session.client_port,
    )


def _read(codec: CompressionType, data: bytes, bytes_max: int) -> Payload | None:
    """Unpack and read a payload; None if that cannot be done."""
    try:
        return parse(bytes(decompress(codec, data, bytes_max)))
    except (DecompressionError, OtlpError):
        return None
