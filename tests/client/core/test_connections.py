"""Which connections are opened, when they are tried again, and which node is asked."""

from __future__ import annotations

import random

from ottla.client._core.backoff import RECONNECT
from ottla.client._core.connections import Connect, Connections, Disconnect
from ottla.client._core.metadata import Node
from ottla.protocol.api import VERSIONS, ApiKey

SPOKEN = {int(key): span for key, span in VERSIONS.items()}
NODES = {number: Node(number, f"b{number}", 9092) for number in range(3)}


def connections(*, rebootstrap: bool = True) -> Connections:
    return Connections(
        [("boot", 9092)], backoff=RECONNECT, in_flight_max=2, rebootstrap=rebootstrap, random=random.Random(1)
    )


def test_bootstrap_first_then_the_brokers_that_were_named() -> None:
    known = connections()
    node, connect, _ = known.least_loaded(0)
    assert (node, connect) == (None, Connect(Node(-1, "boot", 9092)))
    assert known.least_loaded(0)[:2] == (None, None), "it is under way"
    known.on_connected(-1, SPOKEN, {}, 0)
    assert known.least_loaded(0)[0] == -1
    assert known.learn(NODES) == []
    _, connect, _ = known.least_loaded(0)
    assert connect is not None
    assert connect.node.id in NODES


def test_a_broker_that_cannot_be_reached_is_left_alone_for_longer_and_longer() -> None:
    known = connections()
    now, gaps = 0.0, []
    for _ in range(8):
        assert known.want(-1, now) is not None
        known.on_down(-1, OSError("refused"), now)
        assert known.want(-1, now) is None
        gaps.append(known.retry_ms(-1) - now)
        now = known.retry_ms(-1)
    assert 40 <= gaps[0] <= 60
    assert 800 <= gaps[-1] <= 1_200
    known.want(-1, now)
    known.on_connected(-1, SPOKEN, {}, now)
    known.on_down(-1, OSError("broke"), now)
    assert known.retry_ms(-1) - now <= 60
    assert str(known.failure(-1)) == "broke"


def test_when_no_broker_can_be_reached_bootstrap_is_used_again() -> None:
    for rebootstrap in (True, False):
        known = connections(rebootstrap=rebootstrap)
        known.learn(NODES)
        for number in NODES:
            known.want(number, 0)
            known.on_down(number, OSError("refused"), 0)
        _, connect, retry_ms = known.least_loaded(0)
        assert (connect is not None) == rebootstrap
        assert rebootstrap or 40 <= retry_ms <= 60


def test_the_node_with_the_fewest_requests_is_asked() -> None:
    known = connections()
    known.learn(NODES)
    for number in NODES:
        known.want(number, 0)
        known.on_connected(number, SPOKEN, {}, 0)
    known.on_sent(0, 0)
    known.on_sent(1, 0)
    known.on_sent(1, 0)
    assert not known.has_room(1)
    assert known.least_loaded(0)[0] == 2
    known.on_sent(2, 0)
    known.on_sent(2, 0)
    assert known.least_loaded(0)[0] == 0
    known.on_sent(0, 0)
    assert known.least_loaded(0)[:2] == (None, None), "no new connection where an answer will make room"
    known.on_answered(1, 7)
    assert known.least_loaded(0)[:2] == (None, None), "that was on an earlier connection"
    known.on_answered(1, 1)
    assert known.least_loaded(0)[0] == 1


def test_a_broker_that_moved_or_left_is_disconnected() -> None:
    known = connections()
    known.learn(NODES)
    for number in NODES:
        known.want(number, 0)
        known.on_connected(number, SPOKEN, {}, 0)
    assert known.learn({0: NODES[0], 1: Node(1, "elsewhere", 9092)}) == [Disconnect(1), Disconnect(2)]
    assert not known.is_up(1)
    assert not known.knows(2)


def test_idle_connections_are_closed_but_not_those_that_wait_for_an_answer() -> None:
    known = connections()
    known.learn(NODES)
    for number in (0, 1):
        known.want(number, 0)
        known.on_connected(number, SPOKEN, {}, 0)
    known.on_sent(1, 0)
    assert known.idle(539_999) == []
    assert known.idle(540_000) == [Disconnect(0)]


def test_versions() -> None:
    known = connections()
    known.want(-1, 0)
    known.on_connected(-1, {ApiKey.PRODUCE: (3, 9), ApiKey.FETCH: (0, 3)}, {"transaction.version": 2}, 0)
    assert known.version(-1, ApiKey.PRODUCE) == 9
    assert known.version(-1, ApiKey.PRODUCE, at_most=7) == 7
    assert known.version(-1, ApiKey.FETCH) is None
    assert known.features == {"transaction.version": 2}
