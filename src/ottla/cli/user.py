"""`ottla user`: who can log in by SCRAM, as `kafka-configs --entity-type users` does it (KIP-554)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ottla.cli.output import Output, note, output_options
from ottla.cli.passwords import client_properties, password_options, take_password, write_private
from ottla.cli.running import Connection, confirm, connected, run_command
from ottla.client.admin_security import SCRAM_ITERATIONS
from ottla.errors import ResourceNotFoundError

_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_mechanism = click.option(
    "-m",
    "--mechanism",
    "mechanisms",
    type=click.Choice(_MECHANISMS, case_sensitive=False),
    multiple=True,
    help="May be repeated. Default: SCRAM-SHA-512.",
)
_iterations = click.option(
    "--iterations", type=click.IntRange(4096, 16384), default=SCRAM_ITERATIONS, show_default=True
)
_client_file = click.option(
    "--client-file",
    metavar="FILE",
    help="Write a client's configuration with the password here; without another choice the password is a new one.",
)


@click.group()
def user() -> None:
    """Users with passwords (SCRAM)."""


@user.command("list")
@connected
@output_options
def list_users(connection: Connection, output: Output) -> None:
    """List users, never their passwords."""
    with connection.admin() as admin:
        found = admin.describe_user_scram_credentials()
    rows = [
        {"user": name, "mechanism": each.mechanism, "iterations": each.iterations}
        for name, credentials in sorted(found.items())
        for each in credentials
    ]
    output.show(rows, ("user", "mechanism", "iterations"))


@user.command()
@click.argument("name")
@password_options
@_mechanism
@_iterations
@_client_file
@connected
def create(connection: Connection, name: str, mechanisms: Sequence[str], **options: Any) -> None:
    """Make a user. The password is asked for, read from a file, or made; it is never on the command line."""
    with connection.admin() as admin:
        try:
            admin.describe_user_scram_credentials([name])
        except ResourceNotFoundError:
            pass
        else:
            raise click.ClickException(f"there is a user {name} already; `ottla user passwd` changes the password")
        _set_password(connection, admin, name, mechanisms or ("SCRAM-SHA-512",), options)
    note(f"{name} can log in; what {name} may do say rules: ottla acl add --principal User:{name} ...")


@user.command()
@click.argument("name")
@password_options
@_mechanism
@_iterations
@_client_file
@connected
def passwd(connection: Connection, name: str, mechanisms: Sequence[str], **options: Any) -> None:
    """Change a user's password, for every mechanism that the user has. Connections that are open stay."""
    with connection.admin() as admin:
        has = [each.mechanism for each in admin.describe_user_scram_credentials([name])[name]]
        _set_password(connection, admin, name, mechanisms or has, options)
    note(f"the password of {name} is changed")


def _set_password(
    connection: Connection, admin: Any, name: str, mechanisms: Sequence[str], options: dict[str, Any]
) -> None:
    path = options["client_file"]
    generate = options["generate"] or (path is not None and options["password_file"] is None)
    if options["generate"] and path is None:
        raise click.UsageError("--generate needs --client-file FILE: where is the new password to go?")
    password = take_password(name, options["password_file"], generate=generate)
    if path is not None:
        # First: a password that could not be written down would be lost.
        text = client_properties(connection.servers, name, password, mechanisms[0].upper(), trust_of(connection))
        write_private(path, text)
    for mechanism in mechanisms:
        admin.upsert_user_scram_credential(
            name, password, mechanism=mechanism.upper(), iterations=options["iterations"]
        )
    if path is not None:
        note(f"{path} is a client's configuration for {name}, for you alone")


def trust_of(connection: Connection) -> dict[str, str]:
    """Return whom this connection trusts, for another one's file."""
    if not connection.config.get("security.protocol", "").upper().endswith("SSL"):
        return {}
    return {"ssl.truststore.type": "PEM"} | {
        key: value for key, value in connection.config.items() if key.startswith("ssl.truststore.")
    }


@user.command()
@click.argument("name")
@_mechanism
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
def delete(connection: Connection, name: str, mechanisms: Sequence[str], yes: bool) -> None:
    """Take a user's passwords away (or those of some mechanisms). Rules about the user stay."""
    confirm(f"Delete the user {name}?", yes=yes)
    with connection.admin() as admin:
        has = [each.mechanism for each in admin.describe_user_scram_credentials([name])[name]]
        for mechanism in mechanisms or has:
            admin.delete_user_scram_credential(name, mechanism=mechanism.upper())
    note(f"{name} can log in no more; connections that are open stay")


def main(arguments: Sequence[str]) -> int:
    """Run `ottla user`; return the exit code."""
    return run_command(user, "user", arguments)
