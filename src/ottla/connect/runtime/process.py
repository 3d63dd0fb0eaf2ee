"""What processes of a worker have in common: they end with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

#: The exit code of a process whose lease was over.
LEASE_OVER: Final = 75
#: The exit code of a process that got no more memory.
MEMORY_OVER: Final = 76
#: What such a process may take on top, to say so.
_LAST_BYTES: Final = 64 << 20
#: Seconds in which a process that has just started reads how long it may go on.
_FIRST_S: Final = 5.0


def die_with_parent(parent: int | None = None) -> None:
    """Have the system kill this process when its parent ends (Linux); end at once if that has ended already.

    Args:
        parent: its process id.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def die_first() -> None:
    """Have the system kill this process rather than others when memory is short (Linux)."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        pass  # another system


def limit_memory(limit: int) -> None:
    """Have this process end when it gets no more memory, or wants more than `limit` bytes of it (Linux; 0: no limit).

    What counts is what it may write to, whether it has done so or not (RLIMIT_DATA): not its code, or files that it maps.
    """
    if limit and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit + _LAST_BYTES))
    threading.excepthook = _on_uncaught


def end_out_of_memory(error: BaseException) -> NoReturn:
    """End at once. Whatever else this process does would fail the same way, in the middle of something."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    try:
        traceback.print_exception(error)
        print("connect: there is no more memory: this process ends", file=sys.stderr, flush=True)
    finally:
        os._exit(MEMORY_OVER)


def _on_uncaught(uncaught: threading.ExceptHookArgs) -> None:
    if isinstance(uncaught.exc_value, MemoryError):
        end_out_of_memory(uncaught.exc_value)
    threading.__excepthook__(uncaught)


def memory_limit(text: str | None) -> int:
    """Return what `connector.memory.limit` says: by default half of the machine's memory, and two GiB at least."""
    if text is not None:
        return int(text)
    return max(2 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


class Lease:
    """Ends this process, at once, when its time is over: its worker may be frozen, and others get its tasks.

    Times are those of `time.monotonic()`, which all processes of a machine share.
    """

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s
        self._extended = threading.Condition()

    def extend(self, until_s: float) -> None:
        """Set another end."""
        with self._extended:
            self._until_s = until_s
            self._extended.notify_all()

    def begin(self) -> None:
        """Watch the time from now on. What was read first may have waited for long: a later end has a moment to be read."""
        with self._extended:
            is_valid = self._extended.wait_for(lambda: self._until_s > time.monotonic(), _FIRST_S)
        if not is_valid:
            self._end()
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def _watch(self) -> None:
        while (left_s := self._until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.2))  # it may be set to an earlier end meanwhile
        self._end()

    @staticmethod
    def _end() -> NoReturn:
        print(
            "connect: the worker has not renewed the lease of its tasks: this process ends", file=sys.stderr, flush=True
        )
        os._exit(LEASE_OVER)
