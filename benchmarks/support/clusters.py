"""Clusters of three brokers of one machine, ottla and Apache Kafka behind the same methods.

ottla: `ottla cluster up`, or three brokers on a ZooKeeper ensemble. Apache Kafka: three processes that are broker and
controller of KRaft, from the scripts of the anchor (see `tests.support.kafka_anchor`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.support.brokers import cpu_seconds, resident_bytes
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.cli.test_supervisor import SupervisorProcess
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.kafka_anchor import ANCHOR
from tests.support.old_kafka import HOME as OLD_KAFKA_HOME
from tests.support.ports import free_port, is_free
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

NUMBERS = (1, 2, 3)


class Cluster:
    """Three brokers, numbered 1 to 3."""

    name = ""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self.ports: dict[int, int] = {}

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.ports.values())

    def pids(self) -> list[int]:
        """Return the processes that the cluster consists of; a supervisor stands for its brokers."""
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def kill(self, number: int) -> None:
        """kill -9 of one broker."""
        raise NotImplementedError

    def stop(self, number: int) -> None:
        """SIGTERM to one broker, and wait for nothing."""
        raise NotImplementedError

    def is_running(self, number: int) -> bool:
        raise NotImplementedError

    def start_again(self, number: int) -> None:
        """Start a broker that has ended, and wait for nothing."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    @property
    def output(self) -> str:
        """What the brokers have logged lately, where that is known."""
        return ""

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self.pids()))

    def resident_bytes(self) -> int:
        return sum(map(resident_bytes, self.pids()))

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int, replicas: int = 3) -> None:
        client = self.admin()
        topic = NewTopic(name, partitions, replicas, config={"min.insync.replicas": str(min(2, replicas))})
        client.create_topics([topic], operation_timeout=60)[name].result(90)
        self.until_whole(name)

    def delete_topic(self, name: str) -> None:
        client = self.admin()
        client.delete_topics([name], operation_timeout=60)[name].result(90)

    def until_whole(self, *topics: str, timeout_s: float = 180) -> None:
        """Wait until all brokers are there and all partitions (of these topics) have all their replicas in sync."""
        deadline = time.monotonic() + timeout_s
        client = self.admin()
        while True:
            try:
                found = client.list_topics(timeout=10)
                rows = [p for n, t in found.topics.items() if not topics or n in topics for p in t.partitions.values()]
                are_whole = all(len(p.isrs) == len(p.replicas) and p.leader in p.isrs for p in rows)
                if len(found.brokers) == len(self.ports) and are_whole and set(topics) <= set(found.topics):
                    return
            except KafkaException:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not whole after {timeout_s} s\n{self.output}")
            time.sleep(0.1)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.until_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class OttlaUp(Cluster):
    """Brokers under a supervisor, which keeps the tree."""

    name = "ottla"

    def __init__(self, settings: Mapping[str, str] | None = None, *command: str) -> None:
        super().__init__(settings)
        self._directory, port = Path(tempfile.mkdtemp(prefix="ottla-up-")), free_port(neighbours=2)
        options = [part for key, value in self.settings.items() for part in ("-X", f"{key}={value}")]
        self._up = SupervisorProcess(self._directory, *(command or ("cluster", "up")), "--port", str(port), *options)
        self.ports = {number: port + number - 1 for number in NUMBERS}

    def start(self) -> None:
        self._up.start()

    def pids(self) -> list[int]:
        assert self._up.process is not None
        return [self._up.process.pid]

    def kill(self, number: int) -> None:
        self._signal(number, signal.SIGKILL)

    def stop(self, number: int) -> None:
        self._signal(number, signal.SIGTERM)

    def is_running(self, number: int) -> bool:
        return self._up.brokers()[number] is not None

    def _signal(self, number: int, kind: signal.Signals) -> None:
        pid = self._up.brokers()[number]
        assert pid is not None
        os.kill(pid, kind)

    def start_again(self, number: int) -> None:
        """The supervisor does it."""

    def stop_all(self) -> None:
        """SIGTERM to the supervisor, and wait."""
        self._up.terminate()

    def close(self) -> None:
        self._up.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class OttlaOnZooKeeper(Cluster):
    """Brokers on an ensemble."""

    name = "ottla"

    def __init__(self, settings: Mapping[str, str] | None = None, servers: int = 1) -> None:
        super().__init__(settings)
        self._ensemble = ZooKeeperEnsemble(servers)
        self._brokers: EnsembleBrokers | None = None

    def start(self) -> None:
        self._ensemble.start()
        self._brokers = EnsembleBrokers(f"{','.join(self._ensemble.servers)}/benchmark", settings=self.settings)
        self.ports = {number: broker.port for number, broker in self._brokers.brokers.items()}
        self._brokers.start()

    def pids(self) -> list[int]:
        assert self._brokers is not None
        return [broker.pid for broker in self._brokers.brokers.values()]

    def kill(self, number: int) -> None:
        assert self._brokers is not None
        self._brokers[number].kill()

    def stop(self, number: int) -> None:
        assert self._brokers is not None
        self._brokers[number].signal(signal.SIGTERM)

    def is_running(self, number: int) -> bool:
        assert self._brokers is not None
        return self._brokers[number].is_running()

    def start_again(self, number: int) -> None:
        assert self._brokers is not None
        self._brokers[number].spawn()

    @property
    def output(self) -> str:
        assert self._brokers is not None
        found = self._brokers.brokers.items()
        return "\n".join(f"broker {n}, running: {b.is_running()}\n{b.output[-6_000:]}" for n, b in found)

    def close(self) -> None:
        if self._brokers is not None:
            self._brokers.close()
        self._ensemble.stop()


class ApacheKafkaCluster(Cluster):
    """Brokers that are controllers of KRaft as well."""

    name = "kafka"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self._directory = Path(tempfile.mkdtemp(prefix="kafka-cluster-"))
        port = free_port(neighbours=2)
        while not all(is_free(port + 50 + number) for number in range(3)):
            port = free_port(neighbours=2)
        self.ports = {number: port + number - 1 for number in NUMBERS}

    def start(self) -> None:
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        self._run("start-cluster", str(self.ports[1]), str(self._directory), "3", *settings)

    def pids(self) -> list[int]:
        return [self._pid(number) for number in NUMBERS]

    def kill(self, number: int) -> None:
        os.kill(self._pid(number), signal.SIGKILL)
        while self.is_running(number):
            time.sleep(0.01)

    def stop(self, number: int) -> None:
        os.kill(self._pid(number), signal.SIGTERM)

    def is_running(self, number: int) -> bool:
        return Path(f"/proc/{self._pid(number)}").exists()

    def _pid(self, number: int) -> int:
        return int((self._directory / str(number) / "pid").read_text())

    def start_again(self, number: int) -> None:
        self._run("start-cluster", "--only", str(number), str(self._directory))

    def close(self) -> None:
        self._run("stop-cluster", str(self._directory), "--wipe")
        shutil.rmtree(self._directory, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(ANCHOR / name), *arguments], capture_output=True, text=True, check=False, env=self._environment()
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")


class OldKafkaCluster(ApacheKafkaCluster):
    """Apache Kafka 3.9 on a ZooKeeper ensemble of three servers."""

    name = "kafka 3.9"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self._ensemble = ZooKeeperEnsemble(3)

    def start(self) -> None:
        self._ensemble.start()
        super().start()

    def close(self) -> None:
        super().close()
        self._ensemble.stop()

    def _environment(self) -> dict[str, str]:
        servers = ",".join(self._ensemble.servers)
        return {**os.environ, "OTTLA_KAFKA_HOME": str(OLD_KAFKA_HOME), "ZOOKEEPER": f"{servers}/benchmark"}
