"""Clients of consumer groups as a simulation needs them: what a Java or librdkafka consumer does, without I/O of its own.

`ModernClient` speaks ConsumerGroupHeartbeat (KIP-848), `ClassicClient` JoinGroup and SyncGroup. Both keep `owned`: the
partitions the application believes to be its own. They give up partitions before they say so, and begin anew when they are
fenced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ottla.errors import ErrorCode
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, TopicPartitions
from ottla.protocol.messages.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
)
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

if TYPE_CHECKING:
    from tests.broker.coordinators.test_consumer_simulation import Simulation

Owned = set[tuple[bytes, int]]
SESSION_MS = 6_000
MODERN_SESSION_MS = 9_000
REBALANCE_MS = 5_000


def by_topic(owned: Owned) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for topic_id, partition in sorted(owned):
        found.setdefault(topic_id, []).append(partition)
    return found


class ModernClient:
    """A member of the consumer protocol."""

    is_classic = False
    keeps_what_it_owns = True

    def __init__(self, simulation: Simulation, number: int, instance: str | None) -> None:
        self.simulation = simulation
        self.name = f"m{number}"
        self.instance = instance
        self.member_id = ""
        self.epoch = 0
        self.owned: Owned = set()
        self.told: Owned = set()
        self.reported: Owned | None = None
        self.names: list[str] = simulation.some_topics()
        self.regex = simulation.some_regex()
        self.changed = False
        self.assignor = simulation.random.choice([None, None, "range", "uniform"])
        self.alive = True
        #: Until then the coordinator has no reason to throw this member out.
        self.safe_until = 0.0
        self.says_all = False

    def reset(self) -> None:
        """Fenced, or new: give up everything."""
        self.owned, self.told, self.reported, self.epoch = set(), set(), None, 0

    async def act(self) -> None:
        random = self.simulation.random
        if self.owned - self.told and random.random() < 0.7:
            self.owned &= self.told
        elif self.epoch and random.random() < 0.06:
            self.names, self.regex, self.changed = self.simulation.some_topics(), self.simulation.some_regex(), True
        await self.heartbeat(full=random.random() < 0.05)

    async def heartbeat(self, *, full: bool = False) -> None:
        simulation = self.simulation
        joins = self.epoch == 0
        if joins:
            self.reset()
            if not self.member_id and (simulation.random.random() < 0.8):
                self.member_id = f"{self.name}-{simulation.unique()}"
        # After an answer that did not come, or an error, the clients of Kafka and librdkafka say everything again. Only then
        # are they told their assignment again, which may have changed with the answer that was lost.
        tells = joins or full or self.changed or self.says_all
        self.says_all = True
        request = ConsumerGroupHeartbeatRequest(
            group_id="g",
            member_id=self.member_id,
            member_epoch=self.epoch,
            instance_id=self.instance,
            rebalance_timeout_ms=REBALANCE_MS if tells else -1,
            subscribed_topic_names=list(self.names) if tells else None,
            subscribed_topic_regex=self.regex if tells else None,
            server_assignor=self.assignor if tells else None,
            topic_partitions=[TopicPartitions(topic_id=t, partitions=p) for t, p in by_topic(self.owned).items()]
            if tells or self.owned != self.reported
            else None,
        )
        sent = set(self.owned)
        group_before = simulation.group
        member_before = None if group_before is None else group_before.members.get(self.member_id)
        epoch_before = 0 if group_before is None else group_before.committed_epochs.group_epoch
        answer = await simulation.ask(1 if self.member_id else 0, request, "heartbeat")
        if answer is None:
            self.safe_until = 0.0
            return  # lost; the request may have been done or not
        code = ErrorCode(answer.error_code)
        if code == ErrorCode.COORDINATOR_NOT_AVAILABLE and simulation.must_give_up(self.member_id):
            self.safe_until = 0.0  # what it was not told was written all the same
        if code == ErrorCode.UNKNOWN_MEMBER_ID and not joins:
            now = simulation.world.loop.time()
            assert now >= self.safe_until, f"{self.member_id} is thrown out at {now}, safe until {self.safe_until}"
        if code in (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.GROUP_ID_NOT_FOUND):
            self.reset()
            return
        if code in (ErrorCode.FENCED_INSTANCE_ID, ErrorCode.UNRELEASED_INSTANCE_ID):
            self.reset()
            self.alive = False
            return
        if code == ErrorCode.GROUP_MAX_SIZE_REACHED:
            self.alive = not simulation.is_quiet
            return
        if code == ErrorCode.INVALID_REGULAR_EXPRESSION:
            self.regex, self.changed = "", True
            return
        if code != ErrorCode.NONE:
            return
        self.says_all = False
        group = simulation.group
        if tells and group is not None and group is group_before and member_before is not None:
            # Who asks for other topics is assigned anew, even if the group has those already.
            is_same = member_before.topic_names == set(self.names)
            assert is_same or group.committed_epochs.group_epoch > epoch_before, f"{self.member_id} asked for others"
        if request.topic_partitions is not None:
            self.reported = sent
        self.changed = False
        self.member_id = answer.member_id
        self.epoch = answer.member_epoch
        # Somebody else may take the place of a static member; who has to give something up must do so in time.
        is_safe = self.instance is None and not simulation.must_give_up(self.member_id)
        self.safe_until = simulation.world.loop.time() + MODERN_SESSION_MS / 1000 if is_safe else 0.0
        if answer.assignment is not None:
            self.told = {(each.topic_id, p) for each in answer.assignment.topic_partitions for p in each.partitions}
        # As in the Java client: revoke first, then take what is new.
        if not self.owned - self.told:
            self.owned = set(self.told)

    async def leave(self, *, for_good: bool = True) -> None:
        self.owned = set()
        if self.epoch:
            request = ConsumerGroupHeartbeatRequest(
                group_id="g",
                member_id=self.member_id,
                instance_id=self.instance,
                member_epoch=-1 if for_good or self.instance is None else -2,
            )
            await self.simulation.ask(1, request, "leave")
        self.alive = False


class ClassicClient:
    """A member of the classic protocol: eager (gives up everything before it joins) or cooperative."""

    is_classic = True

    def __init__(self, simulation: Simulation, number: int, instance: str | None) -> None:
        self.simulation = simulation
        self.name = f"c{number}"
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.owned: Owned = set()
        self.names = simulation.some_topics()
        self.is_cooperative = simulation.is_cooperative
        self.protocol = "cooperative" if self.is_cooperative else "eager"
        self.alive = True
        self.must_join = True
        #: A JoinGroup or SyncGroup under way, and what is done with its answer.
        self.joining: asyncio.Task[Any] | None = None
        self.then: Callable[[Any], None] = self.joined
        self.told: Owned | None = None
        self.image = simulation.world.image

    @property
    def keeps_what_it_owns(self) -> bool:
        return not self.is_cooperative

    async def act(self) -> None:
        if self.told is not None and self.owned - self.told:
            # A cooperative member gives up what it was not given, then joins again to say so.
            self.owned &= self.told
            self.must_join = True
        if self.joining is not None:
            if self.joining.done():
                task, self.joining = self.joining, None
                self.then(task.result())
            return
        if self.must_join:
            self.join()
            return
        request = HeartbeatRequest(
            group_id="g", member_id=self.member_id, generation_id=self.generation, group_instance_id=self.instance
        )
        answer = await self.simulation.ask(4, request, "classic heartbeat")
        if answer is not None:
            self.react(ErrorCode(answer.error_code))

    def react(self, code: ErrorCode) -> None:
        if code == ErrorCode.REBALANCE_IN_PROGRESS:
            self.must_join = True
        elif code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION):
            self.owned, self.told = set(), None
            self.must_join = True
            if code == ErrorCode.UNKNOWN_MEMBER_ID:
                self.member_id = ""
        elif code in (ErrorCode.FENCED_INSTANCE_ID, ErrorCode.INCONSISTENT_GROUP_PROTOCOL):
            self.owned = set()
            self.alive = False
        elif code == ErrorCode.GROUP_MAX_SIZE_REACHED:
            self.alive = not self.simulation.is_quiet

    def join(self) -> None:
        if not self.is_cooperative or not self.member_id:
            self.owned = set()
        self.told = None
        image = self.simulation.world.image
        subscription = ConsumerProtocolSubscription(
            topics=list(self.names),
            owned_partitions=[
                ConsumerProtocolSubscriptionTopicPartition(topic=image.topic_names[topic_id], partitions=parts)
                for topic_id, parts in by_topic(self.owned).items()
                if topic_id in image.topic_names
            ],
            generation_id=self.generation,
        )
        request = JoinGroupRequest(
            group_id="g",
            member_id=self.member_id,
            group_instance_id=self.instance,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name=self.protocol, metadata=b"\0\3" + encode(subscription, 3))],
        )
        self.joining, self.then = asyncio.ensure_future(self.ask(9, request, "join")), self.joined

    async def ask(self, version: int, request: Any, what: str) -> Any:
        # Answers are looked at later. Topics of a name that are made anew meanwhile may not be those it tells of.
        self.image = self.simulation.world.image
        return await self.simulation.ask(version, request, what)

    def joined(self, answer: Any) -> None:
        if answer is None:
            return
        code = ErrorCode(answer.error_code)
        if code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = answer.member_id
            return
        if code != ErrorCode.NONE:
            self.react(code)
            return
        self.member_id, self.generation = answer.member_id, answer.generation_id
        request = SyncGroupRequest(
            group_id="g",
            member_id=self.member_id,
            group_instance_id=self.instance,
            generation_id=self.generation,
            protocol_type="consumer",
            protocol_name=self.protocol,
            assignments=self.assign(answer.members) if answer.leader == self.member_id else [],
        )
        self.joining, self.then = asyncio.ensure_future(self.ask(5, request, "sync")), self.synced

    def synced(self, synced: Any) -> None:
        if synced is None:
            return
        code = ErrorCode(synced.error_code)
        if code != ErrorCode.NONE:
            self.react(code)
            return
        self.must_join = False
        image = self.image
        given: Owned = set()
        if synced.assignment:
            assignment, _ = decode(ConsumerProtocolAssignment, 3, synced.assignment, 2)
            for each in assignment.assigned_partitions:
                topic = image.topics.get(each.topic)
                if topic is not None:
                    given |= {(topic.topic_id, partition) for partition in each.partitions}
        self.told = given
        if self.owned - given:
            return
        self.owned = set(given)

    def assign(self, members: list[Any]) -> list[SyncGroupRequestAssignment]:
        """What the leader of a classic group decides: round robin, but nothing that another member still owns."""
        image = self.simulation.world.image
        subscriptions = {
            each.member_id: decode(ConsumerProtocolSubscription, 3, each.metadata, 2)[0] for each in members
        }
        held = {
            (owned.topic, partition): member_id
            for member_id, subscription in subscriptions.items()
            for owned in subscription.owned_partitions
            for partition in owned.partitions
        }
        given: dict[str, dict[str, list[int]]] = {member_id: {} for member_id in subscriptions}
        for name, topic in sorted(image.topics.items()):
            takers = sorted(member_id for member_id, each in subscriptions.items() if name in each.topics)
            for partition in range(len(topic.partitions)) if takers else ():
                taker = takers[partition % len(takers)]
                if held.get((name, partition), taker) == taker:
                    given[taker].setdefault(name, []).append(partition)
        return [
            SyncGroupRequestAssignment(
                member_id=member_id,
                assignment=b"\0\3"
                + encode(
                    ConsumerProtocolAssignment(
                        assigned_partitions=[
                            ConsumerProtocolAssignmentTopicPartition(topic=name, partitions=parts)
                            for name, parts in topics.items()
                        ]
                    ),
                    3,
                ),
            )
            for member_id, topics in given.items()
        ]

    async def leave(self, *, for_good: bool = True) -> None:
        self.owned = set()
        self.alive = False
        if self.joining is not None:
            self.joining.cancel()
        if self.member_id and (self.instance is None or for_good):
            request = LeaveGroupRequest(
                group_id="g", members=[MemberIdentity(member_id=self.member_id, group_instance_id=self.instance)]
            )
            await self.simulation.ask(5, request, "classic leave")
