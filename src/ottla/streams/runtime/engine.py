"""The tasks of one stream thread: restore, process, commit, abort, hand over. Decides; the `Cluster` and the `StateHost` act.

One transaction holds what all tasks of the thread have written since the last commit, and the offsets of each task that
wrote or moved (no offsets, no fence). The steps of a commit, and what a kill after each of them leaves behind:

    flush     operators write what they hold back          the transaction is open: it will be aborted
    await     every record is acknowledged                 the same
    offsets   as the group's present member                the same
    commit    EndTxn is answered                           changelog and offsets are ahead of the stores: restoring mends it
    stores    overlay and positions, one step a task       nothing is missing

Sources: KIP-447 (one producer a thread), KIP-892 (transactional state), Kafka Streams' TaskManager and StreamTask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from ottla.clock import Clock
from ottla.streams.context import InputRecord
from ottla.streams.runtime.committing import Committer, touch
from ottla.streams.runtime.engine_settings import EngineSettings
from ottla.streams.runtime.first_offsets import FirstOffsets
from ottla.streams.runtime.ports import Cluster, Fenced, OutcomeUnknown, OutOfRange, Refused, StateHost, TaskFailedError
from ottla.streams.runtime.purging import Purge
from ottla.streams.runtime.recovery import Recovery
from ottla.streams.runtime.standbys import Standbys
from ottla.streams.runtime.starting import MakeTask, Starter
from ottla.streams.runtime.tasks import EngineTask, Phase
from ottla.streams.runtime.transaction import Transaction
from ottla.streams.state.homes import StateError
from ottla.streams.topology import SubTopology, TaskId, Topology
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)

#: How long the thread waits for records while calls are in flight.
_CALLS_MS: Final = 5
#: Records that one task takes before the next one has its turn.
_TURN: Final = 200


class Engine:
    """See the module.

    Attributes:
        tasks: by id.
        standbys: copies of other threads' tasks.
        commits: how many.
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
        self.commits: int = 0
        self._topology = topology
        self._settings = settings
        self._cluster = cluster
        self._host = host
        self._clock = clock
        now_ms = clock.monotonic_ms()
        self._transaction = Transaction(cluster, clock, exactly_once=settings.exactly_once)
        self._first_offsets = FirstOffsets(topology, cluster, settings.auto_offset_reset)
        self._committer = Committer(self._transaction, cluster, clock)
        self.standbys: Standbys = Standbys(topology.tasks, settings, cluster, host, clock)
        self._starter = Starter(
            *(self.tasks, settings, cluster, host, make_task, self._first_offsets, self.standbys, clock)
        )
        self._recovery = Recovery(self.tasks, settings, cluster, self._transaction, self._starter)
        self._purge = Purge(cluster, topology.repartition_topics, settings.repartition_purge_interval_ms, now_ms)
        self._readers = {topic: sub for sub in topology.tasks for topic in sub.source_topics}
        self._by_partition: dict[TopicPartition, EngineTask] = {}
        self._turn: list[TaskId] = []
        self._commit_ms = now_ms + settings.commit_interval_ms
        #: A commit is due, and waits until no call of `map_async` is in flight: until then nothing is taken or fired.
        self._draining = False

    @property
    def in_flight(self) -> int:
        """How many records wait for a call of `map_async`."""
        return sum(task.core.in_flight for task in self.tasks.values() if task.core is not None)

    @property
    def aborts(self) -> int:
        """How many transactions were aborted."""
        return self._recovery.aborts

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
            task.state = self.standbys.promote(task_id)
            if task.state is not None:
                task.phase = Phase.OPEN
            self.tasks[task_id] = task
            for where in task.partitions:
                self._by_partition[where] = task
            self._cluster.pause(task.partitions)
        self._turn = sorted(self.tasks)

    def on_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Others get these. All tasks of the transaction are committed, then the tasks that go are closed."""
        going = self._tasks_of(partitions)
        if any(task.phase is Phase.RUNNING for task in going) and not self.commit():
            # What calls that are in flight would bring is dropped; their records come again.
            self._draining = False
            self._recovery.abort("partitions were revoked while calls of map_async were in flight")
        for task in going:
            self._close(task)

    def on_lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Others may have these already: nothing is committed for them."""
        going = self._tasks_of(partitions)
        for task in going:
            # Closed first: an abort makes the operators of all that stay anew.
            self._close(task)
        if self._transaction.is_open:
            self._recovery.abort("partitions were lost")

    def close(self) -> None:
        """Hand everything over: commit, and let the stores go. Records whose calls are in flight come again."""
        try:
            if not self.commit():
                self._recovery.abort("calls of map_async were in flight at the end")
        finally:
            for task in list(self.tasks.values()):
                self._close(task)
            self.standbys.close()

    def abandon(self) -> None:
        """Let the stores go without a commit; for when the thread has failed."""
        if self._transaction.is_open:
            try:
                self._cluster.abort()
            except (Fenced, OutcomeUnknown, Refused) as error:
                logger.warning("the open transaction was not aborted: %s", error)
            self._transaction.is_open = False
        for task in list(self.tasks.values()):
            self._close(task)
        self.standbys.close()

    def _tasks_of(self, partitions: Iterable[TopicPartition]) -> list[EngineTask]:
        found = {task.id: task for where in partitions if (task := self._by_partition.get(where)) is not None}
        return [found[task_id] for task_id in sorted(found)]

    def _close(self, task: EngineTask) -> None:
        del self.tasks[task.id]
        for where in task.partitions:
            self._by_partition.pop(where, None)
        self._turn = sorted(self.tasks)
        self._starter.restore_changed |= bool(task.restoring)
        try:
            if task.core is not None:
                task.core.close()
        finally:
            if task.state is not None:
                try:
                    if task.phase is Phase.RESTORING:
                        task.write_restored(self._clock.monotonic_ms())
                    if task.phase is Phase.RUNNING:
                        touch(task, self._clock.wall_ms(), force=True)
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
        was_draining = self._draining
        taken = self.collect()
        if was_draining and not self._draining:
            self.punctuate()  # what was due has waited, too
        while taken < limit and not self._draining:
            before = taken
            for task_id in self._turn:
                task = self.tasks.get(task_id)
                if task is None or task.phase is not Phase.RUNNING:
                    continue
                try:
                    taken += self._take_turn(task, min(_TURN, limit - taken))
                except (Refused, Fenced, OutcomeUnknown) as failure:
                    self._on_failure(failure)
                    return taken
                if taken >= limit or self._draining:
                    break
            self._turn = self._turn[1:] + self._turn[:1]
            if taken == before:
                break
        return taken

    def collect(self) -> int:
        """Let records go on whose calls came back; commit if that was waited for. Return how many did."""
        count = 0
        try:
            for task in self.tasks.values():
                core = task.core
                if task.phase is not Phase.RUNNING or core is None or not core.in_flight:
                    continue
                before = core.in_flight
                for record, first_place, outputs in core.collect():
                    self._transaction.write(task, record, outputs, first_place)
                count += max(before - core.in_flight, 0)
        except (Refused, Fenced, OutcomeUnknown) as failure:
            self._on_failure(failure)
            return count
        if self._draining and not self.in_flight:
            self.commit()
        return count

    def _take_turn(self, task: EngineTask, limit: int) -> int:
        queues, core = task.queues, task.core
        assert queues is not None
        assert core is not None
        clock, lag = self._clock, self._cluster.lag
        transaction, recovery = self._transaction, self._recovery
        monotonic_ms, is_ready, take, process, took = (
            *(clock.monotonic_ms, queues.is_ready, queues.take, core.process, task.took),
        )
        now_ms = monotonic_ms()
        taken = 0
        has_calls = core.has_calls
        while taken < limit and not (has_calls and core.is_full) and is_ready(now_ms, lag):
            record = take()
            #: None: several records have made the outputs.
            maker: InputRecord | None = record
            if core.has_runs and core.takes_runs(record.topic) and not recovery.is_cautious:
                run = [record, *queues.take_more(limit - taken - 1)]
                outputs = core.process_run(run)
                for record in run:
                    took(record)
                taken += len(run)
                maker = record if len(run) == 1 else None
            else:
                outputs = process(record)
                took(record)
                taken += 1
            after_ms = monotonic_ms()
            if after_ms > now_ms:
                transaction.took(after_ms - now_ms, record)
                now_ms = after_ms
            if outputs:
                transaction.write(task, maker, outputs)
            if (
                core.commit_requested
                or recovery.is_cautious
                or now_ms >= self._commit_ms
                or ((taken % 64 == 0 or maker is None) and self._is_large())
            ):
                core.commit_requested = False
                if not self.commit() or task.phase is not Phase.RUNNING:
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

    def punctuate(self) -> None:
        """Fire what is due by the wall clock. It waits while a commit waits for calls: it may begin others."""
        if self._draining:
            return
        now_ms = self._clock.wall_ms()
        for task in list(self.tasks.values()):
            core = task.core
            if task.phase is not Phase.RUNNING or core is None:
                continue
            if core.follows_idleness and self._expects_records(task):
                core.on_records_due(now_ms)
            due = core.next_punctuation_ms
            if due is None or due > now_ms:
                continue
            try:
                outputs = core.punctuate(now_ms)
                # It may have changed stores without an output: then the offsets have to go along, too.
                if outputs or (task.state is not None and task.state.is_dirty):
                    self._transaction.write(task, None, outputs)
            except (Refused, Fenced, OutcomeUnknown) as failure:
                self._on_failure(failure)
                return

    def _expects_records(self, task: EngineTask) -> bool:
        """Whether records of a task wait, or may be on their way: then it is busy, or cut off, and not idle."""
        return bool(task.queues) or any(self._cluster.lag(where) != 0 for where in task.partitions)

    def wait_ms(self, limit_ms: int) -> int:
        """Return how long the thread may wait for records now: until the next commit or punctuation, `limit_ms` at most."""
        if any(task.phase is not Phase.RUNNING for task in self.tasks.values()):
            return min(limit_ms, 10)
        if self.standbys.is_behind:
            return 0
        if self.in_flight:
            return min(limit_ms, _CALLS_MS)
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
        return self._transaction.is_open or any(
            task.phase is Phase.RUNNING and (task.wrote or task.moved) for task in self.tasks.values()
        )

    def maybe_commit(self) -> None:
        """Commit if `commit.interval.ms` have passed, and purge what was read of repartition topics if that is due."""
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._commit_ms:
            self.commit()
        self._purge.maybe_purge(self.tasks.values(), now_ms)

    def commit(self) -> bool:
        """Commit all tasks that run. If it cannot be committed, the tasks go back to the last commit instead.

        Returns:
            False: calls are in flight, and nothing was committed. It is, and nothing is taken before, when they came back.

        Raises:
            StateError: a store could not be written after the commit; the thread has to end.
        """
        began_ms = self._clock.monotonic_ms()
        self._draining = True
        try:
            if not self._commit():
                return False
            self._draining = False
            return True
        finally:
            # From its end, and after as much time as it took: where commits are slow, half of the time is left for records.
            now_ms = self._clock.monotonic_ms()
            slack_ms = min(now_ms - began_ms, self._settings.transaction_timeout_ms // 4)
            self._commit_ms = now_ms + max(self._settings.commit_interval_ms, slack_ms)

    def _commit(self) -> bool:
        running = [task for task in self.tasks.values() if task.phase is Phase.RUNNING]
        if self.in_flight:
            return False
        try:
            self._committer.flush(running)
            if self.in_flight:
                return False
            committed = self._committer.commit(running)
        except (Refused, Fenced, OutcomeUnknown) as failure:
            self._on_failure(failure)
            return True
        if committed:
            self._recovery.on_committed()
        self.commits += committed
        self._committer.commit_stores(running)
        for task in running:
            if task.core is not None:
                task.core.on_committed()
        return True

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _on_failure(self, failure: Exception) -> None:
        self._draining = False
        try:
            self._recovery.on_failure(failure)
        except TaskFailedError:
            self.abandon()
            raise

    def on_out_of_range(self, error: OutOfRange) -> None:
        """The log does not have what is to be read next.

        Raises:
            TaskFailedError: of a repartition topic: records that no task has read are lost. Or of a source topic, where
                auto.offset.reset is none.
        """
        for where, place in self._first_offsets.where_it_is_gone(error).items():
            task = self._by_partition.get(where)
            if task is not None:
                task.next_offsets[where] = place
            self._cluster.seek({where: place})

    # -- beginning ----------------------------------------------------------------------------------------------------

    def advance(self, wait_ms: int = 0) -> None:
        """Bring tasks that do not run yet a step further: lock, open, restore, run; and copies, while none restores.

        Raises:
            StateLockedError: a directory stayed locked for task.timeout.ms.
            TaskFailedError: a changelog is not there, or does not become stable.
        """
        self.standbys.arrange(self.tasks.keys())
        if self._starter.lock() and self._transaction.is_open and not self.commit():
            return  # what follows may wait for other people's transactions
        self._starter.start(wait_ms)
