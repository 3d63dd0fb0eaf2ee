"""The topic of configurations in Java's format: what a change writes, and what a record says. No I/O.

    connector-<name>           {"properties": {...}}, nothing: deleted
    task-<name>-<number>       {"properties": {...}}
    commit-<name>              {"tasks": n}: the tasks 0..n-1 above count from here on
    target-state-<name>        {"state": STARTED | PAUSED, "state.v2": STARTED | PAUSED | STOPPED}
    restart-connector-<name>   {"only-failed": bool, "include-tasks": bool}
    session-key                {"key", "algorithm", "creation-timestamp"}: of the leader's
    tasks-fencing-<name>       {"task-count": n}: so many transactional ids are shut out
    logger-cluster-<logger>    {"level": name}

Compaction may leave a commit without some of its tasks: such a set is incomplete, and the leader asks the connector again. An
older worker may have written tasks of an older configuration: they count for none, either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ottla.connect.runtime.changes import Change, Delete, DropTasks, PutConnector, PutTarget, PutTasks, Restart, Target
from ottla.connect.runtime.runs import TaskId

#: A record's key and value.
Written = tuple[str, Mapping[str, Any] | None]
_TASK: Final = re.compile(r"task-(.+)-([0-9]+)", re.DOTALL)
_TARGETS: Final[Mapping[str, Target]] = {"STARTED": "RUNNING", "PAUSED": "PAUSED", "STOPPED": "STOPPED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderRecord:
    """A record that only a leader writes: a session key, or a commit."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fenced:
    """So many producers of a connector's tasks may be at work."""

    name: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLevel:
    """A logger has another level on all workers."""

    logger: str
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strange:
    """A record that means nothing: it is passed over, and the log says so."""

    key: str
    why: str


Event = Change | LeaderRecord | Fenced | SetLevel | Strange


def written(change: Change) -> list[Written]:
    """Return the records of a change."""
    match change:
        case PutConnector(name=name, config=config, target=target):
            first: list[Written] = [] if target is None else [_target(name, target)]
            return [*first, (f"connector-{name}", {"properties": dict(config)})]
        case PutTasks(name=name, tasks=tasks):
            rows: list[Written] = [
                (f"task-{name}-{number}", {"properties": dict(task)}) for number, task in enumerate(tasks)
            ]
            return [*rows, (f"commit-{name}", {"tasks": len(tasks)})]
        case DropTasks(name=name):
            return [(f"commit-{name}", {"tasks": 0})]
        case PutTarget(name=name, target=target):
            return [_target(name, target)]
        case Delete(name=name):
            return [(f"connector-{name}", None), (f"target-state-{name}", None)]
        case Restart(name=name):
            asked = {"only-failed": change.only_failed, "include-tasks": change.with_tasks}
            return [(f"restart-connector-{name}", asked)]


def _target(name: str, target: Target) -> Written:
    newer = next(word for word, found in _TARGETS.items() if found == target)
    return f"target-state-{name}", {"state": "STARTED" if target == "RUNNING" else "PAUSED", "state.v2": newer}


def session_key(key: str, now_ms: int) -> Written:
    """Return what a new leader writes first."""
    return "session-key", {"key": key, "algorithm": "HmacSHA256", "creation-timestamp": now_ms}


def fenced(name: str, count: int) -> Written:
    """Return the record that says how many transactional ids a connector's tasks may use from now on."""
    return f"tasks-fencing-{name}", {"task-count": count}


def level(logger: str, name: str) -> Written:
    """Return the record of a logger's level."""
    return f"logger-cluster-{logger}", {"level": name}


def encode(row: Written) -> tuple[bytes, bytes | None]:
    """Return a record's bytes."""
    key, value = row
    return key.encode(), None if value is None else json.dumps(
        value, ensure_ascii=False, separators=(",", ":")
    ).encode()


class Reader:
    """Reads records in order.

    Attributes:
        fenced: of each connector, how many producers may be at work. Of one that is gone, too: it may come again.
        unfenced: connectors that have got tasks since the producers of those before were shut out.
    """

    def __init__(self) -> None:
        self.fenced: dict[str, int] = {}
        self.unfenced: set[str] = set()
        self._tasks: dict[TaskId, dict[str, str]] = {}
        #: Java may write a target before its connector.
        self._targets: dict[str, Target] = {}
        self._connectors: set[str] = set()

    def read(self, key: bytes | None, value: bytes | None) -> list[Event]:
        """Return what a record says."""
        name = (key or b"").decode(errors="replace")
        try:
            found = None if value is None else json.loads(value)
            if found is not None and not isinstance(found, dict):
                raise TypeError("it is no object")
            return list(self._read(name, found))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return [Strange(key=name, why=f"{type(error).__name__}: {error}")]

    def _read(self, key: str, value: dict[str, Any] | None) -> Iterable[Event]:
        if (task := _TASK.fullmatch(key)) is not None:
            if value is not None:
                self._tasks[task[1], int(task[2])] = _properties(value)
        elif key.startswith("connector-"):
            yield from self._connector(key.removeprefix("connector-"), value)
        elif key.startswith("commit-"):
            yield LeaderRecord(key=key)
            if value is not None:
                yield from self._commit(key.removeprefix("commit-"), int(value["tasks"]))
        elif key.startswith("target-state-"):
            yield from self._target(key.removeprefix("target-state-"), value)
        elif key.startswith("restart-connector-"):
            if value is not None:
                yield Restart(
                    name=key.removeprefix("restart-connector-"),
                    only_failed=bool(value["only-failed"]),
                    with_tasks=bool(value["include-tasks"]),
                )
        elif key == "session-key":
            yield LeaderRecord(key=key)
        elif key.startswith("tasks-fencing-"):
            name, count = key.removeprefix("tasks-fencing-"), 0 if value is None else int(value["task-count"])
            self.fenced[name] = count
            self.unfenced.discard(name)
            yield Fenced(name=name, count=count)
        elif key.startswith("logger-cluster-"):
            if value is not None:
                yield SetLevel(logger=key.removeprefix("logger-cluster-"), level=str(value["level"]))
        else:
            yield Strange(key=key, why="no such key is known")

    def _connector(self, name: str, value: dict[str, Any] | None) -> Iterable[Event]:
        if value is None:
            self._connectors.discard(name)
            self._targets.pop(name, None)
            self._tasks = {task: config for task, config in self._tasks.items() if task[0] != name}
            yield Delete(name=name)
            return
        self._connectors.add(name)
        yield PutConnector(name=name, config=_properties(value), target=self._targets.pop(name, None))

    def _commit(self, name: str, count: int) -> Iterable[Event]:
        mine = {number: config for (of, number), config in self._tasks.items() if of == name}
        self._tasks = {task: config for task, config in self._tasks.items() if task[0] != name}
        if count:
            self.unfenced.add(name)
        if count and mine.keys() >= set(range(count)):
            yield PutTasks(name=name, tasks=[mine[number] for number in range(count)])
        else:
            yield DropTasks(name=name)

    def _target(self, name: str, value: dict[str, Any] | None) -> Iterable[Event]:
        if value is None:
            self._targets.pop(name, None)
            return
        target = _TARGETS[value.get("state.v2") or value["state"]]
        if name in self._connectors:
            yield PutTarget(name=name, target=target)
        else:
            self._targets[name] = target


def _properties(value: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in value["properties"].items() if text is not None}
