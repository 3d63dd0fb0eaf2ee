"""What a consumer with a group id does with its group: find the coordinator, be a member, commit, watch its caller.

The caller is watched between its calls: one that does not come back within `max.poll.interval.ms`, and makes no
progress in what it was given, is taken out of the group so that others get its partitions (KIP-62).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ottla.client._core.classic_group import ClassicMembership
from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import Coordinator
from ottla.client._core.group import Fail, GroupSettings, Lose, Membership, Step, Subscription
from ottla.client._core.modern_group import ModernMembership
from ottla.client._core.offsets import Offsets
from ottla.client._core.requests import FOREVER, Action
from ottla.client._core.transactions import GroupMetadata
from ottla.patterns import Pattern, compile_pattern

if TYPE_CHECKING:
    from ottla.client._core.fetching import Fetcher

logger = logging.getLogger("ottla.client.groups")

#: How often progress is looked for in `max.poll.interval.ms`.
_LOOKS: Final = 8


class GroupClient:
    """One consumer's side of one group.

    Attributes:
        membership: the member; None where partitions are assigned by hand.
        offsets: what is committed.
        make_membership: makes another member than the protocol's, for a program that brings its own; set before `subscribe`.
        away_since_ms: since when the caller does something else; None while it is in a call of the consumer's.
        commit_due: called when `auto.commit.interval.ms` have passed; the shell commits what is finished.
    """

    def __init__(
        self,
        machine: ClientMachine,
        settings: GroupSettings,
        fetcher: Fetcher,
        *,
        commit_interval_ms: float | None,
    ) -> None:
        self.settings = settings
        self.coordinator: Coordinator = Coordinator(machine, settings.group_id)
        self.offsets: Offsets = Offsets(machine, self.coordinator, settings.group_id, fetcher)
        self.membership: Membership | None = None
        self.make_membership: Callable[[ClientMachine, Coordinator], Membership] | None = None
        self.away_since_ms: float | None = None
        self.commit_due: Callable[[], object] | None = None
        self._machine = machine
        self._fetcher = fetcher
        self._commit_interval_ms = commit_interval_ms
        self._commit_ms: float | None = None
        self._subscription = Subscription()
        self._look_ms = 0.0
        self._progress: object = None
        #: Memberships that are leaving.
        self._former: list[Membership] = []

    # -- the caller's side ------------------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str], pattern: str | None, now_ms: float) -> None:
        """Read topics as a member: by name, or those whose whole name matches a pattern of RE2's.

        Raises:
            PatternError: RE2 does not accept the pattern.
        """
        compiled: Pattern | None = None if pattern is None else compile_pattern(pattern)
        matches = None if compiled is None else lambda name: compiled.fullmatch(name) is not None
        self._subscription = Subscription(tuple(sorted(set(topics))), pattern, matches)
        metadata = self._machine.metadata
        metadata.all_topics = pattern is not None
        metadata.request_update()
        for topic in self._subscription.topics:
            metadata.use(topic, now_ms)
        if self.membership is None:
            if self.make_membership is not None:
                self.membership = self.make_membership(self._machine, self.coordinator)
            elif self.settings.protocol == "consumer":
                self.membership = ModernMembership(self._machine, self.coordinator, self.settings, self._fall_back)
            else:
                self.membership = ClassicMembership(self._machine, self.coordinator, self.settings)
            self.offsets.membership = self.membership
        self.membership.subscribe(self._subscription)

    def unsubscribe(self) -> None:
        """Leave the group; partitions are assigned by hand from now on, or not at all."""
        self._subscription = Subscription()
        self._machine.metadata.all_topics = False
        if self.membership is not None:
            self.membership.leave()
            self._former.append(self.membership)
            self.membership = self.offsets.membership = None

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are subscribed to by name."""
        return self._subscription.topics

    def _fall_back(self) -> None:
        logger.info(
            "group %s: the broker has no groups of the consumer protocol (KIP-848); the classic protocol is used",
            self.settings.group_id,
        )
        self.membership = ClassicMembership(self._machine, self.coordinator, self.settings)
        self.offsets.membership = self.membership
        self.membership.subscribe(self._subscription)

    @property
    def identity(self) -> GroupMetadata:
        """Who the member is, for commits."""
        return GroupMetadata(self.settings.group_id) if self.membership is None else self.membership.identity

    def step(self) -> Step | None:
        """Return what the caller is to do next, or None."""
        error = self.coordinator.take_error()
        if error is not None:
            return Fail(error)
        return self.membership.step() if self.membership is not None else None

    @property
    def step_waits(self) -> bool:
        """Whether there is something for the caller to do."""
        return self.coordinator.error is not None or (
            self.membership is not None and self.membership.step() is not None
        )

    def done(self, step: Step) -> None:
        """The caller has done it."""
        if self.membership is not None:
            self.membership.done(step)

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        wake_ms = min(self._watch(now_ms), self._poll_commit(now_ms))
        if self.membership is not None:
            wake_ms = min(wake_ms, self.membership.poll(now_ms, actions))
        self._former = [each for each in self._former if not each.left]
        for membership in self._former:
            wake_ms = min(wake_ms, membership.poll(now_ms, actions))
        return min(wake_ms, self.offsets.poll(now_ms, actions), self.coordinator.poll(now_ms, actions))

    def _poll_commit(self, now_ms: float) -> float:
        interval_ms = self._commit_interval_ms
        if interval_ms is None or self.commit_due is None:
            return FOREVER
        if self._commit_ms is None:
            self._commit_ms = now_ms + interval_ms
        if self._commit_ms <= now_ms:
            self._commit_ms = now_ms + interval_ms
            if not self.offsets.committing:
                self.commit_due()
        return self._commit_ms

    def _watch(self, now_ms: float) -> float:
        """Take a caller that was away for too long out of the group."""
        membership, since_ms = self.membership, self.away_since_ms
        if membership is None or since_ms is None or not membership.owned:
            self._progress = None
            return FOREVER
        if self._look_ms > now_ms:
            return self._look_ms
        interval_ms = self.settings.max_poll_interval_ms
        progress = [(where, state.position) for where, state in self._fetcher.partitions.items()]
        if self._progress is not None and progress != self._progress:
            # The records that were at hand are handed out without a call into here.
            self.away_since_ms = since_ms = now_ms
        self._progress = progress
        if now_ms - since_ms >= interval_ms:
            if not isinstance(membership.step(), Lose):
                membership.on_slow(since_ms)
                self._machine.wake()
            self._look_ms = FOREVER
        else:
            self._look_ms = now_ms + min(interval_ms / _LOOKS, max(since_ms + interval_ms - now_ms, 1))
        return self._look_ms

    def come_back(self) -> None:
        """The caller is in a call."""
        self.away_since_ms = None

    def go_away(self, now_ms: float) -> None:
        """The caller's call returns."""
        self.away_since_ms = now_ms
        self._look_ms = 0.0
