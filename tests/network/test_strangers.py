"""Connections whose clients are not known yet: how many there may be, and who goes."""

from __future__ import annotations

import pytest

from ottla.network.strangers import Strangers, place_of


def test_a_flood_from_one_place_pushes_out_itself() -> None:
    strangers = Strangers(most=5)
    assert strangers.add("calm", "192.0.2.1", 0.0) is None
    for number in range(4):
        assert strangers.add(number, "192.0.2.66", 1.0) is None
    assert strangers.add("new", "192.0.2.2", 2.0) == 0, "the oldest of the crowd"
    assert len(strangers) == 5


def test_one_network_of_ipv6_is_one_place() -> None:
    assert place_of("2001:db8:1:2:3::4") == place_of("2001:db8:1:2:ffff::1") != place_of("2001:db8:1:3::1")
    assert place_of("::ffff:192.0.2.1") == place_of("192.0.2.1")
    assert place_of("fe80::1%eth0") == place_of("fe80::2%eth0")


@pytest.mark.parametrize("now", [30.0, 40.0])
def test_time_counts_from_the_beginning_of_the_connection(now: float) -> None:
    strangers = Strangers()
    strangers.add("handshake", "192.0.2.1", 5.0)
    strangers.add("other", "192.0.2.1", 15.0)
    strangers.replace("handshake", "login")
    assert strangers.overdue(now) == ([] if now == 30.0 else ["login"])
    strangers.remove("login")
    strangers.remove("login")
    assert len(strangers) == 1
