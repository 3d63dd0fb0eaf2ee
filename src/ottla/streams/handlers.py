"""What becomes of a record that cannot be read, processed or written: fail, skip, dead letter, retry.

An app has a handler for each of the three, and an operator may have one of its own. A handler is one of the four
objects here, or a function that is given the `FailedRecord` and returns one of them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration, duration_s
from ottla.streams.context import Headers, InputRecord, Output
from ottla.streams.errors import need_topic

#: Headers of a dead letter; Kafka Streams has the same (KIP-1034).
_EXCEPTION = "__streams.errors.exception"
_STACKTRACE = "__streams.errors.stacktrace"
_MESSAGE = "__streams.errors.message"
_TOPIC = "__streams.errors.topic"
_PARTITION = "__streams.errors.partition"
_OFFSET = "__streams.errors.offset"


@dataclass(frozen=True, slots=True)
class Fail:
    """The app stops with a RecordError; the record comes again when it starts."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The record is passed over; what earlier operators did with it stays. The log says so, with a count, once a minute at
    most for each operator."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The source record goes to a topic as it was read, with headers that say where it was and what happened; then it
    is skipped."""

    topic: str

    def __post_init__(self) -> None:
        need_topic("DeadLetter", self.topic)


@dataclass(frozen=True, slots=True)
class Retry:
    """The operator that failed, and only that one, tries again after each of the delays; then `then` decides."""

    delays: Sequence[Duration]
    then: Fail | Skip | DeadLetter = field(default_factory=Fail)

    def __post_init__(self) -> None:
        if isinstance(self.delays, str) or any(each < 0 for each in self.seconds()):
            raise ConfigurationError(f'Retry takes a list of delays, such as ["1s", "10s"], not {self.delays!r}.')
        if not isinstance(self.then, Fail | Skip | DeadLetter):
            raise ConfigurationError(f"Retry: then= is Fail(), Skip() or DeadLetter(topic), not {self.then!r}.")

    def seconds(self) -> list[float]:
        """Return the delays in seconds."""
        return [duration_s("delays", delay) for delay in self.delays]


Action = Fail | Skip | DeadLetter | Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRecord:
    """What a handler is told.

    Attributes:
        stage: "deserialization", "processing" or "production".
        source: the record that was read, as bytes; None when a punctuation failed.
        key, value, timestamp, headers: what the operator was given. At deserialization and production bytes or objects,
            as far as it had come.
        topic: at production, where it was to go.
    """

    stage: str
    operator: str
    error: Exception
    source: InputRecord | None
    key: Any
    value: Any
    timestamp: int
    headers: Headers
    topic: str | None = None


Handler = Action | Callable[[FailedRecord], Action]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """An app's handlers. The defaults are those of Kafka Streams: fail."""

    deserialization: Handler = field(default_factory=Fail)
    processing: Handler = field(default_factory=Fail)
    production: Handler = field(default_factory=Fail)

    def dead_letter_topics(self, others: Iterable[Handler | None] = ()) -> list[str]:
        """Return the topics that these handlers, and `others`, name. What functions choose is not known before."""
        found = set()
        for handler in (self.deserialization, self.processing, self.production, *others):
            action = handler.then if isinstance(handler, Retry) else handler
            if isinstance(action, DeadLetter):
                found.add(action.topic)
        return sorted(found)

    def of(self, stage: str) -> Handler:
        """Return the handler of a stage."""
        if stage == "deserialization":
            return self.deserialization
        return self.processing if stage == "processing" else self.production


def make_handler(name: str, value: Any) -> Handler:
    """Return a handler of what a user wrote: "fail", "skip", an action or a function.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Fail | Skip | DeadLetter | Retry) or (callable(value) and not isinstance(value, type)):
        return value
    if value in ("fail", Fail):
        return Fail()
    if value in ("skip", Skip):
        return Skip()
    raise ValueError(f'{name} is "fail", "skip", DeadLetter(topic), Retry(delays) or a function, not {value!r}')


def decide(handler: Handler, failed: FailedRecord) -> Action:
    """Ask a handler.

    Raises:
        TypeError: a function returned something that is no action.
    """
    if isinstance(handler, Fail | Skip | DeadLetter | Retry):
        return handler
    found = handler(failed)
    if not isinstance(found, Fail | Skip | DeadLetter | Retry):
        raise TypeError(f"a handler returns Fail(), Skip(), DeadLetter(topic) or Retry(delays), not {found!r}")
    return found


def dead_letter(topic: str, failed: FailedRecord) -> Output:
    """Return the record for the dead-letter topic."""
    source = failed.source
    error = failed.error
    lines = "".join(traceback.format_exception(error))
    headers: Headers = (
        (_EXCEPTION, f"{type(error).__module__}.{type(error).__qualname__}".encode()),
        (_MESSAGE, str(error).encode(errors="replace")),
        (_STACKTRACE, lines.encode(errors="replace")),
    )
    if source is None:
        return Output(topic, None, None, None, max(failed.timestamp, 0), headers)
    where: Headers = (
        (_TOPIC, source.topic.encode()),
        (_PARTITION, b"%d" % source.partition),
        (_OFFSET, b"%d" % source.offset),
    )
    return Output(topic, None, source.key, source.value, max(source.timestamp, 0), (*source.headers, *headers, *where))
