"""Cutting answers for sending loses nothing and copies little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ottla.network.output import JOIN_MAX, PIECE, split

buffers = st.one_of(
    st.binary(max_size=50), st.sampled_from([JOIN_MAX - 1, JOIN_MAX, JOIN_MAX + 1, PIECE, 2 * PIECE + 7]).map(bytes)
)


@given(st.lists(buffers, max_size=6))
def test_the_pieces_are_the_buffers(buffers: list[bytes]) -> None:
    pieces = split(buffers)
    assert b"".join(pieces) == b"".join(buffers)
    assert all(len(piece) <= PIECE for piece in pieces)


def test_a_large_body_is_sliced_not_copied_and_its_head_costs_no_packet() -> None:
    body = bytes(3 * PIECE)
    pieces = split([b"head", body, b"tail"])
    assert bytes(pieces[0][:4]) == b"head"
    assert len(pieces[0]) < JOIN_MAX
    shared = [piece for piece in pieces if isinstance(piece, memoryview) and piece.obj is body]
    assert sum(map(len, shared)) > 2 * PIECE
