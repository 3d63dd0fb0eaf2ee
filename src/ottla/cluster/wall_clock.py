"""Whether the wall clock of this machine is right: by that of the coordination tree, and in between by the boot clock.

A clock that jumped days ahead would have retention delete everything at once. So nothing is deleted or expired by time
unless the clock was compared with the tree's and is not more than five minutes off since. The tree's servers note when a node
was written; this broker writes a node of its own, whose content and version mean nothing, every five minutes. In between
the clock that counts since the machine was booted tells whether the wall clock jumped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ottla.cluster.nodes import BrokerClockNode
from ottla.cluster.tree import Create, NoNodeError, SetData, Stat, Tree, TreeError, TreeUnavailableError

if TYPE_CHECKING:
    from ottla.clock import Clock

logger = logging.getLogger(__name__)

#: A clock that is farther off is wrong.
OFF_MS_MAX: Final = 300_000
COMPARISON_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 5.0


class WallClock:
    """Knows how far the wall clock is off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: How far it was off when it was compared last, and how far wall and boot clock were apart then.
        self._compared: tuple[int, int] | None = None
        self._was_right = True

    def on_written(self, begun_ms: int, written_ms: int) -> None:
        """A node was written at `written_ms` by the tree's clock, between `begun_ms` by this one and now."""
        now_ms = self._clock.wall_ms()
        off_ms = max(begun_ms - written_ms, 0) or min(now_ms - written_ms, 0)
        self._compared = off_ms, now_ms - self._clock.boot_ms()

    def off_ms(self) -> int | None:
        """Return how far the clock is ahead (below 0: behind); None if it was never compared."""
        if self._compared is None:
            return None
        off_ms, apart_ms = self._compared
        return off_ms + self._clock.wall_ms() - self._clock.boot_ms() - apart_ms

    def is_right(self) -> bool:
        """Whether what is old by this clock may be deleted."""
        off_ms = self.off_ms()
        is_right = off_ms is not None and abs(off_ms) <= OFF_MS_MAX
        if is_right != self._was_right and off_ms is not None:
            self._was_right = is_right
            if is_right:
                logger.warning("the wall clock is right again: what is too old is deleted")
            else:
                logger.error(
                    "the wall clock is %d s %s that of the coordination tree: nothing is deleted or expired by time "
                    "until they agree",
                    abs(off_ms) // 1000,
                    "ahead of" if off_ms > 0 else "behind",
                )
        return is_right

    async def keep(self, tree: Callable[[], Tree], node_id: int) -> None:
        """Compare again and again, until cancelled.

        Args:
            tree: returns the session in force.
        """
        while True:
            try:
                await self._compare(tree(), BrokerClockNode.path(node_id))
            except (TreeError, TreeUnavailableError) as error:
                logger.debug("the wall clock is compared later: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.is_right()
                await asyncio.sleep(COMPARISON_SECONDS)

    async def _compare(self, tree: Tree, path: str) -> None:
        begun_ms = self._clock.wall_ms()
        try:
            (stat,) = await tree.multi([SetData(path, BrokerClockNode.encode())])
        except NoNodeError:
            await tree.multi([Create(path, BrokerClockNode.encode())])
            begun_ms = self._clock.wall_ms()
            (stat,) = await tree.multi([SetData(path, BrokerClockNode.encode())])
        assert isinstance(stat, Stat)
        self.on_written(begun_ms, stat.mtime_ms or begun_ms)  # a tree that does not say has this clock
