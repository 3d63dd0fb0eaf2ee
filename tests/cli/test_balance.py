"""Plans for moving replicas: what they keep, and what they reach."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.cli.balance import (
    BYTES_TOLERANCE,
    ClusterLoad,
    Move,
    PartitionLoad,
    PlanError,
    plan_add,
    plan_drain,
    plan_rebalance,
    shares,
)
from ottla.types import TopicPartition


@st.composite
def clusters(draw: st.DrawFn, *, racks: bool = True, same_size: bool = False) -> ClusterLoad:
    """A cluster of two to six brokers in which replicas lie anywhere."""
    count = draw(st.integers(2, 6))
    names = st.sampled_from(["a", "b", None]) if racks else st.none()
    factor = draw(st.integers(1, count))
    sizes = st.just(100) if same_size else st.integers(0, 1000)
    partitions = {}
    for index in range(draw(st.integers(0, 25))):
        replicas = draw(st.permutations(range(1, count + 1)))[:factor]
        partitions[TopicPartition("t", index)] = PartitionLoad(replicas=tuple(replicas), size=draw(sizes))
    return ClusterLoad(racks={n: draw(names) for n in range(1, count + 1)}, partitions=partitions)


def after(cluster: ClusterLoad, moves: dict[TopicPartition, Move]) -> ClusterLoad:
    partitions = {
        tp: PartitionLoad(replicas=moves[tp].after if tp in moves else load.replicas, size=load.size)
        for tp, load in cluster.partitions.items()
    }
    return ClusterLoad(racks=cluster.racks, partitions=partitions)


def rack_count(cluster: ClusterLoad, replicas: tuple[int, ...]) -> int:
    return len({cluster.racks[n] or n for n in replicas})


def unevenness(cluster: ClusterLoad) -> float:
    found = shares(cluster).values()
    replicas, size = sum(s.replicas for s in found) or 1, sum(s.size for s in found) or 1
    return sum((s.replicas / replicas) ** 2 + (s.size / size) ** 2 for s in found)


def check_kept(cluster: ClusterLoad, moves: dict[TopicPartition, Move]) -> None:
    for tp, move in moves.items():
        assert move.before == cluster.partitions[tp].replicas
        assert move.after != move.before
        assert len(set(move.after)) == len(move.after) == len(move.before)
        assert set(move.after) <= cluster.racks.keys()
        assert rack_count(cluster, move.after) >= rack_count(cluster, move.before)


@given(cluster=clusters())
def test_a_rebalance_keeps_every_partition_whole_and_makes_shares_more_equal(cluster: ClusterLoad) -> None:
    moves = plan_rebalance(cluster)
    check_kept(cluster, moves)
    balanced = after(cluster, moves)
    assert unevenness(balanced) <= unevenness(cluster) + 1e-9
    leaders = [share.leaders for share in shares(cluster).values()]
    assert max(s.leaders for s in shares(balanced).values()) <= max(leaders) or any(m.added for m in moves.values())
    assert plan_rebalance(balanced) == {}, "what is balanced is left alone"


@given(cluster=clusters(racks=False, same_size=True))
def test_partitions_of_one_size_are_spread_to_the_last_replica_and_leader(cluster: ClusterLoad) -> None:
    found = shares(after(cluster, plan_rebalance(cluster))).values()
    assert max(s.replicas for s in found) - min(s.replicas for s in found) <= 1
    assert max(s.leaders for s in found) - min(s.leaders for s in found) <= 1


@given(cluster=clusters(), data=st.data())
def test_a_drained_broker_holds_nothing_and_other_partitions_stay(cluster: ClusterLoad, data: st.DataObject) -> None:
    drained = data.draw(st.sampled_from(sorted(cluster.racks)))
    factor = max((len(p.replicas) for p in cluster.partitions.values()), default=0)
    if factor == len(cluster.racks):
        with pytest.raises(PlanError, match="start more, or let topics have fewer replicas first"):
            plan_drain(cluster, [drained])
        return
    moves = plan_drain(cluster, [drained])
    for tp, move in moves.items():
        assert drained in move.before, "nothing else is moved"
        assert len(move.added) == 1
        assert len(set(move.after)) == len(move.before)
        assert tp in cluster.partitions
    assert shares(after(cluster, moves))[drained].replicas == 0
    assert plan_drain(after(cluster, moves), [drained]) == {}


@given(cluster=clusters(racks=False))
def test_a_broker_that_is_away_can_be_drained(cluster: ClusterLoad) -> None:
    if any(len(p.replicas) == len(cluster.racks) for p in cluster.partitions.values()):
        return
    living = ClusterLoad(racks={n: r for n, r in cluster.racks.items() if n != 1}, partitions=cluster.partitions)
    moves = plan_drain(living, [1])
    assert all(1 not in p.replicas for p in after(living, moves).partitions.values())


@given(cluster=clusters())
def test_a_broker_that_is_away_keeps_what_it_holds_and_gets_nothing(cluster: ClusterLoad) -> None:
    living = ClusterLoad(racks={n: r for n, r in cluster.racks.items() if n != 1}, partitions=cluster.partitions)
    for move in plan_rebalance(living).values():
        assert (1 in move.after) == (1 in move.before)


@given(cluster=clusters(racks=False, same_size=True))
def test_a_new_broker_gets_its_share_and_the_others_exchange_nothing(cluster: ClusterLoad) -> None:
    grown = ClusterLoad(racks={**cluster.racks, 9: None}, partitions=cluster.partitions)
    balanced = after(cluster, plan_rebalance(cluster))
    grown = ClusterLoad(racks={**cluster.racks, 9: None}, partitions=balanced.partitions)
    moves = plan_add(grown, [9])
    assert all(move.added in ((9,), ()) for move in moves.values())
    found = shares(after(grown, moves)).values()
    assert max(s.replicas for s in found) - min(s.replicas for s in found) <= 1
    assert all(move.added for move in moves.values()), "only what goes to the new broker is touched"


@given(cluster=clusters(), data=st.data())
def test_replicas_are_added_and_taken_away(cluster: ClusterLoad, data: st.DataObject) -> None:
    factor = data.draw(st.integers(1, len(cluster.racks)))
    wanted = after(cluster, plan_rebalance(cluster, replication_factor=factor))
    assert all(len(set(p.replicas)) == len(p.replicas) == factor for p in wanted.partitions.values())


@given(cluster=clusters())
def test_the_replica_of_a_broker_that_is_away_is_the_first_to_be_given_up(cluster: ClusterLoad) -> None:
    """Also where it is the preferred leader: a broker that is not registered may stand in no assignment."""
    factor = max((len(p.replicas) for p in cluster.partitions.values()), default=1)
    if factor == 1:
        return
    living = ClusterLoad(racks={n: r for n, r in cluster.racks.items() if n != 1}, partitions=cluster.partitions)
    fewer = after(living, plan_rebalance(living, replication_factor=factor - 1))
    assert all(1 not in partition.replicas for partition in fewer.partitions.values())


@given(cluster=clusters(racks=False))
def test_bytes_are_level_or_no_single_replica_could_level_them_more(cluster: ClusterLoad) -> None:
    balanced = after(cluster, plan_rebalance(cluster))
    found = shares(balanced)
    mean = sum(s.size for s in found.values()) / len(found)
    for more in found:
        for less in found:
            if found[more].size - found[less].size <= BYTES_TOLERANCE * mean:
                continue
            for tp, load in balanced.partitions.items():
                if more in load.replicas and less not in load.replicas:
                    swapped = tuple(less if n == more else n for n in load.replicas)
                    moved = after(balanced, {tp: Move(before=load.replicas, after=swapped, size=load.size)})
                    assert unevenness(moved) >= unevenness(balanced) - 1e-9


def test_only_the_topics_that_were_named_move() -> None:
    partitions = {TopicPartition(topic, n): PartitionLoad(replicas=(1,)) for topic in "ab" for n in range(4)}
    moves = plan_rebalance(ClusterLoad(racks={1: None, 2: None}, partitions=partitions), topics=["b"])
    assert {tp.topic for tp in moves} == {"b"}
    assert len(moves) == 4


def test_five_thousand_partitions_are_planned() -> None:
    random = Random(5)
    partitions = {
        TopicPartition("t", n): PartitionLoad(
            replicas=tuple(random.sample(range(1, 4), 3)), size=random.randrange(10**9)
        )
        for n in range(5000)
    }
    cluster = ClusterLoad(racks=dict.fromkeys(range(1, 5)), partitions=partitions)
    found = shares(after(cluster, plan_rebalance(cluster))).values()
    # Sizes differ much: to level replicas to the last one, replicas would have to be exchanged.
    assert max(s.replicas for s in found) - min(s.replicas for s in found) <= 0.05 * 3750
    assert max(s.leaders for s in found) - min(s.leaders for s in found) <= 1
    assert max(s.size for s in found) - min(s.size for s in found) <= BYTES_TOLERANCE * sum(s.size for s in found) / 4
