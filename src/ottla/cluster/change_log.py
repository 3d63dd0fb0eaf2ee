"""ChangeLog: how the tree is changed. Each change is one transaction that also adds a node to /changes.

`commit` returns when the change is in the tree *and* in this broker's own image, so that a client that asks next sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from ottla.cluster.nodes import CHANGE_PREFIX, CHANGES, Change, ChangeNode
from ottla.cluster.tree import Create, Delete, Operation, Result, Tree, TreeError

if TYPE_CHECKING:
    from ottla.clock import Clock
    from ottla.cluster.follow import MetadataFollower

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Partitions (or topics) in one transaction. One stale version aborts it, and ZooKeeper takes at most 1 MiB.
PARTITIONS_PER_MULTI = 100
#: So many changes are kept; who missed more reads everything again.
CHANGES_KEPT = 1_000
#: How many changes are made before old ones are looked for.
CHANGES_PER_PURGE = 100


class ChangeLog:
    """Writes changes in the session in force.

    Args:
        follower: what is committed is waited for in its image.

    Attributes:
        tree: the session in force. Keep it from the first read of a decision to its write.
    """

    def __init__(
        self,
        tree: Tree,
        follower: MetadataFollower,
        clock: Clock,
        *,
        partitions_per_multi: int = PARTITIONS_PER_MULTI,
        kept: int = CHANGES_KEPT,
    ) -> None:
        self.tree = tree
        self._follower = follower
        self._clock = clock
        self._kept = kept
        self._until_purge = 0
        self.partitions_per_multi = partitions_per_multi

    async def commit(
        self,
        operations: Sequence[Operation],
        change: Change,
        *,
        fence: Sequence[Operation] = (),
        tree: Tree | None = None,
    ) -> tuple[Result, ...]:
        """Write one transaction, and wait until our own image has it. Return what each of `operations` gave.

        Args:
            fence: checks that come first.
            tree: the session in which the decision was made; the one in force unless given.
        """
        note = Create(CHANGE_PREFIX, ChangeNode.encode(change, self._clock.wall_ms()), sequential=True)
        results = await (tree or self.tree).multi([*fence, *operations, note])
        path = results[-1]
        assert isinstance(path, str)
        await self._follower.applied(ChangeNode.number(path))
        self._until_purge -= 1
        return results[len(fence) : -1]

    async def maybe_purge(self, *, now: bool = False) -> None:
        """Remove all changes but the newest. Every broker may: what is old is old."""
        if self._until_purge > 0 and not now:
            return
        self._until_purge = CHANGES_PER_PURGE
        tree = self.tree
        names = await tree.children(CHANGES)
        for chunk in self.chunks(names[: max(0, len(names) - self._kept)]):
            try:
                await tree.multi([Delete(f"{CHANGES}/{name}") for name in chunk])
            except TreeError:
                logger.debug("another broker purges old changes at the same time")
                return

    def chunks(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """Divide what is to be written into transactions."""
        for first in range(0, len(items), self.partitions_per_multi):
            yield items[first : first + self.partitions_per_multi]
