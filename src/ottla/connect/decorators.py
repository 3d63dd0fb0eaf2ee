"""The short way: a connector is a function.

    @connect.source("numbers", topic="numbers", every="1s")
    def numbers(since):                                   # the offset of the last row, or None
        for number in range((since or 0) + 1, (since or 0) + 11):
            yield connect.Row(value=number, offset=number)

    @connect.sink("to-list", topics=["numbers"])
    def write(batch):
        for record in batch.records: ...

The worker finds them in the modules of `plugin.modules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ottla.connect.config_def import ConfigDef, ConfigError, ConfigKey
from ottla.connect.connectors import Connector, SinkConnector, SinkContext, SinkTask, SourceConnector, SourceTask
from ottla.connect.durations import seconds_of
from ottla.connect.errors import ConnectError, RetriableError
from ottla.connect.records import SinkRecord, SourceRecord

#: What an offset is: one plain value, or several in the order in which they count.
Offset = str | int | float | tuple[str | int | float, ...]
F = TypeVar("F", bound=Callable[..., Any])

#: Connectors that were declared in this process, by name.
declared: dict[str, type[Connector]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record from a source.

    Attributes:
        offset: where it is in the source; each row's is greater than that of the one before.
    """

    value: Any
    offset: Offset
    key: Any = None
    timestamp: int | None = None


class Batch:
    """Records on their way to a sink."""

    def __init__(self, records: Sequence[SinkRecord], context: SinkContext) -> None:
        self.records = records
        self._context = context

    def __len__(self) -> int:
        return len(self.records)

    def reject(self, index: int, error: BaseException) -> None:
        """Send one record to the dead letters, by its index."""
        self._context.reject(self.records[index], error)


def _declare(name: str, kind: type[Connector]) -> None:
    if name in declared:
        raise ConfigError(f"Two connectors are named {name!r}: {declared[name].__module__} and {kind.__module__}")
    declared[name] = kind


def source(name: str, *, topic: str, every: str | float = "1s") -> Callable[[F], F]:
    """Declare a source: a function from the last offset (None at first) to the rows after it.

    After RetriableError the rows that the function has yielded are sent, and it is called again with the last one's offset.

    Args:
        every: how long to wait after a call that brought nothing: "10s", "1m", seconds.
    """
    pause_s = seconds_of(every)

    def declare(function: F) -> F:
        class Task(SourceTask):
            _since: Offset | None = None

            def start(self) -> None:
                self._since = offset_of(self.context.offset({"source": name}))

            def poll(self) -> Sequence[SourceRecord] | None:
                found = []
                rows: Iterable[Row] = function(self._since)
                try:
                    for row in rows:
                        check_grows(self._since, row.offset)
                        self._since = row.offset
                        found.append(
                            SourceRecord(
                                topic=self.values["topic"],
                                key=row.key,
                                value=row.value,
                                timestamp=row.timestamp,
                                source_partition={"source": name},
                                source_offset=stored(row.offset),
                            )
                        )
                        if len(found) >= 500:
                            return found
                except RetriableError:
                    if not found:
                        raise  # the worker waits and asks again
                    return found  # `_since` stands after these rows, so they have to be sent
                if not found:
                    self.context.wait(pause_s)
                return found

            def preview(self, rows: int) -> Sequence[SourceRecord]:
                return self.first_rows(rows)

        config = ConfigDef(ConfigKey(name="topic", default=topic, documentation="The topic that rows go to."))
        members = {"CONFIG": config, "Task": Task, "__module__": function.__module__, "__doc__": function.__doc__}
        members["exactly_once_support"] = lambda self: True
        _declare(name, type(function.__name__, (SourceConnector,), members))
        return function

    return declare


def sink(name: str, *, topics: Sequence[str] = ()) -> Callable[[F], F]:
    """Declare a sink: a function that takes a `Batch`.

    What it raises fails the task; after RetriableError the same records come again.
    """

    def declare(function: F) -> F:
        class Task(SinkTask):
            def put(self, records: Sequence[SinkRecord]) -> None:
                if records:
                    function(Batch(records, self.context))

        members: dict[str, Any] = {"Task": Task, "TOPICS": tuple(topics)}
        members |= {"__module__": function.__module__, "__doc__": function.__doc__}
        _declare(name, type(function.__name__, (SinkConnector,), members))
        return function

    return declare


def stored(offset: Offset) -> dict[str, Any]:
    """Return an offset as it is written down: a flat map of plain values.

    Raises:
        ConnectError: a part is no text and no number: it would not come back as it was.
    """
    parts = offset if isinstance(offset, tuple) else (offset,)
    for part in parts:
        if not isinstance(part, str | int | float) or isinstance(part, bool):
            raise ConnectError(
                f"The offset {offset!r} holds {part!r}: offsets are texts and numbers (isoformat() makes a text of a time)"
            )
    names = [f"offset.{number}" for number in range(len(parts))] if isinstance(offset, tuple) else ["offset"]
    return dict(zip(names, parts, strict=True))


def offset_of(kept: dict[str, Any] | None) -> Offset | None:
    """Return the offset that was written down as a map."""
    if kept is None:
        return None
    if "offset" in kept:
        found: Offset = kept["offset"]
        return found
    return tuple(kept[f"offset.{number}"] for number in range(len(kept)))


def check_grows(before: Offset | None, now: Offset) -> None:
    """Raise if an offset is not greater than the one before it.

    Raises:
        ConnectError: it names both.
    """
    stored(now)
    try:
        grows = before is None or now > before  # type: ignore[operator]
    except TypeError:
        grows = False
    if not grows:
        raise ConnectError(f"The offset {now!r} does not come after {before!r}: rows would be lost or come twice")
