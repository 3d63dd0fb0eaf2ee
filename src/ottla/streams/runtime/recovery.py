"""What becomes of the tasks of a stream thread when their transaction cannot be committed.

Whatever ends a transaction otherwise ends the memory of all tasks in it: overlays are dropped, operators made anew from
committed state, and the records since the last commit come again. After Refused the stores and offsets that this process
knows are right, and it goes on from them. After Fenced or OutcomeUnknown only the cluster knows: a new producer settles the
outcome, and every task asks for committed offsets and restores, as at its start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from ottla.streams.runtime.engine_settings import EngineSettings
from ottla.streams.runtime.ports import Cluster, Fenced, OutcomeUnknown, Refused, TaskFailedError
from ottla.streams.runtime.starting import Starter
from ottla.streams.runtime.tasks import EngineTask, Phase
from ottla.streams.runtime.transaction import Transaction
from ottla.streams.topology import TaskId

logger: logging.Logger = logging.getLogger(__name__)

#: Transactions in a row that may fail for the same input.
_REPLAYS_MAX: Final = 8


class Recovery:
    """Brings the tasks of one stream thread back to their last commit.

    Attributes:
        aborts: how many.
        is_cautious: commit after each record: what was aborted because a record took too long is tried so.
    """

    def __init__(
        self,
        tasks: Mapping[TaskId, EngineTask],
        settings: EngineSettings,
        cluster: Cluster,
        transaction: Transaction,
        starter: Starter,
    ) -> None:
        self.aborts: int = 0
        self.is_cautious: bool = False
        self._tasks = tasks
        self._settings = settings
        self._cluster = cluster
        self._transaction = transaction
        self._starter = starter
        self._replays = 0

    def on_committed(self) -> None:
        """A transaction was committed."""
        self.is_cautious = False
        self._replays = 0
        for task in self._tasks.values():
            if task.core is not None:
                task.core.with_runs()

    def on_failure(self, failure: Exception) -> None:
        """The transaction cannot be committed: go back to the last commit.

        Raises:
            TaskFailedError: too many in a row could not.
        """
        self._replays += 1
        if self._replays > _REPLAYS_MAX:
            raise TaskFailedError(
                f"{_REPLAYS_MAX} transactions in a row could not be committed; the last: {failure}"
            ) from failure
        if isinstance(failure, Refused):
            for index, error in failure.outputs.items():
                task_id, record, place = self._transaction.source_of(index)
                core = self._tasks[task_id].core
                if core is not None:
                    if record is not None:
                        core.refuse(record, place, error)
                    else:
                        core.without_runs()
            self.abort(str(failure))
            return
        took_ms, record = self._transaction.slowest
        reason = str(failure)
        if isinstance(failure, Fenced) and record is not None and took_ms > 0.8 * self._settings.transaction_timeout_ms:
            reason = (
                f"the record at {record.topic}-{record.partition}, offset {record.offset}, took {took_ms / 1000:.1f} s, and "
                f"transaction.timeout.ms is {self._settings.transaction_timeout_ms / 1000:g} s; until it is through, each "
                "record has a transaction of its own"
            )
            self.is_cautious = True
        self._renew(reason)

    def abort(self, reason: str) -> None:
        """Abort, and go on from what this process knows to be committed."""
        logger.warning("the transaction is aborted, and its records come again: %s", reason)
        if self._settings.exactly_once:
            try:
                if self._transaction.is_open:
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
        for task in self._tasks.values():
            if task.phase is not Phase.RUNNING:
                continue
            assert task.state is not None
            assert task.core is not None
            task.core.rebuild()
            self._starter.rewind(task)

    def _renew(self, reason: str) -> None:
        """Make a new producer, and start every task from what the cluster says is committed."""
        logger.warning("a new producer is made, and every task goes back to its last commit: %s", reason)
        self.aborts += 1
        self._forget_transaction()
        self._cluster.renew()
        for task in self._tasks.values():
            if task.phase is Phase.LOCKING:
                continue
            if task.phase is Phase.RUNNING:
                self._cluster.pause(task.partitions)
            if task.core is not None:
                task.core.close()
                task.core = None
            if task.queues is not None:
                task.queues.clear()
            if task.state is not None:
                task.drop_restored()
            task.phase = Phase.OPEN
        self._starter.restore_changed = True

    def _forget_transaction(self) -> None:
        self._transaction.forget()
        for task in self._tasks.values():
            task.wrote = False
            # What a task has restored so far is no part of the transaction.
            if task.state is not None and task.phase is Phase.RUNNING:
                task.state.abort()
