"""What a second worker brings: `ottla serve --workers 1` and `2`, and Apache Kafka, in one run.

    python -m benchmarks.workers --rounds 3         each round is noted in the state file
    python -m benchmarks.workers --table            what has been measured so far, as Markdown

`one`: 16 producers with one record of 1 KB in flight, acks=all, one process that replays frames. `batches`: 8 Java producers
and 8 Java consumers at once, records of 1 KB; records of both directions are counted. Partitions have one replica. CPU is
that of all brokers (with their supervisor), and of the client, for each record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.compare import raw
from benchmarks.compare.java import JavaLoad
from benchmarks.support.brokers import ApacheKafka, cpu_seconds, running
from benchmarks.support.clusters import Cluster, OttlaUp
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.soak.seeds import commit

from ottla.network.channel import Channel, ChannelSettings
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse

STATE = Path("benchmarks/results/workers.jsonl")
PARTITIONS, PRODUCERS, SIZE = 16, 16, 1_000
SECONDS = 6.0
BATCHED_RECORDS = 400_000
CORES = 2


@dataclass(frozen=True, kw_only=True)
class Measured:
    case: str
    round: int
    system: str
    commit: str
    per_second: float
    broker_us: float
    client_us: float


class Workers(OttlaUp):
    """`ottla serve --workers N`: clients connect to the common port, leaders have ports of their own."""

    def __init__(self, count: int) -> None:
        super().__init__(None, "serve", "--workers", str(count))
        self.name = f"{count} worker" + "s" * (count > 1)
        self.port = self.ports[1]


async def leader_ports(port: int, topic: str) -> list[int]:
    """Return the port of each partition's leader."""
    channel = await Channel.open("127.0.0.1", port, ChannelSettings())
    try:
        found = await channel.ask(
            MetadataRequest(topics=[MetadataRequestTopic(name=topic)]), MetadataResponse, timeout_s=10
        )
        ports = {broker.node_id: broker.port for broker in found.brokers}
        rows = sorted(found.topics[0].partitions, key=lambda partition: partition.partition_index)
        return [ports[row.leader_id] for row in rows]
    finally:
        channel.close()


def measure(name: str, number: int, port: int, pids: Sequence[int], java: JavaLoad) -> list[Measured]:
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    found = []
    for case in ("one", "batches"):
        topic = f"{case}-{number}-{time.time_ns()}"
        client.create_topics([NewTopic(topic, PARTITIONS, 1)], operation_timeout=30)[topic].result(60)
        time.sleep(1)
        broker, own = sum(map(cpu_seconds, pids)), time.process_time() + cpu_seconds(java.pid)
        if case == "one":
            records, seconds = raw.many_at_once(
                asyncio.run(leader_ports(port, topic)), topic, PRODUCERS, PARTITIONS, SECONDS, SIZE
            )
        else:
            options = {
                "producers": 8,
                "consumers": 8,
                "partitions": PARTITIONS,
                "size": SIZE,
                "records": BATCHED_RECORDS,
            }
            done = java.ask("both", port, topic, options)
            records, seconds = int(2 * done["records"]), done["seconds"]
        broker = sum(map(cpu_seconds, pids)) - broker
        own = time.process_time() + cpu_seconds(java.pid) - own
        found.append(
            Measured(
                case=case,
                round=number,
                system=name,
                commit=commit(),
                per_second=round(records / seconds, 1),
                broker_us=round(broker / records * 1e6, 2),
                client_us=round(own / records * 1e6, 2),
            )
        )
        client.delete_topics([topic], operation_timeout=30)[topic].result(60)
    return found


def run(rounds: int, path: Path) -> None:
    done = load(path)
    first = 1 + max((row.round for row in done), default=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with JavaLoad() as java:
        for number in range(first, rounds):
            rows: list[Measured] = []
            order = ["1", "2", "kafka"]
            for who in order[number % 3 :] + order[: number % 3]:
                if who == "kafka":
                    kafka = ApacheKafka()
                    with running(kafka):
                        kafka.spawn()
                        until_ready(kafka.port)
                        measure("Apache Kafka", number, kafka.port, [kafka.pid], java)  # the first pass warms it up
                        rows += measure("Apache Kafka", number, kafka.port, [kafka.pid], java)
                else:
                    workers: Cluster = Workers(int(who))
                    try:
                        workers.start()
                        rows += measure(workers.name, number, workers.ports[1], workers.pids(), java)
                    finally:
                        workers.close()
            with path.open("a") as file:
                for row in rows:
                    file.write(json.dumps(asdict(row)) + "\n")
                    print(
                        f"{row.system} {row.case}: {row.per_second:,.0f}/s, {row.broker_us} + {row.client_us} us",
                        flush=True,
                    )


def until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}).list_topics(timeout=2)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise


def load(path: Path) -> list[Measured]:
    return [Measured(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[Measured]) -> str:
    lines = [
        "| case | system | records/s | range | broker us/record | client us/record | of what the cores allow | rounds |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case in ("one", "batches"):
        for system in ("1 worker", "2 workers", "Apache Kafka"):
            own = [row for row in rows if (row.case, row.system) == (case, system)]
            if own:
                rate = statistics.median(row.per_second for row in own)
                broker, client = (
                    statistics.median(getattr(row, name) for row in own) for name in ("broker_us", "client_us")
                )
                share = rate / (CORES * 1e6 / (broker + client))
                low, high = min(row.per_second for row in own), max(row.per_second for row in own)
                lines.append(
                    f"| {case} | {system} | {rate:,.0f} | {low:,.0f}-{high:,.0f} | {broker:.1f} | {client:.1f} | "
                    f"{share:.2f} | {len(own)} |"
                )
    return "\n".join([*lines, "", f"commits: {', '.join(dict.fromkeys(row.commit for row in rows))}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="those of the state file included")
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--table", action="store_true", help="print what has been measured, measure nothing")
    asked = parser.parse_args()
    if not asked.table:
        run(asked.rounds, asked.state)
    print(table(load(asked.state)))


if __name__ == "__main__":
    main()
