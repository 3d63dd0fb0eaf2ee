"""Frames: cut anywhere, the stream yields the same."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.errors import RemoteProtocolError
from ottla.protocol.framing import FrameReader, check_size, frame


def read_all(reader: FrameReader, pieces: list[bytes]) -> list[bytes | str]:
    """Feed the pieces; return the frames, and the error they end in."""
    result: list[bytes | str] = []
    try:
        for piece in pieces:
            result.extend(reader.feed(piece))
    except RemoteProtocolError as error:
        result.append(str(error))
    return result


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(bodies=st.lists(st.binary(max_size=20), max_size=6), places=st.lists(st.integers(0, 10**6), max_size=8))
def test_frames_do_not_depend_on_how_the_stream_is_cut(bodies: list[bytes], places: list[int]) -> None:
    stream = b"".join(part for body in bodies for part in frame([body]))
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))], cut(stream, places)):
        reader = FrameReader()
        assert read_all(reader, pieces) == bodies
        assert reader.buffered == 0


@given(stream=st.binary(max_size=80), places=st.lists(st.integers(0, 10**6), max_size=8))
def test_garbage_ends_the_same_however_it_is_cut(stream: bytes, places: list[int]) -> None:
    whole = read_all(FrameReader(size_max=50), [stream])
    assert read_all(FrameReader(size_max=50), [stream[i : i + 1] for i in range(len(stream))]) == whole
    assert read_all(FrameReader(size_max=50), cut(stream, places)) == whole


def test_frames_ahead_of_a_bad_size_are_delivered_first() -> None:
    stream = b"\0\0\0\x02ab" + b"\xff\xff\xff\xff"
    assert read_all(FrameReader(), [stream]) == [b"ab", "frame of -1 bytes"]


def test_a_size_at_the_limit_is_accepted_and_one_above_is_not() -> None:
    assert read_all(FrameReader(size_max=3), [b"\0\0\0\x03abc"]) == [b"abc"]
    assert read_all(FrameReader(size_max=3), [b"\0\0\0\x04"]) == ["frame of 4 bytes; the limit is 3"]
    assert check_size(0, 3) == 0
    with pytest.raises(RemoteProtocolError):
        check_size(-1, 3)


def test_an_announced_size_reserves_no_memory() -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        assert list(reader.feed(struct.pack(">i", 100 * 1024 * 1024) + b"tiny")) == []
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    assert reader.buffered == 8


def test_a_frame_is_the_size_of_its_parts_and_the_parts_themselves() -> None:
    large = memoryview(bytearray(5))
    parts = frame([b"ab", large])
    assert parts[0] == b"\0\0\0\x07"
    assert parts[2] is large
