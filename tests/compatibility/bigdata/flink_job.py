"""Flink's program: windows of three lengths over event time, with checkpoints and the exactly-once sink (transactions).

    python flink_job.py BOOTSTRAP JARS DIRECTORY NAMING [CHECKPOINT]

Flink's own Python runs it, not that of the tests. CHECKPOINT is the directory of the checkpoint to go on from; NAMING how the
sink names its transactional ids, `incrementing` or `pooling`.
"""

from __future__ import annotations

import sys

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

WINDOWS_S = (30, 60, 120)

READINGS = """
CREATE TABLE readings (
  sensor STRING, event_ms BIGINT, `value` BIGINT,
  event_time AS TO_TIMESTAMP_LTZ(event_ms, 3), WATERMARK FOR event_time AS event_time - INTERVAL '300' SECOND(3)
) WITH (
  'connector' = 'kafka', 'topic' = 'readings', 'properties.bootstrap.servers' = '{bootstrap}',
  'properties.group.id' = 'flink', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
)"""

WINDOWS = """
CREATE TABLE windows (
  length_s INT, start_ms BIGINT, sensor STRING, n BIGINT, total BIGINT, least BIGINT, greatest BIGINT
) WITH (
  'connector' = 'kafka', 'topic' = 'windows', 'properties.bootstrap.servers' = '{bootstrap}', 'format' = 'json',
  'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'flink-windows',
  'sink.transaction-naming-strategy' = '{naming}', 'properties.transaction.timeout.ms' = '600000'
)"""

WINDOWED = """
SELECT {seconds}, UNIX_TIMESTAMP(DATE_FORMAT(window_start, 'yyyy-MM-dd HH:mm:ss')) * 1000, sensor,
  COUNT(*), SUM(`value`), MIN(`value`), MAX(`value`)
FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(event_time), INTERVAL '{seconds}' SECOND(3)))
GROUP BY window_start, window_end, sensor"""


def main(bootstrap: str, jars: str, directory: str, naming: str, checkpoint: str = "") -> None:
    settings = {
        "pipeline.jars": jars,
        "table.local-time-zone": "UTC",
        "parallelism.default": "2",
        "execution.checkpointing.interval": "2 s",
        "execution.checkpointing.dir": f"file://{directory}/checkpoints",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": "1000",
        "restart-strategy.fixed-delay.delay": "1 s",
        "taskmanager.memory.managed.size": "64 mb",
        "taskmanager.memory.network.max": "64 mb",
    }
    if checkpoint:
        settings["execution.state-recovery.path"] = f"file://{checkpoint}"
    configuration = Configuration()
    for key, value in settings.items():
        configuration.set_string(key, value)
    options = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    tables = TableEnvironment.create(options)
    tables.execute_sql(READINGS.format(bootstrap=bootstrap))
    tables.execute_sql(WINDOWS.format(bootstrap=bootstrap, naming=naming))
    selects = " UNION ALL ".join(WINDOWED.format(seconds=seconds) for seconds in WINDOWS_S)
    tables.execute_sql(f"INSERT INTO windows {selects}").wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
