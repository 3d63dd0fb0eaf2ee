"""Sessions: one session with the tree after the other, for as long as a broker runs.

A session ends when the servers have not heard of this broker for its timeout, because it hung, its network broke, or it
slept. From
the moment this is known the broker may no longer do what rests on the session, and begins the next one: that is tried again
until it succeeds. What has to be done at either end is the work of one listener.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ottla.cluster.tree import SessionState, Tree, TreeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

#: Pauses between tries to begin a session: the first and the longest. Each is twice the one before.
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.1, 1.0


class Sessions:
    """The sessions of one broker. `start` begins the first one.

    Args:
        open_session: begins a session.
    """

    def __init__(self, open_session: Callable[[], Awaitable[Tree]]) -> None:
        self._open_session = open_session
        self._task: asyncio.Task[None] | None = None
        self._tree: Tree | None = None
        #: How many sessions were begun.
        self.begun = 0
        #: How often none of the servers was connected any more, and how many sessions have ended by that.
        self.disconnects = self.ended = 0

    @property
    def tree(self) -> Tree:
        """The session in force, or the last one as long as there is none."""
        assert self._tree is not None
        return self._tree

    async def start(self) -> Tree:
        """Begin the first session.

        Raises:
            TreeUnavailableError: it is not possible.
        """
        self._tree = await self._open()
        return self._tree

    async def _open(self) -> Tree:
        tree = await self._open_session()
        tree.watch_state(self._count)
        self.begun += 1
        return tree

    def _count(self, state: SessionState) -> None:
        if state is SessionState.SUSPENDED:
            self.disconnects += 1

    def keep(
        self,
        *,
        on_end: Callable[[], None],
        on_begin: Callable[[Tree], Awaitable[None]],
        on_failure: Callable[[str], None],
    ) -> None:
        """From now on begin another session whenever one ends.

        Args:
            on_end: called as soon as it is known that the session has ended.
            on_begin: called with each next session. It may raise TreeUnavailableError: then it is called again, with another
                session if that one has ended, too.
            on_failure: called with one sentence when `on_begin` raised anything else; no other session is begun then.
        """
        self._task = asyncio.get_running_loop().create_task(
            self._run(on_end, on_begin, on_failure), name="tree-sessions"
        )

    async def _run(
        self,
        on_end: Callable[[], None],
        on_begin: Callable[[Tree], Awaitable[None]],
        on_failure: Callable[[str], None],
    ) -> None:
        while True:
            await _end_of(self.tree)
            logger.warning("the session with the coordination tree has ended; the next one is begun")
            self.ended += 1
            on_end()
            try:
                await self._begin(on_begin)
            except Exception as error:
                logger.debug("no other session", exc_info=True)
                on_failure(str(error))
                return

    async def _begin(self, on_begin: Callable[[Tree], Awaitable[None]]) -> None:
        pause = PAUSE_SECONDS_MIN
        while True:
            try:
                if self.tree.state is SessionState.ENDED:
                    self._tree = await self._open()
                await on_begin(self.tree)
            except TreeUnavailableError as error:
                logger.warning("no session with the coordination tree yet: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
            else:
                logger.info("a new session with the coordination tree has begun")
                return

    async def stop(self) -> None:
        """End the session in force, and begin no other."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._tree is not None:
            await self._tree.close()


async def _end_of(tree: Tree) -> None:
    """Return when a session has ended."""
    ended = asyncio.Event()
    stop = tree.watch_state(lambda state: ended.set() if state is SessionState.ENDED else None)
    try:
        if tree.state is not SessionState.ENDED:
            await ended.wait()
    finally:
        stop()
