"""Agents as operators: records go to a coroutine, and what it yields goes on when it asks for the next record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ottla.streams.agents import AgentFunction, Inbox
from ottla.streams.calls import Calls, Function, Line, WaitedCalls, Waiting
from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.records import Record

#: Records that an agent and its inbox have at one time, of each task.
_RECORDS: Final = 1000


class _AgentLine(Line):
    """Records that are with an agent, or wait for it: all of them are handed over at once, in their order."""

    def __init__(self, calls: Calls, bind: Callable[[Waiting], Function], forward: Any, inbox: Inbox) -> None:
        super().__init__(calls, bind, forward, concurrency=_RECORDS, ordered=True)
        self._inbox = inbox
        self._has_begun = False

    def add(self, waiting: Waiting) -> None:
        """See `Line`."""
        self._has_begun = True
        waiting.call = self._calls.start(self._bind(waiting))
        self._waiting.append(waiting)

    def cancel(self) -> None:
        """See `Line`. The agent ends; operators are made anew after that."""
        super().cancel()
        if self._has_begun:
            self._has_begun = False
            self._calls.start(self._inbox.close)


def handing_over(name: str, function: AgentFunction) -> Callable[[NodeContext], Process]:
    """Forward what the agent yields."""

    def make(context: NodeContext) -> Process:
        task, forward, fail = context.task, context.forward, context.fail
        calls = task.calls
        inbox = Inbox(name, function, waits=not isinstance(calls, WaitedCalls))

        def bind(waiting: Waiting) -> Function:
            record = Record(waiting.key, waiting.value, waiting.timestamp, waiting.headers)
            return lambda: inbox.handle(record)

        def on_ended(waiting: Waiting) -> None:
            record = Record(waiting.key, waiting.value, waiting.timestamp, waiting.headers)
            assert waiting.call is not None
            try:
                made = waiting.call.result()
            except Exception as error:
                # A retry waits for the agent: the handler has said so.
                made = fail(error, *record, lambda: calls.retries.run(lambda: calls.start(lambda: inbox.again(record))))
                calls.start(inbox.settle)
                if made is SKIPPED:
                    return
            for each in made:
                forward(*each)

        line = _AgentLine(calls, bind, on_ended, inbox)
        task.add_line(line)

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            line.add(task.waiting(key, value, timestamp, headers))

        return process

    return make
