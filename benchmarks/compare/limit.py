"""Case: how far the broker is from the least that must be done, which two small C programs do (native/*.c).

The same client replays the same frames to the broker and to the programs: batches of 250 records of 1 KB, on as many
connections, as many in flight.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.compare import raw, traffic
from benchmarks.compare.arena import Arena, Figures, metered
from benchmarks.compare.java import NATIVE
from benchmarks.support.brokers import DATA_DIR

LIMIT = "C program"


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


PROGRAMS = ("receive_write", "read_send", "ping", "echo")


def programs() -> str:
    """The directory with the programs of `native`, compiled on first use."""
    return _compiled().name


@functools.cache
def _compiled() -> tempfile.TemporaryDirectory[str]:
    """It lives as long as the process."""
    directory = tempfile.TemporaryDirectory(prefix="benchmark-limit-")
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler")
    for name in PROGRAMS:
        subprocess.run([command, "-O2", "-o", f"{directory.name}/{name}", NATIVE / f"{name}.c"], check=True, timeout=60)
    return directory


@contextmanager
def program(name: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """Run a program; (its pid, its port)."""
    command = [f"{programs()}/{name}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def distance(arena: Arena, who: str) -> Figures:
    """CPU seconds per GB of a broker, or of the programs that only move bytes."""
    if who != LIMIT:
        return traffic.replay(arena, who)
    volume = arena.scaled(traffic.REPLAY_BYTES, least=20_000_000)
    with tempfile.TemporaryDirectory(prefix="benchmark-limit-data-", dir=DATA_DIR) as directory:
        file = str(Path(directory) / "bytes")
        batch = raw.make_batch(traffic.REPLAY_RECORDS, traffic.REPLAY_SIZE)
        frames = [raw.produce_frame("a-topic-of-this-size", index, batch) for index in range(traffic.PARTITIONS)]
        arena.settle()
        with program("receive_write", file) as (pid, port), metered(pid) as meter:
            done = raw.replay_produce(port, frames, volume, kafka=False)
        figures = traffic.flow("produce", done.bytes, 1, done.seconds, meter.cpu_s, meter.system_s)
        # The brokers send FETCH_BATCHES batches for a request; so does the program.
        size = str(traffic.FETCH_BATCHES * len(batch))
        connections = traffic.PARTITIONS
        with program("read_send", file, str(connections), size) as (pid, port), metered(pid) as meter:
            done = raw.replay_reads(port, connections, int(volume * 0.9))
        figures |= traffic.flow("consume", done.bytes, 1, done.seconds, meter.cpu_s, meter.system_s)
        return {name: value for name, value in figures.items() if "records" not in name}
