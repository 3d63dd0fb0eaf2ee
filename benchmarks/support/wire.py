"""A blocking client that hides nothing: one socket, one message out, one message in.

For figures a client library would blur: when exactly a broker acknowledged, how long one answer took.
"""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType
from typing import Self, TypeVar, cast

from ottla.errors import ErrorCode
from ottla.protocol.api import APIS, ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.schema import Message

_SIZE = struct.Struct(">i")

M = TypeVar("M", bound=Message)

#: Versions that carry topic names, served by every Kafka since 2.8.
METADATA_VERSION, PRODUCE_VERSION, FETCH_VERSION, LIST_OFFSETS_VERSION = 9, 9, 12, 6


class Wire:
    """One connection to a broker on this machine."""

    def __init__(self, port: int, *, timeout_s: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation_id = 0

    def ask(self, request: Message, version: int, answer: type[M]) -> M:
        """Send one request and wait for its answer.

        Raises:
            ConnectionError: the broker closed the connection.
            TimeoutError: it did not answer in time.
        """
        key = ApiKey(cast(int, request.API_KEY))
        self._correlation_id += 1
        header = RequestHeader(
            request_api_key=key,
            request_api_version=version,
            correlation_id=self._correlation_id,
            client_id="ottla-benchmark",
        )
        frame = encode(header, request_header_version(key, version)) + encode(request, version)
        self.socket.sendall(_SIZE.pack(len(frame)) + frame)
        body = self._receive(_SIZE.unpack(self._receive(4))[0])
        head, position = decode(ResponseHeader, response_header_version(key, version), body)
        if head.correlation_id != self._correlation_id:
            raise ConnectionError(f"answer {head.correlation_id} to request {self._correlation_id}")
        response, _ = decode(APIS[key].response_class(), version, body, position)
        assert isinstance(response, answer)
        return response

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self.socket.recv(size - len(parts))
            if not part:
                raise ConnectionResetError("the broker closed the connection")
            parts += part
        return bytes(parts)


def produce_request(topic: str, partitions: list[int], *, records: int = 1, size: int = 100) -> ProduceRequest:
    """Return a Produce with one batch for each partition, acks=all."""
    now = int(time.time() * 1000)
    batch = bytes(build_batch([Record(offset, now, None, b"x" * size) for offset in range(records)]))
    return ProduceRequest(
        acks=-1,
        timeout_ms=30_000,
        topic_data=[
            TopicProduceData(
                name=topic,
                partition_data=[PartitionProduceData(index=index, records=batch) for index in partitions],
            )
        ],
    )


def produce(wire: Wire, topic: str, partitions: list[int], *, records: int = 1, size: int = 100) -> ErrorCode:
    """Produce one batch to each partition; the first error, or NONE."""
    request = produce_request(topic, partitions, records=records, size=size)
    response = wire.ask(request, PRODUCE_VERSION, ProduceResponse)
    for topic_response in response.responses:
        for partition in topic_response.partition_responses:
            if partition.error_code:
                return ErrorCode(partition.error_code)
    return ErrorCode.NONE


def leaders(wire: Wire, topic: str, *, create: bool = False) -> dict[int, int]:
    """Return partition -> leader of a topic; empty while it is not known. With `create` it is created on the way."""
    request = MetadataRequest(topics=[MetadataRequestTopic(name=topic)], allow_auto_topic_creation=create)
    response = wire.ask(request, METADATA_VERSION, MetadataResponse)
    return {
        partition.partition_index: partition.leader_id
        for found in response.topics
        if not found.error_code
        for partition in found.partitions
        if not partition.error_code and partition.leader_id >= 0
    }


def fetch_one(wire: Wire, topic: str, offset: int, *, wait_ms: int = 500) -> int:
    """Fetch from partition 0; the size of what came."""
    request = FetchRequest(
        replica_id=-1,
        max_wait_ms=wait_ms,
        min_bytes=1,
        max_bytes=1 << 20,
        session_epoch=-1,
        topics=[
            FetchTopic(
                topic=topic,
                partitions=[FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)],
            )
        ],
    )
    response = wire.ask(request, FETCH_VERSION, FetchResponse)
    if response.error_code:
        raise RuntimeError(ErrorCode(response.error_code).name)
    return sum(len(partition.records or b"") for found in response.responses for partition in found.partitions)


def end_offsets(wire: Wire, topic: str, partitions: list[int]) -> dict[int, int]:
    """Return the end offset of those partitions that answer."""
    request = ListOffsetsRequest(
        replica_id=-1,
        topics=[
            ListOffsetsTopic(
                name=topic,
                partitions=[
                    ListOffsetsPartition(partition_index=index, current_leader_epoch=-1, timestamp=-1)
                    for index in partitions
                ],
            )
        ],
    )
    response = wire.ask(request, LIST_OFFSETS_VERSION, ListOffsetsResponse)
    return {
        partition.partition_index: partition.offset
        for found in response.topics
        for partition in found.partitions
        if not partition.error_code
    }


def first_ack(port: int, topic: str, *, create: bool, timeout_s: float = 120.0) -> float:
    """Wait until a record is acknowledged (acks=all) and return the time, on the clock of `time.perf_counter`.

    Dials again and asks again, every 2 ms, whatever goes wrong before: that is what a user's client would wait for.
    """
    deadline = time.perf_counter() + timeout_s
    why: object = None
    while time.perf_counter() < deadline:
        try:
            with Wire(port, timeout_s=5.0) as wire:
                while time.perf_counter() < deadline:
                    if leaders(wire, topic, create=create):
                        why = produce(wire, topic, [0])
                        if why is ErrorCode.NONE:
                            return time.perf_counter()
                    time.sleep(0.002)
        except OSError as error:
            why = error
        time.sleep(0.002)
    raise TimeoutError(f"nothing acknowledged on port {port} within {timeout_s} s: {why!r}")
