"""Timers: functions that an app calls by the wall clock, every so often or as a cron expression says.

`Timers` says when the next one is due, begins the calls and looks at what has come of them; who runs calls and writes
records, and who the leader is, is given to it. A timer whose last call still runs is passed over; one that is late fires
once. Nothing remembers times at which no instance ran.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from importlib import import_module
from typing import Any, Literal, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration
from ottla.streams.calls import Calls
from ottla.streams.context import Output
from ottla.streams.errors import StreamsError, TopologyError, told
from ottla.streams.records import Record
from ottla.streams.serdes import GUESS
from ottla.streams.windows import positive_ms

logger: logging.Logger = logging.getLogger(__name__)

OnTimerError = Literal["fail", "skip"]
#: Returns when a timer fires next: of (when it was due last, or None at the beginning; the time now), in ms.
Following = Callable[[int | None, int], int]


class Delivery(Protocol):
    """A record on its way to the broker."""

    def done(self) -> bool:
        """Whether it has an outcome."""
        ...

    def exception(self) -> Exception | None:
        """Why it was not written, or None."""
        ...


class TimerError(StreamsError):
    """A timer raised; the cause is what it raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """One timer of an app.

    Attributes:
        on_leader: it fires on one instance only.
        to: the topic that what it yields is written to; None: it yields nothing.
    """

    name: str
    function: Callable[[], Any]
    following: Following
    on_leader: bool
    on_error: OnTimerError
    to: str | None


def every(interval: Duration) -> Following:
    """Fire one interval after the start, and then at its multiples."""
    interval_ms = positive_ms("the interval of a timer", interval)

    def following(due_ms: int | None, now_ms: int) -> int:
        if due_ms is None:
            return now_ms + interval_ms
        return due_ms + ((now_ms - due_ms) // interval_ms + 1) * interval_ms

    return following


def by_cron(expression: str, timezone: str) -> Following:
    """Fire as a cron expression says: five fields, or six with seconds in front.

    Raises:
        TopologyError: it is none, or the time zone is not known.
        ConfigurationError: cronsim is not installed.
    """
    try:
        cronsim: Any = import_module("cronsim")
    except ImportError as error:
        raise ConfigurationError(
            "@app.cron needs the package cronsim, which is not installed.", "pip install 'ottla[cron]'"
        ) from error
    zone: tzinfo = UTC
    if timezone.upper() != "UTC":
        try:
            zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise TopologyError(
                f"@app.cron does not know the time zone {timezone!r}; write one like 'Europe/Berlin'"
            ) from error

    def following(due_ms: int | None, now_ms: int) -> int:
        now = datetime.fromtimestamp(now_ms / 1000, zone)
        found: datetime = next(cronsim.CronSim(expression, now))
        return round(found.timestamp() * 1000)

    try:
        following(None, 0)
    except (cronsim.CronSimError, StopIteration) as error:
        raise TopologyError(
            f"{expression!r} is no cron expression ({error or 'it never comes'}); one has minute, hour, day of the month, "
            "month and day of the week: '30 9 * * mon-fri'"
        ) from error
    return following


def make_timer(
    decorator: str,
    function: Callable[[], Any],
    following: Following,
    *,
    on_leader: bool,
    on_error: OnTimerError,
    to: str | None,
    name: str | None,
) -> Timer:
    """Return a timer.

    Raises:
        TopologyError: the function is not async, or yields although nothing says where to.
        ValueError: on_error is something else.
    """
    yields = inspect.isasyncgenfunction(function)
    if not (yields or inspect.iscoroutinefunction(function)):
        raise TopologyError(f"{decorator} needs an `async def`, not {function!r}; a function that blocks goes into "
                            "`asyncio.to_thread(function)` in one")  # fmt: skip
    called = name or function.__name__
    if yields and to is None:
        raise TopologyError(f"the timer {called} yields, and nothing says where to: {decorator}(..., to=topic)")
    if on_error not in ("fail", "skip"):
        raise ValueError(f'on_error= of a timer is "fail" or "skip", not {on_error!r}')
    return Timer(name=called, function=function, following=following, on_leader=on_leader, on_error=on_error, to=to)


async def _called(timer: Timer, now_ms: int) -> list[Record]:
    """Call a timer's function, and return what it yields."""
    made = timer.function()
    if not inspect.isasyncgen(made):
        await made
        return []
    return [value if isinstance(value, Record) else Record(None, value, now_ms) async for value in made]


class _State:
    """Of one timer: when it is due, its call that runs, and what it has yielded that is not written yet."""

    __slots__ = ("call", "due_ms", "sent", "timer")

    def __init__(self, timer: Timer, now_ms: int) -> None:
        self.timer = timer
        self.due_ms: int = timer.following(None, now_ms)
        self.call: Future[list[Record]] | None = None
        self.sent: list[Delivery] = []


class Timers:
    """The timers of one instance.

    Args:
        now_ms: the wall clock at the start.
        is_leader: whether this instance fires those of the leader.
        send: has a record written; None: it is.
    """

    def __init__(
        self,
        timers: Iterable[Timer],
        now_ms: int,
        calls: Calls,
        is_leader: Callable[[], bool],
        send: Callable[[Output], Delivery | None],
    ) -> None:
        self._states = [_State(timer, now_ms) for timer in timers]
        self._calls = calls
        self._is_leader = is_leader
        self._send = send

    @property
    def next_ms(self) -> int | None:
        """When the next one is due, by the wall clock; None: there are none."""
        return min((state.due_ms for state in self._states), default=None)

    def turn(self, now_ms: int) -> None:
        """Look at the calls that run, and begin those that are due.

        Raises:
            TimerError: one has raised, or what it yielded was not written, and its `on_error` does not say skip.
        """
        for state in self._states:
            self._look_at_sent(state)
            self._look(state)
            if now_ms >= state.due_ms:
                state.due_ms = state.timer.following(state.due_ms, now_ms)
                self._begin(state, now_ms)
                self._look(state)

    def _begin(self, state: _State, now_ms: int) -> None:
        timer = state.timer
        if timer.on_leader and not self._is_leader():
            return
        if state.call is not None:
            logger.info("the timer %s is passed over: its last call still runs", timer.name)
            return
        state.call = self._calls.start(lambda: _called(timer, now_ms))

    def _look(self, state: _State) -> None:
        call, timer = state.call, state.timer
        if call is None:
            return
        if not call.done():
            if timer.on_leader and not self._is_leader():
                # Another instance is the leader, or may be: it does not have company for long.
                call.cancel()
                state.call = None
            return
        state.call = None
        try:
            for record in call.result():
                sent = self._send(written(timer, record))
                if sent is not None:
                    state.sent.append(sent)
        except Exception as error:
            _failed(timer, error)

    def _look_at_sent(self, state: _State) -> None:
        ended = [each for each in state.sent if each.done()]
        state.sent = [each for each in state.sent if each not in ended]
        for each in ended:
            if (error := each.exception()) is not None:
                _failed(state.timer, error)


def _failed(timer: Timer, error: Exception) -> None:
    if timer.on_error != "skip":
        raise TimerError(f"the timer {timer.name} failed: {told(error)}") from error
    logger.warning("the timer %s failed, and fires again: %s", timer.name, told(error))


def written(timer: Timer, record: Record) -> Output:
    """Return what a timer has yielded as it is written."""
    assert timer.to is not None
    key = None if record.key is None else GUESS.serialize(timer.to, record.key)
    value = None if record.value is None else GUESS.serialize(timer.to, record.value)
    return Output(timer.to, None, key, value, record.timestamp, record.headers)
