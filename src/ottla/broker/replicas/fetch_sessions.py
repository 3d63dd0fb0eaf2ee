"""Incremental fetch sessions (KIP-227): what a client asked for before, so that it need not say it again.

Decides which partitions a Fetch request means and which of them its response must list. Knows offsets and numbers; knows
no logs, no clock (times are passed in), no randomness of its own (session ids come from the `Dice` passed in).

A session is keyed by an id; each incremental request carries the next epoch. Order matters: partitions that returned
data move to the end, so that with small `max_bytes` every partition gets its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ottla.errors import ErrorCode
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ottla.broker.quotas.client_quotas import Bucket
    from ottla.protocol.messages.fetch import FetchRequest, FetchResponse, PartitionData
    from ottla.protocol.replica_fetch_frames import AskedPartition

#: Epoch of a request that opens a session, and of one that wants none (KIP-227).
INITIAL_EPOCH = 0
FINAL_EPOCH = -1

#: A session that has been quiet for this long may be evicted for a new one (Kafka's `minIncrementalFetchSessionEvictionMs`).
EVICTION_AGE_MS = 120_000

#: A session remembers every partition it was ever told of: more than this are served, but not remembered.
SESSION_PARTITIONS_MAX = 10_000

Key = tuple[bytes, str, int]


class Dice(Protocol):
    """Where session ids come from: on a real machine from what cannot be guessed, since an id is a right by itself."""

    def randrange(self, start: int, stop: int) -> int: ...


@dataclass(slots=True)
class FetchPartition:
    """What a client wants of one partition, and what it was told last."""

    topic: str
    topic_id: bytes
    partition: int
    fetch_offset: int = 0
    max_bytes: int = 0
    current_leader_epoch: int = -1
    last_fetched_epoch: int = -1
    log_start_offset: int = -1
    told_high_watermark: int = -1
    told_log_start_offset: int = -1

    @property
    def key(self) -> Key:
        return (self.topic_id, "" if self.topic_id != ZERO_UUID else self.topic, self.partition)


@dataclass(slots=True)
class FetchSession:
    """The partitions of one session, in the order in which they get their turn.

    Attributes:
        turn: of a follower: the turn in which it was answered last, see `ReplicaManager.turn`.
        looked_ms: of a follower: when it was last taken in that it follows all of them.
        has_unknown: some are of topics that were not known when they were asked for last.
    """

    session_id: int
    uses_topic_ids: bool
    partitions: dict[Key, FetchPartition]
    epoch: int
    last_used_ms: int
    owner: object = None
    turn: int = -1
    looked_ms: int = 0
    has_unknown: bool = False

    def context(self) -> FetchContext:
        """Return what a request that goes on with this session means."""
        return FetchContext(ErrorCode.NONE, list(self.partitions.values()), self, True, self.turn)

    def update(self, rows: Iterable[AskedPartition]) -> bool:
        """Take in what is asked differently of partitions that are in the session; False, and nothing, if one is not."""
        found = [(self.partitions.get((row.topic_id, "", row.partition)), row) for row in rows]
        if any(known is None for known, _ in found):
            return False
        for known, row in found:
            assert known is not None
            known.fetch_offset = row.offset
            known.max_bytes = row.bytes_max
            known.current_leader_epoch = row.leader_epoch
            known.last_fetched_epoch = row.last_epoch
            known.log_start_offset = row.log_start_offset
        return True


@dataclass(slots=True)
class FetchContext:
    """One request, understood: the partitions it means and how its response is to be cut."""

    error: ErrorCode
    partitions: list[FetchPartition]
    session: FetchSession | None = None
    incremental: bool = False
    #: Of a follower: the turn of the answer that it had got when it sent this request; -1: not known.
    turn: int = -1
    #: Asked at each look whether the client may read a topic; None: it may read all.
    may_read: Callable[[str], bool] | None = None
    #: Of a consumer: completes an answer with the leaders of partitions that are not led here (KIP-951).
    name_leaders: Callable[[FetchResponse], None] | None = None
    #: Where what the client gets is counted; None: it may read as fast as it likes.
    bucket: Bucket | None = None
    throttle_ms: int = 0

    @property
    def session_id(self) -> int:
        return self.session.session_id if self.session else 0

    def shape(self, answers: list[tuple[FetchPartition, PartitionData]]) -> list[tuple[FetchPartition, PartitionData]]:
        """Return what the response must list: all of it, or in an incremental session what is new."""
        if self.session is None:
            return answers
        listed = [(asked, data) for asked, data in answers if _is_news(asked, data) or not self.incremental]
        for asked, data in listed:
            if data.records:
                self.session.partitions[asked.key] = self.session.partitions.pop(asked.key, asked)
        return listed


def _is_news(asked: FetchPartition, data: PartitionData) -> bool:
    news = bool(data.records) or data.preferred_read_replica != -1 or data.diverging_epoch.end_offset != -1
    if asked.told_high_watermark != data.high_watermark:
        asked.told_high_watermark = data.high_watermark
        news = True
    if asked.told_log_start_offset != data.log_start_offset:
        asked.told_log_start_offset = data.log_start_offset
        news = True
    if data.error_code:
        # Forget the high watermark, so that the partition is sent again when the error is gone.
        asked.told_high_watermark = -1
        news = True
    return news


class FetchSessionCache:
    """All sessions of a broker, at most `slots` of them (`max.incremental.fetch.session.cache.slots`)."""

    def __init__(self, slots: int, random: Dice) -> None:
        self._slots = slots
        self._random = random
        self._sessions: dict[int, FetchSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open_context(
        self,
        request: FetchRequest,
        version: int,
        topic_names: Mapping[bytes, str],
        now_ms: int,
        owner: object = None,
    ) -> FetchContext:
        """Understand one request.

        Args:
            topic_names: resolves topic ids (v13+); an unknown id leaves the name empty.
            owner: who asks. A session is there for its owner only; for others it is one that does not exist.
        """
        uses_ids = version >= 13
        if request.session_epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            known = self._sessions.get(request.session_id)
            if known is not None and known.owner == owner:
                del self._sessions[request.session_id]
            asked = {p.key: p for p in _requested(request, uses_ids, topic_names)}
            if request.session_epoch == FINAL_EPOCH:
                return FetchContext(ErrorCode.NONE, list(asked.values()))
            return FetchContext(ErrorCode.NONE, list(asked.values()), self._create(asked, uses_ids, now_ms, owner))
        session = self._sessions.get(request.session_id)
        if session is None or session.owner != owner:
            return FetchContext(ErrorCode.FETCH_SESSION_ID_NOT_FOUND, [])
        if session.epoch != request.session_epoch:
            return FetchContext(ErrorCode.INVALID_FETCH_SESSION_EPOCH, [])
        if session.uses_topic_ids != uses_ids:
            return FetchContext(ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, [])
        return self._continue(session, request, topic_names, now_ms)

    def _create(
        self, asked: dict[Key, FetchPartition], uses_ids: bool, now_ms: int, owner: object
    ) -> FetchSession | None:
        if len(asked) > SESSION_PARTITIONS_MAX or not self._make_room(now_ms):
            return None
        session_id = 0
        while session_id == 0 or session_id in self._sessions:
            session_id = self._random.randrange(1, 1 << 31)
        session = FetchSession(session_id, uses_ids, asked, 1, now_ms, owner)
        session.has_unknown = not all(p.topic for p in asked.values())
        self._sessions[session_id] = session
        return session

    def find(self, session_id: int, epoch: int, owner: object, *, uses_topic_ids: bool) -> FetchSession | None:
        """Return the session that a request of this epoch goes on with, if all its topics are known."""
        session = self._sessions.get(session_id)
        if (
            session is None
            or session.owner != owner
            or session.epoch != epoch
            or epoch in (INITIAL_EPOCH, FINAL_EPOCH)
            or session.uses_topic_ids != uses_topic_ids
            or session.has_unknown
        ):
            return None
        return session

    def advance(self, session: FetchSession, now_ms: int) -> None:
        """A request has gone on with the session: the next one has the next epoch."""
        session.epoch = session.epoch + 1 if session.epoch < 0x7FFFFFFF else 1
        session.last_used_ms = now_ms
        # The dict is ordered by last use: the first one is the oldest.
        self._sessions[session.session_id] = self._sessions.pop(session.session_id)

    def forget(self, session: FetchSession) -> None:
        """End a session of which its client has not heard."""
        self._sessions.pop(session.session_id, None)

    def _make_room(self, now_ms: int) -> bool:
        if len(self._sessions) < self._slots:
            return True
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None or now_ms - oldest.last_used_ms < EVICTION_AGE_MS:
            return False
        del self._sessions[oldest.session_id]
        return True

    def _continue(
        self, session: FetchSession, request: FetchRequest, topic_names: Mapping[bytes, str], now_ms: int
    ) -> FetchContext:
        for asked in _requested(request, session.uses_topic_ids, topic_names):
            known = session.partitions.get(asked.key)
            if known is not None:
                asked.told_high_watermark = known.told_high_watermark
                asked.told_log_start_offset = known.told_log_start_offset
            session.partitions[asked.key] = asked
        for topic in request.forgotten_topics_data or ():
            name = "" if session.uses_topic_ids else topic.topic
            for index in topic.partitions:
                session.partitions.pop((topic.topic_id, name, index), None)
        if not session.partitions:
            del self._sessions[session.session_id]
            return FetchContext(ErrorCode.NONE, [])
        if session.uses_topic_ids:
            for asked in session.partitions.values():
                if not asked.topic:  # unknown when the session began, or deleted since
                    asked.topic = topic_names.get(asked.topic_id, "")
            session.has_unknown = not all(asked.topic for asked in session.partitions.values())
        if len(session.partitions) > SESSION_PARTITIONS_MAX:
            del self._sessions[session.session_id]  # answered in full, without an id: the client begins anew
            return FetchContext(ErrorCode.NONE, list(session.partitions.values()))
        self.advance(session, now_ms)
        return session.context()


def _requested(request: FetchRequest, uses_ids: bool, topic_names: Mapping[bytes, str]) -> Iterable[FetchPartition]:
    for topic in request.topics or ():
        name = topic_names.get(topic.topic_id, "") if uses_ids else topic.topic
        for p in topic.partitions:
            yield FetchPartition(
                topic=name,
                topic_id=topic.topic_id,
                partition=p.partition,
                fetch_offset=p.fetch_offset,
                max_bytes=p.partition_max_bytes,
                current_leader_epoch=p.current_leader_epoch,
                last_fetched_epoch=p.last_fetched_epoch,
                log_start_offset=p.log_start_offset,
            )
