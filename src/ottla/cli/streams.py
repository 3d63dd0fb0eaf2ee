"""`ottla streams`: run, describe, check, reset applications that are written with `ottla.streams`."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from ottla.cli.output import note
from ottla.cli.running import DEFAULT_CLIENT_ID, Connection, confirm, connection_options, run_command
from ottla.streams.errors import StreamsError, told

if TYPE_CHECKING:
    from ottla.streams.app import App

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds that processes are given to hand over before they are killed.
_HANDOVER_S = 60.0
#: Seconds before a process that was killed from outside is started again.
_AGAIN_S = 1.0


@click.group()
def streams() -> None:
    """Stream processing: run, describe, check and reset applications.

    MODULE:NAME is where an App is: `orders:app` is `app` of orders.py, here or where Python looks for modules.
    """


def application(function: Callable[P, R]) -> Callable[..., R]:
    """Give a command MODULE:NAME and the options of a connection; its first argument is the App, the second the keys that
    override the App's."""

    @click.argument("place", metavar="MODULE:NAME")
    @connection_options
    @wraps(function)
    def call(
        *args: Any,
        place: str,
        servers: str | None,
        context: str | None,
        file: str | None,
        overrides: tuple[str, ...],
        **kwargs: Any,
    ) -> R:
        try:
            app = find_app(place)
            keys = keys_above(app, servers, context, overrides, file)
            return function(app, keys, *args, **kwargs)  # type: ignore[arg-type]
        except StreamsError as error:
            raise click.ClickException(str(error)) from error

    return call


def keys_above(
    app: App, servers: str | None, context: str | None, overrides: Sequence[str], file: str | None
) -> dict[str, Any]:
    """Return the keys that override the App's own. The App's own address takes the place of the environment, the current
    context and localhost:9092; the command line overrides it."""
    environment = dict(os.environ)
    config = app.settings.get("config") or {}
    own = app.bootstrap_servers or config.get("bootstrap.servers")
    if own and context is None:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = own if isinstance(own, str) else ",".join(own)
    keys: dict[str, Any] = dict(Connection(servers, context, overrides, environment, file).config)
    if keys["client.id"] == DEFAULT_CLIENT_ID:
        del keys["client.id"]
    return keys


def find_app(place: str) -> App:
    """Import an App.

    Raises:
        click.UsageError: the place is written wrongly, or there is no App.
        click.ClickException: the module raised; the message names the line of the user's that did.
    """
    from ottla.streams.app import App

    module, colon, name = place.partition(":")
    if not colon or not module or not name:
        raise click.UsageError(f"{place!r} is no MODULE:NAME, such as orders:app")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and module.startswith(error.name):
            raise click.UsageError(f"there is no module {error.name!r} here") from error
        raise click.ClickException(f"{module} cannot be imported: {told(error)}") from error
    if not isinstance(found, App):
        what = f"{name!r} of {module} is {type(found).__name__}" if found is not None else f"{module} has no {name!r}"
        raise click.UsageError(f"{what}; an ottla.streams.App is needed")
    return found


@streams.command()
@application
@click.option("-n", "--processes", type=click.IntRange(1, 256), default=1, help="Default: 1.")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def run(app: App, overrides: dict[str, Any], processes: int, verbose: bool) -> None:
    """Run an application until SIGTERM or Ctrl-C.

    Then it commits, hands its tasks over and leaves. Several processes share the tasks, the state directory, and what
    other machines run of the same application. One that is killed is started again; one that fails ends all.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if processes > 1:
        given = click.get_current_context().params
        command = [sys.executable, "-m", "ottla", "streams", "run", given["place"], *(["-v"] if verbose else [])]
        for option, name in (("-b", "servers"), ("--context", "context"), ("-F", "file")):
            command += [option, given[name]] if given[name] else []
        command += [part for pair in given["overrides"] for part in ("-X", pair)]
        code = _run_processes(command, processes)
        if code:
            raise click.exceptions.Exit(code)
        return
    from ottla.streams.runtime.run import run as run_app

    run_app(
        app,
        overrides=overrides,
        on_progress=_Progress().show if sys.stderr.isatty() else None,
        on_server=lambda endpoint: note(f"the state of {app.application_id} is at http://{endpoint}/"),
        on_tasks=lambda count: note(f"running {app.application_id}: {count} task{'' if count == 1 else 's'}"),
    )


class _Progress:
    """A bar on stderr while state is restored."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        """Move the bar; away with it at the end."""
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.add_task("restoring state")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self._bar.stop()
            self._bar = None


def _run_processes(command: list[str], count: int) -> int:
    """Run `count` processes of a command; return the exit code."""
    children: list[subprocess.Popen[bytes]] = []
    # SIGTERM to this process goes on to the others, which hand over; Ctrl-C reaches all of them by itself.
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    code = 0
    try:
        children += [subprocess.Popen(command) for _ in range(count)]
        while not stopping:
            time.sleep(0.2)
            for index, child in enumerate(children):
                found = child.poll()
                if found is None or stopping:
                    continue
                if found < 0:
                    note(f"process {child.pid} was killed ({signal.Signals(-found).name}); starting another one")
                    time.sleep(_AGAIN_S)
                    children[index] = subprocess.Popen(command)
                else:
                    code = max(code, found)
                    stop()
        deadline = time.monotonic() + _HANDOVER_S
        for child in children:
            try:
                child.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                note(f"process {child.pid} does not hand over within {_HANDOVER_S:g} s; killed")
                child.kill()
                code = code or 1
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


@streams.command()
@application
@click.option("--mermaid", is_flag=True, help="As a diagram in mermaid's language.")
@click.option("--svg", is_flag=True, help="As a picture.")
def describe(app: App, overrides: Mapping[str, Any], mermaid: bool, svg: bool) -> None:
    """Print an application's topology; no broker is needed."""
    if mermaid and svg:
        raise click.UsageError("--mermaid or --svg, not both")
    found = app.describe()
    click.echo(found.svg() if svg else found.mermaid() if mermaid else str(found))


@streams.command()
@application
@click.option("--offline", is_flag=True, help="Look at the program only, not at a cluster.")
def check(app: App, overrides: dict[str, Any], offline: bool) -> None:
    """Find out before the start what is wrong with an application, its configuration, or the topics it needs.

    Names of stores and repartition topics that are made by counting are an error here: an operator more or less changes
    them, and state is lost.
    """
    from ottla.streams.runtime.checking import check_application
    from ottla.streams.runtime.run import settings_of

    found = check_application(app, settings_of(app, overrides), offline=offline)
    for line in found:
        click.echo(line)
    if found:
        raise click.exceptions.Exit(1)
    note("nothing is wrong")


@streams.command()
@application
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def reset(app: App, overrides: dict[str, Any], yes: bool, dry_run: bool) -> None:
    """Start an application over: remove its internal topics, its offsets, and its state on this machine.

    The topics that it reads and writes stay as they are; what it wrote is written again. All instances have to be stopped.
    """
    from ottla.streams.runtime.reset import reset as reset_app
    from ottla.streams.runtime.run import settings_of

    topology, settings = app.topology(), settings_of(app, overrides)
    going = reset_app(topology, settings, dry_run=True)
    for topic in going.topics:
        click.echo(f"topic {topic}")
    if going.group:
        click.echo(f"offsets of group {settings.application_id}")
    if going.directory is not None:
        click.echo(f"directory {going.directory}")
    if dry_run or not (going.topics or going.group or going.directory):
        return
    confirm("Remove this?", yes=yes)
    reset_app(topology, settings)
    note(f"{settings.application_id}: starts over")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    return run_command(streams, "streams", arguments)
