"""`ottla serve`: a broker in the foreground.

Reads the command line, the file and the environment, starts the broker, says so in one line on stdout, and stops it on
SIGTERM or SIGINT. What a setting means is decided in `broker/config.py`; what a broker is, in `broker/broker.py`.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ottla.cli.terminal import Parser, complain, reason, say

if TYPE_CHECKING:
    import asyncio

    from ottla.broker.config import BrokerConfig
    from ottla.broker.http.broker_facts import BrokerFacts

#: Objects made between two looks for garbage. Requests that wait, and members of groups, are many small objects that stay for
#: a while: with Python's 700 they were walked over again and again, which made the rebalance of a classic group of 3,000
#: members take twice as long, and a quarter of all time while 10,000 members joined.
GC_THRESHOLD = 10_000

LOG_LEVELS = ("debug", "info", "warning", "error")

DESCRIPTION = """Start a Kafka broker; any Kafka client connects to localhost:9092, a browser too.

  ottla serve
  ottla serve --port 19092 --data-dir ./events -X num.partitions=4
  ottla serve /etc/kafka/server.properties --advertise kafka.example.com:9092
  ottla serve --zookeeper zk1:2181,zk2:2181,zk3:2181/ottla --broker-id 1 --host 0.0.0.0
  ottla serve --connect

Settings have Kafka's names and defaults (docs/configuration.md). They come from, the later the stronger: the file,
KAFKA_* environment variables, -X, the options below. A misspelt setting is an error.

Data stays where it is when the broker stops. Without --data-dir, log.dirs or OTTLA_DATA_DIR it is in
{default}:
neither in the current directory nor in /tmp, so it is found again from anywhere and survives a reboot."""


def default_data_dir(environment: Mapping[str, str], platform: str = sys.platform) -> str:
    """Where data is kept unless the user says otherwise: the user's data directory, by the platform's custom."""
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return os.path.join(environment["LOCALAPPDATA"], "ottla")
    given = environment.get("XDG_DATA_HOME", "")
    home = given if given.startswith("/") else os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(home, "ottla")


def parser() -> argparse.ArgumentParser:
    """The options of `ottla serve`."""
    made = Parser(
        prog="ottla serve",
        description=DESCRIPTION.format(default=default_data_dir(os.environ)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("properties", nargs="?", metavar="server.properties", help="settings in Kafka's file format")
    add("--port", type=int, help="port of the first listener (default 9092; 0 takes any free one)")
    add("--host", help="address to listen on (default: localhost, which lets only this machine in; 0.0.0.0: all)")
    add("--data-dir", metavar="DIR", help="directory of the log")
    add(
        "--advertise",
        metavar="HOST:PORT",
        help="address that clients get to use; by default the one they used already, which is right unless ports are "
        "mapped on the way (containers, NAT)",
    )
    add("-X", "--override", action="append", default=[], metavar="KEY=VALUE", help="one setting; may be repeated")
    add("--cluster-id", metavar="ID", help="id of a new cluster (default: a random one)")
    add(
        "--zookeeper",
        metavar="HOST:PORT,...[/PATH]",
        help="join the cluster whose state is kept in this ZooKeeper ensemble, below PATH; needs --broker-id "
        "(docs/cluster.md)",
    )
    add("--broker-id", type=int, metavar="N", help="number of this broker, which no other one of the cluster has")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="N brokers in processes of their own, for N cores: all take connections on the port, each leads its partitions "
        "on a port of its own, the next ones (docs/cluster.md)",
    )
    add(
        "--connect",
        action="store_true",
        help="run a Connect worker beside the broker, in a process of its own; connectors come by `ottla connect add`, or by "
        "REST on http://localhost:8083 (docs/connect.md)",
    )
    add(
        "--connect-config",
        metavar="FILE",
        help="settings of that worker, as `ottla connect worker` takes them; implies --connect",
    )
    add("--supervised", metavar="NAME", help=argparse.SUPPRESS)  # one of several brokers that share a log
    add("--log-level", choices=LOG_LEVELS, default="info", help="what is logged to stderr (default info)")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop; return the exit code."""
    gc.disable()  # what is imported stays: looking for garbage among it, again and again, is 7 % of a start
    try:
        return _main(arguments)
    finally:
        gc.enable()


def _main(arguments: Sequence[str]) -> int:
    try:
        given = parser().parse_args(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    from ottla.config import ConfigError

    try:
        config = read_config(given, os.environ, is_to_serve=given.supervised is None)
    except ConfigError as error:
        for mistake in error.mistakes:
            complain(mistake, 2)
        return 2
    except OSError as error:
        return complain(f"cannot read {given.properties}: {error.strerror or error}", 2)
    given.connect = given.connect or given.connect_config is not None
    if given.connect and (given.workers is not None or config.zookeeper is not None):
        return complain(
            "--connect is for a single broker: run `ottla connect worker` beside several (docs/connect.md)", 2
        )
    _import_asyncio(tls=any(listener.security_protocol.endswith("SSL") for listener in config.listeners))
    from ottla.observability.logs import configure

    configure(given.log_level, given.supervised or "")
    if given.workers is not None:
        from ottla.cli.cluster_up import serve_workers

        gc.enable()
        return serve_workers(given, config)
    if not given.connect:
        return run(config, is_supervised=given.supervised is not None)
    try:
        beside = _connect_beside(config, given.connect_config)
    except (ConfigError, ValueError) as error:
        return complain(str(error), 2)
    except OSError as error:
        return complain(f"cannot read {given.connect_config}: {error.strerror or error}", 2)
    return run(config, beside=beside)


def read_config(given: argparse.Namespace, environment: Mapping[str, str], *, is_to_serve: bool = True) -> BrokerConfig:
    """The configuration from all sources.

    Args:
        is_to_serve: for a broker that listens by itself: not one of several on this machine, nor a command that only looks
            into a directory or a tree.

    Raises:
        ConfigError: something in it is wrong; all of it is named, and the texts are for people.
        OSError: the file cannot be read.
    """
    from ottla.broker.config import BrokerConfig, Flags
    from ottla.config.mistakes import Mistakes

    mistakes = Mistakes()
    text = None if given.properties is None else read_properties(given.properties)
    if given.data_dir is not None:
        if not given.data_dir.strip():
            mistakes.add("--data-dir is empty; name a directory, or leave the option out")
        given.data_dir = os.path.abspath(given.data_dir)

    def read(data_dir: str | None) -> BrokerConfig:
        return BrokerConfig.from_sources(
            properties=text,
            properties_name=given.properties or "server.properties",
            environment=environment,
            overrides=given.override,
            flags=Flags(
                port=given.port,
                host=given.host,
                data_dir=data_dir,
                advertise=given.advertise,
                cluster_id=given.cluster_id,
                zookeeper=given.zookeeper,
                broker_id=given.broker_id,
                is_to_serve=is_to_serve,
            ),
        )

    with mistakes.caught():
        config = read(given.data_dir)
        if not {"log.dirs", "log.dir"} & config.levels.static.keys():
            config = read(default_data_dir(environment))
    mistakes.raise_all()
    return config


def read_properties(path: str) -> str:
    """The text of a properties file: UTF-8, or else Latin-1, which Java's format was for a long time."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _import_asyncio(*, tls: bool) -> None:
    """Import asyncio, without `ssl` if no listener needs it: 11-20 ms and 4.6 MB of memory less (Python 3.11, Linux).

    asyncio is made to run where Python has no ssl module. For everybody else `ssl` can be imported as ever afterwards.
    """
    if tls or "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


class Beside(Protocol):
    """What runs beside a broker, from when it is ready until it stops."""

    def start(self, broker: Any) -> None: ...

    async def stop(self) -> None: ...


def _connect_beside(config: BrokerConfig, path: str | None) -> Beside:
    """Return the Connect worker of this broker.

    Raises:
        ConfigError, ValueError: it cannot reach the broker; the texts are for people.
        OSError: its file cannot be read.
    """
    from ottla.cli.cluster_up import reached_by
    from ottla.cli.connect_child import ConnectChild, listener_for_connect
    from ottla.config.properties import parse_properties

    worker = {} if path is None else parse_properties(read_properties(path), path)
    listener = listener_for_connect(config.listeners, worker)
    child = ConnectChild(None if path is None else os.path.abspath(path))

    class ConnectBeside:
        def start(self, broker: Any) -> None:
            port = next(port for name, _, port in broker.server.addresses if name == listener.name)
            child.start(f"{reached_by(listener.host)}:{port}")

        async def stop(self) -> None:
            await child.stop()

    return ConnectBeside()


class RunningBroker(Protocol):
    """What `serve` needs of `broker.Broker`."""

    failure: asyncio.Future[str]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def run(config: BrokerConfig, *, is_supervised: bool = False, beside: Beside | None = None) -> int:
    """Start the broker, wait for a signal, stop it. One that is supervised writes its process id, for the next supervisor."""
    import asyncio

    from ottla.broker.broker import START_ERRORS, Broker
    from ottla.broker.wiring.machine import bound_allocator, machine
    from ottla.clock import SystemClock

    gc.enable()
    clock = SystemClock()
    began_ms = clock.monotonic_ms()
    if config.has_secrets:
        from ottla.observability.process import forbid_core_dumps

        forbid_core_dumps()
    try:

        def make() -> Broker:
            return Broker(config, machine(config.zookeeper, config.ottla_tree_socket))

        def announce(broker: Broker) -> None:
            elapsed = (clock.monotonic_ms() - began_ms) / 1000
            if is_supervised:
                from ottla.cli.supervisor import write_pid

                write_pid(config.log_dirs[0], config.listeners[0].port)
            say(ready_line(broker.facts(), elapsed))
            # What is here now stays: full collections need not walk over it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD, 10, 10)
            bound_allocator()

        patience_ms = config.zookeeper.connection_timeout_ms if config.zookeeper is not None else 0
        return asyncio.run(serve(make, announce, patience_ms / 1000, beside))
    except (OSError, *START_ERRORS) as error:
        return complain(reason(error), 1)


async def serve(
    make: Callable[[], RunningBroker],
    announce: Callable[[Any], None],
    patience_s: float = 0,
    beside: Beside | None = None,
) -> int:
    """Start, announce, wait for a signal or a failure, stop. A signal during the start ends it.

    Args:
        make: a broker, which is started once.
        patience_s: for so long a start that lost its connection with ZooKeeper is tried again; a connection that breaks
            later does not end a broker either.
        beside: is started after the broker, and stopped before it.
    """
    import asyncio
    import logging

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_signals(loop, told)
    until = loop.time() + patience_s
    waiting = asyncio.ensure_future(told.wait())
    broker = make()
    starting = asyncio.ensure_future(broker.start())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        while starting.done() and _lost_its_connection(starting) and loop.time() < until and not told.is_set():
            logging.getLogger(__name__).warning("the start begins anew: %s", starting.exception())
            broker = make()
            starting = asyncio.ensure_future(broker.start())
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            announce(broker)
            if beside is not None:
                beside.start(broker)
            ends: set[asyncio.Future[Any]] = {waiting, broker.failure}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if broker.failure.done():
                return complain(broker.failure.result(), 1)
        else:
            starting.cancel()
            await asyncio.wait({starting})
    finally:
        waiting.cancel()
        if beside is not None:
            await beside.stop()
        await broker.stop()
    return 0


def _lost_its_connection(starting: asyncio.Future[None]) -> bool:
    from ottla.cluster.tree import ConnectionLostError

    return isinstance(starting.exception(), ConnectionLostError)


def on_signals(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    """SIGTERM, SIGHUP and SIGINT set `told`; a second SIGINT ends the process at once."""

    def stop() -> None:
        told.set()

    def interrupt() -> None:
        if told.is_set():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        told.set()

    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGHUP, stop)  # its terminal was closed: that is no reason for an unclean stop
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except NotImplementedError:  # Windows' loops have none
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(stop))
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(interrupt))


def ready_line(facts: BrokerFacts, elapsed_seconds: float) -> str:
    """One line with what somebody at the terminal wants to know."""
    from ottla.observability.process import age_seconds, resident_bytes

    age = age_seconds()  # counts the interpreter's own start as well, where it can be told
    resident = resident_bytes()
    parts = [
        f"ottla {facts.version} ready on {', '.join(facts.addresses)} (kafka + http)",
        f"data {', '.join(map(os.path.abspath, facts.data_dirs))}",
        f"{age if age is not None else elapsed_seconds:.2f} s",
        *([f"{resident / 1e6:.0f} MB"] if resident is not None else []),
        f"kernels {facts.kernels}",
        *(["only this machine is let in, --host 0.0.0.0 opens it"] if facts.is_loopback_only else []),
    ]
    return " · ".join(parts)
