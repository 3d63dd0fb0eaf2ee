"""A cluster on machines of its own, under load: who does what in it, and how it is mended after a fault.

Needs root, Linux and Java; see `tests.campaigns.faults`.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from tests.campaigns.disks import BreakableDisk
from tests.campaigns.load import GROUP, Load
from tests.campaigns.network import Network
from tests.campaigns.systems import ADDRESSES, BROKERS, PORT, SYSTEMS, System
from tests.campaigns.transactors import Transactors

from ottla.errors import KafkaError
from ottla.network.channel import Channel, ChannelSettings
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse

WHOLE_TIMEOUT_S = 180.0


class Arena:
    """A cluster on machines of its own, its load, and what can be broken."""

    def __init__(self, system: str, seed: int, *, synced: bool) -> None:
        self.dice = random.Random(seed)
        self.directory = Path(tempfile.mkdtemp(prefix="campaign-"))
        self.network = Network(f"ot{os.getpid()}", ADDRESSES)
        self.disks = {}
        settings = {"log.flush.interval.messages": "1"} if synced else {}
        try:
            self.disks = {n: BreakableDisk(self.directory / f"disk{n}") for n in BROKERS}
            self.network.open()
            self.network.enter("clients")
            paths = {n: disk.path for n, disk in self.disks.items()}
            self.system: System = SYSTEMS[system](self.network, self.directory, paths, settings)
        except BaseException:
            self.close()
            raise
        self.synced = synced
        #: How often each broker has ended by itself.
        self.ended: Counter[int] = Counter()
        self.load = Load(self.system.bootstrap, self.directory)
        self.transactors = Transactors(self.system.bootstrap, seed)

    def close(self) -> None:
        if hasattr(self, "system"):
            self.system.close()
        self.network.close()
        for disk in self.disks.values():
            disk.close()
        if not os.environ.get("CAMPAIGN_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- who is who

    def victim(self, role: str) -> int:
        """Return a broker by what it does: for the partition c-0, the cluster, or the group of VerifiableConsumer."""
        found = None
        try:
            if role in ("leader", "follower"):
                partition = self._partitions()["c", 0]
                leader, isr = partition
                found = leader if role == "leader" else self.dice.choice([n for n in isr if n != leader] or [leader])
            else:
                found = asyncio.run(self._ask(role))
        except (KafkaException, KafkaError, KeyError, TimeoutError):
            pass
        return found if found in BROKERS else self.dice.choice(BROKERS)

    async def _ask(self, role: str) -> int:
        channel = await Channel.open(ADDRESSES["b1"], PORT, ChannelSettings(connect_timeout_s=5))
        try:
            if role == "controller":
                answer = await channel.ask(DescribeClusterRequest(), DescribeClusterResponse, timeout_s=5)
                return answer.controller_id
            request = FindCoordinatorRequest(key_type=0, coordinator_keys=[GROUP])
            found = await channel.ask(request, FindCoordinatorResponse, timeout_s=5)
            return found.coordinators[0].node_id
        finally:
            channel.close()

    def _partitions(self) -> dict[tuple[str, int], tuple[int, list[int]]]:
        client = AdminClient({"bootstrap.servers": self.system.bootstrap, "log_level": 0, "socket.timeout.ms": 5_000})
        topics = client.list_topics(timeout=5).topics
        return {
            (name, index): (partition.leader, list(partition.isrs))
            for name, topic in topics.items()
            for index, partition in topic.partitions.items()
        }

    # -- what must come back

    def until_whole(self) -> float:
        """Wait until all replicas are in sync and all partitions take records; return how long that took.

        Raises:
            TimeoutError: it does not come back.
        """
        began = time.monotonic()
        while True:
            self._start_what_ended()
            try:
                found = self._partitions()
                ours = [found[place] for place in self.load.places]
                everyone = [*ours, *(row for (name, _), row in found.items() if name.startswith("__"))]
                if all(leader in isr and len(isr) == len(BROKERS) for leader, isr in everyone):
                    break
            except (KafkaException, KeyError):
                pass
            if time.monotonic() - began > WHOLE_TIMEOUT_S:
                raise TimeoutError(f"not whole after {WHOLE_TIMEOUT_S} s")
            time.sleep(0.2)
        healthy = time.monotonic()
        while any(self.load.ledger.last_acknowledged.get(place, 0) < healthy for place in self.load.places):
            if time.monotonic() - began > WHOLE_TIMEOUT_S:
                late = [p for p in self.load.places if self.load.ledger.last_acknowledged.get(p, 0) < healthy]
                raise TimeoutError(f"whole again, but nothing is acknowledged in {late}")
            time.sleep(0.05)
        return time.monotonic() - began

    def _start_what_ended(self) -> None:
        """Do what an init system does: a broker may end by itself when it cannot start or cannot write."""
        for n, broker in self.system.brokers.items():
            if not broker.is_running:
                self.ended[n] += 1
                broker.start()
                time.sleep(1)

    # -- what is broken

    def hold(self) -> None:
        """Let it be broken for a while: shorter than a session, or longer."""
        time.sleep(self.dice.uniform(0.5, 5.0))

    def mend(self) -> None:
        """Let everything through and start whatever does not run."""
        self.network.heal()
        for n in BROKERS:
            self.system.shift_clock(n, 0)
        for process in (*self.system.servers.values(), *self.system.brokers.values()):
            process.signal(signal.SIGCONT)
            if not process.is_running:
                process.start()

    def others(self, n: int) -> list[str]:
        """Return the names of the other brokers and of the servers."""
        return [f"b{m}" for m in BROKERS if m != n] + [f"z{m}" for m in self.system.servers]
