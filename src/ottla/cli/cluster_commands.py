"""`ottla cluster COMMAND`, all but `up`: those that ask brokers, and those that work on a cluster's tree."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ottla.cli.cluster_import import import_node
from ottla.cli.running import run_command


@click.group()
def cluster() -> None:
    """Several brokers: how they are, more of them, fewer."""


cluster.add_command(import_node)


def main(arguments: Sequence[str]) -> int:
    """Run `ottla cluster`; return the exit code."""
    return run_command(cluster, "cluster", arguments)
