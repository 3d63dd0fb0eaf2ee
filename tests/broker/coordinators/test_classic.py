"""A classic group by itself: counting, voting, leading, fencing. The life of groups is in the transcripts."""

from __future__ import annotations

import pytest

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.member import Member, Protocols
from ottla.broker.coordinators.groups.classic.states import GroupEvent, GroupState
from ottla.errors import (
    CoordinatorNotAvailableError,
    ErrorCode,
    FencedInstanceIdError,
    GroupIdNotFoundError,
    IllegalGenerationError,
    KafkaError,
    NonEmptyGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from ottla.protocol.messages.group_records import GroupMetadataValue
from ottla.protocol.messages.join_group import JoinGroupResponse
from ottla.protocol.messages.sync_group import SyncGroupResponse

RANGE: Protocols = (("range", b"R"),)
BOTH: Protocols = (("range", b"R"), ("sticky", b"S"))
STICKY_FIRST: Protocols = (("sticky", b"S"), ("range", b"R"))


def member(
    member_id: str, protocols: Protocols = RANGE, *, instance: str | None = None, timeout_ms: int = 1000
) -> Member:
    return Member(
        member_id=member_id,
        group_instance_id=instance,
        client_id="client",
        client_host="/127.0.0.1",
        rebalance_timeout_ms=timeout_ms,
        session_timeout_ms=500,
        protocol_type="consumer",
        protocols=protocols,
    )


def group_of(*members: Member, state: GroupState = GroupState.STABLE) -> ClassicGroup:
    group = ClassicGroup("g", state=state, generation_id=3)
    for each in members:
        group.add(each)
    return group


def test_the_first_member_leads_and_sets_the_protocol_type() -> None:
    group = group_of(member("a"), member("b"))
    assert (group.leader_id, group.protocol_type) == ("a", "consumer")


def test_when_the_leader_goes_the_longest_standing_member_leads() -> None:
    group = group_of(member("a"), member("b"), member("c"))
    group.remove("a")
    assert group.leader_id == "b"
    group.remove("c")
    group.remove("b")
    assert group.leader_id is None


def test_a_leader_that_does_not_join_is_replaced_by_one_that_does() -> None:
    group = group_of(member("a"), member("b"), member("c"))
    assert not group.maybe_elect_joined_leader()
    group.park_join(group.members["c"], lambda response: None)
    assert group.maybe_elect_joined_leader()
    assert group.leader_id == "c"


def test_everybody_has_joined_only_when_nobody_is_pending() -> None:
    group = group_of(member("a"))
    assert not group.has_all_members_joined
    group.park_join(group.members["a"], lambda response: None)
    assert group.has_all_members_joined
    group.pending_joins["p"] = None
    assert not group.has_all_members_joined


def test_the_longest_rebalance_timeout_counts() -> None:
    assert group_of(member("a", timeout_ms=10), member("b", timeout_ms=30)).rebalance_timeout_ms == 30
    assert group_of().rebalance_timeout_ms == 0


@pytest.mark.parametrize(
    ("protocols", "chosen"),
    [
        ((RANGE, BOTH), "range"),
        ((STICKY_FIRST, RANGE, BOTH), "range"),
        ((STICKY_FIRST, STICKY_FIRST, BOTH), "sticky"),
        ((BOTH, STICKY_FIRST), "range"),
    ],
)
def test_the_protocol_with_most_votes_among_the_common_ones_is_chosen(
    protocols: tuple[Protocols, ...], chosen: str
) -> None:
    group = group_of(*(member(f"m{number}", each) for number, each in enumerate(protocols)))
    assert group.select_protocol() == chosen


def test_a_newcomer_must_share_a_protocol_with_everybody() -> None:
    group = group_of(member("a", BOTH), member("b", RANGE))
    assert group.supports_protocols("consumer", (("x", b""), ("range", b"")))
    assert not group.supports_protocols("consumer", (("sticky", b""),))
    assert not group.supports_protocols("connect", RANGE)
    group.remove("b")
    assert group.supports_protocols("consumer", (("sticky", b""),))


def test_an_empty_group_takes_any_protocol_but_not_none() -> None:
    group = ClassicGroup("g")
    assert group.supports_protocols("anything", RANGE)
    assert not group.supports_protocols("", RANGE)
    assert not group.supports_protocols("anything", ())


def test_votes_follow_what_members_say_when_they_join_again() -> None:
    group = group_of(member("a", RANGE), member("b", BOTH))
    group.update(
        group.members["a"], protocols=STICKY_FIRST, rebalance_timeout_ms=1, session_timeout_ms=1, respond_join=None
    )
    assert group.supports_protocols("consumer", (("sticky", b""),))


def test_a_replaced_static_member_keeps_its_place_and_its_old_id_is_answered_and_fenced() -> None:
    group = group_of(member("old", instance="i"), member("b"))
    old = group.members["old"]
    old.assignment = b"A"
    joins: list[JoinGroupResponse] = []
    syncs: list[SyncGroupResponse] = []
    group.park_join(old, joins.append)
    group.park_sync(old, syncs.append)
    new = old.with_new_id("new", protocols=old.protocols, rebalance_timeout_ms=1, session_timeout_ms=2)
    group.swap_static(old, new)
    assert joins[0].error_code == syncs[0].error_code == ErrorCode.FENCED_INSTANCE_ID
    assert (new.assignment, group.leader_id, group.awaiting_join_count) == (b"A", "new", 0)
    with pytest.raises(FencedInstanceIdError):
        group.validate_member("old", "i")
    with pytest.raises(UnknownMemberIdError):
        group.validate_member("old", None)
    with pytest.raises(UnknownMemberIdError):
        group.validate_member("new", "other")
    group.validate_member("new", "i")


def test_swapping_a_static_member_back_undoes_it() -> None:
    group = group_of(member("old", BOTH, instance="i"), member("b", BOTH))
    group.protocol_name = "sticky"
    before = group.to_record({"old": b"", "b": b""})
    old = group.members["old"]
    new = old.with_new_id("new", protocols=(("other", b""),), rebalance_timeout_ms=1, session_timeout_ms=2)
    group.swap_static(old, new)
    assert not group.supports_protocols("consumer", (("sticky", b""),))
    group.swap_static(new, old)
    after = group.to_record({"old": b"", "b": b""})
    assert (after.leader, sorted(m.member_id for m in after.members)) == (before.leader, ["b", "old"])
    assert sorted(m.subscription for m in after.members) == sorted(m.subscription for m in before.members)
    assert group.supports_protocols("consumer", (("sticky", b""),))
    group.validate_member("old", "i")


def test_a_removed_member_gets_answers_for_what_it_parked() -> None:
    group = group_of(member("a"), member("b"))
    codes: list[int] = []
    group.park_join(group.members["a"], lambda response: codes.append(response.error_code))
    group.park_sync(group.members["a"], lambda response: codes.append(response.error_code))
    group.remove("a")
    assert codes == [ErrorCode.UNKNOWN_MEMBER_ID] * 2
    assert group.awaiting_join_count == 0


def test_a_new_member_is_not_kept_alive_by_waiting() -> None:
    waiting = member("a")
    waiting.respond_join = lambda response: None
    assert waiting.has_satisfied_heartbeat
    waiting.is_new = True
    assert not waiting.has_satisfied_heartbeat


def commit_error(group: ClassicGroup, member_id: str, generation_id: int, instance: str | None = None) -> type | None:
    try:
        group.validate_offset_commit(member_id, instance, generation_id)
    except KafkaError as error:
        return type(error)
    return None


def test_commits_are_validated_against_member_and_generation() -> None:
    stable = group_of(member("a", instance="i"))
    assert commit_error(stable, "a", 3) is None
    assert commit_error(stable, "a", 3, "i") is None
    assert commit_error(stable, "a", 2) is IllegalGenerationError
    assert commit_error(stable, "a", -1) is IllegalGenerationError
    assert commit_error(stable, "b", 3) is UnknownMemberIdError
    assert commit_error(stable, "b", 3, "i") is FencedInstanceIdError
    assert commit_error(stable, "", -1) is UnknownMemberIdError


def test_commits_depend_on_the_state() -> None:
    preparing = group_of(member("a"), state=GroupState.PREPARING_REBALANCE)
    completing = group_of(member("a"), state=GroupState.COMPLETING_REBALANCE)
    assert commit_error(preparing, "a", 3) is None
    assert commit_error(completing, "a", 3) is RebalanceInProgressError
    assert commit_error(ClassicGroup("g"), "", -1) is None
    assert commit_error(ClassicGroup("g"), "a", -1) is None
    assert commit_error(ClassicGroup("g"), "a", 0) is UnknownMemberIdError
    assert commit_error(ClassicGroup("g", state=GroupState.DEAD), "", -1) is CoordinatorNotAvailableError
    completing.validate_offset_commit("a", None, 3, transactional=True)
    completing.validate_offset_commit("", None, -1, transactional=True)


def test_only_empty_groups_are_deleted() -> None:
    ClassicGroup("g").validate_delete()
    with pytest.raises(NonEmptyGroupError):
        group_of(member("a")).validate_delete()
    with pytest.raises(GroupIdNotFoundError):
        ClassicGroup("g", state=GroupState.DEAD).validate_delete()


def test_offsets_of_a_group_with_members_are_deleted_only_if_they_are_consumers() -> None:
    group_of(member("a")).validate_offset_delete()
    with pytest.raises(NonEmptyGroupError):
        ClassicGroup("g", state=GroupState.STABLE, protocol_type="connect").validate_offset_delete()
    with pytest.raises(GroupIdNotFoundError):
        ClassicGroup("g", state=GroupState.DEAD).validate_offset_delete()


def test_impossible_transitions_are_bugs() -> None:
    with pytest.raises(AssertionError):
        ClassicGroup("g").on(GroupEvent.ASSIGNED, 0)


def test_a_group_survives_its_record() -> None:
    group = group_of(member("a", BOTH), member("b", BOTH, instance="i"))
    group.protocol_name = "sticky"
    again = ClassicGroup.from_record("g", group.to_record({"a": b"A", "b": b"B"}))
    assert (again.state, again.generation_id, again.leader_id) == (GroupState.STABLE, 3, "a")
    assert [m.assignment for m in again.members.values()] == [b"A", b"B"]
    assert again.static_members == {"i": "b"}
    assert again.members["a"].protocols == (("sticky", b"S"),)


def test_a_member_of_an_old_record_has_its_session_timeout_as_rebalance_timeout() -> None:
    group = group_of(member("a"))
    group.protocol_name = "range"
    value = group.to_record({"a": b""})
    value.members[0].rebalance_timeout = -1
    assert ClassicGroup.from_record("g", value).members["a"].rebalance_timeout_ms == 500


def test_a_record_without_members_is_an_empty_group() -> None:
    value = GroupMetadataValue(protocol_type="", generation=7, protocol=None, leader=None)
    group = ClassicGroup.from_record("g", value)
    assert (group.is_empty, group.is_simple, group.generation_id) == (True, True, 7)
