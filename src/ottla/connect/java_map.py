"""The order in which Java's HashMap gives its entries.

Connect keeps maps without a schema in HashMaps, and writes them as JSON in their order: it is part of the bytes, and so,
in a key, of what decides about the partition. Buckets that Java has turned into trees (nine or more keys in one of at
least 64) are taken in the order of insertion, which Java may give otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from ottla.connect.schema import Type


def string_hash(text: str) -> int:
    """Return `String.hashCode`, as 32 bits without a sign."""
    found = 0
    for unit in (
        struct.unpack(f">{len(data) // 2}H", data) if (data := text.encode("utf-16-be", "surrogatepass")) else ()
    ):
        found = (31 * found + unit) & 0xFFFFFFFF
    return found


def java_hash(value: Any, kind: Type = Type.INT64) -> int | None:
    """Return `hashCode` of a key, as 32 bits without a sign; None where this is not known.

    Args:
        kind: what an int or a float is in Java; what is neither shows it itself.
    """
    match value:
        case None:
            return 0
        case str():
            return string_hash(value)
        case bool():
            return 1231 if value else 1237
        case int() if kind is Type.INT64:
            bits = value & 0xFFFFFFFFFFFFFFFF
            return bits >> 32 ^ bits & 0xFFFFFFFF
        case int():
            return value & 0xFFFFFFFF
        case float() if kind is Type.FLOAT32:
            return int.from_bytes(struct.pack(">f", value))
        case float():
            bits = int.from_bytes(struct.pack(">d", value))
            return bits >> 32 ^ bits & 0xFFFFFFFF
    return None


def _power(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


class HashMap:
    """A HashMap that is filled, for the order of what is in it.

    Args:
        copied: the entries of another map, as `new HashMap<>(map)` takes them.
        expected: the initial capacity, as `new HashMap<>(expected)`.
        kind: what int and float keys are in Java.
    """

    __slots__ = ("_capacity", "_entries", "_kind")

    def __init__(
        self, copied: Mapping[Any, Any] | None = None, *, expected: int | None = None, kind: Type = Type.INT64
    ) -> None:
        self._kind = kind
        self._entries: dict[Any, Any] = {}
        self._capacity = 16
        if expected is not None:
            self._capacity = _power(max(expected, 1))
        if copied:
            self._capacity = _power(-(-len(copied) * 4 // 3))
            for key, value in copied.items():
                self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._entries[key] = value
        while len(self._entries) * 4 > self._capacity * 3:
            self._capacity *= 2

    def pop(self, key: Any) -> Any:
        """Remove an entry; return its value, or None."""
        return self._entries.pop(key, None)

    def as_dict(self) -> dict[Any, Any]:
        """Return the entries in the order of the HashMap; in that of insertion if a key's hash is not known."""
        places: dict[Any, int] = {}
        for key in self._entries:
            found = java_hash(key, self._kind)
            if found is None:
                return dict(self._entries)
            places[key] = (found ^ found >> 16) & self._capacity - 1
        # Doubling keeps the order within a bucket, so that the last capacity tells all.
        return {key: self._entries[key] for key in sorted(self._entries, key=places.__getitem__)}


def hash_map(entries: Iterable[tuple[Any, Any]], kind: Type = Type.INT64) -> dict[Any, Any]:
    """Return entries in the order of a HashMap that they are put into one by one."""
    made = HashMap(kind=kind)
    for key, value in entries:
        made[key] = value
    return made.as_dict()


@lru_cache(maxsize=4096)
def hash_order(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return keys, each a text or None, in the order of a HashMap that they are put into one by one."""
    return tuple(hash_map((key, None) for key in keys))
