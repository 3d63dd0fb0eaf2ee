"""The handlers of one broker: which families there are, and what each is made of."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ottla.broker.authorization import GROUP, TOPIC
from ottla.broker.dispatch import Dispatcher
from ottla.broker.forwarding import Forwarding
from ottla.broker.handlers.addresses import Addresses
from ottla.broker.handlers.fetch import FetchHandler
from ottla.broker.handlers.leader_hints import LeaderHints
from ottla.broker.handlers.metadata import MetadataHandler
from ottla.broker.handlers.produce import ProduceHandler
from ottla.broker.replicas.fetch_sessions import FetchSessionCache
from ottla.broker.settings.selectors import RACK_AWARE
from ottla.broker.transactions.gate import TransactionGate
from ottla.broker.wiring.access import GuardedParts, SecretDice, right
from ottla.broker.wiring.coordinators import leader_of
from ottla.broker.wiring.families import LateFamily
from ottla.broker.wiring.quotas import mutation_quotas, read_quota
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.protocol.api import ApiKey
from ottla.security.acls import Operation
from ottla.types import TRANSACTION_STATE_TOPIC, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ottla.broker.audit import Audit
    from ottla.broker.authorization import Authorizer
    from ottla.broker.context import Handler, Routes, Session
    from ottla.broker.handlers.telemetry import TelemetryHandlers
    from ottla.broker.token_store import TokenStore
    from ottla.broker.wiring.coordinators import Coordinators
    from ottla.broker.wiring.families import Family
    from ottla.broker.wiring.parts import Parts
    from ottla.errors import ErrorCode
    from ottla.network.connection import BrokerConnection


def make_telemetry(parts: Parts) -> TelemetryHandlers:
    """Return the handlers of what clients push; the metrics page shows what they have got."""
    from ottla.broker.handlers.telemetry import TelemetryHandlers

    config, around = parts.config(), parts.surroundings
    return TelemetryHandlers(
        around.clock,
        around.random,
        around.offload,
        telemetry_max_bytes=config.telemetry_max_bytes,
        always=config.ottla_client_telemetry_enable,
    )


def make_dispatcher(
    parts: Parts,
    coordinators: Coordinators,
    telemetry: TelemetryHandlers,
    *,
    begin_session: Callable[[BrokerConnection], Session],
    authorizer: Authorizer | None,
    localhost_ports: Callable[[], Collection[int]],
    tokens: TokenStore | None = None,
    audit: Audit | None = None,
) -> Dispatcher:
    """Return what answers every request; `localhost_ports` as in `Addresses`. Without `authorizer` nothing is guarded."""
    config = parts.config()
    auto = config.advertised_listeners is None and not parts.surroundings.shared_tree
    addresses = Addresses(parts.image, config.node_id, auto=auto, localhost_ports=localhost_ports)
    leaders = LeaderHints(parts.image, addresses)
    gate = TransactionGate(
        coordinators.transactions,
        verifies=lambda: parts.config().transaction_partition_verification_enable,
        retry_backoff_ms=config.add_partitions_to_txn_retry_backoff_ms,
        retry_ms_max=config.add_partitions_to_txn_retry_backoff_max_ms,
        clock=parts.surroundings.clock,
        remote=coordinators.remote_transactions,
        coordinator_of=lambda index: leader_of(parts.image(), TopicPartition(TRANSACTION_STATE_TOPIC, index)),
    )
    #: Handlers have the configuration of the start, whenever they are made.
    started = replace(parts, config=lambda: config)
    routes: Routes = {}
    for family in (
        *_record_handlers(parts, coordinators, gate, leaders, authorizer),
        *_group_handlers(started, coordinators, gate, addresses, authorizer),
        *_share_handlers(started, coordinators, leaders, authorizer),
        *_cluster_handlers(started, addresses, tokens, has_authorizer=authorizer is not None),
        telemetry,
    ):
        routes.update(family.routes())
    controller = parts.controller
    forwarding = Forwarding(
        parts.peers,
        image=parts.image,
        is_controller=lambda: controller.epoch > 0,
        process=controller.process,
        refresh=parts.refresh,
    )
    return Dispatcher(
        routes,
        parts.image,
        config.node_id,
        parts.metrics,
        takes_telemetry=telemetry.is_wanted,
        begin_session=begin_session,
        guard=None if authorizer is None else _guards(parts, authorizer),
        forwarding=forwarding if parts.surroundings.shared_tree else None,
        audit=audit,
    )


def _guards(parts: Parts, authorizer: Authorizer) -> Callable[[ApiKey, Handler], Handler]:
    """Return what puts the guard of its API before a handler."""
    from ottla.broker.guards.table import guarded

    return partial(guarded, GuardedParts(parts, authorizer))


def _record_handlers(
    parts: Parts,
    coordinators: Coordinators,
    gate: TransactionGate,
    leaders: LeaderHints,
    authorizer: Authorizer | None,
) -> Iterable[Family]:
    """What writes and reads the records of partitions, in transactions or not."""
    config, around, replicas = parts.config(), parts.surroundings, parts.replicas
    sessions = FetchSessionCache(config.max_incremental_fetch_session_cache_slots, SecretDice(around.secret_bytes))
    return (
        ProduceHandler(
            replicas,
            parts.metrics,
            gate,
            clock=around.clock,
            may_write=right(authorizer, Operation.WRITE, TOPIC),
            leaders=leaders,
        ),
        FetchHandler(
            replicas,
            sessions,
            parts.metrics,
            fetch_max_bytes=config.fetch_max_bytes,
            clock=around.clock,
            is_rack_aware=config.replica_selector_class == RACK_AWARE,
            may_read=right(authorizer, Operation.READ, TOPIC, is_logged=True),
            may_read_unlogged=right(authorizer, Operation.READ, TOPIC),
            may_follow=None
            if authorizer is None
            else partial(authorizer.allows_cluster, operation=Operation.CLUSTER_ACTION, is_logged=False),
            quota=read_quota(parts),
            leaders=leaders,
        ),
        LateFamily(
            partial(_log_offsets, parts), ApiKey.LIST_OFFSETS, ApiKey.OFFSET_FOR_LEADER_EPOCH, ApiKey.DELETE_RECORDS
        ),
        LateFamily(partial(_producers, parts, coordinators), ApiKey.INIT_PRODUCER_ID, ApiKey.DESCRIBE_PRODUCERS),
        LateFamily(
            partial(_transactions, parts, coordinators),
            ApiKey.ADD_PARTITIONS_TO_TXN,
            ApiKey.ADD_OFFSETS_TO_TXN,
            ApiKey.END_TXN,
            ApiKey.WRITE_TXN_MARKERS,
            ApiKey.DESCRIBE_TRANSACTIONS,
            ApiKey.LIST_TRANSACTIONS,
        ),
    )


def _log_offsets(parts: Parts) -> Family:
    from ottla.broker.handlers.log_offsets import LogOffsetHandlers

    return LogOffsetHandlers(parts.replicas)


def _producers(parts: Parts, coordinators: Coordinators) -> Family:
    from ottla.broker.handlers.producer_ids import ProducerHandlers

    return ProducerHandlers(parts.replicas, coordinators.producer_ids, coordinators.transactions)


def _transactions(parts: Parts, coordinators: Coordinators) -> Family:
    from ottla.broker.handlers.transactions import TransactionsHandler

    return TransactionsHandler(
        coordinators.transactions,
        coordinators.groups,
        coordinators.marker_log,
        coordinators.producer_ids,
        ensure_topic=parts.controller.ensure_topic,
        image=parts.image,
        clock=parts.surroundings.clock,
    )


def _group_handlers(
    parts: Parts,
    coordinators: Coordinators,
    gate: TransactionGate,
    addresses: Addresses,
    authorizer: Authorizer | None,
) -> Iterable[Family]:
    """Groups of the classic, the consumer and the streams protocol, and offsets."""
    return (
        LateFamily(
            partial(_classic_groups, parts, coordinators, addresses, authorizer),
            ApiKey.FIND_COORDINATOR,
            ApiKey.JOIN_GROUP,
            ApiKey.HEARTBEAT,
            ApiKey.LEAVE_GROUP,
            ApiKey.SYNC_GROUP,
            ApiKey.DESCRIBE_GROUPS,
            ApiKey.LIST_GROUPS,
            ApiKey.DELETE_GROUPS,
            short_cuts=(ApiKey.HEARTBEAT,),
        ),
        LateFamily(
            partial(_consumer_groups, parts, coordinators, authorizer),
            ApiKey.CONSUMER_GROUP_HEARTBEAT,
            ApiKey.CONSUMER_GROUP_DESCRIBE,
            short_cuts=(ApiKey.CONSUMER_GROUP_HEARTBEAT,),
        ),
        LateFamily(
            partial(_offsets, parts, coordinators, gate, authorizer),
            ApiKey.OFFSET_COMMIT,
            ApiKey.OFFSET_FETCH,
            ApiKey.OFFSET_DELETE,
            ApiKey.TXN_OFFSET_COMMIT,
            short_cuts=(ApiKey.OFFSET_COMMIT,),
        ),
        LateFamily(
            partial(_streams_groups, parts, coordinators),
            ApiKey.STREAMS_GROUP_HEARTBEAT,
            ApiKey.STREAMS_GROUP_DESCRIBE,
            ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE,
        ),
    )


def _classic_groups(
    parts: Parts, coordinators: Coordinators, addresses: Addresses, authorizer: Authorizer | None
) -> Family:
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.handlers.groups import GroupsHandler

    return GroupsHandler(
        coordinators.groups,
        GroupConfig.from_broker(parts.config()),
        image=parts.image,
        addresses=addresses,
        ensure_topic=parts.controller.ensure_topic,
        deleting_shares=lambda partition, group_ids: coordinators.group_states.deleting_groups(partition, group_ids),
        may_read_group=right(authorizer, Operation.READ, GROUP),
    )


def _consumer_groups(parts: Parts, coordinators: Coordinators, authorizer: Authorizer | None) -> Family:
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.handlers.consumer_groups import ConsumerGroupsHandler

    return ConsumerGroupsHandler(
        coordinators.groups,
        GroupConfig.from_broker(parts.config()),
        image=parts.image,
        may_read_group=right(authorizer, Operation.READ, GROUP),
    )


def _offsets(parts: Parts, coordinators: Coordinators, gate: TransactionGate, authorizer: Authorizer | None) -> Family:
    from ottla.broker.handlers.offsets import OffsetsHandler

    return OffsetsHandler(
        coordinators.groups,
        image=parts.image,
        gate=gate,
        may_read_group=right(authorizer, Operation.READ, GROUP),
        may_read_topic=right(authorizer, Operation.READ, TOPIC),
    )


def _streams_groups(parts: Parts, coordinators: Coordinators) -> Family:
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.handlers.streams_groups import StreamsGroupsHandler

    return StreamsGroupsHandler(
        coordinators.groups,
        GroupConfig.from_broker(parts.config()),
        image=parts.image,
        create_topics=parts.controller.create_topics,
    )


def _share_handlers(
    parts: Parts, coordinators: Coordinators, leaders: LeaderHints, authorizer: Authorizer | None
) -> Iterable[Family]:
    """Share groups."""
    return (
        LateFamily(
            partial(_share_fetch, parts, coordinators, leaders, authorizer),
            ApiKey.SHARE_FETCH,
            ApiKey.SHARE_ACKNOWLEDGE,
            ends_with_connection=(ApiKey.SHARE_FETCH,),
        ),
        LateFamily(
            partial(_share_states, coordinators),
            ApiKey.INITIALIZE_SHARE_GROUP_STATE,
            ApiKey.READ_SHARE_GROUP_STATE,
            ApiKey.WRITE_SHARE_GROUP_STATE,
            ApiKey.DELETE_SHARE_GROUP_STATE,
            ApiKey.READ_SHARE_GROUP_STATE_SUMMARY,
        ),
        LateFamily(
            partial(_share_groups, parts, coordinators), ApiKey.SHARE_GROUP_HEARTBEAT, ApiKey.SHARE_GROUP_DESCRIBE
        ),
        LateFamily(
            partial(_share_group_offsets, parts, coordinators),
            ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS,
            ApiKey.ALTER_SHARE_GROUP_OFFSETS,
            ApiKey.DELETE_SHARE_GROUP_OFFSETS,
        ),
    )


def _share_fetch(
    parts: Parts, coordinators: Coordinators, leaders: LeaderHints, authorizer: Authorizer | None
) -> Family:
    from ottla.broker.handlers.share_fetch import ShareFetchHandler

    around = parts.surroundings
    return ShareFetchHandler(
        coordinators.shares,
        parts.metrics,
        image=parts.image,
        leaders=leaders,
        fetch_max_bytes=parts.config().fetch_max_bytes,
        offload=around.offload,
        clock=around.clock,
        quota=read_quota(parts),
        may_read=right(authorizer, Operation.READ, TOPIC, is_logged=True),
    )


def _share_states(coordinators: Coordinators) -> Family:
    from ottla.broker.handlers.share_state import ShareStateHandlers

    return ShareStateHandlers(coordinators.share_states)


def _share_groups(parts: Parts, coordinators: Coordinators) -> Family:
    from ottla.broker.handlers.share_groups import ShareGroupsHandler

    return ShareGroupsHandler(coordinators.groups, coordinators.group_states, image=parts.image)


def _share_group_offsets(parts: Parts, coordinators: Coordinators) -> Family:
    from ottla.broker.handlers.share_group_offsets import ShareGroupOffsetsHandler
    from ottla.broker.share.log_ends import LogEnds

    return ShareGroupOffsetsHandler(
        coordinators.groups,
        coordinators.group_states,
        coordinators.share_persister,
        LogEnds(
            parts.replicas,
            lambda topic, index: leader_of(parts.image(), TopicPartition(topic, index)),
            parts.peers if parts.surroundings.shared_tree else None,
        ),
        image=parts.image,
    )


def _cluster_handlers(
    parts: Parts, addresses: Addresses, tokens: TokenStore | None, *, has_authorizer: bool
) -> Iterable[Family]:
    """Metadata, and what administrators ask for."""
    config, image, controller = parts.config(), parts.image, parts.controller

    async def create_topic(name: str) -> ErrorCode:
        return (await controller.ensure_topic(name)).error

    return (
        MetadataHandler(
            image,
            addresses,
            auto_create=config.auto_create_topics_enable,
            create_topic=create_topic,
            check_name=why_invalid,
        ),
        LateFamily(partial(_features, parts), ApiKey.UPDATE_FEATURES),
        LateFamily(
            partial(_topics, parts),
            ApiKey.CREATE_TOPICS,
            ApiKey.DELETE_TOPICS,
            ApiKey.CREATE_PARTITIONS,
            for_controller=(ApiKey.DELETE_TOPICS,),
        ),
        LateFamily(
            partial(_acls, parts, is_enabled=has_authorizer),
            ApiKey.DESCRIBE_ACLS,
            ApiKey.CREATE_ACLS,
            ApiKey.DELETE_ACLS,
        ),
        LateFamily(
            partial(_logins, parts),
            ApiKey.SASL_HANDSHAKE,
            ApiKey.SASL_AUTHENTICATE,
            ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS,
            ApiKey.ALTER_USER_SCRAM_CREDENTIALS,
        ),
        LateFamily(partial(_quotas, parts), ApiKey.DESCRIBE_CLIENT_QUOTAS, ApiKey.ALTER_CLIENT_QUOTAS),
        LateFamily(
            partial(_delegation_tokens, parts, tokens),
            ApiKey.CREATE_DELEGATION_TOKEN,
            ApiKey.RENEW_DELEGATION_TOKEN,
            ApiKey.EXPIRE_DELEGATION_TOKEN,
            ApiKey.DESCRIBE_DELEGATION_TOKEN,
        ),
        LateFamily(
            partial(_configs, parts),
            ApiKey.DESCRIBE_CONFIGS,
            ApiKey.ALTER_CONFIGS,
            ApiKey.INCREMENTAL_ALTER_CONFIGS,
            ApiKey.LIST_CONFIG_RESOURCES,
        ),
        LateFamily(
            partial(_cluster, parts, addresses),
            ApiKey.ALTER_REPLICA_LOG_DIRS,
            ApiKey.DESCRIBE_LOG_DIRS,
            ApiKey.ELECT_LEADERS,
            ApiKey.ALTER_PARTITION_REASSIGNMENTS,
            ApiKey.UNREGISTER_BROKER,
            ApiKey.LIST_PARTITION_REASSIGNMENTS,
            ApiKey.DESCRIBE_QUORUM,
            ApiKey.DESCRIBE_CLUSTER,
            ApiKey.DESCRIBE_TOPIC_PARTITIONS,
            for_controller=(ApiKey.ELECT_LEADERS, ApiKey.ALTER_PARTITION_REASSIGNMENTS, ApiKey.UNREGISTER_BROKER),
        ),
    )


def _features(parts: Parts) -> Family:
    from ottla.broker.handlers.features import FeaturesHandler

    return FeaturesHandler(parts.controller)


def _topics(parts: Parts) -> Family:
    from ottla.broker.handlers.topics import TopicHandlers

    return TopicHandlers(
        parts.image,
        parts.controller,
        delete_topic_enable=parts.config().delete_topic_enable,
        mutations=mutation_quotas(parts),
    )


def _acls(parts: Parts, *, is_enabled: bool) -> Family:
    from ottla.broker.handlers.acls import AclHandlers

    return AclHandlers(parts.image, parts.controller, is_enabled=is_enabled)


def _logins(parts: Parts) -> Family:
    from ottla.broker.handlers.logins import LoginHandlers

    return LoginHandlers(parts.image, parts.controller)


def _quotas(parts: Parts) -> Family:
    from ottla.broker.handlers.quotas import QuotaHandlers

    return QuotaHandlers(parts.image, parts.controller)


def _delegation_tokens(parts: Parts, tokens: TokenStore | None) -> Family:
    from ottla.broker.handlers.delegation_tokens import DelegationTokenHandlers

    config, around = parts.config(), parts.surroundings
    return DelegationTokenHandlers(
        tokens,
        parts.controller,
        wall_ms=around.clock.wall_ms,
        secret_bytes=around.secret_bytes,
        lifetime_max_ms=config.delegation_token_max_lifetime_ms,
        expiry_ms=config.delegation_token_expiry_time_ms,
    )


def _configs(parts: Parts) -> Family:
    from ottla.broker.handlers.configs import ConfigHandlers
    from ottla.broker.handlers.loggers import PythonLoggers

    return ConfigHandlers(parts.image, parts.controller, PythonLoggers(), node_id=parts.config().node_id)


def _cluster(parts: Parts, addresses: Addresses) -> Family:
    from ottla.broker.handlers.cluster import ClusterHandlers
    from ottla.broker.http.facts import LogDirFacts

    relocations = parts.replicas.relocations
    return ClusterHandlers(
        parts.image,
        addresses,
        parts.controller,
        LogDirFacts(parts.logs, relocations.futures),
        relocations.move,
        parts.surroundings.clock,
        max_request_partition_size_limit=parts.config().max_request_partition_size_limit,
    )
