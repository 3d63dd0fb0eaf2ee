"""Dates by patterns, as Java's SimpleDateFormat writes and reads them in UTC.

Known letters: y M d D E a H k K h m s S z Z X; text in single quotes stands for itself. Reading is lenient: month 13 is
January of the next year, and what follows a complete date is not looked at.
"""

from __future__ import annotations

import datetime
import re
from itertools import groupby

from ottla.connect.errors import DataError
from ottla.connect.logical import DAY_MS

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LETTERS = "yMdDEaHkKhmsSzZX"
_ZONE = re.compile(r"(?:GMT|UTC|Z(?![A-Za-z]))?(?:([+-])(\d{1,2}):?(\d{2})?)?", re.IGNORECASE)


class DateFormat:
    """One pattern.

    Args:
        this_year: the year now: years of two digits are those from 80 before it to 20 after it.

    Raises:
        ValueError: a letter of the pattern means nothing, or a quote does not end.
    """

    def __init__(self, pattern: str, this_year: int) -> None:
        self.pattern = pattern
        self._this_year = this_year
        self._parts = _split(pattern)

    def format(self, ms: int) -> str:
        """Return a moment, in milliseconds since 1970, as text."""
        days, clock = divmod(ms, DAY_MS)
        try:
            day = datetime.date(1970, 1, 1) + datetime.timedelta(days=days)
        except OverflowError:
            raise DataError(f"{ms} ms since 1970 is no moment of the years 1 to 9999") from None
        return "".join(
            text if letter is None else _field(letter, len(text), day, clock) for letter, text in self._parts
        )

    def parse(self, text: str) -> int:
        """Return the moment that a text begins with, in milliseconds since 1970.

        Raises:
            DataError: it does not match the pattern.
        """
        found: dict[str, int] = {}
        position = 0
        for number, (letter, part) in enumerate(self._parts):
            after = self._parts[number + 1][0] if number + 1 < len(self._parts) else None
            if letter is None:
                if not text.startswith(part, position):
                    raise self._wrong(text)
                position += len(part)
            else:
                position = self._read(
                    found, letter, len(part), after is not None and after not in "EazZX", text, position
                )
        return _moment(found)

    def _read(self, found: dict[str, int], letter: str, count: int, counted: bool, text: str, position: int) -> int:
        position += len(text[position:]) - len(text[position:].lstrip(" \t"))
        rest = text[position:]
        if letter == "E" or letter == "a" or (letter == "M" and count > 2):
            names = {"E": _DAYS, "a": ("AM", "PM"), "M": _MONTHS}[letter]
            for number, name in enumerate(names):
                for form in (name, name[:3]):
                    if rest.lower().startswith(form.lower()):
                        found[letter] = number + (letter == "M")
                        return position + len(form)
            raise self._wrong(text)
        if letter in "zZX":
            zone = _ZONE.match(rest)
            if zone is None or not zone[0]:
                raise self._wrong(text)
            sign, hours, minutes = zone.groups()
            found["Z"] = 0 if sign is None else (int(hours) * 60 + int(minutes or 0)) * (1 if sign == "+" else -1)
            return position + zone.end()
        digits = re.match(rf"\d{{1,{count}}}" if counted else r"-?\d+", rest)
        if digits is None:
            raise self._wrong(text)
        value = int(digits[0])
        if letter == "y" and count <= 2 and re.fullmatch(r"\d\d", digits[0]):
            value += (self._this_year - 80) // 100 * 100
            if value < self._this_year - 80:
                value += 100
        found[letter] = value
        return position + digits.end()

    def _wrong(self, text: str) -> DataError:
        return DataError(f"the text {text!r} is no date of the pattern {self.pattern}")


def _split(pattern: str) -> list[tuple[str | None, str]]:
    """Return runs of letters, and texts that stand for themselves (with no letter)."""
    parts: list[tuple[str | None, str]] = []
    pieces = re.findall(r"''|'(?:[^']|'')*'|'|[^']+", pattern)
    for piece in pieces:
        if piece == "'":
            raise ValueError("Unterminated quote")
        if piece[0] == "'":
            parts.append((None, "'" if piece == "''" else piece[1:-1].replace("''", "'")))
            continue
        for char, run in groupby(piece):
            if char.isascii() and char.isalpha():
                if char not in _LETTERS:
                    raise ValueError(f"Illegal pattern character '{char}'")
                parts.append((char, "".join(run)))
            else:
                parts.append((None, "".join(run)))
    return parts


def _field(letter: str, count: int, day: datetime.date, clock: int) -> str:
    hour = clock // 3_600_000
    match letter:
        case "y":
            number = day.year % 100 if count == 2 else day.year
        case "M" if count > 2:
            return _MONTHS[day.month - 1] if count > 3 else _MONTHS[day.month - 1][:3]
        case "M":
            number = day.month
        case "d":
            number = day.day
        case "D":
            number = day.timetuple().tm_yday
        case "E":
            return _DAYS[day.weekday()] if count > 3 else _DAYS[day.weekday()][:3]
        case "a":
            return "PM" if hour >= 12 else "AM"
        case "H":
            number = hour
        case "k":
            number = hour or 24
        case "K":
            number = hour % 12
        case "h":
            number = hour % 12 or 12
        case "m":
            number = clock // 60_000 % 60
        case "s":
            number = clock // 1000 % 60
        case "S":
            number = clock % 1000
        case "z":
            return "Coordinated Universal Time" if count > 3 else "UTC"
        case "Z":
            return "+0000"
        case _:
            return "Z"
    return str(number).rjust(count, "0")


def _moment(found: dict[str, int]) -> int:
    years, month = divmod(found.get("M", 1) - 1, 12)
    try:
        first = datetime.date(found.get("y", 1970) + years, month + 1, 1).toordinal() - 719163
    except (ValueError, OverflowError):
        raise DataError("the date is none of the years 1 to 9999") from None
    if "D" in found and "d" not in found and "M" not in found:
        day = first + found["D"] - 1
    else:
        day = first + found.get("d", 1) - 1
    if "H" in found or "k" in found:
        hour = found.get("H", found.get("k", 0) % 24)
    else:
        hour = found.get("K", found.get("h", 0) % 12) + 12 * found.get("a", 0)
    minutes = hour * 60 + found.get("m", 0) - found.get("Z", 0)
    return day * DAY_MS + minutes * 60_000 + found.get("s", 0) * 1000 + found.get("S", 0)
