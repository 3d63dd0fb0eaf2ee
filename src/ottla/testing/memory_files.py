"""A disk in memory that can be cut off from power, fill up and fail.

Implements the border of `ottla.storage.files`. Two kinds of crash:

* `kill()`: the process dies, the page cache survives. Open files are gone, contents stay.
* `power_cut(random)`: what was not synced may be lost. Of the bytes appended since the last fsync a random prefix
  survives, sometimes followed by a hole of zeros (a length that reached the disk before its data); of the renames,
  creations and removals since the last fsync of the directory a random prefix survives.

Faults are injected with `fail`, a function called before each operation with its name and path; it may raise `OSError`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from ottla.storage.files import Buffer

Fail = Callable[[str, str], None]


@dataclass(slots=True, eq=False)
class _FileNode:
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    mtime_ms: int = 0
    #: Up to where space is set aside; nothing but tests looks at it.
    reserved_to: int = 0

    def make_durable(self) -> None:
        if len(self.durable) != len(self.data) or self.durable != self.data:
            self.durable = bytes(self.data)

    def after_power_cut(self, random: random.Random) -> None:
        data, durable = bytes(self.data), self.durable
        if data.startswith(durable):
            survived = data[: random.randint(len(durable), len(data))]
            if len(survived) < len(data) and random.random() < 0.2:
                # The length was written before the data: a tail of zeros.
                survived += bytes(random.randint(1, len(data) - len(survived)))
        else:
            # Truncated or rewritten since the last sync: the old or the new content.
            survived = data if random.random() < 0.5 else durable
        self.data = bytearray(survived)
        self.durable = bytes(self.data)


@dataclass(slots=True, eq=False)
class _DirectoryNode:
    entries: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)
    #: Since the last sync: (name, node) for a name set, (name, None) for one removed.
    pending: list[tuple[tuple[str, _Node | None], ...]] = field(default_factory=list)

    def change(self, *names: tuple[str, _Node | None]) -> None:
        """Change one or two names as one step that survives a power cut or does not."""
        _apply(self.entries, names)
        self.pending.append(names)

    def make_durable(self) -> None:
        if self.pending:
            self.durable = dict(self.entries)
            self.pending.clear()

    def after_power_cut(self, random: random.Random) -> None:
        for names in self.pending[: random.randint(0, len(self.pending))]:
            _apply(self.durable, names)
        self.entries = dict(self.durable)
        self.pending.clear()


_Node = _FileNode | _DirectoryNode


def _apply(entries: dict[str, _Node], names: tuple[tuple[str, _Node | None], ...]) -> None:
    for name, node in names:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class MemoryFile:
    """An open file of a `MemoryFiles`; dead after a crash."""

    def __init__(self, disk: MemoryFiles, node: _FileNode, path: str) -> None:
        self._disk = disk
        self._node = node
        self._path = path
        self._life = disk.life

    def _check(self, operation: str) -> None:
        if self._life != self._disk.life:
            raise OSError(errno.EIO, "the process that opened this file is dead", self._path)
        self._disk.check(operation, self._path)

    def append(self, data: Buffer) -> None:
        self._check("append")
        self._disk.hesitate()
        room = self._disk.capacity - self._disk.used
        view = memoryview(data)
        if len(view) > room:
            self._node.data += view[: max(room, 0)]
            self._disk.used += max(room, 0)
            self._disk.on_full("append")
            raise OSError(errno.ENOSPC, "no space left on the simulated disk", self._path)
        torn = self._disk.torn_append(len(view))
        if torn is not None:
            self._node.data += view[:torn]
            self._disk.used += torn
            self._disk.kill()
            raise OSError(errno.EIO, "killed in the middle of a write", self._path)
        self._node.data += view
        self._disk.used += len(view)
        self._node.mtime_ms = self._disk.now_ms()

    def pread(self, size: int, position: int) -> bytes:
        self._check("pread")
        return bytes(self._node.data[position : position + size])

    def pread_nowait(self, size: int, position: int) -> bytes | None:
        return None if self._disk.is_cold(self._path) else self.pread(size, position)

    def is_cached(self, size: int, position: int) -> bool:
        return not self._disk.is_cold(self._path)

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        return os.write(socket_fd, self.pread(size, position))

    def reserve(self, size: int, position: int) -> bool:
        self._node.reserved_to = position + size
        return True

    def release_reserve(self) -> None:
        self._node.reserved_to = 0

    def size(self) -> int:
        return len(self._node.data)

    def truncate(self, size: int) -> None:
        self._check("truncate")
        self._node.reserved_to = 0
        self._disk.used -= max(len(self._node.data) - size, 0)
        if size <= len(self._node.data):
            del self._node.data[size:]
        else:
            self._node.data += bytes(size - len(self._node.data))

    def datasync(self) -> None:
        self._check("sync")
        self._node.make_durable()

    def sync(self) -> None:
        self.datasync()

    def close(self) -> None:
        return None


class _MemoryLock:
    def __init__(self, disk: MemoryFiles, path: str) -> None:
        self._disk = disk
        self._path = path
        self._life = disk.life

    def close(self) -> None:
        if self._life == self._disk.life:
            self._disk.locks.discard(self._path)


class MemoryFileSystem:
    """The disk as a whole: makes all of it durable at once."""

    def __init__(self, disk: MemoryFiles, path: str) -> None:
        self._disk = disk
        self._path = path
        self._life = disk.life

    def has_little_to_write(self) -> bool:
        return not self._disk.is_too_dirty()

    def sync(self) -> None:
        disk = self._disk
        if self._life != disk.life:
            raise OSError(errno.EIO, "the process that opened this file system is dead", self._path)
        disk.check("sync_file_system", self._path)
        disk.make_durable()
        disk.whole_syncs += 1

    def close(self) -> None:
        return None


class MemoryFiles:
    """The disk. Attributes may be set at any time.

    Attributes:
        capacity: bytes of file content that fit; beyond, an append writes what fits and raises ENOSPC.
        fail: called as `fail(operation, path)` before each operation; raise OSError to make it fail.
        on_full: called with the operation that does not fit.
        is_cold: whether a file's content must be waited for; then `pread_nowait` gives nothing.
        hesitate: called before each append; may let virtual time pass, as a slow write does.
        torn_append: called with the size of each append; a number makes the process die after that many bytes.
        is_too_dirty: whether so much waits to be written that the disk is not to be synced as a whole.
        whole_syncs: how often it was.
        life: grows with each crash; files opened in an earlier life are dead.
    """

    used: int
    life: int

    def __init__(self, now_ms: Callable[[], int] = lambda: 0) -> None:
        self.now_ms = now_ms
        self.capacity = 1 << 62
        self.used = 0
        self.life = 0
        self.fail: Fail | None = None
        self.on_full: Callable[[str], None] = lambda _operation: None
        self.is_cold: Callable[[str], bool] = lambda _path: False
        self.hesitate: Callable[[], None] = lambda: None
        self.torn_append: Callable[[int], int | None] = lambda _size: None
        self.is_too_dirty: Callable[[], bool] = lambda: False
        self.whole_syncs = 0
        self.locks: set[str] = set()
        self._root = _DirectoryNode()

    # -- crashes

    def kill(self) -> None:
        """End the process: open files and locks are gone, everything written stays."""
        self.life += 1
        self.locks.clear()

    def power_cut(self, random: random.Random) -> None:
        """Cut the power: see the module's header."""
        self.kill()
        self._cut(self._root, random)
        self.used = sum(len(node.data) for node in self._files(self._root))

    def _cut(self, node: _Node, random: random.Random) -> None:
        node.after_power_cut(random)
        if isinstance(node, _DirectoryNode):
            for name in sorted(node.entries):
                self._cut(node.entries[name], random)

    def make_durable(self) -> None:
        """Bring everything to the disk."""
        nodes: list[_Node] = [self._root]
        while nodes:
            node = nodes.pop()
            node.make_durable()
            if isinstance(node, _DirectoryNode):
                nodes += node.entries.values()

    def _files(self, node: _Node) -> Iterator[_FileNode]:
        if isinstance(node, _FileNode):
            yield node
        else:
            for child in node.entries.values():
                yield from self._files(child)

    # -- the border

    def check(self, operation: str, path: str) -> None:
        if self.fail is not None:
            self.fail(operation, path)

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in _parts(path):
            if not isinstance(node, _DirectoryNode):
                return None
            node = node.entries.get(name)
        return node

    def _get(self, path: str) -> _Node:
        node = self._find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file or directory", path)
        return node

    def _file(self, path: str) -> _FileNode:
        node = self._get(path)
        if not isinstance(node, _FileNode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return node

    def _directory(self, path: str) -> _DirectoryNode:
        node = self._get(path)
        if not isinstance(node, _DirectoryNode):
            raise NotADirectoryError(errno.ENOTDIR, "is no directory", path)
        return node

    def _parent(self, path: str) -> tuple[_DirectoryNode, str]:
        parts = _parts(path)
        return self._directory("/".join(parts[:-1])), parts[-1]

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> MemoryFile:
        self.check("open", path)
        parent, name = self._parent(path)
        node = parent.entries.get(name)
        if node is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            node = _FileNode(mtime_ms=self.now_ms())
            parent.change((name, node))
        if not isinstance(node, _FileNode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        if truncate:
            self.used -= len(node.data)
            node.data = bytearray()
        return MemoryFile(self, node, path)

    def listdir(self, path: str) -> list[str]:
        self.check("listdir", path)
        return sorted(self._directory(path).entries)

    def entries(self, path: str) -> dict[str, bool]:
        self.check("listdir", path)
        nodes = self._directory(path).entries
        return {name: isinstance(nodes[name], _DirectoryNode) for name in sorted(nodes)}

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def is_dir(self, path: str) -> bool:
        return isinstance(self._find(path), _DirectoryNode)

    def size(self, path: str) -> int:
        return len(self._file(path).data)

    def mkdir(self, path: str) -> None:
        self.check("mkdir", path)
        node: _Node = self._root
        for name in _parts(path):
            if not isinstance(node, _DirectoryNode):
                raise NotADirectoryError(errno.ENOTDIR, "is no directory", path)
            child = node.entries.get(name)
            if child is None:
                child = _DirectoryNode()
                node.change((name, child))
            node = child

    def rename(self, source: str, target: str) -> None:
        self.check("rename", source)
        node = self._get(source)
        old_parent, old_name = self._parent(source)
        new_parent, new_name = self._parent(target)
        if old_parent is new_parent:
            old_parent.change((old_name, None), (new_name, node))
        else:
            new_parent.change((new_name, node))
            old_parent.change((old_name, None))

    def remove(self, path: str) -> None:
        self.check("remove", path)
        self.used -= len(self._file(path).data)
        parent, name = self._parent(path)
        parent.change((name, None))

    def remove_tree(self, path: str) -> None:
        self.check("remove_tree", path)
        node = self._find(path)
        if node is not None:
            self.used -= sum(len(file.data) for file in self._files(node))
            parent, name = self._parent(path)
            parent.change((name, None))

    def sync_dir(self, path: str) -> None:
        self.check("sync_dir", path)
        self._directory(path).make_durable()

    def sync_file(self, path: str) -> None:
        self.check("sync", path)
        self._file(path).make_durable()

    def read_bytes(self, path: str) -> bytes:
        self.check("read_bytes", path)
        return bytes(self._file(path).data)

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        self.check("write_atomic", path)
        node = _FileNode(bytearray(data), mtime_ms=self.now_ms())
        if len(data) > self.capacity - self.used:
            self.on_full("write_atomic")
            raise OSError(errno.ENOSPC, "no space left on the simulated disk", path)
        self.used += len(data)
        parent, name = self._parent(path)
        old = parent.entries.get(name)
        if isinstance(old, _FileNode):
            self.used -= len(old.data)
        if sync:
            node.make_durable()
        parent.change((name, node))
        if sync:
            parent.make_durable()

    def mtime_ms(self, path: str) -> int:
        return self._file(path).mtime_ms

    def set_mtime_ms(self, path: str, mtime_ms: int) -> None:
        self._file(path).mtime_ms = mtime_ms

    def lock(self, path: str) -> _MemoryLock:
        self.open(path, create=True)
        if path in self.locks:
            raise BlockingIOError(errno.EAGAIN, "locked by another process", path)
        self.locks.add(path)
        return _MemoryLock(self, path)

    def disk_usage(self, path: str) -> tuple[int, int]:
        return self.capacity, max(self.capacity - self.used, 0)

    def file_system(self, directory: str) -> MemoryFileSystem:
        self.check("open", directory)
        return MemoryFileSystem(self, directory)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part and part != "."]
