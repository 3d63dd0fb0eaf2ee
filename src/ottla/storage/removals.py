"""Files and directories that were deleted and are unlinked when their delay is over (`file.delete.delay.ms`).

A queue for each log directory, so that one whose disk hangs keeps none of the others waiting. Unlinking leaves the loop.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from ottla import failpoints

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.offload import Offload
    from ottla.storage.files import Files

logger = logging.getLogger(__name__)

#: Files and directories that one call on another thread unlinks.
SLICE = 64


class Removals:
    """What is to be unlinked, and when (wall time)."""

    def __init__(self, files: Files, offload_of: Callable[[str], Offload], wall_ms: Callable[[], int]) -> None:
        self._files = files
        self._offload_of = offload_of
        self._wall_ms = wall_ms
        self._waiting: dict[str, deque[tuple[int, str, bool]]] = {}

    def add(self, directory: str, due_ms: int, path: str, *, is_directory: bool) -> None:
        """Unlink this path of a log directory later. May be called on any thread."""
        self._waiting.setdefault(directory, deque()).append((due_ms, path, is_directory))

    async def run(self, directory: str, *, all_of_them: bool = False) -> int:
        """Unlink what is due in this log directory; return how many files and directories that was."""
        waiting = self._waiting.setdefault(directory, deque())
        now_ms = self._wall_ms()
        due: list[tuple[str, bool]] = []
        # Delays differ by topic, so that the queue is not quite in order.
        for _ in range(len(waiting)):
            item = waiting.popleft()
            if all_of_them or item[0] <= now_ms:
                due.append(item[1:])
            else:
                waiting.append(item)
        for start in range(0, len(due), SLICE):
            await self._offload_of(directory).run(self._remove, due[start : start + SLICE])
        return len(due)

    def _remove(self, due: list[tuple[str, bool]]) -> None:
        for path, is_directory in due:
            try:
                failpoints.hit("log.unlink")
                if is_directory:
                    self._files.remove_tree(path)
                else:
                    self._files.remove(path)
            except FileNotFoundError:
                continue  # its partition was deleted meanwhile
            except OSError as error:
                logger.warning("%s could not be removed: %s", path, error)
