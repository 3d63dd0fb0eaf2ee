"""`ottla COMMAND ...`: finds the command and nothing else, so that `ottla serve` imports only what serving needs.

Exit codes: 0 done, 1 it did not work (a port in use, a damaged directory), 2 the command line or the configuration is
wrong. Errors people can act on are one line on stderr; a traceback is a bug.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ottla import __version__

COMMANDS = {
    "serve": ("ottla.cli.serve", "start a broker"),
    "cluster": ("ottla.cli.cluster", "start several brokers on this machine"),
    "log": ("ottla.cli.log", "check and repair the logs of a stopped broker"),
}

HELP = """usage: ottla COMMAND [...]

  ottla serve                     start a broker on localhost:9092
  ottla serve --help              what it can be told
  ottla cluster up                start three brokers on this machine
  ottla log check DIR             say what is wrong with the logs in a directory
  ottla --version

commands:
{commands}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
        print(HELP.format(commands=listed), end="")
        return 0
    if given[0] in ("-V", "--version", "version"):
        print(f"ottla {__version__}")
        return 0
    found = COMMANDS.get(given[0])
    if found is None:
        print(f"ottla: there is no command {given[0]!r}{_hint(given[0])}; see ottla --help", file=sys.stderr)
        return 2
    code: int = import_module(found[0]).main(given[1:])
    return code


def _hint(name: str) -> str:
    from difflib import get_close_matches

    aliases = {"start": "serve", "server": "serve", "run": "serve", "broker": "serve"}
    close = get_close_matches(name, [*COMMANDS, *aliases], n=1)
    return f"; did you mean {aliases.get(close[0], close[0])}?" if close else ""
