"""The same topologies and inputs in Java's TopologyTestDriver and in ours: outputs are equal, record by record.

Keys, values, timestamps and headers are compared as bytes, of every topic that is written, repartition and changelog
topics included; and the text that describes the topology. What Java said is kept in parity/results.json.gz (see
parity/oracle.py).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.streams.parity.oracle import java_results, kept_results
from tests.streams.parity.topologies import MATRIX, build, topologies

from ottla.streams.context import Output
from ottla.streams.driver import Driver
from ottla.streams.times import is_times

#: Where a node has two ways to the same child, the order of names in Java's text follows from a hash table.
UNORDERED = {"merge_with_itself"}
EVERY = {topology["name"]: topology for topology in topologies()}
ALL = {name: topology for name, topology in EVERY.items() if not name.startswith(("matrix ", "cached "))}
#: With caches, Java still reads windows here that its store has dropped, as long as memory lasts: results depend on its
#: size. Ours are those of the store.
READ_FROM_JAVAS_CACHE = {
    "cogroup_tumbling_grace",
    "cogroup_session_grace",
    "count_tumbling_close",
    "count_tumbling_grace_close",
    "count_hopping_close",
    "count_hopping_grace_close",
    "reduce_session",
    "aggregate_session",
    "suppress_session",
    "suppress_session_grace",
}
CACHED = [
    name for name in EVERY if name.startswith("cached ") and name.removeprefix("cached ") not in READ_FROM_JAVAS_CACHE
]


@pytest.fixture(scope="module")
def java() -> dict[str, Any]:
    return kept_results()


def ours(topology: dict[str, Any]) -> dict[str, Any]:
    """Return what ours says, in the form of Parity.java's results."""
    app = build(topology["steps"])
    with app.test(at=0, cache_max_bytes=10 << 20 if "cache" in topology else 0) as driver:
        for row in topology["inputs"]:
            if row[0] == "$advance":
                driver.jump_to(driver.now + row[1])
            else:
                driver.pipe_raw(as_input(row))
        return {"description": str(app.describe()), "outputs": outputs_of(driver)}


def as_input(row: list[Any]) -> Output:
    """Return an input of a topology as the record that is piped."""
    topic, key, value, timestamp, headers = row
    return Output(topic, None, _bytes(key), _bytes(value), timestamp, tuple((n, text.encode()) for n, text in headers))


def outputs_of(driver: Driver) -> dict[str, list[Any]]:
    """Return what was written to each topic, in the form of Parity.java's results, without the times that only ours
    has."""
    found = {
        topic: [_row(output) for output in rows if not is_times(output)] for topic, rows in driver.written().items()
    }
    return {topic: rows for topic, rows in found.items() if rows}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _row(output: Output) -> list[Any]:
    headers = [[name, None if value is None else value.hex()] for name, value in output.headers]
    return [_hex(output.key), _hex(output.value), output.timestamp, headers]


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def comparable(rows: list[list[Any]], java: list[list[Any]]) -> Any:
    """Changelogs of suppress() have no timestamps in Java, and at a commit the order of a hash table: by key, then."""
    if all(row[2] is not None for row in java):
        return rows
    by_key: dict[str, list[Any]] = {}
    for key, value, _, headers in rows:
        by_key.setdefault(key, []).append([value, headers])
    return by_key


@pytest.mark.parametrize("name", ALL)
def test_outputs_equal_those_of_java(name: str, java: dict[str, Any]) -> None:
    found = ours(ALL[name])
    expected = java[name]["outputs"]

    assert sorted(found["outputs"]) == sorted(expected)
    for topic, rows in expected.items():
        assert comparable(found["outputs"][topic], rows) == comparable(rows, rows), topic


def ordered(description: str) -> str:
    """The stores of a node come out of a hash table in Java; sort them."""
    return re.sub(r"\(stores: \[(.*)\]\)", lambda found: str(sorted(found[1].split(", "))), description)


@pytest.mark.parametrize("name", ALL)
def test_description_equals_that_of_java(name: str, java: dict[str, Any]) -> None:
    if name in UNORDERED:
        pytest.skip("Java orders nodes of equal rank by their hashes here")
    assert ordered(str(build(ALL[name]["steps"]).describe())) == ordered(java[name]["description"])


@pytest.mark.parametrize("name", CACHED)
def test_outputs_with_caches_equal_those_of_java(name: str, java: dict[str, Any]) -> None:
    """Each record is a commit, and has several updates of a key: what comes out, in its order, and what changelogs get."""
    found, expected = ours(EVERY[name])["outputs"], java[name]["outputs"]

    assert sorted(found) == sorted(expected)
    for topic, rows in expected.items():
        assert comparable(found[topic], rows) == comparable(rows, rows), topic


@pytest.mark.parametrize("name", MATRIX)
def test_null_matrix(name: str, java: dict[str, Any]) -> None:
    """Records without key, without value, without both: which operator drops them, and what it makes of them, is
    Java's."""
    found, expected = ours(EVERY[f"matrix {name}"])["outputs"], java[f"matrix {name}"]["outputs"]

    assert {topic: [row[:2] for row in rows] for topic, rows in found.items() if not topic.endswith("-changelog")} == {
        topic: [row[:2] for row in rows] for topic, rows in expected.items() if not topic.endswith("-changelog")
    }


@pytest.mark.parametrize("name", MATRIX)
def test_timestamp_header_matrix(name: str, java: dict[str, Any]) -> None:
    """Which timestamp and which headers a result has is Java's, for every operator; changelogs included."""
    found, expected = ours(EVERY[f"matrix {name}"])["outputs"], java[f"matrix {name}"]["outputs"]

    for topic, rows in expected.items():
        assert comparable(found[topic], rows) == comparable(rows, rows), topic


def test_there_are_enough_topologies_and_they_put_out_something() -> None:
    assert len(ALL) >= 150
    assert sum(len(rows) for result in kept_results().values() for rows in result["outputs"].values()) > 5_000


@pytest.mark.streams_java
def test_java_still_says_what_is_kept() -> None:
    folder = Path(tempfile.gettempdir()) / "ottla-streams-parity"

    assert java_results(folder, list(EVERY.values())) == kept_results()
