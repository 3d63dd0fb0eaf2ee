"""ClassicGroup: one group of the classic protocol, its members and its states.

Holds the state and the rules that need nothing but the state; what a request or a timer does to it is in `membership`.

    Empty ---join---> PreparingRebalance ---all joined, or time is up---> CompletingRebalance ---leader's sync---> Stable
      ^                 |        ^  ^                                           |                                    |
      +--no member left-+        |  +---member joins with new metadata, leaves, fails, does not sync---+             |
                                 +---member joins with new metadata, leaves, fails; leader joins again---------------+
    Dead: unloaded or deleted; final.

Invariants: `_awaiting_join` is the number of members with a parked JoinGroup; `_support[p]` is the number of members that
support protocol p; the leader, if there is one, is a member; a static instance id maps to exactly one member; a member id
is never both pending and a member. Source: Kafka's ClassicGroup; KIP-62, KIP-345 (static), KIP-394 (pending members).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.classic.member import Member, Protocols, RespondJoin, RespondSync
from ottla.broker.coordinators.groups.classic.states import TRANSITIONS, GroupEvent, GroupState
from ottla.broker.coordinators.groups.group import GroupType, OffsetExpiry
from ottla.errors import (
    CoordinatorNotAvailableError,
    ErrorCode,
    FencedInstanceIdError,
    GroupIdNotFoundError,
    IllegalGenerationError,
    NonEmptyGroupError,
    RebalanceInProgressError,
    RemoteProtocolError,
    UnknownMemberIdError,
)
from ottla.protocol.codec import decode
from ottla.protocol.messages.consumer_protocol import ConsumerProtocolSubscription
from ottla.protocol.messages.group_records import GroupMetadataValue, MemberMetadata
from ottla.protocol.messages.join_group import JoinGroupResponse, JoinGroupResponseMember
from ottla.protocol.messages.sync_group import SyncGroupResponse

if TYPE_CHECKING:
    from ottla.broker.coordinators.shard import CoordinatorRecord

#: The protocol type of consumers: the only one whose metadata the broker looks into.
CONSUMER_PROTOCOL_TYPE: Final = "consumer"
NO_TIMESTAMP: Final = -1


class ClassicGroup:
    """One classic group, or a simple one: without protocol type and members, only committed offsets."""

    def __init__(
        self,
        group_id: str,
        *,
        state: GroupState = GroupState.EMPTY,
        generation_id: int = 0,
        protocol_type: str | None = None,
        protocol_name: str | None = None,
        leader_id: str | None = None,
        state_timestamp_ms: int = NO_TIMESTAMP,
    ) -> None:
        self.group_id = group_id
        self.state = state
        self.previous_state = GroupState.DEAD
        self.generation_id = generation_id
        self.protocol_type = protocol_type
        self.protocol_name = protocol_name
        self.leader_id = leader_id
        #: Wall time of the last transition; NO_TIMESTAMP in records written before Kafka 2.1.
        self.state_timestamp_ms = state_timestamp_ms
        #: In the order of joining, which is the order in which leaders are chosen.
        self.members: dict[str, Member] = {}
        self.static_members: dict[str, str] = {}
        self.pending_joins: dict[str, None] = {}
        self.pending_syncs: dict[str, None] = {}
        #: A member joined since the initial rebalance was last put off.
        self.new_member_added = False
        #: None: not known (no consumer group, or metadata that cannot be read).
        self.subscribed_topics: frozenset[str] | None = None
        self._awaiting_join = 0
        self._support: dict[str, int] = {}

    # ------------------------------------------------------------------ facts

    @property
    def group_type(self) -> GroupType:
        return GroupType.CLASSIC

    @property
    def is_empty(self) -> bool:
        return self.state is GroupState.EMPTY

    @property
    def empty_since_ms(self) -> int:
        return self.state_timestamp_ms

    @property
    def offset_expiry(self) -> OffsetExpiry:
        """KIP-211: of a group with members only offsets of topics without subscribers may expire, if that can be known."""
        if self.protocol_type is None:
            return OffsetExpiry.SINCE_COMMIT
        if self.is_empty:
            return OffsetExpiry.SINCE_COMMIT if self.state_timestamp_ms == NO_TIMESTAMP else OffsetExpiry.SINCE_EMPTY
        if self.uses_consumer_protocol and self.subscribed_topics is not None and self.state is GroupState.STABLE:
            return OffsetExpiry.SINCE_COMMIT
        return OffsetExpiry.NEVER

    @property
    def may_expire(self) -> bool:
        return self.is_empty and not self.pending_joins

    def state_name(self) -> str:
        return self.state.value

    def member_count(self) -> int:
        return len(self.members)

    @property
    def is_simple(self) -> bool:
        """Only offsets, no membership protocol ever used."""
        return self.protocol_type is None and self.is_empty and not self.pending_joins

    @property
    def awaiting_join_count(self) -> int:
        return self._awaiting_join

    @property
    def has_all_members_joined(self) -> bool:
        return len(self.members) == self._awaiting_join and not self.pending_joins

    @property
    def can_rebalance(self) -> bool:
        return GroupEvent.REBALANCE in TRANSITIONS[self.state]

    @property
    def uses_consumer_protocol(self) -> bool:
        return self.protocol_type == CONSUMER_PROTOCOL_TYPE

    @property
    def rebalance_timeout_ms(self) -> int:
        """How long a rebalance waits: the longest that any member asked for."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    def is_leader(self, member_id: str) -> bool:
        return self.leader_id == member_id

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether a member consumes the topic; a consumer group whose subscriptions cannot be read might."""
        if self.subscribed_topics is None:
            return self.uses_consumer_protocol
        return topic in self.subscribed_topics

    def supports_protocols(self, protocol_type: str, protocols: Protocols) -> bool:
        """Whether a member with these protocols can join."""
        if self.is_empty:
            return bool(protocol_type) and bool(protocols)
        if self.protocol_type != protocol_type:
            return False
        count = len(self.members)
        return any(self._support.get(name, 0) == count for name, _ in protocols)

    def select_protocol(self) -> str:
        """Return the protocol with the most votes among those that all support; the first voted for wins a tie."""
        count = len(self.members)
        candidates = [name for name, supporters in self._support.items() if supporters == count]
        votes: dict[str, int] = {}
        for member in self.members.values():
            favourite = member.vote(candidates)
            votes[favourite] = votes.get(favourite, 0) + 1
        return max(votes, key=votes.__getitem__)

    def response_members(self) -> list[JoinGroupResponseMember]:
        """Return what the leader gets to know about the members."""
        assert self.protocol_name is not None
        return [
            JoinGroupResponseMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.metadata(self.protocol_name),
            )
            for member in self.members.values()
        ]

    # ----------------------------------------------------------------- checks

    def validate_member(self, member_id: str, group_instance_id: str | None) -> None:
        """Check that the request comes from a member.

        Raises:
            UnknownMemberIdError: no such member, or no such instance.
            FencedInstanceIdError: the instance has a newer member id.
        """
        if group_instance_id is not None:
            current = self.static_members.get(group_instance_id)
            if current is None:
                raise UnknownMemberIdError()
            if current != member_id:
                raise FencedInstanceIdError()
        if member_id not in self.members:
            raise UnknownMemberIdError()

    def validate_offset_commit(
        self,
        member_id: str,
        group_instance_id: str | None,
        member_epoch: int,
        *,
        transactional: bool = False,
        version: int = 0,
    ) -> None:
        """Check that offsets may be committed with this membership; `member_epoch` is the generation.

        Members of the generation before may still commit while the next one is being prepared.

        Raises:
            KafkaError: COORDINATOR_NOT_AVAILABLE, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION or
                REBALANCE_IN_PROGRESS.
        """
        if self.state is GroupState.DEAD:
            raise CoordinatorNotAvailableError()
        if member_epoch < 0 and self.is_empty:
            return  # an admin client, or a consumer that assigns partitions itself
        if member_epoch >= 0 or member_id or group_instance_id is not None:
            self.validate_member(member_id, group_instance_id)
            if member_epoch != self.generation_id:
                raise IllegalGenerationError()
        elif not transactional:
            raise UnknownMemberIdError()
        if not transactional and self.state is GroupState.COMPLETING_REBALANCE:
            raise RebalanceInProgressError()

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int, *, committed: bool) -> None:
        """Allow every fetch: member id and epoch mean nothing here."""

    def validate_offset_delete(self) -> None:
        """Check that offsets may be deleted: always while empty; with members, only if subscriptions are known to us.

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND or NON_EMPTY_GROUP.
        """
        if self.state is GroupState.DEAD:
            raise GroupIdNotFoundError(f"Group {self.group_id} is in dead state.")
        if not self.is_empty and not self.uses_consumer_protocol:
            raise NonEmptyGroupError()

    def validate_delete(self) -> None:
        """Check that the group may be deleted.

        Raises:
            KafkaError: GROUP_ID_NOT_FOUND or NON_EMPTY_GROUP.
        """
        if self.state is GroupState.DEAD:
            raise GroupIdNotFoundError(f"Group {self.group_id} is in dead state.")
        if not self.is_empty:
            raise NonEmptyGroupError()

    # ---------------------------------------------------------------- changes

    def on(self, event: GroupEvent, now_ms: int) -> None:
        """Enter the state to which the event leads."""
        state = TRANSITIONS[self.state].get(event)
        assert state is not None, f"{self.group_id}: {event.value} while {self.state.value}"
        self.previous_state = self.state
        self.state = state
        self.state_timestamp_ms = now_ms

    def add(self, member: Member, respond_join: RespondJoin | None = None) -> None:
        """Add a member; the first becomes the leader and sets the protocol type."""
        if member.group_instance_id is not None:
            assert member.group_instance_id not in self.static_members
            self.static_members[member.group_instance_id] = member.member_id
        if not self.members:
            self.protocol_type = member.protocol_type
        assert self.protocol_type == member.protocol_type
        if self.leader_id is None:
            self.leader_id = member.member_id
        self.members[member.member_id] = member
        self._count_protocols(member, 1)
        self.park_join(member, respond_join)
        self.pending_joins.pop(member.member_id, None)

    def remove(self, member_id: str) -> None:
        """Remove a member or a pending one. If it led, the longest-standing member leads.

        What it has parked is answered with UNKNOWN_MEMBER_ID: a client that is still there joins anew. (Apache Kafka
        leaves a parked SyncGroup of a removed member without an answer.)
        """
        member = self.members.get(member_id)
        if member is not None:
            self.respond_join(member, JoinGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))
            self.respond_sync(member, SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))
            del self.members[member_id]
            self._count_protocols(member, -1)
            if member.group_instance_id is not None:
                self.static_members.pop(member.group_instance_id, None)
        if self.is_leader(member_id):
            self.leader_id = next(iter(self.members), None)
        self.pending_joins.pop(member_id, None)
        self.pending_syncs.pop(member_id, None)

    def update(
        self,
        member: Member,
        *,
        protocols: Protocols,
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
        respond_join: RespondJoin | None,
    ) -> None:
        """Take over what a member says when it joins again."""
        self._count_protocols(member, -1)
        member.protocols = protocols
        self._count_protocols(member, 1)
        member.rebalance_timeout_ms = rebalance_timeout_ms
        member.session_timeout_ms = session_timeout_ms
        self.park_join(member, respond_join)

    def swap_static(self, member: Member, successor: Member) -> None:
        """Put `successor` into the place of a static member; the member's id is fenced, also where it waits for an answer.

        The successor takes the last place in the order of joining. Swapping back undoes it.
        """
        assert member.group_instance_id is not None
        assert member.group_instance_id == successor.group_instance_id
        self.respond_join(
            member,
            JoinGroupResponse(member_id=member.member_id, protocol_name=None, error_code=ErrorCode.FENCED_INSTANCE_ID),
        )
        self.respond_sync(member, SyncGroupResponse(error_code=ErrorCode.FENCED_INSTANCE_ID))
        del self.members[member.member_id]
        self._count_protocols(member, -1)
        self.members[successor.member_id] = successor
        self._count_protocols(successor, 1)
        if self.is_leader(member.member_id):
            self.leader_id = successor.member_id
        self.static_members[member.group_instance_id] = successor.member_id

    def maybe_elect_joined_leader(self) -> bool:
        """Make sure the leader is one of those who joined. Returns whether there is such a leader."""
        if self.leader_id is None:
            return False
        if self.members[self.leader_id].is_awaiting_join:
            return True
        for member in self.members.values():
            if member.is_awaiting_join:
                self.leader_id = member.member_id
                return True
        return False

    def start_next_generation(self, now_ms: int) -> None:
        """The join phase is over: count on, choose the protocol."""
        self.generation_id += 1
        if self.members:
            self.protocol_name = self.select_protocol()
            self.subscribed_topics = self.find_subscribed_topics()
            self.on(GroupEvent.JOINED, now_ms)
        else:
            self.protocol_name = None
            self.subscribed_topics = self.find_subscribed_topics()
            self.on(GroupEvent.DESERTED, now_ms)
        self.pending_syncs.clear()

    def find_subscribed_topics(self) -> frozenset[str] | None:
        """Return the topics that the members' metadata names, or None if that cannot be known.

        Only the version 0 part of the subscription is read: every version begins with it.
        """
        if not self.uses_consumer_protocol:
            return None
        if not self.members:
            return frozenset()
        if self.protocol_name is None:
            return None
        topics: set[str] = set()
        for member in self.members.values():
            metadata = member.metadata(self.protocol_name)
            if len(metadata) < 2:
                return None
            try:
                subscription, _ = decode(ConsumerProtocolSubscription, 0, metadata, 2)
            except RemoteProtocolError:
                return None
            topics.update(subscription.topics)
        return frozenset(topics)

    # ------------------------------------------------------------ parked ones

    def park_join(self, member: Member, respond: RespondJoin | None) -> None:
        """Let the member wait (or no longer wait) for the end of the join phase.

        A request that waits already is sent away: its client has given up on it and asked again. (Apache Kafka forgets
        it; then its connection would wait for ever.)
        """
        before = member.respond_join
        member.respond_join = respond
        self._awaiting_join += (respond is not None) - (before is not None)
        if before is not None and respond is not None:
            before(
                JoinGroupResponse(
                    member_id=member.member_id, protocol_name=None, error_code=ErrorCode.REBALANCE_IN_PROGRESS
                )
            )

    def park_sync(self, member: Member, respond: RespondSync) -> None:
        """Let the member wait for its assignment; a request that waits already is sent away."""
        before = member.respond_sync
        member.respond_sync = respond
        if before is not None:
            before(SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS))

    def respond_join(self, member: Member, response: JoinGroupResponse) -> bool:
        """Answer the member's parked JoinGroup; returns whether there was one."""
        respond = member.respond_join
        if respond is None:
            return False
        self.park_join(member, None)
        respond(response)
        return True

    def respond_sync(self, member: Member, response: SyncGroupResponse) -> bool:
        """Answer the member's parked SyncGroup; returns whether there was one."""
        respond = member.respond_sync
        if respond is None:
            return False
        member.respond_sync = None
        respond(response)
        return True

    # ---------------------------------------------------------------- records

    def tombstones(self) -> list[CoordinatorRecord]:
        """Return the record that deletes the group."""
        return [records.group_metadata_tombstone(self.group_id)]

    def to_record(self, assignments: dict[str, bytes]) -> GroupMetadataValue:
        """Return the group as it is written to the log, with these assignments."""
        return GroupMetadataValue(
            protocol_type=self.protocol_type or "",
            generation=self.generation_id,
            protocol=self.protocol_name,
            leader=self.leader_id,
            current_state_timestamp=self.state_timestamp_ms,
            members=[
                MemberMetadata(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    rebalance_timeout=member.rebalance_timeout_ms,
                    session_timeout=member.session_timeout_ms,
                    subscription=member.metadata(self.protocol_name or ""),
                    assignment=assignments[member.member_id],
                )
                for member in self.members.values()
            ],
        )

    def to_empty_record(self) -> GroupMetadataValue:
        """Return the record of a group that has just come into being."""
        return GroupMetadataValue(
            protocol_type="", generation=0, protocol=None, leader=None, current_state_timestamp=self.state_timestamp_ms
        )

    @staticmethod
    def from_record(group_id: str, value: GroupMetadataValue) -> ClassicGroup:
        """Return the group that a record describes: Stable with members, Empty without."""
        group = ClassicGroup(
            group_id,
            state=GroupState.STABLE if value.members else GroupState.EMPTY,
            generation_id=value.generation,
            protocol_type=value.protocol_type or None,
            protocol_name=value.protocol,
            leader_id=value.leader,
            state_timestamp_ms=value.current_state_timestamp,
        )
        for loaded in value.members:
            group.add(
                Member(
                    member_id=loaded.member_id,
                    group_instance_id=loaded.group_instance_id,
                    client_id=loaded.client_id,
                    client_host=loaded.client_host,
                    rebalance_timeout_ms=loaded.session_timeout
                    if loaded.rebalance_timeout == -1
                    else loaded.rebalance_timeout,
                    session_timeout_ms=loaded.session_timeout,
                    protocol_type=value.protocol_type,
                    protocols=((value.protocol or "", bytes(loaded.subscription)),),
                    assignment=bytes(loaded.assignment),
                )
            )
        group.subscribed_topics = group.find_subscribed_topics()
        return group

    def _count_protocols(self, member: Member, difference: int) -> None:
        for name, _ in member.protocols:
            count = self._support.get(name, 0) + difference
            if count:
                self._support[name] = count
            else:
                self._support.pop(name, None)
