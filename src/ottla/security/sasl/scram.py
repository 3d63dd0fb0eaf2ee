"""SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677): passwords that neither side ever sends or stores.

The grammar is that of Kafka's ScramMessages: names are ASCII with `=2C` and `=3D`, no channel binding, extensions are read
and ignored. No SASLprep: Kafka hashes the UTF-8 bytes of a password as they are.

A user that does not exist gets a salt all the same, always the same one: an HMAC of the name under a secret of the cluster.
So the first answer tells nobody who exists (Kafka refuses at this step; the error that a client sees in the end is the same).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ottla.security.sasl import SCRAM_HASHES, AuthenticationFailedError, SaslError, WorkNeededError

#: Mechanisms and their hashes.
HASHES = SCRAM_HASHES
#: Kafka's bounds for iterations.
ITERATIONS_MIN, ITERATIONS_MAX = 4096, 16384

_NAME = r"(?:[\x01-\x2b\x2d-\x3c\x3e-\x7f]|=2C|=3D)+"
_VALUE = r"[\x01-\x2b\x2d-\x7f]+"
_PRINTABLE = r"[\x21-\x2b\x2d-\x7e]+"
_BASE64 = r"(?:[a-zA-Z0-9/+]{4})*(?:[a-zA-Z0-9/+]{3}=|[a-zA-Z0-9/+]{2}==)?"
_EXTENSIONS = rf"(?:,[A-Za-z]+={_VALUE})*"
_CLIENT_FIRST = re.compile(
    rf"(?P<header>n,(?:a=(?P<authzid>{_NAME}))?,)(?P<bare>(?:m={_VALUE},)?n=(?P<name>{_NAME}),r=(?P<nonce>{_PRINTABLE})"
    rf"(?P<extensions>{_EXTENSIONS}))"
)
_SERVER_FIRST = re.compile(
    rf"(?:m={_VALUE},)?r=(?P<nonce>{_PRINTABLE}),s=(?P<salt>{_BASE64}),i=(?P<iterations>[0-9]{{1,9}}){_EXTENSIONS}"
)
_CLIENT_FINAL = re.compile(
    rf"(?P<without_proof>c=(?P<channel>{_BASE64}),r=(?P<nonce>{_PRINTABLE}){_EXTENSIONS}),p=(?P<proof>{_BASE64})"
)
_SERVER_FINAL = re.compile(rf"(?:e=(?P<error>{_VALUE})|v=(?P<signature>{_BASE64})){_EXTENSIONS}")

#: Longer messages are not looked at.
_MESSAGE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ScramCredential:
    """What a server keeps of a password. Whoever has it can pretend to be the server, not the user."""

    salt: bytes
    stored_key: bytes
    server_key: bytes
    iterations: int

    def __repr__(self) -> str:
        return f"ScramCredential(iterations={self.iterations}, [hidden])"


class TokenLogin(NamedTuple):
    """What a delegation token is good for.

    Attributes:
        credential: made of its HMAC.
        owner: the user that it logs in.
        expires_at_ms: wall time at which it ends.
    """

    credential: ScramCredential
    owner: str
    expires_at_ms: int


def salted_password(mechanism: str, password: str, salt: bytes, iterations: int) -> bytes:
    """Return Hi(password, salt, iterations): 2 to 20 ms of hashing, not for the event loop."""
    return hashlib.pbkdf2_hmac(HASHES[mechanism], password.encode(), salt, iterations)


def credential_from_salted(mechanism: str, salted: bytes, salt: bytes, iterations: int) -> ScramCredential:
    """Return the credential of a salted password."""
    hash_name = HASHES[mechanism]
    client_key = hmac.digest(salted, b"Client Key", hash_name)
    return ScramCredential(
        salt=salt,
        stored_key=hashlib.new(hash_name, client_key).digest(),
        server_key=hmac.digest(salted, b"Server Key", hash_name),
        iterations=iterations,
    )


def credential_to_text(credential: ScramCredential) -> str:
    """Return a credential as it stands in the tree (Kafka's ScramCredentialUtils)."""
    return (
        f"salt={_encode(credential.salt)},stored_key={_encode(credential.stored_key)},"
        f"server_key={_encode(credential.server_key)},iterations={credential.iterations}"
    )


@lru_cache(maxsize=1024)
def credential_from_text(text: str) -> ScramCredential | None:
    """Return the credential in such a text; None where it is none, or asks for more work than Kafka allows."""
    fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    try:
        iterations = int(fields["iterations"])
        found = ScramCredential(
            salt=base64.b64decode(fields["salt"], validate=True),
            stored_key=base64.b64decode(fields["stored_key"], validate=True),
            server_key=base64.b64decode(fields["server_key"], validate=True),
            iterations=iterations,
        )
    except (KeyError, ValueError):
        return None
    return found if ITERATIONS_MIN <= iterations <= ITERATIONS_MAX else None


class ScramServer:
    """The server's role: a challenge, a proof, a signature.

    Args:
        find: returns a user's credential, None if there is none.
        nonce: random text that was never used before (`new_nonce`).
        secret: of the cluster, for the salts of users that do not exist.
        find_token: returns the delegation token of an id (KIP-48), None if there is none; may raise WorkNeededError. An id is
            no name of a user: which of the two is meant says the client (`tokenauth`).
    """

    def __init__(
        self,
        mechanism: str,
        find: Callable[[str], ScramCredential | None],
        *,
        nonce: str,
        secret: bytes,
        find_token: Callable[[str], TokenLogin | None] | None = None,
    ) -> None:
        self._find_token = find_token
        self._user = ""
        self.expires_at_ms: int | None = None
        self.is_by_token = False
        self._mechanism = mechanism
        self._hash = HASHES[mechanism]
        self._find = find
        self._own_nonce = nonce
        self._secret = secret
        self._nonce = ""
        self._said = ""
        self._is_known = False
        self._credential: ScramCredential | None = None
        self._authorization_id = ""
        self._name = ""
        self._failed = False
        self.is_complete = False
        self.user = self.claimed = ""

    def respond(self, token: bytes) -> bytes:
        if self._failed or self.is_complete:
            raise SaslError("the exchange is over")
        self._failed = True  # until this step has succeeded
        try:
            answer = self._challenge(token) if self._credential is None else self._verify(token)
        except WorkNeededError:
            self._failed = False
            raise
        self._failed = False
        return answer

    def _challenge(self, token: bytes) -> bytes:
        match = _CLIENT_FIRST.fullmatch(_text(token))
        if match is None:
            raise SaslError("a first message that is none of SCRAM")
        self._name = self.claimed = _unescape(match["name"])
        self._authorization_id = _unescape(match["authzid"] or "")
        if self._authorization_id and self._authorization_id != self._name:
            raise AuthenticationFailedError(
                "Authentication failed: Client requested an authorization id that is different from username"
            )
        found: ScramCredential | None
        self._user = self._name
        if "tokenauth=true" in match["extensions"].lower().split(","):
            token_login = None if self._find_token is None else self._find_token(self._name)
            found = None if token_login is None else token_login.credential
            self.is_by_token = True
            if token_login is not None:
                self._user, self.expires_at_ms = token_login.owner, token_login.expires_at_ms
        else:
            found = self._find(self._name)
        self._is_known = found is not None
        self._credential = found if found is not None else self._invented()
        self._nonce = match["nonce"] + self._own_nonce
        first = f"r={self._nonce},s={_encode(self._credential.salt)},i={self._credential.iterations}"
        self._said = f"{match['bare']},{first}"
        return first.encode()

    def _invented(self) -> ScramCredential:
        """Return a credential that fits no password: the same for the same name on every broker, at any time."""
        made = hmac.digest(self._secret, f"{self._mechanism}\0{self._name}".encode(), "sha512")
        keys = hashlib.new(self._hash, made).digest()
        return ScramCredential(salt=made[:24], stored_key=keys, server_key=keys, iterations=ITERATIONS_MIN)

    def _verify(self, token: bytes) -> bytes:
        credential = self._credential
        assert credential is not None
        match = _CLIENT_FINAL.fullmatch(_text(token))
        if match is None:
            raise SaslError("a final message that is none of SCRAM")
        if not hmac.compare_digest(match["nonce"].encode(), self._nonce.encode()):
            raise SaslError("a nonce that is not the one of this exchange")
        message = f"{self._said},{match['without_proof']}".encode()
        signature = hmac.digest(credential.stored_key, message, self._hash)
        proof = base64.b64decode(match["proof"])
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=False))
        stored_key = hashlib.new(self._hash, client_key).digest()
        is_right = hmac.compare_digest(stored_key, credential.stored_key) and len(proof) == len(signature)
        if not (is_right and self._is_known):
            raise SaslError("a wrong password" if self._is_known else "a user that does not exist")
        self.user = self._user
        self.is_complete = True
        return b"v=" + _encode(hmac.digest(credential.server_key, message, self._hash)).encode()


class ScramClient:
    """The client's role.

    Args:
        is_token: `user` and `password` are the id and the HMAC (Base64) of a delegation token.
        salt: computes salted passwords (`salted_password`); pass one that remembers, or runs elsewhere.
    """

    def __init__(
        self,
        mechanism: str,
        user: str,
        password: str,
        *,
        nonce: str,
        is_token: bool = False,
        salt: Callable[[str, str, bytes, int], bytes] = salted_password,
    ) -> None:
        self.mechanism = mechanism
        self._hash = HASHES[mechanism]
        self._password = password
        self._salt = salt
        self._nonce = nonce
        self._bare = f"n={_escape(user)},r={nonce}{',tokenauth=true' if is_token else ''}"
        self._signature = b""
        self._has_proved = False
        self.is_complete = False

    def begin(self) -> bytes:
        return f"n,,{self._bare}".encode()

    def respond(self, challenge: bytes) -> bytes | None:
        if not self._has_proved:
            return self._prove(_text(challenge))
        match = _SERVER_FINAL.fullmatch(_text(challenge))
        if match is None:
            raise SaslError("the server's final message is none of SCRAM")
        if match["error"] is not None:
            raise SaslError(f"the server refuses: {match['error'][:200]}")
        if not hmac.compare_digest(base64.b64decode(match["signature"]), self._signature):
            raise SaslError("the server does not know the password: it is not the one it pretends to be")
        self.is_complete = True
        return None

    def _prove(self, first: str) -> bytes:
        match = _SERVER_FIRST.fullmatch(first)
        if match is None:
            raise SaslError("the server's first message is none of SCRAM")
        if not match["nonce"].startswith(self._nonce) or len(match["nonce"]) <= len(self._nonce):
            raise SaslError("the server's nonce does not continue ours")
        iterations = int(match["iterations"])
        if not ITERATIONS_MIN <= iterations <= 1_000_000:
            raise SaslError(f"the server asks for {iterations} iterations")
        salted = self._salt(self.mechanism, self._password, base64.b64decode(match["salt"]), iterations)
        client_key = hmac.digest(salted, b"Client Key", self._hash)
        without_proof = f"c=biws,r={match['nonce']}"
        message = f"{self._bare},{first},{without_proof}".encode()
        signature = hmac.digest(hashlib.new(self._hash, client_key).digest(), message, self._hash)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", self._hash), message, self._hash)
        self._has_proved = True
        return f"{without_proof},p={_encode(proof)}".encode()


def new_nonce(secret_bytes: Callable[[int], bytes]) -> str:
    """Return 192 bits of randomness as text."""
    return base64.b64encode(secret_bytes(24)).decode()


def _text(token: bytes) -> str:
    if len(token) > _MESSAGE_MAX:
        raise SaslError(f"a message of {len(token)} bytes")
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise SaslError("a message that is no UTF-8") from None


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _escape(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _unescape(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")
