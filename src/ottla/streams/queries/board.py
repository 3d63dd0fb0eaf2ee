"""What this instance can answer for: its running tasks, their committed positions, and whether they are still its own.

The thread of the engine writes it, threads that ask read it. A member that the group may have given up does not know it yet:
an instance answers while the last request that the coordinator has confirmed was sent within the session timeout, and after
that every task is moving, until one is confirmed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ottla.streams.queries.rows import Rows
from ottla.streams.state.homes import Home, HomeReader
from ottla.streams.topology import TIMES_STORE, SubTopology, TaskId

#: Answers younger than that say what they say; an owner that knows of no confirmation answers nobody.
_NEVER_MS: Final = -(10**15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a task's committed state has come.

    Attributes:
        positions: by partition that it reads ("topic-0"), the committed offset.
        lag: by partition, how many offsets lay behind that at `time_ms`; None while it is not known.
        time_ms: in milliseconds since 1970: what could be read by then lies below positions and lag.
        stream_time: the largest timestamp of the records that the task took, in ms; -1 before the first. A task that gets
            no records does not close its windows: this stands still.
    """

    positions: Mapping[str, int]
    lag: Mapping[str, int | None]
    time_ms: int
    stream_time: int = -1


@dataclass(slots=True)
class _Entry:
    sub: SubTopology
    readers: dict[str, HomeReader]
    closing: list[HomeReader]
    standing: Standing | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Board:
    """See the module.

    Args:
        monotonic_ms: the clock in which `confirmed_ms` counts.
        confirmed_ms: returns when the request was sent that the coordinator has confirmed last; None: none was.
        session_timeout_ms: after which the group may have given the member up.
    """

    def __init__(
        self, monotonic_ms: Callable[[], float], confirmed_ms: Callable[[], float | None], session_timeout_ms: float
    ) -> None:
        self._monotonic_ms = monotonic_ms
        self._confirmed_ms = confirmed_ms
        self._session_timeout_ms = session_timeout_ms
        self._lock = threading.Lock()
        self._entries: dict[TaskId, _Entry] = {}

    # -- the engine's thread ------------------------------------------------------------------------------------------

    def open(self, task: TaskId, sub: SubTopology, homes: Mapping[str, Home]) -> None:
        """A task's stores were opened. Nothing is answered of it before `tell`."""
        made = {id(home): home.reader() for home in homes.values()}
        entry = _Entry(sub, {name: made[id(home)] for name, home in homes.items()}, list(made.values()))
        with self._lock:
            self._entries[task] = entry

    def close(self, task: TaskId) -> None:
        """A task is given up. Queries that are under way end first."""
        with self._lock:
            entry = self._entries.pop(task, None)
        if entry is not None:
            with entry.lock:
                for reader in entry.closing:
                    reader.close()
                entry.readers.clear()

    def tell(self, task: TaskId, standing: Standing | None) -> None:
        """Say how far a task's stores have come, after they have; None: it does not run, and answers nothing."""
        with self._lock:
            entry = self._entries.get(task)
        if entry is not None:
            entry.standing = standing

    # -- threads that ask -----------------------------------------------------------------------------------------------

    def is_owner(self) -> bool:
        """Whether the group has not given this member up."""
        confirmed_ms = self._confirmed_ms()
        age_ms = self._monotonic_ms() - (_NEVER_MS if confirmed_ms is None else confirmed_ms)
        return age_ms < self._session_timeout_ms

    def tasks(self) -> dict[TaskId, Standing | None]:
        """Return the tasks whose stores are here; None of those that do not run yet."""
        with self._lock:
            return {task: entry.standing for task, entry in sorted(self._entries.items())}

    @contextmanager
    def look(self, task: TaskId, store: str) -> Iterator[tuple[Rows, Standing] | None]:
        """Look into a store of a task; None if this instance does not answer for it.

        What is read is at least as new as the standing. The standing is taken before the rows.
        """
        with self._lock:
            entry = self._entries.get(task)
        if entry is None:
            yield None
            return
        with entry.lock:
            standing, reader = entry.standing, entry.readers.get(store)
            if standing is None or reader is None or not self.is_owner():
                yield None
                return
            spec = next(spec for spec in entry.sub.stores if spec.name == store)
            yield Rows(spec, reader, entry.readers.get(TIMES_STORE)), standing
