"""The codecs: round trips, the framing Java insists on, damage, and bombs."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.protocol.records import compression
from ottla.protocol.records.compression import (
    DecompressedTooLargeError,
    DecompressionError,
    compress,
    decompress,
    decompress_into,
    unpacked_size_max,
)
from ottla.types import CompressionType

CODECS = [codec for codec in CompressionType if codec]
TEXT = b"".join(b'{"aircraft":"N%05d","delay":%d}' % (index * 7919 % 99999, index % 60) for index in range(6000))


def java_lz4(data: bytes, kind: int, block_size: int) -> bytes:
    """A frame as Java's client writes it; `kind` is what the frame format calls the block size: 4 is 64 KiB, 7 is 4 MiB."""
    header = {4: "604082", 5: "6050fb", 6: "606051", 7: "607073"}[kind]
    frame = bytearray.fromhex("04224d18" + header)
    for start in range(0, len(data), block_size):
        block = data[start : start + block_size]
        packed = bytes(cramjam.lz4.compress_block(block, store_size=False))
        stored = len(packed) >= len(block)
        frame += (min(len(packed), len(block)) | stored << 31).to_bytes(4, "little") + (block if stored else packed)
    return bytes(frame + bytes(4))


@settings(deadline=None)
@given(
    data=st.binary(max_size=300)
    | st.builds(lambda b, k: b * k, st.binary(min_size=1, max_size=9), st.integers(0, 20_000)),
    kind=st.integers(4, 7),
    block_size=st.sampled_from([10, 1000, 65_536, 70_000]),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2),
    cut=st.sampled_from([0, 0, 0, 1, 4, 9]),
    tail=st.sampled_from([b"", b"", b"x", java_lz4(b"more", 4, 65_536)]),
    room_size=st.sampled_from([0, 100, 40_000, 400_000]),
    limit=st.sampled_from([50, 60_000, 1 << 20]),
)
def test_lz4_of_java_unpacked_block_by_block_says_the_same(
    data: bytes,
    kind: int,
    block_size: int,
    changes: list[tuple[int, int]],
    cut: int,
    tail: bytes,
    room_size: int,
    limit: int,
) -> None:
    packed = bytearray(java_lz4(data, kind, block_size))
    for position, value in changes:
        if position < len(packed):
            packed[position] = value
    del packed[len(packed) - min(cut, len(packed)) :]
    packed += tail
    codec = CompressionType.LZ4
    room = bytearray(b"?") * room_size
    assert outcome(lambda: decompress_into(room, codec, packed, limit)) == outcome(
        lambda: decompress(codec, packed, limit)
    )


def test_lz4_of_java_needs_no_help_of_the_frame_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = java_lz4(TEXT, 4, 65_536)
    monkeypatch.setattr(compression, "_lz4_bound", None)
    assert decompress_into(bytearray(1 << 20), CompressionType.LZ4, packed) == TEXT


@settings(deadline=None)
@given(data=st.binary(max_size=2000) | st.sampled_from([TEXT, bytes(300_000)]), codec=st.sampled_from(CompressionType))
def test_round_trip(data: bytes, codec: CompressionType) -> None:
    packed = compress(codec, data)
    assert decompress(codec, packed) == data
    assert decompress(codec, memoryview(bytearray(packed))) == data
    assert compress(codec, bytearray(data)) == packed


@pytest.mark.parametrize("codec", CODECS)
def test_limit_is_exact(codec: CompressionType) -> None:
    packed = compress(codec, TEXT)
    assert decompress(codec, packed, len(TEXT)) == TEXT
    with pytest.raises(DecompressedTooLargeError):
        decompress(codec, packed, len(TEXT) - 1)


@pytest.mark.parametrize("codec", CODECS)
def test_bomb_takes_no_more_memory_than_the_limit(codec: CompressionType) -> None:
    packed = compress(codec, bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DecompressedTooLargeError):
            decompress(codec, packed, 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("codec", CODECS)
def test_cut_data_is_refused(codec: CompressionType) -> None:
    packed = compress(codec, TEXT)
    for size in (0, 1, 7, 20, len(packed) // 2, len(packed) - 1):
        with pytest.raises(DecompressionError):
            decompress(codec, packed[:size])


@settings(deadline=None)
@given(codec=st.sampled_from(CODECS), data=st.binary(max_size=200))
def test_garbage_raises_only_our_error(codec: CompressionType, data: bytes) -> None:
    try:
        assert len(decompress(codec, data, 1 << 20)) <= 1 << 20
    except DecompressionError:
        pass


@settings(deadline=None)
@given(codec=st.sampled_from(CODECS), position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_flipped_bit_raises_only_our_error(codec: CompressionType, position: int, bit: int) -> None:
    packed = bytearray(compress(codec, TEXT[:5000]))
    packed[position % len(packed)] ^= 1 << bit
    try:
        assert len(decompress(codec, packed, 1 << 20)) <= 1 << 20
    except DecompressionError:
        pass


def test_gzip_members_may_follow_each_other() -> None:
    assert decompress(CompressionType.GZIP, gzip.compress(b"one ") + gzip.compress(b"two")) == b"one two"


def test_snappy_has_the_header_of_snappy_java() -> None:
    packed = compress(CompressionType.SNAPPY, TEXT)
    assert packed[:16] == bytes.fromhex("82534e4150505900 00000001 00000001".replace(" ", ""))


def test_snappy_of_librdkafka_is_one_bare_block() -> None:
    bare = bytes(cramjam.snappy.compress_raw(TEXT))
    assert decompress(CompressionType.SNAPPY, bare) == TEXT


def test_lz4_blocks_are_independent() -> None:
    packed = compress(CompressionType.LZ4, TEXT * 3)
    assert packed[4] & 0x20


def test_lz4_with_dependent_blocks_is_refused_as_java_does() -> None:
    linked = bytes(cramjam.lz4.compress(TEXT * 3))
    with pytest.raises(DecompressionError, match="dependent"):
        decompress(CompressionType.LZ4, linked)


def test_levels_are_passed_on() -> None:
    for codec, low, high in (
        (CompressionType.GZIP, 1, 9),
        (CompressionType.LZ4, 1, 12),
        (CompressionType.ZSTD, 1, 19),
    ):
        assert len(compress(codec, TEXT, high)) < len(compress(codec, TEXT, low))


def outcome(unpack: Callable[[], bytes | memoryview]) -> bytes | type[Exception]:
    try:
        return bytes(unpack())
    except DecompressionError as error:
        return type(error)


@settings(deadline=None)
@given(
    codec=st.sampled_from(list(CompressionType)),
    data=st.binary(max_size=300)
    | st.builds(lambda b, k: b * k, st.binary(min_size=1, max_size=9), st.integers(0, 9000)),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2),
    cut=st.integers(0, 3),
    room_size=st.sampled_from([0, 100, 40_000, 200_000]),
    limit=st.sampled_from([50, 60_000, 1 << 20]),
)
def test_unpacking_into_a_room_says_the_same(
    codec: CompressionType, data: bytes, changes: list[tuple[int, int]], cut: int, room_size: int, limit: int
) -> None:
    packed = bytearray(compress(codec, data))
    for position, value in changes:
        if position < len(packed):
            packed[position] = value
    del packed[len(packed) - min(cut, len(packed)) :]

    room = bytearray(b"?") * room_size
    assert outcome(lambda: decompress_into(room, codec, packed, limit)) == outcome(
        lambda: decompress(codec, packed, limit)
    )


@settings(deadline=None)
@given(data=st.binary(max_size=2000) | st.sampled_from([TEXT, bytes(300_000)]), codec=st.sampled_from(CompressionType))
def test_what_a_batch_may_grow_to_is_known_before_it_is_unpacked(data: bytes, codec: CompressionType) -> None:
    packed = compress(codec, data)
    bound = unpacked_size_max(codec, packed)
    assert bound >= len(data)
    if codec == CompressionType.SNAPPY:
        assert bound == len(data)
    elif codec in (CompressionType.LZ4, CompressionType.ZSTD):
        assert bound < len(data) + (256 << 10)


def test_what_a_bare_block_of_snappy_grows_to_is_known_too() -> None:
    assert unpacked_size_max(CompressionType.SNAPPY, bytes(cramjam.snappy.compress_raw(TEXT))) == len(TEXT)


@given(data=st.binary(max_size=200), codec=st.sampled_from(CODECS))
def test_damaged_data_has_a_bound_as_well(data: bytes, codec: CompressionType) -> None:
    for start in (b"", compress(codec, TEXT)[:20]):
        assert unpacked_size_max(codec, start + data) >= 0
