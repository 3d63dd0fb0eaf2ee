"""The watchdog ends a process whose loop hangs, and leaves one alone that is merely busy or was stopped."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time

from ottla import watchdog
from ottla.watchdog import EXIT_CODE, watch_loop

HANGS = """
import asyncio, time
from ottla.watchdog import watch_loop
async def main():
    watch_loop(1.0)
    print("watched", flush=True)
    await asyncio.sleep(0.1)
    time.sleep(60)
asyncio.run(main())
"""


def test_a_loop_that_hangs_ends_the_process() -> None:
    process = subprocess.run([sys.executable, "-c", HANGS], timeout=30, capture_output=True, text=True, check=False)
    assert process.returncode == EXIT_CODE
    assert "the event loop has been silent for 1 s" in process.stderr


async def test_a_loop_that_ticks_is_left_alone_and_a_stopped_watchdog_says_nothing() -> None:
    said: list[str] = []
    limit_seconds = 6 * watchdog.TICK_SECONDS  # a busy machine may hold up a tick
    stop = watch_loop(limit_seconds, said.append)
    await asyncio.sleep(limit_seconds + 2 * watchdog.TICK_SECONDS)
    stop()
    assert said == []
    assert not any(thread.name == "ottla-watchdog" and not thread.daemon for thread in threading.enumerate())


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    code = HANGS.replace("time.sleep(60)", "await asyncio.sleep(2); print('alive', flush=True)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "watched\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)  # longer than the limit: this is what is tested
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "alive\n"
        assert process.wait(30) == 0
