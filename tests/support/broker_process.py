"""A broker in a process of its own, for tests that need real sockets, real signals and a real restart.

`BrokerProcess` runs `python -m ottla serve`; `KafkaProcess` in kafka_anchor.py runs Apache Kafka behind the same few
methods, so that a test of other people's clients can be tried against the broker it imitates.

The data directory and the port outlive the process: `start()` after `kill()` or `terminate()` is a restart.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.support.ports import free_port

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


class RunningBroker(Protocol):
    """What a test may do to a broker, whichever it is."""

    port: int
    data_dir: Path

    @property
    def address(self) -> str: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def terminate(self) -> int: ...

    def close(self) -> None: ...


class BrokerProcess:
    """`python -m ottla serve` on a free port and a data directory of its own.

    Args:
        settings: passed as `-X key=value`.
        data_dir: where the log lives; a temporary directory, removed by `close()`, unless given.
        environment: added to this process's environment (failpoints, PYTHONHASHSEED, ...).
        options: more options of `ottla serve`.
        command: what starts the broker; tests of an installed wheel put their own interpreter here.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
        command: tuple[str, ...] = (sys.executable, "-m", "ottla"),
    ) -> None:
        self._temporary = Path(tempfile.mkdtemp(prefix="ottla-test-")) if data_dir is None else None
        self.data_dir = data_dir if data_dir is not None else self._temporary / "data"  # type: ignore[operator]
        self.port = port if port is not None else free_port()
        self.settings = dict(settings or {})
        self.environment = dict(environment or {})
        self.ready_line = ""
        self.returncode: int | None = None
        self._command = command
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=2_000)
        self._ready = threading.Event()
        self._reader: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker was never started"
        return self._process.pid

    @property
    def output(self) -> str:
        """What the broker printed lately, all its lives together."""
        return "\n".join(self._lines)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start (or restart) the broker and wait for its ready line."""
        self.spawn()
        self.wait_until_ready(timeout_s=timeout_s)

    def spawn(self) -> None:
        """Start the process without waiting for it: for tests of the start itself."""
        assert not self.is_running(), "the broker is running already"
        if self._process is not None:  # one that has ended by itself
            self._join()
        self._ready = threading.Event()
        self.ready_line = ""
        self.returncode = None
        options = [part for key, value in self.settings.items() for part in ("-X", f"{key}={value}")]
        self._process = subprocess.Popen(
            [
                *self._command,
                "serve",
                "--port",
                str(self.port),
                *(() if "log.dirs" in self.settings else ("--data-dir", str(self.data_dir))),
                *self._options,
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
        )
        self._reader = threading.Thread(target=self._read_output, args=(self._process, self._ready), daemon=True)
        self._reader.start()

    def wait_until_ready(self, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while not self._ready.wait(0.05):
            if self._process.poll() is not None:
                self._join()
                if self._ready.is_set():
                    break
                raise RuntimeError(f"the broker ended with code {self._process.returncode}:\n{self.output}")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"no ready line for port {self.port} within {timeout_s} s:\n{self.output}")

    def wait_until_dead(self, *, timeout_s: float) -> int:
        """Wait for a process that is expected to end by itself (a failpoint, a refused directory)."""
        assert self._process is not None
        self._process.wait(timeout_s)
        self._join()
        return self._process.returncode

    def signal(self, kind: signal.Signals) -> None:
        """Send a signal and wait for nothing."""
        assert self._process is not None
        self._process.send_signal(kind)

    def kill(self) -> None:
        """SIGKILL: what an out-of-memory killer or `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
            self._join()

    def terminate(self) -> int:
        """SIGTERM and wait; the exit code. A broker that does not stop in time fails the test."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"SIGTERM did not stop the broker within {STOP_TIMEOUT_S} s:\n{self.output}") from None
        self._join()
        return self._process.returncode

    def close(self) -> None:
        """Kill the broker if it still runs, and remove the temporary directory."""
        self.kill()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_output(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line.rstrip("\n"))
            if not ready.is_set() and " ready on " in line and f":{self.port}" in line:
                self.ready_line = line.rstrip("\n")
                ready.set()

    def _join(self) -> None:
        assert self._process is not None
        if self._reader is not None:
            self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self.returncode = self._process.returncode
