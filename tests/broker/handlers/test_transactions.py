"""Transactions over the wire of a whole simulated broker: settings in force, versions, administration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from ottla.broker.broker import Broker
from ottla.broker.coordinators.transactions import records
from ottla.broker.coordinators.transactions.state import Transaction, TransactionState
from ottla.broker.transactions.gate import TransactionGate
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
)
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from ottla.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.messages.transaction_records import TransactionLogValue
from ottla.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import TRANSACTION_STATE_TOPIC, TopicPartition

T = TypeVar("T")


def with_broker(settings: dict[str, object], ask: Callable[[WireClient, Broker], Awaitable[T]]) -> T:
    """Return what `ask(client, broker)` does of a broker with these settings, a topic `t` and a coordinator."""
    return with_node(settings, lambda client, broker, _node: ask(client, broker))


def with_node(settings: dict[str, object], ask: Callable[[WireClient, Broker, SimulatedBroker], Awaitable[T]]) -> T:
    """Do as `with_broker`; `ask` can also open further connections."""

    async def scenario(loop: VirtualLoop) -> T:
        node = SimulatedBroker(loop, **settings)
        broker = await node.start()
        client = await node.connect()
        topic = CreatableTopic(name="t", num_partitions=2, replication_factor=1)
        await client.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)
        found = await client.ask(FindCoordinatorRequest(key_type=1, coordinator_keys=["x"]), 4, FindCoordinatorResponse)
        assert found.coordinators[0].error_code == ErrorCode.NONE
        await asyncio.sleep(0.1)
        try:
            return await ask(client, broker, node)
        finally:
            client.close()
            await node.stop()

    return run_virtual(1, scenario)[0]


async def init(client: WireClient, timeout_ms: int = 60_000, version: int = 5) -> InitProducerIdResponse:
    request = InitProducerIdRequest(transactional_id="x", transaction_timeout_ms=timeout_ms)
    return await client.ask(request, version, InitProducerIdResponse)


async def produce(client: WireClient, producer_id: int, epoch: int = 0, version: int = 12, sequence: int = 0) -> int:
    batch = build_batch(
        [Record(0, 0, None, b"v")],
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        transactional=True,
    )
    data = TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=bytes(batch))])
    request = ProduceRequest(transactional_id="x", acks=-1, timeout_ms=1_000, topic_data=[data])
    answer = await client.ask(request, version, ProduceResponse)
    return answer.responses[0].partition_responses[0].error_code


async def end(client: WireClient, producer_id: int, epoch: int = 0, *, commit: bool = True) -> EndTxnResponse:
    request = EndTxnRequest(transactional_id="x", producer_id=producer_id, producer_epoch=epoch, committed=commit)
    return await client.ask(request, 5, EndTxnResponse)


async def state(client: WireClient) -> str:
    answer = await client.ask(DescribeTransactionsRequest(transactional_ids=["x"]), 0, DescribeTransactionsResponse)
    row = answer.transaction_states[0]
    return row.transaction_state or ErrorCode(row.error_code).name


def test_features_are_announced() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[object]:
        found: list[object] = []
        for version in (2, 3, 4):
            request = ApiVersionsRequest(client_software_name="t", client_software_version="1")
            answer = await client.ask(request, version, ApiVersionsResponse)
            found.append(
                (
                    [(each.name, each.min_version, each.max_version) for each in answer.supported_features],
                    [(each.name, each.max_version_level) for each in answer.finalized_features],
                )
            )
        return found

    assert with_broker({}, ask) == [
        ([], []),
        ([], [("group.version", 1), ("share.version", 1), ("streams.version", 1), ("transaction.version", 2)]),
        (
            [
                ("group.version", 0, 1),
                ("share.version", 0, 1),
                ("streams.version", 0, 1),
                ("transaction.version", 0, 2),
            ],
            [("group.version", 1), ("share.version", 1), ("streams.version", 1), ("transaction.version", 2)],
        ),
    ]


def test_the_topic_of_transactions_is_made_as_configured() -> None:
    async def ask(client: WireClient, broker: Broker) -> tuple[int, int, dict[str, str]]:
        topic = broker.image.topics[TRANSACTION_STATE_TOPIC]
        config = dict(broker.image.topic_config(TRANSACTION_STATE_TOPIC))
        return len(topic.partitions), len(topic.partitions[0].replicas), config

    settings: dict[str, object] = {
        "transaction.state.log.num.partitions": 3,
        "transaction.state.log.replication.factor": 2,
        "transaction.state.log.min.isr": 2,
        "transaction.state.log.segment.bytes": 2 << 20,
        "transaction.state.log.load.buffer.size": 100,
    }
    assert with_broker(settings, ask) == (
        3,
        1,
        {
            "cleanup.policy": "compact",
            "compression.type": "uncompressed",
            "min.insync.replicas": "1",
            "segment.bytes": str(2 << 20),
            "unclean.leader.election.enable": "false",
        },
    )


def test_transaction_state_log_load_buffer_size() -> None:
    """A small buffer loads the same, in more steps."""

    async def ask(client: WireClient, broker: Broker) -> str:
        producer_id = (await init(client)).producer_id
        await produce(client, producer_id)
        partition = broker.coordinators.transactions.partition_for("x")
        broker.coordinators.transactions.on_resign(partition)
        broker.coordinators.transactions.on_leader(partition, 9)
        await asyncio.sleep(0.1)
        return await state(client)

    assert with_broker({"transaction.state.log.load.buffer.size": 1}, ask) == "Ongoing"


def test_transaction_max_timeout_ms() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[int]:
        return [(await init(client, timeout)).error_code for timeout in (0, 5_000, 5_001)]

    refused = ErrorCode.INVALID_TRANSACTION_TIMEOUT
    assert with_broker({"transaction.max.timeout.ms": 5_000}, ask) == [refused, ErrorCode.NONE, refused]


def test_an_overdue_transaction_is_aborted_and_its_producer_fenced() -> None:
    """transaction.abort.timed.out.transaction.cleanup.interval.ms"""

    async def ask(client: WireClient, broker: Broker) -> tuple[str, str, int, int]:
        producer_id = (await init(client, 1_000)).producer_id
        await produce(client, producer_id)
        await asyncio.sleep(0.9)
        before = await state(client)
        await asyncio.sleep(0.5)
        after = await state(client)
        fenced = await produce(client, producer_id, sequence=1)
        # A client of version 2 that aborts what was aborted goes on under the next epoch.
        return before, after, fenced, (await end(client, producer_id, commit=False)).producer_epoch

    settings: dict[str, object] = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": 200}
    expected = ("Ongoing", "CompleteAbort", ErrorCode.INVALID_PRODUCER_EPOCH, 1)
    assert with_broker(settings, ask) == expected


def test_transactional_id_expiration_ms() -> None:
    """With transaction.remove.expired.transaction.cleanup.interval.ms; an open transaction stays."""

    async def ask(client: WireClient, broker: Broker) -> list[str]:
        producer_id = (await init(client)).producer_id
        await produce(client, producer_id)
        await asyncio.sleep(10)
        found = [await state(client)]
        await end(client, producer_id)
        await asyncio.sleep(0.8)
        found.append(await state(client))
        await asyncio.sleep(2)
        return [*found, await state(client)]

    settings: dict[str, object] = {
        "transactional.id.expiration.ms": 1_500,
        "transaction.remove.expired.transaction.cleanup.interval.ms": 100,
    }
    assert with_broker(settings, ask) == ["Ongoing", "CompleteCommit", "TRANSACTIONAL_ID_NOT_FOUND"]


def test_transaction_partition_verification_enable() -> None:
    async def ask(client: WireClient, broker: Broker) -> int:
        return await produce(client, (await init(client)).producer_id, version=11)

    assert with_broker({}, ask) == ErrorCode.TRANSACTION_ABORTABLE
    assert with_broker({"transaction.partition.verification.enable": "false"}, ask) == ErrorCode.NONE


def test_a_partition_is_tried_again_while_the_transaction_before_is_being_ended() -> None:
    """add.partitions.to.txn.retry.backoff.ms, add.partitions.to.txn.retry.backoff.max.ms"""

    async def ask(client: WireClient, broker: Broker) -> tuple[int, float]:
        producer_id = (await init(client)).producer_id
        await produce(client, producer_id)
        transactions, markers = broker.coordinators.transactions, broker.coordinators.markers
        markers.send = lambda coordinator_partition, markers: None  # type: ignore[method-assign]
        for partition in transactions.loaded_partitions:
            transactions.read(partition, lambda shard: setattr(shard, "_send_markers", markers.send))
        await end(client, producer_id)
        loop = asyncio.get_running_loop()
        started = loop.time()
        return await produce(client, producer_id, 1), round(loop.time() - started, 2)

    settings: dict[str, object] = {
        "add.partitions.to.txn.retry.backoff.ms": 40,
        "add.partitions.to.txn.retry.backoff.max.ms": 200,
    }
    assert with_broker(settings, ask) == (ErrorCode.CONCURRENT_TRANSACTIONS, 0.2)


def test_partitions_that_do_not_exist_keep_the_others_out() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[int]:
        producer_id = (await init(client)).producer_id
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id="x",
            v3_and_below_producer_id=producer_id,
            v3_and_below_topics=[AddPartitionsToTxnTopic(name="t", partitions=[0, 7])],
        )
        answer = await client.ask(request, 3, AddPartitionsToTxnResponse)
        rows = answer.results_by_topic_v3_and_below[0].results_by_partition
        assert await state(client) == "Empty"
        return [row.partition_error_code for row in rows]

    expected = [ErrorCode.OPERATION_NOT_ATTEMPTED, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert with_broker({}, ask) == expected


def test_older_clients_are_told_of_a_fence_in_their_words() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[int]:
        producer_id = (await init(client)).producer_id
        codes = []
        for version in (1, 2):
            request = EndTxnRequest(transactional_id="x", producer_id=producer_id, producer_epoch=7, committed=True)
            codes.append((await client.ask(request, version, EndTxnResponse)).error_code)
        return codes

    assert with_broker({}, ask) == [ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.PRODUCER_FENCED]


def test_a_hanging_transaction_is_ended_by_hand() -> None:
    """What `kafka-transactions abort` sends for a transaction that the coordinator does not know."""

    async def ask(client: WireClient, broker: Broker) -> tuple[list[int], int]:
        partition = broker.replicas.partition("t", 0)
        assert partition is not None
        await produce(client, 4_711, version=11)
        open_at = partition.log.last_stable_offset
        topics = [WritableTxnMarkerTopic(name="t", partition_indexes=[0, 9])]
        marker = WritableTxnMarker(producer_id=4_711, transaction_result=False, topics=topics)
        answer = await client.ask(WriteTxnMarkersRequest(markers=[marker]), 1, WriteTxnMarkersResponse)
        rows = answer.markers[0].topics[0].partitions
        return [row.error_code for row in rows], partition.log.last_stable_offset - open_at

    settings: dict[str, object] = {"transaction.partition.verification.enable": "false"}
    assert with_broker(settings, ask) == ([ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION], 2)


def test_list_transactions_filters() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[object]:
        producer_id = (await init(client)).producer_id
        await produce(client, producer_id)
        await asyncio.sleep(1)
        found: list[object] = []
        for request in (
            ListTransactionsRequest(),
            ListTransactionsRequest(state_filters=["Empty", "Nonsense"]),
            ListTransactionsRequest(producer_id_filters=[producer_id + 1]),
            ListTransactionsRequest(duration_filter=2_000),
            ListTransactionsRequest(duration_filter=500),
            ListTransactionsRequest(transactional_id_pattern="[w-y]"),
            ListTransactionsRequest(transactional_id_pattern="y"),
            ListTransactionsRequest(transactional_id_pattern="("),
        ):
            answer = await client.ask(request, 2, ListTransactionsResponse)
            rows = [each.transaction_state for each in answer.transaction_states]
            found.append(answer.error_code or answer.unknown_state_filters or rows)
        return found

    assert with_broker({}, ask) == [
        ["Ongoing"],
        ["Nonsense"],
        [],
        [],
        ["Ongoing"],
        ["Ongoing"],
        [],
        ErrorCode.INVALID_REGULAR_EXPRESSION,
    ]


def test_the_records_are_kafkas() -> None:
    """Bytes that Apache Kafka 4.3.1 wrote for an ongoing transaction of the id `c`."""
    key = bytes.fromhex("0000000163")
    value = bytes.fromhex(
        "0001000000000000002100010000ea6001020274020000000000000001a1fdb4559d000001a1fdb4559d0100080000000000000021"
    )
    decoded = records.decode(key, value)
    assert decoded is not None
    assert isinstance(decoded.value, TransactionLogValue)
    found = records.to_transaction("c", decoded.value)
    assert found == Transaction(
        transactional_id="c",
        producer_id=33,
        producer_epoch=1,
        previous_producer_id=33,
        timeout_ms=60_000,
        state=TransactionState.ONGOING,
        partitions=frozenset({TopicPartition("t", 0)}),
        started_ms=1_795_257_816_477,
        updated_ms=1_795_257_816_477,
    )
    assert records.encode(records.transaction(found, 2)) == (key, value)
    assert records.encode(records.tombstone("c")) == (key, None)


def test_every_transaction_api_is_served() -> None:
    async def ask(client: WireClient, broker: Broker) -> set[int]:
        request = ApiVersionsRequest(client_software_name="t", client_software_version="1")
        answer = await client.ask(request, 3, ApiVersionsResponse)
        return {each.api_key for each in answer.api_keys}

    assert with_broker({}, ask) >= {
        ApiKey.ADD_PARTITIONS_TO_TXN,
        ApiKey.ADD_OFFSETS_TO_TXN,
        ApiKey.END_TXN,
        ApiKey.WRITE_TXN_MARKERS,
        ApiKey.TXN_OFFSET_COMMIT,
        ApiKey.DESCRIBE_TRANSACTIONS,
        ApiKey.LIST_TRANSACTIONS,
    }


def test_a_transaction_of_a_deleted_topic_ends() -> None:
    async def ask(client: WireClient, broker: Broker) -> str:
        producer_id = (await init(client)).producer_id
        await produce(client, producer_id)
        await broker.controller.delete_topics(["t"])
        await end(client, producer_id)
        await asyncio.sleep(0.1)
        assert broker.replicas.partition(*TopicPartition("t", 0)) is None
        return await state(client)

    assert with_broker({}, ask) == "CompleteCommit"


def test_a_batch_whose_transaction_has_ended_while_the_coordinator_was_asked_is_refused() -> None:
    """The coordinator may be on another broker: its answer is right when it is given, and late."""
    answered, delivered = asyncio.Event(), asyncio.Event()
    ask_coordinator = TransactionGate._ask

    async def ask_slowly(*arguments: Any, **options: Any) -> Any:
        answer = await ask_coordinator(*arguments, **options)
        answered.set()
        await delivered.wait()
        return answer

    async def ask(client: WireClient, broker: Broker, node: SimulatedBroker) -> tuple[int, str, list[int]]:
        producer_id = (await init(client)).producer_id
        add = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id="x",
            v3_and_below_producer_id=producer_id,
            v3_and_below_producer_epoch=0,
            v3_and_below_topics=[AddPartitionsToTxnTopic(name="t", partitions=[0])],
        )
        await client.ask(add, 3, AddPartitionsToTxnResponse)
        late = asyncio.ensure_future(produce(client, producer_id, version=11))
        await answered.wait()
        other = await node.connect()
        abort = EndTxnRequest(transactional_id="x", producer_id=producer_id, producer_epoch=0, committed=False)
        await other.ask(abort, 4, EndTxnResponse)
        await asyncio.sleep(0.1)
        ended = await state(other)
        other.close()
        delivered.set()
        code = await late
        partition = broker.replicas.partition("t", 0)
        assert partition is not None
        return code, ended, [partition.log.log_end_offset, partition.log.last_stable_offset]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionGate, "_ask", ask_slowly)
        assert with_node({}, ask) == (ErrorCode.INVALID_TXN_STATE, "CompleteAbort", [1, 1])
