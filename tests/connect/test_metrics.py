"""A worker's metrics, under Kafka's names."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.connect.test_rest import served, settings
from tests.connect.test_standalone import fill, sink, until
from tests.support.broker_process import RunningBroker

from ottla.connect.runtime.metrics import Row, page


def metrics(url: str) -> dict[str, float]:
    """Return the values of a page, by name and labels."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_a_page_has_kafkas_names() -> None:
    rows = [Row("connect-worker-metrics", "task-count", "Tasks.", 2)]
    counts = {("a", 0): {"source-record-poll-total": 7}, ("b", 1): {"sink-record-read-total": 3, "total-retries": 1}}
    text = page(rows, {"a": ["RUNNING"], "b": ["FAILED", "RUNNING"]}, counts).decode()
    assert (
        "# TYPE kafka_connect_connect_worker_metrics_task_count gauge\nkafka_connect_connect_worker_metrics_task_count 2\n"
        in text
    )
    assert 'kafka_connect_connect_worker_metrics_connector_total_task_count{connector="b"} 2\n' in text
    assert 'kafka_connect_connect_worker_metrics_connector_failed_task_count{connector="b"} 1\n' in text
    assert "# TYPE kafka_connect_source_task_metrics_source_record_poll_total counter" in text
    assert 'kafka_connect_source_task_metrics_source_record_poll_total{connector="a",task="0"} 7\n' in text
    assert 'kafka_connect_sink_task_metrics_sink_record_read_total{connector="a"' not in text
    assert 'kafka_connect_task_error_metrics_total_retries{connector="b",task="1"} 1\n' in text


def test_tasks_count_and_the_worker_shows_it(broker: RunningBroker, tmp_path: Path) -> None:
    """Four records, one of which does not convert, and goes to the dead letters; five made-up orders."""
    fill(broker, "counted", "1", "2", "bad", "4")
    to_file = sink("FileStreamSink", "counted", file=str(tmp_path / "out")) | {
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "errors.tolerance": "all",
        "errors.deadletterqueue.topic.name": "counted-dead",
        "errors.deadletterqueue.topic.replication.factor": "1",
    }
    orders = {"name": "made", "connector.class": "DatagenSource", "topic": "made", "rows.max": "5"} | {
        "rows.per.second": "1000",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    }
    at, of = f'{{connector="{to_file["name"]}",task="0"}}', '{connector="made",task="0"}'
    wanted = {
        "kafka_connect_connect_worker_metrics_task_count": 2,
        "kafka_connect_connect_worker_metrics_task_startup_success_total": 2,
        f"kafka_connect_sink_task_metrics_sink_record_read_total{at}": 4,
        f"kafka_connect_sink_task_metrics_sink_record_send_total{at}": 3,
        f"kafka_connect_sink_task_metrics_partition_count{at}": 1,
        f"kafka_connect_task_error_metrics_total_record_failures{at}": 1,
        f"kafka_connect_task_error_metrics_total_records_skipped{at}": 1,
        f"kafka_connect_task_error_metrics_deadletterqueue_produce_requests{at}": 1,
        f"kafka_connect_source_task_metrics_source_record_poll_total{of}": 5,
        f"kafka_connect_source_task_metrics_source_record_write_total{of}": 5,
        f"kafka_connect_source_task_metrics_source_record_active_count{of}": 0,
        'kafka_connect_connect_worker_metrics_connector_running_task_count{connector="made"}': 1,
    }
    with served(settings(broker, tmp_path), to_file, orders) as url:
        until(lambda: {name: metrics(url).get(name) for name in wanted} == wanted, "all that was counted")
