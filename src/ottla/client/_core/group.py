"""What the two protocols of consumer groups have in common: settings, what the caller is to do next, who the member is.

The group's side goes on behind the caller's back: heartbeats, joining, what was assigned. What the caller owns changes
only in the caller's own calls: there it asks for the next `Step`, does it (commits, calls the callbacks, stops or begins
reading) and says that it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ottla.client._core.requests import Action
from ottla.client._core.transactions import GroupMetadata
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.client._core.assignors import Assignor


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Kafka's names with `_` for `.`, Kafka's defaults; times in milliseconds."""

    group_id: str
    group_instance_id: str | None = None
    protocol: str = "classic"
    remote_assignor: str | None = None
    assignors: Sequence[Assignor] = field(default_factory=list)
    session_timeout_ms: float = 45_000
    heartbeat_interval_ms: float = 3_000
    max_poll_interval_ms: float = 300_000
    client_rack: str = ""
    exclude_internal_topics: bool = True


class Revoke(NamedTuple):
    """Commit what is finished and give these partitions up; `on_revoked` of the caller's."""

    partitions: list[TopicPartition]


class Lose(NamedTuple):
    """These partitions belong to others already; `on_lost` of the caller's.

    Attributes:
        since_ms: since when the caller was away, if that is why.
    """

    partitions: list[TopicPartition]
    since_ms: float | None = None


class Assign(NamedTuple):
    """Begin with these partitions, none of which is owned yet; `on_assigned` of the caller's. May be empty."""

    partitions: list[TopicPartition]


class Fail(NamedTuple):
    """Raise this. The next call goes on."""

    error: Exception


Step = Revoke | Lose | Assign | Fail


class Subscription(NamedTuple):
    """What a member wants to read: topics by name, or those whose whole name matches a pattern.

    Attributes:
        pattern: for the broker, in RE2's syntax; None where only this client can match it.
        matches: whether a topic's name matches.
    """

    topics: tuple[str, ...] = ()
    pattern: str | None = None
    matches: Callable[[str], bool] | None = None


class Membership(Protocol):
    """One member of one group.

    Attributes:
        owned: what the caller owns, as of the last step that it has done.
        settled: whether offsets may be committed now; while the member joins they wait.
        rebalances: how often an assignment was taken.
    """

    owned: dict[TopicPartition, None]
    rebalances: int

    @property
    def settled(self) -> bool: ...

    @property
    def identity(self) -> GroupMetadata:
        """Who the member is, for commits."""
        ...

    def subscribe(self, subscription: Subscription) -> None:
        """Read something else from now on."""
        ...

    def step(self) -> Step | None:
        """Return what the caller is to do, or None."""
        ...

    def done(self, step: Step) -> None:
        """The caller has done it."""
        ...

    def rejoin(self, reason: str) -> None:
        """Have the group rebalance."""
        ...

    def on_slow(self, since_ms: float) -> None:
        """The caller was away for longer than `max.poll.interval.ms`: leave until it comes back."""
        ...

    def on_refused_commit(self, code: int, identity: GroupMetadata) -> None:
        """A commit under this identity got this code, which says that the group does not know the member."""
        ...

    def leave(self) -> None:
        """Leave; `left` is true once that is answered, or need not be."""
        ...

    @property
    def left(self) -> bool: ...

    def on_image(self) -> None:
        """Metadata was taken in."""
        ...

    def poll(self, now_ms: float, actions: list[Action]) -> float: ...
