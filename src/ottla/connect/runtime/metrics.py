"""Metrics of a worker under Kafka's names, in Prometheus' text format, as the JMX exporter writes them.

Tasks count in their own processes, which tell the worker from time to time. No I/O.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ottla.connect.runtime.runs import TaskId
from ottla.observability.exposition import Family, label_set

#: What a task counts, by Kafka's group of metrics: the name, and whether it only grows.
_TASK: Final[Mapping[str, tuple[tuple[str, bool], ...]]] = {
    "source-task-metrics": (
        ("source-record-poll-total", True),
        ("source-record-write-total", True),
        ("source-record-active-count", False),
    ),
    "sink-task-metrics": (
        ("sink-record-read-total", True),
        ("sink-record-send-total", True),
        ("offset-commit-completion-total", True),
        ("partition-count", False),
    ),
    "task-error-metrics": (
        ("total-record-failures", True),
        ("total-records-skipped", True),
        ("total-retries", True),
        ("total-errors-logged", True),
        ("deadletterqueue-produce-requests", True),
    ),
}
_TEXTS: Final = {
    "source-record-poll-total": "Records that a source task has brought.",
    "source-record-write-total": "Records of a source task that were sent, after its transforms.",
    "source-record-active-count": "Records of a source task that are not acknowledged yet.",
    "sink-record-read-total": "Records that a sink task has read.",
    "sink-record-send-total": "Records that a sink task was given, after its transforms.",
    "offset-commit-completion-total": "Commits of offsets.",
    "partition-count": "Partitions that a sink task has.",
    "total-record-failures": "Records that failed.",
    "total-records-skipped": "Records that were passed over.",
    "total-retries": "Attempts that were repeated.",
    "total-errors-logged": "Failures that were logged.",
    "deadletterqueue-produce-requests": "Dead letters that were sent.",
}
_STATES: Final = ("RUNNING", "PAUSED", "FAILED", "UNASSIGNED", "RESTARTING")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of the worker itself: its name with Kafka's group, a sentence, its value, and whether that only grows."""

    group: str
    name: str
    text: str
    value: float
    grows: bool = False


class Counts:
    """What one task counts; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Count so many more."""
        with self._lock:
            self._values[name] += count

    def set(self, name: str, value: int) -> None:
        """Set what may go down."""
        with self._lock:
            self._values[name] = value

    def read(self) -> dict[str, int]:
        """Return all that was counted."""
        with self._lock:
            return dict(self._values)


def page(
    worker: Iterable[Row],
    states: Mapping[str, Sequence[str]],
    counts: Mapping[TaskId, Mapping[str, int]],
) -> bytes:
    """Return the page.

    Args:
        worker: metrics of the worker itself.
        states: the states of the tasks of each connector.
        counts: what tasks of this worker have counted.
    """
    families = [_family(row.group, row.name, row.text, row.grows, [("", row.value)]) for row in worker]
    for state in (None, *_STATES):
        what = "total" if state is None else state.lower()
        samples = [
            (label_set(("connector", name)), float(sum(state in (None, each) for each in found)))
            for name, found in sorted(states.items())
        ]
        text = f"Tasks of a connector that are {what}." if state else "Tasks of a connector."
        families.append(_family("connect-worker-metrics", f"connector-{what}-task-count", text, False, samples))
    for group, rows in _TASK.items():
        for name, grows in rows:
            kind = group.partition("-")[0]  # a source's tasks have no metrics of sinks
            samples = [
                (label_set(("connector", connector), ("task", str(task))), float(found.get(name, 0)))
                for (connector, task), found in sorted(counts.items())
                if kind == "task" or any(counted.startswith(kind) for counted in found)
            ]
            families.append(_family(group, name, _TEXTS[name], grows, samples))
    return b"".join(family.render() for family in families)


def _family(group: str, name: str, text: str, grows: bool, samples: Iterable[tuple[str, float]]) -> Family:
    family = Family(f"kafka_connect_{group}_{name}".replace("-", "_"), "counter" if grows else "gauge", text)
    for labels, value in samples:
        family.add(int(value) if value == int(value) else value, labels)
    return family
