"""What is short where: directories without room, and descriptors. Logged once, shown while it lasts, gone when it has passed.

A full disk is no failed disk: what does not fit is refused, reads go on, and the next append may fit again. But the
operator must know. `note` takes a refusal and logs the first one; `watch` looks again every few seconds, by writing a small
file, and logs when there is room. While refusals go on (a large batch may not fit where the small file does) the
directory stays full.

Belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from ottla.storage.files import NO_DESCRIPTOR, PASSING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ottla.offload import Offload
    from ottla.storage.files import Files

logger = logging.getLogger(__name__)

#: How often it is looked again.
LOOK_INTERVAL_MS = 5_000
#: What is written to find out. It must be more than one block, which a file system may have left.
PROBE = bytes(64 << 10)
PROBE_FILE = ".ottla-room"


class Shortage(NamedTuple):
    """What is short in one directory, and since when (wall time)."""

    is_descriptors: bool
    reason: str
    since_ms: int

    def __str__(self) -> str:
        what = "no file descriptor is left" if self.is_descriptors else "no space is left"
        return f"{what}, appends are refused ({self.reason})"


class Shortages:
    """The shortages of a broker's directories.

    Attributes:
        by_directory: what is short now.
        refusals: how often a directory was too full since the start.
    """

    def __init__(self, files: Files, offload_of: Callable[[str], Offload], wall_ms: Callable[[], int]) -> None:
        self._files = files
        self._offload_of = offload_of
        self._wall_ms = wall_ms
        self._by_directory: dict[str, Shortage] = {}
        self._last_ms: dict[str, int] = {}
        self._news = asyncio.Event()
        self.refusals = 0

    @property
    def by_directory(self) -> Mapping[str, Shortage]:
        return self._by_directory

    def note(self, directory: str, error: OSError) -> None:
        """Something was refused in this directory because there was no room, or no descriptor."""
        if error.errno not in PASSING:
            return
        self.refusals += 1
        self._last_ms[directory] = self._wall_ms()
        if directory not in self._by_directory:
            shortage = Shortage(error.errno in NO_DESCRIPTOR, error.strerror or str(error), self._wall_ms())
            self._by_directory[directory] = shortage
            logger.error("log directory %s: %s; reads go on", directory, shortage)
            self._news.set()

    def forget(self, directory: str) -> None:
        """The directory is offline: that says more."""
        self._by_directory.pop(directory, None)

    async def watch(self) -> None:
        """Look again until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._by_directory:
                await asyncio.sleep(LOOK_INTERVAL_MS / 1000)
                # One that hangs does not keep the others from being looked at.
                await asyncio.gather(*map(self._look, list(self._by_directory)))

    async def _look(self, directory: str) -> None:
        if self._wall_ms() - self._last_ms[directory] < LOOK_INTERVAL_MS:
            return
        try:
            await self._offload_of(directory).run(self._probe, directory)
        except OSError:
            return
        shortage = self._by_directory.pop(directory, None)
        if shortage is not None:
            seconds = (self._wall_ms() - shortage.since_ms) // 1000
            logger.warning("log directory %s takes appends again, after %d seconds", directory, seconds)

    def _probe(self, directory: str) -> None:
        path = f"{directory}/{PROBE_FILE}"
        try:
            self._files.write_atomic(path, PROBE, sync=False)
        finally:
            for left in (path, path + ".tmp"):
                if self._files.exists(left):
                    self._files.remove(left)
