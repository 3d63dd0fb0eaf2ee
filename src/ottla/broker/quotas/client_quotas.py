"""ClientQuotas: counts what clients use and says for how long one has to be held back. Clock passed in, no I/O.

Bounded: clients choose their client ids, so a stranger could make a bucket of each name. There are at most `BUCKETS_MAX`; one
that nothing was counted in for an hour goes; what finds no room then shares one bucket with all others that the same
configured entity limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ottla.broker.quotas.table import Found, Owner, QuotaTable, Sort
from ottla.cluster.image import DEFAULT_ENTITY
from ottla.cluster.nodes import desanitize, sanitize
from ottla.rates import SampledRate, TokenBucket, Windows

if TYPE_CHECKING:
    from ottla.broker.context import Session

BUCKETS_MAX: Final = 10_000
IDLE_MS_MAX: Final = 3_600_000
#: How often buckets are looked through for idle ones, at most.
SWEEP_MS: Final = 60_000
#: The bucket of those for whom there is no room: no client has this name, `sanitize` leaves no `*`.
_STRANGERS: Final = "*"


class Bucket:
    """What the clients of one owner have used of one sort.

    Attributes:
        limit: per second.
        configured: the entity that limits them.
        throttled_ms: by how much clients were held back, summed; `throttles`: how often.
    """

    __slots__ = ("_rate", "configured", "last_ms", "limit", "sort", "throttled_ms", "throttles", "tokens", "windows")

    def __init__(self, sort: Sort, found: Found, windows: Windows) -> None:
        self.sort = sort
        self.limit = found.limit
        self.configured = found.configured
        self.windows = windows
        self.last_ms = 0.0
        self.throttled_ms = 0
        self.throttles = 0
        self._rate = SampledRate()
        self.tokens = TokenBucket()

    def charge(self, amount: float, now_ms: float) -> int:
        """Count an amount; return for how many milliseconds its client is to be held back, 0 while it is within its limit."""
        self.last_ms = now_ms
        self._rate.record(amount, now_ms, self.windows)
        throttle_ms = self._rate.throttle_ms(self.limit, now_ms, self.windows)
        if self.sort is Sort.REQUEST:  # as in Kafka never longer than a window
            throttle_ms = min(throttle_ms, self.windows.size_ms)
        if throttle_ms:
            self.note(throttle_ms)
        return throttle_ms

    def note(self, throttle_ms: int) -> None:
        """Count that a client is held back."""
        self.throttles += 1
        self.throttled_ms += throttle_ms

    def take_back(self, amount: float, now_ms: float) -> None:
        """Forget an amount that was charged: it was not given after all."""
        self._rate.record(-amount, now_ms, self.windows)

    def total(self, now_ms: float) -> float:
        """Return what the windows hold."""
        return self._rate.total(now_ms, self.windows)

    def per_second(self, now_ms: float) -> float:
        """Return the rate over the windows."""
        return self._rate.per_second(now_ms, self.windows)

    @property
    def bytes_max(self) -> int:
        """The most that may be counted at once without a long wait: what the windows hold but one."""
        return int(min(self.limit * (self.windows.count - 1) * self.windows.size_ms / 1000, 2147483647))


class MutationQuota:
    """What one request may change (KIP-599): partitions made or deleted.

    Attributes:
        is_strict: whether what comes while the bucket is overdrawn is refused. Clients that do not know the error
            (CreateTopics before v6, DeleteTopics before v5, CreatePartitions before v3) are only held back.
    """

    def __init__(self, bucket: Bucket | None, *, is_strict: bool, now_ms: float) -> None:
        self._bucket = bucket
        self._is_strict = is_strict
        self._now_ms = now_ms
        self.throttle_ms = 0

    @property
    def is_limited(self) -> bool:
        """Whether it has an end."""
        return self._bucket is not None

    def takes(self, partitions: int) -> bool:
        """Count partitions; return False, and count nothing, if they are refused."""
        bucket = self._bucket
        if bucket is None:
            return True
        tokens, limit, windows = bucket.tokens, bucket.limit, bucket.windows
        bucket.last_ms = self._now_ms
        if self._is_strict:
            throttle_ms = tokens.throttle_ms(limit, self._now_ms, windows)
            if throttle_ms:
                self._hold_back(throttle_ms)
                return False
            tokens.take(partitions, limit, self._now_ms, windows)
            return True
        tokens.take(partitions, limit, self._now_ms, windows)
        throttle_ms = tokens.throttle_ms(limit, self._now_ms, windows)
        if throttle_ms:
            self._hold_back(throttle_ms)
        return True

    def _hold_back(self, throttle_ms: int) -> None:
        assert self._bucket is not None
        if not self.throttle_ms:
            self._bucket.note(throttle_ms)
        self.throttle_ms = max(self.throttle_ms, throttle_ms)


class Charges(NamedTuple):
    """The buckets of one client, as of one state of the quotas; kept with its session."""

    generation: int
    client_id: str | None
    principal: str
    produce: Bucket | None
    fetch: Bucket | None
    request: Bucket | None
    mutation: Bucket | None


class BucketFacts(NamedTuple):
    """What all clients that one configured entity limits have used of one sort, for metrics."""

    sort: Sort
    user: str
    client_id: str
    rate: float
    tokens: float | None
    throttled_ms: int
    throttles: int


class ClientQuotas:
    """All buckets of a broker.

    Attributes:
        in_force: whether any client has a limit.
        exempt_ms: time spent on requests of other brokers, which no quota counts.
    """

    def __init__(self, windows: Windows | None = None, mutation_windows: Windows | None = None) -> None:
        self._windows = windows or Windows()
        self._mutation_windows = mutation_windows or Windows()
        self._table = QuotaTable()
        self._buckets: dict[tuple[Sort, Owner], Bucket] = {}
        self._generation = 0
        self._swept_ms = 0.0
        self.in_force = False
        self.exempt_ms = 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def apply(self, table: QuotaTable) -> None:
        """Put other limits in force, at once. What was used under the old ones stays counted."""
        self._table = table
        self._generation += 1
        self.in_force = not table.is_empty
        for (sort, owner), bucket in list(self._buckets.items()):
            found = None
            if owner.client_id != _STRANGERS:
                found = table.find(sort, owner.user, owner.client_id)
            if found is None or found.owner != owner:
                del self._buckets[sort, owner]
            else:
                bucket.limit, bucket.configured = found.limit, found.configured

    def of(self, session: Session, client_id: str | None, now_ms: float) -> Charges:
        """Return the buckets of a client, the same ones until quotas change or one was idle for an hour."""
        kept: Any = session.quotas
        if (
            kept is not None
            and kept.generation == self._generation
            and kept.client_id == client_id
            and kept.principal == session.principal
        ):
            return kept  # type: ignore[no-any-return]
        user, client = sanitize(session.principal.partition(":")[2]), sanitize(client_id or "")
        buckets = [self._bucket(sort, user, client, now_ms) for sort in Sort]
        charges = Charges(self._generation, client_id, session.principal, *buckets)
        session.quotas = charges
        return charges

    def mutations(self, session: Session, client_id: str | None, *, is_strict: bool, now_ms: float) -> MutationQuota:
        """Return what a request may change."""
        bucket = self.of(session, client_id, now_ms).mutation if self.in_force else None
        return MutationQuota(bucket, is_strict=is_strict, now_ms=now_ms)

    def _bucket(self, sort: Sort, user: str, client_id: str, now_ms: float) -> Bucket | None:
        found = self._table.find(sort, user, client_id)
        if found is None:
            return None
        bucket = self._buckets.get((sort, found.owner))
        if bucket is not None:
            return bucket
        owner = found.owner
        if len(self._buckets) >= BUCKETS_MAX and not self._make_room(now_ms):
            owner = Owner(f"{found.configured.user}/{found.configured.client_id}", _STRANGERS)
            bucket = self._buckets.get((sort, owner))
            if bucket is not None:
                return bucket
        windows = self._mutation_windows if sort is Sort.MUTATION else self._windows
        bucket = self._buckets[sort, owner] = Bucket(sort, found, windows)
        bucket.last_ms = now_ms
        return bucket

    def _make_room(self, now_ms: float) -> bool:
        """Forget buckets that have been idle for an hour; return whether there were any."""
        if now_ms - self._swept_ms < SWEEP_MS and self._swept_ms:
            return False
        self._swept_ms = now_ms
        idle = [key for key, bucket in self._buckets.items() if now_ms - bucket.last_ms >= IDLE_MS_MAX]
        for key in idle:
            del self._buckets[key]
        if idle:
            self._generation += 1  # no session goes on with a bucket that others do not find any more
        return bool(idle)

    def facts(self, now_ms: float) -> Iterator[BucketFacts]:
        """Yield what was used, summed by the configured entity: so there are no more rows than quotas."""
        groups: dict[tuple[Sort, Owner], list[Bucket]] = {}
        for (sort, _), bucket in self._buckets.items():
            groups.setdefault((sort, bucket.configured), []).append(bucket)
        for (sort, configured), buckets in sorted(groups.items()):
            tokens = None
            if sort is Sort.MUTATION:
                tokens = min(bucket.tokens.tokens(bucket.limit, now_ms, bucket.windows) for bucket in buckets)
            yield BucketFacts(
                sort,
                shown_name(configured.user),
                shown_name(configured.client_id),
                sum(bucket.per_second(now_ms) for bucket in buckets),
                tokens,
                sum(bucket.throttled_ms for bucket in buckets),
                sum(bucket.throttles for bucket in buckets),
            )


def shown_name(node: str) -> str:
    """Return the name that a node stands for, `<default>` for the default."""
    return node if node == DEFAULT_ENTITY else desanitize(node)
