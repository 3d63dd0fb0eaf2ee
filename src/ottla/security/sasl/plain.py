"""SASL PLAIN (RFC 4616): user and password as they are, so over TLS only.

As in Kafka the identity to act as (authzid) must be the user, or empty. A password is compared in the same time whether or
not there is such a user, and whatever it begins with.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping

from ottla.security.sasl import PLAIN, AuthenticationFailedError, SaslError

MECHANISM = PLAIN

#: Says whether this is the user's password.
Check = Callable[[str, str], bool]


class PlainServer:
    """The server's role: one message, and it is decided."""

    expires_at_ms = None

    def __init__(self, check: Check) -> None:
        self._check = check
        self.is_complete = False
        self.user = self.claimed = ""

    def respond(self, token: bytes) -> bytes:
        try:
            parts = token.decode().split("\0")
        except UnicodeDecodeError:
            raise SaslError("a PLAIN message that is no UTF-8") from None
        if len(parts) != 3:
            raise AuthenticationFailedError(f"Invalid SASL/PLAIN response: expected 3 tokens, got {len(parts)}")
        authorization_id, user, password = parts
        self.claimed = user
        if not user:
            raise AuthenticationFailedError("Authentication failed: username not specified")
        if not password:
            raise AuthenticationFailedError("Authentication failed: password not specified")
        if not self._check(user, password):
            raise AuthenticationFailedError("Authentication failed: Invalid username or password")
        if authorization_id and authorization_id != user:
            raise AuthenticationFailedError(
                "Authentication failed: Client requested an authorization id that is different from username"
            )
        self.user = user
        self.is_complete = True
        return b""


class PlainClient:
    """The client's role."""

    mechanism = MECHANISM

    def __init__(self, user: str, password: str) -> None:
        if "\0" in user or "\0" in password:
            raise ValueError("PLAIN can carry no user or password with a NUL")
        self._message = f"\0{user}\0{password}".encode()
        self.is_complete = False

    def begin(self) -> bytes:
        return self._message

    def respond(self, challenge: bytes) -> bytes | None:
        if challenge:
            raise SaslError("a server that has something to say in PLAIN")
        self.is_complete = True
        return None


def check_of(passwords: Mapping[str, str]) -> Check:
    """Return what checks passwords against a table, in the same time for users that are not in it."""
    # Hashes have one length, and are made beforehand: the texts would tell how long the right one is.
    hashes = {user: hashlib.sha256(password.encode()).digest() for user, password in passwords.items()}
    nobodys = hashlib.sha256().digest()

    def check(user: str, password: str) -> bool:
        given = hashlib.sha256(password.encode()).digest()
        return hmac.compare_digest(hashes.get(user, nobodys), given) and user in hashes

    return check
