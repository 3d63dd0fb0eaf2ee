"""The way of one member from what it has to what it should have (KIP-848).

Revoke first: a member stays in its epoch until it has said that it no longer owns what it must give up. Then it enters the
epoch of the target assignment, with the partitions that no other member holds; for those that others still hold it waits.

Invariant: a partition is added to `assigned` only if no member has it (in `assigned` or in `revoking`), or only this one.
Pure: facts in, the next value of the member out. Learned from Kafka's CurrentAssignmentBuilder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.consumer.member import NOTHING, ConsumerMember, MemberState, OwnedPartitions
from ottla.errors import FencedMemberEpochError

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.modern.assignor import Assignment

#: What a member says it owns: topic id -> partitions; None if it does not say.
Owned = Mapping[bytes, frozenset[int]] | None


def reconcile(
    member: ConsumerMember,
    *,
    target_epoch: int,
    target: Assignment,
    subscribed: frozenset[bytes],
    subscription_changed: bool,
    is_held: Callable[[bytes, int], bool],
    owned: Owned,
) -> ConsumerMember:
    """Return the member one step nearer to the target; the same value if there is nothing to do.

    Args:
        subscribed: ids of the topics the member subscribes to now; others are taken away whatever the target says.
        is_held: whether any member has the partition.
        owned: what the member says it owns.

    Raises:
        FencedMemberEpochError: the state of the member is from a later version; it has to join anew.
    """
    match member.state:
        case MemberState.STABLE:
            if member.member_epoch != target_epoch:
                return _next(member, target_epoch, target, subscribed, is_held, owned)
            return _shrunk(member, subscribed, owned) if subscription_changed else member
        case MemberState.UNREVOKED_PARTITIONS:
            if _owns_any(owned, member.revoking):
                return _shrunk(member, subscribed, owned) if subscription_changed else member
            return _next(member, target_epoch, target, subscribed, is_held, owned)
        case MemberState.UNRELEASED_PARTITIONS:
            return _next(member, target_epoch, target, subscribed, is_held, owned)
        case MemberState.UNKNOWN:
            if owned is None or owned:
                raise FencedMemberEpochError(
                    "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin."
                )
            return _next(member._replace(member_epoch=target_epoch), target_epoch, target, subscribed, is_held, owned)


def _owns_any(owned: Owned, partitions: OwnedPartitions) -> bool:
    """Whether the member still owns one of these, as far as we know: if it does not say, it does."""
    if owned is None:
        return True
    return any(
        not partitions[topic_id].keys().isdisjoint(owned[topic_id]) for topic_id in partitions if topic_id in owned
    )


def _shrunk(member: ConsumerMember, subscribed: frozenset[bytes], owned: Owned) -> ConsumerMember:
    """Take away what the member no longer subscribes to, within its epoch."""
    leaving = {topic_id: epochs for topic_id, epochs in member.assigned.items() if topic_id not in subscribed}
    if not leaving:
        return member
    assigned = {topic_id: epochs for topic_id, epochs in member.assigned.items() if topic_id in subscribed}
    revoking: dict[bytes, Mapping[int, int]] = dict(member.revoking)
    for topic_id, epochs in leaving.items():
        revoking[topic_id] = {**revoking.get(topic_id, {}), **epochs}
    if _owns_any(owned, revoking):
        return member._replace(
            state=MemberState.UNREVOKED_PARTITIONS,
            previous_member_epoch=member.member_epoch,
            assigned=assigned,
            revoking=revoking,
        )
    return member._replace(previous_member_epoch=member.member_epoch, assigned=assigned)


def _next(
    member: ConsumerMember,
    target_epoch: int,
    target: Assignment,
    subscribed: frozenset[bytes],
    is_held: Callable[[bytes, int], bool],
    owned: Owned,
) -> ConsumerMember:
    assigned: dict[bytes, dict[int, int]] = {}
    revoking: dict[bytes, dict[int, int]] = {}
    arriving: dict[bytes, list[int]] = {}
    waits = False
    for topic_id in {**target, **member.assigned}:
        wanted = target.get(topic_id, frozenset()) if topic_id in subscribed else frozenset()
        current = member.assigned.get(topic_id, {})
        kept = {partition: epoch for partition, epoch in current.items() if partition in wanted}
        gone = {partition: epoch for partition, epoch in current.items() if partition not in wanted}
        if kept:
            assigned[topic_id] = kept
        if gone:
            revoking[topic_id] = gone
        own = member.revoking.get(topic_id, {})
        for partition in sorted(wanted):
            if partition in kept:
                continue
            if is_held(topic_id, partition) and partition not in own:
                waits = True
            else:
                arriving.setdefault(topic_id, []).append(partition)
    if revoking and _owns_any(owned, revoking):
        return member._replace(
            state=MemberState.UNREVOKED_PARTITIONS,
            previous_member_epoch=member.member_epoch,
            assigned=assigned,
            revoking=revoking,
        )
    for topic_id, partitions in arriving.items():
        assigned.setdefault(topic_id, {}).update(dict.fromkeys(partitions, target_epoch))
    return member._replace(
        state=MemberState.UNRELEASED_PARTITIONS if waits else MemberState.STABLE,
        member_epoch=target_epoch,
        previous_member_epoch=member.member_epoch,
        assigned=assigned,
        revoking=NOTHING,
    )
