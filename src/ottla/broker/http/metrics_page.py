"""`/metrics`: the broker's facts under the names people's dashboards already use.

kafka_exporter's names (Grafana dashboard 7589), the JMX exporter's of Confluent's Kafka dashboard, and a few of our own
(`ottla_`). Decides text from facts; walks over topics once, one topic per step, because a scrape of 10,000 partitions is
a tenth of a second of work that must not hold the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ottla.broker.http.coordinator_metrics import coordinator_metrics
from ottla.observability.exposition import Family, label_set

if TYPE_CHECKING:
    from ottla.broker.http.pages import Facts, GroupFacts

STATES = ("Stable", "Empty", "Dead", "PreparingRebalance", "CompletingRebalance")
OFFSETS_PER_STEP = 100
"""Partitions of a group per step: with a look at the log of each, some 3 ms."""
QUANTILES = (0.5, 0.75, 0.95, 0.99, 0.999)


def metrics_page(facts: Facts) -> Iterator[bytes]:
    """The whole page, in steps."""
    yield from _broker(facts)
    yield from _partitions(facts)
    yield from _groups(facts)
    yield from coordinator_metrics(facts.coordinators())
    yield b""
    yield from _topic_counters(facts)
    yield from _requests(facts)
    yield from _network(facts)
    for name, kind, text, value in facts.telemetry():
        yield _single(name, kind, text, value)
    yield from facts.client_metrics()
    yield from facts.quotas()


def _single(name: str, kind: str, text: str, value: float) -> bytes:
    family = Family(name, kind, text)
    family.add(value)
    return family.render()


def _broker(facts: Facts) -> Iterator[bytes]:
    broker = facts.broker
    brokers = facts.brokers()
    yield _single("kafka_brokers", "gauge", "Number of live brokers.", len(brokers))
    info = Family("kafka_broker_info", "gauge", "Live brokers with their addresses.")
    for node_id, address in brokers:
        info.add(1, label_set(("address", address), ("id", str(node_id))))
    yield info.render()
    build = Family("ottla_build_info", "gauge", "Version of this broker and its record kernels.")
    build.add(1, label_set(("version", broker.version), ("kernels", broker.kernels)))
    yield build.render()
    yield _single(
        "ottla_uptime_seconds", "gauge", "Time since this broker became ready.", round(facts.uptime_seconds, 3)
    )
    for name, text, value in facts.gauges():
        yield _single(name, "gauge", text, value)
    directories = facts.directories()
    manager = "kafka_log_logmanager_"
    offline = Family(manager + "logdirectoryoffline", "gauge", "1 if the disk of a log directory has failed.")
    full = Family("ottla_log_directory_full", "gauge", "1 if appends to a log directory are refused: no space is left.")
    for path, is_offline, is_full in directories:
        offline.add(int(is_offline), label_set(("logdirectory", path)))
        full.add(int(is_full), label_set(("logdirectory", path)))
    yield offline.render()
    yield full.render()
    unreadable = Family(
        "ottla_log_unreadable_bytes", "gauge", "Bytes of the partition's log that cannot be read; -1: none of it can."
    )
    partitions = facts.unreadable_partitions()
    for topic, index, size in partitions:
        unreadable.add(size, label_set(("partition", str(index)), ("topic", topic)))
    yield unreadable.render()
    yield _single(
        "ottla_log_unreadable_partitions", "gauge", "Partitions of which a part cannot be read.", len(partitions)
    )
    count = sum(is_offline for _, is_offline, _ in directories)
    yield _single(manager + "offlinelogdirectorycount", "gauge", "Log directories whose disk has failed.", count)
    lag = Family("ottla_event_loop_lag_seconds", "histogram", "How late the event loop was, sampled once a second.")
    lag.add_histogram(facts.metrics.loop_lag_ms, scale=0.001)
    yield lag.render()


def _partitions(facts: Facts) -> Iterator[bytes]:
    prefix = "kafka_topic_partition_"
    count = Family("kafka_topic_partitions", "gauge", "Number of partitions of a topic.")
    current = Family(prefix + "current_offset", "gauge", "Offset up to which consumers can read.")
    oldest = Family(prefix + "oldest_offset", "gauge", "First offset of the log.")
    isr = Family(prefix + "in_sync_replica", "gauge", "Number of in-sync replicas.")
    leader = Family(prefix + "leader", "gauge", "Node id of the leader; -1 for none.")
    preferred = Family(prefix + "leader_is_preferred", "gauge", "1 if the leader is the preferred replica.")
    replicas = Family(prefix + "replicas", "gauge", "Number of replicas.")
    under = Family(prefix + "under_replicated_partition", "gauge", "1 if a replica is not in sync.")
    under_min = Family("kafka_cluster_partition_underminisr", "gauge", "1 if acks=all is refused: too few in sync.")
    size = Family("kafka_log_log_size", "gauge", "Bytes of the partition's log on this broker.")
    start = Family("kafka_log_log_logstartoffset", "gauge", "Log start offset.")
    end = Family("kafka_log_log_logendoffset", "gauge", "Log end offset.")
    here = facts.broker.node_id
    leaders = held = short = offline = imbalanced = total = below_min = at_min = away = 0
    topics = facts.topics()
    for topic in topics:
        partitions = facts.partitions(topic)
        count.add(len(partitions), label_set(("topic", topic)))
        total += len(partitions)
        for one in partitions:
            labels = label_set(("partition", str(one.partition)), ("topic", topic))
            lacking = len(one.isr) < len(one.replicas)
            needed = min(one.min_insync_replicas, len(one.replicas))
            at_home = bool(one.replicas) and one.leader == one.replicas[0]
            isr.add(len(one.isr), labels)
            leader.add(one.leader, labels)
            preferred.add(int(at_home), labels)
            replicas.add(len(one.replicas), labels)
            under.add(int(lacking), labels)
            under_min.add(int(len(one.isr) < needed), labels)
            if one.log_end_offset >= 0:
                current.add(one.high_watermark, labels)
                oldest.add(one.log_start_offset, labels)
                start.add(one.log_start_offset, labels)
                end.add(one.log_end_offset, labels)
                size.add(one.size, labels)
            leaders += one.leader == here
            held += here in one.replicas
            short += lacking and one.leader == here
            below_min += one.leader == here and len(one.isr) < needed
            at_min += one.leader == here and len(one.isr) == needed < len(one.replicas)
            away += here in one.replicas and one.log_end_offset < 0
            offline += one.leader < 0
            imbalanced += not at_home
        yield b""
    for family in (count, current, oldest, isr, leader, preferred, replicas, under, under_min, size, start, end):
        yield family.render()
        yield b""
    manager, controller = "kafka_server_replicamanager_", "kafka_controller_kafkacontroller_"
    for name, text, value in (
        (manager + "leadercount", "Partitions led by this broker.", leaders),
        (manager + "partitioncount", "Partitions this broker has a replica of.", held),
        (manager + "underreplicatedpartitions", "Partitions led here with a replica out of sync.", short),
        (manager + "underminisrpartitioncount", "Partitions led here that refuse acks=all.", below_min),
        (manager + "atminisrpartitioncount", "Partitions led here that can spare no further replica.", at_min),
        (manager + "offlinereplicacount", "Replicas here whose log is not open.", away),
        (controller + "globaltopiccount", "Topics of the cluster.", len(topics)),
        (controller + "globalpartitioncount", "Partitions of the cluster.", total),
        (controller + "offlinepartitionscount", "Partitions without a leader.", offline),
        (controller + "preferredreplicaimbalancecount", "Partitions not led by their preferred replica.", imbalanced),
    ):
        yield _single(name, "gauge", text, value)
    for name, kind, text, number in facts.replication():
        yield _single(name, kind, text, number)
    lags = Family(
        "kafka_server_fetcherlagmetrics_consumerlag",
        "gauge",
        "Committed records that a replica here is behind its leader.",
    )
    for topic, index, led_by, lag in facts.replica_lags():
        named = (("clientid", f"ReplicaFetcherThread-0-{led_by}"), ("partition", str(index)), ("topic", topic))
        lags.add(lag, label_set(*named))
    yield lags.render()


class _GroupFamilies:
    """What is shown of groups that have offsets in partitions: under kafka_exporter's names, or the like for share groups."""

    def __init__(self, kind: str, label: str, offset: str, offset_text: str, lag_text: str) -> None:
        prefix = f"kafka_{kind}_"
        self._label = label
        self.current = Family(f"{prefix}{offset}", "gauge", f"{offset_text} in a partition.")
        self.current_sum = Family(f"{prefix}{offset}_sum", "gauge", f"{offset_text} in a topic, summed.")
        self.lag = Family(prefix + "lag", "gauge", f"{lag_text} in a partition.")
        self.lag_sum = Family(prefix + "lag_sum", "gauge", f"{lag_text} in a topic.")
        age_text = "Age of the first record that counts in the lag, by its timestamp; 0 without lag."
        self.lag_seconds = Family(prefix + "group_lag_seconds", "gauge", age_text)
        self.members = Family(prefix + "members", "gauge", "Members of a group.")

    def add(self, group: GroupFacts) -> Iterator[bytes]:
        """Take a group in, in steps."""
        named = (self._label, group.group_id)
        self.members.add(group.members, label_set(named))
        sums: dict[str, list[int]] = {}
        for number, committed in enumerate(group.offsets, start=1):
            if number % OFFSETS_PER_STEP == 0:
                yield b""
            labels = label_set(named, ("partition", str(committed.partition)), ("topic", committed.topic))
            self.current.add(committed.offset, labels)
            self.lag.add(committed.lag, labels)
            if committed.lag_seconds is not None:
                self.lag_seconds.add(round(committed.lag_seconds, 3), labels)
            entry = sums.setdefault(committed.topic, [0, 0])
            entry[0] += committed.offset
            entry[1] += committed.lag
        for topic, (offset, behind) in sums.items():
            labels = label_set(named, ("topic", topic))
            self.current_sum.add(offset, labels)
            self.lag_sum.add(behind, labels)

    def render(self) -> Iterator[bytes]:
        for family in (self.current, self.current_sum, self.lag, self.lag_sum, self.lag_seconds, self.members):
            yield family.render()
            yield b""


def _groups(facts: Facts) -> Iterator[bytes]:
    consumers = _GroupFamilies(
        "consumergroup",
        "consumergroup",
        "current_offset",
        "Committed offset of a group",
        "Records a group has yet to read",
    )
    shares = _GroupFamilies(
        "sharegroup",
        "sharegroup",
        "start_offset",
        "First offset that a share group has not finished",
        "Records a share group has not finished",
    )
    info = Family("ottla_group_info", "gauge", "Groups with type and state.")
    states = dict.fromkeys(STATES, 0)
    total = 0
    for group_id in facts.groups():
        group = facts.group(group_id)
        if group is None:
            continue
        total += 1
        states[group.state] = states.get(group.state, 0) + 1
        info.add(1, label_set(("group", group_id), ("state", group.state), ("type", group.group_type)))
        yield from (shares if group.group_type == "share" else consumers).add(group)
        yield b""
    yield from consumers.render()
    yield from shares.render()
    yield info.render()
    name = "kafka_coordinator_group_groupmetadatamanager_numgroups"
    yield _single(name, "gauge", "Groups coordinated by this broker.", total)
    for state in STATES:
        yield _single(name + state.lower(), "gauge", f"Groups in state {state}.", states[state])


TOPIC_COUNTERS = (
    ("messagesinpersec", "messages_in", "Records appended."),
    ("bytesinpersec", "bytes_in", "Bytes appended."),
    ("bytesoutpersec", "bytes_out", "Bytes read by consumers."),
    ("bytesrejectedpersec", "bytes_rejected", "Bytes of batches that were refused."),
    ("totalproducerequestspersec", "produce_requests", "Produce requests, counted per partition."),
    ("totalfetchrequestspersec", "fetch_requests", "Looks of fetch requests at a partition."),
    ("failedproducerequestspersec", "failed_produce_requests", "Produce requests refused, counted per partition."),
    (
        "failedfetchrequestspersec",
        "failed_fetch_requests",
        "Fetch requests that the disk failed, counted per partition.",
    ),
)


def _topic_counters(facts: Facts) -> Iterator[bytes]:
    """Counters: the JMX exporter shows Kafka's meters by their count, and dashboards take the rate of it."""
    topics = list(facts.metrics.topics.items())
    for name, attribute, text in TOPIC_COUNTERS:
        family = Family(f"kafka_server_brokertopicmetrics_{name}", "counter", text)
        total = 0
        for topic, counters in topics:
            value: int = getattr(counters, attribute)
            total += value
            family.add(value, label_set(("topic", topic)))
        family.add(total)
        yield family.render()
        yield b""


def _requests(facts: Facts) -> Iterator[bytes]:
    prefix = "kafka_network_requestmetrics_"
    requests = list(facts.metrics.requests.items())
    count = Family(prefix + "requestspersec", "counter", "Requests by API.")
    errors = Family(prefix + "errorspersec", "counter", "Error codes in answers, by API.")
    for name, request in requests:
        count.add(request.count, label_set(("request", name)))
        for error, number in request.errors.items():
            errors.add(number, label_set(("request", name), ("error", error)))
    yield count.render()
    yield errors.render()
    for stage, text in (
        ("total", "Time until the answer was ready."),
        ("local", "Time in the handler."),
        ("remote", "Time an answer waited, for those that wait."),
    ):
        summary = Family(f"{prefix}{stage}timems", "summary", f"{text} In milliseconds, since the start.")
        for name, request in requests:
            histogram = getattr(request, f"{stage}_ms")
            for quantile in QUANTILES:
                labels = label_set(("request", name), ("quantile", str(quantile)))
                summary.add(round(histogram.quantile(quantile), 3), labels)
            summary.add(round(histogram.sum, 3), label_set(("request", name)), "_sum")
            summary.add(histogram.count, label_set(("request", name)), "_count")
        yield summary.render()
        yield b""
    durations = Family("ottla_request_duration_seconds", "histogram", "Time until the answer was ready, by API.")
    for name, request in requests:
        durations.add_histogram(request.total_ms, (("request", name),), scale=0.001)
    yield durations.render()


def _network(facts: Facts) -> Iterator[bytes]:
    network = facts.metrics.network
    for name, kind, text, value in (
        (
            "kafka_server_socketservermetrics_connection_count",
            "gauge",
            "Open connections.",
            network.connections_opened - network.connections_closed,
        ),
        ("ottla_connections_opened_total", "counter", "Connections accepted.", network.connections_opened),
        ("ottla_connections_closed_total", "counter", "Connections ended.", network.connections_closed),
        ("ottla_connections_refused_total", "counter", "Connections over a limit.", network.connections_refused),
        ("ottla_tls_handshakes_failed_total", "counter", "TLS handshakes not finished.", network.handshakes_failed),
        ("ottla_logins_total", "counter", "Clients that logged in.", network.logins),
        ("ottla_logins_failed_total", "counter", "Logins that failed.", network.logins_failed),
        ("ottla_network_received_bytes_total", "counter", "Bytes received.", network.bytes_received),
        ("ottla_network_sent_bytes_total", "counter", "Bytes sent.", network.bytes_sent),
        ("ottla_frames_total", "counter", "Requests received.", network.requests),
    ):
        yield _single(name, kind, text, value)
