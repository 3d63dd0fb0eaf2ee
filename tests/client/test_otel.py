"""Spans, trace context in headers and metrics through OpenTelemetry's API, as its SDK sees them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import ottla
import ottla.aio
import ottla.otel
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]


class Exported:
    """What the SDK has been given."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        trace.set_tracer_provider(provider)
        self.reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([self.reader]))

    def spans(self, count: int) -> list[ReadableSpan]:
        deadline = time.monotonic() + 30
        while len(found := self.memory.get_finished_spans()) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.001)
        return sorted(found, key=lambda span: span.start_time or 0)


@pytest.fixture(scope="session")
def providers() -> Exported:
    return Exported()  # a process has one provider, for good


@pytest.fixture
def exported(providers: Exported) -> Iterator[Exported]:
    providers.memory.clear()
    yield providers
    providers.memory.clear()


def test_a_trace_goes_from_send_to_handle(kafka_broker: Broker, exported: Exported) -> None:
    address = kafka_broker.bootstrap_servers
    with ottla.otel.instrument(ottla.Producer(address, client_id="shop")) as producer:
        producer.send_and_wait("orders", b"1", key=b"42", headers={"traceparent": "old", "mine": "x"}, timeout=30)
    with ottla.Consumer(address, topics=["orders"], auto_offset_reset="earliest") as consumer:
        record = next(consumer)
        assert record.headers["mine"] == b"x"
        with pytest.raises(ZeroDivisionError), ottla.otel.process(record, group_id="billing"):
            raise ZeroDivisionError
    sent, processed = exported.spans(2)
    assert (sent.name, sent.kind) == ("send orders", SpanKind.PRODUCER)
    assert dict(sent.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.client.id": "shop",
        "messaging.kafka.message.key": "42",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
    }
    assert (processed.name, processed.kind) == ("process orders", SpanKind.CONSUMER)
    assert processed.parent is not None
    assert sent.context is not None
    assert (processed.parent.trace_id, processed.parent.span_id) == (sent.context.trace_id, sent.context.span_id)
    assert (processed.attributes or {})["messaging.consumer.group.name"] == "billing"
    assert processed.status.status_code is StatusCode.ERROR
    assert [event.name for event in processed.events] == ["exception"]


def test_a_failure_ends_the_span_and_is_still_told(kafka_broker: Broker, exported: Exported) -> None:
    kafka_broker.fail("Produce", error="TOPIC_AUTHORIZATION_FAILED")
    with pytest.raises(ottla.DeliveryErrors):  # noqa: PT012, SIM117
        with ottla.otel.instrument(ottla.otel.instrument(ottla.Producer(kafka_broker.bootstrap_servers))) as producer:
            producer.send("orders", None, key="k")
            with pytest.raises(TypeError):
                producer.send("orders", 7)  # type: ignore[arg-type]
    found = {span.status.status_code: span for span in exported.spans(2)}
    assert set(found) == {StatusCode.ERROR}
    errors = {(span.attributes or {})["error.type"] for span in exported.spans(2)}
    assert errors == {"TypeError", "TopicAuthorizationFailedError"}


def test_a_batch_is_one_span_with_links(kafka_broker: Broker, exported: Exported) -> None:
    address = kafka_broker.bootstrap_servers
    with ottla.otel.instrument(ottla.Producer(address)) as producer:
        for value in (b"1", b"2"):
            producer.send("orders", value)
    with ottla.Consumer(address, topics=["orders"], auto_offset_reset="earliest") as consumer:
        batch = next(consumer.batches(max_wait="1s"))
        with ottla.otel.process_batch(batch, group_id="g"):
            pass
    *sent, processed = exported.spans(3)
    assert {link.context.span_id for link in processed.links} == {span.context.span_id for span in sent if span.context}
    assert (processed.attributes or {})["messaging.batch.message_count"] == 2
    assert processed.parent is None


async def test_coroutines_and_run(kafka_broker: Broker, exported: Exported) -> None:
    address = kafka_broker.bootstrap_servers
    tracer = trace.get_tracer("test")
    async with ottla.otel.instrument(ottla.aio.Producer(address)) as producer:
        with tracer.start_as_current_span("request"):
            await (await producer.send("orders", b"1"))
    async with ottla.aio.Consumer(address, group_id="g", topics=["orders"], auto_offset_reset="earliest") as consumer:

        async def handle(record: ottla.Record) -> None:
            await asyncio.sleep(0)
            consumer.stop()

        await consumer.run(ottla.otel.traced(handle))
    request, sent, processed = await asyncio.to_thread(exported.spans, 3)
    assert [span.name for span in (request, sent, processed)] == ["request", "send orders", "process orders"]
    assert len({span.context.trace_id for span in (request, sent, processed) if span.context}) == 1


def test_a_blocking_run(kafka_broker: Broker, exported: Exported) -> None:
    kafka_broker.produce("orders", [b"1"])
    with ottla.Consumer(
        kafka_broker.bootstrap_servers, group_id="g", topics=["orders"], auto_offset_reset="earliest"
    ) as consumer:
        consumer.run(ottla.otel.traced(lambda record: consumer.stop()))
    assert [span.name for span in exported.spans(1)] == ["process orders"]


def test_metrics_are_read_when_they_are_collected(kafka_broker: Broker, exported: Exported) -> None:
    kafka_broker.produce("orders", [b"1", b"2"])
    address = kafka_broker.bootstrap_servers

    def collected() -> dict[str, dict[str, float]]:
        data = exported.reader.get_metrics_data()
        found: dict[str, dict[str, float]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                points: Any = metric.data.data_points
                found[metric.name] = {point.attributes["client-id"]: point.value for point in points}
        return found

    with (
        ottla.Consumer(address, topics=["orders"], auto_offset_reset="earliest", client_id="one") as consumer,
        ottla.Consumer(address, topics=["orders"], client_id="two") as other,
    ):
        ottla.otel.observe(consumer)
        ottla.otel.observe(other)
        next(consumer)
        found = collected()
        assert found["kafka.consumer.records_consumed_total"] == {"one": 2, "two": 0}
        assert found["kafka.consumer.records_lag"]["one"] == 1
    assert not collected().get("kafka.consumer.records_consumed_total")


def test_the_client_imports_nothing_of_it_and_its_absence_is_said() -> None:
    program = (
        "import sys, ottla; ottla.Producer; ottla.Consumer\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "sys.modules['opentelemetry'] = None\n"
        "import ottla.otel\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ImportError: ottla.otel needs OpenTelemetry's API: pip install 'ottla[otel]'" in done.stderr
