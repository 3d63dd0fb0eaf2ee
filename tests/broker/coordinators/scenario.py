"""A small interpreter for transcripts of group protocols (tests/scenarios/groups/*.txt).

A transcript is made of commands (`> ...`), each followed by what must come of it: answers in the order of their arrival. An
answer may come during a later command. Lines that begin with `#` are prose. In `advance`, answers carry the time since the
start. Member ids are shown by the name of the client that got them, `i-?` if it has not heard of it yet; a second id of
client `a` is `a#2`.

    config KEY=VALUE...            GroupConfig, first command only; times as 3s or 250ms
    topics NAME:PARTITIONS...      delete-topic NAME
    join C [group= v= session= rebalance= type= protocols=range,... topics=t,... instance= member= client=]
    sync C [C=ASSIGNMENT... | none] [generation= member= protocol= type= v=]
    heartbeat C [generation= member=]      leave C... [instance= v=]
    commit C TOPIC-P=OFFSET... [generation= member= metadata= leader-epoch= retention= v=]
    commit-simple GROUP TOPIC-P=OFFSET...  fetch GROUP TOPIC-P... [stable v=]      fetch-all GROUP [stable v=]
    delete-offsets GROUP TOPIC-P...        delete-groups GROUP...
    describe GROUP [v=]            list [states=..] [types=..]
    advance 3s                     hold | release        fail CODE [written]
    reload                         compact               records (written since the last `records`)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from tests.broker.coordinators.group_world import GroupWorld

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.errors import ErrorCode, error_for
from ottla.protocol.codec import encode
from ottla.protocol.messages.consumer_protocol import ConsumerProtocolSubscription
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.group_records import (
    GroupMetadataKey,
    GroupMetadataValue,
    OffsetCommitKey,
    OffsetCommitValue,
)
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def subscription(topics: list[str]) -> bytes:
    """Return a consumer's metadata, version 0."""
    return b"\0\0" + encode(ConsumerProtocolSubscription(topics=topics), 0)


def milliseconds(text: str) -> int:
    """Return what `3s`, `250ms`, `10m`, `2h` or `7d` means."""
    match = re.fullmatch(r"(-?\d+)(ms|s|m|h|d)", text)
    assert match, f"no time: {text}"
    return int(match[1]) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[match[2]]


class Client:
    """What a client remembers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.member_id = ""
        self.generation = -1
        self.group = "g"
        self.options: dict[str, str] = {}
        self.protocol = "range"


class Scenario:
    """Runs the commands of one transcript and collects what comes of them."""

    def __init__(self, world: GroupWorld) -> None:
        self.world = world
        self.clients: dict[str, Client] = {}
        self.names: dict[str, str] = {}
        self.output: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.shown_records = 0
        self.shows_time = False

    async def run(self, line: str) -> list[str]:
        """Run one command; return the lines it caused."""
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if re.match(r"[a-z][a-z-]*=", word) and command != "sync")
        if command == "sync":
            known = ("generation=", "member=", "protocol=", "type=", "v=")
            options = dict(word.split("=", 1) for word in words if word.startswith(known))
        plain = [word for word in words if word.partition("=")[0] not in options]
        await getattr(self, "do_" + command.replace("-", "_"))(plain, options)
        await self.world.settle()
        output, self.output = self.output, []
        return output

    def say(self, text: str) -> None:
        stamp = f"{self.world.loop.time():g}s " if self.shows_time else ""
        self.output.append(stamp + text)

    def client(self, name: str) -> Client:
        return self.clients.setdefault(name, Client(name))

    def name_of(self, member_id: str) -> str:
        return self.names.get(member_id) or re.sub(r"-[0-9a-f]{8}-.*", "-?", member_id) or "-"

    def learn(self, client: Client, member_id: str) -> None:
        if member_id and member_id not in self.names:
            number = sum(1 for name in self.names.values() if name.split("#")[0] == client.name) + 1
            self.names[member_id] = client.name if number == 1 else f"{client.name}#{number}"
        client.member_id = member_id

    def member_id(self, client: Client, options: dict[str, str]) -> str:
        told = options.get("member")
        if told is None:
            return client.member_id
        for member_id, name in self.names.items():
            if name == told:
                return member_id
        return "" if told == "none" else told

    def later(self, what: Any) -> None:
        task = asyncio.ensure_future(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # ------------------------------------------------------------ surroundings

    async def do_topics(self, plain: list[str], options: dict[str, str]) -> None:
        for word in plain:
            name, _, count = word.partition(":")
            self.world.add_topic(name, len(self.world.image.topics) + 1, int(count or 1))

    async def do_delete_topic(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.delete_topic(plain[0])

    async def do_advance(self, plain: list[str], options: dict[str, str]) -> None:
        self.shows_time = True
        await asyncio.sleep(milliseconds(plain[0]) / 1000)
        await self.world.settle()
        self.shows_time = False

    async def do_hold(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.log.hold = True

    async def do_release(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.log.hold = False
        self.world.log.release()

    async def do_fail(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.log.failures.append((error_for(ErrorCode[plain[0]]), "written" in plain))

    async def do_reload(self, plain: list[str], options: dict[str, str]) -> None:
        await self.world.reload()

    async def do_compact(self, plain: list[str], options: dict[str, str]) -> None:
        self.world.log.compact(0)

    async def do_records(self, plain: list[str], options: dict[str, str]) -> None:
        written = self.world.log.records(0)
        for record in written[self.shown_records :]:
            assert record.key is not None
            decoded = records.decode(record.key, record.value)
            assert decoded is not None
            self.say(self.record_text(decoded.key, decoded.value, decoded.value_version))
        self.shown_records = len(written)

    def record_text(self, key: Any, value: Any, version: int) -> str:
        if isinstance(key, OffsetCommitKey):
            name = f"offset {key.group} {key.topic}-{key.partition}"
            if isinstance(value, OffsetCommitValue):
                expiry = "" if value.expire_timestamp == -1 else " with expiry"
                return f"{name}={value.offset} v{version}{expiry}"
            return f"{name} deleted"
        assert isinstance(key, GroupMetadataKey)
        if not isinstance(value, GroupMetadataValue):
            return f"group {key.group} deleted"
        members = " ".join(f"{self.name_of(each.member_id)}={each.assignment.decode()}" for each in value.members)
        return (
            f"group {key.group} v{version} type={value.protocol_type or '-'} generation={value.generation} "
            f"protocol={value.protocol or '-'} leader={self.name_of(value.leader or '')} members=[{members}]"
        )

    # -------------------------------------------------------------- membership

    async def do_join(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        client.options.update({key: value for key, value in options.items() if key != "member"})
        settings = client.options
        client.group = settings.get("group", "g")
        topics = settings.get("topics", "orders").split(",")
        request = JoinGroupRequest(
            group_id="" if client.group == "none" else client.group,
            member_id=self.member_id(client, options),
            group_instance_id=settings.get("instance"),
            session_timeout_ms=milliseconds(settings.get("session", "10s")),
            rebalance_timeout_ms=milliseconds(settings.get("rebalance", "60s")),
            protocol_type=settings.get("type", "consumer"),
            protocols=[
                JoinGroupRequestProtocol(name=name, metadata=subscription(topics))
                for name in settings.get("protocols", "range").split(",")
                if name != "none"
            ],
        )
        self.later(self.join(client, int(settings.get("v", "9")), request))

    async def join(self, client: Client, version: int, request: JoinGroupRequest) -> None:
        response = await self.world.handle(version, request, client.options.get("client", client.name))
        code = ErrorCode(response.error_code)
        if code == ErrorCode.MEMBER_ID_REQUIRED:
            self.learn(client, response.member_id)
        if code != ErrorCode.NONE:
            self.say(f"{client.name} join: {code.name}")
            return
        self.learn(client, response.member_id)
        client.generation = response.generation_id
        client.protocol = response.protocol_name
        members = " ".join(self.name_of(member.member_id) for member in response.members)
        self.say(
            f"{client.name} join: generation={response.generation_id} protocol={response.protocol_name} "
            f"leader={self.name_of(response.leader)}"
            + (f" members=[{members}]" if response.members else "")
            + (" skip-assignment" if response.skip_assignment else "")
        )

    async def do_sync(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        assignments = [word.split("=", 1) for word in plain[1:] if "=" in word]
        ids = {name: member_id for member_id, name in self.names.items()}
        version = int(options.get("v", "5"))
        request = SyncGroupRequest(
            group_id=client.group,
            generation_id=int(options.get("generation", client.generation)),
            member_id=self.member_id(client, options),
            group_instance_id=client.options.get("instance"),
            protocol_type=options.get("type", "consumer") if version >= 5 else None,
            protocol_name=options.get("protocol", client.protocol) if version >= 5 else None,
            assignments=[
                SyncGroupRequestAssignment(member_id=ids.get(name, name), assignment=assignment.encode())
                for name, assignment in assignments
            ],
        )
        self.later(self.sync(client, version, request))

    async def sync(self, client: Client, version: int, request: SyncGroupRequest) -> None:
        response = await self.world.handle(version, request)
        code = ErrorCode(response.error_code)
        text = f"assignment={response.assignment.decode() or '-'}" if code == ErrorCode.NONE else code.name
        self.say(f"{client.name} sync: {text}")

    async def do_heartbeat(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        response = await self.world.handle(
            4,
            HeartbeatRequest(
                group_id=client.group,
                generation_id=int(options.get("generation", client.generation)),
                member_id=self.member_id(client, options),
                group_instance_id=client.options.get("instance"),
            ),
        )
        self.say(f"{client.name} heartbeat: {ErrorCode(response.error_code).name}")

    async def do_leave(self, plain: list[str], options: dict[str, str]) -> None:
        version = int(options.get("v", "5"))
        clients = [self.client(name) for name in plain]
        members = [MemberIdentity(member_id=self.member_id(client, options)) for client in clients]
        if "instance" in options:
            members.append(MemberIdentity(member_id="", group_instance_id=options["instance"]))
        group = clients[0].group if clients else options.get("group", "g")
        request = LeaveGroupRequest(group_id=group, members=members)
        if version < 3:
            request = LeaveGroupRequest(group_id=group, member_id=members[0].member_id)
        response = await self.world.handle(version, request)
        codes = [ErrorCode(member.error_code).name for member in response.members]
        self.say(f"leave: {' '.join([ErrorCode(response.error_code).name, *codes])}")

    # ----------------------------------------------------------------- offsets

    def partitions(self, plain: list[str]) -> list[tuple[str, int, int]]:
        found = []
        for word in plain:
            match = re.fullmatch(r"(.+)-(\d+)(?:=(\d+))?", word)
            assert match, f"no partition: {word}"
            found.append((match[1], int(match[2]), int(match[3] or -1)))
        return found

    async def do_commit(self, plain: list[str], options: dict[str, str]) -> None:
        client = self.client(plain[0])
        await self.commit(
            client.name,
            client.group,
            plain[1:],
            options,
            int(options.get("generation", client.generation)),
            self.member_id(client, options),
            client.options.get("instance"),
        )

    async def do_commit_simple(self, plain: list[str], options: dict[str, str]) -> None:
        await self.commit("simple", plain[0], plain[1:], options, -1, "", None)

    async def commit(
        self,
        name: str,
        group: str,
        plain: list[str],
        options: dict[str, str],
        generation: int,
        member_id: str,
        instance: str | None,
    ) -> None:
        version = int(options.get("v", "9"))
        topics = self.world.image.topics
        request = OffsetCommitRequest(
            group_id="" if group == "none" else group,
            generation_id_or_member_epoch=generation,
            member_id=member_id,
            group_instance_id=instance,
            retention_time_ms=milliseconds(options["retention"]) if "retention" in options else -1,
            topics=[
                OffsetCommitRequestTopic(
                    name=topic,
                    topic_id=topics[topic].topic_id if topic in topics else b"?" * 16,
                    partitions=[
                        OffsetCommitRequestPartition(
                            partition_index=partition,
                            committed_offset=offset,
                            committed_leader_epoch=int(options.get("leader-epoch", "-1")),
                            committed_metadata="x" * int(options["size"])
                            if "size" in options
                            else options.get("metadata"),
                        )
                    ],
                )
                for topic, partition, offset in self.partitions(plain)
            ],
        )
        self.later(self.committed(name, version, request))

    async def committed(self, name: str, version: int, request: OffsetCommitRequest) -> None:
        response = await self.world.handle(version, request)
        codes = [ErrorCode(row.error_code).name for topic in response.topics for row in topic.partitions]
        self.say(f"{name} commit: {' '.join(codes)}")

    async def do_fetch(self, plain: list[str], options: dict[str, str]) -> None:
        topics = self.world.image.topics
        await self.fetch(
            plain,
            options,
            [
                OffsetFetchRequestTopics(
                    name=topic,
                    topic_id=topics[topic].topic_id if topic in topics else b"?" * 16,
                    partition_indexes=[partition],
                )
                for topic, partition, _ in self.partitions([word for word in plain[1:] if word != "stable"])
            ],
        )

    async def do_fetch_all(self, plain: list[str], options: dict[str, str]) -> None:
        await self.fetch(plain, options, None)

    async def fetch(
        self, plain: list[str], options: dict[str, str], topics: list[OffsetFetchRequestTopics] | None
    ) -> None:
        request = OffsetFetchRequest(
            groups=[OffsetFetchRequestGroup(group_id=plain[0], topics=topics)], require_stable="stable" in plain
        )
        self.later(self.fetched(int(options.get("v", "9")), request))

    async def fetched(self, version: int, request: OffsetFetchRequest) -> None:
        response = await self.world.handle(version, request)
        for group in response.groups:
            if group.error_code:
                self.say(f"fetch {group.group_id}: {ErrorCode(group.error_code).name}")
                continue
            rows = []
            for topic in group.topics:
                name = topic.name
                for row in topic.partitions:
                    text = f"{name}-{row.partition_index}={row.committed_offset}"
                    if row.committed_leader_epoch != -1:
                        text += f"@{row.committed_leader_epoch}"
                    if row.metadata:
                        text += f"({row.metadata})"
                    if row.error_code:
                        text = f"{name or '?'}-{row.partition_index}:{ErrorCode(row.error_code).name}"
                    rows.append(text)
            self.say(f"fetch {group.group_id}: {' '.join(rows) or 'nothing'}")

    async def do_delete_offsets(self, plain: list[str], options: dict[str, str]) -> None:
        response = await self.world.handle(
            0,
            OffsetDeleteRequest(
                group_id=plain[0],
                topics=[
                    OffsetDeleteRequestTopic(
                        name=topic, partitions=[OffsetDeleteRequestPartition(partition_index=index)]
                    )
                    for topic, index, _ in self.partitions(plain[1:])
                ],
            ),
        )
        codes = [ErrorCode(row.error_code).name for topic in response.topics for row in topic.partitions]
        self.say(f"delete-offsets: {' '.join([ErrorCode(response.error_code).name, *codes])}")

    # ---------------------------------------------------------- administration

    async def do_delete_groups(self, plain: list[str], options: dict[str, str]) -> None:
        response = await self.world.handle(3, DeleteGroupsRequest(groups_names=plain))
        self.say("delete-groups: " + " ".join(f"{r.group_id}={ErrorCode(r.error_code).name}" for r in response.results))

    async def do_describe(self, plain: list[str], options: dict[str, str]) -> None:
        response = await self.world.handle(int(options.get("v", "6")), DescribeGroupsRequest(groups=plain))
        for group in response.groups:
            error = f" {ErrorCode(group.error_code).name}" if group.error_code else ""
            self.say(
                f"{group.group_id}: {group.group_state}{error} type={group.protocol_type or '-'} "
                f"protocol={group.protocol_data or '-'}"
            )
            for member in group.members:
                instance = f" instance={member.group_instance_id}" if member.group_instance_id else ""
                self.say(
                    f"  {self.name_of(member.member_id)}{instance} client={member.client_id} host={member.client_host} "
                    f"metadata={len(member.member_metadata)} assignment={member.member_assignment.decode() or '-'}"
                )

    async def do_list(self, plain: list[str], options: dict[str, str]) -> None:
        response = await self.world.handle(
            5,
            ListGroupsRequest(
                states_filter=options["states"].split(",") if "states" in options else [],
                types_filter=options["types"].split(",") if "types" in options else [],
            ),
        )
        groups = [f"{g.group_id}({g.group_state},{g.protocol_type or '-'},{g.group_type})" for g in response.groups]
        self.say("groups: " + (" ".join(groups) or "none"))


_STILL_WAITING = "# Requests still waiting at the end:"

Block = tuple[list[str], str, list[str]]


def parse(text: str) -> tuple[list[Block], list[str]]:
    """Split a transcript into (prose before, command, expected lines), and the prose at the end."""
    blocks: list[Block] = []
    prose: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            blocks.append((prose, line[2:], []))
            prose = []
        elif line.startswith(_STILL_WAITING):
            continue
        elif line.startswith("#") or not line.strip():
            prose.append(line)
        else:
            blocks[-1][2].append(line)
    return blocks, prose


def group_config(words: list[str]) -> GroupConfig:
    """Return the configuration that the first line of a transcript may give."""
    settings: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        settings[key] = milliseconds(value) if re.fullmatch(r"-?\d+(ms|s|m|h|d)", value) else int(value)
    return GroupConfig(**settings)


def play(
    text: str, make: type[Scenario] = Scenario, configure: Callable[[list[str]], GroupConfig] = group_config
) -> str:
    """Run a transcript; return it with what really came of each command."""
    blocks, epilogue = parse(text)
    given = blocks[0][1].split()[1:] if blocks and blocks[0][1].startswith("config ") else []

    async def run(loop: VirtualLoop) -> str:
        world = GroupWorld(loop, config=configure(given))
        await world.start()
        scenario = make(world)
        lines: list[str] = []
        for prose, command, _ in blocks:
            lines += [*prose, f"> {command}"]
            if not command.startswith("config "):
                lines += await scenario.run(command)
        left = len(scenario.tasks)
        await world.runtime.stop()
        await world.settle()
        lines += epilogue
        if left:
            lines.append(f"{_STILL_WAITING} {left}")
        return "\n".join(lines) + "\n"

    result, _ = run_virtual(1, run)
    return result
