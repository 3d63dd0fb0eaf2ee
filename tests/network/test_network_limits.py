"""Counts and byte budgets."""

from __future__ import annotations

from ottla.network.limits import ByteBudget, ConnectionQuota, NetworkLimits


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
