"""The same values through Java's Connect and through ours: bytes, schemas and values are equal, and so is what is refused.

What Java said is kept in parity/results.jsonl.xz (see parity/oracle.py); `make test-kafka` asks it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.connect.parity.cases import JSON_CONVERTER, cases
from tests.connect.parity.oracle import VERSION, digest, java_results, kept_results, result
from tests.connect.parity.ours import read, run

from ottla.client._core._appending_plain import murmur2
from ottla.connect.converters.base import Converter
from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.plugins import TRANSFORMS

#: Every eleventh case is asked by default, all of them by `make test-soak`.
SHARES = [pytest.param(11, id="some"), pytest.param(1, id="all", marks=pytest.mark.soak)]


@cache
def kept() -> list[tuple[dict[str, Any], str]]:
    """Return every case, and the line about what Java said to it."""
    wanted = cases()
    head, lines = kept_results()
    assert head["kafka"] == VERSION
    assert head["cases"] == digest(wanted), "the cases have changed: run python -m tests.connect.parity.oracle"
    return list(zip(wanted, lines, strict=True))


@cache
def pairs(share: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every `share`-th case with what Java said."""
    return [(case, result(case, line)) for case, line in kept()[::share]]


@cache
def ours(share: int) -> list[dict[str, Any]]:
    """Return what ours says to these cases."""
    return [run(case) for case, _ in pairs(share)]


def test_there_are_more_than_ten_thousand_cases() -> None:
    assert len(kept()) > 10_000


@pytest.mark.parametrize("share", SHARES)
def test_ours_says_what_java_says(share: int) -> None:
    assert different(pairs(share), ours(share)) == []


@pytest.mark.parametrize("share", SHARES)
def test_a_converter_that_has_read_much_reads_as_a_new_one(share: int) -> None:
    """What it remembers of envelopes, schemas and orders of keys changes nothing. Each text is read twice in turn."""
    used: dict[str, Converter] = {}
    for case, _ in pairs(share):
        if case["op"] != "to" or case["class"] != JSON_CONVERTER or case["bytes"] is None:
            continue
        data = bytes.fromhex(case["bytes"])
        converter = used.setdefault(json.dumps(case["config"], sort_keys=True), JsonConverter(case["config"]))
        for text in (data, data, data[:-1] + b" }", data[:-1] + b"},1", data[:-2] + b"}"):
            assert read(converter, text) == read(JsonConverter(case["config"]), text)
    assert used


def different(pairs: list[tuple[dict[str, Any], dict[str, Any]]], answers: Iterable[dict[str, Any]]) -> list[str]:
    """Return the cases in which ours says something else."""
    found = []
    for (case, java), said in zip(pairs, answers, strict=True):
        if case["class"].endswith(".SimpleHeaderConverter") and has_strange_key(java.get("value")):
            continue
        if comparable(said) != comparable(java):
            found.append(f"{json.dumps(case)}\n  java {json.dumps(java)}\n  ours {json.dumps(said)}")
    return found


def has_strange_key(node: Any) -> bool:
    """Whether a value holds a map with a list or a map as a key. No dict has such keys: ours takes the text as a string."""
    if not isinstance(node, list) or not node:
        return False
    if node[0] == "h":
        return any(key[0] in "lho" or has_strange_key(item) for key, item in node[1] if key is not None)
    return node[0] == "l" and any(has_strange_key(item) for item in node[1])


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without the words of an error: only that there is one counts."""
    if "error" not in result:
        return result
    return {name: part for name, part in result.items() if name not in ("message", "error")} | {"error": True}


def test_tombstone_through_every_transform() -> None:
    """Each of the 16, on keys and values, with a null value, a null schema, and both."""
    corners = [(case, result(case, line)) for case, line in kept() if case["op"] == "transform" and is_corner(case)]
    names = {case["class"].rpartition(".")[2].partition("$")[0] for case, _ in corners}
    assert names == set(TRANSFORMS)
    assert len(names) == 16
    assert different(corners, (run(case) for case, _ in corners)) == []


def is_corner(case: dict[str, Any]) -> bool:
    side = "key" if case["class"].endswith("$Key") else "value"
    return case["record"][side] is None or case["record"][f"{side}_schema"] is None


@pytest.mark.parametrize("share", SHARES)
def test_key_bytes_keep_their_partition(share: int) -> None:
    """JSON keys without a schema are written in the order of Java's HashMap, and so go to Java's partition."""
    moved = 0
    for (case, java), said in zip(pairs(share), ours(share), strict=True):
        if case["class"] != JSON_CONVERTER or case["config"]["schemas.enable"] != "false" or not java.get("again"):
            continue
        read, written = bytes.fromhex(str(java.get("bytes", case.get("bytes")))), bytes.fromhex(java["again"])
        assert murmur2(bytes.fromhex(said["again"])) % 12 == murmur2(written) % 12
        moved += murmur2(read) % 12 != murmur2(written) % 12
    assert moved > 100 // share, "too few keys whose order matters"


@pytest.mark.kafka
def test_java_still_says_it(tmp_path: Path) -> None:
    """Java of this machine, asked now."""
    wanted = cases()
    java, results = java_results(tmp_path, wanted)
    print(f"{len(wanted)} cases on JDK {java}")
    if int(java.partition(".")[0]) < 19:
        pytest.skip("before JDK 19 doubles look different: JAVA names a newer JVM")
    assert different(list(zip(wanted, results, strict=True)), map(run, wanted)) == []
