"""`ottla config`: get, set, unset."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ottla.cli.output import Output, note, output_options
from ottla.cli.running import Connection, connected, run_command
from ottla.client.admin_words import CONFIG_RESOURCES
from ottla.client.errors import ConfigurationError
from ottla.errors import InvalidConfigError

KIND = click.argument("kind", type=click.Choice(list(CONFIG_RESOURCES)))
NAME = click.argument("name")


@click.group()
def config() -> None:
    """Configurations of topics, brokers ("" for all), groups, loggers and client metrics."""


@config.command()
@KIND
@NAME
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "everything", is_flag=True, help="Defaults, too.")
@click.option("--explain", is_flag=True, help="What each key means.")
@connected
@output_options
def get(
    connection: Connection,
    output: Output,
    kind: str,
    name: str,
    keys: Sequence[str],
    everything: bool,
    explain: bool,
) -> None:
    """Show what is set, or these keys."""
    with connection.admin() as admin:
        entries = admin.describe_configs(kind, name, keys=keys or None, documentation=explain)
    missing = [key for key in keys if key not in entries]
    if missing:
        raise ConfigurationError(f"a {kind} has no key {missing[0]}")
    rows = [
        {
            "key": entry.name,
            "value": "(hidden)" if entry.is_sensitive else entry.value,
            "source": entry.source,
            **({"documentation": entry.documentation} if explain else {}),
        }
        for _, entry in sorted(entries.items())
        if everything or keys or not entry.is_default
    ]
    output.show(rows, ("key", "value", "source", *(["documentation"] if explain else [])))


@config.command("set")
@KIND
@NAME
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--dry-run", is_flag=True, help="Only check.")
@connected
def set_(connection: Connection, kind: str, name: str, pairs: Sequence[str], dry_run: bool) -> None:
    """Change keys; KEY+=VALUE and KEY-=VALUE add to a list and take from it."""
    changes: dict[str, dict[str, str]] = {"": {}, "+": {}, "-": {}}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{pair!r} is no KEY=VALUE")
        how = key[-1] if key[-1] in "+-" else ""
        changes[how][key.rstrip("+-") if how else key] = value
    with connection.admin() as admin:
        try:
            admin.alter_configs(
                kind, name, changes[""], append=changes["+"], subtract=changes["-"], validate_only=dry_run
            )
        except InvalidConfigError as error:
            # As for a value that is no duration: what was typed is wrong, whichever side finds it.
            raise ConfigurationError(str(error)) from error
    note(f"{kind} {name or 'of all'}: {'it could be changed' if dry_run else 'changed'}")


@config.command()
@KIND
@NAME
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@connected
def unset(connection: Connection, kind: str, name: str, keys: Sequence[str]) -> None:
    """Take keys back to their defaults."""
    with connection.admin() as admin:
        admin.alter_configs(kind, name, dict.fromkeys(keys))
    note(f"{kind} {name or 'of all'}: changed")


def main(arguments: Sequence[str]) -> int:
    """Run `ottla config`; return the exit code."""
    return run_command(config, "config", arguments)
