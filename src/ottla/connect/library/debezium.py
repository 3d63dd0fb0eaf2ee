"""The words of Debezium's records that more than one connector uses: names of types, and the value that stands for none.

A value of one of these types is a plain number or text; Kafka Connect's own types keep milliseconds only.
"""

from __future__ import annotations

import datetime
from typing import Any

from ottla.connect.errors import DataError

#: In the place of a column that was not sent, because it had not changed (PostgreSQL's TOAST).
UNAVAILABLE = "__debezium_unavailable_value"

#: What the names of these types begin with.
PREFIX = "io.debezium."
DATE = "io.debezium.time.Date"  # INT32: days since 1970
TIME = "io.debezium.time.Time"  # INT32: milliseconds since midnight
MICRO_TIME = "io.debezium.time.MicroTime"  # INT64
TIMESTAMP = "io.debezium.time.Timestamp"  # INT64: milliseconds since 1970, without a zone
MICRO_TIMESTAMP = "io.debezium.time.MicroTimestamp"  # INT64
ZONED_TIMESTAMP = "io.debezium.time.ZonedTimestamp"  # STRING: ISO 8601 in UTC
ZONED_TIME = "io.debezium.time.ZonedTime"
JSON = "io.debezium.data.Json"
UUID = "io.debezium.data.Uuid"
XML = "io.debezium.data.Xml"

_DAY = datetime.date(1970, 1, 1).toordinal()
_EPOCH = datetime.datetime(1970, 1, 1)
_MICROS: dict[str, int] = {TIME: 1000, MICRO_TIME: 1, TIMESTAMP: 1000, MICRO_TIMESTAMP: 1}


def as_python(name: str, value: Any) -> Any:
    """Return a value of one of these types as Python has it: a date, a time, a moment; others as they are.

    Raises:
        DataError: Python has none such, as of infinity.
    """
    try:
        match name:
            case n if n == DATE:
                return datetime.date.fromordinal(value + _DAY)
            case n if n in (TIMESTAMP, MICRO_TIMESTAMP):
                return _EPOCH + datetime.timedelta(microseconds=value * _MICROS[name])
            case n if n in (TIME, MICRO_TIME):
                seconds, micros = divmod(value * _MICROS[name], 1_000_000)
                return datetime.time(seconds // 3600, seconds // 60 % 60, seconds % 60, micros)
            case n if n == ZONED_TIMESTAMP:
                return datetime.datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{value!r} is no {name.rpartition('.')[2]} that can be written: {error}") from error
    return value
