"""Where replicas are to be, so that brokers have equal shares of partitions, bytes and leaders. Pure.

Three steps. First what has to change: replicas on brokers that are drained, too few or too many replicas. Then one replica
after the other is moved from a broker with more to one with less, as long as that makes the shares more equal. Last the order
of replicas is changed where that spreads preferred leaders (the first of each partition), which moves no data.

How unequal shares are is the sum, over brokers, of the squares of their shares of replicas and of bytes, each in relation to
the mean: each move makes it smaller, so it ends. Where sizes differ much, two replicas that would have to be exchanged stay.
Brokers that do not answer keep what they hold, and get nothing. No move takes replicas of a partition to fewer racks than
they were in.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ottla.types import INTERNAL_TOPICS, TopicPartition

#: Shares of bytes that differ by less of the mean are left as they are: to move data has its price.
BYTES_TOLERANCE: Final = 0.1


class PlanError(ValueError):
    """What is wanted is not possible. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLoad:
    """A partition: brokers that hold it, the preferred leader first, and the bytes of one replica."""

    replicas: tuple[int, ...]
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLoad:
    """Brokers that answer, with their racks, and all partitions."""

    racks: Mapping[int, str | None]
    partitions: Mapping[TopicPartition, PartitionLoad]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A partition with other replicas, or the same in another order."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    size: int

    @property
    def added(self) -> tuple[int, ...]:
        return tuple(n for n in self.after if n not in self.before)

    @property
    def moved_bytes(self) -> int:
        """How many bytes are copied."""
        return self.size * len(self.added)


@dataclass(frozen=True, slots=True)
class Share:
    """What one broker has."""

    replicas: int = 0
    size: int = 0
    leaders: int = 0


def shares(cluster: ClusterLoad, moves: Mapping[TopicPartition, Move] | None = None) -> dict[int, Share]:
    """Return what each broker has, or has after some moves; brokers that do not answer too, if they hold replicas."""
    found = {node_id: Share() for node_id in cluster.racks}
    for tp, load in cluster.partitions.items():
        replicas = moves[tp].after if moves is not None and tp in moves else load.replicas
        for place, node_id in enumerate(replicas):
            share = found.get(node_id, Share())
            found[node_id] = Share(share.replicas + 1, share.size + load.size, share.leaders + (place == 0))
    return dict(sorted(found.items()))


def plan_rebalance(
    cluster: ClusterLoad, *, replication_factor: int | None = None, topics: Collection[str] | None = None
) -> dict[TopicPartition, Move]:
    """Return what makes shares equal.

    Args:
        replication_factor: how many replicas each partition is to have; None leaves that as it is.
        topics: whose partitions may be moved; None for all.

    Raises:
        PlanError: there are not enough brokers.
    """
    planner = _Planner(cluster, topics=topics)
    planner.make_valid(planner.movable, drained=(), replication_factor=replication_factor)
    planner.level(sources=cluster.racks, targets=cluster.racks)
    planner.spread_leaders(planner.movable)
    return planner.moves()


def plan_add(cluster: ClusterLoad, added: Collection[int]) -> dict[TopicPartition, Move]:
    """Return what gives new brokers their shares; the others exchange nothing among themselves.

    Raises:
        PlanError: one of them does not answer.
    """
    for node_id in added:
        if node_id not in cluster.racks:
            raise PlanError(f"broker {node_id} does not answer: start it first")
    planner = _Planner(cluster)
    planner.level(sources=[n for n in cluster.racks if n not in added], targets=added)
    planner.spread_leaders(planner.changed())
    return planner.moves()


def plan_drain(cluster: ClusterLoad, drained: Collection[int]) -> dict[TopicPartition, Move]:
    """Return what leaves brokers without replicas; they may be away already.

    The brokers' own topics, which have as many replicas as there are brokers up to their configured factor, have fewer when
    brokers are away and not replaced.

    Raises:
        PlanError: there would be fewer brokers than a partition has replicas.
    """
    planner = _Planner(cluster)
    affected = [tp for tp, load in cluster.partitions.items() if not set(drained).isdisjoint(load.replicas)]
    planner.make_valid(affected, drained=drained, replication_factor=None)
    planner.spread_leaders(affected, without=drained)
    return planner.moves()


@dataclass(slots=True)
class _Broker:
    """What a broker holds while a plan is made; replicas that may be moved by size."""

    rack: str | None
    replicas: int = 0
    size: int = 0
    movable: list[tuple[int, TopicPartition]] = field(default_factory=list)


class _Planner:
    """Replicas as they become."""

    def __init__(self, cluster: ClusterLoad, *, topics: Collection[str] | None = None) -> None:
        self._cluster = cluster
        self.movable = [tp for tp in cluster.partitions if topics is None or tp.topic in topics]
        self._after = {tp: list(load.replicas) for tp, load in cluster.partitions.items()}
        self._brokers = {node_id: _Broker(rack) for node_id, rack in cluster.racks.items()}
        can_move = set(self.movable)
        for tp, load in cluster.partitions.items():
            for node_id in load.replicas:
                self._count(node_id, tp, 1, may_move=tp in can_move)

    def _count(self, node_id: int, tp: TopicPartition, sign: int, *, may_move: bool = True) -> None:
        broker = self._brokers.get(node_id)
        if broker is None:
            return
        size = self._cluster.partitions[tp].size
        broker.replicas += sign
        broker.size += sign * size
        if may_move and sign > 0:
            insort(broker.movable, (size, tp))
        elif may_move:
            del broker.movable[bisect_left(broker.movable, (size, tp))]

    def moves(self) -> dict[TopicPartition, Move]:
        return {
            tp: Move(before=load.replicas, after=tuple(self._after[tp]), size=load.size)
            for tp, load in self._cluster.partitions.items()
            if tuple(self._after[tp]) != load.replicas
        }

    def changed(self) -> list[TopicPartition]:
        return list(self.moves())

    # -- what has to be

    def make_valid(
        self, partitions: Iterable[TopicPartition], *, drained: Collection[int], replication_factor: int | None
    ) -> None:
        """Give partitions as many replicas as they are to have, none of them on drained brokers."""
        takers = [n for n in self._brokers if n not in drained]
        # The largest first: the small ones even out what these leave uneven.
        for tp in sorted(partitions, key=lambda tp: (-self._cluster.partitions[tp].size, tp)):
            replicas = self._after[tp]
            able = {*takers, *(n for n in replicas if n not in drained)}
            if tp.topic in INTERNAL_TOPICS and replication_factor is None:
                # Brokers give their own topics as many replicas as there are brokers, and those that are gone are none.
                gone = [n for n in replicas if n in drained and n not in self._brokers]
                for node_id in gone[: max(0, len(replicas) - len(able))]:
                    replicas.remove(node_id)
            wanted = len(replicas) if replication_factor is None else replication_factor
            if len(able) < wanted:
                raise PlanError(
                    f"{tp} is to have {wanted} replicas, and there are {len(able)} brokers for them: start more, or let "
                    f"topics have fewer replicas first (ottla cluster rebalance --replication-factor {len(able)})"
                )
            for place, node_id in enumerate(replicas):
                if node_id in drained:
                    self._replace(tp, place, self._best_taker(tp, takers, instead_of=node_id))
            while len(replicas) < wanted:
                taker = self._best_taker(tp, takers)
                replicas.append(taker)
                self._count(taker, tp, 1)
            while len(replicas) > wanted:
                given_up = self._most_loaded(tp)
                replicas.remove(given_up)
                self._count(given_up, tp, -1)

    def _replace(self, tp: TopicPartition, place: int, taker: int) -> None:
        self._count(self._after[tp][place], tp, -1)
        self._after[tp][place] = taker
        self._count(taker, tp, 1)

    def _best_taker(self, tp: TopicPartition, takers: Collection[int], *, instead_of: int | None = None) -> int:
        kept = [n for n in self._after[tp] if n != instead_of]
        racks = {self._rack(n) for n in kept}
        return min(
            (n for n in takers if n not in self._after[tp]),
            key=lambda n: (self._rack(n) in racks, self._load(n), n),
        )

    def _most_loaded(self, tp: TopicPartition) -> int:
        """Return the replica that is given up: one that does not answer, else not the preferred leader, one that shares its

        rack, on the fullest broker.
        """
        replicas = self._after[tp]
        racks = [self._rack(n) for n in replicas]
        return max(
            [n for n in replicas if n not in self._brokers] or replicas[1:],
            key=lambda n: (racks.count(self._rack(n)) > 1, self._load(n), n),
        )

    def _rack(self, node_id: int) -> str:
        """Return the rack of a broker; one that names none, or does not answer, is a rack of its own."""
        broker = self._brokers.get(node_id)
        return f"broker {node_id}" if broker is None or broker.rack is None else f"rack {broker.rack}"

    def _means(self) -> tuple[float, float]:
        count = len(self._brokers)
        replicas = sum(broker.replicas for broker in self._brokers.values())
        size = sum(broker.size for broker in self._brokers.values())
        return (replicas / count) or 1.0, (size / count) or 1.0

    def _load(self, node_id: int) -> float:
        broker = self._brokers.get(node_id)
        if broker is None:
            return 0.0
        mean_replicas, mean_size = self._means()
        return broker.replicas / mean_replicas + broker.size / mean_size

    # -- equal shares

    def level(self, *, sources: Iterable[int], targets: Iterable[int]) -> None:
        """Move replicas from sources to targets as long as shares get more equal by it."""
        sources, targets = list(sources), list(targets)
        while self._level_once(sources, targets):
            pass

    def _level_once(self, sources: list[int], targets: list[int]) -> bool:
        means = self._means()

        def load(node_id: int) -> tuple[float, int]:
            broker = self._brokers[node_id]
            return broker.replicas / means[0] + broker.size / means[1], node_id

        for source in sorted(sources, key=load, reverse=True):
            for target in sorted(targets, key=load):
                if source == target or not self._differ(source, target, means[1]):
                    continue
                tp = self._best_move(source, target, means)
                if tp is not None:
                    self._replace(tp, self._after[tp].index(source), target)
                    return True
        return False

    def _differ(self, source: int, target: int, mean_size: float) -> bool:
        more, less = self._brokers[source], self._brokers[target]
        return more.replicas - less.replicas > 1 or more.size - less.size > BYTES_TOLERANCE * mean_size

    def _best_move(self, source: int, target: int, means: tuple[float, float]) -> TopicPartition | None:
        """Return the replica whose move makes shares most equal; None if none does."""
        more, less = self._brokers[source], self._brokers[target]
        difference = more.size - less.size
        by_count = (2 - 2 * (more.replicas - less.replicas)) / means[0] ** 2

        def gain(size: int) -> float:
            return -(by_count + (2 * size * size - 2 * size * difference) / means[1] ** 2)

        # The best size is half of the difference; of the partitions that may move, those nearest to it from both sides.
        middle = bisect_left(more.movable, (difference // 2,))
        best: tuple[float, TopicPartition] | None = None
        for steps in (range(middle, len(more.movable)), range(middle - 1, -1, -1)):
            for place in steps:
                size, tp = more.movable[place]
                if self._may_go(tp, source, target):
                    if best is None or gain(size) > best[0]:
                        best = (gain(size), tp)
                    break
        return best[1] if best is not None and best[0] > 1e-12 else None

    def _may_go(self, tp: TopicPartition, source: int, target: int) -> bool:
        replicas = self._after[tp]
        if target in replicas:
            return False
        before = {self._rack(n) for n in replicas}
        return len({self._rack(target if n == source else n) for n in replicas}) >= len(before)

    # -- leaders

    def spread_leaders(self, partitions: Iterable[TopicPartition], *, without: Collection[int] = ()) -> None:
        """Reorder replicas of these partitions so that brokers are preferred leaders of as many, as far as possible."""
        may_change = set(partitions)
        led: dict[int, set[TopicPartition]] = {n: set() for n in self._brokers if n not in without}
        counts = dict.fromkeys(led, 0)
        for tp, replicas in self._after.items():
            if replicas[0] in counts:
                counts[replicas[0]] += 1
                if tp in may_change:
                    led[replicas[0]].add(tp)
        while any(self._shift(source, led, counts) for source in sorted(counts, key=lambda n: (-counts[n], n))):
            pass

    def _shift(self, source: int, led: dict[int, set[TopicPartition]], counts: dict[int, int]) -> bool:
        """Have a broker lead one less and one that leads at least two less one more, by way of others if need be."""
        came_by: dict[int, tuple[int, TopicPartition]] = {}
        waiting = deque([source])
        while waiting:
            here = waiting.popleft()
            if counts[here] <= counts[source] - 2:
                counts[source] -= 1
                counts[here] += 1
                while here != source:
                    before, tp = came_by[here]
                    self._lead(tp, here)
                    led[before].remove(tp)
                    led[here].add(tp)
                    here = before
                return True
            for tp in sorted(led[here]):
                for there in self._after[tp]:
                    if there in counts and there != source and there not in came_by:
                        came_by[there] = (here, tp)
                        waiting.append(there)
        return False

    def _lead(self, tp: TopicPartition, leader: int) -> None:
        replicas = self._after[tp]
        place = replicas.index(leader)
        replicas[0], replicas[place] = leader, replicas[0]
