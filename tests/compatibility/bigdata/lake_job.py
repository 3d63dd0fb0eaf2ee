"""A batch job of Spark: reads a folder of Parquet files as a table, prints its rows by partition as lines of JSON.

spark/bin/python lake_job.py FOLDER CONDITION COLUMN...
"""

import json
import sys

from pyspark.sql import SparkSession


def main(folder: str, condition: str, *columns: str) -> None:
    session = (
        SparkSession.builder.master("local[1]")
        .appName("lake")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    table = session.read.parquet(folder)
    rows = table.groupBy(*columns).count().orderBy(*columns).collect()
    print("ROWS", json.dumps([[*(str(row[name]) for name in columns), row["count"]] for row in rows]))
    print("SOME", json.dumps([table.where(condition).count()]))
    print("IDS", json.dumps(sorted(row["id"] for row in table.select("id").collect())))
    session.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
