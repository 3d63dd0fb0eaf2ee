"""What guards and handlers are given to decide who may do what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ottla.broker.authorization import TOPIC, Authorizer
from ottla.security.acls import Operation

if TYPE_CHECKING:
    from ottla.broker.context import Session
    from ottla.broker.wiring.parts import Parts
    from ottla.cluster.image import ClusterImage


class GuardedParts:
    """The parts of a broker that guards look at."""

    def __init__(self, parts: Parts, authorizer: Authorizer) -> None:
        self._parts = parts
        self.authorizer = authorizer

    @property
    def auto_creates_topics(self) -> bool:
        return self._parts.config().auto_create_topics_enable

    def image(self) -> ClusterImage:
        return self._parts.image()


def topic_right(authorizer: Authorizer | None, operation: Operation) -> Callable[[Session, str], bool] | None:
    """Return what says whether a client may do this with a topic; None where everybody may."""
    return None if authorizer is None else partial(_may, authorizer, operation)


def _may(authorizer: Authorizer, operation: Operation, session: Session, name: str) -> bool:
    # A short cut only leaves what is denied to the guard, which notes it.
    return authorizer.allows(session, operation, TOPIC, name, is_logged=operation is not Operation.WRITE)


class SecretDice:
    """Numbers that cannot be guessed, as fetch sessions want them."""

    def __init__(self, secret_bytes: Callable[[int], bytes]) -> None:
        self._secret_bytes = secret_bytes

    def randrange(self, start: int, stop: int) -> int:
        """Return a number from `start` up to, not including, `stop`; the span is far below 2 ** 64."""
        return start + int.from_bytes(self._secret_bytes(8), "big") % (stop - start)
