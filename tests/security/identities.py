"""An identity provider's keys and tokens, for tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER, AUDIENCE = "https://id.example.com", "kafka"


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Any, key_id: str | None, **more: Any) -> dict[str, Any]:
    """Return a private key's public half as a row of a key set."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    row: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    row.pop("key_ops", None)
    return {**row, **({"kid": key_id} if key_id else {}), "use": "sig", **more}


def key_set(*rows: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(rows)}).encode()


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def claims(now_s: float, **changes: Any) -> dict[str, Any]:
    """Return the claims of a good token; a change to None takes one away."""
    made = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "iat": int(now_s), "exp": int(now_s) + 300, **changes}
    return {name: value for name, value in made.items() if value is not None}


def signed(
    now_s: float,
    key: Any = None,
    algorithm: str = "RS256",
    key_id: str | None = "r",
    header: Mapping[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Return a signed token."""
    headers = {**({"kid": key_id} if key_id else {}), **(header or {})}
    made: str = jwt.encode(
        claims(now_s, **changes), key if key is not None else rsa_key(), algorithm=algorithm, headers=headers
    )
    return made


def raw(header: Mapping[str, Any], payload: Mapping[str, Any], signature: bytes = b"") -> str:
    """Return a token that says what it likes."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
