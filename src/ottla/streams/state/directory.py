"""The state directory of an application: who this process is, which slot it has, who holds which task.

    <state.dir>/<application.id>/process.json     the process id, and the host and boot it was made on
                                /slot-0.lock      held by the process that has this slot
                                /0_1/.lock        held by the process that has this task
                                /0_1/state.sqlite

All processes that share the directory share the process id; each has a slot of its own, and with it a transactional id of
its own. A directory that comes from another host, or from before a restart of the machine, may be a copy of one that is
in use elsewhere: it gets a new process id, so that two owners never fence each other's transactions.

Locks are the operating system's: they end with the process that holds them, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ottla.streams.state.homes import StateError, StateLockedError

try:
    import fcntl
except ImportError:  # Windows: two processes that share a directory are not told apart there
    fcntl = None  # type: ignore[assignment]

logger: logging.Logger = logging.getLogger(__name__)

_BOOT_ID_FILE: Final = "/proc/sys/kernel/random/boot_id"
_PROCESS_FILE: Final = "process.json"
#: Processes that may share one directory.
SLOTS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Machine:
    """The host and the boot of it that a process runs on."""

    host: str
    boot_id: str

    @classmethod
    def here(cls) -> Machine:
        """Return this one. Where the system has no boot id, only the host counts."""
        try:
            boot_id = Path(_BOOT_ID_FILE).read_text().strip()
        except OSError:
            boot_id = ""
        return cls(socket.gethostname(), boot_id)


class Lock:
    """A file that is locked for as long as this object is not released."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StateLockedError: somebody has it.
            StateError: the file cannot be made.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] | None = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise StateError(f"{path} cannot be opened: {error}.") from error
        try:
            if fcntl is not None:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise StateLockedError(
                f"{path.parent} is in use{f' by process {holder}' if holder else ''}: {path.name} is locked."
            ) from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def release(self) -> None:
        """Let go; again does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class StateDirectory:
    """The directory of one application on this machine, as one process has it.

    Args:
        root: `state.dir`.
        application_id: names the folder in it.
        machine: where this is.
        new_id: makes process ids.

    Attributes:
        path: the application's folder.
        process_id: shared by all processes of this directory.
        slot: this process's own number, the smallest that was free.

    Raises:
        StateError: the directory cannot be written.
    """

    def __init__(
        self,
        root: Path,
        application_id: str,
        machine: Machine | None = None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.path: Path = root / application_id
        self._machine = machine or Machine.here()
        self._locks: dict[str, Lock] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"The state directory {self.path} cannot be made: {error}. Set state.dir.") from error
        slot, self._slot_lock = self._take_slot()
        self.slot: int = slot
        try:
            self.process_id: str = self._identify(new_id)
        except BaseException:
            self._slot_lock.release()
            raise

    @property
    def boot_id(self) -> str:
        """Of this machine."""
        return self._machine.boot_id

    def _take_slot(self) -> tuple[int, Lock]:
        for slot in range(SLOTS_MAX):
            try:
                return slot, Lock(self.path / f"slot-{slot}.lock")
            except StateLockedError:
                continue
        raise StateError(f"{self.path}: all {SLOTS_MAX} slots are taken.")

    def _identify(self, new_id: Callable[[], str]) -> str:
        """Return the directory's process id; a new one if it was made elsewhere. One process at a time looks."""
        path = self.path / _PROCESS_FILE
        here = {"host": self._machine.host, "boot_id": self._machine.boot_id}
        with _alone(self.path / "process.lock"):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                known, process_id = {"host": found["host"], "boot_id": found["boot_id"]}, str(found["process_id"])
            except (OSError, ValueError, KeyError, TypeError):
                known, process_id = None, ""
            if known == here and process_id:
                return process_id
            if process_id:
                logger.info("%s comes from another machine or boot: it gets a new process id", self.path)
            process_id = new_id()
            _write(path, json.dumps({"process_id": process_id, **here}) + "\n")
            return process_id

    def task_path(self, task: str) -> Path:
        """Return a task's folder."""
        return self.path / task

    def lock_task(self, task: str) -> Path:
        """Take a task's folder; return it.

        Raises:
            StateLockedError: another process still has it. It may let go: try again.
        """
        if task not in self._locks:
            self._locks[task] = Lock(self.task_path(task) / ".lock")
        return self.task_path(task)

    def release_task(self, task: str) -> None:
        """Let a task's folder go."""
        lock = self._locks.pop(task, None)
        if lock is not None:
            lock.release()

    def wipe_task(self, task: str) -> None:
        """Remove what is in the folder of a task that this process holds.

        Raises:
            StateError: a file cannot be removed.
        """
        assert task in self._locks, f"task {task} is not held"
        for path in self.task_path(task).iterdir():
            if path.name == ".lock":
                continue
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                raise StateError(f"{path} cannot be removed: {error}.") from error

    def tasks_on_disk(self) -> list[str]:
        """Return the tasks that have a folder here."""
        return sorted(path.name for path in self.path.iterdir() if path.is_dir())

    def close(self) -> None:
        """Let everything go."""
        for task in list(self._locks):
            self.release_task(task)
        self._slot_lock.release()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until nobody else is inside."""
    with path.open("a+") as file:
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    """Write a small file so that it is whole or not there."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error}.") from error
