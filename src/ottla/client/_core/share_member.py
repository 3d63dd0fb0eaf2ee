"""A member of a share group (KIP-932): one heartbeat says what it reads and hears which partitions it is to fetch.

Share partitions are not owned: several members may fetch one, so nothing is given up before others get it. What a member has
acquired is the business of its sessions with the brokers (`share_sessions`), and outlives a change of the assignment.

Source: Kafka's Java client (ShareMembershipManager, ShareHeartbeatRequestManager).
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Final, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import MOVED, Coordinator
from ottla.client._core.denials import error_of
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import ErrorCode, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse
from ottla.protocol.schema import Message
from ottla.types import TopicIdPartition

logger = logging.getLogger("ottla.client.groups")

_JOIN: Final = 0
_LEAVE: Final = -1
#: How soon a member that got nothing yet asks again, at first; twice as long each time. A broker may put assignments together
#: for a while, and tells a new one only at the next heartbeat, whose usual interval is 5 s.
_ASK_AGAIN_MS: Final = 100.0
_FENCED: Final = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH)
_UNSUPPORTED: Final = "The broker has no share groups (KIP-932): Kafka has them from 4.2 on, with share.version=1."


class ShareMembership:
    """One member of one share group.

    Attributes:
        member_id: made here; sessions with brokers are opened under it.
        assignment: the partitions to fetch, by topic id; None before the first answer.
        error: what the next call of the caller raises, or None.
        left: whether the group knows nothing of the member, as far as can be known.
    """

    def __init__(self, machine: ClientMachine, coordinator: Coordinator, group_id: str, rack: str) -> None:
        self.member_id = urlsafe_b64encode(machine.random.randbytes(16)).decode().rstrip("=")
        self.assignment: list[TopicIdPartition] | None = None
        self.error: KafkaError | None = None
        self.left = True
        self._machine = machine
        self._coordinator = coordinator
        self.group_id: str = group_id
        self.rack: str = rack
        self._topics: tuple[str, ...] = ()
        self._told: tuple[str, ...] | None = None
        self._epoch = _JOIN
        self._member = False
        self._leaving = False
        self._in_flight = False
        #: Grows when what is in flight does not count any more.
        self._attempt = 0
        self._due_ms = 0.0
        self._failures = 0
        self._ask_again_ms = _ASK_AGAIN_MS

    @property
    def topics(self) -> tuple[str, ...]:
        """What the member reads."""
        return self._topics

    def subscribe(self, topics: Iterable[str], now_ms: float) -> None:
        """Read these topics from now on."""
        self._topics = tuple(sorted(set(topics)))
        for topic in self._topics:
            self._machine.metadata.use(topic, now_ms)
        self._member = True
        self.left = False
        self._due_ms = 0.0
        self._ask_again_ms = _ASK_AGAIN_MS

    def leave(self) -> None:
        """Leave; `left` is true once that is answered, or need not be."""
        if not self._member:
            return
        self._member = False
        if self._epoch == _JOIN and not self._in_flight:
            self.left = True
            return
        self._leaving = True
        self._in_flight = False
        self._attempt += 1
        self._due_ms = 0.0

    def take_error(self) -> KafkaError | None:
        """Return what the caller has to know, once."""
        error, self.error = self.error or self._coordinator.take_error(), None
        return error

    # -- heartbeats -------------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        if not (self._member or self._leaving) or self._in_flight:
            return FOREVER
        if self._due_ms > now_ms:
            return self._due_ms
        retry_ms = self._coordinator.reach(now_ms, actions)
        if retry_ms is not None:
            return retry_ms
        node_id = cast(int, self._coordinator.node_id)
        attempt = self._attempt
        told = None if self._leaving or self._told == self._topics else self._topics

        def build(version: int) -> ShareGroupHeartbeatRequest:
            return ShareGroupHeartbeatRequest(
                group_id=self.group_id,
                member_id=self.member_id,
                member_epoch=_LEAVE if self._leaving else self._epoch,
                rack_id=(self.rack or None) if told is not None else None,
                subscribed_topic_names=None if told is None else list(told),
            )

        def answered(send: Send, response: Message, when_ms: float) -> None:
            if attempt == self._attempt:
                self._in_flight = False
                if told is not None:
                    self._told = told
                self._on_answer(cast(ShareGroupHeartbeatResponse, response), when_ms)

        def failed(send: Send, error: Exception, when_ms: float) -> None:
            self._coordinator.lose(when_ms)
            if attempt != self._attempt:
                return
            self._in_flight = False
            self._told = None
            if self._leaving:
                self._on_left()
            elif isinstance(error, UnsupportedVersionError):
                self._on_error(UnsupportedVersionError(_UNSUPPORTED), when_ms)
            else:
                self._retry(when_ms)

        self._in_flight = True
        self._machine.ask(now_ms, actions, node_id, ApiKey.SHARE_GROUP_HEARTBEAT, build, answered, failed)
        return FOREVER

    def _on_answer(self, response: ShareGroupHeartbeatResponse, now_ms: float) -> None:
        if self._leaving:
            self._on_left()
            return
        code = response.error_code
        if code == ErrorCode.NONE:
            self._failures = 0
            self._epoch = response.member_epoch
            if response.assignment is not None:
                self.assignment = [
                    TopicIdPartition(each.topic_id, number)
                    for each in response.assignment.topic_partitions
                    for number in each.partitions
                ]
                logger.info("group %s: this member fetches %d partitions", self.group_id, len(self.assignment))
            interval_ms: float = response.heartbeat_interval_ms
            if not self.assignment:
                interval_ms = min(interval_ms, self._ask_again_ms)
                self._ask_again_ms *= 2
            self._due_ms = now_ms + interval_ms if self._told == self._topics else now_ms
            self._machine.wake()
        elif code in _FENCED:
            logger.warning("group %s: %s; the member joins again", self.group_id, error_for(code))
            self._begin(now_ms)
        elif code in MOVED or code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            self._coordinator.on_code(code, now_ms)
            self._told = None
            self._retry(now_ms)
        elif code == ErrorCode.UNSUPPORTED_VERSION:
            self._on_error(UnsupportedVersionError(_UNSUPPORTED), now_ms)
        else:
            self._on_error(error_of(code, response.error_message, group=("READ", self.group_id)), now_ms)

    def _on_error(self, error: KafkaError, now_ms: float) -> None:
        self._retry(now_ms)
        if not error.retriable:
            self.error = error
            self._begin(self._due_ms)
            self._machine.wake()

    def _begin(self, due_ms: float) -> None:
        """Join anew, with all there is to say."""
        self._epoch = _JOIN
        self._told = None
        self.assignment = None
        self._due_ms = due_ms

    def _on_left(self) -> None:
        self._leaving = False
        self._epoch = _JOIN
        self.left = True
        self._machine.wake()

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._due_ms = now_ms + self._machine.delay_ms(self._failures)
