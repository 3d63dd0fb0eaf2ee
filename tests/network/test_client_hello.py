"""What a TLS client says first: read from what Python's own client sends, however it is cut; garbage is nobody's hello."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.network.client_hello import HELLO_BYTES_MAX, ClientHello, HelloReader


def hello(server_name: str | None = None, protocols: list[str] | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols is not None:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """Cut the message into records of `size` bytes, as a client may."""
    message = data[5:]
    parts = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize(
    ("server_name", "protocols"),
    [(None, None), ("broker.example.com", None), (None, ["h2"]), ("a", ["h2", "http/1.1"])],
)
def test_names_and_protocols_are_read_however_the_message_is_cut(
    server_name: str | None, protocols: list[str] | None
) -> None:
    said = hello(server_name, protocols)
    expected = ClientHello(server_name, None if protocols is None else tuple(p.encode() for p in protocols))
    assert HelloReader().feed(said + b"more of the connection") == expected
    for wire in (said, in_records(said, 7)):
        reader = HelloReader()
        found = [one for byte in wire if (one := reader.feed(bytes([byte]))) is not None]
        assert found == [expected]
        assert reader.is_done


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_garbage_and_changed_bytes_raise_nothing(data: bytes, position: int, byte: int) -> None:
    HelloReader().feed(data)
    HelloReader().feed(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data)
    said = bytearray(_SAID)
    said[position % len(said)] = byte
    HelloReader().feed(bytes(said))


_SAID = hello("broker.example.com", ["h2"])


def test_what_is_kept_of_an_endless_message_is_bounded() -> None:
    reader = HelloReader()
    reader.feed(b"\x16\x03\x01\x40\x00" + b"\x01" + (HELLO_BYTES_MAX + 1).to_bytes(3, "big") + bytes(16_380))
    assert reader.is_done
