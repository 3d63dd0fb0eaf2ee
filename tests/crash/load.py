"""The load that brokers are killed under: idempotent producers with acks=all, and a journal of what was acknowledged.

    python -m tests.crash.load ADDRESS JOURNAL

Every key counts upwards from 1, so what must be in the log at the end is known from the journal alone: each key's
numbers, once each, in order. A line per acknowledgement: `topic key number partition offset`; `failed ...` for a record
that was given up; `done` at the end. Runs until its standard input is closed, then waits for every acknowledgement.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

TOPICS = ("crash-log", "crash-compact")
PRODUCERS = 2
KEYS = 12
RATE = 1_500  # records a second and producer: a new segment of 1 MiB every second or so
VALUE = b"." * 500
LINGER_MS = 5


def main() -> int:
    address, path = sys.argv[1:]
    with Path(path).open("a", buffering=1) as journal:
        stop = threading.Event()
        threading.Thread(target=stop_at_end_of_input, args=(stop,), daemon=True).start()
        threads = [threading.Thread(target=load, args=(address, number, journal, stop)) for number in range(PRODUCERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        journal.write("done\n")
    return 0


def stop_at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def load(address: str, number: int, journal: Any, stop: threading.Event) -> None:
    """One producer with keys of its own."""
    producer = Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": LINGER_MS,
            "batch.num.messages": 50,
            "compression.type": ("none", "lz4")[number % 2],
            "message.timeout.ms": 0,  # never give up: the broker comes back
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 200,
            "socket.timeout.ms": 10_000,
            "queue.buffering.max.messages": 20_000,
            "log_level": 0,
            "error_cb": lambda error: journal.write(f"failed {error}\n") if error.fatal() else None,
        }
    )

    def on_delivery(error: Any, message: Any) -> None:
        key, value = message.key().decode(), message.value()
        count = int(value[: value.index(b" ")])
        if error is not None:
            journal.write(f"failed {message.topic()} {key} {count} {error}\n")
        else:
            journal.write(f"{message.topic()} {key} {count} {message.partition()} {message.offset()}\n")

    counts: Counter[tuple[str, str]] = Counter()
    begun, sent = time.monotonic(), 0
    while not stop.is_set():
        for topic in TOPICS:
            key = f"{number}-{sent % KEYS}"
            counts[topic, key] += 1
            value = b"%d " % counts[topic, key] + VALUE
            try:
                producer.produce(topic, value, key, on_delivery=on_delivery)
            except BufferError:
                counts[topic, key] -= 1
        sent += 1
        # While the broker is down the queue fills to a second's worth; then the load waits for it.
        producer.poll(max(0.0, begun + sent / RATE - time.monotonic()))
        while len(producer) > RATE and not stop.is_set():
            producer.poll(0.05)
            begun, sent = time.monotonic() - sent / RATE, sent
    if left := producer.flush(120):
        journal.write(f"failed {left} records were not acknowledged within 120 s of the last start\n")


if __name__ == "__main__":
    sys.exit(main())
