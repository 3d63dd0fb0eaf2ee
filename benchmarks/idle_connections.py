"""What idle connections cost: memory each, and the latency of somebody who is not idle.

    python benchmarks/idle_connections.py [--connections 1000] [--records 5000] [--rounds 3] [--kafka]

Ping-pong: one connection produces a record (acks=all), another reads it, one at a time. It is measured in turns without and
with the idle connections, several times, so that a machine that warms up or is shared does not decide. An idle
connection has asked for ApiVersions and Metadata, as every client does, and then keeps still. Memory is the difference
of the resident size over opening them, divided by their number.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.brokers import ApacheKafka, Ottla, contestants, resident_bytes, running
from benchmarks.support.report import figures, median, percentile, table
from benchmarks.support.wire import Wire, fetch_one, first_ack, leaders, produce

from ottla.errors import ErrorCode
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse

TOPIC = "ping"


def open_idle(port: int, count: int) -> list[Wire]:
    """Open connections that have said hello."""
    wires: list[Wire] = []
    hello = ApiVersionsRequest(client_software_name="idle", client_software_version="1.0")
    for _ in range(count):
        wire = Wire(port)
        wire.ask(hello, 3, ApiVersionsResponse)
        leaders(wire, TOPIC)
        wires.append(wire)
    return wires


def ping_pong(port: int, records: int, offset: int) -> list[float]:
    """Produce and read one record after the other from `offset` on; milliseconds each."""
    took: list[float] = []
    with Wire(port) as producer, Wire(port) as consumer:
        for number in range(records):
            began = time.perf_counter()
            error = produce(producer, TOPIC, [0])
            if error is not ErrorCode.NONE:
                raise RuntimeError(error.name)
            if not fetch_one(consumer, TOPIC, offset + number):
                raise RuntimeError(f"nothing at offset {offset + number}")
            took.append((time.perf_counter() - began) * 1000)
    return took


def measure(kind: type[Ottla] | type[ApacheKafka], connections: int, records: int, rounds: int) -> dict[str, float]:
    """Rounds without and with idle connections."""
    broker = kind()
    with running(broker):
        broker.spawn()
        first_ack(broker.port, TOPIC, create=True)
        offset = 1
        ping_pong(broker.port, records, offset)  # warm
        offset += records
        alone: list[float] = []
        beside: list[float] = []
        grown: list[float] = []
        for _ in range(rounds):
            alone += ping_pong(broker.port, records, offset)
            offset += records
            before = resident_bytes(broker.pid)
            idle = open_idle(broker.port, connections)
            time.sleep(0.5)
            grown.append((resident_bytes(broker.pid) - before) / connections / 1024)
            beside += ping_pong(broker.port, records, offset)
            offset += records
            for wire in idle:
                wire.close()
            time.sleep(0.5)
        return {
            # Later rounds reuse the memory of the first one.
            "kib_each": grown[0],
            "kib_each_median": median(grown),
            "p50_ms_alone": percentile(alone, 0.5),
            "p50_ms_beside": percentile(beside, 0.5),
            "p99_ms_alone": percentile(alone, 0.99),
            "p99_ms_beside": percentile(beside, 0.99),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka too")
    options = parser.parse_args()
    wanted = options.connections + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))

    kinds = contestants(alone=not options.kafka)
    results = {kind.name: measure(kind, options.connections, options.records, options.rounds) for kind in kinds}
    columns = list(next(iter(results.values())))
    rows: list[list[object]] = [[kind.version(), *results[kind.name].values()] for kind in kinds]
    table(f"{options.connections} idle connections", ["broker", *columns], rows)
    figures("idle_connections", {"connections": options.connections, "results": results})


if __name__ == "__main__":
    main()
