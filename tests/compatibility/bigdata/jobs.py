"""A foreign program in a process group of its own: started, killed with everything it started, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_TIMEOUT_S = 60.0


class Job:
    """One program; its log and its directories outlive its deaths.

    Args:
        command: makes the command line of the next start (which may name the last checkpoint).
        environment: added to this process's environment.
    """

    def __init__(
        self, command: Callable[[], Sequence[str]], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.gave_up = 0
        self._command = command
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.is_running()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Python starts a JVM: both are of one group, and killed together
            )

    def restart_if_it_gave_up(self) -> None:
        """Start it again if it ended by itself, which is counted: users' supervisors do the same."""
        if not self.is_running():
            self.kill()
            self.gave_up += 1
            self.start()

    def kill(self) -> None:
        """SIGKILL for the whole group."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself, and its children with it
        self._process.wait(STOP_TIMEOUT_S)

    def text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def tail(self, size: int = 6_000) -> str:
        return self.text()[-size:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
