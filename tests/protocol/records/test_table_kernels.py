"""The table kernels, compiled and plain, give the same answers; what they encode is read as it went in."""

from __future__ import annotations

from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.extensions import compiled_kernel

from ottla.client._core.appending import murmur2
from ottla.client._core.partitioner import java_partition
from ottla.protocol.records import _tables_plain as plain
from ottla.protocol.records import kernels, table_kernels

SOURCE = Path(table_kernels.__file__).with_name("_tables_cy.py")
items = st.none() | st.binary(max_size=30)
NOTHING: plain.Column = (0, 0, None, None, None)


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled kernels."""
    return compiled_kernel(SOURCE, tmp_path_factory)


def column(kind: int, values: list[bytes | None], shift: int = 0) -> plain.Column:
    """A column of these items, of one of Arrow's layouts, behind `shift` others."""
    shown = [b"?"] * shift + [value or b"" for value in values]
    valid = bytearray(-(-len(shown) // 8))
    for row, value in enumerate([b""] * shift + values):
        if value is not None:
            valid[row >> 3] |= 1 << (row & 7)
    if kind == 16:
        places, data = bytearray(), bytearray()
        for value in shown:
            if len(value) <= 12:
                places += len(value).to_bytes(4, "little") + value.ljust(12, b"\0")
            else:
                places += len(value).to_bytes(4, "little") + value[:4]
                places += (1).to_bytes(4, "little") + len(data).to_bytes(4, "little")
                data += value
        return 16, shift, valid, bytes(places), (b"unused", bytes(data))
    ends = array("i" if kind == 4 else "q", [0])
    for value in shown:
        ends.append(ends[-1] + len(value))
    return kind, shift, valid, memoryview(ends).cast("B"), b"".join(shown)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(items, items, st.integers(-1, 2**40)), min_size=1, max_size=20),
    kinds=st.tuples(st.sampled_from([4, 8, 16]), st.sampled_from([4, 8, 16])),
    shift=st.integers(0, 9),
    size_max=st.integers(10, 300),
    ordered=st.booleans(),
    partitions=st.integers(1, 5),
)
def test_they_agree(
    extension: ModuleType,
    rows: list[tuple[bytes | None, bytes | None, int]],
    kinds: tuple[int, int],
    shift: int,
    size_max: int,
    ordered: bool,
    partitions: int,
) -> None:
    keys, values = column(kinds[0], [row[0] for row in rows], shift), column(kinds[1], [row[1] for row in rows], shift)
    times = array("q", [row[2] for row in rows])
    chosen, others = array("i", bytes(4 * len(rows))), array("i", bytes(4 * len(rows)))
    extension.partition_rows(keys, len(rows), partitions, chosen, murmur2)
    plain.partition_rows(keys, len(rows), partitions, others, murmur2)
    assert chosen == others
    assert list(chosen) == [-1 if key is None else java_partition(key, partitions) for key, _, _ in rows]
    order, starts = extension.order_rows(chosen, partitions)
    assert (order, starts) == plain.order_rows(chosen, partitions)
    assert sorted(order) == list(range(len(rows)))
    which = order if ordered else None
    place, read = 0, []
    while place < len(rows):
        arguments = (keys, values, NOTHING, times, 77, which, place, len(rows), size_max)
        found = extension.encode_rows(*arguments)
        assert found == plain.encode_rows(*arguments)
        body, following, base, largest = found
        assert len(body) <= size_max or following == place + 1
        part = kernels.decode_records(body, following - place, 0, base, None)
        assert [row[0] for row in part] == list(range(len(part)))
        assert largest == max(row[1] for row in part)
        read += [(key, value, time) for _, time, key, value, _ in part]
        place = following
    wanted = [rows[row] for row in order] if ordered else rows
    assert read == [(key, value, 77 if time == -1 else time) for key, value, time in wanted]


@pytest.mark.parametrize("kernel", ["compiled", "plain"])
@pytest.mark.parametrize("kind", [4, 8, 16])
def test_places_outside_of_the_buffers_are_refused(extension: ModuleType, kernel: str, kind: int) -> None:
    module: Any = extension if kernel == "compiled" else plain
    good = column(kind, [b"x" * 20, b"y" * 20])
    short: Any = (b"", good[4][1][:30]) if kind == 16 else good[4][:30]
    bad: Any = (*good[:4], short)
    with pytest.raises(ValueError, match="row 1 lies"):
        module.encode_rows(bad, good, NOTHING, None, 0, None, 0, 2, 1000)
    with pytest.raises(ValueError, match="row 1 lies"):
        module.partition_rows(bad, 2, 3, array("i", [0, 0]), murmur2)


def test_headers_are_written_as_they_are(extension: ModuleType) -> None:
    record = kernels.encode_records([(0, 5, None, b"v", (("a", b"1"),))], 0, 5)
    headers: plain.Column = (0, 0, None, None, bytes(record[record.index(b"v") + 1 :]))
    values = column(4, [b"v"])
    for module in (extension, plain):
        assert module.encode_rows(NOTHING, values, headers, None, 5, None, 0, 1, 100)[0] == record
