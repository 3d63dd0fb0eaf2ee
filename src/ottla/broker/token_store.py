"""Delegation tokens in the image, and the SCRAM credentials that follow from them.

Each token is a setting of our own part of the tree (/config/ottla/token.<id>), so every broker has them all. A credential
takes milliseconds of hashing: it is derived when a client first logs in with the token, off the loop (`WorkNeededError`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ottla.cluster.decisions.configs import Alteration, Operation
from ottla.cluster.image import OWN, ConfigResource
from ottla.security.delegation_tokens import (
    ITERATIONS,
    DelegationToken,
    hmac_for,
    password_of,
    token_from_text,
    token_to_text,
)
from ottla.security.sasl import WorkNeededError
from ottla.security.sasl.scram import ScramCredential, TokenLogin, credential_from_salted, salted_password

if TYPE_CHECKING:
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage

_PREFIX = "token."
_KEY = "delegation.token"
#: Credentials that are kept.
_CREDENTIALS_MAX = 10_000


def resource_of(token_id: str) -> ConfigResource:
    """Return where a token stands."""
    return ConfigResource(OWN, f"{_PREFIX}{token_id}")


class TokenStore:
    """The tokens of a cluster, as one broker sees them.

    Args:
        secret: `delegation.token.secret.key`.
        wall_ms: milliseconds since 1970.
    """

    def __init__(self, image: Callable[[], ClusterImage], secret: str, wall_ms: Callable[[], int]) -> None:
        self._image = image
        self._secret = secret
        self._wall_ms = wall_ms
        self._credentials: dict[tuple[str, str], ScramCredential] = {}
        self._hmacs: dict[str, bytes] = {}
        self._texts: dict[str, tuple[str, DelegationToken | None]] = {}

    def tokens(self) -> Iterator[DelegationToken]:
        """Return all tokens, expired ones that are still there among them."""
        for resource, config in self._image().configs.items():
            if resource[0] == OWN and resource[1].startswith(_PREFIX):
                token = self._read(resource[1], config)
                if token is not None:
                    yield token

    def find(self, token_id: str) -> DelegationToken | None:
        """Return the token of an id."""
        resource = resource_of(token_id)
        return self._read(resource.name, self._image().config(*resource))

    def _read(self, name: str, config: Mapping[str, str]) -> DelegationToken | None:
        text = config.get(_KEY)
        if text is None:
            return None
        kept = self._texts.get(name)
        if kept is None or kept[0] != text:
            if len(self._texts) >= _CREDENTIALS_MAX:
                self._texts.clear()
            kept = self._texts[name] = (text, token_from_text(text))
        return kept[1]

    def hmac_of(self, token_id: str) -> bytes:
        """Return a token's HMAC."""
        found = self._hmacs.get(token_id)
        if found is None:
            if len(self._hmacs) >= _CREDENTIALS_MAX:
                self._hmacs.clear()
            found = self._hmacs[token_id] = hmac_for(self._secret, token_id)
        return found

    def by_hmac(self, given: bytes) -> DelegationToken | None:
        """Return the token that an HMAC belongs to."""
        return next(
            (token for token in self.tokens() if hmac.compare_digest(self.hmac_of(token.token_id), given)), None
        )

    def login(self, mechanism: str, token_id: str) -> TokenLogin | None:
        """Return what a client needs to know that logs in with a token; None if there is no such token, or it has expired.

        Raises:
            WorkNeededError: its credential has to be derived first.
        """
        token = self.find(token_id)
        if token is None or token.has_expired(self._wall_ms()):
            return None
        credential = self._credentials.get((mechanism, token_id))
        if credential is None:
            raise WorkNeededError(lambda: self._derive(mechanism, token_id))
        return TokenLogin(credential, token.owner.partition(":")[2], min(token.expires_ms, token.expires_at_most_ms))

    def _derive(self, mechanism: str, token_id: str) -> None:
        """Derive a credential (for a thread). The salt follows from the token: all brokers give the same one."""
        own = self.hmac_of(token_id)
        salt = hmac.digest(own, f"salt {mechanism}".encode(), hashlib.sha256)
        salted = salted_password(mechanism, password_of(own), salt, ITERATIONS)
        if len(self._credentials) >= _CREDENTIALS_MAX:
            self._credentials.clear()
        self._credentials[mechanism, token_id] = credential_from_salted(mechanism, salted, salt, ITERATIONS)

    async def write(self, controller: Controller, token: DelegationToken) -> None:
        """Put a token into the tree."""
        change = Alteration(_KEY, Operation.SET, token_to_text(token))
        await controller.alter_entity(resource_of(token.token_id), [change])

    async def remove(self, controller: Controller, token_id: str) -> None:
        """Take a token out of the tree."""
        await controller.alter_entity(resource_of(token_id), [Alteration(_KEY, Operation.DELETE, None)])
        for key in [key for key in self._credentials if key[1] == token_id]:
            del self._credentials[key]
        self._hmacs.pop(token_id, None)

    async def remove_expired(self, controller: Controller) -> int:
        """Take tokens out of the tree that have expired; return how many."""
        now_ms = self._wall_ms()
        expired = [token.token_id for token in self.tokens() if token.has_expired(now_ms)]
        for token_id in expired:
            await self.remove(controller, token_id)
        return len(expired)
