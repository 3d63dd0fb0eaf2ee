"""StreamsGroup: the state of one streams group.

What records say is on the timeline: members, their targets, who holds which task, and the scalars. Beside it is what is not
written anywhere and found out again after a restart: the topology as it stands on the topics, endpoints for interactive
queries, offsets that members report, a request to shut down. KIP-1071; Kafka's StreamsGroup.

Invariant: `active`, `standby` and `warmup` say which processes hold a task, given or still to be given up.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.coordinators.groups.group import GroupType, PartitionCheck
from ottla.broker.coordinators.groups.modern.group import ModernGroup
from ottla.broker.coordinators.groups.streams import records
from ottla.broker.coordinators.groups.streams.member import StreamsMember
from ottla.broker.coordinators.groups.streams.tasks import NOTHING, AssignedTasks, TaskId, Tasks
from ottla.broker.coordinators.timeline import TimelineDict, TimelineValue
from ottla.errors import StaleMemberEpochError, UnsupportedVersionError

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.streams.internal_topics import ConfiguredTopology
    from ottla.broker.coordinators.groups.streams.topology import Topology
    from ottla.broker.coordinators.shard import CoordinatorRecord
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.cluster.image import ClusterImage

#: Offset commits of members carry their epoch from this version on.
_MEMBER_EPOCH_COMMIT = 9


class Scalars(NamedTuple):
    """What the group's records say beside its members."""

    epoch: int = 1
    metadata_hash: int = 0
    validated_topology_epoch: int = 0
    assignment_configs: tuple[tuple[str, str], ...] = ()
    #: Epochs of topologies whose description is stored, or could not be: for a plug-in, which we never have.
    description_epochs: tuple[int, int] = (-1, -1)
    assignment_epoch: int = 1
    assignment_timestamp_ms: int = 0
    topology: Topology | None = None


@dataclass(slots=True)
class TaskOffsets:
    """How far a member's copies of tasks' state reach, and how far they should; None of either if it never said."""

    offsets: dict[TaskId, int] = field(default_factory=dict)
    end_offsets: dict[TaskId, int] = field(default_factory=dict)


class StreamsGroup(ModernGroup[StreamsMember, Tasks]):
    """One group; see the module."""

    def __init__(self, group_id: str, timeline: Timeline, image: Callable[[], ClusterImage]) -> None:
        super().__init__(group_id, timeline)
        self.scalars = TimelineValue(timeline, Scalars())
        self.static_members: TimelineDict[str, str] = TimelineDict(timeline)
        self._active: TimelineDict[TaskId, str] = TimelineDict(timeline)
        self._standby: TimelineDict[TaskId, frozenset[str]] = TimelineDict(timeline)
        self._warmup: TimelineDict[TaskId, frozenset[str]] = TimelineDict(timeline)
        self._image = image
        # Found out again after a restart:
        self.configured: ConfiguredTopology | None = None
        #: Topics have changed, or were not looked at yet.
        self.must_look_at_topics = True
        #: The epoch with which the last look was written down: if it is undone, it was for nothing.
        self.looked_in_epoch = 0
        self.shutdown_requested_by: str | None = None
        self.endpoint_epoch = 0
        self.task_offsets: dict[str, TaskOffsets] = {}

    # ------------------------------------------------------ what every group has

    @property
    def group_type(self) -> GroupType:
        return GroupType.STREAMS

    @property
    def protocol_type(self) -> str:
        return "streams"

    def state_name(self) -> str:
        return _state((member for _, member in self.members.items_committed()), self.scalars.committed)

    def member_count(self) -> int:
        return self.members.count_committed

    def current_state(self) -> str:
        """Return the state as far as is decided."""
        return _state(self.members.values(), self.scalars.value)

    def is_subscribed_to(self, topic: str) -> bool:
        topology = self.scalars.value.topology
        return not self.is_empty and topology is not None and topic in topology.reader_of

    def validate_offset_commit(
        self, member_id: str, group_instance_id: str | None, member_epoch: int, *, transactional: bool, version: int
    ) -> PartitionCheck | None:
        """Check a commit: with an older epoch of the member, tasks it has been given since may not be committed.

        Raises:
            UnknownMemberIdError: no such member.
            UnsupportedVersionError: a request that cannot carry an epoch.
            StaleMemberEpochError: the epoch is newer than the member's.
        """
        if member_epoch < 0 and self.is_empty:
            return None  # an admin client
        if transactional and member_epoch == -1 and not member_id and group_instance_id is None:
            return None  # a producer of before KIP-447
        member = self.member(member_id)
        if not transactional and version < _MEMBER_EPOCH_COMMIT:
            raise UnsupportedVersionError(
                "OffsetCommit version 9 or above must be used by members using the streams group protocol"
            )
        if member_epoch == member.member_epoch:
            return None
        if member_epoch > member.member_epoch:
            raise StaleMemberEpochError(
                f"Received member epoch {member_epoch} is newer than current member epoch {member.member_epoch}."
            )
        return lambda topic_id, partition: self._check_epoch(member, member_epoch, topic_id, partition)

    def _check_epoch(self, member: StreamsMember, member_epoch: int, topic_id: bytes, partition: int) -> None:
        topology = self.scalars.value.topology
        topic = self._image().topic_names.get(topic_id, "")
        subtopology = None if topology is None else topology.reader_of.get(topic)
        if subtopology is None:
            raise StaleMemberEpochError(f"Topic {topic} is not in the topology.")
        task = TaskId(subtopology, partition)
        epoch = member.assigned.active.get(task, member.revoking.active.get(task))
        if epoch is None:
            raise StaleMemberEpochError(
                f"Task {subtopology}-{partition} is not assigned or pending revocation for member."
            )
        if member_epoch < epoch:
            raise StaleMemberEpochError(
                f"Received member epoch {member_epoch} is older than assignment epoch {epoch} for task "
                f"{subtopology}-{partition}."
            )

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int, *, committed: bool) -> None:
        """Check that a member fetches in its own epoch.

        Raises:
            UnknownMemberIdError: no such member.
            StaleMemberEpochError: another epoch than the member's.
        """
        if member_id is None and member_epoch < 0:
            return
        member = self.members.get_committed(member_id or "") if committed else self.members.get(member_id or "")
        if member is None:
            raise self.unknown_member(member_id)
        if member_epoch != member.member_epoch:
            raise StaleMemberEpochError(
                f"The received member epoch {member_epoch} does not match the expected member epoch "
                f"{member.member_epoch}."
            )

    def tombstones(self) -> list[CoordinatorRecord]:
        return records.group_tombstones(self.group_id, self.members)

    # ------------------------------------------------------------------- members

    def static_member(self, instance_id: str) -> StreamsMember | None:
        """Return who has this instance id."""
        member_id = self.static_members.get(instance_id)
        return None if member_id is None else self.members.get(member_id)

    def target(self, member_id: str) -> Tasks:
        return self.targets.get(member_id) or NOTHING

    def update_member(self, member: StreamsMember) -> None:
        """Put a member in, or another value in its place."""
        before = self.members.get(member.member_id)
        self.members[member.member_id] = member
        self._update_holders(before, member)
        if before is not None and before.instance_id is not None and before.instance_id != member.instance_id:
            self.static_members.pop(before.instance_id)
        if member.instance_id is not None and self.static_members.get(member.instance_id) != member.member_id:
            self.static_members[member.instance_id] = member.member_id

    def remove_member(self, member_id: str) -> None:
        """Take a member out; what it held is free."""
        before = self.members.pop(member_id)
        if before is None:
            return
        self._update_holders(before, None)
        if before.instance_id is not None:
            self.static_members.pop(before.instance_id)
        self.task_offsets.pop(member_id, None)
        if self.is_empty:
            self.shutdown_requested_by = None

    # ------------------------------------------------------------------- holders

    def active(self, task: TaskId) -> str | None:
        """Return the process that runs the task."""
        return self._active.get(task)

    def standby(self, task: TaskId) -> Container[str]:
        """Return the processes that keep a copy of its state."""
        return self._standby.get(task) or ()

    def warmup(self, task: TaskId) -> Container[str]:
        """Return the processes that get ready to run it."""
        return self._warmup.get(task) or ()

    def _update_holders(self, before: StreamsMember | None, after: StreamsMember | None) -> None:
        if before is not None and after is not None:
            same = before.assigned == after.assigned and before.revoking == after.revoking
            if same and before.process_id == after.process_id:
                return
        if before is not None:
            for held in (before.assigned, before.revoking):
                self._release(held, before.process_id)
        if after is not None:
            for held in (after.assigned, after.revoking):
                self._hold(held, after.process_id)

    def _release(self, held: AssignedTasks, process_id: str) -> None:
        for task in held.active:
            if self._active.get(task) == process_id:
                self._active.pop(task)
        for table, tasks in ((self._standby, held.standby), (self._warmup, held.warmup)):
            for task in tasks:
                left = (table.get(task) or frozenset()) - {process_id}
                if left:
                    table[task] = left
                else:
                    table.pop(task)

    def _hold(self, held: AssignedTasks, process_id: str) -> None:
        for task in held.active:
            self._active[task] = process_id
        for table, tasks in ((self._standby, held.standby), (self._warmup, held.warmup)):
            for task in tasks:
                table[task] = (table.get(task) or frozenset()) | {process_id}

    # ------------------------------------------------------------------- records

    def metadata_record(
        self,
        epoch: int,
        *,
        metadata_hash: int | None = None,
        validated_topology_epoch: int | None = None,
        assignment_configs: Mapping[str, str] | None = None,
    ) -> CoordinatorRecord:
        """Return the record of a new epoch; what is not given stays."""
        scalars = self.scalars.value
        return records.metadata(
            self.group_id,
            epoch,
            metadata_hash=scalars.metadata_hash if metadata_hash is None else metadata_hash,
            validated_topology_epoch=(
                scalars.validated_topology_epoch if validated_topology_epoch is None else validated_topology_epoch
            ),
            assignment_configs=dict(scalars.assignment_configs) if assignment_configs is None else assignment_configs,
            description_epochs=scalars.description_epochs,
        )


def _state(members: Iterable[StreamsMember], scalars: Scalars) -> str:
    members = list(members)
    if not members:
        return "Empty"
    if scalars.topology is None or scalars.topology.epoch != scalars.validated_topology_epoch:
        return "NotReady"
    if scalars.epoch > scalars.assignment_epoch:
        return "Assigning"
    if all(member.is_reconciled_to(scalars.assignment_epoch) for member in members):
        return "Stable"
    return "Reconciling"
