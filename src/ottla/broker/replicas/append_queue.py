"""Batches of one partition that wait for their turn, because the disk is slow or another thread changes the log.

They get their offsets in the order in which they came. On the loop several go in one turn; off it several share one
hand-off to a thread (`hand_offs`). A sender that gives up drops a batch whose turn has not come, and its memory with it, or
clients that repeat what timed out could fill the memory behind a disk that hangs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ottla.broker.replicas.disk_pace import SLOW_MS
from ottla.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ottla.broker.replicas.disk_pace import DiskPace
    from ottla.broker.replicas.hand_offs import HandOffs
    from ottla.offload import Offload
    from ottla.storage.appended import AppendInfo
    from ottla.storage.appending import Append

    Outcome = AppendInfo | Exception | None

#: Batches appended on the loop before others have their turn, and taken to a thread together.
TOGETHER_MAX = 16


class QueuedAppend:
    """An append that waits.

    Attributes:
        append: the batch; None when its sender has given up before its turn.
        size: its bytes.
        heavy: whether it unpacks to much.
        future: its result.
    """

    __slots__ = ("append", "future", "heavy", "size")

    def __init__(self, append: Append, *, heavy: bool, future: asyncio.Future[AppendInfo]) -> None:
        self.append: Append | None = append
        self.size = len(append.records)
        self.heavy = heavy
        self.future = future


class Appender(Protocol):
    """What a queue needs of its partition."""

    def may_append_on_loop(self) -> bool:
        """Whether the disk is quick."""
        ...

    def append_queued_nowait(self, append: Append) -> AppendInfo | None:
        """Append on the loop; None: nothing was done, another thread changes the log."""
        ...

    def append_queued(self, append: Append, *, heavy: bool, wait: bool) -> tuple[AppendInfo | None, int]:
        """Append on a thread; return how many milliseconds it took, too.

        Without `wait` nothing is done, and None returned, if another thread changes the log.
        """
        ...

    def on_appended(self, end_offset: int, byte_count: int) -> None:
        """The log has grown up to `end_offset` by a batch, others behind it may be there already (called on the loop)."""
        ...

    def on_queue_empty(self) -> None:
        """Nothing waits any more; this queue is not used again."""
        ...


class AppendQueue:
    """Runs until it is empty. All methods belong to the loop's thread, except `_append_all`."""

    __slots__ = ("_hand_offs", "_offload", "_pace", "_partition", "_task", "_unpacking", "_waiting")

    def __init__(
        self, partition: Appender, pace: DiskPace, hand_offs: HandOffs, unpacking: asyncio.Lock, offload: Offload
    ) -> None:
        self._partition = partition
        self._pace = pace
        self._hand_offs = hand_offs
        self._unpacking = unpacking
        self._offload = offload
        self._waiting: deque[QueuedAppend] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, queued: QueuedAppend) -> None:
        """Let an append wait; its future tells what becomes of it."""
        self._waiting.append(queued)
        self._pace.queued_bytes += queued.size
        queued.future.add_done_callback(lambda future: self._on_ended(queued, future))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    def _on_ended(self, queued: QueuedAppend, future: asyncio.Future[AppendInfo]) -> None:
        """The sender may be gone by then (a request that timed out, a connection that ended)."""
        if not future.cancelled():
            future.exception()
        elif queued.append is not None:
            queued.append = None
            self._pace.queued_bytes -= queued.size

    async def _drain(self) -> None:
        waiting, offload = self._waiting, self._offload
        is_busy = False
        try:
            while waiting:
                if waiting[0].heavy:
                    taken = [waiting.popleft()]
                    async with self._unpacking:
                        await self._leave_loop(taken, offload.run(self._append_all, taken, wait=True))
                elif not self._append_some():
                    taken = self._take()
                    if is_busy or self._partition.may_append_on_loop():
                        # Another thread changes the log. No other partition is to wait for that.
                        await self._leave_loop(taken, offload.run(self._append_all, taken, wait=True))
                        is_busy = False
                    else:
                        append = partial(self._append_all, taken, wait=False)
                        is_busy = not await self._leave_loop(taken, self._hand_offs.run(append))
                if waiting:
                    await asyncio.sleep(0)  # others first
        finally:
            self._partition.on_queue_empty()

    def _append_some(self) -> bool:
        """Append on the loop for as long as nothing keeps off it; return whether that was something."""
        waiting, partition = self._waiting, self._partition
        for count in range(TOGETHER_MAX):
            if not waiting or waiting[0].heavy:
                return True
            queued = waiting[0]
            outcome: Outcome = None
            if queued.append is not None:
                if not partition.may_append_on_loop():
                    return count > 0
                try:
                    outcome = partition.append_queued_nowait(queued.append)
                except Exception as error:
                    outcome = _without_frames(error)
                if outcome is None:
                    return count > 0
            waiting.popleft()
            self._settle(queued, outcome)
        return True

    def _take(self) -> list[QueuedAppend]:
        """Take what shares one hand-off."""
        waiting = self._waiting
        taken: list[QueuedAppend] = []
        while waiting and not waiting[0].heavy and len(taken) < TOGETHER_MAX:
            taken.append(waiting.popleft())
        return taken

    async def _leave_loop(self, taken: list[QueuedAppend], appending: Awaitable[list[Outcome]]) -> int:
        """Wait for appends off the loop and settle them; what was not tried waits again. Return how many were tried."""
        try:
            outcomes = await appending
        except Exception as error:  # no thread was to be had
            outcomes = [error] * len(taken)
        for queued, outcome in zip(taken, outcomes, strict=False):
            self._settle(queued, outcome)
        self._waiting.extendleft(reversed(taken[len(outcomes) :]))
        return len(outcomes)

    def _append_all(self, taken: list[QueuedAppend], *, wait: bool) -> list[Outcome]:
        """Append one after the other, on a thread; up to one that took long: what was done is to be told then.

        Without `wait` also up to one for which another thread would have to be waited for.
        """
        outcomes: list[Outcome] = []
        for queued in taken:
            append = queued.append
            if append is None:
                outcomes.append(None)
                continue
            try:
                info, took_ms = self._partition.append_queued(append, heavy=queued.heavy, wait=wait)
            except Exception as error:
                outcomes.append(_without_frames(error))
                continue
            if info is not None:
                outcomes.append(info)
            if info is None or took_ms >= SLOW_MS:
                break
        return outcomes

    def _settle(self, queued: QueuedAppend, outcome: Outcome) -> None:
        """Give the sender its outcome; None: the sender had given up."""
        if queued.append is not None:
            self._pace.queued_bytes -= queued.size
            queued.append = None
        if isinstance(outcome, Exception):
            if not queued.future.done():
                queued.future.set_exception(outcome)
        elif outcome is not None:
            if not queued.future.done():
                queued.future.set_result(outcome)
            self._partition.on_appended(outcome.last_offset + 1, queued.size)


def _without_frames(error: Exception) -> Exception:
    """Return a refusal without the frames it came through.

    They hold the batch and whatever it unpacked to, and this queue holds the error: a cycle that only the garbage collector
    would end, 100 MB later. Errors that are no refusal keep them, for the log.
    """
    one: BaseException | None = error if isinstance(error, KafkaError) else None
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error
