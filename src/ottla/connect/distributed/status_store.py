"""The topic of states in Java's format: what workers say of connectors, tasks and topics.

status-connector-<name>                  {"state", "trace", "worker_id", "generation", "version"}
status-task-<name>-<number>              the same
status-topic-<topic>:connector-<name>    {"topic": {"name", "connector", "task", "discoverTimestamp"}}
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ottla import Producer
from ottla.connect.distributed.topics import LogRecord, TopicLog
from ottla.connect.runtime.herder import Standing
from ottla.connect.runtime.runs import TaskId
from ottla.connect.settings import client_config

log = logging.getLogger(__name__)
_TASK: Final = re.compile(r"status-task-(.+)-([0-9]+)", re.DOTALL)
_TOPIC: Final = re.compile(r"status-topic-([^:]+):connector-(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was said last: of a connector (no task), or of a task."""

    name: str
    task: int | None
    state: str | None
    trace: str | None = None
    worker_id: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A connector uses a topic, or that was forgotten."""

    name: str
    topic: str
    is_forgotten: bool


def read(key: bytes | None, value: bytes | None) -> Said | Used | None:
    """Return what a record says; None: nothing that is understood."""
    name = (key or b"").decode(errors="replace")
    try:
        if (topic := _TOPIC.fullmatch(name)) is not None:
            return Used(name=topic[2], topic=topic[1], is_forgotten=value is None)
        task = _TASK.fullmatch(name)
        if task is None and not name.startswith("status-connector-"):
            return None
        of, number = (task[1], int(task[2])) if task else (name.removeprefix("status-connector-"), None)
        if value is None:
            return Said(name=of, task=number, state=None)
        found = json.loads(value)
        return Said(
            name=of,
            task=number,
            state=str(found["state"]),
            trace=found.get("trace"),
            worker_id=str(found["worker_id"]),
            generation=int(found["generation"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("the topic of states has a record %r that is not understood", name)
        return None


def status_key(name: str, task: int | None) -> str:
    """Return the key of a connector's or a task's state."""
    return f"status-connector-{name}" if task is None else f"status-task-{name}-{task}"


class StatusStore:
    """Reads and writes states; what was said last is kept by connector and task.

    Args:
        on_said: called with what is read, in the reader's thread.
    """

    def __init__(
        self,
        topic: str,
        partitions: int,
        worker: Mapping[str, str],
        worker_id: str,
        on_said: Callable[[Said | Used], None],
    ) -> None:
        self.log = TopicLog(topic, partitions, worker, self._take)
        self._topic = topic
        self._worker_id = worker_id
        self._on_said = on_said
        self._lock = threading.Lock()
        self._said: dict[tuple[str, int | None], Said] = {}
        self._used: set[tuple[str, str]] = set()
        #: What this worker has written, and not taken back.
        self._is_abandoned = False
        self._written: dict[tuple[str, int | None], tuple[str, str | None]] = {}
        self._producer: Producer[Any, Any] = Producer(
            worker.get("bootstrap.servers", "localhost:9092"),
            config=client_config(worker, "") | {"delivery.timeout.ms": "2147483647", "max.block.ms": "10000"},
        )

    def start(self) -> None:
        """Begin."""
        self._producer.start()
        self.log.start()

    def stop(self, timeout_s: float) -> None:
        """Write what is left, and end."""
        self._producer.close(timeout_s)
        self.log.stop()

    def _take(self, rows: list[LogRecord]) -> None:
        for row in rows:
            found = read(row.key, row.value)
            if found is None:
                continue
            with self._lock:
                match found:
                    case Said(name=name, task=task, state=None):
                        self._said.pop((name, task), None)
                    case Said(name=name, task=task):
                        self._said[name, task] = found
                    case Used(name=name, topic=topic, is_forgotten=True):
                        self._used.discard((name, topic))
                    case Used(name=name, topic=topic):
                        self._used.add((name, topic))
            self._on_said(found)

    def last_workers(self) -> dict[TaskId, str]:
        """Return which worker has said something of a task last."""
        with self._lock:
            return {(name, task): said.worker_id for (name, task), said in self._said.items() if task is not None}

    def said(self, name: str) -> list[Said]:
        """Return what was said of a connector's tasks."""
        with self._lock:
            return [said for (of, task), said in self._said.items() if of == name and task is not None]

    def all_said(self, name: str) -> list[Said | Used]:
        """Return everything that was said last about a connector."""
        with self._lock:
            used = [Used(name=of, topic=topic, is_forgotten=False) for of, topic in self._used if of == name]
            return [*(said for (of, _), said in self._said.items() if of == name), *used]

    def write(
        self,
        standings: Mapping[tuple[str, int | None], Standing],
        generation: int,
        exists: Callable[[str, int | None], bool],
    ) -> None:
        """Say how things are that are this worker's; of what is not any more, that it is free, or gone.

        Args:
            exists: whether there is such a connector or task.

        Raises:
            KafkaError: some of it cannot be sent now: it is tried again the next time.
        """
        if self._is_abandoned:
            self._is_abandoned = False
            self._written.clear()
        for place, at in standings.items():
            if self._written.get(place) != (at.state, at.trace):
                self._put(place, at.state, at.trace, generation)
                self._written[place] = at.state, at.trace
        for place in [each for each in self._written if each not in standings]:
            with self._lock:
                last = self._said.get(place)
            if not exists(*place):
                self._send(status_key(*place), None)
            elif place[1] is not None and (last is None or last.worker_id == self._worker_id):
                self._put(place, "UNASSIGNED", None, generation)
            del self._written[place]

    def _put(self, place: tuple[str, int | None], state: str, trace: str | None, generation: int) -> None:
        value = {"state": state, "trace": trace, "worker_id": self._worker_id, "generation": generation}
        self._send(status_key(*place), value)

    def _send(self, key: str, value: Mapping[str, Any] | None) -> None:
        data = None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        self._producer.send(self._topic, data, key=key.encode())

    def flush(self, timeout_s: float) -> None:
        """Wait until what was said is written.

        Raises:
            KafkaError: it is not.
        """
        self._producer.flush(timeout_s)

    def use(self, name: str, topic: str, task: int) -> None:
        """Say that a connector uses a topic."""
        with self._lock:
            if (name, topic) in self._used:
                return
        found = {"name": topic, "connector": name, "task": task, "discoverTimestamp": time.time_ns() // 1_000_000}
        self._send(f"status-topic-{topic}:connector-{name}", {"topic": found})

    def forget_topics(self, name: str) -> None:
        """Take back which topics a connector uses."""
        with self._lock:
            topics = [topic for of, topic in self._used if of == name]
        for topic in topics:
            self._send(f"status-topic-{topic}:connector-{name}", None)

    def forget(self, name: str) -> None:
        """Take back what was said of the tasks of a connector that is gone."""
        for said in self.said(name):
            self._send(status_key(name, said.task), None)
        self._send(status_key(name, None), None)
        self.forget_topics(name)

    def abandon(self) -> None:
        """Others may have said something since: say everything again. For any thread."""
        self._is_abandoned = True
