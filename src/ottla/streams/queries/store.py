"""`app.store(name)`: a store of the running application, from any thread of a process that runs an instance of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ottla.streams.errors import QuestionError, StoreMovingError
from ottla.streams.queries.answers import Question
from ottla.streams.queries.desk import Desk
from ottla.streams.queries.rows import KEY_VALUE_KINDS, Row
from ottla.streams.times import UNKNOWN
from ottla.streams.topology import StoreSpec

_ALL = 1 << 62


class WindowValue(NamedTuple):
    """The value of one window of a key.

    Attributes:
        start, end: in ms; `end` is exclusive, of sessions inclusive.
        timestamp: of the record that made it, in ms; -1 where the store keeps none.
    """

    start: int
    end: int
    value: Any
    timestamp: int = UNKNOWN


class StoreView:
    """Committed rows of one store, wherever their tasks run: instances with `application.server` are asked, too.

    Every method raises StoreMovingError while the task that has the rows is between two instances: ask again.
    """

    def __init__(self, desk: Desk, spec: StoreSpec) -> None:
        self._desk = desk
        self._spec = spec
        self._topic = spec.changelog or spec.name

    def _bytes(self, key: Any) -> bytes:
        assert self._spec.key_serde is not None
        return self._spec.key_serde.serialize(self._topic, key) or b""

    def _value(self, row: Row) -> Any:
        assert self._spec.value_serde is not None
        return self._spec.value_serde.deserialize(self._topic, row.value)

    def __getitem__(self, key: Any) -> Any:
        """Return the value of a key.

        Raises:
            KeyError: there is none.
            QuestionError: the store holds windows, of which a key may have many.
        """
        if self._spec.kind not in KEY_VALUE_KINDS:
            raise QuestionError(f"{self._spec.name} holds windows: ask for those of a key with fetch(key).")
        (answer,) = self._desk.ask(Question(store=self._spec.name, key=self._bytes(key)))
        if not answer.rows:
            raise KeyError(key)
        return self._value(answer.rows[0])

    def get(self, key: Any, default: Any = None, *, as_of: int | None = None) -> Any:
        """Return the value of a key, or `default`.

        Args:
            as_of: of a store with versions, what was valid at that time (ms), as long as its history retention goes back.
        """
        if as_of is None:
            try:
                return self[key]
            except KeyError:
                return default
        (answer,) = self._desk.ask(Question(store=self._spec.name, key=self._bytes(key), as_of=as_of))
        return self._value(answer.rows[0]) if answer.rows else default

    def range(self, since: Any = None, until: Any = None) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) from one key to another, both included, by partitions, in each by the keys' bytes.

        All partitions are asked before the first row comes.
        """
        assert self._spec.key_serde is not None
        answers = self._desk.ask(
            Question(
                store=self._spec.name,
                since=None if since is None else self._bytes(since),
                until=None if until is None else self._bytes(until),
                limit=_ALL,
            )
        )
        read = self._spec.key_serde.deserialize
        for answer in answers:
            for row in answer.rows:
                yield read(self._topic, row.key), self._value(row)

    def fetch(self, key: Any, since: int | None = None, until: int | None = None) -> list[WindowValue]:
        """Return the windows of a key whose starts lie from `since` to `until` (ms, both included), in their order.

        Of sessions those that overlap that time.
        """
        (answer,) = self._desk.ask(
            Question(store=self._spec.name, key=self._bytes(key), window_since=since, window_until=until, limit=_ALL)
        )
        return [WindowValue(row.start or 0, row.end or 0, self._value(row), row.timestamp) for row in answer.rows]


__all__ = ["StoreMovingError", "StoreView", "WindowValue"]
