"""The coordination tree in memory: for tests and simulation, and the reference for the others.

`MemoryStore` is the ensemble: the nodes and the sessions. `MemoryTree` is one session with it. A store outlives its
sessions, so a simulated broker that crashes and starts again finds what it wrote. `expire` ends a session as ZooKeeper
would after a silence: its ephemeral nodes vanish, and it can do no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ottla.cluster.tree import (
    ANY_VERSION,
    BadVersionError,
    Check,
    Create,
    Delete,
    MultiResult,
    NoChildrenForEphemeralsError,
    Node,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Operation,
    SetData,
    Stat,
    TreeUnavailableError,
    parent_of,
    sequential_path,
    validate_path,
)


class _StoredNode:
    __slots__ = ("children", "data", "sequence", "stat")

    def __init__(self, data: bytes, stat: Stat) -> None:
        self.data = data
        self.stat = stat
        self.children: dict[str, None] = {}
        #: Number of the next sequential child; only grows.
        self.sequence = 0


class MemoryStore:
    """The nodes, and the sessions that watch them."""

    def __init__(self) -> None:
        self._nodes: dict[str, _StoredNode] = {"/": _StoredNode(b"", Stat(0, 0, 0))}
        self._zxid = 0
        self._sessions: dict[int, MemoryTree] = {}
        self._session_count = 0

    def session(self) -> MemoryTree:
        """Begin a session."""
        self._session_count += 1
        tree = MemoryTree(self, self._session_count)
        self._sessions[self._session_count] = tree
        return tree

    def expire(self, session_id: int) -> None:
        """End a session: its ephemeral nodes vanish in one transaction, its calls fail from now on."""
        if self._sessions.pop(session_id, None) is None:
            return
        owned = [path for path, node in self._nodes.items() if node.stat.owner == session_id]
        if owned:
            self.apply([Delete(path) for path in owned], 0)

    def is_live(self, session_id: int) -> bool:
        return session_id in self._sessions

    def node(self, path: str) -> _StoredNode | None:
        return self._nodes.get(path)

    def below(self, path: str) -> list[tuple[str, Node]]:
        prefix = "/" if path == "/" else path + "/"
        found = [p for p in self._nodes if p == path or p.startswith(prefix)]
        return [(p, Node(self._nodes[p].data, self._nodes[p].stat)) for p in sorted(found)]

    def apply(self, operations: Sequence[Operation], session_id: int) -> MultiResult:
        """Apply the operations, or undo those that were applied and raise."""
        zxid = self._zxid + 1
        undo: list[Callable[[], None]] = []
        changed: dict[str, None] = {}
        try:
            results = [self._apply_one(operation, session_id, zxid, undo, changed) for operation in operations]
        except Exception:
            for step in reversed(undo):
                step()
            raise
        if any(not isinstance(operation, Check) for operation in operations):
            self._zxid = zxid
        for tree in list(self._sessions.values()):
            tree.on_children_changed(changed)
        return MultiResult(self._zxid, tuple(results))

    def _apply_one(
        self,
        operation: Operation,
        session_id: int,
        zxid: int,
        undo: list[Callable[[], None]],
        changed: dict[str, None],
    ) -> str | Stat | None:
        if isinstance(operation, Create):
            return self._create(operation, session_id, zxid, undo, changed)
        validate_path(operation.path)
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
            node.stat = node.stat._replace(mzxid=zxid, version=node.stat.version + 1)
            return node.stat
        if operation.path == "/":
            raise NotEmptyError("/", "the root cannot be deleted")
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
        validate_path(operation.path, sequential=operation.sequential)
        parent_path, _ = parent_of(operation.path)
        parent = self._nodes.get(parent_path)
        if parent is None:
            raise NoNodeError(parent_path, "it does not exist and cannot be a parent")
        if parent.stat.owner:
            raise NoChildrenForEphemeralsError(parent_path)
        path = sequential_path(operation.path, parent.sequence) if operation.sequential else operation.path
        if path in self._nodes:
            raise NodeExistsError(path)
        name = parent_of(path)[1]
        parent.sequence += 1
        parent.children[name] = None
        self._nodes[path] = _StoredNode(
            bytes(operation.data), Stat(zxid, zxid, 0, session_id if operation.ephemeral else 0)
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

    def __init__(self, store: MemoryStore, session_id: int) -> None:
        self._store = store
        self._session_id = session_id
        self._watches: dict[str, list[Callable[[], None]]] = {}

    @property
    def session_id(self) -> int:
        return self._session_id

    async def get(self, path: str) -> Node:
        node = self._live().node(path)
        if node is None:
            raise NoNodeError(path)
        return Node(node.data, node.stat)

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        store = self._live()
        return [None if (node := store.node(path)) is None else Node(node.data, node.stat) for path in paths]

    async def children(self, path: str) -> list[str]:
        node = self._live().node(path)
        if node is None:
            raise NoNodeError(path)
        return sorted(node.children)

    async def subtree(self, path: str) -> list[tuple[str, Node]]:
        return self._live().below(path)

    async def multi(self, operations: Sequence[Operation]) -> MultiResult:
        return self._live().apply(operations, self._session_id)

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        callbacks = self._watches.setdefault(path, [])
        callbacks.append(callback)
        return lambda: callbacks.remove(callback) if callback in callbacks else None

    def on_children_changed(self, paths: dict[str, None]) -> None:
        """Tell the watchers of these paths, on the loop, after the caller is done."""
        for path in paths:
            for callback in self._watches.get(path, ()):
                asyncio.get_running_loop().call_soon(callback)

    def expire(self) -> None:
        """End the session as if this process had been silent for too long."""
        self._store.expire(self._session_id)

    async def close(self) -> None:
        self._watches.clear()
        self._store.expire(self._session_id)

    def _live(self) -> MemoryStore:
        if not self._store.is_live(self._session_id):
            raise TreeUnavailableError("the session has ended")
        return self._store
