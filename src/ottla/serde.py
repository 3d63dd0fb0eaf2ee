"""Serializers and deserializers: between objects and the bytes of keys and values.

Clients take functions as well: a serializer is any (topic, object) -> bytes, a deserializer any (topic, bytes) -> object.
Numbers and UUIDs are written as Kafka's own serializers do, so that Java programs read them. JSON takes and gives plain
objects, dataclasses, and, where they are installed, msgspec structs and pydantic models. None is never given to them: a
key or value of None stays None, so what consumers get is an object or None. With `json(Order, null="error")` None is an
error instead, and the type says so.
"""

from __future__ import annotations

import dataclasses
import json as _json
import struct as _struct
import sys
import uuid as _uuid
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast, overload

T = TypeVar("T")


class Serde(Generic[T]):
    """Both directions: pass it as `value_serializer=` or as `value_deserializer=`.

    Attributes:
        null_is_error: whether a key or value of None counts as one that cannot be deserialized.
    """

    null_is_error: bool = False

    def __init__(self, name: str, dump: Callable[[T], bytes], load: Callable[[bytes], T]) -> None:
        self._name: str = name
        self._dump: Callable[[T], bytes] = dump
        self._load: Callable[[bytes], T] = load

    def serialize(self, topic: str, value: T, /) -> bytes:
        """Return the object as bytes.

        Raises:
            ValueError, TypeError: it cannot be written in this format.
        """
        return self._dump(value)

    def deserialize(self, topic: str, data: bytes, /) -> T | None:
        """Return the object that `data` was made of. (None is what consumers make of None; this returns none.)

        Raises:
            ValueError: the bytes are not of this format.
        """
        return self._load(data)

    def __repr__(self) -> str:
        return f"ottla.serde.{self._name}"


class RequiredSerde(Serde[T]):
    """A serde that takes no None: a key or value of None cannot be deserialized."""

    null_is_error: bool = True

    def deserialize(self, topic: str, data: bytes, /) -> T:
        """Return the object that `data` was made of.

        Raises:
            ValueError: the bytes are not of this format.
        """
        return self._load(data)


def _number(name: str, letter: str, kind: type[T]) -> Serde[T]:
    packer = _struct.Struct(">" + letter)

    def dump(value: T) -> bytes:
        try:
            return packer.pack(value)
        except _struct.error as error:
            raise ValueError(f"{value!r} does not fit: {error}") from None

    def load(data: bytes) -> T:
        if len(data) != packer.size:
            raise ValueError(f"a {name} has {packer.size} bytes, not {len(data)}")
        return cast("T", packer.unpack(data)[0])

    return Serde(name, dump, load)


def _load_uuid(data: bytes) -> _uuid.UUID:
    return _uuid.UUID(data.decode())


#: Text as UTF-8 (Kafka's StringSerializer).
string: Serde[str] = Serde("string", str.encode, bytes.decode)
#: 16, 32 and 64 bits, big-endian (ShortSerializer, IntegerSerializer, LongSerializer).
int16: Serde[int] = _number("int16", "h", int)
int32: Serde[int] = _number("int32", "i", int)
int64: Serde[int] = _number("int64", "q", int)
#: 32 and 64 bits, big-endian (FloatSerializer, DoubleSerializer).
float32: Serde[float] = _number("float32", "f", float)
float64: Serde[float] = _number("float64", "d", float)
#: As text (UUIDSerializer).
uuid: Serde[_uuid.UUID] = Serde("uuid", lambda value: str(value).encode(), _load_uuid)


@overload
def json(*, null: Literal["none"] = "none") -> Serde[Any]: ...
@overload
def json(*, null: Literal["error"]) -> RequiredSerde[Any]: ...
@overload
def json(kind: type[T], *, null: Literal["none"] = "none") -> Serde[T]: ...
@overload
def json(kind: type[T], *, null: Literal["error"]) -> RequiredSerde[T]: ...
def json(kind: type[Any] | None = None, *, null: Literal["none", "error"] = "none") -> Serde[Any]:
    """Return a serde for JSON: of plain objects, or of one type.

    Args:
        kind: what `deserialize` makes: a dataclass, a msgspec struct, a pydantic model. None gives dicts, lists and so
            on.
        null: what a consumer makes of a key or value of None, a tombstone: "none" leaves it as it is, "error" counts
            it as one that cannot be deserialized.

    Raises:
        TypeError: `kind` is nothing that JSON is made into.
        ValueError: `null` is neither.
    """
    if null not in ("none", "error"):
        raise ValueError(f"null={null!r} is not valid: it takes 'none' or 'error'")
    arguments = [] if kind is None else [kind.__name__]
    load = _load_json if kind is None else _loader(kind)
    if null == "error":
        return RequiredSerde(f"json({', '.join([*arguments, 'null=' + repr(null)])})", _dump_json, load)
    return Serde(f"json({', '.join(arguments)})", _dump_json, load)


def _dump_json(value: Any) -> bytes:
    """Numbers, text, lists, dicts, dataclasses, and what knows itself how it is written."""
    kind = type(value)
    if kind is int:
        return b"%d" % value
    if kind is dict or kind is list or kind is str:
        return _encode(value).encode()
    dump = getattr(value, "model_dump_json", None)
    if dump is not None:  # pydantic
        return cast("str", dump()).encode()
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(value, msgspec.Struct):
        return cast("bytes", msgspec.json.encode(value))
    return _encode(value).encode()


def _load_json(data: bytes) -> Any:
    """As `json.loads`; text in UTF-8 without space around it, which almost all is, takes a shorter way."""
    try:
        text = data.decode()
        found, end = _raw_decode(text)
        if end == len(text):
            return found
    except (ValueError, AttributeError):
        pass
    return _json.loads(data)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


#: `json.dumps` with arguments makes an encoder for each call; this one stays.
_encode = _json.JSONEncoder(default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_raw_decode = _json.JSONDecoder().raw_decode


def _loader(kind: type[T]) -> Callable[[bytes], T]:
    load = getattr(kind, "model_validate_json", None)
    if load is not None:  # pydantic
        return cast("Callable[[bytes], T]", load)
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and issubclass(kind, msgspec.Struct):
        return cast("Callable[[bytes], T]", msgspec.json.Decoder(kind).decode)
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind!r} is no dataclass, msgspec struct or pydantic model")

    def load_dataclass(data: bytes) -> T:
        found = _load_json(data)
        if not isinstance(found, dict):
            raise ValueError(f"a {kind.__name__} is an object in JSON, not {type(found).__name__}")
        try:
            return kind(**found)
        except TypeError as error:
            raise ValueError(f"this is no {kind.__name__}: {error}") from None

    return load_dataclass
