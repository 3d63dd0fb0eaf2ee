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
Place = tuple[bytes, int]


def assign(spec: GroupSpec, assignable: Assignment) -> dict[str, Assignment]:
    """Return the next target of every member; `assignable` are the partitions that may be given out."""
    topics: dict[bytes, list[str]] = {}
    for member_id, member in spec.members.items():
        for topic_id in member.topic_ids:
            topics.setdefault(topic_id, []).append(member_id)
    places = {topic_id: [(topic_id, p) for p in sorted(assignable.get(topic_id, ()))] for topic_id in sorted(topics)}
    current = {
        member_id: {(topic_id, p) for topic_id, partitions in member.target.items() for p in partitions}
        for member_id, member in spec.members.items()
    }
    given: dict[str, list[Place]] = {member_id: [] for member_id in spec.members}
    if spec.is_homogeneous:
        _balance(list(spec.members), [place for row in places.values() for place in row], current, given)
    else:
        for topic_id, row in places.items():
            _balance(topics[topic_id], row, current, given)
    return {member_id: _by_topic(row) for member_id, row in given.items()}


def _balance(
    members: Sequence[str],
    places: Sequence[Place],
    current: Mapping[str, set[Place]],
    given: dict[str, list[Place]],
) -> None:
    """Hand `places` out to `members`."""
    if not places or not members:
        return
    sharing = -(-len(members) // len(places))
    kept = {member_id: [place for place in places if place in current[member_id]] for member_id in members}
    quota = _quotas(members, sharing * len(places), kept)
    holders: dict[Place, list[str]] = {place: [] for place in places}
    for member_id, row in kept.items():
        for place in row:
            holders[place].append(member_id)

    def take_away(place: Place, member_id: str) -> None:
        kept[member_id].remove(place)
        holders[place].remove(member_id)

    for place, names in holders.items():
        while len(names) > sharing:
            # Rather from one who has too many, and from who came last.
            too_many = [name for name in names if len(kept[name]) > quota[name]]
            take_away(place, (too_many or names)[-1])
    for member_id, row in kept.items():
        while len(row) > quota[member_id]:
            # Rather what others have as well.
            take_away(max(row, key=lambda place: len(holders[place])), member_id)
    _fill(holders, kept, quota, sharing)
    for member_id, row in kept.items():
        given[member_id] += row


def _quotas(members: Sequence[str], total: int, kept: Mapping[str, Sequence[Place]]) -> dict[str, int]:
    """Return how many places each member should have; who has most now gets the larger shares."""
    least, larger = divmod(total, len(members))
    order = sorted(members, key=lambda member_id: -len(kept[member_id]))
    return {member_id: least + (index < larger) for index, member_id in enumerate(order)}


def _fill(
    holders: Mapping[Place, list[str]], kept: Mapping[str, list[Place]], quota: dict[str, int], sharing: int
) -> None:
    """Give places with too few holders to members with too few places, in turn.

    If those who have room have the place already, one of them passes its larger share on to somebody who has not: left
    open, it would be handed out with the next assignment, which then changed for no reason. If that cannot be, the place
    stays with fewer holders than others; never with none.
    """
    least = min(quota.values())
    turn = [member_id for member_id in kept if len(kept[member_id]) < quota[member_id]]
    # Places that nobody has come first: each finds somebody.
    for wanted in (1, sharing):
        for place, names in holders.items():
            while len(names) < wanted:
                found = next((member_id for member_id in turn if member_id not in names), None)
                if found is None:
                    found = _take_over(turn, names, quota, least)
                    turn = [member_id for member_id in turn if len(kept[member_id]) < quota[member_id]]
                if found is None:
                    break
                names.append(found)
                kept[found].append(place)
                if found in turn:
                    turn.remove(found)
                if len(kept[found]) < quota[found]:
                    turn.append(found)


def _take_over(turn: list[str], names: list[str], quota: dict[str, int], least: int) -> str | None:
    """Take a larger share from one of `turn` and return who gets it: somebody with a smaller one who is not in `names`."""
    donor = next((member_id for member_id in turn if quota[member_id] > least), None)
    taker = next((member_id for member_id in quota if quota[member_id] == least and member_id not in names), None)
    if donor is None or taker is None:
        return None
    quota[donor] -= 1
    quota[taker] += 1
    return taker


def _by_topic(places: Sequence[Place]) -> dict[bytes, frozenset[int]]:
    topics: dict[bytes, set[int]] = {}
    for topic_id, partition in places:
        topics.setdefault(topic_id, set()).add(partition)
    return {topic_id: frozenset(partitions) for topic_id, partitions in topics.items()}
