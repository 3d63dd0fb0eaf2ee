"""One suite over every coordination tree: they behave alike. A further implementation joins by adding itself to TREES."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ottla.cluster.tree import (
    BadVersionError,
    Check,
    Create,
    Delete,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Operation,
    SetData,
    Tree,
    TreeError,
    TreeUnavailableError,
)
from ottla.cluster.trees.local import LocalTree
from ottla.cluster.trees.memory import MemoryStore
from ottla.offload import InlineOffload, ThreadOffload

Session = Callable[[], Awaitable[Tree]]


async def memory_sessions(tmp_path: Path) -> Session:
    store = MemoryStore()

    async def begin() -> Tree:
        return store.session()

    return begin


async def local_sessions(tmp_path: Path) -> Session:
    """A local tree has one session at a time: beginning the next one closes the file of the one before."""

    async def begin() -> Tree:
        tree = LocalTree(str(tmp_path / "tree.db"), InlineOffload())
        await tree.open()
        return tree

    return begin


TREES = {"memory": memory_sessions, "local": local_sessions}


@pytest.fixture(params=sorted(TREES))
async def session(request: pytest.FixtureRequest, tmp_path: Path) -> Session:
    """Begin sessions with one and the same tree."""
    return await TREES[request.param](tmp_path)


@pytest.fixture
async def tree(session: Session) -> AsyncIterator[Tree]:
    tree = await session()
    yield tree
    await tree.close()


async def test_a_node_has_its_data_and_counts_its_versions(tree: Tree) -> None:
    created = await tree.multi([Create("/a", b"1")])
    node = await tree.get("/a")
    assert node.data == b"1"
    assert node.stat == (created.zxid, created.zxid, 0, 0)

    changed = await tree.multi([SetData("/a", b"2", version=0)])
    node = await tree.get("/a")
    assert node.data == b"2"
    assert (node.stat.czxid, node.stat.mzxid, node.stat.version) == (created.zxid, changed.zxid, 1)
    assert changed.results == (node.stat,)
    assert changed.zxid > created.zxid


async def test_set_and_delete_and_check_compare_versions(tree: Tree) -> None:
    await tree.multi([Create("/a")])
    await tree.multi([SetData("/a", b"x")])
    for operation in (SetData("/a", b"y", version=0), Delete("/a", version=0), Check("/a", version=2)):
        with pytest.raises(BadVersionError) as error:
            await tree.multi([operation])
        assert error.value.path == "/a"
    await tree.multi([Check("/a", version=1), Delete("/a", version=1)])
    assert await tree.get_many(["/a"]) == [None]


async def test_a_check_alone_changes_no_transaction_id(tree: Tree) -> None:
    before = (await tree.multi([Create("/a")])).zxid
    assert (await tree.multi([Check("/a")])).zxid == before


async def test_a_multi_is_all_or_nothing(tree: Tree) -> None:
    await tree.multi([Create("/a"), Create("/a/b", b"1")])
    before = await tree.subtree("/")
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
    assert await tree.subtree("/") == before
    # Not even a number of the sequence is used up.
    result = await tree.multi([Create("/a/s-", sequential=True)])
    assert result.results == ("/a/s-0000000001",)


async def test_a_multi_sees_its_own_changes(tree: Tree) -> None:
    result = await tree.multi([Create("/a"), Create("/a/b"), SetData("/a/b", b"1", version=0), Check("/a/b", 1)])
    assert result.results[:2] == ("/a", "/a/b")
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
        (Delete("/"), NotEmptyError),
        (Create("/a/e/child"), NoChildrenForEphemeralsError),
    ],
)
async def test_what_cannot_be_done_is_refused(tree: Tree, operation: Operation, error: type[TreeError]) -> None:
    await tree.multi([Create("/a"), Create("/a/e", ephemeral=True)])
    with pytest.raises(error):
        await tree.multi([operation])


async def test_reading_what_does_not_exist(tree: Tree) -> None:
    with pytest.raises(NoNodeError):
        await tree.get("/none")
    with pytest.raises(NoNodeError):
        await tree.children("/none")
    assert await tree.subtree("/none") == []
    assert await tree.get_many(["/none", "/"]) == [None, await tree.get("/")]


@pytest.mark.parametrize("path", ["", "a", "/a/", "//", "/a//b", "/\0"])
async def test_what_is_no_path_is_refused(tree: Tree, path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        await tree.multi([Create(path)])


async def test_children_are_names_sorted_and_only_direct_ones(tree: Tree) -> None:
    await tree.multi([Create("/a"), Create("/a/c"), Create("/a/b"), Create("/a/b/x"), Create("/ab")])
    assert await tree.children("/a") == ["b", "c"]
    assert await tree.children("/a/c") == []
    assert await tree.children("/") == ["a", "ab"]


async def test_a_subtree_is_sorted_and_ends_at_its_border(tree: Tree) -> None:
    await tree.multi([Create("/a", b"1"), Create("/a/b", b"2"), Create("/a-b"), Create("/a0"), Create("/a/b/c")])
    assert [(path, node.data) for path, node in await tree.subtree("/a")] == [
        ("/a", b"1"),
        ("/a/b", b"2"),
        ("/a/b/c", b""),
    ]
    assert [path for path, _ in await tree.subtree("/")] == ["/", "/a", "/a-b", "/a/b", "/a/b/c", "/a0"]


async def test_sequential_names_only_grow_even_after_deletions(tree: Tree) -> None:
    await tree.multi([Create("/q")])
    first = await tree.multi([Create("/q/n_", b"1", sequential=True), Create("/q/n_", sequential=True)])
    assert first.results == ("/q/n_0000000000", "/q/n_0000000001")
    await tree.multi([Delete("/q/n_0000000000"), Delete("/q/n_0000000001")])
    again = await tree.multi([Create("/q/n_", sequential=True)])
    assert again.results == ("/q/n_0000000002",)


async def test_ephemeral_nodes_vanish_with_their_session_and_others_stay(session: Session) -> None:
    first = await session()
    await first.multi([Create("/ids"), Create("/ids/1", b"x", ephemeral=True), Create("/ids/stays")])
    assert (await first.get("/ids/1")).stat.owner == first.session_id != 0
    last = (await first.multi([SetData("/ids", b"")])).zxid
    await first.close()

    second = await session()
    assert await second.children("/ids") == ["stays"]
    assert second.session_id != first.session_id
    assert (await second.multi([Create("/later")])).zxid > last
    await second.close()


async def test_a_session_that_has_ended_is_unavailable(session: Session) -> None:
    tree = await session()
    await tree.close()
    with pytest.raises(TreeUnavailableError):
        await tree.get("/")


async def test_watches_tell_of_changed_children_after_the_fact(tree: Tree) -> None:
    await tree.multi([Create("/a"), Create("/b")])
    seen: list[str] = []
    stop = tree.watch_children("/a", lambda: seen.append("a"))
    tree.watch_children("/b", lambda: seen.append("b"))

    await tree.multi([Create("/a/x"), SetData("/b", b"data is no child")])
    await asyncio.sleep(0)
    assert seen == ["a"]

    await tree.multi([Delete("/a/x")])
    await asyncio.sleep(0)
    assert seen == ["a", "a"]

    with pytest.raises(NodeExistsError):
        await tree.multi([Create("/a/y"), Create("/a")])
    await asyncio.sleep(0)
    assert seen == ["a", "a"]

    stop()
    await tree.multi([Create("/a/z")])
    await asyncio.sleep(0)
    assert seen == ["a", "a"]


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
def test_all_trees_agree_on_any_history(
    tmp_path_factory: pytest.TempPathFactory, multis: list[list[Operation]]
) -> None:
    async def outcomes(name: str) -> list[object]:
        begin = await TREES[name](tmp_path_factory.mktemp("tree"))
        tree = await begin()
        seen: list[object] = []
        for operations in multis:
            try:
                seen.append(await tree.multi(operations))
            except TreeError as error:
                seen.append((type(error), error.path))
        seen.append(await tree.subtree("/"))
        await tree.close()
        return seen

    memory, local = asyncio.run(outcomes("memory")), asyncio.run(outcomes("local"))
    assert memory == local


async def test_a_memory_session_can_expire(tmp_path: Path) -> None:
    store = MemoryStore()
    broker, other = store.session(), store.session()
    await broker.multi([Create("/id", ephemeral=True)])
    news: list[None] = []
    other.watch_children("/", lambda: news.append(None))

    broker.expire()

    await asyncio.sleep(0)
    assert await other.get_many(["/id"]) == [None]
    assert len(news) == 1
    with pytest.raises(TreeUnavailableError):
        await broker.get("/")


async def test_a_local_tree_keeps_everything_but_sessions(tmp_path: Path) -> None:
    path = str(tmp_path / "tree.db")
    tree = LocalTree(path, InlineOffload())
    await tree.open()
    await tree.multi([Create("/a", b"\x00\xff"), Create("/a/n", sequential=True), Create("/e", ephemeral=True)])
    before = [entry for entry in await tree.subtree("/") if entry[0] != "/e"]
    # No close: the process dies.
    tree._live().close()

    again = LocalTree(path, InlineOffload())
    await again.open()
    assert await again.subtree("/") == before
    await again.close()


async def test_a_local_tree_serves_callers_one_after_the_other(tmp_path: Path) -> None:
    offload = ThreadOffload(4)
    tree = LocalTree(str(tmp_path / "tree.db"), offload)
    await tree.open()
    await tree.multi([Create("/a")])
    calls = [asyncio.ensure_future(tree.multi([Create("/a/n", sequential=True)])) for _ in range(20)]
    await asyncio.sleep(0)
    # A caller that gives up does not free the connection for others while its call still runs.
    for call in calls[::3]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await tree.children("/a") == [f"n{number:010d}" for number in range(20)]
    await tree.close()
    offload.close()


async def test_a_file_of_a_newer_release_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "tree.db")
    tree = LocalTree(path, InlineOffload())
    await tree.open()
    tree._live().execute("PRAGMA user_version=99")
    await tree.close()
    with pytest.raises(TreeUnavailableError, match="has format 99, and this release knows 1"):
        await LocalTree(path, InlineOffload()).open()


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TreeUnavailableError, match="cannot be used"):
        await LocalTree(str(tmp_path / "tree.db"), InlineOffload()).open()
