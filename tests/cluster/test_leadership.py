"""Who leads, in the tree: elections, deletions and creations of several brokers on one ensemble, and what comes too late."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.cluster.world import TIMEOUT_MS, Machine, World, simulate

from ottla.cluster.controller import NewTopic
from ottla.cluster.decisions.election import is_in_sync
from ottla.cluster.decisions.reassignment import finished
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import NO_LEADER, LogEnd
from ottla.cluster.nodes import StateNode, TopicAssignment, TopicNode, with_state
from ottla.cluster.reassigner import CHANGED, Reassigner
from ottla.cluster.state_writer import NewState, StateWriter, Written
from ottla.cluster.tree import TreeUnavailableError
from ottla.errors import ErrorCode, KafkaError
from ottla.types import TRANSACTION_STATE_TOPIC, TopicPartition

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


async def reassign(world: World, target: list[int] | None, **options: bool) -> Refusal | None:
    controller = world[world.controllers()[0]].controller
    return (await controller.reassign({T0: target}, **options))[T0]


def assignment(world: World) -> TopicAssignment:
    node = world.ensemble.committed.node(TopicNode.path("t"))
    assert node is not None
    return TopicNode.decode("t", node.data)


@pytest.mark.parametrize("written", [False, True])
def test_controller_dies_in_reassignment(written: bool) -> None:
    """1. Replicas are added and come in sync. 2. The controller dies as it ends the reassignment, before or after that is

    written. 3. The next one ends it, once: at no time are the replicas and the ISR of different reassignments.
    """

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2))
        assert world.controllers() == [1]
        assert await reassign(world, [2, 3]) is None
        now = assignment(world)
        assert (now.partitions, now.adding, now.removing) == (((2, 3, 1),), {0: (3,)}, {0: (1,)})
        if not written:
            world[1].kill()
            await world.has_leader("t", 2)
        state = world.state("t")
        isr = (*state.isr, 3) if 1 in state.isr or written else (2, 3)
        world.force("t", isr=isr, isr_epochs=(1,) * len(isr))
        seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

        def is_over() -> bool:
            seen.append((assignment(world).partitions[0], world.state("t").isr))
            return assignment(world).partitions == ((2, 3),)

        await world.until(is_over)
        if written:
            world[1].kill()
            await world.until(lambda: world.controllers() not in ([], [1]))
        state = world.state("t")
        assert (state.isr, state.leader) == ((2, 3), 2)
        assert assignment(world).adding == assignment(world).removing == {}
        assert all(set(isr) <= set(replicas) for replicas, isr in seen)

    simulate(scenario)


def test_a_reassignment_is_taken_back() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1,))
        assert await reassign(world, [2]) is None
        assert await reassign(world, None) is None
        assert assignment(world).partitions == ((1,),)
        assert (world.state("t").leader, world.state("t").leader_epoch) == (1, 1)
        refusal = await reassign(world, None)
        assert refusal is not None
        assert refusal.error is ErrorCode.NO_REASSIGNMENT_IN_PROGRESS

    simulate(scenario)


def test_replicas_that_are_only_taken_away_go_at_once() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2, 3))
        assert await reassign(world, [3, 2]) is None
        await world.until(lambda: assignment(world).partitions == ((3, 2),))
        assert (world.state("t").leader, world.state("t").isr) == (3, (2, 3))

    simulate(scenario)


def test_a_freed_broker_id_continues_nothing() -> None:
    """1. A broker's disk is lost, its id is freed. 2. A broker with a new disk takes it, and is not in sync for what the old

    one had, however its epochs grow.
    """

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1, 2))
        world[2].lose_power()
        await world.until(lambda: 2 not in world[1].image.brokers)
        controller = world[world.controllers()[0]].controller
        running = await controller.unregister(1)
        assert running is not None
        assert running.error is ErrorCode.INVALID_REQUEST
        assert await controller.unregister(2) is None
        again = await controller.unregister(2)
        assert again is not None
        assert again.error is ErrorCode.BROKER_ID_NOT_REGISTERED
        # Its leader has not taken it out of the ISR yet.
        world.force("t", isr=(1, 2), isr_epochs=(1, 1))
        replaced = Machine(world, 2, directories=("a new disk",))
        replaced._was_clean = True  # as new directories are
        await replaced.start()
        await world.until(lambda: 2 in world[1].image.brokers)
        image = await world[1].follower.refresh()
        assert not is_in_sync(image, image.topics["t"].partitions[0], 2)
        assert image.brokers[2].broker_epoch > 1

    simulate(scenario)


def test_a_reassignment_does_not_end_with_a_replica_that_has_bounced_since() -> None:
    """Between the look and the end the replica that was added comes back without its records: the others keep theirs."""

    async def scenario(world: World) -> None:
        await world.start()
        await made(world, (1,))
        controller = world[1].controller
        assert world.controllers() == [1]
        assert await reassign(world, [2]) is None
        image = await world[1].follower.refresh()
        topic = image.topics["t"]
        in_sync = topic.partitions[0]._replace(isr=(1, 2), isr_epochs=(1, 1))
        believed = replace(image, topics={"t": topic._replace(partitions=(in_sync,))})
        moves = dict(finished(believed, [(believed.topics["t"], 0)]))
        assert list(moves) == [T0]
        world[2].lose_power()
        await world[2].start()
        await world.until(lambda: world[1].image.brokers[2].broker_epoch > 1)
        outcome = await Reassigner(controller._log).write(
            believed, moves, fence=controller.registration.fence(), controller_epoch=1
        )
        assert outcome == {T0: CHANGED}
        assert assignment(world).partitions == ((2, 1),)
        assert world.state("t").leader == 1

    simulate(scenario)


def test_internal_topics_grow_with_the_cluster() -> None:
    """Made by a single broker with one replica, which two more join: three replicas, and two of them in sync."""

    async def scenario(world: World) -> None:
        await world.start(1)
        name = TRANSACTION_STATE_TOPIC
        made = await world[1].controller.ensure_topic(name)
        assert (made.error, made.replication_factor) == (ErrorCode.NONE, 1)
        assert world[1].image.topic_config(name)["min.insync.replicas"] == "1"
        await world.start(2, 3)

        def have_grown() -> bool:
            found = world[1].image.topics[name].partitions
            for index, partition in enumerate(found):
                if partition.adding_replicas and set(partition.isr) != set(partition.replicas):
                    epochs = (1,) * len(partition.replicas)
                    world.force(name, index, isr=partition.replicas, isr_epochs=epochs)  # they have caught up
            return all(len(p.replicas) == 3 and not p.adding_replicas for p in found)

        await world.until(have_grown)
        await world.until(lambda: world[1].image.topic_config(name)["min.insync.replicas"] == "2")

    simulate(scenario)
