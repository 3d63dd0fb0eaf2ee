"""For tests of programs that use Kafka: a real broker in the process, with faults and time at the test's will.

`Broker`, `Cluster` and the pytest fixtures `kafka_broker` and `kafka_cluster` are for users (docs/testing.md). The rest is
what ottla tests itself with: virtual time, a simulated disk, a whole broker in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.testing.faults import Fault as Fault
    from ottla.testing.local_broker import Broker as Broker
    from ottla.testing.local_broker import Topic as Topic
    from ottla.testing.local_cluster import Cluster as Cluster

__all__ = ["Broker", "Cluster", "Fault", "Topic"]


def __getattr__(name: str) -> object:
    if name == "Fault":
        from ottla.testing.faults import Fault

        return Fault
    if name == "Cluster":
        from ottla.testing.local_cluster import Cluster

        return Cluster
    if name in ("Broker", "Topic"):
        from ottla.testing import local_broker

        return getattr(local_broker, name)
    raise AttributeError(f"module 'ottla.testing' has no attribute {name!r}")
