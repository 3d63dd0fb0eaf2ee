"""Apache Kafka, the broker ours is measured against: its server and its command-line tools.

Both come from the scripts `start`, `stop` and `tool` in the directory that OTTLA_KAFKA_ANCHOR names (by default
`../shared/anchors/kafka`, beside the repository). Tests that need it skip where it is absent.
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
from tests.support.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
ANCHOR = Path(os.environ.get("OTTLA_KAFKA_ANCHOR") or REPOSITORY.parent / "shared" / "anchors" / "kafka").absolute()
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0


@cache
def missing() -> str | None:
    """Why Apache Kafka cannot be used here, or None."""
    for script in ("start", "stop", "tool"):
        if not (ANCHOR / script).is_file():
            return f"no Apache Kafka: {ANCHOR / script} does not exist (set OTTLA_KAFKA_ANCHOR)"
    if shutil.which("java") is None:
        return "no Apache Kafka: no java on PATH"
    names = subprocess.run(
        [ANCHOR / "tool", "kafka-storage", "random-uuid"], capture_output=True, text=True, check=False
    )
    if names.returncode != 0:
        return f"no Apache Kafka: {(names.stderr or names.stdout).strip().splitlines()[-1:]}"
    return None


def require() -> None:
    """Skip the calling test where Apache Kafka is absent."""
    if reason := missing():
        pytest.skip(reason)


def tool(name: str, *arguments: str, stdin: str | None = None, timeout_s: float = 90.0) -> str:
    """Run one of Kafka's command-line programs; its output (both streams), whatever its exit code was."""
    return run_tool(name, *arguments, stdin=stdin, timeout_s=timeout_s).stdout


def run_tool(
    name: str, *arguments: str, stdin: str | None = None, timeout_s: float = 90.0
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ANCHOR / "tool"), name, *arguments],
        input=stdin if stdin is not None else "",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        env={**os.environ, "KAFKA_HEAP": os.environ.get("KAFKA_HEAP", "-Xmx256m -XX:TieredStopAtLevel=1")},
    )


class KafkaProcess:
    """Apache Kafka (broker and controller in one JVM) behind the methods of `BrokerProcess`."""

    def __init__(self, settings: Mapping[str, str] | None = None, *, data_dir: Path | None = None) -> None:
        self._temporary = Path(tempfile.mkdtemp(prefix="kafka-anchor-")) if data_dir is None else None
        self.directory = data_dir if data_dir is not None else self._temporary / "kafka"  # type: ignore[operator]
        self.data_dir = self.directory / "log"
        self.port = free_port(neighbours=1)  # the controller listens on the next one
        self.settings = dict(settings or {})
        self._pid: int | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        log = self.directory / "server.log"
        return log.read_text(errors="replace")[-20_000:] if log.exists() else ""

    def start(self) -> None:
        self._wait_for_pid_file_to_go()
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        done = subprocess.run(
            [str(ANCHOR / "start"), str(self.port), str(self.directory), *settings],
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"Apache Kafka did not start: {done.stdout}{done.stderr}")
        self._pid = int(done.stdout.split()[-1])
        self._wait_until_registered()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def terminate(self) -> int:
        self._signal(signal.SIGTERM)
        return 0

    def close(self) -> None:
        self.kill()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _wait_until_registered(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Kafka Server started" not in self._this_life():
            if time.monotonic() > deadline or not self._alive():
                raise TimeoutError(f"Apache Kafka is not ready:\n{self.output[-3000:]}")
            time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10):
            pass

    def _this_life(self) -> str:
        log = self.directory / "server.log"  # the start script begins a new file each time
        return log.read_text(errors="replace") if log.exists() else ""

    def _alive(self) -> bool:
        return self._pid is not None and Path(f"/proc/{self._pid}").exists()

    def _signal(self, number: signal.Signals) -> None:
        if self._pid is None or not self._alive():
            return
        os.kill(self._pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{number.name} did not stop Apache Kafka")
            time.sleep(0.05)
        self._pid = None

    def _wait_for_pid_file_to_go(self) -> None:
        (self.directory / "broker.pid").unlink(missing_ok=True)
