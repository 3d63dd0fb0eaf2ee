"""The server on real sockets: limits, bad peers beside good ones, start and stop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.network.fakes import frame
from tests.network.sockets import LOCAL, Client, echo, serving

from ottla.network.binding import Listener, ListenError, localhost_ports
from ottla.network.connection import BrokerConnection, Reply
from ottla.network.http import HttpResponse, HttpSite
from ottla.network.server import Server


async def test_frames_of_all_sizes_come_back() -> None:
    async with serving() as server:
        client = await Client.to(server)
        for size in (0, 1, 100, 70_000, 300_000, 5_000_000, 10):
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            assert await client.ask(body) == body
        await client.close()


async def test_both_ends_are_known() -> None:
    seen: list[BrokerConnection] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        seen.append(connection)
        return [frame(b"")]

    async with serving(handle) as server:
        client = await Client.to(server)
        await client.ask(b"")
        peer = client.writer.get_extra_info("sockname")
        assert (seen[0].peer_host, seen[0].peer_port) == peer
        assert (seen[0].local_host, seen[0].local_port) == ("127.0.0.1", server.addresses[0][2])
        assert seen[0].listener == "PLAINTEXT"
        await client.close()


async def test_a_bad_peer_is_closed_with_one_line_and_others_do_not_notice(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        good = await Client.to(server)
        assert await good.ask(b"before") == b"before"
        bad = await Client.to(server)
        with caplog.at_level(logging.INFO, "ottla.network"):
            bad.writer.write(b"\xff\xff\xff\xff")
            assert await bad.ended() == b""
        assert await good.ask(b"after") == b"after"
        port = bad.writer.get_extra_info("sockname")[1]
        assert [record.getMessage() for record in caplog.records] == [
            f"Closed the connection of 127.0.0.1:{port}: "
            "announced a request of -1 bytes (socket.request.max.bytes=104857600)"
        ]
        await good.close()
        await bad.close()


async def test_one_peer_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        for _ in range(20):
            bad = await Client.to(server)
            bad.writer.write(b"\xff\xff\xff\xff")
            await bad.ended()
            await bad.close()
        assert 0 < len(caplog.records) < 10


async def test_a_truncated_frame_reaches_no_handler() -> None:
    seen: list[bytes] = []
    async with serving(lambda c, body: seen.append(bytes(body))) as server:
        client = await Client.to(server)
        client.writer.write(frame(b"whole") + frame(b"cut off")[:-1])
        client.writer.write_eof()
        assert await client.ended() == b""
        assert seen == [b"whole"]
        await client.close()


async def test_a_peer_that_does_not_read_costs_others_nothing() -> None:
    handled = 0

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        nonlocal handled
        handled += bytes(body) == b"big"
        return [frame(bytes(8_000_000) if bytes(body) == b"big" else b"small")]

    async with serving(handle) as server:
        greedy = await Client.to(server)
        greedy.reading.pause_reading()
        greedy.writer.write(frame(b"big") * 30)
        other = await Client.to(server)
        for _ in range(50):
            assert await other.ask(b"x") == b"small"
        assert handled <= 2
        greedy.reading.resume_reading()
        for _ in range(30):
            assert len(await greedy.answer()) == 8_000_000
        await greedy.close()
        await other.close()


async def test_connections_per_ip_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(connections_per_ip_max=2) as server:
        first, second = await Client.to(server), await Client.to(server)
        await first.ask(b"")
        await second.ask(b"")
        third = await Client.to(server)
        assert await third.ended() == b""
        assert "Refused a connection from 127.0.0.1" in caplog.text
        assert server.metrics.connections_refused == 1
        await first.close()
        await second.ask(b"")  # by now the server has seen the first one end
        await second.ask(b"")
        fourth = await Client.to(server)
        assert await fourth.ask(b"hello") == b"hello"
        for client in (second, third, fourth):
            await client.close()


async def test_at_max_connections_a_new_one_waits_until_another_ends() -> None:
    async with serving(connections_max=1) as server:
        first = await Client.to(server)
        await first.ask(b"")
        second = await Client.to(server)
        waiting = asyncio.create_task(second.ask(b"me too"))
        for _ in range(20):
            await first.ask(b"")
        assert not waiting.done()
        assert len(server.connections) == 1
        await first.close()
        assert await waiting == b"me too"
        await second.close()


async def test_a_connection_that_cannot_be_served_does_not_end_the_listener(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        failures = 1

        def make(*arguments: Any) -> BrokerConnection:
            nonlocal failures
            if failures:
                failures -= 1
                raise RuntimeError("a fault of ours")
            return BrokerConnection(*arguments)

        monkeypatch.setattr("ottla.network.server.BrokerConnection", make)
        first = await Client.to(server)
        assert await first.ended() == b""
        await first.close()
        second = await Client.to(server)
        assert await second.ask(b"still here") == b"still here"
        await second.close()
        assert "A connection could not be served" in caplog.text
        assert server._quota.count <= 1  # the second one, which may not have been seen to leave


async def test_http_and_kafka_share_the_port() -> None:
    async with serving() as server:
        browser, client = await Client.to(server), await Client.to(server)
        browser.writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await browser.ended()).endswith(b"\r\n\r\n/metrics")
        assert await client.ask(b"kafka") == b"kafka"
        await browser.close()
        await client.close()


async def test_between_bind_and_accept_kafka_waits_and_http_does_not() -> None:
    server = Server(echo, http=HttpSite(handler=lambda path: HttpResponse(body=b"starting", status=503)))
    await server.bind(LOCAL)
    client, probe = await Client.to(server), await Client.to(server)
    waiting = asyncio.create_task(client.ask(b"early"))
    probe.writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await probe.ended()).startswith(b"HTTP/1.1 503 ")
    assert not waiting.done()
    server.accept()
    assert await waiting == b"early"
    await client.close()
    await probe.close()
    await server.stop()


async def test_a_port_in_use_is_named() -> None:
    async with serving() as server:
        port = server.addresses[0][2]
        other = Server(echo)
        free = Listener(name="A", host="127.0.0.1", port=0)
        taken = Listener(name="B", host="127.0.0.1", port=port)
        with pytest.raises(ListenError, match=f"port {port} is already in use"):
            await other.start([free, taken])
        assert other.addresses == []


async def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0"):
        await Server(echo).start([Listener(name="A", host="192.0.2.1", port=0)])


async def test_localhost_is_every_loopback_address_on_one_port() -> None:
    server = Server(echo)
    await server.start([Listener(name="PLAINTEXT", host="localhost", port=0)])
    client = await Client.to(server)
    assert await client.ask(b"hello") == b"hello"
    assert len(server.addresses) == 1
    await client.close()
    await server.stop()


@pytest.mark.parametrize(
    ("bound", "ports"),
    [
        ([("127.0.0.1", 1), ("::1", 1, 0, 0)], {1}),
        ([("0.0.0.0", 1), ("::", 1, 0, 0)], {1}),
        ([("0.0.0.0", 1), ("::1", 1, 0, 0)], {1}),
        ([("127.0.0.1", 1)], set()),
        ([("0.0.0.0", 1)], set()),
        ([("::1", 1, 0, 0)], set()),
        ([("127.0.0.1", 1), ("::1", 2, 0, 0)], set()),
        ([("10.0.0.1", 1), ("::1", 1, 0, 0)], set()),
        ([("0.0.0.0", 1), ("::", 1, 0, 0), ("127.0.0.1", 2)], {1}),
    ],
)
def test_which_ports_localhost_leads_to_is_known(bound: list[tuple[Any, ...]], ports: set[int]) -> None:
    assert localhost_ports(bound) == ports


async def test_stopping_closes_connections_and_frees_the_port() -> None:
    async with serving() as server:
        client = await Client.to(server)
        await client.ask(b"")
        await server.stop(grace_seconds=1)
        assert await client.ended() == b""
        assert list(server.connections) == []
        with pytest.raises(OSError):  # noqa: PT011  refused
            await Client.to(server)
        await client.close()
