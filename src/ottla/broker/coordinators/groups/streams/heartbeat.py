"""One heartbeat of a member that joins a streams group or is in it, step by step.

In this order: the member's record, the topology, a look at the topics, a new epoch if any of that changed, a new target if
the epoch is newer than the target, and the member's next step towards it. Changes nothing that is written: it decides, and
the records are applied afterwards. KIP-1071; learned from Kafka's GroupMetadataManager (4.4).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.coordinators.groups.modern.metadata import metadata_hash
from ottla.broker.coordinators.groups.streams import records
from ottla.broker.coordinators.groups.streams.answers import endpoint_of, task_ids
from ottla.broker.coordinators.groups.streams.checks import (
    check_epoch,
    check_fenced,
    check_known,
    check_released,
    check_tasks,
    owned_tasks,
    reported_offsets,
)
from ottla.broker.coordinators.groups.streams.group import StreamsGroup, TaskOffsets
from ottla.broker.coordinators.groups.streams.internal_topics import (
    ConfiguredTopology,
    StatusCode,
    configure,
)
from ottla.broker.coordinators.groups.streams.member import JOIN_EPOCH, MemberState, StreamsMember
from ottla.broker.coordinators.groups.streams.reconciliation import reconcile
from ottla.broker.coordinators.groups.streams.target import new_target
from ottla.broker.coordinators.groups.streams.tasks import NOTHING, Tasks
from ottla.broker.coordinators.groups.streams.topology import InternalTopic, Topology
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.errors import GroupMaxSizeReachedError, InvalidRequestError, UnknownServerError
from ottla.protocol.messages.streams_group_heartbeat import Status, StreamsGroupHeartbeatResponse

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.streams.family import StreamsGroups
    from ottla.protocol.messages.streams_group_heartbeat import StreamsGroupHeartbeatRequest

logger = logging.getLogger(__name__)

#: From here on the answer names client tags that a member should have.
_TAGS_STATUS_VERSION = 1


class Beat(NamedTuple):
    """A heartbeat and who sent it."""

    request: StreamsGroupHeartbeatRequest
    client_id: str
    client_host: str
    version: int = 1


class BeatResult(NamedTuple):
    """An answer, and the internal topics that should be made."""

    response: StreamsGroupHeartbeatResponse
    to_create: tuple[InternalTopic, ...] = ()


class Heartbeat:
    """One heartbeat; see the module."""

    def __init__(self, family: StreamsGroups, beat: Beat, now_ms: int) -> None:
        self._family = family
        self._beat = beat
        self._request = beat.request
        self._now_ms = now_ms
        self._image = family.image()
        self._config = family.config_of(beat.request.group_id)
        self._owned = owned_tasks(beat.request)
        self._joins = beat.request.member_epoch == JOIN_EPOCH
        self._status: list[Status] = []
        self._replaced: StreamsMember | None = None

    def run(self) -> Result[BeatResult]:
        request, family = self._request, self._family
        if self._joins:
            group, written = family.group_to_join(request.group_id)
            self._check_room(group)
        else:
            group, written = family.group(request.group_id), []
        before = self._member(group, written)
        member = self._with_what_it_says(before)
        new_epoch = member != before
        if new_epoch:
            written.append(records.member(group.group_id, member))
            if request.instance_id is not None:
                new_epoch = _concerns_assignment(before, member)

        topology = self._topology(group, written)
        self._tell_if_stale(group, member)
        configured, topics = self._look_at_topics(group, topology)
        new_epoch = new_epoch or topics != group.scalars.value.metadata_hash
        validated = -1
        if configured.is_ready:
            validated = topology.epoch
            check_tasks(configured, request)
        self._note_offsets(group, member.member_id)
        scalars = group.scalars.value
        configs = self._config.assignment_configs
        new_epoch = (
            new_epoch or validated != scalars.validated_topology_epoch or configs != dict(scalars.assignment_configs)
        )

        epoch = scalars.epoch
        if new_epoch:
            epoch += 1
            record = group.metadata_record(
                epoch, metadata_hash=topics, validated_topology_epoch=validated, assignment_configs=configs
            )
            written.append(record)
            group.looked_in_epoch = epoch
        if group.is_empty and self._config.initial_rebalance_delay_ms > 0:
            family.delay_first_assignment(group, self._config.initial_rebalance_delay_ms)
        target_epoch, target = self._target(group, member, configured, epoch, configs, written)
        member = self._step(group, member, target_epoch, target, written)
        family.schedule_session(group, member.member_id, self._config)
        if request.shutdown_application and group.shutdown_requested_by is None:
            group.shutdown_requested_by = member.member_id
        response = self._answer(group, before, member, configured)
        # What is shown may have been decided for an earlier request and not be committed yet: then the answer waits for it.
        shows = response.active_tasks is not None or member.member_epoch != request.member_epoch
        return Result(BeatResult(response, configured.to_create), written, barrier=shows)

    # ------------------------------------------------------------- the member

    def _check_room(self, group: StreamsGroup) -> None:
        request = self._request
        if request.instance_id is not None and request.instance_id in group.static_members:
            return
        if len(group.members) >= self._config.max_size and request.member_id not in group.members:
            raise GroupMaxSizeReachedError(
                f"The streams group has reached its maximum capacity of {self._config.max_size} members."
            )

    def _member(self, group: StreamsGroup, written: list[CoordinatorRecord]) -> StreamsMember:
        """Return the member as it is, a new one if it joins. A static member that comes back takes its old place."""
        request = self._request
        member_id, instance_id = request.member_id, request.instance_id
        if instance_id is None:
            if self._joins:
                member = group.members.get(member_id) or StreamsMember(member_id=member_id)
            else:
                member = group.member(member_id)
            check_epoch(member, request, self._owned)
            return member
        existing = group.static_member(instance_id)
        if not self._joins:
            existing = check_known(existing, instance_id)
            check_fenced(existing, member_id, instance_id)
            check_epoch(existing, request, self._owned)
            return existing
        if existing is None:
            return group.members.get(member_id) or StreamsMember(member_id=member_id)
        check_released(existing, member_id, instance_id)
        member = replace(existing, member_id=member_id, member_epoch=JOIN_EPOCH, previous_member_epoch=JOIN_EPOCH)
        if existing.member_id != member_id:
            self._replaced = existing
        written += records.member_tombstones(group.group_id, existing.member_id)
        written.append(records.member(group.group_id, member))
        written.append(records.target_member(group.group_id, member_id, group.target(existing.member_id)))
        written.append(records.current_assignment(group.group_id, member))
        return member

    def _with_what_it_says(self, member: StreamsMember) -> StreamsMember:
        """Return the member with what it says of itself; what it leaves out stays, but for the endpoint when it joins."""
        request = self._request
        endpoint = None if request.user_endpoint is None else (request.user_endpoint.host, request.user_endpoint.port)
        tags = None if request.client_tags is None else {tag.key: tag.value for tag in request.client_tags}
        return replace(
            member,
            instance_id=member.instance_id if request.instance_id is None else request.instance_id,
            rack_id=member.rack_id if request.rack_id is None else request.rack_id,
            client_id=self._beat.client_id,
            client_host=self._beat.client_host,
            rebalance_timeout_ms=(
                member.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms
            ),
            topology_epoch=member.topology_epoch if request.topology is None else request.topology.epoch,
            process_id=member.process_id if request.process_id is None else request.process_id,
            endpoint=endpoint if self._joins or endpoint is not None else member.endpoint,
            client_tags=member.client_tags if tags is None else tags,
        )

    def _note_offsets(self, group: StreamsGroup, member_id: str) -> None:
        request = self._request
        if request.task_offsets is None and request.task_end_offsets is None:
            return
        offsets = reported_offsets(request.task_offsets)
        end_offsets = reported_offsets(request.task_end_offsets)
        known = group.task_offsets.setdefault(member_id, TaskOffsets())
        known.offsets = known.offsets if offsets is None else offsets
        known.end_offsets = known.end_offsets if end_offsets is None else end_offsets

    # ------------------------------------------------------- topology and topics

    def _topology(self, group: StreamsGroup, written: list[CoordinatorRecord]) -> Topology:
        known = group.scalars.value.topology
        if self._request.topology is None:
            if known is None:
                raise UnknownServerError()
            return known
        brought = Topology.of(self._request.topology)
        if known is None:
            written.append(records.topology(group.group_id, brought))
            return brought
        if known.epoch <= brought.epoch and known != brought:
            raise InvalidRequestError("Topology updates are not supported yet.")
        return known

    def _tell_if_stale(self, group: StreamsGroup, member: StreamsMember) -> None:
        topology = group.scalars.value.topology
        if topology is not None and member.topology_epoch < topology.epoch:
            self._tell(
                StatusCode.STALE_TOPOLOGY,
                f"The member's topology epoch {member.topology_epoch} is behind the group's topology epoch "
                f"{topology.epoch}.",
            )

    def _look_at_topics(self, group: StreamsGroup, topology: Topology) -> tuple[ConfiguredTopology, int]:
        """Return the topology on the topics that there are, and their hash; looks only if they may have changed."""
        scalars = group.scalars.value
        configured = group.configured
        undone = scalars.epoch < group.looked_in_epoch
        if configured is not None and scalars.topology is not None and not group.must_look_at_topics and not undone:
            return configured, scalars.metadata_hash
        topics = metadata_hash(topology.required_topics, self._image)
        if configured is None or scalars.topology is None or topics != scalars.metadata_hash or undone:
            image = self._image

            def partitions_of(name: str) -> int | None:
                topic = image.topics.get(name)
                return None if topic is None else len(topic.partitions)

            configured = configure(topology, partitions_of)
            if configured.problem is not None:
                logger.info("group %s: %s", group.group_id, configured.problem.detail)
            group.configured = configured
        group.must_look_at_topics = False
        return configured, topics

    # ---------------------------------------------------------------- assignment

    def _target(
        self,
        group: StreamsGroup,
        member: StreamsMember,
        configured: ConfiguredTopology,
        epoch: int,
        configs: Mapping[str, str],
        written: list[CoordinatorRecord],
    ) -> tuple[int, Tasks]:
        """Return the epoch of the target and the member's part of it, a new one if it is time."""
        scalars = group.scalars.value
        if self._family.is_delayed(group):
            self._tell(
                StatusCode.ASSIGNMENT_DELAYED, "Assignment delayed due to the configured initial rebalance delay."
            )
            return scalars.assignment_epoch, NOTHING
        replaced = None if self._replaced is None else self._replaced.member_id
        own_target = group.targets.get(member.member_id if replaced is None else replaced)
        if scalars.assignment_epoch >= epoch:
            return scalars.assignment_epoch, own_target or NOTHING
        interval = self._config.assignment_interval_ms
        last = scalars.assignment_timestamp_ms
        if last != 0 and interval != 0 and self._now_ms < last + interval:
            self._tell(StatusCode.ASSIGNMENT_DELAYED, "Assignment delayed due to the configured assignment interval.")
            return scalars.assignment_epoch, own_target or NOTHING
        members = dict(group.members.items())
        targets = dict(group.targets.items())
        if replaced is not None:
            members.pop(replaced, None)
            targets.pop(replaced, None)
        members[member.member_id] = member
        if own_target is not None:
            targets[member.member_id] = own_target
        new, targets = new_target(group, members, targets, configured, epoch, configs, self._now_ms)
        written += new
        return epoch, targets[member.member_id]

    def _step(
        self,
        group: StreamsGroup,
        member: StreamsMember,
        target_epoch: int,
        target: Tasks,
        written: list[CoordinatorRecord],
    ) -> StreamsMember:
        if member.is_reconciled_to(target_epoch):
            return member
        after = reconcile(member, target_epoch, target, self._owned, group)
        if after != member:
            written.append(records.current_assignment(group.group_id, after))
            if after.state is MemberState.UNREVOKED_TASKS:
                self._family.schedule_rebalance(group, after)
            else:
                self._family.cancel_rebalance(group, member.member_id)
        return after

    # -------------------------------------------------------------------- answer

    def _answer(
        self, group: StreamsGroup, before: StreamsMember, member: StreamsMember, configured: ConfiguredTopology
    ) -> StreamsGroupHeartbeatResponse:
        config = self._config
        response = StreamsGroupHeartbeatResponse(
            member_id=member.member_id,
            member_epoch=member.member_epoch,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            task_offset_interval_ms=config.task_offset_interval_ms,
            acceptable_recovery_lag=config.acceptable_recovery_lag,
        )
        changed = member.assigned != before.assigned
        if self._joins or changed or self._lacks_tasks(before):
            response.active_tasks = task_ids(member.assigned.active)
            response.standby_tasks = task_ids(member.assigned.standby)
            response.warmup_tasks = task_ids(member.assigned.warmup)
        if (self._joins or changed) and member.endpoint is not None:
            group.endpoint_epoch += 1
        if group.endpoint_epoch != self._request.endpoint_information_epoch:
            skipped = {member.member_id, self._replaced.member_id if self._replaced is not None else None}
            others = [other for other in group.members.values() if other.member_id not in skipped]
            places = [endpoint_of(one, configured, self._image) for one in (*others, member)]
            response.partitions_by_user_endpoint = [place for place in places if place is not None]
        if self._family.is_there(group):
            response.endpoint_information_epoch = group.endpoint_epoch
        if configured.problem is not None:
            self._tell(configured.problem.code, configured.problem.detail)
        if group.shutdown_requested_by is not None:
            self._tell(
                StatusCode.SHUTDOWN_APPLICATION,
                f"Streams group member {group.shutdown_requested_by} encountered a fatal error and requested a shutdown "
                "for the entire application.",
            )
        self._tell_missing_tags(member)
        response.status = self._status
        return response

    def _lacks_tasks(self, before: StreamsMember) -> bool:
        """Whether the member says what it has, and that is not all it was given before: the answer with it may have been
        lost, and the member must not wait for the next change. Kafka 4.3 does not repeat it."""
        given, owned = before.assigned, self._owned
        if owned is None:
            return False
        return not (
            owned.active >= given.active.keys() and owned.standby >= given.standby and owned.warmup >= given.warmup
        )

    def _tell_missing_tags(self, member: StreamsMember) -> None:
        tags = self._config.rack_aware_assignment_tags
        if self._beat.version < _TAGS_STATUS_VERSION or not tags:
            return
        missing = [tag for tag in tags.split(",") if tag not in member.client_tags]
        if missing:
            self._tell(
                StatusCode.MISSING_CLIENT_TAGS,
                f"Missing required client tags for rack-aware standby assignment: [{', '.join(missing)}]. Configure them "
                "via 'client.tag.<tagKey>' in your Streams config.",
            )

    def _tell(self, code: StatusCode, detail: str) -> None:
        self._status.append(Status(status_code=code, status_detail=detail))


def _concerns_assignment(before: StreamsMember, after: StreamsMember) -> bool:
    """Whether a static member has become another one for the assignor."""
    return (before.topology_epoch, before.rack_id, before.client_tags, before.process_id) != (
        after.topology_epoch,
        after.rack_id,
        after.client_tags,
        after.process_id,
    )
