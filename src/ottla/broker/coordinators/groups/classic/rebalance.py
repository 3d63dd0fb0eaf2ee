"""Rebalances of classic groups: the join phase, the sync phase, and the sessions of members.

A rebalance waits until every member has joined again or the time is up, begins the next generation, and waits for the
leader's assignment, which members learn when it is committed. Membership is soft state: it changes at once, and only the
outcome of a rebalance is written (so `Result.replay` is off throughout, and failed writes are dealt with in `on_appended`).

Timers: ("heartbeat", group, member) for the session, or for a new member its first join; ("join", group) for the end of the
join phase; ("sync", group) for members that do not ask for their assignment in time: they are removed (KAFKA-9752).

Source: Kafka's GroupMetadataManager; KIP-62 (rebalance timeout), KIP-134 (initial delay).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.states import GroupEvent, GroupState
from ottla.broker.coordinators.shard import Result
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.messages.join_group import JoinGroupResponse
from ottla.protocol.messages.sync_group import SyncGroupResponse

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.classic.member import Member
    from ottla.broker.coordinators.groups.classic.requests import Sync
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.groups.group import Group
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.timeline import TimelineDict

logger = logging.getLogger(__name__)


def nothing() -> Result[None]:
    """Return the result of an operation that writes nothing."""
    return Result(None)


class Rebalance:
    """Rebalances the classic groups of one partition, and watches their members."""

    def __init__(self, groups: TimelineDict[str, Group], *, timers: Timers, config: GroupConfig) -> None:
        self._groups = groups
        self._timers = timers
        self._config = config

    def find(self, group_id: str) -> ClassicGroup | None:
        """Return the group, if it is a classic one."""
        group = self._groups.get(group_id)
        return group if isinstance(group, ClassicGroup) else None

    def keep_alive(self, group: ClassicGroup, member_id: str) -> None:
        """A member gave a sign of life: its session starts anew."""
        self.schedule_session(group, member_id, group.members[member_id].session_timeout_ms)

    def schedule_session(self, group: ClassicGroup, member_id: str, timeout_ms: int) -> None:
        key = ("heartbeat", group.group_id, member_id)
        if not self._timers.postpone(key, timeout_ms):
            self._timers.schedule(
                key,
                timeout_ms,
                self._for_group(
                    group.group_id, lambda current, now_ms: self._expire_session(current, member_id, now_ms)
                ),
            )

    def cancel_session(self, group: ClassicGroup, member_id: str) -> None:
        self._timers.cancel(("heartbeat", group.group_id, member_id))

    def remove(self, group: ClassicGroup, member_id: str) -> None:
        self.cancel_session(group, member_id)
        group.remove(member_id)

    def on_sync(self, group: ClassicGroup, member: Member) -> None:
        """A member has asked for its assignment: it is late no more."""
        group.pending_syncs.pop(member.member_id, None)
        if not group.pending_syncs:
            self._timers.cancel(("sync", group.group_id))

    def watch_join_phase(self, group: ClassicGroup) -> None:
        """Make sure that the join phase has an end."""
        self._timers.schedule_if_absent(
            ("join", group.group_id), group.rebalance_timeout_ms, self._for_group(group.group_id, self.complete_join)
        )

    def cancel_phases(self, group: ClassicGroup) -> None:
        """Forget the ends of the join phase and of the sync phase."""
        self._timers.cancel(("join", group.group_id))
        self._timers.cancel(("sync", group.group_id))

    def _expire_session(self, group: ClassicGroup, member_id: str, now_ms: int) -> Result[None]:
        """A session has ended, or a pending member did not come."""
        if group.state is GroupState.DEAD:
            return nothing()
        if member_id in group.pending_joins:
            group.remove(member_id)
        else:
            member = group.members.get(member_id)
            if member is None or member.has_satisfied_heartbeat:
                return nothing()
            logger.info("group %s: member %s has failed and is removed", group.group_id, member_id)
            group.remove(member_id)
            if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
                return self.rebalance_or_complete(group, f"{member_id} failed", now_ms)
        if group.state is GroupState.PREPARING_REBALANCE and group.has_all_members_joined:
            return self.complete_join(group, now_ms)
        return nothing()

    def rebalance_or_complete(self, group: ClassicGroup, reason: str, now_ms: int) -> Result[None]:
        if group.can_rebalance:
            return self.prepare(group, reason, now_ms)
        return self.maybe_complete(group, now_ms)

    def prepare(self, group: ClassicGroup, reason: str, now_ms: int) -> Result[None]:
        if group.state is GroupState.COMPLETING_REBALANCE:
            self._reset_assignments(group, ErrorCode.REBALANCE_IN_PROGRESS)
        group.pending_syncs.clear()
        self._timers.cancel(("sync", group.group_id))
        is_initial = group.is_empty
        logger.info("group %s: preparing to rebalance generation %d (%s)", group.group_id, group.generation_id, reason)
        group.on(GroupEvent.REBALANCE, now_ms)
        if not is_initial:
            return self._complete_or_wait(group, now_ms)
        # More members are likely to come when a group starts: wait a little, again for each, up to the rebalance timeout.
        delay_ms = self._config.initial_rebalance_delay_ms
        self._schedule_initial(group, delay_ms, max(group.rebalance_timeout_ms - delay_ms, 0))
        return nothing()

    def _schedule_initial(self, group: ClassicGroup, delay_ms: int, remaining_ms: int) -> None:
        self._timers.schedule(
            ("join", group.group_id),
            delay_ms,
            self._for_group(
                group.group_id, lambda current, now_ms: self._end_of_delay(current, delay_ms, remaining_ms, now_ms)
            ),
        )

    def _end_of_delay(self, group: ClassicGroup, delay_ms: int, remaining_ms: int, now_ms: int) -> Result[None]:
        if not group.new_member_added or remaining_ms == 0:
            return self.complete_join(group, now_ms)
        group.new_member_added = False
        next_delay_ms = min(self._config.initial_rebalance_delay_ms, remaining_ms)
        self._schedule_initial(group, next_delay_ms, max(remaining_ms - delay_ms, 0))
        return nothing()

    def _complete_or_wait(self, group: ClassicGroup, now_ms: int) -> Result[None]:
        if group.has_all_members_joined:
            return self.complete_join(group, now_ms)
        self._schedule_join_end(group)
        return nothing()

    def _schedule_join_end(self, group: ClassicGroup) -> None:
        self._timers.schedule(
            ("join", group.group_id), group.rebalance_timeout_ms, self._for_group(group.group_id, self.complete_join)
        )

    def maybe_complete(self, group: ClassicGroup, now_ms: int) -> Result[None]:
        """End the join phase if all members have joined; an initial rebalance lasts its time all the same."""
        if (
            group.state is GroupState.PREPARING_REBALANCE
            and group.previous_state is not GroupState.EMPTY
            and group.has_all_members_joined
        ):
            return self.complete_join(group, now_ms)
        return nothing()

    def complete_join(self, group: ClassicGroup, now_ms: int) -> Result[None]:
        """End the join phase: dynamic members that did not come are out; the others learn the new generation."""
        self._timers.cancel(("join", group.group_id))
        for member in list(group.members.values()):
            if not member.is_awaiting_join and not member.is_static:
                logger.info("group %s: member %s did not rejoin and is removed", group.group_id, member.member_id)
                self.remove(group, member.member_id)
        if group.state is GroupState.DEAD:
            return nothing()
        if not group.maybe_elect_joined_leader() and group.members:
            # Only static members are left and none has come. Wait once more: their sessions will end.
            logger.warning("group %s: no member rejoined, waiting again", group.group_id)
            self._schedule_join_end(group)
            return nothing()
        group.start_next_generation(now_ms)
        if group.is_empty:
            logger.info("group %s: generation %d is empty", group.group_id, group.generation_id)

            def on_appended(error: KafkaError | None) -> None:
                if error is not None:
                    # At worst the generation before comes back after a restart, and times out.
                    logger.warning("group %s: empty generation not written: %s", group.group_id, error)

            return Result(
                None,
                [records.group_metadata(group.group_id, group.to_record({}))],
                on_appended=on_appended,
                replay=False,
            )
        logger.info("group %s: generation %d has %d members", group.group_id, group.generation_id, len(group.members))
        for member in list(group.members.values()):
            group.respond_join(member, self.generation_response(group, member))
            self.schedule_session(group, member.member_id, member.session_timeout_ms)
            member.is_new = False
            group.pending_syncs[member.member_id] = None
        generation_id = group.generation_id
        self._timers.schedule(
            ("sync", group.group_id),
            group.rebalance_timeout_ms,
            self._for_group(group.group_id, lambda current, now_ms: self._end_of_sync(current, generation_id, now_ms)),
        )
        return nothing()

    def generation_response(
        self, group: ClassicGroup, member: Member, *, skip_assignment: bool = False
    ) -> JoinGroupResponse:
        """Return the answer that carries the current generation; only the leader learns who the members are."""
        return JoinGroupResponse(
            members=group.response_members() if group.is_leader(member.member_id) else [],
            member_id=member.member_id,
            generation_id=group.generation_id,
            protocol_name=group.protocol_name,
            protocol_type=group.protocol_type,
            leader=group.leader_id or "",
            skip_assignment=skip_assignment,
        )

    def _end_of_sync(self, group: ClassicGroup, generation_id: int, now_ms: int) -> Result[None]:
        """Members that have not asked for their assignment in time are out, and the others start over."""
        if generation_id != group.generation_id or group.state not in (
            GroupState.COMPLETING_REBALANCE,
            GroupState.STABLE,
        ):
            return nothing()
        late = list(group.pending_syncs)
        if not late:
            return nothing()
        for member_id in late:
            self.remove(group, member_id)
        return self.prepare(group, f"{', '.join(late)} did not sync in time", now_ms)

    def store_assignment(self, group: ClassicGroup, request: Sync, now_ms: int) -> Result[None]:
        assignments = {member_id: request.assignments.get(member_id, b"") for member_id in group.members}

        def on_appended(error: KafkaError | None) -> None:
            # Meanwhile a member may have come or gone: then the next rebalance has begun and this one is void.
            if group.state is not GroupState.COMPLETING_REBALANCE or group.generation_id != request.generation_id:
                return
            if error is not None:
                code = client_error_code(error)
                logger.warning("group %s: assignment not written: %s", group.group_id, error)
                self._reset_assignments(group, code)
                self.rebalance_or_complete(group, f"{code.name} while writing the assignment", now_ms)
                return
            for member in group.members.values():
                member.assignment = assignments.get(member.member_id, b"")
            self._propagate_assignments(group, ErrorCode.NONE)
            group.on(GroupEvent.ASSIGNED, now_ms)

        return Result(
            None,
            [records.group_metadata(group.group_id, group.to_record(assignments))],
            on_appended=on_appended,
            replay=False,
        )

    def _reset_assignments(self, group: ClassicGroup, code: ErrorCode) -> None:
        for member in group.members.values():
            member.assignment = b""
        self._propagate_assignments(group, code)

    def _propagate_assignments(self, group: ClassicGroup, code: ErrorCode) -> None:
        """Answer every parked SyncGroup; sessions start anew, since a waiting member sends no heartbeats."""
        failed = code != ErrorCode.NONE
        for member in list(group.members.values()):
            response = SyncGroupResponse(
                error_code=code,
                protocol_type=None if failed else group.protocol_type,
                protocol_name=None if failed else group.protocol_name,
                assignment=member.assignment,
            )
            if group.respond_sync(member, response):
                self.schedule_session(group, member.member_id, member.session_timeout_ms)

    def _for_group(
        self, group_id: str, operation: Callable[[ClassicGroup, int], Result[None]]
    ) -> Callable[[int], Result[None]]:
        """Bind a timer to a group by name: the object may have been replaced when it fires."""

        def run(now_ms: int) -> Result[None]:
            group = self.find(group_id)
            return nothing() if group is None else operation(group, now_ms)

        return run
