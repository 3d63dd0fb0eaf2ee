"""Brokers as child processes, ottla and Apache Kafka behind the same methods, with what /proc says of them.

Apache Kafka comes from the scripts `start` and `tool` in the directory that OTTLA_KAFKA_ANCHOR names (by default
`../shared/anchors/kafka` beside the repository); without it only ottla is measured, and the output says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.support.kafka_anchor import ANCHOR, missing
from tests.support.ports import free_port

STOP_TIMEOUT_S = 60.0


class MeasuredBroker(Protocol):
    """What a benchmark does to a broker."""

    name: str
    port: int
    pid: int
    directory: Path

    def prepare(self) -> None:
        """What is no part of starting: Apache Kafka has its directory formatted once, before its first start."""

    def spawn(self) -> float:
        """Start the process, wait for nothing; the time just before, on the clock of `time.perf_counter`."""

    def stop(self) -> float:
        """SIGTERM, wait; the seconds it took."""

    def kill(self) -> None:
        """SIGKILL, wait."""

    def close(self) -> None:
        """Kill what runs and remove the directory."""


class _Process:
    """The half both share: one process known by its pid."""

    name = ""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"benchmark-{self.name.split()[-1].lower()}-"))
        self.settings = dict(settings or {})
        self.port = 0
        self.pid = 0

    def prepare(self) -> None:
        return None

    def stop(self) -> float:
        began = time.perf_counter()
        self._signal(signal.SIGTERM)
        return time.perf_counter() - began

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def alive(self) -> bool:
        return self.pid > 0 and state(self.pid) not in ("", "Z")

    def _signal(self, number: signal.Signals) -> None:
        if not self.alive():
            return
        os.kill(self.pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.alive():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"{number.name} did not end {self.name} in {STOP_TIMEOUT_S} s")
            time.sleep(0.002)
        while self._listens():  # the threads of a killed JVM outlive its process by a moment, and so does its port
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is dead, and something still listens on port {self.port}")
            time.sleep(0.002)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


#: Compiled modules of the ottla under measurement. pip leaves them beside an installed package; in a checkout they may be
#: missing (PYTHONDONTWRITEBYTECODE), and compiling 190 modules at each start takes longer than the start.
_BYTECODE = tempfile.TemporaryDirectory(prefix="benchmark-bytecode-")


class Ottla(_Process):
    """`python -m ottla serve` of the environment this script runs in, with its modules compiled beforehand."""

    name = "ottla"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        return (self.directory / "output.log").read_text(errors="replace")

    def prepare(self) -> None:
        """Compile the modules, by a start that is stopped again, in a directory that is thrown away."""
        if os.listdir(_BYTECODE.name):
            return
        self.spawn()
        deadline = time.monotonic() + 60
        while " ready on " not in self.output:
            if time.monotonic() > deadline or not self.alive():
                raise RuntimeError(f"ottla did not start:\n{self.output[-2000:]}")
            time.sleep(0.05)
        self.stop()
        shutil.rmtree(self.directory / "data")

    def spawn(self) -> float:
        options = [part for key, value in self.settings.items() for part in ("-X", f"{key}={value}")]
        command = [sys.executable, "-m", "ottla", "serve", "--port", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = _BYTECODE.name
        with (self.directory / "output.log").open("ab") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(self.directory / "data"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.pid = self._process.pid
        return began

    def _signal(self, number: signal.Signals) -> None:
        super()._signal(number)
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT_S)

    @staticmethod
    def version() -> str:
        done = subprocess.run([sys.executable, "-m", "ottla", "--version"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or "ottla"


class ApacheKafka(_Process):
    """Broker and controller in one JVM, default settings, heap as in Kafka's own start script (-Xmx1g)."""

    name = "Apache Kafka"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self.port = free_port(neighbours=1)

    @property
    def output(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def prepare(self) -> None:
        """Format the directory, by a start that is stopped again; it also warms the page cache with the jars."""
        self.spawn()
        deadline = time.monotonic() + 120
        while "Kafka Server started" not in self.output:
            if time.monotonic() > deadline or not self.alive():
                raise RuntimeError(f"Apache Kafka did not start:\n{self.output[-2000:]}")
            time.sleep(0.1)
        self.stop()

    def spawn(self) -> float:
        (self.directory / "broker.pid").unlink(missing_ok=True)
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        began = time.perf_counter()
        done = subprocess.run(
            [str(ANCHOR / "start"), str(self.port), str(self.directory), *settings],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Apache Kafka was not started: {done.stdout}{done.stderr}")
        self.pid = int(done.stdout.split()[-1])
        return began

    @staticmethod
    def version() -> str:
        done = subprocess.run(
            [str(ANCHOR / "tool"), "org.apache.kafka.tools.TopicCommand", "--version"],
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"^\d+\.\d+\.\d+\S*", done.stdout, re.MULTILINE)
        return f"Apache Kafka {found[0]}" if found else "Apache Kafka"


def contestants(*, alone: bool) -> list[type[Ottla] | type[ApacheKafka]]:
    """Return the brokers to measure; says on standard output why Apache Kafka is not among them."""
    if alone:
        return [Ottla]
    if reason := missing():
        print(f"Apache Kafka is not measured: {reason}")
        return [Ottla]
    return [Ottla, ApacheKafka]


@contextmanager
def running(broker: Ottla | ApacheKafka) -> Iterator[None]:
    """Make sure that nothing is left behind, and that the log is shown if anything fails."""
    try:
        broker.prepare()
        yield
    except BaseException:
        if (broker.directory / "output.log").exists():
            print(broker.output[-4000:], file=sys.stderr)
        raise
    finally:
        broker.close()


def state(pid: int) -> str:
    """Return the one letter of the process's state; empty when it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def resident_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process; in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
