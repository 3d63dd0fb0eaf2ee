"""Topics: CreateTopics, DeleteTopics, CreatePartitions, Metadata, DescribeTopicPartitions."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.script import (
    UNKNOWN_ID,
    await_topic,
    await_topic_gone,
    create_topic,
    newest,
    versions,
)
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from ottla.protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from ottla.protocol.messages.describe_topic_partitions import Cursor, DescribeTopicPartitionsRequest, TopicRequest
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic

NODE = 1


def topic(
    name: str,
    partitions: int = 1,
    replicas: int = 1,
    *,
    assignments: dict[int, list[int]] | None = None,
    configs: dict[str, str | None] | None = None,
) -> CreatableTopic:
    rows = [
        CreatableReplicaAssignment(partition_index=index, broker_ids=ids) for index, ids in (assignments or {}).items()
    ]
    settings = [CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()]
    return CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=replicas, assignments=rows, configs=settings
    )


def create(wire: Wire) -> None:
    for version in versions(ApiKey.CREATE_TOPICS):

        def ask(name: str, *topics: CreatableTopic, version: int = version, **fields: Any) -> None:
            wire.ask(name, CreateTopicsRequest(topics=list(topics), timeout_ms=10_000, **fields), version)

        new = f"created-{version}"
        ask("validate only", topic(new, 3), validate_only=True)
        ask("new", topic(new, 3, configs={"retention.ms": "1000", "cleanup.policy": "compact"}))
        await_topic(wire, new, 3)
        ask("exists", topic(new, 3))
        ask("exists, validate only", topic(new, 3), validate_only=True)
        ask("broker defaults", topic(f"defaults-{version}", -1, -1), validate_only=version < 7)
        ask("partitions by default, replicas 1", topic(f"half-{version}", -1, 1), validate_only=True)
        ask("no partitions", topic("bad-1", 0))
        ask("-2 partitions", topic("bad-2", -2))
        ask("replication factor 0", topic("bad-3", 1, 0))
        ask("replication factor -2", topic("bad-3", 1, -2))
        ask("replication factor 3", topic("bad-4", 1, 3))
        ask("assigned", topic(f"assigned-{version}", -1, -1, assignments={0: [NODE], 1: [NODE]}))
        ask("assigned, with a number of partitions", topic("bad-5", 2, -1, assignments={0: [NODE], 1: [NODE]}))
        ask("assigned, with a replication factor", topic("bad-6", -1, 1, assignments={0: [NODE]}))
        ask("assigned to an unknown broker", topic("bad-7", -1, -1, assignments={0: [77]}))
        ask("assigned twice to one broker", topic("bad-8", -1, -1, assignments={0: [NODE, NODE]}))
        ask("assigned to nobody", topic("bad-9", -1, -1, assignments={0: []}))
        ask("assigned with a gap", topic("bad-10", -1, -1, assignments={0: [NODE], 2: [NODE]}))
        ask("assigned from 1", topic("bad-11", -1, -1, assignments={1: [NODE]}))
        ask("assigned unevenly", topic("bad-12", -1, -1, assignments={0: [NODE], 1: [NODE, 77]}))
        for name in ("", ".", "..", "no/slash", "no space", "ünicode", "x" * 249, "x" * 250, "tab\t", "nul\0"):
            ask(f"name {name[:12]!r} of {len(name)}", topic(name), validate_only=True)
        ask("a name that collides", topic(new.replace("-", "-") + ".a_b"), validate_only=True)
        ask("unknown config", topic("bad-13", configs={"no.such.key": "1"}))
        ask("config of a broker", topic("bad-14", configs={"log.retention.ms": "1"}))
        ask("config that is no number", topic("bad-15", configs={"retention.ms": "soon"}))
        ask("config out of bounds", topic("bad-16", configs={"segment.bytes": "1"}))
        ask("config of no choice", topic("bad-17", configs={"compression.type": "rar"}))
        ask("null config", topic("bad-18", configs={"retention.ms": None}))
        ask("config as text with spaces", topic("spaces", configs={"retention.ms": " 1000 "}), validate_only=True)
        ask("min in sync above the replicas", topic("lonely", configs={"min.insync.replicas": "2"}), validate_only=True)
        ask("empty cleanup policy", topic("keep", configs={"cleanup.policy": ""}), validate_only=True)
        ask("the same twice", topic("twice"), topic("twice"))
        ask(
            "good and bad",
            topic(f"good-{version}"),
            topic("bad name"),
            topic(f"good-{version}-too"),
            validate_only=True,
        )
        ask("the offsets topic", topic("__consumer_offsets", 1), validate_only=True)
        ask("none")
    dotted = create_topic(wire, "collide.a")
    assert dotted
    wire.ask(
        "collides", CreateTopicsRequest(topics=[topic("collide_a")], timeout_ms=10_000), newest(ApiKey.CREATE_TOPICS)
    )


def delete(wire: Wire) -> None:
    for version in versions(ApiKey.DELETE_TOPICS):
        name, other = f"deleted-{version}", f"deleted-{version}-too"
        topic_id, other_id = create_topic(wire, name, 2), create_topic(wire, other)

        def ask(label: str, *names: str, version: int = version) -> None:
            if version < 6:
                message = DeleteTopicsRequest(topic_names=list(names), timeout_ms=10_000)
            else:
                message = DeleteTopicsRequest(topics=[DeleteTopicState(name=name) for name in names], timeout_ms=10_000)
            wire.ask(label, message, version)

        ask("unknown", "nowhere")
        ask("invalid name", "no/where")
        ask("empty name", "")
        ask("none")
        ask("twice the same", name, name)
        ask("one of two", name, "nowhere")
        await_topic_gone(wire, name)
        ask("again", name)
        if version < 6:
            ask("the other", other)
            await_topic_gone(wire, other)
            continue
        for label, state in {
            "unknown id": DeleteTopicState(topic_id=UNKNOWN_ID),
            "neither": DeleteTopicState(),
            "both": DeleteTopicState(name=other, topic_id=other_id),
            "by id": DeleteTopicState(topic_id=other_id),
        }.items():
            wire.ask(label, DeleteTopicsRequest(topics=[state], timeout_ms=10_000), version)
        await_topic_gone(wire, other)
        gone = DeleteTopicsRequest(topics=[DeleteTopicState(topic_id=topic_id)], timeout_ms=10_000)
        wire.ask("by an id of the past", gone, version)
        mixed = [create_topic(wire, f"deleted-mixed-{index}") for index in range(2)]
        states = [
            DeleteTopicState(topic_id=mixed[0]),
            DeleteTopicState(name="deleted-mixed-0"),
            DeleteTopicState(topic_id=mixed[1]),
        ]
        wire.ask("by id and by name", DeleteTopicsRequest(topics=states, timeout_ms=10_000), version)
        states = [DeleteTopicState(topic_id=mixed[0])] * 2
        wire.ask("an id twice", DeleteTopicsRequest(topics=states, timeout_ms=10_000), version)


def grow(wire: Wire) -> None:
    for version in versions(ApiKey.CREATE_PARTITIONS):
        name = f"grown-{version}"
        create_topic(wire, name, 2)

        def ask(
            label: str, *rows: tuple[str, int, list[list[int]] | None], version: int = version, **fields: Any
        ) -> None:
            topics = [
                CreatePartitionsTopic(
                    name=name,
                    count=count,
                    assignments=None if ids is None else [CreatePartitionsAssignment(broker_ids=one) for one in ids],
                )
                for name, count, ids in rows
            ]
            wire.ask(label, CreatePartitionsRequest(topics=topics, timeout_ms=10_000, **fields), version)

        ask("validate only", (name, 5, None), validate_only=True)
        ask("to the same", (name, 2, None))
        ask("to fewer", (name, 1, None))
        ask("to 0", (name, 0, None))
        ask("to -1", (name, -1, None))
        ask("unknown topic", ("nowhere", 3, None))
        ask("invalid topic", ("no/where", 3, None))
        ask("one more", (name, 3, None))
        await_topic(wire, name, 3)
        ask("assigned", (name, 4, [[NODE]]))
        await_topic(wire, name, 4)
        ask("assigned too few", (name, 6, [[NODE]]))
        ask("assigned too many", (name, 5, [[NODE], [NODE]]))
        ask("assigned to an unknown broker", (name, 5, [[77]]))
        ask("assigned twice to one broker", (name, 5, [[NODE, NODE]]))
        ask("assigned to nobody", (name, 5, [[]]))
        ask("an empty assignment", (name, 5, []))
        ask("the same topic twice", (name, 5, None), (name, 6, None))
        ask("good and bad", (name, 5, None), ("nowhere", 5, None), validate_only=True)
        ask("none")


def metadata(wire: Wire) -> None:
    plain_id = create_topic(wire, "metadata-plain", 3)
    create_topic(wire, "metadata-other", 1)
    for version in versions(ApiKey.METADATA):

        def ask(label: str, *names: str, version: int = version, **fields: Any) -> None:
            defaults = {"allow_auto_topic_creation": False} if version >= 4 else {}
            topics = [MetadataRequestTopic(name=name) for name in names]
            wire.ask(label, MetadataRequest(topics=topics, **{**defaults, **fields}), version)

        ask("one", "metadata-plain")
        ask("two", "metadata-plain", "metadata-other")
        ask("twice the same", "metadata-plain", "metadata-plain")
        if version >= 4:
            ask("unknown", "nowhere")
            ask("known and unknown", "metadata-plain", "nowhere")
            ask("created", f"metadata-created-{version}", allow_auto_topic_creation=True)
            ask("invalid name, to be created", "no/where", allow_auto_topic_creation=True)
        ask("invalid name", "no/where")
        ask("empty name", "")
        if version >= 1:
            ask("none")
        if version >= 8:
            ask("with authorized operations", "metadata-plain", include_topic_authorized_operations=True)
        if 8 <= version <= 10:
            ask("with those of the cluster", include_cluster_authorized_operations=True)
        if version >= 10:
            rows = {
                "by id": MetadataRequestTopic(topic_id=plain_id, name=None),
                "by unknown id": MetadataRequestTopic(topic_id=UNKNOWN_ID, name=None),
                "by id and name": MetadataRequestTopic(topic_id=plain_id, name="metadata-plain"),
                "by id and another name": MetadataRequestTopic(topic_id=plain_id, name="metadata-other"),
                "by unknown id and name": MetadataRequestTopic(topic_id=UNKNOWN_ID, name="metadata-plain"),
                "by nothing": MetadataRequestTopic(name=None),
            }
            for label, row in rows.items():
                wire.ask(label, MetadataRequest(topics=[row], allow_auto_topic_creation=False), version)
    for version in versions(ApiKey.METADATA, 4):
        await_topic(wire, f"metadata-created-{version}", 1)
    for version in versions(ApiKey.METADATA):
        everything = MetadataRequest(topics=[] if version == 0 else None)
        wire.ask("everything", everything, version)


def describe_partitions(wire: Wire) -> None:
    create_topic(wire, "partitions-a", 3)
    create_topic(wire, "partitions-b", 2)
    both = ["partitions-b", "partitions-a"]

    def ask(label: str, names: list[str], limit: int = 2_000, cursor: Cursor | None = None) -> None:
        topics = [TopicRequest(name=name) for name in names]
        message = DescribeTopicPartitionsRequest(topics=topics, response_partition_limit=limit, cursor=cursor)
        wire.ask(label, message, 0)

    ask("both", both)
    ask("two partitions", both, 2)
    ask("the next two", both, 2, Cursor(topic_name="partitions-a", partition_index=2))
    ask("the last", both, 2, Cursor(topic_name="partitions-b", partition_index=1))
    ask("after the last", both, 2, Cursor(topic_name="partitions-b", partition_index=2))
    ask("limit 3, at a topic's end", both, 3)
    ask("limit 0", both, 0)
    ask("limit -1", both, -1)
    ask("unknown", ["nowhere"])
    ask("known and unknown", ["nowhere", "partitions-a"])
    ask("invalid name", ["no/where"])
    ask("twice the same", ["partitions-a", "partitions-a"])
    ask("a cursor's topic that is gone", both, 10, Cursor(topic_name="partitions-aa", partition_index=0))
    ask("a negative cursor", both, 10, Cursor(topic_name="partitions-a", partition_index=-1))
    ask("a cursor without topics", [], 2, Cursor(topic_name="partitions-a", partition_index=0))


SCENARIOS = [create, delete, grow, metadata, describe_partitions]
