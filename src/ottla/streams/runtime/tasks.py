"""One task as the engine has it: its phase, what waits for it, how far it has come, what it has committed."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ottla.streams.context import InputRecord
from ottla.streams.restoring import Restorer
from ottla.streams.runtime.ports import Committed
from ottla.streams.runtime.queues import TaskQueues
from ottla.streams.state.homes import StoreNote
from ottla.streams.state.overlay import TaskState
from ottla.streams.task import Task
from ottla.streams.topology import StoreSpec, SubTopology, TaskId
from ottla.types import TopicPartition

#: Java keeps the partition's time beside an offset: version 1, int64.
_METADATA: Final = struct.Struct(">bq")


class Phase(Enum):
    """What a task is waiting for.

    LOCKING: its directory. OPEN: committed offsets and a look at its changelogs. RESTORING: the end of its changelogs.
    RUNNING: records.
    """

    LOCKING = "waits for its state directory"
    OPEN = "opens"
    RESTORING = "restores"
    RUNNING = "runs"


@dataclass(slots=True)
class Restoring:
    """One store that is being restored: it is done when its position has reached `end`."""

    store: StoreSpec
    restorer: Restorer
    note: StoreNote
    start: int
    end: int
    #: Since when the position has not moved (monotonic ms).
    still_since_ms: int
    #: Whether the broker has said since then that nothing more may be read.
    is_stuck: bool = False


class EngineTask:
    """One task of a stream thread.

    Attributes:
        partitions: that it reads, sorted.
        next_offsets: by partition, the offset behind the last record that it took; what it would commit.
        committed: by partition, what the last acknowledged commit says.
        partition_times: by partition, the largest timestamp it took; travels with the offsets.
        wrote: whether it has sent anything since the last commit.
        restoring: by changelog partition.
        notes: by store, how far the store is, as of the last commit.
        unwritten: by store, how far restoring has come that is not in the store yet, but above it.
    """

    def __init__(
        self, task_id: TaskId, sub_topology: SubTopology, partitions: list[TopicPartition], now_ms: int
    ) -> None:
        self.id = task_id
        self.sub_topology = sub_topology
        self.partitions: list[TopicPartition] = sorted(partitions)
        self.phase = Phase.LOCKING
        self.since_ms = now_ms
        self.state: TaskState | None = None
        self.core: Task | None = None
        self.queues: TaskQueues | None = None
        self.next_offsets: dict[TopicPartition, int] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.partition_times: dict[TopicPartition, int] = {}
        self.wrote = False
        self.paused: set[TopicPartition] = set()
        self.restoring: dict[TopicPartition, Restoring] = {}
        self.notes: dict[str, StoreNote] = {}
        self.unwritten: dict[str, StoreNote] = {}
        self.written_ms: int = now_ms

    def write_restored(self, now_ms: int) -> None:
        """Move what was restored into the stores, with the positions that it stands for."""
        assert self.state is not None
        if self.unwritten:
            self.state.commit(self.unwritten)
            self.notes.update(self.unwritten)
            self.unwritten.clear()
        self.written_ms = now_ms

    def drop_restored(self) -> None:
        """Forget what was restored and is not in the stores: it is read again."""
        assert self.state is not None
        self.state.abort()
        self.unwritten.clear()
        self.restoring.clear()

    @property
    def stores_with_changelog(self) -> list[StoreSpec]:
        """Those that are restored."""
        return [spec for spec in self.sub_topology.stores if spec.changelog is not None]

    def changelog_of(self, spec: StoreSpec) -> TopicPartition:
        """Return the partition of its changelog that a store of this task has."""
        assert spec.changelog is not None
        return TopicPartition(spec.changelog, self.id.partition)

    def took(self, record: InputRecord) -> None:
        """The record that was taken last was processed."""
        assert self.queues is not None
        where = self.queues.taken_from
        self.next_offsets[where] = record[2] + 1
        timestamp = record[3]
        if timestamp > self.partition_times.get(where, -1):
            self.partition_times[where] = timestamp

    @property
    def moved(self) -> bool:
        """Whether it has come further than what is committed."""
        return self.next_offsets != self.committed

    def offsets(self) -> dict[TopicPartition, Committed]:
        """Return what is to be committed for it: the offsets of all its partitions, changed or not."""
        return {
            where: (offset, write_time(self.partition_times.get(where, -1)))
            for where, offset in self.next_offsets.items()
        }


def write_time(timestamp_ms: int) -> str:
    """Return a partition's time as Kafka Streams keeps it beside an offset."""
    return base64.b64encode(_METADATA.pack(1, timestamp_ms)).decode() if timestamp_ms >= 0 else ""


def read_time(text: str) -> int:
    """Return a partition's time in ms; -1 if there is none, or what is there cannot be read."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return -1
    if len(data) < _METADATA.size or data[0] not in (1, 2):
        return -1
    return int(_METADATA.unpack_from(data)[1])


def progress(tasks: Mapping[TaskId, EngineTask]) -> tuple[int, int]:
    """Return (records restored, records to restore) of all tasks that restore now; by offsets, so markers count."""
    done = total = 0
    for task in tasks.values():
        for each in task.restoring.values():
            total += max(each.end - each.start, 0)
            done += max(min(each.note.position, each.end) - each.start, 0)
    return done, total


def copied_stores(sub_topology: SubTopology) -> list[StoreSpec]:
    """Return the stores that a copy on another instance has: those with a changelog of their own."""
    return [spec for spec in sub_topology.stores if spec.changelog is not None and not spec.source_changelog]


def position_of(notes: Iterable[StoreNote]) -> int:
    """Return how far stores are, as one number: what members compare their copies by."""
    return sum(note.position for note in notes)
