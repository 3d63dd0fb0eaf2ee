"""Apache Kafka 3.9 on ZooKeeper: the last one that writes message formats 0 and 1.

Told to be a 2.8 (`inter.broker.protocol.version`), it takes `message.format.version` of a topic at its word and converts
what producers send. It is installed in the folder that OTTLA_OLD_KAFKA_HOME names (by default
`~/.cache/ottla-anchors/kafka39`), its scripts are those of `kafka_anchor`, ZooKeeper's lie in the folder `zookeeper` beside.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from tests.support.kafka_anchor import ANCHOR
from tests.support.ports import free_port

HOME = Path(os.environ.get("OTTLA_OLD_KAFKA_HOME") or Path.home() / ".cache" / "ottla-anchors" / "kafka39")
ZOOKEEPER_ANCHOR = ANCHOR.parent / "zookeeper"
ZOOKEEPER_HOME = Path(os.environ.get("OTTLA_ZOOKEEPER_HOME") or Path.home() / ".cache" / "ottla-anchors" / "zookeeper")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0

#: What makes it write old formats.
OLD = {"inter.broker.protocol.version": "2.8", "log.message.format.version": "0.10.2"}


@cache
def missing() -> str | None:
    """Why it cannot be used here, or None."""
    for script in (ANCHOR / "start-cluster", ZOOKEEPER_ANCHOR / "start"):
        if not script.is_file():
            return f"no Apache Kafka 3.9: {script} does not exist (set OTTLA_KAFKA_ANCHOR)"
    if not (HOME / "libs").is_dir():
        return f"no Apache Kafka 3.9 in {HOME} (set OTTLA_OLD_KAFKA_HOME)"
    if not (ZOOKEEPER_HOME / "libs").is_dir():
        return f"no ZooKeeper in {ZOOKEEPER_HOME} (set OTTLA_ZOOKEEPER_HOME)"
    if shutil.which("java") is None:
        return "no Apache Kafka 3.9: no java on PATH"
    return None


def require() -> None:
    """Skip the calling test where it is absent."""
    if reason := missing():
        pytest.skip(reason)


class OldKafka:
    """One broker and one ZooKeeper server, in a temporary directory that `close()` removes."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="old-kafka-"))
        self.data_dir = self.directory / "kafka" / "1" / "log"
        self.port = free_port(neighbours=50)
        self.settings = {**OLD, **(settings or {})}
        self._zookeeper: int | None = None
        self._broker: int | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What the broker logged."""
        log = self.directory / "kafka" / "1" / "server.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self) -> None:
        zookeeper_port = free_port(neighbours=200)
        self._zookeeper = _started(
            [str(ZOOKEEPER_ANCHOR / "start"), str(zookeeper_port), str(self.directory / "zookeeper"), "1"], {}
        )
        _wait_until_listening(zookeeper_port)
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        self._broker = _started(
            [str(ANCHOR / "start-cluster"), str(self.port), str(self.directory / "kafka"), "1", *settings],
            {"ZOOKEEPER": f"127.0.0.1:{zookeeper_port}", "OTTLA_KAFKA_HOME": str(HOME)},
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while "[KafkaServer id=1] started" not in self.output:
            if time.monotonic() > deadline or not _is_alive(self._broker):
                raise TimeoutError(f"Apache Kafka 3.9 is not ready:\n{self.output[-3000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """A clean stop; the directory stays."""
        if self._broker is not None:
            _end(self._broker, signal.SIGTERM)
            self._broker = None

    def close(self) -> None:
        for pid in (self._broker, self._zookeeper):
            if pid is not None:
                _end(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def _started(command: list[str], environment: dict[str, str]) -> int:
    """Run a script that starts one server and prints "NUMBER PID" last; the PID."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
        env={**os.environ, **environment},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return int(done.stdout.split()[-1])


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _end(pid: int, number: signal.Signals) -> None:
    if not _is_alive(pid):
        return
    os.kill(pid, number)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _is_alive(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{number.name} did not end process {pid}")
        time.sleep(0.05)
