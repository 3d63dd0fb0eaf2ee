"""Buckets: who shares one, how many there may be, what changes when quotas change."""

from __future__ import annotations

from ottla.broker.context import Session
from ottla.broker.quotas.client_quotas import BUCKETS_MAX, IDLE_MS_MAX, ClientQuotas
from ottla.broker.quotas.table import Sort, resource_of, table_of
from ottla.cluster.image import DEFAULT_ENTITY, ConfigResource


def session(user: str = "alice") -> Session:
    made = Session(listener="PLAINTEXT", client_host="127.0.0.1")
    made.principal = f"User:{user}"
    return made


def quotas(*limits: tuple[ConfigResource, Sort, float]) -> ClientQuotas:
    made = ClientQuotas()
    made.apply(table_of({resource: {sort: str(limit)} for resource, sort, limit in limits}))
    return made


def test_connections_of_one_client_share_a_bucket() -> None:
    made = quotas((resource_of(None, DEFAULT_ENTITY), Sort.PRODUCE, 100))
    one, two = made.of(session(), "a", 0), made.of(session("bob"), "a", 0)
    assert one.produce is not None
    assert one.produce is two.produce
    assert made.of(session(), "b", 0).produce is not one.produce
    assert one.fetch is None


def test_changed_limits_count_at_once_and_what_was_used_stays_counted() -> None:
    made, who = quotas((resource_of("alice", None), Sort.PRODUCE, 1000)), session()
    bucket = made.of(who, "a", 0).produce
    assert bucket is not None
    assert bucket.charge(5000, 0) == 0
    made.apply(table_of({resource_of("alice", None): {Sort.PRODUCE: "100"}}))
    same = made.of(who, "a", 0).produce
    assert same is bucket
    assert same.charge(0, 0) == 40_000
    made.apply(table_of({resource_of("alice", "a"): {Sort.PRODUCE: "100"}}))
    other = made.of(who, "a", 0).produce
    assert other is not None
    assert other is not bucket
    assert other.charge(10, 0) == 0
    made.apply(table_of({}))
    assert made.of(who, "a", 0).produce is None
    assert not made.in_force
    assert not len(made)


def test_million_client_ids() -> None:
    """Names that clients make up: memory is bounded, who comes too late shares a bucket, and after an hour there is room."""
    made, who = quotas((resource_of(None, DEFAULT_ENTITY), Sort.PRODUCE, 100)), session("mallory")
    for number in range(5 * BUCKETS_MAX):  # a million differs in nothing but the time it takes
        bucket = made.of(who, f"id-{number}", number / 100).produce
        assert bucket is not None
    assert len(made) == BUCKETS_MAX + 1
    first, second = made.of(who, "x", 1e6).produce, made.of(who, "y", 1e6).produce
    assert first is not None
    assert first is second
    assert made.of(who, "id-5", 1e6).produce is not first  # who was there before keeps what is his
    assert len(list(made.facts(1e6))) == 1  # one row of metrics, for what is configured
    later = 1e6 + IDLE_MS_MAX + 60_001
    third, fourth = made.of(who, "new", later).produce, made.of(who, "newer", later).produce
    assert third is not None
    assert fourth is not None
    assert third is not fourth
    assert len(made) < 10


def test_request_time_is_held_back_for_a_window_at_most() -> None:
    made = quotas((resource_of("alice", None), Sort.REQUEST, 1.0))
    bucket = made.of(session(), None, 0).request
    assert bucket is not None
    assert bucket.charge(5000, 0) == 1000


def test_mutations_are_refused_where_the_client_knows_the_error() -> None:
    made, who = quotas((resource_of("alice", None), Sort.MUTATION, 1.0)), session()
    strict = made.mutations(who, None, is_strict=True, now_ms=0)
    assert strict.takes(20)  # one that is not overdrawn yet takes any number
    assert not strict.takes(1)
    assert strict.throttle_ms == 9000
    permissive = made.mutations(who, None, is_strict=False, now_ms=0)
    assert permissive.takes(1)
    assert permissive.throttle_ms == 10_000
    later = made.mutations(who, None, is_strict=True, now_ms=10_000)
    assert later.takes(1)
    assert later.throttle_ms == 0
    assert made.mutations(session("bob"), None, is_strict=True, now_ms=0).takes(10**6)
