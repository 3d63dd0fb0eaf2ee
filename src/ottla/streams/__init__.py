"""Streams: transform, aggregate, window and join topics, exactly once.

    from ottla.streams import App

    app = App("shouting", "localhost:9092")
    app.stream("lines", value=str).map_values(str.upper).to("shouts")
    app.run()

Kafka Streams' model and words. docs/streams.md tells the rest.
"""

from __future__ import annotations

from ottla.streams.errors import RecordError, StreamsError, TopologyError
from ottla.streams.handlers import DeadLetter, Fail, FailedRecord, Retry, Skip
from ottla.streams.keys import Window, Windowed

__all__ = [
    "DeadLetter",
    "Fail",
    "FailedRecord",
    "RecordError",
    "Retry",
    "Skip",
    "StreamsError",
    "TopologyError",
    "Window",
    "Windowed",
]
