"""The coordination tree in memory: for tests and the simulation of a single node, and the reference for the others.

`MemoryStore` is the ensemble: the nodes and the sessions. `MemoryTree` is one session with it. A store outlives its
sessions, so a simulated broker that crashes and starts again finds what it wrote. `expire` ends a session as ZooKeeper
would after a silence: its ephemeral nodes vanish, and it can do no more. It makes no other mistakes: a change is seen by all
sessions at once. `testing.simulated_ensemble` makes those of a real ensemble out of several stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import ParamSpec

from ottla.cluster.tree import (
    ANY_VERSION,
    BadVersionError,
    Check,
    Create,
    Delete,
    NoChildrenForEphemeralsError,
    Node,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Operation,
    Result,
    SessionEndedError,
    SessionState,
    SetData,
    Stat,
    check_operations,
    parent_of,
    sequential_path,
)
from ottla.cluster.trees.listeners import ChildrenWatches, Listeners

P = ParamSpec("P")

#: Kafka's default of zookeeper.session.timeout.ms.
SESSION_TIMEOUT_MS = 18_000


class _StoredNode:
    __slots__ = ("children", "data", "sequence", "stat")

    def __init__(self, data: bytes, stat: Stat) -> None:
        self.data = data
        self.stat = stat
        self.children: dict[str, None] = {}
        #: Number of the next sequential child: how many children there ever were, as in ZooKeeper.
        self.sequence = 0


class MemoryStore:
    """The nodes, and the sessions that watch them.

    Attributes:
        changed: told, at once, after each transaction, the paths whose children changed.
    """

    def __init__(self) -> None:
        self._now_ms = 0
        self.changed: Listeners[[Collection[str]]] = Listeners()
        self._nodes: dict[str, _StoredNode] = {"/": _StoredNode(b"", Stat(0, 0, 0))}
        self._zxid = 0
        self._sessions: dict[int, MemoryTree] = {}
        self._session_count = 0

    def session(self, timeout_ms: int = SESSION_TIMEOUT_MS) -> MemoryTree:
        """Begin a session."""
        self._session_count += 1
        tree = MemoryTree(self, self._session_count, timeout_ms)
        self._sessions[self._session_count] = tree
        return tree

    def expire(self, session_id: int) -> None:
        """End a session: its ephemeral nodes vanish in one transaction, its calls fail from now on."""
        tree = self._sessions.pop(session_id, None)
        if tree is None:
            return
        self.apply(self.owned_deletions(session_id), 0)
        tree.on_ended()

    def owned_deletions(self, session_id: int) -> list[Operation]:
        """Return the deletions of the ephemeral nodes of a session."""
        return [Delete(path) for path, node in self._nodes.items() if node.stat.owner == session_id]

    def node(self, path: str) -> Node | None:
        """Return a node, None if it does not exist."""
        node = self._nodes.get(path)
        return None if node is None else Node(node.data, node.stat)

    def children(self, path: str) -> list[str]:
        """Return the names of the children, sorted. Raises NoNodeError."""
        node = self._nodes.get(path)
        if node is None:
            raise NoNodeError(path)
        return sorted(node.children)

    def apply(self, operations: Sequence[Operation], session_id: int, now_ms: int = 0) -> tuple[Result, ...]:
        """Apply the operations, or undo those that were applied and raise; `now_ms` is the servers' time."""
        self._now_ms = now_ms
        zxid = self._zxid + 1
        undo: list[Callable[[], None]] = []
        changed: dict[str, None] = {}
        try:
            results = [self._apply_one(operation, session_id, zxid, undo, changed) for operation in operations]
        except Exception:
            for step in reversed(undo):
                step()
            raise
        self._zxid = zxid
        self.changed.tell(changed)
        return tuple(results)

    def _apply_one(
        self,
        operation: Operation,
        session_id: int,
        zxid: int,
        undo: list[Callable[[], None]],
        changed: dict[str, None],
    ) -> Result:
        if isinstance(operation, Create):
            return self._create(operation, session_id, zxid, undo, changed)
        node = self._nodes.get(operation.path)
        if node is None:
            raise NoNodeError(operation.path)
        if operation.version not in (ANY_VERSION, node.stat.version):
            raise BadVersionError(
                operation.path, f"it is in version {node.stat.version}, expected was {operation.version}"
            )
        if isinstance(operation, Check):
            return None
        if isinstance(operation, SetData):
            before = (node.data, node.stat)

            def put_back() -> None:
                node.data, node.stat = before

            undo.append(put_back)
            node.data = bytes(operation.data)
            node.stat = node.stat._replace(mzxid=zxid, version=node.stat.version + 1, mtime_ms=self._now_ms)
            return node.stat
        if node.children:
            raise NotEmptyError(operation.path, f"it has {len(node.children)} children")
        parent_path, name = parent_of(operation.path)
        siblings = self._nodes[parent_path].children
        del self._nodes[operation.path]
        del siblings[name]
        changed[parent_path] = None

        def restore() -> None:
            self._nodes[operation.path] = node
            siblings[name] = None

        undo.append(restore)
        return None

    def _create(
        self,
        operation: Create,
        session_id: int,
        zxid: int,
        undo: list[Callable[[], None]],
        changed: dict[str, None],
    ) -> str:
        parent_path, _ = parent_of(operation.path)
        parent = self._nodes.get(parent_path)
        if parent is None:
            raise NoNodeError(operation.path, "its parent does not exist")
        if parent.stat.owner:
            raise NoChildrenForEphemeralsError(operation.path)
        path = sequential_path(operation.path, parent.sequence) if operation.sequential else operation.path
        if path in self._nodes:
            raise NodeExistsError(operation.path)
        name = parent_of(path)[1]
        parent.sequence += 1
        parent.children[name] = None
        self._nodes[path] = _StoredNode(
            bytes(operation.data), Stat(zxid, zxid, 0, session_id if operation.ephemeral else 0, self._now_ms)
        )
        changed[parent_path] = None

        def remove() -> None:
            parent.sequence -= 1
            del parent.children[name]
            del self._nodes[path]

        undo.append(remove)
        return path


class MemoryTree:
    """One session with a MemoryStore."""

    def __init__(self, store: MemoryStore, session_id: int, timeout_ms: int) -> None:
        self._store = store
        self._session_id = session_id
        self._timeout_ms = timeout_ms
        self._state = SessionState.CONNECTED
        self._watches = ChildrenWatches()
        self._state_listeners: Listeners[[SessionState]] = Listeners()
        self._stop_listening = store.changed.add(self._on_changed)

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return self._timeout_ms

    @property
    def state(self) -> SessionState:
        return self._state

    async def get(self, path: str) -> Node:
        node = self._live().node(path)
        if node is None:
            raise NoNodeError(path)
        return node

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        store = self._live()
        return [store.node(path) for path in paths]

    async def children(self, path: str) -> list[str]:
        return self._live().children(path)

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        check_operations(operations)
        return self._live().apply(operations, self._session_id)

    async def sync(self) -> None:
        self._live()

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._watches.add(path, callback)

    def watch_state(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        return self._state_listeners.add(callback)

    def _on_changed(self, paths: Collection[str]) -> None:
        _soon(self._watches.tell, paths)

    def on_ended(self) -> None:
        """Note that the store has ended this session. Listeners are called on the loop, after the caller is done."""
        self._state = SessionState.ENDED
        self._stop_listening()
        self._watches.clear()
        _soon(self._state_listeners.tell, SessionState.ENDED)

    def expire(self) -> None:
        """End the session as if this process had been silent for too long."""
        self._store.expire(self._session_id)

    async def close(self) -> None:
        self._store.expire(self._session_id)

    def _live(self) -> MemoryStore:
        if self._state is SessionState.ENDED:
            raise SessionEndedError("the session has ended")
        return self._store


def _soon(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call the function on the loop, after the caller is done; not at all if the loop of a test is over."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    loop.call_soon(partial(function, *args, **kwargs))
