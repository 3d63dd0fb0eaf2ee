"""Tasks of sources that are exactly once, between their worker and the leader (KIP-618).

1. The leader writes tasks: they are unfenced, and none begins.  2. It shuts out the producers that tasks before may have, and
writes how many there may be from now on.  3. A task asks whether it may take its transactional id: once that was read, if it
is its worker's.  4. It asks whether it may begin: its worker reads to the end of both topics, and looks again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ottla
from ottla.connect.runtime.runs import TaskId, Wanted
from ottla.connect.settings import client_config

_FENCE_S: Final = 30.0
#: A process, and a task there.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks: whether a run may take its next step."""

    connector: str
    run: int
    step: str


class Questions:
    """What tasks ask before they begin. No I/O."""

    def __init__(self) -> None:
        self._open: dict[Place, Question] = {}

    def ask(self, place: Place, question: Question) -> None:
        """Take a question."""
        self._open[place] = question

    def granted(
        self, hosts: Collection[int], wanted: Mapping[TaskId, Wanted], unfenced: Collection[str]
    ) -> dict[Place, Question]:
        """Return the questions whose answer is yes; those of processes that are gone are forgotten.

        Args:
            wanted: the tasks that are to run here now.
            unfenced: connectors whose tasks before may still write.
        """
        self._open = {place: asked for place, asked in self._open.items() if place[0] in hosts}
        return {
            place: asked
            for place, asked in self._open.items()
            if (what := wanted.get((asked.connector, place[1]))) is not None
            and what.run == asked.run
            and asked.connector not in unfenced
        }

    def answered(self, place: Place) -> None:
        """Forget a question."""
        self._open.pop(place, None)


def shut_out(name: str, count: int, group: str, worker: Mapping[str, str], config: Mapping[str, str]) -> None:
    """Shut out all producers that a source's tasks may have.

    Args:
        count: how many tasks there were.

    Raises:
        KafkaError: they are not, or not all.
    """
    if not count:
        return
    servers = worker.get("bootstrap.servers", "localhost:9092")
    with ottla.Admin(servers, config=client_config(worker, "admin", config)) as admin:
        admin.fence_producers([transactional_id(group, name, number) for number in range(count)], timeout=_FENCE_S)


def transactional_id(group: str, connector: str, number: int) -> str:
    """Return the transactional id of a task: Java's."""
    return f"{group}-{connector}-{number}"


def where_of(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """Return what tasks have to know of their group to be exactly once; None: they are not."""
    if settings["exactly.once.source.support"].lower() != "enabled":
        return None
    return {"group": settings["group.id"], "topic": settings["offset.storage.topic"]}
