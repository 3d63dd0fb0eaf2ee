"""Metadata answers that are kept: the same bytes until something changes, and never longer."""

from __future__ import annotations

from tests.broker.story import started

from ottla.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def test_an_answer_is_kept_until_the_cluster_changes() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)

        async def ask(*names: str, version: int = 12, operations: bool = False) -> dict[str | None, tuple[int, int]]:
            answer = await client.ask(
                MetadataRequest(
                    topics=[MetadataRequestTopic(name=name) for name in names] or None,
                    allow_auto_topic_creation=False,
                    include_topic_authorized_operations=operations,
                ),
                version,
                MetadataResponse,
            )
            assert answer.brokers[0].port
            assert all((topic.topic_authorized_operations > 0) == operations for topic in answer.topics)
            return {topic.name: (topic.error_code, len(topic.partitions)) for topic in answer.topics}

        for _ in range(2):
            assert await ask("orders") == {"orders": (0, 1)}
            assert await ask("orders", version=9) == {"orders": (0, 1)}
            assert await ask("orders", operations=True) == {"orders": (0, 1)}
            assert await ask() == {"orders": (0, 1)}
            assert await ask("orders", "none") == {"orders": (0, 1), "none": (3, 0)}
        await client.ask(
            CreatePartitionsRequest(
                topics=[CreatePartitionsTopic(name="orders", count=3, assignments=None)], timeout_ms=1000
            ),
            3,
            CreatePartitionsResponse,
        )
        assert await ask("orders") == {"orders": (0, 3)}
        assert await ask() == {"orders": (0, 3)}
        await client.ask(
            DeleteTopicsRequest(topics=[DeleteTopicState(name="orders")], timeout_ms=1000), 6, DeleteTopicsResponse
        )
        assert await ask("orders") == {"orders": (3, 0)}
        assert await ask() == {}
        await node.stop()

    run_virtual(1, story)


def test_more_different_questions_than_are_kept_are_answered_all_the_same() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        for count in range(1, 60):
            request = MetadataRequest(topics=[MetadataRequestTopic(name="orders")] * count)
            answer = await client.ask(request, 12, MetadataResponse)
            assert [topic.name for topic in answer.topics] == ["orders"]
        await node.stop()

    run_virtual(1, story)
