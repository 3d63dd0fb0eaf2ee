"""The real machine, as a broker's surroundings: clock, threads, disk, dice, sockets. A rim module."""

from __future__ import annotations

import random
import threading

from ottla.broker.broker import Surroundings
from ottla.clock import SystemClock
from ottla.cluster.trees.local import LocalTree
from ottla.offload import Offload, ThreadOffload
from ottla.storage.files import OsFiles

#: Threads that wait for disks. A slow one may hold several; heartbeats and requests to other disks need none.
WORKERS = 8


def machine(offload: Offload | None = None) -> Surroundings:
    """Return the surroundings of a broker that runs for real."""
    off_the_loop = offload or ThreadOffload(WORKERS)

    async def open_tree(path: str) -> LocalTree:
        tree = LocalTree(path, off_the_loop)
        await tree.open()
        return tree

    return Surroundings(
        clock=SystemClock(),
        offload=off_the_loop,
        files=OsFiles(),
        random=random.Random(),
        lock_factory=threading.RLock,
        open_tree=open_tree,
    )
