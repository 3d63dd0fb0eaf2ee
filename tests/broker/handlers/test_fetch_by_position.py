"""A broker that answers ordinary fetches of consumers from their bytes, and one that decodes each, cannot be told apart.

Both get the same requests: in sessions and without, of one partition and of many, at the end, behind it and below the start,
that wait and that do not, beside appends, deletions, transactions that are open, committed or aborted, and a leader that is
replaced.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from tests.broker.story import started

from ottla.broker.context import PartialResult, Session, ShortCut
from ottla.broker.handlers.parked_fetch import ParkedFetch
from ottla.protocol.api import ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import AppendOrigin

PARTITIONS = 4
VERSIONS = [13, 14, 15, 16, 17, 18]


class Counts:
    """What the short cut did."""

    def __init__(self) -> None:
        self.answered = self.parked = self.left = self.continued = 0


def replace_fetch(node: SimulatedBroker, counts: Counts, *, by_position: bool) -> None:
    """Count what the short cut of Fetch does, or have it do nothing."""
    assert node.broker is not None
    dispatcher = node.broker.dispatcher
    route = dispatcher._routes[ApiKey.FETCH]
    short_cut = route.short_cut
    assert short_cut is not None

    def counted(short_cut: ShortCut, frame: memoryview, version: int, session: Session) -> Any:
        body = short_cut.handle_frame(frame, version, session) if by_position else None
        counts.left += body is None
        counts.continued += isinstance(body, PartialResult)
        counts.parked += isinstance(body, ParkedFetch)
        counts.answered += isinstance(body, bytes | list)
        return body

    dispatcher._routes[ApiKey.FETCH] = replace(
        route, short_cut=replace(short_cut, handle_frame=partial(counted, short_cut))
    )
    dispatcher._versions.clear()


async def change(node: SimulatedBroker, random: Random, index: int, open_transactions: dict[int, list[int]]) -> None:
    """Have something happen to a partition."""
    assert node.broker is not None
    partition = node.broker.replicas.partition("orders", index)
    assert partition is not None
    now_ms = node.clock.wall_ms()
    values = b"x" * random.choice([1, 50, 3_000, 50_000])
    opened = open_transactions[index]
    match random.randrange(8):
        case 0 | 1 | 2:
            partition.append(build_batch([Record(k, now_ms, None, values) for k in range(random.choice([1, 3]))]))
        case 3:
            producer_id = 5000 + random.randrange(3)
            sequence = 0
            if producer_id not in opened:
                batch = build_batch(
                    [Record(0, now_ms, None, values)],
                    producer_id=producer_id,
                    producer_epoch=random.randrange(100, 30_000),
                    base_sequence=sequence,
                    transactional=True,
                )
                try:
                    partition.append(batch)
                except Exception:  # of an older epoch than the last one
                    return
                opened.append(producer_id)
        case 4 | 5 if opened:
            producer_id = opened.pop()
            epoch = partition.log.producers.entries[producer_id].producer_epoch
            kind = random.choice([ControlType.COMMIT, ControlType.ABORT, ControlType.COMMIT])
            marker = end_transaction_marker(kind, 0, timestamp_ms=now_ms, producer_id=producer_id, producer_epoch=epoch)
            partition.append(marker, AppendOrigin.COORDINATOR)
        case 6 if random.random() < 0.3 and partition.log.high_watermark:
            await partition.delete_records(random.randrange(partition.log.high_watermark + 1))
        case 7 if random.random() < 0.1:
            partition.become_leader(partition.leader_epoch + 1)
        case _:
            pass


class Reader:
    """One consumer: what it asks for next, with or without a session."""

    def __init__(self, random: Random, topic_id: bytes, *, has_session: bool) -> None:
        self.random = random
        self.topic_id = topic_id
        self.version = random.choice(VERSIONS)
        self.isolation = random.choice([0, 0, 1])
        self.session_id, self.epoch = 0, 0 if has_session else -1
        self.offsets = dict.fromkeys(range(random.choice([1, PARTITIONS])), 0)
        self.changed = dict(self.offsets)

    def request(self) -> FetchRequest:
        random = self.random
        asked = self.changed if self.epoch > 0 else self.offsets
        topic_id = self.topic_id if random.random() < 0.97 else b"?" * 16
        parts = [
            FetchPartition(
                partition=index,
                fetch_offset=offset,
                partition_max_bytes=random.choice([100, 1 << 20]),
                current_leader_epoch=random.choice([-1, -1, -1, -1, 0, 5]),
                last_fetched_epoch=random.choice([-1] * 20 + [0]),
            )
            for index, offset in asked.items()
        ]
        if random.random() < 0.03:
            parts += parts[:1]
        topics = [FetchTopic(topic_id=topic_id, partitions=parts)] if parts else []
        return FetchRequest(
            max_wait_ms=random.choice([0, 100, 400]),
            min_bytes=random.choice([0, 1, 1, 1, 4_000]),
            max_bytes=random.choice([100, 10_000, 1 << 20]),
            isolation_level=self.isolation,
            session_id=self.session_id,
            session_epoch=self.epoch if random.random() < 0.98 else 77,
            topics=topics,
            rack_id=random.choice(["", "", "r"]),
        )

    def take(self, response: FetchResponse) -> None:
        """Go on behind what has come, or begin anew."""
        random = self.random
        if response.error_code or (self.epoch >= 0 and not response.session_id):
            self.session_id, self.epoch = 0, 0 if self.epoch >= 0 else -1
            self.changed = dict(self.offsets)
            return
        if self.epoch >= 0:
            self.session_id, self.epoch = response.session_id, self.epoch + 1
        self.changed = {}
        for part in (part for topic in response.responses for part in topic.partitions):
            if part.records or part.error_code:
                known = max(part.high_watermark, part.log_start_offset, 0)
                self.offsets[part.partition_index] = random.choice([known, known, max(known - 1, 0), known + 3])
                self.changed[part.partition_index] = self.offsets[part.partition_index]


def shown(response: FetchResponse, version: int) -> bytes:
    """The answer as it was sent, but for what is of chance."""
    response.session_id = bool(response.session_id)
    for topic in response.responses:
        topic.topic_id = topic.topic_id if topic.topic_id == b"?" * 16 else bytes(16)
    return encode(response, version)


def play(seed: int, *, by_position: bool, **settings: object) -> tuple[list[bytes], dict[str, int], Counts]:
    """In each round four consumers ask; a while later, when those that wait do so, something happens to some partitions."""
    counts = Counts()
    answers: list[bytes] = []
    totals: dict[str, int] = {}

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"num.partitions": PARTITIONS, **settings})
        assert node.broker is not None
        replace_fetch(node, counts, by_position=by_position)
        topic_id = node.broker.image.topics["orders"].topic_id
        random = Random(seed)
        open_transactions: dict[int, list[int]] = {index: [] for index in range(PARTITIONS)}
        readers = [Reader(Random(seed * 10 + number), topic_id, has_session=number % 2 == 0) for number in range(4)]
        clients = [await node.connect() for _ in readers]
        for _ in range(60):
            asked = [one.send(reader.request(), reader.version) for one, reader in zip(clients, readers, strict=True)]
            await asyncio.sleep(0.06)  # longer than a request is on its way, shorter than one waits
            for _ in range(random.choice([0, 1, 1, 3])):
                await change(node, random, random.randrange(PARTITIONS), open_transactions)
            for response, reader in zip(await asyncio.gather(*asked), readers, strict=True):
                assert isinstance(response, FetchResponse)
                reader.take(response)
                answers.append(shown(response, reader.version))
        topic = node.broker.metrics.topic("orders")
        totals.update({name: getattr(topic, name) for name in topic.__slots__})
        client.close()
        await node.stop()

    run_virtual(seed, story)
    return answers, totals, counts


@pytest.mark.parametrize("seed", range(4))
def test_answers_and_counts_are_the_same(seed: int) -> None:
    with_codec, totals, counts = play(seed, by_position=False)
    assert counts.answered == counts.parked == 0
    assert len(with_codec) == 240
    by_position, same_totals, counts = play(seed, by_position=True)
    assert counts.answered > 20
    assert counts.parked > 5
    assert counts.left + counts.continued > 5
    for number, (ours, codecs) in enumerate(zip(by_position, with_codec, strict=True)):
        assert ours == codecs, number
    assert same_totals == totals
