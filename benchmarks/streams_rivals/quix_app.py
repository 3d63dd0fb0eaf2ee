"""The three topologies in Quix Streams, configured by the environment (see benchmarks/streams_speed.py)."""

# mypy: ignore-errors
# It runs in an environment of its own, whose packages the type checker does not have.

import os
import sys

from quixstreams import Application
from quixstreams.models import TopicConfig

env = os.environ
app = Application(
    broker_address=env["BENCH_BOOTSTRAP"],
    consumer_group=env["BENCH_APP"],
    auto_offset_reset="earliest",
    commit_interval=int(env["BENCH_COMMIT_MS"]) / 1000,
    processing_guarantee={"at_least_once": "at-least-once", "exactly_once_v2": "exactly-once"}[env["BENCH_GUARANTEE"]],
    state_dir=env["BENCH_STATE"],
    topic_create_timeout=60,
    loglevel="ERROR",
)
source = app.topic(env["BENCH_INPUT"], key_deserializer="str", value_deserializer="json")
target = app.topic(
    env["BENCH_OUTPUT"],
    key_serializer="str",
    value_serializer="json",
    config=TopicConfig(num_partitions=1, replication_factor=1),
)
frame = app.dataframe(source)


def add_one(value, state):
    count = state.get("count", 0) + 1
    state.set("count", count)
    return count


match sys.argv[1]:
    case "filter_map":
        frame = frame.filter(lambda event: event["price"] >= 0)
        frame = frame.apply(lambda event: {"user": event["user"], "total": event["price"] * 2})
    case "word_count":
        frame = frame.apply(lambda event: event["text"].split(), expand=True)
        frame = frame.group_by(lambda word: word, name="word")
        frame = frame.apply(add_one, stateful=True)
    case "tumbling":
        frame = (
            frame.tumbling_window(60_000)
            .reduce(reducer=lambda total, event: total + event["price"], initializer=lambda event: event["price"])
            .current()
        )
        frame = frame.apply(lambda window: window["value"])
frame.to_topic(target)

if __name__ == "__main__":
    app.run()
