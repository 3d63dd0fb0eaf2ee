"""What the broker's port answers to HTTP, from facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html.parser import HTMLParser

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ottla.broker.http.broker_facts import BrokerFacts
from ottla.broker.http.coordinator_metrics import CoordinatorFacts
from ottla.broker.http.pages import (
    CommittedOffset,
    GroupFacts,
    Pages,
    PartitionFacts,
    byte_size,
    duration,
    front_page,
)
from ottla.observability.metrics import BrokerMetrics


class SampleFacts:
    """A broker with a few topics and one group; names are as hostile as Kafka and HTTP allow."""

    def __init__(self) -> None:
        self.broker = BrokerFacts(
            version="0.1.0",
            node_id=1,
            cluster_id="<b>cluster</b>",
            addresses=["localhost:9092"],
            data_dirs=["/data"],
            kernels="compiled",
        )
        self.metrics = BrokerMetrics()
        self.ready = True
        self.problem: str | None = None
        self.shortage: str | None = None
        self.takes_appends = True
        self.notices: list[str] = []
        self.uptime_seconds = 61.0
        self.known: dict[str, list[PartitionFacts]] = {
            "__consumer_offsets": [PartitionFacts(0, 1, (1,), (1,), 0, 3, 3, 300)],
            "orders": [
                PartitionFacts(0, 1, (1, 2), (1,), 10, 110, 120, 5_000_000, min_insync_replicas=2),
                PartitionFacts(1, -1, (2, 1), (), -1, -1, -1, -1),
            ],
        }
        self.members: dict[str, GroupFacts] = {
            'a"b\\c\n<script>': GroupFacts(
                'a"b\\c\n<script>',
                "classic",
                "Stable",
                2,
                [CommittedOffset("orders", 0, 100, 10, 1.5), CommittedOffset("orders", 1, 5, 0)],
            )
        }

    unreadable: str | None = None
    controller_id = 1

    def unreadable_partitions(self) -> Sequence[tuple[str, int, int]]:
        return [("orders", 3, 4096)] if self.unreadable else []

    def directories(self) -> Sequence[tuple[str, bool, bool]]:
        return [("/data", False, self.shortage is not None)]

    def replication(self) -> Iterable[tuple[str, str, str, float]]:
        return [("kafka_server_replicamanager_isrshrinkspersec", "counter", "Shrinks.", 2)]

    def replica_lags(self) -> Sequence[tuple[str, int, int, int]]:
        return [("orders", 1, 2, 17)]

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        return [("process_resident_memory_bytes", "Resident memory.", 38_000_000)]

    def warnings(self) -> Sequence[str]:
        return self.notices

    def coordinators(self) -> CoordinatorFacts:
        return CoordinatorFacts(
            groups={("classic", "Stable"): 2, ("consumer", "Reconciling"): 1, ("share", "Empty"): 3},
            offsets=7,
            group_partitions={"active": 49, "loading": 1},
            transactions={"Ongoing": 2, "CompleteCommit": 5},
            oldest_open_ms=1_500,
            markers_pending=1,
            ended={"commit": 9, "abort": 1},
        )

    def telemetry(self) -> Iterable[tuple[str, str, str, float]]:
        return [("kafka_server_client_metrics_instance_count", "gauge", "Clients.", 3)]

    def client_metrics(self) -> Iterable[bytes]:
        return [b"# HELP kafka_client_x X.\n# TYPE kafka_client_x gauge\nkafka_client_x 1\n"]

    def quotas(self) -> Iterable[bytes]:
        return []

    def brokers(self) -> Sequence[tuple[int, str]]:
        return [(1, "localhost:9092")]

    def topics(self) -> Sequence[str]:
        return sorted(self.known)

    def partitions(self, topic: str) -> Sequence[PartitionFacts]:
        return self.known.get(topic, [])

    def groups(self) -> Sequence[str]:
        return sorted(self.members)

    def group(self, group_id: str) -> GroupFacts | None:
        return self.members.get(group_id)


def text_of(facts: SampleFacts, path: str) -> str:
    response = Pages(facts).handle(path)
    body = response.body if isinstance(response.body, bytes) else b"".join(response.body)
    return body.decode()


def samples(facts: SampleFacts) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The page as Prometheus' own parser reads it."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text_of(facts, "/metrics")):
        assert family.documentation
        for sample in family.samples:
            # The parser appends _total to every counter, as OpenMetrics wants it; Prometheus itself does not.
            name = sample.name.removesuffix("_total") if family.type == "counter" else sample.name
            key = (name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def test_metrics_of_kafka_exporter() -> None:
    found = samples(SampleFacts())
    orders_0 = (("partition", "0"), ("topic", "orders"))
    orders_1 = (("partition", "1"), ("topic", "orders"))
    expected = {
        ("kafka_brokers", ()): 1,
        ("kafka_broker_info", (("address", "localhost:9092"), ("id", "1"))): 1,
        ("kafka_topic_partitions", (("topic", "orders"),)): 2,
        ("kafka_topic_partition_current_offset", orders_0): 110,
        ("kafka_topic_partition_oldest_offset", orders_0): 10,
        ("kafka_topic_partition_in_sync_replica", orders_0): 1,
        ("kafka_topic_partition_replicas", orders_0): 2,
        ("kafka_topic_partition_leader", orders_1): -1,
        ("kafka_topic_partition_leader_is_preferred", orders_0): 1,
        ("kafka_topic_partition_leader_is_preferred", orders_1): 0,
        ("kafka_topic_partition_under_replicated_partition", orders_0): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("kafka_topic_partition_current_offset", orders_1) not in found  # not led here: nothing is known


def test_metrics_of_groups_with_a_hostile_name() -> None:
    found = samples(SampleFacts())
    group = ("consumergroup", 'a"b\\c\n<script>')
    partition = (group, ("partition", "0"), ("topic", "orders"))
    expected = {
        ("kafka_consumergroup_current_offset", partition): 100,
        ("kafka_consumergroup_lag", partition): 10,
        ("kafka_consumergroup_group_lag_seconds", partition): 1.5,
        ("kafka_consumergroup_current_offset_sum", (group, ("topic", "orders"))): 105,
        ("kafka_consumergroup_lag_sum", (group, ("topic", "orders"))): 10,
        ("kafka_consumergroup_members", (group,)): 2,
        ("kafka_coordinator_group_groupmetadatamanager_numgroups", ()): 1,
        ("kafka_coordinator_group_groupmetadatamanager_numgroupsstable", ()): 1,
        ("kafka_coordinator_group_groupmetadatamanager_numgroupsempty", ()): 0,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_metrics_under_the_names_of_the_jmx_exporter() -> None:
    facts = SampleFacts()
    orders, other = facts.metrics.topic("orders"), facts.metrics.topic("other")
    orders.messages_in, other.messages_in = 7, 3
    produce = facts.metrics.request("Produce")
    for milliseconds in (1.0, 2.0, 400.0):
        produce.observe(milliseconds)
    produce.error("NOT_ENOUGH_REPLICAS")
    facts.metrics.network.connections_opened = 5
    facts.metrics.network.connections_closed = 2
    facts.metrics.loop_lag_ms.observe(0.2)
    found = samples(facts)
    expected = {
        ("kafka_server_brokertopicmetrics_messagesinpersec", (("topic", "orders"),)): 7,
        ("kafka_server_brokertopicmetrics_messagesinpersec", ()): 10,
        ("kafka_network_requestmetrics_requestspersec", (("request", "Produce"),)): 3,
        (
            "kafka_network_requestmetrics_errorspersec",
            (("error", "NOT_ENOUGH_REPLICAS"), ("request", "Produce")),
        ): 1,
        ("kafka_network_requestmetrics_totaltimems_count", (("request", "Produce"),)): 3,
        ("kafka_network_requestmetrics_totaltimems_sum", (("request", "Produce"),)): 403,
        ("ottla_request_duration_seconds_bucket", (("le", "0.0025"), ("request", "Produce"))): 2,
        ("ottla_request_duration_seconds_bucket", (("le", "+Inf"), ("request", "Produce"))): 3,
        ("kafka_server_socketservermetrics_connection_count", ()): 3,
        ("ottla_event_loop_lag_seconds_count", ()): 1,
        ("kafka_server_replicamanager_leadercount", ()): 2,
        ("kafka_server_replicamanager_partitioncount", ()): 3,
        ("kafka_server_replicamanager_underreplicatedpartitions", ()): 1,
        ("kafka_server_replicamanager_underminisrpartitioncount", ()): 1,
        ("kafka_server_replicamanager_atminisrpartitioncount", ()): 0,
        ("kafka_server_replicamanager_offlinereplicacount", ()): 1,
        (
            "kafka_server_fetcherlagmetrics_consumerlag",
            (("clientid", "ReplicaFetcherThread-0-2"), ("partition", "1"), ("topic", "orders")),
        ): 17,
        ("kafka_controller_kafkacontroller_offlinepartitionscount", ()): 1,
        ("kafka_cluster_partition_underminisr", (("partition", "0"), ("topic", "orders"))): 1,
        ("kafka_log_log_size", (("partition", "0"), ("topic", "orders"))): 5_000_000,
        ("process_resident_memory_bytes", ()): 38_000_000,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_a_broker_with_nothing_has_valid_metrics() -> None:
    facts = SampleFacts()
    facts.known.clear()
    facts.members.clear()
    assert samples(facts)["kafka_controller_kafkacontroller_globaltopiccount", ()] == 0


def test_many_partitions_are_rendered_in_steps() -> None:
    facts = SampleFacts()
    facts.known = {f"t{number}": [PartitionFacts(0, 1, (1,), (1,), 0, 1, 1, 1)] for number in range(500)}
    body = Pages(facts).handle("/metrics").body
    assert not isinstance(body, bytes)
    assert sum(not chunk for chunk in body) >= 500


@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_a_group_of_many_partitions_is_rendered_in_steps(path: str) -> None:
    """Each partition of a group costs a look at a log: a thousand of them in one step would hold up the loop for 30 ms."""
    facts = SampleFacts()
    looks: list[int] = []

    def offset(number: int) -> CommittedOffset:
        looks.append(number)
        return CommittedOffset("orders", number, 1, 0)

    def group(group_id: str) -> GroupFacts:
        return GroupFacts(group_id, "classic", "Empty", 0, (offset(number) for number in range(1_000)))

    facts.group = group  # type: ignore[method-assign]
    body = Pages(facts).handle(path).body
    assert not isinstance(body, bytes)
    most = before = 0
    for chunk in body:
        if not chunk:
            most, before = max(most, len(looks) - before), len(looks)
    assert len(looks) == 1_000
    assert most <= 100


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


def parsed(facts: SampleFacts) -> _Page:
    page = _Page()
    page.feed(text_of(facts, "/"))
    return page


def test_the_front_page_shows_broker_topics_and_groups() -> None:
    page = parsed(SampleFacts())
    for word in ("localhost:9092", "1 min 1 s", "orders", "5.0 MB", "Stable", "<b>cluster</b>", 'a"b\\c\n<script>'):
        assert word in page.words


def test_the_front_page_shows_types_of_groups_and_how_long_they_are_behind() -> None:
    facts = SampleFacts()
    facts.members["workers"] = GroupFacts(
        "workers", "share", "Stable", 3, [CommittedOffset("jobs", 0, 5, 7, 95.0), CommittedOffset("jobs", 1, 5, 2)]
    )
    html = text_of(facts, "/")
    assert (
        "<tr><td>workers</td><td>share</td><td>Stable</td><td class=n>3</td><td>jobs</td>"
        "<td class=n>9</td><td class=n>1 min 35 s</td></tr>"
    ) in html
    assert "<td>classic</td><td>Stable</td>" in html


def test_the_front_page_shows_what_to_look_at() -> None:
    facts = SampleFacts()
    facts.notices = ["topic <old> gets records that are too old"]
    assert '<p class="bad">topic &lt;old&gt; gets records that are too old</p>' in text_of(facts, "/")


def test_the_front_page_says_what_counts_as_a_record() -> None:
    assert "markers of transactions and what compaction has removed count as well" in parsed(SampleFacts()).words


def test_metrics_of_share_groups_have_names_of_their_own() -> None:
    facts = SampleFacts()
    facts.members["workers"] = GroupFacts(
        "workers", "share", "Stable", 3, [CommittedOffset("jobs", 0, 5, 7, 95.0), CommittedOffset("jobs", 1, 5, 2)]
    )
    found = samples(facts)
    group = ("sharegroup", "workers")
    labels = (("partition", "0"), group, ("topic", "jobs"))
    expected = {
        ("kafka_sharegroup_members", (group,)): 3,
        ("kafka_sharegroup_start_offset", labels): 5,
        ("kafka_sharegroup_lag", labels): 7,
        ("kafka_sharegroup_lag_sum", (group, ("topic", "jobs"))): 9,
        ("kafka_sharegroup_group_lag_seconds", labels): 95,
        ("ottla_group_info", (("group", "workers"), ("state", "Stable"), ("type", "share"))): 1,
        ("kafka_coordinator_group_groupmetadatamanager_numgroups", ()): 2,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("kafka_consumergroup_members", (("consumergroup", "workers"),)) not in found


def test_the_front_page_needs_nothing_from_elsewhere_and_changes_nothing() -> None:
    page = parsed(SampleFacts())
    assert not {"script", "img", "link", "form", "iframe"} & set(page.tags)
    assert page.links == ["/metrics", "/healthz", "/readyz"]


def test_the_front_page_of_an_empty_broker_says_how_to_begin() -> None:
    facts = SampleFacts()
    facts.known.clear()
    facts.members.clear()
    words = parsed(facts).words
    assert "kcat -b localhost:9092" in words
    assert "No group has been here" in words


def test_the_front_page_stays_small() -> None:
    facts = SampleFacts()
    facts.known = {f"topic-{number:05}": [] for number in range(10_000)}
    assert len(text_of(facts, "/")) < 100_000
    assert "9,700 more" in text_of(facts, "/")


@pytest.mark.parametrize(("ready", "status", "text"), [(True, 200, "ready\n"), (False, 503, "starting\n")])
def test_readyz(ready: bool, status: int, text: str) -> None:
    facts = SampleFacts()
    facts.ready = ready
    assert Pages(facts).handle("/readyz").status == status
    assert text_of(facts, "/readyz") == text


def test_healthz_names_what_is_broken() -> None:
    facts = SampleFacts()
    assert (Pages(facts).handle("/healthz").status, text_of(facts, "/healthz")) == (200, "ok\n")
    facts.problem = "log directory /data is offline: Input/output error"
    assert Pages(facts).handle("/healthz").status == 503
    assert text_of(facts, "/healthz") == "log directory /data is offline: Input/output error\n"


def test_other_paths_are_not_found() -> None:
    assert Pages(SampleFacts()).handle("/etc/passwd").status == 404


def test_words_for_people() -> None:
    assert [byte_size(size) for size in (0, 999, 1500, 38_000_000, 2_500_000_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "38 MB",
        "2.5 TB",
    ]
    assert [duration(seconds) for seconds in (5, 61, 7260, 90000)] == ["5 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]


def test_a_full_disk_is_seen_everywhere_but_is_no_reason_to_start_again() -> None:
    facts = SampleFacts()
    facts.shortage, facts.takes_appends = "log directory /data: no space is left", False
    pages = Pages(facts)
    ready = pages.handle("/readyz")
    assert (ready.status, ready.body) == (503, b"log directory /data: no space is left\n")
    assert pages.handle("/healthz").status == 200
    assert "no space is left" in text_of(facts, "/")
    assert samples(facts)["ottla_log_directory_full", (("logdirectory", "/data"),)] == 1
    facts.takes_appends = True  # another directory has room
    ready = pages.handle("/readyz")
    assert (ready.status, ready.body) == (200, b"ready, but log directory /data: no space is left\n")
    facts.shortage = None
    assert pages.handle("/readyz").body == b"ready\n"
    assert samples(facts)["ottla_log_directory_full", (("logdirectory", "/data"),)] == 0


def test_metrics_of_the_coordinators() -> None:
    found = samples(SampleFacts())
    groups, transactions = "kafka_server_group_coordinator_metrics_", "kafka_server_transaction_coordinator_metrics_"
    expected = {
        (groups + "group_count", (("protocol", "classic"),)): 2,
        (groups + "group_count", (("protocol", "consumer"),)): 1,
        (groups + "group_count", (("protocol", "streams"),)): 0,
        (groups + "consumer_group_count", (("state", "Reconciling"),)): 1,
        (groups + "consumer_group_count", (("state", "Stable"),)): 0,
        (groups + "share_group_count", (("state", "Empty"),)): 3,
        ("ottla_classic_group_count", (("state", "Stable"),)): 2,
        ("kafka_coordinator_group_groupmetadatamanager_numoffsets", ()): 7,
        (groups + "num_partitions", (("state", "active"),)): 49,
        (groups + "num_partitions", (("state", "loading"),)): 1,
        (transactions + "num_partitions", (("state", "active"),)): 0,
        ("ottla_transactional_ids", (("state", "Ongoing"),)): 2,
        ("ottla_transactional_ids", (("state", "PrepareAbort"),)): 0,
        ("ottla_transactions_open_seconds_max", ()): 1.5,
        ("ottla_transaction_markers_pending", ()): 1,
        ("ottla_transactions_ended", (("result", "commit"),)): 9,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_front_page_shows_brokers_the_controller_and_partitions_that_are_not_whole() -> None:
    facts = SampleFacts()
    page = b"".join(front_page(facts)).decode()
    assert "<h2>Brokers (1)</h2>" in page
    assert (
        '<td>1 (controller)</td><td>localhost:9092</td><td class=n>2</td><td class=n>3</td><td class="n bad">2</td>'
        in page
    )
    assert '<td>2</td><td><span class="bad">not registered</span></td><td class=n>0</td>' in page
    assert "<h2>Partitions that are not whole (2)</h2>" in page
    assert "<tr><td>orders-0</td><td>1</td><td>1, 2</td><td>1</td></tr>" in page
    assert '<tr><td>orders-1</td><td><span class="bad">none</span></td><td>2, 1</td><td></td></tr>' in page
    facts.controller_id = 7
    assert "There is no controller" in b"".join(front_page(facts)).decode()


def test_front_page_of_a_single_node_says_nothing_of_brokers() -> None:
    facts = SampleFacts()
    facts.known = {"t": [PartitionFacts(0, 1, (1,), (1,), 0, 1, 1, 1)]}
    page = b"".join(front_page(facts)).decode()
    assert "Brokers" not in page
    assert "not whole" not in page
