"""Leaders, decisions and a tree, small enough to be walked through exhaustively: every order of a few events.

Three brokers hold one partition. Logs are tuples of (leader epoch, value), the tree is the state and the registrations.
`Leader`, `Follower`, `change_of` and `elect` are the real ones; everything between them is modelled:

* a broker acts on the image it has seen, and sees the tree when it looks;
* a write of an ISR is made or not, its answer arrives or does not, and the old state may be read after a `sync`;
* a broker is killed (its log stays), or bounced with the loss of what it had; it registers again before its old
  registration is gone, or after;
* the controller elects whenever it looks.

What must hold: a broker that leads has every acknowledged record at its offset; logs agree below their high watermarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ottla.broker.replicas.follower import Follower
from ottla.broker.replicas.leader import Leader, Progress
from ottla.cluster.decisions.election import ElectionRules, elect
from ottla.cluster.decisions.isr import IsrChange
from ottla.cluster.image import NO_LEADER, BrokerImage, ClusterImage, PartitionImage, TopicImage
from ottla.errors import ErrorCode

ID = b"\1" * 16
BROKERS = (1, 2, 3)
MIN_ISR = 2
RULES = ElectionRules(min_isr=lambda topic: MIN_ISR)

Record = tuple[int, int]
"""Leader epoch and value."""


@dataclass(slots=True)
class Budget:
    """How often what may happen still."""

    records: int = 3
    crashes: int = 2
    bounces: int = 1
    lost_answers: int = 1
    lags: int = 1

    def key(self) -> tuple[int, ...]:
        return (self.records, self.crashes, self.bounces, self.lost_answers, self.lags)


class Lease:
    """Holds as long as the broker's registration is in the tree."""

    __slots__ = ("broker", "world")

    def __init__(self, world: World, broker: int) -> None:
        self.world = world
        self.broker = broker

    def holds(self) -> bool:
        known = self.world.registered.get(self.broker)
        return known is not None and known.broker_epoch == self.world.brokers[self.broker].epoch


@dataclass(slots=True)
class Broker:
    """One broker: its log, and what it believes. `change`: the ISR change that it has sent and not heard of."""

    log: tuple[Record, ...] = ()
    hw: int = 0
    is_up: bool = True
    epoch: int = 1
    image: tuple[PartitionImage, tuple[tuple[int, BrokerImage], ...]] | None = None
    role_epoch: int = -1
    leader: Leader | None = None
    follower: Follower | None = None
    change: IsrChange | None = None
    #: (offset, value) of its appends that wait for the high watermark.
    waiting: tuple[tuple[int, int], ...] = ()
    refused: bool = False


def end_of(log: tuple[Record, ...], epoch: int, epochs: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return what `LeaderEpochs.end_offset_for` does."""
    above = [start for e, start in epochs if e > epoch]
    known = [e for e, _ in epochs if e <= epoch]
    if not known:
        return (epoch, epochs[0][1]) if epochs else (-1, -1)
    if above:
        return known[-1], above[0]
    return (known[-1], len(log)) if known[-1] == epoch else (-1, -1)


def epochs_of(log: tuple[Record, ...], led_in: int) -> tuple[tuple[int, int], ...]:
    found: dict[int, int] = {}
    for offset, (epoch, _) in enumerate(log):
        found.setdefault(epoch, offset)
    if led_in >= 0:
        found.setdefault(led_in, len(log))
    return tuple(found.items())


class World:
    """Everything at one moment."""

    def __init__(self) -> None:
        self.state = PartitionImage(BROKERS, BROKERS, 1, 0, 0, isr_epochs=(1, 1, 1))
        self.registered = {n: BrokerImage(n, 1, (), continues=1) for n in BROKERS}
        #: The epoch node of each broker: (epoch, oldest epoch that it continues).
        self.nodes = dict.fromkeys(BROKERS, (1, 1))
        self.brokers = {n: Broker() for n in BROKERS}
        self.acked: dict[int, int] = {}
        self.value = 0
        self.budget = Budget()
        for node_id in BROKERS:
            self.look(node_id)

    # -- copies and keys

    def clone(self) -> World:
        other = World.__new__(World)
        other.state, other.registered, other.nodes = self.state, self.registered, self.nodes
        other.acked, other.value = self.acked, self.value
        other.budget = replace(self.budget)
        other.brokers = {}
        for node_id, broker in self.brokers.items():
            copied = other.brokers[node_id] = replace(broker)
            if broker.leader is not None:
                copied.leader = other._bind(node_id, _copy(broker.leader))
            if broker.follower is not None:
                copied.follower = _copy(broker.follower)
        return other

    def _bind(self, node_id: int, leader: Leader) -> Leader:
        broker = self.brokers[node_id]
        leader._epoch_end = lambda epoch: end_of(broker.log, epoch, epochs_of(broker.log, leader.leader_epoch))
        leader._first_epoch_start = lambda: 0
        leader._lease = Lease(self, node_id)
        leader.progress = {n: _copy(p) for n, p in leader.progress.items()}
        return leader

    def key(self) -> tuple[Any, ...]:
        """Return what two worlds that go on alike have in common."""
        brokers = tuple(
            (
                b.log,
                b.hw,
                b.is_up,
                b.epoch,
                b.image,
                b.role_epoch,
                b.refused,
                None
                if b.leader is None
                else (
                    b.leader.committed,
                    b.leader.high_watermark,
                    b.leader._end_offset,
                    b.leader._epoch_start,
                    b.leader.pending is None or b.leader.pending.after,
                    tuple((n, p.broker_epoch, p.end_offset, p.caught_up_ms) for n, p in b.leader.progress.items()),
                ),
                None if b.change is None else b.change.after,
                b.waiting,
            )
            for b in self.brokers.values()
        )
        return (
            self.state,
            tuple(self.registered.items()),
            tuple(self.nodes.items()),
            brokers,
            tuple(self.acked.items()),
            self.budget.key(),
        )

    # -- what brokers do

    def image(self) -> tuple[PartitionImage, tuple[tuple[int, BrokerImage], ...]]:
        return self.state, tuple(self.registered.items())

    def look(self, node_id: int) -> None:
        """A broker sees the tree, and takes the role that it says."""
        broker = self.brokers[node_id]
        broker.image = self.image()
        state, brokers = self.state, dict(self.registered)
        if state.leader_epoch < broker.role_epoch:
            return
        me = brokers.get(node_id)
        if state.leader == node_id and broker.leader is not None and broker.leader.leader_epoch == state.leader_epoch:
            broker.leader.on_state(state, 0)
            broker.leader.on_brokers(brokers, frozenset())
            self._advance(node_id)
        elif state.leader == node_id:
            broker.leader = broker.follower = None
            broker.waiting = ()
            broker.change = None
            admitted = state.admitted().get(node_id)
            if me is None or admitted is None or me.broker_epoch != broker.epoch or not me.continues_from(admitted):
                return
            broker.role_epoch = state.leader_epoch
            leader = Leader(
                node_id,
                state,
                epoch_start=len(broker.log),
                high_watermark=broker.hw,
                epoch_end=lambda epoch: (-1, -1),
                first_epoch_start=lambda: 0,
                lease=Lease(self, node_id),
                min_isr=MIN_ISR,
                lag_ms_max=10,
                now_ms=0,
            )
            broker.leader = self._bind(node_id, leader)
            leader.on_brokers(brokers, frozenset())
            self.check_leader(node_id)
            self._advance(node_id)
        else:
            if broker.follower is None or broker.follower.leader_epoch != state.leader_epoch:
                broker.leader = broker.follower = None
                broker.waiting = ()
                broker.change = None
                broker.role_epoch = state.leader_epoch
                if state.leader != NO_LEADER:
                    broker.follower = Follower(node_id, state)
            else:
                broker.follower.on_state(node_id, state)

    def _advance(self, node_id: int) -> None:
        broker = self.brokers[node_id]
        assert broker.leader is not None
        hw = broker.leader.on_own_end(len(broker.log))
        assert hw >= broker.hw, "the high watermark went back"
        assert hw <= len(broker.log)
        broker.hw = hw
        done = tuple((offset, value) for offset, value in broker.waiting if offset < hw)
        if done:
            self.acked = {**self.acked, **dict(done)}
            broker.waiting = broker.waiting[len(done) :]

    def produce(self, node_id: int) -> None:
        broker = self.brokers[node_id]
        assert broker.leader is not None
        self.budget.records -= 1
        self.value += 1
        broker.waiting += ((len(broker.log), self.value),)
        broker.log += ((broker.leader.leader_epoch, self.value),)
        self._advance(node_id)

    def fetch(self, node_id: int) -> None:
        follower = self.brokers[node_id]
        role = follower.follower
        assert role is not None
        source = self.brokers[role.leader]
        leader = source.leader
        assert leader is not None
        offset = len(follower.log)
        last_epoch = follower.log[-1][0] if follower.log else -1
        verdict = leader.on_follower_fetch(node_id, follower.epoch, role.leader_epoch, offset, last_epoch, 0)
        if verdict.error:
            return
        if verdict.diverging is not None:
            cut = role.truncation(
                *verdict.diverging,
                own_end_of=lambda epoch: end_of(follower.log, epoch, epochs_of(follower.log, -1)),
                log_end=offset,
                high_watermark=follower.hw,
                last_epoch=last_epoch,
            )
            if cut.refusal is not None:
                follower.refused = True
            else:
                follower.log = follower.log[: cut.offset]
                follower.hw = min(follower.hw, cut.offset)
            return
        self._advance(role.leader)
        if offset <= len(source.log):
            assert source.log[:offset] == follower.log, f"broker {node_id} follows with another log"
            follower.log = source.log
        follower.hw = max(follower.hw, min(source.hw, len(follower.log)))

    def propose(self, node_id: int) -> bool:
        broker = self.brokers[node_id]
        assert broker.leader is not None
        broker.change = broker.leader.propose(0)
        return broker.change is not None

    def write(self, node_id: int) -> bool:
        """Run the transaction of a change that is on its way; return whether it was made."""
        change = self.brokers[node_id].change
        assert change is not None
        fits = (
            self.state.partition_epoch == change.before.partition_epoch
            and self.nodes[node_id][0] == self.brokers[node_id].epoch
            and all(n in self.registered and self.nodes[n][0] == epoch for n, epoch in change.relies_on.items())
        )
        if fits:
            self.state = change.after._replace(partition_epoch=change.before.partition_epoch + 1)
        return fits

    def settle(self, node_id: int) -> None:
        """After a `sync` the broker reads what the tree says about its change."""
        broker = self.brokers[node_id]
        change = broker.change
        assert change is not None
        broker.change = None
        leader = broker.leader
        self.look(node_id)
        if leader is not None and broker.leader is leader:
            leader.on_unchanged(change, self.state, 0)
            self._advance(node_id)

    # -- what happens to brokers

    def die(self, node_id: int, *, loses: int = 0) -> None:
        broker = self.brokers[node_id]
        log = broker.log[: max(0, len(broker.log) - loses)]
        self.brokers[node_id] = Broker(log=log, hw=0, is_up=False, epoch=broker.epoch, role_epoch=-1)

    def register(self, node_id: int, *, continues: bool) -> None:
        broker = self.brokers[node_id]
        epoch, oldest = self.nodes[node_id]
        broker.epoch = epoch + 1
        broker.is_up = True
        if not continues:
            oldest = epoch + 1
        self.nodes = {**self.nodes, node_id: (epoch + 1, oldest)}
        self.registered = {
            n: BrokerImage(n, epoch + 1, (), continues=oldest) if n == node_id else self.registered[n]
            for n in BROKERS
            if n == node_id or n in self.registered
        }

    def elect(self) -> PartitionImage | None:
        topic = TopicImage("t", ID, (self.state,))
        image = ClusterImage(brokers=self.registered, topics={"t": topic}, topic_names={ID: "t"})
        return elect(image, topic, 0, RULES)

    # -- all that may happen next

    def next(self) -> Iterator[tuple[str, World]]:
        for node_id, broker in self.brokers.items():
            if not broker.is_up:
                if node_id in self.registered:
                    other = self.clone()
                    other.registered = {n: b for n, b in self.registered.items() if n != node_id}
                    yield f"the session of {node_id} ends", other
                other = self.clone()
                other.register(node_id, continues=True)
                yield f"{node_id} starts", other
                continue
            if broker.image != self.image():
                other = self.clone()
                other.look(node_id)
                yield f"{node_id} looks", other
            yield from self._roles(node_id, broker)
            if self.budget.crashes:
                other = self.clone()
                other.budget.crashes -= 1
                other.die(node_id)
                yield f"{node_id} is killed", other
            if self.budget.bounces and broker.log:
                for loses in {1, len(broker.log)}:
                    other = self.clone()
                    other.budget.bounces -= 1
                    other.die(node_id, loses=loses)
                    other.register(node_id, continues=False)
                    yield f"{node_id} bounces, {loses} records are lost", other
        elected = self.elect()
        if elected is not None:
            other = self.clone()
            other.state = elected._replace(partition_epoch=self.state.partition_epoch + 1)
            yield f"{elected.leader} is elected", other

    def _roles(self, node_id: int, broker: Broker) -> Iterator[tuple[str, World]]:
        leader, follower = broker.leader, broker.follower
        if leader is not None:
            if self.budget.records and leader.why_no_append(acks_all=True) is ErrorCode.NONE:
                other = self.clone()
                other.produce(node_id)
                yield f"{node_id} appends", other
            if broker.change is None:
                other = self.clone()
                if other.propose(node_id):
                    yield f"{node_id} decides {other.brokers[node_id].change.after.isr}", other  # type: ignore[union-attr]
            else:
                other = self.clone()
                other.write(node_id)
                other.settle(node_id)
                yield f"{node_id} writes", other
                if self.budget.lost_answers:
                    other = self.clone()
                    other.budget.lost_answers -= 1
                    other.write(node_id)
                    other.brokers[node_id].change = None
                    yield f"{node_id} writes, the answer is lost", other
                    other = self.clone()
                    other.budget.lost_answers -= 1
                    other.settle(node_id)
                    yield f"{node_id} does not write", other
            if self.budget.lags:
                for n, progress in leader.progress.items():
                    if n in leader.committed.isr and progress.caught_up_ms == 0:
                        other = self.clone()
                        other.budget.lags -= 1
                        other.brokers[node_id].leader.progress[n].caught_up_ms = -100  # type: ignore[union-attr]
                        yield f"{n} lags", other
        elif follower is not None and not broker.refused:
            source = self.brokers[follower.leader]
            if source.is_up and source.leader is not None:
                other = self.clone()
                other.fetch(node_id)
                yield f"{node_id} fetches", other

    # -- what must hold

    def check_leader(self, node_id: int) -> None:
        log = self.brokers[node_id].log
        for offset, value in self.acked.items():
            assert [found for _, found in log[offset : offset + 1]] == [value], (
                f"broker {node_id} leads without the acknowledged record {value} at {offset}: {log}"
            )

    def check(self) -> None:
        for one in self.brokers.values():
            assert not one.refused, "a replica refuses to follow: the leader lacks what was committed"
            for other in self.brokers.values():
                both = min(one.hw, other.hw)
                assert one.log[:both] == other.log[:both], "logs differ below their high watermarks"


T = TypeVar("T", Leader, Follower, Progress)


def _copy(thing: T) -> T:
    other = type(thing).__new__(type(thing))
    for name in type(thing).__slots__:
        setattr(other, name, getattr(thing, name))
    return other
