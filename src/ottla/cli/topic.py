"""`ottla topic`: list, create, describe, alter, delete, add-partitions, delete-records."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ottla.cli.completing import complete_topics
from ottla.cli.output import Output, note, output_options
from ottla.cli.running import Connection, confirm, connected, parse_pairs, run_command
from ottla.types import TopicPartition


@click.group()
def topic() -> None:
    """Topics: what there is, new ones, other settings."""


@topic.command("list")
@click.option("--internal", is_flag=True, help="The brokers' own topics, too.")
@connected
@output_options
def list_topics(connection: Connection, output: Output, internal: bool) -> None:
    """List topics."""
    with connection.admin() as admin:
        found = admin.list_topics(internal=internal)
    output.show(found, ("name", "partitions", "replication_factor", "topic_id"))


@topic.command()
@click.argument("name")
@click.option("-p", "--partitions", type=int, help="Default: the brokers' num.partitions.")
@click.option("-r", "--replication-factor", type=int, help="Default: the brokers' default.replication.factor.")
@click.option("-c", "--config", "configs", multiple=True, metavar="KEY=VALUE", help="retention.ms=1d, for example.")
@click.option("--if-not-exists", is_flag=True, help="A topic that is there is no error.")
@click.option("--dry-run", is_flag=True, help="Only check whether it could be made.")
@connected
def create(
    connection: Connection,
    name: str,
    partitions: int | None,
    replication_factor: int | None,
    configs: Sequence[str],
    if_not_exists: bool,
    dry_run: bool,
) -> None:
    """Make a topic."""
    with connection.admin() as admin:
        admin.create_topic(
            name,
            partitions=partitions,
            replication_factor=replication_factor,
            configs=parse_pairs(configs, "-c"),
            exists_ok=if_not_exists,
            validate_only=dry_run,
        )
    note(f"{name} {'could be made' if dry_run else 'is there'}")


@topic.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_topics)
@connected
@output_options
def describe(connection: Connection, output: Output, names: Sequence[str]) -> None:
    """Show partitions, leaders, replicas, offsets, and settings that are no defaults."""
    with connection.admin() as admin:
        described = admin.describe_topics(names)
        shown = []
        for number, name in enumerate(names):
            topic_ = described[name]
            led = [TopicPartition(name, part.partition) for part in topic_.partitions if part.leader is not None]
            starts = admin.list_offsets(led, "earliest") if led else {}
            ends = admin.list_offsets(led, "latest") if led else {}
            entries = admin.describe_configs("topic", name)
            configs = {key: entry.value for key, entry in sorted(entries.items()) if not entry.is_default}
            rows = []
            for part in topic_.partitions:
                where = TopicPartition(name, part.partition)
                start = starts[where].offset if where in starts else None
                end = ends[where].offset if where in ends else None
                rows.append(
                    {
                        "partition": part.partition,
                        "leader": part.leader,
                        "replicas": part.replicas,
                        "in_sync": part.in_sync_replicas,
                        "start": start,
                        "end": end,
                    }
                )
            shown.append({"name": name, "topic_id": topic_.topic_id, "configs": configs, "partitions": rows})
            if output.is_table:
                if number:
                    click.echo()
                click.echo(f"{name}  {topic_.topic_id}")
                for key, value in configs.items():
                    click.echo(f"  {key}={value}")
                columns = ("partition", "leader", "replicas", "in_sync", "start", "end")
                output.show(None, columns, [[row[column] for column in columns] for row in rows])
    if not output.is_table:
        output.show(shown)


@topic.command()
@click.argument("name", shell_complete=complete_topics)
@click.option("-c", "--config", "configs", multiple=True, metavar="KEY=VALUE", help="A new value.")
@click.option("-d", "--default", "defaults", multiple=True, metavar="KEY", help="A key that goes back to its default.")
@connected
def alter(connection: Connection, name: str, configs: Sequence[str], defaults: Sequence[str]) -> None:
    """Change settings of a topic; others stay."""
    changes: dict[str, str | None] = {**parse_pairs(configs, "-c"), **dict.fromkeys(defaults)}
    with connection.admin() as admin:
        admin.alter_configs("topic", name, changes)
    note(f"{name} is changed")


@topic.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_topics)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--if-exists", is_flag=True, help="A topic that is not there is no error.")
@connected
def delete(connection: Connection, names: Sequence[str], yes: bool, if_exists: bool) -> None:
    """Delete topics and their records."""
    confirm(f"Delete {', '.join(names)} and all records in {'it' if len(names) == 1 else 'them'}?", yes=yes)
    with connection.admin() as admin:
        admin.delete_topics(names, missing_ok=if_exists)
    note(f"{', '.join(names)}: deleted")


@topic.command("add-partitions")
@click.argument("name", shell_complete=complete_topics)
@click.argument("total", type=int)
@connected
def add_partitions(connection: Connection, name: str, total: int) -> None:
    """Have a topic grow to TOTAL partitions. Keys go to other partitions from then on."""
    with connection.admin() as admin:
        admin.create_partitions(name, total)
    note(f"{name} has {total} partitions")


@topic.command("delete-records")
@click.argument("name", shell_complete=complete_topics)
@click.option(
    "-o", "--before", required=True, metavar="PLACE", help="Records ahead of it go: end, an offset, @-1d, ..."
)
@click.option("-p", "--partition", "partitions", type=int, multiple=True, help="Only these partitions.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
@output_options
def delete_records(
    connection: Connection, output: Output, name: str, before: str, partitions: Sequence[int], yes: bool
) -> None:
    """Delete the records ahead of a place."""
    from datetime import UTC, datetime

    from ottla.cli.places import parse_place, resolve

    place = parse_place(before, datetime.now(UTC))
    with connection.admin() as admin:
        numbers = partitions or [part.partition for part in admin.describe_topic(name).partitions]
        offsets = resolve(admin, {TopicPartition(name, number): place for number in numbers})
        told = ", ".join(f"{where.partition}:{offset}" for where, offset in offsets.items())
        confirm(f"Delete the records of {name} ahead of {told}?", yes=yes)
        starts = admin.delete_records(dict(offsets))
    rows = [{"partition": where.partition, "start": start} for where, start in sorted(starts.items())]
    output.show(rows, ("partition", "start"))


def main(arguments: Sequence[str]) -> int:
    """Run `ottla topic`; return the exit code."""
    return run_command(topic, "topic", arguments)
