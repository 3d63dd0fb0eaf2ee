"""The only module that asks the machine for the time.

Everything that needs time takes a `Clock`; timers use the running event loop, whose time is virtual in simulation.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two times: one for durations, one for stamps."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since some fixed point; never goes back. For timeouts and ages."""
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC; may jump. For record timestamps and retention."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
