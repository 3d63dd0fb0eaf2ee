"""Which tokens a listener takes (OAUTHBEARER), from a broker's configuration. Pure: text in, values out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ottla.broker.settings.listeners import Listener, is_loopback
from ottla.config import BROKER, EXTRA, ConfigError
from ottla.network.fetching import check_url
from ottla.security.tokens import ClaimRules

_PREFIX = "sasl.oauthbearer."
_UNSECURED = "ottla.oauthbearer.unsecured"


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthSettings:
    """How the tokens of one listener are checked.

    Attributes:
        url: where the keys are; None: tokens without a signature are taken.
        refresh_ms: how often they are fetched; `retry_ms`, `retry_max_ms`: the pauses after a failure.
    """

    url: str | None
    rules: ClaimRules
    refresh_ms: int = 3_600_000
    retry_ms: int = 100
    retry_max_ms: int = 10_000


def resolve_oauth(find: Callable[[str], str | None], listener: Listener) -> OAuthSettings:
    """Return how the tokens of a listener are checked.

    Args:
        find: returns the text of a setting of this listener and mechanism.

    Raises:
        ConfigError: something is missing or wrong.
    """

    def text(key: str) -> str | None:
        return (find(key) or "").strip() or None

    def number(key: str) -> int:
        value = BROKER[key].parse(text(key) or BROKER[key].default)
        assert isinstance(value, int)
        return value

    def flag(key: str) -> bool:
        return bool(BROKER[key].parse(text(key) or "false"))

    audiences = frozenset(
        name.strip() for name in (text("sasl.oauthbearer.expected.audience") or "").split(",") if name.strip()
    )
    rules = ClaimRules(
        audiences=audiences,
        issuer=text("sasl.oauthbearer.expected.issuer"),
        skew_s=number("sasl.oauthbearer.clock.skew.seconds"),
        subject_claim=text("sasl.oauthbearer.sub.claim.name") or "sub",
        scope_claim=text("sasl.oauthbearer.scope.claim.name") or "scope",
    )
    url = text("sasl.oauthbearer.jwks.endpoint.url")
    if url is None:
        if not EXTRA[_UNSECURED].parse(find(_UNSECURED) or "false"):
            raise ConfigError(
                f"the listener {listener.name} has OAUTHBEARER and no keys: set {_PREFIX}jwks.endpoint.url (https:// or "
                f"file://). Tokens that nobody has signed are taken with {_UNSECURED}=true, for trials"
            )
        if not is_loopback(listener.host):
            raise ConfigError(
                f"{_UNSECURED}=true, and listener {listener.name} takes connections of other machines: everybody could be "
                "whoever they like"
            )
        return OAuthSettings(url=None, rules=rules)
    try:
        check_url(url)
    except ValueError as error:
        raise ConfigError(f"{_PREFIX}jwks.endpoint.url of the listener {listener.name} is none: {error}") from None
    for name, given, allowed in (
        ("audience", bool(audiences), "sasl.oauthbearer.allow.unverified.audience"),
        ("issuer", rules.issuer is not None, "sasl.oauthbearer.allow.unverified.issuer"),
    ):
        if not given and not flag(allowed):
            raise ConfigError(
                f"the listener {listener.name} would take tokens of any {name}: set {_PREFIX}expected.{name}, or "
                f"{allowed}=true"
            )
    return OAuthSettings(
        url=url,
        rules=rules,
        refresh_ms=number("sasl.oauthbearer.jwks.endpoint.refresh.ms"),
        retry_ms=number("sasl.oauthbearer.jwks.endpoint.retry.backoff.ms"),
        retry_max_ms=number("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms"),
    )
