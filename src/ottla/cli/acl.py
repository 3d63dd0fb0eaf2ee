"""`ottla acl`: who may do what, in the words of kafka-acls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ottla.cli.output import Output, note, output_options
from ottla.cli.running import Connection, confirm, connected, run_command
from ottla.client.admin_results import Acl, AclFilter
from ottla.client.admin_words import OPERATIONS

_OPERATIONS = [name for name in OPERATIONS if name not in ("unknown", "any")]
#: Options that name resources, and what they name.
_RESOURCES = {
    "topics": ("topic", "--topic"),
    "groups": ("group", "--group"),
    "transactional_ids": ("transactional_id", "--transactional-id"),
    "tokens": ("delegation_token", "--delegation-token"),
    "users": ("user", "--user-principal"),
}
#: What kafka-acls means by --producer and --consumer.
_PRODUCER = {"topic": ("write", "describe", "create"), "transactional_id": ("write", "describe")}
_CONSUMER = {"topic": ("read", "describe"), "group": ("read",)}

Pair = tuple[str, str]


def _operation(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    """Take Kafka's spelling (DescribeConfigs) and ours (describe_configs)."""
    by_letters = {name.replace("_", ""): name for name in _OPERATIONS}
    found = []
    for value in values:
        name = by_letters.get(value.lower().replace("_", "").replace("-", ""))
        if name is None:
            raise click.BadParameter(f"{value!r} is no operation; there are {', '.join(_OPERATIONS)}")
        found.append(name)
    return found


def _resource_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--topic", "topics", multiple=True, metavar="NAME", help="*: all."),
        click.option("--group", "groups", multiple=True, metavar="NAME"),
        click.option("--cluster", is_flag=True, help="The cluster itself."),
        click.option("--transactional-id", "transactional_ids", multiple=True, metavar="NAME"),
        click.option("--delegation-token", "tokens", multiple=True, metavar="OWNER"),
        click.option("--user-principal", "users", multiple=True, metavar="NAME"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _principal(text: str) -> str:
    """Return a principal with its kind: a bare name is a user."""
    return text if ":" in text else f"User:{text}"


@click.group()
def acl() -> None:
    """Access rules: who may do what from where."""


@acl.command()
@click.option(
    "--principal", "--allow-principal", "allowed", multiple=True, metavar="User:NAME", help="Who may. *: all."
)
@click.option(
    "--deny-principal", "denied", multiple=True, metavar="User:NAME", help="Who may not; goes before all else."
)
@click.option("--host", "--allow-host", "allow_hosts", multiple=True, metavar="ADDRESS", help="From where. Default: *.")
@click.option("--deny-host", "deny_hosts", multiple=True, metavar="ADDRESS")
@click.option("--operation", "operations", multiple=True, callback=_operation, help="Read, Write, ... Default: All.")
@click.option("--producer", is_flag=True, help="What a producer needs of its topics and transactional ids.")
@click.option("--consumer", is_flag=True, help="What a consumer needs of its topics and groups.")
@click.option("--idempotent", is_flag=True, help="Idempotent producing for brokers older than Kafka 2.8.")
@click.option(
    "--resource-pattern-type",
    "pattern",
    type=click.Choice(["literal", "prefixed"], case_sensitive=False),
    default="literal",
    show_default=True,
)
@_resource_options
@connected
@output_options
def add(connection: Connection, output: Output, **options: Any) -> None:
    """Add rules. Those that are there already stay.

    \b
    ottla acl add --principal User:alice --producer --topic orders
    ottla acl add --principal User:bob --consumer --topic orders --group billing
    ottla acl add --principal User:eve --operation Read --topic secret- --resource-pattern-type prefixed
    """
    rules = _rules(options)
    with connection.admin() as admin:
        admin.create_acls(rules)
    _show(output, rules)


def _rules(options: dict[str, Any]) -> list[Acl]:
    resources = _resources(options)
    who = [("allow", name, options["allow_hosts"]) for name in options["allowed"]]
    who += [("deny", name, options["deny_hosts"]) for name in options["denied"]]
    if not who:
        raise click.UsageError("say who: --principal User:NAME, or --deny-principal")
    wanted: dict[tuple[Pair, str], None] = {}
    if options["producer"] or options["consumer"]:
        if options["operations"] or options["denied"]:
            raise click.UsageError(
                "--producer and --consumer stand for operations that are allowed: leave out the others"
            )
        wanted |= _for_clients(resources, options)
    else:
        if not resources:
            raise click.UsageError("say what for: --topic, --group, --cluster, --transactional-id, ...")
        wanted |= {(each, name): None for each in resources for name in options["operations"] or ["all"]}
    return [
        Acl(
            principal=_principal(name),
            operation=operation,
            resource_type=kind,
            resource_name=resource,
            # There is one cluster: it has no prefixes.
            pattern_type="literal" if kind == "cluster" else options["pattern"].lower(),
            host=host,
            permission=permission,
        )
        for permission, name, hosts in who
        for host in hosts or ("*",)
        for (kind, resource), operation in wanted
    ]


def _for_clients(resources: Sequence[Pair], options: dict[str, Any]) -> dict[tuple[Pair, str], None]:
    """Return what --producer and --consumer stand for, as kafka-acls has it."""
    kinds = {kind for kind, _ in resources}
    if "topic" not in kinds:
        raise click.UsageError("--producer and --consumer need --topic")
    if options["consumer"] and "group" not in kinds:
        raise click.UsageError("--consumer needs --group")
    if not options["consumer"] and "group" in kinds:
        raise click.UsageError("--group is for --consumer")
    wanted: dict[tuple[Pair, str], None] = {}
    for flag, table in (("producer", _PRODUCER), ("consumer", _CONSUMER)):
        if options[flag]:
            wanted |= {((kind, name), operation): None for kind, name in resources for operation in table.get(kind, ())}
    if options["producer"] and options["idempotent"]:
        wanted[("cluster", "kafka-cluster"), "idempotent_write"] = None
    return wanted


def _resources(options: dict[str, Any]) -> list[Pair]:
    found = [(kind, name) for option, (kind, _) in _RESOURCES.items() for name in options[option]]
    return [*found, *([("cluster", "kafka-cluster")] if options["cluster"] else [])]


_filter_pattern = click.option(
    "--resource-pattern-type",
    "pattern",
    type=click.Choice(["any", "match", "literal", "prefixed"], case_sensitive=False),
    help="match: what applies to a name, prefixes and * included.",
)


@acl.command("list")
@click.option("--principal", "principals", multiple=True, metavar="User:NAME", help="Only rules about these.")
@_filter_pattern
@_resource_options
@connected
@output_options
def list_rules(connection: Connection, output: Output, principals: Sequence[str], **options: Any) -> None:
    """List rules: all, or those about some resources or principals."""
    pattern = (options["pattern"] or "any").lower()
    with connection.admin() as admin:
        found = [
            rule
            for matching in _filters(options, principals, (None,), ("any",), "any", pattern)
            for rule in admin.describe_acls(matching)
        ]
    _show(output, list(dict.fromkeys(found)))


@acl.command()
@click.option("--principal", "--allow-principal", "allowed", multiple=True, metavar="User:NAME")
@click.option("--deny-principal", "denied", multiple=True, metavar="User:NAME")
@click.option("--host", "--allow-host", "hosts", multiple=True, metavar="ADDRESS")
@click.option("--deny-host", "deny_hosts", multiple=True, metavar="ADDRESS")
@click.option("--operation", "operations", multiple=True, callback=_operation)
@click.option("--yes", "--force", is_flag=True, help="Do not ask.")
@_filter_pattern
@_resource_options
@connected
@output_options
def remove(connection: Connection, output: Output, yes: bool, **options: Any) -> None:
    """Remove rules. What is not named stands for all: with only --topic NAME all rules about the topic go."""
    pattern = (options["pattern"] or "literal").lower()
    operations = options["operations"] or ("any",)
    filters: list[AclFilter] = []
    if options["denied"]:
        filters += _filters(options, options["denied"], options["deny_hosts"] or (None,), operations, "deny", pattern)
    if options["allowed"] or not options["denied"]:
        permission = "allow" if options["allowed"] else "any"
        filters += _filters(options, options["allowed"], options["hosts"] or (None,), operations, permission, pattern)
    if filters == [AclFilter(pattern_type=pattern)]:
        raise click.UsageError("say which rules: --topic, --group, --cluster, --principal, ...")
    with connection.admin() as admin:
        found = list(dict.fromkeys(rule for matching in filters for rule in admin.describe_acls(matching)))
        if not found:
            note("there are no such rules")
            return
        if not yes:
            _show(output, found)
        confirm(f"Remove {len(found)} rule{'' if len(found) == 1 else 's'}?", yes=yes)
        gone = admin.delete_acls(filters)
    note(f"{len(dict.fromkeys(gone))} removed")


def _filters(
    options: dict[str, Any],
    principals: Sequence[str],
    hosts: Sequence[str | None],
    operations: Sequence[str],
    permission: str,
    pattern: str,
) -> list[AclFilter]:
    """Return a filter for each combination."""
    named: list[tuple[str, str | None]] = [*_resources(options)] or [("any", None)]
    return [
        AclFilter(
            principal=None if name is None else _principal(name),
            operation=operation,
            resource_type=kind,
            resource_name=resource,
            pattern_type=pattern,
            host=host,
            permission=permission,
        )
        for kind, resource in named
        for name in principals or (None,)
        for host in hosts
        for operation in operations
    ]


def _show(output: Output, rules: Sequence[Acl]) -> None:
    columns = ("principal", "permission", "operation", "resource_type", "resource_name", "pattern_type", "host")
    rows = [{column: getattr(rule, column) for column in columns} for rule in rules]
    output.show(rows, columns)


def main(arguments: Sequence[str]) -> int:
    """Run `ottla acl`; return the exit code."""
    return run_command(acl, "acl", arguments)
