"""Whole programs that end in other ways than by the end of `with`: Ctrl-C, the end of the process, kill -9 of the broker."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from tests.client.conftest import make_broker, start_patiently
from tests.client.others import new_topic, read_all
from tests.support.broker_process import RunningBroker

import ottla

NEVER_CLOSED = """
import logging, sys, ottla
logging.basicConfig()
producer = ottla.Producer(sys.argv[1], linger_ms=60_000)
for number in range(int(sys.argv[3])):
    producer.send(sys.argv[2], b"%d" % number)
"""

INTERRUPTED = """
import sys, time, ottla
with ottla.Producer(sys.argv[1], linger_ms="1h", delivery_timeout_ms="2h") as producer:
    producer.send(sys.argv[2], b"x")
    if len(sys.argv) > 3:
        producer._machine.poll = lambda now_ms: ([], float("inf"))  # nothing goes out any more
    print("ready", flush=True)
    time.sleep(60)
"""

BLOCKED = """
import sys, ottla
with ottla.Producer(sys.argv[1]) as producer:
    delivery = producer.send(sys.argv[2], b"x")
    delivery.result(30)
    producer._machine.poll = lambda now_ms: ([], float("inf"))
    delivery = producer.send(sys.argv[2], b"y")
    print("ready", flush=True)
    delivery.result()
"""


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("count", [1, 1_000])
def test_a_producer_that_was_never_closed_sends_what_it_has_at_the_end(broker: RunningBroker, count: int) -> None:
    """Also when it is not connected to the leader yet, whose name is resolved while the interpreter shuts down."""
    topic = new_topic(broker.address)
    program = run(NEVER_CLOSED, f"localhost:{broker.port}", topic, str(count))
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 0, errors
    assert "Traceback" not in errors
    assert len(read_all(broker.address, topic)) == count


@pytest.mark.parametrize("stuck", [False, True])
def test_ctrl_c_ends_within_seconds_and_says_what_is_left(broker: RunningBroker, stuck: bool) -> None:
    topic = new_topic(broker.address)
    program = run(INTERRUPTED, broker.address, topic, *(["stuck"] if stuck else []))
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert ("1 records were not acknowledged within 5 s" in errors) == stuck
    assert len(read_all(broker.address, topic)) == (0 if stuck else 1)


def test_ctrl_c_ends_a_wait_for_a_delivery(broker: RunningBroker) -> None:
    program = run(BLOCKED, broker.address, new_topic(broker.address))
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors


def produce_through_kills(kind: str, kills: int, seed: int) -> dict[str, int]:
    """Kill the broker again and again under an idempotent producer; return what is lost, there twice, or out of order."""
    dice = random.Random(seed)
    broker = make_broker(kind)
    start_patiently(broker)
    stop = threading.Event()
    errors: list[BaseException] = []
    sent = 0
    try:
        topic = new_topic(broker.address, 3)
        options: dict[str, Any] = {
            "linger_ms": 1,
            "batch_size": 2_000,
            "delivery_timeout_ms": "10m",
            "max_block_ms": "10m",
        }
        with ottla.Producer(broker.address, buffer_memory=200_000, **options) as producer:

            def work() -> None:
                nonlocal sent
                try:
                    while not stop.is_set():
                        for _ in range(20):
                            producer.send(topic, b"%d" % sent, key=b"%d" % (sent % 30))
                            sent += 1
                        time.sleep(0.001)
                except BaseException as error:
                    errors.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            for _ in range(kills):
                time.sleep(dice.random() * 0.5)
                broker.kill()
                start_patiently(broker)
            stop.set()
            thread.join(60)
            producer.flush(300)
        assert not errors, errors
        seen = read_all(broker.address, topic)
    finally:
        stop.set()
        broker.close()
    numbers = sorted(int(record.value or b"") for record in seen)
    lost = set(range(sent)) - set(numbers)
    twice = len(numbers) - len(set(numbers))
    print(f"\n{kind}: {kills} kills, {sent} records acknowledged, {len(lost)} lost, {twice} twice")
    by_key: dict[bytes, list[int]] = {}
    for record in seen:
        by_key.setdefault(record.key or b"", []).append(int(record.value or b""))
    unordered = sum(found != sorted(found) for found in by_key.values())
    return {"records": sent, "lost": len(lost), "twice": twice, "keys out of order": unordered}


def check(found: dict[str, int]) -> None:
    assert found.pop("records") > 0
    assert not any(found.values()), found


def test_kill_9_of_the_broker_loses_nothing_and_writes_nothing_twice() -> None:
    check(produce_through_kills("ottla", 4, 1))


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["ottla", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_many_kills(kind: str) -> None:
    check(produce_through_kills(kind, 60 if kind == "ottla" else 10, 2))
