"""`ottla quota`: list, set, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final

import click

from ottla.cli.output import Output, note, output_options
from ottla.cli.running import Connection, connected, run_command
from ottla.client.keys import _size as size_bytes

#: What can be limited, and what it is.
KEYS: Final = {
    "producer_byte_rate": "bytes per second that are sent",
    "consumer_byte_rate": "bytes per second that are read",
    "request_percentage": "percent of one processor that requests take",
    "controller_mutation_rate": "partitions per second that are made or deleted",
    "connection_creation_rate": "connections per second; of an address",
}
_BYTES: Final = frozenset({"producer_byte_rate", "consumer_byte_rate"})
Entity = dict[str, str | None]


@click.group()
def quota() -> None:
    """How much users, client ids and addresses may use.

    Of a user, a client id or both together; the default is for all that have none of their own. What fits best counts.
    """


def entity_options(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that name an entity; they arrive as `entity`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def call(*args: Any, **kwargs: Any) -> Any:
            entity = _entity(kwargs, required=required)
            return command(*args, entity=entity, **kwargs)

        for kind, word in (("user", "USER"), ("client-id", "ID"), ("ip", "ADDRESS")):
            call = click.option(f"--{kind}", metavar=word, help=f"A {kind}.")(call)
            call = click.option(
                f"--{kind}-default", is_flag=True, help=f"All of a {kind} without limits of their own."
            )(call)
        return call

    return decorate


def _entity(options: dict[str, Any], *, required: bool) -> Entity:
    """Return the entity that options name, and take them out."""
    entity: Entity = {}
    for kind in ("user", "client-id", "ip"):
        name = kind.replace("-", "_")
        value, is_default = options.pop(name), options.pop(f"{name}_default")
        if value is not None and is_default:
            raise click.UsageError(f"--{kind} and --{kind}-default exclude each other")
        if value is not None or is_default:
            entity[kind] = value
    if required and not entity:
        raise click.UsageError("say whose: --user, --client-id, --ip, or one of their defaults")
    if "ip" in entity and len(entity) > 1:
        raise click.UsageError("an address has limits of its own: --ip stands alone")
    return entity


def shown(entity: Mapping[str, str | None]) -> str:
    """Return an entity for people."""
    return ", ".join(f"{kind} {'(default)' if name is None else name}" for kind, name in entity.items())


@quota.command("list")
@entity_options(required=False)
@connected
@output_options
def list_(connection: Connection, output: Output, entity: Entity) -> None:
    """Show limits: all, or those of an entity."""
    with connection.admin() as admin:
        found = admin.describe_client_quotas(entity or None)
    rows = [
        {
            "user": _cell(one.entity, "user"),
            "client-id": _cell(one.entity, "client-id"),
            "ip": _cell(one.entity, "ip"),
            "limit": key,
            "value": f"{value:g}" if value != int(value) else str(int(value)),
        }
        for one in found
        for key, value in sorted(one.values.items())
    ]
    columns = [column for column in ("user", "client-id", "ip") if any(row[column] for row in rows)]
    rows.sort(key=lambda row: tuple(row.values()))
    output.show(rows, (*(columns or ("user",)), "limit", "value"))


def _cell(entity: Mapping[str, str | None], kind: str) -> str:
    if kind not in entity:
        return ""
    name = entity[kind]
    return "(default)" if name is None else name


@quota.command("set")
@entity_options(required=True)
@click.argument("pairs", nargs=-1, required=True, metavar="LIMIT=VALUE...")
@click.option("--dry-run", is_flag=True, help="Only check.")
@connected
def set_(connection: Connection, entity: Entity, pairs: Sequence[str], dry_run: bool) -> None:
    """Set limits, at once for clients that are connected, too.

    producer_byte_rate, consumer_byte_rate (`10MiB`), request_percentage, controller_mutation_rate; of an address
    connection_creation_rate.
    """
    values = dict(_limit(pair) for pair in pairs)
    with connection.admin() as admin:
        admin.alter_client_quotas(entity, values, validate_only=dry_run)
    note(f"{shown(entity)}: {'it could be changed' if dry_run else 'changed'}")


def _limit(pair: str) -> tuple[str, float]:
    key, equals, text = pair.partition("=")
    if not equals:
        raise click.UsageError(f"{pair!r} is no LIMIT=VALUE")
    if key not in KEYS:
        raise click.UsageError(f"there is no limit {key!r}; there are {', '.join(KEYS)}")
    try:
        value = float(size_bytes(key, text)) if key in _BYTES else float(text)
    except ValueError:
        raise click.UsageError(f"{key} takes a number, not {text!r}") from None
    if not value > 0:
        raise click.UsageError(f"{key} is more than 0; without a limit: ottla quota delete")
    return key, value


@quota.command()
@entity_options(required=True)
@click.argument("keys", nargs=-1, metavar="[LIMIT]...")
@connected
def delete(connection: Connection, entity: Entity, keys: Sequence[str]) -> None:
    """Take these limits away, or all of an entity."""
    with connection.admin() as admin:
        if not keys:
            found = admin.describe_client_quotas(entity, strict=True)
            keys = [key for one in found if one.entity == entity for key in one.values]
            if not keys:
                raise click.ClickException(f"{shown(entity)}: there are no limits")
        admin.alter_client_quotas(entity, dict.fromkeys(keys))
    note(f"{shown(entity)}: without {', '.join(sorted(keys))}")


def main(arguments: Sequence[str]) -> int:
    """Run `ottla quota`; return the exit code."""
    return run_command(quota, "quota", arguments)
