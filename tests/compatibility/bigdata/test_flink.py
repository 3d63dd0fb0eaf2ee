"""Flink: windows over event time, checkpoints, the exactly-once sink (transactions); Flink and the broker are killed.

Readers of committed records see each result once, by both ways in which the sink names its transactional ids: by numbers that
a restart tries out (`incrementing`), and from a pool whose open transactions a restart asks the broker for (`pooling`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.compatibility.bigdata import engines
from tests.compatibility.bigdata.jobs import Job
from tests.compatibility.bigdata.killing import BROKER_SETTINGS, run_round
from tests.compatibility.bigdata.readings import PARTITIONS, SOURCE, TARGET, Results, complaints, computed
from tests.compatibility.test_confluent import create_topic
from tests.support.broker_process import BrokerProcess

pytestmark = pytest.mark.bigdata

SEED = int(os.environ.get("OTTLA_BIGDATA_SEED", "1"))
PROGRAM = Path(__file__).parent / "flink_job.py"
JVM = {"JAVA_TOOL_OPTIONS": "-Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"}


@pytest.mark.parametrize("naming", ["incrementing", "pooling"])
def test_windows_are_exact_when_flink_and_the_broker_are_killed(naming: str, tmp_path: Path) -> None:
    flink = engines.require(engines.FLINK)
    with BrokerProcess(BROKER_SETTINGS) as broker:
        create_topic(broker, SOURCE, PARTITIONS, retention_ms="-1")
        create_topic(broker, TARGET, PARTITIONS, retention_ms="-1")
        jars = ";".join(jar.as_uri() for jar in flink.jars)

        def command() -> list[str]:
            started = [str(flink.python), str(PROGRAM), broker.address, jars, str(tmp_path), naming]
            return [*started, *newest_checkpoint(tmp_path / "checkpoints")]

        job = Job(command, tmp_path / "flink.log", JVM)
        results = Results(broker)
        sender = run_round(broker, job, SEED, results)
        results.close()
    expected = computed(sender.sent)
    print(
        f"\nFlink, {naming}: {len(sender.sent)} readings, {len(expected)} windows; committed in the topic "
        f"{results.rows.total()} results; it ended by itself {job.gave_up} times"
    )
    assert not complaints(results.rows.elements(), expected)


def newest_checkpoint(directory: Path) -> list[str]:
    """The last complete checkpoint, if there is one: each start of a job has a folder, which holds `chk-NUMBER`."""
    complete = sorted(directory.glob("*/chk-*/_metadata"), key=lambda path: path.stat().st_mtime_ns)
    return [str(path.parent) for path in complete[-1:]]
