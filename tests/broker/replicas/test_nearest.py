"""Which replica a consumer is sent to: Kafka's RackAwareReplicaSelector."""

from __future__ import annotations

import pytest

from ottla.broker.config import BrokerConfig
from ottla.broker.replicas.nearest import ReplicaView, nearest
from ottla.broker.settings.selectors import RACK_AWARE
from ottla.config import ConfigError

RACKS = {1: "a", 2: "b", 3: "b", 4: None}


def view(node_id: int, end_offset: int = 10, caught_up_ms: int = 5) -> ReplicaView:
    return ReplicaView(end_offset, caught_up_ms, node_id)


def test_the_leader_serves_its_own_rack_and_those_without_one() -> None:
    followers = [view(2), view(3)]
    assert nearest("a", 1, followers, RACKS) is None
    assert nearest("", 1, followers, RACKS) is None
    assert nearest("c", 1, followers, RACKS) is None


def test_of_several_in_the_rack_it_is_the_one_that_has_most_and_was_caught_up_last() -> None:
    assert nearest("b", 1, [view(2, 10), view(3, 11)], RACKS) == 3
    assert nearest("b", 1, [view(2, caught_up_ms=6), view(3)], RACKS) == 2
    assert nearest("b", 1, [view(3)], {1: "a"}) is None, "it does not live"


def test_only_kafkas_own_selectors_can_be_named() -> None:
    with pytest.raises(
        ConfigError, match=r"replica\.selector\.class can be .*, but it is com\.example\.Mine: other classes"
    ):
        BrokerConfig.from_sources(overrides=["replica.selector.class=com.example.Mine"])
    assert (
        BrokerConfig.from_sources(overrides=[f"replica.selector.class={RACK_AWARE}"]).replica_selector_class
        == RACK_AWARE
    )
