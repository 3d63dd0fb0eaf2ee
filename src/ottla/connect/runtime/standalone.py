"""A standalone worker: offsets of sources in a file, connectors in memory.

Offsets that hosts tell are written down: the file is replaced as a whole, synced, so that it is always the old one or the
new one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError
from ottla.connect.runtime import offset_file
from ottla.connect.runtime.changes import Change, PutConnector, PutTasks
from ottla.connect.runtime.herder import Herder
from ottla.connect.runtime.inspection import InspectionError
from ottla.connect.runtime.worker import ConnectWorker, typed
from ottla.connect.settings import STANDALONE


class OffsetFile:
    """The file of offsets; any thread may use it.

    Raises:
        ConnectError: the file is there, and is none of that kind: it is not overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        try:
            self.entries = offset_file.load(data) if data else {}
        except ConnectError as error:
            raise ConnectError(f"{path}: {error}") from None

    def settle(self, connector: str | None = None) -> None:
        """It is written when `update` returns."""

    def update(self, entries: Mapping[bytes, bytes | None], on_written: Callable[[], object] = lambda: None) -> None:
        """Write offsets down.

        Raises:
            OSError: they are written with the next ones.
        """
        with self._lock:
            self.entries = {**self.entries, **entries}  # another one: some thread may be reading the last one
            temporary = self._path.with_name(self._path.name + ".new")
            with temporary.open("wb") as file:
                file.write(offset_file.dump(self.entries))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        on_written()


class StandaloneWorker(ConnectWorker):
    """Runs connectors until `stop`. Requests may come in any thread.

    Args:
        worker: the worker's configuration.
        connectors: a configuration for each connector that is there from the start.
        on_event: called with (connector, event) for people; in any thread.
        worker_id: what statuses call this worker: host and port of its REST interface.

    Raises:
        ConfigError: the worker's configuration is wrong, or two connectors have one name.
    """

    def __init__(
        self,
        worker: Mapping[str, str],
        connectors: Sequence[Mapping[str, str]] = (),
        on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
        worker_id: str = "localhost:8083",
    ) -> None:
        values = worker_settings(worker)
        self._connectors = [dict(config) for config in connectors]
        names = [config.get("name", "") for config in self._connectors]
        for name in names:
            if not name:
                raise ConfigError('Missing required configuration "name" which has no default value.')
            if names.count(name) > 1:
                raise ConfigError(f"Connector {name} already exists")
        herder = Herder(worker_id, shows_secrets=values["rest.secrets"] == "java")
        offsets = OffsetFile(Path(values["offset.storage.file.filename"]))
        super().__init__(worker, values, on_event, herder, offsets)
        self._is_refused = False

    def run(self, *, goes_on: bool = False) -> int:
        """Run all connectors; return 0 after `stop`, 1 if one was refused or nothing runs any more.

        Args:
            goes_on: it ends after `stop` only, because connectors may come later.
        """
        code = 0
        self._nursery.begin()
        try:
            for config in self._connectors:
                self._add_first(config)
            self._has_started = True
            while not self._stopping.is_set():
                self._act()
                if self._is_refused or not (goes_on or self._runs()):
                    code = 1
                    break
        finally:
            self._inspection.close()
            self._hosts.close()
            self._nursery.close()
        return code

    def _add_first(self, config: Mapping[str, str]) -> None:
        name = config["name"]
        try:
            tasks, told = self._inspection.tasks(config)
        except InspectionError as error:
            self._is_refused = True
            self._on_event(name, {"event": "refused", "message": str(error)})
            return
        self._commit(PutConnector(name=name, config=config, told=told), PutTasks(name=name, tasks=tasks))

    def _runs(self) -> bool:
        with self._changed:
            return bool(self.herder.wanted() or self._hosts.views or self.herder.waits())

    def _lead(self) -> None:
        pass

    def share_level(self, name: str, level: str) -> None:
        """There is no other worker."""

    def _commit(self, *changes: Change) -> None:
        with self._changed:
            for change in changes:
                self.herder.apply(change)
            self._changed.notify_all()


def worker_settings(worker: Mapping[str, str]) -> dict[str, Any]:
    """Return a worker's configuration, typed.

    Raises:
        ConfigError: something in it is wrong, or misspelled.
    """
    return typed(STANDALONE, worker)
