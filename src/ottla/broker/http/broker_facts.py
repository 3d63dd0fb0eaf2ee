"""What a broker says about itself, on its front page and in the line with which it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class BrokerFacts(NamedTuple):
    """What a broker says about itself.

    Attributes:
        addresses: where clients connect, host:port.
        kernels: "compiled" or "plain".
        is_loopback_only: whether no listener can be reached from other machines.
    """

    version: str
    node_id: int
    cluster_id: str
    addresses: Sequence[str]
    data_dirs: Sequence[str]
    kernels: str
    is_loopback_only: bool = False
