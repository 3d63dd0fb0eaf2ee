"""`ottla completion`: prints what a shell needs to complete commands, options, topics and groups."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click

from ottla.cli.running import run_command

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_OTTLA_COMPLETE"


class Everything(click.Group):
    """All commands, imported when they are looked at."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ottla.cli.main import COMMANDS

        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from ottla.cli.main import COMMANDS

        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module = import_module(row.module)
        for found in vars(module).values():
            if isinstance(found, click.Command) and found.name == cmd_name and not isinstance(found, Everything):
                return found
        return click.Command(cmd_name, help=row.text, params=_options(module))


def _options(module: object) -> list[click.Parameter]:
    """The options of a command that argparse reads."""
    parser = getattr(module, "parser", None)
    if parser is None:
        return []
    return [
        click.Option([name for name in action.option_strings if name.startswith("-")], help=action.help)
        for action in parser()._actions
        if action.option_strings
    ]


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script of a shell.

    \b
    bash: ottla completion bash > ~/.local/share/bash-completion/completions/ottla
    zsh:  ottla completion zsh > "${fpath[1]}/_ottla"
    fish: ottla completion fish > ~/.config/fish/completions/ottla.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(Everything("ottla"), {}, "ottla", _VARIABLE).source())


def complete(instruction: str) -> int:
    """Answer a shell that asks what may come next."""
    from click.shell_completion import shell_complete

    return shell_complete(Everything("ottla"), {}, "ottla", _VARIABLE, instruction)


def main(arguments: Sequence[str]) -> int:
    """Run `ottla completion`; return the exit code."""
    return run_command(completion, "completion", arguments)
