"""The assignor of share groups, `simple`: who fetches from which share partitions (KIP-932).

Every partition that has begun goes to at least one member that subscribes to its topic. If there are more members than
partitions, several share one, all partitions about equally; members have about equally many, the numbers differing by one.
Balance comes first, then members keep what they have. If members subscribe to different topics, each topic is balanced on
its own. A pure function: the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.modern.assignor import Assignment, GroupSpec

NAME = "simple"

#: A topic id and a partition.
TopicIdPartition = tuple[bytes, int]


def assign(spec: GroupSpec, assignable: Assignment) -> dict[str, Assignment]:
    """Return the next target of every member; `assignable` are the partitions that may be given out."""
    topics: dict[bytes, list[str]] = {}
    for member_id, member in spec.members.items():
        for topic_id in member.topic_ids:
            topics.setdefault(topic_id, []).append(member_id)
    partitions = {
        topic_id: [(topic_id, p) for p in sorted(assignable.get(topic_id, ()))] for topic_id in sorted(topics)
    }
    current = {
        member_id: {(topic_id, p) for topic_id, partitions in member.target.items() for p in partitions}
        for member_id, member in spec.members.items()
    }
    given: dict[str, list[TopicIdPartition]] = {member_id: [] for member_id in spec.members}
    if spec.is_homogeneous:
        _balance(list(spec.members), [partition for row in partitions.values() for partition in row], current, given)
    else:
        for topic_id, row in partitions.items():
            _balance(topics[topic_id], row, current, given)
    return {member_id: _by_topic(row) for member_id, row in given.items()}


def _balance(
    members: Sequence[str],
    partitions: Sequence[TopicIdPartition],
    current: Mapping[str, set[TopicIdPartition]],
    given: dict[str, list[TopicIdPartition]],
) -> None:
    """Hand `partitions` out to `members`."""
    if not partitions or not members:
        return
    sharing = -(-len(members) // len(partitions))
    kept = {
        member_id: [partition for partition in partitions if partition in current[member_id]] for member_id in members
    }
    quota = _quotas(members, sharing * len(partitions), kept)
    holders: dict[TopicIdPartition, list[str]] = {partition: [] for partition in partitions}
    for member_id, row in kept.items():
        for partition in row:
            holders[partition].append(member_id)

    def take_away(partition: TopicIdPartition, member_id: str) -> None:
        kept[member_id].remove(partition)
        holders[partition].remove(member_id)

    for partition, names in holders.items():
        while len(names) > sharing:
            # Rather from one who has too many, and from who came last.
            too_many = [name for name in names if len(kept[name]) > quota[name]]
            take_away(partition, (too_many or names)[-1])
    for member_id, row in kept.items():
        while len(row) > quota[member_id]:
            # Rather what others have as well.
            take_away(max(row, key=lambda partition: len(holders[partition])), member_id)
    _fill(holders, kept, quota, sharing)
    for member_id, row in kept.items():
        given[member_id] += row


def _quotas(members: Sequence[str], total: int, kept: Mapping[str, Sequence[TopicIdPartition]]) -> dict[str, int]:
    """Return how many partitions each member should have; who has most now gets the larger shares."""
    least, larger = divmod(total, len(members))
    order = sorted(members, key=lambda member_id: -len(kept[member_id]))
    return {member_id: least + (index < larger) for index, member_id in enumerate(order)}


def _fill(
    holders: Mapping[TopicIdPartition, list[str]],
    kept: Mapping[str, list[TopicIdPartition]],
    quota: dict[str, int],
    sharing: int,
) -> None:
    """Give partitions with too few holders to members with too few partitions, in turn.

    If those who have room have the partition already, one of them passes its larger share on to a member that has not: left
    open, it would be handed out with the next assignment, which then changed for no reason. If that cannot be, the partition
    stays with fewer holders than others; never with none.
    """
    least = min(quota.values())
    turn = [member_id for member_id in kept if len(kept[member_id]) < quota[member_id]]
    # Partitions without a holder come first: each finds one.
    for wanted in (1, sharing):
        for partition, names in holders.items():
            while len(names) < wanted:
                found = next((member_id for member_id in turn if member_id not in names), None)
                if found is None:
                    found = _take_over(turn, names, quota, least)
                    turn = [member_id for member_id in turn if len(kept[member_id]) < quota[member_id]]
                if found is None:
                    break
                names.append(found)
                kept[found].append(partition)
                if found in turn:
                    turn.remove(found)
                if len(kept[found]) < quota[found]:
                    turn.append(found)


def _take_over(turn: list[str], names: list[str], quota: dict[str, int], least: int) -> str | None:
    """Take a larger share from one of `turn` and return who gets it: a member with a smaller one that is not in `names`."""
    donor = next((member_id for member_id in turn if quota[member_id] > least), None)
    taker = next((member_id for member_id in quota if quota[member_id] == least and member_id not in names), None)
    if donor is None or taker is None:
        return None
    quota[donor] -= 1
    quota[taker] += 1
    return taker


def _by_topic(partitions: Sequence[TopicIdPartition]) -> dict[bytes, frozenset[int]]:
    topics: dict[bytes, set[int]] = {}
    for topic_id, partition in partitions:
        topics.setdefault(topic_id, set()).add(partition)
    return {topic_id: frozenset(partitions) for topic_id, partitions in topics.items()}
