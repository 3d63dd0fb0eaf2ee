"""What lies below a connection, a reactor or asyncio's transports, behaves alike on real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import struct

import pytest
from tests.network.fakes import frame, turn
from tests.network.sockets import Client, serving

from ottla.network.connection import FRAMES_PER_TURN, BrokerConnection, PendingReply, Reply
from ottla.network.output import JOIN_MAX


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_sent_in_whatever_pieces_is_answered_in_order(seed: int) -> None:
    rng = random.Random(seed)
    sizes = (0, 1, 3, 50, 1_000, 70_000, 300_000)
    weights = (8, 8, 8, 30, 8, 2, 1)
    bodies = [rng.randbytes(size) for size in rng.choices(sizes, weights, k=150)]
    later: list[tuple[asyncio.Future[object], bytes]] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        answer = bytes(body)
        kind = rng.random()
        if kind < 0.6:
            return [frame(answer)]
        if kind < 0.75:
            return [len(answer).to_bytes(4, "big"), memoryview(answer)]
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        later.append((future, frame(answer)))
        asyncio.get_running_loop().call_soon(answer_one)
        return PendingReply(future, rng.random() < 0.5)  # type: ignore[arg-type]

    def answer_one() -> None:
        future, answer = later.pop(rng.randrange(len(later)))
        future.set_result([answer])

    async with serving(handle) as server:
        client = await Client.to(server)
        stream = b"".join(map(frame, bodies))

        async def send() -> None:
            position = 0
            while position < len(stream):
                step = rng.choice((1, 5, 60, 2_000, 100_000, 400_000))
                client.writer.write(stream[position : position + step])
                position += step
                if rng.random() < 0.5:
                    await client.writer.drain()
                    await turn(rng.randrange(3))

        sending = asyncio.create_task(send())
        for body in bodies:
            assert await client.answer() == body
        await sending
        assert server.metrics.requests == len(bodies)
        assert server.metrics.bytes_received == len(stream) == server.metrics.bytes_sent
        await client.close()


async def test_requests_that_came_together_are_answered_together() -> None:
    async with serving() as server:
        client = await Client.to(server)
        await client.ask(b"first")
        client.writer.write(frame(b"a") + frame(b"b") + frame(b"c"))
        data = b""
        async with asyncio.timeout(10):
            while len(data) < 15:
                data += await client.reader.read(100)
        assert data == frame(b"a") + frame(b"b") + frame(b"c")
        await client.close()


async def test_a_peer_that_floods_does_not_keep_others_waiting() -> None:
    order: list[bytes] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        order.append(bytes(body))
        return [frame(b"")]

    async with serving(handle) as server:
        flooding, other = await Client.to(server), await Client.to(server)
        for client in flooding, other:
            await client.ask(b"known")
        flooding.writer.write(frame(b"flood") * (FRAMES_PER_TURN * 20))
        await other.ask(b"other")
        assert order.index(b"other") - 2 < FRAMES_PER_TURN * 20, "it was handled before the last of the flood"
        for _ in range(FRAMES_PER_TURN * 20):
            await flooding.answer()
        await flooding.close()
        await other.close()


async def test_a_request_may_end_another_connection_that_is_ready_too() -> None:
    connections: dict[bytes, BrokerConnection] = {}

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        connections[bytes(body)] = connection
        for name, other in connections.items():
            if bytes(body).startswith(b"end") and name == bytes(body)[3:]:
                other.abort("")
        return [frame(b"done")]

    async with serving(handle) as server:
        a, b = await Client.to(server), await Client.to(server)
        await a.ask(b"a")
        await b.ask(b"b")
        a.writer.write(frame(b"endb"))
        b.writer.write(frame(b"enda"))
        async with asyncio.timeout(10):
            got = await asyncio.gather(a.reader.read(100), b.reader.read(100), return_exceptions=True)
        assert got.count(frame(b"done")) == 1, "one of them has ended the other before its request was handled"
        third = await Client.to(server)
        assert await third.ask(b"third") == b"done"
        for client in a, b, third:
            await client.close()


async def test_a_request_that_ends_its_own_connection_gets_the_answers_before_it() -> None:
    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        if bytes(body) == b"bad":
            connection.refuse([frame(b"refused")], "")
            return None
        return [frame(b"fine")]

    async with serving(handle) as server:
        client = await Client.to(server)
        await client.ask(b"first")
        client.writer.write(frame(b"good") + frame(b"bad") + frame(b"never"))
        assert await client.ended() == frame(b"fine") + frame(b"refused")
        await client.close()


async def test_a_handler_that_fails_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        if bytes(body) == b"bad":
            raise RuntimeError("a fault of ours")
        return [frame(b"fine")]

    async with serving(handle) as server:
        client, other = await Client.to(server), await Client.to(server)
        await client.ask(b"first")
        client.writer.write(frame(b"good") + frame(b"bad"))
        assert await client.ended() == frame(b"fine")
        assert await other.ask(b"good") == b"fine"
        await client.close()
        await other.close()
    assert "Uncaught exception while handling a request" in caplog.text


async def test_what_fails_below_a_connection_ends_it_only(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
    async with serving() as server:
        client, other = await Client.to(server), await Client.to(server)
        await client.ask(b"first")
        broken = server.connections[0]

        def fail(self: BrokerConnection) -> None:
            if self is broken:
                raise RuntimeError("a fault of ours")

        monkeypatch.setattr(BrokerConnection, "_settle", fail)
        client.writer.write(frame(b"half")[:-1])
        assert await client.ended() == b""
        assert await other.ask(b"fine") == b"fine"
        assert len(told) == 1
        await client.close()
        await other.close()


async def test_a_peer_that_resets_its_connection_leaves_nothing_behind() -> None:
    pending: list[asyncio.Future[object]] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        if bytes(body) == b"large":
            return [frame(bytes(8_000_000))]
        pending.append(asyncio.get_running_loop().create_future())
        return PendingReply(pending[-1])  # type: ignore[arg-type]

    async with serving(handle) as server:
        for body in b"large", b"owed":
            with socket.create_connection(("127.0.0.1", server.addresses[0][2])) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.sendall(frame(body))
                while not server.connections:
                    await turn()
                while server.metrics.requests == len(pending) == 0:
                    await turn()
                if body == b"owed":
                    while not pending:
                        await turn()
            async with asyncio.timeout(10):
                while server.connections:
                    await turn()
        assert pending[0].cancelled()
        assert server._quota.count == 0


async def test_a_server_that_stops_sends_what_is_ready_first() -> None:
    size = JOIN_MAX + 100_000
    async with serving(lambda c, body: [frame(bytes(size))]) as server:
        client = await Client.to(server)
        client.writer.write(frame(b"x"))
        while not server.metrics.requests:
            await turn()
        stopping = asyncio.create_task(server.stop(grace_seconds=10))
        assert len(await client.answer()) == size
        assert await client.ended() == b""
        await stopping
        await client.close()


async def test_without_epoll_or_a_selector_loop_asyncio_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ottla.network.reactor._extension", None)
    async with serving() as server:
        assert server._reactor is None
        client = await Client.to(server)
        assert await client.ask(b"still") == b"still"
        await client.close()
