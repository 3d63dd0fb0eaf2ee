"""A member of a classic group of any protocol type: what others bring beside consumers, connectors for example.

The member's program says which protocols it knows and what it tells the others; the leader's assigns. What happens is kept as
events, in order, until the program takes them: it joins a rebalance only once it has taken the `Rebalancing` before it and
asks for more, for it may have to give something up first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ottla.client._core.classic_member import ClassicMember, JoinedMember, MemberSettings
from ottla.client._core.client import ClientMachine, CoreSettings
from ottla.client._core.coordinator import Coordinator

if TYPE_CHECKING:
    from random import Random


class Joined(NamedTuple):
    """The member is part of a generation of the group.

    Attributes:
        protocol: what the members agreed on.
        assignment: what the leader gave this member.
        is_leader: whether this member has assigned.
    """

    generation_id: int
    member_id: str
    protocol: str
    assignment: bytes
    is_leader: bool


class Rebalancing(NamedTuple):
    """The group rebalances: give up what others may get, then ask for the next event; that joins again."""


class Lost(NamedTuple):
    """The group does not know the member any more, and others may have what it had; it joins again by itself."""


MembershipEvent = Joined | Rebalancing | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSettings(CoreSettings):
    """One member; see `MemberSettings`."""

    member: MemberSettings


class PlainGroup(ClientMachine):
    """One member, and nothing else.

    Attributes:
        events: what has happened and was not taken yet.
        error: why the member cannot join, or was shut out; raised once.
        rejoins: why the member joins again once its program asks for more; None: it does not.
    """

    def __init__(
        self,
        settings: PlainSettings,
        bootstrap: Sequence[tuple[str, int]],
        random: Random,
        protocols: Callable[[], Sequence[tuple[str, bytes]]],
        assign: Callable[[str, Sequence[JoinedMember]], Mapping[str, bytes]],
    ) -> None:
        super().__init__(settings, bootstrap, random)
        self.events: deque[MembershipEvent] = deque()
        self.error: Exception | None = None
        self.protocols = protocols
        self.assign = assign
        self.rejoins: str | None = None
        coordinator = Coordinator(self, settings.member.group_id)
        self._coordinator = coordinator
        self.member = ClassicMember(self, coordinator, settings.member, _Application(self))
        self.parts += [self.member, coordinator]

    # -- the caller's side ------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Become a member."""
        self.member.join("a member starts")

    def rejoin(self, reason: str) -> None:
        """Have the group rebalance: the next event is `Rebalancing`, also for the others."""
        if self.rejoins is None:
            self.rejoins = reason
            self.events.append(Rebalancing())
            self.wake()

    def take(self) -> MembershipEvent | None:
        """Return what has happened next, or None.

        Raises:
            Exception: the member cannot join, or is shut out.
        """
        error, self.error = self.error or self._coordinator.take_error(), None
        if error is not None:
            raise error
        if self.events:
            return self.events.popleft()
        if self.rejoins is not None:
            reason, self.rejoins = self.rejoins, None
            self.member.join(reason)
        return None

    def leave(self, reason: str) -> None:
        """Leave; `member.left` says when that is done."""
        self.member.leave(reason)


class _Application:
    """See `classic_member.Application`."""

    def __init__(self, group: PlainGroup) -> None:
        self._group = group

    def protocols(self) -> Sequence[tuple[str, bytes]]:
        return self._group.protocols()

    def lead(self, protocol: str, members: Sequence[JoinedMember]) -> Mapping[str, bytes] | None:
        return self._group.assign(protocol, members)

    def on_joined(self, protocol: str, assignment: bytes) -> None:
        group, member = self._group, self._group.member
        group.events.append(
            Joined(member.generation_id, member.member_id, protocol, bytes(assignment), member.is_leader)
        )
        group.wake()

    def on_rebalance(self) -> None:
        self._group.rejoin("the group rebalances")

    def on_lost(self) -> None:
        self._group.rejoins = None  # it joins by itself
        self._group.events.clear()
        self._group.events.append(Lost())
        self._group.wake()

    def on_failed(self, error: Exception) -> None:
        self._group.error = error
        self._group.wake()
