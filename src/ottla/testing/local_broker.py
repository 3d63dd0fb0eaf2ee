"""A real broker in this process, for tests: `ottla.testing.Broker`.

It serves real sockets from a thread of its own, so that clients of any language can be tested with it; disk and
coordination tree are in memory, and gone with it. Time can be moved ahead, requests can be made to fail.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from ottla.broker.broker import Broker as _Broker
from ottla.broker.config import BrokerConfig
from ottla.broker.wiring.surroundings import Surroundings
from ottla.client.admin import Admin
from ottla.client.consumed import Record
from ottla.client.consumer import Consumer
from ottla.client.keys import Duration, duration_s
from ottla.client.producer import Producer
from ottla.cluster.trees.memory import MemoryStore, MemoryTree
from ottla.errors import ErrorCode, GroupIdNotFoundError, KafkaError, UnknownTopicOrPartitionError, error_for
from ottla.network.server import Server
from ottla.offload import InlineOffload
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from ottla.testing.faults import DelayFault, ErrorFault, Fault, Faults, LossFault, find_api, find_code
from ottla.testing.memory_files import MemoryFiles
from ottla.testing.movable_time import MovableClock, MovableLoop
from ottla.testing.wire import WireClient
from ottla.types import TopicPartition

T = TypeVar("T")

HOST: Final = "127.0.0.1"

#: What differs from a broker's defaults: small internal topics, no waits that only a cluster needs.
DEFAULTS: Final[Mapping[str, object]] = {
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.num.partitions": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "group.initial.rebalance.delay.ms": 0,
    "group.consumer.heartbeat.interval.ms": 500,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.assignment.interval.ms": 0,
    "group.share.heartbeat.interval.ms": 500,
    "group.share.min.heartbeat.interval.ms": 100,
    "group.share.assignment.interval.ms": 0,
}

#: Seconds in which the broker's thread has to do what it is asked for.
_CALL_TIMEOUT_S: Final = 30.0
#: Seconds between two looks for records that are to come.
_LOOK_S: Final = 0.002


class BrokerClock:
    """The broker's time: the machine's, and by how much a test has moved it ahead."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def advance(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
    ) -> None:
        """Let time pass for the broker: sessions end, retention is due, waits are over. Returns when that is done.

        Real clients do not see it: the broker finds them silent for so long, and the times of records that they stamp old.
        """
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000
        if total < 0:
            raise ValueError("time does not go back")
        self._broker._call(lambda: self._broker._loop.advance(total))


class Broker:
    """A broker on a free port of this machine.

        with ottla.testing.Broker() as broker:
            broker.produce("in", [b"1", b"2"])
            run(broker.bootstrap_servers)
            assert broker.topic("out").values(2, timeout=5) == [b"2", b"4"]

    Args:
        settings: the broker's configuration in Kafka's keys; they count more than `DEFAULTS`.
        port: 0 takes a free one.

    Raises:
        ottla.config.ConfigError: a setting is wrong.
    """

    def __init__(self, settings: Mapping[str, object] | None = None, *, port: int = 0) -> None:
        self.settings: dict[str, object] = {**DEFAULTS, **(settings or {})}
        self.clock: BrokerClock = BrokerClock(self)
        self._port = port
        self._loop: MovableLoop
        self._thread: threading.Thread | None = None
        self._broker: _Broker | None = None
        self._faults = Faults()
        self._store = MemoryStore()
        self._files: MemoryFiles
        self._tree: MemoryTree | None = None
        self._shares_tree = False
        self._producer: Producer | None = None
        self._admin: Admin | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start; `with` does it."""
        if self._thread is not None:
            return self
        self._start_thread()
        self._make_files()
        try:
            self._call(self._start)
        except BaseException:
            self._end_thread()
            raise
        return self

    def close(self) -> None:
        """Stop; its data is gone."""
        if self._thread is None:
            return
        try:
            self._close_clients()
        finally:
            try:
                self._call(self._stop)
            finally:
                self._end_thread()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start again, with the same data and the same port.

        Args:
            kill: end without a clean stop, as after `kill -9`: connections break, nothing is written any more.
        """
        self._call(lambda: self._restart(kill=kill))

    def _start_thread(self) -> tuple[MovableLoop, threading.Thread]:
        self._loop = MovableLoop()
        self._thread = threading.Thread(target=self._run, name="ottla-test-broker", daemon=True)
        self._thread.start()
        return self._loop, self._thread

    def _make_files(self) -> None:
        self._files = MemoryFiles(MovableClock(self._loop).wall_ms)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(_CALL_TIMEOUT_S)

    def _call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the broker's loop."""
        if self._thread is None:
            raise RuntimeError("the broker does not run; start() it, or use it in a with block")
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(_CALL_TIMEOUT_S)

    async def _start(self) -> None:
        clock = MovableClock(self._loop)
        dice = random.Random()

        async def open_tree(_path: str) -> MemoryTree:
            self._tree = self._store.session()
            return self._tree

        def make_server(handle: Any, **options: Any) -> Server:
            return Server(self._faults.around(handle), **options)

        settings = {"log.dirs": "data", "listeners": f"PLAINTEXT://{HOST}:{self._port}", **self.settings}
        broker = _Broker(
            BrokerConfig.from_sources(overrides=[f"{key}={_text(value)}" for key, value in settings.items()]),
            Surroundings(
                clock=clock,
                offload=InlineOffload(),
                files=self._files,
                random=dice,
                secret_bytes=secrets.token_bytes,
                open_tree=open_tree,
                make_server=make_server,
                shared_tree=self._shares_tree,
                is_one_machine=self._shares_tree,
            ),
        )
        await broker.start()
        self._broker = broker
        self._port = broker.server.addresses[0][2]

    async def _stop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.stop()
        if self._tree is not None:
            self._tree.expire()
            self._tree = None

    async def _restart(self, *, kill: bool) -> None:
        await (self._kill() if kill else self._stop())
        await self._start()

    async def _kill(self) -> None:
        self._disconnect_all()
        self._files.kill()
        await self._stop()

    # -- addresses and clients --------------------------------------------------------------------------------------

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to: "127.0.0.1:port"."""
        if self._thread is None:
            raise RuntimeError("the broker does not run; start() it, or use it in a with block")
        return f"{HOST}:{self._port}"

    @property
    def port(self) -> int:
        """The port; 0 before the start if any will do."""
        return self._port

    @property
    def admin(self) -> Admin:
        """An admin client of this broker, for the test's own use."""
        if self._admin is None:
            self._admin = Admin(self.bootstrap_servers, client_id="ottla-testing")
        return self._admin

    def _close_clients(self) -> None:
        producer, self._producer = self._producer, None
        admin, self._admin = self._admin, None
        self._faults.clear()
        if admin is not None:
            admin.close()
        if producer is not None:
            producer.close(timeout=1)

    # -- records ----------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, *, partitions: int = 1, configs: Mapping[str, Any] | None = None) -> Topic:
        """Make a topic; a first `produce` makes one, too, with one partition."""
        self.admin.create_topic(name, partitions=partitions, configs=configs)
        return Topic(self, name)

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | str | tuple[bytes | str | None, bytes | str | None] | None],
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Write records and wait until the broker has them. Faults do not hit it: they are put aside meanwhile.

        Args:
            values: bytes, text, None for a tombstone, or (key, value).
            timestamp: milliseconds since 1970; None is now, as the machine says.
        """
        faults = self._put_faults_aside()
        try:
            if self._producer is None:
                self._producer = Producer(self.bootstrap_servers, client_id="ottla-testing", linger_ms=0)
            for item in values:
                key, value = item if isinstance(item, tuple) else (None, item)
                self._producer.send(topic, value, key=key, partition=partition, headers=headers, timestamp=timestamp)
            self._producer.flush()
        finally:
            self._faults._faults = faults + self._faults._faults

    def _put_faults_aside(self) -> tuple[Fault, ...]:
        faults = self._faults._faults
        self._faults.clear()
        return faults

    def topic(self, name: str) -> Topic:
        """Return a topic to look at; it need not be there yet."""
        return Topic(self, name)

    # -- faults -----------------------------------------------------------------------------------------------------

    def fail(
        self,
        api: str,
        *,
        error: str | int | type[KafkaError] = ErrorCode.UNKNOWN_SERVER_ERROR,
        times: int | None = None,
    ) -> Fault:
        """Have requests of an API answered with an error; the broker does not do them.

            with kafka_broker.fail("Produce", error="NOT_LEADER_OR_FOLLOWER", times=3): ...

        In force from this call on, until `times` requests were hit, the `with` block ends, or `stop()`. `hits` counts.

        Args:
            api: Kafka's name: "Produce", "Fetch", "OffsetCommit", "JoinGroup", ...
            error: Kafka's name, its number, or a class of `ottla.errors`.
            times: None for all.

        Raises:
            ValueError: there is no such API or error; the text names the nearest.
        """
        return self._faults.add(ErrorFault(self._faults, find_api(api), times, find_code(error)))

    def delay(self, api: str, *, seconds: Duration, times: int | None = None) -> Fault:
        """Have requests of an API handled so much later; see `fail`. `clock.advance` shortens the wait."""
        return self._faults.add(DelayFault(self._faults, find_api(api), times, duration_s("seconds", seconds)))

    def lose(self, api: str, *, times: int | None = 1) -> Fault:
        """Have requests of an API done, but the connection end before the answer: the client cannot know; see `fail`."""
        return self._faults.add(LossFault(self._faults, find_api(api), times))

    def disconnect(self) -> None:
        """End all connections; clients may come back at once."""

        async def end() -> None:
            self._disconnect_all()

        self._call(end)

    def _disconnect_all(self) -> None:
        assert self._broker is not None
        for connection in self._broker.server.connections:
            connection.abort("")

    def rebalance(self, group_id: str) -> None:
        """Have the members of a group rebalance.

        Members of a classic group join again at their next heartbeat. In a consumer group (KIP-848) another member comes,
        gets what it is due, and leaves again; this returns then.

        Raises:
            GroupIdNotFoundError: there is no such group, or it has no members.
            ValueError: it is a group of another type.
        """
        group = self.admin.describe_group(group_id)
        if not group.members:
            raise GroupIdNotFoundError(f"Group {group_id!r} has no members.")
        if group.type == "classic":
            self._call(lambda: self._rebalance_classic(group_id))
        elif group.type == "consumer":
            topics = sorted({topic for member in group.members for topic in member.subscribed_topics})
            self._call(lambda: self._rebalance_consumer(group_id, topics))
        else:
            raise ValueError(
                f"group {group_id!r} is a {group.type} group; classic and consumer groups can be rebalanced"
            )

    async def _rebalance_classic(self, group_id: str) -> None:
        assert self._broker is not None
        groups = self._broker.coordinators.groups
        await groups.write(
            groups.partition_for(group_id),
            lambda shard, now_ms: shard.membership.rebalance(group_id, "a test asks for it", now_ms),
        )

    async def _rebalance_consumer(self, group_id: str, topics: Sequence[str]) -> None:
        wire = await WireClient.connect(HOST, self._port, "ottla-testing")
        member_id = str(uuid.uuid4())

        async def beat(epoch: int, **rest: Any) -> ConsumerGroupHeartbeatResponse:
            request = ConsumerGroupHeartbeatRequest(group_id=group_id, member_id=member_id, member_epoch=epoch, **rest)
            answer = await wire.ask(request, 1, ConsumerGroupHeartbeatResponse)
            if answer.error_code:
                raise error_for(answer.error_code, answer.error_message)
            return answer

        try:
            answer = await beat(
                0, rebalance_timeout_ms=60_000, subscribed_topic_names=list(topics), topic_partitions=[]
            )
            deadline = self._loop.time() + _CALL_TIMEOUT_S / 2
            while not (answer.assignment and answer.assignment.topic_partitions) and self._loop.time() < deadline:
                await asyncio.sleep(0.02)
                answer = await beat(answer.member_epoch)
                if await self._is_stable(group_id):
                    break  # there are more members than partitions: this one gets nothing
            await beat(-1)
        finally:
            wire.close()

    async def _is_stable(self, group_id: str) -> bool:
        assert self._broker is not None
        groups = self._broker.coordinators.groups
        return groups.read(
            groups.partition_for(group_id), lambda shard: shard.groups[group_id].state_name() == "Stable"
        )

    def expire(self, *, retention: bool = False, sessions: str | None = None) -> None:
        """Do now what the broker does when time has passed.

        Args:
            retention: delete the records that `retention.ms` or `retention.bytes` lets go (`clock.advance` makes them old).
            sessions: a group whose members are taken to be dead, as if they had been silent for `session.timeout.ms`.

        Raises:
            GroupIdNotFoundError: the group has no member whose session could end.
        """

        async def act() -> None:
            assert self._broker is not None
            if retention:
                await self._broker.logs.apply_retention()
            if sessions is not None:
                ended = self._broker.coordinators.groups.run_timers_now(
                    lambda key: len(key) == 3 and key[1] == sessions and key[0].endswith(("heartbeat", "session"))
                )
                if not ended:
                    raise GroupIdNotFoundError(f"Group {sessions!r} has no members.")

        self._call(act)


class Topic:
    """What is in a topic, as a reader of committed records sees it."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = name
        self._broker = broker

    def records(
        self, count: int | None = None, *, timeout: Duration = 5.0, committed: bool = True
    ) -> list[Record[bytes | None, bytes | None]]:
        """Return the first `count` records, or with None those that are there, by partition and offset.

        Args:
            timeout: seconds to wait until there are so many.
            committed: False shows records of open and aborted transactions, too.

        Raises:
            AssertionError: there are fewer; the text shows those that are there. Or there is no such topic.
        """
        limit_s = duration_s("timeout", timeout)
        level: Literal["read_committed", "read_uncommitted"] = "read_committed" if committed else "read_uncommitted"
        faults = self._broker._put_faults_aside()
        try:
            return self._read(count, limit_s, level)
        finally:
            self._broker._faults._faults = faults + self._broker._faults._faults

    def _read(self, count: int | None, limit_s: float, level: str) -> list[Record[bytes | None, bytes | None]]:
        waited = threading.Event()
        found: list[Record[bytes | None, bytes | None]] = []
        for look in range(int(limit_s / _LOOK_S) + 1):
            partitions = self._partitions()
            ends = self._broker.admin.list_offsets(partitions, isolation_level=level) if partitions else {}
            if sum(info.offset or 0 for info in ends.values()) or look == 0:
                found = self._read_all(partitions, level)
            if count is None and not partitions:
                break
            if count is None or len(found) >= count:
                return found[:count]
            waited.wait(_LOOK_S * min(look + 1, 20))
        if not partitions:
            names = ", ".join(topic.name for topic in self._broker.admin.list_topics()) or "none"
            raise AssertionError(f"there is no topic {self.name!r}; those that are there: {names}")
        shown = ", ".join(repr(record.value) for record in found[:10])
        raise AssertionError(f"{len(found)} of {count} records are in {self.name!r} after {limit_s:g} s: [{shown}]")

    def _partitions(self) -> list[TopicPartition]:
        try:
            described = self._broker.admin.describe_topic(self.name)
        except UnknownTopicOrPartitionError:
            return []
        return [TopicPartition(self.name, part.partition) for part in described.partitions]

    def _read_all(self, partitions: Sequence[TopicPartition], level: str) -> list[Record[bytes | None, bytes | None]]:
        if not partitions:
            return []
        with Consumer(
            self._broker.bootstrap_servers,
            client_id="ottla-testing",
            auto_offset_reset="earliest",
            isolation_level=level,
            fetch_max_wait_ms=10,
        ) as consumer:
            consumer.assign(partitions)
            return sorted(consumer.records(until="end"), key=lambda record: (record.partition, record.offset))

    def values(
        self, count: int | None = None, *, timeout: Duration = 5.0, committed: bool = True
    ) -> list[bytes | None]:
        """Return the values of the first `count` records; see `records`."""
        return [record.value for record in self.records(count, timeout=timeout, committed=committed)]

    def keys(self, count: int | None = None, *, timeout: Duration = 5.0, committed: bool = True) -> list[bytes | None]:
        """Return the keys of the first `count` records; see `records`."""
        return [record.key for record in self.records(count, timeout=timeout, committed=committed)]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
