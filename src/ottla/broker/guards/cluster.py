"""Guards of what concerns the cluster as a whole, and of settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ottla.broker.context import RequestContext
from ottla.broker.guards.base import (
    ALTER,
    ALTER_CONFIGS,
    CLUSTER_DENIED,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    GROUP_DENIED,
    SENTENCES,
    TOPIC_DENIED,
    Around,
    Guard,
    Proceed,
    then,
)
from ottla.broker.guards.topics import cluster_operations
from ottla.errors import ErrorCode
from ottla.protocol.api import APIS
from ottla.protocol.messages import (
    alter_client_quotas,
    alter_configs,
    alter_replica_log_dirs,
    alter_user_scram_credentials,
    create_acls,
    delete_acls,
    describe_client_quotas,
    describe_cluster,
    describe_configs,
    describe_log_dirs,
    describe_user_scram_credentials,
    elect_leaders,
    incremental_alter_configs,
    update_features,
)
from ottla.security.acls import CLUSTER_NAME, Operation, ResourceType

#: Types of resources that have settings (numbers on the wire), what is asked about them, and the refusal.
_CONFIG_KINDS: dict[int, tuple[ResourceType, ErrorCode]] = {
    2: (ResourceType.TOPIC, TOPIC_DENIED),
    4: (ResourceType.CLUSTER, CLUSTER_DENIED),
    8: (ResourceType.CLUSTER, CLUSTER_DENIED),
    16: (ResourceType.CLUSTER, CLUSTER_DENIED),
    32: (ResourceType.GROUP, GROUP_DENIED),
}


def cluster_guard(operation: Operation) -> Guard:
    """Return a guard that asks for one operation on the cluster, and refuses with the error of the whole answer."""

    def guard(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
        if around.authorizer.allows_cluster(context.session, operation):
            return proceed(request)
        answer: Any = APIS[context.api_key].response_class()()
        answer.error_code = CLUSTER_DENIED
        if hasattr(answer, "error_message"):
            answer.error_message = SENTENCES[CLUSTER_DENIED]
        return answer

    return guard


def guard_describe_cluster(
    around: Around, context: RequestContext, request: describe_cluster.DescribeClusterRequest, proceed: Proceed
) -> Any:
    """Nothing; what the client may do with the cluster is its own."""
    if not request.include_cluster_authorized_operations:
        return proceed(request)

    def finish(answer: describe_cluster.DescribeClusterResponse) -> describe_cluster.DescribeClusterResponse:
        if answer.error_code == ErrorCode.NONE:
            answer.cluster_authorized_operations = cluster_operations(around, context)
        return answer

    return then(context, proceed(request), finish)


def guard_describe_quotas(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """DESCRIBE_CONFIGS on the cluster."""
    if around.authorizer.allows_cluster(context.session, DESCRIBE_CONFIGS):
        return proceed(request)
    return describe_client_quotas.DescribeClientQuotasResponse(
        error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED], entries=None
    )


def guard_alter_quotas(
    around: Around, context: RequestContext, request: alter_client_quotas.AlterClientQuotasRequest, proceed: Proceed
) -> Any:
    """ALTER_CONFIGS on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER_CONFIGS):
        return proceed(request)
    return alter_client_quotas.AlterClientQuotasResponse(
        entries=[
            alter_client_quotas.AlterClientQuotasResponseEntryData(
                error_code=CLUSTER_DENIED,
                error_message=SENTENCES[CLUSTER_DENIED],
                entity=[
                    alter_client_quotas.EntityData(entity_type=part.entity_type, entity_name=part.entity_name)
                    for part in entry.entity
                ],
            )
            for entry in request.entries
        ]
    )


def guard_alter_replica_log_dirs(
    around: Around,
    context: RequestContext,
    request: alter_replica_log_dirs.AlterReplicaLogDirsRequest,
    proceed: Proceed,
) -> Any:
    """ALTER on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER):
        return proceed(request)
    return alter_replica_log_dirs.AlterReplicaLogDirsResponse(
        results=[
            alter_replica_log_dirs.AlterReplicaLogDirTopicResult(
                topic_name=topic.name,
                partitions=[
                    alter_replica_log_dirs.AlterReplicaLogDirPartitionResult(
                        partition_index=index, error_code=CLUSTER_DENIED
                    )
                    for index in topic.partitions
                ],
            )
            for directory in request.dirs
            for topic in directory.topics
        ]
    )


def guard_describe_log_dirs(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """DESCRIBE on the cluster."""
    if around.authorizer.allows_cluster(context.session, DESCRIBE):
        return proceed(request)
    return describe_log_dirs.DescribeLogDirsResponse(error_code=CLUSTER_DENIED)


def guard_elect_leaders(
    around: Around, context: RequestContext, request: elect_leaders.ElectLeadersRequest, proceed: Proceed
) -> Any:
    """ALTER on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER):
        return proceed(request)
    return elect_leaders.ElectLeadersResponse(
        error_code=CLUSTER_DENIED if context.version >= 1 else ErrorCode.NONE,
        replica_election_results=[
            elect_leaders.ReplicaElectionResult(
                topic=topic.topic,
                partition_result=[
                    elect_leaders.PartitionResult(
                        partition_id=index, error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED]
                    )
                    for index in topic.partitions
                ],
            )
            for topic in request.topic_partitions or ()
        ],
    )


def guard_update_features(
    around: Around, context: RequestContext, request: update_features.UpdateFeaturesRequest, proceed: Proceed
) -> Any:
    """ALTER on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER):
        return proceed(request)
    return update_features.UpdateFeaturesResponse(
        error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED], results=[]
    )


def guard_describe_configs(
    around: Around, context: RequestContext, request: describe_configs.DescribeConfigsRequest, proceed: Proceed
) -> Any:
    """DESCRIBE_CONFIGS on each topic or group, or on the cluster."""
    return _by_resource(
        around,
        context,
        request,
        proceed,
        DESCRIBE_CONFIGS,
        "results",
        lambda error, kind, name: describe_configs.DescribeConfigsResult(
            error_code=error, error_message=SENTENCES[error], resource_type=kind, resource_name=name
        ),
    )


def guard_alter_configs(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """ALTER_CONFIGS on each topic or group, or on the cluster; AlterConfigs and IncrementalAlterConfigs."""
    row = {
        alter_configs.AlterConfigsRequest: alter_configs.AlterConfigsResourceResponse,
        incremental_alter_configs.IncrementalAlterConfigsRequest: incremental_alter_configs.AlterConfigsResourceResponse,
    }[type(request)]
    return _by_resource(
        around,
        context,
        request,
        proceed,
        ALTER_CONFIGS,
        "responses",
        lambda error, kind, name: row(
            error_code=error, error_message=SENTENCES[error], resource_type=kind, resource_name=name
        ),
    )


def _by_resource(
    around: Around,
    context: RequestContext,
    request: Any,
    proceed: Proceed,
    operation: Operation,
    rows: str,
    refuse: Callable[[ErrorCode, int, str], Any],
) -> Any:
    allowed, refused = [], []
    for resource in request.resources:
        kind = _CONFIG_KINDS.get(resource.resource_type)
        if kind is None:  # the handler says that there is no such type
            allowed.append(resource)
            continue
        name = CLUSTER_NAME if kind[0] is ResourceType.CLUSTER else resource.resource_name
        if around.authorizer.allows(context.session, operation, kind[0], name):
            allowed.append(resource)
        else:
            refused.append(refuse(kind[1], resource.resource_type, resource.resource_name))
    request.resources = allowed

    def finish(answer: Any) -> Any:
        setattr(answer, rows, [*getattr(answer, rows), *refused])
        return answer

    return then(context, proceed(request), finish) if refused else proceed(request)


def guard_describe_credentials(
    around: Around,
    context: RequestContext,
    request: describe_user_scram_credentials.DescribeUserScramCredentialsRequest,
    proceed: Proceed,
) -> Any:
    """DESCRIBE on the cluster."""
    if around.authorizer.allows_cluster(context.session, DESCRIBE):
        return proceed(request)
    return describe_user_scram_credentials.DescribeUserScramCredentialsResponse(
        error_code=CLUSTER_DENIED,
        error_message=SENTENCES[CLUSTER_DENIED],
        results=[
            describe_user_scram_credentials.DescribeUserScramCredentialsResult(
                user=user.name, error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED]
            )
            for user in request.users or ()
        ],
    )


def guard_alter_credentials(
    around: Around,
    context: RequestContext,
    request: alter_user_scram_credentials.AlterUserScramCredentialsRequest,
    proceed: Proceed,
) -> Any:
    """ALTER on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER):
        return proceed(request)
    users = dict.fromkeys([*(row.name for row in request.deletions), *(row.name for row in request.upsertions)])
    return alter_user_scram_credentials.AlterUserScramCredentialsResponse(
        results=[
            alter_user_scram_credentials.AlterUserScramCredentialsResult(
                user=user, error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED]
            )
            for user in users
        ]
    )


def guard_create_acls(
    around: Around, context: RequestContext, request: create_acls.CreateAclsRequest, proceed: Proceed
) -> Any:
    """ALTER on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER):
        return proceed(request)
    return create_acls.CreateAclsResponse(
        results=[
            create_acls.AclCreationResult(error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED])
            for _ in request.creations
        ]
    )


def guard_delete_acls(
    around: Around, context: RequestContext, request: delete_acls.DeleteAclsRequest, proceed: Proceed
) -> Any:
    """ALTER on the cluster."""
    if around.authorizer.allows_cluster(context.session, ALTER):
        return proceed(request)
    return delete_acls.DeleteAclsResponse(
        filter_results=[
            delete_acls.DeleteAclsFilterResult(error_code=CLUSTER_DENIED, error_message=SENTENCES[CLUSTER_DENIED])
            for _ in request.filters
        ]
    )
