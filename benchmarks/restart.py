"""How long a restart takes with many partitions: after a clean stop, and after kill -9.

    python benchmarks/restart.py [--partitions 2000] [--runs 1] [--alone]

Half of the partitions are in one topic, the others in topics of five; each holds one batch of ten records. Both brokers do
the same, one after the other. The clock starts before the process is made. `first ack` ends when a record is acknowledged
in the topic that existed, `all` when every partition has answered ListOffsets with the right end. Before each kill every
partition gets one more batch, so that there is something to recover.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.brokers import ApacheKafka, Ottla, contestants, cpu_seconds, resident_bytes, running
from benchmarks.support.report import MIB, figures, median, table, times_less
from benchmarks.support.wire import Wire, end_offsets, first_ack, leaders, produce

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse

RECORDS = 10
PROBE = "probe"
WAIT_S = 300.0


def shapes(partitions: int) -> dict[str, int]:
    """Topic -> partitions."""
    large = partitions // 2
    return {"large": large, **{f"small-{number}": 5 for number in range((partitions - large) // 5)}}


def create(port: int, topics: dict[str, int]) -> float:
    """Create the topics; the seconds until all partitions answered."""
    began = time.perf_counter()
    with Wire(port, timeout_s=WAIT_S) as wire:
        wanted = [
            CreatableTopic(name=name, num_partitions=count, replication_factor=1) for name, count in topics.items()
        ]
        for start in range(0, len(wanted), 20):
            request = CreateTopicsRequest(topics=wanted[start : start + 20], timeout_ms=120_000)
            answer = wire.ask(request, 5, CreateTopicsResponse)
            for topic in answer.topics:
                if topic.error_code:
                    raise RuntimeError(f"{topic.name}: {ErrorCode(topic.error_code).name} {topic.error_message}")
        wait_for_ends(wire, topics, 0)
        return time.perf_counter() - began


def write(port: int, topics: dict[str, int]) -> None:
    """Append a batch to each partition."""
    with Wire(port, timeout_s=WAIT_S) as wire:
        for name, count in topics.items():
            for start in range(0, count, 100):
                error = produce(wire, name, list(range(start, min(start + 100, count))), records=RECORDS)
                if error:
                    raise RuntimeError(f"{name}: {error.name}")


def wait_for_ends(wire: Wire, topics: dict[str, int], end: int) -> None:
    """Ask until every partition answers with the end offset it must have."""
    deadline = time.perf_counter() + WAIT_S
    left = {name: list(range(count)) for name, count in topics.items()}
    while left:
        for name, partitions in list(left.items()):
            found = end_offsets(wire, name, partitions)
            wrong = {index: offset for index, offset in found.items() if offset != end}
            if wrong:
                raise AssertionError(f"{name}: end offsets {wrong}, not {end}")
            left[name] = [index for index in partitions if index not in found]
            if not left[name]:
                del left[name]
        if time.perf_counter() > deadline:
            raise TimeoutError(f"no answer from {sum(map(len, left.values()))} partitions")


def restart(broker: Ottla | ApacheKafka, topics: dict[str, int], end: int) -> dict[str, float]:
    """Start it again and wait until it serves everything, up to offset `end` in each partition."""
    began = broker.spawn()
    ack = first_ack(broker.port, PROBE, create=False, timeout_s=WAIT_S) - began
    with Wire(broker.port, timeout_s=WAIT_S) as wire:
        wait_for_ends(wire, topics, end)
    everything = time.perf_counter() - began
    return {
        "first_ack_s": ack,
        "all_s": everything,
        "cpu_s": cpu_seconds(broker.pid),
        "rss_mib": resident_bytes(broker.pid) / MIB,
    }


def measure(kind: type[Ottla] | type[ApacheKafka], partitions: int, runs: int) -> dict[str, list[dict[str, float]]]:
    """Create and fill, then stop and start, write, kill and start, `runs` times each."""
    topics = shapes(partitions)
    broker = kind()
    results: dict[str, list[dict[str, float]]] = {"created": [], "clean": [], "killed": []}
    with running(broker):
        broker.spawn()
        first_ack(broker.port, PROBE, create=True)
        with Wire(broker.port) as wire:
            assert leaders(wire, PROBE)
        results["created"].append({"all_s": create(broker.port, topics)})
        write(broker.port, topics)
        end = RECORDS
        for _ in range(runs):
            stopped = broker.stop()
            results["clean"].append({"stop_s": stopped, **restart(broker, topics, end)})
        for _ in range(runs):
            write(broker.port, topics)
            end += RECORDS
            broker.kill()
            results["killed"].append({"stop_s": 0.0, **restart(broker, topics, end)})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--partitions", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="without Apache Kafka")
    options = parser.parse_args()

    kinds = contestants(alone=options.alone)
    results = {kind.name: measure(kind, options.partitions, options.runs) for kind in kinds}
    columns = ["first_ack_s", "all_s", "cpu_s", "rss_mib", "stop_s"]
    rows: list[list[object]] = []
    for how in ("clean", "killed"):
        medians = {
            name: [median([run[column] for run in result[how]]) for column in columns]
            for name, result in results.items()
        }
        rows += [[kind.version(), how, *medians[kind.name]] for kind in kinds]
        if len(kinds) == 2:
            ours, theirs = (medians[kind.name] for kind in kinds)
            rows.append(["times less", how, *map(times_less, ours, theirs)])
    table(
        f"Restart with {options.partitions} partitions, median of {options.runs}", ["broker", "after", *columns], rows
    )
    figures("restart", {"partitions": options.partitions, "results": results})


if __name__ == "__main__":
    main()
