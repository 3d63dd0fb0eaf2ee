"""Case: how long a broker itself takes for a record: the round trip that a C client sees (native/ping.c), less the round
trip of the same client and as many bytes to a C program that only echoes (native/echo.c), in the same run.

A client in Python or Java takes as long as the broker for a request this small; this one takes next to nothing.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.compare import limit, raw
from benchmarks.compare.arena import Arena, Figures, metered, written

PARTITIONS_MAX = 16
SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Pinged:
    """What the client saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def ping(port: int, connections: int, seconds: float, frames: Sequence[bytes]) -> Pinged:
    """Send frames, one in flight on each connection; one more on each before the time begins."""
    with tempfile.NamedTemporaryFile(prefix="benchmark-frames-") as file:
        file.write(b"".join(frames))
        file.flush()
        command = [f"{limit.programs()}/ping", str(port), str(connections), str(seconds), file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    requests, took, p50, p99 = map(float, done.stdout.split())
    return Pinged(requests=int(requests), seconds=took, p50_ms=p50 / 1000, p99_ms=p99 / 1000)


def service_time(arena: Arena, who: str, *, connections: int, size: int) -> Figures:
    """One record in flight on each connection, acks=all, up to 16 partitions; `service_*` is less the echo's."""
    broker = arena.standing(who)
    seconds = max(0.3, SECONDS * arena.scale)
    partitions = min(connections, PARTITIONS_MAX)
    with arena.topic(broker, partitions) as topic:
        batch = raw.make_batch(1, size)
        frames = [raw.produce_frame(topic, index, batch) for index in range(partitions)]
        with raw.dial(broker.port) as connection:
            connection.sendall(frames[0])
            raw.check_produced(answer := raw.answer(connection))
        with limit.program("echo", str(len(answer))) as (_, port):
            echo = ping(port, connections, seconds, frames)
        ping(broker.port, connections, seconds / 3, frames)
        before = written(broker, topic, partitions)
        with metered(broker.pid) as meter:
            done = ping(broker.port, connections, seconds, frames)
        if written(broker, topic, partitions) - before != done.requests + connections:
            raise RuntimeError("not all records were written")
    return {
        "records_per_s": done.requests / done.seconds,
        "cpu_us_per_record": meter.cpu_s / (done.requests + connections) * 1e6,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "service_p50_ms": done.p50_ms - echo.p50_ms,
        "service_p99_ms": done.p99_ms - echo.p99_ms,
    }
