"""Logging set-up for the command line, and a guard against one peer filling the log.

The library itself only gets loggers by module name; only `ottla serve` calls `configure`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
PEERS_MAX = 1024
SHOWN_MAX = 200


def configure(level: str, name: str = "") -> None:
    """Log to stderr from `level` (a name such as "info") on; lines have the `name` of the process if several share a log.

    Nothing of where a line comes from is shown but the logger's name, so it is not looked up: to walk up the stack
    costs more than the rest of the line (see "Optimization" in the logging HOWTO).
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=f"{name} {FORMAT}".lstrip(), force=True)


def shown(text: str, limit: int = SHOWN_MAX) -> str:
    """Return text of a stranger as it may stand in a log: one line, no control characters, not longer than `limit`."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


class LogOncePerPeer:
    """Warnings caused by peers: at most a few per peer and interval; what is left out is counted and told later.

    `clock` gives seconds; a coarse one is good enough.
    """

    __slots__ = ("_burst", "_clock", "_interval", "_logger", "_peers")

    def __init__(
        self, logger: logging.Logger, clock: Callable[[], float], *, burst: int = 5, interval: float = 60.0
    ) -> None:
        self._logger = logger
        self._burst = burst
        self._interval = interval
        self._clock = clock
        self._peers: dict[str, list[float]] = {}  # peer -> [start of its interval, warnings in it]

    def tell(self, peer: str, message: str, *args: object) -> None:
        """Log unless `peer` has caused too many lines."""
        now = self._clock()
        entry = self._peers.get(peer)
        if entry is None or now - entry[0] >= self._interval:
            left_out = int(entry[1]) - self._burst if entry is not None else 0
            if left_out > 0:
                self._logger.warning("%d more such lines about %s were left out", left_out, peer)
            self._peers.pop(peer, None)
            if len(self._peers) >= PEERS_MAX:
                del self._peers[next(iter(self._peers))]
            entry = self._peers[peer] = [now, 0.0]
        entry[1] += 1
        if entry[1] <= self._burst:
            self._logger.warning(message, *args)
