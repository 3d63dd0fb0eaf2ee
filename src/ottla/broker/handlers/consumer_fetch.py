"""The short cut of Fetch for consumers: read and answered by position, without an object per field, parked without a task.

Of a session that goes on, or without one; any number of partitions, though most requests are about one or about none. What
a look at a partition has to find is said in `fetch.py`, whose answers these are byte for byte. Whatever is not ordinary (an
error, a partition that is not led here or not known by that id, a right that is not there, aborted transactions, bytes that
are not in memory, a quota, a consumer that looks for a nearer replica) is left to `FetchHandler`: before anything has
changed by returning None, else by `ConsumerContinued`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.broker.context import PartialResult
from ottla.broker.deadlines import Deadlines
from ottla.broker.handlers.parked_fetch import NotOrdinary, ParkedFetch
from ottla.broker.replicas.fetch_sessions import FetchContext, FetchPartition
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.consumer_fetch_frames import (
    ConsumerFetch,
    FetchedPartition,
    encode_answer,
    encode_one,
    parse,
    parse_one,
)
from ottla.protocol.messages.fetch import FetchRequest
from ottla.protocol.replica_fetch_frames import AskedPartition
from ottla.storage.index import WouldBlockError
from ottla.storage.slices import REGION_MIN
from ottla.types import IsolationLevel

if TYPE_CHECKING:
    from ottla.broker.context import Session
    from ottla.broker.quotas.reading import ReadQuota
    from ottla.broker.replicas.fetch_sessions import FetchSession, FetchSessionCache
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition
    from ottla.broker.replicas.purgatory import Waiter
    from ottla.clock import Clock
    from ottla.file_region import Sendable
    from ottla.observability.metrics import BrokerMetrics
    from ottla.protocol.messages.fetch import FetchResponse
    from ottla.storage.slices import LogSlice

#: Slices of one answer that are sent without being read: each keeps a file open until the peer has taken it.
REGIONS_MAX = 64

Ordinary = Callable[[FetchContext, FetchRequest, "Session", int], "FetchResponse | Awaitable[FetchResponse]"]
"""Answers a request of a client (in that version) whose fetch session has been continued, as if there were no short cut."""


@dataclass(frozen=True, slots=True)
class ConsumerContinued(PartialResult):
    """The session has gone on with the request; `asked` has yet to be answered."""

    asked: FetchContext


class ConsumerFetches:
    """Answers ordinary fetches of consumers.

    Args:
        fetch_max_bytes: fetch.max.bytes.
        ordinary: see there.
        may_read: whether a session may read a topic, without a note where it may not; None: nobody is asked.
        is_rack_aware: whether consumers that say where they are may be sent to another replica.
    """

    def __init__(
        self,
        replicas: ReplicaManager,
        sessions: FetchSessionCache,
        metrics: BrokerMetrics,
        *,
        fetch_max_bytes: int,
        clock: Clock,
        ordinary: Ordinary,
        quota: ReadQuota,
        is_rack_aware: bool,
        may_read: Callable[[Session, str], bool] | None,
    ) -> None:
        self.replicas = replicas
        self.metrics = metrics
        self.fetch_max_bytes = fetch_max_bytes
        self.ordinary = ordinary
        self.may_read = may_read
        self._sessions = sessions
        self._clock = clock
        self._quota = quota
        self._is_rack_aware = is_rack_aware
        self._deadlines: Deadlines[ParkedFetch] = Deadlines(asyncio.get_running_loop())

    def handle_frame(
        self, frame: memoryview, version: int, session: Session
    ) -> bytes | list[Sendable] | ParkedFetch | ConsumerContinued | None:
        """Answer an ordinary fetch of a consumer, at once or when there is enough for it; else see the module."""
        fetch = parse_one(frame, version) or parse(frame, version)
        if fetch is None:
            return None
        if self._quota.in_force or (fetch.has_rack and self._is_rack_aware):
            return None
        known: FetchSession | None = None
        if fetch.session_epoch < 0:
            wants = self._wants(fetch.partitions)
            if wants is None:
                return None
            look = _Look(self, fetch, wants, None, session, version)
        else:
            owner = (session.principal, session.listener)
            known = self._sessions.find(fetch.session_id, fetch.session_epoch, owner, uses_topic_ids=True)
            if known is None or not known.update(fetch.partitions):
                return None
            self._sessions.advance(known, self._clock.monotonic_ms())
            look = _Look(self, fetch, known.partitions.values(), known, session, version)
        try:
            if look.find() or fetch.wait_ms_max <= 0:
                return look.answer()
        except NotOrdinary:
            return None if known is None else ConsumerContinued(known.context())
        return ParkedFetch(look, self._deadlines, fetch.wait_ms_max / 1000)

    def _wants(self, rows: Sequence[AskedPartition]) -> list[FetchPartition] | None:
        """Return what a request without a session asks for; None if a topic is not known, or a partition named twice."""
        names = self.replicas.image.topic_names
        wants: list[FetchPartition] = []
        for topic_id, index, leader_epoch, offset, last_epoch, log_start_offset, bytes_max, _ in rows:
            name = names.get(topic_id)
            if not name:
                return None
            wants.append(
                FetchPartition(name, topic_id, index, offset, bytes_max, leader_epoch, last_epoch, log_start_offset)
            )
        if len(wants) > 1 and len({(want.topic_id, want.partition) for want in wants}) < len(wants):
            return None
        return wants


class _Look:
    """One request, and what is there for it (`parked_fetch.Look`)."""

    __slots__ = (
        "_client",
        "_fetch",
        "_isolation",
        "_news_only",
        "_parts",
        "_rows",
        "_session",
        "_version",
        "_wants",
        "bytes_missing",
        "waits_for_stable",
        "watched",
    )

    def __init__(
        self,
        around: ConsumerFetches,
        fetch: ConsumerFetch,
        wants: Sequence[FetchPartition] | object,
        session: FetchSession | None,
        client: Session,
        version: int,
    ) -> None:
        self._version = version
        self._parts = around
        self._fetch = fetch
        self._wants: Sequence[FetchPartition] = wants  # type: ignore[assignment]
        self._session = session
        self._client = client
        self._isolation = IsolationLevel.READ_COMMITTED if fetch.isolation else IsolationLevel.READ_UNCOMMITTED
        self.waits_for_stable = fetch.isolation != 0
        self.watched: list[Partition] = []
        self.bytes_missing = 0
        #: What is new, or all where there is no session.
        self._rows: list[tuple[FetchPartition, Partition, LogSlice | None]] = []

    def waiters(self, partition: Partition) -> dict[Waiter, None]:
        """Consumers wait for what may be read."""
        return partition.fetch_waiters

    def find(self) -> bool:
        """Look what there is, without reading any of it; return whether it is enough, or there is nothing to wait for."""
        parts, fetch = self._parts, self._fetch
        may_read, find = parts.may_read, parts.replicas.partition
        room = min(fetch.bytes_max, parts.fetch_max_bytes)
        news_only = self._session is not None
        byte_count = 0
        watched: list[Partition] = []
        rows: list[tuple[FetchPartition, Partition, LogSlice | None]] = []
        for want in self._wants:
            topic, offset = want.topic, want.fetch_offset
            partition = find(topic, want.partition)
            if (
                partition is None
                or partition.topic_id != want.topic_id
                or want.last_fetched_epoch >= 0
                or (want.current_leader_epoch >= 0 and want.current_leader_epoch != partition.leader_epoch)
                or (may_read is not None and not may_read(self._client, topic))
            ):
                raise NotOrdinary
            log = partition.log
            log_start = log.log_start_offset
            if not log_start <= offset <= log.log_end_offset:
                raise NotOrdinary
            upper = log.last_stable_offset if fetch.isolation else log.high_watermark
            watched.append(partition)
            if upper > offset:
                part = self._slice(want, partition, min(room, want.max_bytes), is_first=not byte_count)
                if part is not None:
                    byte_count += part.size
                    room = max(room - part.size, 0)
            elif (
                news_only and log.high_watermark == want.told_high_watermark and log_start == want.told_log_start_offset
            ):
                continue
            else:
                part = None
            rows.append((want, partition, part))
        self.watched, self._rows = watched, rows
        self._count(1)
        self.bytes_missing = fetch.bytes_min - byte_count
        return self.bytes_missing <= 0 or not watched

    def _count(self, by: int) -> None:
        counts = self._parts.metrics.topic
        for want, _, _ in self._rows:
            counts(want.topic).fetch_requests += by

    def _slice(self, want: FetchPartition, partition: Partition, bytes_max: int, *, is_first: bool) -> LogSlice | None:
        """Return what may be read of a partition, if there is anything and nothing is in its way."""
        log = partition.log
        try:
            part = partition.read(want.fetch_offset, bytes_max, self._isolation, min_one=is_first, nowait=True)
            if part is None or not part.size:
                return None
            if self.waits_for_stable and log.aborted_transactions(want.fetch_offset, log.last_stable_offset):
                raise NotOrdinary
        except (KafkaError, OSError, WouldBlockError):
            raise NotOrdinary from None
        return part

    def answer(self) -> bytes | list[Sendable]:
        """Return the body of the answer: from now on the client knows what is in it."""
        try:
            read, regions = self._read()
        except NotOrdinary:
            self._count(-1)  # the ordinary path looks again
            raise
        session = self._session
        rows: list[FetchedPartition] = []
        for want, partition, records in read:
            log = partition.log
            high_watermark, log_start = log.high_watermark, log.log_start_offset
            if session is not None:
                is_news = (
                    records or want.told_high_watermark != high_watermark or want.told_log_start_offset != log_start
                )
                if not is_news:
                    continue
                want.told_high_watermark, want.told_log_start_offset = high_watermark, log_start
            rows.append(
                FetchedPartition(
                    want.topic_id, want.partition, high_watermark, log.last_stable_offset, log_start, records
                )
            )
        for want, _, records in read:
            if records:
                self._parts.metrics.topic(want.topic).bytes_out += len(records)
                if session is not None:  # others first, the next time
                    session.partitions[want.key] = session.partitions.pop(want.key, want)
        session_id = 0 if session is None else session.session_id
        if len(rows) == 1 and not regions:
            return encode_one(session_id, self.waits_for_stable, *rows[0])  # type: ignore[arg-type]  # bytes
        return encode_answer(session_id, rows, is_committed=self.waits_for_stable)

    def _read(self) -> tuple[list[tuple[FetchPartition, Partition, Sendable]], int]:
        """Return the records of each row, and how many of them are regions of a file."""
        regions = 0
        read: list[tuple[FetchPartition, Partition, Sendable]] = []
        for want, partition, part in self._rows:
            records: Sendable | None = None
            if part is None:
                records = b""
            else:
                try:
                    if part.size >= REGION_MIN and regions < REGIONS_MAX:
                        records = part.unread(partition.offload)
                        regions += records is not None
                    if records is None:
                        records = part.read_nowait()
                except OSError:
                    raise NotOrdinary from None
                if records is None:
                    raise NotOrdinary
            read.append((want, partition, records))
        return read, regions

    def answer_ordinarily(self, wait_ms: int) -> FetchResponse | Awaitable[FetchResponse]:
        """Have `FetchHandler` look again."""
        fetch, session = self._fetch, self._session
        if session is None:
            asked = FetchContext(ErrorCode.NONE, list(self._wants))
        else:
            asked = session.context()
        request = FetchRequest(
            max_wait_ms=wait_ms,
            min_bytes=fetch.bytes_min,
            max_bytes=fetch.bytes_max,
            isolation_level=fetch.isolation,
            session_id=fetch.session_id,
            session_epoch=fetch.session_epoch,
        )
        return self._parts.ordinary(asked, request, self._client, self._version)
