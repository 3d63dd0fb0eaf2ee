"""What a cluster is asked for and cannot be: one clear sentence each, and nothing is changed.

Ids, addresses and directories that are taken: `test_registration.py`; newer trees, Apache Kafka's chroots:
`test_preparation.py`; processes on a real ensemble: `test_several_brokers.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.replication.story import simulate

from ottla.cluster import tree
from ottla.errors import ErrorCode
from ottla.protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignableTopic,
)
from ottla.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from ottla.protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from ottla.testing.simulated_cluster import SimulatedCluster
from ottla.testing.wire import WireClient

Answer = tuple[ErrorCode, str]


async def create(client: WireClient, topic: CreatableTopic) -> Answer:
    answer = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=30_000), 7, CreateTopicsResponse)
    return ErrorCode(answer.topics[0].error_code), str(answer.topics[0].error_message)


async def too_many_replicas(client: WireClient) -> Answer:
    return await create(client, CreatableTopic(name="new", num_partitions=1, replication_factor=4))


async def an_absent_broker(client: WireClient) -> Answer:
    rows = [CreatableReplicaAssignment(partition_index=0, broker_ids=[1, 9])]
    return await create(client, CreatableTopic(name="new", num_partitions=-1, replication_factor=-1, assignments=rows))


async def too_many_partitions(client: WireClient) -> Answer:
    return await create(client, CreatableTopic(name="new", num_partitions=60_000, replication_factor=3))


async def moved_to_an_absent_broker(client: WireClient) -> Answer:
    part = ReassignablePartition(partition_index=0, replicas=[1, 9])
    request = AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name="t", partitions=[part])])
    answer = await client.ask(request, 0, AlterPartitionReassignmentsResponse)
    row = answer.responses[0].partitions[0]
    return ErrorCode(row.error_code), str(row.error_message)


async def grown_beyond_a_request_of_the_tree(client: WireClient) -> Answer:
    request = CreatePartitionsRequest(
        topics=[CreatePartitionsTopic(name="t", count=500, assignments=None)], timeout_ms=30_000
    )
    answer = await client.ask(request, 3, CreatePartitionsResponse)
    return ErrorCode(answer.results[0].error_code), str(answer.results[0].error_message)


@pytest.mark.parametrize(
    ("ask", "code", "words"),
    [
        (too_many_replicas, ErrorCode.INVALID_REPLICATION_FACTOR, "only 3 broker(s) are registered"),
        (an_absent_broker, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "includes broker 9, but no such broker is registered"),
        (too_many_partitions, ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request."),
        (
            moved_to_an_absent_broker,
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "includes broker 9, but no such broker is registered",
        ),
        (
            grown_beyond_a_request_of_the_tree,
            ErrorCode.INVALID_REQUEST,
            "too large for the coordination tree: /brokers/topics/t: the request has",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_bad_requests_are_answered_with_one_sentence_and_change_nothing(
    ask: Callable[[WireClient], Awaitable[Answer]], code: ErrorCode, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        monkeypatch.setattr(tree, "REQUEST_BYTES_MAX", 6_000)
        before = nodes(cluster)
        for node_id in (1, 2):  # the controller, and one that is not
            client = await cluster.connect(node_id)
            answer = await ask(client)
            assert answer[0] is code, answer
            assert words in answer[1]
            client.close()
        assert nodes(cluster) == before

    simulate(scenario)


def nodes(cluster: SimulatedCluster) -> dict[str, Any]:
    """What the tree says of topics."""
    store = cluster.ensemble.committed
    found: dict[str, Any] = {}
    waiting = ["/brokers/topics", "/topic_ids", "/config"]
    while waiting:
        path = waiting.pop()
        node = store.node(path)
        assert node is not None
        found[path] = node.data, node.stat.version
        waiting += [f"{path}/{name}" for name in store.children(path)]
    return found
