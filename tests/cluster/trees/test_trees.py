"""One suite over every coordination tree: they behave alike. A further implementation joins by adding itself to TREES.

`make test-zookeeper` runs it on a real ensemble as well.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cluster.tree_support import subtree
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.cluster.tree import (
    REQUEST_BYTES_MAX,
    BadVersionError,
    Check,
    Create,
    Delete,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Operation,
    RequestTooLargeError,
    SessionEndedError,
    SessionState,
    SetData,
    Stat,
    Tree,
    TreeError,
)
from ottla.cluster.trees.local import LocalTree
from ottla.cluster.trees.memory import MemoryStore
from ottla.cluster.trees.served import ServedTree
from ottla.cluster.trees.serving import TreeServer
from ottla.offload import InlineOffload, ThreadOffload
from ottla.testing.simulated_ensemble import EnsembleFaults, SimulatedEnsemble

Session = Callable[[], Awaitable[Tree]]


@asynccontextmanager
async def memory_sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    store = MemoryStore()

    async def begin() -> Tree:
        return store.session()

    yield begin


@asynccontextmanager
async def local_sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    """A local tree has one session at a time: beginning the next one ends the one before."""

    async def begin() -> Tree:
        tree = LocalTree(str(tmp_path / "tree.db"), InlineOffload())
        await tree.open()
        return tree

    yield begin


@asynccontextmanager
async def simulated_sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    """An ensemble of servers that lag, each session with another one."""
    yield SimulatedEnsemble(Random(7), faults=EnsembleFaults(delay_seconds_max=0.001)).connect


@asynccontextmanager
async def zookeeper_sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    """A real ensemble of three, below a chroot of its own, which the first session makes."""
    from ottla.cluster.trees.zookeeper import ZooKeeperTree
    from ottla.cluster.trees.zookeeper_options import ZooKeeperOptions

    ensemble: ZooKeeperEnsemble = request.getfixturevalue("ensemble")
    options = ZooKeeperOptions(servers=tuple(ensemble.servers), chroot=f"/suite/{next(NUMBERS)}")
    offload = ThreadOffload(4)
    begun: list[ZooKeeperTree] = []

    async def begin() -> Tree:
        tree = ZooKeeperTree(options, offload)
        begun.append(tree)
        await tree.open()
        return tree

    yield begin
    for tree in begun:
        await tree.close()
    offload.close()


@asynccontextmanager
async def served_sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    """A file that one process serves to others on a socket."""
    server = TreeServer(str(tmp_path / "tree.db"), str(tmp_path / "tree.sock"), InlineOffload())
    await server.start()
    begun: list[ServedTree] = []

    async def begin() -> Tree:
        tree = ServedTree(server.socket_path, session_timeout_ms=18_000, connection_timeout_ms=5_000)
        begun.append(tree)
        await tree.open()
        return tree

    yield begin
    for tree in begun:
        await tree.close()
    await server.stop()


NUMBERS = itertools.count()
TREES = {
    "memory": memory_sessions,
    "local": local_sessions,
    "served": served_sessions,
    "simulated": simulated_sessions,
    "zookeeper": zookeeper_sessions,
}
ALL = [pytest.param(name, marks=pytest.mark.zookeeper if name == "zookeeper" else ()) for name in sorted(TREES)]
SHARED = [param for param in ALL if param.values != ("local",)]
OTHERS = [param for param in ALL if param.values != ("memory",)]


@pytest.fixture(params=ALL)
async def session(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    """Begin sessions with one and the same tree."""
    async with TREES[request.param](request, tmp_path) as begin:
        yield begin


@pytest.fixture(params=SHARED)
async def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Session]:
    """Begin sessions with one and the same tree that go on beside each other."""
    async with TREES[request.param](request, tmp_path) as begin:
        yield begin


async def settled(tree: Tree) -> None:
    """Wait until what the tree has to tell by now has been told."""
    for _ in range(3):
        await tree.sync()
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


@pytest.fixture
async def tree(session: Session) -> AsyncIterator[Tree]:
    tree = await session()
    yield tree
    await tree.close()


async def test_a_node_has_its_data_and_counts_its_versions(tree: Tree) -> None:
    assert await tree.multi([Create("/a", b"1")]) == ("/a",)
    created = await tree.get("/a")
    assert created.data == b"1"
    assert created.stat[:4] == (created.stat.czxid, created.stat.czxid, 0, 0)

    results = await tree.multi([SetData("/a", b"2", version=0)])
    node = await tree.get("/a")
    assert node.data == b"2"
    assert (node.stat.czxid, node.stat.version) == (created.stat.czxid, 1)
    assert node.stat.mzxid > created.stat.mzxid
    assert results == (node.stat,)


async def test_set_and_delete_and_check_compare_versions(tree: Tree) -> None:
    await tree.multi([Create("/a")])
    await tree.multi([SetData("/a", b"x")])
    for operation in (SetData("/a", b"y", version=0), Delete("/a", version=0), Check("/a", version=2)):
        with pytest.raises(BadVersionError) as error:
            await tree.multi([operation])
        assert error.value.path == "/a"
    await tree.multi([Check("/a", version=1), Delete("/a", version=1)])
    assert await tree.get_many(["/a"]) == [None]


async def test_a_multi_is_all_or_nothing(tree: Tree) -> None:
    await tree.multi([Create("/a"), Create("/a/b", b"1")])
    before = await subtree(tree)
    with pytest.raises(NodeExistsError):
        await tree.multi(
            [
                SetData("/a/b", b"2"),
                Create("/a/s-", sequential=True),
                Create("/c"),
                Create("/c/d"),
                Delete("/c/d"),
                Create("/a"),
            ]
        )
    assert await subtree(tree) == before
    # Not even a number of the sequence is used up.
    assert await tree.multi([Create("/a/s-", sequential=True)]) == ("/a/s-0000000001",)


async def test_a_multi_sees_its_own_changes(tree: Tree) -> None:
    result = await tree.multi([Create("/a"), Create("/a/b"), SetData("/a/b", b"1", version=0), Check("/a/b", 1)])
    assert result == ("/a", "/a/b", (await tree.get("/a/b")).stat, None)
    assert (await tree.get("/a/b")).stat.version == 1


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Create("/a"), NodeExistsError),
        (Create("/none/b"), NoNodeError),
        (SetData("/none", b""), NoNodeError),
        (Delete("/none"), NoNodeError),
        (Check("/none"), NoNodeError),
        (Delete("/a"), NotEmptyError),
        (Create("/a/e/child"), NoChildrenForEphemeralsError),
    ],
)
async def test_what_cannot_be_done_is_refused(tree: Tree, operation: Operation, error: type[TreeError]) -> None:
    await tree.multi([Create("/a"), Create("/a/e", ephemeral=True)])
    with pytest.raises(error) as caught:
        await tree.multi([Check("/a"), operation])
    assert caught.value.path == operation.path


async def test_of_several_operations_the_first_that_fails_is_named(tree: Tree) -> None:
    await tree.multi([Create("/a")])
    with pytest.raises(BadVersionError) as caught:
        await tree.multi([Create("/b"), SetData("/a", b"", version=7), Delete("/none")])
    assert caught.value.path == "/a"


async def test_nothing_to_do_is_done(tree: Tree) -> None:
    assert await tree.multi([]) == ()


async def test_a_request_that_no_ensemble_would_take_is_refused_unsent(tree: Tree) -> None:
    with pytest.raises(RequestTooLargeError, match="at most 900000 can be written at once") as caught:
        await tree.multi([Create("/a", b"x" * REQUEST_BYTES_MAX)])
    assert caught.value.path == "/a"
    many = [Create("/a"), *(Create(f"/a/{index}", b"x" * 100_000) for index in range(9))]
    with pytest.raises(RequestTooLargeError):
        await tree.multi(many)
    await tree.multi(many[:-1])
    assert len(await tree.children("/a")) == 8


async def test_the_root_cannot_be_deleted(tree: Tree) -> None:
    with pytest.raises(ValueError, match="root"):
        await tree.multi([Delete("/")])


async def test_reading_what_does_not_exist(tree: Tree) -> None:
    with pytest.raises(NoNodeError):
        await tree.get("/none")
    with pytest.raises(NoNodeError):
        await tree.children("/none")
    assert await tree.get_many(["/none", "/"]) == [None, await tree.get("/")]


@pytest.mark.parametrize("path", ["", "a", "/a/", "//", "/a//b", "/\0", "/.", "/a/../b", "/\x1f", "/\x7f", "/\uf8ff"])
async def test_what_is_no_path_is_refused(tree: Tree, path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        await tree.multi([Create(path)])


async def test_children_are_names_sorted_and_only_direct_ones(tree: Tree) -> None:
    await tree.multi([Create("/a"), Create("/a/c"), Create("/a/b"), Create("/a/b/x"), Create("/ab")])
    assert await tree.children("/a") == ["b", "c"]
    assert await tree.children("/a/c") == []
    assert await tree.children("/") == ["a", "ab"]


async def test_names_may_have_any_letters(tree: Tree) -> None:
    await tree.multi([Create("/sébastien"), Create("/sébastien/东京 %", b"x")])
    assert await tree.children("/sébastien") == ["东京 %"]
    assert (await tree.get("/sébastien/东京 %")).data == b"x"


async def test_sequential_names_only_grow_even_after_deletions(tree: Tree) -> None:
    await tree.multi([Create("/q")])
    first = await tree.multi([Create("/q/n_", b"1", sequential=True), Create("/q/n_", sequential=True)])
    assert first == ("/q/n_0000000000", "/q/n_0000000001")
    await tree.multi([Delete("/q/n_0000000000"), Delete("/q/n_0000000001")])
    again = await tree.multi([Create("/q/n_", sequential=True)])
    assert again == ("/q/n_0000000002",)
    # Every child counts, whatever its name: the numbers are those of the parent.
    await tree.multi([Create("/q/plain")])
    assert await tree.multi([Create("/q/n_", sequential=True)]) == ("/q/n_0000000004",)


async def test_numbers_tell_the_order_of_transactions(sessions: Session) -> None:
    first, second = await sessions(), await sessions()
    await first.multi([Create("/q")])
    made = []
    for index in range(20):
        tree = (first, second)[index % 2]
        made.append((await tree.multi([Create("/q/n_", str(index).encode(), sequential=True)]))[0])
    assert made == sorted(str(path) for path in made)
    await first.sync()
    nodes = await first.get_many([str(path) for path in made])
    assert [node.data for node in nodes if node] == [str(index).encode() for index in range(20)]
    await first.close()
    await second.close()


async def test_a_node_made_again_starts_with_version_0_and_another_creation_id(tree: Tree) -> None:
    await tree.multi([Create("/a"), SetData("/a", b"x")])
    before = (await tree.get("/a")).stat
    await tree.multi([Delete("/a"), Create("/a")])
    after = (await tree.get("/a")).stat
    assert (before.version, after.version) == (1, 0)
    assert after.czxid > before.czxid


async def test_ephemeral_nodes_vanish_with_their_session_and_others_stay(session: Session) -> None:
    first = await session()
    await first.multi([Create("/ids"), Create("/ids/1", b"x", ephemeral=True), Create("/ids/stays")])
    assert (await first.get("/ids/1")).stat.owner == first.session_id != 0
    await first.multi([SetData("/ids", b"")])
    last = (await first.get("/ids")).stat.mzxid
    await first.close()

    second = await session()
    assert await second.children("/ids") == ["stays"]
    assert second.session_id != first.session_id
    await second.multi([Create("/later")])
    assert (await second.get("/later")).stat.czxid > last
    await second.close()


async def test_a_session_that_has_ended_can_do_nothing(session: Session) -> None:
    tree = await session()
    seen: list[SessionState] = []
    tree.watch_state(seen.append)
    states = [tree.state]
    await tree.close()
    await until(lambda: seen == [SessionState.ENDED])
    assert [*states, tree.state] == [SessionState.CONNECTED, SessionState.ENDED]
    for call in (tree.get("/"), tree.get_many(["/"]), tree.children("/"), tree.multi([Create("/a")]), tree.sync()):
        with pytest.raises(SessionEndedError):
            await call
    other = await session()
    assert await other.get_many(["/a"]) == [None]
    await other.close()


async def test_a_session_says_what_it_was_granted(tree: Tree) -> None:
    assert tree.session_id != 0
    assert tree.session_timeout_ms >= 1000


async def test_after_a_sync_one_session_reads_what_another_wrote(sessions: Session) -> None:
    first, second = await sessions(), await sessions()
    await first.multi([Create("/a")])
    for index in range(50):
        await first.multi([SetData("/a", str(index).encode())])
        await second.sync()
        assert (await second.get("/a")).data == str(index).encode()
    await first.close()
    await second.close()


async def test_watches_tell_of_changed_children_after_the_fact(tree: Tree) -> None:
    await tree.multi([Create("/a"), Create("/b")])
    seen: list[str] = []
    stop = tree.watch_children("/a", lambda: seen.append("a"))
    tree.watch_children("/b", lambda: seen.append("b"))
    await settled(tree)
    seen.clear()  # beginning to watch may count as news

    await tree.multi([Create("/a/x"), SetData("/b", b"data is no child")])
    await until(lambda: "a" in seen)
    await settled(tree)
    assert set(seen) == {"a"}

    seen.clear()
    await tree.multi([Delete("/a/x")])
    await until(lambda: "a" in seen)
    assert set(seen) == {"a"}

    await settled(tree)
    seen.clear()
    with pytest.raises(NodeExistsError):
        await tree.multi([Create("/a/y"), Create("/a")])
    await settled(tree)
    assert seen == []

    stop()
    await tree.multi([Create("/a/z")])
    await settled(tree)
    assert seen == []


async def test_one_session_sees_what_another_one_changes(sessions: Session) -> None:
    first, second = await sessions(), await sessions()
    await first.multi([Create("/ids")])
    await second.sync()
    seen: list[list[str]] = []
    news = asyncio.Event()
    second.watch_children("/ids", news.set)
    await settled(second)
    await first.multi([Create("/ids/1", ephemeral=True)])
    async with asyncio.timeout(10):
        await news.wait()
    seen.append(await second.children("/ids"))
    news.clear()
    await settled(second)
    news.clear()
    await first.close()
    async with asyncio.timeout(10):
        await news.wait()
    seen.append(await second.children("/ids"))
    assert seen == [["1"], []]
    await second.close()


async def test_children_of_what_does_not_exist_yet_can_be_watched(tree: Tree) -> None:
    seen: list[None] = []
    tree.watch_children("/later", lambda: seen.append(None))
    await settled(tree)
    await tree.multi([Create("/later")])
    await settled(tree)
    seen.clear()
    await tree.multi([Create("/later/child")])
    await until(lambda: bool(seen))


PATHS = st.sampled_from(["/a", "/b", "/a/x", "/a/y", "/a/x/deep", "/b/x"])
VERSIONS = st.integers(-1, 2)
OPERATIONS = st.one_of(
    st.builds(Create, PATHS, st.binary(max_size=3), ephemeral=st.booleans(), sequential=st.booleans()),
    st.builds(SetData, PATHS, st.binary(max_size=3), VERSIONS),
    st.builds(Delete, PATHS, VERSIONS),
    st.builds(Check, PATHS, VERSIONS),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(multis=st.lists(st.lists(OPERATIONS, min_size=1, max_size=4), max_size=12))
@pytest.mark.parametrize("name", OTHERS)
def test_all_trees_agree_on_any_history(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    multis: list[list[Operation]],
) -> None:
    async def outcomes(name: str) -> list[object]:
        async with TREES[name](request, tmp_path_factory.mktemp("tree")) as begin:
            tree = await begin()
            seen: list[object] = []
            for operations in multis:
                try:
                    results = await tree.multi(operations)
                    seen.append([r.version if isinstance(r, Stat) else r for r in results])
                except TreeError as error:
                    seen.append((type(error), error.path))
            # Ids of transactions and sessions differ; which changes came first, and who owns what, does not.
            nodes = await subtree(tree)
            order = {zxid: place for place, zxid in enumerate(sorted({z for _, n in nodes for z in n.stat[:2]}))}
            for path, (data, stat) in nodes[1:]:
                seen.append((path, data, order[stat.czxid], order[stat.mzxid], stat.version, bool(stat.owner)))
            await tree.close()
            return seen

    assert asyncio.run(outcomes(name)) == asyncio.run(outcomes("memory"))
