"""Agents: coroutines that take the records of a stream one after the other, for those who know them from Faust.

An `Inbox` stands between a task, which hands records over and waits for what comes of each, and the coroutine, which asks for
the next one. Everything in here happens on the loop of the calls (`calls.py`), so nothing is locked.

A record is done when the agent asks for the next one, and what the agent has yielded by then came of it. A commit waits for
that, so each record is processed at least once. An agent that raises is begun anew: with the records that come next, but
not before the task has decided about those that failed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from ottla.client.keys import Duration
from ottla.streams.records import Record
from ottla.streams.windows import positive_ms

logger: logging.Logger = logging.getLogger(__name__)

#: Makes an agent: `async def f(records)`, with `yield` or without.
AgentFunction = Callable[["Records"], Any]


class Records:
    """What an agent is given: `async for record in records`, or `async for batch in records.take(100, within="1s")`."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        (record,) = await self._inbox.take(1, 0.0)
        return record

    async def take(self, count: int, *, within: Duration) -> AsyncIterator[list[Record]]:
        """Yield lists of up to `count` records. All of one list are done when the next list is asked for.

        Args:
            within: how long a list is waited for at most, from its first record on. A commit waits so long, too.
        """
        if count < 1:
            raise ValueError(f"take() gives lists of 1 record or more, not {count}")
        within_s = positive_ms("within", within) / 1000
        while True:
            yield await self._inbox.take(count, within_s)


class _Entry:
    """A record on its way through an agent.

    Attributes:
        done: what the agent has yielded for it, or what it raised.
        is_again: it failed before.
    """

    __slots__ = ("done", "is_again", "record")

    def __init__(self, record: Record, *, is_again: bool) -> None:
        self.record = record
        self.is_again = is_again
        self.done: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()


class Inbox:
    """The records of one task for one agent.

    Args:
        name: the agent's.
        waits: whether `Records.take` waits for more records. Not where each record is waited for before the next one is
            handed over.
    """

    def __init__(self, name: str, function: AgentFunction, *, waits: bool = True) -> None:
        self._name = name
        self._function = function
        self._waits = waits
        self._waiting: deque[_Entry] = deque()
        #: Those that failed and are tried again; they come before all others.
        self._again: deque[_Entry] = deque()
        self._at_hand: list[_Entry] = []
        #: What was yielded since the last record was done.
        self._made: list[Record] = []
        #: Records that failed and about which the task has not decided: until then it gets no others.
        self._undecided = 0
        self._come = asyncio.Event()
        self._agent: asyncio.Task[None] | None = None
        #: Whether the agent has taken a record since it was begun.
        self._has_taken = False

    # -- the task's side ------------------------------------------------------------------------------------------------

    async def handle(self, record: Record) -> list[Record]:
        """Give the agent a record; return what it has yielded for it.

        Raises:
            Exception: what the agent raised. `settle` has to follow.
        """
        return await self._hand_over(_Entry(record, is_again=False), self._waiting)

    async def again(self, record: Record) -> list[Record]:
        """Give the agent a record again that has failed, before all others; as `handle`."""
        return await self._hand_over(_Entry(record, is_again=True), self._again)

    async def settle(self) -> None:
        """The task has decided about a record that failed."""
        self._undecided -= 1
        self._go_on()

    async def close(self) -> None:
        """Cancel the agent: nobody wants what comes of its records."""
        if self._agent is not None:
            self._agent.cancel()
            await asyncio.gather(self._agent, return_exceptions=True)

    async def _hand_over(self, entry: _Entry, queue: deque[_Entry]) -> list[Record]:
        queue.append(entry)
        self._go_on()
        return await entry.done

    def _go_on(self) -> None:
        """Wake the agent, or begin it, if it can have a record."""
        if self._first() is None:
            return
        self._come.set()
        if self._agent is None:
            self._has_taken = False
            self._agent = asyncio.get_running_loop().create_task(self._run())

    def _first(self) -> deque[_Entry] | None:
        """Return the queue that the next record comes from; None: there is none now."""
        for queue in (self._again, self._waiting):
            while queue and queue[0].done.done():
                queue.popleft()  # cancelled
        if self._again:
            return self._again
        return self._waiting if self._waiting and not self._undecided else None

    # -- the agent's side -----------------------------------------------------------------------------------------------

    async def take(self, count: int, within_s: float) -> list[Record]:
        """Return the next records: one at least. Those that were taken before are done."""
        self._finish()
        loop = asyncio.get_running_loop()
        until = None
        while True:
            while len(self._at_hand) < count and (queue := self._first()) is not None:
                self._at_hand.append(queue.popleft())
                self._has_taken = True
            if len(self._at_hand) == count or (self._at_hand and not self._waits):
                break
            self._come.clear()
            if not self._at_hand:
                await self._come.wait()
                continue
            until = loop.time() + within_s if until is None else until
            try:
                async with asyncio.timeout_at(until):
                    await self._come.wait()
            except TimeoutError:
                break
        return [entry.record for entry in self._at_hand]

    def _finish(self) -> None:
        """What is at hand is done. What was yielded comes of the last of it."""
        done, self._at_hand = self._at_hand, []
        if not done:
            return  # yielded before the first record: it waits for that
        made, self._made = self._made, []
        for entry in done:
            if not entry.done.done():
                entry.done.set_result(made if entry is done[-1] else [])

    async def _run(self) -> None:
        failure: Exception | None = None
        try:
            await self._call()
        except (SystemExit, KeyboardInterrupt) as error:
            # Either would end the loop, and all other calls with it.
            failure = RuntimeError(f"the agent raised {type(error).__name__}")
        except Exception as error:
            failure = error
        self._agent = None
        self._on_ended(failure)

    async def _call(self) -> None:
        made = self._function(Records(self))
        if inspect.isasyncgen(made):
            async for value in made:
                self._made.append(self._as_record(value))
        else:
            await made

    def _as_record(self, value: Any) -> Record:
        if isinstance(value, Record):
            return value
        if not self._at_hand:
            raise TypeError("an agent that has no record at hand yields a Record(key, value, timestamp)")
        return self._at_hand[-1].record._replace(value=value)

    def _on_ended(self, failure: Exception | None) -> None:
        if failure is None:
            if self._has_taken:
                self._finish()  # it has returned: the next record begins it anew
            else:
                failure = RuntimeError("the agent returned without having taken a record")
        if failure is not None:
            self._made = []
            failed, self._at_hand = self._at_hand, []
            if not failed and (queue := self._first()) is not None:
                failed = [queue.popleft()]
            if not failed:
                logger.warning("the agent %s raised while it had no record; the next one begins it anew", self._name,
                               exc_info=failure)  # fmt: skip
            for entry in failed:
                if not entry.done.done():
                    self._undecided += not entry.is_again
                    entry.done.set_exception(failure)
        self._go_on()
