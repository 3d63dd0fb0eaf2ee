"""How a client logs in: `Producer("broker:9093", security_protocol="sasl_ssl", sasl=ottla.sasl.Scram("alice", password))`.

What is shown of these objects has no password in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ottla.security.sasl.plain import PlainClient
from ottla.security.sasl.scram import ScramClient, new_nonce, salted_password

if TYPE_CHECKING:
    from ottla.security.sasl import ClientExchange

__all__ = ["Plain", "Sasl", "Scram"]

_SALTED_MAX = 16


class Sasl(Protocol):
    """One way to log in."""

    def exchange(self, secret_bytes: Callable[[int], bytes]) -> ClientExchange:
        """Return the client's role in one login; `secret_bytes` gives random bytes that cannot be guessed."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """User and password as they are (RFC 4616): over TLS only."""

    username: str
    password: str = field(repr=False)

    def exchange(self, secret_bytes: Callable[[int], bytes]) -> ClientExchange:
        return PlainClient(self.username, self.password)


@dataclass(frozen=True, slots=True)
class Scram:
    """SCRAM (RFC 5802): the password is never sent, and the broker has to know it, too.

    A salted password takes 2 to 20 ms of hashing; it is kept for the next connection.
    """

    username: str
    password: str = field(repr=False)
    mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    _salted: dict[tuple[bytes, int], bytes] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mechanism not in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            raise ValueError(f"mechanism={self.mechanism!r} is none of SCRAM-SHA-256 and SCRAM-SHA-512")

    def exchange(self, secret_bytes: Callable[[int], bytes]) -> ClientExchange:
        return ScramClient(self.mechanism, self.username, self.password, nonce=new_nonce(secret_bytes), salt=self._salt)

    def _salt(self, mechanism: str, password: str, salt: bytes, iterations: int) -> bytes:
        found = self._salted.get((salt, iterations))
        if found is None:
            found = salted_password(mechanism, password, salt, iterations)
            if len(self._salted) >= _SALTED_MAX:
                self._salted.clear()
            self._salted[salt, iterations] = found
        return found
