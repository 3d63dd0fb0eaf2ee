"""Which address of a broker a client gets.

With `advertised.listeners=auto` (the default, for a single node) the broker answers each connection with the address that
this connection uses: loopback, a container's address and a LAN address all work at the same time without configuration. Only
where ports are remapped on the way (NAT, published container ports) the user has to set the address, with `--advertise`.

A request does not say which name the client connected to. Over loopback that is mostly `localhost`, so the broker answers
`localhost` where it listens on both addresses that `localhost` can stand for. Clients that compare names (librdkafka before
2.10) then keep the connection they have; an address instead makes them open a second one. And some clients cannot read an
IPv6 address in a list of host:port.

A client of TLS that asks for a name (SNI) is answered with this name if the certificate is for it: it will compare them.

Brokers of one machine under one supervisor are registered without a host: clients find each under the host that they used, on
the broker's own port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ottla.broker.context import RequestContext, Session
    from ottla.cluster.image import ClusterImage


#: What `localhost` stands for.
_LOOPBACK = frozenset({"127.0.0.1", "::1"})


class BrokerAddress(NamedTuple):
    """Where the client that asks finds one broker."""

    node_id: int
    host: str
    port: int
    rack: str | None


class Addresses:
    """Answers for the broker `node_id`; other brokers are where their registration says.

    Args:
        localhost_ports: ports on which `localhost` leads to this broker, whichever address it stands for.
    """

    def __init__(
        self,
        image: Callable[[], ClusterImage],
        node_id: int,
        *,
        auto: bool,
        localhost_ports: Callable[[], Collection[int]] = frozenset,
    ) -> None:
        self._image = image
        self._node_id = node_id
        self._auto = auto
        self._localhost_ports = localhost_ports

    def of_brokers(self, context: RequestContext) -> list[BrokerAddress]:
        """Return every live broker that has the listener the client uses."""
        found = []
        for node_id in self._image().brokers:
            address = self.of_broker(node_id, context.session)
            if address is not None:
                found.append(address)
        return found

    def of_broker(self, node_id: int, session: Session) -> BrokerAddress | None:
        """Return where the client finds this broker, or None if it is gone."""
        broker = self._image().brokers.get(node_id)
        if broker is None:
            return None
        if self._auto and node_id == self._node_id:
            return BrokerAddress(node_id, self._own_host(session), session.local_port, broker.rack)
        endpoint = broker.endpoint(session.listener)
        if endpoint is None:
            return None
        return BrokerAddress(node_id, endpoint.host or self._own_host(session), endpoint.port, broker.rack)

    def controller(self, listed: Collection[BrokerAddress]) -> int:
        """Return which of the listed brokers a client is to take for the controller, -1 if none is listed.

        It is the controller, or this broker while there is none that the client could reach: every broker takes what is
        for the controller. As Kafka's brokers with KRaft, which name any living one: a client that hears of no controller
        waits for one, and librdkafka does not ask again before its request has timed out.
        """
        known = [address.node_id for address in listed]
        for node_id in (self._image().controller_id, self._node_id, *known):
            if node_id in known:
                return node_id
        return -1

    def _own_host(self, session: Session) -> str:
        if session.local_name is not None:
            return session.local_name
        if session.local_host in _LOOPBACK and session.local_port in self._localhost_ports():
            return "localhost"
        return session.local_host
