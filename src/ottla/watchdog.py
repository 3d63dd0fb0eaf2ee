"""A watchdog for the event loop: a thread that ends the process when the loop is silent for too long. A rim module.

A loop that hangs (in a write to a disk that does not answer, above all) answers no client and cannot notice that its session
with the coordination tree has ended. A process that is gone is started again; one that hangs is waited for.

Silence is counted in ticks of the thread: time in which the process was stopped or the machine slept does not count.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
#: Of a process that its watchdog has ended.
EXIT_CODE = 70


def _end(reason: str) -> None:
    logger.critical("%s", reason)
    os._exit(EXIT_CODE)


def watch_loop(limit_seconds: float, end: Callable[[str], None] = _end) -> Callable[[], None]:
    """Watch the running loop from now on; return what stops that.

    Args:
        limit_seconds: the longest silence.
        end: called on the watchdog's thread, once.
    """
    loop = asyncio.get_running_loop()
    stopped = threading.Event()
    beats = 0
    timer: asyncio.TimerHandle

    def beat() -> None:
        nonlocal beats, timer
        beats += 1
        timer = loop.call_later(TICK_SECONDS, beat)

    def watch() -> None:
        seen, silent = -1, 0
        while not stopped.wait(TICK_SECONDS):
            silent = silent + 1 if beats == seen else 0
            seen = beats
            if silent * TICK_SECONDS >= limit_seconds:
                end(f"the event loop has been silent for {limit_seconds:g} s: this process cannot go on")
                return

    beat()
    threading.Thread(target=watch, name="ottla-watchdog", daemon=True).start()

    def stop() -> None:
        stopped.set()
        timer.cancel()

    return stop
