"""The aborted transactions of a log: which ones a reader of committed records must leave out.

The transaction indexes name them. These files have no checksum: before they are used they are compared with the batches,
once, and one that is wrong is built anew. An entry that is wrong would show aborted records to consumers, or hide
committed ones and have the cleaner drop them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ottla.storage.consistency import check_aborted
from ottla.storage.damage import UnreadableError, UnreliableTransactionsError
from ottla.storage.index import WouldBlockError
from ottla.storage.reading import first_at_or_before
from ottla.storage.recovery import aborted_entries

if TYPE_CHECKING:
    from ottla.storage.index import AbortedTransaction
    from ottla.storage.log import PartitionLog
    from ottla.storage.segment import Segment

logger = logging.getLogger(__name__)


class AbortedTransactions:
    """The aborted transactions of one log, as the transaction indexes of its segments name them."""

    __slots__ = ("_bases", "_log")

    def __init__(self, log: PartitionLog, bases: set[int]) -> None:
        self._log = log
        #: The base offsets of the segments that have a transaction index.
        self._bases = bases

    def add_segment(self, segment: Segment) -> None:
        """Note that the transaction index of a segment has an entry."""
        self._bases.add(segment.base_offset)

    def forget_segment(self, segment: Segment) -> None:
        """Note that a segment is no part of the log any more."""
        self._bases.discard(segment.base_offset)

    def clear(self) -> None:
        """Note that the log has become empty."""
        self._bases.clear()

    def between(self, start: int, upper: int) -> list[tuple[int, int]]:
        """Return (producer id, first offset) of the aborted transactions that overlap [start, upper)."""
        aborted: list[tuple[int, int]] = []
        if not self._bases:
            return aborted
        segments = self._log.segments
        for segment in segments[first_at_or_before(segments, start) :]:
            if segment.base_offset not in self._bases:
                continue
            for entry in segment.transaction_index.entries():
                if entry.last_offset >= start and entry.first_offset < upper:
                    aborted.append((entry.producer_id, entry.first_offset))
                if entry.last_stable_offset >= upper:
                    return aborted
        return aborted

    def check(self, start: int, *, nowait: bool) -> None:
        """Compare the transaction indexes from `start` on with the batches. See `PartitionLog.check_aborted`."""
        if not self._bases:
            return
        segments = self._log.segments
        for segment in segments[first_at_or_before(segments, start) :]:
            if segment.base_offset in self._bases and not segment.transaction_index.is_checked:
                if nowait:
                    raise WouldBlockError(segment.name)
                self._check_segment(segment)

    def _check_segment(self, segment: Segment) -> None:
        log = self._log

        def check() -> None:
            check_aborted(segment)
            check_spans(log.segments, segment.transaction_index.entries())

        try:
            log.mender.around_damage(check)
        except UnreadableError:
            pass  # what can be compared was right; the damage is noted
        except UnreliableTransactionsError as error:
            logger.error("%s: %s; it is built anew", log.topic_partition, error)
            entries = self._rebuilt(segment)
            with log.lock:
                if segment is log.active_segment:  # an append may have added to it meanwhile
                    entries = self._rebuilt(segment)
                if segment in log.segments:
                    segment.transaction_index.replace(entries)

    def _rebuilt(self, segment: Segment) -> list[AbortedTransaction]:
        """Return the entries that the batches give."""
        log = self._log
        built = aborted_entries(log.segments, segment, log.snapshots.offsets, log.topic_partition, log.directory)
        try:
            known = segment.transaction_index.entries()
        except ValueError:
            known = []
        # Of a transaction whose marker cannot be read the index is all there is.
        kept = [entry for entry in known if segment.is_damaged_at(entry.last_offset)]
        return sorted([*built, *kept], key=lambda entry: entry.last_offset)


def check_spans(segments: Sequence[Segment], entries: Sequence[AbortedTransaction]) -> None:
    """Check that no aborted transaction contains a marker of its producer before its end.

    Reads the headers of the segments in which the transactions lie; may wait for the disk.

    Raises:
        UnreliableTransactionsError: one does, or has an impossible first offset: it begins later.
        UnreadableError: a segment cannot be read on the way.
    """
    if not entries:
        return
    first, last = min(entry.first_offset for entry in entries), max(entry.last_offset for entry in entries)
    if first < 0:
        raise UnreliableTransactionsError(f"a transaction begins at offset {first}")
    spans: dict[int, list[AbortedTransaction]] = {}
    for entry in entries:
        spans.setdefault(entry.producer_id, []).append(entry)
    for number, segment in enumerate(segments):
        is_before = number + 1 < len(segments) and segments[number + 1].base_offset <= first
        if is_before or segment.base_offset > last:
            continue
        for _, header in segment.headers():
            if header.base_offset > last:
                return
            if header.is_control and header.record_count:
                for entry in spans.get(header.producer_id, ()):
                    if entry.first_offset <= header.base_offset < entry.last_offset:
                        raise UnreliableTransactionsError(
                            f"the transaction of producer {entry.producer_id} from {entry.first_offset} to "
                            f"{entry.last_offset} contains its marker at {header.base_offset}"
                        )
