"""ModernGroup: what consumer, share and streams groups have in common: members with epochs, and targets for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ottla.broker.coordinators.groups.group import OffsetExpiry
from ottla.broker.coordinators.timeline import TimelineDict
from ottla.errors import NonEmptyGroupError, UnknownMemberIdError

if TYPE_CHECKING:
    from ottla.broker.coordinators.timeline import Timeline

M = TypeVar("M")
T = TypeVar("T")


class ModernGroup(Generic[M, T]):
    """A group whose members the broker assigns.

    Attributes:
        members: by member id.
        targets: member id -> what the member is to have.
    """

    def __init__(self, group_id: str, timeline: Timeline) -> None:
        self.group_id = group_id
        self.members: TimelineDict[str, M] = TimelineDict(timeline)
        self.targets: TimelineDict[str, T] = TimelineDict(timeline)

    @property
    def is_empty(self) -> bool:
        return not len(self.members)

    @property
    def empty_since_ms(self) -> int:
        return -1

    @property
    def offset_expiry(self) -> OffsetExpiry:
        return OffsetExpiry.SINCE_COMMIT

    @property
    def may_expire(self) -> bool:
        return self.is_empty

    def member(self, member_id: str) -> M:
        """Return the member.

        Raises:
            UnknownMemberIdError: there is no such member.
        """
        member = self.members.get(member_id)
        if member is None:
            raise self.unknown_member(member_id)
        return member

    def unknown_member(self, member_id: str | None) -> UnknownMemberIdError:
        """Return the error for a member id that is not in the group."""
        return UnknownMemberIdError(f"Member {member_id} is not a member of group {self.group_id}.")

    def update_member(self, member: M) -> None:
        """Put a member in the place of its earlier value."""
        raise NotImplementedError

    def remove_member(self, member_id: str) -> None:
        """Take a member out."""
        raise NotImplementedError

    def validate_offset_delete(self) -> None:
        """Allow it: offsets of topics without subscribers may always be deleted."""

    def validate_delete(self) -> None:
        """Only groups without members may be deleted.

        Raises:
            NonEmptyGroupError: there are members.
        """
        if not self.is_empty:
            raise NonEmptyGroupError()
