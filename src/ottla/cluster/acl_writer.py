"""AclWriter: access rules in the tree. Every broker writes them, by compare-and-set on what is there at that moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ottla.cluster.nodes import Change
from ottla.cluster.nodes.acls import AclNode
from ottla.cluster.tree import Create, Delete, Operation, RequestTooLargeError, SetData, TreeError
from ottla.errors import RequestTimedOutError
from ottla.security.acls import Binding, Pattern, Rule

if TYPE_CHECKING:
    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.registration import Registration

TRIES_MAX = 20


class AclWriter:
    """Writes access rules of this broker's change log."""

    def __init__(self, log: ChangeLog, registration: Registration) -> None:
        self._log = log
        self._registration = registration

    async def create(self, bindings: Sequence[Binding]) -> None:
        """Add rules; one that is there already is left as it is.

        Raises:
            RequestTimedOutError: others change the same rules at the same time, again and again.
        """
        for chunk in self._log.chunks(list(dict.fromkeys(binding.pattern for binding in bindings))):
            added = {pattern: [b.rule for b in bindings if b.pattern == pattern] for pattern in chunk}
            await self._change(
                chunk,
                lambda pattern, now, added=added: (*now, *(r for r in dict.fromkeys(added[pattern]) if r not in now)),  # type: ignore[misc]
            )

    async def delete(self, bindings: Sequence[Binding]) -> None:
        """Take rules away; one that is gone already is no error."""
        for chunk in self._log.chunks(list(dict.fromkeys(binding.pattern for binding in bindings))):
            gone = {pattern: {b.rule for b in bindings if b.pattern == pattern} for pattern in chunk}
            await self._change(chunk, lambda pattern, now, gone=gone: tuple(r for r in now if r not in gone[pattern]))  # type: ignore[misc]

    async def _change(
        self, patterns: Sequence[Pattern], decide: Callable[[Pattern, tuple[Rule, ...]], tuple[Rule, ...]]
    ) -> None:
        paths = [AclNode.path(pattern) for pattern in patterns]
        for _ in range(TRIES_MAX):
            tree = self._log.tree
            operations: list[Operation] = []
            changed: list[str] = []
            for pattern, path, node in zip(patterns, paths, await tree.get_many(paths), strict=True):
                now = () if node is None else AclNode.decode(path, node.data)
                wanted = decide(pattern, now)
                if wanted == now:
                    continue
                changed.append(path)
                if node is None:
                    operations.append(Create(path, AclNode.encode(wanted)))
                elif wanted:
                    operations.append(SetData(path, AclNode.encode(wanted), node.stat.version))
                else:
                    operations.append(Delete(path, node.stat.version))
            if not operations:
                return
            try:
                await self._log.commit(
                    operations, Change(acls=tuple(changed)), fence=self._registration.fence(), tree=tree
                )
                return
            except RequestTooLargeError:
                raise
            except TreeError as error:
                if error.path not in paths:
                    raise
        raise RequestTimedOutError("Others change these rules at the same time.")
