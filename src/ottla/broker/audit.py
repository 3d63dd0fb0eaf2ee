"""Audit: what was refused, who has logged in or has not, and what was changed of the rules, as JSON lines of `ottla.audit`.

Each kind of line has room of its own in a second, so that a flood of one kind (wrong passwords, most often) pushes out no
other; what is left out is counted and told with the next line of the kind. Nothing that a client sends is written but names
through `shown`; secrets never come here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from ottla.observability.logs import shown
from ottla.protocol.api import ApiKey
from ottla.security.acls import Operation, PatternType, Permission, ResourceType
from ottla.security.principals import java_address

if TYPE_CHECKING:
    from ottla.broker.context import Handler, RequestContext, Session

audit_log = logging.getLogger("ottla.audit")

#: Lines of one kind in a second; more are counted.
LINES_PER_SECOND = 20


class Audit:
    """Writes the lines of one broker.

    Args:
        now: seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kinds: dict[str, _Room] = {}
        #: Requests that were denied something, counted whether or not a line says so.
        self.denials = 0

    def denied(self, session: Session, operation: str, resource: str, rule: str | None) -> None:
        """The rules do not let a client do something."""
        self.denials += 1
        row: dict[str, Any] = {
            "decision": "denied",
            "principal": shown(session.principal),
            **_place(session),
            "operation": operation,
            "resource": resource,
        }
        if rule is not None:
            row["rule"] = rule
        self._write("denials", row)

    def logged_in(self, session: Session, mechanism: str, *, again: bool = False) -> None:
        """A client has shown who it is: by a mechanism of SASL, a certificate (TLS), or to the pages (HTTP ...)."""
        row: dict[str, Any] = {"login": "again" if again else "accepted", "principal": shown(session.principal)}
        if session.is_by_token:
            row["by"] = "delegation token"
        self._write("logins", {**row, "mechanism": mechanism, **_place(session)})

    def refused(self, session: Session, mechanism: str, claimed: str, why: str) -> None:
        """A client has not shown who it is; `claimed` is the name that it gave, "" for none."""
        row = {"login": "refused", "mechanism": mechanism, **_place(session), "why": shown(why)}
        self._write("refused_logins", {**row, "claimed": shown(claimed)} if claimed else row)

    def handshake_failed(self, listener: str, ip: str, why: str) -> None:
        """A client has not got as far as a session: its handshake of TLS has failed."""
        row = {
            "login": "refused",
            "mechanism": "TLS",
            "host": java_address(ip),
            "listener": listener,
            "why": shown(why),
        }
        self._write("refused_handshakes", row)

    def ended(self, session: Session, mechanism: str) -> None:
        """A client's login has run out and it has not logged in again."""
        row = {"login": "ended", "principal": shown(session.principal), "mechanism": mechanism, **_place(session)}
        self._write("ended_logins", row)

    def changed(self, session: Session, what: str, of: list[str]) -> None:
        """A client has changed rules, credentials, quotas or tokens: `of` names them, as far as it may be told."""
        row: dict[str, Any] = {"change": what, "principal": shown(session.principal), **_place(session)}
        self._write("changes", {**row, "of": [shown(name) for name in of[:20]], "count": len(of)})

    def _write(self, kind: str, row: dict[str, Any]) -> None:
        now = self._now()
        room = self._kinds.setdefault(kind, _Room())
        if now - room.second >= 1.0:
            if room.left_out:
                audit_log.info('{"%s_left_out": %d}', kind, room.left_out)
            room.second, room.lines, room.left_out = now, 0, 0
        room.lines += 1
        if room.lines > LINES_PER_SECOND:
            room.left_out += 1
        else:
            audit_log.info("%s", json.dumps(row))


class _Room:
    """What one kind of line has used of its second."""

    __slots__ = ("left_out", "lines", "second")

    def __init__(self) -> None:
        self.second = -1.0
        self.lines = self.left_out = 0


def _place(session: Session) -> dict[str, str]:
    return {"host": java_address(session.client_host), "listener": session.listener}


# -- changes


def _rules_of(request: Any) -> list[str]:
    return [
        f"{Permission(row.permission_type).name} {row.principal} {Operation(row.operation).name} "
        f"{ResourceType(row.resource_type).name}:{PatternType(row.resource_pattern_type).name}:{row.resource_name} "
        f"from {row.host}"
        for row in request.creations
    ]


def _filters_of(request: Any) -> list[str]:
    return [
        f"{row.principal_filter or 'anybody'} on {row.resource_name_filter or 'anything'}" for row in request.filters
    ]


def _users_of(request: Any) -> list[str]:
    changed = [f"{row.name} (mechanism {row.mechanism})" for row in request.upsertions]
    return changed + [f"{row.name} (mechanism {row.mechanism}, deleted)" for row in request.deletions]


def _quotas_of(request: Any) -> list[str]:
    return [
        ", ".join(f"{part.entity_type} {part.entity_name or '<default>'}" for part in entry.entity)
        + ": "
        + ", ".join(f"{op.key}={'none' if op.remove else op.value}" for op in entry.ops)
        for entry in request.entries
        if not request.validate_only
    ]


#: What changes who may do what, and what a line says of such a request. A token's HMAC is its secret: tokens have no name.
CHANGES: Final[dict[ApiKey, Callable[[Any], list[str]]]] = {
    ApiKey.CREATE_ACLS: _rules_of,
    ApiKey.DELETE_ACLS: _filters_of,
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: _users_of,
    ApiKey.ALTER_CLIENT_QUOTAS: _quotas_of,
    ApiKey.CREATE_DELEGATION_TOKEN: lambda request: [request.owner_principal_name or "its own"],
    ApiKey.RENEW_DELEGATION_TOKEN: lambda request: ["a token"],
    ApiKey.EXPIRE_DELEGATION_TOKEN: lambda request: ["a token"],
}


def audited(audit: Audit, key: ApiKey, handler: Handler) -> Handler:
    """Return a handler after which a line says what it has changed; refused changes are left to what refused them."""
    names_of = CHANGES.get(key)
    if names_of is None:
        return handler

    def note(context: RequestContext, names: list[str], answer: Any) -> Any:
        rows = next((getattr(answer, name) for name in _ROWS if hasattr(answer, name)), [answer])
        if names and any(not row.error_code for row in rows):
            audit.changed(context.session, key.name, names)
        return answer

    async def later(context: RequestContext, names: list[str], answer: Awaitable[Any]) -> Any:
        return note(context, names, await answer)

    @wraps(handler)
    def handle(context: RequestContext, request: Any, *more: Any) -> Any:
        try:
            names = names_of(request)
        except ValueError:  # an operation that is none: the handler says so
            names = []
        answer = handler(context, request, *more)
        return later(context, names, answer) if isinstance(answer, Awaitable) else note(context, names, answer)

    return handle


_ROWS: Final = ("results", "filter_results", "entries")
