"""What /metrics shows of what clients push."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from ottla.broker.telemetry import series
from ottla.broker.telemetry.otlp import Attributes, Payload, Point
from ottla.broker.telemetry.series import PushedMetrics, clean_labels, metric_name
from ottla.broker.telemetry.subscriptions import attributes_of

ONE, TWO = bytes(15) + b"\x05", bytes(15) + b"\x06"


def point(name: str, value: float, *attributes: tuple[str, str], delta: bool = False, counter: bool = False) -> Point:
    return Point(name, attributes, value, counter, delta, f"About {name}.")


def push(pushed: PushedMetrics, client: bytes, *points: Point, now_ms: int = 0, resource: Attributes = ()) -> None:
    attributes = attributes_of(client, f"client {client[-1]}", ("soft\nware", '1"0'), "127.0.0.1", 1)
    pushed.update(client, attributes, Payload(resource, list(points), 0), now_ms, now_ms + 100)


def shown(pushed: PushedMetrics) -> dict[str, float]:
    """Name{labels but for the client's id} -> value, by Prometheus' own parser."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(b"".join(pushed.render()).decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if not k.startswith("client_")}
            name = f"{sample.name}{sample.labels['client_id'][-1]}{labels or ''}"
            assert name not in found
            found[name] = sample.value
    return found


def test_values_are_shown_by_client() -> None:
    pushed = PushedMetrics()
    push(pushed, ONE, point("org.apache.kafka.producer.x.rate", 1.5), point("own.metric", 2, ("topic", "t")))
    push(pushed, TWO, point("org.apache.kafka.producer.x.rate", 3.0), resource=(("group_id", "g"),))
    assert shown(pushed) == {
        "kafka_client_info5": 1,
        "kafka_client_info6{'group_id': 'g'}": 1,
        "kafka_client_producer_x_rate5": 1.5,
        "kafka_client_producer_x_rate6": 3.0,
        "kafka_client_own_metric5{'topic': 't'}": 2,
    }


def test_increments_are_added_up() -> None:
    pushed = PushedMetrics()
    for value in (5, 0, 2):
        push(pushed, ONE, point("sent.total", value, delta=True, counter=True))
        push(pushed, TWO, point("sent.total", value, counter=True))
    assert {name: value for name, value in shown(pushed).items() if "sent" in name} == {
        "kafka_client_sent_total5": 7,
        "kafka_client_sent_total6": 2,
    }


def test_what_is_pushed_no_more_is_shown_no_more() -> None:
    pushed = PushedMetrics()
    push(pushed, ONE, point("lag", 1, ("partition", "0")), point("lag", 2, ("partition", "1")))
    push(pushed, TWO, point("lag", 3))
    push(pushed, ONE, point("lag", 1, ("partition", "0")), now_ms=60)
    assert len(shown(pushed)) == 5
    push(pushed, ONE, point("lag", 1, ("partition", "0")), now_ms=120)
    pushed.expire(120)
    assert set(shown(pushed)) == {"kafka_client_info5", "kafka_client_lag5{'partition': '0'}"}
    pushed.expire(220)
    assert len(pushed) == 0
    assert b"".join(pushed.render()) == b""


def test_strangers_cannot_break_the_page() -> None:
    pushed = PushedMetrics()
    hostile = (
        ("client_id", "another"), ("a-b", "x\n\"\\"), ("a_b", "again"), ("__name__", "x"), ("", "y"), ("1", "z"),
        ("le", "long" * 1_000),
    )  # fmt: skip
    push(
        pushed,
        ONE,
        point("a.b", 1, *hostile),
        point("a_b", 2, *hostile),  # the same when it is shown
        point("a.b", float("nan")),
        point("a.b", float("inf"), ("x", "1")),
        point("info", 1, ("client_software_name", "soft\nware"), ("client_software_version", '1"0'),
              ("client_source_address", "127.0.0.1")),
        point("x" * 10_000, 1),
        point("{}\n# HELP", 1),
        resource=(("client_software_name", "liar"), ("ok", "yes")),
    )  # fmt: skip
    found = shown(pushed)
    assert len([name for name in found if name.startswith("kafka_client_a_b")]) == 2
    assert all(len(name) < 1_000 for name in found)
    assert clean_labels(tuple((f"label{number:02}", "") for number in range(99)))[-1] == ("label15", "")
    assert metric_name("org.apache.kafka.consumer.a-b") == "kafka_client_consumer_a_b"


def test_clients_and_series_are_bounded() -> None:
    pushed = PushedMetrics()
    many = [point("m", 1, ("n", str(number))) for number in range(series.SERIES_PER_CLIENT_MAX + 5)]
    push(pushed, ONE, *many)
    assert pushed.points_dropped == 5
    for number in range(series.CLIENTS_MAX + 3):
        push(pushed, number.to_bytes(16, "big"), point("m", 1))
    assert len(pushed) == series.CLIENTS_MAX
    assert pushed.points_dropped == 5 + 3 + 1  # ONE is number 5, and full
    for number in range(series.CLIENTS_MAX):
        push(pushed, number.to_bytes(16, "big"), *many[:100])
    assert sum(len(client.series) for client in pushed._clients.values()) == series.SERIES_MAX
    pushed.expire(1_000)
    push(pushed, ONE, *many)
    assert len(shown(pushed)) == series.SERIES_PER_CLIENT_MAX + 1
