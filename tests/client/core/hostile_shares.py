"""Scripted brokers of a share group, beside those of `hostile_cluster`: they move, die, forget sessions, end locks.

What they do right is what Kafka's do: sessions by member and connection, epochs, locks, who may acknowledge. Of each offset
they know who has acquired it, at which delivery, until when; `on_acknowledge` sees each acknowledgement that is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.client.core.hostile_cluster import BROKERS, Link, Shell, World
from tests.client.core.hostile_logs import FetchCluster

from ottla.errors import ErrorCode
from ottla.protocol.messages import share_acknowledge, share_fetch
from ottla.protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.share_acknowledge import ShareAcknowledgeRequest, ShareAcknowledgeResponse
from ottla.protocol.messages.share_fetch import ShareFetchRequest, ShareFetchResponse
from ottla.protocol.messages.share_group_heartbeat import (
    Assignment,
    ShareGroupHeartbeatRequest,
    ShareGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.schema import Message

Key = tuple[str, int]
LOCK_MS = 3_000.0
GAP, ACCEPT, RELEASE, REJECT, RENEW = range(5)


@dataclass(slots=True)
class State:
    """One offset: `holder` is (member, broker) while it is acquired."""

    holder: tuple[str, int] | None = None
    until_ms: float = 0.0
    count: int = 0
    done: bool = False


@dataclass(slots=True)
class BrokerSession:
    link: Link
    epoch: int = 1
    partitions: dict[Key, None] = field(default_factory=dict)


class ShareLink(Link):
    """A connection that the cluster can tell from others."""

    def arrive(self, send: Any, data: bytes) -> None:
        self.shell.cluster.link = self  # type: ignore[attr-defined]
        super().arrive(send, data)


class ShareShell(Shell):
    link_class = ShareLink


class ShareCluster(FetchCluster):
    """One share group."""

    def __init__(self, world: World, *, mischief: float, count: int) -> None:
        super().__init__(world, mischief=mischief, count=count)
        self.old_versions = False
        self.renewing = world.chance(0.7)
        self.link: Link | None = None
        self.coordinator = world.random.choice(BROKERS)
        self.members: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.sessions: dict[tuple[str, int], BrokerSession] = {}
        self.states = {key: {n: State() for n in range(rows[0][0], rows[-1][1])} for key, rows in self.batches.items()}
        self.unfinished = {key: list(rows) for key, rows in self.batches.items()}
        self.covered = {
            key: {n for base, end, _ in rows for n in range(base, end)} for key, rows in self.batches.items()
        }
        self.on_acknowledge: Callable[[str, Key, int, int, int], None] = lambda member, key, offset, count, kind: None

    def versions(self) -> dict[int, tuple[int, int]]:
        found = super().versions()
        if not self.renewing:
            found[78] = found[79] = (1, 1)
        return found

    def crash(self, broker: int) -> None:
        super().crash(broker)
        for member, number in list(self.sessions):
            if number in self.down:
                self.end_session((member, number))
        if self.coordinator in self.down:
            self.coordinator = self.world.random.choice([each for each in BROKERS if each not in self.down])

    def move(self, key: Key) -> None:
        super().move(key)
        # What is acquired is known to the leader alone.
        for state in self.states.get(key, {}).values() if hasattr(self, "states") else ():
            state.holder = None

    def answer(self, broker: int, request: Message, version: int) -> Any:
        self.sweep()
        match request:
            case FindCoordinatorRequest():
                return self.find(request, version)
            case ShareGroupHeartbeatRequest():
                return self.heartbeat(broker, request)
            case ShareFetchRequest():
                return self.fetch_shares(broker, request, version)
            case ShareAcknowledgeRequest():
                return self.acknowledge_shares(broker, request)
        return super().answer(broker, request, version)

    def sweep(self) -> None:
        """Sessions end with their connections."""
        for key, session in list(self.sessions.items()):
            if session.link.broken:
                self.world.counter["session ended with its connection"] += 1
                self.end_session(key)

    def is_free(self, state: State) -> bool:
        """Whether an offset may be acquired. Locks end by time."""
        if state.holder is not None and state.until_ms <= self.world.now_ms:
            self.world.counter["locks ended"] += 1
            state.holder = None
        return not state.done and state.holder is None

    def end_session(self, key: tuple[str, int]) -> None:
        self.sessions.pop(key, None)
        for states in self.states.values():
            for state in states.values():
                if state.holder == key:
                    state.holder = None

    # -- the group

    def find(self, request: FindCoordinatorRequest, version: int) -> FindCoordinatorResponse:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE if self.trouble(0.1) else ErrorCode.NONE
        node = self.coordinator
        return FindCoordinatorResponse(
            coordinators=[Coordinator(key="g", node_id=node, host=f"broker{node}", port=9092, error_code=code)]
        )

    def heartbeat(self, broker: int, request: ShareGroupHeartbeatRequest) -> ShareGroupHeartbeatResponse:
        if broker != self.coordinator:
            return ShareGroupHeartbeatResponse(error_code=ErrorCode.NOT_COORDINATOR)
        if self.trouble(0.05):
            return ShareGroupHeartbeatResponse(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        member = request.member_id
        if request.member_epoch == -1:
            self.members.pop(member, None)
            return ShareGroupHeartbeatResponse(member_id=member, member_epoch=-1)
        if self.trouble(0.03):
            self.world.counter["member forgotten"] += 1
            self.members.pop(member, None)
        if request.member_epoch == 0:
            self.members[member] = 1
            self.told[member] = self.world.random.choice([0, 0, 1])  # the first answer may give nothing
        elif self.members.get(member) != request.member_epoch:
            return ShareGroupHeartbeatResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
        response = ShareGroupHeartbeatResponse(member_id=member, member_epoch=1, heartbeat_interval_ms=500)
        if self.told[member] == 0:
            response.assignment = Assignment(topic_partitions=[])
        elif self.told[member] == 1:
            response.assignment = Assignment(
                topic_partitions=[
                    TopicPartitions(topic_id=self.ids[topic], partitions=[n for t, n in self.logs if t == topic])
                    for topic in self.ids
                ]
            )
        self.told[member] += 1
        return response

    # -- sessions

    def session(self, broker: int, member: str, epoch: int) -> BrokerSession | int:
        key = member, broker
        if self.trouble(0.02):
            self.world.counter["session forgotten"] += 1
            self.end_session(key)
        if epoch == 0:
            if self.trouble(0.05):
                return ErrorCode.SHARE_SESSION_LIMIT_REACHED
            self.end_session(key)
            assert self.link is not None
            self.world.counter["sessions opened"] += 1
            self.sessions[key] = BrokerSession(self.link)
            return self.sessions[key]
        session = self.sessions.get(key)
        if session is None:
            return ErrorCode.SHARE_SESSION_NOT_FOUND
        if epoch not in (-1, session.epoch):
            return ErrorCode.INVALID_SHARE_SESSION_EPOCH
        session.epoch += 1
        return session

    def acknowledge(self, broker: int, member: str, key: Key, batches: Any) -> int:
        if self.logs[key].leader != broker:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        if self.trouble(0.03):
            self.world.counter["not persisted"] += 1
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        said: list[tuple[int, State, int]] = []
        last = -1
        for batch in batches:
            assert last < batch.first_offset <= batch.last_offset
            last = batch.last_offset
            kinds = batch.acknowledge_types
            count = batch.last_offset - batch.first_offset + 1
            assert len(kinds) in (1, count)
            for index in range(count):
                offset = batch.first_offset + index
                state = self.states[key][offset]
                if self.is_free(state) or state.holder != (member, broker):
                    self.world.counter["acknowledged too late"] += 1
                    return ErrorCode.INVALID_RECORD_STATE
                said.append((offset, state, kinds[index if len(kinds) > 1 else 0]))
        for offset, state, kind in said:
            self.on_acknowledge(member, key, offset, state.count, kind)
            self.world.counter[("gap", "accepted", "released", "rejected", "renewed")[kind]] += 1
            if kind == RENEW:
                state.until_ms = self.world.now_ms + LOCK_MS
            else:
                state.holder = None
                state.done = kind != RELEASE
        return ErrorCode.NONE

    def acknowledge_shares(self, broker: int, request: ShareAcknowledgeRequest) -> ShareAcknowledgeResponse:
        member = request.member_id or ""
        session = self.session(broker, member, request.share_session_epoch)
        if not isinstance(session, BrokerSession):
            return ShareAcknowledgeResponse(error_code=session)
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        topics = []
        for topic in request.topics:
            parts = []
            for part in topic.partitions:
                key = names[topic.topic_id], part.partition_index
                code = self.acknowledge(broker, member, key, part.acknowledgement_batches)
                parts.append(share_acknowledge.PartitionData(partition_index=key[1], error_code=code))
            topics.append(share_acknowledge.ShareAcknowledgeTopicResponse(topic_id=topic.topic_id, partitions=parts))
        if request.share_session_epoch == -1:
            self.world.counter["sessions closed"] += 1
            self.end_session((member, broker))
        return ShareAcknowledgeResponse(acquisition_lock_timeout_ms=int(LOCK_MS), responses=topics)

    def fetch_shares(self, broker: int, request: ShareFetchRequest, version: int) -> ShareFetchResponse:
        member = request.member_id or ""
        session = self.session(broker, member, request.share_session_epoch)
        if not isinstance(session, BrokerSession):
            return ShareFetchResponse(error_code=session)
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        found: dict[Key, share_fetch.PartitionData] = {}
        for topic in request.topics:
            for part in topic.partitions:
                key = names[topic.topic_id], part.partition_index
                session.partitions[key] = None
                if part.acknowledgement_batches:
                    data = found[key] = share_fetch.PartitionData(partition_index=key[1], records=b"")
                    data.acknowledge_error_code = self.acknowledge(broker, member, key, part.acknowledgement_batches)
        for gone in request.forgotten_topics_data:
            for number in gone.partitions:
                session.partitions.pop((names[gone.topic_id], number), None)
        room = request.max_records
        for key in session.partitions:
            data = found.get(key, share_fetch.PartitionData(partition_index=key[1], records=b""))
            code = self.refusal(broker, key)
            if code:
                data.error_code = code
                if code == ErrorCode.NOT_LEADER_OR_FOLLOWER:
                    log = self.logs[key]
                    data.current_leader = share_fetch.LeaderIdAndEpoch(
                        leader_id=log.leader, leader_epoch=log.leader_epoch
                    )
                found[key] = data
            elif room > 0:
                taken = self.acquire(key, (member, broker), room, exact=bool(request.share_acquire_mode), data=data)
                room -= taken
                if taken:
                    found[key] = data
        response = ShareFetchResponse(acquisition_lock_timeout_ms=int(LOCK_MS))
        for (name, _), data in found.items():
            response.responses.append(
                share_fetch.ShareFetchableTopicResponse(topic_id=self.ids[name], partitions=[data])
            )
        return response

    def acquire(
        self, key: Key, holder: tuple[str, int], room: int, *, exact: bool, data: share_fetch.PartitionData
    ) -> int:
        """Give what is free of the first batches that have something free."""
        taken: list[int] = []
        records = b""
        waiting = self.unfinished[key]
        while waiting and all(self.states[key][n].done for n in range(*waiting[0][:2])):
            waiting.pop(0)
        for base, end, raw in waiting:
            free = [n for n in range(base, end) if self.is_free(self.states[key][n])]
            if not free:
                continue
            taken += free[: room - len(taken)] if exact else free
            records += raw
            if len(taken) >= room:
                break
        if taken:
            # Offsets between batches (compaction) are acquired with what is behind them.
            between = [n for n in range(min(taken), max(taken)) if n not in self.covered[key]]
            taken += [n for n in between if self.is_free(self.states[key][n])]
        for offset in sorted(taken):
            state = self.states[key][offset]
            state.holder, state.until_ms, state.count = holder, self.world.now_ms + LOCK_MS, state.count + 1
            rows = data.acquired_records
            if rows and rows[-1].last_offset == offset - 1 and rows[-1].delivery_count == state.count:
                rows[-1].last_offset = offset
            else:
                rows.append(
                    share_fetch.AcquiredRecords(first_offset=offset, last_offset=offset, delivery_count=state.count)
                )
        if records and self.trouble(0.01):
            self.world.counter["cut"] += 1
            records = records[: -len(records) // 3]
        data.records = records
        return len(taken)
