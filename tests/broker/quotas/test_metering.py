"""Quotas of a whole broker in virtual time: what its answers say, when the next one comes, what comes too late to matter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest

from ottla.broker.broker import Broker
from ottla.errors import ErrorCode
from ottla.protocol.messages.alter_client_quotas import (
    AlterClientQuotasRequest,
    AlterClientQuotasRequestEntryData,
    AlterClientQuotasResponse,
    EntityData,
    OpData,
)
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, ReplicaState
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

T = TypeVar("T")
Entity = Mapping[str, str | None]
ALL: Entity = {"client-id": None}


def with_broker(ask: Callable[[SimulatedBroker, Broker], Awaitable[T]], **settings: object) -> T:
    async def scenario(loop: VirtualLoop) -> T:
        made = {"log.retention.ms": -1, **{name.replace("__", "."): value for name, value in settings.items()}}
        node = SimulatedBroker(loop, **made)
        broker = await node.start()
        try:
            admin = await node.connect("admin")
            topic = CreatableTopic(name="t", num_partitions=1, replication_factor=1)
            await admin.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)
            return await ask(node, broker)
        finally:
            await node.stop()

    return run_virtual(1, scenario)[0]


def now() -> float:
    return asyncio.get_running_loop().time()


async def alter(client: WireClient, entity: Entity, values: Mapping[str, float | None], version: int = 1) -> int:
    entry = AlterClientQuotasRequestEntryData(
        entity=[EntityData(entity_type=kind, entity_name=name) for kind, name in entity.items()],
        ops=[OpData(key=key, value=value or 0.0, remove=value is None) for key, value in values.items()],
    )
    answer = await client.ask(AlterClientQuotasRequest(entries=[entry]), version, AlterClientQuotasResponse)
    return answer.entries[0].error_code


def produce(size: int, acks: int = 1) -> ProduceRequest:
    records = build_batch([Record(0, 1, None, b"x" * size)])
    data = TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=records)])
    return ProduceRequest(acks=acks, timeout_ms=10_000, topic_data=[data])


def fetch(offset: int = 0, *, replica: int = -1, epoch: int = -1, session: tuple[int, int] = (0, -1)) -> FetchRequest:
    partition = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=10_000_000)
    return FetchRequest(
        max_wait_ms=0,
        min_bytes=1,
        max_bytes=50_000_000,
        session_id=session[0],
        session_epoch=session[1],
        topics=[FetchTopic(topic="t", partitions=[partition])],
        replica_state=ReplicaState(replica_id=replica, replica_epoch=epoch),
    )


async def sent(client: WireClient, size: int, acks: int = 1, version: int = 9) -> ProduceResponse:
    return await client.ask(produce(size, acks), version, ProduceResponse)


@pytest.mark.parametrize("version", [3, 7, 9, 12])
def test_produce_over_its_rate_is_answered_at_once_and_the_next_request_waits(version: int) -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client = await node.connect("app")
        assert await alter(await node.connect("admin"), {"client-id": "app"}, {"producer_byte_rate": 1000}) == 0
        began = now()
        answer = await sent(client, 20_000, version=version)
        assert not answer.responses[0].partition_responses[0].error_code
        assert now() - began < 0.1
        # A few bytes more than 20,000 in ten seconds at 1,000 a second: ten more seconds.
        assert 10_000 <= answer.throttle_time_ms <= 10_300
        await sent(client, 1, version=version)
        assert now() - began >= answer.throttle_time_ms / 1000
        other = await node.connect("other")
        began = now()
        await sent(other, 100_000)
        await sent(other, 100_000)
        assert now() - began < 0.1

    with_broker(ask)


def test_pipelined_requests_and_such_without_an_answer_wait_too() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client = await node.connect("app")
        await alter(await node.connect("admin"), {"client-id": "app"}, {"producer_byte_rate": 1000})
        began = now()
        log = broker.replicas.partition("t", 0)
        assert log is not None
        client.send(produce(15_000, acks=0), 9)
        client.send(produce(15_000, acks=0), 9)
        client.send(produce(1, acks=0), 9)
        await asyncio.sleep(1)
        assert log.log.log_end_offset == 1
        await asyncio.sleep(6)
        assert log.log.log_end_offset == 2
        await asyncio.sleep(40)
        assert log.log.log_end_offset == 3
        client.close()
        assert began

    with_broker(ask)


def test_a_connection_that_is_held_back_is_not_idle_and_can_end() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client = await node.connect("app")
        await alter(await node.connect("admin"), {"client-id": "app"}, {"producer_byte_rate": 1000})
        assert (await sent(client, 100_000)).throttle_time_ms > 60_000
        await asyncio.sleep(50)
        assert not client.closed.done()
        client.close()
        await asyncio.sleep(1)
        assert all(c.session is None or c.session.quotas is None for c in broker.server.connections if c.closing)

    with_broker(ask, connections__max__idle__ms=5000)


async def fetched(client: WireClient, offset: int, version: int = 12, **more: Any) -> tuple[int, int]:
    """Return how many bytes of records there were, and for how long the client is held back."""
    answer = await client.ask(fetch(offset, **more), version, FetchResponse)
    assert not answer.error_code
    return sum(len(p.records or b"") for t in answer.responses for p in t.partitions), answer.throttle_time_ms


def test_fetch_over_its_rate_gets_nothing_and_its_records_later() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        filler, client = await node.connect("filler"), await node.connect("app")
        for _ in range(40):
            await sent(filler, 2_000)
        await alter(filler, {"client-id": "app"}, {"consumer_byte_rate": 2000})
        size, throttle_ms = await fetched(client, 0)
        assert throttle_ms == 0
        assert 15_000 < size <= 20_000
        began = now()
        size_held, throttle_ms = await fetched(client, 9)
        assert size_held == 0
        assert throttle_ms == pytest.approx(9_000, abs=2_000)
        received, offset = size, 9
        while offset < 36:
            size, throttle_ms = await fetched(client, offset)
            received, offset = received + size, offset + round(size / 2_070)
        assert 0.5 < received / (now() - began + 10) / 2000 < 1.1

    with_broker(ask)


def test_a_batch_that_is_larger_than_any_window_is_given_all_the_same() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        filler, client = await node.connect("filler"), await node.connect("app")
        for _ in range(2):
            await sent(filler, 50_000)
        await alter(filler, {"client-id": "app"}, {"consumer_byte_rate": 1000})
        began = now()
        for offset in (0, 1):
            size, throttle_ms = await fetched(client, offset)
            assert size == pytest.approx(50_000, abs=200)
            assert throttle_ms == pytest.approx(40_000, abs=300)
        assert now() - began >= 40

    with_broker(ask)


def test_a_fetch_session_survives_an_empty_answer() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        filler, client = await node.connect("filler"), await node.connect("app")
        await alter(filler, {"client-id": "app"}, {"consumer_byte_rate": 1000})
        first = await client.ask(fetch(0, session=(0, 0)), 12, FetchResponse)
        assert first.session_id
        for _ in range(2):
            await sent(filler, 8_000)
        assert (await fetched(client, 0, session=(first.session_id, 1)))[0] > 8_000
        size, throttle_ms = await fetched(client, 1, session=(first.session_id, 2))
        assert size == 0
        assert throttle_ms
        assert (await fetched(client, 1, session=(first.session_id, 3)))[1]
        assert (await fetched(client, 1, session=(first.session_id, 4)))[0] > 8_000

    with_broker(ask)


def test_a_session_that_would_begin_over_the_rate_does_not_begin() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        filler, client = await node.connect("filler"), await node.connect("app")
        for _ in range(2):
            await sent(filler, 8_000)
        await alter(filler, {"client-id": "app"}, {"consumer_byte_rate": 1000})
        assert (await fetched(client, 0))[0]
        answer = await client.ask(fetch(1, session=(0, 0)), 12, FetchResponse)
        assert answer.throttle_time_ms
        assert answer.session_id == 0
        lost = await client.ask(fetch(1, session=(1, 1)), 12, FetchResponse)
        assert lost.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND

    with_broker(ask)


def test_replica_id_does_not_escape_quota() -> None:
    """Who calls itself a broker without knowing that one's epoch is held back like any consumer."""

    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        filler = await node.connect("filler")
        for _ in range(3):
            await sent(filler, 8_000)
        await alter(filler, ALL, {"consumer_byte_rate": 10})
        node_id = broker.config.node_id
        epoch = broker.image.brokers[node_id].broker_epoch
        for client_id, (replica, claimed) in enumerate(((node_id, -1), (node_id, epoch + 1), (7, epoch), (-1, -1))):
            client = await node.connect(str(client_id))
            for _ in range(20):
                size, throttle_ms = await fetched(client, 0, 15, replica=replica, epoch=claimed)
                assert size == 0 or (replica, throttle_ms > 0) == (-1, True)
                if throttle_ms:
                    break
            assert throttle_ms
            assert client_bucket(broker, str(client_id)) is not None
        genuine = await node.connect("broker")
        for _ in range(20):
            assert (await fetched(genuine, 0, 15, replica=node_id, epoch=epoch))[1] == 0

    with_broker(ask)


def client_bucket(broker: Broker, client_id: str) -> Any:
    for connection in broker.server.connections:
        charges = None if connection.session is None else connection.session.quotas
        if charges is not None and charges.client_id == client_id:
            return charges.fetch
    return None


def test_changes_of_topics_are_refused_or_held_back() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client, old = await node.connect("app"), await node.connect("app")
        await alter(client, {"client-id": "app"}, {"controller_mutation_rate": 1})

        async def create(by: WireClient, name: str, count: int, version: int = 7) -> tuple[int, int]:
            topic = CreatableTopic(name=name, num_partitions=count, replication_factor=1)
            answer = await by.ask(CreateTopicsRequest(topics=[topic]), version, CreateTopicsResponse)
            return answer.topics[0].error_code, answer.throttle_time_ms

        assert await create(client, "a", 20) == (0, 0)
        code, throttle_ms = await create(client, "b", 1)
        assert code == ErrorCode.THROTTLING_QUOTA_EXCEEDED
        assert throttle_ms == 9000
        assert "b" not in broker.image.topics
        began = now()
        code, throttle_ms = await create(old, "b", 1, version=5)
        assert code == 0
        assert throttle_ms == 10_000
        grow = CreatePartitionsRequest(topics=[CreatePartitionsTopic(name="a", count=22, assignments=None)])
        answer = await client.ask(grow, 3, CreatePartitionsResponse)
        assert now() - began >= 8.9  # this connection was held back, too
        assert answer.results[0].error_code == ErrorCode.THROTTLING_QUOTA_EXCEEDED
        deletion = DeleteTopicsRequest(topics=[DeleteTopicState(name="a")])
        deleted = await client.ask(deletion, 6, DeleteTopicsResponse)
        assert deleted.responses[0].error_code == 0
        refused = await client.ask(DeleteTopicsRequest(topics=[DeleteTopicState(name="b")]), 6, DeleteTopicsResponse)
        assert refused.responses[0].error_code == ErrorCode.THROTTLING_QUOTA_EXCEEDED
        assert refused.throttle_time_ms
        assert "b" in broker.image.topics

    with_broker(ask)


def test_throttle_time_stands_in_answers_of_every_form() -> None:
    """First in the answer, in the middle, and nowhere; the connection is held back by each."""

    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        admin, client = await node.connect("admin"), await node.connect("app")
        assert await alter(admin, {"client-id": "app"}, {"request_percentage": 1e-9}) == 0
        bucket = broker.quotas.of(next(c.session for c in broker.server.connections), "app", now() * 1000).request
        assert bucket is not None
        bucket.charge(100, now() * 1000)  # virtual time takes none
        began = now()
        metadata = await client.ask(MetadataRequest(topics=[]), 12, MetadataResponse)
        assert metadata.throttle_time_ms == 1000
        assert metadata.brokers
        versions = await client.ask(ApiVersionsRequest(), 2, ApiVersionsResponse)
        assert now() - began >= 1
        assert versions.throttle_time_ms == 1000
        assert versions.api_keys
        versions = await client.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)
        assert now() - began >= 2
        assert versions.api_keys
        assert (await sent(client, 10)).throttle_time_ms == 1000
        assert now() - began >= 3

    with_broker(ask)


def test_without_quotas_no_frame_is_metered() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client = await node.connect("app")
        unmetered = broker.server.handle
        await alter(client, {"user": "someone"}, {"producer_byte_rate": 1})
        assert broker.server.handle != unmetered
        await alter(client, {"user": "someone"}, {"producer_byte_rate": None})
        assert broker.server.handle == unmetered
        await alter(client, {"ip": "10.0.0.1"}, {"connection_creation_rate": 1})
        assert broker.server.handle == unmetered
        assert broker.server.address_rates.in_force

    with_broker(ask)


def test_quotas_survive_a_restart() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client = await node.connect("app")
        for entity in ({"user": "a/b", "client-id": None}, {"user": None}, {"user": "<default>"}, ALL):
            assert await alter(client, entity, {"consumer_byte_rate": 5}) == 0
        before = dict(broker.image.configs)
        node.kill()
        again = await node.start()
        assert dict(again.image.configs) == before
        assert again.quotas.in_force

    with_broker(ask)


def test_windows_are_configured() -> None:
    async def ask(node: SimulatedBroker, broker: Broker) -> None:
        client, admin = await node.connect("app"), await node.connect("admin")
        await alter(admin, {"client-id": "app"}, {"producer_byte_rate": 1000, "controller_mutation_rate": 1})
        # Three windows of two seconds: two of them, four seconds, are the least that counts.
        assert 1_000 <= (await sent(client, 5_000)).throttle_time_ms <= 1_200
        topic = CreatableTopic(name="a", num_partitions=41, replication_factor=1)
        answer = await client.ask(CreateTopicsRequest(topics=[topic]), 5, CreateTopicsResponse)
        assert answer.throttle_time_ms == 1000  # 5 * 8 tokens

    windows = {"quota.window.num": 3, "quota.window.size.seconds": 2}
    changes = {"controller.quota.window.num": 5, "controller.quota.window.size.seconds": 8}
    with_broker(ask, **windows, **changes)
