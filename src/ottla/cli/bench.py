"""`ottla bench`: how fast a cluster takes and gives records, from here, by the Python client."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import click

from ottla.cli.output import Output, output_options
from ottla.cli.running import Connection, connected, run_command

#: Round trips that are timed one by one.
_TRIPS = 300


@click.command("bench")
@click.option("-n", "--records", type=click.IntRange(1), default=200_000, show_default=True, help="How many records.")
@click.option("-s", "--size", type=click.IntRange(1), default=100, show_default=True, help="Bytes of each.")
@click.option("-p", "--partitions", type=click.IntRange(1), default=1, show_default=True)
@click.option("-z", "--compression", type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]), default="none")
@click.option("--acks", type=click.Choice(["all", "1", "0"]), default="all")
@connected
@output_options
def bench(connection: Connection, output: Output, **options: Any) -> None:
    """Write records to a topic of its own, read them back, time single ones, and delete the topic.

    The figures are of this client on this machine at this moment; both ends share the processor if the broker is here.
    """
    from ottla.client.keys import CONSUMER_KEYS, PRODUCER_KEYS

    topic = f"ottla-bench-{uuid.uuid4().hex[:8]}"
    with connection.admin(PRODUCER_KEYS, CONSUMER_KEYS) as admin:
        admin.create_topic(topic, partitions=options["partitions"])
        try:
            rows = [
                _produce(connection, topic, options),
                _consume(connection, topic, options),
                _trips(connection, topic),
            ]
        finally:
            admin.delete_topic(topic, missing_ok=True)
    output.show(rows, ("what", "records", "seconds", "records_per_s", "mb_per_s", "median_ms", "p99_ms", "cpu_seconds"))


def _produce(connection: Connection, topic: str, options: dict[str, Any]) -> dict[str, Any]:
    from ottla.client.keys import CONSUMER_KEYS, PRODUCER_KEYS
    from ottla.client.producer import Producer

    value = os.urandom(options["size"])
    config = {
        "acks": options["acks"],
        "compression.type": options["compression"],
        **connection.config_of(PRODUCER_KEYS, CONSUMER_KEYS),
    }
    with Producer(config=config) as producer:
        producer.partitions_for(topic)
        began, cpu = time.perf_counter(), time.process_time()
        with _Bar("produce", options["records"]) as bar:
            left = options["records"]
            while left:
                part = min(left, 5_000)
                producer.send_many(topic, [value] * part)
                left -= part
                bar.advance(part)
            producer.flush()
        return _figures("produce", options, time.perf_counter() - began, time.process_time() - cpu)


def _consume(connection: Connection, topic: str, options: dict[str, Any]) -> dict[str, Any]:
    from ottla.client.consumer import Consumer
    from ottla.client.keys import CONSUMER_KEYS, PRODUCER_KEYS

    config = {"auto.offset.reset": "earliest", **connection.config_of(CONSUMER_KEYS, PRODUCER_KEYS)}
    with Consumer(topics=[topic], config=config) as consumer:
        began, cpu = time.perf_counter(), time.process_time()
        count = 0
        with _Bar("consume", options["records"]) as bar:
            while count < options["records"]:
                found = consumer.poll(max_records=5_000, timeout=30)
                if not found:
                    raise click.ClickException(f"no record came within 30 s; {count} of {options['records']} were read")
                count += len(found)
                bar.advance(len(found))
        return _figures("consume", options, time.perf_counter() - began, time.process_time() - cpu)


def _trips(connection: Connection, topic: str) -> dict[str, Any]:
    from ottla.client.keys import CONSUMER_KEYS, PRODUCER_KEYS
    from ottla.client.producer import Producer

    times = []
    with Producer(config={"linger.ms": 0, **connection.config_of(PRODUCER_KEYS, CONSUMER_KEYS)}) as producer:
        producer.send_and_wait(topic, b"warm")
        cpu = time.process_time()
        for _ in range(_TRIPS):
            began = time.perf_counter()
            producer.send_and_wait(topic, b"x")
            times.append((time.perf_counter() - began) * 1000)
        cpu = time.process_time() - cpu
    times.sort()
    return {
        "what": "one at a time",
        "records": _TRIPS,
        "seconds": round(sum(times) / 1000, 3),
        "records_per_s": round(_TRIPS / (sum(times) / 1000)),
        "mb_per_s": None,
        "median_ms": round(times[len(times) // 2], 3),
        "p99_ms": round(times[int(len(times) * 0.99)], 3),
        "cpu_seconds": round(cpu, 3),
    }


def _figures(what: str, options: dict[str, Any], seconds: float, cpu: float) -> dict[str, Any]:
    return {
        "what": what,
        "records": options["records"],
        "seconds": round(seconds, 3),
        "records_per_s": round(options["records"] / seconds),
        "mb_per_s": round(options["records"] * options["size"] / seconds / 1e6, 1),
        "median_ms": None,
        "p99_ms": None,
        "cpu_seconds": round(cpu, 3),
    }


class _Bar:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._progress: Any = None

    def __enter__(self) -> _Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self._what, total=self._total)
            self._progress.start()
        return self

    def advance(self, count: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def main(arguments: Sequence[str]) -> int:
    """Run `ottla bench`; return the exit code."""
    return run_command(bench, "bench", arguments)
