"""Who is in sync, as the leader of a partition decides it. Pure: a state and facts about replicas in, the next state out.

A leader changes its own ISR by compare-and-set. Decided is from what is true now, so that running it again decides the same:

* A member that is not registered leaves at once, one that has fallen behind after replica.lag.time.max.ms; it goes into the
  ELR where the ISR gets smaller than min.insync.replicas: as long as it is there, the leader commits nothing (KIP-966).
* A member that was registered anew without continuing the epoch it was admitted under has lost records, and what a broker
  cannot lead (`unfit`) is damaged: such members leave, and are in no ELR either.
* A replica joins when it has caught up, under the broker epoch under which it did (KIP-903). That epoch is checked when the
  state is written, and so is each other epoch that is written anew.
* The ELR goes when the ISR is large enough again, also because the setting has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ottla.cluster.image import BrokerImage, PartitionImage


@dataclass(frozen=True, slots=True, kw_only=True)
class IsrFacts:
    """What a leader knows when it decides.

    Attributes:
        leader: itself.
        min_isr: min.insync.replicas, at most as many as there are replicas.
        brokers: those that are registered.
        unfit: those that cannot lead this partition.
        has_caught_up: whether a replica outside of the ISR has everything that counts.
        lags: whether a member has not had everything for too long.
    """

    leader: int
    min_isr: int
    brokers: Mapping[int, BrokerImage]
    unfit: frozenset[int]
    has_caught_up: Callable[[int], bool]
    lags: Callable[[int], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsrChange:
    """A state to be written.

    Attributes:
        before, after: the state it was decided on, whose version is checked; what is to be.
        relies_on: brokers that must still be registered under these epochs.
    """

    before: PartitionImage
    after: PartitionImage
    relies_on: Mapping[int, int]

    @property
    def is_shrink(self) -> bool:
        return len(self.after.isr) < len(self.before.isr)

    @property
    def is_expansion(self) -> bool:
        return bool(set(self.after.isr) - set(self.before.isr))


def change_of(state: PartitionImage, facts: IsrFacts) -> IsrChange | None:
    """Return how ISR and ELR are to change; None if they are right."""
    admitted = state.admitted()
    epochs = dict(admitted)
    isr, left = [], []
    for node_id in state.isr:
        if node_id == facts.leader:
            isr.append(node_id)
            continue
        broker = facts.brokers.get(node_id)
        if broker is None:
            left.append(node_id)
        elif not broker.continues_from(admitted[node_id]) or node_id in facts.unfit:
            continue
        elif facts.lags(node_id):
            left.append(node_id)
        else:
            isr.append(node_id)
    joined = [node_id for node_id in state.replicas if node_id not in state.isr and _may_join(node_id, facts)]
    isr += joined
    elr: list[int] = []
    if len(isr) < facts.min_isr:
        kept = [n for n in state.elr if n not in isr and _keeps_its_records(n, admitted, facts)]
        elr = kept + [n for n in left if n not in kept]
    if tuple(isr) == state.isr and tuple(elr) == state.elr:
        return None
    relies_on: dict[int, int] = {}
    for node_id in isr:
        broker = facts.brokers.get(node_id)
        if broker is None or (node_id not in joined and broker.broker_epoch == admitted[node_id]):
            continue
        epochs[node_id] = broker.broker_epoch
        if node_id != facts.leader:  # whose own epoch every write checks
            relies_on[node_id] = broker.broker_epoch
    after = state._replace(
        isr=tuple(isr),
        isr_epochs=tuple(epochs[n] for n in isr),
        elr=tuple(elr),
        elr_epochs=tuple(epochs[n] for n in elr),
        leader_recovery_state=0 if set(state.replicas) <= set(isr) else state.leader_recovery_state,
    )
    return IsrChange(before=state, after=after, relies_on=relies_on)


def _may_join(node_id: int, facts: IsrFacts) -> bool:
    broker = facts.brokers.get(node_id)
    if broker is None or broker.is_stopping or node_id in facts.unfit:
        return False
    return facts.has_caught_up(node_id) and not facts.lags(node_id)  # or it would leave again at once


def _keeps_its_records(node_id: int, admitted: Mapping[int, int], facts: IsrFacts) -> bool:
    """Whether a member of the ELR still has what it had: it may be away, but not back with less."""
    broker = facts.brokers.get(node_id)
    return broker is None or (broker.continues_from(admitted[node_id]) and node_id not in facts.unfit)
