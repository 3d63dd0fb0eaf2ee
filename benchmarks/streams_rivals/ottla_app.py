"""The topologies in ottla, with functions and with columns, as the environment says (see benchmarks/streams_speed.py)."""

import os
import sys
from typing import Any

from ottla.streams import App, col, tumbling

env = os.environ
app = App(
    env["BENCH_APP"],
    env["BENCH_BOOTSTRAP"],
    processing_guarantee="exactly_once_v2" if env["BENCH_GUARANTEE"] == "exactly_once_v2" else "at_least_once",
    config={
        "commit.interval.ms": int(env["BENCH_COMMIT_MS"]),
        "state.dir": env["BENCH_STATE"],
        "auto.offset.reset": "earliest",
        "statestore.cache.max.bytes": 0,
    },
)
source, target = env["BENCH_INPUT"], env["BENCH_OUTPUT"]
case = sys.argv[1]
# One topic is read in one way.
events: Any = None if case.endswith("_columns") else app.stream(source, key=str, value="json")
rows: Any = app.stream(source, key=str, columns=True) if events is None else None

match case:
    case "filter_map":
        large = events.filter(lambda key, event: event["price"] >= 0)
        large.map_values(lambda event: {"user": event["user"], "total": event["price"] * 2}).to(target)
    case "word_count":
        words = events.flat_map_values(lambda event: event["text"].split())
        counts = words.group_by(lambda key, word: word, key=str, value=str).count(store="counts")
        counts.to_stream().to(target, key=str, value="json")
    case "tumbling":
        windows = events.group_by_key().windowed_by(tumbling("1m"))
        sums = windows.aggregate(
            lambda: 0, lambda key, event, total: total + event["price"], value="json", store="sums"
        )
        sums.to_stream().map(lambda window, total: (window.key, total)).to(target, key=str, value="json")
    case "table_join":
        users = app.table("users", key=str, value="json", store="users")
        joined = events.join(users, lambda event, user: {"name": user["name"], "price": event["price"]})
        joined.to(target, key=str, value="json")
    case "filter_map_columns":
        rows.filter(col("price") >= 0).select("user", total=col("price") * 2).to(target)
    case "tumbling_columns":
        sums = rows.group_by_key().windowed_by(tumbling("1m")).agg(total=col("price").sum(), store="sums")
        sums.to_stream().map(lambda window, row: (window.key, row["total"])).to(target, key=str, value="json")

if __name__ == "__main__":
    app.run()
