"""What brokers believe of each other, and what comes too late: Envelopes, markers, verification, counts of partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, cast

import pytest
from tests.broker.handlers.test_transactions import init, produce, with_broker
from tests.cluster.cluster_support import image_with

from ottla.broker.broker import Broker
from ottla.broker.context import Session
from ottla.broker.coordinators.runtime import CoordinatorRuntime
from ottla.broker.coordinators.transactions.coordinator import Markers, TransactionCoordinator
from ottla.broker.forwarding import Forwarding
from ottla.broker.peers import Peers
from ottla.broker.sender_fence import Sender, SenderFence
from ottla.broker.transactions.gate import TransactionGate
from ottla.broker.transactions.markers import MarkerLog, TransactionMarkers
from ottla.broker.transactions.remote import RemoteTransactions
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topics import plan_growth
from ottla.cluster.image import BrokerImage, ClusterImage, Endpoint
from ottla.errors import BrokerNotAvailableError, ErrorCode, RemoteProtocolError
from ottla.network.channel import ChannelSettings
from ottla.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTopicResult,
)
from ottla.protocol.messages.envelope import EnvelopeRequest
from ottla.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopic,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import GROUP_METADATA_TOPIC, TopicPartition

ONE = BrokerImage(1, 3, (Endpoint("BROKERS", "one", 9092, "PLAINTEXT"),), process="secret")


# -- envelopes


def open_envelope(listener: str, request: EnvelopeRequest, sender: BrokerImage = ONE) -> Session | ErrorCode:
    image = ClusterImage(brokers={1: sender, 3: ONE._replace(node_id=3, process="")})
    peers = Peers(2, lambda: image, listener="BROKERS", settings=ChannelSettings())

    async def refresh() -> None: ...

    forwarding = Forwarding(peers, image=lambda: image, is_controller=lambda: True, process="own", refresh=refresh)
    return forwarding.open_envelope(Session(listener=listener, client_host="10.0.0.1"), request)


def test_an_envelope_is_believed_from_a_registered_broker_that_knows_its_own_secret() -> None:
    request = EnvelopeRequest(
        request_principal=b"User:alice", client_host_address=b"10.1.2.3", broker_id=1, process="secret"
    )
    session = open_envelope("BROKERS", request)
    assert isinstance(session, Session)
    assert (session.principal, session.client_host) == ("User:alice", "10.1.2.3")


@pytest.mark.parametrize(("broker_id", "process"), [(1, ""), (1, "guess"), (3, ""), (7, "secret"), (-1, "")])
def test_an_envelope_of_somebody_else_is_not(broker_id: int, process: str) -> None:
    request = EnvelopeRequest(request_principal=b"User:admin", broker_id=broker_id, process=process)
    assert open_envelope("BROKERS", request) is ErrorCode.CLUSTER_AUTHORIZATION_FAILED


def test_envelope_on_client_listener_closes() -> None:
    with pytest.raises(RemoteProtocolError, match="an Envelope came on the listener CLIENTS, which is for clients"):
        open_envelope("CLIENTS", EnvelopeRequest(broker_id=1, process="secret"))


@pytest.mark.parametrize("listener", ["BROKERS", "PLAIN"])
def test_an_envelope_is_believed_on_the_listener_that_its_sender_uses_for_brokers(listener: str) -> None:
    """Brokers that are moved to another `inter.broker.listener.name`, one by one, still reach the controller."""
    sender = ONE._replace(listener="PLAIN")
    request = EnvelopeRequest(
        request_principal=b"User:alice", client_host_address=b"10.1.2.3", broker_id=1, process="secret"
    )
    if listener == "PLAIN":
        assert isinstance(open_envelope(listener, request, sender), Session)
    else:
        with pytest.raises(RemoteProtocolError, match="BROKERS, which is for clients"):
            open_envelope(listener, request, sender)


# -- requests that come late


def test_requests_of_a_connection_that_was_given_up_are_refused() -> None:
    fence = SenderFence()
    assert fence.admits(Sender(1, 4, 1))
    assert fence.admits(Sender(1, 4, 2))
    assert fence.admits(Sender(2, 4, 1))
    assert not fence.admits(Sender(1, 4, 1))
    assert fence.admits(Sender(1, 5, 1))  # the broker was started anew
    assert not fence.admits(Sender(1, 4, 9))
    assert fence.admits(Sender())  # kafka-transactions abort


def markers_of(producer_id: int, epoch: int, connection_number: int) -> WriteTxnMarkersRequest:
    marker = WritableTxnMarker(
        producer_id=producer_id,
        producer_epoch=epoch,
        transaction_result=True,
        topics=[WritableTxnMarkerTopic(name="t", partition_indexes=[0])],
        coordinator_epoch=0,
    )
    return WriteTxnMarkersRequest(markers=[marker], broker_id=9, broker_epoch=1, connection_number=connection_number)


def test_late_marker_next_transaction() -> None:
    """1. A marker is on its way when its connection breaks. 2. It is sent again, on another one, and the transaction is over.

    3. The next transaction of the same producer epoch (transaction version 1) begins. 4. The first marker arrives: it is
    refused, and the transaction goes on.
    """

    async def ask(client: WireClient, broker: Broker) -> list[Any]:
        found = await init(client)
        producer_id, epoch = found.producer_id, found.producer_epoch

        async def add() -> None:
            topic = AddPartitionsToTxnTopic(name="t", partitions=[0])
            request = AddPartitionsToTxnRequest(
                v3_and_below_transactional_id="x",
                v3_and_below_producer_id=producer_id,
                v3_and_below_producer_epoch=epoch,
                v3_and_below_topics=[topic],
            )
            answer = await client.ask(request, 3, AddPartitionsToTxnResponse)
            rows = answer.results_by_topic_v3_and_below[0].results_by_partition
            assert rows[0].partition_error_code == ErrorCode.NONE

        async def mark(number: int) -> ErrorCode:
            answer = await client.ask(markers_of(producer_id, epoch, number), 2, WriteTxnMarkersResponse)
            return ErrorCode(answer.markers[0].topics[0].partitions[0].error_code)

        partition = broker.replicas.partition("t", 0)
        assert partition is not None
        await add()
        assert await produce(client, producer_id, epoch, 11) == ErrorCode.NONE
        assert await mark(2) == ErrorCode.NONE
        assert partition.log.last_stable_offset == partition.log.log_end_offset
        assert await produce(client, producer_id, epoch, 11, sequence=1) == ErrorCode.NONE
        first = partition.log.last_stable_offset
        assert first < partition.log.log_end_offset
        late = await mark(1)
        return [late, partition.log.last_stable_offset - first, await mark(2)]

    assert with_broker({}, ask) == [ErrorCode.STALE_BROKER_EPOCH, 0, ErrorCode.NONE]


# -- answers of brokers that lag behind


class OtherBroker:
    """Answers what is asked of it from a list."""

    node_id = 1

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    async def ask(self, node_id: int, request: Any, answer: type, **_: object) -> Any:
        self.asked.append(request(len(self.asked)) if callable(request) else request)
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def marked(code: ErrorCode) -> WriteTxnMarkersResponse:
    row = WritableTxnMarkerPartitionResult(partition_index=0, error_code=code)
    topic = WritableTxnMarkerTopicResult(name="t", partitions=[row])
    return WriteTxnMarkersResponse(markers=[WritableTxnMarkerResult(producer_id=5, topics=[topic])])


class PendingTransaction:
    """The transaction coordinator, as `TransactionMarkers` uses it: one transaction that waits for its markers."""

    def __init__(self) -> None:
        self.completed = False

    def read(self, partition: int, query: Callable[[Any], Any]) -> bool:
        return not self.completed

    def leader_epoch(self, partition: int) -> int:
        return 7

    async def write(self, partition: int, operation: Callable[[Any, int], Any]) -> None:
        self.completed = True


async def write_markers(leaders: Sequence[int | None], other: OtherBroker) -> bool:
    """Have a marker for t-0 written, and return whether that came to an end; `leaders`: what is known of its leader."""
    known = list(leaders)
    remote = RemoteTransactions(cast(Peers, other), lambda: 4)

    async def refresh() -> None:
        known.pop(0)

    markers = TransactionMarkers(
        cast(MarkerLog, None), leader_of=lambda _topic_partition: known[0], remote=remote, refresh=refresh
    )
    transaction = PendingTransaction()
    markers.transactions = cast(CoordinatorRuntime[TransactionCoordinator], transaction)
    markers.send(
        0,
        Markers(
            transactional_id="x",
            producer_id=5,
            producer_epoch=0,
            commit=True,
            partitions=(TopicPartition("t", 0),),
            transaction_version=2,
            decided_at=0,
        ),
    )
    while len(markers):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.01)
    return transaction.completed


def test_marker_to_lagging_broker() -> None:
    """A broker that has not heard of the topic yet, or is away for a while, gets the marker again: only the own image, read

    after a sync, says that a partition is gone.
    """

    async def scenario(_loop: VirtualLoop) -> None:
        other = OtherBroker(
            marked(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            BrokerNotAvailableError(),
            marked(ErrorCode.NOT_LEADER_OR_FOLLOWER),
            marked(ErrorCode.NONE),
        )
        assert await write_markers([2], other)
        assert other.answers == []
        sent = [(r.markers[0].coordinator_epoch, r.broker_id, r.broker_epoch) for r in other.asked]
        assert sent == [(7, 1, 4)] * 4

        late = OtherBroker(marked(ErrorCode.NONE))
        assert await write_markers([None, 2], late)  # this broker had not heard of the topic itself
        assert late.answers == []

        assert await write_markers([None, None], OtherBroker())  # it is gone indeed
        assert await write_markers([2], OtherBroker(marked(ErrorCode.TRANSACTION_COORDINATOR_FENCED)))

    run_virtual(1, scenario)


def verified(code: ErrorCode, coordinator_epoch: int) -> AddPartitionsToTxnResponse:
    row = AddPartitionsToTxnPartitionResult(partition_index=0, partition_error_code=code)
    topic = AddPartitionsToTxnTopicResult(name="t", results_by_partition=[row])
    result = AddPartitionsToTxnResult(transactional_id="x", topic_results=[topic], coordinator_epoch=coordinator_epoch)
    return AddPartitionsToTxnResponse(results_by_transaction=[result])


async def test_the_answer_of_another_coordinator_has_its_epoch() -> None:
    async def add(*answers: Any) -> tuple[list[ErrorCode], int]:
        remote = RemoteTransactions(cast(Peers, OtherBroker(*answers)), lambda: 4)
        return await remote.add_partitions(2, "x", (5, 0), [TopicPartition("t", 0)], adds=False)

    assert await add(verified(ErrorCode.NONE, 6)) == ([ErrorCode.NONE], 6)
    assert await add(verified(ErrorCode.INVALID_TXN_STATE, 6)) == ([ErrorCode.INVALID_TXN_STATE], 6)
    # It has not heard of the topic yet.
    lagging = verified(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)
    assert await add(lagging) == ([ErrorCode.COORDINATOR_NOT_AVAILABLE], -1)
    assert await add(BrokerNotAvailableError()) == ([ErrorCode.COORDINATOR_NOT_AVAILABLE], -1)


def test_zombie_verifies() -> None:
    """1. A coordinator of epoch 6 is deposed without knowing it; its successor, of epoch 7, ends the transaction. 2. The

    deposed one still says that the partition takes part. 3. The append that rests on this is refused.
    """

    async def ask(client: WireClient, broker: Broker) -> list[ErrorCode]:
        found = await init(client)
        producer = (found.producer_id, found.producer_epoch)
        assert await produce(client, *producer) == ErrorCode.NONE
        request = markers_of(*producer, 1)
        request.markers[0].coordinator_epoch = 7
        answer = await client.ask(request, 2, WriteTxnMarkersResponse)
        assert answer.markers[0].topics[0].partitions[0].error_code == ErrorCode.NONE
        codes = []
        for epoch in (6, 7):

            async def answer_of(*_: Any, epoch: int = epoch, **__: Any) -> tuple[list[ErrorCode], int]:
                return [ErrorCode.NONE], epoch

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TransactionGate, "_ask", answer_of)
                codes.append(ErrorCode(await produce(client, *producer, sequence=1)))
        return codes

    assert with_broker({}, ask) == [ErrorCode.INVALID_TXN_STATE, ErrorCode.NONE]


# -- how many partitions an internal topic has


def test_two_counts() -> None:
    """All brokers hash groups with the count in the topic's node: it does not change, and without one nothing is hashed."""
    image = image_with({GROUP_METADATA_TOPIC: 50}, 1)
    refusal = plan_growth(image, GROUP_METADATA_TOPIC, 60, None, Random(1))
    assert isinstance(refusal, Refusal)
    assert refusal.error is ErrorCode.INVALID_REQUEST

    async def ask(client: WireClient, broker: Broker) -> tuple[int, bool]:
        found = await init(client)
        assert GROUP_METADATA_TOPIC not in broker.image.topics
        request = AddOffsetsToTxnRequest(
            transactional_id="x", producer_id=found.producer_id, producer_epoch=found.producer_epoch, group_id="g"
        )
        answer = await client.ask(request, 4, AddOffsetsToTxnResponse)
        return answer.error_code, GROUP_METADATA_TOPIC in broker.image.topics

    assert with_broker({}, ask) == (ErrorCode.NONE, True)
