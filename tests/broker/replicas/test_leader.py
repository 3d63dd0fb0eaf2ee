"""Leader: which offsets count, how far records are committed, how the ISR changes."""

from __future__ import annotations

from ottla.broker.replicas.follower import Follower
from ottla.broker.replicas.leader import Leader
from ottla.broker.replicas.lease import Lease
from ottla.cluster.image import BrokerImage, PartitionImage
from ottla.errors import ErrorCode
from ottla.storage.leader_epochs import EpochEntry, LeaderEpochs

LAG_MS = 1_000
EPOCH = 4


class Bench:
    """A leader of replicas 1 (itself), 2 and 3, with 10 records, 6 of them from before its epoch."""

    def __init__(
        self,
        isr: tuple[int, ...] = (1, 2, 3),
        *,
        min_isr: int = 2,
        replicas: tuple[int, ...] = (1, 2, 3),
        elr: tuple[int, ...] = (),
    ) -> None:
        self.now_ms = 0
        self.end_offset = 10
        self.epochs = LeaderEpochs([EpochEntry(2, 0), EpochEntry(EPOCH, 6)])
        self.brokers = {n: BrokerImage(n, 20, (), continues=20) for n in replicas}
        self.lease = Lease(lambda: self.now_ms)
        self.state = PartitionImage(
            replicas, isr, 1, EPOCH, 7, isr_epochs=(20,) * len(isr), elr=elr, elr_epochs=(20,) * len(elr)
        )
        self.leader = Leader(
            1,
            self.state,
            epoch_start=6,
            high_watermark=5,
            epoch_end=lambda epoch: self.epochs.end_offset_for(epoch, self.end_offset),
            first_epoch_start=lambda: 0,
            lease=self.lease,
            min_isr=min_isr,
            lag_ms_max=LAG_MS,
            now_ms=0,
        )
        self.leader.on_brokers(self.brokers, frozenset())
        self.leader.on_own_end(self.end_offset)

    @property
    def high_watermark(self) -> int:
        return self.leader.high_watermark

    def fetch(
        self,
        broker: int,
        offset: int,
        *,
        last_epoch: int | None = None,
        broker_epoch: int = 20,
        leader_epoch: int = EPOCH,
    ) -> ErrorCode:
        if last_epoch is None:
            last_epoch = self.epochs.epoch_for(offset - 1) if offset else -1
        verdict = self.leader.on_follower_fetch(broker, broker_epoch, leader_epoch, offset, last_epoch, self.now_ms)
        self.leader.advance()
        return verdict.error

    def register(self, broker: int, epoch: int, *, continues: int) -> None:
        self.brokers = {**self.brokers, broker: BrokerImage(broker, epoch, (), continues=continues)}
        self.leader.on_brokers(self.brokers, frozenset())

    def leave(self, broker: int) -> None:
        self.brokers = {n: b for n, b in self.brokers.items() if n != broker}
        self.leader.on_brokers(self.brokers, frozenset())

    def written(self) -> PartitionImage:
        """The change that is on its way is in the tree."""
        assert self.leader.pending is not None
        state = self.leader.pending.after._replace(partition_epoch=self.leader.committed.partition_epoch + 1)
        self.leader.on_state(state, self.now_ms)
        self.leader.advance()
        return state


def test_the_slowest_in_sync_decides_what_is_committed() -> None:
    bench = Bench()
    assert bench.fetch(2, 10) is ErrorCode.NONE
    assert bench.high_watermark == 5
    bench.fetch(3, 8)
    assert bench.high_watermark == 8
    bench.fetch(3, 7)
    assert bench.high_watermark == 8, "it never moves back"


def test_diverging_fetch_is_not_counted() -> None:
    """`diverging_fetch_is_not_counted`: an offset says nothing if other records lead up to it."""
    bench = Bench(isr=(1, 2), replicas=(1, 2))
    verdict = bench.leader.on_follower_fetch(2, 20, EPOCH, 9, 3, 0)
    assert verdict.diverging == (2, 6)
    assert bench.leader.advance() == 5
    assert bench.leader.on_follower_fetch(2, 20, EPOCH, 8, 2, 0).diverging == (2, 6), "its epoch 2 is longer"
    assert bench.leader.advance() == 5
    bench.fetch(2, 6, last_epoch=2)
    assert bench.high_watermark == 6


def test_old_incarnation_fetches() -> None:
    """`old_incarnation_fetches`: what a process had says nothing of the one that has taken its place."""
    bench = Bench(isr=(1, 2), replicas=(1, 2))
    bench.register(2, 21, continues=21)
    assert bench.fetch(2, 10, broker_epoch=20) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert bench.high_watermark == 5
    assert bench.fetch(2, 9, broker_epoch=22) is ErrorCode.NONE, "the image does not know it yet"
    assert bench.high_watermark == 5
    bench.register(2, 22, continues=22)
    bench.fetch(2, 7, broker_epoch=22)
    assert bench.high_watermark == 7


def test_only_this_leader_epoch_counts() -> None:
    bench = Bench(isr=(1, 2), replicas=(1, 2))
    assert bench.fetch(2, 10, leader_epoch=EPOCH - 1) is ErrorCode.FENCED_LEADER_EPOCH
    assert bench.fetch(2, 10, leader_epoch=EPOCH + 1) is ErrorCode.UNKNOWN_LEADER_EPOCH
    assert bench.fetch(2, 10, leader_epoch=-1) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert bench.fetch(9, 10) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert bench.high_watermark == 5


def test_while_a_change_is_on_its_way_the_larger_isr_counts() -> None:
    bench = Bench(isr=(1, 2))
    bench.fetch(2, 10)
    bench.fetch(3, 10)
    change = bench.leader.propose(0)
    assert change is not None
    assert change.after.isr == (1, 2, 3)
    assert change.relies_on == {3: 20}
    bench.end_offset = 12
    bench.leader.on_own_end(12)
    bench.fetch(2, 12)
    assert bench.high_watermark == 10, "reached before the change was decided"
    assert bench.leader.propose(0) is None
    bench.leader.on_unchanged(change, bench.state._replace(partition_epoch=8), 0)
    assert bench.leader.pending is change, "another version tells nothing of it"
    bench.leader.on_unchanged(change, bench.state, 0)
    assert bench.leader.advance() == 12


def test_a_member_that_is_gone_is_promised_that_nothing_is_committed_without_it() -> None:
    """With two of three: the third goes, then the second. What falls below min.insync.replicas goes into the ELR."""
    bench = Bench()
    bench.leave(3)
    change = bench.leader.propose(0)
    assert change is not None
    assert (change.after.isr, change.after.elr) == ((1, 2), ())
    bench.written()
    bench.fetch(2, 8)
    assert bench.high_watermark == 8
    bench.leave(2)
    bench.leader.propose(0)
    state = bench.written()
    assert (state.isr, state.elr) == ((1,), (2,))
    bench.lease.on_answer(0, 1_000_000)
    assert bench.leader.advance() == 8
    assert bench.leader.why_no_append(acks_all=True) is ErrorCode.NOT_ENOUGH_REPLICAS
    assert bench.leader.why_no_append(acks_all=False) is ErrorCode.NONE


def test_the_elr_goes_by_a_written_state_only() -> None:
    bench = Bench(isr=(1,), elr=(2,), replicas=(1, 2))
    bench.lease.on_answer(0, 1_000_000)
    bench.leader.on_min_isr(1)
    assert bench.leader.advance() == 5
    change = bench.leader.propose(0)
    assert change is not None
    assert change.after.elr == ()
    assert bench.leader.advance() == 5
    bench.written()
    assert bench.high_watermark == 10


def test_alone_it_needs_a_lease() -> None:
    bench = Bench(isr=(1,), min_isr=1)
    assert bench.leader.is_alone
    assert bench.leader.why_no_append(acks_all=False) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    bench.lease.on_answer(sent_ms=0, session_timeout_ms=1_000)
    assert bench.leader.advance() == 10
    assert bench.leader.why_no_append(acks_all=True) is ErrorCode.NONE
    bench.now_ms = 500
    bench.leader.on_own_end(12)
    assert bench.high_watermark == 10


def test_the_only_replica_needs_nothing() -> None:
    bench = Bench(isr=(1,), replicas=(1,))
    assert bench.leader.is_sole
    assert bench.leader.on_own_end(12) == 12
    assert bench.leader.propose(10_000) is None


def test_who_lags_leaves_and_joins_when_it_has_caught_up() -> None:
    bench = Bench()
    for now_ms in (0, 900, 1_800):
        bench.now_ms = now_ms
        bench.fetch(2, 10)
        bench.fetch(3, 7)
    change = bench.leader.propose(bench.now_ms)
    assert change is not None
    assert change.after.isr == (1, 2)
    bench.written()
    assert bench.high_watermark == 10
    assert bench.leader.propose(bench.now_ms) is None
    bench.fetch(3, 9)
    assert bench.leader.propose(bench.now_ms) is None, "it lacks what is committed"
    bench.fetch(3, 10)
    change = bench.leader.propose(bench.now_ms)
    assert change is not None
    assert change.after.isr == (1, 2, 3)


def test_a_steady_stream_is_no_lag() -> None:
    """A follower never has everything, and always what there was when it asked before."""
    bench = Bench()
    for step in range(1, 30):
        bench.now_ms = step * 100
        bench.end_offset = 10 + step
        bench.leader.on_own_end(bench.end_offset)
        bench.fetch(2, 10 + step)
        bench.fetch(3, 9 + step)
    assert bench.leader.propose(bench.now_ms) is None


def test_who_came_back_with_less_is_in_no_set() -> None:
    bench = Bench()
    bench.register(3, 25, continues=25)
    bench.leave(2)
    change = bench.leader.propose(0)
    assert change is not None
    assert (change.after.isr, change.after.elr) == ((1,), (2,))


def test_who_came_back_with_everything_stays() -> None:
    bench = Bench()
    bench.fetch(2, 10)
    bench.fetch(3, 10)
    bench.register(3, 25, continues=20)
    assert bench.leader.propose(0) is None
    bench.leave(2)
    change = bench.leader.propose(0)
    assert change is not None
    assert (change.after.isr, change.after.isr_epochs) == ((1, 3), (20, 25))
    assert change.relies_on == {3: 25}


def test_a_replica_has_to_have_the_beginning_of_the_epoch_to_join() -> None:
    """The high watermark of a new leader may be older than what was committed; the start of its epoch is not."""
    bench = Bench(isr=(1, 2))
    bench.fetch(3, 5)
    assert bench.leader.propose(0) is None
    bench.leader.high_watermark = 2
    assert bench.leader.propose(0) is None


def test_a_follower_cuts_where_the_logs_part_and_not_below_what_was_committed() -> None:
    state = PartitionImage((1, 2), (1,), 1, EPOCH, 7)
    own = LeaderEpochs([EpochEntry(1, 0), EpochEntry(2, 4), EpochEntry(3, 8)])
    follower = Follower(2, state)

    def cut(epoch: int, end_offset: int, high_watermark: int = 0) -> tuple[int, bool]:
        truncation = follower.truncation(
            epoch,
            end_offset,
            own_end_of=lambda wanted: own.end_offset_for(wanted, 12),
            log_end=12,
            high_watermark=high_watermark,
            last_epoch=3,
        )
        return truncation.offset, truncation.refusal is not None

    assert cut(2, 6) == (6, False)
    assert cut(2, 10) == (8, False)
    assert cut(3, 9) == (9, False)
    assert cut(2, 6, high_watermark=7) == (6, True)
    follower.on_state(2, state._replace(leader_recovery_state=1))
    assert cut(2, 6, high_watermark=7) == (6, False)
    follower.on_state(2, state._replace(recovered_in=EPOCH))
    assert cut(2, 6, high_watermark=7) == (6, False)
    follower.on_state(2, state._replace(recovered_in=3))
    assert cut(2, 6, high_watermark=7) == (6, True)
