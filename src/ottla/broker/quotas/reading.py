"""ReadQuota: what handlers that give records ask, before they give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext
    from ottla.broker.quotas.client_quotas import Bucket, ClientQuotas

#: What an answer has around its records, about: once, and for each partition. Kafka counts the encoded answer.
ANSWER_BYTES, PARTITION_BYTES = 30, 70
_MS: Final = 1000


class Verdict(NamedTuple):
    """Whether a client gets its records now, and for how long it is held back afterwards."""

    is_given: bool
    throttle_ms: int


class ReadQuota:
    """Counts records by the loop's time."""

    def __init__(self, quotas: ClientQuotas, now: Callable[[], float]) -> None:
        self._quotas = quotas
        self._now = now

    @property
    def in_force(self) -> bool:
        """Whether any client has a limit."""
        return self._quotas.in_force

    def bucket_of(self, context: RequestContext) -> Bucket | None:
        """Return where what this client reads is counted; None: it has no limit."""
        return self._quotas.of(context.session, context.client_id, self._now() * _MS).fetch

    def judge(self, bucket: Bucket, sizes: Sequence[int]) -> Verdict:
        """Count records that are to be given, by partition; those that are not given are not counted.

        What is more than a client may ever have at once (a batch larger than ten seconds' worth) is given when nothing else
        was lately, and the client is held back for longer: in Kafka it would never get it.
        """
        now_ms = self._now() * _MS
        amount = ANSWER_BYTES + sum(sizes) + PARTITION_BYTES * len(sizes)
        throttle_ms = bucket.charge(amount, now_ms)
        is_given = not throttle_ms or bucket.total(now_ms) <= amount
        if not is_given:
            bucket.take_back(amount, now_ms)
        return Verdict(is_given, throttle_ms)

    def count(self, bucket: Bucket, sizes: Sequence[int]) -> int:
        """Count records that are given in any case; return for how long the client is held back afterwards."""
        return bucket.charge(ANSWER_BYTES + sum(sizes) + PARTITION_BYTES * len(sizes), self._now() * _MS)
