"""Where a coordinator is found: Java's string hash, and Kafka's absolute value of it."""

from __future__ import annotations

import pytest

from ottla.types import coordinator_partition, java_hash


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("a", 97), ("group", 98_629_247), ("polygenelubricants", -(1 << 31)), ("\U0001f600", 1_772_899)],
)
def test_the_hash_is_javas(text: str, value: int) -> None:
    assert java_hash(text) == value


@pytest.mark.parametrize(
    ("group", "partition"),
    [("group-static-9", 34), ("group-simple-2", 17), ("polygenelubricants", 0), ("a", 47), ("group", 47)],
)
def test_a_groups_partition_is_the_one_that_kafka_gives_it(group: str, partition: int) -> None:
    """The first two have negative hashes; where Kafka 4.3.1 keeps them was read from its data directory."""
    assert coordinator_partition(group, 50) == partition
