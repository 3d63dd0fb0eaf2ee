"""What every type of group has in common: `Group`, and what one type adds to the coordinator: `GroupFamily`.

The coordinator (`coordinator`) keeps the groups of all types in one table, since a group id names one group whatever its
type. What only one type can know - whether a commit is allowed, what a record means - it asks the group, or the family.

To add a type: a package beside `classic` and `consumer` with a `Group` and a `GroupFamily`; a member of `GroupType`; a line
in `GroupCoordinator.__init__`; the family's requests as methods of the family, called by a handler through the coordinator.
The names are those of Kafka's `Group` (org.apache.kafka.coordinator.group).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import random

    from ottla.broker.coordinators.groups.background import Background
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.groups.offsets import Offsets
    from ottla.broker.coordinators.shard import CoordinatorRecord, Timers
    from ottla.broker.coordinators.timeline import Timeline, TimelineDict
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.errors import KafkaError
    from ottla.protocol.schema import Message


class GroupType(Enum):
    """Types of groups; the values are what ListGroups calls them."""

    CLASSIC = "classic"
    CONSUMER = "consumer"
    SHARE = "share"
    STREAMS = "streams"


#: Checks one partition of a commit: (topic id, partition); raises KafkaError, which then refuses the whole commit.
PartitionCheck = Callable[[bytes, int], None]


class OffsetExpiry(Enum):
    """From when on the retention time of a group's offsets counts."""

    #: Nothing expires as long as the group is as it is.
    NEVER = "never"
    SINCE_COMMIT = "since commit"
    #: Since the group became empty (`Group.empty_since_ms`).
    SINCE_EMPTY = "since empty"


class Group(Protocol):
    """A group of any type."""

    @property
    def group_id(self) -> str: ...

    @property
    def group_type(self) -> GroupType: ...

    @property
    def protocol_type(self) -> str | None:
        """What ListGroups and DescribeGroups say: "consumer", "share", ...; None if not known yet."""
        ...

    @property
    def is_empty(self) -> bool:
        """No members, as far as is decided."""
        ...

    @property
    def empty_since_ms(self) -> int:
        """Wall time at which the group became empty; -1 if not known."""
        ...

    @property
    def offset_expiry(self) -> OffsetExpiry: ...

    @property
    def may_expire(self) -> bool:
        """The group goes when it has no offsets (any more)."""
        ...

    def state_name(self) -> str:
        """Return the state as clients may see it: that of the committed view."""
        ...

    def member_count(self) -> int:
        """Return how many members clients may see: those of the committed view."""
        ...

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether a member consumes the topic: then its offsets are neither deleted nor expire."""
        ...

    def validate_offset_commit(
        self, member_id: str, group_instance_id: str | None, member_epoch: int, *, transactional: bool, version: int
    ) -> PartitionCheck | None:
        """Check that offsets may be committed with this membership; None if that holds for every partition.

        `member_epoch` is the generation in groups of the classic protocol; `version` that of the request.

        Raises:
            KafkaError: they may not.
        """
        ...

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int, *, committed: bool) -> None:
        """Check that offsets may be fetched with this membership, in the committed view or in the newest.

        Raises:
            KafkaError: they may not.
        """
        ...

    def validate_offset_delete(self) -> None:
        """Check that offsets may be deleted.

        Raises:
            KafkaError: they may not.
        """
        ...

    def validate_delete(self) -> None:
        """Check that the group may be deleted.

        Raises:
            KafkaError: it may not.
        """
        ...

    def tombstones(self) -> list[CoordinatorRecord]:
        """Return the records that delete the group (its offsets not included)."""
        ...


#: Runs a function that takes its time off the loop, then calls back, on the loop, with what it returned or how it failed.
RunBackground = Callable[[Callable[[], Any], Callable[[Any, BaseException | None], None]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardParts:
    """What the families of one partition share.

    Attributes:
        groups: every group of the partition, of all types.
        image: the cluster as this broker sees it: topics, and configurations of groups (kind GROUPS).
        background: for what would hold up the loop.
    """

    partition: int
    groups: TimelineDict[str, Group]
    offsets: Offsets
    timeline: Timeline
    timers: Timers
    config: GroupConfig
    random: random.Random
    image: Callable[[], ClusterImage]
    background: Background


#: Applies a record (key, value or None) to a family's groups.
Replay = Callable[[Any, Any], None]


class GroupFamily(Protocol):
    """Everything the coordinator knows of one type of groups."""

    def replays(self) -> Mapping[type[Message], Replay]:
        """Return which classes of record keys are ours, and how their records are applied."""
        ...

    def on_loaded(self, now_ms: int) -> None:
        """The log has been replayed: set timers."""
        ...

    def on_unloaded(self, now_ms: int) -> None:
        """This broker no longer leads the partition: answer the requests that are parked."""
        ...

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Sequence[CoordinatorRecord]:
        """The cluster has changed (topics, configurations of groups). Returns records to write, if need be."""
        ...

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """An append failed; `discarded` are the values that were undone, of all families."""
        ...

    def on_deleted(self, group: Group) -> None:
        """A group of this family is about to go (its tombstones are being written): cancel its timers."""
        ...
