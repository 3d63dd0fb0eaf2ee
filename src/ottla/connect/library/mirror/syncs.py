"""Pairs of offsets that belong together in two clusters: which are written down, and what is translated by them.

A group's offset is translated only by a pair that was acknowledged in both clusters and lies at or before it, and never
further than one past that pair: behind it the clusters may differ (markers of transactions, compaction).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import NamedTuple

#: Pairs of a partition that are kept to translate with; of older ones more and more are left out.
KEPT_MAX = 1024


class Pair(NamedTuple):
    upstream: int
    downstream: int


class PairsToWrite:
    """Chooses the pairs of one partition that are written down: one whenever the distance has changed, or grown too large.

    Args:
        lag_max: `offset.lag.max`.
    """

    def __init__(self, lag_max: int) -> None:
        self._lag_max = lag_max
        self._written: Pair | None = None
        self._last: Pair | None = None

    def add(self, pair: Pair) -> bool:
        """Take in a record that both clusters have; return whether its pair is to be written down now."""
        written, last = self._written, self._last
        self._last = pair
        if (
            written is None
            or last is None
            or pair.upstream < last.upstream  # the topic was made anew
            or pair.downstream < last.downstream
            or pair.downstream - (written.downstream + pair.upstream - written.upstream) >= self._lag_max
            or pair.upstream - written.upstream >= self._lag_max
        ):
            self._written = pair
            return True
        return False

    def take_rest(self) -> Pair | None:
        """Return the newest pair if it was not written down; it counts as written from now on."""
        if self._last is None or self._last == self._written:
            return None
        self._written = self._last
        return self._last


class Translation:
    """What the written pairs say, by topic and partition of the source."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, int], list[Pair]] = {}

    def add(self, topic: str, partition: int, pair: Pair) -> bool:
        """Take in a pair; return whether what was known before is void: the topic was made anew, in one of the clusters."""
        pairs = self._pairs.setdefault((topic, partition), [])
        is_void = bool(pairs) and (pair.upstream < pairs[-1].upstream or pair.downstream < pairs[-1].downstream)
        if is_void:
            pairs.clear()
        if pairs and pairs[-1].upstream == pair.upstream:
            pairs[-1] = pair
        else:
            pairs.append(pair)
        if len(pairs) > KEPT_MAX:
            del pairs[: KEPT_MAX // 2 : 2]
        return is_void

    def downstream(self, topic: str, partition: int, upstream: int) -> int | None:
        """Return the offset in the target from which nothing is left out that lies behind `upstream` in the source.

        None: no pair lies at or before it.
        """
        pairs = self._pairs.get((topic, partition), [])
        at = bisect.bisect_right(pairs, upstream, key=lambda pair: pair.upstream) - 1
        if at < 0:
            return None
        pair = pairs[at]
        return pair.downstream + (upstream > pair.upstream)

    @property
    def topics(self) -> Mapping[str, None]:
        """The topics of which there are pairs."""
        return dict.fromkeys(topic for topic, _ in self._pairs)
