"""Strangers: connections whose clients have not proved who they are yet, and how many of them there may be.

Decides which one has to go when there are too many, and which have had their time. Knows no sockets and no clock.

A stranger costs memory and a handshake's CPU time and has shown no right to either. Those of one address (of one /64 for
IPv6, which one customer has for himself) count together: above `most` the oldest of the address with most strangers goes, so
a flood from one place pushes out itself and not the others.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address

STRANGERS_MAX = 1000
LOGIN_SECONDS = 30.0
"""Until then a client has to have logged in, the handshake of TLS included."""
HANDSHAKE_SECONDS = 10.0
"""Until then a handshake of TLS has to be done."""


class Strangers:
    """The connections of one server that have not been authenticated, the oldest first."""

    def __init__(self, most: int = STRANGERS_MAX) -> None:
        self._most = most
        self._since: dict[Hashable, tuple[float, str]] = {}
        self._by_place: dict[str, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: Hashable, ip: str, now: float) -> Hashable | None:
        """Count a connection in; return the one that has to go for it, if there are too many."""
        leaves = None
        if len(self._since) >= self._most:
            crowd = max(self._by_place.values(), key=len)
            leaves = next(iter(crowd))
            self.remove(leaves)
        place = place_of(ip)
        self._since[connection] = (now, place)
        self._by_place.setdefault(place, {})[connection] = None
        return leaves

    def remove(self, connection: Hashable) -> None:
        """Count a connection out: its client is known now, or it has ended. One that is not counted is none of ours."""
        found = self._since.pop(connection, None)
        if found is not None:
            crowd = self._by_place[found[1]]
            del crowd[connection]
            if not crowd:
                del self._by_place[found[1]]

    def replace(self, connection: Hashable, by: Hashable) -> None:
        """Count `by` from when `connection` came: it is the same one, one step further."""
        since, place = self._since[connection]
        self.remove(connection)
        self._since[by] = (since, place)
        self._by_place.setdefault(place, {})[by] = None

    def overdue(self, now: float, seconds: float = LOGIN_SECONDS) -> list[Hashable]:
        """Return those that have been here for longer than `seconds`."""
        return [connection for connection, (since, _) in self._since.items() if now - since > seconds]


def place_of(ip: str) -> str:
    """Return what counts as one place: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in ip:
        return ip
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
    return str(address)
