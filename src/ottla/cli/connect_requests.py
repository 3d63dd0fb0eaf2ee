"""The commands of `ottla connect` that speak to a worker by its REST interface: Kafka Connect's, or ottla's."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import click

from ottla.cli.output import Output, note, output_options

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_URL: Final = "http://localhost:8083"
#: Longer than the worker takes to give up a plugin.
_LIMIT_S: Final = 120.0
#: How long `add` waits for tasks to begin, and how often it looks.
_BEGIN_S: Final = 10.0
_LOOK_S: Final = 0.2


class Rest:
    """A worker's REST interface.

    Args:
        user: NAME:PASSWORD.
        cacert: a file with the certificates that are trusted; None: those of the system.
    """

    def __init__(self, url: str, user: str | None, cacert: str | None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise click.UsageError(f"{url} is no address of a worker: it looks like {DEFAULT_URL}")
        self._url = url
        self._host, self._port, self._path = parts.hostname, parts.port or 8083, parts.path.rstrip("/")
        self._context = ssl.create_default_context(cafile=cacert) if parts.scheme == "https" else None
        self._headers = {"Accept": "application/json"}
        if user is not None:
            self._headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what is answered.

        Raises:
            click.ClickException: the worker refuses, or does not answer.
        """
        headers, data = dict(self._headers), None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=_LIMIT_S, context=self._context)
            if self._context is not None
            else http.client.HTTPConnection(self._host, self._port, timeout=_LIMIT_S)
        )
        try:
            connection.request(method, self._path + path, body=data, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(
                f"no worker answers at {self._url}: {error}. `ottla connect run` starts one; --url says where it is."
            ) from None
        finally:
            connection.close()
        if response.status == 401:
            raise click.ClickException(f"{self._url} wants a name and a password: --user NAME:PASSWORD")
        try:
            found = json.loads(answer) if answer.strip() else None
        except ValueError:
            raise click.ClickException(f"{self._url} answers {response.status}, and no JSON: is it a worker?") from None
        if response.status >= 400:
            message = found.get("message") if isinstance(found, dict) else None
            raise click.ClickException(message or f"{self._url} answers {response.status}")
        return found


def rest_options(function: Callable[P, R]) -> Callable[..., R]:
    """Give a command what it takes to reach a worker, and a `Rest` as the argument `rest`."""

    @click.option("--url", envvar="OTTLA_CONNECT_URL", default=DEFAULT_URL, show_default=True, help="The worker.")
    @click.option("--user", envvar="OTTLA_CONNECT_USER", help="NAME:PASSWORD, where the worker wants a login.")
    @click.option("--cacert", type=click.Path(exists=True, dir_okay=False), help="Whom to trust, for https.")
    @wraps(function)
    def run(*args: Any, url: str, user: str | None, cacert: str | None, **rest: Any) -> R:
        return function(*args, rest=Rest(url, user, cacert), **rest)  # type: ignore[arg-type]

    return run


def _at(name: str, rest: str = "") -> str:
    return f"/connectors/{quote(name, safe='')}{rest}"


@click.command("list")
@rest_options
@output_options
def list_(rest: Rest, output: Output) -> None:
    """List connectors and how they are."""
    found = rest.ask("GET", "/connectors?expand=status&expand=info")
    rows = []
    for name, entry in sorted(found.items()):
        status = entry["status"]
        states = [task["state"] for task in status["tasks"]]
        states += ["STARTING"] * (len(entry["info"]["tasks"]) - len(states))
        tasks = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none"
        rows.append(
            (
                name,
                status["type"],
                status["connector"]["state"],
                tasks,
                entry["info"]["config"].get("connector.class", ""),
            )
        )
    output.show(found, ("name", "type", "state", "tasks", "class"), rows)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@rest_options
def add(files: tuple[str, ...], rest: Rest) -> None:
    """Add connectors, or change those that are there: FILES as of `ottla connect run`, JSON or .properties.

    It waits a few seconds for their tasks, and its exit code is 1 if a connector or a task has FAILED.
    """
    failed = False
    for path in files:
        config = read_connector(path)
        name = config.get("name")
        if not name:
            raise click.ClickException(f"{path} has no name")
        is_there = name in rest.ask("GET", "/connectors")
        info = rest.ask("PUT", _at(name, "/config"), config)
        count = len(info["tasks"])
        failure = _failure_of(rest, name, count)
        failed = failed or bool(failure)
        note(f"{name}: {'changed' if is_there else 'added'}, {count} task{'' if count == 1 else 's'}{failure}")
    if failed:
        raise click.exceptions.Exit(1)


def _failure_of(rest: Rest, name: str, count: int) -> str:
    """Say why a connector, or the first of its tasks, has failed: the last line of its trace. Tasks are waited for."""
    deadline = time.monotonic() + _BEGIN_S
    while True:
        try:
            found = rest.ask("GET", _at(name, "/status"))
        except click.ClickException:  # 404: another worker of the group has it, and has not said yet how it is
            found = None
        parts = [] if found is None else [("it", found["connector"])]
        parts += [] if found is None else [(f"task {task['id']}", task) for task in found["tasks"]]
        for what, part in parts:
            if part["state"] == "FAILED":
                lines = part.get("trace", "").strip().splitlines()
                return f": {what} FAILED{': ' + lines[-1] if lines else ''}"
        begun = sum(part["state"] in ("RUNNING", "PAUSED") for _, part in parts[1:])
        if (parts and begun >= count) or time.monotonic() > deadline:
            return ""
        time.sleep(_LOOK_S)


@click.command()
@click.argument("name", required=False)
@rest_options
@output_options
def status(name: str | None, rest: Rest, output: Output) -> None:
    """Show how a connector and its tasks are, with the traces of those that have failed; all without NAME."""
    names = [name] if name is not None else sorted(rest.ask("GET", "/connectors"))
    found = [rest.ask("GET", _at(each, "/status")) for each in names]
    rows, traces = [], []
    for entry in found:
        for what, at in [("connector", entry["connector"]), *((f"task {task['id']}", task) for task in entry["tasks"])]:
            rows.append((entry["name"], what, at["state"], at["worker_id"]))
            if at.get("trace"):
                traces.append((f"{entry['name']}, {what}", at["trace"]))
    output.show(found if name is None else found[0], ("name", "part", "state", "worker"), rows)
    if output.is_table:
        for place, trace in traces:
            click.echo(f"\n{place}:\n{trace.rstrip()}")


@click.command()
@click.argument("names", nargs=-1, required=True)
@rest_options
def pause(names: tuple[str, ...], rest: Rest) -> None:
    """Pause connectors: their tasks stay, and do nothing."""
    for name in names:
        rest.ask("PUT", _at(name, "/pause"))


@click.command()
@click.argument("names", nargs=-1, required=True)
@rest_options
def resume(names: tuple[str, ...], rest: Rest) -> None:
    """Have paused or stopped connectors go on."""
    for name in names:
        rest.ask("PUT", _at(name, "/resume"))


@click.command()
@click.argument("names", nargs=-1, required=True)
@rest_options
def stop(names: tuple[str, ...], rest: Rest) -> None:
    """Stop connectors: their tasks end, their configurations and offsets stay."""
    for name in names:
        rest.ask("PUT", _at(name, "/stop"))


@click.command()
@click.argument("name")
@click.option("--task", type=click.IntRange(min=0), help="Only this task.")
@click.option("--failed", is_flag=True, help="Only what has failed.")
@click.option("--connector-only", is_flag=True, help="Not the tasks.")
@rest_options
def restart(name: str, task: int | None, failed: bool, connector_only: bool, rest: Rest) -> None:
    """Start a connector and its tasks anew."""
    if task is not None:
        rest.ask("POST", _at(name, f"/tasks/{task}/restart"))
        return
    with_tasks = "false" if connector_only else "true"
    rest.ask("POST", _at(name, f"/restart?includeTasks={with_tasks}&onlyFailed={'true' if failed else 'false'}"))


@click.command()
@click.argument("names", nargs=-1, required=True)
@rest_options
def delete(names: tuple[str, ...], rest: Rest) -> None:
    """Delete connectors. Offsets stay: one that is made again under the same name goes on there."""
    for name in names:
        rest.ask("DELETE", _at(name))


@click.command()
@click.argument("name")
@click.option("--reset", is_flag=True, help="Forget them: the connector, which must be stopped, begins anew.")
@click.option("--set", "path", type=click.Path(exists=True, dir_okay=False), help='A JSON file: {"offsets": [...]}.')
@rest_options
@output_options
def offsets(name: str, reset: bool, path: str | None, rest: Rest, output: Output) -> None:
    """Show where a connector is; or, while it is stopped, say where it is to go on."""
    if reset and path is not None:
        raise click.UsageError("--reset and --set exclude each other")
    if reset:
        note(rest.ask("DELETE", _at(name, "/offsets"))["message"])
        return
    if path is not None:
        note(rest.ask("PATCH", _at(name, "/offsets"), _json_of(path))["message"])
        return
    found = rest.ask("GET", _at(name, "/offsets"))
    rows = [(json.dumps(row["partition"]), json.dumps(row["offset"])) for row in found["offsets"]]
    output.show(found, ("partition", "offset"), rows)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Transforms, predicates and converters, too.")
@rest_options
@output_options
def plugins(everything: bool, rest: Rest, output: Output) -> None:
    """List what `connector.class` may be."""
    found = rest.ask("GET", f"/connector-plugins?connectorsOnly={'false' if everything else 'true'}")
    rows = [(plugin["class"], plugin["type"], plugin.get("version", "")) for plugin in found]
    output.show(found, ("class", "type", "version"), rows)


def read_connector(path: str) -> dict[str, str]:
    """Return the configuration in a file: JSON or .properties."""
    if not path.endswith(".json"):
        return read_written(path)
    found = _json_of(path)
    config = found.get("config", found) if isinstance(found, dict) else None
    if not isinstance(config, dict):
        raise click.ClickException(f"{path} is no configuration of a connector: an object is needed")
    for name, value in config.items():
        if not isinstance(value, str | int | float):
            raise click.ClickException(
                f"{path}: the value of {name} is neither a text nor a number: {json.dumps(value)}"
            )
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items()}
    if isinstance(found.get("name"), str):
        texts.setdefault("name", found["name"])
    return texts


def read_written(path: str) -> dict[str, str]:
    """Return a .properties file as it is written: `${file:...}` in a connector is resolved by the worker."""
    from ottla.config.keys import ConfigError
    from ottla.config.properties import parse_properties

    try:
        return parse_properties(Path(path).read_text(), path)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from None


def _json_of(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} is no JSON: {error}") from None


COMMANDS: Final = (list_, add, status, pause, resume, stop, restart, delete, offsets, plugins)
