"""Keys and values as they stand in addresses and answers: text and JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

from ottla.serde import json as json_serde
from ottla.streams.serdes import FLOAT64, INT64, RAW, TEXT, AnySerde, CanonicalJson

_PLAIN = json_serde()


def read_key(serde: AnySerde, text: str) -> Any:
    """Return the key that a part of an address means: text as it is, numbers in digits, other keys as JSON.

    Raises:
        ValueError: it is none.
    """
    if serde is TEXT:
        return text
    if serde is RAW:
        return text.encode()
    if serde is INT64:
        return int(text)
    if serde is FLOAT64:
        return float(text)
    if isinstance(serde, CanonicalJson):
        return json.loads(text)
    try:
        # A serde of the user's, or of a class: what it makes of these bytes is the key, if it makes one.
        return serde.deserialize("", text.encode())
    except Exception as error:
        raise ValueError(f"{text!r} is no key of this store: {error}") from error


def as_json(value: Any) -> Any:
    """Return an object as JSON can say it: bytes that are no text become {"base64": ...}."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    try:
        return json.loads(_PLAIN.serialize("", value))
    except (TypeError, ValueError):
        return str(value)
