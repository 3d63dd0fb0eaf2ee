"""What only the tree in a file can get wrong: threads, and callers that go away."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ottla.cluster.tree import Create
from ottla.cluster.trees.local import LocalTree
from ottla.offload import ThreadOffload


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
