"""What the transaction indexes say of aborted transactions, compared with the batches: the index files have no checksum.

An entry that is wrong would show aborted records to consumers, or hide committed ones and have the cleaner drop them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ottla.storage.damage import UnreliableTransactionsError

if TYPE_CHECKING:
    from ottla.storage.index import AbortedTransaction
    from ottla.storage.segment import Segment


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
