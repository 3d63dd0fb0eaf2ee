"""A table that is written all the time, followed by Connect: into a topic, from there into files and into another database.

    python examples/lake.py                  # PostgreSQL if its programs are installed, else SQLite
    python examples/lake.py --seconds 60     # write for longer
    make connect-demo                        # the same, with all that it needs

One source connector reads new and changed rows; one sink writes Parquet files, another one a copy of the table. While rows
are written Connect is killed twice, and started again. At the end the copy is the table, row for row, and so are the newest
versions in the files. The folder `lake/` has all of it, and `lake/flow.png` is a picture of what was behind.

Needs: pip install ottla[examples,sql,files].
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow.dataset
from sqlalchemy import Engine, create_engine, text

from ottla.testing import Broker

FIELDS = "id, item, status, version"
KILLS = 2
CONVERTERS = "".join(f"{side}.converter=org.apache.kafka.connect.json.JsonConverter\n" for side in ("key", "value"))
WORKER = """
bootstrap.servers={address}
listeners=
offset.storage.file.filename=offsets
offset.flush.interval.ms=500
consumer.session.timeout.ms=6000
consumer.heartbeat.interval.ms=1000
"""
SOURCE = """
name=table
connector.class=JdbcSourceConnector
connection.url={url}
table.whitelist=orders
topic.prefix=shop.
mode=timestamp+incrementing
timestamp.column.name=written
incrementing.column.name=id
poll.interval.ms=200
batch.max.rows=500
timestamp.delay.interval.ms={delay}
transforms=key,id
transforms.key.type=org.apache.kafka.connect.transforms.ValueToKey
transforms.key.fields=id
transforms.id.type=org.apache.kafka.connect.transforms.ExtractField$Key
transforms.id.field=id
"""
FILES = """
name=files
connector.class=FilesSinkConnector
topics=shop.orders
store.url=file:store
flush.size=500
rotate.interval.ms=1000
"""
COPY = """
name=copy
connector.class=JdbcSinkConnector
topics=shop.orders
table.name.format=orders
connection.url=jdbc:sqlite:copy.db
insert.mode=upsert
pk.mode=record_key
pk.fields=id
auto.create=true
"""


class Shop:
    """The table, and what happens to it."""

    def __init__(self, address: str, now: str) -> None:
        self.engine: Engine = create_engine(address)
        self._now = now
        self._dice = random.Random(7)
        self.stop = threading.Event()
        kind = "TIMESTAMPTZ" if now == "now()" else "TIMESTAMP"
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, item TEXT NOT NULL, status TEXT NOT NULL, "
                    f"version INTEGER NOT NULL, written {kind} NOT NULL)"
                )
            )

    def work(self) -> None:
        """Add rows and change others, a few at a time, until `stop`."""
        rows = 0
        while not self.stop.wait(0.05):
            with self.engine.begin() as connection:
                new = [
                    {"id": number, "item": self._dice.choice(["pen", "lamp", "chair"])}
                    for number in range(rows, rows + 10)
                ]
                connection.execute(
                    text(f"INSERT INTO orders VALUES (:id, :item, 'new', 1, {self._now})"),
                    new,
                )
                rows += len(new)
                changed = [
                    {"id": self._dice.randrange(rows), "status": self._dice.choice(["paid", "sent"])} for _ in range(5)
                ]
                change = (
                    f"UPDATE orders SET status = :status, version = version + 1, written = {self._now} WHERE id = :id"
                )
                connection.execute(text(change), changed)

    def rows(self) -> list[tuple[object, ...]]:
        return rows_of(self.engine)


def rows_of(engine: Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {FIELDS} FROM orders ORDER BY id"))]


def copied(folder: Path) -> list[tuple[object, ...]]:
    """Return the rows of the copy."""
    if not (folder / "copy.db").exists():
        return []
    engine = create_engine(f"sqlite:///{folder / 'copy.db'}")
    try:
        with engine.connect() as connection:
            if not connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'orders'")).all():
                return []
        return rows_of(engine)
    finally:
        engine.dispose()


def filed(folder: Path) -> tuple[int, list[tuple[object, ...]]]:
    """Return how many records are in the files, and the newest version of each row."""
    lake = folder / "store" / "topics" / "shop.orders"
    if not lake.exists():
        return 0, []
    records = pyarrow.dataset.dataset(lake, format="parquet").to_table(columns=FIELDS.split(", ")).to_pylist()
    newest = {record["id"]: tuple(record.values()) for record in sorted(records, key=lambda record: record["version"])}
    return len(records), [newest[number] for number in sorted(newest)]


def start_connect(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ottla", "connect", "run", "worker", "table", "files", "copy"]
    log = (folder / "connect.log").open("ab")
    with log:
        return subprocess.Popen(
            [*command[:5], *(f"{name}.properties" for name in command[5:])], cwd=folder, stdout=log, stderr=log
        )


def draw(path: Path, seconds: list[float], behind: list[int], kills: list[float]) -> None:
    """Draw how many changes the copy lacks, and when Connect was killed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.5), layout="constrained")
    axes.fill_between(seconds, behind, alpha=0.3)
    axes.plot(seconds, behind)
    for moment in kills:
        axes.axvline(moment, color="tab:red", linestyle="--")
    axes.set(xlabel="seconds (red: Connect is killed)", ylabel="changes that the copy lacks", ylim=(0, None))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def follow(shop: Shop, folder: Path, seconds: float) -> tuple[list[float], list[int], list[float]]:
    """Write for so long, kill Connect when the copy has grown, and wait until nothing is behind.

    Returns:
        When it was looked, how many changes the copy lacked then, and when Connect was killed.
    """
    connect = start_connect(folder)
    writer = threading.Thread(target=shop.work)
    writer.start()
    began = time.monotonic()
    seen: list[float] = []
    behind: list[int] = []
    kills: list[float] = []
    started, reached = 0.0, 0
    print(f"{'second':>6} {'rows':>7} {'versions':>9} {'in the copy':>12} {'in files':>9} {'behind':>7}")
    try:
        while True:
            now = time.monotonic() - began
            if now >= seconds and len(kills) == KILLS:
                shop.stop.set()
                writer.join()
            table, copy, (records, newest) = shop.rows(), copied(folder), filed(folder)
            lacking = sum(int(str(row[3])) for row in table) - sum(int(str(row[3])) for row in copy)
            seen.append(now)
            behind.append(lacking)
            versions = sum(int(str(row[3])) for row in table)
            print(f"{now:6.1f} {len(table):7} {versions:9} {len(copy):12} {records:9} {lacking:7}", flush=True)
            if len(kills) < KILLS and len(copy) > reached and now - started >= seconds / (KILLS + 2):
                connect.kill()
                connect.wait()
                connect = start_connect(folder)
                started, reached = now, len(copy)
                kills.append(now)
                print("       Connect is killed, and started again")
            if not writer.is_alive() and table == copy == newest:
                return seen, behind, kills
            if connect.poll() is not None:
                raise SystemExit(f"Connect has ended: {(folder / 'connect.log').read_text()[-2000:]}")
            if now > seconds + 120:
                raise SystemExit("The copy does not become the table: see lake/connect.log")
            time.sleep(1)
    finally:
        shop.stop.set()
        writer.join()
        connect.terminate()
        connect.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="how long rows are written at least (20)")
    parser.add_argument("--sqlite", action="store_true", help="a table of SQLite, although PostgreSQL is installed")
    chosen = parser.parse_args()
    folder = Path("lake").absolute()
    if folder.exists():
        raise SystemExit("The folder lake/ is there: remove it, or run this somewhere else.")
    folder.mkdir()
    with ExitStack() as stack:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.support.postgres import Postgres, programs

        if programs() is None or chosen.sqlite:
            print("The table is SQLite's (with PostgreSQL's programs installed it is a real server's).")
            url, delay = f"jdbc:sqlite:{folder / 'shop.db'}", 1000
            shop = Shop(f"sqlite:///{folder / 'shop.db'}", "strftime('%Y-%m-%d %H:%M:%f', 'now')")
        else:
            server = stack.enter_context(Postgres())
            url, delay = server.url, 0
            shop = Shop(f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres", "now()")
        stack.callback(shop.engine.dispose)
        broker = stack.enter_context(Broker({"group.initial.rebalance.delay.ms": 0}))
        given = {"address": broker.bootstrap_servers, "url": url, "delay": delay}
        for name, told in {"worker": WORKER, "table": SOURCE, "files": FILES, "copy": COPY}.items():
            (folder / f"{name}.properties").write_text(told.format(**given).lstrip() + CONVERTERS)
        seen, behind, kills = follow(shop, folder, chosen.seconds)
        draw(folder / "flow.png", seen, behind, kills)
        records, _ = filed(folder)
        rows = shop.rows()
        print(f"The copy is the table: {len(rows)} rows, {sum(int(str(row[3])) for row in rows)} versions of them.")
        print(
            f"The files have {records} records, and of each row the newest version. Connect was killed {len(kills)} times."
        )
        print("lake/flow.png is the picture; pyarrow.dataset.dataset('lake/store/topics/shop.orders') reads the files.")


if __name__ == "__main__":
    main()
