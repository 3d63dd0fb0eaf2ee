"""One commit of a stream thread: flush, await, offsets, commit, stores (see `engine` for what a kill in between means)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ottla.clock import Clock
from ottla.streams.runtime.ports import Cluster
from ottla.streams.runtime.tasks import EngineTask
from ottla.streams.runtime.transaction import Transaction
from ottla.streams.state.homes import StateError, StoreNote

logger: logging.Logger = logging.getLogger(__name__)

#: A store's note is renewed so often while nothing is written, so that the age of its last commit means something.
_TOUCH_MS: Final = 600_000


class Committer:
    """Commits tasks that run."""

    def __init__(self, transaction: Transaction, cluster: Cluster, clock: Clock) -> None:
        self._transaction = transaction
        self._cluster = cluster
        self._clock = clock

    def flush(self, running: Sequence[EngineTask]) -> None:
        """Write what operators hold back. Calls may begin by it: then it is too early for the commit.

        Raises:
            Refused, Fenced, OutcomeUnknown.
        """
        for task in running:
            assert task.core is not None
            if task.wrote or task.moved or (task.state is not None and task.state.is_dirty):
                outputs = task.core.flush()
                if outputs:
                    self._transaction.write(task, None, outputs)

    def commit(self, running: Sequence[EngineTask]) -> bool:
        """Commit what these have written, and where they are, in the cluster. Return whether there was anything.

        Raises:
            Refused, Fenced, OutcomeUnknown: it is not committed, or nobody knows.
        """
        for task in running:
            self._move_past_markers(task)
        offsets = {
            where: each for task in running if task.wrote or task.moved for where, each in task.offsets().items()
        }
        if offsets:
            self._transaction.commit(offsets)
        self._transaction.is_open = False
        return bool(offsets)

    def _move_past_markers(self, task: EngineTask) -> None:
        """Where nothing waits, what is committed is the position: behind control records and those that were aborted."""
        assert task.queues is not None
        for where in task.partitions:
            if task.queues.count(where):
                continue
            position = self._cluster.position(where)
            if position is not None and position > task.next_offsets.get(where, -1):
                task.next_offsets[where] = position

    def commit_stores(self, running: Iterable[EngineTask]) -> None:
        """Move overlays and positions into the stores. All tasks are tried: their commit stands.

        Raises:
            StateError: a store could not be written; the thread has to end.
        """
        failed: StateError | None = None
        wall_ms = self._clock.wall_ms()
        ends = self._transaction.ends
        for task in running:
            assert task.state is not None
            task.committed = dict(task.next_offsets)
            notes: dict[str, StoreNote] = {}
            for spec in task.stores_with_changelog:
                log = task.changelog_of(spec)
                note = task.notes[spec.name]
                position = ends.get(log, note.position)
                if spec.source_changelog:
                    position = task.committed.get(log, note.position)
                if position != note.position or task.state.stores[spec.name].overlay.values:
                    notes[spec.name] = replace(note, position=position, leader_epoch=-1, committed_ms=wall_ms)
            task.wrote = False
            try:
                if notes or task.state.is_dirty:
                    task.state.commit(notes)
                    task.notes.update(notes)
                else:
                    touch(task, wall_ms)
            except StateError as error:
                failed = error
                logger.error("task %s: the commit stands, its store could not follow: %s", task.id, error)
        ends.clear()
        if failed is not None:
            raise failed


def touch(task: EngineTask, wall_ms: int, *, force: bool = False) -> None:
    """Note that a store without writes is current."""
    old = {
        name: replace(note, committed_ms=wall_ms)
        for name, note in task.notes.items()
        if force or wall_ms - note.committed_ms > _TOUCH_MS
    }
    if old and task.state is not None and not task.state.is_dirty:
        task.state.commit(old)
        task.notes.update(old)
