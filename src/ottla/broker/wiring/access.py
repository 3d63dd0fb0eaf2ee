"""What guards and handlers are given to decide who may do what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ottla.broker.authorization import Authorizer

if TYPE_CHECKING:
    from ottla.broker.context import Session
    from ottla.broker.wiring.parts import Parts
    from ottla.cluster.image import ClusterImage
    from ottla.security.acls import Operation, ResourceType


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


def right(
    authorizer: Authorizer | None, operation: Operation, kind: ResourceType, *, is_logged: bool = False
) -> Callable[[Session, str], bool] | None:
    """Return what says whether a client may do this with a resource of this kind; None where everybody may.

    Args:
        is_logged: whether a denial is noted. A short cut only leaves what is denied to a guard or a handler, which notes it.
    """
    return None if authorizer is None else partial(_may, authorizer, operation, kind, is_logged=is_logged)


def _may(
    authorizer: Authorizer, operation: Operation, kind: ResourceType, session: Session, name: str, *, is_logged: bool
) -> bool:
    return authorizer.allows(session, operation, kind, name, is_logged=is_logged)


class SecretDice:
    """Numbers that cannot be guessed, as fetch sessions want them."""

    def __init__(self, secret_bytes: Callable[[int], bytes]) -> None:
        self._secret_bytes = secret_bytes

    def randrange(self, start: int, stop: int) -> int:
        """Return a number from `start` up to, not including, `stop`; the span is far below 2 ** 64."""
        return start + int.from_bytes(self._secret_bytes(8), "big") % (stop - start)
