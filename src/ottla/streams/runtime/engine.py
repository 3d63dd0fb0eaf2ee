"""The tasks of one stream thread: restore, process, commit, abort, hand over. Decides; the `Cluster` and the `StateHost` act.

One transaction holds what all tasks of the thread have written since the last commit, and the offsets of each task that
wrote or moved (no offsets, no fence). The steps of a commit, and what a kill after each of them leaves behind:

    flush     operators write what they hold back          the transaction is open: it will be aborted
    await     every record is acknowledged                 the same
    offsets   as the group's present member                the same
    commit    EndTxn is answered                           changelog and offsets are ahead of the stores: restoring mends it
    stores    overlay and positions, one step a task       nothing is missing

Whatever ends a transaction otherwise ends the memory of all tasks in it: overlays are dropped, operators made anew from
committed state, and the records since the last commit come again. After Refused the stores and offsets that this process
knows are right, and it goes on from them. After Fenced or OutcomeUnknown only the cluster knows: a new producer settles the
outcome, and every task asks for committed offsets and restores, as at its start.

Sources: KIP-447 (one producer a thread), KIP-892 (transactional state), Kafka Streams' TaskManager and StreamTask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ottla.clock import Clock
from ottla.streams.context import InputRecord, Output
from ottla.streams.errors import StreamsError
from ottla.streams.restoring import Restorer
from ottla.streams.runtime.ports import Cluster, Fenced, OutcomeUnknown, OutOfRange, Refused, StateHost
from ottla.streams.runtime.queues import TaskQueues
from ottla.streams.runtime.tasks import EngineTask, Phase, Restoring, read_time
from ottla.streams.state.currency import reason_to_rebuild
from ottla.streams.state.homes import StateCorruptError, StateError, StateLockedError, StoreNote
from ottla.streams.store import Store
from ottla.streams.task import Task
from ottla.streams.topology import SubTopology, TaskId, Topology
from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

#: Records that one task takes before the next one has its turn.
_TURN: Final = 200
#: Outputs after which the thread waits for acknowledgements, so that it can still say which input a refused one came from.
_UNACKNOWLEDGED_MAX: Final = 20_000
#: Transactions in a row that may fail for the same input.
_REPLAYS_MAX: Final = 8
#: The coordinator looks for transactions that are over their time so often, and a marker takes its time.
_LSO_MARGIN_MS: Final = 20_000
#: A store's note is renewed so often while nothing is written, so that the age of its last commit means something.
_TOUCH_MS: Final = 600_000

#: Makes a task of a sub-topology: (sub-topology, partition, stores by name).
MakeTask = Callable[[SubTopology, int, Mapping[str, Store]], Task]


class TaskFailedError(StreamsError):
    """The thread cannot go on. The text says which task, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Kafka's names with `_` for `.`, Kafka's defaults; times in milliseconds, sizes in bytes."""

    exactly_once: bool
    commit_interval_ms: int
    transaction_timeout_ms: int = 10_000
    max_task_idle_ms: int = 0
    task_timeout_ms: int = 300_000
    buffered_records_per_partition: int = 1000
    uncommitted_max_bytes: int = 64 << 20
    repartition_purge_interval_ms: int = 30_000
    auto_offset_reset: str = "earliest"


class Engine:
    """See the module.

    Attributes:
        tasks: by id.
        commits, aborts: how many.
    """

    def __init__(
        self,
        topology: Topology,
        settings: EngineSettings,
        cluster: Cluster,
        host: StateHost,
        make_task: MakeTask,
        clock: Clock,
    ) -> None:
        self.tasks: dict[TaskId, EngineTask] = {}
        self.commits = 0
        self.aborts = 0
        self._topology = topology
        self._settings = settings
        self._cluster = cluster
        self._host = host
        self._make_task = make_task
        self._clock = clock
        self._readers = {topic: sub for sub in topology.tasks for topic in sub.source_topics}
        self._resets = {
            topic: source.offset_reset
            for sub in topology.tasks
            for source in sub.sources
            for topic in source.topics
            if source.offset_reset
        }
        self._by_partition: dict[TopicPartition, EngineTask] = {}
        self._turn: list[TaskId] = []
        self._in_transaction = False
        self._began_ms = 0
        self._commit_ms = clock.monotonic_ms() + settings.commit_interval_ms
        #: What was sent since the last wait for acknowledgements: task, record, the output's place in what came of it.
        self._sent: list[tuple[TaskId, InputRecord | None, int]] = []
        self._ends: dict[TopicPartition, int] = {}
        self._purge_ms = clock.monotonic_ms() + settings.repartition_purge_interval_ms
        self._purged: dict[TopicPartition, int] = {}
        self._replays = 0
        #: Commit after each record: what was aborted because a record took too long is tried so.
        self._cautious = False
        self._slowest: tuple[int, InputRecord | None] = (0, None)
        self._restore_changed = False

    # -- what the group says ------------------------------------------------------------------------------------------

    def on_assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are this member's from now on. Their tasks begin in `advance`."""
        now_ms = self._clock.monotonic_ms()
        found: dict[TaskId, list[TopicPartition]] = {}
        for where in partitions:
            sub = self._readers[where.topic]
            found.setdefault(TaskId(sub.id, where.partition), []).append(where)
        for task_id, its in sorted(found.items()):
            if task_id in self.tasks:
                raise TaskFailedError(f"Task {task_id} got more partitions while it runs: {', '.join(map(str, its))}.")
            task = EngineTask(task_id, self._sub_topology(task_id), its, now_ms)
            self.tasks[task_id] = task
            for where in task.partitions:
                self._by_partition[where] = task
            self._cluster.pause(task.partitions)
        self._turn = sorted(self.tasks)

    def on_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Others get these. All tasks of the transaction are committed, then the tasks that go are closed."""
        going = self._tasks_of(partitions)
        if any(task.phase is Phase.RUNNING for task in going):
            self.commit()
        for task in going:
            self._close(task)

    def on_lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Others may have these already: nothing is committed for them."""
        going = self._tasks_of(partitions)
        for task in going:
            # Closed first: an abort makes the operators of all that stay anew.
            self._close(task)
        if self._in_transaction:
            self._abort("partitions were lost")

    def close(self) -> None:
        """Hand everything over: commit, and let the stores go."""
        try:
            self.commit()
        finally:
            for task in list(self.tasks.values()):
                self._close(task)

    def abandon(self) -> None:
        """Let the stores go without a commit; for when the thread has failed."""
        if self._in_transaction:
            try:
                self._cluster.abort()
            except (Fenced, OutcomeUnknown, Refused) as error:
                logger.warning("the open transaction was not aborted: %s", error)
            self._in_transaction = False
        for task in list(self.tasks.values()):
            self._close(task)

    def _tasks_of(self, partitions: Iterable[TopicPartition]) -> list[EngineTask]:
        found = {task.id: task for where in partitions if (task := self._by_partition.get(where)) is not None}
        return [found[task_id] for task_id in sorted(found)]

    def _close(self, task: EngineTask) -> None:
        del self.tasks[task.id]
        for where in task.partitions:
            self._by_partition.pop(where, None)
        self._turn = sorted(self.tasks)
        self._restore_changed |= bool(task.restoring)
        try:
            if task.core is not None:
                task.core.close()
        finally:
            if task.state is not None:
                try:
                    if task.phase is Phase.RUNNING:
                        self._touch(task, force=True)
                    task.state.close()
                except StateError as error:
                    logger.warning("task %s: its store was not closed cleanly: %s", task.id, error)
                self._host.release(task.id)

    def _sub_topology(self, task_id: TaskId) -> SubTopology:
        return next(sub for sub in self._topology.sub_topologies if sub.id == task_id.sub_topology)

    # -- records ------------------------------------------------------------------------------------------------------

    def add(self, partition: TopicPartition, records: list[InputRecord]) -> None:
        """Records of a partition were read. More than `buffered.records.per.partition` pause it."""
        task = self._by_partition.get(partition)
        if task is None or task.queues is None:
            return  # given up between the fetch and here: whoever has it reads them
        task.queues.add(partition, records)
        if (
            task.queues.count(partition) >= self._settings.buffered_records_per_partition
            and partition not in task.paused
        ):
            task.paused.add(partition)
            self._cluster.pause([partition])

    def process(self, limit: int) -> int:
        """Take up to `limit` records, in turns of the tasks; commit when it is due. Return how many were taken."""
        taken = 0
        for task_id in self._turn:
            task = self.tasks.get(task_id)
            if task is None or task.phase is not Phase.RUNNING:
                continue
            try:
                taken += self._take_turn(task, min(_TURN, limit - taken))
            except (Refused, Fenced, OutcomeUnknown) as failure:
                self._on_failure(failure)
                break
            if taken >= limit:
                break
        self._turn = self._turn[1:] + self._turn[:1]
        return taken

    def _take_turn(self, task: EngineTask, limit: int) -> int:
        queues, core = task.queues, task.core
        assert queues is not None
        assert core is not None
        clock, lag = self._clock, self._cluster.lag
        now_ms = clock.monotonic_ms()
        taken = 0
        while taken < limit and queues.is_ready(now_ms, lag):
            record = queues.take()
            outputs = core.process(record)
            task.took(record)
            taken += 1
            after_ms = clock.monotonic_ms()
            if after_ms - now_ms > self._slowest[0]:
                self._slowest = (after_ms - now_ms, record)
            now_ms = after_ms
            if outputs:
                self._write(task, record, outputs)
            if (
                core.commit_requested
                or self._cautious
                or now_ms >= self._commit_ms
                or (taken % 64 == 0 and self._is_large())
            ):
                core.commit_requested = False
                self.commit()
                if task.phase is not Phase.RUNNING:
                    break
        if task.phase is Phase.RUNNING and self._is_large():
            self.commit()
        self._unpause(task)
        return taken

    def _is_large(self) -> bool:
        bound = self._settings.uncommitted_max_bytes
        return sum(task.state.uncommitted_bytes for task in self.tasks.values() if task.state is not None) > bound

    def _unpause(self, task: EngineTask) -> None:
        if task.phase is not Phase.RUNNING or not task.paused:
            return
        assert task.queues is not None
        room = [
            where
            for where in task.paused
            if task.queues.count(where) * 2 <= self._settings.buffered_records_per_partition
        ]
        if room:
            task.paused.difference_update(room)
            self._cluster.resume(room)

    def _write(self, task: EngineTask, record: InputRecord | None, outputs: Iterable[Output]) -> None:
        """Send what came of a record. A transaction begins here, at its first write."""
        if not self._in_transaction and self._settings.exactly_once:
            self._cluster.begin()
            self._in_transaction = True
            self._began_ms = self._clock.monotonic_ms()
            self._slowest = (0, None)
        task.wrote = True
        for index, output in enumerate(outputs):
            self._sent.append((task.id, record, index))
            self._cluster.send(output)
        if len(self._sent) >= _UNACKNOWLEDGED_MAX:
            self._await()

    def _await(self) -> None:
        for where, end in self._cluster.await_deliveries().items():
            self._ends[where] = max(end, self._ends.get(where, 0))
        self._sent.clear()

    def punctuate(self) -> None:
        """Fire what is due by the wall clock."""
        now_ms = self._clock.wall_ms()
        for task in list(self.tasks.values()):
            core = task.core
            if task.phase is not Phase.RUNNING or core is None:
                continue
            due = core.next_punctuation_ms
            if due is None or due > now_ms:
                continue
            try:
                outputs = core.punctuate(now_ms)
                # It may have changed stores without an output: then the offsets have to go along, too.
                if outputs or (task.state is not None and task.state.is_dirty):
                    self._write(task, None, outputs)
            except (Refused, Fenced, OutcomeUnknown) as failure:
                self._on_failure(failure)
                return

    def wait_ms(self, limit_ms: int) -> int:
        """Return how long the thread may wait for records now: until the next commit or punctuation, `limit_ms` at most."""
        if any(task.phase is not Phase.RUNNING for task in self.tasks.values()):
            return min(limit_ms, 10)
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.wall_ms()
        wait_ms = limit_ms
        if self._needs_commit():
            wait_ms = min(wait_ms, self._commit_ms - now_ms)
        for task in self.tasks.values():
            if task.core is not None and (due := task.core.next_punctuation_ms) is not None:
                wait_ms = min(wait_ms, due - wall_ms)
            if task.queues:
                wait_ms = min(wait_ms, max(self._settings.max_task_idle_ms, 5))
        return max(wait_ms, 0)

    # -- commits ------------------------------------------------------------------------------------------------------

    def _needs_commit(self) -> bool:
        return self._in_transaction or any(
            task.phase is Phase.RUNNING and (task.wrote or task.moved) for task in self.tasks.values()
        )

    def maybe_commit(self) -> None:
        """Commit if `commit.interval.ms` have passed, and purge what was read of repartition topics if that is due."""
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._commit_ms:
            self.commit()
        if now_ms >= self._purge_ms:
            self._purge_ms = now_ms + self._settings.repartition_purge_interval_ms
            self._purge()

    def commit(self) -> None:
        """Commit all tasks that run. If it cannot be committed, the tasks go back to the last commit instead.

        Raises:
            StateError: a store could not be written after the commit; the thread has to end.
        """
        try:
            self._commit()
        finally:
            # From its end: a commit that takes longer than the interval must not leave room for one record only.
            self._commit_ms = self._clock.monotonic_ms() + self._settings.commit_interval_ms

    def _commit(self) -> None:
        running = [task for task in self.tasks.values() if task.phase is Phase.RUNNING]
        try:
            for task in running:
                assert task.core is not None
                if task.wrote or task.moved or (task.state is not None and task.state.is_dirty):
                    outputs = task.core.flush()
                    if outputs:
                        self._write(task, None, outputs)
                self._move_past_markers(task)
            offsets = {
                where: each for task in running if task.wrote or task.moved for where, each in task.offsets().items()
            }
            if offsets:
                if self._settings.exactly_once and not self._in_transaction:
                    self._cluster.begin()
                    self._in_transaction = True
                self._await()
                self._cluster.commit(offsets)
        except (Refused, Fenced, OutcomeUnknown) as failure:
            self._on_failure(failure)
            return
        self._in_transaction = False
        self._cautious = False
        self._replays = 0
        self.commits += bool(offsets)
        self._commit_stores(running)

    def _move_past_markers(self, task: EngineTask) -> None:
        """Where nothing waits, what is committed is the position: behind control records and those that were aborted."""
        assert task.queues is not None
        for where in task.partitions:
            if task.queues.count(where):
                continue
            position = self._cluster.position(where)
            if position is not None and position > task.next_offsets.get(where, -1):
                task.next_offsets[where] = position

    def _commit_stores(self, running: Iterable[EngineTask]) -> None:
        """Move overlays and positions into the stores. All tasks are tried: their commit stands."""
        failed: StateError | None = None
        wall_ms = self._clock.wall_ms()
        for task in running:
            assert task.state is not None
            task.committed = dict(task.next_offsets)
            notes: dict[str, StoreNote] = {}
            for spec in task.stores_with_changelog:
                log = task.changelog_of(spec)
                note = task.notes[spec.name]
                position = self._ends.get(log, note.position)
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
                    self._touch(task)
            except StateError as error:
                failed = error
                logger.error("task %s: the commit stands, its store could not follow: %s", task.id, error)
        self._ends.clear()
        if failed is not None:
            raise failed

    def _touch(self, task: EngineTask, *, force: bool = False) -> None:
        """Note that a store without writes is current."""
        wall_ms = self._clock.wall_ms()
        old = {
            name: replace(note, committed_ms=wall_ms)
            for name, note in task.notes.items()
            if force or wall_ms - note.committed_ms > _TOUCH_MS
        }
        if old and task.state is not None and not task.state.is_dirty:
            task.state.commit(old)
            task.notes.update(old)

    def _purge(self) -> None:
        """Delete what was read of repartition topics, up to the last acknowledged commit and not a record further."""
        before = {
            where: offset
            for task in self.tasks.values()
            for where, offset in task.committed.items()
            if where.topic in self._topology.repartition_topics and offset > self._purged.get(where, 0)
        }
        if before:
            self._cluster.purge(before)
            self._purged.update(before)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _on_failure(self, failure: Exception) -> None:
        """The transaction cannot be committed: go back to the last commit."""
        self._replays += 1
        if self._replays > _REPLAYS_MAX:
            self.abandon()
            raise TaskFailedError(
                f"{_REPLAYS_MAX} transactions in a row could not be committed; the last: {failure}"
            ) from failure
        if isinstance(failure, Refused):
            for index, error in failure.outputs.items():
                task_id, record, place = self._sent[index]
                core = self.tasks[task_id].core
                if core is not None and record is not None:
                    core.refuse(record, place, error)
            self._abort(str(failure))
            return
        took_ms, record = self._slowest
        reason = str(failure)
        if isinstance(failure, Fenced) and record is not None and took_ms > 0.8 * self._settings.transaction_timeout_ms:
            reason = (
                f"the record at {record.topic}-{record.partition}, offset {record.offset}, took {took_ms / 1000:.1f} s, and "
                f"transaction.timeout.ms is {self._settings.transaction_timeout_ms / 1000:g} s; until it is through, each "
                "record has a transaction of its own"
            )
            self._cautious = True
        self._renew(reason)

    def _abort(self, reason: str) -> None:
        """Abort, and go on from what this process knows to be committed."""
        logger.warning("the transaction is aborted, and its records come again: %s", reason)
        if self._settings.exactly_once:
            try:
                if self._in_transaction:
                    self._cluster.abort()
            except (Fenced, OutcomeUnknown, Refused) as failure:
                self._renew(str(failure))
                return
        else:
            # Without a transaction the changelogs have what the stores have not: restore forward.
            self._renew(reason)
            return
        self.aborts += 1
        self._forget_transaction()
        for task in self.tasks.values():
            if task.phase is not Phase.RUNNING:
                continue
            assert task.state is not None
            assert task.core is not None
            task.core.rebuild()
            self._rewind(task)

    def _renew(self, reason: str) -> None:
        """Make a new producer, and start every task from what the cluster says is committed."""
        logger.warning("a new producer is made, and every task goes back to its last commit: %s", reason)
        self.aborts += 1
        self._forget_transaction()
        self._cluster.renew()
        for task in self.tasks.values():
            if task.phase is Phase.LOCKING:
                continue
            if task.phase is Phase.RUNNING:
                self._cluster.pause(task.partitions)
            if task.core is not None:
                task.core.close()
                task.core = None
            if task.queues is not None:
                task.queues.clear()
            task.restoring.clear()
            task.phase = Phase.OPEN
        self._restore_changed = True

    def _forget_transaction(self) -> None:
        self._in_transaction = False
        self._sent.clear()
        self._ends.clear()
        for task in self.tasks.values():
            task.wrote = False
            if task.state is not None:
                task.state.abort()

    def _rewind(self, task: EngineTask) -> None:
        assert task.queues is not None
        task.queues.clear()
        task.next_offsets = dict(task.committed)
        if task.paused:
            self._cluster.resume(task.paused)
            task.paused.clear()
        self._cluster.seek(task.committed)

    def on_out_of_range(self, error: OutOfRange) -> None:
        """The log does not have what is to be read next.

        Raises:
            TaskFailedError: of a repartition topic: records that no task has read are lost. Or of a source topic, where
                auto.offset.reset is none.
        """
        for where in error.partitions:
            if where.topic in self._topology.repartition_topics:
                raise TaskFailedError(
                    f"Records of the repartition topic {where} are gone that no task has read. Was it purged or made anew by "
                    "hand? `ottla streams reset` starts the application over."
                )
            reset = self._resets.get(where.topic) or self._settings.auto_offset_reset
            if reset not in ("earliest", "latest"):
                raise TaskFailedError(
                    f"{where} does not have the offset that is to be read next, and auto.offset.reset is none."
                )
            start, end = self._cluster.bounds(where)
            place = start if reset == "earliest" else end
            logger.warning(
                "%s: the offset to read next is gone; going on at %d (auto.offset.reset=%s)", where, place, reset
            )
            task = self._by_partition.get(where)
            if task is not None:
                task.next_offsets[where] = place
            self._cluster.seek({where: place})

    # -- beginning ----------------------------------------------------------------------------------------------------

    def advance(self, wait_ms: int = 0) -> None:
        """Bring tasks that do not run yet a step further: lock, open, restore, run.

        Raises:
            StateLockedError: a directory stayed locked for task.timeout.ms.
            TaskFailedError: a changelog is not there, or does not become stable.
        """
        if all(task.phase is Phase.RUNNING for task in self.tasks.values()) and not self._restore_changed:
            return
        for task in self.tasks.values():
            if task.phase is Phase.LOCKING:
                self._lock(task)
        opening = [task for task in self.tasks.values() if task.phase is Phase.OPEN]
        if opening:
            if self._in_transaction:
                self.commit()  # what follows may wait for other people's transactions
                opening = [task for task in self.tasks.values() if task.phase is Phase.OPEN]
            self._open(opening)
        if self._restore_changed:
            self._restore_changed = False
            self._cluster.restore_from(
                {where: each.note.position for task in self.tasks.values() for where, each in task.restoring.items()}
            )
        if any(task.phase is Phase.RESTORING for task in self.tasks.values()):
            self._restore(wait_ms)

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
        """Fetch stable offsets first, and the changelogs' ends after that: what the offsets mean lies before the ends."""
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
                    task.committed[where] = self._first_offset(where)
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
            self._restore_changed |= bool(task.restoring)
            if not task.restoring:
                self._run(task)

    def _first_offset(self, where: TopicPartition) -> int:
        """Where a partition begins of which nothing is committed."""
        reset = self._resets.get(where.topic) or self._settings.auto_offset_reset
        if where.topic in self._topology.repartition_topics:
            reset = "earliest"
        if reset not in ("earliest", "latest"):
            raise TaskFailedError(f"Nothing is committed for {where}, and auto.offset.reset is none.")
        start, end = self._cluster.bounds(where)
        return start if reset == "earliest" else end

    def _restore(self, wait_ms: int) -> None:
        found = self._cluster.restored(wait_ms)
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.wall_ms()
        for task in list(self.tasks.values()):
            if task.phase is not Phase.RESTORING:
                continue
            assert task.state is not None
            notes: dict[str, StoreNote] = {}
            for where, each in list(task.restoring.items()):
                records, position = found.get(where, ((), each.note.position))
                spec = each.store
                apply = each.restorer.apply
                for record in records:
                    if not spec.source_changelog or record.offset < each.end:
                        apply(record.key, record.value, record.timestamp, record.headers)
                if position > each.note.position:
                    if spec.source_changelog:
                        position = min(position, each.end)
                    each.note = notes[spec.name] = replace(each.note, position=position, committed_ms=wall_ms)
                    each.still_since_ms = now_ms
                elif now_ms - each.still_since_ms > self._settings.transaction_timeout_ms + _LSO_MARGIN_MS:
                    raise TaskFailedError(
                        f"The changelog {where} does not become stable: at offset {position} of {each.end} a transaction is "
                        f"open for longer than transaction.timeout.ms. `ottla doctor` and Kafka's kafka-transactions.sh show "
                        "whose it is."
                    )
                if each.note.position >= each.end:
                    each.restorer.finish()
                    del task.restoring[where]
                    self._restore_changed = True
            if notes:
                task.state.commit(notes)
                task.notes.update(notes)
            if not task.restoring:
                self._run(task)

    def _run(self, task: EngineTask) -> None:
        assert task.state is not None
        core = task.core = self._make_task(task.sub_topology, task.id.partition, task.state.stores)
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
        self._rewind(task)
        self._cluster.resume(task.partitions)
