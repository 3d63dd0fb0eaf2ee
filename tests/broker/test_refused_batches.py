"""What comes behind a batch that could not be appended just now waits for it: it is not said to be out of order."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from tests.broker.story import fetch, log_of, started

from ottla.broker.refused_batches import FOLLOWERS_MAX, REMEMBERED_MAX, RefusedBatches
from ottla.errors import ErrorCode
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.batch import MAX_SEQUENCE
from ottla.protocol.records.builder import Record, build_batch
from ottla.storage.producer_state import ProducerEntry
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import TopicPartition

TIME_MS = 1_767_225_600_000  # the virtual clock begins then
PLACE = TopicPartition("orders", 0)
REASON = ErrorCode.NOT_ENOUGH_REPLICAS


def batch(sequence: int, *, epoch: int = 0, producer_id: int = 7) -> bytes:
    record = Record(0, TIME_MS, None, b"x")
    return bytes(build_batch([record], producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence))


def known(sequence: int, *, epoch: int = 0) -> dict[int, ProducerEntry]:
    entry = ProducerEntry(7, epoch)
    entry.take_in(sequence, 0, sequence, 0, 0)
    return {7: entry}


def why(refused: RefusedBatches, records: bytes, producers: dict[int, ProducerEntry]) -> int:
    error = refused.why_refused(PLACE, records, producers)
    return ErrorCode.NONE if error is None else error.code


async def send(client: WireClient, records: bytes, version: int = 9) -> ErrorCode:
    data = PartitionProduceData(index=0, records=records)
    topics = [TopicProduceData(name="orders", partition_data=[data])]
    answer = await client.ask(ProduceRequest(acks=-1, timeout_ms=5_000, topic_data=topics), version, ProduceResponse)
    return ErrorCode(answer.responses[0].partition_responses[0].error_code)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_full_disk_makes_nothing_out_of_order(is_known: bool) -> None:
    """Found by a campaign: librdkafka began a new epoch, and sent to other partitions again what they had."""

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        first = 0
        if is_known:
            assert await send(client, batch(0)) == ErrorCode.NONE
            first = 1

        def fail(operation: str, path: str) -> None:
            if operation == "append" and path.endswith(".log"):
                raise OSError(errno.ENOSPC, "no space left", path)

        node.files.fail = fail
        assert await send(client, batch(first)) == ErrorCode.KAFKA_STORAGE_ERROR
        node.files.fail = None
        for sequence in (first + 1, first + 2):  # they were on their way when there was no room
            assert await send(client, batch(sequence)) == ErrorCode.KAFKA_STORAGE_ERROR
        for sequence in (first, first + 1, first + 2):
            assert await send(client, batch(sequence)) == ErrorCode.NONE
        assert await send(client, batch(first + 4)) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert log_of(node).log_end_offset == first + 3
        assert (await fetch(client)).records
        await node.stop()

    run_virtual(1, story)


def test_the_reason_is_the_first_one_until_that_batch_has_come() -> None:
    refused = RefusedBatches()
    refused.note(PLACE, batch(5), REASON)
    refused.note(PLACE, batch(6), ErrorCode.KAFKA_STORAGE_ERROR)
    assert why(refused, batch(6), known(4)) == REASON
    assert why(refused, batch(5), known(4)) == ErrorCode.NONE
    assert why(refused, batch(4), known(4)) == ErrorCode.NONE, "a duplicate is answered as one"
    assert why(refused, batch(7), known(5)) == ErrorCode.NONE
    assert not refused


def test_an_earlier_batch_takes_the_place_of_a_later_one() -> None:
    refused = RefusedBatches()
    refused.note(PLACE, batch(6), REASON)
    refused.note(PLACE, batch(5), ErrorCode.KAFKA_STORAGE_ERROR)
    assert why(refused, batch(6), known(4)) == ErrorCode.KAFKA_STORAGE_ERROR


def test_a_producer_that_begins_a_new_epoch() -> None:
    refused = RefusedBatches()
    refused.note(PLACE, batch(0, epoch=1), REASON)
    assert why(refused, batch(1, epoch=1), known(9)) == REASON
    assert why(refused, batch(10), known(9)) == ErrorCode.NONE, "what is left of the old one is not behind it"


def test_sequences_go_round() -> None:
    refused = RefusedBatches()
    refused.note(PLACE, batch(MAX_SEQUENCE), REASON)
    assert why(refused, batch(0), known(MAX_SEQUENCE - 1)) == REASON
    assert why(refused, batch(0), known(MAX_SEQUENCE)) == ErrorCode.NONE


def test_a_producer_that_leaves_the_refused_batch_out_hears_of_it_in_the_end() -> None:
    refused = RefusedBatches()
    refused.note(PLACE, batch(5), REASON)
    answers = [why(refused, batch(6), known(4)) for _ in range(FOLLOWERS_MAX + 1)]
    assert answers == [REASON] * FOLLOWERS_MAX + [ErrorCode.NONE]


def test_the_memory_is_bounded() -> None:
    refused = RefusedBatches()
    for number in range(REMEMBERED_MAX + 5):
        refused.note(PLACE, batch(0, producer_id=number), REASON)
    assert why(refused, batch(1, producer_id=4), {}) == ErrorCode.NONE
    assert why(refused, batch(1, producer_id=5), {}) == REASON


@pytest.mark.parametrize("records", [None, b"", b"x" * 30, batch(-1, producer_id=-1, epoch=-1)])
def test_what_has_no_sequence_is_not_remembered(records: Any) -> None:
    refused = RefusedBatches()
    refused.note(PLACE, records, REASON)
    assert not refused
    assert refused.why_refused(PLACE, records, {}) is None
