"""The coordinators on /metrics: groups by type and state, committed offsets, transactions, partitions of their topics.

Names are Kafka's JMX names as Prometheus' JMX exporter writes them (`GroupCoordinatorMetrics`, `GroupMetadataManager`,
`CoordinatorRuntimeMetrics`); what Kafka has no number for begins with `ottla_`. Decides text from facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.observability.exposition import Family, label_set

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
    from ottla.broker.transactions.markers import TransactionMarkers

#: States that are shown even when no group is in them, by type: an alert on a series that is not there never fires.
GROUP_STATES = {
    "classic": ("Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"),
    "consumer": ("Empty", "Assigning", "Reconciling", "Stable", "Dead"),
    "share": ("Empty", "Stable", "Dead"),
    "streams": ("Empty", "NotReady", "Assigning", "Reconciling", "Stable", "Dead"),
}
TRANSACTION_STATES = (
    "Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "PrepareEpochFence", "Dead",
)  # fmt: skip
PARTITION_STATES = ("loading", "active", "failed")

_GROUPS = "kafka_server_group_coordinator_metrics_"
_TRANSACTIONS = "kafka_server_transaction_coordinator_metrics_"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorFacts:
    """What the coordinators of this broker hold; partitions that are being loaded are not in the counts.

    Attributes:
        groups: (type, state) -> how many.
        group_partitions, transaction_partitions: state -> partitions of the internal topic.
        oldest_open_ms: how long the oldest open transaction has been open; None if there is none.
        markers_pending: decided transactions whose markers are not all written.
        ended: "commit" and "abort" -> transactions whose markers were written since the start.
    """

    groups: Mapping[tuple[str, str], int] = field(default_factory=dict)
    offsets: int = 0
    group_partitions: Mapping[str, int] = field(default_factory=dict)
    transactions: Mapping[str, int] = field(default_factory=dict)
    transaction_partitions: Mapping[str, int] = field(default_factory=dict)
    oldest_open_ms: int | None = None
    markers_pending: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)


def coordinator_facts(
    groups: CoordinatorRuntime[GroupCoordinator],
    transactions: CoordinatorRuntime[TransactionCoordinator],
    markers: TransactionMarkers,
    now_ms: int,
) -> CoordinatorFacts:
    """Count what the coordinators hold: one pass over groups and transactional ids."""
    by_group: dict[tuple[str, str], int] = {}
    offsets = 0
    for group_shard in groups.loaded_shards():
        offsets += len(group_shard.offsets)
        for listed in group_shard.list_groups((), ()):
            key = (listed.group_type.lower(), listed.group_state)
            by_group[key] = by_group.get(key, 0) + 1
    by_state: dict[str, int] = {}
    oldest_ms: int | None = None
    for shard in transactions.loaded_shards():
        for _, known in shard.transactions.items_committed():
            by_state[known.state.text] = by_state.get(known.state.text, 0) + 1
            if not known.state.is_idle and known.started_ms >= 0:
                oldest_ms = known.started_ms if oldest_ms is None else min(oldest_ms, known.started_ms)
    return CoordinatorFacts(
        groups=by_group,
        offsets=offsets,
        group_partitions=groups.partition_states(),
        transactions=by_state,
        transaction_partitions=transactions.partition_states(),
        oldest_open_ms=None if oldest_ms is None else max(now_ms - oldest_ms, 0),
        markers_pending=len(markers),
        ended=markers.ended,
    )


def coordinator_metrics(facts: CoordinatorFacts) -> Iterator[bytes]:
    """The text for /metrics."""
    protocols = Family(_GROUPS + "group_count", "gauge", "Groups by protocol.")
    for group_type, states in GROUP_STATES.items():
        counts = dict.fromkeys(states, 0)
        counts.update({state: n for (kind, state), n in facts.groups.items() if kind == group_type})
        protocols.add(sum(counts.values()), label_set(("protocol", group_type)))
        if group_type == "classic":  # GroupMetadataManager's numbers are of all types, and elsewhere on this page
            name, text = "ottla_classic_group_count", "Classic groups by state."
        else:
            name, text = f"{_GROUPS}{group_type}_group_count", f"Groups of the {group_type} protocol by state."
        yield _by_label(name, text, "state", counts.items())
    yield protocols.render()
    name = "kafka_coordinator_group_groupmetadatamanager_numoffsets"
    yield _single(name, "gauge", "Committed offsets, one for each group and partition.", facts.offsets)
    for prefix, topic, held in (
        (_GROUPS, "__consumer_offsets", facts.group_partitions),
        (_TRANSACTIONS, "__transaction_state", facts.transaction_partitions),
    ):
        rows = [(state, held.get(state, 0)) for state in PARTITION_STATES]
        yield _by_label(prefix + "num_partitions", f"Partitions of {topic} coordinated here, by state.", "state", rows)
    rows = [(state, facts.transactions.get(state, 0)) for state in TRANSACTION_STATES]
    yield _by_label("ottla_transactional_ids", "Transactional ids by state.", "state", rows)
    yield _single(
        "ottla_transactions_open_seconds_max",
        "gauge",
        "For how long the oldest open transaction has been open; read_committed consumers wait for it.",
        round((facts.oldest_open_ms or 0) / 1000, 3),
    )
    yield _single(
        "ottla_transaction_markers_pending",
        "gauge",
        "Decided transactions whose markers are not all written.",
        facts.markers_pending,
    )
    rows = [(result, facts.ended.get(result, 0)) for result in ("commit", "abort")]
    yield _by_label("ottla_transactions_ended_total", "Transactions that were ended.", "result", rows, kind="counter")


def _by_label(name: str, text: str, label: str, rows: Iterable[tuple[str, int]], *, kind: str = "gauge") -> bytes:
    family = Family(name, kind, text)
    for value, number in rows:
        family.add(number, label_set((label, value)))
    return family.render()


def _single(name: str, kind: str, text: str, value: float) -> bytes:
    family = Family(name, kind, text)
    family.add(value)
    return family.render()
