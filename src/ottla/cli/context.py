"""`ottla context`: named clusters, so that addresses need not be typed."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from ottla.cli.output import Output, note, output_options
from ottla.cli.running import keys_of_every_client, parse_client_keys, run_command
from ottla.client.contexts import check_key, read_contexts, says_where


@click.group()
def context() -> None:
    """Named clusters, in ~/.config/ottla/config.toml."""


@context.command("list")
@output_options
def list_contexts(output: Output) -> None:
    """List contexts; secrets are not shown."""
    told = read_contexts(os.environ)
    current = os.environ.get("OTTLA_CONTEXT") or told.current
    rows = [
        {
            "current": name == current,
            "name": name,
            "bootstrap_servers": keys.get("bootstrap.servers"),
            "keys": sorted(key for key in keys if key != "bootstrap.servers"),
        }
        for name, keys in told.contexts.items()
    ]
    output.show(rows, ("current", "name", "bootstrap_servers", "keys"))


@context.command("set")
@click.argument("name")
@click.option("-b", "--bootstrap-server", "servers", metavar="HOST:PORT")
@click.option("-X", "overrides", multiple=True, metavar="KEY=VALUE", help="security.protocol=ssl, for example.")
@click.option("-F", "--command-config", "file", metavar="FILE", help="A client's configuration: sasl.*, ssl.*, ...")
def set_context(name: str, servers: str | None, overrides: Sequence[str], file: str | None) -> None:
    """Make a context, or change one. The first becomes the current one."""
    keys = {} if file is None else {key: text for key, text in keys_of_every_client(file).items() if says_where(key)}
    keys |= parse_client_keys(overrides)
    if servers is not None:
        keys["bootstrap.servers"] = servers
    if not keys:
        raise click.UsageError("say what the context is to have: -b HOST:PORT")
    for key in keys:
        check_key(key)
    told = read_contexts(os.environ)
    told.contexts[name] = {**told.contexts.get(name, {}), **keys}
    told.current = told.current or name
    told.save()
    note(f"{name} is in {told.path}")


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a context the current one."""
    told = read_contexts(os.environ)
    told.find(name, {})
    told.current = name
    told.save()
    note(f"{name} is the current context")


@context.command()
@click.argument("name")
def delete(name: str) -> None:
    """Forget a context."""
    told = read_contexts(os.environ)
    told.find(name, {})
    del told.contexts[name]
    if told.current == name:
        told.current = None
    told.save()
    note(f"{name} is gone")


def main(arguments: Sequence[str]) -> int:
    """Run `ottla context`; return the exit code."""
    return run_command(context, "context", arguments)
