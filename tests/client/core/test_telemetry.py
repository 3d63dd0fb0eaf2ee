"""Metrics that are pushed (KIP-714), without I/O: when brokers are asked, when a push goes out, what is in it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.broker.telemetry.otlp import parse
from ottla.client._core.connections import Connect, Connections, Disconnect
from ottla.client._core.otlp import Metric, encode
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.client._core.telemetry import INTERVAL_MS, Snapshot, Telemetry
from ottla.errors import ErrorCode
from ottla.network.channel_errors import ConnectionClosedError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.get_telemetry_subscriptions import GetTelemetrySubscriptionsResponse
from ottla.protocol.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse
from ottla.protocol.records.compression import decompress
from ottla.types import CompressionType

ID = bytes(range(16))


class World:
    """One client, a broker that the test plays, and a clock."""

    def __init__(self, *, serves: bool = True) -> None:
        dice = random.Random(1)
        self.connections = Connections([("a", 1)], random=dice)
        versions = {71: (0, 0), 72: (0, 0)} if serves else {}
        self.connections.want(-1, 0)
        self.connections.on_connected(-1, versions, {}, 0)
        self.values = {"sent": 10.0, "lag": 3.0}
        self.wall_ms = 1_000_000
        self.telemetry = Telemetry(self.connections, self.collect, dice, lambda: self.wall_ms, request_timeout_ms=1_000)

    def collect(self) -> Snapshot:
        metrics = [
            Metric("org.apache.kafka.producer.sent.total", self.values["sent"], True, (("topic", "t"),)),
            Metric("org.apache.kafka.consumer.lag", self.values["lag"]),
        ]
        return Snapshot(metrics, [("group_id", "g")])

    def poll(self, now_ms: float) -> tuple[Send | None, float]:
        actions: list[Action] = []
        wake_ms = self.telemetry.poll(now_ms, actions)
        assert not any(isinstance(action, Connect | Disconnect) for action in actions)
        return (actions[0] if actions else None), wake_ms  # type: ignore[return-value]

    def subscribe(self, now_ms: float = 0, **answer: Any) -> float:
        """Answer the question that is due; return when the first push is."""
        send, _ = self.poll(now_ms)
        assert send is not None
        assert send.key == ApiKey.GET_TELEMETRY_SUBSCRIPTIONS
        settings: dict[str, Any] = {
            "client_instance_id": ID,
            "subscription_id": 7,
            "push_interval_ms": 1_000,
            "telemetry_max_bytes": 1 << 20,
            "requested_metrics": ["*"],
            **answer,
        }
        self.telemetry.on_response(send, GetTelemetrySubscriptionsResponse(**settings), now_ms)
        return self.poll(now_ms)[1]

    def push(self, now_ms: float, error: int = 0) -> PushTelemetryRequest:
        send, _ = self.poll(now_ms)
        assert send is not None
        assert send.key == ApiKey.PUSH_TELEMETRY
        request = send.build(0)
        self.telemetry.on_response(send, PushTelemetryResponse(error_code=error), now_ms)
        assert isinstance(request, PushTelemetryRequest)
        return request


def test_a_broker_without_these_apis_is_never_asked() -> None:
    assert World(serves=False).poll(0) == (None, FOREVER)


def test_the_first_push_comes_after_half_to_one_and_a_half_intervals_and_then_one_each() -> None:
    world = World()
    due_ms = world.subscribe()
    assert 500 <= due_ms <= 1_500
    assert world.poll(due_ms - 1) == (None, due_ms)
    request = world.push(due_ms)
    assert (request.client_instance_id, request.subscription_id, request.terminating) == (ID, 7, False)
    payload = parse(request.metrics)
    assert payload.resource == (("group_id", "g"),)
    assert [(each.name, each.value, each.is_counter, each.is_delta) for each in payload.points] == [
        ("org.apache.kafka.producer.sent.total", 10.0, True, False),
        ("org.apache.kafka.consumer.lag", 3.0, False, False),
    ]
    assert payload.points[0].attributes == (("topic", "t"),)
    assert world.poll(due_ms) == (None, due_ms + 1_000)
    assert world.telemetry.pushed == 1


@pytest.mark.parametrize(
    ("requested", "names"),
    [
        (["*"], ["producer.sent.total", "consumer.lag"]),
        ([""], ["producer.sent.total", "consumer.lag"]),
        (["org.apache.kafka.consumer."], ["consumer.lag"]),
        (["org.apache.kafka.admin."], []),
    ],
)
def test_what_is_asked_for_is_pushed(requested: list[str], names: list[str]) -> None:
    world = World()
    due_ms = world.subscribe(requested_metrics=requested)
    found = [point.name.removeprefix("org.apache.kafka.") for point in parse(world.push(due_ms).metrics).points]
    assert found == names


def test_where_nothing_is_wanted_it_asks_again_after_the_interval() -> None:
    world = World()
    assert world.subscribe(requested_metrics=[]) == 1_000
    assert world.subscribe(1_000, requested_metrics=[]) == 2_000


def test_deltas_are_what_was_added_since_the_last_push_that_was_accepted() -> None:
    """1. ten; 2. five more, refused; 3. five more: the last push has both fives."""
    world = World()
    due_ms = world.subscribe(delta_temporality=True)
    first = parse(world.push(due_ms).metrics).points[0]
    assert (first.value, first.is_delta) == (10, True)
    world.values["sent"] = 15
    assert parse(world.push(due_ms + 1_000, ErrorCode.UNKNOWN_SUBSCRIPTION_ID).metrics).points[0].value == 5
    again_ms = world.subscribe(due_ms + 1_000, delta_temporality=True)
    world.values["sent"] = 20
    assert parse(world.push(again_ms).metrics).points[0].value == 10


def test_it_is_compressed_as_the_broker_takes_it() -> None:
    world = World()
    due_ms = world.subscribe(accepted_compression_types=[CompressionType.ZSTD, CompressionType.GZIP])
    request = world.push(due_ms)
    assert request.compression_type == CompressionType.ZSTD
    assert len(parse(bytes(decompress(CompressionType.ZSTD, request.metrics))).points) == 2


@pytest.mark.parametrize(
    ("code", "next_ms"),
    [
        (ErrorCode.UNKNOWN_SUBSCRIPTION_ID, 0.0),
        (ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, 0.0),
        (ErrorCode.THROTTLING_QUOTA_EXCEEDED, 1_000.0),
        (ErrorCode.TELEMETRY_TOO_LARGE, 1_000.0),
        (ErrorCode.INVALID_RECORD, FOREVER),
        (ErrorCode.INVALID_REQUEST, FOREVER),
    ],
)
def test_a_refused_push_leads_to_a_question_or_to_nothing(code: ErrorCode, next_ms: float) -> None:
    world = World()
    due_ms = world.subscribe()
    world.push(due_ms, code)
    send, wake_ms = world.poll(due_ms)
    if next_ms:
        assert (send, wake_ms) == (None, FOREVER if next_ms == FOREVER else due_ms + next_ms)
    else:
        assert send is not None
        assert send.key == ApiKey.GET_TELEMETRY_SUBSCRIPTIONS


def test_a_lost_connection_is_followed_by_a_question_in_a_while() -> None:
    world = World()
    send, _ = world.poll(0)
    assert send is not None
    world.telemetry.on_failed(send, ConnectionClosedError("gone"), 0)
    assert world.poll(0) == (None, INTERVAL_MS)


def test_the_last_push_says_that_it_is_the_last() -> None:
    world = World()
    assert world.telemetry.end() is None  # nothing was asked for yet
    world.subscribe()
    operation = world.telemetry.end()
    assert operation is not None
    told: list[bool] = []
    operation.callbacks.append(lambda: told.append(True))
    send, _ = world.poll(1)
    assert send is not None
    request = send.build(0)
    assert isinstance(request, PushTelemetryRequest)
    assert request.terminating
    for callback in world.telemetry.on_response(send, PushTelemetryResponse(), 1):
        callback()
    assert told == [True]
    assert world.poll(10_000) == (None, FOREVER)


names = st.text(max_size=8) | st.just("n" * 200)


@given(
    st.lists(
        st.tuples(names, st.floats(allow_nan=False), st.booleans(), st.lists(st.tuples(names, names), max_size=2)),
        max_size=4,
    ),
    st.booleans(),
)
def test_what_is_written_is_read_by_the_broker(rows: list[Any], delta: bool) -> None:
    metrics = [Metric(name, value, is_sum, tuple(attributes)) for name, value, is_sum, attributes in rows]
    payload = parse(encode(metrics, [("a", "b")], start_ms=1, now_ms=2, delta=delta))
    assert payload.resource == (("a", "b"),)
    assert [(p.name, p.value, p.is_counter, p.is_delta, p.attributes) for p in payload.points] == [
        (each.name, each.value, each.is_sum, each.is_sum and delta, each.attributes) for each in metrics
    ]
