"""Cases: does a request cost more when there is more of everything else? CPU us per request at 1x, 10x and 100x, and more.

The requests are the same at every point: one record produced with acks=all, one fetched at the end, one batch of 10 records
fetched from anywhere in what has been filled in, the offset of a time, metadata of one topic, an offset committed for one
group. So are the answers, in size. Figures are named request@count.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from benchmarks import idle_connections
from benchmarks.compare import raw
from benchmarks.compare.arena import Arena, Broker, Figures, create, metered, written
from benchmarks.support.wire import LIST_OFFSETS_VERSION, METADATA_VERSION, Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)

TOPIC = "probe"
REQUESTS = 1000
COMMIT_VERSION = 8
SEED = 4
ROUNDS = 3
BATCH = (10, 1000)
"""Records in a batch that is filled in, and bytes of each."""
Spans = list[range]
"""Offsets of what was filled in, between the records of the requests that were measured."""


def partitions(arena: Arena, who: str, *, points: Sequence[int]) -> Figures:
    """Other partitions in the broker, in topics of a thousand."""

    def grow(broker: Broker, spans: Spans, have: int, want: int) -> None:
        for first in range(have, want, 1000):
            create(broker, f"other-{first}", min(1000, want - first))

    return _curve(arena, who, points, grow)


def connections(arena: Arena, who: str, *, points: Sequence[int]) -> Figures:
    """Idle connections beside the one that asks."""
    idle: list[Wire] = []

    def grow(broker: Broker, spans: Spans, have: int, want: int) -> None:
        if not idle:
            create(broker, idle_connections.TOPIC, 1)
        idle.extend(idle_connections.open_idle(broker.port, want - have))

    try:
        return _curve(arena, who, points, grow)
    finally:
        for wire in idle:
            wire.close()


def groups(arena: Arena, who: str, *, points: Sequence[int]) -> Figures:
    """Other groups with committed offsets."""

    def grow(broker: Broker, spans: Spans, have: int, want: int) -> None:
        raw.ask_each(broker.port, [_commit(f"other-{number}") for number in range(have, want)])

    return _curve(arena, who, points, grow)


def segments(arena: Arena, who: str, *, points: Sequence[int]) -> Figures:
    """Segments of the partition that is asked: 1 MiB each."""

    def grow(broker: Broker, spans: Spans, have: int, want: int) -> None:
        _fill(broker, spans, (want - have) << 20)

    return _curve(arena, who, points, grow, {"segment.bytes": str(1 << 20)})


def length(arena: Arena, who: str, *, points: Sequence[int]) -> Figures:
    """MB in the partition that is asked, in one segment as far as they fit."""

    def grow(broker: Broker, spans: Spans, have: int, want: int) -> None:
        _fill(broker, spans, (want - have) * 1_000_000)

    return _curve(arena, who, points, grow)


def _fill(broker: Broker, spans: Spans, size: int) -> None:
    """Append batches of one size to the partition that is asked."""
    first = written(broker, TOPIC, 1)
    raw.replay_produce(broker.port, [raw.produce_frame(TOPIC, 0, raw.make_batch(*BATCH))], size)
    spans.append(range(first, written(broker, TOPIC, 1)))


def _curve(
    arena: Arena,
    who: str,
    points: Sequence[int],
    grow: Callable[[Broker, Spans, int, int], None],
    configs: dict[str, str] | None = None,
) -> Figures:
    """Let it grow from point to point and ask the same at each.

    A second broker that does not grow is asked in turn with it: how fast the machine is changes over the minutes this takes.
    Its costs are the figures request@point/base. Of three rounds the cheapest counts.
    """
    figures: Figures = {}
    with arena.fresh(who) as broker, arena.fresh(who) as base:
        spans: dict[Broker, Spans] = {broker: [], base: []}
        for one in (broker, base):
            create(one, TOPIC, 1, configs)
            _fill(one, spans[one], 1 << 20)
            _costs(arena, one, spans[one])  # the first requests load modules and fill caches
        have = 0
        for point in points:
            want = arena.scaled(point, least=2)
            if want > have:
                grow(broker, spans[broker], have, want)
                have = want
            for _ in range(ROUNDS):
                for one, suffix in ((broker, ""), (base, "/base")):
                    for request, cost in _costs(arena, one, spans[one]).items():
                        name = f"{request}@{point}{suffix}"
                        figures[name] = min(cost, figures.get(name, cost))
    return figures


def _costs(arena: Arena, broker: Broker, spans: Spans) -> Figures:
    """CPU us of each kind of request."""
    count = arena.scaled(REQUESTS, least=100)
    record = raw.produce_frame(TOPIC, 0, raw.make_batch(1, 100))
    raw.ask_each(broker.port, [record])
    dice = random.Random(SEED)
    anywhere = [dice.choice(span) for span in dice.choices(spans, weights=list(map(len, spans)), k=count)]
    end = written(broker, TOPIC, 1)
    kinds = {
        "produce": [record],
        "fetch-end": [raw.fetch_frame(TOPIC, 0, end - 1, 1 << 10)],
        "fetch-anywhere": [raw.fetch_frame(TOPIC, 0, offset, 1 << 10) for offset in anywhere],
        "offset-for-time": [_offset_for_time()],
        "metadata": [_metadata()],
        "commit": [_commit("asked")],
    }
    costs: Figures = {}
    for kind, frames in kinds.items():
        with metered(broker.pid) as meter:
            raw.ask_each(broker.port, frames if len(frames) == count else frames * count)
        costs[kind] = meter.cpu_s / count * 1e6
    return costs


def _offset_for_time() -> bytes:
    wanted = ListOffsetsPartition(partition_index=0, current_leader_epoch=-1, timestamp=1)
    topic = ListOffsetsTopic(name=TOPIC, partitions=[wanted])
    request = ListOffsetsRequest(replica_id=-1, topics=[topic])
    return raw.frame(ApiKey.LIST_OFFSETS, LIST_OFFSETS_VERSION, request)


def _metadata() -> bytes:
    request = MetadataRequest(topics=[MetadataRequestTopic(name=TOPIC)], allow_auto_topic_creation=False)
    return raw.frame(ApiKey.METADATA, METADATA_VERSION, request)


def _commit(group: str) -> bytes:
    partition = OffsetCommitRequestPartition(partition_index=0, committed_offset=1, committed_metadata="")
    request = OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        topics=[OffsetCommitRequestTopic(name=TOPIC, partitions=[partition])],
    )
    return raw.frame(ApiKey.OFFSET_COMMIT, COMMIT_VERSION, request)
