"""Where the broker's time goes in the cases that miss their goals, as Linux's `perf` sees it.

    python -m benchmarks.profiles [CASE ...]        default tuned lz4 zstd one flush fetch

Starts a broker, replays one kind of request from memory, and tells CPU time per request and per GB (1e9 bytes of records
before compression), then what share of the samples lies in the interpreter, the kernel, the libraries, and the symbols that
take most. Without `perf` there is only the first line. What is printed is of one run; the figures that count are those of
`make bench`.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare import raw
from benchmarks.compare.arena import Broker, create, metered
from benchmarks.support.brokers import DATA_DIR, Ottla
from benchmarks.support.full_memory import FullMemory
from benchmarks.support.wire import first_ack

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.types import CompressionType

TOPIC = "profiled"
PARTITIONS = 4
WARM_UP_BYTES = 100_000_000
SYMBOLS = 8


@dataclass(frozen=True)
class Work:
    """Requests that were answered, and the bytes of records in them."""

    requests: int
    payload: float


def _batch(records: int, size: int, codec: CompressionType) -> bytes:
    dice = random.Random(1)
    words = [bytes(dice.choices(range(97, 123), k=dice.randint(2, 9))) for _ in range(300)]
    now = int(time.time() * 1000)
    values = [b" ".join(dice.choices(words, k=size // 6))[:size].ljust(size) for _ in range(records)]
    return bytes(
        build_batch([Record(number, now, None, value) for number, value in enumerate(values)], compression=codec)
    )


def _produce(records: int, codec: CompressionType, total: float) -> Callable[[Broker], Callable[[], Work]]:
    """One request after the other, five in flight, a batch for each of four partitions; `total`: bytes on the wire."""

    def prepare(broker: Broker) -> Callable[[], Work]:
        create(broker, TOPIC, PARTITIONS)
        batch = _batch(records, 1000, codec)
        parts = [PartitionProduceData(index=index, records=batch) for index in range(PARTITIONS)]
        request = ProduceRequest(
            acks=-1, timeout_ms=30_000, topic_data=[TopicProduceData(name=TOPIC, partition_data=parts)]
        )
        frames = [raw.frame(ApiKey.PRODUCE, raw.PRODUCE_VERSION, request)]
        raw.replay_produce(broker.port, frames, WARM_UP_BYTES)

        def run() -> Work:
            done = raw.replay_produce(broker.port, frames, int(total))
            return Work(done.requests, done.requests * PARTITIONS * records * 1000.0)

        return run

    return prepare


def _one(broker: Broker) -> Callable[[], Work]:
    """One record of 100 bytes a request, each sent when the one before was acknowledged."""
    create(broker, TOPIC, PARTITIONS)
    raw.one_by_one(broker.port, TOPIC, 1000, 100)
    return lambda: Work(len(raw.one_by_one(broker.port, TOPIC, 30_000, 100)), 0)


def _flush(broker: Broker) -> Callable[[], Work]:
    """flush.messages=1: 16 producers with one record of 1 KB in flight each, to 16 partitions."""
    create(broker, TOPIC, 16, {"flush.messages": "1"})
    raw.many_at_once(broker.port, TOPIC, 16, 16, 1, 1000)
    return lambda: Work(raw.many_at_once(broker.port, TOPIC, 16, 16, 5, 1000)[0], 0)


def _fetch(broker: Broker) -> Callable[[], Work]:
    """What was produced just before, 1 MB a request."""
    batch = _batch(250, 1000, CompressionType.NONE)
    create(broker, TOPIC, PARTITIONS)
    for index in range(PARTITIONS):
        raw.replay_produce(broker.port, [raw.produce_frame(TOPIC, index, batch)], 250_000_000)

    def run() -> Work:
        done = raw.replay_fetch(broker.port, TOPIC, PARTITIONS, len(batch), 250, 4 * len(batch), 900_000_000)
        return Work(done.requests, done.bytes)

    return run


CASES: dict[str, Callable[[Broker], Callable[[], Work]]] = {
    "default": _produce(16, CompressionType.NONE, 4e8),
    "tuned": _produce(256, CompressionType.NONE, 8e8),
    "lz4": _produce(40, CompressionType.LZ4, 3e8),
    "zstd": _produce(256, CompressionType.ZSTD, 3e8),
    "one": _one,
    "flush": _flush,
    "fetch": _fetch,
}


@contextmanager
def _sampled(pid: int, file: Path) -> Iterator[None]:
    """Sample a process with perf, if that is there."""
    if shutil.which("perf") is None:
        yield
        return
    command = ["perf", "record", "-F", "1999", "-p", str(pid), "-o", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
        try:
            yield
        finally:
            sampler.send_signal(signal.SIGINT)


def _shares(file: Path, by: str, count: int) -> list[str]:
    command = ["perf", "report", "-i", str(file), "--no-children", "--sort", by, "--stdio"]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rows = re.findall(r"^ +(\d+\.\d+)% +(?:\[[k.]\] )?(\S+)", text, re.MULTILINE)
    return [f"{name} {float(share):.1f} %" for share, name in rows[:count]]


def _profile(name: str, memory: FullMemory) -> None:
    broker = Ottla()
    try:
        broker.prepare()
        broker.spawn()
        first_ack(broker.port, "hello", create=True)
        run = CASES[name](broker)
        memory.fill()
        with tempfile.TemporaryDirectory(prefix="ottla-profile-") as folder:
            file = Path(folder) / "perf.data"
            with _sampled(broker.pid, file), metered(broker.pid) as meter:
                work = run()
            per_request = meter.cpu_s / work.requests * 1e6
            per_gb = f", {meter.cpu_s / work.payload * 1e9:.2f} s/GB" if work.payload else ""
            print(
                f"{name}: {per_request:.0f} us of CPU a request ({meter.system_s / meter.cpu_s:.0%} in the kernel)"
                f"{per_gb}, {work.requests / meter.seconds:,.0f} requests/s"
            )
            if file.exists():
                print("   ", ", ".join(_shares(file, "dso", 5)))
                print("   ", ", ".join(_shares(file, "symbol", SYMBOLS)))
    finally:
        broker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    asked = parser.parse_args().cases
    if unknown := [name for name in asked if name not in CASES]:
        parser.error(f"no case {unknown[0]}; there are {', '.join(CASES)}")
    with closing(FullMemory(DATA_DIR)) as memory:
        for name in asked or CASES:
            _profile(name, memory)


if __name__ == "__main__":
    main()
