"""An instance in a group whose broker shares out tasks (KIP-1071), as its consumer sees it: tasks become partitions.

Between the heartbeat (`client._core.streams_member`) and the consumer's calls: what the broker gives becomes steps of the
consumer (begin, give up, lost), and what the consumer has done is what the heartbeat says. Copies (standby and warm-up tasks)
are no partitions of the consumer's; they are only told.

Three rules keep a task at one member, and its commits apart:

  * What is run is told only when it is all that was given: the broker takes what is not named for given up.
  * Nothing is begun while a heartbeat is on its way that says what is run.
  * Commits go out under the epoch in which all that is run was the member's own; a newer one counts once what it takes away
    is given up.

Sources: KIP-1071; Kafka's StreamsMembershipManager.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import ottla
from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import Coordinator
from ottla.client._core.group import Assign, Fail, Lose, Revoke, Step, Subscription
from ottla.client._core.requests import Action
from ottla.client._core.streams_member import Assignment, StreamsMember, Tasks
from ottla.client._core.streams_member import StreamsSettings as MemberSettings
from ottla.client._core.transactions import GroupMetadata
from ottla.errors import InvalidRequestError, KafkaError
from ottla.streams.errors import StreamsError
from ottla.streams.runtime.group_topology import told_topology
from ottla.streams.runtime.internal_topics import internal_topics
from ottla.streams.topology import TaskId, Topology
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.streams.runtime.settings import StreamsSettings

logger: logging.Logger = logging.getLogger(__name__)

#: What an answer may say of the group (KIP-1071).
_MISSING_SOURCES: Final = 1
_WRONG_PARTITIONS: Final = 2
_SHUTDOWN: Final = 4
_DELAYED: Final = 5
_SESSION_KEY: Final = "streams.session.timeout.ms"
#: So long topics may be missing before the instance stops: brokers hear of new topics one after the other.
_MISSING_MS: Final = 10_000


class StreamsGroup:
    """What an instance brings to its group: topology, process, and who wants to know what the broker says.

    Args:
        counts: the number of partitions of each topic that is read.
        process_id: of the state directory.
        endpoint: where this instance answers questions, "host:port"; "" if nowhere.
        on_copies, on_owners: see `StreamsMembership`.
    """

    def __init__(
        self,
        settings: StreamsSettings,
        topology: Topology,
        counts: Mapping[str, int],
        process_id: str,
        endpoint: str,
        on_copies: Callable[[frozenset[TaskId]], object],
        on_owners: Callable[[Mapping[str, str]], object],
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._counts = counts
        self._on_copies = on_copies
        self._on_owners = on_owners
        host, _, port = endpoint.rpartition(":")
        topics, _ = internal_topics(topology, counts, settings.topic)
        self._member = MemberSettings(
            group_id=settings.application_id,
            topology=told_topology(topology, {topic.name: topic for topic in topics}, settings.replication_factor),
            process_id=process_id,
            rebalance_timeout_ms=settings.max_poll_interval_ms,
            endpoint=(host, int(port)) if endpoint else None,
        )

    def make_membership(self, machine: ClientMachine, coordinator: Coordinator) -> StreamsMembership:
        """For `GroupClient.make_membership`."""
        return StreamsMembership(
            machine,
            coordinator,
            self._member,
            topics={sub.id: sub.source_topics for sub in self._topology.tasks},
            counts=self._counts,
            on_copies=self._on_copies,
            on_owners=self._on_owners,
        )

    def session_timeout_ms(self) -> int:
        """Return after which time without a heartbeat the broker gives a member up: a config of the group.

        Where it may not be read that is 0: then nobody can say whether this instance still owns its tasks, and it answers no
        questions about its state.
        """
        try:
            with ottla.Admin(config=self._settings.admin) as admin:
                found = admin.describe_configs("group", self._settings.application_id, keys=[_SESSION_KEY])
            return int(found[_SESSION_KEY].value or 0)
        except (KafkaError, KeyError) as error:
            logger.warning(
                "%s: questions about its state are not answered, since %s of the group cannot be read: %s",
                *(self._settings.application_id, _SESSION_KEY, error),
            )
            return 0


class StreamsMembership:
    """See the module, and `ottla.client._core.group.Membership`.

    Args:
        topics: by sub-topology, what it reads.
        counts: the number of partitions of each of these topics.
        on_copies: called with the tasks whose stores this member is to follow, when they change; on the client's thread.
        on_owners: called there with where each task is, by task "host:port", when that changes.
    """

    def __init__(
        self,
        machine: ClientMachine,
        coordinator: Coordinator,
        settings: MemberSettings,
        *,
        topics: Mapping[int, Sequence[str]],
        counts: Mapping[str, int],
        on_copies: Callable[[frozenset[TaskId]], object],
        on_owners: Callable[[Mapping[str, str]], object],
    ) -> None:
        self.owned: dict[TopicPartition, None] = {}
        self.rebalances: int = 0
        self.member: StreamsMember = StreamsMember(machine, coordinator, settings)
        self._machine = machine
        self._settings = settings
        self._topics = {str(sub): tuple(names) for sub, names in topics.items()}
        self._readers = {topic: sub for sub, names in topics.items() for topic in names}
        self._counts = dict(counts)
        self._on_copies = on_copies
        self._on_owners = on_owners
        self._identity = GroupMetadata(settings.group_id)
        #: The assignment that `_target` was made of; what the member has told of it.
        self._seen: Assignment | None = None
        self._target: dict[TopicPartition, None] = {}
        self._copies: frozenset[TaskId] = frozenset()
        self._endpoints: object = None
        self._joins = 0
        self._lost = False
        self._since_ms: float | None = None
        self._error: Exception | None = None
        self._status: Sequence[tuple[int, str]] = ()
        #: Since when topics are missing.
        self._missing_ms: float | None = None

    # -- the consumer's side ------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        return True

    @property
    def left(self) -> bool:
        return self.member.left

    @property
    def confirmed_ms(self) -> float | None:
        """When the heartbeat was sent that the coordinator has answered last; None: it may have given the member up."""
        return None if self._lost else self.member.confirmed_ms

    @property
    def identity(self) -> GroupMetadata:
        self._look()
        if not self._lost and self.member.epoch > 0 and self.owned.keys() <= self._target.keys():
            self._take_identity()
        return self._identity

    def _take_identity(self) -> None:
        if self._identity.generation_id != self.member.epoch:
            self._identity = GroupMetadata(self._settings.group_id, self.member.epoch, self.member.member_id, None)

    def subscribe(self, subscription: Subscription) -> None:
        """Join. What is read is what the tasks read."""
        if subscription.topics:
            self.member.join()
            self._joins = self.member.joins
        else:
            self.leave()

    def rejoin(self, reason: str) -> None:
        """The broker decides, and says so with the next heartbeat."""

    def step(self) -> Step | None:
        if self._error is None:
            error = self.member.take_error()
            self._error = None if error is None else _in_words(error, self._settings.group_id)
        if self._error is not None:
            return Fail(self._error)
        self._look()
        if self._lost:
            return Lose(list(self.owned), self._since_ms)
        if self.member.assignment is None:
            return None
        surplus = [where for where in self.owned if where not in self._target]
        if surplus:
            return Revoke(surplus)
        added = [where for where in self._target if where not in self.owned]
        if self.member.tells_tasks or not (added or not self.rebalances):
            return None
        return Assign(added)

    def done(self, step: Step) -> None:
        match step:
            case Fail():
                self._error = None
            case Lose():
                self.owned.clear()
                self._lost = False
                if self._since_ms is not None:
                    self._since_ms = None
                    self.member.join()
                self._joins = self.member.joins
            case Revoke(partitions):
                for where in partitions:
                    self.owned.pop(where, None)
            case Assign(partitions):
                self.owned.update(dict.fromkeys(partitions))
                self.rebalances += 1
        self._look()
        self._tell()

    def on_slow(self, since_ms: float) -> None:
        self._since_ms = since_ms
        self._lost = True
        self.member.leave()

    def on_refused_commit(self, code: int, identity: GroupMetadata) -> None:
        """The next heartbeat tells what has changed."""

    def leave(self) -> None:
        self.member.leave()

    def on_image(self) -> None:
        """Topics are known since the start."""

    # -- the broker's side --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        self._look()
        self._tell()
        self._hear_endpoints()
        self._hear_status(now_ms)
        return self.member.poll(now_ms, actions)

    def _look(self) -> None:
        """Take in what the member has heard."""
        member = self.member
        if self._joins != member.joins:
            if self.owned:
                self._lost = True
            else:
                self._joins = member.joins
        assignment = member.assignment
        if assignment is self._seen:
            return
        self._seen = assignment
        self._target = {}
        if assignment is not None:
            try:
                self._target = dict.fromkeys(self._partitions(assignment.active))
            except StreamsError as error:
                self._error = error
        copies = frozenset() if assignment is None else _ids(assignment.standby) | _ids(assignment.warmup)
        if copies != self._copies:
            self._copies = copies
            self._on_copies(copies)

    def _tell(self) -> None:
        """Say what is run, once that is all that was given."""
        if not self._lost and self._seen is not None and self._target.keys() == self.owned.keys():
            self.member.own(self._seen)

    def _partitions(self, tasks: Tasks) -> list[TopicPartition]:
        found = []
        for sub, numbers in tasks.items():
            topics = self._topics.get(sub)
            if topics is None:
                raise StreamsError(
                    f"The group {self._settings.group_id!r} has a sub-topology {sub}, which this application has not: "
                    "members with different topologies cannot share it."
                )
            for number in numbers:
                its = [TopicPartition(topic, number) for topic in topics if number < self._counts[topic]]
                if not its:
                    told = ", ".join(f"{topic} had {self._counts[topic]}" for topic in topics)
                    raise StreamsError(
                        f"The group gives out a partition {number} of sub-topology {sub}: {told} partitions at the start of "
                        "this instance. Keys would be looked for in the wrong task: the number of partitions of an input "
                        "cannot change while there is state (`ottla streams reset` starts over)."
                    )
                found += its
        return found

    def _hear_endpoints(self) -> None:
        endpoints = self.member.endpoints
        if endpoints is self._endpoints:
            return
        self._endpoints = endpoints
        self._on_owners(
            {
                str(TaskId(self._readers[topic], number)): endpoint
                for endpoint, topics in endpoints.items()
                for topic, numbers in topics.items()
                if topic in self._readers
                for number in numbers
            }
        )

    def _hear_status(self, now_ms: float) -> None:
        """Log what the group lacks, and stop where it cannot go on."""
        status = self.member.status
        if status != self._status:
            self._status = status
            for code, words in status:
                if code != _DELAYED:
                    logger.warning("group %s: %s", self._settings.group_id, words)
        lacking = next((words for code, words in status if code in (_MISSING_SOURCES, _WRONG_PARTITIONS)), None)
        if lacking is None:
            self._missing_ms = None
        elif self._missing_ms is None:
            self._missing_ms = now_ms
        elif now_ms - self._missing_ms >= _MISSING_MS:
            self._stop(f"The group {self._settings.group_id!r} has no tasks to give: {lacking}")
        shutdown = next((words for code, words in status if code == _SHUTDOWN), None)
        if shutdown is not None:
            self._stop(shutdown)

    def _stop(self, words: str) -> None:
        if self._error is None:
            self._error = StreamsError(words)
            self._machine.wake()


def _ids(tasks: Tasks) -> frozenset[TaskId]:
    return frozenset(TaskId(int(sub), number) for sub, numbers in tasks.items() for number in numbers)


def _in_words(error: KafkaError, group_id: str) -> Exception:
    """Say what a refusal means for an application."""
    if isinstance(error, InvalidRequestError):
        return StreamsError(
            f"The group {group_id!r} refuses this member: {error} With group.protocol=streams a group keeps the topology of "
            "its first member: a changed application needs a new application id, or group.protocol=classic."
        )
    return error
