"""A bounded set of files open for reading: sealed segments and index files of all partitions.

Active segments keep their own descriptor (one per partition that was ever touched); everything else goes through here,
so that 10,000 partitions with hundreds of segments stay within a few thousand descriptors. Eviction only drops the
reference: a reader that still uses the file keeps it open (see `files`). Safe to use from several threads: each step
is one atomic dictionary operation, and losing a race merely opens a file twice.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.storage.files import File, Files

DEFAULT_CAPACITY = 2048


class OpenFiles:
    """Least recently used files are closed beyond `capacity`."""

    def __init__(self, files: Files, capacity: int = DEFAULT_CAPACITY) -> None:
        self.files = files
        self.capacity = max(1, capacity)
        self._open: OrderedDict[str, File] = OrderedDict()
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._open)

    def get(self, path: str) -> File:
        """Return the file, opened for reading now if it was not.

        Raises:
            OSError: it cannot be opened.
        """
        file = self._open.get(path)
        if file is not None:
            try:
                self._open.move_to_end(path)
            except KeyError:  # evicted by another thread in between; our reference still holds
                pass
            return file
        forgotten = self._forgotten
        file = self.files.open(path, write=False)
        if forgotten != self._forgotten:
            return file  # perhaps the file that had this name before: good for this reader, and for no other
        self._open[path] = file
        while len(self._open) > self.capacity:
            try:
                self._open.popitem(last=False)
            except KeyError:
                break
        return file

    def adopt(self, path: str, file: File) -> None:
        """Take over a file that its writer no longer needs."""
        self._open[path] = file
        while len(self._open) > self.capacity:
            try:
                self._open.popitem(last=False)
            except KeyError:
                break

    def forget(self, path: str) -> None:
        """Drop a file that was renamed, replaced, truncated or deleted."""
        self._forgotten += 1
        self._open.pop(path, None)

    def close(self) -> None:
        """Drop everything."""
        self._open.clear()
