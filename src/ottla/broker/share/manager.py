"""SharePartitionManager: the share partitions this broker leads, and the sessions of their members.

Decides nothing about records. Loads share partitions when they are first fetched, persists what their state machines decide
and reports the outcome to them, runs their lock timers, wakes fetches that wait. Kafka's SharePartitionManager.

Invariants: a change that a client asked for is answered after it is persisted; a share partition that was fenced (another
leader, state that was initialised anew, a topic that is gone) is forgotten, and loaded when it is fetched again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ottla.broker.coordinators.share.records import ShareKey
from ottla.broker.share.config import ShareConfig, duration_ms
from ottla.broker.share.sessions import SessionKey, ShareSession, ShareSessionCache
from ottla.broker.share.share_partition import Acknowledgement, SharePartition
from ottla.errors import (
    CoordinatorNotAvailableError,
    ErrorCode,
    InvalidRecordStateError,
    KafkaError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    UnknownServerError,
    UnknownTopicOrPartitionError,
    error_for,
)
from ottla.types import TopicIdPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Any

    from ottla.broker.context import Session
    from ottla.broker.coordinators.share.batches import StateBatch
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition
    from ottla.broker.replicas.purgatory import FetchWaiter
    from ottla.broker.share.persister import ShareStatePersister
    from ottla.broker.share.window import Transition
    from ottla.clock import Clock
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

#: After these a share partition is of no use any more.
_FENCING: Final = (
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.FENCED_STATE_EPOCH,
    ErrorCode.GROUP_ID_NOT_FOUND,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
)


class LedSharePartition:
    """A share partition in use.

    Attributes:
        state: None until it is loaded.
        error: why it could not be loaded, or must not be used any more.
        is_read: a fetch is reading it off the loop: others wait.
        was_wanted: another fetch found it being read.
        waiters: fetches that wait for it; a dict because its order is the order of arrival.
        unwritten: changes that wait until the ones before are persisted, each with the future of its outcome.
        writer: persists them.
    """

    __slots__ = (
        "error",
        "is_read",
        "key",
        "loading",
        "partition",
        "state",
        "timer",
        "timer_at",
        "unwritten",
        "waiters",
        "was_wanted",
        "writer",
    )

    def __init__(self, key: ShareKey, partition: Partition) -> None:
        self.key = key
        self.partition = partition
        self.state: SharePartition | None = None
        self.error: KafkaError | None = None
        self.loading: asyncio.Task[None] | None = None
        self.is_read = False
        self.was_wanted = False
        self.unwritten: list[tuple[Sequence[StateBatch], asyncio.Future[KafkaError | None]]] = []
        self.writer: asyncio.Task[None] | None = None
        self.waiters: dict[FetchWaiter, None] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = 0

    @property
    def topic_id_partition(self) -> TopicIdPartition:
        return TopicIdPartition(self.key.topic_id, self.key.partition)

    @property
    def is_busy(self) -> bool:
        """Whether something is being persisted."""
        return self.writer is not None or (self.state is not None and self.state.has_pending)

    def wake(self, but: FetchWaiter | None = None) -> None:
        """Wake the fetches that wait for this share partition, except `but`: something they wait for may have changed."""
        for waiter in tuple(self.waiters):
            if waiter is not but:
                waiter.wake()


class SharePartitionManager:
    """All share partitions of this broker.

    Args:
        config_of: what holds for a share group now.
    """

    def __init__(
        self,
        replicas: ReplicaManager,
        persister: ShareStatePersister,
        *,
        config_of: Callable[[str], ShareConfig],
        sessions_max: int,
        clock: Clock,
    ) -> None:
        self.sessions = ShareSessionCache(sessions_max)
        self.config_of = config_of
        self._replicas = replicas
        self._persister = persister
        self._clock = clock
        self._led: dict[ShareKey, LedSharePartition] = {}
        #: Sessions by the connection that opened them.
        self._by_connection: dict[Session, set[SessionKey]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._led)

    async def stop(self) -> None:
        """Forget everything; the persister has it."""
        for led in list(self._led.values()):
            self.fence(led, NotLeaderOrFollowerError())
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -------------------------------------------------------- share partitions

    def get_or_load(self, group_id: str, topic_id_partition: TopicIdPartition) -> LedSharePartition:
        """Return a share partition, which may still be loading.

        Raises:
            KafkaError: its topic partition is not led here.
        """
        key = ShareKey(group_id, *topic_id_partition)
        led = self._led.get(key)
        if led is None:
            topic = self._replicas.image.topic_names.get(topic_id_partition.topic_id, "")
            partition = self._replicas.partition(topic, topic_id_partition.partition)
            if partition is None or partition.topic_id != topic_id_partition.topic_id:
                raise error_for(self._replicas.error(topic, topic_id_partition.partition))
            led = self._led[key] = LedSharePartition(key, partition)
            led.loading = self.spawn(self._load(led))
        return led

    async def _load(self, led: LedSharePartition) -> None:
        leader_epoch = led.partition.leader_epoch
        try:
            loaded = await self._persister.read(led.key.group_id, led.topic_id_partition, leader_epoch)
            if loaded.error_code:
                raise _share_error(loaded.error_code, loaded.error_message)
            start_offset = loaded.start_offset
            if start_offset < 0:
                start_offset = await self._reset_offset(led)
            if led.error is None:
                led.state = SharePartition(
                    state_epoch=loaded.state_epoch,
                    leader_epoch=leader_epoch,
                    start_offset=start_offset,
                    batches=loaded.batches,
                )
                led.wake()
        except KafkaError as error:
            self.fence(led, error)
        except Exception:
            logger.exception("share partition %s could not be loaded", led.key.coordinator_key)
            self.fence(led, UnknownServerError())
        finally:
            led.loading = None

    async def _reset_offset(self, led: LedSharePartition) -> int:
        """Return where a share partition begins that no member has fetched yet (KIP-932, `share.auto.offset.reset`)."""
        reset = self.config_of(led.key.group_id).auto_offset_reset
        log = led.partition.log
        if reset == "earliest":
            return log.log_start_offset
        if reset == "latest":
            return log.high_watermark
        found = await led.partition.search(log.offset_for_timestamp, self._clock.wall_ms() - duration_ms(reset))
        if found is None or found[0] > log.high_watermark:
            raise OffsetNotAvailableError()
        return found[0]

    def fence(self, led: LedSharePartition, error: KafkaError) -> None:
        """Use a share partition no more."""
        if self._led.get(led.key) is led:
            del self._led[led.key]
        led.error = error
        led.state = None
        if led.timer is not None:
            led.timer.cancel()
            led.timer = None
        led.wake()

    def on_resigned(self, topic_partition: TopicPartition) -> None:
        """This broker leads the partition no more, or the topic is gone."""
        for led in [led for led in self._led.values() if led.partition.topic_partition == topic_partition]:
            self.fence(led, NotLeaderOrFollowerError())

    def on_group_deleted(self, group_id: str) -> None:
        """The state of a group's share partitions is gone, or begins anew: forget what is remembered of it."""
        for led in [led for key, led in self._led.items() if key.group_id == group_id]:
            self.fence(led, NotLeaderOrFollowerError())

    # ---------------------------------------------------------------- sessions

    def bind(self, session: ShareSession) -> None:
        """End a session with the connection that opened it."""
        connection = session.connection
        keys = self._by_connection.get(connection)
        if keys is None:
            keys = self._by_connection[connection] = set()
            connection.call_at_end(lambda: self.on_disconnect(connection))
        keys.add(session.key)

    def on_disconnect(self, connection: Session) -> None:
        """A connection has ended: so have the sessions that it opened."""
        for key in self._by_connection.pop(connection, ()):
            session = self.sessions.get(key)
            if session is not None and session.connection is connection:
                self.release_session(key)
            if not self.sessions.has_members(key[0]):
                # Kafka forgets the group's share partitions; here what is being persisted is awaited first.
                self.spawn(self._forget_idle(key[0]))

    async def _forget_idle(self, group_id: str) -> None:
        await asyncio.sleep(0)
        while True:
            busy = [led for key, led in self._led.items() if key.group_id == group_id and led.is_busy]
            if not busy or self.sessions.has_members(group_id):
                break
            await asyncio.sleep(_IDLE_CHECK_SECONDS)
        if not self.sessions.has_members(group_id):
            self.on_group_deleted(group_id)

    def on_member_left(self, group_id: str, member_id: str) -> None:
        """A member has left its group: its session ends, and what it had acquired is given back."""
        self.release_session((group_id, member_id))

    def release_session(self, key: SessionKey) -> None:
        """End a session and give back what its member has acquired."""
        session = self.sessions.remove(key)
        if session is None:
            return
        group_id, member_id = key
        config = self.config_of(group_id)
        for topic_id_partition in session.partitions:
            led = self._led.get(ShareKey(group_id, *topic_id_partition))
            if led is not None and led.state is not None:
                transition = led.state.release(member_id, config)
                if transition.updates:
                    self.spawn(self._persist(led, led.state, transition))

    # ------------------------------------------------------------- acknowledge

    async def acknowledge(
        self, group_id: str, member_id: str, wanted: Mapping[TopicIdPartition, Sequence[Acknowledgement]]
    ) -> dict[TopicIdPartition, KafkaError | None]:
        """Acknowledge records of several partitions; returns what went wrong with each when everything is persisted."""
        config = self.config_of(group_id)
        now_ms = self._clock.monotonic_ms()
        answers: dict[TopicIdPartition, KafkaError | None] = {}
        persisting: dict[TopicIdPartition, asyncio.Task[KafkaError | None]] = {}
        for topic_id_partition, acknowledgements in wanted.items():
            led = self._led.get(ShareKey(group_id, *topic_id_partition))
            answers[topic_id_partition] = None
            if led is None:
                answers[topic_id_partition] = UnknownTopicOrPartitionError()
            elif led.state is None:
                answers[topic_id_partition] = InvalidRecordStateError()
            else:
                try:
                    transition = led.state.acknowledge(member_id, acknowledgements, config, now_ms)
                except KafkaError as error:
                    answers[topic_id_partition] = error
                else:
                    if transition.updates:
                        persisting[topic_id_partition] = self.spawn(self._persist(led, led.state, transition))
        for topic_id_partition, task in persisting.items():
            answers[topic_id_partition] = await asyncio.shield(task)
        return answers

    async def _persist(
        self, led: LedSharePartition, state: SharePartition, transition: Transition
    ) -> KafkaError | None:
        """Have a change persisted, then complete it in the state machine; returns why it could not be persisted."""
        error = await self._write(led, state, transition.updates)
        config = self.config_of(led.key.group_id)
        state.complete(transition, self._clock.monotonic_ms(), config, commit=error is None)
        if error is not None:
            if error.code in _FENCING:
                self.fence(led, error)
            self._watch_locks(led)  # what was to change is locked as before
        led.wake()
        return error

    async def _write(
        self, led: LedSharePartition, state: SharePartition, updates: Sequence[StateBatch]
    ) -> KafkaError | None:
        """Have changes persisted, after all that came before; returns why they could not be.

        One write of a share partition at a time: one that is tried again must not come behind a later one, which knew
        more of what is done. What comes meanwhile goes together in the next.
        """
        future: asyncio.Future[KafkaError | None] = asyncio.get_running_loop().create_future()
        led.unwritten.append((updates, future))
        if led.writer is None:
            led.writer = self.spawn(self._write_waiting(led, state))
        return await future

    async def _write_waiting(self, led: LedSharePartition, state: SharePartition) -> None:
        together: list[tuple[Sequence[StateBatch], asyncio.Future[KafkaError | None]]] = []
        try:
            while led.unwritten:
                together, led.unwritten = led.unwritten, []
                error = await self._write_once(led, state, [each for updates, _ in together for each in updates])
                for _, future in together:
                    if not future.done():
                        future.set_result(error)
        finally:
            led.writer = None
            for _, future in (*together, *led.unwritten):
                future.cancel()  # the broker stops

    async def _write_once(
        self, led: LedSharePartition, state: SharePartition, updates: Sequence[StateBatch]
    ) -> KafkaError | None:
        try:
            result = await self._persister.write(led.key.group_id, led.topic_id_partition, state.write_of(updates))
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("state of share partition %s could not be written", led.key.coordinator_key)
            return UnknownServerError()
        return _share_error(result.error_code, result.error_message) if result.error_code else None

    # ------------------------------------------------------------------- locks

    def on_acquired(self, led: LedSharePartition) -> None:
        """Records were handed out: see to it that their locks end."""
        duration = self.config_of(led.key.group_id).record_lock_duration_ms
        self._schedule(led, self._clock.monotonic_ms() + duration)

    def _schedule(self, led: LedSharePartition, deadline_ms: int) -> None:
        if led.timer is not None:
            if led.timer_at <= deadline_ms:
                return
            led.timer.cancel()
        delay_ms = max(deadline_ms - self._clock.monotonic_ms(), 1)
        led.timer_at = deadline_ms
        led.timer = asyncio.get_running_loop().call_later(delay_ms / 1000, self._on_timer, led)

    def _on_timer(self, led: LedSharePartition) -> None:
        led.timer = None
        state = led.state
        if state is None:
            return
        updates = state.expire(self._clock.monotonic_ms(), self.config_of(led.key.group_id))
        if updates:
            self.spawn(self._persist_expired(led, state, updates))
            led.wake()
        self._watch_locks(led)

    def _watch_locks(self, led: LedSharePartition) -> None:
        """Set the timer for the next lock that runs out."""
        deadline_ms = None if led.state is None else led.state.next_deadline_ms()
        if deadline_ms is not None:
            self._schedule(led, deadline_ms)

    async def _persist_expired(
        self, led: LedSharePartition, state: SharePartition, updates: Sequence[StateBatch]
    ) -> None:
        error = await self._write(led, state, updates)
        if error is not None:
            logger.warning("locks of %s that ran out: %s", led.key.coordinator_key, error.code.name)
        if state.advance():
            led.wake()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine to its end, also when the request that began it is cancelled."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


#: How often to look whether the last changes of a group without members are persisted.
_IDLE_CHECK_SECONDS: Final = 0.05


def _share_error(code: ErrorCode, message: str | None) -> KafkaError:
    """Return the error that a client gets for a code of the persister."""
    match code:
        case ErrorCode.NOT_COORDINATOR | ErrorCode.COORDINATOR_NOT_AVAILABLE | ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            return CoordinatorNotAvailableError(message)
        case ErrorCode.GROUP_ID_NOT_FOUND | ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            return error_for(code)
        case ErrorCode.FENCED_LEADER_EPOCH | ErrorCode.FENCED_STATE_EPOCH:
            return NotLeaderOrFollowerError(message)
        case _:
            return UnknownServerError(message)
