"""Which guard stands before which API: every API that is served has a row, also where nothing is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ottla.broker.guards import cluster, groups, records, tokens, topics, transactions
from ottla.broker.guards.base import ALTER, CLUSTER_ACTION, DESCRIBE, DESCRIBE_CONFIGS, Guard
from ottla.protocol.api import ApiKey

if TYPE_CHECKING:
    from ottla.broker.context import Handler, RequestContext
    from ottla.broker.guards.base import Around

#: None: nothing is asked, everybody gets an answer.
GUARDS: Final[Mapping[ApiKey, Guard | None]] = {
    ApiKey.API_VERSIONS: None,
    ApiKey.SASL_HANDSHAKE: None,
    ApiKey.SASL_AUTHENTICATE: None,
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: None,
    ApiKey.PUSH_TELEMETRY: None,
    ApiKey.PRODUCE: records.guard_produce,
    ApiKey.FETCH: records.guard_fetch,
    ApiKey.LIST_OFFSETS: records.guard_list_offsets,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: records.guard_offset_for_leader_epoch,
    ApiKey.DELETE_RECORDS: records.guard_delete_records,
    ApiKey.DESCRIBE_PRODUCERS: records.guard_describe_producers,
    ApiKey.INIT_PRODUCER_ID: records.guard_init_producer_id,
    ApiKey.METADATA: topics.guard_metadata,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: topics.guard_describe_topic_partitions,
    ApiKey.CREATE_TOPICS: topics.guard_create_topics,
    ApiKey.DELETE_TOPICS: topics.guard_delete_topics,
    ApiKey.CREATE_PARTITIONS: topics.guard_create_partitions,
    ApiKey.FIND_COORDINATOR: groups.guard_find_coordinator,
    ApiKey.JOIN_GROUP: groups.guard_join_group,
    ApiKey.SYNC_GROUP: groups.guard_member,
    ApiKey.HEARTBEAT: groups.guard_member,
    ApiKey.LEAVE_GROUP: groups.guard_member,
    ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE: groups.guard_member,
    ApiKey.DESCRIBE_GROUPS: groups.guard_describe_groups,
    ApiKey.LIST_GROUPS: groups.guard_list_groups,
    ApiKey.DELETE_GROUPS: groups.guard_delete_groups,
    ApiKey.OFFSET_COMMIT: groups.guard_offset_commit,
    ApiKey.OFFSET_FETCH: groups.guard_offset_fetch,
    ApiKey.OFFSET_DELETE: groups.guard_offset_delete,
    ApiKey.CONSUMER_GROUP_HEARTBEAT: groups.guard_group_heartbeat,
    ApiKey.SHARE_GROUP_HEARTBEAT: groups.guard_group_heartbeat,
    ApiKey.STREAMS_GROUP_HEARTBEAT: groups.guard_streams_heartbeat,
    ApiKey.CONSUMER_GROUP_DESCRIBE: groups.guard_describe_members,
    ApiKey.SHARE_GROUP_DESCRIBE: groups.guard_describe_members,
    ApiKey.STREAMS_GROUP_DESCRIBE: groups.guard_describe_members,
    ApiKey.SHARE_FETCH: groups.guard_share_fetch,
    ApiKey.SHARE_ACKNOWLEDGE: groups.guard_share_acknowledge,
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: groups.guard_describe_share_offsets,
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: groups.guard_alter_share_offsets,
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: groups.guard_delete_share_offsets,
    ApiKey.INITIALIZE_SHARE_GROUP_STATE: groups.guard_share_state,
    ApiKey.READ_SHARE_GROUP_STATE: groups.guard_share_state,
    ApiKey.WRITE_SHARE_GROUP_STATE: groups.guard_share_state,
    ApiKey.DELETE_SHARE_GROUP_STATE: groups.guard_share_state,
    ApiKey.READ_SHARE_GROUP_STATE_SUMMARY: groups.guard_share_state,
    ApiKey.ADD_PARTITIONS_TO_TXN: transactions.guard_add_partitions,
    ApiKey.ADD_OFFSETS_TO_TXN: transactions.guard_add_offsets,
    ApiKey.END_TXN: transactions.guard_end_txn,
    ApiKey.TXN_OFFSET_COMMIT: transactions.guard_txn_offset_commit,
    ApiKey.WRITE_TXN_MARKERS: transactions.guard_write_markers,
    ApiKey.DESCRIBE_TRANSACTIONS: transactions.guard_describe_transactions,
    ApiKey.LIST_TRANSACTIONS: transactions.guard_list_transactions,
    ApiKey.DESCRIBE_CLUSTER: cluster.guard_describe_cluster,
    ApiKey.ALTER_REPLICA_LOG_DIRS: cluster.guard_alter_replica_log_dirs,
    ApiKey.DESCRIBE_LOG_DIRS: cluster.guard_describe_log_dirs,
    ApiKey.ELECT_LEADERS: cluster.guard_elect_leaders,
    ApiKey.UPDATE_FEATURES: cluster.guard_update_features,
    ApiKey.DESCRIBE_CONFIGS: cluster.guard_describe_configs,
    ApiKey.ALTER_CONFIGS: cluster.guard_alter_configs,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: cluster.guard_alter_configs,
    ApiKey.LIST_PARTITION_REASSIGNMENTS: cluster.cluster_guard(DESCRIBE),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: cluster.cluster_guard(ALTER),
    ApiKey.DESCRIBE_QUORUM: cluster.cluster_guard(DESCRIBE),
    ApiKey.LIST_CONFIG_RESOURCES: cluster.cluster_guard(DESCRIBE_CONFIGS),
    ApiKey.UNREGISTER_BROKER: cluster.cluster_guard(ALTER),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: cluster.guard_describe_quotas,
    ApiKey.ALTER_CLIENT_QUOTAS: cluster.guard_alter_quotas,
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: cluster.guard_describe_credentials,
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: cluster.guard_alter_credentials,
    ApiKey.CREATE_DELEGATION_TOKEN: tokens.guard_create,
    ApiKey.DESCRIBE_DELEGATION_TOKEN: tokens.guard_describe,
    # Whose a token is decides, not a rule: the handler asks.
    ApiKey.RENEW_DELEGATION_TOKEN: None,
    ApiKey.EXPIRE_DELEGATION_TOKEN: None,
    ApiKey.DESCRIBE_ACLS: cluster.cluster_guard(DESCRIBE),
    ApiKey.CREATE_ACLS: cluster.guard_create_acls,
    ApiKey.DELETE_ACLS: cluster.guard_delete_acls,
    ApiKey.ENVELOPE: cluster.cluster_guard(CLUSTER_ACTION),
    ApiKey.ALTER_PARTITION: cluster.cluster_guard(CLUSTER_ACTION),
}


def guarded(around: Around, key: ApiKey, handler: Handler) -> Handler:
    """Return the handler of an API behind its guard.

    Raises:
        KeyError: no row says what the API asks for.
    """
    guard = GUARDS[key]
    if guard is None:
        return handler

    def handle(context: RequestContext, request: Any, *more: Any) -> Any:
        proceed: Callable[[Any], Any] = lambda left: handler(context, left, *more)  # noqa: E731
        return guard(around, context, request, proceed)

    return handle
