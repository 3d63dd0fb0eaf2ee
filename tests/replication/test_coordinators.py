"""Groups whose coordinator is replaced without knowing it: what it may still answer."""

from __future__ import annotations

import asyncio

from tests.replication.story import simulate

from ottla.errors import ErrorCode
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest, DescribeGroupsResponse
from ottla.protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ReplicaState,
)
from ottla.protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchResponse,
)
from ottla.testing.simulated_cluster import SimulatedCluster
from ottla.types import GROUP_METADATA_TOPIC

GROUP = "g"
#: One partition, so that it is clear who the coordinator is.
SETTINGS = {"offsets.topic.num.partitions": 1}


async def commit(cluster: SimulatedCluster, node_id: int, offset: int) -> ErrorCode:
    row = OffsetCommitRequestTopic(
        name="t", partitions=[OffsetCommitRequestPartition(partition_index=0, committed_offset=offset)]
    )
    client = await cluster.connect(node_id)
    request = OffsetCommitRequest(group_id=GROUP, topics=[row])
    answer = await client.ask(request, 8, OffsetCommitResponse)
    client.close()
    return ErrorCode(answer.topics[0].partitions[0].error_code)


async def committed(cluster: SimulatedCluster, node_id: int, offset: int) -> None:
    """Commit an offset until that is acknowledged."""
    while (await commit(cluster, node_id, offset)) is not ErrorCode.NONE:  # noqa: ASYNC110  # the answer changes with time
        await asyncio.sleep(0.1)


async def fetched(cluster: SimulatedCluster, node_id: int, *, stable: bool = False) -> int | ErrorCode:
    """Ask one broker for the committed offset."""
    client = await cluster.connect(node_id)
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=GROUP, topics=None)], require_stable=stable)
    answer = await client.ask(request, 8, OffsetFetchResponse)
    client.close()
    group = answer.groups[0]
    return ErrorCode(group.error_code) if group.error_code else group.topics[0].partitions[0].committed_offset


async def described(cluster: SimulatedCluster, node_id: int) -> ErrorCode:
    client = await cluster.connect(node_id)
    answer = await client.ask(DescribeGroupsRequest(groups=[GROUP]), 5, DescribeGroupsResponse)
    client.close()
    return ErrorCode(answer.groups[0].error_code)


async def listed(cluster: SimulatedCluster, node_id: int) -> ErrorCode:
    client = await cluster.connect(node_id)
    answer = await client.ask(ListGroupsRequest(), 4, ListGroupsResponse)
    client.close()
    return ErrorCode(answer.error_code)


async def begin(cluster: SimulatedCluster) -> None:
    """Broker 1 coordinates the group, whose offset is 5; all three are in sync."""
    await cluster.start()
    await cluster.make_topic("t", [(1, 2, 3)])
    await cluster.make_topic(GROUP_METADATA_TOPIC, [(1, 2, 3)], **{"cleanup.policy": "compact"})
    await cluster.has_isr(GROUP_METADATA_TOPIC, 1, 2, 3)
    await committed(cluster, 1, 5)


def test_offset_fetch_from_a_zombie() -> None:
    """`offset_fetch_from_a_zombie`: 1. The coordinator is stopped (SIGSTOP). 2. Its successor takes a commit. 3. The first

    one goes on, with a question for the offset in its socket and fetches of its followers before that. It must not answer
    what it knows, nor may those fetches, sent before the question, pass for a proof.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await begin(cluster)
        assert await fetched(cluster, 1) == 5
        cluster[1].freeze()
        await cluster.has_leader(GROUP_METADATA_TOPIC, 2)
        await committed(cluster, 2, 9)
        asked = [
            asyncio.ensure_future(ask)
            for ask in (
                fetched(cluster, 1),
                fetched(cluster, 1, stable=True),
                described(cluster, 1),
                listed(cluster, 1),
            )
        ]
        await asyncio.sleep(0.2)
        cluster[1].thaw()
        answers = [await ask for ask in asked]
        assert answers[:3] == [ErrorCode.NOT_COORDINATOR] * 3
        assert answers[3] in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NONE)
        assert await fetched(cluster, 2) == 9

    for seed in range(5):
        simulate(scenario, seed, **SETTINGS)


def test_the_coordinator_is_moved_while_its_session_lives() -> None:
    """A preferred election moves a leader whose session and lease live: only its followers, or the tree, tell it so."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await begin(cluster)
        cluster[1].tree.swallow()  # it hears nothing of the tree, whose servers hear of it
        broker = cluster[2].broker
        assert broker is not None
        state = cluster.state(GROUP_METADATA_TOPIC)
        force_leader(cluster, 2, state.leader_epoch + 1)
        await committed(cluster, 2, 9)
        assert await fetched(cluster, 1) is ErrorCode.NOT_COORDINATOR
        cluster[1].tree.let_through()
        assert await fetched(cluster, 2) == 9

    simulate(scenario, session_timeout_ms=60_000, **SETTINGS)


def force_leader(cluster: SimulatedCluster, leader: int, leader_epoch: int) -> None:
    from tests.replication.test_scenarios import force

    force(cluster, GROUP_METADATA_TOPIC, leader=leader, leader_epoch=leader_epoch)


def test_a_fetch_that_was_sent_before_the_question_proves_nothing() -> None:
    """What a follower sent before may lie in a socket while another broker is elected; what follows an answer was sent later.

    The test speaks in the place of broker 2.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic(GROUP_METADATA_TOPIC, [(1, 2)])
        await cluster.has_isr(GROUP_METADATA_TOPIC, 1, 2)
        broker = cluster[1].broker
        assert broker is not None
        topic, end = broker.image.topics[GROUP_METADATA_TOPIC], 0
        cluster.cut(1, 2)
        cluster[1].tree.swallow()
        me = ReplicaState(replica_id=2, replica_epoch=broker.image.brokers[2].broker_epoch)
        follower = await cluster.connect(1)
        session_id = 0

        async def fetch(session_epoch: int) -> None:
            nonlocal session_id
            row = FetchPartition(
                partition=0, fetch_offset=end, current_leader_epoch=topic.partitions[0].leader_epoch, log_start_offset=0
            )
            topics = [] if session_id else [FetchTopic(topic_id=topic.topic_id, partitions=[row])]
            request = FetchRequest(
                replica_state=me,
                max_wait_ms=60_000 if session_id else 0,
                min_bytes=1,
                session_id=session_id,
                session_epoch=session_epoch,
                topics=topics,
            )
            session_id = (await follower.ask(request, 17, FetchResponse)).session_id

        await fetch(0)
        asked = asyncio.ensure_future(listed(cluster, 1))
        await asyncio.sleep(0.1)
        await fetch(1)  # may have been sent before the question; it is answered at once
        await asyncio.sleep(0.1)
        assert not asked.done()
        parked = asyncio.ensure_future(fetch(2))
        assert await asked is ErrorCode.NONE
        again = asyncio.ensure_future(listed(cluster, 1))
        await parked  # it is asked to ask again
        assert not again.done()
        last = asyncio.ensure_future(fetch(3))
        assert await again is ErrorCode.NONE
        follower.close()
        last.cancel()

    simulate(scenario, session_timeout_ms=60_000, **{**SETTINGS, "replica.lag.time.max.ms": 60_000})


def test_groups_live_on_without_the_tree() -> None:
    """With its whole ISR a coordinator answers, though no server of the tree is heard of."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await begin(cluster)
        for number in range(3):
            cluster.ensemble.cut_off(number, gives_up_after=100)
        await asyncio.sleep(60)
        assert await fetched(cluster, 1) == 5
        assert await commit(cluster, 1, 6) is ErrorCode.NONE
        started = cluster.loop.time()
        assert await fetched(cluster, 1) == 6
        assert cluster.loop.time() - started < 0.1  # the fetches of its followers, not the tree, have proven it

    simulate(scenario, **SETTINGS)


def test_a_coordinator_alone_in_its_isr_answers_under_its_lease() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await begin(cluster)
        cluster[2].kill()
        cluster[3].kill()
        await cluster.has_isr(GROUP_METADATA_TOPIC, 1)
        assert await fetched(cluster, 1) == 5
        server = cluster[1].tree._server
        assert server is not None
        cluster.ensemble.cut_off(server.number, gives_up_after=100)
        await asyncio.sleep(cluster.ensemble.session_timeout_ms / 1000)
        assert await fetched(cluster, 1) is ErrorCode.NOT_COORDINATOR

    simulate(scenario, **SETTINGS)


def test_a_follower_that_hangs_is_outvoted_by_the_tree() -> None:
    """One of the ISR does not answer: the tree says that no other broker leads."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await begin(cluster)
        cluster.cut(1, 3)
        assert await fetched(cluster, 1) == 5
        await cluster.has_isr(GROUP_METADATA_TOPIC, 1, 2)

    simulate(scenario, **SETTINGS)
