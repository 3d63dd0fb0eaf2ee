"""The simulated ensemble errs as a real one does, and keeps what a real one promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from ottla.cluster.tree import (
    BadVersionError,
    Create,
    NotSentError,
    SessionEndedError,
    SessionState,
    SetData,
    TreeUnavailableError,
)
from ottla.testing.simulated_ensemble import EnsembleFaults, SimulatedEnsemble
from ottla.testing.simulated_tree import SimulatedTree
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

TIMEOUT_MS = 6_000


def ensemble_with(loop: VirtualLoop, **faults: float) -> SimulatedEnsemble:
    return SimulatedEnsemble(
        Random(loop.random.random()),
        session_timeout_ms=TIMEOUT_MS,
        faults=EnsembleFaults(delay_seconds_max=0.002, **faults),
    )


def run(scenario: Callable[[VirtualLoop], Awaitable[None]], seed: int = 1) -> None:
    async def main(loop: VirtualLoop) -> None:
        await scenario(loop)

    run_virtual(seed, main)


async def on_server(ensemble: SimulatedEnsemble, number: int) -> SimulatedTree:
    while True:
        tree = await ensemble.connect()
        if tree in ensemble.servers[number].sessions:
            return tree
        await tree.close()


async def in_state(tree: SimulatedTree, state: SessionState) -> None:
    reached = asyncio.Event()
    stop = tree.watch_state(lambda new: reached.set() if new is state else None)
    if tree.state is not state:
        await reached.wait()
    stop()


def test_an_answer_is_lost_though_the_change_was_made() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop, answer_lost=1.0)
        tree = await ensemble.connect()
        with pytest.raises(TreeUnavailableError) as error:
            await tree.multi([Create("/a")])
        assert not isinstance(error.value, NotSentError)
        assert tree.state is SessionState.SUSPENDED
        with pytest.raises(NotSentError):
            await tree.get("/a")
        await in_state(tree, SessionState.CONNECTED)
        assert (await tree.get("/a")).data == b""

    run(scenario)


def test_a_request_is_run_after_the_reconnect_and_before_what_is_sent_then() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop, late_request=1.0)
        tree, other = await ensemble.connect(), await ensemble.connect()
        with pytest.raises(TreeUnavailableError):
            await tree.multi([Create("/a")])
        await other.sync()
        assert await other.get_many(["/a"]) == [None]
        await in_state(tree, SessionState.CONNECTED)
        await tree.sync()
        assert (await tree.get("/a")).data == b""

    run(scenario)


def test_nothing_of_a_session_is_run_after_its_end() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop, late_request=1.0)
        tree, other = await ensemble.connect(), await ensemble.connect()
        with pytest.raises(TreeUnavailableError):
            await tree.multi([Create("/a")])
        ensemble.expire(tree.session_id)
        await in_state(tree, SessionState.ENDED)
        await other.sync()
        assert await other.get_many(["/a"]) == [None]

    run(scenario)


def test_a_follower_that_is_cut_off_answers_what_it_knew() -> None:
    """`zookeeper_follower_cut_off`, the tree's part.

    1. A session's server is cut off. 2. The session's ephemeral node vanishes for the others. 3. The client still is
    CONNECTED and reads its node. 4. Only `sync` does not return. 5. When the server gives up, the client learns of its end.
    """

    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop)
        broker, other = await on_server(ensemble, 0), await on_server(ensemble, 1)
        await broker.multi([Create("/id", ephemeral=True)])
        await broker.sync()
        ensemble.cut_off(0, gives_up_after=2.4 * TIMEOUT_MS / 1000)
        syncing = asyncio.ensure_future(broker.sync())
        await asyncio.sleep(TIMEOUT_MS / 1000 - 0.1)
        assert ensemble.is_live(broker.session_id)
        await asyncio.sleep(0.2)
        assert not ensemble.is_live(broker.session_id)
        await other.sync()
        assert await other.get_many(["/id"]) == [None]
        assert broker.state is SessionState.CONNECTED
        assert (await broker.get("/id")).stat.owner == broker.session_id
        assert not syncing.done()
        await in_state(broker, SessionState.ENDED)
        with pytest.raises(TreeUnavailableError):
            await syncing

    for seed in range(5):
        run(scenario, seed)


def test_reads_lag_until_a_sync() -> None:
    stale: list[bool] = []

    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop)
        writer, reader = await on_server(ensemble, 0), await on_server(ensemble, 1)
        await writer.multi([Create("/a")])
        await reader.sync()
        for number in range(20):
            await writer.multi([SetData("/a", b"%d" % number)])
            stale.append((await reader.get("/a")).data != b"%d" % number)
            await reader.sync()
            assert (await reader.get("/a")).data == b"%d" % number

    for seed in range(5):
        run(scenario, seed)
    assert True in stale


def test_a_lost_watch_does_not_come_back_by_itself() -> None:
    """`watch_lost_in_reconnect`, the tree's part: nothing says that there is news."""

    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop, watch_lost=1.0)
        tree = await ensemble.connect()
        news: list[float] = []
        tree.watch_children("/", lambda: news.append(loop.time()))
        await tree.multi([Create("/a")])
        tree.break_connection()
        await in_state(tree, SessionState.CONNECTED)
        await asyncio.sleep(60)
        assert news == []
        assert ensemble.happened["watch_lost"] >= 2

    run(scenario)


def test_news_comes_after_a_reconnect() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop)
        tree, other = await ensemble.connect(), await ensemble.connect()
        news = asyncio.Event()
        tree.watch_children("/", news.set)
        tree.break_connection()
        await other.multi([Create("/a")])
        await news.wait()
        assert await tree.children("/") == ["a"]

    run(scenario)


def test_sessions_end_early_and_late() -> None:
    lives: list[float] = []

    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop, early_end=0.3, late_end=0.3)
        tree = await ensemble.connect()
        tree.vanish()
        began = loop.time()
        while ensemble.is_live(tree.session_id):  # noqa: ASYNC110 - how long it lives is the question
            await asyncio.sleep(0.01)
        lives.append((loop.time() - began) * 1000 / TIMEOUT_MS)

    for seed in range(60):
        run(scenario, seed)
    assert min(lives) < 0.7
    assert max(lives) > 1.5
    assert sum(0.99 < life < 1.02 for life in lives) > 10


def test_without_a_majority_no_session_ends_and_nothing_is_written() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop)
        tree = await ensemble.connect()
        await tree.multi([Create("/id", ephemeral=True)])
        ensemble.cut_off(0)
        ensemble.cut_off(1)
        with pytest.raises(TreeUnavailableError):
            await tree.multi([SetData("/id", b"")])
        await asyncio.sleep(10 * TIMEOUT_MS / 1000)
        assert ensemble.is_live(tree.session_id)
        assert tree.state is SessionState.SUSPENDED
        ensemble.heal()
        await in_state(tree, SessionState.CONNECTED)
        assert (await tree.get("/id")).stat.owner == tree.session_id

    run(scenario)


def test_a_client_cut_off_from_all_servers_learns_of_its_end_at_the_reconnect() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop)
        tree = await ensemble.connect()
        tree.swallow()
        reading = asyncio.ensure_future(tree.get("/"))
        await in_state(tree, SessionState.SUSPENDED)
        assert loop.time() == pytest.approx(TIMEOUT_MS / 1500, abs=0.1)
        with pytest.raises(TreeUnavailableError):
            await reading
        await asyncio.sleep(TIMEOUT_MS / 1000)
        assert tree.state is SessionState.SUSPENDED  # it cannot know better
        tree.let_through()
        await in_state(tree, SessionState.ENDED)
        with pytest.raises(SessionEndedError):
            await tree.get("/")

    run(scenario)


def test_what_a_killed_process_began_goes_on_at_the_servers() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(loop)
        other = await ensemble.connect()
        trees: list[SimulatedTree] = []

        async def process() -> None:
            tree = await ensemble.connect()
            trees.append(tree)
            await tree.multi([Create("/id", ephemeral=True)])

        life, _ = await loop.begin_life(process)
        loop.end_life(life)
        trees[0].vanish()
        await other.sync()
        assert (await other.get("/id")).stat.owner == trees[0].session_id
        await asyncio.sleep(TIMEOUT_MS / 1000 + 1)
        await other.sync()
        assert await other.get_many(["/id"]) == [None]

    run(scenario)


@pytest.mark.parametrize("seed", range(30))
def test_compare_and_set_counts_right_whatever_goes_wrong(seed: int) -> None:
    """Clients count up in one node by compare-and-set; after an unknown outcome, sync and read tell what became of it."""
    counts: dict[str, int] = {}

    async def scenario(loop: VirtualLoop) -> None:
        ensemble = ensemble_with(
            loop, answer_lost=0.05, late_request=0.05, connection_lost=0.05, early_end=0.3, late_end=0.1
        )
        first = await ensemble.connect()
        while not await _tried(lambda: first.multi([Create("/n", b"")])):
            await in_state(first, SessionState.CONNECTED)
            if ensemble.committed.node("/n"):
                break
        made = await asyncio.gather(*[client(ensemble, name) for name in "abc"])
        node = ensemble.committed.node("/n")
        assert node is not None
        assert made == [12, 12, 12]
        assert {name: node.data.decode().count(name) for name in "abc"} == {"a": 12, "b": 12, "c": 12}
        counts.update(ensemble.happened)

    async def client(ensemble: SimulatedEnsemble, name: str) -> int:
        tree = await ensemble.connect()
        made = 0
        while made < 12:
            if tree.state is SessionState.ENDED:
                tree = await ensemble.connect()
            try:
                await tree.sync()
                node = await tree.get("/n")
                made = node.data.decode().count(name)  # the truth, whatever the last answer was
                if made < 12:
                    await tree.multi([SetData("/n", node.data + name.encode(), node.stat.version)])
            except BadVersionError:
                pass
            except TreeUnavailableError:
                await asyncio.sleep(0.2)
        return made

    run(scenario, seed)
    assert counts


async def _tried(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except TreeUnavailableError:
        return False
    return True
