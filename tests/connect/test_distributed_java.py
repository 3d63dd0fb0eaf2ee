"""Apache Kafka's distributed workers and ours: never in one group at a time, one after the other on the same topics."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.connect.parity.oracle import find_jars
from tests.connect.test_distributed import Running, request, running, settings
from tests.connect.test_handover import JAVA_LIMIT_S
from tests.connect.test_standalone import read, until
from tests.support.broker_process import RunningBroker
from tests.support.ports import free_port

pytestmark = pytest.mark.kafka


@contextmanager
def java_worker(folder: Path, config: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Run connect-distributed until the block ends; yields its address and its log."""
    url = f"http://127.0.0.1:{free_port()}"
    path = folder / "java.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in (config | {"listeners": url}).items()))
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    command = ["java", "-Xmx256m", "-cp", find_jars(folder / "jars"), main, str(path)]
    with (folder / "java.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"LC_ALL": "C.UTF-8"})
    try:
        yield url, folder / "java.log"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str, path: str) -> bool:
    try:
        request(url, "GET", path)
    except (OSError, AssertionError):
        return False
    return True


def test_java_worker_in_our_group(broker: RunningBroker, tmp_path: Path) -> None:
    """1. Ours is there: Java's worker is refused, and ours goes on.  2. Java's is there: ours ends, and says why."""
    config = settings(broker, "mixed")
    with running(config) as (ours,):
        with java_worker(tmp_path, config) as (_, log):
            until(lambda: "InconsistentGroupProtocol" in log.read_text(), "the refusal", JAVA_LIMIT_S)
        assert ours.served.worker.is_ready()
    with java_worker(tmp_path, config) as (url, _):
        until(lambda: answers(url, "/connectors"), "Java's worker", JAVA_LIMIT_S)
        second = Running(config)
        second.thread.join(120)
        assert "has members that are no workers of ottla" in str(second.error)


@pytest.mark.parametrize("support", ["disabled", "enabled"])
def test_connectors_go_on_at_the_other_kind_of_worker(broker: RunningBroker, tmp_path: Path, support: str) -> None:
    """1. Java's worker gets a connector and reads a line.  2. Ours finds it, and reads the next.  3. Java's goes on. Each
    line is there once, with sources exactly once (KIP-618), too."""
    given = tmp_path / "in.txt"
    given.write_text("one\n")
    topic = f"handed-over-{support}"
    config = settings(broker, topic, exactly_once_source_support=support)
    connector = {
        "name": "lines",
        "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
        "file": str(given),
        "topic": topic,
    }

    def found() -> list[str]:
        return [record.value.decode() for record in read(broker, topic)]

    with java_worker(tmp_path, config) as (url, _):
        until(lambda: answers(url, "/connectors"), "Java's worker", JAVA_LIMIT_S)
        request(url, "POST", "/connectors", {"name": "lines", "config": connector})
        until(lambda: found() == ["one"], "a line from Java's worker", JAVA_LIMIT_S)
    with given.open("a") as file:
        file.write("two\n")
    with running(config) as (ours,):
        until(lambda: len(found()) >= 2, "a line from ours")
        until(lambda: [state for state, _ in ours.states("lines")] == ["RUNNING"], "the state")
        assert ours.ask("GET", "/connectors/lines/config") == connector
    with given.open("a") as file:
        file.write("three\n")
    with java_worker(tmp_path, config):
        until(lambda: len(found()) >= 3, "a line from Java's worker", JAVA_LIMIT_S)
    assert found() == ["one", "two", "three"]
