"""Logging in: a whole broker in virtual time, asked over the wire, with what is right, wrong, early, late and odd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Any, TypeVar

import pytest

from ottla.broker.broker import Broker
from ottla.errors import ErrorCode
from ottla.protocol.api import APIS, SERVED, ApiKey, request_header_version
from ottla.protocol.codec import encode
from ottla.protocol.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    ScramCredentialDeletion,
    ScramCredentialUpsertion,
)
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.describe_user_scram_credentials import (
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
    UserName,
)
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.schema import Message
from ottla.security.sasl import ClientExchange
from ottla.security.sasl.plain import PlainClient
from ottla.security.sasl.scram import ScramClient, salted_password
from ottla.testing.simulation import HOST, SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

T = TypeVar("T")
LOGIN_PORT = 9093
_KEY_AND_VERSION = Struct(">hh")
SETTINGS: dict[str, object] = {
    "listeners": f"PLAINTEXT://{HOST}:9092,LOGIN://{HOST}:{LOGIN_PORT}",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
    "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    "listener.name.login.plain.sasl.jaas.config": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="wonder" user_bob="builder";'
    ),
}


def with_broker(scenario: Callable[[SimulatedBroker], Awaitable[T]], **settings: object) -> T:
    async def run(loop: VirtualLoop) -> T:
        node = SimulatedBroker(loop, **{**SETTINGS, **{name.replace("__", "."): v for name, v in settings.items()}})
        await node.start()
        try:
            return await scenario(node)
        finally:
            await node.stop()

    return run_virtual(1, run)[0]


def broker_of(node: SimulatedBroker) -> Broker:
    assert node.broker is not None
    return node.broker


async def stranger(node: SimulatedBroker) -> WireClient:
    return await node.connect("client", LOGIN_PORT)


async def handshake(client: WireClient, mechanism: str) -> SaslHandshakeResponse:
    return await client.ask(SaslHandshakeRequest(mechanism=mechanism), 1, SaslHandshakeResponse)


async def token(client: WireClient, data: bytes, version: int = 2) -> SaslAuthenticateResponse:
    return await client.ask(SaslAuthenticateRequest(auth_bytes=data), version, SaslAuthenticateResponse)


async def log_in(client: WireClient, exchange: ClientExchange) -> SaslAuthenticateResponse:
    assert (await handshake(client, exchange.mechanism)).error_code == ErrorCode.NONE
    said: bytes | None = exchange.begin()
    while True:
        answer = await token(client, said or b"")
        if answer.error_code:
            return answer
        said = exchange.respond(bytes(answer.auth_bytes))
        if exchange.is_complete:
            return answer


async def logged_in(node: SimulatedBroker, user: str = "alice", password: str = "wonder") -> WireClient:
    client = await stranger(node)
    assert not (await log_in(client, PlainClient(user, password))).error_code
    return client


def principals(node: SimulatedBroker) -> list[str]:
    return sorted(c.session.principal for c in broker_of(node).server.connections if c.session is not None)


async def works(client: WireClient) -> bool:
    return bool((await client.ask(MetadataRequest(topics=[]), 12, MetadataResponse)).brokers)


async def make_user(node: SimulatedBroker, name: str, password: str, mechanism: int = 1) -> None:
    client = await node.connect()
    names = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}
    salted = salted_password(names[mechanism], password, b"salt", 4096)
    upsertion = ScramCredentialUpsertion(
        name=name, mechanism=mechanism, iterations=4096, salt=b"salt", salted_password=salted
    )
    answer = await client.ask(
        AlterUserScramCredentialsRequest(upsertions=[upsertion]), 0, AlterUserScramCredentialsResponse
    )
    assert [(r.user, r.error_code) for r in answer.results] == [(name, 0)]
    client.close()


async def ended(client: WireClient, *requests: tuple[Message, int]) -> None:
    """The broker closes the connection and answers none of these."""
    futures = [client.send(request, version) for request, version in requests]
    await client.closed
    for future in futures:
        assert isinstance(future.exception(), ConnectionResetError)


def test_plain_and_what_it_is_good_for() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await logged_in(node)
        assert principals(node) == ["User:alice"]
        assert await works(client)
        assert broker_of(node).metrics.network.logins == 1

    with_broker(scenario)


@pytest.mark.parametrize(("number", "mechanism"), [(1, "SCRAM-SHA-256"), (2, "SCRAM-SHA-512")])
def test_scram_with_credentials_in_the_tree(number: int, mechanism: str) -> None:
    """They survive a restart; the other mechanism has none; a changed password counts at once."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "carol", "old", number)
        await node.stop()
        await node.start()
        client = await stranger(node)
        assert not (await log_in(client, ScramClient(mechanism, "carol", "old", nonce="n"))).error_code
        assert await works(client)
        other = next(name for name in ("SCRAM-SHA-256", "SCRAM-SHA-512") if name != mechanism)
        refused = await log_in(await stranger(node), ScramClient(other, "carol", "old", nonce="n"))
        assert refused.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        await make_user(node, "carol", "new", number)
        refused = await log_in(await stranger(node), ScramClient(mechanism, "carol", "old", nonce="n"))
        assert refused.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        again = await stranger(node)
        assert not (await log_in(again, ScramClient(mechanism, "carol", "new", nonce="n"))).error_code
        assert await works(client), "who is in stays in"

    with_broker(scenario)


def test_user_dot_dot() -> None:
    """Names become nodes encoded, and `<default>` is a user like others."""

    async def scenario(node: SimulatedBroker) -> None:
        for name in ("..", ".", "<default>", "a/b", "ü%2F", "x y"):
            await make_user(node, name, "secret")
        tree = broker_of(node).sessions.tree
        assert sorted(await tree.children("/config/users")) == sorted(
            ["%2E%2E", "%2E", "%3Cdefault%3E", "a%2Fb", "%C3%BC%252F", "x%20y"]
        )
        client = await node.connect()
        told = await client.ask(
            DescribeUserScramCredentialsRequest(users=None), 0, DescribeUserScramCredentialsResponse
        )
        assert sorted(result.user for result in told.results) == sorted(["..", ".", "<default>", "a/b", "ü%2F", "x y"])

    with_broker(scenario)


WRONG = [
    (lambda: PlainClient("alice", "wrong"), "Authentication failed: Invalid username or password"),
    (lambda: PlainClient("nobody", "wonder"), "Authentication failed: Invalid username or password"),
    (
        lambda: ScramClient("SCRAM-SHA-256", "carol", "wrong", nonce="n"),
        "Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-256",
    ),
    (
        lambda: ScramClient("SCRAM-SHA-256", "nobody", "wrong", nonce="n"),
        "Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-256",
    ),
]


@pytest.mark.parametrize(("exchange", "sentence"), WRONG)
def test_a_wrong_login_is_answered_late_and_closes(exchange: Callable[[], ClientExchange], sentence: str) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "carol", "right")
        client = await stranger(node)
        loop = asyncio.get_running_loop()
        before = loop.time()
        answer = await log_in(client, exchange())
        assert (answer.error_code, answer.error_message) == (ErrorCode.SASL_AUTHENTICATION_FAILED, sentence)
        assert 0.1 <= loop.time() - before < 0.2
        await client.closed
        assert broker_of(node).metrics.network.logins_failed == 1
        assert "User:carol" not in principals(node)

    with_broker(scenario)


def produce(topic: str = "t") -> ProduceRequest:
    batch = bytes(build_batch([Record(0, 1, None, b"v")]))
    return ProduceRequest(
        acks=1,
        timeout_ms=1000,
        topic_data=[TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=0, records=batch)])],
    )


async def make_topic(node: SimulatedBroker, name: str = "t") -> None:
    client = await node.connect()
    from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse

    topic = CreatableTopic(name=name, num_partitions=1, replication_factor=1)
    assert not (await client.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)).topics[0].error_code
    client.close()


def log_end(node: SimulatedBroker, name: str = "t") -> int:
    partition = broker_of(node).replicas.partition(name, 0)
    assert partition is not None
    return partition.log.log_end_offset


def test_produce_is_first_frame() -> None:
    """The short cut of Produce stands behind the gate, whatever the version."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node)
        for version in range(SERVED[ApiKey.PRODUCE][0], 13):
            await ended(await stranger(node), (produce(), version))
        assert log_end(node) == 0

    with_broker(scenario)


def test_nothing_but_a_login_is_a_first_frame() -> None:
    """Every served API in every version, and some that are not: the connection ends, no answer comes."""

    async def scenario(node: SimulatedBroker) -> None:
        for key, (low, high) in SERVED.items():
            if key in (ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE):
                continue
            for version in range(low, high + 1):
                await ended(await stranger(node), (APIS[key].request_class()(), version))
        unserved = [key for key in range(-1, 128) if key not in SERVED]
        for frame in (
            *(_KEY_AND_VERSION.pack(key, version) + b"\0\0\0\1\xff\xff" for key in unserved for version in (0, 1)),
            b"",
            b"\x00",
            b"\xff" * 8,
            b"\x00\x12\x00\x63" + b"\x00" * 4,
            b"\x7f\xff\x00\x00\x00\x00\x00\x01",
        ):
            client = await stranger(node)
            client.write_raw(len(frame).to_bytes(4, "big") + frame)
            if frame[:2] != b"\x00\x12":
                await client.closed

    with_broker(scenario)


def test_what_is_too_long_before_a_login_ends_the_connection() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        client.write_raw((65_537).to_bytes(4, "big"))
        await client.closed
        client = await stranger(node)
        await handshake(client, "PLAIN")
        client.write_raw((600_000).to_bytes(4, "big"))
        await client.closed
        client = await logged_in(node)
        assert await works(client)
        client.write_raw((600_000).to_bytes(4, "big"))
        await asyncio.sleep(1)
        assert not client.closed.done()

    with_broker(scenario)


def frame_of(request: Message, version: int, correlation_id: int) -> bytes:
    key = ApiKey(request.API_KEY)  # type: ignore[arg-type]
    header = RequestHeader(
        request_api_key=key, request_api_version=version, correlation_id=correlation_id, client_id="c"
    )
    body = encode(header, request_header_version(key, version)) + encode(request, version)
    return len(body).to_bytes(4, "big") + body


def test_produce_pipelined_behind_wrong_password() -> None:
    """What stands behind a refused step in the same packet is never looked at; behind a right one it is handled."""

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node)
        for password, appended in (("wrong", 0), ("wonder", 1)):
            client = await stranger(node)
            await handshake(client, "PLAIN")
            login = SaslAuthenticateRequest(auth_bytes=b"\0alice\0" + password.encode())
            answer = client.send(login, 2)
            behind = client.send(produce(), 9)
            told = await answer
            assert isinstance(told, SaslAuthenticateResponse)
            if password == "wrong":
                assert told.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
                await client.closed
                assert isinstance(behind.exception(), ConnectionResetError)
            else:
                await behind
            assert log_end(node) == appended

    with_broker(scenario)


def test_a_mechanism_that_is_not_enabled() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        answer = await handshake(client, "GSSAPI")
        assert answer.error_code == ErrorCode.UNSUPPORTED_SASL_MECHANISM
        assert answer.mechanisms == ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
        await client.closed

    with_broker(scenario)


def test_bare_tokens_after_a_handshake_of_version_0() -> None:
    """Clients before KIP-152 send tokens without headers; a refusal is a closed connection."""

    async def scenario(node: SimulatedBroker) -> None:
        loop = asyncio.get_running_loop()
        for password in ("wonder", "wrong"):
            heard: list[bytes] = []

            class Raw(asyncio.Protocol):
                def data_received(self, data: bytes, heard: list[bytes] = heard) -> None:
                    heard.append(data)

            transport, _ = await loop.create_connection(Raw, HOST, LOGIN_PORT)
            transport.write(frame_of(SaslHandshakeRequest(mechanism="PLAIN"), 0, 1))
            await asyncio.sleep(1)
            heard.clear()
            said = b"\0alice\0" + password.encode()
            transport.write(len(said).to_bytes(4, "big") + said)
            await asyncio.sleep(1)
            if password == "wonder":
                assert b"".join(heard) == b"\0\0\0\0"
                transport.write(frame_of(MetadataRequest(topics=[]), 12, 9))
                await asyncio.sleep(1)
                assert b"\0\0\0\x09" in b"".join(heard)
            else:
                assert heard == []
                assert transport.is_closing() or principals(node) == ["User:alice"]
        assert principals(node) == ["User:alice"]

    with_broker(scenario)


def test_api_versions_after_login() -> None:
    """ApiVersions sets the software's name, before and after a login, and nothing else; before it only once."""

    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        asked = ApiVersionsRequest(client_software_name="one", client_software_version="1")
        assert not (await client.ask(asked, 4, ApiVersionsResponse)).error_code
        await log_in(client, PlainClient("alice", "wonder"))
        asked = ApiVersionsRequest(client_software_name="two", client_software_version="2")
        assert not (await client.ask(asked, 4, ApiVersionsResponse)).error_code
        (connection,) = (c for c in broker_of(node).server.connections if c.listener == "LOGIN")
        assert (connection.session.principal, connection.session.software) == ("User:alice", ("two", "2"))
        assert await works(client)
        twice = await stranger(node)
        assert not (await twice.ask(asked, 4, ApiVersionsResponse)).error_code
        await ended(twice, (asked, 4))
        odd = await stranger(node)
        wrong = ApiVersionsRequest(client_software_name="-", client_software_version="1")
        assert (await odd.ask(wrong, 4, ApiVersionsResponse)).error_code == ErrorCode.INVALID_REQUEST
        assert not (await odd.ask(asked, 4, ApiVersionsResponse)).error_code

    with_broker(scenario)


def test_a_session_ends_unless_the_client_logs_in_again() -> None:
    """KIP-368: the client is told how long, may log in again in time or late, and is closed at its next request else."""

    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        assert (await log_in(client, PlainClient("alice", "wonder"))).session_lifetime_ms == 10_000
        await asyncio.sleep(9)
        assert await works(client)
        assert (await log_in(client, PlainClient("alice", "wonder"))).session_lifetime_ms == 10_000
        await asyncio.sleep(9)
        assert await works(client)
        await asyncio.sleep(2)
        assert (await log_in(client, PlainClient("alice", "wonder"))).session_lifetime_ms == 10_000, (
            "late, not too late"
        )
        await asyncio.sleep(10.5)
        await ended(client, (MetadataRequest(topics=[]), 12))

    with_broker(scenario, connections__max__reauth__ms=10_000)


def test_a_client_cannot_become_somebody_else() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "alice", "other")
        client = await logged_in(node)
        await asyncio.sleep(5)
        answer = await log_in(client, PlainClient("bob", "builder"))
        assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert answer.error_message == "Cannot change principals during re-authentication from User.alice: User.bob"
        await client.closed
        client = await logged_in(node)
        await asyncio.sleep(5)
        assert not (await handshake(client, "SCRAM-SHA-256")).error_code
        await ended(client, (SaslAuthenticateRequest(auth_bytes=b"n,,n=alice,r=x"), 2))

    with_broker(scenario, connections__max__reauth__ms=10_000)


def test_while_a_client_logs_in_again_nothing_else_is_handled() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await logged_in(node)
        await asyncio.sleep(1)
        await handshake(client, "PLAIN")
        await ended(client, (MetadataRequest(topics=[]), 12))

    with_broker(scenario, connections__max__reauth__ms=10_000)


def test_logging_in_where_there_is_no_login() -> None:
    """On a plain listener, and a second time in a session without end: ILLEGAL_SASL_STATE, as in Kafka."""

    async def scenario(node: SimulatedBroker) -> None:
        for client in (await node.connect(), await logged_in(node)):
            assert (await handshake(client, "PLAIN")).error_code == ErrorCode.ILLEGAL_SASL_STATE
            assert (await token(client, b"\0bob\0builder")).error_code == ErrorCode.ILLEGAL_SASL_STATE
            assert await works(client)
        assert principals(node) == ["User:ANONYMOUS", "User:alice"]

    with_broker(scenario)


def test_who_does_not_log_in_has_to_go() -> None:
    """30 s from the beginning, with or without half a login; who has logged in stays."""

    async def scenario(node: SimulatedBroker) -> None:
        known = await logged_in(node)
        silent, half = await stranger(node), await stranger(node)
        await handshake(half, "SCRAM-SHA-256")
        await token(half, b"n,,n=alice,r=x")
        await asyncio.sleep(36)
        assert silent.closed.done()
        assert half.closed.done()
        assert await works(known)

    with_broker(scenario)


def test_ten_thousand_half_logins() -> None:
    """They push out each other; who has logged in is served, and memory holds the thousand youngest only."""

    async def scenario(node: SimulatedBroker) -> None:
        known = await logged_in(node)
        half = []
        for _ in range(1_500):
            client = await stranger(node)
            client.send(SaslHandshakeRequest(mechanism="SCRAM-SHA-256"), 1).add_done_callback(lambda f: f.exception())
            half.append(client)
        await asyncio.sleep(1)
        assert await works(known)
        assert len(broker_of(node).server.connections) <= 1_001
        assert sum(not client.closed.done() for client in half) <= 1_000
        assert half[0].closed.done()
        assert not half[-1].closed.done()

    with_broker(scenario)


def test_credentials_are_described_and_altered_as_in_kafka() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await node.connect()
        await make_user(node, "a", "x", 1)
        await make_user(node, "a", "x", 2)
        await make_user(node, "b", "x", 1)

        async def describe(*names: str) -> list[Any]:
            users = [UserName(name=name) for name in names] or None
            answer = await client.ask(
                DescribeUserScramCredentialsRequest(users=users), 0, DescribeUserScramCredentialsResponse
            )
            return [
                (r.user, r.error_code, [(c.mechanism, c.iterations) for c in r.credential_infos])
                for r in answer.results
            ]

        assert await describe() == [("a", 0, [(1, 4096), (2, 4096)]), ("b", 0, [(1, 4096)])]
        assert await describe("b", "c") == [("b", 0, [(1, 4096)]), ("c", ErrorCode.RESOURCE_NOT_FOUND, [])]
        assert await describe("b", "b") == [("b", ErrorCode.DUPLICATE_RESOURCE, [])]

        def upsert(name: str, mechanism: int = 1, iterations: int = 4096) -> ScramCredentialUpsertion:
            return ScramCredentialUpsertion(
                name=name, mechanism=mechanism, iterations=iterations, salt=b"s", salted_password=b"p"
            )

        answer = await client.ask(
            AlterUserScramCredentialsRequest(
                deletions=[
                    ScramCredentialDeletion(name="a", mechanism=2),
                    ScramCredentialDeletion(name="none", mechanism=1),
                    ScramCredentialDeletion(name="b", mechanism=9),
                ],
                upsertions=[
                    upsert(""),
                    upsert("few", iterations=4095),
                    upsert("many", iterations=16385),
                    upsert("twice"),
                    upsert("twice"),
                ],
            ),
            0,
            AlterUserScramCredentialsResponse,
        )
        assert {r.user: (r.error_code, r.error_message) for r in answer.results} == {
            "a": (0, None),
            "none": (ErrorCode.RESOURCE_NOT_FOUND, "Attempt to delete a user credential that does not exist"),
            "b": (ErrorCode.UNSUPPORTED_SASL_MECHANISM, "Unknown SCRAM mechanism"),
            "": (ErrorCode.UNACCEPTABLE_CREDENTIAL, "Username must not be empty"),
            "few": (ErrorCode.UNACCEPTABLE_CREDENTIAL, "Too few iterations"),
            "many": (ErrorCode.UNACCEPTABLE_CREDENTIAL, "Too many iterations"),
            "twice": (ErrorCode.DUPLICATE_RESOURCE, "A user credential cannot be altered twice in the same request"),
        }
        assert await describe() == [("a", 0, [(1, 4096)]), ("b", 0, [(1, 4096)])]

    with_broker(scenario)


def test_newline_in_principal(caplog: pytest.LogCaptureFixture) -> None:
    """What a stranger calls itself, or asks for, stands in the log in one line."""

    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        await handshake(client, "X\n2026-01-01 INFO forged" + "y" * 500)
        await client.closed

    with_broker(scenario)
    lines = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert lines
    assert not any("\n" in line or len(line) > 400 for line in lines)


def test_canary_secret_appears_nowhere(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """A password is in no log line, no answer of DescribeConfigs, no repr, and not in the tree but as keys made of it."""
    caplog.set_level("DEBUG")
    canary = "canary-of-passwords"

    async def scenario(node: SimulatedBroker) -> None:
        broker = broker_of(node)
        await make_user(node, "carol", canary)
        assert canary in broker.config.logins["LOGIN"].passwords.values()
        await log_in(await stranger(node), PlainClient("alice", canary))
        await log_in(await stranger(node), PlainClient("alice", canary + "!"))
        await log_in(await stranger(node), ScramClient("SCRAM-SHA-256", "carol", canary, nonce="n"))
        assert canary not in repr(broker.config.logins)
        tree = broker.sessions.tree
        for kind in await tree.children("/config"):
            for name in await tree.children(f"/config/{kind}"):
                assert canary.encode() not in (await tree.get(f"/config/{kind}/{name}")).data
        from ottla.protocol.messages.describe_configs import (
            DescribeConfigsRequest,
            DescribeConfigsResource,
            DescribeConfigsResponse,
        )

        client = await node.connect()
        request = DescribeConfigsRequest(
            resources=[DescribeConfigsResource(resource_type=4, resource_name="1", configuration_keys=None)],
            include_synonyms=True,
        )
        answer = await client.ask(request, 4, DescribeConfigsResponse)
        assert canary not in repr(
            [(c.name, c.value, [(s.name, s.value) for s in c.synonyms]) for c in answer.results[0].configs]
        )

    with_broker(
        scenario,
        **{
            "listener.name.login.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="{canary}";'
            )
        },
    )
    assert canary not in caplog.text
    assert canary not in "".join(capsys.readouterr())


def test_pages_are_for_those_who_log_in() -> None:
    """On a listener with logins HTTP learns one word; on the plain one everything, as before."""

    async def get(port: int, path: str) -> bytes:
        heard = bytearray()
        ended = asyncio.get_running_loop().create_future()

        class Browser(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                heard.extend(data)

            def connection_lost(self, exc: Exception | None) -> None:
                ended.set_result(None)

        transport, _ = await asyncio.get_running_loop().create_connection(Browser, HOST, port)
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        await ended
        return bytes(heard)

    async def scenario(node: SimulatedBroker) -> None:
        await make_topic(node, "secret-topic")
        for path in ("/", "/metrics", "/nothing"):
            answer = await get(LOGIN_PORT, path)
            assert answer.startswith(b"HTTP/1.1 401")
            assert b"secret-topic" not in answer
        for path in ("/healthz", "/readyz"):
            assert (await get(LOGIN_PORT, path)).split(b"\r\n\r\n")[1] == b"ok\n"
        assert b"secret-topic" in await get(9092, "/")

    with_broker(scenario)
