"""What groups cost the broker: rebalances of classic groups, heartbeats and changes of consumer groups (KIP-848).

    python benchmarks/groups.py [--kafka] [--only classic|consumer] [--classic 10,30,100,300,1000] [--repeat 3]
        [--consumer 100/1,1000/1,10000/1,10000/1000] [--connections 0] [--seconds 10]

Classic groups of these sizes: the leader asks for a rebalance, the others learn of it by a heartbeat and join again,
everybody syncs; from the leader's request to the last assignment. The growth exponent is the slope between two sizes on
logarithmic scales: 1 is linear.

Consumer groups (MEMBERS/GROUPS): members join, then send heartbeats every 5 s (`group.consumer.heartbeat.interval.ms`),
evenly spread: what share of one core that costs, less what the idle broker takes. Then one member joins one group, one
leaves it, its topic gets a tenth more partitions: the processor time until every member is in the new epoch, heartbeats
of the whole group included. A topic has twice as many partitions as its group has members, but not more than 1,000.
Members have a connection each, or share `--connections`.

Figures are processor seconds of the broker (all its threads), so that a busy machine disturbs less; seconds of the clock
are told beside them, and the load. A process that wakes up for each request costs several times what it costs when it is
busy, the more so on a shared machine: `us_per_echo` is what a bare echo server of asyncio takes for as many requests at the
same pace, just after. Clients run in this process.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.brokers import ApacheKafka, Ottla, contestants, cpu_seconds, resident_bytes, running
from benchmarks.support.echo import us_per_echo
from benchmarks.support.members import ClassicSwarm, ConsumerSwarmMember, send_all, settle
from benchmarks.support.report import MIB, figures, median, table
from benchmarks.support.swarm import Swarm
from benchmarks.support.wire import Wire, first_ack

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse

INTERVAL_S = 5.0
PARTITIONS_MAX = 1_000
#: The descriptors of this process are those of the members; more would not make an echo dearer.
ECHO_CONNECTIONS_MAX = 1_000
#: Longer than `group.consumer.assignment.interval.ms`.
QUIET_S = 1.2
#: Long sessions, so that nobody is fenced where the clients get little of the machine.
SETTINGS = {
    "group.initial.rebalance.delay.ms": "1000",
    "group.consumer.max.session.timeout.ms": "600000",
    "group.consumer.session.timeout.ms": "600000",
}

Kind = type[Ottla] | type[ApacheKafka]


class Shape(NamedTuple):
    """Members and the groups they are in."""

    members: int
    groups: int

    @staticmethod
    def of(text: str) -> Shape:
        members, _, groups = text.partition("/")
        return Shape(int(members), int(groups or 1))

    @property
    def partitions(self) -> int:
        return min(2 * self.members // self.groups, PARTITIONS_MAX)

    def __str__(self) -> str:
        return f"{self.members:,} in {self.groups:,}"


class Meter:
    """Processor and clock seconds of a broker since it was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu, self._clock = cpu_seconds(pid), time.perf_counter()

    def read(self) -> tuple[float, float]:
        return cpu_seconds(self._pid) - self._cpu, time.perf_counter() - self._clock


@contextmanager
def started(kind: Kind, topics: dict[str, int]) -> Iterator[Ottla | ApacheKafka]:
    """A broker that runs and has these topics, and the topic of groups."""
    broker = kind(SETTINGS)
    with running(broker):
        broker.spawn()
        first_ack(broker.port, "probe", create=True)
        with Wire(broker.port) as wire:
            for name, partitions in topics.items():
                new = CreatableTopic(name=name, num_partitions=partitions, replication_factor=1)
                made = wire.ask(CreateTopicsRequest(topics=[new], timeout_ms=60_000), 5, CreateTopicsResponse)
                assert made.topics[0].error_code == ErrorCode.NONE, made.topics[0].error_message
            request = FindCoordinatorRequest(key_type=0, coordinator_keys=["any"])
            while wire.ask(request, 4, FindCoordinatorResponse).coordinators[0].error_code:
                time.sleep(0.2)
        time.sleep(2)  # every partition of the topic of groups is loaded, and a JVM has calmed down
        yield broker


# ---------------------------------------------------------------------- classic


def classic(kind: Kind, sizes: list[int], repeat: int) -> list[dict[str, float]]:
    """Rebalance one group of each size."""
    found = []
    with started(kind, {"classic": max(sizes)}) as broker:
        for size in sizes:
            say(f"{kind.name}: a classic group of {size:,}")
            swarm = Swarm(broker.port)
            group = ClassicSwarm(swarm, f"classic-{size}", "classic", swarm.open(size))
            group.form()
            rounds = []
            for _ in range(repeat):
                meter = Meter(broker.pid)
                group.rebalance()
                rounds.append(meter.read())
            meter = Meter(broker.pid)
            beats = max(1, 2_000 // size)
            for _ in range(beats):
                group.heartbeats()
            beat_cpu_s, _ = meter.read()
            swarm.close()
            cpu_s, clock_s = (median(column) for column in zip(*rounds, strict=True))
            found.append(
                {
                    "members": size,
                    "cpu_ms": cpu_s * 1e3,
                    "cpu_us_per_member": cpu_s / size * 1e6,
                    "clock_ms": clock_s * 1e3,
                    "us_per_heartbeat": beat_cpu_s / (beats * size) * 1e6,
                }
            )
    for before, after in zip([None, *found], found, strict=False):
        after["exponent"] = math.nan if before is None else exponent(before, after, "cpu_ms")
        after["clock_exponent"] = math.nan if before is None else exponent(before, after, "clock_ms")
    return found


def exponent(before: dict[str, float], after: dict[str, float], what: str) -> float:
    """The slope on logarithmic scales."""
    return math.log(after[what] / before[what]) / math.log(after["members"] / before["members"])


# --------------------------------------------------------------------- consumer


def consumer(kind: Kind, shape: Shape, connections: int, seconds: float) -> dict[str, object]:
    """Join, beat, change."""
    say(f"{kind.name}: {shape} consumer groups")
    with started(kind, {"topic": shape.partitions}) as broker:
        swarm = Swarm(broker.port)
        lines = swarm.open(connections or shape.members)
        members = [
            ConsumerSwarmMember(swarm, f"group-{number % shape.groups}", "topic", lines[number % len(lines)])
            for number in range(shape.members)
        ]
        time.sleep(1)
        rss_before = resident_bytes(broker.pid)
        idle = Meter(broker.pid)
        time.sleep(3)
        cpu_s, clock_s = idle.read()
        idle_share = cpu_s / clock_s

        joined = Meter(broker.pid)
        send_all(swarm, [member.join for member in members])
        join_cpu_s, join_clock_s = joined.read()
        settle(swarm, members, QUIET_S)
        settled_cpu_s, _ = joined.read()
        rss = resident_bytes(broker.pid)

        gc.collect()
        gc.freeze()
        swarm.pace([member.beat for member in members], INTERVAL_S)
        rounds = max(1, round(seconds / INTERVAL_S))
        steady = Meter(broker.pid)
        for _ in range(rounds):
            swarm.pace([member.beat for member in members], INTERVAL_S)
        steady_cpu_s, steady_clock_s = steady.read()
        assert not any(member.has_news for member in members), "a steady group had news"
        share = steady_cpu_s / steady_clock_s - idle_share
        found: dict[str, object] = {
            "members": str(shape),
            "connections": len(lines),
            "idle_percent": idle_share * 100,
            "steady_percent": share * 100,
            "us_per_heartbeat": share * steady_clock_s / (rounds * shape.members) * 1e6,
            "us_per_echo": us_per_echo(min(len(lines), ECHO_CONNECTIONS_MAX), shape.members),
            "rss_mib": rss / MIB,
            "kib_per_member": (rss - rss_before) / shape.members / 1024,
            "join_us_each": join_cpu_s / shape.members * 1e6,
            "join_clock_s": join_clock_s,
            "settled_us_each": settled_cpu_s / shape.members * 1e6,
        }

        group = [member for member in members if member.group_id == "group-0"]
        new = ConsumerSwarmMember(swarm, "group-0", "topic", lines[0])
        changes: dict[str, Callable[[], None]] = {
            "join": new.join,
            "leave": new.leave,
            "grow": functools.partial(grow, broker.port, "topic", shape.partitions + max(1, shape.partitions // 10)),
        }
        for name, trigger in changes.items():
            concerned = members if name == "grow" else [*group, new] if name == "join" else group
            trigger_ms, cpu_s, beats = change(swarm, broker.pid, concerned, trigger)
            found |= {f"{name}_trigger_ms": trigger_ms, f"{name}_cpu_s": cpu_s, f"{name}_heartbeats": beats}
        swarm.close()
        return found


def change(
    swarm: Swarm, pid: int, members: list[ConsumerSwarmMember], trigger: Callable[[], None]
) -> tuple[float, float, int]:
    """Have something happen to groups; ms of the trigger, seconds of all and heartbeats until everybody has followed."""
    time.sleep(QUIET_S)
    epochs = {member.group_id: 0 for member in members}
    for member in members:
        epochs[member.group_id] = max(epochs[member.group_id], member.epoch)
    meter = Meter(pid)
    trigger()
    swarm.wait()
    trigger_cpu_s, _ = meter.read()
    beats = len(members)
    swarm.pace([member.beat for member in members], INTERVAL_S)
    swarm.wait()
    while late := [member for member in members if member.epoch <= epochs[member.group_id] or member.has_news]:
        send_all(swarm, [member.beat for member in late])
        beats += len(late)
    return trigger_cpu_s * 1e3, meter.read()[0], beats


def grow(port: int, topic: str, partitions: int) -> None:
    """Add partitions."""
    with Wire(port) as wire:
        wanted = CreatePartitionsTopic(name=topic, count=partitions, assignments=None)
        request = CreatePartitionsRequest(topics=[wanted], timeout_ms=60_000)
        done = wire.ask(request, 2, CreatePartitionsResponse)
        assert done.results[0].error_code == ErrorCode.NONE, done.results[0].error_message


# ------------------------------------------------------------------------- main


def say(what: str) -> None:
    """Tell, on standard error, what is being measured."""
    print(what, file=sys.stderr, flush=True)


def show_classic(results: dict[str, list[dict[str, float]]]) -> None:
    columns = ["members", "cpu_ms", "cpu_us_per_member", "exponent", "clock_ms", "clock_exponent", "us_per_heartbeat"]
    rows: list[list[object]] = [
        [name, *(row[column] for column in columns)] for name, found in results.items() for row in found
    ]
    table(
        "Classic groups: one rebalance, from the leader's JoinGroup to the last assignment", ["broker", *columns], rows
    )


def show_consumer(results: dict[str, list[dict[str, object]]]) -> None:
    first = ["idle_percent", "steady_percent", "us_per_heartbeat", "us_per_echo", "rss_mib", "kib_per_member"]
    second = ["join_us_each", "settled_us_each", "join_clock_s"]
    third = [f"{name}_{what}" for name in ("join", "leave", "grow") for what in ("trigger_ms", "cpu_s", "heartbeats")]
    for title, columns in (
        ("Consumer groups: a heartbeat of each member every 5 s, share of one core", first),
        ("Consumer groups: everybody joins", second),
        ("Consumer groups: something happens to one group (grow: to the topic of all groups)", third),
    ):
        columns = ["members", "connections", *columns]
        rows: list[list[object]] = [
            [name, *(row[column] for column in columns)] for name, found in results.items() for row in found
        ]
        table(title, ["broker", *columns], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka too")
    parser.add_argument("--only", choices=("classic", "consumer"))
    parser.add_argument("--classic", default="10,30,100,300,1000", help="sizes of classic groups")
    parser.add_argument("--repeat", type=int, default=3, help="rebalances of each; the median counts")
    parser.add_argument("--consumer", default="100/1,1000/1,10000/1,10000/1000", help="MEMBERS/GROUPS")
    parser.add_argument("--connections", type=int, default=0, help="of all members together; 0: one each")
    parser.add_argument("--seconds", type=float, default=10, help="how long heartbeats are measured")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    kinds = contestants(alone=not options.kafka)
    load = os.getloadavg()[0]
    measured: dict[str, object] = {"load_before": load}
    print(f"load of the machine before: {load:.2f} on {os.cpu_count()} cores")
    if options.only != "consumer":
        sizes = [int(size) for size in options.classic.split(",")]
        by_classic = {kind.version(): classic(kind, sizes, options.repeat) for kind in kinds}
        show_classic(by_classic)
        measured["classic"] = by_classic
    if options.only != "classic":
        shapes = [Shape.of(text) for text in options.consumer.split(",")]
        by_consumer = {
            kind.version(): [consumer(kind, shape, options.connections, options.seconds) for shape in shapes]
            for kind in kinds
        }
        show_consumer(by_consumer)
        measured["consumer"] = by_consumer
    figures("groups", measured)


if __name__ == "__main__":
    main()
