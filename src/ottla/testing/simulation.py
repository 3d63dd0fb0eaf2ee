"""A whole broker in virtual time, on a simulated disk, that can be killed, cut off from power and started again.

    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **{"log.flush.interval.messages": 1})
        await node.start()
        client = await node.connect()
        ...
        node.power_cut()
        await node.start()

    run_virtual(seed, scenario)

The broker is the real one: only clock, disk, threads, randomness, sockets and the coordination tree's file are simulated.
The tree is kept in memory and survives everything, as a file synced at each change does. Several such brokers on one
ensemble are a `simulated_cluster`.
"""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections import Counter
from typing import cast

from ottla.broker.broker import Broker
from ottla.broker.config import BrokerConfig
from ottla.broker.wiring.surroundings import Surroundings
from ottla.cluster.trees.memory import MemoryStore, MemoryTree
from ottla.config import broker_key
from ottla.offload import InlineOffload, Offload
from ottla.testing.memory_files import MemoryFiles
from ottla.testing.simulated_ensemble import SimulatedEnsemble
from ottla.testing.simulated_tree import SimulatedTree
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop
from ottla.testing.virtual_offload import VirtualLock, VirtualOffload
from ottla.testing.virtual_server import VirtualServer
from ottla.testing.wire import WireClient

HOST, PORT = "127.0.0.1", 9092
#: How often a write to a slow disk takes long, and how long at most.
HESITATION_CHANCE, HESITATION_SECONDS = 0.003, 0.1
#: What goes on while writes fail.
READS = ("listdir", "open", "pread", "read_bytes")


def escaped(value: str) -> str:
    """Return a value as it stands in a properties file."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


class SimulatedBroker:
    """One broker's machine: a disk that stays, and processes that come and go on it.

    Args:
        loop: the virtual loop; its seed decides everything.
        settings: broker configuration in Kafka's spelling.

    Attributes:
        slow_disk: whether from the next start on what leaves the loop (fsyncs, retention, compaction, reads of what is
            not in memory) takes virtual time, so that others run in between; now and then a write does, on the
            loop or off it, so that writes leave the loop for a while; and the lock of a log is found held.
        happened: what happened how often on this machine.
    """

    def __init__(self, loop: VirtualLoop, **settings: object) -> None:
        self.loop = loop
        self.host: str = HOST
        self.clock: VirtualClock = VirtualClock(loop)
        self.files: MemoryFiles = MemoryFiles(self.clock.wall_ms)
        self.broker: Broker | None = None
        self._settings = {"log.dirs": "data", "listeners": f"PLAINTEXT://{HOST}:{PORT}", **settings}
        self._store = MemoryStore()
        self._shares_tree = False
        self._ensemble: SimulatedEnsemble | None = None
        self._tree: MemoryTree | SimulatedTree | None = None
        self._life = 0
        self._boots = 0
        self._lives = 0
        self.slow_disk = False
        self.happened: Counter[str] = Counter()
        self._disk_goes_on = asyncio.Event()
        self._disk_goes_on.set()

    def at(self, host: str) -> SimulatedBroker:
        """Be another machine than the one that clients of the simulation run on."""
        self.host = host
        self._settings["listeners"] = f"PLAINTEXT://{host}:{PORT}"
        return self

    def join(self, store: MemoryStore) -> SimulatedBroker:
        """From the next start on use a coordination tree that other brokers use, too."""
        self._store, self._shares_tree = store, True
        return self

    def join_ensemble(self, ensemble: SimulatedEnsemble) -> SimulatedBroker:
        """From the next start on use a simulated ensemble, which errs as a real one does."""
        self._ensemble, self._shares_tree = ensemble, True
        return self

    @property
    def is_running(self) -> bool:
        return self.broker is not None

    @property
    def tree(self) -> SimulatedTree:
        """The session of the running process with the ensemble."""
        assert isinstance(self._tree, SimulatedTree)
        return self._tree

    async def start(self) -> Broker:
        """Start a process on this machine; what the last one left on the disk is what it finds."""
        assert self.broker is None, "it runs already"

        async def open_tree(_path: str) -> MemoryTree | SimulatedTree:
            ensemble = self._ensemble
            self._tree = self._store.session() if ensemble is None else await ensemble.connect()
            return self._tree

        self.files.hesitate = self._hesitate if self.slow_disk else lambda: None
        secret = {key for key in self._settings if (row := broker_key(key)) is not None and row.is_sensitive}
        overrides = [f"{key}={value}" for key, value in self._settings.items() if key not in secret]
        properties = "\n".join(f"{key}={escaped(str(self._settings[key]))}" for key in sorted(secret))
        self._lives += 1
        secrets = random.Random(f"secrets of {self.loop.seed}, life {self._lives}")
        broker = Broker(
            BrokerConfig.from_sources(properties=properties, overrides=overrides),
            Surroundings(
                clock=self.clock,
                offload=self._offload(),
                make_lock=self._make_lock if self.slow_disk else threading.RLock,
                files=self.files,
                random=random.Random(self.loop.random.random()),
                secret_bytes=secrets.randbytes,
                open_tree=open_tree,
                make_server=VirtualServer,
                shared_tree=self._shares_tree,
                page_cache=lambda _directories: f"{self.host}, boot {self._boots}" if self._shares_tree else "",
            ),
        )
        self.broker = broker
        try:
            await self._begin(broker)
        except BaseException:
            self._forget()
            raise
        return broker

    async def _begin(self, broker: Broker) -> None:
        def note_life(life: int) -> None:
            self._life = life

        await self.loop.begin_life(broker.start, self.host, note_life)

    def _offload(self) -> Offload:
        if not self.slow_disk:
            return InlineOffload()

        async def goes_on() -> None:
            await self._disk_goes_on.wait()

        return VirtualOffload(random.Random(self.loop.random.random()), goes_on)

    def _make_lock(self) -> threading.RLock:
        def note() -> None:
            self.happened["log held by a thread"] += 1

        lock = VirtualLock(random.Random(self.loop.random.random()), self.loop.time, note)
        return cast("threading.RLock", lock)

    def fill_disk(self, left: int) -> None:
        """Leave room for so many bytes."""

        def note(operation: str) -> None:
            self.happened[f"ENOSPC at {operation}"] += 1

        self.files.capacity = self.files.used + left
        self.files.on_full = note

    def make_room(self) -> None:
        """The disk has room again."""
        self.files.capacity = 1 << 62

    def fail_disk(self, *, is_full: bool = False) -> None:
        """From now on every write and every sync fails with EIO; with `is_full` only syncs do, with ENOSPC."""
        code = errno.ENOSPC if is_full else errno.EIO
        name = errno.errorcode[code]

        def fail(operation: str, path: str) -> None:
            if operation.startswith("sync") if is_full else operation not in READS:
                self.happened[f"{name} at {operation}"] += 1
                raise OSError(code, "the simulated disk has failed", path)

        self.files.fail = fail

    def repair_disk(self) -> None:
        """Another process finds a disk that works."""
        self.files.fail = None

    def hang_disk(self) -> None:
        """From now on nothing that leaves the loop ends (of a broker that was started with `slow_disk`)."""
        self._disk_goes_on.clear()

    def free_disk(self) -> None:
        """The disk goes on."""
        self._disk_goes_on.set()

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): nothing of it runs until `thaw`."""
        self.loop.freeze(self._life)
        if isinstance(self._tree, SimulatedTree):
            self._tree.swallow()

    def thaw(self) -> None:
        """Let the process go on (SIGCONT)."""
        self.loop.thaw(self._life)
        if isinstance(self._tree, SimulatedTree):
            self._tree.let_through()

    def _hesitate(self) -> None:
        if self.loop.random.random() < HESITATION_CHANCE:
            self.loop.advance(self.loop.random.random() * HESITATION_SECONDS)

    async def stop(self) -> None:
        """End the process cleanly."""
        broker = self.broker
        assert broker is not None
        await broker.stop()
        self.loop.end_life(self._life)
        self._forget()

    def kill(self) -> None:
        """End the process at once; the page cache survives."""
        self.files.kill()
        self._die()

    def power_cut(self) -> None:
        """End the process at once; what was not synced may be lost."""
        self.files.power_cut(self.loop.random)
        self._boots += 1
        self._die()

    def _die(self) -> None:
        self.loop.end_life(self._life)
        self._forget()

    def _forget(self) -> None:
        self.broker = None
        tree, self._tree = self._tree, None
        if isinstance(tree, SimulatedTree):
            tree.vanish()
        elif tree is not None:
            tree.expire()

    async def connect(self, client_id: str = "simulated", port: int = PORT) -> WireClient:
        """Open a connection.

        Raises:
            ConnectionRefusedError: no process serves at the moment.
        """
        return await WireClient.connect(self.host, port, client_id)
