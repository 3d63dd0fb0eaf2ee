"""A task made by hand: records in, outputs out, stores of bytes."""

from __future__ import annotations

from typing import Any

import pytest

from ottla.streams import RecordError
from ottla.streams.context import Headers, InputRecord, NodeContext, Output, Process
from ottla.streams.handlers import DeadLetter, Handlers, Skip
from ottla.streams.restoring import Restorer
from ottla.streams.serdes import INT64, TEXT
from ottla.streams.store import MemoryStore
from ottla.streams.task import Task
from ottla.streams.topology import (
    TIMES_STORE,
    ProcessorNode,
    SinkNode,
    SourceNode,
    StoreKind,
    StoreSpec,
    SubTopology,
    group_nodes,
)

COUNTS = StoreSpec(
    name="counts",
    kind=StoreKind.TIMESTAMPED_KEY_VALUE,
    key_serde=TEXT,
    value_serde=INT64,
    changelog="app-counts-changelog",
)


def count(context: NodeContext) -> Process:
    store = context.store("counts")
    times = context.task.times_of(context.name, "counts")
    forward = context.forward

    def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        if value == "poison":
            context.fail(ValueError("poison"), key, value, timestamp, headers)
            return
        times.advance(timestamp)
        found = (store.get(key) or 0) + 1
        store.put(key, found, timestamp)
        forward(key, found, timestamp, headers)

    return process


def word_count() -> SubTopology:
    source = SourceNode(name="source", topics=("words",), key_serde=TEXT, value_serde=TEXT, children=["count"])
    counting = ProcessorNode(name="count", make=count, stores=["counts"], parents=["source"], children=["sink"])
    sink = SinkNode(name="sink", topic="counts", key_serde=TEXT, value_serde=INT64, parents=["count"])
    times = StoreSpec(name=TIMES_STORE, kind=StoreKind.TIMES)
    nodes = {node.name: node for node in (source, counting, sink)}
    return SubTopology(id=0, nodes=nodes, stores=(COUNTS, times))


def make_task(stores: dict[str, MemoryStore], handlers: Handlers | None = None) -> Task:
    return Task(
        word_count(),
        3,
        stores,
        application_id="app",
        clock=lambda: 0,
        partition_count=lambda topic: 1,
        handlers=handlers,
    )


def record(offset: int, key: bytes | None, value: bytes | None, timestamp: int = 100) -> InputRecord:
    return InputRecord("words", 3, offset, timestamp, key, value, (("h", b"1"),))


def empty() -> dict[str, MemoryStore]:
    return {"counts": MemoryStore(), TIMES_STORE: MemoryStore()}


def test_outputs_are_changelog_and_sink_records_in_order() -> None:
    task = make_task(empty())

    outputs = task.process(record(0, b"a", b"x"))

    one = (1).to_bytes(8, "big")
    assert outputs == [
        Output("app-counts-changelog", 3, b"a", one, 100, ()),
        Output("counts", None, b"a", one, 100, (("h", b"1"),)),
    ]


def test_a_task_rebuilt_after_an_abort_knows_what_was_committed_only() -> None:
    stores = empty()
    task = make_task(stores)
    task.process(record(0, b"a", b"x", 500))
    task.flush()
    committed = {name: store.copy() for name, store in stores.items()}
    task.process(record(1, b"a", b"x", 9000))

    for name, store in committed.items():
        stores[name].__dict__.update(store.__dict__)
    task.rebuild()

    assert task.stream_time == 500
    assert task.times_of("count", "counts").stream_time == 500
    assert task.process(record(1, b"a", b"x", 9000))[0].value == (2).to_bytes(8, "big")


def test_changelog_restores_values_and_stream_times() -> None:
    stores = empty()
    task = make_task(stores)
    logged = [*task.process(record(0, b"a", b"x", 500)), *task.process(record(1, b"b", b"x", 300)), *task.flush()]

    restored = empty()
    restorer = Restorer(COUNTS, restored)
    for output in logged:
        if output.topic == COUNTS.changelog:
            assert output.partition == 3
            restorer.apply(output.key, output.value, output.timestamp, output.headers)

    assert list(restored["counts"].range(b"", None)) == list(stores["counts"].range(b"", None))
    assert make_task(restored).times_of("count", "counts").stream_time == 500


def test_error_names_topic_partition_offset_and_operator() -> None:
    task = make_task(empty())

    with pytest.raises(
        RecordError, match=r"count failed on the record at words-3, offset 7, while processing it"
    ) as raised:
        task.process(record(7, b"a", b"poison"))

    assert (raised.value.topic, raised.value.partition, raised.value.offset) == ("words", 3, 7)
    assert isinstance(raised.value.__cause__, ValueError)


def test_unreadable_record_is_skipped_or_becomes_a_dead_letter() -> None:
    skipping = make_task(empty(), Handlers(deserialization=Skip()))
    burying = make_task(empty(), Handlers(deserialization=DeadLetter("dead")))

    assert skipping.process(record(0, b"a", b"\xff")) == []
    assert skipping.dropped == {"source": 1}
    (letter,) = burying.process(record(0, b"a", b"\xff"))

    assert (letter.topic, letter.key, letter.value) == ("dead", b"a", b"\xff")
    assert dict(letter.headers)["__streams.errors.offset"] == b"0"


def test_refused_output_goes_to_the_production_handler_on_replay() -> None:
    task = make_task(empty(), Handlers(production=DeadLetter("dead")))
    task.refuse(record(0, b"a", b"x"), 1, ValueError("too large"))

    outputs = task.process(record(0, b"a", b"x"))

    assert [output.topic for output in outputs] == ["app-counts-changelog", "dead"]
    assert [output.topic for output in task.process(record(1, b"a", b"x"))] == ["app-counts-changelog", "counts"]


def test_nodes_that_share_a_store_are_one_sub_topology() -> None:
    first = SourceNode(name="a", topics=("a",))
    second = SourceNode(name="b", topics=("b",))
    third = SourceNode(name="c", topics=("c",))
    nodes = {node.name: node for node in (first, second, third)}

    assert group_nodes(nodes, [["a", "c"]]) == [["a", "c"], ["b"]]
