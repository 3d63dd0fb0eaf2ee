"""The worker's side of the process that knows plugins (`inspector.py`): questions with a deadline.

A plugin that does not answer in time costs its process, not the worker. The process is started when there is a question,
and ends when there was none for a while, so that an upgraded package is seen then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from ottla.connect.runtime.changes import Told
from ottla.connect.runtime.children import Child, Nursery
from ottla.connect.runtime.environments import environment_of
from ottla.connect.runtime.herder import HerderError

_MODULE: Final = "ottla.connect.runtime.inspector"
#: Java's limit for a request.
DEADLINE_S: Final = 90.0
_IDLE_S: Final = 60.0


class InspectionError(HerderError):
    """A question was answered with an error.

    Attributes:
        kind: missing, wrong, failed, or late.
        trace: where it was raised.
    """

    def __init__(self, kind: str, message: str, trace: str) -> None:
        super().__init__({"missing": 404, "wrong": 400}.get(kind, 500), message)
        self.kind = kind
        self.trace = trace or message


class Inspection:
    """Asks one question at a time; any thread may.

    Args:
        deadline_s: after so long a question is given up, and its process killed.
    """

    def __init__(self, worker: Mapping[str, str], nursery: Nursery, deadline_s: float = DEADLINE_S) -> None:
        self._worker = dict(worker)
        self._nursery = nursery
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        #: Of each environment (`environments.py`), the process that knows its plugins, and when it was last asked.
        self._children: dict[str, Child] = {}
        self._asked: dict[str, float] = {}
        self._is_closed = False

    def validate(self, config: Mapping[str, str | None]) -> tuple[dict[str, Any], Told]:
        """Return what is right and wrong with a configuration, key by key, and what is known of its class.

        Raises:
            InspectionError: there is no such class, or it cannot be looked at.
        """
        found = self._ask({"do": "validate", "config": dict(config)})
        return found["infos"], _told(found)

    def look(self, config: Mapping[str, str]) -> Told:
        """Return what is known of a connector's class.

        Raises:
            InspectionError: there is no such class.
        """
        return _told(self._ask({"do": "look", "config": dict(config)}))

    def tasks(self, config: Mapping[str, str]) -> tuple[list[dict[str, str]], Told]:
        """Return the configurations of a connector's tasks.

        Raises:
            InspectionError: the configuration is wrong, or the connector fails.
        """
        found = self._ask({"do": "tasks", "config": dict(config)})
        return found["tasks"], _told(found)

    def alter(self, config: Mapping[str, str], offsets: list[list[Any]]) -> bool:
        """Have a connector check offsets; return whether they count as they are.

        Raises:
            InspectionError: they are none of its.
        """
        return bool(self._ask({"do": "alter", "config": dict(config), "offsets": offsets}))

    def left_behind(self, config: Mapping[str, str]) -> str | None:
        """Return what stays elsewhere of a connector that was deleted, or None.

        Raises:
            InspectionError: it cannot be looked at.
        """
        found: str | None = self._ask({"do": "left", "config": dict(config)})
        return found

    def plugins(self) -> list[dict[str, Any]]:
        """Return all plugins."""
        found: list[dict[str, Any]] = self._ask({"do": "plugins"})
        return found

    def definition(self, plugin: str) -> list[dict[str, Any]]:
        """Return the rows of a plugin's configuration.

        Raises:
            InspectionError: there is none of that name.
        """
        found: list[dict[str, Any]] = self._ask({"do": "definition", "plugin": plugin})
        return found

    def _ask(self, question: dict[str, Any]) -> Any:
        environment = environment_of(question.get("config", {}))
        with self._lock:
            child = self._fresh(environment)
            late = threading.Event()

            def give_up() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(self._deadline_s, give_up)
            timer.daemon = True
            timer.start()
            child.say(question)
            answer = next(child.lines(), None)
            timer.cancel()
            self._asked[environment] = time.monotonic()
            if answer is None:
                self._drop(environment)
        if answer is None:
            what = f"did not answer within {self._deadline_s:g} s" if late.is_set() else "has ended"
            raise InspectionError("late", f"Request timed out. The process that looks at plugins {what}.", "")
        if "error" in answer:
            error = answer["error"]
            raise InspectionError(error["kind"], error["message"], error["trace"])
        return answer["answer"]

    def _fresh(self, environment: str) -> Child:
        if self._is_closed:
            raise InspectionError("late", "The worker stops.", "")
        now = time.monotonic()
        for name, child in list(self._children.items()):
            if child.has_ended() or now - self._asked[name] > _IDLE_S:
                self._drop(name)
        if environment not in self._children:
            self._children[environment] = child = self._nursery.start(_MODULE)
            self._asked[environment] = now
            child.say(self._worker)
        return self._children[environment]

    def _drop(self, environment: str) -> None:
        child = self._children.pop(environment, None)
        if child is not None:
            child.kill()
            child.wait()
            child.close()

    def close(self) -> None:
        """End the processes; a question that waits is given up."""
        self._is_closed = True
        for child in list(self._children.values()):
            child.kill()
        with self._lock:
            for environment in list(self._children):
                self._drop(environment)


def _told(found: Mapping[str, Any]) -> Told:
    return Told(kind=found["type"], version=found["version"], secrets=frozenset(found["secrets"]))
