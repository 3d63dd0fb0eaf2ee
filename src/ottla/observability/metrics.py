"""Counters, gauges and histograms as plain integers.

The hot path writes them by `metrics.requests += 1` and nothing more; what they are called outside, and what can be
derived from them, is decided when somebody asks (`exposition`, `broker/http/metrics_page.py`). All of it belongs to the event
loop's thread. `prometheus_client` does the same for 0.6-2 us an increment and 83 ms of import.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

MILLISECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000)
"""Bounds for the time of a request."""


class Histogram:
    """How often values fell into ranges. `counts[i]` is of values <= `bounds[i]`, the last of those above all bounds."""

    __slots__ = ("bounds", "counts", "largest", "sum")

    def __init__(self, bounds: Sequence[float] = MILLISECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.largest = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        if value > self.largest:
            self.largest = value

    def with_those_of(self, other: Histogram) -> Histogram:
        """Return a histogram of the values of both; their bounds are the same."""
        both = Histogram(self.bounds)
        both.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        both.sum = self.sum + other.sum
        both.largest = max(self.largest, other.largest)
        return both

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """A value that `share` of the observed ones do not exceed, as exact as the bounds; 0 if there are none."""
        wanted = share * self.count
        below = 0
        low = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= wanted:
                return min(low + (bound - low) * max(wanted - below, 0) / count, bound, self.largest)
            below += count
            low = bound
        return self.largest


class NetworkMetrics:
    """What the network side counts."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "connections_closed",
        "connections_opened",
        "connections_refused",
        "handshakes_failed",
        "logins",
        "logins_failed",
        "requests",
    )

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.connections_closed = 0
        self.connections_opened = 0
        self.connections_refused = 0
        self.handshakes_failed = 0
        self.logins = 0
        self.logins_failed = 0
        self.requests = 0


class TopicMetrics:
    """What is counted per topic (Kafka's BrokerTopicMetrics). Sizes are those of batches as stored."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "bytes_rejected",
        "failed_fetch_requests",
        "failed_produce_requests",
        "fetch_requests",
        "messages_in",
        "produce_requests",
    )

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.bytes_rejected = 0
        self.failed_fetch_requests = 0
        self.failed_produce_requests = 0
        self.fetch_requests = 0
        self.messages_in = 0
        self.produce_requests = 0


class RequestMetrics:
    """What is counted per API (Kafka's RequestMetrics).

    Attributes:
        count: requests answered or failed.
        errors: answers by error name; "NONE" is not counted.
        local_ms: time until the handler returned. remote_ms: from then until the answer was ready, for answers that
            wait (acks=all, fetch.min.bytes, a rebalance). total_ms: both.

    Nearly all requests are answered at once: their two times are one, which is counted once, and added when somebody asks.
    """

    __slots__ = ("_prompt_ms", "_waited_local_ms", "_waited_total_ms", "count", "errors", "remote_ms")

    def __init__(self) -> None:
        self.count = 0
        self.errors: dict[str, int] = {}
        self.remote_ms = Histogram()
        self._prompt_ms = Histogram()
        self._waited_local_ms = Histogram()
        self._waited_total_ms = Histogram()

    @property
    def local_ms(self) -> Histogram:
        return self._prompt_ms.with_those_of(self._waited_local_ms)

    @property
    def total_ms(self) -> Histogram:
        return self._prompt_ms.with_those_of(self._waited_total_ms)

    def observe(self, local_ms: float, remote_ms: float = 0.0) -> None:
        """Count one request that has been answered."""
        self.count += 1
        if not remote_ms:
            self._prompt_ms.observe(local_ms)
            return
        self._waited_local_ms.observe(local_ms)
        self._waited_total_ms.observe(local_ms + remote_ms)
        self.remote_ms.observe(remote_ms)

    def error(self, name: str) -> None:
        """Count one error in an answer."""
        self.errors[name] = self.errors.get(name, 0) + 1


class BrokerMetrics:
    """Everything one broker counts.

    Attributes:
        topics: by topic name; `topic` makes the entry, the deletion of a topic drops it.
        requests: by API name as in Kafka's dashboards ("Produce", "Fetch", ...).
        loop_lag_ms: how late the event loop was, see `LoopMonitor`.
    """

    __slots__ = ("loop_lag_ms", "network", "requests", "topics")

    def __init__(self) -> None:
        self.network = NetworkMetrics()
        self.topics: dict[str, TopicMetrics] = {}
        self.requests: dict[str, RequestMetrics] = {}
        self.loop_lag_ms = Histogram((1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500))

    def topic(self, name: str) -> TopicMetrics:
        """The counters of a topic, made on first use."""
        found = self.topics.get(name)
        if found is None:
            found = self.topics[name] = TopicMetrics()
        return found

    def request(self, name: str) -> RequestMetrics:
        """The counters of an API, made on first use."""
        found = self.requests.get(name)
        if found is None:
            found = self.requests[name] = RequestMetrics()
        return found
