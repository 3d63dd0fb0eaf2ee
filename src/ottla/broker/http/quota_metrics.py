"""Quotas on `/metrics`, under the names that Kafka's have. One row for each configured entity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from ottla.broker.quotas.table import Sort
from ottla.observability.exposition import Family, label_set

if TYPE_CHECKING:
    from ottla.broker.quotas.client_quotas import BucketFacts

#: Kafka's type, the name of its rate, and what that is.
_NAMES: Final = {
    Sort.PRODUCE: ("produce", "byte_rate", "Bytes per second that clients sent."),
    Sort.FETCH: ("fetch", "byte_rate", "Bytes per second that clients got."),
    Sort.REQUEST: ("request", "request_time", "Percent of one processor that requests of clients took."),
    Sort.MUTATION: ("controllermutation", "tokens", "Partitions that may still be made or deleted at once."),
}


def quota_metrics(facts: Iterable[BucketFacts], exempt_ms: float) -> Iterator[bytes]:
    """Yield the families."""
    by_sort: dict[Sort, list[BucketFacts]] = {}
    for row in facts:
        by_sort.setdefault(row.sort, []).append(row)
    for sort, (kind, name, text) in _NAMES.items():
        rows = by_sort.get(sort)
        if not rows:
            continue
        prefix = f"kafka_server_{kind}_"
        rate = Family(prefix + name, "gauge", text)
        throttled = Family(prefix + "throttle_time_ms_total", "counter", "For how long clients were held back.")
        throttles = Family(prefix + "throttled_requests_total", "counter", "After how many requests they were.")
        for row in rows:
            labels = label_set(("user", row.user), ("client_id", row.client_id))
            rate.add(round(row.rate if row.tokens is None else row.tokens, 3), labels)
            throttled.add(row.throttled_ms, labels)
            throttles.add(row.throttles, labels)
        yield rate.render() + throttled.render() + throttles.render()
    if by_sort:
        exempt = Family("kafka_server_request_exempt_request_time_ms_total", "counter", "Time of requests of brokers.")
        exempt.add(round(exempt_ms, 3))
        yield exempt.render()
