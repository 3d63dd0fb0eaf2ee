"""While no controller is elected clients are sent to a broker that is there, and it does what they ask for."""

from __future__ import annotations

import asyncio

import pytest
from tests.replication.story import simulate

from ottla.cluster.office import Office
from ottla.cluster.tree import TreeUnavailableError
from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.testing.simulated_cluster import SimulatedCluster


def test_metadata_names_a_living_broker_for_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka did not ask again when it had heard of none: its CreateTopics, sent to a young cluster, timed out.

    1. The controller is killed, and the others do not get at its office. 2. A broker that knows of no controller names
    itself, and 3. makes a topic. 4. It names the next controller as soon as there is one.
    """
    take = Office.try_take
    is_blocked = False

    async def try_take(office: Office) -> bool:
        if is_blocked:
            await asyncio.sleep(0.1)
            raise TreeUnavailableError("it is unknown")
        return await take(office)

    monkeypatch.setattr(Office, "try_take", try_take)

    async def scenario(cluster: SimulatedCluster) -> None:
        nonlocal is_blocked
        await cluster.start()
        assert cluster[1].broker is not None
        gone = cluster[1].broker.image.controller_id
        asked = next(node_id for node_id in cluster.machines if node_id != gone)
        client = await cluster.connect(asked)

        async def controllers() -> tuple[int, int]:
            """Return what Metadata says and what DescribeCluster says."""
            answer = await client.ask(MetadataRequest(topics=[]), 12, MetadataResponse)
            described = await client.ask(DescribeClusterRequest(), 0, DescribeClusterResponse)
            assert answer.controller_id in {row.node_id for row in answer.brokers}
            return answer.controller_id, described.controller_id

        async def changed(before: int) -> tuple[int, int]:
            """Return both as soon as DescribeCluster says something else."""
            for _ in range(600):
                if (named := await controllers())[1] != before:
                    return named
                await asyncio.sleep(0.1)
            raise AssertionError(f"the controller is {before} all the time")

        assert await controllers() == (gone, gone)
        is_blocked = True
        cluster[gone].kill()
        assert await changed(gone) == (asked, -1)
        topic = CreatableTopic(name="t", num_partitions=1, replication_factor=1)
        created = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=1_000), 7, CreateTopicsResponse)
        assert created.topics[0].error_code == ErrorCode.NONE
        is_blocked = False
        named, known = await changed(-1)
        assert named == known != gone

    simulate(scenario)
