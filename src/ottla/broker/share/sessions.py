"""Share sessions: the partitions a member of a share group asked for, so that it need not list them again (KIP-932).

Decides which partitions a ShareFetch means and which of them its answer must list. Knows numbers; knows no logs, no clock. A
session belongs to a member and to the connection that opened it: when that ends, so does the session. Unlike fetch sessions
(KIP-227) no member is served without one: a member for which there is no room waits and asks again.

Kafka's ShareSessionCache and ShareSessionContext.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.errors import (
    InvalidRequestError,
    InvalidShareSessionEpochError,
    ShareSessionLimitReachedError,
    ShareSessionNotFoundError,
)
from ottla.types import TopicIdPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ottla.broker.context import Session

#: Epoch of a request that opens a session, and of one that ends it.
INITIAL_EPOCH = 0
FINAL_EPOCH = -1

#: Group and member.
SessionKey = tuple[str, str]


@dataclass(slots=True)
class ShareSession:
    """The partitions of one session, in the order in which they get their turn; True: the next answer lists it."""

    key: SessionKey
    epoch: int
    connection: Session
    partitions: dict[TopicIdPartition, bool] = field(default_factory=dict)

    def belongs_to(self, asking: Session) -> bool:
        """Return whether the client that asks is the one that has opened it."""
        owner = self.connection
        return owner is asking or (owner.principal == asking.principal and owner.listener == asking.listener)


class ShareSessionCache:
    """All share sessions of a broker, at most `slots` of them (`group.share.max.share.sessions`)."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._sessions: dict[SessionKey, ShareSession] = {}
        self._members: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: SessionKey) -> ShareSession | None:
        """Return a member's session, if it has one."""
        return self._sessions.get(key)

    def open(
        self, key: SessionKey, wanted: Sequence[TopicIdPartition], *, has_acks: bool, connection: Session
    ) -> ShareSession:
        """Begin a session, in place of one that is there and is the client's own.

        Raises:
            KafkaError: INVALID_REQUEST with acknowledgements (nothing was delivered yet), SHARE_SESSION_LIMIT_REACHED,
                SHARE_SESSION_NOT_FOUND where another user's session has this member id.
        """
        if has_acks:
            raise InvalidRequestError()
        known = self._sessions.get(key)
        if known is not None and not known.belongs_to(connection):
            raise ShareSessionNotFoundError()
        self.remove(key)
        if len(self._sessions) >= self._slots:
            raise ShareSessionLimitReachedError()
        session = ShareSession(key, next_epoch(INITIAL_EPOCH), connection, dict.fromkeys(wanted, False))
        self._sessions[key] = session
        self._members[key[0]] = self._members.get(key[0], 0) + 1
        return session

    def go_on(
        self,
        key: SessionKey,
        epoch: int,
        wanted: Iterable[TopicIdPartition],
        forgotten: Iterable[TopicIdPartition],
        *,
        connection: Session,
    ) -> ShareSession:
        """Go on with a session: add and take away partitions, raise the epoch.

        Raises:
            KafkaError: SHARE_SESSION_NOT_FOUND, INVALID_SHARE_SESSION_EPOCH.
        """
        session = self.check(key, epoch, connection)
        for topic_id_partition in wanted:
            session.partitions.setdefault(topic_id_partition, True)
        for topic_id_partition in forgotten:
            session.partitions.pop(topic_id_partition, None)
        session.epoch = next_epoch(session.epoch)
        return session

    def acknowledge(self, key: SessionKey, epoch: int, *, connection: Session) -> None:
        """Note a ShareAcknowledge in a session.

        Raises:
            KafkaError: SHARE_SESSION_NOT_FOUND, INVALID_SHARE_SESSION_EPOCH.
        """
        if epoch == INITIAL_EPOCH:
            raise InvalidShareSessionEpochError()
        if epoch == FINAL_EPOCH:
            self.check_exists(key, connection)
        else:
            session = self.check(key, epoch, connection)
            session.epoch = next_epoch(session.epoch)

    def check_exists(self, key: SessionKey, connection: Session) -> ShareSession:
        """Return a member's session.

        Raises:
            ShareSessionNotFoundError: it has none, or another user has opened it.
        """
        session = self._sessions.get(key)
        if session is None or not session.belongs_to(connection):
            raise ShareSessionNotFoundError()
        return session

    def check(self, key: SessionKey, epoch: int, connection: Session) -> ShareSession:
        """Return a member's session if this is its turn.

        Raises:
            KafkaError: SHARE_SESSION_NOT_FOUND, INVALID_SHARE_SESSION_EPOCH.
        """
        session = self.check_exists(key, connection)
        if session.epoch != epoch:
            raise InvalidShareSessionEpochError()
        return session

    def remove(self, key: SessionKey) -> ShareSession | None:
        """End a session; return it, or None if there is none."""
        session = self._sessions.pop(key, None)
        if session is not None:
            left = self._members[key[0]] - 1
            if left:
                self._members[key[0]] = left
            else:
                del self._members[key[0]]
        return session

    def has_members(self, group_id: str) -> bool:
        """Return whether a member of this group has a session."""
        return group_id in self._members


def next_epoch(epoch: int) -> int:
    """Return the epoch after this one; 0 and -1 are never reached."""
    return 1 if epoch == 0x7FFFFFFF else epoch + 1
