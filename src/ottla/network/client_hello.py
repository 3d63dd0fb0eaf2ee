"""The first message of a TLS client: which name it asks for (SNI) and which protocols it offers (ALPN).

Python's ssl does not tell a server what a client has offered where nothing fits, so it is read here, from a copy of what goes
to OpenSSL. OpenSSL alone decides whether the message is one; what cannot be read here is left to it. RFC 8446 (4.1.2, 5.1),
RFC 6066 (3), RFC 7301 (3.1). Knows bytes, no sockets.
"""

from __future__ import annotations

from typing import NamedTuple

#: As long a first message as OpenSSL takes.
HELLO_BYTES_MAX = 131_396

#: The alert that says so to a client none of whose protocols is spoken here (no_application_protocol, fatal).
NO_COMMON_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _PROTOCOLS = 0, 16


class ClientHello(NamedTuple):
    """What was read of it.

    Attributes:
        server_name: the name that the client asked for, as it wrote it; None if it named none.
        protocols: what it offers, in its order; None if it offers nothing, as clients of Kafka do.
    """

    server_name: str | None
    protocols: tuple[bytes, ...] | None


class HelloReader:
    """Puts the message together from the records that carry it."""

    __slots__ = ("_message", "_records", "is_done")

    def __init__(self) -> None:
        self._records = bytearray()
        self._message = bytearray()
        #: Nothing more is to be fed: the message has been read, or cannot be.
        self.is_done = False

    def feed(self, data: bytes | memoryview) -> ClientHello | None:
        """Take bytes from the socket; return the message once it is complete."""
        if self.is_done:
            return None
        self._records += data
        try:
            found = self._advance()
        except (ValueError, IndexError):
            self.is_done = True
            return None
        self.is_done = found is not None
        return found

    def _advance(self) -> ClientHello | None:
        records, message, position = self._records, self._message, 0
        while not self._is_whole() and len(records) - position >= 5:
            size = int.from_bytes(records[position + 3 : position + 5], "big")
            if records[position] != _HANDSHAKE or records[position + 1] != 3 or not 0 < size <= 16_384:
                raise ValueError("no record of a handshake")
            if len(records) - position < 5 + size:
                break
            message += records[position + 5 : position + 5 + size]
            position += 5 + size
        del records[:position]
        return _read(bytes(message[4:])) if self._is_whole() else None

    def _is_whole(self) -> bool:
        message = self._message
        if len(message) < 4:
            return False
        size = int.from_bytes(message[1:4], "big")
        if message[0] != _CLIENT_HELLO or size > HELLO_BYTES_MAX:
            raise ValueError("no first message")
        return len(message) >= 4 + size


def _read(body: bytes) -> ClientHello:
    position = 34  # version and random
    for width in (1, 2, 1):  # session, suites, compressions
        _, position = _vector(body, position, width)
    server_name: str | None = None
    protocols: tuple[bytes, ...] | None = None
    if position < len(body):
        extensions, _ = _vector(body, position, 2)
        position = 0
        while position < len(extensions):
            kind = int.from_bytes(extensions[position : position + 2], "big")
            content, position = _vector(extensions, position + 2, 2)
            if kind == _SERVER_NAME:
                server_name = _first_name(content)
            elif kind == _PROTOCOLS:
                names, _ = _vector(content, 0, 2)
                protocols = tuple(_vectors(names))
    return ClientHello(server_name, protocols)


def _first_name(content: bytes) -> str | None:
    names, _ = _vector(content, 0, 2)
    if not names or names[0] != 0:  # a host name is the only kind there is
        return None
    name, _ = _vector(names, 1, 2)
    return name.decode("ascii") if name else None


def _vectors(content: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(content):
        one, position = _vector(content, position, 1)
        found.append(one)
    return found


def _vector(data: bytes, position: int, width: int) -> tuple[bytes, int]:
    """Return what stands behind a length of `width` bytes, and where it ends."""
    start = position + width
    end = start + int.from_bytes(data[position:start], "big")
    if start > len(data) or end > len(data):
        raise ValueError("a length that points past the end")
    return data[start:end], end
