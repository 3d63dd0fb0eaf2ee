"""Delegation tokens (KIP-48, KIP-373): who owns one, until when it counts, what follows from the secret key. No I/O.

A token has an id and an HMAC of it under the secret of all brokers (`delegation.token.secret.key`); who has both can log in
by SCRAM as the token's owner, with the HMAC as the password. The HMAC is computed when it is needed and kept nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac as hmac_of
import json
from dataclasses import dataclass, replace
from enum import Enum, auto

#: As many tokens that have not expired may one owner have (ours: Apache Kafka has no bound).
TOKENS_OF_OWNER_MAX = 1_000
#: Of the password's hash; Kafka's lower bound. The password is an HMAC: guessing it is hopeless whatever the number.
ITERATIONS = 4_096


class Refused(Enum):
    """Why a token is not changed."""

    NOT_OWNER = auto()
    EXPIRED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationToken:
    """A token. Principals are written as `User:alice`; times are milliseconds since 1970."""

    token_id: str
    owner: str
    requester: str
    renewers: tuple[str, ...]
    issued_ms: int
    expires_ms: int
    expires_at_most_ms: int

    def is_its(self, principal: str) -> bool:
        """Return whether a principal owns it, asked for it or may renew it."""
        return principal in (self.owner, self.requester) or principal in self.renewers

    def has_expired(self, now_ms: int) -> bool:
        """Return whether it counts no more."""
        return now_ms > self.expires_ms or now_ms > self.expires_at_most_ms

    def renewed(self, principal: str, period_ms: int, default_ms: int, now_ms: int) -> DelegationToken | Refused:
        """Return the token with a later end; a negative period stands for the broker's own."""
        if not self.is_its(principal):
            return Refused.NOT_OWNER
        if self.has_expired(now_ms):
            return Refused.EXPIRED
        return self._ending(now_ms + (default_ms if period_ms < 0 else period_ms))

    def ended(self, principal: str, after_ms: int, now_ms: int) -> DelegationToken | Refused | None:
        """Return the token with an end in so many milliseconds; None: it is to be gone at once (a negative number)."""
        if not self.is_its(principal):
            return Refused.NOT_OWNER
        if after_ms < 0:
            return None
        return Refused.EXPIRED if self.has_expired(now_ms) else self._ending(now_ms + after_ms)

    def _ending(self, wanted_ms: int) -> DelegationToken:
        return replace(self, expires_ms=min(self.expires_at_most_ms, wanted_ms))


def new_token(
    token_id: str,
    *,
    owner: str,
    requester: str,
    renewers: tuple[str, ...],
    max_lifetime_ms: int,
    lifetime_max_ms: int,
    expiry_ms: int,
    now_ms: int,
) -> DelegationToken:
    """Return a new token.

    Args:
        max_lifetime_ms: what was asked for; 0 or less: the broker's own.
        lifetime_max_ms: `delegation.token.max.lifetime.ms`.
        expiry_ms: `delegation.token.expiry.time.ms`.
    """
    lifetime_ms = min(max_lifetime_ms, lifetime_max_ms) if max_lifetime_ms > 0 else lifetime_max_ms
    return DelegationToken(
        token_id=token_id,
        owner=owner,
        requester=requester,
        renewers=renewers,
        issued_ms=now_ms,
        expires_ms=min(now_ms + lifetime_ms, now_ms + expiry_ms),
        expires_at_most_ms=now_ms + lifetime_ms,
    )


def hmac_for(secret: str, token_id: str) -> bytes:
    """Return a token's HMAC: who has it can log in."""
    return hmac_of.digest(secret.encode(), token_id.encode(), hashlib.sha512)


def password_of(hmac: bytes) -> str:
    """Return the password that a client logs in with (Base64, as kafka-delegation-tokens prints it)."""
    return base64.b64encode(hmac).decode()


def token_to_text(token: DelegationToken) -> str:
    """Return what stands in the tree, in the words of Kafka <= 3.9: nothing of it is secret."""
    return json.dumps(
        {
            "version": 3,
            "owner": token.owner,
            "tokenRequester": token.requester,
            "renewers": list(token.renewers),
            "issueTimestamp": token.issued_ms,
            "expiryTimestamp": token.expires_ms,
            "maxTimestamp": token.expires_at_most_ms,
            "tokenId": token.token_id,
        },
        sort_keys=True,
    )


def token_from_text(text: str) -> DelegationToken | None:
    """Return the token in such a text, None if it is none."""
    try:
        found = json.loads(text)
        return DelegationToken(
            token_id=str(found["tokenId"]),
            owner=str(found["owner"]),
            requester=str(found["tokenRequester"]),
            renewers=tuple(map(str, found["renewers"])),
            issued_ms=int(found["issueTimestamp"]),
            expires_ms=int(found["expiryTimestamp"]),
            expires_at_most_ms=int(found["maxTimestamp"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
