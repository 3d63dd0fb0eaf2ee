"""DescribeAcls (29), CreateAcls (30) and DeleteAcls (31), v1-3. v1: prefixed patterns (KIP-290). v3: users (KIP-373).

Without an authorizer they answer SECURITY_DISABLED, as Kafka's do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ottla.broker.context import Route
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.create_acls import AclCreationResult, CreateAclsRequest, CreateAclsResponse
from ottla.protocol.messages.delete_acls import (
    DeleteAclsFilterResult,
    DeleteAclsMatchingAcl,
    DeleteAclsRequest,
    DeleteAclsResponse,
)
from ottla.protocol.messages.describe_acls import (
    AclDescription,
    DescribeAclsRequest,
    DescribeAclsResource,
    DescribeAclsResponse,
)
from ottla.security.acls import (
    CLUSTER_NAME,
    Binding,
    BindingFilter,
    Operation,
    Pattern,
    PatternType,
    Permission,
    ResourceType,
    Rule,
    why_invalid,
)

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage

_DISABLED = "No Authorizer is configured."
#: Names and principals are kept in the tree: longer ones are no names.
TEXT_MAX = 1024


class AclHandlers:
    """Answers from the image; changes the tree."""

    def __init__(self, image: Callable[[], ClusterImage], controller: Controller, *, is_enabled: bool) -> None:
        self._image = image
        self._controller = controller
        self._is_enabled = is_enabled

    def routes(self) -> Routes:
        return {
            ApiKey.DESCRIBE_ACLS: Route(self.handle_describe),
            ApiKey.CREATE_ACLS: Route(self.handle_create),
            ApiKey.DELETE_ACLS: Route(self.handle_delete),
        }

    def _bindings(self) -> list[Binding]:
        return [Binding(pattern, rule) for pattern, rules in self._image().acls.items() for rule in rules]

    def handle_describe(self, context: RequestContext, request: DescribeAclsRequest) -> DescribeAclsResponse:
        if not self._is_enabled:
            return DescribeAclsResponse(error_code=ErrorCode.SECURITY_DISABLED, error_message=_DISABLED)
        wanted = _filter_of(request)
        if isinstance(wanted, str):
            return DescribeAclsResponse(error_code=ErrorCode.INVALID_REQUEST, error_message=wanted)
        found: dict[Pattern, list[AclDescription]] = {}
        for binding in self._bindings():
            if wanted.matches(binding):
                pattern, rule = binding
                found.setdefault(pattern, []).append(
                    AclDescription(
                        principal=rule.principal,
                        host=rule.host,
                        operation=rule.operation,
                        permission_type=rule.permission,
                    )
                )
        return DescribeAclsResponse(
            error_message=None,
            resources=[
                DescribeAclsResource(
                    resource_type=pattern.resource_type,
                    resource_name=pattern.name,
                    pattern_type=pattern.pattern_type,
                    acls=rules,
                )
                for pattern, rules in found.items()
            ],
        )

    async def handle_create(self, context: RequestContext, request: CreateAclsRequest) -> CreateAclsResponse:
        if not self._is_enabled:
            return CreateAclsResponse(
                results=[
                    AclCreationResult(error_code=ErrorCode.SECURITY_DISABLED, error_message=_DISABLED)
                    for _ in request.creations
                ]
            )
        response = CreateAclsResponse()
        wanted: list[Binding] = []
        for creation in request.creations:
            result = AclCreationResult(error_message=None)
            response.results.append(result)
            binding = _binding_of(creation)
            why = binding if isinstance(binding, str) else why_invalid(binding) or _why_refused(binding)
            if why is None and isinstance(binding, Binding):
                wanted.append(binding)
            else:
                result.error_code, result.error_message = ErrorCode.INVALID_REQUEST, why
        if wanted:
            await self._controller.create_acls(wanted)
        return response

    async def handle_delete(self, context: RequestContext, request: DeleteAclsRequest) -> DeleteAclsResponse:
        if not self._is_enabled:
            return DeleteAclsResponse(
                filter_results=[
                    DeleteAclsFilterResult(error_code=ErrorCode.SECURITY_DISABLED, error_message=_DISABLED)
                    for _ in request.filters
                ]
            )
        response = DeleteAclsResponse()
        gone: dict[Binding, None] = {}
        bindings = self._bindings()
        for row in request.filters:
            result = DeleteAclsFilterResult(error_message=None)
            response.filter_results.append(result)
            wanted = _filter_of(row)
            if isinstance(wanted, str):
                result.error_code, result.error_message = ErrorCode.INVALID_REQUEST, wanted
                continue
            for binding in bindings:
                if wanted.matches(binding):
                    gone[binding] = None
                    pattern, rule = binding
                    result.matching_acls.append(
                        DeleteAclsMatchingAcl(
                            error_message=None,
                            resource_type=pattern.resource_type,
                            resource_name=pattern.name,
                            pattern_type=pattern.pattern_type,
                            principal=rule.principal,
                            host=rule.host,
                            operation=rule.operation,
                            permission_type=rule.permission,
                        )
                    )
        if gone:
            await self._controller.delete_acls(list(gone))
        return response


def _binding_of(creation: Any) -> Binding | str:
    try:
        return Binding(
            Pattern(
                ResourceType(creation.resource_type),
                PatternType(creation.resource_pattern_type),
                creation.resource_name,
            ),
            Rule(
                creation.principal, creation.host, Operation(creation.operation), Permission(creation.permission_type)
            ),
        )
    except ValueError as error:
        return f"CreatableAcls contain unknown elements: {error}"


def _why_refused(binding: Binding) -> str | None:
    """What only this request may not say."""
    pattern, rule = binding
    if pattern.resource_type is ResourceType.CLUSTER and pattern.name != CLUSTER_NAME:
        return f"The only valid name for the CLUSTER resource is {CLUSTER_NAME}"
    if not rule.host:
        return "Host should not be empty"
    if max(len(pattern.name), len(rule.principal), len(rule.host)) > TEXT_MAX:
        return f"Names, principals and hosts have at most {TEXT_MAX} characters"
    return None


def _filter_of(row: Any) -> BindingFilter | str:
    try:
        return BindingFilter(
            ResourceType(row.resource_type_filter),
            row.resource_name_filter,
            PatternType(row.pattern_type_filter),
            row.principal_filter,
            row.host_filter,
            Operation(row.operation),
            Permission(row.permission_type),
        )
    except ValueError as error:
        return f"The filter contains UNKNOWN elements: {error}"
