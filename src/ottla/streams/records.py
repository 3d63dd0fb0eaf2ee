"""Records as users' processors see them."""

from __future__ import annotations

from typing import Any, NamedTuple

from ottla.streams.context import Headers


class Record(NamedTuple):
    """One record; `_replace(value=...)` makes a changed one. `timestamp` is in ms."""

    key: Any
    value: Any
    timestamp: int
    headers: Headers = ()
