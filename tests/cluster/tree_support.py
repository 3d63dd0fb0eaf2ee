"""What tests ask of a tree and brokers never do: everything below a node."""

from __future__ import annotations

from ottla.cluster.tree import Node, Tree


async def subtree(tree: Tree, path: str = "/") -> list[tuple[str, Node]]:
    """Return (path, node) of the node and everything below it, sorted by path; empty if it does not exist."""
    found: list[tuple[str, Node]] = []
    level = [path]
    while level:
        nodes = await tree.get_many(level)
        found += [(path, node) for path, node in zip(level, nodes, strict=True) if node is not None]
        level = [
            f"{path.rstrip('/')}/{name}"
            for path, node in zip(level, nodes, strict=True)
            if node is not None
            for name in await tree.children(path)
        ]
    return sorted(found)


async def paths_below(tree: Tree, path: str = "/") -> list[str]:
    """Return the paths of the node and everything below it, sorted."""
    return [path for path, _ in await subtree(tree, path)]
