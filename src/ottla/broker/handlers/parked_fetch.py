"""A fetch that waits without a task of its own, for consumers and followers alike.

It is the waiter of its partitions. Its next look is made in the next turn of the loop after a partition has grown: one
answer for all that was appended in one turn. What a look cannot answer by position is left to `FetchHandler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ottla.errors import ErrorCode
from ottla.file_region import Sendable
from ottla.protocol.messages.fetch import FetchResponse

if TYPE_CHECKING:
    from ottla.broker.deadlines import Deadlines
    from ottla.broker.replicas.partition import Partition
    from ottla.broker.replicas.purgatory import Waiter

logger = logging.getLogger(__name__)

Body = bytes | list[Sendable] | FetchResponse
"""An answer: encoded, in one piece or several, or not."""


class NotOrdinary(Exception):
    """A look met what the ordinary path has to answer."""


class Look(Protocol):
    """One request, and what is there for it.

    Attributes:
        watched: the partitions that it is about.
        bytes_missing: how many more bytes make it worth another look.
        waits_for_stable: whether only the last stable offset makes it so.
    """

    watched: list[Partition]
    bytes_missing: int
    waits_for_stable: bool

    def waiters(self, partition: Partition) -> dict[Waiter, None]:
        """Where those wait that wait for what this one waits for."""
        ...

    def find(self) -> bool:
        """Look what there is; return whether it is to be answered at once.

        Raises:
            NotOrdinary: nothing has changed.
        """
        ...

    def answer(self) -> bytes | list[Sendable]:
        """Return the body of the answer: from now on the client knows what is in it.

        Raises:
            NotOrdinary: nothing has changed.
        """
        ...

    def answer_ordinarily(self, wait_ms: int) -> FetchResponse | Awaitable[FetchResponse]:
        """Have the ordinary path look, and wait for so long."""
        ...


class ParkedFetch:
    """A fetch that waits until there is something for it; see `context.BodyToCome`.

    Attributes:
        due: when it is answered whatever there is, in the loop's time; set by `Deadlines`.
        is_prompt: its answer is given from the loop, never within the handling of another request.
    """

    __slots__ = ("_bytes_wanted", "_callback", "_deadlines", "_is_woken", "_look", "_loop", "_task", "due")

    is_prompt = True

    def __init__(self, look: Look, deadlines: Deadlines[ParkedFetch], seconds: float) -> None:
        self._look = look
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._callback: Callable[[Body], None] | None = None
        self._task: asyncio.Task[FetchResponse] | None = None
        self._is_woken = False
        self.due = 0.0
        self._park()
        deadlines.add(self, seconds)

    def then(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with the answer, once."""
        self._callback = callback

    def abandon(self) -> None:
        """The connection has ended."""
        if self._callback is not None:
            self._callback = None
            self._deadlines.remove(self)
            self._leave()
        elif self._task is not None:
            self._task.cancel()

    # -- waiting

    def _park(self) -> None:
        look = self._look
        self._bytes_wanted = look.bytes_missing
        for partition in look.watched:
            look.waiters(partition)[self] = None

    def _leave(self) -> None:
        look = self._look
        for partition in look.watched:
            look.waiters(partition).pop(self, None)

    def on_progress(self, byte_count: int, *, is_stable: bool) -> None:
        """A log has grown, or more of it can be read; see `FetchWaiter`."""
        if self._look.waits_for_stable:
            if is_stable:
                self.wake()
            return
        self._bytes_wanted -= byte_count
        if self._bytes_wanted <= 0:
            self.wake()

    def wake(self) -> None:
        """Look again: something has changed."""
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        self._is_woken = False
        if self._callback is None:
            return
        self._leave()
        try:
            if not self._look.find():
                self._park()
                return
            body = self._look.answer()
        except NotOrdinary:
            self._deadlines.remove(self)
            self._answer_ordinarily(max(0, int((self.due - self._loop.time()) * 1000)))
        else:
            self._deadlines.remove(self)
            self._give(body)

    def on_timeout(self) -> None:
        """The client waits no longer."""
        self._leave()
        try:
            self._look.find()
            body = self._look.answer()
        except NotOrdinary:
            self._answer_ordinarily(0)
        else:
            self._give(body)

    # -- answering

    def _give(self, body: Body) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(body)

    def _answer_ordinarily(self, wait_ms: int) -> None:
        answer = self._look.answer_ordinarily(wait_ms)
        if isinstance(answer, FetchResponse):
            self._give(answer)
            return
        callback, self._callback = self._callback, None
        self._task = asyncio.ensure_future(_awaited(answer))
        self._task.add_done_callback(partial(_on_answered, callback))


async def _awaited(answer: Awaitable[FetchResponse]) -> FetchResponse:
    return await answer


def _on_answered(callback: Callable[[Body], None] | None, task: asyncio.Task[FetchResponse]) -> None:
    if task.cancelled() or callback is None:
        return
    error = task.exception()
    if error is not None:
        logger.error("a fetch that waited could not be answered", exc_info=error)
        callback(FetchResponse(error_code=ErrorCode.UNKNOWN_SERVER_ERROR))
    else:
        callback(task.result())
