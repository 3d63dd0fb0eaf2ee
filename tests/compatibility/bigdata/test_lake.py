"""Folders that FilesSinkConnector writes are partitioned tables for Spark: by a field, and by time."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.compatibility.bigdata import engines
from tests.compatibility.bigdata.test_spark import JVM
from tests.connect.library.conftest import record, sink_task
from tests.connect.test_standalone import Running, until, worker_config
from tests.support.broker_process import RunningBroker
from tests.support.hdfs import Hdfs, program

import ottla
from ottla import TopicPartition
from ottla.connect import INT64, OPTIONAL_STRING, Schema, SinkRecord, Struct
from ottla.connect.library.files import FilesSinkConnector

pytestmark = pytest.mark.bigdata

PROGRAM = Path(__file__).parent / "lake_job.py"
ORDER = Schema.struct({"id": INT64, "shop": OPTIONAL_STRING}, name="order")
#: 2026-01-01 and the days after it.
FIRST_MS = 1_767_225_600_000
DAY_MS = 86_400_000


def order(offset: int, shop: str | None) -> SinkRecord:
    value = Struct(ORDER, id=offset, shop=shop)
    return record(offset, value, value_schema=ORDER, timestamp=FIRST_MS + offset % 3 * DAY_MS)


def written(folder: str, log: list[SinkRecord], settings: dict[str, str]) -> None:
    given = {"name": "lake", "store.url": folder, "flush.size": "10", "rotate.interval.ms": "600000"}
    task, _ = sink_task(FilesSinkConnector, given | settings, TopicPartition("orders", 0))
    task.put(log)
    assert task.pre_commit({TopicPartition("orders", 0): len(log)}) == {TopicPartition("orders", 0): len(log)}


def read(folder: str, condition: str, *columns: str) -> dict[str, Any]:
    """Return what Spark sees."""
    spark = engines.require(engines.SPARK)
    done = subprocess.run(
        [str(spark.python), str(PROGRAM), f"{folder}/topics/orders", condition, *columns],
        env={**os.environ, **JVM, "PYSPARK_PYTHON": str(spark.python)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return {name: json.loads(data) for name, _, data in lines if name in ("ROWS", "SOME", "IDS")}


def test_spark_reads_folders_of_a_field(tmp_path: Path) -> None:
    """Values with slashes, signs of equality, letters beyond ASCII and none at all are those of the records."""
    shops = ["a/b", "x=1 & 50%", "Zürich", "日本", None]
    log = [order(offset, shops[offset % 5]) for offset in range(60)]
    written(tmp_path.as_uri(), log, {"partitioner.class": "FieldPartitioner", "partition.field.name": "shop"})
    found = read(tmp_path.as_uri(), "shop = 'Zürich'", "shop")
    assert dict(found["ROWS"]) == {str(shop): 12 for shop in shops}
    assert found["SOME"] == [12]
    assert found["IDS"] == list(range(60))


def test_spark_reads_folders_of_times(tmp_path: Path) -> None:
    written(
        tmp_path.as_uri(), [order(offset, "a") for offset in range(60)], {"partitioner.class": "TimeBasedPartitioner"}
    )
    found = read(tmp_path.as_uri(), "day = 2", "year", "month", "day")
    assert found["ROWS"] == [["2026", "1", day, 20] for day in ("1", "2", "3")]
    assert found["SOME"] == [20]
    assert found["IDS"] == list(range(60))


def test_a_batch_job_on_hdfs_reads_what_a_topic_left_there(broker: RunningBroker, tmp_path: Path) -> None:
    """1. Records of a topic go to HDFS by a worker.  2. Spark reads the folders, by Hadoop's own protocol."""
    found, reason = program()
    if not found:
        pytest.skip(reason)
    with Hdfs() as hdfs:
        connector = hdfs.settings | {
            "name": "lake",
            "connector.class": "FilesSinkConnector",
            "topics": "orders",
            "flush.size": "10",
            "partitioner.class": "FieldPartitioner",
            "partition.field.name": "shop",
        }
        shops = ["a/b", "Zürich", None]
        with ottla.Producer(broker.address) as producer:
            for number in range(60):
                producer.send("orders", json.dumps({"id": number, "shop": shops[number % 3]}), partition=0)
        config = worker_config(broker, tmp_path) | {
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "false",
        }
        del config["plugin.modules"]
        with Running(config, connector):
            until(lambda: len(hdfs.files("topics/orders")) == 18, "all files")
        seen = read(f"{hdfs.rpc}/lake", "shop = 'Zürich'", "shop")
    assert dict(seen["ROWS"]) == {str(shop): 20 for shop in shops}
    assert seen["SOME"] == [20]
    assert seen["IDS"] == list(range(60))
