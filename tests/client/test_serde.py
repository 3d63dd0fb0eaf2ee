"""Objects to bytes and back, as Kafka's own serializers write them."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ottla
from ottla import serde


@dataclasses.dataclass
class Order:
    """An example."""

    id: int
    name: str = ""


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        (serde.string, "grün", "grün".encode()),
        (serde.int16, -2, b"\xff\xfe"),
        (serde.int32, 7, b"\0\0\0\7"),
        (serde.int64, 2**40, b"\0\0\1\0\0\0\0\0"),
        (serde.float32, 1.5, b"\x3f\xc0\0\0"),
        (serde.float64, 1.5, b"\x3f\xf8\0\0\0\0\0\0"),
        (serde.uuid, uuid.UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (serde.json(), {"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'.encode()),
        (serde.json(Order), Order(1, "x"), b'{"id":1,"name":"x"}'),
    ],
)
def test_both_directions(kind: serde.Serde[Any], value: Any, data: bytes) -> None:
    assert kind.serialize("t", value) == data
    assert kind.deserialize("t", data) == value


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (serde.int32, b"\0\0\0"),
        (serde.float64, b""),
        (serde.string, b"\xff"),
        (serde.uuid, b"no uuid"),
        (serde.json(), b"{"),
        (serde.json(Order), b"[]"),
        (serde.json(Order), b'{"id":1,"nonsense":2}'),
        (serde.json(Order), b"{}"),
    ],
)
def test_other_bytes_are_a_value_error(kind: serde.Serde[Any], data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # which one depends on the format
        kind.deserialize("t", data)


def test_what_cannot_be_written_is_said() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        serde.int32.serialize("t", 2**40)
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        serde.json().serialize("t", object())
    with pytest.raises(ValueError, match=r"JSON compliant"):
        serde.json().serialize("t", float("nan"))
    with pytest.raises(TypeError, match="no dataclass"):
        serde.json(int)


@given(st.integers(-(2**63), 2**63 - 1))
def test_int64(value: int) -> None:
    assert serde.int64.deserialize("t", serde.int64.serialize("t", value)) == value


def test_a_name_is_no_serializer() -> None:
    with pytest.raises(TypeError, match=r"ottla\.serde, such as json\(\): not 'json'"):
        ottla.Producer("localhost:9092", value_serializer="json")  # type: ignore[call-overload, arg-type, unused-ignore]
    with pytest.raises(TypeError, match=r"ottla\.serde, such as json\(\): not 'json'"):
        ottla.Consumer("localhost:9092", topics=["t"], value_deserializer="json")  # type: ignore[call-overload, arg-type, unused-ignore]
