"""Client metrics over the wire, in a simulated broker: from a subscription to /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.broker.telemetry.otlp_writer import data_point, gauge, payload, total

from ottla.broker.broker import Broker
from ottla.broker.http.facts import LiveFacts
from ottla.broker.http.pages import Pages
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.protocol.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse
from ottla.protocol.records.compression import compress
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import CompressionType

TELEMETRY = {ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, ApiKey.PUSH_TELEMETRY}


async def announced(client: WireClient) -> bool:
    request = ApiVersionsRequest(client_software_name="tester", client_software_version="7.1")
    answer = await client.ask(request, 4, ApiVersionsResponse)
    found = {row.api_key for row in answer.api_keys}
    assert len(found & TELEMETRY) in (0, 2)
    return found >= TELEMETRY


async def subscribe(client: WireClient, **configs: str | None) -> ErrorCode:
    rows = [
        AlterableConfig(name=name.replace("_", "."), config_operation=0 if value is not None else 1, value=value)
        for name, value in configs.items()
    ]
    resource = AlterConfigsResource(resource_type=16, resource_name="all", configs=rows)
    request = IncrementalAlterConfigsRequest(resources=[resource])
    answer = await client.ask(request, 1, IncrementalAlterConfigsResponse)
    return ErrorCode(answer.responses[0].error_code)


async def get(client: WireClient, instance_id: bytes = bytes(16)) -> GetTelemetrySubscriptionsResponse:
    request = GetTelemetrySubscriptionsRequest(client_instance_id=instance_id)
    return await client.ask(request, 0, GetTelemetrySubscriptionsResponse)


async def push(
    client: WireClient,
    known: GetTelemetrySubscriptionsResponse,
    metrics: bytes,
    codec: CompressionType = CompressionType.NONE,
    *,
    terminating: bool = False,
) -> ErrorCode:
    request = PushTelemetryRequest(
        client_instance_id=known.client_instance_id,
        subscription_id=known.subscription_id,
        terminating=terminating,
        compression_type=codec,
        metrics=metrics,
    )
    return ErrorCode((await client.ask(request, 0, PushTelemetryResponse)).error_code)


def page(broker: Broker) -> list[str]:
    body = Pages(LiveFacts(broker)).handle("/metrics").body
    assert not isinstance(body, bytes)
    return b"".join(body).decode().splitlines()


def lines(broker: Broker, word: str) -> list[str]:
    return [line for line in page(broker) if word in line and not line.startswith("#")]


def with_broker(ask: Callable[[WireClient, Broker], Awaitable[None]], **settings: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **{name.replace("_", "."): value for name, value in settings.items()})
        broker = await node.start()
        client = await node.connect()
        try:
            await ask(client, broker)
        finally:
            client.close()
            await node.stop()

    run_virtual(1, scenario)


def test_the_apis_are_announced_while_somebody_wants_them() -> None:
    async def ask(client: WireClient, broker: Broker) -> None:
        assert not await announced(client)
        known = await get(client)  # answered all the same, as in Kafka
        assert (known.error_code, known.requested_metrics, known.push_interval_ms) == (0, [], 300_000)
        assert await subscribe(client, metrics="a.") is ErrorCode.NONE
        assert await announced(client)
        assert await subscribe(client, metrics=None) is ErrorCode.NONE
        assert not await announced(client)

    with_broker(ask)


def test_the_apis_are_always_announced_if_told_so() -> None:
    async def ask(client: WireClient, broker: Broker) -> None:
        assert await announced(client)

    with_broker(ask, ottla_client_telemetry_enable="true")


@pytest.mark.parametrize("codec", list(CompressionType))
def test_what_is_pushed_is_shown(codec: CompressionType) -> None:
    async def ask(client: WireClient, broker: Broker) -> None:
        assert await announced(client) is False
        await subscribe(client, metrics="*", interval_ms="1000", match="client_software_name=tester")
        known = await get(client)
        assert known.client_instance_id != bytes(16)
        assert (known.requested_metrics, known.push_interval_ms) == (["*"], 1_000)
        assert known.accepted_compression_types == [4, 3, 1, 2]
        assert known.telemetry_max_bytes == 1 << 20
        assert known.delta_temporality
        small = payload(gauge("org.apache.kafka.a", data_point(1.5, topic="t")), total("sent", data_point(3)))
        large = payload(
            *(gauge("m", data_point(n, n=n)) for n in range(900)), total("sent", data_point(4)), group_id="g"
        )
        assert await push(client, known, compress(codec, small), codec) is ErrorCode.NONE
        await asyncio.sleep(1)
        assert await push(client, known, compress(codec, large), codec) is ErrorCode.NONE
        (line,) = lines(broker, "kafka_client_a{")
        assert line.startswith('kafka_client_a{client_id="simulated",client_instance_id="')
        assert line.endswith('",topic="t"} 1.5')
        assert lines(broker, "kafka_client_sent{")[0].endswith("} 7")
        assert len(lines(broker, "kafka_client_m{")) == 900
        (info,) = lines(broker, "kafka_client_info{")
        assert 'client_software_name="tester",client_software_version="7.1"' in info
        assert 'group_id="g"' in info
        await asyncio.sleep(61)
        assert not lines(broker, "kafka_client_a{")

    with_broker(ask)


def test_what_cannot_be_read_is_refused() -> None:
    async def ask(client: WireClient, broker: Broker) -> None:
        await subscribe(client, metrics="*", interval_ms="100")
        known = await get(client)
        bomb = compress(CompressionType.ZSTD, bytes(1_001))
        for metrics, codec, expected in (
            (b"\xff", CompressionType.NONE, ErrorCode.INVALID_RECORD),
            (b"garbage", CompressionType.GZIP, ErrorCode.INVALID_RECORD),
            (bomb, CompressionType.ZSTD, ErrorCode.INVALID_RECORD),
            (bytes(1_001), CompressionType.NONE, ErrorCode.TELEMETRY_TOO_LARGE),
            (b"", CompressionType.NONE, ErrorCode.NONE),
        ):
            await asyncio.sleep(0.1)
            assert await push(client, known, metrics, codec) is expected
        assert lines(broker, "plugin_error_count")[0].split()[-1] == "3"
        assert await push(client, known, b"") is ErrorCode.THROTTLING_QUOTA_EXCEEDED
        assert await push(client, known, b"", terminating=True) is ErrorCode.NONE
        assert await push(client, known, b"", terminating=True) is ErrorCode.INVALID_REQUEST

    with_broker(ask, telemetry_max_bytes="1000")


def test_a_subscription_outlives_the_broker() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop)
        await node.start()
        client = await node.connect()
        await subscribe(client, metrics="b.,a.", interval_ms="2000")
        before = await get(client)
        client.close()
        await node.stop()
        await node.start()
        client = await node.connect()
        after = await get(client, before.client_instance_id)
        assert after.requested_metrics == ["a.", "b."]
        assert after.subscription_id == before.subscription_id
        assert await announced(client)
        client.close()
        await node.stop()

    run_virtual(1, scenario)
