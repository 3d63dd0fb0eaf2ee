"""confluent-kafka's ShareConsumer (librdkafka): sharing, acknowledging, releasing, a broker that starts anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import AcknowledgeType, ShareConsumer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from tests.compatibility.conftest import make_broker
from tests.compatibility.test_confluent import admin_of, create_topic, producer_of
from tests.compatibility.test_confluent import send as send_by
from tests.support.broker_process import RunningBroker

PATIENCE_S = 60.0
QUICK = {
    "group.share.min.heartbeat.interval.ms": "300",
    "group.share.heartbeat.interval.ms": "300",
    "group.share.min.record.lock.duration.ms": "1000",
}


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    running = make_broker(QUICK)
    try:
        running.start()
        yield running
    finally:
        running.close()


def set_group(broker: RunningBroker, group: str, **values: str) -> None:
    """Set configurations of a group; underscores stand for points."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in values.items()
    ]
    resource = ConfigResource(ConfigResource.Type.GROUP, group, incremental_configs=entries)
    admin = admin_of(broker)  # named: a client that is collected drops its requests
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def send(broker: RunningBroker, topic: str, values: list[str]) -> None:
    send_by(producer_of(broker), topic, values)


@contextmanager
def sharing(broker: RunningBroker, group: str, topic: str, **config: Any) -> Iterator[ShareConsumer]:
    consumer = ShareConsumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": group,
            "share.acknowledgement.mode": "explicit",
            "log_level": 0,
            **{key.replace("_", "."): value for key, value in config.items()},
        }
    )
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def take(
    consumers: list[ShareConsumer],
    count: int,
    decide: Callable[[Any], AcknowledgeType] = lambda message: AcknowledgeType.ACCEPT,
) -> list[tuple[int, str, int]]:
    """Poll in turn until `count` records have come: consumer, value and delivery count of each."""
    found: list[tuple[int, str, int]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records: {found}"
        for index, consumer in enumerate(consumers):
            messages = consumer.poll(0.2)
            for message in messages:
                assert message.error() is None, message.error()
                found.append((index, (message.value() or b"").decode(), message.delivery_count() or 0))
                consumer.acknowledge(message, decide(message))
            if len(messages):
                assert set(consumer.commit_sync(10.0).values()) == {None}
    return found


def test_two_members_share_one_partition(broker: RunningBroker) -> None:
    create_topic(broker, "one-queue", 1)
    set_group(broker, "pair", share_auto_offset_reset="earliest")
    with sharing(broker, "pair", "one-queue", max_poll_records=10) as one:
        with sharing(broker, "pair", "one-queue", max_poll_records=10) as two:
            seen: list[tuple[int, str, int]] = []
            deadline = time.monotonic() + PATIENCE_S
            while {index for index, _, _ in seen} != {0, 1}:
                assert time.monotonic() < deadline, "one of them gets nothing"
                send(broker, "one-queue", [f"{len(seen) + number}" for number in range(40)])
                seen += take([one, two], 40)
        values = [value for _, value, _ in seen]
        assert len(values) == len(set(values)), "a record came twice"


def test_what_is_released_comes_again_and_what_is_rejected_does_not(broker: RunningBroker) -> None:
    create_topic(broker, "second-thoughts", 1)
    set_group(broker, "doubters", share_auto_offset_reset="earliest")
    send(broker, "second-thoughts", [f"{number}" for number in range(9)])
    by_third = [AcknowledgeType.ACCEPT, AcknowledgeType.RELEASE, AcknowledgeType.REJECT]
    with sharing(broker, "doubters", "second-thoughts") as consumer:
        first = take([consumer], 9, lambda message: by_third[message.offset() % 3])
        assert [(value, count) for _, value, count in first] == [(f"{number}", 1) for number in range(9)]
        again = take([consumer], 3)
        assert [(value, count) for _, value, count in again] == [("1", 2), ("4", 2), ("7", 2)]
        assert not len(consumer.poll(1.5))


def test_what_is_not_acknowledged_in_time_goes_to_another(broker: RunningBroker) -> None:
    create_topic(broker, "slow-hands", 1)
    set_group(broker, "sleepers", share_auto_offset_reset="earliest", share_record_lock_duration_ms="1000")
    send(broker, "slow-hands", ["a", "b", "c"])
    with sharing(broker, "sleepers", "slow-hands") as slow:
        deadline = time.monotonic() + PATIENCE_S
        held = slow.poll(1.0)
        while not len(held):
            assert time.monotonic() < deadline
            held = slow.poll(1.0)
        with sharing(broker, "sleepers", "slow-hands") as other:
            taken = take([other], len(held))
            assert [count for _, _, count in taken] == [2] * len(held)


def test_acknowledged_records_stay_so_when_the_broker_starts_anew() -> None:
    broker = make_broker(QUICK)
    try:
        broker.start()
        create_topic(broker, "restarts", 2)
        set_group(broker, "patient", share_auto_offset_reset="earliest")
        send(broker, "restarts", [f"{number}" for number in range(20)])
        with sharing(broker, "patient", "restarts") as consumer:
            assert len(take([consumer], 20)) == 20
            broker.kill()
            broker.start()
            send(broker, "restarts", [f"{number}" for number in range(20, 30)])
            values = {value for _, value, _ in take([consumer], 10)}
            assert values == {f"{number}" for number in range(20, 30)}
    finally:
        broker.close()
