"""A session with a real ensemble whose servers die, stop, fall silent, and whose network swallows what it likes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import ParamSpec, TypeVar

import pytest
from tests.support import zookeeper_anchor
from tests.support.ports import free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.clock import SystemClock
from ottla.cluster.preparation import prepare_tree
from ottla.cluster.tree import (
    BadVersionError,
    Create,
    Delete,
    NodeExistsError,
    NoNodeError,
    NotSentError,
    Operation,
    SessionEndedError,
    SessionState,
    SetData,
    TreeUnavailableError,
)
from ottla.cluster.trees.zookeeper import ZooKeeperTree
from ottla.cluster.trees.zookeeper_options import ZooKeeperOptions
from ottla.cluster.wall_clock import WallClock
from ottla.offload import Offload, ThreadOffload

pytestmark = pytest.mark.zookeeper

TIMEOUT_MS = 3_000
NUMBERS = count()

P = ParamSpec("P")
T = TypeVar("T")

Open = Callable[..., Awaitable[ZooKeeperTree]]


@pytest.fixture(scope="module")
def victims() -> Iterator[ZooKeeperEnsemble]:
    """Three servers; a test that kills one starts it again."""
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(3)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


@pytest.fixture
def chroot() -> str:
    return f"/test/{next(NUMBERS)}"


@pytest.fixture
async def opened(chroot: str) -> AsyncIterator[Open]:
    """Begin sessions below one chroot, and end them after the test."""
    offload = ThreadOffload(8)
    trees: list[ZooKeeperTree] = []

    async def begin(*servers: str | int, offload: Offload = offload, **more: object) -> ZooKeeperTree:
        addresses = tuple(f"127.0.0.1:{s}" if isinstance(s, int) else s for s in servers)
        options = ZooKeeperOptions(
            servers=addresses, chroot=chroot, session_timeout_ms=TIMEOUT_MS, connection_timeout_ms=10_000
        )
        tree = ZooKeeperTree(replace(options, **more), offload)  # type: ignore[arg-type]
        trees.append(tree)
        await tree.open()
        return tree

    yield begin
    await asyncio.gather(*[tree.close() for tree in trees])
    offload.close()


@pytest.fixture
async def proxy(ensemble: ZooKeeperEnsemble) -> AsyncIterator[TcpProxy]:
    """The network to the first server of an ensemble that nothing happens to."""
    proxy = TcpProxy(ensemble.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


class LateOffload(ThreadOffload):
    """Threads that are busy until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__(1)
        self.go_on = asyncio.Event()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        await self.go_on.wait()
        return await super().run(function, *args, **kwargs)


async def in_state(tree: ZooKeeperTree, state: SessionState, seconds: float = 20) -> None:
    reached = asyncio.Event()
    stop = tree.watch_state(lambda new: reached.set() if new is state else None)
    if tree.state is not state:
        async with asyncio.timeout(seconds):
            await reached.wait()
    stop()


def server_of(ensemble: ZooKeeperEnsemble, tree: ZooKeeperTree) -> int:
    """Return the number of the server that serves this session."""
    session = f"0x{tree.session_id & (1 << 64) - 1:x}"
    for number in range(1, ensemble.count + 1):
        if any(f"sid={session}," in line for line in ensemble.ask(number, "cons").splitlines()):
            return number
    raise AssertionError(f"no server serves {session}")


async def until_done(tree: ZooKeeperTree, operation: Operation) -> None:
    """Write, however often the ensemble is electing a leader."""
    async with asyncio.timeout(20):
        while True:
            try:
                await tree.multi([operation])
                return
            except TreeUnavailableError:
                await asyncio.sleep(0.05)
            except (NodeExistsError, NoNodeError):
                return  # an earlier try did it


async def test_a_server_is_killed_and_the_session_goes_on_at_another(victims: ZooKeeperEnsemble, opened: Open) -> None:
    tree = await opened(*victims.servers)
    await tree.multi([Create("/id", ephemeral=True)])
    states: list[SessionState] = []
    tree.watch_state(states.append)
    number = server_of(victims, tree)
    victims.kill(number)
    await in_state(tree, SessionState.SUSPENDED)
    await in_state(tree, SessionState.CONNECTED)
    assert states == [SessionState.SUSPENDED, SessionState.CONNECTED]
    assert (await tree.get("/id")).stat.owner == tree.session_id
    await asyncio.to_thread(victims.start_again, number)


async def test_a_server_that_is_stopped_costs_no_session(victims: ZooKeeperEnsemble, opened: Open) -> None:
    """SIGSTOP: connections stay up, new ones are taken by the kernel, nothing is ever answered."""
    tree = await opened(*victims.servers)
    await tree.multi([Create("/id", ephemeral=True)])
    number = server_of(victims, tree)
    victims.signal(number, signal.SIGSTOP)
    try:
        reading = asyncio.ensure_future(tree.get("/id"))
        await in_state(tree, SessionState.SUSPENDED)
        with pytest.raises(TreeUnavailableError):
            await reading
        await in_state(tree, SessionState.CONNECTED)
        assert (await tree.get("/id")).stat.owner == tree.session_id
    finally:
        victims.signal(number, signal.SIGCONT)


async def test_the_leader_is_killed(victims: ZooKeeperEnsemble, opened: Open) -> None:
    tree = await opened(*victims.servers)
    await tree.multi([Create("/id", b"", ephemeral=True)])
    number = victims.leader()
    victims.kill(number)
    made = 0
    async with asyncio.timeout(30):
        while made < 3:
            try:
                await tree.multi([SetData("/id", b"x")])
                made += 1
            except TreeUnavailableError:
                await asyncio.sleep(0.05)
    assert (await tree.get("/id")).stat.owner == tree.session_id
    await asyncio.to_thread(victims.start_again, number)


async def test_the_majority_is_lost_and_comes_back(victims: ZooKeeperEnsemble, opened: Open) -> None:
    """Nothing is done meanwhile and nothing of it later; the session goes on, however long it took."""
    tree = await opened(*victims.servers)
    await tree.multi([Create("/id", ephemeral=True)])
    for number in (1, 2):
        victims.kill(number)
    await in_state(tree, SessionState.SUSPENDED)
    began = time.monotonic()
    refused = 0
    while time.monotonic() - began < 2 * TIMEOUT_MS / 1000:
        with pytest.raises(TreeUnavailableError):
            await tree.multi([Create("/never-sent")])
        refused += 1
        await asyncio.sleep(0.1)
    assert refused > 10
    for number in (1, 2):
        await asyncio.to_thread(victims.start_again, number)
    await in_state(tree, SessionState.CONNECTED)
    await tree.sync()
    nodes = await tree.get_many(["/id", "/never-sent"])
    assert nodes[0] is not None
    assert nodes[0].stat.owner == tree.session_id
    assert nodes[1] is None


async def test_watch_lost_in_reconnect(victims: ZooKeeperEnsemble, opened: Open) -> None:
    """`watch_lost_in_reconnect`: what happens while the connection is down is reported after it."""
    tree = await opened(*victims.servers)
    await tree.multi([Create("/changes")])
    news = asyncio.Event()
    tree.watch_children("/changes", news.set)
    for round_number in range(3):
        await tree.sync()
        news.clear()
        number = server_of(victims, tree)
        other = await opened(*[s for n, s in enumerate(victims.servers, 1) if n != number])
        victims.kill(number)
        await in_state(tree, SessionState.SUSPENDED)
        await until_done(other, Create(f"/changes/{round_number}"))
        async with asyncio.timeout(20):
            await news.wait()
        await tree.sync()
        assert len(await tree.children("/changes")) == round_number + 1
        # And the watch is armed again.
        await tree.sync()
        news.clear()
        await until_done(other, Create(f"/changes/again-{round_number}"))
        async with asyncio.timeout(20):
            await news.wait()
        await until_done(other, Delete(f"/changes/again-{round_number}"))
        await asyncio.to_thread(victims.start_again, number)


async def test_the_session_expires_while_the_network_swallows_everything(
    ensemble: ZooKeeperEnsemble, proxy: TcpProxy, opened: Open
) -> None:
    other = await opened(*ensemble.servers)
    offload = LateOffload()
    tree = await opened(proxy.port, offload=offload)
    await tree.multi([Create("/id", ephemeral=True)])
    try:
        gone = asyncio.Event()
        other.watch_children("/", gone.set)
        await other.sync()
        gone.clear()
        proxy.swallow()
        async with asyncio.timeout(20):
            await gone.wait()
        assert await other.get_many(["/id"]) == [None]
        proxy.swallow(False)
        await in_state(tree, SessionState.ENDED)
        with pytest.raises(SessionEndedError):
            await tree.multi([Create("/of-the-old-session")])
        # kazoo would begin a new session by itself, and run there what it was asked for in the old one.
        connections = proxy.connections_made
        await asyncio.sleep(1.5)
        assert proxy.connections_made == connections
    finally:
        offload.go_on.set()
    await tree.close()
    assert await other.children("/") == []


async def test_an_answer_is_lost_though_the_change_was_made(
    ensemble: ZooKeeperEnsemble, proxy: TcpProxy, opened: Open
) -> None:
    other = await opened(*ensemble.servers)
    tree = await opened(proxy.port)
    proxy.swallows_answers = True
    writing = asyncio.ensure_future(tree.multi([Create("/a")]))
    async with asyncio.timeout(10):
        while await other.get_many(["/a"]) == [None]:
            await other.sync()
    proxy.cut()
    with pytest.raises(TreeUnavailableError) as error:
        await writing
    assert not isinstance(error.value, NotSentError)
    proxy.swallows_answers = False
    await in_state(tree, SessionState.CONNECTED)
    await tree.sync()
    assert (await tree.get("/a")).data == b""


async def test_while_the_connection_is_down_nothing_is_kept_for_later(proxy: TcpProxy, opened: Open) -> None:
    tree = await opened(proxy.port)
    await tree.multi([Create("/n")])
    proxy.swallow()
    proxy.cut()
    await in_state(tree, SessionState.SUSPENDED)
    for call in (tree.multi([SetData("/n", b"late")]), tree.get("/n"), tree.children("/"), tree.sync()):
        with pytest.raises(NotSentError):
            await call
    proxy.swallow(False)
    proxy.cut()
    await in_state(tree, SessionState.CONNECTED)
    await tree.sync()
    assert (await tree.get("/n")).stat.version == 0


async def test_zookeeper_server_blackholed(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    """`zookeeper_server_blackholed`: two of three servers take connections and say nothing; no session is lost by it."""
    holes = [TcpProxy(ensemble.port), TcpProxy(ensemble.port)]
    way = TcpProxy(ensemble.port)
    for proxy in (*holes, way):
        await proxy.start()
    for hole in holes:
        hole.swallow()
    began = time.monotonic()
    tree = await opened(*[proxy.port for proxy in holes], way.port)
    assert time.monotonic() - began < TIMEOUT_MS / 1000
    await tree.multi([Create("/id", ephemeral=True)])
    for _ in range(4):
        way.cut()
        await in_state(tree, SessionState.SUSPENDED)
        await in_state(tree, SessionState.CONNECTED)
    assert (await tree.get("/id")).stat.owner == tree.session_id
    await tree.close()
    for proxy in (*holes, way):
        await proxy.stop()


async def test_loop_hangs_session_ends(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    """`loop_hangs_session_ends`: kazoo's own thread would go on with its pings, and others believe in this broker."""
    tree = await opened(*ensemble.servers)
    await tree.multi([Create("/id", ephemeral=True)])
    time.sleep(TIMEOUT_MS / 3000 * 0.8)  # noqa: ASYNC251 - a short one is survived
    assert (await tree.get("/id")).stat.owner == tree.session_id
    time.sleep(2.5 * TIMEOUT_MS / 1000)  # noqa: ASYNC251 - this is what is tested
    await in_state(tree, SessionState.ENDED)
    other = await opened(*ensemble.servers)
    assert await other.get_many(["/id"]) == [None]


async def test_the_servers_grant_another_timeout(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    """Their bounds are 1 s and 60 s; a lease that counted on more than was granted would outlive its session."""
    for asked, granted in ((500, 1_000), (7_000, 7_000), (100_000, 60_000)):
        tree = await opened(*ensemble.servers, session_timeout_ms=asked)
        assert tree.session_timeout_ms == granted


async def test_compare_and_set_by_many_sessions_loses_nothing(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    trees = [await opened(server) for server in ensemble.servers]
    await trees[0].multi([Create("/n", b"0")])

    async def count_up(tree: ZooKeeperTree) -> int:
        done = 0
        while done < 30:
            await tree.sync()
            node = await tree.get("/n")
            try:
                await tree.multi([SetData("/n", b"%d" % (int(node.data) + 1), node.stat.version)])
                done += 1
            except BadVersionError:
                pass
        return done

    await asyncio.gather(*[count_up(tree) for tree in trees])
    await trees[0].sync()
    node = await trees[0].get("/n")
    assert (node.data, node.stat.version) == (b"90", 90)


async def test_thousands_of_reads_at_once(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    tree = await opened(*ensemble.servers)
    await tree.multi([Create("/t")])
    for first in range(0, 3000, 100):
        await tree.multi([Create(f"/t/{n}", str(n).encode()) for n in range(first, first + 100)])
    nodes = await tree.get_many([f"/t/{n}" for n in range(3001)])
    assert [None if node is None else node.data for node in nodes] == [*(str(n).encode() for n in range(3000)), None]


async def test_nothing_listens(opened: Open) -> None:
    with pytest.raises(
        TreeUnavailableError, match=r"no ZooKeeper server of 127\.0\.0\.1:\d+/test/\d+ could be reached within"
    ):
        await opened(free_port(), connection_timeout_ms=500)


async def test_a_chroot_that_cannot_be_made(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    with pytest.raises(
        TreeUnavailableError, match=r"the chroot /zookeeper/config/mine cannot be made in .*NoAuthError"
    ):
        await opened(*ensemble.servers, chroot="/zookeeper/config/mine")


async def test_a_caller_that_goes_away_disturbs_nobody(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    tree = await opened(*ensemble.servers)
    calls = [asyncio.ensure_future(tree.multi([Create("/n", sequential=True)])) for _ in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await tree.sync()
    assert len(await tree.children("/")) == 50


async def test_the_wall_clock_is_compared_with_the_servers(ensemble: ZooKeeperEnsemble, opened: Open) -> None:
    """`clock_jump_deletes_nothing` on a real ensemble: its servers say when a node was written."""

    class AheadClock(SystemClock):
        ahead_ms = 0

        def wall_ms(self) -> int:
            return super().wall_ms() + self.ahead_ms

    tree = await opened(*ensemble.servers)
    await prepare_tree(tree, "cluster-1")
    for ahead_ms, is_right in ((0, True), (3_600_000, False), (-3_600_000, False)):
        clock = AheadClock()
        clock.ahead_ms = ahead_ms
        watched = WallClock(clock)
        comparing = asyncio.ensure_future(watched.keep(lambda: tree, 1))
        while watched.off_ms() is None:  # noqa: ASYNC110 - another task compares
            await asyncio.sleep(0.01)
        comparing.cancel()
        assert watched.is_right() is is_right
        off_ms = watched.off_ms()
        assert off_ms is not None
        assert abs(off_ms - ahead_ms) < 60_000
