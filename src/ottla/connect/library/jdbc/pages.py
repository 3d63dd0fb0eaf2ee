"""Which rows of a table come next: pages in the order of a timestamp, a number, or both.

Decides, and knows no database: a shell asks for a page, and gives the rows back. With a timestamp alone, rows of one moment
belong together: the offset of all but the last of them is the moment before, so that a crash among them loses none.
Offsets are Confluent's: milliseconds, and the nanoseconds within the second; microseconds survive.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ottla.connect.errors import ConnectError

Mode = Literal["bulk", "incrementing", "timestamp", "timestamp+incrementing"]
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Mark(NamedTuple):
    """A place in a table; what the mode does not use is None."""

    moment: datetime.datetime | None = None
    number: int | None = None

    def as_offset(self) -> dict[str, Any]:
        """Return it as it is written down."""
        offset: dict[str, Any] = {}
        if self.number is not None:
            offset["incrementing"] = self.number
        if self.moment is not None:
            micros = (self.moment - _EPOCH) // datetime.timedelta(microseconds=1)
            offset |= {"timestamp": micros // 1000, "timestamp_nanos": micros % 1_000_000 * 1000}
        return offset


def mark_of(offset: Mapping[str, Any] | None) -> Mark:
    """Return the place that was written down.

    Raises:
        ConnectError: it is none of these offsets.
    """
    if offset is None:
        return Mark()
    number, ms, nanos = (offset.get(name) for name in ("incrementing", "timestamp", "timestamp_nanos"))
    if any(
        not (part is None or (isinstance(part, int) and not isinstance(part, bool))) for part in (number, ms, nanos)
    ):
        raise ConnectError(
            f"The offset {dict(offset)} is none of a table: incrementing, timestamp, timestamp_nanos are numbers"
        )
    moment = None
    if ms is not None:
        micros = ms // 1000 * 1_000_000 + (nanos // 1000 if nanos is not None else ms % 1000 * 1000)
        moment = _EPOCH + datetime.timedelta(microseconds=micros)
    return Mark(moment, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A question to a table, in the order of the columns that the mode uses.

    Attributes:
        after: rows behind this place.
        below: rows whose moment is before this one; what is newer may still get neighbours.
        at: only rows of this very moment; `after` and `limit` do not count then.
    """

    after: Mark
    below: datetime.datetime | None = None
    at: datetime.datetime | None = None
    limit: int = 100


class Reader:
    """Reads a table page by page.

    Args:
        mark: where reading goes on.
        limit: `batch.max.rows`.
    """

    def __init__(self, mode: Mode, mark: Mark, limit: int) -> None:
        self.mark = mark
        self._mode = mode
        self._limit = limit
        self._whole: datetime.datetime | None = None

    def ask(self, below: datetime.datetime | None) -> Page:
        """Return the next question."""
        if self._whole is not None:
            return Page(after=self.mark, at=self._whole)
        return Page(after=self.mark, below=below, limit=self._limit)

    def take(self, marks: Sequence[Mark]) -> list[Mark | None]:
        """Take the places of the rows that came; return the offset of each row that counts, from the first one on.

        The list is shorter than `marks` if rows at the end of the page are to be read again with all of their moment.
        None is the offset of a row before which nothing was written down yet.

        Raises:
            ConnectError: a row has no place: a column is null, or rows do not come in order.
        """
        if not marks:
            self._whole = None
            return []
        if self._mode != "timestamp":
            before = self.mark
            for mark in marks:
                if not _grows(before, mark):
                    raise ConnectError(f"Rows do not come in order: {mark} after {before}")
                before = mark
            self.mark = marks[-1]
            return list(marks)
        if self._whole is not None:
            done = [*[self._start()] * (len(marks) - 1), Mark(self._whole)]
            self.mark, self._whole = Mark(self._whole), None
            return done
        last = marks[-1].moment
        if len(marks) >= self._limit:  # there may be more rows of the last moment
            whole = [mark for mark in marks if mark.moment != last]
            self._whole = last
            return self._grouped(whole)
        return self._grouped(list(marks))

    def _start(self) -> Mark | None:
        return self.mark if self.mark.moment is not None else None

    def _grouped(self, marks: list[Mark]) -> list[Mark | None]:
        found: list[Mark | None] = []
        for index, mark in enumerate(marks):
            if index + 1 == len(marks) or marks[index + 1].moment != mark.moment:
                self.mark = Mark(mark.moment)
            found.append(self._start())
        return found


def _grows(before: Mark, now: Mark) -> bool:
    if before.moment is not None and now.moment is not None and before.moment != now.moment:
        return now.moment > before.moment
    return before.number is None or (now.number is not None and now.number > before.number)
