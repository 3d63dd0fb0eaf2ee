"""What the commands that talk to a broker share: options of the connection, and how a command ends.

Exit codes: 0 done, 1 it did not work, 2 the command line or a configuration is wrong. An error is one line on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from ottla.cli.output import note
from ottla.cli.terminal import complain, reason
from ottla.client.contexts import read_contexts, says_where
from ottla.client.errors import ConfigurationError
from ottla.errors import KafkaError

if TYPE_CHECKING:
    from ottla.client.admin import Admin

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_SERVERS = "localhost:9092"
DEFAULT_CLIENT_ID = "ottla-cli"
#: A person waits: less than the clients' own minute.
API_TIMEOUT_MS = 30_000
TLS_HINT = "Say -F FILE with a client's configuration (security.protocol, ssl.*), or --context NAME."


class Connection:
    """How to reach the cluster: the command line, a file that it names, the environment, the context, `localhost:9092`, in
    this order.

    Args:
        file: a client's configuration, as Kafka's tools take it (`--command-config`). Of it the keys count that every client
            has; settings of producers and consumers among them are not read.
    """

    def __init__(
        self,
        servers: str | None,
        context: str | None,
        overrides: Sequence[str],
        environment: Mapping[str, str],
        file: str | None = None,
    ) -> None:
        self.config: dict[str, str] = {}
        given = parse_client_keys(overrides)
        if file is not None:
            if context is not None:
                raise click.UsageError("--command-config and --context exclude each other")
            self.config.update(keys_of_every_client(file))
        # What names a cluster on the command line or in the environment beats the current context as a whole; a context
        # that is named on the command line beats the environment.
        named = servers or given.get("bootstrap.servers") or self.config.get("bootstrap.servers")
        if context is None:
            named = named or environment.get("KAFKA_BOOTSTRAP_SERVERS")
        if context is not None or (not named and file is None):
            self.config.update(read_contexts(environment).find(context, environment))
        if named:
            self.config["bootstrap.servers"] = named
        elif file is not None:
            note(f"{file} has no bootstrap.servers: this goes to {DEFAULT_SERVERS}; -b HOST:PORT says where else")
        self.config.setdefault("bootstrap.servers", environment.get("KAFKA_BOOTSTRAP_SERVERS") or DEFAULT_SERVERS)
        self.config.update({key: value for key, value in given.items() if key != "bootstrap.servers"})
        self.config.setdefault("client.id", DEFAULT_CLIENT_ID)

    @property
    def servers(self) -> str:
        """The addresses, comma-separated."""
        return self.config["bootstrap.servers"]

    def admin(self, *beside: Collection[str], **options: Any) -> Admin:
        """Return an admin client, not started yet.

        Args:
            beside: the keys of other clients that the command makes.
        """
        from ottla.client.admin import Admin
        from ottla.client.admin_settings import ADMIN_KEYS

        options.setdefault("default_api_timeout_ms", API_TIMEOUT_MS)
        config = self.config_of(ADMIN_KEYS, *beside)
        given = {name.replace("_", ".") for name in options} & config.keys()
        return Admin(config=config, **{k: v for k, v in options.items() if k.replace("_", ".") not in given})

    def config_of(self, own: Collection[str], *beside: Collection[str]) -> dict[str, str]:
        """Return the configuration of one of several clients that a command makes, without what only the others have.

        Args:
            own, beside: the keys of this client, and of the others. A key that none of them has stays: this client
                complains of it.
        """
        from ottla.client.keys import ALIASES

        def is_elsewhere(spelled: str) -> bool:
            name = spelled.replace("_", ".")
            name = ALIASES[name][0] if name in ALIASES else name
            return name not in own and any(name in keys for keys in beside)

        return {key: value for key, value in self.config.items() if not is_elsewhere(key)}


def connection_options(function: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options of a connection: `servers`, `context`, `file` and `overrides`."""
    for option in (
        click.option(
            "-X", "overrides", multiple=True, metavar="KEY=VALUE", help="A key of the client; may be repeated."
        ),
        click.option(
            "-F",
            "--command-config",
            "file",
            metavar="FILE",
            help="A client's configuration: bootstrap.servers, sasl.*, ssl.*.",
        ),
        click.option("--context", metavar="NAME", help="A context of `ottla context list`."),
        click.option(
            "-b",
            "--bootstrap-server",
            "servers",
            metavar="HOST:PORT",
            help="Brokers, comma-separated. Default: --context, KAFKA_BOOTSTRAP_SERVERS, current context, localhost:9092.",
        ),
    ):
        function = option(function)
    return function


def connected(function: Callable[P, R]) -> Callable[..., R]:
    """Give a command the options of a connection, and the connection as its first argument."""

    @connection_options
    @wraps(function)
    def run(
        *args: Any,
        servers: str | None,
        context: str | None,
        overrides: tuple[str, ...],
        file: str | None,
        **rest: Any,
    ) -> R:
        connection = Connection(servers, context, overrides, os.environ, file)
        return function(connection, *args, **rest)  # type: ignore[arg-type]

    return run


def keys_of_every_client(path: str) -> dict[str, str]:
    """Return the keys of a client's configuration file that every client has, and leave those of producers and such out."""
    from ottla.client.admin_settings import ADMIN_KEYS
    from ottla.client.property_files import read_properties

    return {key: value for key, value in read_properties(path).items() if says_where(key) or key in ADMIN_KEYS}


def parse_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Return the keys and values of `key=value` texts.

    Raises:
        click.UsageError: one has no "=".
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"{option} takes key=value, not {pair!r}")
        found[key.strip()] = value.strip()
    return found


def parse_client_keys(pairs: Iterable[str]) -> dict[str, str]:
    """Return the keys of a client that `-X` gives.

    Raises:
        click.UsageError: one has no "=", or is a secret: other users of the machine can read command lines.
    """
    from ottla.client.security import SECRET_KEYS

    found = parse_pairs(pairs, "-X")
    secret = next((key for key in found if key in SECRET_KEYS), None)
    if secret is not None:
        raise click.UsageError(
            f"{secret} on the command line can be read by others; put it into a file and say -F FILE"
        )
    return found


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal it has to be said with --yes.

    Raises:
        click.UsageError: nobody can be asked.
        click.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with --yes")
    click.confirm(question, abort=True, err=True)


def run_command(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Run a command; return the exit code."""
    program = f"ottla {name}"
    try:
        code = command.main(args=list(arguments), prog_name=program, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx is not None else program
        text = error.format_message()
        return complain(f"{text if text.endswith('...') else text.rstrip('.')}; see {place} --help", 2)
    except click.Abort:
        return complain("given up", 1)
    except click.ClickException as error:
        return complain(error.format_message(), 1)
    except ConfigurationError as error:
        return complain(str(error), 2)
    except BrokenPipeError:
        # Whoever read has enough (`| head`). Python flushes at exit once more: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KafkaError, OSError, ValueError) as error:
        hint = getattr(error, "hint", "")
        text = reason(error)
        if "ssl_context" in hint:  # which programs pass; a command takes a file or a context
            text, hint = text.replace(hint, TLS_HINT), TLS_HINT
        return complain(f"{text} {hint}" if hint and hint not in text else text, 1)
    except KeyboardInterrupt:
        return complain("interrupted", 1)
