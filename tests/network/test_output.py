"""Cutting answers for sending loses nothing and copies little."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ottla.file_region import FileRegion, Sendable
from ottla.network.output import HEAD, JOIN_MAX, PIECE, split

buffers = st.one_of(
    st.binary(max_size=50), st.sampled_from([JOIN_MAX - 1, JOIN_MAX, JOIN_MAX + 1, PIECE, 2 * PIECE + 7]).map(bytes)
)


class InMemory:
    """A file that is its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def pread(self, size: int, position: int) -> bytes:
        return self.data[position : position + size]

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        raise NotImplementedError


def joined(pieces: Iterable[Sendable]) -> bytes:
    return b"".join(piece.read(len(piece)) if isinstance(piece, FileRegion) else piece for piece in pieces)


@given(st.lists(st.tuples(buffers, st.booleans()), max_size=6))
def test_regions_stay_regions_and_nothing_is_lost(parts: list[tuple[bytes, bool]]) -> None:
    given = [FileRegion(InMemory(b"before" + data), 6, len(data)) if is_file else data for data, is_file in parts]
    pieces = split(given)
    assert joined(pieces) == b"".join(data for data, _ in parts)
    in_files = sum(len(piece) for piece in pieces if isinstance(piece, FileRegion))
    files = [data for data, is_file in parts if is_file]
    assert in_files >= sum(map(len, files)) - HEAD * len(files), "only what goes with a head is read"


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
