"""Streams: transform, aggregate, window and join topics, exactly once.

    from ottla.streams import App

    app = App("shouting", "localhost:9092")
    app.stream("lines", value=str).map_values(str.upper).to("shouts")
    app.run()

Kafka Streams' model and words. docs/streams.md tells the rest.
"""

from __future__ import annotations

from ottla.streams.agents import Records
from ottla.streams.app import App
from ottla.streams.errors import RecordError, StoreMovingError, StreamsError, TopologyError
from ottla.streams.expressions import col, count, lit
from ottla.streams.handlers import DeadLetter, Fail, FailedRecord, Retry, Skip
from ottla.streams.keys import Window, Windowed
from ottla.streams.records import Record
from ottla.streams.windows import hopping, session, sliding, tumbling

__all__ = [
    "App",
    "DeadLetter",
    "Fail",
    "FailedRecord",
    "Record",
    "RecordError",
    "Records",
    "Retry",
    "Skip",
    "StoreMovingError",
    "StreamsError",
    "TopologyError",
    "Window",
    "Windowed",
    "col",
    "count",
    "hopping",
    "lit",
    "session",
    "sliding",
    "tumbling",
]
