"""Serdes of streams: what `key=` and `value=` may be, and those that only this package needs.

A serde is any object with serialize(topic, object) and deserialize(topic, bytes), those of `ottla.serde` among them.
"""

from __future__ import annotations

import dataclasses
import json as _json
import sys
import uuid as _uuid
from collections.abc import Callable
from typing import Any, Protocol

from ottla import serde as plain
from ottla.client._core.partitioner import murmur2
from ottla.streams.keys import Window, Windowed, session_key, split_session_key, windowed_key


class AnySerde(Protocol):
    """Between objects and bytes."""

    def serialize(self, topic: str, value: Any, /) -> bytes | None: ...
    def deserialize(self, topic: str, data: Any, /) -> Any: ...


class Raw:
    """Bytes as they are."""

    def serialize(self, topic: str, value: Any, /) -> bytes:
        if type(value) is bytes:
            return value
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        raise TypeError(f"bytes are needed, not {type(value).__name__}; say how to write it with key= or value=")

    def deserialize(self, topic: str, data: bytes, /) -> bytes:
        return data

    def __repr__(self) -> str:
        return "bytes"


class Text:
    """UTF-8, as Java's StringSerializer writes."""

    def serialize(self, topic: str, value: Any, /) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f"text is needed, not {type(value).__name__}; say how to write it with key= or value=")
        return value.encode()

    def deserialize(self, topic: str, data: bytes, /) -> str:
        return data.decode()

    def __repr__(self) -> str:
        return "str"


class Guess:
    """For sinks that were not told: bytes as they are, text as UTF-8, anything else as JSON."""

    def __init__(self) -> None:
        self._json = plain.json()

    def serialize(self, topic: str, value: Any, /) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        return self._json.serialize(topic, value)

    def deserialize(self, topic: str, data: bytes, /) -> Any:
        raise TypeError("what was written by guessing cannot be read: say value=")

    def __repr__(self) -> str:
        return "guess"


class CanonicalJson:
    """JSON for keys: equal objects give equal bytes (fields sorted, no NaN), so that they meet in one partition and
    entry."""

    def __init__(self, kind: type[Any] | None = None) -> None:
        self._kind = kind
        self._load = plain.json() if kind is None else plain.json(kind)

    def serialize(self, topic: str, value: Any, /) -> bytes:
        text = _json.dumps(
            _without_classes(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()

    def deserialize(self, topic: str, data: bytes, /) -> Any:
        return self._load.deserialize(topic, data)

    def __repr__(self) -> str:
        return "json()" if self._kind is None else f"json({self._kind.__name__})"


def _without_classes(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:  # pydantic
        return dump(mode="json")
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _without_classes(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _without_classes(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [_without_classes(found) for found in value]
    return value


class RowSerde:
    """Rows: dicts of fields, made of what another serde reads.

    Attributes:
        fields: the names of all fields, where the type says them.
    """

    def __init__(self, inner: AnySerde, fields: frozenset[str] | None = None) -> None:
        self.inner = inner
        self.fields = fields
        self._names = None if fields is None else sorted(fields)

    def serialize(self, topic: str, value: Any, /) -> bytes | None:
        return plain.json().serialize(topic, value) if self.fields is None else self.inner.serialize(topic, value)

    def deserialize(self, topic: str, data: Any, /) -> dict[str, Any]:
        found = self.inner.deserialize(topic, data)
        if type(found) is dict:
            return found
        if self._names is None:
            raise TypeError(f"a row is an object with fields, not {type(found).__name__}")
        return {name: getattr(found, name) for name in self._names}

    def __repr__(self) -> str:
        return f"rows({self.inner!r})"


class PlacesSerde:
    """What aggregations over columns keep: a tuple of numbers, text and None, as JSON."""

    #: Types whose objects a cache may keep instead of their bytes: nobody can change them.
    unchanging: tuple[type[Any], ...] = (tuple,)

    def __init__(self) -> None:
        json: plain.Serde[Any] = plain.json()
        self._dump, self._load = json.serialize, json.deserialize

    def serialize(self, topic: str, value: Any, /) -> bytes | None:
        return self._dump(topic, value)

    def deserialize(self, topic: str, data: Any, /) -> tuple[Any, ...]:
        return tuple(self._load(topic, data) or ())

    def __repr__(self) -> str:
        return "places"


class TimeWindowedSerde:
    """Keys of tumbling, hopping and sliding windows. Their records go where the key alone would go."""

    def __init__(self, inner: AnySerde, size_ms: int) -> None:
        self.inner = inner
        self._size_ms = size_ms

    def serialize(self, topic: str, value: Windowed, /) -> bytes:
        return windowed_key(self.inner.serialize(topic, value.key) or b"", value.window.start)

    def deserialize(self, topic: str, data: bytes, /) -> Windowed:
        start = int.from_bytes(data[-8:], "big", signed=True)
        return Windowed(self.inner.deserialize(topic, data[:-8]), Window(start, start + self._size_ms))

    def partition_bytes(self, topic: str, value: Windowed, count: int, /) -> int:
        """Return the partition that the inner key has."""
        return partition_of(self.inner.serialize(topic, value.key) or b"", count)

    def __repr__(self) -> str:
        return f"windowed({self.inner!r})"


class SessionWindowedSerde:
    """Keys of session windows."""

    def __init__(self, inner: AnySerde) -> None:
        self.inner = inner

    def serialize(self, topic: str, value: Windowed, /) -> bytes:
        return session_key(self.inner.serialize(topic, value.key) or b"", value.window.start, value.window.end)

    def deserialize(self, topic: str, data: bytes, /) -> Windowed:
        key, start, end = split_session_key(data)
        return Windowed(self.inner.deserialize(topic, key), Window(start, end))

    def partition_bytes(self, topic: str, value: Windowed, count: int, /) -> int:
        """Return the partition that the inner key has."""
        return partition_of(self.inner.serialize(topic, value.key) or b"", count)

    def __repr__(self) -> str:
        return f"session({self.inner!r})"


def partition_of(key: bytes, count: int) -> int:
    """Return where Kafka's default partitioner puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % count


RAW = Raw()
TEXT = Text()
INT64 = plain.int64
FLOAT64 = plain.float64
GUESS = Guess()

_SIMPLE: dict[Any, Callable[[], AnySerde]] = {
    bytes: lambda: RAW,
    str: lambda: TEXT,
    "bytes": lambda: RAW,
    "str": lambda: TEXT,
    int: lambda: INT64,
    float: lambda: FLOAT64,
    _uuid.UUID: lambda: plain.uuid,
}


def make_serde(name: str, given: Any, *, key: bool = False) -> AnySerde | None:
    """Return the serde that a user means; None stays None.

    Args:
        given: bytes, str, int (64 bits), float (64 bits), uuid.UUID, "json", dict or list (JSON), a dataclass, a
            msgspec struct, a pydantic model, or an object with serialize and deserialize.
        key: a key: JSON is written canonically.

    Raises:
        TypeError: it is none of these.
    """
    if given is None:
        return None
    try:
        simple = _SIMPLE.get(given)
    except TypeError:
        simple = None
    if simple is not None:
        return simple()
    if given == "json" or given in (dict, list):
        return CanonicalJson() if key else plain.json()
    if isinstance(given, type):
        try:
            return CanonicalJson(given) if key else plain.json(given)
        except TypeError:
            raise TypeError(f"{name}: nothing is known of {given.__name__} as bytes; give an object with serialize(topic, "
                            f"object) and deserialize(topic, bytes)") from None  # fmt: skip
    if callable(getattr(given, "serialize", None)) and callable(getattr(given, "deserialize", None)):
        return given  # type: ignore[no-any-return]
    raise TypeError(f'{name} is a type, "json" or an object with serialize and deserialize, not {given!r}')
