"""`ottla produce`: what lines, files and values become."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.conftest import Run

from ottla.cli.produce import split
from ottla.testing import Broker

_numbers = itertools.count()


def sent(cluster: Broker, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key_bytes, record.value_bytes) for record in cluster.topic(topic).records()]


def fresh() -> str:
    return f"topic-{next(_numbers)}"


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["-v", "hello"], b"", [(None, b"hello")]),
        (["-k", "user1", "-v", '{"a":1}'], b"", [(b"user1", b'{"a":1}')]),
        ([], b"one\ntwo\n\nthree", [(None, b"one"), (None, b"two"), (None, b""), (None, b"three")]),
        (["-K", ":"], b"k:v:w\nwithout\n", [(b"k", b"v:w"), (None, b"without")]),
        (["-K", ":", "-Z"], b"k:\n:v\n", [(b"k", None), (None, b"v")]),
        (["-D", "\\0"], b"a\nb\0c\0", [(None, b"a\nb"), (None, b"c")]),
        (["-c", "2"], b"1\n2\n3\n", [(None, b"1"), (None, b"2")]),
        (["-z", "zstd"], b"\xff\xfe\n", [(None, b"\xff\xfe")]),
    ],
)
def test_input_becomes_records(
    ottla: Run,
    cluster: Broker,
    arguments: Sequence[str],
    stdin: bytes,
    expected: list[tuple[bytes | None, bytes | None]],
) -> None:
    topic = fresh()
    done = ottla("produce", topic, *arguments, stdin=stdin)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"{len(expected)} record{'' if len(expected) == 1 else 's'} sent to {topic}\n"
    assert sent(cluster, topic) == expected


def test_a_file_is_one_record_or_its_lines(ottla: Run, cluster: Broker, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("a\nb\n")
    whole, lines = fresh(), fresh()
    assert ottla("produce", whole, str(file)).code == 0
    assert sent(cluster, whole) == [(None, b"a\nb\n")]
    assert ottla("produce", lines, "-l", str(file), str(file)).code == 0
    assert [value for _, value in sent(cluster, lines)] == [b"a", b"b", b"a", b"b"]


def test_headers_partition_and_tee(ottla: Run, cluster: Broker) -> None:
    topic = fresh()
    cluster.create_topic(topic, partitions=3)
    done = ottla("produce", topic, "-p", "2", "-H", "a=1", "-H", "b", "-T", "-v", "x")
    assert done.out == "x\n"
    (record,) = cluster.topic(topic).records()
    assert record.partition == 2
    assert list(record.headers.multi_items()) == [("a", b"1"), ("b", None)]


def test_what_consume_prints_as_json_can_be_sent_again(ottla: Run, cluster: Broker) -> None:
    topic, copy = fresh(), fresh()
    cluster.produce(topic, [("k", '{"a": [1, null]}'), (None, None), b"\xff", "text"], timestamp=1_000)
    cluster.produce(topic, [b"with headers"], headers={"h": b"1"})
    printed = ottla("consume", topic, "-e", "--json")
    assert ottla("produce", copy, "--json", stdin=printed.out.encode()).code == 0
    assert sent(cluster, copy) == sent(cluster, topic)
    first, *_, last = cluster.topic(copy).records()
    assert first.timestamp_ms == 1_000
    assert last.headers["h"] == b"1"


def test_bad_input_is_one_line(ottla: Run) -> None:
    topic = fresh()
    for arguments, stdin, code, text in [
        (["--json"], b"{}\nno json\n", 1, "line 2 is not what `ottla consume --json` prints"),
        (["--json"], b"[1]\n", 1, "it is no object"),
        (["/does/not/exist"], b"", 2, "does not exist"),
        (["--rate", "0"], b"a\n", 2, "a number above 0"),
        (["-p", "99", "-v", "x"], b"", 1, "99"),
    ]:
        done = ottla("produce", topic, *arguments, "-X", "max.block.ms=2000", stdin=stdin)
        assert done.code == code, (arguments, done)
        assert text in done.err
        assert "Traceback" not in done.err


def test_a_failed_delivery_is_told_and_exit_code_1(ottla: Run, cluster: Broker) -> None:
    topic = fresh()
    cluster.create_topic(topic)
    with cluster.fail("Produce", error="TOPIC_AUTHORIZATION_FAILED"):
        done = ottla("produce", topic, "-v", "x")
    assert done.code == 1
    assert "not delivered" in done.err


@given(parts=st.lists(st.binary(max_size=5)), delimiter=st.binary(min_size=1, max_size=3), size=st.integers(1, 7))
def test_pieces_are_found_however_the_bytes_come(parts: list[bytes], delimiter: bytes, size: int) -> None:
    data = delimiter.join(parts)

    class Pipe(io.BytesIO):
        def read1(self, _size: int | None = -1) -> bytes:
            return self.read(size)

    expected = data.split(delimiter)
    assert list(split(Pipe(data), delimiter)) == (expected if expected[-1] else expected[:-1])


def test_lines_of_json_keep_what_is_not_text(ottla: Run, cluster: Broker) -> None:
    topic = fresh()
    line = json.dumps({"key_base64": "/w==", "value": {"ä": 1}, "headers": [["n", None]]}).encode()
    assert ottla("produce", topic, "--json", stdin=line).code == 0
    (record,) = cluster.topic(topic).records()
    assert (record.key_bytes, record.value_bytes) == (b"\xff", '{"ä": 1}'.encode())
    assert record.headers["n"] is None
