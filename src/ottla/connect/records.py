"""Records on their way through Connect."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from ottla.connect.schema import Schema


class Header(NamedTuple):
    """One header; several of a record may have one name."""

    name: str
    schema: Schema | None
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What transforms are given.

    Attributes:
        partition: of the topic; None: the producer chooses.
        timestamp: milliseconds since 1970; None: the time at which it is sent.
    """

    topic: str
    partition: int | None = None
    key_schema: Schema | None = None
    key: Any = None
    value_schema: Schema | None = None
    value: Any = None
    timestamp: int | None = None
    headers: tuple[Header, ...] = ()

    def replace(self, **changes: Any) -> Self:
        """Return this record with some attributes changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord(Record):
    """A record from a source, with the place in the source from which reading goes on after it.

    Attributes:
        source_partition: which part of the source: names and plain values.
        source_offset: the place in it: names and plain values; None: there is none to keep.
    """

    source_partition: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source_offset: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBatch:
    """Values of one topic, without keys and headers, that share a place in the source: reading goes on behind the last one.

    A source that brings lines by the million makes no record of each. Where transforms look at records, they are made.

    Attributes:
        value_schema: the schema of every value.
        timestamp: of all, as a record's.
        source_offset: the place behind the last value.
    """

    topic: str
    values: Sequence[Any]
    value_schema: Schema | None = None
    timestamp: int | None = None
    source_partition: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source_offset: Mapping[str, Any] | None = None

    def records(self) -> list[SourceRecord]:
        """Return a record for each value; the last one has the place."""
        last = len(self.values) - 1
        return [
            SourceRecord(
                topic=self.topic,
                value_schema=self.value_schema,
                value=value,
                timestamp=self.timestamp,
                source_partition=self.source_partition,
                source_offset=self.source_offset if number == last else None,
            )
            for number, value in enumerate(self.values)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a source that no record stands at: it is written down when all records before it are acknowledged."""

    source_partition: Mapping[str, Any]
    source_offset: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRecord(Record):
    """A record from a topic."""

    offset: int
