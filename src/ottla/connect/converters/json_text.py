"""JSON as Java's Jackson reads and writes it: which texts are taken, how strings, numbers and bytes look."""

from __future__ import annotations

import binascii
import decimal
import json
import re
from base64 import b64decode, b64encode
from typing import Any

#: Characters beyond U+FFFF are written as the two halves of UTF-16, escaped.
_ESCAPED = re.compile('[\x00-\x1f"\\\\\ud800-\udfff\U00010000-\U0010ffff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_LEADING_ZEROS = re.compile(r"(?<![\w.+])(?<![\w.]-)(?<![eE]-)(-?)0+(?=[0-9])")
#: An envelope as Java writes it.
_SCHEMA, _PAYLOAD = '{"schema":', ',"payload":'
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')


class Missing:
    """What an empty text holds: no value at all."""


MISSING = Missing()


def quoted(text: str) -> str:
    """Return a string in quotes; only what has to be escaped is."""
    if _ESCAPED.search(text) is None:
        return f'"{text}"'
    return '"' + _ESCAPED.sub(lambda found: _SHORT.get(found[0]) or _escape(found[0]), text) + '"'


def _escape(char: str) -> str:
    data = char.encode("utf-16-be", "surrogatepass").hex().upper()
    return "".join(f"\\u{data[begin : begin + 4]}" for begin in range(0, len(data), 4))


def encoded(data: bytes) -> str:
    """Return bytes as a string of base 64."""
    return f'"{b64encode(data).decode("ascii")}"'


def decoded(text: str) -> bytes:
    """Return the bytes in base 64; blanks between groups of four characters do not count.

    Raises:
        ValueError: it is not base 64, or the padding is missing.
    """
    groups = []
    position = 0
    while position < len(text):
        if text[position] <= " ":
            position += 1
            continue
        groups.append(text[position : position + 4])
        position += 4
        if "=" in groups[-1]:
            if text[position:].strip("".join(map(chr, range(33)))):
                raise ValueError("text after the padding")
            break
    try:
        return b64decode("".join(groups).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_float=decimal.Decimal, parse_constant=_no_constant)


def read(data: bytes) -> Any:
    """Return what is in a JSON text; numbers with a point or an exponent are decimals, exactly as they are written.

    As Jackson does, what follows the first value is not looked at, numbers may begin with zeros, and an empty text is
    MISSING.

    Raises:
        ValueError: it is no JSON.
    """
    text = data.decode("utf-8-sig", "strict")
    begin = len(text) - len(text.lstrip(" \t\r\n"))
    if begin == len(text):
        return MISSING
    try:
        return _first_value(text, begin)
    except ValueError:
        if _LEADING_ZEROS.search(text) is None:
            raise
    return _first_value(_without_zeros(text), begin)


def read_last(data: bytes, begin: int) -> tuple[Any] | None:
    """Return the value that stands alone between `begin` and the brace that ends the text; None: something else does.

    What is not the plain case is for `read`, also where it is no JSON.
    """
    if not data.endswith(b"}"):
        return None
    try:
        text = str(data[begin:-1], "utf-8")
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return (value,) if end == len(text) else None


def before_payload(data: bytes) -> bytes | None:
    """Return what stands before the payload of an envelope; None: it is written in another order, or with blanks."""
    text = data.decode()
    if not text.startswith(_SCHEMA):
        return None
    _, end = _DECODER.raw_decode(text, len(_SCHEMA))
    return text[: end + len(_PAYLOAD)].encode() if text.startswith(_PAYLOAD, end) else None


def _first_value(text: str, begin: int) -> Any:
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except RecursionError:
        raise ValueError("the text is nested too deeply") from None
    if not isinstance(value, str | list | dict) and end < len(text) and text[end] not in " \t\r\n":
        raise ValueError("a number or a word goes on with what is none")
    return value


def _without_zeros(text: str) -> str:
    """Return the text with numbers that do not begin with zeros, which Python's parser refuses; strings stay as they are."""
    parts = []
    end = 0
    for found in _STRINGS.finditer(text):
        parts += [_LEADING_ZEROS.sub(r"\1", text[end : found.start()]), found[0]]
        end = found.end()
    parts.append(_LEADING_ZEROS.sub(r"\1", text[end:]))
    return "".join(parts)
