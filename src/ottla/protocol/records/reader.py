"""Records of batches as objects: for coordinators, offset-for-time, tests. The data path never does this."""

from __future__ import annotations

from collections.abc import Iterator

from ottla.protocol.records import kernels
from ottla.protocol.records.batch import (
    HEADER_SIZE,
    MAGIC,
    MAGIC_POSITION,
    BatchHeader,
    check_crc,
    read_header,
)
from ottla.protocol.records.builder import Record
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.compression import MAX_BODY_SIZE, decompress
from ottla.protocol.records.legacy import read_legacy_records
from ottla.protocol.records.walk import iter_batches
from ottla.types import TimestampType


def read_body(
    buffer: Buffer, position: int, header: BatchHeader, *, max_decompressed: int = MAX_BODY_SIZE
) -> bytes | memoryview:
    """Return the encoded records of a batch, decompressed: a view of `buffer` where the batch has no codec.

    Raises:
        ValueError: the codec is unknown, or cannot read its bytes, or they grow beyond `max_decompressed`.
    """
    body = memoryview(buffer)[position + HEADER_SIZE : position + header.size]
    codec = header.compression
    return decompress(codec, body, max_decompressed) if codec else body


def read_records(
    buffer: Buffer, position: int = 0, *, max_decompressed: int = MAX_BODY_SIZE, verify_crc: bool = False
) -> list[Record]:
    """Return the records of the batch at `position`, with absolute offsets and the timestamps a consumer sees.

    An empty batch (compaction leaves such) gives an empty list. Control records are given like others. Messages of
    formats 0 and 1 are read, too (see `legacy`).

    Raises:
        ValueError: the batch is damaged: its records do not fill it exactly, or `verify_crc` found a wrong CRC.
    """
    if buffer[position + MAGIC_POSITION] < MAGIC:
        return read_legacy_records(buffer, position, max_decompressed=max_decompressed, verify_crc=verify_crc)
    header = read_header(buffer, position)
    if verify_crc and not check_crc(buffer, position, header):
        raise ValueError(f"the batch at offset {header.base_offset} has a wrong CRC")
    if not header.record_count:
        return []
    body = read_body(buffer, position, header, max_decompressed=max_decompressed)
    append_time = header.max_timestamp if header.timestamp_type == TimestampType.LOG_APPEND_TIME else None
    rows = kernels.decode_records(body, header.record_count, header.base_offset, header.base_timestamp, append_time)
    return list(map(Record._make, rows))


def iter_records(
    buffer: Buffer, *, may_be_cut: bool = False, max_decompressed: int = MAX_BODY_SIZE
) -> Iterator[Record]:
    """Yield the records of all batches in `buffer`, control records left out.

    `may_be_cut`: the last batch may end too early, and is left out (see `walk.iter_batches`).

    Raises:
        ValueError: a batch is damaged; the records before it have been yielded.
    """
    for position, header in iter_batches(buffer, may_be_cut=may_be_cut):
        if not header.is_control:
            yield from read_records(buffer, position, max_decompressed=max_decompressed)
