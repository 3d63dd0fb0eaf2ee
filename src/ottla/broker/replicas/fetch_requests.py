"""What a follower asks its leader for in one Fetch: the asking side of an incremental session (KIP-227).

Pure. A session holds what was asked before; a request names what is asked differently now, and what is not asked any more.
A partition that is left alone for a moment (its log is being written) is taken out of the session: the leader would answer
from the old offset otherwise, at once and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic, ReplicaState
from ottla.protocol.replica_fetch_frames import AskedPartition, ReplicaFetch

Key = tuple[bytes, int]
"""Topic id and partition."""


class Wanted(NamedTuple):
    """What is asked of one partition."""

    leader_epoch: int
    offset: int
    last_epoch: int
    log_start_offset: int
    high_watermark: int


class FetchLimits(NamedTuple):
    """Kafka's broker keys `replica.fetch.*`; bytes and milliseconds."""

    partition_bytes_max: int
    bytes_min: int
    bytes_max: int
    wait_ms_max: int


class FetchSession:
    """One session with one leader; a new one per connection."""

    def __init__(self) -> None:
        self._session_id = 0
        self._epoch = 0
        self._asked: dict[Key, Wanted] = {}

    def reset(self) -> None:
        """The leader knows the session no more: the next request begins another."""
        self._session_id = self._epoch = 0
        self._asked = {}

    def on_answer(self, session_id: int) -> None:
        """The leader has answered; without an id it keeps no session, and everything is asked for each time."""
        if not session_id:
            self.reset()
            return
        self._session_id = session_id
        self._epoch = self._epoch + 1 if self._epoch < 0x7FFFFFFF else 1

    @property
    def goes_on(self) -> bool:
        """Whether the leader has a session that the next request can go on with."""
        return self._session_id != 0

    def changes(self, wanted: Mapping[Key, Wanted], *, replica: tuple[int, int], limits: FetchLimits) -> ReplicaFetch:
        """Return the next request where only these partitions are asked for differently, and none is forgotten."""
        rows: list[AskedPartition] = []
        for key, one in wanted.items():
            if self._asked.get(key) == one:
                continue
            self._asked[key] = one
            rows.append(
                AskedPartition(
                    *key,
                    one.leader_epoch,
                    one.offset,
                    one.last_epoch,
                    one.log_start_offset,
                    limits.partition_bytes_max,
                    one.high_watermark,
                )
            )
        return ReplicaFetch(
            limits.wait_ms_max, limits.bytes_min, limits.bytes_max, self._session_id, self._epoch, *replica, rows
        )

    def request(
        self,
        wanted: Mapping[Key, Wanted],
        *,
        replica: tuple[int, int],
        limits: FetchLimits,
    ) -> FetchRequest:
        """Return the next request; `replica`: broker id and broker epoch of the follower."""
        topics: dict[bytes, FetchTopic] = {}
        for (topic_id, index), one in wanted.items():
            if self._asked.get((topic_id, index)) == one:
                continue
            topic = topics.get(topic_id)
            if topic is None:
                topic = topics[topic_id] = FetchTopic(topic_id=topic_id)
            topic.partitions.append(
                FetchPartition(
                    partition=index,
                    current_leader_epoch=one.leader_epoch,
                    fetch_offset=one.offset,
                    last_fetched_epoch=one.last_epoch,
                    log_start_offset=one.log_start_offset,
                    partition_max_bytes=limits.partition_bytes_max,
                    high_watermark=one.high_watermark,
                )
            )
        forgotten: dict[bytes, ForgottenTopic] = {}
        for topic_id, index in self._asked:
            if (topic_id, index) not in wanted:
                gone = forgotten.setdefault(topic_id, ForgottenTopic(topic_id=topic_id))
                gone.partitions.append(index)
        self._asked = dict(wanted)
        return FetchRequest(
            replica_state=ReplicaState(replica_id=replica[0], replica_epoch=replica[1]),
            max_wait_ms=limits.wait_ms_max,
            min_bytes=limits.bytes_min,
            max_bytes=limits.bytes_max,
            session_id=self._session_id,
            session_epoch=self._epoch,
            topics=list(topics.values()),
            forgotten_topics_data=list(forgotten.values()),
        )
