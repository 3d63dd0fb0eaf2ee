"""Writes docs/monitoring: alert rules for Prometheus and a dashboard for Grafana, from the tables below.

python tools/write_monitoring.py          write the files
python tools/write_monitoring.py --check  end with 1 if they are not what would be written
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ottla.cli.output import yaml_lines

FOLDER = Path(__file__).parents[1] / "docs" / "monitoring"


class Alert(NamedTuple):
    """A rule: when it fires, for how long that has to last, what it says and what to do."""

    name: str
    expr: str
    for_: str
    severity: str
    summary: str
    description: str


REPLICAS, CONTROLLER = "kafka_server_replicamanager", "kafka_controller_kafkacontroller"

ALERTS = (
    Alert(
        "OttlaBrokerDown", 'up{job="ottla"} == 0', "1m", "critical", "Broker {{ $labels.instance }} does not answer.",
        "Its partitions are led by others where they have replicas. Start it again; its log says why it stopped.",
    ),
    Alert(
        "OttlaOfflinePartitions", f"max({CONTROLLER}_offlinepartitionscount) > 0", "1m", "critical",
        "{{ $value }} partitions have no leader: they can be neither written nor read.",
        "`ottla cluster status` names them. Start the brokers that hold them.",
    ),
    Alert(
        "OttlaBelowMinIsr", f"sum({REPLICAS}_underminisrpartitioncount) > 0", "1m", "critical",
        "{{ $value }} partitions refuse producers with acks=all: fewer replicas are in sync than min.insync.replicas.",
        "Start the brokers that are away, or look why they do not keep up.",
    ),
    Alert(
        "OttlaNoController", f"sum({CONTROLLER}_activecontrollercount) != 1", "2m", "critical",
        "{{ $value }} brokers believe that they are the controller; it should be one.",
        "Without one nothing is elected. Look at ZooKeeper, and at ottla_tree_session_connected.",
    ),
    Alert(
        "OttlaUncleanElection", "increase(kafka_controller_controllerstats_uncleanleaderelectionspersec[5m]) > 0", "0m",
        "critical", "A leader was elected that may lack acknowledged records.",
        "The controller's log names the partition. Compare what depends on it.",
    ),
    Alert(
        "OttlaReplicaRefusesToFollow", "ottla_replicas_refusing_to_follow > 0", "1m", "critical",
        "{{ $value }} replicas on {{ $labels.instance }} would have to give up committed records, and are offline.",
        "An operator has to decide: the broker's log says what.",
    ),
    Alert(
        "OttlaLogDirectoryOffline", "kafka_log_logmanager_offlinelogdirectorycount > 0", "0m", "critical",
        "The disk of a log directory of {{ $labels.instance }} has failed.",
        "Its partitions are led elsewhere where they have replicas. Replace the disk, and restart the broker.",
    ),
    Alert(
        "OttlaLogDirectoryFull", "ottla_log_directory_full > 0", "1m", "critical",
        "A log directory of {{ $labels.instance }} is full: appends to it are refused.",
        "Free space, shorten retention, or move partitions away (`ottla cluster rebalance`).",
    ),
    Alert(
        "OttlaUnreadable", "ottla_log_unreadable_partitions > 0", "1m", "warning",
        "A part of {{ $value }} partitions on {{ $labels.instance }} cannot be read.",
        "`ottla log check` says what is wrong; docs/damaged-logs.md says what to do.",
    ),
    Alert(
        "OttlaUnderReplicated", f"sum({REPLICAS}_underreplicatedpartitions) > 0", "10m", "warning",
        "{{ $value }} partitions have a replica out of sync for 10 minutes.",
        "`ottla cluster status` says which broker lags behind or is away.",
    ),
    Alert(
        "OttlaReplicaLag", "kafka_server_replicafetchermanager_maxlag > 100000", "10m", "warning",
        "Broker {{ $labels.instance }} is {{ $value }} records behind a leader.",
        "Its disk or its network is slower than what is written.",
    ),
    Alert(
        "OttlaIsrFlaps", f"increase({REPLICAS}_isrshrinkspersec[15m]) > 5", "0m", "warning",
        "ISRs led by {{ $labels.instance }} have lost a member {{ $value }} times in 15 minutes.",
        "A broker keeps falling behind replica.lag.time.max.ms, or its session keeps ending.",
    ),
    Alert(
        "OttlaTreeDisconnected", "ottla_tree_session_connected == 0", "1m", "critical",
        "{{ $labels.instance }} has no connection to ZooKeeper (or to its supervisor).",
        "It serves what it knows; leaders, topics and settings cannot change. Look at the ensemble.",
    ),
    Alert(
        "OttlaSessionsExpire", "increase(kafka_server_sessionexpirelistener_zookeeperexpirespersec[15m]) > 0", "0m",
        "warning", "A session of {{ $labels.instance }} with the coordination tree has ended.",
        "It hung or was cut off for longer than zookeeper.session.timeout.ms: load, swap, network.",
    ),
    Alert(
        "OttlaLoopLate", "histogram_quantile(0.99, rate(ottla_event_loop_lag_seconds_bucket[5m])) > 0.5", "5m", "warning",
        "The event loop of {{ $labels.instance }} is late by more than half a second.", "The processor is overloaded.",
    ),
    Alert(
        "OttlaFewDescriptors", "process_open_fds / process_max_fds > 0.8", "5m", "warning",
        "{{ $labels.instance }} has used {{ $value | humanizePercentage }} of its open files.", "Raise the limit (nofile).",
    ),
    Alert(
        "OttlaGroupBehind", "max by (consumergroup, topic) (kafka_consumergroup_group_lag_seconds) > 300", "5m", "warning",
        "Group {{ $labels.consumergroup }} reads {{ $labels.topic }} {{ $value }} s late.",
        "`ottla lag` says which partitions; docs/metrics.md what the seconds mean.",
    ),
)  # fmt: skip


class Panel(NamedTuple):
    """A picture: its expressions with their legends, the unit, how it is shown."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"


RATE = "[$__rate_interval]"
MESSAGES = "kafka_server_brokertopicmetrics"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Health", (
        Panel("Brokers", (("max(kafka_brokers)", "brokers"),), kind="stat"),
        Panel("Without a leader", ((f"max({CONTROLLER}_offlinepartitionscount)", "partitions"),), kind="stat"),
        Panel("Refuse acks=all", ((f"sum({REPLICAS}_underminisrpartitioncount)", "partitions"),), kind="stat"),
        Panel("Under-replicated", ((f"sum({REPLICAS}_underreplicatedpartitions)", "partitions"),), kind="stat"),
        Panel("Controllers", ((f"sum({CONTROLLER}_activecontrollercount)", "controllers"),), kind="stat"),
        Panel("Sessions with the tree", (("min(ottla_tree_session_connected)", "connected"),), kind="stat"),
    )),
    ("Traffic", (
        Panel("Records in", ((f'sum by (topic) (rate({MESSAGES}_messagesinpersec{{topic!=""}}{RATE}))', "{{topic}}"),)),
        Panel("Bytes in", ((f'sum by (topic) (rate({MESSAGES}_bytesinpersec{{topic!=""}}{RATE}))', "{{topic}}"),), "Bps"),
        Panel("Bytes out", ((f'sum by (topic) (rate({MESSAGES}_bytesoutpersec{{topic!=""}}{RATE}))', "{{topic}}"),), "Bps"),
        Panel("Requests", ((f"sum by (request) (rate(kafka_network_requestmetrics_requestspersec{RATE}))", "{{request}}"),)),
        Panel("Errors", ((f"sum by (error) (rate(kafka_network_requestmetrics_errorspersec{RATE}))", "{{error}}"),)),
        Panel("Produce, 99 of 100 within", ((
            "histogram_quantile(0.99, sum by (le, instance) "
            f'(rate(ottla_request_duration_seconds_bucket{{request="Produce"}}{RATE})))',
            "{{instance}}"),), "s"),
    )),
    ("Replication", (
        Panel("Leaders", ((f"{REPLICAS}_leadercount", "{{instance}}"),)),
        Panel("Partitions", ((f"{REPLICAS}_partitioncount", "{{instance}}"),)),
        Panel("Behind the leader, records", (("kafka_server_replicafetchermanager_maxlag", "{{instance}}"),)),
        Panel("ISR changes", ((f"rate({REPLICAS}_isrshrinkspersec{RATE})", "shrinks {{instance}}"),
                              (f"rate({REPLICAS}_isrexpandspersec{RATE})", "grows {{instance}}"))),
        Panel("Elections", ((f"increase(kafka_controller_controllerstats_leaderelectionrateandtimems_count{RATE})", "all"),
                            (f"increase(kafka_controller_controllerstats_uncleanleaderelectionspersec{RATE})", "unclean"))),
        Panel("Being reassigned", ((f"sum({REPLICAS}_reassigningpartitions)", "partitions"),)),
    )),
    ("Groups", (
        Panel("Lag, seconds", (("max by (consumergroup, topic) (kafka_consumergroup_group_lag_seconds)",
                                "{{consumergroup}} {{topic}}"),), "s"),
        Panel("Lag, records", (("sum by (consumergroup, topic) (kafka_consumergroup_lag)", "{{consumergroup}} {{topic}}"),)),
    )),
    ("Machine", (
        Panel("Processor", ((f"rate(ottla_process_cpu_seconds{RATE})", "{{instance}}"),), "percentunit"),
        Panel("Memory", (("process_resident_memory_bytes", "{{instance}}"),), "bytes"),
        Panel("Log sizes", (("sum by (instance) (kafka_log_log_size)", "{{instance}}"),), "bytes"),
        Panel("Open files", (("process_open_fds", "{{instance}}"),)),
        Panel("Connections", (("kafka_server_socketservermetrics_connection_count", "{{instance}}"),)),
        Panel("Event loop late by", ((f"histogram_quantile(0.99, rate(ottla_event_loop_lag_seconds_bucket{RATE}))",
                                      "{{instance}}"),), "s"),
    )),
)  # fmt: skip


def alerts() -> str:
    """Return the rules as YAML."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.for_,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.description},
        }
        for alert in ALERTS
    ]
    head = "# Written by tools/write_monitoring.py. The brokers' job is called ottla; see docs/metrics.md.\n"
    return head + "\n".join(yaml_lines({"groups": [{"name": "ottla", "rules": rules}]})) + "\n"


def dashboard() -> str:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "collapsed": False, "panels": []}
        )
        top += 1
        width, height = (4, 4) if row[0].kind == "stat" else (8, 8)
        for number, panel in enumerate(row):
            x, y = number * width % 24, top + number * width // 24 * height
            panels.append(_panel(panel, len(panels) + 1, {"h": height, "w": width, "x": x, "y": y}))
        top += -(-len(row) * width // 24) * height
    source = {"name": "DS_PROMETHEUS", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    whole = {
        "uid": "ottla",
        "title": "ottla",
        "tags": ["kafka", "ottla"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "datasource": source, "expr": expr, "legendFormat": legend}
            for n, (expr, legend) in enumerate(panel.queries)
        ],
    }


def expressions() -> list[str]:
    """Return every expression of rules and panels."""
    panels = [expr for _, row in ROWS for panel in row for expr, _ in panel.queries]
    return [alert.expr for alert in ALERTS] + panels


def files() -> dict[Path, str]:
    """Return what is to be written."""
    return {FOLDER / "alerts.yml": alerts(), FOLDER / "grafana-dashboard.json": dashboard()}


def main() -> int:
    """Write the files, or check them."""
    if "--check" in sys.argv:
        return int(any(not path.exists() or path.read_text() != text for path, text in files().items()))
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
