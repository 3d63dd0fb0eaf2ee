"""Counts and byte budgets."""

from __future__ import annotations

from ottla.network.limits import ADDRESSES_MAX, AddressRates, ByteBudget, ConnectionQuota, NetworkLimits


def test_a_budget_admits_while_it_is_not_used_up_and_may_be_exceeded_by_one_request() -> None:
    budget = ByteBudget(100)
    assert budget.take(99)
    assert budget.take(1000)
    assert not budget.take(1)
    budget.give_back(1000)
    assert budget.take(1)


def test_waiters_are_called_in_order_when_bytes_come_back() -> None:
    budget = ByteBudget(10)
    called: list[str] = []
    budget.take(10)
    for name in ("first", "second"):

        def retry(name: str = name) -> None:
            called.append(name)
            budget.take(10)

        budget.wait(retry)
    budget.give_back(10)
    assert called == ["first"]


def test_no_bound_is_minus_one() -> None:
    assert ByteBudget(-1).take(1 << 60)


def test_connections_per_ip_are_bounded_with_overrides() -> None:
    quota = ConnectionQuota(NetworkLimits(connections_per_ip_max=1, connections_per_ip_overrides={"192.0.2.2": 2}))
    assert quota.admit("192.0.2.1") is None
    assert quota.admit("192.0.2.1") == "already 1 connections from 192.0.2.1 (max.connections.per.ip)"
    assert quota.admit("192.0.2.2") is None
    assert quota.admit("192.0.2.2") is None
    assert quota.admit("192.0.2.2") is not None
    quota.leave("192.0.2.1")
    assert quota.admit("192.0.2.1") is None
    assert quota.count == 3


def test_the_creation_rate_allows_a_second_at_once_and_then_paces() -> None:
    quota = ConnectionQuota(NetworkLimits(connection_creation_rate_max=10))
    delays = [quota.delay(1000.0) for _ in range(12)]
    assert all(delay <= 1e-9 for delay in delays[:10])
    assert 0 < delays[10] < delays[11] <= 0.2001


def test_an_address_over_its_rate_is_closed_after_a_while_and_not_counted() -> None:
    rates = AddressRates()
    rates.change({"192.0.2.1": 2.0}.get, in_force=True)
    assert [rates.throttle_ms("192.0.2.1", 0) for _ in range(20)] == [0] * 20  # ten seconds' worth
    assert rates.throttle_ms("192.0.2.1", 0) == 500
    assert rates.throttle_ms("192.0.2.1", 11_000) == 0
    assert rates.throttle_ms("192.0.2.2", 0) == 0


def test_addresses_of_one_ipv6_network_count_together_and_their_number_is_bounded() -> None:
    rates = AddressRates()
    rates.change(lambda ip: 1.0, in_force=True)
    for number in range(10):
        assert rates.throttle_ms(f"2001:db8::{number}", 0) == 0
    assert rates.throttle_ms("2001:db8::ffff", 0) == 1000
    for number in range(3 * ADDRESSES_MAX):
        rates.throttle_ms(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
    assert len(rates._rates) <= ADDRESSES_MAX
