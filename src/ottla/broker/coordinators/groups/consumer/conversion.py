"""A live group changes its type, with its members (KIP-848): classic to consumer, and back.

Up: the first member of the consumer protocol joins a classic group whose members are consumers. Everything it is and has
becomes that of a consumer group: the generation is the group epoch and every member's epoch, assignments become targets
and owned partitions. Members keep speaking the classic protocol (`classic_members`) until each is restarted.

Down: only members of the classic protocol are left. The group epoch becomes the generation, targets become assignments, and
a rebalance begins unless all members have their targets.

Both are one append: the tombstones of the group that was, the records of the group that is. `group.consumer.migration.policy`
says what is allowed. Parked requests are answered with REBALANCE_IN_PROGRESS on the way up: they come again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ottla.broker.coordinators.groups import records as classic_records
from ottla.broker.coordinators.groups.classic.group import CONSUMER_PROTOCOL_TYPE, ClassicGroup
from ottla.broker.coordinators.groups.classic.member import Member
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.broker.coordinators.groups.consumer import records
from ottla.broker.coordinators.groups.consumer.embedded import (
    read_assignment,
    read_subscription,
    version_of,
    write_assignment,
)
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.member import (
    ClassicMembership,
    ConsumerMember,
    with_epoch,
    without_epochs,
)
from ottla.broker.coordinators.groups.modern.metadata import metadata_hash
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.broker.coordinators.timeline import Timeline
from ottla.errors import GroupIdNotFoundError, RemoteProtocolError

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.classic.membership import Membership
    from ottla.broker.coordinators.groups.consumer.heartbeat import ConsumerGroups
    from ottla.broker.coordinators.groups.group import Group

logger = logging.getLogger(__name__)


class Conversion:
    """Converts the groups of one partition."""

    def __init__(self, consumers: ConsumerGroups, membership: Membership) -> None:
        self._consumers = consumers
        self._membership = membership
        self._config = consumers.parts.config
        self._groups = consumers.parts.groups
        self.upgrades = 0
        self.downgrades = 0

    # --------------------------------------------------------------------- up

    def to_consumer(self, group: Group, written: list[CoordinatorRecord], now_ms: int) -> ConsumerGroup:
        """Return a classic group as a consumer group; the records that make it one are added to `written`.

        Nothing has changed by that; once it is sure that they will be written, `take_over` follows.

        Raises:
            GroupIdNotFoundError: that is not allowed, or not possible.
        """
        assert isinstance(group, ClassicGroup)
        group_id = group.group_id
        if group.is_empty:
            written += group.tombstones()
            return ConsumerGroup(group_id, Timeline(tracks=False))
        if not self._config.consumer_migration_policy.can_upgrade:
            raise GroupIdNotFoundError(
                f"Cannot upgrade classic group {group_id} to consumer group because online upgrade is disabled."
            )
        if not group.uses_consumer_protocol:
            raise GroupIdNotFoundError(
                f"Cannot upgrade classic group {group_id} to consumer group because the group does not use the consumer "
                "embedded protocol."
            )
        if len(group.members) > self._config.consumer_size_max:
            raise GroupIdNotFoundError(
                f"Cannot upgrade classic group {group_id} to consumer group because the group size exceeds the consumer "
                "group maximum size."
            )
        try:
            converted = self._converted(group)
        except RemoteProtocolError:
            raise GroupIdNotFoundError(
                f"Cannot upgrade classic group {group_id} to consumer group because the embedded consumer protocol is "
                "malformed."
            ) from None
        written += group.tombstones()
        members = converted.members.values()
        written += [records.member(group_id, member) for member in members]
        epochs = converted.epochs
        written.append(records.group_epoch(group_id, epochs.group_epoch, epochs.metadata_hash))
        written += [
            records.target(group_id, member.member_id, converted.target_of(member.member_id, None))
            for member in members
        ]
        written.append(records.target_epoch(group_id, epochs.assignment_epoch, 0))
        written += [records.current(group_id, member) for member in members]
        return converted

    def take_over(self, group: ClassicGroup, converted: ConsumerGroup) -> None:
        """A classic group with members becomes a consumer group: answer its parked requests, watch its members."""
        self._membership.send_away(group)
        for member in converted.members.values():
            assert member.classic is not None
            self._consumers.schedule_session(group.group_id, member.member_id, member.classic.session_timeout_ms)
        self.upgrades += 1
        logger.info(
            "group %s: a classic group with %d members becomes a consumer group", group.group_id, len(converted.members)
        )

    def _converted(self, group: ClassicGroup) -> ConsumerGroup:
        image = self._consumers.image()
        epoch = group.generation_id
        converted = ConsumerGroup(group.group_id, Timeline(tracks=False))
        converted.set_assignment_epoch(epoch, 0)
        for member in group.members.values():
            target, has_user_data = read_assignment(member.assignment, image)
            if has_user_data:
                raise GroupIdNotFoundError(
                    f"Cannot upgrade classic group {group.group_id} to consumer group because an unsupported custom assignor "
                    "is in use. Please refer to the documentation or switch to a default assignor before re-attempting the "
                    "upgrade."
                )
            # Before its first generation a group has no protocol yet; every protocol of a consumer carries the same topics.
            name = group.protocol_name
            known = [metadata for each, metadata in member.protocols if each == name] or [member.protocols[0][1]]
            subscription = read_subscription(known[0], image)
            converted.targets[member.member_id] = target
            converted.update_member(
                ConsumerMember(
                    member_id=member.member_id,
                    member_epoch=epoch,
                    previous_member_epoch=epoch,
                    instance_id=member.group_instance_id,
                    rack_id=subscription.rack_id,
                    rebalance_timeout_ms=member.rebalance_timeout_ms,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    topic_names=subscription.topic_names,
                    assigned=with_epoch(target, epoch),
                    classic=ClassicMembership(member.session_timeout_ms, member.protocols),
                )
            )
        converted.set_group_epoch(epoch, metadata_hash(converted.subscribed_topics(), image))
        return converted

    # ------------------------------------------------------------------- down

    def should_downgrade_without(self, group: ConsumerGroup, leaving: Sequence[ConsumerMember]) -> bool:
        """Whether the group is to become a classic one when these members are gone."""
        left = len(group.members) - len(leaving)
        classic = group.epochs.classic_members - sum(member.uses_classic_protocol for member in leaving)
        return left > 0 and classic == left and self._may_downgrade(left)

    def should_downgrade_replacing(self, group: ConsumerGroup, replaced: ConsumerMember) -> bool:
        """Whether the group is to become a classic one when a member of the classic protocol takes this one's place."""
        others = len(group.members) - 1
        return (
            group.epochs.classic_members == others
            and not replaced.uses_classic_protocol
            and self._may_downgrade(others + 1)
        )

    def _may_downgrade(self, member_count: int) -> bool:
        return self._config.consumer_migration_policy.can_downgrade and member_count <= self._config.size_max

    def to_classic_without(
        self, group: ConsumerGroup, leaving: Sequence[ConsumerMember], response: Any, now_ms: int
    ) -> Result[Any]:
        """Make it a classic group, without these members, that begins to rebalance."""
        gone = {member.member_id for member in leaving}
        stay = [(member, member.member_id) for member in group.members.values() if member.member_id not in gone]
        written = group.tombstones()
        classic = self._to_classic(group, stay, written, now_ms, rebalance=True)
        for member_id in gone:
            self._consumers.cancel_timers(group.group_id, member_id)
        self._membership.take_over(
            classic, "the group is no longer one of the consumer protocol", now_ms, rebalance=True
        )
        return Result(response, written, replay=False)

    def to_classic_replacing(
        self,
        group: ConsumerGroup,
        replaced: ConsumerMember,
        joining: ConsumerMember,
        written: list[CoordinatorRecord],
        now_ms: int,
        *,
        rebalance: bool,
    ) -> None:
        """Make it a classic group in which `joining` has the place of `replaced`; adds to `written`."""
        stay = [
            (member, member.member_id) for member in group.members.values() if member.member_id != replaced.member_id
        ]
        stay.append((joining, replaced.member_id))
        written += group.tombstones_of([member.member_id for member, _ in stay])
        classic = self._to_classic(group, stay, written, now_ms, rebalance=rebalance)
        self._consumers.cancel_timers(group.group_id, replaced.member_id)
        reason = "the group is no longer one of the consumer protocol, and its assignment was not the newest"
        self._membership.take_over(classic, reason, now_ms, rebalance=rebalance)

    def _to_classic(
        self,
        group: ConsumerGroup,
        members: Sequence[tuple[ConsumerMember, str]],
        written: list[CoordinatorRecord],
        now_ms: int,
        *,
        rebalance: bool,
    ) -> ClassicGroup:
        """Put a classic group of these members in the group's place; each gets the target of the member named beside it.

        If a rebalance follows, assignments say what members have, not what they should have (as Apache Kafka does): should
        the group be converted again before the rebalance ends, no member is taken to own what another has not given up.
        """
        image = self._consumers.image()
        classic = ClassicGroup(
            group.group_id,
            state=GroupState.STABLE,
            generation_id=group.group_epoch,
            protocol_type=CONSUMER_PROTOCOL_TYPE,
            state_timestamp_ms=now_ms,
        )
        for member, _ in members:
            assert member.classic is not None
            classic.add(
                Member(
                    member_id=member.member_id,
                    group_instance_id=member.instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    rebalance_timeout_ms=member.rebalance_timeout_ms,
                    session_timeout_ms=member.classic.session_timeout_ms,
                    protocol_type=CONSUMER_PROTOCOL_TYPE,
                    protocols=member.classic.protocols,
                )
            )
            self._consumers.cancel_timers(group.group_id, member.member_id)
        classic.protocol_name = classic.select_protocol()
        classic.subscribed_topics = classic.find_subscribed_topics()
        for member, source_id in members:
            own = classic.members[member.member_id]
            has = without_epochs(member.assigned) if rebalance else group.target_of(source_id, None)
            own.assignment = write_assignment(has, version_of(own.metadata(classic.protocol_name)), image)
        assignments = {each.member_id: each.assignment for each in classic.members.values()}
        written.append(classic_records.group_metadata(group.group_id, classic.to_record(assignments)))
        # Not through replay: the group that the log would make is another object than the one that waits for its members.
        self._groups[group.group_id] = classic
        self.downgrades += 1
        logger.info("group %s: a consumer group becomes a classic group of %d members", group.group_id, len(members))
        return classic
