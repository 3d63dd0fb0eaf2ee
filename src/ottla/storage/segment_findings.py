"""What a whole read of a segment showed, in words for the log's owner: what is wrong, what comes of it, what repair does.

What comes of it is what `recovery` and `log` do at the next start. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ottla.storage.findings import Finding, Kind
from ottla.storage.segment import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SWAP_SUFFIX,
    TIME_INDEX_SUFFIX,
    TRANSACTION_INDEX_SUFFIX,
    Segment,
    file_name,
)

if TYPE_CHECKING:
    from ottla.storage.directory_state import KnownOffsets
    from ottla.storage.segment_check import SegmentCheck

_INDEX_NAMES = {
    INDEX_SUFFIX: "offset index",
    TIME_INDEX_SUFFIX: "time index",
    TRANSACTION_INDEX_SUFFIX: "transaction index",
}
_INDEX_KINDS = {
    INDEX_SUFFIX: Kind.OFFSET_INDEX,
    TIME_INDEX_SUFFIX: Kind.TIME_INDEX,
    TRANSACTION_INDEX_SUFFIX: Kind.TRANSACTION_INDEX,
}
_INDEX_CONSEQUENCES = {
    INDEX_SUFFIX: "ottla builds it anew when it meets the contradiction; Apache Kafka may not find offsets",
    TIME_INDEX_SUFFIX: "look-ups by time and retention may go by it where the contradiction is not met",
    TRANSACTION_INDEX_SUFFIX: "read_committed consumers may see records of aborted transactions, or miss committed ones",
}


class SegmentFindings:
    """Words for the segments of the partition `name`, whose directory has the files `names`."""

    def __init__(self, name: str, names: list[str], known: KnownOffsets) -> None:
        self._name = name
        self._names = names
        self._known = known

    def _finding(self, kind: Kind, file: str, problem: str, consequence: str, remedy: str, **ranges: int) -> Finding:
        return Finding(
            kind=kind,
            partition=self._name,
            file=file,
            problem=problem,
            consequence=consequence,
            remedy=remedy,
            **ranges,
        )

    def of(self, check: SegmentCheck, *, is_last: bool, is_recovered: bool) -> Iterator[Finding]:
        """Yield what a segment showed.

        Args:
            check: after its `run`.
            is_last: whether it is the log's last segment.
            is_recovered: whether the next start reads it again, and builds its indexes anew.
        """
        segment = check.segment
        log = f"{file_name(segment.base_offset)}{LOG_SUFFIX}{segment.suffix}"
        if check.disk_error is not None:
            yield self._finding(
                Kind.DISK,
                log,
                f"the disk refuses to read one of the segment's files: {check.disk_error.strerror or check.disk_error}",
                "the broker gives the whole log directory up when it reads there",
                "cannot: copy what can still be read to another disk first, with a program for failing disks",
            )
            return
        for damage in check.damages:
            loses_offsets = damage.next_offset > damage.first_offset
            kind, consequence = self._future_of(
                damage.first_offset, damage.end, segment, is_last=is_last, loses_offsets=loses_offsets
            )
            yield self._finding(
                kind,
                log,
                damage.reason,
                consequence,
                "writes the segment anew without these bytes; "
                + ("their offsets stay a hole" if loses_offsets else "no offset is lost"),
                position=damage.position,
                end=damage.end,
                first_offset=damage.first_offset,
                next_offset=damage.next_offset,
            )
        for entry, _ in check.lost_aborts:
            yield self._finding(
                Kind.LOST_ABORT,
                log,
                f"the end marker, at offset {entry.last_offset}, of an aborted transaction of producer "
                f"{entry.producer_id} cannot be read",
                "the transaction index names it, as long as the damage is there",
                "writes an abort marker at that offset",
                first_offset=entry.first_offset,
                next_offset=entry.last_offset + 1,
            )
        for position, size, right, behind, written in check.misplaced:
            yield self._finding(
                Kind.WRONG_OFFSET,
                log,
                f"its records are intact, but it says offset {written} where only {right} can be",
                self._future_of(right, position, segment, is_last=is_last)[1],
                f"sets the offset to {right}",
                position=position,
                end=position + size,
                first_offset=right,
                next_offset=behind,
            )
        for position, size, first, behind, reason in check.undecodable:
            yield self._finding(
                Kind.UNDECODABLE,
                log,
                f"the checksum is right, but {reason}",
                "consumers fail here",
                "leaves it: these are the bytes that were produced",
                position=position,
                end=position + size,
                first_offset=first,
                next_offset=behind,
            )
        if not (check.must_be_rewritten or is_recovered):
            yield from self._indexes(check)

    def _future_of(
        self, first_offset: int, end: int, segment: Segment, *, is_last: bool, loses_offsets: bool = True
    ) -> tuple[Kind, str]:
        """Return what the next start does with what cannot be read at `first_offset`."""
        known = self._known
        is_end = is_last and end >= segment.size
        if known.is_clean or (
            not is_end if known.is_recovery_point_lost else first_offset < (known.recovery_point or 0)
        ):
            fetches = "fetches of these offsets get CORRUPT_MESSAGE" if loses_offsets else "no offset is lost"
            return Kind.DAMAGE, f"{fetches}, and neither compaction nor retention touches the segment"
        if is_end:
            return Kind.TORN_END, "the next start cuts the log here, as after any unclean stop"
        return Kind.DAMAGE, (
            "the next start takes this for the end of the log, as after any unclean stop: "
            "it cuts the log here and deletes everything behind"
        )

    def _indexes(self, check: SegmentCheck) -> Iterator[Finding]:
        base = check.segment.base_offset
        problems = {
            INDEX_SUFFIX: check.index_problem,
            TIME_INDEX_SUFFIX: check.time_index_problem,
            TRANSACTION_INDEX_SUFFIX: check.transaction_index_problem,
        }
        for suffix, problem in problems.items():
            name = f"{file_name(base)}{suffix}"
            # A swap that was interrupted between two renames: the rest of the segment's files have the other name still.
            if problem and name + SWAP_SUFFIX not in self._names:
                yield self._finding(
                    _INDEX_KINDS[suffix],
                    name,
                    f"the {_INDEX_NAMES[suffix]} is wrong: {problem}",
                    _INDEX_CONSEQUENCES[suffix],
                    "builds it anew from the batches",
                )
