"""A peer cannot fill the log."""

from __future__ import annotations

import logging

import pytest

from ottla.observability.logs import PEERS_MAX, LogOncePerPeer

logger = logging.getLogger("ottla.test")


def test_a_few_lines_per_peer_and_interval_and_a_count_of_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = LogOncePerPeer(logger, lambda: now, burst=2, interval=60)
    for number in range(5):
        log.tell("192.0.2.1", "line %d", number)
    log.tell("192.0.2.2", "another peer")
    now = 61.0
    log.tell("192.0.2.1", "later")
    assert [record.getMessage() for record in caplog.records] == [
        "line 0",
        "line 1",
        "another peer",
        "3 more such lines about 192.0.2.1 were left out",
        "later",
    ]


def test_many_peers_do_not_fill_the_memory() -> None:
    log = LogOncePerPeer(logger, lambda: 0.0, burst=0)
    for number in range(PEERS_MAX * 2):
        log.tell(str(number), "x")
    assert len(log._peers) == PEERS_MAX
