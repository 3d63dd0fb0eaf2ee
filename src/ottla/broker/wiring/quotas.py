"""Quotas of one broker: what handlers ask them, and how they are put in force when the cluster's settings change."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ottla.broker.quotas.client_quotas import ClientQuotas, MutationQuota
from ottla.broker.quotas.metering import Metering
from ottla.broker.quotas.reading import ReadQuota
from ottla.broker.quotas.table import ENTITY_KINDS, table_of
from ottla.rates import Windows
from ottla.security.acls import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.authorization import Authorizer
    from ottla.broker.config import BrokerConfig
    from ottla.broker.context import RequestContext, Session
    from ottla.broker.wiring.parts import Parts
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.network.server import Server

logger = logging.getLogger(__name__)


def make_quotas(config: BrokerConfig) -> ClientQuotas:
    """Return what counts; nothing is limited until the cluster's settings say so."""
    return ClientQuotas(
        _windows(config),
        Windows(config.controller_quota_window_num, config.controller_quota_window_size_seconds * 1000),
    )


def _windows(config: BrokerConfig) -> Windows:
    return Windows(config.quota_window_num, config.quota_window_size_seconds * 1000)


def read_quota(parts: Parts) -> ReadQuota:
    """Return what handlers that give records ask."""
    return ReadQuota(parts.quotas, asyncio.get_running_loop().time)


def mutation_quotas(parts: Parts) -> Callable[[RequestContext, bool], MutationQuota]:
    """Return what handlers that make and delete partitions ask."""
    now = asyncio.get_running_loop().time

    def quota(context: RequestContext, is_strict: bool) -> MutationQuota:
        return parts.quotas.mutations(context.session, context.client_id, is_strict=is_strict, now_ms=now() * 1000)

    return quota


class QuotaControl:
    """Puts quotas in force on a server.

    While no client has a limit its frames go to the dispatcher as if there were no quotas.
    """

    def __init__(
        self, server: Server, quotas: ClientQuotas, config: BrokerConfig, authorizer: Authorizer | None
    ) -> None:
        self._server = server
        self._quotas = quotas
        self._authorizer = authorizer
        self._inter_broker_listener = config.inter_broker_listener_name
        self._unmetered = server.handle
        self._metering = Metering(server.handle, quotas, now=asyncio.get_running_loop().time, is_broker=self._is_broker)
        server.address_rates.windows = _windows(config)

    def _is_broker(self, session: Session) -> bool:
        if self._authorizer is not None:
            return self._authorizer.allows_cluster(session, Operation.CLUSTER_ACTION, is_logged=False)
        return session.listener == self._inter_broker_listener

    def on_image(self, image: ClusterImage, delta: ImageDelta) -> None:
        """The cluster's settings have changed."""
        if not any(resource.kind in ENTITY_KINDS for resource in delta.changed_configs):
            return
        table = table_of(image.configs)
        for resource, key in table.unreadable:
            logger.warning("%s of %s %s is no number, and limits nothing", key, resource.kind, resource.name)
        self._quotas.apply(table)
        self._server.address_rates.change(table.ip_limit, in_force=bool(table.ips))
        self._server.handle = self._unmetered if table.is_empty else self._metering.handle
