"""A simulated broker with one topic, `orders`, and what a client does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ottla.broker.context import Session, ShortCut
from ottla.broker.dispatch import Dispatcher
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.storage.log import PartitionLog
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop
from ottla.testing.wire import WireClient
from ottla.types import TopicPartition

ORDERS = TopicPartition("orders", 0)


def produce_request(
    node: SimulatedBroker, size: int = 10, *, acks: int = -1, timeout_ms: int = 1_000
) -> ProduceRequest:
    batch = build_batch([Record(0, node.clock.wall_ms(), None, b"x" * size)])
    data = PartitionProduceData(index=0, records=bytes(batch))
    return ProduceRequest(
        acks=acks, timeout_ms=timeout_ms, topic_data=[TopicProduceData(name="orders", partition_data=[data])]
    )


async def produce(node: SimulatedBroker, client: WireClient, size: int = 10, *, acks: int = -1) -> ErrorCode:
    answer = await client.ask(produce_request(node, size, acks=acks), 9, ProduceResponse)
    return ErrorCode(answer.responses[0].partition_responses[0].error_code)


def fetch_request(offset: int = 0, *, wait_ms: int = 500, min_bytes: int = 1, max_bytes: int = 1 << 20) -> FetchRequest:
    wanted = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=max_bytes)
    return FetchRequest(
        max_wait_ms=wait_ms,
        min_bytes=min_bytes,
        session_epoch=-1,
        topics=[FetchTopic(topic="orders", partitions=[wanted])],
    )


async def fetch(client: WireClient, offset: int = 0, *, max_bytes: int = 1 << 20) -> PartitionData:
    answer = await client.ask(fetch_request(offset, max_bytes=max_bytes), 11, FetchResponse)
    return answer.responses[0].partitions[0]


async def readable(client: WireClient) -> int:
    """Return how many bytes of records a consumer gets from the start."""
    return len((await fetch(client)).records or b"")


async def started(loop: VirtualLoop, **settings: object) -> tuple[SimulatedBroker, WireClient]:
    node = SimulatedBroker(loop, **settings)
    await node.start()
    client = await node.connect()
    await client.ask(MetadataRequest(topics=[MetadataRequestTopic(name="orders")]), 12, MetadataResponse)
    return node, client


def log_of(node: SimulatedBroker) -> PartitionLog:
    """The log of `orders`."""
    assert node.broker is not None
    return node.broker.logs.logs[ORDERS]


def replace_short_cut(dispatcher: Dispatcher, replacement: Callable[[ShortCut, memoryview, int, Session], Any]) -> None:
    """Have Produce requests handled by `replacement`, which gets the genuine short cut besides its arguments."""
    route = dispatcher._routes[ApiKey.PRODUCE]
    short_cut = route.short_cut
    assert short_cut is not None
    replaced = replace(short_cut, handle_frame=partial(replacement, short_cut))
    dispatcher._routes[ApiKey.PRODUCE] = replace(route, short_cut=replaced)
    dispatcher._versions.clear()
