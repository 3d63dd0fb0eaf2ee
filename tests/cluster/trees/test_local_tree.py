"""What only the tree in a file can get wrong: threads, callers that go away, what the file says after a crash."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.cluster.tree_support import subtree

from ottla.cluster.tree import Create, TreeUnavailableError
from ottla.cluster.trees.local import LocalTree
from ottla.offload import InlineOffload, ThreadOffload


async def test_change_whose_maker_was_cancelled_is_still_told(tmp_path: Path) -> None:
    """A client that disconnects cancels what waits for the tree; the change is made, and watchers must hear of it."""
    tree = LocalTree(f"{tmp_path}/tree", ThreadOffload(1))
    await tree.open()
    told = asyncio.Event()
    tree.watch_children("/", told.set)
    making = asyncio.ensure_future(tree.multi([Create("/topic")]))
    await asyncio.sleep(0)
    making.cancel()
    async with asyncio.timeout(10):
        await told.wait()
    assert await tree.children("/") == ["topic"]
    await tree.close()


async def test_the_file_keeps_everything_but_sessions(tmp_path: Path) -> None:
    path = str(tmp_path / "tree.db")
    tree = LocalTree(path, InlineOffload())
    await tree.open()
    await tree.multi([Create("/a", b"\x00\xff"), Create("/a/n", sequential=True), Create("/e", ephemeral=True)])
    before = [entry for entry in await subtree(tree) if entry[0] != "/e"]
    # No close: the process dies.
    tree._live().close()

    again = LocalTree(path, InlineOffload())
    await again.open()
    assert await subtree(again) == before
    await again.close()


@pytest.mark.parametrize("is_old", [False, True])
async def test_tree_is_private_under_umask_0(tmp_path: Path, is_old: bool) -> None:
    """Whatever the umask, and also the file of an earlier release: only its owner reads what passwords are checked with."""
    path = tmp_path / "tree.db"
    if is_old:
        path.touch()
        path.chmod(0o644)
    before = os.umask(0)
    try:
        tree = LocalTree(str(path), InlineOffload())
        await tree.open()
        await tree.multi([Create("/a")])
        names = ("tree.db", "tree.db-wal", "tree.db-shm")
        assert [os.stat(tmp_path / name).st_mode & 0o777 for name in names] == [0o600, 0o600, 0o600]
        await tree.close()
    finally:
        os.umask(before)


async def test_callers_are_served_one_after_the_other(tmp_path: Path) -> None:
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
    with pytest.raises(TreeUnavailableError, match="has format 99, and this release knows 2"):
        await LocalTree(path, InlineOffload()).open()


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TreeUnavailableError, match="cannot be used"):
        await LocalTree(str(tmp_path / "tree.db"), InlineOffload()).open()
