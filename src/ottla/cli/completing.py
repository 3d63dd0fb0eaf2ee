"""What a shell offers when Tab is pressed: names of topics and groups, asked of the cluster, for a second at most."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ottla.client.admin import Admin

_TIMEOUT_MS = 1_000


def _names(context: click.Context, incomplete: str, ask: Callable[[Admin], list[str]]) -> list[str]:
    from ottla.cli.running import Connection
    from ottla.client.admin import Admin
    from ottla.client.errors import ConfigurationError
    from ottla.errors import KafkaError

    given = context.params
    try:
        connection = Connection(
            given.get("servers"), given.get("context"), given.get("overrides") or (), os.environ, given.get("file")
        )
        config = {**connection.config, "default.api.timeout.ms": _TIMEOUT_MS, "request.timeout.ms": _TIMEOUT_MS}
        with Admin(config=config, connect_timeout=_TIMEOUT_MS / 1000) as admin:
            return [name for name in ask(admin) if name.startswith(incomplete)]
    except (KafkaError, ConfigurationError, OSError, click.UsageError):
        return []  # a shell shows nothing rather than an error


def complete_topics(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return topics that begin with what was typed."""
    return _names(context, incomplete, lambda admin: [topic.name for topic in admin.list_topics()])


def complete_groups(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return groups that begin with what was typed."""
    return _names(context, incomplete, lambda admin: [group.group_id for group in admin.list_groups()])
