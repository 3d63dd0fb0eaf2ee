"""`ottla COMMAND ...`: finds the command and nothing else, so that `ottla serve` imports only what serving needs.

Exit codes: 0 done, 1 it did not work (a port in use, no such topic), 2 the command line or the configuration is
wrong. Errors people can act on are one line on stderr; a traceback is a bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from ottla import __version__


class Command(NamedTuple):
    """A command: where it is, what it is for, under which heading it stands, the function to call."""

    module: str
    text: str
    heading: str
    function: str = "main"


COMMANDS = {
    "serve": Command("ottla.cli.serve", "start a broker", "Broker"),
    "cluster": Command("ottla.cli.cluster", "start several brokers on this machine; how a cluster is", "Broker"),
    "security": Command("ottla.cli.security", "make a broker safe: certificates, a first user, settings", "Broker"),
    "log": Command("ottla.cli.log", "check and repair the logs of a stopped broker", "Broker"),
    "produce": Command("ottla.cli.produce", "send records: lines, files, one value", "Records"),
    "consume": Command("ottla.cli.consume", "print records, with kcat's flags and formats", "Records"),
    "topic": Command("ottla.cli.topic", "list, create, describe, alter, delete topics", "Cluster"),
    "group": Command("ottla.cli.group", "list, describe, reset, delete groups", "Cluster"),
    "lag": Command("ottla.cli.group", "how far groups are behind", "Cluster", "main_lag"),
    "config": Command("ottla.cli.config", "get and set configurations", "Cluster"),
    "quota": Command("ottla.cli.quota", "how much users, client ids and addresses may use", "Cluster"),
    "user": Command("ottla.cli.user", "users and their passwords (SCRAM)", "Cluster"),
    "token": Command("ottla.cli.token", "delegation tokens: logins for a while", "Cluster"),
    "acl": Command("ottla.cli.acl", "who may do what", "Cluster"),
    "streams": Command("ottla.cli.streams", "run and reset stream processing applications", "Cluster"),
    "connect": Command("ottla.cli.connect", "run connectors: records into topics, and out of them", "Cluster"),
    "doctor": Command("ottla.cli.doctor", "find out what is wrong with a cluster or the way to it", "Cluster"),
    "bench": Command("ottla.cli.bench", "how fast a cluster is, from here", "Cluster"),
    "context": Command("ottla.cli.context", "named clusters, so that addresses need not be typed", "This computer"),
    "completion": Command("ottla.cli.completion", "completion for bash, zsh, fish", "This computer"),
}

HELP = """usage: ottla COMMAND [...]

  ottla serve                                      a broker on localhost:9092
  ottla cluster up                                 three brokers on this machine
  ottla topic create orders -p 6 -c retention.ms=1d
  ottla produce orders < lines.txt
  ottla consume orders -o -10 -e -f '%p:%o %k %s\\n'
  ottla lag                                        how far all groups are behind
  ottla COMMAND --help
{commands}
Brokers: -b HOST:PORT, KAFKA_BOOTSTRAP_SERVERS, a context, or localhost:9092. Answers: --output table, json, yaml.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "_OTTLA_COMPLETE" in os.environ:
        from ottla.cli.completion import complete

        return complete(os.environ["_OTTLA_COMPLETE"])
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP.format(commands=_listed()), end="")
        return 0
    if given[0] in ("-V", "--version", "version"):
        print(f"ottla {__version__}")
        return 0
    found = COMMANDS.get(given[0])
    if found is None:
        print(f"ottla: there is no command {given[0]!r}{_hint(given[0])}; see ottla --help", file=sys.stderr)
        return 2
    code: int = getattr(import_module(found.module), found.function)(given[1:])
    return code


def _listed() -> str:
    lines = []
    heading = None
    for name, command in COMMANDS.items():
        if command.heading != heading:
            heading = command.heading
            lines += ["", f"{heading}:"]
        lines.append(f"  {name:<12}{command.text}")
    return "\n".join(lines) + "\n"


def _hint(name: str) -> str:
    from difflib import get_close_matches

    aliases = {
        "start": "serve",
        "server": "serve",
        "run": "serve",
        "broker": "serve",
        "topics": "topic",
        "groups": "group",
        "configs": "config",
        "contexts": "context",
        "benchmark": "bench",
        "send": "produce",
        "read": "consume",
        "kcat": "consume",
        "users": "user",
        "acls": "acl",
        "tokens": "token",
        "tls": "security",
    }
    close = get_close_matches(name, [*COMMANDS, *aliases], n=1)
    return f"; did you mean {aliases.get(close[0], close[0])}?" if close else ""
