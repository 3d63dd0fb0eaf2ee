from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.config.keys import (
    ANYTHING,
    ConfigError,
    ConfigType,
    at_least,
    between,
    java_double,
    one_of,
    row,
    split_list,
    table,
    to_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (1.0, "1.0"),
        (0.0, "0.0"),
        (100.0, "100.0"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (12345678.5, "1.23456785E7"),
        (0.001, "0.001"),
        (0.0001, "1.0E-4"),
        (1.7976931348623157e308, "1.7976931348623157E308"),
        (-2.5e10, "-2.5E10"),
        (float("inf"), "Infinity"),
        (float("nan"), "NaN"),
    ],
)
def test_doubles_are_written_as_java_writes_them(value: float, text: str) -> None:
    assert java_double(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_double_is_read_back(value: float) -> None:
    assert float(java_double(value)) == value


@given(st.sampled_from([(ConfigType.SHORT, 2**15), (ConfigType.INT, 2**31), (ConfigType.LONG, 2**63)]), st.integers())
def test_integers_have_javas_ranges(type_and_bound: tuple[ConfigType, int], number: int) -> None:
    type_, bound = type_and_bound
    key = row("k", type_, None, ANYTHING, "LOW", "A key.")
    if -bound <= number < bound:
        assert key.parse(f" {number} ") == number
    else:
        with pytest.raises(ConfigError, match=f"Not a number of type {type_.name}"):
            key.parse(str(number))


def test_values_of_each_type() -> None:
    def parse(type_: ConfigType, text: str | None) -> object:
        return row("k", type_, None, ANYTHING, "LOW", "A key.").parse(text)

    assert parse(ConfigType.BOOLEAN, " True") is True
    assert parse(ConfigType.STRING, " a b ") == "a b"
    assert parse(ConfigType.PASSWORD, " p ") == " p "
    assert parse(ConfigType.LIST, " a, b,a ,") == ["a", "b", ""]
    assert parse(ConfigType.LIST, "") == []
    assert parse(ConfigType.DOUBLE, "1e3") == 1000.0
    assert parse(ConfigType.INT, None) is None
    with pytest.raises(ConfigError):
        parse(ConfigType.INT, "\u0661")  # an Arabic digit, which int() would take


def test_bounds_are_named() -> None:
    key = row("k", ConfigType.INT, "5", between(1, 9), "LOW", "A key.")
    with pytest.raises(ConfigError, match="Invalid value 10 for configuration k: Value must be no more than 9"):
        key.parse("10")
    with pytest.raises(ConfigError, match="Invalid value 0 for configuration k: Value must be at least 1"):
        key.parse("0")
    assert at_least(3).text == "[3,...]"
    case = row("k", ConfigType.STRING, None, one_of("A", "B", ignore_case=True), "LOW", "A key.")
    assert case.parse("a") == "a"
    with pytest.raises(ConfigError, match="one of \\(case insensitive\\): A, B"):
        case.parse("c")


def test_units_come_from_names() -> None:
    def unit(name: str) -> str:
        return row(name, ConfigType.INT, None, ANYTHING, "LOW", "A key.").unit

    names = ["log.retention.ms", "log.segment.bytes", "log.cleaner.io.max.bytes.per.second", "num.partitions"]
    assert [unit(name) for name in names] == ["ms", "bytes", "bytes", ""]
    assert unit("kafka.metrics.polling.interval.secs") == "seconds"


def test_a_name_has_one_row() -> None:
    key = row("k", ConfigType.INT, None, ANYTHING, "LOW", "A key.")
    with pytest.raises(AssertionError, match="k has two rows"):
        table([key], [key])


def test_lists_and_text() -> None:
    assert split_list("a,,b") == ["a", "", "b"]
    assert [to_text(v) for v in (None, True, False, 5, "x", ["a", "b"], [])] == [
        None,
        "true",
        "false",
        "5",
        "x",
        "a,b",
        "",
    ]
