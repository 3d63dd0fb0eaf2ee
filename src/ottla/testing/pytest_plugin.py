"""The pytest fixtures `kafka_broker` and `kafka_cluster`; pytest finds them by itself once ottla is installed.

Imports nothing but pytest: sessions that do not use the fixtures pay nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ottla.testing.local_broker import Broker
    from ottla.testing.local_cluster import Cluster


@pytest.fixture
def kafka_broker_settings() -> Mapping[str, object]:
    """Settings of the brokers of `kafka_broker` and `kafka_cluster`, in Kafka's keys.

    Override it in a module or class to have others.
    """
    return {}


@pytest.fixture
def kafka_broker(kafka_broker_settings: Mapping[str, object]) -> Iterator[Broker]:
    """A real Kafka broker in this process, new for each test: see `ottla.testing.Broker`."""
    from ottla.testing.local_broker import Broker

    with Broker(kafka_broker_settings) as broker:
        yield broker


@pytest.fixture
def kafka_cluster(kafka_broker_settings: Mapping[str, object]) -> Iterator[Cluster]:
    """Three real Kafka brokers in this process, new for each test: see `ottla.testing.Cluster`."""
    from ottla.testing.local_cluster import Cluster

    with Cluster(kafka_broker_settings) as cluster:
        yield cluster
