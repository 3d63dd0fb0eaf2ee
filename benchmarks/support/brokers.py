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
#: Where the brokers keep their data, both on the same file system; None is the system's temporary directory.
DATA_DIR = os.environ.get("OTTLA_BENCH_DIR") or None


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
        self.directory = Path(tempfile.mkdtemp(prefix=f"benchmark-{self.name.split()[-1].lower()}-", dir=DATA_DIR))
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
    """`python -m ottla serve` with its modules compiled beforehand.

    Args:
        python: the interpreter of the environment whose ottla is measured; by default the one this script runs in.
    """

    name = "ottla"

    def __init__(self, settings: Mapping[str, str] | None = None, python: str = sys.executable) -> None:
        super().__init__(settings)
        self._python = python
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
        command = [self._python, "-m", "ottla", "serve", "--port", str(self.port)]
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
    fields = _stat(pid)
    return fields[0] if fields else ""


def resident_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants that is in RAM."""
    pages = 0
    for member in descendants(pid):
        try:
            with open(f"/proc/{member}/statm", encoding="ascii") as statm:
                pages += int(statm.read().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and its descendants, those that have ended and were waited for included.

    Processes that live are read from their CPU clocks, to the nanosecond and with the threads that have ended: the ticks
    of 10 ms in /proc would be a tenth of some figures.
    """
    total = 0.0
    for member in descendants(pid):
        try:
            total += time.clock_gettime(_cpu_clock(member))
        except OSError:
            continue  # it has just ended; its parent's fields have it by the next reading
        fields = _stat(member)
        if fields:
            total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def user_system_seconds(pid: int) -> tuple[float, float]:
    """Return user and system time apart, of a process and its descendants; in ticks of 10 ms."""
    user = system = 0
    for member in descendants(pid):
        if fields := _stat(member):
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    tick = os.sysconf("SC_CLK_TCK")
    return user / tick, system / tick


def descendants(pid: int) -> list[int]:
    """Return the process and everything it has started that still runs."""
    found = [pid]
    for member in found:
        for task in _listed(f"/proc/{member}/task"):
            try:
                children = Path(f"/proc/{member}/task/{task}/children").read_text(encoding="ascii")
            except OSError:
                continue
            found.extend(int(child) for child in children.split())
    return found


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, the third one first; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time: what clock_getcpuclockid(3) returns on Linux."""
    return (~pid << 3) | 2


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
