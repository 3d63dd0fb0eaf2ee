"""Reads a coordination tree as a whole: for tools that copy it while no decision depends on it.

What is read is no snapshot across nodes. Ephemeral nodes are left out: they belong to sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ottla.cluster.tree import Node, NoNodeError, Tree

#: Questions for children that are under way at once.
ASKED_AT_ONCE = 200


async def persistent_nodes(tree: Tree, root: str = "/", *, without: Collection[str] = ()) -> dict[str, Node]:
    """Return all persistent nodes below `root`, and it, by path, parents before their children.

    Args:
        without: paths that are left out with everything below them.

    Raises:
        TreeUnavailableError: the tree cannot be read.
    """
    found: dict[str, Node] = {}
    level = [root]
    while level:
        nodes = await tree.get_many(level)
        there = {
            path: node for path, node in zip(level, nodes, strict=True) if node is not None and not node.stat.owner
        }
        found |= there
        level = []
        paths = list(there)
        for first in range(0, len(paths), ASKED_AT_ONCE):
            some = paths[first : first + ASKED_AT_ONCE]
            for path, names in zip(some, await asyncio.gather(*(_children(tree, p) for p in some)), strict=True):
                level += [below for name in names if (below := f"{path.rstrip('/')}/{name}") not in without]
    return found


async def _children(tree: Tree, path: str) -> list[str]:
    try:
        return await tree.children(path)
    except NoNodeError:  # it has gone meanwhile
        return []
