"""Reading what clients push."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.broker.telemetry.otlp_writer import block, data_point, gauge, number, payload, total, varint

from ottla.broker.telemetry.otlp import OtlpError, Point, parse


def test_gauges_and_sums_are_read() -> None:
    data = payload(
        gauge("a.b", data_point(1.5, topic="t", partition=3), data_point(7), description="An A."),
        total("sent", data_point(12, ok=True, share=0.5)),
        total("depth", data_point(-4), delta=False, monotonic=False),
        group_id="readers",
    )
    read = parse(data)
    assert read.resource == (("group_id", "readers"),)
    assert read.passed_over == 0
    assert read.points == [
        Point("a.b", (("topic", "t"), ("partition", "3")), 1.5, False, False, "An A."),
        Point("a.b", (), 7, False, False, "An A."),
        Point("sent", (("ok", "true"), ("share", "0.5")), 12, True, True, ""),
        Point("depth", (), -4, False, False, ""),
    ]


def test_kinds_that_are_not_read_are_counted() -> None:
    histogram = block(1, "h") + block(9, block(1, b""))
    assert parse(payload(histogram, gauge("g", data_point(1))))[1:] == ([Point("g", (), 1, False, False, "")], 1)


def test_fields_of_later_versions_are_passed_over() -> None:
    newer = number(99, 5) + block(98, b"x") + varint(97 << 3 | 5) + bytes(4) + varint(96 << 3 | 1) + bytes(8)
    point = data_point(3) + newer
    assert [point.value for point in parse(newer + payload(gauge("g", point) + newer)).points] == [3]


def test_a_point_without_a_value_is_none() -> None:
    assert parse(payload(gauge("g", number(8, 1)))).points == []


def test_nothing_is_nothing() -> None:
    assert parse(b"") == ((), [], 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05ab",  # five bytes are announced
        b"\xff" * 11,  # a number without an end
        b"\x02\x00",  # field 0
        b"\x0b",  # a group, which proto3 has not
        b"\x09\x00",  # a fixed64 of one byte
    ],
)
def test_what_is_no_payload_is_refused(data: bytes) -> None:
    with pytest.raises(OtlpError):
        parse(data)


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except OtlpError:
        pass


SAMPLE = payload(gauge("a.b", data_point(1.5, topic="t", partition=3)), total("c", data_point(12)), group_id="g")


@given(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_payload_is_read_or_refused(index: int, byte: int, cut: bool) -> None:
    data = SAMPLE[:index] if cut else SAMPLE[:index] + bytes([byte]) + SAMPLE[index + 1 :]
    try:
        for point in parse(data).points:
            assert isinstance(point.value, int | float)
    except OtlpError:
        pass


@given(
    st.lists(
        st.tuples(
            st.text(),
            st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1),
            st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans()),
        ),
        max_size=5,
    )
)
def test_what_was_written_is_read(
    rows: list[tuple[str, float, dict[str, str | int | bool]]],
) -> None:
    points = parse(payload(*(total(name, data_point(value, **attributes)) for name, value, attributes in rows))).points
    assert [(point.name, point.value) for point in points] == [(name, value) for name, value, _ in rows]
    for point, (_, _, attributes) in zip(points, rows, strict=True):
        texts = {k: {True: "true", False: "false"}[v] if isinstance(v, bool) else str(v) for k, v in attributes.items()}
        assert dict(point.attributes) == texts


def test_numbers_of_all_sizes() -> None:
    values = [0, -1, 2**63 - 1, -(2**63), 0.1, math.inf]
    assert [p.value for p in parse(payload(gauge("g", *(data_point(value) for value in values)))).points] == values
