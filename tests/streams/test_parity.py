"""The same topologies and inputs in Java's TopologyTestDriver and in ours: outputs are equal, record by record.

Keys, values, timestamps and headers are compared as bytes, of every topic that is written, repartition and changelog
topics included; and the text that describes the topology. What Java said is kept in parity/results.json.gz (see
parity/oracle.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.streams.parity.oracle import java_results, kept_results
from tests.streams.parity.topologies import build, topologies

from ottla.streams.context import Output
from ottla.streams.times import is_times

#: Where a node has two ways to the same child, the order of names in Java's text follows from a hash table.
UNORDERED = {"merge_with_itself"}
ALL = {topology["name"]: topology for topology in topologies()}


@pytest.fixture(scope="module")
def java() -> dict[str, Any]:
    return kept_results()


def ours(topology: dict[str, Any]) -> dict[str, Any]:
    """Return what ours says, in the form of Parity.java's results."""
    app = build(topology["steps"])
    with app.test(at=0) as driver:
        for topic, key, *rest in topology["inputs"]:
            if topic == "$advance":
                driver.advance(key / 1000)
                continue
            value, timestamp, headers = rest
            pairs = tuple((name, text.encode()) for name, text in headers)
            data = Output(topic, None, _bytes(key), _bytes(value), timestamp, pairs)
            driver.pipe_raw(data)
        outputs = {
            topic: [_row(output) for output in found if not is_times(output)]
            for topic, found in driver.written().items()
        }
    return {"description": str(app.describe()), "outputs": {topic: rows for topic, rows in outputs.items() if rows}}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _row(output: Output) -> list[Any]:
    headers = [[name, None if value is None else value.hex()] for name, value in output.headers]
    return [_hex(output.key), _hex(output.value), output.timestamp, headers]


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


@pytest.mark.parametrize("name", ALL)
def test_outputs_equal_those_of_java(name: str, java: dict[str, Any]) -> None:
    found = ours(ALL[name])
    expected = java[name]["outputs"]

    assert sorted(found["outputs"]) == sorted(expected)
    for topic, rows in expected.items():
        assert found["outputs"][topic] == rows, topic


@pytest.mark.parametrize("name", ALL)
def test_description_equals_that_of_java(name: str, java: dict[str, Any]) -> None:
    if name in UNORDERED:
        pytest.skip("Java orders nodes of equal rank by their hashes here")
    assert str(build(ALL[name]["steps"]).describe()) == java[name]["description"]


def test_there_are_enough_topologies_and_they_put_out_something() -> None:
    assert len(ALL) >= 80
    assert sum(len(rows) for result in kept_results().values() for rows in result["outputs"].values()) > 5_000


@pytest.mark.streams_java
def test_java_still_says_what_is_kept() -> None:
    folder = Path(tempfile.gettempdir()) / "ottla-streams-parity"

    assert java_results(folder, list(ALL.values())) == kept_results()
