"""The clusters that are broken: three brokers of ottla on three ZooKeeper servers, and three of Apache Kafka (KRaft).

Each broker and each server is a machine of the network. Both kinds stand behind the same few methods.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.campaigns.network import Network
from tests.support import kafka_anchor, zookeeper_anchor

BROKERS = (1, 2, 3)
PORT = 9092
ZOOKEEPER_PORT = 2181
ADDRESSES = {
    "clients": "10.77.0.1",
    **{f"b{n}": f"10.77.0.1{n}" for n in BROKERS},
    **{f"z{n}": f"10.77.0.2{n}" for n in BROKERS},
}
WALL_CLOCK = Path(__file__).with_name("wall_clock.c")
#: Long enough for a busy machine, short enough to wait for many times.
SESSION_TIMEOUT_MS = 3_000
#: What both kinds of brokers are told.
COMMON = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "num.partitions": "3",
    "offsets.topic.num.partitions": "5",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.num.partitions": "5",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.num.partitions": "5",
    "group.initial.rebalance.delay.ms": "0",
    "replica.lag.time.max.ms": "4000",
    "replica.socket.timeout.ms": "5000",
    "log.cleaner.enable": "false",
    "unclean.leader.election.enable": "false",
}


class Process:
    """One process that is started again and again; its output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        self.environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.is_running
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def signal(self, kind: signal.Signals) -> None:
        if self._process is not None and self.is_running:
            self._process.send_signal(kind)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(30)

    def terminate(self, timeout_s: float = 60) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()


class System:
    """Three brokers and what they need beside themselves."""

    name = ""
    #: Servers of the coordination service that are processes of their own.
    servers: dict[int, Process]
    brokers: dict[int, Process]

    def __init__(
        self, network: Network, directory: Path, disks: Mapping[int, Path], settings: Mapping[str, str]
    ) -> None:
        self.network = network
        self.directory = directory
        self.disks = disks
        self.settings = {**COMMON, **settings}
        self.servers = {}
        self.brokers = {}
        self.prepare()

    def prepare(self) -> None:
        raise NotImplementedError

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{ADDRESSES[f'b{n}']}:{PORT}" for n in BROKERS)

    def log_directory(self, number: int) -> Path:
        """Return where a broker has the directories of its partitions."""
        return self.disks[number] / "data"

    def shift_clock(self, number: int, seconds: int) -> None:
        """Set a broker's wall clock off by so much."""
        with self._clock_file(number).open("r+b" if self._clock_file(number).exists() else "wb") as file:
            file.write(struct.pack("=q", seconds * 1_000))

    def _clock_file(self, number: int) -> Path:
        return self.directory / f"clock{number}"

    def start(self) -> None:
        for process in (*self.servers.values(), *self.brokers.values()):
            process.start()

    def close(self) -> None:
        for process in (*self.brokers.values(), *self.servers.values()):
            process.kill()

    def _clock(self, number: int) -> dict[str, str]:
        """Return the environment of a broker whose wall clock can be shifted."""
        self.shift_clock(number, 0)
        library = self.directory / "wall_clock.so"
        if not library.exists():
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(WALL_CLOCK), "-ldl"], check=True)
        return {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(self._clock_file(number))}


class OttlaSystem(System):
    """Brokers of this checkout on a ZooKeeper ensemble."""

    name = "ottla"

    def prepare(self) -> None:
        members = [f"server.{n}={ADDRESSES[f'z{n}']}:2888:3888" for n in BROKERS]
        for n in BROKERS:
            home = self.directory / f"zookeeper{n}"
            (home / "data").mkdir(parents=True)
            (home / "data" / "myid").write_text(f"{n}\n")
            lines = [
                *("tickTime=500", "initLimit=20", "syncLimit=8", f"dataDir={home / 'data'}", "maxClientCnxns=0"),
                *(f"clientPortAddress={ADDRESSES[f'z{n}']}", f"clientPort={ZOOKEEPER_PORT}"),
                *("4lw.commands.whitelist=*", *members),
            ]
            (home / "zoo.cfg").write_text("\n".join(lines) + "\n")
            java = ["java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
            java += ["-Dzookeeper.admin.enableServer=false", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
            java += ["-cp", f"{zookeeper_anchor.HOME / 'libs'}/*"]
            main = ["org.apache.zookeeper.server.quorum.QuorumPeerMain", str(home / "zoo.cfg")]
            self.servers[n] = Process([*self.network.command(f"z{n}"), *java, *main], home / "log")
        connect = ",".join(f"{ADDRESSES[f'z{n}']}:{ZOOKEEPER_PORT}" for n in BROKERS) + "/campaign"
        for n in BROKERS:
            settings = {"zookeeper.session.timeout.ms": str(SESSION_TIMEOUT_MS), **self.settings}
            options = [part for key, value in settings.items() for part in ("-X", f"{key}={value}")]
            command = [*self.network.command(f"b{n}"), sys.executable, "-m", "ottla", "serve", "--broker-id", str(n)]
            command += ["--zookeeper", connect, "--host", ADDRESSES[f"b{n}"], "--port", str(PORT)]
            command += ["--data-dir", str(self.log_directory(n)), *options]
            self.brokers[n] = Process(command, self.directory / f"broker{n}.log", self._clock(n))

    def start(self) -> None:
        for process in self.servers.values():
            process.start()
        time.sleep(1)  # a broker asks again every second; this only saves lines in its log
        for process in self.brokers.values():
            process.start()


class KafkaSystem(System):
    """Apache Kafka; each process is a broker and a controller of KRaft."""

    name = "kafka"

    def prepare(self) -> None:
        home = Path(os.environ.get("OTTLA_KAFKA_HOME") or Path.home() / ".cache" / "ottla-anchors" / "kafka")
        voters = ",".join(f"{n}@{ADDRESSES[f'b{n}']}:9093" for n in BROKERS)
        identity = kafka_anchor.tool("kafka-storage", "random-uuid").split()[-1]
        for n in BROKERS:
            address = ADDRESSES[f"b{n}"]
            settings = {
                "process.roles": "broker,controller",
                "node.id": str(n),
                "controller.quorum.voters": voters,
                "controller.listener.names": "CONTROLLER",
                "listeners": f"PLAINTEXT://{address}:{PORT},CONTROLLER://{address}:9093",
                "log.dirs": str(self.log_directory(n)),
                "broker.session.timeout.ms": str(SESSION_TIMEOUT_MS),
                "broker.heartbeat.interval.ms": "1000",
                "share.coordinator.state.topic.replication.factor": "3",
                "share.coordinator.state.topic.min.isr": "2",
                **self.settings,
            }
            file = self.directory / f"server{n}.properties"
            file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
            done = kafka_anchor.run_tool("kafka-storage", "format", "-t", identity, "-c", str(file))
            assert done.returncode == 0, done.stdout
            java = ["java", "-Xms256m", "-Xmx384m", "-XX:+UseG1GC", "-Djava.awt.headless=true"]
            java += ["-Dlog4j2.StatusLogger.level=OFF", "-Dorg.apache.logging.log4j.level=INFO"]
            command = [*self.network.command(f"b{n}"), *java, "-cp", f"{home / 'libs'}/*", "kafka.Kafka", str(file)]
            self.brokers[n] = Process(command, self.directory / f"broker{n}.log", self._clock(n))


SYSTEMS: dict[str, type[System]] = {"ottla": OttlaSystem, "kafka": KafkaSystem}
