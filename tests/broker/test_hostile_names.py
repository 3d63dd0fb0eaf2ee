"""Names of topics that would be paths elsewhere, or no text: refused by every API that makes topics; no file is made."""

from __future__ import annotations

import pytest

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

NAMES = (
    "..",
    ".",
    "../x",
    "../../x-0",
    "/x",
    "a/b",
    "x\0y",
    "\0",
    "x\ny",
    "x\\y",
    "..%2Fx",
    "C:x",
    "\u202e",
    "x" * 250,
)


def files_of(node: SimulatedBroker, path: str = "") -> set[str]:
    """Return the directories and files of the broker's disk."""
    found: set[str] = set()
    for name, is_directory in node.files.entries(path).items():
        found.add(f"{path}/{name}")
        if is_directory:
            found |= files_of(node, f"{path}/{name}")
    return found


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_a_path_or_no_text_makes_no_file(name: str) -> None:
    async def run(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **{"auto.create.topics.enable": "true"})
        await node.start()
        client = await node.connect()
        before = files_of(node)
        for check_only in (True, False):
            topic = CreatableTopic(name=name, num_partitions=1, replication_factor=1)
            made = await client.ask(
                CreateTopicsRequest(topics=[topic], validate_only=check_only), 7, CreateTopicsResponse
            )
            assert made.topics[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        asked = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=True)
        for version in (4, 9, 12):
            found = await client.ask(asked, version, MetadataResponse)
            assert [topic.error_code for topic in found.topics] == [ErrorCode.INVALID_TOPIC_EXCEPTION]
        batch = bytes(build_batch([Record(0, 1, None, b"v")]))
        data = TopicProduceData(name=name, partition_data=[PartitionProduceData(index=0, records=batch)])
        produced = await client.ask(ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[data]), 9, ProduceResponse)
        assert produced.responses[0].partition_responses[0].error_code in (
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.INVALID_TOPIC_EXCEPTION,
        )
        gone = await client.ask(
            DeleteTopicsRequest(topics=[DeleteTopicState(name=name)], timeout_ms=1000), 6, DeleteTopicsResponse
        )
        assert gone.responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        everything = await client.ask(MetadataRequest(topics=None), 12, MetadataResponse)
        assert everything.topics == []
        assert files_of(node) == before
        await node.stop()

    run_virtual(1, run)
