"""Topics, configurations and the cluster as answers: what Apache Kafka 4.3.1 answered to the same requests.

The rules themselves are tested in tests/cluster/decisions.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.cluster.cluster_support import Cluster, running

from ottla.broker.context import RequestContext, Session
from ottla.broker.handlers.addresses import Addresses
from ottla.broker.handlers.cluster import ClusterHandlers, LogDirInfo, ReplicaInfo
from ottla.broker.handlers.configs import ConfigHandlers
from ottla.broker.handlers.loggers import PythonLoggers
from ottla.broker.handlers.topics import TopicHandlers
from ottla.cluster.controller import NewTopic
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_configs as alter
from ottla.protocol.messages import describe_log_dirs as dirs
from ottla.protocol.messages import describe_quorum as quorum
from ottla.protocol.messages import describe_topic_partitions as paging
from ottla.protocol.messages import incremental_alter_configs as incremental
from ottla.protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from ottla.protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from ottla.protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest
from ottla.protocol.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from ottla.protocol.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from ottla.protocol.messages.list_config_resources import ListConfigResourcesRequest
from ottla.protocol.messages.list_partition_reassignments import ListPartitionReassignmentsRequest
from ottla.protocol.messages.unregister_broker import UnregisterBrokerRequest

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32


class TwoDirectories:
    async def describe(self) -> Sequence[LogDirInfo]:
        return [
            LogDirInfo(
                "/a", True, 1000, 400, [ReplicaInfo("u", 0, 7), ReplicaInfo("t", 1, 5), ReplicaInfo("t", 0, 3, 2)]
            ),
            LogDirInfo("/b", False, -1, -1, []),
        ]


class Admin:
    """Asks the handlers of one cluster."""

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        def image() -> Any:
            return cluster.image

        addresses = Addresses(image, 1, auto=True)
        delete = options.get("delete_topic_enable", True)
        self.cluster = cluster
        self.routes = {
            **TopicHandlers(image, cluster.controller, delete_topic_enable=delete).routes(),
            **ConfigHandlers(image, cluster.controller, PythonLoggers(), node_id=1).routes(),
            **ClusterHandlers(
                image,
                addresses,
                cluster.controller,
                TwoDirectories(),
                lambda _tp, _directory: ErrorCode.REPLICA_NOT_AVAILABLE,
                cluster.clock,
                max_request_partition_size_limit=options.get("page", 2000),
            ).routes(),
        }

    async def ask(self, request: Any, version: int = 99) -> Any:
        context = RequestContext(
            api_key=ApiKey(request.API_KEY),
            version=version,
            correlation_id=1,
            client_id="c",
            session=Session(listener="PLAINTEXT", client_host="10.0.0.9", local_host="broker.example", local_port=9092),
        )
        answer = self.routes[context.api_key].handler(context, request)
        return await answer if hasattr(answer, "__await__") else answer

    async def describe(self, kind: int, name: str, *keys: str) -> Any:
        resource = DescribeConfigsResource(
            resource_type=kind, resource_name=name, configuration_keys=list(keys) or None
        )
        request = DescribeConfigsRequest(resources=[resource], include_synonyms=True, include_documentation=True)
        return (await self.ask(request)).results[0]

    async def shown(self, kind: int, name: str, key: str) -> tuple[Any, ...]:
        (entry,) = (await self.describe(kind, name, key)).configs
        synonyms = [(s.name, s.value, s.source) for s in entry.synonyms]
        return entry.value, entry.config_source, entry.read_only, entry.is_sensitive, entry.config_type, synonyms

    async def set(
        self, kind: int, name: str, *changes: tuple[str, int, str | None], validate_only: bool = False
    ) -> Any:
        configs = [incremental.AlterableConfig(name=k, config_operation=o, value=v) for k, o, v in changes]
        resource = incremental.AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
        request = incremental.IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)
        (result,) = (await self.ask(request)).responses
        return result.error_code, result.error_message


@asynccontextmanager
async def admin(static: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Admin]:
    async with running(static=static) as cluster:
        yield Admin(cluster, **options)


# -- topics


async def test_create_topics_answers_each_topic_in_order() -> None:
    async with admin() as a:
        request = CreateTopicsRequest(
            topics=[
                CreatableTopic(
                    name="t",
                    num_partitions=2,
                    replication_factor=1,
                    configs=[
                        CreatableTopicConfig(name="retention.ms", value="5"),
                        CreatableTopicConfig(name="retention.ms", value="6"),
                    ],
                ),
                CreatableTopic(name="twice", num_partitions=1, replication_factor=1),
                CreatableTopic(name="__cluster_metadata", num_partitions=1, replication_factor=1),
                CreatableTopic(name="twice", num_partitions=1, replication_factor=1),
                CreatableTopic(name="x/y", num_partitions=1, replication_factor=1),
            ]
        )
        answer = await a.ask(request)
        assert [(t.name, t.error_code, t.error_message) for t in answer.topics] == [
            ("t", 0, None),
            ("twice", ErrorCode.INVALID_REQUEST, "Duplicate topic name."),
            (
                "__cluster_metadata",
                ErrorCode.INVALID_REQUEST,
                "Creation of internal topic __cluster_metadata is prohibited.",
            ),
            (
                "x/y",
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                "Topic name is invalid: 'x/y' contains one or more characters other than ASCII alphanumerics, '.', '_' "
                "and '-'",
            ),
        ]
        made = answer.topics[0]
        assert (made.num_partitions, made.replication_factor) == (2, 1)
        assert made.topic_id == a.cluster.image.topics["t"].topic_id
        settings = {c.name: (c.value, c.config_source) for c in made.configs}
        assert settings["retention.ms"] == ("6", 1)
        assert settings["segment.bytes"] == ("1073741824", 5)
        assert "internal.segment.bytes" not in settings
        assert list(a.cluster.image.topics) == ["t"]


async def test_delete_topics_by_name_and_by_id() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name=name) for name in ("a", "b", "c")])
        ids = {name: topic.topic_id for name, topic in a.cluster.image.topics.items()}
        request = DeleteTopicsRequest(
            topics=[
                DeleteTopicState(name="a"),
                DeleteTopicState(topic_id=ids["b"]),
                DeleteTopicState(name="none"),
                DeleteTopicState(topic_id=b"?" * 16),
                DeleteTopicState(),
                DeleteTopicState(name="c", topic_id=ids["c"]),
            ]
        )
        answers = {(r.name, r.topic_id): (r.error_code, r.error_message) for r in (await a.ask(request)).responses}
        zero = bytes(16)
        assert answers == {
            ("a", ids["a"]): (0, None),
            ("b", ids["b"]): (0, None),
            ("none", zero): (
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                "This server does not host this topic-partition.",
            ),
            (None, b"?" * 16): (ErrorCode.UNKNOWN_TOPIC_ID, "This server does not host this topic ID."),
            (None, zero): (ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified."),
            ("c", ids["c"]): (ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id."),
        }
        assert list(a.cluster.image.topics) == ["c"]


async def test_a_topic_named_twice_is_not_deleted() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="a"), NewTopic(name="b")])
        topic_id = a.cluster.image.topics["b"].topic_id
        request = DeleteTopicsRequest(
            topics=[
                DeleteTopicState(name="a"),
                DeleteTopicState(name="a"),
                DeleteTopicState(name="b"),
                DeleteTopicState(topic_id=topic_id),
            ]
        )
        answer = await a.ask(request)
        assert [(r.name, r.error_code, r.error_message) for r in answer.responses] == [
            ("a", ErrorCode.INVALID_REQUEST, "Duplicate topic name."),
            ("b", ErrorCode.INVALID_REQUEST, "The provided topic name maps to an ID that was already supplied."),
        ]
        assert len(a.cluster.image.topics) == 2
        old = await a.ask(DeleteTopicsRequest(topic_names=["a", "b"]), version=3)
        assert [(r.name, r.error_code) for r in old.responses] == [("a", 0), ("b", 0)]


@pytest.mark.parametrize(("version", "error"), [(2, "INVALID_REQUEST"), (3, "TOPIC_DELETION_DISABLED")])
async def test_deletion_can_be_disabled(version: int, error: str) -> None:
    async with admin(delete_topic_enable=False) as a:
        answer = await a.ask(DeleteTopicsRequest(topic_names=["a"]), version=version)
        assert [(r.name, r.error_code) for r in answer.responses] == [("a", ErrorCode[error])]


async def test_create_partitions() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t")])

        async def grow(*topics: CreatePartitionsTopic, validate_only: bool = False) -> list[tuple[str, int]]:
            answer = await a.ask(CreatePartitionsRequest(topics=list(topics), validate_only=validate_only))
            return [(r.name, r.error_code) for r in answer.results]

        twice = CreatePartitionsTopic(name="t", count=3, assignments=None)
        assert await grow(twice, twice) == [("t", ErrorCode.INVALID_REQUEST)]
        assert await grow(CreatePartitionsTopic(name="t", count=5, assignments=None), validate_only=True) == [("t", 0)]
        assert len(a.cluster.image.topics["t"].partitions) == 1
        assignments = [CreatePartitionsAssignment(broker_ids=[1])]
        assert await grow(CreatePartitionsTopic(name="t", count=2, assignments=assignments)) == [("t", 0)]
        assert await grow(CreatePartitionsTopic(name="t", count=4, assignments=None)) == [("t", 0)]
        assert await grow(CreatePartitionsTopic(name="t", count=4, assignments=None)) == [
            ("t", ErrorCode.INVALID_PARTITIONS)
        ]
        assert len(a.cluster.image.topics["t"].partitions) == 4


# -- configurations


async def test_a_topics_settings_are_shown_as_kafka_shows_them() -> None:
    async with admin() as a:
        configs = {"retention.ms": " 77 ", "cleanup.policy": "compact"}
        await a.cluster.controller.create_topics([NewTopic(name="t", configs=configs)])
        assert await a.shown(TOPIC, "t", "retention.ms") == ("77", 1, False, False, 5, [("retention.ms", "77", 1)])
        assert await a.shown(TOPIC, "t", "cleanup.policy") == (
            "compact",
            1,
            False,
            False,
            7,
            [("cleanup.policy", "compact", 1), ("log.cleanup.policy", "delete", 5)],
        )
        assert await a.shown(TOPIC, "t", "segment.ms") == ("604800000", 5, False, False, 5, [])
        assert await a.shown(TOPIC, "t", "min.cleanable.dirty.ratio") == (
            "0.5",
            5,
            False,
            False,
            6,
            [("log.cleaner.min.cleanable.ratio", "0.5", 5)],
        )
        everything = await a.describe(TOPIC, "t")
        assert len(everything.configs) == 37
        assert everything.error_message == ""
        assert all(entry.documentation for entry in everything.configs)


async def test_a_brokers_settings_are_shown_with_all_their_sources() -> None:
    async with admin({"node.id": "1", "num.partitions": "4", "log.dirs": "/x"}) as a:
        assert await a.set(BROKER, "1", ("log.retention.ms", 0, "-5"), ("nokey", 0, "1")) == (0, None)
        assert await a.set(BROKER, "", ("log.retention.ms", 0, "2000")) == (0, None)
        assert await a.shown(BROKER, "1", "log.retention.ms") == (
            "-5",
            2,
            False,
            False,
            5,
            [("log.retention.ms", "-5", 2), ("log.retention.ms", "2000", 3), ("log.retention.hours", "168", 5)],
        )
        assert await a.shown(BROKER, "", "log.retention.ms") == (
            "2000",
            3,
            False,
            False,
            5,
            [("log.retention.ms", "2000", 3)],
        )
        # What nobody knows might be a password.
        assert await a.shown(BROKER, "1", "nokey") == (None, 2, True, True, 0, [("nokey", None, 2)])
        assert await a.shown(BROKER, "1", "num.partitions") == (
            "4",
            4,
            True,
            False,
            3,
            [("num.partitions", "4", 4), ("num.partitions", "1", 5)],
        )
        assert await a.shown(BROKER, "1", "node.id") == ("1", 4, True, False, 3, [("node.id", "1", 4)])
        assert await a.shown(BROKER, "1", "ssl.key.password") == (None, 5, False, True, 9, [])
        names = {entry.name for entry in (await a.describe(BROKER, "1")).configs}
        assert "log.initial.task.delay.ms" not in names
        assert "nokey" in names
        await a.cluster.controller.create_topics([NewTopic(name="t")])
        value, source, *_ = await a.shown(TOPIC, "t", "retention.ms")
        assert (value, source) == ("-1", 2)


@pytest.mark.parametrize(
    "key",
    [
        "follower.replication.throttled.rate",
        "leader.replication.throttled.rate",
        "replica.alter.log.dirs.io.max.bytes.per.second",
    ],
)
async def test_throttles_are_numbers_that_exist_only_where_they_were_set(key: str) -> None:
    async with admin() as a:
        assert (await a.describe(BROKER, "1", key)).configs == []
        for value, why in (
            ("abc", f"Invalid value abc for configuration {key}: Not a number of type LONG"),
            ("-1", f"Invalid value -1 for configuration {key}: Value must be at least 0"),
        ):
            for node in ("1", ""):
                assert await a.set(BROKER, node, (key, 0, value)) == (ErrorCode.INVALID_REQUEST, why)
        assert await a.set(BROKER, "", (key, 0, "2000")) == (0, None)
        assert await a.shown(BROKER, "1", key) == ("2000", 3, False, False, 5, [(key, "2000", 3)])
        assert await a.set(BROKER, "1", (key, 0, "1000")) == (0, None)
        assert await a.shown(BROKER, "1", key) == ("1000", 2, False, False, 5, [(key, "1000", 2), (key, "2000", 3)])
        assert await a.shown(BROKER, "", key) == ("2000", 3, False, False, 5, [(key, "2000", 3)])


async def test_counts_of_threads_change_step_by_step() -> None:
    async with admin() as a:

        async def becomes(value: str | None, node: str = "1", key: str = "num.io.threads") -> str | None:
            error, why = await a.set(BROKER, node, (key, 0 if value else 1, value))
            assert error == (ErrorCode.INVALID_REQUEST if why else ErrorCode.NONE)
            return None if why is None else str(why)

        too_many = (
            "num.io.threads cannot become 17 while the broker runs: it must be no more than double the current value 8"
        )
        assert await becomes("17") == too_many
        assert await becomes("17", node="") == too_many
        assert await becomes("16") is None
        assert await becomes("32") is None
        # What a stronger level hides may be anything.
        assert await becomes("100", node="") is None
        assert await becomes(None, node="") is None
        too_few = "num.io.threads cannot become 8 while the broker runs: it must be at least half the current value 32"
        assert await becomes(None) == too_few
        assert await becomes("17", key="background.threads") is None
        assert await becomes("3", key="log.cleaner.threads") is not None


async def test_groups_and_client_metrics() -> None:
    async with admin() as a:
        assert await a.set(GROUP, "g", ("consumer.session.timeout.ms", 0, "50000")) == (0, None)
        assert await a.shown(GROUP, "g", "consumer.session.timeout.ms") == (
            "50000",
            8,
            False,
            False,
            3,
            [("consumer.session.timeout.ms", "50000", 8), ("group.consumer.session.timeout.ms", "45000", 5)],
        )
        assert await a.shown(METRICS, "unborn", "interval.ms") == ("300000", 5, False, False, 3, [])
        assert await a.set(METRICS, "m", ("interval.ms", 0, "1000")) == (0, None)
        assert await a.shown(METRICS, "m", "interval.ms") == ("1000", 7, False, False, 3, [("interval.ms", "1000", 7)])
        assert await a.shown(METRICS, "m", "match") == ("", 5, False, False, 7, [])


@pytest.mark.parametrize(
    ("kind", "name", "error", "message"),
    [
        (BROKER, "2", "INVALID_REQUEST", "Unexpected broker id, expected 1 or empty string, but received 2"),
        (BROKER, "x", "INVALID_REQUEST", "Broker id must be an integer, but it is: x"),
        (GROUP, "", "INVALID_REQUEST", "Group name must not be empty"),
        (METRICS, "", "INVALID_REQUEST", "Client metrics subscription name must not be empty"),
        (LOGGER, "", "INVALID_REQUEST", "Broker id must not be empty"),
        (LOGGER, "2", "INVALID_REQUEST", "Unexpected broker id, expected 1 but received 2"),
        (TOPIC, "none", "UNKNOWN_TOPIC_OR_PARTITION", ""),
        (TOPIC, "", "INVALID_TOPIC_EXCEPTION", "Topic name is invalid: the empty string is not allowed"),
        (
            3,
            "x",
            "INVALID_REQUEST",
            "This most likely occurs because of a request being malformed by the client library or the message was sent "
            "to an incompatible broker. See the broker logs for more details.",
        ),
    ],
)
async def test_what_cannot_be_described(kind: int, name: str, error: str, message: str) -> None:
    async with admin() as a:
        result = await a.describe(kind, name)
        assert (result.error_code, result.error_message, result.configs) == (ErrorCode[error], message, [])


@pytest.mark.parametrize(
    ("kind", "name", "error", "message"),
    [
        (BROKER, "2", "INVALID_REQUEST", "Unexpected broker id, expected 1, but received 2"),
        (BROKER, "x", "INVALID_REQUEST", "Node id must be an integer, but it is: x"),
        (TOPIC, "none", "UNKNOWN_TOPIC_OR_PARTITION", "The topic 'none' does not exist."),
        (TOPIC, "", "INVALID_REQUEST", "Default topic resources are not allowed."),
        (3, "x", "INVALID_REQUEST", "Unknown resource type 3"),
    ],
)
async def test_what_cannot_be_altered(kind: int, name: str, error: str, message: str) -> None:
    key = "log.retention.ms" if kind == BROKER else "retention.ms"
    async with admin() as a:
        assert await a.set(kind, name, (key, 0, "5")) == (ErrorCode[error], message)


async def test_a_resource_must_appear_once() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t")])
        config = incremental.AlterableConfig(name="retention.ms", config_operation=0, value="5")
        resource = incremental.AlterConfigsResource(resource_type=TOPIC, resource_name="t", configs=[config])
        answer = await a.ask(incremental.IncrementalAlterConfigsRequest(resources=[resource, resource]))
        expected = (ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
        assert [(r.error_code, r.error_message) for r in answer.responses] == [expected] * 2
        assert a.cluster.image.topic_config("t") == {}


async def test_the_old_way_to_alter_replaces_everything() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t", configs={"flush.ms": "1"})])

        async def replace(kind: int, name: str, *configs: tuple[str, str | None]) -> tuple[int, str | None]:
            resource = alter.AlterConfigsResource(
                resource_type=kind,
                resource_name=name,
                configs=[alter.AlterableConfig(name=k, value=v) for k, v in configs],
            )
            (result,) = (await a.ask(alter.AlterConfigsRequest(resources=[resource]))).responses
            return result.error_code, result.error_message

        assert await replace(TOPIC, "t", ("retention.ms", "5")) == (0, None)
        assert a.cluster.image.topic_config("t") == {"retention.ms": "5"}
        null = (ErrorCode.INVALID_REQUEST, "Null value not supported for : retention.ms")
        assert await replace(TOPIC, "t", ("retention.ms", None)) == null
        assert await replace(LOGGER, "1", ("root", "INFO")) == (ErrorCode.INVALID_REQUEST, "Unknown resource type 8")
        assert await replace(TOPIC, "t") == (0, None)
        assert a.cluster.image.topic_config("t") == {}


async def test_the_old_way_to_alter_works_for_all_brokers_at_once() -> None:
    """Apache Kafka refuses it on clusters with eligible leader replicas unless min.insync.replicas is among the settings."""
    async with admin() as a:

        async def replace(*configs: tuple[str, str]) -> int:
            rows = [alter.AlterableConfig(name=key, value=value) for key, value in configs]
            resource = alter.AlterConfigsResource(resource_type=BROKER, resource_name="", configs=rows)
            (result,) = (await a.ask(alter.AlterConfigsRequest(resources=[resource]))).responses
            assert isinstance(result.error_code, int)
            return result.error_code

        assert await replace(("log.retention.ms", "600000"), ("log.cleaner.backoff.ms", "5")) == ErrorCode.NONE
        assert await replace(("log.retention.ms", "700000")) == ErrorCode.NONE
        assert a.cluster.controller.levels.default == {"log.retention.ms": "700000"}
        assert await replace(("num.io.threads", "17")) == ErrorCode.INVALID_REQUEST
        assert a.cluster.controller.levels.default == {"log.retention.ms": "700000"}


async def test_levels_of_loggers_can_be_seen_and_changed() -> None:
    logger = logging.getLogger("ottla.test_admin_handlers")
    try:
        async with admin() as a:
            assert await a.set(LOGGER, "1", (logger.name, 0, "TRACE")) == (0, None)
            assert logger.level == 5
            assert await a.shown(LOGGER, "1", logger.name) == ("TRACE", 6, False, False, 0, [])
            assert await a.set(LOGGER, "1", (logger.name, 1, None)) == (0, None)
            assert logger.level == logging.NOTSET
            assert await a.set(LOGGER, "1", (logger.name, 0, "LOUD")) == (
                ErrorCode.INVALID_CONFIG,
                f"Cannot set the log level of {logger.name} to LOUD as it is not a supported log level. "
                "Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN",
            )
            assert (await a.set(LOGGER, "1", ("no.such", 0, "INFO")))[0] == ErrorCode.INVALID_CONFIG
            assert (await a.set(LOGGER, "1", ("root", 1, None)))[0] == ErrorCode.INVALID_REQUEST
            assert await a.set(LOGGER, "1", (logger.name, 0, "INFO"), validate_only=True) == (0, None)
            assert logger.level == logging.NOTSET
    finally:
        logger.setLevel(logging.NOTSET)


async def test_list_config_resources() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t")])
        await a.set(METRICS, "m", ("interval.ms", 0, "1000"))
        await a.set(GROUP, "g", ("consumer.session.timeout.ms", 0, "50000"))

        async def listed(version: int, *kinds: int) -> list[tuple[int, str]]:
            answer = await a.ask(ListConfigResourcesRequest(resource_types=list(kinds)), version)
            assert answer.error_code == ErrorCode.NONE
            return [(r.resource_type, r.resource_name) for r in answer.config_resources]

        assert await listed(1) == [(GROUP, "g"), (METRICS, "m"), (LOGGER, "1"), (BROKER, "1"), (TOPIC, "t")]
        assert await listed(1, TOPIC, GROUP) == [(GROUP, "g"), (TOPIC, "t")]
        assert await listed(0) == [(METRICS, "m")]
        answer = await a.ask(ListConfigResourcesRequest(resource_types=[TOPIC, 99]), 1)
        assert (answer.error_code, answer.config_resources) == (ErrorCode.UNSUPPORTED_VERSION, [])


# -- the cluster


async def test_describe_cluster_tells_the_address_the_client_used() -> None:
    async with admin() as a:
        answer = await a.ask(DescribeClusterRequest(include_cluster_authorized_operations=True))
        assert [(b.broker_id, b.host, b.port, b.is_fenced) for b in answer.brokers] == [
            (1, "broker.example", 9092, False)
        ]
        assert (answer.controller_id, answer.cluster_authorized_operations) == (1, 8096)
        assert (await a.ask(DescribeClusterRequest())).cluster_authorized_operations == -(2**31)
        wrong = await a.ask(DescribeClusterRequest(endpoint_type=2))
        assert (wrong.error_code, wrong.brokers, wrong.cluster_id) == (ErrorCode.MISMATCHED_ENDPOINT_TYPE, [], "")
        unknown = await a.ask(DescribeClusterRequest(endpoint_type=3))
        assert unknown.error_code == ErrorCode.UNSUPPORTED_ENDPOINT_TYPE


async def test_describe_quorum_answers_for_the_metadata_only() -> None:
    async with admin() as a:

        async def ask(topic: str, *partitions: int) -> Any:
            data = quorum.DescribeQuorumRequestTopicData(
                topic_name=topic,
                partitions=[quorum.DescribeQuorumRequestPartitionData(partition_index=p) for p in partitions],
            )
            return await a.ask(quorum.DescribeQuorumRequest(topics=[data]))

        answer = await ask("__cluster_metadata", 0)
        (partition,) = answer.topics[0].partitions
        assert (partition.leader_id, partition.leader_epoch) == (1, a.cluster.controller.epoch)
        assert [voter.replica_id for voter in partition.current_voters] == [1]
        assert partition.high_watermark == partition.current_voters[0].log_end_offset == a.cluster.image.epoch + 1
        assert [(n.node_id, [(x.name, x.host) for x in n.listeners]) for n in answer.nodes] == [
            (1, [("PLAINTEXT", "broker.example")])
        ]
        for topic, partitions in (("t", (0,)), ("__cluster_metadata", (1,)), ("__cluster_metadata", (0, 1))):
            refused = (await ask(topic, *partitions)).topics[0].partitions
            assert {p.error_code for p in refused} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}


async def test_elect_leaders() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t", num_partitions=2)])
        one = ElectLeadersRequest(topic_partitions=[TopicPartitions(topic="t", partitions=[0, 9])])
        (result,) = (await a.ask(one)).replica_election_results
        assert [(p.partition_id, p.error_code) for p in result.partition_result] == [
            (0, ErrorCode.ELECTION_NOT_NEEDED),
            (9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]
        everything = await a.ask(ElectLeadersRequest(topic_partitions=None))
        assert [(r.topic, r.partition_result) for r in everything.replica_election_results] == [("t", [])]
        unknown = await a.ask(ElectLeadersRequest(election_type=7, topic_partitions=one.topic_partitions))
        assert unknown.error_code == ErrorCode.INVALID_REQUEST
        (result,) = unknown.replica_election_results
        assert {p.error_code for p in result.partition_result} == {ErrorCode.INVALID_REQUEST}
        assert (await a.ask(ElectLeadersRequest(election_type=7, topic_partitions=[]))).error_code == ErrorCode.NONE
        everything = await a.ask(ElectLeadersRequest(election_type=7, topic_partitions=None))
        assert everything.error_code == ErrorCode.INVALID_REQUEST


async def test_nothing_is_being_reassigned() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t")])
        answer = await a.ask(ListPartitionReassignmentsRequest(topics=None))
        assert (answer.error_code, answer.error_message, answer.topics) == (0, None, [])


async def test_partitions_of_one_broker_stay_where_they_are() -> None:
    """What tools and strangers' suites ask of a single node."""
    async with admin() as a:
        await a.cluster.controller.create_topics([NewTopic(name="t", num_partitions=2)])

        async def alter(*asked: tuple[int, list[int] | None]) -> list[tuple[int, int]]:
            rows = [ReassignablePartition(partition_index=index, replicas=replicas) for index, replicas in asked]
            request = AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name="t", partitions=rows)])
            answer = await a.ask(request)
            assert (answer.error_code, answer.error_message) == (0, None)
            return [(row.partition_index, row.error_code) for row in answer.responses[0].partitions]

        assert await alter((0, [1]), (1, [2]), (7, [1])) == [
            (0, ErrorCode.NONE),
            (1, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]
        assert await alter((0, None)) == [(0, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS)]
        assert (await a.ask(ListPartitionReassignmentsRequest(topics=None))).topics == []


async def test_only_a_broker_that_is_gone_is_unregistered() -> None:
    async with admin() as a:
        running = await a.ask(UnregisterBrokerRequest(broker_id=1))
        assert (running.error_code, running.error_message) == (
            ErrorCode.INVALID_REQUEST,
            "Broker 1 is running: stop it first.",
        )
        unknown = await a.ask(UnregisterBrokerRequest(broker_id=5))
        assert unknown.error_code == ErrorCode.BROKER_ID_NOT_REGISTERED


async def test_log_directories_are_shown_with_what_was_asked_for() -> None:
    async with admin() as a:
        answer = await a.ask(dirs.DescribeLogDirsRequest(topics=None))
        online, offline = answer.results
        assert (online.log_dir, online.total_bytes, online.usable_bytes) == ("/a", 1000, 400)
        assert [
            (t.name, [(p.partition_index, p.partition_size, p.offset_lag) for p in t.partitions]) for t in online.topics
        ] == [
            ("t", [(0, 3, 2), (1, 5, 0)]),
            ("u", [(0, 7, 0)]),
        ]
        assert (offline.error_code, offline.topics) == (ErrorCode.KAFKA_STORAGE_ERROR, [])
        asked = dirs.DescribableLogDirTopic(topic="t", partitions=[1, 7])
        some = (await a.ask(dirs.DescribeLogDirsRequest(topics=[asked]))).results[0]
        assert [(t.name, [p.partition_index for p in t.partitions]) for t in some.topics] == [("t", [1])]


async def _page(a: Admin, names: list[str], limit: int, cursor: tuple[str, int] | None = None) -> Any:
    request = paging.DescribeTopicPartitionsRequest(
        topics=[paging.TopicRequest(name=name) for name in names],
        response_partition_limit=limit,
        cursor=None if cursor is None else paging.Cursor(topic_name=cursor[0], partition_index=cursor[1]),
    )
    answer = await a.ask(request)
    after = answer.next_cursor
    topics = [(t.error_code, t.name, [p.partition_index for p in t.partitions]) for t in answer.topics]
    return topics, None if after is None else (after.topic_name, after.partition_index)


async def test_partitions_are_described_page_by_page() -> None:
    async with admin() as a:
        await a.cluster.controller.create_topics(
            [NewTopic(name="t1", num_partitions=3), NewTopic(name="m8", num_partitions=2)]
        )
        both = ["t1", "m8"]
        assert await _page(a, both, 1) == ([(0, "m8", [0])], ("m8", 1))
        assert await _page(a, both, 3) == ([(0, "m8", [0, 1]), (0, "t1", [0])], ("t1", 1))
        assert await _page(a, both, 0) == ([(0, "m8", [0])], ("m8", 1))
        assert await _page(a, both, 2) == ([(0, "m8", [0, 1])], ("t1", 0))
        assert await _page(a, both, 2, ("t1", 0)) == ([(0, "t1", [0, 1])], ("t1", 2))
        assert await _page(a, both, 2, ("m8", 1)) == ([(0, "m8", [1]), (0, "t1", [0])], ("t1", 1))
        assert await _page(a, ["m8"], 2, ("t1", 0)) == ([(ErrorCode.INVALID_REQUEST, "m8", [])], None)
        assert await _page(a, ["t1", "zz", "bad/x"], 2000) == (
            [
                (ErrorCode.INVALID_TOPIC_EXCEPTION, "bad/x", []),
                (0, "t1", [0, 1, 2]),
                (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "zz", []),
            ],
            None,
        )
        # All pages together are everything, once.
        seen: list[tuple[str, int]] = []
        cursor = None
        while True:
            page, cursor = await _page(a, [], 2, cursor)
            seen += [(name, index) for _, name, indexes in page for index in indexes]
            if cursor is None:
                break
        assert seen == [("m8", 0), ("m8", 1), ("t1", 0), ("t1", 1), ("t1", 2)]
