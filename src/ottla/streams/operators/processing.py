"""Processors of the user: objects or functions that see records one by one, with stores and schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from ottla.client.keys import Duration
from ottla.streams.context import SKIPPED, Headers, InputRecord, NodeContext, Process
from ottla.streams.operators.tables import Make
from ottla.streams.punctuation import Schedule
from ottla.streams.records import Record
from ottla.streams.windows import milliseconds


class ProcessorContext:
    """What a processor is given in `init`.

    Attributes:
        task_id: "0_3": of this processor's task.
        application_id: the app's.
    """

    def __init__(self, context: NodeContext, *, fixed_key: bool) -> None:
        self._context = context
        self._fixed_key = fixed_key
        self._held: list[tuple[str | None, Record]] | None = None
        self.current: Record | None = None
        self.task_id: str = str(context.task.id)
        self.application_id: str = context.task.application_id

    @property
    def source(self) -> InputRecord | None:
        """The record that was read, with topic, partition and offset; None in a schedule."""
        return self._context.task.record

    @property
    def stream_time(self) -> int:
        """The task's stream time in ms; -1 before the first record."""
        return self._context.task.stream_time

    @property
    def wall_clock(self) -> int:
        """The time in ms."""
        return self._context.task.clock()

    def store(self, name: str) -> Any:
        """Return a store that was named in `stores=`.

        Raises:
            KeyError: it was not.
        """
        if name not in self._context.node.stores and not self._context.task.is_global_store(name):  # type: ignore[attr-defined]
            raise KeyError(f"{self._context.name} has no store {name!r}; name it in stores=[...]")
        return self._context.store(name)

    def forward(self, record: Record, to: str | None = None) -> None:
        """Send a record on, to all that follows or to one node by name.

        What a processor forwards leaves it when it returns; if it raises, nothing does.
        """
        if self._fixed_key and self.current is not None and record.key != self.current.key:
            raise ValueError("process_values() leaves keys as they are; process() can change them")
        if record.timestamp < 0:
            raise ValueError(f"the timestamp of a record is 0 or more, not {record.timestamp}")
        if self._held is None:
            raise RuntimeError("forward() is for process() and schedules")
        self._held.append((to, record))

    def schedule(
        self, interval: Duration, callback: Callable[[int], object], *, by: Literal["stream_time", "wall_clock"]
    ) -> Schedule:
        """Have `callback(now in ms)` called every `interval`; `.cancel()` ends it.

        By stream time it fires with the first record, and at most once for each time that stream time moves on. It runs
        between records, in the task's transaction.
        """
        task, name = self._context.task, self._context.name

        def fire(now_ms: int) -> None:
            self.collect(lambda: callback(now_ms))

        return task.schedule(name, milliseconds("interval", interval), by, fire)

    def request_commit(self) -> None:
        """Ask for a commit soon."""
        self._context.task.commit_requested = True

    def collect(self, call: Callable[[], object]) -> None:
        """Run something of the user's, and send on what it forwarded once it has returned."""
        held: list[tuple[str | None, Record]] = []
        self._held = held
        try:
            call()
        finally:
            self._held = None
        for to, record in held:
            child = self._context.forward if to is None else self._context.child(to)
            child(record.key, record.value, record.timestamp, record.headers)


def processing(supplier: Callable[[], Any], *, fixed_key: bool) -> Make:
    """Run a processor of the user's."""

    def make(context: NodeContext) -> Process:
        fail = context.fail
        given = ProcessorContext(context, fixed_key=fixed_key)
        processor = supplier()
        init, close = getattr(processor, "init", None), getattr(processor, "close", None)
        if init is not None:
            given.collect(lambda: init(given))
        if close is not None:
            context.task.on_close(close)
        handle = getattr(processor, "process", processor)

        def attempt(record: Record) -> list[tuple[str | None, Record]]:
            held: list[tuple[str | None, Record]] = []
            given._held = held
            try:
                made = handle(record)
                if made is not None:
                    for one in made:
                        given.forward(one)
            finally:
                given._held = None
            return held

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            record = given.current = Record(key, value, timestamp, headers)
            again = partial(attempt, record)
            try:
                held: Any = again()
            except Exception as error:
                held = fail(error, key, value, timestamp, headers, again)
                if held is SKIPPED:
                    return
            finally:
                given.current = None
            for to, one in held:
                child = context.forward if to is None else context.child(to)
                child(one.key, one.value, one.timestamp, one.headers)

        return process

    return make
