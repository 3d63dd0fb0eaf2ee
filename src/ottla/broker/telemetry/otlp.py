"""Reads what clients push: OpenTelemetry's `MetricsData`, protocol buffers without a library for them.

Of OTLP 1.x the part that Kafka's clients use: gauges and sums with one number a point. Other kinds (histograms, summaries)
are counted and passed over, as are fields of later versions. The `protobuf` and `opentelemetry-proto` packages would be two
megabytes and a tenth of a second of import for six kinds of messages.

Never reads outside the bytes, never takes longer than linear in them; what is not well-formed is an `OtlpError`.
Source: opentelemetry/proto/metrics/v1/metrics.proto and the encoding chapter of the protocol buffers documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

Attributes = tuple[tuple[str, str], ...]

_DOUBLE = Struct("<d")
_SFIXED64 = Struct("<q")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: AggregationTemporality of a sum: since the last push, or since the client's start.
_DELTA = 1

#: Metric.data: gauge, sum; the other kinds are histogram, exponential_histogram and summary.
_GAUGE, _SUM = 5, 7
_OTHER_KINDS = (9, 10, 11)


class OtlpError(ValueError):
    """The bytes are no MetricsData."""


class Point(NamedTuple):
    """One number of one metric.

    Attributes:
        is_counter: a sum that only grows.
        is_delta: `value` is what was added since the last push.
    """

    name: str
    attributes: Attributes
    value: float
    is_counter: bool
    is_delta: bool
    description: str


class Payload(NamedTuple):
    """One push. `resource` describes the client; `passed_over` counts metrics of kinds that are not read."""

    resource: Attributes
    points: list[Point]
    passed_over: int


def parse(data: bytes) -> Payload:
    """Read a payload.

    Raises:
        OtlpError: it is not well-formed.
    """
    resource: Attributes = ()
    points: list[Point] = []
    passed_over = 0
    for resource_metrics in _messages(data, 1):  # MetricsData.resource_metrics
        for field, part in _children(resource_metrics):
            if field == 1:  # ResourceMetrics.resource
                resource += tuple(_attributes(part, 1))
            elif field == 2:  # ResourceMetrics.scope_metrics
                for metric in _messages(part, 2):  # ScopeMetrics.metrics
                    found = _metric(metric)
                    passed_over += found is None
                    points += found or ()
    return Payload(resource, points, passed_over)


def _metric(data: bytes) -> list[Point] | None:
    """Return the points of one Metric; None if it is of a kind that is not read."""
    name = description = ""
    kind = 0
    body = b""
    for field, part in _children(data):
        if field == 1:
            name = _text(part)
        elif field == 2:
            description = _text(part)
        elif field in (_GAUGE, _SUM, *_OTHER_KINDS):
            kind, body = field, part
    if kind in _OTHER_KINDS:
        return None
    is_monotonic = is_delta = False
    rows: list[tuple[Attributes, float]] = []
    for field, wire, value in _fields(body):
        if field == 1 and isinstance(value, bytes) and wire == _BYTES:  # Gauge.data_points, Sum.data_points
            row = _number(value)
            if row is not None:
                rows.append(row)
        elif kind == _SUM and wire == _VARINT and field == 2:
            is_delta = value == _DELTA
        elif kind == _SUM and wire == _VARINT and field == 3:
            is_monotonic = bool(value)
    return [Point(name, attributes, value, is_monotonic, is_delta, description) for attributes, value in rows]


def _number(data: bytes) -> tuple[Attributes, float] | None:
    """Return attributes and value of one NumberDataPoint; None if it has no value."""
    value: float | None = None
    attributes: list[tuple[str, str]] = []
    for field, wire, part in _fields(data):
        if not isinstance(part, bytes):
            continue
        if wire == _FIXED64 and field == 4:
            (value,) = _DOUBLE.unpack(part)
        elif wire == _FIXED64 and field == 6:
            (value,) = _SFIXED64.unpack(part)
        elif wire == _BYTES and field == 7:
            attributes += _key_value(part)
    return None if value is None else (tuple(attributes), value)


def _attributes(data: bytes, field: int) -> Iterator[tuple[str, str]]:
    for part in _messages(data, field):
        yield from _key_value(part)


def _key_value(data: bytes) -> list[tuple[str, str]]:
    """Return one KeyValue as text; nothing if its value is a list or bytes, which make no label."""
    key = ""
    value: str | None = None
    for field, part in _children(data):
        if field == 1:
            key = _text(part)
        elif field == 2:
            value = _any_value(part)
    return [] if value is None else [(key, value)]


def _any_value(data: bytes) -> str | None:
    text: str | None = None
    for field, wire, part in _fields(data):
        if isinstance(part, bytes):
            if field == 1 and wire == _BYTES:
                text = _text(part)
            elif field == 4 and wire == _FIXED64:
                text = repr(_DOUBLE.unpack(part)[0])
        elif field == 2:
            text = "true" if part else "false"
        elif field == 3:
            text = str(part - (1 << 64) if part >> 63 else part)
    return text


def _text(data: bytes) -> str:
    # A client id need not be UTF-8, and nothing depends on it being so.
    return data.decode("utf-8", "replace")


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    """The sub-messages of one field."""
    return (part for field, part in _children(data) if field == wanted)


def _children(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields that have a length: (number, bytes)."""
    for field, wire, value in _fields(data):
        if wire == _BYTES and isinstance(value, bytes):
            yield field, value


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """All fields of a message: (number, wire type, value). Fixed-size values are their bytes."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if not field:
            raise OtlpError("a field has the number 0")
        if wire == _VARINT:
            number, position = _varint(data, position)
            yield field, wire, number
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire == _FIXED64:
            size = 8
        elif wire == _FIXED32:
            size = 4
        else:
            raise OtlpError(f"field {field} has the wire type {wire}")
        if size > end - position:
            raise OtlpError(f"field {field} has {size} bytes, {end - position} are left")
        yield field, wire, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(position, min(position + 10, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, index + 1
        shift += 7
    raise OtlpError("a number has no end")
