"""Records that wait to be sent, in batches by partition, and how much memory they may take.

Decides which batch a record joins, when a batch is ready, and which batches a request to a broker takes. Knows no
broker's answer; `sequences` and `producer` do. Keys in force: `batch.size`, `linger.ms`, `buffer.memory`,
`max.request.size`.

Invariants:
  * Records of a partition leave in the order in which they came: a batch that is to be sent again goes back to its
    place.
  * `used` is the size of all batches that are neither done nor failed, so it is 0 when there are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ottla.client._core.appending import Lane, Room
from ottla.client._core.batch import Batch, Headers
from ottla.client._core.partitioner import TopicPartitioner
from ottla.protocol.records.batch import HEADER_SIZE

if TYPE_CHECKING:
    from random import Random

    from ottla.client._core.settings import ProducerSettings

#: Who waits for room is woken when so much of the memory is free: woken for each batch, a busy thread would share the
#: interpreter with the one that sends, and neither would get on.
_ROOM_SHARE = 1 / 8
#: Kafka's steps of the estimate how far a topic's records can be compressed: quick to fear growth, slow to hope.
_RATIO_UP, _RATIO_DOWN = 0.05, 0.005
#: A batch of well-compressing records holds no more than this many times its size.
_RATIO_MIN = 1 / 16


class PartitionQueue:
    """The batches of one partition that are not on their way, and what `sequences` keeps of it.

    Attributes:
        in_flight: batches that have a sequence and no outcome, on their way or waiting to be sent again, in order.
        on_the_way: how many batches are in requests that have not been answered.
        next_sequence: of the next batch.
        last_acked_sequence: -1 if none was acknowledged in this epoch.
        known: the broker has acknowledged a batch of this producer id.
        unresolved: a batch was given up whose fate is unknown; until that is settled no new batch is sent.
    """

    __slots__ = (
        "batches",
        "epoch",
        "in_flight",
        "known",
        "last_acked_offset",
        "last_acked_sequence",
        "next_sequence",
        "on_the_way",
        "partition",
        "producer_id",
        "topic",
        "unresolved",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic: str = topic
        self.partition: int = partition
        self.batches: deque[Batch] = deque()
        self.on_the_way: int = 0
        self.producer_id: int = -1
        self.epoch: int = -1
        self.in_flight: list[Batch] = []
        self.next_sequence: int = 0
        self.last_acked_sequence: int = -1
        self.last_acked_offset: int = -1
        self.unresolved: bool = False
        self.known: bool = False

    def put_back(self, batch: Batch) -> None:
        """Queue a batch again that was on its way, in its place: the order is that in which batches were begun."""
        position = 0
        for other in self.batches:
            if other.order > batch.order:
                break
            position += 1
        self.batches.insert(position, batch)


class TopicQueues(Lane):
    """The queues of one topic and its partitioner.

    Attributes:
        ratio: compressed by uncompressed size, as estimated.
    """

    __slots__ = ("_batch_size", "available", "partitioner", "queues", "ratio")

    def __init__(self, topic: str, count: int, partitioner: TopicPartitioner, batch_size: int) -> None:
        super().__init__(partitioner, count, batch_size)
        self.queues = [PartitionQueue(topic, partition) for partition in range(count)]
        self.partitioner = partitioner
        self.available: Sequence[int] = range(count)
        self._batch_size = batch_size
        self.ratio = 1.0

    def grow(self, count: int) -> None:
        """Make room for partitions that came later."""
        topic = self.queues[0].topic
        self.open += [None] * (count - len(self.queues))
        self.queues += [PartitionQueue(topic, partition) for partition in range(len(self.queues), count)]

    def set_ratio(self, ratio: float) -> None:
        """Estimate the compression anew: a batch of records that compress well may have more than `batch.size`."""
        self.ratio = ratio
        self.limit = int(self._batch_size / ratio)


class Accumulator(Room):
    """The queues of all topics.

    Attributes:
        active: the queues that have batches waiting, in the order in which they became so.
        waiters: callables of those who wait for room; each is called once there may be.
    """

    def __init__(self, settings: ProducerSettings, random: Random) -> None:
        super().__init__(settings.buffer_memory)
        self._begun = 0
        self.active: dict[PartitionQueue, None] = {}
        self.topics: dict[str, TopicQueues] = {}
        self.waiters: deque[Callable[[], object]] = deque()
        self._settings = settings
        self._random = random
        self._batch_size = settings.batch_size
        self._wake_below = settings.buffer_memory * (1 - _ROOM_SHARE)

    def set_partitions(self, topic: str, count: int, available: Sequence[int]) -> None:
        """Learn how many partitions a topic has, and which of them have a leader. Partitions never go away."""
        found = self.topics.get(topic)
        if found is None:
            settings = self._settings
            partitioner = TopicPartitioner(
                topic,
                kind=settings.partitioner,
                random=self._random,
                ignore_keys=settings.partitioner_ignore_keys,
                adaptive=settings.partitioner_adaptive,
            )
            found = self.topics[topic] = TopicQueues(topic, count, partitioner, self._batch_size)
        elif count > len(found.queues):
            found.grow(count)
        found.available = available or range(len(found.queues))

    # -- adding -----------------------------------------------------------------------------------------------------

    def append(
        self,
        topics: TopicQueues,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int,
        size: int,
        now_ms: Callable[[], float],
    ) -> tuple[Batch, int] | None:
        """Add a record of `size` bytes (`record_size`); return its batch and its place there, or None: no room.

        The time is asked for only when a batch begins.

        Raises:
            ValueError: the caller's partitioner answered nonsense.
        """
        if self.used + size > self.memory and self.used:
            return None
        queues = topics.queues
        chosen = partition
        if chosen is None:
            chosen = topics.partitioner.choose(key, len(queues), topics.available)
        limit = topics.limit
        if chosen >= 0:
            queue = queues[chosen]
            batch = self._open_batch(queue, size, limit)
        else:
            partitioner = topics.partitioner
            chosen = partitioner.sticky
            batch = self._open_batch(queues[chosen], size, limit) if chosen >= 0 else None
            if batch is None and (chosen < 0 or partitioner.stuck + size > limit or queues[chosen].batches):
                chosen = self._move_on(topics)
                batch = self._open_batch(queues[chosen], size, limit)
            queue = queues[chosen]
            partitioner.stuck += size
        if batch is None:
            self._begun += 1
            batch = Batch(queue, now_ms(), (self._begun,))
            batch.queued = True
            queue.batches.append(batch)
            self.active[queue] = None
            topics.open[chosen] = batch
        self.used += size
        index = batch.add(timestamp_ms, key, value, headers, size)
        if batch.size >= limit:
            batch.closed = True
        return batch, index

    def append_body(
        self,
        topics: TopicQueues,
        partition: int,
        body: bytearray,
        count: int,
        base_timestamp: int,
        max_timestamp: int,
        now_ms: float,
    ) -> Batch | None:
        """Add a batch that is encoded already, behind what the partition has; return it, or None: no room.

        Args:
            partition: -1 for where records without a key go.
            count, base_timestamp, max_timestamp: of its records.
        """
        size = len(body)
        if self.used + size > self.memory and self.used:
            return None
        chosen = partition if partition >= 0 else self._move_on(topics)
        queue = topics.queues[chosen]
        if queue.batches:
            queue.batches[-1].closed = True
        self._begun += 1
        batch = Batch(queue, now_ms, (self._begun,))
        batch.set_body(body, count, base_timestamp, max_timestamp)
        batch.queued = True
        queue.batches.append(batch)
        self.active[queue] = None
        self.used += size
        return batch

    def batch_limit(self, topics: TopicQueues) -> int:
        """Return how many bytes the records of a batch may have: more than `batch.size` where they compress well."""
        return topics.limit

    def _open_batch(self, queue: PartitionQueue, size: int, limit: int) -> Batch | None:
        """Return the batch that takes a record of this size; one that is too full for it is closed."""
        if not queue.batches:
            return None
        batch = queue.batches[-1]
        if batch.closed:
            return None
        if batch.size + size > limit:
            batch.closed = True
            return None
        return batch

    def _move_on(self, topics: TopicQueues) -> int:
        sizes = [len(topics.queues[number].batches) for number in topics.available]
        return topics.partitioner.move_on(topics.available, sizes)

    def observe_compression(self, batch: Batch) -> None:
        """Learn from a packed batch how far the records of its topic can be compressed (Kafka's estimator)."""
        topics = self.topics[batch.topic]
        observed = batch.packed_size / max(batch.size, 1)
        if observed > topics.ratio:
            topics.set_ratio(min(max(topics.ratio + _RATIO_UP, observed), 1.0))
        else:
            topics.set_ratio(max(topics.ratio - _RATIO_DOWN, observed, _RATIO_MIN))

    # -- taking -----------------------------------------------------------------------------------------------------

    def ready_ms(self, queue: PartitionQueue, *, at_once: bool) -> float:
        """Return when the first batch of a queue is to be sent; 0 for at once."""
        batch = queue.batches[0]
        if batch.attempts:
            return batch.retry_ms
        if at_once or batch.closed or batch.urgent or len(queue.batches) > 1 or self.waiters:
            return 0.0
        return batch.created_ms + self._settings.linger_ms

    def take(self, queue: PartitionQueue) -> Batch:
        """Take the first batch out of its queue; it is closed by that."""
        batch = queue.batches.popleft()
        batch.close()
        batch.queued = False
        self._forget_open(batch)
        if not queue.batches:
            del self.active[queue]
        return batch

    def put_back(self, batch: Batch) -> None:
        """Queue a batch again."""
        batch.queued = True
        batch.queue.put_back(batch)
        self.active[batch.queue] = None

    def drop(self, batch: Batch) -> None:
        """Take a batch that is not on its way out of its queue, wherever it stands."""
        queue = batch.queue
        queue.batches.remove(batch)
        batch.close()
        batch.queued = False
        self._forget_open(batch)
        if not queue.batches:
            self.active.pop(queue, None)

    def _forget_open(self, batch: Batch) -> None:
        opened = self.topics[batch.topic].open
        if opened[batch.partition] is batch:
            opened[batch.partition] = None

    def waiting(self) -> Iterator[Batch]:
        """Yield the batches that are not on their way."""
        for queue in list(self.active):
            yield from list(queue.batches)

    def release(self, size: int) -> list[Callable[[], object]]:
        """Give memory back; return who is to be called because there may be room now."""
        self.used -= size
        assert self.used >= 0, self.used
        if not self.waiters or self.used > self._wake_below:
            return []
        woken = list(self.waiters)
        self.waiters.clear()
        return woken


def request_size(batch: Batch) -> int:
    """Return what a batch adds to a request at most."""
    return batch.size + HEADER_SIZE + 32
