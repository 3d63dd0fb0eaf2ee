"""Calls of `map_async`: coroutines that run beside the thread of a task, and the records that wait for them.

A task starts calls and is asked now and then for what has come back (`Task.collect`); it never waits. Who runs the calls is
given to it: an event loop on a thread of its own (`LoopCalls`), or one that is waited for, in tests (`WaitedCalls`).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from ottla.streams.context import Headers, InputRecord

#: Seconds that the calls of retries may take between two commits.
RETRIES_S = 8.0
_SHARED = f"between two commits the calls of all retries share {RETRIES_S:g} s"
#: A function of `map_async`, its arguments bound.
Function = Callable[[], Any]


class RetryTime:
    """How long the thread may wait for calls that are made again, all of them together, between two commits.

    It waits with all its tasks and their transaction, which the broker gives up after transaction.timeout.ms (10 s).

    Attributes:
        left_s: what is left of it, in seconds.
    """

    def __init__(self) -> None:
        self.left_s: float = RETRIES_S

    def begin_anew(self) -> None:
        """A commit, or an abort, is done: the next transaction has all of its time."""
        self.left_s = RETRIES_S

    def run(self, start: Callable[[], Future[Any]]) -> Any:
        """Begin a call, wait for it, and return what comes of it.

        Raises:
            TimeoutError: it took longer than what is left, or nothing was left; nobody wants what comes of it any more.
        """
        if self.left_s <= 0:
            raise TimeoutError(f"the call was not made again: {_SHARED}")
        began = monotonic()
        call = start()
        try:
            return call.result(self.left_s)
        except TimeoutError:
            if call.done() and not call.cancelled():
                raise  # the function's own
            call.cancel()
            raise TimeoutError(f"the call of a retry did not come back in time: {_SHARED}") from None
        finally:
            self.left_s -= monotonic() - began


class Calls(Protocol):
    """Runs coroutines. For one thread of tasks.

    Attributes:
        retries: how long its thread may wait for calls that are made again.
    """

    retries: RetryTime

    def start(self, function: Function) -> Future[Any]:
        """Begin a call. The future may be cancelled: then nobody wants what comes of it."""
        ...

    def close(self) -> None:
        """Give up the calls that still run."""
        ...


async def _awaited(function: Function) -> Any:
    try:
        found = function()
        if not inspect.isawaitable(found):
            raise TypeError(
                "map_async() needs an async function (`async def`); a function that blocks goes into "
                "`asyncio.to_thread(function, value)` in one"
            )
        return await found
    except (SystemExit, KeyboardInterrupt) as error:
        # Either would end the loop: this call and all others would never come back.
        raise RuntimeError(f"an async function raised {type(error).__name__}") from error


class LoopCalls:
    """An event loop on a thread, which begins with the first call."""

    def __init__(self) -> None:
        self.retries: RetryTime = RetryTime()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self, function: Function) -> Future[Any]:
        """See `Calls`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="ottla-streams-calls", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(_awaited(function), self._loop)

    def close(self) -> None:
        """See `Calls`."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return

        async def end() -> None:
            running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            loop.stop()

        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join(5)
        if not thread.is_alive():
            loop.close()


class WaitedCalls(LoopCalls):
    """Waits for each call before `start` returns."""

    def start(self, function: Function) -> Future[Any]:
        """See `Calls`."""
        found = super().start(function)
        wait([found])
        return found


@dataclass(slots=True)
class Waiting:
    """A record at an operator of `map_async`.

    Attributes:
        source: the input record that it came of, and its time as the source has it; None in a punctuation or a flush.
        number: which of the calls for that input record it is.
        call: None until there is room for it.
    """

    key: Any
    value: Any
    timestamp: int
    headers: Headers
    source: InputRecord | None
    source_time: int
    number: int
    call: Future[Any] | None = None


@dataclass(slots=True)
class Finished:
    """A call that came back, and what is to be done about it on the task's thread."""

    waiting: Waiting
    forward: Callable[[Waiting], None]


class Line:
    """The records that wait at one operator.

    Args:
        forward: takes a record whose call has ended, on the task's thread.
        concurrency: calls at one time.
        ordered: records go on in the order in which they came.
    """

    def __init__(
        self,
        calls: Calls,
        bind: Callable[[Waiting], Function],
        forward: Callable[[Waiting], None],
        *,
        concurrency: int,
        ordered: bool,
    ) -> None:
        self._calls = calls
        self._bind = bind
        self._forward = forward
        self._concurrency = concurrency
        self._ordered = ordered
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether another record would wait for its call."""
        return len(self._waiting) >= self._concurrency

    def add(self, waiting: Waiting) -> None:
        """A record has come."""
        self._waiting.append(waiting)
        self._start()

    def _start(self) -> None:
        """Begin calls while there is room. Those that ended make room, even if they wait for their turn."""
        running = sum(1 for each in self._waiting if each.call is not None and not each.call.done())
        for each in self._waiting:
            if running >= self._concurrency:
                return
            if each.call is None:
                each.call = self._calls.start(self._bind(each))
                running += not each.call.done()

    def take(self) -> list[Finished]:
        """Return the records that may go on."""
        found: list[Finished] = []
        if self._ordered:
            while self._waiting and (call := self._waiting[0].call) is not None and call.done():
                found.append(Finished(self._waiting.popleft(), self._forward))
        else:
            ended = [each for each in self._waiting if each.call is not None and each.call.done()]
            for each in ended:
                self._waiting.remove(each)
                found.append(Finished(each, self._forward))
        if self._waiting:
            self._start()
        return found

    def cancel(self) -> None:
        """Nobody wants what comes of them."""
        for each in self._waiting:
            if each.call is not None:
                each.call.cancel()
        self._waiting.clear()
