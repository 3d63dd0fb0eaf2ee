"""Connect beside Apache Kafka's Connect: one broker, the same input, each worker a process of its own.

    python -m benchmarks.connect_speed                              five pairs of each row
    python -m benchmarks.connect_speed --case file_source --pairs 1
    python -m benchmarks.connect_speed --table                      what was measured so far, as Markdown

Rows: file_source (lines of 100 bytes into a topic, FileStreamSource, StringConverter), jdbc_sink (JSON with schemas, five
columns, inserted into PostgreSQL, beside Debezium's JDBC sink), parquet_sink (the same records as Parquet in a folder, files
of 10,000; there is no Parquet sink for Java under a free licence, so it stands alone), parquet_plain (JSON without schemas,
alone), json_lines (as parquet_plain, and the files are lines of JSON).

Equal for both: one `ottla serve`, one task, the converters, an offset file of the worker. Time runs from the first record
that arrived to the last: what a worker needs to start does not count, nor does the JVM's warming up before the first record.
CPU time is that of the worker and the processes it has started, user and system, within that time; memory is what they
share out (PSS) at the end. The JDBC sinks write with the same PostgreSQL, whose CPU time is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from tests.connect.parity.oracle import find_jars
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port
from tests.support.postgres import Postgres

import ottla
from ottla.types import TopicPartition

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ottla-benchmarks" / "connect"
STATE = Path("benchmarks/results/connect_speed.jsonl")
DEBEZIUM = "3.2.0.Final"
POLL_S = 0.02
PATIENCE_S = 180.0
TICKS = os.sysconf("SC_CLK_TCK")
CASES = ("file_source", "jdbc_sink", "parquet_sink", "parquet_plain", "json_lines")
#: Rows that have a rival.
BESIDE = ("file_source", "jdbc_sink")
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_STRING = "org.apache.kafka.connect.storage.StringConverter"
_SCHEMA = {
    "type": "struct",
    "optional": False,
    "name": "order",
    "fields": [
        {"field": "id", "type": "int64", "optional": False},
        {"field": "item", "type": "string", "optional": False},
        {"field": "price", "type": "double", "optional": False},
        {"field": "note", "type": "string", "optional": True},
        {
            "field": "at",
            "type": "int64",
            "optional": False,
            "name": "org.apache.kafka.connect.data.Timestamp",
            "version": 1,
        },
    ],
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One worker's try at one row."""

    case: str
    who: str
    pair: int
    records: int
    rate: float
    cpu_us_per_record: float
    peak_mb: float
    load: float


def order(number: int) -> dict[str, object]:
    """Return one row."""
    note = None if number % 3 else f"note {number}"
    return {
        "id": number,
        "item": f"pen-{number % 997}",
        "price": number % 10000 / 100,
        "note": note,
        "at": 1_700_000_000_000 + number,
    }


def write_input(address: str, folder: Path, records: int) -> None:
    """Write the file of lines, and the topics of rows with schemas and without."""
    with (folder / "lines.txt").open("w") as file:
        for number in range(records):
            file.write(f"{number:012d} ".ljust(99, "x") + "\n")
    with ottla.Producer(address) as producer:
        for number in range(records):
            row = order(number)
            producer.send("orders", json.dumps({"schema": _SCHEMA, "payload": row}, separators=(",", ":")))
            producer.send("plain", json.dumps(row, separators=(",", ":")))


def debezium() -> str:
    """Return the class path of Debezium's sink; Maven brings it at the first use."""
    folder = CACHE / f"debezium-{DEBEZIUM}"
    if not (folder / "lib").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>speed</groupId>'
            "<artifactId>speed</artifactId><version>1</version><dependencies><dependency><groupId>io.debezium</groupId>"
            f"<artifactId>debezium-connector-jdbc</artifactId><version>{DEBEZIUM}</version></dependency></dependencies></project>\n"
        )
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        subprocess.run([*command, f"-DoutputDirectory={folder / 'lib'}"], cwd=folder, check=True, timeout=600)
    return f"{folder}/lib/*"


def connector(case: str, who: str, name: str, folder: Path, database: Postgres) -> dict[str, str]:
    """Return the connector's configuration."""
    plain = {"value.converter.schemas.enable": "false"} if case in ("parquet_plain", "json_lines") else {}
    sink = {"name": name, "tasks.max": "1", "topics": "plain" if plain else "orders", "value.converter": _JSON} | plain
    match case:
        case "file_source":
            return {
                "name": name,
                "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
                "tasks.max": "1",
                "file": str(folder.parent / "lines.txt"),
                "topic": name,
                "value.converter": _STRING,
            }
        case "jdbc_sink" if who == "ottla":
            return sink | {
                "connector.class": "JdbcSinkConnector",
                "connection.url": database.url,
                "table.name.format": name,
                "auto.create": "true",
                "pk.mode": "record_value",
                "pk.fields": "id",
                "consumer.override.max.poll.records": "3000",
            }
        case "jdbc_sink":
            return sink | {
                "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
                "connection.url": f"jdbc:postgresql://127.0.0.1:{database.port}/postgres",
                "connection.username": "postgres",
                "connection.password": "x",
                "collection.name.format": name,
                "schema.evolution": "basic",
                "insert.mode": "insert",
                "primary.key.mode": "record_value",
                "primary.key.fields": "id",
                "batch.size": "3000",
                "consumer.override.max.poll.records": "3000",
            }
    return sink | {
        "connector.class": "FilesSinkConnector",
        "store.url": f"file://{folder}/lake",
        "format": "jsonl" if case == "json_lines" else "parquet",
    }


def command_of(who: str, folder: Path, address: str, given: Mapping[str, str], case: str) -> list[str]:
    """Write the worker's files; return its command."""
    worker = {
        "bootstrap.servers": address,
        "listeners": f"http://127.0.0.1:{free_port()}",
        "key.converter": _STRING,
        "value.converter": _STRING,
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "1000",
        "connector.client.config.override.policy": "All",
    }
    for name, values in (("worker", worker), ("connector", given)):
        (folder / f"{name}.properties").write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    if who == "ottla":
        return [sys.executable, "-m", "ottla", "connect", "run", "worker.properties", "connector.properties"]
    jars = find_jars(CACHE / "kafka") + (f":{debezium()}" if case == "jdbc_sink" else "")
    options = ["-Xmx1g", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]
    return [
        "java",
        *options,
        "-cp",
        jars,
        "org.apache.kafka.connect.cli.ConnectStandalone",
        "worker.properties",
        "connector.properties",
    ]


def progress(
    case: str, name: str, folder: Path, address: str, database: Postgres
) -> tuple[Callable[[], int], Callable[[], None]]:
    """Return what says how many records arrived, and what ends it."""
    if case == "jdbc_sink":
        session = psycopg.connect(database.conninfo, autocommit=True)

        def rows() -> int:
            try:
                found = session.execute(f'SELECT max(id) FROM "{name}"').fetchone()
            except psycopg.errors.UndefinedTable:
                return 0
            return 0 if not found or found[0] is None else int(found[0]) + 1

        return rows, session.close
    if case == "file_source":
        consumer: ottla.Consumer = ottla.Consumer(address)
        where = TopicPartition(name, 0)
        return lambda: consumer.end_offsets([where])[where], consumer.close

    def files() -> int:
        """A file's name says its range (orders+0+0000000000-0000010000.id.parquet): the last one's end counts them all."""
        ends = [path.name.rpartition("-")[2].partition(".")[0] for path in folder.glob("lake/topics/*/*+*")]
        return max((int(end) for end in ends if end.isdigit()), default=0)

    return files, lambda: None


def family(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    found, new = set(), {pid}
    while new:
        found |= new
        children: set[int] = set()
        for process in new:
            for path in Path(f"/proc/{process}/task").glob("*/children"):
                try:
                    children |= {int(child) for child in path.read_text().split()}
                except OSError:
                    pass
        new = children - found
    return found


def usage(pid: int) -> tuple[float, float]:
    """Return the CPU seconds of a worker's processes, and their memory in MB."""
    cpu = memory = 0.0
    for process in family(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            cpu += sum(int(field) for field in fields[11:15]) / TICKS
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            memory += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024
        except (OSError, StopIteration):
            pass
    return cpu, memory


def measure(address: str, home: Path, database: Postgres, case: str, who: str, pair: int, records: int) -> Run:
    """Run one worker on one row."""
    name = f"{who}_{case}_{pair}_{time.time_ns() % 10**9}"
    folder = home / name
    folder.mkdir()
    if case == "file_source":
        with ottla.Admin(address) as admin:
            admin.create_topic(name, partitions=1)
    given = connector(case, who, name, folder, database)
    command = command_of(who, folder, address, given, case)
    arrived, close = progress(case, name, folder, address, database)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=os.environ | {"LC_ALL": "C.UTF-8"})
    try:
        first = found = 0
        began = now = time.monotonic()
        started, cpu_before, peak = began, 0.0, 0.0
        while found < records:
            if process.poll() is not None or now > started + PATIENCE_S:
                raise RuntimeError(f"{who} ended, or is too slow, at {found}: {(folder / 'log').read_text()[-3000:]}")
            found, now = arrived(), time.monotonic()
            if found and not first:
                began, first, cpu_before = now, found, usage(process.pid)[0]
            time.sleep(POLL_S)
        cpu, peak = usage(process.pid)
    finally:
        process.kill()
        process.wait()
        close()
    shutil.rmtree(folder)
    done = records - first
    return Run(
        case=case,
        who=who,
        pair=pair,
        records=records,
        rate=done / (now - began),
        cpu_us_per_record=(cpu - cpu_before) * 1e6 / done,
        peak_mb=peak,
        load=os.getloadavg()[0],
    )


def table(runs: list[dict[str, float | str]]) -> str:
    """Return medians and the medians of the pairs' ratios, as Markdown."""
    lines = [
        "| row | pairs | records/s | Java | ratio | CPU a record | Java | ratio | memory | Java |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        by = {
            who: {run["pair"]: run for run in runs if run["case"] == case and run["who"] == who}
            for who in ("ottla", "java")
        }
        if not by["ottla"]:
            continue

        def middle(who: str, what: str, by: dict[str, dict[float | str, dict[str, float | str]]] = by) -> float:
            return statistics.median(float(run[what]) for run in by[who].values())

        def ratio(what: str, by: dict[str, dict[float | str, dict[str, float | str]]] = by) -> str:
            pairs = [
                (float(run[what]), float(by["java"][pair][what]))
                for pair, run in by["ottla"].items()
                if pair in by["java"]
            ]
            return f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}x" if pairs else ""

        theirs = by["java"]
        cells = [case, str(len(by["ottla"]))]
        cells += [f"{middle('ottla', 'rate'):,.0f}", f"{middle('java', 'rate'):,.0f}" if theirs else "", ratio("rate")]
        cells += [f"{middle('ottla', 'cpu_us_per_record'):.1f} us"]
        cells += [f"{middle('java', 'cpu_us_per_record'):.1f} us" if theirs else "", ratio("cpu_us_per_record")]
        cells += [f"{middle('ottla', 'peak_mb'):.0f} MB", f"{middle('java', 'peak_mb'):.0f} MB" if theirs else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--who", nargs="+", choices=["ottla", "java"], default=["ottla", "java"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--state", type=Path, default=STATE, help="file that keeps every try")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    if not chosen.table:
        chosen.state.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="connect-speed-") as folder,
            BrokerProcess({}) as broker,
            Postgres() as database,
        ):
            write_input(broker.address, Path(folder), chosen.records)
            for case in chosen.case:
                for pair in range(chosen.pairs):
                    for who in chosen.who:
                        if who == "java" and case not in BESIDE:
                            continue
                        run = measure(broker.address, Path(folder), database, case, who, pair, chosen.records)
                        print(
                            f"{case} {who} {pair}: {run.rate:,.0f} records/s, {run.cpu_us_per_record:.1f} us",
                            flush=True,
                        )
                        with chosen.state.open("a") as state:
                            state.write(json.dumps(asdict(run)) + "\n")
    print(table([json.loads(line) for line in chosen.state.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
