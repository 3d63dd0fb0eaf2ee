"""What a worker knows of its connectors, and what is to run: decided here, without I/O.

Requests become changes, which `apply` takes: at once in a standalone worker, in a distributed one when they are read from
the topic of configurations, as in every other worker. `wanted()` says which tasks are to run here, each with the number of
its run. A restart raises the number, and what is told about an older run is dropped. Names, states and messages are Java's.
What becomes of processes then is decided elsewhere (`runs.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ottla.connect.config_def import HIDDEN
from ottla.connect.runtime.changes import (
    Change,
    Delete,
    DropTasks,
    PutConnector,
    PutTarget,
    PutTasks,
    Restart,
    Target,
    Told,
)
from ottla.connect.runtime.runs import TaskId, Wanted

#: So many failures with no new offset between them, and a task stays failed.
FAILURES_MAX: Final = 5
_PAUSE_MAX_S: Final = 300.0
#: States of tasks whose trace says what they wait for.
_ALIVE: Final = ("RUNNING", "PAUSED")
#: What shows nothing of a secret: variables, and nothing beside them.
_VARIABLES: Final = re.compile(r"(\$\{[^{}:]+:[^{}]*\})+")
#: What a connector shows of itself while its class is not known.
_NO_SECRETS: Final = frozenset({"name", "connector.class", "tasks.max", "task.class"})
STOP_FIRST: Final = (
    "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified "
    "connector by issuing a 'PUT' request to the '/connectors/{}/stop' endpoint"
)


class HerderError(Exception):
    """A request is not carried out.

    Attributes:
        status: what REST answers.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Standing:
    """How a connector or a task is.

    Attributes:
        worker_id: the other worker that has said so; None: it is this one.
    """

    state: str
    trace: str | None = None
    worker_id: str | None = None


@dataclass(slots=True)
class Retry:
    """What is kept of a task that is started again by itself: failures without a new offset, and when it is due."""

    failures: int = 0
    due_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Known:
    """One connector."""

    config: dict[str, str]
    target: Target = "RUNNING"
    told: Told = field(default_factory=Told)
    standing: Standing = field(default_factory=lambda: Standing("UNASSIGNED"))
    tasks: list[dict[str, str]] = field(default_factory=list)
    applied: dict[str, str] | None = None
    standings: dict[int, Standing] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)
    topics: set[str] = field(default_factory=set)
    retries: dict[int, Retry] = field(default_factory=dict)

    @property
    def restarts(self) -> bool:
        """Whether failed tasks are started again (`errors.restart.enable`)."""
        return self.config.get("errors.restart.enable", "false").strip().lower() == "true"


class Herder:
    """See the module.

    Args:
        worker_id: host and port of the worker's REST interface.
        shows_secrets: whether answers have them, as Java's do.
        shares: whether tasks run on several workers: then only those of `assign` run here, and none that was made of an
            older configuration.
    """

    def __init__(self, worker_id: str, *, shows_secrets: bool = False, shares: bool = False) -> None:
        self.worker_id = worker_id
        self._shows_secrets = shows_secrets
        self._shares = shares
        #: Whether this worker is the one that says how connectors themselves stand.
        self.leads = not shares
        self._assigned: set[TaskId] = set()
        self._connectors: dict[str, Known] = {}
        self._last_run = 0

    # What there is

    def names(self) -> list[str]:
        """Return the names of all connectors."""
        return list(self._connectors)

    def knows(self, name: str) -> bool:
        """Whether there is a connector of that name."""
        return name in self._connectors

    def known(self, name: str) -> Known:
        """Return a connector.

        Raises:
            HerderError: there is none (404).
        """
        found = self._connectors.get(name)
        if found is None:
            raise HerderError(404, f"Connector {name} not found")
        return found

    def info(self, name: str) -> dict[str, Any]:
        """Return Java's `ConnectorInfo`."""
        found = self.known(name)
        tasks = [{"connector": name, "task": number} for number in range(len(found.tasks))]
        return {"name": name, "config": self.config(name), "tasks": tasks, "type": found.told.kind}

    def config(self, name: str) -> dict[str, str]:
        """Return the configuration as people see it."""
        found = self.known(name)
        return self._shown(found, found.config)

    def tasks(self, name: str) -> list[dict[str, Any]]:
        """Return the tasks with their configurations."""
        found = self.known(name)
        return [
            {"id": {"connector": name, "task": number}, "config": self._shown(found, config)}
            for number, config in enumerate(found.tasks)
        ]

    def _shown(self, found: Known, config: Mapping[str, str]) -> dict[str, str]:
        if self._shows_secrets:
            return dict(config)
        if found.told.kind == "unknown":  # nobody knows what is secret here
            return {name: text if name in _NO_SECRETS else HIDDEN for name, text in config.items()}
        return {
            name: HIDDEN if name in found.told.secrets and not _VARIABLES.fullmatch(text) else text
            for name, text in config.items()
        }

    def status(self, name: str) -> dict[str, Any]:
        """Return Java's `ConnectorStateInfo`.

        Raises:
            HerderError: there is no such connector (404).
        """
        if name not in self._connectors:
            raise HerderError(404, f"No status found for connector {name}")
        found = self._connectors[name]
        tasks = [{"id": number, **self._standing(found, at)} for number, at in sorted(found.standings.items())]
        return {
            "name": name,
            "connector": self._standing(found, found.standing),
            "tasks": tasks,
            "type": found.told.kind,
        }

    def task_status(self, name: str, number: int) -> dict[str, Any]:
        """Return how a task is.

        Raises:
            HerderError: there is no such task (404).
        """
        found = self._connectors.get(name)
        if found is None or number not in found.standings:
            raise HerderError(404, f"No status found for task {name}-{number}")
        return {"id": number, **self._standing(found, found.standings[number])}

    def _standing(self, found: Known, at: Standing) -> dict[str, Any]:
        version = {} if found.told.version is None else {"version": found.told.version}
        trace = {} if not at.trace else {"trace": at.trace}
        return {"state": at.state, "worker_id": at.worker_id or self.worker_id} | trace | version

    # Requests

    def apply(self, change: Change) -> None:
        """Take a change. What it says about a connector that is not there is dropped: it was deleted meanwhile."""
        match change:
            case PutConnector(name=name, config=config, told=told, target=target):
                self.put(name, config, told, target, may_replace=True)
                return
        if change.name not in self._connectors:
            return
        match change:
            case PutTasks(name=name, tasks=tasks):
                self.set_tasks(name, tasks)
            case DropTasks(name=name):
                self.set_tasks(name, ())
                self._connectors[name].applied = None
            case PutTarget(name=name, target=target):
                self.set_target(name, target)
            case Delete(name=name):
                self.delete(name)
            case Restart(name=name):
                self.restart(name, with_tasks=change.with_tasks, only_failed=change.only_failed)

    def with_kept_secrets(self, name: str, config: Mapping[str, str], *, is_new: bool) -> dict[str, str]:
        """Return a configuration in which [hidden], where an answer showed it, is what is kept.

        Raises:
            HerderError: there is nothing that it could stand for (400).
        """
        masked = [key for key, text in config.items() if text == HIDDEN]
        if self._shows_secrets or not masked:
            return dict(config)
        kept = self._connectors[name] if name in self._connectors and not is_new else None
        made = dict(config)
        for key in masked:
            if kept is None or key not in kept.told.secrets or key not in kept.config:
                raise HerderError(
                    400, f"The value of {key} is {HIDDEN}, which stands for a secret in answers: give the secret itself"
                )
            made[key] = kept.config[key]
        return made

    def put(
        self, name: str, config: Mapping[str, str], told: Told, target: Target | None, *, may_replace: bool
    ) -> bool:
        """Take a configuration that was found right; return whether the connector is new.

        Raises:
            HerderError: there is one of that name already (409).
        """
        found = self._connectors.get(name)
        if found is not None and not may_replace:
            raise HerderError(409, f"Connector {name} already exists")
        if found is None:
            self._connectors[name] = Known(config=dict(config), target=target or "RUNNING", told=told)
        else:
            found.config, found.told = dict(config), told
            found.target = target or found.target
        self.start_connector(name)
        return found is None

    def start_connector(self, name: str) -> None:
        """Say that the connector itself stands as its target is."""
        found = self.known(name)
        if self.leads:
            found.standing = Standing(found.target)

    def needs_tasks(self, name: str) -> bool:
        """Whether tasks are to be made of a connector's configuration now."""
        found = self._connectors.get(name)
        return found is not None and found.target == "RUNNING" and found.standing.state == "RUNNING"

    def set_tasks(self, name: str, tasks: Sequence[Mapping[str, str]]) -> None:
        """Take the tasks that a connector makes of its configuration: if anything is different, all are started anew."""
        found = self.known(name)
        made = [dict(task) for task in tasks]
        if self.has_tasks(name, made):
            return
        found.tasks, found.applied = made, dict(found.config)
        found.standings = {
            number: at for number, at in found.standings.items() if at.worker_id is not None and number < len(made)
        }
        found.retries.clear()
        found.runs = {number: self._new_run() for number in range(len(made)) if self._is_here(name, number)}

    def has_tasks(self, name: str, tasks: Sequence[Mapping[str, str]]) -> bool:
        """Whether a connector has these tasks already, made of the configuration that it has."""
        found = self._connectors.get(name)
        return found is not None and found.tasks == list(tasks) and found.applied == found.config

    def _is_here(self, name: str, number: int) -> bool:
        return not self._shares or (name, number) in self._assigned

    def _new_run(self) -> int:
        self._last_run += 1
        return self._last_run

    def fail_connector(self, name: str, trace: str) -> None:
        """Note that a connector cannot start; its tasks stay as they are."""
        found = self._connectors.get(name)
        if found is not None:
            found.standing = Standing("FAILED", trace)

    def set_target(self, name: str, target: Target) -> None:
        """Pause, resume or stop a connector.

        Raises:
            HerderError: there is none of that name (404).
        """
        found = self._connectors.get(name)
        if found is None:
            raise HerderError(404, f"Unknown connector {name}")
        found.target = target
        if self.leads and (found.standing.state != "FAILED" or target == "STOPPED"):
            found.standing = Standing(target)
        if target == "STOPPED":
            found.tasks, found.applied = [], None
            found.standings.clear()
            found.retries.clear()
            found.runs.clear()

    def restart_plan(self, name: str, *, with_tasks: bool, only_failed: bool) -> tuple[bool, dict[str, Any]]:
        """Return whether a request restarts the connector itself, and the status as it is when that begins.

        Raises:
            HerderError: there is no such connector (404).
        """
        found = self._connectors.get(name)
        if found is None:
            raise HerderError(404, f"Unknown connector: {name}")
        itself, tasks = _to_restart(found, with_tasks=with_tasks, only_failed=only_failed)
        status = self.status(name)
        if itself:
            status["connector"]["state"] = "RESTARTING"
        for task in status["tasks"]:
            if task["id"] in tasks:
                task["state"] = "RESTARTING"
        return itself, status

    def restart(self, name: str, *, with_tasks: bool, only_failed: bool) -> None:
        """Restart what a request names, as far as it runs here.

        Raises:
            HerderError: there is no such connector (404).
        """
        found = self.known(name)
        itself, tasks = _to_restart(found, with_tasks=with_tasks, only_failed=only_failed)
        if itself:
            self.start_connector(name)
        for number in tasks:
            if number in found.runs:
                trace = found.standings[number].trace
                found.retries.pop(number, None)
                self._restart(found, number)
                found.standings[number].trace = trace

    def restart_task(self, name: str, number: int) -> None:
        """Start a task anew.

        Raises:
            HerderError: there is no such task (404).
        """
        found = self.known(name)
        if not 0 <= number < len(found.tasks):
            raise HerderError(404, f"Task {name}-{number} not found")
        if not self._is_here(name, number):
            raise HerderError(409, f"Task {name}-{number} does not run on this worker")
        found.retries.pop(number, None)
        self._restart(found, number)

    def _restart(self, found: Known, number: int) -> None:
        found.runs[number] = self._new_run()
        found.standings[number] = Standing("RESTARTING")

    def delete(self, name: str) -> None:
        """Forget a connector.

        Raises:
            HerderError: there is none of that name (404).
        """
        self.known(name)
        del self._connectors[name]

    # Several workers

    def task_ids(self) -> set[TaskId]:
        """Return all tasks that are to run somewhere."""
        return {
            (name, number)
            for name, found in self._connectors.items()
            if self._is_current(found)
            for number in range(len(found.tasks))
        }

    def bound(self) -> dict[str, str]:
        """Return connectors that run on one worker only (`worker`), and which."""
        found = {name: known.config.get("worker", "").strip() for name, known in self._connectors.items()}
        return {name: worker for name, worker in found.items() if worker}

    def assign(self, tasks: Iterable[TaskId]) -> None:
        """Run these tasks, and no others. A task that was not here before starts anew, even where it had failed."""
        before, self._assigned = self._assigned, set(tasks)
        for name, number in before - self._assigned:
            found = self._connectors.get(name)
            if found is not None:
                found.runs.pop(number, None)
                found.retries.pop(number, None)
                if number in found.standings:
                    found.standings[number] = Standing("UNASSIGNED", worker_id=self.worker_id)
        for name, number in self._assigned - before:
            found = self._connectors.get(name)
            if found is not None and number < len(found.tasks):
                found.runs[number] = self._new_run()
                found.standings[number] = Standing("UNASSIGNED")

    def lead(self, leads: bool) -> None:
        """Say how connectors themselves stand from now on, or leave that to another worker."""
        if leads == self.leads:
            return
        self.leads = leads
        for found in self._connectors.values():
            if leads:
                found.standing = Standing(found.target)
            else:
                found.standing = Standing(found.standing.state, found.standing.trace, self.worker_id)

    def connector_standings(self) -> dict[str, Standing]:
        """Return how connectors themselves stand."""
        return {name: found.standing for name, found in self._connectors.items()}

    def own_standings(self) -> dict[TaskId, Standing]:
        """Return how the tasks are that this worker was given."""
        return {
            (name, number): found.standings[number]
            for name, found in self._connectors.items()
            for number in found.runs
            if number in found.standings
        }

    def on_told(self, name: str, number: int | None, told: Standing) -> None:
        """Another worker says how a connector (None) or a task is. What this worker runs it knows better."""
        found = self._connectors.get(name)
        if found is None:
            return
        if number is None:
            if not self.leads:
                found.standing = told
        elif number not in found.runs and number < len(found.tasks):
            found.standings[number] = told

    def on_untold(self, name: str, number: int) -> None:
        """A task's status was taken back."""
        found = self._connectors.get(name)
        if found is not None and number not in found.runs:
            found.standings.pop(number, None)

    def unasked(self) -> list[str]:
        """Return connectors that have no tasks of their present configuration, though they are to have some."""
        return [
            name for name, found in self._connectors.items() if self.needs_tasks(name) and not self._is_current(found)
        ]

    def learn(self, name: str, config: Mapping[str, str], told: Told) -> None:
        """Take what is known of a connector's class, if it still has this configuration."""
        found = self._connectors.get(name)
        if found is not None and found.config == config:
            found.told = told

    def _is_current(self, found: Known) -> bool:
        return not self._shares or found.applied == found.config

    # What happens

    def on_running(self, name: str, number: int, run: int, is_paused: bool) -> None:
        """A task runs, or is paused."""
        found = self._current(name, number, run)
        at = Standing("") if found is None else found.standings.get(number, Standing(""))
        if found is not None and at.state != "FAILED":
            waits_for = at.trace if at.state in _ALIVE else None
            found.standings[number] = Standing("PAUSED" if is_paused else "RUNNING", waits_for)

    def on_waiting(self, name: str, number: int, run: int, reason: str | None) -> None:
        """A task that runs says why nothing comes, or that this is over (None)."""
        found = self._current(name, number, run)
        state = "" if found is None else found.standings.get(number, Standing("")).state
        if found is not None and state != "FAILED":
            found.standings[number] = Standing(state if state in _ALIVE else "RUNNING", reason)

    def on_failed(
        self, name: str, number: int, run: int, trace: str, *, has_new_offsets: bool = False, now_s: float = 0.0
    ) -> float | None:
        """A run has failed: the task stays so until it is restarted.

        Args:
            has_new_offsets: whether the run had written or committed offsets.

        Returns:
            in how many seconds it is started again by itself; None: it is not.
        """
        found = self._current(name, number, run)
        if found is None:
            return None
        found.standings[number] = Standing("FAILED", trace)
        if not found.restarts:
            return None
        retry = found.retries.setdefault(number, Retry())
        retry.failures = 1 if has_new_offsets else retry.failures + 1
        if retry.failures >= FAILURES_MAX:
            retry.due_s = None
            return None
        pause_s = min(_PAUSE_MAX_S, float(2 ** (retry.failures - 1)))
        retry.due_s = now_s + pause_s
        return pause_s

    def tick(self, now_s: float) -> None:
        """Start failed tasks again whose time has come."""
        for found in self._connectors.values():
            for number, retry in found.retries.items():
                if retry.due_s is not None and retry.due_s <= now_s:
                    retry.due_s = None
                    self._restart(found, number)

    def waits(self) -> bool:
        """Whether a failed task is to be started again."""
        return any(retry.due_s is not None for found in self._connectors.values() for retry in found.retries.values())

    def on_topics(self, name: str, topics: Iterable[str]) -> None:
        """A connector uses topics."""
        found = self._connectors.get(name)
        if found is not None:
            found.topics.update(topics)

    def _current(self, name: str, number: int, run: int) -> Known | None:
        found = self._connectors.get(name)
        return found if found is not None and found.runs.get(number) == run else None

    def wanted(self) -> dict[TaskId, Wanted]:
        """Return the tasks that are to run; a failed run is over."""
        return {
            (name, number): Wanted(run=found.runs[number], is_paused=found.target == "PAUSED", config=config)
            for name, found in self._connectors.items()
            if self._is_current(found)
            for number, config in enumerate(found.tasks)
            if number in found.runs and found.standings.get(number, Standing("")).state != "FAILED"
        }


def _to_restart(found: Known, *, with_tasks: bool, only_failed: bool) -> tuple[bool, list[int]]:
    """Return whether the connector itself is to start anew, and which tasks."""
    tasks = [number for number, at in found.standings.items() if not only_failed or at.state == "FAILED"]
    return not only_failed or found.standing.state == "FAILED", tasks if with_tasks else []
