"""Values as text, as headers hold them (`ottla.connect.literals` reads it again), and numbers of one type as another."""

from __future__ import annotations

import decimal
import math
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from ottla.connect.errors import DataError
from ottla.connect.java_text import decimal_text, double_text, float_text, is_float32, iso_text
from ottla.connect.schema import Schema, Struct

# Text of a value


def to_text(schema: Schema | None, value: Any) -> str | None:
    """Return a value as text; None stays None."""
    if value is None:
        return None
    bare = _bare(value)
    return _literal(schema, value) if bare is None else bare


def _bare(value: Any) -> str | None:
    """Return the text of what has quotes inside a list, a map or a struct: texts, and bytes in base64."""
    if isinstance(value, str):
        return value
    return b64encode(value).decode("ascii") if isinstance(value, bytes | bytearray | memoryview) else None


def _literal(schema: Schema | None, value: Any) -> str:
    bare = _bare(value)
    if bare is not None:
        escaped = bare.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    match value:
        case list() | tuple():
            inside = None if schema is None else schema.values
            return f"[{','.join(_literal(inside, item) for item in value)}]"
        case dict():
            keys, values = (None, None) if schema is None else (schema.keys, schema.values)
            return _braced((_literal(keys, key), _literal(values, item)) for key, item in value.items())
        case Struct():
            fields = value.schema.fields
            return _braced((_literal(None, field.name), _literal(field.schema, value[field.name])) for field in fields)
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int():
            return str(value)
        case float():
            return number_text(schema, value)
        case decimal.Decimal():
            return decimal_text(value)
    try:
        return iso_text(value)
    except AttributeError:
        raise DataError(f"a {type(value).__name__} has no form as text: {value}") from None


def _braced(entries: Iterable[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{item}" for name, item in entries) + "}"


def number_text(schema: Schema | None, value: float) -> str:
    """Return a float as text, with as many digits as its type has."""
    return float_text(value) if is_float32(schema, value) else double_text(value)


# Numbers


def to_whole(value: Any, bits: int) -> int:
    """Return a number, or the number in a text, as an integer; too large ones lose their highest bits, as in Java.

    Raises:
        DataError: there is no number.
    """
    number: int
    match value:
        case int() if not isinstance(value, bool):
            number = value
        case float():
            return float_to_whole(value, bits)
        case decimal.Decimal() | str():
            try:
                number = int(decimal.Decimal(value))
            except (decimal.InvalidOperation, ValueError, OverflowError):
                raise DataError(f"{value} ({type(value).__name__}) is no number") from None
        case _:
            raise DataError(f"{value} ({type(value).__name__}) is no number")
    return wrapped(number, bits)


def wrapped(number: int, bits: int) -> int:
    """Return the lowest bits of a number, as Java keeps them when it is too large."""
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> bits - 1 else number


def float_to_whole(value: float, bits: int) -> int:
    """Return what a cast of Java's makes of a float: the nearest bound beyond the bounds, 0 for NaN; types below 32 bits
    are cut from 32."""
    if math.isnan(value):
        return 0
    wide = max(bits, 32)
    low, high = -1 << wide - 1, (1 << wide - 1) - 1
    found = high if value >= high else low if value <= low else int(value)
    return wrapped(found, bits)


def to_real(value: Any) -> float:
    """Return a number, or the number in a text, as a float.

    Raises:
        DataError: there is no number.
    """
    if isinstance(value, int | float | decimal.Decimal | str) and not isinstance(value, bool):
        try:
            return float(decimal.Decimal(value))
        except (decimal.InvalidOperation, ValueError):
            pass
        except OverflowError:
            return math.inf if decimal.Decimal(value) > 0 else -math.inf
    raise DataError(f"{value} ({type(value).__name__}) is no number")
