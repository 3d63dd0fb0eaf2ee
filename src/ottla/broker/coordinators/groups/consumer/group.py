"""ConsumerGroup: the state of one group of the consumer protocol (KIP-848), as its records make it.

Nothing here is decided; records are applied (`update_member` and the like), and questions are answered. Everything lies on
the shard's timeline: undone with the record that caused it, and shown to clients only when that is committed.

Epochs: the group epoch grows with every change of members, subscriptions or topics; the assignment epoch says for which
group epoch the target assignment was computed; a member's epoch says which target assignment it has reached.

Invariants: `_holders` names for each partition the one member that has it in `assigned` or `revoking`; counts of topics,
patterns, assignors and protocols are sums over the members; `_stable` counts members that are STABLE, by their epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from ottla.broker.coordinators.groups.consumer import records
from ottla.broker.coordinators.groups.consumer.member import (
    NOTHING,
    ConsumerMember,
    MemberState,
)
from ottla.broker.coordinators.groups.group import GroupType, PartitionCheck
from ottla.broker.coordinators.groups.modern.assignor import NO_ASSIGNMENT, Assignment
from ottla.broker.coordinators.groups.modern.group import ModernGroup
from ottla.broker.coordinators.timeline import TimelineDict, TimelineValue
from ottla.errors import (
    IllegalGenerationError,
    KafkaError,
    StaleMemberEpochError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.consumer.records import ResolvedRegex
    from ottla.broker.coordinators.shard import CoordinatorRecord
    from ottla.broker.coordinators.timeline import Timeline

logger = logging.getLogger(__name__)

K = TypeVar("K")

#: OffsetCommit from which on members of the consumer protocol may commit.
_COMMIT_WITH_EPOCH: Final = 9

EMPTY: Final = "Empty"
ASSIGNING: Final = "Assigning"
RECONCILING: Final = "Reconciling"
STABLE: Final = "Stable"


class Epochs(NamedTuple):
    """The numbers of a group."""

    group_epoch: int = 1
    metadata_hash: int = 0
    assignment_epoch: int = 1
    #: When the target assignment was computed; 0: not known.
    assignment_timestamp_ms: int = 0
    #: Members that speak the classic protocol.
    classic_members: int = 0
    #: There is a record of topics as Kafka before 4.1 wrote it, to be deleted.
    has_partition_metadata: bool = False


class ConsumerGroup(ModernGroup[ConsumerMember, Assignment]):
    """A group of the consumer protocol."""

    def __init__(self, group_id: str, timeline: Timeline) -> None:
        super().__init__(group_id, timeline)
        self._epochs = TimelineValue(timeline, Epochs())
        #: Instance id -> member id.
        self.static_members: TimelineDict[str, str] = TimelineDict(timeline)
        self.regexes: TimelineDict[str, ResolvedRegex] = TimelineDict(timeline)
        self._holders: TimelineDict[tuple[bytes, int], str] = TimelineDict(timeline)
        self._topics: TimelineDict[str, int] = TimelineDict(timeline)
        self._regex_members: TimelineDict[str, int] = TimelineDict(timeline)
        self._assignors: TimelineDict[str, int] = TimelineDict(timeline)
        self._classic_protocols: TimelineDict[str, int] = TimelineDict(timeline)
        self._stable: TimelineDict[int, int] = TimelineDict(timeline)
        #: The topics of the image are to be compared with the hash: something may have changed. Not durable.
        self.needs_refresh = True
        #: Topics have been created since patterns were resolved. Not durable.
        self.needs_regex_refresh = False

    # ------------------------------------------------------------------ facts

    @property
    def group_type(self) -> GroupType:
        return GroupType.CONSUMER

    @property
    def protocol_type(self) -> str | None:
        return "consumer"

    @property
    def epochs(self) -> Epochs:
        return self._epochs.value

    @property
    def group_epoch(self) -> int:
        return self._epochs.value.group_epoch

    @property
    def assignment_epoch(self) -> int:
        return self._epochs.value.assignment_epoch

    @property
    def committed_epochs(self) -> Epochs:
        """The numbers as clients may see them."""
        return self._epochs.committed

    def state_name(self) -> str:
        """Return the committed state, by Kafka's name."""
        count = self.members.count_committed
        epochs = self._epochs.committed
        if not count:
            return EMPTY
        if epochs.group_epoch > epochs.assignment_epoch:
            return ASSIGNING
        return STABLE if self._stable.get_committed(epochs.assignment_epoch) == count else RECONCILING

    def member_count(self) -> int:
        return self.members.count_committed

    def is_subscribed_to(self, topic: str) -> bool:
        return topic in self._topics

    def is_held(self, topic_id: bytes, partition: int) -> bool:
        """Whether a member has the partition, given up or not."""
        return (topic_id, partition) in self._holders

    def holder(self, topic_id: bytes, partition: int) -> str | None:
        """Return the member that has the partition."""
        return self._holders.get((topic_id, partition))

    def static_member(self, instance_id: str) -> ConsumerMember | None:
        """Return the member of this instance."""
        member_id = self.static_members.get(instance_id)
        return None if member_id is None else self.members.get(member_id)

    def target_of(self, member_id: str, instance_id: str | None) -> Assignment:
        """Return the target assignment of a member, or of the one whose place it takes."""
        if instance_id is not None:
            member_id = self.static_members.get(instance_id) or member_id
        return self.targets.get(member_id) or NO_ASSIGNMENT

    def regex_member_count(self, pattern: str) -> int:
        """Return how many members subscribe to the pattern."""
        return self._regex_members.get(pattern) or 0

    @property
    def regex_count(self) -> int:
        """How many patterns members subscribe to."""
        return len(self._regex_members)

    def subscribed_regexes(self, before: ConsumerMember | None = None, after: ConsumerMember | None = None) -> set[str]:
        """Return the patterns that members subscribe to, once `before` has become `after`."""
        counts = dict(self._regex_members.items())
        if before is not None and before.topic_regex:
            _add(counts, before.topic_regex, -1)
        if after is not None and after.topic_regex:
            _add(counts, after.topic_regex, 1)
        return set(counts)

    def subscribed_topics(
        self,
        removed: Collection[ConsumerMember] = (),
        added: ConsumerMember | None = None,
        gone_regexes: Collection[str] = (),
    ) -> set[str]:
        """Return the names that would be subscribed to if these members, and these patterns, went and that one came."""
        counts = dict(self._topics.items())
        for member in removed:
            for name in member.topic_names:
                _add(counts, name, -1)
        for pattern in gone_regexes:
            resolved = self.regexes.get(pattern)
            for name in resolved.topics if resolved is not None else ():
                _add(counts, name, -1)
        if added is not None:
            for name in added.topic_names:
                _add(counts, name, 1)
        return set(counts)

    def topic_names_of(self, member: ConsumerMember) -> frozenset[str]:
        """Return the names a member subscribes to; a pattern that is not resolved yet stands for none."""
        if not member.topic_regex:
            return member.topic_names
        resolved = self.regexes.get(member.topic_regex)
        return member.topic_names if resolved is None else member.topic_names | resolved.topics

    def preferred_assignor(
        self, before: ConsumerMember | None = None, after: ConsumerMember | None = None, *, committed: bool = False
    ) -> str | None:
        """Return the assignor that most members ask for, once `before` has become `after`."""
        counts = dict(self._assignors.items_committed() if committed else self._assignors.items())
        if before is not None and before.server_assignor is not None:
            _add(counts, before.server_assignor, -1)
        if after is not None and after.server_assignor is not None:
            _add(counts, after.server_assignor, 1)
        return max(counts, key=counts.__getitem__) if counts else None

    def supports_classic_protocols(self, protocol_type: str, names: Collection[str]) -> bool:
        """Whether a member that speaks the classic protocol can join with these protocols."""
        if protocol_type != self.protocol_type:
            return False
        if self.is_empty:
            return bool(names)
        count = self.epochs.classic_members
        return any((self._classic_protocols.get(name) or 0) == count for name in names)

    def waits_for_others(self, member: ConsumerMember) -> bool:
        """Whether a partition of the member's target is still held by another member."""
        for topic_id, partitions in (self.targets.get(member.member_id) or NO_ASSIGNMENT).items():
            own = member.assigned.get(topic_id, {})
            if any(partition not in own and self.is_held(topic_id, partition) for partition in partitions):
                return True
        return False

    # ----------------------------------------------------------------- checks

    def validate_offset_commit(
        self, member_id: str, group_instance_id: str | None, member_epoch: int, *, transactional: bool, version: int
    ) -> PartitionCheck | None:
        """Check that a member may commit: with its epoch, or with one in which it had the partition (KIP-1251)."""
        if member_epoch < 0 and self.is_empty:
            return None
        if transactional and member_epoch == -1 and not member_id and group_instance_id is None:
            return None
        member = self.member(member_id)
        if not transactional and not member.uses_classic_protocol and version < _COMMIT_WITH_EPOCH:
            raise UnsupportedVersionError(
                "OffsetCommit version 9 or above must be used by members using the consumer group protocol"
            )
        if member_epoch == member.member_epoch:
            return None
        if member_epoch > member.member_epoch:
            raise _stale(member, f"{member_epoch} is newer than {member.member_epoch}.")

        def check(topic_id: bytes, partition: int) -> None:
            epoch = member.assignment_epoch(topic_id, partition)
            if epoch is None or member_epoch < epoch:
                raise _stale(member, f"{member_epoch} is older than the assignment of partition {partition}.")

        return check

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int, *, committed: bool) -> None:
        """Check that a member that names itself is one, in its epoch."""
        if member_id is None and member_epoch < 0:
            return
        member = self.members.get_committed(member_id or "") if committed else self.members.get(member_id or "")
        if member is None:
            raise self.unknown_member(member_id)
        if member_epoch != member.member_epoch:
            raise _stale(member, f"{member_epoch} is not {member.member_epoch}.")

    # ---------------------------------------------------------------- records

    def tombstones(self) -> list[CoordinatorRecord]:
        """Return the records that delete the group with all its members."""
        return self.tombstones_of(list(self.members))

    def tombstones_of(self, member_ids: list[str]) -> list[CoordinatorRecord]:
        """Return the records that delete the group, which has these members once earlier records are applied."""
        group_id = self.group_id
        return [
            *(records.current_tombstone(group_id, member_id) for member_id in member_ids),
            *(records.target_tombstone(group_id, member_id) for member_id in member_ids),
            records.target_epoch_tombstone(group_id),
            *(records.member_tombstone(group_id, member_id) for member_id in member_ids),
            *(records.regex_tombstone(group_id, pattern) for pattern in self.regexes),
            records.partition_metadata_tombstone(group_id),
            records.group_epoch_tombstone(group_id),
        ]

    def set_group_epoch(self, epoch: int, metadata_hash: int) -> None:
        """Apply the group's record."""
        self._epochs.value = self.epochs._replace(group_epoch=epoch, metadata_hash=metadata_hash)

    def set_assignment_epoch(self, epoch: int, timestamp_ms: int) -> None:
        """Apply the record of the target assignment."""
        self._epochs.value = self.epochs._replace(assignment_epoch=epoch, assignment_timestamp_ms=timestamp_ms)

    def set_has_partition_metadata(self, has_record: bool) -> None:
        """Apply a record of topics, or its tombstone."""
        if self.epochs.has_partition_metadata != has_record:
            self._epochs.value = self.epochs._replace(has_partition_metadata=has_record)

    def set_regex(self, pattern: str, resolved: ResolvedRegex | None) -> None:
        """Apply what a pattern matched."""
        before = self.regexes.pop(pattern)
        for name in before.topics if before is not None else ():
            _count(self._topics, name, -1)
        if resolved is not None:
            self.regexes[pattern] = resolved
            for name in resolved.topics:
                _count(self._topics, name, 1)

    def update_member(self, member: ConsumerMember) -> None:
        """Put a member in the place of its earlier value."""
        before = self.members.get(member.member_id)
        self.members[member.member_id] = member
        if before is None or before.subscription() != member.subscription():
            self._count_subscription(before, -1)
            self._count_subscription(member, 1)
        self._count_state(before, -1)
        self._count_state(member, 1)
        self._hold(before, member)

    def remove_member(self, member_id: str) -> None:
        """Apply a member's tombstone."""
        before = self.members.pop(member_id)
        if before is None:
            return
        self._count_subscription(before, -1)
        self._count_state(before, -1)
        self._hold(before, None)

    def _count_subscription(self, member: ConsumerMember | None, difference: int) -> None:
        if member is None:
            return
        for name in member.topic_names:
            _count(self._topics, name, difference)
        if member.topic_regex:
            _count(self._regex_members, member.topic_regex, difference)
        if member.server_assignor is not None:
            _count(self._assignors, member.server_assignor, difference)
        if member.classic is not None:
            self._epochs.value = self.epochs._replace(classic_members=self.epochs.classic_members + difference)
            for name, _ in member.classic.protocols:
                _count(self._classic_protocols, name, difference)
        if member.instance_id is not None:
            if difference > 0:
                self.static_members[member.instance_id] = member.member_id
            elif self.static_members.get(member.instance_id) == member.member_id:
                self.static_members.pop(member.instance_id)

    def _count_state(self, member: ConsumerMember | None, difference: int) -> None:
        if member is not None and member.state is MemberState.STABLE:
            _count(self._stable, member.member_epoch, difference)

    def _hold(self, before: ConsumerMember | None, after: ConsumerMember | None) -> None:
        if before is not None and after is not None and _has_same(before, after):
            return
        kept = set() if after is None else set(_partitions(after))
        if before is not None:
            for key in _partitions(before):
                if key not in kept and self._holders.get(key) == before.member_id:
                    self._holders.pop(key)
        if after is not None:
            for key in kept:
                holder = self._holders.get(key)
                if holder is not None and holder != after.member_id:
                    logger.error(
                        "group %s: partition %d of %s has two holders, %s and %s",
                        self.group_id,
                        key[1],
                        key[0].hex(),
                        holder,
                        after.member_id,
                    )
                if holder != after.member_id:
                    self._holders[key] = after.member_id


def _has_same(before: ConsumerMember, after: ConsumerMember) -> bool:
    return before.assigned is after.assigned and before.revoking is after.revoking


def _partitions(member: ConsumerMember) -> Iterator[tuple[bytes, int]]:
    for owned in (member.assigned, member.revoking):
        if owned is not NOTHING:
            for topic_id, epochs in owned.items():
                for partition in epochs:
                    yield topic_id, partition


def _stale(member: ConsumerMember, reason: str) -> KafkaError:
    if member.uses_classic_protocol:
        return IllegalGenerationError(f"The received generation id {reason}")
    return StaleMemberEpochError(f"The received member epoch {reason}")


def _add(counts: dict[str, int], key: str, difference: int) -> None:
    count = counts.get(key, 0) + difference
    if count > 0:
        counts[key] = count
    else:
        counts.pop(key, None)


def _count(table: TimelineDict[K, int], key: K, difference: int) -> None:
    count = (table.get(key) or 0) + difference
    if count > 0:
        table[key] = count
    else:
        table.pop(key)
