"""Throttles of replication: how much of replicas that are being moved goes over the network, per second.

As in Apache Kafka (KIP-73): `leader.replication.throttled.rate` bounds what a leader sends, `follower.replication.
throttled.rate` what a follower fetches, of the replicas that the topic keys `*.replication.throttled.replicas` name. A
replica that is in sync is never held up: what is throttled is catching up. `kafka-reassign-partitions --throttle` sets all
four and takes them away.

Pure: knows bytes and the time it is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ottla.cluster.image import TOPICS
from ottla.config import DYNAMIC_ONLY
from ottla.config.keys import LONG_MAX

if TYPE_CHECKING:
    from ottla.cluster.image import ClusterImage
    from ottla.config.effective import Levels

#: Kafka's defaults of replication.quota.window.num and .size.seconds.
WINDOWS: Final = 11
WINDOW_MS: Final = 1_000

#: The partitions of a topic that are throttled on this broker; None for all.
Throttled = frozenset[int] | None


class Throttle:
    """One direction.

    Attributes:
        limit: bytes per second.
    """

    __slots__ = ("_now_ms", "_samples", "_throttled", "_total", "limit")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.limit = LONG_MAX
        self._now_ms = now_ms
        self._throttled: Mapping[str, Throttled] = {}
        #: (begin, bytes) of windows, the oldest first.
        self._samples: deque[tuple[int, int]] = deque()
        self._total = 0

    def change(self, limit: int, throttled: Mapping[str, Throttled]) -> None:
        """Put another limit in force, for these partitions."""
        self.limit = limit
        self._throttled = throttled

    def is_throttled(self, topic: str, partition: int) -> bool:
        """Whether the replica here counts, and may be held up."""
        if topic not in self._throttled:
            return False
        known = self._throttled[topic]
        return known is None or partition in known

    @property
    def is_idle(self) -> bool:
        """Whether nothing is throttled, so that there is nothing to look up."""
        return not self._throttled

    def record(self, byte_count: int) -> None:
        """So much of throttled replicas has gone through."""
        now_ms = self._now_ms()
        if self._samples and now_ms - self._samples[-1][0] < WINDOW_MS:
            begin, before = self._samples.pop()
            self._samples.append((begin, before + byte_count))
        else:
            self._samples.append((now_ms, byte_count))
        self._total += byte_count

    def is_exceeded(self) -> bool:
        """Whether more than the limit has gone through, on average over the last ten seconds."""
        now_ms = self._now_ms()
        while self._samples and now_ms - self._samples[0][0] >= WINDOWS * WINDOW_MS:
            self._total -= self._samples.popleft()[1]
        if not self._total:
            return False
        elapsed_ms = max(now_ms - self._samples[0][0], (WINDOWS - 1) * WINDOW_MS)
        return self._total * 1000 > self.limit * elapsed_ms


class Throttles:
    """Both directions of one broker.

    Attributes:
        between_directories: bytes per second of replicas that move from one log directory to another.
    """

    def __init__(self, node_id: int, now_ms: Callable[[], int]) -> None:
        self.leader = Throttle(now_ms)
        self.follower = Throttle(now_ms)
        self.between_directories = LONG_MAX
        self._node_id = node_id

    def on_configs(self, image: ClusterImage, levels: Levels) -> None:
        """Settings of topics or of this broker have changed."""
        self.between_directories = _rate("replica.alter.log.dirs.io.max.bytes.per.second", levels)
        for side, throttle in (("leader", self.leader), ("follower", self.follower)):
            limit = _rate(f"{side}.replication.throttled.rate", levels)
            key = f"{side}.replication.throttled.replicas"
            throttle.change(
                limit,
                {
                    resource.name: _partitions(config[key], self._node_id)
                    for resource, config in image.configs.items()
                    if resource.kind == TOPICS and config.get(key)
                },
            )


def _rate(key: str, levels: Levels) -> int:
    row = DYNAMIC_ONLY[key]
    found = levels.find(key)
    limit = row.parse(row.default if found is None else found[0])
    assert isinstance(limit, int)
    return limit


def _partitions(text: str, node_id: int) -> Throttled:
    """Return the partitions whose replica on this broker a list like `0:1,0:2,1:3` names; None for `*`."""
    items = [item.strip() for item in text.split(",")]
    if items == ["*"]:
        return None
    pairs = [item.partition(":") for item in items if item]
    return frozenset(int(partition) for partition, _, broker in pairs if int(broker) == node_id)
