"""The parts of a broker that are there before its coordinators and handlers, which are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.config import BrokerConfig
    from ottla.broker.peers import Peers
    from ottla.broker.quotas.client_quotas import ClientQuotas
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.wiring.surroundings import Surroundings
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage
    from ottla.observability.metrics import BrokerMetrics
    from ottla.storage.log_manager import LogManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What coordinators and handlers are made of.

    Attributes:
        config: returns the configuration in force; what can change at run time is asked for each time it is needed.
        image: returns the newest image of the cluster.
        peers: connections to other brokers, made when they are needed.
        refresh: brings the image up to date.
        quotas: how much clients may use.
    """

    config: Callable[[], BrokerConfig]
    image: Callable[[], ClusterImage]
    surroundings: Surroundings
    metrics: BrokerMetrics
    logs: LogManager
    replicas: ReplicaManager
    controller: Controller
    peers: Peers
    refresh: Callable[[], Awaitable[object]]
    quotas: ClientQuotas
