"""A progress bar: bytes done, rate, what remains. On a terminal only, one line, redrawn a few times a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

_REDRAW_MS = 200
_BAR = 24
#: Before that much time has passed a rate says nothing.
_RATE_FROM_MS = 500


class Progress:
    """Counts towards `total` bytes.

    Args:
        total: how many there will be.
        stream: where the bar is drawn, if that is a terminal.
        now_ms: a clock that never goes back.
        what: a word before the bar.
    """

    def __init__(self, total: int, stream: TextIO, now_ms: Callable[[], float], what: str = "") -> None:
        self.done = 0
        self._total = total
        self._stream = stream
        self._now_ms = now_ms
        self._what = f"{what} " if what else ""
        self._began_ms = now_ms()
        self._drawn_ms = 0.0
        self._is_shown = stream.isatty()
        self._is_drawn = False

    def advance(self, count: int) -> None:
        """Count `count` bytes more."""
        self.done += count
        if self._is_shown:
            now_ms = self._now_ms()
            if not self._is_drawn or now_ms - self._drawn_ms >= _REDRAW_MS:
                self._drawn_ms = now_ms
                self._draw(now_ms - self._began_ms)

    def clear(self) -> None:
        """Take the bar away: before something else is printed, and at the end."""
        if self._is_drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._is_drawn = False

    def text(self, elapsed_ms: float) -> str:
        """Return what the bar says after `elapsed_ms`."""
        share = min(self.done / self._total, 1.0) if self._total else 1.0
        filled = int(share * _BAR)
        line = f"{self._what}[{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%}  "
        line += f"{human_bytes(self.done)} of {human_bytes(self._total)}"
        if elapsed_ms >= _RATE_FROM_MS and self.done:
            rate = self.done / elapsed_ms * 1000
            line += f"  {human_bytes(rate)}/s  {human_seconds(max(self._total - self.done, 0) / rate)} left"
        return line

    def _draw(self, elapsed_ms: float) -> None:
        self._stream.write(f"\r{self.text(elapsed_ms)}\x1b[K")
        self._stream.flush()
        self._is_drawn = True


def human_bytes(count: float) -> str:
    """Return a number of bytes as people read it: 1.5 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration as people read it: 1:02:03, 4:05 or 6 s."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"
