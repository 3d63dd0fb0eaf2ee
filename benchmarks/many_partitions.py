"""What 10,000 partitions cost one ottla broker: descriptors, memory maps, memory, processor time, and a restart.

    python benchmarks/many_partitions.py [--partitions 10000] [--kafka]

Half of the partitions are in one topic, the others in topics of five; each gets one batch of ten records, and one more
before the kill. Exit code 1 if a bound is broken: one descriptor a partition and a few more, fewer maps than Linux allows
by default (vm.max_map_count, 65,530), and not more memory than a small machine has. `--kafka` measures Apache Kafka, too,
without bounds; that takes many minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.restart import RECORDS, create, restart, shapes, wait_for_ends, write
from benchmarks.support.brokers import ApacheKafka, Ottla, contestants, cpu_seconds, resident_bytes, running
from benchmarks.support.report import MIB, figures, table
from benchmarks.support.wire import Wire, first_ack, leaders

PROBE = "probe"
COLUMNS = ("descriptors", "maps", "threads", "rss_mib", "cpu_s", "seconds")

#: Beside the partitions' own.
DESCRIPTORS_MORE_MAX = 500
MAPS_MAX = 2_000
RSS_MIB_MAX = 256.0


def footprint(broker: Ottla | ApacheKafka, seconds: float) -> dict[str, float]:
    """What the process has open and in memory now."""
    proc = f"/proc/{broker.pid}"
    with open(f"{proc}/maps", encoding="ascii", errors="replace") as maps:
        count = sum(1 for _ in maps)
    return {
        "descriptors": len(os.listdir(f"{proc}/fd")),
        "maps": count,
        "threads": len(os.listdir(f"{proc}/task")),
        "rss_mib": resident_bytes(broker.pid) / MIB,
        "cpu_s": cpu_seconds(broker.pid),
        "seconds": seconds,
    }


def measure(kind: type[Ottla] | type[ApacheKafka], partitions: int) -> dict[str, dict[str, float]]:
    """Return the footprint after each step."""
    topics = shapes(partitions)
    broker = kind()
    found: dict[str, dict[str, float]] = {}
    with running(broker):
        broker.spawn()
        first_ack(broker.port, PROBE, create=True)
        with Wire(broker.port) as wire:
            assert leaders(wire, PROBE)
        found["empty"] = footprint(broker, 0.0)
        found["created"] = footprint(broker, create(broker.port, topics))
        began = time.perf_counter()
        write(broker.port, topics)
        found["filled"] = footprint(broker, time.perf_counter() - began)
        broker.stop()
        found["clean restart"] = footprint(broker, restart(broker, topics, RECORDS)["all_s"])
        write(broker.port, topics)
        broker.kill()
        found["after kill -9"] = footprint(broker, restart(broker, topics, 2 * RECORDS)["all_s"])
        with Wire(broker.port, timeout_s=60.0) as wire:
            wait_for_ends(wire, topics, 2 * RECORDS)
    return found


def broken_bounds(found: dict[str, dict[str, float]], partitions: int) -> list[str]:
    """Return what is more than it may be."""
    bounds = {"descriptors": partitions + DESCRIPTORS_MORE_MAX, "maps": MAPS_MAX, "rss_mib": RSS_MIB_MAX}
    return [
        f"{step}: {name} {values[name]:,.0f}, more than {bound:,.0f}"
        for step, values in found.items()
        for name, bound in bounds.items()
        if values[name] > bound
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka, too")
    options = parser.parse_args()
    kinds = contestants(alone=not options.kafka)
    results = {kind.name: measure(kind, options.partitions) for kind in kinds}
    for kind in kinds:
        rows = [[step, *(values[column] for column in COLUMNS)] for step, values in results[kind.name].items()]
        table(f"{kind.version()} with {options.partitions:,} partitions", ["after", *COLUMNS], rows)
    figures("many_partitions", {"partitions": options.partitions, "results": results})
    broken = broken_bounds(results[Ottla.name], options.partitions)
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
