"""What a look at a log that is not running can find: one `Finding` for each thing, in words for its owner.

Knows no files. `check` makes findings, `repair` mends what they name, the command line prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What was found."""

    #: Bytes of a segment that are no batch, or a batch with a wrong checksum.
    DAMAGE = "damage"
    #: An intact batch whose base offset is not its own: the checksum does not cover it.
    WRONG_OFFSET = "wrong-offset"
    #: An intact batch whose leader epoch is not its own: the checksum does not cover it either.
    WRONG_EPOCH = "wrong-epoch"
    #: The end of an aborted transaction lies in damage.
    LOST_ABORT = "lost-abort"
    #: A batch with a right checksum whose records cannot be decoded (`--deep`).
    UNDECODABLE = "undecodable"
    #: The disk refuses to read a file.
    DISK = "disk"
    #: Segments of whose files only the indexes are there.
    MISSING_SEGMENT = "missing-segment"
    #: The log ends before the offset that it had reached.
    MISSING_END = "missing-end"
    OFFSET_INDEX = "offset-index"
    TIME_INDEX = "time-index"
    TRANSACTION_INDEX = "transaction-index"
    SNAPSHOT = "snapshot"
    LEADER_EPOCHS = "leader-epochs"
    PARTITION_METADATA = "partition-metadata"
    #: An offset checkpoint that cannot be read, or a row of one that contradicts the log.
    CHECKPOINT = "checkpoint"
    #: A file that says whose directory it is.
    IDENTITY = "identity"
    #: Something with a name at which a broker stops: a number that is none, a directory in the place of a file.
    ODD_NAME = "odd-name"
    #: The coordination tree is no database.
    TREE = "tree"

    # Notes: worth knowing, and nothing is wrong.
    HOLE = "hole"
    LEFTOVER = "leftover"
    UNKNOWN_FILE = "unknown-file"
    STALE_ROW = "stale-row"
    #: The last stop was not a clean one: the next start reads the end of the log again, and may cut it.
    UNCLEAN = "unclean"
    TORN_END = "torn-end"


NOTES = frozenset(
    {Kind.HOLE, Kind.LEFTOVER, Kind.UNKNOWN_FILE, Kind.STALE_ROW, Kind.UNCLEAN, Kind.TORN_END},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: what it is.
        partition: the name of the partition's directory; "" for what belongs to the log directory.
        file: the file's name; "" where it is the partition as a whole.
        problem: what is wrong.
        consequence: what happens if it is left.
        remedy: what `ottla log repair` would do.
        position, end: the bytes from `position` up to `end` of the file; -1 where there is no such range.
        first_offset, next_offset: the offsets from `first_offset` up to `next_offset`; -1 where there is no such range.
    """

    kind: Kind
    partition: str
    file: str
    problem: str
    consequence: str
    remedy: str
    position: int = -1
    end: int = -1
    first_offset: int = -1
    next_offset: int = -1

    @property
    def is_wrong(self) -> bool:
        """Whether something is wrong, or the finding is but a note."""
        return self.kind not in NOTES

    def line(self) -> str:
        """Return it as one line for people."""
        place = " ".join(part for part in (self.partition, self.file) if part)
        if self.position >= 0:
            place += f", bytes {self.position} to {self.end}"
        if self.first_offset >= 0:
            place += f", {offset_range(self.first_offset, self.next_offset)}"
        note = "" if self.is_wrong else "note: "
        return f"{note}{place}: {self.problem}. If left: {self.consequence}. Repair: {self.remedy}."

    def as_json(self) -> dict[str, Any]:
        """Return it as values for JSON; ranges that it does not have are left out."""
        found: dict[str, Any] = {
            "kind": self.kind.value,
            "wrong": self.is_wrong,
            "partition": self.partition,
            "file": self.file,
            "problem": self.problem,
            "if_left": self.consequence,
            "repair": self.remedy,
        }
        if self.position >= 0:
            found |= {"position": self.position, "end": self.end}
        if self.first_offset >= 0:
            found |= {"first_offset": self.first_offset, "next_offset": self.next_offset}
        return found


def offset_range(first_offset: int, next_offset: int) -> str:
    """Return the offsets from `first_offset` up to `next_offset` in words."""
    if next_offset <= first_offset:
        return f"behind offset {first_offset - 1}" if first_offset else "from the start on"
    if next_offset == first_offset + 1:
        return f"offset {first_offset}"
    return f"offsets {first_offset} to {next_offset - 1}"
