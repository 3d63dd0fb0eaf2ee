"""What every home of state offers: ordered tables of bytes, and a note beside each that says how current it is.

A home keeps the *committed* state of one task. Uncommitted writes never reach it: they wait in `overlay`. One call of
`commit` writes tables and notes together, or nothing: after a crash a table and its position fit each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ottla.errors import KafkaError

#: Changes of one table: a value, or None for a key that goes.
Changes = Mapping[bytes, bytes | None]
#: Rows that one step of a scan reads.
PAGE_ROWS = 256


class StateError(KafkaError):
    """A task's state cannot be used. The text names the directory and says what to do."""


class StateLockedError(StateError):
    """Another process, or another task of this one, holds the directory. It may let go: trying again may help."""

    retriable = True


class StateCorruptError(StateError):
    """The files of the state are damaged, or of another format. The state is rebuilt from its changelogs."""


class StoreKindError(StateError):
    """A store of that name is there, but of another kind: what it holds does not mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreNote:
    """How far one store has come along its changelog.

    Attributes:
        topic: the changelog's name.
        topic_id: its id as hex; another id means another topic of the same name. "" where the broker tells none.
        position: the offset of the next changelog record that the store has not seen.
        leader_epoch: the leader epoch that the position was read or written under; -1 if unknown.
        committed_ms: the last time, in milliseconds since 1970, at which the store had all that was committed.
    """

    topic: str
    topic_id: str
    position: int
    leader_epoch: int = -1
    committed_ms: int = 0


class Home(Protocol):
    """The committed state of one task. For one thread; `reader` gives others a view of their own."""

    def open_table(self, table: str, kind: str) -> None:
        """Make a table if it is not there.

        Args:
            kind: what the bytes mean (kind of store, windows, names of serdes); kept with the table.

        Raises:
            StoreKindError: the table is there with another kind.
        """
        ...

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        ...

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return the first `limit` rows with `since` <= key < `until`, in the order of their bytes or against it."""
        ...

    def commit(self, changes: Mapping[str, Changes], notes: Mapping[str, StoreNote]) -> None:
        """Write changes by table, and notes by table, in one step.

        Raises:
            StateError: nothing of it is written, and the task cannot go on.
        """
        ...

    def note(self, table: str) -> StoreNote | None:
        """Return what the last commit has noted of a table; None for one that is new or was wiped."""
        ...

    def wipe(self, table: str) -> None:
        """Empty a table and forget its note, in one step."""
        ...

    def row_count(self, table: str) -> int:
        """Return how many keys a table has; counts them."""
        ...

    def reader(self) -> HomeReader:
        """Return a view of committed state for one other thread; close it there."""
        ...

    def close(self, *, clean: bool = True) -> None:
        """Let go. Not `clean` means: as if the process had died here."""
        ...


class HomeReader(Protocol):
    """Committed state, for a thread that only asks."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """As `Home.get`."""
        ...

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """As `Home.page`."""
        ...

    def note(self, table: str) -> StoreNote | None:
        """As `Home.note`."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


def scan(
    source: Home | HomeReader, table: str, since: bytes | None, until: bytes | None, *, reverse: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over rows with `since` <= key < `until`. Reads page by page: no cursor stays open between two rows."""
    while True:
        rows = source.page(table, since, until, reverse=reverse, limit=PAGE_ROWS)
        yield from rows
        if len(rows) < PAGE_ROWS:
            return
        if reverse:
            until = rows[-1][0]
        else:
            since = rows[-1][0] + b"\0"
