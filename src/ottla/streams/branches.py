"""What `split()` of a stream returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from ottla.streams.builder import pass_on
from ottla.streams.errors import TopologyError
from ottla.streams.operators import stateless

if TYPE_CHECKING:
    from ottla.streams.stream import Stream

K = TypeVar("K")
V = TypeVar("V")


class Branches(Generic[K, V]):
    """What `split()` returns: add branches, then take them all, by name."""

    def __init__(self, stream: Stream[K, V], name: str) -> None:
        self._stream = stream
        self._name = name
        self._predicates: list[Callable[[K, V], object]] = []
        self._children: list[str] = []
        self._branches: dict[str, Stream[K, V]] = {}
        self._closed = False
        stream._builder.processor(name, stateless.branching(self._predicates, self._children), [stream._node])

    def branch(self, predicate: Callable[[K, V], object], *, name: str | None = None) -> Branches[K, V]:
        """Send records for which the predicate is true here, if no earlier branch took them.

        Args:
            name: the branch is called "<name of split><name>"; without one branches are numbered from 1.
        """
        if self._closed:
            raise TopologyError("the default branch is the last one; add branches before it")
        self._predicates.append(predicate)
        self._add(str(len(self._predicates)) if name is None else name)
        return self

    def default_branch(self, *, name: str | None = None) -> dict[str, Stream[K, V]]:
        """Send what no branch took here, and return all branches."""
        self._closed = True
        self._add("0" if name is None else name)
        return self._branches

    def no_default_branch(self) -> dict[str, Stream[K, V]]:
        """Drop what no branch took, and return all branches."""
        self._closed = True
        return self._branches

    def _add(self, suffix: str) -> None:
        stream, child = self._stream, self._name + suffix
        stream._builder.new_name(child)  # Java counts it
        self._children.append(child)
        stream._builder.processor(child, pass_on, [self._name])
        self._branches[child] = type(stream)(
            stream._builder,
            child,
            child,
            stream._key_serde,
            stream._value_serde,
            stream._sources,
            repartition=stream._repartition,
        )
