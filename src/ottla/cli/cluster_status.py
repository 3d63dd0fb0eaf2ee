"""`ottla cluster status`: which brokers there are, what each leads and holds, and what is wrong."""

from __future__ import annotations

from typing import Any, Final

import click

from ottla.cli.cluster_view import ClusterView, look_at
from ottla.cli.output import Output, output_options
from ottla.cli.progress import human_bytes
from ottla.cli.running import Connection, connected

#: So many partitions are named; the others are counted.
NAMED_MAX: Final = 20
COLUMNS: Final = ("broker", "address", "rack", "state", "leads", "replicas", "out_of_sync", "size")


@click.command()
@connected
@output_options
def status(connection: Connection, output: Output) -> int:
    """Show the brokers of a cluster, what each leads and holds, and what is wrong.

    \b
      ottla cluster status
      ottla cluster status -b kafka1.example.com:9092 --json

    Each broker is asked itself: one that has just died is still registered, until its session ends, and "does not answer".
    Ends with 1 if a broker does not answer, if a partition has no leader, or if no broker answers at all.
    """
    view = look_at(connection)
    if output.is_table:
        show(view, output)
    else:
        output.show(as_json(view))
    return 1 if view.without_leader or not all(broker.answers for broker in view.brokers.values()) else 0


def show(view: ClusterView, output: Output) -> None:
    """Print a table, and sentences about what is wrong."""
    count, topics, partitions = len(view.brokers), view.topic_count, len(view.partitions)
    click.echo(f"cluster {view.cluster_id}: {count} brokers, {topics} topics, {partitions} partitions\n")
    output.show(None, COLUMNS, rows(view))
    click.echo()
    for broker in view.brokers.values():
        if broker.error is not None:
            click.echo(f"broker {broker.id} does not answer: {broker.error}")
        for path in broker.offline_dirs:
            click.echo(f"broker {broker.id} has lost its log directory {path}")
    if view.absent:
        click.echo(f"away, and holding replicas: broker {', '.join(map(str, view.absent))}")
    for sentence, names in (("without a leader", view.without_leader), ("under-replicated", view.under_replicated)):
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        click.echo(f"{sentence}: {', '.join(names[:NAMED_MAX]) + more if names else 'none'}")


def rows(view: ClusterView) -> list[list[Any]]:
    """Return a row for each broker."""
    return [
        [
            broker.id,
            broker.address,
            broker.rack,
            ("controller" if broker.id == view.controller else "up") if broker.answers else "does not answer",
            broker.leads,
            broker.replicas,
            broker.out_of_sync,
            None if broker.size is None else human_bytes(broker.size),
        ]
        for broker in view.brokers.values()
    ]


def as_json(view: ClusterView) -> dict[str, Any]:
    """Return everything, for programs. Partitions are "topic-index"."""
    return {
        "cluster_id": view.cluster_id,
        "controller_id": view.controller,
        "brokers": [
            {
                "node_id": broker.id,
                "address": broker.address,
                "rack": broker.rack,
                "answers": broker.answers,
                "error": broker.error,
                "leads": broker.leads,
                "replicas": broker.replicas,
                "out_of_sync": broker.out_of_sync,
                "size_bytes": broker.size,
                "offline_log_dirs": broker.offline_dirs,
            }
            for broker in view.brokers.values()
        ],
        "topics": view.topic_count,
        "partitions": len(view.partitions),
        "without_leader": view.without_leader,
        "under_replicated": view.under_replicated,
        "missing_brokers": view.absent,
    }
