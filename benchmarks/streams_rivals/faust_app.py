"""The three topologies in faust-streaming, configured by the environment (see benchmarks/streams_speed.py).

Its tables are in memory, with changelogs.
"""

# mypy: ignore-errors
# It runs in an environment of its own, whose packages the type checker does not have.

import os
import sys

import faust

env = os.environ
case = sys.argv.pop(1)
app = faust.App(
    env["BENCH_APP"],
    broker=f"kafka://{env['BENCH_BOOTSTRAP']}",
    datadir=env["BENCH_STATE"],
    processing_guarantee={"at_least_once": "at_least_once", "exactly_once_v2": "exactly_once"}[env["BENCH_GUARANTEE"]],
    broker_commit_interval=int(env["BENCH_COMMIT_MS"]) / 1000,
    topic_partitions=1,
    topic_replication_factor=1,
    topic_disable_leader=True,
    store="memory://",
    consumer_auto_offset_reset="earliest",
    producer_linger=100,
)
source = app.topic(env["BENCH_INPUT"], key_type=str, value_type=None, key_serializer="raw", value_serializer="json")
target = app.topic(env["BENCH_OUTPUT"], key_serializer="raw", value_serializer="json")

match case:
    case "filter_map":

        @app.agent(source)
        async def filter_map(events):
            async for key, event in events.items():
                if event["price"] >= 0:
                    await target.send(key=key, value={"user": event["user"], "total": event["price"] * 2})

    case "word_count":
        words = app.topic(
            f"{env['BENCH_APP']}-words", key_serializer="raw", value_serializer="raw", internal=True, partitions=1
        )
        counts = app.Table("counts", default=int, partitions=1)

        @app.agent(source)
        async def split(events):
            async for event in events:
                for word in event["text"].split():
                    await words.send(key=word, value=word)

        @app.agent(words)
        async def count(stream):
            async for key in stream:  # the word is the value, too
                counts[key] += 1
                await target.send(key=key, value=counts[key])

    case "tumbling":
        sums = app.Table("sums", default=int, partitions=1).tumbling(60.0, expires=120.0)

        @app.agent(source)
        async def add(events):
            async for key, event in events.items():
                sums[key] += event["price"]
                await target.send(key=key, value=sums[key].current())


if __name__ == "__main__":
    app.main()
