"""What `send` does for each record: compiled and plain give the same bytes, and the short way the same as the long one."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.extensions import compiled_kernel

from ottla.client._core import _appending_plain as plain
from ottla.client._core import appending
from ottla.client._core.accumulator import Accumulator
from ottla.client._core.batch import record_size
from ottla.client._core.settings import ProducerSettings
from ottla.client.deliveries import Delivery
from ottla.client.records import make_headers
from ottla.protocol.records import kernels
from ottla.types import CompressionType

SOURCE = Path(appending.__file__).with_name("_appending_cy.py")
items = st.none() | st.binary(max_size=40)
names = st.text(st.characters(codec="utf-8"), max_size=8)
headers = st.lists(st.tuples(names, items), max_size=3).map(tuple)
stamps = st.integers(0, 100_000) | st.integers(0, 2**63 - 1)


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled module."""
    return compiled_kernel(SOURCE, tmp_path_factory)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(stamps, items, items, headers), max_size=30))
def test_compiled_and_plain_write_the_same_batch(extension: ModuleType, rows: list[Any]) -> None:
    written = []
    for made in (extension.Records(), plain.Records()):
        for index, (stamp, key, value, pairs) in enumerate(rows):
            assert made.add(stamp, key, value, pairs, record_size(key, value, pairs)) == index
        assert not made.closed
        body = made.take_body()
        facts = (made.count, made.size, made.base_timestamp, made.max_timestamp, made.closed, made.take_body())
        written.append((body, facts))
    assert written[0] == written[1]
    body = written[0][0]
    assert (body is None) == (not rows)
    if body is not None:
        base = rows[0][0]
        assert [row[1:] for row in kernels.decode_records(body, len(rows), 0, base, None)] == rows
        for module in (extension, plain):
            assert module.read_timestamps(body, len(rows), base).tolist() == [row[0] for row in rows]


@given(st.binary(max_size=70))
def test_compiled_and_plain_have_the_same_hash(extension: ModuleType, key: bytes) -> None:
    assert extension.murmur2(key) == plain.murmur2(key)


@pytest.mark.parametrize("bad", [b"", b"\x7f", b"\x10\x00\x00", b"\x14\x00" + b"\xff" * 12])
def test_timestamps_of_what_is_no_body_are_refused(extension: ModuleType, bad: bytes) -> None:
    for module in (extension, plain):
        with pytest.raises(ValueError, match=r"record|records|varint|varlong"):
            module.read_timestamps(bytearray(bad), 1, 0)


@pytest.mark.parametrize("what", ["compiled", "plain"])
def test_a_batch_knows_which_tickets_are_held(extension: ModuleType, what: str) -> None:
    module: Any = extension if what == "compiled" else plain
    records = module.Records()
    for _ in range(200):
        records.add(0, None, b"x", (), 15)
    kept = {index: module.Ticket(records, index, None) for index in (0, 3, 150, 199)}
    assert [index for index in range(201) if records.is_held(index)] == list(kept)
    del kept[3]
    assert [index for index in range(201) if records.is_held(index)] == [0, 150, 199]
    kept.clear()
    assert not records.any_held
    assert not records.is_held(-1) or what == "plain"


def test_a_lock_keeps_others_out(extension: ModuleType) -> None:
    lock, seen = extension.Lock(), []

    def other() -> None:
        with lock:
            seen.append("other")

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        seen.append("this")
    thread.join(10)
    assert seen == ["this", "other"]


# -- the short way and the long one ------------------------------------------------------------------------------------

sent = st.fixed_dictionaries(
    {
        "value": items | st.text(max_size=5) | st.binary(min_size=60, max_size=400),
        "key": st.none() | st.binary(max_size=12) | st.text(max_size=5),
        "headers": headers,
        "partition": st.none() | st.integers(0, 3),
        "timestamp": stamps,
    }
)


def as_bytes(item: Any) -> bytes | None:
    return item.encode() if isinstance(item, str) else item


class Side:
    """An accumulator, and the bytes of each batch in the order in which they were taken."""

    def __init__(self, kind: str | None, batch_size: int, memory: int, ignore_keys: bool) -> None:
        made = ProducerSettings(
            partitioner=kind,
            batch_size=batch_size,
            buffer_memory=memory,
            partitioner_ignore_keys=ignore_keys,
        )
        self.accumulator = Accumulator(made, random.Random(3))
        self.accumulator.set_partitions("t", 4, range(4))
        self.sender = appending.Sender(
            self.accumulator, self.accumulator.topics, Delivery, None, 300, lambda: 5, None, True
        )
        self.taken: list[tuple[int, bytes]] = []
        self.short = 0

    def send(self, record: dict[str, Any], *, short: bool) -> bool:
        topics = self.accumulator.topics["t"]
        pairs = record["headers"]
        if short:
            ticket = self.sender.send(
                "t", record["value"], record["key"], pairs, record["partition"], record["timestamp"]
            )
            if ticket is not None:
                self.short += 1
                batch = ticket._batch
                assert batch.is_held(ticket._index)
                assert ticket._index == batch.count - 1
                return True
        key, value = as_bytes(record["key"]), as_bytes(record["value"])
        size = record_size(key, value, make_headers(pairs))
        if size > 300:
            return False
        found = self.accumulator.append(
            topics, record["partition"], key, value, pairs, record["timestamp"], size, lambda: 0
        )
        return found is not None

    def take(self) -> None:
        while self.accumulator.active:
            queue = next(iter(self.accumulator.active))
            batch = self.accumulator.take(queue)
            data = batch.encode(CompressionType.NONE, None, transactional=False)
            self.taken.append((queue.partition, bytes(data)))
            batch.succeed(0, -1)
            self.accumulator.release(batch.size)

    def facts(self) -> tuple[Any, ...]:
        topics = self.accumulator.topics["t"]
        return self.taken, self.accumulator.used, topics.partitioner.sticky, topics.partitioner.stuck


@settings(deadline=None)
@given(
    steps=st.lists(sent | st.just("take"), max_size=60),
    kind=st.sampled_from([None, "consistent_random", "round_robin"]),
    batch_size=st.integers(0, 1_000),
    memory=st.integers(400, 3_000),
    ignore_keys=st.booleans(),
)
def test_the_short_way_leads_to_the_same_batches(
    steps: list[Any], kind: str | None, batch_size: int, memory: int, ignore_keys: bool
) -> None:
    one, other = (Side(kind, batch_size, memory, ignore_keys) for _ in range(2))
    for step in steps:
        if step == "take":
            one.take()
            other.take()
        else:
            assert one.send(step, short=True) == other.send(step, short=False)
        assert one.facts() == other.facts()
    one.take()
    other.take()
    assert one.facts() == other.facts()
    assert one.accumulator.used == 0


def side() -> Side:
    """One with an open batch in partition 0."""
    made = Side(None, 10_000, 100_000, False)
    record = {"value": b"x", "key": None, "headers": (), "partition": 0, "timestamp": 1}
    assert made.send(record, short=False)
    return made


def short(made: Side, **changes: Any) -> Any:
    wanted = {"topic": "t", "value": b"x", "key": None, "headers": None, "partition": 0, "timestamp": None, **changes}
    return made.sender.send(*wanted.values())


@pytest.mark.skipif(not appending.COMPILED, reason="without a compiler there is no short way")
class TestShortWay:
    def test_it_takes_what_needs_no_thought(self) -> None:
        made = side()
        ticket = short(made)
        assert type(ticket) is Delivery
        assert (ticket._index, ticket._batch.partition, ticket._batch.max_timestamp) == (1, 0, 5)

    @pytest.mark.parametrize(
        "changes",
        [
            {"topic": "unknown"},
            {"value": 1},
            {"value": bytearray(b"x")},
            {"value": "\ud800"},
            {"key": "\ud800"},
            {"key": 1.5},
            {"headers": [("a", b"b")]},
            {"partition": 1},
            {"partition": 4},
            {"partition": -1},
            {"partition": 2**70},
            {"partition": True},
            {"partition": None},
            {"timestamp": -1},
            {"timestamp": 2**63},
            {"timestamp": 1.0},
            {"timestamp": True},
            {"value": b"x" * 290},
        ],
    )
    def test_everything_else_is_left_alone(self, changes: dict[str, Any]) -> None:
        made = side()
        before = made.facts()
        assert short(made, **changes) is None
        made.take()
        assert len(made.taken) == 1
        assert before[1] == 15

    def test_a_closed_batch_takes_nothing(self) -> None:
        made = side()
        queue = next(iter(made.accumulator.active))
        made.accumulator.drop(queue.batches[0])
        assert short(made) is None

    def test_a_producer_that_is_closed_takes_nothing(self) -> None:
        made = side()
        made.sender.open = False
        assert short(made) is None

    def test_a_ticket_that_was_dropped_becomes_the_next_one(self) -> None:
        made = side()
        first = short(made)
        batch = first._batch
        number = id(first)
        second = short(made)
        assert second is not first
        assert [batch.is_held(index) for index in range(4)] == [False, True, True, False]
        del second
        third = short(made)
        assert third._index == 3
        assert [batch.is_held(index) for index in range(5)] == [False, True, False, True, False]
        assert id(first) == number
        del first, third
        made.sender.forget_last()
        assert not batch.any_held

    def test_a_ticket_with_a_callback_is_kept_until_the_outcome(self) -> None:
        made = side()
        told: list[int] = []
        short(made)._batch.callbacks.append(lambda: None)
        ticket = Delivery(short(made)._batch, 0, threading.Lock())
        ticket.add_done_callback(lambda done: told.append(done._index))
        batch = ticket._batch
        del ticket
        gc.collect()
        assert batch.is_held(0)
        batch.succeed(7, -1)
        callbacks, batch.callbacks = batch.callbacks, []
        while callbacks:
            callbacks.pop()()
        assert told == [0]
        assert not batch.is_held(0)

    def test_a_transaction_is_asked_first(self) -> None:
        made = side()

        def refuse() -> None:
            raise RuntimeError("no transaction")

        sender: Any = appending.Sender(
            made.accumulator,
            made.accumulator.topics,
            Delivery,
            appending.make_lock and appending.make_lock(),
            300,
            None,
            refuse,
            True,
        )
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no transaction"):
                sender.send("t", b"x", None, None, 0, None)
        assert made.accumulator.used == 15

    def test_it_looks_like_the_method_it_stands_for(self) -> None:
        import inspect

        import ottla

        assert list(inspect.signature(ottla.Producer.send).parameters)[:3] == ["self", "topic", "value"]
        assert "max.block.ms" in (ottla.Producer.send.__doc__ or "")
