"""Logins, rules, tokens, passwords and quotas, asked of brokers that know neither logins nor rules."""

from __future__ import annotations

from tests.compatibility.differential.script import versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.create_acls import AclCreation, CreateAclsRequest
from ottla.protocol.messages.create_delegation_token import CreatableRenewers, CreateDelegationTokenRequest
from ottla.protocol.messages.delete_acls import DeleteAclsFilter, DeleteAclsRequest
from ottla.protocol.messages.describe_acls import DescribeAclsRequest
from ottla.protocol.messages.describe_delegation_token import (
    DescribeDelegationTokenOwner,
    DescribeDelegationTokenRequest,
)
from ottla.protocol.messages.expire_delegation_token import ExpireDelegationTokenRequest
from ottla.protocol.messages.renew_delegation_token import RenewDelegationTokenRequest
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest

ANY, TOPIC, READ, ALLOW = 1, 2, 3, 3


def without_rules(wire: Wire) -> None:
    """No authorizer: SECURITY_DISABLED, whatever is asked."""
    for version in versions(ApiKey.DESCRIBE_ACLS):
        wire.ask(
            "describe all",
            DescribeAclsRequest(resource_type_filter=ANY, operation=ANY, permission_type=ANY),
            version,
        )
    creation = AclCreation(
        resource_type=TOPIC, resource_name="t", principal="User:a", host="*", operation=READ, permission_type=ALLOW
    )
    for version in versions(ApiKey.CREATE_ACLS):
        wire.ask("create", CreateAclsRequest(creations=[creation]), version)
        wire.ask("create none", CreateAclsRequest(), version)
        wire.ask("create two", CreateAclsRequest(creations=[creation, creation]), version)
    every = DeleteAclsFilter(resource_type_filter=ANY, operation=ANY, permission_type=ANY)
    for version in versions(ApiKey.DELETE_ACLS):
        wire.ask("delete", DeleteAclsRequest(filters=[every]), version)
        wire.ask("delete none", DeleteAclsRequest(), version)


def without_tokens(wire: Wire) -> None:
    """Neither a login nor a secret key for tokens."""
    owner = DescribeDelegationTokenOwner(principal_type="User", principal_name="a")
    renewer = CreatableRenewers(principal_type="User", principal_name="a")
    for version in versions(ApiKey.CREATE_DELEGATION_TOKEN):
        wire.ask("create", CreateDelegationTokenRequest(renewers=[renewer], max_lifetime_ms=-1), version)
    for version in versions(ApiKey.DESCRIBE_DELEGATION_TOKEN):
        wire.ask("describe all", DescribeDelegationTokenRequest(owners=None), version)
        wire.ask("describe one's", DescribeDelegationTokenRequest(owners=[owner]), version)
        wire.ask("describe nobody's", DescribeDelegationTokenRequest(owners=[]), version)
    for version in versions(ApiKey.RENEW_DELEGATION_TOKEN):
        wire.ask("renew", RenewDelegationTokenRequest(hmac=b"nothing", renew_period_ms=1), version)
    for version in versions(ApiKey.EXPIRE_DELEGATION_TOKEN):
        wire.ask("expire", ExpireDelegationTokenRequest(hmac=b"nothing", expiry_time_period_ms=-1), version)


def without_logins(wire: Wire) -> None:
    """A listener that asks nobody who they are."""
    for version in versions(ApiKey.SASL_HANDSHAKE):
        wire.ask("shakes hands", SaslHandshakeRequest(mechanism="PLAIN"), version, on=f"hands-{version}")
    for version in versions(ApiKey.SASL_AUTHENTICATE):
        wire.ask("logs in", SaslAuthenticateRequest(auth_bytes=b"\0a\0b"), version, on=f"login-{version}")


SCENARIOS = [without_rules, without_tokens, without_logins]
