"""Topologies of the tests of this folder, and what they should come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ottla.streams.context import Headers, NodeContext, Process
from ottla.streams.serdes import Text
from ottla.streams.topology import (
    TIMES_STORE,
    ProcessorNode,
    RepartitionTopic,
    SinkNode,
    SourceNode,
    StoreKind,
    StoreSpec,
    SubTopology,
    Topology,
)

WORDS = "app-words-repartition"
CHANGELOG = "app-counts-changelog"


def split(context: NodeContext) -> Process:
    """Each word as a record of its own, with the word as key."""

    def process(key: Any, value: str, timestamp: int, headers: Headers) -> None:
        for word in value.split():
            context.forward(word, word, timestamp, headers)

    return process


def count(context: NodeContext) -> Process:
    """How often a key came, with every record; it also remembers its stream time."""
    counts = context.store("counts")
    times = context.task.times_of("count", "counts")

    def process(key: str, value: Any, timestamp: int, headers: Headers) -> None:
        times.advance(timestamp)
        found = int(counts.get(key) or 0) + 1
        counts.put(key, str(found), timestamp)
        context.forward(key, str(found), timestamp, headers)

    return process


def tick(context: NodeContext) -> Process:
    """Every 50 ms of the wall clock: how often that was, into the store and to the sink."""
    ticks = context.store("counts")

    def fire(now_ms: int) -> None:
        found = int(ticks.get("ticks") or 0) + 1
        ticks.put("ticks", str(found), now_ms)
        context.forward("ticks", str(found), now_ms, ())

    context.task.schedule(context.name, 50, "wall_clock", fire)
    return lambda key, value, timestamp, headers: context.forward(key, value, timestamp, headers)


def _counting(sub_id: int, topic: str, out: str) -> SubTopology:
    counts = StoreSpec(
        name="counts",
        kind=StoreKind.TIMESTAMPED_KEY_VALUE,
        key_serde=Text(),
        value_serde=Text(),
        changelog=CHANGELOG,
    )
    return SubTopology(
        id=sub_id,
        nodes={
            "words": SourceNode(
                name="words", topics=(topic,), children=["count"], key_serde=Text(), value_serde=Text()
            ),
            "count": ProcessorNode(name="count", parents=["words"], children=["out"], make=count, stores=["counts"]),
            "out": SinkNode(name="out", parents=["count"], topic=out, key_serde=Text(), value_serde=Text()),
        },
        stores=(counts, StoreSpec(name=TIMES_STORE, kind=StoreKind.TIMES)),
    )


def word_count() -> Topology:
    """lines -> words -> repartitioned by word -> counted -> counts."""
    splitting = SubTopology(
        id=0,
        nodes={
            "lines": SourceNode(name="lines", topics=("lines",), children=["split"], value_serde=Text()),
            "split": ProcessorNode(name="split", parents=["lines"], children=["words"], make=split),
            "words": SinkNode(name="words", parents=["split"], topic=WORDS, key_serde=Text(), value_serde=Text()),
        },
        stores=(StoreSpec(name=TIMES_STORE, kind=StoreKind.TIMES),),
    )
    return Topology(
        application_id="app",
        sub_topologies=(splitting, _counting(1, WORDS, "counts")),
        repartition_topics={WORDS: RepartitionTopic(name=WORDS)},
    )


def ticking() -> Topology:
    """keyed -> counts, as it is; and every 50 ms a number, counted in a store."""
    sub = _counting(0, "keyed", "counts")
    made = {
        **sub.nodes,
        "count": ProcessorNode(name="count", parents=["words"], children=["out"], make=tick, stores=["counts"]),
    }
    return Topology(application_id="app", sub_topologies=(replace(sub, nodes=made),), repartition_topics={})


def looking_up() -> Topology:
    """keyed -> the value that the global table `names` has for the key -> counts."""
    spec = StoreSpec(
        name="names", kind=StoreKind.TIMESTAMPED_KEY_VALUE, key_serde=Text(), value_serde=Text(), is_global=True
    )

    def keep(context: NodeContext) -> Process:
        names = context.store("names")
        return lambda key, value, timestamp, headers: names.put(key, value, timestamp)

    def look(context: NodeContext) -> Process:
        names = context.store("names")
        return lambda key, value, timestamp, headers: context.forward(key, names.get(key), timestamp, headers)

    table = SubTopology(
        id=0,
        nodes={
            "table": SourceNode(
                name="table", topics=("names",), children=["keep"], key_serde=Text(), value_serde=Text(), is_global=True
            ),
            "keep": ProcessorNode(name="keep", parents=["table"], make=keep, stores=["names"]),
        },
        stores=(spec,),
        is_global=True,
    )
    sub = _counting(1, "keyed", "counts")
    node = ProcessorNode(name="count", parents=["words"], children=["out"], make=look)
    lookup = replace(sub, nodes={**sub.nodes, "count": node}, stores=sub.stores[1:])
    return Topology(application_id="app", sub_topologies=(table, lookup), repartition_topics={})


def key_count() -> Topology:
    """keyed -> counted by key -> counts, in one task."""
    return Topology(application_id="app", sub_topologies=(_counting(0, "keyed", "counts"),), repartition_topics={})


def expected(words: Iterable[str]) -> dict[str, list[str]]:
    """What `counts` has of each word: 1, 2, 3, ... in this order."""
    return {word: [str(number + 1) for number in range(found)] for word, found in Counter(words).items()}
