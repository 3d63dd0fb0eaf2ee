"""Values as Java prints them.

Bytes that converters write hold such text, and the bytes of a key decide about its partition: so numbers have to look as
they do in Java. Doubles and floats follow JDK 19 and later (`Double.toString` gives the shortest text that reads back;
JDK 17 gives a digit more now and then). Dates are those of a JVM in UTC.
"""

from __future__ import annotations

import datetime
import decimal
import math
import struct
from typing import Any

from ottla.connect.errors import DataError
from ottla.connect.logical import (
    DAY_MS,
    date_to_days,
    decimal_scale,
    ms_to_timestamp,
    time_to_ms,
    timestamp_to_ms,
    unscaled,
)
from ottla.connect.schema import Schema, Struct, Type

_FLOAT = struct.Struct(">f")
#: The day from which Java's calendar is the Gregorian one, in days since 1970.
_GREGORIAN = -141427
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Float32(float):
    """A float that four bytes can hold, so that it is printed as such where no schema tells its type."""

    __slots__ = ()


def as_float32(value: float) -> Float32:
    """Return the nearest number that four bytes can hold."""
    try:
        return Float32(_FLOAT.unpack(_FLOAT.pack(value))[0])
    except OverflowError:
        return Float32(math.inf if value > 0 else -math.inf)


def is_float32(schema: Schema | None, value: float) -> bool:
    """Whether a float is one of four bytes: its schema says so, or without one it does itself."""
    return isinstance(value, Float32) if schema is None else schema.type is Type.FLOAT32


def double_text(value: float) -> str:
    """Return `Double.toString`."""
    if 1e-3 <= value < 1e7:  # both print the shortest digits, and here without an exponent
        return repr(value)
    if not math.isfinite(value):
        return _special(value)
    text = repr(abs(value))
    digits, exponent = _digits_of(text)
    if len(digits) == 1:  # Java looks for the nearest one of two digits where one digit would do
        digits, exponent = _digits_of(f"{abs(value):.1e}")
    return _laid_out(value, digits, exponent)


def float_text(value: float) -> str:
    """Return `Float.toString` of a number that is rounded to four bytes first."""
    value = float(as_float32(value))
    if not math.isfinite(value):
        return _special(value)
    if value == 0:
        return _laid_out(value, "0", 0)
    for count in range(1, 10):
        text = f"{abs(value):.{count}e}"
        if as_float32(float(text)) == abs(value):
            break
    digits, exponent = _digits_of(text)
    return _laid_out(value, digits, exponent)


def _special(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _digits_of(text: str) -> tuple[str, int]:
    """Return the digits of a number and the power of ten of the first one."""
    mantissa, _, power = text.partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    exponent = len(whole) - 1 - (len(whole + part) - len(digits)) + int(power or 0)
    digits = digits.rstrip("0")
    return (digits, exponent) if digits else ("0", 0)


def _laid_out(value: float, digits: str, exponent: int) -> str:
    """Write digits plainly from 10^-3 to 10^7, else with an exponent."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if value == 0:
        return sign + "0.0"
    if -3 <= exponent < 7:
        if exponent < 0:
            return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
        digits = digits.ljust(exponent + 1, "0")
        return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :] or '0'}"
    return f"{sign}{digits[0]}.{digits[1:] or '0'}E{exponent}"


def decimal_text(value: decimal.Decimal) -> str:
    """Return `BigDecimal.toString`."""
    scale, number = decimal_scale(value), unscaled(value)
    sign, digits = ("-" if number < 0 else ""), str(abs(number))
    adjusted = len(digits) - 1 - scale
    if scale == 0:
        return sign + digits
    if scale > 0 and adjusted >= -6:
        digits = digits.rjust(scale + 1, "0")
        return f"{sign}{digits[:-scale]}.{digits[-scale:]}"
    mantissa = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
    return f"{sign}{mantissa}{f'E{adjusted:+d}' if adjusted else ''}"


def epoch_ms(value: datetime.date | datetime.time) -> int:
    """Return what Java's `Date.getTime` gives for a date, a time of day or a timestamp."""
    if isinstance(value, datetime.datetime):
        return timestamp_to_ms(value)
    if isinstance(value, datetime.date):
        return date_to_days(value) * DAY_MS
    return time_to_ms(value)


def iso_text(value: datetime.date | datetime.time) -> str:
    """Return a date, a time of day or a timestamp as Connect writes them in headers and casts.

    As in Java the value decides, not the type: moments before 1970-01-02 are written as times of day, midnights as dates.
    """
    ms = epoch_ms(value)
    moment = ms_to_timestamp(ms)
    assert isinstance(moment, datetime.datetime)
    clock = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    if ms < DAY_MS:
        return clock
    day = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
    return day if ms % DAY_MS == 0 else f"{day}T{clock}"


def date_text(ms: int) -> str:
    """Return `java.util.Date.toString` in UTC; before 15 October 1582 the calendar is the Julian one."""
    days, clock = divmod(ms, DAY_MS)
    year, month, day = _civil(days)
    seconds = clock // 1000
    time = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{_DAYS[(days + 3) % 7]} {_MONTHS[month - 1]} {day:02d} {time} UTC {year if year > 0 else 1 - year}"


def _civil(days: int) -> tuple[int, int, int]:
    """Return year, month and day, counted in years that begin in March so that a leap day is the last of its year."""
    if days >= _GREGORIAN:
        era, rest = divmod(days + 719468, 146097)
        of_era = (rest - rest // 1460 + rest // 36524 - rest // 146096) // 365
        in_year = rest - (365 * of_era + of_era // 4 - of_era // 100)
        year = era * 400 + of_era
    else:
        era, rest = divmod(days + 719470, 1461)
        of_era = min(rest // 365, 3)
        in_year = rest - 365 * of_era
        year = era * 4 + of_era
    since_march = (5 * in_year + 2) // 153
    month = (since_march + 2) % 12 + 1
    return year + (month <= 2), month, in_year - (153 * since_march + 2) // 5 + 1


def java_text(schema: Schema | None, value: Any) -> str:
    """Return what `toString` gives for a value.

    Raises:
        DataError: bytes have no such text (Java prints an address).
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        match None if schema is None else schema.name:
            case "org.apache.kafka.connect.data.Timestamp":
                return date_text(value)
            case "org.apache.kafka.connect.data.Date":
                return date_text(value * DAY_MS)
        return str(value)
    if isinstance(value, float):
        return float_text(value) if is_float32(schema, value) else double_text(value)
    if isinstance(value, decimal.Decimal):
        return decimal_text(value)
    if isinstance(value, datetime.date | datetime.time):
        return date_text(epoch_ms(value))
    if isinstance(value, Struct):
        return _struct_text(value)
    if isinstance(value, dict):
        keys, values = (None, None) if schema is None else (schema.keys, schema.values)
        told = (f"{java_text(keys, key)}={java_text(values, item)}" for key, item in value.items())
        return "{" + ", ".join(told) + "}"
    if isinstance(value, list | tuple):
        inside = None if schema is None else schema.values
        return "[" + ", ".join(java_text(inside, item) for item in value) + "]"
    raise DataError(f"{type(value).__name__} cannot be written as text; ByteArrayConverter writes bytes as they are")


def _struct_text(value: Struct) -> str:
    given = ((field, value.without_default(field.name)) for field in value.schema.fields)
    told = (f"{field.name}={java_text(field.schema, item)}" for field, item in given if item is not None)
    return "Struct{" + ",".join(told) + "}"
