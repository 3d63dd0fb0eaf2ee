"""How long partitions are without a leader when its broker dies or stops: three brokers, ottla and Apache Kafka in one run.

    python -m benchmarks.leader_failover kill --session-ms 6000 --times 20      kill -9 of the broker that leads t-0
    python -m benchmarks.leader_failover stop --times 10                        SIGTERM: a controlled restart
    python -m benchmarks.leader_failover --table                                what has been measured so far, as Markdown

ottla runs on a ZooKeeper ensemble of three servers with that session timeout, Apache Kafka on KRaft with that
broker.session.timeout.ms, and Apache Kafka 3.9 (`--systems kafka39`) on an ensemble of its own. A surviving broker is asked
for Metadata all the time; a partition is without a leader while the answer names nobody, or a broker whose process has ended.
The topic has six partitions of three replicas; the longest time of any partition counts. All clusters run side by side. Each
time is noted in the state file, an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.clusters import ApacheKafkaCluster, Cluster, OldKafkaCluster, OttlaOnZooKeeper
from tests.soak.seeds import commit

from ottla.errors import KafkaError
from ottla.network.channel import Channel, ChannelSettings
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse

STATE = Path("benchmarks/results/leader_failover.jsonl")
TOPIC, PARTITIONS = "t", 6
POLL_S = 0.01
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    how: str
    session_ms: int
    system: str
    commit: str
    number: int
    without_leader_s: float


async def leaders(channel: Channel) -> dict[int, int]:
    request = MetadataRequest(topics=[MetadataRequestTopic(name=TOPIC)], allow_auto_topic_creation=False)
    found = await channel.ask(request, MetadataResponse, timeout_s=10)
    return {partition.partition_index: partition.leader_id for partition in found.topics[0].partitions}


async def without_leader(cluster: Cluster, how: str) -> float:
    """End the broker that leads t-0; return the longest time that a partition has no leader who lives."""
    victim = await leader_of_first(cluster)
    survivor = next(number for number in cluster.ports if number != victim)
    channel = await Channel.open("127.0.0.1", cluster.ports[survivor], ChannelSettings())
    try:
        began = time.monotonic()
        (cluster.kill if how == "kill" else cluster.stop)(victim)
        since: dict[int, float] = {}
        longest, ended = 0.0, False
        while True:
            now = time.monotonic()
            found = await leaders(channel)
            ended = ended or not cluster.is_running(victim)
            for index, leader in found.items():
                if leader < 0 or (leader == victim and ended):
                    since.setdefault(index, now if how == "stop" else began)
                elif index in since:
                    longest = max(longest, time.monotonic() - since.pop(index))
            if ended and not since and len(found) == PARTITIONS and victim not in found.values():
                return longest
            assert now - began < PATIENCE_S, f"{cluster.name}: {found} after {PATIENCE_S} s"
            await asyncio.sleep(POLL_S)
    finally:
        channel.close()
        while cluster.is_running(victim):  # noqa: ASYNC110 - it is polled
            await asyncio.sleep(0.05)
        cluster.start_again(victim)


async def leader_of_first(cluster: Cluster) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for port in cluster.ports.values():
            try:
                channel = await Channel.open("127.0.0.1", port, ChannelSettings(connect_timeout_s=2))
                try:
                    if (found := (await leaders(channel)).get(0, -1)) > 0:
                        return found
                finally:
                    channel.close()
            except KafkaError:
                continue
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def run(how: str, session_ms: int, times: int, path: Path, systems: list[str]) -> None:
    timeouts = {"zookeeper.session.timeout.ms": str(session_ms)}
    kraft = {"broker.session.timeout.ms": str(session_ms)}
    clusters: list[Cluster] = []
    if "ottla" in systems:
        clusters.append(OttlaOnZooKeeper(timeouts, servers=3))
    if "kafka" in systems:
        clusters.append(ApacheKafkaCluster(kraft))
    if "kafka39" in systems:
        clusters.append(OldKafkaCluster(timeouts))
    lock = threading.Lock()

    def measure(cluster: Cluster) -> None:
        with cluster:
            cluster.create_topic(TOPIC, PARTITIONS)
            mine = [
                row for row in load(path) if (row.how, row.session_ms, row.system) == (how, session_ms, cluster.name)
            ]
            for number in range(len(mine), times):
                found = asyncio.run(without_leader(cluster, how))
                cluster.until_whole(TOPIC)
                row = Measured(
                    how=how,
                    session_ms=session_ms,
                    system=cluster.name,
                    commit=commit(),
                    number=number,
                    without_leader_s=round(found, 3),
                )
                with lock, path.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
                print(f"{cluster.name} {how} {number + 1}: {found:.2f} s", flush=True)

    path.parent.mkdir(parents=True, exist_ok=True)
    threads = [threading.Thread(target=measure, args=(cluster,)) for cluster in clusters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load(path: Path) -> list[Measured]:
    return [Measured(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[Measured]) -> str:
    lines = ["| how | session timeout | system | times | median (s) | longest (s) |", "|---|---:|---|---:|---:|---:|"]
    for how, session_ms, system in sorted({(row.how, row.session_ms, row.system) for row in rows}):
        own = [r.without_leader_s for r in rows if (r.how, r.session_ms, r.system) == (how, session_ms, system)]
        lines.append(
            f"| {how} | {session_ms / 1000:.0f} s | {system} | {len(own)} | {statistics.median(own):.2f} | {max(own):.2f} |"
        )
    return "\n".join([*lines, "", f"commits: {', '.join(dict.fromkeys(row.commit for row in rows))}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("kill", "stop"), nargs="?", default="kill")
    parser.add_argument("--session-ms", type=int, default=18_000)
    parser.add_argument("--times", type=int, default=20, help="those of the state file included")
    parser.add_argument("--systems", nargs="+", choices=("ottla", "kafka", "kafka39"), default=["ottla", "kafka"])
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--table", action="store_true", help="print what has been measured, measure nothing")
    asked = parser.parse_args()
    if not asked.table:
        run(asked.how, asked.session_ms, asked.times, asked.state, asked.systems)
    print(table(load(asked.state)))


if __name__ == "__main__":
    main()
