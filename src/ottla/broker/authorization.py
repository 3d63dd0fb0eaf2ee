"""Authorizer: may this client do this? Decides by the access rules of the image, keeps decisions, and notes denials.

Decisions are kept with the session they are about, whose principal and host never change, and forgotten when the rules do.
What is kept is bounded, however many names a client asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ottla.observability.logs import shown
from ottla.security.acls import (
    CLUSTER_NAME,
    OPERATIONS,
    AccessRules,
    Binding,
    Operation,
    ResourceType,
)
from ottla.security.principals import java_address

if TYPE_CHECKING:
    from ottla.broker.audit import Audit
    from ottla.broker.context import Session
    from ottla.broker.settings.access import AccessSettings
    from ottla.cluster.image import ClusterImage
    from ottla.security.acls import Rules

#: Decisions kept with one session, and how long the names in them may be.
DECISIONS_MAX, NAME_MAX = 512, 249

TOPIC: Final = ResourceType.TOPIC
GROUP: Final = ResourceType.GROUP
CLUSTER: Final = ResourceType.CLUSTER
TRANSACTIONAL_ID: Final = ResourceType.TRANSACTIONAL_ID


class KeptDecisions:
    """What was decided for one session under one state of the rules."""

    __slots__ = ("decisions", "rules")

    def __init__(self, rules: AccessRules) -> None:
        self.rules = rules
        self.decisions: dict[tuple[Operation, ResourceType, str], bool] = {}


class Authorizer:
    """Answers for the rules of the newest image."""

    def __init__(self, image: Callable[[], ClusterImage], settings: AccessSettings, audit: Audit) -> None:
        self._image = image
        self._settings = settings
        self._audit = audit
        self._source: Rules | None = None
        self._rules = AccessRules({})

    @property
    def rules(self) -> AccessRules:
        """The rules in force."""
        source = self._image().acls
        if source is not self._source:
            self._source = source
            self._rules = AccessRules(source, allow_if_none=self._settings.allow_if_none)
        return self._rules

    def is_super(self, session: Session) -> bool:
        """Return whether no rule counts for this client."""
        return session.principal in self._settings.super_users

    def allows(
        self, session: Session, operation: Operation, kind: ResourceType, name: str, *, is_logged: bool = True
    ) -> bool:
        """Return whether the client may do this; a denial is noted unless it was only a question."""
        if session.principal in self._settings.super_users:
            return True
        rules = self.rules
        kept: KeptDecisions | None = session.rights
        if kept is None or kept.rules is not rules:
            kept = session.rights = KeptDecisions(rules)
        key = (operation, kind, name)
        known = kept.decisions.get(key)
        if known is None or (is_logged and not known):
            decision = rules.decide(session.principal, java_address(session.client_host), operation, kind, name)
            known = decision.is_allowed
            if len(name) <= NAME_MAX:
                if len(kept.decisions) >= DECISIONS_MAX:
                    kept.decisions.clear()
                kept.decisions[key] = known
            if is_logged and not known:
                self._note(session, operation, kind, name, decision.because)
        return known

    def allows_cluster(self, session: Session, operation: Operation, *, is_logged: bool = True) -> bool:
        """Return whether the client may do this with the cluster."""
        return self.allows(session, operation, CLUSTER, CLUSTER_NAME, is_logged=is_logged)

    def allows_some(self, session: Session, operation: Operation, kind: ResourceType) -> bool:
        """Return whether there is a name with which the client may do this."""
        if self.is_super(session):
            return True
        return self.rules.decide_some(session.principal, java_address(session.client_host), operation, kind)

    def allowed(
        self,
        session: Session,
        operation: Operation,
        kind: ResourceType,
        names: Iterable[str],
        *,
        is_logged: bool = True,
    ) -> set[str]:
        """Return those names with which the client may do this."""
        return {
            name for name in dict.fromkeys(names) if self.allows(session, operation, kind, name, is_logged=is_logged)
        }

    def operations(self, session: Session, kind: ResourceType, name: str) -> int:
        """Return what the client may do with a resource, as the bits of KIP-430."""
        return sum(
            1 << operation
            for operation in OPERATIONS[kind]
            if operation is not Operation.TWO_PHASE_COMMIT
            and self.allows(session, operation, kind, name, is_logged=False)
        )

    def _note(
        self, session: Session, operation: Operation, kind: ResourceType, name: str, because: Binding | None
    ) -> None:
        rule = None
        if because is not None:
            rule = f"{because.pattern.pattern_type.name}:{shown(because.pattern.name)}"
        self._audit.denied(session, operation.name, f"{kind.name}:{shown(name)}", rule)
