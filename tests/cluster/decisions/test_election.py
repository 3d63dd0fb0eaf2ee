"""Who may lead: decided from what is in the image, never from what has just happened.

Brokers of these tests are registered under epoch 10 * id + n, where n counts how often they came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.cluster_support import ENDPOINT, image_with

from ottla.cluster.decisions.election import (
    PREFERRED,
    UNCLEAN,
    ElectionRules,
    elect,
    elect_on_request,
    is_led,
    preferred_elections,
    waits_for_ends,
    why_led_anew,
)
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import NO_LEADER, BrokerEnds, BrokerImage, ClusterImage, LogEnd, PartitionImage
from ottla.errors import ErrorCode
from ottla.types import GROUP_METADATA_TOPIC, TopicPartition

T0 = TopicPartition("t", 0)
RULES = ElectionRules(min_isr=lambda topic: 2)


def alive(
    node_id: int, epoch: int | None = None, continues: int | None = None, *, stopping: bool = False
) -> BrokerImage:
    epoch = 10 * node_id if epoch is None else epoch
    return BrokerImage(node_id, epoch, (ENDPOINT,), None, epoch if continues is None else continues, stopping)


def image_of(
    partition: PartitionImage, *brokers: int | BrokerImage, unfit: Mapping[int, bool] | None = None, topic: str = "t"
) -> ClusterImage:
    image = image_with({topic: 1})
    one = image.topics[topic]._replace(partitions=(partition,))
    living = [alive(b) if isinstance(b, int) else b for b in brokers]
    return replace(
        image,
        topics={topic: one},
        brokers={b.node_id: b for b in living},
        unfit={node_id: frozenset({(one.topic_id, 0)}) for node_id in unfit or {}},
    )


def replicated(
    leader: int = 1, isr: tuple[int, ...] = (1, 2, 3), elr: tuple[int, ...] = (), replicas: tuple[int, ...] = (1, 2, 3)
) -> PartitionImage:
    """A partition in epoch 5 whose members were admitted under the first epochs of their brokers."""
    return PartitionImage(
        replicas,
        isr,
        leader,
        5,
        7,
        isr_epochs=tuple(10 * n for n in isr),
        elr=elr,
        elr_epochs=tuple(10 * n for n in elr),
    )


def decide(image: ClusterImage, rules: ElectionRules = RULES) -> PartitionImage | None:
    return elect(image, next(iter(image.topics.values())), 0, rules)


def leader_of(partition: PartitionImage | None) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    assert partition is not None
    return partition.leader, partition.leader_epoch, partition.isr, partition.elr


# -- clean elections


def test_a_partition_whose_leader_lives_is_left_alone() -> None:
    assert decide(image_of(replicated(), 1, 2, 3)) is None
    assert decide(image_of(replicated(), 1)) is None  # taking the others out of the ISR is the leader's affair


def test_the_first_live_member_of_the_isr_leads_and_the_dead_one_leaves_it() -> None:
    elected = decide(image_of(replicated(), 2, 3))
    assert leader_of(elected) == (2, 6, (2, 3), ())
    assert elected is not None
    assert elected.isr_epochs == (20, 30)


def test_who_leaves_an_isr_that_gets_too_small_stays_eligible() -> None:
    """KIP-966: as long as the ISR is smaller than min.insync.replicas nothing can be acknowledged that the ELR lacks."""
    elected = decide(image_of(replicated(), 3))
    assert leader_of(elected) == (3, 6, (3,), (1, 2))
    assert elected is not None
    assert elected.elr_epochs == (10, 20)


def test_an_eligible_replica_leads_if_no_member_of_the_isr_lives() -> None:
    elected = decide(image_of(replicated(leader=1, isr=(1,), elr=(3, 2)), 2, 3))
    assert leader_of(elected) == (2, 6, (2,), (3, 1))
    # And an ISR that is large enough again has no ELR.
    many = PartitionImage((1, 2, 3, 4), (1, 2, 3), 1, 5, 7, isr_epochs=(10, 20, 30), elr=(4,), elr_epochs=(40,))
    assert leader_of(decide(image_of(many, 2, 3, 4))) == (2, 6, (2, 3), ())


def test_a_replica_that_is_behind_never_leads() -> None:
    elected = decide(image_of(replicated(isr=(1,)), 2, 3))
    assert leader_of(elected) == (NO_LEADER, 6, (1,), ())
    # Decided again, there is nothing more to do.
    assert elected is not None
    assert decide(image_of(elected, 2, 3)) is None


def test_a_partition_without_a_state_is_led_by_none() -> None:
    """`half_deleted_topic`, `maker_dies`: a missing state says nothing about who has the records."""
    blank = PartitionImage((1, 2, 3), (), NO_LEADER, 0, 0)
    assert decide(image_of(blank, 1, 2, 3), ElectionRules(is_unclean_allowed=lambda t: True)) is None


# -- continuing epochs


def test_bounce_within_session_of_a_leader() -> None:
    """`bounce_within_session`: a leader that came back without its last records is out of sync, whatever its name says."""
    bounced = alive(1, epoch=11)
    assert leader_of(decide(image_of(replicated(), bounced, 2, 3))) == (2, 6, (2, 3), ())
    # Its log is what it was: it goes on in its epoch.
    assert decide(image_of(replicated(), alive(1, epoch=11, continues=10), 2, 3)) is None


def test_bounce_within_session_of_a_follower() -> None:
    """A follower that lost what it had acknowledged is still named in the ISR: it must not be the one that is elected."""
    assert leader_of(decide(image_of(replicated(), alive(2, epoch=21), 3))) == (3, 6, (3,), (1,))
    assert leader_of(decide(image_of(replicated(), alive(2, epoch=21, continues=20), 3))) == (2, 6, (2, 3), ())


def test_two_sleeps() -> None:
    """`two_sleeps`: two sessions ended after another, the process lived on: the chain goes back to the first epoch."""
    assert decide(image_of(replicated(), alive(1, epoch=12, continues=10), 2, 3)) is None
    assert leader_of(decide(image_of(replicated(), alive(1, epoch=12, continues=11), 2, 3)))[0] == 2


def test_stop_then_start() -> None:
    """`stop_then_start`: the raise at the stop is a link; a member admitted before it is in sync after the start."""
    stopping = alive(1, epoch=11, continues=10, stopping=True)
    moved = decide(image_of(replicated(), stopping, 2, 3))
    assert leader_of(moved) == (2, 6, (1, 2, 3), ())
    started = alive(1, epoch=12, continues=10)
    assert moved is not None
    assert leader_of(decide(image_of(moved, started))) == (1, 7, (1,), (2, 3))


def test_all_killed_page_cache_survives() -> None:
    """`all_killed_page_cache_survives`: all processes were killed at once, the machines went on: nobody waits for anybody."""
    back = [alive(n, epoch=10 * n + 1, continues=10 * n) for n in (1, 2, 3)]
    assert decide(image_of(replicated(), *back)) is None
    assert leader_of(decide(image_of(replicated(), back[2]))) == (3, 6, (3,), (1, 2))


def test_a_member_that_lost_its_records_leaves_isr_and_elr() -> None:
    partition = replicated(leader=1, isr=(1, 2), elr=(3,))
    elected = decide(image_of(partition, alive(1, epoch=11), 2, alive(3, epoch=31)))
    assert leader_of(elected) == (2, 6, (2,), ())


# -- stops, unfit brokers


def test_the_last_one_leads_until_it_is_gone() -> None:
    assert decide(image_of(replicated(), alive(1, 11, 10, stopping=True))) is None
    assert decide(image_of(replicated(), alive(1, 11, 10, stopping=True), alive(2, 21, 20, stopping=True))) is None


def test_unfit_is_not_elected_again() -> None:
    """`unfit_is_not_elected_again`: what a broker cannot lead is in the tree, so it is not chosen the next time either."""
    elected = decide(image_of(replicated(), 1, 2, 3, unfit={1: True}))
    assert leader_of(elected) == (2, 6, (1, 2, 3), ())
    assert elected is not None
    assert decide(image_of(elected, 1, 2, 3, unfit={1: True})) is None
    assert leader_of(decide(image_of(elected, 1, 3, unfit={1: True}))) == (3, 7, (1, 3), ())
    # If all that are in sync are unfit there is no leader.
    assert leader_of(decide(image_of(replicated(isr=(1,)), 1, 2, 3, unfit={1: True})))[0] == NO_LEADER


def test_a_damaged_log_leads_where_it_is_the_only_one() -> None:
    only = replicated(isr=(1,), replicas=(1,))
    assert decide(image_of(only, 1, unfit={1: True})) is None
    assert leader_of(decide(image_of(only, alive(1, epoch=11), unfit={1: True}))) == (1, 6, (1,), ())


# -- all were down


Ends = dict[int, tuple[int, int, int]]
"""(broker epoch, last epoch, log end) by broker."""


def saying(image: ClusterImage, ends: Ends) -> ClusterImage:
    topic_id = image.topics["t"].topic_id
    said = {
        n: BrokerEnds(broker_epoch=e, ends={(topic_id, 0): LogEnd(last, end)}) for n, (e, last, end) in ends.items()
    }
    return replace(image, ends=said)


def test_all_down_shortest_first() -> None:
    """`all_down_shortest_first`: all lost power. Who comes back first waits; the longest of all logs leads."""
    back = [alive(n, epoch=10 * n + 1) for n in (1, 2, 3)]
    said = {1: (11, 5, 90), 2: (21, 5, 120), 3: (31, 4, 500)}
    image = image_of(replicated(), back[0])
    waiting = decide(saying(image, said))
    assert leader_of(waiting) == (NO_LEADER, 6, (1, 2, 3), ())
    assert waits_for_ends(image, image.topics["t"], 0, 1)
    assert waiting is not None
    assert decide(saying(image_of(waiting, back[0], back[1]), said)) is None
    elected = decide(saying(image_of(waiting, *back), said))
    # Broker 3's log is longer, but of an older epoch: what is behind the end of broker 2's was never acknowledged.
    assert leader_of(elected) == (2, 7, (2,), ())
    assert elected is not None
    assert (elected.leader_recovery_state, elected.recovered_in, elected.isr_epochs) == (1, 7, (21,))


def test_ends_of_an_earlier_epoch_say_nothing() -> None:
    back = [alive(n, epoch=10 * n + 1) for n in (1, 2, 3)]
    waiting = replicated(leader=NO_LEADER)
    for stale in ({1: (11, 5, 90), 2: (20, 5, 120), 3: (31, 4, 50)}, {1: (11, 5, 90), 3: (31, 4, 50)}):
        assert decide(saying(image_of(waiting, *back), stale)) is None


def test_the_eligible_are_waited_for_as_well() -> None:
    waiting = replicated(leader=NO_LEADER, isr=(1,), elr=(2,))
    said = {1: (11, 5, 90), 2: (21, 5, 120), 3: (31, 9, 999)}
    assert decide(saying(image_of(waiting, alive(1, 11), alive(3, 31)), said)) is None
    assert leader_of(decide(saying(image_of(waiting, alive(1, 11), alive(2, 21), alive(3, 31)), said)))[0] == 2


def test_if_the_longest_log_is_unfit_an_operator_decides() -> None:
    back = [alive(n, epoch=10 * n + 1) for n in (1, 2, 3)]
    waiting = replicated(leader=NO_LEADER)
    said = {1: (11, 5, 90), 2: (21, 5, 120), 3: (31, 5, 120)}
    assert decide(saying(image_of(waiting, *back, unfit={2: True, 3: True}), said)) is None
    assert leader_of(decide(saying(image_of(waiting, *back, unfit={2: True}), said)))[0] == 3
    told = elect_on_request(image_of(waiting, *back, unfit={2: True, 3: True}), T0, UNCLEAN)
    assert isinstance(told, PartitionImage)
    assert (told.leader, told.isr, told.leader_recovery_state) == (1, (1,), 1)


def test_a_sole_replica_leads_in_a_new_epoch() -> None:
    only = replicated(isr=(1,), replicas=(1,))
    elected = decide(image_of(only, alive(1, epoch=11)))
    assert leader_of(elected) == (1, 6, (1,), ())
    assert elected is not None
    assert (elected.isr_epochs, elected.leader_recovery_state) == ((11,), 0)
    assert decide(image_of(only, alive(1, epoch=11, continues=10))) is None
    assert leader_of(decide(image_of(only, 2))) == (NO_LEADER, 6, (1,), ())


# -- unclean elections


def test_unclean_elections_are_for_topics_that_ask_for_them() -> None:
    rules = replace(RULES, is_unclean_allowed=lambda topic: True)
    elected = decide(image_of(replicated(isr=(1,)), 2, 3), rules)
    assert leader_of(elected) == (2, 6, (2,), ())
    assert elected is not None
    assert (elected.leader_recovery_state, elected.recovered_in) == (1, -1)
    # A clean one goes before.
    assert leader_of(decide(image_of(replicated(isr=(1,), elr=(3,)), 2, 3), rules))[0] == 3


def test_internal_topics_are_never_elected_uncleanly_by_a_setting() -> None:
    rules = replace(RULES, is_unclean_allowed=lambda topic: True)
    image = image_of(replicated(isr=(1,)), 2, 3, topic=GROUP_METADATA_TOPIC)
    assert leader_of(decide(image, rules))[0] == NO_LEADER
    told = elect_on_request(
        image_of(replicated(leader=NO_LEADER, isr=(1,)), 2, 3, topic=GROUP_METADATA_TOPIC),
        TopicPartition(GROUP_METADATA_TOPIC, 0),
        UNCLEAN,
    )
    assert isinstance(told, PartitionImage)
    assert told.leader == 2


# -- any image


NODES = st.integers(1, 3)
MEMBERS = st.lists(NODES, unique=True, max_size=3).map(tuple)
EPOCHS = st.integers(0, 3)
BROKERS = st.dictionaries(NODES, st.tuples(EPOCHS, EPOCHS, st.booleans(), st.booleans()))


@given(MEMBERS, MEMBERS, st.sampled_from([NO_LEADER, 1, 2, 3]), BROKERS, st.booleans())
def test_a_leader_has_what_was_acknowledged_and_deciding_again_changes_nothing(
    isr: tuple[int, ...],
    elr: tuple[int, ...],
    leader: int,
    brokers: dict[int, tuple[int, int, bool, bool]],
    unclean: bool,
) -> None:
    elr = tuple(n for n in elr if n not in isr)
    partition = PartitionImage(
        (1, 2, 3), isr, leader, 5, 7, isr_epochs=(1,) * len(isr), elr=elr, elr_epochs=(1,) * len(elr)
    )
    living = [BrokerImage(n, e, (ENDPOINT,), None, min(c, e), s) for n, (e, c, s, _) in brokers.items()]
    unfit = {n: True for n, (_, _, _, cannot) in brokers.items() if cannot}
    image = image_of(partition, *living, unfit=unfit)
    rules = replace(RULES, is_unclean_allowed=lambda topic: unclean)
    elected = decide(image, rules)
    if elected is None:
        return
    assert elected.leader_epoch == partition.leader_epoch + 1
    assert len(elected.isr) == len(elected.isr_epochs)
    assert len(elected.elr) == len(elected.elr_epochs)
    assert not set(elected.isr) & set(elected.elr)
    if elected.leader == NO_LEADER:
        assert (elected.isr, elected.elr) == (isr, elr)
    else:
        assert elected.leader in image.brokers
        assert elected.leader in elected.isr
        assert elected.leader not in unfit
        if not elected.leader_recovery_state:
            assert elected.leader in (*isr, *elr)
            assert image.brokers[elected.leader].continues <= 1  # it continues the epoch under which it was admitted
            assert set(elected.isr) <= {*isr, *elr}
        if not image.brokers[elected.leader].is_stopping:
            assert is_led(image, image.topics["t"]._replace(partitions=(elected,)), 0)
    again = decide(image_of(elected, *living, unfit=unfit), rules)
    assert again is None


# -- preferred leaders, requests


def test_leadership_goes_back_to_preferred_replicas() -> None:
    image = image_of(replicated(leader=2), 1, 2, 3)
    assert dict(preferred_elections(image)) == {T0: replicated(leader=1)._replace(leader_epoch=6)}
    for away in (
        image_of(replicated(leader=1), 1, 2, 3),
        image_of(replicated(leader=2), 2, 3),
        image_of(replicated(leader=2, isr=(2, 3)), 1, 2, 3),
        image_of(replicated(leader=2), alive(1, epoch=11), 2, 3),
        image_of(replicated(leader=2), alive(1, stopping=True), 2, 3),
        image_of(replicated(leader=2), 1, 2, 3, unfit={1: True}),
        image_of(replicated(leader=NO_LEADER), 1, 2, 3),
    ):
        assert list(preferred_elections(away)) == []


def test_a_partition_that_has_its_preferred_leader_needs_no_election() -> None:
    refusal = elect_on_request(image_with({"t": 1}), T0, PREFERRED)
    assert refusal == Refusal(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")


def test_what_does_not_exist_is_named() -> None:
    image = image_with({"t": 1})
    none = Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "No such topic as zz")
    assert elect_on_request(image, TopicPartition("zz", 0), PREFERRED) == none
    gone = elect_on_request(image, TopicPartition("t", 9), PREFERRED)
    assert gone == Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "No such partition as t-9")


@pytest.mark.parametrize("image", [image_of(replicated(2, (2,)), 1, 2), image_of(replicated(2), 2)])
def test_a_preferred_replica_that_is_behind_or_dead_does_not_lead(image: ClusterImage) -> None:
    refusal = elect_on_request(image, T0, PREFERRED)
    assert isinstance(refusal, Refusal)
    assert refusal.error is ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE


def test_an_unclean_election_on_request_takes_what_is_clean_first() -> None:
    elected = elect_on_request(image_of(replicated(leader=NO_LEADER, isr=(1,)), 3), T0, UNCLEAN)
    assert isinstance(elected, PartitionImage)
    assert (elected.leader, elected.isr, elected.leader_recovery_state) == (3, (3,), 1)
    clean = elect_on_request(image_of(replicated(leader=NO_LEADER, isr=(3,)), 2, 3), T0, UNCLEAN)
    assert isinstance(clean, PartitionImage)
    assert (clean.leader, clean.leader_recovery_state) == (3, 0)
    led = elect_on_request(image_of(replicated(leader=2), 2), T0, UNCLEAN)
    assert isinstance(led, Refusal)
    assert led.error is ErrorCode.ELECTION_NOT_NEEDED
    none = elect_on_request(image_of(replicated(leader=NO_LEADER), 7), T0, UNCLEAN)
    assert isinstance(none, Refusal)
    assert none.error is ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE


# -- reasons


@pytest.mark.parametrize(
    ("partition", "brokers", "unfit", "why"),
    [
        (replicated(leader=NO_LEADER), (1, 2, 3), {}, "it had no leader"),
        (replicated(), (2, 3), {}, "broker 1 is gone"),
        (replicated(), (alive(1, stopping=True), 2, 3), {}, "broker 1 stops"),
        (replicated(), (alive(1, 12), 2, 3), {}, "broker 1 was restarted, and may have lost what was not on its disk"),
        (
            replicated(),
            (1, 2, 3),
            {1: True},
            "broker 1 cannot lead it: its log directory is offline, or its log is damaged",
        ),
    ],
)
def test_every_election_has_a_reason(
    partition: PartitionImage, brokers: tuple[int | BrokerImage, ...], unfit: dict[int, bool], why: str
) -> None:
    image = image_of(partition, *brokers, unfit=unfit)
    elected = elect(image, image.topics["t"], 0, RULES)
    assert elected is not None
    assert why_led_anew(image, image.topics["t"], 0, elected) == why


def test_the_reason_of_an_election_that_was_asked_for_is_that() -> None:
    image = image_of(replicated(leader=2), 1, 2, 3)
    topic = image.topics["t"]
    ((_, preferred),) = preferred_elections(image)
    assert why_led_anew(image, topic, 0, preferred) == "broker 1 is its preferred leader"
