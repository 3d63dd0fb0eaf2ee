"""What processes of a worker have in common: they end with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

#: The exit code of a process whose lease was over.
LEASE_OVER: Final = 75


def die_with_parent() -> None:
    """Have the system kill this process when its parent ends (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Lease:
    """Ends this process, at once, when its time is over: its worker may be frozen, and others get its tasks.

    Times are those of `time.monotonic()`, which all processes of a machine share.
    """

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def extend(self, until_s: float) -> None:
        """Set another end."""
        self._until_s = until_s

    def _watch(self) -> None:
        while (left_s := self._until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.2))  # it may be set to an earlier end meanwhile
        print(
            "connect: the worker has not renewed the lease of its tasks: this process ends", file=sys.stderr, flush=True
        )
        os._exit(LEASE_OVER)
