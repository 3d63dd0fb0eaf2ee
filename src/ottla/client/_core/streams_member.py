"""A member of a streams group (KIP-1071): one heartbeat says what it runs and hears which tasks it is to run.

The broker assigns tasks, subtopologies with a partition each, and makes internal topics; the program runs them. It takes in
`assignment`, gives tasks up and begins others, and says by `own` what it runs then: a task goes to another member only once
this one has said that it has given it up. What the program does with tasks is not known here.

The first heartbeat has everything, later ones what has changed. Source: Kafka's Java client (StreamsMembershipManager,
StreamsGroupHeartbeatRequestManager).
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import MOVED, Coordinator
from ottla.client._core.denials import error_of
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import ErrorCode, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.streams_group_heartbeat import (
    Endpoint,
    EndpointToPartitions,
    KeyValue,
    StreamsGroupHeartbeatRequest,
    StreamsGroupHeartbeatResponse,
    TaskIds,
    Topology,
)
from ottla.protocol.schema import Message

logger = logging.getLogger("ottla.client.groups")

_JOIN: Final = 0
_LEAVE: Final = -1
#: A static member leaves for a while: its tasks are kept until its session ends.
_LEAVE_STATIC: Final = -2
#: No list of endpoints was heard.
_NO_ENDPOINTS: Final = -1
_FENCED: Final = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH)
_UNSUPPORTED: Final = "The broker has no streams groups (KIP-1071): Kafka has them from 4.1 on, with streams.version=1."

#: Partitions by subtopology.
Tasks = Mapping[str, tuple[int, ...]]


class Assignment(NamedTuple):
    """Tasks that a member is to run, or runs: as the only one, as a copy, as a copy that is to become the only one."""

    active: Tasks = {}
    standby: Tasks = {}
    warmup: Tasks = {}


class StreamsSettings(NamedTuple):
    """Who the member is.

    Attributes:
        topology: what is run; its epoch grows with each change.
        process_id: the same for members that share one process, and its state.
        rebalance_timeout_ms: how long this member may take to give tasks up.
        group_instance_id: makes it a static one.
        endpoint: (host, port) under which others may ask it about its state.
        client_tags: what the broker may spread standby tasks by.
    """

    group_id: str
    topology: Topology
    process_id: str
    rebalance_timeout_ms: int = 300_000
    group_instance_id: str | None = None
    rack_id: str | None = None
    endpoint: tuple[str, int] | None = None
    client_tags: Mapping[str, str] = {}


class StreamsMember:
    """One member of one streams group.

    Attributes:
        member_id: made here.
        epoch: the member's; 0 before the group has taken it in.
        joins: how often it began to join: once, and each time that the group had given it up. What was run before is not the
            member's any more.
        assignment: what it is to run; None before the first answer, and again after it was fenced: then it runs nothing.
        tells_tasks: whether a heartbeat is on its way that says what is run. The broker takes what it does not name for given
            up: begin with nothing before it is answered.
        status: what the group lacks, as (code, words): missing source topics, say.
        confirmed_ms: when the heartbeat was sent that was answered last; None before, and after the member was fenced.
        heartbeat_interval_ms: what the last answer said; 0 before.
        endpoints: by "host:port" of a member that answers questions, the partitions of topics whose tasks it runs.
        error: what the program has to know, or None.
        left: whether the group knows nothing of the member, as far as can be known.
    """

    def __init__(self, machine: ClientMachine, coordinator: Coordinator, settings: StreamsSettings) -> None:
        self.member_id: str = urlsafe_b64encode(machine.random.randbytes(16)).decode().rstrip("=")
        self.epoch: int = _JOIN
        self.joins: int = 0
        self.assignment: Assignment | None = None
        self.tells_tasks: bool = False
        self.status: Sequence[tuple[int, str]] = ()
        self.confirmed_ms: float | None = None
        self.heartbeat_interval_ms: int = 0
        self.endpoints: Mapping[str, Mapping[str, tuple[int, ...]]] = {}
        self.error: KafkaError | None = None
        self.left: bool = True
        self._machine = machine
        self._coordinator = coordinator
        self._settings = settings
        self._owned = Assignment()
        self._told: Assignment | None = None
        self._member = False
        self._leaving = False
        self._in_flight = False
        #: The group may know the member: it was sent a heartbeat, which may have been heard even if no answer came.
        self._known = False
        #: A heartbeat got no answer: what it has changed, new tasks perhaps, was not heard.
        self._unheard = False
        self._endpoints_epoch = _NO_ENDPOINTS
        #: Grows when what is in flight does not count any more.
        self._attempt = 0
        self._due_ms = 0.0
        self._failures = 0

    def join(self) -> None:
        """Become a member."""
        self._member = True
        self.left = False
        self._begin(0.0)

    def own(self, owned: Assignment) -> None:
        """The program runs these tasks now, and no others."""
        self._owned = owned
        if self._told != owned:
            self._due_ms = 0.0

    def leave(self) -> None:
        """Leave; `left` is true once that is answered, or need not be. The program runs no task any more."""
        if not self._member:
            return
        self._member = False
        if not self._known:
            self.left = True
            return
        self._leaving = True
        self._in_flight = self.tells_tasks = False
        self._attempt += 1
        self._due_ms = 0.0

    def take_error(self) -> KafkaError | None:
        """Return what the program has to know, once."""
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
        attempt, owned = self._attempt, self._owned
        request = self._request(owned)

        def answered(send: Send, response: Message, when_ms: float) -> None:
            if attempt == self._attempt:
                self._in_flight = self.tells_tasks = False
                self._on_answer(cast(StreamsGroupHeartbeatResponse, response), owned, now_ms, when_ms)

        def failed(send: Send, error: Exception, when_ms: float) -> None:
            self._coordinator.lose(when_ms)
            if attempt != self._attempt:
                return
            self._in_flight = self.tells_tasks = False
            self._told = None  # it may have been heard, or not: say all again
            self._unheard = True
            if self._leaving:
                self._on_left()
            elif isinstance(error, UnsupportedVersionError):
                self._unheard = self._known = False
                self._on_error(UnsupportedVersionError(_UNSUPPORTED), when_ms)
            else:
                self._retry(when_ms)

        self._in_flight = self._known = True
        self.tells_tasks = request.active_tasks is not None
        self._machine.ask(
            now_ms, actions, node_id, ApiKey.STREAMS_GROUP_HEARTBEAT, lambda version: request, answered, failed
        )
        return FOREVER

    def _request(self, owned: Assignment) -> StreamsGroupHeartbeatRequest:
        settings = self._settings
        request = StreamsGroupHeartbeatRequest(
            group_id=settings.group_id,
            member_id=self.member_id,
            member_epoch=self.epoch,
            instance_id=settings.group_instance_id,
            endpoint_information_epoch=self._endpoints_epoch,
        )
        if self._leaving:
            request.member_epoch = _LEAVE if settings.group_instance_id is None else _LEAVE_STATIC
            return request
        if self.epoch == _JOIN:
            request.rebalance_timeout_ms = settings.rebalance_timeout_ms
            request.topology = settings.topology
            request.process_id = settings.process_id
            request.rack_id = settings.rack_id
            request.client_tags = [KeyValue(key=key, value=value) for key, value in settings.client_tags.items()]
            if settings.endpoint is not None:
                request.user_endpoint = Endpoint(host=settings.endpoint[0], port=settings.endpoint[1])
            owned = Assignment()  # who joins runs nothing
        elif self._told == owned:
            return request
        request.active_tasks = _wire(owned.active)
        request.standby_tasks = _wire(owned.standby)
        request.warmup_tasks = _wire(owned.warmup)
        return request

    def _on_answer(
        self, response: StreamsGroupHeartbeatResponse, owned: Assignment, sent_ms: float, now_ms: float
    ) -> None:
        if self._leaving:
            self._on_left()
            return
        code = response.error_code
        if code == ErrorCode.NONE:
            self._failures = 0
            joined = self.epoch == _JOIN
            if self._unheard and not joined and response.active_tasks is None and response.member_epoch != self.epoch:
                # Tasks may have come with the answer that was lost, and Kafka 4.3 does not say them again.
                logger.warning("group %s: an assignment was not heard; the member joins again", self._settings.group_id)
                self._begin(now_ms)
                self._machine.wake()
                return
            self._unheard = False
            self.epoch = response.member_epoch
            self.confirmed_ms = sent_ms
            self.heartbeat_interval_ms = response.heartbeat_interval_ms
            if response.partitions_by_user_endpoint is not None:
                self._endpoints_epoch = response.endpoint_information_epoch
                self.endpoints = _endpoints(response.partitions_by_user_endpoint)
            self._told = Assignment() if joined else owned
            if response.status is not None:
                self.status = [(each.status_code, each.status_detail) for each in response.status]
            if response.active_tasks is not None:
                self.assignment = Assignment(
                    _tasks(response.active_tasks), _tasks(response.standby_tasks), _tasks(response.warmup_tasks)
                )
                logger.info("group %s: this member is to run %s", self._settings.group_id, self.assignment)
            # What the program has begun or given up meanwhile is said at once.
            self._due_ms = now_ms + response.heartbeat_interval_ms if self._told == self._owned else now_ms
            self._machine.wake()
        elif code in _FENCED:
            logger.warning("group %s: %s; the member joins again", self._settings.group_id, error_for(code))
            self._known = code != ErrorCode.UNKNOWN_MEMBER_ID
            self._begin(now_ms)
            self._machine.wake()
        elif code in MOVED or code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            self._coordinator.on_code(code, now_ms)
            self._told = None
            self._retry(now_ms)
        elif code == ErrorCode.UNSUPPORTED_VERSION:
            self._on_error(UnsupportedVersionError(_UNSUPPORTED), now_ms)
        else:
            self._on_error(error_of(code, response.error_message, group=("READ", self._settings.group_id)), now_ms)

    def _on_error(self, error: KafkaError, now_ms: float) -> None:
        self._retry(now_ms)
        if not error.retriable:
            self.error = error
            self._begin(self._due_ms)
            self._machine.wake()

    def _begin(self, due_ms: float) -> None:
        """Join anew, with all there is to say; the tasks that were run belong to others by now."""
        self.joins += 1
        self.epoch = _JOIN
        self.confirmed_ms = None
        self._unheard = False
        self._endpoints_epoch = _NO_ENDPOINTS
        self._told = None
        self._owned = Assignment()
        self.assignment = None
        self._due_ms = due_ms

    def _on_left(self) -> None:
        self._leaving = self._known = False
        self.epoch = _JOIN
        self.left = not self._member  # it may have asked to come back meanwhile
        self._machine.wake()

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._due_ms = now_ms + self._machine.delay_ms(self._failures)


def _wire(tasks: Tasks) -> list[TaskIds]:
    return [
        TaskIds(subtopology_id=name, partitions=list(numbers)) for name, numbers in sorted(tasks.items()) if numbers
    ]


def _endpoints(wire: Sequence[EndpointToPartitions]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        f"{each.user_endpoint.host}:{each.user_endpoint.port}": {
            of_topic.topic: tuple(of_topic.partitions) for of_topic in each.active_partitions
        }
        for each in wire
    }


def _tasks(wire: Sequence[TaskIds] | None) -> Tasks:
    return {each.subtopology_id: tuple(each.partitions) for each in wire or ()}
