"""Ranges of offsets with the same delivery state, and how newer ones are laid over older ones.

Knows numbers only. Where two ranges overlap the one that is further wins: the higher delivery count, then the higher state,
whose numbers grow from available to archived. Neighbours of the same kind become one. KIP-932; Kafka's
PersisterStateBatchCombiner gives the same results.

Invariant: what `combine` returns is ordered, without overlap, and has nothing below the start offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from heapq import heappop, heappush
from typing import NamedTuple


class DeliveryState(IntEnum):
    """The state of a record in a share group, as it is written. ACQUIRED is never persisted."""

    AVAILABLE = 0
    ACQUIRED = 1
    ACKNOWLEDGED = 2
    ARCHIVING = 3
    ARCHIVED = 4

    @property
    def is_terminal(self) -> bool:
        """Whether the record will not be delivered any more."""
        return self is DeliveryState.ACKNOWLEDGED or self is DeliveryState.ARCHIVED


class StateBatch(NamedTuple):
    """Offsets from `first` to `last`, both included, that share their state and delivery count."""

    first: int
    last: int
    state: int
    deliveries: int


def combine(known: Iterable[StateBatch], newer: Iterable[StateBatch], start_offset: int) -> list[StateBatch]:
    """Return all of it as ranges without overlap. `start_offset` -1: nothing is cut off."""
    pieces = sorted(_cut((*known, *newer), start_offset))
    if len(pieces) < 2:
        return pieces
    combined: list[StateBatch] = []
    # Ranges that cover `position`, the one that wins first.
    covering: list[tuple[int, int, int]] = []
    position = index = 0
    while index < len(pieces) or covering:
        if not covering:
            position = pieces[index].first
        while index < len(pieces) and pieces[index].first <= position:
            piece = pieces[index]
            heappush(covering, (-piece.deliveries, -piece.state, piece.last))
            index += 1
        while covering and covering[0][2] < position:
            heappop(covering)
        if not covering:
            continue
        count, state, last = covering[0]
        if index < len(pieces):
            last = min(last, pieces[index].first - 1)
        _append(combined, StateBatch(position, last, -state, -count))
        position = last + 1
    return combined


def _cut(batches: Iterable[StateBatch], start_offset: int) -> Iterable[StateBatch]:
    for batch in batches:
        if batch.first >= start_offset:
            yield batch
        elif batch.last >= start_offset:
            yield batch._replace(first=start_offset)


def _append(combined: list[StateBatch], batch: StateBatch) -> None:
    if combined:
        before = combined[-1]
        if before.last + 1 == batch.first and before.state == batch.state and before.deliveries == batch.deliveries:
            combined[-1] = before._replace(last=batch.last)
            return
    combined.append(batch)
