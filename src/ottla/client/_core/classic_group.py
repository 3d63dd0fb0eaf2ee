"""A consumer's membership in a classic group: subscriptions out, partitions in, given up and begun in the caller's calls.

Eager assignors: everything is given up before JoinGroup. Cooperative ones (KIP-429): members keep reading what they own;
what they lose is given up after the assignment, and another rebalance gives it to the others.

The leader watches the partitions of all topics of the group, each member those that match its own pattern; what changes
there begins a rebalance.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from ottla.client._core.assignors import Assignor, MemberAssignment
from ottla.client._core.classic_member import ClassicMember, JoinedMember, MemberSettings, Phase
from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import Coordinator
from ottla.client._core.embedded import read_assignment, read_subscription, write_assignment, write_subscription
from ottla.client._core.group import Assign, Fail, GroupSettings, Lose, Revoke, Step, Subscription
from ottla.client._core.requests import Action
from ottla.client._core.transactions import GroupMetadata
from ottla.types import INTERNAL_TOPICS, TopicPartition

logger = logging.getLogger("ottla.client.groups")

PROTOCOL_TYPE: Final = "consumer"


class ClassicMembership:
    """See `group.Membership`."""

    def __init__(self, machine: ClientMachine, coordinator: Coordinator, settings: GroupSettings) -> None:
        self.owned: dict[TopicPartition, None] = {}
        self.rebalances = 0
        self._machine = machine
        self._settings = settings
        self._cooperative = all(assignor.cooperative for assignor in settings.assignors)
        self._member = ClassicMember(
            machine,
            coordinator,
            MemberSettings(
                settings.group_id,
                PROTOCOL_TYPE,
                settings.group_instance_id,
                settings.session_timeout_ms,
                settings.max_poll_interval_ms,
                settings.heartbeat_interval_ms,
            ),
            self,
        )
        self._subscription = Subscription()
        self._topics: tuple[str, ...] = ()
        self._target: MemberAssignment | None = None
        self._wants_join = False
        self._again = False
        self._lost = False
        self._since_ms: float | None = None
        self._error: Exception | None = None
        self._reason = ""
        self._counts: Mapping[str, int] | None = None
        self._identity = GroupMetadata(settings.group_id)

    # -- the caller's side ------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        return self._lost or self._member.phase in (Phase.STABLE, Phase.IDLE)

    @property
    def identity(self) -> GroupMetadata:
        return self._identity

    @property
    def confirmed_ms(self) -> float | None:
        """See `ClassicMember.confirmed_ms`."""
        return None if self._lost else self._member.confirmed_ms

    @property
    def left(self) -> bool:
        return self._member.left

    def subscribe(self, subscription: Subscription) -> None:
        self._subscription = subscription
        if not subscription.topics and subscription.matches is None:
            self._topics = ()
            self._wants_join = False
            self._member.leave("the consumer unsubscribed")
            return
        self._topics = self._subscribed()
        if self._member.phase is Phase.IDLE or self._topics:
            self.rejoin("the subscription changed")

    def rejoin(self, reason: str) -> None:
        self._wants_join = True
        self._reason = reason
        self._advance()

    def step(self) -> Step | None:
        if self._error is not None:
            return Fail(self._error)
        if self._lost:
            return Lose(list(self.owned), self._since_ms)
        if self._wants_join:
            return Revoke(self._to_give_up())
        if self._target is not None:
            target = dict.fromkeys(self._target.partitions)
            if self._cooperative:
                surplus = [where for where in self.owned if where not in target]
                if surplus:
                    return Revoke(surplus)
            return Assign([where for where in target if where not in self.owned])
        return None

    def done(self, step: Step) -> None:
        match step:
            case Fail():
                self._error = None
            case Lose():
                self.owned.clear()
                self._lost = False
                if self._since_ms is not None:
                    self._since_ms = None
                    self.rejoin("the consumer came back after max.poll.interval.ms")
                else:
                    self._take_identity()
            case Revoke(partitions):
                for where in partitions:
                    self.owned.pop(where, None)
                # What a cooperative member has given up is assigned in another round.
                self._again |= not self._wants_join
            case Assign(partitions):
                self.owned.update(dict.fromkeys(partitions))
                self._target = None
                self.rebalances += 1
                if self._again:
                    self._again = False
                    self.rejoin("partitions were given up")
        self._advance()

    def on_slow(self, since_ms: float) -> None:
        self._since_ms = since_ms
        self._lost = True
        self._target = None
        self._wants_join = False
        self._member.leave("the consumer was away for longer than max.poll.interval.ms")

    def on_refused_commit(self, code: int, identity: GroupMetadata) -> None:
        member = self._member
        if not self._lost and (identity.member_id, identity.generation_id) == (member.member_id, member.generation_id):
            member.on_refused_commit(code)

    def leave(self) -> None:
        self._wants_join = False
        self._member.leave("the consumer was closed")

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        return self._member.poll(now_ms, actions)

    # -- topics -----------------------------------------------------------------------------------------------------

    def _subscribed(self) -> tuple[str, ...]:
        matches = self._subscription.matches
        if matches is None:
            return self._subscription.topics
        hidden = INTERNAL_TOPICS if self._settings.exclude_internal_topics else frozenset()
        return tuple(
            name for name in sorted(self._machine.metadata.image.topics) if name not in hidden and matches(name)
        )

    def on_image(self) -> None:
        if self._member.phase is Phase.IDLE:
            return
        if self._subscription.matches is not None:
            topics = self._subscribed()
            if topics != self._topics:
                self._topics = topics
                self.rejoin("other topics match the pattern")
                return
        if self._member.is_leader and self._counts is not None and self._member.phase is Phase.STABLE:
            counts = self._partition_counts(self._counts)
            if any(counts.get(topic, 0) != count for topic, count in self._counts.items()):
                self._counts = None
                self.rejoin("topics have other partitions than before")

    def _partition_counts(self, topics: Mapping[str, int]) -> dict[str, int]:
        known = self._machine.metadata.image.topics
        return {topic: len(known[topic].partitions) if topic in known else 0 for topic in topics}

    # -- of the member's --------------------------------------------------------------------------------------------

    def _to_give_up(self) -> list[TopicPartition]:
        if not self._cooperative:
            return list(self.owned)
        return [where for where in self.owned if where.topic not in self._topics]

    def _advance(self) -> None:
        """Join at once if nothing has to be given up before."""
        if self._wants_join and self._since_ms is None and (self._lost or not self._to_give_up()):
            self._wants_join = False
            self._target = None
            self._member.join(self._reason)

    def protocols(self) -> Sequence[tuple[str, bytes]]:
        owned: Sequence[TopicPartition] = () if self._lost else list(self.owned)
        generation = -1 if self._lost else self._member.generation_id
        settings = self._settings
        return [
            (
                assignor.name,
                write_subscription(
                    self._topics, assignor.user_data(self._topics), owned, generation, settings.client_rack
                ),
            )
            for assignor in settings.assignors
        ]

    def lead(self, protocol: str, members: Sequence[JoinedMember]) -> Mapping[str, bytes] | None:
        metadata = self._machine.metadata
        joined = [read_subscription(*member) for member in members]
        topics = sorted({topic for member in joined for topic in member.topics})
        missing = False
        for topic in topics:
            metadata.use(topic, 0.0)
            missing |= topic not in metadata.image.topics and topic not in metadata.errors
        if missing:
            metadata.request_update()
            return None
        self._counts = self._partition_counts(dict.fromkeys(topics, 0))
        existing = {topic: count for topic, count in self._counts.items() if count}
        shares = self._assignor(protocol).assign(joined, existing)
        return {member_id: write_assignment(share) for member_id, share in shares.items()}

    def _assignor(self, protocol: str) -> Assignor:
        return next(assignor for assignor in self._settings.assignors if assignor.name == protocol)

    def on_joined(self, protocol: str, assignment: bytes) -> None:
        found = read_assignment(assignment)
        self._assignor(protocol).on_assignment(found, self._member.generation_id)
        self._target = found
        if not self._lost:
            self._take_identity()
        logger.info(
            "group %s: generation %d, %s gives this member %s",
            self._settings.group_id,
            self._member.generation_id,
            protocol,
            ", ".join(map(str, found.partitions)) or "nothing",
        )
        self._machine.wake()

    def _take_identity(self) -> None:
        member = self._member
        self._identity = GroupMetadata(
            self._settings.group_id, member.generation_id, member.member_id, self._settings.group_instance_id
        )

    def on_rebalance(self) -> None:
        self.rejoin("the group rebalances")
        self._machine.wake()

    def on_lost(self) -> None:
        self._target = None
        self._wants_join = False
        if self.owned:
            self._lost = True
            logger.warning(
                "group %s: the member was away for too long, or the group forgot it; its partitions are lost",
                self._settings.group_id,
            )
        self._machine.wake()

    def on_failed(self, error: Exception) -> None:
        self._error = error
        if self.owned:
            self._lost = True
        self._machine.wake()
