"""Quotas beside Apache Kafka: what is refused and listed, which rates clients reach, for how long they are held back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker

from ottla.protocol.messages.alter_client_quotas import (
    AlterClientQuotasRequest,
    AlterClientQuotasRequestEntryData,
    AlterClientQuotasResponse,
    EntityData,
    OpData,
)
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.describe_client_quotas import (
    ComponentData,
    DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
)
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.wire import WireClient

pytestmark = pytest.mark.kafka

Entity = tuple[tuple[str, str | None], ...]
Ops = tuple[tuple[str, float | None], ...]


@pytest.fixture(scope="module")
def brokers() -> Iterator[tuple[RunningBroker, RunningBroker]]:
    kafka_anchor.require()
    ours, kafka = BrokerProcess({}), kafka_anchor.KafkaProcess()
    try:
        kafka.start()
        with ours:
            yield ours, kafka
    finally:
        kafka.close()


async def alter(client: WireClient, entity: Entity, ops: Ops, version: int = 1, *, validate_only: bool = False) -> int:
    entry = AlterClientQuotasRequestEntryData(
        entity=[EntityData(entity_type=kind, entity_name=name) for kind, name in entity],
        ops=[OpData(key=key, value=value or 0.0, remove=value is None) for key, value in ops],
    )
    request = AlterClientQuotasRequest(entries=[entry], validate_only=validate_only)
    answer = await client.ask(request, version, AlterClientQuotasResponse)
    return answer.entries[0].error_code


async def listed(client: WireClient, components: list[ComponentData], *, strict: bool = False, version: int = 1) -> Any:
    request = DescribeClientQuotasRequest(components=components, strict=strict)
    answer = await client.ask(request, version, DescribeClientQuotasResponse)
    rows = {
        (
            tuple(sorted((part.entity_type, part.entity_name or "(default)") for part in row.entity)),
            tuple(sorted((value.key, value.value) for value in row.values)),
        )
        for row in answer.entries or ()
    }
    return answer.error_code, None if answer.entries is None else sorted(rows)


ALTERED: list[tuple[Entity, Ops]] = [
    ((("user", "alice"),), (("producer_byte_rate", 1000.0),)),
    ((("user", "alice"),), (("producer_byte_rate", 1000.5),)),
    ((("user", "alice"),), (("request_percentage", 12.5),)),
    ((("user", "alice"),), (("producer_byte_rate", 0.0),)),
    ((("user", "alice"),), (("producer_byte_rate", -1.0),)),
    ((("user", "alice"),), (("request_percentage", 0.0),)),
    ((("user", "alice"),), (("connection_creation_rate", 5.0),)),
    ((("user", "alice"),), (("nonsense", 5.0),)),
    ((("user", "alice"),), (("nonsense", None),)),
    ((("user", "alice"),), (("SCRAM-SHA-256", 5.0),)),
    ((("user", "alice"),), (("producer_byte_rate", 5.0), ("producer_byte_rate", 6.0))),
    ((("user", "alice"),), (("producer_byte_rate", float("inf")),)),
    ((("user", "alice"),), ()),
    ((("user", None),), (("consumer_byte_rate", 2e6),)),
    ((("user", "<default>"),), (("consumer_byte_rate", 3e6),)),
    ((("user", "a/b c%"), ("client-id", "x/y")), (("consumer_byte_rate", 4.0),)),
    ((("user", "alice"), ("client-id", None)), (("controller_mutation_rate", 0.5),)),
    ((("user", None), ("client-id", None)), (("controller_mutation_rate", 5.0),)),
    ((("client-id", "app"),), (("producer_byte_rate", 7.0), ("consumer_byte_rate", 8.0))),
    ((("client-id", "app"),), (("producer_byte_rate", None),)),
    ((("client-id", "gone"),), (("producer_byte_rate", 7.0),)),
    ((("client-id", "gone"),), (("producer_byte_rate", None),)),
    ((("client-id", None),), (("request_percentage", 300.0),)),
    ((("client-id", ""),), (("request_percentage", 300.0),)),
    ((("ip", "10.1.2.3"),), (("connection_creation_rate", 5.0),)),
    ((("ip", "10.1.2.3"),), (("connection_creation_rate", 5.5),)),
    ((("ip", "10.1.2.3"),), (("producer_byte_rate", 5.0),)),
    ((("ip", "::1"),), (("connection_creation_rate", 5.0),)),
    ((("ip", None),), (("connection_creation_rate", 50.0),)),
    ((("ip", "not an address"),), (("connection_creation_rate", 5.0),)),
    ((("ip", "10.1.2.3"), ("user", "alice")), (("connection_creation_rate", 5.0),)),
    ((("group", "g"),), (("producer_byte_rate", 5.0),)),
    ((("user", "alice"), ("user", "bob")), (("producer_byte_rate", 5.0),)),
    ((), (("producer_byte_rate", 5.0),)),
]


def component(kind: str, match_type: int, match: str | None) -> ComponentData:
    return ComponentData(entity_type=kind, match_type=match_type, match=match)


FILTERS: list[list[ComponentData]] = [
    [],
    [component("user", 0, "alice")],
    [component("user", 1, None)],
    [component("user", 2, None)],
    [component("client-id", 2, None)],
    [component("client-id", 0, "app")],
    [component("user", 2, None), component("client-id", 2, None)],
    [component("user", 2, None), component("client-id", 1, None)],
    [component("ip", 2, None)],
    [component("ip", 0, "10.1.2.3")],
    [component("ip", 2, None), component("user", 2, None)],
    [component("user", 0, None)],
    [component("user", 1, "alice")],
    [component("user", 2, "alice")],
    [component("user", 3, None)],
    [component("group", 2, None)],
    [component("", 2, None)],
    [component("user", 2, None), component("user", 0, "alice")],
]


async def with_client(broker: RunningBroker, client_id: str = "admin") -> WireClient:
    return await WireClient.connect("127.0.0.1", broker.port, client_id)


def test_what_is_refused_and_listed(brokers: tuple[RunningBroker, RunningBroker]) -> None:
    async def answers(broker: RunningBroker) -> list[Any]:
        client = await with_client(broker)
        found: list[Any] = []
        for version in (0, 1):
            for number, (entity, ops) in enumerate(ALTERED):
                checked = await alter(client, entity, ops, version, validate_only=True)
                found.append((version, number, checked, await alter(client, entity, ops, version)))
        await asyncio.sleep(1)  # Kafka answers before its broker has taken it in
        for strict in (False, True):
            for number, components in enumerate(FILTERS):
                found.append((strict, number, await listed(client, components, strict=strict)))
        for name in ("producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate"):
            for entity, _ in ALTERED:
                await alter(client, entity, ((name, None),))
        for entity in ((("ip", "10.1.2.3"),), (("ip", "::1"),), (("ip", None),)):
            await alter(client, entity, (("connection_creation_rate", None),))
        client.close()
        return found

    ours, kafka = (asyncio.run(answers(broker)) for broker in brokers)
    differ = [(one, other) for one, other in zip(ours, kafka, strict=True) if one != other]
    assert differ == [], f"{len(differ)} of {len(ours)} answers differ"


class Reached(NamedTuple):
    """What a client got: its rate beside the limit, and for how long it was held back, as the answers said."""

    rate: float
    throttled: float


async def make_topic(client: WireClient, name: str) -> None:
    topic = CreatableTopic(name=name, num_partitions=1, replication_factor=1)
    await client.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)
    for _ in range(100):
        answer = await client.ask(MetadataRequest(topics=[MetadataRequestTopic(name=name)]), 9, MetadataResponse)
        if not answer.topics[0].error_code and answer.topics[0].partitions[0].leader_id >= 0:
            return
        await asyncio.sleep(0.05)


LIMIT = 200_000.0
#: For how long the windows are filled at the rate itself, and for how long a client then takes all it gets. Without the
#: first a broker gives ten seconds' worth at once, again each eleven seconds when this leaves the windows, and what a client
#: reaches depends on how many of these fall into the time that is looked at.
FILLING_SECONDS, SECONDS = 13.0, 24.0


class Pace:
    """Takes turns until the time is over, and no faster than the limit if it is to keep to it."""

    def __init__(self, seconds: float, *, keeps_to_limit: bool) -> None:
        self.began = time.monotonic()
        self.total = self.throttled = 0
        self._seconds = seconds
        self._keeps_to_limit = keeps_to_limit

    async def goes_on(self) -> bool:
        if self._keeps_to_limit:
            await asyncio.sleep(max(self.total / LIMIT - self.spent, 0))
        return self.spent < self._seconds

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def reached(self) -> Reached:
        return Reached(self.total / self.spent / LIMIT, self.throttled / 1000 / self.spent)


def paces() -> Iterator[Pace]:
    """The windows are filled, then a client takes all it gets; what it reaches then counts."""
    yield Pace(FILLING_SECONDS, keeps_to_limit=True)
    yield Pace(SECONDS, keeps_to_limit=False)


async def produced(broker: RunningBroker) -> Reached:
    client = await with_client(broker, "throttled")
    await make_topic(client, "rates")
    records = build_batch([Record(0, int(time.time() * 1000), None, bytes(20_000))])
    data = TopicProduceData(name="rates", partition_data=[PartitionProduceData(index=0, records=records)])
    request = ProduceRequest(acks=1, timeout_ms=10_000, topic_data=[data])
    for pace in paces():
        while await pace.goes_on():
            answer = await client.ask(request, 9, ProduceResponse)
            pace.total += len(records)
            pace.throttled += answer.throttle_time_ms
    client.close()
    return pace.reached


async def consumed(broker: RunningBroker) -> Reached:
    filler, client = await with_client(broker, "filler"), await with_client(broker, "throttled")
    await make_topic(filler, "read")
    records = build_batch([Record(0, int(time.time() * 1000), None, bytes(20_000))])
    data = TopicProduceData(name="read", partition_data=[PartitionProduceData(index=0, records=records)])
    for _ in range(600):
        await filler.ask(ProduceRequest(acks=1, timeout_ms=10_000, topic_data=[data]), 9, ProduceResponse)
    offset = 0
    for pace in paces():
        while await pace.goes_on():
            partition = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=60_000)
            topics = [FetchTopic(topic="read", partitions=[partition])]
            request = FetchRequest(max_wait_ms=100, min_bytes=1, max_bytes=10_000_000, session_epoch=-1, topics=topics)
            answer = await client.ask(request, 12, FetchResponse)
            size = sum(len(p.records or b"") for topic in answer.responses for p in topic.partitions)
            offset += size // len(records)
            pace.total += size
            pace.throttled += answer.throttle_time_ms
    filler.close()
    client.close()
    return pace.reached


def test_rates_that_clients_reach(brokers: tuple[RunningBroker, RunningBroker]) -> None:
    """Both kinds of bytes at 200,000 a second: within 10 % of the limit, and held back for about as long as by Kafka.

    What is measured begins with windows that are full.
    """
    limits: Ops = (("producer_byte_rate", LIMIT), ("consumer_byte_rate", LIMIT))

    async def measure(broker: RunningBroker) -> Mapping[str, Reached]:
        admin = await with_client(broker)
        entity: Entity = (("client-id", "throttled"),)
        assert await alter(admin, entity, limits) == 0
        await asyncio.sleep(1)
        found = {"produce": await produced(broker)}
        found["fetch"] = await consumed(broker)
        assert await alter(admin, entity, tuple((key, None) for key, _ in limits)) == 0
        admin.close()
        return found

    async def both() -> list[Mapping[str, Reached]]:
        return list(await asyncio.gather(*(measure(broker) for broker in brokers)))

    ours, kafka = asyncio.run(both())
    print({"ottla": ours, "Apache Kafka": kafka})
    for name in ("produce", "fetch"):
        assert ours[name].rate == pytest.approx(1.0, abs=0.1), (name, ours)
        assert ours[name].rate == pytest.approx(kafka[name].rate, abs=0.1), (name, ours, kafka)
        assert ours[name].throttled == pytest.approx(kafka[name].throttled, abs=0.15), (name, ours, kafka)


def test_changes_of_topics(brokers: tuple[RunningBroker, RunningBroker]) -> None:
    """controller_mutation_rate: the same requests, one after the other, are done or refused by both, for as long."""

    async def answers(broker: RunningBroker) -> list[tuple[int, int]]:
        admin, client = await with_client(broker), await with_client(broker, "throttled")
        old = await with_client(broker, "throttled")
        assert await alter(admin, (("client-id", "throttled"),), (("controller_mutation_rate", 1.0),)) == 0
        await asyncio.sleep(1)
        found = []
        for by, name, count, version in (
            (client, "m1", 13, 7),
            (client, "m1", 1, 7),  # is there already: not counted
            (client, "m-bad", 0, 7),
            (client, "m2", 2, 7),
            (client, "m3", 1, 7),
            (old, "m4", 1, 5),
        ):
            topic = CreatableTopic(name=name, num_partitions=count, replication_factor=1)
            answer = await by.ask(CreateTopicsRequest(topics=[topic]), version, CreateTopicsResponse)
            found.append((answer.topics[0].error_code, answer.throttle_time_ms))
        await alter(admin, (("client-id", "throttled"),), (("controller_mutation_rate", None),))
        for one in (admin, client, old):
            one.close()
        return found

    ours, kafka = (asyncio.run(answers(broker)) for broker in brokers)
    print({"ottla": ours, "Apache Kafka": kafka})
    assert [code for code, _ in ours] == [code for code, _ in kafka]
    assert [ms for _, ms in ours] == pytest.approx([ms for _, ms in kafka], abs=1500)


def test_kafka_configs(brokers: tuple[RunningBroker, RunningBroker]) -> None:
    said = []
    for broker in brokers:
        base = ("kafka-configs", "--bootstrap-server", broker.address)
        texts = []
        for entity, limit in (
            (("--entity-type", "users", "--entity-name", "alice"), "producer_byte_rate=1024"),
            (("--entity-type", "clients", "--entity-default"), "request_percentage=50.5"),
            (
                ("--entity-type", "users", "--entity-name", "alice", "--entity-type", "clients", "--entity-name", "a"),
                "consumer_byte_rate=2048",
            ),
            (("--entity-type", "ips", "--entity-name", "127.0.0.9"), "connection_creation_rate=10"),
        ):
            texts.append(kafka_anchor.tool(*base, "--alter", *entity, "--add-config", limit))
            texts.append(kafka_anchor.tool(*base, "--describe", *entity))
            texts.append(kafka_anchor.tool(*base, "--alter", *entity, "--delete-config", limit.partition("=")[0]))
        said.append(texts)
    assert said[0] == said[1]
    assert any("producer_byte_rate=1024" in text for text in said[0])
