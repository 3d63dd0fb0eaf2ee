"""The four codecs of Kafka, as the Java client writes and reads them.

The records of a batch are compressed as one block. What the Java client insists on, found by trying its own classes:
gzip: plain. snappy: the xerial framing (a 16-byte header, then blocks of 32 KiB, each with its length), or one bare
block. lz4: the frame format with *independent* blocks, linked ones are refused. zstd: plain frames.

A hostile batch may grow a thousandfold, so no more than `limit` bytes are ever made of one (default `MAX_BODY_SIZE`).
Nothing here runs longer than it takes to make that many bytes. cramjam (1.5 ms to import) is loaded at first use.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from ottla.protocol.records.checksum import Buffer
from ottla.types import CompressionType

#: The most we make of one compressed batch: as much as a request may be (socket.request.max.bytes). Apache Kafka reads a
#: stream and has no such bound (its max.decompressed.message.bytes is for one record); a producer that fills
#: max.message.bytes a hundredfold stays below it.
MAX_BODY_SIZE = 100 << 20

#: From this size on what is unpacked is not copied once more.
_LARGE = 1 << 20

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK = 32 << 10
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
#: What Java clients begin a frame with: independent blocks of one of four sizes, no checksums but that of these bytes.
_LZ4_PLAIN = {
    _LZ4_MAGIC + b"\x60\x40\x82": 64 << 10,
    _LZ4_MAGIC + b"\x60\x50\xfb": 256 << 10,
    _LZ4_MAGIC + b"\x60\x60\x51": 1 << 20,
    _LZ4_MAGIC + b"\x60\x70\x73": 4 << 20,
}
_INT = struct.Struct(">i")

#: More than any snappy or lz4 block grows: the best they can do is 21 and 255 bytes from one.
GROWTH_MAX = 256

#: Levels used where the caller names none: Kafka's defaults (compression.gzip.level, .lz4.level, .zstd.level).
_DEFAULT_LEVELS = {CompressionType.GZIP: -1, CompressionType.LZ4: 9, CompressionType.ZSTD: 3}


class DecompressionError(ValueError):
    """The bytes are not what the codec writes, or they end too early."""


class DecompressedTooLargeError(DecompressionError):
    """The bytes would grow beyond the limit."""


#: Buffers that are free; pages of them that were never written cost nothing.
_rooms: list[bytearray] = []
_ROOM_SIZE = 4 << 20
_ROOMS_KEPT = 2

_cramjam: Any = None


def _library() -> Any:
    global _cramjam
    if _cramjam is None:
        import cramjam

        _cramjam = cramjam
    return _cramjam


def compress(codec: CompressionType, data: Buffer, level: int | None = None) -> bytes:
    """Return `data` compressed so that a Java client can read it. `level` None: Kafka's default for the codec."""
    if codec == CompressionType.NONE:
        return bytes(data)
    if codec == CompressionType.SNAPPY:
        return _xerial_compress(data)
    chosen = _DEFAULT_LEVELS[codec] if level is None else level
    if codec == CompressionType.GZIP:
        # wbits 31: the gzip container.
        compressor = zlib.compressobj(chosen, zlib.DEFLATED, 31)
        return compressor.compress(data) + compressor.flush()
    library = _library()
    if codec == CompressionType.LZ4:
        frame = library.lz4.Compressor(level=chosen, content_checksum=False, block_linked=False)
        frame.compress(bytes(data))  # it takes nothing but bytes
        return bytes(frame.finish())
    return bytes(library.zstd.compress(data, chosen))


def decompress(codec: CompressionType, data: Buffer, limit: int = MAX_BODY_SIZE) -> bytes | memoryview:
    """Return what was compressed; a view of a buffer of its own where it is large.

    Raises:
        DecompressedTooLargeError: it is more than `limit` bytes; no more than about that much was ever in memory.
        DecompressionError: it is damaged or ends too early.
    """
    if codec == CompressionType.NONE:
        return bytes(data)
    if codec == CompressionType.GZIP:
        return _gunzip(data, limit)
    library = _library()
    try:
        if codec == CompressionType.SNAPPY:
            return _snappy(library, memoryview(data), limit)
        if codec == CompressionType.LZ4:
            bound = _lz4_bound(memoryview(data))
            return _unpack(library.lz4, data, bound, limit)
        return _unpack(library.zstd, data, _zstd_bound(memoryview(data)), limit)
    except DecompressionError:
        raise
    except Exception as error:  # cramjam has its own error and lets OSError and ValueError through
        raise DecompressionError(f"{codec.name.lower()}: {error}") from None


def take_room() -> bytearray:
    """Return a buffer for `decompress_into`; hand it back with `give_back` when it is not used any more."""
    try:
        return _rooms.pop()
    except IndexError:
        return bytearray(_ROOM_SIZE)


def give_back(room: bytearray) -> None:
    """Keep a buffer for the next one who needs it."""
    if len(_rooms) < _ROOMS_KEPT:
        _rooms.append(room)


def decompress_into(
    room: bytearray, codec: CompressionType, data: Buffer, limit: int = MAX_BODY_SIZE
) -> bytes | memoryview:
    """Do as `decompress`, into `room` where it is large enough: a view of it, valid until it is given back.

    Fresh memory for what is looked at and dropped costs more than unpacking: lz4, 256 KB, 82 us instead of 451.
    """
    library = _library()
    try:
        if codec == CompressionType.LZ4:
            size = _lz4_plain_into(library, memoryview(data), memoryview(room))
            if size < 0:
                _lz4_bound(memoryview(data))
                size = library.lz4.decompress_into(data, room)
        elif codec == CompressionType.ZSTD:
            size = library.zstd.decompress_into(data, room)
        else:  # nothing to gain: measured for snappy
            return decompress(codec, data, limit)
    except Exception:  # it does not fit, or it is damaged: `decompress` says which
        return decompress(codec, data, limit)
    return memoryview(room)[:size] if size <= limit else decompress(codec, data, limit)


def unpacked_size_max(codec: CompressionType, data: Buffer) -> int:
    """Return what `data` may grow to, without unpacking it: an upper bound, rough for gzip.

    Meant for deciding where to unpack. Damaged data is small: it is refused before much of it is made.
    """
    size = len(data)
    try:
        match codec:
            case CompressionType.NONE:
                return size
            case CompressionType.GZIP:
                return size * 1032  # the best that deflate can do; what the trailer says need not be true
            case CompressionType.SNAPPY:
                return _snappy_bound(memoryview(data))
            case CompressionType.LZ4:
                return _lz4_bound(memoryview(data))
            case CompressionType.ZSTD:
                return _zstd_bound(memoryview(data))
    except DecompressionError:
        return size


def _unpack(module: Any, data: Buffer, bound: int, limit: int) -> bytes | memoryview:
    if bound <= min(limit, _LARGE):
        return bytes(module.decompress(data))
    # The frame may grow to its bound or beyond the limit, or may not: give it exactly so much room. Pages never written
    # cost nothing, and the library's own buffer, which grows by doubling and would be copied at the end, is not needed.
    room = bytearray(min(bound, limit))
    try:
        size = module.decompress_into(data, room)
    except Exception as error:
        if "whole buffer" in str(error):
            raise DecompressedTooLargeError(f"more than {limit} bytes after decompression") from None
        raise
    return memoryview(room)[:size]


def _gunzip(data: Buffer, limit: int) -> bytes:
    """Members may follow each other, as in Java's GZIPInputStream; zeros and other garbage after them may not."""
    parts: list[bytes] = []
    left = limit
    rest: Buffer = data
    while True:
        member = zlib.decompressobj(31)
        try:
            part = member.decompress(rest, left + 1)
        except zlib.error as error:
            raise DecompressionError(f"gzip: {error}") from None
        if len(part) > left:
            raise DecompressedTooLargeError(f"more than {limit} bytes after decompression")
        if not member.eof:
            raise DecompressionError("gzip: ends too early")
        parts.append(part)
        left -= len(part)
        rest = member.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _xerial_compress(data: Buffer) -> bytes:
    compress_raw = _library().snappy.compress_raw
    view = memoryview(data)
    parts = [_XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK):
        block = bytes(compress_raw(view[start : start + _XERIAL_BLOCK]))
        parts += (_INT.pack(len(block)), block)
    return b"".join(parts)


def _snappy(library: Any, view: memoryview, limit: int) -> bytes:
    snappy = library.snappy
    if view[:8] != _XERIAL_MAGIC:
        # librdkafka and others send one bare block.
        return _snappy_block(snappy, view, limit)
    parts: list[bytes] = []
    left = limit
    position = len(_XERIAL_HEADER)
    if len(view) < position:
        raise DecompressionError("snappy: ends too early")
    while position < len(view):
        if len(view) - position < 4:
            raise DecompressionError("snappy: ends too early")
        (size,) = _INT.unpack_from(view, position)
        position += 4
        if size < 0 or size > len(view) - position:
            raise DecompressionError(f"snappy: block of {size} bytes, {len(view) - position} left")
        part = _snappy_block(snappy, view[position : position + size], left)
        parts.append(part)
        left -= len(part)
        position += size
    return b"".join(parts)


def _snappy_bound(view: memoryview) -> int:
    """Return what the blocks say they grow to; one that grows to anything else is damaged."""
    if view[:8] != _XERIAL_MAGIC:
        return _snappy_length(view)
    bound = 0
    position = len(_XERIAL_HEADER)
    while len(view) - position >= 4:
        (size,) = _INT.unpack_from(view, position)
        position += 4
        if size < 0:
            break
        bound += _snappy_length(view[position : position + size])
        position += size
    return bound


def _snappy_length(block: memoryview) -> int:
    length = 0
    for shift, byte in enumerate(block[:5]):
        length |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return length


def _snappy_block(snappy: Any, block: memoryview, left: int) -> bytes:
    # The length in front may lie in both directions: too large is refused, too small fails in the codec.
    if snappy.decompress_raw_len(block) > left:
        raise DecompressedTooLargeError(f"snappy: more than {left} bytes after decompression")
    return bytes(snappy.decompress_raw(block))


def _lz4_plain_into(library: Any, view: memoryview, room: memoryview) -> int:
    """Unpack a frame as Java clients write it, block by block: a frame decoder costs more than small blocks do.

    -1: another kind of frame, or its blocks do not end where it ends.

    Raises:
        cramjam.DecompressionError, ValueError: a block is damaged, or does not fit.
    """
    block_size = _LZ4_PLAIN.get(view[:7].tobytes())
    if block_size is None:
        return -1
    unpack_block = library.lz4.decompress_block_into
    position, done, end = 7, 0, len(view)
    while end - position >= 4:
        size = int.from_bytes(view[position : position + 4], "little")
        position += 4
        if not size:
            return done if position == end else -1
        after = position + (size & 0x7FFFFFFF)
        if after > end:
            return -1
        if size >> 31:  # as it is
            if after - position > block_size:
                return -1
            room[done : done + after - position] = view[position:after]
            done += after - position
        else:
            target = room[done : done + block_size]
            done += unpack_block(view[position:after], target, output_len=len(target))
        position = after
    return -1


def _lz4_bound(view: memoryview) -> int:
    """Return the most bytes the frame can make: every block as large as the frame allows."""
    if len(view) < 7 or view[:4] != _LZ4_MAGIC:
        raise DecompressionError("lz4: no frame")
    flags, descriptor = view[4], view[5]
    if flags >> 6 != 1:
        raise DecompressionError(f"lz4: version {flags >> 6}")
    if not flags & 0x20:
        # Consumers in Java could not read it: Kafka refuses it as well.
        raise DecompressionError("lz4: dependent blocks are not supported")
    block_size = 1 << (8 + 2 * (descriptor >> 4 & 7))
    position = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    bound = 0
    while len(view) - position >= 4:
        size = int.from_bytes(view[position : position + 4], "little")
        position += 4
        if not size:
            break
        size &= 0x7FFFFFFF
        bound += block_size
        position += size + (4 if flags & 0x10 else 0)
    return bound


def _zstd_bound(view: memoryview) -> int:
    """Return the most bytes the frames can make: 128 KiB for each compressed block, what raw and RLE blocks say."""
    bound = 0
    position = 0
    size = len(view)
    while size - position >= 5:
        magic = int.from_bytes(view[position : position + 4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a skippable frame
            position += 8 + int.from_bytes(view[position + 4 : position + 8], "little")
            continue
        if magic != 0xFD2FB528:
            raise DecompressionError("zstd: no frame")
        descriptor = view[position + 4]
        single = descriptor >> 5 & 1
        content_size = (single, 2, 4, 8)[descriptor >> 6]
        position += 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + content_size
        last = 0
        while not last and size - position >= 3:
            header = int.from_bytes(view[position : position + 3], "little")
            position += 3
            last, kind, block = header & 1, header >> 1 & 3, header >> 3
            bound += 128 << 10 if kind == 2 else block
            position += 1 if kind == 1 else block
        if descriptor & 4:
            position += 4
    return bound
