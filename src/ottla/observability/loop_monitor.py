"""How late the event loop is, and how busy the process: measured by a timer once a second.

A loop that is late has been held by something that should not run on it (a slow disk, a long computation); this is the
first number to look at when heartbeats are missed.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ottla.observability.metrics import BrokerMetrics
from ottla.observability.process import cpu_seconds

INTERVAL_SECONDS = 1.0
WINDOW = 60
"""Ticks that rates are averaged over."""


class LoopMonitor:
    """Observes the running loop into `metrics.loop_lag_ms`; also keeps what rates over the last minute need."""

    def __init__(self, metrics: BrokerMetrics) -> None:
        self._metrics = metrics
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ticks: deque[tuple[float, float, int, int]] = deque(maxlen=WINDOW)

    def start(self) -> None:
        """Begin; needs a running loop."""
        self._schedule()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + INTERVAL_SECONDS
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._metrics.loop_lag_ms.observe(max(now - self._due, 0.0) * 1000)
        network = self._metrics.network
        self._ticks.append((now, cpu_seconds() or 0.0, network.connections_opened, network.connections_closed))
        self._schedule()

    def _rate(self, index: int) -> float:
        if len(self._ticks) < 2 or self._ticks[-1][0] == self._ticks[0][0]:
            return 0.0
        first, last = self._ticks[0], self._ticks[-1]
        return (last[index] - first[index]) / (last[0] - first[0])

    @property
    def idle_share(self) -> float:
        """Share of one processor that the process left unused over the last minute, 0 to 1."""
        return min(max(1.0 - self._rate(1), 0.0), 1.0)

    @property
    def connection_creation_rate(self) -> float:
        """Connections accepted per second over the last minute."""
        return self._rate(2)

    @property
    def connection_close_rate(self) -> float:
        """Connections ended per second over the last minute."""
        return self._rate(3)
