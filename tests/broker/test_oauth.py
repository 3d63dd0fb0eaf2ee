"""Logging in with tokens (OAUTHBEARER): a whole broker in virtual time; keys that change; sessions with an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.broker.test_login import broker_of, ended, log_in, principals, stranger, token, works
from tests.broker.test_login import handshake as shake
from tests.security.identities import AUDIENCE, ISSUER, claims, key_set, public_jwk, raw, rsa_key, signed

from ottla.broker.broker import Broker
from ottla.broker.settings.oauth import OAuthSettings
from ottla.broker.token_keys import UNKNOWN_KEY_SECONDS, Environment, TokenKeys
from ottla.errors import ErrorCode
from ottla.network.fetching import FetchError
from ottla.protocol.messages.metadata import MetadataRequest
from ottla.security.sasl.oauthbearer import OAuthBearerClient, TokenError
from ottla.security.tokens import ClaimRules
from ottla.testing.simulation import HOST, SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

Scenario = Callable[[SimulatedBroker], Awaitable[None]]


def with_broker(scenario: Scenario, keys: Path, **more: object) -> None:
    """Run a broker whose listener LOGIN takes tokens signed with the keys in a file."""
    settings: dict[str, object] = {
        "listeners": f"PLAINTEXT://{HOST}:9092,LOGIN://{HOST}:9093",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
        "listener.name.login.sasl.enabled.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.jwks.endpoint.url": keys.as_uri(),
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": ISSUER,
        **more,
    }

    async def run(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **settings)
        await node.start()
        try:
            await scenario(node)
        finally:
            await node.stop()

    run_virtual(1, run)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(public_jwk(rsa_key(), "r")))
    return path


def now_s(node: SimulatedBroker) -> float:
    broker: Broker = broker_of(node)
    return broker._around.clock.wall_ms() / 1000


def client_of(made: str) -> OAuthBearerClient:
    return OAuthBearerClient(lambda: made)


def test_a_token_lets_its_user_in_for_as_long_as_it_lives(keys: Path) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        answer = await log_in(client, client_of(signed(now_s(node))))
        assert answer.error_code == ErrorCode.NONE
        assert 290_000 < answer.session_lifetime_ms <= 300_000
        assert principals(node) == ["User:alice"]
        assert await works(client)
        await asyncio.sleep(301)
        await ended(client, (MetadataRequest(topics=[]), 12))

    with_broker(scenario, keys)


def test_a_client_logs_in_again_with_a_new_token_of_the_same_user_only(keys: Path) -> None:
    """KIP-368: in time, with another token; as somebody else the login is refused."""

    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        await log_in(client, client_of(signed(now_s(node))))
        await asyncio.sleep(200)
        again = await log_in(client, client_of(signed(now_s(node))))
        assert again.error_code == ErrorCode.NONE
        await asyncio.sleep(200)
        assert await works(client)
        other = await log_in(client, client_of(signed(now_s(node), sub="bob")))
        assert other.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert "Cannot change principals during re-authentication" in (other.error_message or "")
        await client.closed

    with_broker(scenario, keys)


def test_a_session_is_no_longer_than_connections_max_reauth_ms(keys: Path) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        answer = await log_in(client, client_of(signed(now_s(node))))
        assert answer.session_lifetime_ms == 60_000

    with_broker(scenario, keys, **{"connections.max.reauth.ms": "60000"})


def test_a_token_that_is_not_good_is_refused_and_the_log_says_why(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client hears invalid_token, whatever was wrong; the reason and nothing of the token stands in the log."""

    async def scenario(node: SimulatedBroker) -> None:
        wrong: dict[str, Callable[[float], str]] = {
            "expired": lambda now: signed(now, exp=int(now) - 60, iat=int(now) - 100),
            "signature": lambda now: signed(now, rsa_key(1)),
            "another audience": lambda now: signed(now, aud="files"),
            "another issuer": lambda now: signed(now, iss="x"),
            "not an algorithm": lambda now: raw({"alg": "none", "kid": "r"}, claims(now)),
            "not in the key set": lambda now: signed(now, key_id="elsewhere"),
        }
        for why, make in wrong.items():
            caplog.clear()
            await asyncio.sleep(61)  # lines of the log are counted by the minute
            made = make(now_s(node))
            client = await stranger(node)
            assert (await shake(client, "OAUTHBEARER")).error_code == ErrorCode.NONE
            exchange = client_of(made)
            challenge = await token(client, exchange.begin())
            assert bytes(challenge.auth_bytes) == b'{"status":"invalid_token"}'
            refused = await token(client, exchange.respond(bytes(challenge.auth_bytes)) or b"")
            assert refused.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
            assert refused.error_message == '{"status":"invalid_token"}'
            await client.closed
            assert why in caplog.text
            assert made.split(".")[1] not in caplog.text
        assert principals(node) == []

    with_broker(scenario, keys)


def test_unsecured_tokens_are_for_trials_on_this_machine(keys: Path) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        answer = await log_in(client, client_of(raw({"alg": "none"}, claims(now_s(node), aud=None, iss=None))))
        assert answer.error_code == ErrorCode.NONE
        assert principals(node) == ["User:alice"]

    with_broker(
        scenario,
        keys,
        **{
            "sasl.oauthbearer.jwks.endpoint.url": "",
            "sasl.oauthbearer.expected.audience": "",
            "sasl.oauthbearer.expected.issuer": "",
            "ottla.oauthbearer.unsecured": "true",
            "listeners": "PLAINTEXT://127.0.0.1:9092,LOGIN://127.0.0.1:9093",
        },
    )


# -- keys


class Provider:
    """Where keys come from: answers with what it has, counts, breaks on demand."""

    def __init__(self) -> None:
        self.document: bytes | None = key_set(public_jwk(rsa_key(), "r"))
        self.asked = 0

    def fetch(self, url: str) -> bytes:
        assert url == "https://id/keys"
        self.asked += 1
        if self.document is None:
            raise FetchError("id answered 503")
        return self.document


def with_keys(scenario: Callable[[TokenKeys, Provider, Callable[[], int]], Awaitable[None]], **more: Any) -> None:
    async def run(loop: VirtualLoop) -> None:
        provider = Provider()

        async def off_loop(function: Callable[[], bytes]) -> bytes:
            await asyncio.sleep(0.5)
            return function()

        def wall_ms() -> int:
            return 1_800_000_000_000 + int(loop.time() * 1000)

        if more.pop("broken", False):
            provider.document = None
        settings = OAuthSettings(url="https://id/keys", rules=ClaimRules(), **more)
        around = Environment(fetch=provider.fetch, off_loop=off_loop, now=loop.time, wall_ms=wall_ms)
        keys = TokenKeys("LOGIN", settings, around)
        await keys.start()
        try:
            await scenario(keys, provider, wall_ms)
        finally:
            await keys.stop()

    run_virtual(1, run)


def test_an_unknown_key_has_the_keys_fetched_once_a_minute_at_most() -> None:
    async def scenario(keys: TokenKeys, provider: Provider, wall_ms: Callable[[], int]) -> None:
        def check(key: Any, key_id: str) -> str:
            return keys.check(signed(wall_ms() / 1000, key, key_id=key_id)).user

        assert check(rsa_key(), "r") == "alice"
        provider.document = key_set(public_jwk(rsa_key(1), "new"))
        for number in range(100):
            with pytest.raises(TokenError, match="not in the key set"):
                check(rsa_key(1), "new" if number == 0 else f"made up {number}")
        await asyncio.sleep(5)
        assert provider.asked == 2
        assert check(rsa_key(1), "new") == "alice"
        with pytest.raises(TokenError):
            check(rsa_key(), "r")
        await asyncio.sleep(5)
        assert provider.asked == 2
        await asyncio.sleep(UNKNOWN_KEY_SECONDS)
        with pytest.raises(TokenError):
            check(rsa_key(), "r")
        await asyncio.sleep(5)
        assert provider.asked == 3

    with_keys(scenario)


def test_keys_that_cannot_be_had_are_tried_for_again_and_old_ones_stay() -> None:
    async def scenario(keys: TokenKeys, provider: Provider, wall_ms: Callable[[], int]) -> None:
        with pytest.raises(TokenError, match="there are no keys yet"):
            keys.check(signed(wall_ms() / 1000))
        await asyncio.sleep(3)
        assert provider.asked >= 3
        provider.document = key_set(public_jwk(rsa_key(), "r"))
        await asyncio.sleep(20)
        assert keys.check(signed(wall_ms() / 1000)).user == "alice"
        asked = provider.asked
        provider.document = b"<html>"
        await asyncio.sleep(70)
        assert asked < provider.asked < asked + 20
        assert keys.check(signed(wall_ms() / 1000)).user == "alice"

    with_keys(scenario, broken=True, refresh_ms=60_000)
