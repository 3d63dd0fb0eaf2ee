"""Several brokers under one supervisor, as processes: `ottla cluster up` and `ottla serve --workers`."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.cli import cluster, cluster_up, serve
from ottla.cli.supervisor import Plan, SupervisorError, Worker, read_pid, write_pid
from ottla.observability import logs

READY_SECONDS = 120


def test_brokers_that_run_on_other_ports_are_not_taken_over(tmp_path: Path) -> None:
    """They would never answer where this supervisor looks for them."""

    def worker(port: int) -> Worker:
        return Worker(
            Plan(data_dir=str(tmp_path), count=1, port=port, command=lambda _number, _directory: [], has_tree=True), 1
        )

    write_pid(str(tmp_path), 9092)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert worker(9092).adopt()
        with pytest.raises(SupervisorError, match="runs already, on port 9092: say --port 9092, or stop it first"):
            worker(9192).adopt()


GROUPS = itertools.count()


class SupervisorProcess:
    """`ottla ARGUMENTS` that starts brokers, in a directory of its own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.arguments = arguments
        self.lines: deque[str] = deque(maxlen=500)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> SupervisorProcess:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ottla", *self.arguments, "--data-dir", str(self.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process, ready), daemon=True).start()
        deadline = time.monotonic() + READY_SECONDS
        while not ready.wait(0.05):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line.rstrip())
                if "brokers ready" in line:
                    ready.set()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def brokers(self) -> dict[int, int | None]:
        """The processes of the brokers."""
        others = self.directory / "brokers"
        numbers = [1, *(int(path.name) for path in sorted(others.iterdir()))] if others.exists() else [1]
        return {n: read_pid(str(self.directory if n == 1 else others / str(n))) for n in numbers}

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        for pid in self.brokers().values():
            if pid is not None:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: it holds a socket."""
    made = Path(tempfile.mkdtemp(prefix="ottla-up-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def supervised(directory: Path) -> Iterator[Callable[..., SupervisorProcess]]:
    made: list[SupervisorProcess] = []

    def make(*arguments: str) -> SupervisorProcess:
        made.append(SupervisorProcess(directory, *arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def create(address: str, topic: str, partitions: int) -> None:
    client = AdminClient({"bootstrap.servers": address})
    client.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)


def produce(address: str, topic: str, values: range, *, partitions: int = 0) -> None:
    """Send values, in turn to so many partitions; 0: as librdkafka chooses, which may be one partition for all."""
    failed: list[object] = []
    producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 60_000})
    for value in values:
        producer.produce(
            topic,
            str(value),
            partition=value % partitions if partitions else -1,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    assert producer.flush(60) == 0
    assert failed == []


def consume(address: str, topic: str, count: int) -> list[int]:
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": f"g-{next(GROUPS)}", "auto.offset.reset": "earliest"}
    )
    found: list[int] = []
    try:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 60
        while len(found) < count and time.monotonic() < deadline:
            found += [int(m.value() or b"") for m in consumer.consume(500, 0.5) if not m.error()]
        return sorted(found)
    finally:
        consumer.close()


def leaders(address: str, topic: str) -> dict[int, int]:
    found = AdminClient({"bootstrap.servers": address}).list_topics(topic, timeout=10).topics[topic]
    return {index: partition.leader for index, partition in found.partitions.items()}


def test_supervisor_killed(supervised: Callable[..., SupervisorProcess]) -> None:
    """1. kill -9 of the supervisor: its brokers go on. 2. The next one takes the same processes over. 3. A broker that dies

    is started again; its partitions are without a leader only for that long. 4. SIGTERM stops all.
    """
    port = free_port(neighbours=1)
    address = f"127.0.0.1:{port}"
    up = ("cluster", "up", "--brokers", "2", "--port", str(port), "-X", "group.initial.rebalance.delay.ms=0")
    first = supervised(*up).start()
    create(address, "t", 4)
    assert sorted(leaders(address, "t").values()) == [1, 1, 2, 2]
    produce(address, "t", range(100))
    assert consume(address, "t", 100) == list(range(100))  # makes the topic of groups, which needs the tree
    before = first.brokers()
    assert len({pid for pid in before.values() if pid}) == 2

    first.kill()
    produce(address, "t", range(100, 200))
    assert consume(address, "t", 200) == list(range(200))
    assert first.brokers() == before

    second = supervised(*up).start()
    assert second.brokers() == before
    create(address, "u", 2)  # the tree can be changed again
    assert "is in use by another supervisor (supervisor.lock is locked)" in refused(second)

    victim = before[2]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    until(lambda: second.brokers()[2] not in (None, victim))
    produce(address, "t", range(200, 300))
    assert consume(address, "t", 300) == list(range(300))
    assert second.terminate() == 0
    assert second.brokers() == {1: None, 2: None}
    assert not (second.directory / "tree.sock").exists()


def refused(running: SupervisorProcess) -> str:
    """Start another one in the same directory, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "ottla", *running.arguments, "--data-dir", str(running.directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def metrics_of(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_workers(directory: Path, supervised: Callable[..., SupervisorProcess]) -> None:
    """1. The directory of a single broker becomes that of worker 1. 2. All take connections on the port, and say where each

    leads. 3. Fewer workers are refused as long as the others hold partitions; after a drain they start, and all is there.
    """
    port = free_port(neighbours=3)
    address = f"127.0.0.1:{port}"
    with BrokerProcess(data_dir=directory, port=port):
        create(address, "old", 2)
        produce(address, "old", range(10))
    more = ("-X", "group.initial.rebalance.delay.ms=0")
    two = supervised("serve", "--workers", "2", "--port", str(port), *more).start()
    metadata = AdminClient({"bootstrap.servers": address}).list_topics(timeout=10)
    assert {node: (str(broker.host), broker.port) for node, broker in metadata.brokers.items()} == {
        1: ("localhost", port + 1),
        2: ("localhost", port + 2),
    }
    assert leaders(address, "old") == {0: 1, 1: 1}
    create(address, "new", 4)
    assert sorted(leaders(address, "new").values()) == [1, 1, 2, 2]
    produce(address, "new", range(100), partitions=4)
    assert consume(address, "new", 100) == list(range(100))
    assert consume(address, "old", 10) == list(range(10))
    shared, *own = (metrics_of(number) for number in (port, port + 1, port + 2))
    written = 'kafka_server_brokertopicmetrics_messagesinpersec{topic="new"}'
    assert shared[written] == 100
    assert all(0 < one[written] < 100 for one in own)
    assert shared["ottla_workers_summed"] == 2
    assert {'ottla_uptime_seconds{broker="1"}', 'ottla_uptime_seconds{broker="2"}'} < set(shared)
    assert shared["kafka_server_replicamanager_leadercount"] == sum(
        one["kafka_server_replicamanager_leadercount"] for one in own
    )
    assert two.terminate() == 0

    fewer = SupervisorProcess(directory, "serve", "--workers", "1", "--port", str(port), *more)
    assert "broker 2 in" in refused(fewer)
    assert "holds partitions: start 2 brokers, or drain it first (ottla cluster drain 2)" in refused(fewer)
    again = supervised("serve", "--workers", "2", "--port", str(port), *more).start()
    assert consume(address, "new", 100) == list(range(100))
    assert cluster.main(["drain", "2", "-b", address, "--yes"]) == 0
    assert set(leaders(address, "new").values()) == {1}
    assert again.terminate() == 0
    one = supervised("serve", "--workers", "1", "--port", str(port), *more).start()
    assert cluster.main(["unregister", "2", "-b", address]) == 0
    assert consume(address, "new", 100) == list(range(100))
    assert consume(address, "old", 10) == list(range(10))
    assert one.terminate() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["up", "--brokers", "0"], "--brokers must be 1 to 100, but it is 0"),
        (["up", "--port", "65535"], "--brokers needs 3 ports from 65535 on"),
        (["up", "-X", "nonsense=1"], "Unknown setting nonsense"),
        (["down"], "No such command 'down'; see ottla cluster --help"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main([*arguments, *(["--data-dir", str(tmp_path)] if arguments[0] == "up" else [])]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_port_on_which_something_else_answers_is_refused(directory: Path) -> None:
    port = free_port(neighbours=2)
    with socket.create_server(("127.0.0.1", port + 1)):
        ended = subprocess.run(
            [sys.executable, "-m", "ottla", "cluster", "up", "--port", str(port), "--data-dir", str(directory)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert f"port {port + 1}, which broker 2 needs, is already in use" in ended.stderr
    assert "ready" not in ended.stdout


def test_each_broker_is_told_what_is_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plans: list[Plan] = []

    def supervise(plan: Plan, announcement: Callable[[], str]) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr(cluster_up, "supervise", supervise)
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # the logging is that of the tests
    assert serve.main(["--workers", "2", "--port", "7000", "--data-dir", str(tmp_path), "-X", "num.partitions=4"]) == 0
    assert cluster.main(["up", "--port", "7000", "--zookeeper", "zk/c", "--data-dir", str(tmp_path)]) == 0
    workers, on_zookeeper = plans
    command = " ".join(workers.command(2, workers.directory(2)))
    for part in (
        "serve --port 7002 ",
        f"--data-dir {tmp_path}/brokers/2 ",
        "-X num.partitions=4",
        "-X broker.id=2",
        f"-X ottla.tree.socket={tmp_path}/tree.sock",
        "-X ottla.shared.port=7000",
        "-X offsets.topic.replication.factor=1",
        "--supervised [2]",
    ):
        assert part in command
    command = " ".join(on_zookeeper.command(1, on_zookeeper.directory(1)))
    assert "--port 7000" in command
    assert "--zookeeper zk/c" in command
    assert "ottla.tree.socket" not in command
    assert "ottla.shared.port" not in command
