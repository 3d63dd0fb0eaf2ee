"""UpdateFeatures, and what a lowered level changes. Every scenario leaves the levels as it found them."""

from __future__ import annotations

from tests.compatibility.differential.scenarios.groups import Group, ready_coordinator, subscription
from tests.compatibility.differential.scenarios.share_fetch import ACCEPT, ShareSession
from tests.compatibility.differential.scenarios.share_state import ShareState, ready_share_state
from tests.compatibility.differential.scenarios.transactions import Transactional, ready_transactions
from tests.compatibility.differential.script import create_topic, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.alter_share_group_offsets import (
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsRequestPartition,
    AlterShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.api_versions import ApiVersionsRequest
from ottla.protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from ottla.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from ottla.protocol.messages.delete_share_group_offsets import (
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.describe_share_group_offsets import (
    DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequestGroup,
)
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.share_group_describe import ShareGroupDescribeRequest
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest
from ottla.protocol.messages.streams_group_describe import StreamsGroupDescribeRequest
from ottla.protocol.messages.streams_group_heartbeat import StreamsGroupHeartbeatRequest
from ottla.protocol.messages.update_features import FeatureUpdateKey, UpdateFeaturesRequest

UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3
#: Those that both brokers have, and their highest levels.
HIGHEST = {"group.version": 1, "share.version": 1, "streams.version": 1, "transaction.version": 2}


def update(
    wire: Wire, label: str | None, version: int, *rows: tuple[str, int, int], validate_only: bool = False
) -> None:
    """Ask for levels: (feature, level, upgrade type). In version 0 any type but UPGRADE allows a downgrade."""
    updates = [
        FeatureUpdateKey(feature=name, max_version_level=level, allow_downgrade=kind != UPGRADE)
        if version == 0
        else FeatureUpdateKey(feature=name, max_version_level=level, upgrade_type=kind)
        for name, level, kind in rows
    ]
    message = UpdateFeaturesRequest(feature_updates=updates, validate_only=validate_only, timeout_ms=30_000)
    wire.ask(label, message, version, on="main" if label else "aside")


def levels(wire: Wire, label: str | None = None) -> dict[str, int]:
    """The finalized levels; 0 for a feature that has none."""
    message = ApiVersionsRequest(client_software_name="differ", client_software_version="1")
    answer = wire.ask(label, message, 4, on="main" if label else "aside")
    found = {row.name: row.max_version_level for row in answer.finalized_features}
    return {name: found.get(name, 0) for name in HIGHEST}


def settle_at(wire: Wire, feature: str, level: int) -> None:
    wire.settle(f"{feature} is {level}", lambda: levels(wire)[feature] == level)


def set_level(wire: Wire, feature: str, level: int) -> None:
    """Set a level outside the transcript and wait until the broker knows."""
    update(wire, None, 2, (feature, level, UPGRADE if level > levels(wire)[feature] else SAFE_DOWNGRADE))
    settle_at(wire, feature, level)


def refused(wire: Wire) -> None:
    kinds = (0, UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE, 4, -1)
    for version in versions(ApiKey.UPDATE_FEATURES):

        def ask(
            label: str, *rows: tuple[str, int, int], version: int = version, validate_only: bool = version > 0
        ) -> None:
            update(wire, label, version, *rows, validate_only=validate_only)

        ask("nothing")
        if version > 0:
            ask("nothing, for real", validate_only=False)
        for feature, highest in {**HIGHEST, "no.such.feature": 0, "": 0}.items():
            wrong = [(-1, UPGRADE), (-1, SAFE_DOWNGRADE), (highest + 1, UPGRADE), (32_767, UPGRADE), (-32_768, UPGRADE)]
            if feature not in HIGHEST:
                wrong += [(0, UPGRADE), (0, SAFE_DOWNGRADE), (1, SAFE_DOWNGRADE)]
            for level, kind in wrong:
                ask(f"{feature!r} to {level}, type {kind}", (feature, level, kind))
            for kind in kinds if feature in HIGHEST else ():
                ask(f"{feature!r} as it is, type {kind}", (feature, highest, kind))
                if version > 0 or kind == UPGRADE:
                    ask(f"{feature!r} one lower, type {kind}", (feature, highest - 1, kind))
                    ask(f"{feature!r} to 0, type {kind}", (feature, 0, kind))
        good, bad = ("group.version", 1, UPGRADE), ("streams.version", 9, UPGRADE)
        ask("one good, one bad", good, bad)
        ask("two good", good, ("transaction.version", 2, UPGRADE))
        ask("two bad", ("transaction.version", 9, UPGRADE), bad)
        ask("good, then twice the same, bad at last", good, ("group.version", 9, UPGRADE))
        ask("twice the same, good at last", ("group.version", 9, UPGRADE), good)
    levels(wire, "nothing has changed")


def lowered_and_raised(wire: Wire) -> None:
    """Each feature down one level at a time and up again, in every version that can."""
    for version in versions(ApiKey.UPDATE_FEATURES):
        for feature, highest in HIGHEST.items():
            for kind in (SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
                update(wire, f"{feature} to 0, type {kind}", version, (feature, 0, kind))
                if version > 0:
                    settle_at(wire, feature, 0)
                levels(wire, f"v{version}: {feature} at 0 by type {kind}")
                update(wire, f"{feature} at 0, to 0, type {kind}", version, (feature, 0, kind))
                update(wire, f"{feature} at 0, to 1, type {kind}", version, (feature, 1, kind))
                for level in range(1, highest + 1):
                    update(wire, f"{feature} to {level} after type {kind}", version, (feature, level, UPGRADE))
                    settle_at(wire, feature, level if version > 0 else highest)
                levels(wire, f"v{version}: {feature} at {highest} after type {kind}")
        if version > 0:
            both = [(feature, 0, SAFE_DOWNGRADE) for feature in HIGHEST]
            update(wire, "all to 0, but one is unknown", version, *both, ("no.such.feature", 1, UPGRADE))
            levels(wire, f"v{version}: nothing has changed")
            update(wire, "all to 0", version, *both)
            for feature in HIGHEST:
                settle_at(wire, feature, 0)
            update(wire, "all up", version, *[(feature, level, UPGRADE) for feature, level in HIGHEST.items()])
            for feature, level in HIGHEST.items():
                settle_at(wire, feature, level)


def without_group_version(wire: Wire) -> None:
    """The consumer protocol is refused, also to groups that exist; classic groups go on."""
    ready_coordinator(wire)
    create_topic(wire, "features-topic", 1)

    def ask_about(group: str, member: str, epoch: int, stage: str) -> None:
        for version in versions(ApiKey.CONSUMER_GROUP_HEARTBEAT):
            joining = {"rebalance_timeout_ms": 30_000, "subscribed_topic_names": ["features-topic"]}
            more = {**joining, "topic_partitions": []} if epoch == 0 else {}
            message = ConsumerGroupHeartbeatRequest(group_id=group, member_id=member, member_epoch=epoch, **more)  # type: ignore[arg-type]
            wire.ask(f"{stage}: {group}, {member!r} at {epoch}", message, version)
        for version in versions(ApiKey.CONSUMER_GROUP_DESCRIBE):
            request = ConsumerGroupDescribeRequest(group_ids=[group, "nobody", ""], include_authorized_operations=True)
            wire.ask(f"{stage}: {group} described", request, version)

    ask_about("features-consumers", "one", 0, "before")
    set_level(wire, "group.version", 0)
    ask_about("features-consumers", "one", 1, "at 0")
    ask_about("features-consumers", "two", 0, "at 0")
    ask_about("features-consumers", "one", -1, "at 0")
    ask_about("features-others", "", 0, "at 0")
    for version in versions(ApiKey.LIST_GROUPS):
        answer = wire.ask(None, ListGroupsRequest(), version)
        assert any(row.group_id == "features-consumers" for row in answer.groups)
    classic = Group(wire, "features-classic")
    joined = classic.join_new("a classic member at 0", protocols=[("range", subscription("features-topic"))])
    classic.sync("a classic member at 0", joined.generation_id, joined.member_id, {joined.member_id: b""})
    mixed = Group(wire, "features-consumers")
    mixed.join_new("a classic member of a consumer group at 0", protocols=[("range", subscription("features-topic"))])
    set_level(wire, "group.version", 1)
    ask_about("features-consumers", "one", 1, "after")
    ask_about("features-others", "one", 0, "after")


def without_streams_version(wire: Wire) -> None:
    ready_coordinator(wire)
    set_level(wire, "streams.version", 0)
    for epoch in (0, 1, -1):
        message = StreamsGroupHeartbeatRequest(group_id="features-streams", member_id="one", member_epoch=epoch)
        wire.ask(f"at 0: epoch {epoch}", message, 0)
    wire.ask("at 0: described", StreamsGroupDescribeRequest(group_ids=["features-streams", "", "nobody"]), 0)
    set_level(wire, "streams.version", 1)
    wire.ask("after: described", StreamsGroupDescribeRequest(group_ids=["features-streams", "", "nobody"]), 0)


def without_share_version(wire: Wire) -> None:
    """Share groups are refused in every way but to brokers, who ask the share coordinator."""
    name = "features-shared"
    topic_id = ready_share_state(wire, name, topic=name, partitions=1)
    ready_coordinator(wire)
    state = ShareState(wire, name, topic_id)
    state.initialize(None, 1, 0)
    for stage, level in (("at 0", 0), ("after", 1)):
        set_level(wire, "share.version", level)
        for epoch in (1, -1):
            beat = ShareGroupHeartbeatRequest(group_id=name, member_id="one", member_epoch=epoch)
            wire.ask(f"{stage}: epoch {epoch}", beat, 1)
        for operations in (False, True):
            asked = ShareGroupDescribeRequest(group_ids=[name, "", "nobody"], include_authorized_operations=operations)
            wire.ask(f"{stage}: described, operations {operations}", asked, 1)
        for version in versions(ApiKey.SHARE_FETCH):
            session = ShareSession(wire, name, topic_id, version)
            session.fetch(f"{stage}: begins", {0: []})
            session.acknowledge(f"{stage}: acknowledges", {0: [(0, 0, [ACCEPT])]})
            session.close(f"{stage}: ends")
        for version in versions(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS):
            groups = [DescribeShareGroupOffsetsRequestGroup(group_id=each, topics=None) for each in (name, "nobody")]
            wire.ask(f"{stage}: offsets described", DescribeShareGroupOffsetsRequest(groups=groups), version)
        partition = AlterShareGroupOffsetsRequestPartition(partition_index=0, start_offset=0)
        altered = AlterShareGroupOffsetsRequestTopic(topic_name=name, partitions=[partition])
        deleted = DeleteShareGroupOffsetsRequestTopic(topic_name=name)
        wire.ask(f"{stage}: offsets altered", AlterShareGroupOffsetsRequest(group_id="nobody", topics=[altered]), 0)
        wire.ask(f"{stage}: offsets deleted", DeleteShareGroupOffsetsRequest(group_id="nobody", topics=[deleted]), 0)
        state.read(f"{stage}: state", 0)


def transactions_at_each_level(wire: Wire) -> None:
    """Clients choose their version by the level. Below 1 there is no room for what newer clients need written down."""
    topic = "features-transactions"
    ready_transactions(wire)
    topic_id = create_topic(wire, topic, 1)
    survivors = [Transactional(wire, f"features-survivor-{kind}") for kind in ("used", "open", "used-by-old")]
    used, opened, used_by_old = survivors
    for one in survivors:
        one.begin()
    opened.add(None, {topic: [0]})
    used.end(None, commit=False, version=5)
    used_by_old.add(None, {topic: [0]})
    used_by_old.end(None, commit=True, version=4)
    used_by_old.settle()
    used.settle()
    for level in (1, 0, 2):
        set_level(wire, "transaction.version", level)

        def producer(kind: str, level: int = level) -> Transactional:
            one = Transactional(wire, f"features-{kind}-{level}")
            one.begin(f"at {level}: {kind}")
            return one

        older = producer("older")
        older.add(f"at {level}: older", {topic: [0]})
        older.end(f"at {level}: older", commit=True, version=4)
        older.settle()
        older.describe(f"at {level}: older")
        fenced = producer("fenced")
        fenced.add(None, {topic: [0]})
        fenced.init(f"at {level}: fences what is ongoing")
        fenced.settle()
        fenced.describe(f"at {level}: fenced")
        fenced.init(f"at {level}: begins again")
        idle = producer("idle")
        idle.end(f"at {level}: a newer client, nothing in it", commit=False, version=newest(ApiKey.END_TXN))
        busy = producer("busy")
        busy.add(f"at {level}: busy", {topic: [0]})
        busy.end(f"at {level}: a newer client ends", commit=True, version=newest(ApiKey.END_TXN))
        adding = producer("adding")
        adding.add(f"at {level}: a broker adds", {topic: [0]}, newest(ApiKey.ADD_PARTITIONS_TO_TXN))
        sending = producer("sending")
        sending.produce(
            f"at {level}: a newer client sends", topic, topic_id, sequence=0, version=newest(ApiKey.PRODUCE)
        )
        offsets = producer("offsets")
        offsets.commit_offsets(f"at {level}: a newer client's offsets", "features-offsets", {topic: {0: 1}}, 5)
        if level > 0:
            for one in (idle, busy):
                one.settle()
                one.describe(f"at {level}: {one.name}")
                one.init(f"at {level}: {one.name} begins again")
        else:
            for one in survivors:
                one.describe(f"at 0: {one.name}")
                if one is opened:
                    one.end(f"at 0: {one.name}", commit=True, version=4)
                    one.settle()
                    one.describe(f"at 0: {one.name} ended")
                one.init(f"at 0: {one.name} begins again")
                if one is not used:
                    one.describe(f"at 0: {one.name} begun")


SCENARIOS = [
    refused,
    lowered_and_raised,
    without_group_version,
    without_streams_version,
    without_share_version,
    transactions_at_each_level,
]
