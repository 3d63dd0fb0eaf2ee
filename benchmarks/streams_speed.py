"""Streams beside Quix Streams, faust-streaming and Java's Kafka Streams: one run, one broker, the same input for all.

    python -m benchmarks.streams_speed                         five rounds of all rows and all rivals
    python -m benchmarks.streams_speed --case word_count --rivals ottla quix --rounds 1
    python -m benchmarks.streams_speed --table                 what was measured so far, as Markdown

Rows: filter_map (JSON in, filter, map, JSON out), word_count (four words a record, regrouped through a repartition topic, a
count in a store), tumbling (a sum by user and minute), table_join (an event with its user's row of a table; beside Java
alone, the others have no such join). "columns" is ottla with expressions instead of functions, where the row can be written
so. Each rival is one process in an environment of its own, made under
the cache directory at its first use: Quix pins another confluent-kafka than faust can live with. Java's jars come by Maven.

Equal for all: one `ottla serve`, the input (written before the clock starts, one partition), at least once, a commit each
second, no record cache, so each input gives all its outputs. Time runs from the first output that the broker has to the
last; what a rival needs to start does not count. A try that `--seconds` cuts off says too little of word_count: its first
half runs ahead of what comes out. CPU time is the rival's own, user and system, of that time; memory is its peak. On a
machine with other work, the records/s of all suffer; CPU time a record does so less.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.broker_process import BrokerProcess

import ottla
from ottla.types import TopicPartition

RIVALS = Path(__file__).with_name("streams_rivals")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ottla-benchmarks" / "streams"
STATE = Path("benchmarks/results/streams_speed.jsonl")
COMMIT_MS = 1000
GUARANTEE = "at_least_once"
WORDS = 4
#: Outputs that one input has.
OUTPUTS = {"filter_map": 1, "word_count": WORDS, "tumbling": 1, "table_join": 1}
#: Who cannot do every row, and what they can.
ROWS = {
    "columns": ("filter_map", "tumbling"),
    "quix": ("filter_map", "word_count", "tumbling"),
    "faust": ("filter_map", "word_count", "tumbling"),
}
USERS = 5000
JAVA_VERSION = "4.3.1"
REQUIREMENTS = {"quix": "quixstreams==3.28.1", "faust": "faust-streaming==0.15.3"}
PATIENCE_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Run:
    """One rival's try at one row."""

    case: str
    rival: str
    round: int
    records: int
    rate: float
    cpu_s: float
    cpu_us_per_record: float
    peak_mb: float


def environment_of(rival: str) -> Path:
    """Return the Python of a rival's own environment; make it if it is not there."""
    folder = CACHE / rival
    python = folder / "bin" / "python"
    if not python.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    marker = folder / ".installed"
    if not marker.exists() or marker.read_text() != REQUIREMENTS[rival]:
        subprocess.run([str(python), "-m", "pip", "install", "-q", REQUIREMENTS[rival]], check=True)
        marker.write_text(REQUIREMENTS[rival])
    return python


def jars(program: str = "Speed") -> Path:
    """Return the folder of Kafka Streams' jars and the compiled program; make it if it is not there."""
    folder = CACHE / "java"
    source = RIVALS / f"{program}.java"
    if not (folder / "lib").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>speed</groupId>'
            "<artifactId>speed</artifactId><version>1</version><dependencies><dependency><groupId>org.apache.kafka</groupId>"
            f"<artifactId>kafka-streams</artifactId><version>{JAVA_VERSION}</version></dependency><dependency>"
            "<groupId>com.fasterxml.jackson.core</groupId><artifactId>jackson-databind</artifactId><version>2.19.2</version>"
            "</dependency><dependency>"
            "<groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>"
            "</dependencies></project>\n"
        )
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"]
        subprocess.run(command, cwd=folder, check=True, timeout=600)
    if not (made := folder / f"{program}.class").exists() or made.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["javac", "-cp", f"{folder}/lib/*", "-d", str(folder), str(source)], check=True)
    return folder


def ottla_command(case: str) -> list[str]:
    return [sys.executable, str(RIVALS / "ottla_app.py"), case]


def columns_command(case: str) -> list[str]:
    return [sys.executable, str(RIVALS / "ottla_app.py"), f"{case}_columns"]


def quix_command(case: str) -> list[str]:
    return [str(environment_of("quix")), str(RIVALS / "quix_app.py"), case]


def faust_command(case: str) -> list[str]:
    return [str(environment_of("faust")), str(RIVALS / "faust_app.py"), case, "worker", "-l", "error", "--without-web"]


def java_command(case: str) -> list[str]:
    folder = jars()
    return ["java", "-XX:+UseSerialGC", "-Xmx512m", "-cp", f"{folder}:{folder}/lib/*", "Speed", case]


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "ottla": ottla_command,
    "columns": columns_command,
    "quix": quix_command,
    "faust": faust_command,
    "java": java_command,
}


def write_input(address: str, topic: str, records: int) -> None:
    """Write the input: users of Zipf's law, text of a thousand words, twenty records a second of event time."""
    dice = random.Random(1)
    words = [f"word{number:03d}" for number in range(1000)]
    users = [f"user{number:04d}" for number in range(USERS)]
    start_ms = 1_700_000_000_000
    with ottla.Producer(address) as producer:
        for user in users:  # before all events
            row = {"name": user.upper(), "country": dice.choice(["NL", "DE", "FR"])}
            producer.send("users", json.dumps(row), key=user, timestamp=start_ms - 1)
        for number in range(records):
            user = users[min(int(dice.paretovariate(0.8)), len(users)) - 1]
            event = {"user": user, "price": dice.randrange(1000), "text": " ".join(dice.choices(words, k=WORDS))}
            producer.send(topic, json.dumps(event), key=user, timestamp=start_ms + number * 50)


def measure(broker: BrokerProcess, rival: str, case: str, number: int, records: int, seconds: float) -> Run:
    """Run one rival on one row."""
    name = f"{rival}-{case.replace('_', '-')}-{number}-{time.time_ns() % 10**9}"
    output = f"out-{name}"
    with (
        tempfile.TemporaryDirectory(prefix="streams-speed-") as folder,
        ottla.Admin(broker.address) as admin,
        ottla.Consumer(broker.address) as consumer,
    ):
        admin.create_topic(output, partitions=1)
        where = TopicPartition(output, 0)
        log_path = Path(folder) / "log"
        environment = {
            **os.environ,
            "BENCH_APP": name,
            "BENCH_BOOTSTRAP": broker.address,
            "BENCH_INPUT": "events",
            "BENCH_OUTPUT": output,
            "BENCH_STATE": str(Path(folder) / "state"),
            "BENCH_GUARANTEE": GUARANTEE,
            "BENCH_COMMIT_MS": str(COMMIT_MS),
        }
        command = COMMANDS[rival](case)
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            wanted = records * OUTPUTS[case]
            began = found_first = 0.0
            first = found = 0
            cpu_before_s = 0.0
            deadline = time.monotonic() + PATIENCE_S
            while found < wanted:
                if process.poll() is not None:
                    raise RuntimeError(f"{rival} ended with {process.returncode}: {log_path.read_text()[-3000:]}")
                found = consumer.end_offsets([where])[where]
                now = time.monotonic()
                if found and not first:
                    began, first, found_first = now, found, now
                    cpu_before_s = usage(process.pid)[0]
                    deadline = now + seconds
                if now > deadline:
                    break
                time.sleep(POLL_S)
            took = time.monotonic() - began
            if not found_first:
                raise RuntimeError(f"{rival} wrote nothing within {PATIENCE_S} s: {log_path.read_text()[-3000:]}")
            cpu_s, peak_mb = usage(process.pid)
            cpu_s -= cpu_before_s
            if found < wanted and log_path.stat().st_size > 100_000:
                print(log_path.read_text()[-500:], file=sys.stderr)
        finally:
            process.kill()
            process.wait()
        done = (found - first) / OUTPUTS[case]
        return Run(
            case=case,
            rival=rival,
            round=number,
            records=round(found / OUTPUTS[case]),
            rate=done / took,
            cpu_s=cpu_s,
            cpu_us_per_record=cpu_s * 1e6 / max(done, 1),
            peak_mb=peak_mb,
        )


def usage(pid: int) -> tuple[float, float]:
    """Return the CPU seconds of a process so far, and its peak memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return cpu, peak / 1024


def table(runs: list[dict[str, float | str]]) -> str:
    """Return medians, and how often ottla was as fast as each rival in the same round, as Markdown."""
    lines = [
        "| row | who | records/s | ottla: times as fast (pairs) | CPU µs a record | ottla: times less CPU | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in OUTPUTS:
        ours = {run["round"]: run for run in runs if run["case"] == case and run["rival"] == "ottla"}
        for rival in COMMANDS:
            its = [run for run in runs if run["case"] == case and run["rival"] == rival]
            if not its:
                continue
            ratios = [
                float(ours[run["round"]]["rate"]) / float(run["rate"])
                for run in its
                if run["round"] in ours and run["rate"]
            ]
            costs = [
                float(run["cpu_us_per_record"]) / float(ours[run["round"]]["cpu_us_per_record"])
                for run in its
                if run["round"] in ours and ours[run["round"]]["cpu_us_per_record"]
            ]
            ratio = "" if rival == "ottla" or not ratios else f"{statistics.median(ratios):.2f} ({len(ratios)})"
            cost = "" if rival == "ottla" or not costs else f"{statistics.median(costs):.2f}"
            rate, cpu, peak = (
                statistics.median(float(run[name]) for run in its) for name in ("rate", "cpu_us_per_record", "peak_mb")
            )
            lines.append(f"| {case} | {rival} | {rate:,.0f} | {ratio} | {cpu:.0f} | {cost} | {peak:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*OUTPUTS, "all"], default="all")
    parser.add_argument("--rivals", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=120.0, help="after which a try is cut off")
    parser.add_argument("--state", type=Path, default=STATE, help="file that keeps every try")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    if not chosen.table:
        for rival in chosen.rivals:
            COMMANDS[rival]("filter_map")  # environments are made before the clock starts
        # Timestamps are from 2023: with the default retention the input is gone after five minutes.
        broker = BrokerProcess({"log.retention.ms": "-1"})
        try:
            broker.start()
            with ottla.Admin(broker.address) as admin:
                admin.create_topic("events", partitions=1)
                admin.create_topic("users", partitions=1)
            write_input(broker.address, "events", chosen.records)
            chosen.state.parent.mkdir(parents=True, exist_ok=True)
            for case in OUTPUTS if chosen.case == "all" else [chosen.case]:
                for number in range(chosen.rounds):
                    for rival in chosen.rivals:
                        if case not in ROWS.get(rival, OUTPUTS):
                            continue
                        run = measure(broker, rival, case, number, chosen.records, chosen.seconds)
                        print(
                            f"{case} {rival} round {number}: {run.rate:,.0f} records/s, {run.cpu_s:.1f} CPU s",
                            flush=True,
                        )
                        with chosen.state.open("a") as state:
                            state.write(json.dumps(asdict(run)) + "\n")
        finally:
            broker.close()
    print(table([json.loads(line) for line in chosen.state.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
