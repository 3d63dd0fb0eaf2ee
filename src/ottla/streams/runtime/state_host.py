"""The engine's `StateHost`: task directories of this machine, with a lock each."""

from __future__ import annotations

from collections.abc import Callable

from ottla.client.errors import ConfigurationError
from ottla.streams.runtime.tasks import copied_stores, position_of
from ottla.streams.state.directory import StateDirectory
from ottla.streams.state.homes import Home, StateError, StoreNote
from ottla.streams.state.memory import MemoryHome
from ottla.streams.state.overlay import TaskState
from ottla.streams.state.rocksdb import FOLDER_NAME, RocksHome, notes_on_disk
from ottla.streams.state.sqlite import FILE_NAME, SqliteHome, SqliteReader
from ottla.streams.topology import StoreKind, StoreSpec, SubTopology, TaskId, Topology


class DirectoryHost:
    """Stores of this process's tasks in a state directory.

    Args:
        default_store: the home of stores that do not name one.
        on_change: called with the homes of a task after it was opened (by kind of home), and with None when it is let go.
    """

    def __init__(
        self,
        directory: StateDirectory,
        default_store: str,
        on_change: Callable[[TaskId, dict[str, Home] | None], object] = lambda task, homes: None,
    ) -> None:
        self._directory = directory
        self._default = default_store
        self._on_change = on_change

    def open(self, task: TaskId, sub_topology: SubTopology) -> TaskState:
        """See `ports.StateHost`."""
        if not sub_topology.stores:
            return TaskState({})
        path = self._directory.lock_task(str(task))
        kinds: dict[str, Home] = {}
        homes: dict[str, Home] = {}
        try:
            # Durable homes first: `TaskState` commits in this order.
            for spec in sorted(sub_topology.stores, key=lambda spec: self._kind_of(spec) == "memory"):
                kind = self._kind_of(spec)
                if kind not in kinds:
                    match kind:
                        case "memory":
                            kinds[kind] = MemoryHome()
                        case "sqlite":
                            kinds[kind] = SqliteHome(path, boot_id=self._directory.boot_id)
                        case "rocksdb":
                            kinds[kind] = RocksHome(path, boot_id=self._directory.boot_id)
                        case _:
                            raise ConfigurationError(
                                f"There is no home {kind!r} for stores: sqlite, rocksdb or memory."
                            )
                homes[spec.name] = kinds[kind]
                kinds[kind].open_table(spec.name, store_kind(spec))
        except BaseException:
            for home in kinds.values():
                home.close(clean=False)
            raise
        self._on_change(task, homes)
        return TaskState(homes)

    def _kind_of(self, spec: StoreSpec) -> str:
        if spec.kind is StoreKind.TIMES and self._default == "memory":
            return "memory"
        return self._default if spec.home == "default" else spec.home

    def wipe(self, task: TaskId) -> None:
        """See `ports.StateHost`."""
        self._directory.wipe_task(str(task))

    def release(self, task: TaskId) -> None:
        """See `ports.StateHost`."""
        self._on_change(task, None)
        self._directory.release_task(str(task))


def store_kind(spec: StoreSpec) -> str:
    """Return what the bytes of a store mean, in words: another meaning under the same name is refused."""
    words = [spec.kind.value]
    if spec.retention_ms is not None:
        words.append(f"retention={spec.retention_ms}")
    if spec.window_size_ms is not None:
        words.append(f"window={spec.window_size_ms}")
    if spec.segment_interval_ms is not None:
        words.append(f"segments={spec.segment_interval_ms}")
    for name, serde in (("key", spec.key_serde), ("value", spec.value_serde)):
        if serde is not None:
            words.append(f"{name}={type(serde).__name__}")
    return " ".join(words)


def positions_on_disk(directory: StateDirectory, topology: Topology) -> dict[str, int]:
    """Return how far the stores of tasks that lie here have come: by task, the sum of their changelog positions."""
    found: dict[str, int] = {}
    for task in directory.tasks_on_disk():
        path = directory.task_path(task)
        number, _, partition = task.partition("_")
        sub = next((each for each in topology.tasks if str(each.id) == number), None)
        if sub is None or not partition.isdigit():
            continue
        names = [spec.name for spec in copied_stores(sub)]
        notes: list[StoreNote | None] = []
        try:
            if (path / FILE_NAME).exists():
                reader = SqliteReader(path / FILE_NAME)
                try:
                    notes += map(reader.note, names)
                finally:
                    reader.close()
            if (path / FOLDER_NAME).exists():
                notes += notes_on_disk(path, names)
        except (StateError, ConfigurationError):
            continue  # the task that opens it says what is wrong with it
        if any(notes):
            found[task] = position_of(note for note in notes if note is not None)
    return found
