"""Guards of delegation tokens (KIP-48, KIP-373): for whom a client may ask, and whose tokens it sees."""

from __future__ import annotations

from typing import Any

from ottla.broker.context import RequestContext
from ottla.broker.guards.base import DESCRIBE, Around, Proceed, then
from ottla.broker.handlers.delegation_tokens import may_ask, owner_of, refused_creation
from ottla.errors import ErrorCode
from ottla.protocol.messages.create_delegation_token import CreateDelegationTokenRequest
from ottla.protocol.messages.describe_delegation_token import (
    DescribedDelegationToken,
    DescribeDelegationTokenResponse,
)
from ottla.security.acls import Operation, ResourceType


def guard_create(
    around: Around, context: RequestContext, request: CreateDelegationTokenRequest, proceed: Proceed
) -> Any:
    """CREATE_TOKENS on the user that a token is for, where that is somebody else."""
    owner, session = owner_of(context, request), context.session
    if (
        not may_ask(session)
        or owner == session.principal
        or around.authorizer.allows(session, Operation.CREATE_TOKENS, ResourceType.USER, owner)
    ):
        return proceed(request)
    return refused_creation(ErrorCode.DELEGATION_TOKEN_AUTHORIZATION_FAILED, owner, session.principal, context.version)


def guard_describe(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """Of tokens that are somebody else's those are shown whose id, or whose owner's tokens, the client may describe."""
    session = context.session

    def may_see(token: DescribedDelegationToken) -> bool:
        owner = f"{token.principal_type}:{token.principal_name}"
        others = {
            owner,
            f"{token.token_requester_principal_type}:{token.token_requester_principal_name}",
            *(f"{each.principal_type}:{each.principal_name}" for each in token.renewers),
        }
        allows = around.authorizer.allows
        return (
            session.principal in others
            or allows(session, DESCRIBE, ResourceType.DELEGATION_TOKEN, token.token_id, is_logged=False)
            or allows(session, Operation.DESCRIBE_TOKENS, ResourceType.USER, owner, is_logged=False)
        )

    def finish(answer: DescribeDelegationTokenResponse) -> DescribeDelegationTokenResponse:
        answer.tokens = [token for token in answer.tokens if may_see(token)]
        return answer

    return then(context, proceed(request), finish)
