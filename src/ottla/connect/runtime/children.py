"""Processes of a worker: lines of JSON in on their standard input, out on a pipe of their own.

Linux ends a child with PDEATHSIG when the *thread* that started it ends, so all are started by one thread that lives as
long as the worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Child:
    """One process. `say` may be called in any thread, `lines` in one."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(write)],
                stdin=subprocess.PIPE,
                pass_fds=[write],
                text=True,
                env=None if environment is None else dict(environment),
            )
        finally:
            os.close(write)
        self._events = os.fdopen(read, encoding="utf-8")
        self._lock = threading.Lock()

    def say(self, what: Any) -> None:
        """Send a line; nothing happens when the process has ended: `lines` ends, too."""
        assert self.process.stdin is not None
        try:
            with self._lock:
                self.process.stdin.write(json.dumps(what) + "\n")
                self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def lines(self) -> Iterator[Any]:
        """Yield what it says, until it ends."""
        for line in self._events:
            yield json.loads(line)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        return self.process.wait(timeout)

    def close(self) -> None:
        """Give back what belongs to a process that has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self._events.close()


class Nursery:
    """The thread that starts processes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nursery")

    def start(self, make: Callable[[], T]) -> T:
        """Return what `make` makes there."""
        return self._thread.submit(make).result()

    def close(self) -> None:
        """End the thread: processes that still run end with it."""
        self._thread.shutdown()
