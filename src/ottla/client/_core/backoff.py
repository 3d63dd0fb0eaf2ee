"""How long to wait before trying again: exponentially longer, with jitter (KIP-580, KIP-144)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from random import Random

#: Waits differ by this share in both directions, so that many clients do not come back at the same moment.
JITTER = 0.2
_EXPONENT_MAX = 30


class Backoff(NamedTuple):
    """Bounds in milliseconds: `initial_ms` after the first failure, doubled after each further one up to `max_ms`."""

    initial_ms: float
    max_ms: float

    def delay_ms(self, failures: int, random: Random) -> float:
        """Return how long to wait after so many failures in a row, at least one."""
        delay: float = min(self.initial_ms * 2 ** min(failures - 1, _EXPONENT_MAX), max(self.max_ms, self.initial_ms))
        return delay * (1 + JITTER * (2 * random.random() - 1))


#: Kafka's defaults of `retry.backoff.ms` and `reconnect.backoff.ms` with their `.max.ms`.
RETRY = Backoff(100, 1_000)
RECONNECT = Backoff(50, 1_000)
