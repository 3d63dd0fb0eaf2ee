"""Registering, ending and renewing sessions, and who is the controller: several brokers on one ensemble."""

from __future__ import annotations

import asyncio

import pytest
from tests.cluster.world import TIMEOUT_MS, Machine, World, simulate

from ottla.cluster.controller import NewTopic, RegistrationRefusedError
from ottla.cluster.decisions.registration import Identity, check_addresses, next_epoch
from ottla.cluster.image import BrokerImage, Endpoint
from ottla.cluster.nodes import BROKER_IDS, CHANGES, BrokerEpoch, BrokerEpochNode
from ottla.cluster.tree import Delete, SessionState
from ottla.errors import ErrorCode, KafkaStorageError
from ottla.testing.simulated_ensemble import EnsembleFaults


def test_a_second_broker_joins_and_makes_topics() -> None:
    """Topics are made by the broker that is asked, whoever is the controller, and all brokers see them alike."""

    async def scenario(world: World) -> None:
        await world.start()
        assert world.controllers() == [1]
        topic = NewTopic(name="t", num_partitions=6, replication_factor=3)
        assert (await world[3].controller.create_topics([topic]))[0].error is ErrorCode.NONE
        for machine in world.running:
            image = await machine.follower.refresh()
            assert sorted(image.brokers) == [1, 2, 3]
            assert image.controller_id == 1
            assert image.topics == world[3].image.topics
        partitions = world[1].image.topics["t"].partitions
        assert sorted(p.leader for p in partitions) == [1, 1, 2, 2, 3, 3]
        assert all(dict(zip(p.isr, p.isr_epochs, strict=True)) == {1: 1, 2: 1, 3: 1} for p in partitions)

    simulate(scenario)


def test_two_brokers_make_the_same_topic_at_the_same_time() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        topics = [NewTopic(name="t", replication_factor=3), NewTopic(name="u")]
        made = await asyncio.gather(*[machine.controller.create_topics(topics) for machine in world.running])
        errors = [result.error for results in made for result in results]
        assert errors.count(ErrorCode.NONE) == 2
        assert errors.count(ErrorCode.TOPIC_ALREADY_EXISTS) == 4

    for seed in range(10):
        simulate(scenario, seed)


def test_a_living_brokers_id_is_taken() -> None:
    async def scenario(world: World) -> None:
        await world.start(1, 2)
        before = world[1].image
        impostor = Machine(world, 2, directories=("elsewhere",))
        with pytest.raises(RegistrationRefusedError, match="broker id 2 is taken by a living broker at host2:9092"):
            await impostor.start()
        assert (await world[1].follower.refresh()).brokers == before.brokers
        assert world[2].tree.state is SessionState.CONNECTED

    simulate(scenario)


def test_same_id_other_directory() -> None:
    """`same_id_other_directory`: an id belongs to log directories until an operator frees it, its broker may be down."""

    async def scenario(world: World) -> None:
        await world.start(1, 2)
        world[2].lose_power()
        await world.until(lambda: 2 not in world[1].image.brokers)
        replaced = Machine(world, 2, directories=("a new disk",))
        with pytest.raises(RegistrationRefusedError, match="broker id 2 belongs to other log directories than these"):
            await replaced.start()
        # One of several directories is enough: a disk was added, another one lost.
        grown = Machine(world, 2, directories=("a new disk", "directory-2"))
        await grown.start()
        assert grown.controller.broker_epoch == 2
        await world.until(lambda: 2 in world[1].image.brokers)

    simulate(scenario)


def test_two_brokers_do_not_share_an_address() -> None:
    async def scenario(world: World) -> None:
        await world.start(1)
        registered = world[1].image.brokers[1]
        identity = Identity(node_id=2, endpoints=registered.endpoints)
        with pytest.raises(
            RegistrationRefusedError, match="broker 1 is registered under host1:9092, as broker 2 would be"
        ):
            check_addresses(identity, world[1].image.brokers)
        check_addresses(Identity(node_id=1, endpoints=registered.endpoints), world[1].image.brokers)

    simulate(scenario)


def test_a_session_ends_and_the_broker_registers_anew() -> None:
    """1. The controller's session ends. 2. Another one takes the office. 3. The broker is registered under the next epoch,

    which continues the one before: the process lived on. 4. What it led alone it leads on, in the same leader epoch.
    """

    async def scenario(world: World) -> None:
        await world.start()
        await world[1].controller.create_topics([NewTopic(name="t", assignments=[(0, (1,))])])
        first = world[1].tree
        world.ensemble.expire(first.session_id)
        first.break_connection()
        await world.until(lambda: world[1].controller.broker_epoch == 2 and 1 in world[2].image.brokers)
        assert first.state is SessionState.ENDED
        await world.until(lambda: world.controllers() in ([2], [3]))
        broker = (await world[1].follower.refresh()).brokers[1]
        assert (broker.broker_epoch, broker.continues) == (2, 1)
        await asyncio.sleep(5)
        state = world.state("t")
        assert (state.leader, state.isr) == (1, (1,))
        assert not world[1].failures
        assert (await world[1].controller.create_topics([NewTopic(name="u")]))[0].error is ErrorCode.NONE

    for seed in range(10):
        simulate(scenario, seed)


def test_while_there_is_no_session_requests_are_refused() -> None:
    async def scenario(world: World) -> None:
        await world.start(1)
        world[1].tree.swallow()
        await world.until(lambda: world[1].tree.state is SessionState.SUSPENDED)
        with pytest.raises(KafkaStorageError):
            await world[1].controller.create_topics([NewTopic(name="t")])
        world[1].tree.let_through()
        await world.until(lambda: world[1].controller.epoch > 0 and world[1].tree.state is SessionState.CONNECTED)
        await world.until(lambda: world[1].image.controller_id == 1)
        assert (await world[1].controller.create_topics([NewTopic(name="t")]))[0].error is ErrorCode.NONE

    simulate(scenario)


def test_a_standby_takes_over() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        await world[1].controller.create_topics([NewTopic(name="t", assignments=[(0, (1, 2, 3))])])
        world[1].kill()
        await world.until(lambda: bool(world.controllers()))
        state = await world.has_leader("t", 2)
        assert (state.leader_epoch, state.isr) == (1, (2, 3))
        await world[1].start()
        # It is back, and no controller: there is one.
        assert world[1].controller.epoch == 0
        assert len(world.controllers()) == 1

    for seed in range(10):
        simulate(scenario, seed)


def test_isolated_controller() -> None:
    """`isolated_controller`: what needs no controller goes on without it, and what it decides is not written."""

    async def scenario(world: World) -> None:
        await world.start()
        world[1].tree.swallow()
        assert (await world[2].controller.create_topics([NewTopic(name="t")]))[0].error is ErrorCode.NONE
        deleting = asyncio.ensure_future(world[1].controller.delete_topics(["t"]))
        await world.until(lambda: world.controllers() in ([1, 2], [1, 3]))  # the first one cannot know
        world[1].tree.let_through()
        await asyncio.gather(deleting, return_exceptions=True)
        await world.until(lambda: world[1].tree.state is SessionState.CONNECTED and 1 in world[2].image.brokers)
        assert "t" in (await world[2].follower.refresh()).topics

    for seed in range(5):
        simulate(scenario, seed)


def test_a_controller_whose_office_another_one_holds_writes_nothing() -> None:
    """The office of the first is taken while it believes in it: everything it writes checks the controller epoch."""

    async def scenario(world: World) -> None:
        await world.start()
        await world[1].controller.create_topics([NewTopic(name="t", assignments=[(0, (2, 1, 3))])])
        world.ensemble.commit([Delete("/controller")], 0)
        await world.until(
            lambda: len(world.controllers()) == 1 and world.ensemble.committed.node("/controller") is not None
        )
        await world.until(lambda: world[1].image.controller_id in world.controllers())

    for seed in range(10):
        simulate(scenario, seed)


def test_watch_lost_in_reconnect() -> None:
    """`watch_lost_in_reconnect`: without any watch a change is seen after a third of the session timeout."""

    async def scenario(world: World) -> None:
        await world.start()
        assert world.ensemble.happened.get("watch_lost", 0) > 0
        await world[2].controller.registration.begin_stop(world[2].tree)
        began = world.loop.time()
        await world.until(lambda: world[3].image.brokers[2].is_stopping)
        assert world.loop.time() - began < TIMEOUT_MS / 3000 + 0.5
        world[2].kill()
        await world.until(lambda: 2 not in world[3].image.brokers)
        assert world.loop.time() - began < (1 + 1 / 3) * TIMEOUT_MS / 1000 + 1

    simulate(scenario, watch_lost=1.0)


def test_tree_from_a_backup() -> None:
    """`tree_from_a_backup`: a log of changes that is another one, or has gone back, is not followed."""

    async def scenario(world: World) -> None:
        await world.start(1, 2)
        lost = world[2].follower.lost
        assert lost is not None
        names = world.ensemble.committed.children(CHANGES)
        world.ensemble.commit([Delete(f"{CHANGES}/{name}") for name in names[1:]], 0)
        await world.until(lost.done)
        assert "is not the one that this broker followed" in lost.result()

    simulate(scenario)


def test_a_broker_that_stops_gives_away_what_others_can_lead() -> None:
    """`stop_then_start`, in the tree: leadership moves before the end; after the start the broker is in sync."""

    async def scenario(world: World) -> None:
        await world.start()
        topics = [
            NewTopic(name="t", assignments=[(0, (2, 1)), (1, (2, 3))]),
            NewTopic(name="u", assignments=[(0, (2,))]),
        ]
        await world[1].controller.create_topics(topics)
        await world[2].stop()
        assert [world.state("t", index).leader for index in range(2)] == [1, 3]
        assert [world.state("t", index).isr for index in range(2)] == [(2, 1), (2, 3)]
        await world.has_leader("u", -1)
        await world[2].start()
        broker = (await world[1].follower.refresh()).brokers[2]
        assert (broker.broker_epoch, broker.continues, broker.is_stopping) == (3, 1, False)
        await world.has_leader("u", 2)
        assert world[2].controller.epoch == 0

    for seed in range(5):
        simulate(scenario, seed)


def test_epochs_are_continued_where_nothing_can_have_been_lost() -> None:
    stored = BrokerEpoch(directories=("d",), page_cache="boot 1", continues=3, process="p")

    def epoch(**identity: object) -> tuple[int, int]:
        values: dict[str, object] = {"directories": ("d",), "page_cache": "boot 2", **identity}
        number, node = next_epoch(Identity(node_id=1, endpoints=(), **values), stored, 7)  # type: ignore[arg-type]
        return number, node.continues

    assert epoch() == (8, 8)
    assert epoch(was_clean=True) == (8, 3)
    assert epoch(page_cache="boot 1") == (8, 3)
    assert epoch(process="p") == (8, 3)
    assert epoch(process="q") == (8, 8)
    assert epoch(process="") == (8, 8)
    unknown = BrokerEpoch(directories=("d",), page_cache="", continues=3)
    assert next_epoch(Identity(node_id=1, endpoints=(), directories=("d",)), unknown, 7)[1].continues == 8


def test_a_registration_is_one_transaction() -> None:
    """Whatever goes wrong, there is one registration, under the epoch that the broker believes to have."""

    async def scenario(world: World) -> None:
        await world.start(1)
        world.ensemble.faults = EnsembleFaults(
            delay_seconds_max=0.005, answer_lost=0.1, late_request=0.1, connection_lost=0.05
        )
        for _ in range(6):
            world.ensemble.expire(world[1].tree.session_id)
            world[1].tree.break_connection()
            await asyncio.sleep(world.loop.random.random() * 5)
        await world.until(lambda: world[1].tree.state is SessionState.CONNECTED)
        committed = world.ensemble.committed

        def is_registered() -> bool:
            registered, node = committed.node(f"{BROKER_IDS}/1"), committed.node(BrokerEpochNode.path(1))
            assert node is not None
            return (
                registered is not None
                and registered.stat.owner == world[1].tree.session_id
                and node.stat.version == world[1].controller.broker_epoch
            )

        await world.until(is_registered)
        node = committed.node(BrokerEpochNode.path(1))
        assert node is not None
        assert BrokerEpochNode.decode(1, node.data).continues == 1
        assert not world[1].failures

    for seed in range(15):
        simulate(scenario, seed)


def _at(node_id: int, host: str, machine: str) -> BrokerImage:
    return BrokerImage(node_id, 0, (Endpoint("PLAINTEXT", host, 9090 + node_id, "PLAINTEXT"),), machine=machine)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_loopback_addresses_only_while_all_brokers_are_of_one_machine(host: str) -> None:
    def join(own_host: str, machine: str, other: BrokerImage) -> None:
        identity = Identity(node_id=1, endpoints=_at(1, own_host, machine).endpoints, machine=machine)
        check_addresses(identity, {2: other})

    join(host, "here", _at(2, host, "here"))
    join("a.example", "here", _at(2, "b.example", "there"))
    with pytest.raises(RegistrationRefusedError, match=f"broker 1 advertises {host}:9091, which only its own machine"):
        join(host, "here", _at(2, "b.example", "there"))
    with pytest.raises(RegistrationRefusedError, match=f"broker 2 advertises {host}:9092, which only its own machine"):
        join("a.example", "here", _at(2, host, "there"))
