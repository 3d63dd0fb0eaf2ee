"""The caller's side of a connection against servers that behave, and against servers that do not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from struct import Struct

import pytest
from tests.network.certificates import server_context

from ottla.errors import (
    ErrorCode,
    KafkaError,
    LocalProtocolError,
    RemoteProtocolError,
    SaslAuthenticationFailedError,
    UnsupportedVersionError,
)
from ottla.network.channel import Channel, ChannelSettings
from ottla.network.channel_errors import (
    AnswerTimeoutError,
    BrokerUnreachableError,
    ConnectionClosedError,
    NotKafkaError,
    TlsError,
)
from ottla.protocol.api import APIS, VERSIONS, ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.api_versions import ApiVersion, ApiVersionsResponse, FinalizedFeatureKey
from ottla.protocol.messages.fetch import FetchableTopicResponse, FetchRequest, FetchResponse, PartitionData
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.schema import Message

SIZE = Struct(">i")
PATIENT = ChannelSettings(connect_timeout_s=5.0)

Answer = Callable[[RequestHeader, Message, asyncio.StreamWriter], Awaitable[None]]


def answer_bytes(header: RequestHeader, message: Message, *, version: int | None = None) -> bytes:
    key = header.request_api_key
    chosen = header.request_api_version if version is None else version
    body = encode(ResponseHeader(correlation_id=header.correlation_id), response_header_version(key, chosen)) + encode(
        message, chosen
    )
    return SIZE.pack(len(body)) + body


def what_is_spoken(**changes: tuple[int, int]) -> ApiVersionsResponse:
    versions = {key: changes.get(key.name, span) for key, span in VERSIONS.items()}
    return ApiVersionsResponse(
        api_keys=[ApiVersion(api_key=key, min_version=low, max_version=high) for key, (low, high) in versions.items()],
        finalized_features=[FinalizedFeatureKey(name="transaction.version", max_version_level=2)],
    )


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server of one function; failures of it end the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert not failures, failures


async def read_request(reader: asyncio.StreamReader) -> tuple[RequestHeader, Message]:
    (size,) = SIZE.unpack(await reader.readexactly(4))
    if not 0 <= size <= 100 << 20:
        raise ConnectionError("a broker accepts no frame of this size")
    frame = await reader.readexactly(size)
    key = ApiKey(int.from_bytes(frame[:2], "big"))
    version = int.from_bytes(frame[2:4], "big")
    header, position = decode(RequestHeader, request_header_version(key, version), frame)
    request, end = decode(APIS[key].request_class(), version, frame, position)
    assert end == size
    return header, request


def kafka(answer: Answer, spoken: ApiVersionsResponse | None = None) -> Callable[..., Awaitable[None]]:
    """A server that introduces itself as a broker and hands other requests to `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            header, request = await read_request(reader)
            if header.request_api_key == ApiKey.API_VERSIONS:
                writer.write(answer_bytes(header, spoken or what_is_spoken()))
            else:
                await answer(header, request, writer)

    return serve


async def beat(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
    assert isinstance(request, HeartbeatRequest)
    writer.write(answer_bytes(header, HeartbeatResponse(error_code=request.generation_id)))


async def silent(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
    return None


async def test_each_request_gets_its_own_answer() -> None:
    async with listening(kafka(beat)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        assert channel.features == {"transaction.version": 2}
        futures = [channel.send(HeartbeatRequest(generation_id=n), 4, timeout_s=5) for n in range(5)]
        assert channel.in_flight == 5
        assert not channel.has_room
        answers = await asyncio.gather(*futures)
        assert [answer.error_code for answer in answers if isinstance(answer, HeartbeatResponse)] == list(range(5))
        assert channel.in_flight == 0
        channel.close()
        await channel.wait_closed()


async def test_ask_waits_for_room_in_order() -> None:
    async with listening(kafka(beat)) as port:
        channel = await Channel.open("127.0.0.1", port, ChannelSettings(in_flight_max=2))
        for _ in range(2):
            channel.send(HeartbeatRequest(), 4, timeout_s=5)
        with pytest.raises(LocalProtocolError, match="2 requests are in flight"):
            channel.send(HeartbeatRequest(), 4, timeout_s=5)
        answers = await asyncio.gather(
            *(channel.ask(HeartbeatRequest(generation_id=n), HeartbeatResponse) for n in range(20))
        )
        assert [answer.error_code for answer in answers] == list(range(20))
        channel.close()


async def test_records_of_a_large_answer_are_views_of_the_memory_they_were_received_into() -> None:
    records = bytes(range(256)) * 4096 * 10  # 10 MB

    async def serve(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
        assert isinstance(request, FetchRequest)
        size = request.max_bytes
        part = PartitionData(partition_index=0, records=records[:size])
        response = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=[part])])
        writer.write(answer_bytes(header, response))

    async with listening(kafka(serve)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        sizes = [10, len(records), 70_000, 65_000, 65_480, 1, 65_536, 300_000]
        got = []
        for size in sizes:
            answer = await channel.ask(FetchRequest(max_bytes=size), FetchResponse, version=12)
            got.append(answer.responses[0].partitions[0].records)
        for size, view in zip(sizes, got, strict=True):
            assert isinstance(view, memoryview)
            assert view == records[:size]
        assert isinstance(got[1].obj, bytearray)  # type: ignore[union-attr]
        assert len(got[1].obj) < len(records) + 200  # type: ignore[union-attr]
        channel.close()


async def test_answers_in_pieces_are_put_together() -> None:
    async def serve(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
        assert isinstance(request, HeartbeatRequest)
        for byte in answer_bytes(header, HeartbeatResponse(error_code=request.generation_id)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with listening(kafka(serve)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        for number in range(3):
            answer = await channel.ask(HeartbeatRequest(generation_id=number), HeartbeatResponse)
            assert answer.error_code == number
        channel.close()


async def test_an_answer_out_of_order_ends_the_connection() -> None:
    held: list[RequestHeader] = []

    async def swap(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
        held.append(header)
        if len(held) == 2:
            writer.write(answer_bytes(held[1], HeartbeatResponse()) + answer_bytes(held[0], HeartbeatResponse()))

    async with listening(kafka(swap)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        reasons: list[BaseException] = []
        channel.on_closed = reasons.append
        futures = [channel.send(HeartbeatRequest(), 4, timeout_s=5) for _ in range(2)]
        for result in await asyncio.gather(*futures, return_exceptions=True):
            assert isinstance(result, RemoteProtocolError)
            assert "while the answer to" in str(result)
        assert len(reasons) == 1
        assert not channel.is_open


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        SIZE.pack(1 << 30),
        SIZE.pack(2) + b"\0\0",
        SIZE.pack(4) + SIZE.pack(1),  # of the right id, but empty
    ],
)
async def test_garbage_ends_the_connection(garbage: bytes) -> None:
    async def spoil(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)

    async with listening(kafka(spoil)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        with pytest.raises(RemoteProtocolError):
            await channel.ask(HeartbeatRequest(), HeartbeatResponse, timeout_s=5)
        assert not channel.is_open


async def test_a_request_without_an_answer_fails_at_its_deadline_and_ends_the_connection() -> None:
    async with listening(kafka(silent)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        patient = channel.send(HeartbeatRequest(), 4, timeout_s=30)
        hasty = channel.send(HeartbeatRequest(), 4, timeout_s=0.05)
        with pytest.raises(AnswerTimeoutError, match="did not answer Heartbeat in time") as caught:
            await hasty
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.code == ErrorCode.REQUEST_TIMED_OUT
        with pytest.raises(AnswerTimeoutError):
            await patient
        with pytest.raises(AnswerTimeoutError):
            channel.send(HeartbeatRequest(), 4, timeout_s=1)


async def test_waiting_for_room_has_a_deadline() -> None:
    async with listening(kafka(silent)) as port:
        channel = await Channel.open("127.0.0.1", port, ChannelSettings(in_flight_max=1))
        first = channel.send(HeartbeatRequest(), 4, timeout_s=30)
        with pytest.raises(AnswerTimeoutError, match="no room"):
            await channel.ask(HeartbeatRequest(), HeartbeatResponse, timeout_s=0.05)
        assert channel.is_open
        channel.close()
        with pytest.raises(ConnectionClosedError):
            await first


async def test_a_connection_that_breaks_fails_what_is_in_flight() -> None:
    async def hang_up(header: RequestHeader, request: Message, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(kafka(hang_up)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        with pytest.raises(ConnectionClosedError, match="closed the connection") as caught:
            await channel.ask(HeartbeatRequest(), HeartbeatResponse)
        assert caught.value.retriable
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value, KafkaError)


async def test_a_cancelled_request_leaves_the_others_their_answers() -> None:
    async with listening(kafka(beat)) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        dropped = channel.send(HeartbeatRequest(generation_id=1), 4, timeout_s=5)
        dropped.cancel()
        answer = await channel.ask(HeartbeatRequest(generation_id=2), HeartbeatResponse)
        assert answer.error_code == 2
        channel.close()


@pytest.mark.parametrize("tells", [True, False])
async def test_a_broker_that_does_not_know_our_apiversions_is_asked_again(tells: bool) -> None:
    """KIP-511: the first answer comes in version 0, with what the broker knows, or (before 2.4) without."""
    asked: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (size,) = SIZE.unpack(await reader.readexactly(4))
            frame = await reader.readexactly(size)
            version = int.from_bytes(frame[2:4], "big")
            asked.append(version)
            header = RequestHeader(
                request_api_key=18, request_api_version=version, correlation_id=SIZE.unpack(frame[4:8])[0]
            )
            if version > 2:
                rows = [ApiVersion(api_key=18, min_version=0, max_version=2)] if tells else []
                refusal = ApiVersionsResponse(error_code=35, api_keys=rows)
                writer.write(answer_bytes(header, refusal, version=0))
            else:
                writer.write(answer_bytes(header, what_is_spoken(HEARTBEAT=(0, 1), FETCH=(20, 21))))

    async with listening(serve) as port:
        channel = await Channel.open("127.0.0.1", port, PATIENT)
        assert asked == [5, 2 if tells else 0]
        assert channel.version(ApiKey.HEARTBEAT) == 1
        assert channel.version(ApiKey.METADATA, at_most=7) == 7
        with pytest.raises(UnsupportedVersionError, match="speaks Fetch 20 to 21, this client 4 to 18"):
            channel.version(ApiKey.FETCH)
        channel.close()


async def test_nothing_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(
            BrokerUnreachableError, match=rf"Nothing listens on 127.0.0.1:{port}.*ottla serve"
        ) as caught:
            await Channel.open("127.0.0.1", port, PATIENT)
    assert caught.value.retriable
    assert "ottla serve" in caught.value.hint
    with pytest.raises(BrokerUnreachableError, match="Nothing listens on localhost"):
        await Channel.open("localhost", port, PATIENT)


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(BrokerUnreachableError, match="does not resolve"):
        await Channel.open("no-such-host.invalid", 9092, PATIENT)


async def test_zookeeper_listens_there() -> None:
    async def zookeeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(4) == b"srvr":
            writer.write(b"Zookeeper version: 3.9.2\n")
            await writer.drain()

    async with listening(zookeeper) as port:
        with pytest.raises(NotKafkaError, match="is ZooKeeper, not Kafka") as caught:
            await Channel.open("127.0.0.1", port, PATIENT)
        assert not caught.value.retriable


async def test_a_web_server_listens_there() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with listening(web) as port:
        with pytest.raises(NotKafkaError, match="is a web server"):
            await Channel.open("127.0.0.1", port, PATIENT)


async def test_something_else_listens_there() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(b"-ERR unknown command\r\n")
        await writer.drain()

    async with listening(other) as port:
        with pytest.raises(NotKafkaError, match="does not answer as a Kafka broker does"):
            await Channel.open("127.0.0.1", port, PATIENT)


async def test_a_listener_that_never_answers() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(mute) as port:
        with pytest.raises(BrokerUnreachableError, match=r"within 0.1 s although the connection stands"):
            await Channel.open("127.0.0.1", port, ChannelSettings(connect_timeout_s=0.1))


async def test_the_server_speaks_tls_and_we_do_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    context, _ = server_context(tmp_path_factory.mktemp("tls"))
    async with listening(kafka(beat), context) as port:
        with pytest.raises(TlsError, match="speaks TLS, this client does not"):
            await Channel.open("127.0.0.1", port, PATIENT)


async def test_we_speak_tls_and_the_server_does_not() -> None:
    async with listening(kafka(beat)) as port:
        with pytest.raises(TlsError, match="does not speak TLS"):
            await Channel.open(
                "127.0.0.1", port, ChannelSettings(ssl_context=ssl.create_default_context(), connect_timeout_s=3)
            )


async def test_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    context, authority = server_context(tmp_path_factory.mktemp("tls"))
    async with listening(kafka(beat), context) as port:
        trusting = ssl.create_default_context(cafile=str(authority))
        channel = await Channel.open("127.0.0.1", port, ChannelSettings(ssl_context=trusting))
        answer = await channel.ask(HeartbeatRequest(generation_id=7), HeartbeatResponse)
        assert answer.error_code == 7
        channel.close()
        await channel.wait_closed()
        with pytest.raises(TlsError, match=r"certificate of 127.0.0.1:.* is not accepted"):
            await Channel.open("127.0.0.1", port, ChannelSettings(ssl_context=ssl.create_default_context()))


async def test_whom_authentication_refuses_gets_no_channel() -> None:
    seen: list[Channel] = []

    async def refuse(channel: Channel) -> None:
        seen.append(channel)
        await channel.ask(HeartbeatRequest(), HeartbeatResponse)
        raise SaslAuthenticationFailedError("no")

    async with listening(kafka(beat)) as port:
        with pytest.raises(SaslAuthenticationFailedError):
            await Channel.open("127.0.0.1", port, ChannelSettings(authenticate=refuse))
    assert not seen[0].is_open
