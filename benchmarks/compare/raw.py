"""A client that costs next to nothing: frames encoded beforehand, answers looked at as little as possible.

Where a client library would be the bottleneck or would blur a latency. Every answer is checked for its size against one
that was decoded whole and had no error; a broker that refuses answers with another size, or the end offsets tell.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.schema import Message

PRODUCE_VERSION, FETCH_VERSION = 9, 12
IN_FLIGHT = 5  # what client libraries keep in flight on one connection
CLIENT_ID = "ottla-benchmark"
_SIZE = struct.Struct(">i")
_BUFFER = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay took."""

    seconds: float
    requests: int
    bytes: int


def frame(key: ApiKey, version: int, request: Message) -> bytes:
    """Return a request as it goes over the wire, its size in front."""
    header = RequestHeader(request_api_key=key, request_api_version=version, correlation_id=7, client_id=CLIENT_ID)
    body = encode(header, request_header_version(key, version)) + encode(request, version)
    return _SIZE.pack(len(body)) + body


def make_batch(records: int, size: int) -> bytes:
    """Return a batch without a producer id, uncompressed."""
    now = int(time.time() * 1000)
    return bytes(build_batch([Record(offset, now, None, bytes(size)) for offset in range(records)]))


def produce_frame(topic: str, partition: int, batch: bytes) -> bytes:
    data = [
        TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=partition, records=batch)]),
    ]
    return frame(ApiKey.PRODUCE, PRODUCE_VERSION, ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=data))


def fetch_frame(topic: str, partition: int, offset: int, size: int) -> bytes:
    """Return a Fetch outside of any session."""
    wanted = FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=size)
    return frame(
        ApiKey.FETCH,
        FETCH_VERSION,
        FetchRequest(
            replica_id=-1,
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=size,
            session_epoch=-1,
            topics=[FetchTopic(topic=topic, partitions=[wanted])],
        ),
    )


def dial(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        parts += part
    return bytes(parts)


def answer(connection: socket.socket) -> bytes:
    """Read one answer, without its size."""
    return receive(connection, _SIZE.unpack(receive(connection, 4))[0])


def check_produced(body: bytes) -> None:
    """Raise if a Produce was refused."""
    _, position = decode(ResponseHeader, response_header_version(ApiKey.PRODUCE, PRODUCE_VERSION), body)
    response, _ = decode(ProduceResponse, PRODUCE_VERSION, body, position)
    for topic in response.responses:
        for partition in topic.partition_responses:
            if partition.error_code:
                raise RuntimeError(f"Produce: {ErrorCode(partition.error_code).name}")


def one_by_one(port: int, topic: str, requests: int, size: int) -> list[float]:
    """Produce one record at a time, acks=all, and return the milliseconds until each was acknowledged."""
    request = produce_frame(topic, 0, make_batch(1, size))
    took: list[float] = []
    with dial(port) as connection:
        connection.sendall(request)
        check_produced(first := answer(connection))
        for _ in range(requests):
            began = time.perf_counter()
            connection.sendall(request)
            got = connection.recv(65536)
            took.append((time.perf_counter() - began) * 1000)
            if len(got) != len(first) + 4:
                check_produced((got + receive(connection, len(first) + 4 - len(got)))[4:])
    return took


def ask_each(port: int, frames: Sequence[bytes]) -> list[bytes]:
    """Send the frames one after the other, each when the one before was answered; the answers."""
    with dial(port) as connection:
        answers = []
        for request in frames:
            connection.sendall(request)
            answers.append(answer(connection))
        return answers


def many_at_once(
    port: int | Sequence[int], topic: str, producers: int, partitions: int, seconds: float, size: int
) -> tuple[int, float]:
    """Producers that each have one record in flight; (records acknowledged, seconds).

    Args:
        port: of the broker, or, partition by partition, of the brokers that lead them.
    """
    ports = [port] * partitions if isinstance(port, int) else port
    batch = make_batch(1, size)
    with selectors.DefaultSelector() as selector:
        connections = [dial(ports[number % partitions]) for number in range(producers)]
        try:
            for number, connection in enumerate(connections):
                request = produce_frame(topic, number % partitions, batch)
                connection.sendall(request)
                check_produced(first := answer(connection))
                selector.register(connection, selectors.EVENT_READ, request)
            expected = len(first) + 4
            sizes = dict.fromkeys(connections, 0)
            began = time.perf_counter()
            for connection in connections:
                connection.sendall(selector.get_key(connection).data)
            count, waiting = 0, producers
            while waiting:
                over = time.perf_counter() - began >= seconds
                for key, _ in selector.select(30):
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    sizes[ready] += len(ready.recv(65536))
                    if sizes[ready] < expected:
                        continue
                    sizes[ready] = 0
                    count += 1
                    if over:
                        waiting -= 1
                    else:
                        ready.sendall(key.data)
            return count, time.perf_counter() - began
        finally:
            for connection in connections:
                connection.close()


def replay_produce(port: int, frames: Sequence[bytes], total: int, *, kafka: bool = True) -> Replayed:
    """Send the frames again and again, some in flight, until `total` bytes have been acknowledged.

    With `kafka=False` the other side is a program that only answers with sizes.
    """
    with dial(port) as connection:
        connection.sendall(frames[0])
        first = answer(connection)
        if kafka:
            check_produced(first)
        expected = len(first) + 4
        began = time.perf_counter()
        sent = acknowledged = requests = 0
        pending: list[int] = []
        while acknowledged < total:
            while sent < total and len(pending) < IN_FLIGHT:
                request = frames[requests % len(frames)]
                connection.sendall(request)
                sent += len(request)
                requests += 1
                pending.append(len(request))
            receive(connection, expected)
            acknowledged += pending.pop(0)
        return Replayed(seconds=time.perf_counter() - began, requests=requests, bytes=acknowledged)


def replay_fetch(port: int, topic: str, partitions: int, batch: int, records: int, size: int, total: int) -> Replayed:
    """Read `total` bytes, one connection to each partition and one request in flight on each.

    The log holds batches of `batch` bytes and `records` records; `size` is a multiple of `batch`.
    """
    readers = [_Reader(dial(port), topic, index, batch, records, size) for index in range(partitions)]
    buffer = bytearray(_BUFFER)
    try:
        with selectors.DefaultSelector() as selector:
            for reader in readers:
                selector.register(reader.connection, selectors.EVENT_READ, reader)
            began = time.perf_counter()
            for reader in readers:
                reader.ask()
            requests = got = 0
            while got < total:
                for key, _ in selector.select(30):
                    reader = key.data
                    if (arrived := reader.take(buffer)) is None:
                        continue
                    requests += 1
                    got += arrived
                    if got < total:
                        reader.ask()
            return Replayed(seconds=time.perf_counter() - began, requests=requests, bytes=got)
    finally:
        for reader in readers:
            reader.connection.close()


class _Reader:
    """One connection that reads one partition from its beginning."""

    def __init__(
        self, connection: socket.socket, topic: str, partition: int, batch: int, records: int, size: int
    ) -> None:
        self.connection = connection
        self._topic, self._partition, self._size = topic, partition, size
        self._batch, self._records = batch, records
        self._offset = 0
        self._head = b""
        self._left = self._answer = 0
        # What is not records in an answer: taken from one that is decoded whole.
        connection.sendall(fetch_frame(topic, partition, 0, size))
        body = answer(connection)
        _, position = decode(ResponseHeader, response_header_version(ApiKey.FETCH, FETCH_VERSION), body)
        response, _ = decode(FetchResponse, FETCH_VERSION, body, position)
        found = response.responses[0].partitions[0]
        if response.error_code or found.error_code:
            raise RuntimeError(f"Fetch: {ErrorCode(response.error_code or found.error_code).name}")
        self._around = len(body) - len(found.records or b"")

    def ask(self) -> None:
        self.connection.sendall(fetch_frame(self._topic, self._partition, self._offset, self._size))

    def take(self, buffer: bytearray) -> int | None:
        """Receive what is there; the bytes of records once the answer is complete."""
        if self._left == 0:
            self._head += receive(self.connection, 4 - len(self._head))
            self._answer = self._left = int(_SIZE.unpack(self._head)[0])
            self._head = b""
        self._left -= self.connection.recv_into(buffer, min(self._left, len(buffer)))
        if self._left:
            return None
        # The last batch may be cut off, and the field that says the size may be a byte shorter than the first time.
        batches = (self._answer - self._around + 2) // self._batch
        self._offset += batches * self._records
        return max(0, self._answer - self._around)


def replay_reads(port: int, connections: int, total: int) -> Replayed:
    """The same from a program that only reads and sends: requests of a Fetch's size, answers of any."""
    request = fetch_frame("a-topic-of-this-size", 0, 0, 1)
    buffer = bytearray(_BUFFER)
    sockets = [dial(port) for _ in range(connections)]
    left = dict.fromkeys(sockets, 0)
    try:
        with selectors.DefaultSelector() as selector:
            began = time.perf_counter()
            for connection in sockets:
                selector.register(connection, selectors.EVENT_READ)
                connection.sendall(request)
            requests = got = 0
            while got < total:
                for key, _ in selector.select(30):
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    if left[ready] == 0:
                        left[ready] = _SIZE.unpack(receive(ready, 4))[0]
                        if left[ready] == 0:
                            raise RuntimeError("the file is too short")
                    arrived = ready.recv_into(buffer, min(left[ready], len(buffer)))
                    left[ready] -= arrived
                    got += arrived
                    if left[ready] == 0 and got < total:
                        requests += 1
                        ready.sendall(request)
            return Replayed(seconds=time.perf_counter() - began, requests=requests, bytes=got)
    finally:
        for connection in sockets:
            connection.close()
