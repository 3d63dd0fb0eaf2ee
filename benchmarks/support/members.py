"""Members of groups as clients play them, without consuming anything: classic (JoinGroup, SyncGroup) and KIP-848."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from benchmarks.support.swarm import Line, Swarm, answer, frame

from ottla.errors import ErrorCode
from ottla.protocol.codec import encode
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.messages.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
)
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.types import uuid_to_text

JOIN, SYNC, BEAT, CONSUMER_BEAT = 9, 5, 4, 1
SESSION_TIMEOUT_MS, REBALANCE_TIMEOUT_MS = 300_000, 300_000

_VERSION_3 = b"\x00\x03"
_LEAVES = -1
_BUSY = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR)


class ClassicSwarm:
    """A classic group whose members have a connection each and do everything in step."""

    def __init__(self, swarm: Swarm, group_id: str, topic: str, lines: list[Line]) -> None:
        self._swarm = swarm
        self._group_id = group_id
        self._lines = lines
        self._ids = [""] * len(lines)
        self._generation = 0
        self._leader = 0
        self._leader_members: list[str] = []
        self._metadata = _VERSION_3 + encode(ConsumerProtocolSubscription(topics=[topic]), 3)
        self._topic = topic

    def form(self) -> None:
        """Everybody joins a new group."""
        self._ids = [each.member_id for each in self._join_all()]
        self._join_and_sync()

    def rebalance(self) -> None:
        """The leader wants a rebalance; the others learn of it by a heartbeat and join again; everybody syncs."""
        everybody = range(len(self._lines))
        joined: list[bytes] = [b""] * len(self._lines)
        self._swarm.send(self._lines[self._leader], self._join_frame(self._leader), _into(joined, self._leader))
        others = [index for index in everybody if index != self._leader]
        unaware = others
        while unaware:  # another connection's request may be handled before the leader's
            beats = self._beat_all(unaware)
            while any(not beats[index] for index in unaware):
                self._swarm.turn(1.0)
            codes = {
                index: answer(beats[index], HeartbeatRequest, BEAT, HeartbeatResponse).error_code for index in unaware
            }
            unaware = [index for index in unaware if codes[index] == ErrorCode.NONE]
        assert {*codes.values()} <= {ErrorCode.REBALANCE_IN_PROGRESS}, codes
        self._swarm.send_all((self._lines[index], self._join_frame(index), _into(joined, index)) for index in others)
        self._swarm.wait()
        self._on_joined([self._joined(body) for body in joined])
        self._sync_all()

    def heartbeats(self) -> None:
        """Everybody is alive."""
        beats = self._beat_all(range(len(self._lines)))
        self._swarm.wait()
        assert len(set(beats)) == 1, "not everybody got the same answer"

    def _join_and_sync(self) -> None:
        answers = self._join_all()
        while len({each.generation_id for each in answers}) > 1:
            # Some came after the first generation had begun; the others join them.
            answers = self._join_all()
        self._on_joined(answers)
        self._sync_all()

    def _join_all(self) -> list[JoinGroupResponse]:
        bodies = [b""] * len(self._lines)
        self._swarm.send_all(
            (line, self._join_frame(index), _into(bodies, index)) for index, line in enumerate(self._lines)
        )
        self._swarm.wait()
        return [self._joined(body) for body in bodies]

    def _joined(self, body: bytes) -> JoinGroupResponse:
        joined = answer(body, JoinGroupRequest, JOIN, JoinGroupResponse)
        assert joined.error_code in (ErrorCode.NONE, ErrorCode.MEMBER_ID_REQUIRED), ErrorCode(joined.error_code).name
        return joined

    def _on_joined(self, answers: list[JoinGroupResponse]) -> None:
        self._generation = answers[0].generation_id
        assert {each.generation_id for each in answers} == {self._generation}
        self._leader = self._ids.index(answers[0].leader)
        self._leader_members = [each.member_id for each in answers[self._leader].members]
        assert sorted(self._leader_members) == sorted(self._ids)

    def _join_frame(self, index: int) -> bytes:
        return frame(
            JoinGroupRequest(
                group_id=self._group_id,
                session_timeout_ms=SESSION_TIMEOUT_MS,
                rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
                member_id=self._ids[index],
                protocol_type="consumer",
                protocols=[JoinGroupRequestProtocol(name="range", metadata=self._metadata)],
            ),
            JOIN,
        )

    def _sync_all(self) -> None:
        bodies = [b""] * len(self._lines)
        self._swarm.send_all(
            (line, self._sync_frame(index), _into(bodies, index)) for index, line in enumerate(self._lines)
        )
        self._swarm.wait()
        for body in bodies:
            synced = answer(body, SyncGroupRequest, SYNC, SyncGroupResponse)
            assert synced.error_code == ErrorCode.NONE, ErrorCode(synced.error_code).name
            assert synced.assignment

    def _sync_frame(self, index: int) -> bytes:
        assignments = []
        if index == self._leader:
            for number, member_id in enumerate(self._leader_members):
                part = ConsumerProtocolAssignmentTopicPartition(topic=self._topic, partitions=[number])
                assignment = _VERSION_3 + encode(ConsumerProtocolAssignment(assigned_partitions=[part]), 3)
                assignments.append(SyncGroupRequestAssignment(member_id=member_id, assignment=assignment))
        return frame(
            SyncGroupRequest(
                group_id=self._group_id,
                generation_id=self._generation,
                member_id=self._ids[index],
                protocol_type="consumer",
                protocol_name="range",
                assignments=assignments,
            ),
            SYNC,
        )

    def _beat_all(self, indexes: range | list[int]) -> list[bytes]:
        bodies = [b""] * len(self._lines)
        self._swarm.send_all((self._lines[index], self._beat_frame(index), _into(bodies, index)) for index in indexes)
        return bodies

    def _beat_frame(self, index: int) -> bytes:
        return frame(
            HeartbeatRequest(group_id=self._group_id, generation_id=self._generation, member_id=self._ids[index]),
            BEAT,
        )


class ConsumerSwarmMember:
    """A member of a consumer group (KIP-848): does what it is told with its next heartbeat."""

    __slots__ = (
        "_assigned",
        "_frame",
        "_last",
        "_line",
        "_next",
        "_sent",
        "_swarm",
        "_topic",
        "epoch",
        "group_id",
        "member_id",
        "refusals",
    )

    def __init__(self, swarm: Swarm, group_id: str, topic: str, line: Line) -> None:
        self._swarm = swarm
        self._line = line
        self._topic = topic
        self.group_id = group_id
        self.member_id = uuid_to_text(os.urandom(16))
        self.epoch = 0
        self._assigned: list[TopicPartitions] = []
        #: What a heartbeat without news looks like, and the answer without news to it.
        self._frame = self._last = b""
        #: The next heartbeat, if it has news.
        self._next: bytes | None = None
        self._sent = b""
        #: How often it was told to try again.
        self.refusals = 0

    @property
    def partition_count(self) -> int:
        """How many partitions it has."""
        return sum(len(each.partitions) for each in self._assigned)

    @property
    def has_news(self) -> bool:
        """The next heartbeat tells something."""
        return self._next is not None

    def join(self) -> None:
        """Send the first heartbeat."""
        request = self._request()
        request.rebalance_timeout_ms = REBALANCE_TIMEOUT_MS
        request.subscribed_topic_names = [self._topic]
        request.topic_partitions = []
        self._send(frame(request, CONSUMER_BEAT))

    def beat(self) -> None:
        """Send the heartbeat that is due."""
        data, self._next = self._next or self._frame, None
        self._send(data)

    def leave(self) -> None:
        """Send the last heartbeat."""
        self.epoch = _LEAVES
        self._swarm.send(self._line, frame(self._request(), CONSUMER_BEAT), lambda body: None)

    def _request(self) -> ConsumerGroupHeartbeatRequest:
        return ConsumerGroupHeartbeatRequest(group_id=self.group_id, member_id=self.member_id, member_epoch=self.epoch)

    def _send(self, data: bytes) -> None:
        self._sent = data
        self._swarm.send(self._line, data, self._on_answer)

    def _on_answer(self, body: bytes) -> None:
        if body == self._last:
            return
        told = answer(body, ConsumerGroupHeartbeatRequest, CONSUMER_BEAT, ConsumerGroupHeartbeatResponse)
        if told.error_code in _BUSY:
            self.refusals += 1
            self._next = self._sent
            return
        assert told.error_code == ErrorCode.NONE, (ErrorCode(told.error_code).name, told.error_message)
        self.epoch = told.member_epoch
        self._frame = frame(self._request(), CONSUMER_BEAT)
        if told.assignment is None:
            self._last = body
            return
        self._assigned = [
            TopicPartitions(topic_id=each.topic_id, partitions=each.partitions)
            for each in told.assignment.topic_partitions
        ]
        request = self._request()
        request.topic_partitions = self._assigned
        self._next = frame(request, CONSUMER_BEAT)


def settle(swarm: Swarm, members: list[ConsumerSwarmMember], quiet_s: float) -> None:
    """Let members send heartbeats until nobody has had news for a round, `quiet_s` after the round before."""
    while True:
        time.sleep(quiet_s)
        before = [member.epoch for member in members]
        send_all(swarm, [member.beat for member in members])
        if [member.epoch for member in members] == before and not any(member.has_news for member in members):
            return


def send_all(swarm: Swarm, sends: list[Callable[[], None]]) -> None:
    """Call each, take answers meanwhile, and wait for the last ones."""
    for number, send in enumerate(sends):
        send()
        if number % 50 == 0:
            swarm.turn(0)
    swarm.wait()


def _into(bodies: list[bytes], index: int) -> Callable[[bytes], None]:
    return partial(bodies.__setitem__, index)
