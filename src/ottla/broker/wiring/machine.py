"""The real machine, as a broker's surroundings: clock, threads, disk, randomness, sockets. A rim module."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ottla.broker.wiring.surroundings import Surroundings
from ottla.clock import SystemClock
from ottla.cluster.trees.local import LocalTree
from ottla.cluster.trees.served import ServedTree
from ottla.config import ConfigError
from ottla.observability.process import raise_descriptor_limit
from ottla.offload import Offload, ThreadOffload
from ottla.storage.files import OsFiles
from ottla.watchdog import watch_loop

if TYPE_CHECKING:
    from ottla.cluster.tree import Tree
    from ottla.cluster.trees.zookeeper_options import ZooKeeperOptions

#: Threads that wait for one disk, for the coordination tree, or do anything else that is long. Each of these has its own:
#: a disk that hangs holds its own threads and no others.
WORKERS = 8
#: Of a broker whose tree a supervisor serves. That its process has ended is seen at once.
SERVED_TIMEOUT_MS = 18_000


def machine(
    zookeeper: ZooKeeperOptions | None = None, tree_socket: str | None = None, offload: Offload | None = None
) -> Surroundings:
    """Return the surroundings of a broker that runs for real.

    Args:
        zookeeper: the ensemble that holds the coordination tree.
        tree_socket: the socket on which a supervisor of this machine serves it. With neither it is a file in the first log
            directory.

    Raises:
        ConfigError: what ZooKeeper is spoken to with is not installed.
    """
    off_the_loop = offload or ThreadOffload(WORKERS)
    tree_threads = off_the_loop.share("tree")

    async def open_file(path: str) -> Tree:
        tree = LocalTree(path, tree_threads)
        await tree.open()
        return tree

    async def open_served(_path: str) -> Tree:
        assert tree_socket is not None
        tree = ServedTree(tree_socket, session_timeout_ms=SERVED_TIMEOUT_MS, connection_timeout_ms=SERVED_TIMEOUT_MS)
        await tree.open()
        return tree

    open_tree: Callable[[str], Awaitable[Tree]] = open_file
    if zookeeper is not None:
        open_tree = sessions_with(zookeeper, tree_threads)
    elif tree_socket is not None:
        open_tree = open_served
    host_name = socket.gethostname()
    return Surroundings(
        clock=SystemClock(),
        offload=off_the_loop,
        files=OsFiles(),
        random=random.Random(),
        secret_bytes=os.urandom,
        open_tree=open_tree,
        host_names=(host_name,),
        canonical_host_name=socket.getfqdn,
        machine=machine_name(host_name),
        descriptor_limit=raise_descriptor_limit(),
        page_cache=page_cache,
        shared_tree=open_tree is not open_file,
        is_one_machine=tree_socket is not None,
        watch_loop=watch_loop,
    )


def sessions_with(zookeeper: ZooKeeperOptions, threads: Offload) -> Callable[[str], Awaitable[Tree]]:
    try:
        from ottla.cluster.trees.zookeeper import ZooKeeperTree  # 55 ms
    except ImportError as error:
        raise ConfigError(
            f"zookeeper.connect needs the package {error.name}, which is not installed: pip install 'ottla[zookeeper]'"
        ) from error

    async def open_session(_path: str) -> Tree:
        tree = ZooKeeperTree(zookeeper, threads)
        await tree.open()
        return tree

    return open_session


def machine_name(host_name: str) -> str:
    """Return a text that only processes have that reach each other by loopback addresses: on Linux those of one network
    namespace, elsewhere those of one host."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return host_name


def page_cache(directories: Sequence[str]) -> str:
    """Return which page cache holds unsynced writes to these directories: this boot, and how each one is mounted.

    "" where the system does not say (only Linux does).
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split() for line in file]
        # Mount id and device of what is mounted deepest above each directory; a mount that covers another one comes later.
        points = [(row[4], f"{row[0]}@{row[2]}") for row in mounts]
        found = []
        for directory in sorted(directories):
            path = os.path.realpath(directory)
            above = [p for p in points if path == p[0] or path.startswith(p[0].rstrip("/") + "/")]
            found.append(max(reversed(above), key=lambda point: len(point[0]))[1])
    except (OSError, IndexError, ValueError):
        return ""
    return " ".join([boot, *found])


def bound_allocator() -> None:
    """Have the C library give large freed blocks back to the system (glibc; elsewhere nothing is done).

    glibc raises its thresholds when large blocks are freed, up to 64 MB it keeps in each thread's arena: after a few
    batches that unpack to tens of megabytes the eight threads held 330 MB of nothing (measured; 64 MB with these values).
    Blocks of ordinary requests and answers stay below the threshold and are reused as before. Takes some 4 ms, for the
    import: call it when clients are served.
    """
    import ctypes

    arena_max, trim_threshold, mmap_threshold = -8, -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(arena_max, 2)
    mallopt(mmap_threshold, 8 << 20)
    mallopt(trim_threshold, 8 << 20)
