"""SaslHandshake (17, v0-1), SaslAuthenticate (36, v0-2), Describe- and AlterUserScramCredentials (50 and 51, v0; KIP-554).

The first two come here only where they have no business: on listeners without SASL, or from a client that has logged in
already and has no session that ends. All others are the login guard's (`broker/login.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ottla.broker.context import Route
from ottla.cluster.decisions.configs import Alteration, Operation
from ottla.cluster.image import USERS, ConfigResource
from ottla.cluster.nodes import desanitize, sanitize
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    AlterUserScramCredentialsResult,
)
from ottla.protocol.messages.describe_user_scram_credentials import (
    CredentialInfo,
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
)
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.security.sasl.scram import (
    HASHES,
    ITERATIONS_MAX,
    ITERATIONS_MIN,
    ScramCredential,
    credential_from_salted,
    credential_from_text,
    credential_to_text,
)

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage

#: Mechanisms by their numbers on the wire.
MECHANISMS = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}
_NUMBERS = {name: number for number, name in MECHANISMS.items()}
#: Names and salts are kept in one node with others: longer ones are no names.
USER_NAME_MAX = 1024
SALT_MAX = 1024


def scram_credential(image: ClusterImage, mechanism: str, user: str) -> ScramCredential | None:
    """Return a user's credential; None if there is none."""
    text = image.config(USERS, sanitize(user)).get(mechanism)
    return None if text is None else credential_from_text(text)


class LoginHandlers:
    """Answers from the image; changes the tree."""

    def __init__(self, image: Callable[[], ClusterImage], controller: Controller) -> None:
        self._image = image
        self._controller = controller

    def routes(self) -> Routes:
        return {
            ApiKey.SASL_HANDSHAKE: Route(self.handle_handshake),
            ApiKey.SASL_AUTHENTICATE: Route(self.handle_authenticate),
            ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: Route(self.handle_describe),
            ApiKey.ALTER_USER_SCRAM_CREDENTIALS: Route(self.handle_alter),
        }

    def handle_handshake(self, context: RequestContext, request: SaslHandshakeRequest) -> SaslHandshakeResponse:
        return SaslHandshakeResponse(error_code=ErrorCode.ILLEGAL_SASL_STATE)

    def handle_authenticate(
        self, context: RequestContext, request: SaslAuthenticateRequest
    ) -> SaslAuthenticateResponse:
        return SaslAuthenticateResponse(
            error_code=ErrorCode.ILLEGAL_SASL_STATE,
            error_message="SaslAuthenticate request received after successful authentication",
        )

    # -- DescribeUserScramCredentials

    def handle_describe(
        self, context: RequestContext, request: DescribeUserScramCredentialsRequest
    ) -> DescribeUserScramCredentialsResponse:
        known = {
            desanitize(name): mechanisms
            for (kind, name), config in self._image().configs.items()
            if kind == USERS and (mechanisms := _mechanisms(config))
        }
        asked = [user.name for user in request.users or ()] or sorted(known)
        response = DescribeUserScramCredentialsResponse(error_message=None)
        for name in dict.fromkeys(asked):
            result = DescribeUserScramCredentialsResult(user=name, error_message=None)
            response.results.append(result)
            if asked.count(name) > 1:
                result.error_code = ErrorCode.DUPLICATE_RESOURCE
                result.error_message = (
                    f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
                )
            elif name not in known:
                result.error_code = ErrorCode.RESOURCE_NOT_FOUND
                result.error_message = f"Attempt to describe a user credential that does not exist: {name}"
            else:
                result.credential_infos = [
                    CredentialInfo(mechanism=_NUMBERS[mechanism], iterations=iterations)
                    for mechanism, iterations in known[name].items()
                ]
        return response

    # -- AlterUserScramCredentials

    async def handle_alter(
        self, context: RequestContext, request: AlterUserScramCredentialsRequest
    ) -> AlterUserScramCredentialsResponse:
        changes: dict[str, list[Alteration]] = {}
        refused: dict[str, tuple[ErrorCode, str]] = {}
        seen: set[tuple[str, int]] = set()
        for deletion in request.deletions:
            error = _why_not(deletion.name, deletion.mechanism, seen)
            changes.setdefault(deletion.name, [])
            if error is None:
                changes[deletion.name].append(Alteration(MECHANISMS[deletion.mechanism], Operation.DELETE, None))
            else:
                refused.setdefault(deletion.name, error)
        for upsertion in request.upsertions:
            error = _why_not(upsertion.name, upsertion.mechanism, seen)
            changes.setdefault(upsertion.name, [])
            if error is None and upsertion.iterations < ITERATIONS_MIN:
                error = (ErrorCode.UNACCEPTABLE_CREDENTIAL, "Too few iterations")
            elif error is None and upsertion.iterations > ITERATIONS_MAX:
                error = (ErrorCode.UNACCEPTABLE_CREDENTIAL, "Too many iterations")
            elif error is None and len(upsertion.salt) > SALT_MAX:
                error = (ErrorCode.UNACCEPTABLE_CREDENTIAL, "The salt is too long")
            if error is not None:
                refused.setdefault(upsertion.name, error)
                continue
            mechanism = MECHANISMS[upsertion.mechanism]
            credential = credential_from_salted(
                mechanism, bytes(upsertion.salted_password), bytes(upsertion.salt), upsertion.iterations
            )
            changes[upsertion.name].append(Alteration(mechanism, Operation.SET, credential_to_text(credential)))
        response = AlterUserScramCredentialsResponse()
        for user, alterations in changes.items():
            error = refused.get(user) or await self._alter(user, alterations)
            code, message = error if error is not None else (ErrorCode.NONE, None)
            response.results.append(AlterUserScramCredentialsResult(user=user, error_code=code, error_message=message))
        return response

    async def _alter(self, user: str, alterations: list[Alteration]) -> tuple[ErrorCode, str] | None:
        resource = ConfigResource(USERS, sanitize(user))
        known = self._image().config(*resource)
        if any(alteration.value is None and alteration.key not in known for alteration in alterations):
            return ErrorCode.RESOURCE_NOT_FOUND, "Attempt to delete a user credential that does not exist"
        refusal = await self._controller.alter_entity(resource, alterations)
        return None if refusal is None else (refusal.error, refusal.message or "")


def _mechanisms(config: Mapping[str, str]) -> dict[str, int]:
    """Return the mechanisms a user has credentials for, and their iterations."""
    return {
        mechanism: credential.iterations
        for mechanism in HASHES
        if (text := config.get(mechanism)) is not None and (credential := credential_from_text(text)) is not None
    }


def _why_not(user: str, mechanism: int, seen: set[tuple[str, int]]) -> tuple[ErrorCode, str] | None:
    if not user:
        return ErrorCode.UNACCEPTABLE_CREDENTIAL, "Username must not be empty"
    if len(user) > USER_NAME_MAX:
        return ErrorCode.UNACCEPTABLE_CREDENTIAL, f"Username must not be longer than {USER_NAME_MAX} characters"
    if mechanism not in MECHANISMS:
        return ErrorCode.UNSUPPORTED_SASL_MECHANISM, "Unknown SCRAM mechanism"
    if (user, mechanism) in seen:
        return (
            ErrorCode.DUPLICATE_RESOURCE,
            "A user credential cannot be altered twice in the same request",
        )
    seen.add((user, mechanism))
    return None
