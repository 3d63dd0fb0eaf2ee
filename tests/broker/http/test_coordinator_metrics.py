"""What a running broker's coordinators show on /metrics."""

from __future__ import annotations

import asyncio

from tests.broker.story import started
from tests.broker.test_kafka_directory import commit

from ottla.broker.http.facts import LiveFacts
from ottla.broker.http.pages import Pages
from ottla.errors import ErrorCode
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
)
from ottla.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def shown(node: SimulatedBroker) -> set[str]:
    assert node.broker is not None
    body = Pages(LiveFacts(node.broker)).handle("/metrics").body
    assert not isinstance(body, bytes)
    return set(b"".join(body).decode().splitlines())


def test_groups_offsets_and_transactions_are_counted() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"offsets.topic.num.partitions": 3})
        assert "ottla_transactions_open_seconds_max 0.0" in shown(node)
        await commit(client, 5)
        assert {
            'kafka_server_group_coordinator_metrics_group_count{protocol="classic"} 1',
            'ottla_classic_group_count{state="Empty"} 1',
            "kafka_coordinator_group_groupmetadatamanager_numoffsets 1",
            'kafka_server_group_coordinator_metrics_num_partitions{state="active"} 3',
        } <= shown(node)

        await client.ask(FindCoordinatorRequest(key="tx", key_type=1), 2, FindCoordinatorResponse)
        request = InitProducerIdRequest(transactional_id="tx", transaction_timeout_ms=60_000)
        while True:  # the coordinator is loading at first
            identity = await client.ask(request, 4, InitProducerIdResponse)
            if identity.error_code != ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                break
            await asyncio.sleep(0.1)
        assert 'ottla_transactional_ids{state="Empty"} 1' in shown(node)
        adding = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id="tx",
            v3_and_below_producer_id=identity.producer_id,
            v3_and_below_producer_epoch=identity.producer_epoch,
            v3_and_below_topics=[AddPartitionsToTxnTopic(name="orders", partitions=[0])],
        )
        await client.ask(adding, 3, AddPartitionsToTxnResponse)
        await asyncio.sleep(7)
        assert 'ottla_transactional_ids{state="Ongoing"} 1' in shown(node)
        (age,) = [line for line in shown(node) if line.startswith("ottla_transactions_open_seconds_max")]
        assert 7 <= float(age.split()[1]) < 8
        ending = EndTxnRequest(
            transactional_id="tx",
            producer_id=identity.producer_id,
            producer_epoch=identity.producer_epoch,
            committed=True,
        )
        ended = await client.ask(ending, 3, EndTxnResponse)
        assert ended.error_code == ErrorCode.NONE
        await asyncio.sleep(1)
        assert {
            'ottla_transactional_ids{state="CompleteCommit"} 1',
            'ottla_transactions_ended_total{result="commit"} 1',
            "ottla_transaction_markers_pending 0",
            "ottla_transactions_open_seconds_max 0.0",
        } <= shown(node)
        await node.stop()

    run_virtual(1, story)
