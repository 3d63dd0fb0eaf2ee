"""Scripted group coordinators of both protocols, beside the brokers of `hostile_cluster`: they move, load, forget and refuse.

What they do right is what Kafka's do: generations, epochs, who may commit, that a partition is given to a member only when
no other holds it. `committed` is what the groups have committed; `on_commit` sees each commit that is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.client.core.hostile_cluster import BROKERS, World
from tests.client.core.hostile_logs import FetchCluster

from ottla.client._core.assignors import GroupMember, share_out
from ottla.errors import ErrorCode
from ottla.protocol.messages.consumer_group_heartbeat import (
    Assignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember
from ottla.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
)
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from ottla.protocol.schema import Message
from ottla.types import TopicPartition


class Later:
    """An answer that is not there yet."""

    def __init__(self) -> None:
        self.answer: Message | None = None
        self.then: list[Callable[[Message], None]] = []

    def give(self, answer: Message) -> None:
        if self.answer is None:
            self.answer = answer
            for call in self.then:
                call(answer)


@dataclass(slots=True)
class Member:
    """A member as a coordinator knows it."""

    member_id: str
    protocols: list[tuple[str, bytes]] = field(default_factory=list)
    rebalance_timeout_ms: float = 0
    session_timeout_ms: float = 0
    seen_ms: float = 0
    joining: Later | None = None
    syncing: Later | None = None
    assignment: bytes = b""
    epoch: int = 0
    before: int = -1
    topics: frozenset[str] = frozenset()
    owned: frozenset[TopicPartition] = frozenset()
    given: frozenset[TopicPartition] = frozenset()
    #: Taken back, and not yet given up.
    revoking: frozenset[TopicPartition] = frozenset()


class GroupCluster(FetchCluster):
    """One group."""

    def __init__(self, world: World, *, mischief: float, count: int, modern: bool) -> None:
        super().__init__(world, mischief=mischief, count=count)
        self.modern = modern
        self.old_versions &= not modern  # KIP-848 needs topic ids
        self.coordinator = world.random.choice(BROKERS)
        self.members: dict[str, Member] = {}
        self.pending: set[str] = set()
        self.state = "empty"
        self.generation = 0
        self.leader = ""
        self.protocol = ""
        self.round = 0
        self.committed: dict[TopicPartition, int] = {}
        self.on_commit: Callable[[str, TopicPartition, int], None] = lambda member_id, where, offset: None
        world.after(200, self.expire)

    def crash(self, broker: int) -> None:
        super().crash(broker)
        if self.coordinator in self.down:
            self.coordinator = self.world.random.choice([each for each in BROKERS if each not in self.down])
            self.world.counter["coordinator moved"] += 1

    def answer(self, broker: int, request: Message, version: int) -> Any:
        match request:
            case FindCoordinatorRequest():
                return self.find(request, version)
            case JoinGroupRequest():
                return self.refused(broker, JoinGroupResponse) or self.join(request, version)
            case SyncGroupRequest():
                return self.refused(broker, SyncGroupResponse) or self.sync(request)
            case HeartbeatRequest():
                return self.refused(broker, HeartbeatResponse) or self.heartbeat(request)
            case LeaveGroupRequest():
                return self.refused(broker, LeaveGroupResponse) or self.leave(request, version)
            case ConsumerGroupHeartbeatRequest():
                return self.refused(broker, ConsumerGroupHeartbeatResponse) or self.modern_heartbeat(request)
            case OffsetCommitRequest():
                return self.commit(broker, request, version)
            case OffsetFetchRequest():
                return self.fetch_offsets(broker, request, version)
        return super().answer(broker, request, version)

    def find(self, request: FindCoordinatorRequest, version: int) -> FindCoordinatorResponse:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE if self.trouble(0.1) else ErrorCode.NONE
        node = self.coordinator
        if self.trouble(0.1):
            node = self.world.random.choice([each for each in BROKERS if each not in self.down])
            self.world.counter["wrong coordinator"] += 1
        found = Coordinator(key="g", node_id=node, host=f"broker{node}", port=9092, error_code=code)
        if version >= 4:
            return FindCoordinatorResponse(coordinators=[found])
        return FindCoordinatorResponse(error_code=code, node_id=node, host=f"broker{node}", port=9092)

    def refusal_of_coordinator(self, broker: int) -> int:
        if broker != self.coordinator:
            self.world.counter["not the coordinator"] += 1
            return ErrorCode.NOT_COORDINATOR
        if self.trouble(0.05):
            self.world.counter["coordinator loads"] += 1
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return ErrorCode.NONE

    def refused(self, broker: int, kind: type[Any]) -> Message | None:
        code = self.refusal_of_coordinator(broker)
        return kind(error_code=code) if code else None

    # -- the classic protocol

    def join(self, request: JoinGroupRequest, version: int) -> Message | Later:
        member_id = request.member_id
        if not member_id:
            self.round += 1
            member_id = f"m{self.round}"
            if version >= 4:
                self.pending.add(member_id)
                return JoinGroupResponse(error_code=ErrorCode.MEMBER_ID_REQUIRED, member_id=member_id)
            self.pending.add(member_id)
        if member_id not in self.members and member_id not in self.pending:
            return JoinGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID, member_id=member_id)
        self.pending.discard(member_id)
        member = self.members.setdefault(member_id, Member(member_id))
        member.protocols = [(each.name, each.metadata) for each in request.protocols]
        member.rebalance_timeout_ms, member.session_timeout_ms = (
            request.rebalance_timeout_ms,
            request.session_timeout_ms,
        )
        member.joining = later = Later()
        self.prepare()
        self.maybe_complete()
        return later

    def prepare(self) -> None:
        if self.state == "preparing":
            return
        self.state = "preparing"
        self.world.counter["rebalances"] += 1
        for member in self.members.values():
            if member.syncing is not None:
                syncing, member.syncing = member.syncing, None
                syncing.give(SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS))
        timeout = max((member.rebalance_timeout_ms for member in self.members.values()), default=0)
        generation = self.generation
        self.world.after(timeout, lambda: self.complete() if generation == self.generation else None)

    def maybe_complete(self) -> None:
        if self.state == "preparing" and all(member.joining is not None for member in self.members.values()):
            self.complete()

    def complete(self) -> None:
        if self.state != "preparing":
            return
        for member in list(self.members.values()):
            if member.joining is None:
                self.world.counter["did not join in time"] += 1
                del self.members[member.member_id]
        self.generation += 1
        if not self.members:
            self.state = "empty"
            return
        self.state = "completing"
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        names = [[name for name, _ in member.protocols] for member in self.members.values()]
        self.protocol = next(name for name in names[0] if all(name in each for each in names))
        told = [
            JoinGroupResponseMember(member_id=each.member_id, metadata=dict(each.protocols)[self.protocol])
            for each in self.members.values()
        ]
        for member in self.members.values():
            joining, member.joining = member.joining, None
            member.seen_ms = self.world.now_ms
            assert joining is not None
            joining.give(
                JoinGroupResponse(
                    generation_id=self.generation,
                    protocol_type="consumer",
                    protocol_name=self.protocol,
                    leader=self.leader,
                    member_id=member.member_id,
                    members=told if member.member_id == self.leader else [],
                )
            )

    def check(self, member_id: str, generation: int) -> int:
        if member_id not in self.members:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        self.members[member_id].seen_ms = self.world.now_ms
        return ErrorCode.NONE

    def sync(self, request: SyncGroupRequest) -> Message | Later:
        code = self.check(request.member_id, request.generation_id)
        if code:
            return SyncGroupResponse(error_code=code)
        member = self.members[request.member_id]
        if self.state == "preparing":
            return SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS)
        if self.state == "completing":
            member.syncing = later = Later()
            if request.member_id == self.leader:
                shares = {each.member_id: each.assignment for each in request.assignments}
                self.state = "stable"
                for each in self.members.values():
                    each.assignment = shares.get(each.member_id, b"")
                    if each.syncing is not None:
                        syncing, each.syncing = each.syncing, None
                        syncing.give(self.synced(each))
            return later
        return self.synced(member)

    def synced(self, member: Member) -> SyncGroupResponse:
        return SyncGroupResponse(protocol_type="consumer", protocol_name=self.protocol, assignment=member.assignment)

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        code = self.check(request.member_id, request.generation_id)
        if not code and self.trouble(0.02):
            self.world.counter["forgotten"] += 1
            self.remove(request.member_id)
            code = ErrorCode.UNKNOWN_MEMBER_ID
        if not code and self.state == "preparing":
            code = ErrorCode.REBALANCE_IN_PROGRESS
        return HeartbeatResponse(error_code=code)

    def leave(self, request: LeaveGroupRequest, version: int) -> LeaveGroupResponse:
        for member_id in [each.member_id for each in request.members] if version >= 3 else [request.member_id]:
            if member_id in self.members:
                self.world.counter["left"] += 1
                self.remove(member_id)
        return LeaveGroupResponse()

    def remove(self, member_id: str) -> None:
        member = self.members.pop(member_id)
        if self.modern:
            self.generation += 1
            return
        if member.joining is not None:
            member.joining.give(JoinGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))
        if member.syncing is not None:
            member.syncing.give(SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))
        self.prepare()
        self.maybe_complete()

    def expire(self) -> None:
        for member in list(self.members.values()):
            if member.joining is None and member.seen_ms + member.session_timeout_ms < self.world.now_ms:
                self.world.counter["sessions ended"] += 1
                self.remove(member.member_id)
        self.world.after(200, self.expire)

    # -- the consumer protocol

    def modern_heartbeat(self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse:
        member_id, epoch = request.member_id, request.member_epoch
        member = self.members.get(member_id)
        if epoch < 0:
            if member is not None:
                self.world.counter["left"] += 1
                self.remove(member_id)
            return ConsumerGroupHeartbeatResponse(member_id=member_id, member_epoch=epoch)
        if member is not None and epoch and self.trouble(0.02):
            self.world.counter["forgotten"] += 1
            self.remove(member_id)
            member = None
        if member is None:
            if epoch:
                return ConsumerGroupHeartbeatResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
            member = self.members[member_id] = Member(member_id, session_timeout_ms=3_000)
            self.generation += 1
            self.world.counter["rebalances"] += 1
        elif epoch == 0:
            member.owned = member.given = member.revoking = frozenset()
            member.epoch, member.before = 0, -1
        elif epoch not in (member.epoch, member.before):
            return ConsumerGroupHeartbeatResponse(error_code=ErrorCode.FENCED_MEMBER_EPOCH)
        member.seen_ms = self.world.now_ms
        if request.subscribed_topic_names is not None:
            member.topics = frozenset(request.subscribed_topic_names)
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        if request.topic_partitions is not None:
            member.owned = frozenset(
                TopicPartition(names[each.topic_id], n) for each in request.topic_partitions for n in each.partitions
            )
            assert member.owned <= member.given | member.revoking, (request.member_id, epoch, member)
            member.revoking &= member.owned
        full = epoch == 0 or (request.topic_partitions is not None and request.subscribed_topic_names is not None)
        return self.reconcile(member, everything=full)

    def reconcile(self, member: Member, *, everything: bool) -> ConsumerGroupHeartbeatResponse:
        counts: dict[str, int] = {}
        for topic, _ in self.logs:
            counts[topic] = counts.get(topic, 0) + 1
        members = [
            GroupMember(each.member_id, sorted(each.topics), sorted(each.given), each.epoch)
            for each in self.members.values()
        ]
        target = frozenset(share_out(members, counts)[member.member_id])
        before = member.given
        if not member.revoking:
            member.revoking = member.given - target
            member.given &= target
        if not member.revoking:
            held = {
                where for each in self.members.values() if each is not member for where in each.given | each.revoking
            }
            member.given = target - held
            if member.epoch != self.generation:
                member.before, member.epoch = member.epoch, self.generation
        response = ConsumerGroupHeartbeatResponse(
            member_id=member.member_id, member_epoch=member.epoch, heartbeat_interval_ms=300
        )
        if member.given != before or everything:
            by_topic: dict[str, list[int]] = {}
            for topic, number in sorted(member.given):
                by_topic.setdefault(topic, []).append(number)
            response.assignment = Assignment(
                topic_partitions=[
                    TopicPartitions(topic_id=self.ids[topic], partitions=numbers) for topic, numbers in by_topic.items()
                ]
            )
        return response

    # -- offsets

    def commit(self, broker: int, request: OffsetCommitRequest, version: int) -> OffsetCommitResponse:
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        code = self.refusal_of_coordinator(broker)
        if not code and self.modern:
            member = self.members.get(request.member_id)
            if member is None:
                code = ErrorCode.UNKNOWN_MEMBER_ID
            elif member.epoch != request.generation_id_or_member_epoch:
                code = ErrorCode.STALE_MEMBER_EPOCH
                self.world.counter["stale commit"] += 1
        elif not code:
            code = self.check(request.member_id, request.generation_id_or_member_epoch)
            if not code and self.state == "completing":
                code = ErrorCode.REBALANCE_IN_PROGRESS
        if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION):
            self.world.counter["commit refused"] += 1
        topics = []
        for topic in request.topics:
            parts = []
            name = names[topic.topic_id] if version >= 10 else topic.name
            for part in topic.partitions:
                where = TopicPartition(name, part.partition_index)
                if not code:
                    self.world.counter["committed"] += 1
                    self.on_commit(request.member_id, where, part.committed_offset)
                    self.committed[where] = part.committed_offset
                parts.append(OffsetCommitResponsePartition(partition_index=part.partition_index, error_code=code))
            shown = "" if version >= 10 else name
            topics.append(OffsetCommitResponseTopic(name=shown, topic_id=topic.topic_id, partitions=parts))
        return OffsetCommitResponse(topics=topics)

    def fetch_offsets(self, broker: int, request: OffsetFetchRequest, version: int) -> OffsetFetchResponse:
        assert version >= 8
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        code = self.refusal_of_coordinator(broker)
        if code:
            return OffsetFetchResponse(groups=[OffsetFetchResponseGroup(group_id="g", error_code=code)])
        topics = []
        for topic in request.groups[0].topics or []:
            parts = []
            name = names[topic.topic_id] if version >= 10 else topic.name
            for number in topic.partition_indexes:
                unstable = self.trouble(0.05)
                self.world.counter["unstable offsets"] += unstable
                parts.append(
                    OffsetFetchResponsePartitions(
                        partition_index=number,
                        committed_offset=self.committed.get(TopicPartition(name, number), -1),
                        metadata="",
                        error_code=ErrorCode.UNSTABLE_OFFSET_COMMIT if unstable else ErrorCode.NONE,
                    )
                )
            shown = "" if version >= 10 else name
            topics.append(OffsetFetchResponseTopics(name=shown, topic_id=topic.topic_id, partitions=parts))
        return OffsetFetchResponse(groups=[OffsetFetchResponseGroup(group_id="g", topics=topics)])
