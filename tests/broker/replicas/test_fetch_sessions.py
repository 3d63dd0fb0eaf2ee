"""Incremental fetch sessions (KIP-227): which partitions a request means, which the response lists."""

from __future__ import annotations

import random

import pytest

from ottla.broker.replicas.fetch_sessions import SESSION_PARTITIONS_MAX, FetchContext, FetchSessionCache
from ottla.errors import ErrorCode
from ottla.protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    ForgottenTopic,
    PartitionData,
)

BY_NAME, BY_ID = 12, 13
TOPIC_ID = bytes(range(16))
NAMES = {TOPIC_ID: "orders"}


def ask(
    *partitions: int, session_id: int = 0, epoch: int = 0, topic: str = "orders", forget: tuple[int, ...] = ()
) -> FetchRequest:
    request = FetchRequest(session_id=session_id, session_epoch=epoch)
    if partitions:
        request.topics = [
            FetchTopic(
                topic=topic, partitions=[FetchPartition(partition=p, partition_max_bytes=100) for p in partitions]
            )
        ]
    if forget:
        request.forgotten_topics_data = [ForgottenTopic(topic=topic, partitions=list(forget))]
    return request


def answer(context: FetchContext, **fields: dict[int, object]) -> list[int]:
    """Shape a response in which every partition has the same facts, except those in `fields` by partition."""
    answers = []
    for asked in context.partitions:
        data = PartitionData(partition_index=asked.partition, high_watermark=5, log_start_offset=0, records=b"")
        for name, values in fields.items():
            if asked.partition in values:
                setattr(data, name, values[asked.partition])
        answers.append((asked, data))
    return [data.partition_index for _, data in context.shape(answers)]


@pytest.fixture
def cache() -> FetchSessionCache:
    return FetchSessionCache(2, random.Random(1))


def test_full_request_lists_everything_and_opens_a_session(cache: FetchSessionCache) -> None:
    context = cache.open_context(ask(0, 1), BY_NAME, NAMES, 0)
    assert context.session_id > 0
    assert answer(context) == [0, 1]


def test_incremental_response_lists_only_news(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0, 1, 2), BY_NAME, NAMES, 0)
    answer(first)
    second = cache.open_context(ask(session_id=first.session_id, epoch=1), BY_NAME, NAMES, 0)
    assert [p.partition for p in second.partitions] == [0, 1, 2]
    assert answer(second) == []
    third = cache.open_context(ask(session_id=first.session_id, epoch=2), BY_NAME, NAMES, 0)
    assert answer(third, high_watermark={1: 6}, log_start_offset={2: 3}) == [1, 2]


def test_partition_with_data_moves_to_the_end(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0, 1, 2), BY_NAME, NAMES, 0)
    answer(first, records={0: b"x"})
    second = cache.open_context(ask(session_id=first.session_id, epoch=1), BY_NAME, NAMES, 0)
    assert [p.partition for p in second.partitions] == [1, 2, 0]


def test_error_is_listed_and_so_is_its_end(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0), BY_NAME, NAMES, 0)
    answer(first)
    failing = cache.open_context(ask(session_id=first.session_id, epoch=1), BY_NAME, NAMES, 0)
    assert answer(failing, error_code={0: 56}) == [0]
    healed = cache.open_context(ask(session_id=first.session_id, epoch=2), BY_NAME, NAMES, 0)
    assert answer(healed) == [0]


def test_new_offset_replaces_the_old_one_and_forgotten_partitions_go(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0, 1), BY_NAME, NAMES, 0)
    answer(first)
    request = ask(0, session_id=first.session_id, epoch=1, forget=(1,))
    request.topics[0].partitions[0].fetch_offset = 42
    second = cache.open_context(request, BY_NAME, NAMES, 0)
    assert [(p.partition, p.fetch_offset) for p in second.partitions] == [(0, 42)]


def test_session_with_nothing_left_ends(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0), BY_NAME, NAMES, 0)
    emptied = cache.open_context(ask(session_id=first.session_id, epoch=1, forget=(0,)), BY_NAME, NAMES, 0)
    assert (emptied.error, emptied.session_id, len(cache)) == (ErrorCode.NONE, 0, 0)


def test_wrong_id_wrong_epoch_and_names_for_ids_are_refused(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0), BY_NAME, NAMES, 0)
    unknown = cache.open_context(ask(session_id=first.session_id + 1, epoch=1), BY_NAME, NAMES, 0)
    assert unknown.error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    stale = cache.open_context(ask(session_id=first.session_id, epoch=7), BY_NAME, NAMES, 0)
    assert stale.error == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    mixed = cache.open_context(ask(session_id=first.session_id, epoch=1), BY_ID, NAMES, 0)
    assert mixed.error == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR


def test_final_epoch_closes_the_session(cache: FetchSessionCache) -> None:
    first = cache.open_context(ask(0), BY_NAME, NAMES, 0)
    closing = cache.open_context(ask(0, session_id=first.session_id, epoch=-1), BY_NAME, NAMES, 0)
    assert (closing.session_id, [p.partition for p in closing.partitions], len(cache)) == (0, [0], 0)


def test_full_cache_serves_without_session_until_one_is_old(cache: FetchSessionCache) -> None:
    for _ in range(2):
        assert cache.open_context(ask(0), BY_NAME, NAMES, 0).session_id
    assert cache.open_context(ask(0), BY_NAME, NAMES, 119_999).session_id == 0
    assert cache.open_context(ask(0), BY_NAME, NAMES, 120_000).session_id
    assert len(cache) == 2


def test_topic_id_that_becomes_known_is_resolved(cache: FetchSessionCache) -> None:
    request = ask(0)
    request.topics[0].topic, request.topics[0].topic_id = "", TOPIC_ID
    first = cache.open_context(request, BY_ID, {}, 0)
    assert first.partitions[0].topic == ""
    second = cache.open_context(ask(session_id=first.session_id, epoch=1), BY_ID, NAMES, 0)
    assert second.partitions[0].topic == "orders"


def test_more_partitions_than_a_session_holds_are_served_without_one(cache: FetchSessionCache) -> None:
    most = SESSION_PARTITIONS_MAX
    context = cache.open_context(ask(*range(most + 1)), BY_NAME, NAMES, 0)
    assert (context.error, context.session_id, len(context.partitions)) == (ErrorCode.NONE, 0, most + 1)
    assert len(cache) == 0
    opened = cache.open_context(ask(*range(most)), BY_NAME, NAMES, 0)
    assert opened.session_id
    grown = cache.open_context(ask(most, session_id=opened.session_id, epoch=1), BY_NAME, NAMES, 0)
    assert (grown.error, grown.session_id, len(grown.partitions)) == (ErrorCode.NONE, 0, most + 1)
    assert len(cache) == 0
