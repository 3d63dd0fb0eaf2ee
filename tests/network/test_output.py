"""Cutting answers for sending loses nothing and copies little."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ottla.file_region import FileRegion, Sendable
from ottla.network.output import HEAD, JOIN_MAX, PIECE, split
from ottla.offload import InlineOffload

buffers = st.one_of(
    st.binary(max_size=50), st.sampled_from([JOIN_MAX - 1, JOIN_MAX, JOIN_MAX + 1, PIECE, 2 * PIECE + 7]).map(bytes)
)


class InMemory:
    """A file that is its bytes."""

    def __init__(self, data: bytes, in_memory: bool = True) -> None:
        self.data = data
        self.in_memory = in_memory

    def pread(self, size: int, position: int) -> bytes:
        return self.data[position : position + size]

    def pread_nowait(self, size: int, position: int) -> bytes | None:
        return self.pread(size, position) if self.in_memory else None

    def is_cached(self, size: int, position: int) -> bool:
        return self.in_memory

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        raise NotImplementedError


def joined(pieces: Iterable[Sendable]) -> bytes:
    return b"".join(asyncio.run(piece.read(len(piece))) if isinstance(piece, FileRegion) else piece for piece in pieces)


def region(data: bytes, in_memory: bool) -> FileRegion:
    return FileRegion(InMemory(b"before" + data, in_memory), 6, len(data), InlineOffload())


@given(st.lists(st.tuples(buffers, st.booleans()), max_size=6), st.booleans())
def test_regions_stay_regions_and_nothing_is_lost(parts: list[tuple[bytes, bool]], in_memory: bool) -> None:
    given = [region(data, in_memory) if is_file else data for data, is_file in parts]
    pieces = split(given)
    assert joined(pieces) == b"".join(data for data, _ in parts)
    in_files = sum(len(piece) for piece in pieces if isinstance(piece, FileRegion))
    files = [data for data, is_file in parts if is_file]
    read_max = HEAD * len(files) if in_memory else 0
    assert in_files >= sum(map(len, files)) - read_max, "only what goes with a head is read"


@given(st.lists(buffers, max_size=6))
def test_the_pieces_are_the_buffers(buffers: list[bytes]) -> None:
    pieces = split(buffers)
    assert joined(pieces) == b"".join(buffers)
    assert all(len(piece) <= PIECE for piece in pieces)


def test_a_large_body_is_sliced_not_copied_and_its_head_costs_no_packet() -> None:
    body = bytes(3 * PIECE)
    pieces = split([b"head", body, b"tail"])
    assert joined(pieces)[:4] == b"head"
    assert len(pieces[0]) < JOIN_MAX
    shared = [piece for piece in pieces if isinstance(piece, memoryview) and piece.obj is body]
    assert sum(map(len, shared)) > 2 * PIECE
