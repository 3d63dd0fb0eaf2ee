"""The short cut of Fetch for followers: a session that goes on, read and answered by position, without a task of its own.

What a follower asks for differently is news of how far it has come, and is taken in at once. Partitions of which it says
nothing are looked at for records that it lacks; that it still follows them is taken in now and then, and at once while a
proof is waited for that this broker leads. Whatever is not ordinary (an error, a log that diverges, records that are not in
memory, a throttle) is left to `FetchHandler`: before anything has changed by returning None, else by `SessionContinued`.

A request that waits is a `ParkedFetch`. Its next look is made in the next turn of the loop after a partition has grown: one
answer for all that was appended in one turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ottla.broker.context import PartialResult
from ottla.broker.deadlines import Deadlines
from ottla.broker.replicas.leader import ACCEPTED
from ottla.errors import ErrorCode, KafkaError
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
    from ottla.clock import Clock
    from ottla.observability.metrics import BrokerMetrics

logger = logging.getLogger(__name__)

Body = bytes | FetchResponse
Ordinary = Callable[["FetchContext", FetchRequest], FetchResponse | Awaitable[FetchResponse]]
"""Answers a request whose session has been continued, as if there were no short cut."""


@dataclass(frozen=True, slots=True)
class SessionContinued(PartialResult):
    """What the follower has said has been taken in; `asked` has yet to be answered."""

    asked: FetchContext


class _NotOrdinary(Exception):
    """The look met what the ordinary path has to answer."""


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
    ) -> bytes | ParkedFetch | SessionContinued | None:
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
            look.find()
        except _NotOrdinary:
            return SessionContinued(known.context())
        if look.is_enough or fetch.wait_ms_max <= 0 or look.is_awaited:
            return look.answer()
        return ParkedFetch(self, look, fetch.wait_ms_max / 1000)


class _Look:
    """One request, and what is there for it."""

    __slots__ = ("_parts", "_rows", "fetch", "is_enough", "session", "watched")

    def __init__(self, around: ReplicaFetches, fetch: ReplicaFetch, session: FetchSession) -> None:
        self._parts = around
        self.fetch = fetch
        self.session = session
        self.watched: list[Partition] = []
        self._rows: list[tuple[FetchPartition, Partition, bytes | bytearray | memoryview]] = []
        self.is_enough = False

    def _each(self, wants: Iterable[FetchPartition]) -> Iterator[tuple[FetchPartition, Partition]]:
        find = self._parts._replicas.partition
        for want in wants:
            partition = find(want.topic, want.partition)
            if (
                partition is None
                or partition.topic_id != want.topic_id
                or partition.leader_epoch != want.current_leader_epoch
            ):
                raise _NotOrdinary
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
                raise _NotOrdinary
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
                raise _NotOrdinary

    def find(self) -> None:
        """Look what there is, and read what is small and in memory."""
        fetch = self.fetch
        room = min(fetch.bytes_max, self._parts._fetch_max_bytes)
        byte_count = 0
        self.watched, self._rows = [], []
        for want, partition in self._each(self.session.partitions.values()):
            self.watched.append(partition)
            log = partition.log
            records: bytes | bytearray | memoryview = b""
            if want.fetch_offset != log.log_end_offset:
                found = self._read(want, partition, min(room, want.max_bytes), is_first=not byte_count)
                records = b"" if found is None else found
                byte_count += len(records)
                room = max(room - len(records), 0)
            elif log.high_watermark == want.told_high_watermark and log.log_start_offset == want.told_log_start_offset:
                continue
            self._rows.append((want, partition, records))
        self.is_enough = byte_count >= fetch.bytes_min

    def _read(
        self, want: FetchPartition, partition: Partition, bytes_max: int, *, is_first: bool
    ) -> bytes | bytearray | memoryview | None:
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
            records = None if part.size >= REGION_MIN else part.read_nowait()
        except (KafkaError, OSError, WouldBlockError):
            raise _NotOrdinary from None
        if records is None:
            raise _NotOrdinary
        return records

    @property
    def is_awaited(self) -> bool:
        """Whether the next fetch of this follower is waited for, as a proof that this broker leads."""
        replica_id = self.fetch.replica_id
        return self._parts._replicas.has_questions and any(p.awaits(replica_id) for p in self.watched)

    def answer(self) -> bytes:
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


class ParkedFetch:
    """A fetch of a follower that waits until there is something for it; it is the waiter of its partitions.

    Attributes:
        due: when it is answered whatever there is, in the loop's time; set by `Deadlines`.
    """

    __slots__ = ("_around", "_bytes_wanted", "_callback", "_is_woken", "_look", "_task", "due")

    def __init__(self, around: ReplicaFetches, look: _Look, seconds: float) -> None:
        self._around = around
        self._look = look
        self._callback: Callable[[Body], None] | None = None
        self._task: asyncio.Task[FetchResponse] | None = None
        self._is_woken = False
        self.due = 0.0
        self._park()
        around.deadlines.add(self, seconds)

    def then(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with the answer, once."""
        self._callback = callback

    def abandon(self) -> None:
        """The connection has ended."""
        if self._callback is not None:
            self._callback = None
            self._around.deadlines.remove(self)
            self._leave()
        elif self._task is not None:
            self._task.cancel()

    # -- waiting

    def _park(self) -> None:
        self._bytes_wanted = self._look.fetch.bytes_min
        for partition in self._look.watched:
            partition.replica_waiters[self] = None

    def _leave(self) -> None:
        for partition in self._look.watched:
            partition.replica_waiters.pop(self, None)

    def on_progress(self, byte_count: int, *, is_stable: bool) -> None:
        """A log has grown."""
        self._bytes_wanted -= byte_count
        if self._bytes_wanted <= 0:
            self.wake()

    def wake(self) -> None:
        """Look again: something has changed."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._look_again)

    def _look_again(self) -> None:
        self._is_woken = False
        if self._callback is None:
            return
        look = self._look
        self._leave()
        try:
            look.find()
        except _NotOrdinary:
            self._around.deadlines.remove(self)
            self._answer_ordinarily()
            return
        if look.is_enough or look.is_awaited:
            self._around.deadlines.remove(self)
            self._give(look.answer())
        else:
            self._park()

    def on_timeout(self) -> None:
        """The follower waits no longer."""
        self._leave()
        try:
            self._look.find()
        except _NotOrdinary:
            self._answer_ordinarily()
        else:
            self._give(self._look.answer())

    # -- answering

    def _give(self, body: Body) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(body)

    def _answer_ordinarily(self) -> None:
        fetch, session = self._look.fetch, self._look.session
        left_s = self.due - asyncio.get_running_loop().time()
        request = FetchRequest(
            replica_state=ReplicaState(replica_id=fetch.replica_id, replica_epoch=fetch.replica_epoch),
            max_wait_ms=max(0, int(left_s * 1000)),
            min_bytes=fetch.bytes_min,
            max_bytes=fetch.bytes_max,
            session_id=fetch.session_id,
            session_epoch=fetch.session_epoch,
        )
        answer = self._around.ordinary(session.context(), request)
        if isinstance(answer, FetchResponse):
            self._give(answer)
            return
        callback, self._callback = self._callback, None
        self._task = asyncio.ensure_future(_awaited(answer))
        self._task.add_done_callback(partial(_on_answered, callback))


async def _awaited(answer: Awaitable[FetchResponse]) -> FetchResponse:
    return await answer


def _on_answered(callback: Callable[[Body], None] | None, task: asyncio.Task[FetchResponse]) -> None:
    if task.cancelled() or callback is None:
        return
    error = task.exception()
    if error is not None:
        logger.error("a fetch of a follower could not be answered", exc_info=error)
        callback(FetchResponse(error_code=ErrorCode.UNKNOWN_SERVER_ERROR))
    else:
        callback(task.result())
