"""Writes metrics as OpenTelemetry's `MetricsData`, the payload of PushTelemetry (KIP-714), without a library for it.

Gauges and sums with one number a point: what clients have. Source: opentelemetry/proto/metrics/v1/metrics.proto and the
encoding chapter of the protocol buffers documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

_DOUBLE = Struct("<d")
_FIXED64 = Struct("<Q")
_DELTA: Final = 1
_CUMULATIVE: Final = 2


class Metric(NamedTuple):
    """One number.

    Attributes:
        name: as KIP-714 writes it: `org.apache.kafka.consumer.fetch.manager.records.lag.max`.
        is_sum: it only grows.
        attributes: what it is of: ("topic", "orders").
    """

    name: str
    value: float
    is_sum: bool = False
    attributes: tuple[tuple[str, str], ...] = ()


def encode(
    metrics: Iterable[Metric],
    resource: Sequence[tuple[str, str]],
    *,
    start_ms: int,
    now_ms: int,
    delta: bool,
) -> bytes:
    """Return the payload.

    Args:
        resource: what is known of the client: ("group_id", "billing").
        start_ms: since when sums count, milliseconds since 1970.
        now_ms: the same for now.
        delta: sums are what was added since `start_ms`; else since the client began.
    """
    times = _fixed64(2, start_ms * 1_000_000) + _fixed64(3, now_ms * 1_000_000)
    temporality = _DELTA if delta else _CUMULATIVE
    body = []
    for metric in metrics:
        point = times + _tag(4, 1) + _DOUBLE.pack(metric.value)
        point += b"".join(_message(7, _key_value(*pair)) for pair in metric.attributes)
        data = _message(1, point)
        if metric.is_sum:
            data = _message(7, data + _number(2, temporality) + _number(3, 1))
        else:
            data = _message(5, data)
        body.append(_message(2, _text(1, metric.name) + data))
    scope = _message(2, b"".join(body))
    described = _message(1, b"".join(_message(1, _key_value(*pair)) for pair in resource))
    return _message(1, described + scope)


def _key_value(key: str, value: str) -> bytes:
    return _text(1, key) + _message(2, _text(1, value))


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value)


def _fixed64(field: int, value: int) -> bytes:
    return _tag(field, 1) + _FIXED64.pack(value)


def _message(field: int, data: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(data)) + data


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())
