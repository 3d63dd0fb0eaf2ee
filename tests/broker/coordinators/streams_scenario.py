"""The commands of transcripts about streams groups (tests/scenarios/streams/*.txt), beside those of `scenario`.

topology NAME [epoch=N] ID:KIND=TOPIC+TOPIC,... ...
    the parts of a topology. KIND is `reads`, `writes` (repartition topics), `from` (repartition topics that it reads),
    `log` (changelogs), `together` (a copartition group). TOPIC may be NAME*PARTITIONS or NAME/REPLICATION-FACTOR.
beat C [topology= epoch= process= instance= member= owned=0-1,.. | owned=all rebalance= endpoint=host:port tags=k:v
        offsets=0-1@5,.. shutdown=yes group= v=]
    a heartbeat: with a topology, of a member that joins; `owned` says what it has (`all`: what it was given).
leave C [epoch=-2 shutdown=yes]
describe-streams GROUP         group-config GROUP KEY=VALUE...
commit-as C TOPIC-P=OFFSET... [epoch= member= v=]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.broker.coordinators.scenario import Client, Scenario, milliseconds

from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.streams.config import StreamsConfig
from ottla.broker.coordinators.groups.streams.internal_topics import StatusCode
from ottla.cluster.image import GROUPS, ConfigResource, ImageDelta
from ottla.errors import ErrorCode
from ottla.protocol.messages import group_records as written
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.streams_group_describe import StreamsGroupDescribeRequest
from ottla.protocol.messages.streams_group_heartbeat import (
    CopartitionGroup,
    Endpoint,
    KeyValue,
    StreamsGroupHeartbeatRequest,
    StreamsGroupHeartbeatResponse,
    Subtopology,
    TaskIds,
    TaskOffset,
    TopicInfo,
    Topology,
)


def topic_info(text: str) -> TopicInfo:
    name, _, factor = text.partition("/")
    name, _, partitions = name.partition("*")
    return TopicInfo(name=name, partitions=int(partitions or 0), replication_factor=int(factor or 0))


def topology_of(words: list[str], epoch: int = 0) -> Topology:
    """Return what `0:reads=a+b,writes=c 1:from=c,log=d` says."""
    parts = []
    for word in words:
        subtopology_id, _, rest = word.partition(":")
        part = Subtopology(subtopology_id=subtopology_id)
        for kind, _, names in (each.partition("=") for each in rest.split(",")):
            topics = names.split("+")
            if kind == "reads":
                part.source_topics = topics
            elif kind == "writes":
                part.repartition_sink_topics = topics
            elif kind == "from":
                part.repartition_source_topics = [topic_info(topic) for topic in topics]
            elif kind == "log":
                part.state_changelog_topics = [topic_info(topic) for topic in topics]
            else:
                assert kind == "together"
                own = [topic.name for topic in part.repartition_source_topics]
                part.copartition_groups.append(
                    CopartitionGroup(
                        source_topics=[part.source_topics.index(name) for name in topics if name in part.source_topics],
                        repartition_source_topics=[own.index(name) for name in topics if name in own],
                    )
                )
        parts.append(part)
    return Topology(epoch=epoch, subtopologies=parts)


def tasks_of(text: str) -> list[TaskIds]:
    found: dict[str, list[int]] = {}
    for task in text.split(","):
        if task:
            name, _, partition = task.rpartition("-")
            found.setdefault(name, []).append(int(partition))
    return [TaskIds(subtopology_id=name, partitions=partitions) for name, partitions in found.items()]


def shown(tasks: Any) -> str:
    return ",".join(f"{ids.subtopology_id}-{partition}" for ids in tasks for partition in ids.partitions) or "none"


class StreamsScenario(Scenario):
    """Runs transcripts about streams groups."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.topologies: dict[str, Topology] = {}

    async def do_topology(self, plain: list[str], options: dict[str, str]) -> None:
        self.topologies[plain[0]] = topology_of(plain[1:], int(options.get("epoch", "0")))

    async def do_group_config(self, plain: list[str], options: dict[str, str]) -> None:
        overrides = dict(word.split("=", 1) for word in (*plain[1:], *(f"{k}={v}" for k, v in options.items())))
        resource = ConfigResource(GROUPS, plain[0])
        self.world.image = replace(self.world.image, configs={**self.world.image.configs, resource: overrides})
        self.world.runtime.on_image(self.world.image, ImageDelta(changed_configs=(resource,)))

    async def do_beat(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        client.options.update(
            {
                key: value
                for key, value in options.items()
                if key in ("process", "instance", "endpoint", "tags", "group")
            }
        )
        joins = "topology" in options
        if joins:
            client.member_id = options.get("member", client.member_id or client.name)
            client.options["active"] = client.options["standby"] = ""
        client.group = client.options.get("group", "g")
        owned = options.get("owned", "" if joins else None)
        active, standby = (owned, "") if owned != "all" else (client.options["active"], client.options["standby"])
        endpoint = client.options.get("endpoint")
        host, _, port = (endpoint or "").partition(":")
        request = StreamsGroupHeartbeatRequest(
            group_id=client.group,
            member_id=options.get("member", client.member_id or client.name),
            member_epoch=int(options.get("epoch", "0" if joins else str(client.generation))),
            endpoint_information_epoch=int(client.options.get("endpoints", "-1" if endpoint else "0")),
            instance_id=client.options.get("instance"),
            rebalance_timeout_ms=milliseconds(options.get("rebalance", "60s")) if joins else -1,
            topology=self.topologies[options["topology"]] if joins else None,
            active_tasks=None if active is None else tasks_of(active),
            standby_tasks=None if active is None else tasks_of(standby),
            warmup_tasks=None if active is None else [],
            process_id=client.options.get("process", f"p-{client.name}") if joins else None,
            user_endpoint=Endpoint(host=host, port=int(port)) if joins and endpoint else None,
            client_tags=[
                KeyValue(key=key, value=value)
                for key, _, value in (tag.partition(":") for tag in client.options.get("tags", "").split(",") if tag)
            ]
            if joins
            else None,
            shutdown_application=options.get("shutdown") == "yes",
        )
        if "offsets" in options:
            request.task_offsets = [
                TaskOffset(subtopology_id=name, partition=int(partition), offset=int(offset))
                for task, _, offset in (each.partition("@") for each in options["offsets"].split(","))
                for name, _, partition in [task.partition("-")]
            ]
        self.later(self.beat(client, int(options.get("v", "1")), request))

    async def beat(self, client: Client, version: int, request: StreamsGroupHeartbeatRequest) -> None:
        response: StreamsGroupHeartbeatResponse = await self.world.handle(version, request, client.name)
        code = ErrorCode(response.error_code)
        if code != ErrorCode.NONE:
            self.say(f"{client.name}: {code.name} {response.error_message or ''}".rstrip())
            return
        client.generation = response.member_epoch
        client.options["endpoints"] = str(response.endpoint_information_epoch)
        parts = [f"epoch={response.member_epoch}"]
        if response.active_tasks is not None and response.standby_tasks is not None:
            client.options["active"] = shown(response.active_tasks).replace("none", "")
            client.options["standby"] = shown(response.standby_tasks).replace("none", "")
            parts.append(f"active={shown(response.active_tasks)}")
            if response.standby_tasks:
                parts.append(f"standby={shown(response.standby_tasks)}")
        for place in response.partitions_by_user_endpoint or ():
            has = [f"{each.topic}:{','.join(map(str, each.partitions))}" for each in place.active_partitions]
            copies = [f"{each.topic}:{','.join(map(str, each.partitions))}" for each in place.standby_partitions]
            text = " ".join(has) + (f" copies {' '.join(copies)}" if copies else "")
            parts.append(f"[{place.user_endpoint.host}:{place.user_endpoint.port} {text or 'nothing'}]")
        self.say(f"{client.name}: " + " ".join(parts))
        for status in response.status or ():
            self.say(f"  {StatusCode(status.status_code).name}: {status.status_detail}")

    async def do_leave(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        request = StreamsGroupHeartbeatRequest(
            group_id=client.group,
            member_id=options.get("member", client.member_id),
            member_epoch=int(options.get("epoch", "-1")),
            instance_id=client.options.get("instance"),
            shutdown_application=options.get("shutdown") == "yes",
        )
        self.later(self.beat(client, 1, request))

    async def do_describe_streams(self, plain: list[str], options: dict[str, str]) -> None:
        response = await self.world.handle(1, StreamsGroupDescribeRequest(group_ids=plain))
        for group in response.groups:
            if group.error_code:
                self.say(f"{group.group_id}: {ErrorCode(group.error_code).name} {group.error_message}")
                continue
            self.say(f"{group.group_id}: {group.group_state} epoch={group.group_epoch} target={group.assignment_epoch}")
            for part in group.topology.subtopologies:
                topics = [f"{each.name}:{each.partitions}" for each in part.repartition_source_topics]
                changelogs = [f"{each.name}:{each.partitions}" for each in part.state_changelog_topics]
                self.say(
                    f"  {part.subtopology_id}: reads {' '.join([*part.source_topics, *topics])}"
                    + (f" writes {' '.join(part.repartition_sink_topics)}" if part.repartition_sink_topics else "")
                    + (f" logs {' '.join(changelogs)}" if changelogs else "")
                )
            for member in group.members:
                has, gets = member.assignment, member.target_assignment
                self.say(
                    f"  {member.member_id}: epoch={member.member_epoch} active={shown(has.active_tasks)}"
                    f" standby={shown(has.standby_tasks)} target={shown(gets.active_tasks)}/{shown(gets.standby_tasks)}"
                )

    async def do_commit_as(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        version = int(options.get("v", "9"))
        topics = []
        for word in plain[1:]:
            place, _, offset = word.partition("=")
            name, _, partition = place.rpartition("-")
            row = OffsetCommitRequestPartition(partition_index=int(partition), committed_offset=int(offset))
            topics.append(OffsetCommitRequestTopic(name=name, partitions=[row]))
        request = OffsetCommitRequest(
            group_id=client.group,
            generation_id_or_member_epoch=int(options.get("epoch", client.generation)),
            member_id=options.get("member", client.member_id),
            topics=topics,
        )
        response = await self.world.handle(version, request)
        codes = [ErrorCode(row.error_code).name for topic in response.topics for row in topic.partitions]
        self.say(f"{client.name} commit: {' '.join(codes)}")

    def record_text(self, key: Any, value: Any, version: int) -> str:
        kind = type(key).__name__.removeprefix("StreamsGroup").removesuffix("Key")
        if not type(key).__name__.startswith("StreamsGroup"):
            return super().record_text(key, value, version)
        name = f"{kind} {key.group_id}" + (f" {key.member_id}" if hasattr(key, "member_id") else "")
        if value is None:
            return f"{name} deleted"
        if isinstance(value, written.StreamsGroupMetadataValue):
            return f"{name} epoch={value.epoch} validated={value.validated_topology_epoch}"
        if isinstance(value, written.StreamsGroupTargetAssignmentMetadataValue):
            return f"{name} epoch={value.assignment_epoch}"
        if isinstance(value, written.StreamsGroupCurrentMemberAssignmentValue):
            epochs = [epoch for ids in value.active_tasks for epoch in ids.assignment_epochs or ()]
            return (
                f"{name} epoch={value.member_epoch} was={value.previous_member_epoch} state={value.state} "
                f"active={shown(value.active_tasks)}@{','.join(map(str, epochs)) or '-'} "
                f"standby={shown(value.standby_tasks)} revoking={shown(value.active_tasks_pending_revocation)}"
            )
        if isinstance(value, written.StreamsGroupTargetAssignmentMemberValue):
            return f"{name} active={shown(value.active_tasks)} standby={shown(value.standby_tasks)}"
        return name


def streams_config(words: list[str]) -> GroupConfig:
    """Return the configuration that the first line of a transcript may give."""
    values: dict[str, Any] = {"initial_rebalance_delay_ms": 0, "assignment_interval_ms": 0}
    for word in words:
        key, _, text = word.partition("=")
        values[key] = milliseconds(text) if text[-1] in "smhd" else int(text)
    return GroupConfig(streams=StreamsConfig(**values))
