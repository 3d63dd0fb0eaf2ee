"""Where in a log, as kcat and people say it: "start", "end", an offset, "-10" (the last ten), "@-1h", "@2026-01-01T12:00"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ottla.client.errors import ConfigurationError
from ottla.client.keys import duration_ms
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.client.admin import Admin

STARTS = ("start", "beginning", "earliest")
ENDS = ("end", "latest")
HELP = "start, end, an offset, -N (N before the end), @-1h, @2026-01-31T12:00, @milliseconds"


class Place(NamedTuple):
    """One of: "earliest" and "latest", an offset, a distance from the end (negative), a time."""

    name: str | None = None
    offset: int | None = None
    time: datetime | None = None


def parse_place(text: str, now: datetime) -> Place:
    """Return what a person means.

    Raises:
        ConfigurationError: it is none of these.
    """
    word = text.strip().lower()
    if word in STARTS:
        return Place(name="earliest")
    if word in ENDS:
        return Place(name="latest")
    if re.fullmatch(r"-?\d+", word):
        return Place(offset=int(word))
    if word.startswith(("@", "s@", "e@")):
        return Place(time=parse_time(text.strip().partition("@")[2], now))
    raise ConfigurationError(f"{text!r} is no place in a log.", f"There are {HELP}.")


def parse_time(text: str, now: datetime) -> datetime:
    """Return a time: "-1h" is so long ago, digits are milliseconds since 1970, the rest is ISO 8601, local without a zone.

    Raises:
        ConfigurationError: it is none of these.
    """
    if text.startswith("-"):
        return now - timedelta(milliseconds=duration_ms("a time", text[1:]))
    if text.isdecimal():
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no time.", "Write -1h, 2026-01-31T12:00 or milliseconds since 1970."
        ) from None
    return found if found.tzinfo is not None else found.astimezone()


def resolve(admin: Admin, places: Mapping[TopicPartition, Place]) -> dict[TopicPartition, int]:
    """Return the offsets of places; a time behind the last record is the end, an offset outside the log its nearest end."""
    starts = {where: info.offset or 0 for where, info in admin.list_offsets(list(places), "earliest").items()}
    ends = {where: info.offset or 0 for where, info in admin.list_offsets(list(places), "latest").items()}
    times = {where: place.time for where, place in places.items() if place.time is not None}
    at = {where: info.offset for where, info in admin.list_offsets(times).items()} if times else {}
    found = {}
    for where, place in places.items():
        if place.time is not None:
            offset = at[where]
            wanted = ends[where] if offset is None else offset
        elif place.offset is not None:
            wanted = place.offset if place.offset >= 0 else ends[where] + place.offset
        else:
            wanted = starts[where] if place.name == "earliest" else ends[where]
        found[where] = min(max(wanted, starts[where]), ends[where])
    return found
