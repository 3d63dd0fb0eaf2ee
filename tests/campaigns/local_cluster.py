"""`ottla cluster up` in a directory of its own, whose brokers are killed: the supervisor starts them again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.cli.test_supervisor import SupervisorProcess
from tests.support.ports import free_port

from ottla.errors import KafkaError
from ottla.network.channel import Channel, ChannelSettings
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse

WHOLE_TIMEOUT_S = 300.0  # on a crowded machine a start alone takes a minute
SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.num.partitions": "5",
}
GROUP, TRANSACTION, SHARE = 0, 1, 2


class LocalCluster:
    """Three brokers; numbers are 1, 2, 3."""

    def __init__(self) -> None:
        self.directory, self.port = Path(tempfile.mkdtemp(prefix="ottla-up-")), free_port(neighbours=2)
        options = [part for key, value in SETTINGS.items() for part in ("-X", f"{key}={value}")]
        self.up = SupervisorProcess(self.directory, "cluster", "up", "--port", str(self.port), *options)
        self.bootstrap = ",".join(f"127.0.0.1:{self.port + number}" for number in range(3))

    def __enter__(self) -> Self:
        self.up.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.up.close()
        if error is not None:
            print(self.up.output[-3_000:])
        shutil.rmtree(self.directory, ignore_errors=True)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "socket.timeout.ms": 5_000})

    def create_topic(self, name: str, partitions: int) -> None:
        topic = NewTopic(name, partitions, 3, config={"min.insync.replicas": "2"})
        client = self.admin()
        client.create_topics([topic])[name].result(60)

    def kill(self, number: int) -> None:
        """kill -9 of a broker; return when the supervisor has started it again."""
        pid = self.up.brokers()[number]
        assert pid is not None, f"broker {number} does not run"
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + WHOLE_TIMEOUT_S
        while self.up.brokers()[number] in (None, pid):
            assert time.monotonic() < deadline, self.up.output
            time.sleep(0.02)

    def until_whole(self) -> None:
        """Wait until all partitions of all topics have all replicas in sync."""
        deadline = time.monotonic() + WHOLE_TIMEOUT_S
        while True:
            try:
                client = self.admin()
                found = client.list_topics(timeout=5)
                rows = [partition for topic in found.topics.values() for partition in topic.partitions.values()]
                if len(found.brokers) == 3 and all(len(row.isrs) == 3 and row.leader in row.isrs for row in rows):
                    return
            except KafkaException:
                pass
            assert time.monotonic() < deadline, self.up.output
            time.sleep(0.1)

    def coordinator(self, key: str, kind: int = GROUP) -> int:
        """Return which broker coordinates a group, a transactional id, or a share partition."""
        deadline = time.monotonic() + WHOLE_TIMEOUT_S
        number = 0
        while True:
            try:
                found = asyncio.run(self._ask(self.port + number % 3, key, kind))
                if found > 0:
                    return found
            except (KafkaError, TimeoutError):
                pass
            assert time.monotonic() < deadline, f"no coordinator of {key}"
            number += 1
            time.sleep(0.1)

    async def _ask(self, port: int, key: str, kind: int) -> int:
        channel = await Channel.open("127.0.0.1", port, ChannelSettings(connect_timeout_s=5))
        try:
            request = FindCoordinatorRequest(key_type=kind, coordinator_keys=[key])
            answer = await channel.ask(request, FindCoordinatorResponse, timeout_s=5)
            return answer.coordinators[0].node_id
        finally:
            channel.close()
