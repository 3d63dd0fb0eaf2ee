"""Which records make which files of one partition, so that each record is in one file, whatever dies when.

Decides, and knows no store. Records from `start` on are held until the range is closed, by their number, their age, or a
schema that does not fit the others. The closed range is written down first: an intent, named by its start, made only if
there is none. Then come the files, named by the range, made only if they are not there; then the intent is marked as done.
A task that finds an intent of another one (it was killed, or has lost the partition meanwhile) does not argue: it takes the
range as it stands there and writes the very same files. So it does not matter who writes them, or how often.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from ottla.connect.errors import ConnectError
from ottla.connect.records import SinkRecord
from ottla.connect.schema import INTEGER_BITS, Schema, Type


@dataclass(frozen=True, slots=True)
class Intent:
    """A range of offsets that is to be files; `end` is the offset behind it."""

    start: int
    end: int
    done: bool = False

    def to_bytes(self) -> bytes:
        """Return it as it is written down."""
        return json.dumps({"start": self.start, "end": self.end, "done": self.done}).encode()


def read_intent(data: bytes, place: str) -> Intent:
    """Return an intent that was written down.

    Raises:
        ConnectError: it is none.
    """
    try:
        found = json.loads(data)
        return Intent(int(found["start"]), int(found["end"]), bool(found["done"]))
    except (ValueError, KeyError, TypeError):
        raise ConnectError(f"{place} is no intent of a range of offsets: {data[:100]!r}") from None


@dataclass(frozen=True, slots=True)
class Range:
    """Records that are to be files now. `known`: the intent stands already."""

    intent: Intent
    records: tuple[SinkRecord, ...]
    known: bool


@dataclass(slots=True)
class PartitionPlan:
    """The records of one partition that are in no file yet.

    Attributes:
        next: the lowest offset that has not been taken.
        intent: the range that is to be finished, if one stands already.
        committed: everything before it is in files; None: nothing is known.
    """

    flush_size: int
    rotate_ms: int
    next: int = 0
    intent: Intent | None = None
    committed: int | None = None
    records: list[SinkRecord] = field(default_factory=list)
    #: What the records have in common; None: no schema yet, or values without one.
    schema: Schema | None = None
    since_ms: int = 0
    rotations_for_schemas: int = 0

    def resume(self, last: Intent | None) -> int | None:
        """Take the last intent of the partition; return the offset to go on at, None where the group says it."""
        if last is None:
            return None
        if last.done:
            self.next = self.committed = last.end
        else:
            self.next, self.intent = last.start, last
        return self.next

    def take(self, record: SinkRecord, now_ms: int) -> Range | None:
        """Take a record; return a range that is closed by it, which the record does not belong to."""
        if record.offset < self.next:
            return None  # it is here already: the batch came again
        closed = None
        if self.intent is not None and record.offset >= self.intent.end:
            closed = self._close(self.intent.end)
        elif self.records and self.intent is None and not self._fits(record):
            self.rotations_for_schemas += 1
            closed = self._close(record.offset)
        if closed is not None:
            return closed
        if not self.records:
            self.since_ms, self.schema = now_ms, record.value_schema
        elif self.intent is not None and not self._fits(record):
            raise ConnectError(
                f"The value at offset {record.offset} does not fit those of its range from {self.intent.start}"
            )
        self.records.append(record)
        self.next = record.offset + 1
        return None

    def _fits(self, record: SinkRecord) -> bool:
        if record.value_schema is self.schema or record.value_schema == self.schema:
            return True
        if self.schema is None or record.value_schema is None:
            return False
        wider = widened(self.schema, record.value_schema)
        if wider is None:
            return False
        self.schema = wider
        return True

    def due(self, now_ms: int) -> Range | None:
        """Return the range if it is closed: by its intent, or large or old enough."""
        if not self.records:
            return None
        if self.intent is not None:
            return self._close(self.intent.end) if self.next >= self.intent.end else None
        if len(self.records) >= self.flush_size or now_ms - self.since_ms >= self.rotate_ms:
            return self._close(self.next)
        return None

    def _close(self, end: int) -> Range:
        intent = self.intent or Intent(self.records[0].offset, end)
        mine = tuple(record for record in self.records if record.offset < intent.end)
        return Range(intent, mine, self.intent is not None)

    def adopt(self, there: Intent) -> None:
        """Take another task's intent for the range that was to be closed: its end counts."""
        self.intent = there

    def published(self, intent: Intent) -> None:
        """Forget the records of a range whose files are there."""
        self.committed = intent.end
        self.records = [record for record in self.records if record.offset >= intent.end]
        self.intent = None
        self.next = max(self.next, intent.end)


def widened(one: Schema, other: Schema) -> Schema | None:
    """Return the schema that values of both fit, or None."""
    if one == other:
        return one
    optional = one.optional or other.optional
    if one.type is not other.type or one.name != other.name:
        bits = (INTEGER_BITS.get(one.type), INTEGER_BITS.get(other.type))
        if None not in bits and one.name is None and other.name is None:
            wide = one if bits[0] > bits[1] else other  # type: ignore[operator]
            return wide.replace(optional=optional, default=None)
        if {one.type, other.type} == {Type.FLOAT32, Type.FLOAT64} and one.name == other.name:
            return Schema(Type.FLOAT64, optional=optional)
        if one.type is not Type.STRUCT or other.type is not Type.STRUCT:
            return None
    match one.type:
        case Type.STRUCT:
            return _widened_struct(one, other, optional)
        case Type.ARRAY:
            assert one.values is not None
            assert other.values is not None
            values = widened(one.values, other.values)
            return None if values is None else Schema.array(values, optional=optional)
        case Type.MAP:
            assert one.values is not None
            assert other.values is not None
            assert one.keys is not None
            values = widened(one.values, other.values)
            return None if values is None or one.keys != other.keys else Schema.map(one.keys, values, optional=optional)
    if one.parameters != other.parameters:
        return None
    return one.replace(optional=optional, default=None)


def _widened_struct(one: Schema, other: Schema, optional: bool) -> Schema | None:
    fields: dict[str, Schema] = {}
    for part in one.fields:
        theirs = other.field(part.name)
        wide = part.schema.replace(optional=True) if theirs is None else widened(part.schema, theirs.schema)
        if wide is None:
            return None
        fields[part.name] = wide
    fields |= {part.name: part.schema.replace(optional=True) for part in other.fields if part.name not in fields}
    return Schema.struct(fields, name=one.name, optional=optional)


#: The folder of a record below its topic's: "" or "day=2026-01-31/shop=7".
Partitioner = Callable[[SinkRecord], str]


def file_name(topic: str, topic_id: str, partition: int, intent: Intent, ending: str) -> str:
    """Return the name of a range's file. A part of the topic's id is in it: a topic that was made anew has other files."""
    mark = f".{topic_id[:8]}" if topic_id else ""
    return f"{topic}+{partition}+{intent.start:010d}-{intent.end:010d}{mark}.{ending}"
