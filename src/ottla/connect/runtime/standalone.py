"""A standalone worker: connectors from files, each in a process of its own, offsets of sources in a file.

This process imports no plugin. It gives each host its connector and the offsets that there are, and writes down the
offsets that hosts tell: the file is replaced as a whole, synced, so that it is always the old one or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError
from ottla.connect.runtime import offset_file
from ottla.connect.runtime.host import decode_entry, encode_entry
from ottla.connect.settings import WORKER

log = logging.getLogger(__name__)


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

    def update(self, entries: Mapping[bytes, bytes | None]) -> None:
        """Write offsets down."""
        with self._lock:
            self.entries |= entries
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


class _Hosted:
    """One connector's process, as the worker sees it."""

    def __init__(self, name: str, process: subprocess.Popen[str], events: IO[str]) -> None:
        self.name = name
        self.process = process
        self.events = events
        self.tasks = 0
        self.failed: set[int] = set()
        self.refused: str | None = None
        self.ended = False
        self.reader: threading.Thread | None = None

    def idle(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.process.poll() is not None or (self.tasks > 0 and len(self.failed) == self.tasks)


class StandaloneWorker:
    """Runs connectors until `stop`.

    Args:
        worker: the worker's configuration.
        connectors: a configuration for each connector.
        on_event: called with (connector, event) for people; in any thread.

    Raises:
        ConfigError: the worker's configuration is wrong, or two connectors have one name.
    """

    def __init__(
        self,
        worker: Mapping[str, str],
        connectors: Sequence[Mapping[str, str]],
        on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
    ) -> None:
        _refuse_misspelled(worker)
        values = WORKER.parse(worker)
        self._worker = dict(worker)
        self._connectors = [dict(config) for config in connectors]
        self._on_event = on_event
        names = [config.get("name", "") for config in self._connectors]
        for name in names:
            if not name:
                raise ConfigError('Missing required configuration "name" which has no default value.')
            if names.count(name) > 1:
                raise ConfigError(f"Connector {name} already exists")
        self._grace_s = values["task.shutdown.graceful.timeout.ms"] / 1000
        self._offsets = OffsetFile(Path(values["offset.storage.file.filename"]))
        self._stopping = threading.Event()
        self.hosts: list[_Hosted] = []

    def stop(self) -> None:
        """Have `run` end: tasks finish, offsets are written down."""
        self._stopping.set()

    def run(self) -> int:
        """Run all connectors; return 0 after `stop`, 1 if one was refused or nothing runs any more."""
        code = 0
        try:
            for config in self._connectors:
                self.hosts.append(self._start(config))
            while not self._stopping.wait(0.2):
                refused = [host for host in self.hosts if host.refused is not None]
                if refused or all(host.idle() for host in self.hosts):
                    code = 1
                    break
        finally:
            self._end()
        return code

    def _start(self, config: Mapping[str, str]) -> _Hosted:
        read, write = os.pipe()
        command = [sys.executable, "-m", "ottla.connect.runtime.host", str(write)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write], text=True)
        os.close(write)
        host = _Hosted(config["name"], process, os.fdopen(read, encoding="utf-8"))
        host.reader = threading.Thread(target=self._read, args=(host,), daemon=True)
        host.reader.start()
        offsets = [encode_entry(*entry) for entry in self._offsets.entries.items()]
        self._say(host, {"worker": self._worker, "config": dict(config), "offsets": offsets})
        return host

    @staticmethod
    def _say(host: _Hosted, order: dict[str, Any]) -> None:
        assert host.process.stdin is not None
        try:
            host.process.stdin.write(json.dumps(order) + "\n")
            host.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; the reader sees why

    def _read(self, host: _Hosted) -> None:
        for line in host.events:
            event = json.loads(line)
            match event["event"]:
                case "running":
                    host.tasks = event["tasks"]
                case "refused":
                    host.refused = event["message"]
                case "failed":
                    host.failed.add(event["task"])
                case "offsets":
                    self._offsets.update(dict(decode_entry(*entry) for entry in event["entries"]))
                case "ended":
                    host.ended = True
            self._on_event(host.name, event)
        code = host.process.wait()
        if not host.ended and host.refused is None:
            self._on_event(host.name, {"event": "died", "code": code})

    def _end(self) -> None:
        """Stop all hosts; those that do not end in time are killed."""
        for host in self.hosts:
            self._say(host, {"stop": True})
        deadline = time.monotonic() + self._grace_s
        for host in self.hosts:
            try:
                host.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("connector %s does not end within %g s: its process is killed", host.name, self._grace_s)
                host.process.kill()
                host.process.wait()
            assert host.process.stdin is not None
            try:
                host.process.stdin.close()
            except BrokenPipeError:
                pass
            if host.reader is not None:
                host.reader.join()
            host.events.close()


def _refuse_misspelled(worker: Mapping[str, str]) -> None:
    """Raise for a key that is almost one of the worker's; others may be those of Java's worker, and mean nothing here.

    Raises:
        ConfigError: it names the key, and the one that is meant.
    """
    names = WORKER.keys
    for given in worker.keys() - set(names):
        near = get_close_matches(given, names, n=1, cutoff=0.9)
        if near:
            raise ConfigError(f"Unknown key {given!r}. Did you mean {near[0]!r}?")
