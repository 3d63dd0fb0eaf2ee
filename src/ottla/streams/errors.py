"""What goes wrong in an app: in its topology, in a record, in an operator."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_STANDARD = sysconfig.get_path("stdlib")


class StreamsError(Exception):
    """Everything that this package raises by itself."""


class TopologyError(StreamsError, ValueError):
    """The topology cannot be built or run as it is; the message says which part and what to do."""


class StoreMovingError(StreamsError):
    """The task that has the rows runs nowhere right now, or nobody knows where: ask again after `retry_after_s`."""

    retriable = True
    retry_after_s: float = 1.0


class UnknownStoreError(StreamsError):
    """The application has no store of that name that can be asked."""


class QuestionError(StreamsError, ValueError):
    """The store cannot be asked that."""


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


def told(error: BaseException) -> str:
    """Return an error as one line: its type, what it says, and the line of the user's code that it came through last."""
    name = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{name}: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    text = " ".join(str(error).split())
    place = _place(error)
    return f"{name}{': ' if text else ''}{text}{f' ({place})' if place else ''}"


def _place(error: BaseException) -> str:
    """Return "file:line" of the innermost frame outside ottla and Python's own library, of the user's before packages'."""
    found = packages = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        place = f"{Path(file).name}:{line}"
        if file.startswith((_PACKAGE, "<frozen")):
            continue
        if "site-packages" in file or "dist-packages" in file:
            packages = place
        elif not file.startswith(_STANDARD):
            found = place
    return found or packages


def need_function(operator: str, given: object) -> None:
    """Refuse what cannot be called, where it is given.

    Raises:
        TopologyError: it is no function.
    """
    if not callable(given):
        raise TopologyError(f"{operator} needs a function, not {given!r}")


def need_topic(operator: str, given: object) -> None:
    """Refuse what cannot be a topic's name, where it is given.

    Raises:
        TopologyError: Kafka allows 1 to 249 letters, digits, ".", "_" and "-", and neither "." nor "..".
    """
    if not isinstance(given, str) or given in (".", "..") or _TOPIC.fullmatch(given) is None:
        raise TopologyError(
            f"{operator} needs the name of a topic (1 to 249 letters, digits, '.', '_' and '-'), not {given!r}"
        )
