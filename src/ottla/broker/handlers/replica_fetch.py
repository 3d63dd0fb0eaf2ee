"""The short cut of Fetch for followers: a session that goes on, read and answered by position, without a task of its own.

What a follower asks for differently is news of how far it has come, and is taken in at once. Partitions of which it says
nothing are looked at for records that it lacks; that it still follows them is taken in now and then, and at once while a
proof is waited for that this broker leads. Whatever is not ordinary (an error, a log that diverges, records that are not in
memory, a throttle) is left to `FetchHandler`: before anything has changed by returning None, else by `SessionContinued`.

A request that waits is a `ParkedFetch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.broker.context import PartialResult
from ottla.broker.deadlines import Deadlines
from ottla.broker.handlers.consumer_fetch import REGIONS_MAX
from ottla.broker.handlers.parked_fetch import NotOrdinary, ParkedFetch
from ottla.broker.replicas.leader import ACCEPTED
from ottla.errors import KafkaError
from ottla.protocol.messages.fetch import FetchRequest, FetchResponse, ReplicaState
from ottla.protocol.replica_fetch_frames import (
    VERSION,
    AnsweredPartition,
    ReplicaAnswer,
    ReplicaFetch,
    encode_answer,
    parse_request,
)
from ottla.storage.index import WouldBlockError
from ottla.storage.slices import REGION_MIN
from ottla.types import IsolationLevel

if TYPE_CHECKING:
    from ottla.broker.context import Session
    from ottla.broker.replicas.fetch_sessions import FetchContext, FetchPartition, FetchSession, FetchSessionCache
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition
    from ottla.broker.replicas.purgatory import Waiter
    from ottla.clock import Clock
    from ottla.file_region import Sendable
    from ottla.observability.metrics import BrokerMetrics

Ordinary = Callable[["FetchContext", FetchRequest], FetchResponse | Awaitable[FetchResponse]]
"""Answers a request whose session has been continued, as if there were no short cut."""


@dataclass(frozen=True, slots=True)
class SessionContinued(PartialResult):
    """What the follower has said has been taken in; `asked` has yet to be answered."""

    asked: FetchContext


class ReplicaFetches:
    """Answers ordinary fetches of followers.

    Args:
        fetch_max_bytes: fetch.max.bytes.
        ordinary: see there.
        may_follow: whether a session has the rights of a broker; None: nobody is asked.
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
        may_follow: Callable[[Session], bool] | None = None,
    ) -> None:
        self.ordinary = ordinary
        self.deadlines: Deadlines[ParkedFetch] = Deadlines(asyncio.get_running_loop())
        self._replicas = replicas
        self._sessions = sessions
        self._metrics = metrics
        self._fetch_max_bytes = fetch_max_bytes
        self._clock = clock
        self._may_follow = may_follow

    def handle_frame(
        self, frame: memoryview, version: int, session: Session
    ) -> list[Sendable] | ParkedFetch | SessionContinued | None:
        """Answer an ordinary fetch of a follower, at once or when there is something for it; else see the module."""
        if version != VERSION:
            return None
        fetch = parse_request(frame)
        if fetch is None or fetch.replica_id < 0 or not self._replicas.leader_throttle.is_idle:
            return None
        if self._may_follow is not None and not self._may_follow(session):
            return None
        owner = (session.principal, session.listener)
        sender = self._replicas.image.brokers.get(fetch.replica_id)
        if sender is None or sender.broker_epoch != fetch.replica_epoch:
            return None
        known = self._sessions.find(fetch.session_id, fetch.session_epoch, owner, uses_topic_ids=True)
        if known is None:
            return None
        now_ms = self._clock.monotonic_ms()
        if not known.update(fetch.partitions):
            return None
        self._sessions.advance(known, now_ms)
        look = _Look(self, fetch, known)
        try:
            look.take_in(now_ms)
            is_enough = look.find()
        except NotOrdinary:
            return SessionContinued(known.context())
        if is_enough or fetch.wait_ms_max <= 0:
            return look.answer()
        return ParkedFetch(look, self.deadlines, fetch.wait_ms_max / 1000)


class _Look:
    """One request, and what is there for it."""

    __slots__ = ("_parts", "_regions", "_rows", "bytes_missing", "fetch", "session", "watched")

    waits_for_stable = False

    def __init__(self, around: ReplicaFetches, fetch: ReplicaFetch, session: FetchSession) -> None:
        self._parts = around
        self.fetch = fetch
        self.session = session
        self.watched: list[Partition] = []
        self._rows: list[tuple[FetchPartition, Partition, Sendable]] = []
        #: How many of them stay in their files.
        self._regions = 0
        self.bytes_missing = fetch.bytes_min  # of what comes behind the end, whatever there is already

    def waiters(self, partition: Partition) -> dict[Waiter, None]:
        """Followers wait for the end of the log."""
        return partition.replica_waiters

    def _each(self, wants: Iterable[FetchPartition]) -> Iterator[tuple[FetchPartition, Partition]]:
        find = self._parts._replicas.partition
        for want in wants:
            partition = find(want.topic, want.partition)
            if (
                partition is None
                or partition.topic_id != want.topic_id
                or partition.leader_epoch != want.current_leader_epoch
            ):
                raise NotOrdinary
            yield want, partition

    def take_in(self, now_ms: int) -> None:
        """Take in how far the follower has come, in the partitions of which it says something, or in all."""
        fetch, session, replicas = self.fetch, self.session, self._parts._replicas
        known = session.partitions
        if now_ms - session.looked_ms >= replicas.follower_look_ms or replicas.has_questions:
            session.looked_ms = now_ms
            wants: Iterable[FetchPartition] = known.values()
        else:
            wants = [known[row.topic_id, "", row.partition] for row in fetch.partitions]
        for want, partition in self._each(wants):
            if want.fetch_offset < partition.log.log_start_offset:
                raise NotOrdinary
            verdict = partition.on_follower_fetch(
                fetch.replica_id,
                fetch.replica_epoch,
                session.turn,
                want.current_leader_epoch,
                want.fetch_offset,
                want.last_fetched_epoch,
                want.log_start_offset,
            )
            if verdict is not ACCEPTED:
                raise NotOrdinary

    def find(self) -> bool:
        """Look what there is, and read what is small; return whether that is to be answered at once."""
        fetch = self.fetch
        room = min(fetch.bytes_max, self._parts._fetch_max_bytes)
        byte_count = 0
        self.watched, self._rows, self._regions = [], [], 0
        for want, partition in self._each(self.session.partitions.values()):
            self.watched.append(partition)
            log = partition.log
            records: Sendable = b""
            if want.fetch_offset != log.log_end_offset:
                found = self._read(want, partition, min(room, want.max_bytes), is_first=not byte_count)
                records = b"" if found is None else found
                byte_count += len(records)
                room = max(room - len(records), 0)
            elif log.high_watermark == want.told_high_watermark and log.log_start_offset == want.told_log_start_offset:
                continue
            self._rows.append((want, partition, records))
        return byte_count >= fetch.bytes_min or self._is_awaited()

    def _read(self, want: FetchPartition, partition: Partition, bytes_max: int, *, is_first: bool) -> Sendable | None:
        records: Sendable | None = None
        try:
            part = partition.read(
                want.fetch_offset,
                bytes_max,
                IsolationLevel.READ_UNCOMMITTED,
                min_one=is_first,
                nowait=True,
                of_follower=True,
            )
            if part is None or not part.size:
                return None
            if part.size >= REGION_MIN and self._regions < REGIONS_MAX:
                records = part.unread(partition.offload)
                self._regions += records is not None
            if records is None:
                records = part.read_nowait()
        except (KafkaError, OSError, WouldBlockError):
            raise NotOrdinary from None
        if records is None:
            raise NotOrdinary
        return records

    def _is_awaited(self) -> bool:
        """Whether the next fetch of this follower is waited for, as a proof that this broker leads."""
        replica_id = self.fetch.replica_id
        return self._parts._replicas.has_questions and any(p.awaits(replica_id) for p in self.watched)

    def answer(self) -> list[Sendable]:
        """Return the body of the answer: from now on the follower knows what is in it."""
        session = self.session
        rows: list[AnsweredPartition] = []
        for want, partition, records in self._rows:
            log = partition.log
            want.told_high_watermark = log.high_watermark
            want.told_log_start_offset = log.log_start_offset
            rows.append(
                AnsweredPartition(
                    want.topic_id,
                    want.partition,
                    log.high_watermark,
                    log.last_stable_offset,
                    log.log_start_offset,
                    records,
                )
            )
            if records:  # others first, the next time
                session.partitions[want.key] = session.partitions.pop(want.key)
                self._parts._metrics.topic(want.topic).bytes_out += len(records)
        session.turn = self._parts._replicas.turn
        return encode_answer(ReplicaAnswer(session.session_id, rows))

    def answer_ordinarily(self, wait_ms: int) -> FetchResponse | Awaitable[FetchResponse]:
        """Have `FetchHandler` look again."""
        fetch, session = self.fetch, self.session
        request = FetchRequest(
            replica_state=ReplicaState(replica_id=fetch.replica_id, replica_epoch=fetch.replica_epoch),
            max_wait_ms=wait_ms,
            min_bytes=fetch.bytes_min,
            max_bytes=fetch.bytes_max,
            session_id=fetch.session_id,
            session_epoch=fetch.session_epoch,
        )
        return self._parts.ordinary(session.context(), request)
