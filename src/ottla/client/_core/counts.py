"""What a consumer counts: additions on each answer of a broker and each run of records, nothing on each record."""

from __future__ import annotations

from ottla.rates import SampledRate, Windows

#: How far back Kafka's clients look: metrics.num.samples of metrics.sample.window.ms.
WINDOWS = Windows(count=2, size_ms=30_000)


class TopicCounts:
    """Of one topic: records that were decoded, bytes that were fetched."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.bytes: int = 0
        self.records: int = 0


class FetchCounts:
    """Of all topics.

    Attributes:
        answers: Fetch requests that were answered; `empty`: those without a record.
        latency_ms, latency_ms_max: from a request to its answer.
        throttle_ms, throttle_ms_max: for how long quotas have held answers back.
        size_max: bytes of the largest answer.
        bytes, records: so far.
    """

    latency_ms_max: float
    throttle_ms_max: float
    answers: int
    empty: int
    latency_ms: float
    throttle_ms: float
    bytes: int
    records: int

    def __init__(self) -> None:
        self.answers = self.empty = 0
        self.latency_ms = self.latency_ms_max = 0.0
        self.throttle_ms = self.throttle_ms_max = 0.0
        self.size_max: int = 0
        self.bytes = self.records = 0
        self.by_topic: dict[str, TopicCounts] = {}
        self.fetch_rate: SampledRate = SampledRate()
        self.byte_rate: SampledRate = SampledRate()
        self.record_rate: SampledRate = SampledRate()
        self._answered_bytes = self._answered_records = 0

    def topic(self, name: str) -> TopicCounts:
        """Return the counts of a topic."""
        found = self.by_topic.get(name)
        if found is None:
            found = self.by_topic[name] = TopicCounts()
        return found

    def on_bytes(self, topic: str, count: int) -> None:
        """An answer has so many bytes of batches of a topic."""
        self.bytes += count
        self.topic(topic).bytes += count

    def on_records(self, topic: str, count: int) -> None:
        """So many records of a topic were decoded, and are handed out next."""
        self.records += count
        self.topic(topic).records += count

    def on_answer(self, now_ms: float, latency_ms: float, throttle_ms: float) -> None:
        """An answer has been taken in."""
        size = self.bytes - self._answered_bytes
        self.answers += 1
        self.empty += not size
        self.size_max = max(self.size_max, size)
        self.latency_ms += latency_ms
        self.latency_ms_max = max(self.latency_ms_max, latency_ms)
        self.throttle_ms += throttle_ms
        self.throttle_ms_max = max(self.throttle_ms_max, throttle_ms)
        self.fetch_rate.record(1, now_ms, WINDOWS)
        self.byte_rate.record(size, now_ms, WINDOWS)
        self.sample(now_ms)
        self._answered_bytes = self.bytes

    def sample(self, now_ms: float) -> None:
        """Note for the rate how many records were decoded since the last time."""
        if self.records > self._answered_records:
            self.record_rate.record(self.records - self._answered_records, now_ms, WINDOWS)
            self._answered_records = self.records
