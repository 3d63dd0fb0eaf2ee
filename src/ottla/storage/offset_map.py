"""Key -> last offset, for compaction: as many keys as fit into a given memory, at 24 bytes a slot.

An open-addressing table of (hash, hash, offset + 1) that begins small and doubles, so that a partition of few keys
costs little. Kafka keeps MD5 digests; here two keyed SipHashes of 64 bits stand for the key, which no client can make
collide on purpose (`hash_key`). The table is filled and asked by the kernels, a batch at a time.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ottla.protocol.records import kernels

if TYPE_CHECKING:
    from ottla.protocol.records.checksum import Buffer

SLOT_BYTES = 24
_FIRST_SLOTS = 4096
#: A table that can still grow does so here; probes stay short.
_GROW_LOAD = 0.6


class OffsetMap:
    """The last offset of each key in the dirty part of a log.

    Args:
        memory_bytes: bound for the table, its predecessor while it doubles included (log.cleaner.dedupe.buffer.size).
        load_factor: how full the largest table may be (log.cleaner.io.buffer.load.factor).

    Attributes:
        latest_offset: everything up to it is in the map; -1 at first.
    """

    def __init__(self, memory_bytes: int, load_factor: float = 0.9) -> None:
        # While it doubles, the old table and the new one exist: three halves of the new one.
        most = memory_bytes * 2 // 3 // SLOT_BYTES
        if most < 2:
            raise ValueError(f"{memory_bytes} bytes hold no offset map")
        self._most_slots = 1 << (most.bit_length() - 1)
        self._slots = min(_FIRST_SLOTS, self._most_slots)
        self._load_factor = load_factor
        self.table = array("q", bytes(SLOT_BYTES * self._slots))
        self.keys = 0
        self.latest_offset = -1

    @property
    def capacity(self) -> int:
        """How many keys fit at most."""
        # One slot stays free: it ends the search for a key that is not there.
        return min(int(self._most_slots * self._load_factor), self._most_slots - 1)

    def add_batch(self, body: Buffer, count: int, base_offset: int, start_offset: int) -> bool:
        """Enter the records of a batch from `start_offset` on; return False if they do not all fit.

        Raises:
            ValueError: the body is malformed.
        """
        while True:
            can_grow = self._slots < self._most_slots
            limit = int(self._slots * _GROW_LOAD) if can_grow else self.capacity
            used = kernels.index_keys(body, count, base_offset, start_offset, self.table, self.keys, limit)
            if used >= 0:
                self.keys = used
                return True
            self.keys = -1 - used
            if not can_grow:
                return False
            # What is in already is entered again: the same key, the same offset.
            self._slots *= 2
            larger = array("q", bytes(SLOT_BYTES * self._slots))
            kernels.rehash(self.table, larger)
            self.table = larger
