"""A ZooKeeper ensemble in virtual time, which errs as a real one does: the servers' side.

    ensemble = SimulatedEnsemble(random.Random(seed), faults=EnsembleFaults(answer_lost=0.01))
    tree = await ensemble.connect()          # a session, see simulated_tree
    ensemble.cut_off(0)                      # this server goes on answering what it knew
    ensemble.expire(tree.session_id)

What is committed is a log of transactions. Every server applies it to a store of its own, a little later than the others or,
cut off, not at all. A session reads from one server, so it may read what is old, until it calls `sync`; its own writes are
answered when its server has them. The leader of the ensemble ends a session after a silence: as long as the session's
connection is down, or its server is cut off. Nothing here tells a client that its server is cut off: it sees CONNECTED.

All chance comes from the `random` passed in. What servers do runs in the context in which the ensemble was made, so it goes
on when the simulated process that caused it is killed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.cluster.tree import Operation, Result, TreeUnavailableError
from ottla.cluster.trees.memory import SESSION_TIMEOUT_MS, MemoryStore
from ottla.testing.simulated_tree import SimulatedTree
from ottla.testing.virtual_loop import EPOCH_MS

if TYPE_CHECKING:
    from random import Random


def wall_ms() -> int:
    """The servers' wall clock, which is right."""
    return EPOCH_MS + int(asyncio.get_running_loop().time() * 1000)


#: Between two deliveries on one way: timers of the same moment run in any order.
TICK = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleFaults:
    """How often what goes wrong, as probabilities. Nothing does unless it is given.

    Attributes:
        answer_lost: a write is made, its client sees the connection break instead of the answer.
        late_request: a write's client sees the connection break; the write is made after the reconnect.
        connection_lost: the connection breaks instead of an answer to a read or a sync.
        watch_lost: the news of a change, or of a connection that is back, does not come.
        early_end: a silence ends the session before its timeout.
        late_end: a silence ends the session only after up to three times its timeout.
        delay_seconds_max: how long a request, an answer, news or a change on its way to a server may take.
    """

    answer_lost: float = 0.0
    late_request: float = 0.0
    connection_lost: float = 0.0
    watch_lost: float = 0.0
    early_end: float = 0.0
    late_end: float = 0.0
    delay_seconds_max: float = 0.0


NO_FAULTS = EnsembleFaults()


class SimulatedEnsemble:
    """The servers, their log, and who has a session.

    Attributes:
        happened: how often each fault has happened, by its name: a simulation whose faults never happen proves nothing.
    """

    def __init__(
        self,
        random: Random,
        *,
        server_count: int = 3,
        session_timeout_ms: int = SESSION_TIMEOUT_MS,
        faults: EnsembleFaults = NO_FAULTS,
    ) -> None:
        self.random = random
        self.faults = faults
        self.session_timeout_ms = session_timeout_ms
        self.happened: dict[str, int] = {}
        self.servers: list[Server] = [Server(self, number) for number in range(server_count)]
        self._context = contextvars.copy_context()
        self._committed = MemoryStore()
        self._log: list[tuple[tuple[Operation, ...], int, int]] = []
        self._sessions: dict[int, SimulatedTree] = {}
        self._expiries: dict[int, asyncio.TimerHandle] = {}
        self._session_count = 0

    # -- what tests do

    async def connect(self) -> SimulatedTree:
        """Begin a session.

        Raises:
            TreeUnavailableError: no server serves within the session timeout.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.session_timeout_ms / 1000
        while (server := self.pick_server()) is None:
            if loop.time() > deadline:
                raise TreeUnavailableError("no server of the ensemble can be reached")
            await asyncio.sleep(0.1)
        self._session_count += 1
        tree = SimulatedTree(self, self._session_count, server)
        self._sessions[tree.session_id] = tree
        server.catch_up(len(self._log))  # a new session sees everything that was committed before it
        return tree

    def expire(self, session_id: int) -> None:
        """End a session now. Its server closes the connection when it hears of it, which one that is cut off does not."""
        timer = self._expiries.pop(session_id, None)
        if timer is not None:
            timer.cancel()
        tree = self._sessions.pop(session_id, None)
        if tree is None:
            return
        self.call_later(self.delay(), tree.on_session_closed)
        owned = self._committed.owned_deletions(session_id)
        if owned:
            self.commit(owned, 0)

    def cut_off(self, number: int, *, gives_up_after: float | None = None) -> None:
        """Cut one server off from the others: it goes on answering reads, and drops its clients when it has given up.

        Args:
            gives_up_after: seconds; by chance up to two and a half session timeouts unless given (with a tick of 500 ms and a
                session of 4 s, 9.8 s were measured of a ZooKeeper 3.9.3).
        """
        self.servers[number].is_cut = True
        self._on_touch_changed(gives_up_after)

    def heal(self) -> None:
        """Connect all servers again. What they missed they get now; a new leader gives every session a full timeout."""
        had_majority = self.has_majority
        for server in self.servers:
            server.is_cut = False
        if not had_majority:
            for session_id in list(self._expiries):
                self._expiries.pop(session_id).cancel()
                self.on_silence(self._sessions[session_id])
        self._on_touch_changed(None)
        self._replicate()

    def is_live(self, session_id: int) -> bool:
        return session_id in self._sessions

    @property
    def committed(self) -> MemoryStore:
        """What is committed, whatever the servers know of it."""
        return self._committed

    # -- what servers and sessions do

    @property
    def has_majority(self) -> bool:
        return sum(not server.is_cut for server in self.servers) * 2 > len(self.servers)

    @property
    def committed_count(self) -> int:
        return len(self._log)

    def entry(self, position: int) -> tuple[tuple[Operation, ...], int, int]:
        return self._log[position]

    def commit(self, operations: Sequence[Operation], session_id: int) -> tuple[Result, ...]:
        """Commit one transaction; raises what `Tree.multi` does. The servers hear of it later."""
        now_ms = wall_ms()
        results = self._committed.apply(operations, session_id, now_ms)
        self._log.append((tuple(operations), session_id, now_ms))
        self._replicate()
        return results

    def pick_server(self) -> Server | None:
        """Return a server that takes connections, None if there is none."""
        serving = [server for server in self.servers if server.in_touch]
        return self.random.choice(serving) if serving else None

    def on_silence(self, tree: SimulatedTree) -> None:
        """The leader hears nothing of this session any more: begin to wait for its end."""
        if tree.session_id in self._expiries or not self.is_live(tree.session_id):
            return
        factor = 1.0
        if self.chance("early_end", self.faults.early_end):
            factor = self.random.uniform(0.05, 1.0)
        elif self.chance("late_end", self.faults.late_end):
            factor = self.random.uniform(1.0, 3.0)
        self._expiries[tree.session_id] = self.call_later(
            factor * self.session_timeout_ms / 1000, self._on_expiry, tree
        )

    def on_heard(self, tree: SimulatedTree) -> None:
        """The leader hears of this session again."""
        timer = self._expiries.pop(tree.session_id, None)
        if timer is not None:
            timer.cancel()

    def _on_expiry(self, tree: SimulatedTree) -> None:
        self._expiries.pop(tree.session_id, None)
        if self.has_majority:
            self.expire(tree.session_id)
        else:
            self.on_silence(tree)  # without a leader no session ends; the next leader waits for a full timeout again

    def _on_touch_changed(self, gives_up_after: float | None) -> None:
        # Of sessions that have ended, too: their clients do not know.
        for tree in [tree for server in self.servers for tree in server.sessions]:
            tree.on_server_touch(gives_up_after)

    def _replicate(self) -> None:
        for server in self.servers:
            if server.in_touch:
                server.expect(len(self._log))

    def chance(self, name: str, probability: float) -> bool:
        """Decide by chance whether one fault happens, and count it."""
        if probability and self.random.random() < probability:
            self.happened[name] = self.happened.get(name, 0) + 1
            return True
        return False

    def delay(self) -> float:
        return self.random.random() * self.faults.delay_seconds_max if self.faults.delay_seconds_max else 0.0

    def call_later(self, seconds: float, function: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Run something of the servers' later."""
        return asyncio.get_running_loop().call_later(seconds, function, *args, context=self._context)

    def call_at(self, when: float, function: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(when, function, *args, context=self._context)


class Server:
    """One server: how far it has applied the log, and the sessions connected to it."""

    def __init__(self, ensemble: SimulatedEnsemble, number: int) -> None:
        self.number = number
        self.is_cut = False
        self.store: MemoryStore = MemoryStore()
        self.sessions: dict[SimulatedTree, None] = {}
        self._ensemble = ensemble
        self._applied = 0
        self._last_delivery = 0.0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self.store.changed.add(self._on_changed)

    @property
    def in_touch(self) -> bool:
        """Whether it is connected to a leader that has a majority."""
        return not self.is_cut and self._ensemble.has_majority

    def expect(self, position: int) -> None:
        """Have everything up to this position of the log applied when it has arrived."""
        now = asyncio.get_running_loop().time()
        self._last_delivery = max(self._last_delivery + TICK, now + self._ensemble.delay())
        self._ensemble.call_at(self._last_delivery, self._deliver, position)

    def _deliver(self, position: int) -> None:
        if self.in_touch:
            self.catch_up(position)

    def catch_up(self, position: int) -> None:
        """Apply the log up to this position, and answer what waited for it."""
        while self._applied < position:
            operations, session_id, now_ms = self._ensemble.entry(self._applied)
            self._applied += 1
            self.store.apply(operations, session_id, now_ms)
        ready = [function for wanted, function in self._waiting if wanted <= self._applied]
        self._waiting = [(wanted, function) for wanted, function in self._waiting if wanted > self._applied]
        for function in ready:
            function()

    def when_applied(self, position: int, function: Callable[[], None]) -> None:
        """Call a function once everything up to this position is applied: at once, later, or (cut off) not before `heal`."""
        if self._applied >= position:
            function()
        else:
            self._waiting.append((position, function))

    def _on_changed(self, paths: Collection[str]) -> None:
        for tree in list(self.sessions):
            tree.on_children_changed(paths)
