"""`ottla cluster up`: a cluster of several brokers on one machine; and what `ottla serve --workers` starts.

Reads the command line and works out how each broker is started; `supervisor` keeps them running.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from ottla.cli.supervisor import Plan, python, supervise
from ottla.cli.terminal import Parser, complain

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig

DESCRIPTION = """Start several brokers of one cluster on this machine; any Kafka client connects to localhost:9092.

  ottla cluster up
  ottla cluster up --brokers 5 --port 19092 --data-dir ./cluster
  ottla cluster up --zookeeper zk1:2181/ottla

The brokers have the numbers 1 to N and the ports from --port on. They share a coordination tree that this process keeps in a
file and serves to them on a socket, or keep it on ZooKeeper. Stop them with Ctrl-C or SIGTERM; a broker that ends is started
again. If this process is killed the brokers go on, and the next `ottla cluster up` takes them over.

Data stays where it is. Without --data-dir it is in
{default}"""

#: Settings of workers unless they are configured: each partition has one replica, as with the one broker they replace.
_ONE_REPLICA: Final = {
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}
_DEFAULT_PORT: Final = 9092
_BROKERS_MAX: Final = 100


def main(arguments: Sequence[str]) -> int:
    """Run `ottla cluster up`; return the exit code."""
    try:
        given = parser().parse_args(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    return up(given)


def parser() -> argparse.ArgumentParser:
    """The options of `ottla cluster up`."""
    from ottla.cli.serve import LOG_LEVELS

    made = Parser(
        prog="ottla cluster up",
        description=DESCRIPTION.format(default=_default_data_dir()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("properties", nargs="?", metavar="server.properties", help="settings of all brokers, in Kafka's file format")
    add("--brokers", type=int, default=3, metavar="N", help="how many (default 3)")
    add(
        "--port",
        type=int,
        default=_DEFAULT_PORT,
        help="port of the first one; the others have the next ones (default 9092)",
    )
    add("--host", help="address to listen on (default: localhost, which lets only this machine in; 0.0.0.0: all)")
    add("--data-dir", metavar="DIR", help="directory of all logs")
    add("--zookeeper", metavar="HOST:PORT,...[/PATH]", help="keep the cluster's state in this ZooKeeper ensemble")
    add(
        "-X", "--override", action="append", default=[], metavar="KEY=VALUE", help="one setting of all; may be repeated"
    )
    add("--log-level", choices=LOG_LEVELS, default="info", help="what is logged to stderr (default info)")
    made.set_defaults(cluster_id=None, advertise=None, broker_id=None, supervised=None, workers=None)
    return made


def _default_data_dir() -> str:
    from ottla.cli.serve import default_data_dir

    return f"{default_data_dir(os.environ)}-cluster"


def up(given: argparse.Namespace) -> int:
    """Start the brokers of `ottla cluster up`."""
    from ottla.cli.serve import read_config
    from ottla.config import ConfigError
    from ottla.observability.logs import configure

    if not 1 <= given.brokers <= _BROKERS_MAX:
        return complain(f"--brokers must be 1 to {_BROKERS_MAX}, but it is {given.brokers}", 2)
    given.data_dir = os.path.abspath(given.data_dir or _default_data_dir())
    given.broker_id = 1
    try:
        config = read_config(given, os.environ, is_to_serve=False)  # without --host this machine alone is let in
    except ConfigError as error:
        for mistake in error.mistakes:
            complain(mistake, 2)
        return 2
    except OSError as error:
        return complain(f"cannot read {given.properties}: {error.strerror or error}", 2)
    refusal = _why_not(config, given.brokers, given.port)
    if refusal is not None:
        return complain(refusal, 2)
    configure(given.log_level, "supervisor")
    replicas = min(3, given.brokers)
    defaults = {"default.replication.factor": str(replicas), "min.insync.replicas": str(2 if replicas > 2 else 1)}
    return _supervise(given, config, given.brokers, given.port, defaults, shared_port=0)


def serve_workers(given: argparse.Namespace, config: BrokerConfig) -> int:
    """Start the brokers of `ottla serve --workers`."""
    port = config.listeners[0].port
    if not 1 <= given.workers <= _BROKERS_MAX:
        return complain(f"--workers must be 1 to {_BROKERS_MAX}, but it is {given.workers}", 2)
    if config.zookeeper is not None:
        return complain("--workers makes a cluster of this machine alone: it does not go together with --zookeeper", 2)
    refusal = _why_not(config, given.workers + 1, port)
    if refusal is not None:
        return complain(refusal.replace("--brokers", "--workers"), 2)
    given.data_dir = config.log_dirs[0]
    return _supervise(given, config, given.workers, port + 1, _ONE_REPLICA, shared_port=port)


def _why_not(config: BrokerConfig, ports: int, port: int) -> str | None:
    if len(config.log_dirs) > 1:
        return "--brokers keeps each broker in a directory of its own: name one data directory, not several log.dirs"
    if len(config.listeners) > 1:
        return "--brokers takes one listener: its port is the first broker's, and the others have the next ones"
    if not 1 <= port <= 65536 - ports:
        return f"--brokers needs {ports} ports from {port} on"
    return None


def _supervise(
    given: argparse.Namespace,
    config: BrokerConfig,
    count: int,
    port: int,
    defaults: dict[str, str],
    *,
    shared_port: int,
) -> int:
    settings = [f"{key}={value}" for key, value in defaults.items() if key not in config.levels.static]
    plan = Plan(
        data_dir=given.data_dir,
        count=count,
        port=port,
        command=partial(_command, given, settings, port, shared_port, config.zookeeper is None),
        has_tree=config.zookeeper is None,
        host=reached_by(config.listeners[0].host),
    )
    first = shared_port or port
    shown = config.listeners[0].host or "localhost"

    def announcement() -> str:
        where = f"{shown}:{first}" if shared_port or count == 1 else f"{shown}:{first}-{first + count - 1}"
        tree = plan.socket if plan.has_tree else str(config.zookeeper)
        return (
            f"ottla: {count} brokers ready on {where} (kafka + http) · data {given.data_dir} · coordination tree {tree}"
        )

    return supervise(plan, announcement)


def _command(
    given: argparse.Namespace,
    settings: Sequence[str],
    port: int,
    shared_port: int,
    has_tree: bool,
    number: int,
    directory: str,
) -> list[str]:
    """Return what starts a broker."""
    own = [f"broker.id={number}", *settings]
    if has_tree:
        own.append(f"ottla.tree.socket={os.path.join(given.data_dir, 'tree.sock')}")
    if shared_port:
        own.append(f"ottla.shared.port={shared_port}")
    options = ["--port", str(port + number - 1), "--data-dir", directory, "--log-level", given.log_level]
    for name, value in (("--host", given.host), ("--zookeeper", given.zookeeper), ("--cluster-id", given.cluster_id)):
        if value is not None:
            options += [name, value]
    if given.advertise is not None:
        options += ["--advertise", given.advertise]
    for override in (*given.override, *own):
        options += ["-X", override]
    properties = [] if given.properties is None else [os.path.abspath(given.properties)]
    return [*python(), "serve", *properties, *options, "--supervised", f"[{number}]"]


def reached_by(host: str) -> str:
    """Return an address of this machine by which a listener on `host` is reached."""
    if host in ("", "0.0.0.0", "localhost"):
        return "127.0.0.1"
    return "::1" if host == "::" else host
