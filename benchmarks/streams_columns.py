"""A task that filters ticks, computes a field and keeps candles of a minute: with functions and with columns.

    python -m benchmarks.streams_columns [--records 100000] [--pairs 5]

No broker: records of bytes go into a task, outputs of bytes come out of it, stores are in memory. Both get the same JSON
records in runs of 200, have a cache and a flush after each 10,000 records; what they write to the topic of results is
compared. Pairs alternate; the ratio is the median of theirs. CPU seconds of the process are counted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

from ottla.streams import App, col, count, tumbling
from ottla.streams.caching import CacheBudget
from ottla.streams.context import InputRecord
from ottla.streams.store import MemoryStore
from ottla.streams.task import Task

RUN = 200
FLUSH = 10_000


def functions() -> App:
    app = App("functions")

    def add(key: str, row: dict[str, Any], so_far: list[Any]) -> list[Any]:
        total, number, largest, rows = so_far
        price, volume = row["price"], row["total"]
        return [total + price, number + 1, volume if largest is None or volume > largest else largest, rows + 1]

    ticks = app.stream("ticks", key=str, value="json").filter(lambda key, row: row["price"] > 5)
    priced = ticks.map_values(lambda row: {**row, "total": row["price"] * row["size"]})
    windowed = priced.group_by_key().windowed_by(tumbling("1m"))
    table = windowed.aggregate(lambda: [0.0, 0, None, 0], add, value="json", store="candles")
    table.map_values(
        lambda found: {"price_mean": found[0] / found[1], "total_max": found[2], "count": found[3]}, value="json"
    ).to_stream().to("candles")
    return app


def columns() -> App:
    app = App("columns")
    ticks = app.stream("ticks", key=str, columns=True).filter(col("price") > 5)
    windowed = ticks.with_columns(total=col("price") * col("size")).group_by_key().windowed_by(tumbling("1m"))
    windowed.agg(col("price").mean(), col("total").max(), count(), store="candles").to_stream().to("candles")
    return app


def records(number: int) -> list[InputRecord]:
    dice = random.Random(1)
    found = []
    for offset in range(number):
        key = f"symbol {dice.randrange(100)}"
        row = {"symbol": key, "price": round(dice.random() * 100, 2), "size": dice.randint(1, 500), "venue": "X"}
        found.append(InputRecord("ticks", 0, offset, offset * 5, key.encode(), json.dumps(row).encode()))
    return found


def run(app: App, given: list[InputRecord]) -> tuple[float, list[tuple[bytes | None, bytes | None]]]:
    """Return (CPU seconds, results)."""
    (sub,) = app.topology().sub_topologies
    task = Task(
        sub,
        0,
        {spec.name: MemoryStore() for spec in sub.stores},
        application_id="a",
        clock=lambda: 0,
        partition_count=lambda topic: 1,
        cache=CacheBudget(10 << 20),
    )
    outputs = []
    began = time.process_time()
    for first in range(0, len(given), RUN):
        part = given[first : first + RUN]
        if task.takes_runs("ticks"):
            outputs += task.process_run(part)
        else:
            for record in part:
                outputs += task.process(record)
        if (first + RUN) % FLUSH == 0:
            outputs += task.flush()
    outputs += task.flush()
    took = time.process_time() - began
    return took, [(output.key, output.value) for output in outputs if output.topic == "candles"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    given = records(asked.records)
    ratios, rates = [], {"functions": [], "columns": []}  # type: ignore[var-annotated]
    for _ in range(asked.pairs):
        took_rows, by_rows = run(functions(), given)
        took_columns, by_columns = run(columns(), given)
        if by_rows != by_columns:
            raise SystemExit("functions and columns have different results")
        ratios.append(took_rows / took_columns)
        rates["functions"].append(len(given) / took_rows)
        rates["columns"].append(len(given) / took_columns)
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):,.0f} records per CPU second")
    print(f"columns / functions: {statistics.median(ratios):.2f} (of {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
