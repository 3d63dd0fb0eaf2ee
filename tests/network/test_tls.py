"""TLS under a connection: real handshakes with Python's own client, through a proxy that sees every byte."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.network.certificates import server_context
from tests.network.fakes import frame
from tests.network.sockets import Client, echo

from ottla.file_region import FileRegion
from ottla.network.binding import Listener, ListenerLimits
from ottla.network.connection import BrokerConnection, Reply
from ottla.network.http import HttpResponse, HttpSite
from ottla.network.limits import NetworkLimits
from ottla.network.server import Server
from ottla.offload import InlineOffload


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return server_context(tmp_path_factory.mktemp("certificate"))


@asynccontextmanager
async def tls_server(
    context: ssl.SSLContext,
    handle: Callable[[BrokerConnection, memoryview], Reply] = echo,
    **limits: object,
) -> AsyncIterator[Server]:
    server = Server(
        handle,
        limits=NetworkLimits(**limits),  # type: ignore[arg-type]
        http=HttpSite(handler=lambda path: HttpResponse(body=path.encode())),
    )
    await server.start([Listener(name="SSL", host="127.0.0.1", port=0, tls=lambda: context)])
    try:
        yield server
    finally:
        await server.stop(grace_seconds=0.2)


def client_context(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


async def connect(port: int, authority: Path) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port, ssl=client_context(authority)))


async def test_tls_request_of_every_size(certificate: tuple[ssl.SSLContext, Path]) -> None:
    """Sizes around records, around what is joined, and those that a plain socket would be waited for in one piece."""
    context, authority = certificate
    async with tls_server(context) as server, asyncio.timeout(60):
        client = await connect(server.addresses[0][2], authority)
        for size in (8, 100, 16_383, 16_384, 16_385, 65_536, 131_072, 300_000, 1_000_000, 5_000_000):
            body = bytes([size % 251]) * size
            assert await client.ask(body) == body, size
        for size in (10, 200_000) * 5:  # several at once: answers keep their order
            client.writer.write(frame(b"%7d" % size + b"x" * size))
        for size in (10, 200_000) * 5:
            assert (await client.answer())[:7] == b"%7d" % size
        await client.close()


async def test_silent_peer_stops_no_handshake(certificate: tuple[ssl.SSLContext, Path]) -> None:
    """Peers that say nothing, or half of a first message, stay for the deadline; others are served meanwhile."""
    context, authority = certificate
    async with tls_server(context) as server, asyncio.timeout(20):
        port = server.addresses[0][2]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        for _, writer in silent[:25]:
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00")
        client = await connect(port, authority)
        assert await client.ask(b"12345678") == b"12345678"
        for _, writer in silent:
            writer.close()
        await client.close()


async def test_a_handshake_has_its_time(
    certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ottla.network.tls.HANDSHAKE_SECONDS", 0.05)
    context, _ = certificate
    async with tls_server(context) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][2])
        assert await reader.read() == b""
        assert server.metrics.handshakes_failed == 1
        writer.close()


@pytest.mark.parametrize(
    "said", [frame(b"12345678"), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x00\x05hello"]
)
async def test_what_is_no_tls_is_not_answered(certificate: tuple[ssl.SSLContext, Path], said: bytes) -> None:
    """No handler sees it, and nothing but an alert of TLS comes back."""
    context, _ = certificate
    seen: list[bytes] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        seen.append(bytes(body))
        return None

    async with tls_server(context, handle) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][2])
        writer.write(said)
        answer = await reader.read()
        assert answer == b"" or answer[0] == 0x15
        assert not seen
        writer.close()


class Wire:
    """A proxy that keeps what the server sends, byte by byte."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sent = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, keep: bytearray | None) -> None:
            try:
                while data := await source.read(65536):
                    if keep is not None:
                        keep += data
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                pass
            target.close()

        await asyncio.gather(copy(reader, forth, None), copy(back, writer, self.sent))


class Opened:
    """A file as regions see it; it offers to send itself past the transport."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def pread(self, size: int, position: int) -> bytes:
        return os.pread(self.descriptor, size, position)

    pread_nowait = pread

    def is_cached(self, size: int, position: int) -> bool:
        return True

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        return os.sendfile(socket_fd, self.descriptor, position, size)


def records(stream: bytes) -> list[tuple[int, bytes]]:
    """Cut a stream into records of TLS; fails where it is none."""
    found, position = [], 0
    while position < len(stream):
        kind, major, size = stream[position], stream[position + 1], int.from_bytes(stream[position + 3 : position + 5])
        assert kind in (20, 21, 22, 23), f"byte {position} begins no record: {stream[position : position + 20]!r}"
        assert major == 3
        assert size <= 16384 + 256
        found.append((kind, stream[position + 5 : position + 5 + size]))
        position += 5 + size
    assert position == len(stream)
    return found


async def test_no_plain_byte_on_tls(certificate: tuple[ssl.SSLContext, Path], tmp_path: Path) -> None:
    """Answers of all kinds, also parts of files, which plain connections send past the transport; HTTP; the goodbye."""
    canary = b"canary-in-the-records" * 20_000
    path = tmp_path / "segment.log"
    path.write_bytes(canary)
    context, authority = certificate

    with path.open("rb") as file:

        def handle(connection: BrokerConnection, body: memoryview) -> Reply:
            if bytes(body).startswith(b"region"):
                return [
                    len(canary).to_bytes(4, "big"),
                    FileRegion(Opened(file.fileno()), 0, len(canary), InlineOffload()),
                ]
            return echo(connection, body)

        async with tls_server(context, handle) as server, asyncio.timeout(30):
            wire = Wire(server.addresses[0][2])
            proxy = await asyncio.start_server(wire, "127.0.0.1", 0)
            port = proxy.sockets[0].getsockname()[1]
            client = await connect(port, authority)
            assert await client.ask(b"canary-in-the-answer") == b"canary-in-the-answer"
            assert await client.ask(b"region..") == canary
            await client.close()
            web = await connect(port, authority)
            web.writer.write(b"GET /canary-in-the-page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"canary-in-the-page" in await web.ended()
            await web.close()
            proxy.close()
            assert 23 in {kind for kind, _ in records(bytes(wire.sent))}
            assert b"canary" not in wire.sent


async def test_no_foreign_byte_in_buffer(certificate: tuple[ssl.SSLContext, Path]) -> None:
    """A hundred connections share the buffers; each sends its own word in pieces that break records and frames."""
    context, authority = certificate
    foreign: list[bytes] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        data = bytes(body)
        if data != data[:4] * (len(data) // 4):
            foreign.append(data)
        return [frame(data)]

    async with tls_server(context, handle) as server, asyncio.timeout(60):
        port = server.addresses[0][2]
        clients = await asyncio.gather(*(connect(port, authority) for _ in range(100)))

        async def talk(client: Client, number: int) -> None:
            word = b"%04d" % number
            for size in (2, 4_000, 9_000, 40_000):
                message = frame(word * size)
                cut = (number * 37) % len(message)
                client.writer.write(message[:cut])
                await asyncio.sleep(0)
                client.writer.write(message[cut:])
                assert await client.answer() == word * size
            await client.close()

        await asyncio.gather(*(talk(client, number) for number, client in enumerate(clients)))
    assert not foreign


async def test_a_peer_that_does_not_read_stops_only_itself(certificate: tuple[ssl.SSLContext, Path]) -> None:
    """Back pressure: with answers unread no further request is handled; when it reads all of them come, in order."""
    context, authority = certificate
    handled = 0

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        nonlocal handled
        handled += 1
        return [frame(bytes(body[:8]) + b"x" * 4_000_000)]

    async with tls_server(context, handle) as server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.addresses[0][2], ssl=client_context(authority), limit=1024
        )
        client = Client(reader, writer)
        client.reading.pause_reading()
        for number in range(10):
            writer.write(frame(b"%08d" % number))
        other = await connect(server.addresses[0][2], authority)
        assert (await other.ask(b"87654321"))[:8] == b"87654321"
        assert handled < 10
        client.reading.resume_reading()
        for number in range(10):
            assert (await client.answer())[:8] == b"%08d" % number
        await client.close()
        await other.close()


async def test_http_then_kafka_on_one_connection(certificate: tuple[ssl.SSLContext, Path]) -> None:
    """The protocol is decided once, by the first decrypted byte: frames behind an HTTP request are no requests of Kafka's."""
    context, authority = certificate
    seen: list[bytes] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        seen.append(bytes(body))
        return echo(connection, body)

    async with tls_server(context, handle) as server, asyncio.timeout(10):
        client = await connect(server.addresses[0][2], authority)
        client.writer.write(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"/page" in await client.reader.readuntil(b"/page")
        client.writer.write(frame(b"12345678") + b"\r\n\r\n")
        client.writer.write_eof() if client.writer.can_write_eof() else None
        await client.ended()
        await client.close()
    assert not seen


async def test_a_client_certificate_is_known_to_the_connection(
    certificate: tuple[ssl.SSLContext, Path], tmp_path: Path
) -> None:
    _, authority = certificate
    mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mutual.load_cert_chain(authority, authority.with_name("key.pem"))
    mutual.load_verify_locations(authority)
    mutual.verify_mode = ssl.CERT_REQUIRED
    seen: list[bytes | None] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        seen.append(connection.peer_certificate)
        return echo(connection, body)

    async with tls_server(mutual, handle) as server, asyncio.timeout(10):
        own = client_context(authority)
        own.load_cert_chain(authority, authority.with_name("key.pem"))
        client = Client(*await asyncio.open_connection("127.0.0.1", server.addresses[0][2], ssl=own))
        await client.ask(b"12345678")
        assert seen == [ssl.PEM_cert_to_DER_cert(authority.read_text())]
        await client.close()
        without = Client(
            *await asyncio.open_connection("127.0.0.1", server.addresses[0][2], ssl=client_context(authority))
        )
        without.writer.write(frame(b"12345678"))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert await without.reader.read() == b"never"
        without.writer.transport.abort()
    assert len(seen) == 1


async def test_client_flood_leaves_brokers() -> None:
    """All connections are taken by clients; a broker's comes in all the same, and the idlest client's goes (KIP-402)."""
    server = Server(echo, limits=NetworkLimits(connections_max=4))
    clients_listener = Listener(name="CLIENTS", host="127.0.0.1", port=0)
    brokers_listener = Listener(name="BROKERS", host="127.0.0.1", port=0, is_protected=True)
    await server.start([clients_listener, brokers_listener])
    try:
        async with asyncio.timeout(10):
            ports = {name: port for name, _, port in server.addresses}
            flood = [Client(*await asyncio.open_connection("127.0.0.1", ports["CLIENTS"])) for _ in range(4)]
            for client in flood:
                await client.ask(b"12345678")
            broker = Client(*await asyncio.open_connection("127.0.0.1", ports["BROKERS"]))
            assert await broker.ask(b"a broker") == b"a broker"
            assert len(server.connections) <= 4
            await broker.close()
            for client in flood:
                await client.close()
    finally:
        await server.stop(grace_seconds=0.2)


async def test_a_listener_has_limits_of_its_own() -> None:
    """At its own limit a listener accepts no more; the other one goes on."""
    server = Server(echo)
    narrow = Listener(name="NARROW", host="127.0.0.1", port=0, limits=ListenerLimits(connections_max=1))
    await server.start([narrow, Listener(name="WIDE", host="127.0.0.1", port=0)])
    try:
        async with asyncio.timeout(10):
            ports = {name: port for name, _, port in server.addresses}
            first = Client(*await asyncio.open_connection("127.0.0.1", ports["NARROW"]))
            await first.ask(b"12345678")
            second = Client(*await asyncio.open_connection("127.0.0.1", ports["NARROW"]))
            waiting = asyncio.ensure_future(second.ask(b"second.."))
            wide = Client(*await asyncio.open_connection("127.0.0.1", ports["WIDE"]))
            assert await wide.ask(b"wide....") == b"wide...."
            assert not waiting.done()
            await first.close()
            assert await waiting == b"second.."
            await second.close()
            await wide.close()
    finally:
        await server.stop(grace_seconds=0.2)


async def test_foreign_ipv6_localhost() -> None:
    """Another program sits on ::1: a broker on 127.0.0.1 alone would leave it the clients of `localhost`."""
    import socket

    from ottla.network.binding import ListenError

    with socket.socket(socket.AF_INET6) as foreign:
        foreign.bind(("::1", 0))
        foreign.listen()
        server = Server(echo)
        with pytest.raises(ListenError, match="already in use"):
            await server.bind([Listener(name="PLAINTEXT", host="localhost", port=foreign.getsockname()[1])])
        assert not server.addresses


@pytest.mark.parametrize(("offered", "agreed"), [(["h2"], None), (["h2", "http/1.1"], "http/1.1"), ([], None)])
async def test_alpn_h2_refused(
    certificate: tuple[ssl.SSLContext, Path], offered: list[str], agreed: str | None
) -> None:
    """Who offers only protocols that are not spoken here is refused; who agrees on HTTP gets HTTP and nothing else."""
    context, authority = certificate
    context.set_alpn_protocols(["http/1.1"])
    seen: list[bytes] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        seen.append(bytes(body))
        return echo(connection, body)

    async with tls_server(context, handle) as server, asyncio.timeout(10):
        own = client_context(authority)
        own.set_alpn_protocols(offered)
        opening = asyncio.open_connection("127.0.0.1", server.addresses[0][2], ssl=own)
        if offered == ["h2"]:
            with pytest.raises(ssl.SSLError, match="no application protocol"):
                await opening
            assert server.metrics.handshakes_failed == 1
            return
        client = Client(*await opening)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
        if agreed is None:  # as clients of Kafka do
            assert await client.ask(b"12345678") == b"12345678"
        else:
            client.writer.write(frame(b"12345678"))
            assert await client.ended() == b""
            assert not seen
        await client.close()
