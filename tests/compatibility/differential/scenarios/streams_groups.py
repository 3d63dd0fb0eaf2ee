"""Streams groups (KIP-1071): heartbeats, descriptions, topologies and their internal topics, offsets, other types of groups.

Static members and offsets of tasks are not asked for: the reference refuses them all, Kafka 4.4 has them.
"""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.scenarios.consumer_groups import ConsumerGroup
from tests.compatibility.differential.scenarios.groups import Group, ready_coordinator, subscription
from tests.compatibility.differential.scenarios.offsets import commit_request, fetch_request
from tests.compatibility.differential.script import await_topic, create_topic, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.streams_group_describe import StreamsGroupDescribeRequest
from ottla.protocol.messages.streams_group_heartbeat import (
    CopartitionGroup,
    Endpoint,
    KeyValue,
    StreamsGroupHeartbeatRequest,
    Subtopology,
    TaskIds,
    TopicInfo,
    Topology,
)

TOPIC, OTHER = "streamed", "streamed-too"
DESCRIBE = newest(ApiKey.STREAMS_GROUP_DESCRIBE)


def part(name: str = "0", *sources: str, **fields: Any) -> Subtopology:
    return Subtopology(subtopology_id=name, **{"source_topics": list(sources) or [TOPIC], **fields})


def topology(*parts: Subtopology, epoch: int = 0) -> Topology:
    return Topology(epoch=epoch, subtopologies=list(parts) or [part()])


def configured(changelog: str, *configs: tuple[str, str]) -> Topology:
    rows = [KeyValue(key=key, value=value) for key, value in configs]
    return topology(part(state_changelog_topics=[TopicInfo(name=changelog, topic_configs=rows)]))


def tasks(*partitions: int, of: str = "0") -> list[TaskIds]:
    return [TaskIds(subtopology_id=of, partitions=list(partitions))] if partitions else []


class StreamsGroup:
    """Requests about one streams group."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name

    def beat(self, label: str | None, member: str, epoch: int, version: int = 0, **fields: Any) -> Tree:
        message = StreamsGroupHeartbeatRequest(
            **{"group_id": self.name, "member_id": member, "member_epoch": epoch, **fields}
        )
        return self.wire.ask(label, message, version, on="main" if label else "aside")

    def join(self, label: str | None, member: str, version: int = 0, **fields: Any) -> Tree:
        """A first heartbeat, with all that it must say unless `fields` says otherwise."""
        defaults: dict[str, Any] = {
            "rebalance_timeout_ms": 30_000, "topology": topology(), "process_id": f"process of {member}", "client_tags": [],
            "active_tasks": [], "standby_tasks": [], "warmup_tasks": [],
        }  # fmt: skip
        return self.beat(label, member, 0, version, **{**defaults, **fields})

    def owning(
        self, label: str | None, member: str, epoch: int, *partitions: int, of: str = "0", **fields: Any
    ) -> Tree:
        owned = {"active_tasks": tasks(*partitions, of=of), "standby_tasks": [], "warmup_tasks": []}
        return self.beat(label, member, epoch, **{**owned, **fields})

    def describe(self, label: str, *names: str, operations: bool = False) -> None:
        for version in versions(ApiKey.STREAMS_GROUP_DESCRIBE):
            message = StreamsGroupDescribeRequest(
                group_ids=list(names) or [self.name], include_authorized_operations=operations
            )
            self.wire.ask(label, message, version)


def prepared(wire: Wire) -> tuple[bytes, bytes]:
    ready_coordinator(wire)
    ids = create_topic(wire, TOPIC, 4), create_topic(wire, OTHER, 2)
    ready_coordinator(wire)
    return ids


def epoch_of(answer: Tree) -> int:
    return int(answer.get("member_epoch", 0))


def refused(wire: Wire) -> None:
    prepared(wire)
    for version in versions(ApiKey.STREAMS_GROUP_HEARTBEAT):
        group = StreamsGroup(wire, f"streams-refused-{version}")

        def join(
            label: str, member: str = "one", *, version: int = version, group: StreamsGroup = group, **fields: Any
        ) -> None:
            group.join(label, member, version, **fields)

        def beat(
            label: str,
            epoch: int,
            member: str = "one",
            *,
            version: int = version,
            group: StreamsGroup = group,
            **fields: Any,
        ) -> None:
            group.beat(label, member, epoch, version, **fields)

        for name in ("", " "):
            join(f"group {name!r}", group_id=name)
            join(f"member {name!r}", name)
            beat(f"member {name!r}, epoch 1", 1, name)
            beat(f"member {name!r} leaves", -1, name)
            join(f"instance {name!r}", instance_id=name)
            join(f"rack {name!r}", rack_id=name)
            join(f"process {name!r}", process_id=name, group_id=f"{group.name}-process-{len(name)}")
        for long in (36, 37, 250, 4_096):
            join(f"member of {long}", "m" * long, group_id=f"{group.name}-member-{long}")
            join(f"group of {long}", group_id="g" * long)
        for timeout in (-1, -2, 0):
            join(
                f"rebalance timeout {timeout}", rebalance_timeout_ms=timeout, group_id=f"{group.name}-timeout{timeout}"
            )
        for field in ("topology", "process_id", "client_tags", "active_tasks", "standby_tasks", "warmup_tasks"):
            without: dict[str, Any] = {field: None}
            join(f"without {field}", group_id=f"{group.name}-without-{field}", **without)
        for field in ("active_tasks", "standby_tasks", "warmup_tasks"):
            only: dict[str, Any] = {field: tasks(0)}
            join(f"with {field}", **only)
            beat(f"only {field}", 1, **only)
        beat("a topology later", 1, topology=topology())
        for epoch in (1, 5, -1, -2, -3, -2_147_483_648):
            beat(f"epoch {epoch} of an unknown group", epoch)
        beat("a task twice", 1, active_tasks=[*tasks(0), *tasks(0)], standby_tasks=[], warmup_tasks=[])
        beat("a task active and standby", 1, active_tasks=tasks(0), standby_tasks=tasks(0), warmup_tasks=[])
        group.describe("nothing has come of it")


def topologies(wire: Wire) -> None:
    """Topologies that are wrong, and topics that are missing or do not fit."""
    prepared(wire)
    changelog = TopicInfo(name="a-changelog", partitions=0)
    repartition = TopicInfo(name="a-repartition", partitions=0)
    cases: dict[str, Topology] = {
        "no subtopologies": Topology(epoch=0, subtopologies=[]),
        "epoch -1": topology(epoch=-1),
        "epoch 7": topology(epoch=7),
        "the same subtopology twice": topology(part(), part()),
        "in the wrong order": topology(part("1"), part("0", OTHER)),
        "no sources": topology(part("0", source_topics=[])),
        "an unknown source": topology(part("0", "nowhere")),
        "a known and an unknown source": topology(part("0", TOPIC, "nowhere")),
        "an invalid source": topology(part("0", "no/name")),
        "an internal source": topology(part("0", "__consumer_offsets")),
        "an internal sink": topology(part("0", repartition_sink_topics=["__transaction_state"])),
        "an invalid changelog": topology(part(state_changelog_topics=[TopicInfo(name="no/name")])),
        "a changelog": topology(part(state_changelog_topics=[changelog])),
        "a changelog with partitions": topology(part(state_changelog_topics=[TopicInfo(name="b-changelog", partitions=3)])),
        "a repartition topic without a sink": topology(part("0", repartition_source_topics=[repartition])),
        "a repartition topic": topology(
            part("0", repartition_sink_topics=["a-repartition"]),
            part("1", source_topics=[], repartition_source_topics=[repartition]),
        ),
        "a loop": topology(
            part("0", source_topics=[], repartition_source_topics=[TopicInfo(name="l0")], repartition_sink_topics=["l1"]),
            part("1", source_topics=[], repartition_source_topics=[TopicInfo(name="l1")], repartition_sink_topics=["l0"]),
        ),
        "not copartitioned": topology(part("0", TOPIC, OTHER, copartition_groups=[CopartitionGroup(source_topics=[0, 1])])),
        "copartitioned with an index too high": topology(
            part("0", TOPIC, copartition_groups=[CopartitionGroup(source_topics=[0, 9])])
        ),
        "a pattern": topology(part("0", source_topics=[], source_topic_regex=["streamed.*"])),
        "configs": configured("c-changelog", ("cleanup.policy", "compact")),
        "configs out of order": configured("d-changelog", ("z", "1"), ("a", "1")),
        "replication factor 3": topology(part(state_changelog_topics=[TopicInfo(name="e-changelog", replication_factor=3)])),
        "a source that is a repartition topic of somebody": topology(part("0", OTHER), part("1", TOPIC)),
    }  # fmt: skip
    for index, (label, wanted) in enumerate(cases.items()):
        group = StreamsGroup(wire, f"streams-topology-{index}")
        answer = group.join(label, "one", topology=wanted)
        group.describe(f"{label}: described")
        makes_topics = any(
            each.state_changelog_topics or each.repartition_source_topics for each in wanted.subtopologies
        )
        # Kafka makes topics beside the answer: how soon they are there is not to be compared.
        if answer.get("error_code") == "NONE" and not makes_topics:
            group.join(f"{label}: again", "one", topology=wanted)
            group.join(f"{label}: a second member", "two", topology=wanted)
            group.join(
                f"{label}: a newer epoch",
                "three",
                topology=Topology(epoch=wanted.epoch + 1, subtopologies=wanted.subtopologies),
            )
            group.join(f"{label}: another topology", "four", topology=topology(part("9"), epoch=wanted.epoch))
        group.describe(f"{label}: at last")


def one_member(wire: Wire) -> None:
    topic_id, _ = prepared(wire)
    group = StreamsGroup(wire, "streams-one")
    endpoint = Endpoint(host="example.org", port=8_080)
    tags = [KeyValue(key="zone", value="a")]
    joined = group.join("joins", "one", user_endpoint=endpoint, client_tags=tags)
    epoch = epoch_of(joined)
    group.describe("joined", operations=True)
    group.join("joins again", "one", user_endpoint=endpoint, client_tags=tags)
    group.beat("says nothing", "one", epoch)
    group.owning("owns all", "one", epoch, 0, 1, 2, 3)
    group.beat("says nothing again", "one", epoch)
    group.beat("knows endpoints of an epoch", "one", epoch, endpoint_information_epoch=1)
    group.beat("knows endpoints of a future epoch", "one", epoch, endpoint_information_epoch=99)
    group.beat("knows endpoints of epoch -1", "one", epoch, endpoint_information_epoch=-1)
    group.describe("owns all")
    group.describe("with others", group.name, "nobody", "", group.name)
    for wrong in (epoch - 1, epoch - 2, epoch + 1, epoch + 100):
        group.beat(f"with its epoch {wrong - epoch:+}", "one", wrong)
        group.owning(f"with its epoch {wrong - epoch:+}, owning all", "one", wrong, 0, 1, 2, 3)
        group.owning(f"with its epoch {wrong - epoch:+}, owning another", "one", wrong, 9)
    group.beat("unknown member", "nobody", epoch)
    group.beat("unknown member leaves", "nobody", -1)
    group.owning("owns what is not its own", "one", epoch, 7)
    group.owning("owns a task that does not exist", "one", epoch, 0, of="no-such")
    changes: dict[str, dict[str, Any]] = {
        "another process": {"process_id": "another"}, "another rack": {"rack_id": "r"},
        "other tags": {"client_tags": [KeyValue(key="zone", value="b")]}, "no tags": {"client_tags": []},
        "another endpoint": {"user_endpoint": Endpoint(host="other", port=1)},
        "another rebalance timeout": {"rebalance_timeout_ms": 45_000},
    }  # fmt: skip
    for label, fields in changes.items():
        epoch = epoch_of(group.beat(label, "one", epoch, **fields))
        group.beat(f"after {label}", "one", epoch, endpoint_information_epoch=1)
    group.describe("changed")
    for version in versions(ApiKey.OFFSET_COMMIT):
        for label, who in {
            "its epoch": (epoch, "one"), "an older epoch": (epoch - 1, "one"), "a future epoch": (epoch + 1, "one"),
            "unknown member": (epoch, "nobody"), "nobody": (-1, ""),
        }.items():  # fmt: skip
            message = commit_request(
                group.name, TOPIC, topic_id, {0: 3}, generation_id_or_member_epoch=who[0], member_id=who[1]
            )
            wire.ask(f"commit: {label}", message, version)
    for version in versions(ApiKey.OFFSET_FETCH, 9):
        for wrong in (epoch, epoch - 1, epoch + 1, -1):
            asked = fetch_request(group.name, None, version, member_id="one", member_epoch=wrong)
            wire.ask(f"fetch: its epoch {wrong - epoch:+}", asked, version)
    for version in versions(ApiKey.DESCRIBE_GROUPS):
        wire.ask("as classic", DescribeGroupsRequest(groups=[group.name]), version)
    for types in (["streams"], ["Streams"]):
        wire.ask(f"listed: {types}", ListGroupsRequest(types_filter=types), newest(ApiKey.LIST_GROUPS))
    wire.ask("deleted while alive", DeleteGroupsRequest(groups_names=[group.name]), 2)
    group.beat("a shutdown", "one", epoch, shutdown_application=True)
    group.beat("after the shutdown", "one", epoch)
    group.beat("leaves", "one", -1)
    group.beat("leaves again", "one", -1)
    group.beat("beats after leaving", "one", epoch)
    group.describe("empty")
    group.join("comes back", "one")
    group.beat("leaves", "one", -1)
    wire.ask("deleted", DeleteGroupsRequest(groups_names=[group.name, group.name]), 2)
    group.describe("deleted")


def two_members(wire: Wire) -> None:
    prepared(wire)
    group = StreamsGroup(wire, "streams-two")
    a = epoch_of(group.join("A joins", "a", user_endpoint=Endpoint(host="a", port=1)))
    a = epoch_of(group.owning("A owns all", "a", a, 0, 1, 2, 3))
    b = epoch_of(group.join("B joins", "b", user_endpoint=Endpoint(host="b", port=2)))
    group.beat("B waits", "b", b)
    group.describe("B waits for A")
    told = group.beat("A beats", "a", a)
    group.owning("A still owns all", "a", a, 0, 1, 2, 3)
    group.describe("A is told")
    kept = [index for row in told.get("active_tasks") or [] for index in row.partitions]
    a = epoch_of(group.owning("A gives up", "a", a, *kept))
    group.describe("A has given up")
    given = group.beat("B beats", "b", b)
    b = epoch_of(given)
    mine = [index for row in given.get("active_tasks") or [] for index in row.partitions]
    b = epoch_of(group.owning("B owns", "b", b, *mine))
    a = epoch_of(group.beat("A beats again", "a", a, endpoint_information_epoch=0))
    group.describe("stable")
    group.owning("B's epoch before", "b", b - 1, *mine)
    group.beat("C leaves", "c", -1)
    group.beat("A asks for a shutdown", "a", a, shutdown_application=True)
    group.beat("B is told of it", "b", b)
    group.beat("A leaves", "a", -1)
    b = epoch_of(group.beat("B alone", "b", b))
    group.owning("B takes over", "b", b, *mine)
    group.describe("B alone")
    group.beat("B leaves", "b", -1)


def internal_topics(wire: Wire) -> None:
    """Topics that a topology needs are made by the broker, and then there are tasks."""
    prepared(wire)
    group = StreamsGroup(wire, "streams-internal")
    wanted = topology(
        part("0", TOPIC, repartition_sink_topics=["streams-internal-repartition"], state_changelog_topics=[
            TopicInfo(name="streams-internal-changelog", topic_configs=[KeyValue(key="cleanup.policy", value="compact")]),
        ]),
        part("1", source_topics=[], repartition_source_topics=[TopicInfo(name="streams-internal-repartition", partitions=3)]),
    )  # fmt: skip
    epoch = epoch_of(group.join("joins", "one", topology=wanted))
    for name, partitions in (("streams-internal-changelog", 4), ("streams-internal-repartition", 3)):
        wire.settle(f"{name} is made", lambda name=name: wire.topic_metadata(name).error_code == "NONE")  # type: ignore[misc]
        await_topic(wire, name, partitions)
    ready_coordinator(wire)
    answer = group.beat(None, "one", epoch)

    def has_tasks() -> bool:
        nonlocal answer
        if answer.get("active_tasks"):
            return True
        answer = group.beat(None, "one", int(answer.member_epoch))
        return False

    wire.settle("there are tasks", has_tasks)
    group.describe("with internal topics")
    group.join("as if new", "one", topology=wanted)
    group.beat("leaves", "one", -1)


def other_types(wire: Wire) -> None:
    """Streams members in groups of other types, and others in streams groups."""
    prepared(wire)
    streams = StreamsGroup(wire, "streams-others")
    epoch = epoch_of(streams.join(None, "one"))
    classic, consumer = Group(wire, streams.name), ConsumerGroup(wire, streams.name)
    classic.join("a classic member joins", protocols=[("range", subscription(TOPIC))])
    classic.join("a classic member of no id joins", 3, protocols=[("range", subscription(TOPIC))])
    classic.heartbeat("a classic heartbeat", epoch, "one")
    classic.sync("a classic sync", epoch, "one")
    classic.leave("a classic leave", "one")
    consumer.join("a consumer joins", "two", 1, TOPIC)
    consumer.beat("a consumer beats", "one", epoch)
    consumer.describe("as consumers")
    streams.describe("still streams")
    streams.beat(None, "one", -1)
    consumer.join("a consumer joins what is empty", "two", 1, TOPIC)
    streams.describe("after it")
    consumer.beat(None, "two", -1)
    ConsumerGroup(wire, "streams-in-consumers").join(None, "c", 1, TOPIC)
    Group(wire, "streams-in-classic").join_new("a classic member", 9)
    Group(wire, "streams-in-connect").join_new("a connect member", 9, protocol_type="connect")
    for label in ("consumers", "classic", "connect"):
        inside = StreamsGroup(wire, f"streams-in-{label}")
        inside.join(f"joins {label}", "s")
        inside.beat(f"beats in {label}", "s", 1)
        inside.beat(f"leaves {label}", "s", -1)
        inside.describe(f"{label} described")
    ConsumerGroup(wire, "streams-in-consumers").beat(None, "c", -1)
    StreamsGroup(wire, "streams-in-consumers").join("joins consumers that are empty", "s")


SCENARIOS = [refused, topologies, one_member, two_members, internal_topics, other_types]
