"""`ottla cluster COMMAND`: finds the command. `up` needs little, the others what commands that talk to clusters share."""

from __future__ import annotations

from collections.abc import Sequence

HELP = """usage: ottla cluster COMMAND [...]

A cluster is several brokers that share topics. Each partition of a topic is held by some of them, its replicas;
one of these, the leader, takes and gives out its records, and another one leads when it dies.

On this machine:
  up            start three brokers, without configuration

Any cluster, also one of Apache Kafka:
  status        the brokers, what each leads and holds, and what is wrong
  rebalance     equal shares of partitions, bytes and leaders for all brokers
  add           give new brokers their share
  drain         move everything away from brokers that are to go
  unregister    forget brokers that were drained and stopped

The state of a cluster of ottla, on ZooKeeper or in a data directory:
  import        make the directory of a single node that of a broker of a cluster
  backup        write the cluster's state, without records, to a file
  restore       make a state of such a file, when the cluster's is lost

ottla cluster COMMAND --help says more, docs/operations.md when to do what.
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "up":
        from ottla.cli.cluster_up import main as start

        return start(arguments[1:])
    import click

    from ottla.cli.cluster_backup import backup_command, restore_command
    from ottla.cli.cluster_import import import_node
    from ottla.cli.cluster_moves import add, drain, rebalance, unregister
    from ottla.cli.cluster_status import status
    from ottla.cli.running import run_command

    commands = (status, rebalance, add, drain, unregister, import_node, backup_command, restore_command)
    group = click.Group("cluster", commands=commands)
    return run_command(group, "cluster", arguments)
