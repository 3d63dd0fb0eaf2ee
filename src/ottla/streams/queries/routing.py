"""Which task has the rows that are asked for, and where it runs. Knows the topology and the last assignment; no network."""

from __future__ import annotations

from collections.abc import Mapping

from ottla.streams.errors import QuestionError, UnknownStoreError
from ottla.streams.queries.answers import Question
from ottla.streams.queries.rows import ASKABLE, KEY_VALUE_KINDS
from ottla.streams.serdes import partition_of
from ottla.streams.topology import StoreSpec, SubTopology, TaskId, Topology


class Routes:
    """See the module. For any thread.

    Args:
        counts: the number of partitions of each topic that is read.
        endpoint: this instance's, "host:port"; "" if it has none.
    """

    def __init__(self, topology: Topology, counts: Mapping[str, int], endpoint: str) -> None:
        self.endpoint = endpoint
        self._counts = dict(counts)
        self._stores: dict[str, tuple[SubTopology, StoreSpec]] = {
            spec.name: (sub, spec)
            for sub in topology.tasks
            for spec in sub.stores
            if spec.kind in ASKABLE and not spec.retain_duplicates
        }
        #: By task, the endpoint of its owner. Replaced as a whole.
        self.owners: Mapping[str, str] = {}

    def stores(self) -> Mapping[str, StoreSpec]:
        """Return what can be asked, by name."""
        return {name: spec for name, (_, spec) in self._stores.items()}

    def spec(self, store: str) -> StoreSpec:
        """Return a store.

        Raises:
            UnknownStoreError: there is none of that name.
        """
        try:
            return self._stores[store][1]
        except KeyError:
            names = ", ".join(sorted(self._stores)) or "none"
            raise UnknownStoreError(f"There is no store {store!r} to ask; there are: {names}.") from None

    def tasks_for(self, question: Question) -> list[TaskId]:
        """Return the task that has a key, or all tasks of the store for a range.

        Raises:
            UnknownStoreError, QuestionError.
        """
        spec = self.spec(question.store)
        sub = self._stores[question.store][0]
        count = max(self._counts.get(topic, 0) for topic in sub.source_topics)
        if question.partition is not None:
            if not 0 <= question.partition < count:
                raise QuestionError(f"{question.store} has partitions 0 to {count - 1}, and no {question.partition}.")
            return [TaskId(sub.id, question.partition)]
        if question.key is not None:
            return [TaskId(sub.id, partition_of(question.key, count))]
        if spec.kind not in KEY_VALUE_KINDS:
            raise QuestionError(f"{question.store} holds windows: ask for the windows of one key.")
        return [TaskId(sub.id, partition) for partition in range(count)]

    def owner_of(self, task: TaskId) -> str | None:
        """Return the endpoint of a task's owner, if that is another instance and its endpoint is known."""
        found = self.owners.get(str(task))
        return None if not found or found == self.endpoint else found
