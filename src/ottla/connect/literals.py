"""Values read from text: what headers hold, and literals in configurations.

The text tells the type. A number takes the smallest type that holds it; dates, times and timestamps have their ISO form; a
list is in brackets and a map in braces, with texts in quotes. All other text is a string.

The text is cut into tokens first: each of `:,{}[]"` is one unless a backslash stands before it, and so is what lies between
two of them. `_bracketed` and `_member` read the tokens by this grammar, in which blank tokens do not count:

    list   = "[" { member "," } [ member ] "]"
    map    = "{" { member ":" member [ "," ] } "}"
    member = list | map | quoted | null | true | false | scalar
    quoted = '"' { any other token } '"'

Java's `SimpleHeaderConverter` reads the same texts as the same values. That includes its surprises: what follows a list, a
map, a date or a number at the beginning of a text is dropped, and a list of numbers with a null in it is a string.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Iterable
from typing import Any

from ottla.connect.converters.base import SchemaAndValue
from ottla.connect.errors import DataError
from ottla.connect.java_text import as_float32
from ottla.connect.logical import (
    DATE,
    DAY_MS,
    TIME,
    TIMESTAMP,
    days_to_date,
    decimal_scale,
    decimal_schema,
    ms_to_time,
    ms_to_timestamp,
)
from ottla.connect.schema import (
    BOOLEAN,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    INTEGER_BITS,
    STRING,
    Schema,
    Type,
)
from ottla.connect.values import to_real

_BLANKS = "".join(map(chr, range(33)))
_TOKEN = re.compile(r"""[:,{}\[\]"]|(?:\\.?|[^:,{}\[\]"\\])+""", re.DOTALL)
_NUMBER = re.compile(r"(?!\.)[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,10})?")
_DAY = r"(-?\d+)-(-?\d+)-(-?\d+)"
_CLOCK = r"(\d+):(\d+):(\d+)\.(\d+)Z"
#: The form of a moment by the length of its text.
_MOMENTS = {10: re.compile(_DAY), 13: re.compile(_CLOCK), 24: re.compile(f"{_DAY}T{_CLOCK}")}
_FROM_NUMBER = {DATE.name: days_to_date, TIME.name: ms_to_time, TIMESTAMP.name: ms_to_timestamp}
_NULL = SchemaAndValue(None, None)
_WORDS = {"null": _NULL, "true": SchemaAndValue(BOOLEAN, True), "false": SchemaAndValue(BOOLEAN, False)}
_INTEGERS = (INT8, INT16, INT32, INT64)
_WIDTH = {schema.type: width for width, schema in enumerate((*_INTEGERS, FLOAT32, FLOAT64))}


def parse_text(text: str | None) -> SchemaAndValue:
    """Return what a text stands for; a string if nothing else."""
    if text is None:
        return _NULL
    string = SchemaAndValue(STRING, text)
    tokens = _TOKEN.findall(text)
    words = [token.strip(_BLANKS) for token in tokens]
    start = 0 if any(words[:1]) else 1  # a blank token has a delimiter after it, or nothing
    if start >= len(words):
        return string
    if words[start] in ("[", "{"):
        try:
            return _bracketed(tokens, start)[0]
        except DataError:  # the blanks are all that Java keeps of a text with blanks before a broken list
            return SchemaAndValue(STRING, tokens[0]) if start else string
    if len(words) == 1 and words[0] in _WORDS:
        return _WORDS[words[0]]
    found = _scalar(tokens, start)
    return string if found is None else found[0]


# Each of these takes all tokens and where to begin, and returns what it has read and where that ends.


def _bracketed(tokens: list[str], at: int) -> tuple[SchemaAndValue, int]:
    """Read a list or a map. What ends before its bracket, or is none by the grammar, raises DataError."""
    is_map = tokens[at] == "{"
    keys: list[SchemaAndValue] = []
    members: list[SchemaAndValue] = []
    at = _solid(tokens, at + 1)
    while tokens[at] != ("}" if is_map else "]"):
        if is_map:
            key, at = _member(tokens, at)
            if key.value is None or isinstance(key.value, list | dict):
                raise DataError(f"{key.value} cannot be the key of a map")
            keys.append(key)
            at = _after(":", tokens, at)
        member, at = _member(tokens, at)
        members.append(member)
        if tokens[at] == ",":
            at = _solid(tokens, at + 1)
        elif not is_map and tokens[at] != "]":
            raise DataError(f"there is {tokens[at]} where a comma belongs")
    return (_map_of(keys, members) if is_map else _list_of(members)), at + 1


def _member(tokens: list[str], at: int) -> tuple[SchemaAndValue, int]:
    """Read what is in a list or a map; the end is where the next token stands that is not blank."""
    word = tokens[at].strip(_BLANKS)
    if word in ("[", "{"):
        found, at = _bracketed(tokens, at)
    elif word == '"':
        end = _index(tokens, '"', at + 1)
        content = "".join(token for token in tokens[at + 1 : end] if token.strip(_BLANKS))
        found, at = _moment(content) or SchemaAndValue(STRING, content), end + 1
    elif word in _WORDS:
        found, at = _WORDS[word], at + 1
    else:
        scalar = _scalar(tokens, at)
        if scalar is None:
            raise DataError(f"{word} needs quotes in a list or a map")
        found, at = scalar
    return found, _solid(tokens, at)


def _scalar(tokens: list[str], at: int) -> tuple[SchemaAndValue, int] | None:
    """Read a moment or a number that begins a token. The two colons of a time are tokens: with them it is five."""
    word = tokens[at].strip(_BLANKS)
    if word[0].isdigit():
        if at + 5 <= len(tokens) and (found := _moment(word + "".join(tokens[at + 1 : at + 5]))) is not None:
            return found, at + 5
        if (found := _moment(word)) is not None:
            return found, at + 1
    found = _number(word)
    return None if found is None else (found, at + 1)


def _solid(tokens: list[str], at: int) -> int:
    """Return where the first token from `at` on stands that is not blank."""
    while at < len(tokens):
        if tokens[at].strip(_BLANKS):
            return at
        at += 1
    raise DataError("a bracket is not closed")


def _after(wanted: str, tokens: list[str], at: int) -> int:
    if tokens[at] != wanted:
        raise DataError(f"there is {tokens[at]} where {wanted} belongs")
    return _solid(tokens, at + 1)


def _index(tokens: list[str], wanted: str, begin: int) -> int:
    try:
        return tokens.index(wanted, begin)
    except ValueError:
        raise DataError(f"there is no second {wanted}") from None


# Lists and maps


def _list_of(members: list[SchemaAndValue]) -> SchemaAndValue:
    common = _common(members)
    if common is None:
        return SchemaAndValue(Schema(Type.ARRAY), [member.value for member in members])
    return SchemaAndValue(Schema.array(common), [_fitted(common, member.value) for member in members])


def _map_of(keys: list[SchemaAndValue], members: list[SchemaAndValue]) -> SchemaAndValue:
    """Values have a schema only if the keys have one."""
    entries = {key.value: member.value for key, member in zip(keys, members, strict=True)}
    inside = _common(keys)
    if inside is None:
        return SchemaAndValue(Schema(Type.MAP), entries)
    entries = {_fitted(inside, key): value for key, value in entries.items()}
    common = _common(members)
    if common is None:
        return SchemaAndValue(Schema(Type.MAP, keys=inside), entries)
    return SchemaAndValue(Schema.map(inside, common), {key: _fitted(common, value) for key, value in entries.items()})


def _common(members: Iterable[SchemaAndValue]) -> Schema | None:
    """Return the last of the widest schemas; None where no schema holds all members. Nulls have none."""
    schemas = [member.schema for member in members if member.schema is not None]
    kinds = {schema.type for schema in schemas}
    if not kinds or (len(kinds) > 1 and not kinds <= _WIDTH.keys()):
        return None
    return max(reversed(schemas), key=lambda schema: _WIDTH.get(schema.type, 0))


def _fitted(schema: Schema, value: Any) -> Any:
    """Return a member as one of the common schema."""
    if value is None:
        raise DataError("a null does not fit where every other member has a schema")
    if schema.type in INTEGER_BITS:
        from_number = _FROM_NUMBER.get(schema.name)
        if from_number is not None:
            return from_number(value) if isinstance(value, int) else value
        if not isinstance(value, int):
            raise DataError(f"{value} is no integer")
    if schema.type is Type.FLOAT32:
        return as_float32(to_real(value))
    return to_real(value) if schema.type is Type.FLOAT64 else value


# Numbers and moments


def _number(text: str) -> SchemaAndValue | None:
    """Return a number as the smallest of its kind: an integer, a float, or else a decimal."""
    if not _NUMBER.fullmatch(text):
        return None
    try:
        number = decimal.Decimal(text)
        scale = decimal_scale(number)
    except (decimal.InvalidOperation, DataError):
        return None
    if not -(1 << 31) <= scale < 1 << 31:
        return None
    if number.adjusted() < 19 and (scale <= 0 or number == number.to_integral_value()):
        whole = int(number)
        bits = (whole if whole >= 0 else ~whole).bit_length() + 1
        for schema in _INTEGERS:
            if bits <= INTEGER_BITS[schema.type]:
                return SchemaAndValue(schema, whole)
    if scale != 0:
        try:
            real = float(number)
        except OverflowError:
            real = math.inf
        for schema, rounded in ((FLOAT32, as_float32(real)), (FLOAT64, real)):
            if math.isfinite(rounded):
                return SchemaAndValue(schema, rounded)
    return SchemaAndValue(decimal_schema(scale), number)


def _moment(text: str) -> SchemaAndValue | None:
    """Return the date, time or timestamp that a text of just the right length begins with. Like Java's parser it takes the
    thirteenth month for January."""
    text = text.replace("\\:", ":")
    form = _MOMENTS.get(len(text))
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
