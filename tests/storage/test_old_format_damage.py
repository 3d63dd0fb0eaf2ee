"""Any byte of segments of formats 0, 1 and 2 may change: no record of another batch is lost, and nothing else stops."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.records.legacy_support import mixed_runs, segments
from tests.storage.log_support import DIRECTORY, NOW, open_log

from ottla.errors import CorruptMessageError
from ottla.protocol.records.builder import Record
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.storage.config import LogConfig
from ottla.storage.damage import UnreadableError
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles

CONFIG = LogConfig(segment_bytes=1 << 20, index_interval_bytes=200)
RUNS = mixed_runs(random.Random(11), 40, base_ms=NOW)
PARTS = segments(RUNS, 4)
RECORDS = {record.offset: record for run in RUNS for record in run.consumed()}
END = max(RECORDS) + 1


def opened(base_offset: int, data: bytes, *, clean: bool) -> PartitionLog:
    files = MemoryFiles(lambda: NOW)
    files.mkdir(DIRECTORY)
    for base, part in {**PARTS, base_offset: data}.items():
        files.write_atomic(f"{DIRECTORY}/{base:020}.log", part)
    return open_log(files, CONFIG, clean=clean, recovery_point=END, high_watermark=END)


def read_around_damage(log: PartitionLog) -> dict[int, Record]:
    """Read as a consumer that goes on one offset further wherever it is told that what is there is damaged."""
    found: dict[int, Record] = {}
    offset = log.log_start_offset
    while offset < END:  # a changed offset may move the log end far away
        try:
            part = log.read(offset, 1000, upper_offset=END)
        except (CorruptMessageError, UnreadableError):
            offset += 1
            continue
        assert part.size, f"a consumer waits for ever at {offset}"
        data = part.read()
        before = offset
        for position, header in iter_batches(data):
            assert header.last_offset >= offset
            offset = header.last_offset + 1
            try:
                records = read_records(data, position, verify_crc=True)
            except ValueError:
                continue  # the consumer sees that itself
            found.update((record.offset, record) for record in records if record.offset >= before)
    return found


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(PARTS)), st.booleans(), st.data())
def test_a_changed_byte_costs_its_own_batch_at_most(base_offset: int, clean: bool, draw: st.DataObject) -> None:
    data = bytearray(PARTS[base_offset])
    changed = draw.draw(st.integers(0, len(data) - 1))
    hit = next((at, header) for at, header in iter_batches(data) if at <= changed < at + header.size)
    lost = {record.offset for record in read_records(data, hit[0])}
    data[changed] ^= draw.draw(st.integers(1, 255))
    found = read_around_damage(opened(base_offset, bytes(data), clean=clean))
    for offset, record in RECORDS.items():
        if offset not in lost:
            assert found.get(offset) == record, (offset, lost)
