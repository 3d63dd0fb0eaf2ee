"""StreamsGroups: everything the coordinator does for streams groups (KIP-1071).

A member sends heartbeats and hears what to do: it joins with its topology, learns which internal topics are missing, gets
tasks, gives some up, leaves. One heartbeat does, in this order: the member's record, the topology, a look at the topics,
a new epoch if any of that changed, a new target if the epoch is newer than the target, and the member's next step towards
it (`heartbeat`). Learned from Kafka's GroupMetadataManager (4.4), which does not warm tasks up yet either.

Invariant: what a heartbeat decides is in its records; what is beside them can be found out again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.streams import records
from ottla.broker.coordinators.groups.streams.answers import describe
from ottla.broker.coordinators.groups.streams.checks import check_fenced, check_known
from ottla.broker.coordinators.groups.streams.config import ASSIGNMENT_INTERVAL_KEY
from ottla.broker.coordinators.groups.streams.group import StreamsGroup
from ottla.broker.coordinators.groups.streams.heartbeat import Beat, BeatResult, Heartbeat
from ottla.broker.coordinators.groups.streams.member import (
    LEAVE_EPOCH,
    STATIC_LEAVE_EPOCH,
    MemberState,
    StreamsMember,
)
from ottla.broker.coordinators.groups.streams.replay import StreamsReplay
from ottla.broker.coordinators.groups.streams.target import new_target
from ottla.broker.coordinators.groups.streams.tasks import NOTHING_ASSIGNED
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.cluster.image import BROKERS, DEFAULT_ENTITY, GROUPS
from ottla.errors import GroupIdNotFoundError
from ottla.protocol.messages.streams_group_heartbeat import StreamsGroupHeartbeatResponse

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import Group, Replay, ShardParts
    from ottla.broker.coordinators.groups.streams.config import StreamsConfig
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.errors import KafkaError
    from ottla.protocol.messages.streams_group_describe import DescribedGroup
    from ottla.protocol.messages.streams_group_heartbeat import StreamsGroupHeartbeatRequest
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)


class StreamsGroups:
    """The streams groups of one partition."""

    def __init__(self, parts: ShardParts) -> None:
        self._groups = parts.groups
        self._timeline = parts.timeline
        self._timers = parts.timers
        self._image = parts.image
        self._config = parts.config.streams
        #: Groups whose first assignment waits for more members.
        self._delayed: set[str] = set()
        self._replay = StreamsReplay(parts)

    # ----------------------------------------------------------------- heartbeat

    def heartbeat(self, beat: Beat, now_ms: int) -> Result[BeatResult]:
        """Handle a StreamsGroupHeartbeat.

        Raises:
            KafkaError: with Kafka's code for what is wrong; nothing has changed then.
        """
        if beat.request.member_epoch in (LEAVE_EPOCH, STATIC_LEAVE_EPOCH):
            return self._leave(beat.request)
        return Heartbeat(self, beat, now_ms).run()

    def _leave(self, request: StreamsGroupHeartbeatRequest) -> Result[BeatResult]:
        group = self.group(request.group_id)
        if request.shutdown_application and group.shutdown_requested_by is None:
            group.shutdown_requested_by = request.member_id
        epoch = request.member_epoch
        response = StreamsGroupHeartbeatResponse(member_id=request.member_id, member_epoch=epoch)
        if request.instance_id is None:
            member = group.member(request.member_id)
        else:
            member = check_known(group.static_member(request.instance_id), request.instance_id)
            check_fenced(member, request.member_id, request.instance_id)
            if epoch == STATIC_LEAVE_EPOCH:
                away = replace(
                    member,
                    member_epoch=STATIC_LEAVE_EPOCH,
                    assigned=member.assigned.with_epochs_zero(),
                    revoking=NOTHING_ASSIGNED,
                )
                return Result(BeatResult(response), [records.current_assignment(group.group_id, away)])
        logger.info("group %s: member %s leaves", group.group_id, member.member_id)
        return Result(BeatResult(response), self._fence(group, member))

    def _fence(self, group: StreamsGroup, member: StreamsMember) -> list[CoordinatorRecord]:
        """Return the records that take a member out."""
        epoch = group.scalars.value.epoch + 1
        written = records.member_tombstones(group.group_id, member.member_id)
        written.append(group.metadata_record(epoch))
        if len(group.members) == 1:
            # An empty group has its assignment, an empty one.
            written.append(records.target_metadata(group.group_id, epoch, 0))
        self._timers.cancel(_session(group, member.member_id))
        self._timers.cancel(_rebalance(group, member.member_id))
        return written

    # -------------------------------------------------------------------- timers

    def schedule_session(self, group: StreamsGroup, member_id: str, config: StreamsConfig) -> None:
        def expire(now_ms: int) -> Result[None]:
            found = self._find_member(group.group_id, member_id)
            if found is None:
                return Result(None)
            logger.info("group %s: the session of member %s has expired", group.group_id, member_id)
            return Result(None, self._fence(*found))

        self._timers.schedule(_session(group, member_id), config.session_timeout_ms, expire)

    def schedule_rebalance(self, group: StreamsGroup, member: StreamsMember) -> None:
        """The member must have given up in time what it was asked to."""

        def expire(now_ms: int) -> Result[None]:
            found = self._find_member(group.group_id, member.member_id)
            # A member that need not give up anything any more: the answer that said so was undone by a failed append.
            if found is None or found[1].state is not MemberState.UNREVOKED_TASKS:
                return Result(None)
            if found[1].member_epoch != member.member_epoch:
                return Result(None)
            logger.info("group %s: member %s did not give up its tasks", group.group_id, member.member_id)
            return Result(None, self._fence(*found))

        self._timers.schedule(_rebalance(group, member.member_id), member.rebalance_timeout_ms, expire)

    def cancel_rebalance(self, group: StreamsGroup, member_id: str) -> None:
        self._timers.cancel(_rebalance(group, member_id))

    def delay_first_assignment(self, group: StreamsGroup, delay_ms: int) -> None:
        """Wait for more members, unless that is being done."""
        group_id = group.group_id
        if group_id in self._delayed:
            return
        self._delayed.add(group_id)

        def compute(now_ms: int) -> Result[None]:
            self._delayed.discard(group_id)
            found = self._groups.get(group_id)
            if not isinstance(found, StreamsGroup) or found.is_empty or found.configured is None:
                return Result(None)
            scalars = found.scalars.value
            if scalars.epoch <= scalars.assignment_epoch:
                return Result(None)
            members = dict(found.members.items())
            targets = dict(found.targets.items())
            configs = dict(scalars.assignment_configs)
            written, _ = new_target(found, members, targets, found.configured, scalars.epoch, configs, now_ms)
            return Result(None, written)

        self._timers.schedule(_delay(group_id), delay_ms, compute)

    def is_delayed(self, group: StreamsGroup) -> bool:
        return group.group_id in self._delayed

    # -------------------------------------------------------------------- groups

    def group(self, group_id: str) -> StreamsGroup:
        """Return the group.

        Raises:
            GroupIdNotFoundError: there is none of this type.
        """
        group = self._groups.get(group_id)
        if group is None:
            raise GroupIdNotFoundError(f"Group {group_id} not found.")
        if not isinstance(group, StreamsGroup):
            raise GroupIdNotFoundError(f"Group {group_id} is not a streams group.")
        return group

    def group_to_join(self, group_id: str) -> tuple[StreamsGroup, list[CoordinatorRecord]]:
        """Return the group, a new one if there is none; and the records that take an empty classic one out of its way.

        Raises:
            GroupIdNotFoundError: there is one of another type.
        """
        group = self._groups.get(group_id)
        if group is None:
            return StreamsGroup(group_id, self._timeline, self._image), []
        if isinstance(group, ClassicGroup) and group.is_empty:
            return StreamsGroup(group_id, self._timeline, self._image), group.tombstones()
        if isinstance(group, StreamsGroup):
            return group, []
        raise GroupIdNotFoundError(f"Group {group_id} is not a streams group.")

    def is_there(self, group: StreamsGroup) -> bool:
        """Whether the group exists already; False for one that is about to be made."""
        return self._groups.get(group.group_id) is group

    def config_of(self, group_id: str) -> StreamsConfig:
        """Return what holds for a group now; the assignment interval of the broker can be changed while it runs."""
        image = self._image()
        config = self._config
        interval = image.config(BROKERS, DEFAULT_ENTITY).get(ASSIGNMENT_INTERVAL_KEY)
        if interval is not None:
            config = replace(config, assignment_interval_ms=int(interval))
        return config.of_group(image.config(GROUPS, group_id))

    def image(self) -> ClusterImage:
        return self._image()

    def describe(self, group_id: str) -> DescribedGroup:
        """Return what is committed of a group.

        Raises:
            GroupIdNotFoundError: there is none of this type.
        """
        group = self._groups.get_committed(group_id)
        if group is None:
            raise GroupIdNotFoundError(f"Group {group_id} not found.")
        if not isinstance(group, StreamsGroup):
            raise GroupIdNotFoundError(f"Group {group_id} is not a streams group.")
        return describe(group)

    def _find_member(self, group_id: str, member_id: str) -> tuple[StreamsGroup, StreamsMember] | None:
        group = self._groups.get(group_id)
        if not isinstance(group, StreamsGroup):
            return None
        member = group.members.get(member_id)
        return None if member is None else (group, member)

    # ------------------------------------------------------------- family's part

    def replays(self) -> Mapping[type[Message], Replay]:
        return self._replay.handlers()

    def on_loaded(self, now_ms: int) -> None:
        self._schedule_all()

    def _schedule_all(self) -> None:
        for group in self._groups.values():
            if not isinstance(group, StreamsGroup):
                continue
            config = self.config_of(group.group_id)
            for member in group.members.values():
                self.schedule_session(group, member.member_id, config)
                if member.state is MemberState.UNREVOKED_TASKS:
                    self.schedule_rebalance(group, member)

    def on_unloaded(self, now_ms: int) -> None:
        pass

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Sequence[CoordinatorRecord]:
        touched = {*delta.created, *delta.changed, *(topic.name for topic in delta.deleted)}
        if touched:
            for group in self._groups.values():
                topology = group.scalars.value.topology if isinstance(group, StreamsGroup) else None
                if topology is not None and not topology.required_topics.isdisjoint(touched):
                    assert isinstance(group, StreamsGroup)
                    group.must_look_at_topics = True
        return ()

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        # A member that was about to leave is still there, but its timers are not.
        self._schedule_all()

    def on_deleted(self, group: Group) -> None:
        assert isinstance(group, StreamsGroup)
        self._delayed.discard(group.group_id)
        self._timers.cancel(_delay(group.group_id))
        for member_id in group.members:
            self._timers.cancel(_session(group, member_id))
            self._timers.cancel(_rebalance(group, member_id))


def _session(group: StreamsGroup, member_id: str) -> tuple[str, ...]:
    return "streams-session", group.group_id, member_id


def _rebalance(group: StreamsGroup, member_id: str) -> tuple[str, ...]:
    return "streams-rebalance", group.group_id, member_id


def _delay(group_id: str) -> tuple[str, ...]:
    return "streams-initial-delay", group_id
