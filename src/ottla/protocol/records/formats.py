"""Batches of every format, told apart by the magic byte: 2 is written today, 0 and 1 lie in directories of an older Kafka.

A walk over stored batches gets a header here whose structure adds up, or the reason why it does not.
A message of the formats 0 and 1 is a batch of its own (`legacy`). Sources: KIP-98, KIP-724; kafka-features.md §6.8.
"""

from __future__ import annotations

from ottla.protocol.records.batch import (
    HEADER_SIZE,
    LOG_OVERHEAD,
    MAGIC,
    MAGIC_POSITION,
    BatchHeader,
    check_crc,
    read_header,
)
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.legacy import check_legacy_crc, legacy_header

#: No batch of any format is shorter: a message of format 0 without key and value.
SIZE_MIN = 26


def read_any_header(buffer: Buffer, position: int, left: int) -> BatchHeader:
    """Return the header of the batch at `position`, of any format; its whole size fits into `left`.

    Args:
        buffer: holds at least `min(left, HEADER_SIZE)` bytes from `position` on.
        position: where the batch begins.
        left: how many bytes exist from there on, in the buffer or behind it.

    Raises:
        ValueError: the bytes are no batch, or not a whole one; the text says why.
    """
    if left < SIZE_MIN:
        raise ValueError(f"{left} bytes are left, too few for a batch")
    magic = buffer[position + MAGIC_POSITION]
    if magic == MAGIC:
        if left < HEADER_SIZE:
            raise ValueError(f"{left} bytes are left, too few for a batch header")
        header = read_header(buffer, position)
        if header.batch_length < HEADER_SIZE - LOG_OVERHEAD:
            raise ValueError(f"a batch length of {header.batch_length} bytes is too short")
        if header.last_offset_delta < 0 or header.record_count < 0:
            raise ValueError(f"{header.record_count} records with a last offset delta of {header.last_offset_delta}")
    elif magic < MAGIC:
        header = legacy_header(buffer, position, left)
    else:
        raise ValueError(f"the magic byte is {magic}")
    if header.size > left:
        raise ValueError(f"a batch of {header.size} bytes, and {left} are left")
    return header


def check_any_crc(buffer: Buffer, position: int, header: BatchHeader) -> bool:
    """Return whether the checksum of the batch at `position` is right; all its bytes are in `buffer`."""
    if header.magic == MAGIC:
        return check_crc(buffer, position, header)
    return check_legacy_crc(buffer, position, header)
