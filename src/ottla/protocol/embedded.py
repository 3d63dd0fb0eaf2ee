"""Bytes inside bytes: messages that travel in a field of a message or in a record, behind an int16.

* Records of internal topics (`__consumer_offsets` ...): the int16 of a key is the type of the record, the int16 of a
  value is the version of that type's value. A key without a value is a tombstone.
* What classic consumers hand each other through JoinGroup and SyncGroup (`messages.consumer_protocol`): the int16 is
  the version. A version newer than the newest known one is read as that: fields are only ever added at the end.
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar

from ottla.errors import RemoteProtocolError
from ottla.protocol.codec import decode, encode
from ottla.protocol.primitives import Buffer
from ottla.protocol.schema import Message

M = TypeVar("M", bound=Message)

_PREFIX: Final = struct.Struct(">h")


def read_prefix(data: Buffer) -> int:
    """Return the int16 in front: the type of a record key, or a version.

    Raises:
        RemoteProtocolError: fewer than two bytes.
    """
    if len(data) < 2:
        raise RemoteProtocolError(f"{len(data)} bytes are too few for a version")
    prefix: int = _PREFIX.unpack_from(data)[0]
    return prefix


def encode_key(key: Message) -> bytes:
    """Return the key of a record: its type and the key itself, which has one version only."""
    if key.API_KEY is None:
        raise TypeError(f"{type(key).__name__} is not the key of a record")
    return _PREFIX.pack(key.API_KEY) + encode(key, key.VERSIONS[1])


def decode_key(cls: type[M], data: Buffer) -> M:
    """Read the key of a record; choose `cls` by `read_prefix`.

    Raises:
        RemoteProtocolError: the record is of another type, or malformed.
    """
    if read_prefix(data) != cls.API_KEY:
        raise RemoteProtocolError(f"record of type {read_prefix(data)}, not {cls.__name__}")
    return _whole(cls, cls.VERSIONS[1], data)


def encode_versioned(message: Message, version: int) -> bytes:
    """Return a message behind its version: the value of a record, or a consumer's subscription or assignment."""
    return _PREFIX.pack(version) + encode(message, version)


def decode_versioned(cls: type[M], data: Buffer) -> M:
    """Read the value of a record.

    Raises:
        RemoteProtocolError: the version is not known, or the value is malformed.
    """
    version = read_prefix(data)
    low, high = cls.VERSIONS
    if not low <= version <= high:
        raise RemoteProtocolError(f"{cls.__name__} of version {version}; known are {low} to {high}")
    return _whole(cls, version, data)


def decode_consumer_protocol(cls: type[M], data: Buffer) -> M:
    """Read a consumer's subscription or assignment, of any version; bytes after the known fields are ignored.

    Raises:
        RemoteProtocolError: the version is negative, or the bytes are malformed.
    """
    version = read_prefix(data)
    if version < cls.VERSIONS[0]:
        raise RemoteProtocolError(f"{cls.__name__} of version {version}")
    message, _ = decode(cls, min(version, cls.VERSIONS[1]), data, 2)
    return message


def _whole(cls: type[M], version: int, data: Buffer) -> M:
    message, end = decode(cls, version, data, 2)
    if end != len(data):
        raise RemoteProtocolError(f"{len(data) - end} bytes after {cls.__name__} v{version}")
    return message
