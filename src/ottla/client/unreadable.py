"""`on_error=` of a consumer: keys and values are deserialized before a record is handed out, and what cannot be is passed
over, set aside, raised or given to a function.

A record that cannot be read stays at the front until it is dealt with, so that its offset is not committed before that:
what was read behind it waits. Batches are columns of bytes, and nothing is deserialized in them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from ottla.client.consumed import K, Record, V
from ottla.client.errors import ConfigurationError, DeserializationError

logger: logging.Logger = logging.getLogger("ottla.client.consumer")

#: What callers give: "raise", "skip", "dead_letter:TOPIC", or a function of the error. The asynchronous face awaits what
#: the function returns. When it has returned, the record is passed over; what it raises is raised.
OnError = str | Callable[[DeserializationError], object]

_DEAD_LETTER: Final = "dead_letter:"


class Made(Record[K, V]):
    """A record whose key and value are deserialized already."""

    __slots__ = ("_key", "_value")

    def __init__(self, record: Record[K, V]) -> None:
        super().__init__(record._source, record._row)
        self._key: K = record.key
        self._value: V = record.value

    @property
    def key(self) -> K:
        """The key, deserialized; None stays None."""
        return self._key

    @property
    def value(self) -> V:
        """The value, deserialized; None, a tombstone, stays None."""
        return self._value


class Unreadable(Exception):
    """The next record of a partition cannot be deserialized. Callers never see it: it is dealt with as they have said.

    Attributes:
        error: why, with the record.
    """

    def __init__(self, error: DeserializationError) -> None:
        super().__init__(str(error))
        self.error = error


def make(records: list[Record[K, V]]) -> tuple[list[Record[K, V]], DeserializationError | None]:
    """Deserialize records; return those ahead of the first that cannot be, and why it cannot."""
    made: list[Record[K, V]] = []
    try:
        for record in records:
            made.append(Made(record))  # noqa: PERF401  # what was made before an error counts
    except DeserializationError as error:
        return made, error
    return made, None


class ErrorPolicy:
    """What `on_error=` says.

    Attributes:
        dead_letter: the topic that unreadable records go to.
        function: the caller's.
        raises: they are raised.
    """

    def __init__(self, on_error: OnError) -> None:
        self.dead_letter: str | None = None
        self.function: Callable[[DeserializationError], object] | None = None
        self.raises: bool = on_error == "raise"
        if callable(on_error):
            self.function = on_error
        elif isinstance(on_error, str) and on_error.startswith(_DEAD_LETTER) and on_error != _DEAD_LETTER:
            self.dead_letter = on_error.removeprefix(_DEAD_LETTER)
        elif on_error not in ("raise", "skip"):
            raise ConfigurationError(
                f"on_error={on_error!r} is not valid: it takes 'raise', 'skip', 'dead_letter:TOPIC' or a function."
            )

    def tell(self, error: DeserializationError) -> None:
        """Say what becomes of a record that is neither raised nor given to a function."""
        if self.dead_letter is None:
            logger.warning("passed over: %s", error)
        else:
            logger.error("goes to %s: %s", self.dead_letter, error)


def error_policy(on_error: OnError | None, deserializers: Iterable[Any]) -> ErrorPolicy | None:
    """Return what `on_error=` says; None where it is not given.

    Raises:
        ConfigurationError: it says nothing that is known, or there is nothing that could fail.
    """
    if on_error is None:
        return None
    policy = ErrorPolicy(on_error)
    if not any(each is not None for each in deserializers):
        raise ConfigurationError(
            "on_error= is about keys and values that cannot be deserialized, and this consumer has no deserializer.",
            "Pass value_deserializer=, too.",
        )
    return policy
