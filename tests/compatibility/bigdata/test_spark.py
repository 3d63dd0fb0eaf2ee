"""Spark Structured Streaming: windows over event time, checkpoints, an idempotent sink; Spark and the broker are killed.

The files of the sink hold each result once; the topic, which Spark serves at least once, holds no other results.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compatibility.bigdata import engines
from tests.compatibility.bigdata.jobs import Job
from tests.compatibility.bigdata.killing import BROKER_SETTINGS, run_round
from tests.compatibility.bigdata.readings import (
    PARTITIONS,
    SOURCE,
    TARGET,
    Key,
    Results,
    Value,
    complaints,
    computed,
    parsed,
)
from tests.compatibility.test_confluent import create_topic
from tests.support.broker_process import BrokerProcess

pytestmark = pytest.mark.bigdata

SEED = int(os.environ.get("OTTLA_BIGDATA_SEED", "1"))
PROGRAM = Path(__file__).parent / "spark_job.py"
JVM = {"JAVA_TOOL_OPTIONS": "-Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"}


def test_windows_are_exact_when_spark_and_the_broker_are_killed(tmp_path: Path) -> None:
    spark = engines.require(engines.SPARK)
    with BrokerProcess(BROKER_SETTINGS) as broker:
        create_topic(broker, SOURCE, PARTITIONS, retention_ms="-1")
        create_topic(broker, TARGET, PARTITIONS, retention_ms="-1")
        jars = ",".join(map(str, spark.jars))
        command = [str(spark.python), str(PROGRAM), broker.address, jars, str(tmp_path)]
        job = Job(lambda: command, tmp_path / "spark.log", {**JVM, "PYSPARK_PYTHON": str(spark.python)})
        results = Results(broker)
        batches = tmp_path / "batches"
        sender = run_round(broker, job, SEED, results, lambda: len(set(files_of(batches))))
        results.close()
    expected = computed(sender.sent)
    print(
        f"\nSpark: {len(sender.sent)} readings, {len(expected)} windows; in the topic {results.rows.total()} results, "
        f"{len(results.rows)} different; it ended by itself {job.gave_up} times"
    )
    assert not complaints(files_of(batches), expected)
    assert not complaints(set(results.rows), expected)


def files_of(batches: Path) -> Iterator[tuple[Key, Value]]:
    """The rows of all batches that were written to their end."""
    for done in sorted(batches.glob("*/_SUCCESS")):
        for file in sorted(done.parent.glob("part-*.json")):
            yield from map(parsed, file.read_text().splitlines())


def test_the_example_counts_as_a_plain_loop_does(tmp_path: Path) -> None:
    spark = engines.require(engines.SPARK)
    (packages,) = spark.python.parent.parent.glob("lib/python*/site-packages")
    program = Path(__file__).parents[3] / "examples" / "spark_flights.py"
    jars = ",".join(map(str, spark.jars))
    done = subprocess.run(
        [sys.executable, str(program), "--flights", "3000", "--jars", jars],
        cwd=tmp_path,
        env={**os.environ, **JVM, "PYTHONPATH": str(packages), "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 flights in 13 rows: as a plain loop counts them" in done.stdout
