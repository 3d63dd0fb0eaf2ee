"""A controller and a follower over a tree in memory, for tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from ottla.cluster.controller import Controller, ControllerSettings, prepare_tree
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import BrokerImage, ClusterImage, Endpoint, ImageDelta, PartitionImage, TopicImage
from ottla.cluster.tree import Tree
from ottla.cluster.trees.memory import MemoryStore

CLUSTER = "AAAAAAAAAAAAAAAAAAAAAA"
_SEEDS = itertools.count(7)
ENDPOINT = Endpoint("PLAINTEXT", "localhost", 9092, "PLAINTEXT")


class ManualClock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def monotonic_ms(self) -> int:
        return self.now_ms

    def boot_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def thread_waits(self) -> int:
        return 0


@dataclass
class Cluster:
    """One broker's view, running."""

    tree: Tree
    follower: MetadataFollower
    controller: Controller
    clock: ManualClock
    deltas: list[tuple[ClusterImage, ImageDelta]]

    @property
    def image(self) -> ClusterImage:
        return self.follower.image


@asynccontextmanager
async def running(
    store: MemoryStore | None = None,
    *,
    node_id: int = 1,
    static: Mapping[str, str] | None = None,
    partitions_per_multi: int = 100,
    start: bool = True,
    changes_kept: int = 1_000,
) -> AsyncIterator[Cluster]:
    """Begin a session with the store, follow it, become controller. On the way out the session ends."""
    tree = (store or MemoryStore()).session()
    await prepare_tree(tree, CLUSTER)
    follower = MetadataFollower(tree)
    deltas: list[tuple[ClusterImage, ImageDelta]] = []
    follower.subscribe(lambda image, delta: deltas.append((image, delta)))
    clock = ManualClock()
    random = Random(next(_SEEDS))
    controller = Controller(
        tree,
        follower,
        ControllerSettings(node_id=node_id, static=static or {}),
        random=random,
        secret_bytes=random.randbytes,
        clock=clock,
        partitions_per_multi=partitions_per_multi,
        changes_kept=changes_kept,
    )
    await follower.start()
    try:
        if start:
            await controller.start([ENDPOINT])
        yield Cluster(tree, follower, controller, clock, deltas)
    finally:
        await controller.stop()
        await follower.stop()
        await tree.close()


def brokers(*node_ids: int, racks: Mapping[int, str] | None = None) -> dict[int, BrokerImage]:
    """Return brokers, each registered under an epoch of its own number that continues all before."""
    return {n: BrokerImage(n, n, (ENDPOINT,), (racks or {}).get(n)) for n in node_ids}


def image_with(topics: Mapping[str, int], *node_ids: int) -> ClusterImage:
    """Return an image of brokers with topics of so many partitions, all led by the first broker."""
    nodes = node_ids or (1,)
    images = {
        name: TopicImage(
            name,
            bytes([index]) * 16,
            tuple(PartitionImage((nodes[0],), (nodes[0],), nodes[0], 0, 0) for _ in range(count)),
        )
        for index, (name, count) in enumerate(topics.items(), start=1)
    }
    return ClusterImage(
        cluster_id=CLUSTER,
        brokers=brokers(*nodes),
        topics=images,
        topic_names={topic.topic_id: name for name, topic in images.items()},
        controller_id=nodes[0],
        epoch=0,
    )
