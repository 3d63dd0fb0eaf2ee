"""The core of a share consumer without I/O: a member of a share group and its sessions with the brokers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import Coordinator
from ottla.client._core.share_member import ShareMembership
from ottla.client._core.share_requests import ShareSettings
from ottla.client._core.share_sessions import ShareSessions

if TYPE_CHECKING:
    from random import Random


class ShareMachine(ClientMachine):
    """One share consumer."""

    def __init__(self, settings: ShareSettings, bootstrap: Sequence[tuple[str, int]], random: Random) -> None:
        super().__init__(settings, bootstrap, random)
        self.coordinator = Coordinator(self, settings.group_id)
        self.membership = ShareMembership(self, self.coordinator, settings.group_id, settings.client_rack)
        self.sessions = ShareSessions(self, settings, self.membership)
        self.parts += [self.membership, self.sessions, self.coordinator]

    def subscribe(self, topics: Iterable[str], now_ms: float) -> None:
        """Read these topics from now on."""
        self.membership.subscribe(topics, now_ms)

    def check(self) -> None:
        """Raise what the caller has to know, once.

        Raises:
            KafkaError: the group refuses the member, or a topic cannot be read at all.
        """
        error = self.membership.take_error()
        if error is not None:
            raise error
        for topic in self.membership.topics:
            problem = self.metadata.errors.get(topic)
            if problem is not None and not problem.retriable:
                raise problem

    def on_down(self, node_id: int, error: Exception, now_ms: float) -> None:
        self.sessions.on_down(node_id, error)
        super().on_down(node_id, error, now_ms)

    def close(self) -> None:
        """End the sessions and leave the group; `closed` says when that is done."""
        self.sessions.close()
        self.membership.leave()

    @property
    def closed(self) -> bool:
        return self.sessions.closed and self.membership.left
