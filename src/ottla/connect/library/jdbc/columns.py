"""Types of columns: which one a schema gets, and which schema a column has."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    types,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from ottla.connect.errors import DataError
from ottla.connect.library import debezium
from ottla.connect.logical import DATE, TIME, TIMESTAMP, decimal_schema, scale_of
from ottla.connect.schema import (
    BOOLEAN,
    BYTES,
    DATE_NAME,
    DECIMAL_NAME,
    FLOAT32,
    FLOAT64,
    INT16,
    INT32,
    INT64,
    STRING,
    TIME_NAME,
    TIMESTAMP_NAME,
    Schema,
    Type,
)


class ExactText(TypeDecorator[decimal.Decimal]):
    """Decimals as text: SQLite's own numbers keep 15 digits."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else format(value, "f")


def column_type(schema: Schema, *, key: bool = False) -> TypeEngine[Any]:
    """Return the type of the column for a schema.

    Args:
        key: part of the primary key: MariaDB and MySQL need a length there.

    Raises:
        DataError: there is none.
    """
    match schema.name:
        case n if n == DECIMAL_NAME:
            return Numeric(38, scale_of(schema)).with_variant(ExactText(), "sqlite")
        case n if n in (DATE_NAME, debezium.DATE):
            return Date()
        case n if n in (TIME_NAME, debezium.TIME):
            return Time().with_variant(mysql.TIME(fsp=3), "mysql", "mariadb")
        case debezium.MICRO_TIME:
            return Time().with_variant(mysql.TIME(fsp=6), "mysql", "mariadb")
        case n if n in (TIMESTAMP_NAME, debezium.TIMESTAMP):
            return DateTime().with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
        case debezium.MICRO_TIMESTAMP:
            return DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
        case debezium.ZONED_TIMESTAMP:
            return DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    match schema.type:
        case Type.INT8 | Type.INT16:
            return SmallInteger()
        case Type.INT32:
            return Integer()
        case Type.INT64:
            return BigInteger()
        case Type.FLOAT32:
            return types.REAL().with_variant(mysql.FLOAT(), "mysql", "mariadb")
        case Type.FLOAT64:
            return Double()
        case Type.BOOLEAN:
            return Boolean()
        case Type.STRING:
            text = String(255) if key else mysql.LONGTEXT()
            return Text().with_variant(text, "mysql", "mariadb")
        case Type.BYTES:
            data = mysql.VARBINARY(255) if key else mysql.LONGBLOB()
            return LargeBinary().with_variant(data, "mysql", "mariadb")
    raise DataError(f"there is no column for {schema.type}")


Numbers = Literal["none", "best_fit"]
#: Makes a driver's value the schema's.
Reader = Callable[[Any], Any]


def _as_is(value: Any) -> Any:
    return value


def schema_of(kind: TypeEngine[Any], *, dialect: str, zone: ZoneInfo, numbers: Numbers) -> tuple[Schema, Reader, bool]:
    """Return the schema of a column, what makes its values, and whether it has to be selected as text.

    Args:
        zone: what moments without a zone are in.
        numbers: `numeric.mapping`.
    """
    wide = dialect == "sqlite" or bool(getattr(kind, "unsigned", False))
    match kind:
        case Boolean():
            return BOOLEAN, bool, False
        case SmallInteger():
            return (INT32 if wide else INT16), int, False
        case BigInteger():
            return INT64, int, False
        case Integer():
            return (INT64 if wide else INT32), int, False
        case types.REAL() if dialect == "postgresql":
            return FLOAT32, float, False
        case Float():
            return FLOAT64, float, False
        case Numeric():
            return _number(kind, numbers)
        case DateTime():
            return TIMESTAMP, lambda value: moment(value, zone), False
        case Date():
            return DATE, _as_is, False
        case Time():
            return TIME, lambda value: value.replace(tzinfo=None), False
        case types.LargeBinary() | types.BINARY() | types.VARBINARY():
            return BYTES, bytes, False
        case types.Enum() | types.Uuid() | types.JSON():
            return STRING, str, True
        case String():
            return STRING, str, False
    return STRING, str, True


def _number(kind: Numeric[Any], numbers: Numbers) -> tuple[Schema, Reader, bool]:
    scale, precision = kind.scale, kind.precision
    if precision is None and scale is None:
        return STRING, str, True  # each value has a scale of its own
    scale = scale or 0
    if numbers == "best_fit" and (precision or 99) < 19:
        if scale == 0:
            return (INT32 if precision < 10 else INT64), int, False  # type: ignore[operator]
        return FLOAT64, float, False
    unit = decimal.Decimal(1).scaleb(-scale)
    wide = decimal.Context(prec=1000)
    return decimal_schema(scale), lambda value: decimal.Decimal(value).quantize(unit, context=wide), False


def moment(value: datetime.datetime, zone: ZoneInfo) -> datetime.datetime:
    """Return a moment in UTC."""
    return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).astimezone(datetime.UTC)
