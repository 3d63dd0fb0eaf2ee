"""Schedules under which a cluster could lose, fork or stall; each named after the rule that excludes it."""

from __future__ import annotations

import asyncio

from tests.replication.story import fetch, is_replicated, produce, produced, replica_on, simulate, values_in, values_on

from ottla.broker.http.facts import LiveFacts
from ottla.broker.http.metrics_page import metrics_page
from ottla.cluster.nodes import CHANGE_PREFIX, Change, ChangeNode, PartitionState, StateNode
from ottla.cluster.tree import Create, SetData
from ottla.errors import ErrorCode
from ottla.testing.simulated_cluster import SimulatedCluster
from ottla.testing.simulated_ensemble import EnsembleFaults

ALL = [(1, 2, 3)]
PAIR = [(1, 2)]


def force(cluster: SimulatedCluster, topic: str = "t", **changes: object) -> None:
    """Change a state behind the brokers' backs."""
    path = StateNode.path(topic, 0)
    state = cluster.state(topic)
    values = {name: getattr(state, name) for name in PartitionState.__dataclass_fields__}
    note = ChangeNode.encode(Change(partitions=((topic, 0),)), cluster[1].clock.wall_ms())
    data = StateNode.encode(PartitionState(**{**values, **changes}))
    cluster.ensemble.commit([SetData(path, data), Create(CHANGE_PREFIX, note, sequential=True)], 0)


def test_records_are_replicated_and_the_followers_know_what_is_committed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        assert await produce(cluster, 1, b"a", b"b") == (ErrorCode.NONE, 0)
        assert await produce(cluster, 1, b"c") == (ErrorCode.NONE, 2)
        await is_replicated(cluster, 1, 2, 3)
        assert values_in((await fetch(cluster, 3)).records) == [b"a", b"b", b"c"]
        await cluster.stop()

    simulate(scenario)


def test_a_leader_is_killed_and_comes_back_as_a_follower() -> None:
    """1. The leader dies with records that no follower has. 2. Another leads. 3. The old one drops them and joins again."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        cluster.isolate(1, from_tree=False)
        assert (await produce(cluster, 1, b"lost", acks=1))[0] is ErrorCode.NONE
        cluster[1].kill()
        await cluster.has_leader("t", 2)
        cluster.heal()
        assert await produced(cluster, 2, b"b") == 1
        await cluster[1].start()
        await cluster.has_isr("t", 1, 2, 3)
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 1) == [b"a", b"b"]

    for seed in range(3):
        simulate(scenario, seed)


def test_too_few_in_sync_refuse_acks_all_before_and_after() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        cluster[2].kill()
        cluster[3].kill()
        late = asyncio.ensure_future(produce(cluster, 1, b"a", timeout_ms=60_000))
        await cluster.has_isr("t", 1)
        assert (await late)[0] is ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
        assert (await produce(cluster, 1, b"b"))[0] is ErrorCode.NOT_ENOUGH_REPLICAS
        assert (await produce(cluster, 1, b"c", acks=1)) == (ErrorCode.NONE, 1)
        assert (await fetch(cluster, 1)).high_watermark == 0
        await cluster.start(2)
        await cluster.has_isr("t", 1, 2)
        await is_replicated(cluster, 1, 2)
        assert values_in((await fetch(cluster, 1)).records) == [b"a", b"c"]

    simulate(scenario)


def test_a_damaged_replica_is_healed_by_its_leader() -> None:
    """1. Bytes of a log rot; a reader meets them. 2. The replica says that it cannot lead, and leaves the ISR. 3. It fetches

    everything anew, can lead again, and joins.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        for number in range(5):
            await produced(cluster, 1, b"%d" % number)
        await is_replicated(cluster, 1, 2, 3)
        await cluster[1].stop()
        await cluster.has_isr("t", 2, 3)
        path = "data/t-0/00000000000000000000.log"
        data = bytearray(cluster[1].files.read_bytes(path))
        data[len(data) // 2 - 30] ^= 0xFF
        cluster[1].files.write_atomic(path, bytes(data))
        await cluster.start(1)
        await cluster.has_isr("t", 1, 2, 3)
        replica = replica_on(cluster, 1)
        for offset in range(5):  # as a consumer of the follower would
            await fetch(cluster, 1, offset)
        assert replica.log.damages
        broker = cluster[2].broker
        assert broker is not None
        await cluster.until(lambda: broker.image.unfit.get(1))
        await cluster.until(lambda: not broker.image.unfit.get(1))
        assert replica.log.damages == []
        await cluster.has_isr("t", 1, 2, 3)
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 1) == [b"%d" % number for number in range(5)]

    simulate(scenario)


def test_metrics_tell_of_the_isr() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        cluster[3].kill()
        await cluster.has_isr("t", 1, 2)
        broker = cluster[1].broker
        assert broker is not None
        await cluster.until(lambda: len(replica_on(cluster, 1).leader.committed.isr) == 2)  # type: ignore[union-attr]
        page = b"".join(metrics_page(LiveFacts(broker))).decode().splitlines()
        manager = "kafka_server_replicamanager_"
        assert f"{manager}isrshrinkspersec 1" in page
        assert f"{manager}isrexpandspersec 0" in page
        assert f"{manager}underreplicatedpartitions 1" in page
        assert 'kafka_topic_partition_in_sync_replica{partition="0",topic="t"} 2' in page
        assert 'kafka_cluster_partition_underminisr{partition="0",topic="t"} 0' in page
        await cluster.start(3)
        await cluster.has_isr("t", 1, 2, 3)
        await asyncio.sleep(0.1)
        assert f"{manager}isrexpandspersec 1" in b"".join(metrics_page(LiveFacts(broker))).decode().splitlines()

    simulate(scenario)


def test_short_leader_shortens_nobody() -> None:
    """`short_leader_shortens_nobody`: a leader that lacks what was committed is followed by no replica that has it.

    The state is put back by hand: no election of ottla makes such a leader.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        cluster[3].kill()
        await cluster.has_isr("t", 1, 2)
        await produced(cluster, 1, b"b")
        await is_replicated(cluster, 1, 2)
        await cluster[3].start()
        cluster.cut(3, 1)
        cluster.cut(3, 2)
        state = cluster.state("t")
        force(cluster, leader=3, leader_epoch=state.leader_epoch + 1, isr=(3,), isr_epochs=(2,), elr=(), elr_epochs=())
        await cluster.until(lambda: replica_on(cluster, 3).is_led)
        cluster.heal()
        await produce(cluster, 3, b"other", acks=1)
        await cluster.until(lambda: all(cluster[n].broker.replicas.refused() for n in (1, 2)))  # type: ignore[union-attr]
        assert values_on(cluster, 1) == values_on(cluster, 2) == [b"a", b"b"]
        unfit = cluster[3].broker.image.unfit  # type: ignore[union-attr]
        await cluster.until(lambda: {1, 2} <= cluster[3].broker.image.unfit.keys())  # type: ignore[union-attr]
        assert unfit is not None
        assert (await fetch(cluster, 1)).error_code == ErrorCode.KAFKA_STORAGE_ERROR

    simulate(scenario)


def test_after_an_unclean_election_followers_give_up_what_was_committed() -> None:
    """What is cut off is kept beside the log."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", PAIR)
        await produced(cluster, 1, b"a")
        cluster[2].kill()
        await cluster.has_isr("t", 1)
        assert replica_on(cluster, 1).log.high_watermark == 1
        cluster[1].kill()
        await cluster[2].start()
        await cluster.until(lambda: cluster.state("t").leader == 2)
        assert cluster.state("t").leader_recovery_state == 0  # it was in the ELR, and has everything

    simulate(scenario)

    async def unclean(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", PAIR, **{"min.insync.replicas": "1", "unclean.leader.election.enable": "true"})
        cluster[2].kill()
        await cluster.has_isr("t", 1)
        await produced(cluster, 1, b"a")
        await asyncio.sleep(40)  # the high watermark has been noted on the disk
        cluster[1].kill()
        await cluster[2].start()
        await cluster.has_leader("t", 2)
        await produced(cluster, 2, b"b")
        await cluster[1].start()
        await cluster.has_isr("t", 1, 2)
        await is_replicated(cluster, 1, 2)
        assert values_on(cluster, 1) == [b"b"]
        assert any(name.startswith("t-0.cut-0") for name in cluster[1].files.listdir("data"))

    simulate(unclean)


def test_both_power_cut_after_flush_ack() -> None:
    """`both_power_cut_after_flush_ack`: with flush.messages=1 an acknowledgement means two disks, not two page caches."""

    async def scenario(cluster: SimulatedCluster) -> None:
        for machine in cluster.machines.values():
            machine.slow_disk = True
        await cluster.start()
        await cluster.make_topic("t", PAIR, **{"flush.messages": "1"})
        acknowledged = []
        for number in range(20):
            error, offset = await produce(cluster, 1, b"%d" % number)
            assert error is ErrorCode.NONE
            acknowledged.append((offset, b"%d" % number))
        cluster[1].power_cut()
        cluster[2].power_cut()
        await asyncio.sleep(1)
        await cluster.start(1, 2)
        await cluster.has_isr("t", 1, 2)
        await cluster.until(lambda: cluster.state("t").leader > 0)
        leader = cluster.state("t").leader
        await is_replicated(cluster, 1, 2)
        assert list(enumerate(values_on(cluster, leader)))[:20] == acknowledged

    for seed in range(4):
        simulate(scenario, seed)


def test_isr_write_answer_lost() -> None:
    """`isr_write_answer_lost`: as long as it is unknown whether a member is out, nothing is committed without it."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        cluster.cut(3, 1)
        cluster.cut(3, 2)
        cluster.ensemble.faults = EnsembleFaults(answer_lost=1.0)
        sent = asyncio.ensure_future(produce(cluster, 1, b"b", timeout_ms=60_000))
        await cluster.until(lambda: cluster.ensemble.happened.get("answer_lost"))
        cluster[1].tree.swallow()  # nor can it read what is there
        await cluster.has_isr("t", 1, 2)
        leader = replica_on(cluster, 1).leader
        assert leader is not None
        await asyncio.sleep(1)
        assert leader.pending is not None
        assert replica_on(cluster, 1).log.high_watermark == 1
        assert not sent.done()
        cluster.ensemble.faults = EnsembleFaults()
        cluster[1].tree.let_through()
        assert (await sent)[0] is ErrorCode.NONE
        assert leader.pending is None

    simulate(scenario, session_timeout_ms=60_000)


def test_isr_version_conflict_heals() -> None:
    """`isr_version_conflict_heals`: another one has written the state; the leader adopts it and decides anew."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        cluster.ensemble.faults = EnsembleFaults(watch_lost=1.0)  # it hears of that only when it looks by itself
        force(cluster)
        cluster.cut(3, 1)
        await cluster.has_isr("t", 1, 2, seconds=1.5)
        assert (await produce(cluster, 1, b"b"))[0] is ErrorCode.NONE

    simulate(scenario, **{"replica.lag.time.max.ms": 500, "replica.fetch.wait.max.ms": 100})


def test_zookeeper_follower_cut_off() -> None:
    """`zookeeper_follower_cut_off`: its server answers reads and pings, and another leader may have been elected.

    A leader that is alone in its ISR stops before its session can have ended.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", PAIR, **{"min.insync.replicas": "1"})
        cluster[2].kill()
        await cluster.has_isr("t", 1)
        assert (await produce(cluster, 1, b"a"))[0] is ErrorCode.NONE
        server = cluster[1].tree._server
        assert server is not None
        cluster.ensemble.cut_off(server.number, gives_up_after=100)
        cut_at = cluster.loop.time()
        while (await produce(cluster, 1, b"b"))[0] is ErrorCode.NONE:  # noqa: ASYNC110  # the answer changes with time
            await asyncio.sleep(0.05)
        assert cluster.loop.time() - cut_at < cluster.ensemble.session_timeout_ms / 1000 / 2 + 0.1
        assert (await produce(cluster, 1, b"c", acks=1))[0] is ErrorCode.NOT_LEADER_OR_FOLLOWER
        committed = (await fetch(cluster, 1)).high_watermark
        assert committed > 0  # reads go on
        cluster.ensemble.heal()
        await produced(cluster, 1, b"d")

    simulate(scenario)


def test_sigstop_alone_in_isr() -> None:
    """`sigstop_alone_in_isr`: a process that was stopped commits nothing by itself when it goes on."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", PAIR, **{"min.insync.replicas": "1", "unclean.leader.election.enable": "true"})
        cluster[2].kill()
        await cluster.has_isr("t", 1)
        await produced(cluster, 1, b"a")
        client = await cluster.connect(1)
        cluster[1].freeze()
        await cluster[2].start()
        await cluster.has_leader("t", 2)
        await produced(cluster, 2, b"b")
        client.close()
        sent = asyncio.ensure_future(produce(cluster, 1, b"c"))
        await asyncio.sleep(0.1)
        cluster[1].thaw()
        assert (await sent)[0] is ErrorCode.NOT_LEADER_OR_FOLLOWER
        await cluster.has_isr("t", 1, 2)
        await is_replicated(cluster, 1, 2)
        assert values_on(cluster, 1) == [b"b"]

    for seed in range(3):
        simulate(scenario, seed)


def test_a_stopped_leader_ends_no_producer() -> None:
    """1. A leader is stopped; another gets more of a producer. 2. The first one goes on and gets the next batch.

    It lacks what comes before, and must not tell the producer that its records are lost.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        assert (await produce(cluster, 1, b"a", producer=(7, 0)))[0] is ErrorCode.NONE
        cluster[1].freeze()
        await cluster.has_leader("t", 2)
        while (await produce(cluster, 2, b"b", producer=(7, 1)))[0]:  # noqa: ASYNC110  # it has to be elected
            await asyncio.sleep(0.1)
        sent = asyncio.ensure_future(produce(cluster, 1, b"c", producer=(7, 2)))
        await asyncio.sleep(0.1)
        cluster[1].thaw()
        assert (await sent)[0] is ErrorCode.NOT_LEADER_OR_FOLLOWER

    for seed in range(5):
        simulate(scenario, seed)


def test_old_timestamps_failover_duplicate() -> None:
    """`old_timestamps_failover_duplicate`: a producer of old records is known to the next leader for what it has sent."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL, **{"retention.ms": "-1"})
        old_ms = cluster[1].clock.wall_ms() - 30 * 86_400_000
        assert await produce(cluster, 1, b"a", producer=(7, 0), timestamp_ms=old_ms) == (ErrorCode.NONE, 0)
        await is_replicated(cluster, 1, 2, 3)
        await asyncio.sleep(1_000)  # producers are looked through in between
        cluster[1].kill()
        await cluster.has_leader("t", 2)
        while True:
            error, offset = await produce(cluster, 2, b"a", producer=(7, 0), timestamp_ms=old_ms)
            if error is ErrorCode.NONE:
                break
            await asyncio.sleep(0.1)
        assert offset == 0
        assert values_on(cluster, 2) == [b"a"]

    simulate(scenario)


def test_min_isr_lowered_with_elr() -> None:
    """`min_isr_lowered_with_elr`: the promise to the ELR holds until the tree says that there is none.

    1. One of two in sync is gone, into the ELR. 2. min.insync.replicas is lowered while the leader cannot write.
    3. Nothing is committed. 4. It can: the ELR goes, and what was appended is committed.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", PAIR)
        await produced(cluster, 1, b"a")
        cluster[2].kill()
        await cluster.has_isr("t", 1)
        assert cluster.state("t").elr == (2,)
        broker = cluster[1].broker
        assert broker is not None
        leader = replica_on(cluster, 1).leader
        assert leader is not None
        leader.on_min_isr(1)  # the setting has come, the change of the state has not been written
        assert (await produce(cluster, 1, b"b", timeout_ms=500))[0] is ErrorCode.REQUEST_TIMED_OUT
        assert replica_on(cluster, 1).log.high_watermark == 1
        broker.replication.isrs.look_at(replica_on(cluster, 1))
        await cluster.until(lambda: cluster.state("t").elr == ())
        await cluster.until(lambda: replica_on(cluster, 1).log.high_watermark == 2)

    simulate(scenario)


def test_a_follower_that_was_away_begins_anew_behind_what_was_deleted() -> None:
    """The leader's log begins behind the follower's end: OFFSET_OUT_OF_RANGE, ListOffsets, and from there on."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        await is_replicated(cluster, 1, 2, 3)
        cluster[3].kill()
        await cluster.has_isr("t", 1, 2)
        for number in range(5):
            await produced(cluster, 1, b"%d" % number)
        await replica_on(cluster, 1).delete_records(4)
        await cluster[3].start()
        await cluster.has_isr("t", 1, 2, 3)
        await is_replicated(cluster, 1, 2, 3)
        assert replica_on(cluster, 3).log.log_start_offset == 4
        assert values_on(cluster, 3) == [b"3", b"4"]

    simulate(scenario)


def test_a_member_whose_registration_is_gone_leaves_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        cluster.ensemble.expire(cluster[3].tree.session_id)
        cluster[3].kill()
        await cluster.has_isr("t", 1, 2, seconds=1)

    simulate(scenario, **{"replica.lag.time.max.ms": 3_600_000})


def test_more_records_than_one_answer_holds() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start(1, 2)
        await cluster.make_topic("t", PAIR)
        cluster[2].kill()
        await cluster.has_isr("t", 1)
        for _ in range(30):
            assert (await produce(cluster, 1, bytes(50_000), acks=1))[0] is ErrorCode.NONE
        await cluster[2].start()
        await cluster.has_isr("t", 1, 2)
        await is_replicated(cluster, 1, 2)

    simulate(scenario, **{"replica.fetch.response.max.bytes": 200_000})


def test_hung_disk_gives_up_leadership() -> None:
    """`hung_disk_gives_up_leadership`: the session lives, and nothing that was begun on the disk ends: another one leads.

    1. The leader's disk hangs. 2. After ten seconds it says in the tree that it cannot lead, and another leads; what was
    acknowledged is there. 3. The disk goes on: it follows, catches up and is in sync again.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        cluster[1].slow_disk = True
        await cluster.start()
        await cluster.make_topic("t", ALL)
        await produced(cluster, 1, b"a")
        cluster[1].hang_disk()
        hung_at = cluster.loop.time()
        await cluster.has_leader("t", 2)
        assert 9 <= cluster.loop.time() - hung_at < 20
        broker = cluster[2].broker
        assert broker is not None
        assert 1 in broker.image.brokers, "its session lives"
        await cluster.has_isr("t", 2, 3)
        assert await produced(cluster, 2, b"b") == 1
        cluster[1].free_disk()
        await cluster.has_isr("t", 1, 2, 3)
        assert broker.image.unfit.get(1, frozenset()) == frozenset()
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 1) == [b"a", b"b"]

    for seed in range(3):
        simulate(scenario, seed, **{"log.initial.task.delay.ms": 100})


def test_a_hung_disk_of_a_follower_leaves_the_isr() -> None:
    """With flush.messages=1 what is appended waits for the follower's fsync; it is taken out before its lag is noticed."""

    async def scenario(cluster: SimulatedCluster) -> None:
        cluster[3].slow_disk = True
        await cluster.start()
        await cluster.make_topic("t", ALL, **{"flush.messages": "1"})
        await produced(cluster, 1, b"a")
        cluster[3].hang_disk()
        sent = asyncio.ensure_future(produce(cluster, 1, b"b", timeout_ms=60_000))
        await cluster.has_isr("t", 1, 2)
        assert (await sent)[0] is ErrorCode.NONE
        cluster[3].free_disk()
        await cluster.has_isr("t", 1, 2, 3)

    simulate(scenario, **{"replica.lag.time.max.ms": 3_600_000})


def test_time_in_which_a_process_was_stopped_is_no_hanging_disk() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        cluster[1].slow_disk = True
        await cluster.start()
        await cluster.make_topic("t", PAIR)
        cluster[1].hang_disk()
        await asyncio.sleep(7)  # a checkpoint is being written
        cluster[1].freeze()
        await asyncio.sleep(30)
        cluster[1].thaw()
        broker = cluster[1].broker
        assert broker is not None
        cluster[1].free_disk()
        await asyncio.sleep(3)
        assert broker.logs.disk_watch.hung == frozenset()
        assert cluster[1].broker is broker

    simulate(scenario, session_timeout_ms=600_000)


#: Retention looks every five seconds.
OFTEN = {"log.initial.task.delay.ms": 100, "log.retention.check.interval.ms": 5_000}


def log_start_on(cluster: SimulatedCluster, node_id: int) -> int:
    return replica_on(cluster, node_id).log.log_start_offset


def test_clock_jump_deletes_nothing() -> None:
    """`clock_jump_deletes_nothing`: a clock that jumps a month ahead has no record, producer or committed offset expire.

    1. The clocks of the leader and of a follower jump. 2. Retention, which keeps two minutes, deletes nothing. 3. The clocks
    are right again, and time passes: it deletes.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL, **{"retention.ms": "120000"})
        assert (await produce(cluster, 1, b"a", producer=(7, 0)))[0] is ErrorCode.NONE
        await produced(cluster, 1, b"b")
        await is_replicated(cluster, 1, 2, 3)
        await asyncio.sleep(10)
        for node_id in (1, 2):
            cluster[node_id].clock.wall_offset_ms = 30 * 86_400_000
        await asyncio.sleep(50)
        assert [log_start_on(cluster, n) for n in (1, 2, 3)] == [0, 0, 0]
        assert 7 in replica_on(cluster, 1).log.producers.entries
        for node_id in (1, 2):
            cluster[node_id].clock.wall_offset_ms = 0
        await asyncio.sleep(10)
        assert [log_start_on(cluster, n) for n in (1, 2, 3)] == [0, 0, 0]
        await asyncio.sleep(100)
        assert [log_start_on(cluster, n) for n in (1, 2, 3)] == [2, 2, 2]

    simulate(scenario, **OFTEN)


def test_a_broker_that_starts_with_a_wrong_clock_deletes_nothing() -> None:
    """As a machine whose battery is empty and whose time server is away; the tree tells, before anything is deleted."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", ALL, **{"retention.ms": "3600000"})
        await produced(cluster, 1, b"a")
        await is_replicated(cluster, 1, 2, 3)
        for machine in cluster.machines.values():
            machine.kill()
            machine.clock.wall_offset_ms = 5 * 365 * 86_400_000
        await cluster.start()
        await cluster.has_isr("t", 1, 2, 3)
        await asyncio.sleep(30)
        assert [log_start_on(cluster, n) for n in (1, 2, 3)] == [0, 0, 0]

    simulate(scenario, **OFTEN)
