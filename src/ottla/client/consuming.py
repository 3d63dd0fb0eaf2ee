"""What the blocking and the asynchronous consumer have in common: everything but waiting.

Holds what was taken from the core and not handed out yet, batch by batch, and moves positions as records are handed
out.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic

from ottla.client._core.fetching import Chunk, FetchMachine, PartitionState
from ottla.client.config import consumer_settings
from ottla.client.consumed import Deserializer, K, Record, Row, Source, V
from ottla.client.errors import ClosedError, ConfigurationError
from ottla.client.keys import Duration, duration_s
from ottla.client.producing import clients
from ottla.client.reading import read_chunk
from ottla.client.records import make_timestamp
from ottla.client.runtime import Runtime
from ottla.client.security import context_of, login_for
from ottla.clock import Clock, SystemClock
from ottla.errors import KafkaError, UnknownTopicOrPartitionError
from ottla.network.channel import ChannelSettings
from ottla.network.channel_errors import BrokerUnreachableError
from ottla.types import EARLIEST, LATEST, TopicPartition

if TYPE_CHECKING:
    import ssl

    from ottla.sasl import Sasl

#: An offset, a time, or an end of the log.
Place = int | datetime | str
_ENDS: Final[Mapping[str, int]] = {"beginning": EARLIEST, "end": LATEST}


class _Reading(Generic[K, V]):
    """A chunk that is being handed out, and the records of its present batch."""

    __slots__ = ("batches", "following", "generation", "index", "records", "state")

    def __init__(self, chunk: Chunk, batches: Iterator[tuple[list[Row], int, int]]) -> None:
        self.state = chunk.state
        self.generation = chunk.generation
        self.batches = batches
        self.records: list[Record[K, V]] = []
        self.index = 0
        self.following = -1


class ConsumerBase(Generic[K, V]):
    """One consumer's configuration and core. Not for use by itself."""

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None,
        *,
        topics: Iterable[str] | None,
        key_deserializer: Deserializer[K] | None,
        value_deserializer: Deserializer[V] | None,
        ssl_context: ssl.SSLContext | None,
        sasl: Sasl | None,
        connect_timeout: Duration,
        config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        lock: AbstractContextManager[object],
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._closed: KafkaError | None = None
        if isinstance(topics, str):
            raise ConfigurationError(
                f"topics={topics!r} is not valid: it takes a list of names.", f"Write topics=[{topics!r}]."
            )
        self._topics = list(topics or ())
        self._connect_timeout_s = duration_s("connect_timeout", connect_timeout)
        self._client, self._settings, self._bounds = consumer_settings(
            bootstrap_servers, config, options, ssl_context=ssl_context, sasl=sasl, environment=os.environ
        )
        self._deserialize_key = _function(key_deserializer)
        self._deserialize_value = _function(value_deserializer)
        self._clock = clock or SystemClock()
        self._lock = lock
        self._machine = FetchMachine(
            self._settings, self._client.bootstrap, dice or random.Random(), self._clock.wall_ms
        )
        self._runtime: Runtime | None = None
        self._open: deque[_Reading[K, V]] = deque()
        self._stopping = False
        #: By partition, the offset from which on nothing is handed out at present.
        self._limits: Mapping[TopicPartition, int] | None = None
        clients.add(self)

    # -- records ----------------------------------------------------------------------------------------------------

    def _take(self, waiter: Callable[[], object] | None = None) -> Record[K, V] | None:
        """Return the next record of what was fetched, or None if nothing waits: then `waiter` is called when that changes.

        Raises:
            KafkaError: a partition's; the next call goes on.
        """
        while True:
            record = self._take_open()
            if record is not None:
                return record
            with self._lock:
                try:
                    chunk = self._machine.take()
                except BaseException:
                    self._wake()  # what failed is tried again
                    raise
                if chunk is None:
                    self._machine.check_topics()
                    if waiter is not None and waiter not in self._machine.waiters:
                        self._machine.waiters.append(waiter)
                    return None
            self._open.append(_Reading(chunk, read_chunk(chunk, self._settings.isolation)))
            self._wake()

    def _take_ready(self, limits: Mapping[TopicPartition, int] | None) -> Record[K, V] | None:
        """Return the next record if it is at hand; None says nothing. This is what each record costs."""
        waiting = self._open
        if waiting:
            reading = waiting[0]
            state = reading.state
            if reading.index < len(reading.records) and reading.generation == state.generation and not state.paused:
                record = reading.records[reading.index]
                following = record._row[0] + 1
                if limits is None or following <= limits.get(state.topic_partition, 0):
                    reading.index += 1
                    state.position = following
                    return record
        return None

    def _take_open(self) -> Record[K, V] | None:
        waiting, limits = self._open, self._limits
        for _ in range(len(waiting)):
            reading = waiting[0]
            state = reading.state
            if state.generation != reading.generation:
                waiting.popleft()  # a seek, or the partition was given up
                continue
            if state.paused:
                waiting.rotate(-1)
                continue
            while True:
                if reading.index < len(reading.records):
                    record = self._take_ready(limits)
                    if record is not None:
                        return record
                    waiting.rotate(-1)  # behind the limit
                    break
                if reading.following >= 0:
                    # Past records that are not handed out, too: markers, aborted ones, compacted ones.
                    state.position = reading.following
                try:
                    rows, leader_epoch, reading.following = next(reading.batches)
                except StopIteration:
                    waiting.popleft()
                    break
                except KafkaError as error:
                    waiting.popleft()
                    with self._lock:
                        self._machine.fail(state, error)
                        state.error = None
                    self._wake()
                    raise
                topic, partition = state.topic_partition
                source = Source(topic, partition, leader_epoch, self._deserialize_key, self._deserialize_value)
                reading.records = [Record(source, row) for row in rows]
                reading.index = 0
        return None

    # -- positions --------------------------------------------------------------------------------------------------

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read, ordered."""
        with self._lock:
            return sorted(self._machine.partitions)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions from now on; those that were read before keep their positions."""
        self._check_usable()
        wanted = [TopicPartition(*where) for where in partitions]
        now_ms = self._runtime.now_ms() if self._runtime is not None else 0.0
        with self._lock:
            self._machine.assign(wanted, now_ms)
        self._topics = []
        self._wake()

    def pause(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Hand out nothing of these partitions (of all) until `resume`. What was fetched is kept. For any thread."""
        self._set_paused(partitions, True)

    def resume(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Go on with these partitions (with all). For any thread."""
        self._set_paused(partitions, False)
        self._wake()

    def _set_paused(self, partitions: Iterable[TopicPartition] | None, paused: bool) -> None:
        self._check_usable()
        with self._lock:
            states = self._machine.partitions
            for state in states.values() if partitions is None else [self._state(*where) for where in partitions]:
                state.paused = paused

    def _state(self, topic: str, partition: int) -> PartitionState:
        state = self._machine.partitions.get(TopicPartition(topic, partition))
        if state is None:
            raise UnknownTopicOrPartitionError(f"{topic}-{partition} is not assigned to this consumer.")
        return state

    def _seek(self, where: TopicPartition, place: Place) -> None:
        with self._lock:
            state = self._state(*where)
            if isinstance(place, str):
                if place not in _ENDS:
                    raise ValueError(f"a place is an offset, a datetime, 'beginning' or 'end', not {place!r}")
                self._machine.seek_to(state, _ENDS[place])
            elif isinstance(place, datetime):
                self._machine.seek_to(state, make_timestamp(place))
            elif isinstance(place, int) and place >= 0:
                self._machine.seek(state, place)
            else:
                raise ValueError(f"an offset is a number from 0, not {place!r}")
        self._wake()

    def consumer_lag(self, where: TopicPartition) -> int | None:
        """Return how many offsets there are between the position and the end of a partition, as of the last answer; None
        while that is not known. For readers of committed records the end is the last stable offset."""
        self._check_usable()
        with self._lock:
            state = self._state(*where)
            end = state.last_stable_offset if self._settings.isolation else state.high_watermark
            return None if end < 0 or state.position is None else max(end - state.position, 0)

    # -- life -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End loops over this consumer after the record they have. For any thread, and for signal handlers."""
        self._stopping = True
        self._wake_waiter()

    def _wake_waiter(self) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        raise NotImplementedError

    def _check_usable(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _make_runtime(self) -> Runtime:
        """Return the runtime, on the running loop."""
        settings = ChannelSettings(
            client_id=self._client.client_id,
            ssl_context=context_of(self._client),
            authenticate=login_for(self._client),
            connect_timeout_s=self._client.connect_timeout_ms / 1000,
            send_buffer_bytes=self._client.send_buffer_bytes,
            receive_buffer_bytes=self._client.receive_buffer_bytes,
        )
        return Runtime(self._machine, settings, self._lock)

    def _begin(self, runtime: Runtime) -> None:
        self._runtime = runtime
        if self._topics:
            with self._lock:
                self._machine.follow(self._topics, runtime.now_ms())

    def _not_connected(self) -> KafkaError:
        """Why no connection came about within `connect_timeout`."""
        error = self._machine.connections.error
        if isinstance(error, KafkaError):
            return error
        where = ", ".join(f"{host}:{port}" for host, port in self._client.bootstrap)
        return BrokerUnreachableError(
            f"No broker answered within {self._connect_timeout_s:g} s: {where}.", address=where
        )

    def _slow(self, what: str) -> TimeoutError:
        error = self._machine.connections.error
        return TimeoutError(
            f"{what}: no answer within default.api.timeout.ms ({self._bounds.api_timeout_s:g} s)"
            + (f"; {error}" if error is not None else "")
        )

    def _end(self) -> None:
        self._closed = ClosedError()
        self._open.clear()

    def _places(self, partitions: Iterable[TopicPartition] | None, place: int) -> dict[TopicPartition, int]:
        with self._lock:
            wanted = self._machine.partitions if partitions is None else partitions
            return {TopicPartition(*where): place for where in wanted}

    def _position_known(self, where: TopicPartition) -> bool:
        """Whether a partition has a position. Called with the lock held.

        Raises:
            KafkaError: it has an error instead.
        """
        state = self._state(*where)
        if state.error is not None and state.position is None:
            error, state.error = state.error, None
            raise error
        return state.position is not None

    def _topics_known(self) -> bool:
        """Whether each topic that is followed has been described once. Called with the lock held."""
        self._machine.check_topics()
        return all(topic in self._machine.metadata.image.topics for topic in self._topics)

    def _reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether nothing ahead of these offsets is left to hand out."""
        with self._lock:
            for where, end in ends.items():
                state = self._machine.partitions.get(where)
                if state is not None and (state.position is None or state.position < end):
                    return False
            return True


def _function(deserializer: Any) -> Callable[[str, bytes], Any] | None:
    """A serde serializes when it is called: take its other direction."""
    found: Callable[[str, bytes], Any] | None = getattr(deserializer, "deserialize", deserializer)
    return found
