"""Where reading of a database's changes stands, and whether it may go on there.

Decides, and knows no connection. A place is a transaction's, by where it commits in the log, and how many of its changes
are done: `Place(lsn, 3)` means that all of the transactions that commit before `lsn` are done, and three changes of the
one that commits there. Of what is done, the log before `lsn` may go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ottla.connect.errors import ConnectError
from ottla.connect.library.change_data.pgoutput import Begin, Change, Commit, Keepalive, Message, Truncate, lsn_text

_AGAIN = (
    "Changes in between would be lost, so the rows have to be read again: stop the connector, reset its offsets "
    "(ottla connect stop {0}; ottla connect offsets {0} --reset; ottla connect resume {0}). Rows that were deleted in "
    "between are not reported then"
)


class Place(NamedTuple):
    """See the module."""

    lsn: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An offset of ours, as it is written down.

    Attributes:
        system: the identifier of the server's data.
        in_snapshot: the first reading of all rows had not ended.
    """

    system: str
    timeline: int
    slot: str
    place: Place
    in_snapshot: bool = False

    def as_offset(self) -> dict[str, Any]:
        """Return the offset as plain values."""
        found: dict[str, Any] = {"system": self.system, "timeline": self.timeline, "slot": self.slot}
        found |= {"lsn": self.place.lsn, "index": self.place.step}
        return found | {"snapshot": True} if self.in_snapshot else found


def kept_of(offset: Mapping[str, Any] | None) -> Kept | None:
    """Undo `Kept.as_offset`.

    Raises:
        ConnectError: it is none of ours.
    """
    if offset is None:
        return None
    try:
        return Kept(
            system=str(offset["system"]),
            timeline=int(offset["timeline"]),
            slot=str(offset["slot"]),
            place=Place(int(offset["lsn"]), int(offset["index"])),
            in_snapshot=bool(offset.get("snapshot", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConnectError(f"The offset {dict(offset)} is none of PostgreSQL's changes") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a server says of itself. `end`: of its log; `ends`: of earlier timelines, where the next one begins."""

    system: str
    timeline: int
    end: int
    database: str
    ends: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot. `confirmed`: what comes before it is never sent again."""

    name: str
    plugin: str
    database: str
    confirmed: int
    is_lost: bool = False
    active_pid: int | None = None


def check_slot(name: str, slot: Slot, server: Server) -> None:
    """Raise if a slot is none that changes can be read from.

    Raises:
        ConnectError: it says what to do.
    """
    if slot.plugin != "pgoutput" or slot.database != server.database:
        raise ConnectError(
            f"The replication slot {slot.name} is for the plugin {slot.plugin} in the database {slot.database}, and not for "
            f"pgoutput in {server.database}: slot.name names another one"
        )
    if slot.is_lost:
        raise ConnectError(
            f"PostgreSQL has given up the replication slot {slot.name} (max_slot_wal_keep_size). " + _AGAIN.format(name)
        )


def check_place(name: str, kept: Kept, slot: Slot | None, server: Server) -> None:
    """Raise if reading cannot go on where it stood: changes are missing.

    Args:
        name: the connector's.

    Raises:
        ConnectError: it says why, and what to do.
    """
    wanted = lsn_text(kept.place.lsn)
    problem = None
    if kept.system != server.system:
        problem = (
            f"This is another server (system {server.system}) than the one that was read from (system {kept.system})"
        )
    elif slot is None:
        problem = f"The replication slot {kept.slot} is not there any more"
        if server.timeline != kept.timeline:
            problem += (
                f": the server took over from another one (timeline {server.timeline}, which was {kept.timeline})"
            )
    elif slot.name != kept.slot:
        problem = f"The changes so far came from the replication slot {kept.slot}, and slot.name is {slot.name}"
    elif slot.confirmed > kept.place.lsn:
        problem = (
            f"The replication slot {slot.name} is at {lsn_text(slot.confirmed)}, ahead of {wanted}, where reading stood: "
            "it was made anew, or something else reads from it"
        )
    elif server.timeline != kept.timeline and _end_of(kept.timeline, server) < kept.place.lsn:
        problem = (
            f"The server took over from another one before {wanted}, where reading stood (timeline {server.timeline}, which "
            f"was {kept.timeline}): what was read last never happened there"
        )
    elif server.end < kept.place.lsn:
        problem = (
            f"The server's log ends at {lsn_text(server.end)}, before {wanted}, where reading stood: it was restored"
        )
    if problem is not None:
        raise ConnectError(f"{problem}. {_AGAIN.format(name)}")
    assert slot is not None


def _end_of(timeline: int, server: Server) -> int:
    """Return where a timeline of the past was left; of one that is not known, the beginning."""
    return next((end for number, end in server.ends if number == timeline), 0)


class Reading:
    """Which of the messages that come are new: those behind a place, each with its own place."""

    def __init__(self, place: Place) -> None:
        #: What is done, were all acknowledged that was given so far.
        self.place = place
        self._start = place
        self._transaction: Begin | None = None
        self._step = 0

    @property
    def transaction(self) -> Begin | None:
        """The transaction that is being read."""
        return self._transaction

    def on_message(self, message: Message) -> bool:
        """Take a message; return whether it is a change that is new, at `place`.

        Raises:
            ConnectError: it comes where it cannot.
        """
        match message:
            case Begin():
                self._transaction, self._step = message, 0
            case Commit():
                self._move(Place(message.end, 0))
                self._transaction = None
            case Change() | Truncate():
                if self._transaction is None:
                    raise ConnectError("PostgreSQL sent a change outside of a transaction")
                self._step += 1
                return self._move(Place(self._transaction.lsn, self._step))
        return False

    def on_keepalive(self, keepalive: Keepalive) -> None:
        """Take what the server says of its own place: between transactions all before it is done."""
        if self._transaction is None:
            self._move(Place(keepalive.end, 0))

    def _move(self, place: Place) -> bool:
        if place <= self._start:
            return False
        self.place = max(self.place, place)
        return True
