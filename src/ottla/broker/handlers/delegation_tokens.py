"""Create- (38, v1-3), Renew- (39, v1-2), Expire- (40, v1-2) and DescribeDelegationToken (41, v1-3); KIP-48, KIP-373.

v3 of Create and Describe: tokens for others, requesters. A client that has not proved who it is (PLAINTEXT, SSL without
a certificate), or has logged in with a token, may do none of this: no token is made of a token. Who may act for whom, and who
sees which tokens, is asked by `guards/tokens.py`.

Where we differ from Apache Kafka: an owner has at most 1,000 tokens (POLICY_VIOLATION).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.broker.context import ANONYMOUS, Route, Session
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.create_delegation_token import CreateDelegationTokenRequest, CreateDelegationTokenResponse
from ottla.protocol.messages.describe_delegation_token import (
    DescribedDelegationToken,
    DescribedDelegationTokenRenewer,
    DescribeDelegationTokenRequest,
    DescribeDelegationTokenResponse,
)
from ottla.protocol.messages.expire_delegation_token import ExpireDelegationTokenRequest, ExpireDelegationTokenResponse
from ottla.protocol.messages.renew_delegation_token import RenewDelegationTokenRequest, RenewDelegationTokenResponse
from ottla.security.delegation_tokens import TOKENS_OF_OWNER_MAX, DelegationToken, Refused, new_token

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.token_store import TokenStore
    from ottla.cluster.controller import Controller

_NOT_ALLOWED = ErrorCode.DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
_DISABLED = ErrorCode.DELEGATION_TOKEN_AUTH_DISABLED
_REFUSALS = {
    Refused.NOT_OWNER: ErrorCode.DELEGATION_TOKEN_OWNER_MISMATCH,
    Refused.EXPIRED: ErrorCode.DELEGATION_TOKEN_EXPIRED,
}
_NO_TIME = -1
#: Renewers of one token, and their names: what stands in one node.
RENEWERS_MAX, NAME_MAX = 100, 1024


def may_ask(session: Session) -> bool:
    """Return whether requests about tokens are taken from a client at all (Kafka's allowTokenRequests)."""
    if session.security_protocol == "PLAINTEXT" or session.is_by_token:
        return False
    return not (session.security_protocol == "SSL" and session.principal == ANONYMOUS)


def owner_of(context: RequestContext, request: CreateDelegationTokenRequest) -> str:
    """Return for whom a token is asked for."""
    if context.version < 3 or not request.owner_principal_name:
        return context.session.principal
    return f"{request.owner_principal_type}:{request.owner_principal_name}"


class DelegationTokenHandlers:
    """Answers from the image; changes the tree. `store` is None where there is no secret key, and so no tokens."""

    def __init__(
        self,
        store: TokenStore | None,
        controller: Controller,
        *,
        wall_ms: Callable[[], int],
        secret_bytes: Callable[[int], bytes],
        lifetime_max_ms: int,
        expiry_ms: int,
    ) -> None:
        self._store = store
        self._controller = controller
        self._wall_ms = wall_ms
        self._secret_bytes = secret_bytes
        self._lifetime_max_ms = lifetime_max_ms
        self._expiry_ms = expiry_ms

    def routes(self) -> Routes:
        return {
            ApiKey.CREATE_DELEGATION_TOKEN: Route(self.handle_create),
            ApiKey.RENEW_DELEGATION_TOKEN: Route(self.handle_renew),
            ApiKey.EXPIRE_DELEGATION_TOKEN: Route(self.handle_expire),
            ApiKey.DESCRIBE_DELEGATION_TOKEN: Route(self.handle_describe),
        }

    async def handle_create(
        self, context: RequestContext, request: CreateDelegationTokenRequest
    ) -> CreateDelegationTokenResponse:
        owner, requester = owner_of(context, request), context.session.principal
        renewers = tuple(dict.fromkeys(f"{each.principal_type}:{each.principal_name}" for each in request.renewers))
        now_ms = self._wall_ms()
        error = ErrorCode.NONE
        if not may_ask(context.session):
            error = _NOT_ALLOWED
        elif any(each.principal_type != "User" for each in request.renewers):
            error = ErrorCode.INVALID_PRINCIPAL_TYPE
        elif self._store is None:
            error = _DISABLED
        elif not owner.startswith("User:"):
            error = ErrorCode.INVALID_PRINCIPAL_TYPE
        elif len(renewers) > RENEWERS_MAX or any(len(name) > NAME_MAX for name in (owner, *renewers)):
            error = ErrorCode.INVALID_REQUEST
        elif self._count_of(owner, now_ms) >= TOKENS_OF_OWNER_MAX:
            error = ErrorCode.POLICY_VIOLATION
        if error or self._store is None:
            return refused_creation(error, owner, requester, context.version)
        token = new_token(
            self._new_id(),
            owner=owner,
            requester=requester,
            renewers=renewers,
            max_lifetime_ms=request.max_lifetime_ms,
            lifetime_max_ms=self._lifetime_max_ms,
            expiry_ms=self._expiry_ms,
            now_ms=now_ms,
        )
        await self._store.write(self._controller, token)
        answer = refused_creation(ErrorCode.NONE, owner, requester, context.version)
        answer.issue_timestamp_ms, answer.expiry_timestamp_ms = token.issued_ms, token.expires_ms
        answer.max_timestamp_ms = token.expires_at_most_ms
        answer.token_id, answer.hmac = token.token_id, self._store.hmac_of(token.token_id)
        return answer

    def _new_id(self) -> str:
        """Return 128 bits of randomness as text that no command line takes for an option (Kafka's Uuid.randomUuid)."""
        while True:
            text = base64.urlsafe_b64encode(self._secret_bytes(16)).decode().rstrip("=")
            if not text.startswith("-"):
                return text

    def _count_of(self, owner: str, now_ms: int) -> int:
        assert self._store is not None
        return sum(token.owner == owner and not token.has_expired(now_ms) for token in self._store.tokens())

    async def handle_renew(
        self, context: RequestContext, request: RenewDelegationTokenRequest
    ) -> RenewDelegationTokenResponse:
        token = self._find(context.session, bytes(request.hmac))
        if isinstance(token, ErrorCode):
            return RenewDelegationTokenResponse(error_code=token, expiry_timestamp_ms=_NO_TIME)
        principal, now_ms = context.session.principal, self._wall_ms()
        changed = token.renewed(principal, request.renew_period_ms, self._expiry_ms, now_ms)
        if isinstance(changed, Refused):
            return RenewDelegationTokenResponse(error_code=_REFUSALS[changed], expiry_timestamp_ms=_NO_TIME)
        assert self._store is not None
        await self._store.write(self._controller, changed)
        return RenewDelegationTokenResponse(expiry_timestamp_ms=changed.expires_ms)

    async def handle_expire(
        self, context: RequestContext, request: ExpireDelegationTokenRequest
    ) -> ExpireDelegationTokenResponse:
        token = self._find(context.session, bytes(request.hmac))
        if isinstance(token, ErrorCode):
            return ExpireDelegationTokenResponse(error_code=token, expiry_timestamp_ms=_NO_TIME)
        now_ms = self._wall_ms()
        changed = token.ended(context.session.principal, request.expiry_time_period_ms, now_ms)
        if isinstance(changed, Refused):
            return ExpireDelegationTokenResponse(error_code=_REFUSALS[changed], expiry_timestamp_ms=_NO_TIME)
        assert self._store is not None
        if changed is None:
            await self._store.remove(self._controller, token.token_id)
            return ExpireDelegationTokenResponse(expiry_timestamp_ms=now_ms)
        await self._store.write(self._controller, changed)
        return ExpireDelegationTokenResponse(expiry_timestamp_ms=changed.expires_ms)

    def _find(self, session: Session, hmac: bytes) -> DelegationToken | ErrorCode:
        if not may_ask(session):
            return _NOT_ALLOWED
        if self._store is None:
            return _DISABLED
        return self._store.by_hmac(hmac) or ErrorCode.DELEGATION_TOKEN_NOT_FOUND

    def handle_describe(
        self, context: RequestContext, request: DescribeDelegationTokenRequest
    ) -> DescribeDelegationTokenResponse:
        if not may_ask(context.session):
            return DescribeDelegationTokenResponse(error_code=_NOT_ALLOWED)
        if self._store is None:
            return DescribeDelegationTokenResponse(error_code=_DISABLED)
        owners = None if request.owners is None else {f"{o.principal_type}:{o.principal_name}" for o in request.owners}
        return DescribeDelegationTokenResponse(
            tokens=[
                self._described(self._store, token, context.version)
                for token in self._store.tokens()
                if owners is None or any(map(token.is_its, owners))
            ]
        )

    def _described(self, store: TokenStore, token: DelegationToken, version: int) -> DescribedDelegationToken:
        kind, _, name = token.owner.partition(":")
        by_kind, _, by_name = token.requester.partition(":") if version >= 3 else ("", "", "")
        return DescribedDelegationToken(
            principal_type=kind,
            principal_name=name,
            token_requester_principal_type=by_kind,
            token_requester_principal_name=by_name,
            issue_timestamp=token.issued_ms,
            expiry_timestamp=token.expires_ms,
            max_timestamp=token.expires_at_most_ms,
            token_id=token.token_id,
            hmac=store.hmac_of(token.token_id),
            renewers=[
                DescribedDelegationTokenRenewer(principal_type=k, principal_name=n)
                for k, _, n in (renewer.partition(":") for renewer in token.renewers)
            ],
        )


def refused_creation(error: ErrorCode, owner: str, requester: str, version: int) -> CreateDelegationTokenResponse:
    """Return the answer to a creation that did not come about (and, without an error, what every answer has)."""
    kind, _, name = owner.partition(":")
    by_kind, _, by_name = requester.partition(":") if version >= 3 else ("", "", "")
    return CreateDelegationTokenResponse(
        error_code=error,
        principal_type=kind,
        principal_name=name,
        token_requester_principal_type=by_kind,
        token_requester_principal_name=by_name,
        issue_timestamp_ms=_NO_TIME,
        expiry_timestamp_ms=_NO_TIME,
        max_timestamp_ms=_NO_TIME,
    )
