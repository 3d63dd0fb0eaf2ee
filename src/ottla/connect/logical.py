"""Logical types: decimals, dates, times and timestamps as the plain values that are written, and back.

Java has one class for dates, times and timestamps; Python has three. What datetime cannot hold, before the year 1 or
after 9999, stays the int of days or milliseconds. Milliseconds are what Kafka keeps: microseconds are cut off.
"""

from __future__ import annotations

import datetime
import decimal
from typing import Any

from ottla.connect.errors import DataError
from ottla.connect.schema import DATE_NAME, DECIMAL_NAME, TIME_NAME, TIMESTAMP_NAME, Schema, Type

DAY_MS = 86_400_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_EPOCH_DAY = _EPOCH.toordinal()

DATE = Schema(Type.INT32, name=DATE_NAME, version=1)
TIME = Schema(Type.INT32, name=TIME_NAME, version=1)
TIMESTAMP = Schema(Type.INT64, name=TIMESTAMP_NAME, version=1)

LOGICAL_NAMES = frozenset({DECIMAL_NAME, DATE_NAME, TIME_NAME, TIMESTAMP_NAME})


def decimal_schema(scale: int, **more: Any) -> Schema:
    """Return the schema of decimals with `scale` digits after the point."""
    return Schema(Type.BYTES, name=DECIMAL_NAME, parameters={"scale": str(scale)}, version=1, **more)


def scale_of(schema: Schema) -> int:
    """Return the scale of a Decimal's schema.

    Raises:
        DataError: it has none, or one that is no number.
    """
    text = (schema.parameters or {}).get("scale")
    if text is None:
        raise DataError("a Decimal's schema has no parameter scale")
    try:
        return int(text)
    except ValueError:
        raise DataError(f"the scale of a Decimal's schema is {text!r}, which is no number") from None


def decimal_scale(value: decimal.Decimal) -> int:
    """Return how many digits a decimal has after the point; negative: how many zeros are left out before it.

    Raises:
        DataError: NaN and infinity are no decimals.
    """
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise DataError(f"{value} is no decimal that Connect knows")
    return -exponent


def decimal_to_bytes(schema: Schema, value: decimal.Decimal) -> bytes:
    """Return the unscaled value, two's complement, as short as possible.

    Raises:
        DataError: the value has another scale than the schema.
    """
    expected, found = scale_of(schema), decimal_scale(value)
    if expected != found:
        raise DataError(f"a decimal with {found} digits after the point does not fit a schema with {expected}")
    number = unscaled(value)
    return number.to_bytes((number if number >= 0 else ~number).bit_length() // 8 + 1, "big", signed=True)


def unscaled(value: decimal.Decimal) -> int:
    """Return a decimal's digits as an integer."""
    sign, digits, _ = value.as_tuple()
    number = int("".join(map(str, digits)) or "0")
    return -number if sign else number


def decimal_from(number: int, scale: int) -> decimal.Decimal:
    """Return the decimal number * 10^-scale with exactly that scale."""
    digits = tuple(map(int, str(abs(number))))
    return decimal.Decimal((1 if number < 0 else 0, digits, -scale))


def bytes_to_decimal(schema: Schema, data: bytes) -> decimal.Decimal:
    """Return the decimal whose unscaled value is `data`."""
    if not data:
        raise DataError("no bytes are no decimal")
    return decimal_from(int.from_bytes(data, "big", signed=True), scale_of(schema))


def date_to_days(value: datetime.date | int) -> int:
    """Return days since 1970-01-01."""
    return value if isinstance(value, int) else value.toordinal() - _EPOCH_DAY


def days_to_date(days: int) -> datetime.date | int:
    """Return the date, or the days as they are if datetime has no such date."""
    try:
        return datetime.date.fromordinal(days + _EPOCH_DAY)
    except (ValueError, OverflowError):
        return days


def time_to_ms(value: datetime.time) -> int:
    """Return milliseconds since midnight."""
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + value.microsecond // 1000


def ms_to_time(ms: int) -> datetime.time:
    """Return the time of day.

    Raises:
        DataError: a day has not as many milliseconds. Java lets 86400000 pass, which is no time of day here.
    """
    if not 0 <= ms < DAY_MS:
        raise DataError(f"{ms} ms are no time of day, which is from 0 to 86399999")
    seconds, left = divmod(ms, 1000)
    return datetime.time(seconds // 3600, seconds // 60 % 60, seconds % 60, left * 1000)


def timestamp_to_ms(value: datetime.datetime | int) -> int:
    """Return milliseconds since 1970."""
    return value if isinstance(value, int) else (value - _EPOCH) // datetime.timedelta(milliseconds=1)


def ms_to_timestamp(ms: int) -> datetime.datetime | int:
    """Return the moment, in UTC, or the milliseconds as they are if datetime has no such moment."""
    try:
        return _EPOCH + datetime.timedelta(milliseconds=ms)
    except OverflowError:
        return ms


def to_plain(schema: Schema, value: Any) -> Any:
    """Return the plain value that stands for a logical one: int or bytes; what is not logical, as it is."""
    match schema.name:
        case "org.apache.kafka.connect.data.Decimal":
            return decimal_to_bytes(schema, value)
        case "org.apache.kafka.connect.data.Date":
            return date_to_days(value)
        case "org.apache.kafka.connect.data.Time":
            return time_to_ms(value)
        case "org.apache.kafka.connect.data.Timestamp":
            return timestamp_to_ms(value)
    return value
