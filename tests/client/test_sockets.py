"""Sockets that keep the interpreter do what Python's do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ottla.client.sockets import COMPILED, KeepingSocket, keeping


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """One that keeps the interpreter, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        plain = socket.create_connection(server.getsockname())
        plain.setblocking(False)
        with keeping(plain) as one, server.accept()[0] as other:
            other.settimeout(10)
            yield one, other


def test_it_takes_the_place_of_the_other(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    assert isinstance(one, KeepingSocket) == COMPILED
    assert one.getpeername() == other.getsockname()
    assert one.gettimeout() == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_it_sends(pair: tuple[socket.socket, socket.socket], kind: type) -> None:
    one, other = pair
    assert one.send(kind(b"hello")) == 5
    assert other.recv(100) == b"hello"


def test_it_receives_what_is_there_and_says_when_nothing_is(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    buffer = bytearray(4)
    with pytest.raises(BlockingIOError):
        one.recv_into(buffer)
    other.sendall(b"hello")
    assert one.recv_into(memoryview(buffer)) == 4
    assert bytes(buffer) == b"hell"
    assert one.recv_into(buffer) == 1
    other.close()
    one.setblocking(True)
    assert one.recv_into(buffer) == 0


def test_it_takes_no_more_than_there_is_room_for(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    data = b"x" * (1 << 20)
    total = 0
    with suppress(BlockingIOError):
        while total < 1 << 30:
            total += one.send(data)
    assert 0 < total < 1 << 30
    received = 0
    while received < total:
        received += len(other.recv(1 << 20))
    assert received == total
    assert one.send(b"y") == 1


def test_a_peer_that_is_gone_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    other.close()
    one.setblocking(True)
    with pytest.raises(ConnectionResetError):
        one.recv_into(bytearray(4))
    with pytest.raises(BrokenPipeError):
        one.send(b"x")


def test_one_that_is_closed_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    one, _ = pair
    one.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.send(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.recv_into(bytearray(4))


def test_a_buffer_that_cannot_be_written_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    one, _ = pair
    with pytest.raises((BufferError, TypeError)):
        one.recv_into(b"1234")
