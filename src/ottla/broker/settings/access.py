"""Who may do what without a rule: the authorizer's settings. Pure: text in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.broker.settings.listeners import is_loopback
from ottla.config import EXTRA, ConfigError

if TYPE_CHECKING:
    from ottla.broker.settings.listeners import Listener

AUTHORIZERS = ("org.apache.kafka.metadata.authorizer.StandardAuthorizer", "kafka.security.authorizer.AclAuthorizer")
_ANONYMOUS = "User:ANONYMOUS"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """`super.users` and `allow.everyone.if.no.acl.found`."""

    super_users: frozenset[str] = frozenset()
    allow_if_none: bool = False


def resolve_access(text: Mapping[str, str], listeners: Iterable[Listener]) -> AccessSettings | None:
    """Return the authorizer's settings, None without one.

    Raises:
        ConfigError: the authorizer is another one, a principal cannot be read, or strangers would be super users.
    """
    name = (text.get("authorizer.class.name") or "").strip()
    if not name:
        unread = [key for key in ("super.users", "allow.everyone.if.no.acl.found") if (text.get(key) or "").strip()]
        if unread:
            raise ConfigError(
                f"{unread[0]} needs authorizer.class.name={AUTHORIZERS[0]}: without it everybody may do all"
            )
        return None
    if name not in AUTHORIZERS:
        raise ConfigError(f"authorizer.class.name can only be {AUTHORIZERS[0]}, but it is {name}")
    super_users = []
    for item in (text.get("super.users") or "").split(";"):
        principal = item.strip()
        if not principal:
            continue
        kind, colon, user = principal.partition(":")
        if not (kind and colon and user):
            raise ConfigError(f"super.users: cannot read {principal}; write it as User:name, separated by semicolons")
        super_users.append(principal)
    open_ones = [
        listener.name
        for listener in listeners
        if listener.security_protocol == "PLAINTEXT" and not is_loopback(listener.host)
    ]
    if _ANONYMOUS in super_users and open_ones:
        raise ConfigError(
            f"super.users names {_ANONYMOUS}, and listener {open_ones[0]} takes connections of other machines without a "
            "login: everybody would be a super user"
        )
    key = EXTRA["allow.everyone.if.no.acl.found"]
    return AccessSettings(
        super_users=frozenset(super_users), allow_if_none=bool(key.parse(text.get(key.name, key.default)))
    )
