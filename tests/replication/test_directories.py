"""Replicas move between the log directories of their broker while they lead, and while they follow (KIP-113)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.replication.story import is_replicated, produce, produced, replica_on, simulate, values_on
from tests.replication.test_moving import BROKER_TYPE, alter

from ottla.errors import ErrorCode
from ottla.protocol.messages.alter_replica_log_dirs import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopic,
)
from ottla.storage import relocation
from ottla.testing.simulated_cluster import SimulatedCluster

TWO: dict[str, Any] = {"log.dirs": "a,b"}
RATE = "replica_alter_log_dirs_io_max_bytes_per_second"


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a small log takes many steps, as that of a large one does."""
    monkeypatch.setattr(relocation, "STEP_BYTES", 5_000)
    monkeypatch.setattr(relocation, "REST_BYTES", 0)


async def begin_move(cluster: SimulatedCluster, node_id: int) -> str:
    """Have a broker move its replica to its other directory; return which that is."""
    target = {"a": "b", "b": "a"}[replica_on(cluster, node_id).log.log_directory]
    client = await cluster.connect(node_id)
    topic = AlterReplicaLogDirTopic(name="t", partitions=[0])
    request = AlterReplicaLogDirsRequest(dirs=[AlterReplicaLogDir(path=target, topics=[topic])])
    answer = await client.ask(request, 2, AlterReplicaLogDirsResponse)
    client.close()
    assert ErrorCode(answer.results[0].partitions[0].error_code) is ErrorCode.NONE
    return target


async def throttle(cluster: SimulatedCluster, rate: int) -> None:
    for node_id in cluster.machines:
        if cluster[node_id].is_running:
            await alter(cluster, BROKER_TYPE, str(node_id), **{RATE: str(rate)})


def is_moving(cluster: SimulatedCluster, node_id: int) -> bool:
    broker = cluster[node_id].broker
    return broker is not None and bool(broker.replicas.relocations.futures())


def directories(cluster: SimulatedCluster, node_id: int) -> dict[str, list[str]]:
    """Return what a machine's disk holds of the partition, by log directory."""
    files = cluster[node_id].files
    return {path: sorted(n for n in files.listdir(path) if n.startswith("t-0")) for path in ("a", "b")}


async def filled(cluster: SimulatedCluster) -> list[bytes]:
    """Start three brokers and write 60 KB."""
    await cluster.start()
    await cluster.make_topic("t", [(1, 2, 3)])
    values = [b"%04d" % number + b"." * 996 for number in range(60)]
    for at in range(0, len(values), 4):
        await produced(cluster, 1, *values[at : at + 4])
    return values


def test_the_leader_and_a_follower_move_while_records_are_replicated() -> None:
    """1. Both move slowly, under load with acks=all. 2. Nobody falls out of sync, nothing is lost or doubled.

    3. After a restart of all, the replicas are where they were moved, and nothing of the copies is left.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        values = await filled(cluster)
        await throttle(cluster, 10_000)
        targets = {node_id: await begin_move(cluster, node_id) for node_id in (1, 2)}
        meanwhile = 0
        while is_moving(cluster, 1) or is_moving(cluster, 2) or meanwhile < 20:
            assert set(cluster.state("t").isr) == {1, 2, 3}
            values.append(b"meanwhile %d" % meanwhile)
            assert (await produce(cluster, 1, values[-1]))[0] is ErrorCode.NONE
            meanwhile += 1
            await asyncio.sleep(0.1)
        assert meanwhile > 30  # 50 KB at 10 KB/s: it went on beside the load
        assert {n: replica_on(cluster, n).log.log_directory for n in (1, 2)} == targets
        assert cluster.state("t").leader == 1
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 1) == values
        await cluster.stop()
        await cluster.start()
        await cluster.has_isr("t", 1, 2, 3)
        for node_id, target in targets.items():
            assert directories(cluster, node_id)[target] == ["t-0"]
        await cluster.until(lambda: all([] in directories(cluster, node_id).values() for node_id in targets))
        await produced(cluster, cluster.state("t").leader, b"after")
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 2) == [*values, b"after"]

    simulate(scenario, **TWO)


def test_a_move_goes_on_when_its_replica_begins_to_lead() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        values = await filled(cluster)
        await throttle(cluster, 2_000)
        target = await begin_move(cluster, 2)
        await asyncio.sleep(1)
        cluster[1].kill()
        await cluster.has_leader("t", 2)
        assert is_moving(cluster, 2)
        values.append(b"of the next leader")
        await produced(cluster, 2, values[-1])
        assert is_moving(cluster, 2)
        await cluster.until(lambda: not is_moving(cluster, 2))
        assert replica_on(cluster, 2).log.log_directory == target
        values.append(b"after the move")
        await produced(cluster, 2, values[-1])
        await cluster.start(1)
        await cluster.has_isr("t", 1, 2, 3)
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 2) == values

    simulate(scenario, **TWO)


def test_a_copy_is_cut_where_its_log_is_cut() -> None:
    """1. A leader that is cut off takes records that nobody gets, and copies them. 2. It follows again: log and copy

    are cut, the move ends, and the replica equals the others.
    """

    async def scenario(cluster: SimulatedCluster) -> None:
        values = await filled(cluster)
        await throttle(cluster, 1_000)
        cluster.isolate(1)
        for number in range(3):
            await produce(cluster, 1, b"lost %d" % number, acks=1)
        assert replica_on(cluster, 1).log.log_end_offset == len(values) + 3
        target = await begin_move(cluster, 1)
        moves = cluster[1].broker.replicas.relocations.futures  # type: ignore[union-attr]
        await cluster.has_leader("t", 2)
        values.append(b"of the next leader")
        await produced(cluster, 2, values[-1])
        await cluster.until(lambda: [move.offset_lag for move in moves()] == [0])
        cluster.heal()
        await cluster.has_isr("t", 1, 2, 3)
        assert is_moving(cluster, 1)  # the step that copied the end is still being paid for
        await cluster.until(lambda: not is_moving(cluster, 1))
        assert replica_on(cluster, 1).log.log_directory == target
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, 1) == values

    simulate(scenario, **TWO)


@pytest.mark.parametrize("victim", [1, 2])
def test_a_broker_dies_while_its_replica_moves(victim: int) -> None:
    """The log is whole where it was; what was copied is gone after the next start, and the move can be made again."""

    async def scenario(cluster: SimulatedCluster) -> None:
        values = await filled(cluster)
        await throttle(cluster, 10_000)
        target = await begin_move(cluster, victim)
        await asyncio.sleep(1)
        assert is_moving(cluster, victim)
        cluster[victim].kill()
        await cluster.until(lambda: victim not in cluster.state("t").isr)
        values.append(b"without it")
        await produced(cluster, cluster.state("t").leader, values[-1])
        await cluster.start(victim)
        await cluster.has_isr("t", 1, 2, 3)
        await is_replicated(cluster, 1, 2, 3)
        assert values_on(cluster, victim) == values
        await cluster.until(lambda: directories(cluster, victim)[target] == [])
        await throttle(cluster, 1 << 40)
        assert await begin_move(cluster, victim) == target
        await cluster.until(lambda: not is_moving(cluster, victim))
        assert replica_on(cluster, victim).log.log_directory == target
        assert values_on(cluster, victim) == values

    simulate(scenario, **TWO)
