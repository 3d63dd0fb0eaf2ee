"""One disk of two fails, or a small file finds no room: what the rest of the broker goes on doing."""

from __future__ import annotations

import asyncio
import errno

from tests.broker.story import produce, readable, started

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import TopicPartition


def test_a_topic_that_cannot_be_deleted_on_one_disk_is_gone_and_comes_back_new() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.dirs": "a,b"})
        assert node.broker is not None
        create = CreateTopicsRequest(
            topics=[CreatableTopic(name="t", num_partitions=4, replication_factor=1)], timeout_ms=1_000
        )
        await client.ask(create, 5, CreateTopicsResponse)
        first = node.broker.logs.logs[TopicPartition("t", 0)].directory

        def fail(operation: str, path: str) -> None:
            if operation == "rename" and path == first:
                raise OSError(errno.EIO, "the disk is gone", path)

        node.files.fail = fail
        await client.ask(DeleteTopicsRequest(topic_names=["t"], timeout_ms=1_000), 5, DeleteTopicsResponse)
        await asyncio.sleep(1)
        node.files.fail = None
        assert "t" not in node.broker.image.topics
        assert all(partition.topic_partition.topic != "t" for partition in node.broker.replicas.partitions())
        assert list(node.broker.logs.offline_dirs) == [first.partition("/")[0]]
        answer = await client.ask(create, 5, CreateTopicsResponse)
        assert answer.topics[0].error_code == ErrorCode.NONE
        for index in range(4):
            partition = node.broker.replicas.partition("t", index)
            assert partition is not None
            assert partition.topic_id == node.broker.image.topics["t"].topic_id == partition.log.topic_id
        await node.stop()

    run_virtual(1, story)


def test_room_for_the_records_but_not_for_the_leader_epochs_costs_no_directory() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1})

        def fail(operation: str, path: str) -> None:
            if path.endswith("leader-epoch-checkpoint"):
                raise OSError(errno.ENOSPC, "no space left", path)

        node.files.fail = fail
        assert await produce(node, client) == ErrorCode.KAFKA_STORAGE_ERROR
        assert await readable(client) == 0, "nothing is shown that a power cut can take back"
        assert node.broker is not None
        assert not node.broker.logs.offline_dirs
        node.files.fail = None
        assert await produce(node, client) == ErrorCode.NONE
        assert await readable(client) > 0
        await node.stop()

    run_virtual(1, story)
