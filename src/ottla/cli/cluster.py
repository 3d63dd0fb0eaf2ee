"""`ottla cluster COMMAND`: finds the command. `up` needs little, the others what commands that talk to clusters share."""

from __future__ import annotations

from collections.abc import Sequence

HELP = """usage: ottla cluster COMMAND [...]

  ottla cluster up                start three brokers on this machine
  ottla cluster status            show the brokers, what they lead, and what is wrong
  ottla cluster import            make the directory of a single node that of a broker of a cluster
  ottla cluster backup            write the coordination tree to a file
  ottla cluster restore           make a tree of such a file, when the cluster's is lost
  ottla cluster COMMAND --help
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "up":
        from ottla.cli.cluster_up import main as start

        return start(arguments[1:])
    if arguments[0] == "status":
        from ottla.cli.cluster_status import main as show_status

        return show_status(arguments[1:])
    import click

    from ottla.cli.cluster_backup import backup_command, restore_command
    from ottla.cli.cluster_import import import_node
    from ottla.cli.running import run_command

    group = click.Group(
        "cluster", commands={"import": import_node, "backup": backup_command, "restore": restore_command}
    )
    return run_command(group, "cluster", arguments)
