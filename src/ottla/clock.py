"""The only module that asks the machine for the time.

Everything that needs time takes a `Clock`; timers use the running event loop, whose time is virtual in simulation.
"""

from __future__ import annotations

import itertools
import time
from typing import Protocol

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # only Linux tells it of a thread
    RUSAGE_THREAD = None  # type: ignore[misc, assignment]


class Clock(Protocol):
    """Two times: one for durations, one for stamps."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since some fixed point; never goes back. For timeouts and ages."""
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC; may jump. For record timestamps and retention."""
        ...

    def boot_ms(self) -> int:
        """Return milliseconds since some fixed point; goes on while the machine sleeps, if that can be told. For leases."""
        ...

    def thread_waits(self) -> int:
        """Return how often this thread has waited for something: a disk, a lock, the network.

        Not counted is when others had its processor. So of something that took long this tells why: by comparison,
        before and after. Where the system does not tell, each call returns another number.
        """
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    if hasattr(time, "CLOCK_BOOTTIME"):

        def boot_ms(self) -> int:
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    else:

        def boot_ms(self) -> int:
            return self.monotonic_ms()

    if RUSAGE_THREAD is not None:

        def thread_waits(self) -> int:  # 0.7 us
            return getrusage(RUSAGE_THREAD).ru_nvcsw

    else:

        def thread_waits(self) -> int:
            return next(_calls)


_calls = itertools.count()
