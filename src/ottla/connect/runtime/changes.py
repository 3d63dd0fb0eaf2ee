"""What may change about connectors: what requests ask for, and what the topic of configurations says (`Herder.apply`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Target = Literal["RUNNING", "PAUSED", "STOPPED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of a connector's class since it was looked at.

    Attributes:
        kind: source or sink.
        secrets: keys whose values nobody sees.
    """

    kind: str = "unknown"
    version: str | None = None
    secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PutConnector:
    """A connector is there, or has another configuration. Its target stays what it is where none is given."""

    name: str
    config: Mapping[str, str]
    told: Told = field(default_factory=Told)
    target: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutTasks:
    """A connector has these tasks, made of the configuration that it has now."""

    name: str
    tasks: Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTasks:
    """What is known of a connector's tasks is incomplete: they do not run, and are to be made again."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutTarget:
    """A connector is to run, to pause or to stop."""

    name: str
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A connector is gone."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A connector is to start anew: itself, or some of its tasks, too."""

    name: str
    with_tasks: bool
    only_failed: bool


Change = PutConnector | PutTasks | DropTasks | PutTarget | Delete | Restart
