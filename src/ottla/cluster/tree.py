"""Tree: the interface to a coordination tree with ZooKeeper's semantics. Everything the cluster agrees on lives in one.

A node has data, a version counting its changes (compare-and-set), and the ids of the transactions that created and last
changed it (`czxid`, `mzxid`). `multi` applies several operations or none. Ephemeral nodes vanish with the session that made
them. Nothing above this interface knows which implementation it runs on: `trees.memory` (tests), `trees.local` (one SQLite
file), `trees.zookeeper` (a real ensemble), `testing.simulated_ensemble` (an ensemble that errs as a real one does).

A multi does not tell its transaction id (kazoo does not give it). What needs an order, as the log of changes does, takes that
of sequential nodes below one parent: their numbers grow with each transaction, and none is given twice below that parent.

A Tree object is one session. Once it has ended it stays ended, and what was decided in it can no longer be written through
it: a broker that goes on opens another one.

Paths are absolute, "/" is the root and always exists, no trailing slash. Watches are hints: `watch_children` reports that the
children of one node may have changed; it may report too often, and a report may get lost while the connection comes and
goes. A reader that must not miss a change also reads by itself from time to time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

ANY_VERSION: Final = -1

#: A larger request is refused here. ZooKeeper closes the connection upon one of more than jute.maxbuffer (1 MiB less a byte
#: unless configured), which to the client looks like a lost connection, again and again.
REQUEST_BYTES_MAX: Final = 900_000

#: What an operation costs in a request besides its path and its data: headers, lengths, access control list.
_OPERATION_BYTES: Final = 64


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


class RequestTooLargeError(TreeError):
    """The request has more than REQUEST_BYTES_MAX bytes: it has to be divided."""


class TreeUnavailableError(Exception):
    """The tree cannot be reached or written now (no connection, disk error). Whether the change was made is unknown.

    It counts as not made only after a `sync` and a read, in this session or a later one.
    """


class ConnectionLostError(TreeUnavailableError):
    """The connection broke before the answer came; it may come back."""


class NotSentError(ConnectionLostError):
    """The session is not connected, so the request was not sent: the change was not made."""


class SessionEndedError(NotSentError):
    """The session has ended: its ephemeral nodes are gone, and nothing can be done in it any more."""


class SessionState(Enum):
    """What is known of a session. ENDED is final."""

    CONNECTED = "connected"
    #: No server answers. The session may have ended for the servers already, or may go on.
    SUSPENDED = "suspended"
    ENDED = "ended"


class Stat(NamedTuple):
    """Facts about a node. `owner` is the id of the session of an ephemeral node, 0 for a persistent one.

    `mtime_ms` is when it was written, by the servers' clock; 0 where they are of this machine.
    """

    czxid: int
    mzxid: int
    version: int
    owner: int = 0
    mtime_ms: int = 0


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


Result = str | Stat | None
"""What one operation of a multi gave: the path made for Create, the new Stat for SetData, None for Delete and Check."""


class Tree(Protocol):
    """A session with a coordination tree.

    All methods that are awaited may raise TreeUnavailableError, and NotSentError if certainly nothing was changed.
    """

    @property
    def session_id(self) -> int:
        """Id of the session that owns the ephemeral nodes made here; never 0."""
        ...

    @property
    def session_timeout_ms(self) -> int:
        """After how much silence of this side the session ends, as the servers granted it."""
        ...

    @property
    def state(self) -> SessionState:
        """What is known of the session now. A server that is cut off from the others still counts as CONNECTED."""
        ...

    async def get(self, path: str) -> Node:
        """Return data and facts. Raises NoNodeError."""
        ...

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        """Return many nodes at once, None for those that do not exist. Not a snapshot across nodes."""
        ...

    async def children(self, path: str) -> list[str]:
        """Return the names (not paths) of the children, sorted. Raises NoNodeError."""
        ...

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        """Apply all operations in order as one transaction, or none. Return what each one gave.

        Raises:
            NoNodeError, NodeExistsError, BadVersionError, NotEmptyError, NoChildrenForEphemeralsError: with the path of the
                first operation that was refused; nothing was changed.
            RequestTooLargeError: nothing was sent.
            ValueError: a path is none, or the root is to be deleted; nothing was sent.
        """
        ...

    async def sync(self) -> None:
        """Return when this session sees every change that had been committed when it was called.

        Without it a read may show an older state: what a server that lags, or is cut off, last heard.
        """
        ...

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the loop after changes of the children of `path`, and whenever the connection has come back.

        Returns a function that stops it.
        """
        ...

    def watch_state(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        """Call `callback` on the loop at each change of `state`. Returns a function that stops it."""
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


def validate_path(path: str) -> None:
    """Raise ValueError if this is no path."""
    if path == "/":
        return
    if not path.startswith("/") or any(name in _NO_NAMES for name in path[1:].split("/")) or not _is_plain(path):
        raise ValueError(f"{path!r} is no path of a tree")


#: Not the names of nodes, in ZooKeeper.
_NO_NAMES: Final = frozenset(("", ".", ".."))


def _is_plain(path: str) -> bool:
    """Return whether there are only characters that ZooKeeper takes: no control characters, no private ones."""
    return (path.isascii() and path.isprintable()) or not any(
        c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\uf8ff" or "\ufff0" <= c <= "\uffff" for c in path
    )


def check_operations(operations: Sequence[Operation]) -> None:
    """Check what every tree checks before a request is sent.

    Raises:
        RequestTooLargeError, ValueError: see `Tree.multi`.
    """
    size = largest = 0
    largest_path = ""
    for operation in operations:
        validate_path(operation.path)
        size += _OPERATION_BYTES + len(operation.path)
        if isinstance(operation, Create | SetData):
            size += len(operation.data)
            if len(operation.data) > largest:
                largest, largest_path = len(operation.data), operation.path
        elif isinstance(operation, Delete) and operation.path == "/":
            raise ValueError("the root of a tree cannot be deleted")
    if size > REQUEST_BYTES_MAX:
        raise RequestTooLargeError(
            largest_path or operations[0].path,
            f"the request has {size} bytes, at most {REQUEST_BYTES_MAX} can be written at once",
        )
