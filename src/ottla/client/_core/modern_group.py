"""A consumer's membership in a group whose broker assigns (KIP-848): one heartbeat says and hears everything.

A heartbeat names what has changed since the last one: the subscription, what the member owns. Its answer may hold a new
target. The caller gives up what is not in it, begins with what is new, and the next heartbeat says so. Topics come as
ids: those that metadata does not know yet are begun once it does.

Sources: Kafka's Java client (AbstractMembershipManager, ConsumerHeartbeatRequestManager); KIP-848, KIP-1082 (the
member makes its own id).
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Final, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import MOVED, Coordinator
from ottla.client._core.denials import error_of
from ottla.client._core.group import Assign, Fail, GroupSettings, Lose, Revoke, Step, Subscription
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.client._core.transactions import GroupMetadata
from ottla.errors import ErrorCode, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.schema import Message
from ottla.types import TopicPartition

logger = logging.getLogger("ottla.client.groups")

_JOIN: Final = 0
_LEAVE: Final = -1
#: A static member that leaves so may come back.
_LEAVE_STATIC: Final = -2
#: How long a new member waits before it believes that it gets no partition. Kafka puts assignments together for a while
#: (group.consumer.assignment.interval.ms, 1 s) and answers with the old one, in which the member has none, until then.
_NOTHING_MS: Final = 3_000
_FENCED: Final = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH)


class ModernMembership:
    """See `group.Membership`.

    Args:
        on_unsupported: called when the broker has no such groups.
    """

    def __init__(
        self,
        machine: ClientMachine,
        coordinator: Coordinator,
        settings: GroupSettings,
        on_unsupported: Callable[[], None],
    ) -> None:
        self.owned: dict[TopicPartition, None] = {}
        self.rebalances = 0
        self.left = True
        self._machine = machine
        self._coordinator = coordinator
        self._settings = settings
        self._on_unsupported = on_unsupported
        self._member_id = urlsafe_b64encode(machine.random.randbytes(16)).decode().rstrip("=")
        self._epoch = _JOIN
        self._member = False
        self._leaving = False
        self._subscription = Subscription()
        self._told: tuple[object, ...] | None = None
        self._told_owned: frozenset[TopicPartition] | None = None
        self._target: Mapping[bytes, list[int]] | None = None
        #: When the target came, and whether a heartbeat was answered without another one after `_NOTHING_MS`.
        self._target_ms = 0.0
        self._target_stands = False
        #: Names of topics that were in a target: metadata may lose sight of one for a while.
        self._names: dict[bytes, str] = {}
        #: Whether the next heartbeat says what is owned, also if that is what it was; whether one that does is on its way.
        self._ack_wanted = False
        self._owned_in_flight = False
        self._lost = False
        self._since_ms: float | None = None
        self._error: Exception | None = None
        self._identity = GroupMetadata(settings.group_id)
        self._in_flight = False
        self._attempt = 0
        self._due_ms = 0.0
        self._failures = 0

    # -- the caller's side ------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        return True

    @property
    def identity(self) -> GroupMetadata:
        return self._identity

    def subscribe(self, subscription: Subscription) -> None:
        self._subscription = subscription
        if not subscription.topics and subscription.pattern is None:
            self.leave()
            return
        self._member = True
        self.left = False
        self._due_ms = 0.0

    def rejoin(self, reason: str) -> None:
        """The broker decides; a heartbeat at once asks what it has decided."""
        self._due_ms = 0.0

    def step(self) -> Step | None:
        if self._error is not None:
            return Fail(self._error)
        if self._lost:
            return Lose(list(self.owned), self._since_ms)
        if self._target is None:
            return None
        target, complete = self._named_target()
        surplus = [where for where in self.owned if where not in target]
        if surplus:
            return Revoke(surplus)
        added = [where for where in target if where not in self.owned]
        if not (added or self.rebalances or self._target_stands):
            # Kafka may answer before it has assigned anything to the new member: that it gets nothing has to stand a while.
            return None
        if self._owned_in_flight or not (added or complete):
            # The broker would take what a heartbeat on its way does not name for given up, and give it to others.
            return None
        return Assign(added)

    def _named_target(self) -> tuple[dict[TopicPartition, None], bool]:
        """Return the target by the topics' names, and whether all of it is known."""
        image = self._machine.metadata.image
        found: dict[TopicPartition, None] = {}
        complete = True
        for topic_id, numbers in (self._target or {}).items():
            info = image.topic_named(topic_id)
            if info is not None:
                self._names[topic_id] = info.name
            elif topic_id not in self._names:
                complete = False
                continue
            name = self._names[topic_id]
            found.update(dict.fromkeys(TopicPartition(name, number) for number in numbers))
        if not complete:
            self._machine.metadata.request_update()
        return found, complete

    def done(self, step: Step) -> None:
        match step:
            case Fail():
                self._error = None
            case Lose():
                self.owned.clear()
                self._lost = False
                if self._since_ms is not None:
                    self._since_ms = None
                    self._begin()
                self._take_identity()
            case Revoke(partitions):
                for where in partitions:
                    self.owned.pop(where, None)
            case Assign(partitions):
                self.owned.update(dict.fromkeys(partitions))
                self.rebalances += 1
                if self._named_target()[1]:
                    self._target = None
                self._ack_wanted = True
                self._due_ms = 0.0

    def on_slow(self, since_ms: float) -> None:
        self._since_ms = since_ms
        self._lost = True
        self._target = None
        self.leave()

    def on_refused_commit(self, code: int, identity: GroupMetadata) -> None:
        self._due_ms = 0.0  # the next heartbeat tells

    def leave(self) -> None:
        if not self._member:
            return
        self._member = False
        self._target = None
        if self._epoch == _JOIN and not self._in_flight:
            self.left = True
            return
        self._leaving = True
        self._due_ms = 0.0
        self._in_flight = self._owned_in_flight = False
        self._attempt += 1

    def on_image(self) -> None:
        """Topics of the target may have names now: `step` looks."""

    def _begin(self) -> None:
        """Join, with all there is to say."""
        self._member = True
        self.left = False
        self._leaving = False
        self._epoch = _JOIN
        self._told = self._told_owned = None
        self._ack_wanted = False
        self._target = None
        self._due_ms = 0.0

    def _take_identity(self) -> None:
        settings = self._settings
        self._identity = GroupMetadata(settings.group_id, self._epoch, self._member_id, settings.group_instance_id)

    # -- heartbeats -------------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        if not self._member and not self._leaving:
            return FOREVER
        if self._in_flight:
            return FOREVER
        if self._due_ms > now_ms:
            return self._due_ms
        retry_ms = self._coordinator.reach(now_ms, actions)
        if retry_ms is not None:
            return retry_ms
        node_id = cast(int, self._coordinator.node_id)
        pattern = self._subscription.pattern
        version = self._machine.connections.version(node_id, ApiKey.CONSUMER_GROUP_HEARTBEAT)
        if version is None or (pattern is not None and version < 1):
            self._on_unsupported()
            return now_ms
        request = self._make_request(version)
        attempt = self._attempt

        def answered(send: Send, response: Message, when_ms: float) -> None:
            if attempt == self._attempt:
                self._in_flight = self._owned_in_flight = False
                self._on_answer(cast(ConsumerGroupHeartbeatResponse, response), when_ms)

        def failed(send: Send, error: Exception, when_ms: float) -> None:
            self._coordinator.lose(when_ms)
            if attempt != self._attempt:
                return
            self._in_flight = self._owned_in_flight = False
            self._tell_all()
            if self._leaving:
                self._on_left()
            elif isinstance(error, UnsupportedVersionError):
                self._on_unsupported()
            else:
                self._retry(when_ms)

        self._in_flight = True
        self._owned_in_flight = request.topic_partitions is not None
        self._machine.ask(
            now_ms, actions, node_id, ApiKey.CONSUMER_GROUP_HEARTBEAT, lambda _: request, answered, failed
        )
        return FOREVER

    def _make_request(self, version: int) -> ConsumerGroupHeartbeatRequest:
        settings, subscription = self._settings, self._subscription
        request = ConsumerGroupHeartbeatRequest(
            group_id=settings.group_id,
            member_id=self._member_id,
            member_epoch=self._epoch,
            instance_id=settings.group_instance_id,
        )
        if self._leaving:
            request.member_epoch = _LEAVE if settings.group_instance_id is None else _LEAVE_STATIC
            return request
        told = (subscription.topics, subscription.pattern)
        if self._told != told:
            request.rebalance_timeout_ms = int(settings.max_poll_interval_ms)
            request.rack_id = settings.client_rack or None
            request.server_assignor = settings.remote_assignor
            if subscription.pattern is None:
                request.subscribed_topic_names = list(subscription.topics)
                if version >= 1 and self._told is not None:
                    request.subscribed_topic_regex = ""
            else:
                request.subscribed_topic_regex = subscription.pattern
                request.subscribed_topic_names = []
            self._told = told
        owned = frozenset(() if self._lost else self.owned)
        if self._epoch == _JOIN or (self._may_tell_owned and (self._ack_wanted or self._told_owned != owned)):
            self._ack_wanted = False
            request.topic_partitions = self._with_ids(owned)
            self._told_owned = owned
        return request

    @property
    def _may_tell_owned(self) -> bool:
        """Whether what is owned agrees with what the broker has given: else it would take the rest for given up."""
        return self._target is None or self._named_target()[0].keys() == self.owned.keys()

    def _with_ids(self, owned: frozenset[TopicPartition]) -> list[TopicPartitions]:
        ids = {name: topic_id for topic_id, name in self._names.items()}
        by_id: dict[bytes, list[int]] = {}
        for topic, partition in sorted(owned):
            by_id.setdefault(ids[topic], []).append(partition)
        return [TopicPartitions(topic_id=topic_id, partitions=numbers) for topic_id, numbers in by_id.items()]

    def _on_answer(self, response: ConsumerGroupHeartbeatResponse, now_ms: float) -> None:
        if self._leaving:
            self._on_left()
            return
        code = response.error_code
        if code == ErrorCode.NONE:
            self._failures = 0
            self._due_ms = now_ms + response.heartbeat_interval_ms
            if response.member_id:
                self._member_id = response.member_id
            self._epoch = response.member_epoch
            if not self._lost:
                self._take_identity()
            if response.assignment is not None:
                self._target = {each.topic_id: list(each.partitions) for each in response.assignment.topic_partitions}
                self._target_ms = now_ms
            self._target_stands = response.assignment is None and now_ms - self._target_ms >= _NOTHING_MS
            told = (self._subscription.topics, self._subscription.pattern)
            if self._told != told or (self._ack_wanted and self._may_tell_owned):
                self._due_ms = now_ms
            self._machine.wake()
        elif code in _FENCED:
            if self.owned:
                self._lost = True
                logger.warning("group %s: %s; its partitions are lost", self._settings.group_id, error_for(code))
            self._begin()
            self._machine.wake()
        elif code in MOVED or code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            self._coordinator.on_code(code, now_ms)
            self._tell_all()
            self._retry(now_ms)
        elif code == ErrorCode.UNSUPPORTED_VERSION:
            self._on_unsupported()
        else:
            self._on_error(error_of(code, response.error_message, group=("READ", self._settings.group_id)), now_ms)

    def _tell_all(self) -> None:
        """It is not known what the broker has heard, nor whether it has changed the target since.

        The next heartbeat says everything; its answer brings the target.
        """
        self._told = self._told_owned = self._target = None

    def _on_error(self, error: KafkaError, now_ms: float) -> None:
        self._tell_all()
        self._retry(now_ms)
        if error.retriable:
            return
        self._error = error
        if self.owned:
            self._lost = True
        if error.code == ErrorCode.FENCED_INSTANCE_ID:
            error.hint = "Give each running instance a group.instance.id of its own."
            self._member = False
            self.left = True
        else:
            self._epoch = _JOIN
        self._machine.wake()

    def _on_left(self) -> None:
        self._leaving = False
        self._epoch = _JOIN
        self._told = self._told_owned = None
        self.left = True
        self._machine.wake()

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._due_ms = now_ms + self._machine.delay_ms(self._failures)
