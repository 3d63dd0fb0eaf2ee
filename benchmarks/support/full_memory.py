"""Memory that is full of page cache, as on any machine that has been up for a while.

On a virtual machine, memory that its guest does not use is often with the machine below, and is given back page by page at
several us each when the guest's page cache grows. What a broker pays for appending would then depend on what ran before:
0.9 to 2.4 CPU s/GB for the same requests. With memory full, a page for a new record is one that held something else, for
every broker alike.

Linux only: elsewhere nothing is done. Nor is it where filling shows no effect (in memory, or in a container whose page
cache is counted apart), and of more than `FILL_MAX`, which takes a minute, the rest stays free.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path

#: What is left free: enough that the kernel is not hunting for pages already.
LEFT_FREE = 512 << 20
#: Less than this is not worth a file.
FILE_MIN = 64 << 20
FILE_MAX = 1 << 30
FILL_MAX = 64 << 30
#: From so much on it is looked whether filling had an effect.
JUDGED_MIN = 1 << 30
_BLOCK = 1 << 20


class FullMemory:
    """Fills free memory with the pages of files that nobody needs: the kernel takes those first."""

    def __init__(self, directory: str | None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="benchmark-memory-", dir=directory)
        self._files: deque[tuple[Path, int]] = deque()
        self._block = bytearray(_BLOCK)
        self._written = 0
        self._has_effect = True

    def fill(self) -> None:
        """Use up what has become free since the last time."""
        before = _meminfo("MemFree")
        wanted = left = min(before - LEFT_FREE, FILL_MAX) if self._has_effect else 0
        while left >= FILE_MIN:
            size = min(left, FILE_MAX)
            self._add(size)
            left -= size
        free = _meminfo("MemFree")
        # A kernel that makes room faster than it is taken leaves some free as well.
        if wanted >= JUDGED_MIN and before - free < wanted // 2 and free > _meminfo("MemTotal") // 4:
            self._has_effect = False
            print("memory cannot be filled here: what is measured may depend on what ran before", flush=True)

    def _add(self, size: int) -> None:
        """Read a new file without blocks, once: its pages are zeros, and come without I/O."""
        path = Path(self._directory.name, str(self._written))
        self._written += 1
        with path.open("w+b", buffering=0) as file:
            file.truncate(size)
            for offset in range(0, size, _BLOCK):
                os.preadv(file.fileno(), [self._block], offset)
        self._files.append((path, size))
        # The oldest files' pages went first; once all files together exceed memory, those of the first are gone.
        while sum(size for _, size in self._files) > 2 * _meminfo("MemTotal"):
            self._files.popleft()[0].unlink()

    def close(self) -> None:
        """Remove the files, and with them their pages."""
        self._directory.cleanup()


def _meminfo(name: str) -> int:
    """Return a line of /proc/meminfo in bytes; 0 where there is none."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
