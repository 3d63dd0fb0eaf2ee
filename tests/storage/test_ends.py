"""What an append changes, compiled and plain: the same requests leave the same answers, files and state behind.

Each log goes through the same steps in one process: ordinary appends of batches whole and mutated, general ones, replicated
ones, markers, rolls, cuts, other configurations, other epochs, full disks, restarts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.storage.log_support import DIRECTORY, NOW, batch, idempotent, marker, open_log

from ottla.errors import KafkaError, StorageError
from ottla.protocol.records.control import ControlType
from ottla.storage import _ends_plain, ends, log, producer_state, recovery, segment, truncation, writing
from ottla.storage.appending import Append, LogAppender
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles
from ottla.types import CompressionType

SMALL = LogConfig(segment_bytes=3000, index_interval_bytes=300, retention_ms=-1)
CONFIGS = (
    SMALL,
    LogConfig(segment_bytes=3000, index_interval_bytes=0, cleanup_compact=True),
    LogConfig(segment_bytes=3000, segment_ms=50, segment_index_bytes=60, index_interval_bytes=100),
    LogConfig(max_message_bytes=200, compression_type="uncompressed", segment_jitter_ms=0),
    LogConfig(message_timestamp_type="LogAppendTime", flush_messages=3),
    LogConfig(message_timestamp_before_max_ms=10, message_timestamp_after_max_ms=10, flush_messages=2),
    LogConfig(compression_type="lz4", segment_jitter_ms=5),
)
TIMES = st.sampled_from([0, 0, 1, 5, 40, 100, -20, -NOW, -NOW - 2])

batches = st.fixed_dictionaries(
    {
        "count": st.integers(1, 4),
        "size": st.sampled_from([0, 10, 10, 300]),
        "time": TIMES,
        "key": st.sampled_from([b"k", None]),
        "producer": st.sampled_from([-1, -1, 7, 8]),
        "epoch": st.sampled_from([0, 0, 0, 1]),
        "sequence": st.sampled_from([0, 0, 0, 1, -1]),
        "codec": st.sampled_from([0, 0, 0, 1, 3, 4]),
        "transactional": st.sampled_from([False, False, False, True]),
        "flip": st.none() | st.none() | st.tuples(st.integers(0, 120), st.integers(0, 7)),
    }
)
steps = st.one_of(
    st.tuples(st.just("ordinary"), batches, st.sampled_from([0, 0, 0, 0, 1])),
    st.tuples(st.just("ordinary"), batches, st.just(0)),
    st.tuples(st.just("ordinary"), batches, st.just(0)),
    st.tuples(st.just("general"), batches),
    st.tuples(st.just("marker"), st.sampled_from([7, 8]), st.sampled_from([ControlType.ABORT, ControlType.COMMIT])),
    st.tuples(st.just("config"), st.sampled_from(CONFIGS)),
    st.tuples(st.just("lead"), st.integers(0, 1)),
    st.tuples(st.just("cut"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["roll", "fence", "flush", "full", "room", "again"])),
)


class Flushes:
    """Counts what the log asks of its owner."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def on_flush_due(self, log: PartitionLog) -> None:
        self.asked.append("flush")

    def on_files_removed(self, log: PartitionLog, paths: list[str]) -> None:
        self.asked.append("removed")

    def on_refused(self, log: PartitionLog, error: OSError) -> None:
        self.asked.append("refused")

    def on_failed(self, log: PartitionLog, error: OSError) -> None:
        self.asked.append("failed")


def on_base(derived: type, base: type) -> type:
    """Return the class as it would be with another base."""
    taken = set(derived.__dict__.get("__slots__", ())) | {"__dict__", "__weakref__"}
    names = {name: value for name, value in vars(derived).items() if name not in taken}
    return type(derived.__name__, (base,), names)


@contextmanager
def plain_ends() -> Iterator[None]:
    """Have logs that are opened inside be made of the plain types, whatever this process runs."""
    plain_segment = on_base(segment.Segment, _ends_plain.SegmentEnd)
    with pytest.MonkeyPatch.context() as patch:
        for module in (segment, writing, truncation, recovery):
            patch.setattr(module, "Segment", plain_segment)
        patch.setattr(log, "LogAppender", on_base(LogAppender, _ends_plain.LogEnd))
        plain_producer = on_base(producer_state.ProducerEntry, _ends_plain.ProducerEnd)
        patch.setattr(producer_state, "ProducerEntry", plain_producer)
        yield


def made(wanted: dict[str, Any], log: PartitionLog) -> bytearray:
    """Return the batch, its sequence counted from the one that is next."""
    producer = wanted["producer"]
    known = log.producers.entries.get(producer)
    sequence = max((known.last_sequence + 1 if known else 0) + wanted["sequence"], 0)
    options: dict[str, Any] = {}
    if producer >= 0:
        options = {"producer_id": producer, "producer_epoch": wanted["epoch"], "base_sequence": sequence}
        options["transactional"] = wanted["transactional"]
    records = batch(
        [b"v" * wanted["size"]] * wanted["count"],
        timestamp=NOW + wanted["time"],
        key=wanted["key"],
        compression=CompressionType(wanted["codec"]),
        **options,
    )
    if wanted["flip"] is not None:
        at, bit = wanted["flip"]
        records[at % len(records)] ^= 1 << bit
    return records


def state_of(log: PartitionLog) -> tuple[object, ...]:
    """Return what an append may have changed, as whoever asks sees it."""
    active = log.active_segment
    return (
        log.log_end_offset,
        log.led_epoch,
        log.reader.end[0],
        log.reader.end[2],
        log.producers.snapshot(),
        [entry.last_seen_ms for entry in log.producers.active()],
        [entry.batches for entry in log.producers.active()],
        log.producers.first_unstable_offset,
        active.base_offset,
        active.size,
        active.is_warm,
        active.max_timestamp_ms,
        active.max_timestamp_offset,
        active.first_timestamp_ms,
        active.offset_index.entries(),
        [active.time_index.get(number) for number in range(active.time_index.count)],
        active.is_index_full(log.config),
    )


def play(todo: list[tuple[Any, ...]]) -> list[object]:
    """Go through the steps with a new log; return what came of each."""
    files = MemoryFiles(lambda: NOW)
    hooks = Flushes()
    log = open_log(files, SMALL, hooks=hooks)
    log.lead(0)
    seen: list[object] = []
    for number, (kind, *how) in enumerate(todo):
        now_ms = NOW + number
        try:
            if kind == "ordinary":
                records = made(how[0], log)
                seen.append(log.append_ordinary(memoryview(records), how[1], now_ms))
                seen.append(bytes(records))
            elif kind == "general":
                seen.append(log.append_as_leader(Append(made(how[0], log), max(log.led_epoch, 0)), now_ms))
            elif kind == "marker":
                seen.append(marker(log, how[1], how[0], 0))
            elif kind == "config":
                log.config = how[0]
            elif kind == "lead":
                log.lead(how[0])
            elif kind == "fence":
                log.fence()
            elif kind == "cut":
                log.truncate_to(max(log.log_end_offset - how[0], log.log_start_offset), now_ms=now_ms)
            elif kind == "roll":
                log.roll(now_ms)
            elif kind == "flush":
                log.flush()
            elif kind == "full":
                files.capacity = files.used + 70
            elif kind == "room":
                files.capacity = 1 << 62
            else:
                log.close()
                log = open_log(files, log.config, hooks=hooks, clean=True)
        except (KafkaError, StorageError) as error:
            seen.append((type(error), str(error)))
        seen.append(state_of(log))
    seen.append(hooks.asked)
    seen.append({name: files.read_bytes(f"{DIRECTORY}/{name}") for name in files.listdir(DIRECTORY)})
    return seen


@pytest.mark.skipif(not ends.COMPILED, reason=ends.STATUS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(todo=st.lists(steps, max_size=25))
def test_compiled_and_plain_logs_end_alike(todo: list[tuple[Any, ...]]) -> None:
    compiled = play(todo)
    with plain_ends():
        plain = play(todo)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours == theirs


def many(count: int) -> list[tuple[Any, ...]]:
    """Return ordinary appends of producer 7."""
    usual = {"count": 1, "size": 100, "time": 0, "key": b"k", "epoch": 0, "sequence": 0, "transactional": False}
    usual |= {"codec": 0, "flip": None, "producer": 7}
    return [("general", usual)] + [("ordinary", usual, 0)] * count


@pytest.mark.parametrize("is_plain", [True, False])
def test_ordinary_appends_fill_a_segment_and_its_indexes(is_plain: bool) -> None:
    with plain_ends() if is_plain else pytest.MonkeyPatch.context():
        seen = play(many(14))
    outcomes = seen[2:-2:3]
    assert [info[:2] for info in outcomes[:13]] == [(number, number) for number in range(1, 14)]  # type: ignore[index]
    assert isinstance(seen[-1], dict)
    assert len(seen[-1]["00000000000000000000.index"]) == 0  # written when the segment is sealed
    state = seen[-3]
    assert isinstance(state, tuple)
    assert len(state[14]) > 2


@pytest.mark.parametrize("is_plain", [True, False])
def test_what_needs_a_second_look_is_left_as_it_was(is_plain: bool) -> None:
    with plain_ends() if is_plain else pytest.MonkeyPatch.context():
        log = open_log(None, SMALL)
        log.lead(3)
        log.append_as_leader(Append(idempotent(7, 0, 0), 3), NOW)
        for records, leader_epoch in (
            (idempotent(7, 0, 5), 3),
            (idempotent(7, 1, 1), 3),
            (idempotent(7, 0, 1), 2),
            (idempotent(9, 0, 0), 3),
            (idempotent(7, 0, 1, transactional=True), 3),
            (batch([b"x" * 3000]), 3),
            (batch([b"x"], timestamp=NOW + 3_700_000), 3),
            (bytearray(61), 3),
        ):
            before = bytes(records)
            assert log.append_ordinary(memoryview(records), leader_epoch, NOW) is None
            assert bytes(records) == before
        assert log.append_ordinary(memoryview(bytes(batch([b"x"]))), 3, NOW) is None  # it cannot be patched
        log.fence()
        assert log.append_ordinary(memoryview(batch([b"x"])), 3, NOW) is None
        assert log.log_end_offset == 1
