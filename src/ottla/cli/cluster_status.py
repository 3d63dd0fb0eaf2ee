"""`ottla cluster status`: which brokers there are, what each leads and holds, and what is wrong.

Asks one broker over the wire and prints a table, or JSON. Ends with 1 if a partition has no leader.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ottla.cli.terminal import Parser, complain, say

if TYPE_CHECKING:
    from ottla.protocol.messages.describe_cluster import DescribeClusterResponse
    from ottla.protocol.messages.metadata import MetadataResponse

DESCRIPTION = """Show the brokers of a cluster, what each leads and holds, and partitions that lack a leader or replicas.

  ottla cluster status
  ottla cluster status --bootstrap-server kafka1.example.com:9092 --json

The listener must be a plain one. Ends with 1 if a partition has no leader, its leader does not answer, or no broker does."""

#: How long a broker may take to take a connection.
CONNECT_SECONDS = 3.0
#: So many partitions are named; the others are counted.
NAMED_MAX = 20


@dataclass(slots=True)
class BrokerRow:
    """One broker: where it is, of how many partitions it is the leader, holds a replica, and is out of sync."""

    node_id: int
    address: str
    rack: str | None
    leads: int = 0
    replicas: int = 0
    out_of_sync: int = 0


@dataclass(slots=True)
class ClusterStatus:
    """What is known of a cluster. Partitions are "topic-index".

    `silent_brokers` are registered and take no connections: one that has just died is registered until its session ends.
    """

    cluster_id: str
    controller_id: int
    brokers: list[BrokerRow]
    topics: int = 0
    partitions: int = 0
    without_leader: list[str] = field(default_factory=list)
    under_replicated: list[str] = field(default_factory=list)
    missing_brokers: list[int] = field(default_factory=list)
    silent_brokers: list[int] = field(default_factory=list)


def parser() -> argparse.ArgumentParser:
    """The options of `ottla cluster status`."""
    made = Parser(
        prog="ottla cluster status",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "-b",
        "--bootstrap-server",
        metavar="HOST:PORT",
        help="any broker (default: the first of KAFKA_BOOTSTRAP_SERVERS, or localhost:9092)",
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def main(arguments: Sequence[str]) -> int:
    """Print the status; return the exit code."""
    try:
        given = parser().parse_args(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    named = "--bootstrap-server" if given.bootstrap_server is not None else "KAFKA_BOOTSTRAP_SERVERS"
    server = given.bootstrap_server or os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "").split(",")[0] or "localhost:9092"
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal():
        return complain(f"{named} must be HOST:PORT, but it is {server!r}", 2)
    from ottla.errors import KafkaError, RemoteProtocolError

    try:
        status = asyncio.run(ask(host.strip("[]"), int(port)))
    except (KafkaError, RemoteProtocolError) as error:
        return complain(str(error), 1)
    for line in [json.dumps(as_json(status))] if given.json else table(status):
        say(line)
    return 1 if status.without_leader or any(row.leads for row in status.brokers if _is_silent(status, row)) else 0


def _is_silent(status: ClusterStatus, row: BrokerRow) -> bool:
    return row.node_id in status.silent_brokers


async def ask(host: str, port: int) -> ClusterStatus:
    """Ask a broker.

    Raises:
        KafkaError, RemoteProtocolError: it cannot be reached, or answers with an error.
    """
    from ottla.network.channel import Channel, ChannelSettings
    from ottla.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
    from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse

    channel = await Channel.open(host, port, ChannelSettings(client_id="ottla-cluster-status"))
    try:
        cluster = await channel.ask(DescribeClusterRequest(), DescribeClusterResponse)
        metadata = await channel.ask(MetadataRequest(topics=None, allow_auto_topic_creation=False), MetadataResponse)
    finally:
        channel.close()
    status = status_of(cluster, metadata)
    answers = await asyncio.gather(*(_answers(broker.host, broker.port) for broker in cluster.brokers))
    status.silent_brokers = sorted(
        broker.broker_id for broker, answer in zip(cluster.brokers, answers, strict=True) if not answer
    )
    return status


async def _answers(host: str, port: int) -> bool:
    """Return whether something takes connections there."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def status_of(cluster: DescribeClusterResponse, metadata: MetadataResponse) -> ClusterStatus:
    """Return what two answers say together."""
    rows = {
        broker.broker_id: BrokerRow(broker.broker_id, f"{broker.host}:{broker.port}", broker.rack)
        for broker in cluster.brokers
    }
    status = ClusterStatus(cluster.cluster_id, cluster.controller_id, [rows[node_id] for node_id in sorted(rows)])
    missing: set[int] = set()
    for topic in sorted(metadata.topics, key=lambda topic: topic.name or ""):
        status.topics += 1
        for partition in topic.partitions:
            name = f"{topic.name}-{partition.partition_index}"
            status.partitions += 1
            if partition.leader_id in rows:
                rows[partition.leader_id].leads += 1
            else:
                status.without_leader.append(name)
            lacking = [n for n in partition.replica_nodes if n not in partition.isr_nodes or n not in rows]
            if lacking:
                status.under_replicated.append(name)
            for node_id in partition.replica_nodes:
                if node_id in rows:
                    rows[node_id].replicas += 1
                    rows[node_id].out_of_sync += node_id in lacking
                else:
                    missing.add(node_id)
    status.missing_brokers = sorted(missing)
    return status


def table(status: ClusterStatus) -> list[str]:
    """Return the lines for a terminal."""
    rows = [("broker", "address", "rack", "leads", "replicas", "out of sync")]
    rows += [
        (
            f"{row.node_id}{' (controller)' if row.node_id == status.controller_id else ''}",
            row.address,
            row.rack or "-",
            str(row.leads),
            str(row.replicas),
            str(row.out_of_sync),
        )
        for row in status.brokers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"cluster {status.cluster_id}: {len(status.brokers)} brokers, {status.topics} topics, {status.partitions} partitions",
        "",
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        "",
    ]
    lines += [
        f"broker {row.node_id} does not answer at {row.address}, and leads {row.leads} partitions: it may have died, "
        "or cannot be reached from here"
        for row in status.brokers
        if _is_silent(status, row)
    ]
    if status.missing_brokers:
        lines.append(f"away, and holding replicas: broker {', '.join(map(str, status.missing_brokers))}")
    for sentence, names in (("without a leader", status.without_leader), ("under-replicated", status.under_replicated)):
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        lines.append(f"{sentence}: {', '.join(names[:NAMED_MAX]) + more if names else 'none'}")
    return lines


def as_json(status: ClusterStatus) -> dict[str, Any]:
    """Return everything, for programs."""
    from dataclasses import asdict

    return asdict(status)
