"""Conditions on records reach nothing but the record."""

from __future__ import annotations

import pytest

import ottla
from ottla.cli.where import compile_condition
from ottla.client.consumed import Record, Source


def record(value: bytes | None, key: bytes | None = None) -> Record[bytes | None, bytes | None]:
    return Record(Source("t", 1, 0, None, None), (5, 1_000, key, value, (("h", b"x"),)))


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("value.a.b[1] == 2", b'{"a": {"b": [1, 2]}}', True),
        ("value.a.b[7] == 2", b'{"a": {"b": [1, 2]}}', False),
        ("value.a.b.c", b'{"a": 1}', False),
        ("value is null", None, True),
        ("value == 'plain text'", b"plain text", True),
        ("value.lower().startswith('pl')", b"PLain", True),
        ("1 < value < 3", b"2", True),
        ("value / 0 > 1", b"2", False),
        ("-value == -2 and value % 2 == 0", b"2", True),
        ("value + 1 == 3", b"2", True),
        ("'a' in value", b'["a"]', True),
        ("'a' not in value", None, True),
        ("topic == 't' and partition == 1 and offset == 5 and timestamp == 1000", None, True),
        ("headers.h == 'x'", None, True),
        ("true", None, True),
        ("value * 'x' == 1", b"100000", False),
    ],
)
def test_conditions(condition: str, value: bytes | None, holds: bool) -> None:
    assert compile_condition(condition)(record(value)) is holds


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "value =",
        "open('/etc/passwd')",
        "value.__class__.__mro__()",
        "[x for x in value]",
        "lambda: 1",
        "f'{value}'",
        "value ** 100",
        "(yield)",
        "len(value, 1)",
        "value.format(1)",
        "b'bytes' == value",
        "1j",
        "(" * 500 + "1" + ")" * 500,
    ],
)
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(ottla.ConfigurationError, match="--where"):
        compile_condition(condition)


def test_attributes_of_python_objects_are_not_there() -> None:
    assert not compile_condition("value.__class__")(record(b"{}"))
    assert not compile_condition("key.__len__")(record(b"{}", b"text"))
