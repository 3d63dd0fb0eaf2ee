"""`map_async`: values that come of calls to elsewhere, many at one time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ottla.streams.calls import Function, Line, Waiting
from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.errors import need_function


def calling(
    function: Callable[..., Any], *, concurrency: int, ordered: bool, with_key: bool
) -> Callable[[NodeContext], Process]:
    """Forward what `await function(value)` returns, when it has."""
    need_function("map_async()", function)
    if concurrency < 1:
        raise ValueError(f"map_async() makes one call at a time or more, not {concurrency}")

    def make(context: NodeContext) -> Process:
        task, forward, fail = context.task, context.forward, context.fail

        def bind(waiting: Waiting) -> Function:
            if with_key:
                return lambda: function(waiting.key, waiting.value)
            return lambda: function(waiting.value)

        def retried(waiting: Waiting) -> Any:
            return task.calls.retries.run(lambda: task.calls.start(bind(waiting)))

        def on_ended(waiting: Waiting) -> None:
            key, value, timestamp, headers = waiting.key, waiting.value, waiting.timestamp, waiting.headers
            assert waiting.call is not None
            try:
                made = waiting.call.result()
            except Exception as error:
                # A retry waits for the new call: the handler has said so.
                made = fail(error, key, value, timestamp, headers, lambda: retried(waiting))
                if made is SKIPPED:
                    return
            forward(key, made, timestamp, headers)

        line = Line(task.calls, bind, on_ended, concurrency=concurrency, ordered=ordered)
        task.add_line(line)

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            line.add(task.waiting(key, value, timestamp, headers))

        return process

    return make
