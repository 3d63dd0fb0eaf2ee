"""Which log directories have a disk that hangs: work that was begun there and does not end.

Time is counted in ticks of the loop's own timer, so that time in which the machine slept or the process was stopped does
not count: after a minute's stop there is one tick, not sixty. Watched is what is short unless the disk hangs (fsyncs,
appends, checkpoints), not what may take long by itself (recovery, compaction, copies).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from ottla.offload import Offload

P = ParamSpec("P")
T = TypeVar("T")

TICK_SECONDS = 1.0
#: A directory hangs as long as something there was begun so many ticks ago, or more.
HUNG_TICKS = 10


class DiskWatch:
    """Knows what is under way, by directory. Belongs to the loop's thread.

    Attributes:
        hung: directories that hang, as of the last tick.
    """

    def __init__(self) -> None:
        self.hung: frozenset[str] = frozenset()
        self._now = 0
        self._count = 0
        #: By directory and number: the tick in which it was begun. The first one is the oldest.
        self._under_way: dict[str, dict[int, int]] = {}

    def begin(self, directory: str) -> int:
        """Something is begun in a directory; return its number."""
        self._count += 1
        self._under_way.setdefault(directory, {})[self._count] = self._now
        return self._count

    def end(self, directory: str, number: int) -> None:
        """It has ended, well or not."""
        del self._under_way[directory][number]

    def tick(self) -> bool:
        """A second of this process has passed; return whether other directories hang than before."""
        self._now += 1
        oldest = {path: next(iter(begun.values())) for path, begun in self._under_way.items() if begun}
        hung = frozenset(path for path, begun in oldest.items() if self._now - begun >= HUNG_TICKS)
        has_changed, self.hung = hung != self.hung, hung
        return has_changed


class WatchedOffload:
    """Threads of one directory whose work is watched. Implements `Offload`."""

    def __init__(self, offload: Offload, watch: DiskWatch, directory: str) -> None:
        self._offload = offload
        self._watch = watch
        self._directory = directory

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        number = self._watch.begin(self._directory)
        try:
            return await self._offload.run(function, *args, **kwargs)
        finally:
            self._watch.end(self._directory, number)

    def share(self, name: str) -> Offload:
        return self._offload.share(name)

    def close(self) -> None:
        self._offload.close()
