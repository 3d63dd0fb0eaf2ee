"""Counts of threads change step by step; which steps Apache Kafka 4.3.1 takes was asked of it."""

from __future__ import annotations

import pytest

from ottla.cluster.decisions.thread_counts import NETWORK_THREADS, THREAD_COUNTS, why_thread_counts_refused
from ottla.config import BROKER
from ottla.config.effective import Levels


@pytest.mark.parametrize("name", THREAD_COUNTS)
def test_a_count_may_become_half_and_double(name: str) -> None:
    now = int(BROKER[name].default or "")
    for count in (max(now // 2, 1), now, now * 2):
        assert why_thread_counts_refused(Levels(), Levels(broker={name: str(count)})) is None
        assert why_thread_counts_refused(Levels(), Levels(default={name: str(count)})) is None
    for count, bound in (
        (now * 2 + 1, f"no more than double the current value {now}"),
        *([(0, "at least 1")] if name == "log.cleaner.threads" else []),  # the others have that bound in their row
        *([(now // 2 - 1, f"at least half the current value {now}")] if now // 2 > 1 else []),
    ):
        why = f"{name} cannot become {count} while the broker runs: it must be {bound}"
        assert why_thread_counts_refused(Levels(), Levels(broker={name: str(count)})) == why
        assert why_thread_counts_refused(Levels(), Levels(default={name: str(count)})) == why


def test_what_is_in_force_counts() -> None:
    static = {"num.io.threads": "2"}
    hidden = Levels(broker={"num.io.threads": "4"}, default={"num.io.threads": "99"}, static=static)
    assert why_thread_counts_refused(Levels(static=static), hidden) is None
    assert why_thread_counts_refused(hidden, Levels(static=static)) is None
    shown = Levels(default={"num.io.threads": "99"}, static=static)
    assert "double the current value 4" in (why_thread_counts_refused(hidden, shown) or "")


def test_a_listener_has_network_threads_of_its_own() -> None:
    name = f"listener.name.plaintext.{NETWORK_THREADS}"
    assert why_thread_counts_refused(Levels(), Levels(broker={name: "6"})) is None
    why = f"{name} cannot become 7 while the broker runs: it must be no more than double the current value 3"
    assert why_thread_counts_refused(Levels(), Levels(broker={name: "7"})) == why
    assert why_thread_counts_refused(Levels(broker={name: "6"}), Levels(broker={name: "12"})) is None
    assert why_thread_counts_refused(Levels(broker={name: "8"}), Levels()) is not None
