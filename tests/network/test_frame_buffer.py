"""The buffer of half-arrived frames by itself: nothing is lost, and little of what came has to be moved."""

from __future__ import annotations

from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.network.frame_buffer import SMALL, FrameBuffer

KB = 1024


class Reader:
    """Receives frames of these sizes, in pieces, as a connection does."""

    def __init__(self, sizes: list[int]) -> None:
        self.stream = memoryview(b"".join(pack(">i", size) + bytes([size % 251]) * size for size in sizes))
        self.position = 0
        self.buffer = FrameBuffer(self.stream[:0], 4)
        self.seen: list[int] = []
        self.left_over: list[int] = []

    def receive(self, at_most: int) -> None:
        """Take a piece, handle the frames that are whole; note how much of the next one came with them."""
        buffer = self.buffer
        room = buffer.room()
        assert room
        piece = self.stream[self.position : self.position + min(at_most, len(room))]
        room[: len(piece)] = piece
        self.position += len(piece)
        buffer.end += len(piece)
        need, handled = self.need(), len(self.seen)
        while buffer.end - buffer.start >= need > 4:
            body = buffer.view[buffer.start + 4 : buffer.start + need]
            assert not body or {body[0], body[-1]} == {(need - 4) % 251}
            self.seen.append(need - 4)
            buffer.start += need
            need = self.need()
        if len(self.seen) > handled:
            self.left_over.append(buffer.end - buffer.start)
        buffer.make_room(need)

    def need(self) -> int:
        held = self.buffer.view[self.buffer.start : self.buffer.end]
        return 4 + int.from_bytes(held[:4], "big") if len(held) >= 4 else 4

    def receive_all(self, pieces: list[int]) -> None:
        while self.position < len(self.stream):
            for piece in pieces:
                self.receive(piece)


@settings(deadline=None)
@given(
    sizes=st.lists(
        st.integers(1, 300) | st.integers(60 * KB, 70 * KB) | st.integers(1, 400 * KB), min_size=1, max_size=12
    ),
    pieces=st.lists(st.integers(1, 100) | st.integers(1, 500 * KB), min_size=1, max_size=5),
)
def test_frames_of_any_sizes_arrive_in_any_pieces(sizes: list[int], pieces: list[int]) -> None:
    pieces = [max(pieces[0], 1000), *pieces[1:]]  # or it takes for ever
    reader = Reader(sizes)
    reader.receive_all(pieces)
    assert reader.seen == sizes


def test_of_large_frames_of_one_size_none_arrives_with_the_one_before() -> None:
    reader = Reader([295_000] * 20)
    reader.receive_all([1 << 20])
    assert len(reader.seen) == 20
    assert reader.left_over[2:] == [0] * 18


def test_little_of_a_large_frame_arrives_with_a_smaller_one_before() -> None:
    reader = Reader([295_000, 280_000] * 10)
    reader.receive_all([1 << 20])
    assert max(reader.left_over[2:]) <= SMALL


def test_small_frames_are_received_together() -> None:
    reader = Reader([295_000] + [1000] * 200)
    pieces = 0
    while reader.position < len(reader.stream):
        reader.receive(1 << 20)
        pieces += 1
    assert len(reader.seen) == 201
    assert pieces < 10


def test_a_peer_that_goes_on_while_a_whole_frame_waits_finds_room() -> None:
    frame = pack(">i", 100 * KB) + bytes(100 * KB)
    buffer = FrameBuffer(memoryview(frame + b"more"), len(frame))
    assert buffer.room()
