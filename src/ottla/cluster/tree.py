"""Tree: the interface to a coordination tree with ZooKeeper's semantics. Everything the cluster agrees on lives in one.

A node has data, a version counting its changes (compare-and-set), and the ids of the transactions that created and last
changed it (`czxid`, `mzxid`); transaction ids only grow. `multi` applies several operations or none. Ephemeral nodes vanish
with the session that made them. Nothing above this interface knows which implementation it runs on: `trees.memory` (tests,
simulation), `trees.local` (one SQLite file), ZooKeeper (kazoo).

Paths are absolute, "/" is the root and always exists, no trailing slash. Watches are coarse: `watch_children` reports that
the children of one node may have changed; it may report too often, never too seldom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

ANY_VERSION = -1


class TreeError(Exception):
    """An operation on the tree was refused. Nothing was changed."""

    def __init__(self, path: str, message: str = "") -> None:
        super().__init__(f"{path}: {message or type(self).__name__}")
        self.path = path


class NoNodeError(TreeError):
    """The node, or the parent of the node to be made, does not exist."""


class NodeExistsError(TreeError):
    """The node to be made exists already."""


class BadVersionError(TreeError):
    """The node is not in the version the caller expected: read again, decide again."""


class NotEmptyError(TreeError):
    """The node to be deleted has children."""


class NoChildrenForEphemeralsError(TreeError):
    """An ephemeral node cannot have children."""


class TreeUnavailableError(Exception):
    """The tree cannot be reached or written now (no connection, disk error). Whether the change was made is unknown."""


class Stat(NamedTuple):
    """Facts about a node. `owner` is the id of the session of an ephemeral node, 0 for a persistent one."""

    czxid: int
    mzxid: int
    version: int
    owner: int = 0


class Node(NamedTuple):
    data: bytes
    stat: Stat


@dataclass(frozen=True, slots=True)
class Create:
    """Make a node. With `sequential`, ten digits that only grow below this parent are appended to the name."""

    path: str
    data: bytes = b""
    ephemeral: bool = False
    sequential: bool = False


@dataclass(frozen=True, slots=True)
class SetData:
    path: str
    data: bytes
    version: int = ANY_VERSION


@dataclass(frozen=True, slots=True)
class Delete:
    path: str
    version: int = ANY_VERSION


@dataclass(frozen=True, slots=True)
class Check:
    """Fail the whole multi unless the node exists in this version."""

    path: str
    version: int = ANY_VERSION


Operation = Create | SetData | Delete | Check


class MultiResult(NamedTuple):
    """`zxid` of the transaction; `results` per operation: the path made for Create, the new Stat for SetData, else None."""

    zxid: int
    results: tuple[str | Stat | None, ...]


class Tree(Protocol):
    """A session with a coordination tree. All methods may raise TreeUnavailableError."""

    @property
    def session_id(self) -> int:
        """Id of the session that owns the ephemeral nodes made here; never 0."""
        ...

    async def get(self, path: str) -> Node:
        """Return data and facts. Raises NoNodeError."""
        ...

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        """Return many nodes at once, None for those that do not exist. Not a snapshot across nodes on ZooKeeper."""
        ...

    async def children(self, path: str) -> list[str]:
        """Return the names (not paths) of the children, sorted. Raises NoNodeError."""
        ...

    async def subtree(self, path: str) -> list[tuple[str, Node]]:
        """Return (path, node) of the node and everything below it, sorted by path; empty if it does not exist."""
        ...

    async def multi(self, operations: Sequence[Operation]) -> MultiResult:
        """Apply all operations in order as one transaction, or none.

        Raises:
            NoNodeError, NodeExistsError, BadVersionError, NotEmptyError, NoChildrenForEphemeralsError: with the path of the
                first operation that was refused; nothing was changed.
        """
        ...

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the loop after each change of the children of `path`. Returns a function that stops it."""
        ...

    async def close(self) -> None:
        """End the session: its ephemeral nodes vanish."""
        ...


def parent_of(path: str) -> tuple[str, str]:
    """Return the path of the parent and the node's own name."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def sequential_path(path: str, number: int) -> str:
    """Return the path of a sequential node: ten digits appended, as ZooKeeper does."""
    return f"{path}{number:010d}"


def validate_path(path: str, *, sequential: bool = False) -> None:
    """Raise ValueError if this is no path. A sequential path may end in "/": the digits are the whole name then."""
    if path == "/":
        return
    if not path.startswith("/") or "//" in path or "\0" in path or (path.endswith("/") and not sequential):
        raise ValueError(f"{path!r} is no path of a tree")
