"""Spark's program: windows of three lengths over event time. Spark's own Python runs it, not that of the tests.

    python spark_job.py BOOTSTRAP JARS DIRECTORY

Two queries, each with a checkpoint of its own. One writes each micro-batch to files under its number, over what an earlier
try left there: an idempotent sink, so each result is there once. The other writes to the target topic, at least once.
"""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

WINDOWS_S = (30, 60, 120)


def main(bootstrap: str, jars: str, directory: str) -> None:
    settings = {
        "spark.jars": jars,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
    }
    builder = SparkSession.builder.master("local[2]").appName("readings")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    kafka = {"kafka.bootstrap.servers": bootstrap, "subscribe": "readings", "startingOffsets": "earliest"}
    readings = (
        spark.readStream.format("kafka")
        .options(**kafka)
        .load()
        .select(
            f.from_json(f.col("value").cast("string"), "sensor STRING, event_ms BIGINT, value BIGINT").alias("reading")
        )
        .select("reading.*")
        .withColumn("at", f.timestamp_millis("event_ms"))
        .withWatermark("at", "300 seconds")
    )

    def windowed(seconds: int) -> DataFrame:
        return (
            readings.groupBy(f.window("at", f"{seconds} seconds"), "sensor")
            .agg(
                f.count("*").alias("n"),
                f.sum("value").alias("total"),
                f.min("value").alias("least"),
                f.max("value").alias("greatest"),
            )
            .withColumn("length_s", f.lit(seconds))
            .withColumn("start_ms", f.unix_millis(f.col("window.start")))
            .drop("window")
        )

    def write(batch: DataFrame, number: int) -> None:
        batch.write.mode("overwrite").json(f"{directory}/batches/{number}")

    windows = windowed(WINDOWS_S[0])
    for seconds in WINDOWS_S[1:]:
        windows = windows.unionByName(windowed(seconds))
    files = windows.writeStream.outputMode("append").option("checkpointLocation", f"{directory}/checkpoint-files")
    files.foreachBatch(write).start()
    rows = windows.select(f.col("sensor").alias("key"), f.to_json(f.struct("*")).alias("value"))
    topic = rows.writeStream.outputMode("append").option("checkpointLocation", f"{directory}/checkpoint-topic")
    topic.format("kafka").option("kafka.bootstrap.servers", bootstrap).option("topic", "windows").start()
    spark.streams.awaitAnyTermination()


if __name__ == "__main__":
    main(*sys.argv[1:])
