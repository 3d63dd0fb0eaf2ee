"""A walk over batches reaches the end or says where it stopped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.records.legacy_support import entries
from tests.protocol.records.strategies import record_lists

from ottla.protocol.records.batch import HEADER_SIZE
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.walk import DamagedBatchError, iter_batches
from ottla.types import CompressionType

V0 = entries([Record(0, -1, b"k", b"v")], CompressionType.NONE, magic=0)
V1 = entries([Record(1, 5, b"k", b"v"), Record(2, 5, b"k", b"v")], CompressionType.GZIP, magic=1)
V2 = bytes(build_batch([Record(3, 5, b"k", b"v"), Record(4, 5, b"k", b"v")]))


def test_formats_may_be_mixed() -> None:
    found = list(iter_batches(V0 + V1 + V2))
    assert [position for position, _ in found] == [0, len(V0), len(V0 + V1)]
    assert [header.magic for _, header in found] == [0, 1, 2]
    assert [header.last_offset for _, header in found] == [0, 2, 4]


def test_walk_between_positions() -> None:
    data = memoryview(V0 + V2 + V1)
    assert [header.magic for _, header in iter_batches(data, len(V0), len(V0 + V2))] == [2]


def test_nothing_has_no_batches() -> None:
    assert list(iter_batches(b"")) == []


@pytest.mark.parametrize("last", [V0, V1, V2])
def test_a_batch_that_ends_too_early_is_reported_unless_the_bytes_were_cut_by_size(last: bytes) -> None:
    for kept in range(1, len(last)):
        data = V2 + last[:kept]
        assert [position for position, _ in iter_batches(data, may_be_cut=True)] == [0]
        with pytest.raises(DamagedBatchError, match=r"left|too few") as caught:
            list(iter_batches(data))
        assert caught.value.position == len(V2)


@pytest.mark.parametrize("may_be_cut", [False, True])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(HEADER_SIZE), "0 bytes, the least are 14"),
        (bytes(500), "0 bytes, the least are 14"),
        (V2[:8] + (48).to_bytes(4) + V2[12:], "length of 48"),
        (V2[:8] + b"\xff\xff\xff\xff" + V2[12:], "length of -1"),
        (V1[:8] + (21).to_bytes(4) + V1[12:], "21 bytes, the least are 22"),
        (V2[:16] + b"\x03" + V2[17:], "magic byte is 3"),
        (V2[:16] + b"\xff" + V2[17:], "magic byte is 255"),
    ],
)
def test_what_is_no_batch_is_reported(data: bytes, reason: str, may_be_cut: bool) -> None:
    walk = iter_batches(V2 + data, may_be_cut=may_be_cut)
    assert next(walk)[0] == 0
    with pytest.raises(DamagedBatchError, match=reason) as caught:
        next(walk)
    assert caught.value.position == len(V2)


@settings(deadline=None)
@given(
    st.lists(st.tuples(record_lists(max_size=3), st.sampled_from([0, 1, 2])), min_size=1, max_size=4),
    st.data(),
)
def test_a_walk_covers_every_byte_or_reports(groups: list[tuple[list[Record], int]], draw: st.DataObject) -> None:
    data = bytearray(
        b"".join(
            build_batch(records) if magic == 2 else entries(records, CompressionType.GZIP, magic=magic)
            for records, magic in groups
        )
    )
    position = draw.draw(st.integers(0, len(data) - 1))
    data[position] ^= draw.draw(st.integers(1, 255))
    covered, stopped_at = 0, len(data)
    try:
        for at, header in iter_batches(data):
            assert at == covered
            covered += header.size
    except DamagedBatchError as error:
        stopped_at = error.position
    assert stopped_at == covered
