"""`ottla connect try`: what connectors would do, before they do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ottla.cli.connect_requests import read_connector
from ottla.cli.output import Output, note, output_options
from ottla.client.property_files import read_properties
from ottla.connect.errors import ConnectError


@click.command("try")
@click.argument("source")
@click.option("--to", "sink", metavar="SINK", help="What would take the records.")
@click.option("--rows", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many at most.")
@click.option(
    "--worker", type=click.Path(exists=True, dir_okay=False), help="A worker's file: converters, providers, modules."
)
@output_options
def try_(source: str, sink: str | None, rows: int, worker: str | None, output: Output) -> None:
    """Show what a source brings, before and after its transforms, and what a sink would do with it.

    SOURCE and SINK are a connector's files, .properties or JSON, or addresses: postgresql://user@host/database.table,
    file:///path. Nothing is sent, written or committed; no worker and no cluster is needed. A connector that cannot show
    anything without leaving a trace says so.
    """
    from ottla.connect.runtime import trial

    try:
        settings = read_properties(worker) if worker else {}
        tried = trial.Trial(_config(source, trial.source_at), settings)
        found = tried.rows(rows)
        plan = [] if sink is None else tried.plan(found, _config(sink, trial.sink_at))
    except ConnectError as error:
        raise click.ClickException(str(error)) from error
    if not output.is_table:
        shown: list[dict[str, Any]] = [
            {
                "before": trial.as_json(row.before),
                "after": None if row.after is None else trial.as_json(row.after),
                "problem": row.problem,
            }
            for row in found
        ]
        output.show({"records": shown, "plan": plan})
        return
    schema = None
    for number, row in enumerate(found, 1):
        if number == 1 or row.before.value_schema != schema:
            schema = row.before.value_schema
            click.echo(f"{row.before.topic}: {trial.shape(schema)}")
        click.echo(f"{number:3}  {_line(row.before)}")
        if row.after is None:
            click.echo(f"     {'dropped' if row.problem is None else 'fails: ' + row.problem}")
        elif _line(row.after) != _line(row.before) or row.after.topic != row.before.topic:
            click.echo(f"     to {row.after.topic}: {_line(row.after)}")
    for sentence in plan:
        click.echo(f"{sink}: {sentence}")
    note(f"{len(found)} record{'' if len(found) == 1 else 's'} read; nothing was sent, written or committed")


def _config(given: str, at: Any) -> dict[str, str]:
    if "://" in given:
        found: dict[str, str] = at(given)
        return found
    if not Path(given).is_file():
        raise click.ClickException(f"{given} is neither a file nor an address")
    return read_connector(given)


def _line(record: Any) -> str:
    from ottla.connect.runtime import trial

    key = "" if record.key is None else f"{trial.shown(record.key_schema, record.key)} = "
    return f"{key}{trial.shown(record.value_schema, record.value)}"
