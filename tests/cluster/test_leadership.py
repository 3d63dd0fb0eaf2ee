"""Who leads, in the tree: elections, deletions and creations of several brokers on one ensemble, and what comes too late."""

from __future__ import annotations

import asyncio

import pytest
from tests.cluster.world import TIMEOUT_MS, World, simulate

from ottla.cluster.controller import NewTopic
from ottla.cluster.image import NO_LEADER, LogEnd
from ottla.cluster.nodes import StateNode, TopicNode, with_state
from ottla.cluster.state_writer import NewState, StateWriter, Written
from ottla.cluster.tree import TreeUnavailableError
from ottla.errors import ErrorCode, KafkaError
from ottla.types import TopicPartition

T0 = TopicPartition("t", 0)


async def made(world: World, *assignments: tuple[int, ...], topic: str = "t") -> None:
    """Make a topic with these replicas."""
    controller = world.running[0].controller
    wanted = NewTopic(name=topic, assignments=list(enumerate(assignments)))
    assert (await controller.create_topics([wanted]))[0].error is ErrorCode.NONE


def test_late_cas_meets_recreated_topic() -> None:
    """`late_cas_meets_recreated_topic`: states of a topic made again have the versions of the old one's."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2))
        old = world[1].image.topics["t"]
        decided = old.partitions[0]._replace(isr=(1,), isr_epochs=(1,))
        await world[1].controller.delete_topics(["t"])
        await made(world, (1, 2))
        assert world.state("t").isr == (1, 2)
        late = NewState(topic_id=old.topic_id, partition=decided, relies_on={})
        writer = StateWriter(world[1].controller._log)
        fence = world[1].controller.registration.fence()
        assert await writer.write({T0: late}, fence=fence, controller_epoch=1) == {T0: Written.GONE}
        assert world.state("t").isr == (1, 2)

    simulate(scenario)


def test_expand_a_bounced_replica() -> None:
    """`expand_a_bounced_replica`: a follower that lost its records is not admitted for what it had."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2))
        world.force("t", isr=(1,), isr_epochs=(1,))
        topic = (await world[1].follower.refresh()).topics["t"]
        state = world.ensemble.committed.node(StateNode.path("t", 0))
        assert state is not None
        now = with_state(topic.partitions[0], StateNode.decode("", state.data), state.stat.version)
        admitted = NewState(
            topic_id=topic.topic_id, partition=now._replace(isr=(1, 2), isr_epochs=(1, 1)), relies_on={2: 1}
        )
        world[2].lose_power()
        await world[2].start()
        writer = StateWriter(world[1].controller._log)
        fence = world[1].controller.registration.fence()
        assert await writer.write({T0: admitted}, fence=fence, controller_epoch=1) == {T0: Written.CONFLICT}
        assert world.state("t").isr == (1,)

    simulate(scenario)


def test_of_many_states_only_the_one_that_conflicts_is_left_out() -> None:
    async def scenario(world: World) -> None:
        await world.start(1)
        await made(world, *[(1,)] * 250)
        topic = world[1].image.topics["t"]
        for index in (7, 120, 249):
            world.force("t", index, leader_epoch=50)
        states = {
            TopicPartition("t", index): NewState(
                topic_id=topic.topic_id, partition=partition._replace(leader_epoch=9), relies_on={}
            )
            for index, partition in enumerate(topic.partitions)
        }
        writer = StateWriter(world[1].controller._log)
        outcome = await writer.write(states, fence=[], controller_epoch=1)
        assert [tp.partition for tp, result in outcome.items() if result is Written.CONFLICT] == [7, 120, 249]
        assert [world.state("t", i).leader_epoch for i in range(250)] == [
            50 if i in (7, 120, 249) else 9 for i in range(250)
        ]

    simulate(scenario)


@pytest.mark.parametrize("bounced", [1, 2, 3])
def test_bounce_within_session(bounced: int) -> None:
    """`bounce_within_session`: power is lost and back before the session ends. Its node never was away, its records are.

    Leader (1, the controller), first follower (2), the other one (3).
    """

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2, 3))
        world[bounced].lose_power()
        await asyncio.sleep(0.2)
        await world[bounced].start()
        assert world.loop.time() < TIMEOUT_MS / 1000
        if bounced == 1:
            state = await world.has_leader("t", 2)
            assert (state.isr, state.leader_epoch) == ((2, 3), 1)
        else:
            world[1].lose_power()
            state = await world.has_leader("t", 5 - bounced)
            assert state.isr == (5 - bounced,)

    for seed in range(5):
        simulate(scenario, seed)


def test_bounce_within_session_and_a_new_controller() -> None:
    """The controller that saw the bounce dies with it: the next one decides from the epochs in the tree."""

    async def scenario(world: World) -> None:
        await world.start(3, 1, 2)
        assert world.controllers() == [3]
        await made(world, (1, 2))
        world[1].lose_power()
        world[3].kill()
        await world[1].start()
        state = await world.has_leader("t", 2)
        assert (state.isr, state.isr_epochs) == ((2,), (1,))

    for seed in range(5):
        simulate(scenario, seed)


def test_all_killed_page_cache_survives() -> None:
    """`all_killed_page_cache_survives`: what was acknowledged is in the page caches, so each of them may lead again."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2, 3))
        for machine in world.running:
            machine.kill()
        await asyncio.sleep(2 * TIMEOUT_MS / 1000)
        await world[3].start()
        state = await world.has_leader("t", 3)
        assert (state.isr, state.leader_recovery_state) == ((3,), 0)

    for seed in range(5):
        simulate(scenario, seed)


def test_all_down_shortest_first() -> None:
    """`all_down_shortest_first`: all lose power; the broker with the shortest log is back first, and leads nothing."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2, 3))
        for node_id, end in ((1, LogEnd(0, 10)), (2, LogEnd(0, 12)), (3, LogEnd(0, 7))):
            world[node_id].ends[T0] = end
        for machine in world.running:
            machine.lose_power()
        await asyncio.sleep(2 * TIMEOUT_MS / 1000)
        await world[3].start()
        await world.has_leader("t", NO_LEADER)
        await asyncio.sleep(20)
        await world[1].start()
        await asyncio.sleep(20)
        assert world.state("t").leader == NO_LEADER
        await world[2].start()
        state = await world.has_leader("t", 2)
        assert (state.isr, state.leader_recovery_state, state.recovered_in) == ((2,), 1, state.leader_epoch)

    for seed in range(5):
        simulate(scenario, seed)


def test_unfit_is_not_elected_again() -> None:
    """`unfit_is_not_elected_again`: a broker whose directory failed is skipped, by the next controller as well."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (2, 3))
        topic_id = world[1].image.topics["t"].topic_id
        await world[2].controller.registration.say_unfit(world[2].tree, [(topic_id, 0)])
        state = await world.has_leader("t", 3)
        assert state.isr == (2, 3)
        world[1].kill()
        world[3].kill()
        await world.until(lambda: world.controllers() == [2])
        await asyncio.sleep(10)
        assert world.state("t").leader == NO_LEADER
        await world[2].controller.registration.say_unfit(world[2].tree, [])
        await world.has_leader("t", 2)

    simulate(scenario)


@pytest.mark.parametrize("commits", range(6))
def test_maker_dies(commits: int) -> None:
    """`maker_dies`: a broker dies between two of the transactions that make a topic; the controller finishes it."""

    async def scenario(world: World) -> None:
        await world.start()
        before = world.ensemble.committed_count
        making = asyncio.ensure_future(
            world[2].controller.create_topics([NewTopic(name="t", num_partitions=10, replication_factor=2)])
        )
        await world.until(lambda: world.ensemble.committed_count >= before + commits)
        world[2].kill()
        making.cancel()
        await world.until(lambda: 2 not in world[1].image.brokers)
        await asyncio.sleep(2)
        await world[2].start()
        node = world.ensemble.committed.node(TopicNode.path("t"))
        if node is None:
            assert commits == 0
            return
        await world.until(lambda: "t" in world[1].image.topics and world[1].image.topics["t"].creating is None)
        assert all(world.state("t", index).leader != NO_LEADER for index in range(10))
        assert len({world.state("t", index).topic_id for index in range(10)}) == 1

    simulate(scenario, partitions_per_multi=3)


def test_half_deleted_topic() -> None:
    """`half_deleted_topic`: the controller dies in a deletion. The topic stays gone, and the next one finishes."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, *[(1, 2, 3)] * 8)
        before = world.ensemble.committed_count
        deleting = asyncio.ensure_future(world[1].controller.delete_topics(["t"]))
        await world.until(lambda: world.ensemble.committed_count >= before + 3)
        world[1].kill()
        deleting.cancel()
        assert world.ensemble.committed.node(TopicNode.path("t")) is not None
        await world.until(lambda: bool(world.controllers()))
        await world.until(lambda: world.ensemble.committed.node(TopicNode.path("t")) is None)
        image = await world[2].follower.refresh()
        assert "t" not in image.topics
        assert not any(delta.created or delta.changed for _, delta in world[2].deltas[-4:] if "t" in delta.created)
        await world[1].start()
        assert world[1].image.deleted == image.deleted
        assert len(image.deleted) == 1

    simulate(scenario, partitions_per_multi=2)


def test_topic_recreated_while_away() -> None:
    """`topic_recreated_while_away`: a broker that slept learns that its topic is another one now."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2, 3))
        old = (await world[3].follower.refresh()).topics["t"]
        world[3].tree.swallow()
        await world[1].controller.delete_topics(["t"])
        await made(world, (1, 2))
        world[3].tree.let_through()
        await world.until(lambda: "t" in world[3].image.topics and world[3].image.topics["t"].topic_id != old.topic_id)
        assert old.topic_id in world[3].image.deleted
        assert any(old.topic_id in [t.topic_id for t in delta.deleted] for _, delta in world[3].deltas)

    simulate(scenario)


def test_preferred_leaders_lead_again_after_a_while() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (3, 1), (1, 3))
        world[3].kill()
        await world.has_leader("t", 1)
        await world[3].start()
        world.force("t", isr=(1, 3), isr_epochs=(1, 2))
        await asyncio.sleep(200)
        assert world.state("t").leader == 1
        state = await world.has_leader("t", 3)
        assert (state.isr, state.isr_epochs) == ((1, 3), (1, 2))

    simulate(scenario)


def test_a_stale_controller_writes_no_leader() -> None:
    """The controller is cut off with its server and goes on to believe; what it decides is refused by the epoch."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (2, 3))
        server = next(s for s in world.ensemble.servers if world[1].tree in s.sessions)
        world.ensemble.cut_off(server.number, gives_up_after=3 * TIMEOUT_MS / 1000)
        await world.until(lambda: any(n != 1 for n in world.controllers()))
        epoch = world.state("t").leader_epoch
        with pytest.raises((KafkaError, TreeUnavailableError)):
            await world[1].controller.delete_topics(["t"])
        assert world.ensemble.committed.node(TopicNode.path("t")) is not None
        assert world.state("t").leader_epoch <= epoch + 1
        world.ensemble.heal()

    for seed in range(5):
        simulate(scenario, seed)


def test_a_state_of_another_topic_is_none() -> None:
    """`half_deleted_topic`: what an earlier topic of the name left is not taken for the state of the new one."""

    async def scenario(world: World) -> None:
        await world.start(1)
        await made(world, (1,))
        world.force("t", topic_id=b"another topic id")
        image = (await world[2].start()).image
        assert (image.topics["t"].partitions[0].leader, image.topics["t"].partitions[0].isr) == (NO_LEADER, ())

    simulate(scenario)
