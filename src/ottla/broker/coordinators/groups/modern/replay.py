"""What applying records has in common for consumer, share and streams groups, live and on loading.

A group appears with the first of its records, whichever it is. Tombstones of what is not there are ignored: compaction may
have taken what they were for. A *simple* classic group, which only committed offsets speak of, gives way: its offsets may
lie before the group's first record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.group import Group

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import ShardParts
    from ottla.broker.coordinators.timeline import TimelineDict

logger = logging.getLogger(__name__)

M = TypeVar("M")

#: The epoch of a target assignment that has been taken away.
NO_ASSIGNMENT_EPOCH = -1


class _Group(Group, Protocol):
    """A `Group` that is a `ModernGroup`."""

    members: TimelineDict[str, Any]
    targets: TimelineDict[str, Any]

    def update_member(self, member: Any) -> None: ...

    def remove_member(self, member_id: str) -> None: ...


G = TypeVar("G", bound=_Group)


class ModernReplay(Generic[G, M]):
    """Applies records to the groups of one type and one partition.

    Args:
        group_class, make_group: the groups of this type, and what makes the group of an id.
        make_member: makes the member of an id, of which nothing is known yet.
    """

    def __init__(
        self,
        parts: ShardParts,
        group_class: type[G],
        make_group: Callable[[str], G],
        make_member: Callable[[str], M],
    ) -> None:
        self._groups = parts.groups
        self._group_class = group_class
        self._make_group = make_group
        self._make_member = make_member

    def find(self, group_id: str, value: object) -> G | None:
        """Return the group that a record is about: made if need be, but not for a tombstone (`value` None)."""
        group = self._groups.get(group_id)
        if isinstance(group, self._group_class):
            return group
        if value is None:
            return None
        made = self._make_group(group_id)
        if group is not None and not (isinstance(group, ClassicGroup) and group.is_simple):
            # Only a log that was written wrongly says so; the newer record counts.
            logger.error(
                "group %s was a %s group and becomes a %s group",
                group_id,
                group.group_type.value,
                made.group_type.value,
            )
        self._groups[group_id] = made
        return made

    def delete(self, group_id: str) -> None:
        """Apply the tombstone of a group."""
        if self.find(group_id, None) is not None:
            self._groups.pop(group_id)

    def replay_member(self, key: Any, value: Any, changed: Callable[[M, Any], M]) -> None:
        """Apply the record of a member's subscription; `changed` returns the member with what the record says."""
        group = self.find(key.group_id, value)
        if group is None:
            return
        if value is None:
            group.remove_member(key.member_id)
        else:
            group.update_member(changed(group.members.get(key.member_id) or self._make_member(key.member_id), value))

    def replay_current(self, key: Any, value: Any, changed: Callable[[M, Any], M], without: Callable[[M], M]) -> None:
        """Apply the record of what a member has; `without` returns a member that has nothing, after a tombstone."""
        group = self.find(key.group_id, value)
        if group is None:
            return
        member = group.members.get(key.member_id)
        if value is not None:
            group.update_member(changed(member or self._make_member(key.member_id), value))
        elif member is not None:
            group.update_member(without(member))

    def replay_target(self, key: Any, value: Any, read: Callable[[Any], Any]) -> None:
        """Apply the record of what a member is to have."""
        group = self.find(key.group_id, value)
        if group is None:
            return
        if value is None:
            group.targets.pop(key.member_id)
        else:
            group.targets[key.member_id] = read(value)
