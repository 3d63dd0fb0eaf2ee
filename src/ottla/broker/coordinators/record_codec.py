"""Records of internal topics as bytes: an int16 type and the key; an int16 version and the value, or no value."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.protocol.codec import decoder, encoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ottla.protocol.primitives import Buffer
    from ottla.protocol.schema import Message

_INT16 = struct.Struct(">h")


class RecordCodec:
    """Encodes and decodes the records of one internal topic.

    Args:
        types: record type -> classes of key and value.
    """

    def __init__(self, types: Mapping[int, tuple[type[Message], type[Message]]]) -> None:
        self._types = types
        self._by_key_class = {key_class: (number, value_class) for number, (key_class, value_class) in types.items()}

    def encode(self, record: CoordinatorRecord) -> tuple[bytes, bytes | None]:
        """Return key and value as bytes."""
        key_class = type(record.key)
        number, value_class = self._by_key_class[key_class]
        parts: list[Buffer] = [_INT16.pack(number)]
        encoder(key_class, 0)(record.key, parts.append)
        key = b"".join(parts)
        if record.value is None:
            return key, None
        assert isinstance(record.value, value_class)
        parts = [_INT16.pack(record.value_version)]
        encoder(value_class, record.value_version)(record.value, parts.append)
        return key, b"".join(parts)

    def decode(self, key: bytes, value: bytes | None) -> CoordinatorRecord | None:
        """Return the record, or None if its type or version is not known.

        Raises:
            RemoteProtocolError: the bytes do not fit the type.
        """
        if len(key) < 2:
            return None
        types = self._types.get(_INT16.unpack_from(key)[0])
        if types is None:
            return None
        key_class, value_class = types
        decoded_key, _ = decoder(key_class, 0)(key, 2)
        if value is None or len(value) < 2:
            return CoordinatorRecord(decoded_key, None)
        (version,) = _INT16.unpack_from(value)
        lowest, highest = value_class.VERSIONS
        if not lowest <= version <= highest:
            return None
        decoded_value, _ = decoder(value_class, version)(value, 2)
        return CoordinatorRecord(decoded_key, decoded_value, version)
