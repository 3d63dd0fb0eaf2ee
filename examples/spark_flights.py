"""Spark counts the flights of a topic by airport and day, into Parquet files.

    python examples/spark_flights.py                 # starts a broker of its own; the files are in ./spark-flights
    python examples/spark_flights.py --flights 100000 --directory /tmp/flights

Spark loads its connector for Kafka from Maven Central when it starts (`--jars` takes files instead). With `availableNow` it
reads what there is and ends; without it, it goes on. How far it has read is in its checkpoint: keep that beside the files
where the broker stays (here both are gone at the end). At the end the files are compared with a plain loop over the flights:
the exit code is 0 if they are equal, else 1.

The data are those of flights.py. Needs Java 17 or later, and: pip install ottla[demo] pyspark==4.3.0
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from datetime import UTC, datetime
from tempfile import TemporaryDirectory

from flights import Flight, own_broker, read_flights
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

import ottla

CONNECTOR = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"  # of 4.3 there is none
TOPIC = "spark-flights"


def send(servers: str, flights: list[Flight]) -> None:
    """Fill the topic: one record a flight, at the time at which it left."""
    with ottla.Admin(servers) as admin:
        admin.create_topic(TOPIC, partitions=4, configs={"retention.ms": "-1"})  # the flights are old
    with ottla.Producer(servers, value_serializer=ottla.serde.json(), compression_type="zstd") as producer:
        for flight in flights:
            producer.send(TOPIC, flight.event, key=flight.aircraft, timestamp=flight.time_ms)


def count(servers: str, directory: str, checkpoint: str, jars: str | None) -> Counter[tuple[str, str]]:
    """Let Spark count; return what its files say: flights of (day, airport)."""
    builder = SparkSession.builder.master("local[2]").appName("flights").config("spark.sql.session.timeZone", "UTC")
    builder = builder.config("spark.sql.shuffle.partitions", 2).config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    builder = builder.config("spark.jars", jars) if jars else builder.config("spark.jars.packages", CONNECTOR)
    spark = builder.getOrCreate()
    records = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", TOPIC)
        .option("startingOffsets", "earliest")
        .load()
    )
    flights = records.select(
        f.from_json(f.col("value").cast("string"), "`from` STRING, miles BIGINT").alias("flight"), "timestamp"
    )
    by_day = flights.groupBy(f.window("timestamp", "1 day").alias("day"), f.col("flight.from").alias("airport")).count()

    def write(batch: DataFrame, number: int) -> None:
        day = f.date_format("day.start", "yyyy-MM-dd").alias("day")
        batch.select(day, "airport", "count").write.mode("overwrite").parquet(f"{directory}/by-day")

    query = by_day.writeStream.outputMode("complete").option("checkpointLocation", checkpoint)
    query.trigger(availableNow=True).foreachBatch(write).start().awaitTermination()
    rows = spark.read.parquet(f"{directory}/by-day").collect()
    spark.stop()
    return Counter({(row["day"], row["airport"]): row["count"] for row in rows})


def main() -> int:
    """Run it; return 0 if the files hold what a plain loop counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--flights", type=int, default=20_000, help="how many, from the first on (default: %(default)s)"
    )
    parser.add_argument("--directory", default="spark-flights", help="of the files (default: %(default)s)")
    parser.add_argument("--jars", help="of the connector, with commas between; without it Spark loads them")
    options = parser.parse_args()
    flights = read_flights(options.flights)
    with own_broker("--log-level", "warning") as servers, TemporaryDirectory() as checkpoint:
        send(servers, flights)
        counts = count(servers, options.directory, checkpoint, options.jars)
    expected = Counter(
        (f"{datetime.fromtimestamp(each.time_ms / 1000, UTC):%Y-%m-%d}", each.event["from"]) for each in flights
    )
    for day, airport in sorted(counts)[:9]:
        print(f"{day}  {airport}  {counts[day, airport]:>5}")
    is_right = counts == expected
    print(f"{counts.total():,} flights in {len(counts)} rows: {'as a plain loop counts them' if is_right else 'WRONG'}")
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main())
