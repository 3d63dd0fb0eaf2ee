"""Under which address a client is told to find a broker.

With `advertised.listeners=auto` (the default, for a single node) each connection is told the address it used itself:
`localhost`, a container's address and a LAN address all work at the same time without configuration. Only where ports
are remapped on the way (NAT, published container ports) the user has to say so, with `--advertise`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.context import RequestContext
    from ottla.cluster.image import ClusterImage


class BrokerAddress(NamedTuple):
    """Where one broker is to be found by the client that asked."""

    node_id: int
    host: str
    port: int
    rack: str | None


class Addresses:
    """Answers for the broker `node_id`; other brokers are where their registration says."""

    def __init__(self, image: Callable[[], ClusterImage], node_id: int, *, auto: bool) -> None:
        self._image = image
        self._node_id = node_id
        self._auto = auto

    def of_brokers(self, context: RequestContext) -> list[BrokerAddress]:
        """Return every live broker that has the listener the client uses."""
        found = []
        for node_id in self._image().brokers:
            address = self.of_broker(node_id, context)
            if address is not None:
                found.append(address)
        return found

    def of_broker(self, node_id: int, context: RequestContext) -> BrokerAddress | None:
        """Return where the client finds this broker, or None if it is gone."""
        broker = self._image().brokers.get(node_id)
        if broker is None:
            return None
        if self._auto and node_id == self._node_id:
            return BrokerAddress(node_id, context.local_host, context.local_port, broker.rack)
        endpoint = broker.endpoint(context.listener)
        return None if endpoint is None else BrokerAddress(node_id, endpoint.host, endpoint.port, broker.rack)
