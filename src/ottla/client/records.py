"""What callers hand over and get back: records in, metadata out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from ottla.client._core.batch import Headers

#: Headers as callers write them: a mapping, or pairs where a name may occur more than once. Text goes as UTF-8.
HeadersLike = Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]]
#: Milliseconds since 1970, or an aware datetime.
TimestampLike = int | datetime


class RecordMetadata(NamedTuple):
    """Where a record is.

    Attributes:
        offset: -1 if the broker did not say: with acks=0, and for a repeated batch that is older than it remembers.
        timestamp_ms: the record's, or the broker's where the topic says LogAppendTime.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def make_headers(headers: HeadersLike | None) -> Headers:
    """Return headers as they are written.

    Raises:
        TypeError: a name is no text, or a value neither bytes, text nor None.
        ValueError: a name or a value is text that is not valid Unicode.
    """
    if not headers:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    made: list[tuple[str, bytes | None]] = []
    for name, value in pairs:
        if not isinstance(name, str):
            raise TypeError(f"the name of a header is text, not {type(name).__name__}")
        name.encode()
        if value is None or isinstance(value, bytes):
            made.append((name, value))
        elif isinstance(value, str):
            made.append((name, value.encode()))
        elif isinstance(value, bytearray | memoryview):
            made.append((name, bytes(value)))
        else:
            raise TypeError(f"the value of header {name!r} is bytes, text or None, not {type(value).__name__}")
    return tuple(made)


def make_timestamp(timestamp: TimestampLike) -> int:
    """Return milliseconds since 1970.

    Raises:
        TypeError: it is neither a whole number nor a datetime.
        ValueError: it is negative, or a datetime without a time zone.
    """
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise ValueError("a timestamp needs a time zone: datetime.now(timezone.utc)")
        return round(timestamp.timestamp() * 1000)
    if not isinstance(timestamp, int) or isinstance(timestamp, bool):
        raise TypeError(f"a timestamp is milliseconds or an aware datetime, not {type(timestamp).__name__}")
    if not 0 <= timestamp < 1 << 63:
        raise ValueError(f"a timestamp is milliseconds since 1970, not {timestamp}")
    return timestamp
