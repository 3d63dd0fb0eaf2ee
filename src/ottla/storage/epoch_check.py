"""Leader epochs: what the batches say, against one another and against leader-epoch-checkpoint.

A batch's leader epoch is not covered by its checksum. Epochs never fall along a log; where some batches break that
order, the fewest that do are taken for the wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ottla.protocol.records.batch import MAGIC
from ottla.storage.leader_epochs import UNDEFINED_EPOCH, LeaderEpochs

if TYPE_CHECKING:
    from ottla.protocol.records.batch import BatchHeader
    from ottla.storage.segment import Segment


@dataclass(slots=True)
class EpochRun:
    """Neighbouring batches of one epoch.

    Attributes:
        epoch: what they say.
        start_offset, next_offset: the offsets from `start_offset` up to `next_offset`.
        batches: how many.
        segment, position, end: where the first of them lies.
    """

    epoch: int
    start_offset: int
    next_offset: int
    batches: int
    segment: Segment
    position: int
    end: int


class EpochCheck:
    """Takes the batches of a log in their order.

    Attributes:
        wrong: after `finish`: runs of batches with an epoch that cannot be.
        epochs: after `finish`: what leader-epoch-checkpoint should say, as far as the batches show it.
        end_offset: behind the last batch that has an epoch.
    """

    def __init__(self) -> None:
        self.wrong: list[EpochRun] = []
        self.epochs = LeaderEpochs()
        self.end_offset = 0
        self._runs: list[EpochRun] = []

    def on_batch(self, segment: Segment, position: int, header: BatchHeader) -> None:
        epoch = header.partition_leader_epoch
        if header.magic < MAGIC or (epoch == UNDEFINED_EPOCH and not self._runs):
            return  # formats 0 and 1, and what was written before there were epochs
        self.end_offset = header.next_offset
        runs = self._runs
        if runs and runs[-1].epoch == epoch:
            runs[-1].batches += 1
            runs[-1].next_offset = header.next_offset
            return
        runs.append(
            EpochRun(epoch, header.base_offset, header.next_offset, 1, segment, position, position + header.size)
        )

    def finish(self) -> None:
        """Find the runs that break the order; build the epochs from the others."""
        kept: list[EpochRun] = []
        rising = _most_that_rise(self._runs)
        for run in self._runs:
            if id(run) not in rising:
                self.wrong.append(run)
            elif kept and run.epoch == kept[-1].epoch:
                kept[-1].batches += run.batches
                kept[-1].next_offset = run.next_offset
            else:
                kept.append(run)
        for run in kept:
            self.epochs.assign(run.epoch, run.start_offset)

    def compare(self, file: LeaderEpochs, up_to: int) -> str:
        """Return what `file` says of batches below `up_to` that they do not say, or "".

        What lies before its first entry is not compared: the log started there when it was written.
        """
        entries = file.entries
        if not entries:
            first = self.epochs.entries[:1]
            if first and first[0].start_offset < up_to:
                return f"it has no entry, and the batches have epoch {first[0].epoch} from offset {first[0].start_offset} on"
            return ""
        own = self.epochs.entries
        for number, entry in enumerate(own):
            behind = own[number + 1].start_offset if number + 1 < len(own) else up_to
            start = max(entry.start_offset, entries[0].start_offset)
            if start >= min(behind, up_to):
                continue
            last = self._last_of(entry.epoch, min(behind, up_to))
            for offset in (start, max(last, start)):
                known = file.epoch_for(offset)
                if known != entry.epoch:
                    return f"it says epoch {known} for offset {offset}, the batches say {entry.epoch}"
        return ""

    def _last_of(self, epoch: int, up_to: int) -> int:
        """Return the last offset below `up_to` of the batches of an epoch."""
        ends = [run.next_offset for run in self._runs if run.epoch == epoch and run.start_offset < up_to]
        return min(max(ends, default=0), up_to) - 1


def _most_that_rise(runs: list[EpochRun]) -> set[int]:
    """Return the `id` of those runs that never fall in epoch from one to the next, and have the most batches together."""
    if all(before.epoch <= after.epoch for before, after in pairwise(runs)) and (not runs or runs[0].epoch >= 0):
        return {id(run) for run in runs}
    #: By the epoch of its last run: (batches, that run, the chain before it).
    best: dict[int, _Chain] = {}
    for run in runs:
        if run.epoch < 0:
            continue
        before = max(
            (chain for epoch, chain in best.items() if epoch <= run.epoch),
            key=lambda chain: chain.batches,
            default=None,
        )
        chain = _Chain(run.batches + (before.batches if before else 0), run, before)
        if run.epoch not in best or chain.batches >= best[run.epoch].batches:
            best[run.epoch] = chain
    last = max(best.values(), key=lambda chain: chain.batches, default=None)
    found = set()
    while last is not None:
        found.add(id(last.run))
        last = last.before
    return found


class _Chain(NamedTuple):
    batches: int
    run: EpochRun
    before: _Chain | None
