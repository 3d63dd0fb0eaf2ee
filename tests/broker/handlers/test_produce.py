"""Produce: when an acknowledgement may come. A whole broker, simulated."""

from __future__ import annotations

import asyncio

import pytest
from tests.broker.story import fetch, log_of, produce, produce_request, started

from ottla.errors import ErrorCode
from ottla.protocol.messages.produce import ProduceResponse
from ottla.protocol.produce_frames import BY_ID
from ottla.protocol.records.batch import ATTRIBUTES_END, MAGIC_POSITION, TRANSACTIONAL_BIT
from ottla.storage.group_commit import Then
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


@pytest.mark.parametrize("acks", [1, -1])
def test_with_flush_messages_1_no_acknowledgement_comes_before_the_fsync(acks: int) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1})
        partition = node.broker.replicas.partition("orders", 0) if node.broker is not None else None
        assert partition is not None
        commits: list[Then] = []

        class HandCommits:
            def commit(self, log: object, then: Then) -> None:
                commits.append(then)

        partition._commits = HandCommits()
        answered = client.send(produce_request(node, acks=acks, timeout_ms=60_000), 9)
        await asyncio.sleep(30)
        assert not answered.done()
        log_of(node).flush()
        commits[0](None)
        answer = await answered
        assert isinstance(answer, ProduceResponse)
        assert answer.responses[0].partition_responses[0].error_code == ErrorCode.NONE
        await node.stop()

    run_virtual(1, story)


@pytest.mark.parametrize("acks", [1, -1])
def test_an_acknowledgement_that_waits_for_a_failing_fsync_is_an_error(acks: int) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1})

        def fail(operation: str, path: str) -> None:
            if operation == "sync":
                raise OSError(5, "the disk is gone", path)

        node.files.fail = fail
        assert await produce(node, client, acks=acks) == ErrorCode.KAFKA_STORAGE_ERROR
        node.files.fail = None
        await node.stop()

    run_virtual(1, story)


@pytest.mark.parametrize("version", range(3, 14))
@pytest.mark.parametrize(
    ("magic", "error"),
    [
        (0, ErrorCode.INVALID_RECORD),
        (1, ErrorCode.INVALID_RECORD),
        (2, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        (3, ErrorCode.CORRUPT_MESSAGE),
    ],
)
def test_only_magic_2_has_a_bit_for_transactions(version: int, magic: int, error: ErrorCode) -> None:
    """Byte 22 of a message of magic 0 or 1 is part of its key or timestamp. The answers are Apache Kafka 4.3.1's."""

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        request = produce_request(node, 100)
        topic = request.topic_data[0]
        batch = bytearray(topic.partition_data[0].records or b"")
        batch[ATTRIBUTES_END] |= TRANSACTIONAL_BIT
        batch[MAGIC_POSITION] = magic
        topic.partition_data[0].records = bytes(batch)
        if version >= BY_ID:
            assert node.broker is not None
            topic.topic_id = node.broker.image.topics["orders"].topic_id
        answer = await client.ask(request, version, ProduceResponse)
        assert answer.responses[0].partition_responses[0].error_code == error
        assert (await fetch(client)).high_watermark == 0
        await node.stop()

    run_virtual(1, story)
