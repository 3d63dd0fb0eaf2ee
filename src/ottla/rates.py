"""How much there was lately: sampled rates and token buckets, measured as Apache Kafka measures them for its quotas.

Decides on numbers and times it is given (milliseconds); knows no clock. Sources: Kafka's Rate and SampledStat (windows of
`quota.window.size.seconds`, of which `quota.window.num` count), TokenBucket (KIP-599), QuotaUtils (throttle times).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import floor

INT_MAX = 2147483647


@dataclass(frozen=True, slots=True)
class Windows:
    """How far back a rate looks.

    Attributes:
        count: so many windows, the one that has begun included (`quota.window.num`).
        size_ms: how long one is (`quota.window.size.seconds`).
    """

    count: int = 11
    size_ms: int = 1000


class _Sample:
    __slots__ = ("last_ms", "start_ms", "value")

    def __init__(self, now_ms: float) -> None:
        self.start_ms = self.last_ms = now_ms
        self.value = 0.0


class SampledRate:
    """An amount per second, over the windows in which something happened.

    As long as there are fewer windows than configured, the missing ones count as if nothing had happened in them: so a client
    that begins may take some ten seconds' worth at once before it is over its limit.
    """

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()  # oldest first

    def record(self, amount: float, now_ms: float, windows: Windows) -> None:
        """Count an amount; a negative one takes back what was counted."""
        samples = self._samples
        if not samples or now_ms - samples[-1].start_ms >= windows.size_ms:
            samples.append(_Sample(now_ms))
            if len(samples) > windows.count + 1:
                samples.popleft()
        sample = samples[-1]
        sample.value += amount
        sample.last_ms = now_ms

    def _look(self, now_ms: float, windows: Windows) -> tuple[float, float]:
        """Return the amount in the windows that count, and how long these are."""
        samples = self._samples
        while samples and now_ms - samples[0].last_ms >= windows.count * windows.size_ms:
            samples.popleft()
        elapsed = now_ms - samples[0].start_ms if samples else 0.0
        missing = windows.count - 1 - int(elapsed // windows.size_ms)
        if missing > 0:
            elapsed += missing * windows.size_ms
        return sum(sample.value for sample in samples), max(elapsed, 1.0)

    def total(self, now_ms: float, windows: Windows) -> float:
        """Return the amount in the windows that count."""
        return self._look(now_ms, windows)[0]

    def per_second(self, now_ms: float, windows: Windows) -> float:
        """Return the rate."""
        total, elapsed = self._look(now_ms, windows)
        return total * 1000 / elapsed

    def throttle_ms(self, limit: float, now_ms: float, windows: Windows) -> int:
        """Return for how long nothing may be counted until the rate is down to `limit`; 0 if it is."""
        total, elapsed = self._look(now_ms, windows)
        rate = total * 1000 / elapsed
        if rate <= limit:
            return 0
        return INT_MAX if limit <= 0 else min(floor((rate - limit) / limit * elapsed + 0.5), INT_MAX)


class TokenBucket:
    """Tokens that come at a rate up to a burst, and may be overdrawn once there is none left to take."""

    __slots__ = ("_last_ms", "_tokens")

    def __init__(self) -> None:
        self._tokens: float | None = None  # full
        self._last_ms = 0.0

    def tokens(self, rate: float, now_ms: float, windows: Windows) -> float:
        """Return how many there are; below 0: overdrawn."""
        burst = rate * windows.count * windows.size_ms / 1000
        if self._tokens is None:
            return burst
        return min(burst, self._tokens + rate * max(now_ms - self._last_ms, 0) / 1000)

    def take(self, amount: float, rate: float, now_ms: float, windows: Windows) -> None:
        """Take tokens, whether they are there or not."""
        self._tokens = self.tokens(rate, now_ms, windows) - amount
        self._last_ms = now_ms

    def throttle_ms(self, rate: float, now_ms: float, windows: Windows) -> int:
        """Return for how long the bucket is overdrawn; 0 if it is not."""
        missing = -self.tokens(rate, now_ms, windows)
        if missing <= 0:
            return 0
        return INT_MAX if rate <= 0 else min(floor(missing / rate * 1000 + 0.5), INT_MAX)
