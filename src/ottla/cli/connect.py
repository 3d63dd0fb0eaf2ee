"""`ottla connect`: run connectors."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ottla.cli.connect_requests import COMMANDS, read_connector
from ottla.cli.connect_try import try_
from ottla.cli.output import note
from ottla.cli.running import run_command
from ottla.client.property_files import read_properties
from ottla.config.properties import parse_properties
from ottla.config.variables import PREFIX, read_text
from ottla.connect.errors import ConnectError
from ottla.errors import KafkaError

if TYPE_CHECKING:
    from ottla.connect.runtime.serving import Served

#: A worker that is the only one of its group, at a single broker: connectors are kept in topics there.
_BESIDE_BROKER: Final = {
    "group.id": "connect",
    "config.storage.topic": "connect-configs",
    "offset.storage.topic": "connect-offsets",
    "status.storage.topic": "connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
}


@click.group()
def connect() -> None:
    """Connectors: what brings records into topics, and takes them out."""


for _command in (*COMMANDS, try_):
    connect.add_command(_command)


@connect.command()
@click.argument("worker", type=click.Path(exists=True, dir_okay=False))
@click.argument("connectors", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def run(worker: str, connectors: Sequence[str], verbose: bool) -> None:
    """Run connectors as connect-standalone does, until SIGTERM or Ctrl-C.

    WORKER and CONNECTORS are .properties files, as Kafka Connect's; a connector may be a JSON file, too: {"name": ...,
    "config": {...}}. More can be added while it runs, by `ottla connect add` or Kafka Connect's REST interface (listeners,
    http://localhost:8083 by default). Each connector has a process of its own. Offsets of sources are kept in the file that
    offset.storage.file.filename names.
    """
    from ottla.connect.runtime.serving import ServedWorker

    _log(verbose)
    config = read_worker(worker)
    try:
        running = ServedWorker(
            config, [read_connector(path) for path in connectors], _tell, tls=lambda: server_tls(config), users=_users
        )
    except ConnectError as error:
        raise click.ClickException(str(error)) from error
    _announce(running)
    code = running.run()
    if code:
        raise click.exceptions.Exit(code)


def _log(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _announce(running: Served) -> None:
    """Say where a worker is, and have signals stop it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    for url in running.urls:
        note(f"REST interface: {url}")
    if running.is_open:
        note(
            "Who reaches it may read and write files of this user: other machines can, without a login "
            "(rest.extension.classes, docs/connect.md)"
        )


@connect.command("worker")
@click.argument("worker", type=click.Path(exists=True, dir_okay=False))
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def run_worker(worker: str, verbose: bool) -> None:
    """Run a worker of a group as connect-distributed does, until SIGTERM or Ctrl-C.

    All workers with the same group.id share the tasks of all connectors; when one ends or is killed, the others go on with
    its tasks. WORKER is a .properties file, as Kafka Connect's. Connectors are added by `ottla connect add`, or by Kafka
    Connect's REST interface, at any of the workers; they and their offsets are kept in the topics that
    config.storage.topic, offset.storage.topic and status.storage.topic name.
    """
    _log(verbose)
    _run_group_worker(read_worker(worker))


@connect.command("beside-broker", hidden=True)
@click.option("--server", required=True, help="host:port of the broker.")
@click.option("--parent", type=int, required=True, help="Process id of the broker.")
@click.option("--config", help="The worker's own configuration.")
def run_beside_broker(server: str, parent: int, config: str | None) -> None:
    """Run the worker of `ottla serve --connect`: a group of one, that ends with its broker."""
    from ottla.connect.runtime.process import die_with_parent

    die_with_parent(parent)
    threading.Thread(target=_end_with_broker, name="broker", daemon=True).start()
    _log(False)
    _run_group_worker(_BESIDE_BROKER | {"bootstrap.servers": server} | ({} if config is None else read_worker(config)))


def _end_with_broker() -> None:
    """End when standard input does, the other end of which the broker holds: for systems that do not kill children."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _run_group_worker(config: Mapping[str, str]) -> None:
    from ottla.connect.runtime.serving import ServedGroupWorker

    try:
        running = ServedGroupWorker(
            config, _tell, tls=lambda: server_tls(config), users=_users, client_tls=lambda: _client_tls(config)
        )
        _announce(running)
        running.run()
    except (ConnectError, KafkaError) as error:
        raise click.ClickException(str(error)) from error


def _client_tls(worker: Mapping[str, str]) -> ssl.SSLContext:
    """Return what is needed to ask other workers by https: they are trusted by the listener's truststore."""
    below = "listeners.https.ssl." if any(name.startswith("listeners.https.ssl.") for name in worker) else "ssl."
    context = ssl.create_default_context(cafile=worker.get(f"{below}truststore.location"))
    if worker.get(f"{below}endpoint.identification.algorithm") == "":
        context.check_hostname = False
    return context


def read_worker(path: str) -> dict[str, str]:
    """Return a worker's configuration, its variables resolved; its providers stay, for those of connectors."""
    found = read_properties(path)
    written = parse_properties(Path(path).read_text(errors="replace"), path)
    return found | {
        name: text for name, text in written.items() if name == "config.providers" or name.startswith(PREFIX)
    }


def _users(own: str | None) -> dict[str, str]:
    """Return the users of the REST interface, and their passwords."""
    from ottla.connect.rest.login import users_file

    path = users_file(own, os.environ.get("KAFKA_OPTS", ""), read_text)
    try:
        return parse_properties(read_text(path), path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror or error}") from None


def server_tls(worker: Mapping[str, str]) -> ssl.SSLContext:
    """Return what an https listener needs: `listeners.https.ssl.*`, or `ssl.*` if there is none of these, as Java's."""
    from ottla.security.tls import server_context
    from ottla.security.tls_settings import TlsSettings, TlsSettingsError

    prefix = "listeners.https."
    own = {name.removeprefix(prefix): text for name, text in worker.items() if name.startswith(prefix)}
    values = own or worker
    try:
        return server_context(
            TlsSettings(
                keystore_type=values.get("ssl.keystore.type", "JKS").upper(),
                keystore_location=values.get("ssl.keystore.location"),
                keystore_key=values.get("ssl.keystore.key"),
                keystore_certificate_chain=values.get("ssl.keystore.certificate.chain"),
                keystore_password=values.get("ssl.keystore.password"),
                key_password=values.get("ssl.key.password"),
                truststore_type=values.get("ssl.truststore.type", "JKS").upper(),
                truststore_location=values.get("ssl.truststore.location"),
                truststore_password=values.get("ssl.truststore.password"),
                truststore_certificates=values.get("ssl.truststore.certificates"),
                client_auth=values.get("ssl.client.auth", "none"),
            )
        )
    except TlsSettingsError as error:
        raise click.ClickException(f"The REST interface cannot speak TLS: {error}") from None


def _tell(name: str, event: dict[str, Any]) -> None:
    match event["event"]:
        case "running":
            count = event["tasks"]
            note(f"{name}: {count} task{'' if count == 1 else 's'}")
        case "refused":
            note(f"{name}: {event['message']}")
        case "failed":
            again_s = event.get("again_s")
            what = "is not started again" if again_s is None else f"is started again in {again_s:g} s"
            note(f"{name}: task {event['task']} failed, and {what}: {event['message']}")
        case "killed":
            note(f"{name}: a task did not end in time: its process was killed")
        case "died":
            note(f"{name}: its process has ended unexpectedly ({event['code']})")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    return run_command(connect, "connect", arguments)
