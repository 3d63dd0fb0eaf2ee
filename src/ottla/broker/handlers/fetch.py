"""Fetch (key 1, versions 4-18).

v4: magic 2, isolation level, aborted transactions. v5: log start offset. v7: sessions (KIP-227). v9: leader epoch (KIP-320).
v11: rack (KIP-392). v12: flexible, diverging epoch (KIP-595). v13: topic ids (KIP-516). v15: replica state (KIP-903).
v16: node endpoints (KIP-951). v17: directory id. v18: the follower's high watermark.

Where we differ from Apache Kafka: a partition's records end at a batch border, where Kafka may cut inside the last batch
(clients drop such a tail anyway). A quota counts records and an estimate of what is around them, not the encoded answer.

A follower reads up to the end of the log and waits for that to move; what it asks for is news of how far it has come. A
consumer may read from a follower up to the high watermark that this one knows (KIP-392).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.broker.context import Route, ShortCut
from ottla.broker.handlers.consumer_fetch import REGIONS_MAX, ConsumerContinued, ConsumerFetches
from ottla.broker.handlers.fetch_answers import LEADERS_SINCE, name_leaders, refuse_whole, shape
from ottla.broker.handlers.replica_fetch import ReplicaFetches, SessionContinued
from ottla.broker.quotas.client_quotas import ClientQuotas
from ottla.broker.quotas.reading import ReadQuota
from ottla.broker.replicas.fetch_sessions import FetchContext, FetchPartition, FetchSessionCache
from ottla.broker.replicas.nearest import nearest
from ottla.broker.replicas.purgatory import FetchWaiter
from ottla.errors import ErrorCode, KafkaError, OffsetOutOfRangeError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    FetchRequest,
    FetchResponse,
    PartitionData,
)
from ottla.protocol.replica_fetch_frames import VERSION as REPLICA_FETCH_VERSION
from ottla.protocol.replica_fetch_frames import looks_like_one
from ottla.storage.index import WouldBlockError
from ottla.types import ZERO_UUID, IsolationLevel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.broker.handlers.leader_hints import LeaderHints
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition
    from ottla.clock import Clock
    from ottla.file_region import FileRegion
    from ottla.observability.metrics import BrokerMetrics
    from ottla.storage.files import Buffer
    from ottla.storage.log import PartitionLog
    from ottla.storage.slices import LogSlice

INVALID_HIGH_WATERMARK = -1
READS_FOLLOWERS_SINCE = 11


class _Found(NamedTuple):
    """One partition of a round."""

    want: FetchPartition
    data: PartitionData
    partition: Partition


class _Replica(NamedTuple):
    """The follower that asks: broker id and epoch of its process, and the turn of the answer that it had got before."""

    node_id: int
    broker_epoch: int
    turn: int


class _Round:
    """One look at all partitions of a request: slices to read, and whether it may be answered at once.

    Attributes:
        rest: partitions not looked at yet; some are left only while `blocked` is set.
        blocked: the partition whose position must be looked up on the disk, off the loop, before the look goes on.
        only_news: whether partitions of which there is nothing new are left out of the answer.
        marks: what each of `watched` was like when it was looked at.
        reads_followers: whether it may be served by a replica that does not lead.
        rack: of the consumer that asks, if it is to be sent to a replica there.
        replica: the follower that asks, None for a consumer.
        room: bytes that may still be added.
    """

    __slots__ = (
        "answers",
        "blocked",
        "byte_count",
        "denied",
        "has_error",
        "isolation",
        "marks",
        "may_read",
        "only_news",
        "rack",
        "reads_followers",
        "replica",
        "rest",
        "room",
        "slices",
        "watched",
    )

    def __init__(
        self,
        asked: FetchContext,
        isolation: IsolationLevel,
        room: int,
        replica: _Replica | None,
        *,
        reads_followers: bool,
        rack: str = "",
    ) -> None:
        self.rack = rack
        self.replica = replica
        self.reads_followers = reads_followers
        self.rest: Iterator[FetchPartition] = iter(asked.partitions)
        self.only_news = asked.incremental
        self.may_read = asked.may_read
        self.denied = 0
        self.isolation = isolation
        self.room = room
        self.answers: list[tuple[FetchPartition, PartitionData]] = []
        self.slices: list[tuple[_Found, LogSlice]] = []
        self.watched: list[Partition] = []
        self.marks: list[tuple[int, int]] = []
        self.blocked: _Found | None = None
        self.byte_count = 0
        self.has_error = False

    def deny(self, want: FetchPartition) -> None:
        """Note that the client may not read this partition; it does not end the wait for others, as in Kafka."""
        self.denied += 1
        self.answers.append(
            (
                want,
                PartitionData(
                    partition_index=want.partition,
                    error_code=ErrorCode.TOPIC_AUTHORIZATION_FAILED,
                    high_watermark=INVALID_HIGH_WATERMARK,
                    aborted_transactions=None,
                    records=b"",
                ),
            )
        )

    @property
    def has_moved(self) -> bool:
        """Whether one of the partitions has changed since it was looked at."""
        return [_mark(partition, self.replica) for partition in self.watched] != self.marks


class FetchHandler:
    """Serves what is there, or waits until there is enough."""

    def __init__(
        self,
        replicas: ReplicaManager,
        sessions: FetchSessionCache,
        metrics: BrokerMetrics,
        *,
        fetch_max_bytes: int,
        clock: Clock,
        is_rack_aware: bool = False,
        may_read: Callable[[Session, str], bool] | None = None,
        may_read_unlogged: Callable[[Session, str], bool] | None = None,
        may_follow: Callable[[Session], bool] | None = None,
        quota: ReadQuota | None = None,
        leaders: LeaderHints | None = None,
    ) -> None:
        self._leaders = leaders
        self._is_rack_aware = is_rack_aware
        self._may_read = may_read
        self._quota = quota or ReadQuota(ClientQuotas(), lambda: 0.0)
        self._replicas = replicas
        self._sessions = sessions
        self._metrics = metrics
        self._fetch_max_bytes = fetch_max_bytes
        self._clock = clock
        self._of_replicas = ReplicaFetches(
            replicas,
            sessions,
            metrics,
            fetch_max_bytes=fetch_max_bytes,
            clock=clock,
            ordinary=self._go_on_with,
            may_follow=may_follow,
        )
        self._of_consumers = ConsumerFetches(
            replicas,
            sessions,
            metrics,
            fetch_max_bytes=fetch_max_bytes,
            clock=clock,
            ordinary=self._go_on_for,
            quota=self._quota,
            is_rack_aware=is_rack_aware,
            may_read=may_read_unlogged,
        )

    def routes(self) -> Routes:
        short_cut = ShortCut(self._handle_frame, self._finish)
        return {ApiKey.FETCH: Route(self.handle_fetch, short_cut=short_cut, ends_with_connection=True)}

    def handle_fetch(self, context: RequestContext, request: FetchRequest) -> Any | Awaitable[Any]:
        asked = self._sessions.open_context(
            request,
            context.version,
            self._replicas.image.topic_names,
            self._clock.monotonic_ms(),
            (context.session.principal, context.session.listener),
        )
        is_follower = _replica_id(request) >= 0
        self._name_leaders_in(asked, context.session, context.version, is_follower=is_follower)
        if self._may_read is not None and not is_follower:  # a follower needs CLUSTER_ACTION instead (the guard)
            asked.may_read = partial(self._may_read, context.session)
        if asked.error:
            return FetchResponse(error_code=asked.error)
        if self._quota.in_force and not self._is_follower(request):
            asked.bucket = self._quota.bucket_of(context)
            if asked.bucket is not None:  # what it can never get at once it need not wait for
                request.min_bytes = min(request.min_bytes, asked.bucket.bytes_max)
        if request.isolation_level not in (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED):
            return refuse_whole(asked, context.version, ErrorCode.UNKNOWN_SERVER_ERROR)
        found = self._look(request, asked, context.version)
        if found.blocked is not None:
            return self._serve_cold(request, asked, found, context.version)
        return self._serve(request, asked, found, context.version)

    def _handle_frame(self, frame: memoryview, version: int, session: Session) -> Any:
        """Answer an ordinary request; see `ConsumerFetches` and `ReplicaFetches`."""
        if version == REPLICA_FETCH_VERSION and looks_like_one(frame):
            return self._of_replicas.handle_frame(frame, version, session)
        return self._of_consumers.handle_frame(frame, version, session)

    def _finish(
        self, context: RequestContext, request: FetchRequest, continued: SessionContinued | ConsumerContinued
    ) -> Any | Awaitable[Any]:
        """Answer what a short cut could not."""
        if isinstance(continued, ConsumerContinued):
            return self._go_on_for(continued.asked, request, context.session, context.version)
        return self._go_on_with(continued.asked, request)

    def _go_on_for(
        self, asked: FetchContext, request: FetchRequest, client: Session, version: int
    ) -> FetchResponse | Awaitable[FetchResponse]:
        """Answer a consumer."""
        self._name_leaders_in(asked, client, version)
        if self._may_read is not None:
            asked.may_read = partial(self._may_read, client)
        return self._go_on_with(asked, request)

    def _name_leaders_in(
        self, asked: FetchContext, client: Session, version: int, *, is_follower: bool = False
    ) -> None:
        if self._leaders is not None and version >= LEADERS_SINCE:
            asked.name_leaders = partial(name_leaders, self._leaders, client, is_follower)

    def _go_on_with(self, asked: FetchContext, request: FetchRequest) -> FetchResponse | Awaitable[FetchResponse]:
        found = self._look(request, asked, REPLICA_FETCH_VERSION)
        if found.blocked is not None:
            return self._serve_cold(request, asked, found, REPLICA_FETCH_VERSION)
        return self._serve(request, asked, found, REPLICA_FETCH_VERSION)

    def _serve(
        self, request: FetchRequest, asked: FetchContext, found: _Round, version: int
    ) -> FetchResponse | Awaitable[FetchResponse]:
        if _is_enough(found, request) or request.max_wait_ms <= 0 or not asked.partitions or self._is_awaited(found):
            return self._answer(asked, found)
        return self._wait(request, asked, found, version)

    async def _serve_cold(
        self, request: FetchRequest, asked: FetchContext, found: _Round, version: int
    ) -> FetchResponse:
        await self._look_cold(found)
        answer = self._serve(request, asked, found, version)
        return answer if isinstance(answer, FetchResponse) else await answer

    async def _wait(self, request: FetchRequest, asked: FetchContext, found: _Round, version: int) -> FetchResponse:
        """Look again each time there may be enough; answer when there is, or with what there is when time is up."""
        deadline_ms = self._clock.monotonic_ms() + request.max_wait_ms
        left_ms = request.max_wait_ms
        while left_ms > 0 and not _is_enough(found, request) and not self._is_awaited(found):
            waiter = FetchWaiter(
                found.watched,
                request.min_bytes - found.byte_count,
                found.isolation,
                of_follower=found.replica is not None,
            )
            if found.has_moved:  # before the waiter was there: a look registers for nothing
                waiter.leave()
            else:
                await waiter.wait(left_ms)
            found = self._look(request, asked, version)
            if found.blocked is not None:
                await self._look_cold(found)
            left_ms = deadline_ms - self._clock.monotonic_ms()
        answer = self._answer(asked, found)
        return answer if isinstance(answer, FetchResponse) else await answer

    def _is_awaited(self, found: _Round) -> bool:
        """Whether the next fetch of this follower is waited for, as a proof that this broker leads."""
        replica = found.replica
        return (
            replica is not None
            and self._replicas.has_questions
            and any(partition.awaits(replica.node_id) for partition in found.watched)
        )

    def _look(self, request: FetchRequest, asked: FetchContext, version: int) -> _Round:
        """Find what every partition has to offer, without reading any of it or waiting for the disk."""
        replica = _replica_id(request)
        bucket = asked.bucket
        bytes_max = min(request.max_bytes, self._fetch_max_bytes)
        found = _Round(
            asked,
            IsolationLevel(request.isolation_level & 1),
            bytes_max if bucket is None else min(bytes_max, bucket.bytes_max),
            None if replica < 0 else _Replica(replica, request.replica_state.replica_epoch, asked.turn),
            reads_followers=replica < 0 and version >= READS_FOLLOWERS_SINCE,
            rack=request.rack_id if self._is_rack_aware and replica < 0 else "",
        )
        self._go_on(found)
        return found

    async def _look_cold(self, found: _Round) -> None:
        """Finish a look that met indexes which are not in memory."""
        while found.blocked is not None:
            one, found.blocked = found.blocked, None
            try:
                part = await one.partition.offload.run(partial(_read, one, found))
            except KafkaError as error:
                self._refuse(one, found, error)
            else:
                self._offer(one, part, found)
            self._go_on(found)

    def _go_on(self, found: _Round) -> None:
        """Look at the rest, up to where the disk would have to be waited for."""
        for want in found.rest:
            if found.may_read is not None and want.topic and not found.may_read(want.topic):
                found.deny(want)
                continue
            replica = found.replica
            if found.only_news:
                partition = (
                    self._find_without_news(want, found.isolation)
                    if replica is None
                    else self._find_without_news_for(replica, want)
                )
                if partition is not None:
                    found.watched.append(partition)
                    found.marks.append(_mark(partition, replica))
                    continue
            data = PartitionData(
                partition_index=want.partition,
                high_watermark=INVALID_HIGH_WATERMARK,
                aborted_transactions=None,
                records=b"",
            )
            found.answers.append((want, data))
            partition = self._find(want, data, reads_followers=found.reads_followers)
            if partition is None:
                found.has_error = True
                continue
            found.watched.append(partition)
            found.marks.append(_mark(partition, replica))
            one = _Found(want, data, partition)
            try:
                if replica is not None:
                    if not _is_served(replica, want, partition, data):
                        found.has_error = True
                        continue
                    if self._is_held_up(replica, partition):
                        self._offer(one, None, found)
                        continue
                else:
                    self._metrics.topic(want.topic).fetch_requests += 1
                    if found.rack and self._is_sent_elsewhere(one, found):
                        continue
                if replica is None and want.last_fetched_epoch >= 0 and _diverges(want, partition.log, data):
                    found.has_error = True  # answered at once, like an error
                    continue
                part = _read(one, found, nowait=True)
            except WouldBlockError:
                found.blocked = one
                return
            except KafkaError as error:
                self._refuse(one, found, error)
                continue
            self._offer(one, part, found)
        if found.has_error:
            found.answers.sort(key=_is_unknown)

    def _is_sent_elsewhere(self, one: _Found, found: _Round) -> bool:
        """Whether the consumer gets the name of a nearer replica instead of records (KIP-392)."""
        want, data, partition = one
        leader = partition.leader
        if leader is None or leader.is_sole or not partition.log.log_start_offset <= want.fetch_offset:
            return False
        racks = {node_id: broker.rack for node_id, broker in self._replicas.image.brokers.items()}
        chosen = nearest(found.rack, self._replicas.node_id, leader.views(want.fetch_offset), racks)
        if chosen is None:
            return False
        data.preferred_read_replica = chosen
        self._offer(one, None, found)
        found.has_error = True  # answered at once, like an error
        return True

    def _is_held_up(self, replica: _Replica, partition: Partition) -> bool:
        """Whether a follower that catches up gets nothing now because of the throttle."""
        throttle = self._replicas.leader_throttle
        leader = partition.leader
        return (
            not throttle.is_idle
            and leader is not None
            and not leader.is_in_sync(replica.node_id)
            and throttle.is_throttled(*partition.topic_partition)
            and throttle.is_exceeded()
        )

    def _offer(self, one: _Found, part: LogSlice | None, found: _Round) -> None:
        """Note what a partition has to give."""
        want, data, partition = one
        log = partition.log
        data.high_watermark = log.high_watermark
        data.last_stable_offset = log.last_stable_offset
        data.log_start_offset = log.log_start_offset
        committed_only = found.isolation == IsolationLevel.READ_COMMITTED and found.replica is None
        if committed_only:
            data.aborted_transactions = []
        if part is None or not part.size:
            return
        if committed_only:
            try:
                aborted = log.aborted_transactions(want.fetch_offset, log.last_stable_offset)
            except OSError as error:
                self._refuse(one, found, partition.on_io_error(error))
                return
            data.aborted_transactions = [
                AbortedTransaction(producer_id=producer_id, first_offset=first_offset)
                for producer_id, first_offset in aborted
            ]
        found.slices.append((one, part))
        found.byte_count += part.size
        found.room = max(found.room - part.size, 0)

    def _find_without_news(self, want: FetchPartition, isolation: IsolationLevel) -> Partition | None:
        """Return the partition if a quick look shows nothing that earlier answers of the session have not said already.

        In a session this holds for most partitions of most requests: a consumer of 10,000 partitions asks for all of them
        each time. None: the partition needs the full look.
        """
        partition = self._replicas.partition(want.topic, want.partition)
        if partition is None or want.last_fetched_epoch >= 0:
            return None
        log = partition.log
        offset = want.fetch_offset
        if (
            log.high_watermark != want.told_high_watermark
            or log.log_start_offset != want.told_log_start_offset
            or not want.told_log_start_offset <= offset <= log.log_end_offset
            or partition.upper_offset(isolation) > offset
            or (want.topic_id != partition.topic_id and want.topic_id != ZERO_UUID)
            or (want.current_leader_epoch >= 0 and want.current_leader_epoch != partition.leader_epoch)
        ):
            return None
        return partition

    def _find_without_news_for(self, replica: _Replica, want: FetchPartition) -> Partition | None:
        """Do the same for a follower. That it asks at all is news of it; that is taken in here."""
        partition = self._replicas.partition(want.topic, want.partition)
        if partition is None or want.topic_id != partition.topic_id:
            return None
        log = partition.log
        if (
            log.high_watermark != want.told_high_watermark
            or log.log_start_offset != want.told_log_start_offset
            or want.fetch_offset != log.log_end_offset
            or not _is_accepted(replica, want, partition)
            or log.high_watermark != want.told_high_watermark  # this very fetch has moved it
        ):
            return None
        return partition

    def _find(self, want: FetchPartition, data: PartitionData, *, reads_followers: bool) -> Partition | None:
        if want.topic_id != ZERO_UUID and not want.topic:
            data.error_code = ErrorCode.UNKNOWN_TOPIC_ID
            data.aborted_transactions = []
            return None
        partition = self._replicas.partition(want.topic, want.partition)
        if partition is None and reads_followers:
            partition = self._replicas.readable(want.topic, want.partition)
        if partition is None:
            data.error_code = self._replicas.error(want.topic, want.partition)
            data.aborted_transactions = []  # not null, as in Kafka's answer about a partition it does not know
        elif want.topic_id not in (ZERO_UUID, partition.topic_id):
            data.error_code = ErrorCode.INCONSISTENT_TOPIC_ID
        else:
            data.error_code = partition.check_epoch(want.current_leader_epoch)
        return None if data.error_code else partition

    def _is_follower(self, request: FetchRequest) -> bool:
        """Whether the request is of a broker: not only does it say so, it knows under which epoch that one is registered."""
        if _replica_id(request) < 0:
            return False
        broker = self._replicas.image.brokers.get(_replica_id(request))
        return broker is not None and broker.broker_epoch == request.replica_state.replica_epoch

    def _answer(self, asked: FetchContext, found: _Round) -> FetchResponse | Awaitable[FetchResponse]:
        if asked.bucket is not None:
            verdict = self._quota.judge(asked.bucket, [part.size for _, part in found.slices])
            if not verdict.is_given:
                return self._hold_back(asked, verdict.throttle_ms)
            asked.throttle_ms = verdict.throttle_ms
        if found.replica is not None and asked.session is not None:
            asked.session.turn = self._replicas.turn
        cold: list[tuple[_Found, LogSlice]] = []
        regions = 0
        for one, part in found.slices:
            try:
                records: Buffer | FileRegion | None = None
                if regions < REGIONS_MAX:
                    records = part.unread(one.partition.offload)
                    regions += records is not None
                if records is None:
                    records = part.read_nowait()
            except OSError as error:
                self._refuse(one, found, one.partition.on_io_error(error))
                continue
            if records is None:
                cold.append((one, part))
            else:
                self._give(one, records, is_replica=found.replica is not None)
        return self._answer_cold(asked, found, cold) if cold else shape(asked, found.answers)

    def _hold_back(self, asked: FetchContext, throttle_ms: int) -> FetchResponse:
        """Answer with nothing; a session that was to begin does not, one that goes on has been told nothing."""
        if asked.session is not None and not asked.incremental:
            self._sessions.forget(asked.session)
            return FetchResponse(throttle_time_ms=throttle_ms)
        return FetchResponse(throttle_time_ms=throttle_ms, session_id=asked.session_id)

    async def _answer_cold(
        self, asked: FetchContext, found: _Round, cold: list[tuple[_Found, LogSlice]]
    ) -> FetchResponse:
        """Some bytes are not in the page cache: read them off the loop."""
        for one, part in cold:
            try:
                records = await one.partition.offload.run(part.read)
                self._give(one, records, is_replica=found.replica is not None)
            except OSError as error:
                self._refuse(one, found, one.partition.on_io_error(error))
        return shape(asked, found.answers)

    def _refuse(self, one: _Found, found: _Round, error: KafkaError) -> None:
        """Answer one partition with an error."""
        data = one.data
        data.error_code = error.code
        data.high_watermark = data.last_stable_offset = data.log_start_offset = INVALID_HIGH_WATERMARK
        data.aborted_transactions = None
        found.has_error = True
        if error.code == ErrorCode.KAFKA_STORAGE_ERROR:  # the others are everyday answers, which Kafka does not count
            self._metrics.topic(one.want.topic).failed_fetch_requests += 1

    def _give(self, one: _Found, records: Buffer | FileRegion, *, is_replica: bool) -> None:
        one.data.records = records  # type: ignore[assignment]  # the codec asks for its length, the connection sends it
        if is_replica:
            throttle = self._replicas.leader_throttle
            if throttle.is_throttled(*one.partition.topic_partition):
                throttle.record(len(records))
        self._metrics.topic(one.want.topic).bytes_out += len(records)


def _read(one: _Found, found: _Round, *, nowait: bool = False) -> LogSlice | None:
    # The first partition with anything to give may exceed every limit by one batch, or a consumer whose limit is below
    # its largest batch would never get on (KIP-74).
    return one.partition.read(
        one.want.fetch_offset,
        min(found.room, one.want.max_bytes),
        found.isolation,
        min_one=found.byte_count == 0,
        nowait=nowait,
        of_follower=found.replica is not None,
    )


def _is_enough(found: _Round, request: FetchRequest) -> bool:
    return found.byte_count >= request.min_bytes or found.has_error or (found.denied > 0 and not found.watched)


def _mark(partition: Partition, replica: _Replica | None) -> tuple[int, int]:
    """What changes when a fetch that waits for this partition must look again."""
    log = partition.log
    return log.high_watermark if replica is None else log.log_end_offset, partition.leader_epoch


def _is_accepted(replica: _Replica, want: FetchPartition, partition: Partition) -> bool:
    """Take in how far a follower has come; return whether there is nothing else to tell it."""
    verdict = partition.on_follower_fetch(
        *replica, want.current_leader_epoch, want.fetch_offset, want.last_fetched_epoch, want.log_start_offset
    )
    return not verdict.error and verdict.diverging is None


def _is_served(replica: _Replica, want: FetchPartition, partition: Partition, data: PartitionData) -> bool:
    """Take in how far a follower has come; return whether it gets records. If not, `data` says what it gets.

    Raises:
        OffsetOutOfRangeError: its log lies outside of this one.
    """
    log = partition.log
    if want.fetch_offset < log.log_start_offset:
        raise OffsetOutOfRangeError(f"{log.topic_partition}: {want.fetch_offset} is below the log start")
    verdict = partition.on_follower_fetch(
        *replica, want.current_leader_epoch, want.fetch_offset, want.last_fetched_epoch, want.log_start_offset
    )
    data.error_code = verdict.error
    if verdict.error:
        return False
    if verdict.diverging is None:
        return True
    epoch, end_offset = verdict.diverging
    if end_offset < 0:
        raise OffsetOutOfRangeError(
            f"{log.topic_partition}: offset {want.fetch_offset} of epoch {want.last_fetched_epoch} is not known here"
        )
    data.diverging_epoch = EpochEndOffset(epoch=epoch, end_offset=end_offset)
    data.high_watermark = log.high_watermark
    data.last_stable_offset = log.last_stable_offset
    data.log_start_offset = log.log_start_offset
    return False


def _is_unknown(answer: tuple[FetchPartition, PartitionData]) -> bool:
    """Whether Kafka does not know this partition; it lists those last."""
    return answer[1].error_code in (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID)


def _replica_id(request: FetchRequest) -> int:
    """The follower that asks; below 0 for consumers."""
    return request.replica_id if request.replica_id != -1 else request.replica_state.replica_id


def _diverges(want: FetchPartition, log: PartitionLog, data: PartitionData) -> bool:
    """Whether this log never had the records the reader says it read last; `data` then says where they diverge (KIP-595).

    Raises:
        OffsetOutOfRangeError: the reader's epoch is not known here, or its offset is below the log start.
    """
    epoch, end_offset = log.end_offset_for_epoch(want.last_fetched_epoch)
    if epoch < 0 or end_offset < 0 or want.fetch_offset < log.log_start_offset:
        raise OffsetOutOfRangeError(
            f"{log.topic_partition}: offset {want.fetch_offset} of epoch {want.last_fetched_epoch} is not known here"
        )
    if epoch == want.last_fetched_epoch and end_offset >= want.fetch_offset:
        return False
    data.diverging_epoch = EpochEndOffset(epoch=epoch, end_offset=end_offset)
    data.high_watermark = log.high_watermark
    data.last_stable_offset = log.last_stable_offset
    data.log_start_offset = log.log_start_offset
    return True
