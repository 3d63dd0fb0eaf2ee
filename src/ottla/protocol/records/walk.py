"""Walking a run of batches, of any message format: to its end, or to an error that says where and why it stopped.

What is walked came from a log or from a peer. Bytes that are no batch are never taken for the end: the caller would miss
what follows them and not know it. CRCs are the caller's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ottla.protocol.records.batch import LOG_OVERHEAD, MAGIC, MAGIC_POSITION, BatchHeader
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.formats import read_any_header

_LENGTH = struct.Struct(">i")


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
        try:
            header = read_any_header(buffer, position, left)
        except ValueError as error:
            if may_be_cut and _is_cut(buffer, position, left):
                return
            raise DamagedBatchError(position, str(error)) from None
        yield position, header
        position += header.size


def _is_cut(buffer: Buffer, position: int, left: int) -> bool:
    """Whether what is there may be the beginning of a longer batch."""
    if left > MAGIC_POSITION and buffer[position + MAGIC_POSITION] > MAGIC:
        return False
    return left < LOG_OVERHEAD or LOG_OVERHEAD + _LENGTH.unpack_from(buffer, position + 8)[0] > left
