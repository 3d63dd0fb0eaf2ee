"""The same partition as other clients for the same key, and sticky partitions that spread."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path

import pytest
from tests.client.java import run_java

with warnings.catch_warnings():
    # It reads its schemas through importlib.resources.read_text, deprecated since Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner.default import murmur2 as kafka_python_murmur2

from ottla.client._core.appending import murmur2
from ottla.client._core.partitioner import TopicPartitioner, java_partition, librdkafka_partition


def random_keys(count: int, seed: int = 7) -> list[bytes]:
    dice = random.Random(seed)
    return [dice.randbytes(dice.choice([0, 1, 2, 3, 4, 5, 8, 16, 31, 300])) for _ in range(count)]


def test_the_hashes_of_kafkas_own_test() -> None:
    """UtilsTest.testMurmur2 of Apache Kafka."""
    expected = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    for key, number in expected.items():
        assert murmur2(key) == number & 0xFFFFFFFF


def test_keys_go_where_kafka_python_sends_them() -> None:
    for key in random_keys(100_000):
        assert murmur2(key) == kafka_python_murmur2(key) & 0xFFFFFFFF


@pytest.mark.kafka
def test_keys_go_where_the_java_client_sends_them(tmp_path: Path) -> None:
    """10^5 keys by Java's own partitioner."""
    keys = random_keys(100_000)
    source = tmp_path / "Partitions.java"
    source.write_text(
        "import java.nio.file.*; import java.util.*; import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;\n"
        "public class Partitions { public static void main(String[] a) throws Exception {\n"
        "  StringBuilder out = new StringBuilder();\n"
        "  for (String line : Files.readAllLines(Path.of(a[0])))\n"
        "    out.append(BuiltInPartitioner.partitionForKey(HexFormat.of().parseHex(line), 12)).append('\\n');\n"
        "  Files.writeString(Path.of(a[1]), out); } }\n"
    )
    (tmp_path / "keys").write_text("\n".join(key.hex() for key in keys) + "\n")
    run_java(source, str(tmp_path / "keys"), str(tmp_path / "partitions"))
    theirs = [int(line) for line in (tmp_path / "partitions").read_text().split()]
    assert theirs == [java_partition(key, 12) for key in keys]


def test_consistent_random_is_crc32_and_treats_an_empty_key_like_none() -> None:
    partitioner = TopicPartitioner("t", kind="consistent_random", random=random.Random(1))
    assert librdkafka_partition(b"a", 1000) == 0xE8B7BE43 % 1000
    assert partitioner.choose(b"a", 7) == librdkafka_partition(b"a", 7)
    assert partitioner.choose(b"", 7) == partitioner.choose(None, 7) == -1
    assert TopicPartitioner("t", kind=None, random=random.Random(1)).choose(b"", 7) == java_partition(b"", 7)


def test_without_a_key_short_queues_are_preferred() -> None:
    partitioner = TopicPartitioner("t", kind=None, random=random.Random(1))
    chosen = Counter(partitioner.move_on([0, 1, 2], [0, 4, 9]) for _ in range(10_000))
    assert chosen[0] > chosen[1] > chosen[2] > 0
    assert chosen[0] / chosen[2] == pytest.approx(10, rel=0.3)
    even = Counter(partitioner.move_on([0, 1, 2], None) for _ in range(9_000))
    assert min(even.values()) > 2_700


def test_round_robin_random_and_a_function() -> None:
    turn = TopicPartitioner("t", kind="round_robin", random=random.Random(1))
    assert sorted(turn.choose(b"k", 4) for _ in range(4)) == [0, 1, 2, 3]
    assert sorted(turn.choose(b"k", 4, [1, 3]) for _ in range(4)) == [1, 1, 3, 3], (
        "partitions without a leader get none"
    )
    assert sorted(turn.choose(b"k", 4, []) for _ in range(4)) == [0, 1, 2, 3]
    dice = TopicPartitioner("t", kind="random", random=random.Random(1))
    assert {dice.choose(b"k", 4) for _ in range(100)} == {0, 1, 2, 3}
    assert {dice.choose(b"k", 4, [0, 2]) for _ in range(100)} == {0, 2}
    function = TopicPartitioner("t", kind=lambda topic, key, count: len(key or b"") + count, random=random.Random(1))
    with pytest.raises(ValueError, match=r"answered 5 for topic 't', which has 4 partitions"):
        function.choose(b"k", 4)


def test_keys_are_ignored_when_told_so() -> None:
    assert TopicPartitioner("t", kind=None, random=random.Random(1), ignore_keys=True).choose(b"key", 7) == -1
