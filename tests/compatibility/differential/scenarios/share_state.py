"""The share coordinator as brokers see it (KIP-932): Initialize, Read, Write, Delete and ReadSummary of share group state."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.script import UNKNOWN_ID, create_topic, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages import delete_share_group_state as delete
from ottla.protocol.messages import initialize_share_group_state as initialize
from ottla.protocol.messages import read_share_group_state as read
from ottla.protocol.messages import read_share_group_state_summary as summary
from ottla.protocol.messages import write_share_group_state as write
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest
from ottla.types import ZERO_UUID, uuid_to_text

TOPIC = "shared-state"
WRITE, SUMMARY = newest(ApiKey.WRITE_SHARE_GROUP_STATE), newest(ApiKey.READ_SHARE_GROUP_STATE_SUMMARY)
AVAILABLE, ACQUIRED, ACKNOWLEDGED, ARCHIVED = 0, 1, 2, 4


class ShareState:
    """Requests about the share partitions of one topic in one group."""

    def __init__(self, wire: Wire, group: str, topic_id: bytes) -> None:
        self.wire = wire
        self.group = group
        self.topic_id = topic_id

    def initialize(self, label: str | None, epoch: int, start: int, partition: int = 0) -> Tree:
        row = initialize.PartitionData(partition=partition, state_epoch=epoch, start_offset=start)
        topic = initialize.InitializeStateData(topic_id=self.topic_id, partitions=[row])
        message = initialize.InitializeShareGroupStateRequest(group_id=self.group, topics=[topic])
        return self.wire.ask(label, message, 0, on="main" if label else "aside")

    def read(self, label: str | None, leader_epoch: int, partition: int = 0) -> Tree:
        row = read.PartitionData(partition=partition, leader_epoch=leader_epoch)
        topic = read.ReadStateData(topic_id=self.topic_id, partitions=[row])
        message = read.ReadShareGroupStateRequest(group_id=self.group, topics=[topic])
        return self.wire.ask(label, message, 0, on="main" if label else "aside")

    def write(
        self, label: str | None, epoch: int, leader_epoch: int, start: int,
        *batches: tuple[int, int, int, int], version: int = WRITE, complete: int = 0, partition: int = 0,
    ) -> Tree:  # fmt: skip
        rows = [
            write.StateBatch(first_offset=first, last_offset=last, delivery_state=state, delivery_count=count)
            for first, last, state, count in batches
        ]
        row = write.PartitionData(
            partition=partition,
            state_epoch=epoch,
            leader_epoch=leader_epoch,
            start_offset=start,
            delivery_complete_count=complete,
            state_batches=rows,
        )
        topic = write.WriteStateData(topic_id=self.topic_id, partitions=[row])
        message = write.WriteShareGroupStateRequest(group_id=self.group, topics=[topic])
        return self.wire.ask(label, message, version, on="main" if label else "aside")

    def delete(self, label: str | None, partition: int = 0) -> Tree:
        topic = delete.DeleteStateData(topic_id=self.topic_id, partitions=[delete.PartitionData(partition=partition)])
        message = delete.DeleteShareGroupStateRequest(group_id=self.group, topics=[topic])
        return self.wire.ask(label, message, 0, on="main" if label else "aside")

    def error(self, partition: int) -> str:
        """How a question about a share partition fares now."""
        row = summary.PartitionData(partition=partition)
        topic = summary.ReadStateSummaryData(topic_id=self.topic_id, partitions=[row])
        message = summary.ReadShareGroupStateSummaryRequest(group_id=self.group, topics=[topic])
        answer = self.wire.ask(None, message, SUMMARY, on="aside")
        return str(answer.results[0].partitions[0].error_code)

    def summary(self, label: str, leader_epoch: int = 0, partition: int = 0) -> None:
        row = summary.PartitionData(partition=partition, leader_epoch=leader_epoch)
        topic = summary.ReadStateSummaryData(topic_id=self.topic_id, partitions=[row])
        for version in versions(ApiKey.READ_SHARE_GROUP_STATE_SUMMARY):
            message = summary.ReadShareGroupStateSummaryRequest(group_id=self.group, topics=[topic])
            self.wire.ask(label, message, version)


def ready_share_state(wire: Wire, *groups: str, topic: str = TOPIC, partitions: int = 3) -> bytes:
    """The id of a topic, once the coordinators of its share partitions in these groups answer."""
    topic_id = create_topic(wire, topic, partitions)
    for group in groups:

        def is_there(group: str = group) -> bool:
            keys = [f"{group}:{uuid_to_text(topic_id)}:{index}" for index in range(partitions)]
            message = FindCoordinatorRequest(key_type=2, coordinator_keys=keys)
            answer = wire.ask(None, message, 6, on="aside")
            if any(row.error_code != "NONE" for row in answer.coordinators):
                return False
            state = ShareState(wire, group, topic_id)
            return all(state.error(index) in ("NONE", "UNKNOWN_TOPIC_OR_PARTITION") for index in range(partitions))

        wire.settle(f"the coordinators of {group}", is_there)
    return topic_id


def find_coordinator(wire: Wire) -> None:
    topic_id = ready_share_state(wire, "share-found")
    good = f"share-found:{uuid_to_text(topic_id)}:0"
    for version in versions(ApiKey.FIND_COORDINATOR, 4):
        for key in (
            good, "share-found", "", "::", f"share-found:{uuid_to_text(topic_id)}", f"share-found:{uuid_to_text(topic_id)}:x",
            "share-found:no-id:0", f":{uuid_to_text(topic_id)}:0", f"share-found:{uuid_to_text(topic_id)}:-1", "a:b:c:d",
            f"with:colon:{uuid_to_text(topic_id)}:0", f"share-found:{uuid_to_text(UNKNOWN_ID)}:0",
        ):  # fmt: skip
            wire.ask(
                f"key {_named(key, topic_id)!r}", FindCoordinatorRequest(key_type=2, coordinator_keys=[key]), version
            )


def _named(key: str, topic_id: bytes) -> str:
    return key.replace(uuid_to_text(topic_id), "ID")


def epochs(wire: Wire) -> None:
    """What each epoch and start offset does to a state that has others."""
    state = ShareState(wire, "share-epochs", ready_share_state(wire, "share-epochs"))
    state.summary("before")
    state.read("never written", 0)
    state.read("never written, again", 3)
    state.summary("read, never written")
    state.write("never initialized", 1, 0, 5, (5, 9, ACKNOWLEDGED, 1), partition=1)
    state.summary("never initialized", partition=1)
    for epoch, start in ((0, -1), (1, 0), (1, 7), (0, 9), (-1, 9), (2, -1), (2, 10), (2, -5), (5, 0)):
        state.initialize(f"epoch {epoch}, start {start}", epoch, start, partition=2)
        state.summary(f"after epoch {epoch}, start {start}", partition=2)
    state.initialize("partition 0", 3, 10)
    for leader_epoch in (0, 5, 5, 4, -1, 6):
        state.read(f"by leader epoch {leader_epoch}", leader_epoch)
        state.summary(f"after reading by {leader_epoch}", leader_epoch)
    for version in versions(ApiKey.WRITE_SHARE_GROUP_STATE):
        for epoch, leader_epoch in ((3, 6), (3, 5), (2, 6), (4, 6), (-1, 6), (3, -1), (3, 7), (0, 0), (3, 0), (5, 8)):
            label = f"state epoch {epoch}, leader epoch {leader_epoch}"
            state.write(label, epoch, leader_epoch, 10, (10, 14, AVAILABLE, 1), version=version)
            state.summary(f"after {label} in version {version}", leader_epoch)
    state.read("in the end", 100)


def batches(wire: Wire) -> None:
    """Batches that follow, overlap, leave gaps, move the start offset, or are no batches at all."""
    topic_id = ready_share_state(wire, "share-batches")
    for version in versions(ApiKey.WRITE_SHARE_GROUP_STATE):
        state = ShareState(wire, "share-batches", topic_id)
        state.initialize(None, 10 + version, 0)
        epoch = 10 + version

        def put(
            label: str,
            start: int,
            *rows: tuple[int, int, int, int],
            epoch: int = epoch,
            state: ShareState = state,
            version: int = version,
            complete: int = 0,
        ) -> None:
            state.write(label, epoch, 1, start, *rows, version=version, complete=complete)
            state.read(f"v{version}: {label}: read", 1)
            state.summary(f"v{version}: {label}: summary")

        put("one", -1, (0, 9, AVAILABLE, 1))
        put("the next", -1, (10, 19, ACKNOWLEDGED, 1), complete=10)
        put("within the first", -1, (3, 5, ARCHIVED, 5), complete=13)
        put("over two", -1, (8, 12, AVAILABLE, 2))
        put("with a gap", -1, (30, 39, ACKNOWLEDGED, 1), complete=20)
        put("in the gap", -1, (22, 24, AVAILABLE, 1))
        put("the same again", -1, (22, 24, AVAILABLE, 1))
        put("with another count", -1, (22, 24, AVAILABLE, 3))
        put("with a smaller count", -1, (22, 24, AVAILABLE, 2))
        put("start in a batch", 5)
        put("start at a gap", 20)
        put("start further back", 7)
        put("two at once", -1, (40, 44, AVAILABLE, 1), (45, 49, AVAILABLE, 1))
        put("two that overlap", -1, (50, 59, AVAILABLE, 1), (55, 64, ACKNOWLEDGED, 2), complete=25)
        put("in the wrong order", -1, (75, 79, AVAILABLE, 1), (70, 74, AVAILABLE, 1))
        put("before the start", -1, (0, 4, AVAILABLE, 1))
        put("across the start", -1, (15, 23, ACKNOWLEDGED, 1))
        put("negative", -1, (-5, -1, AVAILABLE, 1))
        put("acquired", -1, (100, 109, ACQUIRED, 1))
        put("state 9", -1, (110, 119, 9, 1))
        put("state -1", -1, (120, 129, -1, 1))
        put("count 0", -1, (130, 139, AVAILABLE, 0))
        put("count -1", -1, (140, 149, AVAILABLE, -1))
        put("complete -1", -1, complete=-1)
        put("complete -5", -1, complete=-5)
        put("start -1 and nothing", -1)
        put("start past everything", 1_000)
        put("start -5", -5)
        put("backwards", -1, (90, 85, AVAILABLE, 1))


def parts_missing(wire: Wire) -> None:
    """Requests without a group, topics, partitions; unknown topics and partitions; more than one."""
    topic_id = ready_share_state(wire, "share-parts")
    good = ShareState(wire, "share-parts", topic_id)
    good.initialize(None, 1, 0)
    good.initialize(None, 1, 0, 1)
    places: dict[str, tuple[str, list[tuple[bytes, list[int]]]]] = {
        "no group": ("", [(topic_id, [0])]), "no topics": ("share-parts", []),
        "no partitions": ("share-parts", [(topic_id, [])]),
        "some without partitions": ("share-parts", [(topic_id, [0]), (UNKNOWN_ID, [])]),
        "unknown topic": ("share-parts", [(UNKNOWN_ID, [0])]), "no topic id": ("share-parts", [(ZERO_UUID, [0])]),
        "partition 9": ("share-parts", [(topic_id, [9])]), "partition -1": ("share-parts", [(topic_id, [-1])]),
        "two partitions": ("share-parts", [(topic_id, [0, 1])]), "a partition twice": ("share-parts", [(topic_id, [0, 0])]),
        "a topic twice": ("share-parts", [(topic_id, [0]), (topic_id, [1])]),
        "good and bad": ("share-parts", [(topic_id, [0, 9]), (UNKNOWN_ID, [0])]),
        "a long group": ("g" * 4_096, [(topic_id, [0])]), "a group with colons": ("a:b:c", [(topic_id, [0])]),
    }  # fmt: skip
    for label, (group, topics) in places.items():
        asked: list[tuple[Any, list[int]]] = [
            (initialize.InitializeShareGroupStateRequest(
                group_id=group,
                topics=[initialize.InitializeStateData(topic_id=topic, partitions=[
                    initialize.PartitionData(partition=index, state_epoch=1, start_offset=3) for index in indexes
                ]) for topic, indexes in topics],
            ), [0]),
            (read.ReadShareGroupStateRequest(
                group_id=group,
                topics=[read.ReadStateData(topic_id=topic, partitions=[
                    read.PartitionData(partition=index, leader_epoch=1) for index in indexes
                ]) for topic, indexes in topics],
            ), [0]),
            (write.WriteShareGroupStateRequest(
                group_id=group,
                topics=[write.WriteStateData(topic_id=topic, partitions=[
                    write.PartitionData(partition=index, state_epoch=1, leader_epoch=1, start_offset=4) for index in indexes
                ]) for topic, indexes in topics],
            ), versions(ApiKey.WRITE_SHARE_GROUP_STATE)),
            (summary.ReadShareGroupStateSummaryRequest(
                group_id=group,
                topics=[summary.ReadStateSummaryData(topic_id=topic, partitions=[
                    summary.PartitionData(partition=index, leader_epoch=1) for index in indexes
                ]) for topic, indexes in topics],
            ), versions(ApiKey.READ_SHARE_GROUP_STATE_SUMMARY)),
            (delete.DeleteShareGroupStateRequest(
                group_id=group,
                topics=[delete.DeleteStateData(topic_id=topic, partitions=[
                    delete.PartitionData(partition=index) for index in indexes
                ]) for topic, indexes in topics],
            ), [0]),
        ]  # fmt: skip
        for message, asked_versions in asked:
            for version in asked_versions:
                wire.ask(label, message, version)


def deleting(wire: Wire) -> None:
    state = ShareState(wire, "share-deleted", ready_share_state(wire, "share-deleted"))
    state.delete("never there")
    state.initialize("made", 2, 5)
    state.write("written", 2, 1, -1, (5, 9, ACKNOWLEDGED, 1), complete=5)
    state.delete("deleted")
    state.summary("deleted")
    state.read("deleted", 1)
    state.write("written after", 2, 1, -1, (5, 9, ACKNOWLEDGED, 1))
    state.delete("deleted again")
    state.initialize("made again, by an older epoch", 1, 7)
    state.read("made again", 0)


SCENARIOS = [find_coordinator, epochs, batches, parts_missing, deleting]
