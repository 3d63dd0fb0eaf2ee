"""The cells of the matrix: each is one conversation, the same words to whichever broker. A name begins with its row."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.compatibility.authentication.brokers import PASSWORDS, Doors
from tests.compatibility.authentication.conversation import SESSION_MS, ClosedError, Conversation
from tests.security.identities import ec_key, public_pem, raw, rsa_key, signed

from ottla.protocol.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    ScramCredentialDeletion,
    ScramCredentialUpsertion,
)
from ottla.protocol.messages.create_delegation_token import CreateDelegationTokenRequest, CreateDelegationTokenResponse
from ottla.protocol.messages.expire_delegation_token import ExpireDelegationTokenRequest, ExpireDelegationTokenResponse
from ottla.protocol.messages.produce import ProduceRequest, ProduceResponse
from ottla.security.sasl import ClientExchange
from ottla.security.sasl.oauthbearer import OAuthBearerClient
from ottla.security.sasl.plain import PlainClient
from ottla.security.sasl.scram import ScramClient, salted_password

Story = Callable[[Doors], Awaitable[list[Any]]]
CELLS: dict[str, Story] = {}

SCRAM = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}


# -- exchanges


def plain(user: str = "alice", password: str | None = None) -> ClientExchange:
    return PlainClient(user, PASSWORDS.get(user, "x") if password is None else password)


def scram(user: str = "alice", password: str | None = None, *, kind: int = 1, is_token: bool = False) -> ClientExchange:
    said = PASSWORDS.get(user, "x") if password is None else password
    return ScramClient(SCRAM[kind], user, said, nonce="fyko+d2lbbFgONRv9qkxdawL", is_token=is_token)


def bearer(token: str) -> ClientExchange:
    return OAuthBearerClient(lambda: token)


class Said:
    """An exchange that says what it likes."""

    is_complete = False

    def __init__(self, mechanism: str, *messages: bytes) -> None:
        self.mechanism = mechanism
        self._messages = list(messages)

    def begin(self) -> bytes:
        return self._messages.pop(0)

    def respond(self, challenge: bytes) -> bytes | None:
        if not self._messages:
            self.is_complete = True
            return None
        return self._messages.pop(0)


# -- making cells


def _told(error: BaseException) -> tuple[str, ...]:
    if isinstance(error, ClosedError | ConnectionError | ssl.SSLError):
        return ("closed",)
    raise error


def cell(name: str, listener: str, *steps: Callable[[Conversation, Doors], Awaitable[None]]) -> None:
    """Add a cell: open a connection to a listener and take steps until the broker closes it."""

    async def story(doors: Doors) -> list[Any]:
        context = doors.identities.client_context(None, None) if listener == "SECURE" else None
        client = await Conversation.open(doors.ports[listener], context)
        try:
            for step in steps:
                await step(client, doors)
        except (ClosedError, ConnectionError, ssl.SSLError) as error:
            client.facts.append(_told(error))
        finally:
            client.close()
        return client.facts

    assert name not in CELLS
    CELLS[name] = story


def logs_in(make: Callable[[], ClientExchange], **how: int) -> Callable[[Conversation, Doors], Awaitable[None]]:
    return lambda client, doors: client.log_in(make(), **how)


def says(what: str, *arguments: Any) -> Callable[[Conversation, Doors], Awaitable[None]]:
    async def step(client: Conversation, doors: Doors) -> None:
        await getattr(client, what)(*arguments)

    return step


WHO, WORKS = says("who"), says("works")


def waits(seconds: float) -> Callable[[Conversation, Doors], Awaitable[None]]:
    return lambda client, doors: asyncio.sleep(seconds)


async def produces_silently(client: Conversation, doors: Doors) -> None:
    await client.ask(ProduceRequest(acks=-1, timeout_ms=1_000, topic_data=[]), 9, ProduceResponse)


# -- users that come and go, tokens


async def _users(client: Conversation, *, made: dict[str, tuple[int, ...]], gone: tuple[str, ...] = ()) -> None:
    upsertions = [
        ScramCredentialUpsertion(
            name=user,
            mechanism=kind,
            iterations=4096,
            salt=b"salt",
            salted_password=salted_password(SCRAM[kind], PASSWORDS.get(user, "x"), b"salt", 4096),
        )
        for user, kinds in made.items()
        for kind in kinds
    ]
    deletions = [ScramCredentialDeletion(name=user, mechanism=1) for user in gone]
    request = AlterUserScramCredentialsRequest(upsertions=upsertions, deletions=deletions)
    answer = await client.ask(request, 0, AlterUserScramCredentialsResponse)
    assert {row.error_code for row in answer.results} == {0}, answer


async def prepare(doors: Doors) -> None:
    """Make the SCRAM users of all cells, and wait until they can log in (Kafka answers before it has taken them in)."""
    admin = await Conversation.open(doors.ports["PLAINTEXT"])
    await _users(admin, made={"alice": (2,), "bob": (2,)})  # a user once in a request
    await _users(admin, made={"alice": (1,), "bob": (1,), "only-256": (1,), "leaver": (1,), "a,b=c": (1,)})
    admin.close()
    deadline = time.monotonic() + 20
    while True:
        client = await Conversation.open(doors.ports["LOGIN"])
        await client.log_in(scram("a,b=c"))
        client.close()
        if not client.facts[-1][1]:
            return
        assert time.monotonic() < deadline, client.facts
        await asyncio.sleep(0.2)


async def _token(doors: Doors, owner: str = "alice") -> tuple[str, bytes]:
    client = await Conversation.open(doors.ports["LOGIN"])
    await client.log_in(plain(owner))
    request = CreateDelegationTokenRequest(max_lifetime_ms=3_600_000)
    answer = await client.ask(request, 3, CreateDelegationTokenResponse)
    assert not answer.error_code
    client.close()
    deadline = time.monotonic() + 20
    while True:  # until the broker has taken it in
        client = await Conversation.open(doors.ports["LOGIN"])
        await client.log_in(scram(answer.token_id, _hmac(answer.hmac), is_token=True))
        client.close()
        if not client.facts[-1][1] or time.monotonic() > deadline:
            return answer.token_id, bytes(answer.hmac)
        await asyncio.sleep(0.2)


def _hmac(hmac: bytes) -> str:
    import base64

    return base64.b64encode(hmac).decode()


def by_token(
    what: str = "", *, kind: int = 1, is_token: bool = True
) -> Callable[[Conversation, Doors], Awaitable[None]]:
    async def step(client: Conversation, doors: Doors) -> None:
        token_id, hmac = await _token(doors)
        if what == "expired":
            owner = await Conversation.open(doors.ports["LOGIN"])
            await owner.log_in(plain())
            request = ExpireDelegationTokenRequest(hmac=hmac, expiry_time_period_ms=-1)
            answer = await owner.ask(request, 2, ExpireDelegationTokenResponse)
            assert not answer.error_code
            owner.close()
            await asyncio.sleep(1.5)
        password = "wrong" if what == "wrong" else _hmac(hmac)
        user = "no-such-token" if what == "unknown" else token_id
        await client.log_in(scram(user, password, kind=kind, is_token=is_token))

    return step


async def leaves(client: Conversation, doors: Doors) -> None:
    """The user's credential is deleted while it is connected."""
    admin = await Conversation.open(doors.ports["PLAINTEXT"])
    await _users(admin, made={}, gone=("leaver",))
    admin.close()
    await asyncio.sleep(1)


async def replays_scram(client: Conversation, doors: Doors) -> None:
    """What a right login has said is said again, word for word."""
    first = await Conversation.open(doors.ports["LOGIN"])
    exchange = scram()
    said = [exchange.begin()]
    await first.handshake(exchange.mechanism)
    challenge = await first.authenticate(said[0])
    said.append(exchange.respond(challenge) or b"")
    await first.authenticate(said[1])
    first.close()
    await client.log_in(Said("SCRAM-SHA-256", *said))


# -- the matrix

for where in ("LOGIN", "SECURE"):
    row = "plain" if where == "LOGIN" else "over TLS"
    cell(f"PLAIN {row}: right", where, logs_in(plain), WHO)
    cell(f"PLAIN {row}: wrong password", where, logs_in(lambda: plain(password="nope")), WHO)
    cell(f"PLAIN {row}: unknown user", where, logs_in(lambda: plain("mallory")), WHO)
    for kind, name in SCRAM.items():
        cell(f"{name} {row}: right", where, logs_in(lambda kind=kind: scram(kind=kind)), WHO)  # type: ignore[misc]
        cell(
            f"{name} {row}: wrong password",
            where,
            logs_in(lambda kind=kind: scram(password="nope", kind=kind)),  # type: ignore[misc]
        )
        cell(f"{name} {row}: unknown user", where, logs_in(lambda kind=kind: scram("mallory", kind=kind)))  # type: ignore[misc]
    cell(f"OAUTHBEARER {row}: right", where, logs_in(lambda: bearer(signed(time.time()))), WHO)
    cell(f"OAUTHBEARER {row}: expired", where, logs_in(lambda: bearer(signed(time.time() - 900))), WHO)
    cell(f"token {row}: right", where, by_token(), WORKS, WHO)
    cell(f"token {row}: wrong", where, by_token("wrong"))

cell("PLAIN: the user asks to act as itself", "LOGIN", logs_in(lambda: Said("PLAIN", b"alice\0alice\0wonder")), WHO)
cell("PLAIN: the user asks to act as another", "LOGIN", logs_in(lambda: Said("PLAIN", b"bob\0alice\0wonder")), WHO)
cell("PLAIN: no user", "LOGIN", logs_in(lambda: Said("PLAIN", b"\0\0wonder")), WHO)
cell("PLAIN: no password", "LOGIN", logs_in(lambda: Said("PLAIN", b"\0alice\0")), WHO)
cell("PLAIN: two parts", "LOGIN", logs_in(lambda: Said("PLAIN", b"alice\0wonder")), WHO)
cell("PLAIN: four parts", "LOGIN", logs_in(lambda: Said("PLAIN", b"\0alice\0wonder\0")), WHO)
cell("PLAIN: nothing", "LOGIN", logs_in(lambda: Said("PLAIN", b"")), WHO)
cell("PLAIN: the password in another case", "LOGIN", logs_in(lambda: plain(password="Wonder")), WHO)

cell("SCRAM: a name with a comma", "LOGIN", logs_in(lambda: scram("a,b=c")), WHO)
cell("SCRAM: a user of the other mechanism", "LOGIN", logs_in(lambda: scram("only-256", kind=2)), WHO)
cell("SCRAM: a replayed login", "LOGIN", replays_scram, WHO)
cell("SCRAM: no first message", "LOGIN", logs_in(lambda: Said("SCRAM-SHA-256", b"hello")), WHO)
cell("SCRAM: nothing", "LOGIN", logs_in(lambda: Said("SCRAM-SHA-256", b"")), WHO)
cell(
    "SCRAM: wants channel binding", "LOGIN", logs_in(lambda: Said("SCRAM-SHA-256", b"p=tls-unique,,n=alice,r=abc")), WHO
)
cell("SCRAM: acts as another", "LOGIN", logs_in(lambda: Said("SCRAM-SHA-256", b"n,a=bob,n=alice,r=abc")), WHO)
cell("SCRAM: no proof", "LOGIN", logs_in(lambda: Said("SCRAM-SHA-256", b"n,,n=alice,r=abc", b"c=biws,r=abc")), WHO)
cell("SCRAM: the user is deleted and goes on", "LOGIN", logs_in(lambda: scram("leaver")), WORKS, leaves, WORKS, WHO)
cell("SCRAM: the user is deleted and comes again", "LOGIN", logs_in(lambda: scram("leaver")), WHO)

cell("token: unknown", "LOGIN", by_token("unknown"))
cell("token: expired", "LOGIN", by_token("expired"))
cell("token: without saying that it is one", "LOGIN", by_token(is_token=False))
cell("token: a user's name and password as one", "LOGIN", logs_in(lambda: scram(is_token=True)))
cell("token: SCRAM-SHA-512", "LOGIN", by_token(kind=2), WORKS)


def oauth(name: str, make: Callable[[], str]) -> None:
    cell(f"OAUTHBEARER: {name}", "LOGIN", logs_in(lambda: bearer(make())), WHO)


oauth("another key", lambda: signed(time.time(), rsa_key(1) if rsa_key(1) is not rsa_key() else ec_key(), "RS256"))
oauth("unknown key id", lambda: signed(time.time(), key_id="other"))
oauth("no key id", lambda: signed(time.time(), key_id=None))
oauth("nobody's signature (alg none)", lambda: raw({"alg": "none"}, {"sub": "alice", "exp": int(time.time()) + 300}))
oauth("HS256 with the public key", lambda: _hs256())
oauth("another issuer", lambda: signed(time.time(), iss="https://evil.example.com"))
oauth("no issuer", lambda: signed(time.time(), iss=None))
oauth("another audience", lambda: signed(time.time(), aud="others"))
oauth("several audiences", lambda: signed(time.time(), aud=["others", "kafka"]))
oauth("no audience", lambda: signed(time.time(), aud=None))
oauth("no subject", lambda: signed(time.time(), sub=None))
oauth("no expiry", lambda: signed(time.time(), exp=None))
oauth("no time of issue", lambda: signed(time.time(), iat=None))
oauth("not valid yet", lambda: signed(time.time(), nbf=int(time.time()) + 900))
oauth("garbage", lambda: "a.b.c")
cell("OAUTHBEARER: no message of it", "LOGIN", logs_in(lambda: Said("OAUTHBEARER", b"hello", b"\x01")), WHO)
cell(
    "OAUTHBEARER: acts as another",
    "LOGIN",
    logs_in(
        lambda: Said("OAUTHBEARER", b"n,a=bob,\x01auth=Bearer " + signed(time.time()).encode() + b"\x01\x01", b"\x01")
    ),
    WHO,
)


def _hs256() -> str:
    import base64
    import hashlib
    import hmac
    import json

    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    now = int(time.time())
    payload = {"sub": "alice", "iss": "https://id.example.com", "aud": "kafka", "iat": now, "exp": now + 300}
    begun = f"{text(json.dumps({'alg': 'HS256', 'kid': 'r'}).encode())}.{text(json.dumps(payload).encode())}"
    return f"{begun}.{text(hmac.digest(public_pem(rsa_key()), begun.encode(), hashlib.sha256))}"


cell("order: bare tokens after a handshake of version 0", "LOGIN", logs_in(plain, handshake=0), WHO)
cell("order: bare tokens, wrong", "LOGIN", logs_in(lambda: plain(password="nope"), handshake=0), WHO)
cell("order: bare tokens of SCRAM", "LOGIN", logs_in(scram, handshake=0), WHO)
cell("order: bare tokens of SCRAM, wrong", "LOGIN", logs_in(lambda: scram(password="nope"), handshake=0), WHO)
cell("order: SaslAuthenticate v0", "LOGIN", logs_in(plain, version=0), WHO)
cell("order: SaslAuthenticate v1", "LOGIN", logs_in(plain, version=1), WHO)
cell("order: versions first", "LOGIN", says("versions"), logs_in(plain), WHO)
cell("order: versions twice", "LOGIN", says("versions"), says("versions"), logs_in(plain), WHO)
cell("order: versions after the handshake", "LOGIN", says("handshake", "PLAIN"), says("versions"), logs_in(plain), WHO)
cell("order: versions after the login", "LOGIN", logs_in(plain), says("versions"), WHO)
cell("order: another mechanism", "LOGIN", says("handshake", "GSSAPI"), logs_in(plain), WHO)
cell("order: an unknown mechanism", "LOGIN", says("handshake", "nonsense"), logs_in(plain), WHO)
cell("order: two handshakes", "LOGIN", says("handshake", "PLAIN"), logs_in(plain), WHO)
cell("order: no handshake", "LOGIN", says("authenticate", b"\0alice\0wonder"), WHO)
cell("order: a request first", "LOGIN", WORKS)
cell("order: a request after the handshake", "LOGIN", says("handshake", "PLAIN"), WORKS)
cell("order: records first", "LOGIN", produces_silently)
cell(
    "order: a handshake after the login, without an end to it",
    "LOGIN",
    logs_in(plain),
    says("handshake", "PLAIN"),
    WORKS,
)
cell("order: tokens after the login", "LOGIN", logs_in(plain), says("authenticate", b"\0alice\0wonder"), WORKS)
cell("order: a login on a listener without any", "PLAINTEXT", says("handshake", "PLAIN"), WORKS)
cell("order: tokens on a listener without any", "PLAINTEXT", says("authenticate", b"\0alice\0wonder"), WORKS)

LONG, SHORT = SESSION_MS / 1000 + 1.0, SESSION_MS / 1000 / 2
for mechanism, make in (("PLAIN", plain), ("SCRAM-SHA-256", scram)):
    cell(
        f"again {mechanism}: in time", "AGAIN", logs_in(make), waits(SHORT), logs_in(make), waits(SHORT + 1), WORKS, WHO
    )
    cell(f"again {mechanism}: too late", "AGAIN", logs_in(make), WORKS, waits(LONG), WORKS)
    cell(
        f"again {mechanism}: wrong password",
        "AGAIN",
        logs_in(make),
        waits(SHORT),
        logs_in(lambda make=make: make(password="nope")),  # type: ignore[misc]
        WORKS,
    )
    cell(
        f"again {mechanism}: as another",
        "AGAIN",
        logs_in(make),
        waits(SHORT),
        logs_in(lambda make=make: make("bob")),  # type: ignore[misc]
        WORKS,
    )
cell("again: after the end, without a request before", "AGAIN", logs_in(plain), waits(LONG), logs_in(plain), WORKS, WHO)
cell("again: at once", "AGAIN", logs_in(plain), logs_in(plain), WORKS, WHO)
cell("again: twice within a second", "AGAIN", logs_in(plain), waits(1.2), logs_in(plain), logs_in(plain), WORKS)
cell("again: by another mechanism", "AGAIN", logs_in(plain), waits(SHORT), logs_in(scram), WORKS, WHO)
cell("again: a request in the middle", "AGAIN", logs_in(plain), waits(1.2), says("handshake", "PLAIN"), WORKS)
cell("again: a client that knows nothing of it", "AGAIN", logs_in(plain, version=0), waits(LONG), WORKS)
cell(
    "again: by a token that ends sooner",
    "AGAIN",
    logs_in(lambda: bearer(signed(time.time(), exp=int(time.time()) + 3))),
)
cell("again: by a token that ends later", "AGAIN", logs_in(lambda: bearer(signed(time.time()))), WHO)
cell("again: by a delegation token", "AGAIN", by_token(), WORKS)


def tls(name: str, listener: str, who: str | None, version: ssl.TLSVersion | None) -> None:
    async def story(doors: Doors) -> list[Any]:
        facts: list[Any] = []
        client: Conversation | None = None
        try:
            client = await Conversation.open(doors.ports[listener], doors.identities.client_context(who, version))
            await client.works()
            await client.who()
            facts = client.facts
        except (ClosedError, ConnectionError, ssl.SSLError):
            facts = [("refused",)]
        finally:
            if client is not None:
                client.close()
        return facts

    CELLS[name] = story


VERSIONS = {
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
for wanted in ("none", "requested", "required"):
    for shown_version, number in VERSIONS.items():
        for who in (None, "good", "wrong authority", "expired", "not yet valid"):
            shown = f"client certificate {wanted}: {who or 'none'}, TLS {shown_version}"
            tls(f"TLS, {shown}", wanted.upper(), who, number)
tls("TLS: a name that the rules make shorter", "MAPPED", "mapped", None)
tls("TLS: a name that no rule is about", "MAPPED", "good", None)
tls("TLS: a certificate where a login is asked for", "SECURE", "good", None)


async def _plain_bytes(doors: Doors) -> list[Any]:
    client = await Conversation.open(doors.ports["NONE"])
    try:
        await client.works()
    except (ClosedError, ConnectionError):
        client.facts.append(("closed",))
    client.close()
    return client.facts


async def _tls_bytes(doors: Doors) -> list[Any]:
    try:
        client = await Conversation.open(doors.ports["PLAINTEXT"], doors.identities.client_context(None, None))
    except (ssl.SSLError, ConnectionError, TimeoutError):
        return [("closed",)]
    client.close()
    return [("open",)]


CELLS["TLS: plain bytes on its port"] = _plain_bytes
CELLS["TLS: its bytes on a plain port"] = _tls_bytes
