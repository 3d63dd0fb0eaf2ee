"""ottla and Apache Kafka side by side, case by case: `make bench`, or `python -m benchmarks.compare --help`."""
