"""GroupCoordinator: the state machine of one partition of `__consumer_offsets`.

Puts groups of all types and offsets together: requests in, records and responses out, `replay` back. What is special about
one type of groups is in its family (`group.GroupFamily`): `classic`, `consumer` and so on; here is what concerns groups of
every type. Knows no log, no loop, no socket; one instance exists per partition that this broker leads, driven by
`coordinators.runtime`.

Invariants: an offset is committed only for a group that exists (a simple group is made if need be); a group is deleted only
together with its offsets, in one append; a group id names one group, whatever its type.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.background import Background
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.member import RespondJoin, RespondSync
from ottla.broker.coordinators.groups.classic.membership import Membership
from ottla.broker.coordinators.groups.classic.requests import Join, Sync
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.broker.coordinators.groups.consumer.classic_members import ClassicMembers
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.heartbeat import ConsumerGroups
from ottla.broker.coordinators.groups.group import Group, GroupFamily, GroupType, Replay, RunBackground, ShardParts
from ottla.broker.coordinators.groups.offsets import FetchedOffset, Offsets, PartitionCommit, PartitionKey
from ottla.broker.coordinators.groups.share.family import ShareGroups
from ottla.broker.coordinators.groups.streams.family import StreamsGroups
from ottla.broker.coordinators.shard import CoordinatorRecord, DeletedTopic, Result
from ottla.broker.coordinators.timeline import TimelineDict
from ottla.cluster.image import ClusterImage
from ottla.errors import (
    ErrorCode,
    GroupIdNotFoundError,
    IllegalGenerationError,
    KafkaError,
    StaleMemberEpochError,
)
from ottla.protocol.messages.describe_groups import DescribedGroup, DescribedGroupMember
from ottla.protocol.messages.group_records import (
    LegacyOffsetCommitKey,
    LegacyOffsetCommitValue,
    OffsetCommitKey,
    OffsetCommitValue,
)
from ottla.protocol.messages.join_group import JoinGroupResponse
from ottla.protocol.messages.list_groups import ListedGroup

if TYPE_CHECKING:
    import random

    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.cluster.image import ImageDelta
    from ottla.protocol.messages.leave_group import MemberIdentity, MemberResponse
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)

_EXPIRATION_TIMER = ("expire-group-metadata",)
_NO_IMAGE = ClusterImage()


class Commit(NamedTuple):
    """An OffsetCommit request, for partitions that exist. `generation_id` is the member epoch in groups that have those."""

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None
    retention_ms: int
    partitions: Sequence[PartitionCommit]
    version: int = 10

    @property
    def knows_unknown_group(self) -> bool:
        """v9+: a group that does not exist is GROUP_ID_NOT_FOUND, not ILLEGAL_GENERATION."""
        return self.version >= 9


class GroupSummary(NamedTuple):
    """What a group of any type is: its type, Kafka's word for its state, how many members it has."""

    group_type: GroupType
    state: str
    member_count: int


def run_inline(task: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
    """Run the task at once: for coordinators without threads."""
    try:
        outcome = task()
    except Exception as error:
        done(None, error)
    else:
        done(outcome, None)


class GroupCoordinator:
    """Groups and offsets of one partition."""

    def __init__(
        self,
        partition: int,
        timeline: Timeline,
        timers: Timers,
        *,
        config: GroupConfig,
        random: random.Random,
        image: Callable[[], ClusterImage] = lambda: _NO_IMAGE,
        run_background: RunBackground = run_inline,
        may_expire: Callable[[], bool] = lambda: True,
    ) -> None:
        self.partition = partition
        self._may_expire = may_expire
        self._timers = timers
        self._config = config
        self.groups: TimelineDict[str, Group] = TimelineDict(timeline)
        self.offsets = Offsets(timeline, config)
        self.parts = ShardParts(
            partition=partition,
            groups=self.groups,
            offsets=self.offsets,
            timeline=timeline,
            timers=timers,
            config=config,
            random=random,
            image=image,
            background=Background(timers, run_background),
        )
        self.membership = Membership(self.groups, timers=timers, config=config, random=random)
        self.consumers = ConsumerGroups(self.parts, self.membership)
        self._classic_members = ClassicMembers(self.consumers)
        self.shares = ShareGroups(self.parts)
        self.streams = StreamsGroups(self.parts)
        self._families: dict[GroupType, GroupFamily] = {
            GroupType.CLASSIC: self.membership,
            GroupType.CONSUMER: self.consumers,
            GroupType.SHARE: self.shares,
            GroupType.STREAMS: self.streams,
        }
        self._replays: dict[type[Message], Replay] = {}
        for family in self._families.values():
            self._replays.update(family.replays())

    # ----------------------------------------------------- the classic protocol

    def join(self, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        """Handle a JoinGroup; see `Membership.join` and `ClassicMembers.join`.

        Raises:
            KafkaError: refused by a consumer group.
        """
        group = self.groups.get(request.group_id)
        if isinstance(group, ConsumerGroup) and not group.is_empty:
            return self._classic_members.join(group, request, respond, now_ms)
        if group is not None and group.group_type is not GroupType.CLASSIC:
            if not group.is_empty or group.group_type not in (GroupType.CONSUMER, GroupType.STREAMS):
                respond(JoinGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
                return Result(None)
            self._families[group.group_type].on_deleted(group)
        return self.membership.join(request, respond, now_ms)

    def sync(self, request: Sync, respond: RespondSync, now_ms: int) -> Result[None]:
        """Handle a SyncGroup; see `Membership.sync` and `ClassicMembers.sync`.

        Raises:
            KafkaError: refused by a consumer group.
        """
        group = self.groups.get(request.group_id)
        if isinstance(group, ConsumerGroup) and not group.is_empty:
            return self._classic_members.sync(group, request, respond)
        return self.membership.sync(request, respond, now_ms)

    def heartbeat(
        self, group_id: str, member_id: str, group_instance_id: str | None, generation_id: int
    ) -> Result[ErrorCode]:
        """Handle a Heartbeat; see `Membership.heartbeat` and `ClassicMembers.heartbeat`."""
        group = self.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return Result(self._classic_members.heartbeat(group, member_id, group_instance_id, generation_id))
        return Result(self.membership.heartbeat(group_id, member_id, group_instance_id, generation_id))

    def leave(self, group_id: str, leaving: Sequence[MemberIdentity], now_ms: int) -> Result[list[MemberResponse]]:
        """Handle a LeaveGroup; see `Membership.leave` and `ClassicMembers.leave`."""
        group = self.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return self._classic_members.leave(group, leaving, now_ms)
        return self.membership.leave(group_id, leaving, now_ms)

    # ---------------------------------------------------------------- offsets

    def commit_offsets(self, request: Commit, now_ms: int) -> Result[list[ErrorCode]]:
        """Handle an OffsetCommit; answers an error code per partition.

        A commit without generation and member, to a group without members, comes from an admin client or from a consumer
        that assigns partitions itself; it makes the group if need be. A commit of a member counts as a sign of life.

        Raises:
            KafkaError: the membership is not valid (see `Group.validate_offset_commit`); for a group that does
                not exist GROUP_ID_NOT_FOUND or, before v9, ILLEGAL_GENERATION.
        """
        group = self.groups.get(request.group_id)
        if group is None:
            if request.generation_id >= 0:
                if request.knows_unknown_group:
                    raise GroupIdNotFoundError(f"Group {request.group_id} not found.")
                raise IllegalGenerationError()
        else:
            self._validate_commit(group, request, transactional=False)
            if isinstance(group, ClassicGroup) and group.state in (GroupState.STABLE, GroupState.PREPARING_REBALANCE):
                self.membership.keep_alive(group, request.member_id)
        written, codes = self.offsets.commit(request.group_id, request.partitions, request.retention_ms, now_ms)
        return Result(codes, written)

    def commit_offsets_in_transaction(self, request: Commit, now_ms: int) -> Result[list[ErrorCode]]:
        """Handle a TxnOffsetCommit; answers an error code per partition. The offsets wait for the transaction's marker.

        A producer that does not say on whose behalf it commits (before KIP-447) is not checked.

        Raises:
            KafkaError: the membership is not valid; for a group that does not exist ILLEGAL_GENERATION.
        """
        group = self.groups.get(request.group_id)
        if group is not None:
            try:
                self._validate_commit(group, request, transactional=True)
            except StaleMemberEpochError:
                # What producers know.
                raise IllegalGenerationError() from None
        elif request.generation_id >= 0:
            raise IllegalGenerationError()
        written, codes = self.offsets.commit(request.group_id, request.partitions, request.retention_ms, now_ms)
        return Result(codes, written)

    def _validate_commit(self, group: Group, request: Commit, *, transactional: bool) -> None:
        check = group.validate_offset_commit(
            request.member_id,
            request.group_instance_id,
            request.generation_id,
            transactional=transactional,
            version=request.version,
        )
        if check is not None:
            for commit in request.partitions:
                check(commit.topic_id, commit.partition)

    def fetch_offsets(
        self, group_id: str, topics: Sequence[tuple[str, bytes, Sequence[int]]], *, stable: bool
    ) -> list[list[FetchedOffset]]:
        """Handle an OffsetFetch of some partitions."""
        return self.offsets.fetch(group_id, topics, stable=stable)

    def fetch_all_offsets(self, group_id: str, *, stable: bool) -> dict[str, dict[int, FetchedOffset]]:
        """Handle an OffsetFetch of all partitions."""
        return self.offsets.fetch_all(group_id, stable=stable)

    def validate_offset_fetch(self, group_id: str, member_id: str | None, member_epoch: int, *, stable: bool) -> None:
        """Check who fetches offsets: asked for v9+, where the request says so. A group that is unknown has none.

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, ILLEGAL_GENERATION or GROUP_ID_NOT_FOUND.
        """
        group = self.groups.get(group_id) if stable else self.groups.get_committed(group_id)
        if group is not None:
            group.validate_offset_fetch(member_id, member_epoch, committed=not stable)

    def delete_offsets(self, group_id: str, topics: Sequence[tuple[str, Sequence[int]]]) -> Result[list[ErrorCode]]:
        """Handle an OffsetDelete; answers an error code per topic: topics with subscribers are refused (KIP-496).

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND, or NON_EMPTY_GROUP if the members are no consumers.
        """
        group = self._group(group_id)
        group.validate_offset_delete()
        codes = []
        keys: list[PartitionKey] = []
        for topic, partitions in topics:
            if group.is_subscribed_to(topic):
                codes.append(ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC)
            else:
                codes.append(ErrorCode.NONE)
                keys += ((topic, partition) for partition in partitions)
        return Result(codes, self.offsets.delete(group_id, keys))

    # ------------------------------------------------------ the cluster changes

    def on_topics_deleted(self, topics: Sequence[DeletedTopic], now_ms: int) -> Result[None]:
        """Forget the offsets of topics that are gone, and which share partitions they had."""
        written = self.offsets.on_topics_deleted(topics) + self.shares.states.on_topics_deleted(topics)
        return Result(None, written, atomic=False)

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Result[None]:
        """Let every type of groups follow what has changed."""
        written: list[CoordinatorRecord] = []
        for family in self._families.values():
            written += family.on_image(image, delta, now_ms)
        return Result(None, written, atomic=False)

    # ----------------------------------------------------------------- groups

    def delete_groups(self, group_ids: Sequence[str]) -> Result[list[ErrorCode]]:
        """Handle a DeleteGroups: empty groups go, with their offsets."""
        codes = []
        written: list[CoordinatorRecord] = []
        for group_id in group_ids:
            try:
                group = self._group(group_id)
                group.validate_delete()
            except KafkaError as error:
                codes.append(error.code)
                continue
            written += self.offsets.delete_all(group_id)
            written += self._tombstones(group)
            codes.append(ErrorCode.NONE)
        return Result(codes, written)

    def describe_group(self, group_id: str) -> DescribedGroup:
        """Return what DescribeGroups says of a committed group.

        Protocol and members' metadata are given only for a Stable group.

        Raises:
            GroupIdNotFoundError: there is no such group, or it is no classic one.
        """
        group = self.groups.get_committed(group_id)
        if group is None:
            raise GroupIdNotFoundError(f"Group {group_id} not found.")
        if not isinstance(group, ClassicGroup):
            raise GroupIdNotFoundError(f"Group {group_id} is not a classic group.")
        protocol_name = group.protocol_name if group.state is GroupState.STABLE else None
        return DescribedGroup(
            group_id=group_id,
            group_state=group.state.value,
            protocol_type=group.protocol_type or "",
            protocol_data=protocol_name or "",
            members=[
                DescribedGroupMember(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    member_metadata=b"" if protocol_name is None else member.metadata(protocol_name),
                    member_assignment=member.assignment,
                )
                for member in group.members.values()
            ],
        )

    def list_groups(self, states: Sequence[str], types: Sequence[str]) -> list[ListedGroup]:
        """Return the committed groups in these states and of these types; no filter lets everything pass."""
        wanted = {state.strip().lower() for state in states}
        wanted_types = {name.strip().lower() for name in types}
        return [
            ListedGroup(
                group_id=group_id,
                protocol_type=group.protocol_type or "",
                group_state=state,
                group_type=group.group_type.value,
            )
            for group_id, group in self.groups.items_committed()
            if not wanted_types or group.group_type.value in wanted_types
            if (state := group.state_name()).lower() in wanted or not wanted
        ]

    def summarize_group(self, group_id: str) -> GroupSummary | None:
        """Return what a committed group is, whatever its type; None if there is none."""
        group = self.groups.get_committed(group_id)
        return None if group is None else GroupSummary(group.group_type, group.state_name(), group.member_count())

    def _group(self, group_id: str) -> Group:
        group = self.groups.get(group_id)
        if group is None:
            raise GroupIdNotFoundError(f"Group {group_id} not found.")
        return group

    def _tombstones(self, group: Group) -> list[CoordinatorRecord]:
        self._families[group.group_type].on_deleted(group)
        return group.tombstones()

    # ----------------------------------------------------------------- expiry

    def expire(self, now_ms: int) -> Result[None]:
        """Let expired offsets go, and groups that have neither members nor offsets."""
        written: list[CoordinatorRecord] = []
        # What Apache Kafka wrote is kept until the operator confirms that our settings are meant for it, too.
        for group in self.groups.values() if self._may_expire() else ():
            expired, nothing_left = self.offsets.expire(group, now_ms)
            written += expired
            if nothing_left and group.may_expire:
                written += self._tombstones(group)
        self.offsets.forget_all_unused()
        if written:
            logger.info("partition %d: %d tombstones for expired offsets and groups", self.partition, len(written))
        self._schedule_expiration()
        return Result(None, written, atomic=False)

    def _schedule_expiration(self) -> None:
        self._timers.schedule(_EXPIRATION_TIMER, self._config.offsets_retention_check_interval_ms, self.expire)

    # ----------------------------------------------------------- shard's part

    encode = staticmethod(records.encode)
    decode = staticmethod(records.decode)

    def replay(self, offset: int, producer_id: int, record: CoordinatorRecord) -> None:
        """Apply a record to the durable state. Types that no family knows yet are left alone."""
        key, value, _ = record
        if isinstance(key, OffsetCommitKey):
            assert value is None or isinstance(value, OffsetCommitValue)
            self._replay_offset(offset, producer_id, key, value)
        elif isinstance(key, LegacyOffsetCommitKey):
            assert value is None or isinstance(value, LegacyOffsetCommitValue)
            self._replay_offset(
                offset,
                producer_id,
                OffsetCommitKey(group=key.group, topic=key.topic, partition=key.partition),
                None
                if value is None
                else OffsetCommitValue(
                    offset=value.offset, metadata=value.metadata, commit_timestamp=value.commit_timestamp
                ),
            )
        else:
            replay = self._replays.get(type(key))
            if replay is not None:
                replay(key, value)

    def _replay_offset(
        self, offset: int, producer_id: int, key: OffsetCommitKey, value: OffsetCommitValue | None
    ) -> None:
        if value is not None and key.group not in self.groups:
            # Never joined by anybody: only its offsets say that it exists.
            self.groups[key.group] = ClassicGroup(key.group)
        self.offsets.replay(offset, producer_id, key, value)

    def replay_end_transaction(self, producer_id: int, committed: bool) -> None:
        """Apply a transaction marker."""
        self.offsets.replay_end_transaction(producer_id, committed)

    def on_loaded(self, now_ms: int) -> None:
        """Set the timers: sessions of loaded members, expiry."""
        for family in self._families.values():
            family.on_loaded(now_ms)
        self._schedule_expiration()

    def on_unloaded(self, now_ms: int) -> None:
        """Answer every parked request."""
        for family in self._families.values():
            family.on_unloaded(now_ms)

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """Records could not be written: every type of groups looks at what was undone."""
        for family in self._families.values():
            family.on_rolled_back(discarded, error)
