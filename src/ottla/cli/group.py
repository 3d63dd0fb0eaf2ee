"""`ottla group`: list, describe, reset, delete; and `ottla lag`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ottla.cli.completing import complete_groups
from ottla.cli.output import Output, cell, note, output_options
from ottla.cli.places import HELP, parse_place, resolve
from ottla.cli.running import Connection, confirm, connected, run_command
from ottla.client.admin_errors import AdminErrors
from ottla.errors import GroupIdNotFoundError, KafkaError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.client.admin import Admin

LAG_COLUMNS = ("topic", "partition", "committed", "end", "lag", "client_id", "host")


@click.group()
def group() -> None:
    """Groups: who reads what, how far behind, start again elsewhere."""


@group.command("list")
@click.option("--type", "types", multiple=True, help="Only these: classic, consumer, share, streams.")
@click.option("--state", "states", multiple=True, help="Only these: Stable, Empty, ...")
@connected
@output_options
def list_groups(connection: Connection, output: Output, types: Sequence[str], states: Sequence[str]) -> None:
    """List groups of all types."""
    with connection.admin() as admin:
        found = admin.list_groups(types=types or None, states=states or None)
    output.show(found, ("group_id", "type", "state", "protocol_type"))


@group.command()
@click.argument("name", shell_complete=complete_groups)
@click.option(
    "--watch", "watch_s", type=float, is_flag=False, flag_value=2.0, metavar="SECONDS", help="Again and again."
)
@connected
@output_options
def describe(connection: Connection, output: Output, name: str, watch_s: float | None) -> None:
    """Show the state of a group, its members, and how far each partition is behind."""
    with connection.admin() as admin:
        while True:
            described = admin.describe_group(name)
            rows = [_row(lag) for _, lag in sorted(admin.consumer_lag(name).items())]
            if output.is_table:
                if watch_s is not None:
                    click.clear()
                _print(described, rows, output)
            else:
                output.show({"group": described, "partitions": rows})
            if watch_s is None:
                return
            try:
                time.sleep(watch_s)
            except KeyboardInterrupt:
                return  # that is how it ends


def _print(described: Any, rows: list[dict[str, Any]], output: Output) -> None:
    facts = [described.type, described.state, f"{len(described.members)} members"]
    if described.assignor:
        facts.append(f"assignor {described.assignor}")
    click.echo(f"{described.group_id}  {', '.join(facts)}, coordinator {described.coordinator}")
    if rows:
        output.show(None, LAG_COLUMNS, [[row[column] for column in LAG_COLUMNS] for row in rows])
    idle = [member for member in described.members if not member.assignment]
    for member in idle:
        click.echo(f"idle: {member.client_id} {member.host} {cell(member.group_instance_id)}")


def _row(lag: Any) -> dict[str, Any]:
    return {
        "topic": lag.partition.topic,
        "partition": lag.partition.partition,
        "committed": lag.committed,
        "end": lag.end,
        "lag": lag.lag,
        "client_id": lag.client_id,
        "host": lag.host,
    }


@group.command()
@click.argument("name", shell_complete=complete_groups)
@click.option("--to", "to", required=True, metavar="PLACE", help=HELP + ".")
@click.option(
    "-t", "--topic", "topics", multiple=True, metavar="TOPIC[:PARTITION]", help="Only these. Default: all it has read."
)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
@output_options
def reset(
    connection: Connection, output: Output, name: str, to: str, topics: Sequence[str], dry_run: bool, yes: bool
) -> None:
    """Have a group without members go on elsewhere."""
    place = parse_place(to, datetime.now(UTC))
    with connection.admin() as admin:
        before = admin.list_group_offsets(name)
        partitions = _chosen(admin, topics) if topics else sorted(before)
        if not partitions:
            raise click.ClickException(f"group {name!r} has committed nothing; say which topics with -t")
        offsets = resolve(admin, dict.fromkeys(partitions, place))
        rows = [
            {
                "topic": where.topic,
                "partition": where.partition,
                "before": before[where].offset if where in before else None,
                "after": offset,
            }
            for where, offset in sorted(offsets.items())
        ]
        if not dry_run:
            if not yes:
                note(
                    "\n".join(
                        f"{row['topic']}-{row['partition']}: {cell(row['before'])} -> {row['after']}" for row in rows
                    )
                )
            confirm(f"Reset group {name}?", yes=yes)
            admin.alter_group_offsets(name, offsets)
    output.show(rows, ("topic", "partition", "before", "after"))
    if dry_run:
        note("nothing was changed (--dry-run)")


def _chosen(admin: Admin, topics: Sequence[str]) -> list[TopicPartition]:
    found = []
    for text in topics:
        name, colon, number = text.rpartition(":")
        if colon and number.isdecimal():
            found.append(TopicPartition(name, int(number)))
        else:
            found += [TopicPartition(text, part.partition) for part in admin.describe_topic(text).partitions]
    return found


@group.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_groups)
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
def delete(connection: Connection, names: Sequence[str], yes: bool) -> None:
    """Delete groups, with what they have committed."""
    confirm(f"Delete {', '.join(names)} and what {'it has' if len(names) == 1 else 'they have'} committed?", yes=yes)
    with connection.admin() as admin:
        admin.delete_groups(names)
    note(f"{', '.join(names)}: deleted")


@click.command("lag")
@click.argument("names", nargs=-1, metavar="[GROUP]...", shell_complete=complete_groups)
@connected
@output_options
def lag(connection: Connection, output: Output, names: Sequence[str]) -> None:
    """Show how far groups are behind: all of them, or those named by partition."""
    with connection.admin() as admin:
        if names:
            rows = [
                {"group": name, **_row(row)} for name in names for _, row in sorted(admin.consumer_lag(name).items())
            ]
            output.show(rows, ("group", *LAG_COLUMNS))
            return
        rows = []
        failed: dict[str, KafkaError] = {}
        for listed in admin.list_groups():
            if listed.type == "streams" or listed.protocol_type not in ("consumer", "share", ""):
                continue
            try:
                behind = admin.consumer_lag(listed.group_id)
            except GroupIdNotFoundError:  # deleted since it was listed
                continue
            except KafkaError as error:
                failed[listed.group_id] = error
                continue
            known = [row.lag for row in behind.values() if row.lag is not None]
            rows.append(
                {
                    "group": listed.group_id,
                    "state": listed.state,
                    "partitions": len(behind),
                    "lag": sum(known) if known else None,
                    "most": max(known, default=None),
                }
            )
    rows.sort(key=lambda row: -(row["lag"] or 0))
    output.show(rows, ("group", "state", "partitions", "lag", "most"))
    if failed:
        raise AdminErrors(failed, {row["group"]: row for row in rows})


def main(arguments: Sequence[str]) -> int:
    """Run `ottla group`; return the exit code."""
    return run_command(group, "group", arguments)


def main_lag(arguments: Sequence[str]) -> int:
    """Run `ottla lag`; return the exit code."""
    return run_command(lag, "lag", arguments)
