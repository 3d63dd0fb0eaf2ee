"""Offsets of sources: which may be written down, and their bytes."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import pytest

from ottla.connect.errors import ConnectError, DataError
from ottla.connect.runtime import offset_file
from ottla.connect.runtime.offsets import KeptOffsets, Receipts, Submitted, key_bytes, value_bytes

#: What Java (JDK 17) wrote for {["h",{"b":1,"a":2}]: {}, ["g",{}]: null, ["f",{"filename":"x"}]: {"position":7}}.
JAVA = b64decode(
    "rO0ABXNyABFqYXZhLnV0aWwuSGFzaE1hcAUH2sHDFmDRAwACRgAKbG9hZEZhY3RvckkACXRocmVzaG9sZHhwP0AAAAAAAAx3CAAAABAAAAADdXIAAltC"
    "rPMX+AYIVOACAAB4cAAAABNbImgiLHsiYiI6MSwiYSI6Mn1ddXEAfgACAAAAAnt9dXEAfgACAAAACFsiZyIse31dcHVxAH4AAgAAABZbImYiLHsiZmls"
    "ZW5hbWUiOiJ4In1ddXEAfgACAAAADnsicG9zaXRpb24iOjd9eA=="
)


class Receipt:
    """An acknowledgement that comes when the test says so."""

    def __init__(self) -> None:
        self.outcome: Exception | bool | None = None

    def done(self) -> bool:
        return self.outcome is not None

    def result(self, timeout: float | None = None) -> object:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def submit(submitted: Submitted, count: int, partition: Mapping[str, Any]) -> list[Receipt]:
    receipts = [Receipt() for _ in range(count)]
    for number, receipt in enumerate(receipts):
        submitted.add(partition, {"at": number}, receipt)
    return receipts


def test_ack_out_of_order_then_kill() -> None:
    """A crash after the acknowledgement of 1, 2 and 4 of five records must have 0 come again: nothing is written down.

    1. Records 1, 2 and 4 are acknowledged: no offset.  2. 0 is: the offset of 2.  3. 3 is: the offset of 4.
    """
    submitted = Submitted()
    receipts = submit(submitted, 5, {"table": "a"})
    for number in (1, 2, 4):
        receipts[number].outcome = True
    assert submitted.take() == []
    receipts[0].outcome = True
    assert submitted.take() == [({"table": "a"}, {"at": 2})]
    receipts[3].outcome = True
    assert submitted.take() == [({"table": "a"}, {"at": 4})]
    assert len(submitted) == 0


def test_parts_of_a_source_do_not_wait_for_each_other() -> None:
    submitted = Submitted()
    submit(submitted, 1, {"table": "a"})
    submit(submitted, 1, {"table": "b"})[0].outcome = True
    assert submitted.take() == [({"table": "b"}, {"at": 0})]


def test_a_filtered_record_counts_as_acknowledged() -> None:
    submitted = Submitted()
    submitted.add({}, {"at": 0}, None)
    assert submitted.take() == [({}, {"at": 0})]


def test_no_offset_at_or_after_a_failed_delivery_is_returned() -> None:
    submitted = Submitted()
    receipts = submit(submitted, 3, {})
    receipts[0].outcome = receipts[2].outcome = True
    receipts[1].outcome = ConnectionError("gone")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            submitted.take()


def test_a_batch_counts_when_all_of_it_is_acknowledged() -> None:
    """Also if its records are acknowledged out of order; one that fails is told each time that it is asked."""
    submitted, receipts = Submitted(), [Receipt() for _ in range(3)]
    submitted.add({"file": "a"}, {"at": 3}, Receipts(receipts))
    assert len(submitted) == 3
    for number in (2, 0):
        receipts[number].outcome = True
        assert submitted.take() == []
    receipts[1].outcome = True
    assert submitted.take() == [({"file": "a"}, {"at": 3})]
    lost = [Receipt(), Receipt()]
    submitted.add({"file": "a"}, {"at": 5}, Receipts(lost))
    lost[0].outcome = OSError("gone")
    lost[1].outcome = True
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            submitted.take()


def test_a_part_whose_object_the_source_uses_again_is_the_part_that_it_says_now() -> None:
    """A source may change one dict from record to record; what it said before stays said."""
    submitted, part, place = Submitted(), {"file": "a"}, {"at": 1}
    first, second = Receipt(), Receipt()
    submitted.add(part, place, first)
    part["file"], place["at"] = "b", 7
    submitted.add(part, place, second)
    second.outcome = True
    assert submitted.take() == [({"file": "b"}, {"at": 7})]
    first.outcome = True
    assert submitted.take() == [({"file": "a"}, {"at": 1})]


def test_offset_key_bytes_survive_handover() -> None:
    """A key that Java wrote in another order than ours keeps its bytes, and ours finds the offset below it."""
    entries = offset_file.load(JAVA)
    kept = KeptOffsets(entries)
    assert kept.find("f", {"filename": "x"}) == {"position": 7}
    assert kept.find("g", {}) is None
    assert kept.set("h", {"a": 2, "b": 1}, {"n": 1}) == (b'["h",{"b":1,"a":2}]', b'{"n":1}')
    assert offset_file.dump(entries) == JAVA


def test_new_keys_follow_the_order_of_a_hash_map() -> None:
    assert key_bytes("c", {"b": 1, "a": 2}) == b'["c",{"a":2,"b":1}]'


@pytest.mark.parametrize("count", [0, 1, 12, 13, 100])
def test_the_file_comes_back(count: int) -> None:
    entries = {b"key %d" % number: None if number % 5 == 0 else b"v" * number for number in range(count)}
    assert offset_file.load(offset_file.dump(entries)) == entries


@pytest.mark.parametrize("size", [0, 5, 80, 100, len(JAVA) - 1])
def test_a_file_that_was_cut_off_is_refused(size: int) -> None:
    with pytest.raises(ConnectError, match="cut off"):
        offset_file.load(JAVA[:size])


def test_an_offset_that_would_not_come_back_is_refused() -> None:
    with pytest.raises(DataError, match="names with texts"):
        value_bytes({"at": [1]})
