"""To which broker a client may talk now, and to which it should connect.

Decides from what it is told: addresses, connections that came about or broke, requests in flight. Knows no socket. A
broker that could not be reached is left alone for a while that grows (`reconnect.backoff.ms`, KIP-144). Bootstrap
addresses have negative ids; they are used until a first answer names the brokers, and again when none of those can be
reached (KIP-899).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.client._core.backoff import RECONNECT, Backoff
from ottla.client._core.metadata import Node
from ottla.protocol.api import ApiKey, common_version

if TYPE_CHECKING:
    from random import Random


#: A coordinator is talked to over a connection of its own: heartbeats and commits do not wait behind a Fetch (as in Kafka).
#: It stands under the broker's id plus this.
COORDINATOR: Final = 1 << 32


class Connect(NamedTuple):
    """What the shell is to do: open a connection to this node."""

    node: Node


class Disconnect(NamedTuple):
    """What the shell is to do: close the connection to this node."""

    node_id: int


class State(Enum):
    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class _Link:
    """The connection to one node."""

    __slots__ = (
        "error",
        "failures",
        "features",
        "generation",
        "in_flight",
        "node",
        "retry_ms",
        "state",
        "used_ms",
        "versions",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.state = State.DOWN
        self.failures = 0
        self.retry_ms = 0.0
        self.used_ms = 0.0
        self.in_flight = 0
        self.generation = 0
        self.versions: Mapping[int, tuple[int, int]] = {}
        self.features: Mapping[str, int] = {}
        self.error: Exception | None = None


class Connections:
    """All connections of one client.

    Attributes:
        features: finalized features (KIP-584), as the broker last connected told them.
        succeeded: whether any connection ever came about.
        created: how many did.
        error: why the last connection did not come about.
    """

    created: int

    def __init__(
        self,
        bootstrap: Sequence[tuple[str, int]],
        *,
        backoff: Backoff = RECONNECT,
        in_flight_max: int = 5,
        idle_max_ms: float = 540_000,
        rebootstrap: bool = True,
        random: Random,
    ) -> None:
        self.features: Mapping[str, int] = {}
        self.succeeded: bool = False
        self.created = 0
        self.error: Exception | None = None
        self._bootstrap = [Node(-1 - number, host, port) for number, (host, port) in enumerate(bootstrap)]
        self._backoff = backoff
        self._in_flight_max = in_flight_max
        self._idle_max_ms = idle_max_ms
        self._rebootstrap = rebootstrap
        self._random = random
        self._links: dict[int, _Link] = {node.id: _Link(node) for node in self._bootstrap}
        self._known: list[int] = []

    def learn(self, nodes: Mapping[int, Node]) -> list[Disconnect]:
        """Take in the brokers of a new image; return which connections are to be closed: gone, or under another address."""
        closing = []
        for number, link in list(self._links.items()):
            if number < 0 or number >= COORDINATOR:
                continue
            node = nodes.get(number)
            if node is None or (node.host, node.port) != (link.node.host, link.node.port):
                if link.state is not State.DOWN:
                    closing.append(Disconnect(number))
                del self._links[number]
        for number, node in nodes.items():
            if number not in self._links:
                self._links[number] = _Link(node)
        self._known = sorted(nodes)
        return closing

    def add(self, node: Node) -> None:
        """Take in a broker that another answer named, if it is not known yet."""
        if node.id not in self._links:
            self._links[node.id] = _Link(node)

    def place(self, node: Node) -> list[Disconnect]:
        """Take in a coordinator that was found; an earlier one of this id under another address is given up.

        What went wrong with it before does not count any more: it is dialled again.
        """
        link = self._links.get(node.id)
        if link is not None and (link.node.host, link.node.port) == (node.host, node.port):
            link.error = None
            return []
        self._links[node.id] = _Link(node)
        return [Disconnect(node.id)] if link is not None and link.state is not State.DOWN else []

    def knows(self, node_id: int) -> bool:
        return node_id in self._links

    # -- what can be asked ------------------------------------------------------------------------------------------

    def is_up(self, node_id: int) -> bool:
        link = self._links.get(node_id)
        return link is not None and link.state is State.UP

    def has_room(self, node_id: int) -> bool:
        """Whether a request may be sent to the node now."""
        link = self._links.get(node_id)
        return link is not None and link.state is State.UP and link.in_flight < self._in_flight_max

    def version(self, node_id: int, key: ApiKey, *, at_most: int | None = None) -> int | None:
        """Return the version of an API to use with a node that is up; None if there is no common one."""
        return common_version(self._links[node_id].versions, key, at_most=at_most)

    def offers(self, node_id: int, key: ApiKey) -> bool:
        """Whether a node that is up serves an API in any version."""
        return key in self._links[node_id].versions

    def failure(self, node_id: int) -> Exception | None:
        """Why the node could not be reached last, or None if it is up or was never tried."""
        link = self._links.get(node_id)
        return link.error if link is not None and link.state is not State.UP else None

    def want(self, node_id: int, now_ms: float) -> Connect | None:
        """Return what to do so that the node comes up; None: wait for what is under way or until `retry_ms`."""
        link = self._links.get(node_id)
        if link is None or link.state is not State.DOWN or link.retry_ms > now_ms:
            return None
        link.state = State.CONNECTING
        return Connect(link.node)

    def retry_ms(self, node_id: int) -> float:
        """When a node that is down may be tried again; infinity for others."""
        link = self._links.get(node_id)
        return link.retry_ms if link is not None and link.state is State.DOWN else float("inf")

    def least_loaded(self, now_ms: float) -> tuple[int | None, Connect | None, float]:
        """Return a node for a request that any broker can answer.

        Returns:
            (a node that is up and has room, or None; a connection to open if there is none; when to try again).
        """
        candidates = self._candidates()
        start = int(self._random.random() * len(candidates)) if candidates else 0
        links = [self._links[number] for number in candidates[start:] + candidates[:start]]
        up = [link for link in links if link.state is State.UP]
        free = [link for link in up if link.in_flight < self._in_flight_max]
        if free:
            return min(free, key=lambda link: link.in_flight).node.id, None, now_ms
        if up or any(link.state is State.CONNECTING for link in links):
            return None, None, float("inf")
        for link in links:
            connect = self.want(link.node.id, now_ms)
            if connect is not None:
                return None, connect, float("inf")
        return None, None, min((link.retry_ms for link in links), default=float("inf"))

    def serving(self, key: int) -> int | None:
        """Return a node that is up, has room and serves an API; None if there is none. Dials nobody."""
        found = [
            link
            for link in self._links.values()
            if link.state is State.UP and link.in_flight < self._in_flight_max and key in link.versions
        ]
        return min(found, key=lambda link: link.in_flight).node.id if found else None

    def refused(self, tries: int) -> bool:
        """Whether each bootstrap address was dialled so often in vain, and no connection has ever come about."""
        links = [self._links[node.id] for node in self._bootstrap]
        return not self.succeeded and all(link.failures >= tries for link in links)

    def _candidates(self) -> list[int]:
        """The brokers of the image; the bootstrap addresses, too, once none of those can be reached."""
        bootstrap = [node.id for node in self._bootstrap]
        if not self._known:
            return bootstrap
        known = [self._links[number] for number in self._known]
        lost = all(link.state is not State.UP and link.failures for link in known)
        return [*self._known, *bootstrap] if lost and self._rebootstrap else self._known

    def idle(self, now_ms: float) -> list[Disconnect]:
        """Return which connections have not been used for `connections.max.idle.ms`."""
        limit = now_ms - self._idle_max_ms
        return [
            Disconnect(number)
            for number, link in self._links.items()
            if link.state is State.UP and not link.in_flight and link.used_ms <= limit
        ]

    # -- what happened ----------------------------------------------------------------------------------------------

    def on_connected(
        self, node_id: int, versions: Mapping[int, tuple[int, int]], features: Mapping[str, int], now_ms: float
    ) -> None:
        """A connection came about."""
        self.succeeded = True
        self.created += 1
        link = self._links.get(node_id)
        if link is None:
            return
        link.state = State.UP
        link.generation += 1
        link.failures = 0
        link.used_ms = now_ms
        link.in_flight = 0
        link.error = None
        link.versions = versions
        link.features = self.features = features

    def on_down(self, node_id: int, error: Exception, now_ms: float) -> None:
        """A connection did not come about, or broke."""
        self.error = error
        link = self._links.get(node_id)
        if link is None:
            return
        link.state = State.DOWN
        link.in_flight = 0
        link.error = error
        link.failures += 1
        link.retry_ms = now_ms + self._backoff.delay_ms(link.failures, self._random)

    def on_sent(self, node_id: int, now_ms: float) -> int:
        """A request that will be answered went out; return which connection to the node it is on."""
        link = self._links[node_id]
        link.in_flight += 1
        link.used_ms = now_ms
        return link.generation

    def on_answered(self, node_id: int, generation: int) -> None:
        """A request on this connection was answered, or failed."""
        link = self._links.get(node_id)
        if link is not None and link.in_flight and link.generation == generation:
            link.in_flight -= 1
