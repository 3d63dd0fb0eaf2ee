"""Readings of a real sensor, watched as they come, kept in SQLite and Parquet: each exactly once, whatever is interrupted.

    python examples/water.py                         # starts a broker of its own; writes into ./water
    python examples/water.py --rate 200              # readings a second; without it as fast as they are taken

A producer sends the hourly flow of a water pipeline (1,268 readings of the spring of 2022, the data set WaterFlow of the
package river). A consumer compares each reading with the two days before it, marks what is out of line, stores it. How far
it has read stands in the same SQLite transaction as the readings, so that it goes on exactly there: halfway it
is stopped without warning and another one begins. At the end the table is written as Parquet and drawn.

Needs: pip install ottla[examples].
"""

from __future__ import annotations

import argparse
import math
import sqlite3
import sys
import threading
import time
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import ottla
from ottla import TopicPartition
from ottla.testing import Broker

TOPIC = "water-flow"
READINGS = 1_268
WINDOW_HOURS = 48
#: So many standard deviations from the mean of the window are out of line.
LIMIT = 3.0
#: Readings stored in one transaction.
BATCH = 50


class StoppedError(Exception):
    """The consumer dies here, with readings in hand."""


def send_readings(servers: str, rate: float | None) -> None:
    """Send the readings in the order in which the sensor took them."""
    from river import datasets

    with ottla.Producer(servers, value_serializer=ottla.serde.json()) as producer:
        for features, flow in datasets.WaterFlow():
            at: datetime = features["Time"]
            producer.send(TOPIC, {"time": at.isoformat(), "litres_per_second": flow}, key="pipeline", timestamp=at)
            if rate:
                time.sleep(1 / rate)


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database; `progress` says how far it has come."""
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(
        """
        CREATE TABLE IF NOT EXISTS readings (place INTEGER PRIMARY KEY, time TEXT, flow REAL, deviation REAL, odd INTEGER);
        CREATE TABLE IF NOT EXISTS progress (topic TEXT PRIMARY KEY, next_place INTEGER);
        """
    )
    return database


class Watcher:
    """Knows the readings of the last two days."""

    def __init__(self, before: list[float]) -> None:
        from river import stats, utils

        self._mean = utils.Rolling(stats.Mean, window_size=WINDOW_HOURS)
        self._variance = utils.Rolling(stats.Var, window_size=WINDOW_HOURS)
        self._count = 0
        for flow in before:
            self._learn(flow)

    def _learn(self, flow: float) -> None:
        self._mean.update(flow)
        self._variance.update(flow)
        self._count += 1

    def deviation(self, flow: float) -> float:
        """Return how many standard deviations a reading is from those before it, and remember it."""
        spread = math.sqrt(self._variance.get())
        found = (flow - self._mean.get()) / spread if self._count >= WINDOW_HOURS and spread else 0.0
        self._learn(flow)
        return float(found)


def store(servers: str, path: Path, *, until: int, die_at: int | None = None) -> int:
    """Store readings up to place `until`; return how many this run has stored.

    Raises:
        StoppedError: at place `die_at`, in the middle of a transaction.
    """
    where = TopicPartition(TOPIC, 0)
    stored = 0
    with closing(open_database(path)) as database:
        row = database.execute("SELECT next_place FROM progress WHERE topic = ?", [TOPIC]).fetchone()
        following = row[0] if row else 0
        recent = database.execute("SELECT flow FROM readings ORDER BY place DESC LIMIT ?", [WINDOW_HOURS]).fetchall()
        watcher = Watcher([flow for (flow,) in reversed(recent)])
        with ottla.Consumer(servers, value_deserializer=ottla.serde.json()) as consumer:
            consumer.assign([where])
            consumer.seek(where, following)
            while following < until:
                records = consumer.poll(max_records=BATCH, timeout=1)
                if not records:
                    continue
                database.execute("BEGIN")
                for record in records:
                    reading: Any = record.value
                    flow = reading["litres_per_second"]
                    deviation = watcher.deviation(flow)
                    database.execute(
                        "INSERT INTO readings VALUES (?, ?, ?, ?, ?)",
                        [record.offset, reading["time"], flow, deviation, abs(deviation) > LIMIT],
                    )
                    if die_at is not None and record.offset >= die_at:
                        raise StoppedError
                following = records[-1].offset + 1
                database.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", [TOPIC, following])
                database.execute("COMMIT")
                stored += len(records)
    return stored


def report(path: Path, directory: Path) -> tuple[int, int]:
    """Write Parquet and the picture; return (how many readings there are, how many are out of line)."""
    import matplotlib
    import polars

    matplotlib.use("agg")
    from matplotlib import pyplot

    with closing(open_database(path)) as database:
        rows = database.execute("SELECT place, time, flow, deviation, odd FROM readings ORDER BY place").fetchall()
    frame = polars.DataFrame(rows, schema=["place", "time", "flow", "deviation", "odd"], orient="row").with_columns(
        polars.col("time").str.to_datetime(time_zone="UTC"), polars.col("odd").cast(polars.Boolean)
    )
    frame.write_parquet(directory / "readings.parquet")
    odd = frame.filter(polars.col("odd"))
    figure, axes = pyplot.subplots(figsize=(11, 4))
    axes.plot(frame["time"].to_list(), frame["flow"].to_list(), linewidth=0.8)
    axes.scatter(odd["time"].to_list(), odd["flow"].to_list(), color="crimson", zorder=3, label="out of line")
    axes.set(ylabel="litres per second", title="Flow of a pipeline, spring of 2022")
    axes.legend()
    figure.tight_layout()
    figure.savefig(directory / "water.png", dpi=120)
    by_week = frame.group_by_dynamic("time", every="1w").agg(
        polars.len().alias("readings"),
        polars.col("flow").mean().round(1).alias("mean flow"),
        polars.col("odd").sum().alias("out of line"),
    )
    print(f"{'week of':<12}{'readings':>9}{'mean flow':>11}{'out of line':>13}")
    for week, readings, mean, count in by_week.iter_rows():
        print(f"{week:%Y-%m-%d}  {readings:>9}{mean:>11}{count:>13}")
    return len(frame), len(odd)


def main() -> int:
    """Run it; return 0 if each reading is there once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bootstrap-server", help="a running broker instead of one of its own")
    parser.add_argument("--directory", type=Path, default=Path("water"))
    parser.add_argument("--rate", type=float, help="readings a second")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    path = options.directory / "readings.sqlite"
    path.unlink(missing_ok=True)
    with ExitStack() as stack:
        servers = options.bootstrap_server or stack.enter_context(Broker()).bootstrap_servers
        with ottla.Admin(servers) as admin:
            admin.create_topic(TOPIC, partitions=1, configs={"retention.ms": -1})  # they are old
        sending = threading.Thread(target=send_readings, args=[servers, options.rate])
        sending.start()
        try:
            store(servers, path, until=READINGS, die_at=READINGS // 2)
        except StoppedError:
            print(f"the consumer died at reading {READINGS // 2}; another one goes on where the database says")
        stored = store(servers, path, until=READINGS)
        sending.join()
    found, odd = report(path, options.directory)
    print(
        f"{found} readings, {odd} out of line, {stored} of them stored by the second consumer; see {options.directory}"
    )
    return int(found != READINGS)


if __name__ == "__main__":
    sys.exit(main())
