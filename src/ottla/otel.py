"""OpenTelemetry for clients: spans, trace context in the headers of records, and metrics.

Uses the API package only (`pip install 'ottla[otel]'`, or `opentelemetry-api`): without an SDK everything here does nothing.
Spans and attributes are named as OpenTelemetry's conventions for messaging have them; metrics as its Java agent names
Kafka's (`kafka.consumer.records_lag_max`). A program that calls nothing of this module pays nothing for it.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ottla.client.records import HeadersLike, make_headers

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.propagators.textmap import Getter, Setter
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode
except ImportError:
    raise ImportError("ottla.otel needs OpenTelemetry's API: pip install 'ottla[otel]'") from None

if TYPE_CHECKING:
    from ottla import aio
    from ottla.client.consumed import Batch, Record
    from ottla.client.consumer import Consumer
    from ottla.client.deliveries import _Ticket
    from ottla.client.metrics import Metrics
    from ottla.client.producer import Producer

#: A producer of either face.
P = TypeVar("P", bound="Producer[Any, Any] | aio.Producer[Any, Any]")
F = TypeVar("F", bound=Callable[..., Any])

_NAME: Final = "ottla"
#: Records of a batch that a span links to, at most: SDKs keep no more.
LINKS_MAX: Final = 128

Pairs = list[tuple[str, bytes | None]]


class _Carrier(Getter[Sequence[tuple[str, bytes | None]]], Setter[Pairs]):
    """Trace context in the headers of a record: W3C's `traceparent`, or what else the program's propagator writes."""

    def get(self, carrier: Sequence[tuple[str, bytes | None]], key: str) -> list[str] | None:
        found = [value.decode("utf-8", "replace") for name, value in carrier if name == key and value is not None]
        return found or None

    def keys(self, carrier: Sequence[tuple[str, bytes | None]]) -> list[str]:
        return [name for name, _ in carrier]

    def set(self, carrier: Pairs, key: str, value: str) -> None:
        carrier[:] = [pair for pair in carrier if pair[0] != key]
        carrier.append((key, value.encode()))


_CARRIER: Final = _Carrier()


def inject(headers: HeadersLike | None = None) -> Pairs:
    """Return headers with the trace context of the present span: `producer.send("orders", value, headers=inject())`."""
    made = list(make_headers(headers))
    propagate.inject(made, setter=_CARRIER)
    return made


def extract(record: Record[Any, Any]) -> context.Context:
    """Return the trace context that a record's headers carry."""
    return propagate.extract(record.headers.multi_items(), getter=_CARRIER)


# -- sending ----------------------------------------------------------------------------------------------------------


def instrument(producer: P) -> P:
    """Have each `send` of a producer make a span, and put its context into the record's headers; return the producer.

        producer = ottla.otel.instrument(ottla.Producer("localhost:9092"))

    The span ends with the acknowledgement, whose partition and offset it has, or with the failure. `send_and_wait` and
    `send` of a transaction count as `send`; `send_many` and `send_table` make no spans.
    """
    if "send" in producer.__dict__:
        return producer  # it has spans already: twice would make two a record
    tracer = trace.get_tracer(_NAME)
    send = producer.send
    client_id = producer._client.client_id

    def begin(topic: str, value: object, key: object, partition: int | None) -> Span:
        attributes: dict[str, str | int | bool] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.client.id": client_id,
        }
        if value is None:
            attributes["messaging.kafka.message.tombstone"] = True
        if isinstance(key, str | int):
            attributes["messaging.kafka.message.key"] = str(key)
        elif isinstance(key, bytes):
            attributes["messaging.kafka.message.key"] = key.decode("utf-8", "replace")
        if partition is not None:
            attributes["messaging.destination.partition.id"] = str(partition)
        return tracer.start_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes)

    def headers_of(span: Span, headers: HeadersLike | None) -> Pairs:
        with trace.use_span(span):
            return inject(headers)

    if inspect.iscoroutinefunction(send):

        @functools.wraps(send)
        async def send_async(topic: str, value: Any, **options: Any) -> Any:
            span = begin(topic, value, options.get("key"), options.get("partition"))
            try:
                options["headers"] = headers_of(span, options.get("headers"))
                delivery = await send(topic, value, **options)
            except BaseException as error:
                _fail(span, error)
                raise
            _end_with(span, delivery, producer._lock)
            return delivery

        wrapped: Callable[..., Any] = send_async
    else:

        @functools.wraps(send)
        def send_blocking(topic: str, value: Any, **options: Any) -> Any:
            span = begin(topic, value, options.get("key"), options.get("partition"))
            try:
                options["headers"] = headers_of(span, options.get("headers"))
                delivery = send(topic, value, **options)
            except BaseException as error:
                _fail(span, error)
                raise
            _end_with(span, cast("_Ticket", delivery), producer._lock)
            return delivery

        wrapped = send_blocking
    producer.__dict__["send"] = wrapped
    return producer


def _end_with(span: Span, delivery: _Ticket, lock: AbstractContextManager[object]) -> None:
    """End a span when a record has its outcome. Holds no ticket: a failure that nobody looks at is still told."""
    batch, index = delivery._batch, delivery._index

    def end() -> None:
        error = batch.error_of(index)
        if error is not None:
            _fail(span, error)
            return
        span.set_attribute("messaging.destination.partition.id", str(batch.partition))
        offset = batch.metadata_of(index)[0]
        if offset >= 0:
            span.set_attribute("messaging.kafka.offset", offset)
        span.end()

    with lock:
        if batch.is_pending:
            batch.callbacks.append(end)
            return
    end()


def _fail(span: Span, error: BaseException) -> None:
    span.record_exception(error)
    span.set_status(StatusCode.ERROR, str(error))
    span.set_attribute("error.type", type(error).__qualname__)
    span.end()


# -- handling ---------------------------------------------------------------------------------------------------------


@contextmanager
def process(record: Record[Any, Any], *, group_id: str | None = None) -> Iterator[Span]:
    """Make a span around the handling of a record, below the span of whoever has sent it.

        for record in consumer:
            with ottla.otel.process(record):
                handle(record)

    What leaves the block is noted in the span. Where a span is under way already, the sender's is linked instead.
    """
    attributes = {
        **_processing([record], group_id),
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
    }
    if record.key_bytes is not None:
        attributes["messaging.kafka.message.key"] = record.key_bytes.decode("utf-8", "replace")
    if record.value_bytes is None:
        attributes["messaging.kafka.message.tombstone"] = True
    sent = extract(record)
    inside = trace.get_current_span().get_span_context().is_valid
    with trace.get_tracer(_NAME).start_as_current_span(
        f"process {record.topic}",
        context=None if inside else sent,
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=_links([record]) if inside else None,
    ) as span:
        yield span


@contextmanager
def process_batch(
    records: Batch[Any, Any] | Sequence[Record[Any, Any]], *, group_id: str | None = None
) -> Iterator[Span]:
    """Make one span around the handling of a batch, or of what `poll()` has returned, with links to who has sent them."""
    attributes = {**_processing(records, group_id), "messaging.batch.message_count": len(records)}
    topics = {record.topic for record in records}
    name = f"process {topics.pop()}" if len(topics) == 1 else "process"
    with trace.get_tracer(_NAME).start_as_current_span(
        name, kind=SpanKind.CONSUMER, attributes=attributes, links=_links(records)
    ) as span:
        yield span


def traced(handle: F, *, group_id: str | None = None) -> F:
    """Return a handler for `consumer.run()`, coroutine functions too, that does its work inside `process(record)`."""
    if inspect.iscoroutinefunction(handle):

        @functools.wraps(handle)
        async def handle_async(record: Record[Any, Any]) -> Any:
            with process(record, group_id=group_id):
                return await handle(record)

        return cast("F", handle_async)

    @functools.wraps(handle)
    def handle_blocking(record: Record[Any, Any]) -> Any:
        with process(record, group_id=group_id):
            return handle(record)

    return cast("F", handle_blocking)


def _processing(records: Iterable[Record[Any, Any]], group_id: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }
    topics = {record.topic for record in records}
    if len(topics) == 1:
        attributes["messaging.destination.name"] = topics.pop()
    if group_id is not None:
        attributes["messaging.consumer.group.name"] = group_id
    return attributes


def _links(records: Iterable[Record[Any, Any]]) -> list[Link]:
    """Return a link to each span that has sent one of these records."""
    found: dict[Any, Link] = {}
    for record in records:
        sent = trace.get_current_span(extract(record)).get_span_context()
        if sent.is_valid and len(found) < LINKS_MAX:
            found.setdefault((sent.trace_id, sent.span_id), Link(sent))
    return list(found.values())


# -- metrics ----------------------------------------------------------------------------------------------------------


def observe(client: Producer[Any, Any] | Consumer[Any, Any] | aio.Producer[Any, Any] | aio.Consumer[Any, Any]) -> None:
    """Have the program's meter read a client's `metrics()` whenever it collects, until the client is closed.

    Names are `kafka.producer.record_send_total` and so on; attributes `client-id`, and `topic` and `partition`.
    """
    found = client.metrics()
    clients = _observed.setdefault(found.kind, weakref.WeakSet())
    if not clients:
        meter = metrics.get_meter(_NAME)
        for name in found:
            _register(meter, clients, f"kafka.{found.kind}.{name.replace('-', '_')}", functools.partial(_whole, name))
        for name in ("records-lag", "records-lead") if found.kind == "consumer" else ():
            _register(
                meter, clients, f"kafka.consumer.{name.replace('-', '_')}", functools.partial(_by_partition, name)
            )
    clients.add(client)


#: By kind of client, those whose metrics are read; each instrument is registered once, or SDKs complain.
_observed: Final[dict[str, weakref.WeakSet[Any]]] = {}
_registered: Final[set[str]] = set()


def _register(
    meter: metrics.Meter,
    clients: weakref.WeakSet[Any],
    name: str,
    pick: Callable[[Metrics], Iterable[Observation]],
) -> None:
    if name in _registered:
        return
    _registered.add(name)

    def read(options: CallbackOptions) -> Iterable[Observation]:
        return [seen for client in list(clients) if client._closed is None for seen in pick(client.metrics())]

    make = meter.create_observable_counter if name.endswith("_total") else meter.create_observable_gauge
    make(name, callbacks=[read], description="Kafka's metric of this name.")


def _whole(name: str, found: Metrics) -> list[Observation]:
    value = found[name]
    return [Observation(value, {"client-id": found.client_id})] if value == value else []


def _by_partition(name: str, found: Metrics) -> list[Observation]:
    return [
        Observation(
            values[name], {"client-id": found.client_id, "topic": where.topic, "partition": str(where.partition)}
        )
        for where, values in found.by_partition.items()
    ]
