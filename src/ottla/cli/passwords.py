"""Where commands get passwords from: a person, a file, stdin, or new ones. Never the command line: others can read it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

import click

#: 144 bits, in characters that mean nothing to shells, JAAS lines and property files.
_NEW_BYTES = 18


def new_password() -> str:
    """Return a password that cannot be guessed."""
    return secrets.token_urlsafe(_NEW_BYTES)


def password_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --password-file and --generate (arguments `password_file` and `generate`)."""
    for option in (
        click.option("--generate", is_flag=True, help="Make a new password."),
        click.option(
            "--password-file", metavar="FILE", help="The password is the first line of this file; -: of stdin."
        ),
    ):
        function = option(function)
    return function


def take_password(user: str, password_file: str | None, *, generate: bool) -> str:
    """Return the password that a person or a file gives, or a new one.

    Raises:
        click.UsageError: there is nothing to take it from.
        click.ClickException: the file cannot be read, or is empty.
    """
    if generate:
        if password_file is not None:
            raise click.UsageError("--generate and --password-file exclude each other")
        return new_password()
    if password_file is not None:
        return _first_line(password_file)
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"the password of {user} is asked for at a terminal; without one say --generate or --password-file FILE"
        )
    answer: str = click.prompt(f"Password of {user}", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def _first_line(path: str) -> str:
    try:
        text = sys.stdin.readline() if path == "-" else _read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise click.ClickException(f"{'stdin' if path == '-' else path} has no password in its first line")
    return password


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline()


def write_private(path: str, text: str | bytes) -> None:
    """Write a new file that only its owner may read.

    Raises:
        click.ClickException: it is there already, or cannot be written.
    """
    data = text.encode() if isinstance(text, str) else text
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
    except FileExistsError:
        raise click.ClickException(f"{path} is there already; nothing was changed") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror or error}") from None


def client_properties(servers: str, user: str, password: str, mechanism: str, trust: dict[str, str]) -> str:
    """Return a client's configuration as Java's clients, Kafka's tools and ottla read it."""
    return _properties(servers, user, password, mechanism, trust, "")


def token_properties(servers: str, token_id: str, secret: str, trust: dict[str, str]) -> str:
    """Return the configuration of a client that logs in with a delegation token."""
    return _properties(servers, token_id, secret, "SCRAM-SHA-512", trust, ' tokenauth="true"')


def _properties(servers: str, user: str, password: str, mechanism: str, trust: dict[str, str], more: str) -> str:
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    login = f"{module} required username={_quoted(user)} password={_quoted(password)}{more};"
    keys = {
        "bootstrap.servers": servers,
        "security.protocol": "SASL_SSL" if trust else "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.jaas.config": login,
        **trust,
    }
    return "".join(f"{key}={value_text(value)}\n" for key, value in keys.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def value_text(value: str) -> str:
    """Return a value as it stands in a properties file."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")
