"""Walking a run of batches, of any message format: to its end, or to an error that says where and why it stopped.

What is walked came from a log or from a peer. Bytes that are no batch are never taken for the end: the caller would miss
what follows them and not know it. CRCs are the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator

from ottla.protocol.records.batch import HEADER, HEADER_SIZE, LOG_OVERHEAD, MAGIC, MAGIC_POSITION, BatchHeader
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.legacy import ENTRY_MIN, legacy_header


class DamagedBatchError(ValueError):
    """The bytes at `position` are no batch, or not a whole one."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(f"no record batch at position {position}: {problem}")
        self.position = position


def iter_batches(
    buffer: Buffer, start: int = 0, end: int | None = None, *, may_be_cut: bool = False
) -> Iterator[tuple[int, BatchHeader]]:
    """Yield (position, header) of each batch in `buffer[start:end]`; entries of formats 0 and 1 count as batches.

    `may_be_cut`: the bytes were cut by size, as the answer to a Fetch may be; the last batch may end too early, and is
    left out.

    Raises:
        DamagedBatchError: a length or a magic that no batch has, or a batch that ends too early.
    """
    limit = len(buffer) if end is None else min(end, len(buffer))
    position = start
    while position < limit:
        left = limit - position
        if left <= MAGIC_POSITION:
            header = None
        elif (magic := buffer[position + MAGIC_POSITION]) == MAGIC:
            header = _header(buffer, position, left)
        elif magic < MAGIC:
            header = _legacy_header(buffer, position, left, magic)
        else:
            raise DamagedBatchError(position, f"magic {magic} is no message format")
        if header is None or header.size > left:
            if may_be_cut:
                return
            size = "" if header is None else f" of {header.size}"
            raise DamagedBatchError(position, f"it ends after {left}{size} bytes")
        yield position, header
        position += header.size


def _header(buffer: Buffer, position: int, left: int) -> BatchHeader | None:
    if left < HEADER_SIZE:
        return None
    header = BatchHeader._make(HEADER.unpack_from(buffer, position))
    if header.batch_length < HEADER_SIZE - LOG_OVERHEAD:
        raise DamagedBatchError(position, f"its length {header.batch_length} leaves no room for a header")
    return header


def _legacy_header(buffer: Buffer, position: int, left: int, magic: int) -> BatchHeader | None:
    if left < ENTRY_MIN[magic]:
        return None
    try:
        return legacy_header(buffer, position, left)
    except ValueError as error:
        raise DamagedBatchError(position, str(error)) from None
