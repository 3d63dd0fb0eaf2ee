"""Who may ask and push when: Kafka 4.3.1 gave these answers to the same questions."""

from __future__ import annotations

import uuid

import pytest

from ottla.broker.telemetry.instances import EXPIRY_MS_MIN, INSTANCES_MAX, ClientInstances
from ottla.broker.telemetry.subscriptions import (
    ClientAttributes,
    Subscription,
    attributes_of,
    parse_subscription,
    select,
    subscription_id,
)
from ottla.errors import ErrorCode

CLIENT = uuid.uuid5(uuid.NAMESPACE_OID, "telemetry-1").bytes
ID = CLIENT
EVERYTHING = parse_subscription({"metrics": "*", "interval.ms": "1000"})


def attributes(
    client_id: str | None = "differ", software: tuple[str, str] | None = ("librdkafka", "2.16")
) -> ClientAttributes:
    return attributes_of(ID, client_id, software, "127.0.0.1", 4711)


class Clients:
    """One client of a broker, and the time."""

    def __init__(self, *subscriptions: Subscription) -> None:
        self.instances = ClientInstances(1_000)
        self.instances.change_subscriptions(subscriptions)
        self.now_ms = 5

    def get(self, after_ms: int = 0) -> str:
        self.now_ms += after_ms
        return self.instances.on_get(ID, attributes(), self.now_ms)[0].name

    def push(
        self, after_ms: int = 0, *, wrong: bool = False, terminating: bool = False, codec: int = 0, size: int = 10
    ) -> str:
        self.now_ms += after_ms
        known = select((EVERYTHING,), ID, attributes()).subscription_id
        error, _ = self.instances.on_push(
            ID,
            attributes(),
            self.now_ms,
            subscription_id=known + wrong,
            terminating=terminating,
            compression=codec,
            size=size,
        )
        return error.name


@pytest.mark.parametrize(
    ("metrics", "interval_ms", "number", "expected"),
    [
        ((), 300_000, 1, -1_297_267_750),
        (("org.apache.kafka.",), 300_000, 1, 437_986_120),
        (("org.apache.kafka.",), 300_000, 2, -1_651_651_597),
        (("*",), 100, 8, -1_612_461_365),
    ],
)
def test_subscription_ids_are_those_of_kafka(
    metrics: tuple[str, ...], interval_ms: int, number: int, expected: int
) -> None:
    client = uuid.uuid5(uuid.NAMESPACE_OID, f"telemetry-{number}").bytes
    assert subscription_id(metrics, interval_ms, client) == expected


def test_a_client_asks_and_pushes_in_its_rhythm() -> None:
    clients = Clients(EVERYTHING)
    assert clients.get() == "NONE"
    assert clients.get(999) == "THROTTLING_QUOTA_EXCEEDED"
    assert clients.push() == "NONE"  # the first push after a question comes at any time
    assert clients.push(999) == "THROTTLING_QUOTA_EXCEEDED"
    assert clients.push(1) == "NONE"
    assert clients.get(10) == "THROTTLING_QUOTA_EXCEEDED"
    assert clients.get(990) == "NONE"
    assert clients.instances.throttled == 3


def test_last_words_come_at_any_time_and_are_the_last() -> None:
    clients = Clients(EVERYTHING)
    assert clients.get() == "NONE"
    assert clients.push() == "NONE"
    assert clients.push(terminating=True) == "NONE"
    assert clients.push(5_000, terminating=True) == "INVALID_REQUEST"
    assert clients.push(5_000) == "INVALID_REQUEST"
    assert clients.push(5_000) == "NONE"  # Kafka takes back what it believed, too


def test_whoever_has_an_old_subscription_asks_again_at_once() -> None:
    clients = Clients(EVERYTHING)
    assert clients.push(wrong=True) == "UNKNOWN_SUBSCRIPTION_ID"
    assert clients.get() == "NONE"
    assert clients.get() == "THROTTLING_QUOTA_EXCEEDED"
    assert clients.push(1_000, codec=5) == "UNSUPPORTED_COMPRESSION_TYPE"
    assert clients.get() == "NONE"
    assert clients.push(1_000, size=1_001) == "TELEMETRY_TOO_LARGE"
    assert clients.get() == "THROTTLING_QUOTA_EXCEEDED"
    assert clients.instances.unknown_subscriptions == 1


def test_a_changed_subscription_may_be_asked_for_at_once() -> None:
    clients = Clients(EVERYTHING)
    assert clients.get() == "NONE"
    clients.instances.change_subscriptions((parse_subscription({"metrics": "a."}),))
    assert clients.push() == "UNKNOWN_SUBSCRIPTION_ID"
    assert clients.get() == "NONE"
    assert clients.get() == "THROTTLING_QUOTA_EXCEEDED"


@pytest.mark.parametrize("reserved", [bytes(16), bytes(15) + b"\x01"])
def test_reserved_ids_push_nothing(reserved: bytes) -> None:
    error, instance = ClientInstances(10).on_push(
        reserved, attributes(), 0, subscription_id=0, terminating=False, compression=0, size=0
    )
    assert (error, instance) == (ErrorCode.INVALID_REQUEST, None)


def test_the_silent_are_forgotten() -> None:
    clients = Clients(EVERYTHING)
    clients.get()
    clients.instances.expire(clients.now_ms + EXPIRY_MS_MIN - 1)
    assert ID in clients.instances
    clients.instances.expire(clients.now_ms + EXPIRY_MS_MIN)
    assert ID not in clients.instances
    clients.instances.change_subscriptions(())
    clients.get()
    clients.instances.expire(clients.now_ms + 899_999)  # five minutes, three times
    assert ID in clients.instances


def test_no_more_instances_than_kafka_remembers() -> None:
    clients = Clients(EVERYTHING)
    clients.get()
    for number in range(INSTANCES_MAX):
        clients.instances.on_get(number.to_bytes(16, "big"), attributes(), 5)
    assert len(clients.instances) == INSTANCES_MAX
    assert ID not in clients.instances


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ("", True),
        ("client_id=dif.*", True),
        ("client_id=dif", False),
        ("client_id=differ,client_source_port=[0-9]{4}", True),
        ("client_id=differ,client_source_port=[0-9]{3}", False),
        ("client_software_name=librdkafka,client_software_version=2\\..*", True),
        ("client_source_address=127\\.0\\.0\\.1", True),
        ("client_id=a,client_id=differ", True),
        ("client_id=x=", False),
    ],
)
def test_a_client_matches_if_all_of_it_does(match: str, matches: bool) -> None:
    assert parse_subscription({"match": match}).matches(attributes()) is matches


def test_what_is_unknown_matches_nothing() -> None:
    assert not parse_subscription({"match": "client_software_name=.*"}).matches(attributes(software=None))
    assert not parse_subscription({"match": "client_id=.*"}).matches(attributes(None))
    assert not parse_subscription({"match": "client_id=.*"}).matches(attributes("x" * 1_001))


def test_several_subscriptions_are_put_together() -> None:
    several = [
        parse_subscription({"metrics": "b.,a.", "interval.ms": "2000"}),
        parse_subscription({"metrics": "c.,a.", "interval.ms": "1000", "match": "client_id=d.*"}),
        parse_subscription({"metrics": "d.", "interval.ms": "100", "match": "client_id=nobody"}),
    ]
    chosen = select(several, ID, attributes())
    assert (chosen.metrics, chosen.push_interval_ms) == (("a.", "b.", "c."), 1000)
    everything = select([*several, EVERYTHING], ID, attributes())
    assert everything.metrics == ("*",)
    # Kafka asks no client to come less often than every five minutes.
    assert select([parse_subscription({"interval.ms": "3600000"})], ID, attributes()).push_interval_ms == 300_000
