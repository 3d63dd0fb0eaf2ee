"""CoordinatorRuntime: runs the state machines of an internal topic, one per partition this broker leads.

It decides nothing about groups or transactions. It loads a partition by replaying it, serialises its operations, has their
records appended (`pipeline`) and runs its timers.

A partition is loaded once for each leader epoch in which this broker leads it: a newer epoch loads it again, an older one
is late news and changes nothing. Loading lasts as long as it takes (`loader`); it is given up when the partition is led
elsewhere or in a newer epoch.

Operations that write nothing (heartbeats above all) never wait for the disk.

Invariant: a shard is used only between `on_loaded` and `on_unloaded`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ottla.broker.coordinators.batches import Producer
from ottla.broker.coordinators.loader import CoordinatorLog, load
from ottla.broker.coordinators.pipeline import AppendCounts, AppendPipeline, RuntimeConfig
from ottla.broker.coordinators.shard import DeletedTopic, Result, Shard, ShardFactory, TimerKey, TimerOperation
from ottla.broker.coordinators.timeline import Timeline
from ottla.broker.coordinators.timers import ShardTimers
from ottla.errors import CoordinatorLoadInProgressError, KafkaError, NotCoordinatorError
from ottla.storage.verification import UNCHECKED
from ottla.types import coordinator_partition

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.protocol.records.control import EndTransactionMarker
    from ottla.storage.verification import Verification, VerificationGuard

__all__ = ["CoordinatorLog", "CoordinatorRuntime", "Producer", "RuntimeConfig"]

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Shard)
R = TypeVar("R")


class _State(Enum):
    LOADING = "loading"
    ACTIVE = "active"
    FAILED = "failed"
    CLOSED = "closed"


class _Held(Generic[S]):
    """A partition this broker leads in one epoch. `pipeline` exists while the partition is active."""

    __slots__ = (
        "deleted_topics",
        "leader_epoch",
        "load_task",
        "partition",
        "pipeline",
        "shard",
        "state",
        "timeline",
        "timers",
    )

    def __init__(self, partition: int, leader_epoch: int) -> None:
        self.partition = partition
        self.leader_epoch = leader_epoch
        self.state = _State.LOADING
        self.timeline = Timeline(tracks=False)
        self.timers: ShardTimers
        self.shard: S
        self.pipeline: AppendPipeline[S]
        self.load_task: asyncio.Task[None]
        #: Deleted while loading.
        self.deleted_topics: list[DeletedTopic] = []


class CoordinatorRuntime(Generic[S]):
    """Runs the shards of one internal topic.

    Args:
        topic: the internal topic.
        log: its logs.
        shard_factory: makes the state machine of a partition.
        partition_count: how many partitions the topic has (or will have).

    Attributes:
        counts: what was appended and undone since the start.
        load_count: how many partitions were loaded since the start.
    """

    def __init__(
        self,
        *,
        topic: str,
        log: CoordinatorLog,
        shard_factory: ShardFactory,
        partition_count: Callable[[], int],
        clock: Clock,
        config: RuntimeConfig | None = None,
    ) -> None:
        self.topic = topic
        self._log = log
        self._shard_factory = shard_factory
        self._partition_count = partition_count
        self._clock = clock
        self._config = config or RuntimeConfig()
        self._held: dict[int, _Held[S]] = {}
        #: The newest leader epoch heard of, for each partition that was not deleted since.
        self._epochs: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.counts = AppendCounts()
        self.load_count = 0

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Bind to the running loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Answer every operation that waits and forget all state; the log has it."""
        for partition in list(self._held):
            self.on_resign(partition)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on_leader(self, partition: int, leader_epoch: int) -> None:
        """This broker leads the partition in this epoch: load it, unless it is loaded (or being loaded) for this epoch.

        May be called again at any time; a partition whose loading has failed is then loaded anew.
        """
        if leader_epoch < self._epochs.get(partition, leader_epoch):
            return
        self._epochs[partition] = leader_epoch
        held = self._held.get(partition)
        if held is not None:
            if held.leader_epoch == leader_epoch and held.state is not _State.FAILED:
                return
            self._unload(held)
        self._load(partition, leader_epoch)

    def on_resign(self, partition: int, leader_epoch: int | None = None) -> None:
        """This broker does not lead the partition in this epoch; without an epoch, the partition is gone from here."""
        if leader_epoch is None:
            self._epochs.pop(partition, None)
        elif leader_epoch < self._epochs.get(partition, leader_epoch):
            return
        else:
            self._epochs[partition] = leader_epoch
        held = self._held.get(partition)
        if held is not None:
            self._unload(held)

    def on_topics_deleted(self, topics: Sequence[DeletedTopic]) -> None:
        """Topics are gone: every shard forgets what belongs to them."""
        for held in list(self._held.values()):
            if held.state is _State.LOADING:
                held.deleted_topics += topics
            elif held.state is _State.ACTIVE:
                self._forget_topics(held, topics)

    def on_image(self, image: ClusterImage, delta: ImageDelta) -> None:
        """The cluster has changed: every loaded shard looks at it (one that is being loaded looks at the whole image)."""
        for held in self._active_partitions():
            future = held.pipeline.submit(lambda shard, now_ms: shard.on_image(image, delta, now_ms))
            future.add_done_callback(_log_failed_refresh)

    # ------------------------------------------------------------ operations

    def partition_for(self, key: str) -> int:
        """Return the partition whose coordinator is responsible for a group id (or transactional id)."""
        return coordinator_partition(key, self._partition_count())

    def leader_epoch(self, partition: int) -> int:
        """Return the leader epoch of a partition that answers: the epoch of its coordinator.

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        return self._active(partition).leader_epoch

    @property
    def loaded_partitions(self) -> list[int]:
        """Partitions that answer."""
        return [held.partition for held in self._active_partitions()]

    def partition_states(self) -> dict[str, int]:
        """How many partitions are loading, active or failed."""
        states: dict[str, int] = {}
        for held in self._held.values():
            states[held.state.value] = states.get(held.state.value, 0) + 1
        return states

    def loaded_shards(self) -> list[S]:
        """The state machines that answer, to be counted: partitions that are being loaded are missing."""
        return [held.shard for held in self._active_partitions()]

    def uncommitted_batches(self, partition: int) -> int:
        """Return how many batches of a partition are in the log and wait for the high watermark.

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        return self._active(partition).pipeline.uncommitted_count

    def prove(self, partition: int) -> Awaitable[None] | None:
        """Return None if it is certain that this broker is the coordinator now, else what resolves when it is.

        What shows or grants state without writing anything waits for that, before its answer: a broker that was stopped
        or cut off does not know of the coordinator after it. What is committed is proven by that.

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS; also through what is returned.
        """
        self._active(partition)
        return self._log.prove(self.topic, partition)

    async def proven(self, partition: int, answer: Callable[[], R]) -> R:
        """Return what `answer` gives, once it is certain that this broker was the coordinator after this was called.

        Raises:
            KafkaError: as `prove`, and what `answer` raises.
        """
        proof = self.prove(partition)
        if proof is not None:
            await proof
        return answer()

    def run(self, partition: int, operation: Callable[[S, int], Result[R]]) -> R:
        """Return the response of an operation that writes nothing. Never waits.

        Raises:
            KafkaError: refused, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        result = operation(self._active(partition).shard, self._clock.wall_ms())
        assert not result.records, "an operation without a wait must not write"
        return result.response

    def run_if_quiet(self, partition: int, operation: Callable[[S, int], R | None]) -> R | None:
        """Return what an operation gives that writes nothing; None unless the partition answers and its log keeps up.

        Raises:
            KafkaError: refused.
        """
        held = self._held.get(partition)
        if held is None or held.state is not _State.ACTIVE or not held.pipeline.has_room:
            return None
        return operation(held.shard, self._clock.wall_ms())

    def read(self, partition: int, query: Callable[[S], R]) -> R:
        """Return what `query` finds; it should look at the committed view.

        Raises:
            KafkaError: refused, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        return query(self._active(partition).shard)

    async def prove_all(self) -> None:
        """As `prove`, for every partition that answers.

        Raises:
            KafkaError: of one of them it is not certain.
        """
        proofs = [self._log.prove(self.topic, held.partition) for held in self._active_partitions()]
        await asyncio.gather(*(proof for proof in proofs if proof is not None))

    def read_all(self, query: Callable[[S], R]) -> Iterator[R]:
        """Yield what `query` finds on every partition of this broker.

        Raises:
            CoordinatorLoadInProgressError: a partition is being loaded.
        """
        for held in list(self._held.values()):
            if held.state is _State.LOADING:
                raise CoordinatorLoadInProgressError()
            if held.state is _State.ACTIVE:
                yield query(held.shard)

    def write(
        self,
        partition: int,
        operation: Callable[[S, int], Result[R]],
        *,
        producer: Producer | None = None,
        verification: Verification | None = UNCHECKED,
        refusal: Callable[[KafkaError], R] | None = None,
    ) -> asyncio.Future[R]:
        """Run an operation; the future resolves with its response when its records are committed.

        The decision is taken before this returns, so operations take effect in the order of the calls.

        Args:
            producer: write the records in the open transaction of this producer id and epoch.
            verification: of that transaction; the log refuses the records if it has ended (`begin_verification`).
            refusal: what the future resolves with when the append fails; without it, the future has the error.

        Raises:
            KafkaError: refused, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS; also through the future, when the
                append fails. Retriable errors mean that the outcome is not known.
        """
        pipeline = self._active(partition).pipeline
        pipeline.check_room()
        return pipeline.submit(operation, producer, refusal, verification)

    def run_timers_now(self, matching: Callable[[TimerKey], bool]) -> int:
        """Run timers as if their time had come; return how many. For tests of clients, which need not wait for sessions."""
        return sum(held.timers.run_now(matching) for held in self._active_partitions())

    def begin_verification(self, partition: int, producer: Producer) -> VerificationGuard:
        """Return the guard with which to verify a transaction before its first records are written here (KIP-890).

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        self._active(partition)
        return self._log.begin_verification(self.topic, partition, producer)

    def end_transaction(
        self, partition: int, producer: Producer, marker: EndTransactionMarker, transaction_version: int = 0
    ) -> asyncio.Future[None]:
        """Write the marker that ends a transaction; the future resolves when it is committed.

        Its place in the log, and its effect on the shard, are decided before this returns.

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS; through the future, what the log refuses.
        """
        return self._active(partition).pipeline.end_transaction(producer, marker, transaction_version)

    # -------------------------------------------------------------- internal

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _active(self, partition: int) -> _Held[S]:
        held = self._held.get(partition)
        if held is None or held.state in (_State.FAILED, _State.CLOSED):
            raise NotCoordinatorError()
        if held.state is _State.LOADING:
            raise CoordinatorLoadInProgressError()
        return held

    def _active_partitions(self) -> list[_Held[S]]:
        return [held for held in self._held.values() if held.state is _State.ACTIVE]

    def _forget_topics(self, held: _Held[S], topics: Sequence[DeletedTopic]) -> None:
        future = held.pipeline.submit(lambda shard, now_ms: shard.on_topics_deleted(topics, now_ms))
        future.add_done_callback(_log_failed_deletion)

    def _on_timer(self, held: _Held[S], operation: TimerOperation) -> None:
        if held.state is not _State.ACTIVE:
            return
        try:
            held.pipeline.write_unasked(operation(self._clock.wall_ms()))
        except Exception:
            logger.exception("%s-%d: a timer of the coordinator failed", self.topic, held.partition)

    # ------------------------------------------------------ loading, unloading

    def _load(self, partition: int, leader_epoch: int) -> None:
        held: _Held[S] = _Held(partition, leader_epoch)
        held.timers = ShardTimers(self._running_loop(), lambda operation: self._on_timer(held, operation))
        held.shard = self._shard_factory(partition, held.timeline, held.timers)
        held.load_task = self._running_loop().create_task(self._load_task(held))
        self._held[partition] = held
        self._tasks.add(held.load_task)
        held.load_task.add_done_callback(self._tasks.discard)

    async def _load_task(self, held: _Held[S]) -> None:
        def is_current() -> bool:
            return held.state is _State.LOADING

        try:
            summary = await load(
                self._log,
                self.topic,
                held.partition,
                held.shard,
                max_bytes=self._config.load_bytes_max,
                is_current=is_current,
            )
            if not is_current():
                return
            self._activate(held, summary.next_offset)
        except Exception:
            if held.state is not _State.CLOSED:
                held.state = _State.FAILED
            logger.exception("%s-%d: loading failed", self.topic, held.partition)
            return
        if summary.unknown_records:
            logger.warning(
                "%s-%d: %d records of types this version does not know were skipped",
                self.topic,
                held.partition,
                summary.unknown_records,
            )
        logger.debug("%s-%d: loaded %d records", self.topic, held.partition, summary.records)

    def _activate(self, held: _Held[S], next_offset: int) -> None:
        """The shard has replayed the log up to `next_offset`: it answers from now on."""
        held.timeline.tracks = True
        held.pipeline = AppendPipeline(
            self.topic,
            held.partition,
            held.leader_epoch,
            log=self._log,
            shard=held.shard,
            timeline=held.timeline,
            next_offset=next_offset,
            config=self._config,
            clock=self._clock,
            loop=self._running_loop(),
            counts=self.counts,
            on_broken=lambda: self._reload(held),
        )
        held.state = _State.ACTIVE
        held.shard.on_loaded(self._clock.wall_ms())
        self.load_count += 1
        if held.deleted_topics:
            self._forget_topics(held, held.deleted_topics)

    def _reload(self, held: _Held[S]) -> None:
        """Memory and log may disagree: only the log is right."""
        if self._held.get(held.partition) is held:
            logger.warning("%s-%d: loading again", self.topic, held.partition)
            self._unload(held)
            self._load(held.partition, held.leader_epoch)

    def _unload(self, held: _Held[S]) -> None:
        del self._held[held.partition]
        was_active = held.state is _State.ACTIVE
        held.state = _State.CLOSED
        if was_active:
            held.pipeline.close(NotCoordinatorError())
            held.shard.on_unloaded(self._clock.wall_ms())
        else:
            held.load_task.cancel()
        held.timers.cancel_all()


def _log_failed_deletion(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("offsets of deleted topics stay until they expire: %s", error)


def _log_failed_refresh(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("a change of the cluster could not be followed: %s", error)
