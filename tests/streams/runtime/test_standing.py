"""What an instance says of its lag: no less than there was at the time that it names."""

from __future__ import annotations

from dataclasses import dataclass

from ottla.streams.queries.board import Standing
from ottla.streams.runtime.worker import standing
from ottla.types import TopicPartition

FIRST, SECOND = TopicPartition("in", 0), TopicPartition("in", 1)


@dataclass
class Ends:
    """By partition: position, lag, and when that was asked for."""

    known: dict[TopicPartition, tuple[int | None, int | None, float | None]]

    def position(self, partition: TopicPartition) -> int | None:
        return self.known[partition][0]

    def lag(self, partition: TopicPartition) -> int | None:
        return self.known[partition][1]

    def end_asked_ms(self, partition: TopicPartition) -> float | None:
        return self.known[partition][2]


def told(known: dict[TopicPartition, tuple[int | None, int | None, float | None]]) -> Standing:
    return standing({FIRST: 10, SECOND: 20}, Ends(known), wall_ms=1_000_000, now_ms=5_000.0, stream_time=7)


def test_its_time_is_when_the_end_was_asked_for_that_is_known_for_longest() -> None:
    found = told({FIRST: (12, 3, 4_899.5), SECOND: (20, 0, 4_990.0)})
    assert found.positions == {"in-0": 10, "in-1": 20}
    assert found.lag == {"in-0": 5, "in-1": 0}
    assert found.time_ms == 1_000_000 - 101


def test_an_end_that_is_not_known_is_no_lag() -> None:
    found = told({FIRST: (12, 3, None), SECOND: (None, None, 4_000.0)})
    assert found.lag == {"in-0": None, "in-1": None}
    assert found.time_ms == 1_000_000
