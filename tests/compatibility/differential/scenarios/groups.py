"""Classic groups from FindCoordinator to DeleteGroups, and their offsets."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.script import newest, versions
from tests.compatibility.differential.wire import Pending, Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.consumer_protocol import ConsumerProtocolSubscription
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

JOIN, SYNC, HEARTBEAT, LEAVE = (
    newest(key) for key in (ApiKey.JOIN_GROUP, ApiKey.SYNC_GROUP, ApiKey.HEARTBEAT, ApiKey.LEAVE_GROUP)
)


def ready_coordinator(wire: Wire) -> None:
    """The first FindCoordinator makes Kafka create `__consumer_offsets`: wait for it outside the transcript."""

    def is_there() -> bool:
        answer = wire.ask(None, FindCoordinatorRequest(key="any"), 3, on="aside")
        if answer.error_code != "NONE":
            return False
        described = wire.ask(None, DescribeGroupsRequest(groups=[f"g{number}" for number in range(200)]), 5, on="aside")
        return all(group.error_code == "NONE" for group in described.groups)

    wire.settle("the offsets topic", is_there)


def subscription(*topics: str) -> bytes:
    """An embedded consumer subscription, version in front."""
    return b"\0\1" + encode(ConsumerProtocolSubscription(topics=list(topics)), 1)


class Group:
    """Requests about one group, with the fields that members usually send."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name

    def joining(
        self, label: str | None, version: int = JOIN, *, on: str = "main", member: str = "", **fields: Any
    ) -> Pending:
        protocols = fields.pop("protocols", [("range", subscription("t"))])
        defaults: dict[str, Any] = {
            "session_timeout_ms": 30_000,
            "rebalance_timeout_ms": 30_000,
            "protocol_type": "consumer",
            "group_id": self.name,
        }
        rows = [JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols]
        message = JoinGroupRequest(member_id=member, protocols=rows, **{**defaults, **fields})
        return self.wire.send(label, message, version, on=on)

    def join(
        self, label: str | None, version: int = JOIN, *, on: str = "main", member: str = "", **fields: Any
    ) -> Tree:
        return self.wire.receive(self.joining(label, version, on=on, member=member, **fields))

    def join_new(self, label: str, version: int = JOIN, *, on: str = "main", **fields: Any) -> Tree:
        """Join as a new member, in one step or two as the version asks."""
        first = self.join(f"{label}, first step", version, on=on, **fields)
        if first.get("error_code") != "MEMBER_ID_REQUIRED":
            return first
        return self.join(f"{label}, second step", version, on=on, member=first.member_id, **fields)

    def syncing(
        self, label: str | None, generation: int, member: str, assignments: dict[str, bytes] | None = None,
        version: int = SYNC, *, on: str = "main", **fields: Any,
    ) -> Pending:  # fmt: skip
        rows = [
            SyncGroupRequestAssignment(member_id=name, assignment=data) for name, data in (assignments or {}).items()
        ]
        names: dict[str, Any] = {"protocol_type": "consumer", "protocol_name": "range"} if version >= 5 else {}
        message = SyncGroupRequest(
            group_id=self.name, generation_id=generation, member_id=member, assignments=rows, **{**names, **fields}
        )
        return self.wire.send(label, message, version, on=on)

    def sync(self, label: str | None, generation: int, member: str, *args: Any, **fields: Any) -> Tree:
        return self.wire.receive(self.syncing(label, generation, member, *args, **fields))

    def heartbeat(self, label: str, generation: int, member: str, version: int = HEARTBEAT, **fields: Any) -> None:
        message = HeartbeatRequest(group_id=self.name, generation_id=generation, member_id=member, **fields)
        self.wire.ask(label, message, version)

    def await_rebalance(self, member: Tree) -> None:
        """Wait until a member's heartbeat says that others are joining (they travel on connections of their own)."""
        message = HeartbeatRequest(group_id=self.name, generation_id=member.generation_id, member_id=member.member_id)
        self.wire.settle(
            "a rebalance",
            lambda: self.wire.ask(None, message, HEARTBEAT, on="aside").error_code == "REBALANCE_IN_PROGRESS",
        )

    def leave(self, label: str | None, *members: str, version: int = LEAVE, instance: str | None = None) -> None:
        if version < 3:
            message = LeaveGroupRequest(group_id=self.name, member_id=members[0])
        else:
            rows = [MemberIdentity(member_id=member, group_instance_id=instance) for member in members]
            message = LeaveGroupRequest(group_id=self.name, members=rows)
        self.wire.ask(label, message, version)

    def describe(self, label: str, version: int = newest(ApiKey.DESCRIBE_GROUPS), **fields: Any) -> None:
        self.wire.ask(label, DescribeGroupsRequest(groups=[self.name], **fields), version)


def find_coordinator(wire: Wire) -> None:
    ready_coordinator(wire)
    for version in versions(ApiKey.FIND_COORDINATOR):
        for kind in (0, 2, 7, -1):
            for key in ("a-group", ""):
                if version == 0 and kind:
                    continue
                fields: dict[str, Any] = {"key": key} if version < 4 else {"coordinator_keys": [key]}
                wire.ask(f"kind {kind}, key {key!r}", FindCoordinatorRequest(key_type=kind, **fields), version)
        if version >= 4:
            wire.ask("three keys", FindCoordinatorRequest(coordinator_keys=["a", "b", "a"]), version)
            wire.ask("no keys", FindCoordinatorRequest(), version)


def one_member_in_every_version(wire: Wire) -> None:
    ready_coordinator(wire)
    for version in versions(ApiKey.JOIN_GROUP):
        group = Group(wire, f"group-join-{version}")
        joined = group.join_new("a member alone", version, protocols=[("range", b"\0\1"), ("sticky", b"\0\2")])
        member, generation = joined.member_id, joined.generation_id
        sync, beat, leave = min(version, SYNC), min(version, HEARTBEAT), min(version, LEAVE)
        group.heartbeat(f"{group.name}: before sync", generation, member, beat)
        group.sync(f"{group.name}: the leader's assignment", generation, member, {member: b"\0\x0a"}, sync)
        group.sync(f"{group.name}: sync again", generation, member, {}, sync)
        group.heartbeat(f"{group.name}: stable", generation, member, beat)
        group.heartbeat(f"{group.name}: old generation", generation - 1, member, beat)
        group.heartbeat(f"{group.name}: future generation", generation + 1, member, beat)
        group.heartbeat(f"{group.name}: unknown member", generation, "nobody", beat)
        group.sync(f"{group.name}: sync of an old generation", generation - 1, member, {}, sync)
        group.sync(f"{group.name}: sync of an unknown member", generation, "nobody", {}, sync)
        group.join(f"{group.name}: unknown member", version, member="nobody")
        again = group.join(f"{group.name}: the leader again", version, member=member, protocols=[("range", b"\0\1")])
        group.sync(f"{group.name}: after rejoining", again.generation_id, member, {member: b"\0\x0b"}, sync)
        for described in versions(ApiKey.DESCRIBE_GROUPS):
            if version in (0, JOIN):
                group.describe(f"{group.name}: described", described)
        group.leave(f"{group.name}: unknown member leaves", "nobody", version=leave)
        group.leave(f"{group.name}: leaves", member, version=leave)
        group.leave(f"{group.name}: leaves again", member, version=leave)
        group.heartbeat(f"{group.name}: after leaving", again.generation_id, member, beat)
        group.describe(f"{group.name}: empty")


def refused_joins(wire: Wire) -> None:
    ready_coordinator(wire)
    for version in versions(ApiKey.JOIN_GROUP):
        group = Group(wire, f"group-refused-{version}")
        group.join("session timeout too short", version, session_timeout_ms=5_999)
        group.join("session timeout too long", version, session_timeout_ms=1_800_001)
        group.join("session timeout 0", version, session_timeout_ms=0)
        group.join("no protocols", version, protocols=[])
        group.join("no protocol type", version, protocol_type="")
        group.join("member id of nobody", version, member="nobody")
        group.join("empty group", version, group_id="")
        group.describe(f"{group.name}: never born")
        if version >= 5:
            group.join("an instance id that is no name", version, group_instance_id="no/name")
            empty = group.joining("an empty instance id", version, group_instance_id="")
            wire.receive(empty, patience_s=0.5)
            group.leave("the empty instance leaves", "", instance="")
            group.join("an instance with a member id", version, group_instance_id="i", member="nobody")
    for version in versions(ApiKey.SYNC_GROUP):
        Group(wire, "group-unborn").sync("unknown group", 1, "nobody", {}, version)
        Group(wire, "").sync("empty group", 1, "nobody", {}, version)
    for version in versions(ApiKey.HEARTBEAT):
        Group(wire, "group-unborn").heartbeat("unknown group", 1, "nobody", version)
        Group(wire, "").heartbeat("empty group", 1, "nobody", version)
    for version in versions(ApiKey.LEAVE_GROUP):
        Group(wire, "group-unborn").leave("unknown group", "nobody", version=version)
        Group(wire, "").leave("empty group", "nobody", version=version)


def two_members(wire: Wire) -> None:
    """1. A leads alone; 2. B joins, A is told and comes back; 3. both sync; 4. protocols clash; 5. B leaves, A rejoins."""
    ready_coordinator(wire)
    for version in (3, 5, JOIN):
        group = Group(wire, f"group-two-{version}")
        a = group.join_new("A", version, on="a")
        group.sync("A alone", a.generation_id, a.member_id, {a.member_id: b"all"}, on="a")
        member = group.join("B asks for an id", version, on="b").member_id if version >= 4 else ""
        waiting = group.joining("B waits for A", version, on="b", member=member)
        group.await_rebalance(a)
        joined_a = group.join("A comes back", version, on="a", member=a.member_id)
        joined_b = wire.receive(waiting)
        generation = joined_a.generation_id
        parked = group.syncing("B waits for the leader's sync", generation, joined_b.member_id, on="b")
        group.heartbeat("B's heartbeat while waiting", generation, joined_b.member_id)
        group.describe("completing", 5)
        group.sync(
            "A assigns", generation, joined_a.member_id, {joined_a.member_id: b"A", joined_b.member_id: b"B"}, on="a"
        )
        wire.receive(parked)
        group.describe("stable", 5)
        group.join("C of another type", version, on="c", protocol_type="connect", member="")
        group.join("C without a common protocol", version, on="c", protocols=[("exotic", b"x")])
        group.join("a follower again, unchanged", version, on="b", member=joined_b.member_id)
        group.sync("a follower syncs again", generation, joined_b.member_id, on="b")
        for wrong in ({"protocol_name": "sticky"}, {"protocol_type": "connect"}):
            group.sync(f"sync with {wrong}", generation, joined_b.member_id, **wrong)
        group.leave("B leaves", joined_b.member_id)
        group.heartbeat("A is told again", generation, joined_a.member_id)
        last = group.join("A alone again", version, on="a", member=joined_a.member_id)
        group.sync("A has all", last.generation_id, joined_a.member_id, {joined_a.member_id: b"all"}, on="a")
        wire.ask("deleting a living group", DeleteGroupsRequest(groups_names=[group.name]), 2)
        group.leave("A leaves", joined_a.member_id)
        group.describe("empty", 5)
        wire.ask("deleting it twice", DeleteGroupsRequest(groups_names=[group.name, group.name]), 2)
        wire.ask("deleting it again", DeleteGroupsRequest(groups_names=[group.name]), 2)


def static_members(wire: Wire) -> None:
    ready_coordinator(wire)
    for version in versions(ApiKey.JOIN_GROUP, 5):
        group = Group(wire, f"group-static-{version}")
        first = group.join("a static member", version, group_instance_id="one")
        generation = first.generation_id
        group.sync("assigned", generation, first.member_id, {first.member_id: b"all"}, group_instance_id="one")
        again = group.join("restarted", version, group_instance_id="one")
        group.heartbeat("the old incarnation", generation, first.member_id, group_instance_id="one")
        group.sync("the old incarnation syncs", generation, first.member_id, group_instance_id="one")
        group.join("the old incarnation joins", version, group_instance_id="one", member=first.member_id)
        group.heartbeat("the new incarnation", again.generation_id, again.member_id, group_instance_id="one")
        group.heartbeat("an unknown instance", again.generation_id, again.member_id, group_instance_id="two")
        group.sync("the new one's assignment", again.generation_id, again.member_id, group_instance_id="one")
        group.describe("described")
        changed = group.join(
            "restarted with another subscription", version, group_instance_id="one", protocols=[("range", b"new")]
        )
        group.sync(
            "assigned again",
            changed.generation_id,
            changed.member_id,
            {changed.member_id: b"x"},
            group_instance_id="one",
        )
        group.leave("leaving by an unknown instance", "", instance="two")
        group.leave("leaving by the wrong member id", "nobody", instance="one")
        group.leave("leaving by instance", "", instance="one")
        group.describe("gone")


def list_describe_delete(wire: Wire) -> None:
    ready_coordinator(wire)
    stable = Group(wire, "group-listed-stable")
    joined = stable.join_new("to be listed")
    stable.sync("to be listed", joined.generation_id, joined.member_id, {joined.member_id: b""})
    empty = Group(wire, "group-listed-empty")
    left = empty.join_new("to be listed")
    empty.sync("to be listed", left.generation_id, left.member_id, {left.member_id: b""})
    empty.leave("to be listed", left.member_id)
    for version in versions(ApiKey.LIST_GROUPS):
        wire.ask("all", ListGroupsRequest(), version)
        if version >= 4:
            for states in (["Stable"], ["empty"], ["STABLE", "Empty"], ["nonsense"], ["PreparingRebalance"]):
                wire.ask(f"states {states}", ListGroupsRequest(states_filter=states), version)
        if version >= 5:
            for kinds in (["classic"], ["Classic"], ["consumer"], ["nonsense"], ["share"]):
                wire.ask(f"types {kinds}", ListGroupsRequest(types_filter=kinds), version)
    for version in versions(ApiKey.DESCRIBE_GROUPS):
        for names in (["group-listed-stable", "group-listed-empty"], ["nobody"], [""], [], ["nobody", "nobody"]):
            wire.ask(f"describe {names}", DescribeGroupsRequest(groups=names), version)
        if version >= 3:
            message = DescribeGroupsRequest(groups=["group-listed-stable"], include_authorized_operations=True)
            wire.ask("with authorized operations", message, version)
    for version in versions(ApiKey.DELETE_GROUPS):
        for names in (["group-listed-stable"], ["nobody"], [""], [], ["nobody", "group-listed-stable"]):
            wire.ask(f"delete {names}", DeleteGroupsRequest(groups_names=names), version)
    wire.ask("delete the empty one", DeleteGroupsRequest(groups_names=["group-listed-empty"]), 2)
    empty.describe("deleted")
    stable.leave("clean up", joined.member_id)


SCENARIOS = [
    find_coordinator,
    one_member_in_every_version,
    refused_joins,
    two_members,
    static_members,
    list_describe_delete,
]
