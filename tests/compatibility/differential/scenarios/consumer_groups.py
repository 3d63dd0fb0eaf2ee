"""Groups of the consumer protocol (KIP-848): heartbeats, descriptions, offsets, and groups with members of both protocols."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.scenarios.groups import Group, ready_coordinator, subscription
from tests.compatibility.differential.scenarios.offsets import commit_request, fetch_request
from tests.compatibility.differential.scenarios.transactions import Transactional, ready_transactions
from tests.compatibility.differential.script import UNKNOWN_ID, create_topic, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from ottla.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, TopicPartitions
from ottla.protocol.messages.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
)
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from ottla.types import GROUP_METADATA_TOPIC, uuid_from_text

HEARTBEAT, DESCRIBE = newest(ApiKey.CONSUMER_GROUP_HEARTBEAT), newest(ApiKey.CONSUMER_GROUP_DESCRIBE)
TOPIC, OTHER = "consumed", "consumed-too"


class ConsumerGroup:
    """Requests about one group of the consumer protocol."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name

    def beat(
        self, label: str | None, member: str, epoch: int, version: int = HEARTBEAT,
        *, owned: dict[bytes, list[int]] | None = None, **fields: Any,
    ) -> Tree:  # fmt: skip
        rows = None if owned is None else [TopicPartitions(topic_id=key, partitions=of) for key, of in owned.items()]
        message = ConsumerGroupHeartbeatRequest(
            **{"group_id": self.name, "topic_partitions": rows, **fields}, member_id=member, member_epoch=epoch
        )
        return self.wire.ask(label, message, version, on="main" if label else "aside")

    def join(self, label: str | None, member: str, version: int = HEARTBEAT, *topics: str, **fields: Any) -> Tree:
        """A first heartbeat, with all that it must say unless `fields` says otherwise."""
        defaults: dict[str, Any] = {"rebalance_timeout_ms": 30_000, "subscribed_topic_names": list(topics) or [TOPIC]}
        return self.beat(label, member, 0, version, **{"owned": {}, **defaults, **fields})

    def settled(self, last: Tree, partitions: int, **fields: Any) -> int:
        """Beat, outside the transcript, from a member's `last` answer on until it has so many partitions; its epoch."""
        known: dict[bytes, list[int]] = {}
        answer = last

        def has_all() -> bool:
            nonlocal answer
            assert answer.error_code == "NONE", answer
            if answer.assignment is not None:
                known.clear()
                known.update(
                    {uuid_from_text(row.topic_id): row.partitions for row in answer.assignment.topic_partitions}
                )
            answer = self.beat(None, str(last.member_id), int(answer.member_epoch), owned=known, **fields)
            return sum(map(len, known.values())) == partitions and answer.assignment is None

        self.wire.settle(f"{last.member_id} has {partitions} partitions", has_all)
        return int(answer.member_epoch)

    def describe(self, label: str, version: int = DESCRIBE, *names: str, operations: bool = False) -> None:
        message = ConsumerGroupDescribeRequest(
            group_ids=list(names) or [self.name], include_authorized_operations=operations
        )
        self.wire.ask(label, message, version)


def prepared(wire: Wire) -> tuple[bytes, bytes]:
    """The ids of two topics, of 4 and 2 partitions, that the group coordinator knows."""
    ready_coordinator(wire)
    ids = create_topic(wire, TOPIC, 4), create_topic(wire, OTHER, 2)
    ready_coordinator(wire)
    wire.transcript.topic_ids[wire.topic_metadata(GROUP_METADATA_TOPIC).topic_id] = GROUP_METADATA_TOPIC
    return ids


def refused(wire: Wire) -> None:
    """Requests that are wrong in themselves: nothing comes into being."""
    topic_id, _ = prepared(wire)
    for version in versions(ApiKey.CONSUMER_GROUP_HEARTBEAT):
        group = ConsumerGroup(wire, f"consumers-refused-{version}")
        one = {topic_id: [0]}

        def join(
            label: str, member: str = "one", *, version: int = version, group: ConsumerGroup = group, **fields: Any
        ) -> None:
            group.join(label, member, version, **fields)

        def beat(
            label: str,
            epoch: int,
            member: str = "one",
            *,
            version: int = version,
            group: ConsumerGroup = group,
            **fields: Any,
        ) -> None:
            group.beat(label, member, epoch, version, **fields)

        for name in ("", " ", "\t"):
            join(f"group {name!r}", group_id=name)
            beat(f"group {name!r}, epoch 1", 1, group_id=name)
            join(f"member {name!r}, in group of its own", name, group_id=f"{group.name}-of{len(name)}{name == ' '}")
            beat(f"member {name!r}, epoch 1", 1, name)
            beat(f"member {name!r} leaves", -1, name)
            beat(f"member {name!r} leaves as static", -2, name, instance_id="i")
            join(f"instance {name!r}", instance_id=name)
            beat(f"instance {name!r}, epoch 1", 1, instance_id=name)
            join(f"rack {name!r}", rack_id=name)
            join(f"assignor {name!r}", server_assignor=name)
        for timeout in (-1, -2, 0, -2_147_483_648):
            join(
                f"rebalance timeout {timeout}", rebalance_timeout_ms=timeout, group_id=f"{group.name}-timeout{timeout}"
            )
        join("nothing owned said", owned=None)
        join("something owned", owned=one)
        join("no subscription", subscribed_topic_names=None)
        join("an empty subscription", subscribed_topic_names=[], group_id=f"{group.name}-nothing")
        join("an invalid topic name", subscribed_topic_names=["no/name"], group_id=f"{group.name}-names")
        join("an empty topic name", subscribed_topic_names=[""], group_id=f"{group.name}-names-1")
        join("a topic twice", subscribed_topic_names=[TOPIC, TOPIC], group_id=f"{group.name}-names-2")
        join("an unknown topic", subscribed_topic_names=["nowhere"], group_id=f"{group.name}-names-3")
        join("an internal topic", subscribed_topic_names=["__consumer_offsets"], group_id=f"{group.name}-names-4")
        for assignor in ("sticky", "Uniform", "uniform", "range"):
            join(f"assignor {assignor}", server_assignor=assignor, group_id=f"{group.name}-by-{assignor}")
            beat(f"assignor {assignor} of nobody", 1, server_assignor=assignor)
        for epoch in (1, 5, -1, -2, -3, -2_147_483_648, 2_147_483_647):
            beat(f"epoch {epoch} of an unknown group", epoch)
            beat(f"epoch {epoch} of an unknown group, with an instance", epoch, instance_id="i")
        for long in (249, 250, 4_096, 32_767):
            join(f"group of {long}", group_id="g" * long)
            join(f"member of {long}", "m" * long, group_id=f"{group.name}-long-{long}")
            join(f"instance of {long}", instance_id="i" * long, group_id=f"{group.name}-instance-{long}")
            join(f"rack of {long}", rack_id="r" * long, group_id=f"{group.name}-rack-{long}")
        if version >= 1:
            for pattern in (
                "",
                "consumed.*",
                "(",
                "*",
                "[",
                "a{1001}",
                "(?<name>x)",
                "x" * 10_000,
                "\\",
                "(?=x)",
                "a++",
            ):
                join(
                    f"pattern {pattern[:20]!r}",
                    subscribed_topic_names=None,
                    subscribed_topic_regex=pattern,
                    group_id=f"{group.name}-regex-{len(pattern)}-{pattern[:1].encode().hex()}",
                )
        group.describe("nothing has come of it")
        wire.ask("nothing has come of it", DescribeGroupsRequest(groups=[group.name]), newest(ApiKey.DESCRIBE_GROUPS))


def one_member(wire: Wire) -> None:
    """1. joins; 2. beats with every epoch; 3. changes its mind; 4. leaves; 5. comes back."""
    topic_id, other_id = prepared(wire)
    for version in versions(ApiKey.CONSUMER_GROUP_HEARTBEAT):
        group = ConsumerGroup(wire, f"consumers-one-{version}")

        def beat(
            label: str,
            epoch: int,
            member: str = "one",
            *,
            version: int = version,
            group: ConsumerGroup = group,
            **fields: Any,
        ) -> Tree:
            return group.beat(label, member, epoch, version, **fields)

        everything = {topic_id: [0, 1, 2, 3]}
        joined = group.join("joins", "one", version, rack_id="r")
        epoch = int(joined.get("member_epoch", 0))
        group.join("joins again", "one", version, rack_id="r")
        beat("says nothing", epoch)
        beat("says what it owns", epoch, owned=everything)
        beat("says nothing again", epoch)
        for described in versions(ApiKey.CONSUMER_GROUP_DESCRIBE):
            group.describe(f"{group.name}: stable", described, operations=True)
            group.describe(f"{group.name}: with others", described, group.name, "nobody", "", group.name)
        group.describe("asked for none", DESCRIBE)
        wire.ask("of no group", ConsumerGroupDescribeRequest(group_ids=[]), DESCRIBE)
        for wrong in (epoch - 1, epoch - 2, epoch + 1, epoch + 100, 2_147_483_647):
            beat(f"with its epoch {wrong - epoch:+}", wrong)
            beat(f"with its epoch {wrong - epoch:+}, owning all", wrong, owned=everything)
            beat(f"with its epoch {wrong - epoch:+}, owning another", wrong, owned={other_id: [0]})
        beat("an unknown member", epoch, "nobody")
        beat("an unknown member leaves", -1, "nobody")
        beat("an unknown static member leaves", -2, "nobody", instance_id="nobody")
        beat("leaves as static, but is not", -2, instance_id="i")
        beat("with an instance it never had", epoch, instance_id="i")
        beat("owns a partition that is not its own", epoch, owned={other_id: [0]})
        beat("owns a topic that is not there", epoch, owned={UNKNOWN_ID: [0]})
        beat("owns partition -1", epoch, owned={topic_id: [-1, 99]})
        beat("owns nothing", epoch, owned={})
        beat(
            "full again",
            epoch,
            owned=everything,
            rebalance_timeout_ms=30_000,
            subscribed_topic_names=[TOPIC],
            rack_id="r",
        )
        epoch = int(
            beat("subscribes to more", epoch, owned=everything, subscribed_topic_names=[TOPIC, OTHER]).get(
                "member_epoch", 0
            )
        )
        beat("the epoch before", epoch - 1, owned=everything)
        beat("the epoch before, owning what is new", epoch - 1, owned={**everything, other_id: [0, 1]})
        epoch = int(
            beat(
                "subscribes to less", epoch, owned={**everything, other_id: [0, 1]}, subscribed_topic_names=[OTHER]
            ).get("member_epoch", 0)
        )
        group.describe(f"{group.name}: gives up", DESCRIBE)
        epoch = int(beat("has given up", epoch, owned={other_id: [0, 1]}).get("member_epoch", 0))
        epoch = int(beat("subscribes to nothing", epoch, subscribed_topic_names=[]).get("member_epoch", 0))
        epoch = int(beat("owns nothing any more", epoch, owned={}).get("member_epoch", 0))
        epoch = int(beat("subscribes to the unknown", epoch, subscribed_topic_names=["nowhere"]).get("member_epoch", 0))
        epoch = int(beat("another rack", epoch, rack_id="s").get("member_epoch", 0))
        epoch = int(beat("another assignor", epoch, server_assignor="range").get("member_epoch", 0))
        epoch = int(beat("another rebalance timeout", epoch, rebalance_timeout_ms=45_000).get("member_epoch", 0))
        epoch = int(beat("subscribes again", epoch, subscribed_topic_names=[TOPIC]).get("member_epoch", 0))
        group.describe(f"{group.name}: by range", DESCRIBE)
        beat("leaves", -1)
        beat("leaves again", -1)
        beat("beats after leaving", epoch)
        group.describe(f"{group.name}: empty", DESCRIBE)
        wire.ask(f"{group.name}: described as classic", DescribeGroupsRequest(groups=[group.name]), 6)
        group.join("comes back", "one", version)
        group.beat(None, "one", -1)
    generated = ConsumerGroup(wire, "consumers-generated")
    joined = generated.join("is given a member id", "", 0)
    generated.beat("beats with it", str(joined.member_id), int(joined.member_epoch), 0)
    generated.beat("leaves with it", str(joined.member_id), -1, 0)


def two_members(wire: Wire) -> None:
    """A has all; B joins; A gives up; B gets; A leaves; B gets the rest. With each assignor."""
    topic_id, _ = prepared(wire)
    for assignor in (None, "uniform", "range"):
        group = ConsumerGroup(wire, f"consumers-two-{assignor}")

        def beat(label: str, member: str, epoch: int, *, group: ConsumerGroup = group, **fields: Any) -> int:
            return int(group.beat(f"{group.name}: {label}", member, epoch, **fields).get("member_epoch", 0))

        everything = {topic_id: [0, 1, 2, 3]}
        a = int(group.join(f"{group.name}: A joins", "a", HEARTBEAT, server_assignor=assignor).member_epoch)
        a = beat("A owns all", "a", a, owned=everything)
        b = int(group.join(f"{group.name}: B joins", "b", HEARTBEAT, server_assignor=assignor).member_epoch)
        beat("B waits", "b", b)
        group.describe(f"{group.name}: B waits for A")
        beat("A beats as if nothing were", "a", a)
        a = beat("A still owns all", "a", a, owned=everything)
        group.describe(f"{group.name}: A is told")
        beat("B waits, owning nothing", "b", b, owned={})
        a = beat("A owns half, but the wrong one", "a", a, owned={topic_id: [2, 3]})
        a = beat("A owns three", "a", a, owned={topic_id: [0, 1, 2]})
        a = beat("A owns half", "a", a, owned={topic_id: [0, 1]})
        group.describe(f"{group.name}: A has given up")
        b = beat("B beats", "b", b, owned={})
        b = beat("B owns half", "b", b, owned={topic_id: [2, 3]})
        group.describe(f"{group.name}: stable")
        beat("B's epoch before", "b", b - 1, owned={topic_id: [2, 3]})
        beat("B's epoch before, owning nothing", "b", b - 1, owned={})
        beat("B's epoch before, owning A's", "b", b - 1, owned={topic_id: [0]})
        c = int(group.join(f"{group.name}: C joins for nothing new", "c", HEARTBEAT, OTHER).member_epoch)
        group.describe(f"{group.name}: three")
        a, b = beat("A with C", "a", a, owned={topic_id: [0, 1]}), beat("B with C", "b", b, owned={topic_id: [2, 3]})
        beat("C", "c", c)
        beat("C by another assignor", "c", c, server_assignor="range" if assignor != "range" else "uniform")
        group.describe(f"{group.name}: assignors vote")
        wire.ask(f"{group.name}: deleted while alive", DeleteGroupsRequest(groups_names=[group.name]), 2)
        beat("C leaves", "c", -1)
        beat("A leaves", "a", -1)
        group.describe(f"{group.name}: B alone")
        b = beat("B gets the rest", "b", b, owned={topic_id: [2, 3]})
        b = beat("B has all", "b", b, owned=everything)
        group.join(f"{group.name}: B joins as if new", "b", HEARTBEAT)
        group.describe(f"{group.name}: B as if new")
        beat("B leaves", "b", -1)
        wire.ask(f"{group.name}: deleted", DeleteGroupsRequest(groups_names=[group.name]), 2)
        wire.ask(f"{group.name}: deleted again", DeleteGroupsRequest(groups_names=[group.name]), 2)


def static_members(wire: Wire) -> None:
    topic_id, _ = prepared(wire)
    for version in versions(ApiKey.CONSUMER_GROUP_HEARTBEAT):
        group = ConsumerGroup(wire, f"consumers-static-{version}")
        everything = {topic_id: [0, 1, 2, 3]}
        one: dict[str, Any] = {"instance_id": "one"}
        first = group.join("first", "m1", version, **one)
        epoch = int(first.member_epoch)
        group.beat("first owns all", "m1", epoch, version, owned=everything, **one)
        group.beat("first without its instance", "m1", epoch, version)
        group.beat("first by another instance", "m1", epoch, version, instance_id="two")
        group.join("second while the first lives", "m2", version, **one)
        group.beat("unknown member by the instance", "m2", epoch, version, **one)
        group.beat("unknown member leaves by the instance", "m2", -2, version, **one)
        group.beat("first goes for a while, by no instance", "m1", -2, version)
        group.beat("first goes for a while", "m1", -2, version, **one)
        group.beat("first beats while away", "m1", epoch, version, **one)
        group.beat("first goes again", "m1", -2, version, **one)
        for described in versions(ApiKey.CONSUMER_GROUP_DESCRIBE):
            group.describe(f"v{version}: away", described)
        second = group.join("second takes over", "m2", version, **one)
        group.beat("first is fenced", "m1", epoch, version, **one)
        group.beat("first leaves", "m1", -1, version, **one)
        group.beat("first goes", "m1", -2, version, **one)
        group.join("first joins", "m1", version, **one)
        epoch = int(second.get("member_epoch", 0))
        group.beat("second owns all", "m2", epoch, version, owned=everything, **one)
        group.describe(f"v{version}: taken over")
        group.beat("second goes for a while", "m2", -2, version, **one)
        changed = group.join("third, with another subscription", "m3", version, TOPIC, OTHER, **one)
        group.beat("third", "m3", int(changed.get("member_epoch", 0)), version, owned=everything, **one)
        group.join("a dynamic member", "m4", version)
        group.beat("third leaves", "m3", -1, version, **one)
        group.describe(f"v{version}: the dynamic member stays")
        group.beat("the dynamic member leaves as static", "m4", -2, version, **one)
        group.beat("the dynamic member leaves", "m4", -1, version)


def patterns(wire: Wire) -> None:
    topic_id, other_id = prepared(wire)
    group = ConsumerGroup(wire, "consumers-patterns")
    by: dict[str, Any] = {"subscribed_topic_names": None}
    group.join("by a pattern", "one", subscribed_topic_regex="consumed.*", **by)
    epoch = _joined(group, "one", 6, subscribed_topic_regex="consumed.*", **by)
    group.describe("by a pattern")
    group.describe("by a pattern, in version 0", 0)
    everything = {topic_id: [0, 1, 2, 3], other_id: [0, 1]}
    group.beat("the same pattern", "one", epoch, subscribed_topic_regex="consumed.*")
    group.beat("an invalid pattern", "one", epoch, subscribed_topic_regex="(")
    group.beat("an empty pattern", "one", epoch, subscribed_topic_regex="", owned=everything)
    group.describe("by an empty pattern")
    group.beat("leaves", "one", -1)
    both = group.join("by a pattern and names", "two", subscribed_topic_regex="no-such-.*")
    group.beat("by a pattern and names", "two", int(both.get("member_epoch", 0)))
    group.beat("leaves", "two", -1)


def _joined(group: ConsumerGroup, member: str, partitions: int, **fields: Any) -> int:
    """Join, outside the transcript, until the answer has so many partitions: patterns are resolved beside; the epoch."""
    epoch = 0

    def has_all() -> bool:
        nonlocal epoch
        answer = group.join(None, member, **fields)
        epoch = int(answer.member_epoch)
        given = answer.assignment.topic_partitions if answer.assignment is not None else []
        return sum(len(row.partitions) for row in given) == partitions

    group.wire.settle(f"{member} has {partitions} partitions", has_all)
    return epoch


def offsets(wire: Wire) -> None:
    """OffsetCommit, OffsetFetch and TxnOffsetCommit by members of the consumer protocol, in every version."""
    topic_id, other_id = prepared(wire)
    ready_transactions(wire)
    for version in versions(ApiKey.OFFSET_COMMIT):
        group = ConsumerGroup(wire, f"consumers-commits-{version}")
        joined = group.join(None, "a", instance_id="i")
        for _ in range(2):  # so that there are epochs before
            group.join(None, "b")
            group.beat(None, "b", -1)
        a = group.settled(joined, 4, instance_id="i")
        cases = {
            "its epoch": (a, "a"), "the epoch before": (a - 1, "a"), "an older epoch": (1, "a"), "epoch 0": (0, "a"),
            "a future epoch": (a + 1, "a"), "epoch -1": (-1, "a"), "epoch -2": (-2, "a"), "unknown member": (a, "nobody"),
            "no member": (a, ""), "no member, no epoch": (-1, ""), "unknown member, no epoch": (-1, "nobody"),
        }  # fmt: skip
        for label, (epoch, member) in cases.items():
            identity: dict[str, Any] = {"generation_id_or_member_epoch": epoch, "member_id": member}
            wire.ask(f"commit: {label}", commit_request(group.name, TOPIC, topic_id, {0: 3}, **identity), version)
            wire.ask(
                f"commit, not its own: {label}",
                commit_request(group.name, OTHER, other_id, {0: 3}, **identity),
                version,
            )
            if version >= 7:
                for instance in ("i", "j"):
                    message = commit_request(
                        group.name, TOPIC, topic_id, {1: 3}, group_instance_id=instance, **identity
                    )
                    wire.ask(f"commit by {instance}: {label}", message, version)
        if version == newest(ApiKey.OFFSET_COMMIT):
            for read in versions(ApiKey.OFFSET_FETCH):
                for label, (epoch, member) in cases.items() if read >= 9 else [("no member", (-1, ""))]:
                    place = [(TOPIC, topic_id, [0, 1])]
                    who: dict[str, Any] = {"member_id": member, "member_epoch": epoch} if read >= 9 else {}
                    wire.ask(f"fetch: {label}", fetch_request(group.name, place, read, **who), read)
                    if read > 1:
                        wire.ask(f"fetch all: {label}", fetch_request(group.name, None, read, **who), read)
                if read >= 9:
                    for label, nobody in {
                        "null member": {"member_id": None, "member_epoch": a},
                        "null member, no epoch": {"member_id": None, "member_epoch": -1},
                    }.items():
                        wire.ask(f"fetch: {label}", fetch_request(group.name, None, read, **nobody), read)
            _delete_offsets(wire, group, "subscribed", TOPIC)
            _delete_offsets(wire, group, "not subscribed", OTHER)
            for write in versions(ApiKey.TXN_OFFSET_COMMIT):
                producer = Transactional(wire, f"consumers-txn-{write}")
                producer.begin()
                if write < 5:
                    producer.add_offsets(None, group.name)
                if write < 3:
                    producer.commit_offsets("transactional, no member", group.name, {TOPIC: {2: 5}}, write)
                for label, (epoch, member) in cases.items() if write >= 3 else ():
                    identity = {"generation_id_or_member_epoch": epoch, "member_id": member}
                    for by in (None, "i", "j"):
                        producer.commit_offsets(
                            f"transactional by {by}: {label}",
                            group.name, {TOPIC: {2: 5}}, write, group_instance_id=by, **identity,
                        )  # fmt: skip
                producer.end(None, commit=False, version=4 if write < 5 else 5)
                producer.settle()
        group.beat(None, "a", -1, instance_id="i")
        wire.ask(
            "commit: its epoch, gone",
            commit_request(group.name, TOPIC, topic_id, {0: 3}, generation_id_or_member_epoch=a, member_id="a"),
            version,
        )
        wire.ask("commit: simple, all gone", commit_request(group.name, TOPIC, topic_id, {0: 3}), version)
    _delete_offsets(wire, group, "all gone", TOPIC)
    wire.ask("what is left", fetch_request(group.name, None, newest(ApiKey.OFFSET_FETCH)), newest(ApiKey.OFFSET_FETCH))
    simple = ConsumerGroup(wire, "consumers-of-a-simple-group")
    wire.ask("a simple group", commit_request(simple.name, TOPIC, topic_id, {0: 3}), newest(ApiKey.OFFSET_COMMIT))
    simple.describe("a simple group")
    simple.join("joins a simple group", "one")
    wire.ask(
        "its offsets stay", fetch_request(simple.name, None, newest(ApiKey.OFFSET_FETCH)), newest(ApiKey.OFFSET_FETCH)
    )
    simple.beat("leaves it", "one", -1)


def _delete_offsets(wire: Wire, group: ConsumerGroup, label: str, topic: str) -> None:
    rows = [OffsetDeleteRequestPartition(partition_index=index) for index in (0, 1)]
    topics = [OffsetDeleteRequestTopic(name=topic, partitions=rows)]
    wire.ask(f"deleted: {label}", OffsetDeleteRequest(group_id=group.name, topics=topics), 0)


def mixed(wire: Wire) -> None:
    """A classic group whose members change protocols one by one, and back."""
    topic_id, _ = prepared(wire)
    for version in versions(ApiKey.JOIN_GROUP):
        name = f"mixed-{version}"
        classic, modern = Group(wire, name), ConsumerGroup(wire, name)
        offered = [("range", subscription(TOPIC)), ("cooperative-sticky", subscription(TOPIC))]
        joined = classic.join_new(f"{name}: classic", version, protocols=offered)
        generation, member = int(joined.generation_id), str(joined.member_id)
        sync, beat = min(version, newest(ApiKey.SYNC_GROUP)), min(version, newest(ApiKey.HEARTBEAT))
        leave = min(version, newest(ApiKey.LEAVE_GROUP))
        classic.sync(f"{name}: classic", generation, member, {member: _assigned(0, 1, 2, 3)}, sync)
        modern.describe(f"{name}: described as consumers")
        m = modern.join(f"{name}: joins", "m")
        modern.describe(f"{name}: converted")
        classic.describe(f"{name}: described as classic")
        wire.ask(f"{name}: listed", DescribeGroupsRequest(groups=[name]), 6)
        classic.heartbeat(f"{name}: the classic member", generation, member, beat)
        classic.heartbeat(f"{name}: the classic member, older", generation - 1, member, beat)
        classic.heartbeat(f"{name}: the classic member, newer", generation + 5, member, beat)
        classic.heartbeat(f"{name}: an unknown classic member", generation, "nobody", beat)
        classic.heartbeat(f"{name}: a member as classic", int(m.get("member_epoch", 0)), "m", beat)
        modern.beat(f"{name}: the classic member as modern", member, generation)
        commit = commit_request(
            name, TOPIC, topic_id, {0: 3}, generation_id_or_member_epoch=generation, member_id=member
        )
        wire.ask(f"{name}: the classic member commits", commit, newest(ApiKey.OFFSET_COMMIT))
        classic.join(f"{name}: an unknown classic member joins", version, member="nobody", protocols=offered)
        classic.leave(f"{name}: and leaves again", "nobody", version=leave)
        classic.join(f"{name}: by another type", version, member=member, protocols=offered, protocol_type="connect")
        classic.join(f"{name}: by unreadable protocols", version, member=member, protocols=[("range", b"")])
        classic.join(f"{name}: by no protocols", version, member=member, protocols=[])
        again = classic.join(f"{name}: the classic member joins again", version, member=member, protocols=offered)
        generation = int(again.get("generation_id", -1))
        classic.sync(f"{name}: syncs, older", generation - 1, member, {}, sync)
        classic.sync(f"{name}: syncs, newer", generation + 1, member, {}, sync)
        classic.sync(f"{name}: an unknown one syncs", generation, "nobody", {}, sync)
        if version >= 5:
            classic.sync(f"{name}: syncs by another protocol", generation, member, {}, 5, protocol_name="sticky")
            classic.sync(f"{name}: syncs by another type", generation, member, {}, 5, protocol_type="connect")
        classic.sync(f"{name}: syncs", generation, member, {}, sync)
        classic.heartbeat(f"{name}: the classic member after syncing", generation, member, beat)
        epoch = modern.settled(m, 2)
        modern.describe(f"{name}: both have half")
        classic.heartbeat(f"{name}: the classic member, stable", generation, member, beat)
        wire.ask(f"{name}: deleted while alive", DeleteGroupsRequest(groups_names=[name]), 2)
        classic.leave(f"{name}: an unknown member leaves", "nobody", version=leave)
        modern.beat(f"{name}: the modern member beats", "m", epoch)
        modern.beat(f"{name}: the modern member leaves", "m", -1)
        classic.describe(f"{name}: classic again")
        modern.describe(f"{name}: not of consumers any more")
        classic.heartbeat(f"{name}: told of the rebalance", generation, member, beat)
        last = classic.join(f"{name}: joins the classic group", version, member=member, protocols=offered)
        classic.sync(f"{name}: in the classic group", int(last.get("generation_id", -1)), member, {member: b""}, sync)
        classic.leave(f"{name}: leaves", member, version=leave)
        classic.describe(f"{name}: empty")
        modern.join(f"{name}: an empty classic group is taken over", "m")
        modern.describe(f"{name}: taken over")
        modern.beat(f"{name}: leaves", "m", -1)
        last = classic.join_new(f"{name}: an empty group of consumers is taken over", version, protocols=offered)
        classic.describe(f"{name}: taken over")
        modern.describe(f"{name}: by a classic member")
        classic.leave(f"{name}: the last leaves", str(last.get("member_id")), version=leave)


def _assigned(*partitions: int) -> bytes:
    """An embedded assignment of the topic, version in front."""
    rows = [ConsumerProtocolAssignmentTopicPartition(topic=TOPIC, partitions=list(partitions))]
    return b"\0\1" + encode(ConsumerProtocolAssignment(assigned_partitions=rows), 1)


def not_convertible(wire: Wire) -> None:
    """Groups that the consumer protocol cannot take over."""
    prepared(wire)
    offers: dict[str, dict[str, Any]] = {
        "connect": {"protocol_type": "connect", "protocols": [("range", b"x")]},
        "unreadable": {"protocols": [("range", b"x")]},
        "empty": {"protocols": [("range", b"")]},
        "version-9": {"protocols": [("range", b"\0\x09" + subscription(TOPIC)[2:])]},
        "no-topics": {"protocols": [("range", subscription())]},
        "user-data": {"protocols": [("sticky", subscription(TOPIC))]},
    }
    for label, fields in offers.items():
        classic, modern = Group(wire, f"inconvertible-{label}"), ConsumerGroup(wire, f"inconvertible-{label}")
        joined = classic.join_new(f"{label}: classic", **fields)
        names = {"protocol_type": fields.get("protocol_type", "consumer"), "protocol_name": fields["protocols"][0][0]}
        classic.sync(f"{label}: classic", joined.generation_id, joined.member_id, {joined.member_id: b"x"}, **names)
        modern.join(f"{label}: a consumer joins", "m")
        modern.beat(f"{label}: a consumer beats", "m", 1)
        modern.beat(f"{label}: a consumer leaves", "m", -1)
        modern.describe(f"{label}: described")
        classic.describe(f"{label}: described as classic")
        classic.leave(f"{label}: leaves", joined.member_id)
    early = Group(wire, "inconvertible-yet")
    joined = early.join_new("early: classic", protocols=[("range", subscription(TOPIC))])
    ConsumerGroup(wire, early.name).join(None, "m")  # which half it gets is a matter of random member ids
    early.sync("early: syncs too late", joined.generation_id, joined.member_id, {joined.member_id: _assigned(0)})
    early.heartbeat("early: beats", joined.generation_id, joined.member_id)
    early.leave("early: leaves", joined.member_id)
    living = ConsumerGroup(wire, "inconvertible-consumers")
    living.join(None, "m")
    for label, fields in offers.items():
        Group(wire, living.name).join_new(f"{label}: joins consumers", **fields)
    Group(wire, living.name).join(
        "a static member joins consumers", group_instance_id="i", protocols=[("range", subscription(TOPIC))]
    )
    living.beat(None, "m", -1)


def _are_at_rest(wire: Wire, prefix: str) -> bool:
    """Whether the groups whose names begin so have lost the members that never came back."""
    answer = wire.ask(None, ListGroupsRequest(), newest(ApiKey.LIST_GROUPS), on="aside")
    return all(row.group_state == "Empty" for row in answer.groups if row.group_id.startswith(prefix))


def listing(wire: Wire) -> None:
    prepared(wire)
    wire.settle("groups of other scenarios come to rest", lambda: _are_at_rest(wire, "group-refused-"))
    names = [f"listed-{word}" for word in ("stable", "empty", "waiting", "classic")]
    stable, empty, waiting = (ConsumerGroup(wire, name) for name in names[:3])
    stable.settled(stable.join(None, "m"), 4)
    empty.join(None, "m")
    empty.beat(None, "m", -1)
    waiting.settled(waiting.join(None, "a"), 4)
    waiting.join(None, "b")
    classic = Group(wire, names[3])
    member = classic.join(None, member=classic.join(None).member_id)
    classic.sync(None, member.generation_id, member.member_id, {member.member_id: b""})

    def listed(label: str, version: int, **fields: Any) -> None:
        answer = wire.send(label, ListGroupsRequest(**fields), version)
        wire.receive(answer)

    for version in versions(ApiKey.LIST_GROUPS):
        if version >= 4:
            for states in (
                ["Stable"],
                ["Empty"],
                ["Reconciling"],
                ["Assigning"],
                ["Dead"],
                ["stable"],
                ["EMPTY", "Reconciling"],
                ["no"],
                [""],
            ):
                listed(f"states {states}", version, states_filter=states)
        if version >= 5:
            for types in (
                ["consumer"],
                ["Consumer"],
                ["classic"],
                ["share"],
                ["streams"],
                ["no"],
                [""],
                ["consumer", "classic"],
            ):
                listed(f"types {types}", version, types_filter=types)
                listed(f"types {types}, stable", version, types_filter=types, states_filter=["Stable"])
    for version in versions(ApiKey.DESCRIBE_GROUPS):
        wire.ask("as classic", DescribeGroupsRequest(groups=[*names, "nobody", ""]), version)
        if version >= 3:
            message = DescribeGroupsRequest(groups=names, include_authorized_operations=True)
            wire.ask("as classic, with operations", message, version)
    for version in versions(ApiKey.CONSUMER_GROUP_DESCRIBE):
        stable.describe("as consumers", version, *names, operations=True)
    for version in versions(ApiKey.DELETE_GROUPS):
        wire.ask("deleted", DeleteGroupsRequest(groups_names=[*names, "nobody", ""]), version)
    for group, member_id in ((stable, "m"), (waiting, "a"), (waiting, "b")):
        group.beat(None, member_id, -1)
    classic.leave(None, member.member_id)
    wire.ask("deleted at last", DeleteGroupsRequest(groups_names=names), 2)


SCENARIOS = [refused, one_member, two_members, static_members, patterns, offsets, mixed, not_convertible, listing]
