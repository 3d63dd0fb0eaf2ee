"""What workers have in common: connectors in processes of their own, and requests about them.

This process imports no plugin (`inspection.py` asks one that does). What is known and wanted is decided by `herder.py`;
one thread does what follows from it. What a request changes is given to `_commit`: the worker of one process takes it
at once, one of several writes it down first, and takes it when it comes back (`standalone.py`, `distributed/worker.py`).
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

from ottla.connect.config_def import ConfigDef, ConfigError
from ottla.connect.errors import ConnectError
from ottla.connect.runtime.changes import Change, Delete, PutConnector, PutTarget, PutTasks, Restart, Told
from ottla.connect.runtime.children import Nursery
from ottla.connect.runtime.connector_offsets import (
    alter_group_offsets,
    check_sink_offsets,
    group_offsets,
    reset_group_offsets,
    source_offsets,
)
from ottla.connect.runtime.herder import STOP_FIRST, Herder, HerderError, Standing
from ottla.connect.runtime.host import decode_entry, encode_entry
from ottla.connect.runtime.hosts import Event, Hosts
from ottla.connect.runtime.inspection import Inspection, InspectionError
from ottla.connect.runtime.metrics import Row, page
from ottla.connect.runtime.offsets import KeptOffsets
from ottla.connect.runtime.process import MEMORY_OVER, memory_limit
from ottla.connect.runtime.runs import HostView, TaskId, Wanted, decide
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
#: How often the thread that acts looks around although nothing has happened.
LOOK_S = 0.2
_UNASSIGNED = Standing("UNASSIGNED")


class OffsetStore(Protocol):
    """Where offsets of sources are kept; any thread may use it.

    `entries` is never changed in place. After `settle` it has what was given to `update` before, here or elsewhere, but for
    what was refused: with a connector's name that is an error.
    """

    @property
    def entries(self) -> Mapping[bytes, bytes | None]: ...
    def update(self, entries: Mapping[bytes, bytes | None], on_written: Callable[[], object] = ...) -> None: ...
    def settle(self, connector: str | None = None) -> None: ...


class ConnectWorker(ABC):
    """Runs connectors until `stop`. Requests may come in any thread.

    Args:
        worker: the worker's configuration.
        settings: the same, typed.
        on_event: called with (connector, event) for people; in any thread.
    """

    def __init__(
        self,
        worker: Mapping[str, str],
        settings: Mapping[str, Any],
        on_event: Callable[[str, dict[str, Any]], None],
        herder: Herder,
        offsets: OffsetStore,
    ) -> None:
        self.settings: Mapping[str, Any] = settings
        self.herder = herder
        self._worker = dict(worker)
        self._on_event = on_event
        self._grace_s = settings["task.shutdown.graceful.timeout.ms"] / 1000
        self._offsets = offsets
        self._stopping = threading.Event()
        #: Guards the herder; notified when something has changed.
        self._changed = threading.Condition()
        self._levels: dict[str, str] = {}
        self._nursery = Nursery()
        self._inspection = Inspection(self._worker, self._nursery)
        self._hosts = Hosts(self._nursery, self._order, self._take, self._grace_s, self._notify)
        self._has_started = False
        self._operations: dict[str, threading.Lock] = {}
        #: What tasks have counted, that run here or have run here.
        self._counts: dict[TaskId, dict[str, int]] = {}
        self._starts: Counter[str] = Counter()

    def stop(self) -> None:
        """Have `run` end: tasks finish, offsets are written down."""
        self._stopping.set()
        # Not the condition: this may be called in a signal handler, while its lock is held.

    @abstractmethod
    def run(self, *, goes_on: bool = False) -> int:
        """Run connectors; return the exit code."""

    def is_ready(self) -> bool:
        """Whether it has started, and goes on."""
        return self._has_started and not self._stopping.is_set()

    @abstractmethod
    def _lead(self) -> None:
        """Return if this worker may change what there is.

        Raises:
            HerderError: not now.
        """

    @abstractmethod
    def _commit(self, *changes: Change) -> None:
        """Have changes hold, all or none.

        Raises:
            HerderError: they do not.
        """

    def _wanted(self) -> Mapping[TaskId, Wanted]:
        """Return what is to run now. Called with the lock held."""
        return self.herder.wanted()

    def _act(self) -> None:
        """Do what is wanted now; then wait until something changes."""
        with self._changed:
            self.herder.tick(time.monotonic())
            actions = decide(self._wanted(), self._hosts.snapshot())
            if not actions:
                self._changed.wait(LOOK_S)
        for action in actions:
            self._hosts.act(action)
        self._hosts.tick()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _order(self, connector: str) -> dict[str, Any]:
        offsets = [encode_entry(*entry) for entry in self._offsets.entries.items()]
        with self._changed:
            config = dict(self.herder.known(connector).config) if self.herder.knows(connector) else {"name": connector}
        return {"worker": self._worker, "config": config, "offsets": offsets, "levels": dict(self._levels)}

    def _take(self, number: int, view: HostView, event: Event) -> None:
        name = view.connector
        if event["event"] == "offsets":
            try:
                self._offsets.update(
                    dict(decode_entry(*entry) for entry in event["entries"]),
                    lambda: self._hosts.tell(number, {"written": event["id"]}),
                )
            except (OSError, KafkaError) as error:
                log.error(
                    "connector %s: its offsets cannot be written down (%s): they are with the next ones; if this process "
                    "ends before, records come again",
                    name,
                    error,
                )
            return
        with self._changed:
            match event["event"]:
                case "counts":
                    self._counts[name, event["task"]] = event["counts"]
                    return
                case "running":
                    for task, run in view.runs.items():
                        if task not in event.get("waiting", ()):
                            self._starts["success"] += 1
                            self.herder.on_running(name, task, run, view.is_paused)
                case "begun":
                    self._starts["success"] += 1
                    self.herder.on_running(name, event["task"], event["run"], view.is_paused)
                case "paused":
                    for task, run in view.runs.items():
                        self.herder.on_running(name, task, run, event["paused"])
                case "waits":
                    self.herder.on_waiting(name, event["task"], event["run"], event["reason"])
                case "failed":
                    event["again_s"] = self._fail(
                        name, event["task"], event["run"], event["trace"], event["new_offsets"]
                    )
                case "topics":
                    if self.settings["topic.tracking.enable"]:
                        self.herder.on_topics(name, event["topics"])
                case "refused":
                    for task, run in view.runs.items():
                        self._fail(name, task, run, event["trace"])
                case "died":
                    for task, run in event["runs"].items():
                        self._fail(name, task, run, self._death(event["code"]))
            self._changed.notify_all()
        self._on_event(name, event)

    def _fail(self, name: str, task: int, run: int, trace: str, has_new_offsets: bool = False) -> float | None:
        self._starts["failure"] += 1
        return self.herder.on_failed(name, task, run, trace, has_new_offsets=has_new_offsets, now_s=time.monotonic())

    def _death(self, code: int) -> str:
        """Return what is said of a process that has ended unasked."""
        if code == MEMORY_OVER:
            limit = memory_limit(self._worker.get("connector.memory.limit"))
            return (
                f"Its process got no more memory and has ended, with all tasks of the connector on this worker. It may take "
                f"{limit:,} bytes (connector.memory.limit in the worker's file)"
            )
        if code == -signal.SIGKILL:
            return "Its process was killed (SIGKILL). The system does that with processes when memory is short."
        return f"Its process has ended unexpectedly ({code})"

    # Requests

    def validate(self, config: Mapping[str, str | None]) -> dict[str, Any]:
        """Return what is right and wrong with a configuration, key by key.

        Raises:
            HerderError: it names no connector.
        """
        return self._validated(config)[0]

    def _validated(self, config: Mapping[str, str | None]) -> tuple[dict[str, Any], Told]:
        if config.get("connector.class") is None:
            raise HerderError(400, f"Connector config {{{', '.join(sorted(config))}}} contains no connector type")
        try:
            return self._inspection.validate(config)
        except InspectionError as error:
            raise HerderError(400 if error.kind == "failed" else error.status, str(error)) from error

    def put_connector(
        self, name: str, config: Mapping[str, str | None], target: Any = None, *, may_replace: bool
    ) -> tuple[bool, dict[str, Any]]:
        """Make a connector, or change one; return whether it is new, and what it is.

        Raises:
            HerderError: the configuration is wrong, or there is one of that name already.
        """
        self._lead()
        with self._operation(name):
            with self._changed:
                texts = self.herder.with_kept_secrets(
                    name, {key: text for key, text in config.items() if text is not None}, is_new=not may_replace
                )
            whole = {key: None if text is None else texts[key] for key, text in config.items()}
            infos, told = self._validated(whole)
            _refuse_wrong(infos)
            with self._changed:
                is_new = not self.herder.knows(name)
                if not is_new and not may_replace:
                    raise HerderError(409, f"Connector {name} already exists")
            self._commit(PutConnector(name=name, config=texts, told=told, target=target if is_new else None))
            self._make_tasks(name)
            with self._changed:
                return is_new, self.herder.info(name)

    def patch_connector(self, name: str, patch: Mapping[str, str | None]) -> dict[str, Any]:
        """Change some keys of a connector; None takes one away.

        Raises:
            HerderError: there is no such connector, or what comes of it is wrong.
        """
        self._lead()
        with self._changed:
            config: dict[str, str | None] = dict(self.herder.known(name).config)
        for key, text in patch.items():
            if text is None:
                config.pop(key, None)
            else:
                config[key] = text
        return self.put_connector(name, config, may_replace=True)[1]

    def _make_tasks(self, name: str) -> None:
        """Ask the connector for its tasks, if it is to have any."""
        with self._changed:
            if not self.herder.needs_tasks(name):
                return
            config = dict(self.herder.known(name).config)
        try:
            tasks, _ = self._inspection.tasks(config)
        except InspectionError as error:
            with self._changed:
                self.herder.fail_connector(name, error.trace)
            return
        with self._changed:
            if self.herder.has_tasks(name, tasks):
                return  # nothing is to change: their producers stay who they are
        self._commit(PutTasks(name=name, tasks=tasks))

    def set_target(self, name: str, target: Any) -> None:
        """Pause (PAUSED), resume (RUNNING) or stop (STOPPED) a connector; a stopped one has no process here at the end.

        Raises:
            HerderError: there is none of that name.
        """
        self._lead()
        with self._operation(name):
            with self._changed:
                if not self.herder.knows(name):
                    raise HerderError(404, f"Unknown connector {name}")
            if target == "STOPPED":
                self._commit(PutTasks(name=name, tasks=()), PutTarget(name=name, target=target))
                self._until_gone(name)
            else:
                self._commit(PutTarget(name=name, target=target))
                if target == "RUNNING":
                    self._make_tasks(name)

    def restart(self, name: str, *, with_tasks: bool = False, only_failed: bool = False) -> dict[str, Any]:
        """Start a connector anew, or some of it; return the status as it was when that began.

        Raises:
            HerderError: there is none of that name.
        """
        self._lead()
        with self._operation(name):
            with self._changed:
                itself, status = self.herder.restart_plan(name, with_tasks=with_tasks, only_failed=only_failed)
            self._commit(Restart(name=name, with_tasks=with_tasks, only_failed=only_failed))
            if itself:
                self._make_tasks(name)
            return status

    def restart_task(self, name: str, number: int) -> None:
        """Start a task anew, in a process of its own.

        Raises:
            HerderError: there is no such task.
        """
        with self._changed:
            self.herder.restart_task(name, number)
            self._changed.notify_all()

    def delete(self, name: str) -> None:
        """Stop a connector and forget it; its offsets stay.

        Raises:
            HerderError: there is none of that name.
        """
        self._lead()
        with self._operation(name):
            with self._changed:
                config = self.herder.known(name).config
            self._commit(Delete(name=name))
            self._until_gone(name)
        try:
            left = self._inspection.left_behind(config)
        except HerderError as error:
            left = f"whether anything of it stays elsewhere is not known: {error}"
        if left is not None:
            log.warning("connector %s was deleted; %s", name, left)

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """Return a connector's offsets: those of a source's parts, or those of a sink's group.

        Raises:
            HerderError: there is none of that name, or the cluster does not answer.
        """
        with self._changed:
            known = self.herder.known(name)
        if known.told.kind == "sink":
            return group_offsets(name, self._worker, known.config)
        self._settle()
        return source_offsets(name, KeptOffsets(self._offsets.entries))

    def alter_offsets(self, name: str, offsets: Sequence[tuple[Any, Any]] | None) -> str:
        """Write a stopped connector's offsets, or forget them all (None); return what is answered.

        Raises:
            HerderError: there is none of that name, it is not stopped, or these are no offsets of it.
        """
        self._lead()
        with self._operation(name):
            with self._changed:
                known = self.herder.known(name)
                if known.target != "STOPPED" or self._runs_somewhere(name):
                    raise HerderError(400, STOP_FIRST.format(name))
            verb = "reset" if offsets is None else "altered"
            if known.told.kind == "sink":
                is_all = self._alter_group(name, known.config, offsets)
            else:
                is_all = self._alter_source(name, known.config, offsets)
        if is_all:
            return f"The offsets for this connector have been {verb} successfully"
        return (
            f"The Connect framework-managed offsets for this connector have been {verb} successfully. However, if this "
            f"connector manages offsets externally, "
            f"they will need to be manually {verb} in the system that the connector uses."
        )

    def _runs_somewhere(self, name: str) -> bool:
        """Whether a task of a connector may still run. Called with the lock held."""
        return self._hosts.holds(name)

    def _alter_group(self, name: str, config: Mapping[str, str], offsets: Sequence[tuple[Any, Any]] | None) -> bool:
        if offsets is None:
            kept = [
                (row["partition"]["kafka_topic"], row["partition"]["kafka_partition"], None)
                for row in group_offsets(name, self._worker, config)
            ]
            is_all = self._inspection.alter(config, [list(row) for row in kept])
            reset_group_offsets(name, self._worker, config)
            return is_all
        wanted = check_sink_offsets(offsets)
        is_all = self._inspection.alter(config, [list(row) for row in wanted])
        alter_group_offsets(name, self._worker, config, wanted)
        return is_all

    def _alter_source(self, name: str, config: Mapping[str, str], offsets: Sequence[tuple[Any, Any]] | None) -> bool:
        self._settle()
        kept = KeptOffsets(self._offsets.entries)
        if offsets is None:
            offsets = [(row["partition"], None) for row in source_offsets(name, kept)]
        is_all = self._inspection.alter(config, [list(row) for row in offsets])
        try:
            self._offsets.update(dict(kept.set(name, partition or {}, offset) for partition, offset in offsets))
        except ConnectError as error:
            raise HerderError(400, str(error)) from error
        self._settle(name)
        return is_all

    def _settle(self, connector: str | None = None) -> None:
        try:
            self._offsets.settle(connector)
        except (ConnectError, KafkaError, TimeoutError) as error:
            raise HerderError(500, f"The offsets are not known to be written: {error}") from error

    def plugins(self) -> list[dict[str, Any]]:
        """Return all plugins."""
        return self._inspection.plugins()

    def plugin_definition(self, plugin: str) -> list[dict[str, Any]]:
        """Return the rows of a plugin's configuration.

        Raises:
            HerderError: there is none of that name.
        """
        return self._inspection.definition(plugin)

    def metrics(self) -> bytes:
        """Return the page of metrics, in Prometheus' text format."""
        hosts = self._hosts.snapshot().values()
        here = {(view.connector, number) for view in hosts for number in view.runs}
        with self._changed:
            self._counts = {task: counts for task, counts in self._counts.items() if task in here}
            states = {
                name: [
                    self.herder.known(name).standings.get(number, _UNASSIGNED).state
                    for number in range(len(self.herder.known(name).tasks))
                ]
                for name in self.herder.names()
            }
            group = "connect-worker-metrics"
            rows = [
                Row(group, "connector-count", "Connectors with tasks on this worker.", len({name for name, _ in here})),
                Row(group, "task-count", "Tasks on this worker.", len(here)),
                Row(group, "task-startup-success-total", "Tasks that began here.", self._starts["success"], True),
                Row(group, "task-startup-failure-total", "Tasks that failed here.", self._starts["failure"], True),
            ]
            return page([*rows, *self._own_metrics()], states, self._counts)

    def _own_metrics(self) -> Sequence[Row]:
        """Return what this kind of worker has beside that. Called with the lock held."""
        return ()

    def topics(self, name: str) -> list[str]:
        """Return the topics that a connector was seen to use."""
        with self._changed:
            return sorted(self.herder.known(name).topics) if self.herder.knows(name) else []

    def reset_topics(self, name: str) -> None:
        """Forget the topics that a connector was seen to use."""
        with self._changed:
            if self.herder.knows(name):
                self.herder.known(name).topics.clear()

    def ask(self, question: Callable[[Herder], Any]) -> Any:
        """Return what a question to the herder gives, with nothing changing meanwhile."""
        with self._changed:
            return question(self.herder)

    def set_level(self, name: str, level: str) -> None:
        """Set the level of a logger in all processes of connectors, those to come among them."""
        self._levels[name] = level
        self._hosts.tell_all({"level": [name, level]})

    @abstractmethod
    def share_level(self, name: str, level: str) -> None:
        """Set the level of a logger on all other workers."""

    def _operation(self, name: str) -> threading.Lock:
        """Return what lets one request at a time change a connector."""
        with self._changed:
            return self._operations.setdefault(name, threading.Lock())

    def _until_gone(self, name: str) -> None:
        """Wait until no process runs a task of a connector; each is killed when its time is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping.is_set() or not self._hosts.holds(name), timeout=self._grace_s + 30
            )


def _refuse_wrong(infos: Mapping[str, Any]) -> None:
    """Raise what REST answers to a configuration that is wrong."""
    if not infos["error_count"]:
        return
    errors = [error for info in infos["configs"] for error in info["value"]["errors"]]
    listed = "".join(f"\n{error}" for error in errors)
    raise HerderError(
        400,
        f"Connector configuration is invalid and contains the following {infos['error_count']} error(s):{listed}\n"
        "You can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`",
    )


def typed(definition: ConfigDef, worker: Mapping[str, str]) -> dict[str, Any]:
    """Return a worker's configuration, typed.

    Raises:
        ConfigError: something in it is wrong, or misspelled.
    """
    _refuse_misspelled(definition, worker)
    return definition.parse(worker)


def _refuse_misspelled(definition: ConfigDef, worker: Mapping[str, str]) -> None:
    """Raise for a key that is almost one of the worker's; others may be those of Java's worker, and mean nothing here.

    Raises:
        ConfigError: it names the key, and the one that is meant.
    """
    names = definition.keys
    for given in worker.keys() - set(names):
        near = get_close_matches(given, names, n=1, cutoff=0.9)
        if near:
            raise ConfigError(f"Unknown key {given!r}. Did you mean {near[0]!r}?")
