"""The application that is killed: words counted, and clicks counted by user and second."""

from __future__ import annotations

import os

from ottla.streams import App
from ottla.streams.windows import tumbling

#: What is not the same for both kinds of groups: the broker has the times of a streams group.
_GROUP: dict[str, object] = {"session.timeout.ms": "6s", "heartbeat.interval.ms": "500ms"}
if os.environ.get("COUNTING_PROTOCOL") == "streams":
    _GROUP = {"group.protocol": "streams"}

app = App(
    os.environ.get("COUNTING_APP", "counting"),
    processing_guarantee="exactly_once_v2",
    config={
        "commit.interval.ms": "100ms",
        # Each count is looked at: a cache gives only the last of each commit.
        "statestore.cache.max.bytes": 0,
        **_GROUP,
        "transaction.timeout.ms": "6s",
        "producer.linger.ms": "0",
        "state.dir": os.environ.get("COUNTING_STATE"),
        "application.server": os.environ.get("COUNTING_SERVER"),
        "num.standby.replicas": os.environ.get("COUNTING_STANDBYS"),
        # Queries are compared with what was counted, which is to be there at the end.
        "repartition.purge.interval.ms": "1d" if os.environ.get("COUNTING_SERVER") else "30s",
    },
)

(
    app.stream("lines", value=str)
    .flat_map_values(str.split)
    .group_by(lambda key, word: word, key=str, value=str, name="words")
    .count(store="counts")
    .to_stream()
    .to("counts", key=str, value="json")
)
(
    app.stream("clicks", key=str, value=str)
    .group_by_key()
    .windowed_by(tumbling("1s", grace="1d"))
    .count(store="by-second")
    .to_stream()
    .map(lambda window, count: (f"{window.key}@{window.window.start}", count))
    .to("by-second", key=str, value="json")
)
