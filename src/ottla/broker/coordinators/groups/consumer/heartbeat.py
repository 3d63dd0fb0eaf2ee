"""ConsumerGroups: what ConsumerGroupHeartbeat, timers and the cluster do to the groups of the consumer protocol (KIP-848).

A heartbeat is one decision: the member is created or changed; if subscriptions or topics are others than before, the group
epoch grows; if the target assignment is older than the group epoch (and the assignment interval is over), it is computed
anew; the member is reconciled one step (`reconciliation`). What a heartbeat leaves as it was, it does not write.

Timers: ("consumer-session", group, member) - silence; ("consumer-rebalance", group, member) - a member that does not give up
what it must; both fence the member. Members of the classic protocol are in `classic_members`, changes of a group's type in
`conversion`; both build on this. Rules and error codes are Apache Kafka's (GroupMetadataManager, 4.3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.consumer import records
from ottla.broker.coordinators.groups.consumer.assignors import ASSIGNORS
from ottla.broker.coordinators.groups.consumer.conversion import Conversion
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.member import (
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    NOTHING,
    ConsumerMember,
    MemberState,
    has_other_partitions,
)
from ottla.broker.coordinators.groups.consumer.reconciliation import Owned, reconcile
from ottla.broker.coordinators.groups.consumer.regexes import Regexes, RegexUpdate
from ottla.broker.coordinators.groups.consumer.replay import ConsumerReplay
from ottla.broker.coordinators.groups.group import Group, GroupType
from ottla.broker.coordinators.groups.modern.assignor import Assignment, GroupSpec, MemberSpec, changed_targets
from ottla.broker.coordinators.groups.modern.metadata import metadata_hash, topic_ids
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.broker.coordinators.timeline import Timeline
from ottla.cluster.image import BROKERS, DEFAULT_ENTITY, GROUPS
from ottla.errors import (
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    KafkaError,
    UnknownMemberIdError,
    UnreleasedInstanceIdError,
)
from ottla.protocol.messages.consumer_group_heartbeat import (
    Assignment as AssignmentAnswer,
)
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.types import uuid_to_text

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.classic.membership import Membership
    from ottla.broker.coordinators.groups.group import Replay, ShardParts
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)

NOT_GIVEN: Final = -1


class Heartbeat(NamedTuple):
    """A ConsumerGroupHeartbeat request. None (or NOT_GIVEN) stands for what has not changed since the last one."""

    group_id: str
    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = NOT_GIVEN
    topic_names: Sequence[str] | None = None
    topic_regex: str | None = None
    server_assignor: str | None = None
    owned: Owned = None
    client_id: str = ""
    client_host: str = ""

    @property
    def is_full(self) -> bool:
        """The member states everything: it begins, or has had an error, and expects its whole assignment."""
        return (
            self.rebalance_timeout_ms != NOT_GIVEN
            and (self.topic_names is not None or self.topic_regex is not None)
            and self.owned is not None
        )

    @property
    def has_no_news(self) -> bool:
        """The member is still there, and that is all."""
        return (
            self.topic_names is None
            and self.topic_regex is None
            and self.owned is None
            and self.server_assignor is None
            and self.rebalance_timeout_ms == NOT_GIVEN
            and self.rack_id is None
        )


class SubscriptionChange(NamedTuple):
    """What a request changed of a member's subscription: the topic names, the regular expression."""

    names: bool
    regex: RegexUpdate

    @property
    def is_any(self) -> bool:
        return self.names or self.regex is not RegexUpdate.NONE


class ConsumerGroups:
    """Decides for the groups of the consumer protocol of one partition."""

    def __init__(self, parts: ShardParts, membership: Membership) -> None:
        self.parts = parts
        self._timers = parts.timers
        self._config = parts.config
        self.regexes = Regexes(parts, self.new_epoch)
        self.conversion = Conversion(self, membership)
        #: Group epochs that grew, target assignments that were computed, members that were fenced; for metrics and tests.
        self.rebalances = 0
        self.assignments = 0
        self.fenced = 0

    def image(self) -> ClusterImage:
        """Return the cluster as it is."""
        return self.parts.image()

    def overrides(self, group_id: str) -> Mapping[str, str]:
        """Return what is configured for this group alone."""
        return self.parts.image().config(GROUPS, group_id)

    # -------------------------------------------------------------- heartbeat

    def heartbeat(self, request: Heartbeat, now_ms: int) -> Result[ConsumerGroupHeartbeatResponse]:
        """Handle a ConsumerGroupHeartbeat whose fields are valid.

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND, GROUP_MAX_SIZE_REACHED, UNKNOWN_MEMBER_ID, FENCED_MEMBER_EPOCH,
                FENCED_INSTANCE_ID, UNRELEASED_INSTANCE_ID or INVALID_REGULAR_EXPRESSION.
        """
        if request.member_epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH):
            return self._leave(request, now_ms)
        quiet = self.quiet_heartbeat(request, now_ms)
        if quiet is not None:
            return Result(quiet)
        written: list[CoordinatorRecord] = []
        joins = request.member_epoch == 0
        group = (
            self._group_to_join(request.group_id, written, now_ms) if joins else self.group_or_raise(request.group_id)
        )
        self.check_size(group, request.member_id)
        member_id = request.member_id or uuid_to_text(self.parts.random.getrandbits(128).to_bytes(16, "big"))
        replaced = None if request.instance_id is None else group.static_member(request.instance_id)
        if request.instance_id is None:
            before = (group.members.get(member_id) or ConsumerMember(member_id)) if joins else group.member(member_id)
            _check_epoch(before, request.member_epoch, request.owned)
        else:
            before = self.static_member(
                group,
                member_id,
                request.instance_id,
                written,
                joins=joins,
                classic=False,
                check=lambda member: _check_epoch(member, request.member_epoch, request.owned),
            )
        after = _changed(before, request)
        change = self.write_subscription(group, before, after, written, now_ms)
        # Nothing above may touch timers or parked requests: a refused request changes nothing. Nothing below refuses.
        was = self.parts.groups.get(request.group_id)
        is_converted = isinstance(was, ClassicGroup) and bool(group.members)
        if isinstance(was, ClassicGroup) and is_converted:
            self.conversion.take_over(was, group)
        if joins and replaced is not None:
            self.cancel_timers(request.group_id, replaced.member_id)
        # A group that was a classic one is assigned anew in any case: its members may not have seen how topics have grown.
        bump = change.names or change.regex is RegexUpdate.RESOLVED or is_converted
        epoch = self.write_epoch(group, before, after, written, bump=bump)
        after = self.advance(group, epoch, before, after, written, now_ms, changed=change.is_any, owned=request.owned)
        response = self._alive(request.group_id, after)
        if joins or request.is_full or has_other_partitions(before, after):
            response.assignment = _answer(after)
        # What is shown may have been decided for an earlier request and not be committed yet: then the answer waits for it.
        shows = response.assignment is not None or after.member_epoch != request.member_epoch
        # A large target assignment may need several batches: its epoch comes last, so half of it means nothing. Only a group
        # that changes its type must do so at once.
        return Result(response, written, atomic=is_converted, barrier=shows)

    def quiet_heartbeat(self, request: Heartbeat, now_ms: int) -> ConsumerGroupHeartbeatResponse | None:
        """Answer a heartbeat without news in a group where nothing happens: nearly all are so. None: it is another one."""
        group = self.parts.groups.get(request.group_id)
        if not isinstance(group, ConsumerGroup) or not request.has_no_news:
            return None
        member = group.members.get(request.member_id)
        epochs = group.epochs
        if (
            member is None
            or member.member_epoch != request.member_epoch
            or member.state is not MemberState.STABLE
            or request.member_epoch != epochs.assignment_epoch
            or epochs.assignment_epoch != epochs.group_epoch
            or group.needs_refresh
            or member.client_id != request.client_id
            or member.client_host != request.client_host
            or member.classic is not None
            or member.instance_id != request.instance_id
            or self.regexes.is_due(group, now_ms)
        ):
            return None
        return self._alive(request.group_id, member)

    def _alive(self, group_id: str, member: ConsumerMember) -> ConsumerGroupHeartbeatResponse:
        """Note that the member is there; return the least that it is answered."""
        overrides = self.overrides(group_id)
        self.schedule_session(group_id, member.member_id, self._config.consumer_session_timeout_ms.of(overrides))
        return ConsumerGroupHeartbeatResponse(
            member_id=member.member_id,
            member_epoch=member.member_epoch,
            heartbeat_interval_ms=self._config.consumer_heartbeat_interval_ms.of(overrides),
        )

    # ----------------------------------------------------------------- groups

    def group_or_raise(self, group_id: str) -> ConsumerGroup:
        """Return the group.

        Raises:
            GroupIdNotFoundError: there is none, or it is of another type.
        """
        group = self.parts.groups.get(group_id)
        if group is None:
            raise GroupIdNotFoundError(f"Consumer group {group_id} not found.")
        if not isinstance(group, ConsumerGroup):
            raise GroupIdNotFoundError(f"Group {group_id} is not a consumer group.")
        return group

    def _group_to_join(self, group_id: str, written: list[CoordinatorRecord], now_ms: int) -> ConsumerGroup:
        """Return the group, or one that will be: records make it. A classic group is converted, if that is allowed."""
        group = self.parts.groups.get(group_id)
        if group is None:
            return ConsumerGroup(group_id, Timeline(tracks=False))
        if isinstance(group, ConsumerGroup):
            return group
        if group.group_type is GroupType.CLASSIC:
            return self.conversion.to_consumer(group, written, now_ms)
        raise GroupIdNotFoundError(f"Group {group_id} is not a consumer group.")

    def check_size(self, group: ConsumerGroup, member_id: str) -> None:
        """Check that a new member still has room.

        Raises:
            GroupMaxSizeReachedError: it has not.
        """
        limit = self._config.consumer_size_max
        if len(group.members) >= limit and (not member_id or member_id not in group.members):
            raise GroupMaxSizeReachedError(f"The consumer group has reached its maximum capacity of {limit} members.")

    # ---------------------------------------------------------------- members

    def static_member(
        self,
        group: ConsumerGroup,
        member_id: str,
        instance_id: str,
        written: list[CoordinatorRecord],
        *,
        joins: bool,
        classic: bool,
        check: Callable[[ConsumerMember], None] | None = None,
    ) -> ConsumerMember:
        """Return the static member as it was before this request; one that comes back takes the place of its instance.

        The timers of the member in whose place it comes are the caller's, once the request cannot be refused any more.

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, UNRELEASED_INSTANCE_ID, or what `check` says.
        """
        existing = group.static_member(instance_id)
        if not joins:
            existing = known_static_member(group, member_id, instance_id)
            if check is not None:
                check(existing)
            return existing
        if existing is None:
            return group.members.get(member_id) or ConsumerMember(member_id)
        if not classic and not existing.uses_classic_protocol and existing.member_epoch != LEAVE_STATIC_EPOCH:
            raise UnreleasedInstanceIdError(
                f"Static member {member_id} with instance id {instance_id} cannot join the group because the instance id is "
                f"owned by {existing.member_id} member."
            )
        replacing = existing._replace(member_id=member_id, member_epoch=0, previous_member_epoch=0)
        group_id = group.group_id
        written += records.removed_members(group_id, [existing.member_id])
        written.append(records.member(group_id, replacing))
        written.append(records.target(group_id, member_id, group.target_of(existing.member_id, None)))
        written.append(records.current(group_id, replacing))
        return replacing

    def write_subscription(
        self,
        group: ConsumerGroup,
        before: ConsumerMember,
        after: ConsumerMember,
        written: list[CoordinatorRecord],
        now_ms: int,
    ) -> SubscriptionChange:
        """Write what the member subscribes to, if it has changed. Returns what has changed."""
        names = False
        if before.subscription() != after.subscription():
            written.append(records.member(group.group_id, after))
            names = before.topic_names != after.topic_names
        return SubscriptionChange(names, self.regexes.update(group, before, after, written, now_ms))

    def write_epoch(
        self,
        group: ConsumerGroup,
        before: ConsumerMember,
        after: ConsumerMember,
        written: list[CoordinatorRecord],
        *,
        bump: bool,
    ) -> int:
        """Begin the next group epoch, if `bump` or if the topics are not those that the group knows. Returns what holds."""
        if not bump and not group.needs_refresh:
            return group.group_epoch
        gone = []
        old_regex = before.topic_regex
        if old_regex and old_regex != after.topic_regex and group.regex_member_count(old_regex) == 1:
            gone.append(old_regex)
        names = group.subscribed_topics([before], after, gone)
        hashed = metadata_hash(names, self.image())
        epoch = group.group_epoch
        if bump or hashed != group.epochs.metadata_hash:
            epoch += 1
            written.append(self.new_epoch(group.group_id, epoch, hashed))
        group.needs_refresh = False
        if group.epochs.has_partition_metadata:
            written.append(records.partition_metadata_tombstone(group.group_id))
        return epoch

    def new_epoch(self, group_id: str, epoch: int, hashed: int) -> CoordinatorRecord:
        """Return the record that begins a group epoch."""
        self.rebalances += 1
        logger.info("group %s: group epoch %d", group_id, epoch)
        return records.group_epoch(group_id, epoch, hashed)

    # ------------------------------------------------------------- assignment

    def advance(
        self,
        group: ConsumerGroup,
        epoch: int,
        before: ConsumerMember,
        after: ConsumerMember,
        written: list[CoordinatorRecord],
        now_ms: int,
        *,
        changed: bool,
        owned: Owned,
    ) -> ConsumerMember:
        """Bring the target assignment up to date and the member one step nearer to it. Returns the member after that."""
        target_epoch, target = self._update_target(group, epoch, before, after, written, now_ms)
        return self.reconcile(group, after, target_epoch, target, written, changed=changed, owned=owned)

    def _update_target(
        self,
        group: ConsumerGroup,
        epoch: int,
        before: ConsumerMember,
        after: ConsumerMember,
        written: list[CoordinatorRecord],
        now_ms: int,
    ) -> tuple[int, Assignment]:
        """Compute the target assignment of this epoch, if it is time. Returns epoch and target that hold for the member."""
        epochs = group.epochs
        interval_ms = self._assignment_interval_ms(group.group_id)
        is_early = bool(epochs.assignment_timestamp_ms) and now_ms < epochs.assignment_timestamp_ms + interval_ms
        if epochs.assignment_epoch >= epoch or is_early:
            return epochs.assignment_epoch, group.target_of(after.member_id, after.instance_id)
        name = group.preferred_assignor(before, after) or self._config.consumer_assignors[0]
        spec = self._spec(group, after)
        targets = ASSIGNORS[name].assign(spec)
        for member_id, target in changed_targets(spec, targets).items():
            written.append(records.target(group.group_id, member_id, target))
        if after.member_id not in group.targets and not targets.get(after.member_id):
            written.append(records.target(group.group_id, after.member_id, {}))
        written.append(records.target_epoch(group.group_id, epoch, now_ms))
        self.assignments += 1
        logger.info("group %s: %s assignment for epoch %d", group.group_id, name, epoch)
        return epoch, targets.get(after.member_id, {})

    def _spec(self, group: ConsumerGroup, changed: ConsumerMember) -> GroupSpec:
        image = self.image()
        ids_of: dict[tuple[frozenset[str], str], frozenset[bytes]] = {}
        replaced = None if changed.instance_id is None else group.static_members.get(changed.instance_id)
        members = {
            member.member_id: member
            for member in group.members.values()
            if member.member_id not in (changed.member_id, replaced)
        }
        members[changed.member_id] = changed
        specs = {}
        partition_counts: dict[bytes, int] = {}
        for member_id, member in members.items():
            key = (member.topic_names, member.topic_regex)
            ids = ids_of.get(key)
            if ids is None:
                ids = ids_of[key] = topic_ids(group.topic_names_of(member), image)
                for topic_id in ids:
                    topic = image.topic_by_id(topic_id)
                    assert topic is not None
                    partition_counts[topic_id] = len(topic.partitions)
            specs[member_id] = MemberSpec(
                topic_ids=ids,
                target=group.target_of(member_id, member.instance_id if member is changed else None),
                instance_id=member.instance_id,
                rack_id=member.rack_id,
            )
        return GroupSpec(members=specs, partition_counts=partition_counts)

    def reconcile(
        self,
        group: ConsumerGroup,
        member: ConsumerMember,
        target_epoch: int,
        target: Assignment,
        written: list[CoordinatorRecord],
        *,
        changed: bool,
        owned: Owned,
    ) -> ConsumerMember:
        """Bring the member one step nearer to its target; write what it has then."""
        if not changed and member.is_reconciled_to(target_epoch):
            return member
        after = reconcile(
            member,
            target_epoch=target_epoch,
            target=target,
            subscribed=topic_ids(group.topic_names_of(member), self.image()),
            subscription_changed=changed,
            is_held=group.is_held,
            owned=owned,
        )
        if after == member:
            return member
        written.append(records.current(group.group_id, after))
        if not after.uses_classic_protocol:
            if after.state is MemberState.UNREVOKED_PARTITIONS:
                self._schedule_rebalance(group.group_id, after)
            else:
                self._timers.cancel(("consumer-rebalance", group.group_id, after.member_id))
        return after

    # ---------------------------------------------------------------- leaving

    def _leave(self, request: Heartbeat, now_ms: int) -> Result[ConsumerGroupHeartbeatResponse]:
        found = self.parts.groups.get(request.group_id)
        if found is None:
            raise GroupIdNotFoundError(f"Group {request.group_id} not found.")
        group = self.group_or_raise(request.group_id)
        response = ConsumerGroupHeartbeatResponse(member_id=request.member_id, member_epoch=request.member_epoch)
        if request.instance_id is None:
            return self.fence([group.member(request.member_id)], group, response, now_ms)
        member = known_static_member(group, request.member_id, request.instance_id)
        if request.member_epoch != LEAVE_STATIC_EPOCH:
            return self.fence([member], group, response, now_ms)
        logger.info("group %s: static member %s leaves and may come back", group.group_id, member.member_id)
        away = member._replace(
            member_epoch=LEAVE_STATIC_EPOCH,
            revoking=NOTHING,
            assigned={topic_id: dict.fromkeys(epochs, 0) for topic_id, epochs in member.assigned.items()},
        )
        return Result(
            ConsumerGroupHeartbeatResponse(member_id=member.member_id, member_epoch=LEAVE_STATIC_EPOCH),
            [records.current(group.group_id, away)],
        )

    def fence(self, leaving: Sequence[ConsumerMember], group: ConsumerGroup, response: Any, now_ms: int) -> Result[Any]:
        """Take members out. The group becomes a classic one if only members of the classic protocol are left."""
        if not leaving:
            return Result(response)
        if self.conversion.should_downgrade_without(group, leaving):
            return self.conversion.to_classic_without(group, leaving, response, now_ms)
        member_ids = [member.member_id for member in leaving]
        written: list[CoordinatorRecord] = []
        for member_id in member_ids:
            written += records.removed_members(group.group_id, [member_id])
        counts: dict[str, int] = {}
        for member in leaving:
            if member.topic_regex:
                counts[member.topic_regex] = counts.get(member.topic_regex, 0) + 1
        gone = [pattern for pattern, count in counts.items() if group.regex_member_count(pattern) == count]
        written += [records.regex_tombstone(group.group_id, pattern) for pattern in gone]
        hashed = metadata_hash(group.subscribed_topics(leaving, None, gone), self.image())
        written.append(records.group_epoch(group.group_id, group.group_epoch + 1, hashed))
        if len(member_ids) == len(group.members):
            # An empty group has its assignment, an empty one (KAFKA-20442).
            written.append(records.target_epoch(group.group_id, group.group_epoch + 1, 0))
        self.rebalances += 1
        for member_id in member_ids:
            logger.info("group %s: member %s is out", group.group_id, member_id)
            self.cancel_timers(group.group_id, member_id)
        return Result(response, written)

    # ----------------------------------------------------------------- timers

    def schedule_session(self, group_id: str, member_id: str, timeout_ms: int | None = None) -> None:
        """A member gave a sign of life: its session starts anew."""
        if timeout_ms is None:
            timeout_ms = self._config.consumer_session_timeout_ms.of(self.overrides(group_id))
        key = ("consumer-session", group_id, member_id)
        if not self._timers.postpone(key, timeout_ms):
            self._timers.schedule(key, timeout_ms, self.fencing(group_id, member_id))

    def fencing(self, group_id: str, member_id: str) -> Callable[[int], Result[None]]:
        """Return what a timer does that finds the member still there."""

        def run(now_ms: int) -> Result[None]:
            group = self.parts.groups.get(group_id)
            member = group.members.get(member_id) if isinstance(group, ConsumerGroup) else None
            if not isinstance(group, ConsumerGroup) or member is None:
                return Result(None)
            logger.info("group %s: member %s has failed", group_id, member_id)
            self.fenced += 1
            return self.fence([member], group, None, now_ms)

        return run

    def _schedule_rebalance(self, group_id: str, member: ConsumerMember) -> None:
        member_id, epoch = member.member_id, member.member_epoch

        def run(now_ms: int) -> Result[None]:
            group = self.parts.groups.get(group_id)
            current = group.members.get(member_id) if isinstance(group, ConsumerGroup) else None
            if current is None or current.member_epoch != epoch:
                return Result(None)
            if current.state is not MemberState.UNREVOKED_PARTITIONS:
                return Result(None)  # the answer that asked it to give something up was undone by a failed append
            logger.info("group %s: member %s did not leave epoch %d in time", group_id, member_id, epoch)
            return self.fencing(group_id, member_id)(now_ms)

        self._timers.schedule(("consumer-rebalance", group_id, member_id), max(member.rebalance_timeout_ms, 0), run)

    def cancel_timers(self, group_id: str, member_id: str) -> None:
        """Forget all timers of a member."""
        for purpose in ("session", "rebalance", "join", "sync"):
            self._timers.cancel((f"consumer-{purpose}", group_id, member_id))

    def _assignment_interval_ms(self, group_id: str) -> int:
        """The broker's own value can be changed for all brokers while they run."""
        image, setting = self.parts.image(), self._config.consumer_assignment_interval_ms
        configured = image.config(BROKERS, DEFAULT_ENTITY).get(f"group.{setting.group_key}")
        if configured is not None:
            setting = setting._replace(value=int(configured))
        return setting.of(image.config(GROUPS, group_id))

    # ---------------------------------------------------------- family's part

    def replays(self) -> Mapping[type[Message], Replay]:
        """Return how the records of consumer groups are applied."""
        return ConsumerReplay(self.parts).handlers()

    def on_loaded(self, now_ms: int) -> None:
        """Give every loaded member a fresh session; look at the topics with the first heartbeat."""
        for group in self._consumer_groups():
            group.needs_refresh = True
            group.needs_regex_refresh = True
            self._watch(group)

    def _watch(self, group: ConsumerGroup) -> None:
        timeout_ms = self._config.consumer_session_timeout_ms.of(self.overrides(group.group_id))
        for member in group.members.values():
            self._timers.schedule_if_absent(
                ("consumer-session", group.group_id, member.member_id),
                timeout_ms,
                self.fencing(group.group_id, member.member_id),
            )
            if member.state is MemberState.UNREVOKED_PARTITIONS and not member.uses_classic_protocol:
                self._schedule_rebalance(group.group_id, member)

    def on_unloaded(self, now_ms: int) -> None:
        """Nothing: no request is parked here."""

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Sequence[CoordinatorRecord]:
        """Groups that subscribe to what has changed look at their topics with the next heartbeat."""
        names = {*delta.created, *delta.changed, *(topic.name for topic in delta.deleted)}
        if not names and not delta.brokers_changed:
            return ()
        for group in self._consumer_groups():
            if delta.brokers_changed or any(group.is_subscribed_to(name) for name in names):
                group.needs_refresh = True
            if delta.created:
                group.needs_regex_refresh = True
        return ()

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """Members whose leaving was undone are watched again, and what was found out about topics is found out again."""
        for group in self._consumer_groups():
            group.needs_refresh = True
            self._watch(group)

    def on_deleted(self, group: Group) -> None:
        """Forget the timers of a group that goes."""
        if isinstance(group, ConsumerGroup):
            for member_id in group.members:
                self.cancel_timers(group.group_id, member_id)

    def _consumer_groups(self) -> list[ConsumerGroup]:
        return [group for group in self.parts.groups.values() if isinstance(group, ConsumerGroup)]


def known_static_member(group: ConsumerGroup, member_id: str, instance_id: str) -> ConsumerMember:
    """Return the member of an instance, if it is the one that asks.

    Raises:
        UnknownMemberIdError: no such instance.
        FencedInstanceIdError: the instance has another member id.
    """
    member = group.static_member(instance_id)
    if member is None:
        raise UnknownMemberIdError(f"Instance id {instance_id} is unknown.")
    if member.member_id != member_id:
        raise FencedInstanceIdError(
            f"Static member {member_id} with instance id {instance_id} was fenced by member {member.member_id}."
        )
    return member


def _check_epoch(member: ConsumerMember, epoch: int, owned: Owned) -> None:
    """Check the epoch of a heartbeat. The one before is fine if the answer with the new one can have been lost.

    Raises:
        FencedMemberEpochError: the member has to give up everything and join anew.
    """
    if epoch == 0:
        return  # It joins anew, as who was fenced must (KAFKA-19233).
    if epoch > member.member_epoch:
        raise FencedMemberEpochError(
            f"The consumer group member has a greater member epoch ({epoch}) than the one known by the group coordinator "
            f"({member.member_epoch}). The member must abandon all its partitions and rejoin."
        )
    if epoch < member.member_epoch and (epoch != member.previous_member_epoch or not _is_subset(owned, member)):
        raise FencedMemberEpochError(
            f"The consumer group member has a smaller member epoch ({epoch}) than the one known by the group coordinator "
            f"({member.member_epoch}). The member must abandon all its partitions and rejoin."
        )


def _is_subset(owned: Owned, member: ConsumerMember) -> bool:
    if owned is None:
        return False
    return all(
        topic_id in member.assigned and partitions <= member.assigned[topic_id].keys()
        for topic_id, partitions in owned.items()
    )


def _changed(before: ConsumerMember, request: Heartbeat) -> ConsumerMember:
    """Return the member with what the request says."""
    return before._replace(
        instance_id=before.instance_id if request.instance_id is None else request.instance_id,
        rack_id=before.rack_id if request.rack_id is None else request.rack_id,
        rebalance_timeout_ms=before.rebalance_timeout_ms
        if request.rebalance_timeout_ms == NOT_GIVEN
        else request.rebalance_timeout_ms,
        server_assignor=before.server_assignor if request.server_assignor is None else request.server_assignor,
        topic_names=before.topic_names if request.topic_names is None else frozenset(request.topic_names),
        topic_regex=before.topic_regex if request.topic_regex is None else request.topic_regex,
        client_id=request.client_id,
        client_host=request.client_host,
        classic=None,
    )


def _answer(member: ConsumerMember) -> AssignmentAnswer:
    return AssignmentAnswer(
        topic_partitions=[
            TopicPartitions(topic_id=topic_id, partitions=sorted(epochs))
            for topic_id, epochs in member.assigned.items()
        ]
    )
