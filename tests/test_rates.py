"""Rates and token buckets, against what Kafka's classes give for the same times (worked out by hand from its source)."""

from __future__ import annotations

import pytest

from ottla.rates import INT_MAX, SampledRate, TokenBucket, Windows

WINDOWS = Windows()


def test_windows_that_are_missing_count_as_if_nothing_had_happened_in_them() -> None:
    rate = SampledRate()
    rate.record(1000, 0, WINDOWS)
    assert rate.per_second(0, WINDOWS) == 100  # 1000 in ten windows
    assert rate.per_second(500, WINDOWS) == 1000 / 10.5


def test_time_to_wait_brings_the_rate_down_to_the_limit() -> None:
    rate = SampledRate()
    rate.record(2000, 0, WINDOWS)
    throttle_ms = rate.throttle_ms(100, 0, WINDOWS)
    assert throttle_ms == 10_000  # 200 a second over ten seconds: ten more until it is 100
    assert rate.throttle_ms(100, throttle_ms - 100, WINDOWS) > 0
    assert rate.throttle_ms(100, 11_000, WINDOWS) == 0


def test_old_windows_are_forgotten() -> None:
    rate = SampledRate()
    rate.record(5000, 0, WINDOWS)
    rate.record(10, 5_000, WINDOWS)
    assert rate.per_second(10_999, WINDOWS) > 400
    assert rate.per_second(11_000, WINDOWS) == 10 / 10  # the first window's last event is eleven seconds old


def test_an_amount_can_be_taken_back() -> None:
    rate = SampledRate()
    rate.record(5000, 0, WINDOWS)
    rate.record(-5000, 0, WINDOWS)
    assert rate.throttle_ms(1, 0, WINDOWS) == 0


@pytest.mark.parametrize("chunk", [1, 100, 900, 3000])
def test_a_client_that_waits_as_it_is_told_gets_its_limit(chunk: int) -> None:
    rate, now, total = SampledRate(), 0, 0
    while now < 300_000:
        rate.record(chunk, now, WINDOWS)
        total += chunk
        now += max(rate.throttle_ms(1000, now, WINDOWS), 1)
    assert 0.95 < total / (now / 1000) / 1000 < 1.1


def test_nothing_may_be_used_of_a_limit_of_zero() -> None:
    rate = SampledRate()
    rate.record(1, 0, WINDOWS)
    assert rate.throttle_ms(0, 0, WINDOWS) == INT_MAX


def test_tokens_come_back_with_time_up_to_the_burst() -> None:
    bucket = TokenBucket()
    assert bucket.tokens(2, 0, WINDOWS) == 22
    bucket.take(30, 2, 0, WINDOWS)
    assert bucket.throttle_ms(2, 0, WINDOWS) == 4000
    assert bucket.throttle_ms(2, 4000, WINDOWS) == 0
    assert bucket.tokens(2, 5000, WINDOWS) == 2
    assert bucket.tokens(2, 1_000_000, WINDOWS) == 22
