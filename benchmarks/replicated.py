"""Replicated throughput and latency: three brokers, three replicas, acks=all, ottla and Apache Kafka in alternating pairs.

    python -m benchmarks.replicated --pairs 5                  all cases; each pair is noted in the state file
    python -m benchmarks.replicated --only tuned --pairs 5     one case; an interrupted run goes on where it was
    python -m benchmarks.replicated --table                    what has been measured so far, as Markdown

The producer is Kafka's kafka-producer-perf-test, with 1 KB records to four partitions; `one` is librdkafka with one record in
flight. Both clusters run side by side, one of them idle; who goes first changes from pair to pair. CPU is that of the three
brokers (ottla's supervisor, which keeps the tree, and Kafka's controllers included). GB = 1e9 bytes of payload. The client's
CPU is noted as well: where client and brokers share the cores, it bounds what cheaper brokers can make of the whole.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.clusters import ApacheKafkaCluster, Cluster, OttlaUp
from confluent_kafka import Producer
from tests.soak.seeds import commit
from tests.support.kafka_anchor import run_tool

STATE = Path("benchmarks/results/replicated.jsonl")
SIZE = 1_000
PARTITIONS = 4
BATCHES = {"default": {"batch.size": "16384", "linger.ms": "5"}, "tuned": {"batch.size": "262144", "linger.ms": "20"}}
#: Five to fifteen seconds each on two cores.
COUNTS = {"default": 80_000, "tuned": 300_000, "one": 3_000}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One cluster in one case of one pair."""

    case: str
    pair: int
    system: str
    commit: str
    records: int
    seconds: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    #: Of the producer; 0 in rows of before it was noted.
    client_cpu_s: float = 0.0

    @property
    def per_second(self) -> float:
        return self.records / self.seconds

    @property
    def cpu_per_gb(self) -> float:
        return self.cpu_s / (self.records * SIZE) * 1e9

    @property
    def client_cpu_per_gb(self) -> float:
        return self.client_cpu_s / (self.records * SIZE) * 1e9


def batched(cluster: Cluster, topic: str, case: str, count: int) -> tuple[float, float, float]:
    """Return seconds, p50 and p99 in ms as the tool tells them."""
    settings = {"acks": "all", "compression.type": "none", **BATCHES[case]}
    done = run_tool(
        *("kafka-producer-perf-test", "--bootstrap-server", cluster.bootstrap, "--topic", topic),
        *("--num-records", str(count), "--record-size", str(SIZE), "--throughput", "-1"),
        *("--reporting-interval", "600000", "--command-property"),
        *(f"{key}={value}" for key, value in settings.items()),
        timeout_s=300,
    )
    lines = [line for line in done.stdout.splitlines() if "records sent" in line and "99.9th" in line]
    assert lines, done.stdout[-2_000:]
    assert int(lines[-1].split()[0]) == count, lines[-1]
    found = [re.search(text, lines[-1]) for text in (r"([\d.]+) records/sec", r"(\d+) ms 50th", r"(\d+) ms 99th")]
    rate, p50, p99 = (float(match[1]) for match in found if match is not None)
    return count / rate, p50, p99


def one_by_one(cluster: Cluster, topic: str, count: int) -> tuple[float, float, float]:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0})
    laps: list[float] = []
    errors: list[object] = []
    for number in range(count + 200):
        began = time.perf_counter()
        producer.produce(topic, b"x" * SIZE, partition=0, on_delivery=lambda error, _: errors.append(error))
        while len(errors) <= number:
            producer.poll(1)
        laps.append(time.perf_counter() - began)
    assert not any(errors), next(filter(None, errors))
    laps = laps[200:]
    percentiles = statistics.quantiles(laps, n=100)
    return sum(laps), percentiles[49] * 1_000, percentiles[98] * 1_000


def measure(cluster: Cluster, case: str, pair: int, count: int) -> Measured:
    topic = f"{case}-{pair}-{time.time_ns()}"
    cluster.create_topic(topic, PARTITIONS)
    before, own = cluster.cpu_seconds(), client_cpu_seconds()
    seconds, p50, p99 = one_by_one(cluster, topic, count) if case == "one" else batched(cluster, topic, case, count)
    used, own = cluster.cpu_seconds() - before, client_cpu_seconds() - own
    cluster.delete_topic(topic)
    return Measured(
        case=case,
        pair=pair,
        system=cluster.name,
        commit=commit(),
        records=count,
        seconds=round(seconds, 3),
        cpu_s=round(used, 3),
        p50_ms=round(p50, 3),
        p99_ms=round(p99, 3),
        client_cpu_s=round(own, 3),
    )


def client_cpu_seconds() -> float:
    """Return the CPU time of this process and of the tools that it has run to their end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def run(cases: list[str], pairs: int, path: Path, scale: float, budget_s: float) -> None:
    done = load(path)
    began = time.monotonic()
    with ExitStack() as stack:
        clusters = [stack.enter_context(kind()) for kind in (OttlaUp, ApacheKafkaCluster)]
        for cluster in clusters:  # the first passes are dearer, of a JVM above all
            for case in cases:
                measure(cluster, case, -1, max(200, int(COUNTS[case] * scale / 3)))
        for case in cases:
            first = 1 + max((row.pair for row in done if row.case == case), default=-1)
            for pair in range(first, pairs):
                if time.monotonic() - began > budget_s:
                    return
                order = clusters if pair % 2 == 0 else clusters[::-1]
                rows = [measure(cluster, case, pair, int(COUNTS[case] * scale)) for cluster in order]
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:
                    for row in rows:
                        file.write(json.dumps(asdict(row)) + "\n")
                        print(
                            f"{row.case} {row.pair} {row.system}: {row.per_second:,.0f}/s, {row.cpu_per_gb:.1f} CPU s/GB,",
                            end=" ",
                        )
                        print(f"p50 {row.p50_ms} ms, p99 {row.p99_ms} ms", flush=True)


def load(path: Path) -> list[Measured]:
    return [Measured(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[Measured]) -> str:
    """Return medians, and the medians of the pairs' ratios with their ranges, as Markdown."""
    lines = ["| case | figure | ottla | Kafka | ratio | range | pairs |", "|---|---|---:|---:|---:|---:|---:|"]
    for case in COUNTS:
        pairs = sorted({row.pair for row in rows if row.case == case})
        both = [{row.system: row for row in rows if row.case == case and row.pair == pair} for pair in pairs]
        both = [pair for pair in both if len(pair) == 2]
        if not both:
            continue
        for figure in ("per_second", "cpu_per_gb", "client_cpu_per_gb", "p50_ms", "p99_ms"):
            if not all(getattr(row, figure) for pair in both for row in pair.values()):
                continue
            own = [getattr(pair["ottla"], figure) for pair in both]
            theirs = [getattr(pair["kafka"], figure) for pair in both]
            ratios = [a / b for a, b in zip(own, theirs, strict=True)]
            lines.append(
                f"| {case} | {figure} | {statistics.median(own):,.2f} | {statistics.median(theirs):,.2f} | "
                f"{statistics.median(ratios):.2f}x | {min(ratios):.2f}-{max(ratios):.2f} | {len(both)} |"
            )
    return "\n".join([*lines, "", f"commits: {', '.join(dict.fromkeys(row.commit for row in rows))}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(COUNTS), action="append", help="this case; may be repeated")
    parser.add_argument("--pairs", type=int, default=5, help="of each case, those of the state file included")
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the record counts")
    parser.add_argument("--budget", type=float, default=3_600, help="seconds after which no pair is begun")
    parser.add_argument("--table", action="store_true", help="print what has been measured, measure nothing")
    asked = parser.parse_args()
    if not asked.table:
        run(asked.only or list(COUNTS), asked.pairs, asked.state, asked.scale, asked.budget)
    print(table(load(asked.state)))


if __name__ == "__main__":
    main()
