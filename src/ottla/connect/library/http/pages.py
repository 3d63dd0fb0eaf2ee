"""What an answer in JSON has for us: records, their offsets, and whether these grow. Decides, and asks nobody.

An offset is one value or several, in the order in which they count: a time, and what tells two of one time apart. It has to
grow from record to record, since reading goes on behind the last one: a record with the same offset would never come.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError, DataError

#: The values of an offset, in the order in which they count.
Offset = tuple[Any, ...]
#: An offset as it is compared.
Rank = tuple[tuple[str, Any, str], ...]


def check_pointer(name: str, value: Any) -> None:
    """Accept '' and /a/b, as in RFC 6901.

    Raises:
        ConfigError: it is no such path.
    """
    if value and not value.startswith("/"):
        raise ConfigError.of(name, value, "a path such as /data/orders is needed")


def at(value: Any, path: str) -> Any:
    """Return what stands at a path within a value, /a/0/b or the name of a field.

    Raises:
        DataError: there is nothing.
    """
    parts = path[1:].split("/") if path.startswith("/") else [path] if path else []
    for part in parts:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise DataError(f"there is no {path}")
    return value


def records_in(value: Any, path: str) -> list[Any]:
    """Return the records of an answer: a list, or one that stands alone; null is none.

    Raises:
        ConnectError: they are not there.
    """
    try:
        found = at(value, path)
    except DataError as error:
        raise ConnectError(f"the answer has no records: {error} (http.records.path)") from error
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def offset_of(record: Any, fields: Sequence[str]) -> Offset:
    """Return the offset of a record.

    Raises:
        DataError: it has none.
    """
    return tuple(at(record, field) for field in fields)


def rank(offset: Sequence[Any]) -> Rank:
    """Return an offset as it is compared: numbers as numbers, times as times, texts letter by letter.

    Raises:
        DataError: it has a value that is none of these.
    """
    return tuple(_rank(value) for value in offset)


def _rank(value: Any) -> tuple[str, Any, str]:
    if isinstance(value, str):
        moment = _moment(value)
        return ("a text", value, "") if moment is None else ("a time", moment, value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return "a number", value, ""
    raise DataError(f"{value!r} is no offset: numbers, times and texts are")


def _moment(text: str) -> datetime.datetime | None:
    if len(text) < 16 or text[4] != "-" or text[10] not in "T ":
        return None
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=datetime.UTC) if found.tzinfo is None else found


def comes_after(later: Offset, earlier: Offset) -> bool:
    """Whether an offset has grown.

    Raises:
        DataError: they cannot be compared.
    """
    for one, other in zip(rank(later), rank(earlier), strict=True):
        if one[0] != other[0]:
            raise DataError(f"{shown(later)} is {one[0]}, and {shown(earlier)} before it is {other[0]}")
        if one != other:
            return one > other
    return False


def shown(offset: Sequence[Any]) -> str:
    """Return an offset for people."""
    return ", ".join(json.dumps(value, ensure_ascii=False, default=str) for value in offset)


def filled(template: str, fields: Sequence[str], offset: Sequence[Any]) -> str:
    """Return an address with an offset in it: ${offset} is the first value, ${offset.2} the second."""
    for number, (_, value) in enumerate(zip(fields, offset, strict=True), 1):
        text = quote(value if isinstance(value, str) else json.dumps(value), safe="")
        template = template.replace(f"${{offset.{number}}}", text)
        if number == 1:
            template = template.replace("${offset}", text)
    return template
