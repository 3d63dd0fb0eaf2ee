"""Windows: what `windowed_by()` and the joins take.

Durations are words ("30s", "5m", "1h"), timedeltas, or numbers of seconds. Grace is how much later than stream time a
record may come and still count; it is 0 unless said, so a record that comes behind the end of its window is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ottla.client.keys import Duration, duration_s
from ottla.streams.keys import Window


def milliseconds(name: str, value: Duration) -> int:
    """Return a duration in whole ms.

    Raises:
        ValueError: it is negative, finer than a millisecond, or no duration.
    """
    found = duration_s(name, value) * 1000
    if found < 0 or found != round(found):
        raise ValueError(f"{name} is a whole number of milliseconds, 0 or more, not {value!r}")
    return round(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindows:
    """Windows [start, start + size) that begin every `advance`, counted from 1970; made by `tumbling` and `hopping`."""

    size_ms: int
    advance_ms: int
    grace_ms: int

    @property
    def open_ms(self) -> int:
        """How far stream time may be behind the start of a window that still takes records."""
        return self.size_ms + self.grace_ms

    @property
    def retention_ms(self) -> int:
        """How long a store keeps windows, at least."""
        return self.size_ms + self.grace_ms

    def starts(self, timestamp: int) -> range:
        """Return the starts of the windows that hold a time, the oldest first."""
        first = max(0, timestamp - self.size_ms + self.advance_ms) // self.advance_ms * self.advance_ms
        return range(first, timestamp + 1, self.advance_ms)

    def windows(self, timestamp: int) -> Iterator[Window]:
        """Yield the windows that hold a time."""
        return (Window(start, start + self.size_ms) for start in self.starts(timestamp))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindows:
    """Windows [t - size, t] around each record, both ends included; made by `sliding`."""

    size_ms: int
    grace_ms: int

    @property
    def open_ms(self) -> int:
        """How far stream time may be behind the start of a window that still takes records."""
        return self.size_ms + self.grace_ms

    @property
    def retention_ms(self) -> int:
        """How long a store keeps windows, at least: new windows are made of older ones."""
        return 2 * self.size_ms + self.grace_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWindows:
    """Windows that go on while records of a key come within a gap; made by `session`."""

    gap_ms: int
    grace_ms: int

    @property
    def open_ms(self) -> int:
        """How far stream time may be behind the end of a session that still takes records."""
        return self.gap_ms + self.grace_ms

    @property
    def retention_ms(self) -> int:
        """How long a store keeps sessions, at least."""
        return self.gap_ms + self.grace_ms


AnyWindows = TimeWindows | SlidingWindows | SessionWindows


def tumbling(size: Duration, *, grace: Duration = 0) -> TimeWindows:
    """Return windows of one size that touch: each record is in one of them.

        orders.group_by_key().windowed_by(tumbling("30s", grace="5s")).count()

    A record is late, and dropped, when its window's end <= stream time - grace.
    """
    size_ms = positive_ms("size", size)
    return TimeWindows(size_ms=size_ms, advance_ms=size_ms, grace_ms=milliseconds("grace", grace))


def hopping(size: Duration, *, advance: Duration, grace: Duration = 0) -> TimeWindows:
    """Return windows of one size that begin every `advance`: each record is in size / advance of them.

    Raises:
        ValueError: `advance` is longer than the size.
    """
    size_ms, advance_ms = positive_ms("size", size), positive_ms("advance", advance)
    if advance_ms > size_ms:
        raise ValueError(f"advance ({advance!r}) is no longer than the size ({size!r}), or records are in no window")
    return TimeWindows(size_ms=size_ms, advance_ms=advance_ms, grace_ms=milliseconds("grace", grace))


def sliding(difference: Duration, *, grace: Duration = 0) -> SlidingWindows:
    """Return windows of records that are at most `difference` apart; there is one for every set of records that fit.

    A record is late, and dropped, when its window's end < stream time - grace.
    """
    return SlidingWindows(size_ms=milliseconds("difference", difference), grace_ms=milliseconds("grace", grace))


def session(gap: Duration, *, grace: Duration = 0) -> SessionWindows:
    """Return windows that end when a key is silent for `gap`; a record in between merges two of them.

    A record is late, and dropped, when the end of its session < stream time - grace - gap.
    """
    return SessionWindows(gap_ms=milliseconds("gap", gap), grace_ms=milliseconds("grace", grace))


def history_ms(value: Duration | None) -> int | None:
    """Return the history retention of a store in ms; None: it keeps no versions."""
    return None if value is None else milliseconds("history_retention", value)


def positive_ms(name: str, value: Duration) -> int:
    """Return a duration in ms.

    Raises:
        ValueError: it is less than 1 ms.
    """
    found = milliseconds(name, value)
    if found < 1:
        raise ValueError(f"{name} is 1 ms or more, not {value!r}")
    return found
