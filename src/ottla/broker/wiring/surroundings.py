"""Everything a broker takes from outside."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ottla.network.server import Server

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from ottla.clock import Clock
    from ottla.offload import Offload
    from ottla.storage.files import Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything a broker takes from outside; the simulation passes its own.

    Attributes:
        random: for decisions that may be guessed (placement, jitter).
        secret_bytes: as many random bytes as are asked for, which no one can guess: keys, nonces, ids that are a right by
            themselves. From the system on a real machine, seeded in the simulation only.
        open_tree: opens the coordination tree, given the path of its file.
        host_names: what this machine calls itself; HTTP requests may name it.
        canonical_host_name: returns the name by which other hosts know this machine; asked for only where brokers of several
            hosts make a cluster.
        machine: a text that only brokers have that reach each other by loopback addresses; "" if it is not known.
        make_server: makes the listener.
        descriptor_limit: files and sockets this process may have open; None for no limit.
        page_cache: which page cache unsynced writes to these directories are in, by some text: the same text after the
            process was killed, another one after the machine was or the disk was mounted anew; "" if it is not known.
        shared_tree: other brokers use the tree, too: it is no file in a log directory.
        is_one_machine: all brokers of the cluster are of this machine: clients find each under the host that they used,
            unless something else is advertised.
        make_lock: makes the lock of a log.
        watch_loop: ends the process when the loop has been silent for so many seconds; returns what stops that.
    """

    clock: Clock
    offload: Offload
    files: Files
    random: random.Random
    secret_bytes: Callable[[int], bytes]
    open_tree: Callable[[str], Any]
    host_names: tuple[str, ...] = ()
    canonical_host_name: Callable[[], str] = lambda: ""
    machine: str = ""
    make_server: Callable[..., Server] = Server
    descriptor_limit: int | None = None
    page_cache: Callable[[Sequence[str]], str] = lambda directories: ""
    shared_tree: bool = False
    is_one_machine: bool = False
    make_lock: Callable[[], threading.RLock] = threading.RLock
    watch_loop: Callable[[float], Callable[[], None]] = lambda _limit_seconds: lambda: None
