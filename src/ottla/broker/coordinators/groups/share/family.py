"""ShareGroups: what the coordinator does for share groups (KIP-932): heartbeats, sessions, targets.

One heartbeat does, in this order: the member's record, a new group epoch if subscriptions, topics or the partitions that have
begun are others than before, a new target if the epoch is newer than the target (and the assignment interval is over), and
the member takes its target over at once: partitions are shared, so no member waits for another. What subscribed partitions
have not begun it asks to be begun (`partition_states`). Learned from Kafka's GroupMetadataManager (4.4).

Invariant: a member is only given partitions that are initialized.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.broker.coordinators.groups.modern.assignor import (
    NO_ASSIGNMENT,
    Assignment,
    GroupSpec,
    MemberSpec,
    changed_targets,
)
from ottla.broker.coordinators.groups.modern.metadata import metadata_hash, topic_ids
from ottla.broker.coordinators.groups.share import assignor, records
from ottla.broker.coordinators.groups.share.group import ShareGroup
from ottla.broker.coordinators.groups.share.member import JOIN_EPOCH, LEAVE_EPOCH, ShareMember
from ottla.broker.coordinators.groups.share.partition_states import Beginning, ShareGroupStates
from ottla.broker.coordinators.groups.share.replay import ShareReplay
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.broker.coordinators.timeline import Timeline
from ottla.cluster.image import BROKERS, DEFAULT_ENTITY, GROUPS
from ottla.errors import FencedMemberEpochError, GroupIdNotFoundError, GroupMaxSizeReachedError
from ottla.protocol.messages.share_group_heartbeat import (
    Assignment as AssignmentAnswer,
)
from ottla.protocol.messages.share_group_heartbeat import (
    ShareGroupHeartbeatResponse,
    TopicPartitions,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.config import Bounded
    from ottla.broker.coordinators.groups.group import Group, Replay, ShardParts
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.errors import KafkaError
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)


class Heartbeat(NamedTuple):
    """A ShareGroupHeartbeat. `rack_id` and `topic_names` None: as before."""

    group_id: str
    member_id: str
    member_epoch: int
    rack_id: str | None = None
    topic_names: Sequence[str] | None = None
    client_id: str = ""
    client_host: str = ""


class BeatResult(NamedTuple):
    """An answer, and the share partitions that should begin now."""

    response: ShareGroupHeartbeatResponse
    to_initialize: Beginning | None = None


class ShareGroups:
    """The share groups of one partition."""

    def __init__(self, parts: ShardParts) -> None:
        self._parts = parts
        self._timers = parts.timers
        self._config = parts.config
        self.states = ShareGroupStates(parts)
        #: Group epochs, targets and members that failed: since the start, for metrics and tests.
        self.rebalances = 0
        self.assignments = 0
        self.fenced = 0

    # ----------------------------------------------------------------- heartbeat

    def heartbeat(self, beat: Heartbeat, now_ms: int) -> Result[BeatResult]:
        """Handle a ShareGroupHeartbeat.

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND, UNKNOWN_MEMBER_ID, FENCED_MEMBER_EPOCH or GROUP_MAX_SIZE_REACHED.
        """
        group_id = beat.group_id
        if beat.member_epoch == LEAVE_EPOCH:
            group = self.group(group_id)
            member = group.member(beat.member_id)
            logger.info("group %s: member %s leaves", group_id, beat.member_id)
            response = ShareGroupHeartbeatResponse(member_id=beat.member_id, member_epoch=LEAVE_EPOCH)
            return Result(BeatResult(response), self._fence(group, member))
        joins = beat.member_epoch == JOIN_EPOCH
        group = self.group_to_join(group_id) if joins else self.group(group_id)
        self._check_room(group, beat.member_id)
        if joins:
            before = group.members.get(beat.member_id) or ShareMember(beat.member_id)
        else:
            before = group.member(beat.member_id)
            _check_epoch(before, beat.member_epoch)
        written: list[CoordinatorRecord] = []
        after = _changed(before, beat)
        if after != before:
            written.append(records.member(group_id, after))
        bump = after.topic_names != before.topic_names or self.states.has_news(group)
        names = group.subscribed_topics(before, after)
        epoch = self._epoch(group, names, written, bump=bump)
        target_epoch, target = self._target(group, epoch, after, written, now_ms)
        if bump or after.member_epoch != target_epoch:
            reconciled = after
            after = self._take_over(after, target_epoch, target)
            if after != reconciled:
                written.append(records.current(group_id, after))
        self._schedule_session(group_id, beat.member_id)
        response = ShareGroupHeartbeatResponse(
            member_id=beat.member_id,
            member_epoch=after.member_epoch,
            heartbeat_interval_ms=self._of(self._config.share_heartbeat_interval_ms, group_id),
        )
        if joins or beat.topic_names is not None or after.assigned != before.assigned:
            response.assignment = _answer(after.assigned)
        beginning = self.states.begin(group, epoch, names, written, now_ms)
        # What is shown may have been decided for an earlier request and not be committed yet: then the answer waits for it.
        shows = response.assignment is not None or after.member_epoch != beat.member_epoch
        # A large target may need several batches: its epoch comes last, so half of it means nothing.
        return Result(BeatResult(response, beginning), written, atomic=False, barrier=shows)

    def _check_room(self, group: ShareGroup, member_id: str) -> None:
        limit = self._config.share_size_max
        if len(group.members) >= limit and member_id not in group.members:
            raise GroupMaxSizeReachedError(f"The share group has reached its maximum capacity of {limit} members.")

    def _epoch(self, group: ShareGroup, names: set[str], written: list[CoordinatorRecord], *, bump: bool) -> int:
        """Return the group epoch that holds now; write a new one if need be."""
        epochs = group.epochs.value
        if not bump and not group.needs_refresh:
            return epochs.group_epoch
        group.needs_refresh = False
        hashed = metadata_hash(names, self._parts.image())
        if not bump and hashed == epochs.metadata_hash:
            return epochs.group_epoch
        written.append(records.group_epoch(group.group_id, epochs.group_epoch + 1, hashed))
        self.rebalances += 1
        logger.info("group %s: group epoch %d", group.group_id, epochs.group_epoch + 1)
        return epochs.group_epoch + 1

    def _target(
        self, group: ShareGroup, epoch: int, member: ShareMember, written: list[CoordinatorRecord], now_ms: int
    ) -> tuple[int, Assignment]:
        """Return epoch and target that hold for the member; compute a new target if it is time."""
        epochs = group.epochs.value
        interval_ms = self._assignment_interval_ms(group.group_id)
        is_early = bool(epochs.assignment_timestamp_ms) and now_ms < epochs.assignment_timestamp_ms + interval_ms
        if epochs.assignment_epoch >= epoch or is_early:
            return epochs.assignment_epoch, group.targets.get(member.member_id) or NO_ASSIGNMENT
        spec = self._spec(group, member)
        targets = assignor.assign(spec, group.states.value.assignable)
        for member_id, target in changed_targets(spec, targets).items():
            written.append(records.target(group.group_id, member_id, target))
        if member.member_id not in group.targets and not targets[member.member_id]:
            written.append(records.target(group.group_id, member.member_id, NO_ASSIGNMENT))
        written.append(records.target_epoch(group.group_id, epoch, now_ms))
        self.assignments += 1
        return epoch, targets[member.member_id]

    def _spec(self, group: ShareGroup, changed: ShareMember) -> GroupSpec:
        image = self._parts.image()
        members = {member.member_id: member for member in group.members.values()}
        members[changed.member_id] = changed
        ids_of: dict[frozenset[str], frozenset[bytes]] = {}
        specs = {}
        for member_id, member in members.items():
            ids = ids_of.get(member.topic_names)
            if ids is None:
                ids = ids_of[member.topic_names] = topic_ids(member.topic_names, image)
            specs[member_id] = MemberSpec(topic_ids=ids, target=group.targets.get(member_id) or NO_ASSIGNMENT)
        counts = {
            topic_id: len(topic.partitions)
            for ids in ids_of.values()
            for topic_id in ids
            if (topic := image.topic_by_id(topic_id)) is not None
        }
        return GroupSpec(members=specs, partition_counts=counts)

    def _take_over(self, member: ShareMember, target_epoch: int, target: Assignment) -> ShareMember:
        """Return the member with its target, but for topics that it does not subscribe to any more."""
        subscribed = topic_ids(member.topic_names, self._parts.image())
        assigned = {topic_id: partitions for topic_id, partitions in target.items() if topic_id in subscribed}
        if member.member_epoch == target_epoch:
            return member._replace(assigned=assigned)
        return member._replace(member_epoch=target_epoch, previous_member_epoch=member.member_epoch, assigned=assigned)

    # -------------------------------------------------------------------- leaving

    def _fence(self, group: ShareGroup, member: ShareMember) -> list[CoordinatorRecord]:
        """Return the records that take a member out."""
        group_id = group.group_id
        epoch = group.epochs.value.group_epoch + 1
        written = records.removed_members(group_id, [member.member_id])
        hashed = metadata_hash(group.subscribed_topics(member), self._parts.image())
        written.append(records.group_epoch(group_id, epoch, hashed))
        if len(group.members) == 1:
            # An empty group has its assignment, an empty one.
            written.append(records.target_epoch(group_id, epoch, 0))
        self.rebalances += 1
        self._timers.cancel(_session(group_id, member.member_id))
        return written

    def _schedule_session(self, group_id: str, member_id: str) -> None:
        """A member gave a sign of life: its session starts anew."""

        def expire(now_ms: int) -> Result[None]:
            group = self._parts.groups.get(group_id)
            member = group.members.get(member_id) if isinstance(group, ShareGroup) else None
            if not isinstance(group, ShareGroup) or member is None:
                return Result(None)
            logger.info("group %s: the session of member %s has expired", group_id, member_id)
            self.fenced += 1
            return Result(None, self._fence(group, member))

        timeout_ms = self._of(self._config.share_session_timeout_ms, group_id)
        self._timers.schedule(_session(group_id, member_id), timeout_ms, expire)

    # ------------------------------------------------------------------ settings

    def _of(self, setting: Bounded, group_id: str) -> int:
        return setting.of(self._parts.image().config(GROUPS, group_id))

    def _assignment_interval_ms(self, group_id: str) -> int:
        """The broker's own value can be changed for all brokers while they run."""
        setting = self._config.share_assignment_interval_ms
        configured = self._parts.image().config(BROKERS, DEFAULT_ENTITY).get(f"group.{setting.group_key}")
        if configured is not None:
            setting = setting._replace(value=int(configured))
        return self._of(setting, group_id)

    # -------------------------------------------------------------------- groups

    def group(self, group_id: str) -> ShareGroup:
        """Return the group.

        Raises:
            GroupIdNotFoundError: there is none of this type.
        """
        return share_group(self._parts.groups.get(group_id), group_id)

    def group_to_join(self, group_id: str) -> ShareGroup:
        """Return the group, or one that records will make.

        Raises:
            GroupIdNotFoundError: there is one of another type, be it empty.
        """
        group = self._parts.groups.get(group_id)
        return ShareGroup(group_id, Timeline(tracks=False)) if group is None else share_group(group, group_id)

    def committed_group(self, group_id: str) -> ShareGroup:
        """Return the group if it is committed.

        Raises:
            GroupIdNotFoundError: there is none of this type.
        """
        return share_group(self._parts.groups.get_committed(group_id), group_id)

    # -------------------------------------------------------------- family's part

    def replays(self) -> Mapping[type[Message], Replay]:
        """Return how the records of share groups are applied."""
        return ShareReplay(self._parts).handlers()

    def on_loaded(self, now_ms: int) -> None:
        """Give every loaded member a fresh session; look at the topics with the first heartbeat."""
        self._watch_all()

    def _watch_all(self) -> None:
        for group in self._share_groups():
            group.needs_refresh = True
            for member_id in group.members:
                self._schedule_session(group.group_id, member_id)

    def on_unloaded(self, now_ms: int) -> None:
        """Nothing: no request is parked here."""

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Sequence[CoordinatorRecord]:
        """Groups that subscribe to what has changed look at their topics with the next heartbeat."""
        names = {*delta.created, *delta.changed, *(topic.name for topic in delta.deleted)}
        if names or delta.brokers_changed:
            for group in self._share_groups():
                if delta.brokers_changed or any(group.is_subscribed_to(name) for name in names):
                    group.needs_refresh = True
        return ()

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """Members whose leaving was undone are watched again, and what was asked for is asked for again."""
        self._watch_all()
        self.states.forget_attempts()

    def on_deleted(self, group: Group) -> None:
        """Forget the timers of a group that goes."""
        if isinstance(group, ShareGroup):
            self.states.forget_attempts(group.group_id)
            for member_id in group.members:
                self._timers.cancel(_session(group.group_id, member_id))

    def _share_groups(self) -> list[ShareGroup]:
        return [group for group in self._parts.groups.values() if isinstance(group, ShareGroup)]


def share_group(group: Group | None, group_id: str) -> ShareGroup:
    """Return the group, which should be a share group.

    Raises:
        GroupIdNotFoundError: it is not.
    """
    if group is None:
        raise GroupIdNotFoundError(f"Share group {group_id} not found.")
    if not isinstance(group, ShareGroup):
        raise GroupIdNotFoundError(f"Group {group_id} is not a share group.")
    return group


def _check_epoch(member: ShareMember, received: int) -> None:
    """One epoch behind is fine: the answer with the new one may have been lost."""
    known = member.member_epoch
    if received > known:
        raise FencedMemberEpochError(
            f"The share group member has a greater member epoch ({received}) than the one known by the group coordinator "
            f"({known}). The member must abandon all its partitions and rejoin."
        )
    if received not in (known, member.previous_member_epoch):
        raise FencedMemberEpochError(
            f"The share group member has a smaller member epoch ({received}) than the one known by the group coordinator "
            f"({known}), and it does not match the previous member epoch ({member.previous_member_epoch}). The member "
            "must abandon all its partitions and rejoin."
        )


def _changed(before: ShareMember, beat: Heartbeat) -> ShareMember:
    """Return the member with what it says of itself."""
    return before._replace(
        rack_id=before.rack_id if beat.rack_id is None else beat.rack_id,
        topic_names=before.topic_names if beat.topic_names is None else frozenset(beat.topic_names),
        client_id=beat.client_id,
        client_host=beat.client_host,
    )


def _answer(assigned: Assignment) -> AssignmentAnswer:
    return AssignmentAnswer(
        topic_partitions=[
            TopicPartitions(topic_id=topic_id, partitions=sorted(partitions))
            for topic_id, partitions in sorted(assigned.items())
            if partitions
        ]
    )


def _session(group_id: str, member_id: str) -> tuple[str, ...]:
    return "share-session", group_id, member_id
