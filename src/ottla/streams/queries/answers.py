"""What is asked, and what is answered: the words that instances and their callers exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ottla.streams.queries.board import Standing
from ottla.streams.queries.rows import Row
from ottla.streams.topology import TaskId

#: Rows of an answer, unless the question says how many.
LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of one store.

    Attributes:
        key: as bytes; None: a range of keys.
        since, until: keys as bytes of a range, both included; None: open.
        as_of: for a key of a store with versions: what was valid at that time in ms; None: now.
        window_since, window_until: for a key of a store of windows: starts in ms, both included; None: open.
        limit: of rows.
        partition: the task's partition, where the key's bytes do not say it (a partitioner of the user's).
    """

    store: str
    key: bytes | None = None
    since: bytes | None = None
    until: bytes | None = None
    window_since: int | None = None
    window_until: int | None = None
    as_of: int | None = None
    limit: int = LIMIT
    partition: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one task says.

    Attributes:
        rows: in the order of their keys, or of their windows.
        complete: whether that is all; else the limit was reached.
        standing: committed positions, lag, and when that was so.
    """

    task: TaskId
    rows: Sequence[Row] = field(default=())
    complete: bool = True
    standing: Standing
