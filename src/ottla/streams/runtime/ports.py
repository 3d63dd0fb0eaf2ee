"""What the engine asks of the world: a cluster, and a place for the state of its tasks. Tests put models behind both.

A call that fails says what that means for the transaction; nothing else about the network reaches the engine:

    Refused          the transaction can be aborted; then the same records are tried again
    Fenced           another producer has this one's transactional id, or the coordinator gave the transaction up
    OutcomeUnknown   nobody can say whether the transaction was committed

The last two end the producer: only `renew` helps, and after it the committed offsets say what has happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ottla.streams.context import InputRecord, Output
from ottla.streams.errors import StreamsError
from ottla.streams.state.currency import Changelog
from ottla.streams.state.homes import StoreNote
from ottla.streams.state.overlay import TaskState
from ottla.streams.topology import SubTopology, TaskId
from ottla.types import TopicPartition


class TaskFailedError(StreamsError):
    """The thread cannot go on. The text says which task, and why."""


class Refused(Exception):
    """Nothing of this transaction is committed: it can be aborted, and its records come again.

    Attributes:
        outputs: by their place in the order of `send` since the transaction began: those that the broker did not take.
    """

    def __init__(self, reason: str, outputs: Mapping[int, Exception] | None = None) -> None:
        super().__init__(reason)
        self.outputs: dict[int, Exception] = dict(outputs or {})


class Fenced(Exception):
    """The producer can do nothing any more; its transaction is aborted or will be."""


class OutcomeUnknown(Exception):
    """No answer to a commit or an abort."""


class OutOfRange(Exception):
    """The log does not have the position of these partitions any more.

    Attributes:
        partitions: all of them.
        parted: where that is known, the offset at which the log parts from what was read: records behind it were read, and
            the log has lost them, or has others in their place (KIP-320).
    """

    def __init__(
        self, partitions: Sequence[TopicPartition], parted: Mapping[TopicPartition, int] | None = None
    ) -> None:
        super().__init__(", ".join(map(str, partitions)))
        self.partitions: list[TopicPartition] = list(partitions)
        self.parted: dict[TopicPartition, int] = dict(parted or {})


#: An offset, and the text that is kept beside it.
Committed = tuple[int, str]


class Cluster(Protocol):
    """One stream thread's way to the cluster: a producer, the member of a group, a reader of changelogs."""

    # The producer. Without transactions `begin` and `abort` do nothing.

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def send(self, outputs: Sequence[Output]) -> None:
        """Have records written, in the order of the calls. Raises Refused, Fenced."""
        ...

    def await_deliveries(self) -> dict[TopicPartition, int]:
        """Wait until every record sent since the last commit or abort is acknowledged.

        Returns:
            By partition, the offset behind the last of them. Raises Refused, Fenced.
        """
        ...

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit offsets as the group's present member and, with transactions, what was sent. Raises all three."""
        ...

    def abort(self) -> None:
        """Abort. Raises Fenced, OutcomeUnknown."""
        ...

    def renew(self) -> None:
        """Make a new producer of the same transactional id. When this returns, the old one's outcome is settled."""
        ...

    # Partitions that are read.

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        """Return what the group has committed, once no transaction can change it any more (require_stable)."""
        ...

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the first offset and the one behind the last record that may be read now."""
        ...

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read on there; what was fetched and not taken is dropped."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Go on with these."""
        ...

    def position(self, partition: TopicPartition) -> int | None:
        """Return the offset behind what was handed out, control records passed over; None while it is not known."""
        ...

    def lag(self, partition: TopicPartition) -> int | None:
        """Return how many offsets there are behind the position, as of the last answer; None while it is not known."""
        ...

    def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete records of repartition topics. Failures are the implementation's to log: it is tried again."""
        ...

    # Changelogs.

    def changelogs(self, partitions: Mapping[TopicPartition, StoreNote | None]) -> dict[TopicPartition, Changelog]:
        """Describe changelogs; `end` counts uncommitted records. Raises LookupError, naming one that is not there."""
        ...

    def restore_from(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read exactly these changelog partitions from now on, committed records only; those known keep their position."""
        ...

    def restored(self, wait_ms: int, limit: int) -> dict[TopicPartition, tuple[Sequence[InputRecord], int]]:
        """Return what came of the changelogs that are read, and the position behind it, control records passed over.

        Args:
            limit: of records, all partitions together.

        Raises OutOfRange.
        """
        ...


class StateHost(Protocol):
    """Where the stores of this process's tasks are."""

    def open(self, task: TaskId, sub_topology: SubTopology) -> TaskState:
        """Return a task's stores.

        Raises:
            StateLockedError: another process still has them; try again.
            StateCorruptError: what is there cannot be used: `wipe`, and try again.
        """
        ...

    def wipe(self, task: TaskId) -> None:
        """Remove a task's stores."""
        ...

    def release(self, task: TaskId) -> None:
        """Let a task's stores go, after its state was closed."""
        ...
