"""SASL OAUTHBEARER (RFC 7628, KIP-255): a token that somebody else has issued instead of a password.

The client sends one message with the token and extensions. A server that does not take the token answers with a JSON object,
and fails after the client's next message, a single byte 0x01: so the client hears of it in SASL's own way. What makes a
token good is decided elsewhere (`security/tokens.py`) and passed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from ottla.security.sasl import OAUTHBEARER, AuthenticationFailedError, SaslError

MECHANISM = OAUTHBEARER
#: Longer tokens are not looked at.
TOKEN_BYTES_MAX = 64 * 1024

_SEPARATOR = "\x01"
_NAME = r"(?:[\x01-\x2b\x2d-\x3c\x3e-\x7f]|=2C|=3D)+"
_FIRST = re.compile(rf"n,(?:a=(?P<authzid>{_NAME}))?,\x01(?P<pairs>(?:[A-Za-z]+=[\x21-\x7e \t\r\n]*\x01)*)\x01")
_AUTH = re.compile(r"(?P<scheme>\w+) +(?P<token>[-_~+/.a-zA-Z0-9]+=*)")
_EXTENSION_NAME = re.compile(r"[A-Za-z]+")
_EXTENSION_VALUE = re.compile(r"[\x21-\x7e \t\r\n]+")


class TokenError(Exception):
    """A token that is not taken. The text says why, for the log of the side that looked; it has nothing of the token."""


class ValidToken:
    """What a good token says.

    Attributes:
        user: whose it is.
        expires_at_ms: wall time at which it ends.
    """

    __slots__ = ("expires_at_ms", "user")

    def __init__(self, user: str, expires_at_ms: int) -> None:
        self.user = user
        self.expires_at_ms = expires_at_ms


class OAuthBearerServer:
    """The server's role.

    Args:
        validate: returns what a token says, or raises TokenError.
    """

    def __init__(self, validate: Callable[[str], ValidToken]) -> None:
        self._validate = validate
        self._refusal: str | None = None
        self._why = ""
        self._is_over = False
        self.is_complete = False
        self.user = self.claimed = ""
        self.expires_at_ms: int | None = None

    def respond(self, token: bytes) -> bytes:
        if self.is_complete or self._is_over:
            raise SaslError("the exchange is over")
        if self._refusal is not None:
            self._is_over = True
            if token != b"\x01":
                raise SaslError(f"a refused token was not followed by 0x01 ({self._why})")
            raise RefusedTokenError(self._refusal, self._why)
        text, authorization_id = _read_first(token)
        try:
            found = self._validate(text)
        except TokenError as error:
            self._why = str(error)
            self._refusal = json.dumps({"status": "invalid_token"}, separators=(",", ":"))
            return self._refusal.encode()
        self.claimed = found.user
        if authorization_id and authorization_id != found.user:
            self._is_over = True
            raise AuthenticationFailedError(
                f"Authentication failed: Client requested an authorization id ({authorization_id}) that is different from "
                f"the token's principal name ({found.user})"
            )
        self.user, self.expires_at_ms = found.user, found.expires_at_ms
        self.is_complete = True
        return b""


class RefusedTokenError(AuthenticationFailedError):
    """The client hears `invalid_token`; `why` is for our own log."""

    def __init__(self, told: str, why: str) -> None:
        super().__init__(told)
        self.why = why


class OAuthBearerClient:
    """The client's role.

    Args:
        token: returns the token; may take a while, so `begin` is not for an event loop.
        extensions: further names and values for the broker (KIP-342).
    """

    mechanism = MECHANISM

    def __init__(self, token: Callable[[], str], extensions: Mapping[str, str] | None = None) -> None:
        self._token = token
        self._extensions = dict(extensions or {})
        for name, value in self._extensions.items():
            if not _EXTENSION_NAME.fullmatch(name) or name == "auth" or not _EXTENSION_VALUE.fullmatch(value):
                raise ValueError(f"{name!r} is no extension: names are letters, not auth, and values printable ASCII")
        self._refusal: str | None = None
        self.is_complete = False

    def begin(self) -> bytes:
        token = self._token()
        if not _AUTH.fullmatch(f"Bearer {token}"):
            raise SaslError("the token is none: it must be one word of letters, digits and -._~+/=")
        pairs = "".join(f"{name}={value}{_SEPARATOR}" for name, value in self._extensions.items())
        return f"n,,{_SEPARATOR}auth=Bearer {token}{_SEPARATOR}{pairs}{_SEPARATOR}".encode()

    def respond(self, challenge: bytes) -> bytes | None:
        if self._refusal is not None:
            raise SaslError(f"the broker does not take the token: {self._refusal}")
        if not challenge:
            self.is_complete = True
            return None
        self._refusal = challenge[:1000].decode("utf-8", "replace")
        return b"\x01"


def _read_first(message: bytes) -> tuple[str, str]:
    """Return token and authorization id of a client's first message.

    Raises:
        SaslError: it is none.
    """
    if len(message) > TOKEN_BYTES_MAX:
        raise SaslError(f"a message of {len(message)} bytes")
    try:
        match = _FIRST.fullmatch(message.decode("ascii"))
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise SaslError("a first message that is none of OAUTHBEARER")
    pairs = [pair.partition("=") for pair in match["pairs"].split(_SEPARATOR) if pair]
    properties = {name: value for name, _, value in pairs}
    if len(properties) < len(pairs):
        raise SaslError("a first message in which a name stands twice")
    auth = _AUTH.fullmatch(properties.get("auth", ""))
    if auth is None or auth["scheme"].lower() != "bearer":
        raise SaslError("a first message without a bearer token")
    return auth["token"], (match["authzid"] or "").replace("=2C", ",").replace("=3D", "=")
