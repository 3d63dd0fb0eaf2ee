"""Copies of the stores of tasks that run elsewhere: they follow the changelogs, so that a task is soon at work here.

A copy reads committed records only, as a restore does. When the task comes to this thread its stores are handed over open,
with the positions they have, and the task restores what is missing as at every start: what the old owner had not committed
never reaches a copy. Copies follow while no task of the thread restores, a piece at a time between records.

A store whose changelog is the table's source topic is not copied: how far it may be read only its owner's commits say.

Sources: Kafka Streams' StandbyTask, KIP-441.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ottla.clock import Clock
from ottla.streams.context import InputRecord
from ottla.streams.restoring import Restorer
from ottla.streams.runtime.engine_settings import EngineSettings
from ottla.streams.runtime.ports import Cluster, OutOfRange, StateHost
from ottla.streams.runtime.tasks import copied_stores, position_of
from ottla.streams.state.currency import reason_to_rebuild
from ottla.streams.state.homes import StateCorruptError, StateError, StateLockedError, StoreNote
from ottla.streams.state.overlay import TaskState
from ottla.streams.topology import StoreSpec, SubTopology, TaskId
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)

#: Records that copies take at one look: the tasks that run wait meanwhile.
FOLLOWED_MAX: Final = 2_000
#: How often a copy that cannot be opened is tried again.
_AGAIN_MS: Final = 1_000
#: How often a copy writes what it has read, so that a killed process finds most of it.
_COMMIT_MS: Final = 1_000


@dataclass(slots=True)
class _Followed:
    """One store of a copy. `note` is how far it was read, which may not be written yet."""

    store: StoreSpec
    restorer: Restorer
    note: StoreNote
    moved: bool = False


@dataclass(slots=True)
class _Copy:
    sub_topology: SubTopology
    state: TaskState
    followed: dict[TopicPartition, _Followed] = field(default_factory=dict)


class Standbys:
    """See the module.

    Attributes:
        changed: whether the changelogs that are to be followed are others than at the last look.
        is_behind: whether the last look found so much that the next one is not to wait.
    """

    def __init__(
        self,
        sub_topologies: Iterable[SubTopology],
        settings: EngineSettings,
        cluster: Cluster,
        host: StateHost,
        clock: Clock,
    ) -> None:
        self.changed: bool = False
        self.is_behind: bool = False
        self._sub_topologies = {sub.id: sub for sub in sub_topologies}
        self._settings = settings
        self._cluster = cluster
        self._host = host
        self._clock = clock
        self._wanted: frozenset[TaskId] = frozenset()
        self._copies: dict[TaskId, _Copy] = {}
        self._try_ms = 0
        self._commit_ms = 0

    def want(self, tasks: Iterable[TaskId]) -> None:
        """Say which tasks this thread is to have copies of from now on."""
        self._wanted = frozenset(tasks)
        self._try_ms = 0

    def positions(self) -> dict[TopicPartition, int]:
        """Return where each changelog is to be read on."""
        return {where: each.note.position for copy in self._copies.values() for where, each in copy.followed.items()}

    def progress(self) -> dict[TaskId, int]:
        """Return how far each copy is, as the sum of its changelog positions."""
        return {
            task_id: position_of(each.note for each in copy.followed.values()) for task_id, copy in self._copies.items()
        }

    def arrange(self, active: Collection[TaskId]) -> None:
        """Close the copies that are not wanted any more, and open those that are and are not here."""
        for task_id in [task_id for task_id in self._copies if task_id not in self._wanted]:
            self._close(task_id)
        missing = [task_id for task_id in self._wanted if task_id not in self._copies and task_id not in active]
        now_ms = self._clock.monotonic_ms()
        if not missing or now_ms < self._try_ms:
            return
        self._try_ms = now_ms + _AGAIN_MS
        for task_id in sorted(missing):
            sub = self._sub_topologies.get(task_id.sub_topology)
            if sub is not None and copied_stores(sub):
                self._open(task_id, sub)

    def promote(self, task_id: TaskId) -> TaskState | None:
        """The task is to run here: return its stores, everything that was read written. None: there is no copy."""
        copy = self._copies.get(task_id)
        if copy is None:
            return None
        try:
            self._commit(copy)
        except StateError as error:
            logger.warning("task %s: its copy cannot be used: %s", task_id, error)
            self._close(task_id)
            return None
        del self._copies[task_id]
        self.changed = True
        return copy.state

    def follow(self) -> None:
        """Take what has come of the changelogs."""
        self.is_behind = False
        if not self._copies:
            return
        try:
            found = self._cluster.restored(0, FOLLOWED_MAX)
        except OutOfRange as error:
            self._look_again(error)
            return
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.wall_ms()
        self.is_behind = sum(len(records) for records, _ in found.values()) * 2 >= FOLLOWED_MAX
        due = now_ms >= self._commit_ms
        if due:
            self._commit_ms = now_ms + _COMMIT_MS
        for task_id, copy in list(self._copies.items()):
            for where, each in copy.followed.items():
                if where in found:
                    self._take(each, *found[where], wall_ms)
            if due or copy.state.uncommitted_bytes > self._settings.uncommitted_max_bytes // 4:
                try:
                    self._commit(copy)
                except StateError as error:
                    logger.warning("task %s: its copy ends here: %s", task_id, error)
                    self._close(task_id)

    def close(self) -> None:
        """Write what was read, and let all copies go."""
        for task_id in list(self._copies):
            self._close(task_id)

    # -- one copy -------------------------------------------------------------------------------------------------------

    def _open(self, task_id: TaskId, sub: SubTopology) -> None:
        try:
            try:
                state = self._host.open(task_id, sub)
            except StateCorruptError as error:
                logger.warning("task %s: %s Its copy begins anew.", task_id, error)
                self._host.wipe(task_id)
                state = self._host.open(task_id, sub)
        except StateLockedError:
            return  # its owner of before has not let go yet
        except StateError as error:
            logger.warning("task %s: its copy cannot be opened: %s", task_id, error)
            self._host.release(task_id)
            return
        self._copies[task_id] = _Copy(sub, state)
        try:
            self._look(task_id)
        except StateError as error:
            logger.warning("task %s: its copy ends here: %s", task_id, error)
            self._close(task_id)

    def _look(self, task_id: TaskId) -> None:
        """See whether the stores of a copy can go on, and where."""
        copy = self._copies[task_id]
        state = copy.state
        specs = {
            TopicPartition(str(spec.changelog), task_id.partition): spec for spec in copied_stores(copy.sub_topology)
        }
        notes = {where: state.note(spec.name) for where, spec in specs.items()}
        try:
            logs = self._cluster.changelogs(notes)
        except LookupError as error:
            logger.warning("task %s: there is no copy, since the changelog %s is not there", task_id, error.args[0])
            self._close(task_id)
            return
        wall_ms = self._clock.wall_ms()
        for where, spec in specs.items():
            log, note = logs[where], notes[where]
            reason = None if note is None else reason_to_rebuild(note, log, wall_ms)
            if reason is not None:
                logger.warning("task %s: the copy of store %s begins anew: %s", task_id, spec.name, reason)
                state.wipe(spec.name)
                note = None
            if note is None:
                note = StoreNote(topic=log.topic, topic_id=log.topic_id, position=log.start)
            copy.followed[where] = _Followed(spec, Restorer(spec, state.stores), replace(note, topic_id=log.topic_id))
        self.changed = True

    @staticmethod
    def _take(each: _Followed, records: Sequence[InputRecord], position: int, wall_ms: int) -> None:
        each.restorer.apply_all(records)
        if position > each.note.position:
            each.note = replace(each.note, position=position, committed_ms=wall_ms)
            each.moved = True

    def _commit(self, copy: _Copy) -> None:
        notes: dict[str, StoreNote] = {}
        for each in copy.followed.values():
            if each.moved:
                each.restorer.finish()
                notes[each.store.name] = each.note
                each.moved = False
        if notes:
            copy.state.commit(notes)

    def _look_again(self, error: OutOfRange) -> None:
        """Changelogs do not have what is to be read next: their copies are looked at as if they were opened now."""
        for task_id, copy in list(self._copies.items()):
            lost = copy.followed.keys() & set(error.partitions)
            if not lost:
                continue
            try:
                self._commit(copy)
                for where in lost & error.parted.keys():
                    copy.state.wipe(copy.followed[where].store.name)
                self._look(task_id)
            except StateError as failure:
                logger.warning("task %s: its copy ends here: %s", task_id, failure)
                self._close(task_id)
        self.changed = True

    def _close(self, task_id: TaskId) -> None:
        copy = self._copies.pop(task_id)
        self.changed = True
        try:
            self._commit(copy)
        except StateError as error:
            logger.warning("task %s: its copy was not written: %s", task_id, error)
        try:
            copy.state.close()
        except StateError as error:
            logger.warning("task %s: its copy was not closed cleanly: %s", task_id, error)
        self._host.release(task_id)
