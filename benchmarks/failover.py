"""How long a cluster is without its controller, and partitions are without a leader, after kill -9: median and longest.

    python benchmarks/failover.py up --kills 20                   three brokers of one machine under a supervisor
    python benchmarks/failover.py zookeeper --kills 20 --session-ms 6000
                                                                  three brokers on a ZooKeeper ensemble (see CONTRIBUTING.md)

The controller is killed each time. `controller`: until all others name another one. `served`: until each partition of a topic
with one replica per partition is led again, as another broker says; the killed broker has to be started again for that, which
the supervisor does by itself, and this program does as soon as there is another controller.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.cli.test_supervisor import SupervisorProcess, create
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.ports import free_port
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.errors import KafkaError
from ottla.network.channel import Channel, ChannelSettings
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse

#: Kills the broker of a number; starts it again, unless that happens by itself.
Kill = Callable[[int], None]
Restart = Callable[[int], None]


@contextlib.contextmanager
def under_a_supervisor() -> Iterator[tuple[dict[int, int], Kill, Restart]]:
    directory, port = Path(tempfile.mkdtemp(prefix="ottla-up-")), free_port(neighbours=2)
    up = SupervisorProcess(directory, "cluster", "up", "--port", str(port)).start()

    def kill(number: int) -> None:
        pid = up.brokers()[number]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    try:
        yield {number: port + number - 1 for number in (1, 2, 3)}, kill, lambda _number: None
    finally:
        up.close()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def on_zookeeper(session_ms: int) -> Iterator[tuple[dict[int, int], Kill, Restart]]:
    ensemble = ZooKeeperEnsemble(3)
    try:
        ensemble.start()
        settings = {"zookeeper.session.timeout.ms": str(session_ms)}
        with EnsembleBrokers(f"{','.join(ensemble.servers)}/failover", settings=settings) as brokers:
            ports = {number: broker.port for number, broker in brokers.brokers.items()}
            yield ports, lambda number: brokers[number].kill(), lambda number: brokers[number].start(timeout_s=60)
    finally:
        ensemble.stop()


async def controller_of(port: int) -> int:
    """Return who the controller is, as one broker knows; -1 if nobody."""
    try:
        channel = await Channel.open("127.0.0.1", port, ChannelSettings(connect_timeout_s=1))
        try:
            return (await channel.ask(DescribeClusterRequest(), DescribeClusterResponse, timeout_s=1)).controller_id
        finally:
            channel.close()
    except KafkaError:
        return -1


async def until_replaced(ports: dict[int, int], gone: int) -> None:
    others = [port for number, port in ports.items() if number != gone]
    for port in others:
        while await controller_of(port) in (gone, -1):  # noqa: ASYNC110 - it is polled
            await asyncio.sleep(0.02)


async def until_led(ports: dict[int, int], gone: int) -> None:
    """Wait until another broker has seen the one that was killed go and come back, and all partitions have leaders."""
    other = next(port for number, port in ports.items() if number != gone)
    channel = await Channel.open("127.0.0.1", other, ChannelSettings())
    try:
        was_away = False
        while True:
            found = await channel.ask(MetadataRequest(topics=None), MetadataResponse, timeout_s=10)
            here = {broker.node_id for broker in found.brokers}
            was_away = was_away or gone not in here
            if was_away and all(p.leader_id in here for topic in found.topics for p in topic.partitions):
                return
            await asyncio.sleep(0.01)
    finally:
        channel.close()


def measure(ports: dict[int, int], kill: Kill, restart: Restart, kills: int, *, waits: bool) -> None:
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports.values())
    create(addresses, "t", 6)
    without, unserved = [], []
    for number in range(kills):
        gone = asyncio.run(controller_of(next(iter(ports.values()))))
        began = time.monotonic()
        kill(gone)
        if waits:
            asyncio.run(until_replaced(ports, gone))
            without.append(time.monotonic() - began)
        led = threading.Thread(target=asyncio.run, args=(until_led(ports, gone),))
        led.start()
        restart(gone)
        led.join()
        unserved.append(time.monotonic() - began)
        shown = [round(found[-1], 2) for found in (without, unserved) if found]
        print(f"kill {number + 1} of broker {gone}: {shown}", flush=True)
        asyncio.run(until_settled(ports))
    for name, found in (("controller", without), ("served", unserved)):
        if found:
            print(f"{name}: median {statistics.median(found):.2f} s, longest {max(found):.2f} s, of {len(found)}")


async def until_settled(ports: dict[int, int]) -> None:
    while len({await controller_of(port) for port in ports.values()} - {-1}) != 1:  # noqa: ASYNC110 - it is polled
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=("up", "zookeeper"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--session-ms", type=int, default=18_000)
    given = parser.parse_args()
    place = under_a_supervisor() if given.where == "up" else on_zookeeper(given.session_ms)
    with place as (ports, kill, restart):
        measure(ports, kill, restart, given.kills, waits=given.where == "zookeeper")


if __name__ == "__main__":
    main()
