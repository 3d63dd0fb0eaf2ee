"""`ottla connect`: run connectors."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ottla.cli.output import note
from ottla.cli.running import run_command
from ottla.client.property_files import read_properties
from ottla.connect.errors import ConnectError


@click.group()
def connect() -> None:
    """Connectors: what brings records into topics, and takes them out."""


@connect.command()
@click.argument("worker", type=click.Path(exists=True, dir_okay=False))
@click.argument("connectors", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def run(worker: str, connectors: Sequence[str], verbose: bool) -> None:
    """Run connectors as connect-standalone does, until SIGTERM or Ctrl-C.

    WORKER and CONNECTORS are .properties files, as Kafka Connect's; a connector may be a JSON file, too: {"name": ...,
    "config": {...}}. Each connector has a process of its own. Offsets of sources are kept in the file that
    offset.storage.file.filename names.
    """
    from ottla.connect.runtime.standalone import StandaloneWorker

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        running = StandaloneWorker(read_properties(worker), [_connector(path) for path in connectors], _tell)
    except ConnectError as error:
        raise click.ClickException(str(error)) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    code = running.run()
    if code:
        raise click.exceptions.Exit(code)


def _connector(path: str) -> dict[str, str]:
    """Return the configuration in a file."""
    if not path.endswith(".json"):
        return read_properties(path)
    try:
        found = json.loads(Path(path).read_text())
    except ValueError as error:
        raise click.ClickException(f"{path} is no JSON: {error}") from error
    config = found.get("config", found) if isinstance(found, dict) else None
    if not isinstance(config, dict):
        raise click.ClickException(f"{path} is no configuration of a connector: an object is needed")
    texts = {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in config.items()}
    if isinstance(found.get("name"), str):
        texts.setdefault("name", found["name"])
    return texts


def _tell(name: str, event: dict[str, Any]) -> None:
    match event["event"]:
        case "running":
            count = event["tasks"]
            note(f"{name}: {count} task{'' if count == 1 else 's'}")
        case "refused":
            note(f"{name}: {event['message']}")
        case "failed":
            note(f"{name}: task {event['task']} failed, and is not started again: {event['message']}")
        case "died":
            note(f"{name}: its process has ended unexpectedly ({event['code']})")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    return run_command(connect, "connect", arguments)
