"""Brokers of one cluster as processes, on a real ZooKeeper ensemble."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient
from tests.support.broker_process import BrokerProcess

#: Long enough for a busy machine, short enough to wait for.
SESSION_TIMEOUT_MS = 6_000


class EnsembleBrokers:
    """Brokers 1, 2, ... of one cluster, each `ottla serve --zookeeper` on a free port of this machine.

    Args:
        connect: zookeeper.connect.
        settings: of all brokers.
        properties: a file with more of them, for those that are not taken on the command line.
    """

    def __init__(
        self,
        connect: str,
        *,
        count: int = 3,
        settings: Mapping[str, str] | None = None,
        properties: Path | None = None,
    ) -> None:
        self._temporary = Path(tempfile.mkdtemp(prefix="ottla-cluster-"))
        self.connect = connect
        common = {
            "zookeeper.connect": connect,
            "zookeeper.session.timeout.ms": str(SESSION_TIMEOUT_MS),
            "group.initial.rebalance.delay.ms": "0",
            **(settings or {}),
        }
        self.brokers = {
            node_id: BrokerProcess(
                {**common, "broker.id": str(node_id)},
                data_dir=self._temporary / str(node_id),
                options=("--host", "127.0.0.1", *([str(properties)] if properties is not None else [])),
            )
            for node_id in range(1, count + 1)
        }

    def __getitem__(self, node_id: int) -> BrokerProcess:
        return self.brokers[node_id]

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.address for broker in self.brokers.values())

    def start(self) -> None:
        """Start all at the same time; return when all serve, and each knows of the others."""
        for broker in self.brokers.values():
            broker.spawn()
        deadline = time.monotonic() + 60
        for broker in self.brokers.values():
            broker.wait_until_ready(timeout_s=60)
        for broker in self.brokers.values():
            client = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
            while len(client.list_topics(timeout=10).brokers) < len(self.brokers):
                assert time.monotonic() < deadline, f"{broker.address} does not know of all brokers"
                time.sleep(0.05)

    def close(self) -> None:
        for broker in self.brokers.values():
            broker.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
