"""From an assigned task to one that runs: lock, open, restore, run (`tasks.Phase`).

Stable offsets are fetched first, and the changelogs' ends after that: what the offsets mean lies before the ends. A store
goes forward from its noted position, or is rebuilt (`state.currency`), until its position has reached that end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from ottla.clock import Clock
from ottla.streams.restoring import Restorer
from ottla.streams.runtime.engine_settings import EngineSettings
from ottla.streams.runtime.first_offsets import FirstOffsets
from ottla.streams.runtime.ports import Cluster, OutOfRange, StateHost, TaskFailedError
from ottla.streams.runtime.queues import TaskQueues
from ottla.streams.runtime.standbys import Standbys
from ottla.streams.runtime.tasks import EngineTask, Phase, Restoring, read_time
from ottla.streams.state.currency import reason_to_rebuild
from ottla.streams.state.homes import StateCorruptError, StateLockedError, StoreNote
from ottla.streams.store import Store
from ottla.streams.task import Task
from ottla.streams.topology import SubTopology, TaskId
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)

#: Records that one look at the changelogs takes.
_RESTORED_MAX: Final = 20_000
#: Rows with random keys touch nearly every page of a table, so that many at one time cost less than few (200,000 rows of 120
#: bytes: 10 us of CPU a row at once, 13 us in steps of 20,000). So what is restored is written when there is much
#: (statestore.uncommitted.max.bytes), and so often, that a kill costs little.
_RESTORED_WRITTEN_MS: Final = 5_000
#: The coordinator looks for transactions that are over their time so often, and a marker takes its time.
_LSO_MARGIN_MS: Final = 20_000

#: Makes a task of a sub-topology: (sub-topology, partition, stores by name).
MakeTask = Callable[[SubTopology, int, Mapping[str, Store]], Task]


class Starter:
    """Starts the tasks of one stream thread.

    Args:
        tasks: of the thread, by id; the engine's own mapping.

    Attributes:
        restore_changed: whether the changelogs that are to be read are others than at the last look.
        make_task: makes the operators of a task.
    """

    def __init__(
        self,
        tasks: Mapping[TaskId, EngineTask],
        settings: EngineSettings,
        cluster: Cluster,
        host: StateHost,
        make_task: MakeTask,
        first_offsets: FirstOffsets,
        standbys: Standbys,
        clock: Clock,
    ) -> None:
        self.restore_changed: bool = False
        self.make_task = make_task
        self._tasks = tasks
        self._settings = settings
        self._cluster = cluster
        self._host = host
        self._first_offsets = first_offsets
        self._standbys = standbys
        self._clock = clock

    def lock(self) -> bool:
        """Lock the directories of tasks that wait for it. Return whether a task waits to be opened.

        Raises:
            StateLockedError: a directory stayed locked for task.timeout.ms.
        """
        for task in self._tasks.values():
            if task.phase is Phase.LOCKING:
                self._lock(task)
        return any(task.phase is Phase.OPEN for task in self._tasks.values())

    def start(self, wait_ms: int) -> None:
        """Open what is locked, and restore a step further.

        Raises:
            TaskFailedError: a changelog is not there, or does not become stable.
        """
        opening = [task for task in self._tasks.values() if task.phase is Phase.OPEN]
        if opening:
            self._open(opening)
        restoring = {
            where: each.note.position for task in self._tasks.values() for where, each in task.restoring.items()
        }
        if self.restore_changed or (self._standbys.changed and not restoring):
            self.restore_changed = self._standbys.changed = False
            # While tasks restore, copies wait.
            self._cluster.restore_from(restoring or self._standbys.positions())
        if restoring:
            self._restore(wait_ms)
        else:
            self._standbys.follow()

    def _lock(self, task: EngineTask) -> None:
        try:
            try:
                task.state = self._host.open(task.id, task.sub_topology)
            except StateCorruptError as error:
                logger.warning("task %s: %s It is rebuilt from its changelogs.", task.id, error)
                self._host.wipe(task.id)
                task.state = self._host.open(task.id, task.sub_topology)
        except StateLockedError as error:
            if self._clock.monotonic_ms() - task.since_ms > self._settings.task_timeout_ms:
                raise StateLockedError(
                    f"Task {task.id} waited {self._settings.task_timeout_ms / 1000:g} s (task.timeout.ms): {error}"
                ) from error
            return
        task.phase = Phase.OPEN

    def _open(self, tasks: list[EngineTask]) -> None:
        committed = self._cluster.committed([where for task in tasks for where in task.partitions])
        for task in tasks:
            assert task.state is not None
            task.notes = {}
            for where in task.partitions:
                found = committed.get(where)
                task.committed.pop(where, None)
                if found is not None:
                    task.committed[where] = found[0]
                    task.partition_times[where] = max(read_time(found[1]), task.partition_times.get(where, -1))
                else:
                    task.committed[where] = self._first_offsets.where_nothing_is_committed(where)
        known = {
            task.changelog_of(spec): (task, spec, task.state.note(spec.name))
            for task in tasks
            if task.state is not None
            for spec in task.stores_with_changelog
        }
        try:
            logs = self._cluster.changelogs({where: note for where, (_, _, note) in known.items()}) if known else {}
        except LookupError as error:
            raise TaskFailedError(
                f"The changelog {error.args[0]} is not there: the state it held is lost. `ottla streams reset` starts over."
            ) from error
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.wall_ms()
        for where, (task, spec, note) in known.items():
            log = logs[where]
            assert task.state is not None
            reason = None if note is None else reason_to_rebuild(note, log, wall_ms)
            if reason is None and note is not None and spec.source_changelog and note.position > task.committed[where]:
                reason = f"its position {note.position} is above the committed offset {task.committed[where]}"
            if reason is not None:
                logger.warning("task %s: store %s is rebuilt from its changelog: %s", task.id, spec.name, reason)
                task.state.wipe(spec.name)
                note = None
            if note is None:
                note = StoreNote(topic=log.topic, topic_id=log.topic_id, position=log.start)
            note = replace(note, topic_id=log.topic_id)
            end = min(log.end, task.committed[where]) if spec.source_changelog else log.end
            task.notes[spec.name] = note
            if note.position < end:
                task.restoring[where] = Restoring(
                    spec, Restorer(spec, task.state.stores), note, note.position, end, now_ms
                )
        for task in tasks:
            task.phase = Phase.RESTORING
            task.written_ms = now_ms
            self.restore_changed |= bool(task.restoring)
            if not task.restoring:
                self._run(task)

    def _look_again(self, error: OutOfRange) -> None:
        """A changelog does not have what is to be restored next: its tasks open anew, and see whether to begin at its start.

        Where the log parts from what was read, the store has rows that the log has lost: it is rebuilt at any rate.
        """
        for task in self._tasks.values():
            for where in task.restoring.keys() & set(error.partitions):
                parted = error.parted.get(where)
                spec = task.restoring[where].store
                if parted is not None:
                    assert task.state is not None
                    logger.warning(
                        "task %s: store %s is rebuilt from its changelog: records from offset %d on are lost in %s",
                        *(task.id, spec.name, parted, where),
                    )
                    task.state.wipe(spec.name)
                else:
                    logger.warning(
                        "task %s: the changelog %s has not the offset %d of store %s any more; it is looked at again",
                        *(task.id, where, task.restoring[where].note.position, spec.name),
                    )
                task.phase = Phase.OPEN
        for task in self._tasks.values():
            if task.phase is Phase.OPEN and task.state is not None:
                task.drop_restored()
        self.restore_changed = True

    def _restore(self, wait_ms: int) -> None:
        try:
            found = self._cluster.restored(wait_ms, _RESTORED_MAX)
        except OutOfRange as error:
            self._look_again(error)
            return
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.wall_ms()
        restoring = [task for task in self._tasks.values() if task.phase is Phase.RESTORING]
        bound = self._settings.uncommitted_max_bytes // max(len(restoring), 1)
        for task in restoring:
            assert task.state is not None
            notes: dict[str, StoreNote] = {}
            for where, each in list(task.restoring.items()):
                records, position = found.get(where, ((), each.note.position))
                spec = each.store
                if spec.source_changelog:
                    records = [record for record in records if record.offset < each.end]
                each.restorer.apply_all(records)
                if position > each.note.position:
                    if spec.source_changelog:
                        position = min(position, each.end)
                    each.note = notes[spec.name] = replace(each.note, position=position, committed_ms=wall_ms)
                    each.still_since_ms, each.is_stuck = now_ms, False
                elif now_ms - each.still_since_ms > self._settings.transaction_timeout_ms + _LSO_MARGIN_MS:
                    self._look_for_stable(where, each)
                if each.note.position >= each.end:
                    each.restorer.finish()
                    del task.restoring[where]
                    self.restore_changed = True
            task.unwritten.update(notes)
            if (
                not task.restoring
                or task.state.uncommitted_bytes > bound
                or now_ms - task.written_ms >= _RESTORED_WRITTEN_MS
            ):
                task.write_restored(now_ms)
            if not task.restoring:
                self._run(task)

    def _look_for_stable(self, where: TopicPartition, each: Restoring) -> None:
        """A changelog gave nothing for so long that no transaction can be open: ask its broker, which may have been away.

        Raises:
            TaskFailedError: for the second time, after the same long wait, there is nothing more to be read.
        """
        _, stable = self._cluster.bounds(where)
        if stable > each.note.position:
            each.is_stuck = False
        elif each.is_stuck:
            raise TaskFailedError(
                f"The changelog {where} does not become stable: at offset {each.note.position} of {each.end} a transaction "
                "is open for longer than transaction.timeout.ms. `ottla doctor` and Kafka's kafka-transactions.sh show "
                "whose it is."
            )
        else:
            each.is_stuck = True
        each.still_since_ms = self._clock.monotonic_ms()

    def _run(self, task: EngineTask) -> None:
        assert task.state is not None
        core = task.core = self.make_task(task.sub_topology, task.id.partition, task.state.stores)
        if task.queues is None:
            task.queues = TaskQueues(
                task.partitions,
                lambda record: core.timestamp_of(record),
                max_task_idle_ms=self._settings.max_task_idle_ms,
                task_timeout_ms=self._settings.task_timeout_ms,
            )
        task.queues.timestamp_of = core.timestamp_of
        task.phase = Phase.RUNNING
        task.paused.clear()
        self.rewind(task)
        self._cluster.resume(task.partitions)

    def rewind(self, task: EngineTask) -> None:
        """Have a task read on from what is committed."""
        assert task.queues is not None
        task.queues.clear()
        task.next_offsets = dict(task.committed)
        if task.paused:
            self._cluster.resume(task.paused)
            task.paused.clear()
        self._cluster.seek(task.committed)
