"""`ottla token`: delegation tokens (KIP-48), as kafka-delegation-tokens makes them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import click

from ottla.cli.output import Output, note, output_options
from ottla.cli.passwords import token_properties, write_private
from ottla.cli.running import Connection, connected, run_command
from ottla.cli.user import trust_of
from ottla.client.admin_results import DelegationToken


@click.group()
def token() -> None:
    """Delegation tokens: logins for a while, on behalf of a user."""


@token.command()
@click.option("--owner", metavar="User:NAME", help="For whom. Default: who asks.")
@click.option("--renewer", "renewers", multiple=True, metavar="User:NAME", help="Who may renew it, too.")
@click.option("--max-lifetime", metavar="DURATION", help="7d, for example. Default: the broker's.")
@click.option(
    "--client-file", metavar="FILE", required=True, help="Write a client's configuration with the token here."
)
@connected
def create(
    connection: Connection, owner: str | None, renewers: Sequence[str], max_lifetime: str | None, client_file: str
) -> None:
    """Make a token. Its secret goes into a file for you alone."""
    with connection.admin() as admin:
        made = admin.create_delegation_token(owner=owner, renewers=renewers, max_lifetime=max_lifetime)
    secret = base64.b64encode(made.hmac).decode()
    write_private(client_file, token_properties(connection.servers, made.token_id, secret, trust_of(connection)))
    note(
        f"{made.token_id} is a token of {made.owner} until {made.expires.isoformat(timespec='seconds')}; in {client_file}"
    )


@token.command("list")
@click.option("--owner", "owners", multiple=True, metavar="User:NAME", help="Only theirs.")
@connected
@output_options
def list_tokens(connection: Connection, output: Output, owners: Sequence[str]) -> None:
    """List tokens that you may see, without their secrets."""
    with connection.admin() as admin:
        found = admin.describe_delegation_tokens(owners or None)
    columns = ("token_id", "owner", "requester", "renewers", "issued", "expires", "expires_at_most")
    output.show([{column: getattr(each, column) for column in columns} for each in found], columns)


@token.command()
@click.argument("token_id")
@click.option("--period", metavar="DURATION", help="For how long from now on. Default: the broker's.")
@connected
def renew(connection: Connection, token_id: str, period: str | None) -> None:
    """Have a token live longer."""
    with connection.admin() as admin:
        until = admin.renew_delegation_token(_hmac(admin.describe_delegation_tokens(), token_id), period=period)
    note(f"{token_id} counts until {until.isoformat(timespec='seconds')}")


@token.command()
@click.argument("token_id")
@click.option("--after", metavar="DURATION", help="In so long. Default: at once.")
@connected
def expire(connection: Connection, token_id: str, after: str | None) -> None:
    """Have a token end."""
    with connection.admin() as admin:
        until = admin.expire_delegation_token(_hmac(admin.describe_delegation_tokens(), token_id), after=after)
    note(f"{token_id} ends at {until.isoformat(timespec='seconds')}")


def _hmac(tokens: Iterable[DelegationToken], token_id: str) -> bytes:
    for each in tokens:
        if each.token_id == token_id:
            return each.hmac
    raise click.ClickException(f"there is no token {token_id} that you may see")


def main(arguments: Sequence[str]) -> int:
    """Run `ottla token`; return the exit code."""
    return run_command(token, "token", arguments)
