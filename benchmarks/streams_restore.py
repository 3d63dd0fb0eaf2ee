"""How long a changelog takes to become a store again: SQLite and RocksDB beside Java's Kafka Streams with RocksDB.

    python -m benchmarks.streams_restore --mb 1000
    python -m benchmarks.streams_restore --mb 50 --rounds 1 --who ottla-sqlite java

One `ottla serve`, a changelog of that size in one partition (keys of 16 bytes, each once; values of 1,000 bytes that do not
compress), written before the clock starts, and an application whose processor has it as its store. Time runs from the start
of the process to its first output, which can only come when the store is whole. The same with an empty changelog says what a
process, a group and a first record take. CPU time (less that of the empty one) and peak memory are the process's own. In each
round all take their turn: a ratio compares what ran side by side, starts included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.streams_speed import RIVALS, jars, usage
from tests.support.broker_process import BrokerProcess

import ottla
from ottla.types import TopicPartition

STATE = Path("benchmarks/results/streams_restore.jsonl")
VALUE_BYTES = 1000
PATIENCE_S = 900.0


def java() -> list[str]:
    folder = jars("Restore")
    return ["java", "-XX:+UseSerialGC", "-Xmx512m", "-cp", f"{folder}:{folder}/lib/*", "Restore"]


COMMANDS = {
    "ottla-sqlite": lambda: [sys.executable, str(RIVALS / "ottla_restore.py"), "sqlite"],
    "ottla-rocksdb": lambda: [sys.executable, str(RIVALS / "ottla_restore.py"), "rocksdb"],
    "java": java,
}


def write_changelog(address: str, app: str, count: int) -> None:
    """Make what the application reads and writes, and fill its changelog."""
    changelog = f"{app}-rows-changelog"
    with ottla.Admin(address) as admin:
        for topic in (f"in-{app}", f"out-{app}"):
            admin.create_topic(topic, partitions=1)
        admin.create_topic(changelog, partitions=1, configs={"cleanup.policy": "compact"})
    dice = random.Random(1)
    filler = dice.randbytes(VALUE_BYTES * 1000)
    with ottla.Producer(address) as producer:
        for number in range(count):
            start = dice.randrange(len(filler) - VALUE_BYTES)
            producer.send(changelog, filler[start : start + VALUE_BYTES], key=b"%016d" % number)
        producer.send(f"in-{app}", b"x", key=b"x")


def measure(broker: BrokerProcess, who: str, count: int) -> dict[str, float]:
    """Return the seconds to the first output, CPU seconds and peak memory."""
    app = f"restore-{who}-{time.time_ns() % 10**9}"
    write_changelog(broker.address, app, count)
    with tempfile.TemporaryDirectory(prefix="streams-restore-") as folder, ottla.Consumer(broker.address) as consumer:
        environment = {
            **os.environ,
            "BENCH_APP": app,
            "BENCH_BOOTSTRAP": broker.address,
            "BENCH_STATE": str(Path(folder) / "state"),
        }
        log_path = Path(folder) / "log"
        where = TopicPartition(f"out-{app}", 0)
        began = time.monotonic()
        with log_path.open("wb") as log:
            process = subprocess.Popen(COMMANDS[who](), env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            while not consumer.end_offsets([where])[where]:
                if process.poll() is not None:
                    raise RuntimeError(f"{who} ended with {process.returncode}: {log_path.read_text()[-3000:]}")
                if time.monotonic() - began > PATIENCE_S:
                    raise RuntimeError(f"{who} was not done within {PATIENCE_S:g} s: {log_path.read_text()[-3000:]}")
                time.sleep(0.02)
            took_s = time.monotonic() - began
            cpu_s, peak_mb = usage(process.pid)
        finally:
            process.kill()
            process.wait()
    with ottla.Admin(broker.address) as admin:
        admin.delete_topics([f"{app}-rows-changelog"])  # its disk is for the next one
    return {"s": took_s, "cpu_s": cpu_s, "peak_mb": peak_mb}


def table(runs: list[dict[str, float | str]]) -> str:
    """Return medians, and how often each was as fast as Java in the same round, as Markdown."""
    lines = [
        "| store | MB | s | of it the start | Java takes times as long (pairs) | CPU s | peak MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for mb in sorted({float(run["mb"]) for run in runs}):
        of_size = [run for run in runs if run["mb"] == mb]
        javas = {run["round"]: float(run["s"]) for run in of_size if run["who"] == "java"}
        for who in COMMANDS:
            its = [run for run in of_size if run["who"] == who]
            if not its:
                continue
            ratios = [javas[run["round"]] / float(run["s"]) for run in its if run["round"] in javas]
            s, start, cpu, peak = (
                statistics.median(float(run[name]) for run in its) for name in ("s", "start_s", "cpu_s", "peak_mb")
            )
            ratio = "" if who == "java" or not ratios else f"{statistics.median(ratios):.2f} ({len(ratios)})"
            lines.append(f"| {who} | {mb:g} | {s:.1f} | {start:.1f} | {ratio} | {cpu:.1f} | {peak:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--who", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--state", type=Path, default=STATE, help="file that keeps every try")
    parser.add_argument("--table", action="store_true", help="print what was measured so far")
    chosen = parser.parse_args()
    if not chosen.table:
        for who in chosen.who:
            COMMANDS[who]()  # jars are there, and programs compiled, before the clock starts
        count = round(chosen.mb * 1e6 / (VALUE_BYTES + 16))
        chosen.state.parent.mkdir(parents=True, exist_ok=True)
        broker = BrokerProcess({})
        try:
            broker.start()
            for number in range(chosen.rounds):
                for who in chosen.who:
                    empty = measure(broker, who, 0)
                    found = measure(broker, who, count)
                    run = {
                        "who": who,
                        "round": number,
                        "mb": chosen.mb,
                        "s": found["s"],
                        "start_s": empty["s"],
                        "cpu_s": found["cpu_s"] - empty["cpu_s"],
                        "peak_mb": found["peak_mb"],
                    }
                    print(
                        f"{who} round {number}: {run['s']:.1f} s ({run['start_s']:.1f} the start), {run['cpu_s']:.1f} CPU s",
                        flush=True,
                    )
                    with chosen.state.open("a") as state:
                        state.write(json.dumps(run) + "\n")
        finally:
            broker.close()
    print(table([json.loads(line) for line in chosen.state.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
