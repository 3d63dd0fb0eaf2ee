"""What a Produce request costs in a broker that does nothing else: no sockets, no waiting, all in the processor's caches.

    python -m benchmarks.request_path [--partitions N] [--records N] [--size BYTES] [--codec NAME] [--requests N] [--profile]

Hands the same request again and again to a connection of a real broker in this process, whose answers go nowhere. Prints
user and system time per request, the cheapest of five passes; what a request costs more over a socket is asyncio, the
kernel's TCP, and caches that others have used meanwhile. Times come in ticks of 10 ms, so ask for thousands of requests;
what they carry is written to the system's temporary directory or under OTTLA_BENCH_DIR. `--profile` adds the functions
that take most.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import tempfile
import time
from typing import Any

from benchmarks.compare import raw

from ottla.broker.broker import Broker
from ottla.broker.config import BrokerConfig
from ottla.broker.wiring.machine import machine
from ottla.network.connection import RECEIVE_SIZE, BrokerConnection
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.wire import WireClient
from ottla.types import CompressionType

TOPIC = "measured"
PASSES = 5


class Nowhere(asyncio.Transport):
    """Takes answers and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answers += 1


async def measure(options: argparse.Namespace, directory: str) -> None:
    settings = [f"log.dirs={directory}", "listeners=PLAINTEXT://127.0.0.1:0"]
    broker = Broker(BrokerConfig.from_sources(overrides=settings), machine())
    await broker.start()
    try:
        name, _, port = broker.server.addresses[0]
        client = await WireClient.connect("127.0.0.1", port)
        topic = CreatableTopic(name=TOPIC, num_partitions=options.partitions, replication_factor=1)
        await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=10_000), 5, CreateTopicsResponse)
        frame = _frame(options)
        if len(frame) > RECEIVE_SIZE:
            raise SystemExit(
                f"the request is of {len(frame)} bytes; more than {RECEIVE_SIZE} are not received in one piece"
            )
        broker.server._quota.admit("127.0.0.1")  # as the listener does for those it accepts
        connection, nowhere = BrokerConnection(broker.server, name), Nowhere()
        connection.connection_made(nowhere)

        def run(requests: int) -> tuple[float, float]:
            before = os.times()
            for _ in range(requests):
                connection.get_buffer(65536)[: len(frame)] = frame
                connection.buffer_updated(len(frame))
            after = os.times()
            return after.user - before.user, after.system - before.system

        run(max(options.requests // 10, 1))
        user, system = min((run(options.requests) for _ in range(PASSES)), key=sum)
        if nowhere.answers != options.requests * PASSES + max(options.requests // 10, 1):
            raise RuntimeError("not every request was answered")
        per_request = 1e6 / options.requests
        print(
            f"{user * per_request:.1f} us user, {system * per_request:.1f} us system per request of {len(frame)} bytes"
        )
        if options.profile:
            with cProfile.Profile() as profile:
                run(options.requests)
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        connection.connection_lost(None)
        client.close()
    finally:
        await broker.stop()


def _frame(options: argparse.Namespace) -> bytes:
    records = [Record(number, int(time.time() * 1000), None, bytes(options.size)) for number in range(options.records)]
    batch = bytes(build_batch(records, compression=CompressionType[options.codec.upper()]))
    parts = [PartitionProduceData(index=index, records=batch) for index in range(options.partitions)]
    topics = [TopicProduceData(name=TOPIC, partition_data=parts)]
    return raw.frame(ApiKey.PRODUCE, raw.PRODUCE_VERSION, ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=topics))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("partitions", 1), ("records", 1), ("size", 100), ("requests", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--codec", default="none", choices=[codec.name.lower() for codec in CompressionType])
    parser.add_argument("--profile", action="store_true")
    with tempfile.TemporaryDirectory(prefix="ottla-path-", dir=os.environ.get("OTTLA_BENCH_DIR")) as directory:
        asyncio.run(measure(parser.parse_args(), directory))


if __name__ == "__main__":
    main()
