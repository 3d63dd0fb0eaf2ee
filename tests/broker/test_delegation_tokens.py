"""Delegation tokens: made, shown, renewed, ended; logins with them; what they are not good for."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.broker.test_login import (
    broker_of,
    ended,
    handshake,
    log_in,
    logged_in,
    make_user,
    principals,
    stranger,
    token,
    with_broker,
    works,
)

from ottla.broker.handlers.delegation_tokens import DelegationTokenHandlers
from ottla.cluster.image import OWN
from ottla.errors import ErrorCode
from ottla.protocol.messages.create_delegation_token import (
    CreatableRenewers,
    CreateDelegationTokenRequest,
    CreateDelegationTokenResponse,
)
from ottla.protocol.messages.describe_delegation_token import (
    DescribeDelegationTokenOwner,
    DescribeDelegationTokenRequest,
    DescribeDelegationTokenResponse,
)
from ottla.protocol.messages.expire_delegation_token import ExpireDelegationTokenRequest, ExpireDelegationTokenResponse
from ottla.protocol.messages.metadata import MetadataRequest
from ottla.protocol.messages.renew_delegation_token import RenewDelegationTokenRequest, RenewDelegationTokenResponse
from ottla.security.acls import Binding, Operation, Pattern, PatternType, Permission, ResourceType, Rule
from ottla.security.delegation_tokens import TOKENS_OF_OWNER_MAX, DelegationToken, token_from_text, token_to_text
from ottla.security.sasl.scram import ScramClient
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.wire import WireClient

KEY = {"delegation.token.secret.key": "canary-key"}
MINUTE_MS = 60_000
DAY_MS = 86_400_000
MECHANISM = "SCRAM-SHA-256"


async def create(
    client: WireClient,
    *,
    owner: str | None = None,
    renewers: tuple[str, ...] = (),
    lifetime_ms: int = -1,
    version: int = 3,
) -> CreateDelegationTokenResponse:
    request = CreateDelegationTokenRequest(
        owner_principal_type="" if version < 3 else None if owner is None else "User",
        owner_principal_name="" if version < 3 else owner,
        renewers=[CreatableRenewers(principal_type="User", principal_name=name) for name in renewers],
        max_lifetime_ms=lifetime_ms,
    )
    return await client.ask(request, version, CreateDelegationTokenResponse)


async def describe(client: WireClient, *owners: str) -> DescribeDelegationTokenResponse:
    named = [DescribeDelegationTokenOwner(principal_type="User", principal_name=name) for name in owners]
    return await client.ask(DescribeDelegationTokenRequest(owners=named or None), 3, DescribeDelegationTokenResponse)


async def renew(client: WireClient, hmac: bytes, period_ms: int = -1) -> RenewDelegationTokenResponse:
    return await client.ask(
        RenewDelegationTokenRequest(hmac=hmac, renew_period_ms=period_ms), 2, RenewDelegationTokenResponse
    )


async def expire(client: WireClient, hmac: bytes, after_ms: int = -1) -> ExpireDelegationTokenResponse:
    request = ExpireDelegationTokenRequest(hmac=hmac, expiry_time_period_ms=after_ms)
    return await client.ask(request, 2, ExpireDelegationTokenResponse)


def login_of(made: Any, mechanism: str = MECHANISM, nonce: str = "n" * 20) -> ScramClient:
    password = base64.b64encode(bytes(made.hmac)).decode()
    return ScramClient(mechanism, made.token_id, password, nonce=nonce, is_token=True)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_token_logs_its_owner_in_until_it_ends(mechanism: str) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        made = await create(alice, lifetime_ms=MINUTE_MS)
        assert made.error_code == ErrorCode.NONE
        assert (made.principal_name, made.token_requester_principal_name) == ("alice", "alice")
        assert made.max_timestamp_ms - made.issue_timestamp_ms == MINUTE_MS
        assert made.expiry_timestamp_ms == made.max_timestamp_ms
        client = await stranger(node)
        answer = await log_in(client, login_of(made, mechanism))
        assert answer.error_code == ErrorCode.NONE
        assert MINUTE_MS - 5_000 < answer.session_lifetime_ms <= MINUTE_MS
        assert principals(node) == ["User:alice", "User:alice"]
        assert await works(client)
        await asyncio.sleep(61)
        await ended(client, (MetadataRequest(topics=[]), 12))
        again = await stranger(node)
        assert (await log_in(again, login_of(made, mechanism))).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED

    with_broker(scenario, **KEY)


def test_token_cannot_mint() -> None:
    """A client that has logged in with a token can make, renew, end and see no token; neither can one that nobody knows."""

    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        made = await create(alice)
        by_token = await stranger(node)
        await log_in(by_token, login_of(made))
        for client in (by_token, await node.connect()):
            for answer in (
                await create(client),
                await renew(client, bytes(made.hmac)),
                await expire(client, bytes(made.hmac)),
                await describe(client),
            ):
                assert answer.error_code == ErrorCode.DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
        assert [each.token_id for each in (await describe(alice)).tokens] == [made.token_id]

    with_broker(scenario, **KEY)


def test_token_named_like_user() -> None:
    """An id of a token and a name of a user are two things: each is good for its own kind of login only."""

    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        made = await create(alice)
        await make_user(node, made.token_id, "of the user")
        secret = base64.b64encode(bytes(made.hmac)).decode()
        tries: list[tuple[str, bool, str | None]] = [
            ("of the user", False, made.token_id),
            (secret, True, "alice"),
            ("of the user", True, None),
            (secret, False, None),
        ]
        for password, is_token, user in tries:
            client = await stranger(node)
            exchange = ScramClient(MECHANISM, made.token_id, password, nonce="n" * 20, is_token=is_token)
            answer = await log_in(client, exchange)
            assert (answer.error_code == ErrorCode.NONE) == (user is not None)
            if user is not None:
                assert f"User:{user}" in principals(node)
                client.close()

    with_broker(scenario, **KEY)


def test_tokens_are_renewed_and_ended_by_those_whose_they_are() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        alice, bob = await logged_in(node), await logged_in(node, "bob", "builder")
        made = await create(alice)
        hmac = bytes(made.hmac)
        assert made.expiry_timestamp_ms - made.issue_timestamp_ms == DAY_MS
        assert made.max_timestamp_ms - made.issue_timestamp_ms == 7 * DAY_MS
        assert (await renew(bob, hmac)).error_code == ErrorCode.DELEGATION_TOKEN_OWNER_MISMATCH
        assert (await expire(bob, hmac)).error_code == ErrorCode.DELEGATION_TOKEN_OWNER_MISMATCH
        assert (await renew(alice, b"x")).error_code == ErrorCode.DELEGATION_TOKEN_NOT_FOUND
        assert (await expire(alice, b"")).error_code == ErrorCode.DELEGATION_TOKEN_NOT_FOUND
        later = await renew(alice, hmac, 30 * DAY_MS)
        assert later.expiry_timestamp_ms == made.max_timestamp_ms
        sooner = await expire(alice, hmac, MINUTE_MS)
        assert sooner.expiry_timestamp_ms < made.expiry_timestamp_ms
        shared = await create(alice, renewers=("bob",))
        assert (await renew(bob, bytes(shared.hmac))).error_code == ErrorCode.NONE
        gone = await expire(bob, bytes(shared.hmac))
        assert gone.error_code == ErrorCode.NONE
        assert [each.token_id for each in (await describe(alice)).tokens] == [made.token_id]
        await asyncio.sleep(61)
        assert (await renew(alice, hmac)).error_code == ErrorCode.DELEGATION_TOKEN_EXPIRED
        assert (await expire(alice, hmac, MINUTE_MS)).error_code == ErrorCode.DELEGATION_TOKEN_EXPIRED

    with_broker(scenario, **KEY)


def test_expired_tokens_are_taken_out_of_the_tree() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        await create(alice, lifetime_ms=1000)
        assert any(kind == OWN and name.startswith("token.") for kind, name in broker_of(node).image.configs)
        await asyncio.sleep(61)
        assert not any(kind == OWN and name.startswith("token.") for kind, name in broker_of(node).image.configs)

    with_broker(scenario, **KEY, **{"delegation.token.expiry.check.interval.ms": "60000"})


def test_tokens_of_others_are_made_and_shown_by_rules() -> None:
    """KIP-373: CreateTokens and DescribeTokens on a user, Describe on a token; what may not be seen is left out."""

    async def scenario(node: SimulatedBroker) -> None:
        alice, bob = await logged_in(node), await logged_in(node, "bob", "builder")
        refused = await create(bob, owner="alice")
        assert refused.error_code == ErrorCode.DELEGATION_TOKEN_AUTHORIZATION_FAILED
        made = await create(alice)
        assert (await describe(bob)).tokens == []
        await allow(node, "User:bob", Operation.CREATE_TOKENS, ResourceType.USER, "User:alice")
        for_alice = await create(bob, owner="alice")
        assert (for_alice.principal_name, for_alice.token_requester_principal_name) == ("alice", "bob")
        client = await stranger(node)
        await log_in(client, login_of(for_alice))
        assert "User:alice" in principals(node)
        assert [each.token_id for each in (await describe(bob)).tokens] == [for_alice.token_id]
        await allow(node, "User:bob", Operation.DESCRIBE, ResourceType.DELEGATION_TOKEN, made.token_id)
        assert {each.token_id for each in (await describe(bob)).tokens} == {made.token_id, for_alice.token_id}
        assert {each.token_id for each in (await describe(bob, "alice")).tokens} == {made.token_id, for_alice.token_id}
        assert (await describe(bob, "carol")).tokens == []

    rules = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer"}
    with_broker(scenario, **KEY, **rules)


async def allow(node: SimulatedBroker, who: str, operation: Operation, kind: ResourceType, name: str) -> None:
    rule = Rule(who, "*", operation, Permission.ALLOW)
    await broker_of(node).controller.create_acls([Binding(Pattern(kind, PatternType.LITERAL, name), rule)])


def test_how_long_tokens_live_is_the_brokers_to_say() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        made = await create(await logged_in(node))
        assert made.expiry_timestamp_ms - made.issue_timestamp_ms == 2_000
        assert made.max_timestamp_ms - made.issue_timestamp_ms == 3_000

    times = {"delegation.token.expiry.time.ms": "2000", "delegation.token.max.lifetime.ms": "3000"}
    with_broker(scenario, **KEY, **times)


def test_no_id_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that begins with a dash could not be given to a command."""
    given = iter([b"\xf8" + bytes(15), b"\xfb" + bytes(15), b"\x01" + bytes(15)])
    make = DelegationTokenHandlers.__init__

    def make_with_given(self: DelegationTokenHandlers, *parts: Any, **settings: Any) -> None:
        make(self, *parts, **{**settings, "secret_bytes": lambda size: next(given)})

    monkeypatch.setattr(DelegationTokenHandlers, "__init__", make_with_given)

    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        assert (await create(alice)).token_id == "AQAAAAAAAAAAAAAAAAAAAA"

    with_broker(scenario, **KEY)


def test_without_a_key_there_are_no_tokens() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        for answer in (await create(alice), await renew(alice, b"x"), await expire(alice, b"x"), await describe(alice)):
            assert answer.error_code == ErrorCode.DELEGATION_TOKEN_AUTH_DISABLED
        client = await stranger(node)
        exchange = ScramClient(MECHANISM, "some-id", "x", nonce="n" * 20, is_token=True)
        assert (await log_in(client, exchange)).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED

    with_broker(scenario)


def test_an_owner_has_no_more_than_so_many() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        store = broker_of(node).entrance.tokens
        assert store is not None
        made = await create(alice)
        kept = store.find(made.token_id)
        assert kept is not None
        store.tokens = lambda: iter([kept] * TOKENS_OF_OWNER_MAX)  # type: ignore[method-assign]
        assert (await create(alice)).error_code == ErrorCode.POLICY_VIOLATION
        bob = await logged_in(node, "bob", "builder")
        assert (await create(bob)).error_code == ErrorCode.NONE
        other = CreateDelegationTokenRequest(renewers=[CreatableRenewers(principal_type="Group", principal_name="x")])
        assert (await bob.ask(other, 1, CreateDelegationTokenResponse)).error_code == ErrorCode.INVALID_PRINCIPAL_TYPE

    with_broker(scenario, **KEY)


def test_the_tree_has_no_secret_and_old_versions_work() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        made = await create(alice, version=1)
        assert made.error_code == ErrorCode.NONE
        texts = " ".join(str(dict(config)) for config in broker_of(node).image.configs.values())
        assert made.token_id in texts
        for secret in ("canary-key", base64.b64encode(bytes(made.hmac)).decode(), bytes(made.hmac).hex()):
            assert secret not in texts

    with_broker(scenario, **KEY)


def test_a_credential_is_derived_once_and_off_the_loop() -> None:
    """What comes behind the first step waits unread until the work is done."""

    async def scenario(node: SimulatedBroker) -> None:
        alice = await logged_in(node)
        made = await create(alice)
        entrance = broker_of(node).entrance
        derived, goes_on = [0], asyncio.Event()

        async def off_loop(work: Callable[[], None]) -> None:
            await goes_on.wait()
            derived[0] += 1
            work()

        for name, rules in entrance._rules.items():
            entrance._rules[name] = replace(rules, off_loop=off_loop)
        client = await stranger(node)
        exchange = login_of(made)
        await handshake(client, MECHANISM)
        first = asyncio.ensure_future(token(client, exchange.begin()))
        assert await works(alice)
        assert not first.done()
        goes_on.set()
        proof = exchange.respond(bytes((await first).auth_bytes))
        assert (await token(client, proof or b"")).error_code == ErrorCode.NONE
        again = await stranger(node)
        assert (await log_in(again, login_of(made))).error_code == ErrorCode.NONE
        assert derived == [1]

    with_broker(scenario, **KEY)


def test_what_stands_in_the_tree_is_read_back() -> None:
    made = DelegationToken(
        token_id="id", owner="User:a:b", requester="User:c", renewers=("User:d",), issued_ms=1, expires_ms=2,
        expires_at_most_ms=3,
    )  # fmt: skip
    assert token_from_text(token_to_text(made)) == made
    for text in ("", "[]", "{}", '{"tokenId": 1}', "\x00"):
        assert token_from_text(text) is None
