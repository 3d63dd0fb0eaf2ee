"""What goes wrong in an app: in its topology, in a record, in an operator."""

from __future__ import annotations


class StreamsError(Exception):
    """Everything that this package raises by itself."""


class TopologyError(StreamsError, ValueError):
    """The topology cannot be built or run as it is; the message says which part and what to do."""


class MutationError(StreamsError):
    """An operator changed an object that other operators are given, too; the test driver finds it."""


class RecordError(StreamsError):
    """A record that an app could not handle. The cause is what was raised there.

    Attributes:
        topic, partition, offset: where the record came from; None between records (a punctuation).
        operator: the name of the node that failed.
        stage: "deserialization", "processing" or "production".
    """

    def __init__(
        self,
        stage: str,
        operator: str,
        topic: str | None,
        partition: int | None,
        offset: int | None,
        reason: str,
    ) -> None:
        self.stage = stage
        self.operator = operator
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.reason = reason
        where = "a punctuation" if topic is None else f"the record at {topic}-{partition}, offset {offset},"
        super().__init__(f"{operator} failed on {where} while {_DOING[stage]}: {reason}")

    def __reduce__(self) -> tuple[type[RecordError], tuple[str | int | None, ...]]:
        return type(self), (self.stage, self.operator, self.topic, self.partition, self.offset, self.reason)


_DOING = {
    "deserialization": "reading it",
    "processing": "processing it",
    "production": "writing what came of it",
}
