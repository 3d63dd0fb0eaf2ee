"""Descriptors are shared out between logs and connections."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

import pytest
from confluent_kafka import KafkaError, Producer
from tests.support.broker_process import BrokerProcess

from ottla.broker.wiring.descriptors import CONNECTIONS_MIN, RESERVE, cached_files_max, connections_max, shortage


@pytest.mark.parametrize(
    ("limit", "partitions", "connections"),
    [
        (1_048_576, 10_000, 1_048_576 - 10_000 - 2_048 - RESERVE),
        (65_536, 100, 65_536 - 100 - 2_048 - RESERVE),
        (1_024, 100, 1_024 - 100 - 256 - RESERVE),
        (1_024, 5_000, CONNECTIONS_MIN),
        (100, 0, CONNECTIONS_MIN),
    ],
)
def test_logs_come_first(limit: int, partitions: int, connections: int) -> None:
    assert connections_max(limit, partitions) == connections
    assert 16 <= cached_files_max(limit) <= 2_048


def test_too_few_are_told_with_the_number_that_would_do() -> None:
    assert shortage(65_536, 1_000) is None
    told = shortage(1_024, 600)
    assert told is not None
    assert "1024 files, and 600 partitions leave room for 40 connections" in told
    wanted = int(told.partition("raise the limit to ")[2].split()[0])
    assert shortage(wanted, 600) is None or wanted < 8_192  # a larger limit has a larger cache, too


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_flood_of_connections_leaves_logs_their_descriptors() -> None:
    limited = ("sh", "-c", 'ulimit -n 300; exec "$0" "$@"', sys.executable, "-m", "ottla")
    with BrokerProcess({"log.segment.bytes": "1048576"}, command=limited) as broker, ExitStack() as stack:
        assert "raise the limit" in broker.output
        producer = Producer({"bootstrap.servers": broker.address})
        producer.produce("before", b"x")
        assert producer.flush(20) == 0
        for _ in range(400):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", broker.port))
        failures: list[str] = []

        def delivered(error: KafkaError | None, message: object) -> None:
            if error is not None:
                failures.append(str(error))

        # Topics are made and segments rolled while all that is left for clients is taken.
        for number in range(20):
            producer.produce(f"during-{number}", b"x", on_delivery=delivered)
        for _ in range(30):
            producer.produce("before", b"x" * 200_000, on_delivery=delivered)
        assert producer.flush(60) == 0
        assert failures == []
        assert "Too many open files" not in broker.output
