"""How long a broker takes from being spawned to its first acknowledged record, and what it weighs when idle.

    python benchmarks/start.py [--runs 5] [--idle-seconds 5] [--alone]

Both brokers in turn, run by run, so that whatever else the machine does meets both. The clock starts before the
process is made and stops when a Produce with acks=all into a topic made on the way is answered, by a client that dials
every 2 ms. ottla starts in a directory that does not exist, its modules compiled as pip leaves them; Apache Kafka in one
that was formatted and started once before (formatting, another JVM, is left out). The files of both programs are in
the page cache. Restarted: the same directory again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.brokers import ApacheKafka, Ottla, contestants, cpu_seconds, resident_bytes, running, threads
from benchmarks.support.report import MIB, figures, median, table, times_less
from benchmarks.support.wire import first_ack


def measure(kind: type[Ottla] | type[ApacheKafka], run: int, idle_s: float) -> dict[str, float]:
    """One start, a rest, one restart."""
    broker = kind()
    with running(broker):
        began = broker.spawn()
        start = first_ack(broker.port, f"start-{run}", create=True) - began
        start_cpu = cpu_seconds(broker.pid)
        time.sleep(idle_s)
        cpu = cpu_seconds(broker.pid)
        resident = resident_bytes(broker.pid)
        result = {
            "start_s": start,
            "start_cpu_s": start_cpu,
            "idle_rss_mib": resident / MIB,
            "idle_cpu_percent": 0.0,
            "threads": threads(broker.pid),
        }
        time.sleep(idle_s)
        result["idle_cpu_percent"] = (cpu_seconds(broker.pid) - cpu) / idle_s * 100
        result["stop_s"] = broker.stop()
        began = broker.spawn()
        result["restart_s"] = first_ack(broker.port, f"start-{run}", create=False) - began
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=5.0, help="rest before memory and CPU are read")
    parser.add_argument("--alone", action="store_true", help="without Apache Kafka")
    options = parser.parse_args()

    kinds = contestants(alone=options.alone)
    results: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in kinds}
    for run in range(options.runs):
        for kind in kinds:
            results[kind.name].append(measure(kind, run, options.idle_seconds))

    columns = ["start_s", "restart_s", "start_cpu_s", "stop_s", "idle_rss_mib", "idle_cpu_percent", "threads"]
    rows: list[list[object]] = []
    for kind in kinds:
        runs = results[kind.name]
        rows.append([kind.version(), "median", *(median([run[name] for run in runs]) for name in columns)])
        for label, pick in (("lowest", min), ("highest", max)):
            rows.append(["", label, *(pick(run[name] for run in runs) for name in columns)])
    if len(kinds) == 2:
        ours, theirs = ([median([run[name] for run in results[kind.name]]) for name in columns] for kind in kinds)
        rows.append(["times less", "", *map(times_less, ours, theirs)])
    table(f"Start to first acknowledged record, {options.runs} runs", ["broker", "", *columns], rows)
    figures("start", {"runs": results})


if __name__ == "__main__":
    main()
