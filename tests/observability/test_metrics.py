"""Histograms and Prometheus' text format."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ottla.observability.exposition import Family, label_set
from ottla.observability.loop_monitor import LoopMonitor
from ottla.observability.metrics import BrokerMetrics, Histogram, RequestMetrics
from ottla.observability.process import age_seconds, cpu_seconds, resident_bytes


def test_a_value_on_a_bound_belongs_to_it() -> None:
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 1.1, 10, 11):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert (histogram.count, histogram.sum, histogram.largest) == (5, 23.6, 11)


@given(st.lists(st.floats(0, 40_000), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_a_quantile_lies_in_the_range_of_the_true_one(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    true = sorted(values)[max(int(-(-share * len(values) // 1)) - 1, 0)]
    edges = (0.0, *histogram.bounds, float("inf"))
    low, high = next((low, high) for low, high in pairwise(edges) if low <= true <= high)
    assert low <= histogram.quantile(share) <= min(high, max(values))


def test_no_values_have_no_quantile() -> None:
    assert Histogram().quantile(0.5) == 0


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])), st.text(st.sampled_from('a\\"\n{}=, ')))
def test_any_help_text_and_label_value_survive(text: str, value: str) -> None:
    family = Family("x", "gauge", text)
    family.add(1.5, label_set(("label", value)))
    found = list(text_string_to_metric_families(family.render().decode()))
    assert found[0].samples[0].labels == {"label": value}
    assert found[0].samples[0].value == 1.5


def test_a_family_without_samples_is_left_out() -> None:
    assert Family("x", "gauge", "text").render() == b""


def test_process_facts_are_plausible() -> None:
    resident, age, cpu = resident_bytes(), age_seconds(), cpu_seconds()
    assert resident is None or 1_000_000 < resident < 100_000_000_000
    assert age is None or 0 < age < 100_000
    assert cpu is None or cpu > 0


async def test_the_loop_monitor_sees_a_late_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks of a loop whose time the test sets: due at 1.0, called at 1.25."""
    metrics = BrokerMetrics()
    monitor = LoopMonitor(metrics)
    loop = asyncio.get_running_loop()
    now = 0.0
    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(loop, "call_at", lambda when, callback: loop.call_soon(lambda: None))
    monitor.start()
    now = 1.25
    monitor._tick()
    metrics.network.connections_opened += 10
    now = 2.25
    monitor._tick()
    assert metrics.loop_lag_ms.largest == pytest.approx(250)
    assert monitor.connection_creation_rate == pytest.approx(10)
    assert 0 <= monitor.idle_share <= 1
    monitor.stop()


def test_times_of_requests_that_wait_and_of_those_that_do_not_are_counted_together() -> None:
    request = RequestMetrics()
    for local, remote in ((0.2, 0.0), (0.2, 0.0), (0.2, 40.0), (3.0, 0.0)):
        request.observe(local, remote)
    assert request.count == request.local_ms.count == request.total_ms.count == 4
    assert request.remote_ms.count == 1
    assert request.local_ms.sum == pytest.approx(3.6)
    assert request.total_ms.sum == pytest.approx(43.6)
    assert (request.local_ms.largest, request.total_ms.largest, request.remote_ms.largest) == (3.0, 40.2, 40.0)
