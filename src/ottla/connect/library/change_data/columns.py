"""Types of PostgreSQL's columns: which schema each has, and what makes a value of its text."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Callable
from typing import Any, Final, Literal

from ottla.connect.errors import ConnectError
from ottla.connect.library import debezium
from ottla.connect.logical import DATE, TIME, TIMESTAMP, decimal_schema, ms_to_timestamp
from ottla.connect.schema import BOOLEAN, BYTES, FLOAT32, FLOAT64, INT16, INT32, INT64, STRING, Schema, Type

Decimals = Literal["precise", "string", "double"]
Times = Literal["adaptive", "connect"]
#: Makes a value of the server's text.
Reader = Callable[[str], Any]

_NUMERIC, _DATE, _TIME, _TIMESTAMP, _TIMESTAMPTZ = 1700, 1082, 1083, 1114, 1184
_DAY = datetime.date(1970, 1, 1).toordinal()
_EPOCH = datetime.datetime(1970, 1, 1)
_US: Final = datetime.timedelta(microseconds=1)
_MOMENT = re.compile(r"(\d+)-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?( BC)?")
_CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d+))?")


def _named(schema: Schema, name: str) -> Schema:
    return schema.replace(name=name)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])  # \x...


def _flag(text: str) -> bool:
    return text == "t"


def _as_is(text: str) -> str:
    return text


_PLAIN: dict[int, tuple[Schema, Reader]] = {
    16: (BOOLEAN, _flag),
    17: (BYTES, _bytes),
    20: (INT64, int),
    21: (INT16, int),
    23: (INT32, int),
    26: (INT64, int),
    700: (FLOAT32, float),
    701: (FLOAT64, float),
    114: (_named(STRING, debezium.JSON), _as_is),
    3802: (_named(STRING, debezium.JSON), _as_is),
    142: (_named(STRING, debezium.XML), _as_is),
    2950: (_named(STRING, debezium.UUID), _as_is),
    1266: (_named(STRING, debezium.ZONED_TIME), _as_is),
}


def schema_of(kind: int, modifier: int, *, decimals: Decimals, times: Times) -> tuple[Schema, Reader]:
    """Return the schema of a column, and what makes its values. Types that are not known come as text.

    Args:
        kind: the object id of the type.
        modifier: the column's; -1: none.
    """
    match kind:
        case n if n == _NUMERIC:
            return _number(modifier, decimals)
        case n if n == _DATE:
            return (DATE, _date) if times == "connect" else (_named(INT32, debezium.DATE), _days)
        case n if n == _TIME:
            if times == "connect":
                return TIME, _time
            if 0 <= modifier <= 3:
                return _named(INT32, debezium.TIME), lambda text: _clock(text) // 1000
            return _named(INT64, debezium.MICRO_TIME), _clock
        case n if n == _TIMESTAMP:
            if times == "connect":
                return TIMESTAMP, lambda text: ms_to_timestamp(micros(text) // 1000)
            if 0 <= modifier <= 3:
                return _named(INT64, debezium.TIMESTAMP), lambda text: micros(text) // 1000
            return _named(INT64, debezium.MICRO_TIMESTAMP), micros
        case n if n == _TIMESTAMPTZ:
            return _named(STRING, debezium.ZONED_TIMESTAMP), _zoned
    return _PLAIN.get(kind, (STRING, _as_is))


def _number(modifier: int, decimals: Decimals) -> tuple[Schema, Reader]:
    if decimals == "double":
        return FLOAT64, float
    if decimals == "string" or modifier < 4:  # without a scale each value has one of its own
        return STRING, _as_is
    scale = ((modifier - 4 & 0x7FF) ^ 0x400) - 0x400
    unit = decimal.Decimal(1).scaleb(-scale)
    wide = decimal.Context(prec=1100)

    def read(text: str) -> decimal.Decimal:
        found = decimal.Decimal(text)
        if not found.is_finite():
            raise ConnectError(f"{text} is no decimal: decimal.handling.mode=string takes it")
        return found.quantize(unit, context=wide)

    return decimal_schema(scale), read


def micros(text: str) -> int:
    """Return microseconds since 1970; infinity is the greatest number of 64 bits, -infinity the smallest."""
    try:
        return (datetime.datetime.fromisoformat(text) - _EPOCH) // _US
    except ValueError:
        pass
    if text in ("infinity", "-infinity"):
        return -(2**63) if text[0] == "-" else 2**63 - 1
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ConnectError(f"{text} is no moment")
    clock = found[4] and _clock(f"{found[4]}:{found[5]}:{found[6]}.{found[7] or 0}")
    return _days_of(found) * 86_400_000_000 + (clock or 0)


def _days(text: str) -> int:
    try:
        return datetime.date.fromisoformat(text).toordinal() - _DAY
    except ValueError:
        pass
    if text in ("infinity", "-infinity"):
        return -(2**31) if text[0] == "-" else 2**31 - 1
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ConnectError(f"{text} is no date")
    return _days_of(found)


def _days_of(found: re.Match[str]) -> int:
    """Return days since 1970 of a year before 1 or after 9999: 400 years are 146097 days."""
    year = int(found[1]) if found[8] is None else 1 - int(found[1])
    cycles, inside = divmod(year - 1, 400)
    return datetime.date(inside + 1, int(found[2]), int(found[3])).toordinal() + cycles * 146_097 - _DAY


def _clock(text: str) -> int:
    """Return microseconds since midnight; 24:00:00 is the end of the day."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise ConnectError(f"{text} is no time of day")
    seconds = (int(found[1]) * 60 + int(found[2])) * 60 + int(found[3])
    return seconds * 1_000_000 + int((found[4] or "0").ljust(6, "0"))


def _time(text: str) -> datetime.time:
    try:
        return datetime.time.fromisoformat(text)
    except ValueError as error:
        raise ConnectError(
            f"{text} is no time of day in Connect's Time: time.precision.mode=adaptive takes it"
        ) from error


def _date(text: str) -> datetime.date | int:
    days = _days(text)
    try:
        return datetime.date.fromordinal(days + _DAY)
    except (ValueError, OverflowError):
        return days


def _zoned(text: str) -> str:
    """Return a moment of the zone UTC in ISO 8601; infinity, and years that ISO has no four digits for, as they are."""
    if text.endswith("+00"):
        return text[:-3].replace(" ", "T", 1) + "Z"
    return text


def placeholder_of(schema: Schema, text: str) -> Any:
    """Return what stands for a value that was not sent; None: the schema has no room for it."""
    if schema.type is Type.STRING:
        return text
    if schema.type is Type.BYTES and schema.name is None:
        return text.encode()
    return None
