"""Transactional ids that nobody uses are forgotten, unless Apache Kafka wrote them."""

from __future__ import annotations

from ottla.broker.coordinators.shard import TimerKey, TimerOperation
from ottla.broker.coordinators.timeline import Timeline
from ottla.broker.coordinators.transactions.config import TransactionConfig
from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
from ottla.broker.coordinators.transactions.state import Transaction


class NotedTimers:
    def __init__(self) -> None:
        self.keys: list[TimerKey] = []

    def schedule(self, key: TimerKey, delay_ms: int, operation: TimerOperation) -> None:
        self.keys.append(key)

    def postpone(self, key: TimerKey, delay_ms: int) -> bool:
        raise AssertionError("nothing is put off here")

    def schedule_if_absent(self, key: TimerKey, delay_ms: int, operation: TimerOperation) -> None:
        raise AssertionError("nothing is scheduled twice here")

    def cancel(self, key: TimerKey) -> None:
        raise AssertionError("nothing is cancelled here")


def test_ids_written_by_kafka_stay_until_confirmed() -> None:
    confirmed = False
    timers = NotedTimers()
    coordinator = TransactionCoordinator(
        0,
        Timeline(),
        timers,
        config=TransactionConfig(id_expiration_ms=100),
        send_markers=lambda _partition, _markers: None,
        take_producer_id=lambda: None,
        may_expire=lambda: confirmed,
    )
    coordinator.transactions["old"] = Transaction(transactional_id="old", producer_id=1, timeout_ms=5, updated_ms=0)
    coordinator.transactions["new"] = Transaction(transactional_id="new", producer_id=2, timeout_ms=5, updated_ms=950)
    assert not coordinator.expire(1_000).records
    assert timers.keys == [("expire-transactional-ids",)]
    confirmed = True
    (tombstone,) = coordinator.expire(1_000).records
    assert tombstone.value is None
    assert len(timers.keys) == 2
