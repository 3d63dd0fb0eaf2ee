"""Processes of a worker: lines of JSON in on their standard input, out on a pipe of their own.

They are forks of one process (`nursery.py`). Linux ends a child with PDEATHSIG when the *thread* that started it ends, so
that one is started by a thread that lives as long as the worker.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

_END_S: Final = 5.0


class Child:
    """One process. Any thread may call `say`, `kill` and `wait`, one thread `lines`.

    Args:
        commands: where lines for it go.
        events: where its lines come from.
        outcome: where its exit code comes from, once.
        kill: ends it.
    """

    def __init__(self, commands: int, events: int, outcome: socket.socket, kill: Callable[[], None]) -> None:
        self._commands = os.fdopen(commands, "w", encoding="utf-8")
        self._events = os.fdopen(events, encoding="utf-8")
        self._outcome = outcome
        self.kill = kill
        self._lock = threading.Lock()
        self._waiting = threading.Lock()
        self._code: int | None = None

    def say(self, what: Any) -> None:
        """Send a line; nothing happens when the process has ended: `lines` ends, too."""
        try:
            with self._lock:
                self._commands.write(json.dumps(what) + "\n")
                self._commands.flush()
        except (BrokenPipeError, ValueError):
            pass

    def say_nowait(self, what: Any) -> None:
        """Send a short line, unless the process has not read for so long that there is no room for it: it hangs."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if select.select([], [self._commands], [], 0)[1]:  # room for PIPE_BUF bytes (4 KiB), at least
                self._commands.write(json.dumps(what) + "\n")
                self._commands.flush()
        except (BrokenPipeError, ValueError):
            pass
        finally:
            self._lock.release()

    def lines(self) -> Iterator[Any]:
        """Yield what it says, until it ends. What it was about to say when it was killed is no line yet."""
        for line in self._events:
            if line.endswith("\n"):
                yield json.loads(line)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code; that of a signal is negative.

        Raises:
            TimeoutError: it has not ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError
        try:
            if self._code is None:
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not select.select([self._outcome], [], [], left_s)[0]:
                    raise TimeoutError
                # Nothing: the process that forks has ended, and the system has ended its forks.
                self._code = int(self._outcome.recv(16) or -signal.SIGKILL)
            return self._code
        finally:
            self._waiting.release()

    def has_ended(self) -> bool:
        """Whether it has."""
        try:
            self.wait(0)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Give back what belongs to a process that has ended."""
        try:
            self._commands.close()
        except BrokenPipeError:
            pass
        self._events.close()
        self._outcome.close()


class Nursery:
    """Starts processes; any thread may ask it to. The process that forks starts with the first, and anew if it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nursery")
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def begin(self) -> None:
        """Start the process that forks, without waiting for it: it takes a second until it can."""
        self._thread.submit(self._start_server)

    def _start_server(self) -> None:
        self._end_server()
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ottla.connect.runtime.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        with self._lock:
            self._requests = mine

    def _end_server(self) -> None:
        with self._lock:
            if self._requests is not None:
                self._requests.close()
                self._requests = None
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def start(self, module: str) -> Child:
        """Start a process that runs `module.main`.

        Raises:
            OSError, RuntimeError: it cannot be started, or the nursery is closed.
        """
        return self._thread.submit(self._start, module).result()

    def _start(self, module: str) -> Child:
        if self._process is None:
            self._start_server()
        try:
            return self._fork(module)
        except OSError:  # it has ended
            self._start_server()
            return self._fork(module)

    def _fork(self, module: str) -> Child:
        self._last += 1
        number = self._last
        opened: list[int] = []
        outcome, reports = socket.socketpair()
        try:
            opened += os.pipe()
            opened += os.pipe()
            self._ask({"start": module, "id": number}, [opened[0], opened[3], reports.fileno()])
        except BaseException:
            outcome.close()
            for descriptor in opened:
                os.close(descriptor)
            raise
        finally:
            reports.close()
        os.close(opened[0])
        os.close(opened[3])
        return Child(opened[1], opened[2], outcome, lambda: self._kill(number))

    def _kill(self, number: int) -> None:
        try:
            self._ask({"kill": number}, [])
        except OSError:
            pass  # the process that forks has ended, and its forks with it

    def _ask(self, what: Any, descriptors: list[int]) -> None:
        data = json.dumps(what).encode() + b"\n"
        with self._lock:
            if self._requests is None:
                raise OSError("the process that starts others has ended")
            socket.send_fds(self._requests, [data], descriptors)

    def close(self) -> None:
        """End: processes that still run end, too."""
        self._thread.submit(self._end_server)
        self._thread.shutdown()
