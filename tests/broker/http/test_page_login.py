"""Logging in to the pages: the users of Kafka's clients, by Basic and Bearer; storms; what is remembered."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.broker.test_login import LOGIN_PORT, broker_of, logged_in, make_user, stranger, with_broker, works
from tests.broker.test_oauth import now_s
from tests.broker.test_oauth import with_broker as with_tokens
from tests.security.identities import key_set, public_jwk, rsa_key, signed

from ottla.broker.http.page_login import QUEUE_MAX, PageLogin
from ottla.network.http import Verdict
from ottla.protocol.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    ScramCredentialDeletion,
)
from ottla.security.acls import Binding, Operation, Pattern, PatternType, Permission, ResourceType, Rule
from ottla.testing.simulation import HOST, SimulatedBroker

AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


async def get(path: str, login: str = "", *, port: int = LOGIN_PORT, peer: str = HOST) -> bytes:
    """Ask for a page in a connection of its own; return the whole answer."""
    heard = bytearray()
    ended = asyncio.get_running_loop().create_future()

    class Browser(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            heard.extend(data)

        def connection_lost(self, exc: Exception | None) -> None:
            ended.set_result(None)

    transport, _ = await asyncio.get_running_loop().create_connection(Browser, HOST, port)
    assert isinstance(transport, asyncio.WriteTransport)
    said = f"Authorization: {login}\r\n" if login else ""
    transport.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{said}Connection: close\r\n\r\n".encode())
    await ended
    return bytes(heard)


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def page_login(node: SimulatedBroker) -> PageLogin:
    site = broker_of(node).server.http
    assert site is not None
    assert isinstance(site.login, PageLogin)
    return site.login


def test_users_of_plain_and_scram_see_the_pages_and_others_do_not() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "sara", "scram pass:word")
        for login in (basic("alice", "wonder"), basic("sara", "scram pass:word"), basic("sara", "scram pass:word")):
            answer = await get("/", login)
            assert status(answer) == 200
            assert b"ottla" in answer
        for login in (
            "", basic("alice", "wrong"), basic("sara", ""), basic("nobody", "x"), "Basic !", "Basic", "Bearer x",
            "Digest x", basic("", ""), "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        ):  # fmt: skip
            answer = await get("/metrics", login)
            assert status(answer) == 401, login
            assert b'WWW-Authenticate: Basic realm="ottla"' in answer
        for path in ("/healthz", "/readyz"):
            assert (await get(path)).split(b"\r\n\r\n")[1] == b"ok\n"

    with_broker(scenario)


def test_without_tls_a_scram_password_is_taken_from_this_machine_only() -> None:
    """Who enables SCRAM without TLS does not want passwords on the wire; PLAIN sends them anyway."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "sara", "secret")
        assert status(await get("/", basic("sara", "secret"))) == (200 if HOST.startswith("127.") else 403)

    with_broker(scenario, **{"listener.name.login.sasl.enabled.mechanisms": "SCRAM-SHA-256"})


def test_pages_obey_the_rules_of_the_user() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        assert status(await get("/", basic("alice", "wonder"))) == 403
        assert status(await get("/", basic("bob", "builder"))) == 200
        broker = broker_of(node)
        rule = Binding(
            Pattern(ResourceType.CLUSTER, PatternType.LITERAL, "kafka-cluster"),
            Rule("User:alice", "*", Operation.DESCRIBE, Permission.ALLOW),
        )  # fmt: skip
        await broker.controller.create_acls([rule])
        assert status(await get("/", basic("alice", "wonder"))) == 200

    with_broker(scenario, **{"authorizer.class.name": AUTHORIZER, "super.users": "User:bob"})


def test_a_changed_credential_is_forgotten_at_once() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "sara", "old")
        assert status(await get("/", basic("sara", "old"))) == 200
        await make_user(node, "sara", "new")
        assert status(await get("/", basic("sara", "old"))) == 401
        assert status(await get("/", basic("sara", "new"))) == 200
        client = await node.connect()
        deletion = ScramCredentialDeletion(name="sara", mechanism=1)
        await client.ask(AlterUserScramCredentialsRequest(deletions=[deletion]), 0, AlterUserScramCredentialsResponse)
        assert status(await get("/", basic("sara", "new"))) == 401

    with_broker(scenario)


def test_a_right_login_is_hashed_once() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "sara", "pass")
        counted = count(page_login(node))
        for _ in range(5):
            assert status(await get("/", basic("sara", "pass"))) == 200
        assert counted == [1]
        for _ in range(3):
            assert status(await get("/", basic("sara", "wrong"))) == 401
        assert counted == [4]
        assert status(await get("/", basic("no such user", "wrong"))) == 401
        assert counted == [5]  # as much work as for a user that exists

    with_broker(scenario)


def count(login: PageLogin) -> list[int]:
    real, counted = login._off_loop, [0]

    async def off_loop(function: Callable[[], bool]) -> bool:
        counted[0] += 1
        return await real(function)

    login._off_loop = off_loop
    return counted


def test_basic_storm_does_not_delay_kafka() -> None:
    """While a password is hashed (here: for ever) one address gets no second try, few wait, and Kafka clients are served."""

    async def scenario(node: SimulatedBroker) -> None:
        login = page_login(node)
        goes_on = asyncio.Event()
        running = 0

        async def off_loop(function: Callable[[], bool]) -> bool:
            nonlocal running
            running += 1
            await goes_on.wait()
            return False

        login._off_loop = off_loop
        storm = [asyncio.ensure_future(get("/", basic("alice", f"guess {number}"))) for number in range(200)]
        client = await logged_in(node)
        for _ in range(20):
            assert await works(client)
        assert await works(await logged_in(node, "bob", "builder"))
        done: set[asyncio.Future[bytes]] = set()
        left: set[asyncio.Future[bytes]] = set(storm)
        while len(left) > 1:  # one address, one try at a time
            some, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            done |= some
        assert {status(each.result()) for each in done} == {503}
        assert running == 1
        assert status(await get("/", basic("alice", "wonder"))) in (200, 503)
        goes_on.set()
        assert status(await left.pop()) == 401

    with_broker(scenario)


async def test_few_passwords_wait_and_one_is_hashed_at_a_time() -> None:
    """From many addresses at once: sixteen wait, the others are told to come again, none runs beside another."""
    running, most = 0, 0
    verdicts: list[Verdict] = []
    goes_on = asyncio.Event()

    async def off_loop(function: Callable[[], bool]) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await goes_on.wait()
        running -= 1
        return False

    from ottla.broker.audit import Audit
    from ottla.broker.http.page_login import PageLogins

    login = PageLogin(
        {"L": PageLogins(mechanisms=("SCRAM-SHA-256",), is_private=True)},
        find=lambda mechanism, user: None,
        may_see=lambda session: True,
        off_loop=off_loop,
        secret=b"s" * 32,
        failure_delay_ms=0,
        audit=Audit(lambda: 0.0),
    )

    class Peer:
        listener = "L"
        session = None

        def __init__(self, host: str) -> None:
            self.peer_host, self.peer_port, self.peer = host, 1, host

        def logins_failed(self) -> None:
            pass

    for number in range(50):
        peer: Any = Peer(f"10.0.0.{number}")
        login(peer, basic("u", "p"), verdicts.append)
    await until(lambda: len(verdicts) == 50 - QUEUE_MAX)
    assert {verdict.name for verdict in verdicts} == {"BUSY"}
    goes_on.set()
    await until(lambda: len(verdicts) == 50)
    assert [verdict.name for verdict in verdicts[50 - QUEUE_MAX :]] == ["WHO_ARE_YOU"] * QUEUE_MAX
    assert most == 1


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_a_storm_of_strangers_does_not_shut_out_who_was_let_in_before() -> None:
    """1. a user is remembered; 2. strangers of many addresses fill the queue; 3. the user is let in, and so is one of PLAIN;
    4. a stranger is not looked at more often because the queue is full; 5. a /64 of IPv6 counts as one address."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "sara", "pass")
        login = page_login(node)
        listener = broker_of(node).config.listeners[-1].name

        class Peer:
            session = None

            def __init__(self, host: str) -> None:
                self.listener, self.peer_host, self.peer_port, self.peer = listener, host, 1, host

            def logins_failed(self) -> None:
                pass

            def authenticated(self) -> None:
                pass

        def ask(host: str, user: str, password: str) -> list[Verdict]:
            verdicts: list[Verdict] = []
            login(Peer(host), basic(user, password), verdicts.append)  # type: ignore[arg-type]
            return verdicts

        first = ask("10.1.0.1", "sara", "pass")
        await until(lambda: first == [Verdict.COME_IN])
        never = asyncio.Event()

        async def off_loop(function: Callable[[], bool]) -> bool:
            await never.wait()
            return False

        login._off_loop = off_loop
        storm = [ask(f"10.0.0.{number}", "root", "guess") for number in range(QUEUE_MAX)]
        assert ask("10.1.0.1", "sara", "pass") == [Verdict.COME_IN]
        assert ask("10.1.0.2", "alice", "wonder") == [Verdict.COME_IN]
        late = ask("2001:db8::1", "alice", "guess")
        assert late == []
        assert ask("2001:db8::2", "alice", "wonder") == [Verdict.BUSY], "not looked at before the first try is answered"
        await until(lambda: late == [Verdict.BUSY])
        assert ask("2001:db8::2", "alice", "wonder") == [Verdict.COME_IN]
        never.set()
        await until(lambda: all(storm))
        assert storm == [[Verdict.WHO_ARE_YOU]] * QUEUE_MAX

    with_broker(scenario)


def test_a_token_shows_the_pages_too(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_bytes(key_set(public_jwk(rsa_key(), "r")))

    async def scenario(node: SimulatedBroker) -> None:
        assert status(await get("/", f"Bearer {signed(now_s(node))}")) == 200
        assert status(await get("/", f"Bearer {signed(now_s(node), aud='files')}")) == 401
        assert status(await get("/", basic("alice", "x"))) == 401

    with_tokens(scenario, keys)


def test_a_client_that_has_logged_in_to_the_pages_is_no_stranger() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        server = broker_of(node).server
        before = broker_of(node).metrics.network.logins
        assert status(await get("/", basic("alice", "wonder"))) == 200
        assert broker_of(node).metrics.network.logins == before + 1
        failed = broker_of(node).metrics.network.logins_failed
        assert status(await get("/", basic("alice", "x"))) == 401
        assert broker_of(node).metrics.network.logins_failed == failed + 1
        assert len(server._strangers) == 0
        client = await stranger(node)
        assert client is not None

    with_broker(scenario)


def test_a_password_is_never_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await get("/", basic("alice\nx", "canary"))
        await get("/", "Basic canary")

    with_broker(scenario)
    assert "could not log in to the pages" in caplog.text
    assert "canary" not in caplog.text
    assert "alice\nx" not in caplog.text
