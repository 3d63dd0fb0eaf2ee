"""How `ottla consume` prints a record: kcat's format strings, and JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ottla.client.errors import ConfigurationError

if TYPE_CHECKING:
    from ottla.client.consumed import Record

    AnyRecord = Record[bytes | None, bytes | None]
    Part = Callable[[AnyRecord], bytes]

HELP = (
    "%s value, %S its size (-1: none), %k key, %K its size, %T time in ms, %h headers, %t topic, %p partition, %o offset, "
    "%% a percent sign; \\n \\r \\t \\xXX"
)
_ESCAPE = re.compile(r"\\(n|r|t|0|\\|x[0-9a-fA-F]{1,2})")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}


def unescape(text: str) -> bytes:
    """Return the bytes of a text in which \\n, \\r, \\t and \\xXX stand for one."""

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        return _ESCAPED[name] if name in _ESCAPED else chr(int(name[1:], 16))

    parts = []
    position = 0
    for found in _ESCAPE.finditer(text):
        parts += [text[position : found.start()].encode(), replace(found).encode("latin-1")]
        position = found.end()
    return b"".join([*parts, text[position:].encode()])


def compile_format(text: str, null: bytes) -> Part:
    """Return a function that prints a record as a format string of kcat's says.

    Raises:
        ConfigurationError: it has a letter that means nothing.
    """
    parts: list[Part] = []
    literal = ""
    index = 0
    while index < len(text):
        if text[index] != "%":
            literal += text[index]
            index += 1
            continue
        letter = text[index + 1 : index + 2]
        index += 2
        if letter == "%":
            literal += "%"
            continue
        if literal:
            parts.append(_constant(unescape(literal)))
            literal = ""
        parts.append(_field(letter, null))
    if literal:
        parts.append(_constant(unescape(literal)))
    return lambda record: b"".join(part(record) for part in parts)


def _constant(data: bytes) -> Part:
    return lambda _record: data


def _field(letter: str, null: bytes) -> Part:
    fields: dict[str, Part] = {
        "s": lambda record: null if record.value_bytes is None else record.value_bytes,
        "S": lambda record: b"%d" % (-1 if record.value_bytes is None else len(record.value_bytes)),
        "k": lambda record: null if record.key_bytes is None else record.key_bytes,
        "K": lambda record: b"%d" % (-1 if record.key_bytes is None else len(record.key_bytes)),
        "T": lambda record: b"%d" % record.timestamp_ms,
        "h": _headers,
        "t": lambda record: record.topic.encode(),
        "p": lambda record: b"%d" % record.partition,
        "o": lambda record: b"%d" % record.offset,
    }
    found = fields.get(letter)
    if found is None:
        raise ConfigurationError(f"%{letter} means nothing in a format.", f"There are {HELP}.")
    return found


def _headers(record: AnyRecord) -> bytes:
    return b",".join(
        name.encode() + b"=" + (b"NULL" if value is None else value) for name, value in record.headers.multi_items()
    )


def as_json(record: AnyRecord) -> bytes:
    """Return a record as one line of JSON; values that are JSON objects or arrays are nested, other bytes base64."""
    line: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        **_text("key", record.key_bytes, nested=False),
        **_text("value", record.value_bytes, nested=True),
    }
    headers = [[name, _header(value)] for name, value in record.headers.multi_items()]
    if headers:
        line["headers"] = headers
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _text(name: str, data: bytes | None, *, nested: bool) -> dict[str, Any]:
    if data is None:
        return {name: None}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
    if nested and text[:1] in ("{", "["):
        try:
            return {name: json.loads(text)}
        except ValueError:
            pass
    return {name: text}


def _header(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
