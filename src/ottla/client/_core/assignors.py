"""Who of a classic group reads what: Kafka's four assignors, and the shape of others.

The leader of a group runs the assignor that all members know; pure functions of subscriptions and partition counts. An
assignor of the caller's is any object with the members of `Assignor`; what it puts into `user_data` reaches the
leader's `assign`, and what that returns beside the partitions reaches each member's `on_assignment`.

Sources: RangeAssignor, RoundRobinAssignor, StickyAssignor and CooperativeStickyAssignor of Kafka's Java client (names,
formats of user data and the balance they promise; the choice among equally good assignments is ours), KIP-54, KIP-429.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from ottla.types import TopicPartition


class GroupMember(NamedTuple):
    """One member as the leader of the group sees it.

    Attributes:
        owned: what it says it owns, as of `generation_id` (-1: unknown).
    """

    member_id: str
    topics: Sequence[str]
    owned: Sequence[TopicPartition] = ()
    generation_id: int = -1
    user_data: bytes | None = None
    rack: str | None = None
    group_instance_id: str | None = None


class MemberAssignment(NamedTuple):
    """What one member gets."""

    partitions: Sequence[TopicPartition]
    user_data: bytes | None = None


class Assignor(Protocol):
    """A way to share partitions out.

    Attributes:
        name: by which members agree on it.
        cooperative: whether members keep what they own while they rebalance (KIP-429); then `assign` must not give a
            partition to a member before the one that owns it has given it up.
    """

    @property
    def name(self) -> str: ...

    @property
    def cooperative(self) -> bool: ...

    def user_data(self, topics: Sequence[str]) -> bytes | None:
        """Return what this member tells the leader beside its subscription."""
        ...

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        """Return what each member gets, by member id. Topics that do not exist are not in `partition_counts`."""
        ...

    def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
        """This member has got its part."""
        ...


def _sorted_members(members: Iterable[GroupMember]) -> list[GroupMember]:
    """Static members first, so that a restart changes nothing; as Kafka orders them."""
    return sorted(
        members,
        key=lambda member: (member.group_instance_id is None, member.group_instance_id or "", member.member_id),
    )


class _Plain:
    cooperative = False

    def user_data(self, topics: Sequence[str]) -> bytes | None:
        return None

    def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
        return


class RangeAssignor(_Plain):
    """Topic by topic, neighbours together: partition n of two topics goes to the same member."""

    name = "range"

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        found: dict[str, list[TopicPartition]] = {member.member_id: [] for member in members}
        ordered = _sorted_members(members)
        for topic, count in sorted(partition_counts.items()):
            readers = [member.member_id for member in ordered if topic in member.topics]
            if not readers:
                continue
            each, more = divmod(count, len(readers))
            start = 0
            for number, member_id in enumerate(readers):
                end = start + each + (number < more)
                found[member_id] += [TopicPartition(topic, partition) for partition in range(start, end)]
                start = end
        return {member_id: MemberAssignment(partitions) for member_id, partitions in found.items()}


class RoundRobinAssignor(_Plain):
    """One partition after the other to one member after the other."""

    name = "roundrobin"

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        found: dict[str, list[TopicPartition]] = {member.member_id: [] for member in members}
        ordered = _sorted_members(members)
        turn = 0
        for topic, count in sorted(partition_counts.items()):
            if not any(topic in member.topics for member in ordered):
                continue
            for partition in range(count):
                while topic not in ordered[turn % len(ordered)].topics:
                    turn += 1
                found[ordered[turn % len(ordered)].member_id].append(TopicPartition(topic, partition))
                turn += 1
        return {member_id: MemberAssignment(partitions) for member_id, partitions in found.items()}


class StickyAssignor(_Plain):
    """Balanced, and as much as possible stays where it is; members give everything up while they rebalance."""

    name = "sticky"

    def __init__(self) -> None:
        self._last: tuple[Sequence[TopicPartition], int] | None = None

    def user_data(self, topics: Sequence[str]) -> bytes | None:
        if self._last is None:
            return None
        partitions, generation = self._last
        by_topic: dict[str, list[int]] = {}
        for topic, partition in partitions:
            by_topic.setdefault(topic, []).append(partition)
        parts = [struct.pack(">i", len(by_topic))]
        for topic, numbers in sorted(by_topic.items()):
            name = topic.encode()
            parts += [struct.pack(">h", len(name)), name, struct.pack(f">i{len(numbers)}i", len(numbers), *numbers)]
        parts.append(struct.pack(">i", generation))
        return b"".join(parts)

    def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
        self._last = (list(assignment.partitions), generation_id)

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        claims = []
        for member in members:
            owned, generation = _read_sticky(member.user_data)
            claims.append(member._replace(owned=owned, generation_id=generation))
        shared = share_out(claims, partition_counts)
        return {member_id: MemberAssignment(partitions) for member_id, partitions in shared.items()}


def _read_sticky(data: bytes | None) -> tuple[list[TopicPartition], int]:
    """Return (what was assigned, in which generation), as StickyAssignor writes it; nothing if it cannot be read."""
    found: list[TopicPartition] = []
    if not data:
        return found, -1
    try:
        (count,) = struct.unpack_from(">i", data)
        place = 4
        for _ in range(count):
            (size,) = struct.unpack_from(">h", data, place)
            topic = data[place + 2 : place + 2 + size].decode()
            place += 2 + size
            (size,) = struct.unpack_from(">i", data, place)
            numbers = struct.unpack_from(f">{size}i", data, place + 4)
            place += 4 + 4 * size
            found += [TopicPartition(topic, number) for number in numbers]
        generation = struct.unpack_from(">i", data, place)[0] if len(data) >= place + 4 else -1
    except (struct.error, UnicodeDecodeError, MemoryError):
        return [], -1
    return found, generation


class CooperativeStickyAssignor:
    """Balanced, and as much as possible stays where it is; members go on reading what they keep (KIP-429)."""

    name = "cooperative-sticky"
    cooperative = True

    def __init__(self) -> None:
        self._generation = -1

    def user_data(self, topics: Sequence[str]) -> bytes | None:
        return struct.pack(">i", self._generation)

    def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
        self._generation = generation_id

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        claims = []
        for member in members:
            generation = member.generation_id
            if generation < 0 and member.user_data is not None and len(member.user_data) >= 4:
                (generation,) = struct.unpack_from(">i", member.user_data)
            claims.append(member._replace(generation_id=generation))
        shared = share_out(claims, partition_counts)
        owner = {where: member.member_id for member in claims for where in member.owned}
        for member_id, partitions in shared.items():
            # What another member still owns is given in the next round, once that has given it up.
            partitions[:] = [where for where in partitions if owner.get(where, member_id) == member_id]
        return {member_id: MemberAssignment(partitions) for member_id, partitions in shared.items()}


def share_out(members: Sequence[GroupMember], partition_counts: Mapping[str, int]) -> dict[str, list[TopicPartition]]:
    """Return a balanced assignment in which as much as possible stays with the member that claims it.

    A partition that several claim stays with the claim of the newest generation; with none if two are equally new.
    """
    ordered = _sorted_members(members)
    topics_of = {member.member_id: frozenset(member.topics) & partition_counts.keys() for member in ordered}
    readers: dict[str, list[str]] = {topic: [] for topic in sorted(partition_counts)}
    for member in ordered:
        for topic in topics_of[member.member_id]:
            readers[topic].append(member.member_id)
    claims: dict[TopicPartition, tuple[int, str | None]] = {}
    for member in ordered:
        for where in member.owned:
            generation, owner = claims.get(where, (-2, None))
            if member.generation_id > generation:
                claims[where] = (member.generation_id, member.member_id)
            elif member.generation_id == generation and owner != member.member_id:
                claims[where] = (generation, None)
    found: dict[str, list[TopicPartition]] = {member.member_id: [] for member in ordered}
    free: list[TopicPartition] = []
    for topic, member_ids in readers.items():
        if not member_ids:
            continue
        for partition in range(partition_counts[topic]):
            where = TopicPartition(topic, partition)
            owner = claims.get(where, (-2, None))[1]
            if owner is not None and topic in topics_of[owner]:
                found[owner].append(where)
            else:
                free.append(where)
    # Partitions with the fewest possible readers first: others have more choice.
    free.sort(key=lambda where: (len(readers[where.topic]), where))
    for where in free:
        least = min(readers[where.topic], key=lambda member_id: len(found[member_id]))
        found[least].append(where)
    _balance(found, readers)
    return found


def _balance(found: dict[str, list[TopicPartition]], readers: Mapping[str, Sequence[str]]) -> None:
    """Move partitions from members that have two or more too many, until no move makes it more even."""
    moved = True
    while moved:
        moved = False
        for giver in sorted(found, key=lambda member_id: -len(found[member_id])):
            for where in reversed(list(found[giver])):
                least = min(readers[where.topic], key=lambda member_id: len(found[member_id]))
                if len(found[least]) + 1 < len(found[giver]):
                    found[giver].remove(where)
                    found[least].append(where)
                    moved = True


#: Those that `partition.assignment.strategy` names, by their names.
ASSIGNORS: Final[
    Mapping[str, type[RangeAssignor | RoundRobinAssignor | StickyAssignor | CooperativeStickyAssignor]]
] = {kind.name: kind for kind in (RangeAssignor, RoundRobinAssignor, StickyAssignor, CooperativeStickyAssignor)}
