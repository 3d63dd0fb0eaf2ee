"""`ottla security init`: everything that a safe broker and its first user need, in one directory."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from ottla.cli.output import note
from ottla.cli.passwords import client_properties, new_password, value_text, write_private
from ottla.cli.running import run_command
from ottla.client.admin_security import SCRAM_ITERATIONS
from ottla.client.contexts import read_contexts
from ottla.client.property_files import read_properties

MECHANISM = "SCRAM-SHA-512"
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825
_LOCAL = ("localhost", "127.0.0.1", "::1")
_SALT_BYTES = 24


@click.group()
def security() -> None:
    """A safe broker: certificates, a first user, settings."""


@security.command()
@click.argument("directory", default="ottla-secure")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address by which clients reach the broker; may be repeated. Without one only this machine is let in.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=9093, show_default=True)
@click.option("--user", default="admin", show_default=True, help="The first user, who may do everything.")
@click.option("--context", "context_name", default="secure", show_default=True, help="The context that is made.")
def init(directory: str, hosts: Sequence[str], port: int, user: str, context_name: str) -> None:
    """Make an authority, a broker's certificate, a first user and settings, in DIRECTORY (ottla-secure).

    `ottla serve DIRECTORY/server.properties` is then a broker that speaks TLS, lets in only users with a password (SCRAM),
    and lets them do only what rules allow.
    """
    from ottla.security.authority import make_authority, make_certificate
    from ottla.security.extra import MissingExtraError

    if not user or not user.isascii() or any(sign in user for sign in ":;,= \t"):
        raise click.UsageError(
            f"{user!r} cannot be the name of a user: ASCII without blanks, colons, commas and the like"
        )
    root = os.path.abspath(directory)
    if "," in root:
        raise click.UsageError(
            f"{root} has a comma, which log.dirs takes for the end of a name; choose another directory"
        )
    contexts = read_contexts(os.environ)
    if context_name in contexts.contexts:
        raise click.ClickException(f"there is a context {context_name!r} already; choose another name with --context")
    now = datetime.now(UTC)
    names = list(dict.fromkeys([*hosts, *_LOCAL, *([socket.gethostname()] if hosts else [])]))
    try:
        authority = make_authority(f"ottla authority {secrets.token_hex(4)}", now=now, days=AUTHORITY_DAYS)
        certificate = make_certificate(authority, names, now=now, days=CERTIFICATE_DAYS)
    except MissingExtraError as error:
        raise click.ClickException(str(error)) from None
    _make_directory(root)

    def at(name: str) -> str:
        return os.path.join(root, name)

    password = new_password()
    servers = f"{hosts[0] if hosts else 'localhost'}:{port}"
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": at("ca.pem")}
    admin = client_properties(servers, user, password, MECHANISM, trust)
    write_private(at("ca.key"), authority.key)
    write_private(at("ca.pem"), authority.certificate)
    write_private(at("broker.pem"), certificate.key + certificate.certificate)
    write_private(
        at("server.properties"),
        _server_properties(
            at("data"), at("broker.pem"), at("ca.pem"), "" if hosts else "localhost", port, user, password
        ),
    )
    write_private(at(f"{user}.properties"), admin)
    os.chmod(at("ca.pem"), 0o644)  # who connects has to have it
    contexts.contexts[context_name] = read_properties(at(f"{user}.properties"))
    contexts.current = contexts.current or context_name
    contexts.save()
    click.echo(
        _what_now(root, servers, user, context_name, is_current=contexts.current == context_name, opened=bool(hosts))
    )


@security.command()
@click.argument("directory", default="ottla-secure")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Other names than before; may be repeated.")
def renew(directory: str, hosts: Sequence[str]) -> None:
    """Make a new certificate for the broker. A running broker takes it within ten seconds.

    With other names than before a running broker keeps the old one until it is started again (ssl.allow.san.changes).
    """
    from ottla.security.authority import AuthorityError, KeyPair, hosts_of, make_certificate
    from ottla.security.extra import MissingExtraError

    root = os.path.abspath(directory)
    key, certificate, broker = (os.path.join(root, name) for name in ("ca.key", "ca.pem", "broker.pem"))
    try:
        if os.stat(key).st_mode & 0o077:
            raise click.ClickException(f"other users may read {key}: chmod 600 it, or begin anew if they have")
        authority = KeyPair(key=_read(key), certificate=_read(certificate))
        old = _read(broker)
        names = (
            list(dict.fromkeys([*hosts, *_LOCAL])) if hosts else hosts_of(old[old.index(b"-----BEGIN CERTIFICATE") :])
        )
        made = make_certificate(authority, names, now=datetime.now(UTC), days=CERTIFICATE_DAYS)
    except (AuthorityError, MissingExtraError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be read: {error.strerror}") from None
    fresh = f"{broker}.new"
    if os.path.exists(fresh):
        os.unlink(fresh)
    write_private(fresh, made.key + made.certificate)
    os.replace(fresh, broker)
    note(f"{broker} is for {', '.join(names)}, for {CERTIFICATE_DAYS} days")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _make_directory(root: str) -> None:
    """Make a directory for its owner only; one that is there has to be empty of what is to be made.

    Raises:
        click.ClickException: others may write into it, or it cannot be made.
    """
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        if os.stat(root).st_mode & 0o022:
            raise click.ClickException(f"other users may write into {root}: choose another directory, or chmod 700 it")
        there = [name for name in ("ca.key", "broker.pem", "server.properties") if os.path.exists(f"{root}/{name}")]
    except OSError as error:
        raise click.ClickException(f"{root} cannot be made: {error.strerror or error}") from None
    if there:
        raise click.ClickException(
            f"{root} has {', '.join(there)} already; nothing was changed. `ottla security renew` makes a new certificate"
        )


def _server_properties(data: str, store: str, authority: str, host: str, port: int, user: str, password: str) -> str:
    import hashlib

    from ottla.security.sasl.scram import HASHES, credential_from_salted, credential_to_text

    salt = secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac(HASHES[MECHANISM], password.encode(), salt, SCRAM_ITERATIONS)
    credential = credential_to_text(credential_from_salted(MECHANISM, salted, salt, SCRAM_ITERATIONS))
    return f"""\
# Made by `ottla security init`. Keys are Kafka's: docs/configuration.md.
listeners=SASL_SSL://{host}:{port}
# A directory of its own: a broker without these settings would give the same records to everybody.
log.dirs={value_text(data)}
sasl.enabled.mechanisms={MECHANISM}
ssl.keystore.type=PEM
ssl.keystore.location={value_text(store)}
ssl.truststore.type=PEM
ssl.truststore.location={value_text(authority)}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{user}
# Keys made of the first user's password, with which the broker can check it. They count until the password is changed.
ottla.scram.users={user}:{MECHANISM}:{value_text(credential)}
# With it users make delegation tokens (`ottla token`). All brokers of a cluster have the same one.
delegation.token.secret.key={new_password()}
"""


def _what_now(root: str, servers: str, user: str, context_name: str, *, is_current: bool, opened: bool) -> str:
    use = "" if is_current else f"  ottla context use {context_name}\n"
    now_current = (
        f"""
It is the current context now: commands without -b, -F or --context go to {servers}. To another broker again:
  ottla context set plain -b localhost:9092
  ottla context use plain"""
        if is_current
        else ""
    )
    reach = "" if opened else "\nOnly this machine is let in: `ottla security init --host NAME` is for others, too."
    return f"""\
In {root}, for you alone:
  server.properties    the broker: TLS, logins by SCRAM, nobody does what no rule allows
  {user}.properties     the user {user!r}, who may do everything; for Kafka's tools and Java clients (--command-config)
  ca.pem               what clients trust; give it to them
  ca.key               signs certificates: keep it somewhere else
  data                 the broker's topics and records, from its first start on; no other broker uses it
The context {context_name!r} of the command line has the same user.{now_current}

Next:
  ottla serve {root}/server.properties
{use}  ottla user create alice --client-file alice.properties
  ottla acl add --principal User:alice --producer --consumer --topic orders --group billing
librdkafka takes ssl.ca.location={root}/ca.pem, security.protocol=SASL_SSL, sasl.mechanism={MECHANISM}, sasl.username and
sasl.password. Clients connect to {servers}.{reach}"""


def main(arguments: Sequence[str]) -> int:
    """Run `ottla security`; return the exit code."""
    return run_command(security, "security", arguments)
