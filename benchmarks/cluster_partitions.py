"""What thousands of partitions cost three brokers: creation, restart, failover, spreading of metadata, memory.

    python -m benchmarks.cluster_partitions --partitions 1000 5000      growth, from one size to the next
    python -m benchmarks.cluster_partitions --partitions 5000 --replicas 1

`ottla cluster up`, topics of 50 partitions, three replicas unless told otherwise. `spread`: from the answer to the creation
of one more topic by one broker until the two others know it. `failover`: kill -9 of broker 2 until all partitions are led
again, and until they are whole. `1,000 topics`: created in one request, and deleted in one, until the last broker knows.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.clusters import NUMBERS, OttlaUp
from tests.soak.seeds import commit

from ottla.errors import ErrorCode, KafkaError
from ottla.network.channel import Channel, ChannelSettings
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse

EACH = 50
MANY = 1_000
SPREADS = 10
PATIENCE_S = 300.0


class Asked:
    """One connection to a broker."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._channel: Channel | None = None

    async def channel(self) -> Channel:
        if self._channel is None:
            self._channel = await Channel.open("127.0.0.1", self._port, ChannelSettings())
        return self._channel

    async def metadata(self) -> MetadataResponse:
        try:
            return await (await self.channel()).ask(MetadataRequest(topics=None), MetadataResponse, timeout_s=60)
        except KafkaError:
            self._channel = None
            raise

    async def knows(self, name: str) -> bool:
        """Return whether the broker knows a topic. Asks for that alone: an answer about all takes as long as spreading it."""
        request = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=False)
        found = await (await self.channel()).ask(request, MetadataResponse, timeout_s=60)
        return not found.topics[0].error_code

    async def create(self, names: list[str], partitions: int, replicas: int) -> None:
        topics = [CreatableTopic(name=n, num_partitions=partitions, replication_factor=replicas) for n in names]
        request = CreateTopicsRequest(topics=topics, timeout_ms=120_000)
        answer = await (await self.channel()).ask(request, CreateTopicsResponse, timeout_s=PATIENCE_S)
        for topic in answer.topics:
            assert not topic.error_code, (topic.name, ErrorCode(topic.error_code), topic.error_message)

    async def delete(self, names: list[str]) -> None:
        request = DeleteTopicsRequest(topic_names=names, timeout_ms=120_000)
        channel = await self.channel()
        answer = await channel.ask(request, DeleteTopicsResponse, timeout_s=PATIENCE_S, version=5)
        for topic in answer.responses:
            assert not topic.error_code, (topic.name, ErrorCode(topic.error_code))


async def until(asked: Asked, condition: Callable[[MetadataResponse], bool], pause_s: float = 0.02) -> float:
    """Ask a broker until it says so; return when that was."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if condition(await asked.metadata()):
                return time.monotonic()
        except KafkaError:
            pass
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(pause_s)


def count_of(prefix: str, found: MetadataResponse) -> int:
    return sum(topic.name is not None and topic.name.startswith(prefix) for topic in found.topics)


def whole(partitions: int) -> Callable[[MetadataResponse], bool]:
    def check(found: MetadataResponse) -> bool:
        rows = [row for topic in found.topics for row in topic.partitions]
        return (
            len(found.brokers) == len(NUMBERS)
            and len(rows) >= partitions
            and all(row.leader_id >= 0 and len(row.isr_nodes) == len(row.replica_nodes) for row in rows)
        )

    return check


async def measure(cluster: OttlaUp, partitions: int, replicas: int) -> dict[str, float]:
    asked = {number: Asked(port) for number, port in cluster.ports.items()}
    found: dict[str, float] = {"partitions": partitions, "MiB, empty": cluster.resident_bytes() / 2**20}
    began = time.monotonic()
    for first in range(0, partitions // EACH, 20):
        names = [f"t{number}" for number in range(first, min(first + 20, partitions // EACH))]
        await asked[1].create(names, EACH, replicas)
    for one in asked.values():
        last = await until(one, whole(partitions), 0.2)
    found["created and whole (s)"] = last - began
    found["MiB"] = cluster.resident_bytes() / 2**20
    spreads = []
    for number in range(SPREADS):
        name = f"spread{number}"
        await asked[1].create([name], 1, replicas)
        began = time.monotonic()
        for other in (2, 3):
            while not await asked[other].knows(name):
                assert time.monotonic() < began + PATIENCE_S, f"broker {other} does not hear of {name}"
        spreads.append(time.monotonic() - began)
    found["spread, median (s)"] = statistics.median(spreads)
    began = time.monotonic()
    cluster.kill(2)
    last = await until(asked[1], lambda seen: 2 not in [b.node_id for b in seen.brokers])
    last = await until(asked[1], lambda seen: all(row.leader_id >= 0 for t in seen.topics for row in t.partitions))
    found["failover: led (s)"] = last - began
    found["failover: whole (s)"] = await until(asked[1], whole(partitions), 0.2) - began
    names = [f"many{number}" for number in range(MANY)]
    began = time.monotonic()
    await asked[1].create(names, 1, replicas)
    found["1,000 topics: answered (s)"] = time.monotonic() - began
    for number in (1, 2, 3):
        last = await until(asked[number], lambda seen: count_of("many", seen) == MANY, 0.1)
    found["1,000 topics: known to all (s)"] = last - began
    began = time.monotonic()
    await asked[1].delete(names)
    found["1,000 deleted: answered (s)"] = time.monotonic() - began
    for number in (1, 2, 3):
        last = await until(asked[number], lambda seen: not count_of("many", seen), 0.1)
    found["1,000 deleted: known to all (s)"] = last - began
    return found


def run(partitions: int, replicas: int) -> dict[str, float]:
    with OttlaUp() as cluster:
        found = asyncio.run(measure(cluster, partitions, replicas))
        cluster.stop_all()
        began = time.monotonic()
        cluster.start()
        asyncio.run(until(Asked(cluster.ports[1]), whole(partitions), 0.2))
        found["restart: whole (s)"] = time.monotonic() - began
        found["CPU of the restart (s)"] = cluster.cpu_seconds()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1_000, 5_000])
    parser.add_argument("--replicas", type=int, default=3)
    asked = parser.parse_args()
    columns = []
    for partitions in asked.partitions:
        columns.append(run(partitions, asked.replicas))
        print(columns[-1], flush=True)
    print(f"\n| {asked.replicas} replicas, commit {commit()} |" + " |" * len(columns))
    print("|---|" + "---:|" * len(columns))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{column[name]:,.2f}".removesuffix(".00") for column in columns) + " |")


if __name__ == "__main__":
    main()
