"""What the blocking and the asynchronous consumer have in common: configuration, core, positions; not waiting, not the
group (`grouping`), not the records on their way to the caller (`handing`).
"""

from __future__ import annotations

import os
import random
import signal
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.partitions import PartitionState
from ottla.client._snapshots import consumer_snapshot, telemetry
from ottla.client.config import consumer_settings
from ottla.client.connecting import channel_settings, not_connected
from ottla.client.consumed import Deserializer, K, V
from ottla.client.errors import ClosedError, ConfigurationError
from ottla.client.finished import Finished
from ottla.client.handing import Handing
from ottla.client.keys import Duration, duration_s
from ottla.client.metrics import ConsumerMetrics
from ottla.client.producing import clients
from ottla.client.records import make_timestamp
from ottla.client.runtime import Runtime
from ottla.client.unreadable import OnError, error_policy
from ottla.clock import Clock, SystemClock
from ottla.errors import KafkaError, UnknownTopicOrPartitionError
from ottla.patterns import PatternError, compile_pattern
from ottla.types import EARLIEST, LATEST, TopicPartition

if TYPE_CHECKING:
    import ssl

    from ottla.client.producing import ProducerBase
    from ottla.sasl import Sasl

    #: A producer of whatever.
    AnyProducer = ProducerBase[Any, Any]

#: An offset, a time, or an end of the log.
Place = int | datetime | str
_ENDS: Final[Mapping[str, int]] = {"beginning": EARLIEST, "end": LATEST}


#: What callers give to be called with partitions; the asynchronous face awaits what it returns.
PartitionsCallback = Callable[[list[TopicPartition]], object]


class ConsumerBase(Handing[K, V]):
    """One consumer's configuration, core and positions. Not for use by itself."""

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None,
        *,
        topics: Iterable[str] | None,
        pattern: str | None,
        commit: str | None,
        commit_after: AnyProducer | None,
        on_assigned: PartitionsCallback | None,
        on_revoked: PartitionsCallback | None,
        on_lost: PartitionsCallback | None,
        key_deserializer: Deserializer[K] | None,
        value_deserializer: Deserializer[V] | None,
        ssl_context: ssl.SSLContext | None,
        sasl: Sasl | None,
        connect_timeout: Duration,
        config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        lock: AbstractContextManager[object],
        on_error: OnError | None = None,
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        super().__init__()
        self._closed: KafkaError | None = None
        self._topics = topic_names(topics)
        self._pattern = pattern
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._on_lost = on_lost
        self._connect_timeout_s = duration_s("connect_timeout", connect_timeout)
        self._client, self._settings, group, self._bounds = consumer_settings(
            bootstrap_servers,
            config,
            options,
            commit=commit,
            ssl_context=ssl_context,
            sasl=sasl,
            environment=os.environ,
        )
        if group is None and (pattern is not None or on_assigned or on_revoked or on_lost):
            raise ConfigurationError(
                "pattern=, on_assigned=, on_revoked= and on_lost= are of use in a group only.", "Pass group_id=, too."
            )
        if pattern is not None:
            check_pattern(pattern, self._topics)
        self._deserialize_key = _function(key_deserializer)
        self._deserialize_value = _function(value_deserializer)
        self._policy = error_policy(on_error, (key_deserializer, value_deserializer))
        self._clock = clock or SystemClock()
        self._lock = lock
        self._machine = ConsumerMachine(
            self._settings,
            self._client.bootstrap,
            dice or random.Random(),
            self._clock.wall_ms,
            group,
            commit_interval_ms=self._bounds.commit_interval_ms,
        )
        if commit_after is not None and self._bounds.commit_interval_ms is None:
            raise ConfigurationError(
                "commit_after= goes with commit='processed' or 'marked': else the consumer commits nothing by itself."
            )
        if commit_after is not None and commit_after._machine.transactions is not None:
            raise ConfigurationError(
                "commit_after= takes a producer without transactional_id.",
                "With transactions: commit='transaction', and producer.transaction(consumer).",
            )
        self._commit_after = commit_after
        self._finished = Finished(self._bounds.commit, whole=commit_after is not None)
        self._runtime: Runtime | None = None
        self._stopping = False
        self._front.handed = self._finished
        #: How often `max.poll.interval.ms` was exceeded.
        self._exceeded_count = 0
        self._machine.on_step = weakly(self._pay_attention)
        clients.add(self)

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
            if self._machine.group is not None:
                self._machine.group.unsubscribe()
            for state in self._machine.partitions.values():
                if state.topic_partition not in wanted:
                    self._finished.forget(state)
            self._machine.assign(wanted, now_ms)
        self._topics, self._pattern = [], None
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
            self._finished.forget(state)
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
        self._stopping = self._attention = True
        self._wake_waiter()

    def stopping_on(self, *signals: int) -> StoppingOn:
        """Return a context in which these signals call `stop()`; the main thread's only.

        with consumer.stopping_on(signal.SIGTERM, signal.SIGINT):
            for record in consumer: ...
        """
        return StoppingOn(self.stop, signals)

    @property
    def _attention(self) -> bool:
        """Whether there is more to do than to hand out the next record: to stop, or what the group wants."""
        return self._front.attention

    @_attention.setter
    def _attention(self, wanted: bool) -> None:
        self._front.attention = wanted

    def _pay_attention(self) -> None:
        self._attention = True

    def _wake_waiter(self) -> None:
        raise NotImplementedError

    def _check_usable(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _make_runtime(self) -> Runtime:
        """Return the runtime, on the running loop."""
        pushes = telemetry(
            self._client,
            self._machine.connections,
            self._snapshot,
            self._described,
            self._machine.random,
            self._clock.wall_ms,
        )
        return Runtime(self._machine, channel_settings(self._client), self._lock, telemetry=pushes)

    def metrics(self) -> ConsumerMetrics:
        """Return a snapshot under Kafka's metric names; `.prometheus()` is the same as text. For any thread."""
        self._check_usable()
        return self._snapshot()

    def _snapshot(self) -> ConsumerMetrics:
        now_ms = self._runtime.now_ms() if self._runtime is not None else 0.0
        with self._lock:
            return consumer_snapshot(self._machine, self._client.client_id, now_ms, self._exceeded_count)

    def _described(self) -> list[tuple[str, str]]:
        """Return what describes this client to the broker that its metrics are pushed to; names of KIP-714."""
        group = self._machine.group
        if group is None:
            return []
        with self._lock:
            identity = group.identity
        found = [
            ("group_id", identity.group_id),
            ("group_instance_id", identity.group_instance_id),
            ("group_member_id", identity.member_id),
            ("client_rack", group.settings.client_rack),
        ]
        return [(name, value) for name, value in found if value]

    def _begin(self, runtime: Runtime) -> None:
        self._runtime = runtime
        with self._lock:
            self._subscribe(runtime.now_ms())

    def _subscribe(self, now_ms: float) -> None:
        group = self._machine.group
        if group is None:
            self._machine.follow(self._topics, now_ms)
        elif self._topics or self._pattern is not None:
            group.subscribe(self._topics, self._pattern, now_ms)

    def _not_connected(self) -> KafkaError:
        """Why no connection came about within `connect_timeout`."""
        return not_connected(self._machine.connections, self._client, self._connect_timeout_s)

    @property
    def _unassigned(self) -> bool:
        """Whether the group has not assigned anything to this member yet, not even nothing."""
        group = self._machine.group
        return group is not None and group.membership is not None and not group.membership.rebalances

    def _awaited(self) -> str:
        """What has to be there before positions can be asked for, in words."""
        group = self._machine.group
        if group is not None and group.membership is not None:
            return f"an assignment of group {group.settings.group_id!r}"
        return f"metadata of {', '.join(self._topics)}"

    def _slow(self, what: str, limit_s: float | None = None) -> TimeoutError:
        error = self._machine.connections.error
        limit = f"default.api.timeout.ms ({self._bounds.api_timeout_s:g} s)" if limit_s is None else f"{limit_s:g} s"
        return TimeoutError(f"{what}: no answer within {limit}" + (f"; {error}" if error is not None else ""))

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
        group = self._machine.group
        if group is not None and group.membership is not None:
            return group.membership.rebalances > 0 or group.step_waits
        return all(topic in self._machine.metadata.image.topics for topic in self._topics)

    def _reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether nothing ahead of these offsets is left to hand out."""
        with self._lock:
            for where, end in ends.items():
                state = self._machine.partitions.get(where)
                if state is not None and (state.position is None or state.position < end):
                    return False
            return True


def weakly(method: Callable[[], object]) -> Callable[[], object]:
    """Return a function that calls a method for as long as its object is there: the core keeps no consumer alive."""
    kept = weakref.WeakMethod(method)

    def call() -> object:
        found = kept()
        return None if found is None else found()

    return call


class StoppingOn:
    """Signals that stop a consumer; see `stopping_on`."""

    def __init__(self, stop: Callable[[], None], signals: Iterable[int]) -> None:
        self._stop = stop
        self._signals = list(signals)
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        for number in self._signals:
            self._before.append((number, signal.signal(number, lambda *_: self._stop())))
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            number, handler = self._before.pop()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def topic_names(topics: Iterable[str] | None) -> list[str]:
    if isinstance(topics, str):
        raise ConfigurationError(
            f"topics={topics!r} is not valid: it takes a list of names.", f"Write topics=[{topics!r}]."
        )
    return list(topics or ())


def check_pattern(pattern: object, topics: Iterable[str]) -> None:
    """Raise if a subscription by this pattern cannot be.

    Raises:
        ConfigurationError: it is no pattern of RE2's, or there are topics beside it.
    """
    if not isinstance(pattern, str):
        raise ConfigurationError(f"pattern={pattern!r} is not valid: it takes text, in RE2's syntax.")
    if list(topics):
        raise ConfigurationError("A consumer reads topics by name or by pattern, not both.")
    try:
        compile_pattern(pattern)
    except PatternError as error:
        raise ConfigurationError(f"pattern={pattern!r} is not valid: {error}.") from None


def _function(deserializer: Any) -> Callable[[str, bytes], Any] | None:
    """A serde serializes when it is called: take its other direction."""
    found: Callable[[str, bytes], Any] | None = getattr(deserializer, "deserialize", deserializer)
    if found is not None and not callable(found):
        raise TypeError(
            f"a deserializer is a function (topic, bytes) or one of ottla.serde, such as json(): not {found!r}"
        )
    return found
