"""Produce: when an acknowledgement may come. A whole broker, simulated."""

from __future__ import annotations

import asyncio

import pytest
from tests.broker.story import log_of, produce, produce_request, started

from ottla.errors import ErrorCode
from ottla.protocol.messages.produce import ProduceResponse
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
