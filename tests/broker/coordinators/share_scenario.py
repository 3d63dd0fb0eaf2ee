"""The commands of transcripts about share groups (tests/scenarios/share/*.txt), beside those of `scenario`.

beat C [topics=a,b group= epoch= rack= member=]
    a heartbeat; with `topics` of a member that joins (epoch 0) unless `epoch` says otherwise.
leave C                        describe-share GROUP...           group-config GROUP KEY=VALUE...
hold-states | release-states   the share coordinator is slow     fail-states CODE   its next change fails, for every second
    partition it concerns (all of them if it is a deletion)
states GROUP                   what the share coordinator has
ends TOPIC-P=OFFSET...         where logs end
offsets GROUP [TOPIC-P...] [v=]    alter-offsets GROUP TOPIC-P=OFFSET...    delete-share-offsets GROUP TOPIC...
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.broker.coordinators.scenario import Client, Scenario, milliseconds

from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.cluster.image import GROUPS, ConfigResource, ImageDelta
from ottla.errors import ErrorCode
from ottla.protocol.messages import group_records as written
from ottla.protocol.messages.alter_share_group_offsets import (
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsRequestPartition,
    AlterShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.delete_share_group_offsets import (
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.describe_share_group_offsets import (
    DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequestGroup,
    DescribeShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.share_group_describe import ShareGroupDescribeRequest
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse


class ShareScenario(Scenario):
    """Runs transcripts about share groups."""

    def topic_name(self, topic_id: bytes) -> str:
        return self.world.image.topic_names.get(topic_id, f"gone#{int.from_bytes(topic_id, 'big')}")

    def shown(self, topics: Any) -> str:
        topic_id_partitions = [
            f"{self.topic_name(each.topic_id)}:{','.join(map(str, each.partitions))}" for each in topics
        ]
        return " ".join(sorted(topic_id_partitions)) or "none"

    async def do_group_config(self, plain: list[str], options: dict[str, str]) -> None:
        overrides = dict(word.split("=", 1) for word in (*plain[1:], *(f"{k}={v}" for k, v in options.items())))
        resource = ConfigResource(GROUPS, plain[0])
        self.world.image = replace(self.world.image, configs={**self.world.image.configs, resource: overrides})
        self.world.runtime.on_image(self.world.image, ImageDelta(changed_configs=(resource,)))

    # -------------------------------------------------------------- membership

    async def do_beat(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        client.group = options.get("group", client.group)
        client.member_id = options.get("member", client.member_id or client.name)
        topics = options.get("topics")
        joins = client.generation < 1
        request = ShareGroupHeartbeatRequest(
            group_id="" if client.group == "none" else client.group,
            member_id="" if client.member_id == "none" else client.member_id,
            member_epoch=int(options.get("epoch", "0" if joins else str(client.generation))),
            rack_id=options.get("rack"),
            subscribed_topic_names=None if topics is None else [name for name in topics.split(",") if name != "none"],
        )
        self.later(self.beat(client, request))

    async def beat(self, client: Client, request: ShareGroupHeartbeatRequest) -> None:
        response: ShareGroupHeartbeatResponse = await self.world.handle(1, request, client.name)
        code = ErrorCode(response.error_code)
        if code != ErrorCode.NONE:
            self.say(f"{client.name}: {code.name} {response.error_message or ''}".rstrip())
            return
        client.generation = response.member_epoch
        parts = [f"epoch={response.member_epoch}"]
        if response.heartbeat_interval_ms not in (0, 5_000):
            parts.append(f"interval={response.heartbeat_interval_ms}ms")
        if response.assignment is not None:
            parts.append(f"assigned={self.shown(response.assignment.topic_partitions)}")
        self.say(f"{client.name}: " + " ".join(parts))

    async def do_leave(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        request = ShareGroupHeartbeatRequest(
            group_id=client.group, member_id=options.get("member", client.member_id), member_epoch=-1
        )
        self.later(self.beat(client, request))

    async def do_describe_share(self, plain: list[str], options: dict[str, str]) -> None:
        request = ShareGroupDescribeRequest(group_ids=["" if name == "none" else name for name in plain])
        response = await self.world.handle(1, request)
        for group in response.groups:
            if group.error_code:
                self.say(f"{group.group_id}: {ErrorCode(group.error_code).name} {group.error_message or ''}".rstrip())
                continue
            self.say(
                f"{group.group_id}: {group.group_state} epoch={group.group_epoch} target={group.assignment_epoch} "
                f"assignor={group.assignor_name}"
            )
            for member in group.members:
                self.say(
                    f"  {member.member_id}: epoch={member.member_epoch} topics={','.join(member.subscribed_topic_names)} "
                    f"assigned={self.shown(member.assignment.topic_partitions)}"
                )

    # -------------------------------------------------------- share partitions

    async def do_hold_states(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.persister.hold = True

    async def do_release_states(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.persister.release()

    async def do_fail_states(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.persister.failures.append(ErrorCode[plain[0]])

    async def do_states(self, plain: list[str], options: dict[str, str]) -> None:
        rows = [
            f"{self.topic_name(topic_id_partition.topic_id)}-{topic_id_partition.partition}@{state.epoch}={state.start_offset}"
            for (group_id, topic_id_partition), state in self.world.persister.states.items()
            if group_id == plain[0]
        ]
        self.say("states: " + (" ".join(sorted(rows)) or "none"))

    async def do_ends(self, plain: list[str], options: dict[str, str]) -> None:
        for word in plain:
            topic_id_partition, _, end = word.partition("=")
            topic, _, partition = topic_id_partition.rpartition("-")
            self.world.replicas.ends[topic, int(partition)] = int(end)

    async def do_offsets(self, plain: list[str], options: dict[str, str]) -> None:
        topics: dict[str, list[int]] = {}
        for word in plain[1:]:
            topic, _, partition = word.rpartition("-")
            topics.setdefault(topic, []).append(int(partition))
        wanted = [
            DescribeShareGroupOffsetsRequestTopic(topic_name=topic, partitions=rows) for topic, rows in topics.items()
        ]
        group = DescribeShareGroupOffsetsRequestGroup(group_id=plain[0], topics=wanted or None)
        version = int(options.get("v", "1"))
        response = await self.world.handle(version, DescribeShareGroupOffsetsRequest(groups=[group]))
        [found] = response.groups
        rows_shown = []
        for topic in found.topics:
            for row in topic.partitions:
                if row.error_code:
                    rows_shown.append(f"{topic.topic_name}-{row.partition_index}:{ErrorCode(row.error_code).name}")
                else:
                    rows_shown.append(f"{topic.topic_name}-{row.partition_index}={row.start_offset} lag {row.lag}")
        code = "" if not found.error_code else f"{ErrorCode(found.error_code).name} "
        self.say(f"offsets: {code}{', '.join(rows_shown) or 'nothing'}")

    async def do_alter_offsets(self, plain: list[str], options: dict[str, str]) -> None:
        topics: dict[str, list[AlterShareGroupOffsetsRequestPartition]] = {}
        for word in plain[1:]:
            topic_id_partition, _, offset = word.partition("=")
            topic, _, partition = topic_id_partition.rpartition("-")
            row = AlterShareGroupOffsetsRequestPartition(partition_index=int(partition), start_offset=int(offset))
            topics.setdefault(topic, []).append(row)
        request = AlterShareGroupOffsetsRequest(
            group_id="" if plain[0] == "none" else plain[0],
            topics=[
                AlterShareGroupOffsetsRequestTopic(topic_name=name, partitions=rows) for name, rows in topics.items()
            ],
        )
        self.later(self.altered(request))

    async def altered(self, request: AlterShareGroupOffsetsRequest) -> None:
        response = await self.world.handle(0, request)
        rows = [
            f"{topic.topic_name}-{row.partition_index}:{ErrorCode(row.error_code).name}"
            for topic in response.responses
            for row in topic.partitions
        ]
        self.say(f"alter: {' '.join([ErrorCode(response.error_code).name, *rows])}")

    async def do_delete_share_offsets(self, plain: list[str], options: dict[str, str]) -> None:
        request = DeleteShareGroupOffsetsRequest(
            group_id="" if plain[0] == "none" else plain[0],
            topics=[DeleteShareGroupOffsetsRequestTopic(topic_name=name) for name in plain[1:]],
        )
        self.later(self.deleted(request))

    async def deleted(self, request: DeleteShareGroupOffsetsRequest) -> None:
        response = await self.world.handle(0, request)
        rows = [f"{topic.topic_name}:{ErrorCode(topic.error_code).name}" for topic in response.responses]
        self.say(f"delete: {' '.join([ErrorCode(response.error_code).name, *rows])}")

    async def do_delete_groups(self, plain: list[str], options: dict[str, str]) -> None:
        # It may wait for the share coordinator.
        self.later(super().do_delete_groups(plain, options))

    # ----------------------------------------------------------------- records

    def record_text(self, key: Any, value: Any, version: int) -> str:
        if not type(key).__name__.startswith("ShareGroup"):
            return super().record_text(key, value, version)
        kind = type(key).__name__.removeprefix("ShareGroup").removesuffix("Key")
        name = f"{kind} {key.group_id}" + (f" {key.member_id}" if hasattr(key, "member_id") else "")
        if value is None:
            return f"{name} deleted"
        if isinstance(value, written.ShareGroupMetadataValue):
            return f"{name} epoch={value.epoch}"
        if isinstance(value, written.ShareGroupMemberMetadataValue):
            return f"{name} topics={','.join(value.subscribed_topic_names)}"
        if isinstance(value, written.ShareGroupTargetAssignmentMetadataValue):
            return f"{name} epoch={value.assignment_epoch} at={value.assignment_timestamp and 'known'}"
        if isinstance(value, written.ShareGroupTargetAssignmentMemberValue):
            return f"{name} {self.shown(value.topic_partitions)}"
        if isinstance(value, written.ShareGroupCurrentMemberAssignmentValue):
            return (
                f"{name} epoch={value.member_epoch} was={value.previous_member_epoch} state={value.state} "
                f"{self.shown(value.assigned_partitions)}"
            )
        assert isinstance(value, written.ShareGroupStatePartitionMetadataValue)
        deleting = ",".join(each.topic_name for each in value.deleting_topics) or "none"
        return (
            f"{name} initializing={self.shown(value.initializing_topics)} "
            f"initialized={self.shown(value.initialized_topics)} deleting={deleting}"
        )


def share_config(words: list[str]) -> GroupConfig:
    """Return the configuration that the first line of a transcript may give: the broker's own values."""
    config = GroupConfig()
    config = replace(config, share_assignment_interval_ms=config.share_assignment_interval_ms._replace(value=0))
    for word in words:
        key, _, text = word.partition("=")
        number = milliseconds(text) if text[-1] in "smhd" else int(text)
        setting = getattr(config, f"share_{key}")
        value: Any = number if isinstance(setting, int) else setting._replace(value=number)
        changes: dict[str, Any] = {f"share_{key}": value}
        config = replace(config, **changes)
    return config
