"""Which tokens are good: signatures by PyJWT, claims by our own rules and a time that is passed in. No I/O.

Keys come from the key set that the administrator named, and from nowhere else: what a token itself says about keys (jku, x5u,
jwk, x5c) is not read. The algorithm must be one of the key's type: a public key is never taken for the secret of an HMAC, and
`none` is no algorithm. Claims as Apache Kafka's BrokerJwtValidator: exp, iat and the subject have to be there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ottla.security.extra import require
from ottla.security.sasl.oauthbearer import TOKEN_BYTES_MAX, TokenError, ValidToken

#: Algorithms by the type of a key and, for elliptic curves, its curve.
_ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
}
_RSA_BITS_MIN = 2048
#: Larger numbers are no times.
_SECONDS_MAX = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What a token must say.

    Attributes:
        audiences: one of them must be among the token's; empty: any.
        issuer: None: any.
        skew_s: by how many seconds clocks may differ.
    """

    audiences: frozenset[str] = frozenset()
    issuer: str | None = None
    skew_s: int = 30
    subject_claim: str = "sub"
    scope_claim: str = "scope"


@dataclass(frozen=True, slots=True)
class _Key:
    key_id: str | None
    algorithms: tuple[str, ...]
    key: Any


class KeySet:
    """The public keys of a JSON Web Key Set (RFC 7517) that can check signatures here."""

    def __init__(self, keys: list[_Key]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def knows(self, key_id: str | None) -> bool:
        """Return whether there is a key of this id."""
        return any(each.key_id == key_id for each in self._keys)

    def find(self, key_id: str | None) -> _Key | None:
        """Return the key of an id; without an id the only key, if there is one only."""
        if key_id is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((each for each in self._keys if each.key_id == key_id), None)


def parse_key_set(text: bytes) -> KeySet:
    """Return the keys of a JWKS document; those of other kinds and uses are left out.

    Raises:
        ValueError: it is none, or has no key that can be used.
        MissingExtraError: the extra is not installed.
    """
    require("OAUTHBEARER")
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        document = json.loads(text)
        rows = document["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("it is no JSON Web Key Set") from None
    found = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict) or row.get("use", "sig") != "sig":
            continue
        kind = row.get("kty")
        allowed = _ALGORITHMS.get(str(row.get("crv")) if kind == "EC" else "RSA" if kind == "RSA" else "", ())
        named = row.get("alg")
        algorithms = allowed if named is None else tuple(name for name in allowed if name == named)
        if not algorithms:
            continue
        public = {name: row[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in row}
        try:
            key = jwt.PyJWK(public, algorithm=algorithms[0]).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS_MIN:
            continue
        key_id = row.get("kid")
        found.append(_Key(key_id if isinstance(key_id, str) else None, algorithms, key))
    if not found:
        raise ValueError("it has no key that can check signatures (RSA of 2048 bits or more, P-256, P-384, P-521)")
    return KeySet(found)


def key_id_of(token: str) -> str | None:
    """Return the id of the key that a token claims to be signed with.

    Raises:
        TokenError: it is no signed token.
    """
    found = _header(token).get("kid")
    return found if isinstance(found, str) else None


def check_signed(token: str, keys: KeySet, rules: ClaimRules, now_ms: int) -> ValidToken:
    """Return what a signed token says.

    Raises:
        TokenError: it is not good.
    """
    import jwt

    header = _header(token)
    key = keys.find(key_id_of(token))
    if key is None:
        raise TokenError("a token signed with a key that is not in the key set")
    algorithm = header.get("alg")
    if algorithm not in key.algorithms:
        raise TokenError(f"a token signed by {str(algorithm)[:20]!r}, which is not an algorithm of its key")
    try:
        payload = jwt.PyJWS().decode(token, key.key, algorithms=[algorithm])
    except jwt.PyJWTError as error:
        raise TokenError(f"a token whose signature is not good ({type(error).__name__})") from None
    return check_claims(_object(payload), rules, now_ms)


def check_unsecured(token: str, rules: ClaimRules, now_ms: int) -> ValidToken:
    """Return what an unsecured token (`alg` none) says: anybody can write one, so for trials only.

    Raises:
        TokenError: it is not good.
    """
    header = _header(token)
    parts = token.split(".")
    if header.get("alg") != "none" or parts[2]:
        raise TokenError("a token that is not unsecured")
    return check_claims(_object(_decoded(parts[1])), rules, now_ms)


def check_claims(claims: Mapping[str, Any], rules: ClaimRules, now_ms: int) -> ValidToken:
    """Return what claims say, if they are good.

    Raises:
        TokenError: they are not.
    """
    now, skew = now_ms / 1000, rules.skew_s
    expires = _seconds(claims, "exp")
    issued = _seconds(claims, "iat")
    if now >= expires + skew:
        raise TokenError("a token that has expired")
    if issued > now + skew:
        raise TokenError("a token that was issued in the future")
    if "nbf" in claims and _seconds(claims, "nbf") > now + skew:
        raise TokenError("a token that is not valid yet")
    if expires <= issued:
        raise TokenError("a token that expires before it is issued")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise TokenError("a token of another issuer")
    if rules.audiences:
        given = claims.get("aud")
        names = {given} if isinstance(given, str) else set(_texts(given) or ())
        if not names & rules.audiences:
            raise TokenError("a token for another audience")
    scope = claims.get(rules.scope_claim)
    if scope is not None and not isinstance(scope, str) and _texts(scope) is None:
        raise TokenError(f"a token whose claim {rules.scope_claim} is no text and no list of texts")
    user = claims.get(rules.subject_claim)
    if not isinstance(user, str) or not user.strip():
        raise TokenError(f"a token without the claim {rules.subject_claim}")
    return ValidToken(user, int(expires * 1000))


def _texts(value: object) -> list[str] | None:
    """Return a list of texts; None for everything else."""
    return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else None


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _SECONDS_MAX:
        raise TokenError(f"a token without a time as {name}")
    return float(value)


def _header(token: str) -> Mapping[str, Any]:
    if len(token) > TOKEN_BYTES_MAX or token.count(".") != 2:
        raise TokenError("a text that is no token of three parts")
    header = _object(_decoded(token.partition(".")[0]))
    if "crit" in header:
        raise TokenError("a token that demands extensions (crit)")
    return header


def _decoded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (ValueError, binascii.Error):
        raise TokenError("a token that is no Base64") from None


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise TokenError("a token that is no JSON") from None
    if not isinstance(found, dict):
        raise TokenError("a token that is no JSON object")
    return found
