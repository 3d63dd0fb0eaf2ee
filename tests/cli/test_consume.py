"""`ottla consume`: which records, and how they are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from tests.cli.conftest import Run

from ottla import TopicPartition
from ottla.testing import Broker


@pytest.fixture(scope="module", autouse=True)
def orders(cluster: Broker) -> None:
    """Ten records in one partition, times 1,000 to 10,000 ms; and two partitions of another topic."""
    for number in range(1, 11):
        value = json.dumps({"amount": number, "who": "anna" if number % 2 else "bert"})
        cluster.produce("orders", [(f"k{number}", value)], timestamp=1_000 * number, headers={"n": b"%d" % number})
    cluster.create_topic("two", partitions=2)
    cluster.produce("two", ["a", "b"], partition=0)
    cluster.produce("two", ["c"], partition=1)


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ([], range(1, 11)),
        (["-o", "start"], range(1, 11)),
        (["-o", "end"], []),
        (["-o", "7"], range(8, 11)),
        (["-o", "-2"], [9, 10]),
        (["-o", "-99"], range(1, 11)),
        (["-o", "@9000"], [9, 10]),
        (["-o", "s@4000", "-o", "e@6000"], [4, 5]),
        (["-o", "@-1h"], []),
        (["-c", "3"], [1, 2, 3]),
        (["-c", "0"], []),
        (["--where", "value.amount > 8"], [9, 10]),
        (["--where", "value.who == 'bert' and offset < 4"], [2, 4]),
        (["--where", "headers.n == '3' or key.endswith('10')"], [3, 10]),
        (["--where", "not value.missing and partition in [0, 5]", "-c", "1"], [1]),
        (["--where", "value['amount'] * 2 == 10 and timestamp >= 5000"], [5]),
        (["--where", "len(key) == 3"], [10]),
        (["--where", "value.amount > 'text'"], []),
    ],
)
def test_records_are_chosen(ottla: Run, arguments: Sequence[str], keys: Sequence[int]) -> None:
    done = ottla("consume", "orders", "-e", "-f", "%k\\n", *arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == [f"k{number}" for number in keys]


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["-f", "%t|%p|%o|%k|%K|%S|%T|%h|%%\\n"], "orders|0|0|k1|2|28|1000|n=1|%\n"),
        (["-f", "%s\\x09\\t\\\\"], '{"amount": 1, "who": "anna"}\t\t\\'),
        ([], '{"amount": 1, "who": "anna"}\n'),
        (["-K", " => "], 'k1 => {"amount": 1, "who": "anna"}\n'),
        (["-D", ";"], '{"amount": 1, "who": "anna"};'),
        (
            ["-J"],
            '{"topic": "orders", "partition": 0, "offset": 0, "timestamp": 1000, "key": "k1", "value": {"amount": 1, '
            '"who": "anna"}, "headers": [["n", "1"]]}\n',
        ),
    ],
)
def test_records_are_printed(ottla: Run, arguments: Sequence[str], printed: str) -> None:
    assert ottla("consume", "orders", "-c", "1", *arguments).out == printed


def test_partitions_are_chosen(ottla: Run) -> None:
    assert sorted(ottla("consume", "two", "-e").out.split()) == ["a", "b", "c"]
    assert ottla("consume", "two", "-e", "-p", "1").out.split() == ["c"]


def test_what_is_no_text_stays_what_it_is(ottla: Run, cluster: Broker) -> None:
    cluster.produce("bytes", [b"\xff\x00", None, (b"k", b"")])
    assert ottla("consume", "bytes", "-e").out.encode("utf-8", "surrogateescape") == b"\xff\x00\n\n\n"
    assert ottla("consume", "bytes", "-e", "-Z", "-K:").out.endswith("NULL:NULL\nk:\n")
    first, second, third = map(json.loads, ottla("consume", "bytes", "-e", "-J").out.splitlines())
    assert first["value_base64"] == "/wA="
    assert (second["key"], second["value"]) == (None, None)
    assert third["value"] == ""


def test_where_a_group_is_can_be_read_without_joining_it(ottla: Run, cluster: Broker) -> None:
    cluster.admin.alter_group_offsets("readers", {TopicPartition("orders", 0): 8})
    done = ottla("consume", "orders", "-e", "-g", "readers", "--no-join", "-f", "%k\\n")
    assert done.out.split() == ["k9", "k10"]
    assert cluster.admin.list_group_offsets("readers")[TopicPartition("orders", 0)].offset == 8


def test_a_group_goes_on_where_it_was(ottla: Run, cluster: Broker) -> None:
    first = ottla("consume", "orders", "-g", "workers", "-c", "4", "-f", "%k\\n")
    assert (first.code, first.out.split()) == (0, ["k1", "k2", "k3", "k4"])
    second = ottla("consume", "orders", "-g", "workers", "-e", "-f", "%k\\n")
    assert second.out.split() == [f"k{number}" for number in range(5, 11)]
    assert cluster.admin.list_group_offsets("workers")[TopicPartition("orders", 0)].offset == 10
    assert sorted(ottla("consume", "two", "-g", "new", "-e").out.split()) == ["a", "b", "c"]


def test_joining_a_group_that_lives_asks_first(ottla: Run, cluster: Broker) -> None:
    import ottla as package

    with package.Consumer(cluster.bootstrap_servers, group_id="live", topics=["two"]) as consumer:
        consumer.poll(timeout=0.1)
        refused = ottla("consume", "two", "-g", "live", "-e")
        assert refused.code == 2
        assert "Group live has 1 members. Join it" in refused.err
        assert ottla("consume", "two", "-g", "live", "--no-join", "-e").code == 0


def test_aborted_records_are_left_out_on_request(ottla: Run, cluster: Broker) -> None:
    import ottla as package

    with package.Producer(cluster.bootstrap_servers, transactional_id="t") as producer:
        with producer.transaction() as transaction:
            transaction.send("mixed", b"gone").result(30)
            raise package.Abort
        with producer.transaction() as transaction:
            transaction.send("mixed", b"kept")
    assert ottla("consume", "mixed", "-e", "--committed").out == "kept\n"
    assert ottla("consume", "mixed", "-e").out == "gone\nkept\n"
    # Keys of consumers, one of them by librdkafka's name.
    keys = ("-X", "isolation.level=read_committed", "-X", "fetch.wait.max.ms=100")
    assert ottla("consume", "mixed", "-e", *keys).out == "kept\n"
    done = ottla("consume", "mixed", "-g", "committed", "-e", *keys)
    assert (done.code, done.out, done.err) == (0, "kept\n", "")


def test_mistakes_are_one_line(ottla: Run) -> None:
    for arguments, code, text in [
        (["orders", "-f", "%x"], 2, "%x means nothing in a format"),
        (["orders", "-o", "yesterday"], 2, "'yesterday' is no place in a log"),
        (["orders", "-o", "1", "-o", "2"], 2, "-o is given twice"),
        (["orders", "-o", "stored"], 2, "-o stored needs a group"),
        (["orders", "-f", "%s", "-J"], 2, "exclude each other"),
        (["orders", "-g", "g", "-p", "1"], 2, "-p and -g exclude each other"),
        (["orders", "-g", "g", "-o", "end"], 2, "-o and -g exclude each other"),
        (["orders", "-e", "--where", "value.amount >"], 2, "is no condition"),
        (["orders", "-e", "--where", "__import__('os')"], 2, "cannot be used"),
        (["orders", "-e", "--where", "amount > 3"], 2, "there is no 'amount' in a record"),
        (["orders", "-e", "-X", "linger.ms=5"], 2, "Unknown key 'linger.ms'"),
        (["none"], 1, "There is no topic 'none'."),
        (["two", "-e", "-p", "7"], 1, "has 2 partitions"),
    ]:
        done = ottla("consume", *arguments)
        assert (done.code, done.out) == (code, ""), arguments
        assert text in done.err
        assert done.err.count("\n") == 1
