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


class Change(NamedTuple):
    """What goes between the operators of tables: from one value of a key to the next. None as `new` is a deletion;
    `old` is None where nobody needs it. A versioned table (KIP-914) also tells of versions that came late and are not the
    newest of their key."""

    new: Any
    old: Any
    is_newest: bool = True
