"""Committed offsets: OffsetCommit, OffsetFetch, OffsetDelete."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.scenarios.groups import Group, ready_coordinator, subscription
from tests.compatibility.differential.script import UNKNOWN_ID, create_topic, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
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
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)

COMMIT, FETCH = newest(ApiKey.OFFSET_COMMIT), newest(ApiKey.OFFSET_FETCH)


def commit_request(
    group: str, topic: str, topic_id: bytes, offsets: dict[int, int], *, metadata: str | None = "", **fields: Any
) -> OffsetCommitRequest:
    rows = [
        OffsetCommitRequestPartition(partition_index=index, committed_offset=offset, committed_metadata=metadata)
        for index, offset in offsets.items()
    ]
    topics = [OffsetCommitRequestTopic(name=topic, topic_id=topic_id, partitions=rows)]
    return OffsetCommitRequest(group_id=group, topics=topics, **fields)


def fetch_request(
    group: str, topics: list[tuple[str, bytes, list[int]]] | None, version: int, **fields: Any
) -> OffsetFetchRequest:
    if version < 8:
        old = None if topics is None else [
            OffsetFetchRequestTopic(name=name, partition_indexes=rows) for name, _, rows in topics
        ]  # fmt: skip
        stable = {"require_stable": fields["require_stable"]} if "require_stable" in fields else {}
        return OffsetFetchRequest(group_id=group, topics=old, **stable)
    stable = {"require_stable": fields.pop("require_stable")} if "require_stable" in fields else {}
    rows = None if topics is None else [
        OffsetFetchRequestTopics(name=name, topic_id=topic_id, partition_indexes=indexes)
        for name, topic_id, indexes in topics
    ]  # fmt: skip
    return OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=rows, **fields)], **stable)


def simple_commits(wire: Wire) -> None:
    """Commits without a membership, as a consumer with assigned partitions makes them."""
    ready_coordinator(wire)
    topic_id = create_topic(wire, "committed", 3)
    for version in versions(ApiKey.OFFSET_COMMIT):
        group = f"group-simple-{version}"

        def commit(
            name: str,
            offsets: dict[int, int],
            *,
            topic: str = "committed",
            topic_id: bytes = topic_id,
            version: int = version,
            group: str = group,
            **fields: Any,
        ) -> None:
            wire.ask(name, commit_request(group, topic, topic_id, offsets, **fields), version)

        commit("two partitions", {0: 10, 1: 11})
        commit("with metadata", {2: 12}, metadata="a note")
        commit("null metadata", {0: 13}, metadata=None)
        commit("metadata of 4096 bytes", {0: 14}, metadata="x" * 4096)
        commit("metadata of 4097 bytes", {0: 15}, metadata="x" * 4097)
        commit("unknown topic", {0: 1}, topic="nowhere", topic_id=UNKNOWN_ID)
        commit("partition 9", {9: 1})
        commit("known and unknown partition", {1: 21, 9: 1})
        commit("offset -1", {0: -1})
        commit("offset -5", {0: -5})
        commit("with a member id", {0: 1}, member_id="nobody")
        commit("with a generation", {0: 1}, generation_id_or_member_epoch=3)
        commit("with both", {0: 1}, member_id="nobody", generation_id_or_member_epoch=3)
        commit("empty group", {0: 1}, group="")
        if version >= 7:
            commit("with an instance", {0: 1}, group_instance_id="one")
        wire.ask("no topics", OffsetCommitRequest(group_id=group), version)
        for read in versions(ApiKey.OFFSET_FETCH):
            if version not in (2, 6, COMMIT):
                continue
            place = [("committed", topic_id, [0, 1, 2])]
            wire.ask(f"{group}: fetched", fetch_request(group, place, read), read)


def fetches(wire: Wire) -> None:
    ready_coordinator(wire)
    topic_id = create_topic(wire, "committed", 3)
    other_id = create_topic(wire, "committed-too", 1)
    wire.ask(None, commit_request("group-fetched", "committed", topic_id, {0: 5, 1: 6}), COMMIT)
    wire.ask(None, commit_request("group-fetched", "committed-too", other_id, {0: 7}), COMMIT)
    for version in versions(ApiKey.OFFSET_FETCH):

        def fetch(
            name: str,
            topics: list[tuple[str, bytes, list[int]]] | None,
            *,
            version: int = version,
            group: str = "group-fetched",
            **fields: Any,
        ) -> None:
            wire.ask(name, fetch_request(group, topics, version, **fields), version)

        fetch("committed and not", [("committed", topic_id, [0, 1, 2])])
        fetch("partition 9", [("committed", topic_id, [9])])
        fetch("unknown topic", [("nowhere", UNKNOWN_ID, [0])])
        fetch("two topics", [("committed", topic_id, [1]), ("committed-too", other_id, [0])])
        fetch("no topics", [])
        fetch("a topic without partitions", [("committed", topic_id, [])])
        fetch("unknown group", [("committed", topic_id, [0])], group="nobody")
        fetch("empty group", [("committed", topic_id, [0])], group="")
        fetch("a partition twice", [("committed", topic_id, [0, 0])])
        if version >= 2:
            fetch("all", None)
            fetch("all of an unknown group", None, group="nobody")
        if version >= 7:
            fetch("stable", [("committed", topic_id, [0])], require_stable=True)
        if version >= 9:
            fetch("with a member", [("committed", topic_id, [0])], member_id="nobody", member_epoch=3)
            fetch("with a member of an unknown group", None, group="nobody", member_id="m", member_epoch=3)
        if version >= 8:
            groups = [OffsetFetchRequestGroup(group_id=name, topics=None) for name in ("group-fetched", "nobody", "")]
            wire.ask("three groups", OffsetFetchRequest(groups=groups), version)
            wire.ask("no groups", OffsetFetchRequest(), version)


def commits_of_members(wire: Wire) -> None:
    ready_coordinator(wire)
    topic_id = create_topic(wire, "committed", 3)
    for version in versions(ApiKey.OFFSET_COMMIT):
        group = Group(wire, f"group-members-{version}")
        joined = group.join_new("to commit", protocols=[("range", subscription("committed"))])
        generation, member = joined.generation_id, joined.member_id

        def commit(
            name: str, generation: int, member: str, *, version: int = version, group: str = group.name, **fields: Any
        ) -> None:
            message = commit_request(
                group,
                "committed",
                topic_id,
                {0: 3},
                generation_id_or_member_epoch=generation,
                member_id=member,
                **fields,
            )
            wire.ask(name, message, version)

        commit("before the assignment", generation, member)
        group.sync("to commit", generation, member, {member: b""})
        commit("stable", generation, member)
        commit("old generation", generation - 1, member)
        commit("future generation", generation + 1, member)
        commit("unknown member", generation, "nobody")
        commit("no member", generation, "")
        commit("simple, beside members", -1, "")
        commit("generation -1 with a member", -1, member)
        if version >= 7:
            commit("unknown instance", generation, member, group_instance_id="one")

        def delete(name: str, topic: str, indexes: list[int], group: str = group.name) -> None:
            rows = [OffsetDeleteRequestPartition(partition_index=index) for index in indexes]
            topics = [OffsetDeleteRequestTopic(name=topic, partitions=rows)]
            wire.ask(f"{group}: {name}", OffsetDeleteRequest(group_id=group, topics=topics), 0)

        if version == COMMIT:
            delete("a subscribed topic", "committed", [0, 1])
            delete("a topic not subscribed", "committed-too", [0])
            delete("unknown topic", "nowhere", [0])
            delete("partition 9", "committed", [9])
        group.leave("done", member)
        commit("after leaving", generation, member)
        commit("simple, after all left", -1, "")
        if version == COMMIT:
            delete("of an empty group", "committed", [0, 1])
            delete("again", "committed", [0])
            delete("of an unknown group", "committed", [0], "nobody")
            delete("of the empty name", "committed", [0], "")
            wire.ask("no topics", OffsetDeleteRequest(group_id=group.name), 0)
            place = [("committed", topic_id, [0, 1])]
            wire.ask("what is left", fetch_request(group.name, place, FETCH), FETCH)


SCENARIOS = [simple_commits, fetches, commits_of_members]
