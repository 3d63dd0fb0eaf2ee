"""Values as text, and text as values with a schema: what headers hold, and literals in configurations.

Java's `org.apache.kafka.connect.data.Values`: numbers take the smallest type that holds them, dates and times are known by
their ISO form, lists and maps are in brackets. What cannot be read otherwise is a string.
"""

from __future__ import annotations

import decimal
import math
import re
from base64 import b64encode
from typing import Any

from ottla.connect.converters.base import SchemaAndValue
from ottla.connect.errors import DataError
from ottla.connect.java_text import as_float32, decimal_text, double_text, float_text, is_float32, iso_text
from ottla.connect.logical import (
    DATE,
    DAY_MS,
    TIME,
    TIMESTAMP,
    bytes_to_decimal,
    days_to_date,
    decimal_scale,
    decimal_schema,
    ms_to_time,
    ms_to_timestamp,
)
from ottla.connect.schema import (
    BOOLEAN,
    DATE_NAME,
    DECIMAL_NAME,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    INTEGER_BITS,
    STRING,
    TIME_NAME,
    TIMESTAMP_NAME,
    Schema,
    Struct,
    Type,
)

_BLANKS = "".join(map(chr, range(33)))
_DELIMITERS = ':,{}[]"'
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,10})?")
_DAY = r"(-?\d+)-(-?\d+)-(-?\d+)"
_CLOCK = r"(\d+):(\d+):(\d+)\.(\d+)Z"
_FORMS = {10: re.compile(_DAY), 13: re.compile(_CLOCK), 24: re.compile(f"{_DAY}T{_CLOCK}")}
#: From the narrowest to the widest: of two of these, the wider one holds both.
_WIDTHS = [Type.INT8, Type.INT16, Type.INT32, Type.INT64, Type.FLOAT32, Type.FLOAT64]


# Text of a value


def to_text(schema: Schema | None, value: Any) -> str | None:
    """Return a value as text; None stays None."""
    return None if value is None else _text(schema, value, False)


def _text(schema: Schema | None, value: Any, embedded: bool) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return number_text(schema, value)
        case decimal.Decimal():
            return decimal_text(value)
        case str():
            return _quoted(value) if embedded else value
        case bytes() | bytearray() | memoryview():
            text = b64encode(value).decode("ascii")
            return f'"{text}"' if embedded else text
        case list() | tuple():
            inside = None if schema is None else schema.values
            return "[" + ",".join(_text(inside, item, True) for item in value) + "]"
        case dict():
            keys, values = (None, None) if schema is None else (schema.keys, schema.values)
            told = (f"{_text(keys, key, True)}:{_text(values, item, True)}" for key, item in value.items())
            return "{" + ",".join(told) + "}"
        case Struct():
            fields = value.schema.fields
            told = (f"{_quoted(field.name)}:{_text(field.schema, value[field.name], True)}" for field in fields)
            return "{" + ",".join(told) + "}"
    try:
        return iso_text(value)
    except AttributeError:
        raise DataError(f"Failed to serialize unexpected value type {type(value).__name__}: {value}") from None


def number_text(schema: Schema | None, value: float) -> str:
    """Return a float as text, with as many digits as its type has."""
    return float_text(value) if is_float32(schema, value) else double_text(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Values of a text


def parse_text(text: str | None) -> SchemaAndValue:
    """Return what a text stands for; a string if nothing else."""
    if text is None:
        return SchemaAndValue(None, None)
    if not text:
        return SchemaAndValue(STRING, text)
    return _Reader(text).value(False) or SchemaAndValue(None, None)


class _Reader:
    """Reads values from a text, token by token: a delimiter that no backslash precedes, or what is between two."""

    def __init__(self, text: str) -> None:
        self._whole = text
        self._at = 0

    def _token_end(self, begin: int) -> int:
        escaped = False
        for position in range(begin, len(self._whole)):
            char = self._whole[position]
            if char == "\\":
                escaped = not escaped
                continue
            if char in _DELIMITERS and not escaped:
                return max(position, begin + 1)
            escaped = False
        return len(self._whole)

    def _more(self) -> bool:
        return self._at < len(self._whole)

    def _skip_blanks(self) -> None:
        """Leave out tokens of blanks, the last one excepted."""
        while self._more():
            end = self._token_end(self._at)
            if self._whole[self._at : end].strip(_BLANKS) or end == len(self._whole):
                return
            self._at = end

    def _next(self) -> str:
        begin, self._at = self._at, self._token_end(self._at)
        return self._whole[begin : self._at]

    def _takes(self, token: str) -> bool:
        """Whether the next token, blanks around it left out, is this one; if so it is taken."""
        if not self._more():
            return False
        self._skip_blanks()
        end = self._token_end(self._at)
        if self._whole[self._at : end].strip(_BLANKS) != token:
            return False
        self._at = end
        return True

    def _takes_word(self, word: str, embedded: bool) -> bool:
        begin = self._at
        if self._takes(word) and (embedded or not self._more()):
            return True
        self._at = begin
        return False

    def value(self, embedded: bool) -> SchemaAndValue | None:
        if not self._more():
            return None
        if embedded and self._takes('"'):
            return self._quoted()
        for word, found in _WORDS:
            if self._takes_word(word, embedded):
                return found
        begin = self._at
        try:
            if self._takes("["):
                return self._array()
            if self._takes("{"):
                return self._map()
        except DataError:
            self._at = begin
        token = self._next()
        if not token.strip(_BLANKS):
            return SchemaAndValue(STRING, token)
        return self._single(embedded, token.strip(_BLANKS))

    def _single(self, embedded: bool, token: str) -> SchemaAndValue:
        if token[0].isdigit():
            found = self._temporal(token)
            if found is not None:
                return found
        if token[0].isdigit() or token[0] in "+-":
            number = _number(token)
            if number is not None:
                return number
        if embedded:
            raise DataError("Failed to parse embedded value")
        return SchemaAndValue(STRING, self._whole)

    def _temporal(self, token: str) -> SchemaAndValue | None:
        """The colons of a time are delimiters: it may be five tokens."""
        begin = self._at
        parts: list[str] = []
        while len(parts) < 4 and self._more():
            parts.append(self._next())
        if len(parts) == 4:
            found = _moment(token + "".join(parts))
            if found is not None:
                return found
        self._at = begin
        return _moment(token)

    def _quoted(self) -> SchemaAndValue:
        parts: list[str] = []
        while self._more() and not self._takes('"'):
            parts.append(self._next())
        text = "".join(parts)
        return _moment(text) or SchemaAndValue(STRING, text)

    def _array(self) -> SchemaAndValue:
        items: list[Any] = []
        common = _Common()
        while self._more():
            if self._takes("]"):
                if common.schema is None:
                    return SchemaAndValue(Schema(Type.ARRAY), items)
                inside = common.schema
                return SchemaAndValue(Schema.array(inside), [convert(inside, item) for item in items])
            if self._takes(","):
                raise DataError(f"Unable to parse an empty array element: {self._whole}")
            item = self.value(True)
            common.add(item)
            items.append(None if item is None else item.value)
            here = self._at
            if self._takes("]"):
                self._at = here
            elif not self._takes(","):
                raise DataError("Array elements missing ',' delimiter")
        raise DataError(f"Array is missing terminating ']': {self._whole}")

    def _map(self) -> SchemaAndValue:
        entries: dict[Any, Any] = {}
        keys, values = _Common(), _Common()
        while self._more():
            if self._takes("}"):
                return _aligned(keys.schema, values.schema, entries)
            if self._takes(","):
                raise DataError(f"Unable to parse a map entry with no key or value: {self._whole}")
            key = self.value(True)
            if key is None or key.value is None:
                raise DataError(f"Map entry may not have a null key: {self._whole}")
            if not self._takes(":"):
                raise DataError(f"Map entry is missing ':' at {self._at} in {self._whole}")
            item = self.value(True)
            try:
                entries[key.value] = None if item is None else item.value
            except TypeError:
                raise DataError(f"A list or a map cannot be a key: {self._whole}") from None
            self._takes(",")
            keys.add(key)
            values.add(item)
        raise DataError(f"Map is missing terminating '}}': {self._whole}")


_WORDS = (
    ("null", None),
    ("true", SchemaAndValue(BOOLEAN, True)),
    ("false", SchemaAndValue(BOOLEAN, False)),
)


def _aligned(keys: Schema | None, values: Schema | None, entries: dict[Any, Any]) -> SchemaAndValue:
    if keys is None:
        return SchemaAndValue(Schema(Type.MAP), entries)
    if values is None:
        made = {convert(keys, key): item for key, item in entries.items()}
        return SchemaAndValue(Schema(Type.MAP, keys=keys), made)
    return SchemaAndValue(
        Schema.map(keys, values), {convert(keys, key): convert(values, item) for key, item in entries.items()}
    )


class _Common:
    """The schema that several values have in common; None if there is none (any more)."""

    def __init__(self) -> None:
        self.schema: Schema | None = None
        self._compatible = True

    def add(self, found: SchemaAndValue | None) -> None:
        if found is None or found.schema is None or not self._compatible:
            return
        self.schema = found.schema if self.schema is None else _merged(self.schema, found.schema)
        self._compatible = self.schema is not None


def _merged(one: Schema, other: Schema) -> Schema | None:
    if one.type is other.type:
        return other
    if one.type in _WIDTHS and other.type in _WIDTHS:
        return one if _WIDTHS.index(one.type) > _WIDTHS.index(other.type) else other
    return None


def _number(token: str) -> SchemaAndValue | None:
    if not _NUMBER.fullmatch(token):
        return None
    try:
        number = decimal.Decimal(token)
        scale = decimal_scale(number)
    except (decimal.InvalidOperation, DataError):
        return None
    if not -(1 << 31) <= scale < 1 << 31:
        return None
    if number.adjusted() < 19 and (scale <= 0 or number == number.to_integral_value()):
        whole = int(number)
        for schema in (INT8, INT16, INT32, INT64):
            bits = INTEGER_BITS[schema.type]
            if -1 << bits - 1 <= whole < 1 << bits - 1:
                return SchemaAndValue(schema, whole)
    try:
        real = float(number)
    except OverflowError:
        real = math.copysign(math.inf, number)
    if scale != 0 and math.isfinite(as_float32(real)):
        return SchemaAndValue(FLOAT32, as_float32(real))
    if scale != 0 and math.isfinite(real):
        return SchemaAndValue(FLOAT64, real)
    return SchemaAndValue(decimal_schema(scale), number)


def _moment(text: str) -> SchemaAndValue | None:
    """Return the date, time or timestamp that a text of just the right length begins with. Like Java's parser it takes the
    thirteenth month for January."""
    text = text.replace("\\:", ":")
    form = _FORMS.get(len(text))
    found = None if form is None else form.match(text)
    if found is None:
        return None
    numbers = [int(group) for group in found.groups()]
    if len(text) == 13:
        return SchemaAndValue(TIME, ms_to_time(_clock_ms(*numbers)))
    days = _day(*numbers[:3])
    if len(text) == 10:
        return SchemaAndValue(DATE, days_to_date(days))
    return SchemaAndValue(TIMESTAMP, ms_to_timestamp(days * DAY_MS + _clock_ms(*numbers[3:])))


def _clock_ms(hours: int, minutes: int, seconds: int, ms: int) -> int:
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms


def _day(year: int, month: int, day: int) -> int:
    """Return the days since 1970 of the first of a month, and `day` - 1 more."""
    years, month = divmod(month - 1, 12)
    year += years
    # Years from March on, so that a leap day is the last of its year.
    if month < 2:
        year -= 1
    since_march = (month - 2) % 12
    in_year = (153 * since_march + 2) // 5
    return 365 * year + year // 4 - year // 100 + year // 400 + in_year - 719468 + day - 1


# One type as another


def convert(schema: Schema, value: Any) -> Any:
    """Return a value as one of the schema's type.

    Raises:
        DataError: it has no such form.
    """
    if value is None:
        if schema.optional:
            return None
        raise DataError("Unable to convert a null value to a schema that requires a value")
    match schema.type:
        case Type.STRING:
            return to_text(None, value)
        case Type.BOOLEAN:
            return value if isinstance(value, bool) else to_whole(value, 64) != 0
        case Type.INT8 | Type.INT16 | Type.INT32 | Type.INT64 if schema.name in (DATE_NAME, TIME_NAME, TIMESTAMP_NAME):
            return _as_moment(schema, value)
        case Type.INT8 | Type.INT16 | Type.INT32 | Type.INT64:
            return to_whole(value, INTEGER_BITS[schema.type])
        case Type.FLOAT32:
            return as_float32(to_real(value))
        case Type.FLOAT64:
            return to_real(value)
        case Type.BYTES if schema.name == DECIMAL_NAME:
            return _as_decimal(schema, value)
        case Type.BYTES if isinstance(value, bytes):
            return value
        case Type.ARRAY if isinstance(value, list):
            return value
        case Type.MAP if isinstance(value, dict):
            return value
        case Type.STRUCT if isinstance(value, Struct):
            return value
    raise DataError(f"Unable to convert {value} ({type(value).__name__}) to {schema!r}")


def _as_moment(schema: Schema, value: Any) -> Any:
    if not isinstance(value, int | float | decimal.Decimal | str) or isinstance(value, bool):
        return value
    number = to_whole(value, INTEGER_BITS[schema.type])
    if schema.name == TIMESTAMP_NAME:
        return ms_to_timestamp(number)
    return days_to_date(number) if schema.name == DATE_NAME else ms_to_time(number)


def _as_decimal(schema: Schema, value: Any) -> decimal.Decimal:
    match value:
        case bytes():
            return bytes_to_decimal(schema, value)
        case decimal.Decimal():
            return value
        case int() | float() if not isinstance(value, bool):
            return decimal.Decimal(double_text(float(value)))
        case str():
            try:
                return decimal.Decimal(value)
            except decimal.InvalidOperation:
                pass
    raise DataError(f"Unable to convert {value} ({type(value).__name__}) to {schema!r}")


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
                raise DataError(f"Unable to convert {value} ({type(value).__name__}) to a number") from None
        case _:
            raise DataError(f"Unable to convert {value} ({type(value).__name__}) to a number")
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
    raise DataError(f"Unable to convert {value} ({type(value).__name__}) to a number")
