"""Admin calls about who may do what and how much: ACLs, quotas, SCRAM credentials, delegation tokens."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from ottla.client._core.asking import CONTROLLER
from ottla.client.admin_base import AdminBase, bounded, check, outcome, unwrap
from ottla.client.admin_results import (
    Acl,
    AclFilter,
    ClientQuota,
    DelegationToken,
    QuotaEntity,
    ScramCredential,
)
from ottla.client.admin_words import (
    MECHANISMS,
    OPERATIONS,
    PATTERN_TYPES,
    PERMISSIONS,
    RESOURCE_TYPES,
    moment,
    number,
    word,
)
from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration, duration_s
from ottla.errors import KafkaError, error_for
from ottla.protocol.messages import (
    alter_client_quotas,
    alter_user_scram_credentials,
    create_delegation_token,
    describe_client_quotas,
    describe_delegation_token,
)
from ottla.protocol.messages.create_acls import AclCreation, CreateAclsRequest, CreateAclsResponse
from ottla.protocol.messages.delete_acls import DeleteAclsFilter, DeleteAclsRequest, DeleteAclsResponse
from ottla.protocol.messages.describe_acls import DescribeAclsRequest, DescribeAclsResponse
from ottla.protocol.messages.describe_user_scram_credentials import (
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
    UserName,
)
from ottla.protocol.messages.expire_delegation_token import ExpireDelegationTokenRequest, ExpireDelegationTokenResponse
from ottla.protocol.messages.renew_delegation_token import RenewDelegationTokenRequest, RenewDelegationTokenResponse

#: Of a quota's filter: this name, the default of the kind, any name.
_EXACT, _DEFAULT, _ANY = range(3)
#: Iterations of a new password's hash: Kafka's lower bound is 4096.
SCRAM_ITERATIONS: Final = 8_192
_SALT_BYTES: Final = 24


class SecurityCalls(AdminBase):
    """Access and limits."""

    # -- ACLs -------------------------------------------------------------------------------------------------------

    @bounded
    async def describe_acls(self, matching: AclFilter | None = None, *, timeout: Duration | None = None) -> list[Acl]:
        """Return the rules that a filter describes (all).

        Raises:
            SecurityDisabledError: the broker has no authorizer.
        """
        wanted = _filter(matching or AclFilter())
        request = DescribeAclsRequest(
            resource_type_filter=wanted.resource_type_filter,
            resource_name_filter=wanted.resource_name_filter,
            pattern_type_filter=wanted.pattern_type_filter,
            principal_filter=wanted.principal_filter,
            host_filter=wanted.host_filter,
            operation=wanted.operation,
            permission_type=wanted.permission_type,
        )
        answer = await self._ask(request, DescribeAclsResponse)
        check(answer.error_code, answer.error_message)
        return [
            Acl(
                principal=row.principal,
                operation=word(OPERATIONS, row.operation),
                resource_type=word(RESOURCE_TYPES, resource.resource_type),
                resource_name=resource.resource_name,
                pattern_type=word(PATTERN_TYPES, resource.pattern_type),
                host=row.host,
                permission=word(PERMISSIONS, row.permission_type),
            )
            for resource in answer.resources
            for row in resource.acls
        ]

    @bounded
    async def create_acls(self, acls: Iterable[Acl], *, timeout: Duration | None = None) -> None:
        """Add rules; a rule that is there already is no error.

        Raises:
            AdminErrors: some of several were not added; `errors` says why, by rule.
        """

        async def attempt(left: list[Acl], deadline_ms: float) -> dict[Acl, KafkaError | None]:
            request = CreateAclsRequest(creations=[_creation(acl) for acl in left])
            answer = await self._ask(request, CreateAclsResponse, CONTROLLER, deadline_ms=deadline_ms)
            return {
                acl: outcome(row.error_code, row.error_message, None)
                for acl, row in zip(left, answer.results, strict=False)
            }

        await self._all(acls, attempt)

    @bounded
    async def delete_acls(self, matching: Iterable[AclFilter], *, timeout: Duration | None = None) -> list[Acl]:
        """Delete the rules that any of the filters describes; return them.

        Raises:
            AdminErrors: some of several filters failed.
        """

        async def attempt(left: list[AclFilter], deadline_ms: float) -> dict[AclFilter, list[Acl] | KafkaError]:
            request = DeleteAclsRequest(filters=[_filter(each) for each in left])
            answer = await self._ask(request, DeleteAclsResponse, CONTROLLER, deadline_ms=deadline_ms)
            found: dict[AclFilter, list[Acl] | KafkaError] = {}
            for each, row in zip(left, answer.filter_results, strict=False):
                failed = next((acl for acl in row.matching_acls if acl.error_code), None)
                if row.error_code or failed is None:
                    found[each] = outcome(row.error_code, row.error_message, [_acl(acl) for acl in row.matching_acls])
                else:
                    found[each] = error_for(failed.error_code, failed.error_message)
            return found

        rows = await self._all(matching, attempt)
        return [acl for found in rows.values() for acl in found]

    # -- quotas -----------------------------------------------------------------------------------------------------

    @bounded
    async def describe_client_quotas(
        self, entity: Mapping[str, str | None] | None = None, *, strict: bool = False, timeout: Duration | None = None
    ) -> list[ClientQuota]:
        """Return quotas.

        Args:
            entity: only those of this: `{"user": "alice"}`; None as a name is the default of its kind, "*" any name.
            strict: only those of exactly these kinds.
        """
        request = describe_client_quotas.DescribeClientQuotasRequest(
            components=[
                describe_client_quotas.ComponentData(
                    entity_type=kind,
                    match_type=_ANY if name == "*" else _DEFAULT if name is None else _EXACT,
                    match=None if name == "*" else name,
                )
                for kind, name in (entity or {}).items()
            ],
            strict=strict,
        )
        answer = await self._ask(request, describe_client_quotas.DescribeClientQuotasResponse)
        check(answer.error_code, answer.error_message)
        return [
            ClientQuota(
                entity={part.entity_type: part.entity_name for part in entry.entity},
                values={row.key: row.value for row in entry.values},
            )
            for entry in answer.entries or ()
        ]

    @bounded
    async def alter_client_quotas(
        self,
        entity: QuotaEntity,
        values: Mapping[str, float | None],
        *,
        validate_only: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Set limits of an entity: `{"user": "alice"}`, `{"producer_byte_rate": 1e6}`; None takes one away.

        Raises:
            InvalidRequestError: a kind or a limit is not known.
        """
        request = alter_client_quotas.AlterClientQuotasRequest(
            entries=[
                alter_client_quotas.AlterClientQuotasRequestEntryData(
                    entity=[
                        alter_client_quotas.EntityData(entity_type=kind, entity_name=name)
                        for kind, name in entity.items()
                    ],
                    ops=[
                        alter_client_quotas.OpData(key=key, value=0.0 if value is None else value, remove=value is None)
                        for key, value in values.items()
                    ],
                )
            ],
            validate_only=validate_only,
        )

        async def attempt(deadline_ms: float) -> None:
            answer = await self._ask(
                request, alter_client_quotas.AlterClientQuotasResponse, CONTROLLER, deadline_ms=deadline_ms
            )
            for row in answer.entries:
                check(row.error_code, row.error_message)

        await self._once(attempt)

    # -- SCRAM ------------------------------------------------------------------------------------------------------

    @bounded
    async def describe_user_scram_credentials(
        self, users: Iterable[str] | None = None, *, timeout: Duration | None = None
    ) -> dict[str, list[ScramCredential]]:
        """Return which users have SCRAM credentials, and of which kind (KIP-554).

        Args:
            users: None for all.

        Raises:
            ResourceNotFoundError: a user has none.
            AdminErrors: some of several users have none.
        """
        wanted = None if users is None else list(users)
        request = DescribeUserScramCredentialsRequest(
            users=None if wanted is None else [UserName(name=name) for name in wanted]
        )
        answer = await self._ask(request, DescribeUserScramCredentialsResponse, CONTROLLER)
        check(answer.error_code, answer.error_message)
        return unwrap(
            {
                row.user: outcome(
                    row.error_code,
                    row.error_message,
                    [
                        ScramCredential(mechanism=word(MECHANISMS, found.mechanism), iterations=found.iterations)
                        for found in row.credential_infos
                    ],
                )
                for row in answer.results
            }
        )

    @bounded
    async def upsert_user_scram_credential(
        self,
        user: str,
        password: str,
        *,
        mechanism: str = "SCRAM-SHA-512",
        iterations: int = SCRAM_ITERATIONS,
        timeout: Duration | None = None,
    ) -> None:
        """Give a user a password; the broker gets its salted hash, not the password."""
        salt = secrets.token_bytes(_SALT_BYTES)
        kind = number(MECHANISMS, mechanism, "SCRAM mechanism")
        name = "sha256" if mechanism.upper().endswith("256") else "sha512"
        # 2 to 20 ms: not for the event loop.
        salted = await asyncio.to_thread(hashlib.pbkdf2_hmac, name, password.encode(), salt, iterations)
        await self._alter_scram(
            alter_user_scram_credentials.AlterUserScramCredentialsRequest(
                upsertions=[
                    alter_user_scram_credentials.ScramCredentialUpsertion(
                        name=user, mechanism=kind, iterations=iterations, salt=salt, salted_password=salted
                    )
                ]
            )
        )

    @bounded
    async def delete_user_scram_credential(
        self, user: str, *, mechanism: str = "SCRAM-SHA-512", timeout: Duration | None = None
    ) -> None:
        """Take a user's password away.

        Raises:
            ResourceNotFoundError: the user has none of this kind.
        """
        await self._alter_scram(
            alter_user_scram_credentials.AlterUserScramCredentialsRequest(
                deletions=[
                    alter_user_scram_credentials.ScramCredentialDeletion(
                        name=user, mechanism=number(MECHANISMS, mechanism, "SCRAM mechanism")
                    )
                ]
            )
        )

    async def _alter_scram(self, request: alter_user_scram_credentials.AlterUserScramCredentialsRequest) -> None:
        async def attempt(deadline_ms: float) -> None:
            answer = await self._ask(
                request,
                alter_user_scram_credentials.AlterUserScramCredentialsResponse,
                CONTROLLER,
                deadline_ms=deadline_ms,
            )
            for row in answer.results:
                check(row.error_code, row.error_message)

        await self._once(attempt)

    # -- delegation tokens ------------------------------------------------------------------------------------------

    @bounded
    async def create_delegation_token(
        self,
        *,
        owner: str | None = None,
        renewers: Iterable[str] = (),
        max_lifetime: Duration | None = None,
        timeout: Duration | None = None,
    ) -> DelegationToken:
        """Make a token with which others can act as its owner (KIP-48).

        Args:
            owner: "User:alice"; None is who calls.
            renewers: who may renew it beside the owner.
            max_lifetime: None for the broker's `delegation.token.max.lifetime.ms`.

        Raises:
            DelegationTokenAuthDisabledError: the broker has no tokens.
        """
        lifetime_ms = -1 if max_lifetime is None else int(duration_s("max_lifetime", max_lifetime) * 1000)
        names = [_principal(name) for name in renewers]
        request = create_delegation_token.CreateDelegationTokenRequest(
            renewers=[
                create_delegation_token.CreatableRenewers(principal_type=kind, principal_name=name)
                for kind, name in names
            ],
            max_lifetime_ms=lifetime_ms,
            owner_principal_type=None,
            owner_principal_name=None,
        )
        if owner is not None:
            request.owner_principal_type, request.owner_principal_name = _principal(owner)
        answer = await self._ask(request, create_delegation_token.CreateDelegationTokenResponse, CONTROLLER)
        check(answer.error_code)
        return DelegationToken(
            token_id=answer.token_id,
            owner=f"{answer.principal_type}:{answer.principal_name}",
            requester=f"{answer.token_requester_principal_type}:{answer.token_requester_principal_name}",
            issued=moment(answer.issue_timestamp_ms),
            expires=moment(answer.expiry_timestamp_ms),
            expires_at_most=moment(answer.max_timestamp_ms),
            hmac=bytes(answer.hmac),
            renewers=tuple(f"{kind}:{name}" for kind, name in names),
        )

    @bounded
    async def renew_delegation_token(
        self, hmac: bytes, *, period: Duration | None = None, timeout: Duration | None = None
    ) -> datetime:
        """Have a token live longer; return until when."""
        period_ms = -1 if period is None else int(duration_s("period", period) * 1000)
        answer = await self._ask(
            RenewDelegationTokenRequest(hmac=hmac, renew_period_ms=period_ms), RenewDelegationTokenResponse, CONTROLLER
        )
        check(answer.error_code)
        return moment(answer.expiry_timestamp_ms)

    @bounded
    async def expire_delegation_token(
        self, hmac: bytes, *, after: Duration | None = None, timeout: Duration | None = None
    ) -> datetime:
        """Have a token end now, or after a while; return when."""
        period_ms = -1 if after is None else int(duration_s("after", after) * 1000)
        answer = await self._ask(
            ExpireDelegationTokenRequest(hmac=hmac, expiry_time_period_ms=period_ms),
            ExpireDelegationTokenResponse,
            CONTROLLER,
        )
        check(answer.error_code)
        return moment(answer.expiry_timestamp_ms)

    @bounded
    async def describe_delegation_tokens(
        self, owners: Iterable[str] | None = None, *, timeout: Duration | None = None
    ) -> list[DelegationToken]:
        """Return the tokens that the caller may see.

        Args:
            owners: only theirs: ["User:alice"].
        """
        request = describe_delegation_token.DescribeDelegationTokenRequest(
            owners=None
            if owners is None
            else [
                describe_delegation_token.DescribeDelegationTokenOwner(principal_type=kind, principal_name=name)
                for kind, name in map(_principal, owners)
            ]
        )
        answer = await self._ask(request, describe_delegation_token.DescribeDelegationTokenResponse)
        check(answer.error_code)
        return [
            DelegationToken(
                token_id=row.token_id,
                owner=f"{row.principal_type}:{row.principal_name}",
                requester=f"{row.token_requester_principal_type}:{row.token_requester_principal_name}",
                issued=moment(row.issue_timestamp),
                expires=moment(row.expiry_timestamp),
                expires_at_most=moment(row.max_timestamp),
                hmac=bytes(row.hmac),
                renewers=tuple(f"{each.principal_type}:{each.principal_name}" for each in row.renewers),
            )
            for row in answer.tokens
        ]


def _principal(text: str) -> tuple[str, str]:
    kind, colon, name = text.partition(":")
    if not (kind and colon and name):
        raise ConfigurationError(f"{text!r} is no principal.", "Write it with its kind: 'User:alice'.")
    return kind, name


def _creation(acl: Acl) -> AclCreation:
    kind, name = _principal(acl.principal)
    return AclCreation(
        resource_type=number(RESOURCE_TYPES, acl.resource_type, "resource type"),
        # There is one cluster, and this is its name.
        resource_name="kafka-cluster" if acl.resource_type == "cluster" else acl.resource_name,
        resource_pattern_type=number(PATTERN_TYPES, acl.pattern_type, "pattern type"),
        principal=f"{kind}:{name}",
        host=acl.host,
        operation=number(OPERATIONS, acl.operation, "operation"),
        permission_type=number(PERMISSIONS, acl.permission, "permission"),
    )


def _filter(wanted: AclFilter) -> DeleteAclsFilter:
    return DeleteAclsFilter(
        resource_type_filter=number(RESOURCE_TYPES, wanted.resource_type, "resource type"),
        resource_name_filter=wanted.resource_name,
        pattern_type_filter=number(PATTERN_TYPES, wanted.pattern_type, "pattern type"),
        principal_filter=wanted.principal,
        host_filter=wanted.host,
        operation=number(OPERATIONS, wanted.operation, "operation"),
        permission_type=number(PERMISSIONS, wanted.permission, "permission"),
    )


def _acl(row: Any) -> Acl:
    return Acl(
        principal=row.principal,
        operation=word(OPERATIONS, row.operation),
        resource_type=word(RESOURCE_TYPES, row.resource_type),
        resource_name=row.resource_name,
        pattern_type=word(PATTERN_TYPES, row.pattern_type),
        host=row.host,
        permission=word(PERMISSIONS, row.permission_type),
    )
