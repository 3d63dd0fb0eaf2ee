"""To which partition a record goes.

With a key: Kafka's hash (murmur2, as the Java client), or librdkafka's (CRC-32) so that keys stay where they are when a
program moves over. Without: "sticky", the records of one batch together and the next batch elsewhere, partitions with
short queues preferred (KIP-480, KIP-794); or in turn, or at random, or by a function of the caller's.

`random` is passed in. Knows partition counts and queue lengths; knows no cluster.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING
from zlib import crc32

from ottla.client._core.appending import BY_CRC32, BY_FUNCTION, BY_MURMUR2, NEVER, Choice
from ottla.client._core.appending import murmur2 as murmur2

if TYPE_CHECKING:
    from random import Random

#: (topic, key or None, partition count) -> partition.
PartitionFunction = Callable[[str, bytes | None, int], int]


def java_partition(key: bytes, count: int) -> int:
    """Return the partition the Java client chooses for a key."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def librdkafka_partition(key: bytes, count: int) -> int:
    """Return the partition librdkafka's "consistent" partitioners choose for a key."""
    return crc32(key) % count


class TopicPartitioner(Choice):
    """Chooses for one topic.

    Args:
        kind: None for Kafka's default, "consistent_random", "round_robin", "random", or a function.
        ignore_keys: treat every record as one without a key (`partitioner.ignore.keys`).
        adaptive: prefer partitions with short queues (`partitioner.adaptive.partitioning.enable`).
    """

    __slots__ = ("_adaptive", "_counter", "_hash", "_ignore_keys", "_kind", "_random", "_topic")

    def __init__(
        self,
        topic: str,
        *,
        kind: str | PartitionFunction | None,
        random: Random,
        ignore_keys: bool = False,
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        if kind is None:
            self.way = NEVER if ignore_keys else BY_MURMUR2
        elif kind == "consistent_random":
            self.way = NEVER if ignore_keys else BY_CRC32
        else:
            self.way = BY_FUNCTION
        self._topic = topic
        self._kind = kind
        self._random = random
        self._ignore_keys = ignore_keys
        self._adaptive = adaptive
        self._hash = librdkafka_partition if kind == "consistent_random" else java_partition
        self._counter = int(random.random() * 1_000_000)

    def choose(self, key: bytes | None, count: int, available: Sequence[int] | None = None) -> int:
        """Return the partition of a record, or -1 if it goes where `sticky` points.

        Args:
            available: the partitions that have a leader, of which "round_robin" and "random" take one (as in Kafka); all of
                them if none has. A key stays in its partition, whoever leads it.

        Raises:
            ValueError: the caller's function answered with no partition of the topic.
        """
        kind = self._kind
        if kind is None or kind == "consistent_random":
            # librdkafka treats an empty key like none.
            if key is None or self._ignore_keys or (not key and kind is not None):
                return -1
            return self._hash(key, count)
        if kind == "round_robin":
            self._counter += 1
            among = available or range(count)
            return among[self._counter % len(among)]
        if kind == "random":
            among = available or range(count)
            return among[int(self._random.random() * len(among))]
        assert callable(kind)
        chosen = kind(self._topic, key, count)
        if not isinstance(chosen, int) or not 0 <= chosen < count:
            raise ValueError(
                f"the partitioner answered {chosen!r} for topic {self._topic!r}, which has {count} partitions"
            )
        return chosen

    def move_on(self, candidates: Sequence[int], queue_sizes: Sequence[int] | None) -> int:
        """Choose another partition for records without a key.

        Args:
            candidates: the partitions that have a leader; all of them if none has.
            queue_sizes: how many batches wait for each candidate, or None if that is not to matter.
        """
        if len(candidates) == 1:
            chosen = candidates[0]
        elif queue_sizes is None or not self._adaptive:
            chosen = candidates[int(self._random.random() * len(candidates))]
        else:
            # KIP-794: the probability falls with the queue.
            longest = max(queue_sizes) + 1
            totals = list(accumulate(longest - size for size in queue_sizes))
            chosen = candidates[bisect_right(totals, int(self._random.random() * totals[-1]))]
        self.sticky = chosen
        self.stuck = 0
        return chosen
