"""What an operator of a task is given when it is made: its children, its stores, the record at hand, and how to fail.

Records go from operator to operator as four arguments: key, value, timestamp in ms, headers. Headers are a tuple and
shared; an operator that changes them makes a new tuple.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ottla.streams.errors import MutationError

if TYPE_CHECKING:
    from ottla.streams.task import Task
    from ottla.streams.topology import Node

Headers = tuple[tuple[str, bytes | None], ...]
#: What takes records: (key, value, timestamp in ms, headers).
Process = Callable[[Any, Any, int, Headers], None]


class _Skipped:
    def __repr__(self) -> str:
        return "SKIPPED"


#: What `NodeContext.fail` returns when the handler has said that the record is passed over.
SKIPPED: Final = _Skipped()


class InputRecord(NamedTuple):
    """One record of a source topic, as bytes.

    Attributes:
        timestamp: in ms, -1 if the record has none.
        headers: pairs, in order.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(NamedTuple):
    """One record that a task wants written.

    Attributes:
        partition: a number, or None: where the key goes by Kafka's default partitioner (murmur2 of the key; any,
            without one).
        timestamp: in ms.
    """

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers = ()


class NodeContext:
    """Belongs to one operator of one task.

    Attributes:
        name: the operator's.
        forward: hands a record to every child, in their order.
    """

    __slots__ = ("_children", "forward", "name", "node", "task")

    def __init__(self, task: Task, node: Node, children: dict[str, Process]) -> None:
        self.task: Task = task
        self.node: Node = node
        self.name: str = node.name
        self._children = children
        together = list(children.values())
        self.forward: Process = _fan_out(together)
        if task.watch_mutations and len(together) > 1:
            self.forward = _watched(self.name, children)

    def child(self, name: str) -> Process:
        """Return what takes the records of one child."""
        return self._children[name]

    def store(self, name: str) -> Any:
        """Return a store by name, with the interface of its kind (`states`)."""
        return self.task.state(name)

    def fail(
        self,
        error: Exception,
        key: Any,
        value: Any,
        timestamp: int,
        headers: Headers,
        again: Callable[[], Any] | None = None,
    ) -> Any:
        """Ask the handler what becomes of a record that this operator could not process.

        Args:
            again: tries once more; it is called when the handler says retry.

        Returns:
            What `again` returned, or SKIPPED: the record is passed over (a dead letter may have been written).

        Raises:
            RecordError: the handler says that the app fails.
        """
        return self.task.failed("processing", self.node, error, key, value, timestamp, headers, again)


def _nothing(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
    """A node without children ends here."""


def _watched(name: str, children: dict[str, Process]) -> Process:
    """Raise when a child changes an object that the next child is given."""

    def each(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        before = _content(key, value)
        for child, process in children.items():
            process(key, value, timestamp, headers)
            if before is not None and _content(key, value) != before:
                raise MutationError(
                    f"what {name} gave to {child} and to others was changed there: "
                    f"operators return new objects instead of changing those that they are given"
                )

    return each


def _content(key: Any, value: Any) -> bytes | None:
    """Return what two objects hold; None if that cannot be told."""
    try:
        return pickle.dumps((key, value))
    except Exception:
        return None


def _fan_out(children: list[Process]) -> Process:
    if not children:
        return _nothing
    if len(children) == 1:
        return children[0]
    if len(children) == 2:
        first, second = children

        def both(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            first(key, value, timestamp, headers)
            second(key, value, timestamp, headers)

        return both
    together = tuple(children)

    def each(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        for child in together:
            child(key, value, timestamp, headers)

    return each
