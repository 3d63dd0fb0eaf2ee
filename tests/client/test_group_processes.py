"""Copies from topic to topic, exactly once, while the broker is killed, members come and go, and programs abort."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.client.conftest import make_broker, start_patiently
from tests.client.others import new_topic, read_all

import ottla

COUNT_PER_KILL = 120


def copy(
    address: str,
    source: str,
    target: str,
    name: str,
    protocol: str,
    stop: threading.Event,
    dice: random.Random,
    told: Counter[str],
) -> None:
    """One copier: transactions of batches, some aborted by the program, some after the group has rebalanced."""
    settings = {"retry_backoff_max_ms": 200, "reconnect_backoff_max_ms": 200}
    while not stop.is_set():
        try:
            with (
                ottla.Producer(address, transactional_id=name, linger_ms=0, max_block_ms="60s", **settings) as producer,  # type: ignore[arg-type]
                ottla.Consumer(
                    address,
                    group_id=f"{target}-copiers",
                    topics=[source],
                    commit="transaction",
                    auto_offset_reset="earliest",
                    session_timeout_ms=6_000,
                    heartbeat_interval_ms=300,
                    group_protocol=protocol,
                    partition_assignment_strategy="cooperative-sticky",
                    **settings,  # type: ignore[arg-type]
                ) as consumer,
            ):
                life_ends = time.monotonic() + dice.uniform(2, 15)
                while not stop.is_set() and time.monotonic() < life_ends:
                    records = consumer.poll(max_records=20, timeout=0.3)
                    if not records:
                        continue
                    with producer.transaction(consumer) as transaction:
                        for record in records:
                            transaction.send(target, record.value, key=record.key)
                        if dice.random() < 0.1:
                            told["aborted by the program"] += 1
                            raise ottla.Abort
                        if dice.random() < 0.1:
                            consumer.enforce_rebalance()
                            told["rebalances asked for at commit time"] += 1
                    told["transactions"] += 1
            told["lives"] += 1
        except (ottla.KafkaError, TimeoutError) as error:
            told[type(error).__name__] += 1


def copy_through_kills(kind: str, kills: int, seed: int, protocol: str) -> dict[str, int]:
    """Kill the broker again and again under three copiers; return what is lost or there twice, and what the copiers did."""
    dice = random.Random(seed)
    broker = make_broker(kind)
    start_patiently(broker)
    stop = threading.Event()
    told: Counter[str] = Counter()
    threads: list[threading.Thread] = []
    sent = 0
    try:
        source, target = new_topic(broker.address, 4), new_topic(broker.address, 2)
        name = uuid.uuid4().hex
        threads = [
            threading.Thread(
                target=copy,
                args=(
                    broker.address,
                    source,
                    target,
                    f"{name}-{n}",
                    protocol,
                    stop,
                    random.Random(seed * 100 + n),
                    told,
                ),
            )
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        with ottla.Producer(broker.address, delivery_timeout_ms="10m", linger_ms=0) as producer:
            for _ in range(kills):
                for _ in range(COUNT_PER_KILL):
                    producer.send(source, b"%d" % sent, key=b"%d" % (sent % 50))
                    sent += 1
                time.sleep(dice.uniform(0.1, 1.5))
                broker.kill()
                start_patiently(broker)
            producer.flush(300)
        deadline = time.monotonic() + 300
        while len(seen := read_all(broker.address, target)) < sent:
            assert time.monotonic() < deadline, f"{len(seen)} of {sent} were copied: {dict(told)}"
            time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        seen = read_all(broker.address, target)
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
        broker.close()
    numbers = sorted(int(record.value or b"") for record in seen)
    lost = set(range(sent)) - set(numbers)
    twice = len(numbers) - len(set(numbers))
    print(f"\n{kind}, {protocol}: {kills} kills, {sent} records copied, {len(lost)} lost, {twice} twice; {dict(told)}")
    return {**told, "records": sent, "lost": len(lost), "twice": twice}


def check(found: dict[str, int]) -> None:
    assert found["records"] > 0
    assert (found["lost"], found["twice"]) == (0, 0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is killed all the time is complained of all the time."""
    logger = logging.getLogger("ottla")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.crash
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("kind", ["ottla", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_copies_are_exact_through_many_kills(kind: str, protocol: str) -> None:
    check(copy_through_kills(kind, 60 if kind == "ottla" else 10, 3, protocol))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_copies_are_exact_through_kills(protocol: str) -> None:
    check(copy_through_kills("ottla", 1, 1, protocol))
