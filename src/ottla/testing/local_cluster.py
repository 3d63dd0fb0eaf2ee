"""Three real brokers in this process, for tests of what only a cluster does: `ottla.testing.Cluster`.

They run on one loop in one thread, share a coordination tree in memory, and replicate over real sockets. Each is an
`ottla.testing.Broker`: faults, restarts and time are its.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ottla.cluster.trees.memory import MemoryStore
from ottla.testing.local_broker import Broker, Topic
from ottla.testing.movable_time import MovableLoop

if TYPE_CHECKING:
    from ottla.client.admin import Admin

#: What differs from a single broker: everything has a replica on each.
_DEFAULTS: Final[Mapping[str, object]] = {
    "default.replication.factor": 3,
    "offsets.topic.replication.factor": 3,
    "transaction.state.log.replication.factor": 3,
    "share.coordinator.state.topic.replication.factor": 3,
}


class ClusterBroker(Broker):
    """One broker of a `Cluster`."""

    def __init__(self, cluster: Cluster, broker_id: int, settings: Mapping[str, object]) -> None:
        super().__init__({**_DEFAULTS, **settings, "broker.id": broker_id})
        self.broker_id = broker_id
        self._cluster = cluster
        self._store = cluster._store
        self._shares_tree = True

    def start(self) -> Self:
        """Start, or start again after `kill()`, with the same data and the same port."""
        if self._broker is not None:
            return self
        if self._thread is None:
            self._loop, self._thread = self._cluster._loop, self._cluster._thread
            self._make_files()
        self._call(self._start)
        return self

    def kill(self) -> None:
        """End as after `kill -9`: connections break, nothing is written any more, others lead what it led."""
        self._close_clients()
        self._call(self._kill)

    def close(self) -> None:
        """Stop; its data is gone with the cluster."""
        self._close_clients()
        if self._broker is not None:
            self._call(self._stop)
        self._thread = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._broker is not None


class Cluster:
    """Brokers 1, 2 and 3 on free ports of this machine.

        with ottla.testing.Cluster() as cluster:
            cluster.create_topic("orders", partitions=3)
            run(cluster.bootstrap_servers)
            cluster.leader("orders").kill()

    Args:
        settings: of every broker, in Kafka's keys.
    """

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        self._store = MemoryStore()
        self._loop: MovableLoop
        self._thread: threading.Thread | None = None
        self._keeper = Broker()  # its thread is the cluster's
        self.brokers: dict[int, ClusterBroker] = {
            broker_id: ClusterBroker(self, broker_id, settings or {}) for broker_id in (1, 2, 3)
        }

    def start(self) -> Self:
        """Start all three; `with` does it."""
        if self._thread is None:
            self._loop, self._thread = self._keeper._start_thread()
            try:
                for broker in self.brokers.values():
                    broker.start()
            except BaseException:
                self.close()
                raise
        return self

    def close(self) -> None:
        """Stop all; the data is gone."""
        if self._thread is None:
            return
        self._thread = None
        try:
            for broker in self.brokers.values():
                broker.close()
        finally:
            self._keeper._end_thread()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, broker_id: int) -> ClusterBroker:
        return self.brokers[broker_id]

    def __iter__(self) -> Iterator[ClusterBroker]:
        return iter(self.brokers.values())

    @property
    def running(self) -> list[ClusterBroker]:
        """The brokers that were not killed."""
        return [broker for broker in self.brokers.values() if broker.is_running]

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to: the addresses of all three."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    @property
    def admin(self) -> Admin:
        """An admin client of a broker that runs, for the test's own use."""
        return self.running[0].admin

    def create_topic(self, name: str, *, partitions: int = 1, configs: Mapping[str, Any] | None = None) -> Topic:
        """Make a topic with a replica on each broker."""
        return self.running[0].create_topic(name, partitions=partitions, configs=configs)

    def produce(self, topic: str, values: Any, **options: Any) -> None:
        """Write records; see `Broker.produce`."""
        self.running[0].produce(topic, values, **options)

    def topic(self, name: str) -> Topic:
        """Return a topic to look at; see `Broker.topic`."""
        return self.running[0].topic(name)

    def leader(self, topic: str, partition: int = 0) -> ClusterBroker:
        """Return the broker that leads a partition now."""
        described = self.admin.describe_topic(topic).partitions[partition]
        assert described.leader is not None, f"{topic}-{partition} has no leader"
        return self.brokers[described.leader]
