"""Throttles of replication: what they count, and which replicas they are of (KIP-73).

How leader.replication.throttled.rate, follower.replication.throttled.rate and the topic keys
leader.replication.throttled.replicas and follower.replication.throttled.replicas work together in a cluster:
tests/replication/test_moving.py.
"""

from __future__ import annotations

import pytest

from ottla.broker.replicas.throttles import Throttle, Throttles
from ottla.cluster.image import TOPICS, ClusterImage, ConfigResource
from ottla.config.effective import Levels


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def test_the_average_of_ten_seconds_counts() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    throttle.change(1_000, {"t": None})
    throttle.record(10_000)
    assert not throttle.is_exceeded()  # ten seconds' worth
    throttle.record(1)
    assert throttle.is_exceeded()
    clock.now_ms = 10_999
    throttle.record(500)
    assert not throttle.is_exceeded()
    clock.now_ms = 11_000  # the first window is over
    throttle.record(9_501)
    assert throttle.is_exceeded()
    clock.now_ms = 60_000
    assert not throttle.is_exceeded()


@pytest.mark.parametrize(
    ("text", "throttled"),
    [("*", {0, 1, 2}), ("0:1,1:2,2:1", {0, 2}), (" 1:1 , 0:3", {1}), ("0:2", set()), ("", set())],
)
def test_the_replicas_of_this_broker_are_throttled(text: str, throttled: set[int]) -> None:
    throttles = Throttles(1, Clock())
    config = {"leader.replication.throttled.replicas": text} if text else {}
    image = ClusterImage(configs={ConfigResource(TOPICS, "t"): config})
    throttles.on_configs(image, Levels(broker={"leader.replication.throttled.rate": "5"}, default={}, static={}))
    assert {index for index in range(3) if throttles.leader.is_throttled("t", index)} == throttled
    assert throttles.leader.limit == 5
    assert not throttles.leader.is_throttled("u", 0)
    assert throttles.follower.is_idle
    assert throttles.leader.is_idle is (not text)
