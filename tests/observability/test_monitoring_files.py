"""docs/monitoring: rules and dashboard are what tools/write_monitoring.py writes, and name metrics that a broker serves."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.cimpl import TopicPartition as Place
from tests.broker.http.test_pages import SampleFacts
from tests.support.broker_process import BrokerProcess

from ottla.broker.http.metrics_page import metrics_page

ROOT = Path(__file__).parents[2]
WRITER = runpy.run_path(str(ROOT / "tools" / "write_monitoring.py"))
METRIC = re.compile(r"\b(?:kafka|ottla|process)_[a-z0-9_]+")


def _commit(consumer: Consumer) -> None:
    """Commit, once the broker coordinates the topic of offsets that this client's question has made."""
    deadline = time.monotonic() + 30
    while True:
        try:
            consumer.commit(offsets=[Place("t", 0, 0)], asynchronous=False)
            return
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_COORDINATOR or time.monotonic() > deadline:
                raise


@pytest.fixture(scope="module")
def served() -> str:
    """/metrics of a broker with a topic and a group."""
    with BrokerProcess() as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        admin.create_topics([NewTopic("t", 1)])["t"].result(30)
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "g"})
        _commit(consumer)
        consumer.close()
        with urllib.request.urlopen(f"http://{broker.address}/metrics") as page:
            text: str = page.read().decode()
    return text


def test_the_files_are_what_the_tables_say() -> None:
    for path, text in WRITER["files"]().items():
        assert path.read_text() == text, f"{path} is out of date: python tools/write_monitoring.py"


def test_each_metric_that_rules_and_panels_name_is_served(served: str) -> None:
    names = set(re.findall(r"^# TYPE (\S+)", served, re.MULTILINE))
    facts = SampleFacts()  # errors are shown as soon as there is one
    facts.metrics.request("Fetch").error("UNKNOWN_SERVER_ERROR")
    page = b"".join(metrics_page(facts)).decode()
    names |= set(re.findall(r"^# TYPE (kafka_network_requestmetrics_errorspersec)", page, re.MULTILINE))
    names |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\S+) histogram", served, re.MULTILINE)}
    asked = {name for expression in WRITER["expressions"]() for name in METRIC.findall(expression)}
    assert len(asked) > 30
    assert asked - names == set()


def test_labels_that_expressions_group_by_are_there(served: str) -> None:
    """`instance` and `job` come from Prometheus, `le` from histograms."""
    for expression in WRITER["expressions"]():
        for labels, metric in re.findall(r"by \(([a-z, ]+)\) \((?:rate\()?([a-z0-9_]+)", expression):
            samples = [line for line in served.splitlines() if line.startswith(f"{metric}{{")]
            for label in set(labels.split(", ")) - {"instance", "job", "le"}:
                if samples:
                    assert any(f'{label}="' in sample for sample in samples), (metric, label)


def test_expressions_are_whole() -> None:
    for expression in WRITER["expressions"]():
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), expression


def test_the_dashboard_is_json_with_panels_that_do_not_overlap() -> None:
    panels = json.loads((ROOT / "docs" / "monitoring" / "grafana-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_prometheus_takes_rules_and_expressions(tmp_path: Path) -> None:
    panels = [expression.replace("$__rate_interval", "5m") for expression in WRITER["expressions"]()]
    rules = [{"record": f"ottla:{number}", "expr": expression} for number, expression in enumerate(panels)]
    recorded = tmp_path / "panels.yml"
    recorded.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    for path in (ROOT / "docs" / "monitoring" / "alerts.yml", recorded):
        done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
