"""Share groups (KIP-932): heartbeats, descriptions, offsets that are described, altered and deleted, deletion."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.scenarios.groups import Group, ready_coordinator, subscription
from tests.compatibility.differential.script import batch, create_topic, fill, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.alter_share_group_offsets import (
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsRequestPartition,
    AlterShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.delete_share_group_offsets import (
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.describe_share_group_offsets import (
    DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequestGroup,
    DescribeShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics
from ottla.protocol.messages.share_group_describe import ShareGroupDescribeRequest
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest

_GROUP_RESOURCE = 32


class ShareGroup:
    """Requests about one share group."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        # Without a pause between assignments the epochs do not depend on how fast the script asks.
        self.configure(share_assignment_interval_ms="0", share_auto_offset_reset="earliest")

    def configure(self, **values: str) -> None:
        configs = [AlterableConfig(name=name.replace("_", "."), value=value) for name, value in values.items()]
        resource = AlterConfigsResource(resource_type=_GROUP_RESOURCE, resource_name=self.name, configs=configs)
        self.wire.ask(None, IncrementalAlterConfigsRequest(resources=[resource]), 1, on="aside")

    def beat(self, name: str | None, member_id: str, epoch: int, topics: list[str] | None = None, **more: Any) -> Tree:
        fields: dict[str, Any] = {"group_id": self.name, **more}
        request = ShareGroupHeartbeatRequest(
            member_id=member_id, member_epoch=epoch, subscribed_topic_names=topics, **fields
        )
        return self.wire.ask(name, request, newest(ApiKey.SHARE_GROUP_HEARTBEAT))

    def describe(self, name: str, *others: str) -> None:
        for version in versions(ApiKey.SHARE_GROUP_DESCRIBE):
            for operations in (False, True):
                request = ShareGroupDescribeRequest(
                    group_ids=[self.name, *others], include_authorized_operations=operations
                )
                self.wire.ask(f"{name}, operations {operations}", request, version)

    def offsets(self, name: str | None, topics: dict[str, list[int]] | None = None, version: int = 1) -> Tree:
        wanted = (
            None
            if topics is None
            else [
                DescribeShareGroupOffsetsRequestTopic(topic_name=key, partitions=rows) for key, rows in topics.items()
            ]
        )
        group = DescribeShareGroupOffsetsRequestGroup(group_id=self.name, topics=wanted)
        return self.wire.ask(name, DescribeShareGroupOffsetsRequest(groups=[group]), version)

    def await_begun(self, count: int) -> None:
        """Wait until so many share partitions have begun, which no answer waits for."""

        def has_begun() -> bool:
            [group] = self.offsets(None).groups
            return sum(len(topic.partitions) for topic in group.topics) == count

        self.wire.settle(f"{self.name}: {count} share partitions", has_begun)

    def alter(self, name: str, topics: dict[str, dict[int, int]]) -> Tree:
        request = AlterShareGroupOffsetsRequest(
            group_id=self.name,
            topics=[
                AlterShareGroupOffsetsRequestTopic(
                    topic_name=topic,
                    partitions=[
                        AlterShareGroupOffsetsRequestPartition(partition_index=index, start_offset=offset)
                        for index, offset in rows.items()
                    ],
                )
                for topic, rows in topics.items()
            ],
        )
        return self.wire.ask(name, request, newest(ApiKey.ALTER_SHARE_GROUP_OFFSETS))

    def delete_offsets(self, name: str, *topics: str) -> Tree:
        rows = [DeleteShareGroupOffsetsRequestTopic(topic_name=topic) for topic in topics]
        request = DeleteShareGroupOffsetsRequest(group_id=self.name, topics=rows)
        return self.wire.ask(name, request, newest(ApiKey.DELETE_SHARE_GROUP_OFFSETS))


def refused_heartbeats(wire: Wire) -> None:
    ready_coordinator(wire)
    create_topic(wire, "share-refused")
    group = ShareGroup(wire, "share-refused-group")
    topics = ["share-refused"]
    group.beat("no member id", "", 0, topics)
    group.beat("blank member id", " ", 0, topics)
    group.beat("no group id", "m", 0, topics, group_id="")
    group.beat("empty rack", "m", 0, topics, rack_id="")
    group.beat("no topics", "m", 0, None)
    group.beat("empty topics", "m", 0, [])
    group.beat("epoch -2", "m", -2, topics)
    group.beat("unknown group", "m", 1)
    group.beat("leaving an unknown group", "m", -1)
    assert group.beat("joins", "m", 0, topics).error_code == "NONE"
    group.beat("unknown member", "other", 2)
    group.beat("leaving, unknown member", "other", -1)
    group.beat("epoch of the future", "m", 9)
    group.beat("joins again", "m", 0, topics)
    group.await_begun(1)
    epoch = group.beat("gets a partition", "m", 2).member_epoch
    group.beat("epoch before", "m", epoch - 1)
    group.beat("epoch before that", "m", epoch - 2)
    group.beat("leaves", "m", -1)
    group.beat("leaves again", "m", -1)


def life(wire: Wire) -> None:
    ready_coordinator(wire)
    # One partition each: with more it is chance who of Kafka's members has which.
    create_topic(wire, "share-life", 1)
    create_topic(wire, "share-more", 1)
    group = ShareGroup(wire, "share-life-group")
    group.describe("nobody yet", "")
    first = group.beat("joins", "one", 0, ["share-life"], rack_id="r")
    group.await_begun(1)
    group.describe("begun, not assigned")
    first = group.beat("gets partitions", "one", first.member_epoch)
    group.beat("nothing new", "one", first.member_epoch)
    group.beat("full request", "one", first.member_epoch, ["share-life"])
    group.describe("one member")
    for version in (4, 5):
        request = ListGroupsRequest(states_filter=["Stable"], types_filter=["share"] if version == 5 else [])
        wire.ask("stable share groups", request, version)
    second = group.beat("second joins", "two", 0, ["share-life"])
    first = group.beat("first after that", "one", first.member_epoch)
    group.describe("two members")
    second = group.beat("second wants more", "two", second.member_epoch, ["share-life", "share-more"])
    group.await_begun(2)
    second = group.beat("second gets more", "two", second.member_epoch)
    group.beat("wants a topic that is not there", "two", second.member_epoch, ["share-nowhere"])
    group.beat("first leaves", "one", -1)
    group.beat("second leaves", "two", -1)
    group.describe("empty")
    wire.ask("described as a classic group", DescribeGroupsRequest(groups=[group.name]), 6)
    classic = Group(wire, group.name)
    classic.join("joined by a classic member", protocols=[("range", subscription("share-life"))])
    commit = OffsetCommitRequest(
        group_id=group.name,
        generation_id_or_member_epoch=-1,
        topics=[
            OffsetCommitRequestTopic(
                name="share-life", partitions=[OffsetCommitRequestPartition(partition_index=0, committed_offset=1)]
            )
        ],
    )
    wire.ask("offsets committed", commit, 9)
    fetch = OffsetFetchRequestGroup(
        group_id=group.name, topics=[OffsetFetchRequestTopics(name="share-life", partition_indexes=[0])]
    )
    wire.ask("offsets fetched", OffsetFetchRequest(groups=[fetch]), 9)


def offsets(wire: Wire) -> None:
    ready_coordinator(wire)
    topic_id = create_topic(wire, "share-offsets", 2)
    create_topic(wire, "share-unread", 1)
    fill(wire, "share-offsets", topic_id, batch())
    group = ShareGroup(wire, "share-offsets-group")
    for version in versions(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS):
        group.offsets("no group, all", None, version)
        group.offsets("no group, some", {"share-offsets": [0, 1], "share-nowhere": [0]}, version)
        group.offsets("no topics", {}, version)
    member = group.beat(None, "m", 0, ["share-offsets"])
    group.await_begun(2)
    for version in versions(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS):
        group.offsets("nothing read, all", None, version)
        group.offsets("nothing read, some", {"share-offsets": [0], "share-unread": [0]}, version)
    group.alter("altered with a member", {"share-offsets": {0: 1}})
    group.delete_offsets("deleted with a member", "share-offsets")
    group.beat(None, "m", -1)
    group.alter("altered", {"share-offsets": {0: 1, 1: 0, 5: 0}, "share-nowhere": {0: 0}, "share-unread": {0: 0}})
    group.await_begun(3)
    for version in versions(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS):
        group.offsets("altered, all", None, version)
    group.alter("altered: nothing", {})
    group.describe("after altering")
    member = group.beat("joins after altering", "m", 0, ["share-offsets"])
    group.beat("full request", "m", member.member_epoch, ["share-offsets"])
    group.beat(None, "m", -1)
    group.delete_offsets("deleted", "share-offsets", "share-nowhere", "share-unread")
    group.offsets("after deleting, all", None)
    group.offsets("after deleting, some", {"share-offsets": [0, 1]})
    group.delete_offsets("deleted again", "share-offsets")
    group.delete_offsets("deleted: nothing")
    new = ShareGroup(wire, "share-altered-first")
    new.delete_offsets("deleted of no group", "share-offsets")
    new.alter("altering makes a group", {"share-offsets": {0: 2}})
    new.await_begun(1)
    new.offsets("of the group that altering made", None)
    new.describe("made by altering")
    empty = ShareGroup(wire, "")
    empty.alter("altered: no group id", {"share-offsets": {0: 2}})
    empty.delete_offsets("deleted: no group id", "share-offsets")


def deletion(wire: Wire) -> None:
    ready_coordinator(wire)
    create_topic(wire, "share-deletion", 1)
    group = ShareGroup(wire, "share-deletion-group")
    group.beat(None, "m", 0, ["share-deletion"])
    group.await_begun(1)
    wire.ask("with a member", DeleteGroupsRequest(groups_names=[group.name]), 2)
    group.beat(None, "m", -1)
    wire.ask("empty", DeleteGroupsRequest(groups_names=[group.name]), 2)
    wire.ask("again", DeleteGroupsRequest(groups_names=[group.name]), 2)
    group.describe("gone")
    group.offsets("gone, all", None)
    group.offsets("gone, some", {"share-deletion": [0]})
    group.beat("joins again", "m", 0, ["share-deletion"])
    group.await_begun(1)
    group.beat("begins anew", "m", 2)


SCENARIOS = (refused_heartbeats, life, offsets, deletion)
