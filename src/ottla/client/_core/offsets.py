"""What a group has committed: commits go out in order, one at a time; partitions that begin there get their position.

A commit waits while the member joins, and is tried again for as long as its caller waits. Sources: Kafka's Java client
(ConsumerCoordinator, CommitRequestManager); KIP-447 (`require_stable`: offsets that a transaction may still change are
waited for), KIP-320 (leader epochs are kept beside offsets), KIP-848 (version 10: topics by id, where all ids are known).

With ids an offset of a topic that was deleted is not committed for one of the same name that was made since: such a commit
goes out again under the same id, as a broker may know a new topic a moment late, and fails after UNKNOWN_ID_TRIES.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, cast

from ottla.client._core.client import ClientMachine, OnAnswer, OnFailure
from ottla.client._core.coordinator import MOVED, Coordinator
from ottla.client._core.denials import error_of
from ottla.client._core.operation import Operation
from ottla.client._core.partitions import COMMITTED, PartitionState
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.client._core.transactions import GroupMetadata, OffsetAndMetadata
from ottla.client.errors import CommitFailedError
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
)
from ottla.protocol.schema import Message
from ottla.types import ZERO_UUID, TopicPartition

if TYPE_CHECKING:
    from ottla.client._core.fetching import Fetcher
    from ottla.client._core.group import Membership

logger = logging.getLogger("ottla.client.groups")

#: The group does not know the member, or no longer in this generation.
REFUSED: Final = frozenset(
    {
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.FENCED_INSTANCE_ID,
        ErrorCode.FENCED_MEMBER_EPOCH,
    }
)
_FOR_NOW: Final = frozenset(
    {
        *MOVED,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.REBALANCE_IN_PROGRESS,
        ErrorCode.STALE_MEMBER_EPOCH,
        ErrorCode.UNSTABLE_OFFSET_COMMIT,
    }
)


#: The last version that names topics; from the next one on they have ids.
_NAMED: Final = 9
_Part = OffsetFetchResponsePartition | OffsetFetchResponsePartitions
#: How often offsets of a topic whose id no broker knows go out.
UNKNOWN_ID_TRIES: Final = 10


class Commit(Operation):
    """Offsets on their way.

    Attributes:
        identity: who commits; None: the member as it is when they go out.
        sent_as: as whom they went out last.
        topic_ids: of the topics when they first went out; zeros where none is known.
    """

    __slots__ = ("failures", "identity", "offsets", "sent_as", "topic_ids")

    def __init__(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], identity: GroupMetadata | None) -> None:
        super().__init__("commit")
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = dict(offsets)
        self.identity: GroupMetadata | None = identity
        self.sent_as: GroupMetadata | None = None
        self.topic_ids: dict[str, bytes] = {}
        self.failures: int = 0


class CommittedQuery(Operation):
    """What a group has committed.

    Attributes:
        offsets: the answer; None where nothing is.
    """

    __slots__ = ("failures", "offsets", "partitions", "require_stable")

    def __init__(self, partitions: Iterable[TopicPartition], *, require_stable: bool) -> None:
        super().__init__("committed offsets")
        self.partitions: list[TopicPartition] = list(partitions)
        self.require_stable: bool = require_stable
        self.offsets: dict[TopicPartition, OffsetAndMetadata | None] = {}
        self.failures: int = 0


class Offsets:
    """The OffsetCommit and OffsetFetch requests of one group.

    Attributes:
        membership: the member, or None where partitions are assigned by hand.
        commits, commits_failed: how many.
    """

    commits: int
    commits_failed: int

    def __init__(self, machine: ClientMachine, coordinator: Coordinator, group_id: str, fetcher: Fetcher) -> None:
        self.membership: Membership | None = None
        self.commits = 0
        self.commits_failed = 0
        self._machine = machine
        self._coordinator = coordinator
        self._group_id = group_id
        self._fetcher = fetcher
        self._commits: deque[Commit] = deque()
        self._commit_in_flight = False
        self._commit_retry_ms = 0.0
        self._queries: dict[CommittedQuery, float] = {}
        self._placing = False
        self._place_retry_ms = 0.0
        self._place_failures = 0

    # -- the caller's side ------------------------------------------------------------------------------------------

    def commit(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], identity: GroupMetadata | None = None
    ) -> Commit:
        """Commit offsets: behind those that are on their way."""
        operation = Commit(offsets, identity)
        if offsets:
            self._commits.append(operation)
        else:
            operation.finish()
        return operation

    def fetch(self, partitions: Iterable[TopicPartition], *, require_stable: bool = True) -> CommittedQuery:
        """Ask what the group has committed."""
        query = CommittedQuery(partitions, require_stable=require_stable)
        if query.partitions:
            self._queries[query] = 0.0
        else:
            query.finish()
        return query

    def cancel(self, operation: Operation) -> None:
        """The caller does not wait any longer; a commit that is on its way may be made all the same."""
        if isinstance(operation, CommittedQuery):
            self._queries.pop(operation, None)
        elif isinstance(operation, Commit) and operation in self._commits:
            self._commits.remove(operation)

    @property
    def committing(self) -> bool:
        """Whether commits are on their way."""
        return bool(self._commits) or self._commit_in_flight

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        wake_ms = min(self._poll_commits(now_ms, actions), self._poll_places(now_ms, actions))
        for query, retry_ms in self._queries.items():
            if retry_ms > now_ms:
                wake_ms = min(wake_ms, retry_ms)
                continue
            retry = self._coordinator.reach(now_ms, actions)
            if retry is not None:
                return min(wake_ms, retry)
            self._queries[query] = FOREVER
            self._ask_committed(
                query.partitions, query.require_stable, self._on_query, self._on_no_query, query, now_ms, actions
            )
        return wake_ms

    def _poll_commits(self, now_ms: float, actions: list[Action]) -> float:
        if not self._commits or self._commit_in_flight:
            return FOREVER
        membership = self.membership
        if membership is not None and not membership.settled:
            return FOREVER
        if self._commit_retry_ms > now_ms:
            return self._commit_retry_ms
        retry_ms = self._coordinator.reach(now_ms, actions)
        if retry_ms is not None:
            return retry_ms
        operation = self._commits[0]
        identity = operation.identity or (GroupMetadata(self._group_id) if membership is None else membership.identity)
        operation.sent_as = identity
        topics: dict[str, OffsetCommitRequestTopic] = {}
        for (topic, partition), (offset, leader_epoch, metadata) in operation.offsets.items():
            part = OffsetCommitRequestPartition(
                partition_index=partition,
                committed_offset=offset,
                committed_leader_epoch=leader_epoch,
                committed_metadata=metadata,
            )
            topic_id = operation.topic_ids.setdefault(topic, self._topic_id(topic))
            topics.setdefault(topic, OffsetCommitRequestTopic(name=topic, topic_id=topic_id)).partitions.append(part)
        names = {topic_id: topic for topic, topic_id in operation.topic_ids.items()}

        def build(version: int) -> Message:
            request = OffsetCommitRequest(
                group_id=self._group_id,
                generation_id_or_member_epoch=identity.generation_id,
                member_id=identity.member_id,
                topics=list(topics.values()),
            )
            if version >= 7:
                request.group_instance_id = identity.group_instance_id
            return request

        self._commit_in_flight = True
        node_id = cast(int, self._coordinator.node_id)
        self._machine.ask(
            *(now_ms, actions, node_id, ApiKey.OFFSET_COMMIT, build, self._on_commit, self._on_no_commit),
            at_most=_NAMED if ZERO_UUID in names else None,
            context=operation,
            names=names,
        )
        return FOREVER

    def _topic_id(self, topic: str) -> bytes:
        info = self._machine.metadata.image.topics.get(topic)
        return ZERO_UUID if info is None else info.id

    def _poll_places(self, now_ms: float, actions: list[Action]) -> float:
        """Partitions that begin where the group has committed."""
        wanted = [
            state
            for state in self._fetcher.partitions.values()
            if state.position is None and state.wanted == COMMITTED and state.error is None
        ]
        if not wanted or self._placing:
            return FOREVER
        if self._place_retry_ms > now_ms:
            return self._place_retry_ms
        retry_ms = self._coordinator.reach(now_ms, actions)
        if retry_ms is not None:
            return retry_ms
        self._placing = True
        asked = {state.topic_partition: (state, state.generation) for state in wanted}
        self._ask_committed(list(asked), True, self._on_places, self._on_no_places, asked, now_ms, actions)
        return FOREVER

    def _ask_committed(
        self,
        partitions: list[TopicPartition],
        require_stable: bool,
        on_answer: OnAnswer,
        on_failure: OnFailure,
        context: object,
        now_ms: float,
        actions: list[Action],
    ) -> None:
        by_topic: dict[str, list[int]] = {}
        for topic, partition in partitions:
            by_topic.setdefault(topic, []).append(partition)
        group_id = self._group_id
        ids = {topic: self._topic_id(topic) for topic in by_topic}
        names = {topic_id: topic for topic, topic_id in ids.items()}

        def build(version: int) -> Message:
            if version < 8:
                request = OffsetFetchRequest(
                    group_id=group_id,
                    topics=[
                        OffsetFetchRequestTopic(name=topic, partition_indexes=numbers)
                        for topic, numbers in by_topic.items()
                    ],
                )
            else:
                group = OffsetFetchRequestGroup(
                    group_id=group_id,
                    topics=[
                        OffsetFetchRequestTopics(name=topic, topic_id=ids[topic], partition_indexes=numbers)
                        for topic, numbers in by_topic.items()
                    ],
                )
                request = OffsetFetchRequest(groups=[group])
            if version >= 7:
                request.require_stable = require_stable
            return request

        node_id = cast(int, self._coordinator.node_id)
        self._machine.ask(
            *(now_ms, actions, node_id, ApiKey.OFFSET_FETCH, build, on_answer, on_failure),
            at_most=_NAMED if ZERO_UUID in names else None,
            context=context,
            names=names,
        )

    # -- answers to commits -----------------------------------------------------------------------------------------

    def _on_no_commit(self, send: Send, error: Exception, now_ms: float) -> None:
        self._commit_in_flight = False
        self._coordinator.lose(now_ms)
        operation = cast(Commit, send.context)
        if isinstance(error, KafkaError) and not error.retriable:
            self._finish_commit(operation, error)
        else:
            self._retry_commit(operation, now_ms)

    def _on_commit(self, send: Send, response: Message, now_ms: float) -> None:
        self._commit_in_flight = False
        operation = cast(Commit, send.context)
        worst, concerned = 0, ""
        for topic in cast(OffsetCommitResponse, response).topics:
            name = send.names.get(topic.topic_id, "") if send.version > _NAMED else topic.name
            for part in topic.partitions:
                if part.error_code == ErrorCode.NONE:
                    where = TopicPartition(name, part.partition_index)
                    state = self._fetcher.partitions.get(where)
                    if state is not None and where in operation.offsets:
                        state.committed = state.base = operation.offsets[where].offset
                elif not worst or part.error_code in REFUSED:
                    worst, concerned = part.error_code, name
        if not worst:
            self._finish_commit(operation, None)
            return
        error = error_of(worst, topic=("READ", concerned), group=("READ", self._group_id))
        if worst in REFUSED:
            if self.membership is not None and operation.sent_as is not None:
                self.membership.on_refused_commit(worst, operation.sent_as)
            refused = CommitFailedError(f"The offsets were not committed: {error}")
            refused.__cause__ = error
            self._finish_commit(operation, refused)
        elif worst == ErrorCode.UNKNOWN_TOPIC_ID and operation.failures >= UNKNOWN_ID_TRIES:
            gone = CommitFailedError("The offsets were not committed: a topic of theirs was deleted.")
            gone.__cause__ = error
            self._finish_commit(operation, gone)
        elif worst in _FOR_NOW or error.retriable:
            if worst == ErrorCode.UNKNOWN_TOPIC_ID:
                self._machine.metadata.request_update()
            self._coordinator.on_code(worst, now_ms)
            self._retry_commit(operation, now_ms)
        else:
            self._finish_commit(operation, error)

    def _retry_commit(self, operation: Commit, now_ms: float) -> None:
        operation.failures += 1
        self._commit_retry_ms = now_ms + self._machine.delay_ms(operation.failures)

    def _finish_commit(self, operation: Commit, error: Exception | None) -> None:
        if operation in self._commits:
            self._commits.remove(operation)
        self._commit_retry_ms = 0.0
        self.commits += error is None
        self.commits_failed += error is not None
        self._machine.finish(operation, error)

    # -- answers about what is committed ----------------------------------------------------------------------------

    def _on_no_query(self, send: Send, error: Exception, now_ms: float) -> None:
        self._coordinator.lose(now_ms)
        query = cast(CommittedQuery, send.context)
        if query not in self._queries:
            return
        if isinstance(error, KafkaError) and not error.retriable:
            del self._queries[query]
            self._machine.finish(query, error)
        else:
            self._retry_query(query, now_ms)

    def _retry_query(self, query: CommittedQuery, now_ms: float) -> None:
        query.failures += 1
        self._queries[query] = now_ms + self._machine.delay_ms(query.failures)

    def _on_query(self, send: Send, response: Message, now_ms: float) -> None:
        query = cast(CommittedQuery, send.context)
        if query not in self._queries:
            return
        code, found = self._parts(send, response)
        if code == ErrorCode.NONE and len(found) < len(query.partitions):
            code = ErrorCode.UNKNOWN_SERVER_ERROR
        if code != ErrorCode.NONE:
            self._coordinator.on_code(code, now_ms)
            error = error_of(code, group=("DESCRIBE", self._group_id))
            if code in _FOR_NOW or error.retriable:
                self._retry_query(query, now_ms)
            else:
                del self._queries[query]
                self._machine.finish(query, error)
            return
        for where, part in found.items():
            known = part.committed_offset >= 0
            query.offsets[where] = (
                OffsetAndMetadata(part.committed_offset, part.committed_leader_epoch, part.metadata or "")
                if known
                else None
            )
        del self._queries[query]
        self._machine.finish(query)

    def _on_no_places(self, send: Send, error: Exception, now_ms: float) -> None:
        self._placing = False
        self._coordinator.lose(now_ms)
        if isinstance(error, KafkaError) and not error.retriable:
            self._fail_places(send, error)
        self._retry_places(now_ms)

    def _retry_places(self, now_ms: float) -> None:
        self._place_failures += 1
        self._place_retry_ms = now_ms + self._machine.delay_ms(self._place_failures)

    def _fail_places(self, send: Send, error: Exception) -> None:
        for state, generation in _asked(send).values():
            if state.generation == generation:
                state.error = error
        self._machine.wake()

    def _on_places(self, send: Send, response: Message, now_ms: float) -> None:
        self._placing = False
        code, found = self._parts(send, response)
        if code != ErrorCode.NONE:
            self._coordinator.on_code(code, now_ms)
            error = error_of(code, group=("DESCRIBE", self._group_id))
            if code not in _FOR_NOW and code not in REFUSED and not error.retriable:
                self._fail_places(send, error)
            self._retry_places(now_ms)
        else:
            self._place_failures = 0
        for where, part in found.items():
            state, generation = _asked(send).get(where, (None, -1))
            if state is not None and state.generation == generation:
                self._place(state, part)
        self._machine.wake()

    def _parts(self, send: Send, message: Message) -> tuple[int, dict[TopicPartition, _Part]]:
        """Return (the first error code, the partitions without one)."""
        response = cast(OffsetFetchResponse, message)
        code = response.error_code
        topics: Iterable[object] = response.topics
        if response.groups:
            code = code or response.groups[0].error_code
            topics = response.groups[0].topics
        found: dict[TopicPartition, _Part] = {}
        for topic in topics:
            name = send.names.get(topic.topic_id, "") if send.version > _NAMED else topic.name  # type: ignore[attr-defined]
            for part in topic.partitions:  # type: ignore[attr-defined]
                if part.error_code == ErrorCode.NONE:
                    found[TopicPartition(name, part.partition_index)] = part
                else:
                    code = code or part.error_code
        if code == ErrorCode.UNKNOWN_TOPIC_ID:
            self._machine.metadata.request_update()  # it was deleted, and perhaps made again
        return code, found

    def _place(self, state: PartitionState, part: _Part) -> None:
        state.committed = part.committed_offset
        resume, state.resume = state.resume, None
        if resume is not None and resume[0] == part.committed_offset:
            # Nothing was committed since this member was shut out for being slow: what it has finished stays so.
            state.seek(resume[1])
        elif part.committed_offset >= 0:
            state.seek(part.committed_offset, part.committed_leader_epoch)
        else:
            state.wanted = self._fetcher.reset_place()


def _asked(send: Send) -> Mapping[TopicPartition, tuple[PartitionState, int]]:
    return cast("dict[TopicPartition, tuple[PartitionState, int]]", send.context)
