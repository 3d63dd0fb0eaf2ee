"""What the runtime and the state machines agree on: records, results, timers.

A *shard* is the state machine of one partition of a coordinator's topic. It decides synchronously, from requests, timers
and the time it is given; it knows neither the log nor the loop. An operation is a function `(shard, now_ms) -> Result`:
the records to write and the response to give once they are committed. `replay(record)` is the only way records change the
shard's durable state, live and after a restart alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.errors import KafkaError
    from ottla.protocol.schema import Message

R = TypeVar("R")

#: Producer id of records that belong to no transaction.
NO_PRODUCER_ID = -1


class CoordinatorRecord(NamedTuple):
    """A record of an internal topic, decoded. `value` None is a tombstone; `value_version` is what is written."""

    key: Message
    value: Message | None
    value_version: int = 0


class DeletedTopic(NamedTuple):
    """A topic that is gone: a topic created later under the same name has another id."""

    name: str
    topic_id: bytes


class Result(Generic[R]):
    """What an operation decided.

    Attributes:
        response: given to the caller once the records are committed.
        records: appended in one batch (several, if not `atomic` and too large for one).
        on_appended: called with None after the commit, before the response is given; with the error if it failed.
        replay: apply the records at once. False where the operation changed the state itself (classic groups, whose
            members hold parked requests that no record can carry).
        atomic: refuse rather than split what does not fit into one batch.
        barrier: without records, answer only when what was decided before is committed.
    """

    __slots__ = ("atomic", "barrier", "on_appended", "records", "replay", "response")

    def __init__(
        self,
        response: R,
        records: Sequence[CoordinatorRecord] = (),
        *,
        on_appended: Callable[[KafkaError | None], None] | None = None,
        replay: bool = True,
        atomic: bool = True,
        barrier: bool = False,
    ) -> None:
        self.response = response
        self.records = records
        self.on_appended = on_appended
        self.replay = replay
        self.atomic = atomic
        self.barrier = barrier


#: What a timer runs: a decision of its own, with the time at which it runs.
TimerOperation = Callable[[int], Result[None]]


#: Names a timer: what it is for, and for whom.
TimerKey = tuple[str, ...]


class Timers(Protocol):
    """The timers of one shard, by name. Setting a name again replaces the timer."""

    def schedule(self, key: TimerKey, delay_ms: int, operation: TimerOperation) -> None: ...

    def postpone(self, key: TimerKey, delay_ms: int) -> bool: ...

    def schedule_if_absent(self, key: TimerKey, delay_ms: int, operation: TimerOperation) -> None: ...

    def cancel(self, key: TimerKey) -> None: ...


class Shard(Protocol):
    """The state machine of one partition."""

    def encode(self, record: CoordinatorRecord) -> tuple[bytes, bytes | None]:
        """Return key and value as they are written to the log."""
        ...

    def decode(self, key: bytes, value: bytes | None) -> CoordinatorRecord | None:
        """Return the record, or None for a type that this version does not know (it is skipped)."""
        ...

    def replay(self, offset: int, producer_id: int, record: CoordinatorRecord) -> None:
        """Apply a record to the durable state."""
        ...

    def replay_end_transaction(self, producer_id: int, committed: bool) -> None:
        """Apply a transaction marker: the records of this producer id take effect, or vanish."""
        ...

    def on_loaded(self, now_ms: int) -> None:
        """The log has been replayed: set timers."""
        ...

    def on_unloaded(self, now_ms: int) -> None:
        """This broker no longer leads the partition: answer the requests that are parked."""
        ...

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """An append failed and the state is back at what is committed; `discarded` are the values that were undone."""
        ...

    def on_topics_deleted(self, topics: Sequence[DeletedTopic], now_ms: int) -> Result[None]:
        """Topics are gone: forget what belongs to them."""
        ...

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Result[None]:
        """The cluster has changed. Called only after loading; while loading, a shard looks at the whole image."""
        ...


#: Builds the shard of a partition: (partition, timeline, timers).
ShardFactory = Callable[[int, "Timeline", Timers], Any]
