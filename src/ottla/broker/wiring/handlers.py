"""The handlers of one broker: which families there are, and what each is made of."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from ottla.broker.authorization import GROUP, TOPIC
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.dispatch import Dispatcher
from ottla.broker.forwarding import Forwarding
from ottla.broker.guards.table import guarded
from ottla.broker.handlers.acls import AclHandlers
from ottla.broker.handlers.addresses import Addresses
from ottla.broker.handlers.cluster import ClusterHandlers
from ottla.broker.handlers.configs import ConfigHandlers
from ottla.broker.handlers.consumer_groups import ConsumerGroupsHandler
from ottla.broker.handlers.delegation_tokens import DelegationTokenHandlers
from ottla.broker.handlers.features import FeaturesHandler
from ottla.broker.handlers.fetch import FetchHandler
from ottla.broker.handlers.groups import GroupsHandler
from ottla.broker.handlers.log_offsets import LogOffsetHandlers
from ottla.broker.handlers.loggers import PythonLoggers
from ottla.broker.handlers.logins import LoginHandlers
from ottla.broker.handlers.metadata import MetadataHandler
from ottla.broker.handlers.offsets import OffsetsHandler
from ottla.broker.handlers.produce import ProduceHandler
from ottla.broker.handlers.producer_ids import ProducerHandlers
from ottla.broker.handlers.quotas import QuotaHandlers
from ottla.broker.handlers.share_fetch import ShareFetchHandler
from ottla.broker.handlers.share_group_offsets import ShareGroupOffsetsHandler
from ottla.broker.handlers.share_groups import ShareGroupsHandler
from ottla.broker.handlers.share_state import ShareStateHandlers
from ottla.broker.handlers.streams_groups import StreamsGroupsHandler
from ottla.broker.handlers.telemetry import TelemetryHandlers
from ottla.broker.handlers.topics import TopicHandlers
from ottla.broker.handlers.transactions import TransactionsHandler
from ottla.broker.http.facts import LogDirFacts
from ottla.broker.replicas.fetch_sessions import FetchSessionCache
from ottla.broker.settings.selectors import RACK_AWARE
from ottla.broker.share.log_ends import LogEnds
from ottla.broker.transactions.gate import TransactionGate
from ottla.broker.wiring.access import GuardedParts, SecretDice, right
from ottla.broker.wiring.coordinators import leader_of
from ottla.broker.wiring.quotas import mutation_quotas, read_quota
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.security.acls import Operation
from ottla.types import TRANSACTION_STATE_TOPIC, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ottla.broker.audit import Audit
    from ottla.broker.authorization import Authorizer
    from ottla.broker.context import Routes, Session
    from ottla.broker.token_store import TokenStore
    from ottla.broker.wiring.coordinators import Coordinators
    from ottla.broker.wiring.parts import Parts
    from ottla.errors import ErrorCode
    from ottla.network.connection import BrokerConnection


class _Family(Protocol):
    """The handlers of some APIs."""

    def routes(self) -> Routes: ...


def make_telemetry(parts: Parts) -> TelemetryHandlers:
    """Return the handlers of what clients push; the metrics page shows what they have got."""
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
    gate = TransactionGate(
        coordinators.transactions,
        verifies=lambda: parts.config().transaction_partition_verification_enable,
        retry_backoff_ms=config.add_partitions_to_txn_retry_backoff_ms,
        retry_ms_max=config.add_partitions_to_txn_retry_backoff_max_ms,
        clock=parts.surroundings.clock,
        remote=coordinators.remote_transactions,
        coordinator_of=lambda index: leader_of(parts.image(), TopicPartition(TRANSACTION_STATE_TOPIC, index)),
    )
    routes: Routes = {}
    for family in (
        *_record_handlers(parts, coordinators, gate, authorizer),
        *_group_handlers(parts, coordinators, gate, addresses, authorizer),
        *_share_handlers(parts, coordinators, addresses, authorizer),
        *_cluster_handlers(parts, addresses, tokens, has_authorizer=authorizer is not None),
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
        guard=None if authorizer is None else partial(guarded, GuardedParts(parts, authorizer)),
        forwarding=forwarding if parts.surroundings.shared_tree else None,
        audit=audit,
    )


def _record_handlers(
    parts: Parts, coordinators: Coordinators, gate: TransactionGate, authorizer: Authorizer | None
) -> Iterable[_Family]:
    """What writes and reads the records of partitions, in transactions or not."""
    config, around, replicas = parts.config(), parts.surroundings, parts.replicas
    sessions = FetchSessionCache(config.max_incremental_fetch_session_cache_slots, SecretDice(around.secret_bytes))
    return (
        ProduceHandler(
            replicas, parts.metrics, gate, clock=around.clock, may_write=right(authorizer, Operation.WRITE, TOPIC)
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
        ),
        LogOffsetHandlers(replicas),
        ProducerHandlers(replicas, coordinators.producer_ids, coordinators.transactions),
        TransactionsHandler(
            coordinators.transactions,
            coordinators.groups,
            coordinators.marker_log,
            coordinators.producer_ids,
            ensure_topic=parts.controller.ensure_topic,
            image=parts.image,
            clock=around.clock,
        ),
    )


def _group_handlers(
    parts: Parts,
    coordinators: Coordinators,
    gate: TransactionGate,
    addresses: Addresses,
    authorizer: Authorizer | None,
) -> Iterable[_Family]:
    """Groups of the classic, the consumer and the streams protocol, and offsets."""
    groups, image, controller = coordinators.groups, parts.image, parts.controller
    config = GroupConfig.from_broker(parts.config())
    return (
        GroupsHandler(
            groups,
            config,
            image=image,
            addresses=addresses,
            ensure_topic=controller.ensure_topic,
            deleting_shares=coordinators.group_states.deleting_groups,
            may_read_group=right(authorizer, Operation.READ, GROUP),
        ),
        ConsumerGroupsHandler(groups, config, image=image, may_read_group=right(authorizer, Operation.READ, GROUP)),
        OffsetsHandler(groups, image=image, gate=gate),
        StreamsGroupsHandler(groups, config, image=image, create_topics=controller.create_topics),
    )


def _share_handlers(
    parts: Parts, coordinators: Coordinators, addresses: Addresses, authorizer: Authorizer | None
) -> Iterable[_Family]:
    """Share groups."""
    groups, group_states, around = coordinators.groups, coordinators.group_states, parts.surroundings
    return (
        ShareFetchHandler(
            coordinators.shares,
            parts.metrics,
            image=parts.image,
            addresses=addresses,
            fetch_max_bytes=parts.config().fetch_max_bytes,
            offload=around.offload,
            clock=around.clock,
            quota=read_quota(parts),
            may_read=right(authorizer, Operation.READ, TOPIC, is_logged=True),
        ),
        ShareStateHandlers(coordinators.share_states),
        ShareGroupsHandler(groups, group_states, image=parts.image),
        ShareGroupOffsetsHandler(
            groups,
            group_states,
            coordinators.share_persister,
            LogEnds(
                parts.replicas,
                lambda topic, index: leader_of(parts.image(), TopicPartition(topic, index)),
                parts.peers if around.shared_tree else None,
            ),
            image=parts.image,
        ),
    )


def _cluster_handlers(
    parts: Parts, addresses: Addresses, tokens: TokenStore | None, *, has_authorizer: bool
) -> Iterable[_Family]:
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
        FeaturesHandler(controller),
        TopicHandlers(
            image, controller, delete_topic_enable=config.delete_topic_enable, mutations=mutation_quotas(parts)
        ),
        AclHandlers(image, controller, is_enabled=has_authorizer),
        LoginHandlers(image, controller),
        QuotaHandlers(image, controller),
        DelegationTokenHandlers(
            tokens,
            controller,
            wall_ms=parts.surroundings.clock.wall_ms,
            secret_bytes=parts.surroundings.secret_bytes,
            lifetime_max_ms=config.delegation_token_max_lifetime_ms,
            expiry_ms=config.delegation_token_expiry_time_ms,
        ),
        ConfigHandlers(image, controller, PythonLoggers(), node_id=config.node_id),
        ClusterHandlers(
            image,
            addresses,
            controller,
            LogDirFacts(parts.logs, parts.replicas.relocations.futures),
            parts.replicas.relocations.move,
            parts.surroundings.clock,
            max_request_partition_size_limit=config.max_request_partition_size_limit,
        ),
    )
