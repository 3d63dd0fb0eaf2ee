"""Which requests of other brokers come too late: a request that was sent on a connection before the newest one of its sender.

A broker that gets no answer opens another connection and sends again. What it sent on the first one may still be on its way;
when it arrives the sender has gone on, and the request would undo something newer: a marker would end the next transaction of
its producer, a share partition would begin anew below acknowledged records. So senders number their connections. Pure.
"""

from __future__ import annotations

from typing import NamedTuple


class Sender(NamedTuple):
    """Who sent a request: a broker, under which epoch, on its how many-th connection. -1: it was no broker."""

    broker_id: int = -1
    broker_epoch: int = -1
    connection_number: int = -1


class SenderFence:
    """Remembers the newest connection of each broker, for requests of one kind."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[int, int]] = {}

    def admits(self, sender: Sender) -> bool:
        """Return whether no newer connection of this sender was seen; from now on older ones are refused."""
        if sender.broker_id < 0:
            return True
        this = (sender.broker_epoch, sender.connection_number)
        if this < self._newest.get(sender.broker_id, this):
            return False
        self._newest[sender.broker_id] = this
        return True
