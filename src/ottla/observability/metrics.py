"""Counters as plain integers, written on the hot path by `x.count += 1` and read only when somebody asks."""

from __future__ import annotations


class NetworkMetrics:
    """What the network side counts."""

    __slots__ = ("bytes_received", "bytes_sent", "connections_closed", "connections_opened", "connections_refused",
                 "requests")  # fmt: skip

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.connections_closed = 0
        self.connections_opened = 0
        self.connections_refused = 0
        self.requests = 0
