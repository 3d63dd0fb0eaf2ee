"""`/metrics` of the port that several workers share: one page made of the pages of all.

Counters, histograms, and the sums and counts of summaries are added up, and so are gauges of which the machine as a whole
has so much (`SUMMED`). What all workers say alike, or one of them alone, is there once; where they differ for a moment, the
largest counts (`LARGEST`). Every other gauge, and the quantiles of summaries, which cannot be added, stand there once for
each worker, with the label `broker`. Decides text from texts; knows no sockets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ottla.observability.exposition import label_set

_MANAGER: Final = "kafka_server_replicamanager_"
_GROUPS: Final = "kafka_server_group_coordinator_metrics_"
_CONTROLLER: Final = "kafka_controller_kafkacontroller_"

#: Gauges that are added up; a name that ends with * stands for all that begin so.
SUMMED: Final = (
    "kafka_coordinator_group_groupmetadatamanager_*",
    f"{_GROUPS}*",
    "kafka_server_transaction_coordinator_metrics_*",
    f"{_MANAGER}*",
    f"{_CONTROLLER}activecontrollercount",
    "kafka_log_log_size",
    "kafka_log_logmanager_offlinelogdirectorycount",
    "kafka_server_client_metrics_instance_count",
    "kafka_server_socketservermetrics_*",
    "kafka_server_produce_byte_rate",
    "kafka_server_fetch_byte_rate",
    "kafka_server_request_request_time",
    "ottla_classic_group_count",
    "ottla_client_metrics_shown",
    "ottla_log_unreadable_partitions",
    "ottla_process_cpu_seconds",
    "ottla_replicas_refusing_to_follow",
    "ottla_transactional_ids",
    "ottla_transaction_markers_pending",
    "process_open_fds",
    "process_resident_memory_bytes",
)
#: Gauges of which the largest counts: what every worker knows of the cluster, or one of them of what it leads.
LARGEST: Final = (
    "kafka_brokers",
    "kafka_broker_info",
    "kafka_topic_*",
    "kafka_cluster_partition_underminisr",
    "kafka_consumergroup_*",
    "kafka_sharegroup_*",
    f"{_CONTROLLER}*",
    "kafka_log_log_logstartoffset",
    "kafka_log_log_logendoffset",
    "kafka_server_replicafetchermanager_maxlag",
    "ottla_group_info",
    "ottla_transactions_open_seconds_max",
)
SAMPLES_PER_STEP: Final = 2_000
"""A few milliseconds."""


class _Merged:
    """One metric, of all workers."""

    __slots__ = ("_kind", "_name", "_rule", "_values", "head")

    def __init__(self, name: str) -> None:
        self._name = name
        self._kind = "untyped"
        self.head = ""
        self._rule = _rule(name)
        #: Name and labels of a sample -> value.
        self._values: dict[str, float] = {}

    def describe(self, line: str) -> None:
        """Take a line with the text or the kind, of the first worker that has the metric."""
        self.head += line + "\n"
        if line.startswith("# TYPE "):
            self._kind = line.rpartition(" ")[2]

    def add(self, broker: str, sample: str, value: float) -> None:
        if self._kind in ("counter", "histogram"):
            is_summed, is_apart = True, False
        elif self._kind == "summary":
            is_apart = sample.partition("{")[0] == self._name  # a quantile
            is_summed = not is_apart
        else:
            is_summed, is_apart = self._rule == "sum", self._rule == ""
        if is_apart:
            sample = _labelled(sample, broker)
        known = self._values.get(sample)
        if known is None:
            self._values[sample] = value
        else:
            self._values[sample] = known + value if is_summed else max(known, value)

    def render(self) -> Iterator[bytes]:
        lines = [self.head]
        for sample, value in self._values.items():
            lines.append(f"{sample} {value if isinstance(value, int) else round(value, 9)}\n")
            if len(lines) >= SAMPLES_PER_STEP:
                yield "".join(lines).encode()
                yield b""
                lines = []
        yield "".join(lines).encode()


def workers_page(pages: Mapping[int, bytes]) -> Iterator[bytes]:
    """Yield the page of all workers, in steps.

    Args:
        pages: of each worker, by its broker id, in Prometheus' text format.
    """
    merged: dict[str, _Merged] = {}
    for number, page in sorted(pages.items()):
        broker = str(number)
        new: set[str] = set()
        current: _Merged | None = None
        for count, line in enumerate(page.decode().split("\n"), start=1):
            if count % SAMPLES_PER_STEP == 0:
                yield b""
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                current = merged.get(name)
                if current is None:
                    current = merged[name] = _Merged(name)
                    new.add(name)
                if name in new:
                    current.describe(line)
            elif line and current is not None:
                sample, _, text = line.rpartition(" ")
                current.add(broker, sample, _number(text))
    for one in merged.values():
        yield from one.render()
    yield (
        "# HELP ottla_workers_summed Workers of which this page is the sum.\n# TYPE ottla_workers_summed gauge\n"
        f"ottla_workers_summed {len(pages)}\n"
    ).encode()


def _rule(name: str) -> str:
    for rule, names in (("sum", SUMMED), ("largest", LARGEST)):
        if any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in names):
            return rule
    return ""


def _labelled(sample: str, broker: str) -> str:
    name, brace, labels = sample.partition("{")
    if 'broker="' in labels:  # a client's own label: two of one name are no metric
        return sample
    own = label_set(("broker", broker))
    return f"{name}{own}" if not brace else f"{name}{own[:-1]},{labels}"


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdecimal() else float(text)
