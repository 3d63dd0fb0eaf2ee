"""One connection against a transport without sockets: order, muting, back pressure, time, bad input."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.network.fakes import FakeHost, frame, turn

from ottla.errors import RemoteProtocolError
from ottla.network.connection import (
    FRAMES_PER_TURN,
    PENDING_BYTES_MAX,
    PENDING_MAX,
    READ_AHEAD,
    BrokerConnection,
    PendingReply,
    PromptReply,
    Reply,
    feed,
)
from ottla.network.limits import NetworkLimits
from ottla.network.output import JOIN_MAX


def echo(connection: BrokerConnection, body: memoryview) -> Reply:
    return [frame(bytes(body))]


LARGE = JOIN_MAX + 1


class Recorder:
    """A handler that notes what it is given and answers with futures the test resolves."""

    def __init__(self, *, blocks_next: bool = True) -> None:
        self.seen: list[bytes] = []
        self.futures: list[asyncio.Future[object]] = []
        self.blocks_next = blocks_next

    def __call__(self, connection: BrokerConnection, body: memoryview) -> Reply:
        self.seen.append(bytes(body))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        return PendingReply(future, self.blocks_next)  # type: ignore[arg-type]


async def test_pipelined_requests_are_answered_in_order_with_one_write() -> None:
    connection, transport = FakeHost(echo).connect()
    feed(connection, frame(b"one") + frame(b"") + frame(b"three"))
    assert transport.sent == frame(b"one") + frame(b"") + frame(b"three")
    assert transport.writes == 1


async def test_a_frame_delivered_byte_by_byte_is_the_same_frame() -> None:
    seen: list[bytes] = []
    connection, _ = FakeHost(lambda c, body: seen.append(bytes(body))).connect()
    for byte in frame(b"hello") + frame(b"world"):
        feed(connection, bytes([byte]))
    assert seen == [b"hello", b"world"]


async def test_no_answer_is_sent_for_acks_0() -> None:
    connection, transport = FakeHost(lambda c, body: None).connect()
    feed(connection, frame(b"produce with acks=0"))
    assert transport.writes == 0


async def test_the_next_request_waits_for_a_blocking_answer() -> None:
    recorder = Recorder()
    connection, transport = FakeHost(recorder).connect()
    feed(connection, frame(b"a") + frame(b"b"))
    assert recorder.seen == [b"a"]
    recorder.futures[0].set_result([frame(b"A")])
    await turn()
    assert recorder.seen == [b"a", b"b"]
    assert transport.sent == frame(b"A")


async def test_a_prompt_answer_leaves_within_the_call_that_gives_it() -> None:
    replies = [PromptReply(lambda: None), PromptReply(lambda: None)]
    seen: list[bytes] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        seen.append(bytes(body))
        return PendingReply(replies[len(seen) - 1])

    connection, transport = FakeHost(handle).connect()
    feed(connection, frame(b"a") + frame(b"b"))
    assert seen == [b"a"]
    replies[0].set_result([frame(b"A")])
    assert seen == [b"a", b"b"]
    assert transport.sent == frame(b"A")
    replies[1].set_result([frame(b"B")])
    assert transport.sent == frame(b"A") + frame(b"B")


@pytest.mark.parametrize("way", ["error", "cancelled", "gone"])
async def test_a_prompt_answer_that_never_comes_ends_the_connection(way: str, caplog: pytest.LogCaptureFixture) -> None:
    abandoned: list[bool] = []
    reply = PromptReply(lambda: abandoned.append(True))
    host = FakeHost(lambda connection, body: PendingReply(reply))
    connection, transport = host.connect()
    feed(connection, frame(b"a"))
    if way == "error":
        reply.set_exception(ZeroDivisionError("a bug"))
    elif way == "cancelled":
        reply.cancel()
    else:
        transport.abort()
    await turn(2)
    assert host.open == []
    assert reply.done()
    assert abandoned == ([] if way == "error" else [True])
    assert ("ZeroDivisionError: a bug" in caplog.text) == (way == "error")


async def test_pipelined_answers_that_become_ready_in_any_order_leave_in_request_order() -> None:
    recorder = Recorder(blocks_next=False)
    connection, transport = FakeHost(recorder).connect()
    feed(connection, frame(b"a") + frame(b"b") + frame(b"c"))
    assert recorder.seen == [b"a", b"b", b"c"]
    recorder.futures[2].set_result([frame(b"C")])
    recorder.futures[1].set_result(None)
    await turn()
    assert transport.sent == b""
    recorder.futures[0].set_result([frame(b"A")])
    await turn()
    assert transport.sent == frame(b"A") + frame(b"C")
    assert transport.writes == 1


async def test_an_answer_that_is_ready_waits_behind_one_that_is_owed() -> None:
    recorder = Recorder(blocks_next=False)

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        return recorder(connection, body) if bytes(body) == b"slow" else [frame(b"quick")]

    connection, transport = FakeHost(handle).connect()
    feed(connection, frame(b"slow") + frame(b"x"))
    assert transport.sent == b""
    recorder.futures[0].set_result([frame(b"slow")])
    await turn()
    assert transport.sent == frame(b"slow") + frame(b"quick")


async def test_a_connection_is_owed_a_bounded_number_of_answers() -> None:
    recorder = Recorder(blocks_next=False)
    connection, _ = FakeHost(recorder).connect()
    feed(connection, frame(b"x") * (PENDING_MAX + 10))
    await turn(20)
    assert len(recorder.seen) == PENDING_MAX
    recorder.futures[0].set_result(None)
    await turn(2)
    assert len(recorder.seen) == PENDING_MAX + 1


async def test_requests_whose_answers_are_owed_are_counted_until_their_work_is_done() -> None:
    recorder = Recorder(blocks_next=False)
    works: list[asyncio.Future[None]] = []

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        reply = recorder(connection, body)
        assert isinstance(reply, PendingReply)
        works.append(asyncio.get_running_loop().create_future())
        return reply._replace(work=works[-1])

    host = FakeHost(handle, NetworkLimits(queued_request_bytes_max=10_000_000))
    connection, transport = host.connect()
    size = PENDING_BYTES_MAX // 4
    for _ in range(6):
        feed(connection, frame(bytes(size)))
    await turn(5)
    assert len(recorder.seen) == 4
    assert PENDING_BYTES_MAX <= host.budget.used <= PENDING_BYTES_MAX + size + 4
    works[0].set_result(None)
    recorder.futures[0].set_result([frame(b"A")])
    await turn(3)
    assert len(recorder.seen) == 5
    assert transport.sent == frame(b"A")
    transport.abort()
    await turn(3)
    assert host.budget.used == PENDING_BYTES_MAX  # the peer is gone, its requests are still worked on
    for work in works[1:]:
        work.set_result(None)
    await turn()
    assert host.budget.used == 0


async def test_large_answers_behind_an_owed_one_are_not_piled_up() -> None:
    recorder = Recorder(blocks_next=False)

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        return [bytes(LARGE)] if recorder.seen else recorder(connection, body)

    host = FakeHost(handle)
    connection, transport = host.connect()
    feed(connection, frame(b"produce"))
    for _ in range(20):
        feed(connection, frame(b"fetch") * 25)
    await turn(100)
    assert host.metrics.requests == 2
    recorder.futures[0].set_result([frame(b"A")])
    await turn(100)
    assert host.metrics.requests == 501
    assert len(transport.sent) == 5 + 500 * LARGE


async def test_one_turn_of_the_loop_handles_a_bounded_number_of_frames() -> None:
    host = FakeHost(echo)
    host.receive_view = memoryview(bytearray(100_000))
    connection, transport = host.connect()
    feed(connection, frame(b"x") * 1000)
    assert host.metrics.requests == FRAMES_PER_TURN
    await turn()
    assert host.metrics.requests == 2 * FRAMES_PER_TURN
    await turn(1000 // FRAMES_PER_TURN)
    assert transport.sent == frame(b"x") * 1000


async def test_a_muted_connection_reads_on_but_not_without_bound() -> None:
    recorder = Recorder()
    connection, transport = FakeHost(recorder).connect()
    requests = frame(b"x" * 996) * 200
    delivered = 0
    while transport.reading:
        feed(connection, requests[delivered : delivered + 500])
        delivered += 500
    assert READ_AHEAD <= delivered <= READ_AHEAD + 5000
    while not transport.reading:
        recorder.futures[-1].set_result(None)
        await turn(2)
    assert recorder.seen == [b"x" * 996] * len(recorder.seen)


async def test_requests_wait_while_the_peer_does_not_read_its_answers() -> None:
    handled = 0

    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        nonlocal handled
        handled += 1
        return [frame(bytes(body) * 1000)]

    host = FakeHost(handle)
    connection, transport = host.connect(room=10_000)
    feed(connection, frame(b"x" * 1000) * 20)
    await turn(3)
    assert handled == 1  # the first answer already fills what the kernel takes
    while transport.waiting:
        transport.peer_reads(100_000)
        await turn()
    assert handled == 20
    assert transport.sent == frame(b"x" * 1_000_000) * 20


async def test_a_large_answer_is_not_copied_whole_into_the_transport() -> None:
    body = bytes(50_000_000)
    connection, transport = FakeHost(lambda c, _: [b"head", body]).connect(room=100_000)
    feed(connection, frame(b"fetch"))
    assert len(transport.waiting) < 3_000_000
    async with asyncio.timeout(20):
        while len(transport.sent) < len(body) + 4:
            transport.peer_reads(1 << 23)
            await asyncio.sleep(0)
    assert transport.sent == b"head" + body


async def test_closing_still_delivers_what_was_answered_before() -> None:
    body = bytes(5_000_000)
    host = FakeHost(lambda c, _: [body])
    connection, transport = host.connect(room=1000)
    feed(connection, frame(b"fetch"))
    connection.close("stopping")
    assert not transport.closed
    async with asyncio.timeout(20):
        while len(transport.sent) < len(body):
            transport.peer_reads(1 << 20)
            await turn()
    assert transport.sent == body
    assert host.reasons == ["stopping"]


@pytest.mark.parametrize("size", [-1, -(2**31), 1001, 0x15FFFFFF])
async def test_an_impossible_size_closes_the_connection(size: int) -> None:
    host = FakeHost(echo, NetworkLimits(request_bytes_max=1000))
    connection, transport = host.connect()
    feed(connection, frame(b"good") + (size & 0xFFFFFFFF).to_bytes(4, "big") + b"rest")
    await turn()
    assert transport.sent == frame(b"good")
    assert host.reasons == [f"announced a request of {size} bytes (socket.request.max.bytes=1000)"]


async def test_tls_on_a_plaintext_listener_is_named() -> None:
    host = FakeHost(echo)
    connection, _ = host.connect()
    feed(connection, bytes.fromhex("160301020001000200"))
    await turn()
    assert host.reasons == ["speaks TLS to a plaintext listener"]


async def test_a_request_that_is_no_kafka_closes_with_its_reason() -> None:
    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        raise RemoteProtocolError("api key 999 does not exist")

    host = FakeHost(handle)
    connection, _ = host.connect()
    feed(connection, frame(b"?") + frame(b"never handled"))
    await turn()
    assert host.reasons == ["sent no valid request: api key 999 does not exist"]


@pytest.mark.parametrize("later", [False, True])
async def test_a_bug_in_a_handler_ends_that_connection_only(later: bool, caplog: pytest.LogCaptureFixture) -> None:
    def handle(connection: BrokerConnection, body: memoryview) -> Reply:
        if bytes(body) != b"bad":
            return [frame(b"fine")]
        if not later:
            raise ZeroDivisionError("a bug")
        future: asyncio.Future[list[bytes] | None] = asyncio.get_running_loop().create_future()
        future.set_exception(ZeroDivisionError("a bug"))
        return future  # type: ignore[return-value]

    host = FakeHost(handle)
    bad, _ = host.connect()
    good, transport = host.connect()
    with caplog.at_level(logging.ERROR):
        feed(bad, frame(b"bad"))
        await turn(2)
    assert "ZeroDivisionError: a bug" in caplog.text
    assert "192.0.2.7:4321" in caplog.text
    assert host.open == [good]
    feed(good, frame(b"x"))
    assert transport.sent == frame(b"fine")


async def test_what_is_owed_is_cancelled_when_the_peer_goes() -> None:
    recorder = Recorder()
    host = FakeHost(recorder)
    connection, transport = host.connect()
    closed: list[bool] = []
    connection.on_closed = lambda: closed.append(True)
    feed(connection, frame(b"long poll"))
    transport.abort()
    await turn(2)
    assert recorder.futures[0].cancelled()
    assert closed == [True]
    assert host.reasons == [None]


async def test_an_announced_size_costs_nothing_before_the_bytes_come() -> None:
    connection, _ = FakeHost(echo).connect()
    feed(connection, (100_000_000).to_bytes(4, "big") + b"only this")
    assert connection._buffer is not None
    assert len(connection._buffer.data) <= 128 * 1024


async def test_an_idle_connection_owns_no_buffer() -> None:
    host = FakeHost(echo)
    connection, transport = host.connect()
    feed(connection, frame(bytes(3_000_000)))
    assert transport.sent == frame(bytes(3_000_000))
    assert connection._buffer is not None
    for _ in range(2):
        host.now += 5
        connection.sweep(host.now, 5)
    assert connection._buffer is None


async def test_requests_wait_while_the_broker_starts() -> None:
    host = FakeHost(echo)
    host.serving = False
    connection, transport = host.connect()
    for byte in frame(b"early") + frame(b"bird"):
        feed(connection, bytes([byte]))
    swept(host, 1000)
    await turn()
    assert transport.sent == b""
    host.serving = True
    connection.release()
    assert transport.sent == frame(b"early") + frame(b"bird")


# -- time ---------------------------------------------------------------------------------------------------------------


def swept(host: FakeHost, seconds: float, step: float = 5.0) -> None:
    """Let time pass."""
    for _ in range(int(seconds / step)):
        host.now += step
        for connection in list(host.open):
            connection.sweep(host.now, step)


async def test_an_idle_connection_is_closed_after_connections_max_idle_ms() -> None:
    host = FakeHost(echo, NetworkLimits(idle_ms_max=60_000))
    host.connect()
    swept(host, 55)
    await turn()
    assert host.reasons == []
    swept(host, 20)
    await turn()
    assert host.reasons == ["idle for 70 s"]


async def test_activity_keeps_a_connection_and_so_does_an_owed_answer() -> None:
    recorder = Recorder()
    host = FakeHost(recorder, NetworkLimits(idle_ms_max=60_000))
    connection, _ = host.connect()
    for _ in range(3):
        swept(host, 50)
        feed(connection, frame(b"x"))
        recorder.futures[-1].set_result(None)
        await turn(2)
    feed(connection, frame(b"JoinGroup of a slow group"))
    swept(host, 600)
    await turn()
    assert host.reasons == []


async def test_a_peer_that_never_reads_is_closed_after_a_bounded_time() -> None:
    host = FakeHost(lambda c, _: [bytes(1_000_000)], NetworkLimits(idle_ms_max=60_000))
    connection, transport = host.connect(room=1000)
    feed(connection, frame(b"fetch"))
    swept(host, 50)
    transport.peer_reads(10)  # some progress
    swept(host, 50)
    await turn()
    assert host.reasons == []
    swept(host, 30)
    await turn()
    assert host.reasons == ["left an answer unread for too long"]


async def test_a_frame_sent_drop_by_drop_is_not_waited_for_forever() -> None:
    host = FakeHost(echo, NetworkLimits(idle_ms_max=60_000))
    connection, _ = host.connect()
    feed(connection, (1000).to_bytes(4, "big"))
    for _ in range(60):
        if host.open:
            feed(connection, b"x")
            swept(host, 5)
            await turn()
    assert host.reasons == ["a request has not arrived whole in 65 s"]


# -- memory budget ------------------------------------------------------------------------------------------------------


async def test_a_large_request_waits_while_the_byte_budget_is_used_up() -> None:
    host = FakeHost(echo, NetworkLimits(queued_request_bytes_max=100_000))
    first, first_transport = host.connect()
    second, second_transport = host.connect()
    body = frame(bytes(200_000))
    feed(first, body[:50_000])
    feed(second, body[:4000])
    assert (first_transport.reading, second_transport.reading) == (True, False)
    feed(first, body[50_000:])
    await turn()
    assert second_transport.reading
    feed(second, body[4000:])
    assert first_transport.sent == second_transport.sent == body
    assert host.budget.used == 0


async def test_a_connection_that_ends_gives_its_bytes_back() -> None:
    host = FakeHost(echo, NetworkLimits(queued_request_bytes_max=100_000))
    connection, transport = host.connect()
    feed(connection, frame(bytes(200_000))[:50_000])
    assert host.budget.used == 200_004
    transport.abort()
    await turn()
    assert host.budget.used == 0


# -- property -----------------------------------------------------------------------------------------------------------

bodies = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 300_000).map(lambda size: bytes([size % 251]) * size),
)


@settings(max_examples=150, deadline=None)
@given(
    bodies=st.lists(
        st.tuples(bodies, st.sampled_from(["now", "none", "blocking", "pipelined", "prompt"])), max_size=12
    ),
    chunks=st.lists(st.one_of(st.integers(1, 50), st.integers(1, 150_000)), min_size=1, max_size=40),
    room=st.one_of(st.just(1 << 60), st.integers(0, 10_000)),
    choices=st.randoms(use_true_random=False),
)
def test_any_chunking_gives_the_same_frames_and_the_same_answers(
    bodies: list[tuple[bytes, str]], chunks: list[int], room: int, choices: object
) -> None:
    """However the bytes arrive, answers become ready and the peer reads, handler and peer see the same."""

    async def run() -> None:
        pick = choices.random  # type: ignore[attr-defined]
        seen: list[bytes] = []
        unresolved: list[asyncio.Future[list[bytes] | None]] = []

        def handle(connection: BrokerConnection, body: memoryview) -> Reply:
            kind = bodies[len(seen)][1]
            seen.append(bytes(body))
            answer = [frame(bytes(body))]
            if kind == "now":
                return answer  # type: ignore[return-value]
            if kind == "none":
                return None
            loop = asyncio.get_running_loop()
            future: asyncio.Future[list[bytes] | None]
            future = PromptReply(lambda: None) if kind == "prompt" else loop.create_future()  # type: ignore[assignment]
            future.answer = answer  # type: ignore[attr-defined]
            unresolved.append(future)
            return PendingReply(future, kind != "pipelined")  # type: ignore[arg-type]

        connection, transport = FakeHost(handle).connect(room)
        stream = b"".join(frame(body) for body, _ in bodies)
        position = step = 0
        while position < len(stream) or unresolved or transport.waiting:
            if position < len(stream) and transport.reading:
                count = chunks[step % len(chunks)]
                step += 1
                feed(connection, stream[position : position + count])
                position += count
            if unresolved and pick() < 0.5:
                future = unresolved.pop(int(pick() * len(unresolved)))
                future.set_result(future.answer)  # type: ignore[attr-defined]
            if pick() < 0.5:
                transport.peer_reads(int(pick() * 200_000) + 1)
            await turn()
        await turn(3)
        assert seen == [body for body, _ in bodies]
        assert bytes(transport.sent) == b"".join(frame(body) for body, kind in bodies if kind != "none")
        transport.abort()
        await turn()

    asyncio.run(run())
