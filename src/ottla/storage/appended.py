"""What an append says of itself, and what is kept of a batch: values that the compiled append makes as well."""

from __future__ import annotations

from typing import NamedTuple

from ottla.protocol.records.batch import MAX_SEQUENCE, NO_SEQUENCE

#: The led epoch of a log that is led by another broker, or by none: no append has it, not even one without an epoch (-1).
NOT_LED = -2
#: So many batches of a producer are kept.
BATCHES_KEPT = 5


class AppendInfo(NamedTuple):
    """What an append did. For a duplicate: what the first append of the batch did."""

    first_offset: int
    last_offset: int
    log_append_time_ms: int
    log_start_offset: int
    duplicate: bool = False


class BatchMetadata(NamedTuple):
    """What is kept of a batch, enough to recognise and answer a duplicate."""

    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int

    @property
    def first_sequence(self) -> int:
        if self.last_sequence < 0:
            return NO_SEQUENCE
        return (self.last_sequence - self.offset_delta) & MAX_SEQUENCE

    @property
    def first_offset(self) -> int:
        return self.last_offset - self.offset_delta
