"""How a client logs in: `Producer("broker:9093", security_protocol="sasl_ssl", sasl=ottla.sasl.Scram("alice", password))`.

What is shown of these objects has no password in it.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ottla.security.sasl import TokenFetchError
from ottla.security.sasl.oauthbearer import OAuthBearerClient
from ottla.security.sasl.plain import PlainClient
from ottla.security.sasl.scram import ScramClient, new_nonce, salted_password

if TYPE_CHECKING:
    import ssl

    from ottla.security.sasl import ClientExchange

__all__ = ["ClientCredentials", "Kerberos", "OAuthBearer", "Plain", "Sasl", "Scram", "TokenFetchError"]

_SALTED_MAX = 16
#: A token is asked for anew when this share of its time has passed.
_SHARE_OF_LIFETIME = 0.8


class Sasl(Protocol):
    """One way to log in."""

    def exchange(self, secret_bytes: Callable[[int], bytes], host: str) -> ClientExchange:
        """Return the client's role in one login to a broker.

        Args:
            secret_bytes: gives random bytes that cannot be guessed.
            host: the broker's, as it is dialled.
        """
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """User and password as they are (RFC 4616): over TLS only."""

    username: str
    password: str = field(repr=False)

    def exchange(self, secret_bytes: Callable[[int], bytes], host: str) -> ClientExchange:
        return PlainClient(self.username, self.password)


@dataclass(frozen=True, slots=True)
class Scram:
    """SCRAM (RFC 5802): the password is never sent, and the broker has to know it, too. Also with a delegation token.

    A salted password takes 2 to 20 ms of hashing; it is kept for the next connection.
    """

    username: str
    password: str = field(repr=False)
    mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    is_token: bool = False
    _salted: dict[tuple[bytes, int], bytes] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def by_token(
        cls, token_id: str, hmac: bytes, mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    ) -> Scram:
        """Return a login as the owner of a delegation token (KIP-48): what `Admin.create_delegation_token` returns."""
        return cls(token_id, base64.b64encode(hmac).decode(), mechanism, is_token=True)

    def __post_init__(self) -> None:
        if self.mechanism not in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            raise ValueError(f"mechanism={self.mechanism!r} is none of SCRAM-SHA-256 and SCRAM-SHA-512")

    def exchange(self, secret_bytes: Callable[[int], bytes], host: str) -> ClientExchange:
        return ScramClient(
            self.mechanism,
            self.username,
            self.password,
            nonce=new_nonce(secret_bytes),
            is_token=self.is_token,
            salt=self._salt,
        )

    def _salt(self, mechanism: str, password: str, salt: bytes, iterations: int) -> bytes:
        found = self._salted.get((salt, iterations))
        if found is None:
            found = salted_password(mechanism, password, salt, iterations)
            if len(self._salted) >= _SALTED_MAX:
                self._salted.clear()
            self._salted[salt, iterations] = found
        return found


@dataclass(frozen=True, slots=True)
class OAuthBearer:
    """A token of an identity provider (RFC 7628, KIP-255): over TLS only.

    Attributes:
        token: the token, or a function that returns a good one: `ClientCredentials(...)`, or your own. It is called for every
            login, in a thread, also when the token of before has ended while connections are open (KIP-368).
        extensions: further names and values for the broker (KIP-342).
    """

    token: str | Callable[[], str] = field(repr=False)
    extensions: Mapping[str, str] = field(default_factory=dict)

    def exchange(self, secret_bytes: Callable[[int], bytes], host: str) -> ClientExchange:
        return OAuthBearerClient(self._get, self.extensions)

    def _get(self) -> str:
        if isinstance(self.token, str):
            return self.token
        try:
            return self.token()
        except TokenFetchError:
            raise
        except Exception as error:
            raise TokenFetchError(f"no token: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Kerberos:
    """Tickets of Kerberos (GSSAPI, RFC 4752); `pip install 'ottla[gssapi]'`. The library gets and renews tickets itself.

    Attributes:
        service_name: the first part of the brokers' principals: `kafka` of `kafka/broker.example.com@EXAMPLE.COM`.
        principal: who logs in; None: whomever the tickets of the cache are for.
        keytab: a file with the principal's keys; None: the tickets of a cache are taken, as `kinit` has put them there.
        ticket_cache: the file of that cache; None: the one that KRB5CCNAME or the system names.
    """

    service_name: str = "kafka"
    principal: str | None = None
    keytab: str | None = None
    ticket_cache: str | None = None

    def __post_init__(self) -> None:
        if self.keytab is not None and not self.principal:
            raise ValueError("a keytab needs principal=: whose keys they are")
        if self.keytab is not None and self.ticket_cache is not None:
            raise ValueError("take a keytab or a ticket cache, not both")

    def exchange(self, secret_bytes: Callable[[int], bytes], host: str) -> ClientExchange:
        """See `Sasl`. Where the library is not installed the login fails with what to install."""
        from ottla.security.kerberos import Keys, initiating
        from ottla.security.sasl.gssapi import GssapiClient

        principal = self.principal or ""
        keys = Keys(principal=principal, keytab=self.keytab or "", ticket_cache=self.ticket_cache or "")
        return GssapiClient(initiating(keys, self.service_name, host), principal)


class ClientCredentials:
    """Gets tokens from an identity provider by a client's id and secret (RFC 6749 4.4), and keeps each for most of its time.

        sasl = ottla.sasl.OAuthBearer(ottla.sasl.ClientCredentials("https://id.example.com/token", "app", secret))

    Args:
        url: the token endpoint; `file:///path` names a file with a token that something else keeps fresh.
        scope: what is asked for.
        ssl_context: for the endpoint; by default the system's authorities are trusted.
        parameters: further fields of the request (`{"audience": "kafka"}`).
    """

    def __init__(
        self,
        url: str,
        client_id: str = "",
        client_secret: str = "",
        *,
        scope: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        parameters: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        from ottla.network.fetching import check_url

        check_url(url)
        self._url = url
        self._client_id = client_id
        self._client_secret = client_secret
        self._fields = {"grant_type": "client_credentials", **({"scope": scope} if scope else {}), **(parameters or {})}
        self._context = ssl_context
        self._now = now
        self._lock = threading.Lock()
        self._token = ""
        self._good_until = 0.0

    def __repr__(self) -> str:
        return f"ClientCredentials({self._url!r}, {self._client_id!r}, [hidden])"

    def __call__(self) -> str:
        """Return a token.

        Raises:
            TokenFetchError: there is none.
        """
        from ottla.network.fetching import FetchError

        with self._lock:
            if self._token and self._now() < self._good_until:
                return self._token
            try:
                self._token, lifetime_s = self._fetch()
            except FetchError as error:
                raise TokenFetchError(f"no token: {error}") from None
            self._good_until = self._now() + lifetime_s * _SHARE_OF_LIFETIME
            return self._token

    def _fetch(self) -> tuple[str, float]:
        from urllib.parse import quote, urlencode

        from ottla.network.fetching import fetch

        if self._url.startswith("file:"):
            return fetch(self._url).decode("ascii", "replace").strip(), 0.0
        # RFC 6749 2.3.1: both are encoded before they are joined.
        pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret, safe='')}"
        data = fetch(
            self._url,
            body=urlencode(self._fields).encode(),
            headers={
                "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            context=self._context,
        )
        try:
            answer = json.loads(data)
            token, lifetime = answer["access_token"], answer.get("expires_in", 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TokenFetchError("no token: the answer of the endpoint has no access_token") from None
        if not isinstance(token, str) or isinstance(lifetime, bool) or not isinstance(lifetime, int | float):
            raise TokenFetchError("no token: the answer of the endpoint has no access_token")
        return token, float(lifetime)
