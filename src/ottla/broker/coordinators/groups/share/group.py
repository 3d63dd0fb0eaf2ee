"""ShareGroup: the state of one share group (KIP-932), as its records make it.

Nothing is decided here. Everything lies on the shard's timeline: undone with the record that caused it, and shown to clients
only when that is committed. A share group has no committed offsets: where it is, the share coordinator keeps.

Epochs are those of consumer groups: the group epoch grows with every change of members, subscriptions or topics, the
assignment epoch says for which of them the target was computed, a member's epoch which target it has. As partitions are
shared no member waits for another, so a group with members is Stable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.broker.coordinators.groups.group import GroupType, OffsetExpiry, PartitionCheck
from ottla.broker.coordinators.groups.modern.assignor import Assignment
from ottla.broker.coordinators.groups.modern.group import ModernGroup
from ottla.broker.coordinators.groups.share import records
from ottla.broker.coordinators.groups.share.member import ShareMember
from ottla.broker.coordinators.groups.share.states import PartitionStates
from ottla.broker.coordinators.timeline import TimelineDict, TimelineValue
from ottla.errors import GroupIdNotFoundError

if TYPE_CHECKING:
    from ottla.broker.coordinators.shard import CoordinatorRecord
    from ottla.broker.coordinators.timeline import Timeline

EMPTY: Final = "Empty"
STABLE: Final = "Stable"


class Epochs(NamedTuple):
    """The numbers of a group; Kafka begins with 1, so that 0 means: joins."""

    group_epoch: int = 1
    metadata_hash: int = 0
    assignment_epoch: int = 1
    #: When the target assignment was computed; 0: not known, or the group had no members.
    assignment_timestamp_ms: int = 0


class ShareGroup(ModernGroup[ShareMember, Assignment]):
    """A share group."""

    def __init__(self, group_id: str, timeline: Timeline) -> None:
        super().__init__(group_id, timeline)
        self.epochs = TimelineValue(timeline, Epochs())
        self.states = TimelineValue(timeline, PartitionStates())
        #: How many members subscribe to a topic.
        self._topics: TimelineDict[str, int] = TimelineDict(timeline)
        #: The topics of the image are to be compared with the hash: something may have changed. Not durable.
        self.needs_refresh = True
        #: For these states and epochs nothing was found that is not assigned (`ShareGroupStates.has_news`). Not durable.
        self.found_quiet: tuple[PartitionStates, Epochs] | None = None

    # ------------------------------------------------------ what every group has

    @property
    def group_type(self) -> GroupType:
        return GroupType.SHARE

    @property
    def protocol_type(self) -> str:
        return "share"

    @property
    def offset_expiry(self) -> OffsetExpiry:
        return OffsetExpiry.NEVER

    @property
    def may_expire(self) -> bool:
        """It stays until it is deleted: the share coordinator keeps state for it."""
        return False

    def state_name(self) -> str:
        return STABLE if self.members.count_committed else EMPTY

    def member_count(self) -> int:
        return self.members.count_committed

    def is_subscribed_to(self, topic: str) -> bool:
        return topic in self._topics

    def validate_offset_commit(
        self, member_id: str, group_instance_id: str | None, member_epoch: int, *, transactional: bool, version: int
    ) -> PartitionCheck | None:
        """Refuse: records are acknowledged, offsets are not committed.

        Raises:
            GroupIdNotFoundError: always.
        """
        raise self._no_consumer_group()

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int, *, committed: bool) -> None:
        """Allow every fetch: there is nothing committed, and Kafka answers just that."""

    def validate_offset_delete(self) -> None:
        """Refuse.

        Raises:
            GroupIdNotFoundError: always.
        """
        raise self._no_consumer_group()

    def _no_consumer_group(self) -> GroupIdNotFoundError:
        return GroupIdNotFoundError(f"Group {self.group_id} is not a consumer group.")

    def tombstones(self) -> list[CoordinatorRecord]:
        return records.group_tombstones(self.group_id, list(self.members))

    # ------------------------------------------------------------------- members

    def subscribed_topics(self, before: ShareMember | None = None, after: ShareMember | None = None) -> set[str]:
        """Return the names that are subscribed to once `before` has become `after`."""
        counts = dict(self._topics.items())
        for name in before.topic_names if before is not None else ():
            counts[name] = counts.get(name, 0) - 1
        for name in after.topic_names if after is not None else ():
            counts[name] = counts.get(name, 0) + 1
        return {name for name, count in counts.items() if count > 0}

    def update_member(self, member: ShareMember) -> None:
        """Put a member in the place of its earlier value."""
        before = self.members.get(member.member_id)
        self.members[member.member_id] = member
        if before is None or before.topic_names != member.topic_names:
            self._count(before, -1)
            self._count(member, 1)

    def remove_member(self, member_id: str) -> None:
        """Take a member out."""
        self._count(self.members.pop(member_id), -1)

    def _count(self, member: ShareMember | None, change: int) -> None:
        for name in member.topic_names if member is not None else ():
            count = (self._topics.get(name) or 0) + change
            if count:
                self._topics[name] = count
            else:
                self._topics.pop(name)
